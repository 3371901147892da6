/*
 * The switch: drain -> export -> normalise -> check -> import -> commit.
 *
 * Until the commit the engine left behind still holds the whole truth, untouched, so a failure at
 * any step only has to put v->st and `where` back. The one exception is a switch of an engine to
 * itself, whose own copy the import overwrites: there the old state is imported again.
 */
#include "switch/switch.h"

#include <string.h>
#include <time.h>
#include "base/log.h"
#include "cpu/mwait.h"
#include "cpu/pv.h"
#include "kvm/kvm.h"
#include "switch/loop_priv.h"
#include "switch/trace.h"
#include "vmstate/checks.h"
#include "vmstate/state.h"

const char *const switch_step_name[STEP_N] = {
    [STEP_DRAIN] = "drain", [STEP_EXPORT] = "export", [STEP_NORMALISE] = "normalise",
    [STEP_CHECK] = "check", [STEP_IMPORT] = "import", [STEP_COMMIT] = "commit",
};

bool switch_verify;

uint64_t switch_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

bool switch_export(Vcpu *v, GError **err)
{
    enum RunState run_state = v->st.run_state;
    if (!v->engine->export_state(v, GROUPS_ALL | GRP_KNOWN, err))
        return false;
    /* Rule halt-state: without an in-kernel APIC, KVM calls every vCPU runnable; who is halted or
     * waits for SIPI only the loop knows. */
    if (run_state == RUN_STOPPED || (run_state != RUN_RUNNING && !vcpu_waits_in_engine(v)))
        v->st.run_state = run_state;
    return true;
}

bool switch_normalise(Vcpu *v, enum RuleDirection dir, RuleNotes *notes, GError **err)
{
    RuleEnv env = {.cpuid = v->vm->cpuid, .tsc_offset_fixed = v->vm->tsc_offset_fixed};
    return rules_apply(&v->st, dir, &env, notes, err);
}

CheckEnv switch_check_env(const VmCommon *vm)
{
    return (CheckEnv){.cpuid = vm->cpuid, .kvm_quirk = vm->kvm_quirk};
}

bool switch_check(const Vcpu *v, CheckNotes *notes, GError **err)
{
    const CheckEnv env = switch_check_env(v->vm);
    return vmentry_check(&v->st, &env, notes, err);
}

/*
 * A KVM without hardware behind it may take a state in and quietly leave its mode out (paging
 * outside long mode, virtual-8086 mode). So the first state of each mode that goes into an engine
 * is asked back for what makes the mode; from then on the engine is known to hold it.
 */
enum Mode { MODE_REAL, MODE_VM86, MODE_PROTECTED, MODE_PAGED, MODE_PAE, MODE_LONG };
static const char *const mode_name[] = {
    [MODE_REAL] = "real mode",           [MODE_VM86] = "virtual-8086 mode",
    [MODE_PROTECTED] = "protected mode", [MODE_PAGED] = "32-bit paging",
    [MODE_PAE] = "PAE paging",           [MODE_LONG] = "long mode",
};
static _Atomic uint32_t modes_held[ENGINE_N];

static enum Mode mode_of(const CpuState *s)
{
    if (!(s->cr0 & CR0_PE))
        return MODE_REAL;
    if (s->efer & EFER_LMA)
        return MODE_LONG;
    if (s->rflags & FL_VM)
        return MODE_VM86;
    if (!(s->cr0 & CR0_PG))
        return MODE_PROTECTED;
    return s->cr4 & CR4_PAE ? MODE_PAE : MODE_PAGED;
}

static bool mode_came_back(Vcpu *v, const Engine *to, enum Mode m, GError **err)
{
    static const char *const names[] = {"CR0", "CR4", "EFER", "RFLAGS"};
    CpuState in = v->st;
    if (!to->export_state(v, GRP_REGS | GRP_SREGS, err))
        return false;
    const uint64_t went[] = {in.cr0, in.cr4, in.efer, in.rflags};
    const uint64_t came[] = {v->st.cr0, v->st.cr4, v->st.efer, v->st.rflags};
    v->st = in;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (went[i] != came[i]) {
            g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                        "%s does not hold %s on this host: %s went in as %#" G_GINT64_MODIFIER
                        "x and came back as %#" G_GINT64_MODIFIER "x",
                        to->name, mode_name[m], names[i], went[i], came[i]);
            return false;
        }
    }
    return true;
}

