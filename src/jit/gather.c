/*
 * Gathers and scatters. Those of VEX encoding, in user code, have a slot: if all elements, chosen
 * by the mask or not, are in its pages, the instruction is done as it is from the host's address.
 * By the mirror one with indices of 32 bits is, too, and only its base is looked at. Else, and in
 * the kernel, the three vectors go to memory, and gather_stub()'s code loads the elements one by
 * one through the first-level TLB. If one is not to be had so, the instruction has done nothing
 * yet: it begins again once the TLB has the page, or its exec function does it all. Those of EVEX
 * encoding are done at once, or by their exec function.
 */
#include "jit/trans.h"

extern const ExecSet exec_egather;

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

/* ---- all at once ---- */
enum { KEPT = 4 };

/* Vector registers that the instruction does not use. */
static void choose(const Insn *i, uint8_t kept[KEPT])
{
    unsigned n = 0;
    for (uint8_t r = 0; n < KEPT; r++)
        if (r != i->reg && r != i->index && r != i->vvvv)
            kept[n++] = r;
}

/* Those registers, all of each, to JitHot.lanes_kept and back. */
static void keep(Trans *x, const uint8_t kept[KEPT], bool load)
{
    for (unsigned n = 0; n < KEPT; n++) {
        HostMem m = jit_hot(x->j, offsetof(JitHot, lanes_kept) + 64 * n);
        encode(&x->c, &(Enc){.map = x->j->zmm ? MAP_EVEX0F : MAP_VEX0F, /* VMOVUPS */
                             .opcode = load ? 0x10 : 0x11,
                             .pfx = PFX_NP,
                             .l = true,
                             .evex = 2 << EVEX_LL_SHIFT,
                             .modrm = true,
                             .reg = kept[n],
                             .mem = &m});
    }
}

/* to = op(b, a): an instruction of map 0F or 0F38 on XMM, or YMM, with prefix 66. */
static void vector(Trans *x, enum OpMap map, unsigned opcode, bool l, unsigned to, unsigned a,
                   unsigned b)
{
    encode(&x->c, &(Enc){.map = (uint8_t)map,
                         .opcode = (uint8_t)opcode,
                         .pfx = PFX_66,
                         .l = l,
                         .modrm = true,
                         .reg = (uint8_t)to,
                         .vvvv = (uint8_t)a,
                         .rm = (uint8_t)b});
}
enum {
    VMOVQ = 0x6e,        /* with W */
    VPADDQ = 0xd4,       /* 0F */
    VPSUBQ = 0xfb,       /* 0F */
    VPOR = 0xeb,         /* 0F */
    VMOVMSKPD = 0x50,    /* 0F */
    VPBROADCASTQ = 0x59, /* 0F38 */
    VPMOVSXDQ = 0x25     /* 0F38 */
};

/* All 64-bit lanes of a register = a host register. */
static void broadcast(Trans *x, unsigned to, unsigned from)
{
    encode(&x->c, &(Enc){.map = MAP_VEX0F,
                         .opcode = VMOVQ,
                         .pfx = PFX_66,
                         .w = true,
                         .modrm = true,
                         .reg = (uint8_t)to,
                         .rm = (uint8_t)from});
    vector(x, MAP_VEX0F38, VPBROADCASTQ, true, to, 0, to);
}

/* to = the indices from the first or (high) the fifth on as 64-bit numbers, times their scale. */
static void offsets(Trans *x, const Insn *i, unsigned to, bool l, bool wide, bool high)
{
    Code *c = &x->c;
    unsigned from = i->index;
    if (high) {
        encode(c, &(Enc){.map = MAP_VEX0F3A, /* vextracti128 to, index, 1 */
                         .opcode = 0x39,
                         .pfx = PFX_66,
                         .l = true,
                         .modrm = true,
                         .reg = i->index,
                         .rm = (uint8_t)to,
                         .imm_size = 1,
                         .imm = 1});
        from = to;
    }
    if (wide)
        vector(x, MAP_VEX0F, 0x6f, l, to, 0, from); /* vmovdqa */
    else
        vector(x, MAP_VEX0F38, VPMOVSXDQ, l, to, 0, from);
    if (i->scale)
        encode(c, &(Enc){.map = MAP_VEX0F, /* vpsllq to, to, scale */
                         .opcode = 0x73,
                         .pfx = PFX_66,
                         .l = l,
                         .modrm = true,
                         .reg = 6,
                         .vvvv = (uint8_t)to,
                         .rm = (uint8_t)to,
                         .imm_size = 1,
                         .imm = i->scale});
}

