/* Registers and memory at random, with the values at which things happen. */
#include <string.h>

#include "cpu/cpuid.h"
#include "diff/gen.h"

uint64_t gen_value(Gen *g)
{
    static const uint64_t edge[] = {0,
                                    1,
                                    2,
                                    ~0ull,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x100,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x10000,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    1ull << 32,
                                    1ull << 63,
                                    ~0ull >> 1,
                                    0xffffffff80,
                                    31,
                                    32,
                                    63,
                                    64,
                                    0xaaaaaaaaaaaaaaaa};
    uint64_t v = rnd(g);
    switch (v & 7) {
    case 0:
    case 1:
        return edge[(v >> 8) % ARRAY_LEN(edge)];
    case 2:
        return edge[(v >> 8) % ARRAY_LEN(edge)] + (v >> 16 & 3) - 1;
    case 3:
        return (uint64_t)((int64_t)v >> 40);
    case 4:
        return v >> (v >> 3 & 63);
    default:
        return rnd(g);
    }
}

static uint64_t double_bits(double d)
{
    uint64_t v;
    memcpy(&v, &d, 8);
    return v;
}

uint64_t gen_lane(Gen *g)
{
    static const uint64_t edge[] = {0,
                                    1,
                                    ~0ull,
                                    0x8000000080000000, /* -0 as floats */
                                    0x3f8000003f800000, /* 1 */
                                    0x3ff0000000000000,
                                    0xbff0000000000000,
                                    0x7ff0000000000000, /* infinities */
                                    0xfff0000000000000,
                                    0x7ff8000000000000, /* NaNs, quiet and signalling */
                                    0x7ff0000000000001,
                                    0xfff8000000000000,
                                    0x000fffffffffffff, /* denormals */
                                    0x0010000000000000,
                                    0x7fefffffffffffff,
                                    0x7f8000007f800000,
                                    0x7fc000007f800001,
                                    0x0080000000800000,
                                    0x007fffff00000001,
                                    0x7f7fffff7f7fffff,
                                    0x8000000000000000,
                                    0x00000000ffffffff,
                                    0x7fffffffffffffff,
                                    0x41dfffffffc00000, /* the edges of int32 and int64 */
                                    0x43e0000000000000,
                                    0xc1e0000000000000,
                                    0x4f0000004b800000,
                                    0x3c003c003c003c00, /* half floats */
                                    0x7c007bff00010400};
    uint64_t v = rnd(g);
    switch (v & 7) {
    case 0:
    case 1:
        return edge[(v >> 8) % ARRAY_LEN(edge)];
    case 2: /* doubles near 1 */
        return double_bits(((double)(int64_t)(v >> 8 & 4095) - 2048.0) / (v & 8 ? 1.0 : 7.0));
    case 3: { /* floats near 1, and tiny */
        float f[2] = {(float)(int)(v >> 8 & 511) - 256.0f, 1e-38f / (float)(1 + (v >> 20 & 63))};
        memcpy(&v, f, 8);
        return v;
    }
    case 4: /* tiny doubles */
        return (rnd(g) & 0x800fffffffffffff) | (v >> 8 & 3) << 52;
    case 5: /* floats of all sizes around 1, in both halves */
        return (rnd(g) & 0x80ffffff80ffffff) | 0x3f0000003f000000;
    default:
        return rnd(g);
    }
}

FpReg gen_st(Gen *g)
{
    static const FpReg edge[] = {
        {.mant = 0, .se = 0},
        {.mant = 0, .se = 0x8000},
        {.mant = 1ull << 63, .se = 0x3fff},         /* 1 */
        {.mant = 1ull << 63, .se = 0x7fff},         /* infinity */
        {.mant = 1ull << 63, .se = 0xffff},         /* - infinity */
        {.mant = 0xc000000000000000, .se = 0xffff}, /* default NaN */
        {.mant = 0xa000000000000000, .se = 0x7fff}, /* signalling NaN */
        {.mant = 1, .se = 0},                       /* denormal */
        {.mant = 0x8000000000000001, .se = 0},      /* pseudo-denormal */
        {.mant = 0x4000000000000000, .se = 0x4000}, /* unnormal */
        {.mant = 0x4000000000000000, .se = 0x7fff}, /* pseudo-NaN */
        {.mant = ~0ull, .se = 0x7ffe},              /* the greatest */
        {.mant = 1ull << 63, .se = 1},              /* the least normal */
        {.mant = 0xc90fdaa22168c235, .se = 0x4000}, /* pi */
        {.mant = 0x8000000000000000, .se = 0x401e}, /* 2^31 */
        {.mant = 0xfffffffffffffffe, .se = 0x403d}, /* about 2^63 */
        {.mant = 0x8000000000000000, .se = 0xc03e}, /* - 2^63 */
        {.mant = 0xffffff8000000000, .se = 0x407e}, /* rounds out of single */
        {.mant = 0x8000000000000001, .se = 0x3f6a}, /* denormal as single */
        {.mant = 0x8000000000000001, .se = 0x3bcd}, /* denormal as double */
    };
    FpReg r = {0};
    uint64_t v = rnd(g);
    switch (v & 3) {
    case 0:
        return edge[(v >> 8) % ARRAY_LEN(edge)];
    case 1: { /* small integers and fractions */
        long double d = (long double)((int)(v >> 8 & 2047) - 1024) / (v & 4 ? 1.0L : 16.0L);
        memcpy(&r, &d, 10);
        return r;
    }
    case 2: /* within 2^±70 */
        r.mant = rnd(g) | 1ull << 63;
        r.se = (uint16_t)((v & 0x8000) | (0x3fff - 70 + (v >> 16) % 140));
        return r;
    default:
        r.mant = rnd(g) | (v & 12 ? 1ull << 63 : 0);
        r.se = (uint16_t)(v >> 16);
        return r;
    }
}

