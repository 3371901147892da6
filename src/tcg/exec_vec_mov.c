/* The moves that programs make all the time, in C: no thunk to call. */
#include "tcg/exec.h"
#include "tcg/vec.h"

#define CHECK()                                            \
    do {                                                   \
        Fault chk = vec_check(s, t, op_rows[i->row].attr); \
        if (unlikely(chk))                                 \
            return chk;                                    \
    } while (0)

/* ---- 16 bytes: MOVUPS, MOVAPS, MOVDQA, MOVDQU, MOVNTPS, MOVNTDQ, LDDQU ... ---- */
static Fault load16(EXEC_ARGS)
{
    gva_t lin;
    CHECK();
    Fault f = vec_ea(s, t, i, op_rows[i->row].attr, 16, ACC_READ, &lin);
    if (unlikely(f))
        return f;
    const void *p = tlb_hit(t, t->mmu_mode, lin, 16, ACC_READ);
    if (likely(p != NULL)) {
        memcpy(s->fpu.v[i->reg].b, p, 16);
        return FAULT_NONE;
    }
    uint8_t buf[16];
    f = mem_read_operand(s, t, lin, buf, 16, 16);
    if (!f)
        memcpy(s->fpu.v[i->reg].b, buf, 16);
    return f;
}
static Fault store16(EXEC_ARGS)
{
    gva_t lin;
    CHECK();
    Fault f = vec_ea(s, t, i, op_rows[i->row].attr, 16, ACC_WRITE, &lin);
    if (unlikely(f))
        return f;
    void *p = tlb_hit(t, t->mmu_mode, lin, 16, ACC_WRITE);
    if (likely(p != NULL)) {
        memcpy(p, s->fpu.v[i->reg].b, 16);
        return FAULT_NONE;
    }
    return mem_write_operand(s, t, lin, s->fpu.v[i->reg].b, 16, 16);
}
static Fault copy16_rm_to_reg(EXEC_ARGS)
{
    CHECK();
    memmove(s->fpu.v[i->reg].b, s->fpu.v[i->rm].b, 16);
    return FAULT_NONE;
}
static Fault copy16_reg_to_rm(EXEC_ARGS)
{
    CHECK();
    memmove(s->fpu.v[i->rm].b, s->fpu.v[i->reg].b, 16);
    return FAULT_NONE;
}
const ExecSet exec_mov16_load = EXEC_RM(copy16_rm_to_reg, load16);
const ExecSet exec_mov16_store = EXEC_RM(copy16_reg_to_rm, store16);

/* ---- 4 and 8 bytes: MOVSS, MOVSD, MOVQ, MOVLPS, MOVHPS, MOVD ---- */
static Fault load_q(CpuState *s, Tcg *t, const Insn *i, uint64_t *v)
{
    gva_t lin;
    CHECK();
    Fault f = ea_lin(s, t, i, 8, ACC_READ, &lin);
    return unlikely(f) ? f : ld64(s, t, lin, v);
}
static Fault load_d(CpuState *s, Tcg *t, const Insn *i, uint32_t *v)
{
    gva_t lin;
    CHECK();
    Fault f = ea_lin(s, t, i, 4, ACC_READ, &lin);
    return unlikely(f) ? f : ld32(s, t, lin, v);
}
static Fault store_q(CpuState *s, Tcg *t, const Insn *i, uint64_t v)
{
    gva_t lin;
    CHECK();
    Fault f = ea_lin(s, t, i, 8, ACC_WRITE, &lin);
    return unlikely(f) ? f : st64(s, t, lin, v);
}
static Fault store_d(CpuState *s, Tcg *t, const Insn *i, uint32_t v)
{
    gva_t lin;
    CHECK();
    Fault f = ea_lin(s, t, i, 4, ACC_WRITE, &lin);
    return unlikely(f) ? f : st32(s, t, lin, v);
}
static void set_low(VecReg *x, uint64_t v)
{
    x->q[0] = v;
    x->q[1] = 0;
}

