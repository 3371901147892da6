/*
 * `tandem diff insn`: single instructions on several engines, compared.
 *
 * The campaign's numbers are cut into chunks (results.h), which worker processes run; what they
 * find is shown as it comes, and the totals at the end.
 */
#include "diff/insn.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "diff/engines.h"
#include "diff/modes.h"
#include "diff/progress.h"
#include "tcg/insn.h"

typedef struct Options {
    gint64 cases, seed, stop_after;
    gint jobs;
    char *engines, *rows, *shard, *out, *modes, *save;
    gboolean undefined;
} Options;

enum { JOBS_MAX = 256, PROBES = 400, EXPLAINED_MAX = 40 };

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
}

/* ---- what is asked for ---- */
static bool parse_modes(const char *text, unsigned *modes, GError **err)
{
    *modes = 0;
    char **piece = g_strsplit(text, ",", 0);
    bool ok = true;
    for (unsigned k = 0; ok && piece[k]; k++) {
        const char *p = g_strstrip(piece[k]);
        unsigned found = 0;
        if (!strcmp(p, "user"))
            found = CASE_USER_MODES;
        else if (!strcmp(p, "system"))
            found = CASE_SYSTEM_MODES;
        for (unsigned m = 0; m < CM_N; m++) {
            size_t n = strlen(case_mode_name[m]);
            if (!strncmp(p, case_mode_name[m], n) && (!p[n] || !strcmp(p + n, "0")))
                found |= p[n] || m == CM_REAL ? (unsigned)BIT(m) << 8 : (unsigned)BIT(m);
        }
        ok = found != 0;
        *modes |= found & (CASE_USER_MODES | CASE_SYSTEM_MODES | BIT(CM_PROT32) | BIT(CM_PROT16));
        if (!ok)
            g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                        "--modes %s: there are user, system, long, compat32, compat16, prot32, "
                        "prot16, vm86, real; with 0 behind the name at privilege 0",
                        p);
    }
    g_strfreev(piece);
    return ok;
}

static bool find_engines(InsnPlan *p, const char *names, GError **err)
{
    char **name = g_strsplit(names, ",", 0);
    bool ok = true;
    for (unsigned k = 0; ok && name[k]; k++) {
        const DiffEngine *e = diff_engine_find(g_strstrip(name[k]), err);
        ok = e != NULL;
        for (unsigned n = 0; ok && n < p->n_engines; n++)
            ok = p->engine[n] != e;
        if (!ok && e)
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines: %s is named twice", e->name);
        if (ok && p->n_engines == INSN_ENGINES_MAX) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines: no more than %d",
                        INSN_ENGINES_MAX);
            ok = false;
        }
        if (ok)
            p->engine[p->n_engines++] = e;
    }
    g_strfreev(name);
    if (ok && p->n_engines < 2) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines: at least two, to be compared");
        ok = false;
    }
    return ok;
}

static bool parse_shard(const char *text, CampaignId *id, GError **err)
{
    id->shard = id->shards = 1;
    char rest;
    if (!text || (sscanf(text, "%u/%u%c", &id->shard, &id->shards, &rest) == 2 && id->shard >= 1 &&
                  id->shard <= id->shards))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--shard %s: I/N, from 1/N to N/N", text);
    return false;
}

