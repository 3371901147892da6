/*
 * One step of both sides.
 *
 * Two software engines: the leader runs a block by its quick forms (or N instructions), the
 * follower as many instructions one by one. With KVM on one side the other is software and goes
 * first, one instruction, whoever leads: where an instruction ends up must be known before KVM
 * takes it (lockstep_kvm.c).
 */
#include "diff/lockstep.h"

#include <string.h>

#include "base/log.h"
#include "kvm/kvm.h"

enum { BLOCK_MAX = 4096, FULL_EVERY_KVM = 65536 };
#define LOGS_MAX (128ull << 20) /* bytes between two comparisons of everything */

Exit ls_run(Lockstep *ls, unsigned side, const RunLimit *limit, uint64_t *insns, bool must)
{
    LsSide *s = &ls->side[side];
    uint64_t before = s->v->insns;
    uint32_t put_off = 0;
    ls->running = (int)side;
    Exit e = s->engine->run(s->v, limit);
    while (must && e.kind == EXIT_KICK && s->v->insns == before && !atomic_load(&ls->give_up)) {
        /* An interrupt put off that is gone when it is asked for again is no vector to ack. */
        put_off |= atomic_load(&s->v->request) & (VREQ_EXIT_MASK | VREQ_INTR | VREQ_NMI);
        vcpu_request_clear(s->v, put_off);
        e = s->engine->run(s->v, limit);
    }
    ls->running = -1;
    if (put_off)
        vcpu_request(s->v, put_off);
    if (insns)
        *insns = s->v->insns - before;
    return e;
}

bool ls_put_state(Lockstep *ls, unsigned side, const CpuState *st, GError **err)
{
    LsSide *s = &ls->side[side];
    s->v->st = *st;
    s->v->where = ST_CANONICAL;
    if (!s->engine->import_state(s->v, GROUPS_ALL, err)) {
        g_prefix_error(err, "%s does not take the state: ", s->engine->name);
        return false;
    }
    s->v->where = ST_IN_ENGINE;
    if (s->engine->enter)
        s->engine->enter(s->v);
    return true;
}

/* ---- the software side ---- */

/* In the middle of a REP the count of instructions stands still: RCX tells. */
static void finish_rep(Lockstep *ls, unsigned side, uint64_t rip, uint64_t rcx)
{
    Vcpu *v = ls->side[side].v;
    LsInsn insn;
    if (v->st.rip != rip || v->st.gpr[RCX] == rcx)
        return;
    ls_fetch(&ls->side[side], &v->st, &insn);
    while (insn.rep && v->st.rip == rip && v->st.gpr[RCX] != rcx) {
        uint64_t last = v->st.gpr[RCX], done;
        ls_run(ls, side, &(RunLimit){.max_insns = 1, .caller_events = true}, &done, true);
        if (v->st.gpr[RCX] == last)
            return;
    }
}

/* Exactly `count` instructions, and then as far into a REP as rip and rcx say. */
static Exit run_to(Lockstep *ls, unsigned side, uint64_t count, bool careful, uint64_t rip,
                   uint64_t rcx)
{
    Vcpu *v = ls->side[side].v;
    Exit e = {.kind = EXIT_LIMIT};
    while (count) {
        RunLimit limit = {
            .max_insns = count, .caller_events = true, .careful = careful, .whole = true};
        uint64_t done, old_rip = v->st.rip, old_rcx = v->st.gpr[RCX];
        e = ls_run(ls, side, &limit, &done, true);
        count -= MIN_OF(done, count);
        /* One that is asked to stop meanwhile (an interrupt waited for IF) has been put off first.
         */
        if ((e.kind != EXIT_LIMIT && !(e.kind == EXIT_KICK && done)) || e.delivered ||
            (!done && old_rip == v->st.rip && old_rcx == v->st.gpr[RCX]))
            break;
    }
    finish_rep(ls, side, rip, rcx);
    return e;
}

static void put_event(LsSide *s, enum LsStepKind kind, uint8_t vector)
{
    Events *ev = &s->v->st.ev;
    s->v->st.run_state = RUN_RUNNING;
    if (kind == LSS_NMI) {
        ev->nmi.injected = true;
    } else {
        ev->interrupt.injected = true;
        ev->interrupt.soft = false;
        ev->interrupt.nr = vector;
    }
}

static enum LsResult error(Lockstep *ls, unsigned side, const Exit *e)
{
    g_snprintf(ls->why, sizeof(ls->why), "%s: %s", ls->side[side].engine->name, e->msg);
    return LS_ERROR;
}

