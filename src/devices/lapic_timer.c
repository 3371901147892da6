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

enum { MODE_PERIODIC = APIC_PERIODIC, MODE_DEADLINE = APIC_DEADLINE };

static unsigned mode(uint32_t lvt)
{
    return apic_timer_mode(lvt);
}

static uint64_t divider(const Lapic *l)
{
    return apic_divider(l->timer_divide);
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

/* ---- state out and in ---- */

/* Who takes a periodic count elsewhere starts it some microseconds late, each time. If it comes
 * back within this of the phase it left with, it never left that phase. */
#define PHASE_NS 200000ull

void lapic_timer_save(Lapic *l, LapicState *s)
{
    if (timer_pending(l->timer) && timer_expiry(l->timer) <= clock_ns(l->board->clock)) {
        timer_del(l->timer);
        lapic_timer_expired(l);
    }
    s->initial = l->timer_initial;
    s->divide = l->timer_divide;
    s->left = 0;
    s->at_ns = 0;
    s->running = l->timer_running;
    s->due_ns = l->timer_running ? ticks_to_ns(l->timer_due, l->bus_hz) : 0;
    s->tsc_deadline = l->tsc_deadline;
}

/* The moment of the old phase that is nearest to `due`, if it is near. */
static uint64_t keep_phase(const Lapic *l, uint64_t due)
{
    uint64_t p = period(l), near = ns_to_ticks(PHASE_NS, l->bus_hz);
    uint64_t off = (due - l->timer_due) % p;
    if (due < l->timer_due)
        off = (p - (l->timer_due - due) % p) % p;
    if (off <= near && off < p / 4)
        return due - off;
    if (p - off <= near && p - off < p / 4)
        return due + (p - off);
    return due;
}

void lapic_timer_load(Lapic *l, const LapicState *s)
{
    unsigned m = mode(s->lvt[LVT_TIMER]);
    bool same = l->timer_running && s->running && m == MODE_PERIODIC && l->timer_initial &&
                mode(l->lvt[LVT_TIMER]) == m && l->timer_initial == s->initial &&
                l->timer_divide == s->divide;
    uint64_t due = ns_to_ticks(s->due_ns, l->bus_hz);
    l->timer_initial = s->initial;
    l->timer_divide = s->divide;
    l->timer_running = s->running && s->initial && m != MODE_DEADLINE;
    l->timer_due = !l->timer_running ? 0 : same ? keep_phase(l, due) : due;
    l->timer_start = l->timer_due - period(l);
    l->tsc_deadline = m == MODE_DEADLINE ? s->tsc_deadline : 0;
}

void lapic_timer_arm(Lapic *l)
{
    timer_del(l->timer);
    if (mode(l->lvt[LVT_TIMER]) == MODE_DEADLINE)
        arm_deadline(l);
    else if (l->timer_running)
        arm_at(l, l->timer_due);
}
