/*
 * MOVS, STOS, LODS, CMPS, SCAS and their REP forms (SDM vol. 2).
 *
 * Registers are committed after every iteration, so a fault or an interrupt finds the instruction
 * between two of them. A REP does at most a chunk, then returns FAULT_AGAIN to let the run loop
 * look at requests. REP MOVS and forward REP STOS go a page at a time when the TLB allows both
 * ends.
 */
#include "tcg/exec.h"

#define CHUNK_BYTES 65536 /* of a bulk copy: a few microseconds */
#define SLOW_COST   64    /* bytes an iteration done singly counts as */

static inline uint64_t index_get(const CpuState *s, const Insn *i, unsigned r)
{
    return s->gpr[r] & size_mask(i->asize);
}
static inline void index_add(CpuState *s, const Insn *i, unsigned r, int64_t by)
{
    wr_size(s, r, i->asize, s->gpr[r] + (uint64_t)by);
}
static inline int64_t step_of(const CpuState *s, unsigned size)
{
    return s->rflags & FL_DF ? -(int64_t)size : (int64_t)size;
}
static inline bool seg_is_flat(const Tcg *t, unsigned seg)
{
    return t->code64 ? seg == SEG_NONE
                     : (t->decode_mode & DM_FLAT) && (seg == ES || seg == DS || seg == SS);
}
static inline unsigned dst_seg(const Tcg *t)
{
    return t->code64 ? SEG_NONE : ES;
}
static inline Fault string_lin(CpuState *s, Tcg *t, unsigned seg, uint64_t off, unsigned size,
                               enum Access a, gva_t *lin)
{
    if (likely(seg_is_flat(t, seg))) {
        *lin = t->code64 ? off : (uint32_t)off;
        return FAULT_NONE;
    }
    return seg_lin(s, t, seg, off, size, a, lin);
}
static inline bool is_rep(const Insn *i)
{
    return i->flags & (IF_REP | IF_REPNE);
}

static Fault movs_once(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    gva_t from, to;
    uint64_t v;
    int64_t step = step_of(s, size);
    Fault f = string_lin(s, t, i->seg, index_get(s, i, RSI), size, ACC_READ, &from);
    if (!f)
        f = mem_read(s, t, from, size, &v);
    if (!f)
        f = string_lin(s, t, dst_seg(t), index_get(s, i, RDI), size, ACC_WRITE, &to);
    if (!f)
        f = mem_write(s, t, to, size, v);
    if (f)
        return f;
    index_add(s, i, RSI, step);
    index_add(s, i, RDI, step);
    return FAULT_NONE;
}

static Fault stos_once(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    gva_t to;
    Fault f = string_lin(s, t, dst_seg(t), index_get(s, i, RDI), size, ACC_WRITE, &to);
    if (!f)
        f = mem_write(s, t, to, size, rd_size(s, RAX, size));
    if (!f)
        index_add(s, i, RDI, step_of(s, size));
    return f;
}

static Fault lods_once(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    gva_t from;
    uint64_t v;
    Fault f = string_lin(s, t, i->seg, index_get(s, i, RSI), size, ACC_READ, &from);
    if (!f)
        f = mem_read(s, t, from, size, &v);
    if (f)
        return f;
    wr_size(s, RAX, size, v);
    index_add(s, i, RSI, step_of(s, size));
    return FAULT_NONE;
}

/* Elements that lie in one page from lin on, upwards or downwards, and are within the index
 * register's reach. */
static uint64_t run_length(const Insn *i, gva_t lin, uint64_t index, unsigned size, bool down)
{
    uint64_t in_page = lin & ~PAGE_MASK, room = PAGE_SIZE - in_page;
    uint64_t wrap = size_mask(i->asize) - index; /* bytes before the index wraps, less one */
    uint64_t n = MIN_OF(room, wrap == ~0ull ? wrap : wrap + 1) / size;
    if (!down || n == 0)
        return n;
    return MIN_OF(in_page, index) / size + 1;
}

