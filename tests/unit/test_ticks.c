/*
 * Timers, both interrupt controllers and a CPU together, wired as the pc board does: every tick
 * reaches the CPU once, however late the host runs timers and CPU; and a hostile guest that writes
 * to all of them at once.
 */
#include <check.h>

#include "devices/catch_up.h"
#include "devices/hpet.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "devices/mc146818.h"
#include "fake_fuzz.h"
#include "run_suite.h"

#define APIC   0xfee00000ull
#define MS     1000000ull
#define VECTOR 0x40
#define N      2

static Device *pic, *ioapic, *pit, *rtc, *hpet;
static Lapic *apic[N];
static unsigned taken, depth, deepest;

static void isa_irq(void *opaque, int n, bool level)
{
    i8259_set_irq(pic, n, level);
    ioapic_set_irq(ioapic, n == 0 ? 2 : n, level);
}

static void gsi(void *opaque, int n, bool level)
{
    ioapic_set_irq(ioapic, n, level);
}

static void pic_intr(void *opaque, int n, bool level)
{
    for (unsigned i = 0; i < N; i++)
        lapic_set_lint0(apic[i], level);
}

static void hpet_legacy(void *opaque, bool on)
{
    i8254_set_irq_enabled(pit, !on);
    mc146818_set_irq_enabled(rtc, !on);
}

static bool irq0_busy(void *opaque)
{
    bool open = lapic_lint0_open(apic[0]) || lapic_lint0_open(apic[1]);
    return (open && i8259_irq_pending(pic, 0)) || ioapic_irq_pending(ioapic, 2);
}

static void ignore_level(void *opaque, bool level) {}
static void ignore(void *opaque) {}
static void ignore_vector(void *opaque, uint8_t vector) {}
static uint64_t tsc(void *opaque)
{
    return fake_ns;
}
static uint64_t ns_at_tsc(void *opaque, uint64_t t)
{
    return MAX_OF(t, fake_ns);
}

static void apic_set(unsigned n, unsigned reg, uint32_t v)
{
    lapic_set_current(apic[n]);
    io_write(fb.board.mmio, APIC + reg, 4, v);
}

static void rte_set(unsigned pin, uint32_t v)
{
    io_write(fb.board.mmio, 0xfec00000, 4, 0x11 + 2 * pin);
    io_write(fb.board.mmio, 0xfec00010, 4, 0);
    io_write(fb.board.mmio, 0xfec00000, 4, 0x10 + 2 * pin);
    io_write(fb.board.mmio, 0xfec00010, 4, v);
}

static void setup(void)
{
    LapicCpu cpus[N];
    fake_board_init();
    for (int i = 0; i < 24; i++)
        fb.board.gsi[i] = (IrqLine){gsi, NULL, i};
    for (int i = 0; i < 16; i++)
        fb.board.isa_irq[i] = (IrqLine){isa_irq, NULL, i};
    for (unsigned i = 0; i < N; i++)
        cpus[i] =
            (LapicCpu){NULL, ignore_level, ignore, ignore, ignore, ignore_vector, tsc, ns_at_tsc};
    pic = fake_device(&device_i8259);
    ioapic = fake_device(&device_ioapic);
    ck_assert(lapics_new(&fb.board, N, cpus, apic, NULL));
    pit = fake_device(&device_i8254);
    rtc = fake_device(&device_mc146818);
    hpet = fake_device(&device_hpet);
    i8259_connect(pic, (IrqLine){pic_intr, NULL, 0});
    ioapic_connect(ioapic, apic, N);
    lapic_set_eoi_hook(ioapic_eoi, ioapic);
    i8254_connect(pit, fb.board.isa_irq[0]);
    i8254_set_busy(pit, irq0_busy, NULL);
    mc146818_connect(rtc, fb.board.isa_irq[8]);
    hpet_connect(hpet, hpet_legacy, NULL);
    hpet_set_busy(hpet, irq0_busy, NULL);
    apic_set(0, 0xf0, 0x1ff);
    taken = deepest = 0;
}

