/* IN, OUT, INS, OUTS: SDM vol. 1, 18.5, and vol. 2. */
#include "tcg/exec.h"
#include "tcg/sys.h"

Fault io_allowed(CpuState *s, Tcg *t, uint16_t port, unsigned size)
{
    enum { TSS_IOMAP = 102 };
    const Segment *tr = &s->seg[TR];
    uint64_t map, word;
    if (mode_real(s) || (t->cpl <= iopl(s) && !mode_vm86(s)))
        return FAULT_NONE;
    /* A 16-bit TSS has no map. */
    if (!(tr->attr & 8) || (tr->attr & SEG_UNUSABLE) || tr->limit < TSS_IOMAP + 1)
        return raise_gp0(t);
    Fault f = mem_read_mode(s, t, tr->base + TSS_IOMAP, 2, MMU_KERNEL, &map);
    if (f)
        return f;
    /* Two bytes are read, however few bits count: the last must be within the limit. */
    uint64_t at = map + port / 8;
    if (at + 1 > tr->limit)
        return raise_gp0(t);
    f = mem_read_mode(s, t, tr->base + at, 2, MMU_KERNEL, &word);
    if (!f && (word >> (port & 7) & ((1u << size) - 1)))
        f = raise_gp0(t);
    return f;
}

/* I/O breakpoints: DR7.R/W 10 with CR4.DE. A trap, after the instruction. */
static void watch_port(const CpuState *s, Tcg *t, uint16_t port, unsigned size)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    if (likely(!(s->dr7 & 0xff)) || !(s->cr4 & CR4_DE))
        return;
    for (unsigned k = 0; k < 4; k++) {
        if (!(s->dr7 >> (2 * k) & 3) || (s->dr7 >> (16 + 4 * k) & 3) != 2)
            continue;
        unsigned len = lengths[s->dr7 >> (18 + 4 * k) & 3];
        uint64_t at = s->dr[k] & ~(uint64_t)(len - 1);
        if (port < at + len && at < (uint64_t)port + size)
            t->trap_dr6 |= BIT(k);
    }
}

static unsigned io_size(const Insn *i)
{
    return MIN_OF(i->opsize, 4);
}

static uint32_t pio_read(Tcg *t, uint16_t port, unsigned size)
{
    vec_release(t);
    return t->v->vm->bus->pio_read(t->v, port, size);
}
static void pio_write(Tcg *t, uint16_t port, unsigned size, uint32_t v)
{
    vec_release(t);
    t->v->vm->bus->pio_write(t->v, port, size, v);
}

static Fault do_in(CpuState *s, Tcg *t, const Insn *i, uint16_t port)
{
    unsigned size = io_size(i);
    Fault f = io_allowed(s, t, port, size);
    if (f)
        return f;
    wr_size(s, RAX, size, pio_read(t, port, size) & size_mask(size));
    watch_port(s, t, port, size);
    return FAULT_STATE;
}

static Fault do_out(CpuState *s, Tcg *t, const Insn *i, uint16_t port)
{
    unsigned size = io_size(i);
    Fault f = io_allowed(s, t, port, size);
    if (f)
        return f;
    pio_write(t, port, size, (uint32_t)(s->gpr[RAX] & size_mask(size)));
    watch_port(s, t, port, size);
    return FAULT_STATE;
}

DEF_EXEC(in_imm)
{
    return do_in(s, t, i, (uint8_t)i->imm);
}

DEF_EXEC(in_dx)
{
    return do_in(s, t, i, (uint16_t)s->gpr[RDX]);
}

DEF_EXEC(out_imm)
{
    return do_out(s, t, i, (uint8_t)i->imm);
}

DEF_EXEC(out_dx)
{
    return do_out(s, t, i, (uint16_t)s->gpr[RDX]);
}

/* ---- strings ---- */

static void advance(CpuState *s, const Insn *i, unsigned reg, unsigned size)
{
    uint64_t step = s->rflags & FL_DF ? 0 - (uint64_t)size : size;
    wr_size(s, reg, i->asize, s->gpr[reg] + step);
}

/* The port is read once the destination is known to take it. */
static Fault ins_once(CpuState *s, Tcg *t, const Insn *i, uint16_t port, unsigned size)
{
    gva_t lin;
    Fault f = seg_lin(s, t, ES, rd_size(s, RDI, i->asize), size, ACC_WRITE, &lin);
    if (!f)
        f = mem_probe_write(s, t, lin, size);
    if (f)
        return f;
    f = mem_write(s, t, lin, size, pio_read(t, port, size));
    if (!f)
        advance(s, i, RDI, size);
    return f;
}

static Fault outs_once(CpuState *s, Tcg *t, const Insn *i, uint16_t port, unsigned size)
{
    gva_t lin;
    uint64_t v;
    Fault f = seg_lin(s, t, i->seg, rd_size(s, RSI, i->asize), size, ACC_READ, &lin);
    if (!f)
        f = mem_read(s, t, lin, size, &v);
    if (f)
        return f;
    pio_write(t, port, size, (uint32_t)v);
    advance(s, i, RSI, size);
    return FAULT_NONE;
}

typedef Fault OnceFn(CpuState *s, Tcg *t, const Insn *i, uint16_t port, unsigned size);

/* Every iteration is an instruction boundary: requests are looked at after each. */
static Fault repeat(CpuState *s, Tcg *t, const Insn *i, OnceFn *once)
{
    uint16_t port = (uint16_t)s->gpr[RDX];
    unsigned size = io_size(i);
    bool rep = i->flags & (IF_REP | IF_REPNE);
    Fault f = FAULT_NONE;
    f = io_allowed(s, t, port, size); /* also when there is nothing to be moved */
    if (!f && rep && !rd_size(s, RCX, i->asize))
        return FAULT_NONE;
    while (!f) {
        f = once(s, t, i, port, size);
        if (f)
            break;
        watch_port(s, t, port, size);
        if (!rep)
            return FAULT_STATE;
        wr_size(s, RCX, i->asize, s->gpr[RCX] - 1);
        if (!rd_size(s, RCX, i->asize))
            return FAULT_STATE;
        if (t->one_iter || t->trap_dr6 ||
            atomic_load_explicit(&t->v->request, memory_order_relaxed))
            return FAULT_AGAIN;
    }
    return f;
}

DEF_EXEC(ins)
{
    return repeat(s, t, i, ins_once);
}

DEF_EXEC(outs)
{
    return repeat(s, t, i, outs_once);
}
