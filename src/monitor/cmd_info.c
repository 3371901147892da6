/* info: what can be seen of the machine. */
#include <string.h>
#include <unistd.h>

#include "kvm/kvm.h"
#include "monitor/monitor_priv.h"
#include "switch/policy.h"
#include "switch/vcpu_loop.h"
#include "jit/jit.h"
#include "vmstate/checks.h"
#include "vmstate/rules.h"
#include "vmstate/state.h"

#define X64 "%016" G_GINT64_MODIFIER "x"

Vcpu *monitor_vcpu(MonState *mon)
{
    return machine_vm(mon->m)->vcpu[mon->cpu];
}

typedef struct StateWork {
    void (*fn)(Vcpu *, void *);
    void *opaque;
    GError *err;
} StateWork;

static void state_work(Vcpu *v, void *opaque)
{
    StateWork *w = opaque;
    if (vcpu_sync_state(v, &w->err))
        w->fn(v, w->opaque);
}

bool monitor_with_state(Vcpu *v, void (*fn)(Vcpu *, void *), void *opaque, GString *out)
{
    StateWork w = {fn, opaque, NULL};
    vcpu_run_on(v, state_work, &w);
    if (!w.err)
        return true;
    g_string_append_printf(out, "Error: cpu %d: %s\n", v->id, w.err->message);
    g_error_free(w.err);
    return false;
}

void info_version(MonCall *c)
{
    g_string_append(c->out, TANDEM_VERSION "\n");
}

void info_name(MonCall *c)
{
    const char *name = machine_config(c->m)->name;
    if (name)
        g_string_append_printf(c->out, "%s\n", name);
}

void info_status(MonCall *c)
{
    g_string_append_printf(c->out, "VM status: %s\n", run_status_name(machine_status(c->m)));
}

void info_accel(MonCall *c)
{
    machine_describe_accel(c->m, c->out);
}

void info_kvm(MonCall *c)
{
    bool there = machine_vm(c->m)->kvm != NULL;
    g_string_append_printf(c->out, "kvm support: %s\n", there ? "enabled" : "not in this machine");
    if (there)
        kvm_describe(c->out);
}

void info_chardev(MonCall *c)
{
    const MachineConfig *cfg = machine_config(c->m);
    for (unsigned i = 0; i < MACHINE_SERIALS; i++)
        g_string_append_printf(c->out, "serial%u: %s\n", i, chardev_describe(cfg->serial[i]));
    g_string_append_printf(c->out, "debugcon: %s\n", chardev_describe(cfg->debugcon));
}

typedef struct CpuLine {
    uint64_t rip;
    enum RunState run;
    const char *engine;
    uint64_t insns, exits;
    pid_t tid;
} CpuLine;

static void cpu_line(Vcpu *v, void *opaque)
{
    *(CpuLine *)opaque =
        (CpuLine){v->st.rip, v->st.run_state, v->engine->name, v->insns, v->exits, gettid()};
}

void info_cpus(MonCall *c)
{
    static const char *const run[] = {
        [RUN_RUNNING] = "",
        [RUN_HALTED] = " (halted)",
        [RUN_WAIT_SIPI] = " (waits for SIPI)",
        [RUN_INIT_RECEIVED] = " (INIT received)",
        [RUN_STOPPED] = " (stopped)",
        [RUN_MWAIT] = " (mwait)",
    };
    VmCommon *vm = machine_vm(c->m);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        CpuLine l;
        char at[SYMBOL_TEXT];
        if (monitor_with_state(vm->vcpu[i], cpu_line, &l, c->out))
            g_string_append_printf(c->out,
                                   "%c CPU #%u: pc=0x" X64
                                   "%s%s engine=%s thread_id=%d insns=%" G_GUINT64_FORMAT
                                   " exits=%" G_GUINT64_FORMAT "\n",
                                   i == c->mon->cpu ? '*' : ' ', i, l.rip,
                                   symbols_note(machine_symbols(c->m), l.rip, at), run[l.run],
                                   l.engine, (int)l.tid, l.insns, l.exits);
    }
}

static void dump(Vcpu *v, void *opaque)
{
    vmstate_dump(&v->st, opaque);
}

void info_registers(MonCall *c)
{
    VmCommon *vm = machine_vm(c->m);
    bool all = c->has[0];
    if (all && strcmp(c->word[0], "-a") != 0) {
        g_string_append_printf(c->out, "registers: '%s' is not -a\n", c->word[0]);
        return;
    }
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        if (!all && i != c->mon->cpu)
            continue;
        g_string_append_printf(c->out, "\nCPU#%u\n", i);
        monitor_with_state(vm->vcpu[i], dump, c->out, c->out);
    }
}