/* Memory loads clear the rest of the register; register moves keep it. */
DEF_EXEC(movss_load)
{
    uint32_t v;
    Fault f = load_d(s, t, i, &v);
    if (!f)
        set_low(&s->fpu.v[i->reg], v);
    return f;
}
DEF_EXEC(movss_copy)
{
    CHECK();
    s->fpu.v[i->reg].d[0] = s->fpu.v[i->rm].d[0];
    return FAULT_NONE;
}
static Fault movss_store_r(EXEC_ARGS)
{
    CHECK();
    s->fpu.v[i->rm].d[0] = s->fpu.v[i->reg].d[0];
    return FAULT_NONE;
}
static Fault movss_store_m(EXEC_ARGS)
{
    return store_d(s, t, i, s->fpu.v[i->reg].d[0]);
}
const ExecSet exec_movss_store = EXEC_RM(movss_store_r, movss_store_m);

DEF_EXEC(movsd_load)
{
    uint64_t v;
    Fault f = load_q(s, t, i, &v);
    if (!f)
        set_low(&s->fpu.v[i->reg], v);
    return f;
}
DEF_EXEC(movsd_copy)
{
    CHECK();
    s->fpu.v[i->reg].q[0] = s->fpu.v[i->rm].q[0];
    return FAULT_NONE;
}
static Fault movsd_store_r(EXEC_ARGS)
{
    CHECK();
    s->fpu.v[i->rm].q[0] = s->fpu.v[i->reg].q[0];
    return FAULT_NONE;
}
static Fault store_low(EXEC_ARGS)
{
    return store_q(s, t, i, s->fpu.v[i->reg].q[0]);
}
const ExecSet exec_movsd_store = EXEC_RM(movsd_store_r, store_low);

/* MOVQ between XMM registers clears the upper half, both ways. */
static Fault movq_load_r(EXEC_ARGS)
{
    CHECK();
    set_low(&s->fpu.v[i->reg], s->fpu.v[i->rm].q[0]);
    return FAULT_NONE;
}
static Fault movq_store_r(EXEC_ARGS)
{
    CHECK();
    set_low(&s->fpu.v[i->rm], s->fpu.v[i->reg].q[0]);
    return FAULT_NONE;
}
const ExecSet exec_movq_load = EXEC_RM(movq_load_r, movsd_load_fn);
const ExecSet exec_movq_store = EXEC_RM(movq_store_r, store_low);

/* MOVLPS, MOVHPS and their PD forms, memory only: half a register. */
DEF_EXEC(movlps_load)
{
    uint64_t v;
    Fault f = load_q(s, t, i, &v);
    if (!f)
        s->fpu.v[i->reg].q[0] = v;
    return f;
}
DEF_EXEC(movlps_store)
{
    return store_low(s, t, i);
}
DEF_EXEC(movhps_load)
{
    uint64_t v;
    Fault f = load_q(s, t, i, &v);
    if (!f)
        s->fpu.v[i->reg].q[1] = v;
    return f;
}
DEF_EXEC(movhps_store)
{
    return store_q(s, t, i, s->fpu.v[i->reg].q[1]);
}

/* MOVD, MOVQ between general and XMM registers or memory, by REX.W. */
static inline bool wide(const Insn *i)
{
    return i->rexw && (i->flags & IF_CODE64);
}
static Fault movd_load_r(EXEC_ARGS)
{
    CHECK();
    set_low(&s->fpu.v[i->reg], wide(i) ? rd64(s, i->rm) : rd32(s, i->rm));
    return FAULT_NONE;
}
static Fault movd_load_m(EXEC_ARGS)
{
    return wide(i) ? movsd_load_fn(s, t, i) : movss_load_fn(s, t, i);
}
static Fault movd_store_r(EXEC_ARGS)
{
    CHECK();
    uint64_t v = s->fpu.v[i->reg].q[0];
    wr64(s, i->rm, wide(i) ? v : (uint32_t)v);
    return FAULT_NONE;
}
static Fault movd_store_m(EXEC_ARGS)
{
    return wide(i) ? store_low(s, t, i) : movss_store_m(s, t, i);
}
const ExecSet exec_movd_load = EXEC_RM(movd_load_r, movd_load_m);
const ExecSet exec_movd_store = EXEC_RM(movd_store_r, movd_store_m);
