/*
 * The mirror: a program's pages at their own places in the host's address space, so that hot code
 * reaches them without looking each one up.
 *
 * Two areas of the guest's linear addresses, where programs are, have one of the host's each: the
 * lower one lies where it does in the guest, the upper one so far from there everywhere. RAM is a
 * memfd (memory.c), and a page that user code has accessed is mapped there a second time. What is
 * not mapped faults: the signal handler has the access done by its exec function, which walks the
 * guest's tables and raises what there is to raise, and then the page is shown if it can be
 * (jit_mirror_show()). The check of an access (mem.c) is then only whether its base register
 * points into the area at all. Around an area nothing else is mapped within 2^LOW_BITS bytes, so
 * whatever is added to a checked base, if it is less than that (INDEX_BITS in scan.c), meets
 * the right page or faults. `mov r9, [rdi+8]` becomes
 *
 *     pext  rcx, rdi, gs:[upper]     1 for an address in the upper area
 *     loop  miss
 *     mov   rdx, gs:[add]            unless it is there already
 *     mov   r9, [rdi+rdx-4]
 *
 * and in the lower area, whose operands are as they stand once they are checked,
 *
 *     pext  rcx, rdi, gs:[upper]     0
 *     mov   rdx, gs:[add]            12, or what no check passes
 *     lea   rcx, [rcx+rdx-11]
 *     loop  miss
 *     mov   r9, [rdi+8]
 *
 * with SHRX for PEXT on processors that are slow at that (jit_area_bits()), and CMP and a jump for
 * all but the last where flags may change (flags.c). An address that is known now needs no
 * check, and goes by `add`, which leads nowhere while the mirror is not in use.
 *
 * The mirror belongs to one address space, by the page of CR3. It is in use from when that has been
 * looked at: each page shown is still what the tables say, with the accessed (and, to be written,
 * the dirty) bit set already, as a TLB may fill itself at any time. Whatever flushes the TLB puts
 * it out of use, by numbers that no check passes and no access survives. INVLPG, and a page that
 * code is decoded from, take single pages out of it.
 *
 * Nothing of the process itself lies in the areas or the room around them: a guest's address,
 * however wild, leads to its own pages or nowhere.
 */
#include "jit/jit.h"

#include <sys/mman.h>
#include <x86intrin.h>

#define LOW_BITS  40
#define HIGH_BITS 46
/* Where the host has the first of the upper area; the lower one is where it is in the guest. */
#define HIGH_HOST BIT(42)
/* All that is reserved: both areas with room around them. Below the first no process has anything,
 * and addresses below 0 are the host kernel's. */
#define RESERVED_FIRST 0x100000ull
#define RESERVED_END   (HIGH_HOST + BIT(HIGH_BITS) + BIT(LOW_BITS))
/* Each is a mapping of the host's, and, but for large ones, a place in the processor's TLB, where
 * guest RAM takes one each 2 MiB. */
#define SPANS_MAX 2048u
#define GROUP     4u /* pages that are shown together */
#define BIG_PAGES 512u
/* TSC ticks: another address space may have the mirror when its owner has not run for so long. */
#define OWNER_TICKS 100000000ull
/*
 * Pages that come and go, and address spaces that take turns, make the mirror dearer than what it
 * saves. When COST_LOOK ticks have gone into it they are held against the time that has passed, and
 * if that is less than Jit.mirror_share times as much all code that uses it goes, and none is made
 * for a while: REST_TICKS, and twice as long each time.
 */
#define COST_LOOK  2000000u
#define COST_FAULT 6000u /* of the signal */
#define COST_TURN  20000u
#define REST_TICKS 200000000ull
#define REST_MOST  (64 * REST_TICKS)
/* No address there. */
#define NOWHERE BIT(62)

/* Pages one after the other, in the program and in the guest's memory. */
typedef struct Span {
    gva_t lin;
    gpa_t gpa;
    const uint8_t *host; /* where guest RAM is mapped */
    uint32_t pages;
    bool write, big; /* big: of one large page */
} Span;

