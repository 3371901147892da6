/* The 8254 against its datasheet (231164), and what kernels do to calibrate with it. */
#include <check.h>

#include "devices/i8254.h"
#include "fake_fuzz.h"
#include "run_suite.h"

static Device *pit;
static bool busy;

static void setup(void)
{
    fake_board_init();
    pit = fake_device(&device_i8254);
    i8254_connect(pit, fb.board.isa_irq[0]);
    busy = false;
}

static void teardown(void)
{
    device_free(pit);
    fake_board_free();
}

/* To the start of the given tick. */
static void to_tick(uint64_t tick)
{
    uint64_t ns = (tick * NS_PER_S + PIT_HZ - 1) / PIT_HZ;
    fake_advance(ns - fake_ns);
}

static void program(unsigned counter, uint8_t control, uint16_t n)
{
    outb(0x43, (uint8_t)(counter << 6 | 0x30 | control));
    outb((uint16_t)(0x40 + counter), (uint8_t)n);
    outb((uint16_t)(0x40 + counter), (uint8_t)(n >> 8));
}

static uint16_t latched(unsigned counter)
{
    outb(0x43, (uint8_t)(counter << 6));
    uint16_t low = inb((uint16_t)(0x40 + counter));
    return (uint16_t)(low | inb((uint16_t)(0x40 + counter)) << 8);
}

static uint8_t status(unsigned counter)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << counter));
    return inb((uint16_t)(0x40 + counter));
}

static bool out2(void)
{
    return inb(0x61) & 0x20;
}

START_TEST(rate_generator_interrupts_without_drift)
{
    program(0, 0x04, 11932);
    fb.edges[0] = 0;
    fake_advance(10 * NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 10 * PIT_HZ / 11932);
    fake_advance(3590 * NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 3600 * PIT_HZ / 11932);
}
END_TEST

START_TEST(rate_generator_counts_n_to_1)
{
    program(2, 0x04, 5);
    outb(0x61, 1);
    static const uint16_t want[] = {5, 4, 3, 2, 1, 5, 4};
    static const bool high[] = {true, true, true, true, false, true, true};
    for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
        to_tick(1 + i);
        ck_assert_uint_eq(latched(2), want[i]);
        ck_assert_uint_eq(out2(), high[i]);
    }
}
END_TEST

START_TEST(square_wave)
{
    static const struct {
        uint16_t n;
        uint16_t count[8];
        uint8_t high; /* bit i: OUT at tick i */
    } rows[] = {
        {4, {4, 2, 4, 2, 4, 2, 4, 2}, 0x33},
        /* "OUT is high for (N + 1) / 2 counts and low for (N - 1) / 2" */
        {5, {4, 2, 0, 4, 2, 4, 2, 0}, 0xe7},
    };
    for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
        fake_ns = 0;
        outb(0x61, 0);
        program(2, 0x06, rows[r].n);
        outb(0x61, 1);
        for (unsigned i = 0; i < 8; i++) {
            to_tick(1 + i);
            ck_assert_uint_eq(latched(2), rows[r].count[i]);
            ck_assert_uint_eq(out2(), rows[r].high >> i & 1);
        }
    }
}
END_TEST

START_TEST(new_count_waits_for_the_half_cycle)
{
    program(2, 0x06, 8);
    outb(0x61, 1);
    to_tick(2);
    outb(0x42, 4);
    outb(0x42, 0);
    ck_assert_uint_eq(status(2) & 0x40, 0x40); /* null count: not yet in use */
    to_tick(4);
    ck_assert(out2());
    ck_assert_uint_eq(latched(2), 2);
    to_tick(5); /* low half, of the new count */
    ck_assert(!out2());
    ck_assert_uint_eq(latched(2), 4);
    ck_assert_uint_eq(status(2) & 0x40, 0);
    to_tick(7);
    ck_assert(out2());
    ck_assert_uint_eq(latched(2), 4);
}
END_TEST

