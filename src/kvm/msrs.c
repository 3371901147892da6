/*
 * MSRs: which of the table KVM keeps, and answers for those it does not.
 *
 * KVM keeps what it needs to run the guest or checks by itself. Constants, read-only and ignored
 * registers are answered from CpuState here, and so is any row this host's KVM has never heard of:
 * a guest sees the same registers in either engine.
 */
#include "kvm/kvm_priv.h"
#include "cpu/pv.h"

#include <errno.h>
#include <string.h>

const MsrRow kvm_msr_rows[] = {
#define MSR(idx, id, member, nm, pol, feat) \
    {.index = idx,                          \
     .offset = offsetof(CpuState, member),  \
     .policy = MSRP_##pol,                  \
     .feature = feat,                       \
     .name = nm},
#define MSR_ALIAS(idx, id, member, nm, pol, feat) \
    {.index = idx,                                \
     .offset = offsetof(CpuState, member),        \
     .policy = MSRP_##pol,                        \
     .feature = feat,                             \
     .is_alias = true,                            \
     .name = nm},
#define MSR_CONST(idx, id, val, nm, feat) \
    {.index = idx, .feature = feat, .is_const = true, .value = val, .name = nm},
#include "vmstate/msrs.def"
};
const unsigned kvm_msr_rows_n = ARRAY_LEN(kvm_msr_rows);
_Static_assert(ARRAY_LEN(kvm_msr_rows) <= MSR_ROWS_MAX, "MSR_ROWS_MAX");

enum {
    APIC_BASE = 0x1b,
    FEATURE_CONTROL = 0x3a,
    SYSENTER_ESP = 0x175,
    AMD_CONFIG = 0xc001,
    TSC_DEADLINE = 0x6e0,
    X2APIC_FIRST = 0x800,
    X2APIC_LAST = 0x8ff
};

bool kvm_msr_in_kernel(const MsrRow *row)
{
    if (row->is_const || row->is_alias)
        return false;
    /* KVM needs FEATURE_CONTROL for VMX and SMX alone, which no guest is offered, and some refuse
     * the lock bit that kernels set in it. Of AMD's configuration registers it takes few values. */
    if (row->index == FEATURE_CONTROL || row->index >> 16 == AMD_CONFIG)
        return false;
    switch ((enum MsrPolicy)row->policy) {
    case MSRP_APIC:
    case MSRP_KVM_WALL: /* KVM would write the structure at every import */
    case MSRP_READONLY:
    case MSRP_IGNORED:
        return false;
    default:
        return true;
    }
}

/* Registers every KVM knows but leaves out of KVM_GET_MSR_INDEX_LIST. */
static bool never_listed(const MsrRow *row)
{
    return row->policy >= MSRP_MTRR_DEF && row->policy <= MSRP_MC_STATUS;
}

static struct kvm_msr_list *index_list(const KvmHost *h, GError **err)
{
    struct kvm_msr_list head = {0}, *list;

