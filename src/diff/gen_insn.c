/*
 * Instruction bytes from the rows of ops.def: prefixes, VEX, ModRM with every addressing form,
 * immediates. Now and then (Gen.odd) something that does not belong: another prefix, LOCK where it
 * is not allowed, a wrong VEX field.
 */
#include <string.h>

#include "diff/gen.h"

unsigned operand_class(const OpRow *r, unsigned k)
{
    return operand_info[r->op[k]].cls;
}

unsigned operand_size(const OpRow *r, unsigned k)
{
    return operand_info[r->op[k]].size;
}

bool row_has_class(const OpRow *r, unsigned cls)
{
    for (unsigned k = 0; k < 4; k++)
        if (operand_class(r, k) == cls)
            return true;
    return false;
}

static bool has_modrm(const OpRow *r)
{
    static const uint8_t with[] = {OC_RM,      OC_REG,  OC_MEM,  OC_SREG,  OC_CREG,  OC_DREG,
                                   OC_MMREG,   OC_MMRM, OC_VREG, OC_VRM,   OC_RMREG, OC_VRMREG,
                                   OC_MMRMREG, OC_KREG, OC_KRM,  OC_KRMREG};
    if (r->modrm)
        return true;
    for (unsigned k = 0; k < ARRAY_LEN(with); k++)
        if (row_has_class(r, with[k]))
            return true;
    return false;
}

/* ---- pieces ---- */
typedef struct Bytes {
    uint8_t b[32];
    unsigned n;
} Bytes;

static void put(Bytes *e, unsigned v)
{
    e->b[e->n++] = (uint8_t)v;
}

static void put_random(Gen *g, Bytes *e, unsigned size)
{
    uint64_t v = one_in(g, 3) ? (uint64_t)(int64_t)(int8_t)rnd(g) : rnd(g);
    memcpy(e->b + e->n, &v, size);
    e->n += size;
}

typedef struct ModRm {
    bool there, mem;
    unsigned mod, reg, rm;            /* reg and rm with their REX bits */
    unsigned scale, index, base, sib; /* sib: there is one */
} ModRm;

static bool is_gather(const OpRow *r)
{
    return (r->map == MAP_VEX0F38 && r->opcode >= 0x90 && r->opcode <= 0x93) ||
           (r->evex.flags & EV_VSIB);
}

static void draw_modrm(Gen *g, ModRm *m, unsigned asize)
{
    const OpRow *r = g->r;
    unsigned regs = g->code64 ? 16 : 8;
    bool reg_only = (r->modrm & X_REG) || row_has_class(r, OC_RMREG) ||
                    row_has_class(r, OC_VRMREG) || row_has_class(r, OC_MMRMREG) ||
                    row_has_class(r, OC_KRMREG) || row_has_class(r, OC_CREG) ||
                    row_has_class(r, OC_DREG);
    bool mem_only = (r->modrm & X_MEM) || row_has_class(r, OC_MEM);
    m->there = true;
    m->mem = mem_only || (!reg_only && !one_in(g, 3));
    m->reg = r->modrm & 8 ? (r->modrm & 7) | (below(g, 2) * 8 & (regs - 1)) : below(g, regs);
    m->rm = r->modrm & X_RM ? r->modrm >> 8 & 7 : below(g, regs);
    if (row_has_class(r, OC_KREG) && !(g->odd && one_in(g, 4)))
        m->reg &= 7;
    m->mod = 3;
    bool high = is_evex_map(r->map) && g->code64;
    if (high && row_has_class(r, OC_VREG))
        m->reg |= below(g, 2) * 16;
    if (!m->mem) {
        if (high && (row_has_class(r, OC_VRM) || row_has_class(r, OC_VRMREG)))
            m->rm |= below(g, 2) * 16;
        return;
    }
    m->mod = below(g, 3);
    if (asize == 2) {
        m->rm &= 7;
        return;
    }
    if (is_gather(r) && !(g->odd && one_in(g, 8)))
        m->rm = (m->rm & 8) | 4;
    m->sib = (m->rm & 7) == 4;
    if (!m->sib && !one_in(g, 3)) /* SIB is one of eight, and has the most forms */
        return;
    m->rm = 4;
    m->sib = 1;
    m->scale = below(g, 4);
    m->index = below(g, regs);
    m->base = below(g, regs);
}