static bool import_as(Vcpu *v, const Engine *to, unsigned known, GError **err)
{
    if (!to->import_state(v, GROUPS_ALL | known, err))
        return false;
    if (to->is_software)
        return true;
    enum Mode m = mode_of(&v->st);
    if (likely(atomic_load_explicit(&modes_held[to->id], memory_order_relaxed) & BIT(m)))
        return true;
    if (!mode_came_back(v, to, m, err))
        return false;
    atomic_fetch_or(&modes_held[to->id], (uint32_t)BIT(m));
    return true;
}

bool switch_import(Vcpu *v, const Engine *to, GError **err)
{
    return import_as(v, to, 0, err);
}

typedef struct Verify {
    char text[160];
    uint64_t noted; /* checks that said what KVM will change */
    unsigned n;
} Verify;

static void note_difference(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    Verify *d = opaque;
    if (unlikely(d->noted) && vmentry_may_change(d->noted, f->name))
        return;
    if (!d->n++)
        g_snprintf(d->text, sizeof(d->text), "%s went in as %s and came back as %s", f->name, a, b);
}

/* Of a segment that is unusable nothing is state but SS.DPL; VMX's KVM sets the accessed bit all
 * the same. */
static void forget_unusable(const CpuState *in, CpuState *out)
{
    for (unsigned i = ES; i <= LDTR; i++)
        if (in->seg[i].attr & out->seg[i].attr & SEG_UNUSABLE)
            out->seg[i].attr = SEG_UNUSABLE | (i == SS ? out->seg[i].attr & SEG_DPL : 0);
}

/* What the target took in must come out again. v->st is the state as imported before and after. */
static bool verify_import(Vcpu *v, const Engine *to, GError **err)
{
    CpuState in = v->st;
    const CheckEnv env = switch_check_env(v->vm);
    Verify d = {.noted = to->is_software ? 0 : vmentry_mask(&in, &env, VMENTRY_NOTED)};
    if (!to->export_state(v, GROUPS_ALL, err))
        return false;
    v->st.run_state = in.run_state;
    forget_unusable(&in, &v->st);
    /* SVM has one shadow for both kinds (rule int-shadow): that there is one is all that can be
     * held. */
    if ((in.ev.shadow_sti || in.ev.shadow_mov_ss) ==
        (v->st.ev.shadow_sti || v->st.ev.shadow_mov_ss)) {
        v->st.ev.shadow_sti = in.ev.shadow_sti;
        v->st.ev.shadow_mov_ss = in.ev.shadow_mov_ss;
    }
    vmstate_diff(&in, &v->st, GROUPS_ALL, note_difference, &d);
    v->st = in;
    if (d.n) {
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "%s does not hold the state: %s (%u in all)",
                    to->name, d.text, d.n);
        return false;
    }
    return true;
}

/* Everything up to the commit; *step is where it stopped. mark() ends a step. */
typedef struct Run {
    uint64_t t, ns[STEP_N];
    enum SwitchStep step;
} Run;

static void mark(Run *r)
{
    uint64_t t = switch_now_ns();
    r->ns[r->step++] = t - r->t;
    r->t = t;
}

/* Where KVM keeps interrupt controllers, these move as a whole, with all vCPUs (machine/irqchip.c).
 */
static bool moves_alone(const Vcpu *v, const Engine *to, SwitchReason reason, GError **err)
{
    /* A rescue comes back before the vCPU can miss them. */
    if (v->vm->irqchip == IRQCHIP_OFF || reason == SWITCH_RESCUE || v->vm->moving ||
        v->engine->is_software == to->is_software)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                "the interrupt controllers are in KVM, so all vCPUs move together (-machine "
                "kernel-irqchip=off lets one move alone)");
    return false;
}

