/* fw_cfg through its ports and DMA, and the small test and debug devices. */
#include <check.h>

#include "devices/debug_exit.h"
#include "devices/debugcon.h"
#include "devices/fw_cfg.h"
#include "devices/testdev.h"
#include "fake_board.h"
#include "run_suite.h"

static Device *cfg;

static void setup(void)
{
    fake_board_init();
    cfg = fake_device(&device_fw_cfg);
}

static void teardown(void)
{
    device_free(cfg);
    fake_board_free();
}

static uint64_t read_be(unsigned size)
{
    uint64_t v = 0;
    while (size--)
        v = v << 8 | inb(0x511);
    return v;
}

static void read_bytes(void *out, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((uint8_t *)out)[i] = inb(0x511);
}

START_TEST(ports)
{
    char sig[5] = {0};
    outw(0x510, FW_CFG_SIGNATURE);
    read_bytes(sig, 4);
    ck_assert_str_eq(sig, "QEMU");
    ck_assert_uint_eq(inb(0x511), 0); /* past the end */
    outw(0x510, FW_CFG_ID);
    ck_assert_uint_eq(inb(0x511), 3);
    outw(0x510, 0x1234); /* nothing there */
    ck_assert_uint_eq(inb(0x511), 0);
    fw_cfg_add_u16(cfg, FW_CFG_NB_CPUS, 0x0102);
    outw(0x510, FW_CFG_NB_CPUS);
    ck_assert_uint_eq(inb(0x511), 2);
    ck_assert_uint_eq(inb(0x511), 1);
    outb(0x511, 0x99); /* not writable */
    outw(0x510, FW_CFG_NB_CPUS);
    ck_assert_uint_eq(inb(0x511), 2);
}
END_TEST

START_TEST(directory)
{
    char name[57] = {0};
    GError *err = NULL;
    ck_assert(fw_cfg_add_file(cfg, "etc/one", "1", 1, NULL));
    ck_assert(fw_cfg_add_file(cfg, "etc/two", "22", 2, NULL));
    ck_assert(fw_cfg_add_file(cfg, "etc/one", "one", 3, NULL)); /* replaced, not doubled */
    outw(0x510, FW_CFG_FILE_DIR);
    ck_assert_uint_eq(read_be(4), 2);
    ck_assert_uint_eq(read_be(4), 3);
    unsigned key = (unsigned)read_be(2);
    (void)read_be(2);
    read_bytes(name, 56);
    ck_assert_str_eq(name, "etc/one");
    outw(0x510, (uint16_t)key);
    ck_assert_uint_eq(read_be(3), 'o' << 16 | 'n' << 8 | 'e');
    ck_assert(!fw_cfg_add_file(cfg, "this name is one byte longer than the fifty-five allowed", "",
                               0, &err));
    g_clear_error(&err);
    for (unsigned i = 2; i < FW_CFG_FILES_MAX; i++) {
        g_snprintf(name, sizeof(name), "f%u", i);
        ck_assert(fw_cfg_add_file(cfg, name, &i, sizeof(i), NULL));
    }
    ck_assert(!fw_cfg_add_file(cfg, "one too many", "", 0, &err));
    ck_assert_ptr_nonnull(strstr(err->message, "full"));
    g_clear_error(&err);
}
END_TEST

enum { READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };
#define DESCRIPTOR 0x1000

static void be(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * (size - 1 - i));
}

/* Runs a transfer with its descriptor at `at`; returns the control word as left by the device. */
static uint32_t dma_at(gpa_t at, uint32_t control, uint32_t len, gpa_t to)
{
    if (at <= FAKE_RAM - 16) {
        be(fb.ram + at, control, 4);
        be(fb.ram + at + 4, len, 4);
        be(fb.ram + at + 8, to, 8);
    }
    outl(0x514, GUINT32_TO_BE((uint32_t)(at >> 32)));
    outl(0x518, GUINT32_TO_BE((uint32_t)at));
    if (at > FAKE_RAM - 16)
        return 0xdead;
    return (uint32_t)fb.ram[at] << 24 | fb.ram[at + 1] << 16 | fb.ram[at + 2] << 8 | fb.ram[at + 3];
}

static uint32_t dma(uint32_t control, uint32_t len, gpa_t to)
{
    return dma_at(DESCRIPTOR, control, len, to);
}

START_TEST(dma_transfers)
{
    ck_assert_uint_eq(inl(0x514), 0x554d4551); /* "QEMU CFG" */
    ck_assert_uint_eq(inl(0x518), 0x47464320);
    fw_cfg_add_bytes(cfg, 0x77, "0123456789", 10);
    memset(fb.ram + 0x2000, 0xee, 32);
    ck_assert_uint_eq(dma(0x77 << 16 | SELECT | READ, 4, 0x2000), 0);
    ck_assert_mem_eq(fb.ram + 0x2000, "0123\xee", 5);
    ck_assert_uint_gt(fb.dma, 0);
    ck_assert_uint_eq(dma(SKIP, 2, 0), 0);
    ck_assert_uint_eq(dma(READ, 8, 0x2000), 0); /* 4 bytes left, then zeros */
    ck_assert_mem_eq(fb.ram + 0x2000, "6789\0\0\0\0\xee", 9);
    ck_assert_uint_eq(dma(0x77 << 16 | SELECT, 0, 0), 0);
    ck_assert_uint_eq(inb(0x511), '0');
}
END_TEST

