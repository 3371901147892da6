/* PIIX4 power management: the PM timer, its interrupt, soft-off, the power button, and where it
 * lies. */
#include <check.h>

#include "devices/i440fx.h"
#include "devices/piix4_pm.h"
#include "fake_board.h"
#include "run_suite.h"

#define PM 0x600

static Device *bridge, *pm;

static void setup(void)
{
    fake_board_init();
    bridge = fake_device(&device_i440fx);
    pm = fake_device(&device_piix4_pm);
}

static void teardown(void)
{
    device_free(pm);
    device_free(bridge);
    fake_board_free();
}

static void config_write(uint8_t devfn, uint8_t at, uint32_t v)
{
    outl(0xcf8, 0x80000000u | devfn << 8 | at);
    outl(0xcfc, v);
}

START_TEST(timer_runs_at_3579545_hz)
{
    static const struct {
        uint64_t ns, ticks;
    } row[] = {
        {0, 0},
        {279, 0},
        {280, 1}, /* one tick is 279.365 ns */
        {1000000000, 3579545},
        {4686968316, 0xfffffe},
        {86400000000000, 86400ull * 3579545},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        fake_ns = row[i].ns;
        ck_assert_uint_eq(inl(PM + 8), row[i].ticks & 0xffffff);
    }
    /* Never backwards but for the wrap, and no tick is off by more than one. */
    fake_ns = 999999000;
    uint32_t last = inl(PM + 8);
    for (unsigned i = 0; i < 8000; i++) {
        fake_ns += 7;
        uint32_t now = inl(PM + 8);
        ck_assert(now == last || now == last + 1);
        last = now;
    }
}
END_TEST

START_TEST(timer_overflow_interrupts)
{
    const uint64_t half = (uint64_t)0x800000 * 1000000000 / 3579545; /* 2.34 s */
    outw(PM + 2, 0x0001);
    fake_advance(half - 1000);
    ck_assert(!fb.level[9]);
    ck_assert_uint_eq(inw(PM) & 1, 0);
    fake_advance(2000);
    ck_assert(fb.level[9]);
    ck_assert_uint_eq(inw(PM) & 1, 1);
    outw(PM, 0x0001);
    ck_assert(!fb.level[9]);
    ck_assert_uint_eq(inw(PM) & 1, 0);
    fake_advance(half);
    ck_assert(fb.level[9]); /* the top bit falls: the same */
    outw(PM + 2, 0);
    ck_assert(!fb.level[9]);
    outw(PM, 1);
    fake_advance(half); /* the status comes without the interrupt too */
    ck_assert_uint_eq(inw(PM) & 1, 1);
    ck_assert(!fb.level[9]);
    outw(PM, 1);
    fake_advance(half);
    outw(PM, 1); /* of what nobody has looked at yet, too */
    ck_assert_uint_eq(inw(PM) & 1, 0);
    fake_advance(half);
    pm->cls->reset(pm);
    ck_assert_uint_eq(inw(PM) & 1, 0);
}
END_TEST

START_TEST(power_button)
{
    piix4_pm_power_button(pm);
    ck_assert_uint_eq(inw(PM), 0x0100);
    ck_assert(!fb.level[9]);
    outw(PM + 2, 0x0120);
    ck_assert_uint_eq(inw(PM + 2), 0x0120);
    ck_assert(fb.level[9]);
    outb(PM + 1, 0x01); /* byte access to the upper half */
    ck_assert_uint_eq(inw(PM), 0);
    ck_assert(!fb.level[9]);
}
END_TEST

START_TEST(control)
{
    ck_assert_uint_eq(inw(PM + 4), 0x0001); /* ACPI mode, always */
    outw(PM + 4, 0x0000);
    ck_assert_uint_eq(inw(PM + 4), 0x0001);
    outw(PM + 4, 0x1401); /* SLP_TYP without SLP_EN */
    ck_assert_uint_eq(inw(PM + 4), 0x1401);
    ck_assert_uint_eq(fb.poweroffs, 0);
    outw(PM + 4, 0x3401); /* a type nobody offers */
    ck_assert_uint_eq(fb.poweroffs, 0);
    outw(PM + 4, 0x2001); /* S5 */
    ck_assert_uint_eq(fb.poweroffs, 1);
    ck_assert_uint_eq(inw(PM + 4), 0x0001); /* SLP_EN reads 0 */
}
END_TEST

START_TEST(gpe_block)
{
    outw(PM + 0x0e, 0xffff);
    ck_assert_uint_eq(inw(PM + 0x0e), 0xffff);
    ck_assert_uint_eq(inw(PM + 0x0c), 0);
    ck_assert(!fb.level[9]);
}
END_TEST

START_TEST(moves_with_its_base)
{
    config_write(0x0b, 0x40, 0xb001);
    ck_assert_uint_eq(inl(PM + 8), 0xffffffff);
    fake_ns = 1000000000;
    ck_assert_uint_eq(inl(0xb008), 3579545);
    config_write(0x0b, 0x80, 0);
    ck_assert_uint_eq(inl(0xb008), 0xffffffff);
    config_write(0x0b, 0x80, 1);
    ck_assert_uint_eq(inl(0xb008), 3579545);
    config_write(0x0b, 0x40, 0);
    ck_assert_uint_eq(inl(0xb008), 0xffffffff);
    pm->cls->reset(pm);
    ck_assert_uint_eq(inl(PM + 8), 3579545);
}
END_TEST

START_TEST(apm_ports_hold_what_is_written)
{
    outb(0xb2, 0x12);
    outb(0xb3, 0x34);
    ck_assert_uint_eq(inw(0xb2), 0x3412);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pm");
    TCase *tc = tcase_create("piix4 pm");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, timer_runs_at_3579545_hz);
    tcase_add_test(tc, timer_overflow_interrupts);
    tcase_add_test(tc, power_button);
    tcase_add_test(tc, control);
    tcase_add_test(tc, gpe_block);
    tcase_add_test(tc, moves_with_its_base);
    tcase_add_test(tc, apm_ports_hold_what_is_written);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
