/* States for `tandem diff state`: valid ones, and such with one field bent. */
#include "diff/state.h"

#include <string.h>

#include "cpu/xsave.h"

uint64_t state_random(uint64_t *r)
{
    uint64_t z = *r += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* A bit more or less, a value at a boundary, or any: bent values are most interesting when they are
 * almost right. */
static uint64_t bend_number(uint64_t value, unsigned bytes, uint64_t *r)
{
    static const uint64_t boundary[] = {
        0,           1,           0x7f,       0x80,         0xff,       0x7fff,
        0x8000,      0xffff,      0x7fffffff, 0x80000000,   0xffffffff, BIT(32),
        BIT(47) - 1, BIT(47),     BIT(48),    BIT(51),      BIT(52),    BIT(56),
        BIT(57),     BIT(63) - 1, BIT(63),    ~BIT(47) + 1, ~0ull,
    };
    switch (state_random(r) % 4) {
    case 0:
        value = boundary[state_random(r) % ARRAY_LEN(boundary)];
        break;
    case 1:
        value = state_random(r);
        break;
    default:
        value ^= BIT(state_random(r) % (8 * bytes));
        break;
    }
    return value & size_mask(bytes);
}

static void bend_segment(Segment *g, uint64_t *r)
{
    switch (state_random(r) % 8) {
    case 0:
        g->base = bend_number(g->base, 8, r);
        break;
    case 1:
        g->limit = (uint32_t)bend_number(g->limit, 4, r);
        break;
    case 2:
        g->selector = (uint16_t)bend_number(g->selector, 2, r);
        break;
    default: /* the rights have most of what can be wrong */
        g->attr ^= 1u << state_random(r) % 17;
        break;
    }
}

void state_bend(CpuState *s, const VmstateField *f, uint64_t *r)
{
    void *p = (char *)s + f->offset;
    switch (f->type) {
    case VMSTATE_U8:
        *(uint8_t *)p = (uint8_t)bend_number(*(uint8_t *)p, 1, r);
        break;
    case VMSTATE_U16:
        *(uint16_t *)p = (uint16_t)bend_number(*(uint16_t *)p, 2, r);
        break;
    case VMSTATE_U32:
        *(uint32_t *)p = (uint32_t)bend_number(*(uint32_t *)p, 4, r);
        break;
    case VMSTATE_U64:
        *(uint64_t *)p = bend_number(*(uint64_t *)p, 8, r);
        break;
    case VMSTATE_BOOL:
        *(bool *)p = !*(bool *)p;
        break;
    case VMSTATE_SEGMENT:
        bend_segment(p, r);
        break;
    case VMSTATE_TABLE: {
        DescTable *t = p;
        if (state_random(r) & 1)
            t->base = bend_number(t->base, 8, r);
        else
            t->limit = (uint16_t)bend_number(t->limit, 2, r);
        break;
    }
    case VMSTATE_VECREG: {
        VecReg *v = p;
        unsigned q = state_random(r) % ARRAY_LEN(v->q);
        v->q[q] = bend_number(v->q[q], 8, r);
        break;
    }
    case VMSTATE_FPREG: {
        FpReg *x = p;
        if (state_random(r) & 1)
            x->mant = bend_number(x->mant, 8, r);
        else
            x->se = (uint16_t)bend_number(x->se, 2, r);
        break;
    }
    }
}

typedef struct Fields {
    const VmstateField *row[512];
    unsigned n;
} Fields;

static void collect(const VmstateField *f, void *opaque)
{
    Fields *all = opaque;
    if (all->n < ARRAY_LEN(all->row))
        all->row[all->n++] = f;
}

/* vmstate_randomise() draws what every CPU has. This one may have more. */
static void use_features(CpuState *s, const CpuidTable *t, uint64_t *r)
{
    static const struct {
        uint64_t bits;
        enum CpuFeature f;
        bool long_mode;
    } cr4[] = {
        {CR4_UMIP, FEAT_UMIP, false}, {CR4_FSGSBASE, FEAT_FSGSBASE, false},
        {CR4_PCIDE, FEAT_PCID, true}, {CR4_OSXSAVE, FEAT_XSAVE, false},
        {CR4_SMEP, FEAT_SMEP, false}, {CR4_SMAP, FEAT_SMAP, false},
        {CR4_PKE, FEAT_PKU, false},
    };
    if (!cpuid_has(t, FEAT_VME))
        s->cr4 &= ~(uint64_t)(CR4_VME | CR4_PVI);
    for (unsigned i = 0; i < ARRAY_LEN(cr4); i++)
        if (cpuid_has(t, cr4[i].f) && (!cr4[i].long_mode || s->efer & EFER_LMA) &&
            state_random(r) & 1)
            s->cr4 |= cr4[i].bits;

    uint64_t mask = cpuid_xcr0_mask(t);
    const uint64_t avx512 = BIT(XC_OPMASK) | BIT(XC_ZMM_HI256) | BIT(XC_HI16_ZMM);
    if (!mask)
        return;
    switch (state_random(r) % 4) {
    case 0:
        s->xcr0 = mask;
        break;
    case 1:
        s->xcr0 = mask & ~avx512;
        break;
    }
    /* What the guest put there stays there when it clears the bit of XCR0 again. */
    bool avx = mask & BIT(XC_AVX) && state_random(r) & 1;
    bool wide = mask & BIT(XC_HI16_ZMM) && state_random(r) & 1;
    for (unsigned i = 0; i < (wide ? 32u : 16u); i++)
        for (unsigned q = i < 16 ? 2 : 0; q < (wide ? 8u : avx ? 4u : 2u); q++)
            s->fpu.v[i].q[q] = state_random(r);
    for (unsigned i = 0; wide && i < ARRAY_LEN(s->fpu.k); i++)
        s->fpu.k[i] = state_random(r);
    if (mask & BIT(XC_PKRU) && state_random(r) & 1)
        s->fpu.pkru = (uint32_t)state_random(r);
    s->fpu.xstate_bv = fpu_xinuse(&s->fpu);
}

const char *state_generate(CpuState *s, uint64_t seed, uint64_t index, const CpuidTable *t)
{
    uint64_t r = seed, first = state_random(&r) ^ index / 2;

    vmstate_randomise(s, first);
    r = first + 0x5bd1e995;
    use_features(s, t, &r);
    if (!(index & 1))
        return NULL;
    Fields all = {.n = 0};
    unsigned groups = 1u << state_random(&r) % 8; /* each as often: FPU has most of the fields */
    vmstate_foreach(groups, collect, &all);
    const VmstateField *f = all.row[state_random(&r) % all.n];
    state_bend(s, f, &r);
    return f->name;
}
