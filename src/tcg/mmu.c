/*
 * Memory as the guest's instructions see it: rights (SDM vol. 3, 4.6), the TLB, page-crossing and
 * memory-mapped accesses, alignment checks, data breakpoints.
 *
 * An access that the TLB allows never comes here. What does: locate() each page it touches (walk,
 * check, set accessed and dirty bits, fill the TLB), then move the bytes. So every fault is found
 * before a byte is written.
 */
#include <sys/mman.h>
#include "base/log.h"
#include "tcg/mmu_walk.h"
#include "tcg/sys.h"
#include "tcg/translator.h"

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

/* A byte of guest memory: in RAM or ROM at host; with host NULL, the bus's. */
typedef struct Spot {
    uint8_t *host;
    gpa_t gpa; /* valid when host is NULL, code is set, or writes are noted */
    bool code; /* writes must go through blocks_invalidate() */
} Spot;

static WalkModel walk_model(Tcg *t)
{
    return (WalkModel){(uint8_t)phys_bits(t), t->features[FEAT_PSE36], t->features[FEAT_PDPE1GB]};
}

/* ---- rights and faults ---- */

static bool allowed(const CpuState *s, const PageWalk *w, enum Access a, unsigned mode)
{
    if (!(s->cr0 & CR0_PG))
        return true;
    bool is_user = mode == MMU_USER;
    if (is_user && !w->user)
        return false;
    switch (a) {
    case ACC_EXEC:
        return !w->nx && (is_user || !w->user || !(s->cr4 & CR4_SMEP));
    case ACC_WRITE:
        if (!w->writable && (is_user || (s->cr0 & CR0_WP)))
            return false;
        break;
    case ACC_READ:
        break;
    }
    return is_user || !w->user || mode == MMU_KERNEL_AC || !(s->cr4 & CR4_SMAP);
}

static Fault page_fault(const CpuState *s, Tcg *t, gva_t lin, enum Access a, unsigned mode,
                        uint32_t why)
{
    bool fetch_told = (s->cr4 & CR4_SMEP) || ((s->cr4 & CR4_PAE) && (s->efer & EFER_NXE));
    uint32_t error = why | (a == ACC_WRITE ? PF_W : 0) | (mode == MMU_USER ? PF_U : 0) |
                     (a == ACC_EXEC && fetch_told ? PF_I : 0);
    t->exc = (PendingExc){.vector = VEC_PF, .has_error = true, .error = error, .cr2 = lin};
    if (log_on(LOG_MMU))
        log_line("cpu %d #PF at %#" G_GINT64_MODIFIER "x error %#x", t->v->id, lin, error);
    return FAULT_EXC;
}

static Fault walk_checked(CpuState *s, Tcg *t, gva_t lin, enum Access a, unsigned mode, PageWalk *w)
{
    const MemMap *mem = t->v->vm->mem;
    WalkModel model = walk_model(t);

    if ((s->efer & EFER_LMA) && !lin_canonical(s, lin)) {
        raise_gp0(t);
        t->exc.noncanonical = true;
        return FAULT_EXC;
    }
    do {
        switch (mmu_walk(s, mem, &model, lin, w)) {
        case WALK_ABSENT:
            return page_fault(s, t, lin, a, mode, 0);
        case WALK_RESERVED:
            return page_fault(s, t, lin, a, mode, PF_P | PF_RSVD);
        case WALK_OK:
            break;
        }
        if (!allowed(s, w, a, mode))
            return page_fault(s, t, lin, a, mode, PF_P);
    } while (!mmu_walk_mark(w, a == ACC_WRITE, t->v->writes));
    return FAULT_NONE;
}

/* The page is used, and the tables that lead to it: by KVM, too, if the vCPU goes there. */
static void fresh_walk(Tcg *t, const PageWalk *w)
{
    Fresh *f = t->v->fresh;
    if (likely(!f))
        return;
    for (unsigned k = 0; k < w->n; k++)
        fresh_used(f, w->entry[k].gpa);
    fresh_used(f, w->page);
}

