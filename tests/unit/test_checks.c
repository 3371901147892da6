/* VM-entry checks: each refuses its bad states by its own name, and nothing that is good. */
#include <check.h>
#include <string.h>

#include "vmstate/checks.h"
#include "vmstate/state.h"
#include "run_suite.h"

enum Base { REAL, PROT, VM86, PAE, LONG, BASES };

static void set(Segment *g, uint16_t sel, uint64_t base, uint32_t limit, uint32_t attr)
{
    *g = (Segment){.base = base, .limit = limit, .attr = attr, .selector = sel};
}

/* A good state in each mode, written out so that the test does not lean on the generator. */
static void base_state(CpuState *s, enum Base b)
{
    memset(s, 0, sizeof(*s));
    cpu_state_reset(s, 0, true);
    s->cr0 = CR0_ET;
    if (b == REAL)
        return;
    s->cr0 |= CR0_PE;
    s->rflags |= FL_IF;
    set(&s->seg[CS], 8, 0, 0xffffffff, 0xc09b);
    for (unsigned i = ES; i <= GS; i++) {
        if (i != CS)
            set(&s->seg[i], 16, 0, 0xffffffff, 0xc093);
    }
    set(&s->seg[TR], 24, 0x1000, 0x67, 0x8b);
    set(&s->seg[LDTR], 32, 0x2000, 0xff, 0x82);
    s->rip = 0x100000;
    if (b == VM86) {
        s->rflags |= FL_VM;
        s->cpl = 3;
        for (unsigned i = ES; i <= GS; i++)
            set(&s->seg[i], 0x1234, 0x12340, 0xffff, 0xf3);
    }
    if (b == PAE || b == LONG) {
        s->cr0 |= CR0_PG;
        s->cr4 = CR4_PAE;
        s->cr3 = 0x1000;
    }
    if (b == LONG) {
        s->efer = EFER_LME | EFER_LMA;
        s->seg[CS].attr = 0xa09b;
        s->rip = 0xffffffff81000000ull;
    }
}

typedef struct Row {
    const char *check;
    enum Base base;
    void (*spoil)(CpuState *);
    enum VmentryFinding finding; /* 0: refused */
} Row;
#define NOTED VMENTRY_NOTED
#define LOST  VMENTRY_LOST

#define SPOIL(id, code)         \
    static void id(CpuState *s) \
    {                           \
        code;                   \
    }
