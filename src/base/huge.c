#include "base/huge.h"

#include <glib.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/clock.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

bool huge_pages_possible(void)
{
    g_autofree char *shmem = NULL;
    /* Of no bytes: what is left is whether the host knows it. */
    if (madvise(NULL, 0, MADV_COLLAPSE) != 0)
        return false;
    return g_file_get_contents("/sys/kernel/mm/transparent_hugepage/shmem_enabled", &shmem, NULL,
                               NULL) &&
           !strstr(shmem, "[deny]");
}

#define QUICK_US 2000
#define SLOW_US  500000
#define TRIES    100

/*
 * Whether the host's processors give up quickly now what they hold back. MADV_COLLAPSE waits for
 * them with the process's map of memory locked, so that a vCPU that maps a page waits along: this
 * does not. Moving a page to where it is begins in the same way, with nothing locked.
 */
static bool host_is_quick(void)
{
    static uint8_t page[4096] __attribute__((aligned(4096)));
    for (unsigned n = 0; n < TRIES; n++) {
        gint64 begun = g_get_monotonic_time();
        if (syscall(SYS_mbind, page, sizeof(page), MPOL_DEFAULT, NULL, 0, MPOL_MF_MOVE) != 0)
            return true; /* not to be known here */
        if (g_get_monotonic_time() - begun < QUICK_US)
            return true;
    }
    return false;
}

static void ask(gpointer page, gpointer opaque)
{
    HugePages *h = opaque;
    uint8_t *at = h->host + ((uint64_t)((HugePage *)page - h->page) << HUGE_PAGE_SHIFT);
    if (!h->slow && host_is_quick()) {
        (void)*(volatile uint8_t *)at; /* of nothing the host makes nothing */
        gint64 begun = g_get_monotonic_time();
        (void)madvise(at, HUGE_PAGE, MADV_COLLAPSE); /* or it stays as it is */
        h->slow = g_get_monotonic_time() - begun > SLOW_US;
    }
    h->answered++;
}

HugePages *huge_pages_new(uint8_t *host, uint64_t size)
{
    HugePages *h = g_malloc0(sizeof(*h) + ((size >> HUGE_PAGE_SHIFT) + 1) * sizeof(h->page[0]));
    h->host = host;
    h->size = size;
    h->asker = g_thread_pool_new(ask, h, 1, false, NULL);
    return h;
}

void huge_pages_free(HugePages *h)
{
    if (!h)
        return;
    g_thread_pool_free(h->asker, true, true);
    g_free(h);
}

#define MANY_PAGES 256    /* used by programs, of 512 */
#define MANY_USES  16384u /* by anybody */
#define LONG_MS    2000u  /* from the first use to one of those that come later */
#define LONG_USES  32u    /* at least, of what is in use so long */

static bool in_use_long(HugePage *p, uint32_t uses)
{
    uint32_t now = (uint32_t)(__rdtsc() / clock_host_tsc_khz());
    if (uses == 1)
        __atomic_store_n(&p->since, now, __ATOMIC_RELAXED);
    return uses > LONG_USES && now - __atomic_load_n(&p->since, __ATOMIC_RELAXED) > LONG_MS;
}

void huge_page_used(HugePages *h, HugePage *p, uint64_t offset, bool user)
{
    /* Other vCPUs count too: a use more or less is all the same. */
    unsigned n = (unsigned)(offset >> 12) & 511;
    uint64_t bit = BIT(n % 64);
    bool first = user && !(__atomic_fetch_or(&p->page[n / 64], bit, __ATOMIC_RELAXED) & bit);
    unsigned pages = __atomic_add_fetch(&p->pages, first, __ATOMIC_RELAXED);
    uint32_t uses = __atomic_add_fetch(&p->uses, 1, __ATOMIC_RELAXED);
    if ((pages >= MANY_PAGES || uses >= MANY_USES || in_use_long(p, uses)) &&
        !__atomic_exchange_n(&p->asked, 1, __ATOMIC_RELAXED))
        g_thread_pool_push(h->asker, p, NULL);
}

void huge_page_fill(HugePages *h, HugePage *p, uint64_t offset)
{
    uint64_t piece = (uint64_t)1 << HUGE_PIECE_SHIFT, at = offset & ~(piece - 1);
    __atomic_fetch_or(&p->there, BIT(offset >> HUGE_PIECE_SHIFT & 63), __ATOMIC_RELAXED);
    /* Or as they are touched. */
    (void)madvise(h->host + at, MIN_OF(piece, h->size - at), MADV_POPULATE_WRITE);
}
