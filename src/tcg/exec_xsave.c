/*
 * FXSAVE, FXRSTOR, and XSAVE, XSAVEOPT, XRSTOR in the standard form (SDM vol. 1, 10.5 and 13).
 * Images are made and read by cpu/xsave.c. XINUSE is worked out from the registers when asked for.
 */
#include "cpu/xsave.h"
#include "tcg/exec.h"
#include "tcg/x87.h"
#include "tcg/xsave_fast.h"

enum { AT_MXCSR = 24, AT_ST = 32, AT_XMM = 160, XMM_BYTES = 16 };

static bool rex_w(const Insn *i)
{
    return i->rexw && (i->flags & IF_CODE64);
}
/* Outside 64-bit mode XMM8-15 are neither stored nor loaded. */
static unsigned xmm_count(const Tcg *t)
{
    return t->code64 ? 16 : 8;
}

/* ---- FXSAVE, FXRSTOR ---- */

/* AMD's write FOP, FIP and FDP only while an exception is pending (APM vol. 2, 11.5.1). 64-bit mode
 * has no selectors to write. */
static void hide_pointers(const CpuState *s, const Tcg *t, const Insn *i, uint8_t *image)
{
    if (t->vec->hides_pointers && !(s->fpu.fsw & FSW_ES))
        memset(image + 6, 0, 18);
    if (t->code64 && !rex_w(i)) {
        memset(image + 12, 0, 4);
        memset(image + 20, 0, 4);
    }
}

/* FIP and FDP of the image. Without REX.W it has selectors, which 64-bit mode does not keep. */
static void pointers_in(CpuState *s, const Tcg *t, const Insn *i)
{
    if (rex_w(i)) {
        x87_pointers_in(t->vec, &s->fpu);
    } else if (t->code64) {
        s->fpu.fip = (uint32_t)s->fpu.fip;
        s->fpu.fdp = (uint32_t)s->fpu.fdp;
    }
}

/* AMD: the last byte, wrapped as addresses are, then the first one, then all. Which of #AC and #GP
 * it is may be chosen (SDM vol. 2, FXSAVE). */
static Fault fx_address_amd(CpuState *s, Tcg *t, const Insn *i, enum Access a, gva_t *lin)
{
    gva_t last;
    Fault f = ea_slow(s, t, i, 1, ACC_READ, lin); /* CS cannot be written: that is seen later */
    if (f)
        return f;
    if (mem_misaligned(t, *lin, 4, t->mmu_mode))
        return raise_err(t, VEC_AC, 0);
    if (*lin & 15)
        return raise_gp0(t);
    f = seg_lin(s, t, i->seg, (ea_offset(s, i) + FXSAVE_SIZE - 1) & size_mask(i->asize), 1, a,
                &last);
    if (!f)
        f = mem_probe_operand(s, t, last, 1, 1, a);
    if (!f)
        f = mem_probe_operand(s, t, *lin, 1, 1, a);
    return f ? f : ea_lin(s, t, i, FXSAVE_SIZE, a, lin);
}

static Fault fx_address(CpuState *s, Tcg *t, const Insn *i, enum Access a, gva_t *lin)
{
    if (s->cr0 & (CR0_EM | CR0_TS))
        return raise_exc(t, VEC_NM);
    if (t->amd)
        return fx_address_amd(s, t, i, a, lin);
    Fault f = ea_lin(s, t, i, FXSAVE_SIZE, a, lin);
    return !f && (*lin & 15) ? raise_gp0(t) : f;
}

/* With CR4.OSFXSR clear, MXCSR and XMM stay out of it. */
DEF_EXEC(fxsave)
{
    gva_t lin;
    uint8_t image[FXSAVE_SIZE];
    Fault f = fx_address(s, t, i, ACC_WRITE, &lin);
    if (!f)
        f = mem_probe_write(s, t, lin, FXSAVE_SIZE);
    if (f)
        return f;
    fpu_to_fxsave(&s->fpu, image, rex_w(i));
    hide_pointers(s, t, i, image);
    if (s->cr4 & CR4_OSFXSR)
        return mem_write_bytes(s, t, lin, image, AT_XMM + XMM_BYTES * xmm_count(t));
    f = mem_write_bytes(s, t, lin, image, AT_MXCSR);
    return f ? f : mem_write_bytes(s, t, lin + AT_ST, image + AT_ST, AT_XMM - AT_ST);
}

