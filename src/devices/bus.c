/* IoSpace and the device registry: see bus.h. */
#include "devices/bus.h"

#include <string.h>

#include "base/log.h"

#define MAX_REGIONS 256

struct IoRegion {
    uint64_t base, len;
    const IoOps *ops;
    void *opaque;
    const char *name;
};

/* What answers where: sorted, without overlaps or gaps; region NULL where nobody does. */
typedef struct Span {
    uint64_t start; /* ends where the next one starts */
    IoRegion *region;
} Span;

/*
 * Regions in the order they were mapped: of two that overlap the later answers. They change rarely,
 * so each change makes the spans anew, and an access finds its span by bisection.
 */
struct IoSpace {
    const char *name;
    uint64_t size;
    IoRegion *region[MAX_REGIONS];
    unsigned n;
    Span span[2 * MAX_REGIONS + 1];
    unsigned n_spans;
};

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool covers(const IoRegion *r, uint64_t addr)
{
    return addr >= r->base && addr - r->base < r->len;
}

static void rebuild(IoSpace *s)
{
    uint64_t edge[2 * MAX_REGIONS + 1];
    unsigned n = 0;
    edge[n++] = 0;
    for (unsigned i = 0; i < s->n; i++) {
        edge[n++] = s->region[i]->base;
        edge[n++] = s->region[i]->base + s->region[i]->len;
    }
    qsort(edge, n, sizeof(edge[0]), by_value);
    s->n_spans = 0;
    for (unsigned i = 0; i < n; i++) {
        IoRegion *top = NULL;
        for (unsigned j = s->n; j-- > 0 && !top;) {
            if (covers(s->region[j], edge[i]))
                top = s->region[j];
        }
        if (!s->n_spans || s->span[s->n_spans - 1].region != top)
            s->span[s->n_spans++] = (Span){edge[i], top};
    }
}

IoSpace *io_space_new(const char *name, uint64_t size)
{
    IoSpace *s = g_new0(IoSpace, 1);
    s->name = name;
    s->size = size;
    rebuild(s);
    return s;
}

void io_space_free(IoSpace *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->n; i++)
        g_free(s->region[i]);
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

/* The region at addr, or NULL; *left is how far it goes on from there. */
static const IoRegion *lookup(const IoSpace *s, uint64_t addr, uint64_t *left)
{
    unsigned lo = 0, hi = s->n_spans;
    while (hi - lo > 1) {
        unsigned mid = (lo + hi) / 2;
        if (s->span[mid].start <= addr)
            lo = mid;
        else
            hi = mid;
    }
    *left = lo + 1 < s->n_spans ? s->span[lo + 1].start - addr : UINT64_MAX;
    return s->span[lo].region;
}

static void log_nobody(const IoSpace *s, uint64_t addr, unsigned size, const char *what)
{
    if (log_on(LOG_UNIMP))
        log_line("%s: %s of %u at %#" G_GINT64_MODIFIER "x: nobody answers", s->name, what, size,
                 addr);
}

/* How many bytes of an access of `size` go to the device at once: a power of two that it takes and
 * that ends within it. */
static unsigned piece(const IoRegion *r, unsigned size, uint64_t left)
{
    unsigned max = r->ops->max ? r->ops->max : 4;
    uint64_t n = MIN_OF(MIN_OF(size, max), left);
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

uint64_t io_read(IoSpace *s, uint64_t addr, unsigned size)
{
    uint64_t value = 0;
    for (unsigned at = 0, n; at < size; at += n) {
        uint64_t left, part = ~0ull;
        const IoRegion *r = lookup(s, addr + at, &left);
        if (!r || !r->ops->read) {
            n = (unsigned)MIN_OF(size - at, left);
            if (!r)
                log_nobody(s, addr + at, n, "read");
        } else {
            uint64_t offset = addr + at - r->base;
            unsigned min = r->ops->min ? r->ops->min : 1;
            n = piece(r, size - at, left);
            uint64_t aligned = offset & ~(uint64_t)(min - 1);
            if (n < min && r->len >= min && aligned <= r->len - min) {
                /* The device drives its whole width; the bus picks the bytes. */
                n = (unsigned)MIN_OF(n, aligned + min - offset);
                part = r->ops->read(r->opaque, aligned, min) >> (offset - aligned) * 8;
            } else {
                part = r->ops->read(r->opaque, offset, n);
            }
        }
        value |= (part & size_mask(n)) << at * 8;
    }
    return value;
}

void io_write(IoSpace *s, uint64_t addr, unsigned size, uint64_t value)
{
    for (unsigned at = 0, n; at < size; at += n) {
        uint64_t left;
        const IoRegion *r = lookup(s, addr + at, &left);
        if (!r || !r->ops->write) {
            n = (unsigned)MIN_OF(size - at, left);
            if (!r)
                log_nobody(s, addr + at, n, "write");
            continue;
        }
        n = piece(r, size - at, left);
        r->ops->write(r->opaque, addr + at - r->base, n, value >> at * 8 & size_mask(n));
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
                               s->size <= 0x10000 ? 4 : 12, sorted[i]->base,
                               s->size <= 0x10000 ? 4 : 12, sorted[i]->base + sorted[i]->len - 1,
                               sorted[i]->name);
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
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "device %s: no property '%s'", cls->name,
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