/* clang-format off */
SPOIL(cr0_bit6, s->cr0 |= 1 << 6)
SPOIL(cr0_bit32, s->cr0 |= BIT(32))
SPOIL(cr0_nw, s->cr0 |= CR0_NW)
SPOIL(cr0_pg, s->cr0 |= CR0_PG)
SPOIL(efer_svme, s->efer |= 1 << 12)
SPOIL(lma_alone, s->efer |= EFER_LMA)
SPOIL(lma_missing, s->efer &= ~(uint64_t)EFER_LMA)
SPOIL(cr4_bit15, s->cr4 |= 1 << 15)
SPOIL(cr4_vmxe, s->cr4 |= CR4_VMXE)
SPOIL(cr4_no_pae, s->cr4 &= ~(uint64_t)CR4_PAE)
SPOIL(cr4_pcide, s->cr4 |= CR4_PCIDE)
SPOIL(cr3_bit52, s->cr3 |= BIT(52))
SPOIL(cr8_16, s->cr8 = 16)
SPOIL(dr6_33, s->dr6 |= BIT(33))
SPOIL(dr7_32, s->dr7 |= BIT(32))
SPOIL(debugctl_3, s->msr.debugctl = 8)
SPOIL(esp, s->msr.sysenter_esp = BIT(47))
SPOIL(eip, s->msr.sysenter_eip = BIT(63))
SPOIL(pat_2, s->msr.pat = (s->msr.pat & ~0xff0000ull) | 0x20000)
SPOIL(pat_8, s->msr.pat = (s->msr.pat & ~BIT(63)) | 8ull << 56)
SPOIL(mtrr_def_2, s->msr.mtrr_def_type = 0xc02)
SPOIL(mtrr_fixed_7, s->msr.mtrr_fixed[3] = 7ull << 56)
SPOIL(mtrr_base_8, s->msr.mtrr_base[7] = BIT(8))
SPOIL(mtrr_mask_52, s->msr.mtrr_mask[0] = BIT(52) | 0x800)
SPOIL(mtrr_mask_0, s->msr.mtrr_mask[2] = 1)
SPOIL(mc_one, s->msr.mc_ctl[9] = 1)
SPOIL(mcg_half, s->msr.mcg_ctl = UINT32_MAX)
SPOIL(steal, s->msr.kvm_steal_time = 0x1003)
SPOIL(pv_eoi, s->msr.kvm_pv_eoi = 0x1003)
SPOIL(poll, s->msr.kvm_poll_control = 2)
SPOIL(aux, s->msr.tsc_aux = BIT(32))
SPOIL(apic_0, s->msr.apic_base = 0xfee00901)
SPOIL(apic_x2_off, s->msr.apic_base = 0xfee00500)
SPOIL(apic_52, s->msr.apic_base |= BIT(52))
SPOIL(xcr0_mpx, s->xcr0 = 0x1b)
SPOIL(lstar, s->msr.lstar = BIT(47))
SPOIL(cstar, s->msr.cstar = BIT(50))
SPOIL(kgs, s->msr.kernel_gs_base = BIT(63))
SPOIL(xcr0_0, s->xcr0 = 2)
SPOIL(xcr0_avx, s->xcr0 = 5)
SPOIL(xcr0_512, s->xcr0 = 0x67)
SPOIL(mxcsr_masked, s->fpu.mxcsr_mask = 0xffbf; s->fpu.mxcsr |= 1 << 6)
SPOIL(mxcsr_16, s->fpu.mxcsr = BIT(16))
SPOIL(fl_fixed, s->rflags &= ~(uint64_t)FL_FIXED)
SPOIL(fl_15, s->rflags |= 1 << 15)
SPOIL(fl_22, s->rflags |= 1 << 22)
SPOIL(fl_vm, s->rflags |= FL_VM)
SPOIL(cpl_3, s->cpl = 3)
SPOIL(v_base, s->seg[FS].base = 0)
SPOIL(v_limit, s->seg[GS].limit = 0xfffff)
SPOIL(v_attr, s->seg[CS].attr = 0xfb)
SPOIL(v_attr_0, s->seg[DS].attr = 0xf2)
SPOIL(v_attr_dpl, s->seg[DS].attr = 0x93)
SPOIL(cs_unaccessed, s->seg[CS].attr &= ~1u)
SPOIL(cs_expand, s->seg[CS].attr = 0xc097)
SPOIL(cs_absent, s->seg[CS].attr &= ~(uint32_t)SEG_P)
SPOIL(cs_unusable, s->seg[CS].attr |= SEG_UNUSABLE)
SPOIL(cs_dpl3, s->seg[CS].attr |= SEG_DPL)
SPOIL(cs_dpl3_unaccessed, s->seg[CS].attr = (s->seg[CS].attr | SEG_DPL) & ~1u)
SPOIL(cs_conf_dpl, s->seg[CS].attr = 0xc0bf)
SPOIL(cs_data_dpl, s->seg[CS].attr = 0xb3)
SPOIL(cs_ld, s->seg[CS].attr |= SEG_DB)
SPOIL(ss_ro, s->seg[SS].attr = 0xc091)
SPOIL(ss_unaccessed, s->seg[SS].attr = 0xc092)
SPOIL(ss_real_dpl, s->seg[SS].attr = 0xf3; s->cpl = 3; s->seg[CS].attr |= SEG_DPL)
SPOIL(ss_data_cs, s->seg[CS].attr = 0x93; s->seg[SS].attr = 0xf3; s->cpl = 3)
SPOIL(ds_unaccessed, s->seg[DS].attr &= ~1u)
SPOIL(gs_execute_only, s->seg[GS].attr = 0xc099)
SPOIL(cs_s, s->seg[CS].attr &= ~(uint32_t)SEG_S)
SPOIL(es_s, s->seg[ES].attr &= ~(uint32_t)SEG_S)
SPOIL(fs_absent, s->seg[FS].attr &= ~(uint32_t)SEG_P)
SPOIL(ds_8, s->seg[DS].attr |= 1 << 8)
SPOIL(tr_11, s->seg[TR].attr |= 1 << 11)
SPOIL(es_17, s->seg[ES].attr |= 1 << 17)
SPOIL(ds_g, s->seg[DS].limit = 0xfffffffe)
SPOIL(tr_g, s->seg[TR].attr |= SEG_G)
SPOIL(ldtr_no_g, s->seg[LDTR].limit = 0x100000)
SPOIL(cs_base, s->seg[CS].base = BIT(32))
SPOIL(ds_base, s->seg[DS].base = ~0ull)
SPOIL(gs_base, s->seg[GS].base = BIT(47))
SPOIL(fs_base_unusable, s->seg[FS].attr = SEG_UNUSABLE; s->seg[FS].base = BIT(47))
SPOIL(tr_base, s->seg[TR].base = BIT(63))
SPOIL(ldtr_base, s->seg[LDTR].base = BIT(63))
SPOIL(tr_unusable, s->seg[TR].attr |= SEG_UNUSABLE)
SPOIL(tr_available, s->seg[TR].attr = 0x89)
SPOIL(tr_trap_gate, s->seg[TR].attr = 0x8f)
SPOIL(tr_10, s->seg[TR].attr = 0x8a)
SPOIL(tr_16, s->seg[TR].attr = 0x83)
SPOIL(tr_s, s->seg[TR].attr |= SEG_S)
SPOIL(tr_absent, s->seg[TR].attr &= ~(uint32_t)SEG_P)
SPOIL(tr_ti, s->seg[TR].selector |= 4)
SPOIL(ldtr_type, s->seg[LDTR].attr = 0x8b)
SPOIL(ldtr_absent, s->seg[LDTR].attr = 2)
SPOIL(ldtr_ti, s->seg[LDTR].selector |= 4)
SPOIL(gdt_base, s->gdt.base = BIT(47))
SPOIL(idt_base, s->idt.base = BIT(63))
SPOIL(rip_33, s->rip = BIT(33))
SPOIL(rip_49, s->rip = BIT(49))
SPOIL(two_events, s->ev.interrupt.injected = s->ev.nmi.injected = true)
SPOIL(exc_and_intr, s->ev.exception.pending = s->ev.interrupt.injected = true; s->ev.exception.nr = VEC_UD)
SPOIL(pending_and_injected, s->ev.exception.pending = s->ev.exception.injected = true; s->ev.exception.nr = 6)
SPOIL(vector_32, s->ev.exception.pending = true; s->ev.exception.nr = 32)
SPOIL(vector_nmi, s->ev.exception.injected = true; s->ev.exception.nr = VEC_NMI)
SPOIL(gp_no_error, s->ev.exception.injected = true; s->ev.exception.nr = VEC_GP)
SPOIL(ud_error, s->ev.exception.pending = s->ev.exception.has_error = true; s->ev.exception.nr = VEC_UD)
SPOIL(real_error, s->ev.exception.pending = s->ev.exception.has_error = true; s->ev.exception.nr = VEC_GP)
SPOIL(error_bits, s->ev.exception.pending = s->ev.exception.has_error = true; s->ev.exception.nr = VEC_PF;
      s->ev.exception.error = 0x10000)
