#include "devices/pci.h"

#include <string.h>

#include "base/log.h"

#define N_DEVFNS    256
#define N_PIRQS     4
#define CFG_ENABLE  0x80000000u
#define STATUS_INTX (1 << 3) /* in the low byte of PCI_STATUS */

struct PciBus {
    Board *board;
    IoRegion *address_port, *data_port;
    uint32_t address;
    PciFunction *function[N_DEVFNS];
    void (*route)(void *opaque, int pirq, bool level);
    void *route_opaque;
    unsigned raised[N_PIRQS]; /* how many functions hold each line */
    const IoOps *reset_ops;
    void *reset_opaque;
};

/* PCI Local Bus Specification 3.0, 6.2.5: the low bits say what kind of BAR it is. */
static uint32_t bar_flags(enum PciBarKind kind)
{
    return kind == PCI_BAR_IO ? 1 : kind == PCI_BAR_MEM64 ? 4 : 0;
}

static IoSpace *bar_space(const PciFunction *f, const PciBar *bar)
{
    return bar->kind == PCI_BAR_IO ? f->bus->board->pio : f->bus->board->mmio;
}

/* Where the BAR decodes now; false if nowhere. */
static bool bar_base(const PciFunction *f, unsigned n, uint64_t *base)
{
    const PciBar *bar = &f->bar[n];
    unsigned at = PCI_BAR0 + 4 * n;
    uint64_t addr = pci_get32(f, at) & ~(uint64_t)(bar->kind == PCI_BAR_IO ? 3 : 15);
    uint64_t limit = bar->kind == PCI_BAR_IO ? 0xffff : 0xffffffff;
    if (bar->kind == PCI_BAR_MEM64) {
        addr |= (uint64_t)pci_get32(f, at + 4) << 32;
        limit = BIT(52) - 1;
    }
    if (!(pci_get16(f, PCI_COMMAND) & (bar->kind == PCI_BAR_IO ? PCI_CMD_IO : PCI_CMD_MEMORY)))
        return false;
    /* 0 is a BAR that nobody has placed; the very top is one whose size is being asked for. */
    if (!addr || addr > limit || bar->size - 1 >= limit - addr)
        return false;
    *base = addr;
    return true;
}

static void update_bars(PciFunction *f)
{
    for (unsigned n = 0; n < PCI_N_BARS; n++) {
        PciBar *bar = &f->bar[n];
        uint64_t base;
        if (bar->kind == PCI_BAR_NONE)
            continue;
        bool on = bar_base(f, n, &base);
        if (bar->region && (!on || base != bar->base)) {
            io_unmap(bar_space(f, bar), bar->region);
            bar->region = NULL;
        }
        if (on && !bar->region) {
            bar->region =
                io_map(bar_space(f, bar), base, bar->size, bar->ops, bar->opaque, bar->name);
            bar->base = base;
        }
    }
}

static void unmap_bars(PciFunction *f)
{
    for (unsigned n = 0; n < PCI_N_BARS; n++) {
        if (f->bar[n].region)
            io_unmap(bar_space(f, &f->bar[n]), f->bar[n].region);
        f->bar[n].region = NULL;
    }
}

/* Pin A of slot n reaches PIRQ n - 1 (mod 4), the next pins the following ones: the usual board
 * wiring, which the DSDT's _PRT and SeaBIOS repeat. */
static int pirq_of(const PciFunction *f)
{
    int pin = f->config[PCI_INT_PIN] - 1;
    return ((f->devfn >> 3) - 1 + pin) & (N_PIRQS - 1);
}

static void update_intx(PciFunction *f)
{
    bool seen = f->intx && !(pci_get16(f, PCI_COMMAND) & PCI_CMD_INTX_OFF);
    f->config[PCI_STATUS] =
        (uint8_t)((f->config[PCI_STATUS] & ~STATUS_INTX) | (f->intx ? STATUS_INTX : 0));
    if (seen == f->intx_seen)
        return;
    f->intx_seen = seen;
    int pirq = pirq_of(f);
    unsigned *raised = &f->bus->raised[pirq];
    *raised += seen ? 1 : -1u;
    if (f->bus->route && *raised == (seen ? 1 : 0))
        f->bus->route(f->bus->route_opaque, pirq, seen);
}

