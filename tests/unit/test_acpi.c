/*
 * The ACPI tables: checksums, pointers, what the fixed tables say, the same tables after firmware's
 * loader has run over them, and the ACPICA disassembler's opinion of each where it is installed.
 */
#include <check.h>
#include <stdio.h>
#include <sys/wait.h>

#include "devices/fw_cfg.h"
#include "fake_board.h"
#include "machine/acpi.h"
#include "run_suite.h"

static void setup(void)
{
    fake_board_init();
}

static void teardown(void)
{
    fake_board_free();
}

static uint64_t load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static uint8_t sum(const uint8_t *p, uint64_t len)
{
    uint8_t s = 0;
    while (len--)
        s += *p++;
    return s;
}

/* The table with that signature, found through the XSDT (or RSDT) as an operating system would. */
static const uint8_t *find(const uint8_t *rsdp, const char *signature, bool use_rsdt)
{
    unsigned size = use_rsdt ? 4 : 8;
    const uint8_t *root = fb.ram + load(rsdp + (use_rsdt ? 16 : 24), size);
    ck_assert_mem_eq(root, use_rsdt ? "RSDT" : "XSDT", 4);
    if (!memcmp(root, signature, 4))
        return root;
    uint32_t len = (uint32_t)load(root + 4, 4);
    for (uint32_t at = 36; at < len; at += size) {
        const uint8_t *t = fb.ram + load(root + at, size);
        if (!memcmp(t, signature, 4))
            return t;
        if (!memcmp(t, "FACP", 4) && !memcmp(signature, "DSDT", 4))
            return fb.ram + load(t + (use_rsdt ? 40 : 140), size);
        if (!memcmp(t, "FACP", 4) && !memcmp(signature, "FACS", 4))
            return fb.ram + load(t + 36, 4);
    }
    return NULL;
}

static void check_tables(const uint8_t *rsdp, unsigned n_cpus, bool hpet)
{
    static const char *const names[] = {"XSDT", "FACP", "APIC", "SSDT", "DSDT", "HPET"};
    ck_assert_mem_eq(rsdp, "RSD PTR ", 8);
    ck_assert_uint_eq(sum(rsdp, 20), 0);
    ck_assert_uint_eq(sum(rsdp, 36), 0);
    for (unsigned r = 0; r < 2; r++) {
        for (unsigned i = !!r; i < ARRAY_LEN(names) - !hpet; i++) {
            const uint8_t *t = find(rsdp, names[i], r);
            ck_assert_msg(t != NULL, "no %s", names[i]);
            ck_assert_msg(sum(t, load(t + 4, 4)) == 0, "checksum of %s", names[i]);
        }
    }
    ck_assert(hpet == !!find(rsdp, "HPET", false));
    const uint8_t *facs = find(rsdp, "FACS", false);
    ck_assert_uint_eq((uintptr_t)(facs - fb.ram) % 64, 0);
    ck_assert_uint_eq(load(facs + 4, 4), 64);

    const uint8_t *fadt = find(rsdp, "FACP", false);
    static const struct {
        const char *what;
        unsigned at, size;
        uint64_t value;
    } row[] = {
        {"SCI_INT", 46, 2, 9},
        {"SMI_CMD", 48, 4, 0},
        {"PM1a_EVT_BLK", 56, 4, 0x600},
        {"PM1a_CNT_BLK", 64, 4, 0x604},
        {"PM_TMR_BLK", 76, 4, 0x608},
        {"GPE0_BLK", 80, 4, 0x60c},
        {"PM1_EVT_LEN", 88, 1, 4},
        {"PM_TMR_LEN", 91, 1, 4},
        {"RESET_REG", 116, 4, 0x01000801},
        {"its address", 120, 8, 0xcf9},
        {"RESET_VALUE", 128, 1, 6},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++)
        ck_assert_msg(load(fadt + row[i].at, row[i].size) == row[i].value, "%s", row[i].what);
    uint32_t flags = (uint32_t)load(fadt + 112, 4);
    ck_assert(flags & 1 << 10);    /* reset register */
    ck_assert(!(flags & 1 << 4));  /* power button is fixed hardware */
    ck_assert(!(flags & 1 << 8));  /* the timer has 24 bits */
    ck_assert(!(flags & 1 << 20)); /* not hardware-reduced */
    ck_assert_uint_eq(load(fadt + 109, 2) & 3, 3);

    const uint8_t *madt = find(rsdp, "APIC", false);
    unsigned cpus = 0, ioapics = 0, overrides = 0;
    for (uint32_t at = 44; at < load(madt + 4, 4); at += madt[at + 1]) {
        ck_assert_uint_gt(madt[at + 1], 1);
        switch (madt[at]) {
        case 0:
            ck_assert_uint_eq(madt[at + 3], cpus++);
            ck_assert_uint_eq(load(madt + at + 4, 4), 1);
            break;
        case 1:
            ioapics++;
            ck_assert_uint_eq(load(madt + at + 4, 4), 0xfec00000);
            break;
        case 2:
            overrides++;
            if (madt[at + 3] == 0)
                ck_assert_uint_eq(load(madt + at + 4, 4), 2);
            else if (madt[at + 3] == 9)
                ck_assert_uint_eq(load(madt + at + 8, 2), 0x0d);
            else
                ck_abort_msg("override of IRQ %u", madt[at + 3]);
            break;
        default:
            ck_assert_uint_eq(madt[at], 4);
        }
    }
    ck_assert_uint_eq(cpus, n_cpus);
    ck_assert_uint_eq(ioapics, 1);
    ck_assert_uint_eq(overrides, 2);
}

