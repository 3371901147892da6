#include "base/memmap.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/clock.h"

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
    if (__atomic_exchange_n(&s->huge[off >> HUGE_PAGE_SHIFT].asked, 1, __ATOMIC_RELAXED))
        return true;
    (void)*(volatile uint8_t *)(block + off); /* of nothing the host makes nothing */
    return madvise(page, BIT(HUGE_PAGE_SHIFT), MADV_COLLAPSE) == 0;
}

#define HUGE_PAGES 256    /* used by programs, of 512 */
#define HUGE_USES  16384u /* by anybody */
#define HUGE_MS    2000u  /* from the first use to one of those that come later */
#define HUGE_LASTS 32u    /* uses, at least, of what is in use so long */

static bool in_use_long(RamHuge *h, uint32_t uses)
{
    uint32_t now = (uint32_t)(__rdtsc() / clock_host_tsc_khz());
    if (uses == 1)
        __atomic_store_n(&h->since, now, __ATOMIC_RELAXED);
    return uses > HUGE_LASTS && now - __atomic_load_n(&h->since, __ATOMIC_RELAXED) > HUGE_MS;
}

void memmap_used(const RamSlot *s, RamHuge *h, gpa_t gpa, bool user)
{
    /* Other vCPUs count too: a use more or less is all the same. */
    unsigned n = (unsigned)((s->fd_offset + (gpa - s->gpa)) >> 12) & 511;
    uint64_t bit = BIT(n % 64);
    bool first = user && !(__atomic_fetch_or(&h->page[n / 64], bit, __ATOMIC_RELAXED) & bit);
    unsigned pages = __atomic_add_fetch(&h->pages, first, __ATOMIC_RELAXED);
    uint32_t uses = __atomic_add_fetch(&h->uses, 1, __ATOMIC_RELAXED);
    if (pages >= HUGE_PAGES || uses >= HUGE_USES || in_use_long(h, uses))
        memmap_make_huge(s, gpa);
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
