/*
 * Far transfers: JMP, CALL, RET between segments, call gates, stacks of inner privilege. SDM vol.
 * 3, 5.8 and 6.8 (IA-32e: 5.8.3.1), and the operation sections of vol. 2.
 *
 * Order in each: every check and every memory access first, then commit_code(), commit_stack(),
 * tcg_update_mode().
 */
#include "tcg/sys.h"

Fault check_target(CpuState *s, Tcg *t, const Desc *d, uint64_t rip)
{
    bool ok = (s->efer & EFER_LMA) && (d->attr & SEG_L) ? canonical(s, rip)
                                                        : rip <= desc_segment(d, 0).limit;
    return ok ? FAULT_NONE : raise_err(t, VEC_GP, t->ext);
}

void commit_code(CpuState *s, const Desc *d, uint16_t sel, unsigned cpl, uint64_t rip)
{
    s->seg[CS] = desc_segment(d, (uint16_t)((sel & 0xfffcu) | cpl));
    s->seg[CS].attr |= SEG_ACCESSED;
    s->rip = rip;
}

void commit_stack(CpuState *s, const Stack *k)
{
    s->seg[SS] = k->ss;
    s->gpr[RSP] = k->mask == 0xffff ? (s->gpr[RSP] & ~0xffffull) | (k->sp & 0xffff) : k->sp;
}

static bool is_conforming(const Desc *d)
{
    return d->attr & SEG_CONFORMING;
}

/* L and D both set is reserved while IA-32e mode is active. */
static bool code_reserved(const CpuState *s, const Desc *d)
{
    return (s->efer & EFER_LMA) && (d->attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB);
}

/* TSS fields are read with supervisor rights, whatever the CPL. */
static Fault tss_read(CpuState *s, Tcg *t, unsigned offset, unsigned size, uint64_t *v)
{
    const Segment *tr = &s->seg[TR];
    if ((uint64_t)offset + size - 1 > tr->limit)
        return raise_sel(t, VEC_TS, tr->selector);
    return mem_read_mode(s, t, tr->base + offset, size, MMU_KERNEL, v);
}

Fault inner_stack(CpuState *s, Tcg *t, unsigned dpl, unsigned ist, Stack *k)
{
    uint64_t sp, sel;
    Fault f;
    *k = (Stack){.mode = dpl == 3 ? MMU_USER : MMU_KERNEL};
    if (s->efer & EFER_LMA) {
        f = tss_read(s, t, ist ? 28 + 8 * ist : 4 + 8 * dpl, 8, &sp);
        if (f)
            return f;
        if (!canonical(s, sp))
            return raise_err(t, VEC_SS, t->ext);
        k->ss = null_segment((uint16_t)dpl, dpl);
        k->sp = sp;
        k->mask = ~0ull;
        k->flat = true;
        return FAULT_NONE;
    }
    if (s->seg[TR].attr & 8) {
        f = tss_read(s, t, 4 + 8 * dpl, 4, &sp);
        if (!f)
            f = tss_read(s, t, 8 + 8 * dpl, 2, &sel);
    } else {
        f = tss_read(s, t, 2 + 4 * dpl, 2, &sp);
        if (!f)
            f = tss_read(s, t, 4 + 4 * dpl, 2, &sel);
    }
    Desc d;
    if (!f)
        f = check_ss(s, t, (uint16_t)sel, dpl, VEC_TS, &d);
    if (f)
        return f;
    k->ss = desc_segment(&d, (uint16_t)sel);
    k->mask = k->ss.attr & SEG_DB ? 0xffffffff : 0xffff;
    k->sp = sp & k->mask;
    k->err = (uint16_t)sel;
    return FAULT_NONE;
}

/* ---- JMP and CALL ---- */

/* Direct transfer to a code segment, or through a gate: then the selector's RPL does not count. */
static Fault check_code(CpuState *s, Tcg *t, uint16_t sel, const Desc *d, bool gate)
{
    unsigned dpl = attr_dpl(d->attr);
    if (code_reserved(s, d))
        return raise_sel(t, VEC_GP, sel);
    if (is_conforming(d) ? dpl > t->cpl : (!gate && (sel & 3u) > t->cpl) || dpl != t->cpl)
        return raise_sel(t, VEC_GP, sel);
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    return FAULT_NONE;
}

typedef struct Gate {
    uint16_t sel;
    uint64_t off;
    unsigned size, params;
} Gate;

