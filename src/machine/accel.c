/* Which engines this machine has, and which one the vCPUs start in. */
#include <string.h>

#include "base/log.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/rescue.h"
#include "switch/vcpu_loop.h"

static const Engine *const engines[ENGINE_N] = {
    [ENGINE_KVM] = &engine_kvm,
    [ENGINE_INTERP] = &engine_interp,
    [ENGINE_JIT] = &engine_jit,
};

/* The software engine that is best on this host. */
static int best_software(const Machine *m)
{
    return m->engine[ENGINE_JIT] ? ENGINE_JIT : ENGINE_INTERP;
}

/* The names of -accel and of the monitor's switch command. */
static int engine_id(const Machine *m, const char *name)
{
    if (!strcmp(name, "kvm"))
        return ENGINE_KVM;
    if (!strcmp(name, "tcg"))
        return best_software(m);
    if (!strcmp(name, "interp"))
        return ENGINE_INTERP;
    if (!strcmp(name, "jit"))
        return ENGINE_JIT;
    return -1;
}

/* Instructions a microsecond in the translator's worst programs; what KVM has to do better than. */
#define MIPS_WORTHWHILE 100

/* Whether this host's KVM does better than the software engines, and why (not). */
static bool kvm_does_well(char *why, size_t n)
{
    KvmSpeed kvm;
    if (!kvm_speed(&kvm)) {
        g_snprintf(why, n, "auto: no usable KVM");
        return false;
    }
    if (kvm.n_wrong) {
        g_snprintf(why, n, "auto: this KVM gets wrong what kernels need: ");
        for (unsigned i = 0; i < kvm.n_wrong; i++) {
            g_strlcat(why, i ? "; " : "", n);
            g_strlcat(why, kvm.wrong[i], n);
        }
        return false;
    }
    if (kvm.mips < MIPS_WORTHWHILE) {
        g_snprintf(why, n,
                   "auto: this KVM runs privilege 0 at %u million instructions a second, the "
                   "software engine does better",
                   kvm.mips);
        return false;
    }
    g_snprintf(why, n, "auto: KVM runs a test guest right, at %u million instructions a second",
               kvm.mips);
    return true;
}

static bool starts_by_probe(const char *accel)
{
    return !strcmp(accel, "auto");
}

bool accel_starts_in_software(const Machine *m)
{
    char why[sizeof(m->accel_reason)];
    const char *accel = m->cfg.accel ? m->cfg.accel : "auto";
    return starts_by_probe(accel) ? !kvm_does_well(why, sizeof(why))
                                  : !g_str_has_prefix(accel, "kvm");
}

static bool choose_first(Machine *m, GError **err)
{
    const char *accel = m->cfg.accel ? m->cfg.accel : "auto";
    if (starts_by_probe(accel)) {
        bool kvm = m->engine[ENGINE_KVM] && kvm_does_well(m->accel_reason, sizeof(m->accel_reason));
        if (!m->engine[ENGINE_KVM])
            g_snprintf(m->accel_reason, sizeof(m->accel_reason), "auto: no usable KVM: %s",
                       m->engine_error[ENGINE_KVM]->message);
        m->first = m->engine[kvm ? ENGINE_KVM : best_software(m)];
        return true;
    }
    g_auto(GStrv) list = g_strsplit(accel, ":", -1);
    g_autoptr(GString) why = g_string_new(NULL);
    for (char **name = list; *name; name++) {
        int id = engine_id(m, *name);
        if (id < 0) {
            g_set_error(
                err, TANDEM_ERROR, ERR_USAGE,
                "-accel %s: no accelerator '%s'; there are kvm, tcg, jit, interp, a list such as "
                "kvm:tcg, and auto",
                accel, *name);
            return false;
        }
        if (m->engine[id]) {
            if (!m->first) {
                m->first = m->engine[id];
                g_snprintf(m->accel_reason, sizeof(m->accel_reason), "asked for with -accel %s%s%s",
                           accel, why->len ? "; " : "", why->str);
            }
        } else {
            g_string_append_printf(why, "%s%s: %s", why->len ? "; " : "", *name,
                                   m->engine_error[id]->message);
        }
    }
    if (m->first == &engine_kvm && !kvm_has_hardware() && (m->cfg.kernel || m->cfg.bios))
        warn_user("-accel %s: this host's processor has neither VMX nor SVM, and a KVM made of "
                  "software may not run a stock kernel ('info kvm' in the monitor says what it "
                  "gets wrong); -accel auto tries it first",
                  accel);
    if (m->first)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "-accel %s: %s", accel, why->str);
    return false;
}

