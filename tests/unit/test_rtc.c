/* The MC146818A against its datasheet, and what Linux and Windows do with it. */
#include <check.h>
#include <time.h>

#include "devices/mc146818.h"
#include "fake_fuzz.h"
#include "run_suite.h"

#define MS 1000000ull

static Device *rtc;

static uint8_t get(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void set(uint8_t reg, uint8_t v)
{
    outb(0x70, reg);
    outb(0x71, v);
}

/* Century, year, month, day, hours, minutes, seconds, weekday; under SET, so nothing moves. */
static void set_date(const uint8_t d[8])
{
    static const uint8_t regs[] = {0x32, 9, 8, 7, 4, 2, 0, 6};
    set(11, get(11) | 0x80);
    for (unsigned i = 0; i < 8; i++)
        set(regs[i], d[i]);
    set(11, get(11) & 0x7f);
}

static void check_date(const uint8_t d[8])
{
    static const uint8_t regs[] = {0x32, 9, 8, 7, 4, 2, 0, 6};
    for (unsigned i = 0; i < 8; i++)
        ck_assert_msg(get(regs[i]) == d[i], "register %#x is %#x, not %#x", regs[i], get(regs[i]),
                      d[i]);
}

/* Just past the next update. */
static void to_update(void)
{
    uint8_t s = get(0);
    for (unsigned i = 0; i < 1100 && get(0) == s; i++)
        fake_advance(MS);
}

static void setup(void)
{
    fake_board_init();
    rtc = fake_device(&device_mc146818);
}

static void teardown(void)
{
    device_free(rtc);
    fake_board_free();
}

START_TEST(starts_with_the_host_s_utc)
{
    time_t t0 = time(NULL);
    struct tm tm;
    for (unsigned tries = 0; tries < 2; tries++) { /* a minute may end between the two readings */
        device_free(rtc);
        t0 = time(NULL);
        rtc = fake_device(&device_mc146818);
        gmtime_r(&t0, &tm);
        if (tm.tm_sec < 58)
            break;
    }
    ck_assert_uint_eq(get(11), 0x02);
    ck_assert_uint_eq(get(13), 0x80);
    ck_assert_uint_eq(get(2), tm.tm_min / 10 << 4 | tm.tm_min % 10);
    ck_assert_uint_eq(get(4), tm.tm_hour / 10 << 4 | tm.tm_hour % 10);
    ck_assert_uint_eq(get(7), tm.tm_mday / 10 << 4 | tm.tm_mday % 10);
    ck_assert_uint_eq(get(8), (tm.tm_mon + 1) / 10 << 4 | (tm.tm_mon + 1) % 10);
    ck_assert_uint_eq(get(6), tm.tm_wday + 1);
    ck_assert_uint_eq(get(0x32), 0x20);
}
END_TEST

START_TEST(starts_elsewhere)
{
    GError *err = NULL;
    g_autofree char *ahead = g_strdup_printf("%lld", 1896077700ll - (long long)time(NULL));
    device_free(rtc);
    rtc = fake_device_with(&device_mc146818, "offset", ahead, &err);
    g_assert_no_error(err);
    ck_assert_uint_eq(get(9), 0x30); /* 2030-01-31 08:15, a Thursday */
    ck_assert_uint_eq(get(8), 0x01);
    ck_assert_uint_eq(get(7), 0x31);
    ck_assert_uint_eq(get(4), 0x08);
    ck_assert_uint_eq(get(2), 0x15);
    ck_assert_uint_eq(get(6), 5);
    device_free(rtc);
    rtc = fake_device_with(&device_mc146818, "offset", "9223372036854775807", &err);
    ck_assert_ptr_null(rtc);
    ck_assert(strstr(err->message, "1900"));
    g_error_free(err);
    rtc = fake_device(&device_mc146818);
}
END_TEST

START_TEST(calendar)
{
    static const struct {
        uint8_t b, before[8], after[8];
    } rows[] = {
        {0x02,
         {0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x59, 4},
         {0x20, 0x24, 0x02, 0x29, 0x00, 0x00, 0x00, 5}},
        {0x02,
         {0x20, 0x23, 0x02, 0x28, 0x23, 0x59, 0x59, 3},
         {0x20, 0x23, 0x03, 0x01, 0x00, 0x00, 0x00, 4}},
        {0x02,
         {0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59, 7},
         {0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 1}},
        /* Binary. */
        {0x06, {20, 99, 12, 31, 23, 59, 59, 5}, {21, 0, 1, 1, 0, 0, 0, 6}},
        /* 12 hours: 12 is before 1, bit 7 is PM. */
        {0x00,
         {0x20, 0x24, 0x05, 0x31, 0x11, 0x59, 0x59, 6},
         {0x20, 0x24, 0x05, 0x31, 0x92, 0x00, 0x00, 6}},
        {0x00,
         {0x20, 0x24, 0x05, 0x31, 0x91, 0x59, 0x59, 6},
         {0x20, 0x24, 0x06, 0x01, 0x12, 0x00, 0x00, 7}},
        {0x04, {20, 24, 5, 31, 0x8c, 59, 59, 6}, {20, 24, 5, 31, 0x81, 0, 0, 6}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        set(11, rows[i].b);
        set_date(rows[i].before);
        check_date(rows[i].before);
        to_update();
        check_date(rows[i].after);
    }
    fake_advance(86400 * NS_PER_S); /* nobody looked for a day */
    ck_assert_uint_eq(get(7), 1);
    ck_assert_uint_eq(get(8), 6);
    ck_assert_uint_eq(get(6), 7);
}
END_TEST

/* The order in which a date is written does not matter, even through a date that does not exist. */
START_TEST(set_through_february_30)
{
    static const uint8_t february[8] = {0x20, 0x24, 0x02, 0x10, 0, 0, 0, 1};
    set_date(february);
    set(11, 0x82);
    set(7, 0x31);
    fake_advance(5 * NS_PER_S); /* SET: "the update transfer ... is inhibited" */
    ck_assert_uint_eq(get(7), 0x31);
    ck_assert_uint_eq(get(10) & 0x80, 0);
    set(8, 0x01);
    set(11, 0x02);
    ck_assert_uint_eq(get(7), 0x31);
    ck_assert_uint_eq(get(8), 0x01);
    to_update();
    ck_assert_uint_eq(get(7), 0x31);
    ck_assert_uint_eq(get(0), 0x01);
}
END_TEST

START_TEST(divider_reset_gives_half_a_second)
{
    static const uint8_t noon[8] = {0x20, 0x24, 0x05, 0x05, 0x12, 0, 0, 1};
    set(10, 0x76); /* as Linux' mc146818_set_time(): SET and divider reset */
    set_date(noon);
    fake_advance(3 * NS_PER_S);
    check_date(noon);
    set(10, 0x26);
    fake_advance(499 * MS);
    ck_assert_uint_eq(get(0), 0);
    fake_advance(2 * MS);
    ck_assert_uint_eq(get(0), 1);
    fake_advance(1000 * MS);
    ck_assert_uint_eq(get(0), 2);
}
END_TEST

START_TEST(update_in_progress_announces_the_update)
{
    to_update();
    ck_assert_uint_eq(get(10) & 0x80, 0);
    uint8_t second = get(0);
    uint64_t start = fake_ns, rose = 0;
    while (get(0) == second) {
        if (!rose && get(10) & 0x80)
            rose = fake_ns;
        ck_assert(!rose || get(10) & 0x80);
        fake_advance(10000);
        ck_assert_uint_lt(fake_ns - start, NS_PER_S + MS);
    }
    ck_assert_uint_ge(fake_ns - rose, 244000);
    ck_assert_uint_le(fake_ns - rose, 2300000);
    ck_assert_uint_eq(get(10) & 0x80, 0);
}
END_TEST

START_TEST(update_ended_interrupt)
{
    to_update();
    get(12);
    set(11, 0x12);
    fake_advance(999 * MS);
    ck_assert(!fb.level[8]);
    fake_advance(2 * MS);
    ck_assert(fb.level[8]);
    fake_advance(5 * NS_PER_S); /* one interrupt until C is read */
    ck_assert_uint_eq(fb.edges[8], 1);
    uint8_t c = get(12);
    ck_assert_uint_eq(c & 0x90, 0x90);
    ck_assert(!fb.level[8]);
    ck_assert_uint_eq(get(12), 0);
    fake_advance(1000 * MS);
    ck_assert(fb.level[8]);
    set(11, 0x92); /* SET clears UIE */
    ck_assert_uint_eq(get(11), 0x82);
    ck_assert(!fb.level[8]);
}
END_TEST

START_TEST(alarm_clock)
{
    static const uint8_t before[8] = {0x20, 0x24, 0x05, 0x05, 0x06, 0x29, 0x50, 1};
    static const struct {
        uint8_t h, m, s;
        unsigned wait_s; /* until it goes off */
    } rows[] = {{0x06, 0x30, 0x00, 10}, {0xff, 0xff, 0x55, 5}, {0xc0, 0x30, 0x15, 25},
                {0xff, 0xff, 0xff, 1},  {0x06, 0x29, 0xc0, 1}, {0x05, 0x00, 0x00, 81010}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        set(11, 0x02);
        to_update();
        set_date(before);
        set(5, rows[i].h);
        set(3, rows[i].m);
        set(1, rows[i].s);
        get(12);
        set(11, 0x22);
        fb.edges[8] = 0;
        fake_advance((rows[i].wait_s - 1) * NS_PER_S + 500 * MS);
        ck_assert_uint_eq(fb.edges[8], 0);
        fake_advance(NS_PER_S);
        ck_assert_uint_eq(fb.edges[8], 1);
        ck_assert_uint_eq(get(12) & 0xa0, 0xa0);
        ck_assert_uint_eq(get(5), rows[i].h);
    }
    /* The flag comes without the interrupt, and when the host was late by minutes. */
    set(11, 0x02);
    set_date(before);
    set(5, 0x06);
    set(3, 0x31);
    set(1, 0x07);
    get(12);
    fake_ns += 300 * NS_PER_S;
    ck_assert_uint_eq(get(12) & 0xa0, 0x20);
}
END_TEST

START_TEST(periodic_interrupt)
{
    static const struct {
        uint8_t rs;
        unsigned hz; /* of the datasheet's table, 32768 Hz time base */
    } rows[] = {{1, 256}, {2, 128}, {3, 8192}, {4, 4096}, {5, 2048}, {6, 1024}, {7, 512}, {8, 256},
                {9, 128}, {10, 64}, {11, 32},  {12, 16},  {13, 8},   {14, 4},   {15, 2}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        set(10, 0x20 | rows[i].rs);
        set(11, 0x42);
        get(12);
        unsigned n = 0;
        uint64_t step = NS_PER_S / rows[i].hz / 4;
        for (uint64_t end = fake_ns + 10 * NS_PER_S; fake_ns < end;) {
            fake_advance(MIN_OF(step, end - fake_ns));
            if (fb.level[8]) {
                ck_assert_uint_eq(get(12) & 0xc0, 0xc0);
                n++;
            }
        }
        ck_assert_msg(n + 1 >= rows[i].hz * 10 && n <= rows[i].hz * 10 + 1, "rate %u: %u in 10 s",
                      rows[i].rs, n);
        set(11, 0x02);
    }
    set(10, 0x20); /* rate 0: none */
    set(11, 0x42);
    get(12);
    fb.edges[8] = 0;
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(fb.edges[8], 0);
}
END_TEST

START_TEST(periodic_flag_without_interrupt)
{
    set(10, 0x26);
    get(12);
    ck_assert_uint_eq(get(12) & 0x40, 0);
    fake_advance(2 * MS);
    ck_assert_uint_eq(get(12) & 0xc0, 0x40);
    ck_assert_uint_eq(get(12) & 0xc0, 0);
    ck_assert_uint_eq(fb.edges[8], 0);
}
END_TEST

START_TEST(late_host_catches_up)
{
    set(10, 0x26);
    set(11, 0x42);
    get(12);
    unsigned n = 0;
    fake_ns += 500 * MS;
    for (unsigned i = 0; i < 10000; i++) {
        fake_advance(100000);
        if (fb.level[8]) {
            get(12);
            ck_assert(!fb.level[8]); /* a handler that reads until it is quiet ends */
            n++;
        }
    }
    ck_assert_uint_ge(n, 1535); /* 1024 Hz in 1.5 s */
    ck_assert_uint_le(n, 1537);
}
END_TEST

/* The same guest: of what passes in half a second, one tick is seen. */
START_TEST(discarded_ticks_do_not_follow)
{
    GError *err = NULL;
    device_free(rtc);
    rtc = fake_device_with(&device_mc146818, "lost_tick_policy", "discard", &err);
    g_assert_no_error(err);
    set(10, 0x26);
    set(11, 0x42);
    get(12);
    unsigned n = 0;
    fake_ns += 500 * MS;
    for (unsigned i = 0; i < 10000; i++) {
        fake_advance(100000);
        if (fb.level[8]) {
            get(12);
            ck_assert(!fb.level[8]);
            n++;
        }
    }
    ck_assert_uint_ge(n, 1024);
    ck_assert_uint_le(n, 1026);
    ck_assert_ptr_null(fake_device_with(&device_mc146818, "lost_tick_policy", "delay", &err));
    ck_assert_msg(strstr(err->message, "slew and discard") != NULL, "%s", err->message);
    g_error_free(err);
}
END_TEST

START_TEST(hpet_takes_irq_8)
{
    set(11, 0x52);
    fake_advance(NS_PER_S);
    ck_assert(fb.level[8]);
    mc146818_set_irq_enabled(rtc, false);
    ck_assert(!fb.level[8]);
    ck_assert_uint_ne(get(12) & 0x40, 0);
    fake_advance(NS_PER_S);
    ck_assert(!fb.level[8]);
    mc146818_set_irq_enabled(rtc, true);
    ck_assert(fb.level[8]);
}
END_TEST

START_TEST(memory)
{
    for (uint8_t i = 14; i < 128; i++) {
        if (i != 0x32)
            set(i, (uint8_t)~i);
    }
    mc146818_set_cmos(rtc, 0x5f, 0x42);
    mc146818_set_cmos(rtc, 0x32, 0x42); /* that is time */
    mc146818_set_cmos(rtc, 0, 0x42);
    mc146818_set_cmos(rtc, 4000, 0x42);
    device_mc146818.reset(rtc);
    for (uint8_t i = 14; i < 128; i++) {
        if (i != 0x32)
            ck_assert_uint_eq(get(i), i == 0x5f ? 0x42 : (uint8_t)~i);
    }
    ck_assert_uint_eq(get(0x32), 0x20);
    ck_assert(!mc146818_nmi_masked(rtc));
    ck_assert_uint_eq(get(0x80 | 0x5f), 0x42);
    ck_assert(mc146818_nmi_masked(rtc));
    set(13, 0);
    ck_assert_uint_eq(get(13), 0x80);
}
END_TEST

START_TEST(reset_keeps_time_and_ends_interrupts)
{
    static const uint8_t noon[8] = {20, 24, 5, 5, 12, 0, 0, 1};
    set(11, 0x76);
    set_date(noon);
    fake_advance(2 * NS_PER_S);
    ck_assert(fb.level[8]);
    device_mc146818.reset(rtc);
    ck_assert(!fb.level[8]);
    ck_assert_uint_eq(get(11), 0x06);
    ck_assert_uint_eq(get(12), 0);
    ck_assert_uint_eq(get(4), 12);
}
END_TEST

START_TEST(hostile_writes)
{
    for (unsigned i = 0; i < 30000; i++) {
        set((uint8_t)(fuzz_random() % (i & 1 ? 14 : 256)), (uint8_t)fuzz_random());
        fuzz_accesses(fb.board.pio, 0x70, 2, 2, NS_PER_S);
        if (i % 1000 == 0)
            fake_ns += 400 * 86400 * NS_PER_S;
    }
    set(10, 0x26);
    set(11, 0x02);
    to_update();
    uint8_t s = get(0);
    fake_advance(NS_PER_S);
    ck_assert_uint_ne(get(0), s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rtc");
    TCase *tc = tcase_create("mc146818");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, starts_with_the_host_s_utc);
    tcase_add_test(tc, starts_elsewhere);
    tcase_add_test(tc, calendar);
    tcase_add_test(tc, set_through_february_30);
    tcase_add_test(tc, divider_reset_gives_half_a_second);
    tcase_add_test(tc, update_in_progress_announces_the_update);
    tcase_add_test(tc, update_ended_interrupt);
    tcase_add_test(tc, alarm_clock);
    tcase_add_test(tc, periodic_interrupt);
    tcase_add_test(tc, periodic_flag_without_interrupt);
    tcase_add_test(tc, late_host_catches_up);
    tcase_add_test(tc, discarded_ticks_do_not_follow);
    tcase_add_test(tc, hpet_takes_irq_8);
    tcase_add_test(tc, memory);
    tcase_add_test(tc, reset_keeps_time_and_ends_interrupts);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
