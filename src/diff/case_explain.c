/*
 * A case and two outcomes for people:
 *
 *   lzcnt eax, ebx    [f3 0f bd c3]
 *   row F3 0F BD lzcnt Gv,Ev; mode long, CPL 3, to be stepped over; seed 0x1, case 77
 *     RBX     0x10
 *
 *              interp                  kvm
 *     ended    done                    done
 *   * RAX      0x1b                    0x4
 *     RIP      0x60100004              0x60100004
 *
 * Listed are the fields that either outcome has changed or in which the two differ; a star marks
 * what case_compare() calls a difference.
 */
#include <string.h>

#include "cpu/vcpu.h"
#include "diff/case.h"
#include "vmstate/state.h"

enum { LABEL = 12, COLUMN = 34 };

/* ---- inputs ---- */

static void explain_inputs(const DiffCase *c, GString *out)
{
    GString *text = g_string_new(NULL);
    case_write(c, text);
    char **line = g_strsplit(text->str, "\n", -1);
    /* The first lines say what the heading says. */
    static const char *const head[] = {"tandem", "insn", "mode", "cpl", "stop", "seed", "index"};
    for (unsigned i = 0; line[i]; i++) {
        bool shown = *line[i];
        for (unsigned h = 0; h < ARRAY_LEN(head); h++)
            shown &= strncmp(line[i], head[h], strlen(head[h])) != 0;
        if (shown)
            g_string_append_printf(out, "  %s\n", line[i]);
    }
    g_strfreev(line);
    g_string_free(text, TRUE);
}

static void heading(const DiffCase *c, GString *out)
{
    char name[64];
    case_asm(c, out);
    g_string_append(out, "    [");
    for (unsigned i = 0; i < c->len; i++)
        g_string_append_printf(out, "%s%02x", i ? " " : "", c->insn[i]);
    g_string_append_printf(out, "]\nrow %s; mode %s, CPL %u, %s", case_row_name(c->row, name),
                           case_mode_name[c->mode], c->in.cpl,
                           c->stop == STOP_STEP ? "stepped over" : "run through");
    if (c->seed || c->index)
        g_string_append_printf(out, "; seed %#" G_GINT64_MODIFIER "x, case %" G_GUINT64_FORMAT,
                               c->seed, c->index);
    g_string_append_c(out, '\n');
}

/* ---- the two columns ---- */

typedef struct Columns {
    const DiffCase *c;
    const DiffOutcome *a, *b;
    const Differences *d;
    GString *out;
} Columns;

/* A difference's name is the field's, or the field's and a part of it: "RFLAGS.CF". XMMn, YMMn and
 * MMn are parts of ZMMn and FPRn. */
static bool marked(const Differences *d, const char *field)
{
    size_t n = strlen(field);
    for (unsigned i = 0; i < MIN_OF(d->n, (unsigned)DIFFERENCES_MAX); i++) {
        const char *what = d->d[i].what;
        if (!strncmp(what, field, n) && (!what[n] || what[n] == '.'))
            return true;
        if (g_str_has_prefix(field, "ZMM") && g_str_has_prefix(what + 1, "MM") &&
            !strcmp(what + 3, field + 3))
            return true;
    }
    return false;
}

static void row(const Columns *k, bool differs, const char *label, const char *a, const char *b)
{
    g_string_append_printf(k->out, "%c %-*s %-*s %s\n", differs ? '*' : ' ', LABEL, label, COLUMN,
                           a, b);
    /* A value that is wider than its column still leaves a space before the other. */
}

static void field_row(const VmstateField *f, void *opaque)
{
    Columns *k = opaque;
    char in[160], a[160], b[160];
    vmstate_print(&k->c->in, f, in, sizeof(in));
    vmstate_print(&k->a->st, f, a, sizeof(a));
    vmstate_print(&k->b->st, f, b, sizeof(b));
    if (!strcmp(f->name, "CR2"))
        return; /* shown with the vector */
    bool differs = marked(k->d, f->name);
    if (differs || strcmp(a, in) != 0 || strcmp(b, in) != 0)
        row(k, differs, f->name, a, b);
}

