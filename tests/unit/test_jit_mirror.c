/*
 * Accesses by the mirror (mirror.c, bits.c): random loops over a few pages of both its
 * areas, with indices that are small and some that are not, bases that point elsewhere, and pages
 * that change or lose rights meanwhile; translated and interpreted. See jit_blocks.h.
 */
#define GUEST_ANYWHERE true /* the mirror wants that part of the host's addresses */
#include <pthread.h>
#include <stdatomic.h>
#include "jit_blocks.h"

/* Both show what address 0 does. The mirror has the second where the first would be without it. */
#define LOW  0x8000000000ull
#define HIGH (LOW + (1ull << 46))

static unsigned page; /* whose entry changes */
/* What an address must be for the mirror to lead to the test's own memory. */
static gva_t trap[2];

static const uint8_t bases[] = {RSI, RBP, R9, R12, H_NONE};
static const uint8_t indices[] = {RAX, RBX, R14};

static gva_t somewhere(void)
{
    static const gva_t odd[] = {0,
                                0xfff8,
                                (1ull << 40) - 8,
                                1ull << 40,
                                1ull << 46,
                                (1ull << 47) - 4,
                                1ull << 47,
                                HIGH + 0xffff,
                                (1ull << 42) + 0x1000,
                                0xffff800000001000ull,
                                ~7ull};
    if (one_in(80))
        return odd[below(ARRAY_LEN(odd))];
    return (one_in(2) ? HIGH : LOW) + (one_in(2) ? page * 0x1000 : 0) + below(0xe00);
}

/* An instruction that changes an index. */
static void change_index(Code *c)
{
    unsigned r = indices[below(3)], from = indices[below(3)];
    Enc e = {.map = MAP_1B, .modrm = true, .w = one_in(2), .rm = (uint8_t)r};
    HostMem m = {.base = (uint8_t)from, .index = (uint8_t)r, .scale = (uint8_t)below(3), .disp = 3};
    switch (below(13)) {
    case 0: /* MOVZX, MOVSX */
        e.map = MAP_0F;
        e.opcode = (uint8_t)((one_in(2) ? 0xb6 : 0xbe) + one_in(2));
        e.reg = (uint8_t)r;
        e.rm = (uint8_t)from;
        e.rex = true;
        break;
    case 1: /* with a number */
    case 2:
        e.opcode = one_in(2) ? 0x81 : 0x83;
        e.reg = (uint8_t)below(7);
        e.imm = (int64_t[]){0, 7, 0x7f, -16, -128, 3, 1}[below(7)];
        e.imm_size = e.opcode == 0x83 ? 1 : 4;
        break;
    case 3: /* by a number */
        e.opcode = 0xc1;
        e.reg = (uint8_t[]){4, 5, 7}[below(3)];
        e.imm = below(6);
        e.imm_size = 1;
        break;
    case 4: /* a register with another */
        e.opcode = (uint8_t)(8 * below(7) + (one_in(2) ? 1 : 3));
        e.reg = (uint8_t)from;
        break;
    case 5: /* MOVSXD, MOV */
        e.opcode = (uint8_t[]){0x63, 0x89, 0x8b}[below(3)];
        e.reg = (uint8_t)from;
        break;
    case 6: /* INC, DEC; NOT, NEG */
        e.opcode = one_in(2) ? 0xff : 0xf7;
        e.reg = (uint8_t)(below(2) + (e.opcode == 0xf7 ? 2 : 0));
        break;
    case 7: /* IMUL */
        e.opcode = 0x6b;
        e.reg = (uint8_t)r;
        e.rm = (uint8_t)from;
        e.imm = (int)below(9) - 4;
        e.imm_size = 1;
        break;
    case 8:
        emit_lea(c, e.w, r, m);
        return;
    case 9: /* CWDE, CDQE; CDQ, CQO */
        e.modrm = false;
        e.opcode = 0x98 + one_in(4);
        break;
    case 11: /* a number */
        emit_imm32(c, r, one_in(8) ? (uint32_t)rnd() : below(0x300));
        return;
    case 10: /* CMOVcc */
        e.map = MAP_0F;
        e.opcode = (uint8_t)(0x40 + below(16));
        e.reg = (uint8_t)from;
        break;
    default: /* makes it small again */
        e.opcode = 0x81;
        e.reg = 4;
        e.imm = 0x3f8;
        e.imm_size = 4;
    }
    encode(c, &e);
}

