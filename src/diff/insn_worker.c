/*
 * The processes of `tandem diff insn` that do the work. Each has executors of its own, gets chunk
 * numbers through one pipe and writes what came of them to another:
 *
 *   Head, then n_cells Cells, n_skips and n_failures records, each a length and its text
 *
 * The first case of each kind of failure is shrunk and explained before it is sent.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "diff/insn.h"
#include "tcg/insn.h"

enum { BATCH = 24 };

typedef struct Head {
    uint32_t n_cells, n_skips, n_failures, pad;
    char broken[192]; /* why the worker gave up */
} Head;

typedef struct Cell {
    uint16_t row, form;
    uint32_t pad;
    CellCount count;
} Cell;

typedef struct FailureHead {
    uint32_t signature, explanation, text; /* bytes, with their NULs; 0: none */
    uint16_t row, form;
    uint64_t index;
} FailureHead;

/* ---- pipes ---- */
static bool read_all(int fd, void *p, size_t n)
{
    char *b = p;
    while (n) {
        ssize_t k = read(fd, b, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        b += k;
        n -= (size_t)k;
    }
    return true;
}

/* ---- the worker's side ---- */
typedef struct Work {
    const InsnPlan *plan;
    DiffExec *exec[INSN_ENGINES_MAX];
    DiffCase *c;                           /* BATCH of them */
    DiffOutcome *o[INSN_ENGINES_MAX];      /* BATCH each */
    uint8_t runs[INSN_ENGINES_MAX][BATCH]; /* whether the engine runs the case */
    GHashTable *cells;                     /* row << 16 | form -> CellCount */
    GHashTable *skips;                     /* why -> count as a pointer */
    GHashTable *seen;                      /* signatures that were sent with a text */
    GByteArray *failures;
    uint32_t n_failures;
} Work;

static CellCount *cell_of(Work *w, const DiffCase *c)
{
    void *key = GUINT_TO_POINTER((unsigned)c->row << 16 | c->form);
    CellCount *cell = g_hash_table_lookup(w->cells, key);
    if (!cell) {
        cell = g_new0(CellCount, 1);
        g_hash_table_insert(w->cells, key, cell);
    }
    return cell;
}

static void count_skip(Work *w, const DiffCase *c, const char *why)
{
    void *n = g_hash_table_lookup(w->skips, why);
    g_hash_table_insert(w->skips, g_strdup(why), GUINT_TO_POINTER(GPOINTER_TO_UINT(n) + 1));
    cell_of(w, c)->skipped++;
}

const char *insn_refused(const DiffEngine *e, DiffExec *x, const DiffCase *c)
{
    return e->refuses ? e->refuses(x, c) : NULL;
}

/* Failures of one cause have one signature: the row, and what differs without numbers. */
static char *signature_of(const DiffCase *c, const Differences *d)
{
    char name[64], what[24];
    g_strlcpy(what, d->d[0].what, sizeof(what));
    if (g_str_has_prefix(what, "ZMM") || g_str_has_prefix(what, "FPR"))
        what[3] = 0;
    if (strchr(what, '+'))
        *strchr(what, '+') = 0;
    if (!strcmp(what, "vector") || !strcmp(what, "outcome"))
        return g_strdup_printf("%s|%s %.30s / %.30s", case_row_name(c->row, name), what, d->d[0].a,
                               d->d[0].b);
    return g_strdup_printf("%s|%s", case_row_name(c->row, name), what);
}

static void put_failure(Work *w, const DiffCase *c, const char *signature, const char *explanation,
                        const char *text)
{
    FailureHead h = {.signature = (uint32_t)strlen(signature) + 1,
                     .explanation = explanation ? (uint32_t)strlen(explanation) + 1 : 0,
                     .text = text ? (uint32_t)strlen(text) + 1 : 0,
                     .row = c->row,
                     .form = c->form,
                     .index = c->index};
    g_byte_array_append(w->failures, (const guint8 *)&h, sizeof(h));
    g_byte_array_append(w->failures, (const guint8 *)signature, h.signature);
    if (explanation)
        g_byte_array_append(w->failures, (const guint8 *)explanation, h.explanation);
    if (text)
        g_byte_array_append(w->failures, (const guint8 *)text, h.text);
    w->n_failures++;
}

static void failed(Work *w, const DiffCase *c, unsigned a, unsigned b, const Differences *d)
{
    const DiffEngine *ea = w->plan->engine[a], *eb = w->plan->engine[b];
    char *signature = signature_of(c, d);
    if (g_hash_table_contains(w->seen, signature)) {
        put_failure(w, c, signature, NULL, NULL);
        g_free(signature);
        return;
    }
    g_hash_table_add(w->seen, g_strdup(signature));
    DiffCase *small = g_memdup2(c, sizeof(*c));
    DiffOutcome *o = g_new0(DiffOutcome, 2);
    GString *text = g_string_new(NULL), *explanation = g_string_new(NULL);
    case_shrink(small, ea, w->exec[a], eb, w->exec[b]);
    ea->run(w->exec[a], small, &o[0], 1);
    eb->run(w->exec[b], small, &o[1], 1);
    case_write(small, text);
    case_explain(small, ea, &o[0], eb, &o[1], explanation);
    char **line = g_strsplit(explanation->str, "\n", 0);
    for (unsigned k = 0; line[k]; k++)
        if (line[k][0])
            g_string_append_printf(text, "# %s\n", line[k]);
    g_strfreev(line);
    put_failure(w, c, signature, explanation->str, text->str);
    g_string_free(text, TRUE);
    g_string_free(explanation, TRUE);
    g_free(small);
    g_free(o);
    g_free(signature);
}

/*
 * Silicon shares its processor: a process that is preempted between two instructions loses x87
 * pointers that XSAVE does not save (AMD), for one. What a second run does not show was that.
 */
static bool was_disturbed(Work *w, unsigned a, unsigned b, unsigned k, Differences *d)
{
    const DiffEngine *ea = w->plan->engine[a], *eb = w->plan->engine[b];
    bool any = false;
    for (unsigned n = 0; n < 2; n++) {
        unsigned e = n ? b : a;
        if (w->plan->engine[e]->shared) {
            w->plan->engine[e]->run(w->exec[e], &w->c[k], &w->o[e][k], 1);
            any = true;
        }
    }
    return any && case_compare(&w->c[k], &w->o[a][k], &w->o[b][k], ea->groups & eb->groups, d);
}

/* Every engine against the first that judged the case. */
static void judge(Work *w, unsigned k)
{
    const InsnPlan *p = w->plan;
    const DiffCase *c = &w->c[k];
    int first = -1;
    bool judged = false, differs = false;
    const char *why = NULL;
    for (unsigned e = 0; e < p->n_engines; e++) {
        if (!w->runs[e][k])
            continue;
        if (w->o[e][k].kind == OUT_SKIPPED) {
            why = w->o[e][k].why;
            continue;
        }
        if (first < 0) {
            first = (int)e;
            continue;
        }
        Differences d;
        if (!case_compare(c, &w->o[first][k], &w->o[e][k],
                          p->engine[first]->groups & p->engine[e]->groups, &d) &&
            !was_disturbed(w, (unsigned)first, e, k, &d)) {
            const char *known = case_known(c, p->engine[first], w->exec[first], &w->o[first][k],
                                           p->engine[e], w->exec[e], &w->o[e][k]);
            if (known) {
                why = known;
                continue;
            }
            differs = true;
            failed(w, c, (unsigned)first, e, &d);
        }
        judged = true;
    }
    if (!judged) {
        count_skip(w, c, why ? why : "no two engines");
        return;
    }
    CellCount *cell = cell_of(w, c);
    cell->cases++;
    cell->differences += differs;
}

/* Runs of neighbours that this engine takes. */
static void run_engine(Work *w, unsigned e, unsigned n)
{
    for (unsigned k = 0, m; k < n; k = m) {
        for (m = k; m < n && w->runs[e][m] == w->runs[e][k]; m++) {
        }
        if (w->runs[e][k])
            w->plan->engine[e]->run(w->exec[e], &w->c[k], &w->o[e][k], m - k);
    }
}

static void run_chunk(Work *w, uint64_t chunk)
{
    const InsnPlan *p = w->plan;
    uint64_t at = chunk * INSN_CHUNK, end = MIN_OF(at + INSN_CHUNK, p->cases);
    while (at < end) {
        unsigned n = 0;
        for (; n < BATCH && at < end; at++) {
            DiffCase *c = &w->c[n];
            if (!case_generate(c, p->seed, at, p->rows, p->n_rows, p->modes)) {
                c->form = 0;
                count_skip(w, c, "the row does not exist in these modes");
                continue;
            }
            unsigned takers = 0;
            const char *why = NULL;
            for (unsigned e = 0; e < p->n_engines; e++) {
                const char *refused = insn_refused(p->engine[e], w->exec[e], c);
                w->runs[e][n] = !refused;
                takers += !refused;
                why = refused ? refused : why;
            }
            if (takers < 2)
                count_skip(w, c, why);
            else
                n++;
        }
        for (unsigned e = 0; e < p->n_engines; e++)
            run_engine(w, e, n);
        for (unsigned k = 0; k < n; k++)
            judge(w, k);
    }
}

static bool send_result(Work *w, int fd)
{
    Head h = {.n_cells = g_hash_table_size(w->cells),
              .n_skips = g_hash_table_size(w->skips),
              .n_failures = w->n_failures};
    GHashTableIter it;
    void *key, *value;
    bool ok = write_all(fd, &h, sizeof(h));
    g_hash_table_iter_init(&it, w->cells);
    while (ok && g_hash_table_iter_next(&it, &key, &value)) {
        Cell c = {.row = (uint16_t)(GPOINTER_TO_UINT(key) >> 16),
                  .form = (uint16_t)GPOINTER_TO_UINT(key),
                  .count = *(CellCount *)value};
        ok = write_all(fd, &c, sizeof(c));
    }
    g_hash_table_iter_init(&it, w->skips);
    while (ok && g_hash_table_iter_next(&it, &key, &value)) {
        uint32_t n[2] = {(uint32_t)strlen(key) + 1, GPOINTER_TO_UINT(value)};
        ok = write_all(fd, n, sizeof(n)) && write_all(fd, key, n[0]);
    }
    return ok && write_all(fd, w->failures->data, w->failures->len);
}

static bool open_engines(Work *w, GError **err)
{
    for (unsigned e = 0; e < w->plan->n_engines; e++) {
        w->exec[e] = w->plan->engine[e]->open(err);
        if (!w->exec[e])
            return false;
        w->o[e] = g_new0(DiffOutcome, BATCH);
    }
    return true;
}

static void G_GNUC_NORETURN worker(const InsnPlan *plan, int from, int to)
{
    Work w = {.plan = plan};
    GError *err = NULL;
    uint64_t chunk;
    signal(SIGINT, SIG_IGN); /* the parent's business */
    signal(SIGPIPE, SIG_IGN);
    w.c = g_new(DiffCase, BATCH);
    w.cells = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    w.skips = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    w.seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    w.failures = g_byte_array_new();
    bool ok = open_engines(&w, &err);
    while (read_all(from, &chunk, sizeof(chunk))) {
        if (!ok) {
            Head h = {.n_cells = 0};
            g_strlcpy(h.broken, err->message, sizeof(h.broken));
            write_all(to, &h, sizeof(h));
            break;
        }
        run_chunk(&w, chunk);
        if (!send_result(&w, to))
            break;
        g_hash_table_remove_all(w.cells);
        g_hash_table_remove_all(w.skips);
        g_byte_array_set_size(w.failures, 0);
        w.n_failures = 0;
    }
    for (unsigned e = 0; e < plan->n_engines; e++)
        if (w.exec[e])
            plan->engine[e]->close(w.exec[e]);
    _exit(0);
}

/* ---- the parent's side ---- */
bool insn_worker_start(InsnWorker *w, const InsnPlan *plan, const InsnWorker *others, unsigned n,
                       GError **err)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    if (pipe(to) == 0 && pipe(from) == 0) {
        w->pid = fork();
        if (w->pid == 0) {
            for (unsigned k = 0; k < n; k++) {
                close(others[k].to);
                close(others[k].from);
            }
            close(to[1]);
            close(from[0]);
            worker(plan, to[0], from[1]);
        }
        close(to[0]);
        close(from[1]);
        w->to = to[1];
        w->from = from[0];
        w->busy = false;
        if (w->pid > 0)
            return true;
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "cannot start a worker: %s", g_strerror(errno));
    return false;
}

