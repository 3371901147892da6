/* info rescue: what the software engine did in KVM's place. */
#include "cpu/disasm.h"
#include "monitor/monitor_priv.h"
#include "switch/rescue.h"
#include "switch/vcpu_loop.h"

typedef struct Copy {
    RescueStats s;
    RescuePolicy policy;
    const char *engine;
    bool there;
} Copy;

static void copy_stats(Vcpu *v, void *opaque)
{
    Copy *c = opaque;
    const RescueStats *s = vcpu_rescue_stats(v, &c->policy);
    c->engine = v->engine->name;
    c->there = s;
    if (s)
        c->s = *s;
}

static int hotter(const void *a, const void *b)
{
    const RescueHot *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

static void hot_row(GString *out, const RescueHot *h)
{
    char text[DISASM_TEXT];
    unsigned len = disasm_insn(h->bits, h->insn, h->len, h->rip, text);
    g_string_append_printf(out, "  %10" G_GUINT64_FORMAT " at %016" G_GINT64_MODIFIER "x  %-32s",
                           h->count, h->rip, text);
    len = len ? len : h->len;
    for (unsigned i = 0; i < len; i++)
        g_string_append_printf(out, " %02x", h->insn[i]);
    g_string_append_c(out, '\n');
}

static void describe(GString *out, unsigned cpu, Copy *c)
{
    RescueStats *s = &c->s;
    if (!c->there || !c->policy.engine || c->policy.stores_only) {
        g_string_append_printf(out,
                               "cpu %u: in %s; no rescue (there is no KVM in this machine, or "
                               "-accel kvm,rescue=off)\n",
                               cpu, c->engine);
        return;
    }
    g_string_append_printf(
        out,
        "cpu %u: in %s%s; for KVM %s ran %" G_GUINT64_FORMAT " instructions, %" G_GUINT64_FORMAT
        " of them stores to another vCPU's code; refused entries %" G_GUINT64_FORMAT
        ", other errors %" G_GUINT64_FORMAT ", shutdowns that were none %" G_GUINT64_FORMAT "\n",
        cpu, c->engine, s->away ? " for a while" : "", c->policy.engine->name, s->insns, s->stores,
        s->entries, s->errors, s->shutdowns);
    if (s->stays)
        g_string_append_printf(out,
                               "  stayed there %" G_GUINT64_FORMAT
                               " times, %.1f s in all, way back "
                               "refused %" G_GUINT64_FORMAT "; last: %s\n",
                               s->stays, (double)s->stay_ns / 1e9, s->not_back, s->why);
    qsort(s->hot, RESCUE_HOT, sizeof(s->hot[0]), hotter);
    for (unsigned i = 0; i < RESCUE_HOT && s->hot[i].count; i++)
        hot_row(out, &s->hot[i]);
}

void info_rescue(MonCall *call)
{
    VmCommon *vm = machine_vm(call->m);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        Copy c = {.there = false};
        vcpu_run_on(vm->vcpu[i], copy_stats, &c);
        describe(call->out, i, &c);
    }
}
