/*
 * The kernel's mirror: what mirror.c is for programs, of pages that the kernel has in all
 * address spaces.
 *
 * A 64-bit kernel has all memory, its stacks, its own image and tables about memory each in a part
 * of the upper half. Up to MIRROR_KERNELS pieces of 2^AREA_BITS bytes, chosen as accesses are met,
 * have an area of the host's each, with nothing else within 2^40 bytes. Shown are global pages
 * that user code has no right to, so a change of CR3 takes nothing away; a flush of everything
 * puts it out of use until each has been looked at again, INVLPG takes out what its page had.
 *
 * What the kernel has by a large page is shown in one piece, by one mapping. Pages of it that code
 * is decoded from can be read there and not written: such a write faults, and its exec function
 * does it. So they lie in RAM's huge pages as before, mostly. In the kernel's image the pages
 * around them cannot be written either, until they are.
 *
 * Which area an access is in is noted when the interpreter runs a block for the last time before it
 * is translated (jit_kernel_note()). The check of a base register is
 *
 *     pext  rcx, rdi, gs:[upper]     its upper bits
 *     lea   rcx, [rcx + 1 - base's]  1 if they are the area's
 *     loop  miss
 */
#include "jit/jit.h"

#include <sys/mman.h>
#include <x86intrin.h>

#define AREA_BITS   33 /* so that the upper bits are a displacement */
#define CHUNK_BITS  21
#define CHUNK_PAGES 512u
#define CHUNKS      (1u << (AREA_BITS - CHUNK_BITS)) /* in an area */
/* Where the host has them, with the room around each. */
#define AREA_ROOM      (1ull << 40)
#define RESERVED_FIRST 0x4a0000000000ull
#define RESERVED_BYTES ((MIRROR_KERNELS + 1) * AREA_ROOM)
/* Single pages, shown or not to be written: each is a mapping of the host's. */
#define SINGLE_MAX 8192u
#define GROUP      4u  /* pages that are shown together */
#define RUN        16u /* and those that follow each other in memory; a multiple of GROUP */
/* Of a kernel's image: where one is code, so are those beside it or will be soon, and a change of
 * rights for all of them is one call of the host's. */
#define TEXT_GROUP 32u
/* When so many TSC ticks have gone into it, by these estimates, they are held against the time that
 * has passed; if that is less than COST_SHARE times as much there is no mirror any more. */
#define COST_LOOK  20000000u
#define COST_SHARE 6u
#define COST_SHOW  12000u /* a signal, a mapping */
#define COST_WHOLE 60000u /* of a large page, more */
#define COST_WRITE 5000u  /* a change of a page's rights */
#define COST_HOLDS 4000u  /* looking at a chunk again */
#define NOWHERE    BIT(62)
/* Where kernels lie: -mcmodel=kernel. */
#define IMAGE       (0 - BIT(31))
#define STACK_BYTES 0x4000u

/* An aligned piece of an area. */
typedef struct Chunk {
    gva_t lin;
    bool whole;       /* of one large page, shown in one piece */
    bool large, huge; /* there are large pages in it; of 1 GiB */
    gpa_t gpa;        /* whole: its first page's; and where guest RAM is mapped */
    const uint8_t *host;
    uint64_t shown[CHUNK_PAGES / 64], write[CHUNK_PAGES / 64]; /* by page */
    uint64_t stored[CHUNK_PAGES / 64]; /* written since it was not to be: no longer with a group */
    struct ChunkPage {
        gpa_t gpa;
        const uint8_t *host;
    } page[]; /* not whole */
} Chunk;

struct JitKernel {
    bool failed, active, reserved;
    bool huge;        /* pages of 1 GiB have been met */
    uint32_t mem_gen; /* MemMap.gen when it was last put to use */
    uint64_t cost, cost_since;
    unsigned areas, live_n, live_room, single;
    gva_t base[MIRROR_KERNELS];
    Chunk **live; /* all there are */
    Chunk *chunk[MIRROR_KERNELS][CHUNKS];
};

static bool bit(const uint64_t *bits, unsigned k)
{
    return bits[k / 64] >> (k % 64) & 1;
}

static void set_bit(uint64_t *bits, unsigned k, bool on)
{
    bits[k / 64] = (bits[k / 64] & ~BIT(k % 64)) | (uint64_t)on << (k % 64);
}

