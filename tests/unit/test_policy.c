/* Policies: what is parsed, what is refused and how, and that they are carried out exactly where
 * they say, between the two software engines. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "switch/policy_priv.h"
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

static bool have_kvm;
static Symbols *symbols;

static const Engine *engine(void *opaque, const char *name, GError **err)
{
    if (!strcmp(name, "kvm") && !have_kvm) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "kvm cannot run this machine: no /dev/kvm");
        return NULL;
    }
    return !strcmp(name, "kvm")      ? &engine_kvm
           : !strcmp(name, "interp") ? &engine_interp
                                     : &engine_jit;
}

static Symbols *made_symbols(void)
{
    static const char map[] = "0000000060100000 T start\n0000000060100005 t round\n"
                              "000000006010000b T middle\n0000000060100012 T finish\n"
                              "0000000060100013 T last\n";
    char *path = NULL;
    int fd = g_file_open_tmp("map-XXXXXX", &path, NULL);
    Symbols *s = symbols_new();
    ck_assert_int_eq(write(fd, map, strlen(map)), (ssize_t)strlen(map));
    close(fd);
    ck_assert(symbols_add_file(s, path, NULL));
    unlink(path);
    g_free(path);
    return s;
}

static Policies *all;

static void setup(void)
{
    GError *err = NULL;
    guest_setup();
    guest.v.engine = &engine_interp;
    if (jit_supported(NULL) && !engine_jit.vcpu_init(&guest.v, &err))
        ck_abort_msg("%s", err->message);
    symbols = made_symbols();
    have_kvm = false;
    PolicyEnv env = {&guest.vm, symbols, engine, NULL};
    all = policies_new(&env);
}

static void teardown(void)
{
    policies_free(all);
    symbols_free(symbols);
    if (guest.v.engine_data[ENGINE_JIT])
        engine_jit.vcpu_free(&guest.v);
    guest_teardown();
}

/* ---- parsing ---- */

static const struct {
    const char *text;
    bool kvm;
    const char *says; /* NULL: taken */
} lines[] = {
    {"at=middle", false, NULL},
    {"at=middle+2,to=interp,cpu=0", false, NULL},
    {"at=0x60100000,to=jit,for=10ms", false, NULL},
    {"to=kvm,at=middle", true, NULL},
    {"every=10ms", false, NULL},
    {"every=100000insn,to=interp", false, NULL},
    {"every=1s,to=tcg,for=500insn", true, NULL},
    {"every=5ms..20ms", false, NULL},
    {"every=500us..1s,for=1ms", false, NULL},
    {"every=10insn..10insn", false, NULL},
    {"on=exit:io", true, NULL},
    {"on=internal-error", true, NULL},
    {"when=cpl3,to=interp", false, NULL},
    {"region=start..finish", false, NULL},
    {"region=middle,to=interp", false, NULL},

    {"", false, "says not when"},
    {"middle", false, "a policy is like at="},
    {"at", false, "'at' has no value"},
    {"at=", false, "'at=' has no value"},
    {"to=jit", false, "says not when"},
    {"at=midle", false, "no symbol 'midle'; did you mean 'middle'?"},
    {"at=quite_another", false, "no symbol 'quite_another' among 5"},
    {"at=middle+", false, "'middle+' is not an address"},
    {"at=0x12zz", false, "'0x12zz' is not an address"},
    {"at=+5", false, "'+5' is not an address"},
    {"ta=middle", false, "no 'ta'"},
    {"at=middle,vcpu=1", false, "did you mean 'cpu'?"},
    {"at=middle,cpu=1", false, "there are 0 to 0"},
    {"at=middle,cpu=x", false, "cpu=x: not a number"},
    {"at=middle,when=cpl0", false, "one trigger a policy"},
    {"at=middle,to=intrep", false, "did you mean 'interp'?"},
    {"at=middle,to=warp", false, "there are kvm, tcg, jit, interp and other"},
    {"at=middle,to=kvm", false, "to=kvm: kvm cannot run this machine: no /dev/kvm"},
    {"every=10ms,to=tcg,to=kvm", false, "to= is there twice"},
    {"every=10ms,cpu=0,cpu=0", false, "cpu= is there twice"},
    {"every=10ms,for=1ms,for=2ms", false, "for= is there twice"},
    {"every=10", false, "'' is no unit"},
    {"every=10min", false, "'min' is no unit"},
    {"every=ms", false, "not a number with a unit"},
    {"every=0ms", false, "more than nothing"},
    {"every=2h", false, "'h' is no unit"},
    {"every=4000s", false, "too long"},
    {"every=99999999999999999999999s", false, "too long"},
    {"every=1us", false, "50us is the least"},
    {"every=1us..1ms", false, "50us is the least"},
    {"every=20ms..5ms", false, "the shorter one comes first"},
    {"every=5ms..20insn", false, "from a time to a time"},
    {"every=5insn..20ms", false, "from a count to a count"},
    {"every=5..20ms", false, "'' is no unit"},
    {"every=5ms..", false, "not a number with a unit"},
    {"every=..5ms", false, "not a number with a unit"},
    {"every=5ms..10ms..20ms", false, "'ms..20ms' is no unit"},
    {"every=5ms,for=1ms..2ms", false, "'ms..2ms' is no unit"},
    {"on=exit:iop", true, "did you mean 'io'?"},
    {"on=exit:sunshine", true, "there are io, mmio"},
    {"on=exit:io", false, "this machine has no KVM"},
    {"on=internal-eror", true, "did you mean the latter?"},
    {"on=exit:io,to=kvm", true, "leads out of KVM"},
    {"when=cpl1", false, "there are when=cpl0 and when=cpl3"},
    {"when=cpl3,to=kvm", true, "only a software engine can tell"},
    {"when=cpl3,to=jit,for=1ms", false, "it ends by itself"},
    {"region=start", false, NULL},
    {"region=0x1000", false, "where does it end?"},
    {"region=finish..start", false, "ends before it begins"},
    {"region=start..fnish", false, "did you mean 'finish'?"},
    {"region=start..finish,to=kvm", true, "only a software engine can tell"},
    {"at=middle,to=kvm,for=5insn", true, "KVM does not count instructions"},
};

