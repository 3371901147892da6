/*
 * Vector instructions of the software engine: what control registers and unmasked exceptions do to
 * them. What they compute is held against the processor by `tandem diff insn`.
 */
#include "native.h"
#include "tcg/vec.h"
#include "run_suite.h"

/* ---- what control registers forbid ---- */
static int exec_vector(const char *bytes, unsigned n)
{
    Insn i;
    Tcg *t = tcg();
    uint8_t b[16] = {0};
    memcpy(b, bytes, n);
    ck_assert_int_eq(decode(&i, b, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert(vec_prepare(t, &i, b));
    t->blk_rip = guest.v.st.rip;
    Fault f = i.exec(&guest.v.st, t, &i);
    vec_release(t);
    return f == FAULT_EXC ? t->exc.vector : f == FAULT_NONE ? -1 : -2;
}
#define VECTOR(...) exec_vector((const char[]){__VA_ARGS__}, sizeof((const char[]){__VA_ARGS__}))

START_TEST(control_registers_forbid)
{
    CpuState *s = &guest.v.st;
    engine_ready();
    s->gpr[RBX] = G_DATA;
    ck_assert_int_eq(VECTOR(0x0f, 0x58, 0xc1), -1); /* addps xmm0, xmm1 */
    ck_assert_int_eq(VECTOR(0x0f, 0xfc, 0xc1), -1); /* paddb mm0, mm1 */
    ck_assert_int_eq(VECTOR(0x0f, 0x28, 0x03), -1); /* movaps xmm0, [rbx] */
    s->gpr[RBX]++;
    ck_assert_int_eq(VECTOR(0x0f, 0x28, 0x03), VEC_GP);
    ck_assert_int_eq(VECTOR(0x0f, 0x10, 0x03), -1); /* movups */
    ck_assert_int_eq(VECTOR(0x0f, 0x58, 0x03), VEC_GP);
    s->cr0 |= CR0_TS;
    ck_assert_int_eq(VECTOR(0x0f, 0x58, 0xc1), VEC_NM);
    ck_assert_int_eq(VECTOR(0x0f, 0x28, 0xc1), VEC_NM);
    ck_assert_int_eq(VECTOR(0x0f, 0xfc, 0xc1), VEC_NM);
    s->cr4 &= ~(uint64_t)CR4_OSFXSR;
    ck_assert_int_eq(VECTOR(0x0f, 0x58, 0xc1), VEC_UD);
    ck_assert_int_eq(VECTOR(0x0f, 0x28, 0xc1), VEC_UD);
    ck_assert_int_eq(VECTOR(0x0f, 0xfc, 0xc1), VEC_NM);
    s->cr0 |= CR0_EM;
    ck_assert_int_eq(VECTOR(0x0f, 0xfc, 0xc1), VEC_UD);
    s->cr0 &= ~(uint64_t)(CR0_EM | CR0_TS);
    s->fpu.fcw = 0x37e;
    s->fpu.fsw = 0x8081; /* an invalid operation, not masked, waits to be told */
    ck_assert_int_eq(VECTOR(0x0f, 0xfc, 0xc1), VEC_MF);
    ck_assert_int_eq(VECTOR(0x0f, 0x77), VEC_MF); /* emms */
    s->cr4 |= CR4_OSFXSR;
    ck_assert_int_eq(VECTOR(0x0f, 0x58, 0xc1), -1);
}
END_TEST

/* Without CR4.OSXMMEXCPT an unmasked exception is #UD. */
START_TEST(unmasked_exception)
{
    CpuState *s = &guest.v.st;
    engine_ready();
    s->fpu.mxcsr = 0x1f80 & ~0x200u; /* divide by zero */
    s->fpu.v[0].d[0] = 0x3f800000;
    s->fpu.v[1].q[0] = s->fpu.v[1].q[1] = 0;
    ck_assert_int_eq(VECTOR((char)0xf3, 0x0f, 0x5e, (char)0xc1), VEC_XM); /* divss xmm0, xmm1 */
    ck_assert_uint_eq(s->fpu.v[0].d[0], 0x3f800000);
    ck_assert_uint_eq(s->fpu.mxcsr & 0x3f, 4);
    s->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
    ck_assert_int_eq(VECTOR((char)0xf3, 0x0f, 0x5e, (char)0xc1), VEC_UD);
}
END_TEST

/* Between an instruction that has put the guest's MXCSR into the host's register and the next one
 * blocks are made, and for them tables that grow: GLib computes their size in floating point. */
START_TEST(flags_are_the_guests_own)
{
    uint8_t *p = gp(G_CODE);
    CpuState *s = &guest.v.st;
    engine_ready();
    memset(&s->fpu.v, 0, sizeof(s->fpu.v));
    s->fpu.mxcsr = 0x1f80;
    for (unsigned op = 0x60; op < 0x100; op++) {
        bool moves = (op & 0xf0) == 0x70 || (op | 1) == 0xef || (op & 0xf) == 0xf || op == 0x6e;
        if (moves || (op > 0x70 && op < 0xd0) || op == 0xd0 || op == 0xd6 || op == 0xd7 ||
            op == 0xe6 || op == 0xe7 || op == 0xf0 || op == 0xf7)
            continue;
        /* addss xmm0, xmm1: 0 and 0, exact; an integer instruction; a new block */
        const uint8_t code[] = {0xf3, 0x0f, 0x58, 0xc1, 0x66, 0x0f, (uint8_t)op, 0xd3, 0xeb, 0};
        memcpy(p, code, sizeof(code));
        p += sizeof(code);
    }
    *p = 0xf4;
    s->rip = G_CODE;
    Exit x = guest_run(0);
    ck_assert_int_eq(x.kind, EXIT_HLT);
    ck_assert_uint_eq(s->rip, G_CODE + (uint64_t)(p - (uint8_t *)gp(G_CODE)) + 1);
    ck_assert_uint_eq(s->fpu.mxcsr, 0x1f80);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vec");
    TCase *tc = tcase_create("vec");
    native_setup();
    tcase_set_timeout(tc, 250);
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, control_registers_forbid);
    tcase_add_test(tc, unmasked_exception);
    tcase_add_test(tc, flags_are_the_guests_own);
    suite_add_tcase(suite, tc);
    return run_suite_unforked(suite);
}
