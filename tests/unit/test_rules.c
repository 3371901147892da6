/*
 * The discrepancy rules: each brings its foreign state home, says what it changed, and is missed
 * when it is off.
 */
#include <check.h>
#include <string.h>

#include "vmstate/checks.h"
#include "vmstate/rules.h"
#include "vmstate/state.h"
#include "run_suite.h"

static const uint32_t code32 = 0xc09b, data32 = 0xc093;

/* 32-bit protected mode at CPL 0, good for either engine. */
static void protected_state(CpuState *s)
{
    memset(s, 0, sizeof(*s));
    cpu_state_reset(s, 0, true);
    s->cr0 = CR0_ET | CR0_PE;
    s->rflags = FL_FIXED | FL_IF;
    s->fpu.fcw = 0x37f;
    s->fpu.ftw = 0;
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = (Segment){.limit = ~0u, .attr = i == CS ? code32 : data32, .selector = 16};
    s->rip = 0x1000;
}

static void long_state(CpuState *s)
{
    protected_state(s);
    s->cr0 |= CR0_PG;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->seg[CS].attr = 0xa09b;
}

/* What each engine, left to itself, hands over. `good` says whether that is settled. */
typedef struct Row {
    const char *rule;
    enum RuleDirection dir;
    bool is_long;
    void (*foreign)(CpuState *);
    bool (*good)(const CpuState *);
    const char
        *check; /* the VM-entry check that fails without the rule; NULL: only `good` shows it */
} Row;

#define FOREIGN(id, code, want)              \
    static void set_##id(CpuState *s)        \
    {                                        \
        code;                                \
    }                                        \
    static bool good_##id(const CpuState *s) \
    {                                        \
        return want;                         \
    }

static void vm86_segments(CpuState *s)
{
    const Segment g = {.selector = 0x100, .base = 0x1000, .limit = 0xffff, .attr = 0x93};
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = g;
}

/* clang-format off */
FOREIGN(nw, s->cr0 = CR0_PE | CR0_NW, s->cr0 == (CR0_PE | CR0_ET))
FOREIGN(cr3_noflush, s->cr3 = BIT(63) | 0x5000, s->cr3 == 0x5000)
FOREIGN(lma_stale, s->efer = EFER_LME | EFER_LMA, s->efer == EFER_LME)
FOREIGN(lma_unset, s->efer = EFER_LME, s->efer == (EFER_LME | EFER_LMA))
FOREIGN(pdpte, s->pdpte[3] = 0x1001, !s->pdpte[3])
FOREIGN(rflags, s->rflags = FL_IF | BIT(15) | BIT(40), s->rflags == (FL_FIXED | FL_IF))
FOREIGN(rip, s->rip = 0x100000ff0, s->rip == 0xff0)
FOREIGN(null_amd, s->seg[ES].attr = 0, s->seg[ES].attr == SEG_UNUSABLE)
FOREIGN(null_stale, s->seg[FS].attr = SEG_UNUSABLE | 0xc093; s->seg[FS].base = 0xffff800000000000ull,
        s->seg[FS].attr == SEG_UNUSABLE && s->seg[FS].base == 0xffff800000000000ull)