/* Neither flags nor the bases change. */
static void leave_flags(Code *c)
{
    static const uint8_t registers[] = {RAX, RBX, R14, RDX};
    uint8_t to = registers[below(4)], from = registers[below(4)];
    HostMem sum = {.base = from, .index = to, .scale = (uint8_t)below(4), .disp = 5};
    switch (below(4)) {
    case 0:
        emit_mov(c, one_in(2), to, from);
        break;
    case 1:
        emit_lea(c, true, to, sum);
        break;
    case 2: /* NOT */
        encode(c, &(Enc){.map = MAP_1B, .opcode = 0xf7, .modrm = true, .reg = 2, .rm = to});
        break;
    default: /* MOVZX */
        encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = to, .rm = from});
    }
}

/* Vector instructions of each map: those that leave the flags alone, and those that set them. */
static void vector(Code *c, bool sets)
{
    static const struct {
        const char *code;
        unsigned len;
    } leave[] = {{"\x66\x0f\xfc\xca", 4},         /* paddb xmm1, xmm2 */
                 {"\x66\x0f\x38\x0b\xca", 5},     /* pmulhrsw xmm1, xmm2 */
                 {"\x66\x0f\x3a\x0f\xca\x05", 6}, /* palignr xmm1, xmm2, 5 */
                 {"\xc4\xe2\x71\x00\xca", 5}},    /* vpshufb xmm1, xmm1, xmm2 */
        set[] = {{"\x66\x0f\x2f\xca", 4},         /* comisd xmm1, xmm2 */
                 {"\x0f\x2e\xca", 3},             /* ucomiss xmm1, xmm2 */
                 {"\x66\x0f\x38\x17\xca", 5},     /* ptest xmm1, xmm2 */
                 {"\xc4\xe2\x79\x17\xca", 5}};    /* vptest xmm1, xmm2 */
    unsigned n = below(__builtin_cpu_supports("avx") ? 4 : 3);
    code_bytes(c, sets ? set[n].code : leave[n].code, sets ? set[n].len : leave[n].len);
}

/* What sets the flags, for checks that change them (flags.c): of 1, 4 or 8 bytes. */
static void set_flags(Code *c)
{
    static const uint8_t registers[] = {RAX, RBX, R14, RDX, RSI, R12};
    uint8_t to = registers[below(below(2) ? 3 : 6)], from = registers[below(6)];
    unsigned size = (unsigned[]){1, 4, 8}[below(3)], wide = size > 1;
    Enc e = {.map = MAP_1B,
             .opcode = (uint8_t)(0x38 + wide + 2 * below(2)), /* CMP */
             .w = size == 8,
             .rex = size == 1,
             .modrm = true,
             .reg = from,
             .rm = to};
    switch (below(8)) {
    case 0: /* TEST */
        e.opcode = (uint8_t)(0x84 + wide);
        break;
    case 1:
        e.opcode = (uint8_t)(0x80 + wide);
        e.reg = 7;
        e.imm = (int64_t)below(9) - 4;
        e.imm_size = wide ? 4 : 1;
        break;
    case 2:
        e.opcode = (uint8_t)(0xf6 + wide);
        e.reg = 0;
        e.imm = 0x41;
        e.imm_size = wide ? 4 : 1;
        break;
    case 3:
    case 4:
    case 5: /* from a copy: ADD, OR, AND, SUB, XOR; SHL, SHR, SAR; of RDX or R14 */
        to = one_in(2) ? RDX : R14;
        if (size == 1 || from == to)
            break;
        emit_mov(c, one_in(2), to, from);
        if (one_in(3) && from != RSI && from != R12) /* the source is something else then */
            encode(c, &(Enc){.map = MAP_1B, .opcode = 0xf7, .modrm = true, .reg = 2, .rm = from});
        else if (one_in(2))
            leave_flags(c);
        e.rm = to;
        if (one_in(2)) {
            e.opcode = 0xc1;
            e.reg = (uint8_t[]){4, 5, 7}[below(3)];
            e.imm = below(5);
            e.imm_size = 1;
        } else {
            e.opcode = (uint8_t)(8 * (uint8_t[]){0, 1, 4, 5, 6}[below(5)] + 1);
            e.reg = registers[below(6)];
        }
        break;
    }
    encode(c, &e);
}

