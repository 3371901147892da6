/* Segment register moves, far transfers, software interrupts, flags: SDM vol. 2. */
#include "tcg/exec.h"
#include "tcg/sys.h"

/* After a segment load: did what decoding depends on change, or are interrupts held off? */
static Fault after_load(const Tcg *t, unsigned old_mode)
{
    return t->decode_mode != old_mode || t->inhibit ? FAULT_STATE : FAULT_NONE;
}

static void hold_interrupts_ss(CpuState *s, Tcg *t)
{
    t->inhibit = true;
    s->ev.shadow_mov_ss = true;
}

DEF_EXEC(mov_from_seg)
{
    gva_t lin;
    if (i->reg > GS)
        return raise_ud(t);
    uint16_t sel = s->seg[i->reg].selector;
    if (!(i->flags & IF_MEM)) {
        wr_size(s, i->rm, i->opsize, sel);
        return FAULT_NONE;
    }
    Fault f = ea_lin(s, t, i, 2, ACC_WRITE, &lin);
    return f ? f : st16(s, t, lin, sel);
}

DEF_EXEC(mov_to_seg)
{
    unsigned old_mode = t->decode_mode;
    uint16_t sel;
    if (i->reg > GS || i->reg == CS)
        return raise_ud(t);
    Fault f = read_ew(s, t, i, &sel);
    if (!f)
        f = load_segment(s, t, i->reg, sel);
    if (f)
        return f;
    if (i->reg == SS)
        hold_interrupts_ss(s, t);
    return after_load(t, old_mode);
}

static Fault push_seg(CpuState *s, Tcg *t, const Insn *i, unsigned seg)
{
    return stack_push(s, t, i->opsize, s->seg[seg].selector);
}

DEF_EXEC(push_es)
{
    return push_seg(s, t, i, ES);
}

DEF_EXEC(push_cs)
{
    return push_seg(s, t, i, CS);
}

DEF_EXEC(push_ss)
{
    return push_seg(s, t, i, SS);
}

DEF_EXEC(push_ds)
{
    return push_seg(s, t, i, DS);
}

DEF_EXEC(push_fs)
{
    return push_seg(s, t, i, FS);
}

DEF_EXEC(push_gs)
{
    return push_seg(s, t, i, GS);
}

static Fault pop_seg(CpuState *s, Tcg *t, const Insn *i, unsigned seg)
{
    unsigned old_mode = t->decode_mode;
    uint64_t before = s->gpr[RSP], v;
    Fault f = stack_pop(s, t, i->opsize, &v);
    if (!f)
        f = load_segment(s, t, seg, (uint16_t)v);
    if (f) {
        s->gpr[RSP] = before;
        return f;
    }
    if (seg == SS)
        hold_interrupts_ss(s, t);
    return after_load(t, old_mode);
}

DEF_EXEC(pop_es)
{
    return pop_seg(s, t, i, ES);
}

DEF_EXEC(pop_ss)
{
    return pop_seg(s, t, i, SS);
}

DEF_EXEC(pop_ds)
{
    return pop_seg(s, t, i, DS);
}

DEF_EXEC(pop_fs)
{
    return pop_seg(s, t, i, FS);
}

DEF_EXEC(pop_gs)
{
    return pop_seg(s, t, i, GS);
}

/* Bytes of the offset in a far pointer: AMD has none of 64 bits (APM vol. 3, CALL, JMP, LFS). */
static unsigned far_size(const Tcg *t, const Insn *i)
{
    return t->amd ? MIN_OF(i->opsize, 4u) : i->opsize;
}

/* Offset and selector of a far pointer in memory. */
static Fault read_far(CpuState *s, Tcg *t, const Insn *i, uint64_t *off, uint16_t *sel)
{
    uint8_t raw[10];
    gva_t lin;
    unsigned n = far_size(t, i);
    Fault f = ea_lin(s, t, i, t->amd ? n : n + 2, ACC_READ, &lin);
    if (!f)
        f = mem_read_operand(s, t, lin, raw, t->amd ? n : n + 2, n);
    if (!f && t->amd) { /* two accesses */
        uint64_t second = (ea_offset(s, i) + n) & size_mask(i->asize);
        f = seg_lin(s, t, i->seg, second, 2, ACC_READ, &lin);
        if (!f)
            f = mem_read_bytes(s, t, lin, raw + n, 2);
    }
    if (f)
        return f;
    *off = 0;
    memcpy(off, raw, n);
    memcpy(sel, raw + n, 2);
    return FAULT_NONE;
}

static Fault load_far(CpuState *s, Tcg *t, const Insn *i, unsigned seg)
{
    unsigned old_mode = t->decode_mode;
    uint64_t off;
    uint16_t sel;
    Fault f = read_far(s, t, i, &off, &sel);
    if (!f)
        f = load_segment(s, t, seg, sel);
    if (f)
        return f;
    wr_size(s, i->reg, far_size(t, i), off);
    return after_load(t, old_mode);
}

DEF_EXEC(les)
{
    return load_far(s, t, i, ES);
}

DEF_EXEC(lds)
{
    return load_far(s, t, i, DS);
}

DEF_EXEC(lss)
{
    return load_far(s, t, i, SS);
}

DEF_EXEC(lfs)
{
    return load_far(s, t, i, FS);
}

DEF_EXEC(lgs)
{
    return load_far(s, t, i, GS);
}

/* ---- far transfers ---- */