/*
 * rcx = 0 if all n elements are in the pages of this slot. rax is where index 0 leads, and stays.
 * With `from` the distance of an element from where the first place is, that is 0 <= from and
 * from <= places - 1: neither it nor what it is less than that has the highest bit.
 */
static void check_all(Trans *x, const Insn *i, int slot, unsigned n, bool wide)
{
    Code *c = &x->c;
    HostMem places = jit_slot_mem(x->j, slot, offsetof(JitSlot, places));
    uint8_t kept[KEPT];
    bool l = n > 2;
    choose(i, kept);
    unsigned a = kept[0], b = kept[1], base = kept[2], most = kept[3];
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, neg)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_AX, .scale = 0});
    emit_load32(c, H_CX, places);
    code_bytes(c, "\x48\xf7\xd1", 3); /* not rcx */
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_CX, .scale = 0, .disp = 1});
    emit_load32(c, H_CX, places);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    keep(x, kept, false);
    broadcast(x, base, H_DX);
    broadcast(x, most, H_CX);
    offsets(x, i, a, l, wide, false);
    vector(x, MAP_VEX0F, VPADDQ, l, a, a, base);
    if (n == 8) {
        offsets(x, i, b, l, wide, true);
        vector(x, MAP_VEX0F, VPADDQ, l, b, b, base);
    }
    vector(x, MAP_VEX0F, VPSUBQ, l, base, most, a);
    vector(x, MAP_VEX0F, VPOR, l, a, a, base);
    if (n == 8) {
        vector(x, MAP_VEX0F, VPSUBQ, l, base, most, b);
        vector(x, MAP_VEX0F, VPOR, l, a, a, b);
        vector(x, MAP_VEX0F, VPOR, l, a, a, base);
    }
    vector(x, MAP_VEX0F, VMOVMSKPD, l, H_CX, 0, a);
    keep(x, kept, true);
}

/* ---- the same by mask registers ---- */

/* KMOVQ of k1 from or to where the first vector register would be kept. */
static void keep_k1(Trans *x, bool load)
{
    HostMem m = jit_hot(x->j, offsetof(JitHot, lanes_kept));
    encode(&x->c, &(Enc){.map = MAP_VEX0F,
                         .opcode = load ? 0x90 : 0x91,
                         .pfx = PFX_NP,
                         .w = true,
                         .modrm = true,
                         .reg = 1,
                         .mem = &m});
}

/* rcx += a number with a bit for each index that is (LE) or is not (NLE) up to the one at `bound`.
 * rdx changes. */
static void add_those(Trans *x, const Insn *i, unsigned how, bool l, bool wide, size_t bound)
{
    Code *c = &x->c;
    HostMem m = jit_hot(x->j, bound);
    encode(c, &(Enc){.map = MAP_EVEX0F3A, /* vpcmpd or vpcmpq k1, index, bound{1toN}, how */
                     .opcode = 0x1f,
                     .pfx = PFX_66,
                     .w = wide,
                     .evex = (uint8_t)(EVEX_B | l << EVEX_LL_SHIFT),
                     .modrm = true,
                     .reg = 1,
                     .vvvv = i->index,
                     .mem = &m,
                     .imm_size = 1,
                     .imm = how});
    encode(c, &(Enc){.map = MAP_VEX0F, /* kmovw edx, k1 */
                     .opcode = 0x93,
                     .pfx = PFX_NP,
                     .modrm = true,
                     .reg = H_DX,
                     .rm = 1});
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_DX, .scale = 0, .disp = 0});
}

/* SARX rdx, m or (NULL) rdx, rcx */
static void shift_signed(Code *c, const HostMem *m)
{
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf7,
                     .pfx = PFX_F3,
                     .w = true,
                     .modrm = true,
                     .vvvv = H_CX,
                     .reg = H_DX,
                     .rm = H_DX,
                     .mem = m});
}

/*
 * As check_all(), by two comparisons of the indices themselves: with `from` the distance of index 0
 * from where the first place is, in bytes, floor((-from - 1) / scale) < index <=
 * floor((places - 1 - from) / scale). Of 32 bits, the first of these has to be small.
 */
