#include "vmstate/checks.h"

#include "base/log.h"
#include "cpu/xsave.h"

/* What a check sees, and where it says what is wrong. */
typedef struct Ctx {
    const CpuState *s;
    const CpuidTable *cpuid;
    bool pe, lma, vm86, code64;
    char *why;
    size_t why_size;
} Ctx;

static const char *const seg_name[SEG_N] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};

static bool bad(const Ctx *c, const char *field, uint64_t value, const char *what)
{
    g_snprintf(c->why, (gulong)c->why_size, "%s is %#" G_GINT64_MODIFIER "x: %s", field, value,
               what);
    return false;
}

static bool bad_seg(const Ctx *c, enum Seg i, const char *part, uint64_t value, const char *what)
{
    char field[24];
    g_snprintf(field, sizeof(field), "%s %s", seg_name[i], part);
    return bad(c, field, value, what);
}

static bool bad_attr(const Ctx *c, enum Seg i, const char *what)
{
    return bad_seg(c, i, "attributes", c->s->seg[i].attr, what);
}

static bool canonical(const Ctx *c, uint64_t v)
{
    unsigned spare = 64 - (c->s->cr4 & CR4_LA57 ? 57 : 48);
    return (uint64_t)((int64_t)(v << spare) >> spare) == v;
}

static bool usable(const Ctx *c, enum Seg i)
{
    return !(c->s->seg[i].attr & SEG_UNUSABLE);
}

static unsigned type(const Ctx *c, enum Seg i)
{
    return c->s->seg[i].attr & SEG_TYPE;
}

static unsigned dpl(const Ctx *c, enum Seg i)
{
    return (c->s->seg[i].attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static uint64_t phys_reserved(const Ctx *c)
{
    unsigned n = c->cpuid ? cpuid_phys_bits(c->cpuid) : 52;
    return n >= 52 ? ~(BIT(52) - 1) : ~(BIT(n) - 1);
}

/* ---- control registers, debug registers, MSRs ---- */

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)

static bool check_cr0_reserved(const Ctx *c)
{
    return c->s->cr0 & ~CR0_KNOWN ? bad(c, "CR0", c->s->cr0, "a reserved bit is set") : true;
}

static bool check_cr0_nw_cd(const Ctx *c)
{
    uint64_t v = c->s->cr0;
    return v & CR0_NW && !(v & CR0_CD) ? bad(c, "CR0", v, "NW is set and CD is not") : true;
}

static bool check_cr0_pg_pe(const Ctx *c)
{
    return c->s->cr0 & CR0_PG && !c->pe ? bad(c, "CR0", c->s->cr0, "PG is set and PE is not")
                                        : true;
}

static bool check_efer_reserved(const Ctx *c)
{
    uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    if (c->cpuid && cpuid_has(c->cpuid, FEAT_AUTOIBRS))
        known |= EFER_AIBRSE;
    return c->s->efer & ~known ? bad(c, "EFER", c->s->efer, "a reserved bit is set") : true;
}

static bool check_efer_lma(const Ctx *c)
{
    bool want = c->s->efer & EFER_LME && c->s->cr0 & CR0_PG;
    return c->lma != want ? bad(c, "EFER", c->s->efer, "LMA is not LME and CR0.PG") : true;
}

#define CR4_KNOWN                                                                                 \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |     \
     CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | \
     CR4_SMEP | CR4_SMAP | CR4_PKE)

static bool check_cr4_reserved(const Ctx *c)
{
    /* VMXE and SMXE count as reserved: neither VMX nor SMX is ever offered. */
    return c->s->cr4 & ~(uint64_t)CR4_KNOWN ? bad(c, "CR4", c->s->cr4, "a reserved bit is set")
                                            : true;
}

static bool check_cr4_pae(const Ctx *c)
{
    return c->lma && !(c->s->cr4 & CR4_PAE)
               ? bad(c, "CR4", c->s->cr4, "PAE is clear in IA-32e mode")
               : true;
}

