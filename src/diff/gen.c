/*
 * Cases from numbers: case_generate().
 *
 * The number chooses the row and seeds everything else: mode, bytes, registers, memory. Registers
 * are drawn first, then the row's own needs are met, then the memory operand is given an address
 * and a register or the displacement solved for it.
 */
#include <pthread.h>
#include <string.h>

#include "diff/gen.h"
#include "tcg/tcg.h"
#include "tcg/vec.h"

/* ---- what each row needs ---- */
static const RowGen **gen_of_row;  /* NULL: nothing decodes to it */
static CpuState baseline[CM_N][2]; /* by mode and CPL 0, 3 */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool names_row(const RowGen *how, const OpRow *r)
{
    if (how->cls && !row_has_class(r, how->cls))
        return false;
    char **name = g_strsplit(how->names, strchr(how->names, '|') ? "|" : " ", 0);
    bool found =
        !strcmp(how->names, r->name) || g_strv_contains((const char *const *)name, r->name);
    g_strfreev(name);
    return found;
}

static void prepare(void)
{
    DiffCase *c = g_new(DiffCase, 1);
    gen_of_row = g_new(const RowGen *, op_rows_n);
    for (unsigned k = 0; k < op_rows_n; k++) {
        const RowGen *how = row_gen;
        while (how->names && !names_row(how, &op_rows[k]))
            how++;
        char why[64];
        gen_of_row[k] = case_unreachable((uint16_t)k, why) ? NULL : how;
    }
    for (unsigned m = 0; m < CM_N; m++) {
        for (unsigned cpl = 0; cpl < 2; cpl++) {
            case_baseline(c, (enum CaseMode)m, cpl * 3);
            baseline[m][cpl] = c->in;
        }
    }
    g_free(c);
}

/* ---- mode ---- */
static unsigned row_modes(const OpRow *r, unsigned modes)
{
    const unsigned of_long = BIT(CM_LONG) | BIT(CM_LONG) << 8;
    const unsigned of_real = BIT(CM_VM86) | BIT(CM_REAL) << 8;
    if (r->attr & A_I64)
        modes &= ~of_long;
    if (r->attr & A_O64)
        modes &= of_long;
    if ((r->attr & A_PROT) || r->map >= MAP_VEX0F)
        modes &= ~of_real;
    return modes;
}

/* 64-bit mode first; the others share most of what there is to be wrong. */
static bool draw_mode(Gen *g, unsigned modes)
{
    static const uint8_t weight[CM_N] = {12, 3, 2, 2, 2, 2, 2};
    unsigned all = 0, allowed = row_modes(g->r, modes);
    for (unsigned m = 0; m < 16; m++)
        all += allowed >> m & 1 ? weight[m & 7] : 0;
    if (!all)
        return false;
    unsigned k = below(g, all), m = 0;
    for (;; m++) {
        unsigned w = allowed >> m & 1 ? weight[m & 7] : 0;
        if (k < w)
            break;
        k -= w;
    }
    g->c->mode = m & 7;
    g->c->in = baseline[m & 7][m < 8];
    g->code64 = g->c->mode == CM_LONG;
    return true;
}

/* Other data segments than the baseline's. */
static void draw_segments(Gen *g)
{
    CpuState *s = &g->c->in;
    if (g->code64) {
        for (unsigned k = FS; k <= GS; k++) {
            uint64_t v = rnd(g);
            if (!(v & 3))
                s->seg[k].base = 0;
            else
                s->seg[k].base = v & 4 ? v >> 32 : v & 8 ? v >> 18 : (uint64_t)((int64_t)v >> 17);
        }
        return;
    }
    if (g->c->mode == CM_REAL || g->c->mode == CM_VM86)
        return;
    static const uint8_t seg[] = {DS, ES, FS, GS};
    const CpuState *flat = &baseline[CM_COMPAT32][s->cpl == 3],
                   *small = &baseline[CM_COMPAT16][s->cpl == 3];
    for (unsigned k = 0; k < 4; k++) {
        unsigned o = below(g, k < 2 ? 8 : 4);
        if (o == 0)
            s->seg[seg[k]] = small->seg[DS];
        else if (o == 1)
            s->seg[seg[k]] = flat->seg[DS];
        else if (o == 2)
            s->seg[seg[k]] = k >= 2 ? small->seg[SS] : (Segment){.attr = SEG_UNUSABLE};
    }
}

/* ---- place of the code ---- */
static void place_code(Gen *g, bool bad)
{
    DiffCase *c = g->c;
    unsigned k = below(g, 64), len = c->len, off;
    /* How many bytes of an undefined instruction are fetched is a processor's own affair. */
    bool undefined = bad || g_str_has_prefix(g->r->name, "ud");
    if (undefined)
        off = 0x100 + below(g, 0x40);
    else if (k < 6 && len > 1)
        off = 0x1000 - 1 - below(g, len - 1); /* crosses the pages */
    else if (k < 9)
        off = CASE_CODE_BYTES - len; /* ends with them */
    else if (k < 11)
        off = CASE_CODE_BYTES - 1 - below(g, len); /* is cut by their end */
    else
        off = 0x100 + below(g, 0x40);
    c->in.rip = CASE_CODE + off - gen_seg_base(g, CS);
}

