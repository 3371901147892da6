/*
 * Shrinking: from a case on which two executors differ to the smallest one on which they still do.
 *
 * Small means, in this order: a mode and a stop that more executors can judge, fewer bytes of
 * instruction, a state that is the baseline's, memory that is zero, values with few bits. Each step
 * changes one thing and runs the case on both; it is kept when the row is still the same and the
 * two differ in the same way: both end as before (done, or the same vector), and the same things
 * differ. The order of steps is fixed, so the same case always shrinks to the same one.
 */
#include <string.h>

#include "diff/engines.h"
#include "tcg/insn.h"

enum { TRIES_MAX = 8000, ROUNDS_MAX = 4, WAY_SIZE = 24 * DIFFERENCES_MAX + 16 };

typedef struct Shrink {
    const DiffEngine *a, *b;
    DiffExec *xa, *xb;
    DiffCase *best, *trial; /* trial is best plus one change */
    DiffCase *base;         /* baseline of best's mode and privilege */
    DiffOutcome *oa, *ob;
    char way[WAY_SIZE]; /* how they differ */
    unsigned tries;
} Shrink;

/* ---- one try ---- */

/* "data+0x1008" is "data": where it is moves with the operands. */
static void name_of(const char *what, char *out, size_t size)
{
    g_strlcpy(out, what, size);
    if (g_str_has_prefix(out, "data+") || g_str_has_prefix(out, "stack+"))
        *strchr(out, '+') = 0;
}

/* How the two outcomes in k differ, as text; false if they do not. */
static bool difference(Shrink *k, const DiffCase *c, char way[WAY_SIZE])
{
    Differences d = {0};
    char last[24] = "", name[24];

    if (k->oa->kind == OUT_SKIPPED || k->ob->kind == OUT_SKIPPED ||
        case_compare(c, k->oa, k->ob, k->a->groups & k->b->groups, &d) ||
        case_known(c, k->a, k->xa, k->oa, k->b, k->xb, k->ob))
        return false;
    g_snprintf(way, WAY_SIZE, "%u.%u/%u.%u", k->oa->kind, k->oa->vector, k->ob->kind,
               k->ob->vector);
    for (unsigned i = 0; i < MIN_OF(d.n, (unsigned)DIFFERENCES_MAX); i++) {
        name_of(d.d[i].what, name, sizeof(name));
        if (strcmp(name, last) != 0) { /* they come in a fixed order, those of memory together */
            g_strlcat(way, " ", WAY_SIZE);
            g_strlcat(way, name, WAY_SIZE);
        }
        memcpy(last, name, sizeof(last));
    }
    return true;
}

static bool run_both(Shrink *k, DiffCase *c)
{
    if (k->a->refuses(k->xa, c) || k->b->refuses(k->xb, c))
        return false;
    k->tries++;
    k->a->run(k->xa, c, k->oa, 1);
    k->b->run(k->xb, c, k->ob, 1);
    return true;
}

/* Is the trial a smaller case of the same failure? Then it is the best; else the change is undone.
 */
static bool keep(Shrink *k)
{
    char way[WAY_SIZE];
    DiffCase *t = k->trial;

    bool good = k->tries < TRIES_MAX && case_classify(t) && t->row == k->best->row &&
                case_valid(t, NULL) && run_both(k, t) && difference(k, t, way) &&
                !strcmp(way, k->way);
    *(good ? k->best : t) = *(good ? t : k->best);
    return good;
}

/* ---- values, named by where they are in a case ---- */

#define AT(member) offsetof(DiffCase, member)

static uint8_t *at(DiffCase *c, size_t offset)
{
    return (uint8_t *)c + offset;
}

/* To what the baseline has there. */
static bool to_baseline(Shrink *k, size_t offset, size_t n)
{
    if (!memcmp(at(k->best, offset), at(k->base, offset), n))
        return false;
    memcpy(at(k->trial, offset), at(k->base, offset), n);
    return keep(k);
}

static bool to_zero(Shrink *k, size_t offset, size_t n)
{
    uint8_t *t = at(k->trial, offset), any = 0;
    for (size_t i = 0; i < n; i++)
        any |= t[i];
    if (!any)
        return false;
    memset(t, 0, n);
    return keep(k);
}

/* n bytes towards zero: halves, then smaller pieces of what is left, down to `least` bytes. */
static bool zero_pieces(Shrink *k, size_t offset, size_t n, size_t least)
{
    bool any = to_zero(k, offset, n);
    if (any || n <= least)
        return any;
    size_t half = n / 2;
    any = zero_pieces(k, offset, half, least);
    return zero_pieces(k, offset + half, n - half, least) || any;
}

