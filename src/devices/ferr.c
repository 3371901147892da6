#include "devices/ferr.h"

typedef struct Ferr {
    Device dev;
    IoRegion *region;
    IrqLine irq;
    bool ferr, ignne;
} Ferr;

static Ferr *ferr(Device *dev)
{
    return CONTAINER_OF(dev, Ferr, dev);
}

bool ferr_set(Device *dev, bool level)
{
    Ferr *s = ferr(dev);
    if (level && !s->ferr)
        irq_set(&s->irq, true); /* latched until port F0h is written */
    s->ferr = level;
    s->ignne &= level;
    return s->ignne;
}

static uint64_t ferr_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0xff; /* write-only */
}

static void ferr_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Ferr *s = opaque;
    irq_set(&s->irq, false);
    s->ignne = s->ferr;
}

static const IoOps ferr_ops = {.read = ferr_read, .write = ferr_write, .min = 1, .max = 1};

void ferr_connect(Device *dev, IrqLine irq13)
{
    ferr(dev)->irq = irq13;
}

static void ferr_reset(Device *dev)
{
    Ferr *s = ferr(dev);
    s->ferr = s->ignne = false;
    irq_set(&s->irq, false);
}

static bool ferr_realize(Device *dev, GHashTable *props, GError **err)
{
    Ferr *s = ferr(dev);
    s->region = io_map(dev->board->pio, 0xf0, 1, &ferr_ops, s, "ferr");
    return true;
}

static void ferr_unrealize(Device *dev)
{
    io_unmap(dev->board->pio, ferr(dev)->region);
}

const DeviceClass device_ferr = {
    .name = "ferr",
    .help = "x87 errors by IRQ 13 (port F0h)",
    .size = sizeof(Ferr),
    .realize = ferr_realize,
    .reset = ferr_reset,
    .unrealize = ferr_unrealize,
};