static bool move(Vcpu *v, const Engine *to, Run *r, CpuState *old, bool *imported, RuleNotes *notes,
                 CheckNotes *noted, GError **err)
{
    const Engine *from = v->engine;
    enum RuleDirection dir = from == to && from->is_software ? RULE_BOTH
                             : to->is_software               ? RULE_TO_SOFT
                                                             : RULE_TO_KVM;

    if (!from->drain(v, err))
        return false;
    mark(r);
    if (v->where == ST_IN_ENGINE) {
        enum RunState run_state = v->st.run_state;
        bool ok = switch_export(v, err);
        *old = v->st;
        if (!ok) { /* nothing else that is not the engine's is touched */
            old->run_state = run_state;
            return false;
        }
    } else {
        *old = v->st;
    }
    mark(r);
    if (!switch_normalise(v, dir, notes, err))
        return false;
    mark(r);
    if (dir & RULE_TO_KVM && !switch_check(v, noted, err))
        return false;
    mark(r);
    *imported = true;
    if (!import_as(v, to, GRP_KNOWN, err))
        return false;
    if (unlikely(switch_verify) && !verify_import(v, to, err))
        return false;
    mark(r);
    return true;
}

static void put_back(Vcpu *v, const Engine *to, const CpuState *old, bool was_in_engine,
                     bool imported)
{
    v->st = *old;
    v->where = was_in_engine ? ST_IN_ENGINE : ST_CANONICAL;
    if (imported && v->engine == to) {
        /* The engine's own copy was overwritten; what it held a moment ago it takes again. If even
         * that fails, the loop's next import says so. */
        v->where = v->engine->import_state(v, GROUPS_ALL, NULL) ? ST_IN_ENGINE : ST_CANONICAL;
    }
}

static void record(SwitchStats *s, const Run *r, const Engine *from, const Engine *to, bool ok,
                   const GError *err)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < STEP_N; i++) {
        s->last_ns[i] = i < r->step ? r->ns[i] : 0;
        total += s->last_ns[i];
    }
    s->last_total_ns = total;
    if (!ok) {
        s->failed++;
        g_strlcpy(s->last_error, err->message, sizeof(s->last_error));
        return;
    }
    s->to[to->id]++;
    for (unsigned i = 0; i < STEP_N; i++)
        latency_add(&s->step[i], r->ns[i]);
    latency_add(&s->total, total);
    if (from->is_software != to->is_software)
        latency_add(to->is_software ? &s->out_of_kvm : &s->into_kvm, total);
}

/* The vCPU was in `from` until now. */
static void account(VcpuLoop *l, const Engine *from, SwitchReason reason, uint64_t now)
{
    uint64_t ns = l->since_ns ? now - l->since_ns : 0;
    l->stats.resident_ns[from->id] += ns;
    l->stats.last_rip = l->v->st.rip;
    l->since_ns = now;
    l->away_told = false;
    policy_moved(l, from, ns, reason == SWITCH_RESCUE);
}

uint64_t switch_since(const VcpuLoop *l)
{
    return l->since_ns ? switch_now_ns() - l->since_ns : 0;
}

void vcpu_residency(const Vcpu *v, uint64_t ns[ENGINE_N])
{
    const VcpuLoop *l = v->loop;
    memset(ns, 0, ENGINE_N * sizeof(ns[0]));
    if (!l)
        return;
    memcpy(ns, l->stats.resident_ns, sizeof(l->stats.resident_ns));
    ns[v->engine->id] += switch_since(l);
}

void switch_started(VcpuLoop *l)
{
    l->since_ns = switch_now_ns();
    if (l->v->vm->trace)
        engine_trace_begin(l->v->vm->trace, l->v);
}

static const char *reason_text(const VcpuLoop *l, SwitchReason reason)
{
    static const char *const why[] = {[SWITCH_USER] = "asked for",
                                      [SWITCH_TEST] = "test",
                                      [SWITCH_POLICY] = "policy",
                                      [SWITCH_RESCUE] = "rescue"};
    const char *policy = l && reason == SWITCH_POLICY ? policy_firing(l) : NULL;
    return policy ? policy : why[reason];
}

static void remember(SwitchStats *s, const SwitchRecord *done, const char *why)
{
    SwitchRecord *r = &s->record[s->n_records++ % SWITCH_RECORDS];
    *r = *done;
    g_strlcpy(r->why, why, sizeof(r->why));
}

static void log_noted(const Vcpu *v, const CheckNote *n)
{
    CheckInfo c;
    if (vmentry_check_info(n->check, &c))
        log_line("cpu %d VM-entry check '%s' noted: %s; %s", v->id, c.name, n->why, c.kvm);
}

