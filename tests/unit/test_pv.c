/*
 * KVM's paravirtual interface in a machine that is moved between KVM and the software engine: the
 * clock the guest computes from its page and its TSC neither steps nor goes back, the wall clock is
 * right, steal time is kept, hypercalls are answered. Guest: irqchip_guest.S.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu/pv.h"
#include "irqchip_machine.h"
#include "run_suite.h"

enum { CLOCK_AT = 0x3000, WALL_AT = 0x3100, STEAL_AT = 0x3200 };

/* A reading of the guest's: its TSC, and what its page makes of it. */
static uint64_t pv_ns;

static uint64_t pvclock(uint64_t tsc)
{
    struct {
        uint32_t version, pad;
        uint64_t tsc, ns;
        uint32_t mul;
        int8_t shift;
        uint8_t flags;
    } c;
    memcpy(&c, memmap_host(&m->mem, CLOCK_AT, sizeof(c), false), sizeof(c));
    ck_assert_uint_eq(c.version & 1, 0);
    ck_assert_uint_ne(c.version, 0);
    /* KVM may have written it anew since the guest read its TSC: so that may lie before. */
    int64_t ticks = (int64_t)(tsc - c.tsc);
    ticks = c.shift < 0 ? ticks >> -c.shift : (int64_t)((uint64_t)ticks << c.shift);
    return c.ns + (uint64_t)((__int128)ticks * c.mul >> 32);
}

static void start(const char *accel, const char *cpu, const char *irqchip)
{
    machine_begin(accel, cpu, irqchip, 1);
}

/* How far the clock is behind the machine's, of some readings the one least delayed. */
static int64_t behind(unsigned n, uint64_t *last)
{
    int64_t least = INT64_MAX;
    for (unsigned i = 0; i < n; i++) {
        run_command(CLOCK);
        pv_ns = pvclock(result);
        ck_assert_msg(pv_ns >= *last, "back by %llu ns", (unsigned long long)(*last - pv_ns));
        *last = pv_ns;
        least = MIN_OF(least, (int64_t)(result_at_ns - pv_ns));
    }
    return least;
}

/* The same after something: as many readings as it takes for one not delayed, so that a host with
 * little time for us does not look like a clock that lost some. */
static int64_t behind_still(int64_t before, int64_t within, uint64_t *last)
{
    int64_t least = behind(30, last);
    for (unsigned i = 0; least - before >= within && i < 100; i++)
        least = MIN_OF(least, behind(30, last));
    return least;
}

static bool have_kvm(void)
{
    g_autoptr(GError) err = NULL;
    if (kvm_available(&err))
        return true;
    printf("skipped: %s\n", err->message);
    return false;
}

static bool offered(void)
{
    if (cpuid_has(&m->cpuid, FEAT_KVMCLOCK))
        return true;
    printf("skipped: this host's KVM has no paravirtual clock\n");
    machine_free(m);
    return false;
}

/* A thousand switches, and the clock is where it was, to within a millisecond. */
START_TEST(clock_through_switches)
{
    static const struct {
        enum Command enable;
        const char *irqchip;
        bool in_kvm;
    } rows[] = {{PV_NEW, "off", true}, {PV_OLD, "off", true}, {PV_NEW, "on", false}};
    uint64_t last = 0;
    if (!have_kvm())
        return;
    start("kvm", "max", rows[_i].irqchip);
    if (!offered())
        return;
    go_to(rows[_i].in_kvm ? kvm : soft); /* where the guest turns it on */
    run_command(rows[_i].enable);
    int64_t before = behind(100, &last);
    for (unsigned i = 0; i < 1000; i++) {
        go_to(m->vcpus[0]->engine == kvm ? soft : kvm);
        if (i % 10 == 0)
            behind(1, &last);
    }
    go_to(kvm);
    int64_t in_kvm = behind_still(before, 1000000, &last);
    go_to(soft);
    int64_t in_soft = behind_still(before, 1000000, &last);
    ck_assert_msg(llabs(in_kvm - before) < 1000000 && llabs(in_soft - before) < 1000000,
                  "behind by %lld ns before, %lld and %lld after", (long long)before,
                  (long long)in_kvm, (long long)in_soft);
    machine_end();
}
END_TEST