START_TEST(parsed_or_refused)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GString) warning = g_string_new(NULL);
    unsigned number = 0;
    all->kvm = lines[_i].kvm ? &engine_kvm : NULL;
    have_kvm = lines[_i].kvm;
    bool ok = policies_add(all, lines[_i].text, &number, warning, &err);
    if (!lines[_i].says) {
        ck_assert_msg(ok, "%s", err ? err->message : "");
        ck_assert_uint_eq(number, 1);
    } else {
        ck_assert_msg(!ok, "'%s' was taken", lines[_i].text);
        ck_assert_msg(strstr(err->message, lines[_i].says) && strstr(err->message, lines[_i].text),
                      "'%s': %s", lines[_i].text, err->message);
        ck_assert_uint_eq(all->list->len, 0);
    }
}
END_TEST

START_TEST(breakpoints_are_counted)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GString) warning = g_string_new(NULL), out = g_string_new(NULL);
    unsigned n;
    have_kvm = true;
    all->kvm = &engine_kvm;
    ck_assert(policies_add(all, "at=start", &n, warning, NULL));
    ck_assert(policies_add(all, "at=round", &n, warning, NULL));
    ck_assert(policies_add(all, "at=last,to=kvm", &n, warning, NULL)); /* not from KVM */
    ck_assert(policies_add(all, "region=middle", &n, warning, NULL));
    ck_assert(!policies_add(all, "at=finish", &n, warning, &err));
    ck_assert_msg(strstr(err->message, "KVM has 4 breakpoints"), "%s", err->message);
    ck_assert(policies_add(all, "every=1s", &n, warning, NULL));
    ck_assert_uint_eq(n, 5);
    policies_list(all, out);
    ck_assert_msg(strstr(out->str, "4: region=middle  [0x6010000b (middle) to 0x60100012]"), "%s",
                  out->str);
    g_clear_error(&err);
    ck_assert(!policies_delete(all, 9, &err));
    ck_assert(strstr(err->message, "no policy 9"));
    ck_assert(policies_delete(all, 1, NULL));
    ck_assert(policies_add(all, "at=finish", &n, warning, NULL));
    ck_assert_uint_eq(n, 6); /* numbers are not used again */
    ck_assert(policies_delete(all, 0, NULL));
    ck_assert_uint_eq(all->list->len, 0);
}
END_TEST

/* ---- at work: the loop's part, without its thread ---- */

static VcpuLoop loop_of_test;

/* mov ecx, 20; round: inc rax; add rbx, rax; middle: inc rdx; dec ecx; jnz round; finish: hlt */
static const uint8_t code[] = {0xb9, 20,   0,    0,    0,    0x48, 0xff, 0xc0, 0x48, 0x01,
                               0xc3, 0x48, 0xff, 0xc2, 0xff, 0xc9, 0x75, 0xf3, 0xf4};