static const char *exit_name(const Exit *e)
{
    static const char *const names[EXIT_N] = {
        [EXIT_KICK] = "was stopped",
        [EXIT_LIMIT] = "went on",
        [EXIT_HLT] = "halted",
        [EXIT_SHUTDOWN] = "shut down",
        [EXIT_DEBUG] = "met a breakpoint",
        [EXIT_INTERNAL_ERROR] = "cannot go on",
        [EXIT_FAIL_ENTRY] = "was not let in",
        [EXIT_EXCEPTION] = "stopped at an exception",
        [EXIT_STOP] = "met a stop of the host's",
    };
    return names[e->kind];
}

static void compare_exits(Lockstep *ls, const Exit *a, const Exit *b)
{
    const char *na = ls->side[ls->first].engine->name;
    const char *nb = ls->side[!ls->first].engine->name;
    bool stop_a = a->kind != EXIT_LIMIT && a->kind != EXIT_KICK;
    bool stop_b = b->kind != EXIT_LIMIT && b->kind != EXIT_KICK;
    if ((stop_a || stop_b) && a->kind != b->kind)
        ls_diverge(ls, "%s %s and %s %s%s%s", na, exit_name(a), nb, exit_name(b),
                   *b->msg ? ": " : "", b->msg);
    else if (a->delivered != b->delivered || (a->delivered && a->exc.vector != b->exc.vector))
        ls_diverge(ls, "%s raised exception %d and %s %d (-1: none)", na,
                   a->delivered ? a->exc.vector : -1, nb, b->delivered ? b->exc.vector : -1);
}

/* What the first side does: a block, N instructions, or one. */
static RunLimit first_limit(const Lockstep *ls, enum LsStepKind kind)
{
    RunLimit r = {.max_insns = ls->opt.every ? ls->opt.every : BLOCK_MAX,
                  .caller_events = true,
                  .whole = true,
                  .chained = ls->opt.chained,
                  .one_block = !ls->opt.every};
    if (kind != LSS_RUN)
        r.max_insns = 1;
    else if (ls->opt.max && ls->recording)
        r.max_insns = MIN_OF(r.max_insns, ls->opt.max - ls->insns);
    if (kind == LSS_RUN && ls->opt.other && ls->recording && ls->sw.next > ls->insns)
        r.max_insns = MIN_OF(r.max_insns, ls->sw.next - ls->insns);
    return r;
}

/* The first side when it is fed as well: as far as it went when it was recorded. */
static Exit replay_first(Lockstep *ls, const RunLimit *limit, uint64_t *count)
{
    LsEvent mark = g_array_index(ls->log, LsEvent, ls->step_at);
    Vcpu *v = ls->side[ls->first].v;
    Exit e = {.kind = EXIT_LIMIT};
    *count = 0;
    if (mark.count) {
        RunLimit r = *limit;
        r.max_insns = mark.count;
        e = ls_run(ls, ls->first, &r, count, true);
        if (e.kind != EXIT_LIMIT || e.delivered)
            return e;
        if (*count < mark.count)
            e = run_to(ls, ls->first, mark.count - *count, false, mark.rip, mark.rcx);
        *count = mark.count;
    }
    if (v->st.rip == mark.rip)
        finish_rep(ls, ls->first, mark.rip, mark.rcx);
    return e;
}

static enum LsResult step_soft(Lockstep *ls, enum LsStepKind kind)
{
    LsSide *a = &ls->side[LEADER];
    RunLimit limit = first_limit(ls, kind);
    uint64_t count;
    Exit ea = ls->recording ? ls_run(ls, LEADER, &limit, &count, kind != LSS_RUN)
                            : replay_first(ls, &limit, &count);
    if (ea.kind == EXIT_INTERNAL_ERROR || ea.kind == EXIT_FAIL_ENTRY)
        return error(ls, LEADER, &ea);
    LsEvent *mark = &g_array_index(ls->log, LsEvent, ls->step_at);
    if (ls->recording) {
        mark->count = count;
        mark->rip = a->v->st.rip;
        mark->rcx = a->v->st.gpr[RCX];
    }
    if (ls->recording && ea.kind == EXIT_KICK && !count && a->v->st.rip == ls->before.rip &&
        a->v->st.gpr[RCX] == ls->before.gpr[RCX] && ls->log->len == ls->step_at + 1)
        return LS_KICK;
    /* So many at once go by quick forms; the single steps after a difference do not. */
    Exit eb = run_to(ls, FOLLOWER, count, !ls->opt.chained, a->v->st.rip, a->v->st.gpr[RCX]);
    ls->insns += count;
    ls->step_count = count;
    ls_trace_add(ls, &ls->before, (uint32_t)count, ea.delivered ? ea.exc.vector + 1u : 0, NULL);
    /* Which of both kinds stopped the leader says nothing about the instruction. */
    if (ea.kind == EXIT_KICK)
        ea.kind = EXIT_LIMIT;
    compare_exits(ls, &ea, &eb);
    ls_bus_end(ls, FOLLOWER);
    if (!ls->recording)
        ls_bus_end(ls, LEADER);
    ls_compare(ls, GROUPS_ALL);
    if (ls->diverged)
        return LS_DIVERGED;
    return ea.kind == EXIT_HLT ? LS_HALTED : ea.kind == EXIT_SHUTDOWN ? LS_SHUTDOWN : LS_OK;
}

