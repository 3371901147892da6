/*
 * Boot loaders: small kernels made here in every format, the state and memory they start with, the
 * one line for each kind of bad file, and files cut at every length or with any byte changed.
 */
#include <check.h>
#include <elf.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/acpi.h"
#include "machine/loader.h"
#include "run_suite.h"

#define RAM (32u << 20)

static MemMap map;
static uint8_t *ram;
static int kernel_fd, initrd_fd;
static char kernel_path[64], initrd_path[64];
static BootInfo info;
static CpuState boot;

static void setup(void)
{
    ram = g_malloc0(RAM);
    map = (MemMap){.n = 1};
    map.slot[0] = (RamSlot){.gpa = 0, .size = RAM, .host = ram, .fd = -1};
    kernel_fd = memfd_create("kernel", 0);
    initrd_fd = memfd_create("initrd", 0);
    g_snprintf(kernel_path, sizeof(kernel_path), "/proc/self/fd/%d", kernel_fd);
    g_snprintf(initrd_path, sizeof(initrd_path), "/proc/self/fd/%d", initrd_fd);
    info = (BootInfo){.kernel = kernel_path, .ram_low = RAM, .cpuid_signature = 0x606c1};
    memset(&boot, 0, sizeof(boot));
}

static void teardown(void)
{
    close(kernel_fd);
    close(initrd_fd);
    g_free(ram);
}

static void set_file(int fd, const void *data, size_t len)
{
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(pwrite(fd, data, len, 0), (ssize_t)len);
}

static void put(uint8_t *p, uint64_t v, unsigned size)
{
    memcpy(p, &v, size);
}

static uint64_t get(const void *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static void load_ok(void)
{
    GError *err = NULL;
    if (!boot_load(&info, &map, &boot, &err))
        ck_abort_msg("%s", err->message);
}

static void load_fails(const char *words)
{
    GError *err = NULL;
    ck_assert_msg(!boot_load(&info, &map, &boot, &err), "loaded; expected: %s", words);
    ck_assert_ptr_nonnull(err);
    ck_assert_msg(strstr(err->message, words), "'%s' does not say '%s'", err->message, words);
    ck_assert_msg(!strchr(err->message, '\n'), "more than a line: %s", err->message);
    g_error_free(err);
}

/* ---- the files ---- */

enum { BZ_SIZE = 1024 + 1040 };

static uint8_t *bzimage(bool is64)
{
    static uint8_t b[BZ_SIZE];
    memset(b, 0, sizeof(b));
    b[0x1f1] = 1;                 /* setup sectors */
    put(b + 0x1f4, 1040 / 16, 4); /* syssize */
    put(b + 0x1fe, 0xaa55, 2);
    put(b + 0x200, 0x6aeb, 2); /* jump: header ends at 0x26c */
    memcpy(b + 0x202, "HdrS", 4);
    put(b + 0x206, 0x20f, 2);
    b[0x211] = 1; /* loaded high */
    put(b + 0x214, 0x100000, 4);
    put(b + 0x22c, 0x7fffffff, 4); /* initrd_addr_max */
    put(b + 0x230, 0x200000, 4);
    b[0x234] = 1;
    put(b + 0x236, is64 ? 1 : 0, 2);
    put(b + 0x238, 255, 4);       /* cmdline_size */
    put(b + 0x258, 0x1000000, 8); /* pref_address */
    put(b + 0x260, 0x200000, 4);  /* init_size */
    memset(b + 1024, 0x90, 1040);
    memcpy(b + 1024 + 1036, "tail", 4);
    return b;
}

enum { ELF_SIZE = 1024 };

/* One segment of 0x100 bytes from file offset 0x200 with 0x80 of BSS at 1 MiB; a note that may be
 * PVH's. */
static uint8_t *elf64(bool pvh)
{
    static uint8_t b[ELF_SIZE];
    memset(b, 0, sizeof(b));
    Elf64_Ehdr *h = (void *)b;
    Elf64_Phdr *p = (void *)(b + 64);
    memcpy(h->e_ident, "\177ELF\2\1\1", 7);
    h->e_type = ET_EXEC;
    h->e_machine = EM_X86_64;
    h->e_entry = 0x100010;
    h->e_phoff = 64;
    h->e_phentsize = sizeof(*p);
    h->e_phnum = 2;
    p[0] = (Elf64_Phdr){.p_type = PT_LOAD,
                        .p_offset = 0x200,
                        .p_vaddr = 0xffffffff80100000,
                        .p_paddr = 0x100000,
                        .p_filesz = 0x100,
                        .p_memsz = 0x180};
    p[1] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = 0x180, .p_filesz = 36};
    put(b + 0x180, 4, 4); /* another note first */
    put(b + 0x184, 1, 4);
    put(b + 0x188, 3, 4);
    memcpy(b + 0x18c, "GNU", 4);
    put(b + 0x194, 4, 4);
    put(b + 0x198, 4, 4);
    put(b + 0x19c, pvh ? 18 : 17, 4);
    memcpy(b + 0x1a0, "Xen", 4);
    put(b + 0x1a4, 0x100040, 4);
    p[1].p_filesz = 0x28;
    memset(b + 0x200, 0xcc, 0x100);
    return b;
}

