/* What rows need besides random registers: where implicit operands are, and what lies there. */
#include <string.h>

#include "cpu/xsave.h"
#include "diff/gen.h"

#define S(g) (&(g)->c->in)

static unsigned opsize(const Gen *g)
{
    return g->i.opsize;
}

/* ---- arithmetic ---- */

/* A dividend that the divisor mostly does not overflow. */
static void divide(Gen *g)
{
    CpuState *s = S(g);
    switch (below(g, 4)) {
    case 0:
        s->gpr[RDX] = 0;
        break;
    case 1: /* sign extended */
        s->gpr[RDX] = (int64_t)s->gpr[RAX] < 0 ? ~0ull : 0;
        break;
    case 2:
        s->gpr[RDX] = below(g, 100);
        s->gpr[RAX] = one_in(g, 2) ? rnd(g) & 0xffff : (uint16_t)gen_value(g);
        break;
    default:
        break;
    }
    if (!g->code64) {
        s->gpr[RDX] = (uint32_t)s->gpr[RDX];
        s->gpr[RAX] = (uint32_t)s->gpr[RAX];
    }
}

static void small_count(Gen *g)
{
    CpuState *s = S(g);
    if (one_in(g, 2))
        s->gpr[RCX] = (s->gpr[RCX] & ~0xffull) | below(g, one_in(g, 2) ? 66 : 10);
}

/* Few turns, or many, or where it wraps. */
static void loop_count(Gen *g)
{
    CpuState *s = S(g);
    if (!one_in(g, 3))
        s->gpr[RCX] = (g->i.asize == 2 ? s->gpr[RCX] & 0xffff0000 : 0) | below(g, 3);
    if (one_in(g, 6) && g->code64)
        s->gpr[RCX] = (uint64_t)below(g, 3) << 32 | below(g, 3);
}

/* Bit offsets in a register reach far from the operand. */
static void bit_offset(Gen *g)
{
    CpuState *s = S(g);
    unsigned bits = opsize(g) * 8;
    if (!(g->i.flags & IF_MEM) || !row_has_class(g->r, OC_REG))
        return;
    int64_t offset = (int64_t)below(g, 60000) - 30000;
    if (one_in(g, 16))
        offset *= 50;
    uint64_t v = (uint64_t)offset;
    if (bits == 16)
        v = (s->gpr[g->i.reg] & ~0xffffull) | (uint16_t)offset;
    s->gpr[g->i.reg] = g->code64 ? v : (uint32_t)v;
    g->pinned |= 1u << g->i.reg;
    if (bits == 16)
        offset = (int16_t)offset;
    g->target = gen_address(g, opsize(g), opsize(g));
    g->target -= (uint64_t)((offset >> (bits == 16 ? 4 : bits == 32 ? 5 : 6)) * (bits / 8));
    g->has_target = true;
}

/* The comparison succeeds half the time. */
static void exchange(Gen *g)
{
    CpuState *s = S(g);
    if (g->r->map == MAP_0F && g->r->opcode == 0xc7)
        return;
    if (!(g->i.flags & IF_MEM) && one_in(g, 2) && opsize(g) > 1)
        s->gpr[RAX] = s->gpr[g->i.rm];
}

static void exchange_memory(Gen *g)
{
    CpuState *s = S(g);
    bool pair = g->r->map == MAP_0F && g->r->opcode == 0xc7;
    unsigned n = pair ? (g->i.rexw ? 16 : 8) : opsize(g);
    uint64_t v[2] = {s->gpr[RAX], s->gpr[RDX]};
    if (!(g->i.flags & IF_MEM) || !one_in(g, 2))
        return;
    if (pair && n == 8)
        v[0] = (uint32_t)s->gpr[RAX] | s->gpr[RDX] << 32;
    gen_poke(g, g->target, v, n);
}

static void bound_memory(Gen *g)
{
    int32_t at = (int32_t)S(g)->gpr[g->i.reg];
    int32_t v[2] = {at - (int)below(g, 4) + 1, at + (int)below(g, 4) - 1};
    int16_t w[2] = {(int16_t)v[0], (int16_t)v[1]};
    if (one_in(g, 4))
        return;
    if (opsize(g) == 2)
        gen_poke(g, g->target, w, 4);
    else
        gen_poke(g, g->target, v, 8);
}

