/* `tandem diff report`: a campaign file for people. */
#include "diff/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "diff/modes.h"
#include "diff/results_text.h"
#include "tcg/insn.h"

static bool read_file(ResultsData *d, const char *path, GError **err)
{
    g_autoptr(GString) notes = g_string_new(NULL);
    uint64_t end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", path, g_strerror(errno));
        return false;
    }
    bool ok = results_data_read(d, path, fd, notes, &end, NULL, NULL, err);
    close(fd);
    g_auto(GStrv) line = g_strsplit(notes->str, "\n", -1);
    for (char **l = line; *l; l++)
        if (**l)
            warn_user("diff report: %s", *l);
    if (ok && !d->have_header) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s holds no campaign", path);
        ok = false;
    }
    return ok;
}

/* Rows of this build's table that the campaign draws from and that are not in the file at all. */
static void text_uncovered(const ResultsData *d, GString *out)
{
    g_autofree uint16_t *select = g_new(uint16_t, op_rows_n);
    unsigned n = case_select_rows(*d->h.rows ? d->h.rows : NULL, select, NULL);
    for (unsigned k = 0; k < n; k++) {
        char name[64];
        if (g_hash_table_contains(d->rows, case_row_name(select[k], name)))
            continue;
        const char *why = g_hash_table_lookup(d->h.unjudged, name);
        g_string_append_printf(out, "%-48s %10u %10u  not %s%s\n", name, 0, 0,
                               why ? "judged: " : "covered", why ? why : "");
    }
}

static bool write_page(const ResultsData *d, const char *path, GError **err)
{
    g_autoptr(GString) page = g_string_new(NULL);
    report_html(d, page);
    FILE *f = fopen(path, "we");
    bool ok = f && fwrite(page->str, page->len, 1, f) == 1;
    if (f)
        ok = !fclose(f) && ok;
    if (!ok)
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", path, g_strerror(errno));
    return ok;
}

static void write_text(const ResultsData *d)
{
    g_autoptr(GString) text = g_string_new(NULL);
    results_text_head(d, text);
    results_text_skips(d, text);
    g_string_append_c(text, '\n');
    results_text_rows(d, true, text);
    text_uncovered(d, text);
    g_string_append_c(text, '\n');
    results_text_failures(d, text);
    if (results_text_missing(d, text))
        g_string_append(text, "the campaign is not complete\n");
    results_text_last(d, text);
    fputs(text->str, stdout);
}

int diff_report(int argc, char *argv[])
{
    g_autoptr(GError) err = NULL;
    g_autofree char *html = NULL;
    GOptionEntry options[] = {{"html", 0, 0, G_OPTION_ARG_FILENAME, &html,
                               "Write one HTML page there instead of text to stdout", "FILE"},
                              {NULL}};
    g_autoptr(GOptionContext) context = g_option_context_new("FILE");
    g_option_context_set_summary(
        context, "Shows what a campaign found: coverage by row and operand form, rates, what was\n"
                 "skipped and why, differences. Several files: 'tandem diff merge -o' first. Exit\n"
                 "status: 0, or 2 when the file cannot be used.");
    g_option_context_add_main_entries(context, options, NULL);
    bool ok = g_option_context_parse(context, &argc, &argv, &err);
    if (ok && argc != 2) {
        g_set_error(&err, TANDEM_ERROR, ERR_USAGE, "%s",
                    argc < 2 ? "give a file that 'tandem diff insn' or 'tandem diff merge' wrote"
                             : "one file; put several together with 'tandem diff merge -o'");
        ok = false;
    }
    ResultsData d;
    results_data_init(&d);
    ok = ok && read_file(&d, argv[1], &err);
    if (ok && html)
        ok = write_page(&d, html, &err);
    else if (ok)
        write_text(&d);
    if (!ok)
        warn_user("diff report: %s", err->message);
    results_data_clear(&d);
    return ok ? 0 : 2;
}
