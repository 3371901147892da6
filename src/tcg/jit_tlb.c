/*
 * Upkeep of the first-level TLB (JTlb in jit.h): filled from the bank of the current PCID, and
 * never more than that would allow.
 *
 * Lists tell which entries there are: those of global pages, which outlive a change of CR3, and the
 * others. An entry whose page has been replaced by one of the other kind is in both.
 */
#include "tcg/jit.h"

#include <string.h>

/* What an entry holds that matches nothing. Zero is that, except where address 0 or the last page's
 * end would match: there, a page that has another index. */
static uint64_t none_tag(unsigned index)
{
    return index == 0 || index == JTLB_SIZE - 1
               ? 0 - ((uint64_t)(index ^ JTLB_SIZE / 2) << PAGE_BITS)
               : 0;
}

static void entry_clear(JTlb *l, unsigned index)
{
    l->read[index] = l->write[index] = none_tag(index);
    l->add[index] = none_tag(index) ? PAGE_BITS : 0;
}

/* Of an entry that has one: no page if both tags match nothing. */
static gva_t entry_page(const JTlb *l, unsigned index)
{
    gva_t read = 0 - l->read[index], write = 0 - l->write[index];
    return ((read >> PAGE_BITS) & (JTLB_SIZE - 1)) == index ? read : write;
}

static unsigned index_of(gva_t lin)
{
    return (unsigned)(lin >> PAGE_BITS) & (JTLB_SIZE - 1);
}

/* Of memory that is all zero. */
static void entries_init(Jit *j)
{
    for (unsigned m = 0; m < MMU_MODES; m++) {
        entry_clear(&j->hot->tlb[m], 0);
        entry_clear(&j->hot->tlb[m], JTLB_SIZE - 1);
    }
}

void jit_tlb_init(Jit *j)
{
    entries_init(j);
}

/* ---- lists ---- */
static void list_add(struct JTlbList *l, unsigned mode, unsigned x)
{
    uint64_t *word = &l->has[mode][x / 64];
    if (*word >> (x % 64) & 1)
        return;
    if (l->n == JTLB_LIST) {
        l->overflow = true;
        return;
    }
    *word |= BIT(x % 64);
    l->at[l->n++] = mode << 16 | x;
}

static void list_flush(Jit *j, struct JTlbList *l)
{
    for (uint32_t k = 0; k < l->n; k++) {
        unsigned mode = l->at[k] >> 16, x = l->at[k] & 0xffff;
        entry_clear(&j->hot->tlb[mode], x);
        l->has[mode][x / 64] = 0;
    }
    l->n = 0;
}

void jit_tlb_give_back(Jit *j)
{
    jit_slots_flush(j);
    jit_zero(j->hot->tlb, sizeof(j->hot->tlb));
    entries_init(j);
    for (unsigned k = 0; k < 2; k++) {
        list_flush(j, &j->tlb_list[k]);
        j->tlb_list[k].overflow = false;
    }
    j->tlb_large = (LargePages){0};
}

void jit_tlb_flush(Jit *j, bool all)
{
    if (j->tlb_list[0].overflow || (all && j->tlb_list[1].overflow)) {
        jit_tlb_give_back(j);
        return;
    }
    jit_slots_flush(j);
    list_flush(j, &j->tlb_list[0]);
    if (all) {
        list_flush(j, &j->tlb_list[1]);
        j->tlb_large = (LargePages){0};
    }
}

/* ---- single pages ---- */
/* Slots are of what is in the first-level TLB. */
static void drop(Jit *j, unsigned mode, unsigned x)
{
    JTlb *l = &j->hot->tlb[mode];
    if (j->slot_n[mode])
        jit_slots_flush_page(j, mode, entry_page(l, x));
    entry_clear(l, x);
}

void jit_tlb_flush_page(Jit *j, gva_t lin)
{
    unsigned shift = large_shift(&j->tlb_large, lin), x = index_of(lin), n = 1;
    if (unlikely(shift == HUGE_SHIFT)) {
        jit_tlb_flush(j, true);
        return;
    }
    if (unlikely(shift)) {
        n = 1u << (shift - PAGE_BITS);
        x &= ~(n - 1);
    } else {
        shift = PAGE_BITS;
    }
    for (unsigned m = 0; m < MMU_MODES; m++)
        for (unsigned k = x; k < x + n; k++)
            if (j->hot->tlb[m].add[k] && (entry_page(&j->hot->tlb[m], k) ^ lin) >> shift == 0)
                drop(j, m, k);
}

/* Tags that would let this host page be written. */
void jit_tlb_drop_writes(Jit *j, const uint8_t *host_page)
{
    jit_slots_flush(j);
    if (j->tlb_list[0].overflow || j->tlb_list[1].overflow) {
        jit_tlb_flush(j, true);
        return;
    }
    for (unsigned g = 0; g < 2; g++) {
        const struct JTlbList *list = &j->tlb_list[g];
        for (uint32_t k = 0; k < list->n; k++) {
            JTlb *l = &j->hot->tlb[list->at[k] >> 16];
            unsigned x = list->at[k] & 0xffff;
            if (l->write[x] != none_tag(x) &&
                l->add[x] - PAGE_BITS - l->write[x] == (uintptr_t)host_page)
                entry_clear(l, x);
        }
    }
}

void jit_tlb_fill(Jit *j, unsigned mode, gva_t lin)
{
    gva_t page = lin & PAGE_MASK;
    const TlbEntry *e = tlb_entry(j->t, mode, lin);
    bool r = e->tag[ACC_READ] == page, w = e->tag[ACC_WRITE] == page;
    if (!r && !w)
        return;
    unsigned x = index_of(lin), idx = tlb_index(lin);
    JTlb *l = &j->hot->tlb[mode];
    /* A page that may only be read, or only written, leaves the other tag matching nothing: the
     * page with another index. */
    uint64_t none = 0 - ((uint64_t)(x ^ JTLB_SIZE / 2) << PAGE_BITS);
    const TlbBank *bank = j->t->bank;
    if (bank->big[mode][idx / 64] >> (idx % 64) & 1)
        large_note(&j->tlb_large, lin, large_shift(&bank->big_at, lin) == HUGE_SHIFT);
    if (l->add[x] && j->slot_n[mode]) {
        bool same = l->read[x] == 0 - page || l->write[x] == 0 - page;
        if (!same)
            jit_slots_flush_page(j, mode, entry_page(l, x));
        else if (l->add[x] != e->addend + PAGE_BITS || (l->read[x] == 0 - page && !r) ||
                 (l->write[x] == 0 - page && !w))
            jit_slots_flush_page(j, mode, page);
    }
    l->read[x] = r ? 0 - page : none;
    l->write[x] = w ? 0 - page : none;
    l->add[x] = e->addend + PAGE_BITS;
    list_add(&j->tlb_list[!(bank->local[mode][idx / 64] >> (idx % 64) & 1)], mode, x);
}
