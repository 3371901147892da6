/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FS and GS bases: SDM vol. 2.
 *
 * Intel and AMD differ outside 64-bit mode. The guest sees one vendor in CPUID and gets that one's
 * behaviour: SYSCALL from compatibility mode exists for AMD, SYSENTER in IA-32e mode for Intel.
 */
#include "tcg/exec.h"
#include "tcg/sys.h"

DEF_EXEC(syscall)
{
    uint64_t next = insn_next_rip(s, t, i), cs = s->msr.star >> 32 & 0xffff;
    if (!(s->efer & EFER_SCE) || mode_real(s) || (!t->code64 && !t->amd))
        return raise_ud(t);
    uint64_t flags = flags_get(s, t) & ~(uint64_t)FL_RF;
    s->gpr[RCX] = next;
    if (s->efer & EFER_LMA) {
        s->gpr[R11] = flags;
        s->rip = t->code64 ? s->msr.lstar : s->msr.cstar;
        flags &= ~s->msr.fmask;
        flat_segments(s, cs, cs + 8, 0, true);
    } else {
        s->rip = (uint32_t)s->msr.star;
        flags &= ~(uint64_t)(FL_IF | FL_VM);
        flat_segments(s, cs, cs + 8, 0, false);
    }
    flags_set(s, t, flags);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

DEF_EXEC(sysret)
{
    uint64_t base = s->msr.star >> 48, rip = s->gpr[RCX], flags = flags_get(s, t);
    bool to64 = t->code64 && i->opsize == 8;
    if (!(s->efer & EFER_SCE) || mode_real(s) || (!t->code64 && !t->amd))
        return raise_ud(t);
    /* AMD's processors go where RCX says and fault there, with privilege 3. */
    if (t->cpl || (to64 && !t->amd && !canonical(s, rip)))
        return raise_gp0(t);
    flags = t->code64 ? s->gpr[R11] & SYSRET_FLAGS : flags | FL_IF;
    flat_segments(s, to64 ? base + 16 : base, base + 8, 3, to64);
    s->rip = to64 ? rip : (uint32_t)rip;
    flags_set(s, t, flags);
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

DEF_EXEC(sysenter)
{
    uint64_t cs = s->msr.sysenter_cs;
    bool lma = s->efer & EFER_LMA;
    if (lma && t->amd)
        return raise_ud(t);
    if (mode_real(s) || !(cs & 0xfffc))
        return raise_gp0(t);
    flat_segments(s, cs, cs + 8, 0, lma);
    s->rip = lma ? s->msr.sysenter_eip : (uint32_t)s->msr.sysenter_eip;
    s->gpr[RSP] = lma ? s->msr.sysenter_esp : (uint32_t)s->msr.sysenter_esp;
    flags_set(s, t, flags_get(s, t) & ~(uint64_t)(FL_VM | FL_IF | FL_RF));
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

DEF_EXEC(sysexit)
{
    uint64_t cs = s->msr.sysenter_cs, rip = s->gpr[RDX], rsp = s->gpr[RCX];
    bool to64 = i->opsize == 8;
    if ((s->efer & EFER_LMA) && t->amd && !t->cpl)
        return raise_ud(t);
    if (mode_real(s) || t->cpl || !(cs & 0xfffc) ||
        (to64 && (!canonical(s, rip) || !canonical(s, rsp))))
        return raise_gp0(t);
    flat_segments(s, cs + (to64 ? 32 : 16), cs + (to64 ? 40 : 24), 3, to64);
    s->rip = to64 ? rip : (uint32_t)rip;
    s->gpr[RSP] = to64 ? rsp : (uint32_t)rsp;
    tcg_update_mode(s, t);
    return FAULT_JUMP;
}

DEF_EXEC(swapgs)
{
    uint64_t base = s->seg[GS].base;
    s->seg[GS].base = s->msr.kernel_gs_base;
    s->msr.kernel_gs_base = base;
    return FAULT_NONE;
}

static Fault read_base(CpuState *s, Tcg *t, const Insn *i, unsigned seg)
{
    if (!(s->cr4 & CR4_FSGSBASE))
        return raise_ud(t);
    wr_size(s, i->rm, i->opsize, s->seg[seg].base);
    return FAULT_NONE;
}

static Fault write_base(CpuState *s, Tcg *t, const Insn *i, unsigned seg)
{
    uint64_t v = rd_size(s, i->rm, i->opsize);
    if (!(s->cr4 & CR4_FSGSBASE))
        return raise_ud(t);
    if (!canonical(s, v))
        return raise_gp0(t);
    s->seg[seg].base = v;
    return FAULT_NONE;
}

DEF_EXEC(rdfsbase)
{
    return read_base(s, t, i, FS);
}

DEF_EXEC(rdgsbase)
{
    return read_base(s, t, i, GS);
}

DEF_EXEC(wrfsbase)
{
    return write_base(s, t, i, FS);
}

DEF_EXEC(wrgsbase)
{
    return write_base(s, t, i, GS);
}

/* In SMM only with a state that another engine has brought there. */
DEF_EXEC(rsm)
{
    return s->ev.smi.active ? raise_unsupported(t, "RSM: no system-management mode") : raise_ud(t);
}
