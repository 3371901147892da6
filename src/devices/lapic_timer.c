/*
 * Local APIC timer (SDM vol. 3, 11.5.4): one-shot, periodic, TSC-deadline.
 *
 * The bus clock is the core crystal clock that CPUID leaf 0x15 announces: the TSC's frequency
 * divided by the smallest number that makes it fit in 32 bits. So a guest that takes the frequency
 * from CPUID and one that measures it agree. Counts are computed from the machine's clock; nothing
 * is stepped. Periodic expiries are multiples of the period from the start; one that falls due
 * while the last still waits in IRR follows it (catch_up.h), so ticks are neither shifted nor lost.
 */
#include "devices/catch_up.h"
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

uint64_t lapic_bus_hz(const Clock *clock)
{
    uint64_t hz = clock_tsc_khz(clock) * 1000, ratio = hz / (1ull << 32) + 1;
    return hz / ratio;
}

static uint64_t now_tick(const Lapic *l)
{
    return ns_to_ticks(clock_ns(l->board->clock), l->bus_hz);
}

static uint64_t period(const Lapic *l)
{
    return l->timer_initial * divider(l);
}

static void arm_deadline(Lapic *l)
{
    uint64_t tsc = l->cpu.tsc(l->cpu.opaque);
    timer_del(l->timer);
    /* One that is a century away (all ones, say) does not come. */
    if (l->tsc_deadline && (l->tsc_deadline <= tsc || l->tsc_deadline - tsc < BIT(62)))
        timer_mod(l->timer, l->cpu.ns_at_tsc(l->cpu.opaque, l->tsc_deadline));
}

static void arm_at(Lapic *l, uint64_t tick)
{
    timer_mod(l->timer, ticks_to_ns(tick, l->bus_hz));
}

static void deadline_expired(Lapic *l)
{
    /* ns are rounded: never early by the guest's own clock. */
    if (l->cpu.tsc(l->cpu.opaque) < l->tsc_deadline) {
        arm_deadline(l);
        return;
    }
    l->tsc_deadline = 0;
    lapic_local(l, LVT_TIMER);
}

static void expire(Lapic *l)
{
    uint32_t lvt = l->lvt[LVT_TIMER];
    if (mode(lvt) == MODE_DEADLINE) {
        deadline_expired(l);
        return;
    }
    if (mode(lvt) != MODE_PERIODIC) {
        l->timer_running = false;
        lapic_local(l, LVT_TIMER);
        return;
    }
    uint64_t now = now_tick(l);
    bool waits = !(lvt & LVT_MASKED) && lapic_requested(l, (uint8_t)lvt);
    if (!waits) {
        lapic_local(l, LVT_TIMER);
        l->timer_due += period(l);
    }
    arm_at(l, catch_up(&l->timer_due, period(l), now, l->bus_hz));
}

void lapic_timer_expired(void *opaque)
{
    Lapic *l = opaque;
    l->timer_burst = 0;
    expire(l);
}

void lapic_timer_taken(Lapic *l)
{
    if (mode(l->lvt[LVT_TIMER]) != MODE_PERIODIC || !l->timer_running ||
        l->timer_burst >= CATCH_UP_BURST || now_tick(l) < l->timer_due)
        return;
    l->timer_burst++;
    expire(l);
}

uint32_t lapic_timer_current(const Lapic *l)
{
    uint32_t lvt = l->lvt[LVT_TIMER];
    if (mode(lvt) == MODE_DEADLINE || !l->timer_running)
        return 0;
    uint64_t passed = (now_tick(l) - l->timer_start) / divider(l);
    if (mode(lvt) == MODE_PERIODIC)
        return l->timer_initial - (uint32_t)(passed % l->timer_initial);
    return passed < l->timer_initial ? l->timer_initial - (uint32_t)passed : 0;
}

/* Counts from now, `passed` counts of the initial ones being over. */
static void start(Lapic *l, uint32_t passed)
{
    uint64_t over = passed * divider(l), now = now_tick(l);
    l->timer_running = l->timer_initial != 0;
    if (!l->timer_running) {
        timer_del(l->timer);
        return;
    }
    l->timer_start = now - over; /* may wrap; only differences count */
    l->timer_due = now + (period(l) - over);
    arm_at(l, l->timer_due);
}

void lapic_timer_write_initial(Lapic *l, uint32_t v)
{
    if (mode(l->lvt[LVT_TIMER]) == MODE_DEADLINE) /* 11.5.4.1: ignored */
        return;
    l->timer_initial = v;
    start(l, 0);
}

/* The count goes on from where it is, at the new rate. */
void lapic_timer_write_divide(Lapic *l, uint32_t v)
{
    uint32_t left = lapic_timer_current(l);
    l->timer_divide = v;
    if (l->timer_running)
        start(l, l->timer_initial - left);
}

void lapic_timer_write_deadline(Lapic *l, uint64_t tsc)
{
    if (mode(l->lvt[LVT_TIMER]) != MODE_DEADLINE)
        return;
    l->tsc_deadline = tsc;
    arm_deadline(l);
}

/* Between TSC-deadline and the others the timer is disarmed (11.5.4.1); from one-shot to periodic
 * and back the count goes on. */
void lapic_timer_lvt_written(Lapic *l, uint32_t old)
{
    unsigned was = mode(old), is = mode(l->lvt[LVT_TIMER]);
    if (was == is)
        return;
    if (was == MODE_DEADLINE || is == MODE_DEADLINE) {
        lapic_timer_disarm(l);
    } else if (was == MODE_PERIODIC && l->timer_running) {
        uint64_t passed = (now_tick(l) - l->timer_start) / divider(l) % l->timer_initial;
        start(l, (uint32_t)passed);
    }
}

void lapic_timer_disarm(Lapic *l)
{
    l->timer_initial = 0;
    l->timer_start = l->timer_due = l->tsc_deadline = 0;
    l->timer_running = false;
    timer_del(l->timer);
}

void lapic_timer_reset(Lapic *l)
{
    l->timer_divide = 0;
    lapic_timer_disarm(l);
}