/* Call gate: its fields, its target's descriptor, and what every use of it checks. */
static Fault call_gate(CpuState *s, Tcg *t, uint16_t gate_sel, const Desc *g, Gate *o, Desc *d)
{
    bool is32 = g->attr & 8;
    if (!(g->attr & SEG_P))
        return raise_sel(t, VEC_NP, gate_sel);
    o->sel = (uint16_t)(g->lo >> 16);
    o->off = (g->lo & 0xffff) | (is32 ? g->hi & 0xffff0000 : 0) | (uint64_t)g->up << 32;
    o->size = s->efer & EFER_LMA ? 8 : is32 ? 4 : 2;
    o->params = g->hi & 31;
    if (sel_null(o->sel))
        return raise_gp0(t);
    Fault f = desc_read(s, t, o->sel, VEC_GP, d);
    if (f)
        return f;
    if (!attr_is_code(d->attr) || attr_dpl(d->attr) > t->cpl)
        return raise_sel(t, VEC_GP, o->sel);
    if ((s->efer & EFER_LMA) && (d->attr & (SEG_L | SEG_DB)) != SEG_L)
        return raise_sel(t, VEC_GP, o->sel);
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_NP, o->sel);
    return FAULT_NONE;
}

/* System descriptor as a target: DPL rules, and which types there are in this mode. */
static Fault check_system(CpuState *s, Tcg *t, uint16_t sel, const Desc *d)
{
    unsigned type = d->attr & SEG_TYPE, dpl = attr_dpl(d->attr);
    bool ok = s->efer & EFER_LMA ? type == TYPE_CALL
                                 : type == TYPE_CALL || type == TYPE_CALL16 || type == TYPE_TASK ||
                                       type == TYPE_TSS || type == TYPE_TSS16;
    if (!ok || dpl < t->cpl || dpl < (sel & 3u))
        return raise_sel(t, VEC_GP, sel);
    return FAULT_NONE;
}

static Fault far_task(CpuState *s, Tcg *t, uint16_t sel, const Desc *d, enum TaskReason why,
                      uint64_t next_rip)
{
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    if ((d->attr & SEG_TYPE) == TYPE_TASK)
        sel = (uint16_t)(d->lo >> 16);
    return task_switch(s, t, sel, why, false, 0, next_rip);
}

