/*
 * The engine that stands in for the leader's in its vCPU loop. The loop knows of nothing: it calls
 * run(), and what comes back are the leader's own reasons to stop.
 */
#include "diff/lockstep.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "switch/vcpu_loop.h"
#include "jit/jit.h"

/* One vCPU. */
typedef struct LiveVcpu {
    Lockstep ls;
    Engine engine; /* the leader's, but for run() and import_state() */
    struct LsLive *all;
    bool resync, stopped, was_halted;
    bool waits;             /* in live_run(): takes part in the turns */
    uint64_t last_intr;     /* Lockstep.insns then */
    uint64_t watched_steps; /* main thread */
    unsigned watched_for;
} LiveVcpu;

struct LsLive {
    LsTap tap;
    LiveVcpu *one[LS_VCPUS];
    VmCommon *vm;
    unsigned n;
    /* Whose turn it is; the rest is under its lock as well, while a vCPU has the turn. */
    GMutex lock;
    GCond turned;
    unsigned turn;
    bool ended;
    LiveVcpu *culprit; /* who ended it */
    void (*done)(void *opaque, enum LsResult);
    void *opaque;
    GError *attach_error;
    const Engine *leader, *follower;
    LsOptions opt;
};

Lockstep *ls_live_state(LsLive *all)
{
    return all->culprit ? &all->culprit->ls : &all->one[0]->ls;
}

unsigned ls_live_vcpus(const LsLive *all)
{
    return all->n;
}

Lockstep *ls_live_vcpu(LsLive *all, unsigned i)
{
    return &all->one[i]->ls;
}

uint64_t ls_live_insns(LsLive *all)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < all->n; i++)
        n += all->one[i]->ls.insns;
    return n;
}

static LiveVcpu *live_of(Vcpu *v)
{
    return (LiveVcpu *)ls_of(v); /* ls is its first member */
}

/* ---- turns ---- */

/* Lock held: to the next vCPU that waits, which may be the same. */
static void pass_turn(LsLive *all)
{
    for (unsigned k = 1; k <= all->n; k++) {
        unsigned i = (all->turn + k) % all->n;
        if (all->one[i]->waits) {
            all->turn = i;
            break;
        }
    }
    g_cond_broadcast(&all->turned);
}

static void take_turn(LsLive *all, Vcpu *v)
{
    unsigned me = (unsigned)v->id;
    g_mutex_lock(&all->lock);
    all->one[me]->waits = true;
    if (!all->one[all->turn]->waits) /* whose turn it was has left */
        all->turn = me;
    while (all->turn != me)
        g_cond_wait(&all->turned, &all->lock);
    g_mutex_unlock(&all->lock);
}

/* stays: it will take a turn again at once. */
static void end_turn(LsLive *all, Vcpu *v, bool stays)
{
    g_mutex_lock(&all->lock);
    all->one[v->id]->waits = stays;
    pass_turn(all);
    g_mutex_unlock(&all->lock);
}

static bool live_import(Vcpu *v, unsigned groups, GError **err)
{
    LiveVcpu *l = live_of(v);
    l->resync = true;
    return l->ls.side[LEADER].engine->import_state(v, groups, err);
}

static Exit live_run(Vcpu *v, const RunLimit *limit);

static void stand_in_for(LiveVcpu *l, Vcpu *v, const Engine *e)
{
    l->engine = *e;
    l->engine.run = live_run;
    l->engine.import_state = live_import;
    v->engine = &l->engine;
}

/* Between two steps, the leader's turn. */
static enum LsResult switch_leader(LiveVcpu *l, Vcpu *v)
{
    v->engine = l->ls.side[LEADER].engine; /* the switch itself is between the real ones */
    enum LsResult r = ls_switch(&l->ls, l->all->leader);
    stand_in_for(l, v, l->ls.side[LEADER].engine);
    return r;
}

static bool shadow(const CpuState *s)
{
    return s->ev.shadow_sti || s->ev.shadow_mov_ss;
}

/*
 * Beside KVM a guest runs a thousand times slower than the clock that interrupts it, and may get no
 * further than its handlers. A vector that comes too soon waits, but not for a guest that halted.
 */
enum { INTR_APART = 1000 };

static bool too_soon(const LiveVcpu *l)
{
    const Lockstep *ls = &l->ls;
    return !l->was_halted && ls->insns - l->last_intr < INTR_APART && l->last_intr &&
           !(ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]));
}

/* What comes next; a vector is acknowledged here, as the engine would. */
static enum LsStepKind next_kind(LiveVcpu *l, uint32_t req, uint8_t *vector)
{
    Lockstep *ls = &l->ls;
    Vcpu *v = ls->side[LEADER].v;
    const CpuState *s = ls_state(ls);
    *vector = 0;
    if (req & VREQ_NMI && !s->ev.nmi.masked && !shadow(s)) {
        vcpu_request_clear(v, VREQ_NMI);
        *vector = VEC_NMI;
        return LSS_NMI;
    }
    if (req & VREQ_INTR && s->rflags & FL_IF && !shadow(s) && !too_soon(l)) {
        int n = ls->real->irq_ack(v);
        if (n >= 0) {
            *vector = (uint8_t)n;
            l->last_intr = ls->insns;
            return LSS_INTR;
        }
    }
    return LSS_RUN;
}

