/*
 * Lockstep without a machine: what must agree does; what was planted is found at its instruction,
 * saved, and found again from the file alone.
 */
#include <check.h>
#include <stdio.h>

#include <glib/gstdio.h>

#include "diff/lockstep.h"
#include "fixture.h"
#include "run_suite.h"

enum { VECTOR = 0x21, HANDLER = 0x3000, LOOPS = 50 };

static Fixture *fix;
static Lockstep *ls;

/* ---- programs: the same bytes mean the same in 32- and 64-bit code ---- */

static const uint8_t work[] = {
    0xb9, LOOPS, 0x00, 0x00, 0x00, /* mov ecx, LOOPS */
    0xbf, 0x00, 0x80, 0x00, 0x00,  /* mov edi, 0x8000 */
    0x31, 0xc0,                    /* xor eax, eax */
    /* loop: */
    0x01, 0xc8,                   /* add eax, ecx */
    0xc1, 0xc0, 0x05,             /* rol eax, 5 */
    0x89, 0x07,                   /* mov [edi], eax */
    0x83, 0xc7, 0x04,             /* add edi, 4 */
    0xe5, 0xe8,                   /* in eax, 0xe8 */
    0x03, 0x47, 0xfc,             /* add eax, [edi-4] */
    0xe6, 0xe9,                   /* out 0xe9, al */
    0x83, 0xe9, 0x01,             /* sub ecx, 1 */
    0x75, 0xea,                   /* jnz loop */
    0x0f, 0x31,                   /* rdtsc */
    0x89, 0x07,                   /* mov [edi], eax */
    0xbb, 0x01, 0x00, 0x00, 0x00, /* mov ebx, 1 */
    0xb9, 0x64, 0x00, 0x00, 0x00, /* mov ecx, 100 */
    0xf3, 0xaa,                   /* rep stosb */
    0x83, 0xc3, 0x02,             /* add ebx, 2 */
    0xf4,                         /* hlt */
};
enum { LOOP_AT = 12, AFTER_LOOP = 34, ADD_EBX = 34 + 16, INSNS = 3 + LOOPS * 9 + 7 };

/* ---- a Lockstep over the fixture ---- */

static void fail_on(GError *err)
{
    if (err)
        ck_abort_msg("%s", err->message);
}

static void start(FixMode mode, const Engine *leader, const Engine *follower, uint64_t every)
{
    GError *err = NULL;
    LsOptions opt = {.every = every};
    fixture_load(fix, mode, work, sizeof(work), leader->is_software ? &engine_interp : leader);
    ls = aligned_alloc(64, (sizeof(*ls) + 63) / 64 * 64);
    memset(ls, 0, sizeof(*ls));
    ls->side[LEADER] = (LsSide){.v = fix->v, .vm = &fix->vm, .engine = leader};
    ls->side[FOLLOWER] = (LsSide){.engine = follower};
    ls->real = &fix_bus;
    ls->recording = true;
    ls_init(ls, &opt, &err);
    fail_on(err);
    fix->vm.bus = &ls_bus;
    fix->vm.tap = ls->tap;
    if (leader->is_software)
        leader->enter(fix->v); /* stores are noted from here on */
    ls_sync(ls, &err);
    fail_on(err);
}

static void stop(void)
{
    fix->vm.bus = &fix_bus;
    fix->vm.tap = NULL;
    ls_clear(ls);
    free(ls);
    ls = NULL;
}

static enum LsResult step(enum LsStepKind kind, uint8_t vector)
{
    ls_begin_step(ls, kind, vector);
    return ls_step(ls, kind, vector);
}

static enum LsResult go(unsigned most)
{
    enum LsResult r = LS_OK;
    while (r == LS_OK && most--)
        r = step(LSS_RUN, 0);
    return r;
}

static void setup(void)
{
    fix = fixture_new(true);
}

static void teardown(void)
{
    fixture_free(fix);
}

static void must(enum LsResult r, enum LsResult want)
{
    g_autoptr(GString) text = g_string_new(NULL);
    if (r == want)
        return;
    ls_report(ls, text);
    ck_abort_msg("result %d instead of %d: %s\n%s", r, want, ls->why, text->str);
}

/* ---- what is planted ---- */

static uint64_t flip_at; /* RIP behind the instruction whose result is changed */
static enum {
    FLIP_RBX,
    FLIP_OF,
    FLIP_CF,
    FLIP_STORED, /* by the instruction itself */
    FLIP_STRAY
} flip;

