/* Local APICs against SDM vol. 3, chapter 11. Section numbers are that chapter's. */
#include <check.h>

#include "devices/lapic.h"
#include "fake_fuzz.h"
#include "run_suite.h"

#define N    4
#define PAGE 0xfee00000ull
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    CMCI = 0x2f0,
    ICR = 0x300,
    ICR2 = 0x310,
    LVTT = 0x320,
    LINT0 = 0x350,
    LINT1 = 0x360,
    LVTERR = 0x370,
    TMICT = 0x380,
    TMCCT = 0x390,
    TDCR = 0x3e0,
    MASKED = 0x10000,
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
};

static Lapic *apic[N];
static struct {
    bool intr;
    unsigned nmi, smi, init, sipi;
    uint8_t vector;
} cpu[N];
static unsigned eois;
static uint8_t eoi_vector;
static uint64_t tsc_offset;

static void on_intr(void *opaque, bool level)
{
    cpu[(uintptr_t)opaque].intr = level;
}
static void on_nmi(void *opaque)
{
    cpu[(uintptr_t)opaque].nmi++;
}
static void on_smi(void *opaque)
{
    cpu[(uintptr_t)opaque].smi++;
}
static void on_init(void *opaque)
{
    cpu[(uintptr_t)opaque].init++;
}
static void on_sipi(void *opaque, uint8_t vector)
{
    cpu[(uintptr_t)opaque].sipi++;
    cpu[(uintptr_t)opaque].vector = vector;
}
static uint64_t tsc(void *opaque)
{
    return fake_ns + tsc_offset;
}
static uint64_t ns_at_tsc(void *opaque, uint64_t t)
{
    uint64_t ns = t - tsc_offset;
    return (int64_t)(ns - fake_ns) <= 0 ? fake_ns : ns;
}
static void on_eoi(void *opaque, uint8_t vector)
{
    eois++;
    eoi_vector = vector;
}

static uint32_t get(unsigned n, unsigned reg)
{
    lapic_set_current(apic[n]);
    return (uint32_t)io_read(fb.board.mmio, PAGE + reg, 4);
}

static void set(unsigned n, unsigned reg, uint32_t v)
{
    lapic_set_current(apic[n]);
    io_write(fb.board.mmio, PAGE + reg, 4, v);
}

static bool test_bit(unsigned n, unsigned bank, unsigned vector)
{
    return get(n, bank + vector / 32 * 16) >> (vector & 31) & 1;
}

static bool wrmsr(unsigned n, uint32_t msr, uint64_t v)
{
    return lapic_msr_write(apic[n], msr, v);
}

static uint64_t rdmsr(unsigned n, uint32_t msr)
{
    uint64_t v = 0;
    ck_assert(lapic_msr_read(apic[n], msr, &v));
    return v;
}

static void send(unsigned n, uint32_t low, uint8_t dest)
{
    set(n, ICR2, (uint32_t)dest << 24);
    set(n, ICR, low);
}

static void setup(void)
{
    LapicCpu cpus[N];
    fake_board_init();
    memset(cpu, 0, sizeof(cpu));
    for (uintptr_t i = 0; i < N; i++)
        cpus[i] = (LapicCpu){(void *)i, on_intr, on_nmi, on_smi, on_init, on_sipi, tsc, ns_at_tsc};
    ck_assert(lapics_new(&fb.board, N, cpus, apic, NULL));
    lapic_set_eoi_hook(on_eoi, NULL);
    eois = 0;
    tsc_offset = 0;
    for (unsigned i = 0; i < N; i++)
        set(i, SVR, 0x1ff);
}

static void teardown(void)
{
    lapic_set_eoi_hook(NULL, NULL);
    lapics_free(apic, N);
    fake_board_free();
}

