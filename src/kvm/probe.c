/*
 * What KVM says and what it does are two things: a small real-mode guest tells.
 *
 * It reads its TSC and writes IA32_TSC_DEADLINE. Seen from outside: whether an offset given to KVM
 * shows in the guest's RDTSC (some back ends accept it and change nothing), and whether the MSR
 * write comes out (kernels with a fast path for the in-kernel APIC have swallowed it).
 */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

enum {
    CODE = 0x1000,
    PUSHF = 0x1100,
    STACK = 0x800,
    MEM = 0x2000,
    MSR_TSC = 0x10,
    MSR_TSC_DEADLINE = 0x6e0
};

static const uint8_t code[] = {
    0x0f, 0x31,                         /* rdtsc */
    0x66, 0x89, 0xc3,                   /* mov ebx, eax */
    0x66, 0x89, 0xd6,                   /* mov esi, edx */
    0x66, 0xb9, 0xe0, 0x06, 0x00, 0x00, /* mov ecx, 0x6e0 */
    0x66, 0x31, 0xc0,                   /* xor eax, eax */
    0x66, 0x31, 0xd2,                   /* xor edx, edx */
    0x0f, 0x30,                         /* wrmsr */
    0xf4,                               /* hlt */
};

/* Offsets tried are far from each other and from what a clock can do in between. */
#define FAR_APART (1ull << 44)

typedef struct Probe {
    int vm, vcpu;
    struct kvm_run *run;
    uint8_t *mem;
    size_t run_size;
} Probe;

static bool probe_open(Probe *p, const KvmHost *h, GError **err)
{
    p->run_size = h->run_size;
    p->vm = ioctl(h->dev, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return kvm_error(err, "KVM_CREATE_VM");
    p->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->mem == MAP_FAILED)
        return kvm_error(err, "mmap");
    memcpy(p->mem + CODE, code, sizeof(code));
    p->mem[PUSHF] = 0x9c;
    struct kvm_userspace_memory_region r = {.memory_size = MEM,
                                            .userspace_addr = (uintptr_t)p->mem};
    uint64_t identity = 0xfeffc000;
    if (ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(p->vm, KVM_SET_TSS_ADDR, identity + 0x1000) < 0)
        return kvm_error(err, "KVM_SET_TSS_ADDR");
    if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
        return kvm_error(err, "KVM_SET_USER_MEMORY_REGION");
    struct kvm_enable_cap c = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                               .args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
                                        KVM_MSR_EXIT_REASON_FILTER}};
    if (ioctl(p->vm, KVM_ENABLE_CAP, &c) < 0)
        return kvm_error(err, "KVM_ENABLE_CAP(KVM_CAP_X86_USER_SPACE_MSR)");
    uint8_t none = 0;
    struct kvm_msr_filter f = {
        .ranges[0] = {.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                      .nmsrs = 1,
                      .base = MSR_TSC_DEADLINE,
                      .bitmap = &none},
    };
    if (ioctl(p->vm, KVM_X86_SET_MSR_FILTER, &f) < 0)
        return kvm_error(err, "KVM_X86_SET_MSR_FILTER");
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->vcpu < 0)
        return kvm_error(err, "KVM_CREATE_VCPU");
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    return p->run != MAP_FAILED || kvm_error(err, "mmap of kvm_run");
}

static void probe_close(Probe *p)
{
    if (p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->mem != MAP_FAILED)
        munmap(p->mem, MEM);
}

/* Runs the guest once. *offset: its TSC minus the host's. */
static bool probe_run(Probe *p, uint64_t *offset, bool *deadline_exits, GError **err)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rflags = 2, .rsp = STACK};

    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return kvm_error(err, "KVM_GET_SREGS");
    s.cs.base = 0;
    s.cs.selector = 0;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
        return kvm_error(err, "KVM_SET_SREGS");
    *deadline_exits = false;
    uint64_t before = __rdtsc();
    for (unsigned n = 0; n < 100; n++) {
        int ret = ioctl(p->vcpu, KVM_RUN, 0);
        if (ret < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (ret < 0)
            return kvm_error(err, "KVM_RUN");
        if (p->run->exit_reason == KVM_EXIT_X86_WRMSR && p->run->msr.index == MSR_TSC_DEADLINE) {
            *deadline_exits = true;
            p->run->msr.error = 0;
        } else if (p->run->exit_reason == KVM_EXIT_HLT) {
            if (ioctl(p->vcpu, KVM_GET_REGS, &r) < 0)
                return kvm_error(err, "KVM_GET_REGS");
            *offset = (r.rsi << 32 | (uint32_t)r.rbx) - before;
            return true;
        } else {
            break;
        }
    }
    g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                "/dev/kvm is there but does not run a trivial guest (exit reason %u)",
                p->run->exit_reason);
    return false;
}

