/*
 * Random loops over arrays, translated and interpreted: the second body of a loop has no checks
 * (loop.c), so what it must not miss are ends of pages, pages that are not there, and what else
 * may be in a loop. See jit_blocks.h.
 */
#include "jit_blocks.h"

enum { LOOP_POINTERS = 5, LOOP_INDICES = 2 };
static const uint8_t loop_pointer[LOOP_POINTERS] = {RSI, RDI, RBP, R9, R12};
static const uint8_t loop_index[LOOP_INDICES] = {RBX, R14};

static const uint8_t *loop_at; /* the bytes that will be at G_CODE */
/* All pointers move by additions of 32 bits, which nobody follows: no access is a stream's. */
static bool loop_narrow;

static unsigned loop_result(void)
{
    static const uint8_t regs[] = {RAX, RDX, R10, R13};
    return regs[below(4)];
}

/* An operand that may be a stream: moving pointers, indices, both, copies, neither. */
static HostMem loop_data(unsigned near)
{
    HostMem m = {.base = loop_pointer[below(near)],
                 .index = H_NONE,
                 .disp = (int32_t)below(one_in(20) ? 3000 : 64) - 32};
    if (loop_narrow)
        return m;
    if (one_in(3)) {
        m.index = loop_index[below(LOOP_INDICES)];
        m.scale = (uint8_t)below(4);
    }
    if (one_in(20))
        m.base = R8; /* a copy: see loop_step() */
    return m;
}

static void loop_insn(Code *c, unsigned near)
{
    HostMem m = loop_data(near);
    Enc e = {.map = MAP_1B, .modrm = true, .reg = (uint8_t)loop_result(), .mem = &m};
    unsigned size = 1u << below(4);
    e.p66 = size == 2;
    e.w = size == 8;
    e.rex = size == 1;
    switch (below(15)) {
    case 0:
    case 1:
    case 2: /* ADD to CMP with memory, both ways: ADC and SBB read what the round before left */
        e.opcode = (uint8_t)(below(8) << 3 | (one_in(2) ? 1 : 3));
        e.opcode -= size == 1;
        break;
    case 3:
    case 4:
        e.opcode = 0x8b - (size == 1);
        break;
    case 5:
    case 6:
        e.opcode = 0x89 - (size == 1);
        break;
    case 7:
        e.map = MAP_0F;
        e.opcode = (uint8_t)(one_in(2) ? 0xb6 : 0x40 + below(16));
        e.p66 = e.rex = false;
        break;
    case 8: /* ALU of registers; shifts by CL */
        e.opcode = (uint8_t)(one_in(4) ? 0xd3 : below(8) << 3 | 1);
        if (e.opcode == 0xd3)
            e.reg = (uint8_t[]){0, 1, 4, 5, 7}[below(5)];
        e.mem = NULL;
        e.rm = (uint8_t)loop_result();
        e.p66 = e.rex = false;
        break;
    case 9:
        code8(c, (uint8_t[]){0xf5, 0xf8, 0xf9, 0x90, 0x99}[below(5)]);
        return;
    case 10:
        e.opcode = 0xf7; /* NOT, NEG, MUL, IMUL; DIV now and then */
        e.reg = (uint8_t)(2 + below(one_in(8) ? 6 : 4));
        e.p66 = e.rex = false;
        break;
    case 11:
    case 12: /* MOVUPS, MOVAPS, ADDSD, PADDD */
        e.map = MAP_0F;
        e.opcode = (uint8_t[]){0x10, 0x11, 0x10, 0x11, 0x58, 0x28, 0xfe}[below(7)];
        e.pfx = e.opcode == 0x58 ? PFX_F2 : e.opcode == 0xfe ? PFX_66 : PFX_NP;
        e.p66 = e.w = e.rex = false;
        e.reg = (uint8_t)below(16);
        break;
    case 13: { /* FLD, FADD, FSTP, FISTP, FXCH, FCHS */
        static const uint8_t x87[][2] = {{0xd9, 0}, {0xdd, 0}, {0xdc, 0}, {0xdd, 3},
                                         {0xdb, 7}, {0xdf, 7}, {0xd9, 0}, {0xdd, 3}};
        unsigned n = below(10);
        if (n >= ARRAY_LEN(x87)) {
            code_bytes(c, n & 1 ? "\xd9\xc9" : "\xd9\xe0", 2);
            return;
        }
        e.opcode = x87[n][0];
        e.reg = x87[n][1];
        e.p66 = e.w = e.rex = false;
        break;
    }
    default: /* at a fixed place, counted from RIP or not, or at one that was computed */
        if (one_in(3)) { /* add rax, [rip + ...]; add [rip + ...], rdx */
            code_bytes(c, one_in(2) ? "\x48\x03\x05" : "\x48\x01\x15", 3);
            code32(c, (uint32_t)(DATA + below(0x2200) - (G_CODE + (uint64_t)(c->p + 4 - loop_at))));
            return;
        }
        if (one_in(2)) {
            e.opcode = 0x89;
            m = (HostMem){.base = H_NONE, .index = H_NONE, .disp = (int32_t)below(0x3000)};
        } else {
            emit_mov(c, false, R10, R10);                     /* below 4 GiB, and small: */
            code_bytes(c, "\x41\x81\xe2\xff\x7f\x00\x00", 7); /* and r10d, 0x7fff */
            e.opcode = 0x03;
            m = (HostMem){.base = R10, .index = H_NONE, .disp = (int32_t)below(200)};
        }
        e.p66 = e.rex = false;
    }
    encode(c, &e);
}

