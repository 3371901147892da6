/*
 * MONITOR and MWAIT in a machine (-overcommit cpu-pm=on): vCPUs that wait in it while they are
 * switched. Between KVM and software where KVM lets guests have MWAIT, else between the two
 * software engines.
 */
#include <stdio.h>
#include <string.h>

#include "irqchip_machine.h"
#include "run_suite.h"

static void begin(const char *irqchip, unsigned cpus)
{
    CpuidTable k;
    bool in_kvm =
        kvm_available(NULL) && kvm_supported_cpuid(&k, NULL) && cpuid_has(&k, FEAT_MONITOR);
    machine_cpu_pm = true;
    machine_begin(in_kvm ? "kvm" : "tcg", NULL, in_kvm ? irqchip : NULL, cpus);
    machine_cpu_pm = false;
    ck_assert((kvm != NULL) == in_kvm);
    ck_assert(cpuid_has(&m->cpuid, FEAT_MONITOR));
    if (!kvm)
        kvm = machine_engine(m, "tcg", NULL);
}

START_TEST(to_and_fro)
{
    begin(irqchip_kinds[_i], 2);
    command = SIPI;
    wait_for('P', 1);
    for (unsigned k = 0; k < 4; k++) {
        argument = in_rig() ? 5 : 300; /* its one processor is whose vCPU waits in MWAIT */
        command = LINES;
        for (unsigned i = 0; count('L') <= k; i++) {
            go_to(i & 1 ? soft : kvm);
            serve_for(200 + 300 * (i % 7));
            if (m->vm.irqchip == IRQCHIP_OFF && i % 3 == 0)
                ck_assert(machine_switch(m, i & 1 ? kvm : soft, (int)(i / 3 & 1), NULL));
        }
        wait_for('.', 2 + k);
    }
    check_count('L', 4);
    machine_end();
}
END_TEST

static void in_mwait(Vcpu *v, void *opaque)
{
    *(bool *)opaque = v->st.run_state == RUN_MWAIT;
}

/* With interrupts off, and ECX's leave: it is the interrupt that ends it, and is taken later. */
START_TEST(ended_by_an_interrupt)
{
    begin(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 10; i++) {
        bool there = false;
        go_to(i % 3 || in_rig() ? soft : kvm); /* whose QEMU knows nothing of ECX */
        command = MWAIT;
        wait_for('(', i + 1);
        for (unsigned n = 0; i == 1 && !there; n++) {
            ck_assert_uint_lt(n, 100000);
            vcpu_run_on(m->vcpus[0], in_mwait, &there);
        }
        go_to(i & 1 || in_rig() ? soft : kvm);
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x91);
        machine_unlock(m);
        wait_for('h', i + 1);
        wait_for('.', i + 1);
        ck_assert_ptr_nonnull(strstr(said, "()h"));
        ck_assert_ptr_null(strstr(said, "(h"));
    }
    machine_end();
}
END_TEST

/* Without the option it is refused, whoever is to run the guest; and a KVM that has no MWAIT for
 * guests is left out of a machine that offers it. */
START_TEST(bad_arguments)
{
    static const char *const accel[] = {"tcg", "jit", "interp"};
    for (unsigned i = 0; i < ARRAY_LEN(accel); i++) {
        g_autoptr(GError) err = NULL;
        MachineConfig cfg = {
            .accel = accel[i], .cpu = "max,+monitor", .ram_bytes = 2 << 20, .smp = 1};
        ck_assert(!machine_new(&cfg, &err));
        ck_assert_msg(strstr(err->message, "'monitor'") && strstr(err->message, "cpu-pm=on"), "%s",
                      err->message);
    }
    begin("off", 1);
    if (!machine_engine(m, "kvm", NULL) && kvm_available(NULL)) {
        g_autoptr(GError) err = NULL;
        machine_engine(m, "kvm", &err);
        ck_assert_msg(strstr(err->message, "KVM_CAP_X86_DISABLE_EXITS"), "%s", err->message);
    }
    machine_end();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mwait");
    const SuiteTest tests[] = {{"to_and_fro", to_and_fro, 3},
                               {"ended_by_an_interrupt", ended_by_an_interrupt, 3},
                               {"bad_arguments", bad_arguments, 1}};
    suite_add_tests(s, tests, ARRAY_LEN(tests), in_rig() ? 300 : 60);
    return run_suite(s);
}
