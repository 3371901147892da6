/* Handlers of the rows that run as native thunks (vec.h), and of those with implicit operands. */
#include "tcg/exec.h"
#include "tcg/vec.h"

enum { MXCSR_FLAGS = 0x3f, MXCSR_MASKS = 0x1f80 };

static inline bool all_masked(const CpuState *s)
{
    return (s->fpu.mxcsr & MXCSR_MASKS) == MXCSR_MASKS;
}

/* The guest masks all: its MXCSR into the host's register, if it is not there yet. */
static inline void fp_load(const CpuState *s, Tcg *t, const VecCtx *c)
{
    if (unlikely(!t->fp_live || c->mxcsr_out != s->fpu.mxcsr)) {
        __builtin_ia32_ldmxcsr(s->fpu.mxcsr);
        t->fp_live = true;
    }
}

/* The guest has some exceptions unmasked: they are raised as the processor does (vec_trap.c). */
static Fault run_fp(CpuState *s, Tcg *t, const VecThunk *th, VecCtx *c, const VecSlots *p)
{
    c->mxcsr_in = s->fpu.mxcsr & ~(uint32_t)MXCSR_FLAGS;
    t->fp_live = false; /* the thunk leaves the host's */
    uint32_t raised = vec_trap_run(c, th, p);
    s->fpu.mxcsr |= (raised ? raised : c->mxcsr_out) & MXCSR_FLAGS;
    if (!raised)
        return FAULT_NONE;
    return s->cr4 & CR4_OSXMMEXCPT ? raise_exc(t, VEC_XM) : raise_ud(t);
}

/* A result that waited in VecCtx.out. */
static void commit_out(CpuState *s, const Insn *i, const VecThunk *th, VecCtx *c, const VecSlots *p)
{
    if (th->dest_class == VC_GPR) {
        memcpy(&s->gpr[th->dest == VD_REG ? i->reg : i->rm], c->out, 8);
        return;
    }
    memcpy(th->dest == VD_REG ? p->reg : p->rm, c->out, th->out_size);
}

Fault vec_run(CpuState *s, Tcg *t, const Insn *i G_GNUC_UNUSED, const VecThunk *th,
              const VecSlots *p, bool *waits)
{
    VecCtx *c = t->vec;
    if ((th->attr & A_FP) && !all_masked(s)) {
        *waits = th->out_size;
        Fault f = run_fp(s, t, th, c, p);
        if (unlikely(f) && (th->attr & A_MMX))
            mmx_enter(s); /* the processor does, before it looks at the numbers */
        return f;
    }
    *waits = false;
    if (th->attr & A_FP)
        fp_load(s, t, c);
    th->fast(p->reg, p->rm, p->vvvv, c, p->is4, p->xmm0);
    if (th->attr & A_FP)
        s->fpu.mxcsr = c->mxcsr_out;
    else
        *waits = th->out_size;
    return FAULT_NONE;
}

void vec_commit(CpuState *s, Tcg *t, const Insn *i, const VecThunk *th, const VecSlots *p,
                bool waits)
{
    if (waits)
        commit_out(s, i, th, t->vec, p);
    if (th->flags_out)
        t->cc = t->vec->cc;
}

