/* The fixed pieces of code that translated blocks enter, leave and call C through. See jit.h. */
#include "tcg/jit.h"

static void raw(Code *c, const char *bytes, unsigned n)
{
    code_bytes(c, bytes, n);
}
#define RAW(c, s) raw(c, s, sizeof(s) - 1)

static void registers(Code *c, bool load)
{
    for (unsigned r = 0; r < 16; r++)
        if (jit_host[r] != H_NONE)
            emit_rm(c, load ? 0x8b : 0x89, true, jit_host[r], jit_gpr(r));
}

/* LAHF, SETO: into JitHot.cc. Changes rax. */
void jit_flags_out(Code *c, const Jit *j)
{
    RAW(c, "\x9f\x0f\x90\xc0"); /* lahf; seto al */
    HostMem cc = jit_hot(j, offsetof(JitHot, cc));
    encode(
        c,
        &(Enc){.map = MAP_1B, .opcode = 0x89, .p66 = true, .modrm = true, .reg = H_AX, .mem = &cc});
}

void jit_flags_in(Code *c, const Jit *j)
{
    HostMem cc = jit_hot(j, offsetof(JitHot, cc));
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_AX, .mem = &cc});
    RAW(c, "\x04\x7f\x9e"); /* add al, 0x7f; sahf */
}

static HostMem vec_slot(unsigned k)
{
    return gs_mem((int32_t)(offsetof(CpuState, fpu.v) + k * sizeof(VecReg)));
}

static void vector_registers(Code *c, const Jit *j, bool load)
{
    for (unsigned k = 0; k < 16; k++) {
        HostMem m = vec_slot(k);
        encode(c, &(Enc){.map = j->ymm ? MAP_VEX0F : MAP_0F,
                         .opcode = load ? 0x10 : 0x11,
                         .pfx = PFX_NP,
                         .l = j->ymm,
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .mem = &m});
    }
}

static void mxcsr(Code *c, unsigned n)
{
    HostMem m = gs_mem((int32_t)offsetof(CpuState, fpu.mxcsr));
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xae, .modrm = true, .reg = (uint8_t)n, .mem = &m});
}

/* If the vector registers are the guest's: back to CpuState, with MXCSR. Flags and rcx change. */
static void vectors_out(Code *c, const Jit *j)
{
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away) + 8));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_was) + 8));
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_was)));
    RAW(c, "\x48\x85\xc9"); /* test rcx, rcx */
    uint8_t *skip = emit_jcc(c, 5, here(c));
    vector_registers(c, j, false);
    mxcsr(c, 3);
    if (j->ymm)
        RAW(c, "\xc5\xf8\x77"); /* vzeroupper */
    emit_imm32(c, H_CX, 1);
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away) + 8));
    patch_rel32(skip, c->run, here(c));
}

/* If the x87 registers are the guest's: into JitHot.fx. Flags and rcx change. */
static void x87_out(Code *c, const Jit *j)
{
    HostMem fx = jit_hot(j, offsetof(JitHot, fx));
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, x87_away)));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, x87_was)));
    RAW(c, "\x48\x85\xc9"); /* test rcx, rcx */
    uint8_t *skip = emit_jcc(c, 5, here(c));
    encode(c, &(Enc){.map = MAP_0F,
                     .opcode = 0xae,
                     .w = true,
                     .modrm = true,
                     .reg = 0,
                     .mem = &fx}); /* fxsave64 */
    RAW(c, "\xdb\xe3");            /* fninit: as C code wants it */
    emit_imm32(c, H_CX, 1);
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, x87_away)));
    patch_rel32(skip, c->run, here(c));
}

/* If C has said so: the guest's vector registers. */
static void vectors_in(Code *c, const Jit *j)
{
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    RAW(c, "\x48\x85\xc9");
    uint8_t *skip = emit_jcc(c, 5, here(c));
    vector_registers(c, j, true);
    patch_rel32(skip, c->run, here(c));
}

/*
 * A call into C from translated code: rdx is the block, ecx the instruction's number. C returns 0:
 * go on at the return address; 1: five bytes further, past the jump that stands there; 2: leave
 * translated code with JX_HELPER; 3: with JX_RESUME.
 */
static const uint8_t *call_stub(Jit *j, Code *c, size_t fn)
{
    const uint8_t *at = here(c);
    emit_store(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    jit_flags_out(c, j);
    registers(c, false);
    emit_mov(c, true, H_DI, H_DX);
    emit_mov(c, false, H_SI, H_CX);
    x87_out(c, j);
    vectors_out(c, j);
    emit_load(c, H_DX, jit_hot(j, offsetof(JitHot, t)));
    RAW(c, "\x48\x83\xec\x08"); /* sub rsp, 8 */
    HostMem f = jit_hot(j, fn);
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 2, .mem = &f}); /* call */
    RAW(c, "\x48\x83\xc4\x08");               /* add rsp, 8 */
    RAW(c, "\x83\xf8\x02");                   /* cmp eax, 2 */
    uint8_t *leave = emit_jcc(c, 3, here(c)); /* jae */
    RAW(c, "\x48\x8d\x14\x80");               /* lea rdx, [rax + rax*4] */
    RAW(c, "\x48\x01\x14\x24");               /* add [rsp], rdx */
    vectors_in(c, j);
    jit_flags_in(c, j);
    registers(c, true);
    emit_load(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr))); /* for who tries again */
    RAW(c, "\xc3");
    patch_rel32(leave, c->run, here(c));
    /* All is in CpuState already: drop the return address, and out; or to other code. */
    RAW(c, "\x48\x83\xc4\x08");
    RAW(c, "\x83\xe8\x02"); /* sub eax, 2 */
    RAW(c, "\x83\xf8\x02"); /* cmp eax, 2 */
    uint8_t *go_to = emit_jcc(c, 4, here(c));
    RAW(c, "\x6b\xc0"); /* imul eax, eax, JX_RESUME - JX_HELPER */
    code8(c, JX_RESUME - JX_HELPER);
    RAW(c, "\x83\xc0");
    code8(c, JX_HELPER);
    RAW(c, "\x48\x83\xc4\x08\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
    patch_rel32(go_to, c->run, here(c));
    jit_flags_in(c, j);
    registers(c, true);
    HostMem to = jit_hot(j, offsetof(JitHot, tmp));
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 4, .mem = &to});
    return at;
}

void jit_make_stubs(Jit *j, Code *c)
{
    /* enter(code): callee-saved registers, then the guest's */
    j->enter = (int (*)(const uint8_t *))(uintptr_t)here(c);
    RAW(c, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x48\x83\xec\x08"); /* push rbx, rbp, r12-r15;
                                                                           sub rsp, 8 */
    emit_mov(c, true, H_CX, H_DI);
    emit_mov(c, true, H_DX, H_CX);
    jit_flags_in(c, j);
    registers(c, true);
    RAW(c, "\xff\xe2"); /* jmp rdx */

    /* exit: edx is the enum JitExit; all in registers still */
    j->s_exit = here(c);
    jit_flags_out(c, j);
    registers(c, false);
    x87_out(c, j);
    vectors_out(c, j);
    emit_mov(c, false, H_AX, H_DX);
    RAW(c, "\x48\x83\xc4\x08\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");

    j->s_helper = call_stub(j, c, offsetof(JitHot, fn_helper));
    j->s_access = call_stub(j, c, offsetof(JitHot, fn_access));
    j->s_vec = call_stub(j, c, offsetof(JitHot, fn_vec));
}
