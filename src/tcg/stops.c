/*
 * RunLimit.stops in the software engine: exact to the instruction, and free where they are not.
 *
 * Stops by address. Blocks are kept by physical address and joined to each other, so nobody looks
 * at a linear address on the way. Instead blocks are cut at the offsets in a page that the stops
 * have (stop_at), and the block that begins at such an offset consists of exec_stop alone, which no
 * translated code is made of. Where the linear address is one of the stops, run() returns; where
 * only the offset was the same, or the stop is to be passed, the run loop runs the one instruction
 * beneath by itself (step_over).
 *
 * Who is to be told of each instruction of a range (step) has them run by themselves there.
 *
 * Leaving a range is looked at before each block, which are then run one by one (each_block).
 * Privilege levels change only where blocks are not joined either: the run loop looks at them
 * there.
 */
#include <string.h>
#include "tcg/block.h"

static unsigned offsets_of(const RunStops *st, uint16_t out[STOPS_MAX + 2])
{
    unsigned n = 0;
    if (!st)
        return 0;
    for (; n < st->n_addr; n++)
        out[n] = (uint16_t)(st->addr[n] & ~PAGE_MASK);
    if (st->step && st->step_hi)
        out[n++] = (uint16_t)(st->step_lo & ~PAGE_MASK);
    if (st->hi) /* code that runs straight on out of the range must not do so inside a block */
        out[n++] = (uint16_t)(st->hi & ~PAGE_MASK);
    return n;
}

void stops_begin(Tcg *t, RunStops *st)
{
    uint16_t now[STOPS_MAX + 2], before[STOPS_MAX + 2];
    unsigned n = offsets_of(st, now), n_before = t->n_stop_at;
    t->stops = st;
    t->each_block = st && (st->hi || st->step);
    t->step_over = false;
    if (n == n_before && memcmp(now, t->stop_at, n * sizeof(now[0])) == 0)
        return;
    memcpy(before, t->stop_at, sizeof(before));
    memcpy(t->stop_at, now, n * sizeof(now[0]));
    t->n_stop_at = n;
    for (unsigned k = 0; k < n_before; k++)
        blocks_kill_at_offset(t, before[k]);
    for (unsigned k = 0; k < n; k++)
        blocks_kill_at_offset(t, now[k]);
}

Fault exec_stop(CpuState *s G_GNUC_UNUSED, Tcg *t G_GNUC_UNUSED, const Insn *i G_GNUC_UNUSED)
{
    return FAULT_STOP;
}

bool stops_address_due(const Tcg *t, gva_t lin, Exit *x)
{
    const RunStops *st = t->stops;
    if (!st || (st->pass && st->pass_at == lin))
        return false;
    for (unsigned k = 0; k < st->n_addr; k++) {
        if (st->addr[k] == lin) {
            *x = (Exit){.kind = EXIT_STOP, .stop = STOP_ADDRESS, .code = k};
            return true;
        }
    }
    return false;
}

bool stops_state_due(const CpuState *s, Tcg *t, gva_t lin, Exit *x)
{
    const RunStops *st = t->stops;
    if (st->step && (!st->step_hi || (lin >= st->step_lo && lin < st->step_hi))) {
        st->step(t->v, lin);
        t->step_over = true;
    }
    if (st->hi && (lin < st->lo || lin >= st->hi)) {
        *x = (Exit){.kind = EXIT_STOP, .stop = STOP_LEFT};
        return true;
    }
    if (st->cpl & BIT(s->cpl)) {
        *x = (Exit){.kind = EXIT_STOP, .stop = STOP_CPL, .code = s->cpl};
        return true;
    }
    return false;
}

void stops_passed(Tcg *t, gva_t lin)
{
    if (t->stops && t->stops->pass && t->stops->pass_at == lin)
        t->stops->pass = false;
}
