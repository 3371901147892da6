/* What travels between APICs: IPIs, IOAPIC and MSI messages, EOI (SDM vol. 3, 11.6, 11.10, 11.11).
 */
#include "devices/lapic_priv.h"

static Lapic *const *all; /* machine lock */
static unsigned n_all;
static void (*eoi_fn)(void *opaque, uint8_t vector);
static void *eoi_opaque;

void lapic_bus_init(Lapic *const lapics[], unsigned n)
{
    all = lapics;
    n_all = n;
}

void lapic_set_eoi_hook(void (*fn)(void *opaque, uint8_t vector), void *opaque)
{
    eoi_fn = fn;
    eoi_opaque = opaque;
}

void lapic_eoi_broadcast(uint8_t vector)
{
    if (eoi_fn)
        eoi_fn(eoi_opaque, vector);
}

uint32_t lapic_x2_ldr(const Lapic *l)
{
    return (l->id >> 4) << 16 | 1u << (l->id & 15);
}

/* x2: dest is 32 bits wide (an x2APIC's ICR); else an xAPIC destination of 8 bits. */
static bool matches(const Lapic *l, uint32_t dest, bool logical, bool x2)
{
    if (!lapic_enabled(l))
        return false;
    if (dest == (x2 ? 0xffffffffu : 0xffu))
        return true;
    if (!logical)
        return l->x2apic ? dest == l->id : dest == l->xapic_id;
    if (l->x2apic) {
        /* An 8-bit logical destination reaches cluster 0, of which it can name 8. */
        uint32_t ldr = lapic_x2_ldr(l);
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    if (l->dfr == 0xf)
        return dest & l->ldr;
    return l->dfr == 0 && dest >> 4 == l->ldr >> 4 && (dest & l->ldr & 0xf);
}

static void accept(Lapic *l, unsigned delivery, uint8_t vector, bool level)
{
    switch (delivery) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        lapic_set_irr(l, vector, level);
        break;
    case DELIVER_SMI:
        l->cpu.smi(l->cpu.opaque);
        break;
    case DELIVER_NMI:
        l->cpu.nmi(l->cpu.opaque);
        break;
    case DELIVER_INIT:
        l->cpu.init(l->cpu.opaque);
        break;
    case DELIVER_SIPI:
        l->cpu.sipi(l->cpu.opaque, vector);
        break;
    case DELIVER_EXTINT: /* INTA goes to the 8259s while the line is up: LINT0's business */
        break;
    }
}

static void deliver(uint32_t dest, bool logical, bool x2, unsigned delivery, uint8_t vector,
                    bool level)
{
    Lapic *lowest = NULL;
    for (unsigned i = 0; i < n_all; i++) {
        Lapic *l = all[i];
        if (!matches(l, dest, logical, x2))
            continue;
        if (delivery != DELIVER_LOWEST)
            accept(l, delivery, vector, level);
        else if (!lowest || l->tpr < lowest->tpr)
            lowest = l;
    }
    if (lowest)
        accept(lowest, DELIVER_FIXED, vector, level);
}

void lapic_send(Lapic *l, uint32_t dest)
{
    uint32_t icr = (uint32_t)l->icr;
    uint8_t vector = (uint8_t)icr;
    unsigned delivery = icr >> 8 & 7, shorthand = icr >> 18 & 3;
    bool level = icr & 1u << 14, trigger_level = icr & 1u << 15;

    if ((delivery == DELIVER_FIXED || delivery == DELIVER_LOWEST) && vector < 16) {
        lapic_error(l, ESR_SEND_ILLEGAL);
        return;
    }
    /* INIT level de-assert only synchronised arbitration ids; processors since the Pentium 4 ignore
     * it. */
    if (delivery == DELIVER_INIT && trigger_level && !level)
        return;
    switch (shorthand) {
    case 0:
        deliver(dest, icr & 1u << 11, l->x2apic, delivery, vector, false);
        break;
    case 1:
        accept(l, delivery, vector, false);
        break;
    default:
        for (unsigned i = 0; i < n_all; i++) {
            if ((shorthand == 2 || all[i] != l) && lapic_enabled(all[i]))
                accept(all[i], delivery, vector, false);
        }
    }
}

void apic_bus_deliver(Lapic *const lapics[], unsigned n, uint8_t dest, bool logical, uint8_t mode,
                      uint8_t vector, bool level)
{
    deliver(dest, logical, false, mode, vector, level);
}

void apic_bus_msi(uint64_t address, uint32_t data)
{
    deliver(address >> 12 & 0xff, address & 4, false, data >> 8 & 7, (uint8_t)data,
            data & 1u << 15);
}
