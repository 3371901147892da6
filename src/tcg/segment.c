/*
 * Segment registers, descriptors and segmented addresses: SDM vol. 3, 3.4 and 5.
 *
 * In real mode and vm86 a selector gives the base and nothing else, so a limit set in protected
 * mode survives there, as it does on the processor.
 */
#include "tcg/sys.h"

/* ---- addresses ---- */

static bool within_limit(const Segment *g, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;
    if ((g->attr & (SEG_S | SEG_CODE | SEG_EXPAND_DOWN)) == (SEG_S | SEG_EXPAND_DOWN))
        return off > g->limit && last <= (g->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= g->limit;
}

Fault seg_lin(CpuState *s, Tcg *t, unsigned seg, uint64_t offset, unsigned size, enum Access a,
              gva_t *lin)
{
    const Segment *g = &s->seg[seg];
    uint8_t vector = seg == SS ? VEC_SS : VEC_GP;
    if (t->code64) {
        gva_t at = offset + (seg == FS || seg == GS ? g->base : 0);
        if (!canonical(s, at) || !canonical(s, at + size - 1))
            return raise_err(t, vector, 0);
        *lin = at;
        return FAULT_NONE;
    }
    if (mode_prot(s)) {
        bool ok = !(g->attr & SEG_UNUSABLE);
        if (a == ACC_WRITE)
            ok = ok && attr_is_writable(g->attr);
        else if (a == ACC_READ)
            ok = ok && (!(g->attr & SEG_CODE) || (g->attr & SEG_READABLE));
        if (!ok)
            return raise_err(t, vector, 0);
    }
    if (!within_limit(g, offset, size))
        return raise_err(t, vector, 0);
    *lin = (uint32_t)(g->base + offset);
    return FAULT_NONE;
}

Fault ea_slow(CpuState *s, Tcg *t, const Insn *i, unsigned size, enum Access a, gva_t *lin)
{
    uint64_t off = ea_offset(s, i);
    if (!t->code64)
        return seg_lin(s, t, i->seg, off, size, a, lin);
    /* The prefixes that 64-bit mode ignores still say nothing here: dseg is what the base register
     * chose. */
    gva_t at = off + s->seg[i->seg].base;
    if (!canonical(s, at) || !canonical(s, at + size - 1))
        return raise_err(t, i->seg == SEG_NONE && i->dseg == SS ? VEC_SS : VEC_GP, 0);
    *lin = at;
    return FAULT_NONE;
}

/* ---- stacks ---- */

Fault stack_push(CpuState *s, Tcg *t, unsigned size, uint64_t v)
{
    uint64_t sp = (s->gpr[RSP] - size) & stack_mask(t);
    gva_t lin;
    Fault f = seg_lin(s, t, SS, sp, size, ACC_WRITE, &lin);
    if (!f)
        f = mem_write(s, t, lin, size, v & size_mask(size));
    if (!f)
        stack_set(s, t, sp);
    return f;
}

Fault stack_pop(CpuState *s, Tcg *t, unsigned size, uint64_t *v)
{
    uint64_t sp = s->gpr[RSP] & stack_mask(t);
    gva_t lin;
    Fault f = seg_lin(s, t, SS, sp, size, ACC_READ, &lin);
    if (!f)
        f = mem_read(s, t, lin, size, v);
    if (!f)
        stack_set(s, t, sp + size);
    return f;
}

Stack stack_current(const CpuState *s, const Tcg *t)
{
    uint64_t mask = stack_mask(t);
    return (Stack){.ss = s->seg[SS],
                   .sp = s->gpr[RSP] & mask,
                   .mask = mask,
                   .flat = t->code64,
                   .mode = t->mmu_mode};
}

static Fault stk_lin(CpuState *s, Tcg *t, const Stack *k, uint64_t sp, unsigned size, gva_t *lin)
{
    bool ok =
        k->flat ? canonical(s, sp) && canonical(s, sp + size - 1) : within_limit(&k->ss, sp, size);
    if (!ok)
        return raise_sel(t, VEC_SS, k->err);
    *lin = k->flat ? sp : (uint32_t)(k->ss.base + sp);
    return FAULT_NONE;
}

Fault stk_push(CpuState *s, Tcg *t, Stack *k, unsigned size, uint64_t v)
{
    uint64_t sp = (k->sp - size) & k->mask;
    gva_t lin;
    Fault f = stk_lin(s, t, k, sp, size, &lin);
    if (!f)
        f = mem_write_mode(s, t, lin, size, k->mode, v & size_mask(size));
    if (!f)
        k->sp = sp;
    return f;
}

Fault stk_pop(CpuState *s, Tcg *t, Stack *k, unsigned size, uint64_t *v)
{
    gva_t lin;
    Fault f = stk_lin(s, t, k, k->sp, size, &lin);
    if (!f)
        f = mem_read_mode(s, t, lin, size, k->mode, v);
    if (!f)
        k->sp = (k->sp + size) & k->mask;
    return f;
}

/* ---- descriptors ---- */

static Fault table_entry(CpuState *s, Tcg *t, uint16_t sel, unsigned size, uint8_t vector,
                         gva_t *at)
{
    unsigned offset = sel & 0xfff8u;
    uint64_t base = s->gdt.base, limit = s->gdt.limit;
    if (sel & 4) {
        const Segment *ldt = &s->seg[LDTR];
        if (ldt->attr & SEG_UNUSABLE || !(ldt->attr & SEG_P))
            return raise_sel(t, vector, sel);
        base = ldt->base;
        limit = ldt->limit;
    }
    if (offset + size - 1 > limit)
        return raise_sel(t, vector, sel);
    *at = base + offset;
    return FAULT_NONE;
}

Fault desc_read(CpuState *s, Tcg *t, uint16_t sel, uint8_t vector, Desc *d)
{
    uint64_t raw;
    Fault f = table_entry(s, t, sel, 8, vector, &d->at);
    if (!f)
        f = mem_read_mode(s, t, d->at, 8, MMU_KERNEL, &raw);
    if (f)
        return f;
    d->lo = (uint32_t)raw;
    d->hi = (uint32_t)(raw >> 32);
    d->up = 0;
    d->attr = d->hi >> 8 & 0xf0ff;
    return FAULT_NONE;
}

Fault sys_desc_read(CpuState *s, Tcg *t, uint16_t sel, uint8_t vector, Desc *d)
{
    Fault f = desc_read(s, t, sel, vector, d);
    if (f || !(s->efer & EFER_LMA) || (d->attr & SEG_S))
        return f;
    uint64_t raw;
    f = table_entry(s, t, sel, 16, vector, &d->at);
    if (!f)
        f = mem_read_mode(s, t, d->at + 8, 8, MMU_KERNEL, &raw);
    if (f)
        return f;
    if (raw >> 40 & 0x1f)
        return raise_sel(t, vector, sel);
    d->up = (uint32_t)raw;
    return FAULT_NONE;
}

Fault desc_set_type(CpuState *s, Tcg *t, Desc *d, uint8_t set, uint8_t clear)
{
    void *host;
    uint64_t v;
    Fault f = mem_rmw_mode(s, t, d->at + 5, 1, MMU_KERNEL, &host);
    if (!f && host) {
        if (set)
            __atomic_fetch_or((uint8_t *)host, set, __ATOMIC_SEQ_CST);
        if (clear)
            __atomic_fetch_and((uint8_t *)host, (uint8_t)~clear, __ATOMIC_SEQ_CST);
    } else if (!f) {
        f = mem_read_mode(s, t, d->at + 5, 1, MMU_KERNEL, &v);
        if (!f)
            f = mem_write_mode(s, t, d->at + 5, 1, MMU_KERNEL, (v | set) & ~(uint64_t)clear);
    }
    if (!f)
        d->attr = (d->attr | set) & ~(uint32_t)clear;
    return f;
}

Segment desc_segment(const Desc *d, uint16_t sel)
{
    uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    if (d->attr & SEG_G)
        limit = limit << 12 | 0xfff;
    uint64_t base = d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
    return (Segment){
        .base = base | (uint64_t)d->up << 32, .limit = limit, .attr = d->attr, .selector = sel};
}

/* ---- loads ---- */

void load_segment_real(CpuState *s, unsigned seg, uint16_t sel)
{
    Segment *g = &s->seg[seg];
    g->selector = sel;
    g->base = (uint64_t)sel << 4;
    if (mode_vm86(s)) {
        g->limit = 0xffff;
        g->attr = SEG_P | SEG_S | SEG_DPL | SEG_WRITABLE | SEG_ACCESSED;
    } else if (g->attr & SEG_UNUSABLE) {
        g->limit = 0xffff;
        g->attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
    }
}

Fault check_ss(CpuState *s, Tcg *t, uint16_t sel, unsigned cpl, uint8_t vector, Desc *d)
{
    if (sel_null(sel))
        return raise_err(t, vector, t->ext);
    Fault f = desc_read(s, t, sel, vector, d);
    if (f)
        return f;
    if ((sel & 3u) != cpl || !attr_is_writable(d->attr) || attr_dpl(d->attr) != cpl)
        return raise_sel(t, vector, sel);
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_SS, sel);
    return desc_set_accessed(s, t, d);
}

