/*
 * The vCPU loop and the switch, over two scripted engines: "soft" works in Vcpu.st as the
 * interpreter does, "hard" keeps a state of its own as KVM does. Meant to be run under TSan too.
 */
#include <check.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "switch/switch.h"
#include "switch/vcpu_loop.h"
#include "vmstate/state.h"
#include "run_suite.h"

/* What the fakes are told and what they saw. One vCPU's thread and the test's share it: atomics. */
typedef struct Fake {
    sem_t kicked;
    _Atomic bool hlt, shutdown, internal_error, bad_kick; /* the next run() does this */
    _Atomic unsigned runs, nmis, intrs, kicks, drains, exports, imports, enters;
    _Atomic bool fail_drain, fail_export, fail_import, lossy, drops_vm, drops_debugctl;
    _Atomic bool in_run;
    CpuState own; /* of "hard" */
} Fake;

static Fake fake;
static Vcpu *cpu;
static VmCommon vm;
static Vcpu *vcpus[1];
static _Atomic unsigned shutdowns, errors;
static char error_text[160];

/* Waits for an _Atomic to reach a value; a lost wake-up ends here instead of hanging. Naps are of
 * 0.1 ms and more: a busy host may leave a thread out for seconds. */
#define NAPS_MOST 200000u
#define WAIT_FOR(cond)                                                                 \
    do {                                                                               \
        for (unsigned n_ = 0; !(cond); n_++) {                                         \
            ck_assert_msg(n_ < NAPS_MOST, "line %d: never came: %s", __LINE__, #cond); \
            nap();                                                                     \
        }                                                                              \
    } while (0)

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static Exit fake_run(Vcpu *v, const RunLimit *limit)
{
    Exit e = {.kind = EXIT_KICK};
    ck_assert(vcpu_on_own_thread(v) && !fake.in_run);
    fake.in_run = true;
    fake.runs++;
    CpuState *s = v->engine->is_software ? &v->st : &fake.own;
    for (;;) {
        uint32_t req = atomic_load(&v->request);
        if (req & VREQ_EXIT_MASK)
            break;
        if (req & VREQ_NMI) {
            vcpu_request_clear(v, VREQ_NMI);
            fake.nmis++;
        }
        if (req & VREQ_INTR && s->rflags & FL_IF) {
            vcpu_request_clear(v, VREQ_INTR);
            fake.intrs++;
        }
        if (atomic_exchange(&fake.hlt, false)) {
            v->st.run_state = RUN_HALTED;
            e.kind = EXIT_HLT;
            break;
        }
        if (atomic_exchange(&fake.shutdown, false)) {
            e.kind = EXIT_SHUTDOWN;
            break;
        }
        if (atomic_exchange(&fake.internal_error, false)) {
            e.kind = EXIT_INTERNAL_ERROR;
            g_strlcpy(e.msg, "cannot execute 0f 0b", sizeof(e.msg));
            break;
        }
        sem_wait(&fake.kicked);
    }
    fake.in_run = false;
    return e;
}

static void fake_kick(Vcpu *v)
{
    fake.kicks++;
    sem_post(&fake.kicked);
}

static bool failing(_Atomic bool *flag, const char *what, GError **err)
{
    if (!*flag)
        return false;
    g_set_error(err, g_quark_from_static_string("test"), 0, "%s fails", what);
    return true;
}

static bool fake_drain(Vcpu *v, GError **err)
{
    fake.drains++;
    return !failing(&fake.fail_drain, "drain", err);
}

static bool fake_export(Vcpu *v, unsigned groups, GError **err)
{
    fake.exports++;
    if (failing(&fake.fail_export, "export", err)) {
        v->st.gpr[RBX] = 0xbad; /* half done */
        return false;
    }
    if (v->engine->is_software)
        return true;
    enum RunState r = v->st.run_state;
    groups &= GROUPS_ALL;
    if (groups == GROUPS_ALL)
        v->st = fake.own;
    v->st.rflags = fake.own.rflags;
    v->st.ev = fake.own.ev;
    v->st.run_state = groups == GROUPS_ALL ? RUN_RUNNING : r; /* KVM without an APIC: runnable */
    return true;
}

static bool hard_export(Vcpu *v, unsigned groups, GError **err)
{
    if (fake.fail_export || v->engine->id == ENGINE_KVM)
        return fake_export(v, groups, err);
    /* Called by switch_verify before the commit: v->engine is still the other one. */
    fake.exports++;
    v->st = fake.own;
    v->st.run_state = RUN_RUNNING; /* it does not know better */
    return true;
}

static bool fake_import(Vcpu *v, unsigned groups, GError **err)
{
    fake.imports++;
    return !failing(&fake.fail_import, "import", err);
}

static bool hard_import(Vcpu *v, unsigned groups, GError **err)
{
    if (!fake_import(v, groups, err))
        return false;
    fake.own = v->st;
    if (fake.lossy)
        fake.own.seg[TR].attr ^= SEG_TSS_BUSY;
    if (fake.drops_debugctl) {
        fake.own.msr.debugctl = 0;
        fake.own.seg[GS].attr |= SEG_ACCESSED; /* as VMX's KVM does, usable or not */
    }
    if (fake.drops_vm)
        fake.own.rflags &= ~(uint64_t)FL_VM;
    return true;
}

static void fake_enter(Vcpu *v)
{
    fake.enters++;
}

static const Engine soft = {.name = "soft",
                            .id = ENGINE_INTERP,
                            .is_software = true,
                            .run = fake_run,
                            .kick = fake_kick,
                            .drain = fake_drain,
                            .export_state = fake_export,
                            .import_state = fake_import,
                            .enter = fake_enter};
static const Engine hard = {.name = "hard",
                            .id = ENGINE_KVM,
                            .run = fake_run,
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
    g_strlcpy(error_text, e->msg, sizeof(error_text));
    errors++;
}

static const LoopHooks hooks = {.shutdown = on_shutdown, .error = on_error};

/* A vCPU in `e`, paused, with a valid 32-bit state. id 0 is the boot processor. */
static void begin(const Engine *e, int id)
{
    memset(&fake, 0, sizeof(fake));
    sem_init(&fake.kicked, 0, 0);
    shutdowns = errors = 0;
    cpu = aligned_alloc(64, sizeof(Vcpu));
    memset(cpu, 0, sizeof(*cpu));
    vcpus[0] = cpu;
    vm = (VmCommon){.vcpu = vcpus, .n_vcpus = 1};
    cpu->id = id;
    cpu->vm = &vm;
    cpu->engine = e;
    cpu_state_reset(&cpu->st, 0x663, true);
    ck_assert(vcpu_loop_start(cpu, &hooks, NULL));
}

static void end(void)
{
    vcpu_loop_join(cpu);
    sem_destroy(&fake.kicked);
    free(cpu);
}

/* ---- pausing ---- */

START_TEST(starts_paused_and_pauses_nest)
{
    begin(&soft, 0);
    ck_assert(vcpu_is_paused(cpu));
    nap();
    ck_assert_uint_eq(fake.runs, 0);
    vcpu_pause(cpu);
    vcpu_resume(cpu);
    nap();
    ck_assert(vcpu_is_paused(cpu) && !fake.runs);
    vcpu_resume(cpu);
    ck_assert(!vcpu_is_paused(cpu));
    WAIT_FOR(fake.in_run);

    for (unsigned i = 0; i < 1000; i++) {
        vcpus_pause(&vm);
        ck_assert(!fake.in_run);
        unsigned runs = fake.runs;
        vcpu_pause(cpu);
        vcpu_resume(cpu);
        ck_assert_uint_eq(fake.runs, runs);
        vcpus_resume(&vm);
    }
    end();
}
END_TEST

static void pause_self(Vcpu *v, void *opaque)
{
    vcpu_pause(v); /* must not wait for itself */
}

START_TEST(a_vcpu_can_pause_itself)
{
    begin(&soft, 0);
    vcpu_resume(cpu);
    vcpu_run_on(cpu, pause_self, NULL);
    ck_assert(vcpu_is_paused(cpu));
    vcpu_pause(cpu);
    vcpu_resume(cpu);
    unsigned runs = fake.runs;
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    end();
}
END_TEST

/* ---- work ---- */

static unsigned sum; /* plain on purpose: only the vCPU's thread touches it, and TSan watches */

static void add(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_on_own_thread(v) && !fake.in_run);
    sum += *(unsigned *)opaque;
}