static bool check_cr4_pcide(const Ctx *c)
{
    return c->s->cr4 & CR4_PCIDE && !c->lma
               ? bad(c, "CR4", c->s->cr4, "PCIDE is set outside IA-32e mode")
               : true;
}

static bool check_cr3_reserved(const Ctx *c)
{
    return c->s->cr3 & phys_reserved(c)
               ? bad(c, "CR3", c->s->cr3, "a bit above the physical address width is set")
               : true;
}

static bool check_cr8_reserved(const Ctx *c)
{
    return c->s->cr8 > 15 ? bad(c, "CR8", c->s->cr8, "a reserved bit is set") : true;
}

static bool check_dr6_upper(const Ctx *c)
{
    return c->s->dr6 >> 32 ? bad(c, "DR6", c->s->dr6, "bits 63:32 are not zero") : true;
}

static bool check_dr7_upper(const Ctx *c)
{
    return c->s->dr7 >> 32 ? bad(c, "DR7", c->s->dr7, "bits 63:32 are not zero") : true;
}

static bool check_debugctl(const Ctx *c)
{
    return c->s->msr.debugctl & ~0xffc7ull
               ? bad(c, "IA32_DEBUGCTL", c->s->msr.debugctl, "a reserved bit is set")
               : true;
}

static bool check_sysenter_canonical(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    if (!canonical(c, m->sysenter_esp))
        return bad(c, "IA32_SYSENTER_ESP", m->sysenter_esp, "not canonical");
    if (!canonical(c, m->sysenter_eip))
        return bad(c, "IA32_SYSENTER_EIP", m->sysenter_eip, "not canonical");
    return true;
}

static bool check_pat(const Ctx *c)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = c->s->msr.pat >> (8 * i) & 0xff;
        if (t > 7 || t == 2 || t == 3)
            return bad(c, "IA32_PAT", c->s->msr.pat, "a byte is not 0, 1, 4, 5, 6 or 7");
    }
    return true;
}

static bool memory_type(unsigned t)
{
    return t <= 6 && t != 2 && t != 3;
}

static bool check_mtrr(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    uint64_t reserved = phys_reserved(c);
    if (m->mtrr_def_type & ~0xcffull || !memory_type(m->mtrr_def_type & 0xff))
        return bad(c, "IA32_MTRR_DEF_TYPE", m->mtrr_def_type, "no such type, or a reserved bit");
    for (unsigned i = 0; i < MTRR_FIXED_N; i++)
        for (unsigned k = 0; k < 64; k += 8)
            if (!memory_type(m->mtrr_fixed[i] >> k & 0xff))
                return bad(c, "a fixed-range MTRR", m->mtrr_fixed[i], "a byte is no memory type");
    for (unsigned i = 0; i < MTRR_VAR_N; i++) {
        if (m->mtrr_base[i] & (reserved | 0xf00) || !memory_type(m->mtrr_base[i] & 0xff))
            return bad(c, "IA32_MTRR_PHYSBASE", m->mtrr_base[i], "no such type, or a reserved bit");
        if (m->mtrr_mask[i] & (reserved | 0x7ff))
            return bad(c, "IA32_MTRR_PHYSMASK", m->mtrr_mask[i], "a reserved bit is set");
    }
    return true;
}

/* All zeros or all ones; KVM lets guests clear bits 0 and 10, which old kernels do. */
static bool check_mc_ctl(const Ctx *c)
{
    for (unsigned i = 0; i < MC_BANKS_MAX; i++) {
        uint64_t v = c->s->msr.mc_ctl[i];
        if (v && ~(v | BIT(10) | BIT(0)))
            return bad(c, "IA32_MC_CTL", v, "neither all zeros nor all ones");
    }
    uint64_t g = c->s->msr.mcg_ctl;
    return g && ~g ? bad(c, "IA32_MCG_CTL", g, "neither all zeros nor all ones") : true;
}

