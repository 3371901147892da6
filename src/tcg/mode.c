/* Processor modes and the control registers that choose them: SDM vol. 3, 2.5, 4.1, 10.8. */
#include "tcg/sys.h"

void update_access_mode(CpuState *s, Tcg *t)
{
    bool ac = s->rflags & FL_AC;
    t->mmu_mode = t->cpl == 3 ? MMU_USER : ac ? MMU_KERNEL_AC : MMU_KERNEL;
    t->decode_mode &= ~(unsigned)DM_AC;
    t->decode_mode |= t->mmu_mode == MMU_KERNEL_AC ? DM_AC : 0;
    bool check = ac && t->cpl == 3 && (s->cr0 & CR0_AM);
    if (unlikely(check != t->align_check)) {
        /* Only user entries care, and only while the check is on: see fill() in mmu.c. */
        if (check || t->cpl == 3) {
            t->align_check = check;
            tlb_flush(t);
        }
    }
}

void flags_set(CpuState *s, Tcg *t, uint64_t rflags)
{
    t->cc = flags_to_cc(rflags);
    s->rflags = (rflags & ~(uint64_t)FL_ARITH) | FL_FIXED;
    update_access_mode(s, t);
}

static bool flat(const Segment *g)
{
    return g->base == 0 && g->limit == 0xffffffff && !(g->attr & SEG_UNUSABLE);
}

static bool flat_data(const Segment *g)
{
    return flat(g) && (g->attr & (SEG_S | SEG_CODE | SEG_EXPAND_DOWN | SEG_WRITABLE)) ==
                          (SEG_S | SEG_WRITABLE);
}

void tcg_update_mode(CpuState *s, Tcg *t)
{
    if (mode_real(s))
        s->cpl = 0;
    else if (s->rflags & FL_VM)
        s->cpl = 3;
    else
        s->cpl = (uint8_t)attr_dpl(s->seg[SS].attr);
    t->cpl = s->cpl;
    t->code64 = cpu_code64(s);

    unsigned m = (t->cpl == 3 ? DM_CPL3 : 0) | (t->amd ? DM_AMD : 0);
    if (mode_prot(s))
        m |= DM_PROT;
    if (t->code64) {
        m |= DM_CODE64;
    } else {
        if (s->seg[CS].attr & SEG_DB)
            m |= DM_CS32;
        if (s->seg[SS].attr & SEG_DB)
            m |= DM_SS32;
        if ((m & DM_PROT) && flat_data(&s->seg[DS]) && flat_data(&s->seg[ES]) &&
            flat_data(&s->seg[SS]) && flat(&s->seg[CS]) && (s->seg[CS].attr & SEG_READABLE))
            m |= DM_FLAT;
    }
    t->decode_mode = m;
    update_access_mode(s, t);
}

/* ---- control registers ---- */

