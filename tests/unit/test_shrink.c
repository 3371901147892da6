/* Shrinking, with two executors that need no hardware: one gives every case back as it came, one
 * has a defect planted. What is left of a case must be what the defect depends on. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "diff/case.h"
#include "run_suite.h"

struct DiffExec {
    unsigned runs;
    void (*defect)(const DiffCase *, DiffOutcome *);
    const char *refuses;
};

static DiffExec *fake_open(GError **err)
{
    return NULL;
}
static void fake_close(DiffExec *x) {}
static const char *fake_refuses(DiffExec *x, const DiffCase *c)
{
    return x->refuses;
}
static void fake_run(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        memset(&o[i], 0, sizeof(o[i]));
        o[i].kind = OUT_DONE;
        o[i].st = c[i].in;
        memcpy(o[i].data, c[i].data, sizeof(c[i].data));
        memcpy(o[i].stack, c[i].stack, sizeof(c[i].stack));
        x->runs++;
        if (x->defect)
            x->defect(&c[i], &o[i]);
    }
}
static const DiffEngine fake = {.name = "fake",
                                .groups = GRP_REGS | GRP_SREGS | GRP_FPU,
                                .open = fake_open,
                                .close = fake_close,
                                .refuses = fake_refuses,
                                .run = fake_run};

static uint64_t seed;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

/* As the generator's: everything is random. */
static void busy_case(DiffCase *c, enum CaseMode mode, const uint8_t *insn, unsigned len)
{
    case_baseline(c, mode, 3);
    c->stop = STOP_THROUGH;
    c->seed = 7;
    memcpy(c->insn, insn, c->len = (uint8_t)len);
    for (unsigned i = 0; i < GPR_N; i++)
        c->in.gpr[i] = rnd();
    c->in.rflags |= rnd() & FL_ARITH;
    c->in.rip += rnd() % 0x1ff0;
    for (unsigned i = 0; i < 16; i++)
        for (unsigned q = 0; q < 4; q++)
            c->in.fpu.v[i].q[q] = rnd();
    for (unsigned i = 0; i < 8; i++)
        c->in.fpu.r[i].mant = rnd();
    c->in.fpu.ftw = 0x55;
    c->in.fpu.fcw = 0x27f;
    c->in.fpu.mxcsr = 0x1fa1;
    for (unsigned i = 0; i < 0x2000; i++)
        c->data[i] = (uint8_t)rnd();
    for (unsigned i = 0; i < CASE_STACK_BYTES; i++)
        c->stack[i] = (uint8_t)rnd();
    ck_assert(case_classify(c));
}

/* Shrinks and gives what the case is as text. */
static char *shrunk(DiffCase *c, void (*defect)(const DiffCase *, DiffOutcome *))
{
    DiffExec good = {0}, bad = {.defect = defect};
    GString *text = g_string_new(NULL);
    unsigned tries = case_shrink(c, &fake, &good, &fake, &bad);
    ck_assert_uint_gt(tries, 0);
    ck_assert_uint_eq(good.runs, tries);
    ck_assert_uint_eq(bad.runs, tries);
    case_write(c, text);
    return g_string_free(text, FALSE);
}

static const uint8_t add[] = {0x66, 0x2e, 0x4f, 0x81, 0x84, 0xd8, 0x44,
                              0x33, 0x22, 0x11, 0x78, 0x56, 0x34, 0x12};

static void flips_af(const DiffCase *c, DiffOutcome *o)
{
    if (c->in.gpr[R13] & 8)
        o->st.rflags ^= FL_AF;
}

/* One bit of one register is left, and the shortest form of the instruction. */
START_TEST(flag_and_register)
{
    static DiffCase c;
    seed = 0x1234567;
    busy_case(&c, CM_LONG, add, sizeof(add));
    c.in.gpr[R13] |= 8;
    char *text = shrunk(&c, flips_af);
    ck_assert_str_eq(text, "tandem case 1\n"
                           "insn 81 00 00 00 00 00    # add dword ptr [rax], 0\n"
                           "mode long\ncpl 3\nstop step\nseed 0x7\nindex 0\n"
                           "R13 0x8\n");
    g_free(text);
}
END_TEST

