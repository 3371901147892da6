/*
 * Arithmetic by the host's own instructions, flags and all: templates for FOR_SIZES(), each making
 * a function name_bits(a, b, &cc). *cc is in the LAHF/SETO form.
 */
#ifndef TANDEM_TCG_EXEC_NATIVE_H
#define TANDEM_TCG_EXEC_NATIVE_H

#include "tcg/exec.h"

/* r OP= b by the host's instruction; flags from it alone, or also fed into it (OP_C). */
#define NATIVE2(bits, T, sfx, m, name, asmop)                   \
    static inline T name##_##bits(T a, T b, uint16_t *cc)       \
    {                                                           \
        uint32_t ax;                                            \
        __asm__(asmop sfx " %" m "[b], %" m "[a]" ASM_FLAGS_OUT \
                : [a] "+q"(a), "=&a"(ax)                        \
                : [b] "q"(b)                                    \
                : "cc");                                        \
        *cc = (uint16_t)ax;                                     \
        return a;                                               \
    }
#define NATIVE2_C(bits, T, sfx, m, name, asmop)                                     \
    static inline T name##_##bits(T a, T b, uint16_t *cc)                           \
    {                                                                               \
        uint32_t ax = *cc;                                                          \
        __asm__("btl $8, %%eax\n\t" asmop sfx " %" m "[b], %" m "[a]" ASM_FLAGS_OUT \
                : [a] "+q"(a), "+a"(ax)                                             \
                : [b] "q"(b)                                                        \
                : "cc");                                                            \
        *cc = (uint16_t)ax;                                                         \
        return a;                                                                   \
    }
/* One operand; CF is fed in, for INC and DEC leave it. */
#define NATIVE1(bits, T, sfx, m, name, asmop)                            \
    static inline T name##_##bits(T a, T b G_GNUC_UNUSED, uint16_t *cc)  \
    {                                                                    \
        uint32_t ax = *cc;                                               \
        __asm__("btl $8, %%eax\n\t" asmop sfx " %" m "[a]" ASM_FLAGS_OUT \
                : [a] "+q"(a), "+a"(ax)                                  \
                :                                                        \
                : "cc");                                                 \
        *cc = (uint16_t)ax;                                              \
        return a;                                                        \
    }
#define NATIVE_NOT(bits, T, sfx, m, name, asmop)                                      \
    static inline T name##_##bits(T a, T b G_GNUC_UNUSED, uint16_t *cc G_GNUC_UNUSED) \
    {                                                                                 \
        return (T)~a;                                                                 \
    }

/* The whole 64-bit register goes in and out: a 32-bit form clears the upper half as it would. */
#define SHIFT_NATIVE(bits, T, sfx, m, name, asmop)                                 \
    static inline uint64_t name##_##bits(uint64_t a, uint64_t count, uint16_t *cc) \
    {                                                                              \
        uint32_t ax = *cc;                                                         \
        __asm__(ASM_FLAGS_IN asmop sfx " %%cl, %" m "[a]" ASM_FLAGS_OUT            \
                : [a] "+q"(a), "+a"(ax)                                            \
                : "c"((uint8_t)count)                                              \
                : "cc");                                                           \
        *cc = (uint16_t)ax;                                                        \
        return a;                                                                  \
    }

/* IMUL with one destination register. */
#define NATIVE_IMUL2(bits, T, sfx, m, ...)                                    \
    static inline T imul2_##bits(T a, T b, uint16_t *cc)                      \
    {                                                                         \
        uint32_t ax = *cc;                                                    \
        __asm__(ASM_FLAGS_IN "imul" sfx " %" m "[b], %" m "[a]" ASM_FLAGS_OUT \
                : [a] "+r"(a), "+a"(ax)                                       \
                : [b] "r"(b)                                                  \
                : "cc");                                                      \
        *cc = (uint16_t)ax;                                                   \
        return a;                                                             \
    }

#endif