static unsigned exec_bit(gva_t lin)
{
    return (unsigned)((lin >> PAGE_BITS ^ lin >> 24) & (EXEC_PAGES - 1));
}

Fault mmu_translate(CpuState *s, Tcg *t, gva_t lin, enum Access a, unsigned mode, gpa_t *gpa)
{
    PageWalk w;
    if (!(s->efer & EFER_LMA))
        lin = (uint32_t)lin;
    Fault f = walk_checked(s, t, lin, a, mode, &w);
    if (f)
        return f;
    *gpa = w.page | (lin & ~PAGE_MASK);
    if (a == ACC_EXEC) {
        fresh_walk(t, &w);
        t->exec_global = w.global;
        unsigned bit = exec_bit(lin);
        t->bank->exec_pages[bit / 64] |= BIT(bit % 64);
        if (w.global)
            t->global_pages[bit / 64] |= BIT(bit % 64);
        if (w.big) {
            t->bank->exec_big |= BIT(lin >> 30 & 63);
            t->global_big |= w.global ? BIT(lin >> 30 & 63) : 0;
        }
    }
    return FAULT_NONE;
}

bool mmu_debug_translate(const CpuState *s, const VmCommon *vm, gva_t lin, gpa_t *gpa)
{
    PageWalk w;
    WalkModel model = {(uint8_t)MAX_OF(cpuid_phys_bits(vm->cpuid), 32u),
                       cpuid_has(vm->cpuid, FEAT_PSE36), cpuid_has(vm->cpuid, FEAT_PDPE1GB)};
    if (!(s->efer & EFER_LMA))
        lin = (uint32_t)lin;
    else if (!lin_canonical(s, lin))
        return false;
    if (mmu_walk(s, vm->mem, &model, lin, &w) != WALK_OK)
        return false;
    *gpa = w.page | (lin & ~PAGE_MASK);
    return true;
}

/* lin's page, if it has been accessed and is in RAM that can be written. */
static bool page_now(Tcg *t, gva_t lin, PageWalk *w, UserPage *p)
{
    const CpuState *s = &t->v->st;
    WalkModel model = walk_model(t);
    if (((s->efer & EFER_LMA) && !lin_canonical(s, lin)) ||
        mmu_walk(s, t->v->vm->mem, &model, lin, w) != WALK_OK || !mmu_walk_accessed(w))
        return false;
    p->ram = memmap_find(t->v->vm->mem, w->page);
    if (!p->ram || p->ram->readonly)
        return false;
    p->gpa = w->page;
    p->write = w->writable && w->dirty && !blocks_page_has_code(t, w->page);
    p->big = w->big;
    fresh_walk(t, w);
    return true;
}

bool mmu_user_page(Tcg *t, gva_t lin, UserPage *p)
{
    PageWalk w;
    if (!page_now(t, lin, &w, p) || !w.user)
        return false;
    memmap_use(p->ram, w.page, true, false);
    return true;
}

bool mmu_kernel_page(Tcg *t, gva_t lin, KernelPage *p)
{
    PageWalk w;
    if (!page_now(t, lin, &w, &p->at) || w.user || !w.global)
        return false;
    p->writable = w.writable && w.dirty;
    p->huge = w.huge;
    return true;
}

/* ---- data breakpoints (SDM vol. 3, 18.2) ---- */

enum { DR7_RW_WRITE = 1, DR7_RW_ACCESS = 3 };

/* DR6 bits of the enabled data breakpoints that [lin, lin + len) touches. */
static unsigned data_breakpoints(const CpuState *s, gva_t lin, unsigned len, bool write)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    unsigned hit = 0;
    for (unsigned k = 0; k < 4; k++) {
        unsigned rw = s->dr7 >> (16 + 4 * k) & 3;
        if (!(s->dr7 >> (2 * k) & 3) || !(rw == DR7_RW_ACCESS || (rw == DR7_RW_WRITE && write)))
            continue;
        unsigned size = lengths[s->dr7 >> (18 + 4 * k) & 3];
        gva_t at = s->dr[k] & ~(gva_t)(size - 1);
        if (lin < at + size && at < lin + len)
            hit |= 1u << k;
    }
    return hit;
}

