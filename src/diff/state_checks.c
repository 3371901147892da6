/*
 * `tandem diff state --checks`: our VM-entry checks against what this KVM does.
 *
 * Two kinds of states. Such in which one check finds something and no other: KVM should refuse
 * what it refuses, enter what it notes, and change no more of that than it says. And near misses,
 * valid states with one field bent: those that no check refuses should be entered. Nothing is
 * learnt from KVM_RUN with immediate_exit: KVM then returns before it has looked at the guest's
 * state. So each state is entered for real, with HLTs wherever its RIP may lead.
 */
#include "diff/state.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "kvm/kvm.h"
#include "switch/switch.h"
#include "vmstate/checks.h"

/* VMX has no bit: the checks are its own, and nothing excuses one that is stricter. */
enum Platform { VMX = 0, SOFTWARE = 1, SVM = 2 };
static const struct {
    enum Platform bit;
    const char *name, *help;
} platforms[] = {
    {SOFTWARE, "software", "it enters what no hardware does"},
    {SVM, "svm", "it checks as VMRUN does, and no segment attributes"},
    {VMX, "vmx", "it checks segment attributes"},
};

enum Check {
#define CHECK(id, name, reference) CHECK_##id,
#include "vmstate/checks.def"
    CHECKS
};

static const struct {
    enum Check check;
    const char *reason;
    unsigned platforms;
} strict[] = {
#define STRICT(id, platforms, reason) {CHECK_##id, reason, platforms},
#include "diff/state_strict.def"
};

static const char *strict_reason(unsigned check, unsigned platform)
{
    for (unsigned i = 0; i < ARRAY_LEN(strict); i++)
        if (strict[i].platforms & platform && strict[i].check == check)
            return strict[i].reason;
    return NULL;
}

static const char *check_name(unsigned i)
{
    CheckInfo c;
    return vmentry_check_info(i, &c) ? c.name : "";
}

/* ---- the platform ---- */

/* 64-bit mode at CPL 0. */
static void good_state(const StateHost *h, CpuState *s)
{
    memset(s, 0, sizeof(*s));
    cpu_state_reset(s, 0, true);
    s->cr0 = CR0_ET | CR0_NE | CR0_PE | CR0_PG;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = (Segment){.selector = 16, .limit = ~0u, .attr = i == CS ? 0xa09b : 0xc093};
    s->seg[TR] = (Segment){.selector = 24, .limit = 0x67, .attr = 0x8b};
    s->seg[LDTR] = (Segment){.attr = SEG_UNUSABLE};
    s->rip = 0x200000;
    s->msr.apic_base = 0xfee00900;
    state_host_make_enterable(h, s);
}

static bool enters(StateHost *h, void (*change)(CpuState *))
{
    CpuState s;
    good_state(h, &s);
    if (change)
        change(&s);
    return state_host_enter(h, &s).kind == ENTRY_DONE;
}

static void tr_available(CpuState *s)
{
    s->seg[TR].attr = 0x89;
}

static void cs_l_and_d(CpuState *s)
{
    s->seg[CS].attr |= SEG_DB;
}

const char *state_platform(StateHost *h, GError **err)
{
    if (!enters(h, NULL)) {
        CpuState s;
        good_state(h, &s);
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "this host's KVM does not enter a plain 64-bit guest: %s",
                    state_host_enter(h, &s).why);
        return NULL;
    }
    return !enters(h, tr_available) ? "vmx" : !enters(h, cs_l_and_d) ? "svm" : "software";
}

/* ---- the run ---- */

/* What may be wrong with a check; each with a state as an example. */
enum Wrong {
    STRICTER,   /* we refuse, KVM enters */
    LAXER,      /* we let in, KVM refuses */
    CHANGED,    /* we let in, and KVM changes what the check does not say */
    UNSWITCHED, /* we let in, and a switch, which has rules and asks back, does not */
    WRONGS
};
static const char *const wrong_name[] = {
    [STRICTER] = "stricter", [LAXER] = "laxer", [CHANGED] = "changed", [UNSWITCHED] = "unswitched"};

