/* Making, finding and killing blocks: see block.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "base/log.h"
#include "tcg/blocklog.h"
#include "tcg/decode.h"
#include "tcg/translator.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define GENERATION_START 1

static TcgVm *shared(const Tcg *t)
{
    return t->v->vm->tcg;
}
static _Atomic uint64_t *page_flags(const VmCommon *vm, gpa_t gpa)
{
    return &((TcgVm *)vm->tcg)->code[gpa >> PAGE_BITS & (CODE_FLAGS_PAGES - 1)];
}
static _Atomic uint64_t *code_flags(const Tcg *t, gpa_t gpa)
{
    return page_flags(t->v->vm, gpa);
}
static uint64_t own_bit(const Tcg *t)
{
    return BIT(t->v->id & 63);
}

/* ---- what blocks hold when there is nothing to run ---- */
static Fault exec_bad_opcode(CpuState *s G_GNUC_UNUSED, Tcg *t, const Insn *i G_GNUC_UNUSED)
{
    return raise_ud(t);
}
static Fault exec_too_long(CpuState *s G_GNUC_UNUSED, Tcg *t, const Insn *i G_GNUC_UNUSED)
{
    return raise_gp0(t);
}
static Fault exec_no_native(CpuState *s G_GNUC_UNUSED, Tcg *t, const Insn *i)
{
    return raise_unsupported(t, "no way to run %s", op_rows[i->row].name);
}
/* Stands in for the rest of a running block whose bytes have changed: nothing is done, RIP stays,
 * and the run loop looks the address up again. */
static Fault exec_changed(CpuState *s G_GNUC_UNUSED, Tcg *t G_GNUC_UNUSED,
                          const Insn *i G_GNUC_UNUSED)
{
    return FAULT_AGAIN;
}

/* ---- storage ---- */
bool blocks_init(Tcg *t, GError **err)
{
    BlockCache *c = g_try_new0(BlockCache, 1);
    uint8_t *arena = mmap(NULL, BLOCK_ARENA, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    Block *single = aligned_alloc(64, (sizeof(Block) + sizeof(Insn) + 16 + 63) & ~(size_t)63);
    DecodeKnown *known = decode_known_new();
    if (!c || arena == MAP_FAILED || !single || !known) {
        g_free(c);
        g_free(known);
        if (arena != MAP_FAILED)
            munmap(arena, BLOCK_ARENA);
        free(single);
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "no memory for the software engine's block cache (%u MiB)", BLOCK_ARENA >> 20);
        return false;
    }
    memset(single, 0, sizeof(Block));
    c->arena = arena;
    c->single = single;
    c->known = known;
    c->gen = GENERATION_START;
    c->used = BLOCK_ALIGN; /* BlockRef 0 is none */
    t->blocks = c;
    tlb_forget_code(t);
    return true;
}

static void clear_own_flags(Tcg *t)
{
    BlockCache *c = t->blocks;
    for (unsigned k = 0; k < PAGE_HASH_SIZE; k++)
        for (CodePage *p = c->page[k]; p; p = p->next)
            atomic_fetch_and(code_flags(t, p->gpa), ~own_bit(t));
}

void blocks_free(Tcg *t)
{
    if (!t->blocks)
        return;
    clear_own_flags(t);
    munmap(t->blocks->arena, BLOCK_ARENA);
    free(t->blocks->single);
    g_free(t->blocks->known);
    g_free(t->blocks);
    t->blocks = NULL;
}

static void flush_all(Tcg *t)
{
    BlockCache *c = t->blocks;
    if (t->translator)
        t->translator->flush(t);
    clear_own_flags(t);
    zero_pages(c->hash, sizeof(c->hash));
    memset(c->page, 0, sizeof(c->page));
    c->used = BLOCK_ALIGN;
    c->flushes++;
    tlb_forget_code(t);
}

void blocks_drop_all(Tcg *t)
{
    t->blk = NULL;
    flush_all(t);
    madvise(t->blocks->arena, BLOCK_ARENA, MADV_DONTNEED);
    t->blocks->there = 0;
}

/* Room for `size` bytes behind what is used: the host makes so much memory at once, in one system
 * call instead of a fault for each page. Less while there is little: an idle guest keeps it. */
