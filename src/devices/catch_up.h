/*
 * Periodic ticks that a late host must make up for.
 *
 * A tick is due at a multiple of the period from where the device started, so lateness never shifts
 * the phase. Ticks that could not be delivered in time follow one after another, closer together
 * than the period, so that a guest that counts ticks keeps its time. Thirty seconds' worth is kept;
 * what is older is dropped: a process that was stopped for long should not be flooded.
 */
#ifndef TANDEM_DEVICES_CATCH_UP_H
#define TANDEM_DEVICES_CATCH_UP_H

#include "base/clock.h"

/* Ticks come no faster than this, whatever the guest programs: a shorter period would leave the
 * host no time for anything else. */
#define CATCH_UP_GAP_NS 50000ull

/* While a late tick's successors are due too, they follow as soon as the CPU has taken the one
 * before, without waiting for the host to wake a timer, which on a busy host would be late again
 * each time. No more than these in a row: a handler that lets interrupts in before it returns nests
 * that deep. */
#define CATCH_UP_BURST 16

#define CATCH_UP_KEEP_S 30

/*
 * All times in units of 1/hz seconds. *due is the moment of the next tick and is moved on when too
 * much piled up; returns when to deliver it, which is *due unless that is past. period > 0.
 */
static inline uint64_t catch_up(uint64_t *due, uint64_t period, uint64_t now, uint64_t hz)
{
    if (*due > now)
        return *due;
    if (now - *due > CATCH_UP_KEEP_S * hz)
        *due += (now - *due - CATCH_UP_KEEP_S * hz) / period * period;
    uint64_t least = (uint64_t)((unsigned __int128)CATCH_UP_GAP_NS * hz / NS_PER_S);
    uint64_t gap = now - *due > hz ? period / 32 : period / 4; /* far behind: make haste */
    return now + MAX_OF(MAX_OF(gap, least), 1);
}

/* Units of 1/hz s that have passed at `ns`, and the first ns at which `ticks` have. */
static inline uint64_t ns_to_ticks(uint64_t ns, uint64_t hz)
{
    return (uint64_t)((unsigned __int128)ns * hz / NS_PER_S);
}

static inline uint64_t ticks_to_ns(uint64_t ticks, uint64_t hz)
{
    unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_S + hz - 1) / hz;
    return ns >= NO_EXPIRY ? NO_EXPIRY - 1 : (uint64_t)ns;
}

#endif
