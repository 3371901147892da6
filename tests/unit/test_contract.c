/* One program, every engine, and the engine changed after every instruction: the same registers and
 * memory. */
#include <check.h>
#include <cpuid.h>
#include <stdio.h>

#include "fixture.h"
#include "switch/switch.h"
#include "jit/jit.h"
#include "vmstate/state.h"
#include "run_suite.h"

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
    f->have[ENGINE_JIT] = jit_supported(NULL) && engine_jit.vcpu_init(f->v, NULL);
}

static void teardown(void)
{
    if (f->have[ENGINE_JIT])
        engine_jit.vcpu_free(f->v);
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
    for (unsigned i = 0; i < sizeof(want->memory); i++) {
        if (want->memory[i] != got->memory[i])
            ck_abort_msg("%s: %s: memory at %#x is %02x, not %02x", program, what, i,
                         got->memory[i], want->memory[i]);
    }
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

/* ---- the exhaustive walk: one switch, at each instruction of the program in turn ---- */

static const struct {
    const char *name;
    const Engine *from, *to;
} pairs[] = {
    {"interp to kvm", &engine_interp, &engine_kvm}, {"kvm to interp", &engine_kvm, &engine_interp},
    {"jit to kvm", &engine_jit, &engine_kvm},       {"kvm to jit", &engine_kvm, &engine_jit},
    {"interp to jit", &engine_interp, &engine_jit}, {"jit to interp", &engine_jit, &engine_interp},
};

static void ready(const Engine *e, Result *r, unsigned p)
{
    fixture_load(f, programs[p].mode, programs[p].code,
                 (size_t)(programs[p].end - programs[p].code), e);
    r->steps = 0;
    if (f->have[ENGINE_JIT]) /* translated the first time */
        ((Tcg *)f->v->engine_data[ENGINE_JIT])->jit->hot_after = 0;
}

static void to_the_end(Result *r)
{
    RunLimit none = {0};
    while (!f->ended)
        must_run(f->v->engine->run(f->v, &none));
    finish(r);
}

/* at instructions in one engine, step by step, then to the end in the other, as it likes. False:
 * the program has ended before. */
static bool run_with_switch_at(unsigned p, const Engine *from, const Engine *to, unsigned at,
                               Result *r)
{
    RunLimit one = {.max_insns = 1, .whole = true};
    GError *err = NULL;
    ready(from, r, p);
    for (; r->steps < at && !f->ended; r->steps++)
        must_run(f->v->engine->run(f->v, &one));
    if (f->ended)
        return false;
    if (!vcpu_switch(f->v, to, SWITCH_TEST, &err))
        ck_abort_msg("at instruction %u: %s", at, err->message);
    to_the_end(r);
    return true;
}

/* Out of KVM: until something is put into it KVM keeps its copy, so that after each visit to the
 * software engine it is stepped on from there, with the memory of then. */
static unsigned walk_out_of_kvm(unsigned p, const Engine *to, const Result *want, Result *got)
{
    RunLimit one = {.max_insns = 1};
    g_autofree uint8_t *ram = g_malloc(FIX_USED);
    GError *err = NULL;
    unsigned at = 0;
    for (ready(&engine_kvm, got, p); !f->ended; at++) {
        g_autofree char *what = g_strdup_printf("kvm to %s at step %u", to->name, at);
        memcpy(ram, fix_ram(f), FIX_USED);
        Fixture was = *f;
        if (!vcpu_switch(f->v, to, SWITCH_TEST, &err))
            ck_abort_msg("%s: %s", what, err->message);
        to_the_end(got);
        must_equal(programs[p].name, what, want, got);
        memcpy(fix_ram(f), ram, FIX_USED);
        f->ended = false;
        f->n_out = was.n_out;
        f->v->engine = &engine_kvm;
        f->v->where = ST_IN_ENGINE;
        must_run(f->v->engine->run(f->v, &one));
    }
    return at;
}

/* Whether KVM has hardware behind it: then it steps by RFLAGS.TF, and INT n and PUSHF push that. */
static bool steps_by_tf(void)
{
    unsigned a, b, c, d;
    return (__get_cpuid(1, &a, &b, &c, &d) && c & BIT(5) /* VMX */) ||
           (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & BIT(2) /* SVM */);
}

START_TEST(walk)
{
    unsigned p = (unsigned)_i / ARRAY_LEN(pairs), pair = (unsigned)_i % ARRAY_LEN(pairs), at = 0;
    const Engine *from = pairs[pair].from, *to = pairs[pair].to;
    if (!f->have[from->id] || !f->have[to->id]) {
        fprintf(stderr, "skipped: %s: this host has not both\n", pairs[pair].name);
        return;
    }
    if (from == &engine_kvm && steps_by_tf()) {
        fprintf(stderr,
                "skipped: %s: this KVM's steps are seen by the program; "
                "switched_after_every_instruction leaves KVM after each\n",
                pairs[pair].name);
        return;
    }
    Result *want = reference(p), *got = g_new0(Result, 1);
    /* Into KVM only now and then: it can take a host long, and the tests above do it after each. */
    unsigned stride = to == &engine_kvm ? 4 : 1;
    if (from == &engine_kvm)
        at = walk_out_of_kvm(p, to, want, got);
    else
        for (; run_with_switch_at(p, from, to, at, got); at += stride) {
            g_autofree char *what = g_strdup_printf("%s at instruction %u", pairs[pair].name, at);
            must_equal(programs[p].name, what, want, got);
        }
    ck_assert_uint_gt(at, 60);
    g_free(want);
    g_free(got);
}
END_TEST

/* And back and forth after each. */
START_TEST(software_engines_to_and_fro)
{
    if (!f->have[ENGINE_JIT])
        return;
    Result *want = reference((unsigned)_i), *got = g_new0(Result, 1);
    run_alternating((unsigned)_i, &engine_interp, &engine_jit, 0, got);
    must_equal(programs[_i].name, "interpreter and translator", want, got);
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
    t = tcase_create("walk");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, walk, 0, ARRAY_LEN(programs) * ARRAY_LEN(pairs));
    tcase_add_loop_test(t, software_engines_to_and_fro, 0, ARRAY_LEN(programs));
    suite_add_tcase(s, t);
    return run_suite(s);
}
