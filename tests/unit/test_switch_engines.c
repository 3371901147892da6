/*
 * The switch between the real engines, without running a guest: random states of every mode go from
 * the software engine to KVM and back, read back and compared on the way in. This host's KVM may
 * run anything or nothing; it must hold what it is given.
 */
#include "cpu/xsave.h"
#include "kvm_fixture.h"
#include "switch/switch.h"
#include "vmstate/rules.h"
#include "vmstate/state.h"
#include "run_suite.h"

static void setup(void)
{
    GError *err = NULL;
    fx_setup();
    engine_interp.vm_init(&fx.vm, &err);
    fx_fail(err);
    engine_interp.vcpu_init(&fx.v, &err);
    fx_fail(err);
    fx.v.engine = &engine_interp;
    switch_verify = true;
}

static void teardown(void)
{
    switch_verify = false;
    engine_interp.vcpu_free(&fx.v);
    engine_interp.vm_free(&fx.vm);
    fx_teardown();
}

static void complain(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    printf("%s: %s became %s\n", f->name, a, b);
}

static void to_engine(const Engine *e, uint64_t seed)
{
    GError *err = NULL;
    if (!vcpu_switch(&fx.v, e, SWITCH_TEST, &err))
        ck_abort_msg("seed %u: %s", (unsigned)seed, err->message);
}

/* A KVM without hardware behind it may lack whole modes: then it must be refused as that. */
static bool to_kvm(uint64_t seed)
{
    g_autoptr(GError) err = NULL;
    if (vcpu_switch(&fx.v, &engine_kvm, SWITCH_TEST, &err))
        return true;
    ck_assert_msg(strstr(err->message, "does not hold virtual-8086 mode") ||
                      strstr(err->message, "does not hold 32-bit paging") ||
                      strstr(err->message, "does not hold PAE paging") ||
                      /* a host with fewer features than the states are drawn from */
                      strstr(err->message, "is not offered to this guest"),
                  "seed %u: %s", (unsigned)seed, err->message);
    return false;
}

/* What the fixture's devices hold, and not the state. */
static void fit(CpuState *s)
{
    s->tsc_offset = 0;
    s->msr.tsc_deadline = fx.tsc_deadline;
    s->msr.apic_base = fx.apic_base;
    fx.tpr = (uint8_t)s->cr8;
    if (!cpuid_has(fx.v.vm->cpuid, FEAT_VME))
        s->cr4 &= ~(uint64_t)(CR4_VME | CR4_PVI);
}

START_TEST(random_states_survive_the_round_trip)
{
    static CpuState before;
    unsigned held = 0;
    for (uint64_t seed = 0; seed < 400; seed++) {
        vmstate_randomise(&before, seed);
        fit(&before);
        fx.v.st = before;
        fx.v.where = ST_CANONICAL;
        if (!to_kvm(seed)) {
            ck_assert(!memcmp(&before, &fx.v.st, sizeof(before)));
            continue;
        }
        held++;
        ck_assert(fx.v.where == ST_IN_ENGINE);
        to_engine(&engine_interp, seed);
        /* SVM has one shadow for both kinds. */
        if (before.ev.shadow_sti && fx.v.st.ev.shadow_mov_ss) {
            before.ev.shadow_sti = false;
            before.ev.shadow_mov_ss = true;
        }
        unsigned n = vmstate_diff(&before, &fx.v.st, GROUPS_ALL, complain, NULL);
        ck_assert_msg(!n, "seed %u: %u fields changed", (unsigned)seed, n);
    }
    ck_assert_uint_gt(held, 100);
}
END_TEST

/* KVM must forget translations when a software engine has run, and need not when none has: then
 * what it holds is known, and goes unasked to and fro. */