/* ---- strings ---- */
static void string(Gen *g)
{
    CpuState *s = S(g);
    const OpRow *r = g->r;
    unsigned n = opsize(g), asize = g->i.asize, count = below(g, 20);
    bool x = false, y = false;
    for (unsigned k = 0; k < 4; k++) {
        x |= r->op[k] == O_Xb || r->op[k] == O_Xv;
        y |= r->op[k] == O_Yb || r->op[k] == O_Yv;
    }
    if (r->map == MAP_1B && (r->opcode & ~1) == 0xaa) /* stos, scas, lods have one each */
        y = true;
    if (one_in(g, 4))
        count = below(g, one_in(g, 16) ? 5000 : 300);
    if (one_in(g, 3))
        s->rflags ^= FL_DF;
    bool down = s->rflags & FL_DF;
    uint64_t from = gen_address(g, n, n), to = gen_address(g, n, n);
    if (one_in(g, 4)) /* overlapping */
        to = from + below(g, 40) - 20;
    /* Towards the page that is not there, or the read-only one. */
    if (one_in(g, 3)) {
        uint64_t edge = CASE_DATA + (one_in(g, 2) ? CASE_DATA_RO : CASE_DATA_GONE);
        uint64_t at = down ? edge + 0x1000 + n * below(g, 30) : edge - n * (1 + below(g, 30));
        if (one_in(g, 2))
            from = at;
        else
            to = at;
    }
    if (x)
        gen_point(g, RSI, g->i.dseg < 6 && !(g->code64 && g->i.dseg < FS) ? g->i.dseg : DS, from,
                  asize);
    if (y)
        gen_point(g, RDI, ES, to, asize);
    if (g->i.flags & (IF_REP | IF_REPNE)) {
        uint64_t v = count;
        if (asize == 2)
            v |= s->gpr[RCX] & ~0xffffull;
        if (asize == 4 && g->code64 && one_in(g, 2))
            v |= rnd(g) << 32;
        s->gpr[RCX] = g->code64 ? v : (uint32_t)v;
    }
    /* Equal runs for CMPS and SCAS. */
    if (r->opcode == 0xa6 || r->opcode == 0xa7 || r->opcode == 0xae || r->opcode == 0xaf) {
        uint8_t same[256];
        memset(same, one_in(g, 2) ? 0 : (int)(s->gpr[RAX] & 0xff), sizeof(same));
        unsigned len = below(g, sizeof(same));
        if (one_in(g, 2)) {
            gen_poke(g, down ? from - len : from, same, len);
            gen_poke(g, down ? to - len : to, same, len);
        }
        if (one_in(g, 2))
            s->gpr[RAX] = same[0] * 0x0101010101010101ull;
        if (!g->code64)
            s->gpr[RAX] = (uint32_t)s->gpr[RAX];
    }
}

static void xlat(Gen *g)
{
    uint64_t at = gen_address(g, 1, 1);
    unsigned seg = g->i.dseg < 6 && !(g->code64 && g->i.dseg < FS) ? g->i.dseg : DS;
    gen_point(g, RBX, seg, at - (S(g)->gpr[RAX] & 0xff), g->i.asize);
}

/* ---- stack ---- */
static unsigned stack_bits(const Gen *g)
{
    return g->code64 ? 8 : S(g)->seg[SS].attr & SEG_DB ? 4 : 2;
}

static void stack_at(Gen *g, unsigned reg, uint64_t lin)
{
    gen_point(g, reg, SS, lin, stack_bits(g));
}

static void stack(Gen *g)
{
    stack_at(g, RSP, gen_stack_address(g, 8, 8));
}

static void big_stack(Gen *g)
{
    stack_at(g, RSP, gen_stack_address(g, 40, 40));
}

static uint64_t stack_top(const Gen *g)
{
    uint64_t sp = S(g)->gpr[RSP];
    unsigned bits = stack_bits(g);
    return (bits == 8 ? sp : bits == 4 ? (uint32_t)sp : (uint16_t)sp) + gen_seg_base(g, SS);
}

