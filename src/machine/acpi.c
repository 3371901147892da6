/*
 * All tables are made in one blob with offsets for addresses. Every address field is a Pointer and
 * every checksum a Sum; then either this file applies them (kernel without firmware) or firmware
 * does, told through etc/table-loader, because only it knows where the blob will lie.
 */
#include "machine/acpi.h"

#include <string.h>

#include "base/log.h"
#include "devices/fw_cfg.h"
#include "devices/piix4_pm.h"
#include "dsdt.hex"

#define RSDP_ADDR   0xf0000
#define LAPIC_BASE  0xfee00000u
#define IOAPIC_BASE 0xfec00000u
#define HPET_BASE   0xfed00000u
#define HPET_ID     0x8086a201u /* low half of the HPET's capability register */

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE   "etc/acpi/rsdp"

enum { RSDP_LEN = 36, HEADER_LEN = 36, FADT_LEN = 244, FACS_LEN = 64 };

/* A field of the blob or of the RSDP that holds the address of `target` in the blob. */
typedef struct Pointer {
    bool in_rsdp;
    uint8_t size; /* 4 or 8 */
    uint32_t at, target;
} Pointer;

/* The byte at `at` makes len bytes from start add up to 0. */
typedef struct Sum {
    bool in_rsdp;
    uint32_t at, start, len;
} Sum;

#define MAX_POINTERS 24
#define MAX_SUMS     12

typedef struct Tables {
    GByteArray *blob;
    uint8_t rsdp[RSDP_LEN];
    Pointer pointer[MAX_POINTERS];
    Sum sum[MAX_SUMS];
    unsigned n_pointers, n_sums;
} Tables;