FOREIGN(cs_unusable, s->seg[CS].attr |= SEG_UNUSABLE, !(s->seg[CS].attr & SEG_UNUSABLE))
FOREIGN(ldt_null, s->seg[LDTR].attr = 0, s->seg[LDTR].attr == SEG_UNUSABLE)
FOREIGN(limit_no_g, s->seg[DS].attr = 0x4093, s->seg[DS].attr == data32)
FOREIGN(tr_limit_g, s->seg[TR].attr = 0x808b; s->seg[TR].limit = 0x67, s->seg[TR].attr == 0x8b)
FOREIGN(attr_junk, s->seg[SS].attr |= 0x500, s->seg[SS].attr == data32)
FOREIGN(small_g, s->seg[DS].attr = 0xc093; s->seg[DS].limit = 0xffff, s->seg[DS].attr == 0x4093)
FOREIGN(cs_l, s->seg[CS].attr = 0xe09b, s->seg[CS].attr == code32)
FOREIGN(smm_nmi, s->ev.smi.inside_nmi = s->ev.smi.latched_init = true, !s->ev.smi.inside_nmi && !s->ev.smi.latched_init)
FOREIGN(cpl_wide, s->cpl = 0x23; s->seg[CS].attr |= SEG_DPL, s->cpl == 3 && (s->seg[SS].attr & SEG_DPL) == SEG_DPL)
FOREIGN(cs, s->seg[CS].attr &= ~1u, s->seg[CS].attr == code32)
FOREIGN(ds, s->seg[DS].attr &= ~1u; s->seg[SS].attr &= ~1u, s->seg[DS].attr == data32 && s->seg[SS].attr == data32)
FOREIGN(tr, s->seg[TR].attr = 0x89, s->seg[TR].attr == 0x8b)
FOREIGN(tr16, s->seg[TR].attr = 0x81, s->seg[TR].attr == 0x83)
FOREIGN(cpl_soft, s->cpl = 3; s->seg[CS].attr |= SEG_DPL, (s->seg[SS].attr & SEG_DPL) == SEG_DPL)
FOREIGN(cpl_kvm, s->seg[CS].attr |= SEG_DPL; s->seg[SS].attr |= SEG_DPL, s->cpl == 3)
FOREIGN(real_dpl, s->cr0 = CR0_ET; s->seg[CS].attr |= SEG_DPL; s->seg[SS].attr |= SEG_DPL; s->cpl = 3,
        !s->cpl && !(s->seg[SS].attr & SEG_DPL) && !(s->seg[CS].attr & SEG_DPL))
FOREIGN(vm86_dpl, s->rflags |= FL_VM; vm86_segments(s),
        s->cpl == 3 && s->seg[CS].attr == 0xf3 && s->seg[GS].attr == 0xf3)
FOREIGN(dr6, s->dr6 = BIT(32) | 0x4001, s->dr6 == (DR6_FIXED1 | 0x4001))
FOREIGN(dr7, s->dr7 = BIT(35) | 0x3, s->dr7 == (DR7_FIXED1 | 3))
FOREIGN(fsw, s->fpu.fsw = 0x0001; s->fpu.fcw = 0x37e, s->fpu.fsw == 0x8081)
FOREIGN(fsw_clear, s->fpu.fsw = 0x8080, s->fpu.fsw == 0)
FOREIGN(fcw, s->fpu.fcw = 0xff3f; s->fpu.fop = 0xffff, s->fpu.fcw == 0x1f7f && s->fpu.fop == 0x7ff)
FOREIGN(mxcsr, s->fpu.mxcsr_mask = 0; s->fpu.mxcsr = 0x1fc0, s->fpu.mxcsr_mask == 0xffbf && s->fpu.mxcsr == 0x1f80)
FOREIGN(bv_x87, s->fpu.r[2].mant = 1, s->fpu.xstate_bv == 1)
FOREIGN(bv_unused, s->fpu.xstate_bv = 6, !s->fpu.xstate_bv)
FOREIGN(bv_sse, s->fpu.xstate_bv = 0; s->fpu.v[15].b[15] = 1, s->fpu.xstate_bv == 2)
FOREIGN(bv_avx512, s->fpu.v[3].b[20] = 1; s->fpu.v[3].b[63] = 1; s->fpu.v[31].b[0] = 1; s->fpu.k[7] = 1,
        s->fpu.xstate_bv == 0xe4)
