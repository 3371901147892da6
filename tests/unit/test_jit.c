/*
 * The translator held against the interpreter: blocks of random instructions, from the same
 * registers and memory. Everything must agree afterwards, whether the block ran to its end or
 * faulted half way.
 *
 * What single instructions cannot show is what matters here: runs of accesses that share a check,
 * registers and flags that stay in the host's across instructions, helpers in between, pages that
 * end.
 */
#include <stdio.h>
#include <stdlib.h>
#include "jit_blocks.h"

/* ---- making blocks ---- */
/* Registers that point to data; few, so that accesses meet. */
static unsigned pointer(void)
{
    static const uint8_t regs[] = {RSI, RDI, RBP, RSP, RSP, RSP, R9, R12};
    return regs[below(8)];
}
static unsigned any(void)
{
    static const uint8_t regs[] = {RAX, RCX, RDX, RBX, RAX, RCX, R8, R10, R11, R13, R14, R15};
    return one_in(25) ? pointer() : regs[below(12)];
}

static HostMem data(void)
{
    HostMem m = {.base = (uint8_t)pointer(), .index = H_NONE, .disp = (int32_t)below(96) - 48};
    if (one_in(30))
        m.disp = (int32_t)below(9000) - 4500;
    if (one_in(8)) {
        m.index = RBX; /* small: see registers() */
        m.scale = (uint8_t)below(4);
    }
    return m;
}

/* op reg, r/m in one of its forms. */
static void form(Code *c, Enc e, bool bytes_too)
{
    HostMem m = data();
    unsigned size = 1u << (bytes_too ? below(4) : 1 + below(3));
    if (size == 1)
        e.opcode &= 0xfe;
    e.p66 = size == 2;
    e.w = size == 8;
    e.rex = size == 1 && one_in(2);
    e.modrm = true;
    if (one_in(2)) {
        e.mem = &m;
        /* AH to BH exist only without a REX prefix: the encoder adds none of its own for low
         * registers. */
    } else {
        e.rm = (uint8_t)any();
    }
    encode(c, &e);
}

static const uint8_t *start; /* of the block that is being made; it runs at G_CODE */

/* An operand by RIP: some are near each other, some near the end of a page. */
static void by_rip(Code *c)
{
    static const uint8_t ops[] = {0x8b, 0x89, 0x03, 0x01, 0x3b, 0x31, 0x85, 0x63};
    unsigned reg = any();
    uint64_t at = DATA + (one_in(3) ? 0xfc0 : 0x800) + below(128);
    code8(c, 0x40 | (reg >> 3) << 2 | (one_in(2) ? 8u : 0));
    code8(c, ops[below(ARRAY_LEN(ops))]);
    code8(c, (reg & 7) << 3 | 5);
    code32(c, (uint32_t)(at - (G_CODE + (uint64_t)(c->p - start) + 4)));
}

static void integer(Code *c)
{
    Enc e = {.map = MAP_1B, .reg = (uint8_t)any()};
    if (one_in(10)) {
        by_rip(c);
        return;
    }
    switch (below(22)) {
    case 0:
    case 1:
    case 2:
        e.opcode = (uint8_t)(below(8) << 3 | (one_in(2) ? 1 : 3)); /* ADD to CMP */
        form(c, e, true);
        break;
    case 3:
    case 4:
    case 5:
        e.opcode = one_in(2) ? 0x89 : 0x8b; /* MOV */
        form(c, e, true);
        break;
    case 6:
        e.opcode = 0x83;
        e.reg = (uint8_t)below(8);
        e.imm = (int8_t)rnd();
        e.imm_size = 1;
        form(c, e, false);
        break;
    case 7: {
        static const uint8_t ext[] = {0xb6, 0xb7, 0xbe, 0xbf, 0xaf, 0xbc, 0xbd};
        e.map = MAP_0F;
        e.opcode = ext[below(7)];
        form(c, e, false);
        break;
    }
    case 8:
        e.map = MAP_0F;
        e.opcode = (uint8_t)(0x40 + below(16)); /* CMOVcc */
        form(c, e, false);
        break;
    case 9:
        e.opcode = one_in(2) ? 0xc1 : 0xd3;
        e.reg = (uint8_t)below(8);
        e.imm = below(70);
        e.imm_size = e.opcode == 0xc1;
        form(c, e, true);
        break;
    case 10:
        e.opcode = 0xf7; /* NOT, NEG, MUL, IMUL, DIV, IDIV */
        e.reg = (uint8_t)(2 + below(one_in(4) ? 6 : 4));
        form(c, e, true);
        break;
    case 11: {
        HostMem m = data();
        emit_lea(c, one_in(3) ? false : true, any(), m);
        break;
    }
    case 12:
        e.opcode = one_in(2) ? 0x85 : 0x87; /* TEST, XCHG */
        form(c, e, true);
        break;
    case 13: {
        HostMem m = data();
        encode(c, &(Enc){.map = MAP_0F,
                         .opcode = one_in(2) ? 0xb1 : 0xc1,
                         .lock = one_in(2),
                         .w = one_in(2),
                         .modrm = true,
                         .reg = (uint8_t)any(),
                         .mem = &m}); /* CMPXCHG, XADD */
        break;
    }
    case 14:
        e.map = MAP_0F;
        e.opcode = (uint8_t)(0x90 + below(16)); /* SETcc */
        e.modrm = true;
        e.rex = true;
        e.rm = (uint8_t)any();
        encode(c, &e);
        break;
    case 15:
        code8(c, one_in(2) ? 0x98 : 0x99);
        break;
    case 16:
        e.map = MAP_0F;
        e.opcode = one_in(2) ? 0xa4 : 0xad; /* SHLD imm, SHRD CL */
        e.imm = below(40);
        e.imm_size = e.opcode == 0xa4;
        form(c, e, false);
        break;
    case 17:
        e.map = MAP_0F;
        e.opcode = (uint8_t)(0xa3 + 8 * below(4)); /* BT to BTC */
        form(c, e, false);
        break;
    case 18: /* BSWAP, MOV imm */
        if (one_in(2)) {
            code8(c, 0x48);
            code8(c, 0x0f);
            code8(c, 0xc8 | (any() & 7));
        } else {
            emit_imm64(c, any(), rnd() >> below(64));
        }
        break;
    case 19:
        code8(c,
              (uint8_t[]){0xf5, 0xf8, 0xf9, 0x90, 0x9f, 0x9e, 0xfc, 0xfa, 0xfb, 0x9c}[below(10)]);
        break;
    case 20:
        encode(c, &(Enc){.map = MAP_VEX0F38,
                         .opcode = one_in(2) ? 0xf7 : 0xf5,
                         .pfx = PFX_F3,
                         .w = one_in(2),
                         .modrm = true,
                         .vvvv = (uint8_t)any(),
                         .reg = (uint8_t)any(),
                         .rm = (uint8_t)any()}); /* SARX, PEXT */
        break;
    default: { /* an instruction that stays with the interpreter: string, XLAT, CPUID's neighbour
                  RDTSCP not */
        static const uint8_t helpers[] = {0xd7, 0xa4, 0xaa, 0xac};
        code8(c, helpers[below(4)]);
    }
    }
}

