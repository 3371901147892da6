/* HPET. The counter is the machine's clock in units of 10 ns plus an offset; comparators arm one
 * timer each. */
#include "devices/hpet.h"

#define TICK_NS   10ull
#define N_TIMERS  3
#define ROUTE_CAP 0x00f00104ull /* GSI 2, 8, 20-23 */

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
    uint64_t config, value, period;
    Timer *timer;
} Comparator;

typedef struct Hpet {
    Device dev;
    Comparator t[N_TIMERS];
    uint64_t config, status;
    uint64_t counter; /* when stopped; else counter minus clock ticks */
    void (*legacy)(void *, bool);
    void *legacy_opaque;
    IoRegion *region;
} Hpet;

static uint64_t ticks(const Hpet *h)
{
    return clock_ns(h->dev.board->clock) / TICK_NS;
}

static uint64_t counter(const Hpet *h)
{
    return h->config & CFG_ENABLE ? ticks(h) + h->counter : h->counter;
}

static const IrqLine *line(const Comparator *c)
{
    const Board *b = c->hpet->dev.board;
    if ((c->hpet->config & CFG_LEGACY) && c->n < 2)
        return c->n == 0 ? &b->isa_irq[0] : &b->isa_irq[8];
    unsigned route = c->config >> 9 & 0x1f;
    return route < ARRAY_LEN(b->gsi) && (ROUTE_CAP >> route & 1) ? &b->gsi[route] : NULL;
}

static uint64_t width(const Comparator *c)
{
    return c->config & TN_32BIT ? 0xffffffffull : ~0ull;
}

static void arm(Comparator *c)
{
    Hpet *h = c->hpet;
    timer_del(c->timer);
    if (!(h->config & CFG_ENABLE) || !(c->config & TN_ENABLE))
        return;
    /* Distance by the width of the comparator: a 32-bit one that was passed comes round again. */
    uint64_t now = counter(h), left = (c->value - now) & width(c);
    if (c->config & TN_PERIODIC && c->period) {
        /* The next multiple: a periodic comparator is never in the past. */
        uint64_t late = (now - c->value) & width(c);
        if (late < width(c) / 2) {
            c->value = (c->value + (late / c->period + 1) * c->period) & width(c);
            left = (c->value - now) & width(c);
        }
    } else if (!(c->config & TN_32BIT) && (int64_t)left < 0) {
        return; /* 64 bits: it will not come round */
    }
    if (left > UINT64_MAX / TICK_NS / 2)
        return;
    timer_mod(c->timer, (ticks(h) + left) * TICK_NS);
}

static void expired(void *opaque)
{
    Comparator *c = opaque;
    Hpet *h = c->hpet;
    const IrqLine *l = line(c);
    if (c->config & TN_LEVEL) {
        h->status |= BIT(c->n);
        if (l)
            irq_set(l, true);
    } else if (l) {
        irq_set(l, true);
        irq_set(l, false);
    }
    if (c->config & TN_PERIODIC) {
        if (c->period) {
            c->value = (c->value + c->period) & width(c);
            arm(c);
        }
    }
}

static void lower(Comparator *c)
{
    const IrqLine *l = line(c);
    if ((c->hpet->status & BIT(c->n)) && l)
        irq_set(l, false);
    c->hpet->status &= ~BIT(c->n);
}

static void write_config(Hpet *h, uint64_t v)
{
    uint64_t old = h->config;
    v &= CFG_ENABLE | CFG_LEGACY;
    if ((v ^ old) & CFG_ENABLE)
        h->counter = v & CFG_ENABLE ? h->counter - ticks(h) : counter(h);
    if ((v ^ old) & CFG_LEGACY) {
        for (unsigned i = 0; i < N_TIMERS; i++)
            lower(&h->t[i]);
        if (h->legacy)
            h->legacy(h->legacy_opaque, v & CFG_LEGACY);
    }
    h->config = v;
    for (unsigned i = 0; i < N_TIMERS; i++)
        arm(&h->t[i]);
}

static void write_timer_config(Comparator *c, uint64_t v)
{
    uint64_t fixed = c->config & ~(uint64_t)TN_WRITABLE;
    lower(c);
    c->config = fixed | (v & TN_WRITABLE);
    if (!(c->config & TN_PERIODIC_CAP))
        c->config &= ~(uint64_t)(TN_PERIODIC | TN_SETVAL);
    if (c->config & TN_32BIT) {
        c->value = (uint32_t)c->value;
        c->period = (uint32_t)c->period;
    }
    arm(c);
}

/* In periodic mode a write sets the period; with SETVAL on just before, the accumulator too
 * (2.3.9.2.2). */
static void write_comparator(Comparator *c, uint64_t v)
{
    v &= width(c);
    if (!(c->config & TN_PERIODIC) || (c->config & TN_SETVAL))
        c->value = v;
    if (c->config & TN_PERIODIC) {
        /* A period below 1 us would only keep the host busy; the guest sees it as a slow interrupt
         * line. */
        if (!(c->config & TN_SETVAL) || !c->period)
            c->period = v ? MAX_OF(v, 100) : 0;
    }
    c->config &= ~(uint64_t)TN_SETVAL;
    arm(c);
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
        return h->status;
    case 0xf0:
        return counter(h);
    }
    if (at >= 0x100 && at < 0x100 + N_TIMERS * 0x20) {
        Comparator *c = &h->t[(at - 0x100) / 0x20];
        if ((at & 0x1f) == 0)
            return c->config | ROUTE_CAP << 32;
        if ((at & 0x1f) == 8)
            return c->value;
    }
    return 0;
}

static void write64(Hpet *h, unsigned at, uint64_t v, uint64_t mask)
{
    switch (at) {
    case 0x10:
        write_config(h, v);
        return;
    case 0x20:
        for (unsigned i = 0; i < N_TIMERS; i++) {
            if (v & mask & BIT(i))
                lower(&h->t[i]);
        }
        return;
    case 0xf0:
        if (!(h->config & CFG_ENABLE)) /* writable while halted only */
            h->counter = v;
        return;
    }
    if (at >= 0x100 && at < 0x100 + N_TIMERS * 0x20) {
        Comparator *c = &h->t[(at - 0x100) / 0x20];
        if ((at & 0x1f) == 0 && (mask & 0xffffffff))
            write_timer_config(c, v);
        else if ((at & 0x1f) == 8)
            write_comparator(c, v);
    }
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    return read64(opaque, offset & ~7u) >> (offset & 7) * 8;
}

static void page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Hpet *h = opaque;
    unsigned at = offset & ~7u, shift = (offset & 7) * 8;
    uint64_t mask = size_mask(size) << shift;
    uint64_t old = read64(h, at);
    /* Half a comparator of 64 bits: the other half stays. A 32-bit guest writes only the low one.
     */
    write64(h, at, (old & ~mask) | (value << shift & mask), mask);
}

static const IoOps page_ops = {.read = page_read, .write = page_write, .min = 4, .max = 8};

void hpet_connect(Device *dev, void (*legacy)(void *, bool), void *opaque)
{
    ((Hpet *)dev)->legacy = legacy;
    ((Hpet *)dev)->legacy_opaque = opaque;
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
        h->t[i].config = TN_SIZE_CAP | (i == 0 ? TN_PERIODIC_CAP : 0);
        h->t[i].value = ~0ull;
        h->t[i].period = 0;
    }
}

const DeviceClass device_hpet = {
    .name = "hpet",
    .help = "high precision event timers",
    .size = sizeof(Hpet),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
};
