#include "vmstate/checks.h"

#include "base/log.h"
#include "cpu/xsave.h"

typedef enum VmentryFinding Finding;
#define FINE VMENTRY_FINE

/* Attribute bits that no segment has. */
#define SEG_NOWHERE 0xfffe0f00u

/* What a check sees, and where it says what it finds. */
typedef struct Ctx {
    const CpuState *s;
    const CpuidTable *cpuid;
    bool (*kvm_quirk)(enum KvmQuirk);
    bool pe, lma, vm86, code64;
    char *why;
    size_t why_size;
} Ctx;

static const char *const seg_name[SEG_N] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};

static void say(const Ctx *c, const char *field, uint64_t value, const char *what)
{
    g_snprintf(c->why, (gulong)c->why_size, "%s is %#" G_GINT64_MODIFIER "x: %s", field, value,
               what);
}

static Finding bad(const Ctx *c, const char *field, uint64_t value, const char *what)
{
    say(c, field, value, what);
    return VMENTRY_REFUSED;
}

/* KVM would run another state than this. */
static Finding lost(const Ctx *c, const char *field, uint64_t value, const char *what)
{
    say(c, field, value, what);
    return VMENTRY_LOST;
}

/* The row of checks.def says what KVM makes of it. */
static Finding taken(const Ctx *c, const char *field, uint64_t value, const char *what)
{
    say(c, field, value, what);
    return VMENTRY_NOTED;
}

static Finding bad_seg(const Ctx *c, enum Seg i, const char *part, uint64_t value, const char *what)
{
    char field[24];
    g_snprintf(field, sizeof(field), "%s %s", seg_name[i], part);
    return bad(c, field, value, what);
}

static Finding bad_attr(const Ctx *c, enum Seg i, const char *what)
{
    return bad_seg(c, i, "attributes", c->s->seg[i].attr, what);
}

static Finding taken_attr(const Ctx *c, enum Seg i, const char *what)
{
    bad_attr(c, i, what);
    return VMENTRY_NOTED;
}

static bool canonical_in(uint64_t v, unsigned bits)
{
    unsigned spare = 64 - bits;
    return (uint64_t)((int64_t)(v << spare) >> spare) == v;
}

static bool canonical(const Ctx *c, uint64_t v)
{
    return canonical_in(v, c->s->cr4 & CR4_LA57 ? 57 : 48);
}

static bool quirk(const Ctx *c, enum KvmQuirk what)
{
    return c->kvm_quirk && c->kvm_quirk(what);
}

/* As the processor has it from KVM: what is not present is unusable, and CS is looked at always. */
static bool usable(const Ctx *c, enum Seg i)
{
    uint32_t a = c->s->seg[i].attr;
    return i == CS || (!(a & SEG_UNUSABLE) && a & SEG_P);
}

/* As the processor has it from KVM, which sets bit 0 of all but LDTR in an unrestricted guest. */
static unsigned type(const Ctx *c, enum Seg i)
{
    return (c->s->seg[i].attr & SEG_TYPE) | (i != LDTR ? SEG_ACCESSED : 0);
}

static bool accessed(const Ctx *c, enum Seg i)
{
    return c->s->seg[i].attr & SEG_ACCESSED;
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

static Finding check_cr0_reserved(const Ctx *c)
{
    if (c->s->cr0 >> 32)
        return bad(c, "CR0", c->s->cr0, "bits 63:32 are not zero");
    return c->s->cr0 & ~CR0_KNOWN ? taken(c, "CR0", c->s->cr0, "a reserved bit is set") : FINE;
}

static Finding check_cr0_nw_cd(const Ctx *c)
{
    uint64_t v = c->s->cr0;
    return v & CR0_NW && !(v & CR0_CD) ? bad(c, "CR0", v, "NW is set and CD is not") : FINE;
}

static Finding check_cr0_pg_pe(const Ctx *c)
{
    return c->s->cr0 & CR0_PG && !c->pe ? bad(c, "CR0", c->s->cr0, "PG is set and PE is not")
                                        : FINE;
}

static Finding check_efer_reserved(const Ctx *c)
{
    uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    if (c->cpuid && cpuid_has(c->cpuid, FEAT_AUTOIBRS))
        known |= EFER_AIBRSE;
    return c->s->efer & ~known ? bad(c, "EFER", c->s->efer, "a reserved bit is set") : FINE;
}

static Finding check_efer_lma(const Ctx *c)
{
    bool want = c->s->efer & EFER_LME && c->s->cr0 & CR0_PG;
    return c->lma != want ? bad(c, "EFER", c->s->efer, "LMA is not LME and CR0.PG") : FINE;
}

#define CR4_KNOWN                                                                                 \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |     \
     CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_LA57 | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | \
     CR4_SMEP | CR4_SMAP | CR4_PKE)

