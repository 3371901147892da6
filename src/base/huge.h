/*
 * HugePages: guest RAM in a memfd gets the host's huge pages, of 2 MiB, where the guest uses much
 * of them. By itself a memfd gets none where the host's shmem_enabled says so, as most do.
 *
 * A host that has to find and to clear 2 MiB first, perhaps in memory that its own host has to
 * find, takes up to 5 ms for them. So it is not asked for them before many pages have been used, or
 * few very often or for long: a kernel that boots uses half of what it touches the huge pages of.
 * Who asks is a thread of its own: the host first has all its processors give up the pages they
 * hold back (lru_add_drain_all()), and waits for them, on a busy one for seconds. Who is refused,
 * or would have to wait long, has small pages.
 */
#ifndef TANDEM_BASE_HUGE_H
#define TANDEM_BASE_HUGE_H

#include "base/types.h"

#define HUGE_PAGE_SHIFT 21
#define HUGE_PAGE       BIT(HUGE_PAGE_SHIFT)

typedef struct HugePage {
    uint8_t asked;    /* the host has been asked for it, or will be */
    uint16_t pages;   /* that programs have used */
    uint32_t uses;    /* by anybody, of single pages */
    uint32_t since;   /* milliseconds of the host's TSC: the first of them */
    uint64_t page[8]; /* those, as bits */
    uint64_t there;   /* its pieces that the host has been told to fill, as bits */
} HugePage;

typedef struct HugePages {
    uint8_t *host;
    uint64_t size;
    struct _GThreadPool *asker; /* has no thread before there is something to ask for */
    _Atomic unsigned answered;  /* pages of those asked for that are done with, huge or not */
    bool slow;                  /* asking has taken long: it is not asked again */
    HugePage page[];
} HugePages;

/* Does this host make huge pages of a memfd's when it is asked to (Linux 6.1, MADV_COLLAPSE)? */
bool huge_pages_possible(void);
/* Of size bytes mapped at host, which is aligned to a huge page. */
HugePages *huge_pages_new(uint8_t *host, uint64_t size);
/* Waits for a page under way; before the memory is unmapped. NULL is taken. */
void huge_pages_free(HugePages *);
/* That of the byte at this offset. */
static inline HugePage *huge_page(HugePages *h, uint64_t offset)
{
    return &h->page[offset >> HUGE_PAGE_SHIFT];
}
/* The small page at this offset has come into use by a program, or by the kernel. Any thread. */
void huge_page_used(HugePages *, HugePage *, uint64_t offset, bool user);

/*
 * Small pages are made in pieces of 32 KiB when the guest first writes to one of them: for the
 * host, a page fault is as much work as making a page.
 */
#define HUGE_PIECE_SHIFT 15
void huge_page_fill(HugePages *, HugePage *, uint64_t offset);
/* The byte at this offset is about to be written to. Any thread. */
static inline void huge_page_written(HugePages *h, HugePage *p, uint64_t offset)
{
    if (unlikely(!(p->there >> (offset >> HUGE_PIECE_SHIFT & 63) & 1)))
        huge_page_fill(h, p, offset);
}

#endif