SPOIL(intr_no_if, s->ev.interrupt.injected = true; s->rflags &= ~(uint64_t)FL_IF)
SPOIL(intr_sti, s->ev.interrupt.injected = s->ev.shadow_sti = true)
SPOIL(nmi_mov_ss, s->ev.nmi.injected = s->ev.shadow_mov_ss = true)
SPOIL(both_shadows, s->ev.shadow_sti = s->ev.shadow_mov_ss = true)
SPOIL(sti_no_if, s->ev.shadow_sti = true)
SPOIL(init_received, s->run_state = RUN_INIT_RECEIVED)
SPOIL(state_99, s->run_state = (enum RunState)99)
SPOIL(mwait, s->run_state = RUN_MWAIT)
SPOIL(halted_vm86, s->run_state = RUN_HALTED)
SPOIL(halted_sti, s->run_state = RUN_HALTED; s->ev.shadow_sti = true)
SPOIL(halted_ud, s->run_state = RUN_HALTED; s->ev.exception.injected = true; s->ev.exception.nr = VEC_UD)
SPOIL(wait_sipi_intr, s->run_state = RUN_WAIT_SIPI; s->ev.interrupt.injected = true)
SPOIL(stopped_intr, s->run_state = RUN_STOPPED; s->ev.interrupt.injected = true)
SPOIL(pdpte_1, s->pdpte[2] = 0x1003)
SPOIL(pdpte_63, s->pdpte[0] = BIT(63) | 1)

