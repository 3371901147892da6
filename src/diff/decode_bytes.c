/*
 * Bytes for decoders. Case n of a seed is the same everywhere.
 *
 * Seven of eight cases start from a row of ops.def, one after the other, so that each is met: some
 * legacy prefixes (also repeated, and in orders nobody writes), REX before or among them, the
 * row's mandatory prefix, escape bytes or VEX, the opcode, a ModRM that mostly fits the row, and
 * random bytes as SIB, displacement and immediates. The eighth is random bytes.
 */
#include <string.h>

#include "diff/decode.h"

typedef struct Rng {
    uint64_t s;
} Rng;

static uint64_t next(Rng *r)
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool one_in(Rng *r, unsigned n)
{
    return next(r) % n == 0;
}

/* Legacy prefixes: often none, now and then many. */
static uint8_t *legacy(Rng *r, uint8_t *p, bool vex)
{
    static const uint8_t pick[] = {0x66, 0x66, 0x67, 0x67, 0xf0, 0xf2, 0xf3,
                                   0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    static const uint8_t harmless[] = {0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    unsigned n = one_in(r, 2) ? 0 : one_in(r, 8) ? (unsigned)next(r) % 5 : 1 + (next(r) & 1);
    while (n--) /* before VEX most of the others are #UD: not each time */
        *p++ = vex && !one_in(r, 4) ? harmless[next(r) % sizeof(harmless)]
                                    : pick[next(r) % sizeof(pick)];
    return p;
}

static uint8_t *vex_opcode(Rng *r, uint8_t *p, const OpRow *row, enum DecMode mode)
{
    static const uint8_t pp[] = {
        [PFX_ANY] = 0, [PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    unsigned l = row->attr & A_VEXL0 ? 0 : row->attr & A_VEXL1 ? 1 : next(r) & 1;
    unsigned w = row->attr & A_W0 ? 0 : row->attr & A_W1 ? 1 : next(r) & 1;
    unsigned vvvv = row->attr & A_NOV ? 15 : next(r) & 15;
    unsigned rxb = dec_code64(mode) ? next(r) & 7 : 7; /* inverted, as encoded */
    if (one_in(r, 16)) {                               /* what the row does not allow */
        l = next(r) & 1;
        w = next(r) & 1;
        vvvv = next(r) & 15;
    }
    if (!dec_code64(mode) && one_in(r, 16))
        rxb = 6 | (next(r) & 1); /* with R or X clear it would be LES */
    uint8_t last = (uint8_t)(vvvv << 3 | l << 2 | pp[row->pfx]);
    if (row->map == MAP_VEX0F && !w && (rxb & 3) == 3 && (next(r) & 1)) {
        *p++ = 0xc5;
        *p++ = (uint8_t)((rxb & 4) << 5 | last);
    } else {
        *p++ = 0xc4;
        *p++ = (uint8_t)(rxb << 5 | (unsigned)(row->map - MAP_VEX0F + 1));
        *p++ = (uint8_t)(w << 7 | last);
    }
    return p;
}

static uint8_t *evex_opcode(Rng *r, uint8_t *p, const OpRow *row, enum DecMode mode)
{
    static const uint8_t pp[] = {
        [PFX_ANY] = 0, [PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    const EvexRow *e = &row->evex;
    unsigned w = row->attr & A_W0 ? 0 : row->attr & A_W1 ? 0x80 : next(r) & 0x80;
    unsigned l = e->vl == VL_128   ? 0
                 : e->vl == VL_256 ? 1 + (next(r) & 1)
                 : e->vl == VL_512 ? 2
                                   : (unsigned)(next(r) % 3);
    bool plain = next(r) & 1; /* nothing in it that a row may refuse */
    unsigned aaa = e->flags & EV_NOK ? 0 : next(r) & 7, wild = one_in(r, 8) ? 0xff : 0;
    unsigned vvvv = plain ? 15 : next(r) & 15, zb = !plain && one_in(r, 3) ? next(r) & 0x90 : 0;
    *p++ = 0x62;
    *p++ = (uint8_t)((dec_code64(mode) ? plain ? 0xf0 : next(r) & 0xf0 : 0xd0 | (next(r) & 0x20)) |
                     (unsigned)(row->map - MAP_EVEX0F + 1));
    *p++ = (uint8_t)(w | vvvv << 3 | 4 | pp[row->pfx]);
    *p++ = (uint8_t)((l << 5 | (!plain && one_in(r, 4) ? 0 : 8) | aaa | zb) ^ (next(r) & wild));
    return p;
}

static uint8_t *plain_opcode(Rng *r, uint8_t *p, const OpRow *row, enum DecMode mode)
{
    if (row->pfx == PFX_66)
        *p++ = 0x66;
    if (row->pfx == PFX_F3)
        *p++ = 0xf3;
    if (row->pfx == PFX_F2)
        *p++ = 0xf2;
    if (dec_code64(mode) && ((row->attr & A_W1) || (next(r) & 1))) {
        unsigned w = row->attr & A_W1 ? 8 : row->attr & A_W0 ? 0 : next(r) & 8;
        *p++ = (uint8_t)(0x40 | w | (next(r) & 7));
    }
    if (row->map != MAP_1B)
        *p++ = 0x0f;
    if (row->map == MAP_0F38)
        *p++ = 0x38;
    if (row->map == MAP_0F3A)
        *p++ = 0x3a;
    return p;
}

static void fit_modrm(Rng *r, uint8_t *modrm, const OpRow *row)
{
    if (one_in(r, 32))
        return;
    if (row->modrm & 8)
        *modrm = (uint8_t)((*modrm & ~0x38) | (row->modrm & 7) << 3);
    if (row->modrm & X_REG)
        *modrm |= 0xc0;
    if ((row->modrm & X_MEM) && *modrm >= 0xc0)
        *modrm = (uint8_t)((*modrm & 0x3f) | (next(r) % 3) << 6);
    if (row->modrm & X_RM)
        *modrm = (uint8_t)((*modrm & ~7) | row->modrm >> 8);
}

/* Displacements and immediates of random bytes are seldom at an edge. */
static void edges(Rng *r, uint8_t *p, uint8_t *end)
{
    static const uint8_t edge[] = {0x00, 0xff, 0x7f, 0x80};
    for (; p < end; p++)
        if (one_in(r, 3))
            *p = edge[next(r) & 3];
}

int decode_bytes(uint64_t seed, uint64_t index, enum DecMode mode, uint8_t out[DECODE_BYTES])
{
    Rng r = {seed ^ index * 0xd1342543de82ef95ull};
    uint8_t b[48], *p = b;
    for (unsigned k = 0; k < sizeof(b); k += 8) {
        uint64_t v = next(&r);
        memcpy(b + k, &v, 8);
    }
    if (index % 8 == 7) {
        if (one_in(&r, 2))
            b[0] = 0x0f;
        memcpy(out, b, DECODE_BYTES);
        return -1;
    }
    unsigned n = (unsigned)((index - index / 8) % op_rows_n);
    const OpRow *row = &op_rows[n];
    bool vex = row->map >= MAP_VEX0F;
    if (dec_code64(mode) && one_in(&r, 16))
        *p++ = (uint8_t)(0x40 | (next(&r) & 15)); /* a REX that a prefix or VEX follows */
    p = legacy(&r, p, vex);
    p = is_evex_map(row->map) ? evex_opcode(&r, p, row, mode)
        : vex                 ? vex_opcode(&r, p, row, mode)
                              : plain_opcode(&r, p, row, mode);
    *p++ = row->opcode;
    if (row->op[0] && row->modrm == 0 && one_in(&r, 8))
        p[-1] = (uint8_t)(row->opcode ^ (next(&r) & 7)); /* opcode registers, and neighbours */
    fit_modrm(&r, p, row);
    if (one_in(&r, 2))
        edges(&r, p + 2, b + sizeof(b));
    memcpy(out, b, DECODE_BYTES);
    return (int)n;
}
