/*
 * Native thunks (see vec.h): the guest's instruction re-encoded with fixed registers.
 *
 *   operand              register in the thunk     loaded from
 *   ModRM.reg            xmm1, mm1, rax            [rdi]
 *   ModRM.rm, register   xmm2, mm2, rdx            [rsi]
 *   ModRM.rm, memory     [rsi]
 *   VEX.vvvv             xmm3                      [rdx]
 *   imm8[7:4]            xmm4                      [r8]
 *   implicit XMM0        xmm0                      [r9]
 *   EVEX.aaa             k7                        [r8]
 *
 * Mask registers are k1, k2 and k3 in place of xmm1, xmm2 and xmm3. Where the guest has ZMM
 * registers (VecThunk.wide), all of them is moved under VEX too, which clears what it does not
 * write.
 *
 * rcx is the VecCtx. The operand named first in the row is stored back. No register that the ABI
 * calls callee-saved is touched; MXCSR, MMX state and the upper halves are put right at the end.
 */
#include "tcg/vec.h"

enum {
    AT_MXCSR_IN = offsetof(VecCtx, mxcsr_in),
    AT_MXCSR_OUT = offsetof(VecCtx, mxcsr_out),
    AT_MXCSR_HOST = offsetof(VecCtx, mxcsr_host),
    AT_CC = offsetof(VecCtx, cc),
    AT_RAX = offsetof(VecCtx, rax),
    AT_RDX = offsetof(VecCtx, rdx),
    AT_RCX = offsetof(VecCtx, rcx),
    AT_OUT = offsetof(VecCtx, out),
};
_Static_assert(AT_OUT < 0x80, "8-bit displacements");

/* ---- what the operands say ---- */

static bool is_vex_map(unsigned map)
{
    return map >= MAP_VEX0F;
}

unsigned vec_operand_bytes(const Insn *i, unsigned op)
{
    if ((i->evex & EVEX_B) && (i->flags & IF_MEM))
        return op_rows[i->row].evex.element;
    unsigned x = is_vex_map(op_rows[i->row].map) ? 16u << i->vexl : 16;
    if (op_rows[i->row].evex.tuple == TT_DUP && !i->vexl)
        x = 8; /* of the memory operand, which alone matters */
    switch (op) {
    case O_Wh:
        return x / 2;
    case O_We:
        return x / 4;
    case O_Wo:
        return x / 8;
    case O_Ey:
        return i->rexw && (i->flags & IF_CODE64) ? 8 : 4;
    default:
        return operand_info[op].size ? operand_info[op].size : x;
    }
}

static bool is_rm(unsigned cls)
{
    switch (cls) {
    case OC_RM:
    case OC_MEM:
    case OC_VRM:
    case OC_MMRM:
    case OC_RMREG:
    case OC_VRMREG:
    case OC_MMRMREG:
    case OC_KRM:
    case OC_KRMREG:
        return true;
    default:
        return false;
    }
}

static bool is_reg(unsigned cls)
{
    return cls == OC_REG || cls == OC_VREG || cls == OC_MMREG || cls == OC_KREG;
}

static enum VecClass class_of(unsigned cls)
{
    switch (cls) {
    case OC_VREG:
    case OC_VRM:
    case OC_VRMREG:
    case OC_VVVV:
    case OC_IS4:
        return VC_VEC;
    case OC_MMREG:
    case OC_MMRM:
    case OC_MMRMREG:
        return VC_MMX;
    case OC_REG:
    case OC_RM:
    case OC_RMREG:
        return VC_GPR;
    case OC_KREG:
    case OC_KVVVV:
    case OC_KRM:
    case OC_KRMREG:
        return VC_MASK;
    default:
        return VC_NONE;
    }
}

static void slot_of(enum VecClass c, uint32_t *base, uint8_t *shift)
{
    switch (c) {
    case VC_VEC:
        *base = offsetof(CpuState, fpu.v);
        *shift = 6;
        break;
    case VC_MMX:
        *base = offsetof(CpuState, fpu.r);
        *shift = 4;
        break;
    case VC_MASK:
        *base = offsetof(CpuState, fpu.k);
        *shift = 3;
        break;
    default:
        *base = offsetof(CpuState, gpr);
        *shift = 3;
    }
}