struct JitMirror {
    bool failed, active;
    uint32_t mem_gen;                            /* MemMap.gen when it was last put to use */
    gpa_t owner;                                 /* page of CR3; 0: nobody */
    uint64_t cost, cost_since, rest, rest_until; /* TSC ticks, and when */
    uint64_t used;                               /* TSC */
    Span *span;                                  /* ascending */
    unsigned n;
};

/* ---- the host's side ---- */
static uint8_t *host_of(gva_t lin)
{
    uint64_t at = lin >> LOW_BITS ? lin - BIT(HIGH_BITS) + HIGH_HOST : lin;
    return (uint8_t *)(uintptr_t)at;
}

gva_t jit_mirror_lin(const void *host)
{
    uint64_t at = (uintptr_t)host;
    if (at < BIT(LOW_BITS))
        return at;
    return at - HIGH_HOST < BIT(HIGH_BITS) ? at - HIGH_HOST + BIT(HIGH_BITS) : NOWHERE;
}

enum MirrorArea jit_mirror_area(gva_t lin)
{
    return lin >> LOW_BITS == 0 ? MIRROR_LOW : lin >> HIGH_BITS == 1 ? MIRROR_HIGH : MIRROR_NONE;
}

static void hide(gva_t lin, size_t pages)
{
    void *at = host_of(lin);
    if (mmap(at, pages * PAGE_SIZE, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != at)
        g_error("the translator's mirror: a page cannot be taken out of it"); /* it would stay in
                                                                                 reach */
}

bool jit_mirror_file(const MemMap *mem)
{
    for (unsigned k = 0; k < mem->n; k++)
        if (mem->slot[k].fd >= 0 && !mem->slot[k].readonly)
            return true;
    return false;
}

/* Has the host a page of the kernel's that programs may read (vsyscall=emulate)? It would be within
 * what an index may take from a base in the lower area. */
static bool kernel_page_readable(void)
{
    g_autofree char *maps = NULL;
    const char *line = NULL;
    if (g_file_get_contents("/proc/self/maps", &maps, NULL, NULL))
        line = strstr(maps, "\nffffffffff600000-ffffffffff601000 r");
    return line != NULL;
}

static bool reserve(void)
{
    if (kernel_page_readable())
        return false;
    void *at = (void *)(uintptr_t)RESERVED_FIRST;
    size_t bytes = RESERVED_END - RESERVED_FIRST;
    void *p = mmap(at, bytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != MAP_FAILED && p != at)
        munmap(p, bytes); /* a kernel that does not know the flag */
    return p == at;
}

/* ---- spans ---- */
/* The first that ends behind lin. */
static unsigned span_from(const struct JitMirror *m, gva_t lin)
{
    unsigned lo = 0, hi = m->n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (m->span[mid].lin + (gva_t)m->span[mid].pages * PAGE_SIZE <= lin)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool span_has(const struct JitMirror *m, unsigned n, gva_t lin)
{
    return n < m->n && lin >= m->span[n].lin;
}

/* What the first-level TLB has as `add` of what is shown in this place. */
static uint64_t shown_add(gva_t lin)
{
    return (uintptr_t)host_of(lin) - lin + PAGE_BITS;
}

/* Nothing may lead to it any more. */
static void hide_span(Jit *j, const Span *p)
{
    for (unsigned k = 0; k < p->pages; k++)
        jit_tlb_move(j, p->lin + k * PAGE_SIZE, shown_add(p->lin), 0);
    hide(p->lin, p->pages);
    j->hidden = true;
}

static void span_drop(Jit *j, unsigned n)
{
    struct JitMirror *m = j->mirror;
    hide_span(j, &m->span[n]);
    memmove(&m->span[n], &m->span[n + 1], (m->n - n - 1) * sizeof(Span));
    m->n--;
}

static void drop_all(Jit *j)
{
    struct JitMirror *m = j->mirror;
    for (unsigned n = 0; n < m->n; n++)
        hide_span(j, &m->span[n]);
    m->n = 0;
}

/* The span that shows `page`, or NULL. */
static const Span *span_of(const Jit *j, gva_t page)
{
    const struct JitMirror *m = j->mirror;
    unsigned n = m && m->n ? span_from(m, page) : 0;
    return m && m->n && span_has(m, n, page) ? &m->span[n] : NULL;
}

uint64_t jit_mirror_add(const Jit *j, gva_t page, uint64_t add, bool write)
{
    const Span *p = span_of(j, page);
    bool same = p && (uintptr_t)p->host - p->lin + PAGE_BITS == add;
    return same && (p->write || !write) ? shown_add(page) : add;
}

uint64_t jit_mirror_direct(const Jit *j, gva_t page, uint64_t add)
{
    const Span *p = span_of(j, page);
    return p && add == shown_add(page) ? (uintptr_t)p->host - p->lin + PAGE_BITS : add;
}

/* ---- in and out of use ---- */
static void set(Jit *j, bool on)
{
    JitHot *h = j->hot;
    j->mirror->active = on;
    h->mirror_upper[MIRROR_LOW] = on ? ~0ull << LOW_BITS : ~0ull;
    h->mirror_upper[MIRROR_HIGH] = on ? ~0ull << HIGH_BITS : 0;
    h->mirror_shift[MIRROR_LOW] = on ? LOW_BITS : 0;
    h->mirror_shift[MIRROR_HIGH] = on ? HIGH_BITS : 0; /* out of use, it lets 1 pass: to nowhere */
    h->mirror_low_end = on ? BIT(LOW_BITS) : 0;
    h->mirror_add[MIRROR_LOW] = (on ? 0 : NOWHERE) + PAGE_BITS;
    h->mirror_add[MIRROR_HIGH] = (on ? HIGH_HOST - BIT(HIGH_BITS) : NOWHERE) + PAGE_BITS;
}

void jit_mirror_off(Jit *j)
{
    if (j->mirror && j->mirror->active)
        set(j, false);
}

bool jit_mirror_out(const Jit *j)
{
    return !j->mirror || !j->mirror->active;
}

static gpa_t space_of(const Jit *j)
{
    return j->t->v->st.cr3 & (BIT(52) - PAGE_SIZE);
}

/* Do accesses of user code need nothing but their page? */
static bool plain(const Jit *j)
{
    const CpuState *s = &j->t->v->st;
    return (s->efer & EFER_LMA) && !(s->cr4 & CR4_LA57) && !(s->dr7 & 0xff) && !j->t->align_check &&
           !j->t->v->writes;
}

/* Something began at this TSC, and `more` besides. */
static void count_cost(Jit *j, uint64_t began, uint64_t more)
{
    struct JitMirror *m = j->mirror;
    uint64_t now = __rdtsc();
    m->cost += now - began + more;
    if (m->cost < COST_LOOK)
        return;
    bool dear = now - m->cost_since < j->mirror_share * m->cost;
    m->cost = 0;
    m->cost_since = now;
    if (!dear)
        return;
    m->rest = m->rest ? MIN_OF(2 * m->rest, REST_MOST) : REST_TICKS;
    m->rest_until = now + m->rest;
    m->owner = 0;
    jit_mirror_off(j);
    drop_all(j);
    for (unsigned k = 0; k < j->map_n; k++)
        if (j->map[k]->block && j->map[k]->mirrored)
            jit_block_dead(j, j->map[k]->block);
}

/* Is all of it still so? */
static bool holds(Jit *j, const Span *p)
{
    for (unsigned k = 0; k < p->pages; k++) {
        UserPage now;
        gpa_t gpa = p->gpa + k * PAGE_SIZE;
        if (p->write)
            may_write(j->t, (uintptr_t)p->host + k * PAGE_SIZE);
        if (k == 0 || !p->big) {
            if (!mmu_user_page(j->t, p->lin + k * PAGE_SIZE, &now) || now.gpa != gpa ||
                now.big != p->big || (p->write && !now.write))
                return false;
        } else if (p->write && blocks_page_has_code(j->t, gpa)) {
            return false;
        }
    }
    return true;
}

bool jit_mirror_on(Jit *j)
{
    struct JitMirror *m = j->mirror;
    if (!m || m->failed || m->owner != space_of(j) || !plain(j))
        return false;
    m->used = __rdtsc();
    if (m->active)
        return true;
    j->mirror_turns++;
    uint64_t began = __rdtsc();
    if (m->mem_gen != j->t->v->vm->mem->gen) /* RAM and ROM may have taken each other's place */
        drop_all(j);
    m->mem_gen = j->t->v->vm->mem->gen;
    for (unsigned n = m->n; n-- > 0;)
        if (!holds(j, &m->span[n]))
            span_drop(j, n);
    set(j, true);
    count_cost(j, began, COST_TURN);
    return m->active;
}

bool jit_mirror_claim(Jit *j)
{
    struct JitMirror *m = j->mirror;
    if (!m) {
        m = j->mirror = g_new0(struct JitMirror, 1);
        m->failed = j->t->v->id != 0 || !jit_mirror_file(j->t->v->vm->mem) || !reserve();
        if (!m->failed)
            m->span = g_new(Span, SPANS_MAX);
        set(j, false);
    }
    if (m->failed || j->no_mirror || !plain(j) || __rdtsc() < m->rest_until)
        return false;
    if (m->owner != space_of(j)) {
        if (m->owner && __rdtsc() - m->used < OWNER_TICKS)
            return false;
        jit_mirror_off(j);
        drop_all(j);
        m->owner = space_of(j);
        m->cost = 0;
        m->cost_since = __rdtsc();
    }
    return jit_mirror_on(j);
}

void jit_mirror_free(Jit *j)
{
    if (j->mirror && j->mirror->span)
        munmap((void *)(uintptr_t)RESERVED_FIRST, RESERVED_END - RESERVED_FIRST);
    if (j->mirror)
        g_free(j->mirror->span);
    g_free(j->mirror);
    j->mirror = NULL;
}

void jit_mirror_give_back(Jit *j)
{
    if (!j->mirror || j->mirror->failed)
        return;
    jit_mirror_off(j);
    drop_all(j);
}

/* ---- pages ---- */
void jit_mirror_drop(Jit *j, gva_t lin, gva_t bytes)
{
    struct JitMirror *m = j->mirror;
    if (!m || !m->n)
        return;
    unsigned n = span_from(m, lin);
    if (n == m->n || m->span[n].lin >= lin + bytes)
        return;
    uint64_t began = __rdtsc();
    while (n < m->n && m->span[n].lin < lin + bytes)
        span_drop(j, n);
    m->cost += __rdtsc() - began;
}

void jit_mirror_drop_writes(Jit *j, const uint8_t *host)
{
    struct JitMirror *m = j->mirror;
    for (unsigned n = m ? m->n : 0; n-- > 0;)
        if (m->span[n].write &&
            (uintptr_t)host - (uintptr_t)m->span[n].host < (gpa_t)m->span[n].pages * PAGE_SIZE)
            span_drop(j, n);
}

/* Maps one that nothing of is there yet. */
static bool put(Jit *j, const RamSlot *ram, Span *p)
{
    struct JitMirror *m = j->mirror;
    p->host = ram->host + (p->gpa - ram->gpa);
    if (m->n == SPANS_MAX)
        return false;
    void *at = host_of(p->lin);
    off_t from = (off_t)(ram->fd_offset + (p->gpa - ram->gpa));
    if (mmap(at, (size_t)p->pages * PAGE_SIZE, PROT_READ | (p->write ? PROT_WRITE : 0),
             MAP_SHARED | MAP_FIXED | MAP_POPULATE, ram->fd, from) != at) {
        jit_mirror_off(j);
        m->failed = true;
        return false;
    }
    for (unsigned k = 0; p->write && k < p->pages; k++)
        may_write(j->t, (uintptr_t)p->host + k * PAGE_SIZE);
    unsigned n = span_from(m, p->lin);
    memmove(&m->span[n + 1], &m->span[n], (m->n - n) * sizeof(Span));
    m->span[n] = *p;
    m->n++;
    for (unsigned k = 0; k < p->pages; k++)
        jit_tlb_show(j, p->lin + k * PAGE_SIZE, shown_add(p->lin), p->write);
    return true;
}

/* The large page around `page`, if it may be shown in one piece. */
static bool whole(Jit *j, const UserPage *at, gva_t page, Span *p)
{
    const uint64_t bytes = BIG_PAGES * PAGE_SIZE;
    uint64_t before = page & (bytes - 1);
    *p = (Span){.lin = page - before,
                .gpa = at->gpa - before,
                .pages = BIG_PAGES,
                .write = at->write,
                .big = true};
    if (at->gpa < before || p->gpa < at->ram->gpa ||
        p->gpa + bytes > at->ram->gpa + at->ram->size ||
        (uintptr_t)host_of(p->lin) < RESERVED_FIRST)
        return false;
    for (unsigned k = 0; k < BIG_PAGES && p->write; k++)
        if (blocks_page_has_code(j->t, p->gpa + k * PAGE_SIZE))
            return false;
    return true;
}

/* Can this page be shown, and is it not yet? */
static bool to_show(Jit *j, gva_t page, UserPage *at)
{
    return !span_has(j->mirror, span_from(j->mirror, page), page) &&
           mmu_user_page(j->t, page, at) && !at->big && at->ram->fd >= 0;
}

static bool show(Jit *j, gva_t lin)
{
    struct JitMirror *m = j->mirror;
    gva_t page = lin & PAGE_MASK;
    UserPage at;
    if (!m || !m->active || m->failed || jit_mirror_area(lin) == MIRROR_NONE ||
        (uintptr_t)host_of(page) < RESERVED_FIRST || !mmu_user_page(j->t, page, &at) ||
        at.ram->fd < 0)
        return false;
    unsigned n = span_from(m, page);
    if (span_has(m, n, page)) {
        if (m->span[n].write || !at.write)
            return false; /* it is all there: something else was wrong */
        span_drop(j, n);
    }
    j->mirror_shown++;
    Span p;
    if (at.big && whole(j, &at, page, &p)) {
        jit_mirror_drop(j, p.lin, BIG_PAGES * PAGE_SIZE);
        return put(j, at.ram, &p);
    }
    if (at.big) {
        p = (Span){.lin = page, .gpa = at.gpa, .pages = 1, .write = at.write, .big = true};
        return put(j, at.ram, &p);
    }
    /* Pages that lie beside it, and have been accessed too. */
    gva_t first = page & ~((gva_t)GROUP * PAGE_SIZE - 1);
    UserPage next;
    p.pages = 0;
    for (gva_t q = first; q < first + GROUP * PAGE_SIZE; q += PAGE_SIZE) {
        if (!to_show(j, q, &next))
            continue;
        if (p.pages && next.ram == at.ram && next.write == p.write &&
            q == p.lin + (gva_t)p.pages * PAGE_SIZE &&
            next.gpa == p.gpa + (gpa_t)p.pages * PAGE_SIZE) {
            p.pages++;
            continue;
        }
        if (p.pages && !put(j, at.ram, &p))
            return false;
        p = (Span){.lin = q, .gpa = next.gpa, .pages = 1, .write = next.write};
        at.ram = next.ram;
    }
    return !p.pages || put(j, at.ram, &p);
}

bool jit_mirror_show(Jit *j, gva_t lin)
{
    uint64_t began = __rdtsc();
    if (!j->mirror)
        return false;
    bool shown = show(j, lin);
    count_cost(j, began, COST_FAULT);
    return shown;
}
