/*
 * What does this KVM do wrong, and how fast is it?
 *
 * A KVM with hardware behind it runs what the processor runs. One without emulates in the kernel
 * what it cannot run natively, and some of it comes out wrong in silence: nothing tells, neither an
 * exit nor an error, but the guest's failing. So a small guest tries what such a KVM is known to
 * get wrong and a kernel cannot do without. What KVM *says* it cannot do is not looked for: the
 * rescue (switch/rescue.h) sees to that.
 */
#include "kvm/probe_guest.h"

#include <time.h>

enum {
    MEM = 0x8000,
    PML4 = 0x2000,
    PDPT = 0x3000,
    PD = 0x4000,
    IDT = 0x5000,
    GDT = 0x6000,
    TSS = 0x6100,
    STACK0 = 0x7800,
    STACK3 = 0x7c00,
    SEL_CODE0 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_DATA3 = 0x2b,
    SEL_CODE3 = 0x33,
};

/* Programs, and the ports they end at. */
enum {
    LOOP = 0x1000,
    SYSCALL = 0x1020,
    SYSCALL_ENTRY = 0x1030,
    INTN = 0x1040,
    INTN_ENTRY = 0x1050,
    FAULT_ENTRY = 0x1060,
    LZCNT = 0x1070,
    PORT_DONE = 0x80,
    PORT_SYSCALL = 0x81,
    PORT_INTN = 0x82,
    PORT_FAULT = 0x84,
    VECTOR = 0x40,
};

static const struct {
    uint16_t at;
    uint8_t len, code[8];
} programs[] = {
    {LOOP, 6, {0xff, 0xc9, 0x75, 0xfc, 0xe7, PORT_DONE}}, /* dec ecx; jnz $-2; out */
    {SYSCALL, 4, {0x0f, 0x05, 0xe7, PORT_DONE}},
    {SYSCALL_ENTRY, 2, {0xe7, PORT_SYSCALL}},
    {INTN, 4, {0xcd, VECTOR, 0xe7, PORT_DONE}},
    {INTN_ENTRY, 2, {0xe7, PORT_INTN}},
    {FAULT_ENTRY, 2, {0xe7, PORT_FAULT}},
    {LZCNT, 6, {0xf3, 0x0f, 0xbd, 0xc1, 0xe7, PORT_DONE}}, /* lzcnt eax, ecx; out */
};

static void put_gate(ProbeGuest *p, unsigned vector, unsigned entry)
{
    probe_put64(p, IDT + vector * 16, entry | SEL_CODE0 << 16 | 0xeeull << 40);
}

static void fill_memory(ProbeGuest *p)
{
    for (unsigned i = 0; i < ARRAY_LEN(programs); i++)
        memcpy(p->mem + programs[i].at, programs[i].code, programs[i].len);
    probe_put64(p, PML4, PDPT | PROBE_USER);
    probe_put64(p, PDPT, PD | PROBE_USER);
    probe_put64(p, PD, 0x80 | PROBE_USER);
    for (unsigned vector = 0; vector < 32; vector++)
        put_gate(p, vector, FAULT_ENTRY);
    put_gate(p, VECTOR, INTN_ENTRY);
    probe_put64(p, GDT + SEL_CODE0, 0x00af9b000000ffff);
    probe_put64(p, GDT + SEL_DATA0, 0x00cf93000000ffff);
    probe_put64(p, GDT + (SEL_DATA3 & ~7), 0x00cff3000000ffff);
    probe_put64(p, GDT + (SEL_CODE3 & ~7), 0x00affb000000ffff);
    probe_put64(p, TSS + 4, STACK0);
}

static bool get_ready(ProbeGuest *p)
{
    uint64_t star = (uint64_t)SEL_CODE0 << 32 | (uint64_t)(SEL_DATA3 - 8) << 48,
             lstar = SYSCALL_ENTRY, mask = 0;
    fill_memory(p);
    return kvm_one_msr(p->vcpu, KVM_SET_MSRS, 0xc0000081, &star) &&
           kvm_one_msr(p->vcpu, KVM_SET_MSRS, 0xc0000082, &lstar) &&
           kvm_one_msr(p->vcpu, KVM_SET_MSRS, 0xc0000084, &mask);
}

/* From `at` in long mode to the next OUT. cpl: the privilege there. */
static bool run(ProbeGuest *p, unsigned at, unsigned privilege, struct kvm_regs *r, unsigned *port,
                unsigned *cpl)
{
    struct kvm_sregs s;
    uint32_t value;
    bool user = privilege == 3;

    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = 0x80000031;
    s.cr3 = PML4;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME | EFER_LMA | EFER_SCE;
    s.cs = probe_segment(user ? SEL_CODE3 : SEL_CODE0, 11, true);
    s.ss = probe_segment(user ? SEL_DATA3 : SEL_DATA0, 3, false);
    s.ds = s.es = s.fs = s.gs = s.ss;
    s.tr = (struct kvm_segment){.base = TSS, .limit = 0x67, .selector = 0x38, .type = 11};
    s.tr.present = 1;
    s.gdt = (struct kvm_dtable){.base = GDT, .limit = 0xff};
    s.idt = (struct kvm_dtable){.base = IDT, .limit = 0xfff};
    r->rip = at;
    r->rflags = 0x3002; /* IOPL 3 */
    r->rsp = user ? STACK3 : STACK0;
    if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->vcpu, KVM_SET_REGS, r) < 0 ||
        !probe_guest_run(p, port, &value) || ioctl(p->vcpu, KVM_GET_REGS, r) < 0 ||
        ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    *cpl = s.ss.dpl;
    return true;
}