START_TEST(power_on_values)
{
    lapic_reset(apic[1], false);
    static const struct {
        unsigned reg;
        uint32_t value;
    } rows[] = {
        {ID, 1u << 24},  {VERSION, 0x01060014},
        {TPR, 0},        {PPR, 0},
        {LDR, 0},        {DFR, ~0u},
        {SVR, 0xff},     {ESR, 0},
        {ICR, 0},        {ICR2, 0},
        {LVTT, MASKED},  {LINT0, MASKED},
        {LINT1, MASKED}, {LVTERR, MASKED},
        {CMCI, MASKED},  {TMICT, 0},
        {TMCCT, 0},      {TDCR, 0},
        {ISR, 0},        {IRR + 0x70, 0},
        {TMR, 0},        {0x330, MASKED},
        {0x340, MASKED},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        ck_assert_msg(get(1, rows[i].reg) == rows[i].value, "register %#x is %#x", rows[i].reg,
                      get(1, rows[i].reg));
    ck_assert_uint_eq(rdmsr(0, 0x1b), 0xfee00900);
    ck_assert_uint_eq(rdmsr(1, 0x1b), 0xfee00800);
    /* What firmware would have done: the boot processor hears the 8259s. */
    lapic_reset(apic[0], false);
    ck_assert_uint_eq(get(0, LINT0), 0x700);
}
END_TEST

START_TEST(accepts_in_order_of_priority)
{
    apic_bus_msi(0xfee00000, 0x35);
    apic_bus_msi(0xfee00000, 0x91);
    ck_assert(cpu[0].intr);
    ck_assert(test_bit(0, IRR, 0x35));
    ck_assert_int_eq(lapic_ack(apic[0]), 0x91);
    ck_assert(test_bit(0, ISR, 0x91));
    ck_assert(!test_bit(0, IRR, 0x91));
    ck_assert_uint_eq(get(0, PPR), 0x90);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    apic_bus_msi(0xfee00000, 0x9f); /* the same class does not nest */
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    apic_bus_msi(0xfee00000, 0xa0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0xa0);
    set(0, EOI, 0);
    set(0, EOI, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x9f);
    set(0, EOI, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x35);
    set(0, EOI, 0);
    set(0, EOI, 0); /* with nothing in service */
    ck_assert_int_eq(lapic_ack(apic[0]), -1);
    ck_assert(!cpu[0].intr);
    ck_assert_uint_eq(eois, 0); /* edges are nobody else's business */
}
END_TEST

START_TEST(task_priority)
{
    set(0, TPR, 0x52);
    ck_assert_uint_eq(get(0, PPR), 0x52);
    ck_assert_uint_eq(lapic_get_cr8(apic[0]), 5);
    apic_bus_msi(0xfee00000, 0x5f);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    lapic_set_cr8(apic[0], 4);
    ck_assert_uint_eq(get(0, TPR), 0x40);
    ck_assert(cpu[0].intr);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x5f);
    ck_assert_uint_eq(get(0, PPR), 0x50);
    set(0, TPR, 0xff);
    ck_assert_uint_eq(get(0, PPR), 0xff);
}
END_TEST

START_TEST(level_interrupts_tell_the_ioapic)
{
    apic_bus_deliver(apic, N, 2, false, 0, 0x44, true);
    ck_assert(test_bit(2, TMR, 0x44));
    ck_assert_int_eq(lapic_ack(apic[2]), 0x44);
    set(2, EOI, 0);
    ck_assert_uint_eq(eois, 1);
    ck_assert_uint_eq(eoi_vector, 0x44);
    set(2, SVR, 0x11ff); /* EOI-broadcast suppression (11.8.5) */
    apic_bus_deliver(apic, N, 2, false, 0, 0x44, true);
    lapic_ack(apic[2]);
    set(2, EOI, 0);
    ck_assert_uint_eq(eois, 1);
    apic_bus_deliver(apic, N, 2, false, 0, 0x44, false);
    ck_assert(!test_bit(2, TMR, 0x44)); /* follows the last one accepted */
}
END_TEST

START_TEST(software_disable)
{
    set(1, LVTT, 0x40);
    apic_bus_msi(0xfee01000, 0x50);
    set(1, SVR, 0xff);
    ck_assert_uint_eq(get(1, LVTT), MASKED | 0x40);
    set(1, LVTT, 0x41); /* mask bits cannot be cleared meanwhile */
    ck_assert_uint_eq(get(1, LVTT), MASKED | 0x41);
    ck_assert(!apic_bus_deliver(apic, N, 1, false, 0, 0x60, false));
    ck_assert_int_eq(lapic_pending(apic[1]), 0x50); /* what waits is held (11.4.7.2) */
    ck_assert(apic_bus_deliver(apic, N, 1, false, 4, 0, false));
    ck_assert(apic_bus_deliver(apic, N, 1, false, 5, 0, false));
    ck_assert_uint_eq(cpu[1].nmi, 1);
    ck_assert_uint_eq(cpu[1].init, 1);
}
END_TEST