static inline void watch(const CpuState *s, Tcg *t, gva_t lin, unsigned len, bool write)
{
    if (unlikely(s->dr7 & 0xff))
        t->trap_dr6 |= data_breakpoints(s, lin, len, write);
}

/* ---- TLB ---- */

static inline void mark(uint64_t *map, unsigned idx, bool on)
{
    if (on)
        map[idx / 64] |= BIT(idx % 64);
    else
        map[idx / 64] &= ~BIT(idx % 64);
}

static void entry_clear(TlbEntry *e)
{
    e->tag[ACC_READ] = e->tag[ACC_WRITE] = e->tag[ACC_EXEC] = TLB_NONE;
}

/* A large page has 2 MiB at least, or 4 without PAE; what is noted is within 2. */
static void note_around(const CpuState *s, Tcg *t, gva_t page, const PageWalk *w,
                        const RamSlot *slot)
{
    const uint64_t size = 2u << 20;
    if (s->dr7 & 0xff) /* breakpoints are in the way of some */
        return;
    gva_t first = page & ~(size - 1), last = page | ((size - 1) & PAGE_MASK);
    gpa_t low = w->page - (page - first), high = w->page + (last - page);
    if (low < slot->gpa)
        first += slot->gpa - low;
    if (high > slot->gpa + slot->size - PAGE_SIZE)
        last -= high - (slot->gpa + slot->size - PAGE_SIZE);
    t->around.page = page;
    t->around.first = first;
    t->around.last = last;
    t->around.gpa = w->page;
}

static void fill(const CpuState *s, Tcg *t, gva_t lin, unsigned mode, const PageWalk *w,
                 const RamSlot *slot, enum Access a, bool code)
{
    gva_t page = lin & PAGE_MASK;
    unsigned idx = tlb_index(lin);
    TlbEntry *e = &t->bank->entry[mode][idx];
    bool explicit_ok = !(t->align_check && mode == MMU_USER);
    if (s->dr7 & 0xff)
        explicit_ok &= !data_breakpoints(s, page, PAGE_SIZE, true);

    e->tag[ACC_READ] = explicit_ok && allowed(s, w, ACC_READ, mode) ? page : TLB_NONE;
    e->tag[ACC_WRITE] = explicit_ok && !slot->readonly && w->dirty && !code && !t->v->writes &&
                                allowed(s, w, ACC_WRITE, mode)
                            ? page
                            : TLB_NONE;
    e->tag[ACC_EXEC] = allowed(s, w, ACC_EXEC, mode) ? page : TLB_NONE;
    e->addend = (uintptr_t)slot->host + (w->page - slot->gpa) - page;
    if (e->tag[ACC_WRITE] != TLB_NONE)
        may_write(t, page + e->addend);
    memmap_use(slot, w->page, mode == MMU_USER, a == ACC_WRITE && !slot->readonly);
    fresh_walk(t, w);
    t->left = false;
    mark(t->bank->filled[mode], idx, true);
    mark(t->bank->local[mode], idx, !w->global);
    mark(t->bank->big[mode], idx, w->big);
    t->around.page = TLB_NONE;
    if (w->big) {
        large_note(&t->bank->big_at, lin, w->huge);
        note_around(s, t, page, w, slot);
    }
}

/* What is known of single pages beside the TLB. Each flush has them forgotten. */
static void forget_pages(Tcg *t)
{
    t->flushed = true;
    t->around.page = TLB_NONE;
    for (unsigned k = 0; k < ARRAY_LEN(t->code_at); k++)
        t->code_at[k].page = TLB_NONE;
}

/* Where code was fetched from must be asked again. */
static void forget_code(Tcg *t, TlbBank *b)
{
    b->map_gen = ++t->last_gen;
    if (b == t->bank) {
        t->map_gen = b->map_gen;
    }
    memset(b->exec_pages, 0, sizeof(b->exec_pages));
    b->exec_big = 0;
}

