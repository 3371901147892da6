/*
 * What this KVM does otherwise than the manual's VM entry: found by trying it in a small guest,
 * when it is first asked. VmCommon.kvm_quirk.
 */
#include "kvm/probe_guest.h"

enum { MEM = 0x3000, HLT = 0x800, PML4 = 0x1000, PDPT = 0x2000 };

/* 64-bit code at an address that no page table leads to, and no IDT: if it is entered, it ends. */
static bool enters_wild_rip(ProbeGuest *p)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = BIT(50), .rflags = FL_FIXED};

    probe_put64(p, PML4, PDPT | PROBE_USER);
    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    s.cr3 = PML4;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME | EFER_LMA;
    s.cs = probe_segment(0x10, 11, true);
    s.ds = s.es = s.fs = s.gs = s.ss = probe_segment(0x18, 3, false);
    s.tr.type = 11;
    s.idt.limit = 0;
    return ioctl(p->vcpu, KVM_SET_SREGS, &s) == 0 && ioctl(p->vcpu, KVM_SET_REGS, &r) == 0 &&
           probe_guest_enter(p) == 0 &&
           (p->run->exit_reason == KVM_EXIT_SHUTDOWN ||
            p->run->exit_reason == KVM_EXIT_INTERNAL_ERROR);
}

static bool takes_wide_msr(ProbeGuest *p)
{
    enum { LSTAR = 0xc0000082 };
    uint64_t wide = BIT(50), got = 0;
    return kvm_one_msr(p->vcpu, KVM_SET_MSRS, LSTAR, &wide) &&
           kvm_one_msr(p->vcpu, KVM_GET_MSRS, LSTAR, &got) && got == wide;
}

/* Real mode, where the selector is any number, and CS code. */
static bool enters_with_rpl(ProbeGuest *p, unsigned rpl)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = HLT, .rflags = FL_FIXED};

    p->mem[HLT] = 0xf4;
    if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = CR0_ET | CR0_NE;
    s.cr4 = s.efer = 0;
    s.ss = (struct kvm_segment){.limit = 0xffff, .type = 3, .present = 1, .s = 1};
    s.cs = s.ds = s.es = s.fs = s.gs = s.ss;
    s.cs.type = 11;
    s.cs.selector = (uint16_t)rpl;
    s.tr.type = 3;
    return ioctl(p->vcpu, KVM_SET_SREGS, &s) == 0 && ioctl(p->vcpu, KVM_SET_REGS, &r) == 0 &&
           probe_guest_enter(p) == 0 && p->run->exit_reason == KVM_EXIT_HLT;
}

static bool cs_by_rpl(ProbeGuest *p)
{
    return enters_with_rpl(p, 0) && !enters_with_rpl(p, 1) &&
           p->run->exit_reason == KVM_EXIT_FAIL_ENTRY;
}

static bool (*const probes[KVM_QUIRKS])(ProbeGuest *) = {
    [KVM_ENTERS_WILD_RIP] = enters_wild_rip,
    [KVM_TAKES_WIDE_MSR] = takes_wide_msr,
    [KVM_CS_BY_RPL] = cs_by_rpl,
};

bool kvm_quirk(enum KvmQuirk what)
{
    enum { NOT_TRIED, YES, NO };
    static gsize answer[KVM_QUIRKS];

    if (g_once_init_enter(&answer[what])) {
        const KvmHost *h = kvm_host(NULL);
        ProbeGuest p;
        bool yes = false;
        if (h) {
            yes = probe_guest_open(&p, h, MEM) && probes[what](&p);
            probe_guest_close(&p);
        }
        g_once_init_leave(&answer[what], yes ? YES : NO);
    }
    return answer[what] == YES;
}