/* ---- areas ---- */
static uint64_t host_base(unsigned area)
{
    return RESERVED_FIRST + (area + 1) * AREA_ROOM;
}

enum MirrorArea jit_kernel_area(const Jit *j, gva_t lin)
{
    const struct JitKernel *m = j->kernel;
    for (unsigned a = 0; m && a < m->areas; a++)
        if ((lin ^ m->base[a]) >> AREA_BITS == 0)
            return (enum MirrorArea)(MIRROR_KERNEL + a);
    return MIRROR_NONE;
}

int32_t jit_kernel_upper(const Jit *j, enum MirrorArea area)
{
    return (int32_t)(j->kernel->base[area - MIRROR_KERNEL] >> AREA_BITS);
}

static uint8_t *host_of(const Jit *j, gva_t lin)
{
    unsigned a = (unsigned)jit_kernel_area(j, lin) - MIRROR_KERNEL;
    return (uint8_t *)(uintptr_t)(host_base(a) + (lin - j->kernel->base[a]));
}

gva_t jit_kernel_lin(const Jit *j, const void *host)
{
    uint64_t at = (uintptr_t)host - RESERVED_FIRST;
    const struct JitKernel *m = j->kernel;
    unsigned a = (unsigned)(at / AREA_ROOM) - 1;
    if (!m || at >= RESERVED_BYTES || a >= m->areas || at % AREA_ROOM >> AREA_BITS)
        return 0;
    return m->base[a] + at % AREA_ROOM;
}

/* What the first-level TLB has as `add` of what is shown in this place. */
static uint64_t shown_add(const Jit *j, gva_t lin)
{
    return (uintptr_t)host_of(j, lin) - lin + PAGE_BITS;
}

static void set(Jit *j, bool on)
{
    struct JitKernel *m = j->kernel;
    m->active = on;
    for (unsigned a = 0; a < m->areas; a++) {
        j->hot->mirror_upper[MIRROR_KERNEL + a] = on ? ~0ull << AREA_BITS : 0;
        j->hot->mirror_shift[MIRROR_KERNEL + a] = on ? AREA_BITS : 63;
        j->hot->mirror_add[MIRROR_KERNEL + a] =
            (on ? host_base(a) - m->base[a] : NOWHERE) + PAGE_BITS;
    }
}

void jit_kernel_off(Jit *j)
{
    if (j->kernel && j->kernel->active)
        set(j, false);
}

bool jit_kernel_out(const Jit *j)
{
    return !j->kernel || !j->kernel->active;
}

/* ---- what is shown ---- */
static Chunk **chunk_at(const Jit *j, gva_t lin)
{
    enum MirrorArea area = jit_kernel_area(j, lin);
    return area == MIRROR_NONE
               ? NULL
               : &j->kernel->chunk[area - MIRROR_KERNEL][lin >> CHUNK_BITS & (CHUNKS - 1)];
}

static unsigned page_in(gva_t lin)
{
    return (unsigned)(lin >> PAGE_BITS) & (CHUNK_PAGES - 1);
}

static const uint8_t *host_page(const Chunk *c, unsigned k)
{
    return c->whole ? c->host + k * PAGE_SIZE : c->page[k].host;
}

static gpa_t gpa_page(const Chunk *c, unsigned k)
{
    return c->whole ? c->gpa + k * PAGE_SIZE : c->page[k].gpa;
}

/* The chunk that shows `page`, or NULL. */
static Chunk *showing(const Jit *j, gva_t page)
{
    Chunk **c = j->kernel ? chunk_at(j, page) : NULL;
    return c && *c && bit((*c)->shown, page_in(page)) ? *c : NULL;
}

uint64_t jit_kernel_add(const Jit *j, gva_t page, uint64_t add, bool write)
{
    const Chunk *c = showing(j, page);
    unsigned k = page_in(page);
    bool same = c && (uintptr_t)host_page(c, k) - page + PAGE_BITS == add;
    return same && (bit(c->write, k) || !write) ? shown_add(j, page) : add;
}

