/* Writing campaign files: one chunk, one line, one write. The format stands in results_data.h. */
#include "diff/results.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/cpuid.h"
#include "diff/results_data.h"
#include "tcg/insn.h"

/* ---- a chunk ---- */

struct ChunkResult {
    uint64_t number;
    GHashTable *cells;    /* row << 16 | form -> CellCount */
    GHashTable *skips;    /* why -> count as a pointer */
    GHashTable *failures; /* signature -> ChunkFailure */
};

typedef struct ChunkFailure {
    char *signature, *text;
    uint16_t row, form;
    uint64_t seed, index, count;
} ChunkFailure;

static void chunk_failure_free(void *p)
{
    ChunkFailure *f = p;
    g_free(f->signature);
    g_free(f->text);
    g_free(f);
}

ChunkResult *chunk_new(uint64_t chunk)
{
    ChunkResult *c = g_new0(ChunkResult, 1);
    c->number = chunk;
    c->cells = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    c->skips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    c->failures = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, chunk_failure_free);
    return c;
}

void chunk_free(ChunkResult *c)
{
    if (!c)
        return;
    g_hash_table_destroy(c->cells);
    g_hash_table_destroy(c->skips);
    g_hash_table_destroy(c->failures);
    g_free(c);
}

void chunk_count(ChunkResult *c, uint16_t row, uint16_t form, const CellCount *add)
{
    void *key = GUINT_TO_POINTER((unsigned)row << 16 | form);
    CellCount *cell = g_hash_table_lookup(c->cells, key);
    if (!cell) {
        cell = g_new0(CellCount, 1);
        g_hash_table_insert(c->cells, key, cell);
    }
    cell->cases += add->cases;
    cell->skipped += add->skipped;
    cell->differences += add->differences;
}

void chunk_skip(ChunkResult *c, const char *why)
{
    void *n = g_hash_table_lookup(c->skips, why);
    g_hash_table_insert(c->skips, g_strdup(why), GUINT_TO_POINTER(GPOINTER_TO_UINT(n) + 1));
}

void chunk_failure(ChunkResult *c, const DiffCase *dc, const char *signature, const char *case_text)
{
    ChunkFailure *f = g_hash_table_lookup(c->failures, signature);
    if (!f) {
        f = g_new0(ChunkFailure, 1);
        f->signature = g_strdup(signature);
        f->text = g_strdup(case_text ? case_text : "");
        f->row = dc->row;
        f->form = dc->form;
        f->seed = dc->seed;
        f->index = dc->index;
        g_hash_table_insert(c->failures, f->signature, f);
    }
    f->count++;
}