static void *adder(void *opaque)
{
    for (unsigned i = 0; i < 2000; i++) {
        unsigned one = 1;
        vcpu_run_on(cpu, add, &one);
        ck_assert_uint_eq(one, 1);
    }
    return NULL;
}

static void *pauser(void *opaque)
{
    for (unsigned i = 0; i < 2000; i++) {
        vcpu_pause(cpu);
        ck_assert(!fake.in_run);
        vcpu_resume(cpu);
    }
    return NULL;
}

START_TEST(work_from_many_threads)
{
    pthread_t t[4];
    static unsigned hundred = 100;
    begin(&soft, 0);
    sum = 0;
    vcpu_resume(cpu);
    for (unsigned i = 0; i < 4; i++)
        ck_assert(!pthread_create(&t[i], NULL, i < 3 ? adder : pauser, NULL));
    for (unsigned i = 0; i < 50; i++)
        vcpu_queue(cpu, add, &hundred);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    unsigned zero = 0;
    vcpu_run_on(cpu, add, &zero); /* behind all that was queued */
    ck_assert_uint_eq(sum, 3 * 2000 + 50 * 100);
    end();
}
END_TEST

static _Atomic unsigned requeues;
static _Atomic bool stop_requeue;
static void requeue(Vcpu *v, void *opaque)
{
    requeues++;
    if (!stop_requeue)
        vcpu_queue(v, requeue, NULL);
}

