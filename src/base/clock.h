/*
 * The one clock of a machine, and the timers that run on it.
 *
 * Guest time in ns starts at 0 with the machine and stands still while the machine is stopped. The
 * guest's TSC is the host's, scaled and offset the same way in every engine:
 *     guest_tsc = host_tsc * tsc_khz / host_khz + vCPU's tsc_offset     (offset in CpuState)
 * unless clock_slow() has been called.
 * Reading is lock-free from any thread. Timers are armed and run under the machine lock (below);
 * their callbacks run on the thread that calls timers_run(), in expiry order.
 */
#ifndef TANDEM_BASE_CLOCK_H
#define TANDEM_BASE_CLOCK_H

#include <stdatomic.h>

#include "base/types.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull
#define NO_EXPIRY UINT64_MAX

typedef struct Clock Clock;
typedef struct Timer Timer;
typedef void TimerFn(void *opaque);

Clock *clock_new(void); /* stopped, at 0 */
void clock_free(Clock *);
void clock_start(Clock *);
void clock_stop(Clock *);
bool clock_running(const Clock *);
uint64_t clock_ns(const Clock *); /* guest ns since machine start; never goes back */

/* Of a clock that is stopped: from here on it runs so many times slower than the host's, and the
 * guest's TSC with it. */
void clock_slow(Clock *, unsigned times);
/* What `ns` on this clock are on the host's. */
uint64_t clock_host_ns(const Clock *, uint64_t ns);

/* Frequency of the host's TSC in kHz: from CPUID 0x15/0x16, the kernel, or measured; computed once.
 */
uint64_t clock_host_tsc_khz(void);
/* Guest TSC before the vCPU's offset. */
uint64_t clock_tsc(const Clock *);
uint64_t clock_tsc_khz(const Clock *);
bool clock_tsc_is_host(const Clock *); /* it is the host's as it is */
/* ns on this clock at which the (offset-less) guest TSC reaches `tsc`; now if it is in the past. */
uint64_t clock_ns_at_tsc(const Clock *, uint64_t tsc);

Timer *timer_new(Clock *, TimerFn *fn, void *opaque);
void timer_free(Timer *);
void timer_mod(Timer *, uint64_t expire_ns); /* absolute, clock_ns() units; re-arms */
void timer_del(Timer *);
bool timer_pending(const Timer *);
uint64_t timer_expiry(const Timer *); /* NO_EXPIRY when not pending */

/* Runs what has expired; returns the next expiry or NO_EXPIRY. Machine lock held. */
uint64_t timers_run(Clock *);
/* The next expiry; NO_EXPIRY when there is none or the clock stands still. Machine lock held. */
uint64_t timers_next(const Clock *);
/* The earliest has been due for this long: who runs timers is late. */
#define TIMERS_LATE_NS (NS_PER_MS / 5)
/* Minus the host's TSC from which on that is so; that plus a TSC is negative until then. Changes
 * with the machine lock held, and can be read without. */
const _Atomic uint64_t *timers_late_at(const Clock *);
/* Is it so? Any thread. */
bool timers_late(const Clock *);
/* Called, with the lock held, when there is a new earliest expiry, but not by what timers_run()
 * runs: whoever called that is told. Not when a timer is deleted. */
void timers_set_notify(Clock *, void (*fn)(void *opaque), void *opaque);

#endif
