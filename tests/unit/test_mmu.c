/* Page walks, rights, error codes, accessed and dirty bits, the TLB, and odd accesses. */
#include "sys_guest.h"
#include "run_suite.h"

enum Paging { P32, P32_4M, PAE, PAE_2M, L4, L4_2M, L4_1G, PAGINGS };

/* Top table first. Linear address and frame fit every mode. */
#define TABLE(n) (0x10000ull + 0x1000 * (n))
#define LIN32    0x12345678ull
#define LIN64    0xffff812345678abcull
#define FRAME    0x800000ull

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX BIT(63)

typedef struct Map {
    enum Paging paging;
    gva_t lin;
    unsigned levels, entry_size;
    gpa_t entry[4]; /* of each level used, leaf last */
    unsigned leaf_shift;
} Map;

static Map map;

/* Maps lin: `up` in all upper entries, `leaf` in the last; frame is added. */
static void make_map(enum Paging paging, uint64_t up, uint64_t leaf, uint64_t frame)
{
    static const uint8_t levels[PAGINGS] = {2, 1, 2, 1, 4, 3, 2};
    static const uint8_t shift[PAGINGS] = {12, 22, 12, 21, 12, 21, 30};
    bool wide = paging >= PAE, lma = paging >= L4;
    map = (Map){.paging = paging,
                .lin = lma ? LIN64 : LIN32,
                .levels = levels[paging],
                .entry_size = wide ? 8 : 4,
                .leaf_shift = shift[paging]};
    S->cr0 = CR0_PE | CR0_PG | CR0_ET;
    S->cr4 = (wide ? CR4_PAE : 0) | CR4_PSE | CR4_PGE;
    S->efer = lma ? EFER_LME | EFER_LMA : 0;
    S->cr3 = TABLE(0);
    unsigned top = lma ? 39 : wide ? 21 : 22, bits_per = wide ? 9 : 10;
    for (unsigned n = 0; n < map.levels; n++) {
        unsigned at_shift = top - n * bits_per;
        uint64_t index = map.lin >> at_shift & (BIT(bits_per) - 1);
        map.entry[n] = TABLE(n) + index * map.entry_size;
        uint64_t v =
            n + 1 == map.levels ? frame | leaf | (map.leaf_shift > 12 ? PS : 0) : TABLE(n + 1) | up;
        ram_put(map.entry[n], v, map.entry_size);
    }
    if (paging == PAE || paging == PAE_2M)
        S->pdpte[map.lin >> 30] = TABLE(0) | P;
    tcg_update_mode(S, T);
    tlb_flush(T);
}

static uint64_t entry(unsigned n)
{
    return ram_get(map.entry[n], map.entry_size);
}

#define OK 0x100u /* no fault */

typedef struct Case {
    const char *name;
    uint64_t up, leaf;
    uint64_t cr0, cr4, efer;
    enum Access access;
    enum MmuMode mode;
    unsigned want; /* OK or the error code */
} Case;