Fault far_jump(CpuState *s, Tcg *t, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
    Desc d, target;
    off &= size_mask(opsize);
    if (!mode_prot(s)) {
        if (off > s->seg[CS].limit)
            return raise_gp0(t);
        load_segment_real(s, CS, sel);
        s->rip = off;
        return FAULT_JUMP;
    }
    if (sel_null(sel))
        return raise_gp0(t);
    Fault f = sys_desc_read(s, t, sel, VEC_GP, &d);
    if (f)
        return f;
    if (attr_is_code(d.attr)) {
        f = check_code(s, t, sel, &d, false);
    } else if (d.attr & SEG_S) {
        return raise_sel(t, VEC_GP, sel);
    } else {
        f = check_system(s, t, sel, &d);
        if (f)
            return f;
        if ((d.attr & 7) != TYPE_CALL16)
            return far_task(s, t, sel, &d, TASK_JMP, next_rip);
        Gate g;
        f = call_gate(s, t, sel, &d, &g, &target);
        if (!f)
            f = check_code(s, t, g.sel, &target, true);
        sel = g.sel;
        off = g.off;
        d = target;
    }
    if (!f)
        f = check_target(s, t, &d, off);
    if (!f)
        f = desc_set_accessed(s, t, &d);
    if (f)
        return f;
    commit_code(s, &d, sel, t->cpl, off);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

static Fault call_real(CpuState *s, Tcg *t, uint16_t sel, uint64_t off, unsigned opsize,
                       uint64_t next_rip)
{
    Stack k = stack_current(s, t);
    Fault f = stk_push(s, t, &k, opsize, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, opsize, next_rip);
    if (!f && off > s->seg[CS].limit)
        f = raise_gp0(t);
    if (f)
        return f;
    load_segment_real(s, CS, sel);
    stack_set(s, t, k.sp);
    s->rip = off;
    return FAULT_JUMP;
}

/* The gate leads to more privilege: new stack, with the caller's and the parameters copied. */
static Fault call_inner(CpuState *s, Tcg *t, const Gate *g, Desc *d, uint64_t next_rip)
{
    unsigned dpl = attr_dpl(d->attr);
    Stack k, old = stack_current(s, t);
    uint64_t param[31];
    Fault f = inner_stack(s, t, dpl, 0, &k);
    if (!f)
        f = check_target(s, t, d, g->off);
    uint64_t old_sp = s->gpr[RSP];
    unsigned n = g->size == 8 ? 0 : g->params;
    for (unsigned p = 0; !f && p < n; p++)
        f = stk_pop(s, t, &old, g->size, &param[p]);
    if (!f)
        f = stk_push(s, t, &k, g->size, s->seg[SS].selector);
    if (!f)
        f = stk_push(s, t, &k, g->size, old_sp);
    while (!f && n)
        f = stk_push(s, t, &k, g->size, param[--n]);
    if (!f)
        f = stk_push(s, t, &k, g->size, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, g->size, next_rip);
    if (!f)
        f = desc_set_accessed(s, t, d);
    if (f)
        return f;
    commit_code(s, d, g->sel, dpl, g->off);
    commit_stack(s, &k);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

/* On AMD's a call pushes as the mode does that it leads to. */
static void stack_as_in(const CpuState *s, Stack *k, bool code64)
{
    k->flat = code64;
    k->mask = code64 ? ~0ull : s->seg[SS].attr & SEG_DB ? 0xffffffffull : 0xffffull;
    k->sp = s->gpr[RSP] & k->mask;
}

Fault far_call(CpuState *s, Tcg *t, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
    Desc d, target;
    Gate g = {.size = opsize};
    off &= size_mask(opsize);
    if (!mode_prot(s))
        return call_real(s, t, sel, off, opsize, next_rip);
    if (sel_null(sel))
        return raise_gp0(t);
    Fault f = sys_desc_read(s, t, sel, VEC_GP, &d);
    if (f)
        return f;
    if (attr_is_code(d.attr)) {
        f = check_code(s, t, sel, &d, false);
    } else if (d.attr & SEG_S) {
        return raise_sel(t, VEC_GP, sel);
    } else {
        f = check_system(s, t, sel, &d);
        if (f)
            return f;
        if ((d.attr & 7) != TYPE_CALL16)
            return far_task(s, t, sel, &d, TASK_CALL, next_rip);
        f = call_gate(s, t, sel, &d, &g, &target);
        if (f)
            return f;
        if (!is_conforming(&target) && attr_dpl(target.attr) < t->cpl)
            return call_inner(s, t, &g, &target, next_rip);
        sel = g.sel;
        off = g.off;
        d = target;
    }
    Stack k = stack_current(s, t);
    bool other = t->amd && (s->efer & EFER_LMA) && t->code64 != !!(d.attr & SEG_L);
    if (other)
        stack_as_in(s, &k, d.attr & SEG_L);
    if (!f)
        f = stk_push(s, t, &k, g.size, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, g.size, next_rip);
    if (!f)
        f = check_target(s, t, &d, off);
    if (!f)
        f = desc_set_accessed(s, t, &d);
    if (f)
        return f;
    if (other && k.mask != 0xffff)
        s->gpr[RSP] = k.sp;
    else
        stack_set(s, t, k.sp); /* by the old mode's width, before CS may change it */
    commit_code(s, &d, sel, t->cpl, off);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

/* ---- RET and IRET ---- */

/* The code segment returned to: its RPL is the new CPL. */
static Fault check_return_code(CpuState *s, Tcg *t, uint16_t sel, uint64_t rip, Desc *d)
{
    unsigned rpl = sel & 3;
    if (sel_null(sel))
        return raise_gp0(t);
    Fault f = desc_read(s, t, sel, VEC_GP, d);
    if (f)
        return f;
    unsigned dpl = attr_dpl(d->attr);
    if (!attr_is_code(d->attr) || rpl < t->cpl || code_reserved(s, d) ||
        (is_conforming(d) ? dpl > rpl : dpl != rpl))
        return raise_sel(t, VEC_GP, sel);
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    return check_target(s, t, d, rip);
}

/* The stack segment returned to. It may be null only for 64-bit code of privilege 0-2. */
static Fault check_return_stack(CpuState *s, Tcg *t, uint16_t sel, unsigned cpl, const Desc *code,
                                Segment *ss)
{
    Desc d;
    if (sel_null(sel) && (s->efer & EFER_LMA) && (code->attr & SEG_L) && cpl != 3) {
        if ((sel & 3u) != cpl)
            return raise_gp0(t);
        *ss = null_segment(sel, cpl);
        return FAULT_NONE;
    }
    Fault f = check_ss(s, t, sel, cpl, VEC_GP, &d);
    if (!f)
        *ss = desc_segment(&d, sel);
    return f;
}

/* AMD reads a frame from its end: n words of size bytes at k. */
static Fault frame_end(CpuState *s, Tcg *t, const Stack *k, unsigned n, unsigned size)
{
    Fault f = FAULT_NONE;
    for (unsigned w = n - 1; !f && w > 0 && t->amd; w--) {
        Stack at = *k;
        uint64_t v;
        at.sp = (k->sp + w * size) & k->mask;
        f = stk_pop(s, t, &at, size, &v);
    }
    return f;
}

/* RSP and SS. */
static Fault pop_stack(CpuState *s, Tcg *t, Stack *k, unsigned size, uint64_t *rsp, uint64_t *ss)
{
    Fault f = frame_end(s, t, k, 2, size);
    if (!f)
        f = stk_pop(s, t, k, size, rsp);
    return f ? f : stk_pop(s, t, k, size, ss);
}

Fault far_ret(CpuState *s, Tcg *t, unsigned opsize, unsigned pop_bytes)
{
    Stack k = stack_current(s, t);
    uint64_t rip, cs, rsp, ss;
    Fault f = frame_end(s, t, &k, 2, opsize);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &rip);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &cs);
    if (f)
        return f;
    uint16_t sel = (uint16_t)cs;
    if (!mode_prot(s)) {
        if (rip > s->seg[CS].limit)
            return raise_gp0(t);
        load_segment_real(s, CS, sel);
        stack_set(s, t, k.sp + pop_bytes);
        s->rip = rip;
        return FAULT_JUMP;
    }
    Desc d;
    unsigned cpl = sel & 3;
    Stack outer = k;
    outer.sp = (k.sp + pop_bytes) & k.mask;
    if (t->amd && cpl != t->cpl) /* before the selector is looked at */
        f = pop_stack(s, t, &outer, opsize, &rsp, &ss);
    if (!f)
        f = check_return_code(s, t, sel, rip, &d);
    if (f)
        return f;
    if (cpl == t->cpl) {
        f = desc_set_accessed(s, t, &d);
        if (f)
            return f;
        stack_set(s, t, k.sp + pop_bytes);
        commit_code(s, &d, sel, cpl, rip);
        tcg_update_mode(s, t);
        if (t->code64) /* the stack pointer is that of the mode returned to */
            s->gpr[RSP] = k.sp + pop_bytes;
        return FAULT_JUMP;
    }
    Segment new_ss;
    k.sp = (k.sp + pop_bytes) & k.mask;
    f = pop_stack(s, t, &k, opsize, &rsp, &ss);
    if (!f)
        f = check_return_stack(s, t, (uint16_t)ss, cpl, &d, &new_ss);
    if (!f)
        f = desc_set_accessed(s, t, &d);
    if (f)
        return f;
    commit_code(s, &d, sel, cpl, rip);
    s->seg[SS] = new_ss;
    drop_inner_segments(s, cpl);
    tcg_update_mode(s, t);
    stack_set(s, t, rsp + pop_bytes);
    return FAULT_JUMP;
}

uint64_t popf_mask(const CpuState *s, const Tcg *t, unsigned opsize)
{
    uint64_t m = FL_ARITH | FL_TF | FL_DF | FL_NT;
    if (opsize > 2)
        m |= FL_AC | FL_ID;
    if (t->cpl <= iopl(s))
        m |= FL_IF;
    if (t->cpl == 0)
        m |= FL_IOPL;
    return m;
}

static void iret_flags(CpuState *s, Tcg *t, uint64_t popped, uint64_t mask, unsigned opsize)
{
    if (opsize == 2)
        mask &= 0xffff;
    flags_set(s, t, (flags_get(s, t) & ~mask) | (popped & mask));
}

/* In vm86 with CR4.VME and IOPL below 3 the popped IF goes to VIF (SDM vol. 3, 21.3.3). */
static Fault iret_vme(CpuState *s, Tcg *t, uint64_t flags)
{
    if ((flags & FL_TF) || ((flags & FL_IF) && (s->rflags & FL_VIP)))
        return raise_gp0(t);
    s->rflags = (s->rflags & ~(uint64_t)FL_VIF) | (flags & FL_IF ? FL_VIF : 0);
    return FAULT_NONE;
}

static Fault iret_real(CpuState *s, Tcg *t, unsigned opsize)
{
    Stack k = stack_current(s, t);
    uint64_t rip, cs, flags;
    bool vm = mode_vm86(s), vme = vm && iopl(s) < 3;
    if (vme && !((s->cr4 & CR4_VME) && opsize == 2))
        return raise_gp0(t);
    Fault f = stk_pop(s, t, &k, opsize, &rip);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &cs);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &flags);
    if (!f && rip > s->seg[CS].limit)
        f = raise_gp0(t);
    if (!f && vme)
        f = iret_vme(s, t, flags);
    if (f)
        return f;
    load_segment_real(s, CS, (uint16_t)cs);
    stack_set(s, t, k.sp);
    s->rip = rip;
    uint64_t mask = popf_mask(s, t, opsize) | FL_RF;
    iret_flags(s, t, flags, mask, opsize);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

