/* The keyboard controller and its keyboard, in the order in which Linux's i8042 and atkbd drivers
 * ask. */
#include <check.h>

#include "devices/i8042.h"
#include "devices/ferr.h"
#include "devices/port92.h"
#include "fake_board.h"
#include "run_suite.h"

#define DATA   0x60
#define STATUS 0x64
#define OBF    0x01
#define AUX    0x20

static Device *kbc;

static void setup(void)
{
    fake_board_init();
    kbc = fake_device(&device_i8042);
}

static void teardown(void)
{
    device_free(kbc);
    fake_board_free();
}

/* Reads the next byte, which must be there and from the keyboard or controller, not the mouse port.
 */
static void expect(uint8_t byte)
{
    ck_assert_uint_eq(inb(STATUS) & (OBF | AUX), OBF);
    ck_assert_uint_eq(inb(DATA), byte);
}

static void expect_nothing(void)
{
    ck_assert_uint_eq(inb(STATUS) & OBF, 0);
}

static uint8_t command(uint8_t c)
{
    outb(STATUS, c);
    return inb(DATA);
}

static void set_mode(uint8_t mode)
{
    outb(STATUS, 0x60);
    outb(DATA, mode);
}

START_TEST(controller)
{
    expect_nothing();
    ck_assert_uint_eq(inb(STATUS) & 0x10, 0x10); /* keyboard not locked */
    ck_assert_uint_eq(command(0xaa), 0x55);
    ck_assert_uint_eq(inb(STATUS) & 0x04, 0x04);
    ck_assert_uint_eq(command(0xab), 0x00);
    ck_assert_uint_eq(command(0xa9), 0x00);
    set_mode(0x65);
    ck_assert_uint_eq(command(0x20), 0x65);
    outb(STATUS, 0xa7);
    outb(STATUS, 0xad);
    ck_assert_uint_eq(command(0x20), 0x75);
    outb(STATUS, 0xa8);
    outb(STATUS, 0xae);
    ck_assert_uint_eq(command(0x20), 0x45);
    outb(STATUS, 0x65); /* its RAM */
    outb(DATA, 0x77);
    ck_assert_uint_eq(command(0x25), 0x77);
}
END_TEST

START_TEST(aux_loop_test_raises_irq12)
{
    set_mode(0x02);
    outb(STATUS, 0xd3);
    outb(DATA, 0x5a);
    ck_assert_uint_eq(inb(STATUS) & (OBF | AUX), OBF | AUX);
    ck_assert(fb.level[12] && !fb.level[1]);
    ck_assert_uint_eq(inb(DATA), 0x5a);
    ck_assert(!fb.level[12]);
    /* No mouse: a byte sent to it times out. */
    outb(STATUS, 0xd4);
    outb(DATA, 0xf2);
    ck_assert_uint_eq(inb(STATUS) & (OBF | AUX | 0x40), OBF | AUX | 0x40);
    ck_assert_uint_eq(inb(DATA), 0xfe);
    ck_assert_uint_eq(inb(STATUS) & 0x40, 0);
}
END_TEST

START_TEST(keyboard)
{
    set_mode(0x01); /* interrupts, no translation */
    outb(DATA, 0xf2);
    ck_assert(fb.level[1]);
    expect(0xfa);
    ck_assert(fb.level[1]); /* the next byte raised it again: an edge each */
    expect(0xab);
    expect(0x83);
    ck_assert(!fb.level[1]);
    ck_assert_uint_eq(fb.edges[1], 3);
    outb(DATA, 0xff);
    expect(0xfa);
    expect(0xaa);
    outb(DATA, 0xed);
    expect(0xfa);
    outb(DATA, 0x07);
    expect(0xfa);
    outb(DATA, 0xf0);
    expect(0xfa);
    outb(DATA, 0x00);
    expect(0xfa);
    expect(0x02);
    outb(DATA, 0xf3);
    expect(0xfa);
    outb(DATA, 0xf4); /* a command in place of the argument */
    expect(0xfa);
    outb(DATA, 0xed);
    expect(0xfa);
    outb(DATA, 0xf2); /* and is done as one */
    expect(0xfa);
    expect(0xab);
    expect(0x83);
    outb(DATA, 0xee);
    expect(0xee);
    outb(DATA, 0xfe);
    expect(0xee);
    outb(DATA, 0x99);
    expect(0xfe);
    expect_nothing();
}
END_TEST