static void forget_global_code(Tcg *t)
{
    t->global_gen = ++t->last_gen;
    memset(t->global_pages, 0, sizeof(t->global_pages));
    t->global_big = 0;
}

void tlb_forget_code(Tcg *t)
{
    forget_global_code(t);
    for (unsigned k = 0; k < TLB_BANKS; k++)
        if (t->banks[k].valid)
            forget_code(t, &t->banks[k]);
}

/* Those that `which` has, and these bits. */
static void entries_clear(TlbEntry *entry, uint64_t *which)
{
    for (unsigned word = 0; word < TLB_SIZE / 64; word++) {
        uint64_t left = which[word];
        if (!left)
            continue;
        which[word] = 0;
        for (; left; left &= left - 1)
            entry_clear(&entry[word * 64 + (unsigned)__builtin_ctzll(left)]);
    }
}

static void bank_clear(Tcg *t, TlbBank *b)
{
    forget_pages(t);
    if (!b->cleared)
        memset(b->filled, 0xff, sizeof(b->filled));
    b->cleared = true;
    for (unsigned m = 0; m < MMU_MODES; m++)
        entries_clear(b->entry[m], b->filled[m]);
    memset(b->local, 0, sizeof(b->local));
    memset(b->big, 0, sizeof(b->big));
    b->big_at = (LargePages){0};
    if (t->translator && b == t->bank)
        t->translator->pages_flush(t, true);
    forget_code(t, b);
}

static void bank_clear_local(Tcg *t, TlbBank *b)
{
    forget_pages(t);
    for (unsigned m = 0; m < MMU_MODES; m++)
        entries_clear(b->entry[m], b->local[m]);
    if (t->translator && b == t->bank)
        t->translator->pages_flush(t, false);
    forget_code(t, b);
}

void tlb_flush(Tcg *t)
{
    const CpuState *s = &t->v->st;
    t->bank->pcid = s->cr4 & CR4_PCIDE ? s->cr3 & 0xfff : 0;
    if (t->left)
        return;
    for (unsigned k = 0; k < TLB_BANKS; k++)
        t->banks[k].valid = false;
    t->bank->valid = true;
    bank_clear(t, t->bank);
    forget_global_code(t);
    for (unsigned k = 0; k < ARRAY_LEN(t->may_write_lines); k++) {
        for (uint64_t left = t->may_write_lines[k]; left; left &= left - 1)
            memset(&t->may_write[(k * 64 + (unsigned)__builtin_ctzll(left)) * 8], 0, 64);
        t->may_write_lines[k] = 0;
    }
}

void zero_pages(void *p, size_t bytes)
{
    uint8_t *start = p, *end = start + bytes;
    uint8_t *first = (uint8_t *)(((uintptr_t)start + ~PAGE_MASK) & PAGE_MASK);
    uint8_t *last = (uint8_t *)((uintptr_t)end & PAGE_MASK);
    if (last <= first || madvise(first, (size_t)(last - first), MADV_DONTNEED) != 0)
        first = last = end;
    memset(start, 0, (size_t)(first - start));
    memset(last, 0, (size_t)(end - last));
}

void tlb_give_back(Tcg *t)
{
    tlb_flush(t);
    for (unsigned k = 0; k < TLB_BANKS; k++)
        if (!t->banks[k].valid)
            zero_pages(&t->banks[k], sizeof(t->banks[k]));
}

void tlb_flush_non_global(Tcg *t)
{
    bank_clear_local(t, t->bank);
}

static TlbBank *bank_of(Tcg *t, uint16_t pcid)
{
    for (unsigned k = 0; k < TLB_BANKS; k++)
        if (t->banks[k].valid && t->banks[k].pcid == pcid)
            return &t->banks[k];
    return NULL;
}