typedef struct CheckCount {
    uint64_t states, by_ioctl, by_entry, entered, broken;
    uint64_t noted, lost; /* of those entered: we let it in; what was entered is another state */
    uint64_t undrawn;     /* no state was found that fails it alone */
    uint64_t wrong[WRONGS];
    char example[WRONGS][400];
} CheckCount;

typedef struct Laxer { /* a state that no check refuses, and KVM does */
    char *bent, *value, *why, *outline;
    uint64_t count, index;
} Laxer;

struct ChecksResult {
    const char *platform;
    unsigned bit;
    StateHost *quiet;
    CheckCount check[CHECKS];
    uint64_t near, near_entered, near_endless, near_by_both, broken;
    GPtrArray *laxer;
};

static void laxer_free(void *p)
{
    Laxer *l = p;
    g_free(l->bent);
    g_free(l->value);
    g_free(l->why);
    g_free(l->outline);
    g_free(l);
}

/* What VM entries look at besides the field that was bent: for a reader who wonders which it was.
 */
static void outline(const CpuState *s, char *out, size_t size)
{
    const Events *e = &s->ev;
    bool pe = s->cr0 & CR0_PE, lma = s->efer & EFER_LMA;
    g_autoptr(GString) g = g_string_new(!pe                              ? "real mode"
                                        : s->rflags & FL_VM              ? "virtual-8086"
                                        : lma && s->seg[CS].attr & SEG_L ? "64-bit"
                                        : lma                            ? "compatibility"
                                                                         : "protected mode");
    g_string_append_printf(g, ", CPL %u, CR0 %#" PRIx64 ", CR4 %#" PRIx64 ", RFLAGS %#" PRIx64,
                           s->cpl, s->cr0, s->cr4, s->rflags);
    if (e->exception.pending || e->exception.injected)
        g_string_append_printf(g, ", exception %u %s%s", e->exception.nr,
                               e->exception.injected ? "injected" : "pending",
                               e->exception.has_error ? " with an error code" : "");
    if (e->interrupt.injected)
        g_string_append_printf(g, ", %sinterrupt %u injected", e->interrupt.soft ? "soft " : "",
                               e->interrupt.nr);
    if (e->nmi.injected || e->nmi.pending || e->nmi.masked)
        g_string_append_printf(g, ", NMI%s%s%s", e->nmi.injected ? " injected" : "",
                               e->nmi.pending ? " pending" : "", e->nmi.masked ? " masked" : "");
    if (e->smi.pending || e->smi.active)
        g_string_append_printf(g, ", SMI%s%s", e->smi.pending ? " pending" : "",
                               e->smi.active ? " active" : "");
    if (e->shadow_sti || e->shadow_mov_ss)
        g_string_append_printf(g, ", blocking by%s%s", e->shadow_sti ? " STI" : "",
                               e->shadow_mov_ss ? " MOV SS" : "");
    if (s->run_state)
        g_string_append_printf(g, ", run state %u", s->run_state);
    g_strlcpy(out, g->str, size);
}

static void add_wrong(ChecksResult *res, enum Wrong w, unsigned check, const CpuState *s,
                      const CheckEnv *env, const char *how)
{
    CheckCount *c = &res->check[check];
    char why[120] = "", around[240];
    if (c->wrong[w]++)
        return;
    vmentry_ask(check, s, env, why, sizeof(why));
    outline(s, around, sizeof(around));
    g_snprintf(c->example[w], sizeof(c->example[w]), "%s%s%s (%s)", why, *how ? "; " : "", how,
               around);
}

/* ---- a state that we let in, and KVM enters ---- */

typedef struct Compared {
    const StateEnv *env;
    uint64_t noted;
    const CpuState *in, *out;
    char first[160];
} Compared;

static void compare(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    Compared *c = opaque;
    StateWhy why;
    if (!*c->first && !vmentry_may_change(c->noted, f->name) &&
        !state_explain(c->env, f, c->in, c->out, &why))
        g_snprintf(c->first, sizeof(c->first), "%s went in as %s and came back as %s", f->name, a,
                   b);
}

