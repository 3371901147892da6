/*
 * Emitters of system instructions, and the stubs of those that change privilege. See jit.h.
 *
 * What is short is written out: SWAPGS, RDTSC, fences, STAC and CLAC, reading control registers.
 * SYSCALL, SYSRET and IRET call gate.c, which needs few registers saved; a plain helper saves
 * all of them, the vector registers among them.
 */
#include "jit/sys.h"
#include "tcg/sys.h"

extern const ExecSet exec_swapgs, exec_rdtsc, exec_rdtscp, exec_fence, exec_stac, exec_clac,
    exec_mov_from_cr, exec_syscall, exec_sysret, exec_iret, exec_nop_0d, exec_invlpg;

static HostMem state(size_t offset)
{
    return gs_mem((int32_t)offset);
}

/* 64-bit code of CPL 0, as far as the block's mode tells. */
static bool kernel64(const Trans *x)
{
    return (x->mode & DM_CODE64) && !(x->mode & DM_CPL3);
}

static bool emit_swapgs(Trans *x)
{
    Code *c = &x->c;
    HostMem base = state(offsetof(CpuState, seg) + GS * sizeof(Segment) + offsetof(Segment, base));
    HostMem other = state(offsetof(CpuState, msr.kernel_gs_base));
    if (!kernel64(x))
        return false;
    emit_load(c, H_AX, base);
    emit_load(c, H_CX, other);
    emit_store(c, H_AX, other);
    emit_store(c, H_CX, base);
    return true;
}

/* Timers that are late by this TSC, in rax, are for exec to see to. */
static void unless_late(Trans *x)
{
    Code *c = &x->c;
    emit_load(c, H_CX, jit_hot(x->j, offsetof(JitHot, late_at)));
    emit_load(c, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = 0});
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_AX, .scale = 0, .disp = 0});
    emit_imm32(c, H_DX, 63);
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    jit_unless_one(x, COLD_HELPER);
}

/* Where the guest's TSC is the host's and an offset. CR4.TSD is for CPL 3 only. */
static bool emit_rdtsc(Trans *x, bool with_aux)
{
    Code *c = &x->c;
    const VmCommon *vm = x->t->v->vm;
    if (!kernel64(x) || !vm->clock || !clock_tsc_is_host(vm->clock) ||
        (vm->bus && vm->bus->clock_tsc))
        return false;
    RAW(c, "\x0f\x31"); /* rdtsc */
    x->dx_run = -1;
    emit_rorx(c, H_DX, H_DX, NULL, 32);
    emit_lea(c, true, H_AX, (HostMem){.base = H_AX, .index = H_DX, .scale = 0, .disp = 0});
    if (vm->bus && vm->bus->tsc_is_late && x->j->hot->late_at)
        unless_late(x);
    emit_load(c, H_CX, state(offsetof(CpuState, tsc_offset)));
    emit_lea(c, true, H_AX, (HostMem){.base = H_AX, .index = H_CX, .scale = 0, .disp = 0});
    emit_mov(c, false, H_CX, H_AX);
    jit_put(x, RAX, H_CX);
    emit_rorx(c, H_AX, H_AX, NULL, 32);
    emit_mov(c, false, H_AX, H_AX);
    jit_put(x, RDX, H_AX);
    if (with_aux) {
        emit_load32(c, H_AX, state(offsetof(CpuState, msr.tsc_aux)));
        jit_put(x, RCX, H_AX);
    }
    return true;
}

static bool emit_fence(Trans *x, const Insn *i)
{
    RAW(&x->c, "\x0f\xae");
    if (op_rows[i->row].attr & A_END) { /* SERIALIZE: code may have changed */
        code8(&x->c, 0xf0);             /* mfence */
        jit_emit_goto_polled(x, 0, x->off + i->end);
        x->ended = true;
        return true;
    }
    code8(&x->c, 0xc0u | (op_rows[i->row].modrm & 7u) << 3);
    return true;
}

/* EFLAGS.AC at CPL 0, and what hangs on it: the mode of accesses and of the blocks that follow. */
static bool emit_ac(Trans *x, bool on)
{
    Code *c = &x->c;
    HostMem rflags = state(offsetof(CpuState, rflags));
    if (!kernel64(x))
        return false;
    x->mode = on ? x->mode | DM_AC : x->mode & ~(unsigned)DM_AC;
    emit_load(c, H_CX, rflags);
    emit_clear_field(c, H_CX, bit_of(FL_AC), 1);
    if (on)
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = FL_AC});
    emit_store(c, H_CX, rflags);
    emit_load(c, H_CX, jit_hot(x->j, offsetof(JitHot, t)));
    HostMem mmu = {.base = H_CX, .index = H_NONE, .disp = (int32_t)offsetof(Tcg, mmu_mode)};
    HostMem mode = {.base = H_CX, .index = H_NONE, .disp = (int32_t)offsetof(Tcg, decode_mode)};
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0xc6,
                     .modrm = true,
                     .mem = &mmu,
                     .imm_size = 1,
                     .imm = on ? MMU_KERNEL_AC : MMU_KERNEL});
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0xc7,
                     .modrm = true,
                     .mem = &mode,
                     .imm_size = 4,
                     .imm = x->mode});
    return true;
}