static void stack(Code *c)
{
    unsigned r = any();
    HostMem m = data();
    switch (below(8)) {
    case 0:
    case 1:
    case 2:
        if (r >= 8)
            code8(c, 0x41);
        code8(c, 0x50 | (r & 7));
        break;
    case 3:
    case 4:
        if (r >= 8)
            code8(c, 0x41);
        code8(c, 0x58 | (r & 7));
        break;
    case 5: /* ADD, SUB RSP */
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0x83,
                         .w = true,
                         .modrm = true,
                         .reg = one_in(2) ? 0 : 5,
                         .rm = RSP,
                         .imm = 8 * (int)below(6),
                         .imm_size = 1});
        break;
    case 6:
        if (one_in(3))
            code8(c, 0xc9); /* LEAVE */
        else
            emit_mov(c, true, RBP, RSP);
        break;
    default:
        encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 6, .mem = &m});
    }
}

static void vector(Code *c)
{
    static const struct {
        uint8_t map, opcode, pfx;
    } ops[] = {{MAP_0F, 0x10, PFX_NP},    {MAP_0F, 0x11, PFX_NP},    {MAP_0F, 0x28, PFX_NP},
               {MAP_0F, 0x29, PFX_66},    {MAP_0F, 0x58, PFX_F2},    {MAP_0F, 0x59, PFX_NP},
               {MAP_0F, 0x5e, PFX_F3},    {MAP_0F, 0xef, PFX_66},    {MAP_0F, 0xfe, PFX_66},
               {MAP_0F, 0x2a, PFX_F2},    {MAP_0F, 0x2c, PFX_F2},    {MAP_0F, 0x6e, PFX_66},
               {MAP_0F, 0x7e, PFX_66},    {MAP_0F, 0xd6, PFX_66},    {MAP_0F, 0x2e, PFX_66},
               {MAP_0F, 0xd7, PFX_66},    {MAP_VEX0F, 0x58, PFX_NP}, {MAP_VEX0F, 0x10, PFX_NP},
               {MAP_VEX0F, 0x11, PFX_NP}, {MAP_VEX0F, 0xfe, PFX_66}, {MAP_VEX0F, 0x57, PFX_NP}};
    unsigned n = below(ARRAY_LEN(ops)), opcode = ops[n].opcode;
    HostMem m = data();
    bool vex = ops[n].map == MAP_VEX0F, moves = opcode == 0x10 || opcode == 0x11;
    bool gpr =
        opcode == 0x2a || opcode == 0x2c || opcode == 0x6e || opcode == 0x7e || opcode == 0xd7;
    if (vex && !__builtin_cpu_supports("avx2"))
        return;
    Enc e = {.map = ops[n].map,
             .opcode = (uint8_t)opcode,
             .pfx = ops[n].pfx,
             .l = vex && one_in(2),
             .w = gpr && opcode != 0xd7 && one_in(2),
             .modrm = true,
             .reg = (uint8_t)below(16)};
    e.vvvv = vex && !moves ? (uint8_t)below(16) : 0;
    if (opcode == 0x2c || opcode == 0xd7)
        e.reg = (uint8_t)any();
    if (opcode != 0xd7 && one_in(2))
        e.mem = &m;
    else
        e.rm = (uint8_t)(opcode == 0x2a || opcode == 0x6e || opcode == 0x7e ? any() : below(16));
    encode(c, &e);
}