static Finding check_cr4_reserved(const Ctx *c)
{
    /* VMXE and SMXE count as reserved: neither VMX nor SMX is ever offered. */
    return c->s->cr4 & ~(uint64_t)CR4_KNOWN ? bad(c, "CR4", c->s->cr4, "a reserved bit is set")
                                            : FINE;
}

static Finding check_cr4_pae(const Ctx *c)
{
    return c->lma && !(c->s->cr4 & CR4_PAE)
               ? bad(c, "CR4", c->s->cr4, "PAE is clear in IA-32e mode")
               : FINE;
}

static Finding check_cr4_pcide(const Ctx *c)
{
    return c->s->cr4 & CR4_PCIDE && !c->lma
               ? bad(c, "CR4", c->s->cr4, "PCIDE is set outside IA-32e mode")
               : FINE;
}

static Finding check_cr3_reserved(const Ctx *c)
{
    return c->s->cr3 & phys_reserved(c)
               ? bad(c, "CR3", c->s->cr3, "a bit above the physical address width is set")
               : FINE;
}

static Finding check_cr8_reserved(const Ctx *c)
{
    return c->s->cr8 > 15 ? taken(c, "CR8", c->s->cr8, "a reserved bit is set") : FINE;
}

static Finding check_dr6_upper(const Ctx *c)
{
    return c->s->dr6 >> 32 ? bad(c, "DR6", c->s->dr6, "bits 63:32 are not zero") : FINE;
}

static Finding check_dr7_upper(const Ctx *c)
{
    return c->s->dr7 >> 32 ? bad(c, "DR7", c->s->dr7, "bits 63:32 are not zero") : FINE;
}

static Finding check_debugctl(const Ctx *c)
{
    return c->s->msr.debugctl & ~0xffc7ull
               ? taken(c, "IA32_DEBUGCTL", c->s->msr.debugctl, "a reserved bit is set")
               : FINE;
}

static Finding check_sysenter_canonical(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    if (!canonical(c, m->sysenter_esp))
        return taken(c, "IA32_SYSENTER_ESP", m->sysenter_esp, "not canonical");
    if (!canonical(c, m->sysenter_eip))
        return taken(c, "IA32_SYSENTER_EIP", m->sysenter_eip, "not canonical");
    return FINE;
}

static Finding check_pat(const Ctx *c)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned t = c->s->msr.pat >> (8 * i) & 0xff;
        if (t > 7 || t == 2 || t == 3)
            return bad(c, "IA32_PAT", c->s->msr.pat, "a byte is not 0, 1, 4, 5, 6 or 7");
    }
    return FINE;
}

static bool memory_type(unsigned t)
{
    return t <= 6 && t != 2 && t != 3;
}

static Finding check_mtrr(const Ctx *c)
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
    return FINE;
}

/* All zeros or all ones; KVM lets guests clear bits 0 and 10, which old kernels do. */
static Finding check_mc_ctl(const Ctx *c)
{
    for (unsigned i = 0; i < MC_BANKS_MAX; i++) {
        uint64_t v = c->s->msr.mc_ctl[i];
        if (v && ~(v | BIT(10) | BIT(0)))
            return bad(c, "IA32_MC_CTL", v, "neither all zeros nor all ones");
    }
    uint64_t g = c->s->msr.mcg_ctl;
    return g && ~g ? bad(c, "IA32_MCG_CTL", g, "neither all zeros nor all ones") : FINE;
}

static Finding check_tsc_aux(const Ctx *c)
{
    uint64_t v = c->s->msr.tsc_aux;
    return v >> 32 ? bad(c, "IA32_TSC_AUX", v, "bits 63:32 are not zero") : FINE;
}

/* What is not, KVM is not given. */
static bool offered(const Ctx *c, enum CpuFeature f)
{
    return !c->cpuid || cpuid_has(c->cpuid, f);
}