static const Row rows[] = {
    {"cr0-reserved", PROT, cr0_bit6, NOTED}, {"cr0-reserved", LONG, cr0_bit32},
    {"cr0-nw-cd", REAL, cr0_nw}, {"cr0-pg-pe", REAL, cr0_pg},
    {"efer-reserved", LONG, efer_svme},
    {"efer-lma", PROT, lma_alone}, {"efer-lma", LONG, lma_missing},
    {"cr4-reserved", PROT, cr4_bit15}, {"cr4-reserved", LONG, cr4_vmxe},
    {"cr4-pae", LONG, cr4_no_pae}, {"cr4-pcide", PAE, cr4_pcide},
    {"cr3-reserved", LONG, cr3_bit52}, {"cr8-reserved", PROT, cr8_16, NOTED},
    {"dr6-upper", PROT, dr6_33}, {"dr7-upper", LONG, dr7_32},
    {"debugctl-reserved", LONG, debugctl_3, NOTED},
    {"sysenter-canonical", LONG, esp, NOTED}, {"sysenter-canonical", PROT, eip, NOTED},
    {"pat-types", REAL, pat_2}, {"pat-types", LONG, pat_8},
    {"mtrr-reserved", REAL, mtrr_def_2}, {"mtrr-reserved", LONG, mtrr_fixed_7}, {"mtrr-reserved", PROT, mtrr_base_8},
    {"mtrr-reserved", LONG, mtrr_mask_52}, {"mtrr-reserved", REAL, mtrr_mask_0},
    {"mc-ctl", LONG, mc_one}, {"mc-ctl", REAL, mcg_half}, {"tsc-aux-upper", LONG, aux},
    {"kvm-msrs", LONG, steal}, {"kvm-msrs", REAL, pv_eoi}, {"kvm-msrs", LONG, poll},
    {"apic-base", LONG, apic_0}, {"apic-base", PROT, apic_x2_off}, {"apic-base", REAL, apic_52},
    {"xcr0-valid", LONG, xcr0_mpx},
    {"msr-canonical", LONG, lstar}, {"msr-canonical", LONG, cstar}, {"msr-canonical", PROT, kgs},
    {"xcr0-valid", LONG, xcr0_0}, {"xcr0-valid", LONG, xcr0_avx}, {"xcr0-valid", LONG, xcr0_512},
    {"mxcsr-reserved", LONG, mxcsr_16}, {"mxcsr-reserved", LONG, mxcsr_masked, NOTED},
    {"rflags-reserved", REAL, fl_fixed, NOTED}, {"rflags-reserved", PROT, fl_15}, {"rflags-reserved", LONG, fl_22},
    {"rflags-vm", REAL, fl_vm}, {"rflags-vm", LONG, fl_vm},
    {"cpl", PROT, cpl_3, LOST},
    {"vm86-base", VM86, v_base}, {"vm86-limit", VM86, v_limit},
    {"vm86-rights", VM86, v_attr}, {"vm86-rights", VM86, v_attr_dpl},
    {"vm86-rights", VM86, v_attr_0, NOTED},
    {"cs-type", PROT, cs_unaccessed, NOTED}, {"cs-type", LONG, cs_expand},
    {"cs-present", PROT, cs_absent}, {"cs-present", REAL, cs_unusable, NOTED},
    {"cs-dpl", PROT, cs_dpl3}, {"cs-dpl", PROT, cs_conf_dpl}, {"cs-dpl", LONG, cs_dpl3_unaccessed}, {"cs-dpl", REAL, cs_data_dpl},
    {"cs-l-db", LONG, cs_ld},
    {"ss-type", PROT, ss_ro}, {"ss-type", LONG, ss_unaccessed, NOTED},
    {"ss-dpl", REAL, ss_real_dpl}, {"ss-dpl", PROT, ss_data_cs},
    {"data-type", PROT, ds_unaccessed, NOTED}, {"data-type", LONG, gs_execute_only},
    {"seg-s", PROT, cs_s}, {"seg-s", PROT, es_s},
    {"seg-present", LONG, fs_absent, NOTED},
    {"seg-reserved", PROT, ds_8, NOTED}, {"seg-reserved", LONG, tr_11, NOTED}, {"seg-reserved", REAL, es_17, NOTED},
    {"seg-granularity", PROT, ds_g}, {"seg-granularity", LONG, tr_g}, {"seg-granularity", PROT, ldtr_no_g},
    {"seg-base-upper", LONG, cs_base}, {"seg-base-upper", PROT, ds_base},
    {"seg-base-canonical", LONG, gs_base}, {"seg-base-canonical", LONG, fs_base_unusable},
    {"seg-base-canonical", LONG, tr_base}, {"seg-base-canonical", PROT, ldtr_base},
    {"tr-unusable", PROT, tr_unusable},
    {"tr-type", PROT, tr_available}, {"tr-type", LONG, tr_trap_gate}, {"tr-type", LONG, tr_16},
    {"tr-type", LONG, tr_10, NOTED},
    {"tr-rights", PROT, tr_s}, {"tr-rights", REAL, tr_absent}, {"tr-selector", LONG, tr_ti},
    {"ldtr-rights", PROT, ldtr_type}, {"ldtr-rights", LONG, ldtr_absent, NOTED}, {"ldtr-selector", PROT, ldtr_ti},
    {"table-base", LONG, gdt_base}, {"table-base", PROT, idt_base},
    {"rip-upper", PROT, rip_33}, {"rip-upper", REAL, rip_33}, {"rip-canonical", LONG, rip_49},
    {"event-single", PROT, two_events, LOST}, {"event-single", REAL, exc_and_intr, LOST},
    {"event-single", PROT, pending_and_injected, NOTED},
    {"event-vector", LONG, vector_32}, {"event-vector", PROT, vector_nmi},
    {"event-error-code", PROT, gp_no_error}, {"event-error-code", LONG, ud_error},
    {"event-error-code", REAL, real_error, NOTED},
    {"event-error-bits", LONG, error_bits, NOTED},
    {"event-if", PROT, intr_no_if},
    {"event-shadow", PROT, intr_sti}, {"event-shadow", LONG, nmi_mov_ss},
    {"shadow-both", PROT, both_shadows, NOTED}, {"shadow-if", REAL, sti_no_if},
    {"activity", PROT, init_received, NOTED}, {"activity", LONG, state_99, LOST},
    {"activity", LONG, mwait, NOTED}, {"activity-dpl", VM86, halted_vm86, NOTED}, {"activity-shadow", PROT, halted_sti, NOTED},
    {"activity-event", PROT, halted_ud, NOTED}, {"activity-event", PROT, wait_sipi_intr, NOTED},
    {"activity-event", PROT, stopped_intr, NOTED},
    {"pdpte-reserved", PAE, pdpte_1}, {"pdpte-reserved", PAE, pdpte_63},
};
/* clang-format on */

