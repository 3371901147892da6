/*
 * Moving state between CpuState and KVM: fields.def, msrs.def and groups.def made into code.
 *
 * The moves are straight; what the two sides see differently is mended by the rules of vmstate.
 * Only what exists on one side alone is filled in here: CPL (KVM has it in SS.DPL), CR8 and
 * IA32_APIC_BASE (the local APIC's), valid flags, and zeros in place of what an invalid event left
 * behind.
 */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <x86intrin.h>

#include "cpu/xsave.h"

/* ---- straight moves ---- */

static void segment_to_cpu(const struct kvm_segment *k, Segment *s)
{
    *s = (Segment){
        .base = k->base,
        .limit = k->limit,
        .selector = k->selector,
        .attr = (uint32_t)(k->type & SEG_TYPE) | (k->s ? SEG_S : 0) |
                (uint32_t)(k->dpl & 3) << SEG_DPL_SHIFT | (k->present ? SEG_P : 0) |
                (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) | (k->db ? SEG_DB : 0) |
                (k->g ? SEG_G : 0) | (k->unusable ? SEG_UNUSABLE : 0),
    };
}

static void segment_from_cpu(struct kvm_segment *k, const Segment *s)
{
    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & SEG_TYPE,
        .s = !!(s->attr & SEG_S),
        .dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
        .present = !!(s->attr & SEG_P),
        .avl = !!(s->attr & SEG_AVL),
        .l = !!(s->attr & SEG_L),
        .db = !!(s->attr & SEG_DB),
        .g = !!(s->attr & SEG_G),
        .unusable = !!(s->attr & SEG_UNUSABLE),
    };
}

