/*
 * x87 instructions of the software engine, held against the processor: every row with random
 * registers, tags, TOP, control words (exceptions masked and not) and status flags, pending
 * exceptions included.
 */
#include "native.h"

#define ROUNDS 80 /* a form, unless TANDEM_TEST_ROUNDS says otherwise */

static const uint8_t operand_size[O_N] = {
#define OPERAND(name, cls, size) [O_##name] = size,
#include "tcg/operands.def"
#undef OPERAND
};

static FpReg random_st(void)
{
    static const FpReg edges[] = {
        {.mant = 0, .se = 0},
        {.mant = 0, .se = 0x8000},
        {.mant = 1ull << 63, .se = 0x3fff},         /* 1 */
        {.mant = 1ull << 63, .se = 0x7fff},         /* infinity */
        {.mant = 1ull << 63, .se = 0xffff},         /* - infinity */
        {.mant = 0xc000000000000000, .se = 0xffff}, /* default NaN */
        {.mant = 0xa000000000000000, .se = 0x7fff}, /* signalling NaN */
        {.mant = 1, .se = 0},                       /* denormal */
        {.mant = 0x8000000000000001, .se = 0},      /* pseudo-denormal */
        {.mant = 0x4000000000000000, .se = 0x4000}, /* unnormal */
        {.mant = 0x4000000000000000, .se = 0x7fff}, /* pseudo-NaN */
        {.mant = ~0ull, .se = 0x7ffe},              /* the greatest */
        {.mant = 1ull << 63, .se = 1},              /* the least normal */
        {.mant = 0xc90fdaa22168c235, .se = 0x4000}, /* pi */
        {.mant = 0x8000000000000000, .se = 0x401e}, /* 2^31 */
        {.mant = 0xfffffffffffffffe, .se = 0x403d}, /* about 2^63 */
        {.mant = 0x8000000000000000, .se = 0xc03e}, /* - 2^63 */
        {.mant = 0xffffff8000000000, .se = 0x407e}, /* rounds out of single */
        {.mant = 0x8000000000000001, .se = 0x3f6a}, /* denormal as single */
        {.mant = 0x8000000000000001, .se = 0x3bcd}, /* denormal as double */
    };
    FpReg r = {0};
    switch (rnd() % 4) {
    case 0:
        return edges[rnd() % ARRAY_LEN(edges)];
    case 1: { /* small integers and fractions */
        long double v = (long double)((int)(rnd() % 2001) - 1000) / (one_in(2) ? 1.0L : 16.0L);
        memcpy(&r, &v, 10);
        return r;
    }
    case 2: /* within 2^±70 */
        r.mant = rnd() | 1ull << 63;
        r.se = (uint16_t)((rnd() & 0x8000) | (0x3fff - 70 + rnd() % 140));
        return r;
    default:
        r.mant = rnd() | (one_in(4) ? 0 : 1ull << 63);
        r.se = (uint16_t)rnd();
        return r;
    }
}

static void random_state(void)
{
    CpuState *s = &guest.v.st;
    FpuState *f = &s->fpu;
    for (unsigned k = 0; k < 16; k++) {
        s->gpr[k] = rnd();
        memset(&f->v[k], 0, sizeof(f->v[k]));
    }
    s->gpr[RBX] = G_DATA;
    s->rflags = FL_FIXED | (rnd() & FL_ARITH);
    for (unsigned k = 0; k < 8; k++)
        f->r[k] = random_st();
    f->fcw = (uint16_t)(0x40 | (one_in(2) ? 0x33f : rnd() & 0xf3f) | (rnd() & 0x1000));
    if (one_in(3))
        f->fcw |= 0xc00 & rnd();
    f->fsw = (uint16_t)(rnd() & 0x7f00);
    if (one_in(3))
        f->fsw |= rnd() & f->fcw & 0x3f; /* flags that are masked */
    if (one_in(10))
        f->fsw |= rnd() & 0x7f;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = (uint8_t)(one_in(2) ? 0xff : rnd());
    f->fop = 0x123;
    f->fip = 0x7fff12345678;
    f->fdp = 0x7ffe87654321;
    f->mxcsr = 0x1f80;
    uint8_t *w = gp(G_DATA);
    for (unsigned k = 0; k < WINDOW; k += 8) {
        uint64_t v = rnd_lane();
        memcpy(w + k, &v, 8);
    }
}

/* Something the instruction would really meet: an 80-bit number, packed BCD, an environment. */
static void random_operand(const OpRow *r, uint8_t *p)
{
    FpReg st = random_st();
    if (r->op[0] == O_Mt && !one_in(4)) {
        memcpy(p, &st, 10);
        if (!strcmp(r->name, "fbld"))
            for (unsigned k = 0; k < 9; k++)
                p[k] = (uint8_t)(rnd() % 10 << 4 | rnd() % 10);
    }
}

static unsigned failures;

