/*
 * ELF kernels (System V ABI, chapters 4 and 5; xen/include/public/arch-x86/hvm/start_info.h for
 * PVH).
 *
 * With a PVH note: entered as PVH says. Without one: in the mode of the file's class, flat
 * segments, RSI pointing at Linux's boot_params (as the 32- and 64-bit boot protocols have it), so
 * that an unpacked vmlinux starts too.
 */
#include "machine/loader_priv.h"

#include <elf.h>
#include <string.h>

#include "base/log.h"

#define MAX_SEGMENTS      64
#define NOTE_PHYS32_ENTRY 18
#define PVH_MAGIC         0x336ec578u

bool is_elf(const Image *k)
{
    return k->size >= SELFMAG && !memcmp(k->data, ELFMAG, SELFMAG);
}

typedef struct Segment64 {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
} Segment64;

typedef struct Elf {
    bool is64;
    uint64_t entry, phoff;
    unsigned phentsize, phnum;
} Elf;

static bool read_header(const Loader *l, Elf *e, GError **err)
{
    const Image *k = &l->kernel;
    if (k->size < EI_NIDENT || k->size < sizeof(Elf32_Ehdr) ||
        (k->data[EI_CLASS] == ELFCLASS64 && k->size < sizeof(Elf64_Ehdr)))
        return kernel_error(l, err, "truncated: it ends inside its ELF header");
    uint16_t machine, type;
    if (k->data[EI_CLASS] == ELFCLASS64) {
        Elf64_Ehdr h;
        memcpy(&h, k->data, sizeof(h));
        *e = (Elf){true, h.e_entry, h.e_phoff, h.e_phentsize, h.e_phnum};
        machine = h.e_machine;
        type = h.e_type;
    } else if (k->data[EI_CLASS] == ELFCLASS32) {
        Elf32_Ehdr h;
        memcpy(&h, k->data, sizeof(h));
        *e = (Elf){false, h.e_entry, h.e_phoff, h.e_phentsize, h.e_phnum};
        machine = h.e_machine;
        type = h.e_type;
    } else {
        return kernel_error(l, err, "ELF of unknown class %u", k->data[EI_CLASS]);
    }
    if (k->data[EI_DATA] != ELFDATA2LSB || (machine != EM_386 && machine != EM_X86_64))
        return kernel_error(l, err, "ELF for another machine (type %u), not x86", machine);
    if (type != ET_EXEC && type != ET_DYN)
        return kernel_error(l, err, "not a kernel: an ELF file of type %u is no executable", type);
    if (!e->phnum || e->phnum > MAX_SEGMENTS)
        return kernel_error(l, err, "%u program headers; 1 to %u are supported", e->phnum,
                            MAX_SEGMENTS);
    if (e->phentsize < (e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return kernel_error(l, err, "program headers of %u bytes are too short", e->phentsize);
    if (e->phoff > k->size || (uint64_t)e->phentsize * e->phnum > k->size - e->phoff)
        return kernel_error(l, err, "truncated: it ends before its program headers do");
    return true;
}

static Segment64 read_segment(const Image *k, const Elf *e, unsigned i)
{
    const uint8_t *at = k->data + e->phoff + (uint64_t)i * e->phentsize;
    if (e->is64) {
        Elf64_Phdr p;
        memcpy(&p, at, sizeof(p));
        return (Segment64){p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz};
    }
    Elf32_Phdr p;
    memcpy(&p, at, sizeof(p));
    return (Segment64){p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz};
}

/* Notes: name size, descriptor size, type, then both padded to 4 bytes. */
static void find_pvh(const uint8_t *note, uint64_t len, ElfInfo *info)
{
    while (len >= 12) {
        uint64_t namesz = le32(note), descsz = le32(note + 4);
        uint32_t type = le32(note + 8);
        uint64_t name = (namesz + 3) & ~3ull, desc = (descsz + 3) & ~3ull;
        if (name > len - 12 || descsz > len - 12 - name)
            return;
        const uint8_t *value = note + 12 + name;
        if (type == NOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(note + 12, "Xen", 4) &&
            (descsz == 4 || descsz == 8)) {
            info->has_pvh = true;
            info->pvh_entry = descsz == 8 ? le64(value) : le32(value);
            return;
        }
        uint64_t step = 12 + name + desc;
        if (step > len)
            return;
        note += step;
        len -= step;
    }
}

static bool check_segment(const Loader *l, const Segment64 *s, unsigned i, GError **err)
{
    char what[32];
    if (s->filesz > l->kernel.size || s->offset > l->kernel.size - s->filesz)
        return kernel_error(l, err, "truncated: segment %u ends behind the end of the file", i);
    if (s->type != PT_LOAD)
        return true;
    if (s->filesz > s->memsz)
        return kernel_error(l, err, "segment %u is longer in the file than in memory", i);
    g_snprintf(what, sizeof(what), "segment %u", i);
    return check_place(l, what, s->paddr, s->memsz, err);
}

bool elf_check(const Loader *l, ElfInfo *info, GError **err)
{
    Elf e;
    Segment64 seg[MAX_SEGMENTS];
    bool entry_found = false;

    if (!read_header(l, &e, err))
        return false;
    *info = (ElfInfo){.is64 = e.is64, .entry = e.entry};
    for (unsigned i = 0; i < e.phnum; i++) {
        seg[i] = read_segment(&l->kernel, &e, i);
        if (!check_segment(l, &seg[i], i, err))
            return false;
        if (seg[i].type == PT_INTERP)
            return kernel_error(l, err, "not a kernel: an ELF program that wants a dynamic linker");
        if (seg[i].type == PT_NOTE)
            find_pvh(l->kernel.data + seg[i].offset, seg[i].filesz, info);
        if (seg[i].type != PT_LOAD || !seg[i].memsz)
            continue;
        info->end = MAX_OF(info->end, seg[i].paddr + seg[i].memsz);
        if (e.entry >= seg[i].paddr && e.entry - seg[i].paddr < seg[i].memsz)
            entry_found = true;
        for (unsigned k = 0; k < i; k++) {
            if (seg[k].type == PT_LOAD && seg[i].paddr < seg[k].paddr + seg[k].memsz &&
                seg[k].paddr < seg[i].paddr + seg[i].memsz)
                return kernel_error(l, err, "segments %u and %u overlap", k, i);
        }
    }
    if (!info->end)
        return kernel_error(l, err, "ELF without anything to load");
    /* An entry in no segment's physical range may be a virtual one. */
    for (unsigned i = 0; i < e.phnum && !entry_found; i++) {
        if (seg[i].type == PT_LOAD && e.entry >= seg[i].vaddr &&
            e.entry - seg[i].vaddr < seg[i].memsz) {
            info->entry = seg[i].paddr + (e.entry - seg[i].vaddr);
            entry_found = true;
        }
    }
    if (!entry_found)
        return kernel_error(l, err, "its entry point %#" G_GINT64_MODIFIER "x is in no segment",
                            e.entry);
    if (info->has_pvh && !is_ram(l->map, info->pvh_entry, 1))
        return kernel_error(l, err, "its PVH entry point %#" G_GINT64_MODIFIER "x is not in RAM",
                            info->pvh_entry);
    return true;
}

void elf_put(const Loader *l)
{
    Elf e;
    if (!read_header(l, &e, NULL))
        return;
    for (unsigned i = 0; i < e.phnum; i++) {
        Segment64 s = read_segment(&l->kernel, &e, i);
        if (s.type != PT_LOAD)
            continue;
        put_ram(l->map, s.paddr, l->kernel.data + s.offset, s.filesz);
        clear_ram(l->map, s.paddr + s.filesz, s.memsz - s.filesz);
    }
}

/* struct hvm_start_info version 1, its module and its memory map, one after the other. */
static void put_start_info(const Loader *l, gpa_t initrd)
{
    enum { INFO_LEN = 56, MODULE_LEN = 32, MAP_ENTRY_LEN = 24 };
    uint8_t b[INFO_LEN + MODULE_LEN + E820_MAX * MAP_ENTRY_LEN] = {0};
    uint8_t *module = b + INFO_LEN, *map = module + MODULE_LEN;
    E820Entry e820[E820_MAX];
    unsigned n = e820_build(l->info->ram_low, l->info->ram_high, l->info->rsdp != 0, e820);

    put_le(b, PVH_MAGIC, 4);
    put_le(b + 4, 1, 4);
    if (l->initrd.path) {
        put_le(b + 12, 1, 4);
        put_le(b + 16, BOOT_INFO + INFO_LEN, 8);
        put_le(module, initrd, 8);
        put_le(module + 8, l->initrd.size, 8);
        put_ram(l->map, initrd, l->initrd.data, l->initrd.size);
    }
    put_le(b + 24, BOOT_CMDLINE, 8);
    put_le(b + 32, l->info->rsdp, 8);
    put_le(b + 40, BOOT_INFO + INFO_LEN + MODULE_LEN, 8);
    put_le(b + 48, n, 4);
    for (unsigned i = 0; i < n; i++) {
        put_le(map + i * MAP_ENTRY_LEN, e820[i].base, 8);
        put_le(map + i * MAP_ENTRY_LEN + 8, e820[i].len, 8);
        put_le(map + i * MAP_ENTRY_LEN + 16, e820[i].type, 4);
    }
    put_ram(l->map, BOOT_INFO, b, sizeof(b));
    put_ram(l->map, BOOT_CMDLINE, l->cmdline, strlen(l->cmdline) + 1);
}

bool load_elf(Loader *l, GError **err)
{
    ElfInfo info;
    gpa_t initrd;
    if (!elf_check(l, &info, err) || !check_cmdline(l, BOOT_CMDLINE_MAX, err) ||
        !place_initrd(l, info.end, UINT32_MAX, &initrd, err))
        return false;
    elf_put(l);
    if (info.has_pvh) {
        put_start_info(l, initrd);
        enter_flat32(l, info.pvh_entry);
        l->boot->gpr[RBX] = BOOT_INFO;
        /* PVH wants a 32-bit TSS with limit 0x67 in TR. */
        l->boot->seg[TR].limit = 0x67;
        return true;
    }
    put_boot_params(l, NULL, 0, initrd);
    if (info.is64)
        enter_long(l, info.entry);
    else
        enter_flat32(l, info.entry);
    l->boot->gpr[RSI] = BOOT_PARAMS;
    return true;
}
