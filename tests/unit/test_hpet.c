/* The HPET against the IA-PC HPET specification 1.0a. */
#include <check.h>

#include "devices/hpet.h"
#include "fake_fuzz.h"
#include "run_suite.h"

#define CAP      0x00
#define CONFIG   0x10
#define STATUS   0x20
#define COUNTER  0xf0
#define TN(n)    (0x100 + 0x20 * (n))
#define CMP(n)   (0x108 + 0x20 * (n))
#define TICK     10ull /* ns */
#define LEVEL    0x2
#define ENABLE   0x4
#define PERIODIC 0x8
#define SETVAL   0x40
#define MODE32   0x100
#define ROUTE(n) ((n) << 9)

static Device *hpet;
static bool legacy, busy;
static unsigned legacy_calls;

static void on_legacy(void *opaque, bool on)
{
    legacy = on;
    legacy_calls++;
}

static bool is_busy(void *opaque)
{
    return busy;
}

static uint64_t get(unsigned reg)
{
    return io_read(fb.board.mmio, HPET_BASE + reg, 8);
}

static uint32_t get32(unsigned reg)
{
    return (uint32_t)io_read(fb.board.mmio, HPET_BASE + reg, 4);
}

static void set(unsigned reg, uint64_t v)
{
    io_write(fb.board.mmio, HPET_BASE + reg, 8, v);
}

static void set32(unsigned reg, uint32_t v)
{
    io_write(fb.board.mmio, HPET_BASE + reg, 4, v);
}

static void setup(void)
{
    fake_board_init();
    hpet = fake_device(&device_hpet);
    hpet_connect(hpet, on_legacy, NULL);
    legacy = busy = false;
    legacy_calls = 0;
}

static void teardown(void)
{
    device_free(hpet);
    fake_board_free();
}

static void ticks(uint64_t n)
{
    fake_advance(n * TICK);
}

START_TEST(capabilities)
{
    ck_assert_uint_eq(get(CAP), 10000000ull << 32 | 0x8086a201); /* what the ACPI table says too */
    ck_assert_uint_eq(get32(CAP + 4), 10000000);
    ck_assert_uint_eq(get(CONFIG), 0);
    ck_assert_uint_eq(get(STATUS), 0);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_eq(get(TN(i)), 0x00f0000000000030);
        ck_assert_uint_eq(get(CMP(i)), ~0ull);
    }
    ck_assert_uint_eq(get(TN(3)), 0);
    set(CAP, 0);
    ck_assert_uint_eq(get32(CAP), 0x8086a201);
}
END_TEST

START_TEST(main_counter)
{
    ticks(100);
    ck_assert_uint_eq(get(COUNTER), 0); /* halted after reset */
    set(COUNTER, 0x1234500000000);
    set32(COUNTER, 77);
    ck_assert_uint_eq(get(COUNTER), 0x123450000004d);
    set(CONFIG, 1);
    ticks(1000);
    ck_assert_uint_eq(get(COUNTER), 0x1234500000000 + 1077);
    ck_assert_uint_eq(get32(COUNTER), 1077);
    ck_assert_uint_eq(get32(COUNTER + 4), 0x12345);
    set(COUNTER, 0); /* "should only be written while halted" */
    ck_assert_uint_eq(get32(COUNTER), 1077);
    set32(CONFIG, 0);
    ticks(1000);
    ck_assert_uint_eq(get32(COUNTER), 1077);
    set(CONFIG, 1);
    ticks(3);
    ck_assert_uint_eq(get32(COUNTER), 1080);
}
END_TEST

START_TEST(one_shot)
{
    set(TN(1), ENABLE | ROUTE(21));
    set(CMP(1), 5000);
    set(CONFIG, 1);
    ticks(4999);
    ck_assert_uint_eq(fb.edges[21], 0);
    ticks(1);
    ck_assert_uint_eq(fb.edges[21], 1);
    ck_assert_uint_eq(get(STATUS), 0); /* edge: the status bit is not used */
    ck_assert_uint_eq(get(CMP(1)), 5000);
    fake_advance(1000 * NS_PER_S);
    ck_assert_uint_eq(fb.edges[21], 1); /* 64 bits: it does not come round */
    set(CMP(1), get(COUNTER) + 100);
    ticks(100);
    ck_assert_uint_eq(fb.edges[21], 2);
    set(CMP(1), get(COUNTER) - 100); /* in the past */
    ticks(1000);
    ck_assert_uint_eq(fb.edges[21], 2);
}
END_TEST

START_TEST(mode_32_bits_wraps)
{
    set(TN(2), ENABLE | MODE32 | ROUTE(20));
    set(CMP(2), 0xfff00001000);
    ck_assert_uint_eq(get(CMP(2)), 0x1000);
    set(CONFIG, 1);
    ticks(0x1000);
    ck_assert_uint_eq(fb.edges[20], 1);
    ticks(0x100000000);
    ck_assert_uint_eq(fb.edges[20], 2);
}
END_TEST