static void teardown(void)
{
    device_free(hpet);
    device_free(rtc);
    device_free(pit);
    lapic_set_eoi_hook(NULL, NULL);
    device_free(ioapic);
    device_free(pic);
    lapics_free(apic, N);
    fake_board_free();
}

/* ---- where ticks of 1000 Hz come from and how they travel ---- */

static void init_pic(uint8_t mask)
{
    static const uint8_t icw[] = {VECTOR, 0x04, 0x01};
    outb(0x20, 0x11);
    for (unsigned i = 0; i < 3; i++)
        outb(0x21, icw[i]);
    outb(0x21, mask);
    outb(0xa1, 0xff);
}

static void start_pit(void)
{
    outb(0x43, 0x34);
    outb(0x40, 1193 & 0xff);
    outb(0x40, 1193 >> 8);
}

static void start_hpet(void)
{
    io_write(fb.board.mmio, HPET_BASE + 0x100, 4, 0x14c);
    io_write(fb.board.mmio, HPET_BASE + 0x108, 4, 100000);
    io_write(fb.board.mmio, HPET_BASE + 0x108, 4, 100000);
    io_write(fb.board.mmio, HPET_BASE + 0x10, 4, 3);
}

/* IRQ 0 stays open at the 8259s, as an unexpecting guest leaves it: nobody acknowledges there. */
static void through_ioapic(void)
{
    init_pic(0xfe);
    apic_set(0, 0x350, 0x10700);
    rte_set(2, VECTOR);
}

static void pit_pic(void)
{
    init_pic(0xfe);
    start_pit();
}
static void pit_ioapic(void)
{
    through_ioapic();
    start_pit();
}
static void hpet_pic(void)
{
    init_pic(0xfe);
    start_hpet();
}
static void hpet_ioapic(void)
{
    through_ioapic();
    start_hpet();
}
static void apic_timer(void)
{
    init_pic(0xff);
    apic_set(0, 0x3e0, 11);
    apic_set(0, 0x320, 1 << 17 | VECTOR);
    apic_set(0, 0x380, 1000000);
}

static const struct {
    const char *name;
    void (*start)(void);
    bool pic;
    uint64_t period_ns_num, period_ns_den;
} source[] = {
    {"PIT, 8259", pit_pic, true, 1193 * NS_PER_S, PIT_HZ},
    {"PIT, I/O APIC", pit_ioapic, false, 1193 * NS_PER_S, PIT_HZ},
    {"HPET, 8259", hpet_pic, true, MS, 1},
    {"HPET, I/O APIC", hpet_ioapic, false, MS, 1},
    {"APIC timer", apic_timer, false, MS, 1},
};

/* The CPU takes what it can get. Its handler ends the interrupt at once and lets the next one in.
 */
static void run_cpu(bool with_pic)
{
    for (int v; (v = lapic_ack(apic[0])) >= 0;) {
        bool extint = v == LAPIC_EXTINT;
        if (extint)
            v = i8259_ack(pic);
        i8254_irq_taken(pit);
        hpet_irq_taken(hpet);
        ck_assert_int_eq(v, VECTOR);
        ck_assert_uint_eq(extint, with_pic);
        taken++;
        depth++;
        deepest = MAX_OF(deepest, depth);
        if (extint)
            outb(0x20, 0x20);
        else
            apic_set(0, 0xb0, 0);
    }
    depth = 0;
}

static const struct {
    uint64_t timers_ns, cpu_ns; /* how often each gets to run */
    uint64_t held_ns, free_ns;  /* the CPU, in turns; 0: always free */
} host[] = {
    {MS / 10, MS / 10, 0, 0},
    {13 * MS, MS / 10, 0, 0},
    {MS / 10, 13 * MS, 0, 0},
    {13 * MS, 7 * MS, 0, 0},
    {MS / 10, MS / 10, 900 * MS, 600 * MS},
    {MS / 10, MS / 10, 5000 * MS, 3000 * MS},
    {3 * MS, MS / 10, 400 * MS, 200 * MS},
};

