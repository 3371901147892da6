#include "base/memmap.h"

#include <string.h>
#include <unistd.h>

const RamSlot *memmap_find(const MemMap *map, gpa_t gpa)
{
    unsigned lo = 0, hi = map->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const RamSlot *s = &map->slot[mid];
        if (gpa < s->gpa)
            hi = mid;
        else if (gpa - s->gpa >= s->size)
            lo = mid + 1;
        else
            return s;
    }
    return NULL;
}

uint8_t *memmap_host(const MemMap *map, gpa_t gpa, uint64_t len, bool write)
{
    const RamSlot *s = memmap_find(map, gpa);
    if (!s || (write && s->readonly) || len > s->size - (gpa - s->gpa))
        return NULL;
    return s->host + (gpa - s->gpa);
}

#define BY_FILE 65536u /* bytes, from which on the system call is cheaper than touching pages */

/* n bytes of a slot at host. What is large goes into its file: pages that were not there are not
 * cleared first. */
static void fill(const RamSlot *s, uint8_t *host, const uint8_t *buf, uint64_t n)
{
    uint64_t done = 0;
    while (s->fd >= 0 && n - done >= BY_FILE) {
        ssize_t got = pwrite(s->fd, buf + done, n - done,
                             (off_t)(s->fd_offset + (uint64_t)(host - s->host) + done));
        if (got <= 0)
            break;
        done += (uint64_t)got;
    }
    memcpy(host + done, buf + done, n - done);
}

static bool copy(const MemMap *map, gpa_t gpa, uint8_t *buf, uint64_t len, bool write)
{
    while (len) {
        const RamSlot *s = memmap_find(map, gpa);
        if (!s || (write && s->readonly))
            return false;
        uint64_t n = MIN_OF(len, s->size - (gpa - s->gpa));
        uint8_t *host = s->host + (gpa - s->gpa);
        if (write)
            fill(s, host, buf, n);
        else
            memcpy(buf, host, n);
        gpa += n;
        buf += n;
        len -= n;
    }
    return true;
}

bool memmap_read(const MemMap *map, gpa_t gpa, void *buf, uint64_t len)
{
    return copy(map, gpa, buf, len, false);
}

bool memmap_write(const MemMap *map, gpa_t gpa, const void *buf, uint64_t len)
{
    return copy(map, gpa, (uint8_t *)(uintptr_t)buf, len, true);
}
