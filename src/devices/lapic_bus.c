/* What travels between APICs: IPIs, IOAPIC and MSI messages, EOI (SDM vol. 3, 11.6, 11.10, 11.11).
 */
#include "devices/lapic_priv.h"

static Lapic *const *all; /* machine lock */
static unsigned n_all;
static void (*eoi_fn)(void *opaque, uint8_t vector);
static void *eoi_opaque;

static ApicMessageFn *divert_fn;
static void *divert_opaque;

void lapic_bus_init(Lapic *const lapics[], unsigned n)
{
    all = lapics;
    n_all = n;
    divert_fn = NULL;
}

void lapic_set_eoi_hook(void (*fn)(void *opaque, uint8_t vector), void *opaque)
{
    eoi_fn = fn;
    eoi_opaque = opaque;
}

void apic_bus_divert(ApicMessageFn *fn, void *opaque)
{
    divert_fn = fn;
    divert_opaque = opaque;
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
        return dest == l->id;
    if (l->x2apic) {
        /* An 8-bit logical destination reaches cluster 0, of which it can name 8. */
        uint32_t ldr = lapic_x2_ldr(l);
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    if (l->dfr == 0xf)
        return dest & l->ldr;
    return l->dfr == 0 && dest >> 4 == l->ldr >> 4 && (dest & l->ldr & 0xf);
}

static bool accept(Lapic *l, unsigned delivery, uint8_t vector, bool level)
{
    switch (delivery) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        return lapic_set_irr(l, vector, level);
    case DELIVER_SMI:
        l->cpu.smi(l->cpu.opaque);
        return true;
    case DELIVER_NMI:
        l->cpu.nmi(l->cpu.opaque);
        return true;
    case DELIVER_INIT:
        l->cpu.init(l->cpu.opaque);
        return true;
    case DELIVER_SIPI:
        l->cpu.sipi(l->cpu.opaque, vector);
        return true;
    case DELIVER_EXTINT:
        lapic_set_extint(l);
        return true;
    }
    return false; /* 3 is reserved */
}

/* Lowest priority (SDM vol. 3, 11.6.2.4): of those that can take a vector the one with the lowest
 * processor priority; among equals they take turns, as nothing says who should. */
static Lapic *arbitrate(Lapic *const candidate[], unsigned n)
{
    static unsigned turn;
    Lapic *best = NULL;
    turn++;
    for (unsigned i = 0; i < n; i++) {
        Lapic *l = candidate[(turn + i) % n];
        if (lapic_software_enabled(l) && (!best || lapic_ppr(l) < lapic_ppr(best)))
            best = l;
    }
    return best;
}

static bool deliver_to(Lapic *const target[], unsigned n, unsigned delivery, uint8_t vector,
                       bool level)
{
    if (delivery == DELIVER_LOWEST) {
        Lapic *l = n ? arbitrate(target, n) : NULL;
        return l && accept(l, DELIVER_FIXED, vector, level);
    }
    bool taken = false;
    for (unsigned i = 0; i < n; i++)
        taken |= accept(target[i], delivery, vector, level);
    return taken;
}

static bool deliver(uint32_t dest, bool logical, bool x2, unsigned delivery, uint8_t vector,
                    bool level)
{
    Lapic *target[LAPICS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < n_all; i++) {
        if (matches(all[i], dest, logical, x2))
            target[n++] = all[i];
    }
    return deliver_to(target, n, delivery, vector, level);
}

void lapic_send(Lapic *l, uint32_t dest)
{
    uint32_t icr = (uint32_t)l->icr;
    uint8_t vector = (uint8_t)icr;
    unsigned delivery = icr >> 8 & 7, shorthand = icr >> 18 & 3;
    bool level = icr & 1u << 14, trigger_level = icr & 1u << 15;
    Lapic *target[LAPICS_MAX];
    unsigned n = 0;

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
        return;
    case 1:
        target[n++] = l;
        break;
    default:
        for (unsigned i = 0; i < n_all; i++) {
            if ((shorthand == 2 || all[i] != l) && lapic_enabled(all[i]))
                target[n++] = all[i];
        }
    }
    deliver_to(target, n, delivery, vector, false);
}

bool apic_bus_deliver(Lapic *const lapics[], unsigned n, uint8_t dest, bool logical, uint8_t mode,
                      uint8_t vector, bool level)
{
    if (divert_fn) /* as an MSI (SDM vol. 3, 11.11) */
        return divert_fn(divert_opaque, 0xfee00000ull | (uint64_t)dest << 12 | (logical ? 4 : 0),
                         (level ? 3u << 14 : 0) | (uint32_t)(mode & 7) << 8 | vector);
    return deliver(dest, logical, false, mode, vector, level);
}

bool apic_bus_waiting(uint8_t dest, bool logical, uint8_t vector)
{
    for (unsigned i = 0; i < n_all && !divert_fn; i++) {
        if (matches(all[i], dest, logical, false) && lapic_requested(all[i], vector))
            return true;
    }
    return false;
}

void apic_bus_msi(uint64_t address, uint32_t data)
{
    if (divert_fn) {
        divert_fn(divert_opaque, address, data);
        return;
    }
    deliver(address >> 12 & 0xff, address & 4, false, data >> 8 & 7, (uint8_t)data,
            data & 1u << 15);
}
