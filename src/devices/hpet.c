/*
 * HPET. The main counter is the machine's clock in units of 10 ns plus an offset. A comparator is
 * brought up to `now` before each access, so what a late timer has not run yet is never lost or
 * seen out of order; its timer only wakes it when there is something to do.
 */
#include "devices/hpet.h"

#include "devices/catch_up.h"

#define HPET_HZ   (1000000000000000ull / HPET_PERIOD_FS)
#define N_TIMERS  3
#define ROUTE_CAP 0x00f00000ull /* inputs 20-23, which no other device uses */

enum { CFG_ENABLE = 1, CFG_LEGACY = 2 };
enum {
    TN_LEVEL = 1 << 1,
    TN_ENABLE = 1 << 2,
    TN_PERIODIC = 1 << 3,
    TN_PERIODIC_CAP = 1 << 4,
    TN_SIZE_CAP = 1 << 5,
    TN_SETVAL = 1 << 6,
    TN_32BIT = 1 << 8,
    TN_ROUTE = 0x1f << 9,
    TN_WRITABLE = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SETVAL | TN_32BIT | TN_ROUTE,
};

struct Hpet;
typedef struct Comparator {
    struct Hpet *hpet;
    unsigned n;
    uint64_t config;
    uint64_t value;  /* what the counter is compared with; periodic: the accumulator */
    uint64_t period; /* last value written in periodic mode */
    uint64_t seen;   /* counter up to which matches have been looked for */
    uint64_t owed;   /* periodic matches not yet delivered as edges */
    unsigned burst;  /* edges since the timer ran */
    bool edge;       /* edge mode: state of the output, which falls just before the next rise */
    bool line;       /* what is driven */
    Timer *timer;
} Comparator;

typedef struct Hpet {
    Device dev;
    Comparator t[N_TIMERS];
    uint64_t config, status;
    uint64_t counter; /* when halted; else counter minus clock ticks */
    void (*legacy)(void *opaque, bool on);
    void *legacy_opaque;
    bool (*busy)(void *opaque);
    void *busy_opaque;
    IoRegion *region;
} Hpet;

static uint64_t ticks(const Hpet *h)
{
    return ns_to_ticks(clock_ns(h->dev.board->clock), HPET_HZ);
}

static uint64_t counter(const Hpet *h)
{
    return h->config & CFG_ENABLE ? ticks(h) + h->counter : h->counter;
}

static bool legacy_route(const Comparator *c)
{
    return (c->hpet->config & CFG_LEGACY) && c->n < 2;
}

static const IrqLine *output(const Comparator *c)
{
    const Board *b = c->hpet->dev.board;
    if (legacy_route(c))
        return c->n == 0 ? &b->isa_irq[0] : &b->isa_irq[8];
    unsigned route = c->config >> 9 & 0x1f;
    return route < ARRAY_LEN(b->gsi) && (ROUTE_CAP >> route & 1) ? &b->gsi[route] : NULL;
}

static uint64_t width(const Comparator *c)
{
    return c->config & TN_32BIT ? 0xffffffffull : ~0ull;
}

static void set_line(Comparator *c, bool level)
{
    const IrqLine *l = output(c);
    if (level != c->line && l)
        irq_set(l, level);
    c->line = level;
}

/* 2.3.8: the interrupt is the status bit if level-triggered; both enables gate it. */
static void drive(Comparator *c)
{
    bool level = c->config & TN_LEVEL ? c->hpet->status >> c->n & 1 : c->edge;
    set_line(c, level && (c->config & TN_ENABLE) && (c->hpet->config & CFG_ENABLE));
}

/* Ticks of the counter from just after `from` to the next match at a masked value. */
static uint64_t until_match(const Comparator *c, uint64_t from)
{
    uint64_t left = (c->value - from) & width(c);
    return left ? left : width(c) == ~0ull ? ~0ull : width(c) + 1;
}

/* A pulse on the output; false: the last one still waits for its CPU. */
static bool pulse(Comparator *c)
{
    const Hpet *h = c->hpet;
    if (c->n == 0 && legacy_route(c) && h->busy && c->line && h->busy(h->busy_opaque))
        return false;
    c->edge = false;
    drive(c);
    c->edge = true;
    drive(c);
    return true;
}

static void match(Comparator *c, uint64_t times)
{
    if (c->config & TN_LEVEL) {
        c->hpet->status |= BIT(c->n);
        drive(c);
    } else if (c->config & TN_ENABLE) {
        c->owed += times;
    }
}

/* Looks for matches up to now and moves the accumulator on. */
static void advance(Comparator *c)
{
    const Hpet *h = c->hpet;
    if (!(h->config & CFG_ENABLE))
        return;
    uint64_t now = counter(h), passed = now - c->seen, left = until_match(c, c->seen);
    c->seen = now;
    if (passed < left)
        return;
    uint64_t times = 1;
    if (c->config & TN_PERIODIC && c->period) {
        times += (passed - left) / c->period;
        c->value = (c->value + times * c->period) & width(c);
    }
    match(c, times);
}