/* In a vCPU that is never entered: what a guest did before is not to be taken for KVM's doing. */
static void judge_noted(ChecksResult *res, unsigned check, const CpuState *s, const CheckEnv *env)
{
    StateHost *h = res->quiet;
    const VmCommon *vm = state_host_vm(h);
    const StateEnv state_env = {vm, res->platform, false};
    g_autofree CpuState *other = g_new0(CpuState, 1);
    Compared c = {.env = &state_env, .noted = BIT(check), .in = s, .out = other};

    if (!state_host_through(h, &engine_kvm, s, other, NULL))
        g_strlcpy(c.first, "it is not taken a second time", sizeof(c.first));
    else
        vmstate_diff(s, other, GROUPS_ALL, compare, &c);
    if (*c.first)
        add_wrong(res, CHANGED, check, s, env, c.first);

    g_autoptr(GError) err = NULL;
    StateWhy why;
    switch_verify = true;
    if (!state_host_switched(h, s, other, &err) &&
        !state_explain_refusal(&state_env, s, err->message, &why))
        add_wrong(res, UNSWITCHED, check, s, env, err->message);
    switch_verify = false;
}

static void try_check(ChecksResult *res, StateHost *h, unsigned check, uint64_t *r)
{
    const VmCommon *vm = state_host_vm(h);
    const CheckEnv env = {vm->cpuid, vm->kvm_quirk};
    CheckCount *c = &res->check[check];
    CpuState s;

    if (!state_break(&s, check, r, vm->cpuid)) {
        c->undrawn++;
        return;
    }
    state_host_make_enterable(h, &s);
    if (vmentry_mask(&s, &env, VMENTRY_NOTED) != BIT(check)) {
        c->undrawn++;
        return;
    }
    enum VmentryFinding ours = vmentry_ask(check, &s, &env, NULL, 0);
    Entry e = state_host_enter(h, &s);
    c->states++;
    switch (e.kind) {
    case ENTRY_DONE:
        c->entered++;
        c->noted += ours == VMENTRY_NOTED;
        c->lost += ours == VMENTRY_LOST;
        if (ours == VMENTRY_REFUSED)
            add_wrong(res, STRICTER, check, &s, &env, "");
        else if (ours == VMENTRY_NOTED)
            judge_noted(res, check, &s, &env);
        break;
    case ENTRY_IOCTL:
    case ENTRY_REFUSED:
        c->by_ioctl += e.kind == ENTRY_IOCTL;
        c->by_entry += e.kind == ENTRY_REFUSED;
        if (ours == VMENTRY_NOTED)
            add_wrong(res, LAXER, check, &s, &env, e.why);
        break;
    case ENTRY_BROKEN:
        c->broken++;
        break;
    }
}

static void add_laxer(ChecksResult *res, uint64_t index, const char *bent, const CpuState *s,
                      const Entry *e)
{
    char value[140] = "";
    for (unsigned i = 0; i < res->laxer->len; i++) {
        Laxer *l = res->laxer->pdata[i];
        if (!strcmp(l->bent, bent)) {
            l->count++;
            return;
        }
    }
    Laxer *l = g_new0(Laxer, 1);
    const VmstateField *f = vmstate_field(bent);
    if (f)
        vmstate_print(s, f, value, sizeof(value));
    char around[240];
    outline(s, around, sizeof(around));
    *l = (Laxer){g_strdup(bent), g_strdup(value), g_strdup(e->why), g_strdup(around), 1, index};
    g_ptr_array_add(res->laxer, l);
}