static Finding check_kvm_msrs(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    if (m->kvm_steal_time & 0x3e && offered(c, FEAT_KVM_STEAL_TIME))
        return bad(c, "KVM_STEAL_TIME", m->kvm_steal_time, "a reserved bit is set");
    if (m->kvm_pv_eoi & 2 && offered(c, FEAT_KVM_PV_EOI))
        return bad(c, "KVM_PV_EOI", m->kvm_pv_eoi, "the address is not aligned");
    return m->kvm_poll_control >> 1 && offered(c, FEAT_KVM_POLL_CONTROL)
               ? bad(c, "KVM_POLL_CONTROL", m->kvm_poll_control, "a reserved bit is set")
               : FINE;
}

static Finding check_apic_base(const Ctx *c)
{
    enum { X2APIC = 1 << 10, ENABLED = 1 << 11 };
    uint64_t v = c->s->msr.apic_base;
    if (v & (phys_reserved(c) | 0x2ff))
        return bad(c, "IA32_APIC_BASE", v, "a reserved bit is set");
    if (v & X2APIC && !(v & ENABLED))
        return bad(c, "IA32_APIC_BASE", v, "x2APIC is on and the APIC is off");
    if (v & X2APIC && c->cpuid && !cpuid_has(c->cpuid, FEAT_X2APIC))
        return bad(c, "IA32_APIC_BASE", v, "x2APIC is on and not offered");
    return FINE;
}

static Finding check_msr_canonical(const Ctx *c)
{
    const Msrs *m = &c->s->msr;
    const struct {
        const char *name;
        uint64_t v;
    } row[] = {{"IA32_LSTAR", m->lstar},
               {"IA32_CSTAR", m->cstar},
               {"IA32_KERNEL_GS_BASE", m->kernel_gs_base}};
    Finding found = FINE;
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        if (canonical(c, row[i].v))
            continue;
        if (!canonical_in(row[i].v, 57) || !quirk(c, KVM_TAKES_WIDE_MSR))
            return bad(c, row[i].name, row[i].v, "not canonical");
        found = taken(c, row[i].name, row[i].v, "not canonical in 48 bits");
    }
    return found;
}

static Finding check_xcr0(const Ctx *c)
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
    return FINE;
}

static Finding check_mxcsr(const Ctx *c)
{
    const FpuState *f = &c->s->fpu;
    uint32_t over = f->mxcsr & ~fpu_mxcsr_mask(f);
    if (!over)
        return FINE;
    return (over >> 16 ? bad : taken)(c, "MXCSR", f->mxcsr, "a bit outside MXCSR_MASK is set");
}

/* ---- RFLAGS ---- */

static Finding check_rflags_reserved(const Ctx *c)
{
    uint64_t v = c->s->rflags;
    if (v & 0xffffffffffc08028ull)
        return bad(c, "RFLAGS", v, "a reserved bit is set");
    return v & FL_FIXED ? FINE : taken(c, "RFLAGS", v, "bit 1 is clear");
}

static Finding check_rflags_vm(const Ctx *c)
{
    if (!(c->s->rflags & FL_VM))
        return FINE;
    if (c->lma)
        return bad(c, "RFLAGS", c->s->rflags, "VM is set in IA-32e mode");
    return c->pe ? FINE : bad(c, "RFLAGS", c->s->rflags, "VM is set with CR0.PE clear");
}

/* ---- segments ---- */

static Finding check_cpl(const Ctx *c)
{
    return c->s->cpl != dpl(c, SS)
               ? lost(c, "the CPL", c->s->cpl, "not SS.DPL, which KVM has it in")
               : FINE;
}

static Finding check_vm86_base(const Ctx *c)
{
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        const Segment *g = &c->s->seg[i];
        if (g->base != (uint64_t)g->selector << 4)
            return bad_seg(c, i, "base", g->base,
                           "not the selector shifted by 4 in virtual-8086 mode");
    }
    return FINE;
}

static Finding check_vm86_limit(const Ctx *c)
{
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        if (c->s->seg[i].limit != 0xffff)
            return bad_seg(c, i, "limit", c->s->seg[i].limit, "not 0xffff in virtual-8086 mode");
    }
    return FINE;
}

