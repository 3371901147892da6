/* Control and debug registers, MSRs, CPUID, time, caches: SDM vol. 2 and vol. 3, 2.5-2.8, 18.2. */
#include "tcg/exec.h"
#include "tcg/sys.h"

/* ---- CR ---- */

DEF_EXEC(mov_from_cr)
{
    uint64_t v;
    switch (i->reg) {
    case 0:
        v = s->cr0;
        break;
    case 2:
        v = s->cr2;
        break;
    case 3:
        v = s->cr3;
        break;
    case 4:
        v = s->cr4;
        break;
    case 8:
        vec_release(t);
        v = t->v->vm->bus->tpr_get(t->v);
        break;
    default:
        return raise_ud(t);
    }
    s->gpr[i->rm] = t->code64 ? v : (uint32_t)v;
    return FAULT_NONE;
}

DEF_EXEC(mov_to_cr)
{
    uint64_t v = t->code64 ? s->gpr[i->rm] : (uint32_t)s->gpr[i->rm];
    Fault f = FAULT_NONE;
    switch (i->reg) {
    case 0:
        f = write_cr0(s, t, v);
        break;
    case 2:
        s->cr2 = v;
        break;
    case 3:
        f = write_cr3(s, t, v);
        break;
    case 4:
        f = write_cr4(s, t, v);
        break;
    case 8:
        if (v >> 4)
            return raise_gp0(t);
        vec_release(t);
        t->v->vm->bus->tpr_set(t->v, (uint8_t)v);
        break;
    default:
        return raise_ud(t);
    }
    return f ? f : FAULT_STATE;
}

DEF_EXEC(clts)
{
    s->cr0 &= ~(uint64_t)CR0_TS;
    return FAULT_STATE;
}

DEF_EXEC(smsw)
{
    gva_t lin;
    Fault f = umip_check(s, t);
    if (f)
        return f;
    if (!(i->flags & IF_MEM)) {
        wr_size(s, i->rm, i->opsize, s->cr0);
        return FAULT_NONE;
    }
    f = ea_lin(s, t, i, 2, ACC_WRITE, &lin);
    return f ? f : st16(s, t, lin, (uint16_t)s->cr0);
}

DEF_EXEC(lmsw)
{
    uint16_t v;
    Fault f = read_ew(s, t, i, &v);
    if (f)
        return f;
    /* The low four bits; PE can be set, not cleared. */
    uint64_t keep = CR0_MP | CR0_EM | CR0_TS | (v & CR0_PE);
    f = write_cr0(s, t, (s->cr0 & ~keep) | (v & (keep | CR0_PE)));
    return f ? f : FAULT_STATE;
}

/* ---- DR ---- */

static bool data_watched(uint64_t dr7)
{
    for (unsigned k = 0; k < 4; k++)
        if ((dr7 >> (2 * k) & 3) && (dr7 >> (16 + 4 * k) & 1))
            return true;
    return false;
}

/* Which register DRn is, with the checks common to both directions. */
static Fault debug_register(CpuState *s, Tcg *t, unsigned *n)
{
    if (*n > 7 || ((*n == 4 || *n == 5) && (s->cr4 & CR4_DE)))
        return raise_ud(t);
    if (s->dr7 & DR7_GD) {
        t->exc = (PendingExc){.vector = VEC_DB, .dr6 = DR6_BD};
        return FAULT_EXC;
    }
    if (*n == 4 || *n == 5)
        *n += 2;
    return FAULT_NONE;
}

DEF_EXEC(mov_from_dr)
{
    unsigned n = i->reg;
    Fault f = debug_register(s, t, &n);
    if (f)
        return f;
    uint64_t v = n < 4 ? s->dr[n] : n == 6 ? s->dr6 : s->dr7;
    s->gpr[i->rm] = t->code64 ? v : (uint32_t)v;
    return FAULT_NONE;
}

DEF_EXEC(mov_to_dr)
{
    unsigned n = i->reg;
    Fault f = debug_register(s, t, &n);
    if (f)
        return f;
    uint64_t v = t->code64 ? s->gpr[i->rm] : (uint32_t)s->gpr[i->rm];
    if (n >= 6 && v >> 32)
        return raise_gp0(t);
    bool watched = data_watched(s->dr7);
    if (n < 4)
        s->dr[n] = v;
    else if (n == 6)
        s->dr6 = (v & 0xe00f) | DR6_FIXED1;
    else
        s->dr7 = (v & 0xffff23ff) | DR7_FIXED1;
    /* Pages with a data breakpoint have no tags: see fill() in mmu.c. */
    if (watched || data_watched(s->dr7))
        tlb_flush(t);
    return FAULT_STATE;
}

/* ---- MSRs, CPUID, time ---- */

static uint64_t edx_eax(const CpuState *s)
{
    return (uint32_t)s->gpr[RAX] | s->gpr[RDX] << 32;
}

static void set_edx_eax(CpuState *s, uint64_t v)
{
    s->gpr[RAX] = (uint32_t)v;
    s->gpr[RDX] = v >> 32;
}

DEF_EXEC(rdmsr)
{
    uint64_t v;
    if (!msr_read(s, t, (uint32_t)s->gpr[RCX], &v))
        return raise_gp0(t);
    set_edx_eax(s, v);
    return FAULT_NONE;
}

