/* The 16550A against its datasheet, and what Linux's 8250 driver does to find out what it is. */
#include <check.h>

#include "devices/serial16550.h"
#include "fake_board.h"
#include "run_suite.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };
#define COM1 0x3f8

static Device *com1;
static GString *sent;
static unsigned accepts;

static void on_write(void *opaque, const void *buf, size_t len)
{
    g_string_append_len(sent, buf, (gssize)len);
}

static void on_accept(void *opaque)
{
    accepts++;
}

static void setup(void)
{
    fake_board_init();
    com1 = serial_new(&fb.board, 0, NULL);
    ck_assert_ptr_nonnull(com1);
    sent = g_string_new(NULL);
    serial_connect(com1, on_write, on_accept, NULL);
    accepts = 0;
}

static void teardown(void)
{
    device_free(com1);
    g_string_free(sent, TRUE);
    fake_board_free();
}

static void receive(const char *text)
{
    serial_receive(com1, (const uint8_t *)text, (unsigned)strlen(text));
}

START_TEST(power_on)
{
    ck_assert_uint_eq(inb(COM1 + IER), 0);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x01);
    ck_assert_uint_eq(inb(COM1 + LCR), 0);
    ck_assert_uint_eq(inb(COM1 + MCR), 0);
    ck_assert_uint_eq(inb(COM1 + LSR), 0x60);
    ck_assert_uint_eq(inb(COM1 + MSR), 0xb0);
    ck_assert(!fb.level[4]);
}
END_TEST

START_TEST(linux_finds_a_16550a)
{
    /* IER's low bits stick, its high ones do not. */
    outb(COM1 + IER, 0xff);
    ck_assert_uint_eq(inb(COM1 + IER), 0x0f);
    outb(COM1 + IER, 0);
    /* Loopback: RTS and OUT2 come back as CTS and DCD. */
    outb(COM1 + MCR, 0x1a);
    ck_assert_uint_eq(inb(COM1 + MSR) & 0xf0, 0x90);
    outb(COM1 + MCR, 0);
    outb(COM1 + SCR, 0xa5);
    ck_assert_uint_eq(inb(COM1 + SCR), 0xa5);
    outb(COM1 + FCR, 0x01);
    ck_assert_uint_eq(inb(COM1 + IIR) >> 6, 3);
    /* Not a 16750: bit 5 of IIR stays clear. */
    outb(COM1 + FCR, 0x21);
    ck_assert_uint_eq(inb(COM1 + IIR) >> 5, 6);
    outb(COM1 + LCR, 0x80);
    outb(COM1 + FCR, 0x21);
    ck_assert_uint_eq(inb(COM1 + IIR) >> 5, 6);
    outb(COM1 + 0, 0x34);
    outb(COM1 + 1, 0x12);
    ck_assert_uint_eq(inb(COM1 + 0), 0x34);
    ck_assert_uint_eq(inb(COM1 + 1), 0x12);
    outb(COM1 + LCR, 0x03);
    ck_assert_uint_eq(inb(COM1 + IER), 0);
}
END_TEST

START_TEST(transmit_and_thre)
{
    outb(COM1 + MCR, 0x08);
    ck_assert(!fb.level[4]);
    outb(COM1 + IER, 0x02); /* enabling it with an empty THR interrupts */
    ck_assert(fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x02);
    ck_assert(!fb.level[4]); /* reading IIR took it back */
    ck_assert_uint_eq(inb(COM1 + IIR), 0x01);
    outb(COM1, 'h');
    ck_assert(fb.level[4]); /* sent: THR is empty again */
    ck_assert_uint_eq(inb(COM1 + IIR), 0x02);
    outb(COM1 + IER, 0x00);
    outb(COM1, 'i');
    ck_assert(!fb.level[4]);
    outb(COM1 + IER, 0x02);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x02);
    ck_assert_str_eq(sent->str, "hi");
    /* Linux's test for a lost THRE interrupt: off and on again must give it anew. */
    ck_assert_uint_eq(inb(COM1 + IIR), 0x01);
    outb(COM1 + IER, 0x00);
    outb(COM1 + IER, 0x02);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x02);
    outb(COM1 + IER, 0x03); /* it was on: what was taken back stays so */
    ck_assert_uint_eq(inb(COM1 + IIR), 0x01);
}
END_TEST