bool insn_worker_send(InsnWorker *w, uint64_t chunk, GError **err)
{
    w->chunk = chunk;
    w->since = g_get_monotonic_time();
    w->busy = write_all(w->to, &chunk, sizeof(chunk));
    if (!w->busy)
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "a worker has died");
    return w->busy;
}

static char *receive_text(int fd, uint32_t n, bool *ok)
{
    char *s = n ? g_malloc(n) : NULL;
    if (n && (!*ok || !read_all(fd, s, n))) {
        s[0] = 0;
        *ok = false;
    } else if (n) {
        s[n - 1] = 0;
    }
    return s;
}

static bool receive_failure(InsnWorker *w, ChunkResult *r, InsnFailureFn *failure, void *opaque)
{
    FailureHead h;
    bool ok = read_all(w->from, &h, sizeof(h));
    if (!ok)
        return false;
    g_autofree char *signature = receive_text(w->from, h.signature, &ok);
    g_autofree char *explanation = receive_text(w->from, h.explanation, &ok);
    g_autofree char *text = receive_text(w->from, h.text, &ok);
    if (!ok)
        return false;
    g_autofree DiffCase *c = g_new0(DiffCase, 1);
    c->row = h.row;
    c->form = h.form;
    c->index = h.index;
    chunk_failure(r, c, signature, text);
    if (text)
        failure(signature, explanation, text, opaque);
    return true;
}

