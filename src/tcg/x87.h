/*
 * x87 instructions run as themselves too, each on the guest's whole x87 state: FXRSTOR, the
 * instruction with the guest's own control word, FXSAVE. Unmasked exceptions need no care: the x87
 * reports one only at the next waiting instruction, and what comes next is FXSAVE, which does not
 * wait. So stack faults, denormals, C1 and results are the silicon's.
 */
#ifndef TANDEM_TCG_X87_H
#define TANDEM_TCG_X87_H

#include "tcg/tcg.h"
#include "tcg/vec.h"

/* x87_thunk.S: `code` on the state in image (512 bytes, FXSAVE64 form), its memory operand at mem,
 * the arithmetic flags (LAHF/SETO form) in *cc. Leaves the host's x87 as after FNINIT. */
void x87_enter(uint8_t image[512], void *mem, const uint8_t *code, uint16_t *cc);
/* The 512 register forms by opcode - D8 and ModRM - C0; the memory forms by opcode - D8 and
 * ModRM.reg. Each is the instruction and RET; those that no row names are never called. */
extern const uint8_t x87_reg_code[8][64][4], x87_mem_code[8][8][4];

/*
 * The short way (x87_fast.c): the common instructions when no exception is unmasked and the stack
 * is as they need it, with only the registers they use. False: nothing was done, take the long one.
 * mem: the operand, read already or to be written.
 */
bool x87_fast(CpuState *s, Tcg *t, const Insn *i, void *mem);
uint32_t x87_two(FpReg *st0, FpReg *sti, const uint8_t *code, const uint16_t *fcw);
uint32_t x87_one(FpReg *st0, void *mem, const uint8_t *code, const uint16_t *fcw);
uint32_t x87_popping(FpReg *st0, void *mem, const uint8_t *code, const uint16_t *fcw);
uint32_t x87_pushing(FpReg *dest, void *mem, const uint8_t *code, const uint16_t *fcw);

/* FXSAVE image of the x87 state, with pointers 0; its first 416 bytes but for XMM. And registers,
 * FSW and tags out of one. */
void x87_image(const FpuState *, uint8_t *fx);
void x87_take(FpuState *, const uint8_t *fx);

/* FIP, FDP and FOP after an instruction, as far as the processor keeps them. */
void x87_pointers(CpuState *s, const Tcg *t, const Insn *i);
/* Finds out whether it does: AMD's do so for unmasked exceptions only. */
void x87_probe(VecCtx *c);

/* FIP and FDP as FXRSTOR64 and XRSTOR64 load them: of AMD's Zen, as canonical addresses. */
static inline void x87_pointers_in(const VecCtx *c, FpuState *f)
{
    f->fip = (uint64_t)((int64_t)(f->fip << c->pointer_pad) >> c->pointer_pad);
    f->fdp = (uint64_t)((int64_t)(f->fdp << c->pointer_pad) >> c->pointer_pad);
}

/* ES and B follow the flags and masks. */
static inline void x87_update_es(FpuState *f)
{
    f->fsw &= 0x7f7f;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= FSW_ES | FSW_B;
}

/* CR0.EM or TS: #NM; then a pending exception unless the row has A_NOWAIT. */
static inline Fault x87_check(CpuState *s, Tcg *t, uint32_t attr)
{
    if (unlikely(s->cr0 & (CR0_EM | CR0_TS)))
        return raise_exc(t, VEC_NM);
    return attr & A_NOWAIT ? FAULT_NONE : x87_pending(s, t);
}

/* FNINIT (SDM vol. 2): the data registers keep their bytes. */
void x87_init(FpuState *);
/* The two-bit tags of FSTENV, from the abridged ones and the registers' contents. */
uint16_t x87_full_tags(const FpuState *);

#endif
