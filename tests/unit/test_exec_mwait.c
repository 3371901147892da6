/* MONITOR and MWAIT in both software engines: when MWAIT waits, what ends it, what faults. */
#include <stdio.h>
#include <stdlib.h>

#include "cpu/mwait.h"
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

enum { LINE = 0x40, NOTHING = -1 };

static const Engine *const both[] = {&engine_interp, &engine_jit};

static bool setup_engine(unsigned i)
{
    GError *err = NULL;
    guest_setup();
    engine_interp.vcpu_free(&guest.v);
    ck_assert(cpuid_build(&guest.cpuid, "max,+monitor", NULL, 1, 2000000, NULL));
    ck_assert(engine_interp.vcpu_init(&guest.v, &err));
    guest_long_mode();
    guest_engine = both[i];
    if (guest_engine == &engine_jit && !jit_supported(NULL)) {
        printf("skipped: no translator on this host\n");
        return false;
    }
    return guest_engine == &engine_interp || engine_jit.vcpu_init(&guest.v, &err);
}

static void teardown_engine(void)
{
    if (guest.v.engine_data[ENGINE_JIT] && guest_engine == &engine_jit)
        engine_jit.vcpu_free(&guest.v);
    guest_teardown();
}

/* The vector that stopped it, or NOTHING: HLT or MWAIT was reached. */
static int run_code(const uint8_t *code, size_t n)
{
    CpuState *s = &guest.v.st;
    const RunLimit limit = {.stop_at_exception = true};
    memcpy(gp(G_CODE), code, n);
    s->rip = G_CODE;
    s->run_state = RUN_RUNNING;
    guest_engine->enter(&guest.v);
    Exit e = guest_engine->run(&guest.v, &limit);
    ck_assert_msg(e.kind == EXIT_HLT || e.kind == EXIT_EXCEPTION, "exit %d: %s", e.kind, e.msg);
    return e.kind == EXIT_HLT ? NOTHING : e.exc.vector;
}
#define RUN(...) run_code((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define MONITOR 0x0f, 0x01, 0xc8
#define MWAIT_  0x0f, 0x01, 0xc9
#define HLT     0xf4

/* mov byte [rbx], 7 */
#define STORE 0xc6, 0x03, 7

START_TEST(waits_for_a_store)
{
    CpuState *s = &guest.v.st;
    if (!setup_engine((unsigned)_i))
        return;
    s->gpr[RAX] = G_DATA + 8;
    s->gpr[RBX] = G_DATA + LINE - 1;
    s->gpr[RCX] = s->gpr[RDX] = 0;
    ck_assert_int_eq(RUN(MONITOR, MWAIT_, HLT), NOTHING);
    ck_assert_int_eq(s->run_state, RUN_MWAIT);
    ck_assert_uint_eq(s->rip, G_CODE + 6);
    ck_assert(!mwait_over(&guest.v));
    /* run() again: it waits still */
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(s->rip, G_CODE + 6);
    /* by somebody else, anywhere in the line */
    ((uint8_t *)gp(G_DATA))[LINE - 1] ^= 1;
    ck_assert(mwait_over(&guest.v));
    ((uint8_t *)gp(G_DATA))[LINE - 1] ^= 1;
    ((uint8_t *)gp(G_DATA))[LINE] ^= 1; /* not in it */
    ck_assert(!mwait_over(&guest.v));

    /* A store between the two is not missed. */
    ck_assert_int_eq(RUN(MONITOR, STORE, MWAIT_, HLT), NOTHING);
    ck_assert_int_eq(s->run_state, RUN_HALTED);
    /* What has ended one wait is not there for another; nor without a MONITOR. */
    ck_assert_int_eq(RUN(MWAIT_, HLT), NOTHING);
    ck_assert_int_eq(s->run_state, RUN_HALTED);
    /* The last MONITOR counts. */
    s->gpr[RBX] = G_DATA;
    ((uint8_t *)gp(G_DATA))[0] = 0;
    /* add eax, 64 */
    ck_assert_int_eq(RUN(MONITOR, 0x83, 0xc0, LINE, MONITOR, STORE, MWAIT_, HLT), NOTHING);
    ck_assert_int_eq(s->run_state, RUN_MWAIT);
    /* Memory that is none: no wait. */
    mwait_arm(&guest.v, 0x1000);
    ck_assert(mwait_over(&guest.v));
    teardown_engine();
}
END_TEST

/* What ends the wait at once: an interrupt with IF, and with ECX bit 0 also without (which the loop
 * sees to); an NMI. */
