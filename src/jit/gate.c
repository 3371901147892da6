/*
 * SYSCALL, SYSRET and IRET of 64-bit code, between translated blocks: called by a stub that leaves
 * most of the guest's registers where they are (sys.c). This file is compiled without vector
 * registers, which are the guest's.
 *
 * Only the plain case is done here, and only when nothing waits: every other answer is NULL before
 * anything has been changed, and the instruction's exec function does it.
 */
#include "jit/sys.h"
#include "tcg/run.h"
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

const uint8_t *jit_gate_syscall(Tcg *t)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    const uint64_t efer = EFER_SCE | EFER_LMA, slow = FL_AC | FL_TF | FL_RF;
    unsigned mode = t->decode_mode & ~(unsigned)DM_CPL3;
    if ((s->efer & efer) != efer || !t->code64 || (s->rflags & slow) || watched(j, t->v))
        return NULL;
    const uint8_t *code = jit_code_at(j, mode, s->msr.lstar);
    if (!code)
        return NULL;
    t->cc = j->hot->cc;
    uint64_t flags = flags_get(s, t), cs = s->msr.star >> 32 & 0xffff;
    s->gpr[RCX] = j->hot->miss_addr;
    s->gpr[R11] = flags;
    flat_segments(s, cs, cs + 8, 0, true);
    return arrive(j, 0, mode, s->msr.lstar, flags & ~s->msr.fmask, code);
}

const uint8_t *jit_gate_sysret(Tcg *t)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    const uint64_t efer = EFER_SCE | EFER_LMA, slow = FL_AC | FL_TF | FL_RF;
    uint64_t rip = s->gpr[RCX], flags = s->gpr[R11] & SYSRET_FLAGS, base = s->msr.star >> 48;
    unsigned mode = t->decode_mode | DM_CPL3;
    if ((s->efer & efer) != efer || !t->code64 || t->cpl || ((s->rflags | flags) & slow) ||
        !canonical(s, rip) || watched(j, t->v))
        return NULL;
    const uint8_t *code = jit_code_at(j, mode, rip);
    if (!code)
        return NULL;
    flat_segments(s, base + 16, base + 8, 3, true);
    return arrive(j, 3, mode, rip, flags, code);
}

/* Descriptors of flat segments of DPL 0, as 64-bit kernels have them. */
#define RAW_CODE64 0x00af9b000000ffffull
#define RAW_DATA   0x00cf93000000ffffull

/* What can be read at lin, all in one page, without a walk; or NULL. */
static const uint64_t *known(const Jit *j, unsigned mode, gva_t lin, unsigned len)
{
    const JTlb *l = &j->hot->tlb[mode];
    gva_t page = lin & PAGE_MASK;
    unsigned x = page >> PAGE_BITS & (JTLB_SIZE - 1);
    if (l->read[x] != 0 - page || (lin & ~PAGE_MASK) > PAGE_SIZE - len)
        return tlb_hit(j->t, mode, lin, len, ACC_READ);
    return (const uint64_t *)(uintptr_t)(lin + l->add[x] - PAGE_BITS);
}

/* Is sel's descriptor, of the GDT, `raw` with the selector's privilege? */
static bool described(const Jit *j, const CpuState *s, uint16_t sel, uint64_t raw)
{
    if ((sel & 4) || sel < 8 || (sel | 7u) > s->gdt.limit)
        return false;
    const uint64_t *d = known(j, MMU_KERNEL, s->gdt.base + (sel & 0xfff8u), 8);
    return d && *d == (raw | (uint64_t)(sel & 3) << 45);
}

const uint8_t *jit_gate_iret(Tcg *t)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    const uint64_t slow = FL_AC | FL_TF | FL_NT,
                   kept = FL_ARITH | FL_DF | FL_IF | FL_IOPL | FL_ID | FL_VIF | FL_VIP;
    if (!(s->efer & EFER_LMA) || !t->code64 || t->cpl || (s->rflags & slow) ||
        (s->dr7 & DR7_ENABLED) || watched(j, t->v))
        return NULL;
    const uint64_t *frame = known(j, t->mmu_mode, s->gpr[RSP], 40);
    if (!frame)
        return NULL;
    uint64_t rip = frame[0], flags = frame[2], rsp = frame[3];
    uint16_t cs = (uint16_t)frame[1], ss = (uint16_t)frame[4];
    unsigned cpl = cs & 3, mode = t->decode_mode | (cpl ? DM_CPL3 : 0);
    bool null_ss = ss == 0 && cpl == 0; /* a kernel's that has not loaded it */
    if ((cpl != 0 && cpl != 3) || (ss & 3u) != cpl || (flags & (slow | FL_VM)) ||
        !canonical(s, rip) || !described(j, s, cs, RAW_CODE64) ||
        !(null_ss || described(j, s, ss, RAW_DATA)))
        return NULL;
    const uint8_t *code = jit_code_at(j, mode, rip);
    if (!code)
        return NULL;
    flat_segments(s, cs, ss, cpl, true);
    if (null_ss)
        s->seg[SS] = null_segment(0, 0);
    if (cpl)
        drop_inner_segments(s, cpl);
    s->gpr[RSP] = rsp;
    s->ev.nmi.masked = false;
    j->rf_dropped = flags & FL_RF; /* it goes when the next instruction begins */
    j->rf_count = j->hot->count;
    return arrive(j, cpl, mode, rip, flags & kept, code);
}
