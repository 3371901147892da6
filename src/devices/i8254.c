/*
 * 8254. A counter is never stepped: its count and OUT are computed from the clock and the moment it
 * was loaded (in input clock ticks), and a timer wakes counter 0 at the next edge of OUT.
 */
#include "devices/i8254.h"

typedef struct Counter {
    uint32_t reload; /* 1-65536 */
    uint64_t start;  /* PIT tick at which the current count was loaded */
    uint8_t mode;    /* 0-5 */
    uint8_t access;  /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd, gate;
    bool loaded;                /* a count has been written since the mode was set */
    bool write_high, read_high; /* next byte of a two-byte access */
    uint8_t low;                /* first byte written */
    bool latched, status_latched, latch_high;
    uint16_t latch;
    uint8_t status;
    uint64_t stopped_at; /* gate low: tick at which counting stopped (modes 0, 2, 3, 4) */
} Counter;

typedef struct Pit {
    Device dev;
    Counter c[3];
    IrqLine out0;
    bool irq_enabled, out_level;
    bool speaker;
    Timer *timer;
    uint64_t edge; /* the edge armed for, in ticks after counter 0's start */
    IoRegion *region[2];
} Pit;

static uint64_t now_tick(const Pit *p)
{
    return (uint64_t)((unsigned __int128)clock_ns(p->dev.board->clock) * PIT_HZ / NS_PER_S);
}

/* First ns at which the tick counter shows `tick`. */
static uint64_t tick_ns(uint64_t tick)
{
    return (uint64_t)(((unsigned __int128)tick * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

static bool counts(const Counter *c)
{
    return c->loaded && (c->gate || c->mode == 1 || c->mode == 5);
}

static uint64_t elapsed(const Pit *p, const Counter *c)
{
    uint64_t now = counts(c) ? now_tick(p) : c->stopped_at;
    return now > c->start ? now - c->start : 0;
}

static uint16_t count(const Pit *p, const Counter *c)
{
    uint32_t wrap = c->bcd ? 10000 : 0x10000;
    uint64_t d = elapsed(p, c);
    uint32_t value;
    switch (c->mode) {
    case 2:
        value = c->reload - (uint32_t)(d % c->reload);
        break;
    case 3: /* counts down by two, twice a period */
        value = (c->reload & ~1u) - (uint32_t)(d * 2 % (c->reload & ~1u ? c->reload & ~1u : 2));
        break;
    default:
        value = (uint32_t)((c->reload + wrap - d % wrap) % wrap);
    }
    value %= wrap;
    if (c->bcd)
        value = value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10;
    return (uint16_t)value;
}

/* OUT after d ticks. */
static bool out_after(const Counter *c, uint64_t d)
{
    if (!c->loaded)
        return c->mode != 0;
    switch (c->mode) {
    case 0:
        return d >= c->reload;
    case 1:
        return d >= c->reload;
    case 2:
        return d % c->reload != c->reload - 1 || !c->gate;
    case 3:
        return d % c->reload < (c->reload + 1) / 2 || !c->gate;
    default: /* 4, 5: low for one tick when the count ends */
        return d != c->reload;
    }
}

static bool out(const Pit *p, const Counter *c)
{
    return out_after(c, elapsed(p, c));
}

/* Ticks after start at which OUT changes next, later than d; 0: never again. */
static uint64_t next_edge(const Counter *c, uint64_t d)
{
    uint64_t period = d / c->reload * c->reload, at = d % c->reload, half = (c->reload + 1) / 2;
    switch (c->mode) {
    case 0:
    case 1:
        return d < c->reload ? c->reload : 0;
    case 2:
        return period + (at < c->reload - 1 ? c->reload - 1 : c->reload);
    case 3:
        return period + (at < half ? half : c->reload);
    default:
        return d < c->reload ? c->reload : d == c->reload ? d + 1 : 0;
    }
}

static void drive(Pit *p, bool level)
{
    if (level != p->out_level) {
        p->out_level = level;
        if (p->irq_enabled)
            irq_set(&p->out0, level);
    }
}

static void arm(Pit *p, uint64_t d)
{
    Counter *c = &p->c[0];
    timer_del(p->timer);
    if (!counts(c))
        return;
    p->edge = next_edge(c, d);
    if (p->edge)
        timer_mod(p->timer, tick_ns(c->start + p->edge));
}

/* Each edge of counter 0's OUT, in order even when late; of more than a second's worth (the host
 * slept) the older ones are dropped. */
static void edge(void *opaque)
{
    Pit *p = opaque;
    Counter *c = &p->c[0];
    uint64_t now = elapsed(p, c);
    if (now > p->edge + PIT_HZ)
        p->edge = now - now % c->reload;
    drive(p, out_after(c, p->edge));
    arm(p, p->edge);
}

static void load(Pit *p, Counter *c, uint32_t value)
{
    uint32_t wrap = c->bcd ? 10000 : 0x10000;
    if (c->bcd)
        value =
            (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15);
    c->reload = value ? value : wrap;
    if (c->reload == 1 && (c->mode == 2 || c->mode == 3))
        c->reload =
            2; /* a count of 1 is not allowed there (datasheet, mode 2); the shortest that is */
    c->loaded = true;
    c->start = c->stopped_at = now_tick(p);
    if (c == &p->c[0]) {
        drive(p, out_after(c, 0));
        arm(p, 0);
    }
}

static void set_mode(Pit *p, Counter *c, uint8_t control)
{
    uint8_t mode = control >> 1 & 7;
    c->mode = mode > 5 ? mode & 3 : mode;
    c->access = control >> 4 & 3;
    c->bcd = control & 1;
    c->loaded = c->write_high = c->read_high = c->latched = c->status_latched = false;
    c->stopped_at = c->start = now_tick(p);
    if (c == &p->c[0]) {
        timer_del(p->timer);
        drive(p, c->mode != 0);
    }
}

static void latch_count(const Pit *p, Counter *c)
{
    if (c->latched)
        return;
    c->latch = count(p, c);
    c->latched = true;
    c->latch_high = c->access == 2;
}

static void read_back(Pit *p, uint8_t control)
{
    for (unsigned i = 0; i < 3; i++) {
        Counter *c = &p->c[i];
        if (!(control & 2u << i))
            continue;
        if (!(control & 0x20))
            latch_count(p, c);
        if (!(control & 0x10) && !c->status_latched) {
            c->status = (uint8_t)(out(p, c) << 7 | !c->loaded << 6 | c->access << 4 | c->mode << 1 |
                                  c->bcd);
            c->status_latched = true;
        }
    }
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pit *p = opaque;
    uint8_t v = (uint8_t)value;
    if (offset == 3) {
        if (v >> 6 == 3)
            read_back(p, v);
        else if (v & 0x30)
            set_mode(p, &p->c[v >> 6], v);
        else
            latch_count(p, &p->c[v >> 6]);
        return;
    }
    Counter *c = &p->c[offset];
    switch (c->access) {
    case 1:
        load(p, c, v);
        break;
    case 2:
        load(p, c, (uint32_t)v << 8);
        break;
    default:
        if (c->write_high)
            load(p, c, (uint32_t)v << 8 | c->low);
        else
            c->low = v;
        c->write_high = !c->write_high;
    }
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *p = opaque;
    if (offset == 3)
        return 0xff;
    Counter *c = &p->c[offset];
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched) {
        uint8_t v = (uint8_t)(c->latch_high ? c->latch >> 8 : c->latch);
        if (c->access == 3 && !c->latch_high)
            c->latch_high = true;
        else
            c->latched = false;
        return v;
    }
    uint16_t now = count(p, c);
    if (c->access == 1)
        return now & 0xff;
    if (c->access == 2)
        return now >> 8;
    c->read_high = !c->read_high;
    return c->read_high ? now & 0xff : now >> 8;
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .max = 1};

static void set_gate(Pit *p, Counter *c, bool gate)
{
    if (gate == c->gate)
        return;
    if (!gate) {
        uint64_t d = elapsed(p, c);
        c->gate = false;
        c->stopped_at = c->start + d;
        return;
    }
    uint64_t now = now_tick(p);
    if (c->mode == 0 || c->mode == 4)
        c->start += now - c->stopped_at; /* goes on counting */
    else
        c->start = now; /* the rising edge reloads */
    c->gate = true;
}

/* Port 0x61: gate of counter 2, speaker, and in the upper bits OUT 2 and the refresh toggle (15
 * us). */
static uint64_t port_b_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *p = opaque;
    bool refresh = clock_ns(p->dev.board->clock) / 15085 & 1;
    return (uint64_t)(p->c[2].gate | p->speaker << 1 | refresh << 4 | out(p, &p->c[2]) << 5);
}

static void port_b_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pit *p = opaque;
    p->speaker = value & 2;
    set_gate(p, &p->c[2], value & 1);
}

