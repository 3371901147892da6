/*
 * 8254. A counter is never stepped: its count and OUT are computed from the clock and the input
 * clock tick at which it was loaded. What the datasheet lets happen later (a new count in modes 2
 * and 3 at the end of the half cycle) is brought up to date before each access.
 *
 * Of OUT 0 only rising edges matter to the interrupt controllers, so one timer wakes for each; the
 * line falls just before it rises again.
 */
#include "devices/i8254.h"

#include <string.h>

#include "devices/catch_up.h"
#include "devices/props.h"

#define REFRESH_NS 15085 /* a refresh request of the PC/AT toggles bit 4 of port 0x61 */

enum { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };
enum { PORT_B_GATE = 1, PORT_B_SPEAKER = 2, PORT_B_WRITABLE = 0xf };

typedef struct Counter {
    uint32_t n;       /* count, 1-65536; 0: none was written since the control word */
    uint32_t next;    /* count written while another is in use; 0: none */
    bool next_low;    /* mode 3: it begins with its low half */
    uint64_t next_at; /* tick at which it comes into use; NO_EXPIRY: with the next trigger */
    uint64_t start;   /* tick at which n was, or will be, loaded */
    uint64_t held;    /* gate low: tick at which counting stopped */
    uint8_t mode;     /* 0-5 */
    uint8_t access;
    bool bcd, gate;
    bool untouched;             /* no control word since reset */
    bool triggered;             /* modes 1 and 5: the gate has risen since the control word */
    bool write_high, read_high; /* the other byte of a two-byte access is next */
    uint8_t low;                /* first byte written */
    bool latched, status_latched, latch_high;
    uint16_t latch;
    uint8_t status;
} Counter;

typedef struct Pit {
    Device dev;
    Counter c[3];
    IrqLine out0;
    bool irq_enabled, level, parked;
    bool discard; /* lost_tick_policy: a tick that finds the last one waiting is lost */
    bool (*busy)(void *opaque);
    void *busy_opaque;
    uint8_t port_b;
    Timer *timer;
    uint64_t due;   /* tick of the next rising edge of OUT 0; 0: none is to come */
    unsigned burst; /* edges since the timer ran */
    IoRegion *region[2];
} Pit;

static uint64_t now_tick(const Pit *p)
{
    return ns_to_ticks(clock_ns(p->dev.board->clock), PIT_HZ);
}

static bool square(const Counter *c)
{
    return c->mode == 3;
}

static bool periodic(const Counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Ticks of the high half of a square wave: odd counts give it the longer one. */
static uint32_t high_half(uint32_t n)
{
    return (n + 1) / 2;
}

/* A count has been loaded and, where the mode wants it, a trigger has come. */
static bool started(const Counter *c)
{
    return c->n && (c->triggered || (c->mode != 1 && c->mode != 5));
}

/* Gate low holds the count in modes 0, 2, 3 and 4; in 1 and 5 only its rise means something. */
static bool held(const Counter *c)
{
    return !c->gate && c->mode != 1 && c->mode != 5;
}

static uint64_t elapsed(const Counter *c, uint64_t now)
{
    if (!started(c))
        return 0;
    uint64_t t = held(c) ? c->held : now;
    return t > c->start ? t - c->start : 0;
}

/* Takes a new count into use if its moment has come by `now`. */
static void settle(Counter *c, uint64_t now)
{
    if (!c->next || held(c) || now < c->next_at)
        return;
    c->start = c->next_at - (c->next_low ? high_half(c->next) : 0);
    c->n = c->next;
    c->next = 0;
}

static uint16_t count(const Counter *c, uint64_t now)
{
    uint32_t wrap = c->bcd ? 10000 : 0x10000;
    uint64_t d = elapsed(c, now);
    uint32_t value = c->n;
    if (!c->n) {
        value = 0;
    } else if (c->mode == 2) {
        value = c->n - (uint32_t)(d % c->n);
    } else if (square(c)) { /* by two, twice a period */
        uint32_t at = (uint32_t)(d % c->n), hi = high_half(c->n);
        value = (c->n & ~1u) - 2 * (at < hi ? at : at - hi);
    } else { /* goes on below 0 */
        value = (uint32_t)((c->n + wrap - d % wrap) % wrap);
    }
    value %= wrap;
    if (c->bcd)
        value = value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10;
    return (uint16_t)value;
}

static bool out(const Counter *c, uint64_t now)
{
    uint64_t d = elapsed(c, now);
    if (!started(c))
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1:
        return d >= c->n;
    case 2:
        return !c->gate || d % c->n != c->n - 1;
    case 3:
        return !c->gate || d % c->n < high_half(c->n);
    default: /* 4, 5: low for one tick when the count ends */
        return d != c->n;
    }
}

