/* Reads the files, says which protocol they want, and does what all protocols share. */
#include "machine/loader_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* Offsets in struct boot_params (Linux, Documentation/arch/x86/zero-page.rst and boot.rst). */
enum {
    BP_RSDP = 0x070,
    BP_ALT_MEM_K = 0x1e0,
    BP_E820_ENTRIES = 0x1e8,
    BP_HEADER = 0x1f1,
    BP_EXT_MEM_K = 0x002,
    BP_LOADER_TYPE = 0x210,
    BP_RAMDISK_IMAGE = 0x218,
    BP_RAMDISK_SIZE = 0x21c,
    BP_CMD_LINE_PTR = 0x228,
    BP_E820_TABLE = 0x2d0,
    BP_SIZE = 0x1000,
    LOADER_TYPE_OTHER = 0xff,
};

static bool file_error(const char *what, const char *path, GError **err, const char *why)
{
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s '%s': %s", what, path, why);
    return false;
}

static bool read_file(const char *what, uint64_t ram, Image *img, GError **err)
{
    struct stat st;
    int fd = open(img->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return file_error(what, img->path, err, g_strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return file_error(what, img->path, err,
                          S_ISDIR(st.st_mode) ? "is a directory" : "not a regular file");
    }
    img->size = (uint64_t)st.st_size;
    if (img->size == 0 || img->size > ram) {
        close(fd);
        if (img->size == 0)
            return file_error(what, img->path, err, "is empty");
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "%s '%s': its %" G_GUINT64_FORMAT " bytes are more than the guest's RAM below "
                    "4 GiB (%" G_GUINT64_FORMAT " MiB)",
                    what, img->path, img->size, ram >> 20);
        return false;
    }
    void *p = mmap(NULL, img->size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    int e = errno;
    close(fd);
    if (p == MAP_FAILED)
        return file_error(what, img->path, err, g_strerror(e));
    img->data = p;
    return true;
}

static void close_file(Image *img)
{
    if (img->data)
        munmap(img->data, img->size);
}

bool kernel_error(const Loader *l, GError **err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return file_error("kernel", l->kernel.path, err, why);
}

bool is_ram(const MemMap *map, gpa_t gpa, uint64_t len)
{
    while (len) {
        const RamSlot *s = memmap_find(map, gpa);
        if (!s || s->readonly)
            return false;
        uint64_t n = MIN_OF(len, s->size - (gpa - s->gpa));
        gpa += n;
        len -= n;
    }
    return true;
}

bool check_place(const Loader *l, const char *what, gpa_t gpa, uint64_t len, GError **err)
{
    if (!len)
        return true;
    if (gpa >= l->top || len > l->top - gpa || !is_ram(l->map, gpa, len))
        return kernel_error(l, err,
                            "%s at %#" G_GINT64_MODIFIER "x, %#" G_GINT64_MODIFIER
                            "x bytes long, is not in the guest's RAM (%" G_GUINT64_FORMAT
                            " MiB below 4 GiB)",
                            what, gpa, len, l->info->ram_low >> 20);
    if (gpa < BOOT_DATA_END && gpa + len > BOOT_DATA)
        return kernel_error(l, err,
                            "%s at %#" G_GINT64_MODIFIER "x, %#" G_GINT64_MODIFIER
                            "x bytes long, overlaps the boot loader's own data at %#x-%#x",
                            what, gpa, len, BOOT_DATA, BOOT_DATA_END - 1);
    return true;
}

void put_ram(const MemMap *map, gpa_t gpa, const void *data, uint64_t len)
{
    bool ok = memmap_write(map, gpa, data, len);
    g_assert(ok); /* the place was checked */
}

void clear_ram(const MemMap *map, gpa_t gpa, uint64_t len)
{
    static const uint8_t zeros[65536];
    while (len) {
        uint64_t n = MIN_OF(len, sizeof(zeros));
        put_ram(map, gpa, zeros, n);
        gpa += n;
        len -= n;
    }
}

bool place_initrd(const Loader *l, gpa_t kernel_end, uint64_t max, gpa_t *at, GError **err)
{
    *at = 0;
    if (!l->initrd.path)
        return true;
    uint64_t limit = max < l->top ? max + 1 : l->top, size = l->initrd.size;
    gpa_t lowest = (MAX_OF(kernel_end, 0x100000) + 0xfff) & ~0xfffull;
    gpa_t place = size <= limit ? (limit - size) & ~0xfffull : 0;
    if (place < lowest) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "initrd '%s': its %" G_GUINT64_FORMAT
                    " bytes do not fit between the kernel's end at %#" G_GINT64_MODIFIER
                    "x and %#" G_GINT64_MODIFIER "x",
                    l->initrd.path, size, kernel_end, limit);
        return false;
    }
    *at = place;
    return true;
}

bool check_cmdline(const Loader *l, uint64_t max, GError **err)
{
    uint64_t len = strlen(l->cmdline);
    max = MIN_OF(max, BOOT_CMDLINE_MAX);
    if (len <= max)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                "-append: the command line has %" G_GUINT64_FORMAT
                " bytes, the kernel takes at most %" G_GUINT64_FORMAT,
                len, max);
    return false;
}

void boot_mtrrs(CpuState *s)
{
    enum { WRITE_BACK = 6, FIXED_16K_A0000 = 2 };
    s->msr.mtrr_def_type = BIT(11) | BIT(10) | WRITE_BACK; /* enabled, fixed ranges too */
    for (unsigned i = 0; i < MTRR_FIXED_N; i++)
        s->msr.mtrr_fixed[i] = i == FIXED_16K_A0000 ? 0 : 0x0606060606060606ull;
}