static void copy_run(uint8_t *dst, const uint8_t *src, unsigned len, unsigned size, bool down)
{
    uint64_t apart = down ? (uintptr_t)src - (uintptr_t)dst : (uintptr_t)dst - (uintptr_t)src;
    if (apart >= len) {
        memmove(dst, src, len);
        return;
    }
    /* What has been written is read again: the pattern repeats. */
    for (unsigned k = 0; k < len; k += size) {
        unsigned at = down ? len - size - k : k;
        memmove(dst + at, src + at, size);
    }
}

/*
 * Copies or fills as much as one page at each end allows; returns elements done, 0 if it cannot.
 * again: the element before has just been done singly, so what is not in the TLB is not there
 * because the other end's page has the same place in it.
 */
static uint64_t movs_bulk(CpuState *s, Tcg *t, const Insn *i, unsigned size, uint64_t count,
                          bool again)
{
    bool down = s->rflags & FL_DF;
    if (t->one_iter || !seg_is_flat(t, i->seg) || !seg_is_flat(t, dst_seg(t)))
        return 0;
    gva_t from = index_get(s, i, RSI), to = index_get(s, i, RDI);
    uint64_t n = MIN_OF(count, run_length(i, from, from, size, down));
    n = MIN_OF(n, run_length(i, to, to, size, down));
    if (n == 0)
        return 0;
    unsigned len = (unsigned)(n * size);
    if (down) { /* of the last element, which is the lowest */
        from -= len - size;
        to -= len - size;
    }
    const uint8_t *src = tlb_hit(t, t->mmu_mode, from, len, ACC_READ);
    if (!src && again)
        src = mem_host(s, t, from, len, ACC_READ);
    uint8_t *dst = tlb_hit(t, t->mmu_mode, to, len, ACC_WRITE);
    if (!dst && src && again)
        dst = mem_host(s, t, to, len, ACC_WRITE);
    if (!src || !dst)
        return 0;
    copy_run(dst, src, len, size, down);
    index_add(s, i, RSI, down ? -(int64_t)len : (int64_t)len);
    index_add(s, i, RDI, down ? -(int64_t)len : (int64_t)len);
    return n;
}

/* The host's own string store: no loop comes near it. */
static void fill_run(void *dst, uint64_t v, uint64_t n, unsigned size)
{
    switch (size) {
    case 2:
        __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
        break;
    }
}

static uint64_t stos_bulk(CpuState *s, Tcg *t, const Insn *i, unsigned size, uint64_t count,
                          bool again G_GNUC_UNUSED)
{
    if ((s->rflags & FL_DF) || t->one_iter || !seg_is_flat(t, dst_seg(t)))
        return 0;
    gva_t to = index_get(s, i, RDI);
    uint64_t n = MIN_OF(count, run_length(i, to, to, size, false)), v = s->gpr[RAX];
    if (n == 0)
        return 0;
    unsigned len = (unsigned)(n * size);
    uint8_t *dst = tlb_hit(t, t->mmu_mode, to, len, ACC_WRITE);
    if (!dst)
        return 0;
    if (size == 1 || v == 0)
        memset(dst, (int)(v & 0xff), len);
    else
        fill_run(dst, v, n, size);
    index_add(s, i, RDI, len);
    return n;
}

static uint64_t no_bulk(CpuState *s G_GNUC_UNUSED, Tcg *t G_GNUC_UNUSED,
                        const Insn *i G_GNUC_UNUSED, unsigned size G_GNUC_UNUSED,
                        uint64_t count G_GNUC_UNUSED, bool again G_GNUC_UNUSED)
{
    return 0;
}

typedef Fault OnceFn(CpuState *, Tcg *, const Insn *, unsigned size);
typedef uint64_t BulkFn(CpuState *, Tcg *, const Insn *, unsigned size, uint64_t count, bool again);

