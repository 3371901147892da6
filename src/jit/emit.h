/*
 * The translator's assembler: host instructions as bytes, one function for each shape.
 *
 * encode() writes any legacy or VEX instruction from its parts, so that a guest instruction can be
 * written again with other registers or another memory operand. The helpers below it are the few
 * fixed instructions that translated code is glued together with; none of them changes flags.
 */
#ifndef TANDEM_JIT_EMIT_H
#define TANDEM_JIT_EMIT_H

#include <string.h>
#include "base/types.h"
#include "tcg/insn.h"

enum { /* host registers, by number in encodings */
       H_AX,
       H_CX,
       H_DX,
       H_BX,
       H_SP,
       H_BP,
       H_SI,
       H_DI,
       H_R8,
       H_R9,
       H_R10,
       H_R11,
       H_R12,
       H_R13,
       H_R14,
       H_R15,
       H_NONE = 0xff,
};

/* A host memory operand: [base + index * 2^scale + disp], or gs:[...] */
typedef struct HostMem {
    uint8_t base, index, scale; /* H_NONE: without */
    bool gs;
    int32_t disp;
} HostMem;

/* The parts of an instruction. */
typedef struct Enc {
    uint8_t map; /* enum OpMap */
    uint8_t opcode;
    uint8_t pfx; /* PFX_NP, PFX_66, PFX_F3, PFX_F2 */
    bool p66;    /* operand size 16, besides a mandatory prefix */
    bool lock, w, l;
    bool modrm;
    bool rex;     /* SPL to DIL and not AH to BH */
    uint8_t evex; /* EVEX maps: z, L'L, b, aaa, as in Insn.evex */
    uint8_t vvvv;
    uint8_t reg, rm; /* rm: register; or see mem */
    const HostMem *mem;
    uint8_t imm_size;
    int64_t imm;
} Enc;

typedef struct Code {
    uint8_t *p;   /* where the next byte is written */
    uint8_t *end; /* encode() never writes behind it; overflow tells */
    int64_t run;  /* add to an address written to, to have the address it runs at */
    bool overflow;
} Code;

static inline void code8(Code *c, unsigned v)
{
    if (c->p < c->end)
        *c->p++ = (uint8_t)v;
    else
        c->overflow = true;
}
static inline void code_bytes(Code *c, const void *b, unsigned n)
{
    if ((size_t)(c->end - c->p) < n) {
        c->overflow = true;
        return;
    }
    memcpy(c->p, b, n);
    c->p += n;
}
/* The bytes of a string literal. */
#define RAW(c, s) code_bytes(c, s, sizeof(s) - 1)
static inline void code32(Code *c, uint32_t v)
{
    code_bytes(c, &v, 4);
}
static inline void code64(Code *c, uint64_t v)
{
    code_bytes(c, &v, 8);
}

void encode(Code *, const Enc *);

/* ---- fixed instructions ---- */
static inline HostMem gs_mem(int32_t disp)
{
    return (HostMem){.base = H_NONE, .index = H_NONE, .gs = true, .disp = disp};
}
/* opcode of the 1-byte map with a register and a memory operand; w: 64 bits */
static inline void emit_rm(Code *c, unsigned opcode, bool w, unsigned reg, HostMem m)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = (uint8_t)opcode,
                     .w = w,
                     .modrm = true,
                     .reg = (uint8_t)reg,
                     .mem = &m});
}
static inline void emit_load(Code *c, unsigned reg, HostMem m)
{
    emit_rm(c, 0x8b, true, reg, m);
}
static inline void emit_load32(Code *c, unsigned reg, HostMem m)
{
    emit_rm(c, 0x8b, false, reg, m);
}
static inline void emit_store(Code *c, unsigned reg, HostMem m)
{
    emit_rm(c, 0x89, true, reg, m);
}
static inline void emit_lea(Code *c, bool w, unsigned reg, HostMem m)
{
    emit_rm(c, 0x8d, w, reg, m);
}
static inline void emit_mov(Code *c, bool w, unsigned to, unsigned from)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0x8b,
                     .w = w,
                     .modrm = true,
                     .reg = (uint8_t)to,
                     .rm = (uint8_t)from});
}
static inline void emit_imm32(Code *c, unsigned reg, uint32_t v)
{
    if (reg >= 8)
        code8(c, 0x41);
    code8(c, 0xb8 | (reg & 7));
    code32(c, v);
}
void emit_imm64(Code *, unsigned reg, uint64_t v); /* the shortest MOV */
/* rel32 forms; the target is an address as code runs. Return where the rel32 was written. */
/* BMI2, which leaves flags alone. SHLX (PFX_66), SARX (PFX_F3) or SHRX (PFX_F2): to = from by
 * count. RORX: to = `from`, or what is in memory where m is not NULL, turned right by n. 64 bits.
 */
void emit_shift(Code *, unsigned pfx, bool w, unsigned to, unsigned from, unsigned count);
void emit_rorx(Code *, unsigned to, unsigned from, const HostMem *m, unsigned n);
/* The number of a flag, or of the lowest bit of a field. */
#define bit_of(flag) ((unsigned)__builtin_ctzll(flag))
/* PEXT of `from` by the mask in m. 64 bits. */
void emit_pext(Code *, unsigned to, unsigned from, HostMem m);
/* to = the byte or the 16 bits in m, or (NULL) the lowest of rcx. */
void emit_zero_ext(Code *, unsigned bits, unsigned to, const HostMem *m);
/* Fields of n bits from bit `lo` on; flags stay. rcx = the field of what is in cl, lo + n <= 8.
 * reg without the field, n <= 3. */
void emit_field(Code *, unsigned lo, unsigned n);
void emit_clear_field(Code *, unsigned reg, unsigned lo, unsigned n);
uint8_t *emit_jmp(Code *, const uint8_t *target);
uint8_t *emit_jcc(Code *, unsigned condition, const uint8_t *target);
uint8_t *emit_call(Code *, const uint8_t *target);
/* Sets the rel32 at `at` (as written) to lead to target (as it runs). */
void patch_rel32(uint8_t *at, int64_t run, const uint8_t *target);

/* The address that the next byte will run at. */
static inline const uint8_t *here(const Code *c)
{
    return c->p + c->run;
}

#endif
