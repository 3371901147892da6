/*
 * Upkeep of the jump cache and of direct jumps to other pages.
 *
 * What leads to code by its linear address is good as long as the code's page stays where it is.
 * So there is a record for each linear page that the jump cache leads into. A change of CR3 takes
 * what is not global out of the cache and leaves the records: most address spaces have the same
 * programs and libraries at the same places. The first jump into such a page walks its mapping;
 * if that is the same physical page, all its entries come back together.
 */
#include "jit/jit.h"

#define BUCKETS    2048u
#define PAGES_MAX  8192u /* records; all are dropped when there are more */
#define FAR_USES   24    /* of a jump by the jump cache, before it is linked again */
#define GUARD_USES 64    /* of a trace's way into another page, likewise */

typedef struct JumpAt {
    const uint8_t *entry;
    const JitCode *code; /* NULL: its block has bytes in another page as well */
    uint16_t index;      /* in the jump cache: low bits of RIP */
} JumpAt;

typedef struct JumpPage {
    struct JumpPage *next; /* in its bucket */
    gva_t page;            /* of RIP */
    gpa_t gpa;
    uint64_t gen;     /* of another than JumpPages.gen nothing in at[] holds any more */
    uint8_t slot;     /* number of the jump cache */
    uint8_t listed;   /* bit k: in JumpPages.list[k] */
    bool live;        /* its entries are in the cache */
    uint16_t n, room; /* filled places of at[]; all, a power of two or none */
    uint32_t n_far, far_room;
    JumpAt *at;    /* by hash of the index; entry NULL: free */
    JitLink **far; /* jumps that are linked to code in it */
} JumpPage;

typedef struct PageList {
    uint32_t n, room;
    JumpPage **page;
} PageList;

struct JumpPages {
    JumpPage *bucket[BUCKETS];
    unsigned n;
    uint64_t gen;
    PageList list[2]; /* of those that are live, and some that were: local pages, global ones */
};

static void jump_clear(JJump *u, unsigned index)
{
    u->neg[index] = index ? 0 : 1; /* matches no RIP with this index */
    u->code[index] = NULL;
}

/* Of memory that is all zero. */
static void cache_init(Jit *j)
{
    for (unsigned k = 0; k < JJUMP_MODES; k++)
        jump_clear(&j->hot->jump[k], 0);
}

void jit_jumps_init(Jit *j)
{
    j->pages = g_new0(struct JumpPages, 1);
    cache_init(j);
}

void jit_jumps_give_back(Jit *j)
{
    jit_jumps_forget(j);
    zero_pages(j->hot->jump, sizeof(j->hot->jump));
    cache_init(j);
}

void jit_jumps_free(Jit *j)
{
    jit_jumps_forget(j);
    for (unsigned k = 0; k < 2; k++)
        g_free(j->pages->list[k].page);
    g_free(j->pages);
}

/* ---- records ---- */
static JumpPage **bucket(const Jit *j, gva_t page)
{
    return &j->pages->bucket[(page >> PAGE_BITS ^ page >> 23) & (BUCKETS - 1)];
}

static JumpPage *find_page(const Jit *j, unsigned slot, gva_t page)
{
    JumpPage *p = *bucket(j, page);
    while (p && (p->page != page || p->slot != slot))
        p = p->next;
    if (p && p->gen != j->pages->gen) {
        if (p->n)
            memset(p->at, 0, p->room * sizeof(JumpAt));
        p->n = 0;
        p->gen = j->pages->gen;
    }
    return p;
}

static JumpPage *new_page(Jit *j, unsigned slot, gva_t page)
{
    if (j->pages->n == PAGES_MAX)
        jit_jumps_forget(j);
    JumpPage *p = g_new0(JumpPage, 1), **b = bucket(j, page);
    p->page = page;
    p->slot = (uint8_t)slot;
    p->gen = j->pages->gen;
    p->next = *b;
    *b = p;
    j->pages->n++;
    return p;
}