/* ---- with KVM ---- */

/* The first side's part: an instruction to its end, and what KVM cannot take apart from it. */
static Exit first_of_kvm(Lockstep *ls, enum LsStepKind kind, LsInsn *insn, uint64_t *iterations)
{
    Vcpu *v = ls->side[ls->first].v;
    RunLimit one = {.max_insns = 1, .caller_events = true, .whole = true};
    uint64_t start = ls->before.rip;
    Exit e = ls_run(ls, ls->first, &one, NULL, true);
    /* A request ends a REP early. */
    while (kind == LSS_RUN && insn->rep && e.kind == EXIT_LIMIT && !e.delivered &&
           v->st.rip == start)
        e = ls_run(ls, ls->first, &one, NULL, true);
    *iterations = insn->rep ? ls->before.gpr[RCX] - v->st.gpr[RCX] : 0;
    if (*iterations > 1)
        ls_rule(ls, LSR_REP);
    while (kind == LSS_RUN && ls->kvm_native && e.kind == EXIT_LIMIT && !e.delivered &&
           (v->st.ev.shadow_sti || v->st.ev.shadow_mov_ss)) {
        LsInsn next;
        ls_fetch(&ls->side[ls->first], &v->st, &next);
        insn->undef |= next.undef;
        ls_trace_add(ls, &v->st, 1, 0, &next);
        ls_rule(ls, LSR_SHADOW);
        ls->insns++;
        e = ls_run(ls, ls->first, &one, NULL, true);
    }
    return e;
}

static enum LsResult step_kvm(Lockstep *ls, enum LsStepKind kind, uint8_t vector)
{
    LsSide *a = &ls->side[ls->first];
    LsInsn insn = {.len = 0};
    uint64_t iterations;
    if (kind == LSS_RUN)
        ls_fetch(a, &a->v->st, &insn);
    unsigned at = (unsigned)(ls->n_trace % LS_TRACE);
    ls_trace_add(ls, &ls->before, kind == LSS_RUN, 0, &insn);
    Exit ea = first_of_kvm(ls, kind, &insn, &iterations);
    if (ea.delivered)
        ls->trace[at].event = (uint8_t)(ea.exc.vector + 1);
    if (ea.kind == EXIT_INTERNAL_ERROR || ea.kind == EXIT_FAIL_ENTRY)
        return error(ls, ls->first, &ea);
    ls->insns += kind == LSS_RUN;
    LsEvent *mark = &g_array_index(ls->log, LsEvent, ls->step_at);
    mark->count = 1;
    mark->rip = a->v->st.rip;
    return ls_kvm_follow(ls, kind, vector, &insn, &ea, iterations);
}

/* ---- the step ---- */

void ls_begin_step(Lockstep *ls, enum LsStepKind kind, uint8_t vector)
{
    LsEvent e = {.kind = LSE_STEP, .what = (uint8_t)kind, .value = vector};
    ls->step_at = ls->log->len;
    g_array_append_val(ls->log, e);
}

/* A state file can begin at the last comparison of everything, so the logs reach back to it. */
static bool full_is_due(Lockstep *ls, bool kvm)
{
    uint64_t every = ls->opt.full_every ? ls->opt.full_every : kvm ? FULL_EVERY_KVM : UINT64_MAX;
    return ++ls->steps_since_full >= every || ls->side[LEADER].writes.used +
                                                      ls->side[FOLLOWER].writes.used +
                                                      ls->log->len * sizeof(LsEvent) >
                                                  LOGS_MAX;
}

