/*
 * decode() of what has been decoded before, but for its operands.
 *
 * Booting decodes 300,000 instructions of 64-bit code, in some hundred forms: a form is what the
 * opcode, ModRM's reg field and whether it is memory, and the prefixes 66, F3 and REX.W say.
 * decode() finds the row of a form, and all that follows from it, once; from then on only what
 * differs between instructions of one form is read: registers, address, immediate, segment.
 *
 * Forms whose row depends on more (an exact third byte, REX.B), that have more than one immediate
 * or operands of other classes than the common ones are left to decode(), as is all that has
 * another prefix, VEX or EVEX, and all that is undefined.
 */
#include "tcg/decode.h"

#define OPCODES 512u /* of maps 1B and 0F */

/* What decides the form, as an index; those that have no ModRM byte have 0 for its bits. */
static unsigned form_of(unsigned opcode, unsigned modrm, bool w, bool p66, bool f3)
{
    return opcode << 7 | (modrm >> 3 & 7) << 4 | (modrm < 0xc0) << 3 | w << 2 | p66 << 1 | f3;
}

struct DecodeKnown {
    unsigned mode; /* that all are for: of enum DecodeMode, what matters to 64-bit code */
    unsigned n;
    uint16_t form[OPCODES << 7]; /* index in known[], plus 1; 0: not known, or not to be */
    struct Known {
        Insn i;
        uint8_t imm; /* bytes */
        bool modrm, byte_reg, byte_rm, opreg, unsigned_imm, relative;
    } known[1024];
};

DecodeKnown *decode_known_new(void)
{
    decode_rows_ready();
    return g_try_new0(DecodeKnown, 1);
}

/* Does the row of an instruction with this opcode depend on what no form has? */
static bool rows_are_plain(unsigned map, unsigned opcode)
{
    unsigned n;
    const uint16_t *row = decode_rows(map, opcode, &n);
    for (unsigned k = 0; k < n; k++)
        if ((op_rows[row[k]].modrm & X_RM) || (op_rows[row[k]].attr & A_NOB))
            return false;
    return true;
}

