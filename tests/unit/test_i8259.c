/* The 8259A pair against its datasheet (231468). */
#include <check.h>

#include "devices/i8259.h"
#include "fake_fuzz.h"
#include "run_suite.h"

static Device *pic;
static bool intr;
static unsigned intr_rises;

static void on_intr(void *opaque, int n, bool level)
{
    intr_rises += level && !intr;
    intr = level;
}

/* ICW1-4 as PC firmware: vectors 8 and 0x70. */
static void init_pair(uint8_t icw1, uint8_t icw4)
{
    outb(0x20, icw1);
    outb(0x21, 0x08);
    outb(0x21, 0x04);
    outb(0x21, icw4);
    outb(0xa0, icw1);
    outb(0xa1, 0x70);
    outb(0xa1, 0x02);
    outb(0xa1, icw4 & ~0x10);
}

static void setup(void)
{
    fake_board_init();
    pic = fake_device(&device_i8259);
    i8259_connect(pic, (IrqLine){on_intr, NULL, 0});
    intr = false;
    init_pair(0x11, 0x01);
}

static void teardown(void)
{
    device_free(pic);
    fake_board_free();
}

static void irq(int n, bool level)
{
    i8259_set_irq(pic, n, level);
}

static void pulse(int n)
{
    irq(n, false);
    irq(n, true);
}

static uint8_t isr(uint16_t port)
{
    outb(port, 0x0b);
    return inb(port);
}

static uint8_t irr(uint16_t port)
{
    outb(port, 0x0a);
    return inb(port);
}

START_TEST(edge_is_latched_until_acknowledged)
{
    irq(3, true);
    ck_assert(intr);
    ck_assert_uint_eq(irr(0x20), 0x08);
    ck_assert_int_eq(i8259_ack(pic), 0x0b);
    ck_assert(!intr);
    ck_assert_uint_eq(irr(0x20), 0);
    ck_assert_uint_eq(isr(0x20), 0x08);
    outb(0x20, 0x20);
    ck_assert(!intr); /* the line is still up, but that is no new edge */
    irq(3, true);
    ck_assert_uint_eq(irr(0x20), 0);
    irq(3, false);
    irq(3, true);
    ck_assert(intr);
}
END_TEST

START_TEST(line_that_drops_before_inta_gives_spurious_7)
{
    irq(3, true);
    irq(3, false);
    ck_assert(!intr);
    ck_assert_int_eq(i8259_ack(pic), 0x0f);
    ck_assert_uint_eq(isr(0x20), 0); /* "the ISR bit is not set by a default IR7" */
    irq(9, true);
    outb(0xa1, 0x02); /* masked after INT went up */
    ck_assert(!intr);
}
END_TEST

START_TEST(priority_and_nesting)
{
    irq(5, true);
    ck_assert_int_eq(i8259_ack(pic), 0x0d);
    irq(6, true); /* lower: waits */
    ck_assert(!intr);
    irq(1, true); /* higher: nests */
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x09);
    ck_assert_uint_eq(isr(0x20), 0x22);
    outb(0x20, 0x20); /* non-specific EOI: ends 1 */
    ck_assert_uint_eq(isr(0x20), 0x20);
    ck_assert(!intr);
    outb(0x20, 0x65); /* specific EOI of 5 */
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x0e);
}
END_TEST

START_TEST(slave_through_ir2)
{
    irq(12, true);
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x74);
    ck_assert_uint_eq(isr(0x20), 0x04);
    ck_assert_uint_eq(isr(0xa0), 0x10);
    irq(8, true); /* higher on the slave, but IR2 of the master is in service */
    ck_assert(!intr);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x70);
    i8259_set_irq(pic, 2, true); /* the cascade is no input */
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ck_assert(!intr);
}
END_TEST

START_TEST(special_fully_nested)
{
    init_pair(0x11, 0x11);
    irq(12, true);
    ck_assert_int_eq(i8259_ack(pic), 0x74);
    irq(8, true); /* now the slave may interrupt its own service */
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x70);
    irq(3, true); /* which does not let lower inputs of the master in */
    ck_assert(!intr);
}
END_TEST

START_TEST(masks)
{
    outb(0x21, 0x02);
    ck_assert_uint_eq(inb(0x21), 0x02);
    irq(1, true);
    ck_assert(!intr);
    ck_assert_uint_eq(irr(0x20), 0x02);
    ck_assert(!i8259_irq_pending(pic, 1));
    outb(0x21, 0);
    ck_assert(intr);
    ck_assert(i8259_irq_pending(pic, 1));
    i8259_ack(pic);
    ck_assert(!i8259_irq_pending(pic, 1));
}
END_TEST

START_TEST(special_mask_mode)
{
    irq(3, true);
    i8259_ack(pic);
    irq(6, true);
    ck_assert(!intr);
    outb(0x21, 0x08);
    ck_assert(!intr);
    outb(0x20, 0x68); /* "enables interrupts from all other levels, lower as well as higher" */
    ck_assert(intr);
    ck_assert_int_eq(i8259_ack(pic), 0x0e);
    outb(0x20, 0x20); /* does not clear the masked in-service bit */
    ck_assert_uint_eq(isr(0x20), 0x08);
    outb(0x20, 0x48);
    irq(7, true);
    ck_assert(!intr);
}
END_TEST

