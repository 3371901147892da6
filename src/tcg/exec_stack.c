/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE: SDM vol. 2. RSP is committed last. */
#include "tcg/exec.h"

#define PUSH(bits, T, sfx, m, ...)                                                   \
    static inline Fault push##bits(CpuState *s, Tcg *t, T v)                         \
    {                                                                                \
        uint64_t rsp;                                                                \
        void *p = stack_fast(s, t, sizeof(T), -(int64_t)sizeof(T), ACC_WRITE, &rsp); \
        if (unlikely(!p))                                                            \
            return stack_push(s, t, sizeof(T), v);                                   \
        __builtin_memcpy(p, &v, sizeof(T));                                          \
        s->gpr[RSP] = rsp;                                                           \
        return FAULT_NONE;                                                           \
    }                                                                                \
    static Fault push_Z_r##bits(EXEC_ARGS)                                           \
    {                                                                                \
        return push##bits(s, t, rd##bits(s, i->reg));                                \
    }                                                                                \
    static Fault push_E_r##bits(EXEC_ARGS)                                           \
    {                                                                                \
        return push##bits(s, t, rd##bits(s, i->rm));                                 \
    }                                                                                \
    static Fault push_E_m##bits(EXEC_ARGS)                                           \
    {                                                                                \
        gva_t lin;                                                                   \
        T v;                                                                         \
        Fault f = ea_lin(s, t, i, sizeof(T), ACC_READ, &lin);                        \
        if (!f)                                                                      \
            f = ld##bits(s, t, lin, &v);                                             \
        return f ? f : push##bits(s, t, v);                                          \
    }                                                                                \
    static Fault push_I_r##bits(EXEC_ARGS)                                           \
    {                                                                                \
        return push##bits(s, t, (T)i->imm);                                          \
    }                                                                                \
    static inline Fault pop##bits(CpuState *s, Tcg *t, T *v)                         \
    {                                                                                \
        uint64_t rsp, wide;                                                          \
        const void *p = stack_fast(s, t, sizeof(T), sizeof(T), ACC_READ, &rsp);      \
        if (likely(p != NULL)) {                                                     \
            __builtin_memcpy(v, p, sizeof(T));                                       \
            s->gpr[RSP] = rsp;                                                       \
            return FAULT_NONE;                                                       \
        }                                                                            \
        Fault f = stack_pop(s, t, sizeof(T), &wide);                                 \
        *v = (T)wide;                                                                \
        return f;                                                                    \
    }                                                                                \
    static Fault pop_Z_r##bits(EXEC_ARGS)                                            \
    {                                                                                \
        T v;                                                                         \
        Fault f = pop##bits(s, t, &v);                                               \
        if (likely(!f))                                                              \
            wr##bits(s, i->reg, v);                                                  \
        return f;                                                                    \
    }                                                                                \
    static Fault pop_E_r##bits(EXEC_ARGS)                                            \
    {                                                                                \
        T v;                                                                         \
        Fault f = pop##bits(s, t, &v);                                               \
        if (likely(!f))                                                              \
            wr##bits(s, i->rm, v);                                                   \
        return f;                                                                    \
    }                                                                                \
    /* An address based on RSP uses RSP after the pop. */                            \
    static Fault pop_E_m##bits(EXEC_ARGS)                                            \
    {                                                                                \
        uint64_t before = s->gpr[RSP];                                               \
        gva_t lin;                                                                   \
        T v;                                                                         \
        Fault f = pop##bits(s, t, &v);                                               \
        if (f)                                                                       \
            return f;                                                                \
        f = ea_lin(s, t, i, sizeof(T), ACC_WRITE, &lin);                             \
        if (!f)                                                                      \
            f = st##bits(s, t, lin, v);                                              \
        if (f)                                                                       \
            s->gpr[RSP] = before;                                                    \
        return f;                                                                    \
    }
FOR_SIZES_V(PUSH, 0)
EXEC_SET_V(push_E);
EXEC_SET_V(pop_E);
const ExecSet exec_push_Z = {
    {{NULL, NULL}, {push_Z_r16, NULL}, {push_Z_r32, NULL}, {push_Z_r64, NULL}}};
const ExecSet exec_push_I = {
    {{NULL, NULL}, {push_I_r16, NULL}, {push_I_r32, NULL}, {push_I_r64, NULL}}};
const ExecSet exec_pop_Z = {
    {{NULL, NULL}, {pop_Z_r16, NULL}, {pop_Z_r32, NULL}, {pop_Z_r64, NULL}}};

/* All eight pushed or none: RSP is set back when a later push faults. What has been written below
 * the stack pointer by then is not seen as a change. */
DEF_EXEC(pusha)
{
    uint64_t before = s->gpr[RSP];
    for (unsigned r = RAX; r <= RDI; r++) {
        Fault f = stack_push(s, t, i->opsize, r == RSP ? before : s->gpr[r]);
        if (f) {
            s->gpr[RSP] = before;
            return f;
        }
    }
    return FAULT_NONE;
}

DEF_EXEC(popa)
{
    uint64_t before = s->gpr[RSP], v[8];
    for (int r = RDI; r >= RAX; r--) {
        Fault f = stack_pop(s, t, i->opsize, &v[r]);
        if (f) {
            s->gpr[RSP] = before;
            for (int done = RDI; t->amd && done > r; done--) /* AMD keeps what it has */
                if (done != RSP)
                    wr_size(s, (unsigned)done, i->opsize, v[done]);
            return f;
        }
    }
    for (unsigned r = RAX; r <= RDI; r++)
        if (r != RSP)
            wr_size(s, r, i->opsize, v[r]);
    return FAULT_NONE;
}

/* The frame pointer is addressed with the stack's width, not the operand's. */
DEF_EXEC(enter)
{
    uint64_t mask = stack_mask(t), before = s->gpr[RSP], frame;
    unsigned level = i->imm2 & 31, size = i->opsize;
    uint64_t rbp = s->gpr[RBP];
    gva_t lin;
    Fault f = stack_push(s, t, size, rbp);
    frame = s->gpr[RSP];
    for (unsigned k = 1; !f && k < level; k++) {
        uint64_t v;
        rbp -= size;
        f = seg_lin(s, t, SS, rbp & mask, size, ACC_READ, &lin);
        if (!f)
            f = mem_read(s, t, lin, size, &v);
        if (!f)
            f = stack_push(s, t, size, v);
    }
    if (!f && level)
        f = stack_push(s, t, size, frame);
    if (!f) {
        /* The new top of stack must be writable, though nothing is stored there. */
        uint64_t top = (s->gpr[RSP] - (uint64_t)i->imm) & mask;
        f = seg_lin(s, t, SS, top, size, ACC_WRITE, &lin);
        if (!f)
            f = mem_probe_operand(s, t, lin, size, t->amd ? size : 1, ACC_WRITE);
    }
    if (f) {
        s->gpr[RSP] = before;
        return f;
    }
    stack_set(s, t, s->gpr[RSP] - (uint64_t)i->imm);
    wr_size(s, RBP, size, frame);
    return FAULT_NONE;
}

DEF_EXEC(leave)
{
    uint64_t before = s->gpr[RSP], v;
    stack_set(s, t, s->gpr[RBP]);
    Fault f = stack_pop(s, t, i->opsize, &v);
    if (f)
        s->gpr[RSP] = before;
    else
        wr_size(s, RBP, i->opsize, v);
    return f;
}
