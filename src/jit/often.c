/*
 * Emitters of what kernels run often and what cannot be written again as it is: CLD and STD,
 * segment selectors and bases, bits at an offset in memory, CMPXCHG16B, and the two instructions
 * that clear the x87 unit at a context switch. Strings: string.c.
 */
#include "jit/trans.h"
#include "tcg/vec.h"

extern const ExecSet exec_cld, exec_std, exec_mov_from_seg, exec_rdfsbase, exec_rdgsbase,
    exec_wrfsbase, exec_wrgsbase, exec_fnclex, exec_emms, exec_cmpxchg8b, exec_movs, exec_stos;

static HostMem state(size_t offset)
{
    return gs_mem((int32_t)offset);
}

static HostMem segment(unsigned seg, size_t member)
{
    return state(offsetof(CpuState, seg) + seg * sizeof(Segment) + member);
}

/* To exec unless these bits of the byte in m are 0. */
static void unless_clear(Trans *x, HostMem m, unsigned lo, unsigned n)
{
    emit_zero_ext(&x->c, 8, H_CX, &m);
    emit_field(&x->c, lo, n);
    jit_unless_zero(x, COLD_HELPER);
}

static bool emit_direction(Trans *x, bool down)
{
    HostMem rflags = state(offsetof(CpuState, rflags));
    emit_load(&x->c, H_CX, rflags);
    emit_clear_field(&x->c, H_CX, bit_of(FL_DF), 1);
    if (down)
        emit_lea(&x->c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = FL_DF});
    emit_store(&x->c, H_CX, rflags);
    return true;
}

/* A word of memory or of a register, or all of it. */
static bool emit_selector(Trans *x, const Insn *i)
{
    bool store = i->flags & IF_MEM;
    HostMem to, m = segment(i->reg, offsetof(Segment, selector));
    if (i->reg > GS || (store && (x->second || !jit_operand(x, i, 2, true, &to))))
        return false;
    encode(
        &x->c,
        &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_CX, .mem = &m}); /* movzx */
    if (!store && i->opsize > 2) {
        jit_put(x, i->rm, H_CX);
        return true;
    }
    Enc word = {.map = MAP_1B, .opcode = 0x89, .p66 = true, .modrm = true, .reg = H_CX};
    if (store)
        jit_guard(x);
    else if (jit_host[i->rm] == H_NONE)
        to = jit_gpr(i->rm);
    if (store || jit_host[i->rm] == H_NONE)
        word.mem = &to;
    else
        word.rm = jit_host[i->rm];
    encode(&x->c, &word);
    return true;
}