static bool check_tsc_aux(const Ctx *c)
{
    uint64_t v = c->s->msr.tsc_aux;
    return v >> 32 ? bad(c, "IA32_TSC_AUX", v, "bits 63:32 are not zero") : true;
}

static bool check_kvm_msrs(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    if (m->kvm_steal_time & 0x3e)
        return bad(c, "KVM_STEAL_TIME", m->kvm_steal_time, "a reserved bit is set");
    if (m->kvm_pv_eoi & 2)
        return bad(c, "KVM_PV_EOI", m->kvm_pv_eoi, "the address is not aligned");
    return m->kvm_poll_control >> 1
               ? bad(c, "KVM_POLL_CONTROL", m->kvm_poll_control, "a reserved bit is set")
               : true;
}

static bool check_apic_base(const Ctx *c)
{
    enum { X2APIC = 1 << 10, ENABLED = 1 << 11 };
    uint64_t v = c->s->msr.apic_base;
    if (v & (phys_reserved(c) | 0x2ff))
        return bad(c, "IA32_APIC_BASE", v, "a reserved bit is set");
    if (v & X2APIC && !(v & ENABLED))
        return bad(c, "IA32_APIC_BASE", v, "x2APIC is on and the APIC is off");
    if (v & X2APIC && c->cpuid && !cpuid_has(c->cpuid, FEAT_X2APIC))
        return bad(c, "IA32_APIC_BASE", v, "x2APIC is on and not offered");
    return true;
}

static bool check_msr_canonical(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    const struct {
        const char *name;
        uint64_t v;
    } row[] = {{"IA32_LSTAR", m->lstar},
               {"IA32_CSTAR", m->cstar},
               {"IA32_KERNEL_GS_BASE", m->kernel_gs_base}};
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        if (!canonical(c, row[i].v))
            return bad(c, row[i].name, row[i].v, "not canonical");
    }
    return true;
}

static bool check_xcr0(const Ctx *c)
{
    uint64_t x = c->s->xcr0, avx512 = x & 0xe0;
    /* Without XSAVE there is no XCR0: all engines then have what the FPU and SSE need in it. */
    uint64_t mask = c->cpuid ? cpuid_xcr0_mask(c->cpuid) : XCR0_KNOWN;
    if (x & ~(mask | 3))
        return bad(c, "XCR0", x, "a bit of a feature that the guest is not offered");
    if (!(x & 1))
        return bad(c, "XCR0", x, "bit 0 (x87) is clear");
    if (x & 4 && !(x & 2))
        return bad(c, "XCR0", x, "AVX is set without SSE");
    if (avx512 && (avx512 != 0xe0 || !(x & 4)))
        return bad(c, "XCR0", x, "the three AVX-512 bits and AVX do not go together");
    return true;
}

static bool check_mxcsr(const Ctx *c)
{
    const FpuState *f = &c->s->fpu;
    return f->mxcsr & ~(f->mxcsr_mask ? f->mxcsr_mask : 0xffbf)
               ? bad(c, "MXCSR", f->mxcsr, "a bit outside MXCSR_MASK is set")
               : true;
}

/* ---- RFLAGS ---- */

static bool check_rflags_reserved(const Ctx *c)
{
    uint64_t v = c->s->rflags;
    if (!(v & FL_FIXED))
        return bad(c, "RFLAGS", v, "bit 1 is clear");
    return v & 0xffffffffffc08028ull ? bad(c, "RFLAGS", v, "a reserved bit is set") : true;
}

static bool check_rflags_vm(const Ctx *c)
{
    if (!(c->s->rflags & FL_VM))
        return true;
    if (c->lma)
        return bad(c, "RFLAGS", c->s->rflags, "VM is set in IA-32e mode");
    return c->pe ? true : bad(c, "RFLAGS", c->s->rflags, "VM is set with CR0.PE clear");
}