static Finding check_vm86_rights(const Ctx *c)
{
    Finding found = FINE;
    for (unsigned i = ES; c->vm86 && i <= GS; i++) {
        uint32_t attr = c->s->seg[i].attr & ~SEG_NOWHERE;
        if ((attr | SEG_ACCESSED) != 0xf3)
            return bad_attr(c, i, "not 0xf3 in virtual-8086 mode");
        if (attr != 0xf3)
            found = taken_attr(c, i, "the accessed bit is clear");
    }
    return found;
}

static Finding check_cs_type(const Ctx *c)
{
    if (c->vm86)
        return FINE;
    unsigned t = type(c, CS);
    if (t != 3 && t != 9 && t != 11 && t != 13 && t != 15)
        return bad_attr(c, CS, "the type is not code (nor 3)");
    return accessed(c, CS) ? FINE : taken_attr(c, CS, "the accessed bit is clear");
}

static Finding check_cs_present(const Ctx *c)
{
    uint32_t a = c->s->seg[CS].attr;
    if (!(a & SEG_P))
        return bad_attr(c, CS, "not present");
    return a & SEG_UNUSABLE ? taken_attr(c, CS, "unusable, and present") : FINE;
}

static Finding check_cs_dpl(const Ctx *c)
{
    if (c->vm86)
        return FINE;
    unsigned t = type(c, CS), cs = dpl(c, CS), ss = dpl(c, SS);
    unsigned rpl = c->s->seg[CS].selector & 3; /* SS.DPL in protected mode, anything in real mode */
    if (t & SEG_CODE && rpl != ss && quirk(c, KVM_CS_BY_RPL)) {
        bool goes = t & SEG_CONFORMING ? cs <= rpl : cs == rpl;
        return goes ? FINE : bad_attr(c, CS, "its DPL does not go with its RPL");
    }
    if (t == 3 && cs)
        return bad_attr(c, CS, "a data segment with DPL other than 0");
    if ((t == 9 || t == 11) && cs != ss)
        return bad_attr(c, CS, "non-conforming, and its DPL is not SS.DPL");
    if ((t == 13 || t == 15) && cs > ss)
        return bad_attr(c, CS, "conforming, and its DPL is above SS.DPL");
    return FINE;
}

static Finding check_cs_l_db(const Ctx *c)
{
    uint32_t a = c->s->seg[CS].attr;
    return c->lma && a & SEG_L && a & SEG_DB ? bad_attr(c, CS, "D and L are both set") : FINE;
}

static Finding check_ss_type(const Ctx *c)
{
    if (c->vm86 || !usable(c, SS))
        return FINE;
    unsigned t = type(c, SS);
    if (t != 3 && t != 7)
        return bad_attr(c, SS, "the type is not writable data");
    return accessed(c, SS) ? FINE : taken_attr(c, SS, "the accessed bit is clear");
}

static Finding check_ss_dpl(const Ctx *c)
{
    if (c->vm86 || !dpl(c, SS))
        return FINE;
    if (!c->pe)
        return bad_attr(c, SS, "DPL is not 0 with CR0.PE clear");
    if (type(c, CS) == 3)
        return bad_attr(c, SS, "DPL is not 0 and CS is a data segment");
    return FINE;
}

static Finding check_data_type(const Ctx *c)
{
    static const enum Seg data[] = {ES, DS, FS, GS};
    Finding found = FINE;
    for (unsigned n = 0; n < ARRAY_LEN(data); n++) {
        enum Seg i = data[n];
        if (c->vm86 || !usable(c, i))
            continue;
        if (type(c, i) & SEG_CODE && !(type(c, i) & SEG_READABLE))
            return bad_attr(c, i, "execute-only code");
        if (!accessed(c, i))
            found = taken_attr(c, i, "the accessed bit is clear");
    }
    return found;
}

static Finding check_seg_s(const Ctx *c)
{
    for (unsigned i = ES; i <= GS; i++) {
        if (usable(c, i) && !(c->s->seg[i].attr & SEG_S))
            return bad_attr(c, i, "a system descriptor");
    }
    return FINE;
}

static Finding check_seg_present(const Ctx *c)
{
    for (unsigned i = ES; i <= GS; i++) {
        if (i != CS && !(c->s->seg[i].attr & (SEG_P | SEG_UNUSABLE)))
            return taken_attr(c, i, "usable and not present");
    }
    return FINE;
}

