/*
 * The vCPU loop. One thread a vCPU; at each boundary it decides, under the loop's lock, what comes
 * next, and leaves the lock to do it:
 *
 *     one work item -> quit? -> pause? (parked, asleep) -> INIT, SIPI, SMI -> halted? (asleep)
 *     -> engine->run()
 *
 * Why no wake-up is lost: whoever wants something first publishes it (a queue entry, pause_count,
 * or a bit in Vcpu.request) and then takes the lock to look where the thread is. Asleep: it is
 * signalled. In the engine: engine->kick(), which is never lost once run() is decided on. Anywhere
 * else: it has yet to take the lock, and looks at everything published when it does.
 */
#include "switch/vcpu_loop.h"

#include "base/log.h"
#include "cpu/mwait.h"
#include "cpu/pv.h"
#include "kvm/kvm.h"
#include "switch/loop_priv.h"

static _Thread_local Vcpu *current;

bool vcpu_on_own_thread(const Vcpu *v)
{
    return current == v;
}

/* Lock held: makes the thread look at what was just published. */
static void rouse(VcpuLoop *l)
{
    if (l->asleep)
        pthread_cond_signal(&l->wake);
    else if (l->in_engine)
        l->v->engine->kick(l->v);
}

void vcpu_kick(Vcpu *v, uint32_t request_bits)
{
    VcpuLoop *l = v->loop;
    vcpu_request(v, request_bits);
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    rouse(l);
    pthread_mutex_unlock(&l->lock);
}

/* ---- state ---- */

bool vcpu_sync_state(Vcpu *v, GError **err)
{
    if (v->where == ST_CANONICAL)
        return true;
    if (!switch_export(v, err))
        return false;
    /* No features are looked at: reading a state must not fail on what it holds. */
    RuleEnv env = {.tsc_offset_fixed = v->vm->tsc_offset_fixed};
    if (!v->engine->is_software && !rules_apply(&v->st, RULE_TO_SOFT, &env, NULL, err))
        return false;
    v->where = ST_CANONICAL;
    return true;
}

bool vcpu_bring_in(Vcpu *v, GError **err)
{
    if (v->where == ST_IN_ENGINE)
        return true;
    if (!v->engine->is_software &&
        (!switch_normalise(v, RULE_TO_KVM, NULL, err) || !switch_check(v, NULL, err)))
        return false;
    if (!switch_import(v, v->engine, err))
        return false;
    v->where = ST_IN_ENGINE;
    return true;
}

/* ---- stopping on errors ---- */

void loop_report(VcpuLoop *l, const Exit *e)
{
    pthread_mutex_lock(&l->lock);
    l->failed = true;
    pthread_mutex_unlock(&l->lock);
    if (l->hooks.error)
        l->hooks.error(l->v, e);
}

void loop_report_gerror(VcpuLoop *l, const char *what, GError *err)
{
    Exit e = {.kind = EXIT_FAIL_ENTRY};
    g_snprintf(e.msg, sizeof(e.msg), "%s%s", what, err->message);
    g_error_free(err);
    loop_report(l, &e);
}

/* Completes what is half done, once after each run(). */
static void drain(VcpuLoop *l)
{
    GError *err = NULL;
    l->drained = true;
    if (!l->v->engine->drain(l->v, &err))
        loop_report_gerror(l, "an unfinished instruction could not be completed: ", err);
}

/* ---- INIT, SIPI, SMI ---- */

static void take_init(VcpuLoop *l)
{
    Vcpu *v = l->v;
    GError *err = NULL;

    vcpu_request_clear(v, VREQ_INIT);
    if (l->hooks.init && !l->hooks.init(v))
        return;
    if (!vcpu_sync_state(v, &err)) {
        loop_report_gerror(l, "INIT: ", err);
        return;
    }
    bool bsp = v->id == 0;
    mwait_disarm(v);
    cpu_state_init(&v->st, v->vm->cpuid ? cpuid_signature(v->vm->cpuid) : 0, bsp);
    if (log_on(LOG_CPU_RESET))
        log_line("cpu %d: INIT, %s", v->id, bsp ? "restarts" : "waits for SIPI");
}

static void take_sipi(VcpuLoop *l)
{
    Vcpu *v = l->v;
    GError *err = NULL;

    vcpu_request_clear(v, VREQ_SIPI);
    if (v->st.run_state != RUN_WAIT_SIPI && v->st.run_state != RUN_INIT_RECEIVED)
        return; /* SDM vol. 3, 9.4.4: heard only while waiting for it */
    if (!vcpu_sync_state(v, &err)) {
        loop_report_gerror(l, "SIPI: ", err);
        return;
    }
    v->st.sipi_vector = atomic_load(&v->sipi_vector);
    cpu_state_sipi(&v->st, v->st.sipi_vector);
    if (log_on(LOG_CPU_RESET))
        log_line("cpu %d: SIPI, vector %#x", v->id, v->st.sipi_vector);
}

