/* Shifts and rotates, SHLD, SHRD. The host's instruction does them with the guest's flags loaded,
 * so that a count of zero and undefined flags come out as on silicon. */
#include "tcg/exec.h"
#include "tcg/exec_native.h"

#define SHIFT_FORM(bits, T, name, form, COUNT)                                    \
    static Fault name##_##form##_r##bits(EXEC_ARGS)                               \
    {                                                                             \
        uint16_t cc = t->cc;                                                      \
        wr##bits(s, i->rm, (T)name##_##bits(rd##bits(s, i->rm), COUNT, &cc));     \
        t->cc = cc;                                                               \
        return FAULT_NONE;                                                        \
    }                                                                             \
    static Fault name##_##form##_m##bits(EXEC_ARGS)                               \
    {                                                                             \
        gva_t lin;                                                                \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                    \
        if (unlikely(f))                                                          \
            return f;                                                             \
        void *p = tlb_hit(t, t->mmu_mode, lin, sizeof(T), ACC_WRITE);             \
        if (unlikely(!p))                                                         \
            return rmw_slow(s, t, i, lin, sizeof(T), COUNT, name##_##bits, NULL); \
        T v;                                                                      \
        uint16_t cc = t->cc;                                                      \
        __builtin_memcpy(&v, p, sizeof(T));                                       \
        v = (T)name##_##bits(v, COUNT, &cc);                                      \
        __builtin_memcpy(p, &v, sizeof(T));                                       \
        t->cc = cc;                                                               \
        return FAULT_NONE;                                                        \
    }
#define SHIFT_FORMS(bits, T, sfx, m, name, asmop)   \
    SHIFT_FORM(bits, T, name, EI, (uint64_t)i->imm) \
    SHIFT_FORM(bits, T, name, E1, 1)                \
    SHIFT_FORM(bits, T, name, ECL, rd8(s, RCX * 8))

#define SHIFT(name)                      \
    FOR_SIZES(SHIFT_NATIVE, name, #name) \
    FOR_SIZES(SHIFT_FORMS, name, #name)  \
    EXEC_SET(name##_EI);                 \
    EXEC_SET(name##_E1);                 \
    EXEC_SET(name##_ECL)
SHIFT(rol);
SHIFT(ror);
SHIFT(rcl);
SHIFT(rcr);
SHIFT(shl);
SHIFT(shr);
SHIFT(sar);

/* SHLD, SHRD: what is shifted in, and the count, packed for rmw_slow(). */
typedef struct DoubleShift {
    uint64_t in;
    uint8_t count;
} DoubleShift;
#define DOUBLE_NATIVE(bits, T, sfx, m, name, asmop)                                \
    static uint64_t name##_##bits(uint64_t a, uint64_t arg, uint16_t *cc)          \
    {                                                                              \
        const DoubleShift *d = (const DoubleShift *)(uintptr_t)arg;                \
        uint32_t ax = *cc;                                                         \
        __asm__(ASM_FLAGS_IN asmop sfx " %%cl, %" m "[b], %" m "[a]" ASM_FLAGS_OUT \
                : [a] "+q"(a), "+a"(ax)                                            \
                : "c"(d->count), [b] "q"(d->in)                                    \
                : "cc");                                                           \
        *cc = (uint16_t)ax;                                                        \
        return a;                                                                  \
    }
#define DOUBLE_FORM(bits, T, name, form, COUNT)                                               \
    static Fault name##_##form##_r##bits(EXEC_ARGS)                                           \
    {                                                                                         \
        uint16_t cc = t->cc;                                                                  \
        DoubleShift d = {rd##bits(s, i->reg), (uint8_t)(COUNT)};                              \
        wr##bits(s, i->rm, (T)name##_##bits(rd##bits(s, i->rm), (uintptr_t)&d, &cc));         \
        t->cc = cc;                                                                           \
        return FAULT_NONE;                                                                    \
    }                                                                                         \
    static Fault name##_##form##_m##bits(EXEC_ARGS)                                           \
    {                                                                                         \
        gva_t lin;                                                                            \
        DoubleShift d = {rd##bits(s, i->reg), (uint8_t)(COUNT)};                              \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                                \
        return f ? f : rmw_slow(s, t, i, lin, sizeof(T), (uintptr_t)&d, name##_##bits, NULL); \
    }
#define DOUBLE_FORMS(bits, T, sfx, m, name, asmop) \
    DOUBLE_FORM(bits, T, name, EGI, i->imm)        \
    DOUBLE_FORM(bits, T, name, EGCL, rd8(s, RCX * 8))
#define DOUBLE(name)                        \
    FOR_SIZES_V(DOUBLE_NATIVE, name, #name) \
    FOR_SIZES_V(DOUBLE_FORMS, name, #name)  \
    EXEC_SET_V(name##_EGI);                 \
    EXEC_SET_V(name##_EGCL)
DOUBLE(shld);
DOUBLE(shrd);
