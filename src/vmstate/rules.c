#include "vmstate/rules.h"

#include <stdatomic.h>
#include <string.h>
#include "base/log.h"
#include "cpu/xsave.h"
#include "vmstate/rules_priv.h"

/* ---- reporting ---- */

void __attribute__((noinline, cold))
rule_note(Ctx *c, const char *field, uint64_t before, uint64_t after)
{
    if (!c->notes)
        return;
    if (c->notes->n < c->notes->max) {
        RuleNote *n = &c->notes->note[c->notes->n];
        n->rule = c->rule;
        g_snprintf(n->before, sizeof(n->before), "%s %#" G_GINT64_MODIFIER "x", field, before);
        g_snprintf(n->after, sizeof(n->after), "%s %#" G_GINT64_MODIFIER "x", field, after);
    }
    c->notes->n++;
}

static const char *const attr_name[SEG_N] = {"ES.attr", "CS.attr", "SS.attr",   "DS.attr",
                                             "FS.attr", "GS.attr", "LDTR.attr", "TR.attr"};

static bool in_vm86(const CpuState *s)
{
    return s->cr0 & CR0_PE && s->rflags & FL_VM;
}

/* ---- control registers ---- */

static bool rule_cr_fixed(Ctx *c)
{
    CpuState *s = c->s;
    uint64_t cr0 = s->cr0 | CR0_ET;
    if (!(cr0 & CR0_CD))
        cr0 &= ~(uint64_t)CR0_NW;
    CANON(c, "CR0", s->cr0, cr0);
    CANON(c, "CR3", s->cr3, s->cr3 & ~BIT(63));
    CANON(c, "CR8", s->cr8, s->cr8 & 15);
    return true;
}

static bool rule_efer_lma(Ctx *c)
{
    CpuState *s = c->s;
    bool lma = s->efer & EFER_LME && s->cr0 & CR0_PG;
    CANON(c, "EFER", s->efer, (s->efer & ~(uint64_t)EFER_LMA) | (lma ? EFER_LMA : 0));
    return true;
}

static bool rule_pdpte(Ctx *c)
{
    CpuState *s = c->s;
    if (s->cr0 & CR0_PG && s->cr4 & CR4_PAE && !cpu_long_mode(s))
        return true;
    for (unsigned i = 0; i < 4; i++)
        CANON(c, "PDPTE", s->pdpte[i], 0);
    return true;
}

static bool rule_rf_tf(Ctx *c)
{
    CANON(c, "RFLAGS", c->s->rflags, (c->s->rflags & 0x3f7fd7) | FL_FIXED);
    return true;
}

static bool rule_pc_sync(Ctx *c)
{
    if (!cpu_code64(c->s))
        CANON(c, "RIP", c->s->rip, (uint32_t)c->s->rip);
    return true;
}

/* ---- segments ---- */

static bool rule_seg_unusable(Ctx *c)
{
    uint32_t *cs = &c->s->seg[CS].attr;
    if (*cs & SEG_P)
        CANON(c, attr_name[CS], *cs, *cs & ~(uint32_t)SEG_UNUSABLE);
    for (unsigned i = ES; i <= LDTR; i++) {
        Segment *g = &c->s->seg[i];
        if (i == CS || (g->attr & SEG_P && !(g->attr & SEG_UNUSABLE)))
            continue;
        CANON(c, attr_name[i], g->attr, SEG_UNUSABLE | (i == SS ? g->attr & SEG_DPL : 0));
    }
    return true;
}

static bool rule_seg_attr(Ctx *c)
{
    for (unsigned i = ES; i < SEG_N; i++) {
        Segment *g = &c->s->seg[i];
        uint32_t attr = g->attr & 0x1f0ff;
        if (attr & SEG_UNUSABLE || (i <= GS && in_vm86(c->s))) /* there, cpl-dpl gives all of it */
            continue;
        attr = g->limit >> 20 ? attr | SEG_G : attr & ~(uint32_t)SEG_G;
        CANON(c, attr_name[i], g->attr, attr);
    }
    return true;
}

static bool rule_cs_l(Ctx *c)
{
    uint32_t *attr = &c->s->seg[CS].attr;
    if (!cpu_long_mode(c->s))
        CANON(c, attr_name[CS], *attr, *attr & ~(uint32_t)SEG_L);
    return true;
}

static bool rule_cs_accessed(Ctx *c)
{
    uint32_t *attr = &c->s->seg[CS].attr;
    CANON(c, attr_name[CS], *attr, *attr | SEG_ACCESSED);
    return true;
}

