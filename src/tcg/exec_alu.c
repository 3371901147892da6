/* ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT: SDM vol. 2. */
#include "tcg/exec.h"
#include "tcg/exec_native.h"

/* The form rmw_slow() calls. */
#define GENERIC(bits, T, sfx, m, name, asmop)                               \
    static uint64_t name##_slow##bits(uint64_t a, uint64_t b, uint16_t *cc) \
    {                                                                       \
        return name##_##bits((T)a, (T)b, cc);                               \
    }

/* Destination read and written. B is the second operand as an expression. */
#define RMW_REG(bits, T, name, form, D, B)                          \
    static Fault name##_##form##_r##bits(EXEC_ARGS)                 \
    {                                                               \
        uint16_t cc = t->cc;                                        \
        wr##bits(s, D, name##_##bits(rd##bits(s, D), (T)(B), &cc)); \
        t->cc = cc;                                                 \
        return FAULT_NONE;                                          \
    }
#define RMW_MEM(bits, T, name, form, B)                                                \
    static Fault name##_##form##_m##bits(EXEC_ARGS)                                    \
    {                                                                                  \
        gva_t lin;                                                                     \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                         \
        if (unlikely(f))                                                               \
            return f;                                                                  \
        void *p = tlb_hit(t, t->mmu_mode, lin, sizeof(T), ACC_WRITE);                  \
        if (unlikely(!p || (i->flags & IF_LOCK)))                                      \
            return rmw_slow(s, t, i, lin, sizeof(T), (T)(B), name##_slow##bits, NULL); \
        T v;                                                                           \
        uint16_t cc = t->cc;                                                           \
        __builtin_memcpy(&v, p, sizeof(v));                                            \
        v = name##_##bits(v, (T)(B), &cc);                                             \
        __builtin_memcpy(p, &v, sizeof(v));                                            \
        t->cc = cc;                                                                    \
        return FAULT_NONE;                                                             \
    }
/* Destination a register, source memory. */
#define LOAD_OP(bits, T, name, form)                                     \
    static Fault name##_##form##_m##bits(EXEC_ARGS)                      \
    {                                                                    \
        gva_t lin;                                                       \
        T v;                                                             \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);            \
        if (unlikely(f))                                                 \
            return f;                                                    \
        f = ld##bits(s, t, lin, &v);                                     \
        if (unlikely(f))                                                 \
            return f;                                                    \
        uint16_t cc = t->cc;                                             \
        wr##bits(s, i->reg, name##_##bits(rd##bits(s, i->reg), v, &cc)); \
        t->cc = cc;                                                      \
        return FAULT_NONE;                                               \
    }
/* Flags only: A and B are expressions, in memory forms M stands for the memory operand. */
#define FLAGS_REG(bits, T, name, form, A, B)        \
    static Fault name##_##form##_r##bits(EXEC_ARGS) \
    {                                               \
        uint16_t cc;                                \
        (void)name##_##bits((T)(A), (T)(B), &cc);   \
        t->cc = cc;                                 \
        return FAULT_NONE;                          \
    }
#define FLAGS_MEM(bits, T, name, form, A, B)                  \
    static Fault name##_##form##_m##bits(EXEC_ARGS)           \
    {                                                         \
        gva_t lin;                                            \
        T M;                                                  \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin); \
        if (unlikely(f))                                      \
            return f;                                         \
        f = ld##bits(s, t, lin, &M);                          \
        if (unlikely(f))                                      \
            return f;                                         \
        uint16_t cc;                                          \
        (void)name##_##bits((T)(A), (T)(B), &cc);             \
        t->cc = cc;                                           \
        return FAULT_NONE;                                    \
    }

