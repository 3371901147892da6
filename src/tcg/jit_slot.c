/*
 * Slots: the page that one access met last (JitSlot in jit.h). Only user code has them: the
 * kernel's accesses go here and there, and its pages come and go with every CR3.
 *
 * A slot holds what an entry of the first-level TLB holds at that moment, and whatever changes or
 * drops that entry drops the slot: jit_mem.c calls from there. A miss takes its page from the
 * first-level TLB in the fill stub, without leaving translated code; only one access in
 * SLOT_REFILLS, and the first after a flush, come to jit_slot_fill(), which keeps the list of
 * filled slots and looks how often this one misses.
 */
#include "tcg/jit.h"

#include <x86intrin.h>

#define SLOT_REFILLS 64
/* TSC ticks from one miss to the next, on average, below which the first-level TLB is faster: a
 * miss costs some 30 cycles, a hit saves about one or, where something waits for the address,
 * eight. */
#define SLOT_TICKS 250

/* `add` stays: the block that runs may have met the page already, in the first access of a run. */
static void empty(JitSlot *u)
{
    u->neg = JIT_SLOT_NONE;
    u->left = 0;
    u->listed = false;
}

void jit_slots_init(Jit *j)
{
    for (unsigned size = 1; size <= JIT_RUN_SPAN; size++) {
        uint64_t fits = PAGE_SIZE + 1 - size;
        j->hot->span[size] = ~0ull / fits + 1; /* rounded up */
    }
}

int jit_slot_new(Trans *x, unsigned size, bool write)
{
    Jit *j = x->j;
    if (!(x->mode & DM_CODE64) || (!(x->mode & DM_CPL3) && !j->kernel_slots) ||
        (x->at->b->no_slot >> (x->k - x->at->first) & 1) || j->slots == JIT_SLOTS)
        return -1;
    JitSlot *u = &j->hot->slot[j->slots];
    empty(u);
    u->add = PAGE_BITS;
    u->last = (uint16_t)(size - 1);
    u->write = write;
    u->mode = (uint8_t)jit_mmu_mode(x->mode);
    return (int)j->slots++;
}

bool jit_slot_fill(Jit *j, Block *b, unsigned k, unsigned mode, gva_t lin)
{
    JitSlot *u = (JitSlot *)((uint8_t *)j->hot->slot + j->hot->slot_at);
    const JTlb *l = &j->hot->tlb[mode];
    unsigned x = (unsigned)(lin >> PAGE_BITS) & (JTLB_SIZE - 1);
    uint64_t neg = u->write ? l->write[x] : l->read[x];
    if (mode != u->mode || !l->add[x] || neg + lin + u->last >= PAGE_SIZE)
        return false;
    uint64_t now = __rdtsc();
    if (u->listed && now - u->since < SLOT_REFILLS * SLOT_TICKS && (b->jit || b->users)) {
        /* Next time without; what runs now goes on to the end of the block. */
        b->no_slot |= BIT(k);
        j->slots_given_up++;
        jit_block_dead(j, b);
    }
    if (!u->listed)
        j->slot_list[mode][j->slot_n[mode]++] = (uint32_t)(u - j->hot->slot);
    u->listed = true;
    u->neg = neg + PAGE_SIZE - u->last;
    u->add = l->add[x];
    u->since = now;
    u->left = SLOT_REFILLS;
    return true;
}

void jit_slots_flush(Jit *j)
{
    for (unsigned m = 0; m < MMU_MODES; m++) {
        for (uint32_t n = 0; n < j->slot_n[m]; n++)
            empty(&j->hot->slot[j->slot_list[m][n]]);
        j->slot_n[m] = 0;
    }
}

void jit_slots_flush_page(Jit *j, unsigned mode, gva_t lin)
{
    uint32_t kept = 0, *list = j->slot_list[mode];
    for (uint32_t n = 0; n < j->slot_n[mode]; n++) {
        JitSlot *u = &j->hot->slot[list[n]];
        if (u->neg == PAGE_SIZE - u->last - lin)
            empty(u);
        else
            list[kept++] = list[n];
    }
    j->slot_n[mode] = kept;
}
