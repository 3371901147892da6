/*
 * State of the interrupt controllers, out of the devices, through the rules of either direction and
 * back: what was pending, in service, masked or counting goes on; and each rule's symptom without
 * it.
 */
#include <check.h>

#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "fake_board.h"
#include "vmstate/rules.h"
#include "run_suite.h"

enum {
    EOI = 0xb0,
    SVR = 0xf0,
    LVTT = 0x320,
    TMICT = 0x380,
    TMCCT = 0x390,
    TDCR = 0x3e0,
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
    VECTOR = 0x40,
};

static Lapic *apic;
static Device *pic, *ioapic;
static bool intr;
static unsigned intrs;

static void on_intr(void *opaque, bool level)
{
    intrs += level && !intr;
    intr = level;
}
static void on_other(void *opaque) {}
static void on_sipi(void *opaque, uint8_t vector) {}
static uint64_t guest_tsc(void *opaque)
{
    return fake_ns;
}
static uint64_t ns_at_tsc(void *opaque, uint64_t tsc)
{
    return MAX_OF(tsc, fake_ns);
}

static uint32_t get(unsigned reg)
{
    return (uint32_t)io_read(fb.board.mmio, 0xfee00000ull + reg, 4);
}

static void set(unsigned reg, uint32_t value)
{
    io_write(fb.board.mmio, 0xfee00000ull + reg, 4, value);
}

static void set_rte(unsigned pin, uint64_t rte)
{
    for (unsigned high = 0; high < 2; high++) {
        io_write(fb.board.mmio, 0xfec00000, 4, 0x10 + 2 * pin + high);
        io_write(fb.board.mmio, 0xfec00010, 4, (uint32_t)(rte >> 32 * high));
    }
}

static void setup(void)
{
    GError *err = NULL;
    static const LapicCpu cpu = {NULL,     on_intr, on_other,  on_other,
                                 on_other, on_sipi, guest_tsc, ns_at_tsc};
    fake_board_init();
    fake_ns = 1000000;
    intrs = 0;
    intr = false;
    ck_assert(lapics_new(&fb.board, 1, &cpu, &apic, &err));
    pic = fake_device(&device_i8259);
    ioapic = fake_device(&device_ioapic);
    pic->cls->reset(pic);
    ioapic->cls->reset(ioapic);
    ioapic_connect(ioapic, &apic, 1);
    lapic_set_eoi_hook(ioapic_eoi, ioapic);
    lapic_set_current(apic);
    set(SVR, 0x1ff);
    set(TDCR, 11); /* by 1 */
}

static void teardown(void)
{
    device_free(ioapic);
    device_free(pic);
    lapics_free(&apic, 1);
    fake_board_free();
}

/* Out as a switch to KVM does it, `away` ns there, and what KVM would then show, back in. */
static void visit_kvm(uint64_t away)
{
    LapicState l;
    ChipState c = {.ioapic.id = 0};
    lapic_save(apic, &l);
    i8259_save(pic, c.pic);
    ioapic_save(ioapic, &c.ioapic);
    lapic_park(apic, true);
    i8259_park(pic, true);
    ioapic_park(ioapic, true);
    l.at_ns = fake_ns;
    chip_rules_apply(&l, &c, RULE_TO_KVM, NULL);

    /* KVM: counts what it was given, and knows no end of the count. */
    uint64_t left = (uint64_t)l.left * apic_divider(l.divide),
             mode = apic_timer_mode(l.lvt[LVT_TIMER]);
    bool fires = l.initial && mode != APIC_DEADLINE && left <= away;
    fake_advance(away);
    if (fires && !(l.lvt[LVT_TIMER] & 1 << 16))
        l.irr[VECTOR >> 5] |= 1u << (VECTOR & 31);
    uint64_t period = (uint64_t)l.initial * apic_divider(l.divide);
    uint64_t rest = !l.initial              ? 0
                    : !fires                ? left - away
                    : mode == APIC_PERIODIC ? period - (away - left) % period
                                            : 0;
    l.left = (uint32_t)(rest / apic_divider(l.divide));
    l.due_ns = 0x5a5a;
    l.running = !l.running;
    l.at_ns = fake_ns;
    chip_rules_apply(&l, &c, RULE_TO_SOFT, NULL);

    lapic_load(apic, &l);
    i8259_load(pic, c.pic);
    ioapic_load(ioapic, &c.ioapic);
    lapic_park(apic, false);
    i8259_park(pic, false);
    ioapic_park(ioapic, false);
}

static unsigned ticks(void)
{
    unsigned n = 0;
    while (lapic_pending(apic) == VECTOR) {
        lapic_ack(apic);
        set(EOI, 0);
        n++;
    }
    return n;
}