#define ALU_FORMS(bits, T, sfx, m, name, asmop)            \
    RMW_REG(bits, T, name, EG, i->rm, rd##bits(s, i->reg)) \
    RMW_MEM(bits, T, name, EG, rd##bits(s, i->reg))        \
    RMW_REG(bits, T, name, GE, i->reg, rd##bits(s, i->rm)) \
    LOAD_OP(bits, T, name, GE)                             \
    RMW_REG(bits, T, name, EI, i->rm, i->imm)              \
    RMW_MEM(bits, T, name, EI, i->imm)

#define ALU(name, native, asmop)      \
    FOR_SIZES(native, name, asmop)    \
    FOR_SIZES(GENERIC, name, asmop)   \
    FOR_SIZES(ALU_FORMS, name, asmop) \
    EXEC_SET(name##_EG);              \
    EXEC_SET(name##_GE);              \
    EXEC_SET(name##_EI)

ALU(add, NATIVE2, "add");
ALU(or, NATIVE2, "or");
ALU(adc, NATIVE2_C, "adc");
ALU(sbb, NATIVE2_C, "sbb");
ALU(and, NATIVE2, "and");
ALU(sub, NATIVE2, "sub");
ALU(xor, NATIVE2, "xor");

#define CMP_FORMS(bits, T, sfx, m, name, asmop)                           \
    FLAGS_REG(bits, T, name, EG, rd##bits(s, i->rm), rd##bits(s, i->reg)) \
    FLAGS_MEM(bits, T, name, EG, M, rd##bits(s, i->reg))                  \
    FLAGS_REG(bits, T, name, GE, rd##bits(s, i->reg), rd##bits(s, i->rm)) \
    FLAGS_MEM(bits, T, name, GE, rd##bits(s, i->reg), M)                  \
    FLAGS_REG(bits, T, name, EI, rd##bits(s, i->rm), i->imm)              \
    FLAGS_MEM(bits, T, name, EI, M, i->imm)
FOR_SIZES(NATIVE2, cmp, "cmp")
FOR_SIZES(CMP_FORMS, cmp, "cmp")
EXEC_SET(cmp_EG);
EXEC_SET(cmp_GE);
EXEC_SET(cmp_EI);
#define TEST_FORMS(bits, T, sfx, m, name, asmop)                          \
    FLAGS_REG(bits, T, name, EG, rd##bits(s, i->rm), rd##bits(s, i->reg)) \
    FLAGS_MEM(bits, T, name, EG, M, rd##bits(s, i->reg))                  \
    FLAGS_REG(bits, T, name, EI, rd##bits(s, i->rm), i->imm)              \
    FLAGS_MEM(bits, T, name, EI, M, i->imm)
FOR_SIZES(NATIVE2, test, "test")
FOR_SIZES(TEST_FORMS, test, "test")
EXEC_SET(test_EG);
EXEC_SET(test_EI);

#define UNARY_FORMS(bits, T, sfx, m, name, asmop) \
    RMW_REG(bits, T, name, E, i->rm, 0)           \
    RMW_MEM(bits, T, name, E, 0)
#define UNARY(name, native, asmop)      \
    FOR_SIZES(native, name, asmop)      \
    FOR_SIZES(GENERIC, name, asmop)     \
    FOR_SIZES(UNARY_FORMS, name, asmop) \
    EXEC_SET(name##_E)
UNARY(inc, NATIVE1, "inc");
UNARY(dec, NATIVE1, "dec");
UNARY(neg, NATIVE1, "neg");
UNARY(not, NATIVE_NOT, "not");

/* INC and DEC with the register in the opcode: 16 and 32 bits. */
#define INCDEC_Z(bits, T, sfx, m, name, asmop) RMW_REG(bits, T, name, Z, i->reg, 0)
FOR_SIZES_V(INCDEC_Z, inc, "inc")
FOR_SIZES_V(INCDEC_Z, dec, "dec")
const ExecSet exec_inc_Z = {
    {{NULL, NULL}, {inc_Z_r16, NULL}, {inc_Z_r32, NULL}, {inc_Z_r64, NULL}}};
const ExecSet exec_dec_Z = {
    {{NULL, NULL}, {dec_Z_r16, NULL}, {dec_Z_r32, NULL}, {dec_Z_r64, NULL}}};

/* ---- XADD, XCHG, CMPXCHG ---- */
#define XADD_FORMS(bits, T, sfx, m, name, asmop)                                          \
    static Fault xadd_r##bits(EXEC_ARGS)                                                  \
    {                                                                                     \
        uint16_t cc = t->cc;                                                              \
        T a = rd##bits(s, i->rm), b = rd##bits(s, i->reg);                                \
        T sum = add_##bits(a, b, &cc);                                                    \
        wr##bits(s, i->reg, a);                                                           \
        wr##bits(s, i->rm, sum);                                                          \
        t->cc = cc;                                                                       \
        return FAULT_NONE;                                                                \
    }                                                                                     \
    static Fault xadd_m##bits(EXEC_ARGS)                                                  \
    {                                                                                     \
        gva_t lin;                                                                        \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                            \
        if (unlikely(f))                                                                  \
            return f;                                                                     \
        uint64_t old;                                                                     \
        f = rmw_slow(s, t, i, lin, sizeof(T), rd##bits(s, i->reg), add_slow##bits, &old); \
        if (!f)                                                                           \
            wr##bits(s, i->reg, (T)old);                                                  \
        return f;                                                                         \
    }
FOR_SIZES(XADD_FORMS, xadd, "")
EXEC_SET(xadd);

static uint64_t xchg_slow(uint64_t a G_GNUC_UNUSED, uint64_t b, uint16_t *cc G_GNUC_UNUSED)
{
    return b;
}
#define XCHG_FORMS(bits, T, sfx, m, name, asmop)                                     \
    static Fault xchg_r##bits(EXEC_ARGS)                                             \
    {                                                                                \
        T a = rd##bits(s, i->rm), b = rd##bits(s, i->reg);                           \
        wr##bits(s, i->rm, b);                                                       \
        wr##bits(s, i->reg, a);                                                      \
        return FAULT_NONE;                                                           \
    }                                                                                \
    static Fault xchg_m##bits(EXEC_ARGS)                                             \
    {                                                                                \
        gva_t lin;                                                                   \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                       \
        if (unlikely(f))                                                             \
            return f;                                                                \
        uint64_t old;                                                                \
        f = rmw_slow(s, t, i, lin, sizeof(T), rd##bits(s, i->reg), xchg_slow, &old); \
        if (!f)                                                                      \
            wr##bits(s, i->reg, (T)old);                                             \
        return f;                                                                    \
    }
FOR_SIZES(XCHG_FORMS, xchg, "")
EXEC_SET(xchg);

/* Opcodes 90-97: with RAX itself it is NOP, also where a 32-bit XCHG would clear upper halves. */
#define XCHG_Z(bits, T, sfx, m, name, asmop)       \
    static Fault xchg_Z_r##bits(EXEC_ARGS)         \
    {                                              \
        if (i->reg != RAX) {                       \
            T a = rd##bits(s, RAX);                \
            wr##bits(s, RAX, rd##bits(s, i->reg)); \
            wr##bits(s, i->reg, a);                \
        }                                          \
        return FAULT_NONE;                         \
    }
FOR_SIZES_V(XCHG_Z, xchg_Z, "")
const ExecSet exec_xchg_Z = {
    {{NULL, NULL}, {xchg_Z_r16, NULL}, {xchg_Z_r32, NULL}, {xchg_Z_r64, NULL}}};

/* CMPXCHG writes its destination in every case; what it writes back is what it read. On a mismatch
 * RAX is loaded; a 32-bit destination register keeps its upper half then (as silicon does). */
#define CMPXCHG_FORMS(bits, T, sfx, m, name, asmop)                                       \
    static Fault cmpxchg_r##bits(EXEC_ARGS)                                               \
    {                                                                                     \
        uint16_t cc;                                                                      \
        T a = rd##bits(s, i->rm), acc = rd##bits(s, RAX);                                 \
        (void)cmp_##bits(acc, a, &cc);                                                    \
        if (acc == a)                                                                     \
            wr##bits(s, i->rm, rd##bits(s, i->reg));                                      \
        else                                                                              \
            wr##bits(s, RAX, a);                                                          \
        t->cc = cc;                                                                       \
        return FAULT_NONE;                                                                \
    }                                                                                     \
    static uint64_t cmpxchg_slow##bits(uint64_t a, uint64_t pair, uint16_t *cc)           \
    {                                                                                     \
        const uint64_t *p = (const uint64_t *)(uintptr_t)pair;                            \
        (void)cmp_##bits((T)p[0], (T)a, cc);                                              \
        return (T)p[0] == (T)a ? p[1] : a;                                                \
    }                                                                                     \
    static Fault cmpxchg_m##bits(EXEC_ARGS)                                               \
    {                                                                                     \
        gva_t lin;                                                                        \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                            \
        if (unlikely(f))                                                                  \
            return f;                                                                     \
        uint64_t old, pair[2] = {rd##bits(s, RAX), rd##bits(s, i->reg)};                  \
        f = rmw_slow(s, t, i, lin, sizeof(T), (uintptr_t)pair, cmpxchg_slow##bits, &old); \
        if (!f && (T)old != (T)pair[0])                                                   \
            wr##bits(s, RAX, (T)old);                                                     \
        return f;                                                                         \
    }
FOR_SIZES(CMPXCHG_FORMS, cmpxchg, "")
EXEC_SET(cmpxchg);