static void take_smi(VcpuLoop *l)
{
    static _Atomic bool said;
    vcpu_request_clear(l->v, VREQ_SMI);
    if (!atomic_exchange(&said, true))
        warn_user("cpu %d: an SMI was ignored: this machine has no system-management mode",
                  l->v->id);
}

static void take_events(VcpuLoop *l, uint32_t req)
{
    if (req & VREQ_SMI)
        take_smi(l);
    if (req & VREQ_INIT)
        take_init(l);
    if (req & VREQ_SIPI)
        take_sipi(l);
}

void vcpu_take_events(Vcpu *v)
{
    take_events(v->loop, atomic_load(&v->request));
}

/* Out of KVM, and not for just an instruction. */
static void tell_away(VcpuLoop *l)
{
    if (likely(l->away_told))
        return;
    if (l->v->engine->is_software && !rescue_limit(l)->max_insns)
        kvm_away(l->v);
    l->away_told = true;
}

/* ---- halted ---- */

/* Is there anything that ends the wait of a vCPU that does not run? INIT, SIPI and SMI are taken
 * before this is asked. */
static bool wakes(const Vcpu *v, uint32_t req)
{
    const Events *e = &v->st.ev;
    if (v->st.run_state != RUN_HALTED && v->st.run_state != RUN_MWAIT)
        return false;
    if (e->exception.pending || e->exception.injected || e->interrupt.injected || e->nmi.injected)
        return true;
    if ((req & VREQ_NMI || e->nmi.pending) && !e->nmi.masked)
        return true;
    bool masked = !(v->st.rflags & FL_IF);
    if (v->st.run_state == RUN_MWAIT && v->monitor.any_interrupt)
        masked = false;
    return req & VREQ_INTR && !masked;
}

/*
 * In MWAIT: how long until the line is looked at again, in ns; 0: it has lasted long enough, or is
 * over. A store is noticed late by half of how long the vCPU has waited for it, and by 8 ms at
 * the most: a guest that waits for long wakes the host some 160 times a second.
 */
static uint64_t mwait_nap(VcpuLoop *l)
{
    enum { LEAST = 20000, MOST = 8000000 };
    uint64_t now = switch_now_ns();
    if (!l->mwait_since)
        l->mwait_since = now;
    uint64_t waited = now - l->mwait_since;
    if (waited >= MWAIT_MOST_NS || mwait_over(l->v))
        return 0;
    return MIN_OF(MAX_OF(waited / 2, LEAST), MOST);
}

static void halted(VcpuLoop *l)
{
    Vcpu *v = l->v;
    GError *err = NULL;
    /* What wakes() looks at. The engine stays the truth for the rest. */
    if (v->where == ST_IN_ENGINE && !v->engine->export_state(v, GRP_REGS | GRP_EVENTS, &err)) {
        loop_report_gerror(l, "HLT: ", err);
        return;
    }
    if (v->st.run_state == RUN_RUNNING)
        v->st.run_state = RUN_HALTED;
}

/* ---- running ---- */

static void run_engine(VcpuLoop *l)
{
    Vcpu *v = l->v;
    GError *err = NULL;

    if (!turns_run(l, &err)) {
        loop_report_gerror(l, "", err);
        return;
    }
    if (!vcpu_bring_in(v, &err)) {
        if (rescue_refused(l, err))
            g_error_free(err);
        else
            loop_report_gerror(l, "", err);
        return;
    }
    if (v->vm->n_vcpus > 1 && l->counted_as != v->engine) {
        kvm_guard_engine(v, !v->engine->is_software);
        l->counted_as = v->engine;
    }
    tell_away(l);
    l->drained = false;
    if (v->engine->is_software)
        pv_steal_update(v);
    const RunLimit *limit = rescue_limit(l);
    const RunLimit *rip = limit->max_insns ? NULL : rip_record_limit(l);
    const RunLimit *policy = limit->max_insns || rip ? NULL : policy_limit(l);
    Exit e = v->engine->run(v, rip ? rip : policy ? policy : limit);
    rescue_ran(l, &e);
    if (rip && rip_record_exit(l, &e))
        return;
    if (policy && policy_exit(l, &e))
        return;
    switch (e.kind) {
    case EXIT_KICK:
    case EXIT_LIMIT:
        break;
    case EXIT_HLT:
        halted(l);
        policy_halted(l);
        break;
    case EXIT_SHUTDOWN:
        if (rescue_take(l, &e))
            break;
        /* Until a reset or INIT. Set before the hook, which may let a reset overtake it. */
        v->st.run_state = RUN_STOPPED;
        if (l->hooks.shutdown)
            l->hooks.shutdown(v);
        break;
    case EXIT_DEBUG:
        if (l->hooks.debug)
            l->hooks.debug(v, &e);
        break;
    case EXIT_INTERNAL_ERROR:
    case EXIT_GUARDED:
    case EXIT_FAIL_ENTRY:
        if (!rescue_take(l, &e))
            loop_report(l, &e);
        break;
    case EXIT_EXCEPTION: /* not asked for */
    case EXIT_STOP:
    case EXIT_N:
        loop_report(l, &e);
        break;
    }
}

