/*
 * XSAVE, XSAVEOPT and XRSTOR of 64-bit code with REX.W, straight between FpuState and an area that
 * the TLB allows: what a kernel does at each context switch and signal. Everything else is
 * exec_xsave.c's, which says what is right; test_xsave compares the two.
 */
#include "tcg/xsave_fast.h"
#include "tcg/exec.h"
#include "tcg/x87.h"

#define MAP_COMPONENTS (XC_PKRU + 1)

/* The components beyond the legacy region, as pieces in FpuState: X(component, member, pieces,
 * bytes of one, bytes from one to the next). */
#define FOR_EXTENDED(X)                                 \
    X(XC_AVX, v[0].b[16], 16, 16, sizeof(VecReg))       \
    X(XC_OPMASK, k[0], 8, 8, 8)                         \
    X(XC_ZMM_HI256, v[0].b[32], 16, 32, sizeof(VecReg)) \
    X(XC_HI16_ZMM, v[16].b[0], 16, 64, sizeof(VecReg))  \
    X(XC_PKRU, pkru, 1, 4, 4)

enum { AT_MXCSR = 24, AT_ST = 32, AT_XMM = 160 };

void xsave_map_init(XsaveMap *m, const CpuidTable *cpuid)
{
    *m = (XsaveMap){.offered = cpuid_xcr0_mask(cpuid) & XCR0_KNOWN, .known = true};
    for (unsigned c = XC_AVX; c < MAP_COMPONENTS; c++) {
        uint32_t size, expected = 0;
#define X(component, member, n, bytes, stride) \
    if (c == (component))                      \
        expected = (n) * (bytes);
        FOR_EXTENDED(X)
#undef X
        if (!(m->offered & BIT(c)))
            continue;
        if (!cpuid_xsave_layout(cpuid, c, &m->off[c], &size) || size != expected || m->off[c] % 4 ||
            m->off[c] + size > XSAVE_SIZE_MAX)
            m->known = false;
        m->end[c] = m->off[c] + size;
    }
}

/* Where an area is: at most two pages. It is aligned to 64 bytes, so no piece lies in both. */
typedef struct Area {
    uint8_t *page[2]; /* minus the offset of the page's first byte in the area */
    uint32_t split;
} Area;

static inline uint8_t *in_area(const Area *a, uint32_t off)
{
    return a->page[off >= a->split] + off;
}

static bool area_find(Tcg *t, gva_t lin, uint32_t bytes, bool write, Area *a)
{
    unsigned m = t->mmu_mode;
    uint32_t split = (uint32_t)(PAGE_SIZE - (lin & ~PAGE_MASK));
    if (lin & 63)
        return false;
    for (unsigned k = 0; k < 2; k++) {
        gva_t at = k ? lin + split : lin;
        uint8_t *host = tlb_hit(t, m, at, 1, ACC_READ);
        if (!host || (write && !tlb_hit(t, m, at, 1, ACC_WRITE)))
            return false;
        a->page[k] = k ? host - split : host;
        a->split = split;
        if (bytes <= split)
            break;
    }
    return true;
}

/* Bytes up to the end of what these components need. */
static uint32_t area_bytes(const XsaveMap *m, uint64_t components)
{
    uint32_t end = XSAVE_EXTENDED;
    for (uint64_t left = components & ~(BIT(XC_X87) | BIT(XC_SSE)); left; left &= left - 1)
        end = MAX_OF(end, m->end[__builtin_ctzll(left)]);
    return end;
}

#define INLINE static inline __attribute__((always_inline))

/* Sixteen bytes at a time: the registers above XMM15 alone are a KiB. Of those the first are what
 * programs use first, if any. */
typedef uint64_t Pair __attribute__((vector_size(16)));

INLINE uint64_t any_bit(const void *from, unsigned n, unsigned bytes, size_t stride)
{
    uint64_t any = 0, v;
    uint32_t v32;
    Pair pairs = {0, 0}, pair;
    for (unsigned k = 0; k < n; k++) {
        const uint8_t *p = (const uint8_t *)from + k * stride;
        unsigned b = 0;
        for (; b + 16 <= bytes; b += 16) {
            memcpy(&pair, p + b, 16);
            pairs |= pair;
        }
        if (bytes == 64 && (pairs[0] | pairs[1]))
            return 1;
        for (; b + 8 <= bytes; b += 8) {
            memcpy(&v, p + b, 8);
            any |= v;
        }
        if (bytes == 4) {
            memcpy(&v32, p, 4);
            any |= v32;
        }
    }
    return any | pairs[0] | pairs[1];
}

/* All of a component, if it lies in one of the pages; or NULL. */
INLINE uint8_t *all_in_area(const Area *a, uint32_t off, uint32_t bytes)
{
    return off >= a->split || off + bytes <= a->split ? in_area(a, off) : NULL;
}

INLINE void pieces_out(const Area *a, uint32_t off, const void *from, unsigned n, unsigned bytes,
                       size_t stride)
{
    uint8_t *all = all_in_area(a, off, n * bytes);
    for (unsigned k = 0; all && k < n; k++)
        memcpy(all + k * bytes, (const uint8_t *)from + k * stride, bytes);
    for (unsigned k = 0; !all && k < n; k++)
        memcpy(in_area(a, off + k * bytes), (const uint8_t *)from + k * stride, bytes);
}

INLINE void pieces_in(const Area *a, uint32_t off, void *to, unsigned n, unsigned bytes,
                      size_t stride)
{
    const uint8_t *all = all_in_area(a, off, n * bytes);
    for (unsigned k = 0; all && k < n; k++)
        memcpy((uint8_t *)to + k * stride, all + k * bytes, bytes);
    for (unsigned k = 0; !all && k < n; k++)
        memcpy((uint8_t *)to + k * stride, in_area(a, off + k * bytes), bytes);
}