static bool parse(Options *o, int argc, char *argv[], GError **err)
{
    const GOptionEntry entries[] = {
        {"engines", 'e', 0, G_OPTION_ARG_STRING, &o->engines,
         "what executes the cases, two or more (interp,silicon)", "A,B"},
        {"cases", 'n', 0, G_OPTION_ARG_INT64, &o->cases, "how many cases (1000000)", "N"},
        {"seed", 's', 0, G_OPTION_ARG_INT64, &o->seed, "the campaign's seed (1)", "S"},
        {"rows", 'r', 0, G_OPTION_ARG_STRING, &o->rows,
         "mnemonics, CPUID features or patterns of row names (all)", "PATTERNS"},
        {"modes", 'm', 0, G_OPTION_ARG_STRING, &o->modes,
         "processor modes: user, system, or names (user; all without silicon)", "MODES"},
        {"shard", 0, 0, G_OPTION_ARG_STRING, &o->shard, "this part of the campaign only", "I/N"},
        {"out", 'o', 0, G_OPTION_ARG_FILENAME, &o->out,
         "keep results there as JSON lines; a campaign that was interrupted goes on", "FILE"},
        {"save", 0, 0, G_OPTION_ARG_FILENAME, &o->save,
         "save each kind of failure, shrunk, as a file there: diff replay runs it again "
         "(tests/regress "
         "keeps those that are mended)",
         "FOLDER"},
        {"stop-after", 0, 0, G_OPTION_ARG_INT64, &o->stop_after, "end after N kinds of failure",
         "N"},
        {"undefined", 0, 0, G_OPTION_ARG_NONE, &o->undefined,
         "compare the flags too that an instruction leaves undefined", NULL},
        {"jobs", 'j', 0, G_OPTION_ARG_INT, &o->jobs, "worker processes (one a processor)", "N"},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    GOptionContext *c = g_option_context_new("");
    g_option_context_set_summary(
        c, "Makes cases from the rows of the instruction table - every form, size, prefix and\n"
           "addressing form; values and faults at the edges - and runs each on all engines.\n"
           "Each kind of difference is shrunk, shown, and printed as a case to be replayed.\n"
           "Exit status 1 when there was one.");
    g_option_context_add_main_entries(c, entries, NULL);
    bool ok = g_option_context_parse(c, &argc, &argv, err);
    g_option_context_free(c);
    if (ok && argc > 1) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "'%s' is not understood; see --help", argv[1]);
        ok = false;
    }
    if (ok && (o->cases < 1 || o->stop_after < 0 || o->jobs < 0 || o->jobs > JOBS_MAX)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "--cases must be 1 or more, --stop-after 0 or more, --jobs 0 to %d", JOBS_MAX);
        ok = false;
    }
    return ok;
}

/* ---- rows that can be judged at all ---- */
typedef struct Scope {
    uint8_t *judgeable; /* by row */
    char (*why)[64];    /* of those that are not */
    unsigned n;         /* that are */
} Scope;

/* A row is in scope if two engines take one of its first cases. */
static bool probe_row(const InsnPlan *p, DiffExec *const *x, uint16_t row, DiffCase *c,
                      char why[64])
{
    g_strlcpy(why, "does not exist in these modes", 64);
    if (case_unreachable(row, why))
        return false;
    for (unsigned k = 0; k < PROBES; k++) {
        unsigned takers = 0;
        if (!case_generate(c, p->seed, k, &row, 1, p->modes))
            continue;
        for (unsigned e = 0; e < p->n_engines; e++) {
            const char *refused = insn_refused(p->engine[e], x[e], c);
            takers += !refused;
            if (refused)
                g_snprintf(why, 64, "%s: %.50s", p->engine[e]->name, refused);
        }
        if (takers >= 2)
            return true;
    }
    return false;
}

static bool probe_scope(InsnPlan *p, Scope *s, GError **err)
{
    DiffExec *x[INSN_ENGINES_MAX] = {NULL};
    DiffCase *c = g_new(DiffCase, 1);
    bool ok = true;
    s->judgeable = g_malloc0(op_rows_n);
    s->why = g_malloc0_n(op_rows_n, sizeof(*s->why));
    for (unsigned e = 0; ok && e < p->n_engines; e++) {
        x[e] = p->engine[e]->open(err);
        if (!x[e]) {
            g_prefix_error(err, "engine %s: ", p->engine[e]->name);
            ok = false;
        }
    }
    for (unsigned k = 0; ok && k < p->n_rows; k++) {
        uint16_t row = p->rows[k];
        s->judgeable[row] = probe_row(p, x, row, c, s->why[row]);
        s->n += s->judgeable[row];
    }
    for (unsigned e = 0; e < p->n_engines; e++)
        if (x[e])
            p->engine[e]->close(x[e]);
    g_free(c);
    if (ok && !s->n) {
        char name[64];
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "no row can be judged: %s: %s",
                    case_row_name(p->rows[0], name), s->why[p->rows[0]]);
        ok = false;
    }
    return ok;
}

static int by_why(const void *a, const void *b, void *why)
{
    uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
    char(*text)[64] = why;
    int k = strcmp(text[x], text[y]);
    return k ? k : x - y;
}

static void print_unjudged(const InsnPlan *p, const Scope *s)
{
    g_autofree uint16_t *row = g_new(uint16_t, p->n_rows);
    unsigned n = 0;
    char name[64];
    for (unsigned k = 0; k < p->n_rows; k++)
        if (!s->judgeable[p->rows[k]])
            row[n++] = p->rows[k];
    g_qsort_with_data(row, (int)n, sizeof(*row), by_why, s->why);
    for (unsigned k = 0; k < n; k++) {
        if (k == 0 || strcmp(s->why[row[k]], s->why[row[k - 1]]) != 0)
            printf("%srows not judged (%s):", k ? "\n" : "", s->why[row[k]]);
        printf("%s %s", k && !strcmp(s->why[row[k]], s->why[row[k - 1]]) ? ";" : "",
               case_row_name(row[k], name));
    }
    if (n)
        puts("");
}

