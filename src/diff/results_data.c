/* Reading campaign files: the format stands in results_data.h. What is read is not trusted. */
#include "diff/results_data.h"

#include <errno.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define SHARDS_MAX     1000000u
#define DEPTH_MAX      16
#define LINE_MAX_BYTES (64u << 20)

void json_quote(GString *out, const char *s)
{
    g_autofree char *valid = g_utf8_make_valid(s, -1);
    g_string_append_c(out, '"');
    for (const char *p = valid; *p; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_printf(out, "\\%c", *p);
        else if (*p == '\n')
            g_string_append(out, "\\n");
        else if ((unsigned char)*p < 0x20 || *p == 0x7f)
            g_string_append_printf(out, "\\u%04x", (unsigned char)*p);
        else
            g_string_append_c(out, *p);
    }
    g_string_append_c(out, '"');
}

/* ---- members of an object, with their type checked ---- */

static bool wrong(GError **err, const char *name)
{
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "'%s' is missing or not what it should be", name);
    return false;
}

static bool node_u64(JsonNode *node, uint64_t max, uint64_t *v)
{
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_INT64)
        return false;
    gint64 n = json_node_get_int(node);
    *v = (uint64_t)n;
    return n >= 0 && *v <= max;
}

static bool get_u64(JsonObject *o, const char *name, uint64_t max, uint64_t *v, GError **err)
{
    return node_u64(json_object_get_member(o, name), max, v) || wrong(err, name);
}

static const char *get_string(JsonObject *o, const char *name, GError **err)
{
    JsonNode *node = json_object_get_member(o, name);
    if (!node || !JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        wrong(err, name);
        return NULL;
    }
    return json_node_get_string(node);
}

/* 64 bits do not fit in JSON's numbers everywhere: hexadecimal strings. */
static bool get_hex(JsonObject *o, const char *name, uint64_t *v, GError **err)
{
    const char *s = get_string(o, name, err);
    if (!s)
        return false;
    if (!g_str_has_prefix(s, "0x") ||
        !g_ascii_string_to_unsigned(s + 2, 16, 0, UINT64_MAX, v, NULL))
        return wrong(err, name);
    return true;
}

static JsonObject *get_object(JsonObject *o, const char *name)
{
    JsonNode *node = json_object_get_member(o, name);
    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

/* The parser recurses: no deeper than a chunk needs. */
static bool too_deep(const char *s, size_t len)
{
    unsigned depth = 0;
    bool quoted = false;
    for (size_t k = 0; k < len; k++) {
        if (quoted && s[k] == '\\')
            k++;
        else if (s[k] == '"')
            quoted = !quoted;
        else if (!quoted && (s[k] == '[' || s[k] == '{') && ++depth > DEPTH_MAX)
            return true;
        else if (!quoted && (s[k] == ']' || s[k] == '}') && depth)
            depth--;
    }
    return false;
}

static JsonObject *parse_object(JsonParser *parser, const char *line, gssize len, GError **err)
{
    if (len < 0)
        len = (gssize)strlen(line);
    if (memchr(line, 0, (size_t)len) || !g_utf8_validate(line, len, NULL)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "not text");
        return NULL;
    }
    g_autoptr(GError) parse = NULL;
    if (too_deep(line, (size_t)len) || !json_parser_load_from_data(parser, line, len, &parse)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "not JSON");
        return NULL;
    }
    JsonNode *root = json_parser_get_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "not a JSON object");
        return NULL;
    }
    return json_node_get_object(root);
}

/* The strings of an array; free the array alone. NULL: it is not one. */
static char **string_array(JsonObject *o, const char *name, unsigned *n)
{
    JsonNode *node = json_object_get_member(o, name);
    if (!node || !JSON_NODE_HOLDS_ARRAY(node))
        return NULL;
    JsonArray *a = json_node_get_array(node);
    *n = json_array_get_length(a);
    char **s = g_new(char *, *n + 1);
    for (unsigned k = 0; k < *n; k++) {
        JsonNode *e = json_array_get_element(a, k);
        bool is_string = JSON_NODE_HOLDS_VALUE(e) && json_node_get_value_type(e) == G_TYPE_STRING;
        s[k] = is_string ? (char *)(uintptr_t)json_node_get_string(e) : NULL;
        if (!is_string) {
            g_free(s);
            return NULL;
        }
    }
    s[*n] = NULL;
    return s;
}