START_TEST(out2_gates_the_line)
{
    outb(COM1 + IER, 0x02);
    ck_assert(!fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x02); /* the chip knows, the bus does not */
    outb(COM1 + IER, 0);
    outb(COM1 + IER, 0x02);
    outb(COM1 + MCR, 0x08);
    ck_assert(fb.level[4]);
    outb(COM1 + MCR, 0x18);
    ck_assert(!fb.level[4]);
}
END_TEST

START_TEST(receive_without_fifo)
{
    outb(COM1 + MCR, 0x08);
    outb(COM1 + IER, 0x01);
    ck_assert_uint_eq(serial_can_receive(com1), 1);
    receive("a");
    ck_assert_uint_eq(serial_can_receive(com1), 0);
    ck_assert(fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x04);
    ck_assert_uint_eq(inb(COM1 + LSR), 0x61);
    receive("b"); /* overruns: the new byte wins */
    ck_assert_uint_eq(inb(COM1 + LSR), 0x63);
    ck_assert_uint_eq(inb(COM1 + LSR), 0x61);
    accepts = 0;
    ck_assert_uint_eq(inb(COM1), 'b');
    ck_assert_uint_eq(accepts, 1);
    ck_assert(!fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + LSR), 0x60);
}
END_TEST

START_TEST(trigger_levels)
{
    static const struct {
        uint8_t fcr;
        unsigned trigger;
    } row[] = {{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xc1, 14}};
    outb(COM1 + MCR, 0x08);
    outb(COM1 + IER, 0x01);
    outb(COM1 + FCR, row[_i].fcr | 0x02);
    for (unsigned n = 1; n <= 16; n++) {
        receive("x");
        ck_assert_msg(fb.level[4] == (n >= row[_i].trigger), "byte %u of trigger %u", n,
                      row[_i].trigger);
    }
    ck_assert_uint_eq(serial_can_receive(com1), 0);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xc4);
    receive("y"); /* overrun: the FIFO keeps what it has */
    ck_assert_uint_eq(inb(COM1 + LSR), 0x63);
    for (unsigned n = 16; n > 0; n--) {
        ck_assert(fb.level[4] == (n >= row[_i].trigger));
        ck_assert_uint_eq(inb(COM1), 'x');
    }
    ck_assert_uint_eq(inb(COM1 + LSR), 0x60);
}
END_TEST

START_TEST(character_timeout)
{
    outb(COM1 + LCR, 0x83);
    outb(COM1 + 0, 1); /* 115200 8N1: 86.8 us a character */
    outb(COM1 + 1, 0);
    outb(COM1 + LCR, 0x03);
    outb(COM1 + MCR, 0x08);
    outb(COM1 + IER, 0x01);
    outb(COM1 + FCR, 0xc1);
    receive("ab");
    ck_assert(!fb.level[4]);
    fake_advance(347000);
    ck_assert(!fb.level[4]);
    fake_advance(1000);
    ck_assert(fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xcc);
    ck_assert_uint_eq(inb(COM1), 'a'); /* reading starts the time anew */
    ck_assert(!fb.level[4]);
    fake_advance(400000);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xcc);
    ck_assert_uint_eq(inb(COM1), 'b');
    fake_advance(400000);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xc1);
    outb(COM1 + LCR, 0x04); /* 5 bits have one and a half stop bits: 65.1 us */
    receive("c");
    fake_advance(260000);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xc1);
    fake_advance(1000);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xcc);
    ck_assert_uint_eq(inb(COM1), 'c');
    outb(COM1 + LCR, 0x07); /* 8 bits, two: 95.5 us */
    receive("d");
    fake_advance(381000);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xc1);
    fake_advance(1500);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xcc);
}
END_TEST

