#include "base/clock.h"

#include <cpuid.h>
#include <glib.h>
#include <time.h>
#include <x86intrin.h>

/*
 * Guest time and guest TSC are two readings of one linear function: both are anchored in the host's
 * TSC, so a timer armed for a TSC value and one armed for the matching ns expire together.
 */
struct Clock {
    uint64_t host_khz, guest_khz;
    uint64_t base_ns;   /* guest ns at the last start or stop */
    uint64_t start_tsc; /* host TSC at the last start */
    bool running;
    Timer *head; /* by expiry; machines have tens of timers, not thousands */
    void (*notify)(void *);
    void *notify_opaque;
};

struct Timer {
    Clock *clock;
    TimerFn *fn;
    void *opaque;
    uint64_t expire;
    Timer *next;
    bool pending;
};

static uint64_t host_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Measured against CLOCK_MONOTONIC_RAW over 10 ms: good to some 20 ppm, and only where CPUID is
 * silent. */
static uint64_t measure_khz(void)
{
    uint64_t t0 = host_ns(), c0 = __rdtsc(), t1;
    do {
        t1 = host_ns();
    } while (t1 - t0 < 10000000);
    uint64_t khz = (uint64_t)((unsigned __int128)(__rdtsc() - c0) * 1000000 / (t1 - t0));
    /* Nominal frequencies are multiples of 100 kHz; the measurement's own error is smaller than
     * half that. */
    uint64_t rounded = (khz + 50) / 100 * 100;
    return rounded;
}

uint64_t clock_host_tsc_khz(void)
{
    static gsize once;
    static uint64_t khz;
    if (g_once_init_enter(&once)) {
        unsigned a, b, c, d;
        if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
            khz = (uint64_t)c * b / a / 1000;
        if (!khz && __get_cpuid_max(0x40000000, NULL) >= 0x40000010) {
            __cpuid(0x40000010, a, b, c, d); /* the hypervisor timing leaf */
            khz = a;
        }
        if (!khz)
            khz = measure_khz();
        g_once_init_leave(&once, 1);
    }
    return khz;
}

static uint64_t mul_div(uint64_t v, uint64_t mul, uint64_t div)
{
    return (uint64_t)((unsigned __int128)v * mul / div);
}

Clock *clock_new(void)
{
    Clock *c = g_new0(Clock, 1);
    c->host_khz = clock_host_tsc_khz();
    c->guest_khz = c->host_khz;
    return c;
}

void clock_free(Clock *c)
{
    g_free(c);
}

uint64_t clock_ns(const Clock *c)
{
    if (!c->running)
        return c->base_ns;
    return c->base_ns + mul_div(__rdtsc() - c->start_tsc, 1000000, c->host_khz);
}

void clock_start(Clock *c)
{
    if (c->running)
        return;
    c->start_tsc = __rdtsc();
    c->running = true;
}

void clock_stop(Clock *c)
{
    c->base_ns = clock_ns(c);
    c->running = false;
}

bool clock_running(const Clock *c)
{
    return c->running;
}

uint64_t clock_tsc(const Clock *c)
{
    uint64_t tsc = __rdtsc();
    return c->host_khz == c->guest_khz ? tsc : mul_div(tsc, c->guest_khz, c->host_khz);
}

uint64_t clock_tsc_khz(const Clock *c)
{
    return c->guest_khz;
}

uint64_t clock_ns_at_tsc(const Clock *c, uint64_t tsc)
{
    uint64_t now = clock_tsc(c);
    if ((int64_t)(tsc - now) <= 0)
        return clock_ns(c);
    return clock_ns(c) + mul_div(tsc - now, 1000000, c->guest_khz) + 1;
}

Timer *timer_new(Clock *c, TimerFn *fn, void *opaque)
{
    Timer *t = g_new0(Timer, 1);
    t->clock = c;
    t->fn = fn;
    t->opaque = opaque;
    return t;
}

static void unlink_timer(Timer *t)
{
    for (Timer **p = &t->clock->head; *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            break;
        }
    }
    t->pending = false;
}

void timer_del(Timer *t)
{
    if (t->pending)
        unlink_timer(t);
}

void timer_free(Timer *t)
{
    if (!t)
        return;
    timer_del(t);
    g_free(t);
}

void timer_mod(Timer *t, uint64_t expire_ns)
{
    Clock *c = t->clock;
    timer_del(t);
    t->expire = expire_ns;
    t->pending = true;
    Timer **p = &c->head;
    while (*p && (*p)->expire <= expire_ns)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    if (c->head == t && c->notify)
        c->notify(c->notify_opaque);
}

bool timer_pending(const Timer *t)
{
    return t->pending;
}

uint64_t timer_expiry(const Timer *t)
{
    return t->pending ? t->expire : NO_EXPIRY;
}

uint64_t timers_run(Clock *c)
{
    /* One reading for the whole pass: a periodic timer that is late catches up tick by tick, and a
     * host slower than the timer still leaves this loop. */
    uint64_t now = clock_ns(c);
    while (c->running && c->head && c->head->expire <= now) {
        Timer *t = c->head;
        unlink_timer(t);
        t->fn(t->opaque);
    }
    return c->running && c->head ? c->head->expire : NO_EXPIRY;
}

void timers_set_notify(Clock *c, void (*fn)(void *), void *opaque)
{
    c->notify = fn;
    c->notify_opaque = opaque;
}
