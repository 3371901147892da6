/*
 * What integer handlers share: register access, conditions, and arithmetic done by the host's own
 * instruction, flags and all.
 *
 * Naming: NAME_r32 is a handler's register form for 32-bit operands, NAME_m32 its memory form;
 * EXEC_SET gathers them. Byte registers are byte offsets into gpr[] (see reg8_offset()).
 */
#ifndef TANDEM_TCG_EXEC_H
#define TANDEM_TCG_EXEC_H

#include "tcg/tcg.h"

#define EXEC_ARGS CpuState *s G_GNUC_UNUSED, Tcg *t G_GNUC_UNUSED, const Insn *i G_GNUC_UNUSED

#define EXEC_SET(name)             \
    const ExecSet exec_##name = {{ \
        {name##_r8, name##_m8},    \
        {name##_r16, name##_m16},  \
        {name##_r32, name##_m32},  \
        {name##_r64, name##_m64},  \
    }}
/* No byte form. */
#define EXEC_SET_V(name)           \
    const ExecSet exec_##name = {{ \
        {NULL, NULL},              \
        {name##_r16, name##_m16},  \
        {name##_r32, name##_m32},  \
        {name##_r64, name##_m64},  \
    }}

/* X(bits, type, instruction suffix, register modifier, constraint) */
#define FOR_SIZES_V(X, ...)                \
    X(16, uint16_t, "w", "w", __VA_ARGS__) \
    X(32, uint32_t, "l", "k", __VA_ARGS__) \
    X(64, uint64_t, "q", "q", __VA_ARGS__)
#define FOR_SIZES(X, ...) X(8, uint8_t, "b", "b", __VA_ARGS__) FOR_SIZES_V(X, __VA_ARGS__)

/* ---- registers ---- */
static inline uint8_t rd8(const CpuState *s, unsigned off)
{
    return ((const uint8_t *)s->gpr)[off];
}
static inline uint16_t rd16(const CpuState *s, unsigned r)
{
    return (uint16_t)s->gpr[r];
}
static inline uint32_t rd32(const CpuState *s, unsigned r)
{
    return (uint32_t)s->gpr[r];
}
static inline uint64_t rd64(const CpuState *s, unsigned r)
{
    return s->gpr[r];
}
static inline void wr8(CpuState *s, unsigned off, uint8_t v)
{
    ((uint8_t *)s->gpr)[off] = v;
}
static inline void wr16(CpuState *s, unsigned r, uint16_t v)
{
    __builtin_memcpy(&s->gpr[r], &v, 2);
}
static inline void wr32(CpuState *s, unsigned r, uint32_t v)
{
    s->gpr[r] = v;
}
static inline void wr64(CpuState *s, unsigned r, uint64_t v)
{
    s->gpr[r] = v;
}
/* By operand size in bytes; size 1 is a low byte register here (AL ... DIL). */
static inline uint64_t rd_size(const CpuState *s, unsigned r, unsigned size)
{
    return s->gpr[r] & size_mask(size);
}
static inline void wr_size(CpuState *s, unsigned r, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        wr8(s, r * 8, (uint8_t)v);
        break;
    case 2:
        wr16(s, r, (uint16_t)v);
        break;
    case 4:
        wr32(s, r, (uint32_t)v);
        break;
    default:
        wr64(s, r, v);
    }
}

/* ---- conditions, from the LAHF/SETO form ---- */
enum {
    CC_OF = 1,
    CC_CF = FL_CF << 8,
    CC_PF = FL_PF << 8,
    CC_AF = FL_AF << 8,
    CC_ZF = FL_ZF << 8,
    CC_SF = FL_SF << 8,
};
static inline __attribute__((always_inline)) bool cond(uint16_t cc, unsigned n)
{
    bool v;
    switch (n >> 1) {
    case 0:
        v = cc & CC_OF;
        break;
    case 1:
        v = cc & CC_CF;
        break;
    case 2:
        v = cc & CC_ZF;
        break;
    case 3:
        v = cc & (CC_CF | CC_ZF);
        break;
    case 4:
        v = cc & CC_SF;
        break;
    case 5:
        v = cc & CC_PF;
        break;
    case 6:
        v = (cc >> 15 ^ cc) & 1;
        break;
    default:
        v = (cc & CC_ZF) || ((cc >> 15 ^ cc) & 1);
    }
    return n & 1 ? !v : v;
}
#define FOR_CONDITIONS(X) \
    X(0, o)               \
    X(1, no)              \
    X(2, b)               \
    X(3, ae)              \
    X(4, e)               \
    X(5, ne)              \
    X(6, be)              \
    X(7, a)               \
    X(8, s)               \
    X(9, ns)              \
    X(10, p)              \
    X(11, np)             \
    X(12, l)              \
    X(13, ge)             \
    X(14, le)             \
    X(15, g)

/* ---- host flags ---- */
/* AX = cc to the host's arithmetic flags: AL + 7F overflows exactly when OF was set. */
#define ASM_FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define ASM_FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* For tests: LZCNT, TZCNT and BMI are computed as on a host that has none of them (exec_bit.c). */
extern bool exec_bit_computed;

/* ---- locked and slow read-modify-write ---- */
/* What an instruction makes of its memory operand: the new value; *cc is changed. b: the other. */
typedef uint64_t RmwFn(uint64_t a, uint64_t b, uint16_t *cc);
/* For locked operands, and when the TLB does not allow the write at once. *old: value before, may
 * be NULL. t->cc is committed. */
Fault rmw_slow(CpuState *s, Tcg *t, const Insn *i, gva_t lin, unsigned size, uint64_t b, RmwFn *op,
               uint64_t *old);

/* Stack at its fast: 64-bit mode, or a flat 32-bit one. NULL: use stack_push()/stack_pop(). */
static inline void *stack_fast(CpuState *s, Tcg *t, unsigned size, int64_t move, enum Access a,
                               uint64_t *rsp)
{
    uint64_t sp = s->gpr[RSP] + (uint64_t)move;
    if (!t->code64) {
        if ((t->decode_mode & (DM_FLAT | DM_SS32)) != (DM_FLAT | DM_SS32))
            return NULL;
        sp = (uint32_t)sp;
    }
    *rsp = sp;
    uint64_t lin = a == ACC_WRITE ? sp : t->code64 ? s->gpr[RSP] : (uint32_t)s->gpr[RSP];
    return tlb_hit(t, t->mmu_mode, lin, size, a);
}

#endif