/* For every paging mode. */
static const Case cases[] = {
    {"kernel read", P, P, 0, 0, 0, ACC_READ, MMU_KERNEL, OK},
    {"kernel write", P | W, P | W, 0, 0, 0, ACC_WRITE, MMU_KERNEL, OK},
    {"kernel write, WP off", P, P, 0, 0, 0, ACC_WRITE, MMU_KERNEL, OK},
    {"kernel write, WP on", P | W, P, CR0_WP, 0, 0, ACC_WRITE, MMU_KERNEL, 3},
    {"kernel exec", P, P, 0, 0, 0, ACC_EXEC, MMU_KERNEL, OK},
    {"user read", P | U, P | U, 0, 0, 0, ACC_READ, MMU_USER, OK},
    {"user read of supervisor leaf", P | U, P, 0, 0, 0, ACC_READ, MMU_USER, 5},
    {"user write of read-only", P | U | W, P | U, 0, 0, 0, ACC_WRITE, MMU_USER, 7},
    {"user exec of supervisor", P | U, P, 0, 0, 0, ACC_EXEC, MMU_USER, 5},
    {"user exec of supervisor, SMEP", P | U, P, 0, CR4_SMEP, 0, ACC_EXEC, MMU_USER, 0x15},
    {"absent", P, 0, 0, 0, 0, ACC_READ, MMU_KERNEL, 0},
    {"absent, user write", P | U | W, U | W, 0, 0, 0, ACC_WRITE, MMU_USER, 6},
    {"absent, fetch, SMEP", P, 0, 0, CR4_SMEP, 0, ACC_EXEC, MMU_KERNEL, 0x10},
    {"SMEP", P | U, P | U, 0, CR4_SMEP, 0, ACC_EXEC, MMU_KERNEL, 0x11},
    {"SMEP lets supervisor pages run", P | U, P, 0, CR4_SMEP, 0, ACC_EXEC, MMU_KERNEL, OK},
    {"SMAP read", P | U, P | U, 0, CR4_SMAP, 0, ACC_READ, MMU_KERNEL, 1},
    {"SMAP write", P | U | W, P | U | W, 0, CR4_SMAP, 0, ACC_WRITE, MMU_KERNEL, 3},
    {"SMAP, AC", P | U | W, P | U | W, 0, CR4_SMAP, 0, ACC_WRITE, MMU_KERNEL_AC, OK},
    {"SMAP, user", P | U, P | U, 0, CR4_SMAP, 0, ACC_READ, MMU_USER, OK},
};

/* Only where entries are 8 bytes. */
static const Case wide_cases[] = {
    {"NX fetch", P, P | NX, 0, 0, EFER_NXE, ACC_EXEC, MMU_KERNEL, 0x11},
    {"NX read", P, P | NX, 0, 0, EFER_NXE, ACC_READ, MMU_KERNEL, OK},
    {"NX without NXE is reserved", P, P | NX, 0, 0, 0, ACC_READ, MMU_KERNEL, 9},
    {"absent fetch with NXE", P, 0, 0, 0, EFER_NXE, ACC_EXEC, MMU_USER, 0x14},
    {"bit 40 is above MAXPHYADDR", P, P | BIT(40), 0, 0, 0, ACC_READ, MMU_KERNEL, 9},
    {"reserved, user write", P | U | W, P | U | W | BIT(51), 0, 0, 0, ACC_WRITE, MMU_USER, 0xf},
    {"reserved comes before rights", P | U, P | BIT(45), 0, 0, 0, ACC_WRITE, MMU_USER, 0xf},
    {"absent comes before reserved", P, BIT(45), 0, 0, 0, ACC_READ, MMU_KERNEL, 0},
};

static void run_case(enum Paging paging, const Case *c)
{
    gpa_t gpa = 0;
    uint64_t before[4];
    uint64_t frame = paging == L4_1G ? 0 : FRAME;
    make_map(paging, c->up, c->leaf, frame);
    S->cr0 |= c->cr0;
    S->cr4 |= c->cr4;
    S->efer |= c->efer;
    for (unsigned n = 0; n < map.levels; n++)
        before[n] = entry(n);
    memset(&T->exc, 0, sizeof(T->exc));
    Fault f = mmu_translate(S, T, map.lin, c->access, c->mode, &gpa);
    unsigned got = f == FAULT_NONE ? OK : T->exc.error;
    ck_assert_msg(got == c->want, "paging %d, %s: %#x, not %#x", paging, c->name, got, c->want);
    if (f) {
        ck_assert_int_eq(f, FAULT_EXC);
        ck_assert_uint_eq(T->exc.vector, VEC_PF);
        ck_assert_uint_eq(T->exc.cr2, map.lin);
    } else {
        ck_assert_uint_eq(gpa, frame | (map.lin & (BIT(map.leaf_shift) - 1)));
    }
    for (unsigned n = 0; n < map.levels; n++) {
        bool leaf = n + 1 == map.levels;
        uint64_t set = f ? 0 : A | (leaf && c->access == ACC_WRITE ? D : 0);
        ck_assert_msg(entry(n) == (before[n] | set), "paging %d, %s: entry %u is %#lx, was %#lx",
                      paging, c->name, n, (unsigned long)entry(n), (unsigned long)before[n]);
    }
}