static void try_near(ChecksResult *res, StateHost *h, uint64_t seed, uint64_t index)
{
    const VmCommon *vm = state_host_vm(h);
    CpuState s;
    const char *bent = state_generate(&s, seed, index, vm->cpuid);
    state_host_make_enterable(h, &s);
    const StateEnv env = {vm, res->platform, false};
    StateWhy why;
    Entry e = state_host_enter(h, &s);

    res->near++;
    res->near_endless += e.endless;
    if (e.kind == ENTRY_DONE) {
        const CheckEnv check_env = {vm->cpuid, vm->kvm_quirk};
        uint64_t refused = vmentry_mask(&s, &check_env, VMENTRY_REFUSED);
        for (unsigned i = 0; i < CHECKS; i++)
            if (refused & BIT(i))
                add_wrong(res, STRICTER, i, &s, &check_env, "a near miss");
        res->near_entered++;
    } else if (e.kind == ENTRY_BROKEN)
        res->broken++;
    else if (state_explain_refusal(&env, &s, e.why, &why)) /* we would not have put it there */
        res->near_by_both++;
    else
        add_laxer(res, index, bent ? bent : "nothing", &s, &e);
}

ChecksResult *state_checks_run(StateHost *h, const char *platform, const char *only, uint64_t seed,
                               uint64_t n, bool (*tick)(uint64_t done, void *opaque), void *opaque,
                               GError **err)
{
    StateHost *quiet = state_host_new(true, err);
    if (!quiet)
        return NULL;
    ChecksResult *res = g_new0(ChecksResult, 1);
    uint64_t r = seed;

    res->quiet = quiet;
    res->platform = platform;
    for (unsigned i = 0; i < ARRAY_LEN(platforms); i++)
        if (!strcmp(platforms[i].name, platform))
            res->bit = platforms[i].bit;
    res->laxer = g_ptr_array_new_with_free_func(laxer_free);
    unsigned the_one = 0;
    while (only && the_one < CHECKS - 1 && strcmp(check_name(the_one), only) != 0)
        the_one++;
    for (uint64_t i = 0; i < n && (!tick || tick(i, opaque)); i++) {
        if (only)
            try_check(res, h, the_one, &r);
        else if (i & 1)
            try_near(res, h, seed, i);
        else
            try_check(res, h, (unsigned)(i / 2 % CHECKS), &r);
    }
    return res;
}

void state_checks_free(ChecksResult *res)
{
    g_ptr_array_unref(res->laxer);
    state_host_free(res->quiet);
    g_free(res);
}

enum Verdict { AGREE, IS_STRICTER, IS_LAXER, IS_LOST, UNTRIED };
static const char *const verdict_name[] = {"agree", "stricter", "laxer", "lost", "untried"};

static enum Verdict verdict(const CheckCount *c)
{
    return c->wrong[LAXER]      ? IS_LAXER
           : c->wrong[STRICTER] ? IS_STRICTER
           : c->lost            ? IS_LOST
           : c->states          ? AGREE
                                : UNTRIED;
}

/* Is that known of this kind of KVM? */
static const char *known(const ChecksResult *res, unsigned check, enum Wrong w)
{
    return w == STRICTER ? strict_reason(check, res->bit) : NULL;
}

ChecksCounts state_checks_counts(const ChecksResult *res)
{
    ChecksCounts n = {.checks = CHECKS, .laxer = res->laxer->len, .findings = res->laxer->len};
    for (unsigned i = 0; i < CHECKS; i++) {
        const CheckCount *c = &res->check[i];
        enum Verdict v = verdict(c);
        n.agree += v == AGREE;
        n.stricter += v == IS_STRICTER;
        n.laxer += v == IS_LAXER;
        n.lost += v == IS_LOST;
        for (enum Wrong w = 0; w < WRONGS; w++)
            n.findings += c->wrong[w] && !known(res, i, w);
    }
    return n;
}