static uint8_t *elf32(void)
{
    static uint8_t b[ELF_SIZE];
    memset(b, 0, sizeof(b));
    Elf32_Ehdr *h = (void *)b;
    Elf32_Phdr *p = (void *)(b + 52);
    memcpy(h->e_ident, "\177ELF\1\1\1", 7);
    h->e_type = ET_EXEC;
    h->e_machine = EM_386;
    h->e_entry = 0xc0100020; /* virtual */
    h->e_phoff = 52;
    h->e_phentsize = sizeof(*p);
    h->e_phnum = 1;
    p[0] = (Elf32_Phdr){.p_type = PT_LOAD,
                        .p_offset = 0x200,
                        .p_vaddr = 0xc0100000,
                        .p_paddr = 0x100000,
                        .p_filesz = 0x100,
                        .p_memsz = 0x100};
    memset(b + 0x200, 0xcc, 0x100);
    return b;
}

static void multiboot_header(uint8_t *p, uint32_t flags)
{
    put(p, 0x1badb002, 4);
    put(p + 4, flags, 4);
    put(p + 8, -(0x1badb002 + flags), 4);
}

static uint8_t *multiboot_elf(void)
{
    uint8_t *b = elf32();
    put(b + 24, 0x100020, 4);
    multiboot_header(b + 0x210, 3);
    return b;
}

/* Header at file offset 16, which is to be at 0x200010; 512 bytes of code, 512 of BSS. */
static uint8_t *multiboot_flat(void)
{
    static uint8_t b[ELF_SIZE];
    memset(b, 0x90, sizeof(b));
    multiboot_header(b + 16, 1 << 16);
    put(b + 28, 0x200010, 4);
    put(b + 32, 0x200000, 4);
    put(b + 36, 0x200200, 4);
    put(b + 40, 0x200400, 4);
    put(b + 44, 0x200030, 4);
    return b;
}

/* ---- what good files start with ---- */

static void check_flat(uint32_t cs_attr)
{
    ck_assert_uint_eq(boot.seg[CS].attr, cs_attr);
    ck_assert_uint_eq(boot.seg[CS].limit, 0xffffffff);
    ck_assert_uint_eq(boot.seg[CS].base, 0);
    ck_assert_uint_eq(boot.seg[SS].attr, 0xc093);
    ck_assert_uint_eq(boot.rflags, 2);
    ck_assert_uint_eq(boot.run_state, RUN_RUNNING);
    /* The GDT in memory says the same as the segment registers. */
    uint64_t cs = get(ram + boot.gdt.base + boot.seg[CS].selector, 8);
    uint64_t ds = get(ram + boot.gdt.base + boot.seg[DS].selector, 8);
    ck_assert_uint_eq((cs >> 40 & 0xf0ff), cs_attr);
    ck_assert_uint_eq((ds >> 40 & 0xf0ff), 0xc093);
    ck_assert_uint_lt(boot.seg[DS].selector, boot.gdt.limit);
}