/* DMA of other threads came to the first vCPU's; it is taken by whoever steps next. */
static void pending_dma(LiveVcpu *l)
{
    Lockstep *first = &l->all->one[0]->ls;
    if (&l->ls != first) {
        g_mutex_lock(&first->dma_lock);
        g_array_append_vals(l->ls.dma, first->dma->data, first->dma->len);
        g_array_set_size(first->dma, 0);
        g_mutex_unlock(&first->dma_lock);
    }
    ls_apply_pending_dma(&l->ls);
}

static enum LsResult one_step(LiveVcpu *l)
{
    Lockstep *ls = &l->ls;
    LsSide *lead = &ls->side[LEADER];
    uint32_t req = atomic_load(&lead->v->request);
    uint8_t vector;
    if (req & VREQ_EXIT_MASK)
        return LS_KICK;
    if (ls->map_gen != lead->vm->mem->gen) {
        GError *err = NULL;
        ls->map_gen = lead->vm->mem->gen;
        if (!twin_follow_map(ls->twin[FOLLOWER], lead->vm->mem, &err)) {
            g_strlcpy(ls->why, err->message, sizeof(ls->why));
            g_error_free(err);
            return LS_ERROR;
        }
    }
    enum LsStepKind kind = next_kind(l, req, &vector);
    unsigned at = ls->log->len;
    ls_begin_step(ls, kind, vector);
    pending_dma(l);
    enum LsResult r = ls_step(ls, kind, vector);
    if (r != LS_KICK)
        l->was_halted = r == LS_HALTED;
    if (r == LS_KICK)
        ls_log_truncate(ls, at);
    return r;
}

static Exit end(LiveVcpu *l, Vcpu *v, enum LsResult r)
{
    LsLive *all = l->all;
    all->ended = true;
    all->culprit = l;
    if (r == LS_OK && !l->ls.diverged) {
        ls_compare_all(&l->ls);
        r = l->ls.diverged ? LS_DIVERGED : LS_OK;
    }
    all->done(all->opaque, r);
    return (Exit){.kind = EXIT_KICK};
}

/* What the loop changed in the leader's state without an import: that it is awake again. */
static void take_run_state(LiveVcpu *l, Vcpu *v)
{
    for (unsigned i = 0; i < SIDES; i++)
        l->ls.side[i].v->st.run_state = v->st.run_state;
}

/* It is v's turn. */
static Exit steps(LiveVcpu *l, Vcpu *v, bool *again)
{
    LsLive *all = l->all;
    Lockstep *ls = &l->ls;
    *again = false;
    if (all->ended) {
        if (!l->stopped)
            vcpu_pause(v); /* at the next boundary: nothing runs any more */
        l->stopped = true;
        return (Exit){.kind = EXIT_KICK};
    }
    if (l->resync) {
        GError *err = NULL;
        l->resync = false;
        if (!ls_sync(ls, &err)) {
            g_strlcpy(ls->why, err->message, sizeof(ls->why));
            g_error_free(err);
            return end(l, v, LS_ERROR);
        }
    }
    take_run_state(l, v);
    for (unsigned n = 0; all->n == 1 || n < ls->opt.turn; n++) {
        enum LsResult r = LS_OK;
        if (ls_switch_is_due(ls))
            r = switch_leader(l, v);
        if (r == LS_OK)
            r = one_step(l);
        switch (r) {
        case LS_OK:
            break;
        case LS_KICK:
            return (Exit){.kind = EXIT_KICK};
        case LS_HALTED:
            return (Exit){.kind = EXIT_HLT};
        case LS_SHUTDOWN:
            return (Exit){.kind = EXIT_SHUTDOWN};
        case LS_DIVERGED:
        case LS_ERROR:
            return end(l, v, r);
        }
        if (ls->opt.max && ls_live_insns(all) >= ls->opt.max)
            return end(l, v, LS_OK);
    }
    *again = true;
    return (Exit){.kind = EXIT_KICK};
}

static Exit live_run(Vcpu *v, const RunLimit *limit)
{
    LiveVcpu *l = live_of(v);
    for (;;) {
        bool again;
        take_turn(l->all, v);
        Exit e = steps(l, v, &again);
        end_turn(l->all, v, again);
        if (!again)
            return e;
    }
}

/* So that most of what a guest runs is translated, and in traces, from early on. */
enum { CHAINED_HOT = 2, CHAINED_WARM = 32 };