/* KVM's clock is a VM's: it goes on in the one that is made without interrupt controllers. */
START_TEST(clock_through_leaving)
{
    static const char *const kinds[] = {"split", "on"};
    g_autoptr(GString) warning = g_string_new(NULL);
    g_autoptr(GError) err = NULL;
    uint64_t last = 0;
    unsigned number;
    if (!have_kvm())
        return;
    start("kvm", "max", kinds[_i]);
    if (!offered())
        return;
    run_command(PV_NEW);
    int64_t before = behind(100, &last);
    ck_assert(machine_policy_add(m, "every=10s", &number, warning, &err));
    ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
    int64_t after = behind_still(before, 1000000, &last);
    ck_assert_msg(llabs(after - before) < 1000000, "behind by %lld ns, then %lld",
                  (long long)before, (long long)after);
    machine_end();
}
END_TEST

/* The machine's clock stands still when it is stopped, and so does this one. */
START_TEST(clock_through_stops)
{
    uint64_t last = 0;
    if (_i && !have_kvm())
        return;
    start(_i ? "kvm" : "interp", _i ? "max" : "max,kvm=on", "off");
    if (!offered())
        return;
    run_command(PV_NEW);
    int64_t before = behind(100, &last);
    for (unsigned i = 0; i < 20; i++) {
        machine_stop(m);
        g_usleep(10000);
        machine_cont(m);
        if (kvm && i % 5 == 4)
            go_to(i % 2 ? soft : kvm);
        behind(1, &last);
    }
    int64_t after = behind_still(before, 1000000, &last);
    ck_assert_msg(llabs(after - before) < 1000000, "behind by %lld ns, then %lld",
                  (long long)before, (long long)after);
    machine_end();
}
END_TEST

/* A TSC that the guest moves does not move it. */
START_TEST(clock_and_tsc)
{
    uint64_t last = 0;
    start("interp", "max,kvm=on", "off");
    run_command(PV_NEW);
    int64_t before = behind(100, &last);
    run_command(MOVE_TSC);
    int64_t after = behind_still(before, 1000000, &last);
    ck_assert_msg(llabs(after - before) < 1000000, "behind by %lld ns, then %lld",
                  (long long)before, (long long)after);
    machine_end();
}
END_TEST

START_TEST(wall_clock)
{
    static const struct {
        enum Command enable;
        bool kvm;
    } rows[] = {{PV_NEW, false}, {PV_OLD, false}, {PV_NEW, true}, {PV_OLD, true}};
    uint32_t w[3];
    struct timespec now;
    if (rows[_i].kvm && !have_kvm())
        return;
    start(rows[_i].kvm ? "kvm" : "interp", rows[_i].kvm ? "max" : "max,kvm=on", "off");
    if (!offered())
        return;
    run_command(rows[_i].enable);
    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(w, memmap_host(&m->mem, WALL_AT, sizeof(w), false), sizeof(w));
    int64_t zero = (int64_t)w[1] * 1000000000 + w[2];
    int64_t real = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    int64_t is = zero + (int64_t)pv_clock_at(&m->vm, clock_tsc(m->vm.clock));
    ck_assert_uint_eq(w[0] & 1, 0);
    ck_assert_msg(llabs(is - real) < 1000000000, "off by %lld ns", (long long)(is - real));
    machine_end();
}
END_TEST

typedef struct Steal {
    uint64_t steal;
    uint32_t version, flags;
    uint8_t preempted;
} Steal;

/* KVM marks a vCPU that is not in KVM_RUN; in software it is not to look preempted, or others would
 * leave it a TLB flush instead of an IPI. What it waited is counted once. */
