/*
 * Lockstep with the translator's code as it runs by itself: traces and second bodies of loops count
 * their instructions right, and what is wrong in one of them is found.
 */
#include <check.h>
#include <stdio.h>

#include "diff/lockstep.h"
#include "fixture.h"
#include "jit/jit.h"
#include "run_suite.h"

enum { OUTER = 600, INNER = 25, HOT = 2, WARM = 16 };

static const uint8_t work[] = {
    0xb8, 0x78, 0x56, 0x34, 0x12,         /* mov eax, 0x12345678 */
    0xba, OUTER & 0xff, OUTER >> 8, 0, 0, /* mov edx, OUTER */
    /* outer: a trace, through the call and back */
    0xb9, INNER, 0, 0, 0,   /* mov ecx, INNER */
    0xbf, 0x00, 0x80, 0, 0, /* mov edi, 0x8000 */
    /* inner: has a second body */
    0x03, 0x07,             /* add eax, [rdi] */
    0xc1, 0xc0, 0x03,       /* rol eax, 3 */
    0x89, 0x07,             /* mov [rdi], eax */
    0x48, 0x83, 0xc7, 0x04, /* add rdi, 4 */
    0x83, 0xe9, 0x01,       /* sub ecx, 1 */
    0x75, 0xf0,             /* jnz inner */
    0xe8, 0x10, 0, 0, 0,    /* call function */
    0xa8, 0x01,             /* test al, 1 */
    0x74, 0x02,             /* jz over */
    0xff, 0xc3,             /* inc ebx */
    /* over: */
    0x50,             /* push rax */
    0xe5, 0xe8,       /* in eax, 0xe8: a helper */
    0x58,             /* pop rax */
    0x83, 0xea, 0x01, /* sub edx, 1 */
    0x75, 0xd2,       /* jnz outer */
    0xf4,             /* hlt */
    /* function: */
    0x01, 0xc3,             /* add ebx, eax */
    0x31, 0x9f, 0, 1, 0, 0, /* xor [rdi + 0x100], ebx */
    0xc3,                   /* ret */
};

/* Each round goes through an IRETQ that sets RF. */
static const uint8_t resumes[] = {
    0xb9, 0x2c, 0x01, 0, 0, /* mov ecx, 300 */
    /* round: */
    0x48, 0x89, 0xe3,                /* mov rbx, rsp */
    0x8c, 0xd0, 0x50,                /* mov eax, ss; push rax */
    0x53,                            /* push rbx */
    0x9c,                            /* pushfq */
    0x81, 0x0c, 0x24, 0, 0, 0x01, 0, /* or dword [rsp], 0x10000 */
    0x8c, 0xc8, 0x50,                /* mov eax, cs; push rax */
    0x48, 0x8d, 0x05, 0x03, 0, 0, 0, /* lea rax, [rip + 3] */
    0x50, 0x48, 0xcf,                /* push rax; iretq */
    0x83, 0xe9, 0x01,                /* sub ecx, 1 */
    0x75, 0xdf,                      /* jnz round */
    0xf4,                            /* hlt */
};

/* Each round sets IF in its middle. */
static const uint8_t opens[] = {
    0xb9, 0x2c, 0x01, 0, 0, /* mov ecx, 300 */
    /* round: */
    0xfa,             /* cli */
    0x83, 0xc0, 0x03, /* add eax, 3 */
    0xfb,             /* sti */
    0x83, 0xc3, 0x05, /* add ebx, 5 */
    0x31, 0xd8,       /* xor eax, ebx */
    0x01, 0xc2,       /* add edx, eax */
    0x83, 0xe9, 0x01, /* sub ecx, 1 */
    0x75, 0xef,       /* jnz round */
    0xf4,             /* hlt */
};

static Fixture *fix;
static Lockstep *ls;

static void start_with(const uint8_t *program, size_t size, uint64_t every)
{
    GError *err = NULL;
    LsOptions opt = {.every = every, .chained = true};
    fixture_load(fix, FIX_LONG, program, size, &engine_interp);
    if (!engine_jit.vcpu_init(fix->v, &err))
        ck_abort_msg("%s", err->message);
    Jit *j = jit_of(fix->v);
    j->hot_after = HOT;
    j->warm_after = WARM;
    j->kernel_warm = 1;
    ls = aligned_alloc(64, (sizeof(*ls) + 63) / 64 * 64);
    memset(ls, 0, sizeof(*ls));
    ls->side[LEADER] = (LsSide){.v = fix->v, .vm = &fix->vm, .engine = &engine_jit};
    ls->side[FOLLOWER] = (LsSide){.engine = &engine_interp};
    ls->real = &fix_bus;
    ls->recording = true;
    if (!ls_init(ls, &opt, &err))
        ck_abort_msg("%s", err->message);
    fix->vm.bus = &ls_bus;
    fix->vm.tap = ls->tap;
    engine_jit.enter(fix->v);
    if (!ls_sync(ls, &err))
        ck_abort_msg("%s", err->message);
}

static void start(uint64_t every)
{
    start_with(work, sizeof(work), every);
}

static void stop(void)
{
    fix->vm.bus = &fix_bus;
    fix->vm.tap = NULL;
    ls_clear(ls);
    free(ls);
}

static enum LsResult go(unsigned most)
{
    enum LsResult r = LS_OK;
    while (r == LS_OK && most--) {
        ls_begin_step(ls, LSS_RUN, 0);
        r = ls_step(ls, LSS_RUN, 0);
    }
    return r;
}

