/*
 * Hardware task switches: SDM vol. 3, chapter 7 (steps: 7.3; TSS layouts: 7.2.1, 7.6).
 *
 * Everything that may fault in the old task is done first: reading the new TSS, checking that the
 * old one can be written. Then the switch is made; what is wrong with the new task's segments is
 * found in the new task, with its registers loaded (table 7-1).
 */
#include "tcg/sys.h"

/* Where a TSS keeps things. Segment selectors in the order of enum Seg. */
typedef struct Layout {
    uint8_t min_limit, field, cr3 /* 0: none */, ip, flags, gpr, seg, n_segs, ldt;
} Layout;
static const Layout layout32 = {103, 4, 28, 32, 36, 40, 72, 6, 96};
static const Layout layout16 = {43, 2, 0, 14, 16, 18, 34, 4, 42};
enum { TSS_T = 100 };

static const Layout *layout(uint32_t attr)
{
    return attr & 8 ? &layout32 : &layout16;
}

typedef struct Image { /* of the new task */
    uint64_t cr3, ip, flags, gpr[8], seg[6], ldt;
    bool trap;
} Image;

static Fault get(CpuState *s, Tcg *t, gva_t at, unsigned size, uint64_t *v)
{
    return mem_read_mode(s, t, at, size, MMU_KERNEL, v);
}

static Fault put(CpuState *s, Tcg *t, gva_t at, unsigned size, uint64_t v)
{
    return mem_write_mode(s, t, at, size, MMU_KERNEL, v);
}

static Fault probe(CpuState *s, Tcg *t, gva_t at, unsigned len)
{
    void *host;
    Fault f = mem_rmw_mode(s, t, at, 1, MMU_KERNEL, &host);
    return f ? f : mem_rmw_mode(s, t, at + len - 1, 1, MMU_KERNEL, &host);
}

static Fault read_image(CpuState *s, Tcg *t, gva_t base, const Layout *l, Image *o)
{
    uint64_t trap = 0;
    *o = (Image){0};
    Fault f = get(s, t, base + l->ip, l->field, &o->ip);
    if (!f)
        f = get(s, t, base + l->flags, l->field, &o->flags);
    for (unsigned r = RAX; !f && r <= RDI; r++)
        f = get(s, t, base + l->gpr + r * l->field, l->field, &o->gpr[r]);
    for (unsigned n = 0; !f && n < l->n_segs; n++)
        f = get(s, t, base + l->seg + n * l->field, 2, &o->seg[n]);
    if (!f)
        f = get(s, t, base + l->ldt, 2, &o->ldt);
    if (!f && l->cr3)
        f = get(s, t, base + l->cr3, 4, &o->cr3);
    if (!f && l->cr3)
        f = get(s, t, base + TSS_T, 2, &trap);
    o->trap = trap & 1;
    return f;
}

static Fault write_image(CpuState *s, Tcg *t, gva_t base, const Layout *l, uint64_t ip,
                         uint64_t flags)
{
    Fault f = put(s, t, base + l->ip, l->field, ip);
    if (!f)
        f = put(s, t, base + l->flags, l->field, flags);
    for (unsigned r = RAX; !f && r <= RDI; r++)
        f = put(s, t, base + l->gpr + r * l->field, l->field, s->gpr[r]);
    for (unsigned n = 0; !f && n < l->n_segs; n++)
        f = put(s, t, base + l->seg + n * l->field, 2, s->seg[n].selector);
    return f;
}

/* ---- in the new task ---- */

static Fault load_ldt(CpuState *s, Tcg *t, uint16_t sel)
{
    Desc d;
    if (sel_null(sel))
        return FAULT_NONE;
    if (sel & 4)
        return raise_sel(t, VEC_TS, sel);
    Fault f = desc_read(s, t, sel, VEC_TS, &d);
    if (f)
        return f;
    if ((d.attr & (SEG_S | SEG_TYPE)) != TYPE_LDT || !(d.attr & SEG_P))
        return raise_sel(t, VEC_TS, sel);
    s->seg[LDTR] = desc_segment(&d, sel);
    return FAULT_NONE;
}

