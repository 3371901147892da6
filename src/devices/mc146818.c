/*
 * MC146818A. The time is offset_s + clock; registers 0-9 are computed when read. One timer serves
 * the next event: an update-ended second, an alarm, or a periodic tick.
 */
#include "devices/mc146818.h"

#include <time.h>

enum { REG_A = 10, REG_B, REG_C, REG_D, REG_CENTURY = 0x32 };
enum {
    A_UIP = 0x80,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 4,
    B_24H = 2
};
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
/* The update cycle begins this long after UIP rises (datasheet: 244 us). */
#define UIP_NS 244000ull

typedef struct Rtc {
    Device dev;
    IrqLine irq;
    bool irq_enabled, level;
    uint8_t index;
    uint8_t cmos[128];
    int64_t offset_ns;    /* UTC ns minus clock ns */
    int64_t frozen_s;     /* while SET is on: the time as last seen or written */
    uint64_t next_update; /* clock ns of the next full second; of the next periodic tick */
    uint64_t next_periodic;
    Timer *timer;
    IoRegion *region;
} Rtc;

static uint64_t now(const Rtc *r)
{
    return clock_ns(r->dev.board->clock);
}

static int64_t seconds(const Rtc *r)
{
    if (r->cmos[REG_B] & B_SET)
        return r->frozen_s;
    return (r->offset_ns + (int64_t)now(r)) / (int64_t)NS_PER_S;
}

static uint8_t encode(const Rtc *r, int v)
{
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : (v / 10 << 4 | v % 10));
}

