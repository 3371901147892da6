/*
 * Accesses by the kernel's mirror (mirror_kernel.c): random loops of a kernel over pages that
 * it has at several addresses, singly and in a large page, by registers and by GS, with bases that
 * turn to other areas and out of all of them, and pages that change, go, or are no longer global
 * meanwhile; translated and interpreted. See jit_blocks.h.
 */
#define GUEST_ANYWHERE true    /* the mirror wants that part of the host's addresses */
#define GUEST_REACHES  0x10000 /* by the large page */
#include "jit_blocks.h"

extern const ExecSet exec_invlpg;

/* All show what address 0 does, or (LARGE on) all RAM there is. */
#define DIRECT 0xffff888000000000ull
#define IMAGE  0xffffffff80000000ull
#define LARGE  0x200000ull
#define DATA_2 (LARGE + DATA - G_RAM)

static unsigned page; /* whose entry changes */
static gva_t trap;    /* what the mirror would lead from to the test's own memory */

static const uint8_t bases[] = {RSI, RBP, R9, R12, H_NONE};

static gva_t somewhere(void)
{
    static const gva_t odd[] = {0,
                                0xfff8,
                                DIRECT - 8,
                                DIRECT + (1ull << 33) - 4,
                                DIRECT + (1ull << 33),
                                0xffff800000001000ull,
                                IMAGE + 0xffff,
                                1ull << 47,
                                0x4b0000001000ull,
                                ~7ull};
    if (one_in(60))
        return odd[below(ARRAY_LEN(odd))];
    if (one_in(8))
        return 0x1000 * below(14) + below(0xe00);
    if (one_in(4))
        return (one_in(2) ? IMAGE : DIRECT) + DATA_2 + 0x1000 + below(0xe00);
    return (one_in(3) ? IMAGE : DIRECT) + (one_in(2) ? page * 0x1000 : 0) + below(0xe00);
}

static void access_memory(Code *c)
{
    static const uint8_t ops[] = {0x01, 0x03, 0x89, 0x8b, 0x31, 0x39};
    HostMem m = {.base = bases[below(ARRAY_LEN(bases))],
                 .index = one_in(4) ? RBX : H_NONE,
                 .scale = (uint8_t)below(4),
                 .disp = one_in(6) ? (int32_t)below(0x8000) : (int32_t)below(0x200) - 0x100};
    unsigned size = 1u << below(4);
    if (m.base == H_NONE) {
        m.scale = 0;
        m.disp = (int32_t)below(0x8000);
        if (one_in(2))
            m.disp += (int32_t)IMAGE;
    }
    if (one_in(6)) { /* PUSH and POP */
        code8(c, one_in(2) ? 0x52 : 0x5a);
        return;
    }
    if (one_in(12)) { /* lea rdx, [rip+2]; call rdx, which is to what comes next */
        code_bytes(c, "\x48\x8d\x15\x02\0\0\0\xff\xd2", 9);
        return;
    }
    if (one_in(20)) { /* STI: what is behind it runs by itself */
        code8(c, 0xfb);
        return;
    }
    if (one_in(4)) { /* by GS, whose base is DIRECT's */
        code8(c, 0x65);
        m.base = one_in(3) ? RBX : H_NONE;
        m.index = H_NONE;
        m.disp = (int32_t)below(0x8000);
    }
    if (one_in(6)) { /* PUSH from memory */
        encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 6, .mem = &m});
        return;
    }
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = (uint8_t)(ops[below(ARRAY_LEN(ops))] - (size == 1)),
                     .w = size == 8,
                     .p66 = size == 2,
                     .rex = size == 1,
                     .modrm = true,
                     .reg = RDX,
                     .mem = &m});
}

