/*
 * Slots: the pages that one access met last (JitSlot in jit.h). Only user code has them: the
 * kernel's accesses go here and there, and its pages come and go with every CR3.
 *
 * A slot holds what entries of the first-level TLB hold at that moment, and whatever changes or
 * drops one of them drops the slot: tlb.c calls from there. jit_slot_fill() gives it the page
 * of the address, and those before and behind it for which the first-level TLB says the same: they
 * often are neighbours in the host's memory too, always within a large page. The first misses after
 * a flush come there (but SLOT_FIRST), while there is more to be found. Of the later ones only one
 * in SLOT_REFILLS does, which then looks how often this slot misses; the others take their one page
 * from the first-level TLB in the fill stub, without leaving translated code. What is filled after
 * a flush is listed, by the stub too: the next one goes through that list. Where a slot misses
 * often, and its pages are neighbours in the program only, they are put side by side: window.c.
 */
#include "jit/trans.h"

#include <string.h>
#include <x86intrin.h>

/* Jit.slot_refills, unless a test sets another. */
#define SLOT_REFILLS 64
/* Misses that come to jit_slot_fill() first: Jit.slot_asks, likewise; so many more where there is a
 * window. */
#define SLOT_ASKS        6
#define SLOT_ASKS_WINDOW 8
/* Jit.slot_first, likewise: misses after a flush that the stub sees to before jit_slot_fill() is
 * asked, where the slot has been filled before. Programs that are switched between, and what each
 * new process does first, miss each slot once or twice. */
#define SLOT_FIRST 3
/* A table's slot (the stub has no `span` for it) is filled here each time: so many misses count. */
#define TABLE_MISSES 4
/* TSC ticks from one miss to the next, on average, below which the first-level TLB is faster: a
 * miss costs some 30 cycles, a hit saves about one or, where something waits for the address,
 * eight. */
#define SLOT_TICKS 250
/* And below which its pages are shown side by side in a window, some 10,000 each:
 * Jit.window_ticks, likewise. */
#define WINDOW_TICKS 2000
/* Bytes in a row of which a slot that misses does with one: these are in a large page. */
#define RANGE_SMALL (1u << 20)
/* Pages: `places` has 32 bits, and the product with `span` is exact below 2^31. */
#define RANGE_PAGES 65536u

_Static_assert(sizeof(JitSlot) == 32, "JitSlot");

/* Misses that the stub may see to first. */
static uint8_t first_left(const Jit *j, const JitSlot *u)
{
    return u->last >= JIT_RUN_SPAN ? 0 : j->slot_first;
}

/* One that has been filled since the last flush, and stays in the list. Of all that is emptied
 * `add` stays: the block that runs may have met the page already, in the first access of a run. */
static void empty_listed(const Jit *j, JitSlot *u)
{
    u->neg = JIT_SLOT_NONE;
    u->left = first_left(j, u);
    u->asked = 0;
}

/* 2^64 / places, rounded up. Of two places at least. */
static uint64_t span_of(uint64_t places)
{
    return ~0ull / places + 1;
}

void jit_slots_init(Jit *j)
{
    j->slot_asks = SLOT_ASKS;
    j->slot_refills = SLOT_REFILLS;
    j->slot_first = SLOT_FIRST;
    j->window_ticks = WINDOW_TICKS;
    for (unsigned size = 1; size <= JIT_RUN_SPAN; size++)
        j->hot->span[size] = span_of(PAGE_SIZE + 1 - size);
}

bool jit_has_slots(const Trans *x)
{
    return (x->mode & DM_CODE64) && ((x->mode & DM_CPL3) || x->j->kernel_slots);
}

int jit_slot_new(Trans *x, unsigned size, bool write)
{
    Jit *j = x->j;
    if (!jit_has_slots(x) || (x->at->b->no_slot >> (x->k - x->at->first) & 1) ||
        j->slots == JIT_SLOTS)
        return -1;
    JitSlot *u = &j->hot->slot[j->slots];
    u->neg = JIT_SLOT_NONE;
    u->left = u->asked = 0;
    u->listed = false;
    j->hot->slot_first[j->slots] = 0;
    u->add = PAGE_BITS;
    u->last = (uint16_t)(size - 1);
    u->places = 2;
    u->span = span_of(u->places);
    u->write = write;
    u->mode = jit_mmu_mode(x->mode) & 3;
    return (int)j->slots++;
}