START_TEST(in_ram)
{
    static const struct {
        unsigned cpus;
        bool hpet;
    } row[] = {{1, true}, {2, false}, {64, true}};
    AcpiConfig cfg = {.n_cpus = row[_i].cpus, .ram_low = FAKE_RAM, .hpet = row[_i].hpet};
    gpa_t rsdp = 0;
    GError *err = NULL;
    ck_assert(acpi_build(&cfg, &fb.mem, &rsdp, &err));
    ck_assert_uint_ge(rsdp, 0xe0000);
    ck_assert_uint_lt(rsdp, 0x100000);
    ck_assert_uint_eq(rsdp % 16, 0);
    check_tables(fb.ram + rsdp, row[_i].cpus, row[_i].hpet);
    /* All inside what e820 reserves. */
    gpa_t end = acpi_area(FAKE_RAM);
    ck_assert(!fb.ram[0x100000] && !memcmp(fb.ram + 0x100000, fb.ram + 0x100001, end - 0x100001));
}
END_TEST

START_TEST(refuses_what_does_not_fit)
{
    AcpiConfig cfg = {.n_cpus = 1, .ram_low = 1 << 20};
    gpa_t rsdp;
    GError *err = NULL;
    ck_assert(!acpi_build(&cfg, &fb.mem, &rsdp, &err));
    ck_assert_ptr_nonnull(strstr(err->message, "2 MiB"));
    g_clear_error(&err);
    cfg.ram_low = 2 * FAKE_RAM; /* more than the map has */
    ck_assert(!acpi_build(&cfg, &fb.mem, &rsdp, &err));
    g_clear_error(&err);
    cfg.ram_low = FAKE_RAM;
    fb.mem.slot[0].size = 0xe0000; /* shadow blocks are not RAM */
    ck_assert(!acpi_build(&cfg, &fb.mem, &rsdp, &err));
    g_clear_error(&err);
}
END_TEST

/* Reads a fw_cfg file as firmware does; returns its length. */
static uint32_t fw_cfg_file(const char *name, uint8_t *out, uint32_t max)
{
    uint8_t entry[64], count[4];
    outw(0x510, FW_CFG_FILE_DIR);
    for (unsigned i = 0; i < 4; i++)
        count[i] = inb(0x511);
    for (unsigned n = 0; n < count[3]; n++) {
        for (unsigned i = 0; i < sizeof(entry); i++)
            entry[i] = inb(0x511);
        if (strcmp((char *)entry + 8, name))
            continue;
        uint32_t len = (uint32_t)entry[1] << 16 | entry[2] << 8 | entry[3];
        ck_assert_uint_le(len, max);
        outw(0x510, (uint16_t)(entry[4] << 8 | entry[5]));
        for (uint32_t i = 0; i < len; i++)
            out[i] = inb(0x511);
        return len;
    }
    ck_abort_msg("no %s", name);
    return 0;
}

