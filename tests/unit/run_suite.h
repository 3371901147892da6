/* The end of every check(1) program's main(). */
#ifndef TANDEM_TESTS_RUN_SUITE_H
#define TANDEM_TESTS_RUN_SUITE_H

#include <check.h>
#include <stdlib.h>

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
