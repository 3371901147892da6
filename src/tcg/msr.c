/*
 * RDMSR and WRMSR. Which registers there are, where they live and what may be written is in
 * vmstate/msrs.def; what the policies mean to the software engine is here.
 */
#include "base/log.h"
#include "cpu/pv.h"
#include "tcg/sys.h"

enum Policy {
    POL_PLAIN,
    POL_LOW32,
    POL_CANONICAL,
    POL_IGNORED,
    POL_READONLY,
    POL_HIDDEN,
    POL_ZERO,
    POL_PAT,
    POL_MTRR_DEF,
    POL_MTRR_FIXED,
    POL_MTRR_BASE,
    POL_MTRR_MASK,
    POL_MC_CTL,
    POL_MC_STATUS,
    POL_EFER,
    POL_SEG_BASE,
    POL_TSC_OFFSET,
    POL_TSC_ADJUST,
    POL_KVM_CLOCK,
    POL_KVM_WALL,
    POL_KVM_STEAL,
    POL_KVM_EOI,
    POL_KVM_POLL,
    POL_APIC,
    POL_CONST,
};

enum MsrRowId {
#define MSR(index, id, member, name, policy, feature)       ROW_##id,
#define MSR_ALIAS(index, id, member, name, policy, feature) ROW_##id,
#define MSR_CONST(index, id, value, name, feature)          ROW_##id,
#include "vmstate/msrs.def"
    ROW_NONE
};