Fault load_pdptes(CpuState *s, Tcg *t, uint64_t cr3)
{
    uint64_t v[4];
    uint64_t reserved = BIT(63) | (BIT(63) - BIT(phys_bits(t))) | 0x1e6;
    if (!memmap_read(t->v->vm->mem, cr3 & 0xffffffe0, v, sizeof(v)))
        memset(v, 0xff, sizeof(v));
    for (unsigned k = 0; k < 4; k++)
        if ((v[k] & 1) && (v[k] & reserved))
            return raise_gp0(t);
    memcpy(s->pdpte, v, sizeof(v));
    return FAULT_NONE;
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

Fault write_cr0(CpuState *s, Tcg *t, uint64_t v)
{
    const uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
                           (uint64_t)CR0_NW | (uint64_t)CR0_CD | CR0_PG;
    if (v >> 32)
        return raise_gp0(t);
    v = (v & known) | CR0_ET;
    if (((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
        return raise_gp0(t);
    uint64_t efer = s->efer;
    if ((v & CR0_PG) && !(s->cr0 & CR0_PG) && (efer & EFER_LME)) {
        bool tss16 = !(s->seg[TR].attr & 8);
        if (!(s->cr4 & CR4_PAE) || (s->seg[CS].attr & SEG_L) || tss16)
            return raise_gp0(t);
        efer |= EFER_LMA;
    }
    if (!(v & CR0_PG) && (s->cr0 & CR0_PG)) {
        if (t->code64 || (s->cr4 & CR4_PCIDE))
            return raise_gp0(t);
        efer &= ~(uint64_t)EFER_LMA;
    }
    if (pae_paging(v, s->cr4, efer) && ((v ^ s->cr0) & (CR0_PG | CR0_CD | CR0_NW))) {
        Fault f = load_pdptes(s, t, s->cr3);
        if (f)
            return f;
    }
    bool flush = (v ^ s->cr0) & (CR0_PG | CR0_WP | CR0_PE);
    s->cr0 = v;
    s->efer = efer;
    if (flush)
        tlb_flush(t);
    tcg_update_mode(s, t);
    return FAULT_NONE;
}

Fault write_cr3(CpuState *s, Tcg *t, uint64_t v)
{
    bool keep = false;
    if (s->efer & EFER_LMA) {
        if (s->cr4 & CR4_PCIDE) {
            keep = v >> 63;
            v &= ~BIT(63);
        }
        if (v >> phys_bits(t))
            return raise_gp0(t);
    } else if (pae_paging(s->cr0, s->cr4, s->efer)) {
        Fault f = load_pdptes(s, t, v);
        if (f)
            return f;
    }
    s->cr3 = v;
    if (s->cr4 & CR4_PCIDE)
        tlb_switch(t, v & 0xfff, keep);
    else
        tlb_flush_non_global(t);
    return FAULT_NONE;
}

/* CR4 bits and the feature each comes with. */
static const struct {
    uint32_t bit;
    uint16_t feature;
} cr4_bits[] = {
    {CR4_VME | CR4_PVI, FEAT_VME}, {CR4_TSD, FEAT_TSC},    {CR4_DE, FEAT_DE},
    {CR4_PSE, FEAT_PSE},           {CR4_PAE, FEAT_PAE},    {CR4_MCE, FEAT_MCE},
    {CR4_PGE, FEAT_PGE},           {CR4_PCE, FEAT_N},      {CR4_OSFXSR, FEAT_FXSR},
    {CR4_OSXMMEXCPT, FEAT_SSE},    {CR4_UMIP, FEAT_UMIP},  {CR4_LA57, FEAT_LA57},
    {CR4_FSGSBASE, FEAT_FSGSBASE}, {CR4_PCIDE, FEAT_PCID}, {CR4_OSXSAVE, FEAT_XSAVE},
    {CR4_SMEP, FEAT_SMEP},         {CR4_SMAP, FEAT_SMAP},  {CR4_PKE, FEAT_PKU},
};

Fault write_cr4(CpuState *s, Tcg *t, uint64_t v)
{
    uint64_t allowed = 0, changed = v ^ s->cr4;
    for (unsigned k = 0; k < ARRAY_LEN(cr4_bits); k++)
        if (cr4_bits[k].feature == FEAT_N || t->features[cr4_bits[k].feature])
            allowed |= cr4_bits[k].bit;
    if (v & ~allowed)
        return raise_gp0(t);
    if (s->efer & EFER_LMA) {
        if (!(v & CR4_PAE) || (changed & CR4_LA57))
            return raise_gp0(t);
    }
    if ((v & changed & CR4_PCIDE) && (!(s->efer & EFER_LMA) || (s->cr3 & 0xfff)))
        return raise_gp0(t);
    const uint64_t paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE;
    if (pae_paging(s->cr0, v, s->efer) && (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP))) {
        Fault f = load_pdptes(s, t, s->cr3);
        if (f)
            return f;
    }
    s->cr4 = v;
    if (changed & paging)
        tlb_flush(t);
    tcg_update_mode(s, t);
    return FAULT_NONE;
}
