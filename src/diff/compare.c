/* Two outcomes of one case, held against each other. */
#include <string.h>

#include "diff/engines.h"
#include "tcg/insn.h"
#include "vmstate/state.h"

/* What the manual leaves open is not compared; where the interpreter runs the host's own
 * instruction it agrees all the same, and a table of what silicon does would be another one's
 * silicon. */
static bool undefined_too;

static uint64_t flags_mask(const DiffCase *c)
{
    return undefined_too ? ~0ull : ~(uint64_t)op_rows[c->row].fl_undef;
}

void case_compare_undefined(bool on)
{
    undefined_too = on;
}

static void add(Differences *d, const char *what, const char *a, const char *b)
{
    if (d->n < DIFFERENCES_MAX) {
        Difference *e = &d->d[d->n];
        g_strlcpy(e->what, what, sizeof(e->what));
        g_strlcpy(e->a, a, sizeof(e->a));
        g_strlcpy(e->b, b, sizeof(e->b));
    }
    d->n++;
}

static void add_number(Differences *d, const char *what, uint64_t a, uint64_t b)
{
    char ta[24], tb[24];
    if (a == b)
        return;
    g_snprintf(ta, sizeof(ta), "%#" G_GINT64_MODIFIER "x", a);
    g_snprintf(tb, sizeof(tb), "%#" G_GINT64_MODIFIER "x", b);
    add(d, what, ta, tb);
}

/* x87 pointers that only one executor may have been able to see. */
static bool no_pointers(const FpuState *a, const FpuState *b)
{
    enum { FSW_ES = 0x80 };
    return case_pointers_hidden() && !(a->fsw & b->fsw & FSW_ES);
}

/* What is compared of a state: the rest is brought to one value in both. */
static void reduce(const DiffCase *c, CpuState *s, bool pointers)
{
    if (!pointers) {
        s->fpu.fop = 0;
        s->fpu.fip = s->fpu.fdp = 0;
    }
    s->rflags &= flags_mask(c);
    for (unsigned k = ES; k <= GS; k++)
        if (c->mode <= CM_COMPAT16 && s->seg[k].selector < 4)
            s->seg[k].selector = 0; /* all null, and IRET makes 0 of them */
    if (!cpu_code64(s))             /* pushed as zero outside 64-bit mode */
        s->gpr[RSP] = (uint32_t)s->gpr[RSP];
    s->cr2 = 0; /* that of a fault is compared as such */
    s->fpu.mxcsr_mask = 0;
    s->fpu.xstate_bv = 0;
    if (c->mode != CM_LONG) {
        /* The selectors beside the x87 pointers: an XSAVE image of 64-bit code has none. */
        s->fpu.fip = (uint32_t)s->fpu.fip;
        s->fpu.fdp = (uint32_t)s->fpu.fdp;
    }
}

static void state_differs(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    if (strcmp(f->name, "RFLAGS") != 0)
        add(opaque, f->name, a, b);
}

static void flags_differ(Differences *d, uint64_t a, uint64_t b)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } flag[] = {{FL_CF, "RFLAGS.CF"}, {FL_PF, "RFLAGS.PF"}, {FL_AF, "RFLAGS.AF"},
                {FL_ZF, "RFLAGS.ZF"}, {FL_SF, "RFLAGS.SF"}, {FL_OF, "RFLAGS.OF"},
                {FL_DF, "RFLAGS.DF"}, {FL_IF, "RFLAGS.IF"}, {FL_TF, "RFLAGS.TF"},
                {FL_AC, "RFLAGS.AC"}, {FL_NT, "RFLAGS.NT"}, {FL_ID, "RFLAGS.ID"}};
    for (unsigned k = 0; k < ARRAY_LEN(flag); k++) {
        if ((a ^ b) & flag[k].bit)
            add(d, flag[k].name, a & flag[k].bit ? "1" : "0", b & flag[k].bit ? "1" : "0");
        a &= ~flag[k].bit;
        b &= ~flag[k].bit;
    }
    add_number(d, "RFLAGS", a, b);
}

