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

typedef struct RamSlot {
    gpa_t gpa;     /* page aligned */
    uint64_t size; /* bytes, page multiple */
    uint8_t *host; /* where it is mapped; one mapping for all engines */
    int fd;        /* memfd of the block, and the slot's offset in it */
    uint64_t fd_offset;
    uint8_t *huge; /* of a memfd that is to have huge pages: which have been asked for, by their
                      number in the block; or NULL */
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
 * The huge page of gpa, in s, is in use: the host is asked for it, the first time. A memfd gets
 * none by itself where the host's shmem_enabled says so, as most do. False: it has none.
 */
#define HUGE_PAGE_SHIFT 21
bool memmap_make_huge(const RamSlot *s, gpa_t gpa);
static inline void memmap_use(const RamSlot *s, gpa_t gpa)
{
    if (s->huge && !s->huge[(s->fd_offset + (gpa - s->gpa)) >> HUGE_PAGE_SHIFT])
        memmap_make_huge(s, gpa);
}
/* Host address of gpa with at least len bytes behind it in the same slot, or NULL. For device DMA
 * and loaders; len may be 0. */
uint8_t *memmap_host(const MemMap *map, gpa_t gpa, uint64_t len, bool write);
/* Copies across slots; returns false (and copies what it could) if a byte is not RAM. */
bool memmap_read(const MemMap *map, gpa_t gpa, void *buf, uint64_t len);
bool memmap_write(const MemMap *map, gpa_t gpa, const void *buf, uint64_t len);

#endif
