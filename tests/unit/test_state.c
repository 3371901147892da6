/*
 * `tandem diff state` without KVM: an engine that loses or changes a field is found and the field
 * named, what is known is explained and no more than that, each VM-entry check can be broken alone.
 */
#include <check.h>
#include <string.h>

#include "diff/diff.h"
#include "base/log.h"
#include "diff/state.h"
#include "vmstate/checks.h"
#include "vmstate/rules.h"
#include "run_suite.h"

static StateHost *host;

static void setup(void)
{
    GError *err = NULL;
    host = state_host_new(false, &err);
    ck_assert_msg(host != NULL, "%s", err ? err->message : "");
}

static void teardown(void)
{
    state_host_free(host);
}

/* ---- engines that are not right ---- */

static const char *mangled;

static bool honest(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    *out = *in;
    return true;
}

static bool mangles(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    const VmstateField *f = vmstate_field(mangled);
    uint8_t *p;
    *out = *in;
    p = (uint8_t *)out + f->offset;
    if (f->type == VMSTATE_BOOL)
        *p = !*p;
    else
        *p ^= 0x10;
    return true;
}

static bool refuses(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    *out = *in;
    if (in->seg[CS].attr & SEG_L) {
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "no long mode today, RIP 0x%lx", (long)in->rip);
        return false;
    }
    return true;
}

/* As an engine that normalises what a rule knows of. */
static bool normalises(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    *out = *in;
    out->seg[TR].attr |= SEG_TSS_BUSY;
    out->dr6 = (in->dr6 & 0xe00f) | DR6_FIXED1;
    return true;
}

static GString *campaign(bool (*through)(StateHost *, const CpuState *, CpuState *, GError **),
                         uint64_t n, unsigned *findings, unsigned *explained)
{
    const StateEngine e = {"fake", "", false, false, through};
    GString *text = g_string_new(NULL);
    StateReport *r = state_report_new();
    ck_assert_uint_eq(state_campaign(host, NULL, &e, 7, n, r, NULL, NULL), n);
    *findings = state_report_findings(r);
    *explained = state_report_explained(r);
    state_report_text(r, text);
    state_report_free(r);
    return text;
}

START_TEST(honest_engine_has_no_findings)
{
    unsigned findings, explained;
    GString *text = campaign(honest, 2000, &findings, &explained);
    ck_assert_msg(!findings && !explained && !text->len, "%s", text->str);
    g_string_free(text, TRUE);
}
END_TEST

static const char *const fields[] = {
    "RBX",
    "R15",
    "RIP",
    "RFLAGS",
    "GDTR",
    "CR2",
    "CR3",
    "EFER",
    "ZMM3",
    "FPR7",
    "FTW",
    "PKRU",
    "XCR0",
    "DR3",
    "LSTAR",
    "PAT",
    "STAR",
    "DS",
    "DR7",
    "TSC",
    "exception.nr",
    "FMASK",
    "interrupt.nr",
    "nmi.masked",
    "MXCSR",
    "CS",
    "smi.pending",
    "exception.error",
    "KERNEL_GS_BASE",
    "MTRR_PHYSMASK7",
};