/* Twice the same one: what the first one meets, the second one finds in the TLB. */
static void gather(Code *c)
{
    unsigned opcode = 0x90 + below(4), base = pointer();
    HostMem m = {.base = (uint8_t)base,
                 .index = (uint8_t)(INDEX + (opcode & 1)),
                 .scale = (uint8_t)below(4),
                 .disp = (int32_t)below(96) - 48};
    Enc mask = {.map = MAP_VEX0F, .opcode = 0x28, .pfx = PFX_NP, .l = true, .modrm = true};
    Enc e = {.map = MAP_VEX0F38,
             .opcode = (uint8_t)opcode,
             .pfx = PFX_66,
             .w = one_in(2),
             .l = one_in(2),
             .modrm = true,
             .mem = &m};
    if (!__builtin_cpu_supports("avx2"))
        return;
    mask.rm = LANES;
    mask.reg = e.vvvv = (uint8_t)below(6);
    for (unsigned k = 0; k < 2; k++) {
        e.reg = (uint8_t)(6 + below(6));
        encode(c, &mask);
        encode(c, &e);
    }
}

/* AVX-512, in pieces that use mask registers as results, operands and masks. */
static void evex(Code *c)
{
    static const struct {
        uint8_t map, opcode, pfx;
        bool w, vvvv, load_only;
    } ops[] = {{MAP_EVEX0F, 0x58, PFX_NP, false, true, false},
               {MAP_EVEX0F, 0x59, PFX_66, true, true, false},
               {MAP_EVEX0F, 0x6f, PFX_F3, true, false, false},
               {MAP_EVEX0F, 0x7f, PFX_F2, false, false, false},
               {MAP_EVEX0F, 0x7f, PFX_F3, true, false, false},
               {MAP_EVEX0F, 0xfe, PFX_66, false, true, false},
               {MAP_EVEX0F, 0x74, PFX_66, false, true, false},
               {MAP_EVEX0F38, 0x8b, PFX_66, true, false, false},
               {MAP_EVEX0F38, 0x89, PFX_66, false, false, false},
               {MAP_EVEX0F, 0x28, PFX_NP, false, false, false},
               {MAP_VEX0F, 0x92, PFX_F2, true, false, false},
               {MAP_VEX0F, 0x93, PFX_F2, true, false, false},
               {MAP_VEX0F, 0x98, PFX_NP, true, false, false},
               {MAP_VEX0F, 0x91, PFX_NP, false, false, true},
               {MAP_VEX0F3A, 0x31, PFX_66, true, false, false}};
    unsigned n = below(ARRAY_LEN(ops));
    bool is_evex = is_evex_map(ops[n].map), masks = ops[n].opcode == 0x74 || !is_evex;
    HostMem m = data();
    if (!has_avx512())
        return;
    Enc e = {.map = ops[n].map,
             .opcode = ops[n].opcode,
             .pfx = ops[n].pfx,
             .w = ops[n].w,
             .modrm = true,
             .reg = (uint8_t)below(masks ? 8 : 32),
             .rm = (uint8_t)below(masks && !is_evex ? 8 : 32),
             .vvvv = ops[n].vvvv ? (uint8_t)below(32) : 0};
    if (is_evex) {
        e.evex = (uint8_t)(below(3) << EVEX_LL_SHIFT | (one_in(2) ? below(8) : 0));
        bool stores = ops[n].opcode == 0x7f || ops[n].opcode == 0x8b;
        e.mem = one_in(2) ? &m : NULL;
        if ((e.evex & EVEX_AAA) && !masks && !(stores && e.mem) && one_in(2))
            e.evex |= EVEX_Z;
        if ((ops[n].opcode == 0x58 || ops[n].opcode == 0xfe) && e.mem && one_in(3))
            e.evex |= EVEX_B;
    } else if (ops[n].opcode == 0x92) {
        e.rm = (uint8_t)any();
    } else if (ops[n].opcode == 0x93) {
        e.reg = (uint8_t)any();
    } else if (ops[n].load_only) {
        e.mem = &m;
    }
    if (ops[n].map == MAP_VEX0F3A) {
        e.imm_size = 1;
        e.imm = below(64);
    }
    encode(c, &e);
}