/* What makes a register move by a constant, or not. */
static void loop_step(Code *c, unsigned r)
{
    int32_t n = (int32_t[]){1,   -1, 2, 4,   -4,   8,   -8,  16,   24,
                            -40, 64, 3, 256, -256, 260, 512, -768, 4096}[below(18)];
    unsigned by = loop_index[below(LOOP_INDICES)];
    if (one_in(4) && by != r) { /* by a register: ADD, both ways, or LEA */
        HostMem m = {.base = (uint8_t)r, .index = (uint8_t)by};
        unsigned how = below(3);
        if (how == 2)
            emit_lea(c, true, r, m);
        else
            encode(c, &(Enc){.map = MAP_1B,
                             .opcode = how ? 0x01 : 0x03,
                             .w = true,
                             .modrm = true,
                             .reg = (uint8_t)(how ? by : r),
                             .rm = (uint8_t)(how ? r : by)});
        return;
    }
    switch (below(7)) {
    case 0:
        emit_lea(c, true, r, (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = n});
        break;
    case 1: /* INC, DEC */
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0xff,
                         .w = true,
                         .modrm = true,
                         .reg = (uint8_t)below(2),
                         .rm = (uint8_t)r});
        break;
    case 2: /* there and back */
        emit_lea(c, true, r, (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = n});
        emit_lea(c, true, r, (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = -n});
        break;
    case 3: /* R8 is a copy, and the register may move before it is used */
        emit_mov(c, true, R8, r);
        emit_lea(c, true, r, (HostMem){.base = (uint8_t)r, .index = H_NONE, .disp = n});
        break;
    default: /* ADD, SUB */
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0x81,
                         .w = true,
                         .modrm = true,
                         .reg = one_in(2) ? 0 : 5,
                         .rm = (uint8_t)r,
                         .imm = n,
                         .imm_size = 4});
    }
}

static void narrow_step(Code *c, unsigned r)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0x83,
                     .modrm = true,
                     .reg = one_in(2) ? 0 : 5,
                     .rm = (uint8_t)r,
                     .imm = (int32_t)below(128),
                     .imm_size = 1});
}