/* A bank that is free, or else the one not used for longest, empty. */
static TlbBank *bank_new(Tcg *t, uint16_t pcid)
{
    TlbBank *b = &t->banks[0];
    for (unsigned k = 0; k < TLB_BANKS && b->valid; k++)
        if (!t->banks[k].valid || t->banks[k].last_use < b->last_use)
            b = &t->banks[k];
    b->valid = true;
    b->pcid = pcid;
    bank_clear(t, b);
    return b;
}

void tlb_switch(Tcg *t, uint16_t pcid, bool keep)
{
    t->bank->last_use = ++t->bank_uses;
    TlbBank *b = bank_of(t, pcid);
    if (!b)
        b = bank_new(t, pcid);
    else if (!keep)
        bank_clear_local(t, b);
    t->bank = b;
    t->map_gen = b->map_gen;
    forget_pages(t);
    if (t->translator)
        t->translator->pages_flush(t, false);
}

void tlb_flush_pcid(Tcg *t, uint16_t pcid)
{
    t->flushed = true;
    TlbBank *b = bank_of(t, pcid);
    if (b)
        bank_clear_local(t, b);
}

void tlb_flush_pcids(Tcg *t)
{
    for (unsigned k = 0; k < TLB_BANKS; k++)
        if (t->banks[k].valid)
            bank_clear_local(t, &t->banks[k]);
}

/* May there be code in lin's page? */
static bool code_at_page(const uint64_t *pages, uint64_t big, gva_t lin)
{
    unsigned bit = exec_bit(lin);
    return (big >> (lin >> 30 & 63) & 1) || (pages[bit / 64] >> (bit % 64) & 1);
}

/* An address in a large page drops the whole of it. Which size a page had is not kept: all entries
 * from large pages that near go. */
static void bank_flush_page(Tcg *t, TlbBank *b, gva_t lin)
{
    unsigned big = large_shift(&b->big_at, lin);
    for (unsigned m = 0; m < MMU_MODES; m++) {
        TlbEntry *at = &b->entry[m][tlb_index(lin)];
        for (unsigned a = 0; a < ARRAY_LEN(at->tag); a++) {
            if (at->tag[a] == (lin & PAGE_MASK)) {
                entry_clear(at);
                break;
            }
        }
        for (unsigned word = 0; big && word < TLB_SIZE / 64; word++) {
            for (uint64_t left = b->big[m][word]; left; left &= left - 1) {
                TlbEntry *e = &b->entry[m][word * 64 + (unsigned)__builtin_ctzll(left)];
                for (unsigned a = 0; a < ARRAY_LEN(e->tag); a++) {
                    if (e->tag[a] != TLB_NONE && (e->tag[a] ^ lin) >> big == 0) {
                        entry_clear(e);
                        break;
                    }
                }
            }
        }
    }
    if (code_at_page(b->exec_pages, b->exec_big, lin))
        forget_code(t, b);
}

void tlb_flush_page(Tcg *t, gva_t lin)
{
    forget_pages(t);
    if (t->translator)
        t->translator->page_flush(t, lin);
    if (code_at_page(t->global_pages, t->global_big, lin))
        forget_global_code(t);
    for (unsigned k = 0; k < TLB_BANKS; k++)
        if (t->banks[k].valid)
            bank_flush_page(t, &t->banks[k], lin);
}

/* ---- finding the bytes ---- */

static struct CodeAt *code_at(Tcg *t, gva_t lin)
{
    return &t->code_at[lin >> PAGE_BITS & (ARRAY_LEN(t->code_at) - 1)];
}

bool mmu_code_written(Tcg *t, gva_t lin, unsigned mode)
{
    const struct CodeAt *c = code_at(t, lin);
    return c->page == (lin & PAGE_MASK) && c->mode == mode && blocks_page_has_code(t, c->gpa);
}

/* A write to such a page: *o. */
static bool code_page_known(Tcg *t, gva_t lin, unsigned mode, Spot *o)
{
    const struct CodeAt *c = code_at(t, lin);
    if (!mmu_code_written(t, lin, mode))
        return false;
    o->gpa = c->gpa | (lin & ~PAGE_MASK);
    o->host = c->host + (lin & ~PAGE_MASK);
    o->code = true;
    return true;
}

