/* Breakpoints of the host's under KVM: RunLimit.stops. */
#include "kvm_fixture.h"
#include "run_suite.h"

static RunStops stops;

static Exit go(void)
{
    RunLimit limit = {.stops = &stops};
    return engine_kvm.run(&fx.v, &limit);
}

/* Real mode: 0x1000: mov cx, 5; 0x1003: inc ax; inc bx; loop 0x1003; out 0x10, al; hlt */
static const uint8_t code[] = {0xb9, 5, 0, 0x40, 0x43, 0xe2, 0xfc, 0xe6, 0x10, 0xf4};

static void setup(void)
{
    fx_setup();
    stops = (RunStops){0};
    cpu_state_reset(&fx.v.st, 0x600, true);
    fx.v.st.seg[CS] = (Segment){.limit = 0xffff, .attr = 0x9b};
    fx.v.st.rip = CODE;
    fx.v.st.gpr[RAX] = fx.v.st.gpr[RBX] = 0;
    memcpy(fx.ram + CODE, code, sizeof(code));
    fx_import();
}

START_TEST(stops_and_passes)
{
    stops.addr[0] = CODE + 0x500;
    stops.addr[1] = CODE + 4;
    stops.n_addr = 2;
    for (unsigned i = 0; i < 5; i++) {
        Exit e = go();
        ck_assert_msg(e.kind == EXIT_STOP, "exit %d: %s", e.kind, e.msg);
        ck_assert_int_eq(e.stop, STOP_ADDRESS);
        ck_assert_uint_eq(e.code, 1);
        fx_export();
        ck_assert_uint_eq(fx.v.st.rip, CODE + 4);
        ck_assert_uint_eq(fx.v.st.gpr[RAX], i + 1);
        ck_assert_uint_eq(fx.v.st.gpr[RBX], i);
        ck_assert(!(fx.v.st.rflags & (FL_TF | FL_RF)));
        stops.pass = true;
        stops.pass_at = CODE + 4;
    }
    ck_assert_int_eq(go().kind, EXIT_HLT);
    ck_assert(!stops.pass);
    fx_export();
    ck_assert_uint_eq(fx.v.st.gpr[RBX], 5);
}
END_TEST

/* A run without stops meets none; exits that are asked for are told of, done. */
START_TEST(none_and_exits)
{
    stops.addr[0] = CODE + 4;
    stops.n_addr = 1;
    ck_assert_int_eq(go().kind, EXIT_STOP);
    stops.n_addr = 0;
    stops.exits = BIT(KVM_EXIT_IO);
    Exit e = go();
    ck_assert_int_eq(e.kind, EXIT_STOP);
    ck_assert_int_eq(e.stop, STOP_EXIT);
    ck_assert_uint_eq(e.code, KVM_EXIT_IO);
    ck_assert_uint_eq(fx.n_log, 1);
    ck_assert_int_eq(fx.log[0].kind, 'o');
    ck_assert_int_eq(go().kind, EXIT_HLT);
    ck_assert_uint_eq(fx.n_log, 1);
}
END_TEST

int main(void)
{
    if (!fx_have_kvm())
        return 77;
    Suite *s = suite_create("stops in KVM");
    TCase *tc = tcase_create("kvm");
    tcase_add_checked_fixture(tc, setup, fx_teardown);
    tcase_add_test(tc, stops_and_passes);
    tcase_add_test(tc, none_and_exits);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