static unsigned make_loop(uint8_t *bytes, size_t room, CpuState *in)
{
    static const uint8_t counters[] = {RCX, R11, R15};
    Code c = {.p = bytes, .end = bytes + room};
    unsigned n = 1 + below(one_in(4) ? 14 : 5), counter = counters[below(3)];
    unsigned near = 1 + below(LOOP_POINTERS), steps = 1 + below(3);
    loop_at = bytes;
    emit_mov(&c, true, R8, RSI);
    uint8_t *again = c.p;
    uint32_t rounds = 1 + below(one_in(3) ? 1400 : 90);
    for (unsigned k = 0; k < LOOP_POINTERS; k++)
        if (in->gpr[loop_pointer[k]] >> 12 == G_CODE >> 12) /* it is not to reach the code */
            rounds = 1 + below(4);
    if (rounds < 91 && one_in(2)) /* several times, so that it is judged by how long it runs */
        emit_imm32(&c, counter, rounds = 1 + rounds / 6);
    else
        again = NULL;
    in->gpr[counter] = rounds;
    if (one_in(3)) /* a number in an index: mov, or xor with itself */
        emit_imm32(&c, loop_index[below(LOOP_INDICES)], below(40));
    if (one_in(3)) {
        unsigned r = loop_index[below(LOOP_INDICES)];
        encode(&c, &(Enc){.map = MAP_1B,
                          .opcode = one_in(2) ? 0x31 : 0x33,
                          .w = one_in(2),
                          .modrm = true,
                          .reg = (uint8_t)r,
                          .rm = (uint8_t)r});
    }
    uint8_t *into = NULL; /* the first round begins in the middle */
    if (one_in(5)) {
        code8(&c, 0xeb);
        into = c.p;
        code8(&c, 0);
    }
    uint8_t *top = c.p, *outs[20];
    unsigned n_outs = 0, middle = 1 + below(3);
    bool parts = one_in(2);
    for (unsigned k = 0; k < n + steps; k++) {
        uint8_t *over = NULL, *out = NULL;
        if (into && k == middle)
            *into = (uint8_t)(c.p - (into + 1));
        if (parts &&
            one_in(4)) { /* Jcc over one instruction, or out of the loop; JMP to the next */
            unsigned what = below(5);
            code8(&c, what == 0 ? 0xeb : 0x70 + below(16));
            *(what == 1 ? &out : &over) = c.p;
            code8(&c, 0);
            if (what == 0)
                over = NULL;
        }
        if (out)
            outs[n_outs++] = out;
        if (loop_narrow)
            loop_insn(&c, near);
        else if (below(n + steps) < steps)
            loop_step(&c, one_in(3) ? loop_index[below(LOOP_INDICES)] : loop_pointer[below(near)]);
        else
            loop_insn(&c, near);
        if (over)
            *over = (uint8_t)(c.p - (over + 1));
    }
    for (unsigned k = 0; loop_narrow && k < near; k++)
        narrow_step(&c, loop_pointer[k]);
    count_down(&c, counter, one_in(2));
    if (one_in(4) && c.p - top < 120) { /* JNZ, JG, JNS, JNBE: the short form, or the long */
        code8(&c, (uint8_t[]){0x75, 0x7f, 0x79}[below(3)]);
        code8(&c, (uint8_t)(top - (c.p + 1)));
    } else {
        code8(&c, 0x0f);
        code8(&c, 0x85);
        code32(&c, (uint32_t)(top - (c.p + 4)));
    }
    for (unsigned k = 0; k < n_outs; k++) /* where they reach */
        *outs[k] = c.p - (outs[k] + 1) > 127 ? 0 : (uint8_t)(c.p - (outs[k] + 1));
    if (again) { /* R15 or R11 counts */
        code8(&c, 0x49);
        code8(&c, 0xff);
        code8(&c, 0xc8 | ((counter == R15 ? R11 : R15) & 7)); /* dec */
        code8(&c, 0x0f);
        code8(&c, 0x85);
        code32(&c, (uint32_t)(again - (c.p + 4)));
        in->gpr[counter == R15 ? R11 : R15] = 1 + below(7);
    }
    code8(&c, 0xf4);
    ck_assert(!c.overflow);
    return (unsigned)(c.p - bytes);
}