#define ARENA_STEP  (256u << 10)
#define ARENA_LEAST (64u << 10)
#define ARENA_FEW   (4u << 20)
static void arena_ahead(BlockCache *c, size_t size)
{
    if (likely(c->used + size <= c->there) || c->there + ARENA_STEP > BLOCK_ARENA)
        return;
    size_t step = c->there < ARENA_FEW ? ARENA_LEAST : ARENA_STEP;
    (void)madvise(c->arena + c->there, step, MADV_POPULATE_WRITE); /* or as it is touched */
    c->there += step;
}

static void *arena_alloc(BlockCache *c, size_t size)
{
    void *p = c->arena + c->used;
    c->used += (size + BLOCK_ALIGN - 1) & ~(size_t)(BLOCK_ALIGN - 1);
    return p;
}

/* ---- generations ---- */
void blocks_distrust(Tcg *t)
{
    tlb_forget_code(t);
    if (t->translator)
        t->translator->distrust(t);
    if (++t->blocks->gen == 0) { /* 0 marks the dead */
        t->blocks->gen = GENERATION_START;
        flush_all(t);
    }
}

/* ---- code pages ---- */
static unsigned page_hash(gpa_t gpa)
{
    return gpa >> PAGE_BITS & (PAGE_HASH_SIZE - 1);
}

static CodePage *code_page(const Tcg *t, gpa_t page)
{
    for (CodePage *p = t->blocks->page[page_hash(page)]; p; p = p->next)
        if (p->gpa == page)
            return p;
    return NULL;
}

/* Own TLB entries through which this host page could still be written without notice. */
static void drop_write_tags(Tcg *t, const uint8_t *host)
{
    for (unsigned b = 0; b < TLB_BANKS; b++) {
        if (!t->banks[b].valid)
            continue;
        TlbEntry *e = t->banks[b].entry[0], *end = e + MMU_MODES * TLB_SIZE;
        for (; e < end; e++)
            if (e->tag[ACC_WRITE] != TLB_NONE &&
                (const uint8_t *)(e->tag[ACC_WRITE] + e->addend) == host)
                e->tag[ACC_WRITE] = TLB_NONE;
    }
}

/*
 * From here on every write to the page is noticed. Called before its bytes are read. If no vCPU
 * watched the page until now, the others may hold write tags for it: they are asked to drop them,
 * and to tell us when they have, because what they wrote in between went unnoticed.
 */
static void watch_page(Tcg *t, gpa_t page, const uint8_t *host)
{
    VmCommon *vm = t->v->vm;
    uint64_t before = atomic_load_explicit(code_flags(t, page), memory_order_relaxed);
    if (!(before & own_bit(t)))
        before = atomic_fetch_or(code_flags(t, page), own_bit(t));
    /* Whoever sets it from here on looks at the flags. */
    if (unlikely(vm->guard))
        vm->guard_page(vm, page);
    if (before)
        return;
    uint64_t bit;
    bool tagged = *may_write_word(t, (uintptr_t)host, &bit) & bit;
    if (t->translator)
        t->translator->page_watched(t, host, tagged);
    if (tagged)
        drop_write_tags(t, host);
    for (unsigned k = 0; k < vm->n_vcpus; k++) {
        Vcpu *o = vm->vcpu[k];
        Tcg *ot = o ? o->engine_data[ENGINE_INTERP] : NULL;
        if (!ot || o == t->v)
            continue;
        atomic_store(&ot->ack_code, true);
        vcpu_request(o, VREQ_TLB_FLUSH);
    }
}

bool blocks_page_has_code(const Tcg *t, gpa_t gpa)
{
    return shared(t) && atomic_load_explicit(code_flags(t, gpa), memory_order_relaxed) != 0;
}

bool blocks_any(VmCommon *vm, gpa_t gpa)
{
    return atomic_load(page_flags(vm, gpa)) != 0;
}

/* Nobody has decoded code there any more: KVM may store again without a word. */
static void release(VmCommon *vm, gpa_t gpa)
{
    if (unlikely(vm->guard) && !blocks_any(vm, gpa))
        vm->release_page(vm, gpa);
}

static void kill_block(Tcg *t, Block *b)
{
    b->gen = 0;
    t->blocks->killed++;
    if (b->jit || b->users)
        t->translator->block_dead(t, b);
    if (t->blk == b)
        for (unsigned k = 0; k < b->n; k++)
            b->insn[k].exec = b->insn[k].go = exec_changed;
}

