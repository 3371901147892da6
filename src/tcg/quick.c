/*
 * Quick forms of the handlers that run most.
 *
 * An instruction's plain handler (Insn.exec) does one instruction and returns. Its quick form
 * (Insn.go) does the same where nothing special happens and goes on to the next instruction of the
 * block by a tail call, so that a block runs without coming back to the loop between two of its
 * instructions:
 *
 *     add rax, rbx -> go_on() -> mov rcx, [rax] -> go_on() -> jne, the last: its plain handler
 *
 * What is special (a TLB miss, a segment that is not flat, LOCK) a quick form leaves to the plain
 * handler, through go_any(); that one also stands in for instructions that have no quick form. So
 * every block can be run either way, and plain handlers are all there is to being right.
 *
 * A comparison before the Jcc that ends the block does both.
 *
 * Quiet forms leave the flags alone. An instruction gets its quiet form when all flags it writes
 * are written again before anything reads them, and nothing in between can fault, store or end the
 * block: nobody ever sees the difference.
 */
#include <pthread.h>
#include "tcg/block.h"
#include "tcg/exec.h"
#include "tcg/exec_native.h"

#define QUICK         static Fault __attribute__((hot))
#define ALWAYS_INLINE inline __attribute__((always_inline))

static ALWAYS_INLINE Fault go_on(CpuState *s, Tcg *t, const Insn *i)
{
    i++;
    t->at = i;
    return i->go(s, t, i);
}

/* By the plain handler. */
static __attribute__((noinline)) Fault go_any(CpuState *s, Tcg *t, const Insn *i)
{
    Fault f = i->exec(s, t, i);
    if (unlikely(f))
        return f;
    return go_on(s, t, i);
}

/* Host address of a memory operand in a flat segment, or NULL. */
static ALWAYS_INLINE void *quick_mem(const CpuState *s, Tcg *t, const Insn *i, unsigned size,
                                     enum Access a)
{
    uint64_t ea = s->gpr[i->base] + (s->gpr[i->index] << i->scale) + (uint64_t)i->disp;
    return tlb_hit(t, t->mmu_mode, i->flags & IF_CODE64 ? ea : (uint32_t)ea, size, a);
}
#define QUICK_LOAD(T, var)                                       \
    T var;                                                       \
    {                                                            \
        const void *p = quick_mem(s, t, i, sizeof(T), ACC_READ); \
        if (unlikely(!p))                                        \
            return go_any(s, t, i);                              \
        __builtin_memcpy(&var, p, sizeof(T));                    \
    }

