/* Bits: BT/BTS/BTR/BTC, BSF/BSR, POPCNT, LZCNT, TZCNT, CRC32, BMI1, BMI2, ADX. */
#include "tcg/exec.h"

/* ---- BT and its kin ---- */
#define BT_NATIVE(bits, T, sfx, m, name, asmop)                              \
    static uint64_t name##_##bits(uint64_t a, uint64_t bit, uint16_t *cc)    \
    {                                                                        \
        uint32_t ax = *cc;                                                   \
        T v = (T)a, b = (T)(bit & (bits - 1));                               \
        __asm__(ASM_FLAGS_IN asmop sfx " %" m "[b], %" m "[v]" ASM_FLAGS_OUT \
                : [v] "+r"(v), "+a"(ax)                                      \
                : [b] "r"(b)                                                 \
                : "cc");                                                     \
        *cc = (uint16_t)ax;                                                  \
        return v;                                                            \
    }
FOR_SIZES_V(BT_NATIVE, bt, "bt")
FOR_SIZES_V(BT_NATIVE, bts, "bts")
FOR_SIZES_V(BT_NATIVE, btr, "btr")
FOR_SIZES_V(BT_NATIVE, btc, "btc")

/* A register bit offset reaches out of a memory operand: it is signed, and moves the address by
 * whole operands. */
static Fault bit_string_lin(CpuState *s, Tcg *t, const Insn *i, int64_t bit, enum Access a,
                            gva_t *lin)
{
    int64_t move = (bit >> (3 + __builtin_ctz(i->opsize))) * i->opsize;
    Insn moved = *i;
    moved.disp += move;
    return ea_lin(s, t, &moved, i->opsize, a, lin);
}