void kvm_state_to_cpu(const KvmState *k, CpuState *s, unsigned groups)
{
#define FIELD(group, id, name, ctype, member, place) \
    if (groups & GRP_##group)                        \
        s->member = (__typeof__(s->member))k->place;
#define FIELD_BIT(group, id, name, member, place, mask) \
    if (groups & GRP_##group)                           \
        s->member = !!(k->place & (mask));
#define SEGMENT(group, id, name, index, place) \
    if (groups & GRP_##group)                  \
        segment_to_cpu(&k->place, &s->seg[index]);
#define TABLE(group, id, name, member, place) \
    if (groups & GRP_##group)                 \
        s->member = (DescTable){.base = k->place.base, .limit = k->place.limit};
#include "vmstate/fields.def"

    if (groups & GRP_SREGS) {
        s->cpl = (s->seg[SS].attr & SEG_DPL) >> SEG_DPL_SHIFT;
        if (!(k->sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID))
            memset(s->pdpte, 0, sizeof(s->pdpte));
    }
    if (groups & GRP_EVENTS) {
        /* KVM leaves the last event's details behind; only a valid one has any. */
        if (!s->ev.exception.pending && !s->ev.exception.injected)
            memset(&s->ev.exception, 0, sizeof(s->ev.exception));
        if (!s->ev.exception.has_error)
            s->ev.exception.error = 0;
        if (!s->ev.exception.has_payload)
            s->ev.exception.payload = 0;
        if (!s->ev.interrupt.injected)
            memset(&s->ev.interrupt, 0, sizeof(s->ev.interrupt));
        /* SVM has one shadow where VMX has two, and KVM reports it as both. The stronger one is
         * right for either: it ends as soon. Both at once is a state that VMX refuses. */
        if (s->ev.shadow_mov_ss)
            s->ev.shadow_sti = false;
        if (!(k->events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT))
            s->ev.triple_fault = false;
        s->ev.soft_len = 0;
    }
}

void kvm_state_from_cpu(KvmState *k, const CpuState *s, unsigned groups)
{
    if (groups & GRP_EVENTS)
        memset(&k->events, 0, sizeof(k->events));
    if (groups & GRP_DEBUGREGS)
        memset(&k->debugregs, 0, sizeof(k->debugregs));
    if (groups & GRP_SREGS)
        memset(&k->sregs, 0, sizeof(k->sregs));
    if (groups & GRP_XCRS) {
        memset(&k->xcrs, 0, sizeof(k->xcrs));
        k->xcrs.nr_xcrs = 1; /* XCR0 */
    }
    if (groups & GRP_MP_STATE)
        k->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;

#define FIELD(group, id, name, ctype, member, place) \
    if (groups & GRP_##group)                        \
        k->place = s->member;
#define FIELD_BIT(group, id, name, member, place, mask) \
    if (groups & GRP_##group)                           \
        k->place |= s->member ? (mask) : 0;
#define SEGMENT(group, id, name, index, place) \
    if (groups & GRP_##group)                  \
        segment_from_cpu(&k->place, &s->seg[index]);
#define TABLE(group, id, name, member, place) \
    if (groups & GRP_##group)                 \
        k->place = (struct kvm_dtable){       \
            .base = s->member.base,           \
            .limit = s->member.limit,         \
        };
#include "vmstate/fields.def"

    /* KVM takes the four pointers under PAE paging only; else it would refuse the lot. */
    if (groups & GRP_SREGS && s->cr0 & CR0_PG && s->cr4 & CR4_PAE && !(s->efer & EFER_LMA))
        k->sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
}

/* ---- groups that are more than one ioctl ---- */

_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags),
               "kvm_sregs2 begins as kvm_sregs does");

/* KVM before 5.14 has no PDPTEs to give; all but them is the same. */
static int sregs_ioctl(KvmVcpu *kv, bool put)
{
    struct kvm_sregs old = {0};
    const size_t same = offsetof(struct kvm_sregs2, flags);
    int r;

    if (kv->vm->host->cap[CAP_SREGS2])
        return ioctl(kv->fd, put ? KVM_SET_SREGS2 : KVM_GET_SREGS2, &kv->ks.sregs);
    if (put) {
        memcpy(&old, &kv->ks.sregs, same);
        return ioctl(kv->fd, KVM_SET_SREGS, &old);
    }
    memset(&kv->ks.sregs, 0, sizeof(kv->ks.sregs));
    r = ioctl(kv->fd, KVM_GET_SREGS, &old);
    memcpy(&kv->ks.sregs, &old, same);
    return r;
}

/* Is what goes in so different from what KVM holds that it flushes by itself? */
static bool flushes(const KvmVcpu *kv)
{
    const struct kvm_sregs2 *a = &kv->ks.sregs, *b = &kv->kept.sregs;
    return kv->held & GRP_SREGS && (a->cr3 != b->cr3 || ((a->cr0 ^ b->cr0) & (CR0_PG | CR0_WP)) ||
                                    ((a->cr4 ^ b->cr4) & (CR4_PGE | CR4_PAE)));
}

/* May anybody have written to page tables behind KVM's back? Those it makes for itself are of all
 * vCPUs. */
static bool wrote_unseen(const Vcpu *v)
{
    if (!kvm_of(v)->vm->host->shadow_tables)
        return v->wrote_unseen;
    for (unsigned i = 0; i < v->vm->n_vcpus; i++) {
        if (v->vm->vcpu[i]->wrote_unseen)
            return true;
    }
    return false;
}

/*
 * Whoever had the vCPU may have changed page tables, which KVM's TLB knows nothing of. Loading the
 * same CR3 flushes nothing; CR4.PGE changed and put back makes KVM drop all of it, global entries
 * too. A KVM that makes page tables of its own has these to forget as well.
 */
static bool put_sregs(Vcpu *v, bool known, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    struct kvm_sregs2 *s = &kv->ks.sregs;

    if (!kv->vm->kernel_apic)
        s->cr8 = v->vm->bus->tpr_get(v);
    uint64_t apic_base;
    if (kv->vm->kernel_apic || !v->vm->bus->apic_msr_read(v, 0x1b, &apic_base))
        apic_base = v->st.msr.apic_base;
    s->apic_base = apic_base;

    /* A switch whose vCPU has not run meanwhile: nothing to forget, and perhaps nothing to put. */
    bool forget = !known || kv->vm->kernel_apic || wrote_unseen(v);
    if (!forget && kv->held & GRP_SREGS && !memcmp(s, &kv->kept.sregs, sizeof(*s)))
        return true;

    int r = 0;
    if (forget && kv->vm->host->shadow_tables) { /* which flushes, too */
        if (!kvm_tables_drop(kv, err))
            return false;
    } else if (forget && !flushes(kv)) {
        s->cr4 ^= CR4_PGE;
        r = sregs_ioctl(kv, true);
        s->cr4 ^= CR4_PGE;
    }
    if (r == 0)
        r = sregs_ioctl(kv, true);
    if (r == 0) {
        v->wrote_unseen = false;
        return true;
    }
    g_set_error(err, TANDEM_ERROR, ERR_STATE,
                "KVM_SET_SREGS: %s (CR0 %#llx CR3 %#llx CR4 %#llx EFER %#llx CS.L %u, "
                "APIC base %#llx)",
                g_strerror(errno), s->cr0, s->cr3, s->cr4, s->efer, s->cs.l, s->apic_base);
    return false;
}

static bool get_fpu(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    unsigned long request = kv->vm->host->cap[CAP_XSAVE2] ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
    uint64_t all = cpuid_xcr0_mask(v->vm->cpuid) | 3, bv;

    if (ioctl(kv->fd, request, kv->xsave) < 0)
        return kvm_error(err, request == KVM_GET_XSAVE2 ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE");
    if (!cpuid_has(v->vm->cpuid, FEAT_XSAVE)) { /* the legacy region, which KVM always fills */
        fpu_from_fxsave(&v->st.fpu, kv->xsave, true);
        return true;
    }
    /* A component the guest was not offered cannot hold anything of its. */
    memcpy(&bv, kv->xsave + XSAVE_HEADER, sizeof(bv));
    bv &= all;
    memcpy(kv->xsave + XSAVE_HEADER, &bv, sizeof(bv));
    if (fpu_from_xsave(&v->st.fpu, v->vm->cpuid, all, kv->xsave, (size_t)kv->vm->xsave_size))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_STATE, "KVM_GET_XSAVE gave an area that is not understood");
    return false;
}

static bool put_fpu(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    uint64_t all = cpuid_xcr0_mask(v->vm->cpuid) | 3, bv;
    size_t size = (size_t)kv->vm->xsave_size;

    memset(kv->xsave, 0, size);
    if (!cpuid_has(v->vm->cpuid, FEAT_XSAVE)) {
        fpu_to_fxsave(&v->st.fpu, kv->xsave, true);
        memcpy(kv->xsave + XSAVE_HEADER, &all, sizeof(all));
    } else if (!fpu_to_xsave(&v->st.fpu, v->vm->cpuid, all, kv->xsave, size)) {
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "KVM's XSAVE area is too small: %zu bytes", size);
        return false;
    }
    /* Linux takes MXCSR from an image only with SSE or AVX in its XSTATE_BV, though the processor
     * has it apart from them: the old value would stay. */
    memcpy(&bv, kv->xsave + XSAVE_HEADER, sizeof(bv));
    bv |= BIT(XC_SSE);
    memcpy(kv->xsave + XSAVE_HEADER, &bv, sizeof(bv));
    if (ioctl(kv->fd, KVM_SET_XSAVE, kv->xsave) < 0)
        return kvm_error(err, "KVM_SET_XSAVE");
    return true;
}

/* Events have no bits of their own for "this host's KVM can"; its capabilities say. */
static void event_flags(KvmVcpu *kv)
{
    const KvmHost *h = kv->vm->host;
    const struct kvm_vcpu_events *e = &kv->ks.events;
    /* With it goes an INIT that waits at KVM's local APIC, which is not ours to say: as long as SMM
     * is not in play it is left out. */
    bool smm = h->cap[CAP_X86_SMM] && (!kv->vm->kernel_apic || e->smi.smm || e->smi.pending);
    /* Nor are the NMIs that wait at KVM's local APIC, where others may send one at any moment:
     * kvm_take_nmi() has them out. */
    kv->ks.events.flags =
        KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_PAYLOAD |
        (kv->vm->kernel_apic ? 0 : KVM_VCPUEVENT_VALID_NMI_PENDING) |
        (smm ? KVM_VCPUEVENT_VALID_SMM : 0) |
        (h->cap[CAP_X86_TRIPLE_FAULT_EVENT] ? KVM_VCPUEVENT_VALID_TRIPLE_FAULT : 0);
}

bool kvm_take_nmi(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    struct kvm_vcpu_events e;
    if (ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &e) < 0)
        return kvm_error(err, "KVM_GET_VCPU_EVENTS");
    if (!e.nmi.pending)
        return true;
    e.nmi.pending = 0;
    e.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
    kv->held &= ~(unsigned)GRP_EVENTS;
    kv->synced = false;
    if (ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &e) < 0)
        return kvm_error(err, "KVM_SET_VCPU_EVENTS");
    vcpu_request(v, VREQ_NMI);
    return true;
}

/* ---- TSC ---- */

static bool tsc_attr(KvmVcpu *kv, bool set, uint64_t *offset)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
    return ioctl(kv->fd, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR, &a) == 0;
}

static bool tsc_msr(KvmVcpu *kv, uint64_t offset)
{
    uint64_t value = __rdtsc() + offset;
    return kvm_one_msr(kv->fd, KVM_SET_MSRS, 0x10, &value);
}

enum { MSR_TSC_ADJUST = 0x3b, MSR_TSC_DEADLINE = 0x6e0 };

static bool put_tsc(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    uint64_t offset = v->st.tsc_offset;

    if (kv->vm->host->tsc == TSC_FIXED)
        return true;
    if (!(kv->vm->host->tsc == TSC_ATTR ? tsc_attr(kv, true, &offset) : tsc_msr(kv, offset)))
        return kvm_error(err, "setting the TSC offset");
    kv->tsc_offset = v->st.tsc_offset;
    if (!kv->vm->host->tsc_exact &&
        !kvm_one_msr(kv->fd, KVM_GET_MSRS, MSR_TSC_ADJUST, &kv->tsc_adjust))
        return kvm_error(err, "reading TSC_ADJUST");
    return true;
}

static bool get_tsc(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    uint64_t offset = 0, adjust = 0;

    if (kv->vm->host->tsc == TSC_FIXED) {
        v->st.tsc_offset = 0;
        return true;
    }
    if (kv->vm->host->tsc_exact) {
        if (!tsc_attr(kv, false, &offset))
            return kvm_error(err, "reading the TSC offset");
    } else {
        /* KVM's own value is off by what its reading, or its following an unstable clock, takes,
         * which would add up to a drift over many switches. What the guest did to its TSC shows
         * exactly in TSC_ADJUST (SDM vol. 3, 18.17.3), whether it wrote that or the TSC itself. */
        if (!kvm_one_msr(kv->fd, KVM_GET_MSRS, MSR_TSC_ADJUST, &adjust))
            return kvm_error(err, "reading TSC_ADJUST");
        offset = kv->tsc_offset + adjust - kv->tsc_adjust;
        kv->tsc_adjust = adjust;
    }
    kv->tsc_offset = v->st.tsc_offset = offset;
    return true;
}

/* ---- MSRs ---- */

static uint64_t *msr_home(CpuState *s, const MsrRow *row)
{
    return (uint64_t *)(void *)((char *)s + row->offset);
}

/* From kept_msr; and those of the local APIC here. */
static void msrs_to_cpu(Vcpu *v)
{
    const KvmVcpu *kv = kvm_of(v);
    const KvmVm *kvm = kv->vm;
    for (unsigned i = 0; i < kvm->n_msrs; i++) {
        const MsrRow *row = &kvm_msr_rows[kvm->msr[i]];
        uint64_t *home = msr_home(&v->st, row), value = kv->kept_msr[i];
        /* The upper half that KVM does not keep is still here, unless the guest wrote anew. */
        bool half = kvm->sysenter32 && (row->index == 0x175 || row->index == 0x176);
        if (!half || (uint32_t)*home != value)
            *home = value;
    }
    for (unsigned i = 0; i < kvm_msr_rows_n && !kvm->kernel_apic; i++) {
        uint64_t value;
        if (kvm_msr_rows[i].policy == MSRP_APIC && !kvm_msr_rows[i].is_const &&
            v->vm->bus->apic_msr_read(v, kvm_msr_rows[i].index, &value))
            *msr_home(&v->st, &kvm_msr_rows[i]) = value;
    }
}

static bool get_msrs(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    const KvmVm *kvm = kv->vm;

    kv->msrs->nmsrs = kvm->n_msrs;
    for (unsigned i = 0; i < kvm->n_msrs; i++)
        kv->msrs->entries[i] = (struct kvm_msr_entry){.index = kvm_msr_rows[kvm->msr[i]].index};
    if (kvm->kernel_apic) { /* shown, not moved: it goes with the local APIC (irqchip.c) */
        kv->msrs->entries[kvm->n_msrs] = (struct kvm_msr_entry){.index = MSR_TSC_DEADLINE};
        kv->msrs->nmsrs += cpuid_has(v->vm->cpuid, FEAT_TSC_DEADLINE);
    }
    int n = ioctl(kv->fd, KVM_GET_MSRS, kv->msrs);
    if (n < 0)
        return kvm_error(err, "KVM_GET_MSRS");
    if (n < (int)kvm->n_msrs) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "KVM does not give MSR %s",
                    kvm_msr_rows[kvm->msr[n]].name);
        return false;
    }
    for (unsigned i = 0; i < kvm->n_msrs; i++)
        kv->kept_msr[i] = kv->msrs->entries[i].data;
    if (kvm->kernel_apic)
        v->st.msr.tsc_deadline = kv->msrs->entries[kvm->n_msrs].data;
    msrs_to_cpu(v);
    return get_tsc(v, err);
}

