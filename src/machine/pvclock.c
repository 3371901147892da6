/*
 * The guest's paravirtual clock (cpu/pv.h): one line of ns over the TSC for all vCPUs and engines.
 *
 * With KVM it is KVM's own clock, which goes on while vCPUs are in software: there the line is read
 * from it. It is set only when the machine goes on after a stop, to where it stood; without KVM it
 * is the machine's clock.
 */
#include "base/log.h"
#include "cpu/pv.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

static bool in_kvm(const Machine *m)
{
    return m->engine[ENGINE_KVM] != NULL;
}

void pvclock_read(Machine *m)
{
    g_autoptr(GError) err = NULL;
    if (cpuid_has(&m->cpuid, FEAT_KVMCLOCK) && in_kvm(m) && clock_running(m->vm.clock) &&
        !kvm_clock_get(&m->vm, &m->vm.pv, &err))
        warn_user("%s", err->message);
}

void pvclock_stop(Machine *m)
{
    pvclock_read(m);
    m->pv_stopped_ns = pv_clock_at(&m->vm, clock_tsc(m->vm.clock));
}

static void write_work(Vcpu *v, void *opaque)
{
    if (v->engine->is_software)
        pv_clock_write(v);
}

void pvclock_start(Machine *m)
{
    g_autoptr(GError) err = NULL;
    if (!cpuid_has(&m->cpuid, FEAT_KVMCLOCK))
        return;
    m->vm.pv =
        (struct PvLine){.tsc = clock_tsc(m->vm.clock), .ns = m->pv_stopped_ns, .exact = true};
    if (in_kvm(m) && !kvm_clock_set(&m->vm, m->pv_stopped_ns, &err))
        warn_user("%s", err->message);
    pvclock_read(m);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_run_on(m->vcpus[i], write_work, NULL);
}