START_TEST(work_that_queues_itself_still_lets_pause)
{
    begin(&soft, 0);
    vcpu_resume(cpu);
    requeues = 0;
    stop_requeue = false;
    vcpu_queue(cpu, requeue, NULL);
    WAIT_FOR(requeues > 10);
    for (unsigned i = 0; i < 1000; i++) {
        unsigned zero = 0;
        vcpu_pause(cpu);
        unsigned n = requeues;
        vcpu_run_on(cpu, add, &zero);
        ck_assert_uint_eq(requeues, n); /* parked means parked */
        vcpu_resume(cpu);
        WAIT_FOR(requeues != n);
    }
    stop_requeue = true;
    WAIT_FOR(fake.in_run);
    stop_requeue = false;
    vcpu_queue(cpu, requeue, NULL);
    end(); /* and what is still queued then is dropped, not leaked */
}
END_TEST

/* ---- kicks, halting ---- */

/* Each NMI must be seen, wherever the vCPU is: running, about to halt, halted, just woken. */
START_TEST(no_kick_is_lost)
{
    begin(_i ? &hard : &soft, 0);
    vcpu_resume(cpu);
    for (unsigned i = 1; i <= 10000; i++) {
        if (i % 3)
            fake.hlt = true;
        if (i % 3 == 1)
            sem_post(&fake.kicked); /* sends it to HLT while the NMI is on its way */
        vcpu_kick(cpu, VREQ_NMI);
        for (unsigned spin = 0; fake.nmis != i; spin++) {
            if (spin < 2000)
                continue;
            ck_assert_msg(spin < 2000 + NAPS_MOST, "round %u: NMI lost", i);
            nap();
        }
    }
    end();
}
END_TEST

START_TEST(halt_wakes_for_what_it_should)
{
    begin(_i ? &hard : &soft, 0);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    fake.hlt = true;
    sem_post(&fake.kicked);
    WAIT_FOR(!fake.in_run);
    unsigned runs = fake.runs;

    vcpu_kick(cpu, VREQ_INTR); /* IF is clear */
    vcpu_kick(cpu, VREQ_TLB_FLUSH);
    unsigned zero = 0;
    vcpu_run_on(cpu, add, &zero); /* work is done while halted, and does not wake it */
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    vcpu_kick(cpu, VREQ_NMI);
    WAIT_FOR(fake.in_run && fake.nmis == 1);
    ck_assert_uint_eq(fake.intrs, 0);
    end();
}
END_TEST

static void set_if(Vcpu *v, void *on)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.rflags = on ? FL_FIXED | FL_IF : FL_FIXED;
}

static void mask_nmi(Vcpu *v, void *on)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.ev.nmi.masked = on != NULL;
}

static void get_run_state(Vcpu *v, void *out)
{
    ck_assert(vcpu_sync_state(v, NULL));
    *(enum RunState *)out = v->st.run_state;
}

