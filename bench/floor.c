/*
 * The least a switch can cost on this host: the ioctls that read a vCPU's whole state, or write it,
 * and nothing else. Prints, in microseconds, the median and the 99th percentile of each: get P50
 * P99 set P50 P99 slot P50 P99 ioctl P50 P99. The rows are those of src/vmstate/groups.def, and the
 * MSRs those of msrs.def that this KVM lets itself be asked for. "slot" moves a memory slot, which
 * is what it takes to have a KVM drop page tables of its own; "ioctl" reads the general registers.
 *
 * One round follows the other, so all that is hot: the processor's caches, its TLB, its branches.
 * With a ROM as argument (64 KiB, for the top of 4 GiB; RAM is MIB from 0) there are two more:
 * "get-behind" once the guest has run for a millisecond, and "set-behind" once this program has for
 * as long, storing to the same pages: what else a switch then finds is in use by something else.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 3000, BEHIND = 1000, MSRS_MAX = 256, MIB = 16 };

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

/* ---- behind a millisecond ---- */

static uint8_t *ram;
static struct kvm_run *run;
static timer_t timer;

/* Also if it comes before the guest has been entered. */
static void on_signal(int sig)
{
    run->immediate_exit = 1;
}

static int add_slot(int vm, unsigned slot, uint64_t gpa, uint64_t size, void *host)
{
    struct kvm_userspace_memory_region r = {.slot = slot,
                                            .guest_phys_addr = gpa,
                                            .memory_size = size,
                                            .userspace_addr = (uintptr_t)host};
    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static int set_up_guest(int dev, int vm, const char *path)
{
    const size_t rom_size = 65536, size = (size_t)MIB << 20;
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *rom = mmap(NULL, rom_size, prot, flags, -1, 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ram = mmap(NULL, size, prot, flags, -1, 0);
    if (fd < 0 || rom == MAP_FAILED || ram == MAP_FAILED || read(fd, rom, rom_size) != 65536)
        return -1;
    /* The ROM is below 1 MiB as well, as on a PC. */
    if (add_slot(vm, 2, 0, 0xf0000, ram) < 0 || add_slot(vm, 3, 0xf0000, rom_size, rom) < 0 ||
        add_slot(vm, 4, 0x100000, size - 0x100000, ram + 0x100000) < 0 ||
        add_slot(vm, 5, 0xffff0000, rom_size, rom) < 0)
        return -1;
    int bytes = ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    run = bytes < 0 ? MAP_FAILED : mmap(NULL, (size_t)bytes, prot, MAP_SHARED, vcpu, 0);
    struct sigaction sa = {.sa_handler = on_signal};
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (run == MAP_FAILED || sigaction(SIGUSR1, &sa, NULL) < 0 ||
        timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0)
        return -1;
    return close(fd);
}

static void guest_runs(void)
{
    struct itimerspec t = {.it_value = {.tv_nsec = 1000000}};
    run->immediate_exit = 0;
    timer_settime(timer, 0, &t, NULL);
    if (ioctl(vcpu, KVM_RUN, 0) < 0 && errno == EINTR)
        return;
    fprintf(stderr, "floor: the guest left KVM with exit reason %u\n", run->exit_reason);
    exit(1);
}

static void we_run(void)
{
    for (uint64_t begun = now(); now() - begun < 1000000;)
        for (size_t at = 0; at < (size_t)MIB << 20; at += 4096)
            *(volatile uint8_t *)&ram[at] = 1;
}

static void print(const char *name, uint64_t *ns, size_t n)
{
    qsort(ns, n, sizeof(ns[0]), by_size);
    printf("%s %.2f %.2f\n", name, (double)ns[n / 2] / 1e3, (double)ns[n * 99 / 100] / 1e3);
}

static void behind(void)
{
    static uint64_t ns[2][BEHIND];
    for (int round = -50; round < BEHIND; round++) {
        for (int set = 0; set < 2; set++) {
            if (set)
                we_run();
            else
                guest_runs();
            uint64_t begun = now();
            all(set);
            if (round >= 0)
                ns[set][round] = now() - begun;
        }
    }
    print("get-behind", ns[0], BEHIND);
    print("set-behind", ns[1], BEHIND);
}

int main(int argc, char **argv)
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
    for (int i = 0; i < 4; i++)
        print(name[i], ns[i], ROUNDS);
    if (argc > 1 && set_up_guest(dev, vm, argv[1]) < 0) {
        perror("floor: the guest");
        return 1;
    }
    if (argc > 1)
        behind();
    return 0;
}
