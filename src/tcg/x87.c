/* x87 instructions that compute, load and store: see x87.h for how. */
#include "tcg/exec.h"
#include "tcg/x87.h"

enum { FX_FCW = 0, FX_FSW = 2, FX_FTW = 4, FX_FOP = 6, FX_FIP = 8, FX_FDP = 16, FX_MXCSR = 24 };
enum { FX_ST = 32 };
/* Exceptions that, unmasked, keep an instruction from storing its result; precision does not. */
enum { FSW_NO_RESULT = 0x1f };

void x87_init(FpuState *f)
{
    f->fcw = 0x37f;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
}

uint16_t x87_full_tags(const FpuState *f)
{
    uint16_t tags = 0;
    for (unsigned k = 0; k < 8; k++) {
        unsigned exp = f->r[k].se & 0x7fff, tag;
        if (!(f->ftw >> k & 1))
            tag = 3;
        else if (exp == 0)
            tag = f->r[k].mant ? 2 : 1;
        else
            tag = exp == 0x7fff || !(f->r[k].mant >> 63) ? 2 : 0;
        tags |= (uint16_t)(tag << (2 * k));
    }
    return tags;
}

/* ---- between FpuState and the image ---- */

/* FIP, FDP and FOP go in as 0, so that what the instruction makes of them shows. */
void x87_image(const FpuState *f, uint8_t *fx)
{
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
    static const uint32_t mxcsr = 0x1f80;
    memset(fx, 0, FX_ST);
    memcpy(fx + FX_FCW, &f->fcw, 2);
    memcpy(fx + FX_FSW, &f->fsw, 2);
    fx[FX_FTW] = f->ftw;
    memcpy(fx + FX_MXCSR, &mxcsr, 4);
    for (unsigned k = 0; k < 8; k++)
        memcpy(fx + FX_ST + 16 * k, f->r[(top + k) & 7].b, 16);
}

static uint16_t image_fsw(const uint8_t *fx)
{
    uint16_t fsw;
    memcpy(&fsw, fx + FX_FSW, 2);
    return fsw;
}

/* A far pointer as FpuState keeps it. */
static uint64_t far_pointer(const Tcg *t, uint16_t sel, uint64_t off)
{
    return t->code64 ? off : (uint64_t)sel << 32 | (uint32_t)off;
}

void x87_take(FpuState *f, const uint8_t *fx)
{
    f->fsw = image_fsw(fx);
    f->ftw = fx[FX_FTW];
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
    for (unsigned k = 0; k < 8; k++)
        memcpy(f->r[(top + k) & 7].b, fx + FX_ST + 16 * k, 10);
}

static void commit(CpuState *s, Tcg *t, const Insn *i, const uint8_t *fx)
{
    FpuState *f = &s->fpu;
    uint64_t fip, fdp;
    uint16_t fop;
    x87_take(f, fx);
    memcpy(&fip, fx + FX_FIP, 8);
    memcpy(&fdp, fx + FX_FDP, 8);
    memcpy(&fop, fx + FX_FOP, 2);
    const VecCtx *c = t->vec;
    if (fip || c->keeps_fip)
        f->fip = far_pointer(t, s->seg[CS].selector, insn_rip(t, i));
    if ((fdp || c->keeps_fdp) && (i->flags & IF_MEM))
        f->fdp = far_pointer(t, s->seg[i->seg].selector, ea_offset(s, i));
    if (fop || c->keeps_fop)
        f->fop = (uint16_t)((op_rows[i->row].opcode & 7) << 8 | i->modrm);
}

void x87_pointers(CpuState *s, const Tcg *t, const Insn *i)
{
    const VecCtx *c = t->vec;
    if (c->keeps_fip)
        s->fpu.fip = far_pointer(t, s->seg[CS].selector, insn_rip(t, i));
    if (c->keeps_fdp && (i->flags & IF_MEM))
        s->fpu.fdp = far_pointer(t, s->seg[i->seg].selector, ea_offset(s, i));
    if (c->keeps_fop)
        s->fpu.fop = (uint16_t)((op_rows[i->row].opcode & 7) << 8 | i->modrm);
}

/* Whether FXRSTOR64 keeps 64 bits of a pointer, or those that a linear address has. */
static unsigned probe_pointer_pad(void)
{
    _Alignas(64) uint8_t own[512], image[512] = {0};
    const uint64_t given = 0x2aab800000001000; /* the canonical forms of 48 and 57 bits differ */
    const uint16_t fcw = 0x40, fsw = 0x8081;   /* an exception is pending: pointers are loaded */
    uint64_t kept;
    memcpy(image + FX_FCW, &fcw, 2);
    memcpy(image + FX_FSW, &fsw, 2);
    memcpy(image + FX_FIP, &given, 8);
    __asm__ volatile("fxsave64 %0\n\tfxrstor64 %1\n\tfxsave64 %1\n\tfnclex\n\tfxrstor64 %0"
                     : "=m"(own), "+m"(image));
    memcpy(&kept, image + FX_FIP, 8);
    return kept == 0xffff800000001000 ? 64 - 48 : kept == 0x00ab800000001000 ? 64 - 57 : 0;
}

