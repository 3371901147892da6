/*
 * Bytes to Insn (SDM vol. 2, chapter 2), by the rows of ops.def.
 *
 * At start-up the rows are sorted into lists by map and opcode. Decoding reads prefixes, finds the
 * list, takes the first row that fits (prefix, ModRM, mode, features) and lets the row's operands
 * say what else follows.
 */
#include "tcg/decode.h"

#include <pthread.h>

uint8_t decode_needs_modrm[MAP_N][256];
static uint16_t *row_list;             /* row numbers, grouped by (map, opcode) */
static uint16_t row_first[MAP_N][256]; /* where a group starts in row_list */
static uint8_t row_count[MAP_N][256];
static pthread_once_t rows_once = PTHREAD_ONCE_INIT;

bool decode_row_has_modrm(const OpRow *r)
{
    if (r->modrm)
        return true;
    for (unsigned k = 0; k < 4; k++) {
        switch (operand_info[r->op[k]].cls) {
        case OC_RM:
        case OC_REG:
        case OC_MEM:
        case OC_SREG:
        case OC_CREG:
        case OC_DREG:
        case OC_MMREG:
        case OC_MMRM:
        case OC_VREG:
        case OC_VRM:
        case OC_RMREG:
        case OC_VRMREG:
        case OC_MMRMREG:
        case OC_KREG:
        case OC_KRM:
        case OC_KRMREG:
            return true;
        default:
            break;
        }
    }
    return false;
}

static unsigned row_span(const OpRow *r)
{
    for (unsigned k = 0; k < 4; k++)
        if (operand_info[r->op[k]].cls == OC_OPREG)
            return 8;
    return 1;
}

static void rows_index(void)
{
    unsigned total = 0;
    for (unsigned r = 0; r < op_rows_n; r++) {
        for (unsigned o = 0; o < row_span(&op_rows[r]); o++) {
            row_count[op_rows[r].map][op_rows[r].opcode + o]++;
            total++;
        }
    }
    row_list = g_new(uint16_t, total + 1);
    unsigned at = 0;
    for (unsigned m = 0; m < MAP_N; m++) {
        for (unsigned o = 0; o < 256; o++) {
            row_first[m][o] = (uint16_t)at;
            at += row_count[m][o];
            row_count[m][o] = 0;
        }
    }
    for (unsigned r = 0; r < op_rows_n; r++) {
        const OpRow *row = &op_rows[r];
        for (unsigned o = row->opcode; o < row->opcode + row_span(row); o++) {
            row_list[row_first[row->map][o] + row_count[row->map][o]++] = (uint16_t)r;
            decode_needs_modrm[row->map][o] |= decode_row_has_modrm(row);
        }
    }
}

void decode_rows_ready(void)
{
    pthread_once(&rows_once, rows_index);
}

const uint16_t *decode_rows(unsigned map, unsigned opcode, unsigned *n)
{
    *n = row_count[map][opcode];
    return &row_list[row_first[map][opcode]];
}

typedef struct Cursor {
    const uint8_t *b;
    unsigned pos, n;
    bool p66, p67, lock, vex;
    uint8_t rep;                 /* the last of F2/F3, or 0 */
    uint8_t rex;                 /* 0x40-0x4f, or 0; made up from VEX too */
    bool vvvv;                   /* VEX.vvvv is not 1111 */
    bool evex;                   /* `vex` too */
    uint8_t reg_high, vvvv_high; /* 16: EVEX.R', EVEX.V' */
    int seg;                     /* override, or -1 */
} Cursor;

static inline DecodeResult out_of_bytes(const Cursor *c)
{
    return c->n == 15 ? DECODE_TOO_LONG : DECODE_MORE;
}

static bool fetch(Cursor *c, unsigned size, uint64_t *v)
{
    if (c->pos + size > c->n)
        return false;
    *v = 0;
    memcpy(v, c->b + c->pos, size);
    c->pos += size;
    return true;
}