void vec_describe(const Insn *i, VecThunk *th)
{
    const OpRow *row = &op_rows[i->row];
    bool mem = i->flags & IF_MEM;

    th->attr = row->attr;
    th->is_vex = is_vex_map(row->map);
    th->is_evex = is_evex_map(row->map);
    th->flags_out = row->fl_written != 0;
    th->is_string = row->exec == &exec_vec_str;
    slot_of(VC_GPR, &th->reg_base, &th->reg_shift);
    slot_of(VC_GPR, &th->rm_base, &th->rm_shift);
    slot_of(VC_VEC, &th->vvvv_base, &th->vvvv_shift);
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[row->op[k]].cls;
        enum VecClass c = class_of(cls);
        if (is_reg(cls))
            slot_of(c, &th->reg_base, &th->reg_shift);
        if (cls == OC_KVVVV)
            slot_of(c, &th->vvvv_base, &th->vvvv_shift);
        if (!is_rm(cls))
            continue;
        slot_of(c, &th->rm_base, &th->rm_shift);
        if (mem) {
            th->mem = k ? VM_READ : VM_WRITE;
            th->mem_size = (uint8_t)vec_operand_bytes(i, row->op[k]);
        }
    }
    unsigned first = operand_info[row->op[0]].cls;
    th->xmm0_out = th->is_string && row->op[3] == O_XMM0;
    if ((mem && is_rm(first)) || th->is_string || th->flags_out)
        return;
    th->dest_class = class_of(first);
    th->dest = first == OC_VVVV || first == OC_KVVVV ? VD_VVVV : is_rm(first) ? VD_RM : VD_REG;
    if (th->dest_class == VC_GPR)
        th->out_size = 8;
    else if (row->attr & A_FP)
        th->out_size = th->dest_class == VC_MMX || th->dest_class == VC_MASK ? 8
                       : !th->is_vex                                         ? 16
                       : th->wide                                            ? 64
                                                                             : 32;
}

/* ---- bytes ---- */

typedef struct Emit {
    uint8_t *p;
    bool vex, evex, wide;
} Emit;

enum { BASE_RCX = 1, BASE_RDX = 2, BASE_RSI = 6, BASE_RDI = 7, BASE_R8 = 8, BASE_R9 = 9 };

static void put(Emit *e, const char *bytes, unsigned n)
{
    memcpy(e->p, bytes, n);
    e->p += n;
}
#define PUT(e, ...) put(e, (const char[]){__VA_ARGS__}, sizeof((const char[]){__VA_ARGS__}))

/* [base + disp8] with a register field. */
static void modrm_mem(Emit *e, unsigned reg, unsigned base, unsigned disp)
{
    PUT(e, (char)(0x40 | (reg & 7) << 3 | (base & 7)), (char)disp);
}

/* MOVUPS (op 10: load, 11: store), all of YMM or ZMM under VEX. */
static void emit_movups(Emit *e, unsigned op, unsigned reg, unsigned base, unsigned disp)
{
    if (e->wide) {
        PUT(e, 0x62, (char)(0xd1 | (base < 8) << 5), 0x7c, 0x48, (char)op);
        disp /= sizeof(VecReg);
    } else if (e->vex)
        PUT(e, (char)0xc4, (char)(0xc1 | (base < 8) << 5), 0x7c, (char)op);
    else if (base >= 8)
        PUT(e, 0x41, 0x0f, (char)op);
    else
        PUT(e, 0x0f, (char)op);
    modrm_mem(e, reg, base, disp);
}

/* KMOVQ (op 90: load, 91: store). */
static void emit_kmovq(Emit *e, unsigned op, unsigned reg, unsigned base, unsigned disp)
{
    PUT(e, (char)0xc4, (char)(0xc1 | (base < 8) << 5), (char)0xf8, (char)op);
    modrm_mem(e, reg, base, disp);
}

/* MOVQ mm (op 6F: load, 7F: store). */
static void emit_movq(Emit *e, unsigned op, unsigned reg, unsigned base, unsigned disp)
{
    PUT(e, 0x0f, (char)op);
    modrm_mem(e, reg, base, disp);
}

