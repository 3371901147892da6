/*
 * SYSCALL and SYSRET of 64-bit code, between translated blocks: called by a stub that leaves most
 * of the guest's registers where they are (jit_sys.c). This file is compiled without vector
 * registers, which are the guest's.
 *
 * Only the plain case is done here, and only when nothing waits: every other answer is NULL before
 * anything has been changed, and the instruction's exec function does it.
 */
#include "tcg/jit.h"
#include "tcg/sys.h"

/* What is in the way of a change of privilege without the run loop. */
static bool watched(const Jit *j, const Vcpu *v)
{
    return j->no_chain || j->t->stops || j->t->align_check ||
           atomic_load_explicit(&v->request, memory_order_relaxed) != 0;
}

/* Privilege, RIP and flags; `code` runs next. */
static const uint8_t *arrive(Jit *j, unsigned cpl, unsigned mode, uint64_t rip, uint64_t flags,
                             const uint8_t *code)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    s->rip = j->hot->miss_addr = rip;
    s->rflags = (flags & ~(uint64_t)FL_ARITH) | FL_FIXED;
    t->cc = j->hot->cc = flags_to_cc(flags);
    t->cpl = s->cpl = (uint8_t)cpl;
    t->mmu_mode = cpl ? MMU_USER : MMU_KERNEL;
    t->decode_mode = mode;
    return code;
}

const uint8_t *jit_gate_syscall(Tcg *t, const JitCode *at, unsigned k)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    Block *b;
    const Insn *i = jit_insn(at, k, &b);
    const uint64_t efer = EFER_SCE | EFER_LMA, slow = FL_AC | FL_TF | FL_RF;
    unsigned mode = t->decode_mode & ~(unsigned)DM_CPL3;
    if ((s->efer & efer) != efer || !t->code64 || (s->rflags & slow) || watched(j, t->v))
        return NULL;
    const uint8_t *code = jit_code_at(j, mode, s->msr.lstar);
    if (!code)
        return NULL;
    t->cc = j->hot->cc;
    uint64_t flags = flags_get(s, t), cs = s->msr.star >> 32 & 0xffff;
    s->gpr[RCX] = jit_page(j, at) + (b->gpa & ~PAGE_MASK) + i->end;
    s->gpr[R11] = flags;
    flat_segments(s, cs, cs + 8, 0, true);
    return arrive(j, 0, mode, s->msr.lstar, flags & ~s->msr.fmask, code);
}

const uint8_t *jit_gate_sysret(Tcg *t, const JitCode *at, unsigned k)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    Block *b;
    const Insn *i = jit_insn(at, k, &b);
    const uint64_t efer = EFER_SCE | EFER_LMA, slow = FL_AC | FL_TF | FL_RF;
    uint64_t rip = s->gpr[RCX], flags = s->gpr[R11] & SYSRET_FLAGS, base = s->msr.star >> 48;
    unsigned mode = t->decode_mode | DM_CPL3;
    if ((s->efer & efer) != efer || !t->code64 || t->cpl || i->opsize != 8 ||
        ((s->rflags | flags) & slow) || !canonical(s, rip) || watched(j, t->v))
        return NULL;
    const uint8_t *code = jit_code_at(j, mode, rip);
    if (!code)
        return NULL;
    flat_segments(s, base + 16, base + 8, 3, true);
    return arrive(j, 3, mode, rip, flags, code);
}