static bool put_msrs(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    const KvmVm *kvm = kv->vm;
    bool held = kv->held & GRP_MSRS, adjusted = false;
    unsigned n = 0;

    for (unsigned i = 0; i < kvm->n_msrs; i++) {
        const MsrRow *row = &kvm_msr_rows[kvm->msr[i]];
        uint64_t value = *msr_home(&v->st, row);
        if (held && kv->kept_msr[i] == value)
            continue;
        adjusted = adjusted || row->index == MSR_TSC_ADJUST;
        kv->msrs->entries[n++] = (struct kvm_msr_entry){.index = row->index, .data = value};
        kv->kept_msr[i] = value;
    }
    kv->msrs->nmsrs = n;
    int done = n ? ioctl(kv->fd, KVM_SET_MSRS, kv->msrs) : 0;
    if (done < 0)
        return kvm_error(err, "KVM_SET_MSRS");
    if (done < (int)n) {
        const struct kvm_msr_entry *e = &kv->msrs->entries[done];
        const char *name = "";
        for (unsigned i = 0; i < kvm->n_msrs; i++)
            if (kvm_msr_rows[kvm->msr[i]].index == e->index)
                name = kvm_msr_rows[kvm->msr[i]].name;
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "KVM refuses MSR %s = %#llx", name, e->data);
        return false;
    }
    if (held && v->st.tsc_offset == kv->tsc_offset && !adjusted)
        return true;
    return put_tsc(v, err); /* last: it notes TSC_ADJUST as it is now */
}

