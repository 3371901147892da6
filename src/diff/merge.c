/* `tandem diff merge`: shards and repeated runs of one campaign, together. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "diff/modes.h"
#include "diff/results_text.h"

/* The merged file is written beside its place and takes it when it is whole. */
typedef struct MergeOut {
    char *path, *tmp;
    FILE *f;
    bool head; /* the header line is written */
    ResultsData *d;
} MergeOut;

static bool out_failed(const MergeOut *o, GError **err)
{
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", o->path, g_strerror(errno));
    return false;
}

static bool write_head(MergeOut *o, GError **err)
{
    ResultsHeader h = o->d->h;
    g_autoptr(GString) line = g_string_new(NULL);
    h.shard = 0;
    results_header_write(&h, line);
    o->head = true;
    return fwrite(line->str, line->len, 1, o->f) == 1 || out_failed(o, err);
}

static bool copy_line(const char *line, size_t len, void *opaque, GError **err)
{
    MergeOut *o = opaque;
    if (!o->head && !write_head(o, err))
        return false;
    return (fwrite(line, len, 1, o->f) == 1 && putc('\n', o->f) != EOF) || out_failed(o, err);
}

static bool open_out(MergeOut *o, GError **err)
{
    struct stat st;
    /* A device or a pipe is written to, and stays what it is. */
    if (stat(o->path, &st) || S_ISREG(st.st_mode))
        o->tmp = g_strdup_printf("%s.new", o->path);
    o->f = fopen(o->tmp ? o->tmp : o->path, "we");
    return o->f || out_failed(o, err);
}

static bool close_out(MergeOut *o, GError **err)
{
    bool ok = (o->head || write_head(o, err));
    ok = ok && ((!fflush(o->f) && (!o->tmp || !fsync(fileno(o->f)))) || out_failed(o, err));
    fclose(o->f);
    o->f = NULL;
    return ok && (!o->tmp || !rename(o->tmp, o->path) || out_failed(o, err));
}

static bool same_file(const char *a, const struct stat *b)
{
    struct stat st;
    return !stat(a, &st) && st.st_dev == b->st_dev && st.st_ino == b->st_ino;
}

static bool merge_file(ResultsData *d, const char *path, MergeOut *o, GError **err)
{
    g_autoptr(GString) notes = g_string_new(NULL);
    struct stat st;
    uint64_t end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool ok = true;
    if (o->path && same_file(o->path, &st)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "%s is to be read and written: give another file with -o", path);
        ok = false;
    }
    ok = ok && results_data_read(d, path, fd, notes, &end, o->f ? copy_line : NULL, o, err);
    close(fd);
    g_auto(GStrv) line = g_strsplit(notes->str, "\n", -1);
    for (char **l = line; *l; l++)
        if (**l)
            warn_user("diff merge: %s", *l);
    if (ok && !end)
        warn_user("diff merge: %s is empty", path);
    return ok;
}

static bool merge_all(ResultsData *d, char **file, MergeOut *o, GError **err)
{
    if (o->path && !open_out(o, err))
        return false;
    for (; *file; file++)
        if (!merge_file(d, *file, o, err))
            return false;
    if (!d->have_header) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "no file holds a campaign");
        return false;
    }
    return !o->f || close_out(o, err);
}

int diff_merge(int argc, char *argv[])
{
    g_autoptr(GError) err = NULL;
    g_auto(GStrv) files = NULL;
    MergeOut o = {0};
    GOptionEntry options[] = {
        {"output", 'o', 0, G_OPTION_ARG_FILENAME, &o.path, "Write the merged campaign there",
         "FILE"},
        {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &files, NULL, "FILE..."},
        {NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_set_summary(
        context,
        "Merges the files of one campaign: shards, and runs that were repeated. Each chunk\n"
        "of cases counts once. Exit status: 0 when no chunk is missing and nothing differs,\n"
        "1 with differences, 2 when chunks are missing or a file cannot be used.");
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        warn_user("diff merge: %s", err->message);
        return 2;
    }
    if (!files) {
        warn_user("diff merge: give the files that --output of 'tandem diff insn' wrote");
        g_free(o.path);
        return 2;
    }
    ResultsData d;
    int status = 2;
    results_data_init(&d);
    o.d = &d;
    if (merge_all(&d, files, &o, &err)) {
        g_autoptr(GString) text = g_string_new(NULL);
        results_text_head(&d, text);
        results_text_skips(&d, text);
        g_string_append_c(text, '\n');
        results_text_rows(&d, false, text);
        g_string_append_c(text, '\n');
        results_text_failures(&d, text);
        uint64_t missing = results_text_missing(&d, text);
        g_string_append(text,
                        missing ? "the campaign is not complete\n" : "the campaign is complete\n");
        results_text_last(&d, text);
        fputs(text->str, stdout);
        status = d.sum.differences ? 1 : missing ? 2 : 0;
    } else {
        warn_user("diff merge: %s", err->message);
    }
    if (o.f)
        fclose(o.f);
    if (o.tmp)
        unlink(o.tmp);
    results_data_clear(&d);
    g_free(o.tmp);
    g_free(o.path);
    return status;
}
