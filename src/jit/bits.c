/* How large what registers hold may be: for indices of accesses by the mirror. See scan.c. */
#include "jit/trans.h"

/* The least n with -2^n <= v < 2^n. */
static unsigned bits_of(int64_t v)
{
    uint64_t u = (uint64_t)(v < 0 ? ~v : v);
    return u ? 64 - (unsigned)__builtin_clzll(u) : 0;
}

static unsigned sum(unsigned a, unsigned b)
{
    return MIN_OF(MAX_OF(a, b) + 1, 64u);
}

static unsigned shifted(unsigned bits, unsigned by)
{
    return MIN_OF(bits + by, 64u);
}

static unsigned bits_in(const uint8_t *bits, unsigned r)
{
    return r < GPR_N ? bits[r] : r == GPR_ZERO ? 0 : 64;
}

/* ADD, OR, ADC, SBB, AND, SUB, XOR of a and b bits, of which b is an immediate's that is not
 * negative if `positive`. */
static unsigned of_alu(unsigned op, unsigned a, unsigned b, bool positive)
{
    switch (op) {
    case 4:
        return positive ? b : MAX_OF(a, b); /* a negative one may have any of the number's bits */
    case 1:
    case 6:
        return MAX_OF(a, b);
    case 0:
    case 5:
        return sum(a, b);
    default:
        return sum(sum(a, b), 0);
    }
}

/* Of one byte opcodes; the destination is a register. 64: it may be anything. */
static unsigned of_plain(const uint8_t *bits, const Insn *i, unsigned to)
{
    const OpRow *r = &op_rows[i->row];
    unsigned group = r->modrm & 7, now = bits[to], op = r->opcode;
    bool mem = i->flags & IF_MEM;
    if (op < 0x40 && (op & 7) < 4 && (op & 1))
        return of_alu(op >> 3, now, mem ? 64 : bits[op & 2 ? i->rm : i->reg], false);
    if (op < 0x40 && (op & 7) == 5)
        return of_alu(op >> 3, now, bits_of(i->imm), i->imm >= 0);
    switch (op) {
    case 0x81:
    case 0x83:
        return of_alu(group, now, bits_of(i->imm), i->imm >= 0);
    case 0x63: /* MOVSXD */
        return mem ? 31 : MIN_OF(31u, (unsigned)bits[i->rm]);
    case 0x89:
        return bits[i->reg];
    case 0x8b:
        return mem ? 64 : bits[i->rm];
    case 0xc1:
    case 0xd1: {
        unsigned by = op == 0xd1 ? 1 : (unsigned)i->imm & 63;
        if (group == 4 || group == 6)
            return shifted(now, by);
        if (group == 5)
            return by ? 64 - by : now;
        return group == 7 ? MIN_OF(now, 63 - by) : 64;
    }
    case 0x69:
    case 0x6b:
        return mem ? 64 : shifted(bits[i->rm], bits_of(i->imm) + 1);
    case 0xff:
        return group < 2 ? sum(now, 1) : 64;
    default:
        return 64;
    }
}

/* Of what an instruction of 32 or 64 bits leaves in `to`, the only register it writes. */
static unsigned after(const uint8_t *bits, const Insn *i, unsigned to)
{
    const OpRow *r = &op_rows[i->row];
    if (r->emit == EMIT_IMM)
        return i->opsize == 4 ? 32 : bits_of(i->imm);
    if (r->emit == EMIT_CONV) /* CDQE, CQO */
        return r->opcode == 0x98 ? MIN_OF(31u, (unsigned)bits[RAX]) : 0;
    if (r->emit == EMIT_LEA) {
        unsigned n = sum(bits_in(bits, i->base), shifted(bits_in(bits, i->index), i->scale));
        return i->seg == SEG_NONE && i->asize == 8 ? sum(n, bits_of(i->disp)) : 64;
    }
    if (r->emit != EMIT_COPY || (r->attr & (A_SSE | A_AVX | A_MMX | A_FPU)))
        return 64;
    if (r->map == MAP_0F && (r->opcode & 0xf6) == 0xb6 && r->pfx != PFX_F3 &&
        (i->opsize == 8 || r->opcode < 0xb8)) /* MOVZX, MOVSX */
        return r->opcode & 1 ? 16 : 8;
    if (r->map == MAP_0F && (r->opcode & 0xf0) == 0x40 && i->opsize == 8) /* CMOVcc */
        return i->flags & IF_MEM ? 64 : MAX_OF(bits[to], bits[i->rm]);
    return r->map == MAP_1B ? of_plain(bits, i, to) : 64;
}

/* Does i write all of a 32-bit register, whatever its operands are? */
static bool whole32(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    if (i->opsize != 4)
        return false;
    if (r->emit == EMIT_IMM || r->emit == EMIT_LEA || r->emit == EMIT_CONV)
        return true;
    if (r->emit != EMIT_COPY || (r->attr & (A_SSE | A_AVX | A_MMX | A_FPU)))
        return false;
    if (r->map == MAP_0F)
        return (r->opcode & 0xf0) == 0x40 || r->opcode == 0xaf ||
               ((r->opcode & 0xf6) == 0xb6 && r->pfx != PFX_F3);
    if (r->map != MAP_1B)
        return false;
    bool shift = r->opcode == 0xc1 && ((uint64_t)i->imm & 31);
    return (r->opcode < 0x40 &&
            ((r->opcode & 7) == 1 || (r->opcode & 7) == 3 || (r->opcode & 7) == 5)) ||
           r->opcode == 0x81 || r->opcode == 0x83 || r->opcode == 0x63 || r->opcode == 0x89 ||
           r->opcode == 0x8b || shift || r->opcode == 0xd1 || r->opcode == 0x69 ||
           r->opcode == 0x6b || r->opcode == 0xf7 || r->opcode == 0xff;
}

void jit_bits_follow(uint8_t bits[GPR_N], const Insn *i)
{
    uint32_t w = jit_written(i);
    unsigned n = 64, to = w ? (unsigned)__builtin_ctz(w) : 0;
    if (w && !(w & (w - 1)) && to < GPR_N && (i->flags & IF_CODE64)) {
        if (whole32(i))
            n = 32;
        if (i->opsize == 8 || (i->opsize == 4 && (op_rows[i->row].map == MAP_0F)))
            n = MIN_OF(n, after(bits, i, to));
    }
    for (w &= (1u << GPR_N) - 1; w; w &= w - 1)
        bits[__builtin_ctz(w)] = (uint8_t)n;
}