START_TEST(halt_respects_if_and_nmi_mask)
{
    enum RunState r;
    begin(_i ? &hard : &soft, 0);
    vcpu_run_on(cpu, mask_nmi, cpu);
    vcpu_resume(cpu);
    fake.hlt = true;
    sem_post(&fake.kicked);
    WAIT_FOR(fake.runs && !fake.in_run);
    unsigned runs = fake.runs;
    vcpu_kick(cpu, VREQ_NMI | VREQ_INTR);
    vcpu_run_on(cpu, get_run_state, &r);
    ck_assert_uint_eq(r, RUN_HALTED); /* although "hard" calls every vCPU runnable */
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    /* An interrupt that was waiting all along ends the halt as soon as IF allows it. */
    vcpu_run_on(cpu, set_if, cpu);
    WAIT_FOR(fake.intrs == 1);
    vcpu_run_on(cpu, get_run_state, &r);
    ck_assert_uint_eq(r, RUN_RUNNING);
    end();
}
END_TEST

static void inject(Vcpu *v, void *which)
{
    Events *e = &v->st.ev;
    bool *flag[] = {&e->exception.pending, &e->exception.injected, &e->interrupt.injected,
                    &e->nmi.injected};
    ck_assert(vcpu_sync_state(v, NULL));
    e->nmi.masked = true; /* as it is once an NMI is under way */
    *flag[*(const int *)which] = true;
    if (e->interrupt.injected)
        v->st.rflags |= FL_IF;
}

/* What has begun to be delivered, from a savestate or KVM, ends a halt whatever IF and masks say.
 */
START_TEST(halt_ends_with_an_event_under_way)
{
    begin(_i & 1 ? &hard : &soft, 0);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    fake.hlt = true;
    sem_post(&fake.kicked);
    WAIT_FOR(!fake.in_run);
    int which = _i / 2;
    vcpu_run_on(cpu, inject, &which);
    WAIT_FOR(fake.in_run);
    end();
}
END_TEST

/* Interrupts racing with HLT: IF is set, so each must be taken. */
START_TEST(interrupt_and_hlt_race)
{
    begin(&hard, 0);
    vcpu_run_on(cpu, set_if, cpu);
    vcpu_resume(cpu);
    for (unsigned i = 1; i <= 5000; i++) {
        fake.hlt = true;
        sem_post(&fake.kicked);
        vcpu_kick(cpu, VREQ_INTR);
        WAIT_FOR(fake.intrs == i);
    }
    end();
}
END_TEST

/* ---- INIT, SIPI ---- */

static void get_state(Vcpu *v, void *out)
{
    ck_assert(vcpu_sync_state(v, NULL));
    *(CpuState *)out = v->st;
}

START_TEST(init_and_sipi)
{
    static CpuState s;
    begin(_i ? &hard : &soft, 1);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    vcpu_kick(cpu, VREQ_INIT);
    for (s.run_state = RUN_RUNNING; s.run_state != RUN_WAIT_SIPI;)
        vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.rip, 0xfff0);
    unsigned runs = fake.runs;
    vcpu_kick(cpu, VREQ_NMI | VREQ_INTR);
    nap();
    ck_assert_uint_eq(fake.runs, runs); /* nothing but SIPI */
    vcpu_request_clear(cpu, VREQ_NMI | VREQ_INTR);

    atomic_store(&cpu->sipi_vector, 0x9f);
    vcpu_kick(cpu, VREQ_SIPI);
    WAIT_FOR(fake.in_run);
    vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.run_state, RUN_RUNNING);
    ck_assert_uint_eq(s.seg[CS].base, 0x9f000);
    ck_assert_uint_eq(s.seg[CS].selector, 0x9f00);
    ck_assert_uint_eq(s.rip, 0);

    atomic_store(&cpu->sipi_vector, 0x11);
    vcpu_kick(cpu, VREQ_SIPI); /* running: not heard */
    WAIT_FOR(!(atomic_load(&cpu->request) & VREQ_SIPI));
    vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.seg[CS].base, 0x9f000);

    /* Both at once, as a fast sender leaves them: INIT first. */
    vcpu_kick(cpu, VREQ_INIT | VREQ_SIPI);
    WAIT_FOR(!(atomic_load(&cpu->request) & (VREQ_SIPI | VREQ_INIT)));
    vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.seg[CS].base, 0x11000);
    end();
}
END_TEST

START_TEST(init_restarts_the_boot_processor)
{
    static CpuState s;
    begin(&soft, 0);
    vcpu_resume(cpu);
    fake.hlt = true;
    sem_post(&fake.kicked);
    WAIT_FOR(fake.runs && !fake.in_run);
    vcpu_kick(cpu, VREQ_INIT);
    WAIT_FOR(fake.in_run);
    vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.run_state, RUN_RUNNING);
    ck_assert_uint_eq(s.seg[CS].base, 0xffff0000);
    end();
}
END_TEST