START_TEST(errors)
{
    set(0, LVTERR, 0xfe);
    send(0, 0x0f, 1);                  /* vector below 16 */
    ck_assert_uint_eq(get(0, ESR), 0); /* "a write before a read" */
    set(0, ESR, 0);
    ck_assert_uint_eq(get(0, ESR), 0x20);
    ck_assert_int_eq(lapic_ack(apic[0]), 0xfe);
    set(0, EOI, 0);
    apic_bus_msi(0xfee00000, 0x05);
    set(0, ESR, 0);
    ck_assert_uint_eq(get(0, ESR), 0x40);
    set(0, ESR, 0);
    ck_assert_uint_eq(get(0, ESR), 0);
    get(0, 0x3f0);
    set(0, ESR, 0);
    ck_assert_uint_eq(get(0, ESR), 0x80);
    set(0, LVTERR, 0x03); /* a bad vector in the error entry itself */
    send(0, 0x0f, 1);
}
END_TEST

START_TEST(ipis)
{
    static const struct {
        uint32_t icr;
        uint8_t dest, want; /* bit map of receivers */
    } rows[] = {
        {0x00030, 2, 1 << 2},                   /* physical */
        {0x00031, 0xff, 15},                    /* physical broadcast */
        {0x40032, 0, 1},      {0x80033, 0, 15}, /* shorthands: self, all */
        {0xc0034, 0, 14},                       /* all but self */
        {0x00835, 0x0a, 10},                    /* logical, flat model: LDRs are 1 << n */
        {0x00836, 0xff, 15},  {0x00837, 0, 0},  {0x00038, 9, 0}, /* nobody */
    };
    for (unsigned i = 0; i < N; i++)
        set(i, LDR, 1u << (24 + i));
    for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
        send(0, rows[r].icr, rows[r].dest);
        ck_assert_uint_eq(get(0, ICR), rows[r].icr); /* delivery status: idle */
        for (unsigned i = 0; i < N; i++)
            ck_assert_msg(test_bit(i, IRR, rows[r].icr & 0xff) == (rows[r].want >> i & 1),
                          "ICR %#x at CPU %u", rows[r].icr, i);
    }
}
END_TEST

START_TEST(cluster_model)
{
    static const uint8_t ldr[N] = {0x11, 0x12, 0x21, 0x28};
    for (unsigned i = 0; i < N; i++) {
        set(i, DFR, 0x0fffffff);
        set(i, LDR, (uint32_t)ldr[i] << 24);
    }
    send(0, 0x850, 0x29);
    ck_assert(!test_bit(0, IRR, 0x50) && !test_bit(1, IRR, 0x50));
    ck_assert(test_bit(2, IRR, 0x50) && test_bit(3, IRR, 0x50));
    send(0, 0x851, 0x12);
    ck_assert(test_bit(1, IRR, 0x51) && !test_bit(0, IRR, 0x51));
}
END_TEST

START_TEST(start_up)
{
    send(0, 0xc500, 1);        /* INIT, level assert */
    send(0, 0x8500, 1);        /* and de-assert: ignored */
    send(0, 0x4600 | 0x9f, 1); /* SIPI */
    ck_assert_uint_eq(cpu[1].init, 1);
    ck_assert_uint_eq(cpu[1].sipi, 1);
    ck_assert_uint_eq(cpu[1].vector, 0x9f);
    send(0, 0xc4500, 0); /* all but self */
    ck_assert_uint_eq(cpu[0].init, 0);
    ck_assert_uint_eq(cpu[3].init, 1);
    send(0, 0x0400, 2);
    send(0, 0x0200, 2);
    ck_assert_uint_eq(cpu[2].nmi, 1);
    ck_assert_uint_eq(cpu[2].smi, 1);
}
END_TEST

