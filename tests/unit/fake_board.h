/*
 * A board without CPUs for device tests: real I/O spaces, a clock that only moves when told (it
 * takes the place of base/clock.c at link time), interrupt lines and requests that are recorded.
 */
#ifndef TANDEM_TESTS_FAKE_BOARD_H
#define TANDEM_TESTS_FAKE_BOARD_H

#include <string.h>

#include "devices/bus.h"

static uint64_t fake_ns;
static uint64_t fake_reading; /* ns that pass after each reading: the host runs something else */

struct Clock {
    char unused;
};

struct Timer {
    TimerFn *fn;
    void *opaque;
    uint64_t expire;
    Timer *next;
};

static Timer *fake_timers;

Clock *clock_new(void)
{
    static Clock c;
    return &c;
}
void clock_free(Clock *c) {}
void clock_start(Clock *c) {}
void clock_stop(Clock *c) {}
bool clock_running(const Clock *c)
{
    return true;
}
uint64_t clock_ns(const Clock *c)
{
    fake_ns += fake_reading;
    return fake_ns - fake_reading;
}
uint64_t clock_host_tsc_khz(void)
{
    return 1000000;
}
uint64_t clock_tsc(const Clock *c)
{
    return fake_ns;
}
uint64_t clock_tsc_khz(const Clock *c)
{
    return 1000000;
}
uint64_t clock_ns_at_tsc(const Clock *c, uint64_t tsc)
{
    return MAX_OF(tsc, fake_ns);
}
Timer *timer_new(Clock *c, TimerFn *fn, void *opaque)
{
    Timer *t = g_new0(Timer, 1);
    *t = (Timer){fn, opaque, NO_EXPIRY, fake_timers};
    fake_timers = t;
    return t;
}
void timer_free(Timer *t)
{
    for (Timer **p = &fake_timers; *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            break;
        }
    }
    g_free(t);
}
void timer_mod(Timer *t, uint64_t expire_ns)
{
    t->expire = expire_ns;
}
void timer_del(Timer *t)
{
    t->expire = NO_EXPIRY;
}
bool timer_pending(const Timer *t)
{
    return t->expire != NO_EXPIRY;
}
uint64_t timer_expiry(const Timer *t)
{
    return t->expire;
}
uint64_t timers_run(Clock *c)
{
    return NO_EXPIRY;
}
void timers_set_notify(Clock *c, void (*fn)(void *opaque), void *opaque) {}

/* Moves time on, running each timer at its own moment. */
static inline void fake_advance(uint64_t ns)
{
    uint64_t end = fake_ns + ns;
    for (;;) {
        Timer *first = NULL;
        for (Timer *t = fake_timers; t; t = t->next) {
            if (t->expire <= end && (!first || t->expire < first->expire))
                first = t;
        }
        if (!first)
            break;
        fake_ns = MAX_OF(fake_ns, first->expire);
        first->expire = NO_EXPIRY;
        first->fn(first->opaque);
    }
    fake_ns = end;
}

#define FAKE_RAM (4u << 20)

static struct {
    Board board;
    MemMap mem;
    uint8_t *ram;
    bool level[24];
    unsigned edges[24]; /* rising */
    unsigned resets, poweroffs, remaps, dma;
    int exit_status, a20;
} fb;

static inline void fake_irq(void *opaque, int n, bool level)
{
    fb.edges[n] += level && !fb.level[n];
    fb.level[n] = level;
}
static inline void fake_reset(void *opaque)
{
    fb.resets++;
}
static inline void fake_poweroff(void *opaque)
{
    fb.poweroffs++;
}
static inline void fake_remap(void *opaque)
{
    fb.remaps++;
}
static inline void fake_exit(void *opaque, int status)
{
    fb.exit_status = status;
}
static inline void fake_a20(void *opaque, bool on)
{
    fb.a20 = on;
}
static inline void fake_dma(void *opaque, gpa_t gpa, uint64_t len)
{
    fb.dma++;
}

/* RAM at 0, FAKE_RAM bytes; everything else starts over. */
static inline void fake_board_init(void)
{
    memset(&fb, 0, sizeof(fb));
    fake_ns = fake_reading = 0;
    fb.exit_status = fb.a20 = -1;
    fb.ram = g_malloc0(FAKE_RAM);
    fb.mem.slot[0] = (RamSlot){.gpa = 0, .size = FAKE_RAM, .host = fb.ram, .fd = -1};
    fb.mem.n = 1;
    fb.board = (Board){
        .clock = clock_new(),
        .pio = io_space_new("pio", 0x10000),
        .mmio = io_space_new("mmio", 1ull << 52),
        .mem = &fb.mem,
        .reset = fake_reset,
        .poweroff = fake_poweroff,
        .debug_exit = fake_exit,
        .set_a20 = fake_a20,
        .dma_wrote = fake_dma,
        .remap = fake_remap,
    };
    for (int i = 0; i < 24; i++)
        fb.board.gsi[i] = (IrqLine){fake_irq, NULL, i};
    for (int i = 0; i < 16; i++)
        fb.board.isa_irq[i] = (IrqLine){fake_irq, NULL, i};
}

static inline void fake_board_free(void)
{
    io_space_free(fb.board.pio);
    io_space_free(fb.board.mmio);
    g_free(fb.ram);
}

static inline Device *fake_device(const DeviceClass *cls)
{
    GError *err = NULL;
    Device *d = device_new(cls, &fb.board, NULL, &err);
    g_assert_no_error(err);
    return d;
}

/* With one property. NULL and *err: it was refused. */
static inline Device *fake_device_with(const DeviceClass *cls, const char *key, const char *value,
                                       GError **err)
{
    g_autoptr(GHashTable) props = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(props, g_strdup(key), g_strdup(value));
    return device_new(cls, &fb.board, props, err);
}

static inline uint8_t inb(uint16_t port)
{
    return (uint8_t)io_read(fb.board.pio, port, 1);
}
static inline uint16_t inw(uint16_t port)
{
    return (uint16_t)io_read(fb.board.pio, port, 2);
}
static inline uint32_t inl(uint16_t port)
{
    return (uint32_t)io_read(fb.board.pio, port, 4);
}
static inline void outb(uint16_t port, uint8_t v)
{
    io_write(fb.board.pio, port, 1, v);
}
static inline void outw(uint16_t port, uint16_t v)
{
    io_write(fb.board.pio, port, 2, v);
}
static inline void outl(uint16_t port, uint32_t v)
{
    io_write(fb.board.pio, port, 4, v);
}

#endif
