/*
 * Addresses: where operands go, and registers that make them go there.
 *
 * A case may reach the pages of case.h and addresses at which no executor has anything: the rest of
 * the first 4 GiB but CASE_SYS, and what is not canonical. Everything else is the executors' own.
 */
#include <string.h>

#include "diff/gen.h"
#include "tcg/tcg.h"

#define TOP 0x800000000000ull /* of the canonical lower half */

bool gen_allowed(const Gen *g, uint64_t lin, uint64_t n)
{
    uint64_t last = lin + n - 1;
    if (!g->code64) {
        lin = (uint32_t)lin;
        last = lin + n - 1;
        if (last > 0xffffffff)
            return false;
    }
    if (last < lin)
        return false;
    if (last < CASE_SYS || (lin >= CASE_CODE && last < 0xfffff000))
        return true;
    /* Linux takes the last page of the lower half for one of its own. */
    return last >= TOP && lin >= TOP - 16 && last < ~TOP + 1;
}

static uint64_t aligned(Gen *g, uint64_t at, unsigned align)
{
    return align > 1 && !one_in(g, 8) ? at & ~(uint64_t)(align - 1) : at;
}

uint64_t gen_good_address(Gen *g, unsigned n, unsigned align)
{
    unsigned room = n < 0x1f00 ? 0x2000 - n : 0x100;
    uint64_t at = one_in(g, 4) ? CASE_DATA + 0x4000 + below(g, n < 0x1000 ? 0x1001 - n : 1)
                               : CASE_DATA + below(g, room + 1);
    return aligned(g, at, align);
}

/* An operand of n bytes that begins before `edge` and ends behind it, or touches it. */
static uint64_t across(Gen *g, uint64_t edge, unsigned n, unsigned align)
{
    if (align > 1 && n > align && !one_in(g, 4))
        return edge - align * (1 + below(g, (n - 1) / align));
    return edge - below(g, n + 1);
}

uint64_t gen_address(Gen *g, unsigned n, unsigned align)
{
    unsigned k = below(g, 100);
    if (n == 0)
        n = 1;
    if (k < 70)
        return gen_good_address(g, n, align);
    if (k < 77)
        return across(g, CASE_DATA + 0x1000, n, align);
    if (k < 80)
        return across(g, CASE_DATA + CASE_DATA_RO, n, align);
    if (k < 84)
        return aligned(g, CASE_DATA + CASE_DATA_RO + below(g, 0x1000 - (n < 0x1000 ? n : 0)),
                       align);
    if (k < 87)
        return aligned(g, CASE_DATA + CASE_DATA_GONE + below(g, 0x1000), align);
    if (k < 90)
        return across(g, CASE_DATA + CASE_DATA_GONE, n, align);
    if (k < 92)
        return across(g, CASE_DATA + CASE_DATA_GONE + 0x1000, n, align);
    if (k < 94)
        return across(g, CASE_DATA + CASE_DATA_BYTES, n, align);
    if (k < 95)
        return across(g, one_in(g, 2) ? CASE_STACK : CASE_STACK + CASE_STACK_BYTES, n, align);
    if (k < 96)
        return aligned(g, CASE_CODE + 0x1800 + below(g, 0x780), align);
    if (k < 97)
        return aligned(g, 0x10000 + below(g, 0x50000000), align);
    if (k < 98 || !g->code64)
        return aligned(g, CASE_STACK + below(g, CASE_STACK_BYTES - 64), align);
    if (k < 99 && n > 1 && n <= 8 && !(g->r->attr & (A_SSE | A_AVX | A_FPU | A_MMX)))
        return TOP - 1 - below(g, n - 1); /* into what is not canonical */
    return aligned(g, TOP + rnd(g) % (~TOP + 1 - TOP - 0x1000), align);
}

uint64_t gen_stack_address(Gen *g, unsigned pushed, unsigned popped)
{
    unsigned k = below(g, 32);
    uint64_t top = CASE_STACK + CASE_STACK_BYTES;
    if (k < 18)
        return CASE_STACK + 0x100 + (below(g, 0xc00) & ~7u);
    if (k < 22)
        return CASE_STACK + 0x100 + below(g, 0xc00);
    if (k < 25)
        return CASE_STACK + below(g, pushed + 9);
    if (k < 28)
        return top - below(g, popped + 9);
    return gen_address(g, 8, 8) + (one_in(g, 2) ? pushed : 0);
}

uint64_t gen_code_address(Gen *g)
{
    unsigned k = below(g, 32);
    if (k < 22)
        return CASE_CODE + 0x40 + below(g, CASE_CODE_BYTES - 0x40);
    if (k < 25)
        return CASE_CODE + CASE_CODE_BYTES - below(g, 3);
    if (k < 27)
        return CASE_DATA + below(g, CASE_DATA_BYTES);
    if (k < 29)
        return CASE_CODE + CASE_CODE_BYTES + below(g, 0x4000);
    if (k < 30 || !g->code64)
        return 0x10000 + below(g, 0x50000000);
    return k < 31 ? TOP - 8 + below(g, 16) : TOP + rnd(g) % (~TOP + 1 - TOP);
}

