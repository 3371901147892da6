/*
 * Fresh pages: those that a vCPU has used in a software engine, and that KVM is not known to have
 * mapped. KVM maps them before the vCPU goes there (kvm/prefault.c), so that it need not leave the
 * guest for each.
 *
 * A vCPU lists the latest FRESH_MAX of them. A page is listed once, by one vCPU; what is pushed out
 * by later ones is fresh again when it is used again.
 */
#ifndef TANDEM_CPU_FRESH_H
#define TANDEM_CPU_FRESH_H

#include "base/types.h"

#define FRESH_MAX   1024u
#define FRESH_SHIFT 12 /* a page */

/* A VM's. A bit for each page from guest address 0 on that is listed, or that KVM was told of.
 * Grown and freed with all vCPUs stopped; bits are anybody's. */
typedef struct FreshMap {
    uint64_t *known;
    uint64_t pages; /* that there are bits for: no other is ever listed */
} FreshMap;

/* A vCPU's, of its own thread. */
typedef struct Fresh {
    FreshMap *map;
    unsigned n, next; /* so many, the latest of them before place `next` */
    uint64_t page[FRESH_MAX];
} Fresh;

/* There are bits for all addresses below `end`; those there were keep their values. */
void fresh_map_grow(FreshMap *, gpa_t end);
void fresh_map_free(FreshMap *);
/* KVM does not have these pages any more. */
void fresh_map_forget(FreshMap *, gpa_t, uint64_t size);

void fresh_list(Fresh *, uint64_t page);
/* Takes so many at most off the list, as addresses, the latest first. */
unsigned fresh_take(Fresh *, gpa_t *page, unsigned most);

/* The vCPU uses a page of RAM in a software engine. f NULL: nobody wants to know. */
static inline void fresh_used(Fresh *f, gpa_t gpa)
{
    uint64_t page = gpa >> FRESH_SHIFT;
    if (!f || page >= f->map->pages)
        return;
    uint64_t known = __atomic_load_n(&f->map->known[page / 64], __ATOMIC_RELAXED);
    if (unlikely(!(known >> (page % 64) & 1)))
        fresh_list(f, page);
}

#endif
