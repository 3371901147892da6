/* Numbers in items are little-endian, those of the file directory and of DMA big-endian. */
#include "devices/fw_cfg.h"

#include <string.h>

#include "base/log.h"

#define NAME_MAX_LEN  55
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

enum {
    DMA_ERROR = 1 << 0,
    DMA_READ = 1 << 1,
    DMA_SKIP = 1 << 2,
    DMA_SELECT = 1 << 3,
    DMA_WRITE = 1 << 4,
};

typedef struct DirEntry {
    uint32_t size;
    uint16_t select, reserved;
    char name[NAME_MAX_LEN + 1];
} DirEntry;

typedef struct FwCfg {
    Device dev;
    IoRegion *port, *dma_port;
    GHashTable *items; /* GUINT_TO_POINTER(key) -> GBytes */
    DirEntry dir[FW_CFG_FILES_MAX];
    unsigned n_files;
    uint16_t key;
    uint64_t offset;
    uint64_t dma_address;
} FwCfg;

static FwCfg *fw_cfg(Device *dev)
{
    return CONTAINER_OF(dev, FwCfg, dev);
}

static void store_be(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * (size - 1 - i));
}

static uint64_t load_be(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++)
        v = v << 8 | p[i];
    return v;
}

void fw_cfg_add_bytes(Device *dev, uint16_t key, const void *data, size_t len)
{
    g_hash_table_replace(fw_cfg(dev)->items, GUINT_TO_POINTER(key), g_bytes_new(data, len));
}

static void add_number(Device *dev, uint16_t key, uint64_t v, unsigned size)
{
    uint8_t bytes[8];
    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(v >> 8 * i);
    fw_cfg_add_bytes(dev, key, bytes, size);
}

void fw_cfg_add_u16(Device *dev, uint16_t key, uint16_t v)
{
    add_number(dev, key, v, 2);
}

void fw_cfg_add_u32(Device *dev, uint16_t key, uint32_t v)
{
    add_number(dev, key, v, 4);
}

void fw_cfg_add_u64(Device *dev, uint16_t key, uint64_t v)
{
    add_number(dev, key, v, 8);
}

static void update_directory(FwCfg *s)
{
    uint8_t out[4 + FW_CFG_FILES_MAX * 64] = {0};
    store_be(out, s->n_files, 4);
    for (unsigned i = 0; i < s->n_files; i++) {
        uint8_t *e = out + 4 + 64 * (size_t)i;
        store_be(e, s->dir[i].size, 4);
        store_be(e + 4, s->dir[i].select, 2);
        memcpy(e + 8, s->dir[i].name, sizeof(s->dir[i].name));
    }
    fw_cfg_add_bytes(&s->dev, FW_CFG_FILE_DIR, out, 4 + 64 * (size_t)s->n_files);
}

bool fw_cfg_add_file(Device *dev, const char *name, const void *data, size_t len, GError **err)
{
    FwCfg *s = fw_cfg(dev);
    if (!name[0] || strlen(name) > NAME_MAX_LEN || len > UINT32_MAX) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "fw_cfg file '%s': a name has 1 to %u bytes and a file less than 4 GiB", name,
                    NAME_MAX_LEN);
        return false;
    }
    unsigned i = 0;
    while (i < s->n_files && strcmp(s->dir[i].name, name))
        i++;
    if (i == FW_CFG_FILES_MAX) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "fw_cfg file '%s': the directory is full (%u files)", name, FW_CFG_FILES_MAX);
        return false;
    }
    if (i == s->n_files) {
        s->n_files++;
        s->dir[i].select = (uint16_t)(FW_CFG_FILE_FIRST + i);
        g_strlcpy(s->dir[i].name, name, sizeof(s->dir[i].name));
    }
    s->dir[i].size = (uint32_t)len;
    fw_cfg_add_bytes(dev, s->dir[i].select, data, len);
    update_directory(s);
    return true;
}

/* What is left of the selected item. */
static const uint8_t *rest(const FwCfg *s, size_t *left)
{
    GBytes *item = g_hash_table_lookup(s->items, GUINT_TO_POINTER(s->key));
    gsize len = 0;
    const uint8_t *data = item ? g_bytes_get_data(item, &len) : NULL;
    *left = s->offset < len ? len - s->offset : 0;
    return *left ? data + s->offset : NULL;
}

static void select_item(FwCfg *s, uint16_t key)
{
    s->key = key;
    s->offset = 0;
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    FwCfg *s = opaque;
    size_t left;
    if (offset != 1)
        return size_mask(size); /* the selector is write-only */
    const uint8_t *data = rest(s, &left);
    s->offset++;
    return data ? data[0] : 0;
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    if (offset == 0 && size == 2)
        select_item(opaque, (uint16_t)value);
    else if (log_on(LOG_GUEST_ERROR))
        log_line("fw_cfg: write of %u bytes to port %#x", size, 0x510 + (unsigned)offset);
}