/* Takes the next item, or NULL. held: only those that somebody waits for. */
static WorkItem *next_item(VcpuLoop *l, bool held)
{
    for (WorkItem **p = &l->head; *p; p = &(*p)->next) {
        WorkItem *w = *p;
        if (held && w->owned)
            continue;
        *p = w->next;
        if (!*p)
            l->tail = p;
        return w;
    }
    return NULL;
}

static void run_item(VcpuLoop *l, WorkItem *w)
{
    if (w->owned && l->due)
        l->due--;
    pthread_mutex_unlock(&l->lock);
    w->fn(l->v, w->opaque);
    pthread_mutex_lock(&l->lock);
    if (w->owned) {
        g_free(w);
    } else {
        w->done = true;
        pthread_cond_broadcast(&l->done);
    }
}

void loop_sleep(VcpuLoop *l, uint64_t until_ns)
{
    l->asleep = true;
    if (until_ns) {
        const struct timespec t = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                                   .tv_nsec = (long)(until_ns % NS_PER_S)};
        pthread_cond_timedwait(&l->wake, &l->lock, &t);
    } else {
        pthread_cond_wait(&l->wake, &l->lock);
    }
    l->asleep = false;
}

static void nap(Vcpu *v, uint64_t ns)
{
    VcpuLoop *l = v->loop;
    pthread_mutex_lock(&l->lock);
    if (!atomic_load(&v->request))
        loop_sleep(l, switch_now_ns() + ns);
    pthread_mutex_unlock(&l->lock);
}

/* Lock held: the vCPU waits in HLT, MWAIT or for SIPI. Whether it has slept on. */
static bool waits_on(VcpuLoop *l, uint32_t req)
{
    Vcpu *v = l->v;
    uint64_t nap = 0;
    bool wait = !wakes(v, req);
    if (wait && v->st.run_state == RUN_MWAIT) {
        nap = mwait_nap(l);
        wait = nap > 0;
    }
    if (wait) {
        tell_away(l);
        loop_sleep(l, nap ? switch_now_ns() + nap : 0);
        return true;
    }
    if (v->st.run_state == RUN_MWAIT)
        mwait_disarm(v);
    v->st.run_state = RUN_RUNNING;
    return false;
}

/* Lock held on entry and return; true when the thread should end. One thing a call. */
static bool step(VcpuLoop *l)
{
    Vcpu *v = l->v;
    bool stopping = l->pause_count || l->failed || l->quit;

    /* Whoever asks from here on sets it again. */
    vcpu_request_clear(v, VREQ_WORK);
    if ((stopping || l->head) && !l->drained) {
        pthread_mutex_unlock(&l->lock);
        drain(l);
        pthread_mutex_lock(&l->lock);
        return false;
    }
    /* A parked vCPU serves those who wait for it and touches nothing else: what was queued from
     * then on, such as an item that put itself back, runs after the pause. */
    bool held = stopping && !l->due;
    if (held && !l->parked) {
        l->parked = true;
        pthread_cond_broadcast(&l->done);
    }
    WorkItem *w = next_item(l, held);
    if (w) {
        run_item(l, w);
        return false;
    }
    if (l->quit)
        return true;
    if (stopping) {
        loop_sleep(l, 0);
        return false;
    }
    l->parked = false;

    uint32_t req = atomic_load(&v->request);
    if (req & (VREQ_INIT | VREQ_SIPI | VREQ_SMI)) {
        pthread_mutex_unlock(&l->lock);
        take_events(l, req);
        pthread_mutex_lock(&l->lock);
        return false;
    }
    if (v->st.run_state == RUN_STOPPED ||
        (v->st.run_state != RUN_RUNNING && !vcpu_waits_in_engine(v))) {
        if (waits_on(l, req))
            return false;
    }
    if (rescue_has_work(l)) {
        pthread_mutex_unlock(&l->lock);
        rescue_work(l);
        pthread_mutex_lock(&l->lock);
        return false;
    }
    l->mwait_since = 0;
    if (!turns_take(l))
        return false;
    l->in_engine = true;
    pthread_mutex_unlock(&l->lock);
    run_engine(l);
    turns_leave(l);
    pthread_mutex_lock(&l->lock);
    l->in_engine = false;
    return false;
}