static void ended(const DiffOutcome *o, char *text, size_t size)
{
    switch (o->kind) {
    case OUT_DONE:
        g_strlcpy(text, "done", size);
        break;
    case OUT_FAULT:
        g_snprintf(text, (gulong)size, "vector %u", o->vector);
        break;
    case OUT_SKIPPED:
        g_snprintf(text, (gulong)size, "skipped: %s", o->why);
        break;
    default:
        g_snprintf(text, (gulong)size, "broken: %s", o->why);
        break;
    }
}

static void outcome_rows(const Columns *k)
{
    char a[120], b[120];
    ended(k->a, a, sizeof(a));
    ended(k->b, b, sizeof(b));
    bool judged = k->a->kind != OUT_SKIPPED && k->b->kind != OUT_SKIPPED;
    row(k, judged && strcmp(a, b) != 0, "ended", a, b);
    if (k->a->has_error || k->b->has_error) {
        g_snprintf(a, sizeof(a), "%#x", k->a->error);
        g_snprintf(b, sizeof(b), "%#x", k->b->error);
        row(k, marked(k->d, "error"), "error code", k->a->has_error ? a : "none",
            k->b->has_error ? b : "none");
    }
    if (k->a->cr2 != k->b->cr2 || (k->a->kind == OUT_FAULT && k->a->vector == VEC_PF)) {
        g_snprintf(a, sizeof(a), "%#" G_GINT64_MODIFIER "x", k->a->cr2);
        g_snprintf(b, sizeof(b), "%#" G_GINT64_MODIFIER "x", k->b->cr2);
        row(k, marked(k->d, "CR2"), "CR2", a, b);
    }
}

/* 16 bytes from where either has changed something. */
static void memory_rows(const Columns *k, const char *name, const uint8_t *in, const uint8_t *a,
                        const uint8_t *b, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        if (in[i] == a[i] && in[i] == b[i])
            continue;
        GString *ta = g_string_new(NULL), *tb = g_string_new(NULL);
        char label[24];
        unsigned end = MIN_OF(i + 8, size), from = i;
        for (; i < end; i++) {
            g_string_append_printf(ta, "%02x ", a[i]);
            g_string_append_printf(tb, "%02x ", b[i]);
        }
        i--;
        g_snprintf(label, sizeof(label), "%s+%#x", name, from);
        row(k, memcmp(a + from, b + from, end - from) != 0, label, ta->str, tb->str);
        g_string_free(ta, TRUE);
        g_string_free(tb, TRUE);
    }
}

static bool has_state(const DiffOutcome *o)
{
    return o->kind == OUT_DONE || o->kind == OUT_FAULT;
}

void case_explain(const DiffCase *c, const DiffEngine *a, const DiffOutcome *oa,
                  const DiffEngine *b, const DiffOutcome *ob, GString *out)
{
    unsigned groups = a->groups & b->groups;
    Differences d = {0};
    Columns k = {c, oa, ob, &d, out};

    case_compare(c, oa, ob, groups, &d);
    heading(c, out);
    explain_inputs(c, out);
    g_string_append_c(out, '\n');
    row(&k, false, "", a->name, b->name);
    outcome_rows(&k);
    if (!has_state(oa) || !has_state(ob))
        return;
    vmstate_foreach(groups, field_row, &k);
    memory_rows(&k, "data", c->data, oa->data, ob->data, CASE_DATA_BYTES);
    memory_rows(&k, "stack", c->stack, oa->stack, ob->stack, CASE_STACK_BYTES);
    if (d.n > DIFFERENCES_MAX)
        g_string_append_printf(out, "  and %u differences more\n", d.n - DIFFERENCES_MAX);
}
