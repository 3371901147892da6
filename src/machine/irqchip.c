/*
 * The interrupt controllers as a whole, whoever holds them.
 *
 * The device models are their home: there they are while a software engine runs the vCPUs, and
 * whenever the machine is stopped. With kernel-irqchip=on or split, KVM has controllers of its own,
 * which cannot be taken away from it. While vCPUs run in KVM these act; the models are parked: they
 * remember what devices drive, and nothing else. "Out" and "home" move the state between the two,
 * all vCPUs paused, on the main thread, where timers and character input are as well: so nobody
 * raises anything meanwhile. Lines that are up are the devices' and are asserted anew by what holds
 * the controllers from then on.
 */
#include <string.h>

#include "base/log.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"
#include "vmstate/rules.h"

/* ---- who has them ---- */

/* Not asked for: on, unless something is better without. */
static void choose(Machine *m, bool kvm)
{
    const char *accel = m->cfg.accel ? m->cfg.accel : "auto", *why;
    if (!kvm)
        why = "this machine is without KVM";
    else if (strcmp(accel, "auto") != 0 && strncmp(accel, "kvm", 3) != 0)
        why = "the vCPUs do not start in KVM";
    else if (!kvm_has_hardware())
        why = "the processor has neither VMX nor SVM: this KVM runs guests in software";
    else if (!kvm_irqchip_possible(IRQCHIP_ON, NULL))
        why = "this KVM cannot be given them";
    else if ((m->cfg.policies && *m->cfg.policies) || m->cfg.record_rip)
        why = "a policy or recording needs each vCPU to move or to be interrupted by itself";
    else
        why = NULL;
    m->vm.irqchip = why ? IRQCHIP_OFF : IRQCHIP_ON;
    g_strlcpy(m->irqchip_why, why ? why : "not asked for, and nothing speaks against it",
              sizeof(m->irqchip_why));
}

/* Behind the controllers, without which KVM's 8254 has nothing to raise. */
static bool choose_pit(Machine *m, GError **err)
{
    static const char option[] = "-machine kernel-pit=on";
    if (!m->cfg.kernel_pit)
        return true;
    if (m->vm.irqchip != IRQCHIP_ON) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "%s needs kernel-irqchip=on, and this machine's is %s (%s)", option,
                    m->vm.irqchip == IRQCHIP_SPLIT ? "split" : "off", m->irqchip_why);
        return false;
    }
    if (!kvm_pit_possible(err)) {
        g_prefix_error(err, "%s: ", option);
        return false;
    }
    m->vm.kernel_pit = true;
    return true;
}

bool irqchip_choose(Machine *m, bool kvm, GError **err)
{
    static const char *const name[] = {
        [IRQCHIP_OFF] = "off", [IRQCHIP_SPLIT] = "split", [IRQCHIP_ON] = "on"};
    const char *asked = m->cfg.kernel_irqchip;
    unsigned kind = 0;
    if (!asked) {
        choose(m, kvm);
        return choose_pit(m, err);
    }
    while (kind < ARRAY_LEN(name) && strcmp(asked, name[kind]))
        kind++;
    if (kind == ARRAY_LEN(name)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-machine kernel-irqchip=%s: there are on, split and off", asked);
        return false;
    }
    if (kind != IRQCHIP_OFF && !kvm) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "-machine kernel-irqchip=%s is about KVM, which this machine is without: %s",
                    asked, m->engine_error[ENGINE_KVM]->message);
        return false;
    }
    if (kind != IRQCHIP_OFF && !kvm_irqchip_possible((enum Irqchip)kind, err)) {
        g_prefix_error(err, "-machine kernel-irqchip=%s: ", asked);
        return false;
    }
    m->vm.irqchip = (enum Irqchip)kind;
    g_strlcpy(m->irqchip_why, "asked for", sizeof(m->irqchip_why));
    return choose_pit(m, err);
}

/* ---- what reaches the controllers meanwhile ---- */

static bool message(void *opaque, uint64_t address, uint32_t data)
{
    Machine *m = opaque;
    return kvm_send_msi(&m->vm, address, data);
}

void irqchip_line(Machine *m, unsigned gsi, bool level)
{
    if (gsi == 2 && level && !pit_may_tick(m))
        return;
    if (gsi == 2 && level)
        irq0_raised(m);
    if (m->chips_in_kvm && m->vm.irqchip == IRQCHIP_ON)
        kvm_irq_line(&m->vm, gsi, level);
}

