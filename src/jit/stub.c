/* The fixed pieces of code that translated blocks enter, leave and call C through. See jit.h. */
#include "jit/trans.h"

/* `depth` bytes are on the stack below the frame. rax changes. */
static void registers(Code *c, bool load, int depth)
{
    for (unsigned r = 0; r < 16; r++) {
        HostMem home = gs_mem((int32_t)(offsetof(CpuState, gpr) + 8 * r)), away = jit_gpr(r);
        if (jit_host[r] != H_NONE) {
            emit_rm(c, load ? 0x8b : 0x89, true, jit_host[r], home);
        } else {
            away.disp += depth;
            emit_load(c, H_AX, load ? home : away);
            emit_store(c, H_AX, load ? away : home);
        }
    }
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

/* Sixteen of them, from `first` on: as ZMM (EVEX), or of VEX.L. */
static void vector_moves(Code *c, enum OpMap map, bool wide, unsigned first, bool load)
{
    for (unsigned k = first; k < first + 16; k++) {
        HostMem m = vec_slot(k);
        encode(c, &(Enc){.map = map,
                         .opcode = load ? 0x10 : 0x11,
                         .pfx = PFX_NP,
                         .l = wide,
                         .evex = 2 << EVEX_LL_SHIFT,
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .mem = &m});
    }
}

static void narrow_registers(Code *c, const Jit *j, bool load, bool wide)
{
    vector_moves(c, j->ymm ? MAP_VEX0F : MAP_0F, wide, 0, load);
}

/* ZMM0 to 15; as XMM where nothing is above their low 16 bytes: see vectors_in(). */
static void load_wide(Code *c)
{
    for (unsigned k = 0; k < 48; k++) {
        HostMem m = vec_slot(k / 3);
        m.disp += 16 + 16 * (int32_t)(k % 3);
        encode(c, &(Enc){.map = MAP_VEX0F,
                         .opcode = k ? 0xeb : 0x6f, /* vpor xmm0, xmm0, m; vmovdqa xmm0, m */
                         .pfx = PFX_66,
                         .modrm = true,
                         .mem = &m});
    }
    RAW(c, "\xc4\xe2\x79\x17\xc0"); /* vptest xmm0, xmm0 */
    uint8_t *narrow = emit_jcc(c, 4, here(c));
    vector_moves(c, MAP_EVEX0F, false, 0, true);
    uint8_t *done = emit_jmp(c, here(c));
    patch_rel32(narrow, c->run, here(c));
    vector_moves(c, MAP_VEX0F, false, 0, true);
    patch_rel32(done, c->run, here(c));
}

/* A piece that moves ZMM registers, with ZMM16 to 31 and the mask registers where rcx is 2. */
static const uint8_t *zmm_stub(Code *c, bool load)
{
    const uint8_t *at = here(c);
    if (load)
        load_wide(c);
    else
        vector_moves(c, MAP_EVEX0F, false, 0, false);
    RAW(c, "\x48\xff\xc9"); /* dec rcx */
    uint8_t *first = emit_jcc(c, 4, here(c));
    vector_moves(c, MAP_EVEX0F, false, 16, load);
    for (unsigned k = 0; k < 8; k++) {
        HostMem m = gs_mem((int32_t)(offsetof(CpuState, fpu.k) + 8 * k));
        encode(c, &(Enc){.map = MAP_VEX0F, /* KMOVQ */
                         .opcode = load ? 0x90 : 0x91,
                         .pfx = PFX_NP,
                         .w = true,
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .mem = &m});
    }
    patch_rel32(first, c->run, here(c));
    RAW(c, "\xc3");
    return at;
}

/* As ZMM, where the guest may have used them. Returns the jump over what must follow, for where it
 * has not; NULL where nothing of it is needed. rcx changes. */
static uint8_t *zmm_registers(Code *c, const Jit *j, bool load)
{
    if (!j->zmm)
        return NULL;
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, zmm)));
    RAW(c, "\x48\x85\xc9"); /* test rcx, rcx */
    uint8_t *narrow = emit_jcc(c, 4, here(c));
    emit_call(c, j->s_zmm[load]);
    uint8_t *done = emit_jmp(c, here(c));
    patch_rel32(narrow, c->run, here(c));
    return done;
}

static void mxcsr(Code *c, unsigned n)
{
    HostMem m = gs_mem((int32_t)offsetof(CpuState, fpu.mxcsr));
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xae, .modrm = true, .reg = (uint8_t)n, .mem = &m});
}