START_TEST(every_tick_is_taken_once)
{
    unsigned s = (unsigned)_i % ARRAY_LEN(source), h = (unsigned)_i / ARRAY_LEN(source);
    const uint64_t step = MS / 10, end = 9 * NS_PER_S;
    source[s].start();
    uint64_t start = fake_ns, late = 0, quiet = end + 4 * NS_PER_S;
    for (uint64_t t = step; t <= quiet; t += step) {
        bool calm = t > end; /* time to catch up */
        fake_ns = start + t;
        if (calm || t % host[h].timers_ns == 0)
            fake_advance(0);
        bool held = host[h].held_ns && t % (host[h].held_ns + host[h].free_ns) < host[h].held_ns;
        if (calm || (!held && t % host[h].cpu_ns == 0))
            run_cpu(source[s].pic);
        uint64_t due =
            (uint64_t)((unsigned __int128)t * source[s].period_ns_den / source[s].period_ns_num);
        ck_assert_msg(taken <= due, "%s, host %u: %u ticks where %u were due", source[s].name, h,
                      taken, (unsigned)due);
        late = due - taken;
    }
    ck_assert_msg(late <= 1, "%s, host %u: %u ticks lost", source[s].name, h, (unsigned)late);
    ck_assert_msg(deepest <= CATCH_UP_BURST + 1, "%s, host %u: %u in a row", source[s].name, h,
                  deepest);
}
END_TEST

/* lost_tick_policy=discard: a tick that comes while the last one waits is lost, and the phase
 * stays. */
START_TEST(discarded_ticks_are_lost)
{
    GError *err = NULL;
    device_free(pit);
    pit = fake_device_with(&device_i8254, "lost_tick_policy", "discard", &err);
    g_assert_no_error(err);
    ck_assert(i8254_discards_ticks(pit));
    i8254_connect(pit, fb.board.isa_irq[0]);
    i8254_set_busy(pit, irq0_busy, NULL);
    init_pic(0xfe);
    start_pit();
    for (unsigned i = 0; i < 4; i++) {
        fake_advance(400 * MS); /* nobody takes any */
        run_cpu(true);
        ck_assert_uint_eq(taken, 1);
        for (unsigned j = 0; j < 100; j++) {
            fake_advance(MS);
            run_cpu(true);
        }
        ck_assert_msg(taken >= 100 && taken <= 102, "%u", taken);
        taken = 0;
    }
    fake_advance(400 * MS);
    run_cpu(true); /* the timer, too, was late: it owes nothing */
    fake_ns += 400 * MS;
    fake_advance(0);
    for (unsigned j = 0; j < 10; j++)
        run_cpu(true);
    ck_assert_uint_eq(taken, 2);
    ck_assert_ptr_null(fake_device_with(&device_i8254, "lost_tick_policy", "slew", &err));
    ck_assert_msg(strstr(err->message, "delay and discard") != NULL, "%s", err->message);
    g_error_free(err);
}
END_TEST

/* What a process that was stopped for a minute owes is bounded. */
START_TEST(backlog_is_bounded)
{
    unsigned s = (unsigned)_i;
    source[s].start();
    fake_ns += 60 * NS_PER_S;
    for (unsigned i = 0; i < 50000; i++) {
        fake_advance(MS / 10);
        run_cpu(source[s].pic);
    }
    ck_assert_msg(taken >= 34900 && taken <= 35100, "%s: %u", source[s].name, taken);
}
END_TEST

/* Timers that come 13 ms late each time do not make ticks of 1 ms fall behind further and further.
 */
START_TEST(late_timers_do_not_add_up)
{
    unsigned s = (unsigned)_i;
    source[s].start();
    for (unsigned i = 0; i < 300; i++) {
        fake_ns += 13 * MS;
        fake_advance(0);
        run_cpu(source[s].pic);
    }
    ck_assert_msg(taken >= 300 * 13 - 30, "%s: %u", source[s].name, taken);
}
END_TEST

