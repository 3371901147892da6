#include "diff/case_event.h"

#include <string.h>

/* What an event pushed, and where it lies. */
typedef struct Frame {
    unsigned vector, word; /* bytes a push */
    bool has_error, has_stack /* RSP and SS too */;
    uint64_t linear, size;
    uint64_t error, rip, cs, rflags, rsp, ss;
    uint64_t data[4]; /* ES, DS, FS, GS of vm86 */
} Frame;

/* n bytes at a linear address of the case's memory; 0 outside. */
static uint64_t peek(const uint8_t *mem, uint64_t lin, unsigned n)
{
    uint64_t v = 0;
    if (lin >= CASE_BASE && lin + n <= CASE_BASE + CASE_SIZE)
        memcpy(&v, mem + (lin - CASE_BASE), n);
    return v;
}

/* At the handler's OUT, or behind it. */
enum { OUT_LEN = 2 };

static bool in_handler(const DiffCase *c, const CpuState *s, unsigned *vector)
{
    uint64_t at = s->rip - case_handler(c->mode, 0);
    if (s->cpl || s->seg[CS].base != (c->mode == CM_REAL ? CASE_REAL_BASE : 0) || at >= 256 * 16 ||
        (at & 15) > OUT_LEN)
        return false;
    *vector = (unsigned)at / 16;
    return true;
}

/* Error codes are pushed by exceptions, and not by an INT n of the same vector: what was pushed
 * tells. `words`: without one. */
static void measure(Frame *f, uint64_t pushed, unsigned words)
{
    f->has_error = pushed == (words + 1) * f->word;
    f->size = (words + f->has_error) * f->word;
}

static bool has_error_code(unsigned vector)
{
    return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC ||
           vector == VEC_CP;
}

/* The opcode byte behind prefixes. */
static unsigned opcode_at(const DiffCase *c)
{
    static const char prefixes[] = "\x66\x67\x2e\x36\x3e\x26\x64\x65\xf2\xf3";
    unsigned i = 0;
    while (i + 1 < c->len && (strchr(prefixes, (char)c->insn[i]) ||
                              (c->mode == CM_LONG && (c->insn[i] & 0xf0) == 0x40)))
        i++;
    return i;
}

static bool is_int_n(const DiffCase *c)
{
    return c->insn[opcode_at(c)] == 0xcd;
}

static void read_frame(const DiffCase *c, const CpuState *s, const uint8_t *mem, Frame *f)
{
    bool small = !(s->seg[SS].attr & SEG_DB) && c->mode > CM_COMPAT16;
    uint64_t sp = s->gpr[RSP], mask = small ? 0xffff : ~0ull;

    f->word = c->mode == CM_REAL ? 2 : c->mode <= CM_COMPAT16 ? 8 : 4;
    f->has_stack = c->mode <= CM_COMPAT16 || c->in.cpl == 3;
    f->linear = f->has_stack ? sp : s->seg[SS].base + (sp & mask);
    if (f->has_stack)
        measure(f, CASE_EVENT_STACK - sp, c->mode == CM_VM86 ? 9 : 5);
    else
        measure(f,
                (has_error_code(f->vector) && c->mode != CM_REAL && !is_int_n(c) ? 4 : 3) * f->word,
                3);
    uint64_t at = f->linear;
    uint64_t *part[] = {&f->rip,     &f->cs,      &f->rflags,  &f->rsp,    &f->ss,
                        &f->data[0], &f->data[1], &f->data[2], &f->data[3]};
    if (f->has_error) {
        f->error = peek(mem, at, f->word);
        at += f->word;
    }
    for (unsigned i = 0; i < f->size / f->word - f->has_error; i++, at += f->word)
        *part[i] = peek(mem, at, f->word);
    if (!f->has_stack) {
        f->rsp = (sp & ~mask) | ((sp + f->size) & mask);
        f->ss = s->seg[SS].selector;
    }
}

/* The segment as it was before the event: the case's own, unless the instruction loaded it. */
static Segment segment_before(const DiffCase *c, const uint8_t *mem, unsigned seg, uint64_t sel)
{
    const Segment *in = &c->in.seg[seg];
    uint64_t table = sel & 4 ? CASE_LDT : CASE_GDT;
    uint64_t d = peek(mem, table + (sel & 0xfff8), 8);

    sel &= 0xffff;
    if (sel == in->selector)
        return *in;
    if (c->mode == CM_REAL || c->mode == CM_VM86)
        return (Segment){
            .selector = (uint16_t)sel, .base = sel << 4, .limit = in->limit, .attr = in->attr};
    if (!(sel & ~3ull))
        return (Segment){.selector = (uint16_t)sel, .attr = SEG_UNUSABLE | (in->attr & SEG_DPL)};
    uint32_t attr = (d >> 40 & 0xff) | (d >> 52 & 0xf) << 12;
    uint32_t limit = (d & 0xffff) | (d >> 48 & 0xf) << 16;
    return (Segment){.selector = (uint16_t)sel,
                     .base = (d >> 16 & 0xffffff) | d >> 56 << 24,
                     .limit = attr & SEG_G ? limit << 12 | 0xfff : limit,
                     .attr = attr};
}