DEF_EXEC(fxrstor)
{
    gva_t lin;
    uint8_t image[FXSAVE_SIZE], own[FXSAVE_SIZE];
    uint32_t mxcsr;
    Fault f = fx_address(s, t, i, ACC_READ, &lin);
    if (!f)
        f = mem_read_bytes(s, t, lin, image, FXSAVE_SIZE);
    if (f)
        return f;
    fpu_to_fxsave(&s->fpu, own, true);
    unsigned n = xmm_count(t);
    if (s->cr4 & CR4_OSFXSR) {
        memcpy(&mxcsr, image + AT_MXCSR, 4);
        if (mxcsr & ~fpu_mxcsr_mask(&s->fpu))
            return raise_gp0(t);
    } else {
        memcpy(image + AT_MXCSR, own + AT_MXCSR, 4);
        n = 0;
    }
    memcpy(image + AT_XMM + XMM_BYTES * n, own + AT_XMM + XMM_BYTES * n, XMM_BYTES * (16 - n));
    fpu_from_fxsave(&s->fpu, image, rex_w(i));
    pointers_in(s, t, i);
    return FAULT_NONE;
}

/* ---- XSAVE ---- */

/* Checks of all three, and the requested-feature bitmap. */
static Fault xs_allowed(CpuState *s, Tcg *t, uint64_t *rfbm)
{
    if (!(s->cr4 & CR4_OSXSAVE))
        return raise_ud(t);
    if (s->cr0 & CR0_TS)
        return raise_exc(t, VEC_NM);
    *rfbm = ((s->gpr[RDX] << 32) | (uint32_t)s->gpr[RAX]) & s->xcr0;
    return FAULT_NONE;
}

/* Is it one of those that xsave_fast.c may take, at *lin? */
static bool xs_plain(CpuState *s, Tcg *t, const Insn *i, enum Access a, gva_t *lin)
{
    return rex_w(i) && !unlikely(s->dr7 & 0xff) && !ea_lin(s, t, i, XSAVE_EXTENDED, a, lin);
}

static Fault xs_begin(CpuState *s, Tcg *t, const Insn *i, enum Access a, gva_t *lin)
{
    Fault f = FAULT_NONE;
    if (t->amd) { /* the first byte comes first */
        gva_t at = t->code64 ? 0 : ea_offset(s, i) + s->seg[i->seg].base;
        if (at & 63) /* before the segment's limit */
            return raise_gp0(t);
        f = ea_lin(s, t, i, 1, a, lin);
        if (!f && (*lin & 63))
            return raise_gp0(t);
        if (!f)
            f = mem_probe_operand(s, t, *lin, 1, 1, a);
    }
    if (!f)
        f = ea_lin(s, t, i, XSAVE_EXTENDED, a, lin);
    return !f && (*lin & 63) ? raise_gp0(t) : f;
}

/* Outside 64-bit mode the vector components hold 8 registers: only the first half of each moves
 * (SDM vol. 1, 13.5); Hi16_ZMM holds none. */
static uint32_t moved_bytes(const Tcg *t, unsigned component, uint32_t size)
{
    if (t->code64)
        return size;
    switch (component) {
    case XC_SSE:
    case XC_AVX:
    case XC_ZMM_HI256:
        return size / 2;
    case XC_HI16_ZMM:
        return 0;
    default:
        return size;
    }
}

/* FIP and FDP without REX.W: 32-bit offset and selector, the rest of the field 0. */
static void narrow_pointers(uint8_t *image)
{
    memset(image + 14, 0, 2);
    memset(image + 22, 0, 2);
}

/* host: where the whole area is, or NULL. */
static Fault xs_put(CpuState *s, Tcg *t, gva_t lin, uint8_t *host, const uint8_t *image,
                    uint32_t off, uint32_t n)
{
    if (host) {
        memcpy(host + off, image + off, n);
        return FAULT_NONE;
    }
    return n ? mem_write_bytes(s, t, lin + off, image + off, n) : FAULT_NONE;
}