void irqchip_pic_intr(Machine *m)
{
    if (!m->chips_in_kvm)
        return;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        if (i8259_intr(m->pc.pic))
            vcpu_kick(m->vcpus[i], VREQ_INTR);
        else
            vcpu_request_clear(m->vcpus[i], VREQ_INTR);
    }
}

/* Split: of level-triggered entries KVM must report the EOI. */
static void entries_changed(void *opaque)
{
    Machine *m = opaque;
    g_autoptr(GError) err = NULL;
    IoapicState s;
    ioapic_save(m->pc.ioapic, &s);
    if (!kvm_route_levels(&m->vm, &s, &err))
        warn_user("%s", err->message);
}

typedef struct LapicWork {
    Machine *m;
    LapicState *s;
    uint32_t version;
    GError *err;
} LapicWork;

static void version_work(Vcpu *v, void *opaque)
{
    LapicWork *w = opaque;
    kvm_lapic_version(v, &w->version, &w->err);
}

bool irqchip_init(Machine *m, GError **err)
{
    if (m->vm.irqchip == IRQCHIP_OFF)
        return true;
    LapicWork w = {.m = m};
    vcpu_run_on(m->vcpus[0], version_work, &w);
    if (w.err) {
        g_propagate_error(err, w.err);
        return false;
    }
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_set_kind(m->pc.lapic[i], w.version, KVM_APIC_BUS_HZ);
    if (m->vm.irqchip == IRQCHIP_SPLIT)
        ioapic_watch(m->pc.ioapic, entries_changed, m);
    irq0_watch(m);
    return pit_init(m, err);
}

/* ---- moving ---- */

static void park(Machine *m, bool parked)
{
    m->chips_in_kvm = parked;
    apic_bus_divert(parked ? message : NULL, m);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_park(m->pc.lapic[i], parked);
    if (m->vm.irqchip == IRQCHIP_ON) {
        i8259_park(m->pc.pic, parked);
        ioapic_park(m->pc.ioapic, parked);
    }
    if (m->vm.kernel_pit)
        i8254_park(m->pc.pit, parked);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        machine_update_intr(m->vcpus[i]);
}

static void get_work(Vcpu *v, void *opaque)
{
    LapicWork *w = opaque;
    LapicState *s = &w->s[v->id];
    /* KVM may acknowledge an interrupt meanwhile: its copy of the vCPU has to be the true one. */
    if (vcpu_bring_in(v, &w->err) && kvm_take_nmi(v, &w->err) && kvm_lapic_get(v, s, &w->err))
        chip_rules_apply(s, NULL, RULE_TO_SOFT, NULL);
}

static void set_work(Vcpu *v, void *opaque)
{
    LapicWork *w = opaque;
    LapicState *s = &w->s[v->id];
    s->at_ns = MAX_OF(clock_ns(w->m->vm.clock), 1);
    chip_rules_apply(s, NULL, RULE_TO_KVM, NULL);
    kvm_lapic_set(v, s, &w->err);
}

static bool each_lapic(LapicWork *w, VcpuWork *fn, GError **err)
{
    for (unsigned i = 0; i < w->m->vm.n_vcpus && !w->err; i++)
        vcpu_run_on(w->m->vcpus[i], fn, w);
    if (w->err)
        g_propagate_error(err, w->err);
    return !w->err;
}

bool irqchip_home(Machine *m, GError **err)
{
    g_autofree LapicState *lapic = g_new0(LapicState, m->vm.n_vcpus);
    ChipState chips;
    LapicWork w = {.m = m, .s = lapic};
    bool on = m->vm.irqchip == IRQCHIP_ON;
    if (!m->chips_in_kvm)
        return true;
    /* The chips last: settling a local APIC may still end an interrupt there. The 8254 first, which
     * raises one. */
    if (!pit_home(m, err) || !each_lapic(&w, get_work, err))
        return false;
    machine_lock(m);
    i8259_save(m->pc.pic, chips.pic); /* for what KVM has no place for */
    ioapic_save(m->pc.ioapic, &chips.ioapic);
    machine_unlock(m);
    if (on && !kvm_chips_get(&m->vm, &chips, err))
        return false;
    chip_rules_apply(NULL, &chips, RULE_TO_SOFT, NULL);
    machine_lock(m);
    pit_account(m, irq0_unended(lapic, m->vm.n_vcpus, &chips));
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_load(m->pc.lapic[i], &lapic[i]);
    if (on) {
        i8259_load(m->pc.pic, chips.pic);
        ioapic_load(m->pc.ioapic, &chips.ioapic);
    }
    park(m, false);
    machine_unlock(m);
    return true;
}

