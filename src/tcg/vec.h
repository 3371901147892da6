/*
 * Vector instructions run as themselves. Guest and host have the same ISA, so no instruction of
 * MMX, SSE or AVX has its meaning written down here: for each distinct form (row, immediate, W, L,
 * register or memory) the engine makes a native thunk once and calls it ever after.
 *
 * Example: `paddb xmm7, [rbx]` becomes
 *
 *     movups xmm1, [rdi]        ; ModRM.reg's slot, &fpu.v[7]
 *     paddb  xmm1, [rsi]        ; the operand's host address, or a copy of it
 *     movups [rdi], xmm1
 *     ret
 *
 * and serves every PADDB with a memory operand, whatever its registers.
 *
 * An instruction that can raise SIMD floating-point exceptions has two thunks. `fast` is for a
 * guest that masks all of them: it runs with the guest's MXCSR, which is loaded once and stays in
 * the host's register (Tcg.fp_live) until vec_release(), and tells the flags after. That matters:
 * LDMXCSR costs as much as the instruction, and one that changes flags, or an instruction that sets
 * a flag which was clear, costs 50 to 100 cycles. `fn`, for all others, runs with exceptions masked
 * and flags clear, and its result waits in VecCtx.out until fp_unmasked() has looked at the flags.
 */
#ifndef TANDEM_TCG_VEC_H
#define TANDEM_TCG_VEC_H

#include "cpu/xsave.h"
#include "tcg/tcg.h"

/* Where the guest's CPU has the components of an XSAVE area: xsave_fast.c. */
typedef struct XsaveMap {
    uint64_t offered;
    uint32_t off[XC_PKRU + 1], end[XC_PKRU + 1];
    bool known; /* all is laid out as FpuState has places for */
} XsaveMap;

/* Thunks address this by 8-bit displacements from RCX: offsets are fixed in vec_thunk.c. */
typedef struct VecCtx {
    uint32_t mxcsr_in;
    uint32_t
        mxcsr_out; /* after an instruction; while Tcg.fp_live, what the host's register holds */
    uint32_t mxcsr_host;
    uint16_t cc;            /* flags an instruction left, LAHF/SETO form */
    uint64_t rax, rdx, rcx; /* PCMPxSTRx: in, in, out */
    _Alignas(
        64) uint8_t out[64]; /* general register results, and vector results not yet committed */
    _Alignas(64) uint8_t buf[64];         /* copy of the memory operand */
    _Alignas(64) uint8_t fx[512];         /* x87 state an instruction runs on: x87.h */
    bool keeps_fip, keeps_fdp, keeps_fop; /* x87_probe() */
    bool hides_pointers; /* AMD: images of FXSAVE and XSAVE have them with FSW.ES only */
    uint8_t pointer_pad; /* upper bits of FIP and FDP that are copies of the one below */
    XsaveMap xsave;
    GHashTable *thunks;     /* uint64_t key -> VecThunk */
    uint8_t *code_rw;       /* one memfd, mapped twice: written here, */
    const uint8_t *code_rx; /* run there */
    size_t code_used, code_size;
} VecCtx;

/* reg, rm (or memory), vvvv, context, is4 (EVEX: the mask), XMM0: slots in CpuState. */
typedef void VecFn(void *reg, void *rm, void *vvvv, VecCtx *c, void *is4, void *xmm0);

enum VecMem { VM_NONE, VM_READ, VM_WRITE };
enum VecDest { VD_NONE, VD_REG, VD_RM, VD_VVVV };
enum VecClass { VC_NONE, VC_VEC, VC_MMX, VC_GPR, VC_MASK };

typedef struct VecThunk {
    uint64_t key;
    VecFn *fn, *fast; /* the same one unless A_FP */
    uint32_t attr;    /* of the row */
    uint8_t mem_size;
    uint8_t mem;        /* enum VecMem */
    uint8_t dest;       /* enum VecDest: which operand is written, when not memory */
    uint8_t dest_class; /* enum VecClass */
    uint8_t out_size;   /* bytes to commit from VecCtx.out; 0: the thunk has stored its result */
    bool flags_out, is_string, xmm0_out, is_vex, is_evex;
    bool wide;                               /* vector registers are ZMM to the guest */
    uint8_t reg_shift, rm_shift, vvvv_shift; /* slot = base + number << shift */
    uint32_t reg_base, rm_base, vvvv_base;   /* offsets in CpuState */
} VecThunk;