static unsigned disp_size(const ModRm *m, unsigned asize)
{
    if (!m->mem)
        return 0;
    if (asize == 2)
        return m->mod == 0 ? (m->rm & 7) == 6 ? 2 : 0 : m->mod;
    if (m->mod == 0)
        return m->sib ? (m->base & 7) == 5 ? 4 : 0 : (m->rm & 7) == 5 ? 4 : 0;
    return m->mod == 1 ? 1 : 4;
}

static void put_modrm(Gen *g, Bytes *e, const ModRm *m, unsigned asize)
{
    if (!m->there)
        return;
    put(e, m->mod << 6 | (m->reg & 7) << 3 | (m->rm & 7));
    if (m->mem && asize != 2 && m->sib)
        put(e, m->scale << 6 | (m->index & 7) << 3 | (m->base & 7));
    g->disp_at = (uint8_t)e->n;
    g->disp_size = (uint8_t)disp_size(m, asize);
    put_random(g, e, g->disp_size);
}

/* ---- prefixes ---- */

static void shuffle(Gen *g, uint8_t *b, unsigned n)
{
    for (unsigned k = n; k > 1; k--) {
        unsigned o = below(g, k);
        uint8_t t = b[k - 1];
        b[k - 1] = b[o];
        b[o] = t;
    }
}

static unsigned segment_prefix(Gen *g)
{
    static const uint8_t prefix[] = {0x64, 0x65, 0x26, 0x2e, 0x36, 0x3e};
    return prefix[g->code64 && !one_in(g, 4) ? below(g, 2) : below(g, 6)];
}

static bool p67_matters(const OpRow *r, const ModRm *m)
{
    return m->mem || row_has_class(r, OC_STRING) || row_has_class(r, OC_MOFFS) ||
           (r->map == MAP_1B && ((r->opcode >= 0xe0 && r->opcode <= 0xe3) || r->opcode == 0xd7));
}

/* Legacy prefixes, in any order: 67 and segments, then (not VEX) what the row says. */
static void put_prefixes(Gen *g, Bytes *e, const ModRm *m, bool p67, bool vex)
{
    const OpRow *r = g->r;
    uint8_t p[8];
    unsigned n = 0;
    bool memory = m->mem || row_has_class(r, OC_STRING) || row_has_class(r, OC_MOFFS);
    if (p67)
        p[n++] = 0x67;
    if (one_in(g, memory ? 6 : 32))
        p[n++] = (uint8_t)segment_prefix(g);
    if (!vex || (g->odd && one_in(g, 3))) {
        switch (vex ? PFX_ANY : r->pfx) {
        case PFX_66:
            p[n++] = 0x66;
            break;
        case PFX_F3:
            p[n++] = 0xf3;
            break;
        case PFX_F2:
            p[n++] = 0xf2;
            break;
        case PFX_ANY:
            if (one_in(g, 4))
                p[n++] = 0x66;
            if (r->attr & A_REP ? one_in(g, 2) : g->odd && one_in(g, 4))
                p[n++] = one_in(g, 2) ? 0xf2 : 0xf3;
            break;
        default:
            break;
        }
        if (r->pfx != PFX_ANY && r->pfx != PFX_NP && !vex && one_in(g, 8))
            p[n++] = 0x66;
        /* On AMD, LOCK MOV CR0 is MOV CR8. */
        bool group6 = r->map == MAP_0F && r->opcode == 0; /* AMD reads the operand before #UD */
        bool bad_lock = g->odd && one_in(g, 4) && !row_has_class(r, OC_CREG) && !group6;
        if ((r->attr & A_LOCK) && m->mem ? one_in(g, 4) : bad_lock)
            p[n++] = 0xf0;
    }
    shuffle(g, p, n);
    memcpy(e->b + e->n, p, n);
    e->n += n;
}