static void frame(Gen *g)
{
    stack_at(g, RSP, gen_stack_address(g, 300, 8));
    stack_at(g, RBP, gen_stack_address(g, 280, 8));
    if (g->r->opcode == 0xc8) { /* ENTER: size, level */
        gen_put_imm(g, 0, one_in(g, 2) ? below(g, 64) : rnd(g), 2);
        gen_put_imm(g, 2, one_in(g, 2) ? below(g, 3) : rnd(g), 1);
    }
}

/* ---- branches ---- */

/* A branch target as the instruction pointer has it. What lands in the instruction itself does not
 * end by INT3. */
static uint64_t target_ip(Gen *g)
{
    uint64_t lin = gen_code_address(g), at = case_linear_rip(g->c);
    if (lin >= at && lin < at + g->c->len)
        g->c->stop = STOP_STEP;
    uint64_t ip = lin - gen_seg_base(g, CS);
    return g->code64 ? ip : S(g)->seg[CS].attr & SEG_DB ? (uint32_t)ip : (uint16_t)ip;
}

static void relative(Gen *g)
{
    CpuState *s = S(g);
    bool byte = row_has_class(g->r, OC_REL);
    unsigned n = byte ? 1 : g->i.opsize == 2 ? 2 : 4;
    uint64_t next = s->rip + g->c->len, to = target_ip(g);
    if (byte || one_in(g, 3))
        to = next + (byte ? (uint64_t)(int8_t)rnd(g) : (uint64_t)below(g, 0x200) - 0x80);
    uint64_t lin = to + gen_seg_base(g, CS), at = case_linear_rip(g->c);
    if (lin >= at && lin < at + g->c->len)
        g->c->stop = STOP_STEP;
    if (g->code64 && (int64_t)(to - next) != (int32_t)(to - next))
        to = CASE_CODE + 0x800;
    gen_put_imm(g, 0, to - next, n);
    if (g->r->opcode == 0xe8)
        stack(g);
    if (g->r->map == MAP_1B && g->r->opcode >= 0xe0 && g->r->opcode <= 0xe3)
        loop_count(g);
}

static void indirect(Gen *g)
{
    if ((g->r->modrm & 7) == 2)
        stack(g);
    if (!(g->i.flags & IF_MEM)) {
        if (g->i.rm == RSP)
            return;
        S(g)->gpr[g->i.rm] = target_ip(g);
        g->pinned |= 1u << g->i.rm;
    }
}

static void indirect_memory(Gen *g)
{
    uint64_t to = target_ip(g);
    if (g->i.flags & IF_MEM)
        gen_poke(g, g->target, &to, opsize(g));
    else if (g->i.rm == RSP && gen_allowed(g, S(g)->gpr[RSP], 16))
        g->c->stop = STOP_STEP; /* a jump to the stack */
}

static void ret_memory(Gen *g)
{
    uint64_t to = target_ip(g);
    gen_poke(g, stack_top(g), &to, g->code64 ? 8 : opsize(g));
}

/* Selectors that mean the same everywhere: none, the process's own, the kernel's, beyond the
 * tables. */
static uint16_t selector(Gen *g, bool code)
{
    static const uint16_t user[] = {0x33, 0x23, 0x2b, 0x07, 0x0f, 0x17},
                          other[] = {0,    1,      2,      3,      0x10, 0x13, 0x08,
                                     0x18, 0x1b,   0x30,   0x20,   0x28, 0x04, 0x1c,
                                     0x1f, 0xfff8, 0xfffc, 0xffff, 0xe3},
                          system[] = {0x60, 0x63, 0x68, 0x6b, 0x70, 0x73, 0x78, 0x7b, 0x80, 0x83,
                                      0x88, 0x90, 0x98, 0xa0, 0xa3, 0xb0, 0xc0, 0x40, 0x50};
    if (S(g)->cpl == 0 && one_in(g, 2))
        return system[below(g, ARRAY_LEN(system))];
    if (one_in(g, 4))
        return other[below(g, ARRAY_LEN(other))];
    if (code && g->code64 && !one_in(g, 4))
        return 0x33;
    return user[below(g, ARRAY_LEN(user))];
}