static bool block_overlaps(const Block *b, gpa_t gpa, unsigned len)
{
    uint64_t first = MIN_OF((uint64_t)b->size, PAGE_SIZE - (b->gpa & ~PAGE_MASK));
    if (gpa < b->gpa + first && gpa + len > b->gpa)
        return true;
    return b->gpa2 != NO_GPA && gpa < b->gpa2 + (b->size - first) && gpa + len > b->gpa2;
}

static unsigned which_page(const Block *b, gpa_t page)
{
    return (b->gpa & PAGE_MASK) == page ? 0 : 1;
}

/* Where b's bytes in this page begin, and how many they are. */
static inline unsigned bytes_in_page(const Block *b, const CodePage *p, unsigned *off)
{
    if (likely(b->gpa2 == NO_GPA)) {
        *off = b->gpa & ~PAGE_MASK;
        return b->size;
    }
    if (b->gpa2 == (b->gpa & PAGE_MASK)) { /* a page that follows itself: anywhere */
        *off = 0;
        return PAGE_SIZE;
    }
    unsigned first = (unsigned)MIN_OF((uint64_t)b->size, PAGE_SIZE - (b->gpa & ~PAGE_MASK));
    *off = which_page(b, p->gpa) ? 0 : b->gpa & ~PAGE_MASK;
    /* What was looked at in the second page may have turned out not to belong to it. */
    return which_page(b, p->gpa) ? MAX_OF(b->size - first, 1u) : first;
}

static void mark_grains(CodePage *p, unsigned off, unsigned len, bool used)
{
    for (unsigned k = off / CODE_GRAIN; k <= (off + len - 1) / CODE_GRAIN; k++) {
        if (used)
            p->used[k / 64] |= BIT(k % 64);
        else
            p->used[k / 64] &= ~BIT(k % 64);
    }
}

static bool grains_used(const CodePage *p, unsigned off, unsigned len)
{
    for (unsigned k = off / CODE_GRAIN; k <= (off + len - 1) / CODE_GRAIN; k++)
        if (p->used[k / 64] >> (k % 64) & 1)
            return true;
    return false;
}

/* The list heads of blocks that may have bytes in [off, off + len). */
static unsigned stripes(const CodePage *p, unsigned off, unsigned len, unsigned *last)
{
    *last = (off + len - 1) / CODE_STRIPE;
    return (off > p->longest ? off - p->longest : 0) / CODE_STRIPE;
}

static void mark_blocks(CodePage *p, unsigned off, unsigned len)
{
    unsigned last, at, n;
    for (unsigned k = stripes(p, off, len, &last); k <= last; k++) {
        for (const Block *b = p->first[k]; b; b = b->page_next[which_page(b, p->gpa)]) {
            n = bytes_in_page(b, p, &at);
            mark_grains(p, at, n, true);
        }
    }
}

/* The instruction of b whose immediate all of [gpa, gpa + len) lies in, if that can be soft; or -1.
 */
static int immediate_at(const Tcg *t, const Block *b, gpa_t gpa, unsigned len)
{
    unsigned at, size;
    if (!t->translator || b->gpa2 != NO_GPA || b->n > 64)
        return -1;
    for (unsigned k = 0; k < b->n; k++) {
        if (gpa - b->gpa >= b->insn[k].end)
            continue;
        bool soft = t->translator->soft_immediate(&b->insn[k], &at, &size);
        return soft && gpa - b->gpa >= at && gpa + len <= b->gpa + at + size ? (int)k : -1;
    }
    return -1;
}

/* A store has come to b's bytes. True: it has to go. */
static bool dies_of_store(const Tcg *t, Block *b, gpa_t gpa, unsigned len)
{
    int k = immediate_at(t, b, gpa, len);
    if (k >= 0 && (b->soft >> k & 1))
        return false;
    b->imm_written = k >= 0 ? b->imm_written | BIT(k) : 0;
    return true;
}

/* Kills what [gpa, gpa + len) touches, and drops what is dead from the lists it goes through.
 * `store`: bytes have been written there. */
