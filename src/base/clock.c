#include "base/clock.h"

#include <cpuid.h>
#include <glib.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/log.h"

/*
 * Guest time and guest TSC are two readings of one linear function: both are anchored in the host's
 * TSC, so a timer armed for a TSC value and one armed for the matching ns expire together.
 */
struct Clock {
    uint64_t host_khz, guest_khz;
    uint64_t base_ns;         /* guest ns at the last start or stop */
    uint64_t start_tsc;       /* host TSC at the last start */
    uint64_t slow, slow_from; /* clock_slow(): times; host TSC from which on */
    bool running, serving;    /* serving: timers_run() */
    _Atomic uint64_t late_at; /* timers_late_at() */
    Timer *head;              /* by expiry; machines have tens of timers, not thousands */
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

/*
 * The kernel's own calibration, as it hands it to user space for perf: ns = tsc * time_mult >>
 * time_shift (perf_event_open(2), cap_user_time). 0 where perf is not allowed or the kernel does
 * not trust the TSC.
 */
static uint64_t kernel_khz(void)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_SW_DUMMY,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    uint64_t khz = 0;
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        return 0;
    struct perf_event_mmap_page *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        if (p->cap_user_time && p->time_mult)
            khz = (uint64_t)(((unsigned __int128)1000000 << p->time_shift) / p->time_mult);
        munmap(p, 4096);
    }
    close(fd);
    return khz;
}

typedef struct Pair {
    uint64_t tsc, ns;
} Pair;

/* Host TSC and ns read together: the pair, of a few, whose reading was least disturbed. */
static Pair read_pair(void)
{
    uint64_t best = UINT64_MAX;
    Pair p = {0, 0};
    for (int i = 0; i < 64; i++) {
        uint64_t c0 = __rdtsc(), t = host_ns(), c1 = __rdtsc();
        if (c1 - c0 < best) {
            best = c1 - c0;
            p = (Pair){c0 + (c1 - c0) / 2, t};
        }
    }
    return p;
}

/* When the program began. */
static Pair first;
static __attribute__((constructor)) void read_first(void)
{
    first = read_pair();
}

/*
 * Against CLOCK_MONOTONIC since the program began, but at least 2 ms: only where CPUID and the
 * kernel are silent. CLOCK_MONOTONIC is made of the TSC itself, so what is lost is the resolution
 * of a pair, some 1 ns: half a millionth.
 */
static uint64_t measure_khz(void)
{
    Pair p;
    do {
        p = read_pair();
    } while (p.ns - first.ns < 2000000);
    return (uint64_t)((unsigned __int128)(p.tsc - first.tsc) * 1000000 / (p.ns - first.ns));
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
            khz = kernel_khz();
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

/* After what changed the earliest expiry, or when that is. */
static void note_late(Clock *c)
{
    uint64_t at = INT64_MAX;
    if (c->running && c->head && c->head->expire < NO_EXPIRY / 2) {
        int64_t left = (int64_t)(c->head->expire + TIMERS_LATE_NS - c->base_ns);
        at = left < 0 ? 0 : c->start_tsc + mul_div((uint64_t)left, c->host_khz, 1000000);
        at = MIN_OF(at, (uint64_t)INT64_MAX);
    }
    atomic_store_explicit(&c->late_at, -at, memory_order_relaxed);
}

Clock *clock_new(void)
{
    Clock *c = g_new0(Clock, 1);
    note_late(c);
    c->host_khz = clock_host_tsc_khz();
    c->guest_khz = c->host_khz;
    c->slow = 1;
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
    return c->base_ns + mul_div(__rdtsc() - c->start_tsc, 1000000, c->host_khz * c->slow);
}

void clock_start(Clock *c)
{
    if (c->running)
        return;
    c->start_tsc = __rdtsc();
    c->running = true;
    note_late(c);
}

void clock_stop(Clock *c)
{
    c->base_ns = clock_ns(c);
    c->running = false;
    note_late(c);
}

bool clock_running(const Clock *c)
{
    return c->running;
}

uint64_t clock_tsc(const Clock *c)
{
    uint64_t tsc = __rdtsc();
    if (unlikely(c->slow > 1))
        tsc = c->slow_from + (tsc - c->slow_from) / c->slow;
    return c->host_khz == c->guest_khz ? tsc : mul_div(tsc, c->guest_khz, c->host_khz);
}

bool clock_tsc_is_host(const Clock *c)
{
    return c->host_khz == c->guest_khz && c->slow == 1;
}

void clock_slow(Clock *c, unsigned times)
{
    c->slow = times;
    c->slow_from = __rdtsc();
}

uint64_t clock_host_ns(const Clock *c, uint64_t ns)
{
    return ns * c->slow;
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
    if (!t->pending)
        return;
    unlink_timer(t);
    note_late(t->clock);
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
    if (log_on(LOG_TIMER))
        log_line("timer %p at %" G_GUINT64_FORMAT " ns, in %" G_GINT64_FORMAT, (void *)t, expire_ns,
                 (gint64)(expire_ns - clock_ns(c)));
    Timer **p = &c->head;
    while (*p && (*p)->expire <= expire_ns)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    if (c->head != t)
        return;
    note_late(c);
    if (c->notify && !c->serving)
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

uint64_t timers_next(const Clock *c)
{
    return c->running && c->head ? c->head->expire : NO_EXPIRY;
}

uint64_t timers_run(Clock *c)
{
    /* One reading for the whole pass: a periodic timer that is late catches up tick by tick, and a
     * host slower than the timer still leaves this loop. */
    uint64_t now = clock_ns(c);
    c->serving = true;
    while (c->running && c->head && c->head->expire <= now) {
        Timer *t = c->head;
        unlink_timer(t);
        if (log_on(LOG_TIMER))
            log_line("timer %p fires, %" G_GUINT64_FORMAT " ns late", (void *)t, now - t->expire);
        t->fn(t->opaque);
    }
    c->serving = false;
    note_late(c);
    return timers_next(c);
}

const _Atomic uint64_t *timers_late_at(const Clock *c)
{
    return &c->late_at;
}

bool timers_late(const Clock *c)
{
    return (int64_t)(__rdtsc() + atomic_load_explicit(&c->late_at, memory_order_relaxed)) >= 0;
}

void timers_set_notify(Clock *c, void (*fn)(void *), void *opaque)
{
    c->notify = fn;
    c->notify_opaque = opaque;
}