START_TEST(rights)
{
    for (unsigned p = 0; p < PAGINGS; p++)
        for (unsigned k = 0; k < ARRAY_LEN(cases); k++)
            run_case((enum Paging)p, &cases[k]);
    for (unsigned p = PAE; p < PAGINGS; p++)
        for (unsigned k = 0; k < ARRAY_LEN(wide_cases); k++)
            run_case((enum Paging)p, &wide_cases[k]);
}
END_TEST

/* The rights of the upper levels count as much. */
START_TEST(upper_levels)
{
    static const Case c[] = {
        {"upper supervisor", P | W, P | W | U, 0, 0, 0, ACC_READ, MMU_USER, 5},
        {"upper read-only", P | U, P | W | U, 0, 0, 0, ACC_WRITE, MMU_USER, 7},
        {"upper absent", 0, P | W | U, 0, 0, 0, ACC_READ, MMU_USER, 4},
    };
    static const enum Paging p[] = {P32, PAE, L4, L4_2M, L4_1G};
    for (unsigned k = 0; k < ARRAY_LEN(c); k++)
        for (unsigned n = 0; n < ARRAY_LEN(p); n++)
            run_case(p[n], &c[k]);
    static const Case nx = {"upper NX", P | NX, P, 0, 0, EFER_NXE, ACC_EXEC, MMU_KERNEL, 0x11};
    for (unsigned n = 1; n < ARRAY_LEN(p); n++)
        run_case(p[n], &nx);
}
END_TEST

static unsigned read_error(void)
{
    gpa_t gpa;
    return mmu_translate(S, T, map.lin, ACC_READ, MMU_KERNEL, &gpa) ? T->exc.error : OK;
}

START_TEST(reserved_bits_of_large_pages)
{
    make_map(P32_4M, 0, P | BIT(21), FRAME);
    ck_assert_uint_eq(read_error(), 9);
    make_map(P32_4M, 0, P | BIT(20), FRAME); /* bit 39 of the address: below MAXPHYADDR 40 */
    ck_assert_uint_eq(read_error(), OK);
    T->phys_bits = 36;
    ck_assert_uint_eq(read_error(), 9);
    T->features[FEAT_PSE36] = 0;
    make_map(P32_4M, 0, P | BIT(13), FRAME);
    ck_assert_uint_eq(read_error(), 9);
    T->phys_bits = 40;
    make_map(PAE_2M, 0, P | BIT(13), FRAME);
    ck_assert_uint_eq(read_error(), 9);
    make_map(L4_2M, P, P | BIT(12), FRAME); /* PAT */
    ck_assert_uint_eq(read_error(), OK);
    make_map(L4_1G, P, P | BIT(29), 0);
    ck_assert_uint_eq(read_error(), 9);
    make_map(L4_1G, P, P, 0);
    T->features[FEAT_PDPE1GB] = 0;
    ck_assert_uint_eq(read_error(), 9);
    make_map(L4, P, P, FRAME);
    ram_put(map.entry[0], TABLE(1) | P | PS, 8); /* PS in a PML4E */
    ck_assert_uint_eq(read_error(), 9);
    S->cr4 = 0;
    make_map(P32_4M, 0, P, TABLE(1));
    S->cr4 &= ~(uint64_t)CR4_PSE; /* then PS is ignored: it points to a table */
    ram_put(TABLE(1) + 4 * bits(LIN32, 21, 12), FRAME | P, 4);
    ck_assert_uint_eq(read_error(), OK);
}
END_TEST

START_TEST(pse36_address)
{
    gpa_t gpa;
    make_map(P32_4M, 0, P | 5u << 13, FRAME);
    ck_assert_int_eq(mmu_translate(S, T, LIN32, ACC_READ, MMU_KERNEL, &gpa), FAULT_NONE);
    ck_assert_uint_eq(gpa, (5ull << 32 | FRAME) + (LIN32 & 0x3fffff));
}
END_TEST