/* Single bits to zero, the highest first. */
static bool zero_bits(Shrink *k, size_t offset, size_t n)
{
    bool any = false;
    for (size_t i = n; i-- > 0;) {
        for (unsigned bit = 8; bit-- > 0;) {
            if (!(*at(k->best, offset + i) & 1u << bit))
                continue;
            *at(k->trial, offset + i) &= (uint8_t) ~(1u << bit);
            any |= keep(k);
        }
    }
    return any;
}

/* A value of n bytes: the baseline's, 0, then fewer bytes and bits. */
static bool smaller_value(Shrink *k, size_t offset, size_t n)
{
    if (!memcmp(at(k->best, offset), at(k->base, offset), n))
        return false;
    if (to_baseline(k, offset, n) || to_zero(k, offset, n))
        return true;
    bool any = zero_pieces(k, offset, n, 1);
    return zero_bits(k, offset, n) || any;
}

/* ---- steps ---- */

static void rebase(Shrink *k)
{
    case_baseline(k->base, k->best->mode, k->best->in.cpl);
}

/* The same instruction, registers and memory in another mode. */
static bool in_mode(Shrink *k, enum CaseMode mode, unsigned cpl)
{
    const DiffCase *b = k->best;
    DiffCase *t = k->trial;

    if (b->mode == mode && b->in.cpl == cpl)
        return false;
    case_baseline(t, mode, cpl);
    t->stop = b->stop;
    t->len = b->len;
    t->row = b->row;
    t->seed = b->seed;
    t->index = b->index;
    memcpy(t->insn, b->insn, sizeof(t->insn));
    for (unsigned i = 0; i < GPR_N; i++)
        if (i != RSP || (t->in.seg[SS].base == b->in.seg[SS].base))
            t->in.gpr[i] = b->in.gpr[i];
    t->in.rflags |= b->in.rflags & (FL_ARITH | FL_DF | FL_AC);
    t->in.fpu = b->in.fpu;
    memcpy(t->data, b->data, sizeof(t->data));
    memcpy(t->stack, b->stack, sizeof(t->stack));
    bool any = keep(k);
    if (any)
        rebase(k);
    return any;
}

static bool step_mode(Shrink *k)
{
    static const struct {
        uint8_t mode, cpl;
    } simplest[] = {{CM_LONG, 3}, {CM_LONG, 0}, {CM_COMPAT32, 3}, {CM_PROT32, 0}};
    unsigned n = 0;
    /* Only towards the front: what is simpler than the mode it has. */
    while (n < ARRAY_LEN(simplest) &&
           (simplest[n].mode != k->best->mode || simplest[n].cpl != k->best->in.cpl))
        n++;
    for (unsigned i = 0; i < n; i++)
        if (in_mode(k, simplest[i].mode, simplest[i].cpl))
            return true;
    return false;
}

static bool step_stop(Shrink *k)
{
    if (k->best->stop == STOP_STEP)
        return false;
    k->trial->stop = STOP_STEP;
    return keep(k);
}

static bool step_rip(Shrink *k)
{
    return to_baseline(k, AT(in.rip), 8);
}

static bool cut_bytes(Shrink *k, unsigned from, unsigned n)
{
    DiffCase *t = k->trial;
    if (from + n > t->len || n >= t->len)
        return false;
    memmove(t->insn + from, t->insn + from + n, t->len - from - n);
    t->len = (uint8_t)(t->len - n);
    memset(t->insn + t->len, 0, sizeof(t->insn) - t->len);
    return keep(k);
}

static bool step_prefixes(Shrink *k)
{
    static const uint8_t legacy[] = {0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e,
                                     0x64, 0x65, 0xf2, 0xf3, 0xf0};
    bool any = false;
    for (unsigned i = 0; i + 1 < k->best->len;) {
        uint8_t byte = k->best->insn[i];
        bool rex = k->best->mode == CM_LONG && (byte & 0xf0) == 0x40;
        if (!rex && !memchr(legacy, byte, sizeof(legacy)))
            break;
        if (cut_bytes(k, i, 1))
            any = true;
        else
            i++;
    }
    /* What is left of REX: without the bits that need not be. */
    for (unsigned i = 0; k->best->mode == CM_LONG && i + 1 < k->best->len; i++) {
        if ((k->best->insn[i] & 0xf0) == 0x40) {
            for (unsigned bit = 0; bit < 4; bit++) {
                k->trial->insn[i] &= (uint8_t) ~(1u << bit);
                any |= k->trial->insn[i] != k->best->insn[i] && keep(k);
            }
            break;
        }
    }
    return any;
}

static bool decoded(const DiffCase *c, Insn *i)
{
    return decode(i, c->insn, c->len, case_decode_mode(c), case_features()) == DECODE_OK &&
           i->len == c->len;
}