START_TEST(good_states_pass)
{
    CpuState s;
    for (unsigned b = 0; b < BASES; b++) {
        char why[120] = "";
        base_state(&s, b);
        const char *failed = vmentry_failed_check(&s, NULL, why, sizeof(why));
        ck_assert_msg(!failed, "base %u fails '%s': %s", b, failed, why);
    }
}
END_TEST

static unsigned check_by_name(const char *name)
{
    CheckInfo c;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++)
        if (!strcmp(c.name, name))
            return i;
    ck_abort_msg("there is no check '%s'", name);
    return 0;
}

/* Let in, because every KVM takes it: noted by name, with the value. */
static void is_noted(const Row *r, const CpuState *s)
{
    unsigned i = check_by_name(r->check);
    CheckNote note[2];
    CheckNotes notes = {note, ARRAY_LEN(note), 0};
    CheckInfo c;
    GError *err = NULL;

    vmentry_check_info(i, &c);
    ck_assert_msg(vmentry_check(s, NULL, &notes, &err), "row %d: %s", (int)(r - rows),
                  err ? err->message : "");
    ck_assert_msg(notes.n == 1 && note[0].check == i && *note[0].why, "row %d: %u notes, of %u",
                  (int)(r - rows), notes.n, notes.n ? note[0].check : 0);
    ck_assert_msg(*c.kvm, "'%s' does not say what KVM makes of it", r->check);
    ck_assert_uint_eq(vmentry_mask(s, NULL, VMENTRY_NOTED), BIT(i));
    ck_assert_uint_eq(vmentry_mask(s, NULL, VMENTRY_LOST), 0);
    ck_assert_ptr_null(vmentry_failed_check(s, NULL, NULL, 0));
}