static Exit faulty_run(Vcpu *v, const RunLimit *limit)
{
    /* One by one, so that the place is met. */
    RunLimit one = *limit;
    uint64_t left = limit->max_insns ? limit->max_insns : 1;
    Exit e = {.kind = EXIT_LIMIT};
    one.max_insns = 1;
    while (left && e.kind == EXIT_LIMIT && !e.delivered) {
        uint64_t before = v->insns;
        e = engine_interp.run(v, &one);
        left -= MIN_OF(v->insns - before, left);
        if (v->insns == before)
            break; /* one iteration of a REP */
        if (v->st.rip != flip_at)
            continue;
        if (flip == FLIP_RBX)
            v->st.gpr[RBX] ^= 0x10;
        else if (flip == FLIP_OF || flip == FLIP_CF)
            v->st.rflags ^= flip == FLIP_OF ? FL_OF : FL_CF;
        else
            *memmap_host(v->vm->mem, flip == FLIP_STRAY ? 0x9123 : v->st.gpr[RDI] + 1, 1, false) ^=
                4;
    }
    return e;
}

static Engine faulty(void)
{
    Engine e = engine_interp;
    e.name = "faulty";
    e.run = faulty_run;
    return e;
}

static char *temp_file(void)
{
    char *path = NULL;
    close(g_file_open_tmp("lockstep-XXXXXX", &path, NULL));
    return path;
}

/* ---- agreement ---- */

static const uint64_t everies[] = {0, 1, 7, 1000};

START_TEST(software_agrees)
{
    start(_i & 1 ? FIX_LONG : FIX_PROT32, &engine_interp, _i & 2 ? &engine_jit : &engine_interp,
          everies[_i / 4]);
    must(go(100000), LS_HALTED);
    ck_assert_uint_eq(ls->insns, INSNS);
    ck_assert_uint_eq(fix->n_out, LOOPS); /* the machine saw each access once */
    ls_compare_all(ls);
    ck_assert(!ls->diverged);
    stop();
}
END_TEST

static void gate(bool l)
{
    uint8_t *g = fix_ram(fix) + FIX_IDT + VECTOR * (l ? 16 : 8);
    static const uint8_t handler[] = {0x40, 0xff, 0xc2}; /* rex, or inc eax; inc edx */
    static const uint8_t entry[8] = {HANDLER & 0xff, HANDLER >> 8, 8, 0, 0, 0x8e, 0, 0};
    memcpy(g, entry, sizeof(entry));
    memcpy(fix_ram(fix) + HANDLER, handler, sizeof(handler));
}

/* Both are given the vector at the same place; each goes through its own gate. */
static void interrupt_agrees(const Engine *a, const Engine *b, FixMode mode)
{
    GError *err = NULL;
    start(mode, a, b, 1);
    gate(mode == FIX_LONG);
    ls_sync(ls, &err);
    fail_on(err);
    must(go(20), LS_OK);
    must(step(LSS_INTR, VECTOR), LS_OK);
    ck_assert_uint_eq(ls_state(ls)->rip, HANDLER);
    must(go(1), LS_OK);
    ck_assert_uint_eq(ls->events, 1);
    stop();
}

START_TEST(interrupt_in_both)
{
    interrupt_agrees(&engine_interp, &engine_interp, _i ? FIX_LONG : FIX_PROT32);
}
END_TEST

/* What a device writes into memory is in the follower's too, and taken back for a state file. */
START_TEST(dma_reaches_the_follower)
{
    start(FIX_LONG, &engine_interp, &engine_interp, 1);
    must(go(5), LS_OK);
    memcpy(fix_ram(fix) + 0xa000, "device", 6);
    ls_on_dma(ls, 0xa000, 6);
    ls_begin_step(ls, LSS_RUN, 0);
    ls_apply_pending_dma(ls);
    must(ls_step(ls, LSS_RUN, 0), LS_OK);
    ck_assert_int_eq(memcmp(ls_host(&ls->side[FOLLOWER], 0xa000, 6), "device", 6), 0);
    ls_compare_all(ls);
    ck_assert(!ls->diverged);
    stop();
}
END_TEST

/* ---- divergence ---- */