START_TEST(lowest_priority)
{
    set(0, TPR, 0x50);
    set(1, TPR, 0x20);
    set(2, TPR, 0x30);
    set(3, SVR, 0xff); /* cannot take it */
    apic_bus_msi(0xfeeff000, 0x161);
    ck_assert(test_bit(1, IRR, 0x61));
    ck_assert(!test_bit(0, IRR, 0x61) && !test_bit(2, IRR, 0x61) && !test_bit(3, IRR, 0x61));
    lapic_ack(apic[1]); /* its processor priority is 0x60 now */
    apic_bus_msi(0xfeeff000, 0x162);
    ck_assert(test_bit(2, IRR, 0x62));
}
END_TEST

START_TEST(one_shot_timer)
{
    static const struct {
        uint32_t code, divide;
    } rows[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    ck_assert_uint_eq(lapic_bus_hz(fb.board.clock), 1000000000); /* TSC 1 GHz */
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        set(0, TDCR, rows[i].code);
        set(0, LVTT, 0x40);
        set(0, TMICT, 1000);
        ck_assert_uint_eq(get(0, TMCCT), 1000);
        fake_advance(400 * rows[i].divide);
        ck_assert_uint_eq(get(0, TMCCT), 600);
        fake_advance(600 * rows[i].divide - 1);
        ck_assert_int_eq(lapic_pending(apic[0]), -1);
        fake_advance(1);
        ck_assert_int_eq(lapic_ack(apic[0]), 0x40);
        set(0, EOI, 0);
        ck_assert_uint_eq(get(0, TMCCT), 0);
        fake_advance(NS_PER_S);
        ck_assert_int_eq(lapic_pending(apic[0]), -1); /* once */
        ck_assert_uint_eq(get(0, TMICT), 1000);
    }
    set(0, TMICT, 1000);
    set(0, TMICT, 0); /* stops it */
    fake_advance(NS_PER_S);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    set(0, TMICT, 1000);
    set(0, LVTT, MASKED | 0x40); /* counts on, says nothing */
    fake_advance(500);
    ck_assert_uint_eq(get(0, TMCCT), 500);
    fake_advance(1000);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    set(0, LVTT, 0x40);
    set(0, TMICT, 1); /* shorter than any host is quick */
    fake_ns += 100;
    fake_advance(0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x40);
}
END_TEST

START_TEST(periodic_timer)
{
    unsigned n = 0;
    set(0, TDCR, 11);
    set(0, LVTT, PERIODIC | 0x40);
    set(0, TMICT, 1000003);
    for (unsigned i = 0; i < 10000; i++) {
        fake_advance(100000);
        if (lapic_ack(apic[0]) == 0x40) {
            n++;
            set(0, EOI, 0);
        }
    }
    ck_assert_uint_eq(n, 999); /* 1 s: no drift */
    ck_assert_uint_eq(get(0, TMCCT), 1000003 - NS_PER_S % 1000003);
    set(0, TMICT, 0);
    fake_advance(NS_PER_S);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
}
END_TEST

START_TEST(periodic_timer_of_a_late_host)
{
    unsigned n = 0;
    set(0, TDCR, 11);
    set(0, LVTT, PERIODIC | 0x40);
    set(0, TMICT, 1000000);
    fake_ns += 50 * 1000000;
    for (unsigned i = 0; i < 5000; i++) {
        fake_advance(10000);
        if (lapic_ack(apic[0]) == 0x40) {
            n++;
            set(0, EOI, 0);
        }
    }
    ck_assert_uint_eq(n, 100);
    /* A CPU that did not take them meanwhile gets them too. */
    fake_advance(10 * 1000000);
    for (unsigned i = 0; i < 1000; i++) {
        fake_advance(10000);
        if (lapic_ack(apic[0]) == 0x40) {
            n++;
            set(0, EOI, 0);
        }
    }
    ck_assert_uint_eq(n, 120);
}
END_TEST

START_TEST(divider_and_mode_changes_keep_the_count)
{
    set(0, TDCR, 11);
    set(0, LVTT, PERIODIC | 0x40);
    set(0, TMICT, 1000);
    fake_advance(300);
    set(0, TDCR, 0);
    ck_assert_uint_eq(get(0, TMCCT), 700);
    fake_advance(200);
    ck_assert_uint_eq(get(0, TMCCT), 600);
    set(0, LVTT, 0x40);
    ck_assert_uint_eq(get(0, TMCCT), 600);
    fake_advance(1200);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x40);
    ck_assert_uint_eq(get(0, TMCCT), 0);
}
END_TEST