DEF_EXEC(wrmsr)
{
    if (!msr_write(s, t, (uint32_t)s->gpr[RCX], edx_eax(s)))
        return raise_gp0(t);
    return FAULT_STATE;
}

DEF_EXEC(cpuid)
{
    uint32_t out[4];
    uint64_t apic_base = 0;
    vec_release(t);
    t->v->vm->bus->apic_msr_read(t->v, 0x1b, &apic_base);
    cpuid_execute(t->v->vm->cpuid, (uint32_t)t->v->id, s->cr4, s->xcr0, apic_base,
                  (uint32_t)s->gpr[RAX], (uint32_t)s->gpr[RCX], out);
    s->gpr[RAX] = out[0];
    s->gpr[RBX] = out[1];
    s->gpr[RCX] = out[2];
    s->gpr[RDX] = out[3];
    return FAULT_NONE;
}

static bool tsc_denied(const CpuState *s, const Tcg *t)
{
    return (s->cr4 & CR4_TSD) && t->cpl;
}

static void time_passes(Tcg *t)
{
    const VmCommon *vm = t->v->vm;
    if (likely(!vm->bus || !vm->bus->tsc_is_late || vm->bus->clock_tsc || !timers_late(vm->clock)))
        return;
    vm->bus->tsc_is_late(t->v);
    t->look = true;
}

DEF_EXEC(rdtsc)
{
    if (tsc_denied(s, t))
        return raise_gp0(t);
    time_passes(t);
    set_edx_eax(s, vcpu_tsc(t->v));
    return FAULT_NONE;
}

DEF_EXEC(rdtscp)
{
    if (tsc_denied(s, t))
        return raise_gp0(t);
    time_passes(t);
    set_edx_eax(s, vcpu_tsc(t->v));
    s->gpr[RCX] = (uint32_t)s->msr.tsc_aux;
    return FAULT_NONE;
}

/* No performance counter is offered: every index is out of range. */
DEF_EXEC(rdpmc)
{
    return raise_gp0(t);
}

DEF_EXEC(xgetbv)
{
    if (!(s->cr4 & CR4_OSXSAVE))
        return raise_ud(t);
    if ((uint32_t)s->gpr[RCX])
        return raise_gp0(t);
    set_edx_eax(s, s->xcr0);
    return FAULT_NONE;
}

DEF_EXEC(xsetbv)
{
    uint64_t v = edx_eax(s);
    if (!(s->cr4 & CR4_OSXSAVE))
        return raise_ud(t);
    if (t->cpl || (uint32_t)s->gpr[RCX] || !(v & 1) || (v & ~cpuid_xcr0_mask(t->v->vm->cpuid)) ||
        (v & 6) == 4 || ((v & 0xe0) && (v & 0xe6) != 0xe6))
        return raise_gp0(t);
    s->xcr0 = v;
    return FAULT_STATE;
}

/* ---- caches and translations ---- */

DEF_EXEC(wbinvd)
{
    return FAULT_NONE;
}

DEF_EXEC(fence)
{
    __sync_synchronize();
    return FAULT_NONE;
}

DEF_EXEC(clflush)
{
    gva_t lin;
    gpa_t gpa;
    Fault f = ea_lin(s, t, i, 1, ACC_READ, &lin);
    return f ? f : mmu_translate(s, t, lin, ACC_READ, t->mmu_mode, &gpa);
}

DEF_EXEC(invlpg)
{
    gva_t lin = ea_offset(s, i) + s->seg[i->seg].base;
    tlb_flush_page(t, t->code64 ? lin : (uint32_t)lin);
    return FAULT_STATE;
}

/* An address is dropped from every PCID, which is more than must be. */
DEF_EXEC(invpcid)
{
    enum { INDIVIDUAL, SINGLE_CONTEXT, ALL, ALL_BUT_GLOBAL };
    uint64_t desc[2], type = t->code64 ? s->gpr[i->reg] : (uint32_t)s->gpr[i->reg];
    gva_t lin;
    Fault f = ea_lin(s, t, i, 16, ACC_READ, &lin);
    if (!f)
        f = mem_read_bytes(s, t, lin, desc, 16);
    if (f)
        return f;
    bool one_pcid = type == INDIVIDUAL || type == SINGLE_CONTEXT;
    if (type > ALL_BUT_GLOBAL || desc[0] >> 12 || (one_pcid && !(s->cr4 & CR4_PCIDE) && desc[0]) ||
        (type == INDIVIDUAL && !canonical(s, desc[1])))
        return raise_gp0(t);
    if (type == INDIVIDUAL)
        tlb_flush_page(t, desc[1]);
    else if (type == ALL)
        tlb_flush(t);
    else if (type == SINGLE_CONTEXT)
        tlb_flush_pcid(t, (uint16_t)desc[0]);
    else
        tlb_flush_pcids(t);
    return FAULT_STATE;
}

static Fault set_ac(CpuState *s, Tcg *t, bool on)
{
    if (t->cpl)
        return raise_ud(t);
    s->rflags = on ? s->rflags | FL_AC : s->rflags & ~(uint64_t)FL_AC;
    update_access_mode(s, t);
    return FAULT_NONE;
}

DEF_EXEC(clac)
{
    return set_ac(s, t, false);
}

DEF_EXEC(stac)
{
    return set_ac(s, t, true);
}

DEF_EXEC(hlt)
{
    s->run_state = RUN_HALTED;
    return FAULT_HLT;
}