/* A register flipped in the follower: found at that instruction, saved, found again. */
START_TEST(planted_flip)
{
    Engine bad = faulty();
    g_autofree char *path = temp_file();
    g_autoptr(GString) text = g_string_new(NULL);
    GError *err = NULL;
    flip_at = PROGRAM + ADD_EBX + 3;
    flip = FLIP_RBX;
    start(FIX_LONG, &engine_interp, &bad, everies[_i]);
    must(go(100000), LS_DIVERGED);
    if (everies[_i] == 1)
        ck_assert_uint_eq(ls->insns, INSNS - 1);
    ck_assert_uint_eq(ls->n_differences, 1);
    ck_assert_ptr_nonnull(strstr(ls->differences->str, "RBX"));
    ls_report(ls, text);
    ck_assert_ptr_nonnull(strstr(text->str, "add ebx, 2"));
    ls_save(ls, path, text->str, &err);
    fail_on(err);
    if (everies[_i] != 1) { /* the step is a block, or more: which instruction? */
        g_autoptr(GString) narrow = g_string_new(NULL);
        ls_narrow(ls, narrow);
        ck_assert_msg(strstr(narrow->str, "at RIP 0x1032\n"), "%s", narrow->str);
    }
    stop();

    g_autoptr(GString) report = g_string_new(NULL);
    Lockstep *again = ls_load(path, &engine_interp, &bad, report, &err);
    fail_on(err);
    ck_assert_str_eq(report->str, text->str);
    ck_assert_int_eq(ls_replay(again, 0, false), LS_DIVERGED);
    ck_assert_uint_eq(again->n_differences, 1);
    ck_assert_ptr_nonnull(strstr(again->differences->str, "RBX"));
    ls_free_loaded(again);
    /* And it is the engine's fault, not the file's. */
    again = ls_load(path, &engine_interp, &engine_interp, NULL, &err);
    fail_on(err);
    ck_assert_int_ne(ls_replay(again, 0, true), LS_DIVERGED);
    ls_free_loaded(again);
    g_unlink(path);
}
END_TEST

/* A byte changed behind the engine's back: only comparing all of memory shows it. */
START_TEST(stray_write)
{
    Engine bad = faulty();
    g_autofree char *path = temp_file();
    GError *err = NULL;
    flip_at = PROGRAM + AFTER_LOOP + 2;
    flip = FLIP_STRAY;
    start(FIX_LONG, &engine_interp, &bad, 1);
    ls->opt.full_every = 3;
    must(go(100000), LS_DIVERGED);
    ck_assert(ls->by_full);
    ck_assert_ptr_nonnull(strstr(ls->differences->str, "[0x9123]"));
    ls_save(ls, path, "found late", &err);
    fail_on(err);
    stop();
    /* From the file everything is compared after each step: that finds the one. */
    Lockstep *again = ls_load(path, &engine_interp, &bad, NULL, &err);
    fail_on(err);
    ck_assert(again->by_full);
    again->by_full = false;
    ck_assert_int_eq(ls_replay(again, 0, true), LS_DIVERGED);
    ck_assert_uint_eq(again->before.rip, PROGRAM + AFTER_LOOP);
    ls_free_loaded(again);
    g_unlink(path);
}
END_TEST

/* ROL by 5 leaves OF undefined, and CF not: software engines have to agree in both. */
START_TEST(flags_of_a_rotate)
{
    Engine bad = faulty();
    flip_at = PROGRAM + LOOP_AT + 5;
    flip = _i ? FLIP_CF : FLIP_OF;
    start(FIX_LONG, &engine_interp, &bad, 1);
    must(go(100000), LS_DIVERGED);
    ck_assert_uint_eq(ls->before.rip, PROGRAM + LOOP_AT + 2);
    stop();
}
END_TEST

/* What an instruction stored is wrong: found at that instruction. */
START_TEST(wrong_store)
{
    Engine bad = faulty();
    flip_at = PROGRAM + AFTER_LOOP + 4; /* mov [edi], eax */
    flip = FLIP_STORED;
    start(FIX_LONG, _i ? &bad : &engine_interp, _i ? &engine_interp : &bad, 1);
    must(go(100000), LS_DIVERGED);
    ck_assert(!ls->by_full);
    ck_assert_uint_eq(ls->before.rip, PROGRAM + AFTER_LOOP + 2);
    ck_assert_uint_eq(ls->n_differences, 1);
    stop();
}
END_TEST