/* ---- header ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* {WHY:[row,...],...}; may be missing. */
static bool parse_unjudged(ResultsHeader *h, JsonObject *o)
{
    h->unjudged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    JsonObjectIter it;
    const char *why;
    JsonNode *node;
    if (!o)
        return true;
    json_object_iter_init(&it, o);
    while (json_object_iter_next(&it, &why, &node)) {
        if (!JSON_NODE_HOLDS_ARRAY(node))
            return false;
        JsonArray *a = json_node_get_array(node);
        for (unsigned k = 0; k < json_array_get_length(a); k++) {
            uint64_t row;
            if (!node_u64(json_array_get_element(a, k), UINT16_MAX, &row) || row >= h->table_n)
                return false;
            g_hash_table_insert(h->unjudged, g_strdup(h->table[row]), g_strdup(why));
        }
    }
    return true;
}

static void write_unjudged(const ResultsHeader *h, GString *out)
{
    g_autoptr(GHashTable) reasons = g_hash_table_new(g_str_hash, g_str_equal);
    GHashTableIter it;
    void *why;
    if (h->unjudged) {
        g_hash_table_iter_init(&it, h->unjudged);
        while (g_hash_table_iter_next(&it, NULL, &why))
            g_hash_table_add(reasons, why);
    }
    unsigned n;
    g_autofree char **reason = (char **)g_hash_table_get_keys_as_array(reasons, &n);
    qsort(reason, n, sizeof(*reason), by_text);
    for (unsigned r = 0; r < n; r++) {
        const char *sep = "";
        g_string_append(out, r ? "," : "");
        json_quote(out, reason[r]);
        g_string_append(out, ":[");
        for (unsigned k = 0; k < h->table_n; k++) {
            const char *of = g_hash_table_lookup(h->unjudged, h->table[k]);
            if (of && !strcmp(of, reason[r])) {
                g_string_append_printf(out, "%s%u", sep, k);
                sep = ",";
            }
        }
        g_string_append_c(out, ']');
    }
}

bool results_header_parse(ResultsHeader *h, const char *line, gssize len, GError **err)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    memset(h, 0, sizeof(*h));
    JsonObject *o = parse_object(parser, line, len, err);
    if (!o)
        return false;
    uint64_t format, chunk, shard, shards, rows;
    if (!get_u64(o, "tandem-diff", INT64_MAX, &format, err))
        return false;
    if (format != 1) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "format %" G_GUINT64_FORMAT " is not known to this version", format);
        return false;
    }
    const char *version, *engines, *patterns, *features, *host;
    if (!(version = get_string(o, "version", err)) || !get_hex(o, "seed", &h->seed, err) ||
        !get_u64(o, "cases", INT64_MAX, &h->cases, err) ||
        !get_u64(o, "chunk", UINT32_MAX, &chunk, err) ||
        !get_u64(o, "shards", SHARDS_MAX, &shards, err) ||
        !get_u64(o, "shard", shards, &shard, err) || !(engines = get_string(o, "engines", err)) ||
        !(patterns = get_string(o, "rows", err)) ||
        !get_u64(o, "row-count", UINT16_MAX, &rows, err) ||
        !(features = get_string(o, "features", err)) || !(host = get_string(o, "host", err)))
        return false;
    if (!chunk)
        return wrong(err, "chunk");
    if (!shards)
        return wrong(err, "shards");
    h->chunk = (uint32_t)chunk;
    h->shard = (unsigned)shard;
    h->shards = (unsigned)shards;
    h->row_count = (unsigned)rows;
    h->version = g_strdup(version);
    h->engines = g_strdup(engines);
    h->rows = g_strdup(patterns);
    h->features = g_strdup(features);
    h->host = g_strdup(host);
    unsigned n;
    g_autofree char **table = string_array(o, "table", &n);
    if (!table || n > UINT16_MAX) {
        results_header_clear(h);
        return wrong(err, "table");
    }
    h->table = g_strdupv(table);
    h->table_n = n;
    if (!parse_unjudged(h, get_object(o, "unjudged"))) {
        results_header_clear(h);
        return wrong(err, "unjudged");
    }
    return true;
}