START_TEST(through_firmware)
{
    enum { TABLES = 0x200000, RSDP = 0xf5a00 };
    AcpiConfig cfg = {.n_cpus = 3, .ram_low = FAKE_RAM, .hpet = true};
    Device *d = fake_device(&device_fw_cfg);
    uint8_t script[128 * 64];
    GError *err = NULL;
    ck_assert(acpi_add_to_fw_cfg(&cfg, d, &err));
    uint32_t len = fw_cfg_file("etc/table-loader", script, sizeof(script));
    ck_assert_uint_eq(len % 128, 0);
    for (uint32_t at = 0; at < len; at += 128) {
        const uint8_t *c = script + at;
        const char *file = (const char *)c + 4;
        uint8_t *base = fb.ram + (strcmp(file, "etc/acpi/rsdp") ? TABLES : RSDP);
        switch (load(c, 4)) {
        case 1:
            (void)fw_cfg_file(file, base, 0x10000);
            ck_assert_uint_eq(c[64], base == fb.ram + RSDP ? 2 : 1);
            break;
        case 2: {
            ck_assert_str_eq((const char *)c + 60, "etc/acpi/tables");
            uint8_t *p = base + load(c + 116, 4);
            uint64_t v = load(p, c[120]) + TABLES;
            memcpy(p, &v, c[120]);
            break;
        }
        case 3: {
            uint8_t *p = base + load(c + 60, 4);
            *p -= sum(base + load(c + 64, 4), load(c + 68, 4));
            break;
        }
        default:
            ck_abort_msg("unknown command %u", c[0]);
        }
    }
    check_tables(fb.ram + RSDP, 3, true);
    device_free(d);
}
END_TEST

START_TEST(e820)
{
    static const struct {
        uint64_t low, high;
        bool acpi;
        unsigned n;
        E820Entry e[E820_MAX];
    } row[] = {
        {0x8000000,
         0,
         true,
         5,
         {
             {0, 0xa0000, E820_RAM},
             {0xa0000, 0x60000, E820_RESERVED},
             {0x100000, 0x7ef0000, E820_RAM},
             {0x7ff0000, 0x1000, E820_NVS},
             {0x7ff1000, 0xf000, E820_ACPI},
         }},
        {0xc0000000,
         0x40000000,
         false,
         4,
         {
             {0, 0xa0000, E820_RAM},
             {0xa0000, 0x60000, E820_RESERVED},
             {0x100000, 0xbff00000, E820_RAM},
             {0x100000000, 0x40000000, E820_RAM},
         }},
        {0x80000, 0, false, 1, {{0, 0x80000, E820_RAM}}},
    };
    E820Entry e[E820_MAX];
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        unsigned n = e820_build(row[i].low, row[i].high, row[i].acpi, e);
        ck_assert_uint_eq(n, row[i].n);
        ck_assert_mem_eq(e, row[i].e, n * sizeof(e[0]));
    }
}
END_TEST

/* ACPICA's disassembler accepts every table and finds nothing to complain of. */
START_TEST(iasl_accepts_them)
{
    static const char *const names[] = {"RSDT", "XSDT", "FACP", "FACS",
                                        "APIC", "SSDT", "DSDT", "HPET"};
    g_autofree char *iasl = g_find_program_in_path("iasl");
    if (!iasl) {
        printf("iasl is not installed: tables not disassembled\n");
        return;
    }
    AcpiConfig cfg = {.n_cpus = 40, .ram_low = FAKE_RAM, .hpet = true};
    g_autofree char *dir = g_dir_make_tmp("tandem-acpi-XXXXXX", NULL);
    gpa_t rsdp;
    ck_assert(acpi_build(&cfg, &fb.mem, &rsdp, NULL));
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        const uint8_t *t = find(fb.ram + rsdp, names[i], !strcmp(names[i], "RSDT"));
        g_autofree char *path = g_strdup_printf("%s/%s.dat", dir, names[i]);
        g_autofree char *dsl = g_strdup_printf("%s/%s.dsl", dir, names[i]);
        g_autofree char *out = NULL, *errors = NULL, *text = NULL;
        char *argv[] = {iasl, (char *)"-d", path, NULL};
        int status;
        ck_assert(g_file_set_contents(path, (const char *)t, (gssize)load(t + 4, 4), NULL));
        ck_assert(g_spawn_sync(NULL, argv, NULL, 0, NULL, NULL, &out, &errors, &status, NULL));
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %s%s", names[i], out,
                      errors);
        ck_assert(g_file_get_contents(dsl, &text, NULL, NULL));
        ck_assert_ptr_nonnull(strstr(text, names[i]));
        ck_assert_msg(!strstr(text, "Incorrect checksum") && !strstr(errors, "Invalid") &&
                          !strstr(errors, "rror"),
                      "%s: %s", names[i], errors);
        if (!strcmp(names[i], "SSDT"))
            ck_assert_ptr_nonnull(strstr(text, "Device (C027)"));
        remove(path);
        remove(dsl);
    }
    remove(dir);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("acpi");
    TCase *tc = tcase_create("acpi");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, in_ram, 0, 3);
    tcase_add_test(tc, refuses_what_does_not_fit);
    tcase_add_test(tc, through_firmware);
    tcase_add_test(tc, e820);
    tcase_add_test(tc, iasl_accepts_them);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