/* Bytes the frame covers are those of the case: nothing was stored by what raised a fault. */
static void restore_memory(const DiffCase *c, const Frame *f, DiffOutcome *o)
{
    for (uint64_t at = f->linear; at < f->linear + f->size; at++) {
        if (at >= CASE_DATA && at < CASE_DATA + CASE_DATA_BYTES)
            o->data[at - CASE_DATA] = c->data[at - CASE_DATA];
        if (at >= CASE_STACK && at < CASE_STACK + CASE_STACK_BYTES)
            o->stack[at - CASE_STACK] = c->stack[at - CASE_STACK];
    }
}

static void take_back(const DiffCase *c, const uint8_t *mem, const Frame *f, DiffOutcome *o)
{
    static const enum Seg vm86_order[] = {ES, DS, FS, GS};
    CpuState *s = &o->st;

    s->rip = f->rip;
    s->rflags = c->mode == CM_REAL ? (s->rflags & ~0xffffull) | f->rflags : f->rflags;
    /* What delivery clears comes from the pushed image; real mode pushes 16 bits of it. */
    if (c->mode == CM_REAL)
        s->rflags |= c->in.rflags & FL_AC;
    s->gpr[RSP] = f->rsp;
    s->seg[CS] = segment_before(c, mem, CS, f->cs);
    if (f->has_stack)
        s->seg[SS] = segment_before(c, mem, SS, f->ss);
    for (unsigned i = 0; c->mode == CM_VM86 && i < ARRAY_LEN(vm86_order); i++)
        s->seg[vm86_order[i]] = segment_before(c, mem, vm86_order[i], f->data[i]);
    s->cpl = c->mode == CM_REAL ? 0 : c->mode == CM_VM86 ? 3 : f->cs & 3;
    restore_memory(c, f, o);
}

/* Does the case's instruction raise this vector as its purpose: INT3, INT n, INT1? */
static bool own_event(const DiffCase *c, const Frame *f)
{
    unsigned i = opcode_at(c);
    if (f->rip != c->in.rip + c->len)
        return false;
    switch (c->insn[i]) {
    case 0xcc:
        return f->vector == VEC_BP;
    case 0xf1:
        return f->vector == VEC_DB;
    case 0xcd:
        return i + 1 < c->len && c->insn[i + 1] == f->vector;
    default:
        return false;
    }
}

static bool at_landing(const CpuState *s)
{
    return s->rip >= CASE_SYSCALL && s->rip < CASE_SYSCALL + 0x100 && (s->rip & 15) <= OUT_LEN;
}

bool case_event_arrived(const DiffCase *c, const CpuState *s)
{
    unsigned vector;
    return in_handler(c, s, &vector) || at_landing(s);
}

static void set_fault(DiffOutcome *o, unsigned vector, bool has_error, uint64_t error, uint64_t cr2)
{
    o->kind = OUT_FAULT;
    o->vector = (uint8_t)vector;
    o->has_error = has_error;
    o->error = has_error ? (uint32_t)error : 0;
    o->cr2 = vector == VEC_PF ? cr2 : 0;
}

/* A segment that cannot be used has nothing but its selector, and FS and GS their base. */
static void canonical_segments(CpuState *s)
{
    for (unsigned i = ES; i <= LDTR; i++) {
        Segment *g = &s->seg[i];
        if (i == CS || (g->attr & SEG_P && !(g->attr & SEG_UNUSABLE)))
            continue;
        bool base = (i == FS || i == GS) && s->efer & EFER_LMA;
        *g = (Segment){.selector = g->selector,
                       .base = base ? g->base : 0,
                       .attr = SEG_UNUSABLE | (i == SS ? g->attr & SEG_DPL : 0)};
    }
}

void case_event_undo(const DiffCase *c, const uint8_t *mem, bool trap_flag, DiffOutcome *o)
{
    CpuState *s = &o->st;
    Frame f = {0};

    o->kind = OUT_DONE;
    if (in_handler(c, s, &f.vector)) {
        read_frame(c, s, mem, &f);
        take_back(c, mem, &f, o);
        bool stop = !own_event(c, &f) && (f.vector == VEC_BP || (f.vector == VEC_DB && trap_flag));
        if (stop && f.vector == VEC_BP)
            s->rip--;
        if (!stop)
            set_fault(o, f.vector, f.has_error, f.error, s->cr2);
        s->cr2 = c->in.cr2;
    } else if (s->ev.exception.pending || s->ev.exception.injected) {
        bool payload = s->ev.exception.has_payload;
        set_fault(o, s->ev.exception.nr, s->ev.exception.has_error && c->mode != CM_REAL,
                  s->ev.exception.error, payload ? s->ev.exception.payload : s->cr2);
        s->cr2 = c->in.cr2;
    } else if (at_landing(s)) {
        s->rip &= ~15ull;
    }
    memset(&s->ev, 0, sizeof(s->ev));
    s->rflags &= ~(uint64_t)FL_RF;
    if (trap_flag)
        s->rflags &= ~(uint64_t)FL_TF;
    canonical_segments(s);
}