static bool rule_seg_accessed(Ctx *c)
{
    for (unsigned i = ES; i <= GS; i++) {
        uint32_t *attr = &c->s->seg[i].attr;
        if (i != CS && *attr & SEG_S && !(*attr & SEG_UNUSABLE))
            CANON(c, attr_name[i], *attr, *attr | SEG_ACCESSED);
    }
    return true;
}

static bool rule_tr_busy(Ctx *c)
{
    uint32_t *attr = &c->s->seg[TR].attr;
    uint32_t type = *attr & SEG_TYPE;
    if (type == 1 || type == 9)
        CANON(c, attr_name[TR], *attr, *attr | SEG_TSS_BUSY);
    return true;
}

/* KVM's CPL is what it reports as SS.DPL; a software engine's is CpuState.cpl. */
static bool rule_cpl_dpl(Ctx *c)
{
    CpuState *s = c->s;
    uint32_t *ss = &s->seg[SS].attr, *cs = &s->seg[CS].attr;
    if (in_vm86(s)) {
        for (unsigned i = ES; i <= GS; i++)
            CANON(c, attr_name[i], s->seg[i].attr, 0xf3);
        CANON(c, "CPL", s->cpl, 3);
    } else if (!(s->cr0 & CR0_PE)) {
        CANON(c, attr_name[CS], *cs, *cs & ~(uint32_t)SEG_DPL);
        CANON(c, attr_name[SS], *ss, *ss & ~(uint32_t)SEG_DPL);
        CANON(c, "CPL", s->cpl, 0);
    } else if (c->dir & RULE_TO_KVM) {
        CANON(c, "CPL", s->cpl, s->cpl & 3);
        uint32_t dpl = (uint32_t)(s->cpl & 3) << SEG_DPL_SHIFT;
        CANON(c, attr_name[SS], *ss, (*ss & ~(uint32_t)SEG_DPL) | dpl);
    } else {
        CANON(c, "CPL", s->cpl, (uint8_t)((*ss & SEG_DPL) >> SEG_DPL_SHIFT));
    }
    return true;
}

/* ---- debug registers, FPU, MSRs ---- */

static bool rule_debug_regs(Ctx *c)
{
    CANON(c, "DR6", c->s->dr6, (c->s->dr6 & 0xe00f) | DR6_FIXED1);
    CANON(c, "DR7", c->s->dr7, (c->s->dr7 & 0xffff23ff) | DR7_FIXED1);
    return true;
}

static bool rule_fpu_tags(Ctx *c)
{
    FpuState *f = &c->s->fpu;
    CANON(c, "FCW", f->fcw, (uint16_t)((f->fcw & 0x1f3f) | 0x40));
    bool es = f->fsw & ~f->fcw & 0x3f;
    CANON(c, "FSW", f->fsw, (uint16_t)((f->fsw & 0x7f7f) | (es ? 0x8080 : 0)));
    CANON(c, "FOP", f->fop, f->fop & 0x7ff);
    return true;
}

static bool rule_mxcsr(Ctx *c)
{
    FpuState *f = &c->s->fpu;
    CANON(c, "MXCSR_MASK", f->mxcsr_mask, f->mxcsr_mask ? f->mxcsr_mask : 0xffbf);
    CANON(c, "MXCSR", f->mxcsr, f->mxcsr & f->mxcsr_mask);
    return true;
}

static bool rule_xsave_format(Ctx *c)
{
    FpuState *f = &c->s->fpu;
    CANON(c, "XSTATE_BV", f->xstate_bv, fpu_xinuse(f));
    return true;
}

static bool rule_msr_set(Ctx *c)
{
    Msrs *m = &c->s->msr;
    unsigned spare = 64 - (c->s->cr4 & CR4_LA57 ? 57 : 48);
#define CANONICAL(v) ((uint64_t)((int64_t)((v) << spare) >> spare))
    CANON(c, "SYSENTER_ESP", m->sysenter_esp, CANONICAL(m->sysenter_esp));
    CANON(c, "SYSENTER_EIP", m->sysenter_eip, CANONICAL(m->sysenter_eip));
#undef CANONICAL
    return true;
}

static bool rule_tsc(Ctx *c)
{
    if (c->env->tsc_offset_fixed)
        CANON(c, "TSC offset", c->s->tsc_offset, 0);
    return true;
}