/* A software-only run must not depend on KVM in any way. */
bool accel_wants_kvm(const Machine *m)
{
    const char *accel = m->cfg.accel ? m->cfg.accel : "auto";
    return strcmp(accel, "interp") != 0 && strcmp(accel, "jit") != 0;
}

/*
 * -overcommit cpu-pm=on: MONITOR and MWAIT are offered, unless a KVM takes part that keeps MWAIT to
 * itself. Who asks for a software engine by name gets them, and leaves such a KVM out. Returns the
 * -cpu argument.
 */
static char *offer_mwait(Machine *m, bool *kvm, const CpuidTable *supported, GError **err)
{
    const char *cpu = m->cfg.cpu ? m->cfg.cpu : "max", *rest = strchr(cpu, ',');
    m->vm.cpu_pm = m->cfg.cpu_pm;
    if (!m->cfg.cpu_pm)
        return g_strdup(cpu);
    if (*kvm && !cpuid_has(supported, FEAT_MONITOR)) {
        if (m->cfg.accel && g_str_has_prefix(m->cfg.accel, "tcg")) {
            *kvm = false;
            m->engine_error[ENGINE_KVM] =
                g_error_new(TANDEM_ERROR, ERR_UNSUPPORTED,
                            "-overcommit cpu-pm=on offers MONITOR and MWAIT, and this host's KVM "
                            "cannot let a guest have them (KVM_CAP_X86_DISABLE_EXITS)");
        } else if (!kvm_can_disable_exits()) {
            g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                        "-overcommit cpu-pm=on: this host's KVM leaves neither HLT nor MWAIT to a "
                        "guest (no KVM_CAP_X86_DISABLE_EXITS); leave it out, or use -accel tcg");
            return NULL;
        } else {
            warn_user("-overcommit cpu-pm=on: HLT and PAUSE are left to the guest, but MONITOR and "
                      "MWAIT cannot be offered: this host's KVM has no MWAIT for guests "
                      "(KVM_CAP_X86_DISABLE_EXITS); -accel tcg has it");
            return g_strdup(cpu);
        }
    }
    /* First, so that -cpu ...,-monitor takes it back. */
    return g_strdup_printf("%.*s,+monitor%s", (int)strcspn(cpu, ","), cpu, rest ? rest : "");
}

static bool choose_cpu(Machine *m, bool *kvm, const CpuidTable *supported, GError **err)
{
    g_autofree char *cpu = offer_mwait(m, kvm, supported, err);
    if (!cpu || !cpuid_build(&m->cpuid, cpu, *kvm ? supported : NULL, m->vm.n_vcpus,
                             clock_tsc_khz(m->vm.clock), err))
        return false;
    if (cpuid_has(&m->cpuid, FEAT_MONITOR) && !m->cfg.cpu_pm) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-cpu %s: 'monitor' comes with -overcommit cpu-pm=on alone: else a guest that "
                    "idles in MWAIT would keep a host processor busy",
                    cpu);
        return false;
    }
    m->vm.cpuid = &m->cpuid;
    return true;
}

bool accel_init(Machine *m, GError **err)
{
    CpuidTable kvm_cpuid;
    const char *accel = m->cfg.accel ? m->cfg.accel : "auto";
    bool want_kvm = accel_wants_kvm(m);
    bool kvm = false;
    m->vm.no_prefault = m->cfg.no_prefault;

    if (want_kvm)
        kvm = kvm_available(&m->engine_error[ENGINE_KVM]) &&
              kvm_supported_cpuid_apic(&kvm_cpuid, &m->engine_error[ENGINE_KVM]);
    else
        m->engine_error[ENGINE_KVM] =
            g_error_new(TANDEM_ERROR, ERR_UNSUPPORTED,
                        "the machine was started with -accel %s, which leaves KVM out; -accel "
                        "tcg or auto keep it",
                        accel);
    if (kvm)
        kvm_cpuid.rescued = !m->cfg.no_rescue;
    if (!irqchip_choose(m, kvm, err))
        return false;
    /* A KVM without hardware does not come back from a hypercall, and keeps no account of what is
     * in service. */
    if (kvm && !kvm_has_hardware())
        cpuid_drop(&kvm_cpuid, FEAT_KVM_PV_SCHED_YIELD);
    if (kvm && (!kvm_has_hardware() || m->vm.irqchip == IRQCHIP_OFF)) {
        cpuid_drop(&kvm_cpuid, FEAT_KVM_PV_IPI);
        cpuid_drop(&kvm_cpuid, FEAT_KVM_PV_EOI);
    }
    if (!choose_cpu(m, &kvm, &kvm_cpuid, err))
        return false;
    if (m->vm.irqchip != IRQCHIP_OFF)
        cpuid_drop_crystal(&m->cpuid);
    for (unsigned e = 0; e < ENGINE_N; e++) {
        if (e == ENGINE_KVM && !kvm)
            continue;
        if (!engines[e]->vm_init || engines[e]->vm_init(&m->vm, &m->engine_error[e]))
            m->engine[e] = engines[e];
    }
    return choose_first(m, err);
}