static void kill_in_page(Tcg *t, CodePage *p, gpa_t gpa, unsigned len, bool store)
{
    unsigned off = gpa & ~PAGE_MASK, last, from = PAGE_SIZE, to = 0;
    for (unsigned k = stripes(p, off, len, &last); k <= last; k++) {
        for (Block **link = &p->first[k]; *link;) {
            Block *b = *link;
            if (b->gen != 0 && block_overlaps(b, gpa, len) &&
                (!store || dies_of_store(t, b, gpa, len))) {
                p->died += store && b->jit;
                kill_block(t, b);
            }
            if (b->gen == 0) {
                unsigned at, n = bytes_in_page(b, p, &at);
                from = MIN_OF(from, at);
                to = MAX_OF(to, at + n);
                *link = b->page_next[which_page(b, p->gpa)];
                p->n--;
            } else {
                link = &b->page_next[which_page(b, p->gpa)];
            }
        }
    }
    if (from < to) {
        mark_grains(p, from, to - from, false);
        mark_blocks(p, from / CODE_GRAIN * CODE_GRAIN,
                    (to + CODE_GRAIN - 1) / CODE_GRAIN * CODE_GRAIN -
                        from / CODE_GRAIN * CODE_GRAIN);
    }
}

void blocks_kill_at_offset(Tcg *t, unsigned offset)
{
    for (unsigned k = 0; k < PAGE_HASH_SIZE; k++)
        for (CodePage *p = t->blocks->page[k]; p; p = p->next)
            kill_in_page(t, p, p->gpa + offset, 1, false);
}

bool blocks_float(const Tcg *t, const Block *b)
{
    const CodePage *p = code_page(t, b->gpa & PAGE_MASK);
    return !p || p->floats;
}

void blocks_make_float(Tcg *t, const Block *b)
{
    CodePage *p = code_page(t, b->gpa & PAGE_MASK);
    if (!p)
        return;
    p->floats = true;
    for (unsigned k = 0; k < ARRAY_LEN(p->first); k++)
        for (Block *x = p->first[k]; x; x = x->page_next[which_page(x, p->gpa)])
            t->translator->block_dead(t, x);
}

/* Pages above 4 GiB share flags: is any other of ours on this flag in use? */
static bool flag_in_use(const Tcg *t, gpa_t page)
{
    for (const CodePage *p = t->blocks->page[page_hash(page)]; p; p = p->next)
        if (code_flags(t, p->gpa) == code_flags(t, page) && p->n)
            return true;
    return false;
}

#define COLD_WRITES 16 /* writes to a page without blocks before it counts as data again */

void blocks_invalidate(Tcg *t, gpa_t gpa, unsigned len)
{
    if (!shared(t))
        return;
    atomic_thread_fence(memory_order_seq_cst); /* the write, then the flags */
    uint64_t flags = atomic_load(code_flags(t, gpa));
    gpa_t page = gpa & PAGE_MASK;
    if (flags & own_bit(t)) {
        CodePage *p = code_page(t, page);
        if (p) {
            if (grains_used(p, gpa & ~PAGE_MASK, len))
                kill_in_page(t, p, gpa, len, true);
            p->cold_writes = p->n ? 0 : p->cold_writes + 1;
        }
        if ((!p || p->cold_writes > COLD_WRITES) && !flag_in_use(t, page))
            atomic_fetch_and(code_flags(t, gpa), ~own_bit(t));
    }
    flags &= ~own_bit(t);
    if (!flags) {
        release(t->v->vm, gpa);
        return;
    }
    /* The others check their blocks, and set their flags again when they find them good. */
    flags &= atomic_fetch_and(code_flags(t, gpa), own_bit(t));
    VmCommon *vm = t->v->vm;
    for (unsigned k = 0; k < vm->n_vcpus; k++)
        if (vm->vcpu[k] && flags & BIT(vm->vcpu[k]->id & 63) && vm->vcpu[k] != t->v)
            vcpu_request(vm->vcpu[k], VREQ_TLB_FLUSH);
    release(vm, gpa);
}

void blocks_written(Vcpu *by, gpa_t gpa, unsigned len G_GNUC_UNUSED)
{
    VmCommon *vm = by->vm;
    atomic_thread_fence(memory_order_seq_cst); /* the write, then the flags */
    uint64_t flags = atomic_exchange(page_flags(vm, gpa), 0);
    for (unsigned k = 0; k < vm->n_vcpus; k++)
        if (vm->vcpu[k] && flags & BIT(vm->vcpu[k]->id & 63))
            vcpu_request(vm->vcpu[k], VREQ_TLB_FLUSH);
    release(vm, gpa);
}

