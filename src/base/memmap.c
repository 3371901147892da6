#include "base/memmap.h"

#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

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

bool memmap_make_huge(const RamSlot *s, gpa_t gpa)
{
    uint64_t off = s->fd_offset + (gpa - s->gpa);
    uint8_t *block = s->host - s->fd_offset;
    uint8_t *page = block + (off & ~(BIT(HUGE_PAGE_SHIFT) - 1));
    if (__atomic_exchange_n(&s->huge[off >> HUGE_PAGE_SHIFT], 1, __ATOMIC_RELAXED))
        return true;
    (void)*(volatile uint8_t *)(block + off); /* of nothing the host makes nothing */
    return madvise(page, BIT(HUGE_PAGE_SHIFT), MADV_COLLAPSE) == 0;
}

uint8_t *memmap_host(const MemMap *map, gpa_t gpa, uint64_t len, bool write)
{
    const RamSlot *s = memmap_find(map, gpa);
    if (!s || (write && s->readonly) || len > s->size - (gpa - s->gpa))
        return NULL;
    return s->host + (gpa - s->gpa);
}

static bool copy(const MemMap *map, gpa_t gpa, uint8_t *buf, uint64_t len, bool write)
{
    while (len) {
        const RamSlot *s = memmap_find(map, gpa);
        if (!s || (write && s->readonly))
            return false;
        uint64_t n = MIN_OF(len, s->size - (gpa - s->gpa));
        uint8_t *host = s->host + (gpa - s->gpa);
        memcpy(write ? host : buf, write ? buf : host, n);
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
