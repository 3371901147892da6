/*
 * Does the tick of IRQ 0 (PIT, or HPET in its place) still wait for a CPU? The next one is held
 * back until it does not, or two would be one.
 *
 * With the controllers here they say so. KVM's do not, but tell when an interrupt has been ended:
 * to IRQCHIP_ON by an irqfd that nobody writes to and whose other side, for whoever would raise its
 * line again, is signalled at each EOI of the pin; to IRQCHIP_SPLIT by an exit, which is asked for
 * by naming the pin's vector among the level-triggered ones (kvm_route_levels()). So there a tick
 * waits from when it was raised until that. (One that goes by the 8259s of IRQCHIP_SPLIT does not:
 * they are here, and say so.) A guest that has masked it, or whose KVM does not tell (where the
 * processor ends edge-triggered interrupts by itself), is found by that nothing is heard for long:
 * then nothing is held back until something is.
 */
#include <unistd.h>

#include <glib-unix.h>

#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"

enum { PIN = 2, PATIENCE = 1000 };

/* What stands at the 8259 counts only if an APIC lets it through: a guest that uses the I/O APIC
 * may have left it unmasked there. */
static bool waits_here(const Machine *m)
{
    bool open = false;
    for (unsigned i = 0; i < m->vm.n_vcpus && !open; i++)
        open = lapic_lint0_open(m->pc.lapic[i]);
    return (open && i8259_irq_pending(m->pc.pic, 0)) || ioapic_irq_pending(m->pc.ioapic, PIN);
}

bool irq0_busy(void *opaque)
{
    Machine *m = opaque;
    Irq0 *t = &m->irq0;
    if (!m->chips_in_kvm)
        return waits_here(m);
    /* With IRQCHIP_SPLIT the 8259 is here, and asked where the tick does not go by the I/O APIC.
     * Not every KVM says with such a local APIC that a window for an interrupt has opened. */
    if (m->vm.irqchip == IRQCHIP_SPLIT && ioapic_masked(m->pc.ioapic, PIN)) {
        bool waits = i8259_irq_pending(m->pc.pic, 0);
        if (waits)
            irqchip_pic_intr(m);
        return waits;
    }
    /* Asked, that is, by a timer that has run: a process that was stopped has not lost patience. */
    t->deaf = t->deaf || (t->waits && ++t->asked > PATIENCE);
    return t->waits && !t->deaf;
}

void irq0_raised(Machine *m)
{
    m->irq0.waits = true;
    m->irq0.asked = 0;
}

static void ended(Machine *m)
{
    m->irq0.waits = m->irq0.deaf = false;
}

void irq0_ended(Machine *m, uint8_t vector)
{
    if (ioapic_vector(m->pc.ioapic, PIN) == vector)
        ended(m);
}

void irq0_out(Machine *m)
{
    m->irq0 = (Irq0){.eoi = m->irq0.eoi, .fd = m->irq0.fd, .waits = waits_here(m)};
}

void irq0_look(Machine *m)
{
    uint64_t times;
    if (!m->irq0.eoi || read(m->irq0.fd, &times, sizeof(times)) != sizeof(times))
        return;
    pit_ended(m, times);
    ended(m);
    if (m->chips_in_kvm)
        pc_irq_taken(m);
}

static gboolean told(int fd, GIOCondition cond, gpointer opaque)
{
    Machine *m = opaque;
    machine_lock(m);
    irq0_look(m);
    machine_unlock(m);
    return G_SOURCE_CONTINUE;
}

int irq0_unended(const LapicState *lapic, unsigned n, const ChipState *chips)
{
    const PicState *pic = &chips->pic[0];
    uint64_t rte = chips->ioapic.rte[PIN];
    uint32_t vector = rte & 0xff, bit = 1u << vector % 32;
    int ticks = 0;
    if (rte >> 16 & 1)
        return pic->imr & 1 ? -1 : (pic->irr & 1) + (pic->isr & 1);
    for (unsigned i = 0; i < n; i++)
        ticks +=
            ((lapic[i].irr[vector / 32] & bit) != 0) + ((lapic[i].isr[vector / 32] & bit) != 0);
    return ticks;
}

void irq0_free(Machine *m)
{
    Irq0 *t = &m->irq0;
    if (!t->eoi)
        return;
    g_source_destroy(t->eoi);
    g_source_unref(t->eoi);
    t->eoi = NULL;
}

void irq0_watch(Machine *m)
{
    Irq0 *t = &m->irq0;
    irq0_free(m);
    if (m->vm.irqchip != IRQCHIP_ON || (t->fd = kvm_eoi_fd(&m->vm, PIN)) < 0)
        return;
    t->eoi = g_unix_fd_source_new(t->fd, G_IO_IN);
    g_source_set_priority(t->eoi, G_PRIORITY_HIGH);
    g_source_set_callback(t->eoi, G_SOURCE_FUNC(told), m, NULL);
    g_source_attach(t->eoi, NULL);
}