void results_header_clear(ResultsHeader *h)
{
    g_free(h->version);
    g_free(h->engines);
    g_free(h->rows);
    g_free(h->features);
    g_free(h->host);
    g_strfreev(h->table);
    if (h->unjudged)
        g_hash_table_destroy(h->unjudged);
    memset(h, 0, sizeof(*h));
}

void results_header_write(const ResultsHeader *h, GString *out)
{
    g_string_append(out, "{\"tandem-diff\":1,\"version\":");
    json_quote(out, h->version);
    g_string_append_printf(out,
                           ",\"seed\":\"0x%" G_GINT64_MODIFIER "x\",\"cases\":%" G_GUINT64_FORMAT
                           ",\"chunk\":%u,\"shard\":%u,\"shards\":%u,\"engines\":",
                           h->seed, h->cases, h->chunk, h->shard, h->shards);
    json_quote(out, h->engines);
    g_string_append(out, ",\"rows\":");
    json_quote(out, h->rows);
    g_string_append_printf(out, ",\"row-count\":%u,\"features\":", h->row_count);
    json_quote(out, h->features);
    g_string_append(out, ",\"host\":");
    json_quote(out, h->host);
    g_string_append(out, ",\"table\":[");
    for (unsigned k = 0; k < h->table_n; k++) {
        g_string_append(out, k ? "," : "");
        json_quote(out, h->table[k]);
    }
    g_string_append(out, "],\"unjudged\":{");
    write_unjudged(h, out);
    g_string_append(out, "}}\n");
}

static void differs(GString *out, const char *what, const char *a, const char *b)
{
    if (strcmp(a, b))
        g_string_append_printf(out, "%s%s '%s' against '%s'", out->len ? ", " : "", what, a, b);
}

static void differs_number(GString *out, const char *what, uint64_t a, uint64_t b)
{
    if (a != b)
        g_string_append_printf(out, "%s%s %" G_GUINT64_FORMAT " against %" G_GUINT64_FORMAT,
                               out->len ? ", " : "", what, a, b);
}

/* The names that are in one list only. */
static void differs_features(GString *out, const char *a, const char *b)
{
    g_auto(GStrv) in_a = g_strsplit(a, ",", -1);
    g_auto(GStrv) in_b = g_strsplit(b, ",", -1);
    const char *sep = out->len ? ", guest features" : "guest features";
    for (char **f = in_a; *f; f++) {
        if (!g_strv_contains((const char *const *)in_b, *f)) {
            g_string_append_printf(out, "%s +%s", sep, *f);
            sep = "";
        }
    }
    for (char **f = in_b; *f; f++) {
        if (!g_strv_contains((const char *const *)in_a, *f)) {
            g_string_append_printf(out, "%s -%s", sep, *f);
            sep = "";
        }
    }
}

char *results_header_differs(const ResultsHeader *a, const ResultsHeader *b, bool with_shard)
{
    GString *s = g_string_new(NULL);
    differs(s, "version", a->version, b->version);
    differs_number(s, "seed", a->seed, b->seed);
    differs_number(s, "cases", a->cases, b->cases);
    differs_number(s, "chunk size", a->chunk, b->chunk);
    differs_number(s, "shards", a->shards, b->shards);
    if (with_shard)
        differs_number(s, "shard", a->shard, b->shard);
    differs(s, "engines", a->engines, b->engines);
    differs(s, "rows", a->rows, b->rows);
    differs_number(s, "number of rows", a->row_count, b->row_count);
    differs_features(s, a->features, b->features);
    if (a->table_n != b->table_n ||
        !g_strv_equal((const char *const *)a->table, (const char *const *)b->table))
        g_string_append_printf(s, "%sthe instruction tables (%u and %u rows)", s->len ? ", " : "",
                               a->table_n, b->table_n);
    return g_string_free(s, s->len == 0);
}

uint64_t results_chunk_total(const ResultsHeader *h)
{
    return h->cases / h->chunk + (h->cases % h->chunk != 0);
}

/* ---- data ---- */

static void row_free(void *p)
{
    ResultsRow *r = p;
    g_free(r->name);
    g_hash_table_destroy(r->forms);
    g_free(r);
}

static void failure_free(void *p)
{
    ResultsFailure *f = p;
    g_free(f->signature);
    g_free(f->row);
    g_free(f->form);
    g_free(f->text);
    g_free(f);
}

