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

struct LsLive {
    Lockstep ls;
    Engine engine; /* the leader's, but for run() and import_state() */
    bool resync, ended, was_halted;
    uint64_t last_intr; /* Lockstep.insns then */
    void (*done)(void *opaque, enum LsResult);
    void *opaque;
    uint64_t watched_steps; /* main thread */
    unsigned watched_for;
    GError *attach_error;
    const Engine *leader, *follower;
    LsOptions opt;
};

Lockstep *ls_live_state(LsLive *l)
{
    return &l->ls;
}

static LsLive *live_of(Vcpu *v)
{
    return (LsLive *)v->vm->tap; /* ls is its first member */
}

static bool live_import(Vcpu *v, unsigned groups, GError **err)
{
    LsLive *l = live_of(v);
    l->resync = true;
    return l->leader->import_state(v, groups, err);
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

static bool too_soon(const LsLive *l)
{
    const Lockstep *ls = &l->ls;
    return !l->was_halted && ls->insns - l->last_intr < INTR_APART && l->last_intr &&
           !(ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]));
}

/* What comes next; a vector is acknowledged here, as the engine would. */
static enum LsStepKind next_kind(LsLive *l, uint32_t req, uint8_t *vector)
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

static enum LsResult one_step(LsLive *l)
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
    ls_apply_pending_dma(ls);
    enum LsResult r = ls_step(ls, kind, vector);
    if (r != LS_KICK)
        l->was_halted = r == LS_HALTED;
    if (r == LS_KICK)
        ls_log_truncate(ls, at);
    return r;
}

static Exit end(LsLive *l, Vcpu *v, enum LsResult r)
{
    l->ended = true;
    if (r == LS_OK && !l->ls.diverged) {
        ls_compare_all(&l->ls);
        r = l->ls.diverged ? LS_DIVERGED : LS_OK;
    }
    l->done(l->opaque, r);
    vcpu_pause(v); /* at the next boundary: nothing runs any more */
    return (Exit){.kind = EXIT_KICK};
}

/* What the loop changed in the leader's state without an import: that it is awake again. */
static void take_run_state(LsLive *l, Vcpu *v)
{
    for (unsigned i = 0; i < SIDES; i++)
        l->ls.side[i].v->st.run_state = v->st.run_state;
}

static Exit live_run(Vcpu *v, const RunLimit *limit)
{
    LsLive *l = live_of(v);
    Lockstep *ls = &l->ls;
    if (l->ended)
        return (Exit){.kind = EXIT_KICK};
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
    for (;;) {
        enum LsResult r = one_step(l);
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
        if (ls->opt.max && ls->insns >= ls->opt.max)
            return end(l, v, LS_OK);
    }
}

static void attach(Vcpu *v, void *opaque)
{
    LsLive *l = opaque;
    Lockstep *ls = &l->ls;
    if (!vcpu_sync_state(v, &l->attach_error))
        return;
    ls->side[LEADER] = (LsSide){.v = v, .vm = v->vm, .engine = l->leader};
    ls->side[FOLLOWER] = (LsSide){.engine = l->follower};
    ls->real = v->vm->bus;
    ls->recording = true;
    if (!ls_init(ls, &l->opt, &l->attach_error))
        return;
    l->engine = *l->leader;
    l->engine.run = live_run;
    l->engine.import_state = live_import;
    v->vm->bus = &ls_bus;
    v->vm->tap = ls;
    v->engine = &l->engine;
    v->where = ST_CANONICAL; /* the loop imports, and with that it begins */
    if (l->leader->enter)
        l->leader->enter(v);
}

static void detach(Vcpu *v, void *opaque)
{
    LsLive *l = opaque;
    if (l->ls.real) {
        v->vm->bus = l->ls.real;
        v->vm->tap = NULL;
        v->engine = l->leader;
    }
    ls_clear(&l->ls);
}

LsLive *ls_live_new(Vcpu *v, const Engine *leader, const Engine *follower, const LsOptions *opt,
                    void (*done)(void *opaque, enum LsResult), void *opaque, GError **err)
{
    LsLive *l = aligned_alloc(64, (sizeof(LsLive) + 63) / 64 * 64);
    memset(l, 0, sizeof(*l));
    l->leader = leader;
    l->follower = follower;
    l->opt = *opt;
    l->done = done;
    l->opaque = opaque;
    vcpu_run_on(v, attach, l);
    if (!l->attach_error)
        return l;
    g_propagate_error(err, l->attach_error);
    vcpu_run_on(v, detach, l);
    free(l);
    return NULL;
}

void ls_live_free(LsLive *l)
{
    vcpu_run_on(l->ls.side[LEADER].v, detach, l);
    free(l);
}

enum { PATIENCE = 20 }; /* calls without a step in between */

void ls_live_watch(LsLive *l)
{
    Lockstep *ls = &l->ls;
    int running = __atomic_load_n(&ls->running, __ATOMIC_RELAXED);
    uint64_t steps = atomic_load(&ls->steps);
    if (running < 0 || ls_soft(&ls->side[running]) || steps != l->watched_steps) {
        l->watched_steps = steps;
        l->watched_for = 0;
    } else if (++l->watched_for > PATIENCE) {
        Vcpu *v = ls->side[running].v;
        l->watched_for = 0;
        atomic_store(&ls->give_up, true);
        vcpu_request(v, VREQ_WORK);
        ls->side[running].engine->kick(v);
    }
}