/* x87: computing, loads and stores, what looks at it, and MMX beside it. */
static void x87(Code *c)
{
    static const uint8_t reg[][2] = {{0xd9, 0xe8}, {0xd9, 0xee}, {0xd9, 0xeb}, {0xde, 0xc1},
                                     {0xde, 0xc9}, {0xde, 0xe9}, {0xd8, 0xf9}, {0xd9, 0xc9},
                                     {0xd9, 0xc0}, {0xdd, 0xd9}, {0xdb, 0xf1}, {0xdf, 0xe9},
                                     {0xda, 0xc1}, {0xd9, 0xfa}, {0xd9, 0xe0}, {0xdf, 0xe0},
                                     {0x9b, 0x90}, {0xdb, 0xe3}, {0xdb, 0xe2}, {0x0f, 0x77}};
    static const uint8_t mem[][2] = {
        {0xdd, 0}, {0xdd, 3}, {0xdd, 2}, {0xd9, 0}, {0xd9, 3}, {0xdb, 0}, {0xdb, 3}, {0xdb, 5},
        {0xdb, 7}, {0xdc, 0}, {0xdc, 1}, {0xd8, 6}, {0xdf, 5}, {0xd9, 7}, {0xdd, 7}, {0xd9, 6}};
    HostMem m = data();
    if (one_in(2)) {
        unsigned n = below(ARRAY_LEN(reg));
        if (one_in(2))
            n = below(12);
        code_bytes(c, reg[n], 2);
    } else {
        unsigned n = below(ARRAY_LEN(mem));
        encode(
            c,
            &(Enc){.map = MAP_1B, .opcode = mem[n][0], .modrm = true, .reg = mem[n][1], .mem = &m});
    }
}

/* MMX: of registers, of memory, with general registers. */
static void mmx(Code *c)
{
    static const struct {
        uint8_t map, opcode, imm;
    } op[] = {{MAP_0F, 0xfd, 0}, {MAP_0F, 0xd5, 0}, {MAP_0F, 0x60, 0}, {MAP_0F, 0x6f, 0},
              {MAP_0F, 0x7f, 0}, {MAP_0F, 0xef, 0}, {MAP_0F, 0x70, 1}, {MAP_0F38, 0, 0},
              {MAP_0F, 0xf3, 0}, {MAP_0F, 0x6e, 0}, {MAP_0F, 0x7e, 0}, {MAP_0F, 0xc4, 1},
              {MAP_0F, 0xd7, 0}, {MAP_0F, 0xc5, 1}, {MAP_0F, 0x73, 1}};
    HostMem m = data();
    unsigned n = below(ARRAY_LEN(op));
    Enc e = {.map = op[n].map,
             .opcode = op[n].opcode,
             .w = one_in(3),
             .modrm = true,
             .reg = (uint8_t)below(8),
             .rm = (uint8_t)below(8),
             .imm_size = op[n].imm,
             .imm = below(256)};
    if (e.opcode == 0x73)
        e.reg = one_in(2) ? 2 : 6; /* PSRLQ, PSLLQ */
    else if (e.opcode == 0xd7 || e.opcode == 0xc5)
        e.reg = (uint8_t)any(); /* PMOVMSKB, PEXTRW */
    else if (one_in(2))
        e.mem = &m;
    else if (e.opcode == 0x7e)
        e.rm = (uint8_t)any();
    if (one_in(10))
        code_bytes(c, "\x0f\x77", 2); /* EMMS */
    encode(c, &e);
}

static unsigned make_block(uint8_t *bytes, size_t room)
{
    bool with_x87 = one_in(4);
    n_cuts = 0;
    start = bytes;
    Code c = {.p = bytes, .end = bytes + room};
    unsigned n = 2 + below(20);
    for (unsigned k = 0; k < n; k++) {
        cut[n_cuts++] = (unsigned)(c.p - bytes);
        unsigned what = below(10);
        if (with_x87 && one_in(2))
            one_in(3) ? mmx(&c) : x87(&c);
        else if (what < 5)
            integer(&c);
        else if (what < 8)
            stack(&c);
        else
            one_in(8) ? gather(&c) : one_in(2) ? vector(&c) : evex(&c);
        if (one_in(12)) { /* a branch over the next byte, a NOP; a call to there */
            code8(&c, one_in(2) ? 0x70 + below(16) : 0xeb);
            code8(&c, 1);
            code8(&c, 0x90);
        }
        if (one_in(16)) {
            code8(&c, 0xe8);
            code32(&c, 0);
        }
    }
    code8(&c, 0xf4);
    ck_assert(!c.overflow);
    return (unsigned)(c.p - bytes);
}

START_TEST(random_blocks)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS;
    Jit *j = begin_jit();
    j->kernel_slots = true;
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[1024];
        seed = k * 0x5851f42d4c957f2dull + 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        unsigned n = make_block(bytes, sizeof(bytes));
        for (unsigned q = 0; q < DATA_LEN / 8; q++)
            memcpy(memory + 8 * q, &(uint64_t){one_in(2) ? rnd() : below(1000)}, 8);
        must_agree(k, &in, bytes, n);
    }
    ck_assert_uint_gt(j->blocks, n_rounds / 2);
    guest_teardown();
}
END_TEST

static void any_insns(Code *c, unsigned n)
{
    for (unsigned k = 0; k < n; k++) {
        unsigned what = below(8);
        if (what < 5)
            integer(c);
        else
            what < 7 ? stack(c) : vector(c);
    }
}

/* A jump forward (opcode of its short form) over what `n` instructions take. */
static void jump_over(Code *c, unsigned opcode, unsigned n)
{
    code8(c, opcode);
    uint8_t *rel8 = c->p;
    code8(c, 0);
    any_insns(c, n);
    *rel8 = (uint8_t)(c->p - rel8 - 1);
}

#define TRACE_COUNT (FRAMES - 0x400) /* rounds and calls left: whatever RET finds, it ends */

#define ELSEWHERE (DATA + 0x900) /* two functions in another page, 64 bytes each */