void results_data_init(ResultsData *d)
{
    memset(d, 0, sizeof(*d));
    d->chunks = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    d->rows = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, row_free);
    d->skips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    d->failures = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, failure_free);
    d->hosts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
}

void results_data_clear(ResultsData *d)
{
    results_header_clear(&d->h);
    g_hash_table_destroy(d->chunks);
    g_hash_table_destroy(d->rows);
    g_hash_table_destroy(d->skips);
    g_hash_table_destroy(d->failures);
    g_hash_table_destroy(d->hosts);
    memset(d, 0, sizeof(*d));
}

static void cell_add(CellCount *to, const CellCount *c)
{
    to->cases += c->cases;
    to->skipped += c->skipped;
    to->differences += c->differences;
}

static void add_cell(ResultsData *d, const char *row, const char *form, const CellCount *c)
{
    ResultsRow *r = g_hash_table_lookup(d->rows, row);
    if (!r) {
        r = g_new0(ResultsRow, 1);
        r->name = g_strdup(row);
        r->forms = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        g_hash_table_insert(d->rows, r->name, r);
    }
    CellCount *cell = g_hash_table_lookup(r->forms, form);
    if (!cell) {
        cell = g_new0(CellCount, 1);
        g_hash_table_insert(r->forms, g_strdup(form), cell);
    }
    cell_add(cell, c);
    cell_add(&r->sum, c);
}

/* What cells of a chunk count. */
enum Count { COUNT_CASES, COUNT_SKIPPED, COUNT_DIFFER, COUNT_N };
static const char *const count_name[COUNT_N] = {"cases", "skipped", "differ"};

typedef struct Cells {
    ResultsData *d;
    bool add;     /* or only check and sum */
    uint64_t max; /* cases a chunk */
    char **form;  /* names; owned by the parser */
    unsigned n_forms;
    uint64_t sum[COUNT_N];
} Cells;

/* [row, form, n, form, n, ...] */
static bool walk_row(Cells *c, enum Count what, JsonNode *node)
{
    const ResultsHeader *h = &c->d->h;
    if (!JSON_NODE_HOLDS_ARRAY(node))
        return false;
    JsonArray *a = json_node_get_array(node);
    unsigned len = json_array_get_length(a);
    uint64_t row, form, n;
    if (len < 3 || len % 2 == 0 || !node_u64(json_array_get_element(a, 0), UINT16_MAX, &row) ||
        row >= h->table_n)
        return false;
    for (unsigned k = 1; k < len; k += 2) {
        if (!node_u64(json_array_get_element(a, k), UINT16_MAX, &form) || form >= c->n_forms ||
            !node_u64(json_array_get_element(a, k + 1), c->max, &n))
            return false;
        c->sum[what] += n;
        if (c->sum[what] > c->max)
            return false;
        if (c->add) {
            CellCount cell = {what == COUNT_CASES ? n : 0, what == COUNT_SKIPPED ? n : 0,
                              what == COUNT_DIFFER ? n : 0};
            add_cell(c->d, h->table[row], c->form[form], &cell);
        }
    }
    return true;
}

static bool walk_cells(Cells *c, JsonObject *o, GError **err)
{
    memset(c->sum, 0, sizeof(c->sum));
    for (unsigned what = 0; what < COUNT_N; what++) {
        JsonNode *node = json_object_get_member(o, count_name[what]);
        if (!node && what != COUNT_CASES)
            continue;
        if (!node || !JSON_NODE_HOLDS_ARRAY(node))
            return wrong(err, count_name[what]);
        JsonArray *a = json_node_get_array(node);
        for (unsigned k = 0; k < json_array_get_length(a); k++)
            if (!walk_row(c, (enum Count)what, json_array_get_element(a, k)))
                return wrong(err, count_name[what]);
    }
    /* No case counts twice, and what differs was judged. */
    if (c->sum[COUNT_CASES] + c->sum[COUNT_SKIPPED] > c->max ||
        c->sum[COUNT_DIFFER] > c->sum[COUNT_CASES])
        return wrong(err, "cases");
    return true;
}