START_TEST(tsc_deadline)
{
    tsc_offset = 5000;
    set(0, LVTT, DEADLINE | 0x40);
    ck_assert(wrmsr(0, 0x6e0, 15000));
    ck_assert_uint_eq(rdmsr(0, 0x6e0), 15000);
    set(0, TMICT, 100); /* "writes to the initial-count register are ignored" */
    ck_assert_uint_eq(get(0, TMICT), 0);
    ck_assert_uint_eq(get(0, TMCCT), 0);
    fake_advance(9999);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    fake_advance(1);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x40);
    set(0, EOI, 0);
    ck_assert_uint_eq(rdmsr(0, 0x6e0), 0); /* "the deadline MSR is cleared" */
    wrmsr(0, 0x6e0, 1);                    /* in the past: at once */
    fake_advance(0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x40);
    set(0, EOI, 0);
    wrmsr(0, 0x6e0, 100000);
    wrmsr(0, 0x6e0, 0); /* disarms */
    fake_advance(NS_PER_S);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    wrmsr(0, 0x6e0, ~0ull); /* in centuries */
    fake_advance(NS_PER_S);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    wrmsr(0, 0x6e0, fake_ns + tsc_offset + 1000);
    set(0, LVTT, 0x40); /* another mode disarms it */
    ck_assert_uint_eq(rdmsr(0, 0x6e0), 0);
    wrmsr(0, 0x6e0, fake_ns + tsc_offset + 1000);
    ck_assert_uint_eq(rdmsr(0, 0x6e0), 0);
    fake_advance(NS_PER_S);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
}
END_TEST

START_TEST(extint_and_local_inputs)
{
    set(0, LINT0, 0x700);
    lapic_set_lint0(apic[0], true);
    ck_assert(cpu[0].intr);
    ck_assert_int_eq(lapic_pending(apic[0]), LAPIC_EXTINT);
    set(0, LINT0, MASKED | 0x700);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    ck_assert(!cpu[0].intr);
    lapic_set_lint0(apic[0], false);
    set(0, LINT0, 0x45); /* Linux' "virtual wire" fallback: fixed, edge */
    lapic_set_lint0(apic[0], true);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x45);
    set(0, EOI, 0);
    lapic_set_lint0(apic[0], true);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    lapic_set_lint0(apic[0], false);
    set(0, LINT0, 0x8046); /* fixed, level */
    lapic_set_lint0(apic[0], true);
    ck_assert_uint_eq(get(0, LINT0), 0xc046); /* remote IRR */
    ck_assert_int_eq(lapic_ack(apic[0]), 0x46);
    set(0, EOI, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x46); /* still up */
    lapic_set_lint0(apic[0], false);
    set(0, EOI, 0);
    ck_assert_uint_eq(get(0, LINT0), 0x8046);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    lapic_nmi(apic[0]);
    ck_assert_uint_eq(cpu[0].nmi, 0); /* LINT1 is masked */
    set(0, LINT1, 0x400);
    lapic_nmi(apic[0]);
    ck_assert_uint_eq(cpu[0].nmi, 1);
    ck_assert(wrmsr(0, 0x1b, 0xfee00000)); /* off: LINT0 is INTR, LINT1 is NMI */
    lapic_set_lint0(apic[0], true);
    ck_assert_int_eq(lapic_pending(apic[0]), LAPIC_EXTINT);
    lapic_nmi(apic[0]);
    ck_assert_uint_eq(cpu[0].nmi, 2);
    ck_assert_uint_eq(get(0, ID), ~0u); /* and no page */
}
END_TEST

START_TEST(extint_message)
{
    ck_assert(apic_bus_deliver(apic, N, 1, false, 7, 0, false));
    ck_assert(cpu[1].intr);
    ck_assert_int_eq(lapic_ack(apic[1]), LAPIC_EXTINT);
    ck_assert_int_eq(lapic_ack(apic[1]), -1);
}
END_TEST