static void check_indices(Trans *x, const Insn *i, int slot, bool l, bool wide)
{
    Code *c = &x->c;
    enum { LE = 2, NLE = 6 };
    const size_t low = offsetof(JitHot, tmp), high = offsetof(JitHot, tmp2);
    HostMem places = jit_slot_mem(x->j, slot, offsetof(JitSlot, places));
    HostMem m = jit_hot(x->j, high);
    keep_k1(x, false);
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, neg)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_AX, .scale = 0});
    emit_load32(c, H_CX, places);
    code_bytes(c, "\x48\xf7\xd2", 3);                                            /* not rdx */
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_CX, .scale = 0}); /* -from - 1 */
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_DX, .scale = 0});
    emit_store(c, H_CX, m);
    if (i->scale) {
        HostMem first = jit_hot(x->j, low);
        emit_imm32(c, H_CX, i->scale);
        shift_signed(c, NULL);
        emit_store(c, H_DX, first);
        shift_signed(c, &m);
        emit_store(c, H_DX, m);
        emit_load(c, H_DX, first);
    } else {
        emit_store(c, H_DX, jit_hot(x->j, low));
    }
    if (wide) {
        emit_imm32(c, H_CX, 0);
    } else { /* 0 if it is from -2^30 on and below 2^30 */
        emit_lea(c, true, H_CX, (HostMem){.base = H_DX, .index = H_NONE, .disp = 1 << 30});
        emit_imm32(c, H_DX, 31);
        emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    }
    add_those(x, i, LE, l, wide, low);
    add_those(x, i, NLE, l, wide, high);
    keep_k1(x, true);
}

/* The slot does not have all elements: it gets the page of the first one, whose index is in the
 * vector register `index`. rax is the base. */
static void missed(Trans *x, unsigned index, unsigned scale, bool wide, int slot, bool write)
{
    Code *c = &x->c;
    encode(c, &(Enc){.map = index < 16 ? MAP_VEX0F : MAP_EVEX0F, /* vmovq rcx or vmovd ecx */
                     .opcode = 0x7e,
                     .pfx = PFX_66,
                     .w = wide,
                     .modrm = true,
                     .reg = (uint8_t)index,
                     .rm = H_CX});
    if (!wide)
        code_bytes(c, "\x48\x63\xc9", 3); /* movsxd rcx, ecx */
    emit_lea(c, true, H_AX, (HostMem){.base = H_AX, .index = H_CX, .scale = (uint8_t)scale});
    struct Cold *cold = jit_cold(x, emit_jmp(c, here(c)), COLD_ACCESS);
    cold->slot = slot;
    cold->write = write;
    cold->mode = (uint8_t)jit_mmu_mode(x->mode);
    cold->retry = here(c);
}

static void itself(Trans *x, const Insn *i, unsigned base)
{
    HostMem m = {.base = (uint8_t)base, .index = i->index, .scale = i->scale};
    encode(&x->c, &(Enc){.map = MAP_VEX0F38,
                         .opcode = op_rows[i->row].opcode,
                         .pfx = PFX_66,
                         .w = i->rexw,
                         .l = i->vexl,
                         .modrm = true,
                         .reg = i->reg,
                         .vvvv = i->vvvv,
                         .mem = &m});
}

/* Where all that the slot has met was, if accesses may go by the mirror there. */
static enum MirrorArea area_of(const Trans *x)
{
    const Block *b = x->at->b;
    unsigned k = x->k - x->at->first;
    bool low = b->in_mirror[MIRROR_LOW - 1] >> k & 1, high = b->in_mirror[MIRROR_HIGH - 1] >> k & 1;
    if (!x->mirror || b->no_mirror >> k & 1 || low == high)
        return MIRROR_NONE;
    return low ? MIRROR_LOW : MIRROR_HIGH;
}

/* By the mirror, where indices of 32 bits lead no further from the base than there is room around
 * it. */
static bool in_mirror(Trans *x, const Insn *i, const Insn *ea, enum MirrorArea area)
{
    jit_island_before(x, 100);
    unsigned base = jit_mirror_base(x, ea, area);
    if (base == H_NONE)
        return false;
    jit_guard(x);
    itself(x, i, base);
    return true;
}

/* The instruction itself, if the slot has all elements. If not the slot gets the page of the first
 * one, and what comes next does the work. Returns the jump behind that. */
static uint8_t *at_once(Trans *x, const Insn *i, int slot, unsigned n, bool wide)
{
    Code *c = &x->c;
    unsigned bytes = n * (wide ? 8 : 4);
    if (x->j->zmm && bytes >= 16)
        check_indices(x, i, slot, bytes == 32, wide);
    else
        check_all(x, i, slot, n, wide);
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    uint8_t *slow = emit_jmp(c, here(c));
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, add)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_AX, .index = H_DX, .scale = 0, .disp = -12});
    jit_may_fault(x); /* an empty slot, and an address that is not canonical */
    itself(x, i, H_DX);
    uint8_t *done = emit_jmp(c, here(c));
    patch_rel32(slow, c->run, here(c));
    missed(x, i->index, i->scale, wide, slot, false);
    return done;
}