START_TEST(automatic_eoi_and_rotation)
{
    init_pair(0x11, 0x03);
    irq(4, true);
    i8259_ack(pic);
    ck_assert_uint_eq(isr(0x20), 0);
    outb(0x20, 0x80); /* rotate in automatic EOI mode */
    irq(1, true);
    i8259_ack(pic); /* 1 is now the lowest */
    pulse(0);
    pulse(1);
    pulse(3);
    ck_assert_int_eq(i8259_ack(pic), 0x0b);
    ck_assert_int_eq(i8259_ack(pic), 0x08);
    ck_assert_int_eq(i8259_ack(pic), 0x09);
}
END_TEST

START_TEST(rotation_by_command)
{
    outb(0x20, 0xc4); /* set priority: 4 is the lowest, 5 the highest */
    irq(0, true);
    irq(5, true);
    irq(4, true);
    ck_assert_int_eq(i8259_ack(pic), 0x0d);
    pulse(5);
    outb(0x20, 0xa0); /* non-specific EOI, rotate: 5 becomes the lowest */
    ck_assert_int_eq(i8259_ack(pic), 0x08);
    outb(0x20, 0xe0); /* specific EOI of 0, rotate */
    ck_assert_uint_eq(isr(0x20), 0);
    irq(0, false);
    irq(0, true);
    ck_assert_int_eq(i8259_ack(pic), 0x0c);
    outb(0x20, 0x64);
    ck_assert_int_eq(i8259_ack(pic), 0x0d);
    outb(0x20, 0x65);
    ck_assert_int_eq(i8259_ack(pic), 0x08);
}
END_TEST

START_TEST(poll_command)
{
    outb(0x20, 0x0c);
    ck_assert_uint_eq(inb(0x20) & 0x80, 0);
    irq(6, true);
    outb(0x20, 0x0c);
    ck_assert_uint_eq(inb(0x20), 0x86); /* an acknowledge: INT goes down, the ISR bit is set */
    ck_assert(!intr);
    ck_assert_uint_eq(inb(0x20), 0); /* and only one read */
    ck_assert_uint_eq(isr(0x20), 0x40);
}
END_TEST

START_TEST(level_by_elcr)
{
    ck_assert_uint_eq(inw(0x4d0), 0);
    outw(0x4d0, 0xffff);
    ck_assert_uint_eq(inw(0x4d0), 0xdef8); /* 0, 1, 2, 8 and 13 are always edges */
    irq(11, true);
    ck_assert_int_eq(i8259_ack(pic), 0x73);
    ck_assert(!intr);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ck_assert(intr); /* the line is still up */
    irq(11, false);
    ck_assert(!intr);
    irq(5, true);
    outb(0x4d0, 0);
    irq(5, false);
    ck_assert(!intr);
}
END_TEST

START_TEST(level_by_icw1)
{
    init_pair(0x19, 0x01);
    irq(1, true);
    ck_assert_int_eq(i8259_ack(pic), 0x09);
    outb(0x20, 0x20);
    ck_assert(intr);
}
END_TEST

START_TEST(icw1_starts_over)
{
    outb(0x21, 0xff);
    irq(3, true);
    outb(0x20, 0xc3);
    outb(0x20, 0x11);
    ck_assert_uint_eq(inb(0x21), 0); /* "the interrupt mask register is cleared" */
    ck_assert(!intr);                /* not ready before the last ICW */
    outb(0x21, 0x20);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    ck_assert(!intr); /* "an input must make a low-to-high transition" */
    pulse(3);
    pulse(0);
    ck_assert_int_eq(i8259_ack(pic), 0x20); /* priorities are back, vectors new */
}
END_TEST

START_TEST(int_falls_at_inta)
{
    irq(1, true);
    irq(4, true);
    ck_assert_int_eq(i8259_ack(pic), 0x09);
    ck_assert(!intr);
    outb(0x20, 0x20);
    ck_assert(intr);
    /* Also when the next one need not wait: an edge-triggered input behind INT must see it. */
    init_pair(0x11, 0x03);
    pulse(1);
    pulse(4);
    intr_rises = 0;
    i8259_ack(pic);
    ck_assert(intr);
    ck_assert_uint_eq(intr_rises, 1);
}
END_TEST

START_TEST(hostile_writes)
{
    static const uint16_t ports[] = {0x20, 0xa0, 0x4d0};
    for (unsigned i = 0; i < 60000; i++) {
        fuzz_accesses(fb.board.pio, ports[fuzz_random() % 3], 2, 1, 0);
        irq((int)(fuzz_random() & 15), fuzz_random() & 1);
        if (fuzz_random() & 1)
            ck_assert_int_le(i8259_ack(pic), 0xff);
    }
    device_i8259.reset(pic);
    for (int i = 0; i < 16; i++)
        irq(i, false);
    init_pair(0x11, 0x01);
    ck_assert(!intr);
    irq(1, true);
    ck_assert_int_eq(i8259_ack(pic), 0x09);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("i8259");
    TCase *tc = tcase_create("i8259");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, edge_is_latched_until_acknowledged);
    tcase_add_test(tc, line_that_drops_before_inta_gives_spurious_7);
    tcase_add_test(tc, priority_and_nesting);
    tcase_add_test(tc, slave_through_ir2);
    tcase_add_test(tc, special_fully_nested);
    tcase_add_test(tc, masks);
    tcase_add_test(tc, special_mask_mode);
    tcase_add_test(tc, automatic_eoi_and_rotation);
    tcase_add_test(tc, rotation_by_command);
    tcase_add_test(tc, poll_command);
    tcase_add_test(tc, level_by_elcr);
    tcase_add_test(tc, level_by_icw1);
    tcase_add_test(tc, icw1_starts_over);
    tcase_add_test(tc, int_falls_at_inta);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