bool irqchip_out(Machine *m, GError **err)
{
    g_autofree LapicState *lapic = g_new0(LapicState, m->vm.n_vcpus);
    ChipState chips;
    LapicWork w = {.m = m, .s = lapic};
    bool on = m->vm.irqchip == IRQCHIP_ON;
    if (m->vm.irqchip == IRQCHIP_OFF || m->chips_in_kvm || m->vcpus[0]->engine->is_software)
        return true;
    machine_lock(m);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_save(m->pc.lapic[i], &lapic[i]);
    i8259_save(m->pc.pic, chips.pic);
    ioapic_save(m->pc.ioapic, &chips.ioapic);
    pit_count(m, irq0_unended(lapic, m->vm.n_vcpus, &chips));
    irq0_out(m);
    park(m, true);
    machine_unlock(m);
    chip_rules_apply(NULL, &chips, RULE_TO_KVM, NULL);
    /* OUT of KVM's 8254 is low but for the moment of its tick. */
    if (m->vm.kernel_pit)
        chips.pic[0].line &= (uint8_t)~1;
    /* The local APICs first: the chips may have something for them at once. */
    if (each_lapic(&w, set_work, err) && (!on || kvm_chips_set(&m->vm, &chips, err)) &&
        pit_out(m, err))
        return true;
    machine_lock(m);
    park(m, false);
    machine_unlock(m);
    return false;
}

/* ---- leaving KVM for good ---- */

typedef struct LeaveWork {
    GError *err;
} LeaveWork;

static void take_state(Vcpu *v, void *opaque)
{
    LeaveWork *w = opaque;
    if (!w->err)
        vcpu_sync_state(v, &w->err);
}

static void new_vcpu(Vcpu *v, void *opaque)
{
    LeaveWork *w = opaque;
    if (!w->err)
        engine_kvm.vcpu_init(v, &w->err);
}

static void on_each(Machine *m, VcpuWork *fn, LeaveWork *w)
{
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_run_on(m->vcpus[i], fn, w);
}

/* The controllers are at home, and the vCPUs' state is in Vcpu.st. */
static bool new_vm(Machine *m, GError **err)
{
    enum Irqchip was = m->vm.irqchip;
    LeaveWork w = {NULL};
    KvmAside *aside = kvm_vm_set_aside(&m->vm);
    m->vm.irqchip = IRQCHIP_OFF;
    bool ok = engine_kvm.vm_init(&m->vm, err);
    if (ok)
        on_each(m, new_vcpu, &w);
    if (w.err) {
        g_propagate_error(err, w.err);
        ok = false;
    }
    if (!ok)
        m->vm.irqchip = was;
    kvm_vm_replaced(&m->vm, aside, ok);
    return ok;
}

bool irqchip_leave(Machine *m, const char *why, GError **err)
{
    bool running = m->status == ST_RUNNING;
    LeaveWork w = {NULL};
    if (m->vm.irqchip == IRQCHIP_OFF)
        return true;
    if (cpuid_has(&m->cpuid, FEAT_KVM_PV_IPI)) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "%s needs the interrupt controllers out of KVM, which alone serves the IPIs "
                    "that the guest was told it can ask for (-cpu ...,-kvm-pv-ipi or -machine "
                    "kernel-irqchip=off lets it)",
                    why);
        return false;
    }
    if (!irqchip_home(m, err))
        return false;
    on_each(m, take_state, &w);
    if (w.err) {
        g_propagate_error(err, w.err);
        return false;
    }
    /* KVM's clock is the VM's, and goes on in the new one where it is now. */
    if (running)
        pvclock_stop(m);
    bool ok = new_vm(m, err);
    irq0_watch(m);
    if (ok) {
        pit_free(m);
        m->vm.kernel_pit = false;
        ioapic_watch(m->pc.ioapic, NULL, NULL);
        g_snprintf(m->irqchip_why, sizeof(m->irqchip_why), "they have left KVM for good: %s", why);
        warn_user("%s: the interrupt controllers have left KVM for good (as with -machine "
                  "kernel-irqchip=off)",
                  why);
    }
    if (ok && running)
        pvclock_start(m);
    return ok;
}

/* ---- field by field ---- */

typedef struct ViewWork {
    LapicState *s;
    GError *err;
} ViewWork;