/* ---- fetching ---- */
static Fault fetch_page(CpuState *s, Tcg *t, gva_t lin, gpa_t *gpa, const uint8_t **host)
{
    gva_t page = lin & PAGE_MASK;
    bool user = t->cpl == 3;
    FetchEntry *e = &t->blocks->fetch[lin >> PAGE_BITS & (FETCH_TLB_SIZE - 1)];
    if (e->page != page || !still_good(t, e->gen) || e->user != user || !e->host) {
        gpa_t at;
        Fault f = mmu_translate(s, t, lin, ACC_EXEC, user ? MMU_USER : MMU_KERNEL, &at);
        if (f)
            return f;
        at &= PAGE_MASK;
        const uint8_t *p = memmap_host(t->v->vm->mem, at, PAGE_SIZE, false);
        if (!p)
            return raise_unsupported(t, "instruction fetch from %#" PRIx64 ", which is no memory",
                                     (uint64_t)(at | (lin & ~PAGE_MASK)));
        *e = (FetchEntry){.page = page,
                          .gpa = at,
                          .host = p,
                          .gen = t->exec_global ? t->global_gen : t->map_gen,
                          .user = user};
    }
    *gpa = e->gpa;
    *host = e->host;
    return FAULT_NONE;
}

bool blocks_page_at(CpuState *s, Tcg *t, gva_t lin, gpa_t *page)
{
    const uint8_t *host;
    return fetch_page(s, t, lin, page, &host) == FAULT_NONE;
}

bool blocks_page_is_global(const Tcg *t, gva_t lin)
{
    const FetchEntry *e = &t->blocks->fetch[lin >> PAGE_BITS & (FETCH_TLB_SIZE - 1)];
    return e->page == (lin & PAGE_MASK) && e->gen == t->global_gen;
}

static gva_t next_page(const Tcg *t, gva_t lin)
{
    gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;
    return t->code64 ? next : (uint32_t)next;
}

/* Gives a decoded (or undecodable) instruction something to run. True: ends the block. */
static bool finish_insn(Tcg *t, Insn *i, DecodeResult res, const uint8_t *bytes)
{
    if (res == DECODE_UD)
        i->exec = exec_bad_opcode;
    else if (res == DECODE_TOO_LONG)
        i->exec = exec_too_long;
    else if ((op_rows[i->row].attr & (A_SSE | A_AVX | A_MMX)) && !vec_prepare(t, i, bytes))
        i->exec = exec_no_native;
    else
        return i->flags & IF_ENDS;
    i->opsize = 0; /* not what its row says: the translator leaves it alone */
    return true;
}

/*
 * The one instruction at lin when the page's end cuts it: its bytes from both pages. limit: most
 * bytes that may be used (CS limit); too few is #GP.
 */
static Fault decode_alone(CpuState *s, Tcg *t, gva_t lin, uint64_t limit, Insn *i,
                          uint8_t bytes[15], unsigned *avail, gpa_t *gpa2)
{
    gpa_t gpa;
    const uint8_t *host;
    Fault f = fetch_page(s, t, lin, &gpa, &host);
    if (f)
        return f;
    unsigned off = lin & ~PAGE_MASK, n = (unsigned)MIN_OF(MIN_OF(PAGE_SIZE - off, 15ull), limit);
    memcpy(bytes, host + off, n);
    *gpa2 = NO_GPA;
    DecodeResult res = decode(i, bytes, n, t->decode_mode, t->features);
    if (res == DECODE_MORE && n < limit) {
        f = fetch_page(s, t, next_page(t, lin), gpa2, &host);
        if (f)
            return f;
        watch_page(t, *gpa2, host);
        unsigned more = (unsigned)MIN_OF((uint64_t)(15 - n), limit - n);
        memcpy(bytes + n, host, more);
        n += more;
        res = decode(i, bytes, n, t->decode_mode, t->features);
    }
    if (res == DECODE_MORE)
        return raise_gp0(t);
    if (res == DECODE_TOO_LONG)
        i->len = 15;
    if (res == DECODE_UD)
        i->len = (uint8_t)n;
    i->end = i->len;
    *avail = i->len;
    finish_insn(t, i, res, bytes);
    return FAULT_NONE;
}