static uint32_t lying_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    uint32_t value = ls_bus.pio_read(v, port, size);
    return v->insns > 100 ? value ^ 1 : value;
}

static void other_pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    ls_bus.pio_write(v, v->insns > 100 ? 0xea : port, size, value);
}

/* The follower's bus lies: _i 0, in what is read; 1, in where a write goes. */
START_TEST(lying_bus)
{
    VcpuBus liar = ls_bus;
    start(FIX_LONG, &engine_interp, &engine_interp, 1);
    if (_i)
        liar.pio_write = other_pio_write;
    else
        liar.pio_read = lying_pio_read;
    ls->twin[FOLLOWER]->vm.bus = &liar;
    must(go(100000), LS_DIVERGED);
    if (_i) {
        ck_assert_msg(strstr(ls->why, "0xea") && strstr(ls->why, "0xe9"), "%s", ls->why);
    } else {
        ck_assert_ptr_nonnull(strstr(ls->differences->str, "RAX"));
        ck_assert_uint_eq(*(fix_ram(fix) + ls->before.rip), 0xe5); /* the IN itself */
    }
    ls->twin[FOLLOWER]->vm.bus = &ls_bus;
    stop();
}
END_TEST

/* ---- the file ---- */

static char *saved(char **path, gsize *len)
{
    Engine bad = faulty();
    char *text;
    GError *err = NULL;
    *path = temp_file();
    flip_at = PROGRAM + ADD_EBX + 3;
    flip = FLIP_RBX;
    start(FIX_LONG, &engine_interp, &bad, 1);
    must(go(100000), LS_DIVERGED);
    ls_save(ls, *path, "a report\nof two lines", &err);
    fail_on(err);
    stop();
    g_file_get_contents(*path, &text, len, &err);
    fail_on(err);
    return text;
}

static bool loads(const char *path, const char *data, gsize len)
{
    g_autoptr(GError) err = NULL;
    ck_assert(g_file_set_contents(path, data, (gssize)len, NULL));
    Lockstep *l = ls_load(path, NULL, &engine_interp, NULL, &err);
    ck_assert(l || (err && err->message[0]));
    ls_free_loaded(l);
    return l;
}

START_TEST(damaged_files_are_refused)
{
    g_autofree char *path = NULL;
    gsize len;
    g_autofree char *good = saved(&path, &len);
    ck_assert(loads(path, good, len));
    const char *ram = strstr(good, "\nsha256 ");
    gsize head = (gsize)(strchr(ram + 1, '\n') + 1 - good);
    for (gsize cut = 0; cut < len; cut += cut < head ? 97 : 531)
        ck_assert_msg(!loads(path, good, cut), "cut to %zu of %zu bytes", cut, len);
    for (gsize at = 0; at < len; at += at < head ? 61 : 499) {
        g_autofree char *bad = g_memdup2(good, len);
        bad[at] ^= 0x11;
        /* In a run of zeros another distance gives the same bytes: zlib's checksum vouches. */
        ck_assert_msg(!loads(path, bad, len) || at >= head, "byte %zu of %zu changed", at, len);
    }
    g_unlink(path);
}
END_TEST

/* With a checksum that is right: each value is looked at. */
START_TEST(wrong_values_are_refused)
{
    static const struct {
        const char *line, *instead;
    } bad[] = {
        {"\nslot 0 ", "\nslot 0x10 "},
        {"\nslot 0 ", "\nslot 0xfffffffffffff000 "},
        {"\nslot 0 ", "\nslot 0 0x1000 0\nslot 0 "},
        {"\nslot 0 0x1000000", "\nslot 0 0x1000"},
        {"\nslot 0 0x1000000", "\nslot 0 0xffff000000000000"},
        {"\nengines interp", "\nengines inter"},
        {"\nengines interp", "\nengines aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
        {"\nevery 1\n", "\nevery -1\n"},
        {"\nevery 1\n", "\nevery 99999999999999999999\n"},
        {"\ntpr 0\n", "\ntpr 16\n"},
        {"\nfull 0\n", "\nfull 2\n"},
        {"\nstate RAX ", "\nstate RAZ "},
        {"\nevent step 0", "\nevent step 9"},
        {"\nevent step 0", "\nevent stop 0"},
        {"\nevent step 0", "\nevent dma 0"},
        {"\nevent step 0 0 0 0 0 ", "\nevent step 0 0 0 0 0x100 "},
        {"\npages ", "\npages 1"},
        {"\npages ", "\nsages "},
        {"\ncpuid ", "\ncpuid 1 "},
    };
    g_autofree char *path = NULL;
    gsize len;
    g_autofree char *good = saved(&path, &len);
    const char *sha = strstr(good, "\nsha256 ") + 1, *ram = strchr(sha, '\n') + 1;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        const char *at = strstr(good, bad[i].line);
        ck_assert_msg(at && at < sha, "no line '%s' to change", bad[i].line + 1);
        g_autoptr(GString) t = g_string_new_len(good, at - good);
        g_string_append(t, bad[i].instead);
        at += strlen(bad[i].line);
        g_string_append_len(t, at, sha - at);
        g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, t->str, -1);
        g_string_append_printf(t, "sha256 %s\n", sum);
        g_string_append_len(t, ram, (gssize)(len - (gsize)(ram - good)));
        ck_assert_msg(!loads(path, t->str, t->len), "'%s' was taken", bad[i].instead + 1);
    }
    g_unlink(path);
}
END_TEST

