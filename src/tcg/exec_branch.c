/* Near branches: Jcc, JMP, CALL, RET, LOOP, JCXZ. All end their block. */
#include "tcg/exec.h"

/* Relative targets. In 64-bit mode, and only there, the operand size is 64. */
static inline __attribute__((always_inline)) Fault branch64(CpuState *s, Tcg *t, const Insn *i)
{
    uint64_t target = t->blk_rip + (uint64_t)i->disp;
    if (unlikely((uint64_t)((int64_t)target >> 47) + 1 > 1))
        return raise_gp0(t);
    s->rip = target;
    return FAULT_JUMP;
}
static inline __attribute__((always_inline)) Fault branch32(CpuState *s, Tcg *t, const Insn *i)
{
    return jump_to(s, t, (uint32_t)(t->blk_rip + (uint64_t)i->disp));
}
static inline __attribute__((always_inline)) Fault branch16(CpuState *s, Tcg *t, const Insn *i)
{
    return jump_to(s, t, (uint16_t)(t->blk_rip + (uint64_t)i->disp));
}

#define JCC_SIZE(bits, n, cnd)                                      \
    static Fault j##cnd##_##bits(EXEC_ARGS)                         \
    {                                                               \
        return cond(t->cc, n) ? branch##bits(s, t, i) : FAULT_NONE; \
    }