static void *loop_thread(void *opaque)
{
    VcpuLoop *l = opaque;
    current = l->v;
    switch_started(l);
    pthread_mutex_lock(&l->lock);
    while (!step(l))
        ;
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

bool vcpu_loop_start(Vcpu *v, const LoopHooks *hooks, GError **err)
{
    VcpuLoop *l = g_new0(VcpuLoop, 1);
    l->v = v;
    l->hooks = *hooks;
    l->tail = &l->head;
    l->pause_count = 1;
    l->drained = true;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t monotonic; /* as switch_now_ns() */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&l->done, NULL);
    v->loop = l;
    v->nap = nap;
    turns_begin(v);

    int r = pthread_create(&v->thread, NULL, loop_thread, l);
    if (r) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "cpu %d: no thread: %s", v->id, g_strerror(r));
        turns_end(v);
        v->loop = NULL;
        g_free(l);
        return false;
    }
    char name[16];
    g_snprintf(name, sizeof(name), "vcpu %d", v->id);
    pthread_setname_np(v->thread, name);
    return true;
}

void vcpu_loop_join(Vcpu *v)
{
    VcpuLoop *l = v->loop;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->quit = true;
    vcpu_request(v, VREQ_WORK);
    rouse(l);
    pthread_mutex_unlock(&l->lock);
    pthread_join(v->thread, NULL);
    kvm_ready_cancel(v);
    turns_end(v);
    v->loop = NULL;
    rescue_end(l);
    while (l->head) {
        WorkItem *w = l->head;
        l->head = w->next;
        g_free(w);
    }
    policy_end(l);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->wake);
    pthread_cond_destroy(&l->done);
    g_free(l);
}

/* ---- work and pauses from other threads ---- */

static void enqueue(VcpuLoop *l, WorkItem *w)
{
    *l->tail = w;
    l->tail = &w->next;
    vcpu_request(l->v, VREQ_WORK);
    rouse(l);
}

void vcpu_queue(Vcpu *v, VcpuWork *fn, void *opaque)
{
    VcpuLoop *l = v->loop;
    WorkItem *w = g_new(WorkItem, 1);
    *w = (WorkItem){.fn = fn, .opaque = opaque, .owned = true};
    pthread_mutex_lock(&l->lock);
    enqueue(l, w);
    pthread_mutex_unlock(&l->lock);
}

void vcpu_run_on(Vcpu *v, VcpuWork *fn, void *opaque)
{
    VcpuLoop *l = v->loop;
    if (vcpu_on_own_thread(v)) {
        fn(v, opaque);
        return;
    }
    WorkItem w = {.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&l->lock);
    enqueue(l, &w);
    while (!w.done)
        pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void pause_begin(Vcpu *v)
{
    VcpuLoop *l = v->loop;
    pthread_mutex_lock(&l->lock);
    if (!l->pause_count++) {
        l->due = 0;
        for (const WorkItem *w = l->head; w && !l->failed; w = w->next)
            l->due += w->owned;
    }
    vcpu_request(v, VREQ_WORK);
    rouse(l);
    pthread_mutex_unlock(&l->lock);
}

static void pause_wait(Vcpu *v)
{
    VcpuLoop *l = v->loop;
    if (vcpu_on_own_thread(v))
        return; /* it stops at its next boundary */
    pthread_mutex_lock(&l->lock);
    while (!l->parked)
        pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

void vcpu_pause(Vcpu *v)
{
    pause_begin(v);
    pause_wait(v);
}

void vcpu_resume(Vcpu *v)
{
    VcpuLoop *l = v->loop;
    pthread_mutex_lock(&l->lock);
    g_assert(l->pause_count);
    if (!--l->pause_count) {
        l->failed = false;
        l->parked = false;
        rouse(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void vcpus_pause(VmCommon *vm)
{
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        pause_begin(vm->vcpu[i]);
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        pause_wait(vm->vcpu[i]);
}

void vcpus_resume(VmCommon *vm)
{
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        vcpu_resume(vm->vcpu[i]);
}

bool vcpu_is_paused(const Vcpu *v)
{
    VcpuLoop *l = v->loop;
    if (!l)
        return true;
    pthread_mutex_lock(&l->lock);
    bool paused = l->pause_count || l->failed;
    pthread_mutex_unlock(&l->lock);
    return paused;
}