typedef struct Visit {
    uint64_t rip;
    enum EngineId to;
} Visit;

/* Runs to HLT; notes where the engine was changed. */
static unsigned run(Visit *visit, unsigned most)
{
    VcpuLoop *l = &loop_of_test;
    Vcpu *v = &guest.v;
    unsigned n = 0;
    memset(l, 0, sizeof(*l));
    l->v = v;
    v->loop = l;
    memcpy(gp(G_CODE), code, sizeof(code));
    v->st.gpr[RAX] = v->st.gpr[RBX] = v->st.gpr[RDX] = 0;
    v->st.rip = G_CODE;
    v->st.run_state = RUN_RUNNING;
    v->engine->enter(v);
    for (unsigned exits = 0; exits < 100000; exits++) {
        const RunLimit *limit = policy_limit(l);
        const Engine *before = v->engine;
        Exit e = v->engine->run(v, limit);
        bool seen = policy_exit(l, &e);
        if (v->engine != before && n < most)
            visit[n++] = (Visit){v->st.rip, v->engine->id};
        if (e.kind == EXIT_HLT)
            break;
        ck_assert_msg(seen, "exit %d: %s", e.kind, e.msg);
    }
    ck_assert_uint_eq(v->st.gpr[RDX], 20);
    ck_assert_uint_eq(v->st.gpr[RBX], 210);
    ck_assert_uint_eq(v->st.rip, G_CODE + sizeof(code));
    return n;
}

static Policy *add(const char *text)
{
    GError *err = NULL;
    g_autoptr(GString) warning = g_string_new(NULL);
    unsigned number;
    if (!policies_add(all, text, &number, warning, &err))
        ck_abort_msg("%s", err->message);
    return g_ptr_array_index(all->list, all->list->len - 1);
}

static bool two_engines(void)
{
    if (!guest.v.engine_data[ENGINE_JIT])
        printf("skipped: no translator on this host\n");
    return guest.v.engine_data[ENGINE_JIT] != NULL;
}

START_TEST(two_addresses)
{
    Visit visit[64];
    if (!two_engines())
        return;
    Policy *to_jit = add("at=middle,to=jit"), *back = add("at=round,to=interp");
    unsigned n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_eq(n, 39); /* the first round began in the interpreter */
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_eq(visit[i].rip, G_CODE + (i % 2 ? 5u : 11u));
        ck_assert_int_eq(visit[i].to, i % 2 ? ENGINE_INTERP : ENGINE_JIT);
    }
    ck_assert_uint_eq(to_jit->per[0].fired, 20);
    ck_assert_uint_eq(back->per[0].fired, 19);
    ck_assert_uint_gt(to_jit->per[0].ns[ENGINE_JIT], 0);
    ck_assert_uint_eq(to_jit->per[0].ns[ENGINE_INTERP], 0);
    policy_end(&loop_of_test);
}
END_TEST

START_TEST(one_address_both_ways)
{
    Visit visit[64];
    if (!two_engines())
        return;
    Policy *p = add("at=middle,to=other");
    ck_assert_uint_eq(run(visit, ARRAY_LEN(visit)), 20);
    ck_assert_uint_eq(p->per[0].fired, 20);
    policy_end(&loop_of_test);
}
END_TEST

START_TEST(in_and_out_of_a_region)
{
    Visit visit[64];
    if (!two_engines())
        return;
    Policy *p = add("region=middle,to=jit"); /* inc rdx; dec ecx; jnz */
    unsigned n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_eq(n, 40);
    for (unsigned i = 0; i < n; i++)
        ck_assert_uint_eq(visit[i].rip, i == 39 ? G_CODE + 18 : i % 2 ? G_CODE + 5 : G_CODE + 11);
    ck_assert_uint_eq(p->per[0].fired, 20);
    ck_assert_int_eq(guest.v.engine->id, ENGINE_INTERP);
    policy_end(&loop_of_test);
}
END_TEST

START_TEST(counts)
{
    Visit visit[128];
    if (!two_engines())
        return;
    add("every=7insn");
    unsigned n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_eq(n, (1 + 20 * 5) / 7); /* of 101 instructions and HLT */
    ck_assert_uint_eq(visit[0].rip, G_CODE + 8);

    policies_delete(all, 0, NULL);
    policy_end(&loop_of_test);
    guest.v.engine = &engine_interp;
    Policy *p = add("at=middle,to=jit,for=3insn");
    n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_eq(n, 40);
    for (unsigned i = 0; i < n - 1; i += 2) {
        ck_assert_uint_eq(visit[i].rip, G_CODE + 11);
        ck_assert_uint_eq(visit[i + 1].rip, i == 38 ? G_CODE + 18 : G_CODE + 5);
    }
    ck_assert_uint_eq(p->per[0].fired, 20);
    policy_end(&loop_of_test);
}
END_TEST

