/* Shared by the boot loaders: the files, where things go in low memory, and states at entry. */
#ifndef TANDEM_MACHINE_LOADER_PRIV_H
#define TANDEM_MACHINE_LOADER_PRIV_H

#include "machine/acpi.h"
#include "machine/loader.h"

/*
 * What the loader itself puts into RAM. The place is one that kernels neither load at nor use
 * before they have taken over what is in it.
 */
enum {
    BOOT_DATA = 0x70000, /* GDT */
    BOOT_PML4 = 0x71000, /* then PDPT and four page directories: 4 GiB one to one */
    BOOT_PDPT = 0x72000,
    BOOT_PD = 0x73000,
    BOOT_PARAMS = 0x77000, /* Linux's zero page */
    BOOT_INFO = 0x78000,   /* multiboot or PVH information, with its maps */
    BOOT_SEED = BOOT_INFO, /* Linux's: there is none of the other then */
    BOOT_CMDLINE = 0x79000,
    BOOT_DATA_END = 0x90000,
    BOOT_CMDLINE_MAX = BOOT_DATA_END - BOOT_CMDLINE - 1,

    BOOT_CS = 0x10,
    BOOT_DS = 0x18,
};

typedef struct Image {
    const char *path;
    uint8_t *data; /* its mapping, to be read */
    uint64_t size;
} Image;

typedef struct Loader {
    const BootInfo *info;
    const MemMap *map;
    CpuState *boot;
    Image kernel, initrd; /* initrd.path NULL: none */
    const char *cmdline;  /* never NULL */
    gpa_t top;            /* end of low RAM that a kernel and initrd may use */
} Loader;

/* What a file says it is, before anything about it is believed. */
bool is_bzimage(const Image *);
bool is_multiboot(const Image *);
bool is_elf(const Image *);

bool load_bzimage(Loader *, GError **);
bool load_multiboot(Loader *, GError **);
bool load_elf(Loader *, GError **);

static inline uint16_t le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t le32(const uint8_t *p)
{
    return le16(p) | (uint32_t)le16(p + 2) << 16;
}

static inline uint64_t le64(const uint8_t *p)
{
    return le32(p) | (uint64_t)le32(p + 4) << 32;
}

static inline void put_le(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* "kernel 'PATH': ..." with code ERR_USAGE; returns false. */
bool kernel_error(const Loader *, GError **, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* Every byte of the range is writable RAM (an empty range always is). */
bool is_ram(const MemMap *, gpa_t, uint64_t len);
/* What must be below l->top and clear of the boot data; names it in the error. */
bool check_place(const Loader *, const char *what, gpa_t, uint64_t len, GError **);
/* After check_place() or for the boot data: cannot fail. */
void put_ram(const MemMap *, gpa_t, const void *data, uint64_t len);
void clear_ram(const MemMap *, gpa_t, uint64_t len);
/* As high as possible, page aligned, not below kernel_end, last byte at most max. */
bool place_initrd(const Loader *, gpa_t kernel_end, uint64_t max, gpa_t *at, GError **);
bool check_cmdline(const Loader *, uint64_t max, GError **);

/* Loads an ELF's segments; *entry is physical, *end the end of the highest segment. */
typedef struct ElfInfo {
    bool is64;
    gpa_t entry, end;
    bool has_pvh;
    gpa_t pvh_entry;
} ElfInfo;
bool elf_check(const Loader *, ElfInfo *, GError **);
void elf_put(const Loader *);

/*
 * Flat segments from a GDT at BOOT_DATA, interrupts off, A20 open. 32-bit: protected mode without
 * paging. 64-bit: long mode, the low 4 GiB mapped one to one. Other registers are 0.
 */
void enter_flat32(Loader *, gpa_t entry);
void enter_long(Loader *, gpa_t entry);

/* Linux's boot_params at BOOT_PARAMS: header (may be NULL) copied from setup_header, memory map,
 * ACPI, initrd, cmdline. */
void put_boot_params(const Loader *, const uint8_t *header, unsigned header_len, gpa_t initrd);

#endif
