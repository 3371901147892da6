/* GDTR, IDTR, LDTR, TR, and the instructions that look at descriptors without loading them. */
#include "tcg/exec.h"
#include "tcg/sys.h"

static Fault store_selector(CpuState *s, Tcg *t, const Insn *i, uint16_t sel)
{
    gva_t lin;
    Fault f = umip_check(s, t);
    if (f)
        return f;
    if (!(i->flags & IF_MEM)) {
        wr_size(s, i->rm, i->opsize, sel);
        return FAULT_NONE;
    }
    f = ea_lin(s, t, i, 2, ACC_WRITE, &lin);
    return f ? f : st16(s, t, lin, sel);
}

DEF_EXEC(sldt)
{
    return store_selector(s, t, i, s->seg[LDTR].selector);
}

DEF_EXEC(str)
{
    return store_selector(s, t, i, s->seg[TR].selector);
}

DEF_EXEC(lldt)
{
    uint16_t sel;
    Desc d;
    Fault f = read_ew(s, t, i, &sel);
    if (f)
        return f;
    if (sel_null(sel)) {
        s->seg[LDTR] = null_segment(sel, 0);
        return FAULT_NONE;
    }
    if (sel & 4)
        return raise_sel(t, VEC_GP, sel);
    f = sys_desc_read(s, t, sel, VEC_GP, &d);
    if (f)
        return f;
    if ((d.attr & (SEG_S | SEG_TYPE)) != TYPE_LDT)
        return raise_sel(t, VEC_GP, sel);
    if (!(d.attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    s->seg[LDTR] = desc_segment(&d, sel);
    return FAULT_NONE;
}

DEF_EXEC(ltr)
{
    uint16_t sel;
    Desc d;
    Fault f = read_ew(s, t, i, &sel);
    if (f)
        return f;
    if (sel_null(sel) || (sel & 4))
        return raise_sel(t, VEC_GP, sel);
    f = sys_desc_read(s, t, sel, VEC_GP, &d);
    if (f)
        return f;
    unsigned type = d.attr & (SEG_S | SEG_TYPE);
    if (type != TYPE_TSS && (type != TYPE_TSS16 || (s->efer & EFER_LMA)))
        return raise_sel(t, VEC_GP, sel);
    if (!(d.attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    f = desc_set_type(s, t, &d, SEG_TSS_BUSY, 0);
    if (!f)
        s->seg[TR] = desc_segment(&d, sel);
    return f;
}

/* ---- GDTR and IDTR ---- */

static Fault load_table(CpuState *s, Tcg *t, const Insn *i, DescTable *o)
{
    unsigned width = t->code64 ? 8 : 4;
    uint8_t raw[10];
    uint64_t base = 0;
    gva_t lin;
    Fault f = ea_lin(s, t, i, 2 + width, ACC_READ, &lin);
    if (!f)
        f = mem_read_bytes(s, t, lin, raw, 2 + width);
    if (f)
        return f;
    memcpy(&base, raw + 2, width);
    if (!t->code64 && i->opsize == 2)
        base &= 0xffffff;
    if (t->code64 && !canonical(s, base))
        return raise_gp0(t);
    memcpy(&o->limit, raw, 2);
    o->base = base;
    return FAULT_NONE;
}

static Fault store_table(CpuState *s, Tcg *t, const Insn *i, const DescTable *d)
{
    unsigned width = t->code64 ? 8 : 4;
    uint8_t raw[10];
    gva_t lin;
    Fault f = umip_check(s, t);
    if (!f)
        f = ea_lin(s, t, i, 2 + width, ACC_WRITE, &lin);
    if (f)
        return f;
    memcpy(raw, &d->limit, 2);
    memcpy(raw + 2, &d->base, width);
    return mem_write_bytes(s, t, lin, raw, 2 + width);
}

DEF_EXEC(lgdt)
{
    return load_table(s, t, i, &s->gdt);
}

DEF_EXEC(lidt)
{
    return load_table(s, t, i, &s->idt);
}

DEF_EXEC(sgdt)
{
    return store_table(s, t, i, &s->gdt);
}

DEF_EXEC(sidt)
{
    return store_table(s, t, i, &s->idt);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

static void set_zf(Tcg *t, bool on)
{
    t->cc = on ? t->cc | CC_ZF : t->cc & (uint16_t)~CC_ZF;
}

/* The descriptor, if there is one that this privilege may look at. A memory fault is a fault; a bad
 * selector is only *ok false. */
static Fault visible_desc(CpuState *s, Tcg *t, uint16_t sel, Desc *d, bool *ok)
{
    *ok = false;
    if (sel_null(sel))
        return FAULT_NONE;
    Fault f = sys_desc_read(s, t, sel, VEC_GP, d);
    if (f)
        return t->exc.vector == VEC_GP ? FAULT_NONE : f;
    bool conforming = attr_is_code(d->attr) && (d->attr & SEG_CONFORMING);
    *ok = conforming || attr_dpl(d->attr) >= MAX_OF(t->cpl, sel & 3u);
    return FAULT_NONE;
}

/* Type sets as bit masks. */
static bool system_type_in(const CpuState *s, const Desc *d, unsigned legacy, unsigned ia32e)
{
    unsigned set = s->efer & EFER_LMA ? ia32e : legacy;
    return (d->attr & SEG_S) || (set >> (d->attr & SEG_TYPE) & 1);
}

DEF_EXEC(lar)
{
    uint16_t sel;
    Desc d;
    bool ok;
    Fault f = read_ew(s, t, i, &sel);
    if (!f)
        f = visible_desc(s, t, sel, &d, &ok);
    if (f)
        return f;
    /* TSS, LDT, call gates; task gates and 16-bit ones outside IA-32e mode. */
    ok = ok && system_type_in(s, &d, 0x1a3e, 0x1a04);
    if (ok)
        wr_size(s, i->reg, i->opsize, d.hi & 0x00ffff00);
    set_zf(t, ok);
    return FAULT_NONE;
}

DEF_EXEC(lsl)
{
    uint16_t sel;
    Desc d;
    bool ok;
    Fault f = read_ew(s, t, i, &sel);
    if (!f)
        f = visible_desc(s, t, sel, &d, &ok);
    if (f)
        return f;
    ok = ok && system_type_in(s, &d, 0x0a0e, 0x0a04);
    if (ok)
        wr_size(s, i->reg, i->opsize, desc_segment(&d, sel).limit);
    set_zf(t, ok);
    return FAULT_NONE;
}

static Fault verify(CpuState *s, Tcg *t, const Insn *i, bool write)
{
    uint16_t sel;
    Desc d;
    bool ok;
    Fault f = read_ew(s, t, i, &sel);
    if (!f)
        f = visible_desc(s, t, sel, &d, &ok);
    if (f)
        return f;
    if (ok)
        ok = write ? attr_is_writable(d.attr)
                   : (d.attr & SEG_S) && (d.attr & (SEG_CODE | SEG_READABLE)) != SEG_CODE;
    set_zf(t, ok);
    return FAULT_NONE;
}

DEF_EXEC(verr)
{
    return verify(s, t, i, false);
}

DEF_EXEC(verw)
{
    return verify(s, t, i, true);
}

DEF_EXEC(arpl)
{
    uint16_t dst, rpl = s->gpr[i->reg] & 3;
    gva_t lin = 0;
    Fault f = FAULT_NONE;
    if (i->flags & IF_MEM) {
        /* On AMD's the segment has to be writable only if there is something to write. */
        f = ea_lin(s, t, i, 2, t->amd ? ACC_READ : ACC_WRITE, &lin);
        if (!f)
            f = ld16(s, t, lin, &dst);
        if (f)
            return f;
    } else {
        dst = (uint16_t)s->gpr[i->rm];
    }
    bool raise = (dst & 3) < rpl;
    if (raise) {
        dst = (uint16_t)((dst & ~3u) | rpl);
        if (i->flags & IF_MEM)
            f = ea_lin(s, t, i, 2, ACC_WRITE, &lin);
        if (!f && (i->flags & IF_MEM))
            f = st16(s, t, lin, dst);
        else if (!f)
            wr16(s, i->rm, dst);
    }
    if (!f)
        set_zf(t, raise);
    return f;
}