static int by_cell(const void *a, const void *b)
{
    unsigned x = GPOINTER_TO_UINT(*(void *const *)a), y = GPOINTER_TO_UINT(*(void *const *)b);
    return x < y ? -1 : x > y;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The forms of a chunk by name, each once; place: form -> its place in the list. */
static void write_forms(void **key, unsigned n, uint16_t *place, GString *out)
{
    unsigned known = 0;
    char buf[64];
    g_autofree uint8_t *seen = g_new0(uint8_t, UINT16_MAX + 1);
    g_string_append(out, ",\"forms\":[");
    for (unsigned k = 0; k < n; k++) {
        uint16_t form = (uint16_t)GPOINTER_TO_UINT(key[k]);
        if (seen[form])
            continue;
        seen[form] = 1;
        place[form] = (uint16_t)known;
        g_string_append(out, known++ ? "," : "");
        json_quote(out, case_form_name(form, buf));
    }
    g_string_append_c(out, ']');
}

/* One count of all cells: "name":[[row,form,n,form,n],...] */
static void write_counts(const ChunkResult *c, const char *name, size_t member, void **key,
                         unsigned n, const uint16_t *place, GString *out)
{
    unsigned row = UINT_MAX;
    g_string_append_printf(out, ",\"%s\":[", name);
    for (unsigned k = 0; k < n; k++) {
        unsigned of = GPOINTER_TO_UINT(key[k]) >> 16;
        uint16_t form = (uint16_t)GPOINTER_TO_UINT(key[k]);
        uint64_t count = G_STRUCT_MEMBER(uint64_t, g_hash_table_lookup(c->cells, key[k]), member);
        if (!count)
            continue;
        if (of != row)
            g_string_append_printf(out, "%s[%u", row == UINT_MAX ? "" : "],", of);
        row = of;
        g_string_append_printf(out, ",%u,%" G_GUINT64_FORMAT, place[form], count);
    }
    g_string_append(out, row == UINT_MAX ? "]" : "]]");
}

static void write_cells(const ChunkResult *c, GString *out)
{
    unsigned n;
    g_autofree void **key = g_hash_table_get_keys_as_array(c->cells, &n);
    g_autofree uint16_t *place = g_new0(uint16_t, UINT16_MAX + 1);
    qsort(key, n, sizeof(*key), by_cell);
    write_forms(key, n, place, out);
    write_counts(c, "cases", offsetof(CellCount, cases), key, n, place, out);
    write_counts(c, "skipped", offsetof(CellCount, skipped), key, n, place, out);
    write_counts(c, "differ", offsetof(CellCount, differences), key, n, place, out);
}

/* Sorted, so that the same chunk is the same line on every machine (but for time and host). */
static void write_chunk(const ChunkResult *c, double seconds, const char *host, GString *out)
{
    unsigned n;
    char buf[64], number[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(number, sizeof(number), "%.3f", seconds);
    g_string_append_printf(
        out, "{\"chunk\":%" G_GUINT64_FORMAT ",\"seconds\":%s,\"host\":", c->number, number);
    json_quote(out, host);
    write_cells(c, out);
    g_string_append(out, ",\"skips\":{");
    g_autofree char **why = (char **)g_hash_table_get_keys_as_array(c->skips, &n);
    qsort(why, n, sizeof(*why), by_string);
    for (unsigned k = 0; k < n; k++) {
        g_string_append(out, k ? "," : "");
        json_quote(out, why[k]);
        g_string_append_printf(out, ":%u", GPOINTER_TO_UINT(g_hash_table_lookup(c->skips, why[k])));
    }
    g_string_append(out, "},\"failures\":[");
    g_autofree char **signature = (char **)g_hash_table_get_keys_as_array(c->failures, &n);
    qsort(signature, n, sizeof(*signature), by_string);
    for (unsigned k = 0; k < n; k++) {
        const ChunkFailure *f = g_hash_table_lookup(c->failures, signature[k]);
        g_string_append(out, k ? ",{\"signature\":" : "{\"signature\":");
        json_quote(out, f->signature);
        g_string_append(out, ",\"row\":");
        json_quote(out, case_row_name(f->row, buf));
        g_string_append(out, ",\"form\":");
        json_quote(out, case_form_name(f->form, buf));
        g_string_append_printf(out,
                               ",\"seed\":\"0x%" G_GINT64_MODIFIER
                               "x\",\"index\":%" G_GUINT64_FORMAT ",\"count\":%" G_GUINT64_FORMAT
                               ",\"case\":",
                               f->seed, f->index, f->count);
        json_quote(out, f->text);
        g_string_append_c(out, '}');
    }
    g_string_append(out, "]}\n");
}

/* ---- the file ---- */

struct ResultsFile {
    char *path; /* NULL: memory alone */
    char *host;
    int fd;
    uint64_t end; /* where the next line goes */
    ResultsData d;
};

/* The processor's own name for itself. */
static char *host_name(void)
{
    union {
        uint32_t r[12];
        char s[49];
    } brand = {0};
    unsigned eax = 0, ebx, ecx, edx;
    __get_cpuid(0x80000000, &eax, &ebx, &ecx, &edx);
    if (eax >= 0x80000004)
        for (unsigned k = 0; k < 3; k++)
            __get_cpuid(0x80000002 + k, &brand.r[k * 4], &brand.r[k * 4 + 1], &brand.r[k * 4 + 2],
                        &brand.r[k * 4 + 3]);
    return g_strdup(brand.s[0] ? g_strstrip(brand.s) : "unnamed processor");
}

static char *guest_features(GError **err)
{
    g_autofree CpuidTable *t = g_new(CpuidTable, 1);
    if (!cpuid_build(t, "max", NULL, 1, 1000000, err))
        return NULL;
    GString *s = g_string_new(NULL);
    for (unsigned f = 0; f < FEAT_N; f++)
        if (cpuid_has(t, (enum CpuFeature)f))
            g_string_append_printf(s, "%s%s", s->len ? "," : "",
                                   cpu_feature_name((enum CpuFeature)f));
    return g_string_free(s, FALSE);
}

static bool make_header(ResultsHeader *h, const CampaignId *id, GError **err)
{
    g_autofree uint16_t *rows = g_new(uint16_t, op_rows_n);
    *h = (ResultsHeader){
        .version = g_strdup(TANDEM_VERSION),
        .seed = id->seed,
        .cases = id->cases,
        .chunk = id->chunk,
        .shard = id->shard,
        .shards = id->shards,
        .engines = g_strdup(id->engines),
        .rows = g_strdup(id->rows ? id->rows : ""),
        .host = host_name(),
        .table = g_new0(char *, op_rows_n + 1),
        .table_n = op_rows_n,
    };
    for (unsigned k = 0; k < op_rows_n; k++) {
        char name[64];
        h->table[k] = g_strdup(case_row_name((uint16_t)k, name));
    }
    h->unjudged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    for (unsigned k = 0; id->unjudged && k < op_rows_n; k++)
        if (id->unjudged[k])
            g_hash_table_insert(h->unjudged, g_strdup(h->table[k]), g_strdup(id->unjudged[k]));
    h->row_count = case_select_rows(*h->rows ? h->rows : NULL, rows, err);
    if (h->row_count && id->row_count)
        h->row_count = id->row_count;
    h->features = h->row_count ? guest_features(err) : NULL;
    return h->features != NULL;
}

static bool failed(ResultsFile *f, GError **err, const char *doing)
{
    int code = errno;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s: %s", f->path, doing, g_strerror(code));
    return false;
}

/* The lock is the process's own: children that outlive a killed parent do not hold it. */
static bool lock_file(ResultsFile *f, GError **err)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (!fcntl(f->fd, F_SETLK, &l))
        return true;
    if (errno != EAGAIN && errno != EACCES)
        return failed(f, err, "cannot be locked");
    bool known = !fcntl(f->fd, F_GETLK, &l) && l.l_type != F_UNLCK && l.l_pid > 0;
    g_autofree char *who =
        known ? g_strdup_printf("process %d", (int)l.l_pid) : g_strdup("another process");
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "%s is being written by %s: wait for it, or give another file", f->path, who);
    return false;
}

