/* A machine of one vCPU and a bus that records, for the tests of the kvm room. */
#ifndef TANDEM_TESTS_KVM_FIXTURE_H
#define TANDEM_TESTS_KVM_FIXTURE_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvm/kvm_priv.h"

enum { RAM_SIZE = 0x90000, ROM_GPA = 0xf0000, ROM_SIZE = 0x10000, CODE = 0x1000, STACK = 0x8000 };

typedef struct Access {
    uint64_t addr, value;
    unsigned size;
    char kind; /* i o r w */
} Access;

typedef struct Fixture {
    Vcpu v, *vs[1];
    VmCommon vm;
    VcpuBus bus;
    MemMap mem;
    Clock *clock;
    CpuidTable cpuid;
    uint8_t *ram, *rom;
    Access log[64];
    unsigned n_log;
    uint64_t input;        /* what reads give */
    int irq_on_msr;        /* a vector that comes while the guest reads MSR 0x803 */
    bool stop_on_input;    /* a read also asks the vCPU to stop */
    int irq[8];            /* vectors waiting */
    unsigned n_irqs, acks; /* acks: asked for one */
    uint8_t tpr;
    uint64_t apic_base, tsc_deadline, x2apic;
} Fixture;

static Fixture fx;

static inline void fx_record(char kind, uint64_t addr, unsigned size, uint64_t value)
{
    if (fx.n_log < ARRAY_LEN(fx.log))
        fx.log[fx.n_log++] = (Access){addr, value, size, kind};
}

static inline uint64_t fx_input(Vcpu *v, char kind, uint64_t addr, unsigned size)
{
    uint64_t value = fx.input & size_mask(size);
    fx_record(kind, addr, size, value);
    if (fx.stop_on_input)
        vcpu_request(v, VREQ_WORK);
    return value;
}

static inline uint64_t fx_mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    return fx_input(v, 'r', gpa, size);
}

static inline void fx_mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    fx_record('w', gpa, size, value);
}

static inline uint32_t fx_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    return (uint32_t)fx_input(v, 'i', port, size);
}

static inline void fx_pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    fx_record('o', port, size, value);
}

static inline int fx_irq_ack(Vcpu *v)
{
    fx.acks++;
    int vector = fx.n_irqs ? fx.irq[--fx.n_irqs] : -1;
    if (!fx.n_irqs)
        vcpu_request_clear(v, VREQ_INTR);
    return vector;
}

static inline uint64_t *fx_apic_reg(uint32_t msr)
{
    return msr == 0x1b    ? &fx.apic_base
           : msr == 0x6e0 ? &fx.tsc_deadline
           : msr == 0x808 ? &fx.x2apic
                          : NULL;
}

static inline bool fx_apic_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    uint64_t *reg = fx_apic_reg(msr);
    if (fx.irq_on_msr && msr == 0x803) {
        fx.irq[fx.n_irqs++] = fx.irq_on_msr;
        fx.irq_on_msr = 0;
        vcpu_request(v, VREQ_INTR);
    }
    if (reg)
        *value = *reg;
    return reg;
}

static inline bool fx_apic_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    uint64_t *reg = fx_apic_reg(msr);
    if (reg)
        *reg = value;
    return reg;
}

static inline uint8_t fx_tpr_get(Vcpu *v)
{
    return fx.tpr;
}

static inline void fx_tpr_set(Vcpu *v, uint8_t cr8)
{
    fx.tpr = cr8;
}

static inline void fx_fail(GError *err)
{
    if (err)
        ck_abort_msg("%s", err->message);
}

static inline void fx_setup(void)
{
    GError *err = NULL;
    CpuidTable kvm;

    memset(&fx, 0, sizeof(fx));
    fx.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fx.rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert(fx.ram != MAP_FAILED && fx.rom != MAP_FAILED);
    fx.mem.n = 2;
    fx.mem.slot[0] = (RamSlot){.size = RAM_SIZE, .host = fx.ram, .fd = -1};
    fx.mem.slot[1] =
        (RamSlot){.gpa = ROM_GPA, .size = ROM_SIZE, .host = fx.rom, .fd = -1, .readonly = true};
    fx.bus = (VcpuBus){fx_mmio_read, fx_mmio_write, fx_pio_read, fx_pio_write, fx_irq_ack,
                       fx_apic_read, fx_apic_write, fx_tpr_get,  fx_tpr_set};
    fx.clock = clock_new();
    fx.apic_base = 0xfee00900;
    kvm_supported_cpuid(&kvm, &err);
    fx_fail(err);
    cpuid_build(&fx.cpuid, "max", &kvm, 1, clock_tsc_khz(fx.clock), &err);
    fx_fail(err);
    fx.vs[0] = &fx.v;
    fx.vm = (VmCommon){.mem = &fx.mem,
                       .clock = fx.clock,
                       .bus = &fx.bus,
                       .cpuid = &fx.cpuid,
                       .vcpu = fx.vs,
                       .n_vcpus = 1};
    fx.v.vm = &fx.vm;
    fx.v.engine = &engine_kvm;
    engine_kvm.vm_init(&fx.vm, &err);
    fx_fail(err);
    engine_kvm.vcpu_init(&fx.v, &err);
    fx_fail(err);
}

static inline void fx_teardown(void)
{
    engine_kvm.vcpu_free(&fx.v);
    engine_kvm.vm_free(&fx.vm);
    clock_free(fx.clock);
    munmap(fx.ram, RAM_SIZE);
    munmap(fx.rom, ROM_SIZE);
}

static inline void fx_import(void)
{
    GError *err = NULL;
    engine_kvm.import_state(&fx.v, GROUPS_ALL, &err);
    fx_fail(err);
}

static inline void fx_export(void)
{
    GError *err = NULL;
    engine_kvm.export_state(&fx.v, GROUPS_ALL, &err);
    fx_fail(err);
}

/* Says so and returns false where there is no KVM to test with. */
static inline bool fx_have_kvm(void)
{
    g_autoptr(GError) err = NULL;
    if (kvm_available(&err))
        return true;
    printf("skipped: %s\n", err->message);
    return false;
}

#endif