static void loop_registers(CpuState *s)
{
    for (unsigned k = 0; k < LOOP_POINTERS; k++) {
        uint64_t at = one_in(4) ? DATA + below(0x2000) : 0x1000 + below(0xe000);
        if (one_in(3)) /* near an end of a page */
            at = (at & ~0xfffull) + 0x1000 - below(80);
        if (one_in(30)) /* data beside code */
            at = G_CODE + 0x900 + below(0x500);
        s->gpr[loop_pointer[k]] = one_in(3) ? at : at & ~15ull;
    }
    for (unsigned k = 0; k < LOOP_INDICES; k++)
        s->gpr[loop_index[k]] = one_in(12) ? 0 - (uint64_t)below(40) : below(one_in(4) ? 9000 : 40);
    s->fpu.mxcsr = 0x1f80;
}

/* Has a trace rounds of a loop one after the other? */
static bool in_a_row(const JitCode *made)
{
    for (unsigned p = 1; p < made->n_parts; p++)
        if (made->part[p].b == made->part[p - 1].b)
            return true;
    return false;
}

/* Has it rounds of a loop of several blocks? */
static bool again_later(const JitCode *made)
{
    for (unsigned p = 0; p < made->n_parts; p++)
        for (unsigned q = p + 2; q < made->n_parts; q++)
            if (made->part[p].b == made->part[q].b && made->part[q - 1].b != made->part[q].b)
                return true;
    return false;
}

START_TEST(loops)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS;
    unsigned seconds = 0, bare = 0, traces = 0, rows = 0, laters = 0;
    Jit *j = begin_jit();
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[1024];
        seed = k * 0x5851f42d4c957f2dull + 3;
        j->kernel_slots = one_in(2);
        j->loop_exits = 1 + below(5);
        j->slot_asks = (uint8_t)below(3);
        j->slot_refills = (uint8_t)(1 + below(2));
        j->window_ticks = one_in(2) ? UINT64_MAX : 0;
        j->warm_after = 1 + below(8);
        j->trace_paths = j->kernel_paths = 1;
        j->trace_rounds = one_in(4) ? JIT_TRACE_ROUNDS : 1; /* others end before they are traces */
        j->kernel_warm = 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        loop_registers(&guest.v.st);
        in = guest.v.st;
        loop_narrow = one_in(8);
        unsigned n = make_loop(bytes, sizeof(bytes), &in);
        for (unsigned q = 0; q < DATA_LEN / 8; q++)
            memcpy(memory + 8 * q, &(uint64_t){one_in(2) ? rnd() : below(1000)}, 8);
        n_cuts = 0;
        must_agree(k, &in, bytes, n);
        for (unsigned b = j->map_n > 4 ? j->map_n - 4 : 0; b < j->map_n; b++) {
            seconds += j->map[b]->head != NULL;
            bare += loop_narrow && j->map[b]->head;
            traces += j->map[b]->head != NULL && j->map[b]->n_parts > 1;
            rows += in_a_row(j->map[b]);
            laters += again_later(j->map[b]);
        }
    }
    ck_assert_uint_gt(seconds, n_rounds / 4);
    ck_assert_uint_gt(bare, n_rounds / 100);
    ck_assert_uint_gt(traces, n_rounds / 50);
    ck_assert_uint_gt(rows, n_rounds / 50);
    ck_assert_uint_gt(laters, n_rounds / 1000);
    guest_teardown();
}
END_TEST

/* A loop of few rounds in one of few rounds in another: all of them may be one trace. The innermost
 * one may be entered in its middle, and what is around it end with a JMP back. */
