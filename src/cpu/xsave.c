#include "cpu/xsave.h"

#include <string.h>

/* Offsets in the legacy region (SDM vol. 1, table 10-2). */
enum { OFF_FCW = 0, OFF_FSW = 2, OFF_FTW = 4, OFF_FOP = 6, OFF_FIP = 8, OFF_FDP = 16 };
enum { OFF_MXCSR = 24, OFF_MXCSR_MASK = 28, OFF_ST = 32, OFF_XMM = 160 };

#define OFFSET32(v) ((v)&0xffffffffffffull) /* offset and selector, reserved bytes 0 */

void fpu_x87_out(const FpuState *f, uint8_t *p, bool rex_w)
{
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
    uint64_t fip = rex_w ? f->fip : OFFSET32(f->fip), fdp = rex_w ? f->fdp : OFFSET32(f->fdp);

    memcpy(p + OFF_FCW, &f->fcw, 2);
    memcpy(p + OFF_FSW, &f->fsw, 2);
    p[OFF_FTW] = f->ftw;
    memcpy(p + OFF_FOP, &f->fop, 2);
    memcpy(p + OFF_FIP, &fip, 8);
    memcpy(p + OFF_FDP, &fdp, 8);
    for (unsigned i = 0; i < 8; i++)
        memcpy(p + OFF_ST + 16 * i, &f->r[(top + i) & 7], 10);
}

void fpu_x87_in(FpuState *f, const uint8_t *p, bool rex_w)
{
    memcpy(&f->fcw, p + OFF_FCW, 2);
    memcpy(&f->fsw, p + OFF_FSW, 2);
    /* Bit 6 of FCW reads as 1, bits 7 and 15:13 as 0; ES and B follow flags and masks. */
    f->fcw = (f->fcw & 0x1f3f) | 0x40;
    f->fsw &= 0x7f7f;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = p[OFF_FTW];
    memcpy(&f->fop, p + OFF_FOP, 2);
    f->fop &= 0x7ff;
    memcpy(&f->fip, p + OFF_FIP, 8);
    memcpy(&f->fdp, p + OFF_FDP, 8);
    if (!rex_w) {
        f->fip = OFFSET32(f->fip);
        f->fdp = OFFSET32(f->fdp);
    }
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
    for (unsigned i = 0; i < 8; i++)
        memcpy(&f->r[(top + i) & 7], p + OFF_ST + 16 * i, 10);
}

uint32_t fpu_mxcsr_mask(const FpuState *f)
{
    return f->mxcsr_mask ? f->mxcsr_mask : 0xffbf; /* SDM vol. 1, 11.6.6 */
}

static void mxcsr_out(const FpuState *f, uint8_t *p)
{
    uint32_t mask = fpu_mxcsr_mask(f);
    memcpy(p + OFF_MXCSR, &f->mxcsr, 4);
    memcpy(p + OFF_MXCSR_MASK, &mask, 4);
}

void fpu_to_fxsave(const FpuState *f, uint8_t image[512], bool rex_w)
{
    memset(image, 0, FXSAVE_SIZE);
    fpu_x87_out(f, image, rex_w);
    mxcsr_out(f, image);
    for (unsigned i = 0; i < 16; i++)
        memcpy(image + OFF_XMM + 16 * i, f->v[i].b, 16);
}

void fpu_from_fxsave(FpuState *f, const uint8_t image[512], bool rex_w)
{
    fpu_x87_in(f, image, rex_w);
    memcpy(&f->mxcsr, image + OFF_MXCSR, 4);
    f->mxcsr &= fpu_mxcsr_mask(f);
    for (unsigned i = 0; i < 16; i++)
        memcpy(f->v[i].b, image + OFF_XMM + 16 * i, 16);
}

/* Where a component's bytes live in FpuState: n pieces of `size` bytes, `stride` apart. */
typedef struct Pieces {
    uint8_t *at;
    unsigned n, size, stride;
} Pieces;

static Pieces pieces(const FpuState *cf, unsigned component)
{
    FpuState *f = (FpuState *)cf; /* callers that hold a const only read */
    switch (component) {
    case XC_SSE:
        return (Pieces){f->v[0].b, 16, 16, sizeof(VecReg)};
    case XC_AVX:
        return (Pieces){f->v[0].b + 16, 16, 16, sizeof(VecReg)};
    case XC_OPMASK:
        return (Pieces){(uint8_t *)f->k, 8, 8, 8};
    case XC_ZMM_HI256:
        return (Pieces){f->v[0].b + 32, 16, 32, sizeof(VecReg)};
    case XC_HI16_ZMM:
        return (Pieces){f->v[16].b, 16, 64, sizeof(VecReg)};
    case XC_PKRU:
        return (Pieces){(uint8_t *)&f->pkru, 1, 4, 4};
    default:
        return (Pieces){0};
    }
}

static bool x87_is_initial(const FpuState *f)
{
    uint64_t any = 0;
    if (f->fcw != 0x37f || f->fsw || f->ftw || f->fop || f->fip || f->fdp)
        return false;
    for (unsigned i = 0; i < 8; i++)
        any |= f->r[i].mant | f->r[i].se;
    return !any;
}

/* Is any byte of a piece, whose size is a multiple of 4, not zero? */
static inline bool piece_used(const uint8_t *p, unsigned size)
{
    uint64_t v, any = 0;
    uint32_t v32;
    unsigned k = 0;
    for (; k + 8 <= size; k += 8) {
        memcpy(&v, p + k, 8);
        any |= v;
    }
    if (k < size) {
        memcpy(&v32, p + k, 4);
        any |= v32;
    }
    return any != 0;
}

