/*
 * Rescue, over two scripted engines: "hard" plays a list of exits and then waits for a kick, "soft"
 * counts the single instructions it is asked for. Stays are ended by a GLib timer, so whoever waits
 * here turns the main loop.
 */
#include <check.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "switch/loop_priv.h"
#include "switch/rescue.h"
#include "run_suite.h"

enum { SCRIPT = 64 };

static struct {
    sem_t kicked;
    Exit script[SCRIPT]; /* what "hard" returns, one a run */
    uint64_t rip[SCRIPT];
    unsigned n;
    _Atomic unsigned at, singles, longs, hard_waits;
    _Atomic unsigned noted; /* of singles, less longs: with stores noted */
    _Atomic bool fail_import, soft_shuts_down;
    CpuState own; /* of "hard" */
} fake;

static Vcpu *cpu;
static VmCommon vm;
static Vcpu *vcpus[1];
static _Atomic unsigned shutdowns, errors;

static void nap(void)
{
    g_main_context_iteration(NULL, FALSE);
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* A lost wake-up ends here instead of hanging. */
#define WAIT_FOR(cond)                                                              \
    do {                                                                            \
        for (unsigned ms_ = 0; !(cond); ms_++) {                                    \
            ck_assert_msg(ms_ < 40000, "line %d: never came: %s", __LINE__, #cond); \
            nap();                                                                  \
        }                                                                           \
    } while (0)

static Exit until_kicked(Vcpu *v)
{
    while (!(atomic_load(&v->request) & VREQ_EXIT_MASK))
        sem_wait(&fake.kicked);
    return (Exit){.kind = EXIT_KICK};
}

static Exit hard_run(Vcpu *v, const RunLimit *limit)
{
    ck_assert_uint_eq(limit->max_insns, 0);
    if (atomic_load(&v->request) & VREQ_EXIT_MASK)
        return (Exit){.kind = EXIT_KICK};
    if (fake.at < fake.n) {
        fake.own.rip = fake.rip[fake.at];
        return fake.script[fake.at++];
    }
    fake.hard_waits++;
    return until_kicked(v);
}

static Exit soft_run(Vcpu *v, const RunLimit *limit)
{
    if (atomic_load(&v->request) & VREQ_EXIT_MASK)
        return (Exit){.kind = EXIT_KICK};
    if (limit->max_insns == 1) {
        fake.singles++;
        fake.noted += v->writes != NULL;
        v->st.rip += 2;
        return (Exit){.kind = fake.soft_shuts_down ? EXIT_SHUTDOWN : EXIT_LIMIT};
    }
    fake.noted -= v->writes != NULL;
    fake.longs++;
    return until_kicked(v);
}

static void fake_kick(Vcpu *v)
{
    sem_post(&fake.kicked);
}

static bool fake_drain(Vcpu *v, GError **err)
{
    return true;
}

static bool hard_export(Vcpu *v, unsigned groups, GError **err)
{
    v->st = fake.own;
    return true;
}

static bool hard_import(Vcpu *v, unsigned groups, GError **err)
{
    if (fake.fail_import) {
        g_set_error(err, g_quark_from_static_string("test"), 0, "hard does not hold this mode");
        return false;
    }
    fake.own = v->st;
    return true;
}

static bool soft_state(Vcpu *v, unsigned groups, GError **err)
{
    return true;
}

static const Engine soft = {.name = "soft",
                            .id = ENGINE_INTERP,
                            .is_software = true,
                            .run = soft_run,
                            .kick = fake_kick,
                            .drain = fake_drain,
                            .export_state = soft_state,
                            .import_state = soft_state};
static const Engine hard = {.name = "hard",
                            .id = ENGINE_KVM,
                            .run = hard_run,
                            .kick = fake_kick,
                            .drain = fake_drain,
                            .export_state = hard_export,
                            .import_state = hard_import};

static void on_shutdown(Vcpu *v)
{
    shutdowns++;
}

static void on_error(Vcpu *v, const Exit *e)
{
    errors++;
}

static const LoopHooks hooks = {.shutdown = on_shutdown, .error = on_error};
static RescuePolicy policy;

static void setup(void)
{
    memset(&fake, 0, sizeof(fake));
    sem_init(&fake.kicked, 0, 0);
    shutdowns = errors = 0;
    cpu = vcpu_alloc(NULL);
    vcpus[0] = cpu;
    vm = (VmCommon){.vcpu = vcpus, .n_vcpus = 1};
    cpu->vm = &vm;
    cpu->engine = &hard;
    cpu_state_reset(&cpu->st, 0x663, true);
    ck_assert(vcpu_loop_start(cpu, &hooks, NULL));
    policy = (RescuePolicy){.engine = &soft,
                            .most = 1000,
                            .window_ns = 3600 * NS_PER_S,
                            .stay_ns = 3600 * NS_PER_S,
                            .stay_max_ns = 7200 * NS_PER_S};
}

static void teardown(void)
{
    vcpu_loop_join(cpu);
    sem_destroy(&fake.kicked);
    vcpu_release(cpu);
}

static void add(Exit e, uint64_t rip)
{
    fake.rip[fake.n] = rip;
    fake.script[fake.n++] = e;
}

static void add_insn(uint64_t rip)
{
    add((Exit){.kind = EXIT_INTERNAL_ERROR, .insn = {0xd9, 0xe8}, .insn_len = 2, .msg = "fld1"},
        rip);
}

static void go(void)
{
    vcpu_rescue_set(cpu, &policy);
    vcpu_resume(cpu);
}

static void copy(Vcpu *v, void *out)
{
    RescuePolicy p;
    *(RescueStats *)out = *vcpu_rescue_stats(v, &p);
}

static RescueStats stats(void)
{
    RescueStats s;
    vcpu_run_on(cpu, copy, &s);
    return s;
}

START_TEST(one_instruction_and_back)
{
    add_insn(0x1000);
    add_insn(0x2000);
    go();
    WAIT_FOR(fake.hard_waits);
    RescueStats s = stats();
    ck_assert_uint_eq(s.insns, 2);
    ck_assert_uint_eq(fake.singles, 2);
    ck_assert_uint_eq(fake.noted, 2);
    ck_assert_ptr_null(cpu->writes);
    ck_assert_uint_eq(fake.longs + errors + s.stays, 0);
    ck_assert_ptr_eq(cpu->engine, &hard);
    ck_assert_uint_eq(fake.own.rip, 0x2002); /* what the software engine made of it went back */
    ck_assert(!s.away);
}
END_TEST

START_TEST(without_a_policy_errors_stop)
{
    add_insn(0x1000);
    policy = (RescuePolicy){.engine = NULL};
    go();
    WAIT_FOR(errors);
    ck_assert_ptr_eq(cpu->engine, &hard);
    ck_assert_uint_eq(fake.singles, 0);
}
END_TEST

START_TEST(too_many_and_it_stays)
{
    for (unsigned i = 0; i < 4; i++)
        add_insn(0x1000);
    policy.most = 4;
    go();
    WAIT_FOR(fake.longs);
    RescueStats s = stats();
    ck_assert_uint_eq(s.insns, 4);
    ck_assert_uint_eq(s.stays, 1);
    ck_assert_uint_eq(fake.singles, 3);
    ck_assert_uint_eq(fake.noted, 3);
    ck_assert(s.away && strstr(s.why, "4 instructions"));
    ck_assert_ptr_eq(cpu->engine, &soft);
}
END_TEST

START_TEST(a_stay_ends_by_itself_and_doubles)
{
    for (unsigned i = 0; i < 8; i++)
        add_insn(0x1000);
    policy.most = 4;
    policy.stay_ns = 200 * NS_PER_MS;
    go();
    WAIT_FOR(fake.hard_waits);
    RescueStats s = stats();
    ck_assert_uint_eq(s.stays, 2);
    ck_assert_uint_ge(fake.longs, 2);
    ck_assert_ptr_eq(cpu->engine, &hard);
    /* The second began right behind the first: twice as long. */
    ck_assert_uint_eq(s.stay_ns, 600 * NS_PER_MS);
}
END_TEST

START_TEST(stays_have_a_longest_and_are_said_once)
{
    FILE *said = tmpfile();
    int terminal = dup(STDERR_FILENO);
    char text[4096];
    for (unsigned i = 0; i < 12; i++)
        add_insn(0x1000);
    policy.most = 4;
    policy.stay_ns = 200 * NS_PER_MS;
    policy.stay_max_ns = 300 * NS_PER_MS;
    fflush(stderr);
    dup2(fileno(said), STDERR_FILENO);
    go();
    WAIT_FOR(fake.hard_waits);
    dup2(terminal, STDERR_FILENO);
    close(terminal);
    RescueStats s = stats();
    ck_assert_uint_eq(s.stays, 3);
    ck_assert_uint_eq(s.stay_ns, (200 + 300 + 300) * NS_PER_MS);
    rewind(said);
    text[fread(text, 1, sizeof(text) - 1, said)] = 0;
    const char *first = strstr(text, "the guest goes on in soft");
    ck_assert_msg(first && !strstr(first + 1, "the guest goes on in soft"), "%s", text);
    fclose(said);
}
END_TEST

START_TEST(a_stay_long_after_another_is_short)
{
    for (unsigned i = 0; i < 4; i++)
        add_insn(0x1000);
    policy.most = 4;
    policy.stay_ns = 30 * NS_PER_MS;
    go();
    WAIT_FOR(fake.hard_waits);
    g_usleep(100000);
    vcpu_pause(cpu);
    for (unsigned i = 0; i < 4; i++)
        add_insn(0x1000);
    unsigned waited = fake.hard_waits;
    vcpu_resume(cpu);
    WAIT_FOR(fake.hard_waits > waited);
    ck_assert_uint_eq(stats().stays, 2);
    ck_assert_uint_eq(stats().stay_ns, 60 * NS_PER_MS);
}
END_TEST

static void to_hard(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_switch(v, &hard, SWITCH_USER, NULL));
}

static void to_soft(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_switch(v, &soft, SWITCH_USER, NULL));
}

