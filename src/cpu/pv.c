#include "cpu/pv.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

enum { HV_LEAF = 0x40000000, ENABLED = 1 };

bool pv_offered(const CpuidTable *t)
{
    for (unsigned i = 0; t && i < t->n; i++) {
        if (t->e[i].leaf == HV_LEAF + 1)
            return true;
    }
    return false;
}

/* ---- the clock ---- */

/* Layouts: Linux's Documentation/virt/kvm/x86/msr.rst. */
typedef struct PvClock {
    uint32_t version; /* odd while it is written */
    uint32_t pad0;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags;
    uint8_t pad[2];
} PvClock;
_Static_assert(sizeof(PvClock) == 32, "pvclock_vcpu_time_info");

enum { PV_TSC_STABLE = 1 };

typedef struct PvWall {
    uint32_t version, sec, nsec;
} PvWall;

/* ns = (ticks << shift) * mul >> 32, with as many bits of mul as there are. */
static void scale(uint64_t khz, uint32_t *mul, int8_t *shift)
{
    uint64_t hz = khz * 1000, ns = NS_PER_S;
    int s = 0;
    while (hz > 2 * ns) { /* ticks >> 1 ... */
        hz >>= 1;
        s--;
    }
    while (hz <= ns) {
        hz <<= 1;
        s++;
    }
    *shift = (int8_t)s;
    *mul = (uint32_t)(((unsigned __int128)ns << 32) / hz);
}

uint64_t pv_clock_at(const VmCommon *vm, uint64_t tsc)
{
    __int128 ticks = (int64_t)(tsc - vm->pv.tsc);
    return vm->pv.ns + (uint64_t)(ticks * 1000000 / (int64_t)clock_tsc_khz(vm->clock));
}

/* A structure that the guest reads while its version is even and the same before and after. */
static void publish(uint8_t *at, const void *data, size_t size)
{
    _Atomic uint32_t *version = (_Atomic uint32_t *)(void *)at;
    uint32_t v = atomic_load(version) | 1;
    atomic_store(version, v);
    memcpy(at + 4, (const uint8_t *)data + 4, size - 4);
    atomic_store(version, v + 1);
}

/* Host address of a structure of the guest's that is 4-byte aligned, as KVM wants it; else NULL. */
static uint8_t *guest(Vcpu *v, uint64_t gpa, size_t size, const char *what)
{
    uint8_t *at = gpa & 3 ? NULL : memmap_host(v->vm->mem, gpa, size, true);
    if (!at && log_on(LOG_GUEST_ERROR))
        log_line("cpu %d: %s at %#" G_GINT64_MODIFIER "x is not in RAM", v->id, what, gpa);
    return at;
}

void pv_clock_write(Vcpu *v)
{
    uint64_t msr = v->st.msr.kvm_system_time, tsc = clock_tsc(v->vm->clock);
    uint8_t *at = msr & ENABLED ? guest(v, msr & ~1ull, sizeof(PvClock), "kvmclock") : NULL;
    if (!at)
        return;
    PvClock c = {.tsc = tsc + v->st.tsc_offset, .ns = pv_clock_at(v->vm, tsc)};
    scale(clock_tsc_khz(v->vm->clock), &c.mul, &c.shift);
    if (v->vm->pv.exact && cpuid_has(v->vm->cpuid, FEAT_KVMCLOCK_STABLE))
        c.flags = PV_TSC_STABLE;
    publish(at, &c, sizeof(c));
}

/*
 * What KVM wrote goes on to be right: it is the same line. Unless KVM was about to write it anew,
 * as after a stop, and the vCPU left before that.
 */
static void check_clock(Vcpu *v)
{
    enum { NEAR_NS = 100000 };
    uint64_t msr = v->st.msr.kvm_system_time;
    uint8_t *at = msr & ENABLED ? guest(v, msr & ~1ull, sizeof(PvClock), "kvmclock") : NULL;
    PvClock c;
    if (!at)
        return;
    uint64_t tsc = clock_tsc(v->vm->clock);
    memcpy(&c, at, sizeof(c));
    int64_t ticks = (int64_t)(tsc + v->st.tsc_offset - c.tsc);
    int64_t khz = (int64_t)clock_tsc_khz(v->vm->clock);
    int64_t ahead =
        (int64_t)(c.ns + (uint64_t)((__int128)ticks * 1000000 / khz) - pv_clock_at(v->vm, tsc));
    if (ahead > NEAR_NS || ahead < -NEAR_NS)
        pv_clock_write(v);
}