static void iret_memory(Gen *g)
{
    uint64_t flags =
        (rnd(g) & (FL_ARITH | FL_DF | FL_AC | FL_ID | FL_NT | FL_RF | FL_IOPL)) | FL_FIXED | FL_IF;
    uint64_t v[5] = {target_ip(g), selector(g, true), flags, gen_stack_address(g, 8, 8), 0x2b};
    unsigned n = opsize(g);
    if (one_in(g, 4))
        v[2] = rnd(g) & ~(uint64_t)FL_VM;
    if (one_in(g, 4))
        v[4] = selector(g, false);
    for (unsigned k = 0; k < 5; k++)
        gen_poke(g, stack_top(g) + k * n, &v[k], n);
    g->c->stop = STOP_THROUGH;
}

static void retf_memory(Gen *g)
{
    uint64_t v[4] = {target_ip(g), selector(g, true), gen_stack_address(g, 8, 8), 0x2b};
    unsigned n = opsize(g);
    for (unsigned k = 0; k < 4; k++)
        gen_poke(g, stack_top(g) + k * n, &v[k], n);
}

static void far_imm(Gen *g)
{
    unsigned n = opsize(g) == 2 ? 2 : 4;
    big_stack(g);
    gen_put_imm(g, 0, target_ip(g), n);
    gen_put_imm(g, n, selector(g, true), 2);
}

static void far_memory(Gen *g)
{
    uint64_t to = target_ip(g);
    uint16_t sel = selector(g, true);
    gen_poke(g, g->target, &to, opsize(g));
    gen_poke(g, g->target + opsize(g), &sel, 2);
    if (opsize(g) == 8) /* where the operand size is 4 all the same */
        gen_poke(g, g->target + 4, &sel, 2);
}

static void popf_memory(Gen *g)
{
    uint64_t v = rnd(g);
    if (one_in(g, 2))
        v &= 0x250fff;
    gen_poke(g, stack_top(g), &v, opsize(g));
}

/* ---- selectors ---- */
static void selector_operand(Gen *g)
{
    if (g->i.flags & IF_MEM)
        return;
    uint64_t *r = &S(g)->gpr[g->i.rm];
    if (g->i.rm == RSP)
        return;
    *r = (*r & ~0xffffull) | selector(g, false);
    g->pinned |= 1u << g->i.rm;
}

static void selector_memory(Gen *g)
{
    uint16_t sel = selector(g, false);
    if (g->i.flags & IF_MEM)
        gen_poke(g, g->target, &sel, 2);
    if (g->i.rm == RSP && !(g->i.flags & IF_MEM))
        S(g)->gpr[RSP] = (S(g)->gpr[RSP] & ~0xffffull) | sel;
    if (g->r->map == MAP_1B && g->r->opcode == 0x8e && g->i.reg == SS)
        g->c->stop = STOP_THROUGH;
}

static void far_pointer_memory(Gen *g)
{
    uint16_t sel = selector(g, false);
    gen_poke(g, g->target + opsize(g), &sel, 2);
    if (opsize(g) == 8)
        gen_poke(g, g->target + 4, &sel, 2);
}

static void pop_seg_memory(Gen *g)
{
    uint16_t sel = selector(g, false);
    gen_poke(g, stack_top(g), &sel, 2);
}

/* ---- vectors ---- */
static void masked_store(Gen *g) /* [RDI] */
{
    unsigned n = g->r->attr & A_MMX ? 8 : 16;
    unsigned seg = g->i.dseg < 6 && !(g->code64 && g->i.dseg < FS) ? g->i.dseg : DS;
    gen_point(g, RDI, seg, gen_address(g, n, 1), g->i.asize);
}

static void masked_lanes(Gen *g)
{
    VecReg *mask = &S(g)->fpu.v[g->i.vvvv & 15];
    uint64_t v = rnd(g);
    for (unsigned k = 0; k < 8; k++)
        mask->d[k] = (mask->d[k] & 0x7fffffff) | (v >> k & 1 ? 0x80000000u : 0);
    if (one_in(g, 8))
        memset(mask->b, 0, 32);
    /* Lanes on both sides of the end of a page. */
    if (one_in(g, 2)) {
        static const uint16_t edge[] = {0x1000, CASE_DATA_RO, CASE_DATA_GONE, 0x4000, 0x5000};
        g->target = CASE_DATA + edge[below(g, ARRAY_LEN(edge))] - below(g, 33);
        g->has_target = true;
    }
}