/* The same case always shrinks to the same one. */
START_TEST(deterministic)
{
    static DiffCase c;
    char *text[2];
    for (unsigned i = 0; i < 2; i++) {
        seed = 99;
        busy_case(&c, CM_COMPAT32, add + 3, sizeof(add) - 3);
        c.in.gpr[R13] |= 8;
        text[i] = shrunk(&c, flips_af);
    }
    ck_assert_str_eq(text[0], text[1]);
    ck_assert(strstr(text[0], "mode long\n"));
    g_free(text[0]);
    g_free(text[1]);
}
END_TEST

static void needs_memory(const DiffCase *c, DiffOutcome *o)
{
    if (c->data[0x123] & 0x40)
        o->data[0x40] ^= 1;
}

START_TEST(memory_byte)
{
    static DiffCase c;
    seed = 5;
    busy_case(&c, CM_LONG, add + 3, sizeof(add) - 3);
    c.data[0x123] |= 0x40;
    char *text = shrunk(&c, needs_memory);
    ck_assert_msg(g_str_has_suffix(text, "index 0\ndata+0x123 40\n"), "%s", text);
    g_free(text);
}
END_TEST

static void needs_vector(const DiffCase *c, DiffOutcome *o)
{
    if (c->in.fpu.v[5].q[1] >> 63 && c->in.fpu.mxcsr & 0x20)
        o->st.fpu.v[2].q[0]++;
}

START_TEST(vector_state)
{
    static DiffCase c;
    static const uint8_t addps[] = {0x0f, 0x58, 0xd5};
    seed = 6;
    busy_case(&c, CM_LONG, addps, sizeof(addps));
    c.in.fpu.v[5].q[1] |= BIT(63);
    char *text = shrunk(&c, needs_vector);
    ck_assert_msg(strstr(text, "ZMM5 0x80000000000000000000000000000000\n"), "%s", text);
    ck_assert_msg(!strstr(text, "ZMM2 ") && !strstr(text, "FPR") && !strstr(text, "data"), "%s",
                  text);
    g_free(text);
}
END_TEST

/* Another way of differing is not the same failure: AF alone is not kept for AF and a fault. */
static void two_ways(const DiffCase *c, DiffOutcome *o)
{
    if (c->in.gpr[RBX] == 0x77) {
        o->kind = OUT_FAULT;
        o->vector = VEC_GP;
    } else {
        o->st.rflags ^= FL_AF;
    }
}

START_TEST(same_way)
{
    static DiffCase c;
    seed = 8;
    busy_case(&c, CM_LONG, add + 3, sizeof(add) - 3);
    c.in.gpr[RBX] = 0x77;
    char *text = shrunk(&c, two_ways);
    ck_assert_msg(strstr(text, "RBX 0x77\n"), "%s", text);
    g_free(text);
}
END_TEST

START_TEST(nothing_to_shrink)
{
    static DiffCase c, before;
    DiffExec good = {0}, refuses = {.refuses = "no"};
    seed = 9;
    busy_case(&c, CM_LONG, add + 3, sizeof(add) - 3);
    before = c;
    ck_assert_uint_eq(case_shrink(&c, &fake, &good, &fake, &good), 1);
    ck_assert(!memcmp(&c, &before, sizeof(c)));
    ck_assert_uint_eq(case_shrink(&c, &fake, &good, &fake, &refuses), 0);
    ck_assert(!memcmp(&c, &before, sizeof(c)));
}
END_TEST

static void flaky(const DiffCase *c, DiffOutcome *o)
{
    static unsigned n;
    if (n++ % 3)
        o->st.gpr[RAX]++;
}

/* One that does not differ each time ends all the same. */
START_TEST(bounded)
{
    static DiffCase c;
    DiffExec good = {0}, bad = {.defect = flaky};
    seed = 10;
    busy_case(&c, CM_LONG, add + 3, sizeof(add) - 3);
    ck_assert_uint_le(case_shrink(&c, &fake, &good, &fake, &bad), 8001);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {flag_and_register, deterministic,     memory_byte, vector_state,
                                  same_way,          nothing_to_shrink, bounded};
    Suite *s = suite_create("shrink");
    TCase *t = tcase_create("shrink");
    for (unsigned i = 0; i < ARRAY_LEN(tests); i++)
        tcase_add_test(t, tests[i]);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return run_suite(s);
}