static bool rule_tsc_adjust(Ctx *c)
{
    if (c->env->cpuid && !cpuid_has(c->env->cpuid, FEAT_TSC_ADJUST))
        CANON(c, "TSC_ADJUST", c->s->msr.tsc_adjust, 0);
    return true;
}

/* ---- KVM's paravirtual registers ---- */

/* Without the feature nobody has the register: KVM drops what is written, or refuses it. */
static bool not_offered(const Ctx *c, enum CpuFeature f)
{
    return c->env->cpuid && !cpuid_has(c->env->cpuid, f);
}

static bool rule_kvmclock(Ctx *c)
{
    if (not_offered(c, FEAT_KVMCLOCK) && not_offered(c, FEAT_KVMCLOCK_OLD))
        CANON(c, "KVM_SYSTEM_TIME", c->s->msr.kvm_system_time, 0);
    return true;
}

static bool rule_wall_clock(Ctx *c)
{
    if (not_offered(c, FEAT_KVMCLOCK) && not_offered(c, FEAT_KVMCLOCK_OLD))
        CANON(c, "KVM_WALL_CLOCK", c->s->msr.kvm_wall_clock, 0);
    return true;
}

static bool rule_steal_time(Ctx *c)
{
    if (not_offered(c, FEAT_KVM_STEAL_TIME))
        CANON(c, "KVM_STEAL_TIME", c->s->msr.kvm_steal_time, 0);
    return true;
}

static bool rule_pv_eoi(Ctx *c)
{
    if (not_offered(c, FEAT_KVM_PV_EOI))
        CANON(c, "KVM_PV_EOI", c->s->msr.kvm_pv_eoi, 0);
    return true;
}

static bool rule_poll_control(Ctx *c)
{
    if (not_offered(c, FEAT_KVM_POLL_CONTROL)) /* as after reset: the host may poll */
        CANON(c, "KVM_POLL_CONTROL", c->s->msr.kvm_poll_control, 1);
    return true;
}

/* ---- events ---- */

static bool rule_pending_events(Ctx *c)
{
    CpuState *s = c->s;
    Events *e = &s->ev;

    if (e->exception.pending)
        CANON(c, "exception.injected", e->exception.injected, false);
    else
        CANON(c, "exception.has_payload", e->exception.has_payload, false);
    /* #BP and #OF that were being delivered come from INT3 and INTO, at which RIP still stands:
     * executing it again raises them with the right length. Likewise INT n. */
    if (e->exception.nr == VEC_BP || e->exception.nr == VEC_OF)
        CANON(c, "exception.injected (soft)", e->exception.injected, false);
    if (e->interrupt.soft)
        CANON(c, "interrupt.injected (soft)", e->interrupt.injected, false);

    bool valid = e->exception.pending || e->exception.injected;
    if (!valid) {
        CANON(c, "exception.nr", e->exception.nr, 0);
        CANON(c, "exception.has_error", e->exception.has_error, false);
    } else if (!(s->cr0 & CR0_PE)) {
        CANON(c, "exception.has_error", e->exception.has_error, false);
    }
    if (!e->exception.has_error)
        CANON(c, "exception.error", e->exception.error, 0);
    if (!e->exception.has_payload)
        CANON(c, "exception.payload", e->exception.payload, 0);
    if (!e->interrupt.injected) {
        CANON(c, "interrupt.nr", e->interrupt.nr, 0);
        CANON(c, "interrupt.soft", e->interrupt.soft, false);
    }
    CANON(c, "soft_len", e->soft_len, 0);
    return true;
}

static bool rule_events_to_soft(Ctx *c)
{
    CpuState *s = c->s;
    Events *e = &s->ev;

    if (e->exception.injected) {
        CANON(c, "exception.injected", e->exception.injected, false);
        CANON(c, "exception.pending", e->exception.pending, true);
    }
    if (e->exception.pending && e->exception.has_payload) {
        /* SDM vol. 3, 4.7 and 17.2.3: what delivery would put there. Bit 16 of a payload says "not
         * in a transaction" inverted, and is fixed in DR6 without RTM. */
        if (e->exception.nr == VEC_PF)
            CANON(c, "CR2", s->cr2, e->exception.payload);
        else if (e->exception.nr == VEC_DB)
            CANON(c, "DR6", s->dr6,
                  (s->dr6 & ~(uint64_t)0xf) | (e->exception.payload & 0xe00f) | DR6_FIXED1);
        CANON(c, "exception.has_payload", e->exception.has_payload, false);
        CANON(c, "exception.payload", e->exception.payload, 0);
    }
    if (e->nmi.injected) {
        CANON(c, "nmi.injected", e->nmi.injected, false);
        CANON(c, "nmi.pending", e->nmi.pending, true);
        CANON(c, "nmi.masked", e->nmi.masked, false);
    }
    return true;
}