static const IoOps port_b_ops = {.read = port_b_read, .write = port_b_write, .max = 1};

void i8254_connect(Device *dev, IrqLine out0)
{
    ((Pit *)dev)->out0 = out0;
}

void i8254_set_irq_enabled(Device *dev, bool on)
{
    Pit *p = (Pit *)dev;
    if (on == p->irq_enabled)
        return;
    if (!on && p->out_level)
        irq_set(&p->out0, false);
    p->irq_enabled = on;
    if (on && p->out_level)
        irq_set(&p->out0, true);
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Pit *p = (Pit *)dev;
    p->timer = timer_new(dev->board->clock, edge, p);
    p->irq_enabled = true;
    p->region[0] = io_map(dev->board->pio, 0x40, 4, &port_ops, p, "i8254");
    p->region[1] = io_map(dev->board->pio, 0x61, 1, &port_b_ops, p, "port 61");
    return true;
}

static void unrealize(Device *dev)
{
    Pit *p = (Pit *)dev;
    timer_free(p->timer);
    io_unmap(dev->board->pio, p->region[0]);
    io_unmap(dev->board->pio, p->region[1]);
}

static void reset(Device *dev)
{
    Pit *p = (Pit *)dev;
    timer_del(p->timer);
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (Counter){.reload = 0x10000, .access = 3, .mode = 3, .gate = i != 2};
    p->speaker = false;
    drive(p, false);
}

const DeviceClass device_i8254 = {
    .name = "i8254",
    .help = "interval timer",
    .size = sizeof(Pit),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
};