static void hide(Jit *j, gva_t lin, unsigned pages)
{
    void *at = host_of(j, lin);
    for (unsigned k = 0; k < pages; k++)
        jit_tlb_move(j, lin + k * PAGE_SIZE, shown_add(j, lin), 0);
    if (mmap(at, pages * PAGE_SIZE, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != at)
        g_error("the translator's mirror: a page cannot be taken out of it"); /* it would stay in
                                                                                 reach */
    j->hidden = true;
}

static void chunk_drop(Jit *j, Chunk *c)
{
    struct JitKernel *m = j->kernel;
    hide(j, c->lin, CHUNK_PAGES);
    for (unsigned k = 0; k < CHUNK_PAGES; k++)
        m->single -= c->whole ? !bit(c->write, k) : bit(c->shown, k);
    for (unsigned n = 0; n < m->live_n; n++) {
        if (m->live[n] == c) {
            m->live[n] = m->live[--m->live_n];
            break;
        }
    }
    *chunk_at(j, c->lin) = NULL;
    g_free(c);
}

static void drop_all(Jit *j)
{
    while (j->kernel->live_n)
        chunk_drop(j, j->kernel->live[j->kernel->live_n - 1]);
}

/* For good. */
static void give_up(Jit *j)
{
    jit_kernel_off(j);
    drop_all(j);
    j->kernel->failed = true;
    for (unsigned k = 0; k < j->map_n; k++)
        if (j->map[k]->block && j->map[k]->kernel)
            jit_block_dead(j, j->map[k]->block);
}

static void judge_cost(Jit *j)
{
    struct JitKernel *m = j->kernel;
    uint64_t now = __rdtsc();
    if (m->cost < COST_LOOK)
        return;
    bool dear = now - m->cost_since < COST_SHARE * m->cost && j->mirror_share;
    m->cost = 0;
    m->cost_since = now;
    if (dear)
        give_up(j);
}

static bool let_write_all(Jit *j, Chunk *c, unsigned k, unsigned n, bool write)
{
    struct JitKernel *m = j->kernel;
    void *at = host_of(j, c->lin + k * PAGE_SIZE);
    m->cost += COST_WRITE;
    if (mprotect(at, n * PAGE_SIZE, PROT_READ | (write ? PROT_WRITE : 0)))
        return false;
    j->hidden |= !write;
    for (; n; k++, n--) {
        if (c->whole && bit(c->write, k) != write)
            m->single += write ? -1u : 1u;
        set_bit(c->write, k, write);
        if (!write)
            jit_tlb_move(j, c->lin + k * PAGE_SIZE, shown_add(j, c->lin), 0);
    }
    return true;
}

/* Page k can be written there, or not; it is shown. */
static bool let_write(Jit *j, Chunk *c, unsigned k, bool write)
{
    set_bit(c->stored, k, bit(c->stored, k) || write);
    return let_write_all(j, c, k, 1, write);
}

/* Page k has code: it cannot be written there any more, nor, in the image, can what lies around it
 * until it is written again. */
static bool code_in(Jit *j, Chunk *c, unsigned k)
{
    unsigned first = k, end = k + 1, group = k & ~(TEXT_GROUP - 1);
    if (c->whole && c->lin >= IMAGE) {
        while (first > group && !bit(c->stored, first - 1))
            first--;
        while (end < group + TEXT_GROUP && !bit(c->stored, end))
            end++;
    }
    return let_write_all(j, c, first, end - first, false);
}

/* ---- in and out of use ---- */
/* Do the kernel's accesses need nothing but their page? */
static bool plain(const Jit *j)
{
    const CpuState *s = &j->t->v->st;
    return (s->efer & EFER_LMA) && (s->cr4 & CR4_PGE) && !(s->cr4 & CR4_LA57) && !(s->dr7 & 0xff) &&
           !j->t->align_check && !j->t->v->writes;
}

/* Is page k still so? Whole ones: all of it, by the first. */
static bool page_holds(Jit *j, Chunk *c, unsigned k)
{
    KernelPage now;
    gva_t lin = c->lin + k * PAGE_SIZE;
    if ((!c->whole || k == 0) &&
        (!mmu_kernel_page(j->t, lin, &now) || now.at.gpa != gpa_page(c, k) ||
         (c->whole && (!now.at.big || now.huge != c->huge || !now.writable)) ||
         (bit(c->write, k) && !now.writable) || ((now.at.big || now.huge) && !c->large)))
        return false;
    if (!bit(c->write, k))
        return true;
    return !blocks_page_has_code(j->t, gpa_page(c, k)) || let_write(j, c, k, false);
}

static bool chunk_holds(Jit *j, Chunk *c)
{
    j->kernel->cost += COST_HOLDS;
    for (unsigned k = 0; k < CHUNK_PAGES; k++)
        if (bit(c->shown, k) && !page_holds(j, c, k))
            return false;
    return true;
}

bool jit_kernel_on(Jit *j)
{
    struct JitKernel *m = j->kernel;
    if (!m || m->failed || !plain(j))
        return false;
    if (m->active)
        return true;
    if (m->mem_gen != j->t->v->vm->mem->gen)
        drop_all(j);
    m->mem_gen = j->t->v->vm->mem->gen;
    for (unsigned n = m->live_n; n-- > 0;)
        if (!chunk_holds(j, m->live[n]))
            chunk_drop(j, m->live[n]);
    set(j, true);
    j->kernel_turns++;
    judge_cost(j);
    return m->active;
}

static bool reserve(void)
{
    void *at = (void *)(uintptr_t)RESERVED_FIRST;
    void *p = mmap(at, RESERVED_BYTES, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != MAP_FAILED && p != at)
        munmap(p, RESERVED_BYTES); /* a kernel that does not know the flag */
    return p == at;
}

bool jit_kernel_claim(Jit *j)
{
    struct JitKernel *m = j->kernel;
    if (j->no_mirror || j->kernel_slots)
        return false;
    if (!m) {
        /* Zero and untouched: a kernel has a few chunks in a few areas. */
        m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED)
            return false;
        j->kernel = m;
        m->reserved = j->t->v->id == 0 && jit_mirror_file(j->t->v->vm->mem) && reserve();
        m->failed = !m->reserved;
        m->cost_since = __rdtsc();
    }
    return jit_kernel_on(j);
}