/* The functions there: they count down, as those of the loop do. */
static void make_elsewhere(uint8_t *to)
{
    HostMem count = {.base = H_NONE, .index = H_NONE, .disp = (int32_t)TRACE_COUNT};
    for (unsigned f = 0; f < 2; f++) {
        Code c = {.p = to + 64 * f, .end = to + 64 * (f + 1)};
        emit_rm(&c, 0xff, false, 1, count); /* dec; jnz over hlt */
        code_bytes(&c, "\x75\x01\xf4", 3);
        code_bytes(&c, f ? "\x41\xff\xc3" : "\x48\x11\xe2", 3); /* inc r11d; adc rdx, rsp */
        code_bytes(&c, "\x55\x5d\xc3", 3);                      /* push rbp; pop rbp; ret */
    }
}

/* A call, mostly of the one and now and then of the other, by a register or by memory; a jump by a
 * register; a call of another page. */
static void indirect(Code *c)
{
    HostMem count = {.base = H_NONE, .index = H_NONE, .disp = (int32_t)TRACE_COUNT};
    HostMem at = {.base = RSP, .index = H_NONE, .disp = -64};
    emit_imm32(c, RSP, one_in(2) ? 0x2000 - 64 + below(128) : (uint32_t)DATA + 0x1400 + below(64));
    switch (below(3)) {
    case 0:
        code8(c, 0xe8);
        code32(c, (uint32_t)(ELSEWHERE + 64 * below(2) - (G_CODE + (uint64_t)(c->p - start) + 4)));
        break;
    case 1:
        emit_imm32(c, RAX, (uint32_t)(G_CODE + (uint64_t)(c->p - start) + 8));
        code_bytes(c, "\xff\xe0\xf4", 3); /* jmp rax, over hlt */
        break;
    default:
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0xf6,
                         .modrm = true,
                         .mem = &count,
                         .imm = 1 + (int)below(3),
                         .imm_size = 1}); /* test byte [count], imm */
        /* sete al; movzx eax, al; shl eax, 6; lea eax, [rax + ELSEWHERE] */
        code_bytes(c, "\x0f\x94\xc0\x0f\xb6\xc0\xc1\xe0\x06", 9);
        emit_lea(c, false, RAX,
                 (HostMem){.base = RAX, .index = H_NONE, .disp = (int32_t)ELSEWHERE});
        if (one_in(2)) {
            code_bytes(c, "\xff\xd0", 2); /* call rax */
            break;
        }
        emit_store(c, RAX, at);
        emit_rm(c, 0xff, false, 2, at); /* call [rsp - 64] */
    }
}

/* A loop of several blocks: pieces with jumps between them, and calls of two functions behind it.
 */
static unsigned make_loop(uint8_t *bytes, size_t room)
{
    static const uint8_t conditions[] = {0x72, 0x74, 0x75, 0x78, 0x7c, 0x7f};
    HostMem count = {.base = H_NONE, .index = H_NONE, .disp = (int32_t)TRACE_COUNT};
    uint8_t *call[8];
    unsigned n_calls = 0;
    Code c = {.p = bytes, .end = bytes + room};
    encode(
        &c,
        &(Enc){
            .map = MAP_1B, .opcode = 0xc7, .modrm = true, .mem = &count, .imm = 20, .imm_size = 4});
    start = bytes;
    uint8_t *top = c.p;
    emit_rm(&c, 0xff, false, 1, count); /* dec */
    uint8_t *out = emit_jcc(&c, 4, c.p);
    for (unsigned k = 2 + below(5); k; k--) {
        any_insns(&c, below(4));
        switch (below(5)) {
        case 3:
            indirect(&c);
            break;
        case 0:
            jump_over(&c, conditions[below(ARRAY_LEN(conditions))], below(3));
            break;
        case 1:
            jump_over(&c, 0xeb, below(2));
            break;
        case 2:
            encode(&c, &(Enc){.map = MAP_1B,
                              .opcode = 0xc7,
                              .w = true,
                              .modrm = true,
                              .rm = RSP,
                              .imm = one_in(2) ? 0x2000 - 64 + below(128)
                                               : DATA + 0x4100 + below(0x800),
                              .imm_size = 4}); /* mov rsp, imm */
            code8(&c, 0xe8);
            call[n_calls++] = c.p;
            code32(&c, 0);
            code8(&c, 0x99); /* cdq */
            break;
        }
    }
    emit_jmp(&c, top);
    patch_rel32(out, 0, c.p);
    code8(&c, 0xf4);
    for (unsigned f = 0; f < 2; f++) {
        for (unsigned k = 0; k < n_calls; k++)
            if (k % 2 == f)
                patch_rel32(call[k], 0, c.p);
        emit_rm(&c, 0xff, false, 1, count); /* dec; jnz over hlt */
        code_bytes(&c, "\x75\x01\xf4", 3);
        if (one_in(2)) { /* test byte [count], 1; jz over add qword [rsp], 1: to behind the CDQ */
            encode(&c, &(Enc){.map = MAP_1B,
                              .opcode = 0xf6,
                              .modrm = true,
                              .mem = &count,
                              .imm = 1,
                              .imm_size = 1});
            code_bytes(&c, "\x74\x05\x48\x83\x04\x24\x01", 7);
        }
        if (one_in(2)) /* movaps xmm1, xmm2; paddd xmm1, xmm2 */
            code_bytes(&c, "\x0f\x28\xca\x66\x0f\xfe\xca", 7);
        code_bytes(&c, "\x8f\x44\x24\xf8\x48\x83\xec\x08", 8); /* pop [rsp - 8]; sub rsp, 8 */
        code_bytes(&c, "\x41\xff\xc3\x53\x5b\xc3", 6); /* inc r11d; push rbx; pop rbx; ret */
    }
    ck_assert(!c.overflow);
    return (unsigned)(c.p - bytes);
}