static unsigned make_nest(uint8_t *bytes, size_t room, CpuState *in)
{
    Code c = {.p = bytes, .end = bytes + room};
    unsigned near = 1 + below(LOOP_POINTERS);
    uint8_t *into = NULL, *out = NULL;
    loop_at = bytes;
    in->gpr[R15] = 2 + below(20);
    const uint8_t *outer = c.p;
    if (one_in(2))
        loop_insn(&c, near);
    emit_imm32(&c, R11, 2 + below(4));
    const uint8_t *middle = c.p;
    emit_mov(&c, true, R8, RSI);
    emit_imm32(&c, RCX, 2 + below(8));
    if (one_in(2))
        into = emit_jmp(&c, c.p);
    const uint8_t *inner = c.p;
    for (unsigned n = 1 + below(2); n; n--)
        loop_insn(&c, near);
    if (one_in(2))
        loop_step(&c, one_in(2) ? R8 : loop_pointer[below(near)]);
    if (into)
        patch_rel32(into, 0, c.p);
    if (one_in(2))
        loop_insn(&c, near);
    count_down(&c, RCX, one_in(2));
    emit_jcc(&c, 5, inner);
    if (one_in(2))
        loop_insn(&c, near);
    count_down(&c, R11, one_in(2));
    if (one_in(2)) {
        out = emit_jcc(&c, 4, c.p);
        loop_insn(&c, near);
        emit_jmp(&c, middle);
        patch_rel32(out, 0, c.p);
    } else {
        emit_jcc(&c, 5, middle);
    }
    if (one_in(2))
        loop_step(&c, loop_pointer[below(near)]);
    count_down(&c, R15, one_in(2));
    emit_jcc(&c, 5, outer);
    code8(&c, 0xf4);
    ck_assert(!c.overflow);
    return (unsigned)(c.p - bytes);
}

START_TEST(nests)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS");
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS / 8;
    unsigned large = 0, seconds = 0;
    Jit *j = begin_jit();
    for (uint64_t k = 0; k < n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[1024];
        seed = k * 0x5851f42d4c957f2dull + 13;
        j->kernel_slots = one_in(2);
        j->loop_exits = 1 + below(5);
        j->warm_after = 1 + below(4);
        j->trace_paths = j->kernel_paths = 1;
        j->kernel_warm = 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        loop_registers(&guest.v.st);
        in = guest.v.st;
        loop_narrow = false;
        unsigned n = make_nest(bytes, sizeof(bytes), &in);
        random_memory();
        n_cuts = 0;
        must_agree(k, &in, bytes, n);
        for (unsigned b = j->map_n > 6 ? j->map_n - 6 : 0; b < j->map_n; b++) {
            large += j->map[b]->n_parts > 24;
            seconds += j->map[b]->n_parts > 24 && j->map[b]->head;
        }
    }
    ck_assert_uint_gt(large, n_rounds / 20);
    ck_assert_uint_gt(seconds, n_rounds / 100);
    guest_teardown();
}
END_TEST

/* x87 beside other accesses, in pages that may be written, read, or not at all: what is checked for
 * several, and FIP and FOP when one of them faults. */
START_TEST(x87_faults)
{
    static const char *const insns[] = {
        "\xd9\xe8",     "\xd9\xe0",     "\xd9\xc9",     "\xde\xc1", /* fld1; fchs; fxch; faddp */
        "\xdd\x47\x18", "\xdd\x46\x18", "\xdb\x6f\x20", /* fld of [rdi] twice, of [rsi] */
        "\xdd\x5f\x10", "\xdd\x5e\x10", "\xdf\x3f",     /* fstp, fistp to them */
        "\x8b\x47\x04", "\x89\x46\x04",                 /* mov eax, [rdi + 4]; mov [rsi + 4], eax */
        "\x83\xc0\x01", "\x85\xc0",     "\x48\x89\xf8", "\x0f\xaf\xc0", /* plain ones, IMUL */
    };
    static const gva_t pages[] = {DATA, DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x3000};
    Jit *j = begin_jit();
    for (unsigned k = 0; k < 3000; k++) {
        static CpuState in;
        uint8_t bytes[64];
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        seed = k * 0x5851f42d4c957f2dull + 5;
        j->kernel_slots = one_in(2);
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RDI] = pages[below(ARRAY_LEN(pages))] + 0x100;
        in.gpr[RSI] = pages[below(ARRAY_LEN(pages))] + 0x200;
        in.gpr[RSP] = DATA + 0x800;
        in.fpu.mxcsr = 0x1f80;
        code_bytes(&c, "\x48\x89\x0c\x24\xd9\xee", 6); /* mov [rsp], rcx; fldz */
        for (unsigned n = 2 + below(6); n > 0; n--) {
            const char *insn = insns[below(ARRAY_LEN(insns))];
            code_bytes(&c, insn, insn[1] == '\x3f' ? 2 : (unsigned)strlen(insn));
        }
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    guest_teardown();
}
END_TEST