START_TEST(a_switch_by_hand_ends_it)
{
    add((Exit){.kind = EXIT_FAIL_ENTRY, .msg = "refused"}, 0x1000);
    add((Exit){.kind = EXIT_FAIL_ENTRY, .msg = "refused"}, 0x1000);
    policy.stay_ns = policy.stay_max_ns = 30 * NS_PER_MS;
    go();
    WAIT_FOR(fake.longs);
    vcpu_run_on(cpu, to_soft, NULL); /* is there already, and wants to stay */
    for (unsigned i = 0; i < 1000; i++)
        nap();
    ck_assert_ptr_eq(cpu->engine, &soft);
    ck_assert(!stats().away);
    vcpu_run_on(cpu, to_hard, NULL);
    WAIT_FOR(stats().entries == 2); /* refused once more: away again */
}
END_TEST

static void break_cs(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.seg[CS].attr &= ~(uint32_t)SEG_P;
}

START_TEST(a_refused_entry_is_named)
{
    add((Exit){.kind = EXIT_FAIL_ENTRY, .code = 0x80000021, .msg = "KVM refused"}, 0x1000);
    policy.stay_ns = 3600 * NS_PER_S;
    cpu->st.seg[TR].attr &= ~(uint32_t)SEG_TSS_BUSY;
    fake.own = cpu->st;
    cpu->where = ST_IN_ENGINE;
    go();
    WAIT_FOR(fake.longs);
    RescueStats s = stats();
    ck_assert_uint_eq(s.entries, 1);
    ck_assert_msg(strstr(s.why, "KVM refused") && strstr(s.why, "'tr-type'"), "%s", s.why);
    ck_assert_uint_eq(errors, 0);
}
END_TEST

