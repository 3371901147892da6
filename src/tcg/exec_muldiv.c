/* MUL, IMUL, DIV, IDIV. Done by the host's instruction once it is known not to fault. */
#include "tcg/exec.h"
#include "tcg/exec_native.h"

/* Runs OP on (hi:lo) and src with the guest's flags in and out. */
#define WIDE_OP(bits, T, sfx, m, name, asmop)                                         \
    static inline void name##_##bits(uint64_t *lo, uint64_t *hi, T src, uint16_t *cc) \
    {                                                                                 \
        uint32_t flags = *cc;                                                         \
        uint64_t a = *lo, d = *hi;                                                    \
        __asm__("movl %[fl], %%ecx\n\txchgq %%rax, %%rcx\n\t" ASM_FLAGS_IN            \
                "xchgq %%rax, %%rcx\n\t" asmop sfx " %" m "[src]\n\t"                 \
                "xchgq %%rax, %%rcx" ASM_FLAGS_OUT "\n\txchgq %%rax, %%rcx\n\t"       \
                "movl %%ecx, %[fl]"                                                   \
                : "+a"(a), "+d"(d), [fl] "+r"(flags)                                  \
                : [src] "r"(src)                                                      \
                : "rcx", "cc");                                                       \
        *lo = a;                                                                      \
        *hi = d;                                                                      \
        *cc = (uint16_t)flags;                                                        \
    }
FOR_SIZES(WIDE_OP, mul, "mul")
FOR_SIZES(WIDE_OP, imul, "imul")
FOR_SIZES(WIDE_OP, div, "div")
FOR_SIZES(WIDE_OP, idiv, "idiv")

/* Would DIV/IDIV raise #DE? n is the dividend, hi:lo of the operand size. */
static bool div_faults(unsigned size, uint64_t hi, uint64_t lo, uint64_t src)
{
    (void)lo;
    /* The quotient fits exactly when the high half is less than the divisor. */
    uint64_t m = size_mask(size);
    return (hi & m) >= (src & m);
}
static bool idiv_faults(unsigned size, uint64_t hi, uint64_t lo, uint64_t src)
{
    unsigned bits_n = size * 8, up = 64 - bits_n;
    __int128 d = (int64_t)(src << up) >> up;
    if (d == 0)
        return true;
    __int128 n = size == 8 ? (__int128)((unsigned __int128)hi << 64 | lo)
                           : (__int128)((int64_t)(hi << up) >> up) * ((__int128)1 << bits_n) +
                                 (lo & size_mask(size));
    __int128 min = -((__int128)1 << (bits_n - 1)), max = ((__int128)1 << (bits_n - 1)) - 1;
    /* -2^127 / -1 overflows the host's type too. */
    if (d == -1)
        return n < -max || n > -min;
    __int128 q = n / d;
    return q < min || q > max;
}

/* 8-bit forms work on AX: the high half is AH. */
#define WIDE_BODY(bits, T, name, CHECK, src)                           \
    uint16_t cc = t->cc;                                               \
    uint64_t lo = s->gpr[RAX], hi = bits == 8 ? lo >> 8 : s->gpr[RDX]; \
    if (CHECK(sizeof(T), hi, lo, src))                                 \
        return raise_exc(t, VEC_DE);                                   \
    name##_##bits(&lo, &hi, src, &cc);                                 \
    if (bits <= 16) {                                                  \
        wr16(s, RAX, (uint16_t)lo);                                    \
        if (bits == 16)                                                \
            wr16(s, RDX, (uint16_t)hi);                                \
    } else {                                                           \
        wr##bits(s, RAX, (T)lo);                                       \
        wr##bits(s, RDX, (T)hi);                                       \
    }                                                                  \
    t->cc = cc;                                                        \
    return FAULT_NONE;

#define WIDE_FORMS(bits, T, sfx, m, name, CHECK)              \
    static Fault name##_E_r##bits(EXEC_ARGS)                  \
    {                                                         \
        T src = rd##bits(s, i->rm);                           \
        WIDE_BODY(bits, T, name, CHECK, src)                  \
    }                                                         \
    static Fault name##_E_m##bits(EXEC_ARGS)                  \
    {                                                         \
        gva_t lin;                                            \
        T src;                                                \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin); \
        if (!f)                                               \
            f = ld##bits(s, t, lin, &src);                    \
        if (f)                                                \
            return f;                                         \
        WIDE_BODY(bits, T, name, CHECK, src)                  \
    }
#define NO_CHECK(size, hi, lo, src) false
FOR_SIZES(WIDE_FORMS, mul, NO_CHECK)
FOR_SIZES(WIDE_FORMS, imul, NO_CHECK)
FOR_SIZES(WIDE_FORMS, div, div_faults)
FOR_SIZES(WIDE_FORMS, idiv, idiv_faults)
EXEC_SET(mul_E);
EXEC_SET(imul_E);
EXEC_SET(div_E);
EXEC_SET(idiv_E);

/* IMUL with one destination register. */
FOR_SIZES_V(NATIVE_IMUL2, 0)
#define IMUL2(bits, T, sfx, m, ...)                                                  \
    static inline Fault imul_to_##bits(CpuState *s, Tcg *t, const Insn *i, T a, T b) \
    {                                                                                \
        uint16_t cc = t->cc;                                                         \
        wr##bits(s, i->reg, imul2_##bits(a, b, &cc));                                \
        t->cc = cc;                                                                  \
        return FAULT_NONE;                                                           \
    }                                                                                \
    static Fault imul_GE_r##bits(EXEC_ARGS)                                          \
    {                                                                                \
        return imul_to_##bits(s, t, i, rd##bits(s, i->reg), rd##bits(s, i->rm));     \
    }                                                                                \
    static Fault imul_GE_m##bits(EXEC_ARGS)                                          \
    {                                                                                \
        gva_t lin;                                                                   \
        T v;                                                                         \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);                        \
        if (!f)                                                                      \
            f = ld##bits(s, t, lin, &v);                                             \
        return f ? f : imul_to_##bits(s, t, i, rd##bits(s, i->reg), v);              \
    }                                                                                \
    static Fault imul_GEI_r##bits(EXEC_ARGS)                                         \
    {                                                                                \
        return imul_to_##bits(s, t, i, rd##bits(s, i->rm), (T)i->imm);               \
    }                                                                                \
    static Fault imul_GEI_m##bits(EXEC_ARGS)                                         \
    {                                                                                \
        gva_t lin;                                                                   \
        T v;                                                                         \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);                        \
        if (!f)                                                                      \
            f = ld##bits(s, t, lin, &v);                                             \
        return f ? f : imul_to_##bits(s, t, i, v, (T)i->imm);                        \
    }
FOR_SIZES_V(IMUL2, 0)
EXEC_SET_V(imul_GE);
EXEC_SET_V(imul_GEI);