Block *block_single(CpuState *s, Tcg *t, gva_t lin, Fault *fault)
{
    Block *b = t->blocks->single;
    uint64_t limit = s->seg[CS].limit;
    unsigned n = 0;
    b->bytes = (uint8_t *)&b->insn[1];
    if (t->code64)
        limit = ~0ull;
    else if (!(t->decode_mode & DM_CS32))
        limit = MIN_OF(limit, 0xffffull);
    if (s->rip > limit)
        *fault = raise_gp0(t);
    else
        *fault = decode_alone(s, t, lin, MIN_OF(limit - s->rip, 14ull) + 1, b->insn, b->bytes, &n,
                              &b->gpa2);
    if (*fault)
        return NULL;
    quick_block(b->insn, 1);
    b->n = 1;
    b->plain = b->stop = false;
    b->soft = 0;
    b->no_jit = true;
    b->size = (uint16_t)n;
    b->mode = (uint8_t)t->decode_mode;
    b->gen = t->blocks->gen;
    return b;
}

/* ---- making ---- */
/* Code that is written anew all the time, as small programs of a compiler at run time are, is
 * interpreted sooner than it is translated. */
#define DIED_EACH     16u
#define PATIENCE_MOST 31u

static void link_page(Tcg *t, Block *b, gpa_t page)
{
    BlockCache *c = t->blocks;
    CodePage *p = code_page(t, page);
    if (!p) {
        p = arena_alloc(c, sizeof(*p));
        *p = (CodePage){.next = c->page[page_hash(page)], .gpa = page};
        c->page[page_hash(page)] = p;
    }
    p->cold_writes = 0;
    unsigned off, len = bytes_in_page(b, p, &off);
    b->page_next[which_page(b, page)] = p->first[off / CODE_STRIPE];
    p->first[off / CODE_STRIPE] = b;
    p->n++;
    if (which_page(b, page) == 0)
        p->begun[off / CODE_GRAIN / 64] |= BIT(off / CODE_GRAIN % 64);
    p->longest = MAX_OF(p->longest, len);
    mark_grains(p, off, len, true);
    b->patience = (uint8_t)(1 + MIN_OF(p->died / DIED_EACH, PATIENCE_MOST));
}

/* Blocks that lie beside each other are found by what lies beside each other, and few share a list:
 * most of what a look-up costs is waiting for memory. */
static unsigned block_hash(gpa_t gpa, unsigned mode)
{
    return (unsigned)((gpa >> 4 ^ gpa >> 22 ^ (uint64_t)mode << 8) & (BLOCK_HASH_SIZE - 1));
}

#define SOFT_AFTER 4 /* kills by stores to immediates */

/* b takes the place of `before`, which is dead, or NULL: soft immediates, if it died of those. */
static void soften(const Tcg *t, Block *b, const Block *before, const uint8_t *host)
{
    b->imm_written = b->soft = 0;
    b->imm_kills = 0;
    if (!before || !(before->imm_written | before->soft) || before->n != b->n ||
        before->size != b->size || b->gpa2 != NO_GPA)
        return;
    for (unsigned k = 0; k < b->n; k++)
        if (before->insn[k].row != b->insn[k].row || before->insn[k].end != b->insn[k].end)
            return;
    b->imm_written = before->imm_written | before->soft;
    b->imm_kills = (uint8_t)MIN_OF(before->imm_kills + 1u, 255u);
    if (b->imm_kills < SOFT_AFTER || !t->use_jit || t->limited || b->stop)
        return;
    b->soft = b->imm_written;
    b->soft_host = host;
    b->no_runs = true; /* what immediates add to registers is not known */
}

void blocks_harden(Tcg *t, Block *b)
{
    kill_block(t, b);
    b->imm_written = b->soft = 0;
}