/* ---- exits ---- */

static void reset_work(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    cpu_state_reset(&v->st, 0, true);
}

START_TEST(triple_fault_waits_for_reset)
{
    begin(&hard, 0);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    fake.shutdown = true;
    sem_post(&fake.kicked);
    WAIT_FOR(shutdowns == 1);
    unsigned runs = fake.runs;
    vcpu_kick(cpu, VREQ_INTR | VREQ_NMI);
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    vcpu_pause(cpu);
    vcpu_run_on(cpu, reset_work, NULL);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    ck_assert_uint_eq(shutdowns, 1);
    end();
}
END_TEST

START_TEST(error_stops_until_resumed)
{
    begin(&soft, 0);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    fake.internal_error = true;
    sem_post(&fake.kicked);
    WAIT_FOR(errors == 1);
    ck_assert_str_eq(error_text, "cannot execute 0f 0b");
    ck_assert(vcpu_is_paused(cpu));
    unsigned runs = fake.runs;
    vcpu_kick(cpu, VREQ_NMI);
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    vcpu_pause(cpu); /* "stop", then "cont" */
    vcpu_resume(cpu);
    WAIT_FOR(fake.nmis == 1);
    ck_assert(!vcpu_is_paused(cpu));
    end();
}
END_TEST

static void break_cs(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.seg[CS].attr &= ~(uint32_t)SEG_P;
}

/* A debugger's write that no processor would enter stops the vCPU with the check's name. */
START_TEST(bad_state_does_not_reach_the_hardware)
{
    begin(&hard, 0);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    unsigned imports = fake.imports;
    vcpu_run_on(cpu, break_cs, NULL);
    WAIT_FOR(errors == 1);
    ck_assert_msg(strstr(error_text, "'cs-present'") != NULL, "%s", error_text);
    ck_assert_uint_eq(fake.imports, imports);
    end();
}
END_TEST

/* ---- the switch ---- */

typedef struct SwitchCall {
    const Engine *to;
    bool forced, ok;
    GError *err;
} SwitchCall;

static void switch_work(Vcpu *v, void *opaque)
{
    SwitchCall *c = opaque;
    c->ok = (c->forced ? vcpu_switch_forced : vcpu_switch)(v, c->to, SWITCH_TEST, &c->err);
}

static void get_stats(Vcpu *v, void *out)
{
    *(SwitchStats *)out = *vcpu_switch_stats(v);
}

static void mark_state(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.gpr[RAX] = 0x1122334455667788ull;
    v->st.seg[TR].attr &= ~(uint32_t)SEG_TSS_BUSY; /* as an emulator may leave it */
}

START_TEST(switches_there_and_back)
{
    static CpuState s;
    static SwitchStats stats;
    begin(&soft, 0);
    switch_verify = _i;
    vcpu_run_on(cpu, mark_state, NULL);
    vcpu_resume(cpu);
    for (unsigned i = 0; i < 200; i++) {
        SwitchCall c = {.to = i % 2 ? &soft : &hard};
        vcpu_run_on(cpu, switch_work, &c);
        ck_assert_msg(c.ok, "%s", c.err ? c.err->message : "");
        vcpu_kick(cpu, VREQ_NMI);
        WAIT_FOR(fake.nmis == i + 1);
        vcpu_run_on(cpu, get_stats, &stats);
        ck_assert_uint_eq(stats.total.count, i + 1);
        if (i == 0) {
            unsigned n = 0;
            while (n < stats.n_notes && strcmp(stats.note[n].rule, "tr-busy"))
                n++;
            ck_assert_msg(n < stats.n_notes, "tr-busy is not among %u notes", stats.n_notes);
            ck_assert_str_eq(stats.note[n].before, "TR.attr 0x89");
            ck_assert_str_eq(stats.note[n].after, "TR.attr 0x8b");
        }
    }
    ck_assert_uint_eq(fake.enters, 100);
    ck_assert_uint_eq(stats.to[ENGINE_KVM], 100);
    ck_assert_uint_eq(stats.to[ENGINE_INTERP], 100);
    ck_assert_uint_eq(stats.failed, 0);
    ck_assert_uint_gt(stats.last_total_ns, 0);
    ck_assert_uint_ge(latency_percentile(&stats.total, 99), latency_percentile(&stats.total, 50));
    ck_assert_ptr_eq(cpu->engine, &soft);
    vcpu_run_on(cpu, get_state, &s);
    ck_assert_uint_eq(s.gpr[RAX], 0x1122334455667788ull);

    SwitchCall same = {.to = &soft};
    unsigned exports = fake.exports;
    vcpu_run_on(cpu, switch_work, &same);
    ck_assert(same.ok && fake.exports == exports); /* nothing done */
    same.forced = true;
    vcpu_run_on(cpu, switch_work, &same);
    ck_assert(same.ok && fake.enters == 101);
    switch_verify = false;
    end();
}
END_TEST