/* What this processor keeps of an instruction without an exception, as FNSTENV tells it, and
 * whether FXSAVE tells it too. */
void x87_probe(VecCtx *c)
{
    static _Alignas(64) uint8_t own[512], image[512];
    static const float one = 1;
    uint32_t env[7];
    __asm__ volatile("fxsave64 %0\n\tfninit\n\tflds %3\n\tfnstenv %2\n\tfldenv %2\n\t"
                     "fxsave64 %1\n\tfxrstor64 %0"
                     : "=m"(own), "=m"(image), "=m"(env)
                     : "m"(one));
    c->keeps_fip = env[3];
    c->keeps_fop = env[4] >> 16 & 0x7ff;
    c->keeps_fdp = env[5];
    c->pointer_pad = (uint8_t)probe_pointer_pad();
    c->hides_pointers = env[3] && !image[FX_FIP] && !image[FX_FIP + 1] && !image[FX_FIP + 2];
}

static const uint8_t *code_of(const Insn *i)
{
    unsigned opcode = op_rows[i->row].opcode & 7;
    return i->flags & IF_MEM ? x87_mem_code[opcode][i->modrm >> 3 & 7]
                             : x87_reg_code[opcode][i->modrm & 63];
}

static unsigned operand_bytes(const Insn *i)
{
    switch (op_rows[i->row].op[0]) {
    case O_Mw:
        return 2;
    case O_Md:
        return 4;
    case O_Mq:
        return 8;
    default:
        return 10; /* O_Mt */
    }
}

/* ---- handlers ---- */

/* Register forms, and those that read memory. */
static Fault x87_reg(EXEC_ARGS)
{
    const OpRow *row = &op_rows[i->row];
    VecCtx *c = t->vec;
    Fault f = x87_check(s, t, row->attr);
    if (f)
        return f;
    if (x87_fast(s, t, i, NULL))
        return FAULT_NONE;
    uint16_t cc = t->cc;
    x87_image(&s->fpu, c->fx);
    vec_release(t); /* FXRSTOR loads MXCSR too */
    x87_enter(c->fx, c->buf, code_of(i), &cc);
    commit(s, t, i, c->fx);
    if (row->fl_written)
        t->cc = cc;
    return FAULT_NONE;
}
static inline Fault x87_load(CpuState *s, Tcg *t, gva_t lin, void *buf, unsigned size)
{
    const void *p = tlb_hit(t, t->mmu_mode, lin, size, ACC_READ);
    if (unlikely(!p))
        return mem_read_operand(s, t, lin, buf, size, operand_align(t, size));
    memcpy(buf, p, size);
    return FAULT_NONE;
}
/* Address of the operand. AMD accesses the mantissa of 80 bits first, with its own checks. */
static Fault operand_lin(CpuState *s, Tcg *t, const Insn *i, unsigned size, enum Access a,
                         gva_t *lin)
{
    Fault f = FAULT_NONE;
    if (unlikely(size == 10) && t->amd) {
        f = ea_lin(s, t, i, 8, a, lin);
        if (!f)
            f = mem_probe_operand(s, t, *lin, 8, 8, a);
    }
    return f ? f : ea_lin(s, t, i, size, a, lin);
}
static Fault x87_mem(EXEC_ARGS)
{
    gva_t lin;
    VecCtx *c = t->vec;
    unsigned size = operand_bytes(i);
    Fault f = x87_check(s, t, op_rows[i->row].attr);
    if (!f)
        f = operand_lin(s, t, i, size, ACC_READ, &lin);
    if (!f)
        f = x87_load(s, t, lin, c->buf, size);
    if (f || x87_fast(s, t, i, c->buf))
        return f;
    uint16_t cc = 0;
    x87_image(&s->fpu, c->fx);
    vec_release(t); /* FXRSTOR loads MXCSR too */
    x87_enter(c->fx, c->buf, code_of(i), &cc);
    commit(s, t, i, c->fx);
    return FAULT_NONE;
}
const ExecSet exec_x87 = EXEC_RM(x87_reg, x87_mem);

/* Those that write memory. An unmasked exception other than precision leaves it alone (SDM vol. 1,
 * 8.5); since none was pending before, the summary bit tells that this instruction raised one. */
DEF_EXEC(x87_store)
{
    gva_t lin;
    VecCtx *c = t->vec;
    unsigned size = operand_bytes(i);
    Fault f = x87_check(s, t, op_rows[i->row].attr);
    if (!f)
        f = operand_lin(s, t, i, size, ACC_WRITE, &lin);
    if (f)
        return f;
    f = mem_probe_operand(s, t, lin, size, operand_align(t, size), ACC_WRITE);
    if (f)
        return f;
    if (x87_fast(s, t, i, c->buf))
        return mem_write_bytes(s, t, lin, c->buf, size);
    uint16_t cc = 0;
    x87_image(&s->fpu, c->fx);
    vec_release(t); /* FXRSTOR loads MXCSR too */
    x87_enter(c->fx, c->buf, code_of(i), &cc);
    if (!(image_fsw(c->fx) & ~s->fpu.fcw & FSW_NO_RESULT))
        f = mem_write_bytes(s, t, lin, c->buf, size);
    if (!f)
        commit(s, t, i, c->fx);
    return f;
}