/* Pointers that are not saved do not count. */
static uint64_t in_use_now(CpuState *s, const Tcg *t, uint64_t rfbm)
{
    FpuState *f = &s->fpu;
    uint16_t fop = f->fop;
    uint64_t fip = f->fip, fdp = f->fdp;
    if (t->vec->hides_pointers && !(f->fsw & FSW_ES)) {
        f->fop = 0;
        f->fip = f->fdp = 0;
    }
    uint64_t in_use = fpu_xinuse_of(f, rfbm);
    f->fop = fop;
    f->fip = fip;
    f->fdp = fdp;
    return in_use;
}

static Fault xsave_common(CpuState *s, Tcg *t, const Insn *i, bool optimised)
{
    gva_t lin;
    uint64_t rfbm, bv;
    uint8_t image[XSAVE_SIZE_MAX];
    const CpuidTable *cpuid = t->v->vm->cpuid;
    Fault f = xs_allowed(s, t, &rfbm);
    if (!f && xs_plain(s, t, i, ACC_WRITE, &lin) && xsave_fast(s, t, lin, rfbm, optimised))
        return FAULT_NONE;
    if (!f)
        f = xs_begin(s, t, i, ACC_WRITE, &lin);
    if (f)
        return f;
    size_t used = fpu_to_xsave(&s->fpu, cpuid, rfbm, image, sizeof(image));
    if (!used)
        return raise_unsupported(t, "XSAVE area larger than %zu bytes", sizeof(image));
    /* In one page that may be written: nothing can fail, and nobody watches. */
    uint8_t *host =
        used <= PAGE_SIZE ? tlb_hit(t, t->mmu_mode, lin, (unsigned)used, ACC_WRITE) : NULL;
    if (host && tlb_hit(t, t->mmu_mode, lin, 1, ACC_READ)) {
        memcpy(&bv, host + XSAVE_HEADER, 8);
    } else {
        host = NULL;
        f = mem_probe_last(s, t, lin, (unsigned)used, ACC_WRITE);
        if (!f)
            f = mem_probe_write(s, t, lin, (unsigned)used);
        if (!f)
            f = mem_read(s, t, lin + XSAVE_HEADER, 8, &bv);
        if (f)
            return f;
    }
    uint64_t in_use = in_use_now(s, t, rfbm), store = optimised ? rfbm & in_use : rfbm;
    if (!rex_w(i))
        narrow_pointers(image);
    hide_pointers(s, t, i, image);
    /* Faults are behind us; these writes cannot fail. */
    if (store & BIT(XC_X87)) {
        f = xs_put(s, t, lin, host, image, 0, AT_MXCSR);
        if (!f)
            f = xs_put(s, t, lin, host, image, AT_ST, AT_XMM - AT_ST);
    }
    if (!f && (rfbm & (BIT(XC_SSE) | BIT(XC_AVX))))
        f = xs_put(s, t, lin, host, image, AT_MXCSR, 8);
    for (unsigned c = XC_SSE; !f && c <= XC_PKRU; c++) {
        uint32_t off, size;
        if ((store & BIT(c)) && cpuid_xsave_layout(cpuid, c, &off, &size))
            f = xs_put(s, t, lin, host, image, off, moved_bytes(t, c, size));
    }
    return f ? f : mem_write(s, t, lin + XSAVE_HEADER, 8, (bv & ~rfbm) | (in_use & rfbm));
}
DEF_EXEC(xsave)
{
    return xsave_common(s, t, i, false);
}
DEF_EXEC(xsaveopt)
{
    return xsave_common(s, t, i, true);
}

/* Outside 64-bit mode the upper registers keep what they hold: the image gets it. */
static void keep_upper(const CpuState *s, const Tcg *t, uint64_t components, uint8_t *image)
{
    uint8_t own[XSAVE_SIZE_MAX];
    const CpuidTable *cpuid = t->v->vm->cpuid;
    if (t->code64 || !fpu_to_xsave(&s->fpu, cpuid, components, own, sizeof(own)))
        return;
    for (unsigned c = XC_SSE; c <= XC_HI16_ZMM; c++) {
        uint32_t off, size;
        if (!(components & BIT(c)) || !cpuid_xsave_layout(cpuid, c, &off, &size))
            continue;
        uint32_t moved = moved_bytes(t, c, size);
        memcpy(image + off + moved, own + off + moved, size - moved);
    }
}