START_TEST(level)
{
    set(TN(0), LEVEL | ENABLE | ROUTE(22));
    set(CMP(0), 100);
    set(CONFIG, 1);
    ticks(100);
    ck_assert(fb.level[22]);
    ck_assert_uint_eq(get(STATUS), 1);
    set(STATUS, 6); /* "writing 0 or another timer's bit has no effect" */
    ck_assert(fb.level[22]);
    set(TN(0), LEVEL | ROUTE(22)); /* no enable: the status stays, the interrupt goes */
    ck_assert(!fb.level[22]);
    ck_assert_uint_eq(get(STATUS), 1);
    set(TN(0), LEVEL | ENABLE | ROUTE(22));
    ck_assert(fb.level[22]);
    set(CONFIG, 0); /* "if 0 the counter halts and all interrupts are disabled" */
    ck_assert(!fb.level[22]);
    set(CONFIG, 1);
    ck_assert(fb.level[22]);
    set32(STATUS, 1);
    ck_assert(!fb.level[22]);
    ck_assert_uint_eq(get(STATUS), 0);
    /* "If 0, the timer can still operate and generate appropriate status bits" */
    set(TN(0), LEVEL | ROUTE(22));
    set(CMP(0), get(COUNTER) + 50);
    ticks(60);
    ck_assert_uint_eq(get(STATUS), 1);
    ck_assert(!fb.level[22]);
    set(TN(0), ROUTE(22)); /* "if edge, this bit should be ignored": nothing is left of it */
    ck_assert_uint_eq(get(STATUS), 0);
    set(TN(0), LEVEL | ENABLE | ROUTE(22));
    ck_assert(!fb.level[22]);
}
END_TEST

/* The sequence of 2.3.9.2.2: one write sets accumulator and period. */
START_TEST(periodic)
{
    set(CONFIG, 0);
    set(COUNTER, 0);
    set(TN(0), ENABLE | PERIODIC | SETVAL | ROUTE(20));
    ck_assert_uint_eq(get32(TN(0)) & SETVAL, 0);
    set(CMP(0), 100000);
    set(CONFIG, 1);
    ticks(99999);
    ck_assert_uint_eq(fb.edges[20], 0);
    ticks(1);
    ck_assert_uint_eq(fb.edges[20], 1);
    ck_assert_uint_eq(get(CMP(0)), 200000); /* "the last value written is added" */
    ticks(1000 * 100000);
    ck_assert_uint_eq(fb.edges[20], 1001);
    set(CMP(0), 50000); /* another period; the match that is due stays where it is */
    ck_assert_uint_eq(get(CMP(0)), 1002 * 100000);
    ticks(100000);
    ck_assert_uint_eq(fb.edges[20], 1002);
    ticks(50000);
    ck_assert_uint_eq(fb.edges[20], 1003);
}
END_TEST

/* Linux: accumulator first, with SETVAL, then the period, in 32 bits. */
START_TEST(periodic_as_linux)
{
    set32(CONFIG, 3);
    ck_assert(legacy);
    ticks(12345);
    uint32_t delta = 400000; /* 250 Hz */
    set32(TN(0), ENABLE | PERIODIC | SETVAL | MODE32);
    set32(CMP(0), get32(COUNTER) + delta);
    ticks(100);
    set32(CMP(0), delta);
    fb.edges[0] = 0;
    fake_advance(60 * NS_PER_S);
    ck_assert_uint_eq(fb.edges[0], 250 * 60); /* also when the counter's low half comes round */
}
END_TEST

START_TEST(period_set_late_starts_all_the_same)
{
    set32(CONFIG, 1);
    set32(TN(0), ENABLE | PERIODIC | SETVAL | MODE32 | ROUTE(20));
    set32(CMP(0), get32(COUNTER) + 1000);
    ticks(50000); /* the guest was held up */
    set32(CMP(0), 1000);
    fake_advance(0);
    fb.edges[20] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_ge(fb.edges[20], 12000);
    ck_assert_uint_eq(get32(CMP(0)) % 1000, 0);

    /* What was to be the accumulator counts as a period till then: the next match it makes is past.
     */
    set32(CONFIG, 0);
    set(COUNTER, 0xf0000000);
    set32(CONFIG, 1);
    set32(TN(0), ENABLE | PERIODIC | SETVAL | MODE32 | ROUTE(20));
    set32(CMP(0), get32(COUNTER) + 1000);
    ticks(50000);
    set32(CMP(0), 1000);
    fake_advance(0);
    fb.edges[20] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_ge(fb.edges[20], 12000);
}
END_TEST

