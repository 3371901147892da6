/*
 * A campaign as one HTML page. report.html is the page with places like {{maps}} that are filled in
 * here; the rows and their forms are JSON in a script element of a type that is not run, and the
 * page's own script makes tables of them.
 */
#include "diff/report.h"

#include <string.h>

#include "diff/results_text.h"
#include "tcg/insn.h"

#define N64 "%" G_GUINT64_FORMAT

extern const char diff_report_page[], diff_report_page_end[];

/* A row of the campaign: of this build's table, or only known to the file. */
typedef struct PageRow {
    char name[64];
    const OpRow *op;     /* NULL: not in this build's table */
    const ResultsRow *r; /* NULL: nothing counted */
    const char *why;     /* it can never be judged, or NULL */
} PageRow;

typedef struct Page {
    const ResultsData *d;
    PageRow *row;
    unsigned n;
} Page;

void html_quote(GString *out, const char *s)
{
    g_autofree char *valid = g_utf8_make_valid(s, -1);
    for (const char *p = valid; *p; p++) {
        switch (*p) {
        case '<':
            g_string_append(out, "&lt;");
            break;
        case '>':
            g_string_append(out, "&gt;");
            break;
        case '&':
            g_string_append(out, "&amp;");
            break;
        case '"':
            g_string_append(out, "&quot;");
            break;
        case '\'':
            g_string_append(out, "&#39;");
            break;
        default:
            g_string_append_c(out, (unsigned char)*p < 0x20 && *p != '\n' && *p != '\t' ? ' ' : *p);
            break;
        }
    }
}

/* JSON inside a script element: no '<', so that nothing ends it. */
static void script_quote(GString *out, const char *s)
{
    g_autoptr(GString) json = g_string_new(NULL);
    json_quote(json, s);
    for (const char *p = json->str; *p; p++) {
        if (*p == '<' || *p == '>' || *p == '&')
            g_string_append_printf(out, "\\u%04x", *p);
        else
            g_string_append_c(out, *p);
    }
}

static void grouped(GString *out, uint64_t v)
{
    char digits[24];
    int n = g_snprintf(digits, sizeof(digits), N64, v);
    for (int k = 0; k < n; k++) {
        if (k && (n - k) % 3 == 0)
            g_string_append_c(out, ',');
        g_string_append_c(out, digits[k]);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const PageRow *)a)->name, ((const PageRow *)b)->name);
}

/* The rows the campaign draws from, then those in the file that this build does not know. */
static void collect_rows(Page *p)
{
    unsigned n_file;
    g_autofree ResultsRow **file = results_sorted_rows(p->d, &n_file);
    g_autofree uint16_t *select = g_new(uint16_t, op_rows_n);
    g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);
    unsigned n = case_select_rows(*p->d->h.rows ? p->d->h.rows : NULL, select, NULL);
    p->row = g_new0(PageRow, n + n_file + 1);
    for (unsigned k = 0; k < n; k++) {
        PageRow *row = &p->row[p->n++];
        case_row_name(select[k], row->name);
        row->op = &op_rows[select[k]];
        row->r = g_hash_table_lookup(p->d->rows, row->name);
        row->why = g_hash_table_lookup(p->d->h.unjudged, row->name);
        g_hash_table_add(known, row->name);
    }
    unsigned first_unknown = p->n;
    for (unsigned k = 0; k < n_file; k++) {
        if (g_hash_table_contains(known, file[k]->name))
            continue;
        PageRow *row = &p->row[p->n++];
        g_strlcpy(row->name, file[k]->name, sizeof(row->name));
        row->r = file[k];
    }
    qsort(p->row + first_unknown, p->n - first_unknown, sizeof(*p->row), by_name);
}

/* ---- parts of the page ---- */

