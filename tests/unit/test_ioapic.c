/* The 82093AA (290566), its successors' EOI register, and the I/O spaces it sits in. */
#include <check.h>

#include "devices/ioapic.h"
#include "fake_fuzz.h"
#include "run_suite.h"

#define BASE 0xfec00000ull

static Device *ioapic;
static Lapic *apic[2];
static unsigned nmis, smis, inits;

static void on_intr(void *opaque, bool level) {}
static void on_nmi(void *opaque)
{
    nmis++;
}
static void on_smi(void *opaque)
{
    smis++;
}
static void on_init(void *opaque)
{
    inits++;
}
static void on_sipi(void *opaque, uint8_t vector) {}
static uint64_t tsc(void *opaque)
{
    return fake_ns;
}
static uint64_t ns_at_tsc(void *opaque, uint64_t t)
{
    return t;
}

static uint32_t get(uint8_t reg)
{
    io_write(fb.board.mmio, BASE, 4, reg);
    return (uint32_t)io_read(fb.board.mmio, BASE + 0x10, 4);
}

static void set(uint8_t reg, uint32_t v)
{
    io_write(fb.board.mmio, BASE, 4, reg);
    io_write(fb.board.mmio, BASE + 0x10, 4, v);
}

static void set_rte(unsigned pin, uint32_t low, uint8_t dest)
{
    set((uint8_t)(0x11 + 2 * pin), (uint32_t)dest << 24);
    set((uint8_t)(0x10 + 2 * pin), low);
}

static uint32_t rte(unsigned pin)
{
    return get((uint8_t)(0x10 + 2 * pin));
}

static void apic_set(unsigned n, unsigned reg, uint32_t v)
{
    lapic_set_current(apic[n]);
    io_write(fb.board.mmio, 0xfee00000 + reg, 4, v);
}

static void line(int pin, bool level)
{
    ioapic_set_irq(ioapic, pin, level);
}

static void setup(void)
{
    LapicCpu cpus[2];
    fake_board_init();
    ioapic = fake_device(&device_ioapic);
    for (unsigned i = 0; i < 2; i++)
        cpus[i] = (LapicCpu){NULL, on_intr, on_nmi, on_smi, on_init, on_sipi, tsc, ns_at_tsc};
    ck_assert(lapics_new(&fb.board, 2, cpus, apic, NULL));
    ioapic_connect(ioapic, apic, 2);
    lapic_set_eoi_hook(ioapic_eoi, ioapic);
    for (unsigned i = 0; i < 2; i++) {
        apic_set(i, 0xf0, 0x1ff);
        apic_set(i, 0xd0, 1u << (24 + i));
    }
    nmis = smis = inits = 0;
}

static void teardown(void)
{
    lapic_set_eoi_hook(NULL, NULL);
    lapics_free(apic, 2);
    device_free(ioapic);
    fake_board_free();
}

START_TEST(registers)
{
    ck_assert_uint_eq(get(0), 0);
    ck_assert_uint_eq(get(1), 0x00170020);
    set(0, 0xffffffff);
    ck_assert_uint_eq(get(0), 0x0f000000);
    ck_assert_uint_eq(get(2), 0x0f000000);
    set(1, 0);
    ck_assert_uint_eq(get(1), 0x00170020);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        ck_assert_uint_eq(rte(i), 0x10000);
    set_rte(23, 0xffffffff, 0x5a);
    ck_assert_uint_eq(rte(23), 0x1afff); /* delivery status and remote IRR are read-only */
    ck_assert_uint_eq(get(0x3f), 0x5a000000);
    ck_assert_uint_eq(get(0x40), 0);
    ck_assert_uint_eq(io_read(fb.board.mmio, BASE, 4), 0x40);
    set(0xff, ~0u);
}
END_TEST

START_TEST(edges)
{
    set_rte(4, 0x34, 1);
    line(4, true);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    ck_assert(ioapic_irq_pending(ioapic, 4));
    ck_assert_int_eq(lapic_ack(apic[1]), 0x34);
    ck_assert(!ioapic_irq_pending(ioapic, 4));
    apic_set(1, 0xb0, 0);
    line(4, true);
    ck_assert_int_eq(lapic_ack(apic[1]), -1);
    line(4, false);
    line(4, true);
    ck_assert_int_eq(lapic_ack(apic[1]), 0x34);
    apic_set(1, 0xb0, 0);
    /* "Edge-sensitive interrupts signaled on a masked interrupt pin are ignored" */
    line(4, false);
    set_rte(4, 0x10034, 1);
    line(4, true);
    set_rte(4, 0x34, 1);
    ck_assert_int_eq(lapic_ack(apic[1]), -1);
    ck_assert_uint_eq(rte(4) & 0x4000, 0);
}
END_TEST

