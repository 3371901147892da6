/* What a campaign found, as text. */
#include "diff/results_text.h"

#include <string.h>

#define N64 "%" G_GUINT64_FORMAT

enum { MISSING_SHOWN = 10, SHARDS_SHOWN = 20, NAME_COLUMN = 48 };

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "0F B8 ..." behind "90 ...": one-byte opcodes, then 0F, 0F38, 0F3A, and VEX last. */
static unsigned map_rank(const char *row)
{
    static const char *const map[] = {"VEX", "0F3A ", "0F38 ", "0F "};
    for (unsigned k = 0; k < ARRAY_LEN(map); k++)
        if (g_str_has_prefix(row, map[k]))
            return ARRAY_LEN(map) - k;
    return 0;
}

static int by_row(const void *a, const void *b)
{
    const ResultsRow *x = *(ResultsRow *const *)a, *y = *(ResultsRow *const *)b;
    unsigned rx = map_rank(x->name), ry = map_rank(y->name);
    return rx != ry ? (int)rx - (int)ry : strcmp(x->name, y->name);
}

static int by_count(const void *a, const void *b)
{
    const ResultsFailure *x = *(ResultsFailure *const *)a, *y = *(ResultsFailure *const *)b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return strcmp(x->signature, y->signature);
}

static void **sorted_values(GHashTable *h, unsigned *n, GCompareFunc by)
{
    GHashTableIter it;
    void **v = g_new(void *, g_hash_table_size(h) + 1), *value;
    *n = 0;
    g_hash_table_iter_init(&it, h);
    while (g_hash_table_iter_next(&it, NULL, &value))
        v[(*n)++] = value;
    qsort(v, *n, sizeof(*v), by);
    return v;
}

ResultsRow **results_sorted_rows(const ResultsData *d, unsigned *n)
{
    return (ResultsRow **)sorted_values(d->rows, n, by_row);
}

ResultsFailure **results_sorted_failures(const ResultsData *d, unsigned *n)
{
    return (ResultsFailure **)sorted_values(d->failures, n, by_count);
}

char **results_sorted_names(GHashTable *h, unsigned *n)
{
    char **name = (char **)g_hash_table_get_keys_as_array(h, n);
    qsort(name, *n, sizeof(*name), by_name);
    return name;
}

unsigned results_rows_covered(const ResultsData *d)
{
    GHashTableIter it;
    void *row;
    unsigned n = 0;
    g_hash_table_iter_init(&it, d->rows);
    while (g_hash_table_iter_next(&it, NULL, &row))
        n += ((ResultsRow *)row)->sum.cases != 0;
    return n;
}

void results_text_head(const ResultsData *d, GString *out)
{
    const ResultsHeader *h = &d->h;
    g_string_append_printf(out,
                           "campaign  seed 0x%" G_GINT64_MODIFIER "x, " N64
                           " cases in chunks of %u, %u shard%s, tandem %s\n",
                           h->seed, h->cases, h->chunk, h->shards, h->shards == 1 ? "" : "s",
                           h->version);
    g_string_append_printf(out, "engines   %s\n", h->engines);
    g_string_append_printf(out, "rows      %u (%s)\n", h->row_count, *h->rows ? h->rows : "all");
    unsigned n;
    g_autofree char **host = results_sorted_names(d->hosts, &n);
    for (unsigned k = 0; k < n; k++)
        g_string_append_printf(out, "host      %s\n", host[k]);
    uint64_t total = results_chunk_total(h);
    g_string_append_printf(out, "chunks    %u of " N64, g_hash_table_size(d->chunks), total);
    if (d->repeated)
        g_string_append_printf(out, "; " N64 " stood there again and count once", d->repeated);
    if (d->unlike)
        g_string_append_printf(out,
                               "; " N64 " of them with other counts than the first time (chunk " N64
                               "): something does not repeat",
                               d->unlike, d->unlike_one);
    g_string_append_printf(
        out, "\ncases     " N64 " judged, " N64 " skipped, " N64 " with differences\n",
        d->sum.cases, d->sum.skipped, d->sum.differences);
    if (d->seconds > 0)
        g_string_append_printf(out, "rate      %.0f cases/s a process, %.1f million an hour\n",
                               (double)d->sum.cases / d->seconds,
                               (double)d->sum.cases / d->seconds * 3600 / 1e6);
}

