/*
 * EVEX-encoded instructions (AVX-512). They run as themselves in thunks (vec.h); what is done here
 * is the memory operand, of which only the elements that the mask selects are accessed, and gathers
 * and scatters, whose elements reach memory one by one.
 */
#include "tcg/exec.h"
#include "tcg/vec.h"

static uint64_t low_bits(unsigned n)
{
    return n < 64 ? BIT(n) - 1 : ~0ull;
}

static uint64_t *mask_of(CpuState *s, const Insn *i)
{
    return &s->fpu.k[i->evex & EVEX_AAA];
}

/* The elements of the memory operand that are accessed: bit n for element n. */
static uint64_t accessed(CpuState *s, const Insn *i, const VecThunk *th)
{
    const EvexRow *e = &op_rows[i->row].evex;
    unsigned n = e->element ? th->mem_size / e->element : 1; /* of the operand */
    uint64_t all = low_bits(n), mask = i->evex & EVEX_AAA ? *mask_of(s, i) : ~0ull, out = 0;
    if (!(i->evex & EVEX_AAA) || (!e->suppress && th->mem == VM_READ))
        return all;
    if (!(i->evex & EVEX_B) && !(e->flags & (EV_BCST | EV_PACK)))
        return mask & all;
    unsigned length = 16u << i->vexl, m = (e->tuple == TT_HV ? length / 2 : length) / e->element;
    mask &= low_bits(m); /* of the vector */
    if (e->flags & EV_PACK)
        return low_bits((unsigned)__builtin_popcountll(mask));
    for (; mask; mask >>= n)
        out |= mask & all;
    return out;
}

/* What is done to each of them. */
enum PieceAct { PIECE_READ, PIECE_PROBE, PIECE_WRITE };

static Fault pieces(CpuState *s, Tcg *t, const Insn *i, uint64_t elements, enum PieceAct act)
{
    unsigned size = op_rows[i->row].evex.element;
    uint64_t at = ea_offset(s, i);
    enum Access a = act == PIECE_READ ? ACC_READ : ACC_WRITE;
    for (; elements; elements &= elements - 1) {
        unsigned off = (unsigned)__builtin_ctzll(elements) * size;
        uint8_t *buf = t->vec->buf + off;
        gva_t lin;
        Fault f = vec_offset_lin(s, t, i, at + off, size, a, &lin);
        if (!f)
            f = act == PIECE_READ    ? mem_read_operand(s, t, lin, buf, size, size)
                : act == PIECE_PROBE ? mem_probe_operand(s, t, lin, size, size, ACC_WRITE)
                                     : mem_write_operand(s, t, lin, buf, size, size);
        if (f)
            return f;
    }
    return FAULT_NONE;
}

/* Is each element accessed by itself? Where a mask keeps some from being accessed, and when what is
 * stored is packed. */
static bool by_element(const Insn *i, const VecThunk *th)
{
    const EvexRow *e = &op_rows[i->row].evex;
    return ((i->evex & EVEX_AAA) && e->suppress) || ((e->flags & EV_PACK) && th->mem == VM_WRITE);
}

/* AMD's processors store 64 bytes in two halves: what the first one meets comes before what was
 * found of the whole, which has not reached memory. */
static Fault first_half(CpuState *s, Tcg *t, const Insn *i, const VecThunk *th, Fault f)
{
    PendingExc whole = t->exc;
    gva_t lin;
    if (th->mem_size != 64 || vec_ea(s, t, i, 0, 32, ACC_WRITE, &lin) ||
        !mem_probe_operand(s, t, lin, 32, 16, ACC_WRITE))
        t->exc = whole;
    return f;
}

/*
 * The memory operand before the instruction: *host is where the thunk finds it. Without a mask, or
 * where it keeps nothing from being accessed, the operand is one; else each element is by itself,
 * as are those that are packed.
 */
static Fault memory_before(CpuState *s, Tcg *t, const Insn *i, const VecThunk *th,
                           uint64_t elements, gva_t *lin, void **host)
{
    uint8_t *buf = t->vec->buf;
    bool write = th->mem == VM_WRITE;
    unsigned align = operand_align(t, th->mem_size);
    *host = buf;
    if (!by_element(i, th)) {
        Fault f = vec_ea(s, t, i, th->attr, th->mem_size, write ? ACC_WRITE : ACC_READ, lin);
        if (f)
            return write && t->amd && !(th->attr & A_ALIGN16) ? first_half(s, t, i, th, f) : f;
        /* Before the numbers are looked at, or when not all will be written. */
        if (write)
            return (th->attr & A_FP) || (i->evex & EVEX_AAA)
                       ? mem_probe_operand(s, t, *lin, th->mem_size, align, ACC_WRITE)
                       : FAULT_NONE;
        void *p = tlb_hit(t, t->mmu_mode, *lin, th->mem_size, ACC_READ);
        if (likely(p != NULL))
            *host = p;
        return p ? FAULT_NONE : mem_read_operand(s, t, *lin, buf, th->mem_size, align);
    }
    gva_t at = ea_offset(s, i) + s->seg[i->seg].base;
    if (elements && (th->attr & A_ALIGN16) && (at & (th->mem_size - 1u)))
        return raise_gp0(t);
    if (write)
        return pieces(s, t, i, elements, PIECE_PROBE);
    if ((i->flags & IF_FLAT) && !t->align_check) {
        ea_lin(s, t, i, th->mem_size, ACC_READ, lin);
        void *p = tlb_hit(t, t->mmu_mode, *lin, th->mem_size, ACC_READ);
        if (likely(p != NULL)) {
            *host = p;
            return FAULT_NONE;
        }
    }
    memset(buf, 0, th->mem_size);
    return pieces(s, t, i, elements, PIECE_READ);
}