/* What the row's operands make of this instruction, without its code. th->wide is given. */
void vec_describe(const Insn *i, VecThunk *th);
/* Writes the code of th->fn, or (fast) of th->fast, at most VEC_THUNK_MAX bytes; returns its
 * length.
 */
enum { VEC_THUNK_MAX = 128 };
unsigned vec_emit(uint8_t *code, const Insn *i, const VecThunk *th, bool fast);
/* A handler for this form that is quicker than the row's, or NULL. */
ExecFn *vec_handler(const Insn *i, const VecThunk *th);

/* Bytes of an operand (enum Operand) of a vector row. */
unsigned vec_operand_bytes(const Insn *i, unsigned op);

extern const ExecSet exec_vec, exec_vec_str, exec_vgather, exec_evex, exec_egather, exec_escatter;

/* VSIB: decode() has read it as an ordinary SIB byte. Puts the vector index register and the scale
 * right, or makes the instruction #UD. */
void vgather_prepare(Insn *i, const uint8_t *bytes);
void egather_prepare(Insn *i, const uint8_t *bytes);

/* ---- checks before a vector or x87 instruction (SDM vol. 3, 2.5 and 14) ---- */
/* A pending unmasked x87 exception: #MF, or what CR0.NE = 0 makes of it. */
Fault x87_pending(CpuState *s, Tcg *t);
typedef struct VecSlots { /* where a thunk finds its operands */
    void *reg, *rm, *vvvv, *is4, *xmm0;
} VecSlots;
/* Runs th on its operands: stores the result, or (*waits) leaves it in VecCtx.out for vec_commit(),
 * when the thunk was one that must not store it before its memory operand is written. */
Fault vec_run(CpuState *s, Tcg *t, const Insn *i, const VecThunk *th, const VecSlots *p,
              bool *waits);
void vec_commit(CpuState *s, Tcg *t, const Insn *i, const VecThunk *th, const VecSlots *p,
                bool waits);
/* Runs the thunk with VecCtx.mxcsr_in, whatever it leaves unmasked. Returns 0, or the MXCSR of the
 * exception that ended it, with nothing stored. */
uint32_t vec_trap_run(VecCtx *c, const VecThunk *th, const VecSlots *p);

Fault vec_check_slow(CpuState *s, Tcg *t, uint32_t attr);

enum { FSW_ES = 0x80, FSW_B = 0x8000, FSW_TOP = 0x3800 };

static inline Fault vec_check(CpuState *s, Tcg *t, uint32_t attr)
{
    if (likely(!(s->cr0 & (CR0_EM | CR0_TS)) && (s->cr4 & CR4_OSFXSR) && !(attr & (A_AVX | A_MMX))))
        return FAULT_NONE;
    return vec_check_slow(s, t, attr);
}

/* The x87 side of an MMX instruction: TOP 0, all registers valid (SDM vol. 1, 9.5.1). */
static inline void mmx_enter(CpuState *s)
{
    s->fpu.fsw &= (uint16_t)~FSW_TOP;
    s->fpu.ftw = 0xff;
}

#define MXCSR_MM (1u << 17) /* AMD: legacy SSE operands need no alignment */

/* Address of i's memory operand, after the alignment check of legacy SSE and of aligned moves. */
static inline Fault vec_ea(CpuState *s, Tcg *t, const Insn *i, uint32_t attr, unsigned size,
                           enum Access a, gva_t *lin)
{
    Fault f = ea_lin(s, t, i, size, a, lin);
    if (unlikely(attr & A_ALIGN16)) {
        /* AMD looks at alignment before the segment's limit. */
        gva_t at = f && t->amd ? ea_offset(s, i) + s->seg[i->seg].base : *lin;
        bool wrong = at & (size - 1), relaxed = (s->fpu.mxcsr & MXCSR_MM) && !(attr & A_AVX);
        if (wrong && !relaxed && (!f || t->amd))
            return raise_gp0(t);
    }
    return f;
}

/* Of one element that is accessed by itself: off is not cut to the address size. */
static inline Fault vec_offset_lin(CpuState *s, Tcg *t, const Insn *i, uint64_t off, unsigned size,
                                   enum Access a, gva_t *lin)
{
    Fault f = seg_lin(s, t, i->seg, off, size, a, lin);
    if (f && i->seg == SEG_NONE && i->dseg == SS)
        t->exc.vector = VEC_SS;
    return f;
}
static inline Fault vec_element_lin(CpuState *s, Tcg *t, const Insn *i, uint64_t off, unsigned size,
                                    enum Access a, gva_t *lin)
{
    return vec_offset_lin(s, t, i, off & size_mask(i->asize), size, a, lin);
}

#endif