enum LsResult ls_step(Lockstep *ls, enum LsStepKind kind, uint8_t vector)
{
    ls->before = *ls_state(ls);
    ls->step_insns = ls->insns;
    for (unsigned i = 0; i < SIDES; i++)
        ls->side[i].mark = ls->side[i].writes.used;
    ls_bus_begin(ls);
    if (kind != LSS_RUN) {
        for (unsigned i = 0; i < SIDES; i++)
            if (ls_soft(&ls->side[i]))
                put_event(&ls->side[i], kind, vector);
        ls->events++;
    }
    bool kvm = !ls_soft(&ls->side[LEADER]) || !ls_soft(&ls->side[FOLLOWER]);
    enum LsResult r = kvm ? step_kvm(ls, kind, vector) : step_soft(ls, kind);
    if (r == LS_KICK || r == LS_ERROR)
        return r;
    ls->steps++;
    if (!ls->diverged && full_is_due(ls, kvm))
        ls_compare_all(ls);
    if (ls->diverged)
        return LS_DIVERGED;
    return r;
}

/* ---- beginning ---- */

bool ls_init(Lockstep *ls, const LsOptions *opt, GError **err)
{
    LsSide *l = &ls->side[LEADER], *f = &ls->side[FOLLOWER];
    ls->opt = *opt;
    ls->running = -1;
    if (!ls->tap) {
        ls->tap = &ls->own_tap;
        ls->own_tap.of[0] = ls;
    }
    ls->log = g_array_new(FALSE, TRUE, sizeof(LsEvent));
    ls->dma = g_array_new(FALSE, TRUE, sizeof(LsEvent));
    ls->differences = g_string_new(NULL);
    g_mutex_init(&ls->dma_lock);
    ls->first = ls_soft(l) ? LEADER : FOLLOWER;
    const Engine *other = opt->other ? opt->other : l->engine;
    bool kvm = !ls_soft(l) || !other->is_software;
    if (kvm && !ls_soft(f)) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "two KVMs cannot be held in lockstep: one engine must be a software engine, "
                    "as interp is");
        return false;
    }
    if ((kvm || !ls_soft(f)) && !kvm_steps_natively(&ls->kvm_native, err))
        return false;
    if (!f->v) {
        Twin *t = twin_new(l->vm, f->engine, &ls_bus, ls->tap, err);
        if (!t)
            return false;
        ls->twin[FOLLOWER] = t;
        f->v = t->v;
        f->vm = &t->vm;
    }
    for (unsigned i = 0; i < SIDES; i++)
        ls->side[i].v->writes =
            ls_soft(&ls->side[i]) && (i == FOLLOWER || !opt->chained) ? &ls->side[i].writes : NULL;
    ls_switches_init(ls);
    return true;
}

bool ls_sync(Lockstep *ls, GError **err)
{
    LsSide *l = &ls->side[LEADER];
    if (ls->recording) {
        ls->map_gen = l->vm->mem->gen;
        if (!twin_follow_map(ls->twin[FOLLOWER], l->vm->mem, err))
            return false;
        twin_copy_ram(ls->twin[FOLLOWER], l->vm->mem);
        g_mutex_lock(&ls->dma_lock); /* it is in that RAM */
        for (unsigned i = 0; i < ls->dma->len; i++)
            g_free(g_array_index(ls->dma, LsEvent, i).data);
        g_array_set_size(ls->dma, 0);
        g_mutex_unlock(&ls->dma_lock);
    }
    ls->before = ls->checkpoint = l->v->st;
    ls_log_truncate(ls, 0);
    ls->checkpoint_at = 0;
    ls->checkpoint_insns = ls->insns;
    ls->steps_since_full = 0;
    for (unsigned i = 0; i < SIDES; i++) {
        write_log_clear(&ls->side[i].writes);
        ls->side[i].mark = 0;
    }
    return ls_put_state(ls, FOLLOWER, &ls->before, err);
}

void ls_clear(Lockstep *ls)
{
    for (unsigned i = 0; i < SIDES; i++) {
        if (ls->side[i].v)
            ls->side[i].v->writes = NULL;
        write_log_free(&ls->side[i].writes);
        twin_free(ls->twin[i]);
    }
    if (!ls->log)
        return;
    ls_log_truncate(ls, 0);
    g_array_free(ls->log, TRUE);
    for (unsigned i = 0; i < ls->dma->len; i++)
        g_free(g_array_index(ls->dma, LsEvent, i).data);
    g_array_free(ls->dma, TRUE);
    g_string_free(ls->differences, TRUE);
    g_mutex_clear(&ls->dma_lock);
}

const Engine *ls_engine(const char *name, GError **err)
{
    static const Engine *const all[] = {&engine_interp, &engine_jit, &engine_kvm};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "no engine '%s'; there are interp, jit and kvm",
                name);
    return NULL;
}
