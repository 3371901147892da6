/* One page walk: what the tables say about a linear address, and the bits an access sets in them.
 * Private to mmu*.c. */
#ifndef TANDEM_TCG_MMU_WALK_H
#define TANDEM_TCG_MMU_WALK_H

#include "tcg/tcg.h"

enum WalkResult { WALK_OK, WALK_ABSENT, WALK_RESERVED };

typedef struct PageWalk {
    gpa_t page; /* physical address of the 4 KiB page */
    /* The rights of all levels together. Without paging: everything is allowed. */
    bool user, writable, nx, global, dirty;
    bool big, huge; /* mapped by a large page; of more than 4 MiB */
    bool wide;
    /* Entries used, top first. host NULL: not in writable RAM, so its bits cannot be set. */
    unsigned n;
    struct {
        uint8_t *host;
        gpa_t gpa;
        uint64_t value;
    } entry[5];
} PageWalk;

typedef struct WalkModel { /* what the guest's CPUID offers */
    uint8_t phys_bits;
    bool pse36, pdpe1gb;
} WalkModel;

/*
 * Walks the tables for lin (canonical) by CR0, CR3, CR4, EFER and the PDPTE registers of s (SDM
 * vol. 3, 4.3-4.5). Sets nothing. Entries outside RAM read as all ones, as an address nothing
 * answers does.
 */
enum WalkResult mmu_walk(const CpuState *s, const MemMap *mem, const WalkModel *model, gva_t lin,
                         PageWalk *w);
/* Sets the accessed bits and, for a write, the dirty bit of the last entry, each with a compare and
 * exchange. False: an entry was changed meanwhile, walk again. log: NULL, or where to note it. */
bool mmu_walk_mark(PageWalk *w, bool write, WriteLog *log);

/* Have all entries their accessed bit? */
bool mmu_walk_accessed(const PageWalk *w);

static inline bool lin_canonical(const CpuState *s, gva_t lin)
{
    unsigned top = s->cr4 & CR4_LA57 ? 56 : 47;
    return (uint64_t)((int64_t)lin >> top) + 1 <= 1;
}

#endif
