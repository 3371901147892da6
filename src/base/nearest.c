#include "base/nearest.h"

#include <string.h>

#define LEN_MAX 32

unsigned edit_distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned d[3][LEN_MAX + 1];
    if (la > LEN_MAX || lb > LEN_MAX)
        return LEN_MAX;
    for (unsigned j = 0; j <= lb; j++)
        d[0][j] = j;
    for (unsigned i = 1; i <= la; i++) {
        unsigned *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = i;
        for (unsigned j = 1; j <= lb; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);
            best = MIN_OF(best, MIN_OF(up[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = MIN_OF(best, up2[j - 2] + 1);
            row[j] = best;
        }
    }
    return d[la % 3][lb];
}

void nearest_offer(Nearest *n, const char *name)
{
    size_t len = strlen(n->typed);
    /* One slip in three letters; what is begun rightly is meant more often than not. */
    unsigned limit = MAX_OF((unsigned)len / 3, 1u), d = edit_distance(n->typed, name);
    if (len >= 3 && strncmp(n->typed, name, len) == 0)
        d = 1;
    if (d <= limit && d < len && (!n->best || d < n->distance)) {
        n->best = name;
        n->distance = d;
    }
}
