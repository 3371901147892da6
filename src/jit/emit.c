/* Encoding of host instructions: SDM vol. 2, chapter 2. */
#include "jit/emit.h"

#define INSN_ROOM 32 /* bytes that encode() may write, and more */

static inline uint8_t *put32(uint8_t *p, int32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static inline uint8_t *modrm(uint8_t *p, const Enc *e)
{
    unsigned reg = (e->reg & 7u) << 3;
    const HostMem *m = e->mem;
    if (!m) {
        *p++ = (uint8_t)(0xc0 | reg | (e->rm & 7u));
        return p;
    }
    unsigned index = m->index == H_NONE ? 4u : m->index & 7u;
    if (m->base == H_NONE) { /* [index * scale + disp32], without RIP */
        *p++ = (uint8_t)(reg | 4);
        *p++ = (uint8_t)((unsigned)m->scale << 6 | index << 3 | 5);
        return put32(p, m->disp);
    }
    bool sib = m->index != H_NONE || (m->base & 7) == H_SP;
    bool disp8 = m->disp == (int8_t)m->disp && !is_evex_map(e->map); /* there it is scaled */
    unsigned mod = m->disp == 0 && (m->base & 7) != H_BP ? 0 : disp8 ? 1 : 2;
    *p++ = (uint8_t)(mod << 6 | reg | (sib ? 4u : m->base & 7u));
    if (sib)
        *p++ = (uint8_t)((unsigned)m->scale << 6 | index << 3 | (m->base & 7u));
    if (mod == 2)
        return put32(p, m->disp);
    if (mod == 1)
        *p++ = (uint8_t)m->disp;
    return p;
}

/* r, x, b: the register bits above the low three; with 16 where there are 32 registers. */
static uint8_t *evex_prefix(uint8_t *p, const Enc *e, unsigned r, unsigned x, unsigned b)
{
    static const uint8_t pp[] = {[PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    unsigned p0 = (r & 1) << 7 | x << 6 | (b & 1) << 5 | (r & 2) << 3;
    if (!e->mem)
        p0 |= (b & 2) << 5;
    *p++ = 0x62;
    *p++ = (uint8_t)((p0 ^ 0xf0) | (e->map - MAP_EVEX0F + 1u));
    *p++ = (uint8_t)((unsigned)e->w << 7 | (~e->vvvv & 15u) << 3 | 4 | pp[e->pfx]);
    *p++ = (uint8_t)((e->evex & ~8u) | (e->vvvv & 16 ? 0 : 8));
    return p;
}

void encode(Code *c, const Enc *e)
{
    static const uint8_t pfx_byte[] = {[PFX_66] = 0x66, [PFX_F3] = 0xf3, [PFX_F2] = 0xf2};
    static const uint8_t pfx_vex[] = {[PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    const HostMem *m = e->mem;
    unsigned r = e->reg >> 3, x = m && m->index != H_NONE ? m->index >> 3 : 0;
    unsigned b = m ? (m->base != H_NONE ? m->base >> 3 : 0u) : e->rm >> 3;
    uint8_t *p = c->p;

    if (c->end - p < INSN_ROOM) {
        c->overflow = true;
        return;
    }
    if (m && m->gs)
        *p++ = 0x65;
    if (e->lock)
        *p++ = 0xf0;
    if (is_evex_map(e->map)) {
        p = evex_prefix(p, e, r, x, b);
    } else if (e->map >= MAP_VEX0F) {
        *p++ = 0xc4;
        *p++ = (uint8_t)((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (e->map - MAP_VEX0F + 1u));
        *p++ = (uint8_t)((unsigned)e->w << 7 | (~e->vvvv & 15u) << 3 | (unsigned)e->l << 2 |
                         pfx_vex[e->pfx]);
    } else {
        if (e->p66)
            *p++ = 0x66;
        if (pfx_byte[e->pfx])
            *p++ = pfx_byte[e->pfx];
        unsigned rex = (unsigned)e->w << 3 | r << 2 | x << 1 | b;
        if (rex || e->rex)
            *p++ = (uint8_t)(0x40 | rex);
        if (e->map != MAP_1B) {
            *p++ = 0x0f;
            if (e->map != MAP_0F)
                *p++ = e->map == MAP_0F38 ? 0x38 : 0x3a;
        }
    }
    *p++ = e->opcode;
    if (e->modrm)
        p = modrm(p, e);
    memcpy(p, &e->imm, sizeof(e->imm));
    c->p = p + e->imm_size;
}

void emit_imm64(Code *c, unsigned reg, uint64_t v)
{
    if (v == (uint32_t)v) {
        emit_imm32(c, reg, (uint32_t)v);
        return;
    }
    bool is_signed = (int64_t)v == (int32_t)v;
    code8(c, 0x48 | reg >> 3);
    code8(c, is_signed ? 0xc7 : 0xb8 | (reg & 7));
    if (is_signed) {
        code8(c, 0xc0 | (reg & 7));
        code32(c, (uint32_t)v);
    } else {
        code64(c, v);
    }
}

void patch_rel32(uint8_t *at, int64_t run, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (at + run + 4));
    /* One aligned or unaligned 4-byte store: only this thread runs the code. */
    memcpy(at, &rel, 4);
}

static uint8_t *rel32(Code *c, const uint8_t *target)
{
    uint8_t *at = c->p;
    code32(c, 0);
    if (!c->overflow)
        patch_rel32(at, c->run, target);
    return at;
}

void emit_shift(Code *c, unsigned pfx, bool w, unsigned to, unsigned from, unsigned count)
{
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf7,
                     .pfx = (uint8_t)pfx,
                     .w = w,
                     .modrm = true,
                     .vvvv = (uint8_t)count,
                     .reg = (uint8_t)to,
                     .rm = (uint8_t)from});
}

void emit_rorx(Code *c, unsigned to, unsigned from, const HostMem *m, unsigned n)
{
    encode(c, &(Enc){.map = MAP_VEX0F3A,
                     .opcode = 0xf0,
                     .pfx = PFX_F2,
                     .w = true,
                     .modrm = true,
                     .reg = (uint8_t)to,
                     .rm = (uint8_t)from,
                     .mem = m,
                     .imm_size = 1,
                     .imm = n});
}

uint8_t *emit_jmp(Code *c, const uint8_t *target)
{
    code8(c, 0xe9);
    return rel32(c, target);
}

uint8_t *emit_jcc(Code *c, unsigned condition, const uint8_t *target)
{
    code8(c, 0x0f);
    code8(c, 0x80 | condition);
    return rel32(c, target);
}

uint8_t *emit_call(Code *c, const uint8_t *target)
{
    code8(c, 0xe8);
    return rel32(c, target);
}

void emit_zero_ext(Code *c, unsigned bits, unsigned to, const HostMem *m)
{
    encode(c, &(Enc){.map = MAP_0F,
                     .opcode = bits == 8 ? 0xb6 : 0xb7,
                     .modrm = true,
                     .reg = (uint8_t)to,
                     .rm = H_CX,
                     .mem = m});
}

/* Turned until what is above it falls off at bit 16, and turned back until what is below it does
 * at the other end. */
void emit_field(Code *c, unsigned lo, unsigned n)
{
    emit_zero_ext(c, 8, H_CX, NULL);
    emit_rorx(c, H_CX, H_CX, NULL, 48 + lo + n);
    emit_zero_ext(c, 16, H_CX, NULL);
    emit_rorx(c, H_CX, H_CX, NULL, 16 - n);
    if (lo)
        emit_zero_ext(c, 8, H_CX, NULL);
}

/* At the upper end LEA shifts it out. */
void emit_clear_field(Code *c, unsigned reg, unsigned lo, unsigned n)
{
    emit_rorx(c, reg, reg, NULL, (lo + n) % 64);
    emit_lea(c, true, reg,
             (HostMem){.base = H_NONE, .index = (uint8_t)reg, .scale = (uint8_t)n, .disp = 0});
    emit_rorx(c, reg, reg, NULL, (64 - lo) % 64);
}

void emit_pext(Code *c, unsigned to, unsigned from, HostMem m)
{
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf5,
                     .pfx = PFX_F3,
                     .w = true,
                     .modrm = true,
                     .vvvv = (uint8_t)from,
                     .reg = (uint8_t)to,
                     .mem = &m});
}