static Fault locate(CpuState *s, Tcg *t, gva_t lin, enum Access a, unsigned mode, Spot *o)
{
    PageWalk w;
    o->host = tlb_hit(t, mode, lin, 1, a);
    o->code = false;
    if (o->host || (a == ACC_WRITE && code_page_known(t, lin, mode, o)))
        return FAULT_NONE;
    Fault f = walk_checked(s, t, lin, a, mode, &w);
    if (f)
        return f;
    o->gpa = w.page | (lin & ~PAGE_MASK);
    const RamSlot *slot = memmap_find(t->v->vm->mem, o->gpa);
    if (!slot)
        return FAULT_NONE;
    bool code = blocks_page_has_code(t, o->gpa);
    fill(s, t, lin, mode, &w, slot, a, code);
    if (a == ACC_WRITE) {
        if (slot->readonly)
            return FAULT_NONE; /* to the bus, as if nothing were here */
        o->code = code;
    }
    o->host = slot->host + (o->gpa - slot->gpa);
    if (o->code)
        *code_at(t, lin) = (struct CodeAt){.page = lin & PAGE_MASK,
                                           .gpa = w.page,
                                           .host = o->host - (lin & ~PAGE_MASK),
                                           .mode = mode};
    return FAULT_NONE;
}

void *mem_host(CpuState *s, Tcg *t, gva_t lin, unsigned len, enum Access a)
{
    Spot o;
    if (locate(s, t, lin, a, t->mmu_mode, &o))
        return NULL;
    return tlb_hit(t, t->mmu_mode, lin, len, a);
}

/* Where the page after lin's begins: linear addresses wrap at 4 GiB outside 64-bit mode. */
static gva_t next_page(const Tcg *t, gva_t lin)
{
    gva_t next = (lin | ~PAGE_MASK) + 1;
    return !t->code64 && next == BIT(32) ? 0 : next;
}

static uint64_t bytes_load(const uint8_t *p, unsigned size)
{
    uint16_t v16;
    uint32_t v32;
    uint64_t v64;
    switch (size) { /* one load each: other vCPUs must not see or cause tearing */
    case 1:
        return *p;
    case 2:
        memcpy(&v16, p, 2);
        return v16;
    case 4:
        memcpy(&v32, p, 4);
        return v32;
    default:
        memcpy(&v64, p, 8);
        return v64;
    }
}

static void bytes_store(uint8_t *p, unsigned size, uint64_t v)
{
    uint16_t v16 = (uint16_t)v;
    uint32_t v32 = (uint32_t)v;
    switch (size) {
    case 1:
        *p = (uint8_t)v;
        break;
    case 2:
        memcpy(p, &v16, 2);
        break;
    case 4:
        memcpy(p, &v32, 4);
        break;
    default:
        memcpy(p, &v, 8);
    }
}

static uint64_t mmio_read(Tcg *t, gpa_t gpa, unsigned size)
{
    vec_release(t);
    return t->v->vm->bus->mmio_read(t->v, gpa, size);
}
static void mmio_write(Tcg *t, gpa_t gpa, unsigned size, uint64_t v)
{
    vec_release(t);
    t->v->vm->bus->mmio_write(t->v, gpa, size, v);
}

/* len bytes, within a page. The bus takes powers of two. */
static void spot_read(Tcg *t, const Spot *o, uint8_t *buf, unsigned len)
{
    if (o->host) {
        memcpy(buf, o->host, len);
        return;
    }
    for (unsigned done = 0, n; done < len; done += n) {
        n = len - done >= 8 ? 8 : len - done >= 4 ? 4 : len - done >= 2 ? 2 : 1;
        uint64_t v = mmio_read(t, o->gpa + done, n);
        bytes_store(buf + done, n, v);
    }
}