/* All of the TLB goes: CR4.PGE. rdx changes. */
static void flush(Code *c)
{
    code_bytes(c, "\x0f\x20\xe2\x48\x0f\xba\xfa\x07\x0f\x22\xe2\x48\x0f\xba\xfa\x07\x0f\x22\xe2",
               19); /* mov rdx, cr4; btc rdx, 7; mov cr4, rdx; twice */
}

/* RDI points to the entry of one page; another one takes turns with the first. R13 is a trap. */
static void change_something(Code *c)
{
    if (one_in(3)) { /* xchg rax, r13; xchg rsi, r13 */
        code_bytes(c, one_in(2) ? "\x49\x95\x90" : "\x4c\x87\xee", 3);
        return;
    }
    if (one_in(6)) { /* xchg rsi, rbp: of other areas, it may be */
        code_bytes(c, "\x48\x87\xee", 3);
        return;
    }
    code_bytes(c, "\x4d\x87\xc2\x4c\x89\x07", 6); /* xchg r8, r10; mov [rdi], r8 */
    if (one_in(2)) {
        code_bytes(c, "\x41\x0f\x01\x3b\x41\x0f\x01\x3f", 8); /* invlpg [r11]; [r15] */
        code_bytes(c, "\x0f\x01\x3c\x25", 4);                 /* invlpg [...] */
        code32(c, page * 0x1000);
    } else {
        flush(c);
    }
}

static uint64_t random_entry(void)
{
    static const uint64_t rights[] = {0x163, 0x163, 0x163, 0x103, 0x123, 0x161, 0x101, 0x63, 0};
    return (DATA + 0x1000 * below(3)) | rights[below(ARRAY_LEN(rights))];
}

static void kernel_tables(void)
{
    tables();
    for (unsigned k = 0; k < 16; k++) /* global, accessed, written */
        put64(LOW_PT + 8 * k, (DATA + 0x1000 * (k & 1)) | 0x163);
    put64(LOW_PD + 8, G_RAM | 0x1e3);
    put64(G_PDPT + 8 * (IMAGE >> 30 & 511), LOW_PD | 3);
    put64(G_PML4 + 8 * (DIRECT >> 39 & 511), G_PDPT | 3);
    put64(G_PML4 + 8 * (IMAGE >> 39 & 511), G_PDPT | 3);
    put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
}