/* Delivers what is owed, as fast as the other side takes it, and arms the timer for what is next.
 */
static void service(Comparator *c)
{
    const Hpet *h = c->hpet;
    advance(c);
    timer_del(c->timer);
    if (!(h->config & CFG_ENABLE))
        return;
    uint64_t now = ticks(h);
    /* Without an interrupt to raise, matches are looked for when somebody asks. */
    if (!(c->config & TN_ENABLE) || (c->config & TN_LEVEL && h->status >> c->n & 1))
        return;
    if (c->owed && pulse(c))
        c->owed--;
    uint64_t left = until_match(c, c->seen);
    if (c->owed) {
        uint64_t due = now, period = c->config & TN_PERIODIC && c->period ? c->period : 1;
        c->owed = MIN_OF(c->owed, CATCH_UP_KEEP_S * HPET_HZ / period + 1);
        left = catch_up(&due, period, now, HPET_HZ) - now;
    } else if (c->config & TN_PERIODIC) { /* no faster than CATCH_UP_GAP_NS */
        left = MAX_OF(left, CATCH_UP_GAP_NS * HPET_HZ / NS_PER_S / 2);
    }
    if (left < UINT64_MAX / 20 - now)
        timer_mod(c->timer, ticks_to_ns(now + left, HPET_HZ));
}

static void expired(void *opaque)
{
    ((Comparator *)opaque)->burst = 0;
    service(opaque);
}

static void write_config(Hpet *h, uint64_t v)
{
    uint64_t old = h->config;
    v &= CFG_ENABLE | CFG_LEGACY;
    for (unsigned i = 0; i < N_TIMERS; i++) {
        advance(&h->t[i]);
        if ((v ^ old) & CFG_LEGACY) { /* off the old route */
            h->t[i].edge = false;
            h->t[i].owed = 0;
            set_line(&h->t[i], false);
        }
    }
    if ((v ^ old) & CFG_ENABLE)
        h->counter = v & CFG_ENABLE ? h->counter - ticks(h) : counter(h);
    h->config = v;
    if ((v ^ old) & CFG_LEGACY && h->legacy)
        h->legacy(h->legacy_opaque, v & CFG_LEGACY);
    for (unsigned i = 0; i < N_TIMERS; i++) {
        Comparator *c = &h->t[i];
        if ((v ^ old) & CFG_ENABLE) {
            c->seen = counter(h);
            c->edge = false;
        }
        drive(c);
        service(c);
    }
}

static void write_timer_config(Comparator *c, uint64_t v)
{
    unsigned route = v >> 9 & 0x1f;
    advance(c);
    c->owed = 0;
    c->edge = false;
    set_line(c, false);
    if (!(ROUTE_CAP >> route & 1)) /* 2.3.8: a route that is not offered does not stick */
        v = (v & ~(uint64_t)TN_ROUTE) | (c->config & TN_ROUTE);
    c->config = (c->config & ~(uint64_t)TN_WRITABLE) | (v & TN_WRITABLE);
    if (!(c->config & TN_PERIODIC))
        c->config &= ~(uint64_t)TN_SETVAL;
    if (!(c->config & TN_LEVEL)) /* the status bit belongs to level mode */
        c->hpet->status &= ~BIT(c->n);
    c->value &= width(c);
    c->period &= width(c);
    drive(c);
    service(c);
}

/*
 * 2.3.9.2.2: in periodic mode a write sets the period; with SETVAL on just before, the accumulator
 * too. `mask` says which bytes are written: the others stay, of both.
 */
static void write_comparator(Comparator *c, uint64_t v, uint64_t mask)
{
    advance(c);
    mask &= width(c);
    if (!(c->config & TN_PERIODIC) || (c->config & TN_SETVAL))
        c->value = (c->value & ~mask) | (v & mask);
    if (c->config & TN_PERIODIC)
        c->period = (c->period & ~mask) | (v & mask);
    /* A guest that was held up between setting accumulator and period finds the first match past:
     * it counts, or the timer would be silent until the counter comes round. */
    uint64_t behind = (counter(c->hpet) - c->value) & width(c);
    if (c->config & TN_PERIODIC && !(c->config & TN_SETVAL) && behind < width(c) / 2)
        c->seen = counter(c->hpet) - behind - 1;
    c->config &= ~(uint64_t)TN_SETVAL;
    c->value &= width(c);
    c->period &= width(c);
    service(c);
}