static void spot_write(Tcg *t, const Spot *o, const uint8_t *buf, unsigned len)
{
    if (o->host) {
        write_log_note(t->v->writes, o->gpa, o->host, len);
        memcpy(o->host, buf, len);
        if (o->code)
            blocks_invalidate(t, o->gpa, len);
        return;
    }
    for (unsigned done = 0, n; done < len; done += n) {
        n = len - done >= 8 ? 8 : len - done >= 4 ? 4 : len - done >= 2 ? 2 : 1;
        mmio_write(t, o->gpa + done, n, bytes_load(buf + done, n));
    }
}

/* The pages of an access: at most three, so that a whole XSAVE area fits. */
#define SPOTS_MAX 4
typedef struct Span {
    unsigned n;
    struct {
        Spot spot;
        unsigned len;
    } part[SPOTS_MAX];
} Span;

static Fault span(CpuState *s, Tcg *t, gva_t lin, unsigned len, enum Access a, unsigned mode,
                  Span *o)
{
    if (!(s->efer & EFER_LMA))
        lin = (uint32_t)lin;
    o->n = 0;
    while (len) {
        g_assert(o->n < SPOTS_MAX); /* no instruction moves more */
        unsigned n = (unsigned)MIN_OF((uint64_t)len, PAGE_SIZE - (lin & ~PAGE_MASK));
        Fault f = locate(s, t, lin, a, mode, &o->part[o->n].spot);
        if (f)
            return f;
        o->part[o->n++].len = n;
        len -= n;
        lin = next_page(t, lin);
    }
    return FAULT_NONE;
}

/*
 * span(), and what an address itself can be wrong in. A byte that is not canonical comes before any
 * page; alignment comes before the pages on AMD (APM vol. 2, table 8-9), behind them on Intel (SDM
 * vol. 3, table 6-2).
 */
static Fault span_aligned(CpuState *s, Tcg *t, gva_t lin, unsigned len, unsigned align,
                          enum Access a, unsigned mode, Span *o)
{
    if (s->efer & EFER_LMA) {
        gva_t last = t->code64 ? lin + len - 1 : (uint32_t)(lin + len - 1);
        if (unlikely(!lin_canonical(s, lin) || !lin_canonical(s, last))) {
            raise_gp0(t);
            t->exc.noncanonical = true;
            return FAULT_EXC;
        }
    }
    bool wrong = mem_misaligned(t, lin, align, mode);
    if (unlikely(wrong) && t->amd)
        return raise_err(t, VEC_AC, 0);
    Fault f = span(s, t, lin, len, a, mode, o);
    return !f && unlikely(wrong) ? raise_err(t, VEC_AC, 0) : f;
}

Fault mem_read_slow(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t *out)
{
    Span o;
    uint8_t buf[8];
    *out = 0;
    Fault f = span_aligned(s, t, lin, size, size, ACC_READ, mode, &o);
    if (f)
        return f;
    if (likely(o.n == 1)) {
        const Spot *p = &o.part[0].spot;
        *out = p->host ? bytes_load(p->host, size) : mmio_read(t, p->gpa, size) & size_mask(size);
    } else {
        spot_read(t, &o.part[0].spot, buf, o.part[0].len);
        spot_read(t, &o.part[1].spot, buf + o.part[0].len, o.part[1].len);
        *out = bytes_load(buf, size);
    }
    watch(s, t, lin, size, false);
    return FAULT_NONE;
}

Fault mem_write_slow(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t v)
{
    Span o;
    uint8_t buf[8];
    Fault f = span_aligned(s, t, lin, size, size, ACC_WRITE, mode, &o);
    if (f)
        return f;
    watch(s, t, lin, size, true);
    if (likely(o.n == 1)) {
        const Spot *p = &o.part[0].spot;
        if (!p->host) {
            mmio_write(t, p->gpa, size, v & size_mask(size));
            return FAULT_NONE;
        }
        write_log_note(t->v->writes, p->gpa, p->host, size);
        bytes_store(p->host, size, v);
        if (p->code)
            blocks_invalidate(t, p->gpa, size);
    } else {
        memcpy(buf, &v, 8);
        spot_write(t, &o.part[0].spot, buf, o.part[0].len);
        spot_write(t, &o.part[1].spot, buf + o.part[0].len, o.part[1].len);
    }
    return FAULT_NONE;
}