/* MOV r64 (op 8B: load, 89: store). */
static void emit_mov(Emit *e, unsigned op, unsigned reg, unsigned base, unsigned disp)
{
    PUT(e, 0x48, (char)op);
    modrm_mem(e, reg, base, disp);
}

/* LDMXCSR /2, STMXCSR /3. */
static void emit_mxcsr(Emit *e, unsigned n, unsigned disp)
{
    PUT(e, 0x0f, (char)0xae);
    modrm_mem(e, n, BASE_RCX, disp);
}

static void emit_move(Emit *e, bool load, enum VecClass c, unsigned reg, unsigned base,
                      unsigned disp)
{
    switch (c) {
    case VC_VEC:
        emit_movups(e, load ? 0x10 : 0x11, reg, base, disp);
        break;
    case VC_MMX:
        emit_movq(e, load ? 0x6f : 0x7f, reg, base, disp);
        break;
    case VC_GPR:
        emit_mov(e, load ? 0x8b : 0x89, reg, base, disp);
        break;
    case VC_MASK:
        emit_kmovq(e, load ? 0x90 : 0x91, reg, base, disp);
        break;
    case VC_NONE:
        break;
    }
}

/* Where an operand lives in the thunk. */
static unsigned reg_number(enum VecClass c)
{
    return c == VC_GPR ? 0 : 1;
}
enum { RM_NUMBER = 2, VVVV_NUMBER = 3, IS4_NUMBER = 4, AAA_NUMBER = 7 };

static void emit_loads(Emit *e, const OpRow *row, bool mem)
{
    /* ModRM.rm last: as a general register it takes RDX, which points to vvvv until then. */
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[row->op[k]].cls;
        switch (cls) {
        case OC_VREG:
        case OC_MMREG:
        case OC_REG:
        case OC_KREG:
            emit_move(e, true, class_of(cls), reg_number(class_of(cls)), BASE_RDI, 0);
            break;
        case OC_KVVVV:
            emit_kmovq(e, 0x90, VVVV_NUMBER, BASE_RDX, 0);
            break;
        case OC_VVVV:
            emit_movups(e, 0x10, VVVV_NUMBER, BASE_RDX, 0);
            break;
        case OC_IS4:
            emit_movups(e, 0x10, IS4_NUMBER, BASE_R8, 0);
            break;
        default:
            break;
        }
        if (row->op[k] == O_XMM0)
            emit_movups(e, 0x10, 0, BASE_R9, 0);
    }
    for (unsigned k = 0; k < 4 && !mem; k++) {
        unsigned cls = operand_info[row->op[k]].cls;
        if (is_rm(cls))
            emit_move(e, true, class_of(cls), RM_NUMBER, BASE_RSI, 0);
    }
}