START_TEST(loops)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS;
    Jit *j = begin_jit();
    trap = (uintptr_t)memory - 0x4b0000000000ull + DIRECT;
    j->kernel_warm = 1;
    j->trace_paths = j->kernel_paths = 1;
    j->mirror_share = 0;
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[768];
        seed = k * 0x5851f42d4c957f2dull + 11;
        j->hot_after = 1 + below(2);
        j->warm_after = 2 + below(8);
        j->no_mirror = one_in(16);
        j->slow_pext = one_in(2);
        guest_long_mode();
        kernel_tables();
        page = below(14);
        registers(&guest.v.st);
        in = guest.v.st;
        in.cr4 |= CR4_PGE;
        in.seg[GS].base = DIRECT;
        for (unsigned r = 0; r < ARRAY_LEN(bases) - 1; r++)
            in.gpr[bases[r]] = somewhere();
        in.gpr[RBX] = below(64);
        in.gpr[RSP] = somewhere() & ~7ull;
        in.gpr[RCX] = 20 + below(60);
        in.gpr[RDI] = LOW_PT + 8 * page;
        in.gpr[R11] = DIRECT + page * 0x1000;
        in.gpr[R13] = one_in(2) ? trap + 0x200 + below(64) : somewhere();
        in.gpr[R15] = IMAGE + page * 0x1000;
        in.gpr[R8] = random_entry();
        in.gpr[R10] = one_in(2) ? in.gpr[R8] : random_entry();
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x4c\x89\x07", 3); /* mov [rdi], r8: as it is to be at first */
        flush(&c);
        const uint8_t *again = c.p;
        for (unsigned n = 4 + below(12); n; n--) {
            access_memory(&c);
            if (one_in(10)) { /* a base moves on */
                unsigned r = bases[below(4)];
                emit_lea(
                    &c, true, r,
                    (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = (int)below(64) - 24});
            }
        }
        if (one_in(2)) { /* now and then: and (rcx, 7) is 0 */
            code_bytes(&c, "\xf6\xc1\x07\x75", 4);
            uint8_t *over = c.p;
            code8(&c, 0);
            change_something(&c);
            *over = (uint8_t)(c.p - over - 1);
        }
        code_bytes(&c, "\xff\xc9\x0f\x85", 4); /* dec ecx; jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    if (!jit_kernel_out(j) || j->kernel_turns) {
        ck_assert_uint_gt(j->kernel_shown, n_rounds / 10);
        ck_assert_uint_gt(j->kernel_faults, n_rounds / 10);
        ck_assert_uint_gt(j->kernel_turns, n_rounds / 10);
    } else {
        fprintf(stderr, "the mirror: not on this host, or not beside this sanitizer\n");
    }
    guest_teardown();
}
END_TEST

/* A page that is written by the mirror, then has code, and is written again, and one near it. */
START_TEST(code_in_large_page)
{
    /* mov byte [rsi-1], 0xb8 (mov eax, imm32); mov byte [rsi+4], 0xc3 (ret); mov ecx, 40
     * 1: mov [rsi], ecx; dec ecx; jnz 1b; mov ecx, 40
     * 2: mov [rsi], ecx; call rbp; add ebx, eax; mov [rsi+0x2000], ecx; add ebx, [rsi+0x2000]
     * dec ecx; jnz 2b; hlt. Or the code is there before the page is shown: mov dword [rsi], 7;
     * call rbp before 1, which stores to [rsi+0x2000]. */
#define LATER                                                                    \
    "\xb9\x28\0\0\0\x89\x0e\xff\xd5\x01\xc3\x89\x8e\0\x20\0\0\x03\x9e\0\x20\0\0" \
    "\xff\xc9\x75\xea\xf4"
    static const char written_first[] = "\xc6\x46\xff\xb8\xc6\x46\x04\xc3\xb9\x28\0\0\0"
                                        "\x89\x0e\xff\xc9\x75\xfa" LATER;
    static const char code_first[] = "\xc6\x46\xff\xb8\xc6\x46\x04\xc3\xc7\x06\x07\0\0\0\xff\xd5"
                                     "\xb9\x28\0\0\0\x89\x8e\0\x20\0\0\xff\xc9\x75\xf6" LATER;
#undef LATER
    CpuState in;
    Jit *j = begin_jit();
    j->hot_after = 1;
    for (unsigned k = 0; k < 16; k++) {
        const gva_t at = (k & 1 ? IMAGE : DIRECT) + LARGE + 0x110000 + (k / 4) * 0x1000;
        const bool first = k & 2;
        jit_kernel_give_back(j); /* nothing is shown yet */
        seed = k;
        guest_long_mode();
        kernel_tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.cr4 |= CR4_PGE;
        in.gpr[RSI] = at + 1;
        in.gpr[RBP] = at;
        in.gpr[RBX] = 0;
        in.gpr[RSP] = IMAGE + 0x800;
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, (const uint8_t *)(first ? code_first : written_first),
                   (first ? sizeof(code_first) : sizeof(written_first)) - 1);
        ck_assert_uint_eq(guest.v.st.gpr[RBX], 2 * (40 * 41 / 2));
    }
    ck_assert(jit_kernel_out(j) || j->kernel_faults > 0);
    guest_teardown();
}
END_TEST