/* To whoever asked to be told: the log, the trace, `info switch -v`. */
static void tell(Vcpu *v, const Engine *from, const Engine *to, SwitchReason reason, const Run *r,
                 uint64_t start, unsigned fields, const CheckNotes *noted, const GError *why_not)
{
    VcpuLoop *l = v->loop;
    const char *why = reason_text(l, reason);
    if (l && !why_not)
        remember(&l->stats,
                 &(SwitchRecord){.from = from,
                                 .to = to,
                                 .at_ns = start,
                                 .total_ns = r->t - start,
                                 .rip = v->st.rip,
                                 .fields = fields,
                                 .noted = noted->n},
                 why);
    if (unlikely(v->vm->trace != NULL))
        engine_trace_switch(v->vm->trace, v,
                            &(TracedSwitch){.from = from,
                                            .to = to,
                                            .start_ns = start,
                                            .end_ns = r->t,
                                            .step_ns = r->ns,
                                            .fields = fields,
                                            .noted = noted,
                                            .why = why,
                                            .error = why_not ? why_not->message : NULL});
    if (!log_on(LOG_SWITCH))
        return;
    if (why_not)
        log_line("cpu %d %s -> %s (%s): %s", v->id, from->name, to->name, why, why_not->message);
    else
        log_line("cpu %d %s -> %s (%s): drain %u export %u normalise %u check %u import %u "
                 "commit %u ns, %u fields normalised",
                 v->id, from->name, to->name, why, (unsigned)r->ns[0], (unsigned)r->ns[1],
                 (unsigned)r->ns[2], (unsigned)r->ns[3], (unsigned)r->ns[4], (unsigned)r->ns[5],
                 fields);
    for (unsigned i = 0; i < MIN_OF(noted->n, noted->max); i++)
        log_noted(v, &noted->note[i]);
}

static bool take(Vcpu *v, const Engine *to, SwitchReason reason, GError **err)
{
    VcpuLoop *l = v->loop;
    RuleNotes notes = {l ? l->stats.note : NULL, l ? SWITCH_NOTES_MAX : 0, 0};
    CheckNote kept[SWITCH_NOTED_MAX];
    CheckNotes noted = {kept, SWITCH_NOTED_MAX, 0};
    const Engine *from = v->engine;
    bool was_in_engine = v->where == ST_IN_ENGINE, imported = false;
    CpuState old;
    GError *why_not = NULL;
    Run r = {.t = switch_now_ns()};
    uint64_t start = r.t;

    bool ok = moves_alone(v, to, reason, &why_not) &&
              move(v, to, &r, &old, &imported, &notes, &noted, &why_not);
    if (ok) {
        if (from->is_software && !to->is_software) {
            pv_leave_software(v);
            if (reason != SWITCH_RESCUE)
                kvm_prefault(v);
            if (from->leave)
                from->leave(v);
        }
        if (!to->is_software) /* what it watches by then nobody tells us */
            mwait_disarm(v);
        v->engine = to;
        v->where = ST_IN_ENGINE;
        if (to->enter)
            to->enter(v);
        mark(&r);
    } else {
        if (r.step == STEP_DRAIN)
            old = v->st;
        put_back(v, to, &old, was_in_engine, imported);
        g_prefix_error(&why_not, "cpu %d stays in %s: %s: ", v->id, from->name,
                       switch_step_name[r.step]);
    }
    if (l) {
        l->stats.n_notes = MIN_OF(notes.n, SWITCH_NOTES_MAX);
        l->stats.n_noted = MIN_OF(noted.n, SWITCH_NOTED_MAX);
        memcpy(l->stats.noted, kept, l->stats.n_noted * sizeof(kept[0]));
        record(&l->stats, &r, from, to, ok, why_not);
    }
    tell(v, from, to, reason, &r, start, notes.n, &noted, why_not);
    if (ok && l)
        account(l, from, reason, r.t);
    if (!ok)
        g_propagate_error(err, why_not);
    return ok;
}

bool vcpu_switch(Vcpu *v, const Engine *to, SwitchReason reason, GError **err)
{
    bool ok = v->engine == to || take(v, to, reason, err);
    if (ok && reason != SWITCH_RESCUE && v->loop)
        rescue_forget(v->loop);
    return ok;
}

bool vcpu_switch_forced(Vcpu *v, const Engine *to, SwitchReason reason, GError **err)
{
    return take(v, to, reason, err);
}

const SwitchStats *vcpu_switch_stats(const Vcpu *v)
{
    const VcpuLoop *l = v->loop;
    return l ? &l->stats : NULL;
}