void info_mtree(MonCall *c)
{
    VmCommon *vm = machine_vm(c->m);
    Board *b = machine_board(c->m);
    machine_lock(c->m);
    g_string_append(c->out, "memory:\n");
    for (unsigned i = 0; i < vm->mem->n; i++) {
        const RamSlot *s = &vm->mem->slot[i];
        g_string_append_printf(c->out, "  " X64 "-" X64 " %s @%#" G_GINT64_MODIFIER "x\n", s->gpa,
                               s->gpa + s->size - 1, s->readonly ? "rom" : "ram", s->fd_offset);
    }
    io_describe(b->mmio, c->out);
    io_describe(b->pio, c->out);
    machine_unlock(c->m);
}

void info_rules(MonCall *c)
{
    RuleInfo r;
    for (unsigned i = 0; rule_info(i, &r); i++)
        g_string_append_printf(c->out, "%-3s %-8s %-18s %s\n", r.enabled ? "on" : "off",
                               r.direction == RULE_TO_KVM    ? "to kvm"
                               : r.direction == RULE_TO_SOFT ? "to soft"
                                                             : "both",
                               r.name, r.reason);
}

/* ---- info switch ---- */

typedef struct StatsCopy {
    const char *engine;
    SwitchStats s;
    uint64_t resident[ENGINE_N];
    bool has_prefault;
    KvmPrefault prefault;
    GString *policies;
} StatsCopy;

static void copy_stats(Vcpu *v, void *opaque)
{
    StatsCopy *copy = opaque;
    const SwitchStats *s = vcpu_switch_stats(v);
    copy->engine = v->engine->name;
    if (s)
        copy->s = *s;
    vcpu_residency(v, copy->resident);
    copy->has_prefault = kvm_prefault_stats(v, &copy->prefault);
    g_string_truncate(copy->policies, 0);
    policies_describe(v->vm->policies, v, copy->policies);
}

static void latency_row(GString *out, const char *name, uint64_t last, const LatencyHist *h)
{
    g_string_append_printf(out, "  %-10s %9.1f %9.1f %9.1f %9.1f\n", name, (double)last / 1000,
                           (double)latency_percentile(h, 50) / 1000,
                           (double)latency_percentile(h, 99) / 1000, (double)h->max_ns / 1000);
}

static void direction_row(GString *out, const char *name, const LatencyHist *h)
{
    if (h->count)
        g_string_append_printf(out, "  %-10s %9s %9.1f %9.1f %9.1f\n", name, "",
                               (double)latency_percentile(h, 50) / 1000,
                               (double)latency_percentile(h, 99) / 1000, (double)h->max_ns / 1000);
}

static void residency(GString *out, const uint64_t ns[ENGINE_N])
{
    static const char *const names[ENGINE_N] = {
        [ENGINE_KVM] = "kvm", [ENGINE_JIT] = "jit", [ENGINE_INTERP] = "interp"};
    const char *sep = "  time:";
    for (unsigned i = 0; i < ENGINE_N; i++) {
        if (ns[i])
            g_string_append_printf(out, "%s %s %.3f s", sep, names[i], (double)ns[i] / 1e9);
        sep = ns[i] ? "," : sep;
    }
    g_string_append(out, *sep == ',' ? "\n" : "");
}

static void describe_stats(MonCall *c, unsigned cpu, const StatsCopy *copy)
{
    GString *out = c->out;
    const char *engine = copy->engine;
    const SwitchStats *s = &copy->s;
    char at[SYMBOL_TEXT];
    g_string_append_printf(out,
                           "cpu %u: in %s; switches to kvm %" G_GUINT64_FORMAT
                           ", to jit %" G_GUINT64_FORMAT ", to interp %" G_GUINT64_FORMAT,
                           cpu, engine, s->to[ENGINE_KVM], s->to[ENGINE_JIT], s->to[ENGINE_INTERP]);
    if (s->failed)
        g_string_append_printf(out, ", refused %" G_GUINT64_FORMAT " (last: %s)", s->failed,
                               s->last_error);
    g_string_append_c(out, '\n');
    residency(out, copy->resident);
    if (!s->total.count)
        return;
    g_string_append_printf(out, "  last one at rip 0x" X64 "%s\n", s->last_rip,
                           symbols_note(machine_symbols(c->m), s->last_rip, at));
    g_string_append_printf(out, "  %-10s %9s %9s %9s %9s\n", "us", "last", "p50", "p99", "max");
    for (unsigned i = 0; i < STEP_N; i++)
        latency_row(out, switch_step_name[i], s->last_ns[i], &s->step[i]);
    latency_row(out, "total", s->last_total_ns, &s->total);
    direction_row(out, "out of kvm", &s->out_of_kvm);
    direction_row(out, "into kvm", &s->into_kvm);
    if (!s->n_notes)
        g_string_append(out, "  no rule changed anything in the last switch\n");
    else
        g_string_append(out, "  rules that changed something in the last switch:\n");
    for (unsigned i = 0; i < s->n_notes; i++)
        g_string_append_printf(out, "    %-18s %s -> %s\n", s->note[i].rule, s->note[i].before,
                               s->note[i].after);
    if (s->n_noted)
        g_string_append(out, "  VM-entry checks that noted something in the last switch:\n");
    for (unsigned i = 0; i < s->n_noted; i++) {
        CheckInfo check;
        if (vmentry_check_info(s->noted[i].check, &check))
            g_string_append_printf(out, "    %-18s %s\n", check.name, s->noted[i].why);
    }
}