static void emit_prefix(Emit *e, const Insn *i, const OpRow *row, bool w, bool vvvv)
{
    static const uint8_t pfx_vex[] = {[PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    unsigned v = vvvv ? ~VVVV_NUMBER & 15u : 15;
    if (e->evex)
        PUT(e, 0x62, (char)(0xf0 | (row->map - MAP_EVEX0F + 1)),
            (char)(w << 7 | v << 3 | 4 | pfx_vex[i->pfx]),
            (char)((i->evex & (EVEX_LL | EVEX_B | (i->evex & EVEX_AAA ? EVEX_Z : 0))) | 8 |
                   (i->evex & EVEX_AAA ? AAA_NUMBER : 0)));
    else
        PUT(e, (char)0xc4, (char)(0xe0 | (row->map - MAP_VEX0F + 1)),
            (char)(w << 7 | v << 3 | i->vexl << 2 | pfx_vex[i->pfx]));
}

static void emit_insn(Emit *e, const Insn *i, const OpRow *row)
{
    static const uint8_t pfx_byte[] = {[PFX_66] = 0x66, [PFX_F3] = 0xf3, [PFX_F2] = 0xf2};
    unsigned reg = row->modrm & 7, opcode = row->opcode, imm_bytes = 0, is4 = 0;
    bool vvvv = false, w = i->rexw && (e->vex || (i->flags & IF_CODE64));
    if (row->exec == &exec_vec_str && !(i->flags & IF_CODE64))
        w = false; /* lengths are those of EAX and EDX */

    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[row->op[k]].cls;
        if (is_reg(cls))
            reg = reg_number(class_of(cls));
        vvvv |= cls == OC_VVVV || cls == OC_KVVVV;
        is4 |= cls == OC_IS4;
        imm_bytes |= cls == OC_IMM || cls == OC_IS4;
    }
    if (e->vex) {
        /* Outside 64-bit mode VEX.W does not widen general registers; the host is in 64-bit mode,
         * so it must not here either. */
        for (unsigned k = 0; k < 4; k++)
            if (class_of(operand_info[row->op[k]].cls) == VC_GPR && !(i->flags & IF_CODE64))
                w = false;
        emit_prefix(e, i, row, w, vvvv);
    } else {
        if (pfx_byte[i->pfx])
            PUT(e, (char)pfx_byte[i->pfx]);
        if (w)
            PUT(e, 0x48);
        PUT(e, 0x0f);
        if (row->map != MAP_0F)
            PUT(e, row->map == MAP_0F38 ? 0x38 : 0x3a);
    }
    PUT(e, (char)opcode);
    if (i->flags & IF_MEM)
        PUT(e, (char)(reg << 3 | BASE_RSI));
    else
        PUT(e, (char)(0xc0 | reg << 3 | RM_NUMBER));
    if (imm_bytes)
        PUT(e, (char)(is4 ? IS4_NUMBER << 4 | (i->imm & 15) : i->imm));
}

unsigned vec_emit(uint8_t *code, const Insn *i, const VecThunk *th, bool fast)
{
    const OpRow *row = &op_rows[i->row];
    Emit em = {.p = code, .vex = th->is_vex, .evex = th->is_evex, .wide = th->is_vex && th->wide},
         *e = &em;
    bool mmx = false;

    for (unsigned k = 0; k < 4; k++)
        mmx |= class_of(operand_info[row->op[k]].cls) == VC_MMX;
    if (i->evex & EVEX_AAA)
        emit_kmovq(e, 0x90, AAA_NUMBER, BASE_R8, 0);
    emit_loads(e, row, i->flags & IF_MEM);
    if (th->is_string) {
        PUT(e, 0x49, (char)0x89, (char)0xca); /* mov r10, rcx */
        emit_mov(e, 0x8b, 0, BASE_RCX, AT_RAX);
        emit_mov(e, 0x8b, 2, BASE_RCX, AT_RDX);
    }
    if ((th->attr & A_FP) && !fast)
        emit_mxcsr(e, 2, AT_MXCSR_IN);
    emit_insn(e, i, row);
    if (th->is_string) {
        PUT(e, 0x49, (char)0x89, 0x4a, AT_RCX); /* mov [r10 + AT_RCX], rcx */
        PUT(e, 0x4c, (char)0x89, (char)0xd1);   /* mov rcx, r10 */
        if (th->xmm0_out)
            emit_movups(e, 0x11, 0, BASE_R9, 0);
    }
    if (th->flags_out) {
        PUT(e, (char)0x9f, 0x0f, (char)0x90, (char)0xc0); /* lahf; seto al */
        PUT(e, 0x66, (char)0x89, 0x41, AT_CC);            /* mov [rcx + AT_CC], ax */
    }
    if (th->dest != VD_NONE) {
        unsigned number = th->dest == VD_REG  ? reg_number(th->dest_class)
                          : th->dest == VD_RM ? RM_NUMBER
                                              : VVVV_NUMBER;
        unsigned base = th->dest == VD_REG ? BASE_RDI : th->dest == VD_RM ? BASE_RSI : BASE_RDX;
        if (th->out_size && !(fast && (th->attr & A_FP)))
            emit_move(e, false, th->dest_class, number, BASE_RCX, AT_OUT);
        else
            emit_move(e, false, th->dest_class, number, base, 0);
    }
    if (th->attr & A_FP) {
        emit_mxcsr(e, 3, AT_MXCSR_OUT);
        if (!fast)
            emit_mxcsr(e, 2, AT_MXCSR_HOST);
    }
    if (mmx)
        PUT(e, 0x0f, 0x77); /* emms */
    if (e->vex)
        PUT(e, (char)0xc5, (char)0xf8, 0x77); /* vzeroupper */
    PUT(e, (char)0xc3);
    return (unsigned)(e->p - code);
}