START_TEST(base_transitions)
{
    enum { OFF = 0, BAD = 0x400, X1 = 0x800, X2 = 0xc00 };
    static const struct {
        uint16_t from, to;
        bool ok;
    } rows[] = {{X1, OFF, true}, {X1, X1, true},   {X1, X2, true},   {X1, BAD, false},
                {X2, OFF, true}, {X2, X2, true},   {X2, X1, false},  {X2, BAD, false},
                {OFF, X1, true}, {OFF, X2, false}, {OFF, OFF, true}, {OFF, BAD, false}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        lapic_reset(apic[1], false);
        ck_assert(wrmsr(1, 0x1b, 0xfee00000 | rows[i].from));
        ck_assert_msg(wrmsr(1, 0x1b, 0xfee00000 | rows[i].to) == rows[i].ok, "row %u", i);
        ck_assert_uint_eq(rdmsr(1, 0x1b), 0xfee00000 | (rows[i].ok ? rows[i].to : rows[i].from));
    }
    lapic_reset(apic[0], false);
    ck_assert(!wrmsr(0, 0x1b, 0xfee00900 | 1));
    ck_assert(!wrmsr(0, 0x1b, 0xfee00900 | 1ull << 52));
    ck_assert(!wrmsr(0, 0x1b, 0xfed00900)); /* this machine does not move the page */
    ck_assert(wrmsr(0, 0x1b, 0xfee00800));
    ck_assert_uint_eq(rdmsr(0, 0x1b), 0xfee00900); /* who booted stays */
    /* Disabling loses the state. */
    set(0, SVR, 0x1ff);
    apic_bus_msi(0xfee00000, 0x50);
    wrmsr(0, 0x1b, 0xfee00000);
    wrmsr(0, 0x1b, 0xfee00800);
    ck_assert_uint_eq(get(0, SVR), 0xff);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
}
END_TEST