/* Nothing is owed after the counter is programmed anew, nor after a reset. */
START_TEST(a_new_start_owes_nothing)
{
    init_pic(0xfe);
    start_pit();
    fake_advance(500 * MS);
    start_pit();
    run_cpu(true); /* the one that stands at the 8259 */
    ck_assert_uint_eq(taken, 1);
    fake_advance(10 * MS + MS / 2);
    for (unsigned i = 0; i < 20; i++)
        run_cpu(true);
    ck_assert_uint_le(taken, 1 + 10);
    fake_advance(500 * MS);
    device_i8254.reset(pit);
    taken = 0;
    run_cpu(true);
    fake_advance(500 * MS);
    run_cpu(true);
    ck_assert_uint_le(taken, 1);
}
END_TEST

/* ---- a hostile guest ---- */

START_TEST(hostile_writes)
{
    static const struct {
        bool mmio;
        uint64_t base, len;
    } places[] = {{false, 0x20, 2},         {false, 0xa0, 2},    {false, 0x4d0, 2},
                  {false, 0x40, 4},         {false, 0x61, 1},    {false, 0x70, 2},
                  {true, HPET_BASE, 0x168}, {true, APIC, 0x400}, {true, 0xfec00000, 0x48}};
    for (unsigned i = 0; i < 150000; i++) {
        unsigned p = (unsigned)(fuzz_random() % ARRAY_LEN(places)), n = fuzz_random() & 1;
        lapic_set_current(apic[n]);
        fuzz_accesses(places[p].mmio ? fb.board.mmio : fb.board.pio, places[p].base, places[p].len,
                      1, 2 * MS);
        switch (fuzz_random() & 15) {
        case 0:
            lapic_msr_write(apic[n], 0x800 + (uint32_t)(fuzz_random() & 0x3f),
                            fuzz_random() >> (fuzz_random() & 63));
            break;
        case 1:
            lapic_msr_write(apic[n], 0x6e0, fuzz_random() >> (fuzz_random() & 63));
            break;
        case 2:
            if (!(fuzz_random() & 15))
                lapic_msr_write(apic[n], 0x1b, APIC | (fuzz_random() & 0xc00));
            break;
        case 3:
            isa_irq(NULL, (int)(fuzz_random() & 15), fuzz_random() & 1);
            break;
        case 4:
            gsi(NULL, (int)(fuzz_random() % 24), fuzz_random() & 1);
            break;
        case 5:
            apic_bus_msi(fuzz_random(), (uint32_t)fuzz_random());
            break;
        case 6 ... 9: {
            int v = lapic_ack(apic[n]);
            ck_assert_int_le(v, LAPIC_EXTINT);
            if (v == LAPIC_EXTINT)
                ck_assert_int_le(i8259_ack(pic), 0xff);
            i8254_irq_taken(pit);
            hpet_irq_taken(hpet);
            break;
        }
        case 10:
            apic_set(n, 0xb0, 0);
            break;
        case 11:
            if (!(fuzz_random() & 31))
                lapic_reset(apic[n], fuzz_random() & 1);
            break;
        }
    }
    /* After a reset the machine is as new. */
    Device *const all[] = {hpet, rtc, pit, ioapic, pic};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        all[i]->cls->reset(all[i]);
    for (int i = 0; i < 16; i++)
        isa_irq(NULL, i, false);
    for (int i = 0; i < 24; i++)
        gsi(NULL, i, false);
    for (unsigned i = 0; i < N; i++)
        lapic_reset(apic[i], false);
    apic_set(0, 0xf0, 0x1ff);
    pit_pic();
    for (unsigned i = 0; i < 1000; i++) {
        fake_advance(MS / 2);
        run_cpu(true);
    }
    ck_assert_uint_eq(taken, 500);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ticks");
    TCase *tc = tcase_create("ticks");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, every_tick_is_taken_once, 0, ARRAY_LEN(source) * ARRAY_LEN(host));
    tcase_add_loop_test(tc, late_timers_do_not_add_up, 0, ARRAY_LEN(source));
    tcase_add_test(tc, discarded_ticks_are_lost);
    tcase_add_loop_test(tc, backlog_is_bounded, 0, ARRAY_LEN(source));
    tcase_add_test(tc, a_new_start_owes_nothing);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