/* Addresses for the lanes of a gather's index register, one in `wild` of them anywhere, and the
 * base to them. */
static void gather_lanes(Gen *g, unsigned index, unsigned bytes, unsigned scale, uint32_t wild)
{
    CpuState *s = S(g);
    const Insn *i = &g->i;
    unsigned lane = g->r->opcode & 1 ? 8 : 4;
    uint64_t middle = CASE_DATA + 0x2000;
    for (unsigned k = 0; k < bytes / lane; k++) {
        uint64_t to = one_in(g, wild) ? gen_address(g, 8, 8) : gen_good_address(g, 8, 4);
        if (!gen_allowed(g, to, 8) || to >= 0x80000000)
            to = CASE_DATA + CASE_DATA_GONE;
        int64_t v = (int64_t)(to - middle) >> scale;
        if (lane == 8)
            s->fpu.v[index].q[k] = (uint64_t)v;
        else
            s->fpu.v[index].d[k] = (uint32_t)v;
    }
    if (one_in(g, 2) && i->base < 16) {
        s->gpr[i->base] = middle - (uint64_t)i->disp - gen_seg_base(g, i->seg);
        if (i->asize == 4 || !g->code64)
            s->gpr[i->base] = (uint32_t)s->gpr[i->base];
        g->pinned |= 1u << i->base;
        return;
    }
    g->target = middle;
    g->has_target = true;
}

/* VSIB: each lane of the index leads where it should; those that are masked may lead anywhere. */
static void gather(Gen *g)
{
    const Insn *i = &g->i;
    if (!(i->flags & IF_MEM) || g->c->insn[i->op_at + 1] >= 0xc0 ||
        (g->c->insn[i->op_at + 1] & 7) != 4)
        return;
    unsigned sib = g->c->insn[i->op_at + 2], scale = sib >> 6;
    unsigned index = i->index == GPR_ZERO ? 4 : i->index;
    masked_lanes(g);
    g->has_target = false;
    gather_lanes(g, index, 32, scale, 3);
}

/* The same with a mask register; sib's index may be one of 32. */
static void egather(Gen *g)
{
    const Insn *i = &g->i;
    unsigned sib_at = i->op_at + 2u;
    if (!(i->flags & IF_MEM) || (g->c->insn[i->op_at + 1] & 7) != 4)
        return;
    unsigned scale = g->c->insn[sib_at] >> 6;
    unsigned index =
        (i->index == GPR_ZERO ? 4u : i->index) + (g->code64 && !(i->evex & 8) ? 16 : 0);
    gather_lanes(g, index, 64, scale, 5);
}

static void string_lengths(Gen *g)
{
    CpuState *s = S(g);
    s->gpr[RAX] = (uint64_t)(int64_t)((int)below(g, 40) - 20);
    s->gpr[RDX] = (uint64_t)(int64_t)((int)below(g, 40) - 20);
    if (!g->code64) {
        s->gpr[RAX] = (uint32_t)s->gpr[RAX];
        s->gpr[RDX] = (uint32_t)s->gpr[RDX];
    }
}

/* ---- state in memory ---- */
enum { XSAVE_AREA = 2688 }; /* up to Hi16_ZMM, with Intel's offsets */

static void mxcsr_memory(Gen *g)
{
    uint32_t v = (uint32_t)rnd(g) & (one_in(g, 4) ? ~0u : 0xffff);
    if (g->i.flags & IF_MEM && (g->r->modrm & 7) == 2)
        gen_poke(g, g->target, &v, 4);
}

static void number_memory(Gen *g) /* 80 bits: a number, or decimal digits */
{
    FpReg st = gen_st(g);
    if (g->r->op[0] != O_Mt || one_in(g, 4))
        return;
    if (!strcmp(g->r->name, "fbld"))
        for (unsigned k = 0; k < 9; k++)
            st.b[k] = (uint8_t)(below(g, 10) << 4 | below(g, 10));
    gen_poke(g, g->target, st.b, 10);
}