static Fault evex_fn(CpuState *s, Tcg *t, const Insn *i)
{
    const VecThunk *th = i->aux;
    gva_t lin = 0;
    uint64_t elements = 0;
    bool waits;
    Fault f = vec_check(s, t, th->attr);
    if (unlikely(f))
        return f;
    t->zmm_clean = false;
    VecSlots p = {
        .reg = (uint8_t *)s + th->reg_base + ((size_t)i->reg << th->reg_shift),
        .rm = (uint8_t *)s + th->rm_base + ((size_t)i->rm << th->rm_shift),
        .vvvv = &s->fpu.v[i->vvvv],
        .is4 = mask_of(s, i),
    };
    if (th->mem != VM_NONE) {
        elements = accessed(s, i, th);
        f = memory_before(s, t, i, th, elements, &lin, &p.rm);
        if (unlikely(f))
            return f;
    }
    f = vec_run(s, t, i, th, &p, &waits);
    if (unlikely(f))
        return f;
    if (th->mem == VM_WRITE)
        f = (i->evex & EVEX_AAA) || by_element(i, th)
                ? pieces(s, t, i, elements, PIECE_WRITE)
                : mem_write_operand(s, t, lin, t->vec->buf, th->mem_size,
                                    operand_align(t, th->mem_size));
    if (!f)
        vec_commit(s, t, i, th, &p, waits);
    return f;
}
const ExecSet exec_evex = EXEC_ONE(evex_fn);

/* ---- gathers and scatters ---- */

static Fault vsib_ud(CpuState *s, Tcg *t, const Insn *i)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    return f ? f : raise_ud(t);
}

/* As vgather_prepare(). The number of the index register goes to vvvv, which these do not have. */
void egather_prepare(Insn *i, const uint8_t *bytes)
{
    if ((i->modrm & 7) != 4 || i->asize == 2) {
        i->exec = vsib_ud;
        return;
    }
    unsigned index = i->index == GPR_ZERO ? 4 : i->index;
    if ((i->flags & IF_CODE64) && !(i->evex & 8))
        index += 16;
    i->vvvv = (uint8_t)index;
    i->index = GPR_ZERO;
    i->scale = bytes[i->op_at + 2] >> 6;
    if (op_rows[i->row].exec == &exec_egather && i->reg == index)
        i->exec = vsib_ud;
}

/* Each element done clears its bit of the mask, so that a fault in the middle leaves work that can
 * go on (SDM vol. 2, VGATHERDPS). Scatters write from the first element to the last. */
static Fault vsib(CpuState *s, Tcg *t, const Insn *i, bool gather)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (f)
        return f;
    unsigned index_size = op_rows[i->row].opcode & 1 ? 8 : 4, size = i->rexw ? 8 : 4;
    unsigned n = (16u << i->vexl) / MAX_OF(index_size, size);
    VecReg *reg = &s->fpu.v[i->reg];
    const VecReg *index = &s->fpu.v[i->vvvv];
    uint64_t base = s->gpr[i->base] + (uint64_t)i->disp, *mask = mask_of(s, i);
    t->zmm_clean = false;
    bool begun = false;

    for (unsigned k = 0; k < n; k++) {
        if (!(*mask >> k & 1))
            continue;
        int64_t x = index_size == 8 ? (int64_t)index->q[k] : (int32_t)index->d[k];
        uint64_t v = 0;
        gva_t lin;
        f = vec_element_lin(s, t, i, base + ((uint64_t)x << i->scale), size,
                            gather ? ACC_READ : ACC_WRITE, &lin);
        if (!f && gather)
            f = mem_read_bytes(s, t, lin, &v, size);
        if (!f && gather)
            memcpy(reg->b + k * size, &v, size);
        if (!f && !gather)
            f = mem_write_bytes(s, t, lin, reg->b + k * size, size);
        if (f)
            break;
        *mask &= ~BIT(k);
        begun = true;
    }
    /* What is above the vector's length is cleared with the first element. */
    unsigned clear = f ? 16u << i->vexl : n * size;
    if (gather && (begun || !f))
        memset(reg->b + clear, 0, sizeof(reg->b) - clear);
    /* What came before is a boundary: a trap that waits there goes first. */
    if (f)
        return begun && t->one_iter ? FAULT_AGAIN : f;
    *mask = 0;
    return FAULT_NONE;
}
DEF_EXEC(egather)
{
    return vsib(s, t, i, true);
}
DEF_EXEC(escatter)
{
    return vsib(s, t, i, false);
}