static void access_memory(Code *c)
{
    static const uint8_t ops[] = {0x01, 0x03, 0x89, 0x8b, 0x31, 0x39};
    HostMem m = {.base = bases[below(ARRAY_LEN(bases))],
                 .index = one_in(2) ? H_NONE : indices[below(3)],
                 .scale = (uint8_t)below(4),
                 .disp = one_in(6) ? (int32_t)below(0x8000) : (int32_t)below(0x200) - 0x100};
    if (m.base == H_NONE) {
        m.disp = (int32_t)below(0x8000);
        m.scale = 0;
    }
    if (one_in(6)) { /* by a segment with a base */
        m.gs = true;
        if (one_in(2))
            m.index = H_NONE;
        m.disp &= 0x3ff;
        m.base = m.index == H_NONE ? H_NONE : indices[below(3)];
    }
    unsigned size = 1u << below(4);
    if (m.base == R9 && m.index != H_NONE && one_in(4)) /* a number */
        emit_imm32(c, R9, below(0x7000));
    if (one_in(6)) { /* PUSH and POP */
        code8(c, one_in(2) ? 0x52 : 0x5a);
        return;
    }
    if (one_in(8)) { /* MOVDQU */
        encode(c, &(Enc){.map = MAP_0F,
                         .opcode = one_in(2) ? 0x6f : 0x7f,
                         .pfx = PFX_F3,
                         .modrm = true,
                         .reg = (uint8_t)below(8),
                         .mem = &m});
        return;
    }
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = (uint8_t)(ops[below(ARRAY_LEN(ops))] - (size == 1)),
                     .w = size == 8,
                     .p66 = size == 2,
                     .rex = size == 1,
                     .modrm = true,
                     .reg = (uint8_t)(one_in(8) ? RBX : RDX),
                     .mem = &m});
}

/* RDI points to the entry of one page; another one takes turns with the first. R13 is a trap. */
static void change_something(Code *c)
{
    if (one_in(3)) { /* xchg rax, r13; xchg rsi, r13 */
        code_bytes(c, one_in(2) ? "\x49\x95\x90" : "\x4c\x87\xee", 3);
        return;
    }
    code_bytes(c, "\x4d\x87\xc2\x4c\x89\x07", 6); /* xchg r8, r10; mov [rdi], r8 */
    if (one_in(2)) {
        code_bytes(c, "\x41\x0f\x01\x3b\x41\x0f\x01\x3f", 8); /* invlpg [r11]; [r15] */
        code_bytes(c, "\x0f\x01\x3c\x25", 4);                 /* invlpg [...] */
        code32(c, page * 0x1000);
    } else {
        code_bytes(c, "\x0f\x20\xda\x0f\x22\xda", 6); /* mov rdx, cr3; mov cr3, rdx */
    }
}

static uint64_t random_entry(void)
{
    static const uint64_t rights[] = {0x67, 0x67, 7, 0x27, 0x65, 0x25, 5, 0};
    return (DATA + 0x1000 * below(3)) | rights[below(ARRAY_LEN(rights))];
}

static Jit *begin(void)
{
    Jit *j = begin_jit();
    trap[0] = (uintptr_t)memory;
    trap[1] = (uintptr_t)memory + (1ull << 46) - (1ull << 42);
    j->kernel_slots = true;
    j->kernel_warm = 1;
    j->trace_paths = j->kernel_paths = 1;
    j->mirror_share = 0;
    return j;
}

static void both_areas(void)
{
    guest_long_mode();
    tables();
    put64(G_PML4 + 8 * (LOW >> 39), G_PDPT | 7);
    put64(G_PML4 + 8 * (HIGH >> 39), G_PDPT | 7);
}