static void config_write(PciFunction *f, unsigned offset, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t *c = &f->config[offset + i], v = (uint8_t)(value >> 8 * i);
        uint8_t mask = f->wmask[offset + i];
        *c = (uint8_t)((*c & ~mask) | (v & mask));
        *c &= (uint8_t) ~(v & f->w1c[offset + i]);
    }
    if (offset < PCI_COMMAND + 2 && offset + size > PCI_COMMAND)
        update_intx(f);
    if ((offset < PCI_COMMAND + 2 && offset + size > PCI_COMMAND) ||
        (offset < PCI_BAR0 + 4 * PCI_N_BARS && offset + size > PCI_BAR0))
        update_bars(f);
    if (f->config_written)
        f->config_written(f, offset, size);
}

static PciFunction *addressed(const PciBus *bus)
{
    if (!(bus->address & CFG_ENABLE) || bits(bus->address, 23, 16) != 0)
        return NULL;
    return bus->function[bits(bus->address, 15, 8)];
}

static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
    PciBus *bus = opaque;
    if (offset == 0 && size == 4)
        return bus->address;
    if (offset == 1 && size == 1 && bus->reset_ops)
        return bus->reset_ops->read(bus->reset_opaque, 0, 1);
    return size_mask(
        size); /* narrower accesses pass by the bridge to the ISA bus, where nothing is */
}

static void address_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    PciBus *bus = opaque;
    if (offset == 0 && size == 4)
        bus->address = (uint32_t)value & 0x80fffffc;
    else if (offset == 1 && size == 1 && bus->reset_ops)
        bus->reset_ops->write(bus->reset_opaque, 0, 1, value);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    const PciBus *bus = opaque;
    const PciFunction *f = addressed(bus);
    if (!f)
        return size_mask(size);
    uint32_t value = 0;
    unsigned at = (unsigned)((bus->address & 0xfc) + offset);
    for (unsigned i = 0; i < size && at + i < PCI_CONFIG_SIZE; i++)
        value |= (uint32_t)f->config[at + i] << 8 * i;
    return value;
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    PciBus *bus = opaque;
    PciFunction *f = addressed(bus);
    unsigned at = (unsigned)((bus->address & 0xfc) + offset);
    if (f && at + size <= PCI_CONFIG_SIZE)
        config_write(f, at, size, (uint32_t)value);
}

static const IoOps address_ops = {.read = address_read, .write = address_write, .min = 1, .max = 4};
static const IoOps data_ops = {.read = data_read, .write = data_write, .min = 1, .max = 4};

PciBus *pci_bus_new(Board *board)
{
    PciBus *bus = g_new0(PciBus, 1);
    bus->board = board;
    bus->address_port = io_map(board->pio, 0xcf8, 4, &address_ops, bus, "pci-config-address");
    bus->data_port = io_map(board->pio, 0xcfc, 4, &data_ops, bus, "pci-config-data");
    return bus;
}

void pci_bus_free(PciBus *bus)
{
    for (unsigned i = 0; i < N_DEVFNS; i++) {
        if (bus->function[i])
            pci_remove(bus->function[i]);
    }
    io_unmap(bus->board->pio, bus->address_port);
    io_unmap(bus->board->pio, bus->data_port);
    g_free(bus);
}

void pci_set_router(PciBus *bus, void (*set)(void *opaque, int pirq, bool level), void *opaque)
{
    bus->route = set;
    bus->route_opaque = opaque;
}

void pci_set_reset_control(PciBus *bus, const IoOps *ops, void *opaque)
{
    bus->reset_ops = ops;
    bus->reset_opaque = opaque;
}