FOREIGN(sysenter, s->msr.sysenter_esp = 0x0000c00000000000ull, s->msr.sysenter_esp == 0xffffc00000000000ull)
FOREIGN(tsc, s->tsc_offset = 5, !s->tsc_offset)
FOREIGN(kvmclock, s->msr.kvm_system_time = 0x3001, !s->msr.kvm_system_time)
FOREIGN(wall, s->msr.kvm_wall_clock = 0x3100, !s->msr.kvm_wall_clock)
FOREIGN(steal, s->msr.kvm_steal_time = 0x3201, !s->msr.kvm_steal_time)
FOREIGN(pv_eoi, s->msr.kvm_pv_eoi = 0x3301, !s->msr.kvm_pv_eoi)
FOREIGN(poll, s->msr.kvm_poll_control = 0, s->msr.kvm_poll_control == 1)
FOREIGN(tsc_adjust, s->msr.tsc_adjust = 5, !s->msr.tsc_adjust)
FOREIGN(minus_one, s->ev.interrupt.nr = 0xff; s->ev.exception.nr = 0xff; s->ev.exception.error = 7,
        !s->ev.interrupt.nr && !s->ev.exception.nr && !s->ev.exception.error)
FOREIGN(soft_int, s->ev.interrupt.injected = s->ev.interrupt.soft = true; s->ev.interrupt.nr = 0x80,
        !s->ev.interrupt.injected && !s->ev.interrupt.nr && !s->ev.interrupt.soft)
FOREIGN(soft_bp, s->ev.exception.injected = true; s->ev.exception.nr = VEC_BP,
        !s->ev.exception.injected && !s->ev.exception.pending)
FOREIGN(twice, s->ev.exception.injected = s->ev.exception.pending = true; s->ev.exception.nr = VEC_UD,
        s->ev.exception.pending && !s->ev.exception.injected && s->ev.exception.nr == VEC_UD)
FOREIGN(real_error, s->cr0 = CR0_ET; s->ev.exception.pending = s->ev.exception.has_error = true;
        s->ev.exception.nr = VEC_GP; s->ev.exception.error = 8, !s->ev.exception.has_error && !s->ev.exception.error)
FOREIGN(payload_pf, s->ev.exception.pending = s->ev.exception.has_error = s->ev.exception.has_payload = true;
        s->ev.exception.nr = VEC_PF; s->ev.exception.error = 2; s->ev.exception.payload = 0xdeadb000,
        s->cr2 == 0xdeadb000 && !s->ev.exception.has_payload && s->ev.exception.pending && s->ev.exception.error == 2)
FOREIGN(payload_db, s->ev.exception.pending = s->ev.exception.has_payload = true;
        s->ev.exception.nr = VEC_DB; s->ev.exception.payload = 0x4002; s->dr6 = DR6_FIXED1 | 1,
        s->dr6 == (DR6_FIXED1 | 0x4002) && s->ev.exception.pending)
FOREIGN(injected_gp, s->ev.exception.injected = s->ev.exception.has_error = true; s->ev.exception.nr = VEC_GP;
        s->ev.exception.error = 0x18,
        s->ev.exception.pending && !s->ev.exception.injected && s->ev.exception.error == 0x18)
FOREIGN(injected_nmi, s->ev.nmi.injected = s->ev.nmi.masked = true,
        s->ev.nmi.pending && !s->ev.nmi.injected && !s->ev.nmi.masked)
FOREIGN(svm_shadow, s->ev.shadow_sti = s->ev.shadow_mov_ss = true, !s->ev.shadow_sti && s->ev.shadow_mov_ss)
FOREIGN(sti_cli, s->ev.shadow_sti = true; s->rflags = FL_FIXED, !s->ev.shadow_sti)
FOREIGN(halt_shadow, s->run_state = RUN_HALTED; s->ev.shadow_sti = true, !s->ev.shadow_sti && s->run_state == RUN_HALTED)
FOREIGN(halt_event, s->run_state = RUN_HALTED; s->ev.exception.injected = true; s->ev.exception.nr = VEC_UD,
        s->run_state == RUN_RUNNING)
FOREIGN(halt_pending, s->run_state = RUN_HALTED; s->ev.interrupt.injected = true; s->ev.interrupt.nr = 32,
        s->run_state == RUN_RUNNING)
