/*
 * SMIs at KVM's local APICs. This machine has no system-management mode: an SMI that comes to the
 * local APICs here is ignored. KVM's take one, as a processor does: registers are saved at SMBASE,
 * and the handler there runs. For that KVM has a second address space, in which we have put
 * no memory. Linux before 6.2 then runs what is not there, for ever; since then the whole VM is
 * dead, with the state of all vCPUs, and KVM_RUN says EIO. A guest needs no privilege but to
 * write its own local APIC for it.
 *
 * So each vCPU gets 64 KiB in that address space, with a handler that just goes back (RSM), as a
 * PC's firmware has one that finds nothing to do. The guest's own memory stays out of it.
 */
#include "kvm/kvm_priv.h"

#include <sys/mman.h>

#define HANDLER 0x8000u
#define IN_SMM  (1u << 16) /* of a slot's number: which address space */

bool kvm_smram_init(KvmVm *kvm, unsigned n_vcpus, GError **err)
{
    uint64_t size = CPU_SMBASE_SIZE * n_vcpus;
    if (!kvm->kernel_apic || !kvm->host->cap[CAP_X86_SMM] || CPU_SMBASE + size > 0xfee00000 ||
        ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
        return true;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (at == MAP_FAILED)
        return kvm_error(err, "mmap (for KVM's system-management mode)");
    kvm->smram = at;
    kvm->smram_size = size;
    for (unsigned i = 0; i < n_vcpus; i++) /* the machine gives each vCPU its own SMBASE */
        memcpy(kvm->smram + i * CPU_SMBASE_SIZE + HANDLER, "\x0f\xaa", 2); /* rsm */
    struct kvm_userspace_memory_region r = {.slot = IN_SMM,
                                            .guest_phys_addr = CPU_SMBASE,
                                            .memory_size = size,
                                            .userspace_addr = (uintptr_t)at};
    return ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &r) == 0 ||
           kvm_error(err, "KVM_SET_USER_MEMORY_REGION (for its system-management mode)");
}

void kvm_smram_free(KvmVm *kvm)
{
    if (kvm->smram)
        munmap(kvm->smram, kvm->smram_size);
}