START_TEST(one_shot)
{
    set(LVTT, VECTOR);
    set(TMICT, 1000000);
    fake_advance(300000);
    visit_kvm(200000);
    ck_assert_uint_eq(get(TMCCT), 500000);
    fake_advance(499999);
    ck_assert_uint_eq(ticks(), 0);
    fake_advance(1);
    ck_assert_uint_eq(ticks(), 1);
    visit_kvm(1000); /* it has expired, and does so once */
    visit_kvm(1000);
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(ticks(), 0);

    set(TMICT, 1000000);
    visit_kvm(5000000); /* over there */
    ck_assert_uint_eq(ticks(), 1);
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(ticks(), 0);
    ck_assert_uint_eq(get(TMCCT), 0);
}
END_TEST

/* Without the rule a timer that has expired fires at each visit: KVM starts it with nothing left.
 */
START_TEST(one_shot_without_the_rule)
{
    set(LVTT, VECTOR);
    set(TMICT, 1000);
    fake_advance(1000);
    ck_assert_uint_eq(ticks(), 1);
    ck_assert(rule_set_enabled("lapic-timer", false));
    visit_kvm(1000);
    rule_set_enabled("lapic-timer", true);
    ck_assert_uint_eq(ticks(), 1);
}
END_TEST

/* What is left of a count at the ends of what it can be, by the divider 2. */
START_TEST(ends_of_a_count)
{
    static const struct {
        uint32_t lvt, left;
        bool running;
        uint64_t due;
    } in[] = {
        {VECTOR, 10, true, 1020},
        {VECTOR, 0, false, 0}, /* it has been */
        {PERIODIC | VECTOR, 10, true, 1020},
        {PERIODIC | VECTOR, 0, true, 1200}, /* the next one begins */
    };
    for (unsigned i = 0; i < ARRAY_LEN(in); i++) {
        LapicState l = {.initial = 100, .left = in[i].left, .at_ns = 1000};
        ChipState c = {.ioapic.id = 0};
        l.lvt[LVT_TIMER] = in[i].lvt;
        chip_rules_apply(&l, &c, RULE_TO_SOFT, NULL);
        ck_assert_msg(l.running == in[i].running && l.due_ns == in[i].due, "row %u: %d %lu", i,
                      l.running, (unsigned long)l.due_ns);
    }
    static const struct {
        uint64_t due;
        uint32_t left;
    } out[] = {
        {1020, 10},  {1019, 10},
        {1001, 1},   {1000, 1}, /* due, and not yet noticed: with nothing left it would be over */
        {900, 1},    {1200, 100},
        {1300, 100}, /* a tick that is made up for: no count is longer than it began */
    };
    for (unsigned i = 0; i < ARRAY_LEN(out); i++) {
        LapicState l = {.initial = 100, .running = true, .due_ns = out[i].due, .at_ns = 1000};
        ChipState c = {.ioapic.id = 0};
        l.lvt[LVT_TIMER] = VECTOR;
        chip_rules_apply(&l, &c, RULE_TO_KVM, NULL);
        ck_assert_msg(l.left == out[i].left, "row %u: %u", i, l.left);
    }
}
END_TEST

START_TEST(periodic)
{
    unsigned n = 0;
    set(LVTT, PERIODIC | VECTOR);
    set(TMICT, 1000003);
    for (unsigned i = 0; i < 1000; i++) { /* 1 s */
        if (i & 1)
            visit_kvm(i * 7919 % 999983);
        fake_advance(1000000 - (i & 1 ? i * 7919 % 999983 : 0));
        n += ticks();
    }
    ck_assert_uint_ge(n, 999);
    ck_assert_uint_le(n, 1000);
    ck_assert_uint_eq(get(TMCCT), 1000003 - NS_PER_S % 1000003);
}
END_TEST

/* What KVM started late is not late when it comes back. */
START_TEST(periodic_keeps_its_phase)
{
    LapicState l;
    set(LVTT, PERIODIC | VECTOR);
    set(TMICT, 1000000);
    for (unsigned i = 0; i < 1000; i++) {
        lapic_save(apic, &l);
        lapic_park(apic, true);
        fake_advance(2500000);
        l.due_ns += 2000000 + 20000; /* 20 us at each import */
        lapic_load(apic, &l);
        lapic_park(apic, false);
        ticks();
        ck_assert_uint_eq((fake_ns + get(TMCCT)) % 1000000, 0);
    }
    /* Another count has another phase. */
    lapic_save(apic, &l);
    lapic_park(apic, true);
    l.due_ns = fake_ns + 1234567;
    l.initial = 2000000;
    lapic_load(apic, &l);
    lapic_park(apic, false);
    ck_assert_uint_eq(get(TMCCT), 1234567);
}
END_TEST

