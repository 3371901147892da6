/*
 * A guest without a machine, for tests of the software engine: one vCPU, one RAM slot.
 *
 * The RAM's guest-physical, linear and host addresses are the same, so that an instruction can also
 * be run on the bare processor with the same operands.
 */
#ifndef TANDEM_TESTS_TCG_GUEST_H
#define TANDEM_TESTS_TCG_GUEST_H

#include <check.h>
#include <string.h>
#include <sys/mman.h>
#include "cpu/vcpu.h"

#define G_RAM 0x60000000ull /* below the shadow of the address sanitizer */
#ifndef GUEST_ANYWHERE
#define GUEST_ANYWHERE false /* the host may have it at another address */
#endif
#define G_SIZE  0x400000ull
#define G_PML4  G_RAM
#define G_PDPT  (G_RAM + 0x1000)
#define G_PD    (G_RAM + 0x2000)
#define G_PT    (G_RAM + 0x3000) /* maps the first 2 MiB of RAM page by page */
#define G_IDT   (G_RAM + 0x4000)
#define G_GDT   (G_RAM + 0x5000)
#define G_CODE  (G_RAM + 0x100000)
#define G_DATA  (G_RAM + 0x200000) /* in a large page */
#define G_STACK (G_RAM + 0x300000)

typedef struct Guest {
    VmCommon vm;
    Vcpu v, *vcpus[1];
    MemMap mem;
    CpuidTable cpuid;
    VcpuBus bus;
    uint8_t *ram;
    int irq; /* what irq_ack() gives, once */
} Guest;

static Guest guest;
static const Engine *guest_engine = &engine_interp; /* which runs it */

static int guest_irq_ack(Vcpu *v)
{
    int n = guest.irq;
    guest.irq = -1;
    vcpu_request_clear(v, VREQ_INTR);
    return n;
}
static uint64_t guest_mmio_read(Vcpu *v G_GNUC_UNUSED, gpa_t a G_GNUC_UNUSED, unsigned n)
{
    return size_mask(n);
}
static void guest_mmio_write(Vcpu *v G_GNUC_UNUSED, gpa_t a G_GNUC_UNUSED, unsigned n G_GNUC_UNUSED,
                             uint64_t value G_GNUC_UNUSED)
{
}

static inline void *gp(uint64_t gpa) /* host address */
{
    return guest.ram + (gpa - G_RAM);
}
static inline void put64(uint64_t gpa, uint64_t v)
{
    memcpy(gp(gpa), &v, 8);
}

static void guest_segment(unsigned seg, uint32_t attr, uint16_t sel)
{
    guest.v.st.seg[seg] = (Segment){.limit = 0xffffffff, .attr = attr, .selector = sel};
}

/* 64-bit mode, privilege 0, RAM mapped to itself. An exception shuts it down: no IDT. */
static void guest_long_mode(void)
{
    CpuState *s = &guest.v.st;
    cpu_state_reset(s, cpuid_signature(&guest.cpuid), true);
    put64(G_PML4, G_PDPT | 7);
    put64(G_PDPT + 8 * (G_RAM >> 30), G_PD | 7);
    for (unsigned k = 0; k < 512; k++)
        put64(G_PT + 8 * k, (G_RAM + k * 0x1000) | 7);
    put64(G_PD + 8 * (G_RAM >> 21 & 511), G_PT | 7);
    put64(G_PD + 8 * ((G_RAM >> 21 & 511) + 1), (G_RAM + 0x200000) | 0x87);
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    s->cr3 = G_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    guest_segment(CS, 0xa09b, 8);
    for (unsigned k = 0; k < 6; k++)
        if (k != CS)
            guest_segment(k, 0xc093, 16);
    s->idt.limit = 0;
    s->rflags = FL_FIXED;
    s->rip = G_CODE;
    s->gpr[RSP] = G_STACK;
    s->cpl = 0;
    s->run_state = RUN_RUNNING;
    engine_interp.enter(&guest.v);
}

/* Protected mode without paging, flat 32-bit segments. */
static G_GNUC_UNUSED void guest_flat32(void)
{
    guest_long_mode();
    CpuState *s = &guest.v.st;
    s->cr0 &= ~(uint64_t)CR0_PG;
    s->cr4 = 0;
    s->efer = 0;
    guest_segment(CS, 0xc09b, 8);
    engine_interp.enter(&guest.v);
}

static void guest_setup(void)
{
    Guest *g = &guest;
    memset(g, 0, sizeof(*g));
    int fd =
        memfd_create("guest", 0); /* as machines have it: jit/window.c maps parts of it again */
    g_assert(fd >= 0 && ftruncate(fd, G_SIZE) == 0);
    const int place = GUEST_ANYWHERE ? 0 : MAP_FIXED_NOREPLACE;
    g->ram = mmap(GUEST_ANYWHERE ? NULL : (void *)G_RAM, G_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_SHARED | place, fd, 0);
    g_assert(GUEST_ANYWHERE || g->ram == (void *)G_RAM);
    g->irq = -1;
    g->mem.slot[0] = (RamSlot){.gpa = G_RAM, .size = G_SIZE, .host = g->ram, .fd = fd};
    g->mem.n = 1;
    g->bus = (VcpuBus){
        .irq_ack = guest_irq_ack, .mmio_read = guest_mmio_read, .mmio_write = guest_mmio_write};
    g_assert(cpuid_build(&g->cpuid, "max", NULL, 1, 2000000, NULL));
    g->vcpus[0] = &g->v;
    g->v.vm = &g->vm;
    g->vm = (VmCommon){
        .mem = &g->mem, .bus = &g->bus, .cpuid = &g->cpuid, .vcpu = g->vcpus, .n_vcpus = 1};
    GError *err = NULL;
    g_assert(engine_interp.vm_init(&g->vm, &err));
    g_assert(engine_interp.vcpu_init(&g->v, &err));
    guest_long_mode();
}

static void guest_teardown(void)
{
    engine_interp.vcpu_free(&guest.v);
    engine_interp.vm_free(&guest.vm);
    munmap(guest.ram, G_SIZE);
}

static G_GNUC_UNUSED Exit guest_run(uint64_t max_insns)
{
    RunLimit limit = {max_insns};
    return guest_engine->run(&guest.v, &limit);
}

#endif