START_TEST(a_bad_state_goes_on_in_software)
{
    go();
    WAIT_FOR(fake.hard_waits);
    vcpu_run_on(cpu, break_cs, NULL);
    WAIT_FOR(fake.longs);
    RescueStats s = stats();
    ck_assert_uint_eq(s.entries, 1);
    ck_assert_msg(strstr(s.why, "'cs-present'"), "%s", s.why);
    ck_assert_uint_eq(errors, 0);
}
END_TEST

START_TEST(an_error_of_another_kind)
{
    add((Exit){.kind = EXIT_INTERNAL_ERROR, .code = 3, .msg = "suberror 3"}, 0x1000);
    go();
    WAIT_FOR(fake.longs);
    RescueStats s = stats();
    ck_assert_uint_eq(s.errors, 1);
    ck_assert_str_eq(s.why, "suberror 3");
}
END_TEST

START_TEST(a_shutdown_is_confirmed)
{
    add((Exit){.kind = EXIT_SHUTDOWN}, 0x1000);
    policy.confirm_shutdown = true;
    fake.own = cpu->st;
    fake.own.ev.exception.injected = true;
    fake.own.ev.exception.nr = 8;
    cpu->where = ST_IN_ENGINE;
    go();
    WAIT_FOR(fake.hard_waits);
    RescueStats s = stats();
    /* The instruction is done again, not what it had led to. */
    ck_assert(!fake.own.ev.exception.injected && !fake.own.ev.exception.pending);
    ck_assert_uint_eq(s.shutdowns, 1);
    ck_assert_uint_eq(shutdowns, 0);
    ck_assert_uint_eq(fake.own.rip, 0x1002);

    fake.soft_shuts_down = true;
    vcpu_pause(cpu);
    add((Exit){.kind = EXIT_SHUTDOWN}, 0x3000);
    vcpu_resume(cpu);
    WAIT_FOR(shutdowns);
    ck_assert_uint_eq(stats().shutdowns, 1);
}
END_TEST