static int decode(const Rtc *r, uint8_t v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const Rtc *r, int hour)
{
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static int decode_hour(const Rtc *r, uint8_t v)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static void update_irq(Rtc *r)
{
    uint8_t active = r->cmos[REG_C] & r->cmos[REG_B] & (C_PF | C_AF | C_UF);
    r->cmos[REG_C] = (r->cmos[REG_C] & ~C_IRQF) | (active ? C_IRQF : 0);
    bool level = active;
    if (level != r->level) {
        r->level = level;
        if (r->irq_enabled)
            irq_set(&r->irq, level);
    }
}

/* Period of the periodic interrupt in ns; 0: off. RS 1 and 2 repeat 8 and 9 with the 32 kHz time
 * base. */
static uint64_t periodic_ns(const Rtc *r)
{
    unsigned rs = r->cmos[REG_A] & 15;
    if (rs == 0 || !(r->cmos[REG_B] & B_PIE))
        return 0;
    if (rs <= 2)
        rs += 7;
    return (NS_PER_S << (rs - 1)) / 32768;
}

static bool divider_runs(const Rtc *r)
{
    return (r->cmos[REG_A] & 0x70) == 0x20;
}

static void arm(Rtc *r)
{
    uint64_t next = NO_EXPIRY;
    if (!(r->cmos[REG_B] & B_SET) && divider_runs(r) && (r->cmos[REG_B] & (B_AIE | B_UIE)))
        next = r->next_update;
    if (periodic_ns(r))
        next = MIN_OF(next, r->next_periodic);
    if (next == NO_EXPIRY)
        timer_del(r->timer);
    else
        timer_mod(r->timer, next);
}

static uint64_t second_after(const Rtc *r, uint64_t t)
{
    uint64_t in_second = (uint64_t)(r->offset_ns + (int64_t)t) % NS_PER_S;
    return t + NS_PER_S - in_second;
}

static bool alarm_matches(const Rtc *r)
{
    time_t t = (time_t)seconds(r);
    struct tm tm;
    gmtime_r(&t, &tm);
    const uint8_t *a = r->cmos;
    return ((a[1] & 0xc0) == 0xc0 || decode(r, a[1]) == tm.tm_sec) &&
           ((a[3] & 0xc0) == 0xc0 || decode(r, a[3]) == tm.tm_min) &&
           ((a[5] & 0xc0) == 0xc0 || decode_hour(r, a[5]) == tm.tm_hour);
}

static void expired(void *opaque)
{
    Rtc *r = opaque;
    uint64_t t = now(r), period = periodic_ns(r);
    if (t >= r->next_update) {
        r->cmos[REG_C] |= C_UF;
        if (alarm_matches(r))
            r->cmos[REG_C] |= C_AF;
        r->next_update = second_after(r, t);
    }
    if (period && t >= r->next_periodic) {
        r->cmos[REG_C] |= C_PF;
        /* In phase with the ticks before; those that a late host missed are one, as PF is one bit.
         */
        r->next_periodic += ((t - r->next_periodic) / period + 1) * period;
    }
    update_irq(r);
    arm(r);
}

static void read_time(const Rtc *r, struct tm *tm)
{
    time_t t = (time_t)seconds(r);
    gmtime_r(&t, tm);
}

static uint8_t read_register(Rtc *r, unsigned index)
{
    struct tm tm;
    uint8_t v;
    switch (index) {
    case 0:
        read_time(r, &tm);
        return encode(r, tm.tm_sec);
    case 2:
        read_time(r, &tm);
        return encode(r, tm.tm_min);
    case 4:
        read_time(r, &tm);
        return encode_hour(r, tm.tm_hour);
    case 6:
        read_time(r, &tm);
        return encode(r, tm.tm_wday + 1);
    case 7:
        read_time(r, &tm);
        return encode(r, tm.tm_mday);
    case 8:
        read_time(r, &tm);
        return encode(r, tm.tm_mon + 1);
    case 9:
        read_time(r, &tm);
        return encode(r, tm.tm_year % 100);
    case REG_CENTURY:
        read_time(r, &tm);
        return encode(r, tm.tm_year / 100 + 19);
    case REG_A:
        v = r->cmos[REG_A] & ~A_UIP;
        if (!(r->cmos[REG_B] & B_SET) && divider_runs(r) &&
            second_after(r, now(r)) - now(r) <= UIP_NS)
            v |= A_UIP;
        return v;
    case REG_C:
        v = r->cmos[REG_C];
        /* Without its interrupt nobody runs the update: see whether a second has passed since. */
        if (now(r) >= r->next_update) {
            v |= C_UF;
            r->next_update = second_after(r, now(r));
        }
        r->cmos[REG_C] = 0;
        update_irq(r);
        arm(r);
        return v;
    case REG_D:
        return 0x80; /* the battery is good */
    }
    return r->cmos[index];
}

static void write_time(Rtc *r, unsigned index, uint8_t v)
{
    struct tm tm;
    read_time(r, &tm);
    switch (index) {
    case 0:
        tm.tm_sec = decode(r, v) % 60;
        break;
    case 2:
        tm.tm_min = decode(r, v) % 60;
        break;
    case 4:
        tm.tm_hour = decode_hour(r, v) % 24;
        break;
    case 7:
        tm.tm_mday = MAX_OF(1, MIN_OF(decode(r, v), 31));
        break;
    case 8:
        tm.tm_mon = MAX_OF(1, MIN_OF(decode(r, v), 12)) - 1;
        break;
    case 9:
        tm.tm_year = tm.tm_year / 100 * 100 + decode(r, v) % 100;
        break;
    case REG_CENTURY:
        tm.tm_year = (MIN_OF(MAX_OF(decode(r, v), 19), 99) - 19) * 100 + tm.tm_year % 100;
        break;
    }
    int64_t s = timegm(&tm);
    if (r->cmos[REG_B] & B_SET) {
        r->frozen_s = s;
    } else {
        r->offset_ns += (s - seconds(r)) * (int64_t)NS_PER_S;
        r->next_update = second_after(r, now(r));
    }
}

static void write_b(Rtc *r, uint8_t v)
{
    bool was_set = r->cmos[REG_B] & B_SET;
    uint64_t old_period = periodic_ns(r);
    if (!was_set && (v & B_SET)) {
        r->frozen_s = seconds(r);
        v &= ~B_UIE; /* datasheet: SET clears UIE */
    }
    r->cmos[REG_B] = v & ~0x08; /* no square wave output */
    if (was_set && !(v & B_SET)) {
        /* The first update comes half a second after SET is cleared. */
        r->offset_ns = r->frozen_s * (int64_t)NS_PER_S + (int64_t)(NS_PER_S / 2) - (int64_t)now(r);
        r->next_update = second_after(r, now(r));
    }
    if (now(r) >= r->next_update)
        r->next_update = second_after(r, now(r));
    if (!old_period && periodic_ns(r))
        r->next_periodic = now(r) + periodic_ns(r);
    update_irq(r);
    arm(r);
}

static void write_register(Rtc *r, unsigned index, uint8_t v)
{
    switch (index) {
    case 0:
    case 2:
    case 4:
    case 7:
    case 8:
    case 9:
    case REG_CENTURY:
        write_time(r, index, v);
        arm(r);
        break;
    case 6: /* the weekday follows from the date */
        break;
    case REG_A:
        r->cmos[REG_A] = v & 0x7f;
        if (periodic_ns(r))
            r->next_periodic = now(r) + periodic_ns(r);
        arm(r);
        break;
    case REG_B:
        write_b(r, v);
        break;
    case REG_C:
    case REG_D:
        break;
    default:
        r->cmos[index] = v;
    }
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Rtc *r = opaque;
    return offset == 0 ? 0xff : read_register(r, r->index);
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Rtc *r = opaque;
    if (offset == 0)
        r->index = value & 0x7f;
    else
        write_register(r, r->index, (uint8_t)value);
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .max = 1};

void mc146818_connect(Device *dev, IrqLine irq)
{
    ((Rtc *)dev)->irq = irq;
}

void mc146818_set_irq_enabled(Device *dev, bool on)
{
    Rtc *r = (Rtc *)dev;
    if (on == r->irq_enabled)
        return;
    if (r->level)
        irq_set(&r->irq, on);
    r->irq_enabled = on;
}

void mc146818_set_cmos(Device *dev, unsigned index, uint8_t value)
{
    if (index > REG_D && index < sizeof(((Rtc *)dev)->cmos))
        ((Rtc *)dev)->cmos[index] = value;
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Rtc *r = (Rtc *)dev;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    r->offset_ns = (int64_t)ts.tv_sec * (int64_t)NS_PER_S + ts.tv_nsec - (int64_t)now(r);
    r->irq_enabled = true;
    r->cmos[REG_A] = 0x26;
    r->cmos[REG_B] = B_24H;
    r->timer = timer_new(dev->board->clock, expired, r);
    r->next_update = second_after(r, now(r));
    r->region = io_map(dev->board->pio, 0x70, 2, &port_ops, r, "mc146818 rtc");
    return true;
}

static void unrealize(Device *dev)
{
    timer_free(((Rtc *)dev)->timer);
    io_unmap(dev->board->pio, ((Rtc *)dev)->region);
}

/* RESET clears the interrupt enables and flags; time and memory have their battery. */
static void reset(Device *dev)
{
    Rtc *r = (Rtc *)dev;
    r->cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE);
    r->cmos[REG_C] = 0;
    r->index = 0;
    update_irq(r);
    arm(r);
}

const DeviceClass device_mc146818 = {
    .name = "mc146818rtc",
    .help = "real-time clock",
    .size = sizeof(Rtc),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
};