START_TEST(break_shows_at_the_top_of_the_fifo)
{
    outb(COM1 + MCR, 0x08);
    outb(COM1 + IER, 0x04);
    outb(COM1 + FCR, 0x01);
    receive("a");
    serial_break(com1);
    ck_assert_uint_eq(inb(COM1 + LSR), 0xe1); /* an error is in the FIFO, but not at its top */
    ck_assert(!fb.level[4]);
    ck_assert_uint_eq(inb(COM1), 'a');
    ck_assert(fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + IIR), 0xc6);
    ck_assert_uint_eq(inb(COM1 + LSR), 0xf1);
    ck_assert(!fb.level[4]);
    ck_assert_uint_eq(inb(COM1 + LSR), 0x61);
    ck_assert_uint_eq(inb(COM1), 0);
}
END_TEST

START_TEST(loopback)
{
    static const struct {
        uint8_t mcr, msr;
    } row[] = {{0x10, 0x00}, {0x11, 0x20}, {0x12, 0x10}, {0x14, 0x40}, {0x18, 0x80}, {0x1f, 0xf0}};
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        outb(COM1 + MCR, row[i].mcr);
        ck_assert_uint_eq(inb(COM1 + MSR) & 0xf0, row[i].msr);
    }
    (void)inb(COM1 + MSR);
    outb(COM1 + MCR, 0x10); /* all four fall: deltas, and the trailing edge of RI */
    ck_assert_uint_eq(inb(COM1 + MSR), 0x0f);
    ck_assert_uint_eq(inb(COM1 + MSR), 0x00);
    outb(COM1 + MCR, 0x14); /* the leading edge of RI is none */
    ck_assert_uint_eq(inb(COM1 + MSR), 0x40);
    outb(COM1, 'z');
    ck_assert_uint_eq(sent->len, 0);
    ck_assert_uint_eq(inb(COM1 + LSR) & 1, 1);
    accepts = 0;
    ck_assert_uint_eq(inb(COM1), 'z');
    ck_assert_uint_eq(accepts, 0); /* room, but not for the host */
    ck_assert_uint_eq(serial_can_receive(com1), 0);
    receive("q");
    ck_assert_uint_eq(inb(COM1 + LSR) & 1, 0);
}
END_TEST

START_TEST(modem_status_interrupt)
{
    outb(COM1 + IER, 0x08);
    outb(COM1 + MCR, 0x10);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x00);
    (void)inb(COM1 + MSR);
    ck_assert_uint_eq(inb(COM1 + IIR), 0x01);
}
END_TEST

START_TEST(com1_and_com3_share_a_line)
{
    Device *com3 = serial_new(&fb.board, 2, NULL);
    outb(0x3e8 + MCR, 0x08);
    outb(COM1 + MCR, 0x08);
    outb(COM1 + IER, 0x02);
    outb(0x3e8 + IER, 0x02);
    ck_assert(fb.level[4]);
    (void)inb(COM1 + IIR);
    ck_assert(fb.level[4]);
    (void)inb(0x3e8 + IIR);
    ck_assert(!fb.level[4]);
    device_free(com3);
}
END_TEST

START_TEST(no_fifth_port)
{
    GError *err = NULL;
    ck_assert_ptr_null(serial_new(&fb.board, 4, &err));
    ck_assert_ptr_nonnull(err);
    g_error_free(err);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("serial");
    TCase *tc = tcase_create("16550A");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, power_on);
    tcase_add_test(tc, linux_finds_a_16550a);
    tcase_add_test(tc, transmit_and_thre);
    tcase_add_test(tc, out2_gates_the_line);
    tcase_add_test(tc, receive_without_fifo);
    tcase_add_loop_test(tc, trigger_levels, 0, 4);
    tcase_add_test(tc, character_timeout);
    tcase_add_test(tc, break_shows_at_the_top_of_the_fifo);
    tcase_add_test(tc, loopback);
    tcase_add_test(tc, modem_status_interrupt);
    tcase_add_test(tc, com1_and_com3_share_a_line);
    tcase_add_test(tc, no_fifth_port);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