/* ---- memory operand ---- */
static unsigned operand_bytes(const Gen *g)
{
    const OpRow *r = g->r;
    if (g->how->size)
        return g->how->size;
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_class(r, k), size = operand_size(r, k);
        if (cls != OC_RM && cls != OC_MEM && cls != OC_VRM && cls != OC_MMRM && cls != OC_MOFFS &&
            cls != OC_KRM)
            continue;
        if (is_evex_map(r->map))
            return vec_operand_bytes(&g->i, r->op[k]);
        if (size)
            return size;
        return r->attr & A_AVX ? 16u << g->i.vexl : r->attr & A_SSE ? 16 : g->i.opsize;
    }
    return g->i.opsize;
}

/* The memory operand's linear address as registers and bytes are now. */
static uint64_t operand_at(const Gen *g)
{
    CpuState *s = &g->c->in;
    s->gpr[GPR_IP] = s->rip;
    uint64_t at = ea_offset(s, &g->i) + gen_seg_base(g, g->i.seg);
    s->gpr[GPR_IP] = 0;
    return g->code64 ? at : (uint32_t)at;
}

static bool draw_target(Gen *g)
{
    bool vsib = !strncmp(g->r->name, "vgather", 7) || !strncmp(g->r->name, "vpgather", 8) ||
                (g->r->evex.flags & EV_VSIB);
    g->size = operand_bytes(g);
    if (!(g->i.flags & IF_MEM))
        return true;
    if (vsib && !g->has_target && (g->pinned & 1u << g->i.base))
        return true;
    bool chosen = g->has_target;
    if (!chosen) {
        unsigned align = g->how->align ? g->how->align : g->size & (g->size - 1) ? 1 : g->size;
        g->target = gen_address(g, g->size, align);
    }
    if (vsib)
        g->i.index = GPR_ZERO;
    if (!gen_solve(g))
        return false;
    if (vsib)
        return true;
    uint64_t at = operand_at(g);
    if (!chosen)
        g->target = at;
    /* LEA and the no-operations touch nothing. */
    if ((g->r->map == MAP_1B && g->r->opcode == 0x8d) || chosen)
        return true;
    return gen_allowed(g, at, g->size);
}

/* ---- forms ---- */
typedef union Form {
    uint16_t n;
    struct {
        uint16_t mode : 3, cpl0 : 1, opsize : 2, mem : 1, asize : 2, prefix : 2, vexl : 2, bad : 1,
            masked : 1, bcast : 1;
    };
} Form;
_Static_assert(sizeof(Form) == 2, "DiffCase.form");

static uint16_t form_of(const DiffCase *c, const Insn *i, bool bad)
{
    Form f = {.mode = c->mode, .cpl0 = c->in.cpl == 0, .bad = bad};
    if (bad)
        return f.n;
    f.opsize = (unsigned)__builtin_ctz(i->opsize) & 3;
    f.mem = !!(i->flags & IF_MEM);
    f.asize = f.mem || (op_rows[i->row].attr & A_REP) ? (unsigned)__builtin_ctz(i->asize) & 3 : 0;
    f.vexl = i->vexl & 3;
    f.masked = !!(i->evex & EVEX_AAA);
    f.bcast = !!(i->evex & EVEX_B);
    f.prefix = i->flags & IF_LOCK                                       ? 1
               : !(op_rows[i->row].attr & A_REP) || op_rows[i->row].pfx ? 0
               : i->flags & IF_REP                                      ? 2
               : i->flags & IF_REPNE                                    ? 3
                                                                        : 0;
    return f.n;
}

const char *case_form_name(uint16_t form, char buf[48])
{
    static const char *const prefix[] = {"", " lock", " rep", " repne"};
    Form f = {.n = form};
    if (f.bad)
        g_snprintf(buf, 48, "%s%s undefined", case_mode_name[f.mode % CM_N], f.cpl0 ? "0" : "");
    else
        g_snprintf(buf, 48, "%s%s %u%s%s%s%s%s%s", case_mode_name[f.mode % CM_N], f.cpl0 ? "0" : "",
                   8u << f.opsize,
                   f.vexl == 2 ? " LL"
                   : f.vexl    ? " L"
                               : "",
                   f.masked ? " k" : "", f.bcast ? " b" : "", f.mem ? " mem" : "",
                   !f.asize       ? ""
                   : f.asize == 1 ? " a16"
                   : f.asize == 2 ? " a32"
                                  : " a64",
                   prefix[f.prefix]);
    return buf;
}

/* An undefined instruction, without what may make it so: prefixes of a VEX or EVEX, its fields,
 * LOCK. */