START_TEST(mangled_field_is_named)
{
    unsigned findings, explained;
    g_autofree char *line = g_strdup_printf("FINDING %s:", fields[_i]);
    mangled = fields[_i];
    GString *text = campaign(mangles, 400, &findings, &explained);
    ck_assert_msg(strstr(text->str, line) != NULL, "%s is not found: %s", mangled, text->str);
    ck_assert_uint_eq(findings, 1);
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(refusal_is_a_finding)
{
    unsigned findings, explained;
    GString *text = campaign(refuses, 200, &findings, &explained);
    /* One, whatever the RIP, for the states that nothing of ours would have refused. */
    ck_assert_uint_eq(findings, 1);
    ck_assert_ptr_nonnull(strstr(text->str, "no long mode today"));
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(rules_explain)
{
    unsigned findings, explained;
    GString *text = campaign(normalises, 20000, &findings, &explained);
    ck_assert_msg(!findings, "%s", text->str);
    ck_assert_ptr_nonnull(strstr(text->str, "by rule 'tr-busy'"));
    ck_assert_ptr_nonnull(strstr(text->str, "by rule 'debug-regs'"));
    g_string_free(text, TRUE);
}
END_TEST

/* ---- state_known.def ---- */

typedef struct Row {
    const char *name, *field; /* field NULL: a refusal, with this message */
    const char *message, *platform;
    void (*in)(CpuState *);
    void (*out)(CpuState *);   /* from what went in */
    void (*wrong)(CpuState *); /* the same, that nothing may explain; NULL for refusals */
} Row;

/* clang-format off */
#define SET(id, code) static void id(CpuState *s) { code; }
SET(nothing, (void)s)
SET(cpl_in, s->cpl = 3) SET(cpl_out, s->cpl = 0) SET(cpl_wrong, s->cpl = 2)
SET(dbg_in, s->msr.debugctl = 3) SET(dbg_out, s->msr.debugctl = 1) SET(dbg_wrong, s->msr.debugctl = 7)
SET(of_in, s->ev.exception.pending = true; s->ev.exception.nr = VEC_OF)
SET(of_out, memset(&s->ev, 0, sizeof(s->ev))) SET(of_wrong, s->ev.exception.pending = false; s->ev.exception.injected = true)
SET(aux_in, s->msr.tsc_aux = 0x700000005) SET(aux_out, s->msr.tsc_aux = 5) SET(aux_wrong, s->msr.tsc_aux = 7)
SET(tr_in, s->seg[TR].attr = 0xb) SET(tr_out, s->seg[TR].attr = 0x1000b) SET(tr_wrong, s->seg[TR].attr = 0x10003)
SET(acc_in, s->seg[TR].attr = 0x8a) SET(acc_out, s->seg[TR].attr = 0x8b) SET(acc_wrong, s->seg[TR].attr = 0x8f)
SET(sys_in, s->msr.sysenter_cs = 0x700000008) SET(sys_out, s->msr.sysenter_cs = 8) SET(sys_wrong, s->msr.sysenter_cs = 0)
SET(sti_in, s->rflags |= FL_IF; s->ev.shadow_sti = true)
SET(sti_out, s->ev.shadow_sti = false; s->ev.shadow_mov_ss = true) SET(sti_wrong, s->ev.shadow_sti = false)
SET(pg_in, s->cr0 |= CR0_PG) SET(pg_out, s->cr0 &= ~CR0_PG) SET(pg_wrong, s->cr0 &= ~(CR0_PG | CR0_NE))
SET(pae_in, s->cr0 |= CR0_PG; s->cr4 = CR4_PAE; s->pdpte[2] = 0x1001)
SET(pae_out, s->cr0 &= ~CR0_PG; s->pdpte[2] = 0) SET(pae_wrong, s->pdpte[2] = 1)
SET(vm_in, s->rflags |= FL_VM) SET(vm_out, s->rflags &= ~(uint64_t)FL_VM) SET(vm_wrong, s->rflags = FL_FIXED | FL_ZF)
SET(smi_in, s->ev.smi.pending = true)
    /* clang-format on */

    static const Row rows[] = {
        {"cpl-ss-dpl", "CPL", NULL, "svm", cpl_in, cpl_out, cpl_wrong},
        {"debugctl-dropped", "DEBUGCTL", NULL, "svm", dbg_in, dbg_out, dbg_wrong},
        {"soft-exception", "exception.pending", NULL, "svm", of_in, of_out, of_wrong},
        {"svm-tsc-aux", "TSC_AUX", NULL, "svm", aux_in, aux_out, aux_wrong},
        {"svm-unusable", "TR", NULL, "svm", tr_in, tr_out, tr_wrong},
        {"svm-shadow", "shadow.mov_ss", NULL, "svm", sti_in, sti_out, nothing},
        {"svm-shadow", "shadow.sti", NULL, "svm", sti_in, sti_out, sti_wrong},
        {"vmx-segment", "TR", NULL, "vmx", acc_in, acc_out, acc_wrong},
        {"vmx-sysenter-cs", "SYSENTER_CS", NULL, "vmx", sys_in, sys_out, sys_wrong},
        {"software-paging", "CR0", NULL, "software", pg_in, pg_out, pg_wrong},
        {"software-paging", "PDPTE2", NULL, "software", pae_in, pae_out, pae_wrong},
        {"software-vm86", "RFLAGS", NULL, "software", vm_in, vm_out, vm_wrong},
        {"software-modes", NULL, "kvm does not hold 32-bit paging", "software", pg_in, nothing,
         NULL},
        {"no-smm", NULL, "no mode (KVM_CAP_X86_SMM)", "svm", smi_in, nothing, NULL},
};

/* 32-bit protected mode. */
static void good(CpuState *s)
{
    memset(s, 0, sizeof(*s));
    cpu_state_reset(s, 0, true);
    s->cr0 = CR0_ET | CR0_PE | CR0_NE;
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = (Segment){.limit = ~0u, .attr = i == CS ? 0xc09b : 0xc093, .selector = 16};
    s->rip = 0x1000;
    ck_assert(rules_apply(s, RULE_BOTH, &(RuleEnv){.cpuid = NULL}, NULL, NULL));
}

START_TEST(known_is_explained_and_no_more)
{
    const Row *r = &rows[_i];
    StateEnv env = {state_host_vm(host), r->platform, false};
    StateWhy why = {0};
    CpuState in, out;

    good(&in);
    r->in(&in);
    out = in;
    r->out(&out);
    if (!r->field) {
        ck_assert(state_explain_refusal(&env, &in, r->message, &why));
        ck_assert_str_eq(why.name, r->name);
        ck_assert(!state_explain_refusal(&env, &in, "another reason", &why));
        return;
    }
    const VmstateField *f = vmstate_field(r->field);
    ck_assert(state_explain(&env, f, &in, &out, &why));
    ck_assert_str_eq(why.kind, "kvm");
    ck_assert_str_eq(why.name, r->name);
    if (r->wrong != nothing) {
        out = in;
        r->wrong(&out);
        ck_assert_msg(!state_explain(&env, f, &in, &out, &why), "explained by %s", why.name);
    }
    /* What is known of one platform explains nothing on another. */
    if (g_str_has_prefix(r->name, "svm") || g_str_has_prefix(r->name, "software") ||
        g_str_has_prefix(r->name, "vmx")) {
        out = in;
        r->out(&out);
        env.platform = g_str_has_prefix(r->name, "svm") ? "software" : "svm";
        ck_assert(!state_explain(&env, f, &in, &out, &why));
    }
}
END_TEST

START_TEST(every_known_row_is_used)
{
    const char *name, *reason;
    for (unsigned i = 0; (name = state_known_name(i, &reason)); i++) {
        bool found = false;
        for (unsigned k = 0; k < ARRAY_LEN(rows); k++)
            found |= !strcmp(rows[k].name, name);
        ck_assert_msg(found, "no row here for '%s'", name);
        ck_assert(*reason);
    }
}
END_TEST

/* What a rule would mend before KVM sees it, and what a check would refuse, is no finding. */
START_TEST(refusals_explained_by_ours)
{
    const StateEnv env = {state_host_vm(host), "svm", false};
    StateWhy why = {0};
    CpuState s;
    good(&s);
    ck_assert(!state_explain_refusal(&env, &s, "KVM_SET_SREGS", &why));
    s.seg[CS].attr |= SEG_L;
    ck_assert(state_explain_refusal(&env, &s, "KVM_SET_SREGS", &why));
    ck_assert_str_eq(why.name, "cs-l");
    s.dr7 |= BIT(32);
    ck_assert(state_explain_refusal(&env, &s, "KVM_SET_DEBUGREGS", &why));
    ck_assert_str_eq(why.kind, "check");
    ck_assert_str_eq(why.name, "dr7-upper");
}
END_TEST

/* ---- generators ---- */

START_TEST(each_check_breaks_alone)
{
    const CpuidTable *t = state_host_vm(host)->cpuid;
    uint64_t r = 5;
    const CheckEnv env = {.cpuid = t};
    CheckInfo c;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++) {
        if (!strcmp(c.name, "kvm-msrs") && !cpuid_has(t, FEAT_KVM_STEAL_TIME))
            continue; /* there are no such registers then */
        for (unsigned n = 0; n < 20; n++) {
            CpuState s;
            ck_assert_msg(state_break(&s, i, &r, t), "'%s' is never broken alone", c.name);
            state_host_make_enterable(host, &s);
            ck_assert_msg(vmentry_mask(&s, &env, VMENTRY_NOTED) == BIT(i), "'%s' when enterable",
                          c.name);
        }
    }
}
END_TEST

START_TEST(numbers_make_states)
{
    const CpuidTable *t = state_host_vm(host)->cpuid;
    const CheckEnv env = {.cpuid = t};
    static CpuState a, b, valid;
    unsigned bent = 0, broken = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        const char *name = state_generate(&a, 3, i, t);
        ck_assert(state_generate(&b, 3, i, t) == name);
        ck_assert_uint_eq(vmstate_diff(&a, &b, GROUPS_ALL, NULL, NULL), 0); /* not padding */
        ck_assert_int_eq(name != NULL, i & 1);
        if (name) {
            /* One field of the valid state before it, or none where the bend changed nothing. */
            ck_assert_uint_le(vmstate_diff(&valid, &a, GROUPS_ALL, NULL, NULL), 1);
            bent++;
            broken += vmentry_mask(&a, &env, VMENTRY_NOTED) != 0;
        } else {
            valid = a;
            ck_assert_uint_eq(vmentry_mask(&a, &env, VMENTRY_NOTED), 0);
        }
    }
    ck_assert_uint_gt(broken, bent / 20);
    ck_assert_uint_lt(broken, bent);
}
END_TEST

