/*
 * The guest's paravirtual clock (cpu/pv.h): one line of ns over the TSC for all vCPUs and engines.
 *
 * With KVM it is KVM's own clock, which goes on while vCPUs are in software: there the line is read
 * from it. It is set only when the machine goes on after a stop, to where it stood beside the
 * machine's clock; without KVM it is that clock.
 */
#include "base/log.h"
#include "cpu/pv.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

enum { SET_TRIES = 8, NEAR_NS = 2000 };

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

/* The paravirtual clock less the machine's in ns: of some readings the one least disturbed. */
static int64_t ahead(const Machine *m)
{
    const Clock *c = m->vm.clock;
    uint64_t least = UINT64_MAX;
    int64_t ns = 0;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t before = clock_tsc(c), now = clock_ns(c), took = clock_tsc(c) - before;
        if (took < least) {
            least = took;
            ns = (int64_t)(pv_clock_at(&m->vm, before + took / 2) - now);
        }
    }
    return ns;
}

void pvclock_stop(Machine *m)
{
    pvclock_read(m);
    m->pv_ahead_ns = ahead(m);
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
    m->vm.pv = (struct PvLine){
        .tsc = clock_tsc(m->vm.clock),
        .ns = clock_ns(m->vm.clock) + (uint64_t)m->pv_ahead_ns,
        .exact = true,
    };
    /* It takes the host a while from here to KVM, at times a long while, and each stop would lose
     * that: so it is set again, by as much earlier, until it stands where it did. */
    int64_t late = 0;
    for (unsigned i = 0; in_kvm(m) && i < SET_TRIES; i++) {
        uint64_t ns = clock_ns(m->vm.clock) + (uint64_t)(m->pv_ahead_ns + late);
        if (!kvm_clock_set(&m->vm, ns, &err)) {
            warn_user("%s", err->message);
            break;
        }
        pvclock_read(m);
        int64_t off = ahead(m) - m->pv_ahead_ns;
        if (off > -NEAR_NS && off < NEAR_NS)
            break;
        late -= off;
    }
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_run_on(m->vcpus[i], write_work, NULL);
}
