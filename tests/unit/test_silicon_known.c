/* What is let pass of a processor that differs from the interpreter, and that nothing else is. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "diff/engines.h"
#include "diff/silicon.h"
#include "run_suite.h"

static const SiliconCpu zen = {.family = 0x17, .halves = true}, zen2 = {.family = 0x17},
                        newer = {.family = 0x19}, other = {.family = 0};
static DiffCase c;
static DiffOutcome interp, own;

static void begin(enum CaseMode mode, const uint8_t *b, unsigned n)
{
    case_baseline(&c, mode, 3);
    c.stop = STOP_STEP;
    memset(c.insn, 0, sizeof(c.insn));
    memcpy(c.insn, b, n);
    c.len = (uint8_t)n;
    ck_assert(case_classify(&c));
}
#define BEGIN_IN(mode, ...) \
    begin(mode, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define BEGIN(...) BEGIN_IN(CM_LONG, __VA_ARGS__)

/* vector: -1 when the instruction was executed, to its end or, of a gather, a part of it. */
static void outcome(DiffOutcome *o, int vector, bool moved)
{
    *o = (DiffOutcome){.kind = vector < 0 ? OUT_DONE : OUT_FAULT, .st = c.in};
    o->vector = (uint8_t)MAX_OF(vector, 0);
    if (moved)
        o->st.rip += c.len;
}

static bool known(const SiliconCpu *cpu, int by_interp, bool moved_interp, int by_own,
                  bool moved_own)
{
    outcome(&interp, by_interp, moved_interp);
    outcome(&own, by_own, moved_own);
    return silicon_known(cpu, &c, &own, &interp);
}

START_TEST(halves)
{
    BEGIN(0xc5, 0xfc, 0x58, 0x03); /* vaddps ymm0, ymm0, [rbx] */
    ck_assert(known(&zen, VEC_GP, false, VEC_PF, false));
    ck_assert(known(&zen, VEC_SS, false, VEC_AC, false));
    ck_assert(!known(&zen, VEC_PF, false, VEC_GP, false));
    ck_assert(!known(&zen, VEC_GP, false, -1, true));
    ck_assert(!known(&zen, VEC_UD, false, VEC_PF, false));
    ck_assert(!known(&zen2, VEC_GP, false, VEC_PF, false));
    ck_assert(!known(&other, VEC_GP, false, VEC_PF, false));
    BEGIN(0xc5, 0xf8, 0x58, 0x03); /* xmm: there are no halves */
    ck_assert(!known(&zen, VEC_GP, false, VEC_PF, false));
    BEGIN(0xc5, 0xff, 0x12, 0x03); /* vmovddup ymm0, [rbx] */
    ck_assert(known(&zen, VEC_PF, false, -1, true));
    ck_assert(known(&zen, VEC_PF, false, VEC_PF, false));
    ck_assert(!known(&zen, -1, true, VEC_PF, false));
    ck_assert(!known(&newer, VEC_PF, false, -1, true));
}
END_TEST

START_TEST(family)
{
    BEGIN(0xf3, 0xa6); /* repe cmpsb */
    ck_assert(known(&zen, VEC_PF, false, VEC_GP, false));
    ck_assert(!known(&zen, VEC_PF, false, -1, true));
    ck_assert(!known(&newer, VEC_PF, false, VEC_GP, false));
    BEGIN(0xf2, 0xa6);
    ck_assert(!known(&zen, VEC_PF, false, VEC_GP, false));
    BEGIN(0xf3, 0xa7);
    ck_assert(!known(&zen, VEC_PF, false, VEC_GP, false));
    BEGIN(0x49, 0x0f, 0xae, 0x29); /* xrstor64 [r9] */
    ck_assert(known(&zen, VEC_PF, false, -1, true));
    ck_assert(!known(&zen, VEC_GP, false, -1, true));
    ck_assert(known(&zen, VEC_PF, false, VEC_GP, false));
    ck_assert(known(&zen, VEC_PF, false, VEC_PF, true)); /* the next instruction's */
    ck_assert(!known(&zen, VEC_PF, false, VEC_PF, false));
    ck_assert(!known(&newer, VEC_PF, false, -1, true));
    c.in.gpr[R9] = CASE_DATA;
    c.data[512] = 3; /* XSTATE_BV */
    ck_assert(!known(&zen, VEC_GP, false, -1, true));
    c.data[512 + 7] = 0x80;
    ck_assert(known(&zen, VEC_GP, false, -1, true));
    ck_assert(!known(&newer, VEC_GP, false, -1, true));
    c.data[512 + 7] = 0xc0;
    ck_assert(!known(&zen, VEC_GP, false, -1, true));
    ck_assert(known(&zen, VEC_GP, false, VEC_PF, false)); /* a reserved bit of XSTATE_BV */
    ck_assert(!known(&zen, VEC_PF, false, VEC_UD, false));
    ck_assert(!known(&newer, VEC_GP, false, VEC_PF, false));
    c.data[512 + 7] = 0;
    ck_assert(!known(&zen, VEC_GP, false, VEC_PF, false));
    BEGIN(0xc4, 0x22, 0x9d, 0x90, 0x2c, 0x46); /* vpgatherdq */
    ck_assert(known(&zen, -1, false, VEC_PF, false));
    ck_assert(!known(&zen, -1, true, VEC_PF, false));
    ck_assert(!known(&newer, -1, false, VEC_PF, false));
}
END_TEST