START_TEST(pae_pointers)
{
    make_map(PAE, P, P, FRAME);
    S->pdpte[0] = 0;
    ck_assert_uint_eq(read_error(), 0);
    /* Loaded and checked at MOV to CR3; only then. */
    ram_put(0x20000, TABLE(0) | P, 8);
    ram_put(0x20008, BIT(1), 8); /* absent: its reserved bits do not count */
    ck_assert_int_eq(write_cr3(S, T, 0x20000), FAULT_NONE);
    ck_assert_uint_eq(read_error(), OK);
    ram_put(0x20008, P | BIT(1), 8);
    ck_assert_uint_eq(read_error(), OK);
    ck_assert_int_eq(write_cr3(S, T, 0x20000), FAULT_EXC);
    ck_assert_uint_eq(T->exc.vector, VEC_GP);
    ram_put(0x20008, P | BIT(40), 8);
    ck_assert_int_eq(write_cr3(S, T, 0x20000), FAULT_EXC);
}
END_TEST

START_TEST(non_canonical)
{
    uint64_t v;
    make_map(L4, P, P, FRAME);
    T->code64 = true;
    ck_assert_int_eq(mem_read(S, T, 0x800000000000ull, 4, &v), FAULT_EXC);
    ck_assert_uint_eq(T->exc.vector, VEC_GP);
    ck_assert_uint_eq(T->exc.error, 0);
    ck_assert(T->exc.noncanonical);
}
END_TEST

START_TEST(dirty_bit_and_tags)
{
    uint64_t v;
    make_map(L4, P | W, P | W, FRAME);
    ck_assert_int_eq(mem_read(S, T, LIN64, 4, &v), FAULT_NONE);
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_WRITE)); /* D is still clear */
    ck_assert(!(entry(3) & D));
    ck_assert_int_eq(mem_write(S, T, LIN64, 4, 0x11223344), FAULT_NONE);
    ck_assert(entry(3) & D);
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_WRITE));
    ck_assert_uint_eq(ram_get(FRAME + (LIN64 & 0xfff), 4), 0x11223344);
    ck_assert_ptr_null(tlb_hit(T, MMU_USER, LIN64, 4, ACC_READ));
}
END_TEST

START_TEST(flushes)
{
    uint64_t v;
    make_map(L4, P | W, P | W | G, FRAME);
    mem_read(S, T, LIN64, 4, &v);
    tlb_flush_non_global(T);
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    tlb_flush_page(T, LIN64 + 0x1000);
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    tlb_flush_page(T, LIN64 | 1);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    make_map(L4, P | W, P | W, FRAME);
    mem_read(S, T, LIN64, 4, &v);
    tlb_flush_non_global(T);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    /* INVLPG anywhere in a large page drops all of it. */
    make_map(L4_2M, P | W, P | W | G, FRAME);
    mem_read(S, T, LIN64, 4, &v);
    tlb_flush_page(T, LIN64 ^ 0x100000);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    /* A global page mapped where an entry of another kind was. */
    make_map(L4, P | W, P | W, FRAME);
    mem_read(S, T, LIN64, 4, &v);
    S->cr4 &= ~(uint64_t)CR4_PGE;
    ram_put(map.entry[3], FRAME | P | W | G, 8);
    tlb_flush(T);
    mem_read(S, T, LIN64, 4, &v);
    tlb_flush_non_global(T);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
}
END_TEST

/* What each PCID has in the TLB is its own; bit 63 of what goes to CR3 keeps it (SDM vol. 3,
 * 4.10.4.1). */