START_TEST(new_rate_of_the_interrupt)
{
    program(0, 0x04, 1000);
    to_tick(1500);
    outb(0x40, 100);
    outb(0x40, 0);
    fb.edges[0] = 0;
    to_tick(2000);
    ck_assert_uint_eq(fb.edges[0], 0);
    to_tick(2001); /* end of the old period */
    ck_assert_uint_eq(fb.edges[0], 1);
    to_tick(2101);
    ck_assert_uint_eq(fb.edges[0], 2);
    to_tick(3001);
    ck_assert_uint_eq(fb.edges[0], 11);
    /* The same in mode 3, written in the high half: its low half comes next. */
    fake_advance(10);
    program(0, 0x06, 1000);
    uint64_t start = fake_ns * PIT_HZ / NS_PER_S + 1;
    to_tick(start + 1100);
    outb(0x40, 100);
    outb(0x40, 0);
    fb.edges[0] = 0;
    to_tick(start + 1549);
    ck_assert_uint_eq(fb.edges[0], 0);
    to_tick(start + 1550);
    ck_assert_uint_eq(fb.edges[0], 1);
    to_tick(start + 1650);
    ck_assert_uint_eq(fb.edges[0], 2);
}
END_TEST

START_TEST(terminal_count)
{
    program(0, 0x00, 1000);
    ck_assert(!fb.level[0]);
    to_tick(1000);
    ck_assert(!fb.level[0]);
    ck_assert_uint_eq(latched(0), 1);
    to_tick(1001); /* "N + 1 CLK pulses after the initial count is written" */
    ck_assert(fb.level[0]);
    to_tick(1003); /* goes on below 0 */
    ck_assert_uint_eq(latched(0), 0xfffe);
    ck_assert(fb.level[0]);
    outb(0x40, 10); /* the first byte makes OUT low and stops */
    ck_assert(!fb.level[0]);
    to_tick(1500);
    outb(0x40, 0);
    to_tick(1511);
    ck_assert(fb.level[0]);
    ck_assert_uint_eq(fb.edges[0], 2);
}
END_TEST

START_TEST(gate_holds_terminal_count)
{
    outb(0x61, 1);
    program(2, 0x00, 100);
    to_tick(41);
    outb(0x61, 0);
    to_tick(1000);
    ck_assert_uint_eq(latched(2), 60);
    outb(0x61, 1);
    to_tick(1059);
    ck_assert(!out2());
    to_tick(1060);
    ck_assert(out2());
}
END_TEST

START_TEST(hardware_one_shot)
{
    program(2, 0x02, 50); /* mode 1 */
    ck_assert(out2());
    to_tick(500);
    ck_assert(out2()); /* nothing before the trigger */
    outb(0x61, 1);
    to_tick(550);
    ck_assert(!out2());
    to_tick(551);
    ck_assert(out2());
    outb(0x61, 0);
    outb(0x61, 1);
    to_tick(560);
    outb(0x61, 0); /* the fall changes nothing */
    outb(0x42, 20);
    outb(0x42, 0); /* a new count waits for the next trigger */
    to_tick(601);
    ck_assert(!out2());
    to_tick(602);
    ck_assert(out2());
    outb(0x61, 1);
    to_tick(622);
    ck_assert(!out2());
    to_tick(623);
    ck_assert(out2());
}
END_TEST

START_TEST(strobes)
{
    program(0, 0x08, 100); /* mode 4 on counter 0, as Linux' one-shot clock events */
    fb.edges[0] = 0;
    to_tick(101);
    ck_assert_uint_eq(status(0) & 0x80, 0);
    ck_assert_uint_eq(fb.edges[0], 0);
    to_tick(102);
    ck_assert_uint_eq(status(0) & 0x80, 0x80);
    ck_assert_uint_eq(fb.edges[0], 1);
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 1);
    outb(0x40, 50); /* a new count without a control word */
    outb(0x40, 0);
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 2);
    program(2, 0x0a, 10); /* mode 5: by the gate */
    fake_advance(NS_PER_S);
    uint64_t tick = fake_ns * PIT_HZ / NS_PER_S;
    outb(0x61, 1);
    to_tick(tick + 11);
    ck_assert(!out2());
    to_tick(tick + 12);
    ck_assert(out2());
}
END_TEST