/* ---- with KVM ---- */

static bool have_kvm(void)
{
    if (fix->have[ENGINE_KVM])
        return true;
    printf("skipped: no usable KVM here\n");
    return false;
}

START_TEST(kvm_agrees)
{
    const Engine *a = _i & 1 ? &engine_kvm : &engine_interp;
    const Engine *b = _i & 1 ? &engine_interp : &engine_kvm;
    if (!have_kvm())
        return;
    start(_i & 2 ? FIX_LONG : FIX_PROT32, a, b, 1);
    must(go(100000), LS_HALTED);
    ck_assert_uint_eq(ls->insns, INSNS);
    ck_assert_uint_eq(fix->n_out, LOOPS);
    ck_assert_uint_eq(ls->alone, 0);
    ck_assert_uint_eq(ls->rule_uses[LSR_TSC], 1);
    ls_compare_all(ls);
    ck_assert(!ls->diverged);
    stop();
}
END_TEST

START_TEST(kvm_takes_interrupts)
{
    if (!have_kvm())
        return;
    interrupt_agrees(_i & 1 ? &engine_kvm : &engine_interp, _i & 1 ? &engine_interp : &engine_kvm,
                     _i & 2 ? FIX_LONG : FIX_PROT32);
}
END_TEST

/* The software side's fault is found whoever leads. */
START_TEST(kvm_finds_the_flip)
{
    Engine bad = faulty();
    g_autofree char *path = temp_file();
    GError *err = NULL;
    if (!have_kvm())
        return;
    flip_at = PROGRAM + ADD_EBX + 3;
    flip = FLIP_RBX;
    start(FIX_LONG, _i ? &engine_kvm : &bad, _i ? &bad : &engine_kvm, 1);
    must(go(100000), LS_DIVERGED);
    ck_assert_uint_eq(ls->insns, INSNS - 1);
    ck_assert_ptr_nonnull(strstr(ls->differences->str, "RBX"));
    ls_save(ls, path, "flip", &err);
    fail_on(err);
    stop();
    Lockstep *again = ls_load(path, _i ? &engine_kvm : &bad, _i ? &bad : &engine_kvm, NULL, &err);
    fail_on(err);
    ck_assert_int_eq(ls_replay(again, 0, false), LS_DIVERGED);
    ck_assert_ptr_nonnull(strstr(again->differences->str, "RBX"));
    ls_free_loaded(again);
    g_unlink(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lockstep");
    TCase *tc = tcase_create("steps");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, software_agrees, 0, 16);
    tcase_add_loop_test(tc, interrupt_in_both, 0, 2);
    tcase_add_test(tc, dma_reaches_the_follower);
    tcase_add_loop_test(tc, planted_flip, 0, 4);
    tcase_add_test(tc, stray_write);
    tcase_add_loop_test(tc, wrong_store, 0, 2);
    tcase_add_loop_test(tc, flags_of_a_rotate, 0, 2);
    tcase_add_loop_test(tc, lying_bus, 0, 2);
    tcase_add_test(tc, damaged_files_are_refused);
    tcase_add_test(tc, wrong_values_are_refused);
    tcase_add_loop_test(tc, kvm_agrees, 0, 4);
    tcase_add_loop_test(tc, kvm_takes_interrupts, 0, 4);
    tcase_add_loop_test(tc, kvm_finds_the_flip, 0, 2);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