/* What the item does not have reads as zero. */
static bool dma_read(FwCfg *s, gpa_t gpa, uint32_t len)
{
    static const uint8_t zeros[4096];
    const Board *b = s->dev.board;
    size_t left;
    const uint8_t *data = rest(s, &left);
    uint32_t n = (uint32_t)MIN_OF(left, len);
    bool ok = !n || memmap_write(b->mem, gpa, data, n);
    while (ok && n < len) {
        uint32_t chunk = MIN_OF(len - n, (uint32_t)sizeof(zeros));
        ok = memmap_write(b->mem, gpa + n, zeros, chunk);
        n += chunk;
    }
    if (b->dma_wrote)
        b->dma_wrote(b->opaque, gpa, len);
    return ok;
}

static void dma_run(FwCfg *s)
{
    const Board *b = s->dev.board;
    gpa_t at = s->dma_address;
    uint8_t descriptor[16], status[4];
    s->dma_address = 0;
    if (!memmap_read(b->mem, at, descriptor, sizeof(descriptor))) {
        if (log_on(LOG_GUEST_ERROR))
            log_line("fw_cfg: DMA descriptor at %#" G_GINT64_MODIFIER "x is not in RAM", at);
        return;
    }
    uint32_t control = (uint32_t)load_be(descriptor, 4);
    uint32_t len = (uint32_t)load_be(descriptor + 4, 4);
    gpa_t gpa = load_be(descriptor + 8, 8);
    bool ok = true;
    if (control & DMA_SELECT)
        select_item(s, (uint16_t)(control >> 16));
    if (control & DMA_READ)
        ok = gpa <= UINT64_MAX - len && dma_read(s, gpa, len);
    else if (control & DMA_WRITE)
        ok = false; /* no item is writable */
    if (ok && control & (DMA_READ | DMA_SKIP))
        s->offset += len;
    store_be(status, ok ? 0 : DMA_ERROR, 4);
    memmap_write(b->mem, at, status, sizeof(status));
    if (b->dma_wrote)
        b->dma_wrote(b->opaque, at, sizeof(status));
}

static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned size)
{
    uint8_t bytes[8];
    uint64_t value = 0;
    store_be(bytes, DMA_SIGNATURE, 8);
    memcpy(&value, bytes + offset, size);
    return value;
}

/* Only whole words count; the one with the low half, which the guest writes last, starts the
 * transfer. */
static void dma_port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    FwCfg *s = opaque;
    uint32_t word = GUINT32_SWAP_LE_BE((uint32_t)value);
    if (size != 4 || offset % 4)
        return;
    if (offset == 0) {
        s->dma_address = (uint64_t)word << 32;
    } else {
        s->dma_address |= word;
        dma_run(s);
    }
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .min = 1, .max = 2};
static const IoOps dma_ops = {.read = dma_port_read, .write = dma_port_write, .min = 1, .max = 4};

static void fw_cfg_reset(Device *dev)
{
    FwCfg *s = fw_cfg(dev);
    select_item(s, FW_CFG_SIGNATURE);
    s->dma_address = 0;
}

static bool fw_cfg_realize(Device *dev, GHashTable *props, GError **err)
{
    FwCfg *s = fw_cfg(dev);
    s->items =
        g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, (GDestroyNotify)g_bytes_unref);
    fw_cfg_add_bytes(dev, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_u32(dev, FW_CFG_ID, 3); /* bit 0: ports, bit 1: DMA */
    update_directory(s);
    s->port = io_map(dev->board->pio, 0x510, 2, &port_ops, s, "fw_cfg");
    s->dma_port = io_map(dev->board->pio, 0x514, 8, &dma_ops, s, "fw_cfg-dma");
    return true;
}

static void fw_cfg_unrealize(Device *dev)
{
    FwCfg *s = fw_cfg(dev);
    io_unmap(dev->board->pio, s->port);
    io_unmap(dev->board->pio, s->dma_port);
    g_hash_table_unref(s->items);
}

static void fw_cfg_describe(Device *dev, GString *out)
{
    const FwCfg *s = fw_cfg(dev);
    for (unsigned i = 0; i < s->n_files; i++)
        g_string_append_printf(out, "%04x %8u %s\n", s->dir[i].select, s->dir[i].size,
                               s->dir[i].name);
}

const DeviceClass device_fw_cfg = {
    .name = "fw_cfg",
    .help = "configuration for firmware",
    .size = sizeof(FwCfg),
    .realize = fw_cfg_realize,
    .reset = fw_cfg_reset,
    .unrealize = fw_cfg_unrealize,
    .describe = fw_cfg_describe,
};