/* Offset of REX, or of nothing: c->len. */
static unsigned rex_at(const DiffCase *c, const Insn *i)
{
    return c->mode == CM_LONG && i->op_at && (c->insn[i->op_at - 1] & 0xf0) == 0x40 ? i->op_at - 1u
                                                                                    : c->len;
}

/* Has the plain form [base + index * scale + displacement] behind a one-byte or 0F opcode. */
static bool plain_memory(const DiffCase *c, Insn *i)
{
    return decoded(c, i) && i->flags & IF_MEM && i->base < GPR_N && i->op_at + 1u < c->len &&
           c->insn[i->op_at + 1] == i->modrm;
}

/* What the displacement and the index add goes into the base register, so that both can go. */
static bool step_address(Shrink *k)
{
    Insn i;
    bool any = false;
    if (!plain_memory(k->best, &i))
        return false;
    unsigned modrm = i.op_at + 1u, mod = i.modrm >> 6;
    bool sib = i.asize > 2 && (i.modrm & 7) == 4;
    unsigned disp = modrm + 1 + sib, n = mod == 1 ? 1 : mod == 2 ? (i.asize == 2 ? 2 : 4) : 0;
    if (n && i.disp) {
        k->trial->in.gpr[i.base] += (uint64_t)i.disp;
        memset(k->trial->insn + disp, 0, n);
        any |= keep(k);
    }
    if (!sib || i.index >= GPR_N || i.index == i.base)
        return any;
    DiffCase *t = k->trial;
    t->in.gpr[i.base] += t->in.gpr[i.index] << i.scale;
    t->insn[modrm + 1] = (uint8_t)((t->insn[modrm + 1] & 7) | 0x20); /* no index */
    if (rex_at(t, &i) < t->len)
        t->insn[rex_at(t, &i)] &= (uint8_t)~2; /* its fourth bit */
    return keep(k) || any;
}

/* [base] needs no SIB byte, but for RSP and R12. */
static bool step_sib(Shrink *k)
{
    Insn i;
    if (!plain_memory(k->best, &i) || i.asize == 2 || (i.modrm & 7) != 4 || i.index < GPR_N ||
        (i.base & 7) == 4)
        return false;
    unsigned modrm = i.op_at + 1u;
    k->trial->insn[modrm] = (uint8_t)((i.modrm & 0xf8) | (i.base & 7));
    return cut_bytes(k, modrm + 1, 1);
}

/* A displacement that ModRM announces: none instead of a short one, a short one for a long one. */
static bool step_displacement(Shrink *k)
{
    Insn i;
    bool any = false;
    while (decoded(k->best, &i) && i.flags & IF_MEM && i.op_at + 1u < k->best->len &&
           k->best->insn[i.op_at + 1] == i.modrm) {
        unsigned mod = i.modrm >> 6, disp = i.op_at + 2u + (i.asize > 2 && (i.modrm & 7) == 4);
        if (mod != 1 && mod != 2)
            break;
        k->trial->insn[i.op_at + 1] = (uint8_t)(i.modrm - 0x40);
        if (!cut_bytes(k, mod == 1 ? disp : disp + 1, mod == 1 ? 1 : i.asize == 2 ? 1 : 3)) {
            *k->trial = *k->best;
            break;
        }
        any = true;
    }
    return any;
}

/* Displacement and immediate: bytes behind the opcode and ModRM. */
static bool step_immediate(Shrink *k)
{
    Insn i;
    if (!decoded(k->best, &i))
        return false;
    unsigned from = i.op_at + 1u;
    if (from < k->best->len && k->best->insn[from] == i.modrm)
        from += 1 + (i.flags & IF_MEM && i.asize > 2 && (i.modrm & 7) == 4);
    if (from >= k->best->len)
        return false;
    unsigned n = k->best->len - from;
    bool pieces = zero_pieces(k, AT(insn) + from, n, 1);
    return zero_bits(k, AT(insn) + from, n) || pieces;
}

/* All of the state but the general registers and RIP that can go at one stroke. */
static bool step_state_groups(Shrink *k)
{
    bool any = false;
    any |= to_baseline(k, AT(in.msr), sizeof(Msrs));
    any |= to_baseline(k, AT(in.fpu), sizeof(FpuState));
    any |= to_baseline(k, AT(in.fpu.v), sizeof(k->best->in.fpu.v));
    any |= to_baseline(k, AT(in.fpu.r), sizeof(k->best->in.fpu.r));
    any |= to_baseline(k, AT(in.dr), AT(in.cpl) - AT(in.dr));
    any |= to_baseline(k, AT(in.cr0), AT(in.pdpte) - AT(in.cr0));
    for (unsigned i = 0; i < SEG_N; i++)
        any |= to_baseline(k, AT(in.seg[i]), sizeof(Segment));
    any |= to_baseline(k, AT(in.gdt), sizeof(DescTable));
    any |= to_baseline(k, AT(in.idt), sizeof(DescTable));
    any |= to_baseline(k, AT(in.rflags), 8);
    any |= to_baseline(k, AT(in.gpr), sizeof(uint64_t) * GPR_N);
    return any;
}

