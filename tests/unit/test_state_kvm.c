/* `tandem diff state` with this host's KVM, whatever it is: nothing that is not explained. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "diff/state.h"
#include "kvm/kvm.h"
#include "run_suite.h"

static StateHost *host;
static const char *platform;

static void setup(void)
{
    GError *err = NULL;
    host = state_host_new(true, &err);
    platform = host ? state_platform(host, &err) : NULL;
    ck_assert_msg(platform != NULL, "%s", err ? err->message : "");
}

static void teardown(void)
{
    state_host_free(host);
}

static bool through_kvm(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    return state_host_through(h, &engine_kvm, in, out, err);
}

/* A KVM that loses one register now and then. */
static bool forgetful(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    bool ok = through_kvm(h, in, out, err);
    if (in->gpr[RAX] & 1)
        out->dr[2] = 0;
    return ok;
}

static unsigned campaign(const StateEngine *e, uint64_t n, GString *text)
{
    StateReport *r = state_report_new();
    state_campaign(host, platform, e, 11, n, r, NULL, NULL);
    unsigned findings = state_report_findings(r);
    state_report_text(r, text);
    state_report_free(r);
    return findings;
}

START_TEST(states_come_back)
{
    static const StateEngine engines[] = {
        {"kvm", "", true, false, through_kvm},
        {"switch", "", true, true, state_host_switched},
    };
    GString *text = g_string_new(NULL);
    ck_assert_msg(!campaign(&engines[_i], 10000, text), "%s", text->str);
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(loss_is_found)
{
    static const StateEngine e = {"forgetful", "", true, false, forgetful};
    GString *text = g_string_new(NULL);
    ck_assert_uint_eq(campaign(&e, 200, text), 1);
    ck_assert_msg(strstr(text->str, "FINDING DR2") != NULL, "%s", text->str);
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(checks_are_as_known)
{
    GString *text = g_string_new(NULL);
    ChecksResult *r = state_checks_run(host, platform, NULL, 11, 10000, NULL, NULL, NULL);
    ChecksCounts n = state_checks_counts(r);
    state_checks_text(r, text);
    ck_assert_msg(!n.findings && !n.laxer && n.agree + n.stricter + n.lost == n.checks, "%s",
                  text->str);
    ck_assert_uint_gt(n.agree, 20);
    ck_assert_uint_eq(n.lost, 3); /* test_lost.c shows what of */
    state_checks_free(r);
    if (!strcmp(platform, "vmx")) {
        ck_assert_uint_eq(n.stricter, 0);
    } else {
        /* The platform decides what is known: VMX's is nothing. */
        ck_assert_uint_gt(n.stricter, 0);
        r = state_checks_run(host, "vmx", NULL, 11, 2000, NULL, NULL, NULL);
        n = state_checks_counts(r);
        ck_assert_uint_gt(n.stricter, 0);
        ck_assert_uint_ge(n.findings, n.stricter); /* each one, and what KVM changes here */
        state_checks_free(r);
    }
    g_string_free(text, TRUE);
}
END_TEST

int main(void)
{
    GError *err = NULL;
    if (!kvm_available(&err)) {
        printf("skipped: %s\n", err->message);
        g_error_free(err);
        return 77;
    }
    Suite *s = suite_create("state_kvm");
    TCase *c = tcase_create("state");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, states_come_back, 0, 2);
    tcase_add_test(c, loss_is_found);
    tcase_add_test(c, checks_are_as_known);
    tcase_set_timeout(c, 200);
    suite_add_tcase(s, c);
    return run_suite(s);
}