enum { ACROSS, BY_ADDRESS, AGAIN, COUNTS };

/* Has it parts in two pages, such that an indirect CALL or JMP leads to, one block twice? */
static void look_at(const JitCode *made, unsigned *count)
{
    bool is[COUNTS] = {false};
    for (unsigned p = 1; p < made->n_parts; p++) {
        const Block *b = made->part[p].b, *before = made->part[p - 1].b;
        is[ACROSS] |= made->part[p].cross;
        is[BY_ADDRESS] |= op_rows[before->insn[before->n - 1].row].opcode == 0xff;
        for (unsigned q = 0; q < p; q++)
            is[AGAIN] |= made->part[q].b == b;
    }
    for (unsigned k = 0; k < COUNTS; k++)
        count[k] += is[k];
}

/* Whatever a RET to anywhere runs, ports are empty. */
static uint32_t port_read(Vcpu *v G_GNUC_UNUSED, uint16_t port G_GNUC_UNUSED,
                          unsigned size G_GNUC_UNUSED)
{
    return 0xffffffff;
}
static void port_write(Vcpu *v G_GNUC_UNUSED, uint16_t port G_GNUC_UNUSED,
                       unsigned size G_GNUC_UNUSED, uint32_t value G_GNUC_UNUSED)
{
}

/* Loops that become traces after a round or two. */
START_TEST(random_traces)
{
    unsigned count[COUNTS] = {0};
    GError *err = NULL;
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS / 4;
    guest_setup();
    guest.bus.pio_read = port_read;
    guest.bus.pio_write = port_write;
    ck_assert_msg(engine_jit.vcpu_init(&guest.v, &err), "%s", err ? err->message : "");
    Jit *j = jit_of(&guest.v);
    j->hot_after = 0;
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[1024];
        seed = k * 0x5851f42d4c957f2dull + 2;
        j->warm_after = 1 + k % 3;
        j->kernel_warm = 1;
        j->twin_after = 1 + k % 4;
        j->trace_paths = j->kernel_paths = 1 + k % 2;
        j->trace_rounds = k % 4 ? 1 : JIT_TRACE_ROUNDS; /* others end before they are traces */
        j->kernel_slots = k & 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        unsigned n = make_loop(bytes, sizeof(bytes));
        for (unsigned q = 0; q < DATA_LEN / 8; q++)
            memcpy(memory + 8 * q, &(uint64_t){one_in(2) ? rnd() : below(1000)}, 8);
        make_elsewhere(memory + (ELSEWHERE - DATA));
        n_cuts = 0;
        must_agree(k, &in, bytes, n);
        for (unsigned b = j->map_n > 4 ? j->map_n - 4 : 0; b < j->map_n; b++)
            look_at(j->map[b], count);
    }
    ck_assert_uint_gt(j->traces, n_rounds / 2);
    ck_assert_uint_gt(j->twins, n_rounds / 20);
    for (unsigned k = 0; k < COUNTS; k++)
        ck_assert_msg(count[k] > n_rounds / 50, "of kind %u only %u", k, count[k]);
    guest_teardown();
}
END_TEST

/* One access again and again, over the ends of pages whose memory is elsewhere: what it met last
 * must not be taken for what it meets now. */