/* If the vector registers are the guest's: back to CpuState, with MXCSR. Flags and rcx change. */
static void vectors_out(Code *c, const Jit *j)
{
    for (unsigned k = j->zmm ? 2 : 1; k > 0; k--) {
        emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away) + 8 * k));
        emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_was) + 8 * k));
    }
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_was)));
    RAW(c, "\x48\x85\xc9"); /* test rcx, rcx */
    uint8_t *skip = emit_jcc(c, 5, here(c)), *done = zmm_registers(c, j, false);
    narrow_registers(c, j, false, j->ymm);
    if (done)
        patch_rel32(done, c->run, here(c));
    mxcsr(c, 3);
    if (j->ymm)
        RAW(c, "\xc5\xf8\x77"); /* vzeroupper */
    emit_imm32(c, H_CX, 1);
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away) + 8));
    emit_store(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away) + 16));
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

/* If C has said so: the guest's vector registers. Where nothing is in the upper halves of YMM they
 * are loaded as XMM, so that the processor knows: else each SSE instruction waits for what its
 * destination was before. */
static void vectors_in(Code *c, const Jit *j)
{
    emit_load(c, H_CX, jit_hot(j, offsetof(JitHot, vec_away)));
    RAW(c, "\x48\x85\xc9");
    uint8_t *skip = emit_jcc(c, 5, here(c)), *narrow = NULL, *done = NULL;
    uint8_t *zmm_done = zmm_registers(c, j, true);
    if (j->ymm) { /* are all upper halves 0? */
        for (unsigned k = 0; k < 16; k++) {
            HostMem m = vec_slot(k);
            m.disp += 16;
            encode(c, &(Enc){.map = MAP_VEX0F,
                             .opcode = k ? 0xeb : 0x6f, /* vpor xmm0, xmm0, m; vmovdqa xmm0, m */
                             .pfx = PFX_66,
                             .modrm = true,
                             .mem = &m});
        }
        RAW(c, "\xc4\xe2\x79\x17\xc0"); /* vptest xmm0, xmm0 */
        narrow = emit_jcc(c, 4, here(c));
        narrow_registers(c, j, true, true);
        done = emit_jmp(c, here(c));
        patch_rel32(narrow, c->run, here(c));
    }
    narrow_registers(c, j, true, false);
    if (done)
        patch_rel32(done, c->run, here(c));
    if (zmm_done)
        patch_rel32(zmm_done, c->run, here(c));
    patch_rel32(skip, c->run, here(c));
}

/* Out of enter(). */
static void leave_frame(Code *c)
{
    RAW(c, "\x48\x83\xc4"); /* add rsp, JIT_FRAME */
    code8(c, JIT_FRAME);
    RAW(c, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"); /* pop r15-r12, rbp, rbx; ret */
}

/*
 * A call into C from translated code: rdx is the block, ecx the instruction's number. C returns 0:
 * go on at the return address; 1: five bytes further, past the jump that stands there; 2: leave
 * translated code with JX_HELPER; 3: with JX_RESUME; 4: to the code at JitHot.tmp, whose RIP is in
 * JitHot.miss_addr.
 */
static const uint8_t *call_stub(Jit *j, Code *c, size_t fn)
{
    const uint8_t *at = here(c);
    emit_store(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    jit_flags_out(c, j);
    registers(c, false, 8);
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
    registers(c, true, 8);
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
    leave_frame(c);
    patch_rel32(go_to, c->run, here(c));
    jit_flags_in(c, j);
    registers(c, true, 0);
    emit_load(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr))); /* its RIP */
    HostMem to = jit_hot(j, offsetof(JitHot, tmp));
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 4, .mem = &to});
    return at;
}

/* A member of the slot at offset rdx. */
static HostMem slot_mem(const Jit *j, size_t member)
{
    HostMem m = jit_hot(j, offsetof(JitHot, slot) + member);
    m.base = H_DX;
    return m;
}

/* Tag and `add` of the first-level TLB's entry whose number is in the register. */
static void jtlb_entry(const Jit *j, unsigned mode, bool write, uint8_t number, HostMem *tag,
                       HostMem *add)
{
    size_t tlb = offsetof(JitHot, tlb) + mode * sizeof(JTlb);
    *tag = jit_hot(j, tlb + (write ? offsetof(JTlb, write) : offsetof(JTlb, read)));
    *add = jit_hot(j, tlb + offsetof(JTlb, add));
    tag->index = add->index = number;
    tag->scale = add->scale = 3;
}

/* The slot at offset rdx is not in the list: it is now, and has its first `left`. Past the jump
 * that is written last if C is to be asked. rcx changes. */