uint64_t fpu_xinuse_of(const FpuState *f, uint64_t mask)
{
    uint64_t in_use = (mask & BIT(XC_X87)) && !x87_is_initial(f) ? BIT(XC_X87) : 0;
    for (unsigned c = XC_SSE; c <= XC_PKRU; c++) {
        if (!(mask & BIT(c)))
            continue;
        Pieces p = pieces(f, c);
        for (unsigned i = 0; i < p.n; i++) {
            if (piece_used(p.at + (size_t)i * p.stride, p.size)) {
                in_use |= BIT(c);
                break;
            }
        }
    }
    return in_use;
}

uint64_t fpu_xinuse(const FpuState *f)
{
    return fpu_xinuse_of(f, ~0ull);
}

/* memcpy() of a piece. */
static inline void piece_copy(uint8_t *to, const uint8_t *from, unsigned size)
{
    switch (size) {
    case 8:
        memcpy(to, from, 8);
        break;
    case 16:
        memcpy(to, from, 16);
        break;
    case 32:
        memcpy(to, from, 32);
        break;
    default:
        memcpy(to, from, size);
    }
}

void fpu_init_components(FpuState *f, uint64_t mask)
{
    if (mask & BIT(XC_X87)) {
        f->fcw = 0x37f;
        f->fsw = f->fop = 0;
        f->ftw = 0;
        f->fip = f->fdp = 0;
        memset(f->r, 0, sizeof(f->r));
    }
    for (unsigned c = XC_SSE; c <= XC_PKRU; c++) {
        if (!(mask & BIT(c)))
            continue;
        Pieces p = pieces(f, c);
        for (unsigned i = 0; i < p.n; i++)
            memset(p.at + (size_t)i * p.stride, 0, p.size);
    }
}

/* Offset of a component in the image if the CPU has it and the image holds it whole. */
static bool component_at(const CpuidTable *t, unsigned c, size_t size, uint32_t *off)
{
    uint32_t len;
    return (cpuid_xcr0_mask(t) & BIT(c)) && cpuid_xsave_layout(t, c, off, &len) && *off <= size &&
           len <= size - *off;
}

static size_t image_end(const CpuidTable *t, uint64_t rfbm)
{
    size_t end = XSAVE_EXTENDED;
    for (unsigned c = XC_AVX; c <= XC_PKRU; c++) {
        uint32_t off, len;
        if ((rfbm & cpuid_xcr0_mask(t) & BIT(c)) && cpuid_xsave_layout(t, c, &off, &len))
            end = MAX_OF(end, (size_t)off + len);
    }
    return end;
}

size_t fpu_to_xsave(const FpuState *f, const CpuidTable *t, uint64_t rfbm, uint8_t *image,
                    size_t size)
{
    rfbm &= cpuid_xcr0_mask(t) & XCR0_KNOWN;
    size_t used = image_end(t, rfbm);
    if (size < used)
        return 0;
    memset(image, 0, used);
    uint64_t bv = fpu_xinuse_of(f, rfbm);
    memcpy(image + XSAVE_HEADER, &bv, 8);
    if (rfbm & BIT(XC_X87))
        fpu_x87_out(f, image, true);
    if (rfbm & (BIT(XC_SSE) | BIT(XC_AVX)))
        mxcsr_out(f, image);
    for (unsigned c = XC_SSE; c <= XC_PKRU; c++) {
        uint32_t off;
        if (!(rfbm & BIT(c)) || !component_at(t, c, size, &off))
            continue;
        Pieces p = pieces(f, c);
        for (unsigned i = 0; i < p.n; i++)
            piece_copy(image + off + (size_t)i * p.size, p.at + (size_t)i * p.stride, p.size);
    }
    return used;
}

bool fpu_from_xsave(FpuState *f, const CpuidTable *t, uint64_t rfbm, const uint8_t *image,
                    size_t size)
{
    static const uint8_t zero[16];
    uint64_t bv, offered = cpuid_xcr0_mask(t) & XCR0_KNOWN;
    uint32_t mxcsr;

    if (size < XSAVE_EXTENDED)
        return false;
    memcpy(&bv, image + XSAVE_HEADER, 8);
    memcpy(&mxcsr, image + OFF_MXCSR, 4);
    rfbm &= offered;
    bool has_mxcsr = rfbm & (BIT(XC_SSE) | BIT(XC_AVX));
    if ((bv & ~offered) || memcmp(image + XSAVE_HEADER + 8, zero, 16) != 0 ||
        size < image_end(t, bv & rfbm) || (has_mxcsr && (mxcsr & ~fpu_mxcsr_mask(f))))
        return false;

    fpu_init_components(f, rfbm & ~bv);
    if (rfbm & bv & BIT(XC_X87))
        fpu_x87_in(f, image, true);
    if (has_mxcsr)
        f->mxcsr = mxcsr;
    for (unsigned c = XC_SSE; c <= XC_PKRU; c++) {
        uint32_t off;
        if (!(rfbm & bv & BIT(c)) || !component_at(t, c, size, &off))
            continue;
        Pieces p = pieces(f, c);
        for (unsigned i = 0; i < p.n; i++)
            piece_copy(p.at + (size_t)i * p.stride, image + off + (size_t)i * p.size, p.size);
    }
    /* What the CPU does not have stays as it was. */
    f->xstate_bv = (f->xstate_bv & ~offered) | fpu_xinuse_of(f, offered);
    return true;
}