START_TEST(keys)
{
    static const uint8_t a_down_up[] = {0x1c, 0xf0, 0x1c};
    set_mode(0x41); /* translated to set 1 */
    ck_assert_uint_eq(i8042_key(kbc, a_down_up, 3), 3);
    expect(0x1e);
    expect(0x9e);
    expect_nothing();
    set_mode(0x01);
    i8042_key(kbc, a_down_up, 3);
    expect(0x1c);
    expect(0xf0);
    expect(0x1c);
    outb(DATA, 0xf5);
    expect(0xfa);
    ck_assert_uint_eq(i8042_key(kbc, a_down_up, 3), 0);
    outb(DATA, 0xf4);
    expect(0xfa);
    set_mode(0x41);
    static const uint8_t sysrq[] = {0x84, 0xf0, 0x84};
    i8042_key(kbc, sysrq, 3);
    expect(0x54);
    expect(0xd4);
    set_mode(0x01);
    i8042_key(kbc, a_down_up, 3);
    outb(DATA, 0xf4); /* what was typed before is forgotten, but for what is out already */
    expect(0x1c);
    expect(0xfa);
    expect_nothing();
    /* With its clock held the keyboard waits; its buffer has an end. */
    outb(STATUS, 0xad);
    unsigned taken = 0;
    for (unsigned i = 0; i < 100; i++)
        taken += i8042_key(kbc, a_down_up, 1);
    ck_assert_uint_lt(taken, 40);
    expect_nothing();
    outb(STATUS, 0xae);
    while (taken--)
        expect(0x1c);
    expect_nothing();
}
END_TEST

START_TEST(reset_and_a20)
{
    ck_assert_int_eq(fb.a20, 1);
    outb(STATUS, 0xdd);
    ck_assert_int_eq(fb.a20, 0);
    ck_assert_uint_eq(command(0xd0) & 3, 1);
    outb(STATUS, 0xd1);
    outb(DATA, 0x03);
    ck_assert_int_eq(fb.a20, 1);
    ck_assert_uint_eq(fb.resets, 0);
    outb(STATUS, 0xff);
    ck_assert_uint_eq(fb.resets, 0);
    outb(STATUS, 0xfe);
    ck_assert_uint_eq(fb.resets, 1);
    outb(STATUS, 0xd1);
    outb(DATA, 0x02);
    ck_assert_uint_eq(fb.resets, 2);
}
END_TEST

START_TEST(port_92)
{
    Device *d = fake_device(&device_port92);
    ck_assert_uint_eq(inb(0x92), 0x02);
    outb(0x92, 0x00);
    ck_assert_int_eq(fb.a20, 0);
    outb(0x92, 0x02);
    ck_assert_int_eq(fb.a20, 1);
    ck_assert_uint_eq(fb.resets, 0);
    outb(0x92, 0x03);
    ck_assert_uint_eq(fb.resets, 1);
    device_free(d);
}
END_TEST

START_TEST(ferr)
{
    Device *d = fake_device(&device_ferr);
    ferr_connect(d, fb.board.isa_irq[13]);
    ck_assert(!ferr_set(d, false));
    outb(0xf0, 0); /* IGNNE# follows FERR#: nothing to ignore yet */
    ck_assert(!ferr_set(d, true));
    ck_assert(fb.level[13]);
    ck_assert(!ferr_set(d, true));
    ck_assert_uint_eq(fb.edges[13], 1);
    outb(0xf0, 0);
    ck_assert(!fb.level[13]);
    ck_assert(ferr_set(d, true)); /* goes on, and raises nothing */
    ck_assert_uint_eq(fb.edges[13], 1);
    ck_assert(!ferr_set(d, false));
    ck_assert(!ferr_set(d, true)); /* the next one */
    ck_assert_uint_eq(fb.edges[13], 2);
    d->cls->reset(d);
    ck_assert(!fb.level[13]);
    ck_assert_uint_eq(inb(0xf0), 0xff);
    device_free(d);
}
END_TEST

/* Whatever a guest writes in whatever order: no crash, and the self test still answers. */
START_TEST(hostile)
{
    uint32_t x = 12345;
    for (unsigned i = 0; i < 200000; i++) {
        x = x * 1664525 + 1013904223;
        uint16_t port = x >> 31 ? DATA : STATUS;
        if (x >> 30 & 1)
            (void)inb(port);
        else
            outb(port, (uint8_t)(x >> 16));
    }
    for (unsigned i = 0; i < 100; i++)
        (void)inb(DATA);
    outb(STATUS, 0xaa);
    bool found = false;
    for (unsigned i = 0; i < 100 && inb(STATUS) & OBF; i++)
        found |= inb(DATA) == 0x55;
    ck_assert(found);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("i8042");
    TCase *tc = tcase_create("i8042");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, controller);
    tcase_add_test(tc, aux_loop_test_raises_irq12);
    tcase_add_test(tc, keyboard);
    tcase_add_test(tc, keys);
    tcase_add_test(tc, reset_and_a20);
    tcase_add_test(tc, port_92);
    tcase_add_test(tc, ferr);
    tcase_add_test(tc, hostile);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