static Finding check_seg_reserved(const Ctx *c)
{
    for (unsigned i = ES; i < SEG_N; i++) {
        uint32_t a = c->s->seg[i].attr;
        if (a >> 17 || (usable(c, i) && a & SEG_NOWHERE))
            return taken_attr(c, i, "a reserved bit (11:8 or 31:17) is set");
    }
    return FINE;
}

static Finding check_seg_granularity(const Ctx *c)
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
    return FINE;
}

static Finding check_seg_base_upper(const Ctx *c)
{
    for (unsigned i = ES; i <= DS; i++) {
        if (usable(c, i) && c->s->seg[i].base >> 32)
            return bad_seg(c, i, "base", c->s->seg[i].base, "bits 63:32 are not zero");
    }
    return FINE;
}

static Finding check_seg_base_canonical(const Ctx *c)
{
    for (unsigned i = FS; i <= TR; i++) {
        if ((i != LDTR || usable(c, i)) && !canonical(c, c->s->seg[i].base))
            return bad_seg(c, i, "base", c->s->seg[i].base, "not canonical");
    }
    return FINE;
}

static Finding check_tr_unusable(const Ctx *c)
{
    return c->s->seg[TR].attr & SEG_UNUSABLE ? bad_attr(c, TR, "unusable") : FINE;
}

static Finding check_tr_type(const Ctx *c)
{
    unsigned t = type(c, TR);
    if (t != 11 && (c->lma || t != 3))
        return bad_attr(
            c, TR, c->lma ? "the type is not a busy 64-bit TSS" : "the type is not a busy TSS");
    return accessed(c, TR) ? FINE : taken_attr(c, TR, "bit 0 of the type is clear");
}

static Finding check_tr_rights(const Ctx *c)
{
    uint32_t a = c->s->seg[TR].attr;
    return a & SEG_S || !(a & SEG_P) ? bad_attr(c, TR, "not a present system descriptor") : FINE;
}

static Finding check_tr_selector(const Ctx *c)
{
    return c->s->seg[TR].selector & 4
               ? bad_seg(c, TR, "selector", c->s->seg[TR].selector, "TI is set")
               : FINE;
}

static Finding check_ldtr_rights(const Ctx *c)
{
    uint32_t a = c->s->seg[LDTR].attr;
    if (usable(c, LDTR))
        return type(c, LDTR) != 2 || a & SEG_S ? bad_attr(c, LDTR, "usable and not an LDT") : FINE;
    return a & SEG_UNUSABLE ? FINE : taken_attr(c, LDTR, "usable and not present");
}

static Finding check_ldtr_selector(const Ctx *c)
{
    return usable(c, LDTR) && c->s->seg[LDTR].selector & 4
               ? bad_seg(c, LDTR, "selector", c->s->seg[LDTR].selector, "TI is set")
               : FINE;
}

static Finding check_table_base(const Ctx *c)
{
    if (!canonical(c, c->s->gdt.base))
        return bad(c, "GDTR base", c->s->gdt.base, "not canonical");
    return canonical(c, c->s->idt.base) ? FINE
                                        : bad(c, "IDTR base", c->s->idt.base, "not canonical");
}

/* ---- RIP ---- */

static Finding check_rip_upper(const Ctx *c)
{
    return !c->code64 && c->s->rip >> 32
               ? bad(c, "RIP", c->s->rip, "bits 63:32 are not zero outside 64-bit code")
               : FINE;
}

static Finding check_rip_canonical(const Ctx *c)
{
    /* Bits 63:48 (63:57) must be identical; that bit 47 follows them is not asked: the fetch
     * faults. */
    unsigned width = c->s->cr4 & CR4_LA57 ? 57 : 48;
    uint64_t top = c->s->rip >> width;
    if (!c->code64 || !top || top == ~0ull >> width)
        return FINE;
    return (quirk(c, KVM_ENTERS_WILD_RIP) ? taken : bad)(c, "RIP", c->s->rip, "not canonical");
}

/* ---- events and activity ---- */

static bool takes_error_code(unsigned vector)
{
    return vector < 32 && BIT(vector) & (BIT(VEC_DF) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) |
                                         BIT(VEC_GP) | BIT(VEC_PF) | BIT(VEC_AC) | BIT(VEC_CP));
}

