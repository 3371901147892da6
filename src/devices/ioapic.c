/* 82093AA. A redirection entry keeps the remote IRR bit set from delivery to EOI for level
 * interrupts. */
#include "devices/ioapic.h"

#define IOAPIC_BASE 0xfec00000ull

enum {
    RTE_VECTOR = 0xff,
    RTE_LOGICAL = 1 << 11,
    RTE_REMOTE_IRR = 1 << 14,
    RTE_LEVEL = 1 << 15,
    RTE_MASKED = 1 << 16,
    RTE_READ_ONLY = 1 << 12 | RTE_REMOTE_IRR,
};

typedef struct Ioapic {
    Device dev;
    Lapic *const *lapics;
    unsigned n_lapics;
    uint32_t lines; /* as driven */
    uint64_t rte[IOAPIC_PINS];
    uint8_t select, id;
    bool parked;
    void (*changed)(void *opaque);
    void *changed_opaque;
    IoRegion *region;
} Ioapic;

static bool send(const Ioapic *a, uint64_t rte)
{
    return apic_bus_deliver(a->lapics, a->n_lapics, (uint8_t)(rte >> 56), rte & RTE_LOGICAL,
                            rte >> 8 & 7, rte & RTE_VECTOR, rte & RTE_LEVEL);
}

/* A level interrupt is sent while its line is up; once accepted, not again before EOI. */
static void service_level(Ioapic *a, unsigned pin)
{
    uint64_t rte = a->rte[pin];
    if (!(rte & RTE_MASKED) && (rte & RTE_LEVEL) && !(rte & RTE_REMOTE_IRR) &&
        (a->lines & 1u << pin) && send(a, rte))
        a->rte[pin] |= RTE_REMOTE_IRR;
}

void ioapic_connect(Device *dev, Lapic *const lapics[], unsigned n)
{
    ((Ioapic *)dev)->lapics = lapics;
    ((Ioapic *)dev)->n_lapics = n;
}

void ioapic_set_irq(void *dev, int pin, bool level)
{
    Ioapic *a = dev;
    if (pin < 0 || pin >= IOAPIC_PINS)
        return;
    uint64_t rte = a->rte[pin];
    uint32_t bit = 1u << pin;
    bool was = a->lines & bit;
    a->lines = level ? a->lines | bit : a->lines & ~bit;
    if (a->parked)
        return;
    if (rte & RTE_LEVEL)
        service_level(a, (unsigned)pin);
    else if (level && !was &&
             !(rte & RTE_MASKED)) /* an edge on a masked input is not held pending */
        send(a, rte);
}

bool ioapic_irq_pending(const Device *dev, int pin)
{
    const Ioapic *a = (const Ioapic *)dev;
    if (pin < 0 || pin >= IOAPIC_PINS || (a->rte[pin] & RTE_MASKED))
        return false;
    return apic_bus_waiting((uint8_t)(a->rte[pin] >> 56), a->rte[pin] & RTE_LOGICAL,
                            a->rte[pin] & RTE_VECTOR);
}

uint8_t ioapic_vector(const Device *dev, unsigned pin)
{
    return ((const Ioapic *)dev)->rte[pin] & RTE_VECTOR;
}

bool ioapic_masked(const Device *dev, unsigned pin)
{
    return ((const Ioapic *)dev)->rte[pin] & RTE_MASKED;
}

void ioapic_eoi(void *dev, uint8_t vector)
{
    Ioapic *a = dev;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        if ((a->rte[i] & RTE_REMOTE_IRR) && (a->rte[i] & RTE_VECTOR) == vector) {
            a->rte[i] &= ~(uint64_t)RTE_REMOTE_IRR;
            service_level(a, i);
        }
    }
}

static void write_rte(Ioapic *a, unsigned pin, bool high, uint32_t v)
{
    uint64_t *rte = &a->rte[pin];
    if (high)
        *rte = (*rte & 0xffffffffull) | (uint64_t)(v & 0xff000000) << 32;
    else
        *rte = (*rte & 0xffffffff00000000ull) | (v & 0x1ffff & ~RTE_READ_ONLY) |
               (*rte & RTE_READ_ONLY);
    if (!(*rte &
          RTE_LEVEL)) /* switching to edge clears remote IRR: how Linux ends stuck interrupts */
        *rte &= ~(uint64_t)RTE_REMOTE_IRR;
    if (a->changed)
        a->changed(a->changed_opaque);
    service_level(a, pin);
}

