/* KVM's paravirtual clock: KVM_GET_CLOCK and KVM_SET_CLOCK. */
#include "kvm/kvm_priv.h"

#include <x86intrin.h>

bool kvm_clock_get(VmCommon *vm, struct PvLine *out, GError **err)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_clock_data c = {.clock = 0};
    uint64_t before = __rdtsc();
    if (ioctl(kvm->fd, KVM_GET_CLOCK, &c) < 0)
        return kvm_error(err, "KVM_GET_CLOCK");
    uint64_t after = __rdtsc();
    bool exact = c.flags & KVM_CLOCK_TSC_STABLE && c.flags & KVM_CLOCK_HOST_TSC;
    *out = (struct PvLine){
        .tsc = c.flags & KVM_CLOCK_HOST_TSC ? c.host_tsc : before + (after - before) / 2,
        .ns = c.clock,
        .exact = exact,
    };
    return true;
}

bool kvm_clock_set(VmCommon *vm, uint64_t ns, GError **err)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_clock_data c = {.clock = ns};
    return ioctl(kvm->fd, KVM_SET_CLOCK, &c) == 0 || kvm_error(err, "KVM_SET_CLOCK");
}
