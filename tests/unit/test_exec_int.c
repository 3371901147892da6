/*
 * Integer instructions of the software engine, held against the processor this runs on.
 *
 * For each row of ops.def that can be run in user mode, instructions are made at random, followed
 * by others that use their flags, as the quick forms put them together, and run twice from the same
 * registers and memory: by engine_interp and natively. All registers, the flags and all of memory
 * must agree. Single instructions in all their forms are the business of `tandem diff insn`.
 */
#include <stdio.h>
#include "tcg/exec.h"
#include "tcg/tcg.h"
#include "native_run.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define ROUNDS   200 /* instructions a row */
#define STACK_AT (G_DATA + 0x2800)

/* Values with edges in them. */
static uint64_t rnd_value(void)
{
    static const uint64_t edge[] = {0,      1,          ~0ull,      0x80,       0x7f,       0x8000,
                                    0x7fff, 0x80000000, 0x7fffffff, 1ull << 63, ~0ull >> 1, 0xff,
                                    0xffff, 0xffffffff, 2,          63,         64,         31};
    return rnd() & 1 ? rnd() >> (rnd() & 63) : edge[rnd() % ARRAY_LEN(edge)] + (rnd() & 3) - 1;
}

/* ---- which rows, and how to encode them ---- */
static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}
static uint8_t op_class(const OpRow *r, unsigned k)
{
    static const uint8_t cls[O_N] = {
#define OPERAND(name, c, bytes) [O_##name] = OC_##c,
#include "tcg/operands.def"
#undef OPERAND
    };
    return cls[r->op[k]];
}

/* The rows that end up in handlers of the integer files and may be run in user mode. */
static bool row_wanted(const OpRow *r)
{
    static const char *const names[] = {
        "add",    "or",     "adc",   "sbb",       "and",       "sub",   "xor",   "cmp",   "test",
        "not",    "neg",    "mul",   "imul",      "div",       "idiv",  "inc",   "dec",   "rol",
        "ror",    "rcl",    "rcr",   "shl",       "shr",       "sar",   "shld",  "shrd",  "mov",
        "lea",    "movzx",  "movsx", "movsxd",    "xchg",      "pause", "cmov",  "set",   "bswap",
        "movnti", "xlatb",  "cbw",   "cwd",       "push",      "pop",   "enter", "leave", "movs",
        "cmps",   "stos",   "lods",  "scas",      "bt",        "bts",   "btr",   "btc",   "tzcnt",
        "bsf",    "lzcnt",  "bsr",   "popcnt",    "crc32",     "movbe", "adcx",  "adox",  "andn",
        "blsr",   "blsmsk", "blsi",  "bzhi",      "pext",      "pdep",  "mulx",  "bextr", "shlx",
        "sarx",   "shrx",   "rorx",  "cmpxchg",   "xadd",      "cmc",   "clc",   "stc",   "cld",
        "sahf",   "lahf",   "nop",   "cmpxchg8b", "cmpxchg16b"};
    if ((r->attr & (A_I64 | A_CPL0 | A_FPU | A_MMX | A_SSE | A_AVX | A_END)) ||
        (r->feature < FEAT_N && !cpuid_has(&guest.cpuid, r->feature)))
        return false;
    for (unsigned k = 0; k < 4; k++)
        if (op_class(r, k) == OC_SREG || op_class(r, k) == OC_CREG || op_class(r, k) == OC_DREG ||
            op_class(r, k) == OC_MOFFS)
            return false;
    for (unsigned k = 0; k < ARRAY_LEN(names); k++) {
        if (starts(names[k], "cmov") && starts(r->name, "cmov"))
            return true;
        if (strcmp(names[k], "set") == 0 && starts(r->name, "set"))
            return true;
        if (strcmp(r->name, names[k]) == 0)
            return true;
    }
    return false;
}

