#include "devices/debugcon.h"

#define READBACK 0xe9

typedef struct DebugCon {
    Device dev;
    IoRegion *port[2];
    void (*write)(void *opaque, const void *buf, size_t len);
    void *opaque;
} DebugCon;

static DebugCon *debugcon(Device *dev)
{
    return CONTAINER_OF(dev, DebugCon, dev);
}

static uint64_t debugcon_read(void *opaque, uint64_t offset, unsigned size)
{
    return READBACK; /* so that guests can tell it is there */
}

static void debugcon_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    DebugCon *s = opaque;
    uint8_t byte = (uint8_t)value;
    if (s->write)
        s->write(s->opaque, &byte, 1);
}

static const IoOps debugcon_ops = {
    .read = debugcon_read,
    .write = debugcon_write,
    .min = 1,
    .max = 1,
};

void debugcon_connect(Device *dev, void (*write)(void *opaque, const void *buf, size_t len),
                      void *opaque)
{
    DebugCon *s = debugcon(dev);
    s->write = write;
    s->opaque = opaque;
}

static bool debugcon_realize(Device *dev, GHashTable *props, GError **err)
{
    static const uint16_t port[] = {0xe9, 0x402};
    DebugCon *s = debugcon(dev);
    for (unsigned i = 0; i < ARRAY_LEN(port); i++)
        s->port[i] = io_map(dev->board->pio, port[i], 1, &debugcon_ops, s, "debugcon");
    return true;
}

static void debugcon_unrealize(Device *dev)
{
    DebugCon *s = debugcon(dev);
    for (unsigned i = 0; i < ARRAY_LEN(s->port); i++)
        io_unmap(dev->board->pio, s->port[i]);
}

const DeviceClass device_debugcon = {
    .name = "isa-debugcon",
    .help = "debug console at ports 0xe9 and 0x402 (made by -debugcon)",
    .size = sizeof(DebugCon),
    .realize = debugcon_realize,
    .unrealize = debugcon_unrealize,
};