START_TEST(null_segments)
{
    BEGIN(0x0f, 0xae, 0x03); /* fxsave [rbx] */
    c.in.seg[DS].attr |= SEG_UNUSABLE;
    ck_assert(!known(&zen, VEC_GP, false, VEC_AC, false)); /* of no matter in 64-bit code */
    BEGIN_IN(CM_COMPAT32, 0x0f, 0xae, 0x03);
    ck_assert(!known(&zen, VEC_GP, false, VEC_AC, false));
    c.in.seg[DS].attr |= SEG_UNUSABLE;
    ck_assert(known(&zen, VEC_GP, false, VEC_AC, false));
    ck_assert(!known(&zen, VEC_AC, false, VEC_GP, false));
    ck_assert(!known(&zen, VEC_GP, false, -1, true));
    ck_assert(!known(&newer, VEC_GP, false, VEC_AC, false));
    BEGIN_IN(CM_COMPAT32, 0x0f, 0xc7, 0x0b); /* cmpxchg8b [ebx] */
    c.in.seg[DS].attr |= SEG_UNUSABLE;
    ck_assert(!known(&zen, VEC_GP, false, VEC_AC, false));
}
END_TEST

START_TEST(prefixes)
{
    BEGIN(0xf0, 0x66, 0x48, 0x0f, 0x3a, 0x61, 0xcb, 0xe1); /* lock pcmpestri with REX.W */
    ck_assert(known(&zen, VEC_UD, false, -1, true));
    ck_assert(!known(&zen, -1, true, VEC_UD, false));
    ck_assert(!known(&newer, VEC_UD, false, -1, true));
    BEGIN(0xf0, 0x66, 0x0f, 0x3a, 0x61, 0xcb, 0xe1);
    ck_assert(!known(&zen, VEC_UD, false, -1, true));
    BEGIN(0x66, 0xc4, 0xc3, 0xf9, 0x61, 0xf7, 0xdf); /* 66 before VEX.W */
    ck_assert(known(&zen, VEC_UD, false, -1, true));
    BEGIN(0x66, 0xc4, 0xc3, 0x79, 0x61, 0xf7, 0xdf);
    ck_assert(!known(&zen, VEC_UD, false, -1, true));
    /* vextractf128 with VEX.W and VEX.vvvv, of which the 16th byte would be the last */
    BEGIN(0x2e, 0x67, 0x65, 0x65, 0x65, 0xc4, 0xc3, 0xf5, 0x19, 0x8c, 0xa4, 0xf5, 0x1a, 0xc2, 0xd6);
    ck_assert(known(&zen, VEC_UD, false, VEC_GP, false));
    ck_assert(!known(&zen, VEC_UD, false, -1, true));
    ck_assert(!known(&newer, VEC_UD, false, VEC_GP, false));
    c.len = 14;
    ck_assert(!known(&zen, VEC_UD, false, VEC_GP, false));
}
END_TEST

int main(void)
{
    if (!case_features()[FEAT_AVX2]) {
        printf("skipped: the host has no AVX2, whose instructions this takes apart\n");
        return 77;
    }
    Suite *suite = suite_create("silicon_known");
    TCase *tc = tcase_create("silicon_known");
    tcase_add_test(tc, halves);
    tcase_add_test(tc, family);
    tcase_add_test(tc, null_segments);
    tcase_add_test(tc, prefixes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
