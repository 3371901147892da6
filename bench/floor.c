/*
 * The least a switch can cost on this host: the ioctls that read a vCPU's whole state, or write it,
 * and nothing else. Prints, in microseconds, the median and the 99th percentile of each: get P50
 * P99 set P50 P99 slot P50 P99 ioctl P50 P99. The rows are those of src/vmstate/groups.def, and the
 * MSRs those of msrs.def that this KVM lets itself be asked for. "slot" moves a memory slot, which
 * is what it takes to have a KVM drop page tables of its own; "ioctl" reads the general registers.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { ROUNDS = 3000, MSRS_MAX = 256 };

#define GROUP(id, get, set, get_rank, put_rank, why) I_##id,
enum Id {
#include "vmstate/groups.def"
    ID_N
};

static int vcpu;
static union {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    uint8_t xsave[16384];
} state[ID_N];
static struct {
    struct kvm_msrs head;
    struct kvm_msr_entry entry[MSRS_MAX];
} msrs, one;

static void add_msr(uint32_t index)
{
    one.head.nmsrs = 1;
    one.entry[0] = (struct kvm_msr_entry){.index = index};
    if (msrs.head.nmsrs < MSRS_MAX && ioctl(vcpu, KVM_GET_MSRS, &one) == 1 &&
        ioctl(vcpu, KVM_SET_MSRS, &one) == 1)
        msrs.entry[msrs.head.nmsrs++] = one.entry[0];
}

static void add_msrs(void)
{
#define MSR(index, id, member, name, policy, feature) add_msr(index);
#include "vmstate/msrs.def"
}

static int do_ioctl(enum Id id, unsigned long request)
{
    return ioctl(vcpu, request, id == I_MSRS ? (void *)&msrs : (void *)&state[id]);
}

static void all(int set)
{
#define GROUP(id, g, s, get_rank, put_rank, why)              \
    if (do_ioctl(I_##id, set ? (s) : (g)) < 0) {              \
        fprintf(stderr, "floor: %s failed\n", set ? #s : #g); \
        exit(1);                                              \
    }
#include "vmstate/groups.def"
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void move_slot(int vm, int place)
{
    static char page[4096] __attribute__((aligned(4096)));
    struct kvm_userspace_memory_region r = {.slot = 1,
                                            .guest_phys_addr = (uint64_t)(place + 1) << 32,
                                            .memory_size = sizeof(page),
                                            .userspace_addr = (uintptr_t)page};
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) < 0) {
        perror("floor: KVM_SET_USER_MEMORY_REGION");
        exit(1);
    }
}

int main(void)
{
    static const char *const name[] = {"get", "set", "slot", "ioctl"};
    static uint64_t ns[4][ROUNDS];
    struct kvm_regs regs;
    int dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int vm = dev < 0 ? -1 : ioctl(dev, KVM_CREATE_VM, 0);
    vcpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    if (vcpu < 0) {
        perror("floor: /dev/kvm");
        return 77;
    }
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[256];
    } cpuid = {.head.nent = 256};
    if (ioctl(dev, KVM_GET_SUPPORTED_CPUID, &cpuid) < 0 ||
        ioctl(vcpu, KVM_SET_CPUID2, &cpuid) < 0) {
        perror("floor: CPUID");
        return 1;
    }
    add_msrs();
    for (int round = -50; round < ROUNDS; round++) {
        for (int set = 0; set < 2; set++) {
            uint64_t begun = now();
            all(set);
            if (round >= 0)
                ns[set][round] = now() - begun;
        }
        uint64_t begun = now();
        move_slot(vm, round & 1);
        uint64_t moved = now();
        ioctl(vcpu, KVM_GET_REGS, &regs);
        if (round >= 0) {
            ns[2][round] = moved - begun;
            ns[3][round] = now() - moved;
        }
    }
    for (int i = 0; i < 4; i++) {
        qsort(ns[i], ROUNDS, sizeof(ns[i][0]), by_size);
        printf("%s %.2f %.2f\n", name[i], (double)ns[i][ROUNDS / 2] / 1e3,
               (double)ns[i][ROUNDS * 99 / 100] / 1e3);
    }
    return 0;
}