static void mark_odd(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.cr0 |= 1 << 6;
    v->st.msr.debugctl = 8;
    v->st.seg[GS].attr = SEG_UNUSABLE;
}

/* What every KVM takes is let in and noted; what the check says KVM changes is not asked back. */
START_TEST(noted_state_is_let_in)
{
    static SwitchStats stats;
    CheckInfo check;
    SwitchCall c = {.to = &hard};
    begin(&soft, 0);
    vcpu_run_on(cpu, mark_odd, NULL);
    fake.drops_debugctl = true;
    switch_verify = true;
    vcpu_run_on(cpu, switch_work, &c);
    switch_verify = false;
    ck_assert_msg(c.ok, "%s", c.err ? c.err->message : "");
    vcpu_run_on(cpu, get_stats, &stats);
    ck_assert_uint_eq(stats.n_noted, 2);
    ck_assert_uint_eq(stats.record[0].noted, 2);
    ck_assert(vmentry_check_info(stats.noted[0].check, &check));
    ck_assert_str_eq(check.name, "cr0-reserved");
    ck_assert_msg(strstr(stats.noted[0].why, "CR0 is 0x") != NULL, "%s", stats.noted[0].why);
    ck_assert(vmentry_check_info(stats.noted[1].check, &check));
    ck_assert_str_eq(check.name, "debugctl-reserved");
    ck_assert_ptr_eq(cpu->engine, &hard);

    c = (SwitchCall){.to = &soft}; /* on the way back nothing is checked */
    vcpu_run_on(cpu, switch_work, &c);
    vcpu_run_on(cpu, get_stats, &stats);
    ck_assert(c.ok && !stats.n_noted);
    end();
}
END_TEST

START_TEST(halted_vcpu_switches_and_still_sleeps)
{
    begin(&soft, 0);
    switch_verify = _i;
    vcpu_run_on(cpu, set_if, cpu);
    vcpu_resume(cpu);
    fake.hlt = true;
    sem_post(&fake.kicked);
    WAIT_FOR(fake.runs && !fake.in_run);
    unsigned runs = fake.runs;
    for (unsigned i = 0; i < 10; i++) {
        enum RunState r;
        SwitchCall c = {.to = i % 2 ? &soft : &hard};
        vcpu_run_on(cpu, switch_work, &c);
        ck_assert_msg(c.ok, "%s", c.err ? c.err->message : "");
        vcpu_run_on(cpu, get_run_state, &r);
        ck_assert_uint_eq(r, RUN_HALTED);
    }
    nap();
    ck_assert_uint_eq(fake.runs, runs);
    vcpu_kick(cpu, VREQ_INTR);
    WAIT_FOR(fake.intrs == 1);
    switch_verify = false;
    end();
}
END_TEST

/* Of a store to the line that happens meanwhile nobody would tell. */
START_TEST(what_mwait_watches_ends_on_the_way_into_kvm)
{
    SwitchCall to_hard = {.to = &hard}, again = {.to = &soft, .forced = true};
    begin(&soft, 0);
    cpu->monitor.armed = true;
    vcpu_run_on(cpu, switch_work, &again);
    ck_assert(again.ok && cpu->monitor.armed);
    vcpu_run_on(cpu, switch_work, &to_hard);
    ck_assert(to_hard.ok && !cpu->monitor.armed);
    end();
}
END_TEST