/* The directory's entry must outlive a crash as the file does. */
static void sync_directory(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* One write and its way to the disk. What was half written is cut off again. */
static bool append(ResultsFile *f, const GString *line, GError **err)
{
    ssize_t n = pwrite(f->fd, line->str, line->len, (off_t)f->end);
    if (n == (ssize_t)line->len && !fdatasync(f->fd)) {
        f->end += line->len;
        return true;
    }
    int code = n < 0 || n == (ssize_t)line->len ? errno : ENOSPC;
    if (n >= 0 && n < (ssize_t)line->len) { /* what stopped it is said by the next try */
        ssize_t more = pwrite(f->fd, line->str + n, line->len - (size_t)n, (off_t)f->end + n);
        if (more < 0)
            code = errno;
    }
    if (n > 0 && ftruncate(f->fd, (off_t)f->end))
        g_debug("%s: a torn line stays; the next run cuts it off", f->path);
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "%s: %s; the %u chunks in it stay good: make room and give the same command again "
                "to continue",
                f->path, g_strerror(code), g_hash_table_size(f->d.chunks));
    return false;
}

static bool open_file(ResultsFile *f, const ResultsHeader *want, GError **err)
{
    struct stat st;
    signal(SIGXFSZ, SIG_IGN);
    f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return failed(f, err, "cannot be opened");
    if (fstat(f->fd, &st))
        return failed(f, err, "cannot be read");
    if (!S_ISREG(st.st_mode)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "%s is not a regular file: a campaign is continued from its file", f->path);
        return false;
    }
    if (!lock_file(f, err))
        return false;
    g_autoptr(GString) notes = g_string_new(NULL);
    if (!results_data_read(&f->d, f->path, f->fd, notes, &f->end, NULL, NULL, err))
        return false;
    if (f->d.have_header) {
        g_autofree char *other = results_header_differs(&f->d.h, want, true);
        if (other) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                        "%s holds another campaign (%s): give another file, or remove it", f->path,
                        other);
            return false;
        }
    }
    g_auto(GStrv) line = g_strsplit(notes->str, "\n", -1);
    for (char **l = line; *l; l++)
        if (**l)
            warn_user("diff: %s", *l);
    if (ftruncate(f->fd, (off_t)f->end))
        return failed(f, err, "a torn line cannot be cut off");
    if (f->d.have_header)
        return true;
    g_autoptr(GString) head = g_string_new(NULL);
    results_header_write(want, head);
    if (!append(f, head, err))
        return false;
    sync_directory(f->path);
    return true;
}

ResultsFile *results_open(const char *path, const CampaignId *id, GError **err)
{
    ResultsFile *f = g_new0(ResultsFile, 1);
    ResultsHeader want;
    f->path = g_strdup(path);
    f->fd = -1;
    results_data_init(&f->d);
    if (!make_header(&want, id, err) || (path && !open_file(f, &want, err))) {
        results_header_clear(&want);
        results_close(f);
        return NULL;
    }
    f->host = g_strdup(want.host);
    results_header_clear(&f->d.h);
    f->d.h = want;
    f->d.have_header = true;
    return f;
}

bool results_has(const ResultsFile *f, uint64_t chunk)
{
    return g_hash_table_contains(f->d.chunks, &chunk);
}

bool results_has_failure(const ResultsFile *f, const char *signature)
{
    const ResultsFailure *seen = g_hash_table_lookup(f->d.failures, signature);
    return seen && *seen->text;
}

bool results_add(ResultsFile *f, const ChunkResult *c, double seconds, GError **err)
{
    if (results_has(f, c->number))
        return true;
    g_autoptr(GString) line = g_string_new(NULL);
    write_chunk(c, seconds, f->host, line);
    if (f->path && !append(f, line, err))
        return false;
    /* Counted as a reader counts it: what is on the disk and what is said here are the same. */
    return results_data_line(&f->d, line->str, (gssize)line->len - 1, err) != LINE_BAD;
}

void results_totals(const ResultsFile *f, ResultsTotals *t)
{
    GHashTableIter it;
    void *row;
    *t = (ResultsTotals){f->d.sum.cases, f->d.sum.skipped, f->d.sum.differences, 0};
    g_hash_table_iter_init(&it, f->d.rows);
    while (g_hash_table_iter_next(&it, NULL, &row))
        t->rows_covered += ((ResultsRow *)row)->sum.cases != 0;
}

void results_close(ResultsFile *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    results_data_clear(&f->d);
    g_free(f->path);
    g_free(f->host);
    g_free(f);
}
