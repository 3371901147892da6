/*
 * MemMap: which guest-physical ranges are RAM or ROM, and where the host maps them.
 *
 * A flat, sorted, non-overlapping list of slots. Everything not in it is a device or nothing.
 * Written only while every vCPU is stopped (machine start, PAM and SMRAM changes); read without a
 * lock by engines. `gen` changes with each rewrite.
 */
#ifndef TANDEM_BASE_MEMMAP_H
#define TANDEM_BASE_MEMMAP_H

#include "base/huge.h"

#define MEMMAP_MAX 64

typedef struct RamSlot {
    gpa_t gpa;     /* page aligned */
    uint64_t size; /* bytes, page multiple */
    uint8_t *host; /* where it is mapped; one mapping for all engines */
    int fd;        /* memfd of the block, and the slot's offset in it */
    uint64_t fd_offset;
    HugePages *huge; /* of the block, if it is a memfd that is to have huge pages; or NULL */
    bool readonly;   /* ROM: guest writes go to the bus, which drops them */
} RamSlot;

typedef struct MemMap {
    RamSlot slot[MEMMAP_MAX];
    unsigned n;
    uint32_t gen;
} MemMap;

/* The slot holding gpa, or NULL. */
const RamSlot *memmap_find(const MemMap *map, gpa_t gpa);
/* The page of gpa, in s, has come into use by a program, or by the kernel, maybe to be written. */
static inline void memmap_use(const RamSlot *s, gpa_t gpa, bool user, bool write)
{
    uint64_t offset = s->fd_offset + (gpa - s->gpa);
    HugePage *h = s->huge ? huge_page(s->huge, offset) : NULL;
    if (unlikely(h && !h->asked))
        huge_page_used(s->huge, h, offset, user);
    if (h && write)
        huge_page_written(s->huge, h, offset);
}
/* Host address of gpa with at least len bytes behind it in the same slot, or NULL. For device DMA
 * and loaders; len may be 0. */
uint8_t *memmap_host(const MemMap *map, gpa_t gpa, uint64_t len, bool write);
/* Copies across slots; returns false (and copies what it could) if a byte is not RAM. */
bool memmap_read(const MemMap *map, gpa_t gpa, void *buf, uint64_t len);
bool memmap_write(const MemMap *map, gpa_t gpa, const void *buf, uint64_t len);

#endif