/* ---- all groups ---- */

typedef struct GroupRow {
    unsigned group;
    const char *get_name, *set_name;
    unsigned long get, set;
    uint8_t get_rank, put_rank;
} GroupRow;

static const GroupRow group_rows[] = {
#define GROUP(id, get, set, get_rank, put_rank, why) \
    {GRP_##id, #get, #set, get, set, get_rank, put_rank},
#include "vmstate/groups.def"
};

static void *ks_of(KvmState *ks, unsigned group, size_t *size)
{
#define KS(g, member)               \
    case g:                         \
        *size = sizeof(ks->member); \
        return &ks->member;
    switch (group) {
        KS(GRP_REGS, regs)
        KS(GRP_SREGS, sregs)
        KS(GRP_XCRS, xcrs)
        KS(GRP_DEBUGREGS, debugregs)
        KS(GRP_EVENTS, events)
        KS(GRP_MP_STATE, mp_state)
    default:
        *size = 0;
        return NULL;
    }
#undef KS
}

/* The vCPU's group is now as in kv->ks and v->st. MSRs are noted by get_msrs() and put_msrs(). */
static void keep(Vcpu *v, unsigned group)
{
    KvmVcpu *kv = kvm_of(v);
    size_t size;
    const void *is = ks_of(&kv->ks, group, &size);
    if (is)
        memcpy(ks_of(&kv->kept, group, &size), is, size);
    else if (group == GRP_FPU)
        kv->kept_fpu = v->st.fpu;
    kv->held |= group;
}

/* Nothing is on its way into the guest. */
static bool events_idle(const struct kvm_vcpu_events *e)
{
    return !(e->exception.injected | e->exception.pending | e->interrupt.injected |
             e->nmi.injected | e->nmi.pending | e->smi.pending | e->triple_fault.pending);
}

/* Then REGS and SREGS, which go in before, leave no event behind that was not there; but a KVM that
 * has no paging outside long mode asks itself for a triple fault when that is loaded. */
static bool same_idle_events(const KvmVcpu *kv)
{
    struct kvm_vcpu_events is = kv->kept.events;
    if (kv->ks.sregs.cr0 & CR0_PG && !(kv->ks.sregs.efer & EFER_LMA))
        return false;
    is.flags = kv->ks.events.flags;
    return events_idle(&kv->ks.events) && !memcmp(&is, &kv->ks.events, sizeof(is));
}

/* Does KVM's vCPU hold what is about to be put there? REGS is never the same, SREGS makes KVM
 * forget translations. */
static bool is_held(Vcpu *v, unsigned group)
{
    KvmVcpu *kv = kvm_of(v);
    size_t size;
    if (!(kv->held & group) || group & (GRP_REGS | GRP_SREGS | GRP_MSRS))
        return false;
    if (group == GRP_EVENTS)
        return same_idle_events(kv);
    if (group == GRP_FPU)
        return !memcmp(&kv->kept_fpu, &v->st.fpu, sizeof(kv->kept_fpu));
    const void *is = ks_of(&kv->ks, group, &size);
    return !memcmp(is, ks_of(&kv->kept, group, &size), size);
}

/* From kvm_run, where KVM has left it. False: it is not there, or not all of it. */
static bool get_synced(KvmVcpu *kv, unsigned group)
{
    const struct kvm_sync_regs *from = &kv->run->s.regs;
    /* With its local APIC in KVM others may have sent it an NMI since. */
    if (!kv->synced || (group == GRP_EVENTS && kv->vm->kernel_apic))
        return false;
    switch (group) {
    case GRP_REGS:
        kv->ks.regs = from->regs;
        return true;
    case GRP_SREGS: /* without the four pointers of PAE paging */
        if (from->sregs.cr0 & CR0_PG && !(from->sregs.efer & EFER_LMA) && from->sregs.cr4 & CR4_PAE)
            return false;
        memset(&kv->ks.sregs, 0, sizeof(kv->ks.sregs));
        memcpy(&kv->ks.sregs, &from->sregs, offsetof(struct kvm_sregs2, flags));
        return true;
    case GRP_EVENTS:
        kv->ks.events = from->events;
        return true;
    default:
        return false;
    }
}

/* What was read or written last. */
static void get_held(Vcpu *v, unsigned group)
{
    KvmVcpu *kv = kvm_of(v);
    size_t size;
    void *to = ks_of(&kv->ks, group, &size);
    if (to) {
        memcpy(to, ks_of(&kv->kept, group, &size), size);
    } else if (group == GRP_FPU) {
        v->st.fpu = kv->kept_fpu;
    } else {
        msrs_to_cpu(v);
        v->st.tsc_offset = kv->tsc_offset;
    }
}

static bool get_group(Vcpu *v, const GroupRow *row, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    size_t size;
    if (get_synced(kv, row->group))
        return true;
    switch (row->group) {
    case GRP_MP_STATE:
        /* Without a local APIC there KVM knows of nothing else, and takes nothing else. */
        kv->ks.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        return !kv->vm->kernel_apic || ioctl(kv->fd, row->get, &kv->ks.mp_state) == 0 ||
               kvm_error(err, row->get_name);
    case GRP_SREGS:
        return sregs_ioctl(kv, false) == 0 || kvm_error(err, row->get_name);
    case GRP_FPU:
        return get_fpu(v, err);
    case GRP_MSRS:
        return get_msrs(v, err);
    default:
        return ioctl(kv->fd, row->get, ks_of(&kv->ks, row->group, &size)) == 0 ||
               kvm_error(err, row->get_name);
    }
}

bool kvm_regs_settle(KvmVcpu *kv)
{
    if (!kv->regs_wait)
        return true;
    kv->regs_wait = false;
    kv->run->kvm_dirty_regs = 0;
    return ioctl(kv->fd, KVM_SET_REGS, &kv->run->s.regs.regs) == 0;
}

/* KVM_RUN takes them from where they lie, as it begins, without an ioctl of their own. It drops an
 * exception that is pending, as KVM_SET_REGS does. */
static bool leave_regs(KvmVcpu *kv, unsigned groups)
{
    if ((groups & GROUPS_ALL) != GROUPS_ALL || kv->ks.events.exception.pending ||
        !(kv->vm->host->cap[CAP_SYNC_REGS] & KVM_SYNC_X86_REGS))
        return false;
    kv->run->s.regs.regs = kv->ks.regs;
    kv->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    kv->regs_wait = true;
    return true;
}

static bool put_group(Vcpu *v, const GroupRow *row, unsigned groups, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    size_t size;
    switch (row->group) {
    case GRP_REGS:
        return leave_regs(kv, groups) || ioctl(kv->fd, KVM_SET_REGS, &kv->ks.regs) == 0 ||
               kvm_error(err, row->set_name);
    case GRP_SREGS:
        return put_sregs(v, groups & GRP_KNOWN, err);
    case GRP_FPU:
        return put_fpu(v, err);
    case GRP_MSRS:
        return put_msrs(v, err);
    default:
        return ioctl(kv->fd, row->set, ks_of(&kv->ks, row->group, &size)) == 0 ||
               kvm_error(err, row->set_name);
    }
}

/* With local APICs of its own KVM knows what a vCPU waits for. After a reset it has had its INIT.
 */
static enum RunState run_state_of(uint32_t mp_state)
{
    switch (mp_state) {
    case KVM_MP_STATE_HALTED:
        return RUN_HALTED;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
    case KVM_MP_STATE_SIPI_RECEIVED:
        return RUN_WAIT_SIPI;
    default:
        return RUN_RUNNING;
    }
}

static uint32_t mp_state_of(enum RunState s)
{
    switch (s) {
    case RUN_HALTED:
        return KVM_MP_STATE_HALTED;
    case RUN_WAIT_SIPI:
    case RUN_INIT_RECEIVED:
        return KVM_MP_STATE_INIT_RECEIVED;
    default: /* who is stopped by a shutdown is not let in */
        return KVM_MP_STATE_RUNNABLE;
    }
}

bool kvm_export(Vcpu *v, unsigned groups, GError **err)
{
    KvmVcpu *kv = kvm_of(v);

    if (!kvm_drain(v, err))
        return false;
    /* Others may have done something to a vCPU whose local APIC is KVM's. */
    unsigned known = groups & GRP_KNOWN && !kv->vm->kernel_apic ? kv->held : 0;
    if (!(known & GRP_REGS) && !kvm_regs_settle(kv))
        return kvm_error(err, "KVM_SET_REGS");
    for (unsigned rank = 0; rank < ARRAY_LEN(group_rows); rank++) {
        for (unsigned i = 0; i < ARRAY_LEN(group_rows); i++) {
            const GroupRow *row = &group_rows[i];
            if (row->get_rank != rank || !(groups & row->group))
                continue;
            if (known & row->group)
                get_held(v, row->group);
            else if (!get_group(v, row, err))
                return false;
        }
    }
    kvm_state_to_cpu(&kv->ks, &v->st, groups);
    for (unsigned i = 0; i < ARRAY_LEN(group_rows); i++)
        if (groups & group_rows[i].group & ~known)
            keep(v, group_rows[i].group);
    if (groups & GRP_SREGS && kv->vm->kernel_apic)
        v->st.msr.apic_base = kv->ks.sregs.apic_base;
    else if (groups & GRP_SREGS)
        v->st.cr8 = v->vm->bus->tpr_get(v);
    if (groups & GRP_MP_STATE && kv->vm->kernel_apic)
        v->st.run_state = run_state_of(kv->ks.mp_state.mp_state);
    if (groups & GRP_EVENTS && kv->vm->kernel_apic)
        v->st.ev.nmi.pending = false; /* it stays where it waits */
    return true;
}

/*
 * KVM_RUN's outputs that say whether an interrupt can be injected, for the state that went in: an
 * interrupt that waits is then taken before any instruction, as it must be when it ended a HLT.
 */
static void injection_flags(const Vcpu *v, unsigned groups)
{
    const unsigned all = GRP_REGS | GRP_EVENTS;
    const Events *e = &v->st.ev;
    bool open = (groups & all) == all && v->st.rflags & FL_IF;
    kvm_of(v)->run->if_flag = open;
    kvm_of(v)->run->ready_for_interrupt_injection =
        open && !e->shadow_sti && !e->shadow_mov_ss && !e->exception.pending &&
        !e->exception.injected && !e->interrupt.injected && !e->nmi.pending && !e->nmi.injected &&
        !kvm_of(v)->vm->kernel_apic;
}

bool kvm_import(Vcpu *v, unsigned groups, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    /* KVM_SET_REGS drops pending exceptions. Whoever sets registers alone does not mean that. */
    bool keep_events = groups & GRP_REGS && !(groups & GRP_EVENTS);
    bool all = (groups & GROUPS_ALL) == GROUPS_ALL;

    if (!all && !kvm_regs_settle(kv))
        return kvm_error(err, "KVM_SET_REGS");
    if (keep_events) {
        if (ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &kv->ks.events) < 0)
            return kvm_error(err, "KVM_GET_VCPU_EVENTS");
        if (kv->vm->kernel_apic)
            kv->ks.events.flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_NMI_PENDING;
    }
    /* What was half done belongs to the state that is being replaced, and so do registers that wait
     * for a KVM_RUN. */
    if (all) {
        if (!kvm_drain(v, err))
            return false;
        kv->regs_wait = false;
        kv->run->kvm_dirty_regs = 0;
    }
    if (groups & GRP_EVENTS && (v->st.ev.smi.active || v->st.ev.smi.pending) &&
        !kv->vm->host->cap[CAP_X86_SMM]) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "this host's KVM has no system-management mode (KVM_CAP_X86_SMM), and an SMI "
                    "is %s",
                    v->st.ev.smi.active ? "being handled" : "pending");
        return false;
    }
    kvm_state_from_cpu(&kv->ks, &v->st, groups);
    if (groups & GRP_MP_STATE && kv->vm->kernel_apic)
        kv->ks.mp_state.mp_state = mp_state_of(v->st.run_state);
    if (groups & GRP_EVENTS)
        event_flags(kv);
    kv->synced = false;
    unsigned held = kv->held;
    kv->held = 0; /* of what fails half way, nothing is known */
    for (unsigned rank = 0; rank < ARRAY_LEN(group_rows); rank++) {
        for (unsigned i = 0; i < ARRAY_LEN(group_rows); i++) {
            const GroupRow *row = &group_rows[i];
            if (row->put_rank != rank || !(groups & row->group))
                continue;
            kv->held = held;
            bool same = is_held(v, row->group), ok = same || put_group(v, row, groups, err);
            kv->held = 0;
            if (!ok)
                return false;
            if (!same)
                keep(v, row->group);
            held |= row->group;
        }
    }
    kv->held = held;
    if (keep_events && ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &kv->ks.events) < 0)
        return kvm_error(err, "KVM_SET_VCPU_EVENTS");
    if (groups & GRP_EVENTS && kv->vm->kernel_apic && v->st.ev.nmi.pending) {
        v->st.ev.nmi.pending = false;
        vcpu_request(v, VREQ_NMI); /* it goes to KVM's local APIC, as others do */
    }
    injection_flags(v, groups);
    return true;
}