static Block *block_make(CpuState *s, Tcg *t, gva_t lin, gpa_t page, const uint8_t *host,
                         const Block *before, Fault *fault)
{
    BlockCache *c = t->blocks;
    vec_release(t); /* libraries compute: GLib's hash tables do when they grow */
    size_t most =
        sizeof(Block) + BLOCK_MAX_INSNS * (sizeof(Insn) + 15) + 2 * sizeof(CodePage) + 4 * 64;
    if (c->used + most > BLOCK_ARENA) {
        flush_all(t);
        before = NULL;
    }
    arena_ahead(c, most);
    watch_page(t, page, host);

    Block *b = (Block *)(void *)(c->arena + c->used);
    unsigned off = lin & ~PAGE_MASK, pos = 0, n = 0;
    b->gpa2 = NO_GPA;
    bool stop = unlikely(stops_at_offset(t, off));
    uint8_t ahead[DECODE_ROOM] = {0};
    for (bool ends = false; !ends && n < BLOCK_MAX_INSNS && off + pos < PAGE_SIZE; n++) {
        if (unlikely(t->n_stop_at) && n && (stop || stops_at_offset(t, off + pos)))
            break;
        Insn *i = &b->insn[n];
        unsigned avail = (unsigned)PAGE_SIZE - off - pos;
        memcpy(ahead, host + off + pos, MIN_OF(avail, 15u));
        DecodeResult res = avail < 15
                               ? decode(i, ahead, avail, t->decode_mode, t->features)
                               : decode_known(c->known, i, ahead, t->decode_mode, t->features);
        if (res == DECODE_MORE)
            break;
        if (res == DECODE_TOO_LONG)
            i->len = 15;
        if (res == DECODE_UD) /* whatever was looked at belongs to the block, to be compared */
            i->len = (uint8_t)MIN_OF(avail, 15u);
        if (i->base == GPR_IP)
            i->disp += pos;
        ends = finish_insn(t, i, res, ahead);
        pos += i->len;
        i->end = (uint16_t)pos;
    }
    uint8_t alone[15];
    const uint8_t *bytes = host + off;
    if (n == 0) {
        *fault = decode_alone(s, t, lin, 15, b->insn, alone, &pos, &b->gpa2);
        if (*fault)
            return NULL;
        n = 1;
        bytes = alone;
    }
    quick_block(b->insn, n);
    const Insn *last = &b->insn[n - 1];
    b->plain = !(last->flags & IF_ENDS) || op_rows[last->row].emit == EMIT_BRANCH;
    b->gpa = page + off;
    b->n = (uint16_t)n;
    b->size = (uint16_t)pos;
    b->mode = (uint8_t)t->decode_mode;
    b->gen = c->gen;
    b->page_next[0] = b->page_next[1] = NULL;
    b->to[0].gen = b->to[1].gen = 0;
    b->jit = NULL;
    b->users = NULL;
    b->hot = false;
    b->rounds = 0;
    b->runs = 0;
    b->no_jit = b->stop = stop;
    b->no_runs = b->no_tables = b->no_loop = false;
    b->no_slot = 0;
    memset(b->in_mirror, 0, sizeof(b->in_mirror));
    b->no_mirror = 0;
    b->mirror_misses = 0;
    if (stop) {
        b->insn[0].exec = b->insn[0].go = exec_stop;
        b->plain = false;
    }
    b->run_misses = 0;
    soften(t, b, before, host + off);
    arena_alloc(c, sizeof(Block) + n * sizeof(Insn));
    b->bytes = pos <= sizeof(b->few) ? b->few : arena_alloc(c, pos);
    memcpy(b->bytes, bytes, pos);

    link_page(t, b, page);
    if (b->gpa2 != NO_GPA && b->gpa2 != page)
        link_page(t, b, b->gpa2);
    unsigned h = block_hash(b->gpa, b->mode);
    b->hash_next = c->hash[h];
    c->hash[h] = (BlockRef)((size_t)((uint8_t *)b - c->arena) / BLOCK_ALIGN);
    c->made++;
    if (log_on(LOG_IN_ASM))
        blocklog_in_asm(t, b, s->rip);
    return b;
}

/* Compares the block with memory and takes it back into trust. */
static bool block_still_good(Tcg *t, Block *b, const uint8_t *host, const uint8_t *host2)
{
    unsigned off = b->gpa & ~PAGE_MASK;
    unsigned first = (unsigned)MIN_OF((uint64_t)b->size, PAGE_SIZE - off);
    if (b->soft)
        return false;
    watch_page(t, b->gpa & PAGE_MASK, host);
    if (host2)
        watch_page(t, b->gpa2, host2);
    if (memcmp(b->bytes, host + off, first) != 0 ||
        (host2 && memcmp(b->bytes + first, host2, b->size - first) != 0))
        return false;
    b->gen = t->blocks->gen;
    /* What its code goes on with is not looked up by itself. */
    if (b->jit)
        t->translator->block_good(t, b);
    return true;
}

