#include "kvm/probe_guest.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static bool give_cpuid(ProbeGuest *p, const KvmHost *h)
{
    enum { ROOM = 256 };
    g_autofree struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + ROOM * sizeof(c->entries[0]));
    c->nent = ROOM;
    if (ioctl(h->dev, KVM_GET_SUPPORTED_CPUID, c) < 0)
        return false;
    for (unsigned i = 0; i < c->nent; i++)
        p->lzcnt = p->lzcnt || (c->entries[i].function == 0x80000001 && c->entries[i].ecx & BIT(5));
    return ioctl(p->vcpu, KVM_SET_CPUID2, c) == 0;
}

bool probe_guest_open(ProbeGuest *p, const KvmHost *h, size_t mem_size)
{
    uint64_t identity = 0xfeffc000;

    *p = (ProbeGuest){.vm = -1, .vcpu = -1, .run = MAP_FAILED, .run_size = h->run_size};
    p->mem_size = mem_size;
    p->mem = mmap(NULL, mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p->vm = ioctl(h->dev, KVM_CREATE_VM, 0);
    if (p->vm < 0 || p->mem == MAP_FAILED)
        return false;
    struct kvm_userspace_memory_region r = {.memory_size = mem_size,
                                            .userspace_addr = (uintptr_t)p->mem};
    if (ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(p->vm, KVM_SET_TSS_ADDR, identity + 0x1000) < 0 ||
        ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
        return false;
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->vcpu < 0 || !give_cpuid(p, h))
        return false;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    return p->run != MAP_FAILED;
}

void probe_guest_close(ProbeGuest *p)
{
    if (p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->mem != MAP_FAILED)
        munmap(p->mem, p->mem_size);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
}

struct kvm_segment probe_segment(unsigned selector, unsigned type, bool code)
{
    return (struct kvm_segment){.limit = ~0u,
                                .selector = (uint16_t)selector,
                                .type = (uint8_t)type,
                                .present = 1,
                                .dpl = selector & 3,
                                .s = 1,
                                .l = code,
                                .db = !code,
                                .g = 1};
}

int probe_guest_enter(ProbeGuest *p)
{
    int r = -1;
    for (unsigned n = 0; r < 0 && n < 100; n++) {
        r = ioctl(p->vcpu, KVM_RUN, 0);
        if (r < 0 && errno != EINTR && errno != EAGAIN)
            break;
    }
    return r;
}

bool probe_guest_run(ProbeGuest *p, unsigned *port, uint32_t *value)
{
    if (probe_guest_enter(p) < 0 || p->run->exit_reason != KVM_EXIT_IO)
        return false;
    *port = p->run->io.port;
    *value = 0;
    memcpy(value, (uint8_t *)p->run + p->run->io.data_offset, MIN_OF(4u, p->run->io.size));
    /* The OUT is completed, and nothing more is run. */
    p->run->immediate_exit = 1;
    ioctl(p->vcpu, KVM_RUN, 0);
    p->run->immediate_exit = 0;
    return true;
}