static bool emit_mov_from_cr(Trans *x, const Insn *i)
{
    static const uint16_t at[] = {offsetof(CpuState, cr0), 0, offsetof(CpuState, cr2),
                                  offsetof(CpuState, cr3), offsetof(CpuState, cr4)};
    if (!kernel64(x) || i->reg >= ARRAY_LEN(at) || !at[i->reg])
        return false;
    emit_load(&x->c, H_CX, state(at[i->reg]));
    jit_put(x, i->rm, H_CX);
    return true;
}

/* Leaves the block: by the gate's stub, or by exec's outcome. */
static bool emit_gate(Trans *x, const Insn *i, enum JitGate gate)
{
    Code *c = &x->c;
    if (!(x->mode & DM_CODE64) || (gate != GATE_SYSCALL && i->opsize != 8))
        return false;
    if (gate == GATE_SYSCALL)
        jit_rip(x, H_AX, x->off + i->end);
    emit_imm64(c, H_DX, (uintptr_t)x->code);
    emit_imm32(c, H_CX, x->k);
    emit_call(c, x->j->s_gate[gate]);
    emit_jmp(c, x->j->s_exit); /* nothing comes back here */
    x->ended = true;
    return true;
}

/* By a function of its own (jit_invlpg()), and on: kernels give up pages in rows. */
static bool emit_invlpg(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    if (!kernel64(x) || !jit_ea(x, i))
        return false;
    emit_imm64(c, H_DX, (uintptr_t)x->code);
    emit_imm32(c, H_CX, x->k);
    emit_call(c, x->j->s_invlpg);
    x->vec[0] = x->vec[1] = x->vec[2] = x->x87 = false;
    x->helped = true;
    x->dx_run = -1;
    return true;
}

bool jit_emit_sys(Trans *x, const Insn *i)
{
    const ExecSet *exec = op_rows[i->row].exec;
    bool done = false;
    if (exec == &exec_swapgs)
        done = emit_swapgs(x);
    else if (exec == &exec_rdtsc || exec == &exec_rdtscp)
        done = emit_rdtsc(x, exec == &exec_rdtscp);
    else if (exec == &exec_fence)
        done = emit_fence(x, i);
    else if (exec == &exec_stac || exec == &exec_clac)
        done = emit_ac(x, exec == &exec_stac);
    else if (exec == &exec_mov_from_cr)
        done = emit_mov_from_cr(x, i);
    else if (exec == &exec_nop_0d) /* PREFETCHW; with a register it depends on the vendor */
        return i->flags & IF_MEM;
    else if (exec == &exec_invlpg)
        done = emit_invlpg(x, i);
    else if (exec == &exec_syscall)
        done = emit_gate(x, i, GATE_SYSCALL);
    else if (exec == &exec_sysret)
        done = emit_gate(x, i, GATE_SYSRET);
    else if (exec == &exec_iret)
        done = kernel64(x) && emit_gate(x, i, GATE_IRET);
    /* Another privilege, or SMAP the other way, sees another memory. */
    for (unsigned k = 0; done && k < x->n_runs; k++)
        x->run[k].ready = false;
    return done;
}

/* Guest registers in host registers that a C function may change; and R11, which SYSCALL writes,
 * and RSP, which IRET does. */
static void caller_saved(Code *c, bool load)
{
    static const uint8_t saved[] = {H_SI, H_DI, H_R8, H_R9, H_R10, H_R11};
    for (unsigned r = 0; r < 16; r++)
        if (r == R11 || r == RSP || memchr(saved, jit_host[r], sizeof(saved)))
            emit_rm(c, load ? 0x8b : 0x89, true, jit_host[r],
                    gs_mem((int32_t)(offsetof(CpuState, gpr) + 8 * r)));
}

/*
 * A gate: rdx is the block, ecx the instruction's number, as for a helper; rax, of SYSCALL, RIP
 * behind it. `fn` answers with code that takes RIP in rax, or with NULL: then it is the helper's,
 * with all as it was.
 */
static const uint8_t *gate_stub(Jit *j, Code *c, const uint8_t *(*fn)(Tcg *))
{
    const uint8_t *at = here(c);
    HostMem code = jit_hot(j, offsetof(JitHot, tmp)), k = jit_hot(j, offsetof(JitHot, tmp2));
    emit_store(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    jit_flags_out(c, j);
    caller_saved(c, false);
    emit_store(c, H_DX, code);
    emit_store(c, H_CX, k);
    emit_load(c, H_DI, jit_hot(j, offsetof(JitHot, t)));
    emit_imm64(c, H_AX, (uintptr_t)fn);
    RAW(c, "\x48\x83\xec\x08\xff\xd0\x48\x83\xc4\x08"); /* sub rsp, 8; call rax; add rsp, 8 */
    RAW(c, "\x48\x85\xc0");                             /* test rax, rax */
    uint8_t *none = emit_jcc(c, 4, here(c));
    RAW(c, "\x48\x83\xc4\x08"); /* the return address goes */
    emit_store(c, H_AX, code);
    jit_flags_in(c, j);
    caller_saved(c, true);
    emit_load(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 4, .mem = &code});
    patch_rel32(none, c->run, here(c));
    jit_flags_in(c, j);
    caller_saved(c, true);
    emit_load(c, H_DX, code);
    emit_load(c, H_CX, k);
    emit_jmp(c, j->s_helper);
    return at;
}

void jit_make_gates(Jit *j, Code *c)
{
    j->s_gate[GATE_SYSCALL] = gate_stub(j, c, jit_gate_syscall);
    j->s_gate[GATE_SYSRET] = gate_stub(j, c, jit_gate_sysret);
    j->s_gate[GATE_IRET] = gate_stub(j, c, jit_gate_iret);
}
