/*
 * MemMap: which guest-physical ranges are RAM or ROM, and where the host maps them.
 *
 * A flat, sorted, non-overlapping list of slots. Everything not in it is a device or nothing.
 * Written only while every vCPU is stopped (machine start, PAM and SMRAM changes); read without a
 * lock by engines. `gen` changes with each rewrite.
 */
#ifndef TANDEM_BASE_MEMMAP_H
#define TANDEM_BASE_MEMMAP_H

#include "base/types.h"

#define MEMMAP_MAX 64

/* 2 MiB of a memfd that is to have the host's huge pages where the guest uses much of them. */
typedef struct RamHuge {
    uint8_t asked;    /* the host has been asked for one */
    uint16_t pages;   /* that programs have used */
    uint32_t uses;    /* by anybody, of single pages */
    uint32_t since;   /* milliseconds of the host's TSC: the first of them */
    uint64_t page[8]; /* those, as bits */
} RamHuge;

typedef struct RamSlot {
    gpa_t gpa;     /* page aligned */
    uint64_t size; /* bytes, page multiple */
    uint8_t *host; /* where it is mapped; one mapping for all engines */
    int fd;        /* memfd of the block, and the slot's offset in it */
    uint64_t fd_offset;
    RamHuge
        *huge; /* of a memfd that is to have huge pages, by their number in the block; or NULL */
    bool readonly; /* ROM: guest writes go to the bus, which drops them */
} RamSlot;

typedef struct MemMap {
    RamSlot slot[MEMMAP_MAX];
    unsigned n;
    uint32_t gen;
} MemMap;

/* The slot holding gpa, or NULL. */
const RamSlot *memmap_find(const MemMap *map, gpa_t gpa);
/*
 * The host is asked for a huge page at gpa, in s, the first time. A memfd gets none by itself where
 * the host's shmem_enabled says so, as most do. False: it has none.
 */
#define HUGE_PAGE_SHIFT 21
bool memmap_make_huge(const RamSlot *s, gpa_t gpa);
void memmap_used(const RamSlot *s, RamHuge *h, gpa_t gpa, bool user);
/*
 * The page of gpa, in s, has come into use by a program, or by the kernel. A host that has to find
 * and to clear 2 MiB first, perhaps in memory that its own host has to find, takes up to 5 ms for
 * them. So it is not asked for them before many pages have been used, or few very often or for
 * long: a kernel that boots uses half of what it touches the huge pages of.
 */
static inline void memmap_use(const RamSlot *s, gpa_t gpa, bool user)
{
    RamHuge *h = s->huge ? &s->huge[(s->fd_offset + (gpa - s->gpa)) >> HUGE_PAGE_SHIFT] : NULL;
    if (unlikely(h && !h->asked))
        memmap_used(s, h, gpa, user);
}
/* Host address of gpa with at least len bytes behind it in the same slot, or NULL. For device DMA
 * and loaders; len may be 0. */
uint8_t *memmap_host(const MemMap *map, gpa_t gpa, uint64_t len, bool write);
/* Copies across slots; returns false (and copies what it could) if a byte is not RAM. */
bool memmap_read(const MemMap *map, gpa_t gpa, void *buf, uint64_t len);
bool memmap_write(const MemMap *map, gpa_t gpa, const void *buf, uint64_t len);

#endif