static int64_t sign_extend(uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        return (int8_t)v;
    case 2:
        return (int16_t)v;
    case 4:
        return (int32_t)v;
    default:
        return (int64_t)v;
    }
}

/* Legacy and REX prefixes. A REX counts only right before the opcode. */
static bool prefixes(Cursor *c, bool code64)
{
    for (;;) {
        if (c->pos >= c->n)
            return false;
        uint8_t b = c->b[c->pos];
        switch (b) {
        case 0x66:
            c->p66 = true;
            break;
        case 0x67:
            c->p67 = true;
            break;
        case 0xf0:
            c->lock = true;
            break;
        case 0xf2:
        case 0xf3:
            c->rep = b;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            /* Ignored in 64-bit mode, but they do not undo an earlier FS or GS there. */
            if (!code64)
                c->seg = (b >> 3) & 3;
            break;
        case 0x64:
        case 0x65:
            c->seg = b - 0x60;
            break;
        default:
            if (!code64 || (b & 0xf0) != 0x40)
                return true;
            c->rex = b;
            c->pos++;
            continue;
        }
        c->rex = 0;
        c->pos++;
    }
}

/* VEX prefix: at C4 or C5, known not to be LES/LDS. Sets map, pp, W, L, vvvv. */
static DecodeResult vex_prefix(Cursor *c, Insn *i, bool code64, unsigned *map)
{
    if (c->p66 || c->rep || c->lock || c->rex) {
        c->pos += code64 ? 1 : 2; /* what told VEX from LES and LDS */
        return DECODE_UD;
    }
    uint64_t first, p1, p2;
    fetch(c, 1, &first);
    if (!fetch(c, 1, &p1))
        return out_of_bytes(c);
    unsigned rex = 0x40;
    if (first == 0xc5) {
        rex |= p1 & 0x80 ? 0 : 4;
        p2 = p1 & 0x7f;
        *map = MAP_VEX0F;
    } else {
        if (!fetch(c, 1, &p2))
            return out_of_bytes(c);
        rex |= ~p1 >> 5 & 7;
        if (p2 & 0x80)
            rex |= 8;
        switch (p1 & 0x1f) {
        case 1:
            *map = MAP_VEX0F;
            break;
        case 2:
            *map = MAP_VEX0F38;
            break;
        case 3:
            *map = MAP_VEX0F3A;
            break;
        default:
            return DECODE_UD;
        }
    }
    static const uint8_t pp[4] = {PFX_NP, PFX_66, PFX_F3, PFX_F2};
    i->pfx = pp[p2 & 3];
    i->vexl = p2 >> 2 & 1;
    /* Outside 64-bit mode its highest bit selects nothing, but where the field must be 1111 it
     * counts. */
    c->vvvv = ~p2 >> 3 & 15;
    i->vvvv = ~p2 >> 3 & (code64 ? 15 : 7);
    c->rex = code64 ? (uint8_t)rex : 0;
    i->rexw = rex >> 3 & 1;
    c->vex = true;
    return DECODE_OK;
}

/* EVEX prefix: at 62, known not to be BOUND. Sets map, pp, W, vvvv and the high register bits. */
static DecodeResult evex_prefix(Cursor *c, Insn *i, bool code64, unsigned *map)
{
    uint64_t first, p0, p1, p2;
    if (c->p66 || c->rep || c->lock || c->rex) {
        c->pos += code64 ? 1 : 2;
        return DECODE_UD;
    }
    fetch(c, 1, &first);
    if (!fetch(c, 1, &p0) || !fetch(c, 1, &p1) || !fetch(c, 1, &p2))
        return out_of_bytes(c);
    if ((p0 & 0x08) || !(p1 & 0x04) || (p0 & 7) < 1 || (p0 & 7) > 3)
        return DECODE_UD;
    static const uint8_t pp[4] = {PFX_NP, PFX_66, PFX_F3, PFX_F2};
    *map = MAP_EVEX0F - 1 + (unsigned)(p0 & 7);
    i->pfx = pp[p1 & 3];
    i->evex = (uint8_t)p2;
    i->rexw = p1 >> 7 & 1;
    c->vvvv = ~p1 >> 3 & 15;
    i->vvvv = ~p1 >> 3 & (code64 ? 15 : 7);
    if (code64) {
        c->rex = (uint8_t)(0x40 | (~p0 >> 5 & 7) | (p1 & 0x80) >> 4);
        c->reg_high = p0 & 0x10 ? 0 : 16;
    }
    c->vvvv_high = p2 & 0x08 || !code64 ? 0 : 16;
    c->vex = c->evex = true;
    return DECODE_OK;
}