/* A kernel, where kernels are, gives other memory to a program's page. */
START_TEST(pages_of_programs)
{
    /* mov rax, imm64 (the next instruction, in the image's area); jmp rax; 1: add r8, [rsi];
     * xchg rbx, rbp; mov [rdi], rbx; invlpg [rsi]; add r8, [rsi]; rol r8, 1; dec ecx; jnz 1b; hlt
     */
    static uint8_t text[] = "\x48\xb8\0\0\0\0\0\0\0\0\xff\xe0\x4c\x03\x06\x48\x87\xeb\x48\x89\x1f"
                            "\x0f\x01\x3e\x4c\x03\x06\x49\xd1\xc0\xff\xc9\x75\xea\xf4";
    const gva_t body = IMAGE + LARGE + (G_CODE - G_RAM) + 12;
    uint64_t by_handler = 0;
    CpuState in;
    Jit *j = begin_jit();
    j->hot_after = 1;
    memcpy(text + 2, &body, 8);
    guest_long_mode();
    kernel_tables();
    registers(&guest.v.st);
    in = guest.v.st;
    in.cr4 |= CR4_PGE;
    in.gpr[RSI] = 0x3008;
    in.gpr[RDI] = LOW_PT + 8 * 3;
    in.gpr[RBX] = DATA | 0x63;
    in.gpr[RBP] = (DATA + 0x1000) | 0x63;
    in.gpr[R8] = 0;
    in.gpr[RCX] = 200; /* so that it is in the end as at first */
    put64(in.gpr[RDI], in.gpr[RBX]);
    in.gpr[RSP] = IMAGE + 0x800;
    n_cuts = 0;
    random_memory();
    must_agree(0, &in, text, sizeof(text) - 1);
    ck_assert_uint_eq(guest.v.st.gpr[RCX], 0);
    for (unsigned row = 0; row < op_rows_n; row++)
        if (op_rows[row].exec == &exec_invlpg)
            by_handler += j->row_helpers[row];
    ck_assert_uint_lt(by_handler, 100);
    guest_teardown();
}
END_TEST

/* What a kernel runs is translated earlier once there are programs; where its accesses are is noted
 * before, of what has run often enough by then as well. */
START_TEST(programs_come)
{
    /* 1: mov [rsi], ecx; add ebx, [rsi]; dec ecx; jnz 1b; hlt */
    static const uint8_t text[] = "\x89\x0e\x03\x1e\xff\xc9\x75\xf8\xf4";
    CpuState in;
    Jit *j = begin_jit();
    j->hot_after = JIT_HOT;
    guest_long_mode();
    kernel_tables();
    registers(&guest.v.st);
    in = guest.v.st;
    in.cr4 |= CR4_PGE;
    in.gpr[RSI] = DIRECT + 0x208;
    in.gpr[RCX] = JIT_HOT - 2;
    in.gpr[RSP] = IMAGE + 0x800;
    n_cuts = 0;
    random_memory();
    must_agree(0, &in, text, sizeof(text) - 1);
    ck_assert_uint_eq(j->blocks, 0);
    j->programs = true;
    must_agree(1, &in, text, sizeof(text) - 1);
    ck_assert_uint_gt(j->blocks, 0);
    ck_assert(jit_kernel_out(j) || j->kernel_shown > 0);
    jit_give_back(j); /* as when the guest has been idle */
    uint64_t made = j->blocks;
    in.gpr[RCX] = 4 * JIT_HOT;
    must_agree(2, &in, text, sizeof(text) - 1);
    ck_assert_uint_eq(j->blocks, made);
    in.gpr[RCX] = 20 * JIT_HOT; /* it is not idle any more */
    must_agree(3, &in, text, sizeof(text) - 1);
    ck_assert_uint_gt(j->blocks, made);
    jit_give_back(j);
    made = j->blocks;
    in.gpr[RCX] = JIT_HOT;
    j->programs = true;
    must_agree(4, &in, text, sizeof(text) - 1);
    ck_assert_uint_gt(j->blocks, made);
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {loops, code_in_large_page, pages_of_programs, programs_come};
    return jit_suite("jit_mirror_kernel", tests, ARRAY_LEN(tests));
}