START_TEST(bad_state_found_by_name)
{
    const Row *r = &rows[_i];
    CpuState s;
    char why[120];
    base_state(&s, r->base);
    r->spoil(&s);
    enum VmentryFinding want = r->finding ? r->finding : VMENTRY_REFUSED;
    ck_assert_uint_eq(vmentry_ask(check_by_name(r->check), &s, NULL, NULL, 0), want);
    if (want == VMENTRY_NOTED) {
        is_noted(r, &s);
        return;
    }
    const char *failed = vmentry_failed_check(&s, NULL, why, sizeof(why));
    ck_assert_msg(failed != NULL, "row %d: '%s' does not refuse its bad state", _i, r->check);
    ck_assert_msg(!strcmp(failed, r->check), "row %d: '%s' instead of '%s': %s", _i, failed,
                  r->check, why);

    GError *err = NULL;
    ck_assert(!vmentry_check(&s, NULL, NULL, &err));
    ck_assert(strstr(err->message, r->check) && strstr(err->message, why));
    g_error_free(err);
}
END_TEST

/* Bad outside what the check looks at, which hardware does not mind either. */
SPOIL(unusable_junk, s->seg[DS].attr = SEG_UNUSABLE | 0xf00; s->seg[DS].base = ~0ull)
SPOIL(real_data_dpl, s->seg[DS].attr |= SEG_DPL)
SPOIL(halted_db, s->run_state = RUN_HALTED; s->ev.exception.injected = true;
      s->ev.exception.nr = VEC_DB)
SPOIL(halted_intr, s->run_state = RUN_HALTED; s->ev.interrupt.injected = true)
SPOIL(stopped_nmi, s->run_state = RUN_STOPPED; s->ev.nmi.injected = true)
SPOIL(pdpte_absent, s->pdpte[1] = 0x1fe)
SPOIL(conforming, s->seg[CS].attr = 0xc09f; s->seg[SS].attr |= SEG_DPL; s->cpl = 3)
SPOIL(null_ss, s->seg[SS].attr = SEG_UNUSABLE)
SPOIL(mc_k8, s->msr.mc_ctl[4] = ~BIT(10))
SPOIL(x2apic, s->msr.apic_base = 0xfee00d00)
SPOIL(rip_47, s->rip = BIT(47) - 1)
static const Row good_rows[] = {
    {"", PROT, unusable_junk}, {"", REAL, real_data_dpl}, {"", PROT, halted_db},
    {"", PROT, halted_intr},   {"", PROT, stopped_nmi},   {"", PAE, pdpte_absent},
    {"", PROT, conforming},    {"", LONG, null_ss},       {"", LONG, rip_47},
    {"", LONG, mc_k8},         {"", LONG, x2apic},
};

