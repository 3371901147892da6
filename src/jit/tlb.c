/*
 * Upkeep of the first-level TLB (JTlb in jit.h): filled from the bank of the current PCID, and
 * never more than that would allow.
 *
 * Sets tell which entries there are: those of global pages, which outlive a change of CR3, and the
 * others. An entry whose page has been replaced by one of the other kind is in both.
 */
#include "jit/jit.h"

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

/* ---- sets ---- */
static void set_add(struct JTlbSet *l, unsigned mode, unsigned x)
{
    l->has[mode][x / 64] |= BIT(x % 64);
    l->some[mode][x / 4096] |= BIT(x / 64 % 64);
}

/* Calls fn(j, mode, first, which) for each 64 entries that have some; clear: none is left. */
static inline __attribute__((always_inline)) void
set_each(Jit *j, struct JTlbSet *l, bool clear, const uint8_t *host,
         void (*fn)(Jit *, unsigned mode, unsigned first, uint64_t which, const uint8_t *host))
{
    for (unsigned m = 0; m < MMU_MODES; m++) {
        for (unsigned top = 0; top < ARRAY_LEN(l->some[m]); top++) {
            for (uint64_t words = l->some[m][top]; words; words &= words - 1) {
                unsigned word = top * 64 + (unsigned)__builtin_ctzll(words);
                fn(j, m, word * 64, l->has[m][word], host);
                if (clear)
                    l->has[m][word] = 0;
            }
            if (clear)
                l->some[m][top] = 0;
        }
    }
}

/* Eight entries are a line of each array. */
static inline void clear_each(Jit *j, unsigned mode, unsigned first, uint64_t which,
                              const uint8_t *host G_GNUC_UNUSED)
{
    JTlb *l = &j->hot->tlb[mode];
    for (unsigned x = first; which; x += 8, which >>= 8) {
        if ((uint8_t)which == 0xff && !none_tag(x) && !none_tag(x + 7)) {
            memset(&l->read[x], 0, 8 * sizeof(l->read[0]));
            memset(&l->write[x], 0, 8 * sizeof(l->write[0]));
            memset(&l->add[x], 0, 8 * sizeof(l->add[0]));
            continue;
        }
        for (unsigned left = (uint8_t)which; left; left &= left - 1)
            entry_clear(l, x + (unsigned)__builtin_ctz(left));
    }
}

static void set_flush(Jit *j, struct JTlbSet *l)
{
    set_each(j, l, true, NULL, clear_each);
}

void jit_tlb_give_back(Jit *j)
{
    jit_slots_flush(j);
    jit_windows_free(j); /* nothing leads there any more */
    jit_mirror_give_back(j);
    jit_kernel_give_back(j);
    zero_pages(j->hot->tlb, sizeof(j->hot->tlb));
    entries_init(j);
    memset(j->tlb_set, 0, sizeof(j->tlb_set));
    j->tlb_large = (LargePages){0};
}

void jit_tlb_flush(Jit *j, bool all)
{
    jit_slots_flush(j);
    jit_windows_trim(j);
    jit_mirror_off(j);
    set_flush(j, &j->tlb_set[0]);
    if (all) {
        jit_kernel_off(j);
        set_flush(j, &j->tlb_set[1]);
        j->tlb_large = (LargePages){0};
    }
}

/* ---- single pages ---- */
/* Slots are of what is in the first-level TLB. */
static void drop(Jit *j, unsigned mode, unsigned x)
{
    JTlb *l = &j->hot->tlb[mode];
    jit_slots_flush_page(j, mode, entry_page(l, x));
    entry_clear(l, x);
}

void jit_tlb_flush_page(Jit *j, gva_t lin)
{
    unsigned shift = large_shift(&j->tlb_large, lin), x = index_of(lin), n = 1;
    jit_kernel_drop(j, lin);
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
    jit_mirror_drop(j, lin >> shift << shift, (gva_t)1 << shift);
    for (unsigned m = 0; m < MMU_MODES; m++)
        for (unsigned k = x; k < x + n; k++)
            if (j->hot->tlb[m].add[k] && (entry_page(&j->hot->tlb[m], k) ^ lin) >> shift == 0)
                drop(j, m, k);
}

void jit_tlb_move(Jit *j, gva_t page, uint64_t from, uint64_t to)
{
    unsigned x = index_of(page);
    for (unsigned m = 0; m < MMU_MODES; m++) {
        JTlb *l = &j->hot->tlb[m];
        if (l->add[x] != from || entry_page(l, x) != page)
            continue;
        if (to) {
            jit_slots_flush_page(j, m, page);
            l->add[x] = to;
        } else {
            drop(j, m, x);
        }
    }
}

