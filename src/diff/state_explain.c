/* Why a state came back from an engine otherwise than it went in. */
#include "diff/state.h"

#include <string.h>

#include "vmstate/checks.h"
#include "vmstate/rules.h"

typedef struct Ctx {
    const StateEnv *env;
    const VmstateField *f;
    const CpuState *in, *out;
    const char *message;
} Ctx;

/* ---- state_known.def ---- */

static bool on(const Ctx *c, const char *platform)
{
    return c->env->platform && !strcmp(c->env->platform, platform);
}

static bool known_cpl(const Ctx *c)
{
    return c->out->cpl == (c->out->seg[SS].attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static bool known_svm_present(const Ctx *c)
{
    const Segment *in = (const Segment *)(const void *)((const char *)c->in + c->f->offset);
    const Segment *out = (const Segment *)(const void *)((const char *)c->out + c->f->offset);
    uint32_t rest = ~(uint32_t)(SEG_P | SEG_UNUSABLE | 0xfffe0f00);
    bool usable = in->attr & SEG_P && !(in->attr & SEG_UNUSABLE);
    return on(c, "svm") && !usable && (in->attr & rest) == (out->attr & rest) &&
           !(out->attr & SEG_P) && out->attr & SEG_UNUSABLE && in->base == out->base &&
           in->limit == out->limit && in->selector == out->selector;
}

/* Both at once, as one segment may have both. */
static bool known_vmx_segment(const Ctx *c)
{
    const Segment *in = (const Segment *)(const void *)((const char *)c->in + c->f->offset);
    const Segment *out = (const Segment *)(const void *)((const char *)c->out + c->f->offset);
    uint32_t want = in->attr & ~(uint32_t)0xfffe0f00;
    if (!(want & SEG_P))
        want |= SEG_UNUSABLE;
    return on(c, "vmx") && (out->attr == want || out->attr == (want | 1)) &&
           in->base == out->base && in->limit == out->limit && in->selector == out->selector;
}

static bool known_vmx_sysenter_cs(const Ctx *c)
{
    return on(c, "vmx") && c->out->msr.sysenter_cs == (uint32_t)c->in->msr.sysenter_cs;
}

static bool known_svm_shadow(const Ctx *c)
{
    return on(c, "svm") && c->in->ev.shadow_sti && c->out->ev.shadow_mov_ss &&
           !c->out->ev.shadow_sti;
}

static bool known_debugctl(const Ctx *c)
{
    return !(c->out->msr.debugctl & ~c->in->msr.debugctl);
}

static bool known_soft_exception(const Ctx *c)
{
    uint8_t nr = c->in->ev.exception.nr;
    return (nr == VEC_BP || nr == VEC_OF) && !c->out->ev.exception.pending &&
           !c->out->ev.exception.injected;
}

static bool known_tsc_aux(const Ctx *c)
{
    return on(c, "svm") && c->out->msr.tsc_aux == (uint32_t)c->in->msr.tsc_aux;
}

static bool has_mode(const CpuState *s)
{
    return (s->rflags & FL_VM && s->cr0 & CR0_PE) || (s->cr0 & CR0_PG && !(s->efer & EFER_LMA));
}

static bool known_no_paging(const Ctx *c)
{
    bool paged = c->in->cr0 & CR0_PG && !(c->in->efer & EFER_LMA);
    return on(c, "software") && paged && c->in->cr0 == (c->out->cr0 | CR0_PG);
}

static bool known_no_pdpte(const Ctx *c)
{
    const uint64_t *out = (const uint64_t *)(const void *)((const char *)c->out + c->f->offset);
    return known_no_paging(c) && !*out;
}

static bool known_no_vm86(const Ctx *c)
{
    return on(c, "software") && (c->in->rflags | FL_FIXED) == (c->out->rflags | FL_VM);
}

static bool refused_no_mode(const Ctx *c)
{
    return on(c, "software") && has_mode(c->in) && strstr(c->message, "does not hold");
}

static bool refused_no_smm(const Ctx *c)
{
    return (c->in->ev.smi.active || c->in->ev.smi.pending) && strstr(c->message, "KVM_CAP_X86_SMM");
}

typedef struct Known {
    const char *name, *fields, *reason; /* fields NULL: a refusal */
    bool (*fn)(const Ctx *);
} Known;

static const Known known[] = {
#define KNOWN(id, name, fields, reason) {name, fields, reason, known_##id},
#define REFUSED(id, name, reason)       {name, NULL, reason, refused_##id},
#include "diff/state_known.def"
};

const char *state_known_name(unsigned i, const char **reason)
{
    if (i >= ARRAY_LEN(known))
        return NULL;
    if (reason)
        *reason = known[i].reason;
    return known[i].name;
}

static bool names(const char *fields, const char *name)
{
    g_auto(GStrv) part = g_strsplit(fields, ",", 0);
    for (unsigned i = 0; part[i]; i++)
        if (g_pattern_match_simple(part[i], name))
            return true;
    return false;
}

static bool find_known(const Ctx *c, StateWhy *why)
{
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        const Known *k = &known[i];
        if (c->f ? k->fields && names(k->fields, c->f->name) && k->fn(c) : !k->fields && k->fn(c)) {
            *why = (StateWhy){"kvm", k->name, k->reason};
            return true;
        }
    }
    return false;
}

/* ---- rules ---- */

typedef struct Looking {
    const char *name;
    bool differs;
} Looking;

static void look(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    Looking *l = opaque;
    l->differs |= !strcmp(f->name, l->name);
}

static bool differs(const VmstateField *f, const CpuState *a, const CpuState *b)
{
    Looking l = {f->name, false};
    vmstate_diff(a, b, f->group, look, &l);
    return l.differs;
}

/* The rule with which what went in and what came out have one canonical form: the last of those it
 * takes, as rules build on each other. */
static bool find_rule(const Ctx *c, StateWhy *why)
{
    RuleEnv env = {.cpuid = NULL, .tsc_offset_fixed = c->env->vm->tsc_offset_fixed};
    CpuState a = *c->in, b = *c->out;
    RuleInfo rule;

    /* In one pass as it went into KVM, in a second as it came out on the software side. */
    for (unsigned pass = 0; pass < (c->env->to_soft ? 2u : 1u); pass++) {
        for (unsigned i = 0; rule_info(i, &rule); i++) {
            /* The one that refuses by feature explains no difference. */
            env.cpuid = strcmp(rule.name, "cpuid") ? c->env->vm->cpuid : NULL;
            rule_apply_one(rule.name, &a, pass ? RULE_TO_SOFT : RULE_TO_KVM, &env, NULL, NULL);
            rule_apply_one(rule.name, &b, RULE_TO_SOFT, &env, NULL, NULL);
            if (!differs(c->f, &a, &b)) {
                *why = (StateWhy){"rule", rule.name, rule.reason};
                return true;
            }
        }
    }
    return false;
}

bool state_explain(const StateEnv *env, const VmstateField *f, const CpuState *in,
                   const CpuState *out, StateWhy *why)
{
    Ctx c = {.env = env, .f = f, .in = in, .out = out};
    return find_rule(&c, why) || find_known(&c, why);
}

static const char *reference_of(const char *check)
{
    CheckInfo c;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++)
        if (!strcmp(c.name, check))
            return c.reference;
    return "";
}

bool state_explain_refusal(const StateEnv *env, const CpuState *in, const char *message,
                           StateWhy *why)
{
    RuleEnv rule_env = {.cpuid = env->vm->cpuid};
    Ctx c = {.env = env, .in = in, .message = message};
    const CheckEnv check_env = {env->vm->cpuid, env->vm->kvm_quirk};
    const char *check = vmentry_failed_check(in, &check_env, NULL, 0);
    CpuState s = *in;
    RuleInfo rule;

    if (check) {
        *why = (StateWhy){"check", check, reference_of(check)};
        return true;
    }
    /* A rule refuses it by name, or mends what KVM does not take. */
    for (unsigned i = 0; rule_info(i, &rule); i++) {
        RuleNotes notes = {NULL, 0, 0};
        if (!rule_apply_one(rule.name, &s, RULE_TO_KVM, &rule_env, &notes, NULL) || notes.n) {
            *why = (StateWhy){"rule", rule.name, rule.reason};
            return true;
        }
    }
    return find_known(&c, why);
}