void jit_kernel_give_back(Jit *j)
{
    if (!j->kernel)
        return;
    jit_kernel_off(j);
    drop_all(j);
}

void jit_kernel_free(Jit *j)
{
    if (!j->kernel)
        return;
    if (j->kernel->reserved) {
        drop_all(j);
        munmap((void *)(uintptr_t)RESERVED_FIRST, RESERVED_BYTES);
    }
    g_free(j->kernel->live);
    munmap(j->kernel, sizeof(*j->kernel));
    j->kernel = NULL;
}

/* ---- what is seen before there is code ---- */
void jit_kernel_note(Jit *j, Block *b, unsigned k, gva_t lin)
{
    struct JitKernel *m = j->kernel;
    enum MirrorArea area = jit_kernel_area(j, lin);
    KernelPage p;
    if (area == MIRROR_NONE && lin >> 47 == 0x1ffff && m->areas < MIRROR_KERNELS &&
        mmu_kernel_page(j->t, lin, &p)) {
        m->base[m->areas] = lin >> AREA_BITS << AREA_BITS;
        area = (enum MirrorArea)(MIRROR_KERNEL + m->areas++);
        set(j, m->active);
    }
    /* The first of a kernel's threads has its stack in the image, and no other has: what runs there
     * will run elsewhere. */
    gva_t rsp = j->t->v->st.gpr[RSP];
    if (rsp >= IMAGE && lin - rsp + STACK_BYTES < 2 * STACK_BYTES)
        return;
    unsigned number = area == MIRROR_NONE ? 0 : (unsigned)area - MIRROR_KERNEL + 1;
    for (unsigned n = 0; n < ARRAY_LEN(b->in_mirror); n++)
        b->in_mirror[n] = (b->in_mirror[n] & ~BIT(k)) | (uint64_t)(number >> n & 1) << k;
}

enum MirrorArea jit_kernel_guess(const Jit *j, bool stack)
{
    const CpuState *s = &j->t->v->st;
    gva_t lin =
        stack ? s->gpr[RSP] : s->seg[GS].base; /* for each processor: in all memory's area */
    return stack && lin >= IMAGE ? MIRROR_NONE : jit_kernel_area(j, lin);
}

enum MirrorArea jit_kernel_seen(const Block *b, unsigned k)
{
    unsigned number = 0;
    for (unsigned n = 0; n < ARRAY_LEN(b->in_mirror); n++)
        number |= (unsigned)(b->in_mirror[n] >> k & 1) << n;
    return number ? (enum MirrorArea)(MIRROR_KERNEL + number - 1) : MIRROR_NONE;
}