START_TEST(with_the_controllers_in_kvm_all_move)
{
    SwitchCall c = {.to = &hard};
    begin(&soft, 0);
    vm.irqchip = IRQCHIP_SPLIT;
    vcpu_run_on(cpu, switch_work, &c);
    ck_assert(!c.ok && strstr(c.err->message, "all vCPUs move together"));
    g_error_free(c.err);
    ck_assert_ptr_eq(cpu->engine, &soft);
    vm.moving = true; /* they do */
    c = (SwitchCall){.to = &hard};
    vcpu_run_on(cpu, switch_work, &c);
    ck_assert(c.ok);
    vm.moving = false;
    c = (SwitchCall){.to = &soft};
    vcpu_run_on(cpu, switch_work, &c);
    ck_assert(!c.ok && cpu->engine == &hard);
    g_error_free(c.err);
    vm.irqchip = IRQCHIP_OFF;
    end();
}
END_TEST

/* What an engine could not take in again it does not hold. */
START_TEST(an_engine_that_lost_its_own_state)
{
    SwitchCall into = {.to = &hard}, again = {.to = &hard, .forced = true};
    begin(&soft, 0);
    vcpu_run_on(cpu, switch_work, &into);
    ck_assert(into.ok);
    fake.fail_import = true;
    vcpu_run_on(cpu, switch_work, &again);
    ck_assert(!again.ok && strstr(again.err->message, "import fails"));
    g_error_free(again.err);
    ck_assert_int_eq(cpu->where, ST_CANONICAL);
    fake.fail_import = false;
    end();
}
END_TEST

static CpuidTable nothing; /* a CPU without a single feature */
static void want_feature(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.cr4 |= CR4_SMEP;
}
static void no_features(Vcpu *v, void *opaque)
{
    vm.cpuid = &nothing;
}
static void all_features(Vcpu *v, void *opaque)
{
    vm.cpuid = NULL;
}

static void enter_vm86(Vcpu *v, void *opaque)
{
    ck_assert(vcpu_sync_state(v, NULL));
    v->st.cr0 = CR0_ET | CR0_PE;
    v->st.rflags |= FL_VM;
    v->st.cpl = 3;
    for (unsigned i = ES; i <= GS; i++)
        v->st.seg[i] = (Segment){.limit = 0xffff, .attr = 0xf3};
}

static const struct {
    const Engine *from;
    _Atomic bool *flag; /* of fake, or NULL */
    VcpuWork *prepare;
    const char *expect, *step;
    bool verify, forced;
} failures[] = {
    {&soft, &fake.fail_drain, NULL, "drain fails", "drain:"},
    {&hard, &fake.fail_drain, NULL, "drain fails", "drain:"},
    {&hard, &fake.fail_export, NULL, "export fails", "export:"},
    {&soft, NULL, want_feature, "'smep'", "normalise:"},
    {&hard, NULL, want_feature, "'smep'", "normalise:"},
    {&soft, NULL, break_cs, "'cs-present'", "check:"},
    {&soft, &fake.fail_import, NULL, "import fails", "import:"},
    {&hard, &fake.fail_import, NULL, "import fails", "import:"},
    {&soft, &fake.drops_vm, enter_vm86, "hard does not hold virtual-8086 mode", "import:"},
    {&soft, &fake.lossy, NULL, "TR went in as", "import:", .verify = true},
    {&hard, &fake.lossy, NULL, "TR went in as", "import:", .verify = true, .forced = true},
};

START_TEST(failed_switch_leaves_the_vcpu_unharmed)
{
    static CpuState before, after;
    static SwitchStats stats;
    const Engine *from = failures[_i].from;
    begin(from, 0);
    if (failures[_i].prepare)
        vcpu_run_on(cpu, failures[_i].prepare, NULL);
    vcpu_resume(cpu);
    WAIT_FOR(fake.in_run);
    vcpu_run_on(cpu, get_state, &before);
    vcpu_kick(cpu, VREQ_NMI); /* and back in the engine, so that the switch has all to do */
    WAIT_FOR(fake.nmis == 1);

    vcpu_pause(cpu);
    if (strstr(failures[_i].step, "normalise"))
        vcpu_run_on(cpu, no_features, NULL);
    if (failures[_i].flag)
        *failures[_i].flag = true;
    switch_verify = failures[_i].verify;
    SwitchCall c = {.to = failures[_i].forced ? from
                          : from == &soft     ? &hard
                                              : &soft,
                    .forced = failures[_i].forced};
    vcpu_run_on(cpu, switch_work, &c);
    ck_assert_msg(!c.ok && c.err, "row %d: the switch succeeded", _i);
    ck_assert_msg(strstr(c.err->message, failures[_i].expect) != NULL, "%s", c.err->message);
    ck_assert_msg(strstr(c.err->message, failures[_i].step) != NULL, "%s", c.err->message);
    ck_assert_ptr_eq(cpu->engine, from);
    if (failures[_i].flag)
        *failures[_i].flag = false;
    switch_verify = false;
    vcpu_run_on(cpu, get_stats, &stats);
    ck_assert_uint_eq(stats.failed, 1);
    ck_assert_uint_eq(stats.to[ENGINE_KVM] + stats.to[ENGINE_INTERP], 0);
    ck_assert_str_eq(stats.last_error, c.err->message);
    ck_assert_uint_eq(fake.enters, 0);
    g_error_free(c.err);

    if (strstr(failures[_i].step, "normalise"))
        vcpu_run_on(cpu, all_features, NULL);
    vcpu_resume(cpu);
    vcpu_kick(cpu, VREQ_NMI); /* it runs on */
    WAIT_FOR(fake.nmis == 2);
    vcpu_run_on(cpu, get_state, &after);
    ck_assert_uint_eq(vmstate_diff(&before, &after, GROUPS_ALL, NULL, NULL), 0);
    ck_assert_uint_eq(errors, 0);
    end();
}
END_TEST

