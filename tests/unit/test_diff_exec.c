/*
 * The executors that run on any host, on instructions whose outcome is known: what bare silicon
 * reports of faults, that the interpreter reports the same, and what a comparison overlooks.
 */
#include <check.h>
#include <string.h>

#include "diff/engines.h"
#include "run_suite.h"

static DiffExec *silicon, *interp;
static DiffCase c;
static DiffOutcome os, oi;

static void setup(void)
{
    GError *err = NULL;
    interp = diff_engine_interp.open(&err);
    ck_assert_msg(interp != NULL, "%s", err ? err->message : "");
    silicon = diff_engine_silicon.open(&err);
    ck_assert_msg(silicon != NULL, "%s", err ? err->message : "");
}

static void teardown(void)
{
    diff_engine_interp.close(interp);
    diff_engine_silicon.close(silicon);
}

static void begin(enum CaseMode mode)
{
    case_baseline(&c, mode, 3);
    c.in.rflags |= FL_IF;
    c.stop = STOP_THROUGH;
}

static void run_bytes(const uint8_t *b, unsigned n)
{
    memset(c.insn, 0, sizeof(c.insn));
    memcpy(c.insn, b, n);
    c.len = (uint8_t)n;
    ck_assert(case_classify(&c));
    const char *why = diff_engine_silicon.refuses(silicon, &c);
    ck_assert_msg(!why, "%s", why);
    diff_engine_silicon.run(silicon, &c, &os, 1);
    diff_engine_interp.run(interp, &c, &oi, 1);
    Differences d;
    if (!case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d))
        ck_abort_msg("interpreter and silicon: %s: %s, %s", d.d[0].what, d.d[0].a, d.d[0].b);
}
#define RUN(...) run_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void is_fault(unsigned vector, int64_t error, uint64_t cr2)
{
    ck_assert_int_eq(os.kind, OUT_FAULT);
    ck_assert_uint_eq(os.vector, vector);
    ck_assert_int_eq(os.has_error, error >= 0);
    if (error >= 0)
        ck_assert_uint_eq(os.error, error);
    ck_assert_uint_eq(os.cr2, cr2);
}

START_TEST(done_in_both_ways)
{
    for (unsigned stop = 0; stop < STOP_N; stop++) {
        begin(CM_LONG);
        c.stop = (uint8_t)stop;
        c.in.gpr[RAX] = 41;
        c.in.gpr[R15] = 0x1122334455667788;
        c.in.gpr[RBX] = CASE_DATA + 8;
        RUN(0x48, 0x01, 0x03); /* add [rbx], rax */
        ck_assert_int_eq(os.kind, OUT_DONE);
        ck_assert_uint_eq(os.st.rip, CASE_CODE + 3);
        ck_assert_uint_eq(os.data[8], 41);
        ck_assert_uint_eq(os.st.gpr[R15], 0x1122334455667788);
        ck_assert_uint_eq(os.st.rflags, FL_FIXED | FL_IF);
    }
    /* One iteration of a REP, or all. */
    begin(CM_LONG);
    c.in.gpr[RDI] = CASE_DATA;
    c.in.gpr[RCX] = 5;
    c.stop = STOP_STEP;
    RUN(0xf3, 0xaa);
    ck_assert_uint_eq(os.st.gpr[RCX], 4);
    c.stop = STOP_THROUGH;
    RUN(0xf3, 0xaa);
    ck_assert_uint_eq(os.st.gpr[RCX], 0);
}
END_TEST