START_TEST(interrupts)
{
    CpuState *s = &guest.v.st;
    if (!setup_engine((unsigned)_i))
        return;
    s->gpr[RAX] = G_DATA;
    s->gpr[RCX] = s->gpr[RDX] = 0;
    /* mov ecx, 1 */
    ck_assert_int_eq(RUN(MONITOR, 0xb9, 1, 0, 0, 0, MWAIT_, HLT), NOTHING);
    ck_assert_int_eq(s->run_state, RUN_MWAIT);
    ck_assert(guest.v.monitor.any_interrupt);
    s->gpr[RCX] = 0;
    ck_assert_int_eq(RUN(0xfb /* sti */, MONITOR, MWAIT_, HLT), NOTHING);
    ck_assert(!guest.v.monitor.any_interrupt && s->run_state == RUN_MWAIT);
    /* There is no IDT: delivery ends in a shutdown, and is what is looked for. */
    guest.irq = 0x40;
    vcpu_request(&guest.v, VREQ_INTR);
    ck_assert_int_eq(guest_run(0).kind, EXIT_SHUTDOWN);
    ck_assert_int_eq(guest.irq, -1);
    teardown_engine();
}
END_TEST

START_TEST(addresses)
{
    CpuState *s = &guest.v.st;
    if (!setup_engine((unsigned)_i))
        return;
    s->gpr[RCX] = 0;
    s->gpr[RAX] = 0x100000000 | G_DATA;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_PF);
    ck_assert_int_eq(RUN(0x67, MONITOR, HLT), NOTHING); /* EAX */
    ck_assert_uint_eq(guest.v.monitor.line, G_DATA);
    s->seg[FS].base = 0x1000;
    ck_assert_int_eq(RUN(0x64, 0x67, MONITOR, HLT), NOTHING);
    ck_assert_uint_eq(guest.v.monitor.line, G_DATA + 0x1000);
    s->gpr[RAX] = 0x8000000000000000;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_GP);
    s->gpr[RAX] = G_DATA + 0x1fffff; /* the last byte there is: a byte is what is read */
    ck_assert_int_eq(RUN(MONITOR, HLT), NOTHING);
    s->gpr[RAX]++;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_PF);

    guest_flat32();
    s->gpr[RAX] = G_DATA + 0x77;
    ck_assert_int_eq(RUN(MONITOR, HLT), NOTHING);
    ck_assert_uint_eq(guest.v.monitor.line, G_DATA + LINE);
    s->seg[DS].limit = G_DATA;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_GP);
    s->seg[SS].limit = G_DATA;
    ck_assert_int_eq(RUN(0x36, MONITOR, HLT), VEC_SS);
    ck_assert_int_eq(RUN(0x26, MONITOR, HLT), NOTHING); /* ES */
    teardown_engine();
}
END_TEST

START_TEST(faults)
{
    CpuState *s = &guest.v.st;
    if (!setup_engine((unsigned)_i))
        return;
    s->gpr[RAX] = G_DATA;
    s->gpr[RCX] = 1; /* no extension of MONITOR's is there */
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_GP);
    ck_assert_int_eq(RUN(MWAIT_, HLT), NOTHING);
    s->gpr[RCX] = 2;
    ck_assert_int_eq(RUN(MWAIT_, HLT), VEC_GP);
    s->gpr[RCX] = 1ull << 40;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_GP);
    ck_assert_int_eq(RUN(MWAIT_, HLT), VEC_GP);
    ck_assert_int_eq(RUN(0xf0, MWAIT_), VEC_UD);
    ck_assert_int_eq(RUN(0xf0, MONITOR), VEC_UD);
    guest_flat32();
    s->gpr[RAX] = G_DATA;
    ck_assert_int_eq(RUN(MONITOR, MWAIT_, HLT), NOTHING); /* ECX alone counts there */
    /* Above privilege 0 there is neither. */
    guest_long_mode();
    s->gpr[RCX] = 0;
    guest_segment(CS, 0xa0fb, 0x1b);
    guest_segment(SS, 0xc0f3, 0x23);
    s->cpl = 3;
    ck_assert_int_eq(RUN(MONITOR), VEC_UD);
    ck_assert_int_eq(RUN(MWAIT_), VEC_UD);
    teardown_engine();
}
END_TEST

/* Nor where they are not offered. */
START_TEST(not_offered)
{
    guest_setup();
    guest_engine = &engine_interp;
    guest.v.st.gpr[RAX] = G_DATA;
    guest.v.st.gpr[RCX] = 0;
    ck_assert_int_eq(RUN(MONITOR, HLT), VEC_UD);
    ck_assert_int_eq(RUN(MWAIT_, HLT), VEC_UD);
    guest_teardown();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_mwait");
    TCase *c = tcase_create("exec_mwait");
    tcase_add_loop_test(c, waits_for_a_store, 0, ARRAY_LEN(both));
    tcase_add_loop_test(c, interrupts, 0, ARRAY_LEN(both));
    tcase_add_loop_test(c, addresses, 0, ARRAY_LEN(both));
    tcase_add_loop_test(c, faults, 0, ARRAY_LEN(both));
    tcase_add_test(c, not_offered);
    suite_add_tcase(s, c);
    return run_suite(s);
}
