/* The end of every check(1) program's main(). */
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