FOREIGN(halt_nmi, s->run_state = RUN_HALTED; s->ev.nmi.pending = true, s->run_state == RUN_RUNNING)
FOREIGN(halt_mwait, s->run_state = RUN_MWAIT; s->ev.nmi.pending = true, s->run_state == RUN_RUNNING)
FOREIGN(mwait, s->run_state = RUN_MWAIT, s->run_state == RUN_RUNNING)
FOREIGN(init_received, s->run_state = RUN_INIT_RECEIVED, s->run_state == RUN_WAIT_SIPI)

#define R(rule, dir, lng, id, check) {rule, dir, lng, set_##id, good_##id, check}
static const Row rows[] = {
    R("cr-fixed", RULE_BOTH, false, nw, "cr0-nw-cd"), R("cr-fixed", RULE_BOTH, true, cr3_noflush, "cr3-reserved"),
    R("efer-lma", RULE_BOTH, false, lma_stale, "efer-lma"), R("efer-lma", RULE_BOTH, true, lma_unset, "efer-lma"),
    R("pdpte-stale", RULE_BOTH, true, pdpte, NULL),
    R("rf-tf", RULE_BOTH, false, rflags, "rflags-reserved"),
    R("pc-sync", RULE_BOTH, false, rip, "rip-upper"),
    R("seg-unusable", RULE_BOTH, false, null_amd, "seg-present"), R("seg-unusable", RULE_BOTH, true, null_stale, NULL),
    R("seg-unusable", RULE_BOTH, false, ldt_null, "ldtr-rights"),
    R("seg-unusable", RULE_BOTH, true, cs_unusable, "cs-present"),
    R("seg-attr", RULE_BOTH, false, limit_no_g, "seg-granularity"),
    R("seg-attr", RULE_BOTH, false, tr_limit_g, "seg-granularity"),
    R("seg-attr", RULE_BOTH, false, attr_junk, "seg-reserved"),
    R("seg-attr", RULE_BOTH, false, small_g, NULL),
    R("cs-l", RULE_TO_KVM, false, cs_l, NULL), R("smi", RULE_BOTH, false, smm_nmi, NULL),
    R("cpl-dpl", RULE_TO_KVM, false, cpl_wide, "cpl"),
    R("cs-accessed", RULE_BOTH, false, cs, "cs-type"), R("seg-accessed", RULE_BOTH, false, ds, "ss-type"),
    R("tr-busy", RULE_BOTH, true, tr, "tr-type"), R("tr-busy", RULE_BOTH, false, tr16, "tr-type"),
    R("cpl-dpl", RULE_TO_KVM, false, cpl_soft, "cpl"), R("cpl-dpl", RULE_TO_SOFT, false, cpl_kvm, "cpl"),
    R("cpl-dpl", RULE_BOTH, false, real_dpl, "ss-dpl"), R("cpl-dpl", RULE_BOTH, false, vm86_dpl, "vm86-rights"),
    R("debug-regs", RULE_BOTH, false, dr6, "dr6-upper"), R("debug-regs", RULE_BOTH, false, dr7, "dr7-upper"),
    R("fpu-tags", RULE_BOTH, false, fsw, NULL), R("fpu-tags", RULE_BOTH, false, fsw_clear, NULL),
    R("fpu-tags", RULE_BOTH, false, fcw, NULL),
    R("mxcsr", RULE_BOTH, false, mxcsr, "mxcsr-reserved"),
    R("xsave-format", RULE_BOTH, false, bv_x87, NULL), R("xsave-format", RULE_BOTH, false, bv_unused, NULL), R("xsave-format", RULE_BOTH, false, bv_sse, NULL),
    R("xsave-format", RULE_BOTH, true, bv_avx512, NULL),
    R("msr-set", RULE_TO_KVM, true, sysenter, "sysenter-canonical"),
    R("tsc", RULE_BOTH, false, tsc, NULL), R("tsc-adjust", RULE_BOTH, false, tsc_adjust, NULL),
    R("kvmclock", RULE_BOTH, false, kvmclock, NULL), R("wall-clock", RULE_BOTH, false, wall, NULL),
    R("steal-time", RULE_BOTH, false, steal, NULL), R("pv-eoi", RULE_BOTH, false, pv_eoi, NULL),
    R("poll-control", RULE_BOTH, false, poll, NULL),
    R("pending-events", RULE_BOTH, false, minus_one, NULL), R("pending-events", RULE_BOTH, false, soft_int, NULL),
    R("pending-events", RULE_BOTH, false, soft_bp, NULL), R("pending-events", RULE_TO_KVM, false, twice, "event-single"),
    R("pending-events", RULE_BOTH, false, real_error, "event-error-code"),
    R("events-to-soft", RULE_TO_SOFT, false, payload_pf, NULL),
    R("events-to-soft", RULE_TO_SOFT, false, payload_db, NULL),
    R("events-to-soft", RULE_TO_SOFT, false, injected_gp, NULL),
    R("events-to-soft", RULE_TO_SOFT, false, injected_nmi, NULL),
    R("int-shadow", RULE_BOTH, false, svm_shadow, "shadow-both"), R("int-shadow", RULE_BOTH, false, sti_cli, "shadow-if"),
    R("halt-state", RULE_BOTH, false, halt_shadow, "activity-shadow"),
    R("halt-state", RULE_TO_KVM, false, halt_event, "activity-event"),
    R("halt-state", RULE_BOTH, false, halt_pending, NULL),
    R("halt-state", RULE_BOTH, false, halt_nmi, NULL),
    R("halt-state", RULE_BOTH, false, init_received, "activity"),
    R("halt-state", RULE_TO_SOFT, false, halt_mwait, NULL),
    R("mwait", RULE_TO_KVM, false, mwait, "activity"),
};
/* clang-format on */