static bool walk_skips(JsonObject *skips, uint64_t max, ResultsData *d)
{
    JsonObjectIter it;
    const char *why;
    JsonNode *node;
    if (!skips)
        return true;
    json_object_iter_init(&it, skips);
    while (json_object_iter_next(&it, &why, &node)) {
        uint64_t n;
        if (!node_u64(node, max, &n))
            return false;
        if (!d)
            continue;
        uint64_t *sum = g_hash_table_lookup(d->skips, why);
        if (!sum) {
            sum = g_new0(uint64_t, 1);
            g_hash_table_insert(d->skips, g_strdup(why), sum);
        }
        *sum += n;
    }
    return true;
}

static bool walk_failures(JsonNode *node, uint64_t max, ResultsData *d)
{
    if (!node)
        return true;
    if (!JSON_NODE_HOLDS_ARRAY(node))
        return false;
    JsonArray *a = json_node_get_array(node);
    for (unsigned k = 0; k < json_array_get_length(a); k++) {
        JsonNode *e = json_array_get_element(a, k);
        if (!JSON_NODE_HOLDS_OBJECT(e))
            return false;
        JsonObject *o = json_node_get_object(e);
        const char *signature = get_string(o, "signature", NULL), *row = get_string(o, "row", NULL);
        const char *form = get_string(o, "form", NULL), *text = get_string(o, "case", NULL);
        uint64_t seed, index, count;
        if (!signature || !row || !form || !text || !get_hex(o, "seed", &seed, NULL) ||
            !get_u64(o, "index", INT64_MAX, &index, NULL) ||
            !get_u64(o, "count", max, &count, NULL) || !count)
            return false;
        if (!d)
            continue;
        ResultsFailure *f = g_hash_table_lookup(d->failures, signature);
        if (!f) {
            f = g_new0(ResultsFailure, 1);
            f->signature = g_strdup(signature);
            f->row = g_strdup(row);
            f->form = g_strdup(form);
            f->text = g_strdup(text);
            f->seed = seed;
            f->index = index;
            g_hash_table_insert(d->failures, f->signature, f);
        } else if (!*f->text && *text) {
            g_free(f->text);
            f->text = g_strdup(text);
            f->seed = seed;
            f->index = index;
        }
        f->count += count;
    }
    return true;
}

enum LineKind results_data_line(ResultsData *d, const char *line, gssize len, GError **err)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *o = parse_object(parser, line, len, err);
    if (!o)
        return LINE_BAD;
    uint64_t total = results_chunk_total(&d->h), number, max = d->h.chunk;
    const char *host;
    if (!get_u64(o, "chunk", INT64_MAX, &number, err) || !(host = get_string(o, "host", err)))
        return LINE_BAD;
    if (number >= total || (d->h.shard && number % d->h.shards + 1 != d->h.shard)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "chunk %" G_GUINT64_FORMAT " is not one of this shard's", number);
        return LINE_BAD;
    }
    JsonNode *node = json_object_get_member(o, "seconds");
    double seconds = 0;
    if (node && JSON_NODE_HOLDS_VALUE(node))
        seconds = json_node_get_double(node);
    JsonObject *skips = get_object(o, "skips");
    JsonNode *failures = json_object_get_member(o, "failures");
    Cells cells = {.d = d, .max = max};
    g_autofree char **form = string_array(o, "forms", &cells.n_forms);
    cells.form = form;
    if (!form)
        return wrong(err, "forms"), LINE_BAD;
    if (!walk_cells(&cells, o, err))
        return LINE_BAD;
    if (!walk_skips(skips, max, NULL))
        return wrong(err, "skips"), LINE_BAD;
    if (!walk_failures(failures, max, NULL))
        return wrong(err, "failures"), LINE_BAD;
    if (!(seconds >= 0 && seconds < 1e12))
        return wrong(err, "seconds"), LINE_BAD;
    CellCount sum = {cells.sum[COUNT_CASES], cells.sum[COUNT_SKIPPED], cells.sum[COUNT_DIFFER]};

    ResultsChunk *c = g_hash_table_lookup(d->chunks, &number);
    if (c) {
        d->repeated++;
        if (memcmp(&c->sum, &sum, sizeof(sum))) {
            d->unlike++;
            d->unlike_one = number;
        }
        return LINE_REPEATED;
    }
    c = g_new0(ResultsChunk, 1);
    c->number = number;
    c->sum = sum;
    c->seconds = seconds;
    g_hash_table_insert(d->chunks, &c->number, c);
    cells.add = true;
    walk_cells(&cells, o, NULL);
    walk_skips(skips, max, d);
    walk_failures(failures, max, d);
    if (!g_hash_table_contains(d->hosts, host))
        g_hash_table_add(d->hosts, g_strdup(host));
    cell_add(&d->sum, &sum);
    d->seconds += seconds;
    return LINE_NEW;
}