static bool row_without(const DiffCase *c, Insn *i)
{
    uint8_t b[15] = {0};
    unsigned n = 0, k = 0, mode = case_decode_mode(c);
    for (; k < c->len; k++) {
        uint8_t p = c->insn[k];
        bool seg = p == 0x26 || p == 0x2e || p == 0x36 || p == 0x3e || p == 0x64 || p == 0x65;
        bool rex = (mode & DM_CODE64) && (p & 0xf0) == 0x40;
        if (!seg && p != 0x66 && p != 0x67 && p != 0xf2 && p != 0xf3 && p != 0xf0 && !rex)
            break;
    }
    uint8_t vex = k < c->len ? c->insn[k] : 0;
    bool is_vex = (vex == 0xc4 || vex == 0xc5) && c->len - k >= 3;
    bool evex = vex == 0x62 && c->len - k >= 6 && ((mode & DM_CODE64) || c->insn[k + 1] >= 0xc0);
    if (!is_vex && !evex)
        for (unsigned p = 0; p < k; p++)
            if (c->insn[p] != 0xf0)
                b[n++] = c->insn[p];
    unsigned start = n;
    for (; k < c->len; k++)
        b[n++] = c->insn[k];
    if (decode(i, b, 15, mode, case_features()) == DECODE_OK)
        return true;
    /* W, L and no vvvv: one of four fits. */
    for (unsigned v = 0; is_vex && v < 4; v++) {
        uint8_t *f = &b[start + (vex == 0xc4 ? 2 : 1)];
        uint8_t keep = vex == 0xc4 ? 0x03 : 0x83;
        *f = (uint8_t)((*f & keep) | 0x78 | (v & 1) << 2 | (vex == 0xc4 ? (v & 2) << 6 : 0));
        if (decode(i, b, 15, mode, case_features()) == DECODE_OK)
            return true;
    }
    /* EVEX: without mask, zeroing, broadcast and vvvv, one of W and L'L fits. */
    for (unsigned v = 0; evex && v < 8; v++) {
        uint8_t *f = &b[start];
        f[1] = (uint8_t)((f[1] & ~8) | 0x10);
        f[2] = (uint8_t)((f[2] & 3) | 0x7c | (v & 1) << 7);
        f[3] = (uint8_t)(8 | (v >> 1) << 5 | (v > 5));
        if (decode(i, b, 15, mode, case_features()) == DECODE_OK)
            return true;
    }
    return false;
}

bool case_classify(DiffCase *c)
{
    Insn i;
    DecodeResult res = decode(&i, c->insn, c->len, case_decode_mode(c), case_features());
    bool bad = res != DECODE_OK;
    if (res == DECODE_MORE || (bad && !row_without(c, &i)))
        return false;
    c->row = i.row;
    c->form = form_of(c, &i, bad);
    return true;
}

/* ---- */
static bool attempt(Gen *g, unsigned modes)
{
    DiffCase *c = g->c;
    g->pinned = 0;
    g->has_target = false;
    if (!draw_mode(g, modes))
        return false;
    draw_segments(g);
    if (!gen_insn(g))
        return false;
    bool bad = g->i.len != c->len || !g->i.exec;
    place_code(g, bad);
    gen_registers(g);
    CpuState *s = &c->in;
    if (!(g->how->flags & GEN_STACK) && one_in(g, 4))
        s->gpr[RSP] = g->code64 ? gen_value(g) : (uint32_t)gen_value(g);
    gen_fpu(g);
    if (!g->code64 && !(s->seg[SS].attr & SEG_DB))
        s->gpr[RSP] = (uint16_t)s->gpr[RSP]; /* what IRET can load: see exec_silicon.c */
    c->stop = g->how->flags & GEN_THROUGH ? STOP_THROUGH
              : g->how->flags & GEN_STEP  ? STOP_STEP
              : one_in(g, 3)              ? STOP_STEP /* costs more, and tells less */
                                          : STOP_THROUGH;
    if (!bad) {
        if (g->how->before)
            g->how->before(g);
        if (!draw_target(g))
            return false;
        if (g->how->after)
            g->how->after(g);
    }
    if (!g->code64 && !(s->seg[SS].attr & SEG_DB) && s->gpr[RSP] >> 16)
        return false;
    c->form = form_of(c, &g->i, bad);
    return true;
}

bool case_generate(DiffCase *c, uint64_t seed, uint64_t index, const uint16_t *rows, unsigned n,
                   unsigned modes)
{
    pthread_once(&once, prepare);
    Gen g = {.s = (seed ^ 0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93 + index * 0xa0761d6478bd642f,
             .campaign = seed,
             .c = c};
    rnd(&g);
    c->seed = seed;
    c->index = index;
    c->row = rows[index % n];
    g.r = &op_rows[c->row];
    g.how = gen_of_row[c->row];
    if (!row_modes(g.r, modes) || !g.how)
        return false;
    gen_memory(&g);
    bool odd = one_in(&g, 24);
    for (unsigned k = 0; k < 32; k++) {
        g.odd = odd && k < 8;
        if (attempt(&g, modes))
            return true;
    }
    return false;
}