/* A table with no feature that the rows' states need, but without TSC_ADJUST. */
static CpuidTable features;
static const RuleEnv env = {.cpuid = NULL, .tsc_offset_fixed = true};
static const RuleEnv env_table = {.cpuid = &features, .tsc_offset_fixed = true};

static const RuleEnv *env_of(const Row *r)
{
    static const char *const by_feature[] = {"tsc-adjust", "kvmclock", "wall-clock",
                                             "steal-time", "pv-eoi",   "poll-control"};
    for (unsigned i = 0; i < ARRAY_LEN(by_feature); i++) {
        if (!strcmp(r->rule, by_feature[i]))
            return &env_table;
    }
    return &env;
}

static void foreign_state(const Row *r, CpuState *s)
{
    (r->is_long ? long_state : protected_state)(s);
    /* The base itself must be canonical, or the row would show something else. */
    RuleNotes none = {NULL, 0, 0};
    ck_assert(rules_apply(s, RULE_BOTH, &env, &none, NULL));
    ck_assert_msg(!none.n, "%u fields of the base state are not canonical", none.n);
    ck_assert(!vmentry_failed_check(s, NULL, NULL, 0));
    r->foreign(s);
}

START_TEST(rule_mends_and_says_so)
{
    const Row *r = &rows[_i];
    RuleNote note[SEG_N];
    RuleNotes notes = {note, SEG_N, 0};
    CpuState s;

    foreign_state(r, &s);
    ck_assert_msg(!r->good(&s), "row %d (%s): the foreign state is good already", _i, r->rule);
    ck_assert(rules_apply(&s, r->dir, env_of(r), &notes, NULL));
    ck_assert_msg(r->good(&s), "row %d: '%s' does not mend its state", _i, r->rule);
    char why[120] = "";
    const char *failed = vmentry_failed_check(&s, NULL, why, sizeof(why));
    ck_assert_msg(!failed, "row %d: '%s' fails: %s", _i, failed, why);
    ck_assert_uint_eq(vmentry_mask(&s, NULL, VMENTRY_NOTED), 0);

    bool said = false;
    for (unsigned i = 0; i < MIN_OF(notes.n, notes.max); i++) {
        said |= !strcmp(note[i].rule, r->rule);
        ck_assert_str_ne(note[i].before, note[i].after);
    }
    ck_assert_msg(said, "row %d: '%s' changed the state and did not say so", _i, r->rule);

    CpuState again = s;
    RuleNotes none = {NULL, 0, 0};
    ck_assert(rules_apply(&again, r->dir, env_of(r), &none, NULL));
    ck_assert_msg(!none.n && !vmstate_diff(&s, &again, ~0u, NULL, NULL),
                  "row %d: '%s' is not idempotent", _i, r->rule);
}
END_TEST