Fault load_data(CpuState *s, Tcg *t, unsigned seg, uint16_t sel, uint8_t vector)
{
    Desc d;
    if (sel_null(sel)) {
        s->seg[seg] = null_segment(sel, 0);
        return FAULT_NONE;
    }
    Fault f = desc_read(s, t, sel, vector, &d);
    if (f)
        return f;
    if (!(d.attr & SEG_S) || (d.attr & (SEG_CODE | SEG_READABLE)) == SEG_CODE)
        return raise_sel(t, vector, sel);
    if ((d.attr & (SEG_CODE | SEG_CONFORMING)) != (SEG_CODE | SEG_CONFORMING) &&
        MAX_OF(t->cpl, sel & 3u) > attr_dpl(d.attr))
        return raise_sel(t, vector, sel);
    if (!(d.attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    f = desc_set_accessed(s, t, &d);
    if (!f)
        s->seg[seg] = desc_segment(&d, sel);
    return f;
}

Fault load_segment(CpuState *s, Tcg *t, unsigned seg, uint16_t sel)
{
    Fault f = FAULT_NONE;
    if (!mode_prot(s)) {
        load_segment_real(s, seg, sel);
    } else if (seg != SS) {
        f = load_data(s, t, seg, sel, VEC_GP);
    } else if (sel_null(sel) && t->code64 && t->cpl < 3 && (sel & 3) == t->cpl) {
        s->seg[SS] = null_segment(sel, t->cpl);
    } else {
        Desc d;
        f = check_ss(s, t, sel, t->cpl, VEC_GP, &d);
        if (!f)
            s->seg[SS] = desc_segment(&d, sel);
    }
    if (!f)
        tcg_update_mode(s, t);
    return f;
}