static void tile(GString *out, const char *cls, const char *what, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
static void tile(GString *out, const char *cls, const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *value = g_strdup_vprintf(format, args);
    va_end(args);
    g_string_append_printf(out, "<div class=\"tile%s\"><b>%s</b><span>%s</span></div>", cls, value,
                           what);
}

static void write_tiles(const Page *p, GString *out)
{
    const ResultsData *d = p->d;
    g_autoptr(GString) cases = g_string_new(NULL), skipped = g_string_new(NULL);
    g_autoptr(GString) differ = g_string_new(NULL);
    grouped(cases, d->sum.cases);
    grouped(skipped, d->sum.skipped);
    grouped(differ, d->sum.differences);
    tile(out, "", "cases judged", "%s", cases->str);
    tile(out, d->sum.differences ? " bad" : "", "cases with differences", "%s", differ->str);
    tile(out, "", "causes", "%u", g_hash_table_size(d->failures));
    tile(out, "", "rows covered", "%u of %u", results_rows_covered(d), d->h.row_count);
    tile(out, "", "skipped", "%s", skipped->str);
    if (d->seconds > 0)
        tile(out, "", "cases a second and process", "%.0f", (double)d->sum.cases / d->seconds);
}

static void term(GString *out, const char *name, const char *value)
{
    g_string_append_printf(out, "<dt>%s</dt><dd>", name);
    html_quote(out, value);
    g_string_append(out, "</dd>");
}

static void write_campaign(const Page *p, GString *out)
{
    const ResultsHeader *h = &p->d->h;
    unsigned n;
    uint64_t total = results_chunk_total(h);
    g_autofree char **host = results_sorted_names(p->d->hosts, &n);
    g_autofree char *seed = g_strdup_printf("%#" G_GINT64_MODIFIER "x", h->seed);
    g_autofree char *chunks = g_strdup_printf("%u of " N64 " (%u cases each), %u shard%s",
                                              g_hash_table_size(p->d->chunks), total, h->chunk,
                                              h->shards, h->shards == 1 ? "" : "s");
    term(out, "Engines", h->engines);
    term(out, "Rows", *h->rows ? h->rows : "all");
    term(out, "Seed", seed);
    term(out, "Chunks", chunks);
    for (unsigned k = 0; k < n; k++)
        term(out, "Host", host[k]);
    term(out, "Made by", h->version);
    g_auto(GStrv) feature = g_strsplit(h->features, ",", -1);
    g_autofree char *features = g_strjoinv(", ", feature);
    term(out, "Guest CPU", features);
}

static void write_verdict(const Page *p, GString *out)
{
    uint64_t missing = results_chunk_total(&p->d->h) - g_hash_table_size(p->d->chunks);
    unsigned covered = results_rows_covered(p->d);
    g_string_append(out, p->d->sum.differences ? "There are differences" : "No case differs");
    if (missing)
        g_string_append_printf(out, "; the campaign is not complete: " N64 " chunks are missing",
                               missing);
    if (covered < p->d->h.row_count)
        g_string_append_printf(out, "; %u rows are not covered", p->d->h.row_count - covered);
    g_string_append_c(out, '.');
}

/* ---- opcode maps ---- */

static const struct {
    enum OpMap map;
    const char *name;
} page_map[] = {
    {MAP_1B, "One-byte opcodes"}, {MAP_0F, "0F"},          {MAP_0F38, "0F 38"},
    {MAP_0F3A, "0F 3A"},          {MAP_VEX0F, "VEX 0F"},   {MAP_VEX0F38, "VEX 0F 38"},
    {MAP_VEX0F3A, "VEX 0F 3A"},   {MAP_EVEX0F, "EVEX 0F"}, {MAP_EVEX0F38, "EVEX 0F 38"},
    {MAP_EVEX0F3A, "EVEX 0F 3A"},
};

/* Rows with a register in the opcode stand in eight squares. */
static bool in_square(const PageRow *row, enum OpMap map, unsigned opcode)
{
    if (!row->op || row->op->map != map)
        return false;
    bool eight = row->op->op[0] == O_Zb || row->op->op[0] == O_Zv || row->op->op[1] == O_Zb ||
                 row->op->op[1] == O_Zv;
    return opcode >= row->op->opcode && opcode < row->op->opcode + (eight ? 8u : 1u);
}

typedef struct Square {
    unsigned rows, covered, out; /* out: can never be judged, or was skipped each time */
    CellCount sum;
    const char *mnemonic;
} Square;

static Square look(const Page *p, enum OpMap map, unsigned opcode)
{
    Square s = {0};
    for (unsigned k = 0; k < p->n; k++) {
        if (!in_square(&p->row[k], map, opcode))
            continue;
        s.mnemonic = s.rows++ ? NULL : p->row[k].op->name;
        const ResultsRow *r = p->row[k].r;
        s.out += (p->row[k].why && !(r && r->sum.cases)) || (r && !r->sum.cases && r->sum.skipped);
        if (!r)
            continue;
        s.covered += r->sum.cases != 0;
        s.sum.cases += r->sum.cases;
        s.sum.skipped += r->sum.skipped;
        s.sum.differences += r->sum.differences;
    }
    return s;
}

/* Five steps of colour, each ten times the cases of the one before; the deepest is the most. */
static unsigned step(uint64_t cases, uint64_t most)
{
    unsigned k = 5;
    while (k > 1 && cases < most / 3) {
        most /= 10;
        k--;
    }
    return k;
}

static void write_square(const Square *s, enum OpMap map, unsigned opcode, uint64_t most,
                         GString *out)
{
    if (!s->rows) {
        g_string_append_printf(out, "<button disabled aria-label=\"%02X: none\"></button>", opcode);
        return;
    }
    char shade[8] = "";
    if (s->sum.differences)
        strcpy(shade, "bad");
    else if (s->covered)
        g_snprintf(shade, sizeof(shade), "c%u", step(s->sum.cases, most));
    else
        strcpy(shade, s->out == s->rows ? "skip" : "gap");
    g_string_append_printf(out, "<button class=\"%s%s\" data-c=\"%u.%u\" title=\"", shade,
                           s->covered && s->covered + s->out < s->rows ? " part" : "", map, opcode);
    for (unsigned k = 0; k < ARRAY_LEN(page_map); k++)
        if (page_map[k].map == map && map != MAP_1B)
            g_string_append_printf(out, "%s ", page_map[k].name);
    g_string_append_printf(out, "%02X", opcode);
    if (s->mnemonic) {
        g_string_append_c(out, ' ');
        html_quote(out, s->mnemonic);
    }
    g_string_append_printf(out, "\n%u of %u rows covered\n", s->covered, s->rows);
    grouped(out, s->sum.cases);
    g_string_append(out, " cases, ");
    grouped(out, s->sum.differences);
    g_string_append(out, " with differences\"></button>");
}

static void write_maps(const Page *p, GString *out)
{
    g_autofree Square *square = g_new0(Square, ARRAY_LEN(page_map) * 256);
    uint64_t most = 1;
    for (unsigned m = 0; m < ARRAY_LEN(page_map); m++) {
        for (unsigned o = 0; o < 256; o++) {
            square[m * 256 + o] = look(p, page_map[m].map, o);
            most = MAX_OF(most, square[m * 256 + o].sum.cases);
        }
    }
    for (unsigned m = 0; m < ARRAY_LEN(page_map); m++) {
        g_string_append_printf(
            out, "<section class=\"map\"><h3>%s</h3><div class=\"grid\"><span></span>",
            page_map[m].name);
        for (unsigned o = 0; o < 16; o++)
            g_string_append_printf(out, "<span>%X</span>", o);
        for (unsigned o = 0; o < 256; o++) {
            if (o % 16 == 0)
                g_string_append_printf(out, "<span>%X</span>", o / 16);
            write_square(&square[m * 256 + o], page_map[m].map, o, most, out);
        }
        g_string_append(out, "</div></section>");
    }
}

/* ---- failures, skips, data ---- */

static void write_failures(const Page *p, GString *out)
{
    unsigned n;
    g_autofree ResultsFailure **f = results_sorted_failures(p->d, &n);
    if (!n)
        return;
    g_string_append(out,
                    "<h2>Differences</h2><p class=\"muted\">One entry a cause, with the smallest "
                    "case that was found for it.</p>");
    for (unsigned k = 0; k < n; k++) {
        g_string_append_printf(out, "<details%s><summary><b class=\"mono\">", k < 3 ? " open" : "");
        html_quote(out, f[k]->signature);
        g_string_append(out, "</b> <span class=\"muted\">");
        grouped(out, f[k]->count);
        g_string_append(out, f[k]->count == 1 ? " case; " : " cases; ");
        html_quote(out, f[k]->row);
        g_string_append(out, "; ");
        html_quote(out, f[k]->form);
        g_string_append_printf(
            out, "; seed %#" G_GINT64_MODIFIER "x, case " N64 "</span></summary><pre>", f[k]->seed,
            f[k]->index);
        html_quote(out, *f[k]->text ? f[k]->text : "(no case was saved)");
        g_string_append(out, "</pre></details>");
    }
}

static void write_skips(const Page *p, GString *out)
{
    unsigned n;
    g_autofree char **why = results_sorted_names(p->d->skips, &n);
    if (!n)
        return;
    g_string_append(out, "<h2>Skipped</h2><div class=\"wide\"><table><thead><tr><th>why</th>"
                         "<th class=\"n\">cases</th></tr></thead><tbody>");
    for (unsigned k = 0; k < n; k++) {
        g_string_append(out, "<tr><td>");
        html_quote(out, why[k]);
        g_string_append(out, "</td><td class=\"n\">");
        grouped(out, *(uint64_t *)g_hash_table_lookup(p->d->skips, why[k]));
        g_string_append(out, "</td></tr>");
    }
    g_string_append(out, "</tbody></table></div>");
}

static void write_count(GString *out, const char *name, const CellCount *c)
{
    g_string_append_c(out, '[');
    script_quote(out, name);
    g_string_append_printf(out, "," N64 "," N64 "," N64, c->cases, c->skipped, c->differences);
}

static void write_data(const Page *p, GString *out)
{
    g_string_append(out, "{\"rows\":[");
    for (unsigned k = 0; k < p->n; k++) {
        static const CellCount zero;
        unsigned n = 0;
        const ResultsRow *r = p->row[k].r;
        g_string_append(out, k ? "," : "");
        write_count(out, p->row[k].name, r ? &r->sum : &zero);
        g_string_append(out, ",[");
        g_autofree char **form = r ? results_sorted_names(r->forms, &n) : NULL;
        for (unsigned f = 0; f < n; f++) {
            g_string_append(out, f ? "," : "");
            write_count(out, form[f], g_hash_table_lookup(r->forms, form[f]));
            g_string_append_c(out, ']');
        }
        g_string_append_c(out, ']');
        if (p->row[k].why) {
            g_string_append_c(out, ',');
            script_quote(out, p->row[k].why);
        }
        g_string_append_c(out, ']');
    }
    g_string_append(out, "],\"cells\":{");
    bool first = true;
    for (unsigned m = 0; m < ARRAY_LEN(page_map); m++) {
        for (unsigned o = 0; o < 256; o++) {
            bool any = false;
            for (unsigned k = 0; k < p->n; k++) {
                if (!in_square(&p->row[k], page_map[m].map, o))
                    continue;
                if (any)
                    g_string_append_printf(out, ",%u", k);
                else
                    g_string_append_printf(out, "%s\"%u.%u\":[%u", first ? "" : ",",
                                           page_map[m].map, o, k);
                any = true;
                first = false;
            }
            g_string_append(out, any ? "]" : "");
        }
    }
    g_string_append(out, "}}");
}

static void write_title(const Page *p, GString *out)
{
    g_string_append(out, "Differential campaign: ");
    html_quote(out, p->d->h.engines);
}

static void write_version(const Page *p G_GNUC_UNUSED, GString *out)
{
    html_quote(out, TANDEM_VERSION);
}

void report_html(const ResultsData *d, GString *out)
{
    static const struct {
        const char *place;
        void (*write)(const Page *, GString *);
    } part[] = {
        {"{{title}}", write_title},     {"{{verdict}}", write_verdict},
        {"{{tiles}}", write_tiles},     {"{{campaign}}", write_campaign},
        {"{{maps}}", write_maps},       {"{{failures}}", write_failures},
        {"{{skips}}", write_skips},     {"{{data}}", write_data},
        {"{{version}}", write_version},
    };
    Page p = {.d = d};
    collect_rows(&p);
    for (const char *at = diff_report_page; at < diff_report_page_end;) {
        const char *place = strstr(at, "{{");
        unsigned k = 0;
        if (!place)
            place = diff_report_page_end;
        g_string_append_len(out, at, place - at);
        while (k < ARRAY_LEN(part) && !g_str_has_prefix(place, part[k].place))
            k++;
        at = place;
        if (k < ARRAY_LEN(part)) {
            part[k].write(&p, out);
            at += strlen(part[k].place);
        } else if (place < diff_report_page_end) {
            g_string_append_len(out, place, 2);
            at += 2;
        }
    }
    g_free(p.row);
}