static void test_form(const OpRow *r, bool mem, unsigned modrm, unsigned prefix)
{
    Tcg *t = tcg();
    CpuState *s = &guest.v.st;
    for (unsigned round = 0, all = rounds_a_row(ROUNDS); round < all; round++) {
        uint8_t b[16] = {0};
        unsigned n = 0;
        if (prefix)
            b[n++] = (uint8_t)prefix;
        b[n++] = r->opcode;
        if (mem) {
            b[n++] = (uint8_t)(0x80 | (r->modrm & 7) << 3 | RBX);
            uint32_t disp = (uint32_t)(one_in(4) ? 0x1000 - rnd() % 12 : rnd() % (WINDOW - 128));
            memcpy(b + n, &disp, 4);
            n += 4;
        } else if (r->modrm) {
            b[n++] = (uint8_t)modrm;
        }
        Insn i;
        DecodeResult d = decode(&i, b, 15, t->decode_mode, t->features);
        if (d != DECODE_OK || &op_rows[i.row] != r || i.len != n) {
            printf("%s: %s: decoded as %s\n", r->name, hex(b, n),
                   d == DECODE_OK ? op_rows[i.row].name : "nothing");
            failures++;
            return;
        }
        random_state();
        if (mem)
            random_operand(r, (uint8_t *)gp(G_DATA) + i.disp);
        FpuState before = s->fpu;
        Outcome o = run_both(b, n, &i);
        const char *diff = compare(&o);
        if (diff) {
            unsigned top = before.fsw >> 11 & 7;
            printf("%s%s: %s: %s (fcw %04x fsw %04x ftw %02x, st0 %04x %016lx, st1 %04x %016lx)\n",
                   r->name, mem ? " memory" : "", hex(b, n), diff, before.fcw, before.fsw,
                   before.ftw, before.r[top].se, before.r[top].mant, before.r[(top + 1) & 7].se,
                   before.r[(top + 1) & 7].mant);
            failures++;
            return;
        }
    }
}

START_TEST(every_row_as_the_processor)
{
    engine_ready();
    unsigned rows = 0;
    for (unsigned k = 0; k < op_rows_n; k++) {
        const OpRow *r = &op_rows[k];
        if (!(r->attr & A_FPU) || (r->feature < FEAT_N && !tcg()->features[r->feature]))
            continue;
        rows++;
        if (r->modrm & X_MEM) {
            test_form(r, true, 0, 0);
            if (!operand_size[r->op[0]]) /* environments have a 16-bit form */
                test_form(r, true, 0, 0x66);
        } else if (r->modrm & X_RM) {
            test_form(r, false, 0xc0 | (r->modrm & 7) << 3 | r->modrm >> 8, 0);
        } else if (r->modrm) {
            for (unsigned rm = 0; rm < 8; rm++)
                test_form(r, false, 0xc0 | (r->modrm & 7) << 3 | rm, 0);
        } else {
            test_form(r, false, 0, 0);
        }
    }
    printf("%u rows\n", rows);
    ck_assert_uint_gt(rows, 140);
    ck_assert_uint_eq(failures, 0);
}
END_TEST

/* Every ModRM byte that no row takes is #UD on the processor as well. */
START_TEST(holes_are_undefined)
{
    engine_ready();
    for (unsigned op = 0xd8; op <= 0xdf; op++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            if (modrm < 0xc0 && (modrm & 0xc7) != 3)
                continue;
            uint8_t b[16] = {(uint8_t)op, (uint8_t)modrm};
            Insn i;
            if (decode(&i, b, 15, tcg()->decode_mode, tcg()->features) == DECODE_OK)
                continue;
            random_state();
            guest.v.st.fpu.fsw = 0;
            memcpy(gp(G_CODE), b, 2);
            static const uint8_t jmp[] = {0xff, 0x25, 0, 0, 0, 0};
            uint64_t back = (uint64_t)(uintptr_t)native_back;
            memcpy((uint8_t *)gp(G_CODE) + 2, jmp, 6);
            memcpy((uint8_t *)gp(G_CODE) + 8, &back, 8);
            memcpy(native_regs.gpr, guest.v.st.gpr, sizeof(native_regs.gpr));
            native_regs.rflags = 0x202;
            native_regs.code = G_CODE;
            native_area_fill(&guest.v.st.fpu);
            native_signal = 0;
            native_run();
            if (native_signal != SIGILL) {
                printf("%02x %02x: no row, but signal %d natively\n", op, modrm, native_signal);
                failures++;
            }
        }
    }
    ck_assert_uint_eq(failures, 0);
}
END_TEST

/* Environments outside 64-bit mode, which the processor cannot be asked about from here: SDM vol.
 * 1, figures 8-9 to 8-12, byte by byte; and back again with FLDENV. */