static Fault vec_fn(CpuState *s, Tcg *t, const Insn *i)
{
    const VecThunk *th = i->aux;
    VecCtx *c = t->vec;
    gva_t lin = 0;
    Fault f = vec_check(s, t, th->attr);
    if (unlikely(f))
        return f;
    VecSlots p = {
        .reg = (uint8_t *)s + th->reg_base + ((size_t)i->reg << th->reg_shift),
        .rm = c->buf,
        .vvvv = (uint8_t *)s + th->vvvv_base + ((size_t)i->vvvv << th->vvvv_shift),
        .is4 = &s->fpu.v[i->imm >> 4 & (t->code64 ? 15 : 7)],
        .xmm0 = &s->fpu.v[0],
    };
    switch (th->mem) {
    case VM_NONE:
        p.rm = (uint8_t *)s + th->rm_base + ((size_t)i->rm << th->rm_shift);
        break;
    case VM_READ:
        f = vec_ea(s, t, i, th->attr, th->mem_size, ACC_READ, &lin);
        if (unlikely(f))
            return f;
        void *host = tlb_hit(t, t->mmu_mode, lin, th->mem_size, ACC_READ);
        if (likely(host != NULL))
            p.rm = host;
        else if ((f = mem_read_operand(s, t, lin, c->buf, th->mem_size,
                                       operand_align(t, th->mem_size))))
            return f;
        break;
    default:
        f = vec_ea(s, t, i, th->attr, th->mem_size, ACC_WRITE, &lin);
        if (!f && (th->attr & A_FP)) /* before the numbers are looked at */
            f = mem_probe_operand(s, t, lin, th->mem_size, operand_align(t, th->mem_size),
                                  ACC_WRITE);
        if (unlikely(f))
            return f;
    }

    bool waits;
    f = vec_run(s, t, i, th, &p, &waits);
    if (unlikely(f))
        return f;
    if (th->mem == VM_WRITE) {
        f = mem_write_operand(s, t, lin, c->buf, th->mem_size, operand_align(t, th->mem_size));
        if (unlikely(f))
            return f;
    }
    vec_commit(s, t, i, th, &p, waits);
    if (th->attr & A_MMX) {
        mmx_enter(s);
        if (th->dest_class == VC_MMX)
            s->fpu.r[th->dest == VD_REG ? i->reg : i->rm].se = 0xffff;
    }
    return FAULT_NONE;
}
const ExecSet exec_vec = EXEC_ONE(vec_fn);

/*
 * The common forms, without what they do not need: legacy SSE, XMM registers only, or a memory
 * source. The thunk has stored the result; with fp, when the guest masks all exceptions.
 */
static inline __attribute__((always_inline)) Fault quick(CpuState *s, Tcg *t, const Insn *i,
                                                         bool mem, bool fp, bool flags)
{
    const VecThunk *th = i->aux;
    VecCtx *c = t->vec;
    if (unlikely((s->cr0 & (CR0_EM | CR0_TS)) || !(s->cr4 & CR4_OSFXSR) || (fp && !all_masked(s))))
        return vec_fn(s, t, i);
    void *rm = s->fpu.v[i->rm].b;
    if (mem) {
        gva_t lin;
        Fault f = vec_ea(s, t, i, th->attr, th->mem_size, ACC_READ, &lin);
        if (unlikely(f))
            return f;
        rm = tlb_hit(t, t->mmu_mode, lin, th->mem_size, ACC_READ);
        if (unlikely(!rm))
            return vec_fn(s, t, i);
    }
    if (fp)
        fp_load(s, t, c);
    th->fast(s->fpu.v[i->reg].b, rm, NULL, c, NULL, s->fpu.v[0].b);
    if (fp)
        s->fpu.mxcsr = c->mxcsr_out;
    if (flags)
        t->cc = c->cc;
    return FAULT_NONE;
}
#define QUICK(name, mem, fp, flags)                  \
    static Fault quick_##name(EXEC_ARGS)             \
    {                                                \
        return quick(s, t, i, (mem), (fp), (flags)); \
    }
QUICK(reg, false, false, false)
QUICK(mem, true, false, false)
QUICK(reg_fp, false, true, false)
QUICK(mem_fp, true, true, false)
QUICK(reg_flags, false, true, true)
QUICK(mem_flags, true, true, true)

ExecFn *vec_handler(const Insn *i, const VecThunk *th)
{
    static ExecFn *const table[2][3] = {{quick_reg, quick_reg_fp, quick_reg_flags},
                                        {quick_mem, quick_mem_fp, quick_mem_flags}};
    bool fp = th->attr & A_FP;
    bool xmm = th->reg_base == offsetof(CpuState, fpu.v) &&
               (th->mem == VM_READ || (th->mem == VM_NONE && th->rm_base == th->reg_base));
    if (!xmm || th->is_vex || th->is_string || (th->attr & A_MMX) || (th->out_size && !fp) ||
        (th->flags_out && !fp))
        return NULL;
    return table[th->mem == VM_READ][th->flags_out ? 2 : fp];
}

