/* A vCPU of the software engine over 16 MiB of RAM at address 0, for tests that call the engine's
 * functions one by one. Devices: every access is written down in `bus_log`. */
#ifndef TANDEM_TESTS_SYS_GUEST_H
#define TANDEM_TESTS_SYS_GUEST_H

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "tcg/sys.h"

#define RAM_SIZE 0x1000000ull

static struct {
    VmCommon vm;
    Vcpu v, *vcpus[1];
    MemMap mem;
    CpuidTable cpuid;
    VcpuBus bus;
    uint8_t *ram, *rom;
    gpa_t bus_at[16]; /* accesses in order; writes have bit 63 set */
    unsigned bus_n, bus_size[16];
    uint64_t bus_value[16];
} g;

static CpuState *S;
static Tcg *T;

static void bus_note(gpa_t at, unsigned size, uint64_t value)
{
    ck_assert_uint_lt(g.bus_n, 16);
    g.bus_at[g.bus_n] = at;
    g.bus_size[g.bus_n] = size;
    g.bus_value[g.bus_n++] = value;
}
static uint64_t bus_mmio_read(Vcpu *v G_GNUC_UNUSED, gpa_t at, unsigned size)
{
    bus_note(at, size, 0);
    return 0x8877665544332211ull & size_mask(size);
}
static void bus_mmio_write(Vcpu *v G_GNUC_UNUSED, gpa_t at, unsigned size, uint64_t value)
{
    bus_note(at | BIT(63), size, value);
}
static uint32_t bus_pio_read(Vcpu *v G_GNUC_UNUSED, uint16_t port, unsigned size)
{
    bus_note(port, size, 0);
    return 0x44332211;
}
static void bus_pio_write(Vcpu *v G_GNUC_UNUSED, uint16_t port, unsigned size, uint32_t value)
{
    bus_note(port | BIT(63), size, value);
}
static bool bus_msr_read(Vcpu *v G_GNUC_UNUSED, uint32_t msr G_GNUC_UNUSED, uint64_t *value)
{
    *value = 0xfee00900;
    return true;
}
static bool bus_msr_write(Vcpu *v G_GNUC_UNUSED, uint32_t msr G_GNUC_UNUSED,
                          uint64_t value G_GNUC_UNUSED)
{
    return true;
}
static uint8_t bus_tpr_get(Vcpu *v G_GNUC_UNUSED)
{
    return 5;
}

static inline void ram_put(gpa_t at, uint64_t v, unsigned size)
{
    ck_assert_uint_le(at + size, RAM_SIZE);
    memcpy(g.ram + at, &v, size);
}
static inline uint64_t ram_get(gpa_t at, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, g.ram + at, size);
    return v;
}

/* Real mode after RESET, RAM zero. */
static void sys_reset(void)
{
    memset(g.ram, 0, RAM_SIZE);
    g.bus_n = 0;
    cpu_state_reset(S, cpuid_signature(&g.cpuid), true);
    T->ext = 0;
    T->trap_dr6 = 0;
    T->inhibit = false;
    T->align_check = false;
    T->cc = flags_to_cc(S->rflags);
    memset(T->features, 1, sizeof(T->features));
    T->phys_bits = 40;
    tcg_update_mode(S, T);
    engine_interp.enter(&g.v);
}

static void sys_setup(void)
{
    memset(&g, 0, sizeof(g));
    g.ram = aligned_alloc(4096, RAM_SIZE);
    g.rom = aligned_alloc(4096, 0x1000);
    memset(g.rom, 0xc3, 0x1000);
    g.mem.slot[0] = (RamSlot){.gpa = 0, .size = RAM_SIZE, .host = g.ram, .fd = -1};
    g.mem.slot[1] =
        (RamSlot){.gpa = 0xfffff000, .size = 0x1000, .host = g.rom, .fd = -1, .readonly = true};
    g.mem.n = 2;
    g.bus = (VcpuBus){.mmio_read = bus_mmio_read,
                      .mmio_write = bus_mmio_write,
                      .pio_read = bus_pio_read,
                      .pio_write = bus_pio_write,
                      .apic_msr_read = bus_msr_read,
                      .apic_msr_write = bus_msr_write,
                      .tpr_get = bus_tpr_get};
    ck_assert(cpuid_build(&g.cpuid, "max", NULL, 1, 2000000, NULL));
    g.vcpus[0] = &g.v;
    g.v.vm = &g.vm;
    g.vm =
        (VmCommon){.mem = &g.mem, .bus = &g.bus, .cpuid = &g.cpuid, .vcpu = g.vcpus, .n_vcpus = 1};
    g.vm.clock = clock_new();
    ck_assert(engine_interp.vm_init(&g.vm, NULL));
    ck_assert(engine_interp.vcpu_init(&g.v, NULL));
    S = &g.v.st;
    T = g.v.engine_data[ENGINE_INTERP];
    sys_reset();
}

static void sys_teardown(void)
{
    engine_interp.vcpu_free(&g.v);
    engine_interp.vm_free(&g.vm);
    clock_free(g.vm.clock);
    free(g.ram);
    free(g.rom);
}

static inline void seg_flat(unsigned seg, uint16_t sel, uint32_t attr)
{
    S->seg[seg] = (Segment){.selector = sel, .limit = 0xffffffff, .attr = attr};
}

#endif