START_TEST(odd_but_good_passes)
{
    CpuState s;
    char why[120] = "";
    base_state(&s, good_rows[_i].base);
    good_rows[_i].spoil(&s);
    const char *failed = vmentry_failed_check(&s, NULL, why, sizeof(why));
    ck_assert_msg(!failed, "row %d: '%s': %s", _i, failed, why);
}
END_TEST

START_TEST(every_check_has_a_bad_state)
{
    CheckInfo c;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++) {
        bool found = false, noted = false;
        for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
            found |= !strcmp(rows[r].check, c.name);
            noted |= !strcmp(rows[r].check, c.name) && rows[r].finding == VMENTRY_NOTED;
        }
        ck_assert_msg(found, "no row for check '%s'", c.name);
        /* Those two ask KVM: asked_of_kvm. */
        if (strcmp(c.name, "rip-canonical") != 0 && strcmp(c.name, "msr-canonical") != 0)
            ck_assert_msg(noted == (*c.kvm != 0), "'%s': noted by a row %d, by checks.def %d",
                          c.name, noted, *c.kvm != 0);
        ck_assert(*c.reference);
    }
}
END_TEST

/* What KVM may change in a state that is noted are fields. */
typedef struct Matched {
    const char *glob;
    unsigned n;
} Matched;

static void match(const VmstateField *f, void *opaque)
{
    Matched *m = opaque;
    m->n += g_pattern_match_simple(m->glob, f->name);
}

START_TEST(changes_are_fields)
{
    CheckInfo c;
    for (unsigned i = 0; vmentry_check_info(i, &c); i++) {
        char **part = g_strsplit(c.changes, ",", 0);
        for (unsigned k = 0; part[k]; k++) {
            Matched m = {.glob = part[k]};
            vmstate_foreach(~0u, match, &m);
            ck_assert_msg(m.n, "'%s': no field is '%s'", c.name, part[k]);
        }
        g_strfreev(part);
    }
    uint64_t noted = BIT(check_by_name("cs-type")) | BIT(check_by_name("shadow-both"));
    ck_assert(vmentry_may_change(noted, "CS") && vmentry_may_change(noted, "shadow.sti"));
    ck_assert(!vmentry_may_change(noted, "SS") && !vmentry_may_change(0, "CS"));
}
END_TEST

static bool takes_rip(enum KvmQuirk what)
{
    return what == KVM_ENTERS_WILD_RIP;
}

static bool takes_msr(enum KvmQuirk what)
{
    return what == KVM_TAKES_WIDE_MSR;
}

static bool by_rpl(enum KvmQuirk what)
{
    return what == KVM_CS_BY_RPL;
}

/* A real-mode CS whose cached rights are still those of reset: only where a processor looks at the
 * RPL does that matter. */
SPOIL(real_cs_rpl, s->seg[CS].selector = 0x1235; s->seg[CS].base = 0x12350)
SPOIL(conforming_rpl, s->seg[CS].attr = 0xc09f; s->seg[CS].selector = 11;
      s->seg[SS].attr |= SEG_DPL; s->cpl = 3)
START_TEST(rpl_of_cs)
{
    const CheckEnv env = {.kvm_quirk = by_rpl};
    CpuState s;
    base_state(&s, REAL);
    real_cs_rpl(&s);
    ck_assert_uint_eq(vmentry_mask(&s, NULL, VMENTRY_NOTED), 0);
    ck_assert_str_eq(vmentry_failed_check(&s, &env, NULL, 0), "cs-dpl");
    s.seg[CS].attr = 0x93;
    ck_assert_uint_eq(vmentry_mask(&s, &env, VMENTRY_NOTED), 0);
    base_state(&s, PROT);
    conforming_rpl(&s);
    ck_assert_uint_eq(vmentry_mask(&s, &env, VMENTRY_NOTED), 0);
}
END_TEST

SPOIL(lstar_57, s->msr.lstar = BIT(57))