bool blocks_prove(Tcg *t, Block *b)
{
    gpa_t page = b->gpa & PAGE_MASK;
    if (b->gen == t->blocks->gen || b->gen == 0)
        return b->gen != 0;
    const uint8_t *host = memmap_host(t->v->vm->mem, page, PAGE_SIZE, false);
    if (host)
        watch_page(t, page, host);
    /* It is not trusted for that: its own code goes on with others again. */
    if (!host || b->soft || memcmp(b->bytes, host + (b->gpa & ~PAGE_MASK), b->size) != 0)
        kill_block(t, b); /* and all code with it */
    return b->gen != 0;
}

Block *block_at(const Tcg *t, gpa_t gpa, unsigned mode)
{
    const BlockCache *c = t->blocks;
    Block *b = block_of(c, c->hash[block_hash(gpa, mode)]);
    while (b && (b->gen != t->blocks->gen || b->gpa != gpa || b->mode != mode))
        b = block_of(c, b->hash_next);
    return b;
}

/* May there be a block that begins at lin, whose page has been fetched? Most that are not in the
 * jump cache are new, and the hash would have to be waited for. */
static bool may_begin(Tcg *t, gva_t lin, gpa_t page)
{
    FetchEntry *e = &t->blocks->fetch[lin >> PAGE_BITS & (FETCH_TLB_SIZE - 1)];
    unsigned grain = (lin & ~PAGE_MASK) / CODE_GRAIN;
    if (!e->code)
        e->code = code_page(t, page);
    return e->code && (e->code->begun[grain / 64] >> (grain % 64) & 1);
}

Block *block_find(CpuState *s, Tcg *t, gva_t lin, Fault *fault)
{
    BlockCache *c = t->blocks;
    gpa_t page;
    const uint8_t *host;
    *fault = fetch_page(s, t, lin, &page, &host);
    if (*fault)
        return NULL;
    gpa_t gpa = page | (lin & ~PAGE_MASK);
    Block *b = NULL;
    const Block *before = NULL; /* the last one that was here, if it is dead */
    BlockRef none = 0, *found = &c->hash[block_hash(gpa, t->decode_mode)];
    __builtin_prefetch(host + (gpa & ~PAGE_MASK)); /* both are needed for a new one */
    __builtin_prefetch(found, 1);
    if (!may_begin(t, lin, page))
        found = &none;
    for (BlockRef *link = found; *link && !b;) {
        Block *x = block_of(c, *link);
        if (x->gen == 0) {
            if (!before && x->gpa == gpa && x->mode == t->decode_mode)
                before = x;
            *link = x->hash_next;
            continue;
        }
        link = &x->hash_next;
        if (x->gpa != gpa || x->mode != t->decode_mode)
            continue;
        const uint8_t *host2 = NULL;
        if (x->gpa2 != NO_GPA) {
            gpa_t page2;
            /* Other code by now may not need the page behind, so that is not asked for first. */
            unsigned off = gpa & ~PAGE_MASK;
            if (x->gen != c->gen &&
                memcmp(x->bytes, host + off, MIN_OF((uint64_t)x->size, PAGE_SIZE - off)) != 0) {
                kill_block(t, x);
                before = x;
                continue;
            }
            *fault = fetch_page(s, t, next_page(t, lin), &page2, &host2);
            if (*fault)
                return NULL;
            if (page2 != x->gpa2)
                continue;
        }
        if (x->gen == c->gen || block_still_good(t, x, host, host2)) {
            b = x;
        } else {
            kill_block(t, x);
            before = x;
        }
    }
    if (!b) {
        b = block_make(s, t, lin, page, host, before, fault);
        if (!b)
            return NULL;
    }
    bool global = b->gpa2 == NO_GPA && blocks_page_is_global(t, lin);
    *jump_entry(t, lin) = (JumpEntry){
        .tag = jump_tag(t, lin), .block = b, .gen = global ? t->global_gen : t->map_gen};
    return b;
}
