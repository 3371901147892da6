/* RunLimit and WriteLog: what one who steps two vCPUs side by side asks of a software engine. */
#include <stdlib.h>

#include "tcg_guest.h"
#include "run_suite.h"

enum { VECTOR = 0x21 };
#define G_HANDLER (G_CODE + 0x800)

static void load(const uint8_t *code, size_t n)
{
    memcpy(gp(G_CODE), code, n);
    engine_interp.enter(&guest.v);
}
#define LOAD(...)                                  \
    do {                                           \
        static const uint8_t code[] = __VA_ARGS__; \
        load(code, sizeof(code));                  \
    } while (0)

static void gate(unsigned vector, uint64_t to)
{
    put64(G_GDT + 8, 0x00af9b000000ffffull);
    put64(G_GDT + 16, 0x00cf93000000ffffull);
    guest.v.st.gdt = (DescTable){G_GDT, 23};
    put64(G_IDT + vector * 16,
          (to & 0xffff) | 8u << 16 | 0x8eull << 40 | (to >> 16 & 0xffff) << 48);
    put64(G_IDT + vector * 16 + 8, to >> 32);
    guest.v.st.idt = (DescTable){G_IDT, 0xfff};
    memset(gp(to), 0x90, 64);
}

static Exit run(RunLimit limit)
{
    return engine_interp.run(&guest.v, &limit);
}

/* A fault counts and is the last thing that happens; where it went is known. */
START_TEST(exception_ends_the_run)
{
    LOAD({0x90, 0x90, 0x0f, 0x0b}); /* nop; nop; ud2 */
    gate(VEC_UD, G_HANDLER);
    uint64_t before = guest.v.insns;
    Exit e = run((RunLimit){.max_insns = 100, .caller_events = true, .careful = _i});
    ck_assert_int_eq(e.kind, EXIT_LIMIT);
    ck_assert(e.delivered);
    ck_assert_uint_eq(e.exc.vector, VEC_UD);
    ck_assert_uint_eq(guest.v.st.rip, G_HANDLER);
    ck_assert_uint_eq(guest.v.insns - before, 3);
    /* The same count leads another there. */
    guest_long_mode();
    gate(VEC_UD, G_HANDLER);
    e = run((RunLimit){.max_insns = 3, .caller_events = true, .careful = true});
    ck_assert_int_eq(e.kind, EXIT_LIMIT);
    ck_assert_uint_eq(guest.v.st.rip, G_HANDLER);
}
END_TEST

START_TEST(interrupts_are_the_callers)
{
    LOAD({0xfb, 0x90, 0x90, 0x90, 0xeb, 0xfe}); /* sti; nop; nop; nop; jmp $ */
    gate(VECTOR, G_HANDLER);
    guest.irq = VECTOR;
    vcpu_request(&guest.v, VREQ_INTR);
    Exit e = run((RunLimit){.max_insns = 100, .caller_events = true});
    ck_assert_int_eq(e.kind, EXIT_KICK);
    ck_assert_uint_eq(guest.v.st.rip, G_CODE + 2); /* behind STI's shadow */
    ck_assert_int_eq(guest.irq, VECTOR);           /* not acknowledged */
    vcpu_request_clear(&guest.v, VREQ_INTR);

    uint64_t before = guest.v.insns;
    guest.v.st.ev.interrupt.injected = true;
    guest.v.st.ev.interrupt.nr = VECTOR;
    e = run((RunLimit){.max_insns = 100, .caller_events = true});
    ck_assert_int_eq(e.kind, EXIT_LIMIT);
    ck_assert(!e.delivered);
    ck_assert_uint_eq(guest.v.st.rip, G_HANDLER);
    ck_assert_uint_eq(guest.v.insns - before, 1);
}
END_TEST

START_TEST(one_block_by_its_quick_forms)
{
    LOAD({0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0xeb, 0xf8}); /* inc rax; inc rax; jmp to the first */
    uint64_t before = guest.v.insns;
    Exit e = run((RunLimit){.max_insns = 1000, .caller_events = true, .one_block = true});
    ck_assert_int_eq(e.kind, EXIT_LIMIT);
    ck_assert_uint_eq(guest.v.insns - before, 3);
    ck_assert_uint_eq(guest.v.st.rip, G_CODE);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 2);
    e = run((RunLimit){.max_insns = 2, .caller_events = true, .one_block = true});
    ck_assert_uint_eq(guest.v.st.rip, G_CODE + 6);
}
END_TEST

/* Every store is noted with what was there, in order; undone backwards, memory is as before. */
START_TEST(writes_are_noted)
{
    WriteLog log = {0};
    guest.v.writes = &log;
    /* mov [rdi], rax; push rax; lock inc dword [rdi]; movups [rdi+16], xmm0; mov [rdi+0x1ffc], rax
     */
    LOAD({0x48, 0x89, 0x07, 0x50, 0xf0, 0xff, 0x07, 0x0f, 0x11, 0x47, 0x10, 0x48, 0x89, 0x87, 0xfc,
          0x1f, 0x00, 0x00, 0xf4});
    /* Two pages of the first 2 MiB, so that accessed and dirty bits are set one by one. */
    uint64_t data = G_RAM + 0x40000;
    memset(gp(data), 0x5a, 0x3000);
    guest.v.st.gpr[RDI] = data;
    guest.v.st.gpr[RAX] = 0x1122334455667788;
    g_autofree uint8_t *before = g_malloc(G_SIZE);
    memcpy(before, guest.ram, G_SIZE);
    Exit e = run((RunLimit){.max_insns = 100, .careful = _i});
    ck_assert_int_eq(e.kind, EXIT_HLT);
    unsigned data_writes = 0;
    size_t at[64];
    unsigned n = 0;
    for (const WriteEntry *w = write_log_at(&log, 0); w; w = write_log_next(&log, w)) {
        data_writes += w->gpa >= data && w->gpa < data + 0x3000;
        at[n++] = (size_t)((const uint8_t *)w - log.data);
        ck_assert_uint_lt(n, 64);
    }
    ck_assert_uint_eq(data_writes, 5); /* the last store crosses a page */
    ck_assert_int_ne(memcmp(before, guest.ram, G_SIZE), 0);
    while (n--) {
        const WriteEntry *w = write_log_at(&log, at[n]);
        memcpy(gp(w->gpa), w->old, w->len);
    }
    ck_assert_int_eq(memcmp(before, guest.ram, G_SIZE), 0);
    write_log_free(&log);
}
END_TEST

static uint64_t stopped_clock(Vcpu *v)
{
    return 1000;
}

START_TEST(time_comes_from_the_bus)
{
    LOAD({0x0f, 0x31, 0xf4}); /* rdtsc; hlt */
    guest.bus.clock_tsc = stopped_clock;
    guest.v.st.tsc_offset = 23;
    run((RunLimit){.max_insns = 10});
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 1023);
    ck_assert_uint_eq(guest.v.st.gpr[RDX], 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("run limit");
    TCase *tc = tcase_create("interp");
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_loop_test(tc, exception_ends_the_run, 0, 2);
    tcase_add_test(tc, interrupts_are_the_callers);
    tcase_add_test(tc, one_block_by_its_quick_forms);
    tcase_add_loop_test(tc, writes_are_noted, 0, 2);
    tcase_add_test(tc, time_comes_from_the_bus);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
