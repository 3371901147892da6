/*
 * PCI bus 0 of the board: configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2),
 * functions, BARs and INTx.
 *
 * The host bridge (i440fx) makes the bus and leaves it in Board.pci. A function is embedded in its
 * device's state: fill it with pci_function_init(), add BARs, then pci_add(). Everything runs with
 * the machine lock held.
 */
#ifndef TANDEM_DEVICES_PCI_H
#define TANDEM_DEVICES_PCI_H

#include "devices/bus.h"

#define PCI_CONFIG_SIZE     256
#define PCI_N_BARS          6
#define PCI_DEVFN(slot, fn) ((uint8_t)((slot) << 3 | (fn)))
#define PCI_ANY_DEVFN       (-1)

enum PciReg {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS_DEVICE = 0x0a,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYS_VENDOR_ID = 0x2c,
    PCI_SUBSYS_ID = 0x2e,
    PCI_INT_LINE = 0x3c,
    PCI_INT_PIN = 0x3d,
};

enum PciCommand {
    PCI_CMD_IO = 1 << 0,
    PCI_CMD_MEMORY = 1 << 1,
    PCI_CMD_MASTER = 1 << 2,
    PCI_CMD_INTX_OFF = 1 << 10,
};

enum PciBarKind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

typedef struct PciBus PciBus;
typedef struct PciFunction PciFunction;

typedef struct PciBar {
    enum PciBarKind kind;
    uint64_t size; /* power of two; at least 4 for ports, 16 for memory */
    const IoOps *ops;
    void *opaque;
    const char *name;
    IoRegion *region; /* mapped now, or NULL */
    uint64_t base;
} PciBar;

struct PciFunction {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t wmask[PCI_CONFIG_SIZE]; /* bits the guest may write */
    uint8_t w1c[PCI_CONFIG_SIZE];   /* bits a written 1 clears */
    /* After a write that touched offset..offset+size-1; BARs are mapped already. May be NULL. */
    void (*config_written)(PciFunction *, unsigned offset, unsigned size);
    PciBus *bus;
    uint8_t devfn;
    const char *name;
    PciBar bar[PCI_N_BARS];
    bool intx;      /* level the function drives */
    bool intx_seen; /* level the bus hears: intx unless PCI_CMD_INTX_OFF */
};

PciBus *pci_bus_new(Board *); /* maps 0xcf8-0xcff */
void pci_bus_free(PciBus *);
/* Who turns PIRQ 0-3 (A-D, after the slot swizzle) into interrupt inputs: the ISA bridge. */
void pci_set_router(PciBus *, void (*set)(void *opaque, int pirq, bool level), void *opaque);

/* Who answers byte accesses to port 0xcf9, which lies inside the address register: the ISA bridge.
 */
void pci_set_reset_control(PciBus *, const IoOps *, void *opaque);

/* Zeroes *f and sets the ids, the writable bits of the common header, and an interrupt pin (0:
 * none, 1: INTA#). */
void pci_function_init(PciFunction *f, const char *name, uint16_t vendor, uint16_t device,
                       uint32_t class_code, uint8_t revision, uint8_t pin);
void pci_add_bar(PciFunction *, unsigned n, enum PciBarKind, uint64_t size, const IoOps *,
                 void *opaque, const char *name);
/* devfn, or PCI_ANY_DEVFN for function 0 of the first free slot. Fails when the place is taken. */
bool pci_add(PciBus *, PciFunction *, int devfn, GError **);
void pci_remove(PciFunction *);
/* Power-on state of the common header: command off, BARs unmapped and zero. */
void pci_function_reset(PciFunction *);
void pci_set_irq(PciFunction *, bool level);
/* Level of PIRQ 0-3 now: for the router after its registers changed. */
bool pci_pirq_level(const PciBus *, int pirq);

static inline uint16_t pci_get16(const PciFunction *f, unsigned at)
{
    return (uint16_t)(f->config[at] | f->config[at + 1] << 8);
}

static inline void pci_set16(PciFunction *f, unsigned at, uint16_t v)
{
    f->config[at] = (uint8_t)v;
    f->config[at + 1] = (uint8_t)(v >> 8);
}

static inline uint32_t pci_get32(const PciFunction *f, unsigned at)
{
    return pci_get16(f, at) | (uint32_t)pci_get16(f, at + 2) << 16;
}

static inline void pci_set32(PciFunction *f, unsigned at, uint32_t v)
{
    pci_set16(f, at, (uint16_t)v);
    pci_set16(f, at + 2, (uint16_t)(v >> 16));
}

#endif
