/*
 * A state that KVM takes by ioctl and the processor then refuses (KVM_EXIT_FAIL_ENTRY), got past
 * our own checks: the check that would have refused it is named, and the guest goes on in software.
 *
 * VMX refuses a TSS that is not busy; SVM and a KVM without hardware enter with it. Where that is
 * so there is nothing to rescue, and the test is skipped: scripts/vmx-rig runs it under kvm_intel.
 */
#include <check.h>
#include <stdio.h>
#include <time.h>

#include "fixture.h"
#include "switch/rescue.h"
#include "switch/vcpu_loop.h"
#include "run_suite.h"

/* mov al, 'A'; out 0xe9, al; out 0xf4, al; jmp $ */
static const uint8_t code[] = {0xb0, 'A', 0xe6, 0xe9, 0xe6, 0xf4, 0xeb, 0xfe};

static Fixture *f;
static unsigned errors;

static void on_error(Vcpu *v, const Exit *e)
{
    fprintf(stderr, "the machine would have stopped: %s\n", e->msg);
    errors++;
}

static const LoopHooks hooks = {.error = on_error};

/* Into KVM as it is: no rule mends it, no check sees it. */
static void load_bad(void)
{
    GError *err = NULL;
    fixture_load(f, FIX_PROT32, code, sizeof(code), &engine_kvm);
    f->v->st.seg[TR].attr = (f->v->st.seg[TR].attr & ~0xfu) | 9;
    if (!engine_kvm.import_state(f->v, GROUPS_ALL, &err))
        g_error("%s", err->message);
}

static void copy(Vcpu *v, void *out)
{
    RescuePolicy p;
    *(RescueStats *)out = *vcpu_rescue_stats(v, &p);
}

START_TEST(goes_on_in_software)
{
    RescueStats s;
    load_bad();
    ck_assert(vcpu_loop_start(f->v, &hooks, NULL));
    vcpu_rescue_set(f->v, &(RescuePolicy){.engine = &engine_interp});
    vcpu_resume(f->v);
    for (unsigned i = 0; i < 3000 && !f->ended && !errors; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    vcpu_run_on(f->v, copy, &s);
    ck_assert(f->ended && !errors);
    ck_assert_uint_eq(f->n_out, 1);
    ck_assert_uint_eq(f->out[0], 'A');
    ck_assert_uint_eq(s.entries, 1);
    ck_assert_uint_ge(s.stays, 1);
    ck_assert_msg(strstr(s.why, "tr-type") != NULL, "'%s' does not name the check", s.why);
    printf("rescued: %s\n", s.why);
    vcpus_pause(&f->vm);
    vcpu_loop_join(f->v);
}
END_TEST

/* On the main thread, before any other: is this a KVM that refuses? */
static bool refuses(void)
{
    RunLimit none = {0};
    load_bad();
    Exit e = engine_kvm.run(f->v, &none);
    if (e.kind == EXIT_FAIL_ENTRY)
        return true;
    printf("skipped: this KVM enters with a TSS that is not busy\n");
    return false;
}

int main(void)
{
    f = fixture_new(true);
    if (!f->have[ENGINE_KVM]) {
        printf("skipped: no usable /dev/kvm\n");
        fixture_free(f);
        return 77;
    }
    if (!refuses()) {
        fixture_free(f);
        return 77;
    }
    Suite *s = suite_create("fail_entry");
    TCase *c = tcase_create("fail_entry");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, goes_on_in_software);
    suite_add_tcase(s, c);
    int status = run_suite_unforked(s); /* a KVM vCPU belongs to its process */
    fixture_free(f);
    return status;
}