START_TEST(legacy_replacement)
{
    set(TN(0), ENABLE | ROUTE(20));
    set(TN(1), ENABLE | ROUTE(21));
    set(CMP(0), 100);
    set(CMP(1), 200);
    set(CONFIG, 3);
    ck_assert(legacy);
    ticks(300);
    ck_assert_uint_eq(fb.edges[0], 1);
    ck_assert_uint_eq(fb.edges[8], 1);
    ck_assert_uint_eq(fb.edges[20] + fb.edges[21], 0);
    set(CONFIG, 1);
    ck_assert(!legacy);
    ck_assert(!fb.level[0]);
    ck_assert(!fb.level[8]);
    ck_assert_uint_eq(legacy_calls, 2);
    set(CONFIG, 3);
    device_hpet.reset(hpet);
    ck_assert(!legacy);
}
END_TEST

START_TEST(routes)
{
    set(TN(0), ENABLE | ROUTE(23));
    ck_assert_uint_eq(get32(TN(0)) >> 9 & 31, 23);
    set(TN(0), ENABLE | ROUTE(5)); /* not offered: does not stick */
    ck_assert_uint_eq(get32(TN(0)) >> 9 & 31, 23);
    set(TN(0), ENABLE | ROUTE(22) | 0xc000 | 0x8030); /* no FSB delivery */
    ck_assert_uint_eq(get32(TN(0)), 0x30 | ENABLE | ROUTE(22));
    set(CMP(0), 10);
    set(CONFIG, 1);
    ticks(10);
    ck_assert_uint_eq(fb.edges[22], 1);
    ck_assert_uint_eq(fb.edges[23], 0);
}
END_TEST

START_TEST(late_host_catches_up)
{
    set(TN(0), ENABLE | PERIODIC | SETVAL | ROUTE(20));
    set(CMP(0), 100000); /* 1000 Hz */
    set(CONFIG, 1);
    fake_ns += 100 * 1000000;
    fake_advance(0);
    ck_assert_uint_eq(fb.edges[20], 1);
    ck_assert_uint_eq(get(CMP(0)), 101 * 100000); /* the comparator does not show it */
    fake_advance(100 * 1000000);
    ck_assert_uint_eq(fb.edges[20], 200);
    /* A one-shot that is due when the guest writes something else is not lost. */
    set(TN(1), ENABLE | ROUTE(21));
    set(CMP(1), get(COUNTER) + 1000);
    fake_ns += 20000;
    set(TN(2), ENABLE | ROUTE(22));
    set(CONFIG, 1);
    fake_advance(100000);
    ck_assert_uint_eq(fb.edges[21], 1);
}
END_TEST

START_TEST(tick_waits_for_its_cpu)
{
    hpet_set_busy(hpet, is_busy, NULL);
    set(TN(0), ENABLE | PERIODIC | SETVAL);
    set(CMP(0), 100000);
    set(CONFIG, 3);
    fake_advance(1500000);
    ck_assert_uint_eq(fb.edges[0], 1);
    busy = true;
    fake_advance(8000000);
    ck_assert_uint_eq(fb.edges[0], 1);
    busy = false;
    fake_advance(10000000);
    ck_assert_uint_eq(fb.edges[0], 19);
}
END_TEST

START_TEST(hostile_writes)
{
    for (unsigned i = 0; i < 30000; i++) {
        fuzz_accesses(fb.board.mmio, HPET_BASE, 0x168, 3, 1000000);
        if (i % 500 == 0)
            fake_ns += 3600 * NS_PER_S;
    }
    /* The fastest there is: the host goes on. */
    set(CONFIG, 0);
    set(TN(0), ENABLE | PERIODIC | SETVAL | ROUTE(20));
    set(CMP(0), get(COUNTER) + 1);
    set(CMP(0), 1);
    set(CONFIG, 1);
    fb.edges[20] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_le(fb.edges[20], 100000);
    device_hpet.reset(hpet);
    set(TN(0), ENABLE | ROUTE(20));
    set(CMP(0), 100);
    set(CONFIG, 1);
    fb.edges[20] = 0;
    ticks(100);
    ck_assert_uint_eq(fb.edges[20], 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hpet");
    TCase *tc = tcase_create("hpet");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, capabilities);
    tcase_add_test(tc, main_counter);
    tcase_add_test(tc, one_shot);
    tcase_add_test(tc, mode_32_bits_wraps);
    tcase_add_test(tc, level);
    tcase_add_test(tc, periodic);
    tcase_add_test(tc, periodic_as_linux);
    tcase_add_test(tc, period_set_late_starts_all_the_same);
    tcase_add_test(tc, legacy_replacement);
    tcase_add_test(tc, routes);
    tcase_add_test(tc, late_host_catches_up);
    tcase_add_test(tc, tick_waits_for_its_cpu);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
