/* One program, every engine, and the engine changed after every instruction: the same registers and
 * memory. */
#include <check.h>
#include <stdio.h>

#include "fixture.h"
#include "switch/switch.h"
#include "vmstate/state.h"

#define P(name) extern const uint8_t program_##name[], program_##name##_end[];
P(real)
P(prot)
P(long)
#undef P

static const struct {
    const char *name;
    FixMode mode;
    const uint8_t *code, *end;
} programs[] = {
    {"real", FIX_REAL, program_real, program_real_end},
    {"prot", FIX_PROT32, program_prot, program_prot_end},
    {"long", FIX_LONG, program_long, program_long_end},
};

static Fixture *f;

static void setup(void)
{
    f = fixture_new(true);
}

static void teardown(void)
{
    fixture_free(f);
}

typedef struct Result {
    CpuState st;
    uint8_t memory[0x10000];
    uint8_t out[256];
    unsigned n_out, steps;
} Result;

static void must_run(Exit e)
{
    ck_assert_msg(e.kind == EXIT_KICK || e.kind == EXIT_LIMIT, "exit %d: %s", e.kind, e.msg);
}

static void finish(Result *r)
{
    GError *err = NULL;
    Vcpu *v = f->v;
    vcpu_request_clear(v, VREQ_WORK);
    ck_assert_msg(v->engine->drain(v, &err), "drain: %s", err ? err->message : "");
    if (!v->engine->export_state(v, GROUPS_ALL, &err))
        ck_abort_msg("export: %s", err->message);
    r->st = v->st;
    memcpy(r->memory, fix_ram(f), sizeof(r->memory));
    memcpy(r->out, f->out, sizeof(r->out));
    r->n_out = f->n_out;
}

static void run_straight(unsigned p, const Engine *e, Result *r)
{
    RunLimit none = {0};
    fixture_load(f, programs[p].mode, programs[p].code,
                 (size_t)(programs[p].end - programs[p].code), e);
    r->steps = 0;
    while (!f->ended)
        must_run(e->run(f->v, &none));
    finish(r);
}

static void run_alternating(unsigned p, const Engine *a, const Engine *b, unsigned phase, Result *r)
{
    RunLimit one = {.max_insns = 1};
    GError *err = NULL;
    fixture_load(f, programs[p].mode, programs[p].code,
                 (size_t)(programs[p].end - programs[p].code), a);
    for (r->steps = 0; !f->ended; r->steps++) {
        ck_assert_msg(r->steps < 100000, "the program does not end: rip %#lx",
                      (unsigned long)f->v->st.rip);
        must_run(f->v->engine->run(f->v, &one));
        if (f->ended)
            break;
        const Engine *to = (r->steps + phase) % 2 ? a : b;
        bool ok = to == f->v->engine ? vcpu_switch_forced(f->v, to, SWITCH_TEST, &err)
                                     : vcpu_switch(f->v, to, SWITCH_TEST, &err);
        ck_assert_msg(ok, "step %u: %s", r->steps, err ? err->message : "");
    }
    finish(r);
}

static void report(const VmstateField *field, const char *a, const char *b, void *opaque)
{
    fprintf(stderr, "  %s: %s against %s\n", field->name, a, b);
}

static void must_equal(const char *program, const char *what, const Result *want, const Result *got)
{
    unsigned n =
        vmstate_diff(&want->st, &got->st, GRP_REGS | GRP_SREGS | GRP_DEBUGREGS, report, NULL);
    ck_assert_msg(n == 0, "%s: %s: %u fields differ", program, what, n);
    for (unsigned i = 0; i < sizeof(want->memory); i++)
        ck_assert_msg(want->memory[i] == got->memory[i], "%s: %s: memory at %#x is %02x, not %02x",
                      program, what, i, got->memory[i], want->memory[i]);
    ck_assert_uint_eq(want->n_out, got->n_out);
    ck_assert_mem_eq(want->out, got->out, want->n_out);
}

static Result *reference(unsigned p)
{
    Result *r = g_new0(Result, 1);
    run_straight(p, &engine_interp, r);
    /* The programs do something: a program that did nothing would make every comparison hold. */
    ck_assert_uint_eq(r->n_out, 5);
    ck_assert_uint_ne(*(uint32_t *)(void *)(r->memory + FIX_DATA), 0);
    ck_assert_uint_eq(*(uint32_t *)(void *)(r->memory + FIX_DATA + 0x30), 0x11223344);
    return r;
}

START_TEST(interpreter_stepwise)
{
    Result *want = reference((unsigned)_i), *got = g_new0(Result, 1);
    run_alternating((unsigned)_i, &engine_interp, &engine_interp, 0, got);
    must_equal(programs[_i].name, "interpreter, stepped and switched to itself", want, got);
    ck_assert_uint_gt(got->steps, 60);
    g_free(want);
    g_free(got);
}
END_TEST

START_TEST(kvm_straight)
{
    if (!f->have[ENGINE_KVM]) {
        fprintf(stderr, "skipped: no usable /dev/kvm\n");
        return;
    }
    Result *want = reference((unsigned)_i), *got = g_new0(Result, 1);
    run_straight((unsigned)_i, &engine_kvm, got);
    must_equal(programs[_i].name, "KVM", want, got);
    g_free(want);
    g_free(got);
}
END_TEST

START_TEST(switched_after_every_instruction)
{
    if (!f->have[ENGINE_KVM]) {
        fprintf(stderr, "skipped: no usable /dev/kvm\n");
        return;
    }
    Result *want = reference((unsigned)_i), *got = g_new0(Result, 1);
    for (unsigned phase = 0; phase < 2; phase++) {
        run_alternating((unsigned)_i, phase ? &engine_kvm : &engine_interp,
                        phase ? &engine_interp : &engine_kvm, 0, got);
        must_equal(programs[_i].name, "switched after every instruction", want, got);
        ck_assert_uint_gt(got->steps, 60);
    }
    g_free(want);
    g_free(got);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("contract");
    TCase *t = tcase_create("programs");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, interpreter_stepwise, 0, ARRAY_LEN(programs));
    tcase_add_loop_test(t, kvm_straight, 0, ARRAY_LEN(programs));
    tcase_add_loop_test(t, switched_after_every_instruction, 0, ARRAY_LEN(programs));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