/* ---- the campaign ---- */
typedef struct Campaign {
    InsnPlan plan;
    Scope scope;
    CampaignId id;
    ResultsFile *results;
    GHashTable *shown; /* signatures */
    GHashTable *skips; /* why -> count */
    uint64_t next, chunks, done;
    gint64 stop_after;
    const char *save; /* folder, or NULL */
    bool failed;
    Progress progress;
} Campaign;

/* As ROW'S-NAME-HASH.case: the same kind of failure has the same name in every run. */
static void save_failure(const char *folder, const char *signature, const char *case_text)
{
    GError *err = NULL;
    size_t row = strcspn(signature, "|");
    g_autofree char *name =
        g_strdup_printf("%.*s-%08x.case", (int)row, signature, g_str_hash(signature));
    g_strcanon(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-.", '-');
    g_autofree char *path = g_build_filename(folder, name, NULL);
    if (!g_file_set_contents(path, case_text, -1, &err)) {
        warn_user("diff insn: %s is not saved: %s", name, err->message);
        g_error_free(err);
    }
}

static void show_failure(const char *signature, const char *explanation, const char *case_text,
                         void *opaque)
{
    Campaign *c = opaque;
    if (results_has_failure(c->results, signature) ||
        !g_hash_table_add(c->shown, g_strdup(signature)))
        return;
    progress_end(&c->progress);
    if (c->save)
        save_failure(c->save, signature, case_text);
    unsigned n = g_hash_table_size(c->shown);
    if (n <= EXPLAINED_MAX)
        printf("---- %u: %s\n%s\n", n, signature, case_text);
    else
        printf("---- %u: %s\n", n, signature);
    fflush(stdout);
}

/* The next chunk of this shard that is not done, or false. */
static bool next_chunk(Campaign *c, uint64_t *chunk)
{
    bool enough = c->stop_after && g_hash_table_size(c->shown) >= (unsigned)c->stop_after;
    if (interrupted || enough || c->failed)
        return false;
    for (; c->next < c->chunks; c->next++) {
        if (c->next % c->id.shards + 1 != c->id.shard || results_has(c->results, c->next))
            continue;
        *chunk = c->next++;
        return true;
    }
    return false;
}

static uint64_t chunk_cases(const Campaign *c, uint64_t chunk)
{
    return MIN_OF((chunk + 1) * INSN_CHUNK, c->plan.cases) - chunk * INSN_CHUNK;
}

static bool receive(Campaign *c, InsnWorker *w, GError **err)
{
    ChunkResult *r = insn_worker_receive(w, show_failure, c, err);
    bool ok = r != NULL;
    if (ok) {
        double seconds = (double)(g_get_monotonic_time() - w->since) / G_USEC_PER_SEC;
        ok = results_add(c->results, r, seconds, err);
        chunk_free(r);
        c->done += chunk_cases(c, w->chunk);
    }
    return ok;
}

static bool run_workers(Campaign *c, InsnWorker *w, unsigned n, GError **err)
{
    struct pollfd fds[JOBS_MAX];
    for (;;) {
        unsigned busy = 0;
        for (unsigned k = 0; k < n; k++) {
            uint64_t chunk;
            if (!w[k].busy && next_chunk(c, &chunk) && !insn_worker_send(&w[k], chunk, err))
                return false;
            fds[k] = (struct pollfd){.fd = w[k].busy ? w[k].from : -1, .events = POLLIN};
            busy += w[k].busy;
        }
        if (!busy)
            return true;
        char extra[64];
        g_snprintf(extra, sizeof(extra), "%u kinds of failure", g_hash_table_size(c->shown));
        progress(&c->progress, c->done, g_hash_table_size(c->shown) ? extra : NULL);
        if (poll(fds, n, 250) < 0 && errno != EINTR) {
            g_set_error(err, TANDEM_ERROR, ERR_FAILED, "poll: %s", g_strerror(errno));
            return false;
        }
        for (unsigned k = 0; k < n; k++)
            if (w[k].busy && fds[k].revents && !receive(c, &w[k], err))
                return false;
    }
}

static bool run(Campaign *c, unsigned jobs, GError **err)
{
    InsnWorker w[JOBS_MAX] = {{0}};
    uint64_t total = 0;
    bool ok = true;
    unsigned started = 0;
    c->chunks = (c->plan.cases + INSN_CHUNK - 1) / INSN_CHUNK;
    for (uint64_t k = 0; k < c->chunks; k++) {
        if (k % c->id.shards + 1 != c->id.shard)
            continue;
        total += chunk_cases(c, k);
        c->done += results_has(c->results, k) ? chunk_cases(c, k) : 0;
    }
    progress_start(&c->progress, "cases", total, c->done);
    fflush(stdout);
    for (; ok && started < jobs; started += ok)
        ok = insn_worker_start(&w[started], &c->plan, w, started, err);
    ok = ok && run_workers(c, w, jobs, err);
    for (unsigned k = 0; k < started; k++)
        insn_worker_stop(&w[k], !ok);
    progress_end(&c->progress);
    if (ok && (interrupted || c->done < total))
        printf("%s after %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " cases%s\n",
               interrupted ? "interrupted" : "stopped", c->done, total,
               c->results ? ": the same command goes on, if it had --out" : "");
    return ok;
}

static bool prepare(Campaign *c, const Options *o, GError **err)
{
    InsnPlan *p = &c->plan;
    p->seed = (uint64_t)o->seed;
    p->cases = (uint64_t)o->cases;
    p->rows = g_new(uint16_t, op_rows_n);
    p->n_rows = case_select_rows(o->rows, p->rows, err);
    if (!p->n_rows || !find_engines(p, o->engines ? o->engines : "interp,silicon", err))
        return false;
    bool silicon = false;
    for (unsigned e = 0; e < p->n_engines; e++)
        silicon |= !strcmp(p->engine[e]->name, "silicon");
    const char *modes = o->modes ? o->modes : silicon ? "user" : "user,system";
    if (!parse_modes(modes, &p->modes, err) || !parse_shard(o->shard, &c->id, err) ||
        !probe_scope(p, &c->scope, err))
        return false;
    g_autoptr(GString) engines = g_string_new(NULL);
    for (unsigned e = 0; e < p->n_engines; e++)
        g_string_append_printf(engines, "%s%s", e ? "," : "", p->engine[e]->name);
    if (o->modes) /* another campaign */
        g_string_append_printf(engines, " in %s", modes);
    if (o->undefined)
        g_string_append(engines, " with undefined flags");
    case_compare_undefined(o->undefined);
    c->id.seed = p->seed;
    c->id.cases = p->cases;
    c->id.chunk = INSN_CHUNK;
    c->id.engines = engines->str;
    c->id.rows = o->rows ? o->rows : "";
    c->id.row_count = c->scope.n;
    g_autofree const char **unjudged = g_new0(const char *, op_rows_n);
    for (unsigned k = 0; k < p->n_rows; k++)
        if (!c->scope.judgeable[p->rows[k]])
            unjudged[p->rows[k]] = c->scope.why[p->rows[k]];
    c->id.unjudged = unjudged;
    c->results = results_open(o->out, &c->id, err);
    c->id.unjudged = NULL;
    c->stop_after = o->stop_after;
    c->save = o->save;
    return c->results != NULL;
}

static int finish(Campaign *c)
{
    ResultsTotals t;
    results_totals(c->results, &t);
    if (t.skipped)
        printf("skipped=%" G_GUINT64_FORMAT "\n", t.skipped);
    print_unjudged(&c->plan, &c->scope);
    printf("cases=%" G_GUINT64_FORMAT " rows=%u/%u differences=%" G_GUINT64_FORMAT "\n", t.cases,
           t.rows_covered, c->scope.n, t.differences);
    return t.differences != 0;
}

int diff_insn(int argc, char *argv[])
{
    g_autoptr(GError) err = NULL;
    Options o = {.cases = 1000000, .seed = 1};
    Campaign c = {.shown = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL)};
    int status = 2;

    interrupted = 0;
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (parse(&o, argc, argv, &err) && prepare(&c, &o, &err)) {
        unsigned jobs = o.jobs ? (unsigned)o.jobs : MIN_OF(g_get_num_processors(), JOBS_MAX);
        bool ok = run(&c, jobs, &err);
        status = finish(&c);
        if (!ok)
            status = 2;
    }
    if (err)
        warn_user("diff insn: %s", err->message);
    results_close(c.results);
    g_hash_table_destroy(c.shown);
    g_free(c.plan.rows);
    g_free(c.scope.judgeable);
    g_free(c.scope.why);
    g_free(o.engines);
    g_free(o.rows);
    g_free(o.shard);
    g_free(o.out);
    g_free(o.modes);
    g_free(o.save);
    return status;
}
