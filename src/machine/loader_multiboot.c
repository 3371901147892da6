/* Multiboot Specification 0.6.96. */
#include "machine/loader_priv.h"

#include <string.h>

#include "base/log.h"

enum {
    MB_SEARCH = 8192, /* the header is in these first bytes, 4-aligned */
    MB_MAGIC = 0x1badb002,
    MB_BOOTED = 0x2badb002,

    MB_PAGE_ALIGN = 1 << 0,
    MB_MEMORY_INFO = 1 << 1,
    MB_VIDEO = 1 << 2,
    MB_MUST_KNOW = 0xffff, /* flags a loader has to know or refuse */
    MB_ADDRESSES = 1 << 16,

    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MEMORY_MAP = 1 << 6,
    INFO_LOADER_NAME = 1 << 9,
};

/* Offset of the header, or -1. */
static int64_t find_header(const Image *k)
{
    for (uint64_t at = 0; at + 12 <= MIN_OF(k->size, MB_SEARCH); at += 4) {
        const uint8_t *p = k->data + at;
        if (le32(p) == MB_MAGIC && le32(p) + le32(p + 4) + le32(p + 8) == 0)
            return (int64_t)at;
    }
    return -1;
}

bool is_multiboot(const Image *k)
{
    return find_header(k) >= 0;
}

typedef struct Flat {
    uint64_t offset;
    gpa_t load, entry, end;
    uint64_t len;
} Flat;

/* The address fields of a kernel that is not ELF: a piece of the file goes to one place. */
static bool check_addresses(const Loader *l, uint64_t header_at, Flat *f, GError **err)
{
    const Image *k = &l->kernel;
    const uint8_t *h = k->data + header_at;
    if (k->size - header_at < 32)
        return kernel_error(l, err, "truncated: it ends inside its multiboot header");
    uint64_t header = le32(h + 12), load = le32(h + 16), load_end = le32(h + 20),
             bss_end = le32(h + 24);
    if (load > header || header - load > header_at)
        return kernel_error(l, err,
                            "its multiboot load address %#" G_GINT64_MODIFIER
                            "x would lie before the start of the file",
                            load);
    f->offset = header_at - (header - load);
    f->load = load;
    f->len = load_end ? load_end - load : k->size - f->offset;
    f->entry = le32(h + 28);
    if (load_end && load_end < load)
        return kernel_error(l, err, "its multiboot load end lies before its load address");
    if (f->len > k->size - f->offset)
        return kernel_error(l, err,
                            "truncated: its multiboot header loads %" G_GUINT64_FORMAT
                            " bytes, the file has %" G_GUINT64_FORMAT,
                            f->len, k->size - f->offset);
    f->end = f->load + f->len;
    if (bss_end && bss_end < f->end)
        return kernel_error(l, err, "its multiboot BSS ends before its code does");
    f->end = MAX_OF(f->end, bss_end);
    if (f->end == f->load)
        return kernel_error(l, err, "multiboot kernel without anything to load");
    if (f->entry < f->load || f->entry >= f->end)
        return kernel_error(
            l, err, "its multiboot entry point %#" G_GINT64_MODIFIER "x is not in it", f->entry);
    return check_place(l, "its multiboot image", f->load, f->end - f->load, err);
}