static void view_work(Vcpu *v, void *opaque)
{
    ViewWork *w = opaque;
    if (vcpu_bring_in(v, &w->err))
        kvm_lapic_get(v, w->s, &w->err);
}

bool machine_chips(Machine *m, unsigned cpu, bool raw, ChipView *out, GError **err)
{
    ViewWork w = {&out->lapic, NULL};
    memset(out, 0, sizeof(*out));
    bool away = m->pit.out;
    if (away && !irqchip_home(m, err))
        return false;
    machine_lock(m);
    i8254_save(m->pc.pit, &out->pit);
    i8259_save(m->pc.pic, out->chips.pic);
    ioapic_save(m->pc.ioapic, &out->chips.ioapic);
    if (!m->chips_in_kvm)
        lapic_save(m->pc.lapic[cpu], &out->lapic);
    machine_unlock(m);
    if (away && !irqchip_out(m, err))
        return false;
    if (!m->chips_in_kvm)
        return true;
    vcpu_run_on(m->vcpus[cpu], view_work, &w);
    if (w.err) {
        g_propagate_error(err, w.err);
        return false;
    }
    if (m->vm.irqchip == IRQCHIP_ON && !kvm_chips_get(&m->vm, &out->chips, err))
        return false;
    if (!raw)
        chip_rules_apply(&out->lapic, &out->chips, RULE_TO_SOFT, NULL);
    return true;
}

void machine_chips_dry_run(Machine *m, const Engine *to, unsigned cpu, bool alone, GString *out)
{
    ChipView v;
    RuleNote note[32];
    RuleNotes notes = {note, ARRAY_LEN(note), 0};
    g_autoptr(GError) err = NULL;
    if (m->vm.irqchip == IRQCHIP_OFF || m->vcpus[cpu]->engine->is_software == to->is_software)
        return;
    if (alone) {
        g_string_append(out, "  the interrupt controllers would leave KVM for good\n");
        return;
    }
    if (!machine_chips(m, cpu, true, &v, &err)) {
        g_string_append_printf(out, "  the interrupt controllers cannot be had: %s\n",
                               err->message);
        return;
    }
    v.lapic.at_ns = MAX_OF(clock_ns(m->vm.clock), 1);
    chip_rules_apply(&v.lapic, m->vm.irqchip == IRQCHIP_ON ? &v.chips : NULL,
                     to->is_software ? RULE_TO_SOFT : RULE_TO_KVM, &notes);
    g_string_append_printf(out, "  rules would change %u fields of the interrupt controllers%s\n",
                           notes.n, notes.n ? ":" : "");
    for (unsigned i = 0; i < MIN_OF(notes.n, ARRAY_LEN(note)); i++)
        g_string_append_printf(out, "    %-18s %s -> %s\n", note[i].rule, note[i].before,
                               note[i].after);
}

/* ---- in words ---- */

/* What the devices here hold is shown; for that they have to be at home. */
static void with_home(Machine *m, void (*fn)(Machine *, unsigned, GString *), unsigned n,
                      GString *out)
{
    static const char *const kind[] = {[IRQCHIP_SPLIT] =
                                           "the local APICs are in KVM (kernel-irqchip=split)",
                                       [IRQCHIP_ON] = "they are in KVM (kernel-irqchip=on)"};
    g_autoptr(GError) err = NULL;
    bool away = m->chips_in_kvm;
    if (away) {
        g_string_append_printf(out, "%s\n", kind[m->vm.irqchip]);
        vcpus_pause(&m->vm);
    }
    if (irqchip_home(m, &err)) {
        machine_lock(m);
        fn(m, n, out);
        machine_unlock(m);
        if (away)
            irqchip_out(m, &err);
    }
    if (err)
        g_string_append_printf(out, "Error: %s\n", err->message);
    if (away)
        vcpus_resume(&m->vm);
}

static void describe_pic(Machine *m, unsigned n, GString *out)
{
    m->pc.pic->cls->describe(m->pc.pic, out);
    m->pc.ioapic->cls->describe(m->pc.ioapic, out);
}

static void describe_lapic(Machine *m, unsigned cpu, GString *out)
{
    lapic_describe(m->pc.lapic[cpu], out);
}

void machine_describe_pic(Machine *m, GString *out)
{
    with_home(m, describe_pic, 0, out);
}

void machine_describe_lapic(Machine *m, unsigned cpu, GString *out)
{
    with_home(m, describe_lapic, cpu, out);
}