static void warm_soon(const Vcpu *v)
{
    Jit *j = jit_of(v);
    j->hot_after = CHAINED_HOT;
    j->warm_after = CHAINED_WARM;
    j->trace_paths = 2;
    j->kernel_warm = 1;
}

static void attach(Vcpu *v, void *opaque)
{
    LsLive *all = opaque;
    LiveVcpu *l = all->one[v->id];
    Lockstep *ls = &l->ls;
    if (all->attach_error || !vcpu_sync_state(v, &all->attach_error))
        return;
    ls->side[LEADER] = (LsSide){.v = v, .vm = v->vm, .engine = all->leader};
    ls->side[FOLLOWER] = (LsSide){.engine = all->follower};
    if (v->id) { /* the first one's has vCPUs for all */
        Twin *t = all->one[0]->ls.twin[FOLLOWER];
        ls->twin[FOLLOWER] = t;
        ls->side[FOLLOWER].v = t->vcpus[v->id];
        ls->side[FOLLOWER].vm = &t->vm;
        t->vcpus[v->id]->thread = pthread_self();
    }
    ls->real = v->id ? all->one[0]->ls.real : v->vm->bus;
    ls->recording = true;
    ls->tap = &all->tap;
    if (!ls_init(ls, &all->opt, &all->attach_error))
        return;
    if (all->opt.chained)
        warm_soon(v);
    stand_in_for(l, v, all->leader);
    v->vm->bus = &ls_bus;
    v->vm->tap = ls->tap;
    v->where = ST_CANONICAL; /* the loop imports, and with that it begins */
    if (all->leader->enter)
        all->leader->enter(v);
}

static void detach(Vcpu *v, void *opaque)
{
    LsLive *all = opaque;
    LiveVcpu *l = all->one[v->id];
    if (l->ls.real) {
        v->vm->bus = l->ls.real;
        v->vm->tap = NULL;
        v->engine = l->ls.side[LEADER].engine;
    }
    if (v->id)
        l->ls.twin[FOLLOWER] = NULL; /* freed by the first, which is detached last */
    ls_clear(&l->ls);
}

static void free_all(LsLive *all)
{
    for (unsigned i = all->n; i-- > 0;) {
        vcpu_run_on(all->vm->vcpu[i], detach, all);
        free(all->one[i]);
    }
    g_mutex_clear(&all->lock);
    g_cond_clear(&all->turned);
    g_free(all);
}

LsLive *ls_live_new(VmCommon *vm, const Engine *leader, const Engine *follower,
                    const LsOptions *opt, void (*done)(void *opaque, enum LsResult), void *opaque,
                    GError **err)
{
    LsLive *all = g_new0(LsLive, 1);
    all->vm = vm;
    all->n = vm->n_vcpus;
    all->leader = leader;
    all->follower = follower;
    all->opt = *opt;
    all->done = done;
    all->opaque = opaque;
    g_mutex_init(&all->lock);
    g_cond_init(&all->turned);
    for (unsigned i = 0; i < all->n; i++) {
        all->one[i] = aligned_alloc(64, (sizeof(LiveVcpu) + 63) / 64 * 64);
        memset(all->one[i], 0, sizeof(LiveVcpu));
        all->one[i]->all = all;
        all->tap.of[i] = &all->one[i]->ls;
    }
    for (unsigned i = 0; i < all->n; i++)
        vcpu_run_on(vm->vcpu[i], attach, all);
    if (!all->attach_error)
        return all;
    g_propagate_error(err, all->attach_error);
    free_all(all);
    return NULL;
}

void ls_live_free(LsLive *all)
{
    free_all(all);
}

void ls_live_dma(void *live, gpa_t gpa, uint64_t len)
{
    LsLive *all = live;
    /* On a vCPU's thread it has the turn. What comes from others is for whoever steps next. */
    for (unsigned i = 0; i < all->n; i++)
        if (pthread_equal(pthread_self(), all->vm->vcpu[i]->thread)) {
            ls_on_dma(&all->one[i]->ls, gpa, len);
            return;
        }
    ls_on_dma(&all->one[0]->ls, gpa, len);
}

enum { PATIENCE = 20 }; /* calls without a step in between */

/* With KVM there is one vCPU. */
void ls_live_watch(LsLive *all)
{
    LiveVcpu *l = all->one[0];
    Lockstep *ls = &l->ls;
    int running = __atomic_load_n(&ls->running, __ATOMIC_RELAXED);
    uint64_t done = atomic_load(&ls->steps);
    if (running < 0 || ls_soft(&ls->side[running]) || done != l->watched_steps) {
        l->watched_steps = done;
        l->watched_for = 0;
    } else if (++l->watched_for > PATIENCE) {
        Vcpu *v = ls->side[running].v;
        l->watched_for = 0;
        atomic_store(&ls->give_up, true);
        vcpu_request(v, VREQ_WORK);
        ls->side[running].engine->kick(v);
    }
}