void pci_function_init(PciFunction *f, const char *name, uint16_t vendor, uint16_t device,
                       uint32_t class_code, uint8_t revision, uint8_t pin)
{
    memset(f, 0, sizeof(*f));
    f->name = name;
    pci_set16(f, PCI_VENDOR_ID, vendor);
    pci_set16(f, PCI_DEVICE_ID, device);
    f->config[PCI_REVISION] = revision;
    f->config[PCI_CLASS_PROG] = (uint8_t)class_code;
    pci_set16(f, PCI_CLASS_DEVICE, (uint16_t)(class_code >> 8));
    f->config[PCI_INT_PIN] = pin;
    f->wmask[PCI_COMMAND] = PCI_CMD_MASTER;
    f->wmask[0x0c] = 0xff; /* cache line size */
    if (pin) {
        f->wmask[PCI_COMMAND + 1] = PCI_CMD_INTX_OFF >> 8;
        f->wmask[PCI_INT_LINE] = 0xff;
    }
}

void pci_add_bar(PciFunction *f, unsigned n, enum PciBarKind kind, uint64_t size, const IoOps *ops,
                 void *opaque, const char *name)
{
    g_assert(n < PCI_N_BARS && (kind != PCI_BAR_MEM64 || n + 1 < PCI_N_BARS));
    g_assert(size && (size & (size - 1)) == 0 && size >= (kind == PCI_BAR_IO ? 4 : 16));
    unsigned at = PCI_BAR0 + 4 * n;
    uint64_t mask = ~(size - 1);
    f->bar[n] = (PciBar){.kind = kind, .size = size, .ops = ops, .opaque = opaque, .name = name};
    pci_set32(f, at, bar_flags(kind));
    for (unsigned i = 0; i < (kind == PCI_BAR_MEM64 ? 8 : 4); i++)
        f->wmask[at + i] = (uint8_t)(mask >> 8 * i);
    f->wmask[PCI_COMMAND] |= kind == PCI_BAR_IO ? PCI_CMD_IO : PCI_CMD_MEMORY;
}

bool pci_add(PciBus *bus, PciFunction *f, int devfn, GError **err)
{
    if (devfn == PCI_ANY_DEVFN) {
        /* A slot is free when its function 0 is: the others cannot be without it. */
        for (devfn = PCI_DEVFN(1, 0); devfn < N_DEVFNS && bus->function[devfn]; devfn += 8)
            ;
        if (devfn >= N_DEVFNS) {
            g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: all PCI slots are taken", f->name);
            return false;
        }
    }
    if (bus->function[devfn]) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: PCI function 00:%02x.%x is taken by %s",
                    f->name, devfn >> 3, devfn & 7, bus->function[devfn]->name);
        return false;
    }
    f->bus = bus;
    f->devfn = (uint8_t)devfn;
    bus->function[devfn] = f;
    return true;
}

void pci_remove(PciFunction *f)
{
    if (!f->bus)
        return; /* never added, or the bus went first */
    pci_set_irq(f, false);
    unmap_bars(f);
    f->bus->function[f->devfn] = NULL;
    f->bus = NULL;
}

void pci_function_reset(PciFunction *f)
{
    pci_set16(f, PCI_COMMAND, 0);
    f->config[PCI_INT_LINE] = 0;
    f->config[0x0c] = 0;
    for (unsigned n = 0; n < PCI_N_BARS; n++) {
        if (f->bar[n].kind == PCI_BAR_NONE)
            continue;
        pci_set32(f, PCI_BAR0 + 4 * n, bar_flags(f->bar[n].kind));
        if (f->bar[n].kind == PCI_BAR_MEM64)
            pci_set32(f, PCI_BAR0 + 4 * (n + 1), 0);
    }
    if (f->bus) {
        update_bars(f);
        pci_set_irq(f, false);
    }
}

void pci_set_irq(PciFunction *f, bool level)
{
    f->intx = level;
    if (f->bus && f->config[PCI_INT_PIN])
        update_intx(f);
}

bool pci_pirq_level(const PciBus *bus, int pirq)
{
    return bus->raised[pirq & (N_PIRQS - 1)] > 0;
}