static bool evex_broadcasts(const OpRow *r)
{
    return r->evex.tuple == TT_FV || r->evex.tuple == TT_HV;
}

/* EVEX.b with a register: is L'L the rounding, or nothing, and the length 512? */
static bool evex_rounds(const OpRow *r, const Insn *i)
{
    return (i->evex & EVEX_B) && i->modrm >= 0xc0 && (r->evex.flags & (EV_ER | EV_SAE | EV_B));
}

static bool evex_fits(const OpRow *r, const Insn *i, const Cursor *c, unsigned mode,
                      const uint8_t features[])
{
    const EvexRow *e = &r->evex;
    bool mem = i->modrm < 0xc0, has_vvvv = false, amd = mode & DM_AMD;
    bool broadcast = evex_broadcasts(r);
    unsigned length = i->evex >> EVEX_LL_SHIFT & 3, first = operand_info[r->op[0]].cls;
    /* AMD lets b pass with a register where there is a broadcast, and z where there is no mask. */
    if ((i->evex & EVEX_B) &&
        !(mem ? broadcast : (e->flags & (EV_ER | EV_SAE | EV_B)) || (amd && broadcast)))
        return false;
    if (evex_rounds(r, i))
        length = 2;
    else if (length == 3)
        return false;
    bool fits = e->vl == VL_128   ? length == 0
                : e->vl == VL_256 ? length > 0
                : e->vl == VL_512 ? length == 2
                                  : true;
    if (!fits || !features[FEAT_AVX512F] ||
        ((e->vl == VL_ANY || e->vl == VL_256) && length < 2 && !features[FEAT_AVX512VL]))
        return false;
    if (i->evex & EVEX_AAA ? e->flags & EV_NOK : e->flags & EV_VSIB)
        return false;
    bool zeroes =
        first == OC_VREG || first == OC_VVVV || (first == OC_VRM && !mem) || first == OC_VRMREG;
    bool ignores_z = amd && (e->flags & EV_NOK) &&
                     (zeroes || first == OC_REG || first == OC_RMREG || (first == OC_RM && !mem));
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[r->op[k]].cls;
        has_vvvv |= cls == OC_VVVV;
        ignores_z &= cls != OC_KRMREG;
        if ((cls == OC_KREG && ((c->rex & 4) || c->reg_high)) || (cls == OC_REG && c->reg_high))
            return false;
    }
    if ((i->evex & EVEX_Z) && !ignores_z &&
        (!zeroes || !(i->evex & EVEX_AAA) || (e->flags & EV_VSIB)))
        return false;
    return has_vvvv || (!c->vvvv && (!c->vvvv_high || (e->flags & EV_VSIB)));
}

/* What an 8-bit displacement is multiplied by. */
static unsigned evex_scale(const OpRow *r, const Insn *i)
{
    static const uint8_t count[] = {[TT_T1S] = 1, [TT_T2] = 2, [TT_T4] = 4, [TT_T8] = 8};
    unsigned el = r->evex.element, length = 16u << i->vexl;
    if (i->evex & EVEX_B)
        return el;
    switch (r->evex.tuple) {
    case TT_FV:
    case TT_FVM:
        return length;
    case TT_HV:
    case TT_HVM:
        return length / 2;
    case TT_QVM:
        return length / 4;
    case TT_OVM:
        return length / 8;
    case TT_DUP:
        return i->vexl ? length : 8;
    case TT_M128:
        return 16;
    case TT_NONE:
        return 1;
    default:
        if (!el)
            el = i->rexw && (i->flags & IF_CODE64) ? 8 : 4;
        return count[r->evex.tuple] * el;
    }
}