static unsigned area_bytes(const CpuidTable *cpuid, uint64_t components)
{
    unsigned end = XSAVE_EXTENDED;
    uint32_t off, size;
    for (unsigned c = XC_AVX; c <= XC_PKRU; c++)
        if ((components & BIT(c)) && cpuid_xsave_layout(cpuid, c, &off, &size))
            end = MAX_OF(end, off + size);
    return end;
}

DEF_EXEC(xrstor)
{
    gva_t lin;
    uint64_t rfbm, bv;
    uint8_t image[XSAVE_SIZE_MAX];
    static const uint8_t zero[16];
    const CpuidTable *cpuid = t->v->vm->cpuid;
    Fault f = xs_allowed(s, t, &rfbm);
    if (!f && xs_plain(s, t, i, ACC_READ, &lin) && xrstor_fast(s, t, lin, rfbm))
        return FAULT_NONE;
    if (!f)
        f = xs_begin(s, t, i, ACC_READ, &lin);
    if (f)
        return f;
    unsigned bytes = area_bytes(cpuid, rfbm);
    const uint8_t *host = bytes <= PAGE_SIZE ? tlb_hit(t, t->mmu_mode, lin, bytes, ACC_READ) : NULL;
    if (host)
        memcpy(image, host, XSAVE_EXTENDED);
    else
        f = t->amd
                ? mem_read_bytes(s, t, lin + XSAVE_HEADER, image + XSAVE_HEADER, XSAVE_HEADER_SIZE)
                : mem_read_bytes(s, t, lin, image, XSAVE_EXTENDED);
    if (f)
        return f;
    memcpy(&bv, image + XSAVE_HEADER, 8);
    if ((bv & ~s->xcr0) || memcmp(image + XSAVE_HEADER + 8, zero, 16) != 0)
        return raise_gp0(t);
    if (t->amd && !host) { /* the end of what is asked for, before the rest */
        f = mem_probe_last(s, t, lin, bytes, ACC_READ);
        if (!f)
            f = mem_read_bytes(s, t, lin, image, XSAVE_HEADER);
        if (f)
            return f;
    }
    memset(image + XSAVE_EXTENDED, 0, sizeof(image) - XSAVE_EXTENDED);
    for (unsigned c = XC_AVX; c <= XC_PKRU; c++) {
        uint32_t off, size;
        if (!(bv & rfbm & BIT(c)) || !cpuid_xsave_layout(cpuid, c, &off, &size))
            continue;
        if (off > sizeof(image) || size > sizeof(image) - off)
            return raise_unsupported(t, "XSAVE component %u at offset %u", c, off);
        if (host)
            memcpy(image + off, host + off, size);
        else
            f = mem_read_bytes(s, t, lin + off, image + off, size);
        if (f)
            return f;
    }
    if (!t->code64) {
        /* Initialised components too reach only the lower registers: load them from zeroes. */
        uint64_t init = rfbm & ~bv & (BIT(XC_SSE) | BIT(XC_AVX) | BIT(XC_ZMM_HI256));
        if (init & BIT(XC_SSE))
            memset(image + AT_XMM, 0, 16 * XMM_BYTES);
        bv |= init | (rfbm & BIT(XC_HI16_ZMM));
        keep_upper(s, t, bv & rfbm, image);
        memcpy(image + XSAVE_HEADER, &bv, 8);
    }
    if (!rex_w(i))
        narrow_pointers(image);
    uint64_t in_use = s->fpu.xstate_bv; /* no instruction keeps it: nor does xrstor_fast() */
    if (!fpu_from_xsave(&s->fpu, cpuid, rfbm, image, sizeof(image)))
        return raise_gp0(t); /* reserved MXCSR bits */
    if (rfbm & BIT(XC_X87))
        pointers_in(s, t, i);
    t->zmm_clean = !(s->fpu.xstate_bv & BIT(XC_ZMM_HI256));
    s->fpu.xstate_bv = in_use;
    return FAULT_NONE;
}