static bool has_exception(const Events *e)
{
    return e->exception.injected || e->exception.pending;
}

static Finding check_event_single(const Ctx *c)
{
    const Events *e = &c->s->ev;
    unsigned n = (unsigned)has_exception(e) + e->interrupt.injected + e->nmi.injected;
    if (n > 1)
        return lost(c, "the number of events to be delivered", n, "KVM delivers one of them");
    return e->exception.injected && e->exception.pending
               ? taken(c, "the exception", e->exception.nr, "both pending and being delivered")
               : FINE;
}

static Finding check_event_vector(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (!has_exception(e))
        return FINE;
    if (e->exception.nr > 31 || e->exception.nr == VEC_NMI)
        return bad(c, "the exception's vector", e->exception.nr, "not that of an exception");
    return FINE;
}

static Finding check_event_error_code(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (!has_exception(e))
        return FINE;
    if (e->exception.has_error && !c->pe)
        return taken(c, "the exception's vector", e->exception.nr, "an error code in real mode");
    if (e->exception.has_error != (c->pe && takes_error_code(e->exception.nr)))
        return bad(c, "the exception's vector", e->exception.nr,
                   e->exception.has_error ? "it has an error code where none is delivered"
                                          : "it lacks its error code");
    return FINE;
}

static Finding check_event_error_bits(const Ctx *c)
{
    const Events *e = &c->s->ev;
    return e->exception.has_error && e->exception.error >> 16
               ? taken(c, "the exception's error code", e->exception.error,
                       "bits 31:16 are not zero")
               : FINE;
}

/* An interrupt that this entry delivers: exceptions and NMIs go before it. */
static bool enters_interrupt(const Events *e)
{
    return e->interrupt.injected && !e->interrupt.soft && !e->nmi.injected && !has_exception(e);
}

static Finding check_event_if(const Ctx *c)
{
    return enters_interrupt(&c->s->ev) && !(c->s->rflags & FL_IF)
               ? bad(c, "RFLAGS", c->s->rflags, "IF is clear and an interrupt is being delivered")
               : FINE;
}

static Finding check_event_shadow(const Ctx *c)
{
    const Events *e = &c->s->ev;
    if (enters_interrupt(e) && (e->shadow_sti || e->shadow_mov_ss))
        return bad(c, "the interrupt's vector", e->interrupt.nr,
                   "it is being delivered in an interrupt shadow");
    if (e->nmi.injected && !has_exception(e) && (e->shadow_sti || e->shadow_mov_ss))
        return bad(c, "the NMI's vector", VEC_NMI, "it is being delivered in an interrupt shadow");
    return FINE;
}

static Finding check_shadow_both(const Ctx *c)
{
    return c->s->ev.shadow_sti && c->s->ev.shadow_mov_ss
               ? taken(c, "interruptibility", 3, "blocking by STI and by MOV SS at once")
               : FINE;
}

static Finding check_shadow_if(const Ctx *c)
{
    return c->s->ev.shadow_sti && !c->s->ev.shadow_mov_ss && !(c->s->rflags & FL_IF)
               ? bad(c, "RFLAGS", c->s->rflags, "IF is clear with blocking by STI")
               : FINE;
}

static Finding check_activity(const Ctx *c)
{
    enum RunState r = c->s->run_state;
    if (r == RUN_RUNNING || r == RUN_HALTED || r == RUN_WAIT_SIPI || r == RUN_STOPPED)
        return FINE;
    if (r == RUN_INIT_RECEIVED || r == RUN_MWAIT)
        return taken(c, "the activity state", r, "not active, HLT, shutdown or wait-for-SIPI");
    return lost(c, "the activity state", r, "unknown, and KVM would run");
}

static Finding check_activity_dpl(const Ctx *c)
{
    return c->s->run_state == RUN_HALTED && dpl(c, SS)
               ? taken(c, "SS DPL", dpl(c, SS), "halted outside privilege level 0")
               : FINE;
}

static Finding check_activity_shadow(const Ctx *c)
{
    return c->s->run_state != RUN_RUNNING && (c->s->ev.shadow_sti || c->s->ev.shadow_mov_ss)
               ? taken(c, "the activity state", c->s->run_state,
                       "not active in an interrupt shadow")
               : FINE;
}

static Finding check_activity_event(const Ctx *c)
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
        return FINE;
    }
    return ok ? FINE
              : taken(c, "the activity state", c->s->run_state,
                      "the event would not be delivered in it");
}