uint64_t gen_seg_base(const Gen *g, unsigned seg)
{
    if (g->code64 && seg != FS && seg != GS)
        return 0;
    return g->c->in.seg[seg].base;
}

static uint64_t cut(uint64_t v, unsigned asize)
{
    return asize == 8 ? v : asize == 4 ? (uint32_t)v : (uint16_t)v;
}

/* What addressing ignores of a register may be anything. */
static uint64_t with_garbage(Gen *g, uint64_t v, unsigned asize, bool garbage)
{
    unsigned width = g->code64 ? 8 : 4;
    v = cut(v, asize);
    if (asize < width && garbage && one_in(g, 2))
        v |= rnd(g) & ~cut(~0ull, asize);
    return cut(v, width);
}

void gen_point(Gen *g, unsigned reg, unsigned seg, uint64_t lin, unsigned asize)
{
    g->c->in.gpr[reg] = with_garbage(g, lin - gen_seg_base(g, seg), asize, reg != RSP);
    g->pinned |= 1u << reg;
}

uint8_t *gen_host(Gen *g, uint64_t lin, unsigned n)
{
    DiffCase *c = g->c;
    if (lin >= CASE_DATA && lin + n <= CASE_DATA + CASE_DATA_BYTES && lin + n > lin)
        return c->data + (lin - CASE_DATA);
    if (lin >= CASE_STACK && lin + n <= CASE_STACK + CASE_STACK_BYTES && lin + n > lin)
        return c->stack + (lin - CASE_STACK);
    return NULL;
}

void gen_poke(Gen *g, uint64_t lin, const void *what, unsigned n)
{
    const uint8_t *b = what;
    for (unsigned k = 0; k < n; k++) {
        uint8_t *p = gen_host(g, lin + k, 1);
        bool gone = lin + k - CASE_DATA - CASE_DATA_GONE < 0x1000;
        if (p && !gone)
            *p = b[k];
    }
}

/* ---- solving base + index * scale + displacement = offset ---- */

static void put_disp(Gen *g, uint64_t v)
{
    memcpy(g->c->insn + g->disp_at, &v, g->disp_size);
    gen_decode(g);
}

static bool disp_holds(const Gen *g, uint64_t v, unsigned asize)
{
    return g->disp_size == asize || g->disp_size == 4 ? asize <= 4 || (uint64_t)(int32_t)v == v
                                                      : false;
}

static bool is_register(const Gen *g, unsigned reg)
{
    return reg < 16 && !(g->pinned & 1u << reg);
}

static bool solve_same(Gen *g, uint64_t off)
{
    const Insn *i = &g->i;
    uint64_t rest = off - (uint64_t)i->disp, factor = 1 + (1ull << i->scale);
    if (factor == 2) {
        if (rest & 1) /* one byte further on is as good */
            rest++;
        rest >>= 1;
    } else { /* odd: has an inverse */
        uint64_t inverse = factor;
        for (unsigned k = 0; k < 6; k++)
            inverse *= 2 - factor * inverse;
        rest *= inverse;
    }
    g->c->in.gpr[i->base] = with_garbage(g, rest, i->asize, i->base != RSP);
    return true;
}

bool gen_solve(Gen *g)
{
    CpuState *s = &g->c->in;
    const Insn *i = &g->i;
    uint64_t off = cut(g->target - gen_seg_base(g, i->seg), i->asize);
    if (row_has_class(g->r, OC_MOFFS)) {
        gen_put_imm(g, 0, off, i->asize);
        return true;
    }
    uint64_t base = i->base == GPR_IP ? s->rip : i->base < 16 ? s->gpr[i->base] : 0;
    uint64_t index = i->index < 16 ? s->gpr[i->index] << i->scale : 0;
    uint64_t disp = (uint64_t)i->disp;
    if (is_register(g, i->base) && i->base != i->index) {
        s->gpr[i->base] = with_garbage(g, off - index - disp, i->asize, i->base != RSP);
        g->pinned |= 1u << i->base;
        return true;
    }
    if (is_register(g, i->base)) {
        g->pinned |= 1u << i->base;
        return solve_same(g, off);
    }
    if (is_register(g, i->index)) {
        uint64_t rest = off - base - disp, mask = (1ull << i->scale) - 1;
        if ((rest & mask) && g->disp_size)
            put_disp(g, disp + (rest & mask));
        s->gpr[i->index] = with_garbage(g, rest >> i->scale, i->asize, true);
        if (i->scale && i->asize == 8)
            s->gpr[i->index] |= rnd(g) << (64 - i->scale);
        g->pinned |= 1u << i->index;
        return true;
    }
    uint64_t want = off - base - index - (i->base == GPR_IP ? i->len : 0);
    if (g->disp_size < 2 ||
        !disp_holds(g, cut(want, i->asize == 4 && g->code64 ? 4 : i->asize), i->asize))
        return false;
    put_disp(g, want);
    return true;
}