#define JCC(n, cnd)               \
    JCC_SIZE(16, n, cnd)          \
    JCC_SIZE(32, n, cnd)          \
    JCC_SIZE(64, n, cnd)          \
    const ExecSet exec_j##cnd = { \
        {{NULL, NULL}, {j##cnd##_16, NULL}, {j##cnd##_32, NULL}, {j##cnd##_64, NULL}}};
FOR_CONDITIONS(JCC)

#define JMP_SIZE(bits, T, sfx, m, ...)                        \
    static Fault jmp_J_##bits(EXEC_ARGS)                      \
    {                                                         \
        return branch##bits(s, t, i);                         \
    }                                                         \
    static Fault jmp_E_r##bits(EXEC_ARGS)                     \
    {                                                         \
        return jump_to(s, t, rd##bits(s, i->rm));             \
    }                                                         \
    static Fault jmp_E_m##bits(EXEC_ARGS)                     \
    {                                                         \
        gva_t lin;                                            \
        T v;                                                  \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin); \
        if (!f)                                               \
            f = ld##bits(s, t, lin, &v);                      \
        return f ? f : jump_to(s, t, v);                      \
    }
FOR_SIZES_V(JMP_SIZE, 0)
EXEC_SET_V(jmp_E);
const ExecSet exec_jmp_J = {{{NULL, NULL}, {jmp_J_16, NULL}, {jmp_J_32, NULL}, {jmp_J_64, NULL}}};

/* The target is checked before the push, the push before RIP changes. */
static bool target_ok(const CpuState *s, const Tcg *t, uint64_t target)
{
    return t->code64 ? (uint64_t)((int64_t)target >> 47) + 1 <= 1 : target <= s->seg[CS].limit;
}

/* A call to where nothing can be called. AMD finds out behind the push. */
static __attribute__((noinline, cold)) Fault bad_call(CpuState *s, Tcg *t, unsigned size)
{
    gva_t lin;
    uint64_t sp = (s->gpr[RSP] - size) & stack_mask(t);
    Fault f = FAULT_NONE;
    if (t->amd)
        f = seg_lin(s, t, SS, sp, size, ACC_WRITE, &lin);
    if (!f && t->amd)
        f = mem_probe_operand(s, t, lin, size, size, ACC_WRITE);
    return f ? f : raise_gp0(t);
}

#define CALL_SIZE(bits, T, sfx, m, ...)                                              \
    static inline Fault call_##bits(CpuState *s, Tcg *t, const Insn *i, T target)    \
    {                                                                                \
        uint64_t rsp;                                                                \
        T next = (T)(t->blk_rip + i->end);                                           \
        if (unlikely(!target_ok(s, t, target)))                                      \
            return bad_call(s, t, sizeof(T));                                        \
        void *p = stack_fast(s, t, sizeof(T), -(int64_t)sizeof(T), ACC_WRITE, &rsp); \
        if (likely(p != NULL)) {                                                     \
            __builtin_memcpy(p, &next, sizeof(T));                                   \
            s->gpr[RSP] = rsp;                                                       \
        } else {                                                                     \
            Fault f = stack_push(s, t, sizeof(T), next);                             \
            if (f)                                                                   \
                return f;                                                            \
        }                                                                            \
        s->rip = target;                                                             \
        return FAULT_JUMP;                                                           \
    }                                                                                \
    static Fault call_J_##bits(EXEC_ARGS)                                            \
    {                                                                                \
        return call_##bits(s, t, i, (T)(t->blk_rip + (uint64_t)i->disp));            \
    }                                                                                \
    static Fault call_E_r##bits(EXEC_ARGS)                                           \
    {                                                                                \
        return call_##bits(s, t, i, rd##bits(s, i->rm));                             \
    }                                                                                \
    static Fault call_E_m##bits(EXEC_ARGS)                                           \
    {                                                                                \
        gva_t lin;                                                                   \
        T v;                                                                         \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);                        \
        if (!f)                                                                      \
            f = ld##bits(s, t, lin, &v);                                             \
        return f ? f : call_##bits(s, t, i, v);                                      \
    }                                                                                \
    static Fault ret_##bits(EXEC_ARGS)                                               \
    {                                                                                \
        uint64_t rsp;                                                                \
        const void *p = stack_fast(s, t, sizeof(T), sizeof(T), ACC_READ, &rsp);      \
        if (likely(p != NULL)) {                                                     \
            T target;                                                                \
            __builtin_memcpy(&target, p, sizeof(T));                                 \
            if (unlikely(!target_ok(s, t, target)))                                  \
                return raise_gp0(t);                                                 \
            stack_set(s, t, rsp + (uint64_t)i->imm);                                 \
            s->rip = target;                                                         \
            return FAULT_JUMP;                                                       \
        }                                                                            \
        uint64_t v, before = s->gpr[RSP];                                            \
        Fault f = stack_pop(s, t, sizeof(T), &v);                                    \
        if (!f && !target_ok(s, t, v)) {                                             \
            s->gpr[RSP] = before;                                                    \
            f = raise_gp0(t);                                                        \
        }                                                                            \
        if (f)                                                                       \
            return f;                                                                \
        stack_set(s, t, s->gpr[RSP] + (uint64_t)i->imm);                             \
        s->rip = v;                                                                  \
        return FAULT_JUMP;                                                           \
    }
FOR_SIZES_V(CALL_SIZE, 0)
EXEC_SET_V(call_E);
const ExecSet exec_call_J = {
    {{NULL, NULL}, {call_J_16, NULL}, {call_J_32, NULL}, {call_J_64, NULL}}};
const ExecSet exec_ret = {{{NULL, NULL}, {ret_16, NULL}, {ret_32, NULL}, {ret_64, NULL}}};

/* LOOP counts in (R|E)CX by the address size; the count is written only if the branch is legal. */
static Fault branch_any(CpuState *s, Tcg *t, const Insn *i)
{
    return i->opsize == 8   ? branch64(s, t, i)
           : i->opsize == 4 ? branch32(s, t, i)
                            : branch16(s, t, i);
}
static Fault loop(CpuState *s, Tcg *t, const Insn *i, bool also)
{
    uint64_t n = (s->gpr[RCX] - 1) & size_mask(i->asize);
    Fault f = n && also ? branch_any(s, t, i) : FAULT_NONE;
    if (f != FAULT_EXC)
        wr_size(s, RCX, i->asize, n);
    return f;
}
DEF_EXEC(loop)
{
    return loop(s, t, i, true);
}
/* On AMD's a REP prefix says which of the two it is. */
static bool loop_wants_zf(const Tcg *t, const Insn *i, bool zf)
{
    return t->amd && (i->flags & (IF_REP | IF_REPNE)) ? i->flags & IF_REP : zf;
}
DEF_EXEC(loope)
{
    return loop(s, t, i, !!(t->cc & CC_ZF) == loop_wants_zf(t, i, true));
}
DEF_EXEC(loopne)
{
    return loop(s, t, i, !!(t->cc & CC_ZF) == loop_wants_zf(t, i, false));
}
DEF_EXEC(jcxz)
{
    return rd_size(s, RCX, i->asize) ? FAULT_NONE : branch_any(s, t, i);
}