static bool row_fits(const OpRow *r, const Insn *i, const Cursor *c, unsigned mode,
                     const uint8_t features[])
{
    bool code64 = mode & DM_CODE64;
    if ((r->pfx != PFX_ANY && r->pfx != i->pfx) || (code64 && (r->attr & A_I64)) ||
        (!code64 && (r->attr & A_O64)) || ((r->attr & A_PROT) && !(mode & DM_PROT)))
        return false;
    if (r->feature < FEAT_N && !features[r->feature])
        return false;
    if (decode_row_has_modrm(r)) {
        unsigned reg = i->modrm >> 3 & 7, rm = i->modrm & 7;
        bool is_reg = i->modrm >= 0xc0;
        if (((r->modrm & 8) && (r->modrm & 7) != reg) || ((r->modrm & X_MEM) && is_reg) ||
            ((r->modrm & X_REG) && !is_reg) || ((r->modrm & X_RM) && r->modrm >> 8 != rm))
            return false;
        for (unsigned k = 0; k < 4; k++) {
            unsigned cls = operand_info[r->op[k]].cls;
            if (cls == OC_MEM && is_reg)
                return false;
            if ((cls == OC_RMREG || cls == OC_VRMREG || cls == OC_MMRMREG || cls == OC_KRMREG) &&
                !is_reg)
                return false;
        }
    }
    if (c->evex && !evex_fits(r, i, c, mode, features))
        return false;
    /* VPEXTRQ and VPINSRQ, which only 64-bit mode has. */
    if (c->vex && !code64 && i->rexw && r->map == MAP_VEX0F3A &&
        (r->opcode == 0x16 || r->opcode == 0x22))
        return false;
    if (c->vex && !c->evex) {
        if (((r->attr & A_VEXL0) && i->vexl) || ((r->attr & A_VEXL1) && !i->vexl) ||
            ((r->attr & A_NOV) && c->vvvv))
            return false;
    }
    /* AMD takes VPERMQ and VPERMPD with W = 0 too. */
    bool any_w = (mode & DM_AMD) && r->map == MAP_VEX0F3A && r->opcode < 2;
    return !((r->attr & A_W0) && i->rexw) && !((r->attr & A_W1) && !i->rexw && !any_w) &&
           !((r->attr & A_NOB) && (c->rex & 1));
}

static void operand_size(Insn *i, const OpRow *r, const Cursor *c, unsigned mode)
{
    bool p66 = c->p66 && !(r->attr & (A_NO66 | A_NO16)) && r->pfx != PFX_66;
    if (r->attr & A_BYTE)
        i->opsize = 1;
    else if (mode & DM_CODE64)
        i->opsize = i->rexw                                          ? 8
                    : p66 && (!(r->attr & A_F64) || (mode & DM_AMD)) ? 2
                    : r->attr & (A_D64 | A_F64)                      ? 8
                                                                     : 4;
    else if (c->vex || (r->attr & A_NO16))
        i->opsize = 4;
    else
        i->opsize = !!(mode & DM_CS32) != p66 ? 4 : 2;
}