static bool reaches(ProbeGuest *p, unsigned at, unsigned want)
{
    struct kvm_regs r = {0};
    unsigned port, cpl;
    return run(p, at, 3, &r, &port, &cpl) && port == want && cpl == 0;
}

/* An LZCNT that is not executed at all is no wrong one, and BSR is what it is where the guest's CPU
 * has none. */
static bool counts_zeros(ProbeGuest *p)
{
    struct kvm_regs r = {.rcx = 0x10};
    unsigned port, cpl;
    if (!p->lzcnt)
        return true;
    return !run(p, LZCNT, 0, &r, &port, &cpl) || port != PORT_DONE || (uint32_t)r.rax == 27;
}

/* Is paging outside long mode still there when it is asked back? */
static bool holds_paging32(ProbeGuest *p)
{
    struct kvm_sregs s;
    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.efer = 0;
    s.cr0 = 0x80000031;
    s.cr3 = PML4;
    s.cr4 = 0;
    s.cs = probe_segment(SEL_CODE0, 11, false);
    s.ds = s.es = s.fs = s.gs = s.ss = probe_segment(SEL_DATA0, 3, false);
    return ioctl(p->vcpu, KVM_SET_SREGS, &s) == 0 && ioctl(p->vcpu, KVM_GET_SREGS, &s) == 0 &&
           s.cr0 >> 31;
}

static uint64_t timed(ProbeGuest *p, uint64_t rounds)
{
    struct kvm_regs r = {.rcx = rounds};
    struct timespec a, b;
    unsigned port, cpl;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (!run(p, LOOP, 0, &r, &port, &cpl) || port != PORT_DONE)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000 + (uint64_t)(b.tv_nsec - a.tv_nsec);
}

/*
 * Instructions a microsecond at privilege 0. A short loop tells an emulator, which takes a
 * microsecond for one; a long one is for who is fast. The best of several: others want the
 * processor too.
 */
static unsigned measure(ProbeGuest *p)
{
    enum { SHORT = 32, LONG = 64000 };
    uint64_t none = timed(p, 1), few = UINT64_MAX, many = UINT64_MAX;
    for (unsigned i = 0; i < 2; i++) {
        none = MIN_OF(none, timed(p, 1));
        few = MIN_OF(few, timed(p, SHORT));
    }
    if (!none || !few)
        return 0;
    uint64_t ns = few > none ? few - none : 1;
    if (ns > 2 * SHORT * 50) /* below 20 a microsecond */
        return (unsigned)MAX_OF(1ull, 2000ull * SHORT / ns);
    for (unsigned i = 0; i < 2; i++)
        many = MIN_OF(many, timed(p, LONG));
    ns = many > none ? many - none : 1;
    return (unsigned)(2000ull * LONG / ns);
}

void kvm_probe_wrong(KvmHost *h)
{
    ProbeGuest p;
    if (probe_guest_open(&p, h, MEM) && get_ready(&p)) {
        h->mips = measure(&p);
        h->wrong = (reaches(&p, SYSCALL, PORT_SYSCALL) ? 0 : BIT(KVM_WRONG_SYSCALL)) |
                   (reaches(&p, INTN, PORT_INTN) ? 0 : BIT(KVM_WRONG_INTN)) |
                   (counts_zeros(&p) ? 0 : BIT(KVM_WRONG_LZCNT)) |
                   (holds_paging32(&p) ? 0 : BIT(KVM_WRONG_PAGING32));
    }
    probe_guest_close(&p);
}

static const char *const wrong_text[KVM_WRONG_N] = {
    [KVM_WRONG_SYSCALL] = "SYSCALL does not lead to privilege 0",
    [KVM_WRONG_INTN] = "INT n at privilege 3 does not reach its handler",
    [KVM_WRONG_LZCNT] = "LZCNT is executed as BSR",
    [KVM_WRONG_PAGING32] = "paging cannot be had outside long mode",
};

bool kvm_speed(KvmSpeed *out)
{
    const KvmHost *h = kvm_host(NULL);
    *out = (KvmSpeed){0};
    if (!h)
        return false;
    out->mips = h->mips;
    for (unsigned i = 0; i < KVM_WRONG_N; i++) {
        if (h->wrong & BIT(i))
            out->wrong[out->n_wrong++] = wrong_text[i];
    }
    return true;
}
