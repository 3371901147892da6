/* MONITOR and MWAIT: SDM vol. 2. Who waits, and until when: cpu/mwait.h. */
#include "cpu/mwait.h"
#include "tcg/exec.h"
#include "tcg/sys.h"

static uint64_t extensions(const CpuState *s, const Tcg *t)
{
    return t->code64 ? s->gpr[RCX] : (uint32_t)s->gpr[RCX];
}

static bool interrupts_offered(const Tcg *t)
{
    uint32_t r[4];
    cpuid_execute(t->v->vm->cpuid, 0, 0, 1, 0, 5, 0, r);
    return r[2] & 2;
}

/* The line of DS:rAX, which is checked as a byte that is read. */
DEF_EXEC(monitor)
{
    gva_t lin;
    gpa_t gpa;
    if (t->cpl)
        return raise_ud(t);
    if (extensions(s, t))
        return raise_gp0(t);
    Fault f = seg_lin(s, t, i->seg, s->gpr[RAX] & size_mask(i->asize), 1, ACC_READ, &lin);
    if (!f)
        f = mmu_translate(s, t, lin, ACC_READ, t->mmu_mode, &gpa);
    if (!f)
        mwait_arm(t->v, gpa);
    return f;
}

/* EAX hints at how deep a sleep is worth while, which is the host's affair. */
DEF_EXEC(mwait)
{
    uint64_t ext = extensions(s, t);
    if (t->cpl)
        return raise_ud(t);
    if (ext & ~(uint64_t)MWAIT_ECX_INTERRUPT || (ext && !interrupts_offered(t)))
        return raise_gp0(t);
    if (mwait_over(t->v)) {
        mwait_disarm(t->v);
        return FAULT_STATE;
    }
    t->v->monitor.any_interrupt = ext & MWAIT_ECX_INTERRUPT;
    s->run_state = RUN_MWAIT;
    return FAULT_HLT;
}