static void check_e820(const uint8_t *entries, unsigned n, unsigned stride)
{
    E820Entry e[E820_MAX];
    ck_assert_uint_eq(n, e820_build(info.ram_low, info.ram_high, info.rsdp != 0, e));
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_eq(get(entries + i * stride, 8), e[i].base);
        ck_assert_uint_eq(get(entries + i * stride + 8, 8), e[i].len);
        ck_assert_uint_eq(get(entries + i * stride + 16, 4), e[i].type);
    }
}

static void with_initrd(void)
{
    set_file(initrd_fd, "initrd!", 7);
    info.initrd = initrd_path;
    info.append = "console=ttyS0 quiet";
    info.rsdp = 0xf0000;
}

START_TEST(linux64)
{
    set_file(kernel_fd, bzimage(true), BZ_SIZE);
    with_initrd();
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x1000200);
    check_flat(0xa09b);
    ck_assert_uint_eq(boot.cr0, CR0_PE | CR0_ET | CR0_PG);
    ck_assert_uint_eq(boot.cr4, CR4_PAE);
    ck_assert_uint_eq(boot.efer, EFER_LME | EFER_LMA);
    /* The page tables map each 2 MiB of the low 4 GiB to itself. */
    for (uint64_t a = 0; a < 1ull << 32; a += 2 << 20) {
        uint64_t e = boot.cr3 | 3;
        for (int level = 3; level >= 1 && (e & 3) == 3; level--)
            e = get(ram + (e & ~0xfffull) + (a >> (12 + 9 * level) & 511) * 8, 8);
        ck_assert_uint_eq(e & 3, 3);
        ck_assert_uint_eq(e & 0x80, 0x80);
        ck_assert_uint_eq(e & ~0xfffull, a);
    }
    ck_assert_mem_eq(ram + 0x1000000 + 1036, "tail", 4);
    const uint8_t *bp = ram + boot.gpr[RSI];
    ck_assert_mem_eq(bp + 0x202, "HdrS", 4);
    ck_assert_uint_eq(bp[0x210], 0xff);
    ck_assert_uint_eq(get(bp + 0x214, 4), 0x1000000);
    ck_assert_uint_eq(get(bp + 0x070, 8), 0xf0000);
    check_e820(bp + 0x2d0, bp[0x1e8], 20);
    ck_assert_str_eq((char *)ram + get(bp + 0x228, 4), "console=ttyS0 quiet");
    uint64_t at = get(bp + 0x218, 4);
    ck_assert_uint_eq(get(bp + 0x21c, 4), 7);
    ck_assert_mem_eq(ram + at, "initrd!", 7);
    ck_assert_uint_eq(at, acpi_area(RAM) - 0x1000);
    ck_assert_uint_eq(boot.msr.mtrr_def_type, 0xc06);
}
END_TEST

/* A setup_data of 32 random bytes, others each time. */
static void check_seed(uint8_t seed[32])
{
    uint64_t at = get(ram + boot.gpr[RSI] + 0x250, 8);
    ck_assert_uint_gt(at, 0);
    ck_assert_uint_eq(get(ram + at, 8), 0); /* the last of them */
    ck_assert_uint_eq(get(ram + at + 8, 4), 9);
    ck_assert_uint_eq(get(ram + at + 12, 4), 32);
    ck_assert_mem_ne(seed, ram + at + 16, 32);
    memcpy(seed, ram + at + 16, 32);
}

START_TEST(linux_seed)
{
    uint8_t seed[32] = {0}, *b = bzimage(true);
    set_file(kernel_fd, b, BZ_SIZE);
    load_ok();
    check_seed(seed);
    load_ok();
    check_seed(seed);
    put(b + 0x206, 0x208, 2); /* there is no such field yet */
    set_file(kernel_fd, b, BZ_SIZE);
    load_ok();
    ck_assert_uint_eq(get(ram + boot.gpr[RSI] + 0x250, 8), 0);
}
END_TEST

