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
#include "kvm/probe_guest.h"

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
};

static const uint8_t program[] = {
    0xa1, 0x00, 0x00, 0x40, 0, 0, 0, 0, 0, /* mov eax, [TARGET] */
    0xe7, 0x80,                            /* out 80, eax */
};

static void fill_memory(ProbeGuest *p)
{
    memcpy(p->mem + PROGRAM, program, sizeof(program));
    probe_put64(p, PML4, PDPT | PROBE_USER);
    probe_put64(p, PDPT, PD | PROBE_USER);
    probe_put64(p, PD, 0x80 | PROBE_USER);                       /* the first 2 MiB to themselves */
    probe_put64(p, PD + TARGET / 0x200000 * 8, PT | PROBE_USER); /* TARGET page by page */
    probe_put64(p, PT, OLD | PROBE_USER);
    probe_put64(p, OLD, OLD);
    probe_put64(p, NEW, NEW);
}

/* Puts the state in as an import does, with the flush of a changed CR4.PGE, and runs. */
static bool read_target(ProbeGuest *p, uint32_t *value)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = PROGRAM, .rflags = 0x3002 /* IOPL 3 */, .rsp = PROGRAM};

    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = 0x80000031;
    s.cr3 = PML4;
    s.cr4 = CR4_PAE | CR4_PGE;
    s.efer = EFER_LME | EFER_LMA;
    s.cs = probe_segment(0x33, 11, true);
    s.ds = s.es = s.fs = s.gs = s.ss = probe_segment(0x2b, 3, false);
    s.tr.type = 11;
    s.cr4 ^= CR4_PGE;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0)
        return false;
    s.cr4 ^= CR4_PGE;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
        return false;
    unsigned port;
    return probe_guest_run(p, &port, value);
}

bool kvm_probe_shadow_tables(const KvmHost *h)
{
    ProbeGuest p;
    uint32_t before = 0, after = 0;
    bool stale = false;

    if (probe_guest_open(&p, h, MEM)) {
        fill_memory(&p);
        if (read_target(&p, &before) && before == OLD) {
            probe_put64(&p, PT, NEW | PROBE_USER);
            stale = read_target(&p, &after) && after == OLD;
        }
    }
    probe_guest_close(&p);
    return stale;
}
