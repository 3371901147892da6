/* What the main() of a check(1) program ends with. */
#ifndef TANDEM_TESTS_RUN_SUITE_H
#define TANDEM_TESTS_RUN_SUITE_H

#include <check.h>
#include <stdlib.h>

/* check 0.15 writes down each assertion that holds, and at the end of a test reads all that back
   into one growing buffer: a test with a million of them takes longer over that than over its work.
   Those that fail are enough. */
#undef ck_assert_msg
#define ck_assert_msg(expr, ...) \
    ((expr)                      \
         ? (void)0               \
         : _ck_assert_failed(__FILE__, __LINE__, "Assertion '" #expr "' failed", ##__VA_ARGS__))

typedef struct SuiteTest {
    const char *name;
    const TTest *test;
    int loops;
} SuiteTest;

/* Each in a case of its own name, which CK_RUN_CASE chooses; a loop takes so many seconds at most.
 */
static inline void suite_add_tests(Suite *s, const SuiteTest *t, size_t n, double seconds)
{
    for (; n; n--, t++) {
        TCase *c = tcase_create(t->name);
        tcase_add_loop_test(c, t->test, 0, t->loops);
        tcase_set_timeout(c, seconds);
        suite_add_tcase(s, c);
    }
}

static inline int run_suite_as(Suite *s, enum fork_status fork)
{
    SRunner *r = srunner_create(s);
    if (fork != CK_FORK_GETENV)
        srunner_set_fork_status(r, fork);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Runs s and frees it: main()'s status. Each test has a process of its own, unless CK_FORK=no. */
static inline int run_suite(Suite *s)
{
    return run_suite_as(s, CK_FORK_GETENV);
}

/* In this process: a KVM vCPU, signal handlers and what else was set up belong to it. */
static inline int run_suite_unforked(Suite *s)
{
    return run_suite_as(s, CK_NOFORK);
}

#endif