static bool rule_smi(Ctx *c)
{
    Events *e = &c->s->ev;
    if (!e->smi.active)
        CANON(c, "smi.inside_nmi", e->smi.inside_nmi, false);
    CANON(c, "smi.latched_init", e->smi.latched_init, false);
    return true;
}

static bool rule_int_shadow(Ctx *c)
{
    Events *e = &c->s->ev;
    /* Which of the two it was is not known: MOV SS blocks all that STI does and more, and taking an
     * NMI between a MOV SS and the load of ESP would be worse than a late one. */
    if (e->shadow_mov_ss || !(c->s->rflags & FL_IF))
        CANON(c, "shadow_sti", e->shadow_sti, false);
    return true;
}

static bool rule_halt_state(Ctx *c)
{
    CpuState *s = c->s;
    Events *e = &s->ev;
    if (s->run_state == RUN_INIT_RECEIVED)
        CANON(c, "run_state", s->run_state, RUN_WAIT_SIPI);
    if (s->run_state == RUN_RUNNING)
        return true;
    CANON(c, "shadow_sti", e->shadow_sti, false);
    CANON(c, "shadow_mov_ss", e->shadow_mov_ss, false);
    if ((s->run_state == RUN_HALTED || s->run_state == RUN_MWAIT) &&
        (e->exception.pending || e->exception.injected || e->interrupt.injected ||
         e->nmi.injected || (e->nmi.pending && !e->nmi.masked)))
        CANON(c, "run_state", s->run_state, RUN_RUNNING);
    return true;
}

static bool rule_mwait(Ctx *c)
{
    if (c->s->run_state == RUN_MWAIT)
        CANON(c, "run_state", c->s->run_state, RUN_RUNNING);
    return true;
}

/* ---- features ---- */

static bool refuse(Ctx *c, enum CpuFeature f, const char *what, uint64_t value)
{
    g_set_error(
        c->err, TANDEM_ERROR, ERR_STATE,
        "rule '%s': feature '%s' is not offered to this guest, but %s is %#" G_GINT64_MODIFIER "x",
        c->rule, cpu_feature_name(f), what, value);
    return false;
}

static bool rule_cpuid(Ctx *c)
{
    static const struct {
        uint64_t bit;
        enum CpuFeature f;
    } cr4[] = {
        {CR4_VME | CR4_PVI, FEAT_VME}, {CR4_TSD, FEAT_TSC},           {CR4_DE, FEAT_DE},
        {CR4_PSE, FEAT_PSE},           {CR4_PAE, FEAT_PAE},           {CR4_MCE, FEAT_MCE},
        {CR4_PGE, FEAT_PGE},           {CR4_OSFXSR, FEAT_FXSR},       {CR4_OSXMMEXCPT, FEAT_SSE},
        {CR4_UMIP, FEAT_UMIP},         {CR4_LA57, FEAT_LA57},         {CR4_VMXE, FEAT_VMX},
        {CR4_SMXE, FEAT_SMX},          {CR4_FSGSBASE, FEAT_FSGSBASE}, {CR4_PCIDE, FEAT_PCID},
        {CR4_OSXSAVE, FEAT_XSAVE},     {CR4_SMEP, FEAT_SMEP},         {CR4_SMAP, FEAT_SMAP},
        {CR4_PKE, FEAT_PKU},
    };
    /* SSE (bit 1) is saved with or without XSAVE; MPX, PT and the rest have no home in CpuState. */
    static const struct {
        uint64_t bits;
        enum CpuFeature f;
    } xstate[] = {{BIT(2), FEAT_AVX},
                  {BIT(3) | BIT(4), FEAT_MPX},
                  {BIT(5) | BIT(6) | BIT(7), FEAT_AVX512F},
                  {BIT(9), FEAT_PKU}};
    const CpuidTable *t = c->env->cpuid;
    const CpuState *s = c->s;

    if (!t)
        return true;
    for (unsigned i = 0; i < ARRAY_LEN(cr4); i++) {
        if (unlikely(s->cr4 & cr4[i].bit) && !cpuid_has(t, cr4[i].f))
            return refuse(c, cr4[i].f, "CR4", s->cr4);
    }
    for (unsigned i = 0; i < ARRAY_LEN(xstate); i++) {
        uint64_t x = s->xcr0 & xstate[i].bits, bv = s->fpu.xstate_bv & xstate[i].bits;
        if (unlikely(x | bv) && !cpuid_has(t, xstate[i].f))
            return refuse(c, xstate[i].f, x ? "XCR0" : "XSTATE_BV", x ? s->xcr0 : s->fpu.xstate_bv);
    }
    if (s->efer & (EFER_LME | EFER_LMA) && !cpuid_has(t, FEAT_LM))
        return refuse(c, FEAT_LM, "EFER", s->efer);
    if (s->efer & EFER_NXE && !cpuid_has(t, FEAT_NX))
        return refuse(c, FEAT_NX, "EFER", s->efer);
    if (s->efer & EFER_SCE && !cpuid_has(t, FEAT_SYSCALL))
        return refuse(c, FEAT_SYSCALL, "EFER", s->efer);
    if (s->efer & EFER_AIBRSE && !cpuid_has(t, FEAT_AUTOIBRS))
        return refuse(c, FEAT_AUTOIBRS, "EFER", s->efer);
    if (s->msr.xss && !cpuid_has(t, FEAT_XSAVES))
        return refuse(c, FEAT_XSAVES, "IA32_XSS", s->msr.xss);
    return true;
}