/* ---- latency ---- */

START_TEST(latency_histogram)
{
    static LatencyHist h;
    memset(&h, 0, sizeof(h));
    ck_assert_uint_eq(latency_percentile(&h, 50), 0);
    for (uint64_t ns = 1; ns <= 1000; ns++)
        latency_add(&h, ns * 1000);
    static const struct {
        double p;
        uint64_t exact;
    } row[] = {{0, 1000}, {1, 10000}, {50, 500000}, {90, 900000}, {99, 990000}, {100, 1000000}};
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t got = latency_percentile(&h, row[i].p);
        ck_assert_msg(got >= row[i].exact && got <= row[i].exact + row[i].exact / 16, "p%g is %u",
                      row[i].p, (unsigned)got);
    }
    ck_assert_uint_eq(latency_percentile(&h, 100), h.max_ns);
    ck_assert_uint_eq(h.sum_ns, 500500000);
    memset(&h, 0, sizeof(h));
    for (uint64_t ns = 1; ns; ns <<= 1)
        latency_add(&h, ns); /* beyond the last octave too */
    latency_add(&h, 0);
    ck_assert_uint_eq(h.count, 65);
    ck_assert_uint_eq(latency_percentile(&h, 0), 1);
    for (uint64_t ns = 1; ns < 16; ns++) {
        memset(&h, 0, sizeof(h));
        latency_add(&h, ns);
        latency_add(&h, 1 << 20);
        ck_assert_uint_eq(latency_percentile(&h, 50), ns); /* small ones are exact */
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vcpu_loop");
    TCase *c = tcase_create("loop");
    tcase_add_test(c, starts_paused_and_pauses_nest);
    tcase_add_test(c, a_vcpu_can_pause_itself);
    tcase_add_test(c, work_from_many_threads);
    tcase_add_test(c, work_that_queues_itself_still_lets_pause);
    tcase_add_loop_test(c, no_kick_is_lost, 0, 2);
    tcase_add_loop_test(c, halt_wakes_for_what_it_should, 0, 2);
    tcase_add_loop_test(c, halt_respects_if_and_nmi_mask, 0, 2);
    tcase_add_loop_test(c, halt_ends_with_an_event_under_way, 0, 8);
    tcase_add_test(c, interrupt_and_hlt_race);
    tcase_add_loop_test(c, init_and_sipi, 0, 2);
    tcase_add_test(c, init_restarts_the_boot_processor);
    tcase_add_test(c, triple_fault_waits_for_reset);
    tcase_add_test(c, error_stops_until_resumed);
    tcase_add_test(c, bad_state_does_not_reach_the_hardware);
    tcase_add_loop_test(c, switches_there_and_back, 0, 2);
    tcase_add_test(c, noted_state_is_let_in);
    tcase_add_loop_test(c, halted_vcpu_switches_and_still_sleeps, 0, 2);
    tcase_add_test(c, what_mwait_watches_ends_on_the_way_into_kvm);
    tcase_add_test(c, with_the_controllers_in_kvm_all_move);
    tcase_add_test(c, an_engine_that_lost_its_own_state);
    tcase_add_loop_test(c, failed_switch_leaves_the_vcpu_unharmed, 0, ARRAY_LEN(failures));
    tcase_add_test(c, latency_histogram);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return run_suite(s);
}