void pv_wall_clock_write(Vcpu *v)
{
    uint64_t gpa = v->st.msr.kvm_wall_clock;
    uint8_t *at = gpa ? guest(v, gpa, sizeof(PvWall), "the wall clock") : NULL;
    struct timespec now;
    if (!at)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t zero = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec -
                    pv_clock_at(v->vm, clock_tsc(v->vm->clock));
    PvWall w = {.sec = (uint32_t)(zero / NS_PER_S), .nsec = (uint32_t)(zero % NS_PER_S)};
    publish(at, &w, sizeof(w));
}

/* ---- steal time ---- */

typedef struct PvSteal {
    uint64_t steal;
    uint32_t version, flags;
    uint8_t preempted, pad[47];
} PvSteal;
_Static_assert(sizeof(PvSteal) == 64, "kvm_steal_time");

enum { STEAL_EVERY_NS = 10000000 };

/* ns this thread was ready and did not run; 0 where the kernel does not count. */
static uint64_t run_delay(void)
{
    char text[80];
    uint64_t delay = 0;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n > 0) {
        text[n] = 0;
        const char *second = strchr(text, ' ');
        delay = second ? strtoull(second, NULL, 10) : 0;
    }
    return delay;
}

static PvSteal *steal_time(Vcpu *v)
{
    uint64_t msr = v->st.msr.kvm_steal_time;
    return msr & ENABLED
               ? (PvSteal *)(void *)guest(v, msr & ~0x3full, sizeof(PvSteal), "steal time")
               : NULL;
}

static void add(PvSteal *s, uint64_t ns)
{
    _Atomic uint32_t *version = (_Atomic uint32_t *)&s->version;
    uint32_t v = atomic_load(version) | 1;
    atomic_store(version, v);
    s->steal += ns;
    atomic_store(version, v + 1);
}

void pv_steal_update(Vcpu *v)
{
    if (likely(!(v->st.msr.kvm_steal_time & ENABLED)))
        return;
    uint64_t now = clock_ns(v->vm->clock);
    if (v->steal.at_ns && now - v->steal.at_ns < STEAL_EVERY_NS)
        return;
    PvSteal *s = steal_time(v);
    uint64_t delay = run_delay();
    if (s && v->steal.at_ns && delay > v->steal.run_delay) {
        add(s, delay - v->steal.run_delay);
        v->steal.added += delay - v->steal.run_delay;
    }
    v->steal.run_delay = delay;
    v->steal.at_ns = MAX_OF(now, 1);
}

void pv_enter_software(Vcpu *v)
{
    PvSteal *s = steal_time(v);
    check_clock(v);
    v->steal.at_ns = v->steal.added = 0;
    /* KVM calls a vCPU that is not in KVM_RUN preempted, and others then ask for a TLB flush in
     * that byte instead of by an IPI. Here they get none unless they ask, and entering a software
     * engine flushes. */
    if (s)
        atomic_exchange((_Atomic uint8_t *)&s->preempted, 0);
    pv_steal_update(v);
}

void pv_leave_software(Vcpu *v)
{
    PvSteal *s = v->steal.added ? steal_time(v) : NULL;
    if (s)
        add(s, -v->steal.added);
    v->steal.added = 0;
}

/* ---- hypercalls ---- */

enum {
    HC_VAPIC_POLL_IRQ = 1,
    HC_SEND_IPI = 10,
    HC_SCHED_YIELD = 11,
    KVM_EINVAL = 22,
    KVM_ENOSYS = 1000,
};

int64_t pv_hypercall(Vcpu *v, uint64_t nr, const uint64_t arg[4])
{
    switch (nr) {
    case HC_VAPIC_POLL_IRQ:
        return 0;
    case HC_SEND_IPI:
        if (!cpuid_has(v->vm->cpuid, FEAT_KVM_PV_IPI) || !v->vm->bus->pv_ipi)
            return -KVM_ENOSYS;
        if (arg[3] & (1u << 11 | 3u << 18)) /* logical destinations and shorthands */
            return -KVM_EINVAL;
        return v->vm->bus->pv_ipi(v, arg, (uint32_t)arg[2], (uint32_t)arg[3]);
    case HC_SCHED_YIELD:
        if (!cpuid_has(v->vm->cpuid, FEAT_KVM_PV_SCHED_YIELD))
            return -KVM_ENOSYS;
        sched_yield();
        return 0;
    default:
        return -KVM_ENOSYS;
    }
}