START_TEST(deadline)
{
    set(LVTT, DEADLINE | VECTOR);
    lapic_msr_write(apic, 0x6e0, fake_ns + 700000);
    visit_kvm(300000);
    fake_advance(399999);
    ck_assert_uint_eq(ticks(), 0);
    fake_advance(1);
    ck_assert_uint_eq(ticks(), 1);
    visit_kvm(1000);
    fake_advance(NS_PER_S);
    ck_assert_uint_eq(ticks(), 0);
}
END_TEST

/* A parked APIC says nothing, whatever it is loaded with. */
START_TEST(parked)
{
    LapicState l;
    set(LVTT, VECTOR);
    set(TMICT, 1000);
    lapic_save(apic, &l);
    lapic_park(apic, true);
    fake_advance(5000);
    ck_assert_uint_eq(intrs, 0);
    l.irr[2] = 2;
    lapic_load(apic, &l);
    lapic_set_lint0(apic, true);
    ck_assert_uint_eq(intrs, 0);
    lapic_park(apic, false);
    ck_assert(intr);
    ck_assert_int_eq(lapic_ack(apic), LAPIC_EXTINT);
    lapic_set_lint0(apic, false);
    ck_assert_int_eq(lapic_ack(apic), 0x41);
    set(EOI, 0);
    fake_advance(0);
    ck_assert_uint_eq(ticks(), 1); /* late, and once */
}
END_TEST

START_TEST(in_service)
{
    LapicState l;
    apic_bus_msi(0xfee00000, 0x51);
    apic_bus_msi(0xfee00000, 0x4051);
    ck_assert_int_eq(lapic_ack(apic), 0x51);
    apic_bus_msi(0xfee00000, 0x52);
    apic_bus_msi(0xfee00000, 0x91);
    lapic_set_cr8(apic, 3);
    visit_kvm(1000);
    lapic_save(apic, &l);
    ck_assert_uint_eq(l.isr[2], 1u << 17);
    ck_assert_uint_eq(l.irr[2], 1u << 18);
    ck_assert_uint_eq(l.tpr, 0x30);
    ck_assert_int_eq(lapic_ack(apic), 0x91); /* the other one's priority class is taken */
    ck_assert_int_eq(lapic_pending(apic), -1);
    set(EOI, 0);
    set(EOI, 0);
    ck_assert_int_eq(lapic_ack(apic), 0x52);
}
END_TEST

START_TEST(level_lines)
{
    set_rte(16, 1 << 15 | 0x61);
    set_rte(17, 1 << 15 | 0x62);
    set_rte(4, 0x63); /* edge */
    ioapic_set_irq(ioapic, 16, true);
    ioapic_set_irq(ioapic, 4, true);
    ck_assert_int_eq(lapic_ack(apic), 0x63);
    set(EOI, 0);
    ck_assert_int_eq(lapic_ack(apic), 0x61);
    visit_kvm(1000);
    ck_assert_int_eq(lapic_pending(apic), -1); /* neither comes twice */
    set(EOI, 0);
    ck_assert_int_eq(lapic_ack(apic), 0x61); /* it is still up */
    ioapic_set_irq(ioapic, 16, false);
    set(EOI, 0);

    IoapicState s;
    ioapic_park(ioapic, true);
    ioapic_set_irq(ioapic, 17, true); /* a device while KVM has the controllers */
    ioapic_set_irq(ioapic, 16, true);
    ioapic_set_irq(ioapic, 16, false);
    ck_assert_int_eq(lapic_pending(apic), -1);
    ioapic_save(ioapic, &s);
    ck_assert_uint_eq(s.irr, 1u << 17);
    ioapic_park(ioapic, false);
    ck_assert_int_eq(lapic_ack(apic), 0x62);
}
END_TEST

START_TEST(pic_goes_on)
{
    static const uint8_t init[][2] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1},
                                      {0xa0, 0x11}, {0xa1, 0x70}, {0xa1, 2}, {0xa1, 1},
                                      {0x21, 0xb8}, {0xa1, 0xfe}};
    for (unsigned i = 0; i < ARRAY_LEN(init); i++)
        io_write(fb.board.pio, init[i][0], 1, init[i][1]);
    i8259_set_irq(pic, 8, true);
    ck_assert_int_eq(i8259_ack(pic), 0x70);
    i8259_set_irq(pic, 1, true);
    i8259_set_irq(pic, 3, true);          /* masked */
    io_write(fb.board.pio, 0x20, 1, 0xb); /* reads ISR */
    visit_kvm(1000);
    ck_assert_uint_eq(io_read(fb.board.pio, 0x20, 1), 4);
    ck_assert_uint_eq(io_read(fb.board.pio, 0x21, 1), 0xb8);
    ck_assert(i8259_intr(pic));
    ck_assert_int_eq(i8259_ack(pic), 0x31); /* IRQ 1 is above the cascade */
    io_write(fb.board.pio, 0x20, 1, 0x20);
    io_write(fb.board.pio, 0xa0, 1, 0x20);
    io_write(fb.board.pio, 0x20, 1, 0x20);
    io_write(fb.board.pio, 0x21, 1, 0);
    ck_assert_int_eq(i8259_ack(pic), 0x33); /* its edge was kept */

    io_write(fb.board.pio, 0x20, 1, 0x11); /* in the middle of its initialisation */
    io_write(fb.board.pio, 0x21, 1, 0x50);
    visit_kvm(1000);
    io_write(fb.board.pio, 0x21, 1, 4);
    io_write(fb.board.pio, 0x21, 1, 1);
    i8259_set_irq(pic, 1, false);
    i8259_set_irq(pic, 1, true);
    ck_assert_int_eq(i8259_ack(pic), 0x51);
}
END_TEST