START_TEST(levels)
{
    set_rte(16, 0x8050, 0);
    line(16, true);
    ck_assert_uint_eq(rte(16), 0xc050); /* remote IRR "is set when the local APIC accepts" */
    ck_assert_int_eq(lapic_ack(apic[0]), 0x50);
    line(16, false);
    line(16, true); /* not again before EOI */
    ck_assert(!ioapic_irq_pending(ioapic, 16));
    ck_assert_int_eq(lapic_ack(apic[0]), -1);
    apic_set(0, 0xb0, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x50); /* still up at EOI */
    line(16, false);
    apic_set(0, 0xb0, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), -1);
    ck_assert_uint_eq(rte(16), 0x8050);
    /* Masked while up, unmasked later. */
    set_rte(16, 0x18050, 0);
    line(16, true);
    ck_assert_int_eq(lapic_ack(apic[0]), -1);
    set_rte(16, 0x8050, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x50);
    line(16, false);
}
END_TEST

START_TEST(eoi_register)
{
    apic_set(0, 0xf0, 0x11ff); /* the local APIC does not broadcast EOI */
    set_rte(17, 0x8061, 0);
    line(17, true);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x61);
    apic_set(0, 0xb0, 0);
    ck_assert_uint_eq(rte(17), 0xc061);
    line(17, false);
    io_write(fb.board.mmio, BASE + 0x40, 4, 0x62);
    ck_assert_uint_eq(rte(17), 0xc061);
    io_write(fb.board.mmio, BASE + 0x40, 4, 0x61);
    ck_assert_uint_eq(rte(17), 0x8061);
}
END_TEST

START_TEST(edge_mode_ends_a_stuck_level)
{
    set_rte(18, 0x8070, 0);
    line(18, true);
    lapic_ack(apic[0]);
    ck_assert_uint_eq(rte(18), 0xc070);
    line(18, false);
    set_rte(18, 0x10070, 0); /* Linux' way for chips without the EOI register */
    set_rte(18, 0x8070, 0);
    ck_assert_uint_eq(rte(18), 0x8070);
}
END_TEST

START_TEST(nobody_accepts)
{
    set_rte(19, 0x8080, 9);
    line(19, true);
    ck_assert_uint_eq(rte(19), 0x8080);
    set_rte(19, 0x8080, 1); /* then somebody */
    ck_assert_int_eq(lapic_ack(apic[1]), 0x80);
}
END_TEST

START_TEST(destinations)
{
    set_rte(5, 0x0855, 0x02); /* logical */
    line(5, true);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    ck_assert_int_eq(lapic_ack(apic[1]), 0x55);
    apic_set(1, 0xb0, 0);
    set_rte(6, 0x0066, 0xff); /* everybody */
    line(6, true);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x66);
    ck_assert_int_eq(lapic_ack(apic[1]), 0x66);
    apic_set(0, 0xb0, 0);
    apic_set(1, 0xb0, 0);
    apic_set(0, 0x80, 0x40);
    set_rte(7, 0x0977, 0xff); /* lowest priority */
    line(7, true);
    ck_assert_int_eq(lapic_pending(apic[0]), -1);
    ck_assert_int_eq(lapic_ack(apic[1]), 0x77);
    set_rte(8, 0x0400, 0);
    line(8, true);
    set_rte(9, 0x0200, 0);
    line(9, true);
    set_rte(10, 0x0500, 0);
    line(10, true);
    ck_assert_uint_eq(nmis, 1);
    ck_assert_uint_eq(smis, 1);
    ck_assert_uint_eq(inits, 1);
    set_rte(0, 0x0700, 1); /* the 8259s, through this chip */
    line(0, true);
    ck_assert_int_eq(lapic_ack(apic[1]), LAPIC_EXTINT);
}
END_TEST

START_TEST(reset_keeps_lines)
{
    set_rte(16, 0x8050, 0);
    line(16, true);
    device_ioapic.reset(ioapic);
    lapic_reset(apic[0], false);
    apic_set(0, 0xf0, 0x1ff);
    ck_assert_uint_eq(rte(16), 0x10000);
    set_rte(16, 0x8050, 0);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x50);
}
END_TEST

START_TEST(hostile_writes)
{
    for (unsigned i = 0; i < 50000; i++) {
        set((uint8_t)fuzz_random(), (uint32_t)fuzz_random());
        fuzz_accesses(fb.board.mmio, BASE, 0x50, 2, 0);
        line((int)(fuzz_random() % 40) - 8, fuzz_random() & 1);
        lapic_ack(apic[fuzz_random() & 1]);
        apic_set(fuzz_random() & 1, 0xb0, 0);
    }
    device_ioapic.reset(ioapic);
    line(4, false);
    for (unsigned i = 0; i < 2; i++) {
        lapic_reset(apic[i], false);
        apic_set(i, 0xf0, 0x1ff);
    }
    set_rte(4, 0x34, 0);
    line(4, true);
    ck_assert_int_eq(lapic_ack(apic[0]), 0x34);
}
END_TEST

/* ---- bus.h: the spaces themselves ---- */