START_TEST(environments)
{
    static const struct {
        bool prot, small;
        uint8_t bytes[28];
    } form[] = {
        {true, false, {0x7f, 3,    0xff, 0xff, 0x00, 0x28, 0xff, 0xff, 0xff, 0xf3,
                       0xff, 0xff, 0x78, 0x56, 0x03, 0x00, 0x34, 0x12, 0x45, 0x05,
                       0x21, 0x43, 0x05, 0x00, 0x30, 0x00, 0xff, 0xff}},
        {true,
         true,
         {0x7f, 3, 0x00, 0x28, 0xff, 0xf3, 0x78, 0x56, 0x34, 0x12, 0x21, 0x43, 0x30, 0}},
        /* 0x1234:0x35678 is linear 0x479b8; 0x30:0x54321 is 0x54621. */
        {false, false, {0x7f, 3,    0xff, 0xff, 0x00, 0x28, 0xff, 0xff, 0xff, 0xf3,
                        0xff, 0xff, 0xb8, 0x79, 0xff, 0xff, 0x45, 0x45, 0x00, 0x00,
                        0x21, 0x46, 0xff, 0xff, 0x00, 0x50, 0x00, 0x00}},
        {false,
         true,
         {0x7f, 3, 0x00, 0x28, 0xff, 0xf3, 0xb8, 0x79, 0x45, 0x45, 0x21, 0x46, 0, 0x50}},
    };
    guest_flat32();
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    for (unsigned k = 0; k < ARRAY_LEN(form); k++) {
        s->cr0 = (s->cr0 & ~(uint64_t)CR0_PE) | (form[k].prot ? CR0_PE : 0);
        engine_ready();
        t->decode_mode |= DM_CS32; /* a 32-bit operand size in real mode without a prefix */
        for (unsigned back = 0; back < 2; back++) {
            uint8_t b[16] = {0};
            unsigned n = 0, size = form[k].small ? 14 : 28;
            if (form[k].small)
                b[n++] = 0x66;
            b[n++] = 0xd9;
            b[n++] = (uint8_t)((back ? 4 : 6) << 3 | RBX);
            Insn i;
            ck_assert_int_eq(decode(&i, b, 15, t->decode_mode, t->features), DECODE_OK);
            FpuState *f = &s->fpu;
            s->gpr[RBX] = G_DATA;
            memset(f, 0, sizeof(*f));
            f->fcw = 0x37f;
            if (back) {
                i.exec(s, t, &i);
                ck_assert_uint_eq(f->fsw, 0x2800);
                ck_assert_uint_eq(f->ftw, 0x20);
                ck_assert_uint_eq(f->fop, form[k].prot && form[k].small ? 0 : 0x545);
                ck_assert_uint_eq(f->fip, !form[k].prot   ? 0x479b8
                                          : form[k].small ? 0x123400005678
                                                          : 0x123400035678);
                ck_assert_uint_eq(f->fdp, !form[k].prot   ? 0x54621
                                          : form[k].small ? 0x3000004321
                                                          : 0x3000054321);
                continue;
            }
            f->fsw = 0x2800;
            f->ftw = 0x20; /* R5 holds 1.0 */
            f->r[5] = (FpReg){.mant = 1ull << 63, .se = 0x3fff};
            f->fop = 0x545;
            f->fip = 0x123400035678;
            f->fdp = 0x3000054321;
            memset(gp(G_DATA), 0x55, 32);
            ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
            ck_assert_mem_eq(gp(G_DATA), form[k].bytes, size);
            ck_assert_uint_eq(((uint8_t *)gp(G_DATA))[size], 0x55);
        }
    }
}
END_TEST

/* FXSAVE outside 64-bit mode: eight XMM registers, pointers with selectors; FXRSTOR leaves the
 * other eight alone. */
START_TEST(fxsave_32)
{
    guest_flat32();
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    s->cr4 |= CR4_OSFXSR;
    engine_ready();
    const uint8_t save[16] = {0x0f, 0xae, 0x03}, restore[16] = {0x0f, 0xae, 0x0b};
    Insn i;
    uint8_t *w = gp(G_DATA);
    memset(w, 0x55, 512);
    s->gpr[RBX] = G_DATA;
    s->fpu.fcw = 0x37f;
    s->fpu.mxcsr = 0x1f80;
    s->fpu.fip = 0x123400035678;
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[k].q[0] = s->fpu.v[k].q[1] = k + 1;
    ck_assert_int_eq(decode(&i, save, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    static const uint8_t pointer[8] = {0x78, 0x56, 3, 0, 0x34, 0x12, 0, 0};
    ck_assert_mem_eq(w + 8, pointer, 8);
    ck_assert_uint_eq(w[160 + 16 * 7], 8);
    ck_assert_uint_eq(w[160 + 16 * 8], 0x55);
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[k].q[0] = 100;
    ck_assert_int_eq(decode(&i, restore, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    ck_assert_uint_eq(s->fpu.v[7].q[0], 8);
    ck_assert_uint_eq(s->fpu.v[8].q[0], 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("x87");
    TCase *tc = tcase_create("x87");
    native_setup();
    tcase_set_timeout(tc, 250);
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, every_row_as_the_processor);
    tcase_add_test(tc, holes_are_undefined);
    tcase_add_test(tc, environments);
    tcase_add_test(tc, fxsave_32);
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_set_fork_status(sr, CK_NOFORK);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