START_TEST(loops)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS;
    unsigned seconds = 0;
    Jit *j = begin();
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[768];
        seed = k * 0x5851f42d4c957f2dull + 9;
        j->warm_after = 1 + below(3);
        j->no_mirror = one_in(16);
        j->slow_pext = one_in(2);
        both_areas();
        page = below(14);
        put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
        registers(&guest.v.st);
        in = guest.v.st;
        for (unsigned r = 0; r < ARRAY_LEN(bases) - 1; r++)
            in.gpr[bases[r]] = somewhere();
        for (unsigned r = 0; r < 3; r++)
            in.gpr[indices[r]] = one_in(16) ? rnd() >> below(64) : below(64);
        in.gpr[RSP] = somewhere() & ~7ull;
        in.seg[GS].base = somewhere();
        in.gpr[RCX] = 20 + below(one_in(2) ? 60 : 220);
        in.gpr[RDI] = LOW_PT + 8 * page;
        in.gpr[R11] = LOW + page * 0x1000;
        in.gpr[R13] = trap[below(2)] + 0x200 + below(64); /* as a base, or as an index */
        if (one_in(2))
            in.gpr[R13] -= in.gpr[bases[below(4)]];
        in.gpr[R15] = HIGH + page * 0x1000;
        in.gpr[R8] = random_entry();
        in.gpr[R10] = one_in(2) ? in.gpr[R8] : random_entry();
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x4c\x89\x07\x0f\x20\xda\x0f\x22\xda", 9); /* as it is to be at first */
        bool outer = one_in(2); /* the page changes between runs of the loop */
        const uint8_t *all_again = c.p;
        if (outer)
            emit_imm32(&c, RCX, (uint32_t)in.gpr[RCX]);
        const uint8_t *again = c.p;
        for (unsigned n = outer ? 1 + below(5) : 4 + below(12); n; n--) {
            if (one_in(4))
                set_flags(&c);
            access_memory(&c);
            if (one_in(outer ? 8 : 3))
                change_index(&c);
            if (one_in(10)) { /* a base moves on */
                unsigned r = bases[below(4)];
                emit_lea(
                    &c, true, r,
                    (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = (int)below(64) - 24});
            }
        }
        if (!outer && one_in(2)) { /* now and then: and (rcx, 7) is 0 */
            code_bytes(&c, "\xf6\xc1\x07\x75", 4);
            uint8_t *over = c.p;
            code8(&c, 0);
            change_something(&c);
            *over = (uint8_t)(c.p - over - 1);
        }
        count_down(&c, RCX, false);
        code_bytes(&c, "\x0f\x85", 2); /* jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        if (outer) {
            change_something(&c);
            code_bytes(&c, "\xff\x0d\x47\0\0\0\x0f\x85", 8); /* dec dword [the last one]; jnz */
            code32(&c, (uint32_t)(all_again - (c.p + 4)));
        }
        code8(&c, 0xf4);
        for (unsigned n = 0; outer && n < 64; n++) /* away from code */
            code8(&c, 0xf4);
        if (outer)
            code32(&c, 2 + below(5));
        code_must_agree(k, &in, &c, bytes);
        for (unsigned b = j->map_n > 4 ? j->map_n - 4 : 0; b < j->map_n; b++)
            seconds += j->map[b]->head && j->map[b]->mirrored;
    }
    if (!jit_mirror_out(j) || j->mirror_turns) {
        ck_assert_uint_gt(j->mirror_shown, n_rounds / 100);
        ck_assert_uint_gt(j->mirror_faults, n_rounds / 100);
        ck_assert_uint_gt(seconds, 0);
    } else {
        fprintf(stderr, "the mirror: not on this host, or not beside this sanitizer\n");
    }
    guest_teardown();
}
END_TEST

/* Checks that change the flags, of loops whose base is a bad one in the end: what the fault finds
 * in them. */