uint64_t results_text_missing(const ResultsData *d, GString *out)
{
    const ResultsHeader *h = &d->h;
    uint64_t total = results_chunk_total(h), missing = total - g_hash_table_size(d->chunks);
    if (!missing)
        return 0;
    g_autofree uint64_t *there = g_new0(uint64_t, h->shards);
    GHashTableIter it;
    void *chunk;
    g_hash_table_iter_init(&it, d->chunks);
    while (g_hash_table_iter_next(&it, NULL, &chunk))
        there[((ResultsChunk *)chunk)->number % h->shards]++;
    unsigned shown = 0, incomplete = 0;
    for (unsigned s = 0; s < h->shards; s++) {
        uint64_t of = total / h->shards + (s < total % h->shards);
        if (there[s] == of)
            continue;
        incomplete++;
        if (shown == SHARDS_SHOWN)
            continue;
        shown++;
        g_string_append_printf(out, "missing   shard %u/%u: " N64 " of " N64 " chunks:", s + 1,
                               h->shards, of - there[s], of);
        unsigned n = 0;
        for (uint64_t k = s; k < total && n < MISSING_SHOWN; k += h->shards)
            if (!g_hash_table_contains(d->chunks, &k))
                g_string_append_printf(out, "%s " N64, n++ ? "," : "", k);
        g_string_append(out, of - there[s] > n ? ", ...\n" : "\n");
    }
    if (incomplete > shown)
        g_string_append_printf(out, "missing   and chunks of %u other shards\n",
                               incomplete - shown);
    return missing;
}

static void count_line(const char *indent, const char *name, const CellCount *c, GString *out)
{
    int column = NAME_COLUMN - (int)strlen(indent);
    g_string_append_printf(out, "%s%-*s %10" G_GUINT64_FORMAT " %10" G_GUINT64_FORMAT, indent,
                           column, name, c->cases, c->skipped);
    if (c->differences)
        g_string_append_printf(out, " %10" G_GUINT64_FORMAT " differ", c->differences);
    else if (!c->cases)
        g_string_append(out, c->skipped ? "  skipped" : "  not covered");
    g_string_append_c(out, '\n');
}

void results_text_rows(const ResultsData *d, bool forms, GString *out)
{
    unsigned n, n_forms;
    g_autofree ResultsRow **row = results_sorted_rows(d, &n);
    g_string_append_printf(out, "%-*s %10s %10s\n", NAME_COLUMN, forms ? "row, form" : "row",
                           "cases", "skipped");
    for (unsigned k = 0; k < n; k++) {
        count_line("", row[k]->name, &row[k]->sum, out);
        if (!forms)
            continue;
        g_autofree char **form = results_sorted_names(row[k]->forms, &n_forms);
        for (unsigned f = 0; f < n_forms; f++)
            count_line("    ", form[f], g_hash_table_lookup(row[k]->forms, form[f]), out);
    }
}

void results_text_skips(const ResultsData *d, GString *out)
{
    unsigned n;
    g_autofree char **why = results_sorted_names(d->skips, &n);
    for (unsigned k = 0; k < n; k++)
        g_string_append_printf(out, "skipped   %10" G_GUINT64_FORMAT "  %s\n",
                               *(uint64_t *)g_hash_table_lookup(d->skips, why[k]), why[k]);
}

void results_text_failures(const ResultsData *d, GString *out)
{
    unsigned n;
    g_autofree ResultsFailure **failure = results_sorted_failures(d, &n);
    for (unsigned k = 0; k < n; k++) {
        const ResultsFailure *f = failure[k];
        g_string_append_printf(out, "failure %u: %s, " N64 " case%s\n  row   %s\n  form  %s\n",
                               k + 1, f->signature, f->count, f->count == 1 ? "" : "s", f->row,
                               f->form);
        g_string_append_printf(out, "  made  --seed 0x%" G_GINT64_MODIFIER "x, case " N64 "\n",
                               f->seed, f->index);
        g_auto(GStrv) line = g_strsplit(f->text, "\n", -1);
        for (char **l = line; *l; l++)
            if (**l)
                g_string_append_printf(out, "    %s\n", *l);
    }
}

void results_text_last(const ResultsData *d, GString *out)
{
    g_string_append_printf(out, "cases=" N64 " rows=%u/%u differences=" N64 "\n", d->sum.cases,
                           results_rows_covered(d), d->h.row_count, d->sum.differences);
}