START_TEST(dma_is_checked_against_ram)
{
    static const struct {
        uint32_t control, len;
        gpa_t to;
        uint32_t result;
    } row[] = {
        {READ, 16, FAKE_RAM - 16, 0},   {READ, 17, FAKE_RAM - 16, 1},
        {READ, 1, FAKE_RAM, 1},         {READ, 1, UINT64_MAX, 1},
        {READ, UINT32_MAX, 0x10000, 1}, {READ, UINT32_MAX, UINT64_MAX - 5, 1},
        {READ, 0, UINT64_MAX, 0},       {WRITE, 4, 0x2000, 1}, /* nothing is writable */
        {SKIP, UINT32_MAX, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++)
        ck_assert_msg(dma(row[i].control, row[i].len, row[i].to) == row[i].result, "row %u", i);
    for (unsigned i = 0; i < 100; i++)
        dma(SKIP, UINT32_MAX, 0);
    ck_assert_uint_eq(inb(0x511), 0);
    /* The descriptor itself, across the end of RAM and nowhere. */
    dma_at(FAKE_RAM - 8, READ, 4, 0);
    dma_at(0xffffffffffffffff, READ, 4, 0);
    /* Half-words and bytes start nothing. */
    fb.dma = 0;
    outb(0x51b, 1);
    outw(0x51a, 1);
    ck_assert_uint_eq(fb.dma, 0);
}
END_TEST

START_TEST(debug_exit)
{
    static const struct {
        const char *key, *value;
        uint16_t port;
    } row[] = {{"iobase", "0xf4", 0xf4}, {"iobase", "244", 0xf4}, {"iosize", "4", 0x501}};
    static const char *const bad[][2] = {{"iobase", "65536"},
                                         {"iobase", "f4"},
                                         {"iobase", ""},
                                         {"iobase", "-1"},
                                         {"iosize", "0x10000"}};
    GHashTable *props = g_hash_table_new(g_str_hash, g_str_equal);
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        GError *err = NULL;
        g_hash_table_insert(props, (char *)row[i].key, (char *)row[i].value);
        Device *d = device_new(&device_debug_exit, &fb.board, props, &err);
        g_assert_no_error(err);
        ck_assert_uint_eq(g_hash_table_size(props), 0);
        outl(row[i].port, 0x10);
        ck_assert_int_eq(fb.exit_status, 0x21);
        outb(row[i].port, 0);
        ck_assert_int_eq(fb.exit_status, 1);
        device_free(d);
    }
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        GError *err = NULL;
        g_hash_table_insert(props, (char *)bad[i][0], (char *)bad[i][1]);
        ck_assert_ptr_null(device_new(&device_debug_exit, &fb.board, props, &err));
        ck_assert_ptr_nonnull(strstr(err->message, bad[i][0]));
        g_error_free(err);
        g_hash_table_remove_all(props);
    }
    g_hash_table_unref(props);
}
END_TEST

START_TEST(test_device)
{
    Device *d = fake_device(&device_testdev);
    outl(0xe0, 0x12345678);
    ck_assert_uint_eq(inl(0xe0), 0x12345678);
    ck_assert_uint_eq(inb(0xe1), 0x56);
    ck_assert_uint_eq(inl(0xe8), 0x12345678);
    outb(0xea, 0xff);
    ck_assert_uint_eq(inl(0xe0), 0x12ff5678);
    outb(0x2000 + 14, 1);
    ck_assert(fb.level[14]);
    outb(0x2000 + 14, 0);
    ck_assert(!fb.level[14]);
    outb(0x2000 + 23, 1);
    ck_assert(fb.level[23]);
    io_write(fb.board.mmio, 0xff00fff8, 8, 0x1122334455667788);
    ck_assert(io_read(fb.board.mmio, 0xff00fff8, 8) == 0x1122334455667788);
    outl(0xe4, 0x3000);
    ck_assert_uint_eq(fb.dma, 1);
    outl(0xe4, 0xfffff000);
    ck_assert_uint_eq(fb.dma, 1);
    device_free(d);
}
END_TEST

static void console_write(void *opaque, const void *buf, size_t len)
{
    g_string_append_len(opaque, buf, (gssize)len);
}

START_TEST(debug_console)
{
    GString *out = g_string_new(NULL);
    Device *d = fake_device(&device_debugcon);
    outb(0xe9, 'x');
    debugcon_connect(d, console_write, out);
    outb(0xe9, 'a');
    outb(0x402, 'b');
    ck_assert_str_eq(out->str, "ab");
    ck_assert_uint_eq(inb(0xe9), 0xe9);
    ck_assert_uint_eq(inb(0x402), 0xe9);
    device_free(d);
    g_string_free(out, TRUE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fw_cfg");
    TCase *tc = tcase_create("fw_cfg");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, ports);
    tcase_add_test(tc, directory);
    tcase_add_test(tc, dma_transfers);
    tcase_add_test(tc, dma_is_checked_against_ram);
    tcase_add_test(tc, debug_exit);
    tcase_add_test(tc, test_device);
    tcase_add_test(tc, debug_console);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