/* ---- the table ---- */

#define RULE_DIR_BOTH    RULE_BOTH
#define RULE_DIR_TO_KVM  RULE_TO_KVM
#define RULE_DIR_TO_SOFT RULE_TO_SOFT

static const struct {
    const char *name;
    enum RuleDirection dir;
    const char *reason;
    bool (*fn)(Ctx *);
    bool chips; /* of LapicState and ChipState, not of CpuState */
} rules[] = {
#define RULE(id, name, direction, reason) {name, RULE_DIR_##direction, reason, rule_##id, false},
#define CHIP_RULE(id, name, direction, reason) \
    {name, RULE_DIR_##direction, reason, rule_##id, true},
#include "vmstate/rules.def"
};
_Static_assert(ARRAY_LEN(rules) <= 64, "one bit a rule");

static _Atomic uint64_t rules_off;

static int find_rule(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++) {
        if (!strcmp(rules[i].name, name))
            return (int)i;
    }
    return -1;
}

bool rule_set_enabled(const char *name, bool on)
{
    int i = find_rule(name);
    if (i < 0)
        return false;
    if (on)
        atomic_fetch_and(&rules_off, ~BIT(i));
    else
        atomic_fetch_or(&rules_off, BIT(i));
    return true;
}

bool rule_info(unsigned i, RuleInfo *out)
{
    if (i >= ARRAY_LEN(rules))
        return false;
    *out = (RuleInfo){.name = rules[i].name,
                      .reason = rules[i].reason,
                      .direction = rules[i].dir,
                      .chips = rules[i].chips,
                      .enabled = !(atomic_load(&rules_off) & BIT(i))};
    return true;
}

static bool apply(uint64_t which, bool chips, Ctx *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++) {
        if (!(which & BIT(i)) || !(rules[i].dir & c->dir) || rules[i].chips != chips)
            continue;
        c->rule = rules[i].name;
        if (!rules[i].fn(c))
            return false;
    }
    return true;
}

static uint64_t rules_on(void)
{
    return ~atomic_load_explicit(&rules_off, memory_order_relaxed);
}

bool rules_apply(CpuState *s, enum RuleDirection dir, const RuleEnv *env, RuleNotes *notes,
                 GError **err)
{
    Ctx c = {.s = s, .env = env, .dir = dir, .notes = notes, .err = err};
    return apply(rules_on(), false, &c);
}

bool rule_apply_one(const char *name, CpuState *s, enum RuleDirection dir, const RuleEnv *env,
                    RuleNotes *notes, GError **err)
{
    int i = find_rule(name);
    Ctx c = {.s = s, .env = env, .dir = dir, .notes = notes, .err = err};
    return i >= 0 && apply(BIT(i), false, &c);
}

void chip_rules_apply(LapicState *lapic, ChipState *chips, enum RuleDirection dir, RuleNotes *notes)
{
    Ctx c = {.lapic = lapic, .chips = chips, .dir = dir, .notes = notes};
    apply(rules_on(), true, &c);
}