static void store(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void put(GByteArray *b, uint64_t v, unsigned size)
{
    uint8_t bytes[8];
    store(bytes, v, size);
    g_byte_array_append(b, bytes, size);
}

static void add_pointer(Tables *t, bool in_rsdp, uint32_t at, unsigned size, uint32_t target)
{
    g_assert(t->n_pointers < MAX_POINTERS);
    t->pointer[t->n_pointers++] = (Pointer){in_rsdp, (uint8_t)size, at, target};
    store((in_rsdp ? t->rsdp : t->blob->data) + at, target, size);
}

static void add_sum(Tables *t, bool in_rsdp, uint32_t at, uint32_t start, uint32_t len)
{
    g_assert(t->n_sums < MAX_SUMS);
    t->sum[t->n_sums++] = (Sum){in_rsdp, at, start, len};
}

/* Starts a table at a multiple of 16 and returns its offset; length and checksum come with
 * table_end(). */
static uint32_t table_begin(Tables *t, const char *signature, uint8_t revision)
{
    static const uint8_t zeros[16];
    g_byte_array_append(t->blob, zeros, -t->blob->len & 15);
    uint32_t at = t->blob->len;
    g_byte_array_append(t->blob, (const uint8_t *)signature, 4);
    put(t->blob, 0, 4);
    put(t->blob, revision, 1);
    put(t->blob, 0, 1);
    g_byte_array_append(t->blob, (const uint8_t *)"TANDEMPC      ", 14);
    put(t->blob, 1, 4);
    g_byte_array_append(t->blob, (const uint8_t *)"TNDM", 4);
    put(t->blob, 1, 4);
    return at;
}

static void table_end(Tables *t, uint32_t at)
{
    uint32_t len = t->blob->len - at;
    store(t->blob->data + at + 4, len, 4);
    add_sum(t, false, at + 9, at, len);
}

/* Generic address structure in port space (ACPI 6.4, 5.2.3.2). */
static void put_port(uint8_t *p, uint16_t port, unsigned bytes)
{
    p[0] = 1;
    p[1] = (uint8_t)(bytes * 8);
    p[2] = 0;
    p[3] = bytes == 1 ? 1 : bytes == 2 ? 2 : 3;
    store(p + 4, port, 8);
}

static void make_facs(Tables *t)
{
    uint8_t facs[ACPI_NVS_SIZE] = "FACS"; /* the rest of the page is NVS too */
    store(facs + 4, FACS_LEN, 4);
    facs[32] = 1;
    g_byte_array_append(t->blob, facs, sizeof(facs));
}

/* ACPI 6.4, 5.2.9; revision 3 (ACPI 2.0), which has the reset register and the 64-bit fields. */
static uint32_t make_fadt(Tables *t, uint32_t dsdt)
{
    uint8_t f[FADT_LEN] = {0};
    enum { PM_PROFILE_DESKTOP = 1 };
    enum { BOOT_LEGACY = 1 << 0, BOOT_8042 = 1 << 1, BOOT_NO_VGA = 1 << 2 };
    enum { WBINVD = 1 << 0, PROC_C1 = 1 << 2, NO_SLEEP_BUTTON = 1 << 5, NO_FIXED_RTC = 1 << 6 };
    enum { RESET_REG = 1 << 10 };

    f[45] = PM_PROFILE_DESKTOP;
    store(f + 46, PM_SCI_IRQ, 2);
    /* SMI_CMD, ACPI_ENABLE and ACPI_DISABLE stay 0: the hardware is always in ACPI mode. */
    store(f + 56, PIIX4_PM_BASE + PM_OFF_STS, 4);
    store(f + 64, PIIX4_PM_BASE + PM_OFF_CNT, 4);
    store(f + 76, PIIX4_PM_BASE + PM_OFF_TMR, 4);
    store(f + 80, PIIX4_PM_BASE + PM_OFF_GPE0, 4);
    f[88] = 4;
    f[89] = 2;
    f[91] = 4;
    f[92] = 4;
    store(f + 96, 0xfff, 2); /* C2 and C3 latencies: not supported */
    store(f + 98, 0xfff, 2);
    f[108] = 0x32; /* century in the RTC's memory */
    store(f + 109, BOOT_LEGACY | BOOT_8042 | BOOT_NO_VGA, 2);
    store(f + 112, WBINVD | PROC_C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | RESET_REG, 4);
    put_port(f + 116, 0xcf9, 1);
    f[128] = 0x06;
    put_port(f + 148, PIIX4_PM_BASE + PM_OFF_STS, 4);
    put_port(f + 172, PIIX4_PM_BASE + PM_OFF_CNT, 2);
    put_port(f + 208, PIIX4_PM_BASE + PM_OFF_TMR, 4);
    put_port(f + 220, PIIX4_PM_BASE + PM_OFF_GPE0, 4);

    uint32_t at = table_begin(t, "FACP", 3);
    g_byte_array_append(t->blob, f + HEADER_LEN, FADT_LEN - HEADER_LEN);
    add_pointer(t, false, at + 36, 4, 0); /* FACS, at the start of the blob */
    add_pointer(t, false, at + 40, 4, dsdt);
    add_pointer(t, false, at + 140, 8, dsdt);
    table_end(t, at);
    return at;
}

static void put_override(GByteArray *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    put(b, 2, 1);
    put(b, 10, 1);
    put(b, 0, 1); /* ISA */
    put(b, irq, 1);
    put(b, gsi, 4);
    put(b, flags, 2);
}

/* ACPI 6.4, 5.2.12 */
static uint32_t make_madt(Tables *t, const AcpiConfig *cfg)
{
    enum { LEVEL_HIGH = 0x0d };
    uint32_t at = table_begin(t, "APIC", 1);
    put(t->blob, LAPIC_BASE, 4);
    put(t->blob, 1, 4); /* two 8259 are there too */
    for (unsigned i = 0; i < cfg->n_cpus; i++) {
        put(t->blob, 0, 1);
        put(t->blob, 8, 1);
        put(t->blob, i, 1);
        put(t->blob, i, 1);
        put(t->blob, 1, 4);
    }
    put(t->blob, 1, 1); /* IOAPIC 0, inputs from GSI 0 */
    put(t->blob, 12, 1);
    put(t->blob, 0, 1);
    put(t->blob, 0, 1);
    put(t->blob, IOAPIC_BASE, 4);
    put(t->blob, 0, 4);
    put_override(t->blob, 0, 2, 0);
    put_override(t->blob, PM_SCI_IRQ, PM_SCI_IRQ, LEVEL_HIGH);
    put(t->blob, 4, 1); /* NMI on LINT1 of every CPU */
    put(t->blob, 6, 1);
    put(t->blob, 0xff, 1);
    put(t->blob, 0, 2);
    put(t->blob, 1, 1);
    table_end(t, at);
    return at;
}

/* IA-PC HPET specification 1.0a, 3.2.4 */
static uint32_t make_hpet(Tables *t)
{
    uint32_t at = table_begin(t, "HPET", 1);
    put(t->blob, HPET_ID, 4);
    put(t->blob, 0, 1); /* memory space */
    put(t->blob, 0, 3);
    put(t->blob, HPET_BASE, 8);
    put(t->blob, 0, 1);
    put(t->blob, 100, 2); /* smallest period in ticks without lost interrupts */
    put(t->blob, 0, 1);
    table_end(t, at);
    return at;
}

/* PkgLength of what has `len` bytes without it (ACPI 6.4, 20.2.4); always the two-byte form. */
static void put_pkg_length(GByteArray *b, uint32_t len)
{
    len += 2;
    put(b, 0x40 | (len & 15), 1);
    put(b, len >> 4, 1);
}

/* Scope(\_SB) { Device(Cxxx) { Name(_HID, "ACPI0007") Name(_UID, n) } ... }, in AML. */
static uint32_t make_ssdt(Tables *t, const AcpiConfig *cfg)
{
    enum { DEVICE_BODY = 4 + 1 + 4 + 1 + 9 + 1 + 4 + 2, DEVICE_LEN = 2 + 2 + DEVICE_BODY };
    uint32_t at = table_begin(t, "SSDT", 2);
    GByteArray *b = t->blob;
    put(b, 0x10, 1);
    put_pkg_length(b, 5 + cfg->n_cpus * DEVICE_LEN);
    g_byte_array_append(b, (const uint8_t *)"\\_SB_", 5);
    for (unsigned i = 0; i < cfg->n_cpus; i++) {
        char name[5];
        g_snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        put(b, 0x5b, 1);
        put(b, 0x82, 1);
        put_pkg_length(b, DEVICE_BODY);
        g_byte_array_append(b, (const uint8_t *)name, 4);
        g_byte_array_append(b,
                            (const uint8_t *)"\x08_HID\x0d"
                                             "ACPI0007",
                            15);
        g_byte_array_append(b, (const uint8_t *)"\x08_UID\x0a", 6);
        put(b, i, 1);
    }
    table_end(t, at);
    return at;
}

static void make_all(Tables *t, const AcpiConfig *cfg)
{
    uint32_t table[5], n = 0;

    memset(t, 0, sizeof(*t));
    t->blob = g_byte_array_new();
    make_facs(t);
    uint32_t dsdt = t->blob->len;
    g_byte_array_append(t->blob, dsdt_aml_code, sizeof(dsdt_aml_code));
    add_sum(t, false, dsdt + 9, dsdt, sizeof(dsdt_aml_code));
    table[n++] = make_fadt(t, dsdt);
    table[n++] = make_madt(t, cfg);
    table[n++] = make_ssdt(t, cfg);
    if (cfg->hpet)
        table[n++] = make_hpet(t);

    uint32_t root[2]; /* RSDT and XSDT */
    for (unsigned r = 0; r < 2; r++) {
        unsigned size = r ? 8 : 4;
        root[r] = table_begin(t, r ? "XSDT" : "RSDT", 1);
        for (unsigned i = 0; i < n; i++) {
            put(t->blob, 0, size);
            add_pointer(t, false, t->blob->len - size, size, table[i]);
        }
        table_end(t, root[r]);
    }
    memcpy(t->rsdp, "RSD PTR \0TANDEM\2", 16);
    store(t->rsdp + 20, RSDP_LEN, 4);
    add_pointer(t, true, 16, 4, root[0]);
    add_pointer(t, true, 24, 8, root[1]);
    add_sum(t, true, 8, 0, 20);
    add_sum(t, true, 32, 0, RSDP_LEN);
}

bool acpi_build(const AcpiConfig *cfg, const MemMap *map, gpa_t *rsdp, GError **err)
{
    Tables t;
    if (cfg->ram_low < ACPI_RAM_MIN) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "ACPI tables need at least %u MiB of RAM",
                    (unsigned)(ACPI_RAM_MIN >> 20));
        return false;
    }
    gpa_t base = acpi_area(cfg->ram_low);
    make_all(&t, cfg);
    for (unsigned i = 0; i < t.n_pointers; i++) {
        const Pointer *p = &t.pointer[i];
        store((p->in_rsdp ? t.rsdp : t.blob->data) + p->at, base + p->target, p->size);
    }
    for (unsigned i = 0; i < t.n_sums; i++) {
        const Sum *s = &t.sum[i];
        uint8_t *bytes = s->in_rsdp ? t.rsdp : t.blob->data, sum = 0;
        bytes[s->at] = 0;
        for (uint32_t k = 0; k < s->len; k++)
            sum += bytes[s->start + k];
        bytes[s->at] = (uint8_t)-sum;
    }
    bool ok = t.blob->len <= ACPI_AREA_SIZE && memmap_write(map, base, t.blob->data, t.blob->len) &&
              memmap_write(map, RSDP_ADDR, t.rsdp, RSDP_LEN);
    if (!ok)
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "the ACPI tables do not fit: no RAM at %#x or at %#" G_GINT64_MODIFIER "x",
                    RSDP_ADDR, base);
    g_byte_array_unref(t.blob);
    *rsdp = RSDP_ADDR;
    return ok;
}