START_TEST(a_shutdown_of_a_good_kvm_is_one)
{
    add((Exit){.kind = EXIT_SHUTDOWN}, 0x1000);
    go();
    WAIT_FOR(shutdowns);
    ck_assert_uint_eq(fake.singles, 0);
}
END_TEST

START_TEST(no_way_back)
{
    add_insn(0x1000);
    policy.stay_ns = 20 * NS_PER_MS;
    fake.own = cpu->st;
    cpu->where = ST_IN_ENGINE;
    fake.fail_import = true;
    go();
    WAIT_FOR(stats().not_back >= 3);
    RescueStats s = stats();
    ck_assert_msg(strstr(s.why, "does not hold this mode"), "%s", s.why);
    ck_assert(strncmp(s.why, "cpu ", 4) != 0);
    fake.fail_import = false;
    WAIT_FOR(fake.hard_waits);
    ck_assert_ptr_eq(cpu->engine, &hard);
}
END_TEST

static _Atomic unsigned asked;
static _Atomic bool asked_held;

static void all_away(Vcpu *v, uint64_t ns, bool held)
{
    ck_assert_uint_eq(ns, policy.stay_ns);
    asked_held = held;
    asked++;
}

/* With the interrupt controllers in KVM a vCPU leaves it for an instruction, or with all others. */
START_TEST(not_alone_where_kvm_has_the_controllers)
{
    vm.irqchip = IRQCHIP_ON;
    policy.all_away = all_away;
    add_insn(0x1000);
    add((Exit){.kind = EXIT_FAIL_ENTRY, .msg = "refused"}, 0x2000);
    asked = 0;
    go();
    WAIT_FOR(asked);
    ck_assert(asked_held);
    ck_assert_uint_eq(fake.singles, 1);
    ck_assert_uint_eq(fake.longs, 0);
    ck_assert(vcpu_is_paused(cpu)); /* until the others have come */
    vcpu_run_on(cpu, to_soft, NULL);
    vcpu_resume(cpu);
    WAIT_FOR(fake.longs);
    ck_assert(!stats().away); /* whoever moved all brings all home */
}
END_TEST

START_TEST(the_hottest_stay_in_the_list)
{
    for (unsigned i = 0; i < 30; i++) {
        add_insn(0x5000);
        add_insn(0x1000 + i * 16);
    }
    go();
    WAIT_FOR(fake.hard_waits);
    RescueStats s = stats();
    uint64_t hot = 0, sum = 0;
    for (unsigned i = 0; i < RESCUE_HOT; i++) {
        sum += s.hot[i].count;
        if (s.hot[i].rip == 0x5000)
            hot = s.hot[i].count;
        ck_assert_uint_eq(s.hot[i].bits, 16);
    }
    ck_assert_uint_eq(hot, 30);
    ck_assert_uint_eq(sum, 60); /* nothing is lost */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rescue");
    TCase *t = tcase_create("rescue");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, one_instruction_and_back);
    tcase_add_test(t, without_a_policy_errors_stop);
    tcase_add_test(t, too_many_and_it_stays);
    tcase_add_test(t, a_stay_ends_by_itself_and_doubles);
    tcase_add_test(t, stays_have_a_longest_and_are_said_once);
    tcase_add_test(t, a_stay_long_after_another_is_short);
    tcase_add_test(t, a_switch_by_hand_ends_it);
    tcase_add_test(t, a_refused_entry_is_named);
    tcase_add_test(t, a_bad_state_goes_on_in_software);
    tcase_add_test(t, an_error_of_another_kind);
    tcase_add_test(t, a_shutdown_is_confirmed);
    tcase_add_test(t, a_shutdown_of_a_good_kvm_is_one);
    tcase_add_test(t, no_way_back);
    tcase_add_test(t, not_alone_where_kvm_has_the_controllers);
    tcase_add_test(t, the_hottest_stay_in_the_list);
    suite_add_tcase(s, t);
    return run_suite(s);
}