static void put_gdt(const Loader *l, bool long_mode)
{
    uint64_t gdt[4] = {0};
    gdt[BOOT_CS / 8] = long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff;
    gdt[BOOT_DS / 8] = 0x00cf93000000ffff;
    put_ram(l->map, BOOT_DATA, gdt, sizeof(gdt));
}

static void flat_state(Loader *l, gpa_t entry, bool long_mode)
{
    CpuState *s = l->boot;
    const Segment data = {
        .limit = 0xffffffff,
        .attr = SEG_ACCESSED | SEG_WRITABLE | SEG_S | SEG_P | SEG_DB | SEG_G,
        .selector = BOOT_DS,
    };
    put_gdt(l, long_mode);
    cpu_state_reset(s, l->info->cpuid_signature, true);
    memset(s->gpr, 0, sizeof(s->gpr));
    boot_mtrrs(s);
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = data;
    s->seg[CS].selector = BOOT_CS;
    s->seg[CS].attr = SEG_ACCESSED | SEG_READABLE | SEG_CODE | SEG_S | SEG_P | SEG_G |
                      (long_mode ? SEG_L : SEG_DB);
    s->gdt = (DescTable){.base = BOOT_DATA, .limit = 0x1f};
    s->idt = (DescTable){0};
    s->cr0 = CR0_PE | CR0_ET;
    s->rip = entry;
}

void enter_flat32(Loader *l, gpa_t entry)
{
    flat_state(l, entry, false);
}

void enter_long(Loader *l, gpa_t entry)
{
    enum { PRESENT_RW = 3, LARGE = 1 << 7 };
    uint64_t table[512] = {BOOT_PDPT | PRESENT_RW};
    put_ram(l->map, BOOT_PML4, table, sizeof(table));
    for (unsigned i = 0; i < 4; i++)
        table[i] = (BOOT_PD + 4096 * i) | PRESENT_RW;
    put_ram(l->map, BOOT_PDPT, table, sizeof(table));
    for (unsigned pd = 0; pd < 4; pd++) {
        for (uint64_t i = 0; i < 512; i++)
            table[i] = (pd * 512 + i) << 21 | LARGE | PRESENT_RW;
        put_ram(l->map, BOOT_PD + 4096 * pd, table, sizeof(table));
    }
    flat_state(l, entry, true);
    l->boot->cr0 |= CR0_PG;
    l->boot->cr3 = BOOT_PML4;
    l->boot->cr4 = CR4_PAE;
    l->boot->efer = EFER_LME | EFER_LMA;
}

void put_boot_params(const Loader *l, const uint8_t *header, unsigned header_len, gpa_t initrd)
{
    uint8_t bp[BP_SIZE] = {0};
    E820Entry e820[E820_MAX];
    const BootInfo *info = l->info;

    if (header)
        memcpy(bp + BP_HEADER, header, MIN_OF(header_len, BP_E820_TABLE - BP_HEADER));
    unsigned n = e820_build(info->ram_low, info->ram_high, info->rsdp != 0, e820);
    bp[BP_E820_ENTRIES] = (uint8_t)n;
    memcpy(bp + BP_E820_TABLE, e820, n * sizeof(e820[0]));
    put_le(bp + BP_RSDP, info->rsdp, 8);
    uint64_t above_1m = (l->top - MIN_OF(l->top, 0x100000)) >> 10;
    put_le(bp + BP_ALT_MEM_K, above_1m, 4);
    put_le(bp + BP_EXT_MEM_K, MIN_OF(above_1m, 0xfc00), 2);
    bp[BP_LOADER_TYPE] = LOADER_TYPE_OTHER;
    put_le(bp + BP_CMD_LINE_PTR, BOOT_CMDLINE, 4);
    if (l->initrd.path) {
        put_le(bp + BP_RAMDISK_IMAGE, initrd, 4);
        put_le(bp + BP_RAMDISK_SIZE, l->initrd.size, 4);
        put_ram(l->map, initrd, l->initrd.data, l->initrd.size);
    }
    put_ram(l->map, BOOT_PARAMS, bp, sizeof(bp));
    put_ram(l->map, BOOT_CMDLINE, l->cmdline, strlen(l->cmdline) + 1);
}

static bool load(Loader *l, GError **err)
{
    uint64_t ram = l->info->ram_low;
    if (!read_file("kernel", ram, &l->kernel, err) ||
        (l->initrd.path && !read_file("initrd", ram, &l->initrd, err)))
        return false;
    if (!is_ram(l->map, BOOT_DATA, BOOT_DATA_END - BOOT_DATA) || ram < 0x100000 ||
        (l->info->rsdp && ram < ACPI_RAM_MIN))
        return kernel_error(l, err, "the guest has too little RAM to boot a kernel");
    if (is_bzimage(&l->kernel))
        return load_bzimage(l, err);
    if (is_multiboot(&l->kernel))
        return load_multiboot(l, err);
    if (is_elf(&l->kernel))
        return load_elf(l, err);
    return kernel_error(l, err, "not a kernel: neither bzImage nor multiboot nor ELF");
}

bool boot_load(const BootInfo *info, const MemMap *map, CpuState *boot, GError **err)
{
    Loader l = {
        .info = info,
        .map = map,
        .boot = boot,
        .kernel.path = info->kernel,
        .initrd.path = info->initrd,
        .cmdline = info->append ? info->append : "",
        .top = info->rsdp ? acpi_area(info->ram_low) : info->ram_low,
    };
    bool ok = load(&l, err);
    close_file(&l.kernel);
    close_file(&l.initrd);
    return ok;
}
