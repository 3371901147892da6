/*
 * MONITOR and MWAIT of the software engines (SDM vol. 3, 9.10.4).
 *
 * Nobody tells of a store to the line: another vCPU may do it in translated code, in KVM, or a
 * device. So MONITOR keeps a copy, MWAIT ends when memory differs from it, and the loop, where a
 * vCPU sleeps that is in MWAIT (RUN_MWAIT), looks from time to time. A store that changes nothing
 * goes unseen; therefore no MWAIT lasts longer than MWAIT_MOST_NS. The manual allows it to end for
 * no reason, and so it does when the copy is lost.
 *
 * All of it is the vCPU's own thread's.
 */
#ifndef TANDEM_CPU_MWAIT_H
#define TANDEM_CPU_MWAIT_H

#include "cpu/vcpu.h"

#define MWAIT_MOST_NS 200000000u

/* What CPUID leaf 5 says MWAIT takes in ECX: bit 0, an interrupt ends it also while IF is clear. */
#define MWAIT_ECX_INTERRUPT 1u

/* Watches the line that gpa is in. Where there is no RAM, nothing is watched. */
void mwait_arm(Vcpu *, gpa_t gpa);
/* Whether MWAIT need not wait (any more): nothing is watched, or the line was written to. */
bool mwait_over(const Vcpu *);

static inline void mwait_disarm(Vcpu *v)
{
    v->monitor.armed = false;
}

#endif