/* ---- moves ---- */
#define MOVES(bits, T, sfx, m, ...)                         \
    QUICK mov_EG_r##bits(EXEC_ARGS)                         \
    {                                                       \
        wr##bits(s, i->rm, rd##bits(s, i->reg));            \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_EG_m##bits(EXEC_ARGS)                         \
    {                                                       \
        void *p = quick_mem(s, t, i, sizeof(T), ACC_WRITE); \
        if (unlikely(!p))                                   \
            return go_any(s, t, i);                         \
        T v = rd##bits(s, i->reg);                          \
        __builtin_memcpy(p, &v, sizeof(T));                 \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_GE_r##bits(EXEC_ARGS)                         \
    {                                                       \
        wr##bits(s, i->reg, rd##bits(s, i->rm));            \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_GE_m##bits(EXEC_ARGS)                         \
    {                                                       \
        QUICK_LOAD(T, v)                                    \
        wr##bits(s, i->reg, v);                             \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_EI_r##bits(EXEC_ARGS)                         \
    {                                                       \
        wr##bits(s, i->rm, (T)i->imm);                      \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_EI_m##bits(EXEC_ARGS)                         \
    {                                                       \
        void *p = quick_mem(s, t, i, sizeof(T), ACC_WRITE); \
        if (unlikely(!p))                                   \
            return go_any(s, t, i);                         \
        T v = (T)i->imm;                                    \
        __builtin_memcpy(p, &v, sizeof(T));                 \
        return go_on(s, t, i);                              \
    }                                                       \
    QUICK mov_ZI_r##bits(EXEC_ARGS)                         \
    {                                                       \
        wr##bits(s, i->reg, (T)i->imm);                     \
        return go_on(s, t, i);                              \
    }
FOR_SIZES(MOVES, 0)

#define EXTENDS(bits, T, sfx, m, name, sbits, ST, CAST)    \
    QUICK name##_r##bits(EXEC_ARGS)                        \
    {                                                      \
        wr##bits(s, i->reg, (T)(CAST)rd##sbits(s, i->rm)); \
        return go_on(s, t, i);                             \
    }                                                      \
    QUICK name##_m##bits(EXEC_ARGS)                        \
    {                                                      \
        QUICK_LOAD(ST, v)                                  \
        wr##bits(s, i->reg, (T)(CAST)v);                   \
        return go_on(s, t, i);                             \
    }
FOR_SIZES_V(EXTENDS, movzx_b, 8, uint8_t, uint8_t)
FOR_SIZES_V(EXTENDS, movzx_w, 16, uint16_t, uint16_t)
FOR_SIZES_V(EXTENDS, movsx_b, 8, uint8_t, int8_t)
FOR_SIZES_V(EXTENDS, movsx_w, 16, uint16_t, int16_t)
FOR_SIZES_V(EXTENDS, movsxd, 32, uint32_t, int32_t)

#define LEAS(bits, T, sfx, m, ...)               \
    QUICK lea_m##bits(EXEC_ARGS)                 \
    {                                            \
        wr##bits(s, i->reg, (T)ea_offset(s, i)); \
        return go_on(s, t, i);                   \
    }
FOR_SIZES_V(LEAS, 0)

#define CMOVS(bits, T, sfx, m, n, cnd)                     \
    QUICK cmov##cnd##_r##bits(EXEC_ARGS)                   \
    {                                                      \
        T a = rd##bits(s, i->rm), b = rd##bits(s, i->reg); \
        wr##bits(s, i->reg, cond(t->cc, n) ? a : b);       \
        return go_on(s, t, i);                             \
    }
#define SETS(n, cnd)                   \
    FOR_SIZES_V(CMOVS, n, cnd)         \
    QUICK set##cnd##_r8(EXEC_ARGS)     \
    {                                  \
        wr8(s, i->rm, cond(t->cc, n)); \
        return go_on(s, t, i);         \
    }
FOR_CONDITIONS(SETS)

QUICK nop_r8(EXEC_ARGS)
{
    return go_on(s, t, i);
}

/* 90 is a NOP, and no exchange of EAX with itself, which would clear its upper half. */
QUICK xchg_Z_r32(EXEC_ARGS)
{
    if (i->reg != RAX) {
        uint32_t v = rd32(s, RAX);
        wr32(s, RAX, rd32(s, i->reg));
        wr32(s, i->reg, v);
    }
    return go_on(s, t, i);
}

/* ---- stack: 64-bit mode's own size ---- */
#define QUICK_PUSH(value)                               \
    uint64_t v = (value), rsp;                          \
    void *p = stack_fast(s, t, 8, -8, ACC_WRITE, &rsp); \
    if (unlikely(!p))                                   \
        return go_any(s, t, i);                         \
    __builtin_memcpy(p, &v, 8);                         \
    s->gpr[RSP] = rsp;                                  \
    return go_on(s, t, i);
QUICK push_Z_r64(EXEC_ARGS){QUICK_PUSH(s->gpr[i->reg])} QUICK
    push_I_r64(EXEC_ARGS){QUICK_PUSH((uint64_t)i->imm)} QUICK pop_Z_r64(EXEC_ARGS)
{
    uint64_t v, rsp;
    const void *p = stack_fast(s, t, 8, 8, ACC_READ, &rsp);
    if (unlikely(!p))
        return go_any(s, t, i);
    __builtin_memcpy(&v, p, 8);
    s->gpr[RSP] = rsp;
    s->gpr[i->reg] = v;
    return go_on(s, t, i);
}

/* ---- arithmetic. NAME_ALU_BITS: with flags; PLAIN: the same in C, for quiet forms ---- */
#define OP_REG(bits, T, name, form, D, B)                           \
    QUICK name##_##form##_r##bits(EXEC_ARGS)                        \
    {                                                               \
        uint16_t cc = t->cc;                                        \
        wr##bits(s, D, name##_##bits(rd##bits(s, D), (T)(B), &cc)); \
        t->cc = cc;                                                 \
        return go_on(s, t, i);                                      \
    }
#define OP_MEM(bits, T, name, form, B)                      \
    QUICK name##_##form##_m##bits(EXEC_ARGS)                \
    {                                                       \
        void *p = quick_mem(s, t, i, sizeof(T), ACC_WRITE); \
        if (unlikely(!p))                                   \
            return go_any(s, t, i);                         \
        T v;                                                \
        uint16_t cc = t->cc;                                \
        __builtin_memcpy(&v, p, sizeof(T));                 \
        v = name##_##bits(v, (T)(B), &cc);                  \
        __builtin_memcpy(p, &v, sizeof(T));                 \
        t->cc = cc;                                         \
        return go_on(s, t, i);                              \
    }
#define OP_LOAD(bits, T, name)                                           \
    QUICK name##_GE_m##bits(EXEC_ARGS)                                   \
    {                                                                    \
        QUICK_LOAD(T, v)                                                 \
        uint16_t cc = t->cc;                                             \
        wr##bits(s, i->reg, name##_##bits(rd##bits(s, i->reg), v, &cc)); \
        t->cc = cc;                                                      \
        return go_on(s, t, i);                                           \
    }
#define QUIET_REG(bits, T, name, form, D, PLAIN) \
    QUICK name##_##form##_quiet##bits(EXEC_ARGS) \
    {                                            \
        T a = rd##bits(s, D);                    \
        wr##bits(s, D, (T)(PLAIN));              \
        return go_on(s, t, i);                   \
    }

#define ALU_FORMS(bits, T, sfx, m, name, asmop)           \
    OP_REG(bits, T, name, EG, i->rm, rd##bits(s, i->reg)) \
    OP_MEM(bits, T, name, EG, rd##bits(s, i->reg))        \
    OP_REG(bits, T, name, GE, i->reg, rd##bits(s, i->rm)) \
    OP_LOAD(bits, T, name)                                \
    OP_REG(bits, T, name, EI, i->rm, i->imm)              \
    OP_MEM(bits, T, name, EI, i->imm)
#define QUIET_FORMS(bits, T, sfx, m, name, op)                    \
    QUIET_REG(bits, T, name, EG, i->rm, a op rd##bits(s, i->reg)) \
    QUIET_REG(bits, T, name, GE, i->reg, a op rd##bits(s, i->rm)) \
    QUIET_REG(bits, T, name, EI, i->rm, a op(T) i->imm)
#define ALU(native, name, op)         \
    FOR_SIZES(native, name, #name)    \
    FOR_SIZES(ALU_FORMS, name, #name) \
    FOR_SIZES(QUIET_FORMS, name, op)
#define ALU_C(name)                   \
    FOR_SIZES(NATIVE2_C, name, #name) \
    FOR_SIZES(ALU_FORMS, name, #name)
ALU(NATIVE2, add, +)
ALU(NATIVE2, or, |)
ALU(NATIVE2, and, &)
ALU(NATIVE2, sub, -)
ALU(NATIVE2, xor, ^)
ALU_C(adc)
ALU_C(sbb)

/* Flags alone. do_NAME: false when it is for the plain handler. */
#define FLAGS_OP(bits, T, name, form, A, B)                           \
    static ALWAYS_INLINE bool do_##name##_##form##_r##bits(EXEC_ARGS) \
    {                                                                 \
        uint16_t cc;                                                  \
        (void)name##_##bits((T)(A), (T)(B), &cc);                     \
        t->cc = cc;                                                   \
        return true;                                                  \
    }                                                                 \
    GO(name##_##form##_r##bits)
#define FLAGS_LOAD(bits, T, name, form, A, B)                         \
    static ALWAYS_INLINE bool do_##name##_##form##_m##bits(EXEC_ARGS) \
    {                                                                 \
        const void *p = quick_mem(s, t, i, sizeof(T), ACC_READ);      \
        if (unlikely(!p))                                             \
            return false;                                             \
        T M;                                                          \
        uint16_t cc;                                                  \
        __builtin_memcpy(&M, p, sizeof(T));                           \
        (void)name##_##bits((T)(A), (T)(B), &cc);                     \
        t->cc = cc;                                                   \
        return true;                                                  \
    }                                                                 \
    GO(name##_##form##_m##bits)
#define GO(form)                           \
    QUICK form(EXEC_ARGS)                  \
    {                                      \
        if (unlikely(!do_##form(s, t, i))) \
            return go_any(s, t, i);        \
        return go_on(s, t, i);             \
    }
#define COMPARES(bits, T, sfx, m, name, asmop)                           \
    FLAGS_OP(bits, T, name, EG, rd##bits(s, i->rm), rd##bits(s, i->reg)) \
    FLAGS_LOAD(bits, T, name, EG, M, rd##bits(s, i->reg))                \
    FLAGS_OP(bits, T, name, EI, rd##bits(s, i->rm), i->imm)              \
    FLAGS_LOAD(bits, T, name, EI, M, i->imm)
#define COMPARES_GE(bits, T, sfx, m, name, asmop)                        \
    FLAGS_OP(bits, T, name, GE, rd##bits(s, i->reg), rd##bits(s, i->rm)) \
    FLAGS_LOAD(bits, T, name, GE, rd##bits(s, i->reg), M)
FOR_SIZES(NATIVE2, cmp, "cmp")
FOR_SIZES(COMPARES, cmp, "cmp")
FOR_SIZES(COMPARES_GE, cmp, "cmp")
FOR_SIZES(NATIVE2, test, "test")
FOR_SIZES(COMPARES, test, "test")

#define OP_UNARY(bits, T, name)                                        \
    static ALWAYS_INLINE bool do_##name##_E_r##bits(EXEC_ARGS)         \
    {                                                                  \
        uint16_t cc = t->cc;                                           \
        wr##bits(s, i->rm, name##_##bits(rd##bits(s, i->rm), 0, &cc)); \
        t->cc = cc;                                                    \
        return true;                                                   \
    }                                                                  \
    GO(name##_E_r##bits)
#define UNARY_FORMS(bits, T, sfx, m, name, plain) \
    OP_UNARY(bits, T, name)                       \
    OP_MEM(bits, T, name, E, 0)                   \
    QUIET_REG(bits, T, name, E, i->rm, plain)
#define UNARY(native, name, plain) \
    FOR_SIZES(native, name, #name) \
    FOR_SIZES(UNARY_FORMS, name, plain)
UNARY(NATIVE1, inc, a + 1)
UNARY(NATIVE1, dec, a - 1)
UNARY(NATIVE1, neg, 0 - a)
UNARY(NATIVE_NOT, not, ~a)

/* ---- shifts by a constant: masked and never 0 here (shift_count()) ---- */
#define SHIFT_FORM(bits, T, name, form, COUNT, plain)                         \
    QUICK name##_##form##_r##bits(EXEC_ARGS)                                  \
    {                                                                         \
        uint16_t cc = t->cc;                                                  \
        wr##bits(s, i->rm, (T)name##_##bits(rd##bits(s, i->rm), COUNT, &cc)); \
        t->cc = cc;                                                           \
        return go_on(s, t, i);                                                \
    }                                                                         \
    QUICK name##_##form##_quiet##bits(EXEC_ARGS)                              \
    {                                                                         \
        T a = rd##bits(s, i->rm);                                             \
        unsigned n = (COUNT) & (sizeof(T) * 8 - 1);                           \
        wr##bits(s, i->rm, (T)(plain));                                       \
        return go_on(s, t, i);                                                \
    }
#define SHIFT_FORMS(bits, T, sfx, m, name, plain)          \
    SHIFT_FORM(bits, T, name, EI, (unsigned)i->imm, plain) \
    SHIFT_FORM(bits, T, name, E1, 1u, plain)
#define SHIFT(name, plain)                  \
    FOR_SIZES_32(SHIFT_NATIVE, name, #name) \
    FOR_SIZES_32(SHIFT_FORMS, name, plain)
#define FOR_SIZES_32(X, ...)               \
    X(32, uint32_t, "l", "k", __VA_ARGS__) \
    X(64, uint64_t, "q", "q", __VA_ARGS__)
#define SIGNED(a) _Generic((a), uint32_t : (int32_t)(a), uint64_t : (int64_t)(a))
SHIFT(shl, a << n)
SHIFT(shr, a >> n)
SHIFT(sar, SIGNED(a) >> n)
SHIFT(rol, a << n | a >> ((0u - n) & (sizeof(a) * 8 - 1)))
SHIFT(ror, a >> n | a << ((0u - n) & (sizeof(a) * 8 - 1)))

/* ---- IMUL to one register ---- */
#define IMUL_FORM(bits, T, form, A, B)                \
    QUICK imul_##form##_r##bits(EXEC_ARGS)            \
    {                                                 \
        uint16_t cc = t->cc;                          \
        wr##bits(s, i->reg, imul2_##bits(A, B, &cc)); \
        t->cc = cc;                                   \
        return go_on(s, t, i);                        \
    }                                                 \
    QUICK imul_##form##_quiet##bits(EXEC_ARGS)        \
    {                                                 \
        wr##bits(s, i->reg, (T)((A) * (B)));          \
        return go_on(s, t, i);                        \
    }
#define IMUL_FORMS(bits, T, sfx, m, ...)                            \
    IMUL_FORM(bits, T, GE, rd##bits(s, i->reg), rd##bits(s, i->rm)) \
    IMUL_FORM(bits, T, GEI, rd##bits(s, i->rm), (T)i->imm)
FOR_SIZES_32(NATIVE_IMUL2, 0)
FOR_SIZES_32(IMUL_FORMS, 0)

/* ---- a comparison and the Jcc after it, the last two of a block, in 64-bit mode ---- */
static ALWAYS_INLINE Fault branch_if(CpuState *s, Tcg *t, const Insn *i, bool taken)
{
    t->at = i;
    if (!taken)
        return FAULT_NONE;
    uint64_t target = t->blk_rip + (uint64_t)i->disp;
    if (unlikely((uint64_t)((int64_t)target >> 47) + 1 > 1))
        return raise_gp0(t);
    s->rip = target;
    return FAULT_JUMP;
}
#define FUSED(op, n, cnd)                              \
    QUICK op##_j##cnd(EXEC_ARGS)                       \
    {                                                  \
        if (unlikely(!do_##op(s, t, i)))               \
            return go_any(s, t, i);                    \
        return branch_if(s, t, i + 1, cond(t->cc, n)); \
    }
/* clang-format never settles on one layout for these. */
/* clang-format off */
#define FOR_CONDITIONS_OF(X, op) \
    X(op, 0, o) X(op, 1, no) X(op, 2, b) X(op, 3, ae) X(op, 4, e) X(op, 5, ne) \
    X(op, 6, be) X(op, 7, a) X(op, 8, s) X(op, 9, ns) X(op, 10, p) X(op, 11, np) \
    X(op, 12, l) X(op, 13, ge) X(op, 14, le) X(op, 15, g)
#define FOR_FUSED(X) \
    X(cmp_EG_r32) X(cmp_EG_r64) X(cmp_EG_m32) X(cmp_EG_m64) X(cmp_GE_m32) \
    X(cmp_GE_m64) X(cmp_EI_r8) X(cmp_EI_r32) X(cmp_EI_r64) X(cmp_EI_m8) \
    X(cmp_EI_m32) X(cmp_EI_m64) X(test_EG_r8) X(test_EG_r32) X(test_EG_r64) \
    X(test_EI_r8) X(test_EI_r32) X(test_EI_m8) X(dec_E_r32) X(dec_E_r64)
/* clang-format on */
#define FUSED_ALL(op) FOR_CONDITIONS_OF(FUSED, op)
FOR_FUSED(FUSED_ALL)

/* The forms, close together, and what they are with each condition. */
#define FUSED_GO(op) op,
static ExecFn *const fused_go[] = {FOR_FUSED(FUSED_GO)};
#define FUSED_ENTRY(op, n, cnd) op##_j##cnd,
#define FUSED_ROW(op)           {FOR_CONDITIONS_OF(FUSED_ENTRY, op)},
static ExecFn *const fused[][16] = {FOR_FUSED(FUSED_ROW)};

/* The last of a block is a Jcc and goes to 64-bit addresses: its condition, or -1. */
static int condition_of(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    bool jcc =
        (r->map == MAP_1B && r->opcode >> 4 == 7) || (r->map == MAP_0F && r->opcode >> 4 == 8);
    return jcc && i->opsize == 8 && i->exec == r->exec->f[3][0] ? r->opcode & 15 : -1;
}

static void fuse(Insn *before_last, int condition)
{
    for (unsigned k = 0; condition >= 0 && k < ARRAY_LEN(fused_go); k++) {
        if (before_last->go == fused_go[k]) {
            before_last->go = fused[k][condition];
            return;
        }
    }
}

/* ---- which rows have them ---- */
enum QuickKind {
    QK_TOUCHES, /* may fault or store: flags must be right before and after */
    QK_PURE,    /* in its register form: registers and flags only */
    QK_SHIFT,   /* as QK_PURE, by a constant; a count of 0 has no quick form */
};

typedef struct QuickRow {
    const ExecSet *set;
    enum QuickKind kind;
    ExecFn *f[4][2];  /* as in ExecSet */
    ExecFn *quiet[4]; /* register form, no flags */
} QuickRow;

#define SIZES_RM(n)                                           \
    {n##_r8, n##_m8}, {n##_r16, n##_m16}, {n##_r32, n##_m32}, \
    {                                                         \
        n##_r64, n##_m64                                      \
    }
#define SIZES_V(n)                                        \
    {NULL, NULL}, {n##_r16, n##_m16}, {n##_r32, n##_m32}, \
    {                                                     \
        n##_r64, n##_m64                                  \
    }
#define SIZES_R(n)                                    \
    {n##_r8, NULL}, {n##_r16, NULL}, {n##_r32, NULL}, \
    {                                                 \
        n##_r64, NULL                                 \
    }
#define SIZES_VR(n)                                 \
    {NULL, NULL}, {n##_r16, NULL}, {n##_r32, NULL}, \
    {                                               \
        n##_r64, NULL                               \
    }
#define SIZES_32R(n)                             \
    {NULL, NULL}, {NULL, NULL}, {n##_r32, NULL}, \
    {                                            \
        n##_r64, NULL                            \
    }
#define SIZES_64R(n)                          \
    {NULL, NULL}, {NULL, NULL}, {NULL, NULL}, \
    {                                         \
        n##_r64, NULL                         \
    }
#define SIZES_Q(n)   n##_quiet8, n##_quiet16, n##_quiet32, n##_quiet64
#define SIZES_32Q(n) NULL, NULL, n##_quiet32, n##_quiet64
#define ROW(n, kind, sizes, ...)     \
    {                                \
        &exec_##n, kind, {sizes(n)}, \
        {                            \
            __VA_ARGS__              \
        }                            \
    }
#define ROW_ALU(n)                                       \
    ROW(n##_EG, QK_PURE, SIZES_RM, SIZES_Q(n##_EG)),     \
        ROW(n##_GE, QK_PURE, SIZES_RM, SIZES_Q(n##_GE)), \
        ROW(n##_EI, QK_PURE, SIZES_RM, SIZES_Q(n##_EI))
#define ROW_ALU_C(n)                                                            \
    ROW(n##_EG, QK_PURE, SIZES_RM, NULL), ROW(n##_GE, QK_PURE, SIZES_RM, NULL), \
        ROW(n##_EI, QK_PURE, SIZES_RM, NULL)
#define ROW_SHIFT(n)                                     \
    ROW(n##_EI, QK_SHIFT, SIZES_32R, SIZES_32Q(n##_EI)), \
        ROW(n##_E1, QK_PURE, SIZES_32R, SIZES_32Q(n##_E1))
#define ROW_CONDITION(n, cnd)                \
    ROW(cmov##cnd, QK_PURE, SIZES_VR, NULL), \
        {&exec_set##cnd, QK_PURE, {{set##cnd##_r8, NULL}}, {NULL}},

#define DECLARE_ALU(n)            extern const ExecSet exec_##n##_EG, exec_##n##_GE, exec_##n##_EI
#define DECLARE_CONDITION(n, cnd) extern const ExecSet exec_cmov##cnd, exec_set##cnd;
DECLARE_ALU(add);
DECLARE_ALU(or);
DECLARE_ALU(adc);
DECLARE_ALU(sbb);
DECLARE_ALU(and);
DECLARE_ALU(sub);
DECLARE_ALU(xor);
DECLARE_ALU(cmp);
DECLARE_ALU(mov);
FOR_CONDITIONS(DECLARE_CONDITION)
extern const ExecSet exec_test_EG, exec_test_EI, exec_mov_ZI, exec_movzx_b, exec_movzx_w,
    exec_movsx_b, exec_movsx_w, exec_movsxd, exec_lea, exec_nop, exec_xchg_Z, exec_push_Z,
    exec_push_I, exec_pop_Z, exec_inc_E, exec_dec_E, exec_neg_E, exec_not_E, exec_shl_EI,
    exec_shr_EI, exec_sar_EI, exec_rol_EI, exec_ror_EI, exec_shl_E1, exec_shr_E1, exec_sar_E1,
    exec_rol_E1, exec_ror_E1, exec_imul_GE, exec_imul_GEI;

static const QuickRow quick_rows[] = {
    ROW(mov_EG, QK_PURE, SIZES_RM, NULL),
    ROW(mov_GE, QK_PURE, SIZES_RM, NULL),
    ROW(mov_EI, QK_PURE, SIZES_RM, NULL),
    ROW(mov_ZI, QK_PURE, SIZES_R, NULL),
    ROW(movzx_b, QK_PURE, SIZES_V, NULL),
    ROW(movzx_w, QK_PURE, SIZES_V, NULL),
    ROW(movsx_b, QK_PURE, SIZES_V, NULL),
    ROW(movsx_w, QK_PURE, SIZES_V, NULL),
    ROW(movsxd, QK_PURE, SIZES_V, NULL),
    {&exec_lea, QK_PURE, {{NULL}, {NULL, lea_m16}, {NULL, lea_m32}, {NULL, lea_m64}}, {NULL}},
    {&exec_nop,
     QK_PURE,
     {{nop_r8, nop_r8}, {nop_r8, nop_r8}, {nop_r8, nop_r8}, {nop_r8, nop_r8}},
     {NULL}},
    {&exec_xchg_Z, QK_PURE, {{NULL}, {NULL}, {xchg_Z_r32}}, {NULL}},
    ROW(push_Z, QK_TOUCHES, SIZES_64R, NULL),
    ROW(push_I, QK_TOUCHES, SIZES_64R, NULL),
    ROW(pop_Z, QK_TOUCHES, SIZES_64R, NULL),
    ROW_ALU(add),
    ROW_ALU(or),
    ROW_ALU(and),
    ROW_ALU(sub),
    ROW_ALU(xor),
    ROW_ALU_C(adc),
    ROW_ALU_C(sbb),
    ROW_ALU_C(cmp),
    ROW(test_EG, QK_PURE, SIZES_RM, NULL),
    ROW(test_EI, QK_PURE, SIZES_RM, NULL),
    ROW(inc_E, QK_PURE, SIZES_RM, SIZES_Q(inc_E)),
    ROW(dec_E, QK_PURE, SIZES_RM, SIZES_Q(dec_E)),
    ROW(neg_E, QK_PURE, SIZES_RM, SIZES_Q(neg_E)),
    ROW(not_E, QK_PURE, SIZES_RM, SIZES_Q(not_E)),
    ROW_SHIFT(shl),
    ROW_SHIFT(shr),
    ROW_SHIFT(sar),
    ROW_SHIFT(rol),
    ROW_SHIFT(ror),
    ROW(imul_GE, QK_PURE, SIZES_32R, SIZES_32Q(imul_GE)),
    ROW(imul_GEI, QK_PURE, SIZES_32R, SIZES_32Q(imul_GEI)),
    FOR_CONDITIONS(ROW_CONDITION)};

static const QuickRow **quick_of; /* by row of ops.def */
static pthread_once_t quick_once = PTHREAD_ONCE_INIT;

static void quick_index(void)
{
    quick_of = g_new0(const QuickRow *, op_rows_n);
    for (unsigned r = 0; r < op_rows_n; r++)
        for (unsigned k = 0; k < ARRAY_LEN(quick_rows); k++)
            if (op_rows[r].exec == quick_rows[k].set)
                quick_of[r] = &quick_rows[k];
}

static unsigned shift_count(const Insn *i)
{
    return (unsigned)i->imm & (i->opsize == 8 ? 63 : 31);
}

/*
 * Chooses the form of i; *live: the flags that are read after it, on return before it. Of the flags
 * that the manual calls undefined, AF after a logic instruction counts as written, which it always
 * is; those after shifts and multiplications count as left alone.
 */
static void choose(Insn *i, uint32_t *live)
{
    const OpRow *r = &op_rows[i->row];
    const QuickRow *q = quick_of[i->row];
    unsigned size = (unsigned)__builtin_ctz(i->opsize);
    bool mem = i->flags & IF_MEM;
    uint32_t after = *live;

    i->go = go_any;
    *live = FL_ARITH;
    if (!q || i->exec != q->set->f[size][mem] || !q->f[size][mem] || (i->flags & IF_LOCK))
        return;
    if (mem && q->set != &exec_lea && q->set != &exec_nop) {
        if (i->flags & IF_FLAT)
            i->go = q->f[size][1];
        return;
    }
    bool constant_shift = q->kind == QK_SHIFT;
    if (constant_shift && shift_count(i) == 0)
        return;
    i->go = q->f[size][mem];
    if (q->kind == QK_TOUCHES)
        return;
    if (!mem && q->quiet[size] && !(r->fl_written & after))
        i->go = q->quiet[size];
    /* Where more than AF is undefined, the processor may leave some of it as it was. */
    uint32_t kept = constant_shift || (r->fl_undef & ~(uint32_t)FL_AF) ? r->fl_undef : 0;
    *live = (after & ~(r->fl_written & ~kept)) | (constant_shift ? 0 : r->fl_read);
}

void quick_block(Insn *insn, unsigned n)
{
    pthread_once(&quick_once, quick_index);
    uint32_t live = FL_ARITH;
    insn[n - 1].go = insn[n - 1].exec;
    for (unsigned k = n - 1; k-- > 0;)
        choose(&insn[k], &live);
    if (n > 1)
        fuse(&insn[n - 2], condition_of(&insn[n - 1]));
}
