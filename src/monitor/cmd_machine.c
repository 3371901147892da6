/* Commands that act on the machine. */
#include <string.h>

#include "base/log.h"
#include "devices/lapic.h"
#include "monitor/monitor_priv.h"
#include "switch/vcpu_loop.h"

static void error(MonCall *c, GError *err)
{
    g_string_append_printf(c->out, "Error: %s\n", err->message);
    g_error_free(err);
}

void cmd_stop(MonCall *c)
{
    machine_stop(c->m);
}

void cmd_cont(MonCall *c)
{
    enum RunStatus s = machine_status(c->m);
    /* After an internal error the vCPU stands at the instruction: another engine may know it. */
    if (s == ST_SHUTDOWN)
        g_string_append_printf(c->out,
                               "Error: the machine is %s; system_reset has to start it again\n",
                               run_status_name(s));
    else
        machine_cont(c->m);
}

void cmd_system_reset(MonCall *c)
{
    machine_request_reset(c->m);
}

void cmd_system_powerdown(MonCall *c)
{
    machine_powerdown(c->m);
}

void cmd_quit(MonCall *c)
{
    c->mon->quit = true;
    machine_request_quit(c->m, 0);
}

void cmd_cpu(MonCall *c)
{
    unsigned n = machine_vm(c->m)->n_vcpus;
    if (c->number[0] < 0 || c->number[0] >= n)
        g_string_append_printf(c->out, "Error: no cpu %" G_GINT64_FORMAT "; there are 0 to %u\n",
                               c->number[0], n - 1);
    else
        c->mon->cpu = (unsigned)c->number[0];
}

void cmd_nmi(MonCall *c)
{
    VmCommon *vm = machine_vm(c->m);
    machine_lock(c->m);
    for (unsigned i = 0; i < vm->n_vcpus; i++)
        lapic_nmi(vm->vcpu[i]->apic);
    machine_unlock(c->m);
}

void cmd_log(MonCall *c)
{
    GError *err = NULL;
    if (!strcmp(c->word[0], "help")) {
        log_help(c->out);
        return;
    }
    if (!strcmp(c->word[0], "none")) {
        log_set_mask(0);
    } else if (!log_set(c->word[0], &err)) {
        error(c, err);
        return;
    }
    machine_log_changed(c->m, c->out);
}

typedef struct SwitchResult {
    const Engine *in;
    uint64_t ns;
} SwitchResult;

static void result_of(Vcpu *v, void *opaque)
{
    SwitchResult *r = opaque;
    const SwitchStats *s = vcpu_switch_stats(v);
    *r = (SwitchResult){v->engine, s ? s->last_total_ns : 0};
}

typedef struct DryRun {
    const Engine *to;
    GString *out;
    GError *err;
} DryRun;

static void dry_run(Vcpu *v, void *opaque)
{
    DryRun *d = opaque;
    vcpu_switch_dry_run(v, d->to, d->out, &d->err);
}

static void dry_runs(MonCall *c, const Engine *to, unsigned first, unsigned last)
{
    for (unsigned i = first; i <= last; i++) {
        DryRun d = {to, c->out, NULL};
        vcpu_run_on(machine_vm(c->m)->vcpu[i], dry_run, &d);
        if (d.err)
            error(c, d.err);
        else
            machine_chips_dry_run(c->m, to, i, last - first + 1 < machine_vm(c->m)->n_vcpus,
                                  c->out);
    }
    g_string_append(c->out, "nothing was changed\n");
}

enum { SWITCH_DRY, SWITCH_ENGINE, SWITCH_CPU }; /* the row's arguments */

void cmd_switch(MonCall *c)
{
    GError *err = NULL;
    VmCommon *vm = machine_vm(c->m);
    const Engine *to = machine_engine(c->m, c->word[SWITCH_ENGINE], &err);
    bool one = c->has[SWITCH_CPU];
    int64_t cpu = c->number[SWITCH_CPU];
    if (to && one && (cpu < 0 || cpu >= vm->n_vcpus)) {
        g_string_append_printf(c->out, "Error: no cpu %" G_GINT64_FORMAT "; there are 0 to %u\n",
                               cpu, vm->n_vcpus - 1);
        return;
    }
    unsigned first = one ? (unsigned)cpu : 0;
    unsigned last = one ? first : vm->n_vcpus - 1;
    bool was_there[MACHINE_MAX_CPUS] = {false};
    SwitchResult r;
    if (to && c->has[SWITCH_DRY]) {
        vcpus_pause(vm);
        dry_runs(c, to, first, last);
        vcpus_resume(vm);
        return;
    }
    for (unsigned i = first; to && i <= last; i++) {
        vcpu_run_on(vm->vcpu[i], result_of, &r);
        was_there[i] = r.in == to;
    }
    if (!to || !machine_switch(c->m, to, one ? (int)first : -1, &err)) {
        error(c, err);
        return;
    }
    for (unsigned i = first; i <= last; i++) {
        vcpu_run_on(vm->vcpu[i], result_of, &r);
        if (was_there[i])
            g_string_append_printf(c->out, "cpu %u: is in %s already\n", i, to->name);
        else
            g_string_append_printf(c->out, "cpu %u: now in %s (%.1f us)\n", i, to->name,
                                   (double)r.ns / 1000);
    }
}