static const char *reason_of(const char *rule)
{
    RuleInfo r;
    for (unsigned i = 0; rule_info(i, &r); i++) {
        if (!strcmp(r.name, rule))
            return r.reason;
    }
    return "";
}

/* -v: why each rule is there, and the last switches one by one. */
static void describe_more(MonCall *c, const SwitchStats *s)
{
    uint64_t now = (uint64_t)g_get_monotonic_time() * 1000;
    char at[SYMBOL_TEXT];
    for (unsigned i = 0; i < s->n_notes; i++) {
        if (!i || strcmp(s->note[i].rule, s->note[i - 1].rule) != 0)
            g_string_append_printf(c->out, "    %s: %s\n", s->note[i].rule,
                                   reason_of(s->note[i].rule));
    }
    for (unsigned i = 0; i < s->n_noted; i++) {
        CheckInfo check;
        if (vmentry_check_info(s->noted[i].check, &check))
            g_string_append_printf(c->out, "    %s: %s; SDM vol. 3, %s\n", check.name, check.kvm,
                                   check.reference);
    }
    unsigned n = MIN_OF(s->n_records, (unsigned)SWITCH_RECORDS);
    if (n)
        g_string_append_printf(c->out, "  the last %u, the latest first:\n", n);
    for (unsigned k = 1; k <= n; k++) {
        const SwitchRecord *r = &s->record[(s->n_records - k) % SWITCH_RECORDS];
        g_string_append_printf(c->out, "    %10.3f ms ago  %s -> %s  %.1f us  %u fields",
                               (double)(now - MIN_OF(now, r->at_ns)) / 1e6, r->from->name,
                               r->to->name, (double)r->total_ns / 1000, r->fields);
        if (r->noted)
            g_string_append_printf(c->out, "  %u noted", r->noted);
        g_string_append_printf(c->out, "  rip 0x" X64 "%s  (%s)\n", r->rip,
                               symbols_note(machine_symbols(c->m), r->rip, at), r->why);
    }
}

static void describe_prefault(GString *out, const KvmPrefault *p)
{
    if (p->possible || p->pages)
        g_string_append_printf(
            out,
            "  KVM mapped %" G_GUINT64_FORMAT " pages ahead, in %" G_GUINT64_FORMAT
            " switches, %.2f us each (last: %" G_GUINT64_FORMAT " pages, %.1f us)\n",
            p->pages, p->switches, p->pages ? (double)p->ns / 1000 / (double)p->pages : 0.0,
            p->last_pages, (double)p->last_ns / 1000);
    if (p->faults_known)
        g_string_append_printf(
            out, "  page faults that KVM counts for this vCPU: %" G_GUINT64_FORMAT "\n", p->faults);
}

static void describe_jit(Vcpu *v, void *opaque)
{
    jit_describe(v, opaque);
}

void info_jit(MonCall *c)
{
    VmCommon *vm = machine_vm(c->m);
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        vcpu_run_on(vm->vcpu[i], describe_jit, c->out);
}

void info_switch(MonCall *c)
{
    VmCommon *vm = machine_vm(c->m);
    g_autofree StatsCopy *copy = g_new0(StatsCopy, 1);
    g_autoptr(GString) policies = copy->policies = g_string_new(NULL);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        vcpu_run_on(vm->vcpu[i], copy_stats, copy);
        describe_stats(c, i, copy);
        if (c->has[0])
            describe_more(c, &copy->s);
        if (c->has[0] && copy->has_prefault)
            describe_prefault(c->out, &copy->prefault);
        g_string_append(c->out, policies->str);
    }
    uint64_t turns;
    if (c->has[0] && turns_count(vm, &turns))
        g_string_append_printf(c->out,
                               "this KVM makes page tables of its own: vCPUs in it and outside "
                               "take turns, %" G_GUINT64_FORMAT " until now\n",
                               turns);
}
