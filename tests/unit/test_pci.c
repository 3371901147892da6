/* PCI configuration, BARs, interrupt routing through PIIX3, the PAM registers and port 0xcf9. */
#include <check.h>

#include "devices/i440fx.h"
#include "devices/pci.h"
#include "devices/piix3.h"
#include "fake_board.h"
#include "run_suite.h"

static Device *bridge, *isa;

static void setup(void)
{
    fake_board_init();
    bridge = fake_device(&device_i440fx);
    isa = fake_device(&device_piix3);
}

static void teardown(void)
{
    device_free(isa);
    device_free(bridge);
    ck_assert_ptr_null(fb.board.pci);
    fake_board_free();
}

static void select_config(unsigned devfn, unsigned at)
{
    outl(0xcf8, 0x80000000u | devfn << 8 | (at & 0xfc));
}

static uint32_t config_read(unsigned devfn, unsigned at)
{
    select_config(devfn, at);
    return inl(0xcfc);
}

static void config_write(unsigned devfn, unsigned at, uint32_t v)
{
    select_config(devfn, at);
    outl(0xcfc, v);
}

START_TEST(mechanism_1)
{
    /* How Linux checks for it. */
    outb(0xcfb, 1);
    outl(0xcf8, 0x80000000);
    ck_assert_uint_eq(inl(0xcf8), 0x80000000);
    ck_assert_uint_eq(inl(0xcfc), 0x12378086);
    ck_assert_uint_eq(inw(0xcfe), 0x1237);
    ck_assert_uint_eq(inb(0xcfd), 0x80);
    ck_assert_uint_eq(config_read(0, 0x08), 0x06000002);
    ck_assert_uint_eq(config_read(PCI_DEVFN(1, 0), 0), 0x70008086);
    ck_assert_uint_eq(config_read(PCI_DEVFN(1, 0), 0x0c) >> 16 & 0xff, 0x80);
    ck_assert_uint_eq(config_read(PCI_DEVFN(2, 0), 0), 0xffffffff);
    outl(0xcf8, 0x80010000); /* bus 1 */
    ck_assert_uint_eq(inl(0xcfc), 0xffffffff);
    outl(0xcf8, 0x00000000); /* not enabled */
    ck_assert_uint_eq(inl(0xcfc), 0xffffffff);
    /* Read-only stays. */
    config_write(0, 0, 0);
    config_write(0, 4, 0xffffffff);
    ck_assert_uint_eq(config_read(0, 0), 0x12378086);
    ck_assert_uint_eq(config_read(0, 4) & 0xffff, 0x0006);
}
END_TEST

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0x40 + offset;
}
static uint64_t written;
static void bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    written = value;
}
static const IoOps bar_ops = {.read = bar_read, .write = bar_write, .min = 1, .max = 4};

START_TEST(bars)
{
    static PciFunction f;
    pci_function_init(&f, "test", 0x1af4, 0x1000, 0x020000, 0, 1);
    pci_add_bar(&f, 0, PCI_BAR_IO, 0x20, &bar_ops, NULL, "io");
    pci_add_bar(&f, 1, PCI_BAR_MEM32, 0x1000, &bar_ops, NULL, "mem");
    pci_add_bar(&f, 4, PCI_BAR_MEM64, 0x4000, &bar_ops, NULL, "mem64");
    ck_assert(pci_add(fb.board.pci, &f, PCI_ANY_DEVFN, NULL));
    ck_assert_uint_eq(f.devfn, PCI_DEVFN(2, 0));

    static const struct {
        unsigned at;
        uint32_t size_answer, place, answer;
    } row[] = {
        {0x10, 0xffffffe1, 0xc000, 0xc001},
        {0x14, 0xfffff000, 0xfebf0000, 0xfebf0000},
        {0x18, 0, 0xfebf0000, 0}, /* no such BAR */
        {0x20, 0xffffc004, 0x10000, 0x10004},
        {0x24, 0xffffffff, 0x8, 0x8},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        config_write(f.devfn, row[i].at, 0xffffffff);
        ck_assert_uint_eq(config_read(f.devfn, row[i].at), row[i].size_answer);
        config_write(f.devfn, row[i].at, row[i].place);
        ck_assert_uint_eq(config_read(f.devfn, row[i].at), row[i].answer);
    }
    ck_assert_uint_eq(inb(0xc005), 0xff);
    config_write(f.devfn, 4, PCI_CMD_IO);
    ck_assert_uint_eq(inb(0xc005), 0x45);
    ck_assert_uint_eq(io_read(fb.board.mmio, 0xfebf0007, 1), 0xff);
    config_write(f.devfn, 4, PCI_CMD_IO | PCI_CMD_MEMORY);
    ck_assert_uint_eq(io_read(fb.board.mmio, 0xfebf0007, 1), 0x47);
    ck_assert_uint_eq(io_read(fb.board.mmio, 0x800010002, 1), 0x42);
    config_write(f.devfn, 0x10, 0xd000);
    ck_assert_uint_eq(inb(0xc005), 0xff);
    outl(0xd000, 77);
    ck_assert_uint_eq(written, 77);
    /* Sizing while enabled, or past the end of the space: decodes nothing, loses nothing. */
    config_write(f.devfn, 0x10, 0xffffffff);
    ck_assert_uint_eq(inb(0xd000), 0xff);
    config_write(f.devfn, 0x14, 0xfffff000);
    config_write(f.devfn, 0x24, 0xffffffff);
    config_write(f.devfn, 0x10, 0xd000);
    ck_assert_uint_eq(inb(0xd003), 0x43);
    pci_function_reset(&f);
    ck_assert_uint_eq(inb(0xd003), 0xff);
    ck_assert_uint_eq(config_read(f.devfn, 0x10), 0x1);

    GError *err = NULL;
    static PciFunction g;
    pci_function_init(&g, "other", 1, 2, 3, 4, 0);
    ck_assert(!pci_add(fb.board.pci, &g, PCI_DEVFN(2, 0), &err));
    ck_assert_ptr_nonnull(strstr(err->message, "00:02.0"));
    g_error_free(err);
    pci_remove(&f);
    ck_assert_uint_eq(config_read(PCI_DEVFN(2, 0), 0), 0xffffffff);
}
END_TEST