START_TEST(what_may_have_been_written)
{
    static const RunLimit one = {.max_insns = 1};
    GError *err = NULL;
    CpuState was;
    cpu_state_reset(&fx.v.st, cpuid_signature(&fx.cpuid), true);
    fit(&fx.v.st);
    fx.v.st.seg[CS].base = 0;
    fx.v.st.rip = 0x1000;
    fx.ram[0x1000] = 0x40; /* inc ax */
    fx.v.where = ST_CANONICAL;
    fx.v.wrote_unseen = true;
    to_engine(&engine_kvm, 0);
    ck_assert(!fx.v.wrote_unseen);
    switch_verify = false;
    for (unsigned i = 0; i < 6; i++) {
        was = fx.v.st;
        memset(&fx.v.st.gpr, 0, sizeof(fx.v.st.gpr));
        memset(&fx.v.st.fpu, 0, sizeof(fx.v.st.fpu));
        memset(&fx.v.st.msr, 0, sizeof(fx.v.st.msr));
        fx.v.st.msr.apic_base = was.msr.apic_base; /* what is not KVM's */
        fx.v.st.msr.amd_hwcr = was.msr.amd_hwcr;
        fx.v.st.msr.smbase = was.msr.smbase; /* everywhere */
        to_engine(&engine_interp, 0);
        ck_assert_uint_eq(vmstate_diff(&was, &fx.v.st, GROUPS_ALL, complain, NULL), 0);
        ck_assert(!fx.v.wrote_unseen);
        if (i & 1) {
            fx.v.st.rip = 0x1000;
            ck_assert_int_eq(engine_interp.run(&fx.v, &one).kind, EXIT_LIMIT);
            ck_assert(fx.v.wrote_unseen);
        }
        to_engine(&engine_kvm, 0);
        ck_assert(!fx.v.wrote_unseen);
    }
    /* What KVM holds is what it is believed to hold. */
    was = fx.v.st;
    ck_assert(engine_kvm.export_state(&fx.v, GROUPS_ALL, &err));
    ck_assert_uint_eq(vmstate_diff(&was, &fx.v.st, GROUPS_ALL, complain, NULL), 0);
    ck_assert_uint_eq((uint16_t)fx.v.st.gpr[RAX], 3);
}
END_TEST

/* Where an engine notes its stores, an instruction that makes none, and flushes nothing, leaves KVM
 * nothing to forget. */
START_TEST(what_was_not_written)
{
    static const RunLimit one = {.max_insns = 1};
    static const struct {
        uint8_t code[6];
        bool forgets;
    } row[] = {
        {{0x40}, false},                  /* inc ax */
        {{0xa1, 0x00, 0x20}, false},      /* mov ax, [2000] */
        {{0xa3, 0x00, 0x20}, true},       /* mov [2000], ax */
        {{0x83, 0x06, 0x00, 0x20}, true}, /* add word [2000], 0: what it reads it may write */
        {{0x50}, true},                   /* push ax */
        {{0x0f, 0x01, 0x3e, 0, 0}, true}, /* invlpg [0] */
        {{0x0f, 0x20, 0xd8}, false},      /* mov eax, cr3 */
        {{0x0f, 0x22, 0xd8}, true},       /* mov cr3, eax */
        {{0xcd, 0x40}, true},             /* int 40 */
        {{0xa6}, false},
        {{0xa4}, true}, /* cmpsb; movsb */
    };
    WriteLog log = {0};
    switch_verify = false;
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        CpuState *s = &fx.v.st;
        fx.v.engine = &engine_interp;
        fx.v.where = ST_CANONICAL;
        cpu_state_reset(s, cpuid_signature(&fx.cpuid), true);
        fit(s);
        s->seg[CS].base = 0;
        s->rip = 0x1000;
        s->gpr[RSP] = s->gpr[RSI] = s->gpr[RDI] = 0x3000;
        memcpy(fx.ram + 0x1000, row[i].code, sizeof(row[i].code));
        to_engine(&engine_kvm, i);
        ck_assert(!fx.v.wrote_unseen);
        fx.v.writes = &log;
        write_log_clear(&log);
        to_engine(&engine_interp, i);
        ck_assert_int_eq(engine_interp.run(&fx.v, &one).kind, EXIT_LIMIT);
        ck_assert_msg(fx.v.wrote_unseen == row[i].forgets, "row %u: %d", i, fx.v.wrote_unseen);
        /* What there was to forget before is not forgotten so. */
        fx.v.wrote_unseen = true;
        s->rip = 0x1000;
        fx.ram[0x1000] = 0x90;
        ck_assert_int_eq(engine_interp.run(&fx.v, &one).kind, EXIT_LIMIT);
        ck_assert(fx.v.wrote_unseen);
        fx.v.writes = NULL;
        fx.v.wrote_unseen = false;
        s->rip = 0x1000;
        ck_assert_int_eq(engine_interp.run(&fx.v, &one).kind, EXIT_LIMIT);
        ck_assert(fx.v.wrote_unseen);
    }
    write_log_free(&log);
}
END_TEST