START_TEST(pcids)
{
    uint64_t v;
    make_map(L4, P | W, P | W, FRAME);
    uint64_t cr3 = S->cr3;
    T->features[FEAT_PCID] = 1;
    ck_assert_int_eq(write_cr4(S, T, S->cr4 | CR4_PCIDE), FAULT_NONE);
    mem_read(S, T, LIN64, 4, &v);
    uint64_t gen = T->map_gen;
    ck_assert_int_eq(write_cr3(S, T, cr3 | 1), FAULT_NONE);
    ck_assert_uint_ne(T->map_gen, gen);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    ck_assert_int_eq(write_cr3(S, T, cr3 | BIT(63)), FAULT_NONE);
    ck_assert_uint_eq(S->cr3, cr3);
    ck_assert_uint_eq(T->map_gen, gen);
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    /* Without the bit it is dropped. */
    write_cr3(S, T, cr3 | 1 | BIT(63));
    write_cr3(S, T, cr3);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    ck_assert_uint_ne(T->map_gen, gen);
    /* From another PCID: by INVPCID, by an address, by a flush of all. */
    for (unsigned how = 0; how < 4; how++) {
        mem_read(S, T, LIN64, 4, &v);
        gen = T->map_gen;
        write_cr3(S, T, cr3 | 1 | BIT(63));
        if (how == 0)
            tlb_flush_pcid(T, 0);
        else if (how == 1)
            tlb_flush_page(T, LIN64);
        else if (how == 2)
            tlb_flush(T);
        else
            tlb_flush_pcids(T);
        write_cr3(S, T, cr3 | BIT(63));
        ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
        if (how != 1)
            ck_assert_uint_ne(T->map_gen, gen);
    }
    /* More PCIDs than are kept. */
    mem_read(S, T, LIN64, 4, &v);
    for (unsigned k = 1; k < 40; k++) {
        write_cr3(S, T, cr3 | k | BIT(63));
        ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
        mem_read(S, T, LIN64, 4, &v);
    }
    tlb_forget_code(T);
    gen = T->map_gen;
    write_cr3(S, T, cr3 | 38 | BIT(63));
    ck_assert_ptr_nonnull(tlb_hit(T, MMU_KERNEL, LIN64, 4, ACC_READ));
    ck_assert_uint_ne(T->map_gen, gen);
}
END_TEST

/* map_gen moves when code may be elsewhere now, and only then. */
START_TEST(flushes_and_code)
{
    gpa_t gpa;
    make_map(L4, P | W, P | W, FRAME);
    ck_assert_int_eq(mmu_translate(S, T, LIN64, ACC_EXEC, MMU_KERNEL, &gpa), FAULT_NONE);
    uint32_t gen = T->map_gen;
    tlb_flush_page(T, LIN64 + 0x1000);
    ck_assert_uint_eq(T->map_gen, gen);
    tlb_flush_page(T, LIN64 & ~0xfffull);
    ck_assert_uint_ne(T->map_gen, gen);
    gen = T->map_gen;
    tlb_flush_page(T, LIN64); /* nothing fetched since */
    ck_assert_uint_eq(T->map_gen, gen);
    tlb_flush_non_global(T);
    ck_assert_uint_ne(T->map_gen, gen);
    make_map(L4_2M, P | W, P | W, FRAME);
    ck_assert_int_eq(mmu_translate(S, T, LIN64, ACC_EXEC, MMU_KERNEL, &gpa), FAULT_NONE);
    gen = T->map_gen;
    tlb_flush_page(T, LIN64 ^ 0x100000);
    ck_assert_uint_ne(T->map_gen, gen);
}
END_TEST

/* What was fetched from global pages outlives a change of CR3, and nothing else. */
START_TEST(flushes_and_global_code)
{
    gpa_t gpa;
    make_map(L4, P | W, P | W | G, FRAME);
    S->cr4 |= CR4_PGE;
    uint64_t gen = T->global_gen, map_gen = T->map_gen;
    for (unsigned how = 0; how < 4; how++) {
        ck_assert_int_eq(mmu_translate(S, T, LIN64, ACC_EXEC, MMU_KERNEL, &gpa), FAULT_NONE);
        tlb_flush_non_global(T);
        ck_assert_uint_ne(T->map_gen, map_gen);
        tlb_flush_page(T, LIN64 + 0x1000);
        ck_assert_uint_eq(T->global_gen, gen);
        if (how == 0)
            tlb_flush_page(T, LIN64);
        else if (how == 1)
            tlb_flush(T);
        else if (how == 2)
            tlb_forget_code(T);
        else
            write_cr4(S, T, S->cr4 & ~(uint64_t)CR4_PGE);
        ck_assert_uint_ne(T->global_gen, gen);
        gen = T->global_gen;
        map_gen = T->map_gen;
    }
    make_map(L4_2M, P | W, P | W | G, FRAME);
    S->cr4 |= CR4_PGE;
    ck_assert_int_eq(mmu_translate(S, T, LIN64, ACC_EXEC, MMU_KERNEL, &gpa), FAULT_NONE);
    gen = T->global_gen;
    tlb_flush_non_global(T);
    tlb_flush_page(T, LIN64 ^ 0x100000);
    ck_assert_uint_ne(T->global_gen, gen);
}
END_TEST