/* ---- pages one after the other ---- */
/* Does the first-level TLB have this page, so far from where the guest sees it? */
static bool has(const JTlb *l, bool write, gva_t page, uint64_t add)
{
    unsigned x = (unsigned)(page >> PAGE_BITS) & (JTLB_SIZE - 1);
    return (write ? l->write[x] : l->read[x]) == 0 - page && l->add[x] == add;
}

/* All that lead on from r. Addresses do not wrap. */
static void grow(const JTlb *l, bool write, uint64_t add, struct JitRange *r)
{
    const uint64_t most = (uint64_t)RANGE_PAGES << PAGE_BITS;
    while (r->hi && r->hi - r->lo < most && has(l, write, r->hi, add))
        r->hi += PAGE_SIZE;
    while (r->lo && r->hi - r->lo < most && has(l, write, r->lo - PAGE_SIZE, add))
        r->lo -= PAGE_SIZE;
}

/* The range of a page that the first-level TLB has; begun from one that was found before. */
static struct JitRange range_of(Jit *j, unsigned mode, bool write, gva_t page, uint64_t add)
{
    struct JitRanges *s = &j->range[mode][write];
    struct JitRange *r = NULL;
    for (unsigned n = 0; n < s->n && !r; n++)
        if (page - s->at[n].lo < s->at[n].hi - s->at[n].lo)
            r = &s->at[n];
    if (!r) {
        r = &s->at[s->next];
        s->next = (s->next + 1) % JIT_RANGES;
        s->n = MAX_OF(s->n, (unsigned)(r - s->at) + 1);
        *r = (struct JitRange){page, page + PAGE_SIZE};
    }
    grow(&j->hot->tlb[mode], write, add, r);
    return *r;
}

/* u misses more often than each `ticks`, on average, since it was last here. */
static bool misses(const Jit *j, const JitSlot *u, uint64_t now, uint64_t ticks)
{
    unsigned n = u->last < JIT_RUN_SPAN ? j->slot_refills : TABLE_MISSES;
    return !u->left && now - j->slot_since[u - j->hot->slot] < n * ticks;
}

static uint64_t add_of(const JTlb *l, gva_t page)
{
    return l->add[(page >> PAGE_BITS) & (JTLB_SIZE - 1)];
}

/* In a window or the mirror. */
static bool in_window(const Jit *j, gva_t page, uint64_t add)
{
    return jit_window_direct(j, page, add) != add || jit_mirror_direct(j, page, add) != add;
}

/* Shows all pages from lin to `end`. */
static bool show_all(Jit *j, unsigned mode, bool write, gva_t lin, gva_t end)
{
    const JTlb *l = &j->hot->tlb[mode];
    for (gva_t page = lin & PAGE_MASK; page <= end; page += PAGE_SIZE) {
        uint64_t add = add_of(l, page);
        if (!add || !has(l, write, page, add) ||
            (!in_window(j, page, add) && !jit_window_show(j, page, add)))
            return false;
    }
    return true;
}

#define BESIDE 8u /* pages on each side */

/* Shows a page that is in no window yet. */
static bool show_one(Jit *j, unsigned mode, bool write, gva_t page)
{
    return !in_window(j, page, add_of(&j->hot->tlb[mode], page)) &&
           show_all(j, mode, write, page, page);
}

/* Shows pages before and behind some that are shown; true if there are any. */
static bool show_beside(Jit *j, unsigned mode, bool write, const struct JitRange *r)
{
    gva_t behind = r->hi, before = r->lo;
    while (behind - r->hi < BESIDE * PAGE_SIZE && show_one(j, mode, write, behind))
        behind += PAGE_SIZE;
    while (r->lo - before < BESIDE * PAGE_SIZE && before &&
           show_one(j, mode, write, before - PAGE_SIZE))
        before -= PAGE_SIZE;
    return behind != r->hi || before != r->lo;
}