static uint64_t read64(Hpet *h, unsigned at)
{
    switch (at) {
    case 0x00:
        return (uint64_t)HPET_PERIOD_FS << 32 | 0x8086u << 16 | 1u << 15 | 1u << 13 |
               (N_TIMERS - 1) << 8 | 1;
    case 0x10:
        return h->config;
    case 0x20:
        for (unsigned i = 0; i < N_TIMERS; i++)
            advance(&h->t[i]);
        return h->status;
    case 0xf0:
        return counter(h);
    }
    if (at >= 0x100 && at < 0x100 + N_TIMERS * 0x20) {
        Comparator *c = &h->t[(at - 0x100) / 0x20];
        if ((at & 0x1f) == 0)
            return (c->config & ~(uint64_t)TN_SETVAL) | ROUTE_CAP << 32;
        if ((at & 0x1f) == 8) {
            advance(c);
            return c->value;
        }
    }
    return 0;
}

static void write64(Hpet *h, unsigned at, uint64_t v, uint64_t mask)
{
    switch (at) {
    case 0x10:
        if (mask & 0xff)
            write_config(h, v);
        return;
    case 0x20: /* write 1 to clear */
        for (unsigned i = 0; i < N_TIMERS; i++) {
            Comparator *c = &h->t[i];
            advance(c);
            if (v & mask & BIT(i)) {
                h->status &= ~BIT(i);
                drive(c);
                service(c);
            }
        }
        return;
    case 0xf0:
        if (!(h->config & CFG_ENABLE)) /* writable while halted only */
            h->counter = (h->counter & ~mask) | (v & mask);
        return;
    }
    if (at >= 0x100 && at < 0x100 + N_TIMERS * 0x20) {
        Comparator *c = &h->t[(at - 0x100) / 0x20];
        if ((at & 0x1f) == 0 && (mask & 0xffffffff))
            write_timer_config(c, (c->config & ~mask) | (v & mask));
        else if ((at & 0x1f) == 8)
            write_comparator(c, v, mask);
    }
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    return read64(opaque, offset & ~7u) >> (offset & 7) * 8;
}

static void page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    unsigned shift = (offset & 7) * 8;
    write64(opaque, offset & ~7u, value << shift, size_mask(size) << shift);
}

static const IoOps page_ops = {.read = page_read, .write = page_write, .min = 4, .max = 8};

void hpet_connect(Device *dev, void (*legacy)(void *opaque, bool on), void *opaque)
{
    ((Hpet *)dev)->legacy = legacy;
    ((Hpet *)dev)->legacy_opaque = opaque;
}

void hpet_set_busy(Device *dev, bool (*busy)(void *opaque), void *opaque)
{
    ((Hpet *)dev)->busy = busy;
    ((Hpet *)dev)->busy_opaque = opaque;
}

void hpet_irq_taken(Device *dev)
{
    Comparator *c = &((Hpet *)dev)->t[0];
    if (!c->owed || !legacy_route(c) || c->burst >= CATCH_UP_BURST)
        return;
    c->burst++;
    service(c);
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Hpet *h = (Hpet *)dev;
    for (unsigned i = 0; i < N_TIMERS; i++) {
        h->t[i].hpet = h;
        h->t[i].n = i;
        h->t[i].timer = timer_new(dev->board->clock, expired, &h->t[i]);
    }
    h->region = io_map(dev->board->mmio, HPET_BASE, 0x400, &page_ops, h, "hpet");
    return true;
}

static void unrealize(Device *dev)
{
    Hpet *h = (Hpet *)dev;
    for (unsigned i = 0; i < N_TIMERS; i++)
        timer_free(h->t[i].timer);
    io_unmap(dev->board->mmio, h->region);
}

static void reset(Device *dev)
{
    Hpet *h = (Hpet *)dev;
    write_config(h, 0);
    h->counter = h->status = 0;
    for (unsigned i = 0; i < N_TIMERS; i++) {
        Comparator *c = &h->t[i];
        set_line(c, false);
        c->config = TN_SIZE_CAP | TN_PERIODIC_CAP;
        c->value = ~0ull;
        c->period = c->seen = c->owed = 0;
        c->edge = false;
    }
}

static void describe(Device *dev, GString *out)
{
    Hpet *h = (Hpet *)dev;
    g_string_append_printf(out, "hpet: config=%x status=%x counter=%" G_GINT64_MODIFIER "x\n",
                           (unsigned)h->config, (unsigned)h->status, counter(h));
    for (unsigned i = 0; i < N_TIMERS; i++)
        g_string_append_printf(out,
                               "hpet timer %u: config=%x comparator=%" G_GINT64_MODIFIER
                               "x period=%" G_GINT64_MODIFIER "x\n",
                               i, (unsigned)h->t[i].config, h->t[i].value, h->t[i].period);
}

const DeviceClass device_hpet = {
    .name = "hpet",
    .help = "high precision event timers",
    .size = sizeof(Hpet),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .describe = describe,
};
