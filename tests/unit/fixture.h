/*
 * A vCPU without a machine: 16 MiB of RAM, a bus that records, engines called directly on this
 * thread.
 *
 * Guest programs run at PROGRAM in one of four modes and end with OUT to port 0xf4. For tests of
 * engines; each test program includes this once.
 */
#ifndef TANDEM_TESTS_FIXTURE_H
#define TANDEM_TESTS_FIXTURE_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/vcpu.h"
#include "kvm/kvm.h"

#define FIX_RAM   (16ull << 20)
#define FIX_USED  (1u << 20) /* by programs; the rest stays zero */
#define PROGRAM   0x1000u
#define FIX_STACK 0x7000u
#define FIX_DATA  0x8000u
#define FIX_GDT   0x500u
#define FIX_IDT   0x600u
#define FIX_TSS   0xc00u
#define FIX_PML4  0x10000u

typedef enum FixMode { FIX_REAL, FIX_PROT16, FIX_PROT32, FIX_LONG } FixMode;

typedef struct Fixture {
    VmCommon vm;
    MemMap mem;
    CpuidTable cpuid;
    Vcpu *v, *vcpus[1];
    int fd;
    bool ended;       /* the program wrote to port 0xf4 */
    uint8_t out[256]; /* bytes written to port 0xe9 */
    unsigned n_out;
    unsigned n_mmio;
    uint8_t cr8;
    int vector; /* what irq_ack() gives, once; -1: nothing */
    bool have[ENGINE_N];
} Fixture;

static inline uint64_t fix_mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    ((Fixture *)v->machine)->n_mmio++;
    return 0x1122334455667788ull & size_mask(size);
}

static inline void fix_mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    ((Fixture *)v->machine)->n_mmio++;
}

static inline uint32_t fix_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    return port == 0xe8 ? 0x5a5a5a5au & (uint32_t)size_mask(size) : (uint32_t)size_mask(size);
}

static inline void fix_pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    Fixture *f = v->machine;
    if (port == 0xf4) {
        f->ended = true;
        vcpu_request(v, VREQ_WORK);
    } else if (port == 0xe9 && f->n_out < sizeof(f->out)) {
        f->out[f->n_out++] = (uint8_t)value;
    }
}

static inline int fix_irq_ack(Vcpu *v)
{
    Fixture *f = v->machine;
    int vector = f->vector;
    f->vector = -1;
    vcpu_request_clear(v, VREQ_INTR);
    return vector;
}

static inline bool fix_apic_msr_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    *value = msr == 0x1b ? v->st.msr.apic_base : 0;
    return msr == 0x1b;
}

static inline bool fix_apic_msr_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    return msr == 0x1b;
}

static inline uint8_t fix_tpr_get(Vcpu *v)
{
    return ((Fixture *)v->machine)->cr8;
}

static inline void fix_tpr_set(Vcpu *v, uint8_t cr8)
{
    ((Fixture *)v->machine)->cr8 = cr8;
}

static const VcpuBus fix_bus = {
    .mmio_read = fix_mmio_read,
    .mmio_write = fix_mmio_write,
    .pio_read = fix_pio_read,
    .pio_write = fix_pio_write,
    .irq_ack = fix_irq_ack,
    .apic_msr_read = fix_apic_msr_read,
    .apic_msr_write = fix_apic_msr_write,
    .tpr_get = fix_tpr_get,
    .tpr_set = fix_tpr_set,
};

static inline uint8_t *fix_ram(Fixture *f)
{
    return f->mem.slot[0].host;
}

/* want_kvm: also KVM, if this host has one; f->have says. Aborts the test program on failure of the
 * interpreter. */
static inline Fixture *fixture_new(bool want_kvm)
{
    Fixture *f = g_new0(Fixture, 1);
    GError *err = NULL;
    CpuidTable kvm_table;
    bool kvm = want_kvm && kvm_available(NULL) && kvm_supported_cpuid(&kvm_table, NULL);

    f->fd = memfd_create("fixture", MFD_CLOEXEC);
    if (ftruncate(f->fd, FIX_RAM))
        abort();
    f->mem.n = 1;
    f->mem.gen = 1;
    f->mem.slot[0] = (RamSlot){
        .size = FIX_RAM,
        .host = mmap(NULL, FIX_RAM, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0),
        .fd = f->fd,
    };
    f->vector = -1;
    f->v = vcpu_alloc(&err);
    if (!f->v)
        g_error("%s", err->message);
    f->vcpus[0] = f->v;
    f->vm = (VmCommon){
        .mem = &f->mem, .clock = clock_new(), .bus = &fix_bus, .vcpu = f->vcpus, .n_vcpus = 1};
    clock_start(f->vm.clock);
    if (!cpuid_build(&f->cpuid, "max", kvm ? &kvm_table : NULL, 1, clock_tsc_khz(f->vm.clock),
                     &err))
        g_error("cpuid: %s", err->message);
    f->vm.cpuid = &f->cpuid;
    f->v->vm = &f->vm;
    f->v->machine = f;
    f->v->thread = pthread_self();
    const Engine *engines[] = {kvm ? &engine_kvm : NULL, &engine_interp};
    for (unsigned i = 0; i < 2; i++) {
        const Engine *e = engines[i];
        if (!e)
            continue;
        if ((e->vm_init && !e->vm_init(&f->vm, &err)) ||
            (e->map_changed && !e->map_changed(&f->vm, &err)) ||
            (e->vcpu_init && !e->vcpu_init(f->v, &err)))
            g_error("%s: %s", e->name, err->message);
        f->have[e->id] = true;
    }
    return f;
}

