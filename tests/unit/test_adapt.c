/* Adaptive: what is made of a vCPU's samples. No engine and no clock: the samples are made up. */
#include <check.h>
#include <string.h>

#include "switch/adapt.h"
#include "run_suite.h"

static Adapt a;
static AdaptSample now;
static uint64_t away;

static void setup(void)
{
    a = (Adapt){.kvm_mips = 2000, .soft_mips = 100};
    now = (AdaptSample){.wall_ns = 1};
    away = 0;
}

/* A quarter of a second passes, so many percent of it in the guest and in the kernel. */
static bool window(unsigned user, unsigned kernel, uint64_t insns, bool in_kvm)
{
    uint64_t ns = ADAPT_PERIOD_MS * NS_PER_MS;
    now.wall_ns += ns;
    now.user_ns += ns / 100 * user;
    now.kernel_ns += ns / 100 * kernel;
    now.insns += insns;
    return adapt_judge(&a, &now, in_kvm, &away);
}

START_TEST(a_guest_that_runs_stays)
{
    for (unsigned i = 0; i < 20; i++)
        ck_assert(!window(90, 10, 0, true));
    ck_assert_uint_eq(a.share, 90);
    /* 6 % of 2,000 is more than 100 still. */
    for (unsigned i = 0; i < 20; i++)
        ck_assert(!window(6, 94, 0, true));
}
END_TEST

START_TEST(a_guest_that_is_emulated_moves)
{
    ck_assert(!window(2, 98, 0, true)); /* the first is no window */
    ck_assert(!window(2, 98, 0, true)); /* one may be chance */
    ck_assert(window(2, 98, 0, true));
    ck_assert_uint_eq(away, NS_PER_S);
    ck_assert_msg(strstr(a.why, "2 %") && strstr(a.why, "about 40 million"), "%s", a.why);
}
END_TEST

START_TEST(an_idle_one_is_not_judged)
{
    /* What it needs in two seconds is no window, nor what it needs in many of them. */
    for (unsigned i = 0; i < 100; i++)
        ck_assert(!window(0, 2, 0, true));
}
END_TEST

START_TEST(a_busy_host_makes_windows_longer)
{
    unsigned n = 0;
    while (!window(0, 8, 0, true)) /* 20 ms of each quarter of a second */
        ck_assert_uint_lt(++n, 20);
    ck_assert_uint_eq(n, 6); /* the first, and two windows of three */
}
END_TEST

START_TEST(it_is_tried_again_more_and_more_rarely)
{
    uint64_t want = NS_PER_S;
    for (unsigned n = 0; n < 8; n++) {
        ck_assert(!window(0, 100, 0, true));
        ck_assert(!window(0, 100, 0, true));
        ck_assert(window(0, 100, 0, true));
        ck_assert_uint_eq(away, want);
        want = MIN_OF(want * 2, 32 * NS_PER_S);
        for (unsigned i = 0; i < 4; i++)
            ck_assert(!window(100, 0, 75000000, false));
    }
    ck_assert_uint_gt(a.soft_mips, 250); /* 300, bit by bit */
    /* Two good seconds, and the next move is short again. */
    for (unsigned i = 0; i < 9; i++)
        ck_assert(!window(100, 0, 0, true));
    ck_assert(!window(0, 100, 0, true));
    ck_assert(window(0, 100, 0, true));
    ck_assert_uint_eq(away, NS_PER_S);
}
END_TEST

/* One good second, and another behind a stay: the engine did not do well for two in a row. */
START_TEST(good_seconds_do_not_add_up)
{
    uint64_t want = NS_PER_S;
    for (unsigned n = 0; n < 3; n++) {
        for (unsigned i = 0; i < 6; i++)
            ck_assert(!window(100, 0, 0, true));
        ck_assert(!window(0, 100, 0, true));
        ck_assert(window(0, 100, 0, true));
        ck_assert_uint_eq(away, want);
        want *= 2;
        ck_assert(!window(100, 0, 25000000, false));
    }
}
END_TEST

START_TEST(a_fast_software_engine_is_preferred_sooner)
{
    a.soft_mips = 1000;
    ck_assert(!window(40, 60, 0, true));
    ck_assert(!window(40, 60, 0, true));
    ck_assert(window(40, 60, 0, true));
}
END_TEST

START_TEST(without_a_speed_nothing_is_judged)
{
    a.kvm_mips = 0;
    for (unsigned i = 0; i < 20; i++)
        ck_assert(!window(0, 100, 0, true));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("adapt");
    TCase *t = tcase_create("adapt");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_guest_that_runs_stays);
    tcase_add_test(t, a_guest_that_is_emulated_moves);
    tcase_add_test(t, an_idle_one_is_not_judged);
    tcase_add_test(t, a_busy_host_makes_windows_longer);
    tcase_add_test(t, it_is_tried_again_more_and_more_rarely);
    tcase_add_test(t, good_seconds_do_not_add_up);
    tcase_add_test(t, a_fast_software_engine_is_preferred_sooner);
    tcase_add_test(t, without_a_speed_nothing_is_judged);
    suite_add_tcase(s, t);
    return run_suite(s);
}