static bool step_all_memory(Shrink *k)
{
    bool any = to_zero(k, AT(data), CASE_DATA_BYTES);
    return to_zero(k, AT(stack), CASE_STACK_BYTES) || any;
}

static bool step_memory(Shrink *k)
{
    bool any = zero_pieces(k, AT(data), CASE_DATA_BYTES, 1);
    any |= zero_pieces(k, AT(stack), CASE_STACK_BYTES, 1);
    for (size_t i = 0; i < CASE_DATA_BYTES; i++)
        if (k->best->data[i])
            any |= zero_bits(k, AT(data) + i, 1);
    for (size_t i = 0; i < CASE_STACK_BYTES; i++)
        if (k->best->stack[i])
            any |= zero_bits(k, AT(stack) + i, 1);
    return any;
}

/* A register that points to memory: to the beginning of the page, or of all data. */
static bool rounder_pointer(Shrink *k, size_t offset)
{
    static const uint64_t to[] = {CASE_DATA, CASE_DATA + 0x1000};
    uint64_t is, v;
    memcpy(&is, at(k->best, offset), 8);
    if (!memcmp(&is, at(k->base, offset), 8))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(to) + 2; i++) {
        v = i < ARRAY_LEN(to) ? to[i] : i == ARRAY_LEN(to) ? is & ~0xfffull : is & ~0xfull;
        if (v == is || is < CASE_BASE || is >= CASE_BASE + CASE_SIZE)
            continue;
        memcpy(at(k->trial, offset), &v, 8);
        if (keep(k))
            return true;
    }
    return false;
}

static bool step_registers(Shrink *k)
{
    bool any = false;
    for (unsigned i = GPR_N; i-- > 0;) {
        size_t reg = AT(in.gpr[i]);
        any |= to_baseline(k, reg, 8) || rounder_pointer(k, reg) || smaller_value(k, reg, 8);
    }
    return smaller_value(k, AT(in.rflags), 4) || any;
}

static bool step_fpu(Shrink *k)
{
    static const struct {
        uint16_t offset, size;
    } word[] = {{offsetof(FpuState, fcw), 2},  {offsetof(FpuState, fsw), 2},
                {offsetof(FpuState, ftw), 1},  {offsetof(FpuState, fop), 2},
                {offsetof(FpuState, fip), 8},  {offsetof(FpuState, fdp), 8},
                {offsetof(FpuState, mxcsr), 4}};
    bool any = false;
    for (unsigned i = 0; i < ARRAY_LEN(word); i++)
        any |= smaller_value(k, AT(in.fpu) + word[i].offset, word[i].size);
    for (unsigned i = 0; i < 8; i++)
        any |= smaller_value(k, AT(in.fpu.r[i]), 10);
    for (unsigned i = 0; i < 8; i++)
        any |= smaller_value(k, AT(in.fpu.k[i]), 8);
    for (unsigned i = 0; i < 32; i++)
        any |= smaller_value(k, AT(in.fpu.v[i]), sizeof(VecReg));
    return any;
}

unsigned case_shrink(DiffCase *c, const DiffEngine *a, DiffExec *xa, const DiffEngine *b,
                     DiffExec *xb)
{
    static bool (*const step[])(Shrink *) = {
        step_all_memory, step_state_groups, step_mode,         step_stop, step_rip,
        step_prefixes,   step_address,      step_displacement, step_sib,  step_registers,
        step_fpu,        step_memory,       step_immediate,
    };
    Shrink k = {.a = a, .b = b, .xa = xa, .xb = xb};
    DiffCase *cases = g_new(DiffCase, 3);
    DiffOutcome *outs = g_new(DiffOutcome, 2);

    k.best = &cases[0];
    k.trial = &cases[1];
    k.base = &cases[2];
    k.oa = &outs[0];
    k.ob = &outs[1];
    *k.best = *k.trial = *c;
    rebase(&k);
    if (case_classify(k.best) && run_both(&k, k.best) && difference(&k, k.best, k.way)) {
        *k.trial = *k.best;
        for (unsigned round = 0, any = 1; any && round < ROUNDS_MAX; round++) {
            any = 0;
            for (unsigned i = 0; i < ARRAY_LEN(step); i++)
                any |= step[i](&k);
        }
        *c = *k.best;
    }
    g_free(cases);
    g_free(outs);
    return k.tries;
}
