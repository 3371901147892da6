/*
 * Ports 0xe0-0xe3 and 0xe8-0xeb hold four bytes (the second window byte by byte), a page address
 * written to 0xe4 makes the engines forget what they know of that page, a byte written to 0x2000 +
 * n sets interrupt input n, and 64 KiB at 0xff000000 is memory that only the device sees.
 */
#include "devices/testdev.h"

#include <string.h>

#define IOMEM_BASE 0xff000000u
#define IOMEM_SIZE 0x10000
#define N_PORTS    4

typedef struct TestDev {
    Device dev;
    IoRegion *port[N_PORTS], *memory;
    uint8_t data[4];
    uint8_t iomem[IOMEM_SIZE];
} TestDev;

static TestDev *testdev(Device *dev)
{
    return CONTAINER_OF(dev, TestDev, dev);
}

static uint64_t load(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, bytes, size);
    return value;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    const TestDev *s = opaque;
    return load(s->data + offset, size);
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    TestDev *s = opaque;
    memcpy(s->data + offset, &value, size);
}

static uint64_t iomem_read(void *opaque, uint64_t offset, unsigned size)
{
    const TestDev *s = opaque;
    return load(s->iomem + offset, size);
}

static void iomem_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    TestDev *s = opaque;
    memcpy(s->iomem + offset, &value, size);
}

static uint64_t ones(void *opaque, uint64_t offset, unsigned size)
{
    return size_mask(size);
}

static void flush_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    const TestDev *s = opaque;
    const Board *b = s->dev.board;
    gpa_t page = value & 0xfffff000;
    if (size == 4 && memmap_host(b->mem, page, 4096, false) && b->dma_wrote)
        b->dma_wrote(b->opaque, page, 4096);
}

static void irq_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    const TestDev *s = opaque;
    const Board *b = s->dev.board;
    if (offset < ARRAY_LEN(b->gsi))
        irq_set(&b->gsi[offset], value != 0);
}

static const IoOps data_ops = {.read = data_read, .write = data_write, .min = 1, .max = 4};
static const IoOps byte_ops = {.read = data_read, .write = data_write, .min = 1, .max = 1};
static const IoOps flush_ops = {.read = ones, .write = flush_write, .min = 1, .max = 4};
static const IoOps irq_ops = {.read = ones, .write = irq_write, .min = 1, .max = 1};
static const IoOps iomem_ops = {.read = iomem_read, .write = iomem_write, .min = 1, .max = 8};

static void testdev_reset(Device *dev)
{
    TestDev *s = testdev(dev);
    memset(s->data, 0, sizeof(s->data));
    memset(s->iomem, 0, sizeof(s->iomem));
}

static bool testdev_realize(Device *dev, GHashTable *props, GError **err)
{
    TestDev *s = testdev(dev);
    Board *b = dev->board;
    s->port[0] = io_map(b->pio, 0xe0, 4, &data_ops, s, "pc-testdev-ioport");
    s->port[1] = io_map(b->pio, 0xe4, 4, &flush_ops, s, "pc-testdev-flush-page");
    s->port[2] = io_map(b->pio, 0xe8, 4, &byte_ops, s, "pc-testdev-ioport-byte");
    s->port[3] = io_map(b->pio, 0x2000, ARRAY_LEN(b->gsi), &irq_ops, s, "pc-testdev-irq-line");
    s->memory = io_map(b->mmio, IOMEM_BASE, IOMEM_SIZE, &iomem_ops, s, "pc-testdev-iomem");
    return true;
}

static void testdev_unrealize(Device *dev)
{
    TestDev *s = testdev(dev);
    for (unsigned i = 0; i < ARRAY_LEN(s->port); i++)
        io_unmap(dev->board->pio, s->port[i]);
    io_unmap(dev->board->mmio, s->memory);
}

const DeviceClass device_testdev = {
    .name = "pc-testdev",
    .help = "what kernel test suites expect: test ports, interrupt lines, a memory window",
    .user_creatable = true,
    .size = sizeof(TestDev),
    .realize = testdev_realize,
    .reset = testdev_reset,
    .unrealize = testdev_unrealize,
};