START_TEST(over_page_ends)
{
    static const struct {
        uint8_t map, opcode, pfx;
        bool w, p66, run;
    } ops[] = {
        {MAP_1B, 0x02, PFX_NP, false, false, false}, {MAP_1B, 0x03, PFX_NP, false, true, false},
        {MAP_1B, 0x03, PFX_NP, false, false, false}, {MAP_1B, 0x01, PFX_NP, true, false, false},
        {MAP_1B, 0x03, PFX_NP, true, false, true},   {MAP_0F, 0x10, PFX_NP, false, false, false},
        {MAP_0F, 0x11, PFX_NP, false, false, true}};
    static const int8_t steps[] = {1, -1, 3, -5, 8, -8, 61, -67};
    Jit *j = begin_jit();
    j->kernel_slots = true;
    for (unsigned k = 0; k < ARRAY_LEN(ops) * ARRAY_LEN(steps); k++) {
        static CpuState in;
        static uint8_t bytes[256];
        int step = steps[k % ARRAY_LEN(steps)];
        unsigned op = k / ARRAY_LEN(steps);
        seed = k + 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = step > 0 ? 0x1f00 : 0x2100; /* backwards: from a page into the one before */
        in.gpr[RCX] = 0x220 / (unsigned)abs(step);
        in.fpu.mxcsr = 0x1f80;
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        for (unsigned n = 0; n < (ops[op].run ? 3 : 1); n++) {
            HostMem m = {.base = RSI, .index = H_NONE, .disp = (int32_t)(40 * n)};
            encode(&c, &(Enc){.map = ops[op].map,
                              .opcode = ops[op].opcode,
                              .pfx = ops[op].pfx,
                              .w = ops[op].w,
                              .p66 = ops[op].p66,
                              .modrm = true,
                              .reg = RDX,
                              .mem = &m});
        }
        emit_lea(&c, true, RSI, (HostMem){.base = RSI, .index = H_NONE, .disp = step});
        code_bytes(&c, "\xff\xc9\x75", 3); /* dec ecx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code8(&c, 0xf4);
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, bytes, (unsigned)(c.p - bytes));
    }
    ck_assert_uint_gt(j->slots, 0);
    guest_teardown();
}
END_TEST

/* A page that is mapped anew before it is used again, and again, forgotten by INVLPG or by CR3: no
 * access may find where it was. */
START_TEST(mapped_anew)
{
    static const char *const forget[] = {
        "\x0f\x01\x3e",                  /* invlpg [rsi] */
        "\x0f\x20\xd8\x0f\x22\xd8",      /* mov rax, cr3; mov cr3, rax */
        "\x4d\x87\xd1\x41\x0f\x01\x39"}; /* xchg r9, r10; invlpg [r9] */
    static const uint8_t access[][4] = {{0x48, 0x03, 0x16}, {0x48, 0x01, 0x16}, {0x02, 0x16}};
    Jit *j = begin_jit();
    j->warm_after = 2;
    j->trace_paths = j->kernel_paths = 1;
    j->kernel_warm = 1;
    j->kernel_slots = true;
    for (unsigned k = 0; k < ARRAY_LEN(forget) * ARRAY_LEN(access); k++) {
        static CpuState in;
        static uint8_t bytes[64];
        const uint8_t *a = access[k / ARRAY_LEN(forget)];
        seed = k + 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = 0x1000;
        in.gpr[RDI] = LOW_PT + 8;
        in.gpr[RBX] = (DATA + 0x1000) | 7;
        in.gpr[RBP] = DATA | 7;
        in.gpr[RCX] = 9;
        if (k % ARRAY_LEN(forget) == 2) {
            /* A large page and small ones by turns; the large one is forgotten by another address
             * in it. */
            put64(LOW_PT + 8 * 0x181, DATA | 7);
            put64(LOW_PD + 8, G_RAM | 0x87);
            in.gpr[RSI] = in.gpr[R10] = 0x381000;
            in.gpr[R9] = 0x300000;
            in.gpr[RDI] = LOW_PD + 8;
            in.gpr[RBX] = G_RAM | 0x87;
            in.gpr[RBP] = LOW_PT | 7;
        }
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x41\xb8\x03\x00\x00\x00", 6); /* mov r8d, 3 */
        const uint8_t *again = c.p;
        code_bytes(&c, a, a[0] == 0x48 ? 3 : 2);
        code_bytes(&c, "\x41\xff\xc8\x75", 4); /* dec r8d; jnz */
        code8(&c, (uint8_t)(again - (c.p + 1)));
        code_bytes(&c, "\x48\x87\xeb\x48\x89\x2f", 6); /* xchg rbx, rbp; mov [rdi], rbp */
        code_bytes(&c, forget[k % ARRAY_LEN(forget)],
                   (unsigned)strlen(forget[k % ARRAY_LEN(forget)]));
        code_bytes(&c, "\xff\xc9\x75", 3); /* dec ecx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code8(&c, 0xf4);
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, bytes, (unsigned)(c.p - bytes));
    }
    guest_teardown();
}
END_TEST

/* The same with a page of code, called directly and by an address: all that leads there must be
 * forgotten, also when another page with code was forgotten just before. */
START_TEST(code_mapped_anew)
{
    static const char *const forget[] = {
        "\x0f\x01\x3e",                                 /* invlpg [rsi] */
        "\x41\x0f\x01\x39\x0f\x01\x3e",                 /* invlpg [r9]; invlpg [rsi] */
        "\x0f\x20\xd8\x0f\x22\xd8",                     /* mov rax, cr3; mov cr3, rax */
        "\x0f\x20\xd8\x0f\x22\xd8\xff\xd6\x0f\x01\x3e", /* the same; call rsi; invlpg [rsi] */
        /* mov rax, cr3; mov cr3, rax; inc byte [rsi + 3]: of the code that comes back */
        "\x0f\x20\xd8\x0f\x22\xd8\xfe\x46\x03",
        "\x0f\x20\xd8\xfe\x46\x03\x0f\x22\xd8"}; /* before it has gone */
    static const uint8_t function[] = {0x48, 0x83, 0xc2, 1, 0x48, 0xc1, 0xc2, 3, 0xc3};
    Jit *j = begin_jit();
    j->warm_after = 2;
    j->trace_paths = j->kernel_paths = 1;
    j->kernel_warm = 1;
    for (unsigned n = 0; n < 8 * ARRAY_LEN(forget); n++) {
        static CpuState in;
        static uint8_t bytes[64];
        /* seldom: the page comes back where it was, every other time */
        unsigned k = n / 2, seldom = n & 1;
        seed = n + 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        uint64_t global = k & 1 ? 1 << 8 : 0;
        in.cr4 |= k & 1 ? CR4_PGE : 0;
        in.gpr[RSP] = DATA + 0x4800;
        in.gpr[RSI] = 0x1200;
        in.gpr[RDI] = LOW_PT + 8;
        in.gpr[RBX] = (DATA + 0x1000) | 7 | global;
        in.gpr[RBP] = DATA | 7 | global;
        in.gpr[R9] = G_CODE;
        in.gpr[RCX] = seldom ? 7 : 9; /* so that the page is in the end where it was */
        put64(LOW_PT + 8, in.gpr[RBX]);
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x41\xb8\x03\x00\x00\x00", 6); /* mov r8d, 3 */
        const uint8_t *again = c.p;
        if (k & 2) {
            code_bytes(&c, "\xff\xd6", 2); /* call rsi */
        } else {
            code8(&c, 0xe8);
            code32(&c, (uint32_t)(0x1200 - (G_CODE + (c.p - bytes) + 4)));
        }
        code_bytes(&c, "\x41\xff\xc8\x75", 4); /* dec r8d; jnz */
        code8(&c, (uint8_t)(again - (c.p + 1)));
        if (seldom)
            code_bytes(&c, "\xf6\xc1\x01\x75\x06", 5); /* test cl, 1; jnz over the next two */
        code_bytes(&c, "\x48\x87\xeb\x48\x89\x2f", 6); /* xchg rbx, rbp; mov [rdi], rbp */
        code_bytes(&c, forget[k / 4], (unsigned)strlen(forget[k / 4]));
        code_bytes(&c, "\xff\xc9\x75", 3); /* dec ecx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code8(&c, 0xf4);
        n_cuts = 0;
        memset(memory, 0, sizeof(memory));
        for (unsigned q = 0; q < 2; q++) {
            memcpy(memory + 0x1000 * q + 0x200, function, sizeof(function));
            memory[0x1000 * q + 0x203] = (uint8_t)(5 + q);
        }
        if (!global || k / 4 < 2) /* a global page may outlive CR3, or not */
            must_agree(n, &in, bytes, (unsigned)(c.p - bytes));
    }
    guest_teardown();
}
END_TEST

/* Code that is at one linear address for a while, then at another: where it is shows in what it
 * pushes, in the addresses it makes of RIP, and in where it jumps. */
START_TEST(at_two_places)
{
    static const uint8_t driver[] = {
        0xb9, 32,   0,    0, 0, /* mov ecx, 32 */
        0xff, 0xd6,             /* 1: call rsi */
        0xf6, 0xc1, 7,          /* test cl, 7 */
        0x75, 3,                /* jnz 2f */
        0x48, 0x87, 0xfe,       /* xchg rsi, rdi */
        0xff, 0xc9,             /* 2: dec ecx */
        0x75, 0xf2,             /* jnz 1b */
        0xf4,                   /* hlt */
    };
    static const uint8_t there[] = {
        0x48, 0x8d, 0x05, 1,    0,    0,    0, /* lea rax, [rip + 1] */
        0x48, 0x01, 0xc2,                      /* add rdx, rax */
        0x48, 0x03, 0x15, 0xef, 0x06, 0,    0, /* add rdx, [0x800] */
        0x48, 0x01, 0x15, 0xf0, 0x06, 0,    0, /* add [0x808], rdx */
        0xe8, 0x0a, 0,    0,    0,             /* call 1f */
        0xe8, 0xde, 0x10, 0,    0,             /* call 2f */
        0xe9, 0xd9, 0x10, 0,    0,             /* jmp 2f */
        0x58, 0x50, 0x48, 0x01, 0xc2, 0xc3,    /* 1: pop rax; push rax; add rdx, rax; ret */
    };
    static const uint8_t next_page[] = {
        0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff, /* 2: lea rax, [rip - 16] */
        0x48, 0x01, 0xc2,                         /* add rdx, rax */
        0x48, 0xc1, 0xc2, 5,                      /* rol rdx, 5 */
        0xc3,                                     /* ret */
    };
    Jit *j = begin_jit();
    j->warm_after = 2;
    j->trace_paths = j->kernel_paths = 1;
    j->kernel_warm = 1;
    for (unsigned k = 0; k < 4; k++) {
        static CpuState in;
        seed = k + 1;
        j->kernel_slots = k & 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSP] = DATA + 0x4800;
        in.gpr[RSI] = 0x100;
        in.gpr[RDI] = 0x2000 * (k + 1) + 0x100;
        memset(memory, 0, sizeof(memory));
        memcpy(memory + 0x100, there, sizeof(there));
        memcpy(memory + 0x1200, next_page, sizeof(next_page));
        memory[0x800] = 3;
        n_cuts = 0;
        must_agree(k, &in, driver, sizeof(driver));
    }
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {random_blocks, random_traces,    over_page_ends,
                                  mapped_anew,   code_mapped_anew, at_two_places};
    return jit_suite("jit", tests, ARRAY_LEN(tests));
}