START_TEST(faults_as_they_are)
{
    begin(CM_LONG);
    RUN(0x0f, 0x0b); /* ud2 */
    is_fault(VEC_UD, -1, 0);
    ck_assert_uint_eq(os.st.rip, CASE_CODE);
    RUN(0xf7, 0xf1); /* div ecx: by 0 */
    is_fault(VEC_DE, -1, 0);
    RUN(0xf4); /* hlt */
    is_fault(VEC_GP, 0, 0);
    RUN(0xcc);
    is_fault(VEC_BP, -1, 0);
    ck_assert_uint_eq(os.st.rip, CASE_CODE + 1);
    /* Memory that is not there, not writable, not canonical; the stack's own vector. */
    c.in.gpr[RBX] = CASE_DATA + CASE_DATA_GONE + 4;
    RUN(0x8a, 0x03);
    is_fault(VEC_PF, 4, CASE_DATA + CASE_DATA_GONE + 4);
    RUN(0x88, 0x03);
    is_fault(VEC_PF, 6, CASE_DATA + CASE_DATA_GONE + 4);
    c.in.gpr[RBX] = CASE_DATA + CASE_DATA_RO + 5;
    RUN(0x88, 0x03);
    is_fault(VEC_PF, 7, CASE_DATA + CASE_DATA_RO + 5);
    c.in.gpr[RBX] = CASE_DATA + CASE_DATA_GONE - 3; /* crosses into it */
    RUN(0x48, 0x8b, 0x03);
    is_fault(VEC_PF, 4, CASE_DATA + CASE_DATA_GONE);
    c.in.gpr[RBX] = 0x8000000000000000;
    RUN(0x8a, 0x03);
    is_fault(VEC_GP, 0, 0);
    c.in.gpr[RBP] = 0x8000000000000000;
    RUN(0x8a, 0x45, 0x00);
    is_fault(VEC_SS, 0, 0);
    /* Fetches: behind the pages, in data. */
    c.in.gpr[RBX] = CASE_CODE + CASE_CODE_BYTES;
    RUN(0xff, 0xe3);
    is_fault(VEC_PF, 0x14, CASE_CODE + CASE_CODE_BYTES);
    c.in.gpr[RBX] = CASE_DATA;
    RUN(0xff, 0xe3);
    is_fault(VEC_PF, 0x15, CASE_DATA);
    c.in.rip = CASE_CODE + CASE_CODE_BYTES - 1;
    RUN(0x48, 0x89, 0xc0);
    is_fault(VEC_PF, 0x14, CASE_CODE + CASE_CODE_BYTES);
    /* Alignment, SIMD and x87 exceptions. */
    begin(CM_LONG);
    c.in.rflags |= FL_AC;
    c.in.gpr[RBX] = CASE_DATA + 1;
    RUN(0x8b, 0x03);
    is_fault(VEC_AC, 0, 0);
    c.in.rflags &= ~(uint64_t)FL_AC;
    RUN(0x0f, 0x28, 0x03); /* movaps */
    is_fault(VEC_GP, 0, 0);
    c.in.fpu.mxcsr = 0x1d80; /* divide by zero */
    c.in.fpu.v[0].d[0] = 0x3f800000;
    RUN(0xf3, 0x0f, 0x5e, 0xc1);
    is_fault(VEC_XM, -1, 0);
    c.in.fpu.fcw = 0x37e;
    c.in.fpu.fsw = 0x8081;
    RUN(0x9b);
    is_fault(VEC_MF, -1, 0);
}
END_TEST

START_TEST(other_modes)
{
    begin(CM_COMPAT32);
    c.in.gpr[RAX] = 0x39;
    RUN(0x27); /* daa */
    ck_assert_int_eq(os.kind, OUT_DONE);
    begin(CM_COMPAT32);
    c.in.rflags |= FL_OF;
    RUN(0xce); /* into */
    is_fault(VEC_OF, -1, 0);
    begin(CM_COMPAT16);
    if (diff_engine_silicon.refuses(silicon, &c))
        return; /* no modify_ldt */
    c.in.gpr[RBX] = 0x10;
    c.in.gpr[RAX] = 0x1234;
    RUN(0x89, 0x07); /* mov [bx], ax */
    ck_assert_int_eq(os.kind, OUT_DONE);
    ck_assert_uint_eq(os.data[0x10], 0x34);
    ck_assert_uint_eq(os.st.rip, 2);
    RUN(0x50); /* push ax */
    ck_assert_uint_eq(os.st.gpr[RSP], CASE_STACK_BYTES / 2 - 2);
    ck_assert_uint_eq(os.stack[CASE_STACK_BYTES / 2 - 1], 0x12);
}
END_TEST

