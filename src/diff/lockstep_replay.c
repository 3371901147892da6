/*
 * Steps again: from a state file, or in memory.
 *
 * A step of many instructions tells that they went wrong, not which. Both sides are taken back to
 * its beginning by the bytes their logs kept, and do it again in smaller steps, fed from the log.
 */
#include "diff/lockstep.h"

#include <inttypes.h>
#include <string.h>

enum LsResult ls_replay(Lockstep *ls, unsigned at, bool full)
{
    enum LsResult r = LS_OK;
    ls->recording = false;
    for (; at < ls->log->len && r != LS_DIVERGED && r != LS_ERROR; at++) {
        const LsEvent *e = &g_array_index(ls->log, LsEvent, at);
        if (e->kind != LSE_STEP)
            continue;
        ls->step_at = at;
        for (unsigned i = 0; i < SIDES; i++)
            ls->side[i].v->st.run_state = RUN_RUNNING;
        r = ls_step(ls, (enum LsStepKind)e->what, (uint8_t)e->value);
        if (r != LS_DIVERGED && r != LS_ERROR && full) {
            ls_compare_all(ls);
            if (ls->diverged)
                r = LS_DIVERGED;
        }
    }
    return r;
}

bool ls_rewind(Lockstep *ls, GError **err)
{
    ls->insns = ls->checkpoint_insns;
    ls->steps = ls->events = 0;
    for (unsigned i = 0; i < SIDES; i++) {
        ls_undo(&ls->side[i], 0);
        if (!ls_put_state(ls, i, &ls->checkpoint, err))
            return false;
    }
    return true;
}

/* ---- the instruction in a step ---- */

static bool go_back(Lockstep *ls, const CpuState *st, const size_t mark[SIDES])
{
    for (unsigned i = SIDES; i-- > 0;) {
        ls_undo(&ls->side[i], mark[i]);
        ls->side[i].mark = mark[i];
        if (i == LEADER && !ls_notes(&ls->side[i]))
            twin_give_ram(ls->twin[FOLLOWER], ls->side[i].vm->mem);
        if (!ls_put_state(ls, i, st, NULL))
            return false;
    }
    ls->diverged = ls->by_full = false;
    ls->why[0] = '\0';
    ls->n_differences = 0;
    g_string_truncate(ls->differences, 0);
    ls_bus_begin(ls);
    return true;
}

enum LsWalk { BY_INSN, BY_BLOCK, AS_CHAINED };

/* Both from st on, at most `count` instructions, in steps of a block or an instruction, or of
 * `every` and what a chained leader does beyond. Done: how many agreed before the step that did
 * not. */
static bool walk(Lockstep *ls, const CpuState *st, const size_t mark[SIDES], uint64_t count,
                 enum LsWalk how, uint64_t every, uint64_t *done)
{
    CpuState last;
    bool blocks = how != BY_INSN;
    RunLimit lead = {.caller_events = true,
                     .whole = true,
                     .one_block = how == BY_BLOCK,
                     .chained = how == AS_CHAINED};
    RunLimit follow = {.caller_events = true, .whole = true, .careful = true};
    if (!go_back(ls, st, mark))
        return false;
    *done = 0;
    for (unsigned idle = 0; *done < count && idle < 1u << 24;) {
        uint64_t na, nb = 0;
        last = ls->side[LEADER].v->st;
        ls->before = last;
        for (unsigned i = 0; i < SIDES; i++)
            ls->side[i].mark = ls->side[i].writes.used;
        lead.max_insns = how == BY_BLOCK ? count - *done : every;
        Exit ea = ls_run(ls, LEADER, &lead, &na, true);
        if (!na && ea.kind == EXIT_LIMIT && !ea.delivered &&
            ls->side[LEADER].v->st.rip == last.rip &&
            ls->side[LEADER].v->st.gpr[RCX] == last.gpr[RCX]) {
            idle++; /* it has made other code, or looked for requests */
            continue;
        }
        follow.max_insns = blocks && na ? na : 1;
        Exit eb = ls_run(ls, FOLLOWER, &follow, &nb, true);
        ls_trace_add(ls, &last, (uint32_t)MAX_OF(na, 1ull), ea.delivered ? ea.exc.vector + 1u : 0,
                     NULL);
        if (ea.kind == EXIT_KICK) /* a request, which may still be there from the first time */
            ea.kind = EXIT_LIMIT;
        if (eb.kind == EXIT_KICK)
            eb.kind = EXIT_LIMIT;
        if (ea.kind != eb.kind || ea.delivered != eb.delivered || na != nb)
            ls_diverge(ls, "they come to different ends (%d and %d)", ea.kind, eb.kind);
        ls->step_count = na;
        ls_compare(ls, GROUPS_ALL);
        if (ls->diverged)
            return true;
        *done += na;
        idle = na ? 0 : idle + 1;
        if (ea.kind != EXIT_LIMIT)
            break;
    }
    return false;
}

static void say(Lockstep *ls, GString *out, const char *how, uint64_t at)
{
    g_string_append_printf(out, "%s: instruction %" PRIu64 " of the step, at RIP %#" PRIx64 "\n",
                           how, at + 1, ls->before.rip);
    if (ls->why[0])
        g_string_append_printf(out, "  %s\n", ls->why);
    g_string_append(out, ls->differences->str);
}

/* A chained leader's step again, in such steps of its kind as are short enough and still show it.
 */
static bool narrow_chained(Lockstep *ls, const CpuState *st, const size_t mark[SIDES],
                           uint64_t count, GString *out)
{
    uint64_t done;
    for (uint64_t every = 1; every < 2 * ls->opt.every; every *= 4) {
        if (!walk(ls, st, mark, count, AS_CHAINED, every, &done))
            continue;
        say(ls, out, "again in shorter steps: the first to differ begins at", done);
        g_string_append_printf(out, "  and has %" PRIu64 " instructions\n", ls->step_count);
        return true;
    }
    return false;
}

void ls_narrow(Lockstep *ls, GString *out)
{
    const LsEvent *step = &g_array_index(ls->log, LsEvent, ls->step_at);
    CpuState begin = ls->before;
    const size_t mark[SIDES] = {ls->side[LEADER].mark, ls->side[FOLLOWER].mark};
    uint64_t count = step->count, done, insns = ls->insns;
    bool was = ls->recording;
    if (step->what != LSS_RUN || count < 2)
        return;
    ls->recording = false;
    bool found = ls->opt.chained && narrow_chained(ls, &begin, mark, count, out);
    if (found)
        ; /* it has been said */
    else if (walk(ls, &begin, mark, count, BY_INSN, 1, &done))
        say(ls, out, "found by single steps", done);
    else if (ls->opt.every && walk(ls, &begin, mark, count, BY_BLOCK, 0, &done))
        say(ls, out,
            "instruction by instruction they agree; by blocks the first to differ begins "
            "at",
            done);
    else
        g_string_append(out, "instruction by instruction they agree: what differs is a shortcut of "
                             "the leader's blocks\n");
    ls->recording = was;
    ls->insns = insns;
}
