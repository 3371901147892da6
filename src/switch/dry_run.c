/* What a switch would do, without doing it. */
#include <string.h>

#include "switch/loop_priv.h"
#include "vmstate/checks.h"

#define NOTES_MAX 200

static void checks(const CpuState *s, const VmCommon *vm, GString *out)
{
    const CheckEnv env = switch_check_env(vm);
    unsigned n = 0, noted = 0, refused = 0;
    CheckInfo c;
    for (; vmentry_check_info(n, &c); n++) {
        char why[120];
        enum VmentryFinding f = vmentry_ask(n, s, &env, why, sizeof(why));
        if (f == VMENTRY_FINE)
            continue;
        bool note = f == VMENTRY_NOTED;
        noted += note;
        refused += !note;
        g_string_append_printf(out, "  VM-entry check '%s' (%s) would %s: %s%s%s\n", c.name,
                               c.reference, note ? "note" : "fail", why, note ? "; " : "",
                               note ? c.kvm : "");
    }
    if (!refused && !noted)
        g_string_append_printf(out, "  all %u VM-entry checks would pass\n", n);
    else if (!refused)
        g_string_append_printf(out, "  none of the %u VM-entry checks would refuse it\n", n);
}

bool vcpu_switch_dry_run(Vcpu *v, const Engine *to, GString *out, GError **err)
{
    const Engine *from = v->engine;
    if (from == to) {
        g_string_append_printf(out, "cpu %d: is in %s already; nothing would be done\n", v->id,
                               to->name);
        return true;
    }
    if (!from->drain(v, err))
        return false;
    /* v->st is scratch while the engine holds the truth; else it is the truth, and only read. */
    g_autofree CpuState *kept = g_memdup2(&v->st, sizeof(v->st));
    if (v->where == ST_IN_ENGINE && !switch_export(v, err)) {
        v->st = *kept;
        return false;
    }
    g_autofree CpuState *state = g_memdup2(&v->st, sizeof(v->st));
    v->st = *kept;

    enum RuleDirection dir = to->is_software ? RULE_TO_SOFT : RULE_TO_KVM;
    RuleEnv env = {.cpuid = v->vm->cpuid, .tsc_offset_fixed = v->vm->tsc_offset_fixed};
    g_autofree RuleNote *note = g_new0(RuleNote, NOTES_MAX);
    RuleNotes notes = {note, NOTES_MAX, 0};
    GError *refused = NULL;
    g_string_append_printf(out, "cpu %d: %s -> %s, at rip %#" G_GINT64_MODIFIER "x\n", v->id,
                           from->name, to->name, state->rip);
    bool ok = rules_apply(state, dir, &env, &notes, &refused);
    g_string_append_printf(out, "  rules would change %u fields%s\n", notes.n, notes.n ? ":" : "");
    for (unsigned i = 0; i < MIN_OF(notes.n, NOTES_MAX); i++)
        g_string_append_printf(out, "    %-18s %s -> %s\n", note[i].rule, note[i].before,
                               note[i].after);
    if (!ok) {
        g_string_append_printf(out, "  and refuse it: %s\n", refused->message);
        g_error_free(refused);
    } else if (dir == RULE_TO_KVM) {
        checks(state, v->vm, out);
        g_string_append(out, "  whether KVM's ioctls take it, only a switch tells\n");
    }
    return true;
}