static uint32_t read_register(Ioapic *a)
{
    switch (a->select) {
    case 0:
    case 2:
        return (uint32_t)a->id << 24;
    case 1:
        return 0x20 | (IOAPIC_PINS - 1) << 16;
    }
    unsigned pin = (a->select - 0x10u) >> 1;
    if (a->select < 0x10 || pin >= IOAPIC_PINS)
        return 0;
    return (uint32_t)(a->select & 1 ? a->rte[pin] >> 32 : a->rte[pin]);
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    Ioapic *a = opaque;
    return offset == 0 ? a->select : offset == 0x10 ? read_register(a) : 0;
}

static void page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Ioapic *a = opaque;
    if (offset == 0) {
        a->select = (uint8_t)value;
    } else if (offset == 0x40) {
        ioapic_eoi(a, (uint8_t)value);
    } else if (offset == 0x10) {
        unsigned pin = (a->select - 0x10u) >> 1;
        if (a->select == 0)
            a->id = value >> 24 & 0xf;
        else if (a->select >= 0x10 && pin < IOAPIC_PINS)
            write_rte(a, pin, a->select & 1, (uint32_t)value);
    }
}

static const IoOps page_ops = {.read = page_read, .write = page_write, .min = 4, .max = 4};

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    ((Ioapic *)dev)->region =
        io_map(dev->board->mmio, IOAPIC_BASE, 0x1000, &page_ops, dev, "ioapic");
    return true;
}

static void unrealize(Device *dev)
{
    io_unmap(dev->board->mmio, ((Ioapic *)dev)->region);
}

static void reset(Device *dev)
{
    Ioapic *a = (Ioapic *)dev;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        a->rte[i] = RTE_MASKED;
    a->select = a->id = 0;
    if (a->changed)
        a->changed(a->changed_opaque);
}

/* ---- state out and in ---- */

void ioapic_save(const Device *dev, IoapicState *s)
{
    const Ioapic *a = (const Ioapic *)dev;
    *s = (IoapicState){.id = a->id, .select = a->select};
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        s->rte[i] = a->rte[i];
        if (a->rte[i] & RTE_LEVEL)
            s->irr |= a->lines & 1u << i;
    }
}

void ioapic_load(Device *dev, const IoapicState *s)
{
    Ioapic *a = (Ioapic *)dev;
    a->id = (uint8_t)(s->id & 0xf);
    a->select = (uint8_t)s->select;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        a->rte[i] = s->rte[i];
    if (a->changed)
        a->changed(a->changed_opaque);
}

void ioapic_park(Device *dev, bool parked)
{
    Ioapic *a = (Ioapic *)dev;
    if (parked == a->parked)
        return;
    a->parked = parked;
    for (unsigned i = 0; i < IOAPIC_PINS && !parked; i++)
        service_level(a, i);
}

void ioapic_watch(Device *dev, void (*fn)(void *opaque), void *opaque)
{
    Ioapic *a = (Ioapic *)dev;
    a->changed = fn;
    a->changed_opaque = opaque;
}

static void describe(Device *dev, GString *out)
{
    Ioapic *a = (Ioapic *)dev;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        if (!(a->rte[i] & RTE_MASKED))
            g_string_append_printf(
                out, "ioapic pin %2u: vector %02x %s %s dest %02x%s\n", i,
                (unsigned)(a->rte[i] & RTE_VECTOR), a->rte[i] & RTE_LEVEL ? "level" : "edge",
                a->rte[i] & RTE_LOGICAL ? "logical" : "physical", (unsigned)(a->rte[i] >> 56),
                a->rte[i] & RTE_REMOTE_IRR ? " remote-irr" : "");
    }
}

const DeviceClass device_ioapic = {
    .name = "ioapic",
    .help = "I/O APIC",
    .size = sizeof(Ioapic),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .describe = describe,
};