typedef struct Made {
    uint8_t bytes[15];
    unsigned len;
    bool mem, rep;
    uint8_t vvvv;
} Made;

static bool row_has_modrm(const OpRow *r)
{
    if (r->modrm)
        return true;
    for (unsigned k = 0; k < 4; k++)
        if (op_class(r, k) == OC_RM || op_class(r, k) == OC_REG || op_class(r, k) == OC_MEM)
            return true;
    return false;
}

/* One random instruction of a row. Memory operands: [rbx + disp8], [r12 + r13 * n + disp32]. RSP is
 * not a destination. */
static Made make(const OpRow *r)
{
    Made m = {0};
    uint8_t *p = m.bytes, rex = rnd() & 1 ? 0x40 | (rnd() & 0xf) : 0;
    bool p66 = (rnd() & 3) == 0, vex = r->map >= MAP_VEX0F, must_mem = r->modrm & X_MEM;
    if (r->attr & A_W1)
        rex |= 0x48;
    if (r->attr & A_W0)
        rex &= ~8;
    bool is_string = r->attr & A_REP;
    for (unsigned k = 0; k < 4; k++)
        must_mem |= op_class(r, k) == OC_MEM;
    m.mem = row_has_modrm(r) && (must_mem || (!(r->modrm & X_REG) && (rnd() & 1)));
    unsigned form = rnd() & 1; /* of memory operand */
    unsigned reg = r->modrm & 8 ? r->modrm & 7 : rnd() & 7, rm = rnd() & 7;
    if (m.mem) { /* registers come from rex, which must name the right ones */
        rex = (uint8_t)(form ? 0x43 | (rex & 0xc) : (rex & 0xe) | (rex ? 0x40 : 0));
        rm = form ? 4 : 3;
        if (!form)
            rex &= ~3;
    }
    if (!(rex & 4) && reg == 4 && !(r->modrm & 8))
        reg = 6;
    if (!m.mem && !(rex & 1) && rm == 4)
        rm = 6;
    if (!vex) {
        if (is_string && (rnd() & 1)) {
            *p++ = rnd() & 1 ? 0xf3 : 0xf2;
            m.rep = true;
        }
        if (r->pfx == PFX_66 || (p66 && r->pfx != PFX_NP))
            *p++ = 0x66;
        if (r->pfx == PFX_F3)
            *p++ = 0xf3;
        if (r->pfx == PFX_F2)
            *p++ = 0xf2;
        if ((r->attr & A_LOCK) && m.mem && (rnd() & 1))
            *p++ = 0xf0;
        if (rex)
            *p++ = rex;
        if (r->map != MAP_1B)
            *p++ = 0x0f;
        if (r->map == MAP_0F38)
            *p++ = 0x38;
        if (r->map == MAP_0F3A)
            *p++ = 0x3a;
    } else {
        static const uint8_t pp[] = {[PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
        m.vvvv = r->attr & A_NOV ? 0 : rnd() & 15;
        if (m.vvvv == 4)
            m.vvvv = 5;
        *p++ = 0xc4;
        *p++ = (uint8_t)((~rex & 7) << 5 | (r->map - MAP_VEX0F + 1));
        *p++ = (uint8_t)((rex & 8) << 4 | (~m.vvvv & 15) << 3 | pp[r->pfx]);
    }
    bool opreg = false;
    for (unsigned k = 0; k < 4; k++)
        opreg |= op_class(r, k) == OC_OPREG;
    unsigned z = opreg ? rnd() & 7 : 0;
    *p++ = (uint8_t)(r->opcode + (z == 4 ? 5 : z));
    if (row_has_modrm(r)) {
        if (!m.mem) {
            *p++ = (uint8_t)(0xc0 | reg << 3 | rm);
        } else if (!form) {
            *p++ = (uint8_t)(0x40 | reg << 3 | rm);
            *p++ = (uint8_t)(rnd() & 0x70);
        } else {
            *p++ = (uint8_t)(0x80 | reg << 3 | 4);
            *p++ = (uint8_t)((rnd() & 0xc0) | 5 << 3 | 4);
            uint32_t disp = rnd() & 0xff0;
            memcpy(p, &disp, 4);
            p += 4;
        }
    }
    /* Immediates: as many bytes as any row takes; what is not used is overwritten by the jump. */
    for (unsigned k = 0; k < 8; k++)
        p[k] = (uint8_t)rnd_value();
    m.len = (unsigned)(p - m.bytes);
    return m;
}

static void describe(const Made *m, const OpRow *r)
{
    fprintf(stderr, "%s:", r->name);
    for (unsigned k = 0; k < m->len; k++)
        fprintf(stderr, " %02x", m->bytes[k]);
    fprintf(stderr, "\n");
}

/* What may follow, in registers alone: some of these overwrite all flags, others leave or read one,
 * so that the engine may or may not do without the first one's flags. Returns how many. */
static unsigned add_followers(uint8_t **p)
{
    static const char *const follower[] = {
        "\x39\xd8",         /* cmp eax, ebx */
        "\x48\x11\xd1",     /* adc rcx, rdx */
        "\x41\xff\xc0",     /* inc r8d */
        "\xc1\xe2\x03",     /* shl edx, 3 */
        "\x49\xd1\xc1",     /* rol r9, 1 */
        "\x48\x0f\xaf\xc1", /* imul rax, rcx */
        "\x21\xd8",         /* and eax, ebx */
        "\x0f\x92\xc2",     /* setb dl */
        "\x4d\x0f\x46\xd3", /* cmovbe r10, r11 */
        "\xd3\xe2",         /* shl edx, cl */
        "\xf7\xdf",         /* neg edi */
    };
    unsigned n = rnd() & 3;
    for (unsigned k = 0; k < n; k++) {
        const char *f = follower[rnd() % ARRAY_LEN(follower)];
        memcpy(*p, f, strlen(f));
        *p += strlen(f);
    }
    return n;
}

/* A comparison and a branch on it; two instructions follow either way. Returns how many in all. */
static unsigned add_branch(uint8_t **p)
{
    static const struct {
        const char *bytes;
        unsigned len;
    } compare[] = {
        {"\x39\xd8", 2},                 /* cmp eax, ebx */
        {"\x48\x39\xd8", 3},             /* cmp rax, rbx */
        {"\x39\x44\x24\x08", 4},         /* cmp [rsp + 8], eax */
        {"\x48\x39\x44\x24\x08", 5},     /* cmp [rsp + 8], rax */
        {"\x3b\x44\x24\x08", 4},         /* cmp eax, [rsp + 8] */
        {"\x48\x3b\x44\x24\x08", 5},     /* cmp rax, [rsp + 8] */
        {"\x80\xfd\x41", 3},             /* cmp ch, 65 */
        {"\x83\xf9\xff", 3},             /* cmp ecx, -1 */
        {"\x48\x81\xfa\xff\x7f\0\0", 7}, /* cmp rdx, 7fff */
        {"\x80\x7c\x24\x08\x41", 5},     /* cmp byte [rsp + 8], 65 */
        {"\x83\x7c\x24\x08\x80", 5},     /* cmp dword [rsp + 8], -128 */
        {"\x48\x83\x7c\x24\x08\x01", 6}, /* cmp qword [rsp + 8], 1 */
        {"\x84\xe4", 2},                 /* test ah, ah */
        {"\x85\xc0", 2},                 /* test eax, eax */
        {"\x48\x85\xd1", 3},             /* test rcx, rdx */
        {"\x40\xf6\xc7\x81", 4},         /* test dil, 81 */
        {"\xf7\xc1\x00\x00\x01\x80", 6}, /* test ecx, 80010000 */
        {"\xf6\x44\x24\x08\x80", 5},     /* test byte [rsp + 8], 80 */
        {"\xff\xc9", 2},                 /* dec ecx */
        {"\x48\xff\xcf", 3},             /* dec rdi */
    };
    unsigned k = rnd() % ARRAY_LEN(compare);
    memcpy(*p, compare[k].bytes, compare[k].len);
    *p += compare[k].len;
    *(*p)++ = 0x70 | (rnd() & 15);
    /* Jcc 1f; inc r15; jmp 2f; 1: dec r14; nop; 2: */
    memcpy(*p, "\x05\x49\xff\xc7\xeb\x04\x49\xff\xce\x90", 10);
    *p += 10;
    return 4;
}

/* Runs one instruction, and a few after it, both ways; false when they differ. */
static bool try_one(const OpRow *r, unsigned *ran)
{
    static uint8_t before[WINDOW], after[WINDOW];
    Made m = make(r);
    Insn i;
    uint8_t all[15];
    uint8_t features[FEAT_N];
    for (unsigned k = 0; k < FEAT_N; k++)
        features[k] = cpuid_has(&guest.cpuid, k);
    memcpy(all, m.bytes, 15);
    if (decode(&i, all, 15, DM_CODE64 | DM_PROT, features) != DECODE_OK)
        return true;
    /* The random prefix may have made another row of it. */
    if (&op_rows[i.row] != r)
        return true;
    m.len = i.len;
    bool bits = starts(r->name, "bt") && m.mem;
    if (strcmp(r->name, "enter") == 0 && (i.imm2 & 31) > 20)
        return true;

    /* Registers, then those that addresses are made of. */
    CpuState *s = &guest.v.st;
    for (unsigned k = 0; k < 16; k++)
        s->gpr[k] = rnd_value();
    if (bits && !(r->modrm & 8))
        s->gpr[i.reg] = (uint64_t)(int64_t)((int)(rnd() & 0xfff) - 0x800);
    if (bits && i.opsize == 2 && (rnd() & 1))
        s->gpr[i.reg] |= rnd() << 16;
    s->gpr[RSP] = STACK_AT - (rnd() & 0x1f8);
    s->gpr[RBP] = strcmp(r->name, "enter") && strcmp(r->name, "leave") ? s->gpr[RBP] : STACK_AT;
    if (m.mem) {
        s->gpr[RBX] = G_DATA + 0x800;
        s->gpr[R12] = G_DATA + 0x200;
        s->gpr[R13] = (rnd() & 0x1f) << 4;
        if (strcmp(r->name, "lea") != 0 && (rnd() & 1) && !starts(r->name, "cmpxchg16b"))
            s->gpr[RBX] += rnd() & 7, s->gpr[R12] += rnd() & 7;
        if ((starts(r->name, "cmpxchg")) && (rnd() & 1)) {
            uint64_t at = s->gpr[i.base] + (i.index == GPR_ZERO ? 0 : s->gpr[i.index] << i.scale) +
                          (uint64_t)i.disp;
            memcpy(&s->gpr[RAX], gp(at), 8);
            memcpy(&s->gpr[RDX], gp(at + (i.opsize == 8 ? 8 : 4)), 8);
        }
    }
    if (r->attr & A_REP) {
        s->gpr[RSI] = G_DATA + 0x400 + (rnd() & 0x1ff);
        s->gpr[RDI] = G_DATA + 0xc00 + (rnd() & 0x1ff);
        if ((rnd() & 3) == 0)
            s->gpr[RDI] = s->gpr[RSI] + (rnd() & 15);
        s->gpr[RCX] = rnd() & 0x3f;
    }
    if (strcmp(r->name, "xlatb") == 0)
        s->gpr[RBX] = G_DATA;
    s->rflags = FL_FIXED | (rnd() & FL_ARITH) | ((r->attr & A_REP) && (rnd() & 1) ? FL_DF : 0);
    for (unsigned k = 0; k < WINDOW; k += 8) {
        uint64_t v = (r->attr & A_REP) && (rnd() & 7) ? 0x4141414141414141 : rnd();
        memcpy(before + k, &v, 8);
    }
    if ((r->attr & A_REP) && (rnd() & 1))
        s->gpr[RAX] = 0x4141414141414141;

    memcpy(&native_regs, s->gpr, 16 * 8);
    native_regs.rflags = s->rflags | FL_IF;
    native_regs.code = G_CODE;
    /* The instructions, then JMP [RIP + 0]. */
    memcpy(gp(G_CODE), m.bytes, m.len);
    uint8_t *end = (uint8_t *)gp(G_CODE) + m.len;
    unsigned followers = add_followers(&end), n = 2 + followers;
    if (rnd() & 1)
        n += add_branch(&end);
    memcpy(end, "\xff\x25\0\0\0\0", 6);
    const uint64_t back = (uintptr_t)native_back;
    memcpy(end + 6, &back, 8);

    /* The engine first: what faults there is not tried on silicon. */
    memcpy(gp(G_DATA), before, WINDOW);
    s->rip = G_CODE;
    engine_interp.enter(&guest.v);
    uint64_t count = guest.v.insns;
    Exit x = guest_run(n);
    CpuState mine = *s;
    bool faulted = x.kind != EXIT_LIMIT || guest.v.insns - count != n;
    memcpy(after, gp(G_DATA), WINDOW);
    guest_long_mode();
    if (faulted)
        return true;

    memcpy(gp(G_DATA), before, WINDOW);
    native_run();
    (*ran)++;
    uint64_t flags = FL_ARITH | FL_DF;
    /* Undefined flags differ from one generation of silicon to the next: the engine does not
     * follow. */
    flags &= ~(uint64_t)r->fl_undef;
    bool same = memcmp(native_regs.gpr, mine.gpr, 16 * 8) == 0 &&
                ((native_regs.rflags ^ mine.rflags) & flags) == 0 &&
                memcmp(after, gp(G_DATA), WINDOW) == 0;
    if (!same) {
        describe(&m, r);
        for (unsigned k = 0; k < 16; k++)
            if (native_regs.gpr[k] != mine.gpr[k])
                fprintf(stderr,
                        "  r%u: engine %016" G_GINT64_MODIFIER "x silicon %016" //
                        G_GINT64_MODIFIER "x\n",
                        k, mine.gpr[k], native_regs.gpr[k]);
        uint64_t diff = (native_regs.rflags ^ mine.rflags) & flags;
        if (diff)
            fprintf(stderr, "  flags that differ: %#x%s\n", (unsigned)diff,
                    diff & ~r->fl_undef ? "" : " (all undefined)");
        if (memcmp(after, gp(G_DATA), WINDOW) != 0)
            fprintf(stderr, "  memory differs\n");
    }
    return same;
}

/* _i: with what a host without BMI would have to compute. */
START_TEST(against_silicon)
{
    unsigned bad = 0, rows = 0, total = 0;
    exec_bit_computed = _i;
    for (unsigned n = 0; n < op_rows_n; n++) {
        const OpRow *r = &op_rows[n];
        if (!row_wanted(r))
            continue;
        unsigned ran = 0, wrong = 0;
        for (unsigned k = 0; k < ROUNDS && wrong < 3; k++)
            wrong += !try_one(r, &ran);
        if (ran == 0)
            fprintf(stderr, "row %u %s %02x /%x: never ran\n", n, r->name, r->opcode, r->modrm);
        ck_assert_uint_gt(ran, 0);
        bad += wrong;
        total += ran;
        rows++;
    }
    printf("%u rows, %u instructions compared\n", rows, total);
    exec_bit_computed = false;
    ck_assert_uint_gt(rows, 250);
    ck_assert_uint_eq(bad, 0);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("exec_int");
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, against_silicon, 0, 2);
    Suite *suite = suite_create("exec_int");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