static unsigned rex_bits(const ModRm *m, bool w)
{
    unsigned rex = (w ? 8 : 0) | (m->reg & 8) >> 1;
    if (m->sib)
        return rex | (m->index & 8) >> 2 | (m->base & 8) >> 3;
    return rex | (m->rm & 8) >> 3;
}

static void put_vex(Gen *g, Bytes *e, const ModRm *m)
{
    static const uint8_t pp[] = {
        [PFX_ANY] = 0, [PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    const OpRow *r = g->r;
    bool wrong = g->odd && one_in(g, 2);
    bool w = r->attr & A_W0 ? 0 : r->attr & A_W1 ? 1 : below(g, 2);
    unsigned l = r->attr & A_VEXL0 ? 0 : r->attr & A_VEXL1 ? 1 : below(g, 2);
    unsigned v = r->attr & A_NOV ? 0 : below(g, g->code64 || one_in(g, 16) ? 16 : 8);
    unsigned rex = g->code64 ? rex_bits(m, w) : 0;
    if (wrong) {
        w ^= below(g, 2);
        l ^= below(g, 2);
        if (one_in(g, 2))
            v = below(g, 16);
    }
    unsigned map = r->map - MAP_VEX0F + 1;
    if (map == 1 && !w && !(rex & 3) && one_in(g, 2)) {
        if (!g->code64)
            v &= 7;
        put(e, 0xc5);
        put(e, (~rex & 4) << 5 | (~v & 15) << 3 | l << 2 | pp[r->pfx]);
        return;
    }
    put(e, 0xc4);
    put(e, (~rex & 7) << 5 | map);
    put(e, (unsigned)w << 7 | (~v & 15) << 3 | l << 2 | pp[r->pfx]);
}

static void put_evex(Gen *g, Bytes *e, const ModRm *m)
{
    static const uint8_t pp[] = {
        [PFX_ANY] = 0, [PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    const OpRow *r = g->r;
    const EvexRow *x = &r->evex;
    bool w = r->attr & A_W0 ? 0 : r->attr & A_W1 ? 1 : below(g, 2);
    bool rounds = x->flags & (EV_ER | EV_SAE), has_vvvv = row_has_class(r, OC_VVVV);
    bool b = m->mem ? (x->tuple == TT_FV || x->tuple == TT_HV) && one_in(g, 3)
                    : (rounds || (x->flags & EV_B)) && one_in(g, 3);
    unsigned l = x->vl == VL_128   ? 0
                 : x->vl == VL_256 ? 1 + below(g, 2)
                 : x->vl == VL_512 ? 2
                                   : below(g, 3);
    if (b && !m->mem && rounds)
        l = below(g, 4);
    unsigned aaa = x->flags & EV_NOK    ? 0
                   : x->flags & EV_VSIB ? 1 + below(g, 7)
                                        : below(g, 2) * below(g, 8);
    unsigned first = operand_class(r, 0);
    bool zeroes = aaa && !(x->flags & EV_VSIB) &&
                  (first == OC_VREG || first == OC_VVVV || first == OC_VRMREG ||
                   (first == OC_VRM && !m->mem));
    unsigned z = zeroes && one_in(g, 2), rex = g->code64 ? rex_bits(m, false) : 0;
    unsigned v = has_vvvv ? below(g, g->code64 ? 32 : 8) : 0;
    if (g->code64 && (x->flags & EV_VSIB))
        v = below(g, 2) * 16;
    if (g->code64 && !m->mem)
        rex |= (m->rm & 16) >> 3;
    uint8_t p[3] = {
        (uint8_t)((~rex & 7) << 5 | (m->reg & 16 ? 0 : 0x10) | (r->map - MAP_EVEX0F + 1u)),
        (uint8_t)((unsigned)w << 7 | (~v & 15) << 3 | 4 | pp[r->pfx]),
        (uint8_t)(z << 7 | l << 5 | (unsigned)b << 4 | (v & 16 ? 0 : 8) | aaa)};
    if (g->odd && !e->n && one_in(g, 2)) { /* one thing wrong at a time */
        unsigned bit = below(g, 24);
        if (g->code64 || (bit != 6 && bit != 7)) /* else it is BOUND */
            p[bit / 8] ^= (uint8_t)(1u << (bit & 7));
        if (one_in(g, 2))
            p[2] ^= (uint8_t)(1u << below(g, 8));
    }
    put(e, 0x62);
    for (unsigned k = 0; k < 3; k++)
        put(e, p[k]);
}

static void put_rex(Gen *g, Bytes *e, const ModRm *m, unsigned low)
{
    const OpRow *r = g->r;
    bool w = r->attr & A_W0 ? 0 : r->attr & A_W1 ? 1 : one_in(g, 3);
    unsigned rex = rex_bits(m, w) | low;
    if (!rex && one_in(g, 4)) /* SPL for AH and so on */
        rex = 0x40;
    if (!m->there && one_in(g, 8))
        rex |= below(g, 8); /* ignored bits */
    if (!rex)
        return;
    put(e, 0x40 | rex);
    if (g->odd && one_in(g, 16)) /* a REX that does not count: a prefix follows */
        put(e, 0x3e);
}

static void put_opcode(Bytes *e, const OpRow *r, unsigned opcode)
{
    if (r->map == MAP_0F || r->map == MAP_0F38 || r->map == MAP_0F3A)
        put(e, 0x0f);
    if (r->map == MAP_0F38)
        put(e, 0x38);
    if (r->map == MAP_0F3A)
        put(e, 0x3a);
    put(e, opcode);
}

void gen_decode(Gen *g)
{
    decode(&g->i, g->c->insn, 15, case_decode_mode(g->c), case_features());
}

void gen_put_imm(Gen *g, unsigned at, uint64_t v, unsigned n)
{
    if (g->imm_at + at + n > sizeof(g->c->insn))
        return;
    memcpy(g->c->insn + g->imm_at + at, &v, n);
    gen_decode(g);
}

bool gen_insn(Gen *g)
{
    const OpRow *r = g->r;
    Bytes e = {.n = 0};
    ModRm m = {0};
    bool cs32 = g->c->in.seg[CS].attr & SEG_DB, vex = r->map >= MAP_VEX0F;
    bool p67 = one_in(g, 8);
    unsigned asize = g->code64 ? (p67 ? 4 : 8) : cs32 != p67 ? 4 : 2;
    if (has_modrm(r))
        draw_modrm(g, &m, asize);
    if (p67 && !p67_matters(r, &m) && !one_in(g, 4)) {
        p67 = false;
        asize = g->code64 ? 8 : cs32 ? 4 : 2;
    }
    put_prefixes(g, &e, &m, p67, vex);
    unsigned opcode = r->opcode;
    if (row_has_class(r, OC_OPREG)) {
        unsigned reg = below(g, g->code64 ? 16 : 8);
        opcode += reg & 7;
        m.rm = reg & 8;
    }
    if (is_evex_map(r->map))
        put_evex(g, &e, &m);
    else if (vex)
        put_vex(g, &e, &m);
    else if (g->code64)
        put_rex(g, &e, &m, 0);
    put_opcode(&e, r, opcode);
    put_modrm(g, &e, &m, asize);
    g->imm_at = (uint8_t)e.n;
    if (e.n > 15)
        return false;
    put_random(g, &e, 8);
    put_random(g, &e, 8);
    DiffCase *c = g->c;
    memset(c->insn, 0, sizeof(c->insn));
    memcpy(c->insn, e.b, e.n < 15 ? e.n : 15);
    DecodeResult res = decode(&g->i, c->insn, 15, case_decode_mode(c), case_features());
    if (res == DECODE_OK && &op_rows[g->i.row] != r)
        return false;
    if (res == DECODE_MORE || (res != DECODE_OK && !g->odd))
        return false;
    c->len = res == DECODE_OK ? g->i.len : 15;
    if (res == DECODE_UD) /* how long it would be does not matter, but all of it should be there */
        c->len = (uint8_t)(g->imm_at < 14 ? g->imm_at + 1 : 15);
    memset(c->insn + c->len, 0, sizeof(c->insn) - c->len);
    return true;
}