static void must(enum LsResult r, enum LsResult want)
{
    g_autoptr(GString) text = g_string_new(NULL);
    if (r == want)
        return;
    ls_report(ls, text);
    ck_abort_msg("result %d instead of %d: %s\n%.3000s", r, want, ls->why, text->str);
}

static void setup(void)
{
    fix = fixture_new(true);
}

static void teardown(void)
{
    fixture_free(fix);
}

/* The code that has a second body, and is of the inner loop alone. */
static JitCode *with_second_body(void)
{
    Jit *j = jit_of(fix->v);
    for (unsigned k = 0; k < j->map_n; k++)
        if (j->map[k]->block && j->map[k]->head)
            return j->map[k];
    return NULL;
}

/* Each step's count is right, or the follower would end elsewhere. */
START_TEST(counts_are_right)
{
    static const uint64_t everies[] = {2, 10, 97, 1000, 10000};
    start(everies[_i]);
    must(go(1000000), LS_HALTED);
    Jit *j = jit_of(fix->v);
    ck_assert_uint_gt(ls->insns, OUTER * (INNER * 6 + 13));
    ck_assert_uint_gt(j->traces, 0);
    ck_assert_ptr_nonnull(with_second_body());
    /* A loop of many rounds is one step: it is left where its second body is. */
    ck_assert_uint_lt(ls->steps, ls->insns / everies[_i] + 40);
    ck_assert_uint_lt(ls->steps, ls->insns / 5);
    ls_compare_all(ls);
    ck_assert(!ls->diverged);
    stop();
}
END_TEST

/* An interrupt that the second side alone has waiting, until IF is set amid a step, does not keep
 * it from doing as much. */
START_TEST(interrupt_waits_for_if)
{
    start_with(opens, sizeof(opens), 100);
    enum LsResult r = LS_OK;
    for (unsigned n = 0; r == LS_OK && n < 1000; n++) {
        vcpu_request(ls->side[FOLLOWER].v, VREQ_INTR);
        r = go(1);
    }
    must(r, LS_HALTED);
    ck_assert_uint_gt(ls->insns, 300 * 8);
    stop();
}
END_TEST

/* Where a step ends before the instruction that RF is for, RF is still set. */
START_TEST(rf_stays)
{
    static const uint64_t everies[] = {1, 2, 3, 7};
    unsigned set = 0;
    start_with(resumes, sizeof(resumes), everies[_i]);
    enum LsResult r = LS_OK;
    while (r == LS_OK) {
        r = go(1);
        set += (fix->v->st.rflags & FL_RF) != 0;
    }
    must(r, LS_HALTED);
    ck_assert_uint_gt(set, 10);
    stop();
}
END_TEST

/* Changes a constant in code that has been made: 3 -> 5 in the ROL. */
static bool spoil(const uint8_t *from, const uint8_t *to)
{
    Jit *j = jit_of(fix->v);
    for (const uint8_t *p = from; p + 3 <= to; p++)
        if (p[0] == 0xc1 && (p[1] & 0xf8) == 0xc0 && p[2] == 3) {
            ((uint8_t *)(uintptr_t)p - j->run)[2] = 5;
            return true;
        }
    return false;
}

/* A wrong instruction in a second body, which no block that runs alone has: found, and again in
 * shorter steps. */
START_TEST(spoilt_second_body)
{
    g_autoptr(GString) narrow = g_string_new(NULL);
    start(10000);
    must(go(3), LS_OK);
    const JitCode *code = with_second_body();
    ck_assert_ptr_nonnull(code);
    ck_assert(spoil(code->head, code->start + code->size));
    must(go(1000), LS_DIVERGED);
    ck_assert(!ls->by_full);
    ls_narrow(ls, narrow);
    ck_assert_msg(strstr(narrow->str, "in shorter steps"), "%s", narrow->str);
    ck_assert_uint_lt(ls->step_count, 1000);
    stop();
}
END_TEST

/* A trace that does one instruction too few, or counts one too many. */
START_TEST(wrong_count)
{
    start(10000);
    must(go(3), LS_OK);
    Jit *j = jit_of(fix->v);
    const JitCode *trace = NULL;
    for (unsigned k = 0; k < j->map_n; k++)
        if (j->map[k]->block && j->map[k]->n_parts > 1)
            trace = j->map[k];
    ck_assert_ptr_nonnull(trace);
    uint8_t *at = (uint8_t *)(uintptr_t)trace->entry - j->run, *end = at + trace->size;
    while (at < end && memcmp(at, "\x48\x8d\x49", 3) != 0) /* lea rcx, [rcx + n] */
        at++;
    ck_assert(at < end);
    at[3]++;
    must(go(1000), LS_DIVERGED);
    stop();
}
END_TEST

int main(void)
{
    GError *err = NULL;
    if (!jit_supported(&err)) {
        printf("skipped: %s\n", err->message);
        return 77;
    }
    Suite *s = suite_create("lockstep-chained");
    TCase *tc = tcase_create("chained");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, counts_are_right, 0, 5);
    tcase_add_loop_test(tc, rf_stays, 0, 4);
    tcase_add_test(tc, interrupt_waits_for_if);
    tcase_add_test(tc, spoilt_second_body);
    tcase_add_test(tc, wrong_count);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
