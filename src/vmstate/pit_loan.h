/*
 * The 8254 lent to KVM: its state in KVM's form, and what has become of it when it is given back.
 *
 * KVM begins all counts at the moment it is given them, and keeps to itself when counter 0 began.
 * So what it is given stands for a state that stays on our side, and as long as the guest has not
 * written to a counter, that state is what it comes back to: with the phase it had, however often
 * it is lent. Pure functions; times in ticks of the 8254's clock, on the machine's.
 */
#ifndef TANDEM_VMSTATE_PIT_LOAN_H
#define TANDEM_VMSTATE_PIT_LOAN_H

#include "cpu/chips.h"

/* A count that comes back within 200 us of the phase it left with has that phase still. */
#define PIT_PHASE_TICKS (PIT_HZ / 5000)
/* KVM counts in 32 bits, of which the guest sees 16: what must not end is given an hour. */
#define PIT_NEVER 0xfff00000u

/* What KVM's counter 0 has to raise IRQ 0 for. */
enum PitTicks {
    PIT_NONE,
    PIT_ONCE, /* at the end of what is left of a one-shot count */
    PIT_EACH  /* at each end of the count */
};

typedef struct PitLoan {
    KvmPit given; /* as KVM holds it right behind */
    enum PitTicks ticks;
    uint64_t at;    /* when counter 0 began there, */
    uint64_t slack; /* or as much before or behind */
} PitLoan;

/*
 * The state for KVM from `now` on. each: it is to raise the ticks of a periodic count, which it
 * begins now; not while another count waits to be used.
 */
void pit_lend(const PitState *, uint64_t now, bool each, KvmPit *, PitLoan *);

/* Counter 0 as seen in KVM: its count and OUT (of modes 1, 4 and 5 as if it were mode 0). */
typedef struct PitLook {
    uint16_t count;
    bool out;
    uint64_t at;    /* tick; the look was then, or before by `took` at the most */
    uint64_t at_ns; /* the same moment on the host's CLOCK_MONOTONIC */
    uint64_t took;
} PitLook;

/* When KVM's counter 0 last came to an end, and will do next; 0: not yet, or never. */
void pit_ends(const KvmPit *, const PitLook *, uint64_t *last, uint64_t *next);

/*
 * s, as it was lent, becomes what KVM's stands for at `now`, up to which KVM has ticked. True: the
 * guest has not written to counter 0, and so many of the ticks that are due in s have been made.
 * Else due are those after `now`.
 */
bool pit_return(PitState *s, const PitLoan *, const KvmPit *, const PitLook *, uint64_t now,
                uint64_t *made);

#endif
