/* IoSpace and the device registry: see bus.h. */
#include "devices/bus.h"

#include <string.h>

#include "base/log.h"

#define MAX_REGIONS 254
#define NOBODY      255

struct IoRegion {
    uint64_t base, len;
    const IoOps *ops;
    void *opaque;
    const char *name;
};

/*
 * Regions in the order they were mapped: of two that overlap the later answers. Port space, which
 * is small and busy, has an index by port; memory space looks through its dozen regions from the
 * last, the most recent hit first.
 */
struct IoSpace {
    const char *name;
    uint64_t size;
    IoRegion *region[MAX_REGIONS];
    unsigned n;
    uint8_t *index; /* by address; NULL for a large space */
};

static void rebuild(IoSpace *s)
{
    if (!s->index)
        return;
    memset(s->index, NOBODY, s->size);
    for (unsigned i = 0; i < s->n; i++) {
        const IoRegion *r = s->region[i];
        if (r->base < s->size)
            memset(s->index + r->base, (int)i, MIN_OF(r->len, s->size - r->base));
    }
}

IoSpace *io_space_new(const char *name, uint64_t size)
{
    IoSpace *s = g_new0(IoSpace, 1);
    s->name = name;
    s->size = size;
    if (size <= 0x10000)
        s->index = g_malloc(size);
    rebuild(s);
    return s;
}

void io_space_free(IoSpace *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->n; i++)
        g_free(s->region[i]);
    g_free(s->index);
    g_free(s);
}

IoRegion *io_map(IoSpace *s, uint64_t base, uint64_t len, const IoOps *ops, void *opaque,
                 const char *name)
{
    g_assert(s->n < MAX_REGIONS);
    IoRegion *r = g_new(IoRegion, 1);
    *r = (IoRegion){base, len, ops, opaque, name};
    s->region[s->n++] = r;
    rebuild(s);
    return r;
}

void io_unmap(IoSpace *s, IoRegion *r)
{
    if (!r)
        return;
    unsigned i = 0;
    while (i < s->n && s->region[i] != r)
        i++;
    g_assert(i < s->n);
    memmove(&s->region[i], &s->region[i + 1], (s->n - i - 1) * sizeof(s->region[0]));
    s->n--;
    g_free(r);
    rebuild(s);
}

void io_move(IoSpace *s, IoRegion *r, uint64_t base)
{
    r->base = base;
    rebuild(s);
}

static IoRegion *lookup(const IoSpace *s, uint64_t addr)
{
    if (s->index) {
        unsigned i = addr < s->size ? s->index[addr] : NOBODY;
        return i == NOBODY ? NULL : s->region[i];
    }
    for (unsigned i = s->n; i-- > 0;) {
        if (addr - s->region[i]->base < s->region[i]->len)
            return s->region[i];
    }
    return NULL;
}

static void log_nobody(const IoSpace *s, uint64_t addr, unsigned size, const char *what)
{
    if (log_on(LOG_UNIMP))
        log_line("%s: %s of %u at %#" G_GINT64_MODIFIER "x: nobody answers", s->name, what, size,
                 addr);
}

/* How many bytes of an access of `size` at `addr` go to the device at once. */
static unsigned piece(const IoRegion *r, uint64_t addr, unsigned size)
{
    unsigned max = r->ops->max ? r->ops->max : 4;
    uint64_t left = r->len - (addr - r->base);
    unsigned n = MIN_OF(size, max);
    while (n > left)
        n /= 2;
    return n ? n : 1;
}

uint64_t io_read(IoSpace *s, uint64_t addr, unsigned size)
{
    uint64_t value = 0;
    for (unsigned at = 0; at < size;) {
        const IoRegion *r = lookup(s, addr + at);
        unsigned n = 1;
        uint64_t part = 0xff;
        if (r) {
            n = piece(r, addr + at, size - at);
            uint64_t offset = addr + at - r->base;
            unsigned min = r->ops->min ? r->ops->min : 1;
            if (!r->ops->read) {
                part = ~0ull;
            } else if (n < min && r->len >= min) {
                /* The device drives its whole width; the bus picks the bytes. */
                uint64_t aligned = offset & ~(uint64_t)(min - 1);
                part = r->ops->read(r->opaque, aligned, min) >> (offset - aligned) * 8;
            } else {
                part = r->ops->read(r->opaque, offset, n);
            }
        } else {
            log_nobody(s, addr + at, size - at, "read");
        }
        value |= (part & size_mask(n)) << at * 8;
        at += n;
    }
    return value;
}

void io_write(IoSpace *s, uint64_t addr, unsigned size, uint64_t value)
{
    for (unsigned at = 0; at < size;) {
        const IoRegion *r = lookup(s, addr + at);
        unsigned n = 1;
        if (r) {
            n = piece(r, addr + at, size - at);
            if (r->ops->write)
                r->ops->write(r->opaque, addr + at - r->base, n, value >> at * 8 & size_mask(n));
        } else {
            log_nobody(s, addr + at, size - at, "write");
        }
        at += n;
    }
}

static int by_base(const void *a, const void *b)
{
    const IoRegion *x = *(IoRegion *const *)a, *y = *(IoRegion *const *)b;
    return x->base < y->base ? -1 : x->base > y->base;
}

void io_describe(const IoSpace *s, GString *out)
{
    IoRegion *sorted[MAX_REGIONS];
    memcpy(sorted, s->region, s->n * sizeof(sorted[0]));
    qsort(sorted, s->n, sizeof(sorted[0]), by_base);
    g_string_append_printf(out, "%s:\n", s->name);
    for (unsigned i = 0; i < s->n; i++)
        g_string_append_printf(out, "  %0*" G_GINT64_MODIFIER "x-%0*" G_GINT64_MODIFIER "x  %s\n",
                               s->index ? 4 : 12, sorted[i]->base, s->index ? 4 : 12,
                               sorted[i]->base + sorted[i]->len - 1, sorted[i]->name);
}

/* ---- registry ---- */

#define DEVICE(symbol) extern const DeviceClass device_##symbol;
#include "devices/devices.def"
#undef DEVICE

static const DeviceClass *const classes[] = {
#define DEVICE(symbol) &device_##symbol,
#include "devices/devices.def"
#undef DEVICE
};

const DeviceClass *device_class(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(classes); i++) {
        if (!strcmp(classes[i]->name, name))
            return classes[i];
    }
    return NULL;
}

void device_classes_help(GString *out)
{
    for (unsigned i = 0; i < ARRAY_LEN(classes); i++) {
        if (classes[i]->user_creatable)
            g_string_append_printf(out, "%-18s %s\n", classes[i]->name, classes[i]->help);
    }
}

static bool refuse_leftover(const DeviceClass *cls, GHashTable *props, GError **err)
{
    GHashTableIter it;
    gpointer key;
    if (!props)
        return true;
    g_hash_table_iter_init(&it, props);
    if (!g_hash_table_iter_next(&it, &key, NULL))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-device %s: no property '%s'", cls->name,
                (char *)key);
    return false;
}

Device *device_new(const DeviceClass *cls, Board *board, GHashTable *props, GError **err)
{
    Device *d = g_malloc0(cls->size);
    d->cls = cls;
    d->board = board;
    if (cls->realize && !cls->realize(d, props, err)) {
        g_free(d);
        return NULL;
    }
    if (!refuse_leftover(cls, props, err)) {
        device_free(d);
        return NULL;
    }
    if (cls->reset)
        cls->reset(d);
    return d;
}

void device_free(Device *d)
{
    if (!d)
        return;
    if (d->cls->unrealize)
        d->cls->unrealize(d);
    g_free(d);
}
