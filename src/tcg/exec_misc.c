/* Flag bits, decimal adjustment, BOUND, NOP and the defined-invalid opcodes. */
#include <sched.h>
#include "tcg/exec.h"
#include "tcg/idle.h"

DEF_EXEC(nop)
{
    return FAULT_NONE;
}
/* 0F 0D: prefetches. With a register Intel's processors do nothing, AMD's do not know it. */
DEF_EXEC(nop_0d)
{
    return t->amd && !(i->flags & IF_MEM) ? raise_ud(t) : FAULT_NONE;
}
DEF_EXEC(ud)
{
    return raise_ud(t);
}
DEF_EXEC(clc)
{
    t->cc &= (uint16_t)~CC_CF;
    return FAULT_NONE;
}
DEF_EXEC(stc)
{
    t->cc |= CC_CF;
    return FAULT_NONE;
}
DEF_EXEC(cmc)
{
    t->cc ^= CC_CF;
    return FAULT_NONE;
}
DEF_EXEC(cld)
{
    s->rflags &= ~(uint64_t)FL_DF;
    return FAULT_NONE;
}
DEF_EXEC(std)
{
    s->rflags |= FL_DF;
    return FAULT_NONE;
}
DEF_EXEC(lahf)
{
    wr8(s, RAX * 8 + 1, (uint8_t)(cc_to_flags(t->cc) | FL_FIXED));
    return FAULT_NONE;
}
DEF_EXEC(sahf)
{
    t->cc = (uint16_t)((t->cc & CC_OF) |
                       ((s->gpr[RAX] & 0xff00) & (CC_SF | CC_ZF | CC_AF | CC_PF | CC_CF)));
    return FAULT_NONE;
}
DEF_EXEC(salc)
{
    wr8(s, RAX * 8, t->cc & CC_CF ? 0xff : 0);
    return FAULT_NONE;
}

/* ---- decimal adjustment (SDM vol. 2, DAA ...): the host's 64-bit mode has none of them ---- */
static uint16_t szp_cc(uint8_t v)
{
    return (uint16_t)((v ? 0 : CC_ZF) | (v & 0x80 ? CC_SF : 0) | (__builtin_parity(v) ? 0 : CC_PF));
}
DEF_EXEC(daa)
{
    uint8_t al = rd8(s, RAX * 8), r = al;
    bool cf = t->cc & CC_CF, af = t->cc & CC_AF, carry = false;
    if ((al & 15) > 9 || af) {
        r += 6;
        af = true;
    }
    if (al > 0x99 || cf) {
        r += 0x60;
        carry = true;
    }
    wr8(s, RAX * 8, r);
    /* OF is undefined; silicon gives that of the addition made. */
    bool of = (r & ~al) & 0x80;
    t->cc = (uint16_t)(szp_cc(r) | (carry ? CC_CF : 0) | (af ? CC_AF : 0) | (of ? CC_OF : 0));
    return FAULT_NONE;
}
DEF_EXEC(das)
{
    uint8_t al = rd8(s, RAX * 8), r = al;
    bool cf = t->cc & CC_CF, af = t->cc & CC_AF, carry = false;
    if ((al & 15) > 9 || af) {
        carry = cf || al < 6;
        r -= 6;
        af = true;
    }
    if (al > 0x99 || cf) {
        r -= 0x60;
        carry = true;
    }
    wr8(s, RAX * 8, r);
    bool of = (al & ~r) & 0x80;
    t->cc = (uint16_t)(szp_cc(r) | (carry ? CC_CF : 0) | (af ? CC_AF : 0) | (of ? CC_OF : 0));
    return FAULT_NONE;
}
static Fault ascii_adjust(CpuState *s, Tcg *t, int by)
{
    uint16_t ax = rd16(s, RAX);
    bool adjust = (ax & 15) > 9 || (t->cc & CC_AF);
    if (adjust)
        ax = (uint16_t)(ax + by);
    ax &= 0xff0f;
    wr16(s, RAX, ax);
    t->cc = (uint16_t)(szp_cc((uint8_t)ax) | (adjust ? CC_CF | CC_AF : 0));
    return FAULT_NONE;
}
DEF_EXEC(aaa)
{
    return ascii_adjust(s, t, 0x106);
}
DEF_EXEC(aas)
{
    return ascii_adjust(s, t, -0x106);
}
DEF_EXEC(aam)
{
    uint8_t base = (uint8_t)i->imm, al = rd8(s, RAX * 8);
    if (!base)
        return raise_exc(t, VEC_DE);
    wr16(s, RAX, (uint16_t)((al / base) << 8 | al % base));
    t->cc = szp_cc(al % base);
    return FAULT_NONE;
}
DEF_EXEC(aad)
{
    uint16_t ax = rd16(s, RAX);
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)i->imm);
    wr16(s, RAX, al);
    t->cc = szp_cc(al);
    return FAULT_NONE;
}

DEF_EXEC(bound)
{
    gva_t lin;
    uint64_t lo, hi;
    unsigned size = i->opsize;
    /* On AMD's two accesses, each with its own check of the segment. */
    Fault f = ea_lin(s, t, i, t->amd ? size : size * 2, ACC_READ, &lin);
    if (!f)
        f = mem_read(s, t, lin, size, &lo);
    if (!f && t->amd)
        f = seg_lin(s, t, i->seg, (ea_offset(s, i) + size) & size_mask(i->asize), size, ACC_READ,
                    &lin);
    else if (!f)
        lin += size;
    if (!f)
        f = mem_read(s, t, lin, size, &hi);
    if (f)
        return f;
    int64_t v = size == 2 ? (int16_t)s->gpr[i->reg] : (int32_t)s->gpr[i->reg];
    int64_t l = size == 2 ? (int16_t)lo : (int32_t)lo, h = size == 2 ? (int16_t)hi : (int32_t)hi;
    return v < l || v > h ? raise_exc(t, VEC_BR) : FAULT_NONE;
}
/* MOVNTI is a store; its hint has nothing to act on here. Prefetches do not even look at their
 * address. */
DEF_EXEC(movnti)
{
    gva_t lin;
    Fault f = ea_lin(s, t, i, i->opsize, ACC_WRITE, &lin);
    return f ? f : mem_write(s, t, lin, i->opsize, rd_size(s, i->reg, i->opsize));
}
/* A guest that spins may wait for a vCPU whose thread has no host processor: now and then it gets
 * ours. Or it waits for time to pass. */
DEF_EXEC(pause)
{
    __builtin_ia32_pause();
    t->pauses++;
    if (t->v->vm->n_vcpus > 1 && t->pauses % 32 == 0)
        sched_yield();
    if (t->pauses % IDLE_PAUSES == 0)
        idle_spins(t, i);
    return FAULT_NONE;
}
