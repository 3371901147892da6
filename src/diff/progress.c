#include "diff/progress.h"

#include <stdio.h>
#include <unistd.h>

void progress_start(Progress *p, const char *what, uint64_t total, uint64_t done)
{
    gint64 now = g_get_monotonic_time();
    *p = (Progress){.what = what,
                    .total = total,
                    .first = done,
                    .start = now,
                    .terminal = isatty(STDERR_FILENO) == 1};
    p->next = now + (p->terminal ? G_USEC_PER_SEC / 4 : 10 * G_USEC_PER_SEC);
}

void progress(Progress *p, uint64_t done, const char *extra)
{
    gint64 now = g_get_monotonic_time();
    if (now < p->next)
        return;
    p->next = now + (p->terminal ? G_USEC_PER_SEC / 4 : 10 * G_USEC_PER_SEC);
    double rate = (double)(done - p->first) * G_USEC_PER_SEC / (double)(now - p->start);
    fprintf(stderr, "%s%s: %" G_GUINT64_FORMAT, p->terminal ? "\r\x1b[K" : "", p->what, done);
    if (p->total)
        fprintf(stderr, " of %" G_GUINT64_FORMAT, p->total);
    fprintf(stderr, ", %.0f/s", rate);
    if (p->total > done && rate > 0)
        fprintf(stderr, ", %.0f s left", (double)(p->total - done) / rate);
    fprintf(stderr, "%s%s%s", extra && *extra ? ", " : "", extra ? extra : "",
            p->terminal ? "" : "\n");
    fflush(stderr);
    p->shown = true;
}

void progress_end(Progress *p)
{
    if (p->terminal && p->shown)
        fputs("\r\x1b[K", stderr);
    p->shown = false;
}