/* An FXSAVE image of another state, with something wrong now and then. */
static void draw_image(Gen *g, uint8_t *image)
{
    FpuState f = S(g)->fpu;
    for (unsigned k = 0; k < 8; k++)
        f.r[k] = gen_st(g);
    for (unsigned k = 0; k < 16; k++)
        f.v[k].q[k & 1] = gen_lane(g);
    f.fcw = (uint16_t)rnd(g);
    f.fsw = (uint16_t)rnd(g);
    f.ftw = (uint8_t)rnd(g);
    f.fip = rnd(g) >> 16;
    f.fdp = rnd(g) >> 16;
    f.mxcsr = (uint32_t)rnd(g) & (one_in(g, 8) ? ~0u : 0xffff);
    fpu_to_fxsave(&f, image, true);
    memcpy(image + 24, &f.mxcsr, 4);
}

static void fxrstor_memory(Gen *g)
{
    uint8_t image[512];
    if ((g->r->modrm & 7) != 1)
        return;
    draw_image(g, image);
    gen_poke(g, g->target, image, sizeof(image));
}

static void environment_memory(Gen *g)
{
    uint8_t image[108];
    for (unsigned k = 0; k < sizeof(image); k++)
        image[k] = (uint8_t)rnd(g);
    if (one_in(g, 4))
        return;
    image[0] |= 0x3f; /* all masked */
    gen_poke(g, g->target, image, sizeof(image));
}

/* Of the components that the guest has, some. */
static uint64_t draw_components(Gen *g)
{
    return rnd(g) & cpuid_xcr0_mask(case_cpuid());
}

static void xsave_mask(Gen *g)
{
    CpuState *s = S(g);
    s->gpr[RAX] = one_in(g, 8) ? cpuid_xcr0_mask(case_cpuid()) : draw_components(g);
    s->gpr[RDX] = one_in(g, 2) ? 0 : rnd(g) & 0xffff0000;
    g->pinned |= 1u << RAX | 1u << RDX;
}

static void xrstor_memory(Gen *g)
{
    uint8_t image[XSAVE_AREA];
    memset(image, 0, sizeof(image));
    draw_image(g, image);
    uint64_t header[8] = {draw_components(g)};
    if (one_in(g, 16))
        header[below(g, 8)] |= 1ull << below(g, 64);
    memcpy(image + 512, header, sizeof(header));
    for (unsigned k = 576; k < sizeof(image); k++)
        image[k] = (uint8_t)rnd(g);
    gen_poke(g, g->target, image, sizeof(image));
}

static void xsave_memory(Gen *g)
{
    uint64_t bv = draw_components(g);
    if (!one_in(g, 8))
        gen_poke(g, g->target + 512, &bv, 8);
}

static void index_register(Gen *g) /* RDMSR and so on */
{
    static const uint32_t msr[] = {0x10,       0x1b,       0x174,      0x175,      0x176,
                                   0x277,      0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084,
                                   0xc0000100, 0xc0000101, 0xc0000102, 0x12345678};
    S(g)->gpr[RCX] = one_in(g, 2) ? msr[below(g, ARRAY_LEN(msr))] : below(g, 5);
}

static void segment_base(Gen *g)
{
    if (g->i.rm == RSP)
        return;
    uint64_t v = gen_value(g);
    S(g)->gpr[g->i.rm] = one_in(g, 4) ? v : v & 0x7fffffffffff;
}