DEF_EXEC(jmp_far_imm)
{
    return far_jump(s, t, (uint16_t)(i->imm >> 32), (uint32_t)i->imm, i->opsize,
                    insn_next_rip(s, t, i));
}

DEF_EXEC(call_far_imm)
{
    return far_call(s, t, (uint16_t)(i->imm >> 32), (uint32_t)i->imm, i->opsize,
                    insn_next_rip(s, t, i));
}

DEF_EXEC(jmp_far_mem)
{
    uint64_t off;
    uint16_t sel;
    Fault f = read_far(s, t, i, &off, &sel);
    return f ? f : far_jump(s, t, sel, off, far_size(t, i), insn_next_rip(s, t, i));
}

DEF_EXEC(call_far_mem)
{
    uint64_t off;
    uint16_t sel;
    Fault f = read_far(s, t, i, &off, &sel);
    return f ? f : far_call(s, t, sel, off, i->opsize, insn_next_rip(s, t, i));
}

DEF_EXEC(retf)
{
    return far_ret(s, t, i->opsize, (uint16_t)i->imm);
}

DEF_EXEC(iret)
{
    return iret(s, t, i->opsize, insn_next_rip(s, t, i));
}

/* ---- software interrupts ---- */

DEF_EXEC(int3)
{
    return software_interrupt(s, t, VEC_BP, insn_next_rip(s, t, i), false);
}

DEF_EXEC(int1)
{
    return software_interrupt(s, t, VEC_DB, insn_next_rip(s, t, i), true);
}

DEF_EXEC(into)
{
    if (!(t->cc & CC_OF))
        return FAULT_NONE;
    return software_interrupt(s, t, VEC_OF, insn_next_rip(s, t, i), false);
}

DEF_EXEC(int_n)
{
    uint8_t vector = (uint8_t)i->imm;
    gva_t next = insn_next_rip(s, t, i);
    if (mode_vm86(s)) {
        bool redirected = false;
        if (s->cr4 & CR4_VME) {
            Fault f = vm86_redirect(s, t, vector, next, &redirected);
            if (f)
                return f;
        }
        if (!redirected && iopl(s) < 3)
            return raise_gp0(t);
    }
    return software_interrupt(s, t, vector, next, false);
}

/* ---- flags ---- */

/* vm86 with IOPL below 3: without CR4.VME, or with a 32-bit operand, #GP(0). */
static bool flags_virtual(const CpuState *s)
{
    return mode_vm86(s) && iopl(s) < 3;
}

DEF_EXEC(pushf)
{
    uint64_t v = flags_get(s, t) & ~(uint64_t)(FL_RF | FL_VM);
    if (flags_virtual(s)) {
        if (!(s->cr4 & CR4_VME) || i->opsize != 2)
            return raise_gp0(t);
        v = (v & ~(uint64_t)FL_IF) | FL_IOPL | (s->rflags & FL_VIF ? FL_IF : 0);
    }
    return stack_push(s, t, i->opsize, v);
}

DEF_EXEC(popf)
{
    uint64_t before = s->gpr[RSP], old = flags_get(s, t), v;
    bool virtual = flags_virtual(s);
    if (virtual && (!(s->cr4 & CR4_VME) || i->opsize != 2))
        return raise_gp0(t);
    Fault f = stack_pop(s, t, i->opsize, &v);
    if (f)
        return f;
    if (virtual) {
        if ((v & FL_TF) || ((v & FL_IF) && (old & FL_VIP))) {
            s->gpr[RSP] = before;
            return raise_gp0(t);
        }
        old = (old & ~(uint64_t)FL_VIF) | (v & FL_IF ? FL_VIF : 0);
    }
    uint64_t mask = popf_mask(s, t, i->opsize);
    if (i->opsize == 2)
        mask &= 0xffff;
    uint64_t now = (old & ~(mask | FL_RF)) | (v & mask);
    flags_set(s, t, now);
    return (now & ~old & FL_IF) || ((now | old) & FL_TF) ? FAULT_STATE : FAULT_NONE;
}

enum IfKind { IF_REAL, IF_VIRTUAL, IF_DENIED };

/* Which interrupt flag CLI and STI mean here: IF, VIF (VME, PVI), or neither. */
static enum IfKind interrupt_flag(const CpuState *s, const Tcg *t)
{
    if (t->cpl <= iopl(s) || mode_real(s))
        return IF_REAL;
    if (mode_vm86(s) ? s->cr4 & CR4_VME : t->cpl == 3 && (s->cr4 & CR4_PVI))
        return IF_VIRTUAL;
    return IF_DENIED;
}

DEF_EXEC(cli)
{
    switch (interrupt_flag(s, t)) {
    case IF_REAL:
        s->rflags &= ~(uint64_t)FL_IF;
        return FAULT_NONE;
    case IF_VIRTUAL:
        s->rflags &= ~(uint64_t)FL_VIF;
        return FAULT_NONE;
    default:
        return raise_gp0(t);
    }
}

DEF_EXEC(sti)
{
    switch (interrupt_flag(s, t)) {
    case IF_REAL:
        if (!(s->rflags & FL_IF)) {
            s->rflags |= FL_IF;
            t->inhibit = true;
            s->ev.shadow_sti = true;
        }
        return FAULT_STATE;
    case IF_VIRTUAL:
        if (s->rflags & FL_VIP)
            return raise_gp0(t);
        s->rflags |= FL_VIF;
        return FAULT_NONE;
    default:
        return raise_gp0(t);
    }
}