static void change(CpuState *s, unsigned what)
{
    switch (what) {
    case 0:
        s->dr[1] ^= 0x1000;
        break;
    case 1:
        s->fpu.r[3].b[2] ^= 0x40;
        s->fpu.xstate_bv |= BIT(XC_X87);
        break;
    case 2:
        s->fpu.v[5].b[9] ^= 1;
        s->fpu.xstate_bv |= BIT(XC_SSE);
        break;
    case 3:
        s->msr.star ^= 1ull << 40;
        break;
    case 4:
        s->msr.kernel_gs_base ^= 0x123000;
        break;
    case 5:
        s->cr2 ^= 0x5000;
        break;
    case 6:
        s->seg[FS].base ^= 0x7000;
        break;
    case 7:
        s->ev.nmi.masked ^= true;
        break;
    case 8:
        s->gpr[R15] ^= 0x55;
        break;
    default:
        s->xcr0 ^= s->xcr0 & BIT(XC_AVX);
    }
}
enum { CHANGES = 10 };

/* Import writes only what differs from what KVM holds: each difference must be seen as one. */
START_TEST(one_difference_is_enough)
{
    unsigned done = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        static CpuState a;
        vmstate_randomise(&a, seed);
        fit(&a);
        memset(&a.ev, 0, sizeof(a.ev));
        a.run_state = RUN_RUNNING;
        if (!(a.efer & EFER_LMA))
            continue;
        fx.v.st = a;
        fx.v.where = ST_CANONICAL;
        if (!to_kvm(seed))
            continue;
        to_engine(&engine_interp, seed);
        for (unsigned k = 0; k < 2 * CHANGES; k++, done++) {
            CpuState before = fx.v.st;
            change(&fx.v.st, k % CHANGES);
            to_engine(&engine_kvm, seed); /* switch_verify reads all of it back */
            to_engine(&engine_interp, seed);
            change(&before, k % CHANGES);
            unsigned n = vmstate_diff(&before, &fx.v.st, GROUPS_ALL, complain, NULL);
            ck_assert_msg(!n, "seed %u, change %u: %u fields changed", (unsigned)seed, k, n);
        }
    }
    ck_assert_uint_gt(done, 100);
}
END_TEST

/*
 * AVX-512 state, whatever KVM says to offer: one that cannot execute the instructions may hold the
 * registers all the same. False, and said: this one does not, or the processor has none.
 */
static bool with_avx512(void)
{
    g_autoptr(GError) err = NULL;
    engine_kvm.vcpu_free(&fx.v);
    engine_kvm.vm_free(&fx.vm);
    if (!cpuid_build(&fx.cpuid, "max", NULL, 1, clock_tsc_khz(fx.clock), &err) ||
        !engine_kvm.vm_init(&fx.vm, &err))
        ck_abort_msg("%s", err->message);
    if (!engine_kvm.vcpu_init(&fx.v, &err))
        printf("KVM takes no such CPU: %s\n", err->message);
    else if (!cpuid_has(&fx.cpuid, FEAT_AVX512F))
        printf("no AVX-512 on this processor\n");
    else
        return true;
    return false;
}