/* What KVM hands over, and the symptom that comes with it when the rule is off. */
START_TEST(foreign_pic)
{
    for (unsigned on = 0; on < 2; on++) {
        ChipState c = {.pic[0] = {.elcr = 0xff, .irr = 0x20, .highest = 9}};
        rule_set_enabled("pic-elcr", on);
        chip_rules_apply(NULL, &c, RULE_TO_SOFT, NULL);
        rule_set_enabled("pic-elcr", true);
        /* Without: IRQ 0 level-triggered, and a request of IRQ 5 whose line is down. */
        ck_assert_uint_eq(c.pic[0].elcr, on ? 0xf8 : 0xff);
        ck_assert_uint_eq(c.pic[0].irr, on ? 0 : 0x20);
        ck_assert_uint_eq(c.pic[0].highest, on ? 1 : 9);
    }
}
END_TEST

START_TEST(foreign_ioapic)
{
    for (unsigned on = 0; on < 2; on++) {
        ChipState c = {.ioapic = {.irr = 0x30, .rte = {[4] = 0x7041, [5] = 0xc042}}};
        rule_set_enabled("ioapic-irr", on);
        chip_rules_apply(NULL, &c, RULE_TO_KVM, NULL);
        rule_set_enabled("ioapic-irr", true);
        /* Without: KVM sends the edge of input 4 once more. */
        ck_assert_uint_eq(c.ioapic.irr, on ? 0x20 : 0x30);
        ck_assert_uint_eq(c.ioapic.rte[4], on ? 0x2041 : 0x7041);
        ck_assert_uint_eq(c.ioapic.rte[5], 0xc042);
    }
}
END_TEST

START_TEST(rules_are_idempotent)
{
    static const enum RuleDirection dir[] = {RULE_TO_KVM, RULE_TO_SOFT};
    uint32_t seed = 1;
    for (unsigned i = 0; i < 20000; i++) {
        LapicState l[2];
        ChipState c[2];
        uint8_t *at = (uint8_t *)&l[0];
        for (unsigned b = 0; b < sizeof(l[0]); b++)
            at[b] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
        l[0].running = seed & 1;
        l[0].due_ns >>= 8;
        l[0].at_ns = seed & 2 ? 0 : l[0].at_ns >> 8;
        at = (uint8_t *)&c[0];
        for (unsigned b = 0; b < sizeof(c[0]); b++)
            at[b] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 31);
        chip_rules_apply(&l[0], &c[0], dir[i & 1], NULL);
        memcpy(&l[1], &l[0], sizeof(l[0]));
        memcpy(&c[1], &c[0], sizeof(c[0]));
        RuleNotes notes = {NULL, 0, 0};
        chip_rules_apply(&l[1], &c[1], dir[i & 1], &notes);
        ck_assert_uint_eq(notes.n, 0);
        ck_assert_uint_eq(l[0].left, l[1].left);
        ck_assert_uint_eq(l[0].due_ns, l[1].due_ns);
        ck_assert_int_eq(l[0].running, l[1].running);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chips");
    TCase *c = tcase_create("chips");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, one_shot);
    tcase_add_test(c, one_shot_without_the_rule);
    tcase_add_test(c, ends_of_a_count);
    tcase_add_test(c, periodic);
    tcase_add_test(c, periodic_keeps_its_phase);
    tcase_add_test(c, deadline);
    tcase_add_test(c, parked);
    tcase_add_test(c, in_service);
    tcase_add_test(c, level_lines);
    tcase_add_test(c, pic_goes_on);
    tcase_add_test(c, foreign_pic);
    tcase_add_test(c, foreign_ioapic);
    tcase_add_test(c, rules_are_idempotent);
    suite_add_tcase(s, c);
    return run_suite(s);
}