const RowGen row_gen[] = {
    {.names = "div idiv", .before = divide},
    {.names = "rol ror rcl rcr shl shr sar shld shrd", .before = small_count},
    {.names = "bt bts btr btc", .before = bit_offset},
    {.names = "cmpxchg", .before = exchange, .after = exchange_memory},
    {.names = "cmpxchg8b", .after = exchange_memory, .size = 8, .align = 8},
    {.names = "cmpxchg16b", .after = exchange_memory, .size = 16, .align = 16},
    {.names = "bound", .after = bound_memory, .size = 8},
    {.names = "movs cmps stos lods scas ins outs", .before = string},
    {.names = "xlatb", .before = xlat},
    {.names = "push pop pusha popa", .before = big_stack, .flags = GEN_STACK},
    {.names = "pushf", .before = stack, .flags = GEN_STACK | GEN_THROUGH},
    {.names = "syscall sysenter", .flags = GEN_THROUGH}, /* R11 is RFLAGS; TF and where it traps */
    {.names = "popf", .before = stack, .after = popf_memory, .flags = GEN_STACK | GEN_THROUGH},
    {.names = "enter leave", .before = frame, .flags = GEN_STACK},
    {.names = "jo jno jb jae je jne jbe ja js jns jp jnp jl jge jle jg loopne loope loop jcxz",
     .before = relative},
    {.names = "call jmp",
     .cls = OC_RM,
     .before = indirect,
     .after = indirect_memory,
     .flags = GEN_STACK},
    {.names = "call jmp", .before = relative, .flags = GEN_STACK},
    {.names = "ret", .before = stack, .after = ret_memory, .flags = GEN_STACK},
    {.names = "iret", .before = big_stack, .after = iret_memory, .flags = GEN_STACK | GEN_THROUGH},
    {.names = "retf", .before = big_stack, .after = retf_memory, .flags = GEN_STACK},
    {.names = "call far|jmp far", .cls = OC_FARPTR, .before = far_imm, .flags = GEN_STACK},
    {.names = "call far|jmp far",
     .before = big_stack,
     .after = far_memory,
     .flags = GEN_STACK,
     .size = 10},
    {.names = "int3 int int1 into", .flags = GEN_THROUGH},
    {.names = "push es|push cs|push ss|push ds|push fs|push gs",
     .before = stack,
     .flags = GEN_STACK},
    {.names = "pop es|pop ds|pop fs|pop gs",
     .before = stack,
     .after = pop_seg_memory,
     .flags = GEN_STACK},
    {.names = "pop ss", .before = stack, .after = pop_seg_memory, .flags = GEN_STACK | GEN_THROUGH},
    {.names = "lss", .after = far_pointer_memory, .size = 10, .flags = GEN_THROUGH},
    {.names = "les lds lfs lgs", .after = far_pointer_memory, .size = 10},
    {.names = "mov",
     .cls = OC_SREG,
     .before = selector_operand,
     .after = selector_memory,
     .size = 2},
    {.names = "verr verw lar lsl arpl lldt ltr",
     .before = selector_operand,
     .after = selector_memory,
     .size = 2},
    {.names = "maskmovq maskmovdqu vmaskmovdqu", .before = masked_store},
    {.names = "vmaskmovps vmaskmovpd vpmaskmov", .before = masked_lanes, .size = 32},
    {.names =
         "vpgatherdd vpgatherdq vpgatherqd vpgatherqq vgatherdps vgatherdpd vgatherqps vgatherqpd "
         "vpscatterdd vpscatterdq vpscatterqd vpscatterqq vscatterdps vscatterdpd vscatterqps "
         "vscatterqpd",
     .before = egather,
     .size = 8},
    {.names = "vpgatherd vpgatherq vgatherdp vgatherqp", .before = gather, .size = 8},
    {.names = "pcmpestri pcmpestrm vpcmpestri vpcmpestrm", .before = string_lengths},
    {.names = "ldmxcsr stmxcsr vldmxcsr vstmxcsr", .after = mxcsr_memory, .size = 4},
    {.names = "fbld fld", .after = number_memory},
    {.names = "fldenv fnstenv", .after = environment_memory, .size = 28, .flags = GEN_FPU},
    {.names = "frstor fnsave", .after = environment_memory, .size = 108, .flags = GEN_FPU},
    {.names = "fxsave fxrstor",
     .after = fxrstor_memory,
     .size = 512,
     .align = 16,
     .flags = GEN_FPU},
    {.names = "xsave xsaveopt",
     .before = xsave_mask,
     .after = xsave_memory,
     .size = XSAVE_AREA,
     .align = 64,
     .flags = GEN_FPU},
    {.names = "xrstor",
     .before = xsave_mask,
     .after = xrstor_memory,
     .size = XSAVE_AREA,
     .align = 64,
     .flags = GEN_FPU},
    {.names = "rdmsr wrmsr rdpmc xgetbv xsetbv", .before = index_register},
    {.names = "wrfsbase wrgsbase", .before = segment_base},
    {.names = "sgdt sidt lgdt lidt", .size = 10},
    {.names = NULL},
};