/* Does a PUSHF that is single-stepped show TF? */
static bool steps_natively(Probe *p)
{
    struct kvm_guest_debug dbg = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
    struct kvm_regs r = {.rip = PUSHF, .rflags = 2, .rsp = STACK};
    int ret = -1;
    if (ioctl(p->vcpu, KVM_SET_REGS, &r) < 0 || ioctl(p->vcpu, KVM_SET_GUEST_DEBUG, &dbg) < 0)
        return true; /* the more careful answer */
    do {
        ret = ioctl(p->vcpu, KVM_RUN, 0);
    } while (ret < 0 && (errno == EINTR || errno == EAGAIN));
    uint16_t flags;
    memcpy(&flags, p->mem + STACK - 2, sizeof(flags));
    return ret < 0 || flags & FL_TF;
}

bool kvm_steps_natively(bool *native, GError **err)
{
    const KvmHost *h = kvm_host(err);
    *native = h && h->steps_natively;
    return h;
}

static bool near(uint64_t a, uint64_t b)
{
    uint64_t d = a - b;
    return d < FAR_APART / 4 || -d < FAR_APART / 4;
}

static bool set_attr(Probe *p, uint64_t offset)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
    return ioctl(p->vcpu, KVM_SET_DEVICE_ATTR, &a) == 0;
}

static bool set_msr(Probe *p, uint64_t offset)
{
    uint64_t value = __rdtsc() + offset;
    return kvm_one_msr(p->vcpu, KVM_SET_MSRS, MSR_TSC, &value);
}

/* Does giving KVM an offset, twice different, show in the guest? */
static bool takes_effect(Probe *p, bool (*set)(Probe *, uint64_t))
{
    for (uint64_t want = FAR_APART; want <= 3 * FAR_APART; want += 2 * FAR_APART) {
        uint64_t got;
        bool deadline;
        if (!set(p, want) || !probe_run(p, &got, &deadline, NULL) || !near(got, want))
            return false;
    }
    return true;
}

/* Is an offset read back as it was set, after the guest has run? */
static bool is_exact(Probe *p)
{
    uint64_t want = 5 * FAR_APART + 12345, got = 0;
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&got};
    bool deadline;
    uint64_t offset;
    return set_attr(p, want) && probe_run(p, &offset, &deadline, NULL) &&
           ioctl(p->vcpu, KVM_GET_DEVICE_ATTR, &a) == 0 && got == want;
}

bool kvm_probe_guest(KvmHost *h, GError **err)
{
    Probe p = {.vm = -1, .vcpu = -1, .run = MAP_FAILED, .mem = MAP_FAILED};
    uint64_t offset;
    bool ok = probe_open(&p, h, err) && probe_run(&p, &offset, &h->tsc_deadline, err);

    if (ok) {
        h->tsc = takes_effect(&p, set_attr)  ? TSC_ATTR
                 : takes_effect(&p, set_msr) ? TSC_MSR
                                             : TSC_FIXED;
        h->tsc_exact = h->tsc == TSC_ATTR && is_exact(&p);
        if (h->tsc == TSC_FIXED && !near(offset, 0)) {
            g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                        "this host's KVM shows guests a TSC that is not the host's and cannot be "
                        "set: guest time could not be kept over a switch");
            ok = false;
        }
        h->steps_natively = steps_natively(&p); /* last: leaves its KVM stepping */
    }
    probe_close(&p);
    h->shadow_tables = ok && kvm_probe_shadow_tables(h);
    if (ok)
        kvm_probe_wrong(h);
    return ok;
}