/* PCMPxSTRx: lengths in (E)AX and (E)DX, index out in ECX or mask in XMM0. */
static Fault vec_str_fn(CpuState *s, Tcg *t, const Insn *i)
{
    const VecThunk *th = i->aux;
    VecCtx *c = t->vec;
    c->rax = s->gpr[RAX];
    c->rdx = s->gpr[RDX];
    Fault f = vec_fn(s, t, i);
    if (!f && !th->xmm0_out)
        s->gpr[RCX] = (uint32_t)c->rcx;
    return f;
}
const ExecSet exec_vec_str = EXEC_ONE(vec_str_fn);

/* ---- MXCSR ---- */
DEF_EXEC(ldmxcsr)
{
    gva_t lin;
    uint32_t v;
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (!f)
        f = ea_lin(s, t, i, 4, ACC_READ, &lin);
    if (!f)
        f = ld32(s, t, lin, &v);
    if (f)
        return f;
    uint32_t mask = s->fpu.mxcsr_mask ? s->fpu.mxcsr_mask : 0xffbf;
    if (v & ~mask)
        return raise_gp0(t);
    s->fpu.mxcsr = v;
    return FAULT_NONE;
}
DEF_EXEC(stmxcsr)
{
    gva_t lin;
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (!f)
        f = ea_lin(s, t, i, 4, ACC_WRITE, &lin);
    return f ? f : st32(s, t, lin, s->fpu.mxcsr);
}

DEF_EXEC(emms)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (f)
        return f;
    s->fpu.fsw &= (uint16_t)~FSW_TOP;
    s->fpu.ftw = 0;
    return FAULT_NONE;
}

/*
 * MASKMOVQ, MASKMOVDQU: the bytes whose mask bit is set go to DS:rDI, or another segment's, byte
 * by byte. All bytes that will be written are probed first; the others are not touched at all.
 */
static Fault maskmov(CpuState *s, Tcg *t, const Insn *i, const uint8_t *data, const uint8_t *mask,
                     unsigned n)
{
    uint64_t di = s->gpr[RDI], am = size_mask(i->asize);
    gva_t lin[16];
    /* AMD probes all of the operand, whatever the mask, eight bytes at a time. */
    for (unsigned k = 0; t->amd && k < n; k += 8) {
        Fault f = seg_lin(s, t, i->seg, (di + k) & am, 8, ACC_WRITE, &lin[0]);
        if (!f)
            f = mem_probe_operand(s, t, lin[0], 8, 8, ACC_WRITE);
        if (f)
            return f;
    }
    for (unsigned k = 0; k < n; k++) {
        if (!(mask[k] & 0x80))
            continue;
        Fault f = seg_lin(s, t, i->seg, (di + k) & am, 1, ACC_WRITE, &lin[k]);
        if (!f)
            f = mem_probe_write(s, t, lin[k], 1);
        if (f)
            return f;
    }
    for (unsigned k = 0; k < n; k++) {
        if (!(mask[k] & 0x80))
            continue;
        Fault f = st8(s, t, lin[k], data[k]);
        if (f)
            return f;
    }
    return FAULT_NONE;
}
DEF_EXEC(maskmovq)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (!f && t->amd)
        mmx_enter(s); /* even when the store faults */
    if (!f)
        f = maskmov(s, t, i, s->fpu.r[i->reg].b, s->fpu.r[i->rm].b, 8);
    if (!f)
        mmx_enter(s);
    return f;
}
DEF_EXEC(maskmovdqu)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    return f ? f : maskmov(s, t, i, s->fpu.v[i->reg].b, s->fpu.v[i->rm].b, 16);
}
