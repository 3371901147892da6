/*
 * Soft immediates: instructions whose immediate is written again and again.
 *
 * Programs that patch themselves mostly patch immediates. A block that has been killed a few times
 * by stores into an immediate, and by nothing else, is made again with that immediate soft: its
 * code reads the value from the guest's memory each time, and stores there no longer kill the block
 * (block.c). Insn.imm is out of date then, so such a block is run as translated code or not at all.
 *
 * Only instructions with register operands take part: they never fault, so they never need their
 * exec function.
 */
#include "jit/trans.h"

enum SoftKind { SOFT_NONE, SOFT_ALU, SOFT_MOV, SOFT_IMUL };

static enum SoftKind kind_of(const Insn *i, unsigned *size)
{
    const OpRow *r = &op_rows[i->row];
    *size = 4;
    if (r->map != MAP_1B || (i->flags & (IF_MEM | IF_LOCK)) || !(i->flags & IF_CODE64) ||
        (i->opsize != 4 && i->opsize != 8))
        return SOFT_NONE;
    switch (r->emit) {
    case EMIT_COPY:
    case EMIT_TEST:
        if (r->opcode == 0x81 || (r->opcode & 0xc7) == 0x05)
            return SOFT_ALU;
        return r->opcode == 0x69 ? SOFT_IMUL : SOFT_NONE;
    case EMIT_IMM:
        if (r->opcode == 0xb8)
            *size = i->opsize;
        return r->opcode == 0xb8 ? SOFT_MOV : SOFT_NONE;
    default:
        return SOFT_NONE;
    }
}

bool jit_soft_imm(const Insn *i, unsigned *at, unsigned *size)
{
    if (kind_of(i, size) == SOFT_NONE)
        return false;
    *at = i->end - *size; /* these have it last */
    return true;
}

bool jit_emit_soft(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    HostMem imm = {.base = H_CX, .index = H_NONE};
    bool w = i->opsize == 8;
    unsigned size, to;
    enum SoftKind kind = kind_of(i, &size);
    if (kind == SOFT_NONE)
        return false;
    emit_imm64(c, H_CX, (uintptr_t)(x->b->soft_host + i->end - size));
    emit_rm(c, w && size == 4 ? 0x63 /* movsxd */ : 0x8b, w, H_CX, imm);
    switch (kind) {
    case SOFT_ALU: {
        bool group = r->opcode == 0x81;
        unsigned n = group ? r->modrm & 7u : r->opcode >> 3 & 7u, reg = group ? i->rm : RAX;
        to = jit_host[reg] == H_NONE ? H_AX : jit_host[reg];
        if (to == H_AX)
            jit_get(x, H_AX, reg);
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = (uint8_t)(n << 3 | 1),
                         .w = w,
                         .modrm = true,
                         .reg = H_CX,
                         .rm = (uint8_t)to});
        if (to == H_AX && r->emit == EMIT_COPY)
            jit_put(x, reg, H_AX);
        return true;
    }
    case SOFT_IMUL:
        jit_get(x, H_AX, i->rm);
        encode(
            c,
            &(Enc){.map = MAP_0F, .opcode = 0xaf, .w = w, .modrm = true, .reg = H_CX, .rm = H_AX});
        jit_put(x, i->reg, H_CX);
        return true;
    default:
        jit_put(x, i->reg, H_CX);
        return true;
    }
}