/* CR4.FSGSBASE, or exec. */
static void need_fsgsbase(Trans *x)
{
    HostMem byte = state(offsetof(CpuState, cr4) + bit_of(CR4_FSGSBASE) / 8);
    emit_zero_ext(&x->c, 8, H_CX, &byte);
    emit_field(&x->c, bit_of(CR4_FSGSBASE) % 8, 1);
    emit_lea(&x->c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    jit_unless_zero(x, COLD_HELPER);
}

static bool emit_read_base(Trans *x, const Insn *i, unsigned seg)
{
    if (!(x->mode & DM_CODE64))
        return false;
    need_fsgsbase(x);
    HostMem base = segment(seg, offsetof(Segment, base));
    if (i->opsize == 8)
        emit_load(&x->c, H_CX, base);
    else
        emit_load32(&x->c, H_CX, base);
    jit_put(x, i->rm, H_CX);
    return true;
}

static bool emit_write_base(Trans *x, const Insn *i, unsigned seg)
{
    Code *c = &x->c;
    if (!(x->mode & DM_CODE64))
        return false;
    need_fsgsbase(x);
    jit_get(x, H_AX, i->rm);
    x->dx_run = -1;
    if (i->opsize == 8) { /* of 48 bits; with more of them exec has a look */
        emit_imm64(c, H_DX, 1ull << 47);
        emit_lea(c, true, H_CX, (HostMem){.base = H_AX, .index = H_DX, .scale = 0, .disp = 0});
        emit_imm32(c, H_DX, 48);
        emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
        jit_unless_zero(x, COLD_HELPER);
    } else {
        emit_mov(c, false, H_AX, H_AX);
    }
    emit_store(c, H_AX, segment(seg, offsetof(Segment, base)));
    for (unsigned k = 0; k < x->n_runs; k++) /* the next access by this segment is elsewhere */
        x->run[k].ready = false;
    return true;
}

/* No exception is due, and the registers are in FpuState. */
static bool x87_at_rest(Trans *x)
{
    if (x->x87)
        return false;
    unless_clear(x, state(offsetof(CpuState, cr0)), bit_of(CR0_EM), 2); /* and CR0.TS */
    emit_load(&x->c, H_CX, jit_hot(x->j, offsetof(JitHot, x87_away)));
    emit_lea(&x->c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    jit_unless_zero(x, COLD_HELPER);
    return true;
}

static void store_fsw(Code *c)
{
    HostMem fsw = state(offsetof(CpuState, fpu.fsw));
    encode(
        c,
        &(Enc){
            .map = MAP_1B, .opcode = 0x89, .p66 = true, .modrm = true, .reg = H_CX, .mem = &fsw});
}

static bool emit_fnclex(Trans *x)
{
    if (!x87_at_rest(x))
        return false;
    HostMem upper = state(offsetof(CpuState, fpu.fsw) + 1); /* its bits 8 to 14 are kept */
    emit_zero_ext(&x->c, 8, H_CX, &upper);
    emit_field(&x->c, 0, 7);
    emit_rorx(&x->c, H_CX, H_CX, NULL, 64 - 8);
    store_fsw(&x->c);
    return true;
}

static bool emit_emms(Trans *x)
{
    HostMem ftw = state(offsetof(CpuState, fpu.ftw)), fsw = state(offsetof(CpuState, fpu.fsw));
    if (x->x87) { /* the registers are the guest's */
        code_bytes(&x->c, "\x0f\x77", 2);
        return true;
    }
    if (!x87_at_rest(x))
        return false;
    unless_clear(x, fsw, bit_of(FSW_ES), 1);
    emit_zero_ext(&x->c, 16, H_CX, &fsw);
    emit_clear_field(&x->c, H_CX, bit_of(FSW_TOP), 3);
    store_fsw(&x->c);
    encode(
        &x->c,
        &(Enc){.map = MAP_1B, .opcode = 0xc6, .modrm = true, .mem = &ftw, .imm_size = 1, .imm = 0});
    return true;
}

/*
 * RDX:RAX and RCX:RBX as the host wants them. The address goes where RCX was, whose value rcx has
 * by then; so the access must not fault, and slots' accesses may.
 */
static bool emit_cmpxchg16b(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    HostMem m, at = {.base = jit_host[RCX], .index = H_NONE};
    if (i->opsize != 8 || x->second || !jit_operand(x, i, 16, true, &m) || x->guarded ||
        x->mirrored)
        return false;
    emit_lea(c, true, H_CX, m);
    emit_field(c, 0, 4);
    jit_unless_zero(x, COLD_HELPER); /* #GP */
    emit_mov(c, true, H_CX, jit_host[RCX]);
    emit_lea(c, true, jit_host[RCX], m);
    emit_mov(c, true, H_AX, jit_host[RAX]);
    emit_mov(c, true, H_DX, jit_host[RDX]);
    x->dx_run = -1;
    encode(c, &(Enc){.map = MAP_0F,
                     .opcode = 0xc7,
                     .lock = i->flags & IF_LOCK,
                     .w = true,
                     .modrm = true,
                     .reg = 1,
                     .mem = &at});
    emit_mov(c, true, jit_host[RCX], H_CX);
    emit_mov(c, true, jit_host[RAX], H_AX);
    emit_mov(c, true, jit_host[RDX], H_DX);
    return true;
}

bool jit_emit_often(Trans *x, const Insn *i)
{
    const ExecSet *exec = op_rows[i->row].exec;
    if (exec == &exec_cld || exec == &exec_std)
        return emit_direction(x, exec == &exec_std);
    if (exec == &exec_mov_from_seg)
        return emit_selector(x, i);
    if (exec == &exec_rdfsbase || exec == &exec_rdgsbase)
        return emit_read_base(x, i, exec == &exec_rdfsbase ? FS : GS);
    if (exec == &exec_wrfsbase || exec == &exec_wrgsbase)
        return emit_write_base(x, i, exec == &exec_wrfsbase ? FS : GS);
    if (exec == &exec_fnclex)
        return emit_fnclex(x);
    if (exec == &exec_emms)
        return emit_emms(x);
    if (exec == &exec_movs || exec == &exec_stos)
        return jit_emit_string(x, i, exec == &exec_movs);
    return exec == &exec_cmpxchg8b && emit_cmpxchg16b(x, i);
}

uint32_t jit_often_written(const Insn *i)
{
    const ExecSet *exec = op_rows[i->row].exec;
    if (exec == &exec_cmpxchg8b)
        return 1u << RAX | 1u << RDX;
    if (exec == &exec_movs || exec == &exec_stos)
        return 1u << RCX | 1u << RSI | 1u << RDI;
    if (exec == &exec_rdfsbase || exec == &exec_rdgsbase)
        return 1u << i->rm;
    return exec == &exec_mov_from_seg && !(i->flags & IF_MEM) ? 1u << i->rm : 0;
}

/* ---- BT and its kin with a register: bits of a string that begins at the operand ---- */

/* rax = the address of the word that bit `reg` lies in. */
static bool word_of_bit(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    bool wide = i->opsize == 8;
    if (!jit_ea(x, i))
        return false;
    jit_get(x, H_CX, i->reg);
    emit_imm32(c, H_DX, wide ? 6 : 5);
    x->dx_run = -1;
    emit_shift(c, PFX_F3, wide, H_CX, H_CX, H_DX);
    if (!wide) /* movsxd rcx, ecx */
        encode(
            c,
            &(Enc){
                .map = MAP_1B, .opcode = 0x63, .w = true, .modrm = true, .reg = H_CX, .rm = H_CX});
    emit_lea(c, true, H_AX,
             (HostMem){.base = H_AX, .index = H_CX, .scale = wide ? 3 : 2, .disp = 0});
    return true;
}

bool jit_emit_bit_string(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    bool wide = i->opsize == 8, test = r->opcode == 0xa3;
    HostMem m;
    if (x->second || !(x->mode & DM_CODE64) || i->asize != 8 || i->opsize < 4 || !word_of_bit(x, i))
        return false;
    jit_operand_ax(x, i->opsize, !test, &m);
    Enc e = {.map = MAP_0F, .opcode = r->opcode, .w = wide, .modrm = true};
    if (test) { /* with a register for the word, the host takes the bit modulo its size */
        jit_guard(x);
        emit_rm(c, 0x8b, wide, H_CX, m);
        jit_get(x, H_AX, i->reg);
        e.rm = H_CX;
        e.reg = H_AX;
    } else {
        jit_get(x, H_CX, i->reg);
        emit_field(c, 0, wide ? 6 : 5);
        e.lock = i->flags & IF_LOCK;
        e.reg = H_CX;
        e.mem = &m;
        jit_guard(x);
    }
    encode(c, &e);
    return true;
}
