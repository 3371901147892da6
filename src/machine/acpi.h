/*
 * ACPI tables of the pc machine (ACPI specification 6.4): RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET,
 * DSDT (from dsdt.asl) and an SSDT with the processors.
 */
#ifndef TANDEM_MACHINE_ACPI_H
#define TANDEM_MACHINE_ACPI_H

#include <glib.h>
#include "base/memmap.h"
#include "devices/bus.h"

typedef struct AcpiConfig {
    unsigned n_cpus;  /* APIC ids 0 to n_cpus - 1 */
    uint64_t ram_low; /* bytes of RAM below 4 GiB */
    bool hpet;        /* the board has one */
} AcpiConfig;

/* The top of low RAM that the tables take: first a page of NVS (FACS), then ACPI data. */
#define ACPI_AREA_SIZE 0x10000ull
#define ACPI_NVS_SIZE  0x1000ull
/* The least low RAM that has room for the tables. */
#define ACPI_RAM_MIN 0x200000ull

static inline gpa_t acpi_area(uint64_t ram_low)
{
    return (ram_low & ~0xfffull) - ACPI_AREA_SIZE;
}

/*
 * Writes the tables into RAM for a kernel started without firmware: the RSDP at 0xf0000 (the shadow
 * blocks there must be RAM), the rest at acpi_area(). The e820 map of the loader reserves them.
 */
bool acpi_build(const AcpiConfig *, const MemMap *, gpa_t *rsdp, GError **);

/* Hands the tables to firmware: etc/acpi/tables, etc/acpi/rsdp and etc/table-loader. */
bool acpi_add_to_fw_cfg(const AcpiConfig *, Device *fw_cfg, GError **);

/*
 * The e820 map of the machine, also for firmware's etc/e820: 20-byte entries (base, length, type).
 * `with_acpi` carves acpi_area() out. Returns the number of entries, at most E820_MAX.
 */
enum E820Type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };
typedef struct E820Entry {
    uint64_t base, len;
    uint32_t type;
} __attribute__((packed)) E820Entry;
#define E820_MAX 8
unsigned e820_build(uint64_t ram_low, uint64_t ram_high, bool with_acpi, E820Entry out[E820_MAX]);

#endif