/* ---- EVEX ---- */
/* to = op(b, a), of map, prefix 66 and W1, on XMM, YMM or ZMM. */
static void evex(Trans *x, enum OpMap map, unsigned opcode, unsigned ll, unsigned to, unsigned a,
                 unsigned b)
{
    encode(&x->c, &(Enc){.map = (uint8_t)map,
                         .opcode = (uint8_t)opcode,
                         .pfx = PFX_66,
                         .w = true,
                         .evex = (uint8_t)(ll << EVEX_LL_SHIFT),
                         .modrm = true,
                         .reg = (uint8_t)to,
                         .vvvv = (uint8_t)a,
                         .rm = (uint8_t)b});
}

/* As offsets(): of eight at most, each in 64 bits of `to`. */
static void evex_offsets(Trans *x, const Insn *i, unsigned to, unsigned ll, bool wide, bool high)
{
    unsigned from = i->vvvv;
    if (high) {
        encode(&x->c, &(Enc){.map = MAP_EVEX0F3A, /* vextracti64x4 to, index, 1 */
                             .opcode = 0x3b,
                             .pfx = PFX_66,
                             .w = true,
                             .evex = 2 << EVEX_LL_SHIFT,
                             .modrm = true,
                             .reg = i->vvvv,
                             .rm = (uint8_t)to,
                             .imm_size = 1,
                             .imm = 1});
        from = to;
    }
    encode(&x->c, &(Enc){.map = wide ? MAP_EVEX0F : MAP_EVEX0F38, /* vmovdqa64, vpmovsxdq */
                         .opcode = wide ? 0x6f : VPMOVSXDQ,
                         .pfx = PFX_66,
                         .w = wide,
                         .evex = (uint8_t)(ll << EVEX_LL_SHIFT),
                         .modrm = true,
                         .reg = (uint8_t)to,
                         .rm = (uint8_t)from});
    encode(&x->c, &(Enc){.map = MAP_EVEX0F, /* vpsllq to, to, scale */
                         .opcode = 0x73,
                         .pfx = PFX_66,
                         .w = true,
                         .evex = (uint8_t)(ll << EVEX_LL_SHIFT),
                         .modrm = true,
                         .reg = 6,
                         .vvvv = (uint8_t)to,
                         .rm = (uint8_t)to,
                         .imm_size = 1,
                         .imm = i->scale});
}

/* to, a host register, = which of the chosen elements are beyond the last place: k{mask} and k are
 * mask registers. */
static void beyond(Trans *x, unsigned to, unsigned ll, unsigned k, unsigned mask, unsigned at,
                   unsigned most)
{
    encode(&x->c, &(Enc){.map = MAP_EVEX0F3A, /* vpcmpuq k{mask}, at, most, above */
                         .opcode = 0x1e,
                         .pfx = PFX_66,
                         .w = true,
                         .evex = (uint8_t)(ll << EVEX_LL_SHIFT | mask),
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .vvvv = (uint8_t)at,
                         .rm = (uint8_t)most,
                         .imm_size = 1,
                         .imm = 6});
    encode(&x->c, &(Enc){.map = MAP_VEX0F, /* kmovw */
                         .opcode = 0x93,
                         .pfx = PFX_NP,
                         .modrm = true,
                         .reg = (uint8_t)to,
                         .rm = (uint8_t)k});
}

/* KMOVQ from or to JitHot.tmp. */
static void keep_mask(Trans *x, unsigned k, bool load)
{
    HostMem m = jit_hot(x->j, offsetof(JitHot, tmp));
    encode(&x->c, &(Enc){.map = MAP_VEX0F,
                         .opcode = load ? 0x90 : 0x91,
                         .pfx = PFX_NP,
                         .w = true,
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .mem = &m});
}

