/*
 * Local APIC timer (SDM vol. 3, 11.5.4): one-shot, periodic, TSC-deadline.
 *
 * The bus clock is 1 GHz: one count per ns of the machine's clock, times the divider. CPUID leaf
 * 0x15 gives the TSC, not this clock; guests calibrate it. Periodic expiries are multiples of the
 * period from the start, so a late host does not shift the phase; ticks that were missed meanwhile
 * collapse into one, as IRR is one bit.
 */
#include "devices/lapic_priv.h"

enum { MODE_ONE_SHOT, MODE_PERIODIC, MODE_DEADLINE };

static unsigned mode(uint32_t lvt)
{
    return lvt >> 17 & 3;
}

static uint64_t divider(const Lapic *l)
{
    unsigned code = (l->timer_divide & 3) | (l->timer_divide >> 1 & 4);
    return code == 7 ? 1 : 2ull << code;
}

static void arm(Lapic *l)
{
    uint32_t lvt = l->lvt[LVT_TIMER];
    timer_del(l->timer);
    if (mode(lvt) == MODE_DEADLINE) {
        if (l->tsc_deadline)
            timer_mod(l->timer, l->cpu.ns_at_tsc(l->cpu.opaque, l->tsc_deadline));
        return;
    }
    if (!l->timer_initial)
        return;
    uint64_t period = l->timer_initial * divider(l), now = clock_ns(l->board->clock);
    uint64_t expiry = l->timer_start_ns + period;
    if (expiry <= now) {
        if (mode(lvt) != MODE_PERIODIC)
            return;
        expiry += (now - expiry) / period * period + period;
    }
    timer_mod(l->timer, expiry);
}

void lapic_timer_expired(void *opaque)
{
    Lapic *l = opaque;
    uint32_t lvt = l->lvt[LVT_TIMER];
    if (mode(lvt) == MODE_DEADLINE) {
        /* ns are rounded: never early by the guest's own clock. */
        if ((int64_t)(l->cpu.tsc(l->cpu.opaque) - l->tsc_deadline) < 0) {
            arm(l);
            return;
        }
        l->tsc_deadline = 0;
    }
    if (!(lvt & LVT_MASKED))
        lapic_set_irr(l, (uint8_t)lvt, false);
    if (mode(lvt) == MODE_PERIODIC)
        arm(l);
}

uint32_t lapic_timer_current(const Lapic *l)
{
    if (mode(l->lvt[LVT_TIMER]) == MODE_DEADLINE || !l->timer_initial)
        return 0;
    uint64_t passed = (clock_ns(l->board->clock) - l->timer_start_ns) / divider(l);
    if (mode(l->lvt[LVT_TIMER]) == MODE_PERIODIC)
        return l->timer_initial - (uint32_t)(passed % l->timer_initial);
    return passed < l->timer_initial ? l->timer_initial - (uint32_t)passed : 0;
}

void lapic_timer_write_initial(Lapic *l, uint32_t v)
{
    if (mode(l->lvt[LVT_TIMER]) == MODE_DEADLINE)
        return;
    l->timer_initial = v;
    l->timer_start_ns = clock_ns(l->board->clock);
    arm(l);
}

void lapic_timer_write_divide(Lapic *l, uint32_t v)
{
    uint32_t left = lapic_timer_current(l);
    l->timer_divide = v;
    /* The count goes on from where it is, at the new rate. */
    if (l->timer_initial) {
        l->timer_start_ns = clock_ns(l->board->clock) - (l->timer_initial - left) * divider(l);
        arm(l);
    }
}

void lapic_timer_write_deadline(Lapic *l, uint64_t tsc)
{
    if (mode(l->lvt[LVT_TIMER]) != MODE_DEADLINE)
        return;
    l->tsc_deadline = tsc;
    arm(l);
}

void lapic_timer_lvt_written(Lapic *l, uint32_t old)
{
    uint32_t lvt = l->lvt[LVT_TIMER];
    if (mode(old) == mode(lvt))
        return;
    /* Between deadline and the others the timer is disarmed; between one-shot and periodic it goes
     * on. */
    if (mode(old) == MODE_DEADLINE || mode(lvt) == MODE_DEADLINE) {
        l->tsc_deadline = 0;
        l->timer_initial = 0;
    }
    arm(l);
}

void lapic_timer_reset(Lapic *l)
{
    l->timer_initial = l->timer_divide = 0;
    l->timer_start_ns = 0;
    l->tsc_deadline = 0;
    timer_del(l->timer);
}
