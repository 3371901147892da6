/* Boot loaders: put a kernel into RAM and the boot vCPU's state where its boot protocol wants it.
 */
#ifndef TANDEM_MACHINE_LOADER_H
#define TANDEM_MACHINE_LOADER_H

#include <glib.h>
#include "base/memmap.h"
#include "cpu/cpu_state.h"

typedef struct BootInfo {
    const char *kernel, *initrd, *append;
    gpa_t rsdp;        /* of the ACPI tables, passed on where the protocol has a place */
    uint64_t ram_low;  /* bytes below 4 GiB */
    uint64_t ram_high; /* bytes at 4 GiB and up */
    uint32_t cpuid_signature;
} BootInfo;

/*
 * Looks at the file and loads it: bzImage (64-bit entry when the kernel has one and loadflags say
 * so, else 32-bit), multiboot 1, ELF with a PVH note, plain ELF 32/64. Files are checked before a
 * byte is written; messages name the file and what is wrong with it. *boot is the complete state at
 * entry.
 */
bool boot_load(const BootInfo *, const MemMap *, CpuState *boot, GError **);

/* MTRRs as firmware leaves them on every CPU: write-back but for 640 KiB-768 KiB. In *boot already;
 * the other CPUs of a machine without firmware need it too (INIT keeps it). */
void boot_mtrrs(CpuState *);

#endif