static const struct MsrRow {
    uint8_t policy;
    uint16_t feature;
    uint32_t offset; /* in CpuState */
    uint64_t value;  /* of a constant */
} msr_rows[] = {
#define MSR(index, id, member, name, pol, feat) \
    {.policy = POL_##pol, .feature = feat, .offset = offsetof(CpuState, member)},
#define MSR_ALIAS(index, id, member, name, pol, feat) \
    {.policy = POL_##pol, .feature = feat, .offset = offsetof(CpuState, member)},
#define MSR_CONST(index, id, val, name, feat) {.policy = POL_CONST, .feature = feat, .value = val},
#include "vmstate/msrs.def"
};

static enum MsrRowId find_row(uint32_t index)
{
    switch (index) {
#define MSR(idx, id, member, name, policy, feature) \
    case idx:                                       \
        return ROW_##id;
#define MSR_ALIAS(idx, id, member, name, policy, feature) \
    case idx:                                             \
        return ROW_##id;
#define MSR_CONST(idx, id, value, name, feature) \
    case idx:                                    \
        return ROW_##id;
#include "vmstate/msrs.def"
    default:
        return ROW_NONE;
    }
}

static bool is_x2apic(uint32_t index)
{
    return index >= 0x800 && index <= 0x8ff;
}

static const struct MsrRow *row_of(const Tcg *t, uint32_t index, const char *what)
{
    enum MsrRowId id = find_row(index);
    if (id != ROW_NONE && msr_rows[id].policy != POL_HIDDEN &&
        (msr_rows[id].feature >= FEAT_N || t->features[msr_rows[id].feature]))
        return &msr_rows[id];
    if (log_on(LOG_UNIMP))
        log_line("cpu %d %s of unknown MSR %#x at rip %#" G_GINT64_MODIFIER "x", t->v->id, what,
                 index, t->v->st.rip);
    return NULL;
}

bool msr_read(CpuState *s, Tcg *t, uint32_t index, uint64_t *v)
{
    const VcpuBus *bus = t->v->vm->bus;
    vec_release(t);
    if (is_x2apic(index))
        return bus->apic_msr_read(t->v, index, v);
    const struct MsrRow *row = row_of(t, index, "read");
    if (!row)
        return false;
    const uint64_t *p = (const uint64_t *)(const void *)((const char *)s + row->offset);
    switch (row->policy) {
    case POL_APIC:
        return bus->apic_msr_read(t->v, index, v);
    case POL_CONST:
        *v = row->value;
        return true;
    case POL_TSC_OFFSET:
        *v = vcpu_tsc(t->v);
        return true;
    default:
        *v = *p;
        return true;
    }
}

static bool memory_type(unsigned type)
{
    return type <= 6 && type != 2 && type != 3;
}

static bool memory_types(uint64_t v, bool pat)
{
    for (unsigned k = 0; k < 64; k += 8) {
        unsigned type = v >> k & 0xff;
        if (!memory_type(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

static bool write_efer(CpuState *s, Tcg *t, uint64_t v)
{
    uint64_t allowed = EFER_LMA;
    if (t->features[FEAT_SYSCALL])
        allowed |= EFER_SCE;
    if (t->features[FEAT_LM])
        allowed |= EFER_LME;
    if (t->features[FEAT_NX])
        allowed |= EFER_NXE;
    if (t->features[FEAT_AUTOIBRS])
        allowed |= EFER_AIBRSE;
    if ((v & ~allowed) || ((s->cr0 & CR0_PG) && ((v ^ s->efer) & EFER_LME)))
        return false;
    v = (v & ~(uint64_t)EFER_LMA) | (s->efer & EFER_LMA);
    bool flush = (v ^ s->efer) & EFER_NXE;
    s->efer = v;
    if (flush)
        tlb_flush(t);
    return true;
}

/* The register, and TSC_ADJUST by as much (SDM vol. 3, 18.17.3). */
static void move_tsc(Vcpu *v, CpuState *s, uint64_t delta)
{
    s->msr.tsc_adjust += delta;
    s->tsc_offset += delta;
    pv_clock_write(v); /* which tells time by it */
}

bool msr_write(CpuState *s, Tcg *t, uint32_t index, uint64_t v)
{
    const VcpuBus *bus = t->v->vm->bus;
    vec_release(t);
    if (is_x2apic(index))
        return bus->apic_msr_write(t->v, index, v);
    const struct MsrRow *row = row_of(t, index, "write");
    if (!row)
        return false;
    uint64_t *p = (uint64_t *)(void *)((char *)s + row->offset);
    uint64_t above_phys = ~0ull << phys_bits(t);
    bool ok = true;
    switch (row->policy) {
    case POL_APIC:
        return bus->apic_msr_write(t->v, index, v);
    case POL_EFER:
        return write_efer(s, t, v);
    case POL_TSC_OFFSET:
        /* Where KVM's TSC cannot be moved, none is: the write has no effect, as there. */
        if (!t->v->vm->tsc_offset_fixed)
            move_tsc(t->v, s, v - vcpu_tsc(t->v));
        return true;
    case POL_TSC_ADJUST:
        if (t->v->vm->tsc_offset_fixed)
            s->msr.tsc_adjust = v;
        else
            move_tsc(t->v, s, v - s->msr.tsc_adjust);
        return true;
    case POL_IGNORED:
        return true;
    case POL_CONST:
    case POL_READONLY:
        return false;
    case POL_LOW32:
        ok = !(v >> 32);
        break;
    case POL_CANONICAL:
    case POL_SEG_BASE:
        ok = canonical(s, v);
        break;
    case POL_ZERO:
    case POL_MC_STATUS:
        ok = !v;
        break;
    case POL_PAT:
        ok = memory_types(v, true);
        break;
    case POL_MTRR_FIXED:
        ok = memory_types(v, false);
        break;
    case POL_MTRR_DEF:
        ok = !(v & ~0xcffull) && memory_type(v & 0xff);
        break;
    case POL_MTRR_BASE:
        ok = !(v & (above_phys | 0xf00)) && memory_type(v & 0xff);
        break;
    case POL_MTRR_MASK:
        ok = !(v & (above_phys | 0x7ff));
        break;
    case POL_MC_CTL:
        ok = !v || v == ~0ull;
        break;
    case POL_KVM_STEAL:
        ok = !(v & 0x3e);
        break;
    case POL_KVM_EOI:
        ok = !(v & 2);
        break;
    case POL_KVM_POLL:
        ok = !(v >> 1);
        break;
    default:
        break;
    }
    if (ok)
        *p = v;
    if (ok && row->policy == POL_KVM_CLOCK)
        pv_clock_write(t->v);
    else if (ok && row->policy == POL_KVM_WALL)
        pv_wall_clock_write(t->v);
    else if (ok && row->policy == POL_KVM_STEAL)
        pv_enter_software(t->v);
    return ok;
}
