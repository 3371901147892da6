/*
 * MC146818A. The time registers are as the guest or the last update left them, in whatever format
 * and however wrong; when seconds have passed since, they are read as a date, moved on, and written
 * back, as the chip's update cycle does. Flags are set whether or not their interrupt is enabled;
 * the timer runs only for those that are, otherwise what happened is found out when somebody looks.
 */
#include "devices/mc146818.h"

#include <time.h>

#include "base/log.h"
#include "devices/catch_up.h"
#include "devices/props.h"

enum {
    REG_SECONDS,
    REG_SECONDS_ALARM,
    REG_MINUTES,
    REG_MINUTES_ALARM,
    REG_HOURS,
    REG_HOURS_ALARM,
    REG_WEEKDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    REG_CENTURY = 0x32,
};
enum {
    A_UIP = 0x80,
    A_DV = 0x70, /* 0x20: 32768 Hz crystal; 0x60, 0x70: divider held in reset */
    A_DV_RUN = 0x20,
    A_RS = 0x0f,
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_BINARY = 0x04,
    B_24H = 0x02,
    B_WRITABLE = B_SET | B_PIE | B_AIE | B_UIE | B_BINARY | B_24H, /* no square wave, no DST */
    C_IRQF = 0x80,
    C_PF = 0x40,
    C_AF = 0x20,
    C_UF = 0x10,
    DONT_CARE = 0xc0, /* alarm bytes from here on match anything */
};
#define RTC_HZ 32768ull
#define DAY_S  86400
/* UIP is on from 244 us before the update cycle until its end 1984 us later (tBUC, tUC with this
 * crystal); the registers change at its end. */
#define UIP_NS (244000ull + 1984000ull)

typedef struct Rtc {
    Device dev;
    IrqLine irq;
    bool irq_enabled, level;
    bool discard;      /* lost_tick_policy: a tick that finds the last one unread is lost */
    uint8_t index;     /* with the NMI mask in bit 7 */
    uint8_t cmos[128]; /* [REG_C] without what has not been looked for yet */
    bool running;      /* SET off and the divider on */
    uint64_t next;     /* clock ns of the next update of the seconds; valid while running */
    uint64_t tick;     /* RTC_HZ ticks: the next periodic flag; valid with a rate */
    Timer *timer;
    IoRegion *region;
} Rtc;

static uint64_t now(const Rtc *r)
{
    return clock_ns(r->dev.board->clock);
}