static Fault load_code(CpuState *s, Tcg *t, uint16_t sel, uint64_t ip)
{
    Desc d;
    unsigned rpl = sel & 3;
    if (sel_null(sel))
        return raise_sel(t, VEC_TS, sel);
    Fault f = desc_read(s, t, sel, VEC_TS, &d);
    if (f)
        return f;
    unsigned dpl = attr_dpl(d.attr);
    if (!attr_is_code(d.attr) || (d.attr & SEG_CONFORMING ? dpl > rpl : dpl != rpl))
        return raise_sel(t, VEC_TS, sel);
    if (!(d.attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    f = desc_set_accessed(s, t, &d);
    if (!f)
        commit_code(s, &d, sel, rpl, ip);
    return f;
}

static Fault load_segments(CpuState *s, Tcg *t, const Image *m)
{
    Fault f = load_ldt(s, t, (uint16_t)m->ldt);
    if (f || mode_vm86(s))
        return f;
    unsigned cpl = m->seg[CS] & 3;
    Desc ss;
    f = load_code(s, t, (uint16_t)m->seg[CS], m->ip);
    if (!f)
        f = check_ss(s, t, (uint16_t)m->seg[SS], cpl, VEC_TS, &ss);
    if (f)
        return f;
    s->seg[SS] = desc_segment(&ss, (uint16_t)m->seg[SS]);
    static const uint8_t order[4] = {DS, ES, FS, GS};
    for (unsigned k = 0; !f && k < 4; k++)
        f = load_data(s, t, order[k], (uint16_t)m->seg[order[k]], VEC_TS);
    return f;
}

static Fault enter_task(CpuState *s, Tcg *t, const Layout *l, const Image *m, bool has_err,
                        uint32_t err)
{
    Fault f = FAULT_NONE;
    if (l->cr3 && (s->cr0 & CR0_PG))
        f = write_cr3(s, t, m->cr3);
    if (!f)
        f = load_segments(s, t, m);
    tcg_update_mode(s, t);
    if (!f && m->ip > s->seg[CS].limit)
        f = raise_gp0(t);
    if (!f && has_err)
        f = stack_push(s, t, l->field, err);
    return f;
}

Fault task_switch_raw(CpuState *s, Tcg *t, uint16_t sel, enum TaskReason why, bool has_err,
                      uint32_t err, uint64_t next_rip, bool *committed)
{
    uint8_t vector = why == TASK_IRET ? VEC_TS : VEC_GP;
    bool nested = why == TASK_CALL || why == TASK_GATE;
    Segment *tr = &s->seg[TR];
    const Layout *old_l = layout(tr->attr);
    Desc d, old;

    *committed = false;
    if (sel_null(sel) || (sel & 4))
        return raise_sel(t, vector, sel);
    Fault f = desc_read(s, t, sel, vector, &d);
    if (f)
        return f;
    unsigned type = d.attr & (SEG_S | SEG_TYPE), want = why == TASK_IRET ? SEG_TSS_BUSY : 0;
    if (type != (TYPE_TSS | want) && type != (TYPE_TSS16 | want))
        return raise_sel(t, vector, sel);
    if (!(d.attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    const Layout *l = layout(d.attr);
    Segment new_tr = desc_segment(&d, sel);
    if (new_tr.limit < l->min_limit)
        return raise_sel(t, VEC_TS, sel);
    if (tr->limit < old_l->min_limit)
        return raise_sel(t, VEC_TS, tr->selector);

    Image m;
    f = read_image(s, t, new_tr.base, l, &m);
    if (!f)
        f = probe(s, t, tr->base, old_l->min_limit + 1u);
    if (!f && nested)
        f = probe(s, t, new_tr.base, 2);
    if (!f && !nested)
        f = desc_read(s, t, tr->selector, VEC_TS, &old);
    if (!f)
        f = probe(s, t, d.at, 8);
    if (!f && !nested)
        f = desc_set_type(s, t, &old, 0, SEG_TSS_BUSY);
    uint64_t flags = flags_get(s, t);
    if (why == TASK_IRET)
        flags &= ~(uint64_t)FL_NT;
    if (!f)
        f = write_image(s, t, tr->base, old_l, next_rip, flags);
    if (!f && nested)
        f = put(s, t, new_tr.base, 2, tr->selector);
    if (!f && why != TASK_IRET)
        f = desc_set_type(s, t, &d, SEG_TSS_BUSY, 0);
    if (f)
        return f;

    *committed = true;
    *tr = new_tr;
    tr->attr |= SEG_TSS_BUSY;
    s->cr0 |= CR0_TS;
    s->dr7 &= ~0x155ull; /* local breakpoints and LE */
    tlb_forget_code(t);
    for (unsigned r = RAX; r <= RDI; r++)
        s->gpr[r] = l->field == 4 ? m.gpr[r] : (s->gpr[r] & 0xffff0000) | m.gpr[r];
    s->rip = m.ip;
    uint64_t keep = l->field == 4 ? 0x3f7fd5 : 0x7fd5;
    s->seg[LDTR] = null_segment((uint16_t)m.ldt, 0);
    unsigned cpl = m.flags & keep & FL_VM ? 3 : m.seg[CS] & 3;
    for (unsigned n = ES; n <= GS; n++)
        s->seg[n] = null_segment((uint16_t)m.seg[n], n == SS ? cpl : 0);
    flags_set(s, t, (m.flags & keep) | (nested ? FL_NT : 0));
    if (mode_vm86(s))
        for (unsigned n = ES; n <= GS; n++)
            load_segment_real(s, n, (uint16_t)m.seg[n]);
    tcg_update_mode(s, t);
    f = enter_task(s, t, l, &m, has_err, err);
    if (f || !m.trap)
        return f;
    t->exc =
        (PendingExc){.vector = VEC_DB, .dr6 = DR6_BT}; /* a trap: RIP is the new task's first */
    return FAULT_EXC;
}

Fault task_switch(CpuState *s, Tcg *t, uint16_t tss_sel, enum TaskReason why, bool has_err,
                  uint32_t err, uint64_t next_rip)
{
    bool committed;
    Fault f = task_switch_raw(s, t, tss_sel, why, has_err, err, next_rip, &committed);
    if (f == FAULT_EXC && !committed)
        return f;
    return f == FAULT_EXC ? deliver_in_new_task(s, t) : FAULT_JUMP;
}
