#include "cpu/cpu_state.h"

#include <string.h>

static void set_seg(Segment *s, uint16_t sel, uint64_t base, uint32_t attr)
{
    *s = (Segment){.base = base, .limit = 0xffff, .attr = attr, .selector = sel};
}

void cpu_state_init(CpuState *s, uint32_t cpuid_signature, bool is_bsp)
{
    Msrs msr = s->msr;
    FpuState fpu = s->fpu;
    uint64_t tsc_offset = s->tsc_offset, xcr0 = s->xcr0;
    uint64_t cr0_cache = s->cr0 & (CR0_CD | CR0_NW);

    memset(s, 0, sizeof(*s));
    s->msr = msr;
    s->fpu = fpu;
    s->tsc_offset = tsc_offset;
    s->xcr0 = xcr0;

    s->gpr[RDX] = cpuid_signature;
    s->rip = 0xfff0;
    s->rflags = FL_FIXED;
    for (unsigned i = ES; i <= GS; i++)
        set_seg(&s->seg[i], 0, 0, SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED);
    set_seg(&s->seg[CS], 0xf000, 0xffff0000,
            SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED);
    set_seg(&s->seg[LDTR], 0, 0, SEG_P | 2);
    set_seg(&s->seg[TR], 0, 0, SEG_P | 11);
    s->gdt.limit = s->idt.limit = 0xffff;
    s->cr0 = CR0_ET | cr0_cache;
    s->dr6 = DR6_FIXED1;
    s->dr7 = DR7_FIXED1;
    s->run_state = is_bsp ? RUN_RUNNING : RUN_WAIT_SIPI;
}

void cpu_state_reset(CpuState *s, uint32_t cpuid_signature, bool is_bsp)
{
    uint64_t apic_base = s->msr.apic_base, tsc_offset = s->tsc_offset;

    memset(s, 0, sizeof(*s));
    s->cr0 = CR0_CD | CR0_NW;
    s->tsc_offset = tsc_offset;
    s->xcr0 = 1;
    s->fpu.fcw = 0x40;
    s->fpu.ftw = 0xff; /* RESET (unlike FNINIT) tags all as zero, not empty */
    s->fpu.mxcsr = 0x1f80;
    s->fpu.mxcsr_mask = 0xffff;
    s->msr.pat = 0x0007040600070406ull;
    s->msr.misc_enable = 1;    /* fast strings */
    s->msr.amd_hwcr = BIT(24); /* AMD: the TSC counts at the P0 frequency */
    s->msr.apic_base = apic_base;
    s->msr.smbase = CPU_SMBASE;
    s->msr.kvm_poll_control = 1; /* the host may poll */
    s->msr.mtrr_def_type = 0;
    cpu_state_init(s, cpuid_signature, is_bsp);
}

void cpu_state_sipi(CpuState *s, uint8_t vector)
{
    set_seg(&s->seg[CS], (uint16_t)(vector << 8), (uint64_t)vector << 12, s->seg[CS].attr);
    s->rip = 0;
    s->run_state = RUN_RUNNING;
}