/* ---- segments ---- */

static bool check_cpl(const Ctx *c)
{
    if (c->s->cpl != dpl(c, SS))
        return bad_seg(c, SS, "DPL", dpl(c, SS), "not the CPL");
    return true;
}

static bool check_vm86_base(const Ctx *c)
{
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        const Segment *g = &c->s->seg[i];
        if (g->base != (uint64_t)g->selector << 4)
            return bad_seg(c, i, "base", g->base,
                           "not the selector shifted by 4 in virtual-8086 mode");
    }
    return true;
}

static bool check_vm86_limit(const Ctx *c)
{
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        if (c->s->seg[i].limit != 0xffff)
            return bad_seg(c, i, "limit", c->s->seg[i].limit, "not 0xffff in virtual-8086 mode");
    }
    return true;
}

static bool check_vm86_rights(const Ctx *c)
{
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        if (c->s->seg[i].attr != 0xf3)
            return bad_attr(c, i, "not 0xf3 in virtual-8086 mode");
    }
    return true;
}

static bool check_cs_type(const Ctx *c)
{
    if (c->vm86)
        return true;
    unsigned t = type(c, CS);
    if (t != 3 && t != 9 && t != 11 && t != 13 && t != 15)
        return bad_attr(c, CS, "the type is not accessed code (nor 3)");
    return true;
}

static bool check_cs_present(const Ctx *c)
{
    uint32_t a = c->s->seg[CS].attr;
    return a & SEG_UNUSABLE || !(a & SEG_P) ? bad_attr(c, CS, "not present, or unusable") : true;
}

static bool check_cs_dpl(const Ctx *c)
{
    if (c->vm86)
        return true;
    unsigned t = type(c, CS), cs = dpl(c, CS), ss = dpl(c, SS);
    if (t == 3 && cs)
        return bad_attr(c, CS, "a data segment with DPL other than 0");
    if ((t == 9 || t == 11) && cs != ss)
        return bad_attr(c, CS, "non-conforming, and its DPL is not SS.DPL");
    if ((t == 13 || t == 15) && cs > ss)
        return bad_attr(c, CS, "conforming, and its DPL is above SS.DPL");
    return true;
}

static bool check_cs_l_db(const Ctx *c)
{
    uint32_t a = c->s->seg[CS].attr;
    return c->lma && a & SEG_L && a & SEG_DB ? bad_attr(c, CS, "D and L are both set") : true;
}

static bool check_ss_type(const Ctx *c)
{
    if (c->vm86 || !usable(c, SS))
        return true;
    unsigned t = type(c, SS);
    return t != 3 && t != 7 ? bad_attr(c, SS, "the type is not accessed writable data") : true;
}

static bool check_ss_dpl(const Ctx *c)
{
    if (c->vm86 || !dpl(c, SS))
        return true;
    if (!c->pe)
        return bad_attr(c, SS, "DPL is not 0 with CR0.PE clear");
    if (type(c, CS) == 3)
        return bad_attr(c, SS, "DPL is not 0 and CS is a data segment");
    return true;
}

static bool check_data_type(const Ctx *c)
{
    static const enum Seg data[] = {ES, DS, FS, GS};
    for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
        enum Seg i = data[n];
        if (c->vm86 || !usable(c, i))
            continue;
        if (!(type(c, i) & SEG_ACCESSED))
            return bad_attr(c, i, "the accessed bit is clear");
        if (type(c, i) & SEG_CODE && !(type(c, i) & SEG_READABLE))
            return bad_attr(c, i, "execute-only code");
    }
    return true;
}

static bool check_seg_s(const Ctx *c)
{
    for (unsigned i = ES; i <= GS; i++) {
        if ((i == CS || usable(c, i)) && !(c->s->seg[i].attr & SEG_S))
            return bad_attr(c, i, "a system descriptor");
    }
    return true;
}