START_TEST(steal_time)
{
    if (!have_kvm())
        return;
    start("kvm", "max", "off");
    if (!cpuid_has(&m->cpuid, FEAT_KVM_STEAL_TIME)) {
        printf("skipped: this host's KVM has no steal time\n");
        machine_free(m);
        return;
    }
    run_command(PV_NEW);
    const volatile Steal *s = (const void *)memmap_host(&m->mem, STEAL_AT, sizeof(Steal), false);
    uint64_t last = 0;
    for (unsigned i = 0; i < 40; i++) {
        go_to(i & 1 ? kvm : soft);
        run_command(CLOCK);
        if (!(i & 1))
            ck_assert_uint_eq(s->preempted, 0);
        ck_assert_uint_eq(s->version & 1, 0);
        uint64_t is = s->steal;
        ck_assert_uint_ge(is, last);
        ck_assert_uint_lt(is - last, 60ull * NS_PER_S); /* what was taken out does not wrap */
        last = is;
    }
    ck_assert_uint_eq(m->vcpus[0]->st.msr.kvm_steal_time, 0x3201);
    machine_end();
}
END_TEST

START_TEST(hypercalls)
{
    start("interp", "max,kvm=on", "off");
    run_command(CALL_IPI);
    ck_assert_uint_eq((uint32_t)result, 1);
    wait_for('i', 1);
    ck_assert_uint_eq(count('i'), 1);
    run_command(CALL_UNKNOWN);
    ck_assert_int_eq((int32_t)result, -1000);
    machine_end();
}
END_TEST

/* What needs KVM's local APICs. In KVM only where there is hardware behind it. */
static bool offered_with_apics(const char *cpu, const char *irqchip, enum CpuFeature feature)
{
    if (!have_kvm())
        return false;
    if (!kvm_has_hardware()) {
        printf("skipped: neither VMX nor SVM\n");
        return false;
    }
    start("kvm", cpu, irqchip);
    ck_assert(cpuid_has(&m->cpuid, feature));
    return true;
}

static const char *const apics[] = {"split", "on"};

/* By KVM or here, the same; and the machine cannot leave KVM's local APICs any more. */
START_TEST(hypercalls_in_both)
{
    g_autoptr(GString) warning = g_string_new(NULL);
    GError *err = NULL;
    unsigned number;
    if (!offered_with_apics("max,kvm-pv-ipi=on", apics[_i], FEAT_KVM_PV_IPI))
        return;
    for (unsigned i = 0; i < 20; i++) {
        go_to(i & 1 ? kvm : soft);
        unsigned ipis = count('i');
        run_command(CALL_IPI);
        ck_assert_uint_eq((uint32_t)result, 1);
        wait_for('i', ipis + 1);
    }
    ck_assert(!machine_policy_add(m, "every=1s", &number, warning, &err));
    ck_assert_msg(strstr(err->message, "-kvm-pv-ipi") != NULL, "%s", err->message);
    g_clear_error(&err);
    go_to(kvm);
    run_command(CALL_IPI);
    ck_assert_int_eq(m->vm.irqchip, _i ? IRQCHIP_ON : IRQCHIP_SPLIT);
    machine_end();
}
END_TEST