/* What depends on the processor is let in where it was found to be taken, and refused elsewhere. */
START_TEST(asked_of_kvm)
{
    const CheckEnv rip = {.kvm_quirk = takes_rip}, msr = {.kvm_quirk = takes_msr};
    const unsigned r = check_by_name("rip-canonical"), m = check_by_name("msr-canonical");
    CpuState s;
    base_state(&s, LONG);
    rip_49(&s);
    ck_assert_uint_eq(vmentry_ask(r, &s, &rip, NULL, 0), VMENTRY_NOTED);
    ck_assert_uint_eq(vmentry_ask(r, &s, &msr, NULL, 0), VMENTRY_REFUSED);
    base_state(&s, LONG);
    lstar(&s);
    ck_assert_uint_eq(vmentry_ask(m, &s, &msr, NULL, 0), VMENTRY_NOTED);
    ck_assert_uint_eq(vmentry_ask(m, &s, &rip, NULL, 0), VMENTRY_REFUSED);
    lstar_57(&s);
    ck_assert_uint_eq(vmentry_ask(m, &s, &msr, NULL, 0), VMENTRY_REFUSED);
}
END_TEST

/* A note does not hide what is refused behind it, in the same check or in another. */
SPOIL(gs_after_ds, s->seg[DS].attr &= ~1u; s->seg[GS].attr = 0xc099)
START_TEST(refusal_beside_a_note)
{
    CpuState s;
    base_state(&s, PROT);
    gs_after_ds(&s);
    ck_assert_uint_eq(vmentry_ask(check_by_name("data-type"), &s, NULL, NULL, 0), VMENTRY_REFUSED);
    base_state(&s, PROT);
    cs_unaccessed(&s);
    tr_available(&s);
    ck_assert_str_eq(vmentry_failed_check(&s, NULL, NULL, 0), "tr-type");
    ck_assert_uint_eq(vmentry_mask(&s, NULL, VMENTRY_NOTED),
                      BIT(check_by_name("cs-type")) | BIT(check_by_name("tr-type")));
}
END_TEST

START_TEST(random_states_pass)
{
    CpuState s;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        char why[120] = "";
        vmstate_randomise(&s, seed);
        const char *failed = vmentry_failed_check(&s, NULL, why, sizeof(why));
        ck_assert_msg(!failed, "seed %u fails '%s': %s", (unsigned)seed, failed, why);
    }
}
END_TEST

/* All that fail, where the other function names the first. */
START_TEST(mask_has_every_failure)
{
    CpuState s;
    uint64_t want = 0;
    base_state(&s, LONG);
    ck_assert_uint_eq(vmentry_mask(&s, NULL, VMENTRY_NOTED), 0);
    tr_available(&s);
    dr7_32(&s);
    want = BIT(check_by_name("tr-type")) | BIT(check_by_name("dr7-upper"));
    ck_assert_uint_eq(vmentry_mask(&s, NULL, VMENTRY_NOTED), want);
    ck_assert_str_eq(vmentry_failed_check(&s, NULL, NULL, 0), "dr7-upper");
}
END_TEST

START_TEST(physical_width_is_the_guests)
{
    CpuidTable t = {.n = 1, .e = {{.leaf = 0x80000008, .eax = 36}}};
    const CheckEnv env = {.cpuid = &t};
    CpuState s;
    base_state(&s, LONG);
    s.cr3 = BIT(35);
    ck_assert(vmentry_check(&s, &env, NULL, NULL));
    s.cr3 = BIT(36);
    ck_assert_str_eq(vmentry_failed_check(&s, &env, NULL, 0), "cr3-reserved");
    ck_assert(vmentry_check(&s, NULL, NULL, NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("checks");
    TCase *c = tcase_create("vmentry");
    tcase_add_test(c, good_states_pass);
    tcase_add_loop_test(c, bad_state_found_by_name, 0, ARRAY_LEN(rows));
    tcase_add_loop_test(c, odd_but_good_passes, 0, ARRAY_LEN(good_rows));
    tcase_add_test(c, every_check_has_a_bad_state);
    tcase_add_test(c, changes_are_fields);
    tcase_add_test(c, asked_of_kvm);
    tcase_add_test(c, rpl_of_cs);
    tcase_add_test(c, refusal_beside_a_note);
    tcase_add_test(c, random_states_pass);
    tcase_add_test(c, mask_has_every_failure);
    tcase_add_test(c, physical_width_is_the_guests);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return run_suite(s);
}