void jit_tlb_show(Jit *j, gva_t page, uint64_t to, bool write)
{
    unsigned x = index_of(page);
    for (unsigned m = 0; m < MMU_MODES; m++) {
        JTlb *l = &j->hot->tlb[m];
        if (!l->add[x] || entry_page(l, x) != page || (l->write[x] == 0 - page && !write))
            continue;
        jit_slots_flush_page(j, m, page);
        l->add[x] = to;
    }
}

/* `add` of an entry for a page that is so far from the guest's RAM. */
static uint64_t shown_at(const Jit *j, gva_t page, uint64_t add, bool write)
{
    uint64_t mirror =
        page >> 63 ? jit_kernel_add(j, page, add, write) : jit_mirror_add(j, page, add, write);
    return mirror != add ? mirror : jit_window_add(j, page, add);
}

static inline void clear_writable(Jit *j, unsigned mode, unsigned first, uint64_t which,
                                  const uint8_t *host)
{
    JTlb *l = &j->hot->tlb[mode];
    for (; which; which &= which - 1) {
        unsigned x = first + (unsigned)__builtin_ctzll(which);
        if (l->write[x] == none_tag(x))
            continue;
        gva_t page = 0 - l->write[x];
        uint64_t add = l->add[x];
        if (!(page >> 63)) /* what leads into the kernel's mirror is gone already */
            add = jit_window_direct(j, page, jit_mirror_direct(j, page, add));
        if (add - PAGE_BITS - l->write[x] == (uintptr_t)host)
            entry_clear(l, x);
    }
}

/* Tags that would let this host page be written. The kernel's mirror has been asked before. */
void jit_tlb_drop_writes(Jit *j, const uint8_t *host_page)
{
    jit_slots_flush(j);
    jit_mirror_drop_writes(j, host_page);
    for (unsigned g = 0; g < 2; g++)
        set_each(j, &j->tlb_set[g], false, host_page, clear_writable);
}

#define AROUND 8u /* pages whose entries lie in one line of the processor's cache */

/* lin is in a large page, and fill() has just seen it: the pages around it, where no others are.
 * They have the same rights, but for code. */
static void fill_around(Jit *j, unsigned mode, gva_t page, const TlbEntry *e, bool r, bool w,
                        struct JTlbSet *set)
{
    Tcg *t = j->t;
    JTlb *l = &j->hot->tlb[mode];
    gva_t group = page & ~((gva_t)AROUND * PAGE_SIZE - 1);
    for (gva_t p = group; p < group + AROUND * PAGE_SIZE; p += PAGE_SIZE) {
        unsigned x = index_of(p);
        if (l->add[x] || p < t->around.first || p > t->around.last)
            continue; /* those of no page whose number would match 0 have an `add` */
        bool writes = w && !blocks_page_has_code(t, t->around.gpa + (p - page));
        uint64_t none = 0 - ((uint64_t)(x ^ JTLB_SIZE / 2) << PAGE_BITS);
        if (!r && !writes)
            continue;
        l->read[x] = r ? 0 - p : none;
        l->write[x] = writes ? 0 - p : none;
        l->add[x] = shown_at(j, p, e->addend + PAGE_BITS, writes);
        if (writes)
            may_write(t, p + e->addend);
        set_add(set, mode, x);
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
    uint64_t add = shown_at(j, page, e->addend + PAGE_BITS, w);
    const TlbBank *bank = j->t->bank;
    if (bank->big[mode][idx / 64] >> (idx % 64) & 1)
        large_note(&j->tlb_large, lin, large_shift(&bank->big_at, lin) == HUGE_SHIFT);
    if (l->add[x]) {
        bool same = l->read[x] == 0 - page || l->write[x] == 0 - page;
        if (!same)
            jit_slots_flush_page(j, mode, entry_page(l, x));
        else if (l->add[x] != add || (l->read[x] == 0 - page && !r) ||
                 (l->write[x] == 0 - page && !w))
            jit_slots_flush_page(j, mode, page);
    }
    l->read[x] = r ? 0 - page : none;
    l->write[x] = w ? 0 - page : none;
    l->add[x] = add;
    struct JTlbSet *set = &j->tlb_set[!(bank->local[mode][idx / 64] >> (idx % 64) & 1)];
    set_add(set, mode, x);
    if (j->t->around.page == page) {
        fill_around(j, mode, page, e, r, w, set);
        j->t->around.page = TLB_NONE;
    }
}