bool jit_slot_fill(Jit *j, Block *b, unsigned k, unsigned mode, gva_t lin)
{
    JitSlot *u = (JitSlot *)((uint8_t *)j->hot->slot + j->hot->slot_at);
    const JTlb *l = &j->hot->tlb[mode];
    gva_t page = lin & PAGE_MASK;
    uint64_t add = add_of(l, page);
    if (b && jit_mirror_area(lin) != MIRROR_NONE)
        b->in_mirror[jit_mirror_area(lin) - 1] |= BIT(k);
    if (mode != u->mode || !add || !has(l, u->write, page, add))
        return false;
    uint32_t n = (uint32_t)(u - j->hot->slot);
    uint64_t now = __rdtsc();
    const unsigned asks = j->slot_asks, asks_window = asks + SLOT_ASKS_WINDOW;
    const unsigned asked = u->asked;
    bool counted = asked == asks || asked == asks_window; /* so many misses in between */
    struct JitRange r = range_of(j, mode, u->write, page, add);
    /* Streams of small strides go on page by page: windows are of small pages for the host. */
    bool windows = b || k, shown = false;
    if (r.hi - lin <= u->last) {
        if (!windows || (lin & ~PAGE_MASK) + u->last < PAGE_SIZE)
            return false;
        if (!in_window(j, page, add) && asked < asks) {
            u->asked++;
            return false;
        }
        if (!show_all(j, mode, u->write, lin, lin + u->last))
            return false;
        add = add_of(l, page);
        r = range_of(j, mode, u->write, page, add);
    } else if (windows && r.hi - r.lo < RANGE_SMALL && asked >= asks && !in_window(j, page, add) &&
               (jit_window_at(j, page) || misses(j, u, now, j->window_ticks))) {
        shown = jit_window_show(j, page, add);
        add = add_of(l, page);
        r = range_of(j, mode, u->write, page, add);
    } else if (windows && asked >= asks && in_window(j, page, add) &&
               misses(j, u, now, j->window_ticks)) {
        /* Where it goes besides may not be shown yet. */
        shown = show_beside(j, mode, u->write, &r);
        r = range_of(j, mode, u->write, page, add);
    }
    u->asked = asked & 15; /* showing has emptied this one too, perhaps */
    if (r.hi - lin <= u->last || r.hi - r.lo - u->last < 2)
        return false;
    if (b && counted && !shown && misses(j, u, now, SLOT_TICKS) && (b->jit || b->users)) {
        /* Next time without; what runs now goes on to the end of the block. */
        b->no_slot |= BIT(k);
        j->slots_given_up++;
        jit_block_dead(j, b);
    }
    if (!u->listed) {
        j->hot->slot_list[j->hot->slot_n++] = n;
        j->hot->slot_first[n] = 0;
    }
    u->listed = true;
    u->places = (uint32_t)(r.hi - r.lo - u->last);
    u->span = span_of(u->places);
    u->neg = u->places - r.lo;
    u->add = add;
    const unsigned most = in_window(j, page, add) ? asks_window : asks;
    if (!shown && u->asked < most)
        u->asked++;
    u->left = u->asked < most || u->last >= JIT_RUN_SPAN ? 0 : j->slot_refills;
    j->slot_since[n] = now;
    return true;
}

/* ---- dropping ---- */
/* What is left of the ranges without this page. */
static void cut(struct JitRanges *s, gva_t page)
{
    for (unsigned n = 0; n < s->n; n++) {
        struct JitRange *r = &s->at[n];
        if (page - r->lo >= r->hi - r->lo)
            continue;
        if (page - r->lo < r->hi - page)
            r->lo = page + PAGE_SIZE;
        else
            r->hi = page;
    }
}

static void forget_ranges(Jit *j, unsigned mode)
{
    for (unsigned write = 0; write < 2; write++)
        j->range[mode][write].n = j->range[mode][write].next = 0;
}

void jit_slots_flush(Jit *j)
{
    JitHot *h = j->hot;
    for (uint32_t k = 0; k < h->slot_n; k++) {
        JitSlot *u = &h->slot[h->slot_list[k]];
        u->neg = JIT_SLOT_NONE;
        u->left = u->asked = 0;
        u->listed = false;
        h->slot_first[h->slot_list[k]] = first_left(j, u);
    }
    h->slot_n = 0;
    for (unsigned m = 0; m < MMU_MODES; m++)
        forget_ranges(j, m);
}

void jit_slots_forget(Jit *j)
{
    for (unsigned m = 0; m < MMU_MODES; m++)
        forget_ranges(j, m);
    j->hot->slot_n = 0;
    j->slots = 0;
}

void jit_slots_flush_page(Jit *j, unsigned mode, gva_t lin)
{
    const JitHot *h = j->hot;
    for (unsigned write = 0; write < 2; write++)
        cut(&j->range[mode][write], lin & PAGE_MASK);
    for (uint32_t k = 0; k < h->slot_n; k++) {
        JitSlot *u = &j->hot->slot[h->slot_list[k]];
        gva_t first = u->places - u->neg;
        if (lin - first < (uint64_t)u->places + u->last)
            empty_listed(j, u);
    }
}

uint8_t jit_slot_listed_bit(void)
{
    JitSlot u = {.listed = 1};
    uint8_t bytes[sizeof(u)];
    memcpy(bytes, &u, sizeof(u));
    return bytes[sizeof(u) - 1];
}