/* ---- PDPTEs ---- */

static Finding check_pdpte(const Ctx *c)
{
    if (!(c->s->cr0 & CR0_PG) || !(c->s->cr4 & CR4_PAE) || c->lma)
        return FINE;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t p = c->s->pdpte[i];
        if (p & 1 && p & (0x1e6 | phys_reserved(c))) {
            char name[8];
            g_snprintf(name, sizeof(name), "PDPTE%u", i);
            return bad(c, name, p, "present with a reserved bit set");
        }
    }
    return FINE;
}

/* ---- the table ---- */

static const struct {
    const char *name, *reference, *changes, *kvm;
    Finding (*fn)(const Ctx *);
} checks[] = {
#define CHECK(id, name, reference)               {name, reference, "", "", check_##id},
#define TAKEN(id, name, reference, changes, kvm) {name, reference, changes, kvm, check_##id},
#include "vmstate/checks.def"
};

_Static_assert(ARRAY_LEN(checks) <= 64, "one bit a check");

static Ctx context(const CpuState *s, const CheckEnv *env, char *why, size_t size)
{
    bool pe = s->cr0 & CR0_PE, lma = s->efer & EFER_LMA;
    return (Ctx){
        .s = s,
        .cpuid = env ? env->cpuid : NULL,
        .kvm_quirk = env ? env->kvm_quirk : NULL,
        .pe = pe,
        .lma = lma,
        .vm86 = s->rflags & FL_VM && pe,
        .code64 = lma && s->seg[CS].attr & SEG_L,
        .why = why,
        .why_size = size,
    };
}

static void __attribute__((noinline, cold)) note(CheckNotes *notes, unsigned i, const char *why)
{
    if (!notes)
        return;
    if (notes->n < notes->max) {
        notes->note[notes->n].check = i;
        g_strlcpy(notes->note[notes->n].why, why, sizeof(notes->note[0].why));
    }
    notes->n++;
}

/* The first that refuses, or -1; what is noted before it goes into notes. */
static int first_failure(const Ctx *c, CheckNotes *notes)
{
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        Finding f = checks[i].fn(c);
        if (likely(f == FINE))
            continue;
        if (f != VMENTRY_NOTED)
            return (int)i;
        note(notes, i, c->why);
    }
    return -1;
}

enum VmentryFinding vmentry_ask(unsigned i, const CpuState *s, const CheckEnv *env, char *why,
                                size_t size)
{
    char local[120];
    Ctx c = context(s, env, why ? why : local, why ? size : sizeof(local));
    return checks[i].fn(&c);
}

const char *vmentry_failed_check(const CpuState *s, const CheckEnv *env, char *why, size_t size)
{
    char local[120];
    Ctx c = context(s, env, why ? why : local, why ? size : sizeof(local));
    int i = first_failure(&c, NULL);
    return i < 0 ? NULL : checks[i].name;
}

uint64_t vmentry_mask(const CpuState *s, const CheckEnv *env, enum VmentryFinding least)
{
    char why[120];
    Ctx c = context(s, env, why, sizeof(why));
    uint64_t mask = 0;
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++)
        mask |= checks[i].fn(&c) >= least ? BIT(i) : 0;
    return mask;
}

bool vmentry_check(const CpuState *s, const CheckEnv *env, CheckNotes *notes, GError **err)
{
    char why[120];
    Ctx c = context(s, env, why, sizeof(why));
    int i = first_failure(&c, notes);
    if (i < 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_STATE, "VM-entry check '%s' (SDM vol. 3, %s) fails: %s",
                checks[i].name, checks[i].reference, why);
    return false;
}

bool vmentry_check_info(unsigned i, CheckInfo *out)
{
    if (i >= ARRAY_LEN(checks))
        return false;
    *out = (CheckInfo){checks[i].name, checks[i].reference, checks[i].changes, checks[i].kvm};
    return true;
}

bool vmentry_may_change(uint64_t noted, const char *field)
{
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        g_auto(GStrv) part = noted & BIT(i) ? g_strsplit(checks[i].changes, ",", 0) : NULL;
        for (unsigned k = 0; part && part[k]; k++)
            if (g_pattern_match_simple(part[k], field))
                return true;
    }
    return false;
}