/* Nothing leads into p until it is found again. */
static void take_out(const Jit *j, JumpPage *p)
{
    JJump *u = &j->hot->jump[p->slot];
    if (!p->live)
        return;
    p->live = false;
    for (unsigned k = 0; k < p->room; k++) {
        unsigned x = p->at[k].index;
        if (p->at[k].entry && (0 - u->neg[x]) >> PAGE_BITS == p->page >> PAGE_BITS)
            jump_clear(u, x);
    }
    for (unsigned k = 0; k < p->n_far; k++) {
        p->far[k]->listed = false;
        p->far[k]->left = p->far[k]->guard ? GUARD_USES : FAR_USES;
        jit_link_patch(j, p->far[k], p->far[k]->cold);
    }
    p->n_far = 0;
}

/* RIP of an entry: its index has the lowest bits of the page too. */
static uint64_t rip_of(const JumpPage *p, const JumpAt *a)
{
    return p->page | (a->index & ~PAGE_MASK);
}

static void set_live(Jit *j, JumpPage *p)
{
    unsigned global = blocks_page_is_global(j->t, p->page);
    PageList *l = &j->pages->list[global];
    p->live = true;
    j->jump_big |= j->t->bank->exec_big | j->t->global_big;
    if (p->listed >> global & 1)
        return;
    p->listed |= (uint8_t)BIT(global);
    if (l->n == l->room) {
        l->room = MAX_OF(256u, 2 * l->room);
        l->page = g_renew(JumpPage *, l->page, l->room);
    }
    l->page[l->n++] = p;
}

/* ---- entries of a record ---- */
/* Its code is dead: nothing leads there any more, whoever has it in the cache. */
static bool at_dead(const JumpAt *a)
{
    return a->code && !a->code->block;
}

/* Where an index is, or the free place for it. There is one. */
static JumpAt *at_place(const JumpPage *p, unsigned index)
{
    unsigned k = index * 0x9e37u >> 4 & (p->room - 1u);
    while (p->at[k].entry && p->at[k].index != index)
        k = (k + 1) & (p->room - 1u);
    return &p->at[k];
}

/* Anew, without those whose code is dead, and with room for one more. Programs that make code leave
 * an entry nearly everywhere in a page. */
static void at_clean(JumpPage *p)
{
    JumpAt *old = p->at;
    unsigned room = p->room, n = 0;
    for (unsigned k = 0; k < room; k++)
        n += old[k].entry && !at_dead(&old[k]);
    for (p->room = 8; 2 * n >= p->room;)
        p->room *= 2;
    p->at = g_new0(JumpAt, p->room);
    p->n = (uint16_t)n;
    for (unsigned k = 0; k < room; k++)
        if (old[k].entry && !at_dead(&old[k]))
            *at_place(p, old[k].index) = old[k];
    g_free(old);
}

static void add_entry(JumpPage *p, unsigned index, const Block *b)
{
    if (4u * p->n >= 3u * p->room)
        at_clean(p);
    JumpAt *a = at_place(p, index);
    p->n += !a->entry;
    *a = (JumpAt){.entry = b->jit->entry_far,
                  .code = b->gpa2 == NO_GPA ? b->jit : NULL,
                  .index = (uint16_t)index};
}

/* The page has been found, at gpa. */
static void revive(Jit *j, JumpPage *p, gpa_t gpa)
{
    JJump *u = &j->hot->jump[p->slot];
    if (p->gpa != gpa && p->n) {
        memset(p->at, 0, p->room * sizeof(JumpAt));
        p->n = 0;
    }
    p->gpa = gpa;
    for (unsigned k = 0; k < p->room; k++) {
        const JumpAt *a = &p->at[k];
        if (!a->code || at_dead(a))
            continue;
        u->neg[a->index] = 0 - rip_of(p, a);
        u->code[a->index] = a->entry;
    }
    set_live(j, p);
}

bool jit_jumps_revive(Jit *j, unsigned mode, uint64_t rip)
{
    Tcg *t = j->t;
    int slot = jit_jump_slot(mode);
    JumpPage *p = slot < 0 ? NULL : find_page(j, (unsigned)slot, rip & PAGE_MASK);
    gpa_t gpa;
    if (!p || p->live || !t->code64 || j->no_chain || !blocks_page_at(&t->v->st, t, rip, &gpa))
        return false;
    revive(j, p, gpa);
    return true;
}

Block *jit_block_revived(Jit *j, unsigned mode, uint64_t rip)
{
    if (!jit_jumps_revive(j, mode, rip))
        return NULL;
    const JumpPage *p = find_page(j, (unsigned)jit_jump_slot(mode), rip & PAGE_MASK);
    const JumpAt *a = p->n ? at_place(p, rip & (JJUMP_SIZE - 1)) : NULL;
    return a && a->entry && a->code ? a->code->block : NULL;
}