/* First tick after t, which is now or earlier, at which OUT rises; 0: never. */
static uint64_t next_rise(Counter *c, uint64_t t, uint64_t now)
{
    settle(c, t);
    if (!started(c) || held(c))
        return 0;
    switch (c->mode) {
    case 0:
    case 1:
        return t < c->start + c->n ? c->start + c->n : 0;
    case 2:
    case 3:
        if (c->start > now) /* not yet loaded */
            return c->start + c->n;
        if (t < c->start) /* late, and a new count is in use since */
            return MIN_OF(t + c->n, c->start);
        if (c->next && c->next_low)
            return c->next_at + c->next - high_half(c->next);
        return c->start + ((t - c->start) / c->n + 1) * c->n;
    default:
        return t <= c->start + c->n ? c->start + c->n + 1 : 0;
    }
}

static void drive(Pit *p, bool level)
{
    if (level != p->level) {
        p->level = level;
        if (p->irq_enabled && !p->parked)
            irq_set(&p->out0, level);
    }
}

static void arm_at(Pit *p, uint64_t tick)
{
    if (!p->parked)
        timer_mod(p->timer, ticks_to_ns(tick, PIT_HZ));
}

static void disarm(Pit *p)
{
    p->due = 0;
    timer_del(p->timer);
}

/*
 * After what changed counter 0 at `now`, which is the caller's reading of the clock: by a later one
 * a short count may be over, and its edge would never come.
 */
static void arm(Pit *p, uint64_t now)
{
    p->due = next_rise(&p->c[0], now, now);
    if (p->due)
        arm_at(p, p->due);
    else
        disarm(p);
}

/* A rising edge is due, perhaps for some time: see catch_up.h. */
static void rise(Pit *p)
{
    Counter *c = &p->c[0];
    uint64_t now = now_tick(p);
    if (!p->irq_enabled) { /* nobody listens; i8254_set_irq_enabled() goes on */
        p->due = 0;
        return;
    }
    bool waits = periodic(c) && p->busy && p->busy(p->busy_opaque);
    if (!waits) {
        drive(p, false);
        drive(p, true);
    }
    if (!waits || p->discard) {
        p->due = next_rise(c, p->discard && periodic(c) ? now : p->due, now);
        if (!p->due)
            return;
    }
    arm_at(p, catch_up(&p->due, c->n, now, PIT_HZ));
}

static void expired(void *opaque)
{
    Pit *p = opaque;
    p->burst = 0;
    rise(p);
}

/* A new count while modes 2 and 3 run waits for the end of the (half) cycle; in modes 1 and 5 for
 * the next trigger. */
static void load_later(Pit *p, Counter *c, uint32_t value, uint64_t now)
{
    c->next = value;
    c->next_low = false;
    c->next_at = NO_EXPIRY;
    if (!periodic(c))
        return;
    uint64_t d = elapsed(c, now), at = d % c->n;
    c->start += d - at;
    c->next_at = c->start + c->n;
    if (square(c) && at < high_half(c->n)) {
        c->next_at = c->start + high_half(c->n);
        c->next_low = true;
    }
    if (c == &p->c[0] && p->due > now)
        arm(p, now);
}