/* Runs of bytes that differ, eight a line. */
static void memory_differs(Differences *d, const char *name, const uint8_t *a, const uint8_t *b,
                           unsigned size)
{
    for (unsigned k = 0; k < size; k += 8) {
        char what[24], ta[20] = "", tb[20] = "";
        if (!memcmp(a + k, b + k, 8))
            continue;
        g_snprintf(what, sizeof(what), "%s+%#x", name, k);
        for (unsigned n = 0; n < 8; n++) {
            g_snprintf(ta + 2 * n, 4, "%02x", a[k + n]);
            g_snprintf(tb + 2 * n, 4, "%02x", b[k + n]);
        }
        add(d, what, ta, tb);
    }
}

static void describe(const DiffOutcome *o, char *text, size_t size)
{
    switch (o->kind) {
    case OUT_DONE:
        g_strlcpy(text, "done", size);
        break;
    case OUT_FAULT:
        g_snprintf(text, size, "exception %u", o->vector);
        break;
    default:
        g_strlcpy(text, o->why, size);
        break;
    }
}

static bool same_end(const DiffOutcome *a, const DiffOutcome *b)
{
    return a->kind == b->kind && a->kind != OUT_BROKEN && a->vector == b->vector &&
           a->has_error == b->has_error && a->error == b->error && a->cr2 == b->cr2;
}

static bool same_segments(const CpuState *a, const CpuState *b)
{
    for (unsigned k = 0; k < SEG_N; k++) {
        const Segment *x = &a->seg[k], *y = &b->seg[k];
        if (x->selector != y->selector || x->attr != y->attr || x->base != y->base ||
            x->limit != y->limit)
            return false;
    }
    return true;
}

/* The usual case, without copies. May say no where the tables say yes. */
static bool same_at_once(const DiffCase *c, const DiffOutcome *a, const DiffOutcome *b)
{
    const CpuState *s = &a->st, *u = &b->st;
    const FpuState *f = &s->fpu, *g = &u->fpu;
    return same_end(a, b) && !memcmp(s->gpr, u->gpr, 16 * sizeof(s->gpr[0])) && s->rip == u->rip &&
           !((s->rflags ^ u->rflags) & flags_mask(c)) && !memcmp(f->v, g->v, sizeof(f->v)) &&
           !memcmp(f->r, g->r, sizeof(f->r)) && f->fcw == g->fcw && f->fsw == g->fsw &&
           f->ftw == g->ftw &&
           ((f->fop == g->fop && f->fip == g->fip && f->fdp == g->fdp) || no_pointers(f, g)) &&
           f->mxcsr == g->mxcsr && !memcmp(f->k, g->k, sizeof(f->k)) && f->pkru == g->pkru &&
           same_segments(s, u) && !memcmp(a->data, b->data, sizeof(a->data)) &&
           !memcmp(a->stack, b->stack, sizeof(a->stack));
}

bool case_compare(const DiffCase *c, const DiffOutcome *a, const DiffOutcome *b, unsigned groups,
                  Differences *out)
{
    const unsigned usual = GRP_REGS | GRP_SREGS | GRP_FPU;
    Differences none, *d = out ? out : &none;
    d->n = 0;
    if (a->kind == OUT_SKIPPED || b->kind == OUT_SKIPPED ||
        (!(groups & ~usual) && c->in.cpl && same_at_once(c, a, b)))
        return true;
    if (a->kind != b->kind || a->vector != b->vector || a->kind == OUT_BROKEN) {
        char ta[140], tb[140];
        describe(a, ta, sizeof(ta));
        describe(b, tb, sizeof(tb));
        add(d, a->kind == b->kind && a->kind == OUT_FAULT ? "vector" : "outcome", ta, tb);
        if (a->kind == OUT_BROKEN || b->kind == OUT_BROKEN)
            return false;
    } else {
        add_number(d, "error", a->has_error ? a->error : ~0ull, b->has_error ? b->error : ~0ull);
        add_number(d, "CR2", a->cr2, b->cr2);
    }
    CpuState s = a->st, u = b->st;
    bool pointers = !no_pointers(&a->st.fpu, &b->st.fpu);
    reduce(c, &s, pointers);
    reduce(c, &u, pointers);
    if (groups & GRP_REGS)
        flags_differ(d, s.rflags, u.rflags);
    vmstate_diff(&s, &u, groups, state_differs, d);
    memory_differs(d, "data", a->data, b->data, sizeof(a->data));
    memory_differs(d, "stack", a->stack, b->stack, sizeof(a->stack));
    return d->n == 0;
}