START_TEST(flags)
{
    Jit *j = begin();
    for (uint64_t k = 0; k < 4 * ROUNDS; k++) {
        static CpuState in;
        static uint8_t bytes[768];
        seed = k * 0x5851f42d4c957f2dull + 21;
        j->warm_after = 1 + below(3);
        both_areas();
        page = below(14);
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = (one_in(2) ? HIGH : LOW) + below(0xe00);
        in.gpr[R12] = (one_in(2) ? HIGH : LOW) + below(0xe00);
        in.gpr[R13] = one_in(2) ? trap[below(2)] : one_in(2) ? 1ull << 46 : 1ull << 63;
        in.gpr[RCX] = 42 + below(20);
        for (unsigned r = 0; r < 3; r++)
            in.gpr[indices[r]] = rnd();
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        uint8_t *to[2] = {NULL, NULL}; /* what R8 and R9 point to */
        code_bytes(&c, "\x4c\x8d\x05\0\0\0\0\x4c\x8d\x0d\0\0\0\0", 14); /* lea r8, r9 */
        const uint8_t *again = c.p;
        unsigned jumps = below(6);
        for (unsigned groups = 1 + below(3); groups; groups--) {
            HostMem m = {.base = RSI, .index = H_NONE, .disp = (int32_t)below(0x100)};
            set_flags(&c);
            for (unsigned n = below(3); n; n--)
                leave_flags(&c);
            if (one_in(4))
                vector(&c, one_in(2));
            if (groups == 1 && jumps < 3) { /* mov [rsi + 128], r8; jmp [rsi + 128] */
                m.disp = 128;
                if (jumps == 0)
                    emit_rm(&c, 0x89, true, R8, m);
                code_bytes(&c,
                           jumps == 0   ? "\xff\xa6\x80\0\0\0"
                           : jumps == 1 ? "\x41\x50\xc3\x90\x90\x90"  /* push r8; ret */
                                        : "\x41\xff\xe0\x90\x90\x90", /* jmp r8 */
                           6);
                to[0] = c.p;
            } else if (one_in(2)) {
                emit_rm(&c, 0x8b, one_in(2), one_in(2) ? RDX : RAX, m);
            } else {
                emit_rm(&c, one_in(2) ? 0x89 : 0x31, one_in(2), RDX, m);
            }
            for (unsigned n = below(3); n; n--)
                leave_flags(&c);
            if (one_in(2)) {
                m.base = R12;
                emit_rm(&c, 0x8b, true, RBX, m);
            }
        }
        code_bytes(&c, "\xf6\xc1\x1f\x75\x03", 5); /* test cl, 31; jnz */
        code_bytes(&c,
                   to[0] && one_in(2) ? "\x4d\x87\xc1" /* xchg r8, r9 */
                   : one_in(2)        ? "\x4c\x87\xee" /* rsi, r13 */
                                      : "\x4d\x87\xec",       /* r12, r13 */
                   3);
        count_down(&c, RCX, false);
        code_bytes(&c, "\x0f\x85", 2); /* jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        to[1] = c.p;
        for (unsigned n = 0; n < 2 && to[0]; n++) {
            int32_t disp = (int32_t)(to[n] - (bytes + 7 * n + 7));
            memcpy(bytes + 7 * n + 3, &disp, 4);
        }
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    ck_assert_uint_gt(j->traces, 0);
    guest_teardown();
}
END_TEST

/* An index that has always been small, and in the end is what leads to the test's own memory. */
START_TEST(indices_go_astray)
{
    Jit *j = begin();
    for (uint64_t k = 0; k < ROUNDS; k++) {
        static CpuState in;
        static uint8_t bytes[256];
        seed = k * 0x5851f42d4c957f2dull + 33;
        j->warm_after = 1 + below(3);
        both_areas();
        page = below(14);
        registers(&guest.v.st);
        in = guest.v.st;
        bool high = one_in(2);
        in.gpr[RSI] = (high ? HIGH : LOW) + 8 * below(0x100);
        in.gpr[RBX] = 8 * below(0x40);
        in.gpr[RCX] = 94 + below(20);
        HostMem m = {
            .base = RSI, .index = RBX, .scale = (uint8_t)below(4), .disp = 8 * (int32_t)below(8)};
        in.gpr[R13] = (trap[high] + 0x200 - in.gpr[RSI]) >> m.scale;
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        const uint8_t *again = c.p;
        emit_rm(&c, one_in(2) ? 0x8b : 0x31, one_in(2), one_in(2) ? RDX : RAX, m);
        if (one_in(2))
            emit_rm(&c, 0x89, true, RDX, m);
        code_bytes(&c, "\x48\x83\xf3\x08", 4);             /* xor rbx, 8 */
        code_bytes(&c, "\xf6\xc1\x1f\x49\x0f\x44\xdd", 7); /* test cl, 31; cmovz rbx, r13 */
        code_bytes(&c, "\xff\xc9\x0f\x85", 4);             /* dec ecx; jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    if (!jit_mirror_out(j) || j->mirror_turns)
        ck_assert_uint_gt(j->mirror_shown, 0);
    guest_teardown();
}
END_TEST

/*
 * A base that is 0, and an index or a displacement that is an address: 0 is in the lower area,
 * which lies in the host where it does in the guest, and so it is to pass no check while the mirror
 * is not in use. The page changes each four rounds.
 */
START_TEST(base_is_0)
{
    const uint64_t lin = 0x180000;
    Jit *j = begin();
    for (uint64_t k = 0; k < ROUNDS / 4; k++) {
        static CpuState in;
        static uint8_t bytes[256];
        seed = k * 0x5851f42d4c957f2dull + 57;
        j->warm_after = 1 + below(3);
        both_areas();
        put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
        put64(LOW_PT + 8 * (lin >> 12), DATA | 0x67);
        registers(&guest.v.st);
        in = guest.v.st;
        bool index = one_in(2);
        in.gpr[RSI] = 0;
        in.gpr[RBX] = lin + 8 * below(0x100);
        in.gpr[RCX] = 60 + below(60);
        in.gpr[RDI] = LOW_PT + 8 * (lin >> 12);
        in.gpr[R8] = (DATA + 0x1000) | 0x67;
        in.gpr[R10] = DATA | 0x67;
        HostMem m = {.base = RSI, .index = H_NONE, .disp = (int32_t)in.gpr[RBX]};
        if (index)
            m = (HostMem){.base = RSI, .index = RAX, .disp = 8};
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x4c\x89\x17\x0f\x20\xda\x0f\x22\xda", 9); /* as it is to be at first */
        const uint8_t *again = c.p;
        if (index)
            emit_mov(&c, false, RAX, RBX);
        emit_rm(&c, 0x8b, true, RDX, m);
        if (one_in(2)) /* ADD, or what leaves the flags alone */
            encode(
                &c,
                &(Enc){
                    .map = MAP_1B, .opcode = 0x01, .w = true, .modrm = true, .reg = RDX, .rm = R9});
        else
            emit_lea(&c, true, R9, (HostMem){.base = R9, .index = RDX});
        code_bytes(&c, "\xf6\xc1\x03\x75\x0c", 5);     /* test cl, 3; jnz */
        code_bytes(&c, "\x4d\x87\xc2\x4c\x89\x07", 6); /* xchg r8, r10; mov [rdi], r8 */
        code_bytes(&c, "\x0f\x20\xda\x0f\x22\xda", 6); /* mov rdx, cr3; mov cr3, rdx */
        count_down(&c, RCX, false);
        code_bytes(&c, "\x0f\x85", 2); /* jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    if (!jit_mirror_out(j) || j->mirror_turns)
        ck_assert_uint_gt(j->mirror_shown, 0);
    guest_teardown();
}
END_TEST

static atomic_bool enough;

/* Has the vCPU leave its code again and again. */
static void *kicks(void *p G_GNUC_UNUSED)
{
    while (!atomic_load(&enough)) {
        vcpu_request(&guest.v, VREQ_WORK);
        g_usleep(50);
    }
    return NULL;
}

static Exit run_at(gva_t rip)
{
    RunLimit none = {0};
    ST->rip = rip;
    ST->run_state = RUN_RUNNING;
    engine_jit.import_state(&guest.v, GROUPS_ALL, NULL);
    engine_jit.enter(&guest.v);
    return engine_jit.run(&guest.v, &none);
}

/*
 * Accesses off one base are checked once, by the first-level TLB, which leads to the mirror.
 * Between them one goes by the mirror itself, which has been out of use, and takes their page out
 * of it: by its entry in the page table nobody has written there.
 */
START_TEST(hidden_on_the_way)
{
    /* G: mov [rdi], r10; mov rcx, cr3; mov cr3, rcx; mov r11, [rsi]; jmp F; F: mov rax, [rsi]; mov
     * [rbx], rdx; add rax, [rsi+8]; sub r9d, 1; jnz F; hlt */
    static const uint8_t g[] = {0x4c, 0x89, 0x17, 0x0f, 0x20, 0xd9, 0x0f, 0x22, 0xd9, 0x4c, 0x8b,
                                0x1e, 0xeb, 0x00, 0x48, 0x8b, 0x06, 0x48, 0x89, 0x13, 0x48, 0x03,
                                0x46, 0x08, 0x41, 0x83, 0xe9, 0x01, 0x75, 0xf0, 0xf4};
    const gva_t f = G_CODE + 14;
    Fault fault;
    Jit *j = begin();
    j->warm_after = 4;
    both_areas();
    put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
    registers(ST);
    memcpy(gp(G_CODE), g, sizeof(g));
    put64(DATA, 3);
    put64(DATA + 8, 5);
    ST->gpr[RSI] = LOW;
    ST->gpr[RDI] = LOW_PT;
    ST->gpr[R10] = DATA | 0x27;
    for (unsigned n = 0; n < 64; n++) {
        /* What is off RSI, here and from the second instruction on, as if seen in both areas and
         * missed often: no mirror for it, and no slot. */
        for (unsigned k = 0; n == 4 && k < 2; k++) {
            ST->rip = f + 3 * k;
            Block *b = block_find(ST, j->t, f + 3 * k, &fault);
            b->in_mirror[MIRROR_LOW - 1] = 7 >> k;
            b->in_mirror[MIRROR_HIGH - 1] = b->no_slot = 5 >> k;
            jit_block_dead(j, b);
        }
        ST->gpr[R9] = 2;
        ST->gpr[RBX] = LOW + (n & 1 ? 0x5010 : 0x10); /* which shows the page that is hidden then */
        ck_assert_int_eq(run_at(G_CODE).kind, EXIT_HLT);
        ck_assert_uint_eq(ST->gpr[RAX], 8);
    }
    if (!jit_mirror_out(j) || j->mirror_turns)
        ck_assert_uint_gt(j->mirror_shown, 8);
    guest_teardown();
}
END_TEST

/*
 * A poll on the way into code finds the flags as they are, and not as instruction k of that code
 * would have them again, where k is how far the translation before has come: here of each length
 * that there may be.
 */
START_TEST(flags_on_the_way_in)
{
    /* B: cmp r8, r8; mov rsi, [rsi]; lea rdx, [rdx]; add edi, 1; jnz B; hlt */
    static const uint8_t loop[] = {0x4d, 0x39, 0xc0, 0x48, 0x8b, 0x36, 0x48, 0x8d,
                                   0x12, 0x83, 0xc7, 0x01, 0x75, 0xf2, 0xf4};
    RunLimit none = {0};
    Fault fault;
    Jit *j = begin();
    j->warm_after = 4;
    for (unsigned before = 1; before <= 6; before++) {
        gva_t b = G_CODE + 0x200 * before, other = b + 0x100;
        both_areas();
        registers(ST);
        put64(DATA, LOW);
        memset(gp(other), 0x90, before - 1);
        memcpy(gp(other + before - 1), "\xeb\x00\xf4", 3); /* jmp; hlt */
        memcpy(gp(b), loop, sizeof(loop));
        ST->gpr[RSI] = LOW;
        /* Seen often enough to be a trace soon, with an access by the mirror; then the other. */
        for (unsigned n = 0; n < 3; n++) {
            ST->gpr[RDI] = (uint32_t)-1;
            ck_assert_int_eq(run_at(b).kind, EXIT_HLT);
        }
        ck_assert(!block_find(ST, j->t, b, &fault)->hot);
        ck_assert_int_eq(run_at(other).kind, EXIT_HLT);
        /* ZF stays clear at the top of the loop. */
        pthread_t th;
        atomic_store(&enough, false);
        pthread_create(&th, NULL, kicks, NULL);
        ST->gpr[RDI] = 1;
        ST->rflags &= ~(uint64_t)FL_ZF;
        Exit x = run_at(b);
        for (unsigned polls = 0; polls < 30;) {
            ck_assert_int_eq(x.kind, EXIT_KICK);
            if (ST->rip == b)
                ck_assert_msg(!(ST->rflags & FL_ZF), "%u instructions before", before);
            polls += ST->rip == b;
            if ((uint32_t)ST->gpr[RDI] > 1u << 30)
                ST->gpr[RDI] = 1;
            vcpu_request_clear(&guest.v, VREQ_WORK);
            x = engine_jit.run(&guest.v, &none);
        }
        atomic_store(&enough, true);
        pthread_join(th, NULL);
        vcpu_request_clear(&guest.v, VREQ_WORK);
        ck_assert(block_find(ST, j->t, b, &fault)->hot);
    }
    if (!jit_mirror_out(j) || j->mirror_turns)
        ck_assert_uint_gt(j->mirror_shown, 0);
    guest_teardown();
}
END_TEST

/* MOVAPS or, one in three, a gather with a mask of all, some or no elements; or any register's. */
static void access_vectors(Code *c)
{
    HostMem m = {.base = one_in(2) ? RSI : R12,
                 .index = H_NONE,
                 .disp = 16 * (int32_t)below(32) + (one_in(100) ? 8 : 0)};
    Enc e = {.map = MAP_0F, .opcode = 0x28 + one_in(3), .modrm = true, .mem = &m};
    e.reg = (uint8_t)(1 + below(8));
    if (one_in(3)) {
        emit_rm(c, one_in(2) ? 0x89 : 0x8b, true, RDX, m);
    } else if (one_in(2) || !__builtin_cpu_supports("avx2")) {
        encode(c, &e);
    } else {
        unsigned wide = one_in(4);
        encode(c, &(Enc){.map = MAP_VEX0F, /* vmovaps ymm0, ... */
                         .opcode = 0x28,
                         .l = true,
                         .modrm = true,
                         .rm = LANES});
        m.index = (uint8_t)(INDEX + wide);
        m.scale = (uint8_t)below(4);
        e.map = MAP_VEX0F38;
        e.opcode = (uint8_t)(0x90 + 2 * below(2) + wide);
        e.pfx = PFX_66;
        e.w = one_in(2);
        e.l = !one_in(3);
        encode(c, &e);
    }
}

/* Vectors that are aligned, and gathers, whose base is looked at and no index: with some that lead
 * far away, bases that go astray, and pages that come, go and lose rights. */
START_TEST(vectors)
{
    Jit *j = begin();
    for (uint64_t k = 0; k < 2 * ROUNDS; k++) {
        static CpuState in;
        static uint8_t bytes[768];
        seed = k * 0x5851f42d4c957f2dull + 91;
        j->warm_after = 1 + below(3);
        j->no_mirror = one_in(16);
        j->slow_pext = one_in(2);
        both_areas();
        page = 1 + below(12);
        put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
        registers(&guest.v.st);
        in = guest.v.st;
        in.fpu.mxcsr = 0x1f80;
        for (unsigned n = 0; n < 2; n++)
            in.gpr[n ? RSI : R12] =
                (one_in(2) ? HIGH : LOW) + (page - below(2)) * 0x1000 + 16 * below(0x100);
        if (one_in(8))
            in.fpu.v[INDEX].d[below(8)] = (uint32_t)rnd() >> below(32);
        if (one_in(8))
            in.fpu.v[INDEX + 1].q[below(4)] = one_in(2) ? rnd() : trap[below(2)] - in.gpr[RSI];
        in.gpr[RCX] = 20 + below(60);
        in.gpr[RDI] = LOW_PT + 8 * page;
        in.gpr[R11] = LOW + page * 0x1000;
        in.gpr[R15] = HIGH + page * 0x1000;
        in.gpr[R13] = trap[below(2)] + 0x200;
        in.gpr[R8] = random_entry();
        in.gpr[R10] = one_in(2) ? in.gpr[R8] : random_entry();
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x4c\x89\x07\x0f\x20\xda\x0f\x22\xda", 9); /* as it is to be at first */
        const uint8_t *again = c.p;
        for (unsigned n = 3 + below(6); n; n--) {
            access_vectors(&c);
            if (one_in(4))
                set_flags(&c);
            if (one_in(12))
                code_bytes(&c, "\xc5\x8d\xfe\xf1", 4); /* vpaddd xmm6, xmm14, xmm1 */
        }
        if (one_in(2)) {
            unsigned r = one_in(2) ? RSI : R12;
            emit_lea(&c, true, r,
                     (HostMem){.base = (uint8_t)r,
                               .index = H_NONE,
                               .disp = 16 * ((int32_t)below(16) - 8)});
        }
        if (one_in(2)) { /* now and then: and (rcx, 7) is 0 */
            code_bytes(&c, "\xf6\xc1\x07\x75", 4);
            uint8_t *over = c.p;
            code8(&c, 0);
            if (one_in(2)) /* wide indices by which rsi leads to what the process has there */
                code_bytes(&c, "\x4d\x89\xe9\x49\x29\xf1\xc4\x41\xf9\x6e\xf9", 11);
            else
                change_something(&c);
            *over = (uint8_t)(c.p - over - 1);
        }
        count_down(&c, RCX, false);
        code_bytes(&c, "\x0f\x85", 2); /* jnz */
        code32(&c, (uint32_t)(again - (c.p + 4)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    if (!jit_mirror_out(j) || j->mirror_turns) {
        ck_assert_uint_gt(j->mirror_shown, ROUNDS / 100);
        ck_assert_uint_gt(j->mirror_faults, ROUNDS / 100);
    }
    guest_teardown();
}
END_TEST

static unsigned bits_of(uint64_t v)
{
    uint64_t u = v >> 63 ? ~v : v;
    return u ? 64 - (unsigned)__builtin_clzll(u) : 0;
}

/* Whatever instructions do to registers, these hold no more than jit_bits_follow() says. */
START_TEST(bits_of_registers)
{
    GError *err = NULL;
    unsigned small = 0;
    guest_setup();
    ck_assert_msg(engine_jit.vcpu_init(&guest.v, &err), "%s", err ? err->message : "");
    Tcg *t = guest.v.engine_data[ENGINE_INTERP];
    for (uint64_t k = 0; k < ROUNDS; k++) {
        static CpuState in, out;
        static uint8_t bytes[256];
        uint8_t bits[GPR_N];
        Fault fault;
        seed = k * 0x5851f42d4c957f2dull + 77;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        for (unsigned r = 0; r < 3; r++) {
            uint64_t v = rnd() >> below(64);
            in.gpr[indices[r]] = one_in(2) ? v : ~v;
        }
        for (unsigned r = 0; r < GPR_N; r++)
            bits[r] = (uint8_t)bits_of(in.gpr[r]);
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        for (unsigned n = 1 + below(8); n; n--)
            change_index(&c);
        code8(&c, 0xf4);
        memset(code, 0xf4, sizeof(code));
        memcpy(code, bytes, (size_t)(c.p - bytes));
        run(&engine_interp, &in, &out, after);
        guest.v.st = in;
        const Block *b = block_find(&guest.v.st, t, in.rip, &fault);
        ck_assert_ptr_nonnull(b);
        ck_assert_uint_gt(b->n, 1);
        for (unsigned n = 0; n + 1u < b->n; n++)
            jit_bits_follow(bits, &b->insn[n]);
        for (unsigned r = 0; r < GPR_N; r++)
            ck_assert_msg(bits_of(out.gpr[r]) <= bits[r], "round %lu, register %u: %#lx in %u bits",
                          k, r, out.gpr[r], bits[r]);
        for (unsigned r = 0; r < 3; r++)
            small += bits[indices[r]] < 40;
    }
    ck_assert_uint_gt(small, ROUNDS);
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        bits_of_registers,  loops, flags, indices_go_astray, base_is_0, hidden_on_the_way, vectors,
        flags_on_the_way_in};
    return jit_suite("jit_mirror", tests, ARRAY_LEN(tests));
}