static int decode(const Rtc *r, uint8_t v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode(const Rtc *r, int v)
{
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static int decode_hour(const Rtc *r, uint8_t v)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static uint8_t encode_hour(const Rtc *r, int hour)
{
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

/* The registers as a date; what is out of range carries over (timegm does). */
static int64_t get_time(const Rtc *r)
{
    struct tm tm = {
        .tm_sec = decode(r, r->cmos[REG_SECONDS]),
        .tm_min = decode(r, r->cmos[REG_MINUTES]),
        .tm_hour = decode_hour(r, r->cmos[REG_HOURS]),
        .tm_mday = decode(r, r->cmos[REG_DAY]),
        .tm_mon = decode(r, r->cmos[REG_MONTH]) - 1,
        .tm_year = decode(r, r->cmos[REG_CENTURY]) * 100 + decode(r, r->cmos[REG_YEAR]) - 1900,
    };
    return timegm(&tm);
}

static void put_time(Rtc *r, int64_t t)
{
    struct tm tm;
    time_t seconds = (time_t)t;
    gmtime_r(&seconds, &tm);
    r->cmos[REG_SECONDS] = encode(r, tm.tm_sec);
    r->cmos[REG_MINUTES] = encode(r, tm.tm_min);
    r->cmos[REG_HOURS] = encode_hour(r, tm.tm_hour);
    r->cmos[REG_DAY] = encode(r, tm.tm_mday);
    r->cmos[REG_MONTH] = encode(r, tm.tm_mon + 1);
    r->cmos[REG_YEAR] = encode(r, tm.tm_year % 100);
    r->cmos[REG_CENTURY] = encode(r, (tm.tm_year / 100 + 19) % 100);
}

static int64_t day_of(int64_t t)
{
    return t >= 0 ? t / DAY_S : -((DAY_S - 1 - t) / DAY_S);
}

static bool alarm_at(const Rtc *r, int second_of_day)
{
    const uint8_t *a = r->cmos;
    int h = second_of_day / 3600, m = second_of_day / 60 % 60, s = second_of_day % 60;
    return (a[REG_SECONDS_ALARM] >= DONT_CARE || decode(r, a[REG_SECONDS_ALARM]) == s) &&
           (a[REG_MINUTES_ALARM] >= DONT_CARE || decode(r, a[REG_MINUTES_ALARM]) == m) &&
           (a[REG_HOURS_ALARM] >= DONT_CARE || decode_hour(r, a[REG_HOURS_ALARM]) == h);
}

/* Update cycles that have ended since the last look. */
static void update_time(Rtc *r)
{
    uint64_t t = now(r);
    if (!r->running || t < r->next)
        return;
    int64_t passed = (int64_t)((t - r->next) / NS_PER_S) + 1;
    r->next += (uint64_t)passed * NS_PER_S;
    int64_t before = get_time(r), after = before + passed;
    put_time(r, after);
    /* The day of the week is a counter of its own. */
    int64_t days = day_of(after) - day_of(before);
    int weekday = decode(r, r->cmos[REG_WEEKDAY]);
    r->cmos[REG_WEEKDAY] = encode(r, (int)((weekday + 6 + days) % 7 + 1));
    r->cmos[REG_C] |= C_UF;
    int64_t s = after - day_of(after) * DAY_S;
    for (int64_t i = 0; i < MIN_OF(passed, DAY_S) && !(r->cmos[REG_C] & C_AF); i++) {
        if (alarm_at(r, (int)((s - i + DAY_S) % DAY_S)))
            r->cmos[REG_C] |= C_AF;
    }
}

/* Period of the periodic flag in ticks; 0: none. Rates 1 and 2 repeat 8 and 9 with this crystal. */
static uint64_t period(const Rtc *r)
{
    unsigned rs = r->cmos[REG_A] & A_RS;
    if (!rs || (r->cmos[REG_A] & A_DV) != A_DV_RUN)
        return 0;
    return BIT(rs <= 2 ? rs + 6 : rs - 1);
}

static uint64_t now_tick(const Rtc *r)
{
    return ns_to_ticks(now(r), RTC_HZ);
}

/* Does each tick wait until the guest has read the one before (catch_up.h)? Else those that passed
 * unseen are one: with the policy "discard", and without the interrupt. */
static bool each_counts(const Rtc *r)
{
    return r->cmos[REG_B] & B_PIE && !r->discard;
}

static void update_periodic(Rtc *r)
{
    uint64_t p = period(r), t = now_tick(r);
    if (!p || t < r->tick)
        return;
    if (!each_counts(r))
        r->tick += (t - r->tick) / p * p;
    else if (r->cmos[REG_C] & C_PF)
        return;
    r->cmos[REG_C] |= C_PF;
    r->tick += p;
}

static void drive(Rtc *r)
{
    uint8_t active = r->cmos[REG_C] & r->cmos[REG_B] & (C_PF | C_AF | C_UF);
    r->cmos[REG_C] = (r->cmos[REG_C] & (C_PF | C_AF | C_UF)) | (active ? C_IRQF : 0);
    if (r->level != (active != 0)) {
        r->level = active;
        if (r->irq_enabled)
            irq_set(&r->irq, r->level);
    }
}

/* Brings everything up to now and arms the timer for the next interrupt. */
static void service(Rtc *r)
{
    uint64_t next = NO_EXPIRY, p = period(r);
    update_time(r);
    update_periodic(r);
    drive(r);
    if (r->running && r->cmos[REG_B] & (B_AIE | B_UIE))
        next = r->next;
    /* While PF is on, reading register C goes on with the next tick. */
    if (p && r->cmos[REG_B] & B_PIE && !(r->cmos[REG_C] & C_PF))
        next = MIN_OF(next, ticks_to_ns(catch_up(&r->tick, p, now_tick(r), RTC_HZ), RTC_HZ));
    if (next == NO_EXPIRY)
        timer_del(r->timer);
    else
        timer_mod(r->timer, next);
}

static void expired(void *opaque)
{
    service(opaque);
}

static uint8_t read_register(Rtc *r, unsigned index)
{
    uint8_t v;
    if (index > REG_D && index != REG_CENTURY)
        return r->cmos[index];
    update_time(r);
    switch (index) {
    case REG_A:
        v = r->cmos[REG_A];
        return v | (r->running && r->next - now(r) <= UIP_NS ? A_UIP : 0);
    case REG_C:
        /* With the interrupt enabled a tick comes by the timer alone: an interrupt handler that
         * reads until the register is 0 must come to an end, however late the host is. */
        if (!each_counts(r))
            update_periodic(r);
        drive(r);
        v = r->cmos[REG_C];
        r->cmos[REG_C] = 0;
        drive(r);
        if (period(r) && r->cmos[REG_B] & B_PIE) {
            uint64_t tick = ticks_to_ns(catch_up(&r->tick, period(r), now_tick(r), RTC_HZ), RTC_HZ);
            if (tick < timer_expiry(r->timer))
                timer_mod(r->timer, tick);
        }
        return v;
    case REG_D:
        return 0x80; /* VRT: the battery is good */
    default:
        return r->cmos[index];
    }
}

static void set_running(Rtc *r, bool divider_was_reset)
{
    bool on = !(r->cmos[REG_B] & B_SET) && (r->cmos[REG_A] & A_DV) == A_DV_RUN;
    if (divider_was_reset)
        r->next = now(r) + NS_PER_S / 2; /* the first update comes half a second after the reset */
    else if (on && !r->running && r->next <= now(r)) /* SET leaves the divider alone */
        r->next += ((now(r) - r->next) / NS_PER_S + 1) * NS_PER_S;
    r->running = on;
}

static void write_register(Rtc *r, unsigned index, uint8_t v)
{
    bool was_reset;
    uint64_t old;
    if (index > REG_D && index != REG_CENTURY) {
        r->cmos[index] = v;
        return;
    }
    update_time(r);
    switch (index) {
    case REG_A:
        update_periodic(r);
        old = period(r);
        was_reset = (r->cmos[REG_A] & A_DV) != A_DV_RUN;
        r->cmos[REG_A] = v & (A_DV | A_RS);
        set_running(r, was_reset && (v & A_DV) == A_DV_RUN);
        if (period(r) != old)
            r->tick = now_tick(r) + period(r);
        break;
    case REG_B:
        update_periodic(r);
        if (v & B_SET && !(r->cmos[REG_B] & B_SET))
            v &= ~B_UIE;
        if (v & B_PIE && !(r->cmos[REG_B] & B_PIE)) /* nothing is owed from before */
            r->tick = now_tick(r) + period(r);
        r->cmos[REG_B] = v & B_WRITABLE;
        set_running(r, false);
        break;
    case REG_C:
    case REG_D:
        return;
    default:
        r->cmos[index] = v;
    }
    service(r);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Rtc *r = opaque;
    return offset == 0 ? 0xff : read_register(r, r->index & 0x7f);
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Rtc *r = opaque;
    if (offset == 0)
        r->index = (uint8_t)value;
    else
        write_register(r, r->index & 0x7f, (uint8_t)value);
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
    Rtc *r = (Rtc *)dev;
    if (index > REG_D && index != REG_CENTURY && index < sizeof(r->cmos))
        r->cmos[index] = value;
}

bool mc146818_nmi_masked(const Device *dev)
{
    return ((const Rtc *)dev)->index & 0x80;
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Rtc *r = (Rtc *)dev;
    struct timespec ts;
    struct tm tm;
    uint64_t offset = 0; /* seconds ahead of UTC, or behind it (modulo 2^64) */
    if (!prop_take_choice(dev, props, "lost_tick_policy", "slew", "discard", &r->discard, err) ||
        !prop_take_number(dev, props, "offset", UINT64_MAX, &offset, err))
        return false;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec = (time_t)((uint64_t)ts.tv_sec + offset);
    if (!gmtime_r(&ts.tv_sec, &tm) || tm.tm_year < 0 || tm.tm_year >= 9999 - 1900) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "device %s: its clock shows the years 1900 to 9998 only", dev->cls->name);
        return false;
    }
    r->irq = dev->board->isa_irq[8];
    r->irq_enabled = true;
    r->cmos[REG_A] = A_DV_RUN | 6; /* as PC firmware leaves it: 1024 Hz */
    r->cmos[REG_B] = B_24H;
    put_time(r, ts.tv_sec);
    r->cmos[REG_WEEKDAY] = encode(r, tm.tm_wday + 1);
    r->running = true;
    r->next = now(r) + NS_PER_S - (uint64_t)ts.tv_nsec;
    r->tick = now_tick(r) + period(r);
    r->timer = timer_new(dev->board->clock, expired, r);
    r->region = io_map(dev->board->pio, 0x70, 2, &port_ops, r, "mc146818 rtc");
    return true;
}

static void unrealize(Device *dev)
{
    timer_free(((Rtc *)dev)->timer);
    io_unmap(dev->board->pio, ((Rtc *)dev)->region);
}

/* RESET clears interrupt enables and flags; time and memory have their battery. */
static void reset(Device *dev)
{
    Rtc *r = (Rtc *)dev;
    update_time(r);
    r->cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE);
    update_periodic(r);
    r->cmos[REG_C] = 0;
    r->index = 0;
    service(r);
}

static void describe(Device *dev, GString *out)
{
    Rtc *r = (Rtc *)dev;
    update_time(r);
    const uint8_t *c = r->cmos;
    g_string_append_printf(out, "rtc: %02x%02x-%02x-%02x %02x:%02x:%02x a=%02x b=%02x c=%02x\n",
                           c[REG_CENTURY], c[REG_YEAR], c[REG_MONTH], c[REG_DAY], c[REG_HOURS],
                           c[REG_MINUTES], c[REG_SECONDS], c[REG_A], c[REG_B], c[REG_C]);
}

const DeviceClass device_mc146818 = {
    .name = "mc146818rtc",
    .help = "real-time clock",
    .size = sizeof(Rtc),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .describe = describe,
};
