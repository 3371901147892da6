/*
 * Does KVM keep page tables of its own, made from the guest's, which miss what is written to the
 * guest's tables from outside?
 *
 * With nested paging the processor walks the guest's own tables. Without (kvm_intel with ept=0,
 * kvm_amd with npt=0, back ends without hardware), KVM walks them and write-protects them from the
 * guest; a store of the software engine, which uses another mapping, goes unseen, and neither CR3
 * nor a TLB flush brings it to KVM's notice. A program at privilege 3 tells: it reads through an
 * entry that is changed in between as a software engine would change it.
 */
#include "kvm/kvm_priv.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    MEM = 0x8000,
    PROGRAM = 0x1000,
    PML4 = 0x2000,
    PDPT = 0x3000,
    PD = 0x4000,
    PT = 0x5000,
    OLD = 0x6000, /* the two pages that it may read */
    NEW = 0x7000,
    TARGET = 0x400000, /* and where it reads them */
    USER = 7,          /* present, writable, user */
};

static const uint8_t program[] = {
    0xa1, 0x00, 0x00, 0x40, 0, 0, 0, 0, 0, /* mov eax, [TARGET] */
    0xe7, 0x80,                            /* out 80, eax */
};

typedef struct Shadow {
    int vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *mem;
} Shadow;

static void put64(Shadow *p, unsigned at, uint64_t v)
{
    memcpy(p->mem + at, &v, sizeof(v));
}

static bool give_cpuid(const Shadow *p, const KvmHost *h)
{
    enum { ROOM = 256 };
    g_autofree struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + ROOM * sizeof(c->entries[0]));
    c->nent = ROOM;
    return ioctl(h->dev, KVM_GET_SUPPORTED_CPUID, c) == 0 && ioctl(p->vcpu, KVM_SET_CPUID2, c) == 0;
}

static bool open_guest(Shadow *p, const KvmHost *h)
{
    uint64_t identity = 0xfeffc000;

    p->run_size = h->run_size;
    p->vm = ioctl(h->dev, KVM_CREATE_VM, 0);
    p->mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->vm < 0 || p->mem == MAP_FAILED)
        return false;
    struct kvm_userspace_memory_region r = {.memory_size = MEM,
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

static void close_guest(Shadow *p)
{
    if (p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->mem != MAP_FAILED)
        munmap(p->mem, MEM);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
}

static void fill_memory(Shadow *p)
{
    memcpy(p->mem + PROGRAM, program, sizeof(program));
    put64(p, PML4, PDPT | USER);
    put64(p, PDPT, PD | USER);
    put64(p, PD, 0x80 | USER);                       /* the first 2 MiB to themselves */
    put64(p, PD + TARGET / 0x200000 * 8, PT | USER); /* TARGET page by page */
    put64(p, PT, OLD | USER);
    put64(p, OLD, OLD);
    put64(p, NEW, NEW);
}

static struct kvm_segment flat(unsigned selector, unsigned type, bool code)
{
    return (struct kvm_segment){.limit = ~0u,
                                .selector = (uint16_t)selector,
                                .type = (uint8_t)type,
                                .present = 1,
                                .dpl = 3,
                                .s = 1,
                                .l = code,
                                .db = !code,
                                .g = 1};
}

/* Puts the state in as an import does, with the flush of a changed CR4.PGE, and runs. */
static bool read_target(Shadow *p, uint32_t *value)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = PROGRAM, .rflags = 0x3002 /* IOPL 3 */, .rsp = PROGRAM};

    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = 0x80000031;
    s.cr3 = PML4;
    s.cr4 = CR4_PAE | CR4_PGE;
    s.efer = EFER_LME | EFER_LMA;
    s.cs = flat(0x33, 11, true);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(0x2b, 3, false);
    s.tr.type = 11;
    s.cr4 ^= CR4_PGE;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0)
        return false;
    s.cr4 ^= CR4_PGE;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
        return false;
    if (ioctl(p->vcpu, KVM_RUN, 0) < 0 || p->run->exit_reason != KVM_EXIT_IO)
        return false;
    memcpy(value, (uint8_t *)p->run + p->run->io.data_offset, sizeof(*value));
    /* The OUT is completed, and nothing more is run. */
    p->run->immediate_exit = 1;
    ioctl(p->vcpu, KVM_RUN, 0);
    p->run->immediate_exit = 0;
    return true;
}

bool kvm_probe_shadow_tables(const KvmHost *h)
{
    Shadow p = {.vm = -1, .vcpu = -1, .run = MAP_FAILED, .mem = MAP_FAILED};
    uint32_t before = 0, after = 0;
    bool stale = false;

    if (open_guest(&p, h)) {
        fill_memory(&p);
        if (read_target(&p, &before) && before == OLD) {
            put64(&p, PT, NEW | USER);
            stale = read_target(&p, &after) && after == OLD;
        }
    }
    close_guest(&p);
    return stale;
}
