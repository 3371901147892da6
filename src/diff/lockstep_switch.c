/*
 * The same guest with and without switching: the leader is switched between two engines at random
 * moments, the follower is not, and both must go the same way.
 *
 * The switch is vcpu_switch(), with all its steps; the state that arrives is held against the
 * follower's at once, and everything else by the comparisons that there are anyway.
 */
#include "diff/lockstep.h"

#include <inttypes.h>
#include <string.h>

#include "switch/switch.h"

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* 1 to 2 * every - 1 instructions from here. */
static void choose_next(Lockstep *ls)
{
    ls->sw.next = ls->insns + 1 + next_random(&ls->sw.random) % (2 * ls->opt.switch_every - 1);
}

void ls_switches_init(Lockstep *ls)
{
    if (!ls->opt.other)
        return;
    ls->sw.random = ls->opt.seed + (uint64_t)ls->side[LEADER].v->id;
    choose_next(ls);
}

enum LsResult ls_switch(Lockstep *ls, const Engine *home)
{
    LsSide *lead = &ls->side[LEADER];
    LsSwitches *sw = &ls->sw;
    const Engine *from = lead->engine, *to = from == home ? ls->opt.other : home;
    bool kvm = !from->is_software || !to->is_software;
    GError *err = NULL;
    choose_next(ls);
    if (!vcpu_switch(lead->v, to, SWITCH_TEST, &err)) {
        if (!sw->refused++)
            g_strlcpy(sw->first_refused, err->message, sizeof(sw->first_refused));
        g_error_free(err);
        return LS_OK;
    }
    sw->n[to->id]++;
    sw->last_insns = ls->insns;
    sw->last_rip = lead->v->st.rip;
    sw->last_from = from;
    sw->last_to = to;
    lead->engine = to;
    lead->v->writes = to->is_software ? &lead->writes : NULL;
    lead->mark = lead->writes.used;
    ls->first = ls_soft(lead) ? LEADER : FOLLOWER;
    if (kvm)
        ls_compare_switched(ls, &ls->side[FOLLOWER].v->st, &lead->v->st);
    else
        ls_compare(ls, GROUPS_ALL);
    return ls->diverged ? LS_DIVERGED : LS_OK;
}

void ls_switches_report(const Lockstep *ls, GString *out)
{
    const LsSwitches *sw = &ls->sw;
    if (sw->last_to)
        g_string_append_printf(
            out, "the last switch: %s -> %s at RIP %#" PRIx64 ", %" PRIu64 " instructions before\n",
            sw->last_from->name, sw->last_to->name, sw->last_rip, ls->insns - sw->last_insns);
}

void ls_switches_summary(const Lockstep *ls, GString *out)
{
    const LsSwitches *sw = &ls->sw;
    const Engine *engine[] = {&engine_interp, &engine_jit, &engine_kvm};
    uint64_t n = 0;
    if (!ls->opt.other)
        return;
    for (unsigned i = 0; i < ENGINE_N; i++)
        n += sw->n[i];
    g_string_append_printf(out, "the leader was switched %" PRIu64 " times:", n);
    for (unsigned i = 0; i < ARRAY_LEN(engine); i++)
        if (sw->n[engine[i]->id])
            g_string_append_printf(out, " %" PRIu64 " to %s", sw->n[engine[i]->id],
                                   engine[i]->name);
    g_string_append_printf(out, " (seed %" PRIu64 ")\n", ls->opt.seed);
    if (sw->refused)
        g_string_append_printf(out,
                               "refused, so that it stayed: %" PRIu64 " switches; the first: %s\n",
                               sw->refused, sw->first_refused);
}