static void load(Pit *p, Counter *c, uint32_t value)
{
    uint64_t now = now_tick(p);
    if (c->bcd) /* digits above 9 mean nothing; kept in range */
        value = ((value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 +
                 (value & 15)) %
                10000;
    if (!value)
        value = c->bcd ? 10000 : 0x10000;
    if (value == 1 && periodic(c)) /* not allowed; the shortest that is */
        value = 2;
    settle(c, now);
    if (started(c) && c->mode != 0 && c->mode != 4 && now >= c->start) {
        load_later(p, c, value, now);
        return;
    }
    c->n = value;
    c->next = 0;
    c->start = c->held = now + 1; /* loaded with the clock after the write */
    if (c == &p->c[0]) {
        drive(p, c->mode != 0);
        arm(p, now);
    }
}

static void set_mode(Pit *p, Counter *c, uint8_t control)
{
    uint8_t mode = control >> 1 & 7;
    bool gate = c->gate;
    *c = (Counter){
        .mode = mode > 5 ? mode & 3 : mode,
        .access = control >> 4 & 3,
        .bcd = control & 1,
        .gate = gate,
    };
    if (c == &p->c[0]) {
        disarm(p);
        drive(p, c->mode != 0);
    }
}

static void latch_count(const Pit *p, Counter *c)
{
    if (c->latched)
        return;
    c->latch = count(c, now_tick(p));
    c->latched = true;
    c->latch_high = c->access == ACCESS_HIGH;
}

static void read_back(Pit *p, uint8_t control)
{
    for (unsigned i = 0; i < 3; i++) {
        Counter *c = &p->c[i];
        if (!(control & 2u << i))
            continue;
        settle(c, now_tick(p));
        if (!(control & 0x20))
            latch_count(p, c);
        if (!(control & 0x10) && !c->status_latched) {
            bool null_count = !c->n || c->next || now_tick(p) < c->start;
            c->status = (uint8_t)(out(c, now_tick(p)) << 7 | null_count << 6 | c->access << 4 |
                                  c->mode << 1 | c->bcd);
            c->status_latched = true;
        }
    }
}

static void write_count(Pit *p, Counter *c, uint8_t v)
{
    switch (c->access) {
    case ACCESS_LOW:
        load(p, c, v);
        break;
    case ACCESS_HIGH:
        load(p, c, (uint32_t)v << 8);
        break;
    default:
        c->write_high = !c->write_high;
        if (!c->write_high) {
            load(p, c, (uint32_t)v << 8 | c->low);
            break;
        }
        c->low = v;
        if (c->mode == 0) { /* the first byte stops the count, and OUT goes low */
            c->n = 0;
            if (c == &p->c[0]) {
                drive(p, false);
                arm(p, now_tick(p));
            }
        }
    }
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pit *p = opaque;
    uint8_t v = (uint8_t)value;
    if (offset == 3) {
        if (v >> 6 == 3) {
            read_back(p, v);
        } else if (v & 0x30) {
            set_mode(p, &p->c[v >> 6], v);
        } else {
            settle(&p->c[v >> 6], now_tick(p));
            latch_count(p, &p->c[v >> 6]);
        }
        return;
    }
    write_count(p, &p->c[offset], v);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *p = opaque;
    if (offset == 3) /* the control register cannot be read */
        return 0xff;
    Counter *c = &p->c[offset];
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->latched) {
        uint8_t v = (uint8_t)(c->latch_high ? c->latch >> 8 : c->latch);
        if (c->access == ACCESS_BOTH && !c->latch_high)
            c->latch_high = true;
        else
            c->latched = false;
        return v;
    }
    settle(c, now_tick(p));
    uint16_t now = count(c, now_tick(p));
    if (c->access == ACCESS_LOW)
        return now & 0xff;
    if (c->access == ACCESS_HIGH)
        return now >> 8;
    c->read_high = !c->read_high;
    return c->read_high ? now & 0xff : now >> 8;
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .max = 1};

/* Of counter 2; those of 0 and 1 are tied high. */
static void set_gate(Pit *p, Counter *c, bool gate)
{
    uint64_t now = now_tick(p);
    if (gate == c->gate)
        return;
    settle(c, now);
    if (!gate) {
        c->held = MAX_OF(now, c->start);
    } else if (c->mode == 0 || c->mode == 4) { /* goes on counting */
        c->start += MAX_OF(now, c->held) - c->held;
    } else { /* a trigger: starts over with the next clock */
        if (c->next) {
            c->n = c->next;
            c->next = 0;
        }
        c->start = now + 1;
        c->triggered = c->n != 0;
    }
    c->gate = gate;
}

/* System control port B: gate of counter 2 and speaker, NMI enables (kept, nothing raises them),
 * the refresh toggle and OUT 2. */
static uint64_t port_b_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *p = opaque;
    uint64_t now = now_tick(p);
    bool refresh = clock_ns(p->dev.board->clock) / REFRESH_NS & 1;
    settle(&p->c[2], now);
    return p->port_b | (uint64_t)refresh << 4 | (uint64_t)out(&p->c[2], now) << 5;
}

static void port_b_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pit *p = opaque;
    p->port_b = value & PORT_B_WRITABLE;
    set_gate(p, &p->c[2], value & PORT_B_GATE);
}

static const IoOps port_b_ops = {.read = port_b_read, .write = port_b_write, .max = 1};

void i8254_save(Device *dev, PitState *s)
{
    Pit *p = (Pit *)dev;
    memset(s, 0, sizeof(*s));
    s->port_b = p->port_b;
    s->hpet_legacy = !p->irq_enabled;
    s->out0 = p->level;
    s->due = p->due;
    for (unsigned i = 0; i < ARRAY_LEN(p->c); i++) {
        Counter *c = &p->c[i];
        settle(c, now_tick(p));
        s->c[i] = (PitCounter){.n = c->n,
                               .next = c->next,
                               .start = c->start,
                               .next_at = c->next ? c->next_at : 0,
                               .held = held(c) ? c->held : 0,
                               .mode = c->mode,
                               .access = c->access,
                               .bcd = c->bcd,
                               .gate = c->gate,
                               .triggered = c->triggered,
                               .write_high = c->write_high,
                               .read_high = c->read_high,
                               .latched = c->latched,
                               .status_latched = c->status_latched,
                               .untouched = c->untouched,
                               .latch_high = c->latched && c->latch_high,
                               .next_low = c->next && c->next_low,
                               .low = c->write_high ? c->low : 0,
                               .latch = c->latch,
                               .status = c->status};
    }
}