START_TEST(linux32)
{
    set_file(kernel_fd, bzimage(false), BZ_SIZE);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x1000000);
    check_flat(0xc09b);
    ck_assert_uint_eq(boot.cr0, CR0_PE | CR0_ET);
    ck_assert_uint_eq(boot.efer, 0);
    ck_assert_uint_eq(boot.gpr[RBX] | boot.gpr[RBP] | boot.gpr[RDI], 0);
    const uint8_t *bp = ram + boot.gpr[RSI];
    ck_assert_uint_eq(get(bp + 0x218, 4), 0); /* no initrd */
    ck_assert_uint_eq(get(bp + 0x070, 8), 0); /* no ACPI */
    ck_assert_str_eq((char *)ram + get(bp + 0x228, 4), "");
    /* An old protocol without a preferred address is loaded at 1 MiB. */
    uint8_t *b = bzimage(false);
    put(b + 0x206, 0x204, 2);
    set_file(kernel_fd, b, BZ_SIZE);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x100000);
    /* initrd_addr_max is kept. */
    b = bzimage(true);
    put(b + 0x22c, 0x17fffff, 4);
    set_file(kernel_fd, b, BZ_SIZE);
    with_initrd();
    load_ok();
    ck_assert_uint_eq(get(ram + boot.gpr[RSI] + 0x218, 4), 0x17ff000);
}
END_TEST

START_TEST(pvh)
{
    set_file(kernel_fd, elf64(true), ELF_SIZE);
    with_initrd();
    memset(ram + 0x100000, 0xee, 0x1000);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x100040);
    check_flat(0xc09b);
    ck_assert_uint_eq(boot.cr0, CR0_PE | CR0_ET);
    ck_assert_uint_eq(get(ram + 0x1000fc, 4), 0xcccccccc);
    ck_assert_uint_eq(get(ram + 0x10017c, 4), 0); /* BSS is cleared, */
    ck_assert_uint_eq(ram[0x100180], 0xee);       /* what follows is not */
    const uint8_t *si = ram + boot.gpr[RBX];
    ck_assert_uint_eq(get(si, 4), 0x336ec578);
    ck_assert_uint_eq(get(si + 4, 4), 1);
    ck_assert_uint_eq(get(si + 12, 4), 1);
    const uint8_t *module = ram + get(si + 16, 8);
    ck_assert_mem_eq(ram + get(module, 8), "initrd!", 7);
    ck_assert_uint_eq(get(module + 8, 8), 7);
    ck_assert_str_eq((char *)ram + get(si + 24, 8), info.append);
    ck_assert_uint_eq(get(si + 32, 8), 0xf0000);
    check_e820(ram + get(si + 40, 8), (unsigned)get(si + 48, 4), 24);
}
END_TEST

START_TEST(plain_elf)
{
    set_file(kernel_fd, elf64(false), ELF_SIZE);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x100010);
    check_flat(0xa09b);
    ck_assert_uint_eq(get(ram + boot.gpr[RSI] + 0x1e8, 1), 3);
    set_file(kernel_fd, elf32(), ELF_SIZE);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x100020); /* the virtual entry, made physical */
    check_flat(0xc09b);
}
END_TEST

