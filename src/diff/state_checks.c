/*
 * `tandem diff state --checks`: our VM-entry checks against what this KVM does.
 *
 * Two kinds of states. Such that fail one check and no other: KVM should refuse them too. And near
 * misses, valid states with one field bent: those that fail no check should be entered. Nothing is
 * learnt from KVM_RUN with immediate_exit: KVM then returns before it has looked at the guest's
 * state. So each state is entered for real, with HLTs wherever its RIP may lead.
 */
#include "diff/state.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "vmstate/checks.h"
#include "vmstate/rules.h"

enum Platform { SOFTWARE = 1, SVM = 2, VMX = 4 };
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

typedef struct CheckCount {
    uint64_t states, by_ioctl, by_entry, entered, broken;
    uint64_t undrawn;  /* no state was found that fails it alone */
    char example[400]; /* of a state that was entered all the same */
} CheckCount;

typedef struct Laxer { /* a state that no check refuses, and KVM does */
    char *bent, *value, *why, *outline;
    uint64_t count, index;
} Laxer;

struct ChecksResult {
    const char *platform;
    unsigned bit;
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

static void try_check(ChecksResult *res, StateHost *h, unsigned check, uint64_t *r)
{
    const CpuidTable *t = state_host_vm(h)->cpuid;
    CheckCount *c = &res->check[check];
    CpuState s;

    if (!state_break(&s, check, r, t)) {
        c->undrawn++;
        return;
    }
    state_host_make_enterable(h, &s);
    if (vmentry_failed_mask(&s, t) != BIT(check)) {
        c->undrawn++;
        return;
    }
    Entry e = state_host_enter(h, &s);
    c->states++;
    switch (e.kind) {
    case ENTRY_DONE:
        if (!c->entered++) {
            char why[120] = "";
            vmentry_failed_check(&s, t, why, sizeof(why));
            char around[240];
            outline(&s, around, sizeof(around));
            g_snprintf(c->example, sizeof(c->example), "%s (%s)", why, around);
        }
        break;
    case ENTRY_IOCTL:
        c->by_ioctl++;
        break;
    case ENTRY_REFUSED:
        c->by_entry++;
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
    if (e.kind == ENTRY_DONE)
        res->near_entered++;
    else if (e.kind == ENTRY_BROKEN)
        res->broken++;
    else if (state_explain_refusal(&env, &s, e.why, &why)) /* we would not have put it there */
        res->near_by_both++;
    else
        add_laxer(res, index, bent ? bent : "nothing", &s, &e);
}

ChecksResult *state_checks_run(StateHost *h, const char *platform, uint64_t seed, uint64_t n,
                               bool (*tick)(uint64_t done, void *opaque), void *opaque)
{
    ChecksResult *res = g_new0(ChecksResult, 1);
    uint64_t r = seed;

    res->platform = platform;
    for (unsigned i = 0; i < ARRAY_LEN(platforms); i++)
        if (!strcmp(platforms[i].name, platform))
            res->bit = platforms[i].bit;
    res->laxer = g_ptr_array_new_with_free_func(laxer_free);
    for (uint64_t i = 0; i < n && (!tick || tick(i, opaque)); i++) {
        if (i & 1)
            try_near(res, h, seed, i);
        else
            try_check(res, h, (unsigned)(i / 2 % CHECKS), &r);
    }
    return res;
}

void state_checks_free(ChecksResult *res)
{
    g_ptr_array_unref(res->laxer);
    g_free(res);
}

enum Verdict { AGREE, STRICTER, UNTRIED };

static enum Verdict verdict(const ChecksResult *res, unsigned i)
{
    const CheckCount *c = &res->check[i];
    return c->entered ? STRICTER : c->by_ioctl + c->by_entry ? AGREE : UNTRIED;
}

void state_checks_counts(const ChecksResult *res, unsigned *checks, unsigned *agree,
                         unsigned *stricter, unsigned *laxer, unsigned *findings)
{
    *checks = CHECKS;
    *laxer = res->laxer->len;
    *agree = *stricter = 0;
    *findings = *laxer;
    for (unsigned i = 0; i < CHECKS; i++) {
        enum Verdict v = verdict(res, i);
        *agree += v == AGREE;
        *stricter += v == STRICTER;
        *findings += v == STRICTER && !strict_reason(i, res->bit);
    }
}

void state_checks_text(const ChecksResult *res, GString *out)
{
    static const char *const word[] = {"agree", "stricter", "not tried"};
    g_string_append_printf(out, "platform %s\n", res->platform);
    for (unsigned i = 0; i < CHECKS; i++) {
        const CheckCount *c = &res->check[i];
        const char *reason = strict_reason(i, res->bit);
        enum Verdict v = verdict(res, i);
        g_string_append_printf(
            out,
            "%-20s %-9s %3" G_GUINT64_FORMAT " states: %3" G_GUINT64_FORMAT
            " by ioctl, %3" G_GUINT64_FORMAT " by entry, %3" G_GUINT64_FORMAT " entered",
            vmentry_check_name(i, NULL), word[v], c->states, c->by_ioctl, c->by_entry, c->entered);
        if (c->broken)
            g_string_append_printf(out, ", %" G_GUINT64_FORMAT " without a verdict", c->broken);
        if (v == STRICTER)
            g_string_append_printf(
                out, "\n    %s: %s\n    such as: %s", reason ? "known" : "FINDING",
                reason ? reason : "entered, and no row of state_strict.def says why", c->example);
        else if (reason)
            g_string_append(out, "; it was known to be entered, and no longer is");
        g_string_append_c(out, '\n');
    }
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
        static const char *const word[] = {"agree", "stricter", "untried"};
        g_string_append_printf(
            out,
            "{\"type\":\"check\",\"platform\":\"%s\",\"check\":\"%s\",\"verdict\":\"%s\","
            "\"known\":%s,\"states\":%" G_GUINT64_FORMAT ",\"by_ioctl\":%" G_GUINT64_FORMAT
            ",\"by_entry\":%" G_GUINT64_FORMAT ",\"entered\":%" G_GUINT64_FORMAT
            ",\"broken\":%" G_GUINT64_FORMAT "}\n",
            res->platform, vmentry_check_name(i, NULL), word[verdict(res, i)],
            strict_reason(i, res->bit) ? "true" : "false", c->states, c->by_ioctl, c->by_entry,
            c->entered, c->broken);
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