START_TEST(interrupts)
{
    static PciFunction f[2];
    for (unsigned i = 0; i < 2; i++) {
        pci_function_init(&f[i], "test", 0x1af4, 0x1000, 0, 0, 1);
        ck_assert(pci_add(fb.board.pci, &f[i], PCI_DEVFN(3 + 4 * i, 0), NULL)); /* both on PIRQC */
    }
    pci_set_irq(&f[0], true);
    ck_assert_uint_eq(config_read(f[0].devfn, 4) >> 16 & 8, 8);
    ck_assert(!fb.level[11]);                        /* not routed */
    config_write(PCI_DEVFN(1, 0), 0x60, 0x0b808080); /* PIRQD: not ours */
    ck_assert(!fb.level[11]);
    piix3_route_default(isa);
    ck_assert(fb.level[11] && !fb.level[10]);
    pci_set_irq(&f[1], true);
    pci_set_irq(&f[0], false);
    ck_assert(fb.level[11]); /* wired or */
    config_write(f[1].devfn, 4, PCI_CMD_INTX_OFF);
    ck_assert(!fb.level[11]);
    config_write(f[1].devfn, 4, 0);
    ck_assert(fb.level[11]);
    config_write(PCI_DEVFN(1, 0), 0x60, 0x0b050a0a); /* PIRQC to 5 */
    ck_assert(fb.level[5] && !fb.level[11]);
    config_write(PCI_DEVFN(1, 0), 0x60, 0x0b000a0a); /* to 0, which is reserved */
    ck_assert(!fb.level[5] && !fb.level[0]);
    pci_set_irq(&f[1], false);
    pci_remove(&f[0]);
    pci_remove(&f[1]);
}
END_TEST

START_TEST(pam)
{
    static const struct {
        gpa_t gpa;
        uint8_t reg, nibble;
    } row[] = {
        {0xc0000, 0x5a, 0}, {0xc4000, 0x5a, 4}, {0xcbfff, 0x5b, 0},
        {0xd0000, 0x5c, 0}, {0xdc000, 0x5d, 4}, {0xe0000, 0x5e, 0},
        {0xec000, 0x5f, 4}, {0xf0000, 0x59, 4}, {0xfffff, 0x59, 4},
    };
    bool r, w;
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        for (unsigned v = 0; v < 4; v++) {
            select_config(0, row[i].reg);
            outb((uint16_t)(0xcfc + (row[i].reg & 3)), (uint8_t)(v << row[i].nibble));
            i440fx_pam(bridge, row[i].gpa, &r, &w);
            ck_assert_msg(r == (v & 1) && w == (v >> 1), "%#x with %u", (unsigned)row[i].gpa, v);
            ck_assert_uint_eq(fb.remaps, v);
        }
        bridge->cls->reset(bridge);
        i440fx_pam(bridge, row[i].gpa, &r, &w);
        ck_assert(!r && !w);
        fb.remaps = 0;
    }
    i440fx_shadow_ram(bridge);
    for (gpa_t a = 0xc0000; a < 0x100000; a += 0x4000) {
        i440fx_pam(bridge, a, &r, &w);
        ck_assert(r && w);
    }
    i440fx_pam(bridge, 0x9ffff, &r, &w);
    ck_assert(r && w);
    ck_assert_uint_eq(fb.remaps, 0);
    /* SMRAM locks itself. */
    config_write(0, 0x70, 0x00120000);
    config_write(0, 0x70, 0x00400000);
    ck_assert_uint_eq(config_read(0, 0x70) >> 16 & 0xff, 0x12);
}
END_TEST

START_TEST(reset_control)
{
    outl(0xcf8, 0x80000000);
    outb(0xcf9, 0x02);
    ck_assert_uint_eq(inb(0xcf9), 0x02);
    ck_assert_uint_eq(fb.resets, 0);
    outb(0xcf9, 0x06);
    ck_assert_uint_eq(fb.resets, 1);
    ck_assert_uint_eq(inl(0xcf8), 0x80000000); /* the address register did not hear of it */
    outl(0xcf8, 0x8000ff00);
    ck_assert_uint_eq(fb.resets, 1);
}
END_TEST

START_TEST(hostile)
{
    uint32_t x = 7;
    for (unsigned i = 0; i < 200000; i++) {
        x = x * 1664525 + 1013904223;
        outl(0xcf8, 0x80000000u | (x >> 8 & 0xffff));
        unsigned size = 1u << (x >> 24) % 3;
        uint16_t port = (uint16_t)(0xcfc + (x >> 28 & 3));
        if (x >> 31)
            (void)io_read(fb.board.pio, port, size);
        else
            io_write(fb.board.pio, port, size, x * 2654435761u);
    }
    ck_assert_uint_eq(config_read(0, 0), 0x12378086);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pci");
    TCase *tc = tcase_create("pci");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, mechanism_1);
    tcase_add_test(tc, bars);
    tcase_add_test(tc, interrupts);
    tcase_add_test(tc, pam);
    tcase_add_test(tc, reset_control);
    tcase_add_test(tc, hostile);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
