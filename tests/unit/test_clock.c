/* The machine's clock, run slower than the host's, and its timers. */
#include <check.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "run_suite.h"

enum { SLOW = 50 };

/* Guest time and TSC pass between two readings of the host's, a fiftieth of them. */
START_TEST(slow_clock)
{
    Clock *c = clock_new();
    uint64_t khz = clock_host_tsc_khz();
    ck_assert(clock_tsc_is_host(c));
    clock_slow(c, SLOW);
    ck_assert(!clock_tsc_is_host(c));
    ck_assert_uint_eq(clock_tsc_khz(c), khz);
    ck_assert_uint_eq(clock_host_ns(c, 1000), 1000 * SLOW);
    uint64_t a = __rdtsc();
    clock_start(c);
    uint64_t t0 = clock_tsc(c), b = __rdtsc();
    while (__rdtsc() - b < khz * 20) /* 20 ms */
        ;
    uint64_t inside = __rdtsc() - b, t1 = clock_tsc(c), ns = clock_ns(c), d = __rdtsc();
    ck_assert_uint_ge(t1 - t0, inside / SLOW);
    ck_assert_uint_le(t1 - t0, (d - a) / SLOW + 1);
    ck_assert_uint_ge(ns, inside / SLOW * 1000000 / khz);
    ck_assert_uint_le(ns, (d - a) / SLOW * 1000000 / khz + 2);
    /* A TSC value and the matching time come together. */
    uint64_t at = clock_ns_at_tsc(c, t1 + khz * 1000);
    ck_assert_uint_ge(at, ns + 1000000000 - (clock_tsc(c) - t0) * 1000000 / khz);
    ck_assert_uint_le(at, clock_ns(c) + 1000000002);
    clock_free(c);
}
END_TEST

static unsigned told, fired;
static uint64_t again_at;

static void tell(void *opaque)
{
    told++;
}

static void fire(void *opaque)
{
    Timer **t = opaque;
    fired++;
    if (again_at)
        timer_mod(*t, again_at);
}

/* Whoever waits is told of a new earliest expiry, but for one that timers_run() returns. */
START_TEST(next_expiry)
{
    Clock *c = clock_new();
    Timer *t = NULL;
    Timer *a = t = timer_new(c, fire, &t), *b = timer_new(c, fire, &t);
    const uint64_t hour = 3600 * NS_PER_S;
    timers_set_notify(c, tell, NULL);
    timer_mod(a, 2 * hour);
    ck_assert_uint_eq(told, 1);
    ck_assert_uint_eq(timers_next(c), NO_EXPIRY); /* it stands still */
    clock_start(c);
    ck_assert_uint_eq(timers_next(c), 2 * hour);
    timer_mod(b, 3 * hour); /* it is not the first */
    ck_assert_uint_eq(told, 1);
    timer_mod(b, hour);
    ck_assert_uint_eq(told, 2);
    ck_assert_uint_eq(timers_next(c), hour);
    timer_del(b);
    ck_assert_uint_eq(timers_next(c), 2 * hour);
    again_at = hour;
    timer_mod(a, 0);
    ck_assert_uint_eq(told, 3);
    ck_assert_uint_eq(timers_run(c), hour);
    ck_assert_uint_eq(fired, 1);
    ck_assert_uint_eq(told, 3);
    timer_mod(b, hour / 2);
    ck_assert_uint_eq(told, 4);
    timer_free(a);
    timer_free(b);
    ck_assert_uint_eq(timers_next(c), NO_EXPIRY);
    clock_free(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("clock");
    TCase *tc = tcase_create("clock");
    tcase_add_test(tc, slow_clock);
    tcase_add_test(tc, next_expiry);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