/* ---- files ---- */

/* The first line of a file, which has to be a header. */
static bool first_line(ResultsData *d, const char *path, const char *line, size_t len, GError **err)
{
    ResultsHeader h;
    if (!results_header_parse(&h, line, (gssize)len, err)) {
        g_prefix_error(err, "%s is not a campaign file of tandem diff: ", path);
        return false;
    }
    if (!d->have_header) {
        d->h = h;
        d->have_header = true;
        return true;
    }
    g_autofree char *other = results_header_differs(&h, &d->h, false);
    if (other)
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s is of another campaign: %s", path, other);
    d->h.shard = h.shard; /* whose chunks follow */
    results_header_clear(&h);
    return !other;
}

/* Lines of a file, read with pread(): closing a copy of the descriptor would give up the lock. */
typedef struct Lines {
    int fd;
    off_t at;
    GString *buf;
    size_t taken; /* bytes of buf that were handed out */
    bool end;
} Lines;

/* The next line, without its newline; whole: it had one. 1, 0 at the end, -1 and errno. */
static int next_line(Lines *l, char **line, size_t *len, bool *whole)
{
    g_string_erase(l->buf, 0, (gssize)l->taken);
    l->taken = 0;
    for (size_t seen = 0;;) {
        char *nl = memchr(l->buf->str + seen, '\n', l->buf->len - seen);
        if (nl || l->end) {
            *line = l->buf->str;
            *len = nl ? (size_t)(nl - l->buf->str) : l->buf->len;
            *whole = nl != NULL;
            l->taken = *len + *whole;
            return l->taken != 0;
        }
        seen = l->buf->len;
        if (seen > LINE_MAX_BYTES) {
            errno = EFBIG;
            return -1;
        }
        g_string_set_size(l->buf, seen + 65536);
        ssize_t n = pread(l->fd, l->buf->str + seen, 65536, l->at);
        g_string_set_size(l->buf, seen + (size_t)MAX_OF(n, 0));
        if (n < 0)
            return -1;
        l->at += n;
        l->end = n == 0;
    }
}

/* A first line without an end: all of a file that was killed at its start, or a foreign file. */
static bool torn_header(const char *line, size_t len)
{
    static const char start[] = "{\"tandem-diff\":";
    return !memcmp(line, start, MIN_OF(len, sizeof(start) - 1));
}

bool results_data_read(ResultsData *d, const char *path, int fd, GString *notes, uint64_t *end,
                       ResultsLineFn *on_new, void *opaque, GError **err)
{
    Lines l = {.fd = fd, .buf = g_string_new(NULL)};
    char *line;
    size_t len;
    bool whole, ok = true;
    int more;
    *end = 0;
    for (uint64_t number = 1; (more = next_line(&l, &line, &len, &whole)) > 0; number++) {
        g_autoptr(GError) bad = NULL;
        if (number == 1 && !whole && !torn_header(line, len)) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s is not a campaign file of tandem diff",
                        path);
            ok = false;
        }
        if (!whole) {
            g_string_append_printf(notes, "%s: the last line was torn and is not counted\n", path);
            break;
        }
        enum LineKind kind = LINE_REPEATED;
        if (number == 1)
            ok = first_line(d, path, line, len, err);
        else
            kind = results_data_line(d, line, (gssize)len, &bad);
        if (kind == LINE_NEW && on_new)
            ok = on_new(line, len, opaque, err);
        else if (kind == LINE_BAD)
            g_string_append_printf(
                notes, "%s: line %" G_GUINT64_FORMAT " is no result and not counted: %s\n", path,
                number, bad->message);
        if (!ok)
            break;
        *end += len + 1;
    }
    if (more < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", path, g_strerror(errno));
        ok = false;
    }
    g_string_free(l.buf, TRUE);
    return ok;
}