START_TEST(symptom_returns_without_the_rule)
{
    const Row *r = &rows[_i];
    CpuState s;

    foreign_state(r, &s);
    ck_assert(rule_set_enabled(r->rule, false));
    ck_assert(rules_apply(&s, r->dir, env_of(r), NULL, NULL));
    ck_assert(rule_set_enabled(r->rule, true));
    ck_assert_msg(!r->good(&s), "row %d: without '%s' its state is mended all the same", _i,
                  r->rule);
    if (r->check) { /* refused, or noted */
        CheckInfo c = {.name = "none"};
        uint64_t found = vmentry_mask(&s, NULL, VMENTRY_NOTED);
        if (found)
            vmentry_check_info((unsigned)__builtin_ctzll(found), &c);
        ck_assert_msg(!strcmp(c.name, r->check),
                      "row %d: without '%s' the check that fails is '%s', not '%s'", _i, r->rule,
                      c.name, r->check);
    }
}
END_TEST

START_TEST(every_rule_has_a_row)
{
    RuleInfo info;
    unsigned n = 0;
    for (; rule_info(n, &info); n++) {
        if (info.chips) /* test_chips.c */
            continue;
        bool found = !strcmp(info.name, "cpuid"); /* tested below */
        for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
            found |= !strcmp(rows[i].rule, info.name);
        ck_assert_msg(found, "no row for rule '%s'", info.name);
        ck_assert_msg(strstr(info.reason, "SDM") != NULL, "rule '%s' cites nothing", info.name);
        ck_assert(info.enabled);
    }
    ck_assert_uint_gt(n, 20);
    ck_assert(!rule_set_enabled("no-such-rule", false));
}
END_TEST

/* What random states an engine keeps canonical, no rule touches. */
START_TEST(canonical_states_stay)
{
    static const enum RuleDirection dirs[] = {RULE_TO_KVM, RULE_TO_SOFT, RULE_BOTH};
    CpuState a, b;
    const RuleEnv e = {NULL, false};
    for (uint64_t seed = 0; seed < 5000; seed++) {
        for (unsigned d = 0; d < ARRAY_LEN(dirs); d++) {
            RuleNote note[1] = {{""}};
            RuleNotes notes = {note, 1, 0};
            vmstate_randomise(&a, seed);
            b = a;
            ck_assert(rules_apply(&b, dirs[d], &e, &notes, NULL));
            ck_assert_msg(!notes.n && !memcmp(&a, &b, sizeof(a)), "seed %u: %s: %s -> %s",
                          (unsigned)seed, note[0].rule, note[0].before, note[0].after);
        }
    }
}
END_TEST

/* Whatever is in the state, one pass settles it: bytes at random, then twice the rules. */
START_TEST(rules_are_idempotent_on_anything)
{
    static const enum RuleDirection dirs[] = {RULE_TO_KVM, RULE_TO_SOFT, RULE_BOTH};
    const RuleEnv e = {NULL, false};
    CpuState s, noise;
    for (uint64_t seed = 0; seed < 5000; seed++) {
        vmstate_randomise(&s, seed);
        vmstate_randomise(&noise, seed ^ 0x5555);
        /* Segments, control registers and events of another mode than the rest. */
        memcpy(s.seg, noise.seg, sizeof(s.seg));
        s.cpl = noise.cpl;
        if (seed & 1)
            s.cr0 = noise.cr0;
        if (seed & 2)
            s.ev = noise.ev;
        if (seed & 4)
            s.fpu.xstate_bv = 0;
        s.seg[seed % SEG_N].attr ^= (uint32_t)seed * 0x9e37;
        for (unsigned d = 0; d < ARRAY_LEN(dirs); d++) {
            CpuState a = s;
            RuleNote note[1] = {{""}};
            RuleNotes notes = {note, 1, 0};
            ck_assert(rules_apply(&a, dirs[d], &e, NULL, NULL));
            ck_assert(rules_apply(&a, dirs[d], &e, &notes, NULL));
            ck_assert_msg(!notes.n, "seed %u direction %u: %s: %s -> %s", (unsigned)seed, dirs[d],
                          note[0].rule, note[0].before, note[0].after);
        }
    }
}
END_TEST