static bool check_seg_present(const Ctx *c)
{
    for (unsigned i = ES; i <= GS; i++) {
        if (usable(c, i) && !(c->s->seg[i].attr & SEG_P))
            return bad_attr(c, i, "usable and not present");
    }
    return true;
}

static bool check_seg_reserved(const Ctx *c)
{
    for (unsigned i = ES; i < SEG_N; i++) {
        uint32_t a = c->s->seg[i].attr;
        if (a >> 17 || (usable(c, i) && a & 0xf00))
            return bad_attr(c, i, "a reserved bit (11:8 or 31:17) is set");
    }
    return true;
}

static bool check_seg_granularity(const Ctx *c)
{
    for (unsigned i = ES; i < SEG_N; i++) {
        const Segment *g = &c->s->seg[i];
        if (!usable(c, i))
            continue;
        if (g->attr & SEG_G && (g->limit & 0xfff) != 0xfff)
            return bad_seg(c, i, "limit", g->limit, "G is set and bits 11:0 are not all ones");
        if (!(g->attr & SEG_G) && g->limit >> 20)
            return bad_seg(c, i, "limit", g->limit, "G is clear and the limit is above 1 MiB");
    }
    return true;
}

static bool check_seg_base_upper(const Ctx *c)
{
    for (unsigned i = ES; i <= DS; i++) {
        if ((i == CS || usable(c, i)) && c->s->seg[i].base >> 32)
            return bad_seg(c, i, "base", c->s->seg[i].base, "bits 63:32 are not zero");
    }
    return true;
}

static bool check_seg_base_canonical(const Ctx *c)
{
    for (unsigned i = FS; i <= TR; i++) {
        if ((i != LDTR || usable(c, i)) && !canonical(c, c->s->seg[i].base))
            return bad_seg(c, i, "base", c->s->seg[i].base, "not canonical");
    }
    return true;
}

static bool check_tr_unusable(const Ctx *c)
{
    return usable(c, TR) ? true : bad_attr(c, TR, "unusable");
}

static bool check_tr_type(const Ctx *c)
{
    unsigned t = type(c, TR);
    if (t != 11 && (c->lma || t != 3))
        return bad_attr(
            c, TR, c->lma ? "the type is not a busy 64-bit TSS" : "the type is not a busy TSS");
    return true;
}

static bool check_tr_rights(const Ctx *c)
{
    uint32_t a = c->s->seg[TR].attr;
    return a & SEG_S || !(a & SEG_P) ? bad_attr(c, TR, "not a present system descriptor") : true;
}

static bool check_tr_selector(const Ctx *c)
{
    return c->s->seg[TR].selector & 4
               ? bad_seg(c, TR, "selector", c->s->seg[TR].selector, "TI is set")
               : true;
}

static bool check_ldtr_rights(const Ctx *c)
{
    uint32_t a = c->s->seg[LDTR].attr;
    if (!usable(c, LDTR))
        return true;
    if ((a & SEG_TYPE) != 2 || a & SEG_S || !(a & SEG_P))
        return bad_attr(c, LDTR, "usable and not a present LDT");
    return true;
}

static bool check_ldtr_selector(const Ctx *c)
{
    return usable(c, LDTR) && c->s->seg[LDTR].selector & 4
               ? bad_seg(c, LDTR, "selector", c->s->seg[LDTR].selector, "TI is set")
               : true;
}

static bool check_table_base(const Ctx *c)
{
    if (!canonical(c, c->s->gdt.base))
        return bad(c, "GDTR base", c->s->gdt.base, "not canonical");
    return canonical(c, c->s->idt.base) ? true
                                        : bad(c, "IDTR base", c->s->idt.base, "not canonical");
}

/* ---- RIP ---- */

static bool check_rip_upper(const Ctx *c)
{
    return !c->code64 && c->s->rip >> 32
               ? bad(c, "RIP", c->s->rip, "bits 63:32 are not zero outside 64-bit code")
               : true;
}