/* A byte of the upper half of ZMM0-15, of ZMM16-31 and of a mask register. */
static void change_avx512(CpuState *s, unsigned what, unsigned n)
{
    uint8_t *byte = what == 0   ? &s->fpu.v[n & 15].b[32 + n]
                    : what == 1 ? &s->fpu.v[16 + (n & 15)].b[2 * n]
                                : (uint8_t *)&s->fpu.k[n & 7] + (n >> 3 & 7);
    *byte ^= (uint8_t)(1u << (n & 7));
    s->fpu.xstate_bv = fpu_xinuse(&s->fpu);
}

START_TEST(avx512_state)
{
    static CpuState before;
    if (!with_avx512())
        return;
    for (uint64_t seed = 0; seed < 200; seed++) {
        vmstate_randomise(&before, seed);
        fit(&before);
        memset(&before.ev, 0, sizeof(before.ev));
        before.run_state = RUN_RUNNING;
        if (!(before.efer & EFER_LMA))
            continue;
        before.xcr0 = 0xe7;
        for (unsigned k = 0; k < 24; k++)
            change_avx512(&before, k % 3, (unsigned)(seed + k) & 31);
        fx.v.st = before;
        fx.v.where = ST_CANONICAL;
        for (unsigned k = 0; k < 6; k++) {
            g_autoptr(GError) err = NULL;
            if (!vcpu_switch(&fx.v, &engine_kvm, SWITCH_TEST, &err)) {
                ck_assert_msg(!k && !seed && strstr(err->message, "KVM_SET_XCRS"), "%s",
                              err->message);
                printf("KVM holds no AVX-512 state: %s\n", err->message);
                return;
            }
            to_engine(&engine_interp, seed);
            unsigned n = vmstate_diff(&before, &fx.v.st, GROUPS_ALL, complain, NULL);
            ck_assert_msg(!n, "seed %u, round %u: %u fields changed", (unsigned)seed, k, n);
            change_avx512(&before, k % 3, (unsigned)(seed * 7 + k) & 31);
            change_avx512(&fx.v.st, k % 3, (unsigned)(seed * 7 + k) & 31);
        }
    }
}
END_TEST

/* KVM's own idea of a refusal: the vCPU stays, and its state is what it was. */
START_TEST(what_kvm_refuses_stays)
{
    static CpuState before;
    GError *err = NULL;
    vmstate_randomise(&before, 3);
    fit(&before);
    before.xcr0 = 3;
    before.fpu.mxcsr_mask = 0xffffffff;
    before.fpu.mxcsr = 0x80001f80; /* passes our check with that mask, not KVM's */
    fx.v.st = before;
    fx.v.where = ST_CANONICAL;
    ck_assert(!vcpu_switch(&fx.v, &engine_kvm, SWITCH_TEST, &err));
    ck_assert_ptr_eq(fx.v.engine, &engine_interp);
    ck_assert_msg(strstr(err->message, "stays in interp: import:") != NULL, "%s", err->message);
    g_error_free(err);
    ck_assert(!memcmp(&before, &fx.v.st, sizeof(before)));
}
END_TEST

int main(void)
{
    if (!fx_have_kvm())
        return 77;
    Suite *s = suite_create("switch_engines");
    TCase *c = tcase_create("switch");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, random_states_survive_the_round_trip);
    tcase_add_test(c, what_may_have_been_written);
    tcase_add_test(c, what_was_not_written);
    tcase_add_test(c, one_difference_is_enough);
    tcase_add_test(c, avx512_state);
    tcase_add_test(c, what_kvm_refuses_stays);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return run_suite(s);
}