/* A write over two pages of which the second faults writes nothing. */
START_TEST(page_crossing)
{
    uint64_t v;
    make_map(P32, P | W | U, P | W, FRAME);
    gva_t last = (LIN32 | 0xfff) - 1;
    ram_put(FRAME + 0xffe, 0x5555, 2);
    ck_assert_int_eq(mem_write(S, T, last, 4, 0xaabbccdd), FAULT_EXC);
    ck_assert_uint_eq(T->exc.cr2, last + 2);
    ck_assert_uint_eq(T->exc.error, 2);
    ck_assert_uint_eq(ram_get(FRAME + 0xffe, 2), 0x5555);
    ram_put(map.entry[1] + 4, (FRAME + 0x5000) | P | W, 4);
    ck_assert_int_eq(mem_write(S, T, last, 4, 0xaabbccdd), FAULT_NONE);
    ck_assert_uint_eq(ram_get(FRAME + 0xffe, 2), 0xccdd);
    ck_assert_uint_eq(ram_get(FRAME + 0x5000, 2), 0xaabb);
    ck_assert_int_eq(mem_read(S, T, last, 4, &v), FAULT_NONE);
    ck_assert_uint_eq(v, 0xaabbccdd);
    uint8_t buf[5000];
    ck_assert_int_eq(mem_read_bytes(S, T, LIN32, buf, sizeof(buf)), FAULT_NONE);
    ck_assert_int_eq(mem_probe_write(S, T, LIN32, 8192), FAULT_EXC);
    ck_assert_uint_eq(T->exc.cr2, (LIN32 | 0xfff) + 0x1001);
    void *host;
    ck_assert_int_eq(mem_rmw(S, T, last, 4, &host), FAULT_NONE);
    ck_assert_ptr_null(host);
    ck_assert_int_eq(mem_rmw(S, T, last - 2, 4, &host), FAULT_NONE);
    ck_assert_ptr_eq(host, g.ram + FRAME + 0xffc);
}
END_TEST

START_TEST(wrap_at_4g)
{
    /* No paging: the last bytes are ROM, then address 0. */
    uint64_t v;
    S->cr0 = CR0_PE;
    tcg_update_mode(S, T);
    ram_put(0, 0x1234, 2);
    ck_assert_int_eq(mem_read(S, T, 0xfffffffe, 4, &v), FAULT_NONE);
    ck_assert_uint_eq(v, 0x1234c3c3);
}
END_TEST

START_TEST(devices_and_rom)
{
    uint64_t v;
    S->cr0 = CR0_PE;
    tcg_update_mode(S, T);
    ck_assert_int_eq(mem_read(S, T, 0xfee00020, 4, &v), FAULT_NONE);
    ck_assert_uint_eq(v, 0x44332211);
    ck_assert_int_eq(mem_write(S, T, 0xfee000b0, 2, 0xabcd1234), FAULT_NONE);
    ck_assert_int_eq(mem_write(S, T, 0xfffff004, 1, 0x77), FAULT_NONE); /* ROM */
    ck_assert_uint_eq(g.bus_n, 3);
    ck_assert_uint_eq(g.bus_at[0], 0xfee00020);
    ck_assert_uint_eq(g.bus_at[1], 0xfee000b0 | BIT(63));
    ck_assert_uint_eq(g.bus_value[1], 0x1234);
    ck_assert_uint_eq(g.bus_size[1], 2);
    ck_assert_uint_eq(g.bus_at[2], 0xfffff004 | BIT(63));
    ck_assert_uint_eq(g.rom[4], 0xc3);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, 0xfee00000, 4, ACC_READ));
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, 0xfffff000, 4, ACC_WRITE));
    void *host;
    ck_assert_int_eq(mem_rmw(S, T, 0xfee00000, 4, &host), FAULT_NONE);
    ck_assert_ptr_null(host);
}
END_TEST

