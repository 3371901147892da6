/* "Did you mean": the name of a list that is nearest to what was typed. */
#ifndef TANDEM_BASE_NEAREST_H
#define TANDEM_BASE_NEAREST_H

#include "base/types.h"

/* Edits (insert, delete, replace, swap neighbours) that turn a into b. */
unsigned edit_distance(const char *a, const char *b);

typedef struct Nearest {
    const char *typed, *best;
    unsigned distance;
} Nearest;

/* Start with {.typed = text}, offer every name; .best is then the nearest, or NULL if none is near
 * enough to be meant. */
void nearest_offer(Nearest *, const char *name);

#endif