/* EOI in memory: the bit is KVM's while the vCPU is in it, and never left behind. */
START_TEST(eoi_in_memory)
{
    g_autoptr(GString) warning = g_string_new(NULL);
    ChipView v;
    GError *err = NULL;
    unsigned number;
    if (!offered_with_apics("max", apics[_i], FEAT_KVM_PV_EOI))
        return;
    const volatile uint16_t *word = (const void *)memmap_host(&m->mem, 0x3300, 8, false);
    run_command(PV_EOI);
    for (unsigned i = 0; i < 40; i++) {
        go_to(i & 1 ? soft : kvm);
        interrupts_off();
        if (i % 4 > 1) {
            go_to(i & 1 ? kvm : soft);
            if (i & 1)
                go_to(soft);
            else
                ck_assert_uint_eq(word[0], 0);
        }
        if (i == 30) {
            ck_assert_uint_gt(word[2], 0); /* so it was in use */
            ck_assert(machine_policy_add(m, "every=1s", &number, warning, &err));
            ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
        }
        interrupts_on();
        wait_for('.', 2 * i + 2);
        run_command(QUIET);
        vcpus_pause(&m->vm);
        ck_assert_uint_eq(word[0], 0);
        ck_assert(machine_chips(m, 0, false, &v, &err));
        for (unsigned k = 0; k < ARRAY_LEN(v.lapic.isr); k++)
            ck_assert_uint_eq(v.lapic.isr[k], 0);
        vcpus_resume(&m->vm);
    }
    machine_end();
}
END_TEST

static void signature(const char *cpu, bool with_kvm, bool is_kvm, uint32_t features)
{
    CpuidTable t, k = {.n = 0};
    g_autoptr(GError) err = NULL;
    uint32_t r[4];
    if (with_kvm && !kvm_supported_cpuid_apic(&k, &err))
        return;
    ck_assert_msg(cpuid_build(&t, cpu, with_kvm ? &k : NULL, 1, 2000000, &err), "%s",
                  err ? err->message : "");
    cpuid_execute(&t, 0, 0, 1, 0, 0x40000000, 0, r);
    ck_assert_int_eq(memcmp(&r[1], is_kvm ? "KVMK" : "Tand", 4), 0);
    ck_assert_uint_eq(r[0], is_kvm ? 0x40000001 : 0x40000000);
    ck_assert_int_eq(pv_offered(&t), is_kvm);
    cpuid_execute(&t, 0, 0, 1, 0, 0x40000001, 0, r);
    if (is_kvm && features)
        ck_assert_uint_eq(r[0], features);
}

/* Offered when the guest may meet KVM, and by name. */
START_TEST(offers)
{
    const uint32_t asyncpf = 1 << 4 | 1 << 10 | 1 << 14;
    uint32_t r[4];
    signature("max", false, false, 0);
    signature("max", true, kvm_available(NULL), 0);
    signature("max,kvm=off", true, false, 0);
    signature("qemu64,kvm=on", false, true, 0x1003a6b);
    signature("max,+kvmclock", false, true, 8);
    signature("max,kvm=on,-kvm-pv-eoi,kvm-poll-control=off", false, true, 0x1002a2b);
    signature("max,kvm=on,-kvmclock", false, true, 0x3a62); /* and what needs it */
    CpuidTable t;
    GError *err = NULL;
    ck_assert(!cpuid_build(&t, "max,+kvm-asyncpf", NULL, 1, 2000000, &err));
    ck_assert_msg(strstr(err->message, "kvm-asyncpf") != NULL, "%s", err->message);
    g_clear_error(&err);
    ck_assert(cpuid_build(&t, "max,kvm=on", NULL, 1, 2000000, &err));
    cpuid_execute(&t, 0, 0, 1, 0, 0x40000001, 0, r);
    ck_assert_uint_eq(r[0] & asyncpf, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pv");
    const SuiteTest tests[] = {
        {"clock_through_switches", clock_through_switches, 3},
        {"clock_through_stops", clock_through_stops, 2},
        {"clock_through_leaving", clock_through_leaving, 2},
        {"clock_and_tsc", clock_and_tsc, 1},
        {"wall_clock", wall_clock, 4},
        {"steal_time", steal_time, 1},
        {"hypercalls", hypercalls, 1},
        {"hypercalls_in_both", hypercalls_in_both, 2},
        {"eoi_in_memory", eoi_in_memory, 2},
        {"offers", offers, 1},
    };
    suite_add_tests(s, tests, ARRAY_LEN(tests), 200);
    return run_suite(s);
}