INLINE void pieces_zero(void *to, unsigned n, unsigned bytes, size_t stride)
{
    for (unsigned k = 0; k < n; k++)
        memset((uint8_t *)to + k * stride, 0, bytes);
}

/* fpu_xinuse_of(); pointers that are not saved do not count. */
static uint64_t in_use(const Tcg *t, const FpuState *f, uint64_t mask)
{
    bool pointers = !t->vec->hides_pointers || (f->fsw & FSW_ES);
    uint64_t used = 0;
    if ((mask & BIT(XC_X87)) &&
        (f->fcw != 0x37f || f->fsw || f->ftw || (pointers && (f->fop | f->fip | f->fdp)) ||
         any_bit(f->r, 8, 8, sizeof(FpReg)) || any_bit(&f->r[0].b[8], 8, 8, sizeof(FpReg))))
        used |= BIT(XC_X87);
    if ((mask & BIT(XC_SSE)) && any_bit(f->v, 16, 16, sizeof(VecReg)))
        used |= BIT(XC_SSE);
#define X(component, member, n, bytes, stride)                                       \
    if ((mask & BIT(component)) && !((component) == XC_ZMM_HI256 && t->zmm_clean) && \
        any_bit(&f->member, n, bytes, stride))                                       \
        used |= BIT(component);
    FOR_EXTENDED(X)
#undef X
    return used;
}

static void x87_store(const Tcg *t, const FpuState *f, const Area *a)
{
    uint8_t image[AT_XMM] = {0};
    fpu_x87_out(f, image, true);
    if (t->vec->hides_pointers && !(f->fsw & FSW_ES))
        memset(image + 6, 0, 18);
    memcpy(in_area(a, 0), image, AT_MXCSR);
    for (unsigned k = AT_ST; k < AT_XMM; k += 16)
        memcpy(in_area(a, k), image + k, 16);
}

bool xsave_fast(CpuState *s, Tcg *t, gva_t lin, uint64_t rfbm, bool optimised)
{
    const XsaveMap *m = &t->vec->xsave;
    const FpuState *f = &s->fpu;
    Area a;
    uint64_t bv;
    if (!m->known || (rfbm & ~m->offered) || !area_find(t, lin, area_bytes(m, rfbm), true, &a))
        return false;
    uint64_t used = in_use(t, f, rfbm), store = optimised ? rfbm & used : rfbm;
    if (store & BIT(XC_X87))
        x87_store(t, f, &a);
    if (rfbm & (BIT(XC_SSE) | BIT(XC_AVX))) {
        uint32_t mxcsr[2] = {f->mxcsr, fpu_mxcsr_mask(f)};
        memcpy(in_area(&a, AT_MXCSR), mxcsr, 8);
    }
    if (store & BIT(XC_SSE))
        pieces_out(&a, AT_XMM, f->v, 16, 16, sizeof(VecReg));
#define X(component, member, n, bytes, stride) \
    if (store & BIT(component))                \
        pieces_out(&a, m->off[component], &f->member, n, bytes, stride);
    FOR_EXTENDED(X)
#undef X
    memcpy(&bv, in_area(&a, XSAVE_HEADER), 8);
    bv = (bv & ~rfbm) | used;
    memcpy(in_area(&a, XSAVE_HEADER), &bv, 8);
    return true;
}

bool xrstor_fast(CpuState *s, Tcg *t, gva_t lin, uint64_t rfbm)
{
    const XsaveMap *m = &t->vec->xsave;
    FpuState *f = &s->fpu;
    Area a;
    uint64_t head[3];
    uint32_t mxcsr;
    if (!m->known || (rfbm & ~m->offered) || !area_find(t, lin, area_bytes(m, rfbm), false, &a))
        return false;
    memcpy(head, in_area(&a, XSAVE_HEADER), sizeof(head));
    memcpy(&mxcsr, in_area(&a, AT_MXCSR), 4);
    bool has_mxcsr = rfbm & (BIT(XC_SSE) | BIT(XC_AVX));
    if ((head[0] & ~s->xcr0) || head[1] || head[2] || (has_mxcsr && (mxcsr & ~fpu_mxcsr_mask(f))))
        return false; /* faults */
    uint64_t load = rfbm & head[0], init = rfbm & ~head[0];
    if (load & BIT(XC_X87)) {
        uint8_t image[AT_XMM];
        memcpy(image, in_area(&a, 0), AT_MXCSR);
        for (unsigned k = AT_ST; k < AT_XMM; k += 16)
            memcpy(image + k, in_area(&a, k), 16);
        fpu_x87_in(f, image, true);
        x87_pointers_in(t->vec, f);
    }
    if (init & BIT(XC_X87))
        fpu_init_components(f, BIT(XC_X87));
    if (has_mxcsr)
        f->mxcsr = mxcsr;
    if (load & BIT(XC_SSE))
        pieces_in(&a, AT_XMM, f->v, 16, 16, sizeof(VecReg));
    else if (init & BIT(XC_SSE))
        pieces_zero(f->v, 16, 16, sizeof(VecReg));
#define X(component, member, n, bytes, stride)                                          \
    if (load & BIT(component))                                                          \
        pieces_in(&a, m->off[component], &f->member, n, bytes, stride);                 \
    else if ((init & BIT(component)) && !((component) == XC_ZMM_HI256 && t->zmm_clean)) \
        pieces_zero(&f->member, n, bytes, stride);
    FOR_EXTENDED(X)
#undef X
    if (rfbm & BIT(XC_ZMM_HI256))
        t->zmm_clean = !(load & BIT(XC_ZMM_HI256));
    return true;
}