/* ---- pages ---- */
static void drop_page(Jit *j, Chunk *c, unsigned k)
{
    hide(j, c->lin + k * PAGE_SIZE, 1);
    set_bit(c->shown, k, false);
    set_bit(c->write, k, false);
    j->kernel->single--;
}

void jit_kernel_drop(Jit *j, gva_t lin)
{
    Chunk **at = j->kernel ? chunk_at(j, lin) : NULL;
    if (!at)
        return;
    Chunk **first = at - (lin >> CHUNK_BITS & (CHUNK_PAGES - 1)); /* of its gigabyte */
    for (unsigned n = 0; j->kernel->huge && n < CHUNK_PAGES; n++)
        if (first[n] && first[n]->huge)
            chunk_drop(j, first[n]);
    Chunk *c = *at;
    if (!c)
        return;
    if (c->large)
        chunk_drop(j, c);
    else if (bit(c->shown, page_in(lin)))
        drop_page(j, c, page_in(lin));
}

void jit_kernel_drop_writes(Jit *j, const uint8_t *host)
{
    struct JitKernel *m = j->kernel;
    for (unsigned n = m ? m->live_n : 0; n-- > 0;) {
        Chunk *c = m->live[n];
        if (c->whole) {
            uint64_t off = (uint64_t)((uintptr_t)host - (uintptr_t)c->host);
            if (off < BIT(CHUNK_BITS) && bit(c->write, page_in(off)) &&
                !code_in(j, c, page_in(off)))
                chunk_drop(j, c);
            continue;
        }
        for (unsigned word = 0; word < ARRAY_LEN(c->write); word++)
            for (uint64_t left = c->write[word]; left; left &= left - 1) {
                unsigned k = word * 64 + (unsigned)__builtin_ctzll(left);
                if (c->page[k].host == host)
                    drop_page(j, c, k);
            }
    }
    if (m && m->single > SINGLE_MAX)
        drop_all(j);
}

static Chunk *chunk_new(Jit *j, gva_t lin, bool whole)
{
    struct JitKernel *m = j->kernel;
    Chunk *c = g_malloc0(sizeof(Chunk) + (whole ? 0 : CHUNK_PAGES * sizeof(struct ChunkPage)));
    c->lin = lin >> CHUNK_BITS << CHUNK_BITS;
    c->whole = whole;
    *chunk_at(j, lin) = c;
    if (m->live_n == m->live_room) {
        m->live_room = MAX_OF(64u, 2 * m->live_room);
        m->live = g_renew(Chunk *, m->live, m->live_room);
    }
    m->live[m->live_n++] = c;
    return c;
}

static bool map(Jit *j, gva_t lin, size_t pages, const RamSlot *ram, gpa_t gpa, bool write,
                int flags)
{
    void *at = host_of(j, lin);
    off_t from = (off_t)(ram->fd_offset + (gpa - ram->gpa));
    return mmap(at, pages * PAGE_SIZE, PROT_READ | (write ? PROT_WRITE : 0),
                MAP_SHARED | MAP_FIXED | flags, ram->fd, from) == at;
}

/* The large page around p, which can be written but where code is. False: not in one piece. */
static bool show_whole(Jit *j, gva_t lin, const KernelPage *p)
{
    const RamSlot *ram = p->at.ram;
    gpa_t gpa = p->at.gpa - page_in(lin) * PAGE_SIZE;
    if (!p->at.big || !p->writable || p->at.gpa < page_in(lin) * PAGE_SIZE || gpa < ram->gpa ||
        gpa + BIT(CHUNK_BITS) > ram->gpa + ram->size)
        return false;
    Chunk **old = chunk_at(j, lin);
    if (*old)
        chunk_drop(j, *old);
    if (!map(j, lin >> CHUNK_BITS << CHUNK_BITS, CHUNK_PAGES, ram, gpa, true, 0)) {
        give_up(j);
        return true;
    }
    Chunk *c = chunk_new(j, lin, true);
    j->kernel->cost += COST_WHOLE;
    c->large = true;
    c->huge = p->huge;
    c->gpa = gpa;
    c->host = ram->host + (gpa - ram->gpa);
    memset(c->shown, 0xff, sizeof(c->shown));
    memset(c->write, 0xff, sizeof(c->write));
    for (unsigned k = 0; k < CHUNK_PAGES; k++) {
        bool code = blocks_page_has_code(j->t, c->gpa + k * PAGE_SIZE);
        if (code && bit(c->write, k) && !code_in(j, c, k)) {
            give_up(j);
            return true;
        }
        jit_tlb_show(j, c->lin + k * PAGE_SIZE, shown_add(j, c->lin), bit(c->write, k));
    }
    return true;
}