static Fault iret_to_vm86(CpuState *s, Tcg *t, Stack *k, uint64_t rip, uint64_t cs, uint64_t flags)
{
    static const uint8_t order[5] = {SS, ES, DS, FS, GS};
    uint64_t rsp, sel[5];
    Fault f = stk_pop(s, t, k, 4, &rsp);
    for (unsigned n = 0; !f && n < 5; n++)
        f = stk_pop(s, t, k, 4, &sel[n]);
    if (!f && rip > 0xffff)
        f = raise_gp0(t);
    if (f)
        return f;
    iret_flags(s, t, flags,
               FL_ARITH | FL_TF | FL_DF | FL_NT | FL_IF | FL_IOPL | FL_RF | FL_AC | FL_ID | FL_VIF |
                   FL_VIP | FL_VM,
               4);
    load_segment_real(s, CS, (uint16_t)cs);
    for (unsigned n = 0; n < 5; n++)
        load_segment_real(s, order[n], (uint16_t)sel[n]);
    s->gpr[RSP] = (uint32_t)rsp;
    s->rip = rip;
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

Fault iret(CpuState *s, Tcg *t, unsigned opsize, uint64_t next_rip)
{
    uint64_t rip, cs, flags, rsp = 0, ss = 0;
    /* NMIs are unblocked even when the instruction faults (SDM vol. 3, 6.7.1). */
    s->ev.nmi.masked = false;
    if (!mode_prot(s))
        return iret_real(s, t, opsize);
    if (s->rflags & FL_NT) {
        uint64_t link;
        if (s->efer & EFER_LMA)
            return raise_gp0(t);
        Fault f = tss_read(s, t, 0, 2, &link);
        return f ? f : task_switch(s, t, (uint16_t)link, TASK_IRET, false, 0, next_rip);
    }
    Stack k = stack_current(s, t);
    Fault f = frame_end(s, t, &k, 3, opsize);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &rip);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &cs);
    if (!f)
        f = stk_pop(s, t, &k, opsize, &flags);
    if (f)
        return f;
    if (opsize == 4 && (flags & FL_VM) && t->cpl == 0 && !(s->efer & EFER_LMA))
        return iret_to_vm86(s, t, &k, rip, cs, flags);

    Desc d;
    uint16_t sel = (uint16_t)cs;
    unsigned cpl = sel & 3;
    /* All of the frame is read before any of it is looked at. */
    bool popped = t->code64 || (t->amd && cpl != t->cpl);
    if (popped)
        f = pop_stack(s, t, &k, opsize, &rsp, &ss);
    if (!f)
        f = check_return_code(s, t, sel, rip, &d);
    if (f)
        return f;
    bool pops_stack = popped || cpl != t->cpl;
    Segment new_ss = s->seg[SS];
    if (pops_stack) {
        if (!popped)
            f = pop_stack(s, t, &k, opsize, &rsp, &ss);
        if (!f)
            f = check_return_stack(s, t, (uint16_t)ss, cpl, &d, &new_ss);
    }
    if (!f)
        f = desc_set_accessed(s, t, &d);
    if (f)
        return f;
    uint64_t mask = popf_mask(s, t, opsize) | FL_RF;
    if (t->cpl == 0)
        mask |= FL_VIF | FL_VIP;
    bool outer = cpl != t->cpl;
    if (!pops_stack)
        stack_set(s, t, k.sp);
    commit_code(s, &d, sel, cpl, rip);
    if (pops_stack)
        s->seg[SS] = new_ss;
    if (outer)
        drop_inner_segments(s, cpl);
    iret_flags(s, t, flags, mask, opsize);
    tcg_update_mode(s, t);
    if (pops_stack)
        stack_set(s, t, rsp);
    return FAULT_JUMP;
}