START_TEST(multiboot)
{
    set_file(kernel_fd, multiboot_elf(), ELF_SIZE);
    with_initrd();
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x100020);
    check_flat(0xc09b);
    ck_assert_uint_eq(boot.cr0, CR0_PE | CR0_ET);
    ck_assert_uint_eq(boot.gpr[RAX], 0x2badb002);
    const uint8_t *mb = ram + boot.gpr[RBX];
    ck_assert_uint_eq(get(mb, 4), 1 | 4 | 8 | 64 | 512);
    ck_assert_uint_eq(get(mb + 4, 4), 640);
    ck_assert_uint_eq(get(mb + 8, 4), (acpi_area(RAM) >> 10) - 1024);
    g_autofree char *line = g_strconcat(kernel_path, " ", info.append, NULL);
    ck_assert_str_eq((char *)ram + get(mb + 16, 4), line);
    ck_assert_uint_eq(get(mb + 20, 4), 1);
    const uint8_t *module = ram + get(mb + 24, 4);
    ck_assert_mem_eq(ram + get(module, 4), "initrd!", 7);
    ck_assert_uint_eq(get(module + 4, 4) - get(module, 4), 7);
    ck_assert_str_eq((char *)ram + get(module + 8, 4), initrd_path);
    const uint8_t *mmap_at = ram + get(mb + 48, 4);
    check_e820(mmap_at + 4, (unsigned)get(mb + 44, 4) / 24, 24);
    ck_assert_uint_eq(get(mmap_at, 4), 20);

    set_file(kernel_fd, multiboot_flat(), ELF_SIZE);
    memset(ram + 0x200000, 0xee, 0x1000);
    load_ok();
    ck_assert_uint_eq(boot.rip, 0x200030);
    ck_assert_uint_eq(get(ram + 0x200010, 4), 0x1badb002);
    ck_assert_uint_eq(ram[0x2001ff], 0x90);
    ck_assert_uint_eq(ram[0x200200], 0);
    ck_assert_uint_eq(ram[0x2003ff], 0);
    ck_assert_uint_eq(ram[0x200400], 0xee);
}
END_TEST

/* ---- bad input ---- */

/* One change to a good file, and what the message has to say. */
typedef struct Bad {
    uint8_t *(*make)(void);
    unsigned at, size;
    uint64_t value;
    const char *words;
} Bad;

static uint8_t *bz64(void)
{
    return bzimage(true);
}
static uint8_t *pvh64(void)
{
    return elf64(true);
}

enum { P0_64 = 64, P1_64 = 120 };
static const Bad bad[] = {
    {bz64, 0x206, 2, 0x201, "boot protocol 2.01 is older than 2.02"},
    {bz64, 0x211, 1, 0, "zImage"},
    {bz64, 0x1f1, 1, 200,
     "setup code of 102912 bytes reaches past the end of the file (2064 bytes)"},
    {bz64, 0x1f1, 1, 2, "truncated: 528 bytes"}, /* more setup leaves less code */
    {bz64, 0x1f4, 4, 0x1000, "truncated: 1040 bytes of kernel code follow, the header says 65536"},
    {bz64, 0x258, 8, 0x1000, "below 1 MiB"},
    {bz64, 0x258, 8, 0x10000000, "not in the guest's RAM (32 MiB below 4 GiB)"},
    {bz64, 0x258, 8, 0xfffffffffffff000, "not in the guest's RAM"},
    {bz64, 0x260, 4, 0xffffffff, "not in the guest's RAM"},
    {bz64, 0x202, 4, 0x12345678, "not a kernel: neither bzImage nor multiboot nor ELF"},
    {pvh64, EI_CLASS, 1, 3, "ELF of unknown class 3"},
    {pvh64, EI_DATA, 1, 2, "another machine"},
    {pvh64, 18, 2, EM_AARCH64, "ELF for another machine (type 183)"},
    {pvh64, 16, 2, ET_REL, "not a kernel: an ELF file of type 1"},
    {pvh64, P1_64, 4, PT_INTERP, "not a kernel: an ELF program that wants a dynamic linker"},
    {pvh64, 56, 2, 0, "0 program headers"},
    {pvh64, 56, 2, 65, "65 program headers"},
    {pvh64, 54, 2, 8, "program headers of 8 bytes"},
    {pvh64, 32, 8, 0xffffffffffffffc0, "ends before its program headers"},
    {pvh64, P0_64 + 8, 8, 0x380, "truncated: segment 0"},
    {pvh64, P0_64 + 8, 8, 0xffffffffffffff80, "truncated: segment 0"},
    {pvh64, P0_64 + 32, 8, 0xffffffffffffff80, "truncated: segment 0"},
    {pvh64, P0_64 + 40, 8, 0x10, "segment 0 is longer in the file than in memory"},
    {pvh64, P0_64 + 24, 8, RAM - 0x17f,
     "segment 0 at 0x1fffe81, 0x180 bytes long, is not in the guest's RAM"},
    {pvh64, P0_64 + 24, 8, 0xfffffffffffffff0, "is not in the guest's RAM"},
    {pvh64, P0_64 + 40, 8, 0xffffffffffffffff, "is not in the guest's RAM"},
    {pvh64, P0_64 + 24, 8, 0x8ff00, "overlaps the boot loader's own data at 0x70000-0x8ffff"},
    {pvh64, P0_64, 4, PT_NULL, "without anything to load"},
    {pvh64, 24, 8, 0x300000, "entry point 0x300000 is in no segment"},
    {pvh64, 0x1a4, 4, 0x7fffffff, "PVH entry point 0x7fffffff is not in RAM"},
    {multiboot_elf, 0x214, 4, 7, "neither bzImage nor"}, /* checksum wrong: plain ELF; see below */
    {multiboot_flat, 32, 4, 0x200020, "before the start of the file"},
    {multiboot_flat, 32, 4, 0x1fff00, "before the start of the file"},
    {multiboot_flat, 36, 4, 0x200401, "loads 1025 bytes, the file has 1024"},
    {multiboot_flat, 36, 4, 0x100000, "load end lies before"},
    {multiboot_flat, 40, 4, 0x200100, "BSS ends before"},
    {multiboot_flat, 40, 4, 0xffffffff, "its multiboot image at 0x200000"},
    {multiboot_flat, 44, 4, 0x300000, "entry point 0x300000 is not in it"},
};