/* ModRM's memory forms (SDM vol. 2, tables 2-1 to 2-3). */
static bool memory_operand(Insn *i, Cursor *c, unsigned *default_seg)
{
    unsigned mod = i->modrm >> 6, rm = i->modrm & 7, disp = 0;
    uint64_t v = 0;
    *default_seg = DS;
    if (i->asize == 2) {
        static const uint8_t base[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
        static const uint8_t index[8] = {RSI,      RDI,      RSI,      RDI,
                                         GPR_ZERO, GPR_ZERO, GPR_ZERO, GPR_ZERO};
        i->base = base[rm];
        i->index = index[rm];
        disp = mod; /* bytes */
        if (mod == 0 && rm == 6) {
            i->base = GPR_ZERO;
            disp = 2;
        } else if (i->base == RBP) {
            *default_seg = SS;
        }
    } else {
        disp = mod == 1 ? 1 : mod == 2 ? 4 : 0;
        if (rm == 4) {
            uint64_t sib;
            if (!fetch(c, 1, &sib))
                return false;
            unsigned index = (sib >> 3 & 7) | (c->rex & 2) << 2;
            i->index = index == 4 ? GPR_ZERO : (uint8_t)index;
            i->scale = index == 4 ? 0 : sib >> 6 & 3;
            i->base = (sib & 7) | (c->rex & 1) << 3;
            if ((sib & 7) == 5 && mod == 0) {
                i->base = GPR_ZERO;
                disp = 4;
            }
        } else if (rm == 5 && mod == 0) {
            i->base = i->flags & IF_CODE64 ? GPR_IP : GPR_ZERO;
            disp = 4;
        } else {
            i->base = rm | (c->rex & 1) << 3;
        }
        if (i->base == RSP || i->base == RBP)
            *default_seg = SS;
    }
    if (disp && !fetch(c, disp, &v))
        return false;
    i->disp = sign_extend(v, disp ? disp : 8);
    return true;
}

/* A row with A_CPL0: its handler is in aux. */
static Fault exec_cpl0(CpuState *s, Tcg *t, const Insn *i)
{
    if (t->cpl)
        return raise_gp0(t);
    return ((ExecFn *)i->aux)(s, t, i);
}

static bool row_immediates(Insn *i, Cursor *c, const OpRow *r)
{
    unsigned n_imm = 0;
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[r->op[k]].cls, size = operand_info[r->op[k]].size;
        bool is_signed = true;
        switch (cls) {
        case OC_IMM:
        case OC_IS4:
            is_signed = false;
            size = size ? size : 1;
            break;
        case OC_SIMM:
        case OC_REL:
            break;
        case OC_IMMZ:
        case OC_RELZ:
            size = i->opsize == 2 ? 2 : 4;
            break;
        case OC_IMMV:
            size = i->opsize;
            break;
        case OC_MOFFS:
            size = i->asize;
            is_signed = false;
            break;
        case OC_FARPTR: {
            uint64_t off, sel;
            if (!fetch(c, i->opsize == 2 ? 2 : 4, &off) || !fetch(c, 2, &sel))
                return false;
            i->imm = (int64_t)(off | sel << 32);
            continue;
        }
        default:
            continue;
        }
        uint64_t v;
        if (!fetch(c, size, &v))
            return false;
        if (n_imm++)
            i->imm2 = (uint8_t)v;
        else
            i->imm = is_signed ? sign_extend(v, size) : (int64_t)v;
        if (cls == OC_MOFFS)
            i->disp = i->imm;
        if (cls == OC_REL || cls == OC_RELZ) { /* the target, as RIP-relative operands have it */
            i->base = GPR_IP;
            i->disp = i->imm;
        }
    }
    return true;
}

/* Too long comes before undefined: by the length that VEX or EVEX at `at` has without the prefixes
 * before it. */
static bool longer_without(const Cursor *c, unsigned at, unsigned mode, const uint8_t features[])
{
    Insn rest;
    if (!(mode & DM_CODE64) && c->p67)
        mode ^= DM_CS32; /* the form of ModRM depends on it */
    return at > 0 && decode(&rest, c->b + at, c->n - at, mode, features) == DECODE_MORE;
}

