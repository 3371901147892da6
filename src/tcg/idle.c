/*
 * Idle guests.
 *
 * What they hold: booting fills the caches of code with what never runs again: tens of
 * megabytes. When a vCPU has done next to nothing for some seconds, all its decoded and translated
 * code and the translator's tables go back to the host; what still runs is made again.
 *
 * Those that do not look idle: a kernel that spins on PAUSE without touching a device, on the only
 * vCPU, waits for time to pass or for an interrupt. Nothing else can change what it looks at. So
 * its thread sleeps for an eighth of the time that this has been going on, or until the next
 * interrupt: what waits for time is over that much too late at the most.
 */
#include "tcg/idle.h"

#include <malloc.h>
#include <x86intrin.h>
#include "tcg/translator.h"

#define WINDOW_MS   3000u
#define BUSY_PART   20u        /* idle: busy for less than this part of the window */
#define WORTH_BYTES (4u << 20) /* of blocks; below it stays */

static void trim(Tcg *t)
{
    blocks_drop_all(t);
    tlb_give_back(t);
    if (t->translator)
        t->translator->give_back(t);
    malloc_trim(0);
}

void idle_run_begins(Tcg *t)
{
    IdleWatch *w = &t->idle;
    uint64_t now = __rdtsc();
    if (now - w->window > clock_host_tsc_khz() * WINDOW_MS) {
        if (w->window && w->busy < (now - w->window) / BUSY_PART && t->blocks->used > WORTH_BYTES)
            trim(t);
        w->window = now;
        w->busy = 0;
    }
    w->begun = now;
}

#define PAUSE_NS 400u /* from one to the next, at most: nothing else is done between them */
#define SPIN_US  200u /* before the first sleep */
#define NAP_MOST 1000000u

void idle_spins(Tcg *t, const Insn *i)
{
    Vcpu *v = t->v;
    if (!t->translator || !v->nap || v->vm->n_vcpus > 1 || v->vm->cpu_pm || t->cpl || t->limited ||
        t->counted)
        return;
    IdleWatch *w = &t->idle;
    uint64_t now = __rdtsc(), khz = clock_host_tsc_khz();
    uint64_t others = t->translator->handlers(t) - t->pauses;
    if (w->spin.at != i || w->spin.others != others ||
        now - w->spin.last > (uint64_t)IDLE_PAUSES * PAUSE_NS * khz / 1000000) {
        w->spin.at = i;
        w->spin.others = others;
        w->spin.since = now;
    }
    uint64_t us = (now - w->spin.since) * 1000 / khz;
    if (us > SPIN_US)
        v->nap(v, MIN_OF(us * 1000 / 8, NAP_MOST));
    w->spin.last = __rdtsc();
}

void idle_run_ends(Tcg *t)
{
    t->idle.busy += __rdtsc() - t->idle.begun;
}