/* n pages from lin on that follow each other in memory, too; p: the first. */
static bool show_pages(Jit *j, gva_t lin, unsigned n, const KernelPage *p)
{
    Chunk **at = chunk_at(j, lin), *c = *at ? *at : chunk_new(j, lin, false);
    if (j->kernel->single + n > SINGLE_MAX)
        return false;
    /* What nobody has accessed yet the host need not have. */
    if (!map(j, lin, n, p->at.ram, p->at.gpa, p->at.write, n > 1 ? 0 : MAP_POPULATE)) {
        give_up(j);
        return false;
    }
    c->large |= p->at.big;
    c->huge |= p->huge;
    j->kernel->single += n;
    gpa_t gpa = p->at.gpa;
    for (; n; n--, lin += PAGE_SIZE, gpa += PAGE_SIZE) {
        unsigned k = page_in(lin);
        c->page[k] = (struct ChunkPage){gpa, p->at.ram->host + (gpa - p->at.ram->gpa)};
        set_bit(c->shown, k, true);
        set_bit(c->write, k, p->at.write);
        jit_tlb_show(j, lin, shown_add(j, lin), p->at.write);
    }
    return true;
}

/* How many pages from lin on, before `end`, can be shown by one mapping; *p: the first. */
static unsigned run_at(Jit *j, gva_t lin, gva_t end, KernelPage *p)
{
    KernelPage next;
    unsigned n = 0;
    for (gva_t q = lin; q < end; q += PAGE_SIZE, n++) {
        if (showing(j, q) || !mmu_kernel_page(j->t, q, &next) || next.at.big || next.at.ram->fd < 0)
            return n;
        if (n == 0)
            *p = next;
        else if (next.at.ram != p->at.ram || next.at.gpa != p->at.gpa + (q - lin) ||
                 next.at.write != p->at.write || next.huge != p->huge)
            return n;
    }
    return n;
}

static bool show(Jit *j, gva_t lin)
{
    KernelPage p;
    if (jit_kernel_out(j) || jit_kernel_area(j, lin) == MIRROR_NONE ||
        !mmu_kernel_page(j->t, lin, &p) || p.at.ram->fd < 0)
        return false;
    Chunk *c = showing(j, lin & PAGE_MASK);
    j->kernel->huge |= p.huge;
    if (c) {
        unsigned k = page_in(lin);
        if (bit(c->write, k) || !p.at.write || gpa_page(c, k) != p.at.gpa ||
            !let_write(j, c, k, true))
            return false; /* it is all there: something else was wrong */
        jit_tlb_show(j, lin & PAGE_MASK, shown_add(j, lin), true);
        return true;
    }
    j->kernel_shown++;
    if (show_whole(j, lin, &p))
        return true;
    c = *chunk_at(j, lin);
    if (c && c->whole) /* it was a large page, and is none now */
        chunk_drop(j, c);
    gva_t page = lin & PAGE_MASK;
    if (p.at.big)
        return show_pages(j, page, 1, &p);
    /* And pages that lie beside it, if they have been accessed or are beside it in memory, too. */
    gva_t near = page & ~((gva_t)GROUP * PAGE_SIZE - 1), q = page & ~((gva_t)RUN * PAGE_SIZE - 1);
    for (gva_t end = q + RUN * PAGE_SIZE; q < end && !j->kernel->failed;) {
        unsigned n = run_at(j, q, end, &p);
        gva_t behind = q + (gva_t)MAX_OF(n, 1u) * PAGE_SIZE;
        if (n && q < near + GROUP * PAGE_SIZE && behind > near)
            show_pages(j, q, n, &p);
        q = behind;
    }
    return showing(j, page) != NULL;
}

bool jit_kernel_show(Jit *j, gva_t lin)
{
    if (!j->kernel)
        return false;
    bool shown = show(j, lin);
    j->kernel->cost += COST_SHOW;
    judge_cost(j);
    return shown;
}