static struct {
    unsigned n;
    uint64_t offset, value;
    unsigned size;
} seen;

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
    seen.n++;
    seen.offset = offset;
    seen.size = size;
    return 0x1122334455667788ull + (uintptr_t)opaque;
}

static void probe_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    seen.n++;
    seen.offset = offset;
    seen.size = size;
    seen.value = value;
}

START_TEST(spaces)
{
    static const IoOps bytes = {.read = probe_read, .write = probe_write, .max = 1};
    static const IoOps words = {.read = probe_read, .write = probe_write, .min = 4, .max = 8};
    static const IoOps silent = {.write = NULL};
    IoSpace *s = io_space_new("test", 1ull << 52);
    ck_assert_uint_eq(io_read(s, 0x1000, 8), ~0ull);
    ck_assert_uint_eq(io_read(s, 0x1000, 2), 0xffff);
    io_write(s, 0x1000, 4, 1);
    IoRegion *low = io_map(s, 0x1000, 0x1000, &bytes, NULL, "low");
    IoRegion *high = io_map(s, 0x1800, 0x100, &words, (void *)1, "high");
    seen.n = 0;
    ck_assert_uint_eq(io_read(s, 0x1000, 4), 0x88888888); /* split */
    ck_assert_uint_eq(seen.n, 4);
    ck_assert_uint_eq(seen.offset, 3);
    ck_assert_uint_eq(io_read(s, 0x1801, 1), 0x77); /* widened */
    ck_assert_uint_eq(seen.size, 4);
    ck_assert_uint_eq(seen.offset, 0);
    ck_assert_uint_eq(io_read(s, 0x1808, 8), 0x1122334455667789);
    io_write(s, 0x1804, 2, 0xabcd);
    ck_assert_uint_eq(seen.size, 2);
    ck_assert_uint_eq(seen.value, 0xabcd);
    io_write(s, 0x17ff, 2, 0x1234); /* across two */
    ck_assert_uint_eq(seen.size, 1);
    ck_assert_uint_eq(seen.offset, 0);
    ck_assert_uint_eq(seen.value, 0x12);
    ck_assert_uint_eq(io_read(s, 0x1fff, 2), 0xff88); /* over the end */
    io_move(s, high, 0x5000);
    ck_assert_uint_eq(io_read(s, 0x1800, 1), 0x88);
    ck_assert_uint_eq(io_read(s, 0x5000, 1), 0x89);
    io_move(s, high, ~0ull - 0x7f); /* over the end of the world */
    ck_assert_uint_eq(io_read(s, 0, 4), ~0u);
    io_move(s, high, 0);
    ck_assert_uint_eq(io_read(s, 0, 1), 0x89);
    IoRegion *over = io_map(s, 0, 0x10000, &silent, NULL, "over"); /* later ones win */
    ck_assert_uint_eq(io_read(s, 0, 4), ~0u);
    io_write(s, 0x1000, 4, 1);
    GString *text = g_string_new(NULL);
    io_describe(s, text);
    ck_assert_ptr_nonnull(strstr(text->str, "high"));
    g_string_free(text, TRUE);
    io_unmap(s, over);
    io_unmap(s, high);
    ck_assert_uint_eq(io_read(s, 0, 1), 0xff);
    ck_assert_uint_eq(io_read(s, 0x1000, 1), 0x88);
    io_unmap(s, low);
    io_unmap(s, NULL);
    io_space_free(s);
}
END_TEST

START_TEST(registry)
{
    ck_assert_ptr_eq(device_class("ioapic"), &device_ioapic);
    ck_assert_ptr_null(device_class("flux-capacitor"));
    GString *help = g_string_new(NULL);
    device_classes_help(help);
    ck_assert_ptr_nonnull(strstr(help->str, "isa-debug-exit"));
    ck_assert_ptr_null(strstr(help->str, "ioapic"));
    g_string_free(help, TRUE);
    GHashTable *props = g_hash_table_new(g_str_hash, g_str_equal);
    g_hash_table_insert(props, (char *)"colour", (char *)"red");
    GError *err = NULL;
    ck_assert_ptr_null(device_new(&device_ioapic, &fb.board, props, &err));
    ck_assert_ptr_nonnull(strstr(err->message, "colour"));
    g_error_free(err);
    g_hash_table_destroy(props);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ioapic");
    TCase *tc = tcase_create("ioapic");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, registers);
    tcase_add_test(tc, edges);
    tcase_add_test(tc, levels);
    tcase_add_test(tc, eoi_register);
    tcase_add_test(tc, edge_mode_ends_a_stuck_level);
    tcase_add_test(tc, nobody_accepts);
    tcase_add_test(tc, destinations);
    tcase_add_test(tc, reset_keeps_lines);
    tcase_add_test(tc, hostile_writes);
    suite_add_tcase(suite, tc);
    TCase *bus = tcase_create("bus");
    tcase_add_checked_fixture(bus, setup, teardown);
    tcase_add_test(bus, spaces);
    tcase_add_test(bus, registry);
    suite_add_tcase(suite, bus);
    return run_suite(suite);
}
