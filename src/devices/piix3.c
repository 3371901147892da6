#include "devices/piix3.h"

#include "base/log.h"
#include "devices/pci.h"

#define PIRQRC    0x60 /* one byte a PIRQ: bit 7 off, bits 3:0 the ISA interrupt */
#define PIRQ_OFF  0x80
#define N_PIRQS   4
#define RCR_RESET 0x04
#define RCR_HARD  0x02
/* Interrupts that a PIRQ may be sent to; 0, 1, 2, 8 and 13 are reserved. */
#define PIRQ_VALID 0xdef8u

typedef struct Piix3 {
    Device dev;
    PciFunction pci;
    uint8_t rcr;
    uint16_t lines; /* ISA interrupts held by PIRQs */
} Piix3;

static Piix3 *piix3(Device *dev)
{
    return CONTAINER_OF(dev, Piix3, dev);
}

/* An ISA line is high while any PIRQ routed to it is. */
static void update_lines(Piix3 *s)
{
    uint16_t lines = 0;
    for (int i = 0; i < N_PIRQS; i++) {
        uint8_t route = s->pci.config[PIRQRC + i];
        if (!(route & PIRQ_OFF) && pci_pirq_level(s->dev.board->pci, i))
            lines |= 1u << (route & 15);
    }
    lines &= PIRQ_VALID;
    uint16_t changed = lines ^ s->lines;
    s->lines = lines;
    for (unsigned irq = 0; irq < 16; irq++) {
        if (changed >> irq & 1)
            irq_set(&s->dev.board->isa_irq[irq], lines >> irq & 1);
    }
}

static void route(void *opaque, int pirq, bool level)
{
    update_lines(opaque);
}

static void config_written(PciFunction *f, unsigned offset, unsigned size)
{
    if (offset < PIRQRC + N_PIRQS && offset + size > PIRQRC)
        update_lines(CONTAINER_OF(f, Piix3, pci));
}

void piix3_route_default(Device *dev)
{
    static const uint8_t irq[N_PIRQS] = {10, 10, 11, 11};
    Piix3 *s = piix3(dev);
    for (unsigned i = 0; i < N_PIRQS; i++)
        s->pci.config[PIRQRC + i] = irq[i];
    update_lines(s);
}

static uint64_t rcr_read(void *opaque, uint64_t offset, unsigned size)
{
    const Piix3 *s = opaque;
    return s->rcr;
}

static void rcr_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Piix3 *s = opaque;
    /* The reset comes with the rising edge of bit 2; soft and hard are one to this machine. */
    bool rises = value & ~s->rcr & RCR_RESET;
    s->rcr = value & (RCR_RESET | RCR_HARD);
    if (rises)
        s->dev.board->reset(s->dev.board->opaque);
}

static const IoOps rcr_ops = {.read = rcr_read, .write = rcr_write, .min = 1, .max = 1};

static void piix3_reset(Device *dev)
{
    Piix3 *s = piix3(dev);
    pci_function_reset(&s->pci);
    /* Ports, memory and mastering are always on for the ISA bus behind it. */
    pci_set16(&s->pci, PCI_COMMAND, PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER);
    pci_set16(&s->pci, PCI_STATUS, 0x0200);
    for (unsigned i = 0; i < N_PIRQS; i++)
        s->pci.config[PIRQRC + i] = PIRQ_OFF;
    s->rcr = 0;
    update_lines(s);
}

static bool piix3_realize(Device *dev, GHashTable *props, GError **err)
{
    Piix3 *s = piix3(dev);
    PciBus *bus = dev->board->pci;
    if (!bus) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s needs a PCI bus", dev->cls->name);
        return false;
    }
    pci_function_init(&s->pci, "PIIX3", 0x8086, 0x7000, 0x060100, 0, 0);
    s->pci.config[PCI_HEADER_TYPE] = 0x80; /* there are more functions in this slot */
    s->pci.wmask[PCI_COMMAND] = 0;
    for (unsigned i = 0; i < N_PIRQS; i++)
        s->pci.wmask[PIRQRC + i] = 0x8f;
    s->pci.config_written = config_written;
    if (!pci_add(bus, &s->pci, PCI_DEVFN(1, 0), err))
        return false;
    pci_set_router(bus, route, s);
    pci_set_reset_control(bus, &rcr_ops, s);
    return true;
}

static void piix3_unrealize(Device *dev)
{
    Piix3 *s = piix3(dev);
    if (s->pci.bus) {
        pci_set_router(s->pci.bus, NULL, NULL);
        pci_set_reset_control(s->pci.bus, NULL, NULL);
    }
    pci_remove(&s->pci);
}

static void piix3_describe(Device *dev, GString *out)
{
    const Piix3 *s = piix3(dev);
    for (unsigned i = 0; i < N_PIRQS; i++) {
        uint8_t r = s->pci.config[PIRQRC + i];
        if (r & PIRQ_OFF)
            g_string_append_printf(out, "PIRQ%c off%s", 'A' + i, i == N_PIRQS - 1 ? "\n" : ", ");
        else
            g_string_append_printf(out, "PIRQ%c irq %u%s", 'A' + i, r & 15,
                                   i == N_PIRQS - 1 ? "\n" : ", ");
    }
}

const DeviceClass device_piix3 = {
    .name = "PIIX3",
    .help = "PCI-to-ISA bridge",
    .size = sizeof(Piix3),
    .realize = piix3_realize,
    .reset = piix3_reset,
    .unrealize = piix3_unrealize,
    .describe = piix3_describe,
};