void gen_registers(Gen *g)
{
    CpuState *s = &g->c->in;
    for (unsigned k = 0; k < 16; k++)
        if (k != RSP)
            s->gpr[k] = g->code64 || k >= R8 ? gen_value(g) : (uint32_t)gen_value(g);
    uint64_t v = rnd(g);
    s->rflags |= v & FL_ARITH;
    if (s->cpl == 3)
        s->rflags |= FL_IF; /* a process cannot be without */
    if (!(v >> 32 & 7))
        s->rflags |= FL_DF;
    if (!(v >> 40 & 15))
        s->rflags |= FL_AC;
    if (!(v >> 48 & 15))
        s->rflags |= v >> 56 & 1 ? FL_ID : FL_NT;
}

/* MXCSR: any rounding, DAZ, FTZ; exceptions masked more often than not. */
static uint32_t draw_mxcsr(Gen *g)
{
    uint64_t v = rnd(g);
    uint32_t m = (uint32_t)((v & 0xe07f) | (v >> 16 & 3 ? 0x1f80 : v >> 32 & 0x1f80));
    if (v >> 20 & 1)
        m &= ~0x3fu;
    if (!(v >> 24 & 3))
        m = (m & 0x1fbf);
    return m;
}

static void draw_x87(Gen *g, FpuState *f)
{
    uint64_t v = rnd(g);
    for (unsigned k = 0; k < 8; k++)
        f->r[k] = gen_st(g);
    f->fcw = (uint16_t)(0x40 | (v & 1 ? 0x33f : v >> 8 & 0xf3f) | (v >> 24 & 0x1000));
    if (!(v & 6))
        f->fcw |= 0xc00 & v >> 40;
    v = rnd(g);
    f->fsw = (uint16_t)(v & 0x7f00);
    if (v >> 16 & 1)
        f->fsw |= v >> 32 & f->fcw & 0x3f; /* flags that are masked */
    if (!(v >> 17 & 7))
        f->fsw |= v >> 40 & 0x7f;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = (uint8_t)(v >> 20 & 1 ? 0xff : v >> 21 & 1 ? 0 : v >> 48);
    f->fop = v >> 56 & 0xff;
    f->fip = g->code64 ? rnd(g) >> 17 : (uint32_t)rnd(g);
    f->fdp = g->code64 ? rnd(g) >> 17 : (uint32_t)rnd(g);
}

/* Masks: any, all, none, one, or all from some element or up to it. */
static uint64_t draw_mask(Gen *g)
{
    uint64_t v = rnd(g);
    unsigned at = v >> 8 & (v & 0x40000 ? 63 : 15);
    switch (v & 7) {
    case 0:
        return 0;
    case 1:
        return ~0ull;
    case 2:
        return 1ull << at;
    case 3:
        return ~0ull << at;
    case 4:
        return ~(~0ull << at);
    default:
        return rnd(g) & (v & 0x80000 ? rnd(g) : ~0ull);
    }
}

void gen_fpu(Gen *g)
{
    FpuState *f = &g->c->in.fpu;
    const OpRow *r = g->r;
    bool vector = r->attr & (A_SSE | A_AVX), x87 = r->attr & (A_FPU | A_MMX);
    bool both = (g->how->flags & GEN_FPU) || one_in(g, 16);
    if (vector || both) {
        bool has_zmm = case_features()[FEAT_AVX512F], evex = is_evex_map(r->map);
        unsigned n = !g->code64 ? 8 : evex ? 32 : 16;
        bool upper = (r->attr & A_AVX) || !one_in(g, 4);
        bool zmm = has_zmm && (evex || (upper && one_in(g, 3)));
        for (unsigned k = 0; k < n; k++) {
            uint64_t v = rnd(g);
            for (unsigned q = 0; q < (zmm ? 8u : upper ? 4u : 2u); q++)
                f->v[k].q[q] = gen_lane(g);
            if ((v & 7) == 0) /* lanes alike, so that they may compare equal */
                f->v[k].q[1] = f->v[k].q[0];
        }
        f->mxcsr = draw_mxcsr(g);
        if (has_zmm && ((r->attr & A_AVX512) || one_in(g, 8)))
            for (unsigned k = 0; k < 8; k++)
                f->k[k] = draw_mask(g);
    }
    if (x87 || both)
        draw_x87(g, f);
}

/* Lanes of the campaign that all of memory is made of: 24 KiB are copied faster than drawn. */
#define POOL 8192u
typedef struct Pool {
    uint64_t campaign, lanes[POOL];
} Pool;

static void fill(Gen *g, uint8_t *to, unsigned bytes)
{
    static GPrivate own = G_PRIVATE_INIT(g_free);
    Pool *pool = g_private_get(&own);
    if (!pool || pool->campaign != g->campaign) {
        if (!pool)
            g_private_set(&own, pool = g_new(Pool, 1));
        Gen p = {.s = g->campaign ^ 0x5851f42d4c957f2d};
        for (unsigned k = 0; k < POOL; k++)
            pool->lanes[k] = k & 1 ? gen_lane(&p) : gen_value(&p);
        pool->campaign = g->campaign;
    }
    memcpy(to, pool->lanes + below(g, POOL - bytes / 8), bytes);
}

void gen_memory(Gen *g)
{
    DiffCase *c = g->c;
    fill(g, c->data, CASE_DATA_GONE);
    fill(g, c->data + CASE_DATA_GONE + 0x1000, CASE_DATA_BYTES - CASE_DATA_GONE - 0x1000);
    memset(c->data + CASE_DATA_GONE, 0, 0x1000);
    fill(g, c->stack, CASE_STACK_BYTES);
}
