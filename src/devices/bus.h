/*
 * Where device models meet the CPU: port and memory-mapped regions, and the registry of devices.
 *
 * All callbacks run with the machine lock held, on a vCPU's thread or the main thread. The guest is
 * hostile: `offset` and `size` are in range of the region, everything else must be checked.
 */
#ifndef TANDEM_DEVICES_BUS_H
#define TANDEM_DEVICES_BUS_H

#include <glib.h>
#include "base/clock.h"
#include "base/irq.h"
#include "base/memmap.h"
#include "base/types.h"

typedef struct IoRegion IoRegion;
typedef struct IoSpace IoSpace;

/* Access sizes are 1, 2, 4 and, for memory, 8. min/max say what the device takes; the space splits
 * a wider access into max-sized ones (little-endian) and widens a narrower read to min, as the bus
 * does. */
typedef struct IoOps {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
    uint8_t min, max; /* 0 means 1 and 4 */
} IoOps;

IoSpace *io_space_new(const char *name, uint64_t size); /* "pio" 64 KiB; "mmio" 2^52 */
void io_space_free(IoSpace *);
/* Maps a region. Overlaps: the later one wins (PCI BARs over holes). Returned handle moves or
 * removes it. */
IoRegion *io_map(IoSpace *, uint64_t base, uint64_t len, const IoOps *, void *opaque,
                 const char *name);
void io_unmap(IoSpace *, IoRegion *);
void io_move(IoSpace *, IoRegion *, uint64_t base);
/* What nobody answers reads all ones and is logged under -d unimp. */
uint64_t io_read(IoSpace *, uint64_t addr, unsigned size);
void io_write(IoSpace *, uint64_t addr, unsigned size, uint64_t value);
/* One region a line, sorted: for `info mtree`. */
void io_describe(const IoSpace *, GString *out);

/* What the board offers to devices. */
typedef struct Board {
    Clock *clock;
    IoSpace *pio, *mmio;
    MemMap *mem;         /* DMA and loaders; read only for devices */
    IrqLine isa_irq[16]; /* inputs of the interrupt controllers: GSI 0-15 */
    IrqLine gsi[24];     /* IOAPIC inputs (0-15 go to both controllers) */
    struct PciBus *pci;  /* set by the host bridge when it is made */
    void *opaque;        /* Machine */
    /* Requests to the machine; asynchronous, any context. */
    void (*reset)(void *opaque);
    void (*poweroff)(void *opaque);
    void (*debug_exit)(void *opaque, int status); /* isa-debug-exit */
    void (*set_a20)(void *opaque, bool on);
    /* Guest RAM was written behind the CPUs' backs. */
    void (*dma_wrote)(void *opaque, gpa_t gpa, uint64_t len);
    /* The memory map should be made anew (PAM). Called from a vCPU's access: the machine stops the
     * vCPUs first. */
    void (*remap)(void *opaque);
} Board;

typedef struct Device Device;
typedef struct DeviceClass {
    const char *name; /* as -device and info qtree spell it */
    const char *help;
    bool user_creatable; /* by -device */
    size_t size;         /* of the state struct, which starts with Device */
    /* props: key -> value strings (GHashTable) of -device NAME,key=value; each class removes the
     * keys it knows, what is left is refused by name. NULL for board devices. */
    bool (*realize)(Device *, GHashTable *props, GError **);
    void (*reset)(Device *); /* power-on state; also called once after realize */
    void (*unrealize)(Device *);
    void (*describe)(Device *, GString *out); /* `info` lines; may be NULL */
} DeviceClass;

struct Device {
    const DeviceClass *cls;
    Board *board;
};

/* devices.def: DEVICE(symbol) a line, symbol being `const DeviceClass device_SYMBOL`. */
const DeviceClass *device_class(const char *name);
void device_classes_help(GString *out); /* -device help */
/* Allocates, realizes, resets. NULL and err on failure. */
Device *device_new(const DeviceClass *, Board *, GHashTable *props, GError **);
void device_free(Device *);

#endif