static inline void fixture_free(Fixture *f)
{
    const Engine *engines[] = {&engine_kvm, &engine_interp};
    for (unsigned i = 0; i < 2; i++) {
        if (f->have[engines[i]->id] && engines[i]->vcpu_free)
            engines[i]->vcpu_free(f->v);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (f->have[engines[i]->id] && engines[i]->vm_free)
            engines[i]->vm_free(&f->vm);
    }
    munmap(f->mem.slot[0].host, FIX_RAM);
    close(f->fd);
    clock_free(f->vm.clock);
    vcpu_release(f->v);
    g_free(f);
}

static inline void fix_seg(CpuState *s, unsigned n, uint16_t sel, uint64_t base, uint32_t limit,
                           uint32_t attr)
{
    s->seg[n] = (Segment){.base = base, .limit = limit, .attr = attr, .selector = sel};
}

/* Clears RAM, writes descriptor tables and page tables (identity, 2 MiB pages), loads the program,
 * and sets the canonical state at its first instruction, in `engine`. Selectors: 8 code, 0x10 data,
 * 0x18 TSS (long: 16 bytes). */
static inline void fixture_load(Fixture *f, FixMode mode, const void *code, size_t len,
                                const Engine *engine)
{
    CpuState *s = &f->v->st;
    uint8_t *ram = fix_ram(f);
    memset(ram, 0, FIX_USED);
    memcpy(ram + PROGRAM, code, len);
    f->ended = false;
    f->n_out = f->n_mmio = 0;
    f->vector = -1;
    atomic_store(&f->v->request, 0);
    cpu_state_reset(s, cpuid_signature(&f->cpuid), true);
    s->msr.apic_base = 0xfee00900;
    s->fpu.fcw = 0x37f;
    s->fpu.ftw = 0;
    s->cr0 = CR0_ET | CR0_NE;
    s->rip = PROGRAM;
    s->gpr[RSP] = FIX_STACK;
    bool code32 = mode != FIX_PROT16, l = mode == FIX_LONG;
    if (mode == FIX_REAL) {
        fix_seg(s, CS, 0, 0, 0xffff, 0x9b);
    } else {
        uint64_t gdt[5] = {0,
                           l        ? 0x00af9b000000ffffull
                           : code32 ? 0x00cf9b000000ffffull
                                    : 0x008f9b000000ffffull,
                           code32 ? 0x00cf93000000ffffull : 0x008f93000000ffffull,
                           0x00008b0000000067ull | (uint64_t)FIX_TSS << 16, 0};
        memcpy(ram + FIX_GDT, gdt, sizeof(gdt));
        s->gdt = (DescTable){FIX_GDT, sizeof(gdt) - 1};
        s->idt = (DescTable){FIX_IDT, 0x5ff};
        fix_seg(s, CS, 8, 0, 0xffffffff, 0x809b | (l ? SEG_L : code32 ? SEG_DB : 0));
        for (unsigned n = 0; n < 6; n++) {
            if (n != CS)
                fix_seg(s, n, 0x10, 0, 0xffffffff, 0x8093 | (code32 ? SEG_DB : 0));
        }
        fix_seg(s, TR, 0x18, FIX_TSS, 0x67, 0x8b);
        s->cr0 |= CR0_PE;
    }
    if (l) {
        uint64_t *pml4 = (uint64_t *)(void *)(ram + FIX_PML4);
        pml4[0] = FIX_PML4 + 0x1003;
        pml4[512] = FIX_PML4 + 0x2003;
        for (unsigned i = 0; i < 512; i++)
            pml4[1024 + i] = i * 0x200000ull | 0xe3;
        s->cr3 = FIX_PML4;
        s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        s->efer = EFER_LME | EFER_LMA;
        s->cr0 |= CR0_PG;
    }
    f->v->engine = engine;
    f->v->where = ST_CANONICAL;
    GError *err = NULL;
    if (!engine->import_state(f->v, GROUPS_ALL, &err))
        g_error("import into %s: %s", engine->name, err->message);
    f->v->where = ST_IN_ENGINE;
    if (engine->enter)
        engine->enter(f->v);
}

#endif
