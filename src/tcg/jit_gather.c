/*
 * Gathers of VEX encoding: the three vectors go to memory, a stub loads the elements
 * one by one through the first-level TLB. If one is not to be had so, the instruction has done
 * nothing yet: it begins again once the TLB has the page, or its exec function does it all.
 */
#include "tcg/jit.h"

/* gs:[member + reg * size] */
static HostMem lane(const Jit *j, size_t member, unsigned reg, unsigned size)
{
    HostMem m = jit_hot(j, member);
    m.index = (uint8_t)reg;
    m.scale = size == 8 ? 3 : 2;
    return m;
}

/*
 * rax: linear address that index 0 has; cl: scale, as a shift; edx: elements. Comes back at the
 * return address, with the element's address in rax, if one is not in the TLB, five bytes further
 * if all are done. Changes rax, rcx, rdx.
 */
static const uint8_t *gather_stub(Jit *j, Code *c, unsigned mode, unsigned index_size,
                                  unsigned size)
{
    const uint8_t *at = here(c);
    size_t tlb = offsetof(JitHot, tlb) + mode * sizeof(JTlb);
    HostMem mask = lane(j, offsetof(JitHot, lanes_mask), H_DX, size);
    HostMem host = {.base = H_DI, .index = H_SI, .scale = 0, .disp = -12};
    emit_store(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    jit_flags_out(c, j);
    emit_load(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    RAW(c, "\x56\x57\x53"); /* push rsi; push rdi; push rbx */

    const uint8_t *next = here(c);
    RAW(c, "\xff\xca");                      /* dec edx */
    uint8_t *done = emit_jcc(c, 8, here(c)); /* js */
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0x83,
                     .w = size == 8,
                     .modrm = true,
                     .reg = 7,
                     .mem = &mask,
                     .imm_size = 1}); /* cmp mask, 0 */
    emit_jcc(c, 9, next);             /* jns */
    emit_rm(c, index_size == 8 ? 0x8b : 0x63, true, H_DI,
            lane(j, offsetof(JitHot, lanes_index), H_DX, index_size)); /* mov, movsxd */
    RAW(c, "\x48\xd3\xe7");                                            /* shl rdi, cl */
    RAW(c, "\x48\x01\xc7");                                            /* add rdi, rax */
    emit_mov(c, true, H_SI, H_DI);
    RAW(c, "\x48\xc1\xee\x0c"); /* shr rsi, 12 */
    RAW(c, "\x0f\xb7\xf6");     /* movzx esi, si */
    emit_load(c, H_BX, lane(j, tlb + offsetof(JTlb, read), H_SI, 8));
    RAW(c, "\x48\x01\xfb"); /* add rbx, rdi: offset in the page */
    RAW(c, "\x48\x81\xfb"); /* cmp rbx, the last place for an element */
    code32(c, (uint32_t)PAGE_SIZE - size);
    uint8_t *miss = emit_jcc(c, 7, here(c)); /* ja */
    emit_load(c, H_SI, lane(j, tlb + offsetof(JTlb, add), H_SI, 8));
    emit_rm(c, 0x8b, size == 8, H_BX, host);
    emit_rm(c, 0x89, size == 8, H_BX, lane(j, offsetof(JitHot, lanes), H_DX, size));
    emit_jmp(c, next);

    patch_rel32(done, c->run, here(c));
    RAW(c, "\x48\x83\x44\x24\x18\x05"); /* add qword [rsp + 24], 5 */
    patch_rel32(miss, c->run, here(c));
    emit_store(c, H_DI, jit_hot(j, offsetof(JitHot, miss_addr)));
    RAW(c, "\x5b\x5f\x5e"); /* pop rbx; pop rdi; pop rsi */
    jit_flags_in(c, j);
    emit_load(c, H_AX, jit_hot(j, offsetof(JitHot, miss_addr)));
    RAW(c, "\xc3");
    return at;
}

void jit_make_gather_stubs(Jit *j, Code *c)
{
    for (unsigned m = 0; m < MMU_MODES; m++)
        for (unsigned wide = 0; wide < 4; wide++)
            j->s_gather[m][wide] = gather_stub(j, c, m, wide & 1 ? 8 : 4, wide & 2 ? 8 : 4);
}

/* The first `bytes` of a vector register from or to memory; loaded, the rest becomes zero. */
static void move(Trans *x, bool load, unsigned reg, size_t member, unsigned bytes)
{
    HostMem m = jit_hot(x->j, member);
    encode(&x->c, &(Enc){.map = MAP_VEX0F,
                         .opcode = !load        ? 0x11
                                   : bytes == 8 ? 0x7e
                                                : 0x10,
                         .pfx = load && bytes == 8 ? PFX_F3 : PFX_NP, /* vmovq, vmovups */
                         .l = bytes == 32,
                         .modrm = true,
                         .reg = (uint8_t)reg,
                         .mem = &m});
}

bool jit_emit_gather(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    unsigned wide = (r->opcode & 1u) | (i->rexw ? 2 : 0), size = i->rexw ? 8 : 4;
    unsigned n = (16u << i->vexl) / (wide ? 8 : 4);
    bool is_ud =
        (i->modrm & 7) != 4 || i->reg == i->index || i->reg == i->vvvv || i->index == i->vvvv;
    if (is_ud || !(x->mode & DM_CODE64) || i->asize != 8)
        return false;
    Insn ea = *i; /* without the vector's part */
    ea.index = GPR_ZERO;
    jit_need_vectors(x, r);
    const uint8_t *retry = here(c);
    if (!jit_ea(x, &ea))
        return false;
    move(x, false, i->index, offsetof(JitHot, lanes_index), 32);
    move(x, false, i->vvvv, offsetof(JitHot, lanes_mask), 32);
    move(x, false, i->reg, offsetof(JitHot, lanes), 32);
    emit_imm32(c, H_CX, i->scale);
    emit_imm32(c, H_DX, n);
    emit_call(c, x->j->s_gather[jit_mmu_mode(x->mode)][wide]);
    jit_cold(x, emit_jmp(c, here(c)), COLD_ACCESS)->retry = retry;
    move(x, true, i->reg, offsetof(JitHot, lanes), n * size);
    encode(c, &(Enc){.map = MAP_VEX0F, /* vpxor mask, mask, mask */
                     .opcode = 0xef,
                     .pfx = PFX_66,
                     .modrm = true,
                     .reg = i->vvvv,
                     .vvvv = i->vvvv,
                     .rm = i->vvvv});
    x->dx_run = -1;
    return true;
}