ChunkResult *insn_worker_receive(InsnWorker *w, InsnFailureFn *failure, void *opaque, GError **err)
{
    Head h;
    bool ok = read_all(w->from, &h, sizeof(h));
    w->busy = false;
    if (!ok || h.broken[0]) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s",
                    ok ? h.broken : "a worker has died: run the same command again to go on");
        return NULL;
    }
    ChunkResult *r = chunk_new(w->chunk);
    for (uint32_t k = 0; ok && k < h.n_cells; k++) {
        Cell c;
        ok = read_all(w->from, &c, sizeof(c));
        if (ok)
            chunk_count(r, c.row, c.form, &c.count);
    }
    for (uint32_t k = 0; ok && k < h.n_skips; k++) {
        uint32_t n[2];
        ok = read_all(w->from, n, sizeof(n));
        g_autofree char *why = ok ? receive_text(w->from, n[0], &ok) : NULL;
        for (uint32_t m = 0; ok && m < n[1]; m++)
            chunk_skip(r, why);
    }
    for (uint32_t k = 0; ok && k < h.n_failures; k++)
        ok = receive_failure(w, r, failure, opaque);
    if (ok)
        return r;
    chunk_free(r);
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "a worker has died in the middle of a chunk");
    return NULL;
}

void insn_worker_stop(InsnWorker *w, bool at_once)
{
    if (w->pid <= 0)
        return;
    close(w->to);
    if (at_once)
        kill(w->pid, SIGTERM);
    close(w->from);
    waitpid(w->pid, NULL, 0);
    w->pid = 0;
}