START_TEST(x2apic)
{
    uint64_t v;
    ck_assert(!wrmsr(2, 0x80f, 0x1ff)); /* not yet */
    ck_assert(!lapic_msr_read(apic[2], 0x802, &v));
    set(2, ICR2, 0x55000000);
    set(2, TPR, 0x20);
    for (unsigned i = 0; i < N; i++)
        ck_assert(wrmsr(i, 0x1b, 0xfee00c00));
    ck_assert_uint_eq(rdmsr(2, 0x802), 2);
    ck_assert_uint_eq(rdmsr(2, 0x80d), 4);    /* cluster 0, bit 2 */
    ck_assert_uint_eq(rdmsr(2, 0x808), 0x20); /* kept */
    ck_assert_uint_eq(rdmsr(2, 0x830), 0);
    ck_assert_uint_eq(get(2, ID), ~0u); /* the page is gone */
    wrmsr(2, 0x808, 0);
    wrmsr(0, 0x830, 3ull << 32 | 0x41);
    ck_assert_int_eq(lapic_ack(apic[3]), 0x41);
    ck_assert_uint_eq(rdmsr(0, 0x830), 3ull << 32 | 0x41);
    wrmsr(3, 0x80b, 0);
    wrmsr(0, 0x830, 0xcull << 32 | 0x842); /* logical */
    ck_assert_int_eq(lapic_ack(apic[2]), 0x42);
    ck_assert_int_eq(lapic_ack(apic[3]), 0x42);
    ck_assert_int_eq(lapic_ack(apic[1]), -1);
    wrmsr(0, 0x830, 0xffffffffull << 32 | 0x53); /* broadcast */
    for (unsigned i = 0; i < N; i++)
        ck_assert_int_eq(lapic_ack(apic[i]), 0x53);
    wrmsr(1, 0x83f, 0x67); /* self IPI */
    ck_assert_int_eq(lapic_ack(apic[1]), 0x67);
    apic_bus_msi(0xfee08004, 0x71); /* 8 bits, logical: cluster 0 */
    ck_assert_int_eq(lapic_ack(apic[3]), 0x71);

    static const struct {
        uint32_t msr;
        uint64_t value;
        bool ok;
    } rows[] = {
        {0x808, 0x100, false},   {0x80b, 1, false},          {0x80f, 1ull << 32, false},
        {0x80f, 0x1ff, true},    {0x80f, 0x2000, false},     {0x828, 0, true},
        {0x828, 1, false},       {0x830, 0x100000, false},   {0x830, 0x2041, false},
        {0x832, 0x20030, true},  {0x832, 0x80030, false},    {0x835, 0x700, true},
        {0x835, 0x20000, false}, {0x83e, 4, false},          {0x83e, 0xb, true},
        {0x838, ~0u, true},      {0x838, 1ull << 32, false}, {0x83f, 0x100, false},
        {0x802, 0, false},       {0x803, 0, false},          {0x80a, 0, false},
        {0x80d, 0, false},       {0x80e, 0, false},          {0x810, 0, false},
        {0x831, 0, false},       {0x839, 0, false},          {0x8ff, 0, false},
        {0x82f, 0xff, true},     {0x833, 0x10000, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        ck_assert_msg(wrmsr(0, rows[i].msr, rows[i].value) == rows[i].ok, "MSR %#x", rows[i].msr);
    static const uint32_t unreadable[] = {0x800, 0x80b, 0x80e, 0x831, 0x83f, 0x809, 0x829};
    for (unsigned i = 0; i < ARRAY_LEN(unreadable); i++)
        ck_assert(!lapic_msr_read(apic[0], unreadable[i], &v));
    lapic_reset(apic[1], true); /* INIT keeps the mode */
    ck_assert_uint_eq(rdmsr(1, 0x80f), 0xff);
    lapic_reset(apic[1], false);
    ck_assert_uint_eq(rdmsr(1, 0x1b), 0xfee00800);
}
END_TEST

START_TEST(message_still_waiting)
{
    apic_bus_deliver(apic, N, 3, false, 0, 0x30, false);
    ck_assert(apic_bus_waiting(3, false, 0x30));
    ck_assert(!apic_bus_waiting(2, false, 0x30));
    lapic_ack(apic[3]);
    ck_assert(!apic_bus_waiting(3, false, 0x30));
}
END_TEST

START_TEST(hostile_writes)
{
    for (unsigned i = 0; i < 40000; i++) {
        unsigned n = (unsigned)(fuzz_random() % N);
        uint64_t v;
        lapic_set_current(apic[n]);
        fuzz_accesses(fb.board.mmio, PAGE, 0x400, 2, 1000000);
        set(n, (unsigned)(fuzz_random() % 64) << 4, (uint32_t)fuzz_random());
        uint32_t msr = 0x800 + (uint32_t)(fuzz_random() & 0x3f);
        lapic_msr_read(apic[n], msr, &v);
        wrmsr(n, msr, fuzz_random() >> (fuzz_random() & 63));
        wrmsr(n, 0x6e0, fuzz_random() >> (fuzz_random() & 63));
        if (i % 64 == 0)
            wrmsr(n, 0x1b, 0xfee00000 | (fuzz_random() & 0xc00));
        apic_bus_msi(fuzz_random(), (uint32_t)fuzz_random());
        lapic_set_lint0(apic[n], fuzz_random() & 1);
        ck_assert_int_le(lapic_ack(apic[n]), LAPIC_EXTINT);
    }
    for (unsigned i = 0; i < N; i++) {
        lapic_set_lint0(apic[i], false);
        lapic_reset(apic[i], false);
        ck_assert_int_eq(lapic_pending(apic[i]), -1);
        ck_assert(!cpu[i].intr);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lapic");
    TCase *tc = tcase_create("lapic");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, power_on_values);
    tcase_add_test(tc, accepts_in_order_of_priority);
    tcase_add_test(tc, task_priority);
    tcase_add_test(tc, level_interrupts_tell_the_ioapic);
    tcase_add_test(tc, software_disable);
    tcase_add_test(tc, errors);
    tcase_add_test(tc, ipis);
    tcase_add_test(tc, cluster_model);
    tcase_add_test(tc, start_up);
    tcase_add_test(tc, lowest_priority);
    tcase_add_test(tc, one_shot_timer);
    tcase_add_test(tc, periodic_timer);
    tcase_add_test(tc, periodic_timer_of_a_late_host);
    tcase_add_test(tc, divider_and_mode_changes_keep_the_count);
    tcase_add_test(tc, tsc_deadline);
    tcase_add_test(tc, extint_and_local_inputs);
    tcase_add_test(tc, extint_message);
    tcase_add_test(tc, base_transitions);
    tcase_add_test(tc, x2apic);
    tcase_add_test(tc, message_still_waiting);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