/* every=A..B: never sooner than A, never later than B, all lengths between, and others on another
 * vCPU's stream. */
START_TEST(at_random)
{
    Visit visit[128];
    if (!two_engines())
        return;
    Policy *p = add("every=3insn..6insn");
    unsigned n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_ge(n, 102 / 6);
    ck_assert_uint_le(n, 102 / 3);
    policy_end(&loop_of_test);

    uint64_t a = 1, b = 0x9e3779b97f4a7c15, times[7] = {0}, differ = 0;
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t x = policy_next_span(p, &a);
        ck_assert(x >= 3 && x <= 6);
        times[x]++;
        differ += x != policy_next_span(p, &b);
    }
    for (unsigned x = 3; x <= 6; x++)
        ck_assert_uint_gt(times[x], 800);
    ck_assert_uint_gt(differ, 2000);
    p = add("every=100ms..100ms");
    ck_assert_uint_eq(policy_next_span(p, &a), 100000000);
}
END_TEST

/* Somebody else's switch ends what a policy began; one policy's end does not undo another's. */
START_TEST(taken_over)
{
    if (!two_engines())
        return;
    add("region=start..finish,to=jit");
    VcpuLoop *l = &loop_of_test;
    Vcpu *v = &guest.v;
    memset(l, 0, sizeof(*l));
    l->v = v;
    v->loop = l;
    memcpy(gp(G_CODE), code, sizeof(code));
    v->engine->enter(v);
    Exit e = v->engine->run(v, policy_limit(l));
    ck_assert_int_eq(e.kind, EXIT_STOP);
    ck_assert(policy_exit(l, &e));
    ck_assert_ptr_eq(v->engine, &engine_jit);
    ck_assert_ptr_nonnull(l->policy->active);
    ck_assert(vcpu_switch(v, &engine_interp, SWITCH_USER, NULL));
    ck_assert_ptr_null(l->policy->active);
    e = v->engine->run(v, policy_limit(l));
    ck_assert_int_eq(e.kind, EXIT_HLT);
    ck_assert_ptr_eq(v->engine, &engine_interp);
    policy_end(l);
}
END_TEST

/* A policy that fires while another's `for` runs: what both end in is where the first began. */
START_TEST(one_inside_another)
{
    Visit visit[128];
    if (!two_engines())
        return;
    add("at=round,to=jit,for=50insn");
    add("at=middle,to=interp,for=1insn");
    unsigned n = run(visit, ARRAY_LEN(visit));
    ck_assert_uint_eq(n, 40);
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_eq(visit[i].rip, G_CODE + (i % 2 ? 11u : 5u));
        ck_assert_int_eq(visit[i].to, i % 2 ? ENGINE_INTERP : ENGINE_JIT);
    }
    policy_end(&loop_of_test);
}
END_TEST

static bool never_in(Vcpu *v, unsigned groups, GError **err)
{
    g_set_error(err, TANDEM_ERROR, ERR_STATE, "not this state");
    return false;
}

/* The privilege level is the same at each look: who is refused once would be for ever. */
START_TEST(when_rests_once_refused)
{
    Visit visit[8];
    if (!two_engines())
        return;
    Engine refuses = engine_jit;
    refuses.import_state = never_in;
    Policy *p = add(guest.v.st.cpl ? "when=cpl3,to=jit" : "when=cpl0,to=jit");
    p->to = &refuses;
    ck_assert_uint_eq(run(visit, ARRAY_LEN(visit)), 0);
    ck_assert_uint_eq(p->per[0].refused, 1);
    ck_assert(strstr(p->per[0].last_error, "not this state"));
    policy_end(&loop_of_test);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("policy");
    TCase *tc = tcase_create("policy");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, parsed_or_refused, 0, ARRAY_LEN(lines));
    tcase_add_test(tc, breakpoints_are_counted);
    tcase_add_test(tc, two_addresses);
    tcase_add_test(tc, one_address_both_ways);
    tcase_add_test(tc, in_and_out_of_a_region);
    tcase_add_test(tc, counts);
    tcase_add_test(tc, at_random);
    tcase_add_test(tc, taken_over);
    tcase_add_test(tc, one_inside_another);
    tcase_add_test(tc, when_rests_once_refused);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