/* ---- what handlers call ---- */

Fault mem_read_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t *out)
{
    const void *p = tlb_hit(t, mode, lin, size, ACC_READ);
    if (unlikely(!p))
        return mem_read_slow(s, t, lin, size, mode, out);
    *out = bytes_load(p, size);
    return FAULT_NONE;
}

Fault mem_write_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t v)
{
    void *p = tlb_hit(t, mode, lin, size, ACC_WRITE);
    if (unlikely(!p))
        return mem_write_slow(s, t, lin, size, mode, v);
    bytes_store(p, size, v);
    return FAULT_NONE;
}

Fault mem_read(CpuState *s, Tcg *t, gva_t lin, unsigned size, uint64_t *out)
{
    return mem_read_mode(s, t, lin, size, t->mmu_mode, out);
}

Fault mem_write(CpuState *s, Tcg *t, gva_t lin, unsigned size, uint64_t v)
{
    return mem_write_mode(s, t, lin, size, t->mmu_mode, v);
}

Fault mem_read_operand(CpuState *s, Tcg *t, gva_t lin, void *buf, unsigned len, unsigned align)
{
    Span o;
    Fault f = span_aligned(s, t, lin, len, align, ACC_READ, t->mmu_mode, &o);
    if (f)
        return f;
    for (unsigned k = 0, at = 0; k < o.n; at += o.part[k++].len)
        spot_read(t, &o.part[k].spot, (uint8_t *)buf + at, o.part[k].len);
    watch(s, t, lin, len, false);
    return FAULT_NONE;
}

Fault mem_read_bytes(CpuState *s, Tcg *t, gva_t lin, void *buf, unsigned len)
{
    return mem_read_operand(s, t, lin, buf, len, 1);
}

Fault mem_write_operand(CpuState *s, Tcg *t, gva_t lin, const void *buf, unsigned len,
                        unsigned align)
{
    Span o;
    Fault f = span_aligned(s, t, lin, len, align, ACC_WRITE, t->mmu_mode, &o);
    if (f)
        return f;
    watch(s, t, lin, len, true);
    for (unsigned k = 0, at = 0; k < o.n; at += o.part[k++].len)
        spot_write(t, &o.part[k].spot, (const uint8_t *)buf + at, o.part[k].len);
    return FAULT_NONE;
}

Fault mem_write_bytes(CpuState *s, Tcg *t, gva_t lin, const void *buf, unsigned len)
{
    return mem_write_operand(s, t, lin, buf, len, 1);
}

Fault mem_probe_write(CpuState *s, Tcg *t, gva_t lin, unsigned len)
{
    Span o;
    return span_aligned(s, t, lin, len, 1, ACC_WRITE, t->mmu_mode, &o);
}

Fault mem_probe_operand(CpuState *s, Tcg *t, gva_t lin, unsigned len, unsigned align, enum Access a)
{
    Span o;
    return span_aligned(s, t, lin, len, align, a, t->mmu_mode, &o);
}

Fault mem_rmw_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, void **host)
{
    Span o;
    Fault f = span_aligned(s, t, lin, size, size, ACC_WRITE, mode, &o);
    if (f)
        return f;
    *host = o.n == 1 ? o.part[0].spot.host : NULL;
    if (*host) {
        watch(s, t, lin, size, true); /* otherwise mem_read() and mem_write() do */
        write_log_note(t->v->writes, o.part[0].spot.gpa, *host, size);
        if (o.part[0].spot.code)
            blocks_invalidate(t, o.part[0].spot.gpa, size);
    }
    return FAULT_NONE;
}

Fault mem_rmw(CpuState *s, Tcg *t, gva_t lin, unsigned size, void **host)
{
    return mem_rmw_mode(s, t, lin, size, t->mmu_mode, host);
}