void i8254_load(Device *dev, const PitState *s)
{
    Pit *p = (Pit *)dev;
    p->port_b = s->port_b;
    p->level = s->out0;
    p->due = s->due;
    for (unsigned i = 0; i < ARRAY_LEN(p->c); i++) {
        const PitCounter *c = &s->c[i];
        p->c[i] = (Counter){.n = c->n,
                            .next = c->next,
                            .start = c->start,
                            .next_at = c->next_at,
                            .held = c->held,
                            .mode = c->mode,
                            .access = c->access,
                            .bcd = c->bcd,
                            .gate = c->gate,
                            .untouched = c->untouched,
                            .triggered = c->triggered,
                            .write_high = c->write_high,
                            .read_high = c->read_high,
                            .latched = c->latched,
                            .status_latched = c->status_latched,
                            .latch_high = c->latch_high,
                            .next_low = c->next_low,
                            .low = c->low,
                            .latch = c->latch,
                            .status = c->status};
    }
}

void i8254_park(Device *dev, bool parked)
{
    Pit *p = (Pit *)dev;
    if (parked == p->parked)
        return;
    p->parked = parked;
    if (parked)
        timer_del(p->timer);
    else if (p->due)
        arm_at(p, p->due);
}

void i8254_ticked(Device *dev, uint64_t ticks)
{
    Pit *p = (Pit *)dev;
    Counter *c = &p->c[0];
    uint64_t now = now_tick(p);
    p->level = p->level || (ticks && p->due);
    for (; ticks && p->due && (c->next || !periodic(c)); ticks--)
        p->due = next_rise(c, p->due, now);
    if (p->due)
        p->due += ticks * c->n;
}

void i8254_unticked(Device *dev, uint64_t ticks)
{
    Pit *p = (Pit *)dev;
    if (p->due && periodic(&p->c[0]) && !p->discard)
        p->due -= MIN_OF(ticks, (p->due - 1) / p->c[0].n) * p->c[0].n;
}

void i8254_connect(Device *dev, IrqLine out0)
{
    ((Pit *)dev)->out0 = out0;
}

void i8254_set_busy(Device *dev, bool (*busy)(void *opaque), void *opaque)
{
    ((Pit *)dev)->busy = busy;
    ((Pit *)dev)->busy_opaque = opaque;
}

bool i8254_discards_ticks(const Device *dev)
{
    return ((const Pit *)dev)->discard;
}

uint64_t i8254_owed(const Device *dev)
{
    const Pit *p = (const Pit *)dev;
    uint64_t now = now_tick(p);
    bool any = periodic(&p->c[0]) && p->due && now >= p->due;
    return any ? (now - p->due) / p->c[0].n + 1 : 0;
}

void i8254_irq_taken(Device *dev)
{
    Pit *p = (Pit *)dev;
    if (p->discard || p->parked || !periodic(&p->c[0]) || !p->due || p->burst >= CATCH_UP_BURST ||
        now_tick(p) < p->due)
        return;
    p->burst++;
    rise(p);
}

void i8254_set_irq_enabled(Device *dev, bool on)
{
    Pit *p = (Pit *)dev;
    if (on == p->irq_enabled)
        return;
    if (p->level && !p->parked)
        irq_set(&p->out0, on);
    p->irq_enabled = on;
    if (on)
        arm(p, now_tick(p));
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Pit *p = (Pit *)dev;
    if (!prop_take_choice(dev, props, "lost_tick_policy", "delay", "discard", &p->discard, err))
        return false;
    p->timer = timer_new(dev->board->clock, expired, p);
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
    disarm(p);
    for (unsigned i = 0; i < 3; i++)
        p->c[i] = (Counter){.access = ACCESS_BOTH, .mode = 3, .gate = i != 2, .untouched = true};
    p->port_b = 0;
    drive(p, true);
}

static void describe(Device *dev, GString *out_str)
{
    Pit *p = (Pit *)dev;
    uint64_t now = now_tick(p);
    for (unsigned i = 0; i < 3; i++) {
        const Counter *c = &p->c[i];
        g_string_append_printf(out_str, "pit%u: mode=%u count=%u now=%04x out=%d gate=%d\n", i,
                               c->mode, c->n, count(c, now), out(c, now), c->gate);
    }
}

const DeviceClass device_i8254 = {
    .name = "i8254",
    .help = "interval timer",
    .size = sizeof(Pit),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .describe = describe,
};