/* The least count that Linux programs, and a host that runs something else while it is loaded. */
START_TEST(count_is_over_while_it_is_loaded)
{
    for (uint8_t mode = 0; mode <= 4; mode++) {
        if (mode == 1) /* waits for a gate that never rises */
            continue;
        outb(0x43, (uint8_t)(0x30 | mode << 1));
        for (unsigned loads = 1; loads <= 3; loads++) {
            fb.edges[0] = 0;
            fake_reading = 20 * NS_PER_S / PIT_HZ;
            outb(0x40, 15);
            outb(0x40, 0);
            fake_reading = 0;
            fake_advance(NS_PER_S / 100);
            if (mode == 2 || mode == 3)
                ck_assert_uint_gt(fb.edges[0], 1);
            else
                ck_assert_uint_eq(fb.edges[0], 1);
        }
    }
}
END_TEST

START_TEST(reading)
{
    outb(0x61, 1);
    program(2, 0x04, 0x1234);
    to_tick(1 + 0x34);
    /* Unlatched, low then high. */
    ck_assert_uint_eq(inb(0x42), 0x00);
    ck_assert_uint_eq(inb(0x42), 0x12);
    /* Read-back of count and status: "the first read returns the status". A second latch is
     * ignored. */
    outb(0x43, 0xc8);
    to_tick(100);
    outb(0x43, 0x80);
    ck_assert_uint_eq(inb(0x42), 0xb4);
    ck_assert_uint_eq(inb(0x42), 0x00);
    ck_assert_uint_eq(inb(0x42), 0x12);
    ck_assert_uint_eq(status(0) & 0x40, 0x40); /* no count was written */
    /* One byte only. */
    outb(0x43, 0x94);
    outb(0x42, 200);
    to_tick(200);
    outb(0x43, 0x80);
    ck_assert_uint_eq(inb(0x42), 101);
    outb(0x43, 0xa4);
    outb(0x42, 2);
    ck_assert_uint_eq(inb(0x42), 2);
    ck_assert_uint_eq(inb(0x43), 0xff);
}
END_TEST

START_TEST(decimal)
{
    outb(0x61, 1);
    program(2, 0x05, 0x1000);
    to_tick(2);
    ck_assert_uint_eq(latched(2), 0x0999);
    to_tick(1000);
    ck_assert_uint_eq(latched(2), 0x0001);
    program(2, 0x01, 0); /* 0 is 10000 */
    to_tick(1002);
    ck_assert_uint_eq(latched(2), 0x9999);
}
END_TEST

/* Linux' quick_pit_calibrate() and SeaBIOS' both count down counter 2 in mode 0. */
START_TEST(calibration_by_counter_2)
{
    outb(0x61, (inb(0x61) & ~2) | 1);
    outb(0x43, 0xb0);
    outb(0x42, 0xff);
    outb(0x42, 0xff);
    inb(0x42);
    uint8_t before = inb(0x42);
    ck_assert_uint_eq(before, 0xff);
    unsigned steps = 0;
    uint8_t msb = before;
    while (!out2() && steps < 1000000) {
        fake_advance(1000);
        steps++;
        inb(0x42);
        uint8_t now = inb(0x42);
        ck_assert(now == msb || now == (uint8_t)(msb - 1));
        msb = now;
    }
    ck_assert_uint_ge(steps, 54924);
    ck_assert_uint_le(steps, 54927); /* 65536 / 1193182 Hz = 54925 us */
}
END_TEST