/* i, just decoded, says what there is to know of its form; false: not enough. */
static bool learn(struct Known *k, const Insn *i, unsigned map, unsigned opcode)
{
    const OpRow *r = &op_rows[i->row];
    *k = (struct Known){.i = *i, .modrm = decode_row_has_modrm(r)};
    unsigned imms = 0;
    for (unsigned o = 0; o < 4; o++) {
        unsigned cls = operand_info[r->op[o]].cls, size = operand_info[r->op[o]].size;
        switch (cls) {
        case OC_NONE:
        case OC_FIXED:
        case OC_STRING:
        case OC_MEM:
        case OC_VREG:
        case OC_VRM:
        case OC_VRMREG:
            break;
        case OC_REG:
            k->byte_reg = size == 1;
            break;
        case OC_OPREG:
            k->opreg = true;
            k->byte_reg = size == 1;
            break;
        case OC_RM:
        case OC_RMREG:
            k->byte_rm = size == 1;
            break;
        case OC_IMM:
            k->unsigned_imm = true;
            k->imm = size ? size : 1;
            imms++;
            break;
        case OC_REL:
        case OC_SIMM:
            k->relative = cls == OC_REL;
            k->imm = size;
            imms++;
            break;
        case OC_RELZ:
        case OC_IMMZ:
            k->relative = cls == OC_RELZ;
            k->imm = i->opsize == 2 ? 2 : 4;
            imms++;
            break;
        case OC_IMMV:
            k->imm = i->opsize;
            imms++;
            break;
        default:
            return false;
        }
    }
    return imms <= 1 && rows_are_plain(map, opcode);
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline int64_t signed_of(uint64_t v, unsigned size)
{
    return size ? (int64_t)(v << (64 - 8 * size)) >> (64 - 8 * size) : 0;
}

/* ModRM's memory forms of 64-bit code, from ModRM at p on; behind them. */
static const uint8_t *memory(Insn *i, const uint8_t *p, unsigned rex)
{
    unsigned modrm = *p++, mod = modrm >> 6, rm = modrm & 7;
    unsigned disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    i->index = GPR_ZERO;
    i->scale = 0;
    if (rm == 4) {
        unsigned sib = *p++, index = (sib >> 3 & 7) | (rex & 2) << 2;
        if (index != 4) {
            i->index = (uint8_t)index;
            i->scale = (uint8_t)(sib >> 6);
        }
        rm = sib & 7;
        i->base = (uint8_t)(rm | (rex & 1) << 3);
        if (rm == 5 && mod == 0) {
            i->base = GPR_ZERO;
            disp = 4;
        }
    } else if (rm == 5 && mod == 0) {
        i->base = GPR_IP;
        disp = 4;
    } else {
        i->base = (uint8_t)(rm | (rex & 1) << 3);
    }
    i->dseg = i->base == RSP || i->base == RBP ? SS : DS;
    i->disp = disp == 1 ? (int8_t)*p : disp ? (int32_t)load64(p) : 0;
    return p + disp;
}

/* An instruction that may be of a form that can be known. */
typedef struct Head {
    uint16_t *form; /* in DecodeKnown.form[] */
    unsigned map, op, op_at;
} Head;

/* The instruction's length, or 0 when its form is not known; h->form: NULL if it never is. */
static inline unsigned known(DecodeKnown *d, Insn *i, const uint8_t *bytes, Head *h)
{
    const uint8_t *p = bytes;
    unsigned rex = 0, seg = 0, map = MAP_1B;
    bool p66 = false, f3 = false;
    h->form = NULL;
    for (;; p++) {
        if (*p == 0x66)
            p66 = true;
        else if (*p == 0xf3)
            f3 = true;
        else if (*p == 0x64 || *p == 0x65)
            seg = *p - 0x60u;
        else
            break;
        if (p == bytes + 3)
            return 0;
    }
    if ((*p & 0xf0) == 0x40)
        rex = *p++;
    unsigned op = *p++;
    if (op == 0x0f) {
        map = MAP_0F;
        op = *p++;
        if (op == 0x38 || op == 0x3a)
            return 0;
    } else if (op == 0xc4 || op == 0xc5 || op == 0x62) {
        return 0;
    }
    unsigned modrm = decode_needs_modrm[map][op] ? *p : 0xc0;
    unsigned form = form_of((map == MAP_0F) << 8 | op, modrm, rex & 8, p66, f3);
    *h = (Head){&d->form[form], map, op, (unsigned)(p - 1 - bytes)};
    if (!*h->form)
        return 0;
    const struct Known *k = &d->known[*h->form - 1u];
    *i = k->i;
    i->op_at = (uint8_t)h->op_at;
    i->flags = (uint8_t)((i->flags & ~IF_REX) | (rex ? IF_REX : 0));
    unsigned reg = 0, rm = 0;
    i->dseg = DS;
    if (k->modrm) {
        i->modrm = (uint8_t)modrm;
        reg = (modrm >> 3 & 7) | (rex & 4) << 1;
        rm = (modrm & 7) | (rex & 1) << 3;
        p = i->flags & IF_MEM ? memory(i, p, rex) : p + 1;
    }
    if (k->opreg)
        reg = (op & 7) | (rex & 1) << 3;
    i->reg = k->byte_reg ? reg8_offset(reg, rex) : (uint8_t)reg;
    i->rm = k->byte_rm ? reg8_offset(rm, rex) : (uint8_t)rm;
    if (seg) {
        i->dseg = i->seg = (uint8_t)seg;
        i->flags &= (uint8_t)~IF_FLAT;
    }
    if (k->imm) {
        uint64_t v = load64(p);
        i->imm = signed_of(v, k->imm);
        if (k->unsigned_imm && k->imm < 8)
            i->imm = (int64_t)(v & ((1ull << 8 * k->imm) - 1));
        p += k->imm;
        if (k->relative)
            i->disp = i->imm;
    }
    unsigned len = (unsigned)(p - bytes);
    i->len = (uint8_t)len;
    i->end = (uint16_t)len;
    if (i->base == GPR_IP)
        i->disp += len;
    return len;
}

DecodeResult decode_known(DecodeKnown *d, Insn *i, const uint8_t bytes[DECODE_ROOM], unsigned mode,
                          const uint8_t features[])
{
    const unsigned matters = DM_CODE64 | DM_PROT | DM_AMD;
    if (!(mode & DM_CODE64))
        return decode(i, bytes, 15, mode, features);
    if (unlikely((mode & matters) != d->mode)) {
        memset(d, 0, sizeof(*d));
        d->mode = mode & matters;
    }
    Head h;
    unsigned len = known(d, i, bytes, &h);
    if (likely(len && len <= 15))
        return DECODE_OK;
    DecodeResult res = decode(i, bytes, 15, mode, features);
    /* Another opcode: there were other prefixes before it. */
    if (res == DECODE_OK && h.form && !*h.form && h.op_at == i->op_at && i->dseg < FS &&
        d->n < ARRAY_LEN(d->known) && learn(&d->known[d->n], i, h.map, h.op))
        *h.form = (uint16_t)++d->n;
    return res;
}