/* ---- when KVM cannot go on, or gets on badly ---- */

static void adapt_work(Vcpu *v, void *opaque)
{
    adapt_vcpu(opaque, v);
}

static gboolean ask_for_samples(gpointer opaque)
{
    Machine *m = opaque;
    for (unsigned i = 0; i < m->vm.n_vcpus && m->status == ST_RUNNING; i++)
        vcpu_queue(m->vcpus[i], adapt_work, &m->adapt[i]);
    return G_SOURCE_CONTINUE;
}

/* Adaptive is for vCPUs that start in KVM: who starts elsewhere has been put there. */
static bool adaptive(const Machine *m)
{
    return m->engine[ENGINE_KVM] && m->first == m->engine[ENGINE_KVM] && !m->cfg.no_rescue &&
           (m->cfg.adaptive == ADAPTIVE_ON ||
            (m->cfg.adaptive == ADAPTIVE_AUTO && (!m->cfg.accel || !strcmp(m->cfg.accel, "auto"))));
}

/* ---- all vCPUs away from KVM, where it keeps the interrupt controllers ---- */

static gboolean all_home(gpointer opaque)
{
    Machine *m = opaque;
    m->away_moving = true;
    /* What refuses it has been noted by the switch; the timer comes again. */
    bool home = machine_switch(m, m->engine[ENGINE_KVM], -1, NULL);
    m->away_moving = false;
    if (home)
        accel_moved(m);
    return home ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static gboolean all_leave(gpointer opaque)
{
    Machine *m = opaque;
    uint64_t ns = atomic_exchange(&m->away_ns, 0), held = atomic_exchange(&m->away_held, 0);
    GError *err = NULL;
    if (m->ended)
        return G_SOURCE_REMOVE;
    m->away_moving = true;
    if (!machine_switch(m, m->engine[best_software(m)], -1, &err)) {
        warn_user("the vCPUs cannot leave KVM together: %s", err->message);
        g_error_free(err);
    }
    m->away_moving = false;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        if (held >> i & 1)
            vcpu_resume(m->vcpus[i]);
    }
    accel_moved(m);
    m->away_timer = g_timeout_source_new((guint)(ns / NS_PER_MS + 1));
    g_source_set_callback(m->away_timer, all_home, m, NULL);
    g_source_attach(m->away_timer, NULL);
    return G_SOURCE_REMOVE;
}

static void all_away(Vcpu *v, uint64_t ns, bool held)
{
    Machine *m = v->machine;
    uint64_t before = atomic_exchange(&m->away_ns, ns);
    if (held)
        atomic_fetch_or(&m->away_held, BIT(v->id));
    if (!before || held)
        g_idle_add_full(G_PRIORITY_HIGH, all_leave, m, NULL);
}

void accel_moved(Machine *m)
{
    if (!m->away_timer || m->away_moving)
        return;
    g_source_destroy(m->away_timer);
    g_source_unref(m->away_timer);
    m->away_timer = NULL;
}

void accel_vcpu_started(Machine *m, Vcpu *v)
{
    KvmSpeed kvm;
    if (!m->engine[ENGINE_KVM] || !kvm_speed(&kvm))
        return;
    RescuePolicy p = {
        .engine = m->engine[best_software(m)],
        .all_away = all_away,
        .stores_only = m->cfg.no_rescue,
        .confirm_shutdown = kvm.n_wrong,
    };
    vcpu_rescue_set(v, &p);
    if (!adaptive(m))
        return;
    m->adapt[v->id] = (Adapt){.kvm_mips = kvm.mips, .soft_mips = MIPS_WORTHWHILE};
    if (m->adapt_timer)
        return;
    m->adapt_timer = g_timeout_source_new(ADAPT_PERIOD_MS);
    g_source_set_callback(m->adapt_timer, ask_for_samples, m, NULL);
    g_source_attach(m->adapt_timer, NULL);
}

void accel_stop(Machine *m)
{
    accel_moved(m);
    if (!m->adapt_timer)
        return;
    g_source_destroy(m->adapt_timer);
    g_source_unref(m->adapt_timer);
    m->adapt_timer = NULL;
}