START_TEST(port_61)
{
    outb(0x61, 0xff);
    ck_assert_uint_eq(inb(0x61) & 0x0f, 0x0f);
    outb(0x61, 0);
    unsigned toggles = 0;
    bool last = inb(0x61) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        fake_advance(1000);
        bool now = inb(0x61) & 0x10;
        toggles += now != last;
        last = now;
    }
    ck_assert_uint_eq(toggles, 66); /* every 15.085 us */
}
END_TEST

START_TEST(late_host_catches_up)
{
    program(0, 0x04, 1193); /* about 1000 Hz */
    fb.edges[0] = 0;
    fake_ns += 50 * 1000000; /* nobody ran the timers */
    fake_advance(0);
    ck_assert_uint_eq(fb.edges[0], 1); /* not in one heap */
    fake_advance(50 * 1000000);
    ck_assert_uint_eq(fb.edges[0], 100);
    /* More than thirty seconds is too much: these are kept, and the next five are real. */
    fake_ns += 100 * NS_PER_S;
    ck_assert_uint_ge(i8254_owed(pit), 100000);
    ck_assert_uint_le(i8254_owed(pit), 100016);
    fake_advance(5 * NS_PER_S);
    ck_assert_uint_eq(i8254_owed(pit), 0);
    ck_assert_uint_ge(fb.edges[0], 100 + 34998);
    ck_assert_uint_le(fb.edges[0], 100 + 35010);
}
END_TEST

static bool is_busy(void *opaque)
{
    return busy;
}

START_TEST(tick_waits_for_its_cpu)
{
    i8254_set_busy(pit, is_busy, NULL);
    program(0, 0x04, 11932);
    fb.edges[0] = 0;
    fake_advance(15 * 1000000);
    ck_assert_uint_eq(fb.edges[0], 1);
    busy = true;
    fake_advance(45 * 1000000);
    ck_assert_uint_eq(fb.edges[0], 1);
    busy = false;
    fake_advance(940 * 1000000);
    ck_assert_uint_eq(fb.edges[0], 99);
}
END_TEST

START_TEST(hpet_takes_irq_0)
{
    program(0, 0x04, 11932);
    fake_advance(NS_PER_S);
    i8254_set_irq_enabled(pit, false);
    ck_assert(!fb.level[0]);
    fb.edges[0] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 0);
    i8254_set_irq_enabled(pit, true);
    fb.edges[0] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 100);
}
END_TEST

START_TEST(hostile_writes)
{
    for (unsigned i = 0; i < 20000; i++) {
        fuzz_accesses(fb.board.pio, 0x40, 4, 2, 3000000);
        fuzz_accesses(fb.board.pio, 0x61, 1, 1, 1000);
    }
    fb.edges[0] = 0;
    program(0, 0x06, 2); /* 600 kHz: not more than the host can bear */
    fb.edges[0] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_le(fb.edges[0], 1000000);
    program(0, 0x04, 11932);
    fb.edges[0] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_ge(fb.edges[0], 99);
    ck_assert_uint_le(fb.edges[0], 101);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("i8254");
    TCase *tc = tcase_create("i8254");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, rate_generator_interrupts_without_drift);
    tcase_add_test(tc, rate_generator_counts_n_to_1);
    tcase_add_test(tc, square_wave);
    tcase_add_test(tc, new_count_waits_for_the_half_cycle);
    tcase_add_test(tc, new_rate_of_the_interrupt);
    tcase_add_test(tc, terminal_count);
    tcase_add_test(tc, gate_holds_terminal_count);
    tcase_add_test(tc, hardware_one_shot);
    tcase_add_test(tc, strobes);
    tcase_add_test(tc, count_is_over_while_it_is_loaded);
    tcase_add_test(tc, reading);
    tcase_add_test(tc, decimal);
    tcase_add_test(tc, calibration_by_counter_2);
    tcase_add_test(tc, port_61);
    tcase_add_test(tc, late_host_catches_up);
    tcase_add_test(tc, tick_waits_for_its_cpu);
    tcase_add_test(tc, hpet_takes_irq_0);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