START_TEST(alignment_check)
{
    uint64_t v;
    S->cr0 = CR0_PE | CR0_AM;
    S->seg[SS].attr |= SEG_DPL;
    flags_set(S, T, FL_FIXED | FL_AC);
    tcg_update_mode(S, T);
    ck_assert(T->align_check);
    ck_assert_int_eq(mem_read(S, T, 0x1000, 4, &v), FAULT_NONE);
    ck_assert_int_eq(mem_read(S, T, 0x1002, 4, &v), FAULT_EXC);
    ck_assert_uint_eq(T->exc.vector, VEC_AC);
    ck_assert_int_eq(mem_write(S, T, 0x1001, 2, 0), FAULT_EXC);
    ck_assert_int_eq(mem_read_mode(S, T, 0x1001, 2, MMU_KERNEL, &v), FAULT_NONE);
    flags_set(S, T, FL_FIXED);
    ck_assert_int_eq(mem_read(S, T, 0x1002, 4, &v), FAULT_NONE);
}
END_TEST

START_TEST(data_breakpoints)
{
    uint64_t v;
    S->cr0 = CR0_PE;
    tcg_update_mode(S, T);
    S->dr[1] = 0x2004;
    S->dr7 = DR7_FIXED1 | 1u << 2 | 1u << 20 | 3u << 22; /* L1, write, 4 bytes */
    tlb_flush(T);
    mem_read(S, T, 0x2004, 4, &v);
    ck_assert_uint_eq(T->trap_dr6, 0);
    mem_write(S, T, 0x2008, 4, 1);
    mem_write(S, T, 0x2003, 1, 1);
    ck_assert_uint_eq(T->trap_dr6, 0);
    mem_write(S, T, 0x2007, 1, 1);
    ck_assert_uint_eq(T->trap_dr6, 2);
    ck_assert_ptr_null(tlb_hit(T, MMU_KERNEL, 0x2000, 1, ACC_WRITE));
    T->trap_dr6 = 0;
    S->dr7 |= 3u << 20; /* read or write */
    mem_read(S, T, 0x2000, 8, &v);
    ck_assert_uint_eq(T->trap_dr6, 2);
}
END_TEST

START_TEST(debug_view)
{
    gpa_t gpa;
    make_map(L4, P, P, FRAME);
    uint64_t before = entry(3);
    ck_assert(mmu_debug_translate(S, &g.vm, LIN64, &gpa));
    ck_assert_uint_eq(gpa, FRAME | (LIN64 & 0xfff));
    ck_assert_uint_eq(entry(3), before);
    ck_assert(!mmu_debug_translate(S, &g.vm, LIN64 + 0x1000, &gpa));
    ck_assert(!mmu_debug_translate(S, &g.vm, 0x800000000000ull, &gpa));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mmu");
    TCase *c = tcase_create("mmu");
    tcase_add_checked_fixture(c, sys_setup, sys_teardown);
    tcase_add_test(c, rights);
    tcase_add_test(c, upper_levels);
    tcase_add_test(c, reserved_bits_of_large_pages);
    tcase_add_test(c, pse36_address);
    tcase_add_test(c, pae_pointers);
    tcase_add_test(c, non_canonical);
    tcase_add_test(c, dirty_bit_and_tags);
    tcase_add_test(c, flushes);
    tcase_add_test(c, pcids);
    tcase_add_test(c, flushes_and_code);
    tcase_add_test(c, flushes_and_global_code);
    tcase_add_test(c, page_crossing);
    tcase_add_test(c, wrap_at_4g);
    tcase_add_test(c, devices_and_rom);
    tcase_add_test(c, alignment_check);
    tcase_add_test(c, data_breakpoints);
    tcase_add_test(c, debug_view);
    suite_add_tcase(s, c);
    return run_suite(s);
}