void accel_free(Machine *m)
{
    for (unsigned e = 0; e < ENGINE_N; e++) {
        if (m->engine[e] && m->engine[e]->vm_free)
            m->engine[e]->vm_free(&m->vm);
        m->engine[e] = NULL;
        g_clear_error(&m->engine_error[e]);
    }
}

const Engine *machine_engine(Machine *m, const char *name, GError **err)
{
    int id = engine_id(m, name);
    if (id < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "no engine '%s'; there are kvm, tcg, jit and interp", name);
        return NULL;
    }
    if (!m->engine[id])
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "%s cannot run this machine: %s", name,
                    m->engine_error[id] ? m->engine_error[id]->message : "unknown reason");
    return m->engine[id];
}

/* Engines look at some categories when they are entered. */
static void look_again(Vcpu *v G_GNUC_UNUSED, void *opaque G_GNUC_UNUSED) {}

static const struct {
    enum LogCategory category;
    bool translator; /* else both software engines */
} of_engines[] = {{LOG_IN_ASM, false}, {LOG_EXEC, false},   {LOG_CPU, false},   {LOG_INT, false},
                  {LOG_MMU, false},    {LOG_OUT_ASM, true}, {LOG_NOCHAIN, true}};

void machine_log_changed(Machine *m, GString *out)
{
    bool kvm = false, jit = false;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        vcpu_run_on(m->vcpus[i], look_again, NULL);
        kvm |= m->vcpus[i]->engine->id == ENGINE_KVM;
        jit |= m->vcpus[i]->engine->id == ENGINE_JIT;
    }
    for (unsigned k = 0; k < ARRAY_LEN(of_engines); k++) {
        if (!log_on(of_engines[k].category))
            continue;
        const char *name = log_name(of_engines[k].category);
        if (of_engines[k].translator && !jit && !m->engine[ENGINE_JIT])
            g_string_append_printf(out,
                                   "log category %s: of the translator, which is not there: %s\n",
                                   name, m->engine_error[ENGINE_JIT]->message);
        else if (of_engines[k].translator && !jit)
            g_string_append_printf(
                out, "log category %s: of the translator; nothing until 'switch jit'\n", name);
        else if (!of_engines[k].translator && kvm)
            g_string_append_printf(
                out, "log category %s: of the software engines; nothing of vCPUs that are in KVM\n",
                name);
    }
}

static void describe_vcpu(Vcpu *v, void *opaque)
{
    const Machine *m = v->machine;
    GString *out = opaque;
    g_string_append_printf(out, "cpu %d: %s", v->id, v->engine->name);
    if (m->adapt_timer) {
        g_string_append(out, "; adaptive: ");
        adapt_describe(&m->adapt[v->id], out);
    }
    g_string_append_c(out, '\n');
}

void machine_describe_accel(Machine *m, GString *out)
{
    g_string_append_printf(out, "started in %s (%s)\n", m->first->name, m->accel_reason);
    for (unsigned e = 0; e < ENGINE_N; e++) {
        if (m->engine[e])
            g_string_append_printf(out, "%-7s available\n", engines[e]->name);
        else
            g_string_append_printf(out, "%-7s not available: %s\n", engines[e]->name,
                                   m->engine_error[e] ? m->engine_error[e]->message
                                                      : "unknown reason");
    }
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_run_on(m->vcpus[i], describe_vcpu, out);
    static const char *const irqchip[] = {
        [IRQCHIP_OFF] = "off: the interrupt controllers are here",
        [IRQCHIP_SPLIT] = "split: the local APICs are in KVM while the vCPUs are",
        [IRQCHIP_ON] = "on: the interrupt controllers are in KVM while the vCPUs are"};
    g_string_append_printf(out, "kernel-irqchip %s (%s)\n", irqchip[m->vm.irqchip], m->irqchip_why);
    if (m->vm.kernel_pit)
        g_string_append(out, "kernel-pit on: so is the PIT\n");
    if (m->vm.cpu_pm)
        g_string_append_printf(out, "cpu-pm on: MONITOR and MWAIT are %soffered%s\n",
                               cpuid_has(&m->cpuid, FEAT_MONITOR) ? "" : "not ",
                               m->engine[ENGINE_KVM] ? "; idle in KVM is left to the guest" : "");
    g_string_append_printf(out, "cpu model %s, tsc %" G_GUINT64_FORMAT " kHz%s\n", m->cpuid.model,
                           clock_tsc_khz(m->vm.clock),
                           m->vm.tsc_offset_fixed ? ", not offset (this KVM cannot)" : "");
}
