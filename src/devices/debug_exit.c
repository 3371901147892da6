#include "devices/debug_exit.h"

#include "devices/props.h"

typedef struct DebugExit {
    Device dev;
    IoRegion *region;
    uint64_t iobase, iosize;
} DebugExit;

static DebugExit *debug_exit(Device *dev)
{
    return CONTAINER_OF(dev, DebugExit, dev);
}

static uint64_t debug_exit_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void debug_exit_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    DebugExit *s = opaque;
    s->dev.board->debug_exit(s->dev.board->opaque, (int)((uint32_t)value << 1 | 1));
}

static const IoOps debug_exit_ops = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .min = 1,
    .max = 4,
};

static bool debug_exit_realize(Device *dev, GHashTable *props, GError **err)
{
    DebugExit *s = debug_exit(dev);
    s->iobase = 0x501;
    s->iosize = 2;
    if (!prop_take_number(dev, props, "iobase", 0xffff, &s->iobase, err) ||
        !prop_take_number(dev, props, "iosize", 0x10000 - s->iobase, &s->iosize, err))
        return false;
    if (s->iosize)
        s->region =
            io_map(dev->board->pio, s->iobase, s->iosize, &debug_exit_ops, s, dev->cls->name);
    return true;
}

static void debug_exit_unrealize(Device *dev)
{
    if (debug_exit(dev)->region)
        io_unmap(dev->board->pio, debug_exit(dev)->region);
}

static void debug_exit_describe(Device *dev, GString *out)
{
    const DebugExit *s = debug_exit(dev);
    g_string_append_printf(out, "iobase %#x iosize %#x\n", (unsigned)s->iobase,
                           (unsigned)s->iosize);
}

const DeviceClass device_debug_exit = {
    .name = "isa-debug-exit",
    .help = "a write of v to iobase=0x501,iosize=2 ends the process with status v*2+1",
    .user_creatable = true,
    .size = sizeof(DebugExit),
    .realize = debug_exit_realize,
    .unrealize = debug_exit_unrealize,
    .describe = debug_exit_describe,
};