/* A system call is the end of the process that makes it; the next case has another. */
START_TEST(survives_its_child)
{
    begin(CM_LONG);
    c.insn[0] = 0x0f;
    c.insn[1] = 0x05;
    c.len = 2;
    ck_assert(case_classify(&c));
    ck_assert_ptr_nonnull(diff_engine_silicon.refuses(silicon, &c));
    DiffCase three[3] = {c, c, c};
    DiffOutcome *o = g_new(DiffOutcome, 3);
    for (unsigned k = 0; k < 3; k += 2) { /* inc eax */
        three[k].insn[0] = 0xff;
        three[k].insn[1] = 0xc0;
    }
    diff_engine_silicon.run(silicon, three, o, 3);
    ck_assert_int_eq(o[0].kind, OUT_DONE);
    ck_assert_int_eq(o[1].kind, OUT_BROKEN);
    ck_assert_msg(strstr(o[1].why, "system call") != NULL, "%s", o[1].why);
    ck_assert_int_eq(o[2].kind, OUT_DONE);
    ck_assert_uint_eq(o[2].st.gpr[RAX], 1);
    Differences d;
    ck_assert(!case_compare(&three[1], &o[0], &o[1], ~0u, &d));
    ck_assert_str_eq(d.d[0].what, "outcome");
    g_free(o);
}
END_TEST

START_TEST(survives_a_loop)
{
    begin(CM_LONG);
    c.insn[0] = 0xeb; /* to itself */
    c.insn[1] = 0xfe;
    c.len = 2;
    ck_assert(case_classify(&c));
    diff_engine_silicon.run(silicon, &c, &os, 1);
    ck_assert_int_eq(os.kind, OUT_BROKEN);
    diff_engine_interp.run(interp, &c, &oi, 1);
    ck_assert_int_eq(oi.kind, OUT_SKIPPED);
}
END_TEST

START_TEST(what_is_not_compared)
{
    Differences d;
    begin(CM_LONG);
    RUN(0x21, 0xc0); /* and: AF is undefined */
    oi = os;
    oi.st.rflags ^= FL_AF;
    ck_assert(case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d));
    oi.st.rflags ^= FL_CF;
    ck_assert(!case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d));
    ck_assert_uint_eq(d.n, 1);
    ck_assert_str_eq(d.d[0].what, "RFLAGS.CF");
    RUN(0x01, 0xc0); /* add defines it */
    oi = os;
    oi.st.rflags ^= FL_AF;
    ck_assert(!case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d));
    oi = os;
    oi.data[0x1234] ^= 1;
    oi.st.gpr[R9] ^= 1;
    oi.st.fpu.v[3].b[17] ^= 1;
    ck_assert(!case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d));
    ck_assert_uint_eq(d.n, 3);
    ck_assert_str_eq(d.d[0].what, "R9");
    ck_assert_str_eq(d.d[1].what, "ZMM3");
    ck_assert_str_eq(d.d[2].what, "data+0x1230");
    oi.kind = OUT_SKIPPED;
    ck_assert(case_compare(&c, &oi, &os, diff_engine_silicon.groups, &d));
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("exec");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, done_in_both_ways);
    tcase_add_test(tc, faults_as_they_are);
    tcase_add_test(tc, other_modes);
    tcase_add_test(tc, survives_its_child);
    tcase_add_test(tc, survives_a_loop);
    tcase_add_test(tc, what_is_not_compared);
    Suite *suite = suite_create("diff exec");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
