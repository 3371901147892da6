/* Moves: MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc, BSWAP, MOVBE, XLAT, sign extension of rAX. */
#include "tcg/exec.h"

#define LOAD_EA(bits, T, acc, var)                   \
    gva_t lin;                                       \
    T var;                                           \
    Fault f = ea_lin(s, t, i, sizeof(T), acc, &lin); \
    if (unlikely(f))                                 \
        return f;                                    \
    f = ld##bits(s, t, lin, &var);                   \
    if (unlikely(f))                                 \
        return f;
#define STORE_EA(bits, T, value)                           \
    gva_t lin;                                             \
    Fault f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin); \
    if (unlikely(f))                                       \
        return f;                                          \
    return st##bits(s, t, lin, (T)(value));

#define MOV_FORMS(bits, T, sfx, m, ...)          \
    static Fault mov_EG_r##bits(EXEC_ARGS)       \
    {                                            \
        wr##bits(s, i->rm, rd##bits(s, i->reg)); \
        return FAULT_NONE;                       \
    }                                            \
    static Fault mov_EG_m##bits(EXEC_ARGS)       \
    {                                            \
        STORE_EA(bits, T, rd##bits(s, i->reg))   \
    }                                            \
    static Fault mov_GE_r##bits(EXEC_ARGS)       \
    {                                            \
        wr##bits(s, i->reg, rd##bits(s, i->rm)); \
        return FAULT_NONE;                       \
    }                                            \
    static Fault mov_GE_m##bits(EXEC_ARGS)       \
    {                                            \
        LOAD_EA(bits, T, ACC_READ, v)            \
        wr##bits(s, i->reg, v);                  \
        return FAULT_NONE;                       \
    }                                            \
    static Fault mov_EI_r##bits(EXEC_ARGS)       \
    {                                            \
        wr##bits(s, i->rm, (T)i->imm);           \
        return FAULT_NONE;                       \
    }                                            \
    static Fault mov_EI_m##bits(EXEC_ARGS)       \
    {                                            \
        STORE_EA(bits, T, i->imm)                \
    }                                            \
    static Fault mov_ZI_r##bits(EXEC_ARGS)       \
    {                                            \
        wr##bits(s, i->reg, (T)i->imm);          \
        return FAULT_NONE;                       \
    }
FOR_SIZES(MOV_FORMS, 0)
EXEC_SET(mov_EG);
EXEC_SET(mov_GE);
EXEC_SET(mov_EI);
const ExecSet exec_mov_ZI = {
    {{mov_ZI_r8, NULL}, {mov_ZI_r16, NULL}, {mov_ZI_r32, NULL}, {mov_ZI_r64, NULL}}};

/* ---- MOVZX, MOVSX: the source has its own size ---- */
#define EXTEND(bits, T, sfx, m, name, sbits, ST, CAST)     \
    static Fault name##_r##bits(EXEC_ARGS)                 \
    {                                                      \
        wr##bits(s, i->reg, (T)(CAST)rd##sbits(s, i->rm)); \
        return FAULT_NONE;                                 \
    }                                                      \
    static Fault name##_m##bits(EXEC_ARGS)                 \
    {                                                      \
        LOAD_EA(sbits, ST, ACC_READ, v)                    \
        wr##bits(s, i->reg, (T)(CAST)v);                   \
        return FAULT_NONE;                                 \
    }
FOR_SIZES_V(EXTEND, movzx_b, 8, uint8_t, uint8_t)
FOR_SIZES_V(EXTEND, movzx_w, 16, uint16_t, uint16_t)
FOR_SIZES_V(EXTEND, movsx_b, 8, uint8_t, int8_t)
FOR_SIZES_V(EXTEND, movsx_w, 16, uint16_t, int16_t)
FOR_SIZES_V(EXTEND, movsxd, 32, uint32_t, int32_t)
EXEC_SET_V(movzx_b);
EXEC_SET_V(movzx_w);
EXEC_SET_V(movsx_b);
EXEC_SET_V(movsx_w);
EXEC_SET_V(movsxd);

/* ---- LEA ---- */
#define LEA(bits, T, sfx, m, ...)                \
    static Fault lea_m##bits(EXEC_ARGS)          \
    {                                            \
        wr##bits(s, i->reg, (T)ea_offset(s, i)); \
        return FAULT_NONE;                       \
    }
FOR_SIZES_V(LEA, 0)
const ExecSet exec_lea = {{{NULL, NULL}, {NULL, lea_m16}, {NULL, lea_m32}, {NULL, lea_m64}}};

/* ---- CMOVcc: the memory operand is read, and may fault, whatever the condition; a 32-bit
 * destination loses its upper half even when nothing moves ---- */
#define CMOV_SIZE(bits, T, sfx, m, n, cnd)                               \
    static Fault cmov##cnd##_r##bits(EXEC_ARGS)                          \
    {                                                                    \
        T v = cond(t->cc, n) ? rd##bits(s, i->rm) : rd##bits(s, i->reg); \
        wr##bits(s, i->reg, v);                                          \
        return FAULT_NONE;                                               \
    }                                                                    \
    static Fault cmov##cnd##_m##bits(EXEC_ARGS)                          \
    {                                                                    \
        LOAD_EA(bits, T, ACC_READ, v)                                    \
        if (!cond(t->cc, n))                                             \
            v = rd##bits(s, i->reg);                                     \
        wr##bits(s, i->reg, v);                                          \
        return FAULT_NONE;                                               \
    }
#define CMOV(n, cnd)               \
    FOR_SIZES_V(CMOV_SIZE, n, cnd) \
    EXEC_SET_V(cmov##cnd);
FOR_CONDITIONS(CMOV)

#define SETCC(n, cnd)                        \
    static Fault set##cnd##_r(EXEC_ARGS)     \
    {                                        \
        wr8(s, i->rm, cond(t->cc, n));       \
        return FAULT_NONE;                   \
    }                                        \
    static Fault set##cnd##_m(EXEC_ARGS)     \
    {                                        \
        STORE_EA(8, uint8_t, cond(t->cc, n)) \
    }                                        \
    const ExecSet exec_set##cnd = EXEC_RM(set##cnd##_r, set##cnd##_m);
FOR_CONDITIONS(SETCC)

/* ---- BSWAP (16-bit form: undefined, silicon stores zero), MOVBE ---- */
static Fault bswap_r16(EXEC_ARGS)
{
    wr16(s, i->reg, 0);
    return FAULT_NONE;
}
static Fault bswap_r32(EXEC_ARGS)
{
    wr32(s, i->reg, __builtin_bswap32(rd32(s, i->reg)));
    return FAULT_NONE;
}
static Fault bswap_r64(EXEC_ARGS)
{
    wr64(s, i->reg, __builtin_bswap64(rd64(s, i->reg)));
    return FAULT_NONE;
}
const ExecSet exec_bswap = {
    {{NULL, NULL}, {bswap_r16, NULL}, {bswap_r32, NULL}, {bswap_r64, NULL}}};

#define MOVBE(bits, T, sfx, m, ...)                                   \
    static Fault movbe_GM_m##bits(EXEC_ARGS)                          \
    {                                                                 \
        LOAD_EA(bits, T, ACC_READ, v)                                 \
        wr##bits(s, i->reg, __builtin_bswap##bits(v));                \
        return FAULT_NONE;                                            \
    }                                                                 \
    static Fault movbe_MG_m##bits(EXEC_ARGS)                          \
    {                                                                 \
        STORE_EA(bits, T, __builtin_bswap##bits(rd##bits(s, i->reg))) \
    }
FOR_SIZES_V(MOVBE, 0)
const ExecSet exec_movbe_GM = {
    {{NULL, NULL}, {NULL, movbe_GM_m16}, {NULL, movbe_GM_m32}, {NULL, movbe_GM_m64}}};
const ExecSet exec_movbe_MG = {
    {{NULL, NULL}, {NULL, movbe_MG_m16}, {NULL, movbe_MG_m32}, {NULL, movbe_MG_m64}}};

/* ---- sign extension of the accumulator ---- */
DEF_EXEC(cbw) /* CBW, CWDE, CDQE */
{
    if (i->opsize == 2)
        wr16(s, RAX, (uint16_t)(int8_t)s->gpr[RAX]);
    else if (i->opsize == 4)
        wr32(s, RAX, (uint32_t)(int16_t)s->gpr[RAX]);
    else
        wr64(s, RAX, (uint64_t)(int32_t)s->gpr[RAX]);
    return FAULT_NONE;
}
DEF_EXEC(cwd) /* CWD, CDQ, CQO */
{
    if (i->opsize == 2)
        wr16(s, RDX, s->gpr[RAX] & 0x8000 ? 0xffff : 0);
    else if (i->opsize == 4)
        wr32(s, RDX, s->gpr[RAX] & 0x80000000 ? 0xffffffff : 0);
    else
        wr64(s, RDX, s->gpr[RAX] >> 63 ? ~0ull : 0);
    return FAULT_NONE;
}

DEF_EXEC(xlat)
{
    gva_t lin;
    uint8_t v;
    uint64_t off = (s->gpr[RBX] + rd8(s, RAX * 8)) & size_mask(i->asize);
    Fault f = seg_lin(s, t, i->seg, off, 1, ACC_READ, &lin);
    if (!f)
        f = ld8(s, t, lin, &v);
    if (!f)
        wr8(s, RAX * 8, v);
    return f;
}
