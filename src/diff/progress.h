/* How far long work has come: one line on stderr, rewritten on a terminal, a line every ten seconds
 * elsewhere. One thread. */
#ifndef TANDEM_DIFF_PROGRESS_H
#define TANDEM_DIFF_PROGRESS_H

#include <glib.h>
#include "base/types.h"

typedef struct Progress {
    const char *what;
    uint64_t total, first;
    gint64 start, next; /* microseconds */
    bool terminal, shown;
} Progress;

/* total: of the units that are counted, 0 when nobody knows; done: what was there before. */
void progress_start(Progress *, const char *what, uint64_t total, uint64_t done);
/* Cheap enough for every unit of a millisecond. extra, may be NULL, stands behind the rate. */
void progress(Progress *, uint64_t done, const char *extra);
/* Takes the line away. */
void progress_end(Progress *);

#endif
