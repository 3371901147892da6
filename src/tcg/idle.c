/*
 * What an idle guest holds. Booting fills the caches of code with what never runs again: tens of
 * megabytes. When a vCPU has done next to nothing for some seconds, all its decoded and translated
 * code and the translator's tables go back to the host; what still runs is made again.
 */
#include "tcg/idle.h"

#include <malloc.h>
#include <x86intrin.h>
#include "tcg/jit.h"

#define WINDOW_MS   3000u
#define BUSY_PART   20u        /* idle: busy for less than this part of the window */
#define WORTH_BYTES (4u << 20) /* of blocks; below it stays */

static void trim(Tcg *t)
{
    blocks_drop_all(t);
    if (t->jit)
        jit_give_back(t->jit);
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

void idle_run_ends(Tcg *t)
{
    t->idle.busy += __rdtsc() - t->idle.begun;
}