static uint8_t *list_slot(const Jit *j, Code *c)
{
    HostMem first = jit_hot(j, offsetof(JitHot, slot_first)),
            n = jit_hot(j, offsetof(JitHot, slot_n)), at = jit_hot(j, offsetof(JitHot, slot_list));
    HostMem left = slot_mem(j, offsetof(JitSlot, left)), bits = slot_mem(j, sizeof(JitSlot) - 1);
    first.base = H_DI;
    at.index = H_SI;
    at.scale = 2;
    RAW(c, "\x56\x57");                /* push rsi; push rdi */
    emit_rorx(c, H_DI, H_DX, NULL, 5); /* its number */
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb6, .modrm = true, .reg = H_CX, .mem = &first});
    RAW(c, "\xe3");
    uint8_t *none = c->p;
    code8(c, 0);
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0x88, .modrm = true, .reg = H_CX, .mem = &left});
    emit_load32(c, H_SI, n);
    emit_rm(c, 0x89, false, H_DI, at);
    emit_lea(c, false, H_SI, (HostMem){.base = H_SI, .index = H_NONE, .disp = 1});
    emit_rm(c, 0x89, false, H_SI, n);
    encode(
        c,
        &(Enc){
            .map = MAP_1B, .opcode = 0xc6, .modrm = true, .mem = &first, .imm_size = 1, .imm = 0});
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb6, .modrm = true, .reg = H_CX, .mem = &bits});
    emit_lea(c, false, H_CX,
             (HostMem){.base = H_CX, .index = H_NONE, .disp = jit_slot_listed_bit()});
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0x88, .modrm = true, .reg = H_CX, .mem = &bits});
    RAW(c, "\x5f\x5e"); /* pop rdi; pop rsi */
    uint8_t *again = emit_jmp(c, here(c));
    *none = (uint8_t)(c->p - none - 1);
    RAW(c, "\x5f\x5e");
    return again;
}

/*
 * A slot has another page than the access: rax is its address, edx the slot's offset. If the
 * first-level TLB has the page it is put there; if not, or if C is to look at this slot, the return
 * is five bytes further. rcx and rdx change; flags do not.
 */
static const uint8_t *fill_stub(Jit *j, Code *c, unsigned mode, bool write)
{
    const uint8_t *at = here(c);
    HostMem tag, add;
    jtlb_entry(j, mode, write, H_DI, &tag, &add);
    RAW(c, "\x56\x57");                 /* push rsi; push rdi */
    RAW(c, "\xc4\xe3\xfb\xf0\xf8\x0c"); /* rorx rdi, rax, 12 */
    RAW(c, "\x0f\xb7\xff");             /* movzx edi, di */
    emit_load(c, H_SI, tag);
    emit_load(c, H_DI, add);
    HostMem last = slot_mem(j, offsetof(JitSlot, last));
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_CX, .mem = &last});
    RAW(c, "\x48\x8d\x0c\x01");     /* lea rcx, [rcx + rax] */
    RAW(c, "\x48\x8d\x0c\x31");     /* lea rcx, [rcx + rsi] */
    RAW(c, "\xc4\xe2\xc3\xf7\xc9"); /* shrx rcx, rcx, rdi */
    RAW(c, "\xe3\x05");             /* jrcxz, over the jump */
    uint8_t *other = emit_jmp(c, here(c));
    HostMem left = slot_mem(j, offsetof(JitSlot, left));
    const uint8_t *take = here(c);
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb6, .modrm = true, .reg = H_CX, .mem = &left});
    RAW(c, "\xe3");
    uint8_t *none_left = c->p;
    code8(c, 0);
    RAW(c, "\x8d\x49\xff"); /* lea ecx, [rcx - 1] */
    encode(c, &(Enc){.map = MAP_1B, .opcode = 0x88, .modrm = true, .reg = H_CX, .mem = &left});
    emit_store(c, H_DI, slot_mem(j, offsetof(JitSlot, add)));
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_CX, .mem = &last});
    HostMem span = jit_hot(j, offsetof(JitHot, span) + 8); /* of `last` plus 1 bytes */
    span.index = H_CX;
    span.scale = 3;
    emit_load(c, H_DI, span);
    emit_store(c, H_DI, slot_mem(j, offsetof(JitSlot, span)));
    RAW(c, "\x48\xf7\xd1"); /* not rcx: minus `last`, minus 1 */
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX, .index = H_NONE, .disp = (int32_t)PAGE_SIZE + 1});
    emit_rm(c, 0x89, false, H_CX, slot_mem(j, offsetof(JitSlot, places)));
    emit_lea(c, true, H_SI, (HostMem){.base = H_SI, .index = H_CX, .scale = 0, .disp = 0});
    emit_store(c, H_SI, slot_mem(j, offsetof(JitSlot, neg)));
    RAW(c, "\x5f\x5e\xc3"); /* pop rdi; pop rsi; ret */
    *none_left = (uint8_t)(c->p - none_left - 1);
    patch_rel32(list_slot(j, c), c->run, take);
    patch_rel32(other, c->run, here(c));
    emit_store(c, H_DX, jit_hot(j, offsetof(JitHot, slot_at)));
    RAW(c, "\x5f\x5e\x59");     /* pop rdi; pop rsi; pop rcx */
    RAW(c, "\x48\x8d\x49\x05"); /* lea rcx, [rcx + 5] */
    RAW(c, "\xff\xe1");         /* jmp rcx */
    return at;
}

