/* The bus an engine sees: ports, memory-mapped devices and interrupt acknowledge, under the machine
 * lock. */
#include "base/log.h"
#include "devices/ferr.h"
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

/*
 * On a busy host the main thread may be held up while a vCPU runs. What it should have done is then
 * done here: ticks follow as fast as the guest ends the ones before. With the interrupt controllers
 * in KVM nothing may be raised while they move, which is the main thread's to know.
 */
static void unlock(Machine *m)
{
    if (!m->chips_in_kvm && timers_late(m->vm.clock))
        machine_timers_run(m);
    machine_unlock(m);
}

static uint64_t mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    Machine *m = v->machine;
    machine_lock(m);
    lapic_set_current(v->apic);
    uint64_t value = io_read(m->board.mmio, gpa, size);
    machine_unlock(m);
    if (log_on(LOG_MMIO))
        log_line("cpu %d mmio read  %#" G_GINT64_MODIFIER "x/%u -> %#" G_GINT64_MODIFIER "x", v->id,
                 gpa, size, value);
    return value;
}

static void mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    Machine *m = v->machine;
    if (log_on(LOG_MMIO))
        log_line("cpu %d mmio write %#" G_GINT64_MODIFIER "x/%u <- %#" G_GINT64_MODIFIER "x", v->id,
                 gpa, size, value);
    machine_lock(m);
    lapic_set_current(v->apic);
    io_write(m->board.mmio, gpa, size, value);
    unlock(m);
}

static uint32_t pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    Machine *m = v->machine;
    machine_lock(m);
    uint32_t value = (uint32_t)io_read(m->board.pio, port, size);
    machine_unlock(m);
    if (log_on(LOG_PIO))
        log_line("cpu %d in  %#x/%u -> %#x", v->id, port, size, value);
    return value;
}

static void pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    Machine *m = v->machine;
    if (log_on(LOG_PIO))
        log_line("cpu %d out %#x/%u <- %#x", v->id, port, size, value);
    machine_lock(m);
    io_write(m->board.pio, port, size, value);
    unlock(m);
}

/* While KVM has the local APIC, what they wait for here is the 8259s' INTR: with the local APICs
 * alone there, those are still here. */
static bool interrupt_waits(Vcpu *v)
{
    Machine *m = v->machine;
    return m->chips_in_kvm ? i8259_intr(m->pc.pic) : lapic_pending(v->apic) >= 0;
}

void machine_update_intr(Vcpu *v)
{
    if (interrupt_waits(v))
        vcpu_request(v, VREQ_INTR);
    else
        vcpu_request_clear(v, VREQ_INTR);
}

static int irq_ack(Vcpu *v)
{
    Machine *m = v->machine;
    machine_lock(m);
    int vector = LAPIC_EXTINT;
    if (!m->chips_in_kvm)
        vector = lapic_ack(v->apic);
    else if (!i8259_intr(m->pc.pic)) /* another vCPU was first */
        vector = -1;
    if (vector == LAPIC_EXTINT)
        vector = i8259_ack(m->pc.pic);
    pc_irq_taken(m);
    machine_update_intr(v);
    machine_unlock(m);
    if (log_on(LOG_IRQ))
        log_line("cpu %d acknowledges vector %d", v->id, vector);
    return vector;
}

static bool apic_msr_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    Machine *m = v->machine;
    /* A rescued instruction: KVM has the local APIC, and where it is on was exported with the rest.
     */
    if (m->chips_in_kvm) {
        *value = v->st.msr.apic_base;
        return msr == 0x1b;
    }
    machine_lock(m);
    bool ok = lapic_msr_read(v->apic, msr, value);
    machine_unlock(m);
    return ok;
}

static bool apic_msr_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    Machine *m = v->machine;
    if (m->chips_in_kvm)
        return false;
    machine_lock(m);
    bool ok = lapic_msr_write(v->apic, msr, value);
    machine_update_intr(v);
    unlock(m);
    return ok;
}

/* A guest that waits by its TSC for ticks of another clock must not find the time over that it was
 * not there, and the ticks yet to come: kernels try their timer so, and panic. */
static void tsc_is_late(Vcpu *v)
{
    Machine *m = v->machine;
    machine_lock(m);
    unlock(m);
}

static uint8_t tpr_get(Vcpu *v)
{
    machine_lock(v->machine);
    uint8_t cr8 = lapic_get_cr8(v->apic);
    machine_unlock(v->machine);
    return cr8;
}

static void tpr_set(Vcpu *v, uint8_t cr8)
{
    machine_lock(v->machine);
    lapic_set_cr8(v->apic, cr8);
    machine_update_intr(v);
    machine_unlock(v->machine);
}

static bool x87_error(Vcpu *v, bool ferr)
{
    Machine *m = v->machine;
    machine_lock(m);
    bool ignne = ferr_set(m->pc.ferr, ferr);
    machine_unlock(m);
    return ignne;
}

static void end_of_interrupt(Vcpu *v, uint8_t vector)
{
    Machine *m = v->machine;
    machine_lock(m);
    ioapic_eoi(m->pc.ioapic, vector);
    irq0_ended(m, vector);
    machine_unlock(m);
}

static int pv_ipi(Vcpu *v, const uint64_t map[2], uint32_t first, uint32_t icr)
{
    Machine *m = v->machine;
    int taken = 0;
    machine_lock(m);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        uint32_t bit = lapic_id(m->pc.lapic[i]) - first;
        if (bit < 128 && map[bit / 64] >> bit % 64 & 1)
            taken += apic_bus_deliver(m->pc.lapic, m->vm.n_vcpus, (uint8_t)lapic_id(m->pc.lapic[i]),
                                      false, icr >> 8 & 7, (uint8_t)icr, false);
    }
    machine_unlock(m);
    return taken;
}

const VcpuBus machine_bus = {
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .pio_read = pio_read,
    .pio_write = pio_write,
    .irq_ack = irq_ack,
    .apic_msr_read = apic_msr_read,
    .apic_msr_write = apic_msr_write,
    .tsc_is_late = tsc_is_late,
    .tpr_get = tpr_get,
    .tpr_set = tpr_set,
    .x87_error = x87_error,
    .ioapic_eoi = end_of_interrupt,
    .pv_ipi = pv_ipi,
};