#define BT_FORMS(bits, T, sfx, m, name, ACC)                                                    \
    static Fault name##_EG_r##bits(EXEC_ARGS)                                                   \
    {                                                                                           \
        uint16_t cc = t->cc;                                                                    \
        T v = (T)name##_##bits(rd##bits(s, i->rm), rd##bits(s, i->reg), &cc);                   \
        if (ACC == ACC_WRITE)                                                                   \
            wr##bits(s, i->rm, v);                                                              \
        t->cc = cc;                                                                             \
        return FAULT_NONE;                                                                      \
    }                                                                                           \
    static Fault name##_EI_r##bits(EXEC_ARGS)                                                   \
    {                                                                                           \
        uint16_t cc = t->cc;                                                                    \
        T v = (T)name##_##bits(rd##bits(s, i->rm), (uint64_t)i->imm, &cc);                      \
        if (ACC == ACC_WRITE)                                                                   \
            wr##bits(s, i->rm, v);                                                              \
        t->cc = cc;                                                                             \
        return FAULT_NONE;                                                                      \
    }                                                                                           \
    static Fault name##_do_m##bits(CpuState *s, Tcg *t, const Insn *i, gva_t lin, uint64_t bit) \
    {                                                                                           \
        if (ACC == ACC_WRITE)                                                                   \
            return rmw_slow(s, t, i, lin, sizeof(T), bit, name##_##bits, NULL);                 \
        T v;                                                                                    \
        uint16_t cc = t->cc;                                                                    \
        Fault f = ld##bits(s, t, lin, &v);                                                      \
        if (f)                                                                                  \
            return f;                                                                           \
        (void)name##_##bits(v, bit, &cc);                                                       \
        t->cc = cc;                                                                             \
        return FAULT_NONE;                                                                      \
    }                                                                                           \
    static Fault name##_EG_m##bits(EXEC_ARGS)                                                   \
    {                                                                                           \
        gva_t lin;                                                                              \
        Fault f = bit_string_lin(s, t, i, (int##bits##_t)rd##bits(s, i->reg), ACC, &lin);       \
        return f ? f : name##_do_m##bits(s, t, i, lin, rd##bits(s, i->reg));                    \
    }                                                                                           \
    static Fault name##_EI_m##bits(EXEC_ARGS)                                                   \
    {                                                                                           \
        gva_t lin;                                                                              \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC, &lin);                                        \
        return f ? f : name##_do_m##bits(s, t, i, lin, (uint64_t)i->imm);                       \
    }
#define BT(name, ACC)                \
    FOR_SIZES_V(BT_FORMS, name, ACC) \
    EXEC_SET_V(name##_EG);           \
    EXEC_SET_V(name##_EI)
BT(bt, ACC_READ);
BT(bts, ACC_WRITE);
BT(btr, ACC_WRITE);
BT(btc, ACC_WRITE);

/* ---- one source, one destination: the host does it, flags in and out. The destination goes in as
 * well: BSF and BSR leave it alone when the source is zero ---- */
#define UNARY_NATIVE(bits, T, sfx, m, name, asmop)                               \
    static inline uint64_t name##_##bits(uint64_t dst, T src, uint16_t *cc)      \
    {                                                                            \
        uint32_t ax = *cc;                                                       \
        __asm__(ASM_FLAGS_IN asmop sfx " %" m "[src], %" m "[dst]" ASM_FLAGS_OUT \
                : [dst] "+r"(dst), "+a"(ax)                                      \
                : [src] "r"(src)                                                 \
                : "cc");                                                         \
        *cc = (uint16_t)ax;                                                      \
        return dst;                                                              \
    }
#define UNARY_FORMS(bits, T, sfx, m, name, ...)                                  \
    static Fault name##_r##bits(EXEC_ARGS)                                       \
    {                                                                            \
        uint16_t cc = t->cc;                                                     \
        s->gpr[i->reg] = name##_##bits(s->gpr[i->reg], rd##bits(s, i->rm), &cc); \
        t->cc = cc;                                                              \
        return FAULT_NONE;                                                       \
    }                                                                            \
    static Fault name##_m##bits(EXEC_ARGS)                                       \
    {                                                                            \
        gva_t lin;                                                               \
        T v;                                                                     \
        uint16_t cc = t->cc;                                                     \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);                    \
        if (!f)                                                                  \
            f = ld##bits(s, t, lin, &v);                                         \
        if (f)                                                                   \
            return f;                                                            \
        s->gpr[i->reg] = name##_##bits(s->gpr[i->reg], v, &cc);                  \
        t->cc = cc;                                                              \
        return FAULT_NONE;                                                       \
    }
FOR_SIZES_V(UNARY_NATIVE, bsf, "bsf")
FOR_SIZES_V(UNARY_NATIVE, bsr, "bsr")
FOR_SIZES_V(UNARY_FORMS, bsf, 0)
FOR_SIZES_V(UNARY_FORMS, bsr, 0)
EXEC_SET_V(bsf);
EXEC_SET_V(bsr);

/*
 * The rest may be offered on a host without it, so it is computed there. Where the host has it
 * (BMI2 comes last of all) it is the host's own, so that what the manual leaves undefined comes out
 * as in translated code, and lockstep can hold all flags against each other.
 *
 * POPCNT sets ZF and clears the rest; LZCNT and TZCNT define CF and ZF.
 */
bool exec_bit_computed;
static inline bool by_host(void)
{
    return __builtin_cpu_supports("bmi2") && !exec_bit_computed;
}
FOR_SIZES_V(UNARY_NATIVE, host_lzcnt, "lzcnt")
FOR_SIZES_V(UNARY_NATIVE, host_tzcnt, "tzcnt")
#define COUNTS(bits, T, sfx, m, ...)                                                      \
    static inline uint64_t popcnt_##bits(uint64_t dst, T src, uint16_t *cc)               \
    {                                                                                     \
        *cc = src ? 0 : CC_ZF;                                                            \
        T v = (T)__builtin_popcountll(src);                                               \
        return bits == 16 ? (dst & ~0xffffull) | v : v;                                   \
    }                                                                                     \
    static inline uint64_t lzcnt_##bits(uint64_t dst, T src, uint16_t *cc)                \
    {                                                                                     \
        if (by_host())                                                                    \
            return host_lzcnt_##bits(dst, src, cc);                                       \
        T v = src ? (T)(__builtin_clzll(src) - (64 - bits)) : bits;                       \
        *cc = (uint16_t)((*cc & ~(CC_CF | CC_ZF)) | (src ? 0 : CC_CF) | (v ? 0 : CC_ZF)); \
        return bits == 16 ? (dst & ~0xffffull) | v : v;                                   \
    }                                                                                     \
    static inline uint64_t tzcnt_##bits(uint64_t dst, T src, uint16_t *cc)                \
    {                                                                                     \
        if (by_host())                                                                    \
            return host_tzcnt_##bits(dst, src, cc);                                       \
        T v = src ? (T)__builtin_ctzll(src) : bits;                                       \
        *cc = (uint16_t)((*cc & ~(CC_CF | CC_ZF)) | (src ? 0 : CC_CF) | (v ? 0 : CC_ZF)); \
        return bits == 16 ? (dst & ~0xffffull) | v : v;                                   \
    }
FOR_SIZES_V(COUNTS, 0)
FOR_SIZES_V(UNARY_FORMS, popcnt, 0)
FOR_SIZES_V(UNARY_FORMS, lzcnt, 0)
FOR_SIZES_V(UNARY_FORMS, tzcnt, 0)
EXEC_SET_V(popcnt);
EXEC_SET_V(lzcnt);
EXEC_SET_V(tzcnt);

/* ---- r/m operand of 32 or 64 bits for what follows ---- */
static Fault load_rm(CpuState *s, Tcg *t, const Insn *i, unsigned size, uint64_t *v)
{
    if (!(i->flags & IF_MEM)) {
        *v = size == 1 ? rd8(s, i->rm) : s->gpr[i->rm] & size_mask(size);
        return FAULT_NONE;
    }
    gva_t lin;
    Fault f = ea_lin(s, t, i, size, ACC_READ, &lin);
    return f ? f : mem_read(s, t, lin, size, v);
}
/* Flags of a logical result: CF as given, OF clear, AF and PF as the result of a TEST have them. */
static uint16_t logic_cc(uint64_t v, unsigned size, bool carry)
{
    uint16_t cc = carry ? CC_CF : 0;
    if (!(v & size_mask(size)))
        cc |= CC_ZF;
    if (v >> (size * 8 - 1) & 1)
        cc |= CC_SF;
    return cc;
}

/* CRC-32C, bit-reflected (polynomial 0x1EDC6F41). */
static Fault crc32(CpuState *s, Tcg *t, const Insn *i, unsigned size)
{
    uint64_t v;
    Fault f = load_rm(s, t, i, size, &v);
    if (f)
        return f;
    uint32_t crc = rd32(s, i->reg);
    for (unsigned k = 0; k < size; k++) {
        crc ^= v >> (k * 8) & 0xff;
        for (unsigned b = 0; b < 8; b++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    wr32(s, i->reg, crc);
    return FAULT_NONE;
}
DEF_EXEC(crc32_b)
{
    return crc32(s, t, i, 1);
}
DEF_EXEC(crc32_v)
{
    return crc32(s, t, i, i->opsize);
}

/* ---- BMI1 and BMI2: VEX-coded, 32 or 64 bits ---- */
#define VEX_SRC                                            \
    uint64_t v, mask G_GNUC_UNUSED = size_mask(i->opsize); \
    Fault f = load_rm(s, t, i, i->opsize, &v);             \
    if (f)                                                 \
        return f;
static void vex_dst(CpuState *s, const Insn *i, unsigned r, uint64_t v)
{
    s->gpr[r] = v & size_mask(i->opsize);
}

/* By the host: of v and the register in VEX.vvvv. */
#define HOST_VEX(name, operands32, operands64)                                        \
    static uint64_t host_##name(const Insn *i, uint64_t v, uint64_t by, uint16_t *cc) \
    {                                                                                 \
        uint32_t ax = *cc;                                                            \
        uint64_t to;                                                                  \
        if (i->opsize == 8)                                                           \
            __asm__(ASM_FLAGS_IN #name " " operands64 ASM_FLAGS_OUT                   \
                    : [to] "=&r"(to), "+a"(ax)                                        \
                    : [v] "r"(v), [by] "r"(by)                                        \
                    : "cc");                                                          \
        else                                                                          \
            __asm__(ASM_FLAGS_IN #name " " operands32 ASM_FLAGS_OUT                   \
                    : [to] "=&r"(to), "+a"(ax)                                        \
                    : [v] "r"(v), [by] "r"(by)                                        \
                    : "cc");                                                          \
        *cc = (uint16_t)ax;                                                           \
        return to;                                                                    \
    }
HOST_VEX(andn, "%k[v], %k[by], %k[to]", "%q[v], %q[by], %q[to]")
HOST_VEX(bextr, "%k[by], %k[v], %k[to]", "%q[by], %q[v], %q[to]")
HOST_VEX(bzhi, "%k[by], %k[v], %k[to]", "%q[by], %q[v], %q[to]")
HOST_VEX(blsr, "%k[v], %k[to]", "%q[v], %q[to]")
HOST_VEX(blsmsk, "%k[v], %k[to]", "%q[v], %q[to]")
HOST_VEX(blsi, "%k[v], %k[to]", "%q[v], %q[to]")
/* to: where the result goes. */
#define VEX_SRC_OR_HOST(name, to)                    \
    VEX_SRC                                          \
    if (by_host()) {                                 \
        uint16_t cc = t->cc;                         \
        v = host_##name(i, v, s->gpr[i->vvvv], &cc); \
        vex_dst(s, i, i->to, v);                     \
        t->cc = cc;                                  \
        return FAULT_NONE;                           \
    }

DEF_EXEC(andn)
{
    VEX_SRC_OR_HOST(andn, reg)
    v &= ~s->gpr[i->vvvv] & mask;
    vex_dst(s, i, i->reg, v);
    t->cc = logic_cc(v, i->opsize, false);
    return FAULT_NONE;
}
DEF_EXEC(bextr)
{
    VEX_SRC_OR_HOST(bextr, reg)
    unsigned start = s->gpr[i->vvvv] & 0xff, len = s->gpr[i->vvvv] >> 8 & 0xff;
    v = start < 64 ? v >> start : 0;
    if (len < 64)
        v &= BIT(len) - 1;
    vex_dst(s, i, i->reg, v);
    t->cc = v ? 0 : CC_ZF;
    return FAULT_NONE;
}
DEF_EXEC(blsr)
{
    VEX_SRC_OR_HOST(blsr, vvvv)
    uint64_t r = v & (v - 1) & mask;
    vex_dst(s, i, i->vvvv, r);
    t->cc = logic_cc(r, i->opsize, v == 0);
    return FAULT_NONE;
}
DEF_EXEC(blsmsk)
{
    VEX_SRC_OR_HOST(blsmsk, vvvv)
    uint64_t r = (v ^ (v - 1)) & mask;
    vex_dst(s, i, i->vvvv, r);
    t->cc = (uint16_t)(logic_cc(r, i->opsize, v == 0) & ~CC_ZF);
    return FAULT_NONE;
}
DEF_EXEC(blsi)
{
    VEX_SRC_OR_HOST(blsi, vvvv)
    uint64_t r = v & -v & mask;
    vex_dst(s, i, i->vvvv, r);
    t->cc = logic_cc(r, i->opsize, v != 0);
    return FAULT_NONE;
}
DEF_EXEC(bzhi)
{
    VEX_SRC_OR_HOST(bzhi, reg)
    unsigned n = s->gpr[i->vvvv] & 0xff, width = i->opsize * 8;
    if (n < width)
        v &= BIT(n) - 1;
    vex_dst(s, i, i->reg, v);
    t->cc = logic_cc(v, i->opsize, n >= width);
    return FAULT_NONE;
}
DEF_EXEC(mulx)
{
    VEX_SRC
    if (i->opsize == 8) {
        unsigned __int128 p = (unsigned __int128)v * s->gpr[RDX];
        s->gpr[i->vvvv] = (uint64_t)p;
        s->gpr[i->reg] = (uint64_t)(p >> 64); /* the same register twice: the high half stays */
    } else {
        uint64_t p = (mask & v) * rd32(s, RDX);
        wr32(s, i->vvvv, (uint32_t)p);
        wr32(s, i->reg, (uint32_t)(p >> 32));
    }
    return FAULT_NONE;
}
DEF_EXEC(pdep)
{
    VEX_SRC
    uint64_t src = s->gpr[i->vvvv], r = 0;
    for (uint64_t m = v; m; m &= m - 1, src >>= 1)
        if (src & 1)
            r |= m & -m;
    vex_dst(s, i, i->reg, r & mask);
    return FAULT_NONE;
}
DEF_EXEC(pext)
{
    VEX_SRC
    uint64_t src = s->gpr[i->vvvv] & mask, r = 0;
    unsigned k = 0;
    for (uint64_t m = v; m; m &= m - 1, k++)
        if (src & m & -m)
            r |= BIT(k);
    vex_dst(s, i, i->reg, r);
    return FAULT_NONE;
}
DEF_EXEC(rorx)
{
    VEX_SRC
    unsigned width = i->opsize * 8, n = (unsigned)i->imm & (width - 1);
    if (n)
        v = v >> n | v << (width - n);
    vex_dst(s, i, i->reg, v & mask);
    return FAULT_NONE;
}
DEF_EXEC(shlx)
{
    VEX_SRC
    vex_dst(s, i, i->reg, v << (s->gpr[i->vvvv] & (i->opsize * 8 - 1)) & mask);
    return FAULT_NONE;
}
DEF_EXEC(shrx)
{
    VEX_SRC
    vex_dst(s, i, i->reg, (v & mask) >> (s->gpr[i->vvvv] & (i->opsize * 8 - 1)));
    return FAULT_NONE;
}
DEF_EXEC(sarx)
{
    VEX_SRC
    unsigned n = s->gpr[i->vvvv] & (i->opsize * 8 - 1);
    int64_t x = i->opsize == 8 ? (int64_t)v : (int32_t)v;
    vex_dst(s, i, i->reg, (uint64_t)(x >> n) & mask);
    return FAULT_NONE;
}

/* ADCX and ADOX: one carry chain each, no other flag. */
static Fault adx(CpuState *s, Tcg *t, const Insn *i, uint16_t flag)
{
    VEX_SRC
    unsigned __int128 sum =
        (unsigned __int128)(s->gpr[i->reg] & mask) + (v & mask) + !!(t->cc & flag);
    s->gpr[i->reg] = (uint64_t)sum & mask;
    bool carry = sum >> (i->opsize * 8);
    t->cc = (uint16_t)((t->cc & ~flag) | (carry ? flag : 0));
    return FAULT_NONE;
}
DEF_EXEC(adcx)
{
    return adx(s, t, i, CC_CF);
}
DEF_EXEC(adox)
{
    return adx(s, t, i, CC_OF);
}