/* b has been found at rip. */
static JumpPage *page_of(Jit *j, unsigned slot, uint64_t rip, const Block *b)
{
    gva_t page = rip & PAGE_MASK;
    JumpPage *p = find_page(j, slot, page);
    if (!p)
        p = new_page(j, slot, page);
    if (!p->live)
        revive(j, p, b->gpa & PAGE_MASK);
    return p;
}

bool jit_jump_may(const Jit *j, uint64_t rip, const Block *b)
{
    return b->gpa2 == NO_GPA || !blocks_page_is_global(j->t, rip) ||
           blocks_page_is_global(j->t, (rip & PAGE_MASK) + PAGE_SIZE);
}

void jit_jump_fill(Jit *j, unsigned mode, uint64_t rip, const Block *b)
{
    int slot = jit_jump_slot(mode);
    if (slot < 0 || !b->jit || j->no_chain || !jit_jump_may(j, rip, b))
        return;
    unsigned x = rip & (JJUMP_SIZE - 1);
    JJump *u = &j->hot->jump[slot];
    if (u->code[x] == b->jit->entry_far && u->neg[x] == 0 - rip)
        return;
    add_entry(page_of(j, (unsigned)slot, rip, b), x, b);
    u->neg[x] = 0 - rip;
    u->code[x] = b->jit->entry_far;
}

/* The page is any, the place in it is not. */
void jit_jumps_to_dead(Jit *j, const Block *b)
{
    int slot = jit_jump_slot(b->mode);
    if (slot < 0)
        return;
    for (unsigned x = b->gpa & ~PAGE_MASK; x < JJUMP_SIZE; x += PAGE_SIZE)
        if (j->hot->jump[slot].code[x] == b->jit->entry_far)
            jump_clear(&j->hot->jump[slot], x);
}

void jit_far_add(Jit *j, JitLink *l, const Block *b)
{
    int slot = jit_jump_slot(b->mode);
    if (l->listed || slot < 0)
        return;
    JumpPage *p = page_of(j, (unsigned)slot, l->rip, b);
    if (p->n_far == p->far_room) {
        p->far_room = MAX_OF(4u, 2 * p->far_room);
        p->far = g_renew(JitLink *, p->far, p->far_room);
    }
    p->far[p->n_far++] = l;
    l->listed = true;
}

void jit_jumps_flush(Jit *j, bool all)
{
    for (unsigned k = 0; k < 1u + all; k++) {
        PageList *l = &j->pages->list[k];
        for (uint32_t n = 0; n < l->n; n++) {
            take_out(j, l->page[n]);
            l->page[n]->listed &= (uint8_t)~BIT(k);
        }
        l->n = 0;
    }
    if (all)
        j->jump_big = 0;
}

static void flush_record(Jit *j, gva_t page)
{
    for (JumpPage *p = *bucket(j, page); p; p = p->next)
        if (p->page == page)
            take_out(j, p);
}

void jit_jumps_flush_page(Jit *j, gva_t lin)
{
    flush_record(j, (lin & PAGE_MASK) - PAGE_SIZE);      /* its last block may end here */
    if (unlikely(j->jump_big >> (lin >> 30 & 63) & 1)) { /* how large its page is is not known */
        for (unsigned k = 0; k < 2; k++)
            for (uint32_t n = 0; n < j->pages->list[k].n; n++)
                if ((j->pages->list[k].page[n]->page ^ lin) >> 30 == 0)
                    take_out(j, j->pages->list[k].page[n]);
        return;
    }
    flush_record(j, lin & PAGE_MASK);
}

void jit_jumps_distrust(Jit *j)
{
    jit_jumps_flush(j, true);
    j->pages->gen++;
}

void jit_jumps_forget(Jit *j)
{
    jit_jumps_flush(j, true);
    for (unsigned k = 0; k < BUCKETS; k++) {
        for (JumpPage *p = j->pages->bucket[k], *next; p; p = next) {
            next = p->next;
            g_free(p->at);
            g_free(p->far);
            g_free(p);
        }
        j->pages->bucket[k] = NULL;
    }
    j->pages->n = 0;
}