/* Gathers from where they have found their pages before, and beyond: the first round of each loop
 * fills the slot. */
START_TEST(gathers)
{
    if (!__builtin_cpu_supports("avx2"))
        return;
    Jit *j = begin_jit();
    for (unsigned k = 0; k < 4000; k++) {
        static CpuState in;
        uint8_t bytes[96];
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        seed = k * 0x5851f42d4c957f2dull + 9;
        j->kernel_slots = !one_in(8);
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.fpu.mxcsr = 0x1f80;
        unsigned opcode = 0x90 + below(4);
        gva_t end = one_in(2) ? DATA + 0x3000 : 0x1000 * (1 + below(14));
        in.gpr[RSI] = one_in(3) ? end - 0x3000 + below(0x200) : end - 0x40 - below(0x300);
        if (end < DATA) /* where two other pages begin, or do not */
            in.gpr[RSI] = end - 0x300 + below(0x500);
        in.gpr[RCX] = 2 + below(4);
        HostMem m = {.base = RSI,
                     .index = (uint8_t)(INDEX + (opcode & 1)),
                     .scale = (uint8_t)below(4),
                     .disp = (int32_t)below(96) - 48};
        Enc mask = {.map = MAP_VEX0F, .opcode = 0x28, .l = true, .modrm = true, .rm = LANES};
        Enc e = {.map = MAP_VEX0F38,
                 .opcode = (uint8_t)opcode,
                 .pfx = PFX_66,
                 .w = one_in(2),
                 .l = !one_in(3),
                 .modrm = true,
                 .reg = (uint8_t)(4 + below(4)),
                 .vvvv = (uint8_t)below(4),
                 .mem = &m};
        Enc sum = {.map = MAP_VEX0F,
                   .opcode = 0xfe, /* VPADDD */
                   .pfx = PFX_66,
                   .l = true,
                   .modrm = true,
                   .reg = 9,
                   .vvvv = 9,
                   .rm = e.reg};
        mask.reg = e.vvvv;
        const uint8_t *top = c.p;
        if (has_avx512() && one_in(2)) { /* EVEX, and scatters */
            unsigned length = below(3), index = m.index;
            for (unsigned n = 0; n < 8; n++)
                in.fpu.v[INDEX + 1].q[n] = (uint64_t)below(128) - 64;
            for (unsigned n = 0; n < 16; n++)
                in.fpu.v[INDEX].d[n] = below(128) - 64;
            if (one_in(3)) { /* one of the upper sixteen registers */
                in.fpu.v[index + 8] = in.fpu.v[index];
                index += 8;
            }
            for (unsigned n = 1; n < 8; n++)
                in.fpu.k[n] = rnd();
            mask = (Enc){.map = MAP_VEX0F, .opcode = 0x90, .w = true, .modrm = true, .rm = 7};
            mask.reg = (uint8_t)(1 + below(6)); /* kmovq */
            e.map = MAP_EVEX0F38;
            e.evex = (uint8_t)(length << EVEX_LL_SHIFT | mask.reg);
            e.opcode += one_in(2) ? 0x10 : 0;
            e.vvvv = index & 16;
            m.index = index & 15;
        }
        encode(&c, &mask);
        encode(&c, &e);
        encode(&c, &sum);
        code_bytes(&c, "\x48\x81\xc6", 3); /* add rsi, ... */
        code32(&c, (uint32_t[]){0, 8, 16, 40, 0x100, -0x40u, -0x1000u}[below(7)]);
        code_bytes(&c, "\xff\xc9\x75", 3); /* dec ecx; jnz */
        code8(&c, (uint8_t)(top - (c.p + 1)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {loops, nests, x87_faults, gathers};
    return jit_suite("jit_loop", tests, ARRAY_LEN(tests));
}