static bool check_rip_canonical(const Ctx *c)
{
    /* Bits 63:48 (63:57) must be identical; that bit 47 follows them is not asked: the fetch
     * faults. */
    unsigned width = c->s->cr4 & CR4_LA57 ? 57 : 48;
    uint64_t top = c->s->rip >> width;
    return c->code64 && top && top != ~0ull >> width ? bad(c, "RIP", c->s->rip, "not canonical")
                                                     : true;
}

/* ---- events and activity ---- */

static bool takes_error_code(unsigned vector)
{
    return vector < 32 && BIT(vector) & (BIT(VEC_DF) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) |
                                         BIT(VEC_GP) | BIT(VEC_PF) | BIT(VEC_AC) | BIT(VEC_CP));
}

static bool check_event_single(const Ctx *c)
{
    const Events *e = &c->s->ev;
    unsigned n = (unsigned)e->exception.injected + e->interrupt.injected + e->nmi.injected;
    if (n > 1)
        return bad(c, "the number of events being delivered", n, "one entry delivers one");
    if (e->exception.injected && e->exception.pending)
        return bad(c, "the exception", e->exception.nr, "both pending and being delivered");
    return true;
}

static bool check_event_vector(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (!e->exception.injected && !e->exception.pending)
        return true;
    if (e->exception.nr > 31 || e->exception.nr == VEC_NMI)
        return bad(c, "the exception's vector", e->exception.nr, "not that of an exception");
    return true;
}

static bool check_event_error_code(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (!e->exception.injected && !e->exception.pending)
        return true;
    if (e->exception.has_error != (c->pe && takes_error_code(e->exception.nr)))
        return bad(c, "the exception's vector", e->exception.nr,
                   e->exception.has_error ? "it has an error code where none is delivered"
                                          : "it lacks its error code");
    return true;
}

static bool check_event_error_bits(const Ctx *c)
{
    const Events *e = &c->s->ev;
    return e->exception.has_error && e->exception.error >> 16
               ? bad(c, "the exception's error code", e->exception.error, "bits 31:16 are not zero")
               : true;
}

static bool check_event_if(const Ctx *c)
{
    return c->s->ev.interrupt.injected && !c->s->ev.interrupt.soft && !(c->s->rflags & FL_IF)
               ? bad(c, "RFLAGS", c->s->rflags, "IF is clear and an interrupt is being delivered")
               : true;
}

static bool check_event_shadow(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (e->interrupt.injected && !e->interrupt.soft && (e->shadow_sti || e->shadow_mov_ss))
        return bad(c, "the interrupt's vector", e->interrupt.nr,
                   "it is being delivered in an interrupt shadow");
    if (e->nmi.injected && (e->shadow_sti || e->shadow_mov_ss))
        return bad(c, "the NMI's vector", VEC_NMI, "it is being delivered in an interrupt shadow");
    return true;
}

static bool check_shadow_both(const Ctx *c)
{
    return c->s->ev.shadow_sti && c->s->ev.shadow_mov_ss
               ? bad(c, "interruptibility", 3, "blocking by STI and by MOV SS at once")
               : true;
}

static bool check_shadow_if(const Ctx *c)
{
    return c->s->ev.shadow_sti && !(c->s->rflags & FL_IF)
               ? bad(c, "RFLAGS", c->s->rflags, "IF is clear with blocking by STI")
               : true;
}

static bool check_activity(const Ctx *c)
{
    enum RunState r = c->s->run_state;
    return r != RUN_RUNNING && r != RUN_HALTED && r != RUN_WAIT_SIPI && r != RUN_STOPPED
               ? bad(c, "the activity state", r, "not active, HLT, shutdown or wait-for-SIPI")
               : true;
}

static bool check_activity_dpl(const Ctx *c)
{
    return c->s->run_state == RUN_HALTED && dpl(c, SS)
               ? bad_seg(c, SS, "DPL", dpl(c, SS), "halted outside privilege level 0")
               : true;
}