static void check_text(const ChecksResult *res, unsigned i, GString *out)
{
    const CheckCount *c = &res->check[i];
    g_string_append_printf(
        out,
        "%-20s %-9s %3" G_GUINT64_FORMAT " states: %3" G_GUINT64_FORMAT
        " by ioctl, %3" G_GUINT64_FORMAT " by entry, %3" G_GUINT64_FORMAT " entered",
        check_name(i), verdict_name[verdict(c)], c->states, c->by_ioctl, c->by_entry, c->entered);
    if (c->noted)
        g_string_append_printf(out, ", %" G_GUINT64_FORMAT " of them noted", c->noted);
    if (c->lost)
        g_string_append_printf(out, ", %" G_GUINT64_FORMAT " of them as another state", c->lost);
    if (c->broken)
        g_string_append_printf(out, ", %" G_GUINT64_FORMAT " without a verdict", c->broken);
    if (strict_reason(i, res->bit) && !c->wrong[STRICTER])
        g_string_append(out, "; it was known to be entered, and no longer is");
    g_string_append_c(out, '\n');
    for (enum Wrong w = 0; w < WRONGS; w++) {
        const char *reason = known(res, i, w);
        if (c->wrong[w])
            g_string_append_printf(out,
                                   "    %s %s, %" G_GUINT64_FORMAT " states%s%s\n"
                                   "    such as: %s\n",
                                   reason ? "known" : "FINDING", wrong_name[w], c->wrong[w],
                                   reason ? ": " : "", reason ? reason : "", c->example[w]);
    }
}

void state_checks_text(const ChecksResult *res, GString *out)
{
    g_string_append_printf(out, "platform %s\n", res->platform);
    for (unsigned i = 0; i < CHECKS; i++)
        check_text(res, i, out);
    g_string_append_printf(out,
                           "near misses: %" G_GUINT64_FORMAT " states, %" G_GUINT64_FORMAT
                           " entered (%" G_GUINT64_FORMAT " without an end), %" G_GUINT64_FORMAT
                           " refused by both, %" G_GUINT64_FORMAT " without a verdict\n",
                           res->near, res->near_entered, res->near_endless, res->near_by_both,
                           res->broken);
    for (unsigned i = 0; i < res->laxer->len; i++) {
        const Laxer *l = res->laxer->pdata[i];
        g_string_append_printf(out,
                               "FINDING laxer: %" G_GUINT64_FORMAT
                               " states with %s bent pass our checks and are refused\n"
                               "    state %" G_GUINT64_FORMAT ": %s: %s\n    %s\n",
                               l->count, l->bent, l->index, l->value, l->why, l->outline);
    }
}

void state_checks_json(const ChecksResult *res, GString *out)
{
    for (unsigned i = 0; i < CHECKS; i++) {
        const CheckCount *c = &res->check[i];
        g_string_append_printf(
            out,
            "{\"type\":\"check\",\"platform\":\"%s\",\"check\":\"%s\",\"verdict\":\"%s\","
            "\"known\":%s,\"states\":%" G_GUINT64_FORMAT ",\"by_ioctl\":%" G_GUINT64_FORMAT
            ",\"by_entry\":%" G_GUINT64_FORMAT ",\"entered\":%" G_GUINT64_FORMAT
            ",\"noted\":%" G_GUINT64_FORMAT ",\"lost\":%" G_GUINT64_FORMAT
            ",\"broken\":%" G_GUINT64_FORMAT,
            res->platform, check_name(i), verdict_name[verdict(c)],
            strict_reason(i, res->bit) ? "true" : "false", c->states, c->by_ioctl, c->by_entry,
            c->entered, c->noted, c->lost, c->broken);
        for (enum Wrong w = 0; w < WRONGS; w++)
            g_string_append_printf(out, ",\"%s\":%" G_GUINT64_FORMAT, wrong_name[w], c->wrong[w]);
        g_string_append(out, "}\n");
    }
    for (unsigned i = 0; i < res->laxer->len; i++) {
        const Laxer *l = res->laxer->pdata[i];
        g_string_append_printf(out,
                               "{\"type\":\"laxer\",\"platform\":\"%s\",\"bent\":\"%s\",\"value\":"
                               "\"%s\",\"why\":\"%s\",\"state\":%" G_GUINT64_FORMAT
                               ",\"count\":%" G_GUINT64_FORMAT "}\n",
                               res->platform, l->bent, l->value, l->why, l->index, l->count);
    }
}
