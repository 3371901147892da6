/* `tandem diff replay`: saved cases, run again and shown. */
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/log.h"
#include "diff/case.h"
#include "diff/modes.h"

enum { ENGINES_MAX = 8, FILE_MAX = 1 << 20 };

typedef struct Replay {
    const DiffEngine *engine[ENGINES_MAX];
    DiffExec *exec[ENGINES_MAX];
    DiffOutcome out[ENGINES_MAX];
    unsigned n;
    bool list, quiet;
    unsigned files, agree, differ, not_judged, unreadable;
} Replay;

static bool open_engines(Replay *r, const char *names, GError **err)
{
    char **name = g_strsplit(names, ",", -1);
    bool ok = true;
    for (unsigned i = 0; ok && name[i]; i++) {
        if (r->n == ENGINES_MAX) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines: more than %u", ENGINES_MAX);
            ok = false;
            break;
        }
        const DiffEngine *e = diff_engine_find(name[i], err);
        DiffExec *x = e ? e->open(err) : NULL;
        ok = x != NULL;
        if (ok) {
            r->engine[r->n] = e;
            r->exec[r->n++] = x;
        }
    }
    if (ok && r->n < 2) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines: name two or more, as interp,kvm");
        ok = false;
    }
    g_strfreev(name);
    return ok;
}

static bool load(DiffCase *c, const char *path, GError **err)
{
    g_autofree char *text = NULL;
    gsize len;
    if (!file_read(path, FILE_MAX, &text, &len, err))
        return false;
    if (memchr(text, 0, len)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s: not a case: it holds zero bytes", path);
        return false;
    }
    if (!case_read(c, text, path, err))
        return false;
    if (case_classify(c))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                "%s: the bytes are no instruction of ops.def in mode %s", path,
                case_mode_name[c->mode]);
    return false;
}

static void run(Replay *r, const DiffCase *c, unsigned i)
{
    const char *why = r->engine[i]->refuses(r->exec[i], c);
    if (!why) {
        r->engine[i]->run(r->exec[i], c, &r->out[i], 1);
        return;
    }
    memset(&r->out[i], 0, sizeof(r->out[i]));
    r->out[i].kind = OUT_SKIPPED;
    g_strlcpy(r->out[i].why, why, sizeof(r->out[i].why));
}

/* Each engine against the first that can judge the case. */
static void replay(Replay *r, const DiffCase *c, const char *path)
{
    bool differ = false;
    unsigned judges = 0, first = 0;

    for (unsigned i = 0; i < r->n; i++) {
        run(r, c, i);
        judges += r->out[i].kind != OUT_SKIPPED;
    }
    while (first + 1 < r->n && r->out[first].kind == OUT_SKIPPED)
        first++;
    for (unsigned i = 0; i < r->n; i++) {
        if (i == first || (i < first && judges > 1))
            continue;
        bool same = case_compare(c, &r->out[first], &r->out[i],
                                 r->engine[first]->groups & r->engine[i]->groups, NULL);
        const char *known = same ? NULL
                                 : case_known(c, r->engine[first], r->exec[first], &r->out[first],
                                              r->engine[i], r->exec[i], &r->out[i]);
        differ |= !same && !known;
        judges -= known != NULL;
        if (known)
            printf("%s: %s: %s\n", path, r->engine[i]->name, known);
        if (r->quiet && (same || known))
            continue;
        g_autoptr(GString) text = g_string_new(NULL);
        case_explain(c, r->engine[first], &r->out[first], r->engine[i], &r->out[i], text);
        printf("%s\n", text->str);
    }
    const char *verdict = differ ? "differ" : judges < 2 ? "not judged" : "agree";
    r->differ += differ;
    r->not_judged += !differ && judges < 2;
    r->agree += !differ && judges >= 2;
    if (!r->quiet || differ)
        printf("%s: %s\n%s", path, verdict, r->quiet ? "" : "\n");
}

static void one_file(Replay *r, const char *path)
{
    g_autoptr(GError) err = NULL;
    DiffCase *c = g_new(DiffCase, 1);
    r->files++;
    if (!load(c, path, &err)) {
        warn_user("%s", err->message);
        r->unreadable++;
    } else if (r->list) {
        g_autoptr(GString) text = g_string_new(NULL);
        char row[64];
        case_asm(c, text);
        printf("%s: %s, CPL %u: %s (row %s)\n", path, case_mode_name[c->mode], c->in.cpl, text->str,
               case_row_name(c->row, row));
    } else {
        replay(r, c, path);
    }
    g_free(c);
}

int diff_replay(int argc, char *argv[])
{
    Replay *r = g_new0(Replay, 1);
    g_autofree char *engines = NULL;
    g_auto(GStrv) files = NULL;
    gboolean list = FALSE, quiet = FALSE;
    const GOptionEntry options[] = {
        {"engines", 0, 0, G_OPTION_ARG_STRING, &engines, "two or more executors (interp,silicon)",
         "A,B"},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "show only cases on which they differ", NULL},
        {"list", 0, 0, G_OPTION_ARG_NONE, &list, "read and classify the files; run nothing", NULL},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &files, NULL, "FILE..."},
        {NULL},
    };
    g_autoptr(GError) err = NULL;
    GOptionContext *context = g_option_context_new(NULL);
    g_option_context_set_summary(context,
                                 "Runs saved cases on each engine and shows inputs and outcomes "
                                 "side by side.\nExit status: 0 when no two differ, 1 when some "
                                 "do, 2 when a file or an engine cannot be used.");
    g_option_context_add_main_entries(context, options, NULL);
    bool ok = g_option_context_parse(context, &argc, &argv, &err);
    g_option_context_free(context);
    r->list = list;
    r->quiet = quiet;
    if (ok && !files) {
        g_set_error(&err, TANDEM_ERROR, ERR_USAGE,
                    "no case file named; those in tests/regress are there to be replayed");
        ok = false;
    }
    ok = ok && (list || open_engines(r, engines ? engines : "interp,silicon", &err));
    for (unsigned i = 0; ok && files[i]; i++)
        one_file(r, files[i]);
    for (unsigned i = 0; i < r->n; i++)
        r->engine[i]->close(r->exec[i]);
    if (!ok)
        warn_user("diff replay: %s", err->message);
    else if (list)
        printf("files=%u unreadable=%u\n", r->files, r->unreadable);
    else
        printf("files=%u agree=%u differ=%u not-judged=%u unreadable=%u\n", r->files, r->agree,
               r->differ, r->not_judged, r->unreadable);
    int status = !ok || r->unreadable ? 2 : r->differ ? 1 : 0;
    g_free(r);
    return status;
}