START_TEST(notes_are_bounded)
{
    RuleNote note[3];
    memset(note, 0x5a, sizeof(note));
    RuleNotes notes = {note, 2, 0};
    CpuState s;
    protected_state(&s);
    for (unsigned i = ES; i <= GS; i++)
        s.seg[i].attr &= ~1u;
    ck_assert(rules_apply(&s, RULE_TO_KVM, &env, &notes, NULL));
    ck_assert_uint_eq(notes.n, 6);
    ck_assert_int_eq(note[2].before[0], 0x5a);
    ck_assert_str_eq(note[0].rule, "cs-accessed");
    ck_assert_str_eq(note[0].before, "CS.attr 0xc09a");
    ck_assert_str_eq(note[0].after, "CS.attr 0xc09b");
}
END_TEST

#define BEYOND(id, code)              \
    static void set_##id(CpuState *s) \
    {                                 \
        code;                         \
    }
/* clang-format off */
BEYOND(f_pae, s->cr4 = CR4_PAE)
BEYOND(f_smep, s->cr4 = CR4_SMEP)
BEYOND(f_vmx, s->cr4 = CR4_VMXE)
BEYOND(f_avx, s->xcr0 = 7)
BEYOND(f_avx_regs, s->fpu.v[1].b[31] = 1)
BEYOND(f_avx512, s->fpu.k[1] = 1)
BEYOND(f_nx, s->efer = EFER_NXE)
BEYOND(f_lm, s->efer = EFER_LME)
BEYOND(f_xss, s->msr.xss = 1)
static const struct {
    void (*set)(CpuState *);
    const char *feature;
} beyond[] = {
    {set_f_pae, "'pae'"}, {set_f_smep, "'smep'"}, {set_f_vmx, "'vmx'"}, {set_f_avx, "'avx'"},
    {set_f_avx_regs, "'avx'"}, {set_f_avx512, "'avx512f'"}, {set_f_nx, "'nx'"}, {set_f_lm, "'lm'"},
    {set_f_xss, "'xsaves'"},
};
/* clang-format on */

START_TEST(features_refuse_by_name)
{
    CpuState s;
    GError *err = NULL;
    protected_state(&s);
    ck_assert(rules_apply(&s, RULE_TO_KVM, &env_table, NULL, &err));
    beyond[_i].set(&s);
    CpuState copy = s;
    ck_assert(!rules_apply(&s, RULE_TO_KVM, &env_table, NULL, &err));
    ck_assert_msg(strstr(err->message, beyond[_i].feature) != NULL, "%s", err->message);
    g_error_free(err);

    rule_set_enabled("cpuid", false);
    ck_assert(rules_apply(&copy, RULE_TO_KVM, &env_table, NULL, NULL));
    rule_set_enabled("cpuid", true);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rules");
    TCase *c = tcase_create("rules");
    tcase_add_loop_test(c, rule_mends_and_says_so, 0, ARRAY_LEN(rows));
    tcase_add_loop_test(c, symptom_returns_without_the_rule, 0, ARRAY_LEN(rows));
    tcase_add_test(c, every_rule_has_a_row);
    tcase_add_test(c, canonical_states_stay);
    tcase_add_test(c, rules_are_idempotent_on_anything);
    tcase_add_test(c, notes_are_bounded);
    tcase_add_loop_test(c, features_refuse_by_name, 0, ARRAY_LEN(beyond));
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return run_suite(s);
}
