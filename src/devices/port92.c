#include "devices/port92.h"

#define FAST_RESET 1
#define FAST_A20   2

typedef struct Port92 {
    Device dev;
    IoRegion *region;
    uint8_t value;
} Port92;

static Port92 *port92(Device *dev)
{
    return CONTAINER_OF(dev, Port92, dev);
}

static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
    const Port92 *s = opaque;
    return s->value;
}

static void port92_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Port92 *s = opaque;
    Board *b = s->dev.board;
    bool resets = value & ~s->value & FAST_RESET;
    s->value = (uint8_t)value;
    if (b->set_a20)
        b->set_a20(b->opaque, value & FAST_A20);
    if (resets)
        b->reset(b->opaque);
}

static const IoOps port92_ops = {.read = port92_read, .write = port92_write, .min = 1, .max = 1};

static void port92_reset(Device *dev)
{
    port92(dev)->value = FAST_A20; /* A20 comes up open, as the keyboard controller leaves it */
}

static bool port92_realize(Device *dev, GHashTable *props, GError **err)
{
    Port92 *s = port92(dev);
    s->region = io_map(dev->board->pio, 0x92, 1, &port92_ops, s, "port92");
    return true;
}

static void port92_unrealize(Device *dev)
{
    io_unmap(dev->board->pio, port92(dev)->region);
}

const DeviceClass device_port92 = {
    .name = "port92",
    .help = "fast A20 gate and reset",
    .size = sizeof(Port92),
    .realize = port92_realize,
    .reset = port92_reset,
    .unrealize = port92_unrealize,
};