    if (ioctl(h->dev, KVM_GET_MSR_INDEX_LIST, &head) < 0 && errno != E2BIG) {
        kvm_error(err, "KVM_GET_MSR_INDEX_LIST");
        return NULL;
    }
    list = g_malloc0(sizeof(head) + head.nmsrs * sizeof(list->indices[0]));
    list->nmsrs = head.nmsrs;
    if (ioctl(h->dev, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        kvm_error(err, "KVM_GET_MSR_INDEX_LIST");
        g_free(list);
        return NULL;
    }
    return list;
}

static bool listed(const struct kvm_msr_list *list, uint32_t index)
{
    for (uint32_t i = 0; i < list->nmsrs; i++)
        if (list->indices[i] == index)
            return true;
    return false;
}

static bool offered(const Vcpu *v, unsigned feature)
{
    return feature == FEAT_N || cpuid_has(v->vm->cpuid, (enum CpuFeature)feature);
}

/* Can it be read, and written with what was read? (The list alone is not to be believed, nor, with
 * kvm.ignore_msrs, is the reading.) */
static bool moves(const KvmVcpu *kv, uint32_t index)
{
    uint64_t value = 0;
    return kvm_one_msr(kv->fd, KVM_GET_MSRS, index, &value) &&
           kvm_one_msr(kv->fd, KVM_SET_MSRS, index, &value);
}

/* AMD has no SYSENTER in long mode, and KVM gives a guest of that vendor the low halves alone. */
static bool halves_sysenter(const KvmVcpu *kv)
{
    uint64_t old = 0, value = 0xffff800000001000ull;
    bool half = kvm_one_msr(kv->fd, KVM_GET_MSRS, SYSENTER_ESP, &old) &&
                kvm_one_msr(kv->fd, KVM_SET_MSRS, SYSENTER_ESP, &value) &&
                kvm_one_msr(kv->fd, KVM_GET_MSRS, SYSENTER_ESP, &value) && value == 0x1000;
    kvm_one_msr(kv->fd, KVM_SET_MSRS, SYSENTER_ESP, &old);
    return half;
}

bool kvm_find_msrs(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    KvmVm *kvm = kv->vm;
    bool ok = true;

    g_mutex_lock(&kvm->lock);
    if (!kvm->msrs_known) {
        struct kvm_msr_list *list = index_list(kvm->host, err);
        ok = list != NULL;
        for (unsigned i = 0; ok && i < kvm_msr_rows_n; i++) {
            const MsrRow *row = &kvm_msr_rows[i];
            if (kvm_msr_in_kernel(row) && offered(v, row->feature) &&
                row->policy != MSRP_TSC_OFFSET && (never_listed(row) || listed(list, row->index)) &&
                moves(kv, row->index))
                kvm->msr[kvm->n_msrs++] = (uint8_t)i;
        }
        kvm->sysenter32 = ok && halves_sysenter(kv);
        kvm->msrs_known = ok;
        g_free(list);
    }
    g_mutex_unlock(&kvm->lock);
    return ok;
}

static const MsrRow *find_row(uint32_t index)
{
    for (unsigned i = 0; i < kvm_msr_rows_n; i++)
        if (kvm_msr_rows[i].index == index)
            return &kvm_msr_rows[i];
    return NULL;
}

static bool kept_by_kvm(const KvmVm *kvm, const MsrRow *row)
{
    for (unsigned i = 0; i < kvm->n_msrs; i++)
        if (&kvm_msr_rows[kvm->msr[i]] == row)
            return true;
    return row->is_alias || row->policy == MSRP_TSC_OFFSET;
}

static bool acceptable(const MsrRow *row, uint64_t value)
{
    switch ((enum MsrPolicy)row->policy) {
    case MSRP_LOW32:
        return value <= UINT32_MAX;
    case MSRP_CANONICAL:
        return (uint64_t)((int64_t)value >> 47) + 1 <= 1;
    case MSRP_ZERO:
    case MSRP_MC_STATUS:
        return value == 0;
    case MSRP_MC_CTL:
        return value == 0 || value == UINT64_MAX;
    case MSRP_READONLY:
    case MSRP_HIDDEN:
        return false;
    default:
        return true;
    }
}

/* KVM uses the base for the APIC bit of CPUID, and to know whether x2APIC is on. */
static bool tell_apic_base(KvmVcpu *kv, uint64_t value)
{
    return kvm_one_msr(kv->fd, KVM_SET_MSRS, APIC_BASE, &value);
}

static bool apic_msr(Vcpu *v, uint32_t index, bool write, uint64_t *value)
{
    if (index >= X2APIC_FIRST && index <= X2APIC_LAST) {
        if (!offered(v, FEAT_X2APIC))
            return false;
    } else if (!offered(v, index == TSC_DEADLINE ? FEAT_TSC_DEADLINE : FEAT_APIC)) {
        return false;
    }
    if (kvm_of(v)->vm->kernel_apic) /* which has judged it to be wrong */
        return false;
    if (!write)
        return v->vm->bus->apic_msr_read(v, index, value);
    if (!v->vm->bus->apic_msr_write(v, index, *value))
        return false;
    return index != APIC_BASE || tell_apic_base(kvm_of(v), *value);
}

/* False: #GP. */
static bool access_msr(Vcpu *v, uint32_t index, bool write, uint64_t *value)
{
    const MsrRow *row = find_row(index);
    uint64_t *home;

    if (index == APIC_BASE || index == TSC_DEADLINE ||
        (index >= X2APIC_FIRST && index <= X2APIC_LAST))
        return apic_msr(v, index, write, value);
    if (!row || row->policy == MSRP_HIDDEN || !offered(v, row->feature))
        return false;
    if (row->is_const) {
        *value = row->value;
        return !write;
    }
    home = (uint64_t *)(void *)((char *)&v->st + row->offset);
    if (row->policy == MSRP_KVM_WALL) {
        if (!write) {
            *value = *home;
        } else {
            *home = *value;
            pv_wall_clock_write(v);
        }
        return true;
    }
    /* It is out here because KVM judged the access, or a value, to be wrong. */
    if (kept_by_kvm(kvm_of(v)->vm, row))
        return false;
    if (!write) {
        *value = *home;
        return true;
    }
    if (!acceptable(row, *value) || (index == FEATURE_CONTROL && *home & 1 /* locked */))
        return false;
    if (row->policy != MSRP_IGNORED)
        *home = *value;
    return true;
}

void kvm_msr_exit(Vcpu *v)
{
    struct kvm_run *run = kvm_of(v)->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    uint64_t value = run->msr.data;
    bool ok = access_msr(v, run->msr.index, write, &value);

    if (!ok && log_on(LOG_GUEST_ERROR))
        log_line("cpu %d: %s of MSR %#x raises #GP", v->id, write ? "write" : "read",
                 run->msr.index);
    if (!write)
        run->msr.data = value;
    run->msr.error = !ok;
}