static void put_info(const Loader *l, const char *cmdline, gpa_t module, const char *name)
{
    enum { INFO_LEN = 116, MODULE_LEN = 16, MAP_ENTRY_LEN = 24, MODULE_AT = 128, MAP_AT = 160 };
    enum { NAME_AT = MAP_AT + E820_MAX * MAP_ENTRY_LEN };
    uint8_t b[NAME_AT + 16] = {0};
    E820Entry e820[E820_MAX];
    uint32_t flags = INFO_MEMORY | INFO_CMDLINE | INFO_MEMORY_MAP | INFO_LOADER_NAME;
    unsigned n = e820_build(l->info->ram_low, l->info->ram_high, l->info->rsdp != 0, e820);
    uint64_t cmdline_len = strlen(cmdline) + 1;

    put_le(b + 4, 640, 4);
    put_le(b + 8, (l->top - 0x100000) >> 10, 4);
    put_le(b + 16, BOOT_CMDLINE, 4);
    if (l->initrd.path) {
        flags |= INFO_MODULES;
        put_le(b + 20, 1, 4);
        put_le(b + 24, BOOT_INFO + MODULE_AT, 4);
        put_le(b + MODULE_AT, module, 4);
        put_le(b + MODULE_AT + 4, module + l->initrd.size, 4);
        put_le(b + MODULE_AT + 8, BOOT_CMDLINE + cmdline_len, 4);
        put_ram(l->map, BOOT_CMDLINE + cmdline_len, name, strlen(name) + 1);
        put_ram(l->map, module, l->initrd.data, l->initrd.size);
    }
    put_le(b, flags, 4);
    put_le(b + 44, n * MAP_ENTRY_LEN, 4);
    put_le(b + 48, BOOT_INFO + MAP_AT, 4);
    for (unsigned i = 0; i < n; i++) {
        uint8_t *m = b + MAP_AT + i * MAP_ENTRY_LEN;
        put_le(m, MAP_ENTRY_LEN - 4, 4); /* the size does not count itself */
        put_le(m + 4, e820[i].base, 8);
        put_le(m + 12, e820[i].len, 8);
        put_le(m + 20, e820[i].type, 4);
    }
    put_le(b + 64, BOOT_INFO + NAME_AT, 4);
    memcpy(b + NAME_AT, "tandem", 7);
    put_ram(l->map, BOOT_INFO, b, sizeof(b));
    put_ram(l->map, BOOT_CMDLINE, cmdline, cmdline_len);
}

bool load_multiboot(Loader *l, GError **err)
{
    uint64_t at = (uint64_t)find_header(&l->kernel);
    uint32_t flags = le32(l->kernel.data + at + 4);
    uint32_t unknown = flags & MB_MUST_KNOW & ~(MB_PAGE_ALIGN | MB_MEMORY_INFO);
    Flat flat = {0};
    ElfInfo elf = {0};
    gpa_t initrd, end, entry;

    if (unknown & MB_VIDEO)
        return kernel_error(l, err,
                            "its multiboot header demands a video mode; there is no display");
    if (unknown)
        return kernel_error(l, err, "its multiboot header demands unknown features (flags %#x)",
                            unknown);
    /* Address fields, where the header has them, come before the file's own format (3.1.3). */
    bool use_elf = !(flags & MB_ADDRESSES);
    if (use_elf) {
        if (!is_elf(&l->kernel))
            return kernel_error(l, err,
                                "a multiboot header without addresses, and no ELF file around it");
        if (!elf_check(l, &elf, err))
            return false;
    } else if (!check_addresses(l, at, &flat, err)) {
        return false;
    }
    end = use_elf ? elf.end : flat.end;
    entry = use_elf ? elf.entry : flat.entry;

    /* The command line starts with the kernel's name, as GRUB and QEMU have it. */
    g_autofree char *cmdline =
        g_strconcat(l->kernel.path, l->cmdline[0] ? " " : "", l->cmdline, NULL);
    const char *name = l->initrd.path ? l->initrd.path : "";
    if (strlen(cmdline) + strlen(name) + 2 > BOOT_CMDLINE_MAX)
        return check_cmdline(l, BOOT_CMDLINE_MAX - strlen(l->kernel.path) - strlen(name) - 4, err);
    if (!place_initrd(l, end, UINT32_MAX, &initrd, err))
        return false;

    if (use_elf) {
        elf_put(l);
    } else {
        put_ram(l->map, flat.load, l->kernel.data + flat.offset, flat.len);
        clear_ram(l->map, flat.load + flat.len, flat.end - flat.load - flat.len);
    }
    put_info(l, cmdline, initrd, name);
    enter_flat32(l, entry);
    l->boot->gpr[RAX] = MB_BOOTED;
    l->boot->gpr[RBX] = BOOT_INFO;
    return true;
}
