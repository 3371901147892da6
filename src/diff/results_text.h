/* What a campaign found, in lines for people: `tandem diff merge` and `tandem diff report`. */
#ifndef TANDEM_DIFF_RESULTS_TEXT_H
#define TANDEM_DIFF_RESULTS_TEXT_H

#include "diff/results_data.h"

/* Which campaign, on what, how fast. */
void results_text_head(const ResultsData *, GString *out);
/* Which chunks are missing, a line a shard; nothing when none is. Returns how many. */
uint64_t results_text_missing(const ResultsData *, GString *out);
/* A line a row; with forms, a line a form below it. */
void results_text_rows(const ResultsData *, bool forms, GString *out);
void results_text_skips(const ResultsData *, GString *out);
/* Each cause with how often and a case that shows it. */
void results_text_failures(const ResultsData *, GString *out);
/* "cases=N rows=R/R differences=D" */
void results_text_last(const ResultsData *, GString *out);

/* Rows in the order of the opcode maps, failures the most frequent first; free the array alone. */
ResultsRow **results_sorted_rows(const ResultsData *, unsigned *n);
ResultsFailure **results_sorted_failures(const ResultsData *, unsigned *n);
/* Names of a table in order; free the array alone. */
char **results_sorted_names(GHashTable *, unsigned *n);
unsigned results_rows_covered(const ResultsData *);

#endif