/* ---- the command ---- */

static int command(const char *a, const char *b, const char *c, const char *d)
{
    char *argv[8] = {g_strdup("diff"), g_strdup("state")};
    const char *const rest[] = {a, b, c, d};
    int argc = 2, status;
    for (unsigned i = 0; i < ARRAY_LEN(rest) && rest[i]; i++)
        argv[argc++] = g_strdup(rest[i]);
    char *copy[8];
    memcpy(copy, argv, sizeof(copy));
    status = diff_main(argc, argv);
    for (int i = 0; i < argc; i++)
        g_free(copy[i]);
    return status;
}

START_TEST(bad_input_is_refused)
{
    ck_assert_int_eq(command("--engines", "vmware", NULL, NULL), 2);
    ck_assert_int_eq(command("--cases", "0", NULL, NULL), 2);
    ck_assert_int_eq(command("--cases", "many", NULL, NULL), 2);
    ck_assert_int_eq(command("--no-such", NULL, NULL, NULL), 2);
    ck_assert_int_eq(command("extra", NULL, NULL, NULL), 2);
    ck_assert_int_eq(command("--engines", "interp", "--out", "/no/such/folder/x"), 2);
    ck_assert_int_eq(command("--engines", "interp", "--out", "/dev/full"), 2);
    ck_assert_int_eq(command("--engines", "interp", "--cases", "500"), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("state");
    TCase *c = tcase_create("state");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, honest_engine_has_no_findings);
    tcase_add_loop_test(c, mangled_field_is_named, 0, ARRAY_LEN(fields));
    tcase_add_test(c, refusal_is_a_finding);
    tcase_add_test(c, rules_explain);
    tcase_add_loop_test(c, known_is_explained_and_no_more, 0, ARRAY_LEN(rows));
    tcase_add_test(c, every_known_row_is_used);
    tcase_add_test(c, refusals_explained_by_ours);
    tcase_add_test(c, each_check_breaks_alone);
    tcase_add_test(c, numbers_make_states);
    tcase_add_test(c, bad_input_is_refused);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return run_suite(s);
}