/* One 128-byte command of etc/table-loader; the layouts are in QEMU's bios-linker-loader. */
static uint8_t *command(GByteArray *b, uint32_t op, const char *file)
{
    uint32_t at = b->len;
    g_byte_array_set_size(b, at + 128);
    uint8_t *c = b->data + at;
    memset(c, 0, 128);
    store(c, op, 4);
    g_strlcpy((char *)c + 4, file, 56);
    return c;
}

bool acpi_add_to_fw_cfg(const AcpiConfig *cfg, Device *fw_cfg, GError **err)
{
    enum { ALLOCATE = 1, ADD_POINTER = 2, ADD_CHECKSUM = 3 };
    enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };
    Tables t;
    GByteArray *script = g_byte_array_new();

    make_all(&t, cfg);
    uint8_t *c = command(script, ALLOCATE, RSDP_FILE);
    store(c + 60, 16, 4);
    c[64] = ZONE_FSEG;
    c = command(script, ALLOCATE, TABLES_FILE);
    store(c + 60, 4096, 4);
    c[64] = ZONE_HIGH;
    for (unsigned i = 0; i < t.n_pointers; i++) {
        const Pointer *p = &t.pointer[i];
        c = command(script, ADD_POINTER, p->in_rsdp ? RSDP_FILE : TABLES_FILE);
        g_strlcpy((char *)c + 60, TABLES_FILE, 56);
        store(c + 116, p->at, 4);
        c[120] = p->size;
    }
    for (unsigned i = 0; i < t.n_sums; i++) {
        const Sum *s = &t.sum[i];
        (s->in_rsdp ? t.rsdp : t.blob->data)[s->at] = 0; /* the loader adds to what is there */
        c = command(script, ADD_CHECKSUM, s->in_rsdp ? RSDP_FILE : TABLES_FILE);
        store(c + 60, s->at, 4);
        store(c + 64, s->start, 4);
        store(c + 68, s->len, 4);
    }
    bool ok = fw_cfg_add_file(fw_cfg, RSDP_FILE, t.rsdp, RSDP_LEN, err) &&
              fw_cfg_add_file(fw_cfg, TABLES_FILE, t.blob->data, t.blob->len, err) &&
              fw_cfg_add_file(fw_cfg, "etc/table-loader", script->data, script->len, err);
    g_byte_array_unref(t.blob);
    g_byte_array_unref(script);
    return ok;
}

unsigned e820_build(uint64_t ram_low, uint64_t ram_high, bool with_acpi, E820Entry out[E820_MAX])
{
    unsigned n = 0;
    uint64_t top = with_acpi ? acpi_area(ram_low) : ram_low;
    out[n++] = (E820Entry){0, MIN_OF(ram_low, 0xa0000), E820_RAM};
    if (ram_low > 0x100000) {
        out[n++] = (E820Entry){0xa0000, 0x60000, E820_RESERVED};
        out[n++] = (E820Entry){0x100000, top - 0x100000, E820_RAM};
    }
    if (with_acpi) {
        out[n++] = (E820Entry){top, ACPI_NVS_SIZE, E820_NVS};
        out[n++] = (E820Entry){top + ACPI_NVS_SIZE, ram_low - top - ACPI_NVS_SIZE, E820_ACPI};
    }
    if (ram_high)
        out[n++] = (E820Entry){0x100000000, ram_high, E820_RAM};
    return n;
}