START_TEST(bad_files)
{
    const Bad *b = &bad[_i];
    size_t size = b->make == bz64 ? BZ_SIZE : ELF_SIZE;
    uint8_t *file = b->make();
    put(file + b->at, b->value, b->size);
    if (b->make == multiboot_elf)
        file[0] = 0; /* and no ELF either */
    set_file(kernel_fd, file, size);
    load_fails(b->words);
    ck_assert(ram[0] == 0 &&
              !memcmp(ram, ram + 1, RAM - 1)); /* refused before a byte was written */
}
END_TEST

START_TEST(bad_multiboot_flags)
{
    static const struct {
        uint32_t flags;
        const char *words;
    } row[] = {
        {1 << 2, "demands a video mode"},
        {1 << 5, "demands unknown features (flags 0x20)"},
        {0, "no ELF file"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        uint8_t *b = multiboot_flat();
        multiboot_header(b + 16, row[i].flags);
        set_file(kernel_fd, b, ELF_SIZE);
        load_fails(row[i].words);
    }
}
END_TEST

START_TEST(overlapping_segments)
{
    uint8_t *b = elf64(false);
    memcpy(b + P1_64, b + P0_64, 56);
    put(b + P1_64 + 24, 0x10017f, 8);
    set_file(kernel_fd, b, ELF_SIZE);
    load_fails("segments 0 and 1 overlap");
    put(b + P1_64 + 24, 0x100180, 8); /* touching is not overlapping */
    set_file(kernel_fd, b, ELF_SIZE);
    load_ok();
}
END_TEST

START_TEST(bad_arguments)
{
    g_autofree char *line = g_strnfill(256, 'a');
    set_file(kernel_fd, bzimage(true), BZ_SIZE);
    info.append = line;
    load_fails("the command line has 256 bytes, the kernel takes at most 255");
    line[255] = 0;
    load_ok();
    info.append = NULL;

    info.initrd = initrd_path;
    load_fails("initrd '/proc/self/fd/");
    load_fails("is empty");
    ck_assert_int_eq(ftruncate(initrd_fd, RAM + 1), 0);
    load_fails("more than the guest's RAM below 4 GiB (32 MiB)");
    ck_assert_int_eq(ftruncate(initrd_fd, 0xe00001), 0); /* a byte too much beside the kernel */
    load_fails("do not fit between the kernel's end at 0x1200000 and 0x2000000");
    ck_assert_int_eq(ftruncate(initrd_fd, 0xe00000), 0);
    load_ok();
    info.initrd = "/nonexistent/initrd";
    load_fails("initrd '/nonexistent/initrd': No such file or directory");
    info.initrd = NULL;

    set_file(kernel_fd, "", 0);
    load_fails("is empty");
    set_file(kernel_fd, "#!/bin/sh\n", 10);
    load_fails("not a kernel");
    ck_assert_int_eq(ftruncate(kernel_fd, RAM + 1), 0);
    load_fails("more than the guest's RAM");
    info.kernel = "/nonexistent";
    load_fails("kernel '/nonexistent': No such file or directory");
    info.kernel = "/";
    load_fails("is a directory");
    info.kernel = "/dev/zero";
    load_fails("not a regular file");
}
END_TEST

START_TEST(too_little_ram)
{
    set_file(kernel_fd, bzimage(true), BZ_SIZE);
    info.ram_low = map.slot[0].size = 0x80000;
    load_fails("too little RAM");
    info.ram_low = map.slot[0].size = 0x180000;
    info.rsdp = 0xf0000;
    load_fails("too little RAM");
    info.rsdp = 0;
    load_fails("not in the guest's RAM (1 MiB below 4 GiB)");
}
END_TEST

typedef struct Sample {
    uint8_t *(*make)(void);
    size_t size, least; /* least: the shortest that still loads */
} Sample;
static const Sample samples[] = {
    {bz64, BZ_SIZE, BZ_SIZE - 15},    {pvh64, ELF_SIZE, 0x300},          {elf32, ELF_SIZE, 0x300},
    {multiboot_elf, ELF_SIZE, 0x300}, {multiboot_flat, ELF_SIZE, 0x200},
};

START_TEST(cut_at_every_length)
{
    const Sample *s = &samples[_i];
    uint8_t *file = s->make();
    with_initrd();
    for (size_t len = 0; len <= s->size; len++) {
        GError *err = NULL;
        set_file(kernel_fd, file, len);
        bool ok = boot_load(&info, &map, &boot, &err);
        ck_assert_msg(ok == (len >= s->least), "%zu of %zu bytes: %s", len, s->size,
                      ok ? "loaded" : err->message);
        g_clear_error(&err);
    }
}
END_TEST

/* Any change of the headers: loaded or refused with a message, never a crash or a write outside
 * RAM. */
START_TEST(changed_bytes)
{
    const Sample *s = &samples[_i];
    g_autofree uint8_t *copy = g_malloc(s->size);
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    with_initrd();
    size_t header = s->make == bz64 ? 0x290 : 0x240;
    for (size_t at = 0; at < header; at++) {
        for (unsigned v = 0; v < ARRAY_LEN(values); v++) {
            memcpy(copy, s->make(), s->size);
            if (copy[at] == values[v])
                continue;
            copy[at] = values[v];
            if (at + 1 < header && v == 4)
                copy[at + 1] = 0xff;
            GError *err = NULL;
            set_file(kernel_fd, copy, s->size);
            if (!boot_load(&info, &map, &boot, &err))
                ck_assert_ptr_nonnull(err);
            g_clear_error(&err);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loader");
    TCase *tc = tcase_create("good");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, linux64);
    tcase_add_test(tc, linux32);
    tcase_add_test(tc, linux_seed);
    tcase_add_test(tc, pvh);
    tcase_add_test(tc, plain_elf);
    tcase_add_test(tc, multiboot);
    suite_add_tcase(suite, tc);
    tc = tcase_create("bad");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, bad_files, 0, ARRAY_LEN(bad));
    tcase_add_test(tc, bad_multiboot_flags);
    tcase_add_test(tc, overlapping_segments);
    tcase_add_test(tc, bad_arguments);
    tcase_add_test(tc, too_little_ram);
    tcase_add_loop_test(tc, cut_at_every_length, 0, ARRAY_LEN(samples));
    tcase_add_loop_test(tc, changed_bytes, 0, ARRAY_LEN(samples));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