static inline __attribute__((always_inline)) Fault rep(CpuState *s, Tcg *t, const Insn *i,
                                                       OnceFn *once, BulkFn *bulk)
{
    unsigned size = i->opsize;
    if (!is_rep(i))
        return once(s, t, i, size);
    uint64_t count = index_get(s, i, RCX);
    bool again = false;
    for (int64_t left = CHUNK_BYTES; count;) {
        uint64_t n = bulk(s, t, i, size, count, again);
        again = n == 0;
        if (n == 0) {
            Fault f = once(s, t, i, size);
            if (f)
                return f;
            n = 1;
            left -= SLOW_COST;
        }
        left -= (int64_t)(n * size);
        count -= n;
        wr_size(s, RCX, i->asize, count);
        if (count && (left <= 0 || t->one_iter))
            return FAULT_AGAIN;
    }
    return FAULT_NONE;
}
DEF_EXEC(movs)
{
    return rep(s, t, i, movs_once, movs_bulk);
}
DEF_EXEC(stos)
{
    return rep(s, t, i, stos_once, stos_bulk);
}
DEF_EXEC(lods)
{
    return rep(s, t, i, lods_once, no_bulk);
}

/* ---- compares: REPE goes on while ZF is set, REPNE while it is clear ---- */
#define COMPARE(bits, T, sfx, m, ...)                           \
    case sizeof(T):                                             \
        __asm__("cmp" sfx " %" m "[b], %" m "[a]" ASM_FLAGS_OUT \
                : "=&a"(ax)                                     \
                : [a] "q"((T)a), [b] "q"((T)b)                  \
                : "cc");                                        \
        break;
static void compare(Tcg *t, uint64_t a, uint64_t b, unsigned size)
{
    uint32_t ax;
    switch (size) {
        FOR_SIZES(COMPARE, 0)
    default:
        return;
    }
    t->cc = (uint16_t)ax;
}

static Fault cmps_once(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    gva_t lin;
    uint64_t a = 0, b = 0;
    int64_t step = step_of(s, size);
    Fault f = FAULT_NONE;
    /* AMD reads it first, but for REPE CMPSB. */
    bool second = t->amd && !(size == 1 && (i->flags & IF_REP));
    if (second) {
        f = string_lin(s, t, dst_seg(t), index_get(s, i, RDI), size, ACC_READ, &lin);
        if (!f)
            f = mem_read(s, t, lin, size, &b);
    }
    if (!f)
        f = string_lin(s, t, i->seg, index_get(s, i, RSI), size, ACC_READ, &lin);
    if (!f)
        f = mem_read(s, t, lin, size, &a);
    if (!f && !second) {
        f = string_lin(s, t, dst_seg(t), index_get(s, i, RDI), size, ACC_READ, &lin);
        if (!f)
            f = mem_read(s, t, lin, size, &b);
    }
    if (f)
        return f;
    compare(t, a, b, size);
    index_add(s, i, RSI, step);
    index_add(s, i, RDI, step);
    return FAULT_NONE;
}

static Fault scas_once(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    gva_t lin;
    uint64_t b;
    Fault f = string_lin(s, t, dst_seg(t), index_get(s, i, RDI), size, ACC_READ, &lin);
    if (!f)
        f = mem_read(s, t, lin, size, &b);
    if (f)
        return f;
    compare(t, rd_size(s, RAX, size), b, size);
    index_add(s, i, RDI, step_of(s, size));
    return FAULT_NONE;
}

static inline __attribute__((always_inline)) Fault rep_while(CpuState *s, Tcg *t, const Insn *i,
                                                             OnceFn *once)
{
    unsigned size = i->opsize;
    if (!is_rep(i))
        return once(s, t, i, size);
    uint64_t count = index_get(s, i, RCX);
    for (int64_t left = CHUNK_BYTES; count; left -= SLOW_COST) {
        if (left <= 0)
            return FAULT_AGAIN;
        Fault f = once(s, t, i, size);
        if (f)
            return f;
        wr_size(s, RCX, i->asize, --count);
        if (!(t->cc & CC_ZF) == !!(i->flags & IF_REP))
            break;
        if (count && t->one_iter)
            return FAULT_AGAIN;
    }
    return FAULT_NONE;
}
DEF_EXEC(cmps)
{
    return rep_while(s, t, i, cmps_once);
}
DEF_EXEC(scas)
{
    return rep_while(s, t, i, scas_once);
}
