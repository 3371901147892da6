/*
 * FXSAVE and XSAVE images made from FpuState, and back. Pure data: no vector instruction runs here,
 * so any thread may call these. Formats: SDM vol. 1, 10.5 (FXSAVE) and 13.4 (XSAVE, standard form).
 */
#ifndef TANDEM_CPU_XSAVE_H
#define TANDEM_CPU_XSAVE_H

#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"

enum {
    FXSAVE_SIZE = 512,
    XSAVE_HEADER = 512, /* offset of XSTATE_BV, XCOMP_BV */
    XSAVE_HEADER_SIZE = 64,
    XSAVE_EXTENDED = 576,  /* offset of the extended region */
    XSAVE_SIZE_MAX = 2696, /* standard form up to PKRU */
};

enum XsaveComponent {
    XC_X87 = 0,
    XC_SSE = 1,
    XC_AVX = 2,
    XC_OPMASK = 5,
    XC_ZMM_HI256 = 6,
    XC_HI16_ZMM = 7,
    XC_PKRU = 9,
};
/* Those FpuState has a place for. */
#define XCR0_KNOWN                                                                  \
    (BIT(XC_X87) | BIT(XC_SSE) | BIT(XC_AVX) | BIT(XC_OPMASK) | BIT(XC_ZMM_HI256) | \
     BIT(XC_HI16_ZMM) | BIT(XC_PKRU))

/*
 * All 512 bytes are written; those without a meaning are 0. rex_w: FIP and FDP as 64-bit offsets
 * (FXSAVE64); else 32-bit offsets with selectors.
 */
void fpu_to_fxsave(const FpuState *, uint8_t image[512], bool rex_w);
/* Bits of MXCSR outside mxcsr_mask are dropped (the instruction's #GP is its handler's). */
void fpu_from_fxsave(FpuState *, const uint8_t image[512], bool rex_w);

/* Of it, the x87 registers with their control words: bytes 0 to 23 and the 16 bytes of each of ST0
 * to ST7, whose last 6 are left alone. */
void fpu_x87_out(const FpuState *, uint8_t *image, bool rex_w);
void fpu_x87_in(FpuState *, const uint8_t *image, bool rex_w);
/* The bits that MXCSR has. */
uint32_t fpu_mxcsr_mask(const FpuState *);

/* The components that are not in their initial state (SDM vol. 1, 13.6): what XSTATE_BV says. It is
 * worked out from the registers, so no instruction has to keep FpuState.xstate_bv. MXCSR does not
 * count: XSAVE stores and XRSTOR loads it apart from XSTATE_BV in the standard form. */
uint64_t fpu_xinuse(const FpuState *);
uint64_t fpu_xinuse_of(const FpuState *, uint64_t mask); /* of these components */
/* Brings the components of mask to their initial state. MXCSR is untouched. */
void fpu_init_components(FpuState *, uint64_t mask);

/*
 * Standard-form image of the components of rfbm that the table's CPU has; XSTATE_BV is
 * fpu_xinuse() & rfbm. FIP and FDP in 64-bit form, as the kernel keeps them. The first `used` bytes
 * are written, zero where there is nothing; returns `used` (end of the last component), or 0 with
 * nothing written if size is smaller.
 */
size_t fpu_to_xsave(const FpuState *, const CpuidTable *, uint64_t rfbm, uint8_t *image,
                    size_t size);
/*
 * Back: of the components of rfbm, those in XSTATE_BV are loaded and the others initialised; MXCSR
 * is loaded when rfbm has SSE or AVX. xstate_bv is brought up to date. False, with nothing changed:
 * size too small, a bit of XSTATE_BV the CPU lacks, not the standard form, a reserved bit of MXCSR.
 */
bool fpu_from_xsave(FpuState *, const CpuidTable *, uint64_t rfbm, const uint8_t *image,
                    size_t size);

#endif