/*
 * rcx is an address, rdx the bytes from there on: rdx = `add` if the first-level TLB lets them be
 * accessed; if not, the return is five bytes further. Of rcx and rdx alone; flags do not change.
 */
static const uint8_t *tlb_stub(Jit *j, Code *c, unsigned mode, bool write)
{
    const uint8_t *at = here(c);
    HostMem tag, add;
    jtlb_entry(j, mode, write, H_DX, &tag, &add);
    RAW(c, "\x56"); /* push rsi */
    emit_lea(c, true, H_SI, (HostMem){.base = H_CX, .index = H_DX, .disp = (int32_t)PAGE_SIZE - 1});
    emit_rorx(c, H_CX, H_CX, NULL, PAGE_BITS);
    RAW(c, "\x0f\xb7\xd1"); /* movzx edx, cx */
    emit_load(c, H_CX, tag);
    emit_load(c, H_DX, add);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_SI});
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    RAW(c, "\x5e\xe3\x07");                 /* pop rsi; jrcxz, to the ret */
    RAW(c, "\x59\x48\x8d\x49\x05\xff\xe1"); /* pop rcx; lea rcx, [rcx + 5]; jmp rcx */
    RAW(c, "\xc3");
    return at;
}

/*
 * RET of 64 bits to the RIP in rax, which the jump cache does not have: done, and out of translated
 * code. Where that RIP is not canonical this returns, and the exec function faults.
 */
static const uint8_t *return_stub(Jit *j, Code *c)
{
    const uint8_t *at = here(c);
    const unsigned rsp = jit_host[RSP];
    emit_imm32(c, H_CX, 16);
    emit_shift(c, PFX_66, true, H_DX, H_AX, H_CX); /* shlx */
    emit_shift(c, PFX_F3, true, H_DX, H_DX, H_CX); /* sarx */
    RAW(c, "\x48\xf7\xd2");                        /* not rdx */
    emit_lea(c, true, H_CX, (HostMem){.base = H_AX, .index = H_DX, .disp = 1});
    RAW(c, "\xe3\x01\xc3");         /* jrcxz, over a ret */
    RAW(c, "\x48\x8d\x64\x24\x08"); /* lea rsp, [rsp + 8]: not back there */
    emit_lea(c, true, rsp, (HostMem){.base = (uint8_t)rsp, .index = H_NONE, .disp = 8});
    emit_store(c, H_AX, gs_mem((int32_t)offsetof(CpuState, rip)));
    emit_imm32(c, H_DX, JX_LOOKUP);
    emit_jmp(c, j->s_exit);
    return at;
}

void jit_make_stubs(Jit *j, Code *c)
{
    for (unsigned load = 0; load < 2 && j->zmm; load++)
        j->s_zmm[load] = zmm_stub(c, load);
    /* enter(code): callee-saved registers, then the guest's */
    j->enter = (int (*)(const uint8_t *))(uintptr_t)here(c);
    RAW(c, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* push rbx, rbp, r12-r15 */
    RAW(c, "\x48\x83\xec");                             /* sub rsp, JIT_FRAME */
    code8(c, JIT_FRAME);
    emit_mov(c, true, H_CX, H_DI);
    emit_mov(c, true, H_DX, H_CX);
    jit_flags_in(c, j);
    registers(c, true, 0);
    RAW(c, "\xff\xe2"); /* jmp rdx */

    /* exit: edx is the enum JitExit; all in registers still */
    j->s_exit = here(c);
    jit_flags_out(c, j);
    registers(c, false, 0);
    x87_out(c, j);
    vectors_out(c, j);
    emit_mov(c, false, H_AX, H_DX);
    leave_frame(c);

    j->s_return = return_stub(j, c);
    j->s_helper = call_stub(j, c, offsetof(JitHot, fn_helper));
    j->s_access = call_stub(j, c, offsetof(JitHot, fn_access));
    j->s_stream = call_stub(j, c, offsetof(JitHot, fn_stream));
    j->s_vec = call_stub(j, c, offsetof(JitHot, fn_vec));
    j->s_invlpg = call_stub(j, c, offsetof(JitHot, fn_invlpg));
    for (unsigned m = 0; m < MMU_MODES; m++) {
        for (unsigned w = 0; w < 2; w++) {
            j->s_fill[m][w] = fill_stub(j, c, m, w);
            j->s_tlb[m][w] = tlb_stub(j, c, m, w);
        }
    }
    if (j->ymm)
        jit_make_gather_stubs(j, c);
}