DecodeResult decode(Insn *out, const uint8_t *bytes, unsigned n, unsigned mode,
                    const uint8_t features[])
{
    decode_rows_ready();
    bool code64 = mode & DM_CODE64;
    Cursor c = {.b = bytes, .n = MIN_OF(n, 15u), .seg = -1};
    Insn *i = out;
    *i = (Insn){.base = GPR_ZERO, .index = GPR_ZERO};

    if (!prefixes(&c, code64))
        return out_of_bytes(&c);
    i->pfx = c.rep == 0xf3 ? PFX_F3 : c.rep ? PFX_F2 : c.p66 ? PFX_66 : PFX_NP;
    i->rexw = c.rex >> 3 & 1;

    unsigned map = MAP_1B;
    uint64_t op = c.b[c.pos];
    if (op == 0xc4 || op == 0xc5) {
        if (!code64 && c.pos + 1 >= c.n)
            return out_of_bytes(&c);
        if (code64 || ((mode & DM_PROT) && c.b[c.pos + 1] >= 0xc0)) {
            unsigned at = c.pos;
            DecodeResult res = vex_prefix(&c, i, code64, &map);
            if (res == DECODE_UD && longer_without(&c, at, mode, features))
                return out_of_bytes(&c);
            if (res != DECODE_OK) {
                i->len = (uint8_t)c.pos;
                return res;
            }
        }
    }
    if (op == 0x62 && features[FEAT_AVX512F]) {
        if (!code64 && c.pos + 1 >= c.n)
            return out_of_bytes(&c);
        if (code64 || ((mode & DM_PROT) && c.b[c.pos + 1] >= 0xc0)) {
            unsigned at = c.pos;
            DecodeResult res = evex_prefix(&c, i, code64, &map);
            if (res == DECODE_UD && longer_without(&c, at, mode, features))
                return out_of_bytes(&c);
            if (res != DECODE_OK) {
                i->len = (uint8_t)c.pos;
                return res;
            }
        }
    }
    if (!fetch(&c, 1, &op))
        return out_of_bytes(&c);
    if (!c.vex && op == 0x0f) {
        map = MAP_0F;
        if (!fetch(&c, 1, &op))
            return out_of_bytes(&c);
        if (op == 0x38 || op == 0x3a) {
            map = op == 0x38 ? MAP_0F38 : MAP_0F3A;
            if (!fetch(&c, 1, &op))
                return out_of_bytes(&c);
        }
    }
    i->op_at = (uint8_t)(c.pos - 1);
    bool have_modrm = decode_needs_modrm[map][op];
    if (have_modrm) {
        if (c.pos >= c.n)
            return out_of_bytes(&c);
        i->modrm = c.b[c.pos];
    }

    const OpRow *r = NULL;
    for (unsigned k = 0; k < row_count[map][op]; k++) {
        unsigned row = row_list[row_first[map][op] + k];
        if (row_fits(&op_rows[row], i, &c, mode, features)) {
            r = &op_rows[row];
            i->row = (uint16_t)row;
            break;
        }
    }
    if (!r) {
        i->len = (uint8_t)(c.pos + have_modrm);
        return DECODE_UD;
    }

    if (c.evex)
        i->vexl = evex_rounds(r, i) ? 2 : r->evex.vl == VL_LIG ? 0 : i->evex >> EVEX_LL_SHIFT & 3;
    operand_size(i, r, &c, mode);
    bool cs32 = mode & DM_CS32;
    i->asize = code64 ? (c.p67 ? 4 : 8) : cs32 != c.p67 ? 4 : 2;
    i->flags = (code64 ? IF_CODE64 : 0) | (c.rex ? IF_REX : 0) | (c.lock ? IF_LOCK : 0) |
               (c.rep == 0xf3 ? IF_REP
                : c.rep       ? IF_REPNE
                              : 0) |
               (r->attr & A_END ? IF_ENDS : 0);

    unsigned default_seg = DS, reg = 0, rm = 0;
    bool force_reg = false, moffs = false, absent = false;
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_info[r->op[k]].cls;
        force_reg |= cls == OC_CREG || cls == OC_DREG;
        moffs |= cls == OC_MOFFS;
    }
    if (decode_row_has_modrm(r)) {
        c.pos++;
        reg = (i->modrm >> 3 & 7) | (c.rex & 4) << 1;
        rm = (i->modrm & 7) | (c.rex & 1) << 3;
        if (i->modrm < 0xc0 && !force_reg) {
            i->flags |= IF_MEM;
            if (!memory_operand(i, &c, &default_seg))
                return out_of_bytes(&c);
            if (c.evex && i->modrm >> 6 == 1)
                i->disp *= (int64_t)evex_scale(r, i);
        }
    } else {
        i->modrm = 0;
    }
    if (moffs)
        i->flags |= IF_MEM;
    i->reg = (uint8_t)reg;
    i->rm = (uint8_t)rm;
    for (unsigned k = 0; k < 4; k++) {
        unsigned size = operand_info[r->op[k]].size;
        bool byte = size == 1;
        switch (operand_info[r->op[k]].cls) {
        case OC_REG:
            i->reg = byte ? reg8_offset(reg, c.rex) : (uint8_t)reg;
            break;
        case OC_OPREG:
            reg = (op & 7) | (c.rex & 1) << 3;
            i->reg = byte ? reg8_offset(reg, c.rex) : (uint8_t)reg;
            break;
        case OC_RM:
        case OC_RMREG:
            i->rm = byte ? reg8_offset(rm, c.rex) : (uint8_t)rm;
            break;
        case OC_CREG: /* the others are undefined at any privilege */
            if (!(0x11d >> reg & 1))
                absent = true;
            break;
        case OC_DREG:
            absent |= reg > 7;
            break;
        case OC_SREG:
        case OC_MMREG:
            i->reg = reg & 7;
            break;
        case OC_MMRM:
        case OC_MMRMREG:
        case OC_KRM:
        case OC_KRMREG:
            i->rm = rm & 7;
            break;
        case OC_VREG:
            i->reg = (uint8_t)(reg | c.reg_high);
            break;
        case OC_VRM:
        case OC_VRMREG:
            if (c.evex)
                i->rm = (uint8_t)(rm | (c.rex & 2) << 3);
            break;
        case OC_VVVV:
            if (c.evex && code64)
                i->vvvv |= c.vvvv_high;
            break;
        case OC_KREG: /* AMD does not look at what is too much */
            absent |= !(mode & DM_AMD) && reg > 7;
            i->reg = reg & 7;
            break;
        case OC_KVVVV:
            absent |= !(mode & DM_AMD) && i->vvvv > 7;
            i->vvvv &= 7;
            break;
        default:
            break;
        }
    }

    i->dseg = (uint8_t)(c.seg >= 0 ? c.seg : (int)default_seg);
    i->seg = code64 && i->dseg < FS ? SEG_NONE : i->dseg;
    if ((i->flags & IF_MEM) && (code64 ? i->seg == SEG_NONE && i->asize == 8
                                       : (mode & DM_FLAT) && i->asize == 4 &&
                                             (i->seg == DS || i->seg == SS || i->seg == ES)))
        i->flags |= IF_FLAT;

    if (!row_immediates(i, &c, r))
        return out_of_bytes(&c);
    i->len = (uint8_t)c.pos;
    i->end = i->len;
    if (i->base == GPR_IP)
        i->disp += i->len;
    if (absent || (c.lock && !((r->attr & A_LOCK) && (i->flags & IF_MEM))))
        return DECODE_UD;

    unsigned log2 = (unsigned)__builtin_ctz(i->opsize);
    i->exec = r->exec->f[log2][!!(i->flags & IF_MEM)];
    if (!i->exec)
        return DECODE_UD;
    if (r->attr & A_CPL0) {
        i->aux = (void *)i->exec;
        i->exec = exec_cpl0;
    }
    return DECODE_OK;
}
