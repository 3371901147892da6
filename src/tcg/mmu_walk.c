/* Page tables: SDM vol. 3, chapter 4. No faults, no TLB: those are mmu.c's. */
#include "tcg/mmu_walk.h"

enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8,
};
#define PTE_NX BIT(63)

/* Reads entry number `index` of the table at `table` and appends it to the walk. */
static uint64_t read_entry(const MemMap *mem, gpa_t table, unsigned index, PageWalk *w)
{
    unsigned size = w->wide ? 8 : 4;
    gpa_t at = table + index * size;
    const RamSlot *slot = memmap_find(mem, at);
    uint64_t value = w->wide ? ~0ull : 0xffffffff;
    uint8_t *host = NULL;

    if (slot) {
        host = slot->host + (at - slot->gpa);
        value = w->wide ? __atomic_load_n((uint64_t *)(void *)host, __ATOMIC_RELAXED)
                        : __atomic_load_n((uint32_t *)(void *)host, __ATOMIC_RELAXED);
        if (slot->readonly)
            host = NULL;
    }
    w->entry[w->n].host = host;
    w->entry[w->n].gpa = at;
    w->entry[w->n].value = value;
    w->n++;
    return value;
}

static void add_rights(PageWalk *w, uint64_t e)
{
    w->user &= !!(e & PTE_U);
    w->writable &= !!(e & PTE_W);
    w->nx |= w->wide && (e & PTE_NX);
}

static enum WalkResult leaf(PageWalk *w, const CpuState *s, uint64_t e, gva_t lin, gpa_t base,
                            unsigned shift)
{
    w->page = (base & ~(BIT(shift) - 1)) | (lin & (BIT(shift) - 1) & PAGE_MASK);
    w->global = (s->cr4 & CR4_PGE) && (e & PTE_G);
    w->dirty = e & PTE_D;
    w->big = shift > PAGE_BITS;
    w->huge = shift > LARGE_SHIFT;
    return WALK_OK;
}

static enum WalkResult walk32(const CpuState *s, const MemMap *mem, const WalkModel *m, gva_t lin,
                              PageWalk *w)
{
    uint64_t e = read_entry(mem, s->cr3 & 0xfffff000, (unsigned)bits(lin, 31, 22), w);
    if (!(e & PTE_P))
        return WALK_ABSENT;
    if ((e & PTE_PS) && (s->cr4 & CR4_PSE)) {
        /* Bits 20:13 are address bits 39:32 as far as the processor has them (PSE-36). */
        unsigned high = m->pse36 ? MIN_OF(m->phys_bits, 40u) - 32 : 0;
        if (e & (BIT(22) - BIT(13 + high)))
            return WALK_RESERVED;
        add_rights(w, e);
        return leaf(w, s, e, lin, (e & 0xffc00000) | bits(e, 20, 13) << 32, 22);
    }
    add_rights(w, e);
    e = read_entry(mem, e & 0xfffff000, (unsigned)bits(lin, 21, 12), w);
    if (!(e & PTE_P))
        return WALK_ABSENT;
    add_rights(w, e);
    return leaf(w, s, e, lin, e & 0xfffff000, 12);
}

/* PAE from its page directory on (level 2), IA-32e from PML4 or PML5. */
static enum WalkResult walk64(const CpuState *s, const MemMap *mem, const WalkModel *m, gva_t lin,
                              PageWalk *w, gpa_t table, unsigned level)
{
    uint64_t reserved = BIT(52) - BIT(m->phys_bits);
    if (!(s->efer & EFER_NXE))
        reserved |= PTE_NX;
    if (!(s->efer & EFER_LMA))
        reserved |= BIT(63) - BIT(52);

    for (;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t e = read_entry(mem, table, (unsigned)bits(lin, shift + 8, shift), w);
        if (!(e & PTE_P))
            return WALK_ABSENT;
        if (e & reserved)
            return WALK_RESERVED;
        bool large = level > 1 && (e & PTE_PS);
        if (large && (level > 3 || (level == 3 && !m->pdpe1gb) || (e & (BIT(shift) - BIT(13)))))
            return WALK_RESERVED;
        add_rights(w, e);
        gpa_t address = e & (BIT(52) - PAGE_SIZE);
        if (large || level == 1)
            return leaf(w, s, e, lin, address, shift);
        table = address;
    }
}

enum WalkResult mmu_walk(const CpuState *s, const MemMap *mem, const WalkModel *m, gva_t lin,
                         PageWalk *w)
{
    w->n = 0;
    w->user = w->writable = true;
    w->nx = w->global = w->big = w->huge = false;
    w->dirty = true;
    if (!(s->cr0 & CR0_PG)) {
        w->page = lin & PAGE_MASK & 0xffffffff;
        return WALK_OK;
    }
    w->wide = s->cr4 & CR4_PAE;
    if (!w->wide)
        return walk32(s, mem, m, lin, w);
    gpa_t address = BIT(52) - PAGE_SIZE;
    if (s->efer & EFER_LMA)
        return walk64(s, mem, m, lin, w, s->cr3 & address, s->cr4 & CR4_LA57 ? 5 : 4);
    /* Reserved bits of the PDPTEs were checked when they were loaded. */
    uint64_t pdpte = s->pdpte[bits(lin, 31, 30)];
    if (!(pdpte & PTE_P))
        return WALK_ABSENT;
    return walk64(s, mem, m, lin, w, pdpte & address, 2);
}

bool mmu_walk_accessed(const PageWalk *w)
{
    for (unsigned k = 0; k < w->n; k++)
        if (!(w->entry[k].value & PTE_A))
            return false;
    return true;
}

bool mmu_walk_mark(PageWalk *w, bool write, WriteLog *log)
{
    for (unsigned k = 0; k < w->n; k++) {
        bool last = k + 1 == w->n;
        uint64_t old = w->entry[k].value;
        uint64_t want = old | PTE_A | (last && write ? PTE_D : 0);
        if (want == old || !w->entry[k].host)
            continue;
        if (unlikely(log != NULL))
            write_log_add(log, w->entry[k].gpa, w->entry[k].host, w->wide ? 8 : 4)->paging = true;
        if (w->wide) {
            uint64_t *p = (uint64_t *)(void *)w->entry[k].host;
            if (!__atomic_compare_exchange_n(p, &old, want, false, __ATOMIC_SEQ_CST,
                                             __ATOMIC_RELAXED))
                return false;
        } else {
            uint32_t *p = (uint32_t *)(void *)w->entry[k].host, old32 = (uint32_t)old;
            if (!__atomic_compare_exchange_n(p, &old32, (uint32_t)want, false, __ATOMIC_SEQ_CST,
                                             __ATOMIC_RELAXED))
                return false;
        }
        w->entry[k].value = want;
        if (last && write)
            w->dirty = true;
    }
    return true;
}