static bool check_activity_shadow(const Ctx *c)
{
    return c->s->run_state != RUN_RUNNING && (c->s->ev.shadow_sti || c->s->ev.shadow_mov_ss)
               ? bad(c, "the activity state", c->s->run_state, "not active in an interrupt shadow")
               : true;
}

static bool check_activity_event(const Ctx *c)
{
    const Events *e = &c->s->ev;
    bool ok;
    switch (c->s->run_state) {
    case RUN_HALTED:
        ok = !e->exception.injected || e->exception.nr == VEC_DB || e->exception.nr == VEC_MC;
        break;
    case RUN_STOPPED:
        ok = !e->interrupt.injected && (!e->exception.injected || e->exception.nr == VEC_MC);
        break;
    case RUN_WAIT_SIPI:
        ok = !e->interrupt.injected && !e->exception.injected && !e->nmi.injected;
        break;
    default:
        return true;
    }
    return ok ? true
              : bad(c, "the activity state", c->s->run_state,
                    "the event would not be delivered in it");
}

/* ---- PDPTEs ---- */

static bool check_pdpte(const Ctx *c)
{
    if (!(c->s->cr0 & CR0_PG) || !(c->s->cr4 & CR4_PAE) || c->lma)
        return true;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t p = c->s->pdpte[i];
        if (p & 1 && p & (0x1e6 | phys_reserved(c))) {
            char name[8];
            g_snprintf(name, sizeof(name), "PDPTE%u", i);
            return bad(c, name, p, "present with a reserved bit set");
        }
    }
    return true;
}

/* ---- the table ---- */

static const struct {
    const char *name, *reference;
    bool (*fn)(const Ctx *);
} checks[] = {
#define CHECK(id, name, reference) {name, reference, check_##id},
#include "vmstate/checks.def"
};

_Static_assert(ARRAY_LEN(checks) <= 64, "one bit a check");

static Ctx context(const CpuState *s, const CpuidTable *cpuid, char *why, size_t size)
{
    bool pe = s->cr0 & CR0_PE, lma = s->efer & EFER_LMA;
    return (Ctx){
        .s = s,
        .cpuid = cpuid,
        .pe = pe,
        .lma = lma,
        .vm86 = s->rflags & FL_VM && pe,
        .code64 = lma && s->seg[CS].attr & SEG_L,
        .why = why,
        .why_size = size,
    };
}

static int first_failure(const CpuState *s, const CpuidTable *cpuid, char *why, size_t size)
{
    Ctx c = context(s, cpuid, why, size);
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        if (unlikely(!checks[i].fn(&c)))
            return (int)i;
    }
    return -1;
}

const char *vmentry_failed_check(const CpuState *s, const CpuidTable *cpuid, char *why, size_t size)
{
    char local[120];
    int i = first_failure(s, cpuid, why ? why : local, why ? size : sizeof(local));
    return i < 0 ? NULL : checks[i].name;
}

uint64_t vmentry_failed_mask(const CpuState *s, const CpuidTable *cpuid)
{
    char why[120];
    Ctx c = context(s, cpuid, why, sizeof(why));
    uint64_t mask = 0;
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++)
        mask |= checks[i].fn(&c) ? 0 : BIT(i);
    return mask;
}

bool vmentry_check(const CpuState *s, const CpuidTable *cpuid, GError **err)
{
    char why[120];
    int i = first_failure(s, cpuid, why, sizeof(why));
    if (i < 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_STATE, "VM-entry check '%s' (SDM vol. 3, %s) fails: %s",
                checks[i].name, checks[i].reference, why);
    return false;
}

const char *vmentry_check_name(unsigned i, const char **reference)
{
    if (i >= ARRAY_LEN(checks))
        return NULL;
    if (reference)
        *reference = checks[i].reference;
    return checks[i].name;
}