/* As check_all(): of the elements that the mask chooses. */
static void evex_check(Trans *x, const Insn *i, int slot, unsigned n, bool wide)
{
    Code *c = &x->c;
    HostMem places = jit_slot_mem(x->j, slot, offsetof(JitSlot, places));
    unsigned ll = n == 2 ? 0 : n == 4 ? 1 : 2, mask = i->evex & EVEX_AAA, k = mask == 1 ? 2 : 1;
    uint8_t kept[KEPT];
    choose(i, kept);
    unsigned a = kept[0], base = kept[1], most = kept[2];
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, neg)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_AX, .scale = 0});
    emit_load32(c, H_CX, places);
    code_bytes(c, "\x48\xf7\xd1", 3); /* not rcx */
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_CX, .scale = 0, .disp = 1});
    emit_load32(c, H_CX, places);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    keep(x, kept, false);
    keep_mask(x, k, false);
    evex(x, MAP_EVEX0F38, 0x7c, 2, base, 0, H_DX); /* vpbroadcastq */
    evex(x, MAP_EVEX0F38, 0x7c, 2, most, 0, H_CX);
    evex_offsets(x, i, a, ll, wide, false);
    evex(x, MAP_EVEX0F, VPADDQ, ll, a, a, base);
    beyond(x, H_CX, ll, k, mask, a, most);
    if (n == 16) {
        evex_offsets(x, i, a, ll, wide, true);
        evex(x, MAP_EVEX0F, VPADDQ, ll, a, a, base);
        encode(c, &(Enc){.map = MAP_VEX0F3A, /* kshiftrw k, mask, 8 */
                         .opcode = 0x30,
                         .pfx = PFX_66,
                         .w = true,
                         .modrm = true,
                         .reg = (uint8_t)k,
                         .rm = (uint8_t)mask,
                         .imm_size = 1,
                         .imm = 8});
        beyond(x, H_DX, ll, k, k, a, most);
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_DX, .scale = 0});
    }
    keep_mask(x, k, true);
    keep(x, kept, true);
}

static bool emit_evex(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    bool wide = r->opcode & 1, gather = r->exec == &exec_egather;
    unsigned size = i->rexw ? 8 : 4, n = (16u << i->vexl) / MAX_OF(wide ? 8u : 4u, size);
    HostMem m = {.base = H_DX, .index = i->vvvv & 15, .scale = i->scale};
    if ((i->modrm & 7) != 4 || !(x->mode & DM_CODE64) || i->asize != 8 ||
        (gather && i->reg == i->vvvv) || !x->j->zmm)
        return false;
    int slot = jit_slot_new(x, size, !gather);
    if (slot < 0)
        return false;
    jit_need_vectors(x, r);
    jit_island_before(x, 500);
    if (!jit_ea(x, i))
        return false;
    evex_check(x, i, slot, n, wide);
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    uint8_t *slow = emit_jmp(c, here(c));
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, add)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_AX, .index = H_DX, .scale = 0, .disp = -12});
    jit_may_fault(x);
    encode(c, &(Enc){.map = MAP_EVEX0F38,
                     .opcode = r->opcode,
                     .pfx = PFX_66,
                     .w = i->rexw,
                     .evex = i->evex & (EVEX_LL | EVEX_AAA),
                     .modrm = true,
                     .reg = i->reg,
                     .vvvv = i->vvvv & 16,
                     .mem = &m});
    uint8_t *done = emit_jmp(c, here(c));
    patch_rel32(slow, c->run, here(c));
    missed(x, i->vvvv, i->scale, wide, slot, !gather);
    jit_cold(x, emit_jmp(c, here(c)), COLD_HELPER);
    patch_rel32(done, c->run, here(c));
    x->vec[0] = x->vec[1] = x->vec[2] = x->x87 = false; /* behind the exec function they are away */
    x->dx_run = -1;
    return true;
}

bool jit_emit_gather(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    if (is_evex_map(r->map))
        return emit_evex(x, i);
    unsigned wide = (r->opcode & 1u) | (i->rexw ? 2 : 0), size = i->rexw ? 8 : 4;
    unsigned n = (16u << i->vexl) / (wide ? 8 : 4);
    bool is_ud =
        (i->modrm & 7) != 4 || i->reg == i->index || i->reg == i->vvvv || i->index == i->vvvv;
    if (is_ud || !(x->mode & DM_CODE64) || i->asize != 8)
        return false;
    Insn ea = *i; /* without the vector's part */
    ea.index = GPR_ZERO;
    enum MirrorArea area = area_of(x);
    jit_need_vectors(x, r);
    if (area != MIRROR_NONE && !(wide & 1))
        return in_mirror(x, i, &ea, area);
    jit_island_before(x, 500); /* all of this is longer than short jumps reach */
    const uint8_t *retry = here(c);
    if (!jit_ea(x, &ea))
        return false;
    int slot = jit_slot_new(x, size, false);
    uint8_t *done = NULL;
    if (slot >= 0) {
        done = at_once(x, i, slot, n, wide & 1);
        jit_ea(x, &ea);
    }
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
    if (done)
        patch_rel32(done, c->run, here(c));
    x->dx_run = -1;
    return true;
}
