/*
 * What a campaign found, as JSON lines in a file that survives kills, requeues and merges.
 *
 * The cases of a shard are cut into chunks of consecutive numbers; a chunk's result is one line,
 * appended with one write when the chunk is done. A line that was torn is not a result: its chunk
 * is run again. A chunk that stands twice (a requeued job) counts once. So nothing is lost and
 * nothing is counted twice, whatever dies when.
 */
#ifndef TANDEM_DIFF_RESULTS_H
#define TANDEM_DIFF_RESULTS_H

#include "diff/case.h"

typedef struct CampaignId {      /* results of different campaigns do not merge */
    uint64_t seed, cases;        /* of the whole campaign, all shards */
    unsigned shard, shards;      /* 1..N of N: chunk k belongs to shard k % shards + 1 */
    uint32_t chunk;              /* cases a chunk */
    const char *engines;         /* "interp,silicon" */
    const char *rows;            /* the patterns, or "" */
    unsigned row_count;          /* rows the campaign can reach; 0: all that the patterns select */
    const char *const *unjudged; /* by row: why it can never be judged, or NULL; NULL: all can */
} CampaignId;

/* Cases of one row and form: cases are those that were judged, skipped ones are not among them. */
typedef struct CellCount {
    uint64_t cases, skipped, differences;
} CellCount;

typedef struct ChunkResult ChunkResult; /* built up while a chunk runs */
ChunkResult *chunk_new(uint64_t chunk);
void chunk_free(ChunkResult *);
void chunk_count(ChunkResult *, uint16_t row, uint16_t form, const CellCount *add);
/* Why one more case was skipped; chunk_count() counts it. */
void chunk_skip(ChunkResult *, const char *why);
/* A failure: case_text is what case_write() wrote, of the shrunk case; signature makes failures of
 * one cause one: "row|what differs". A chunk keeps the first case of a signature and counts the
 * others: for those case_text may be NULL. */
void chunk_failure(ChunkResult *, const DiffCase *, const char *signature, const char *case_text);

typedef struct ResultsFile ResultsFile;
/* Opens or continues path. NULL when the file is another campaign's (what differs is named), is
 * open in another process, or cannot be read or written. NULL path: counts are kept in memory
 * alone. Used by one thread. From then on the process ignores SIGXFSZ: a file size limit is an
 * error like a full disk. */
ResultsFile *results_open(const char *path, const CampaignId *, GError **err);
bool results_has(const ResultsFile *, uint64_t chunk); /* done before: skip it */
/* Whether any chunk of this signature's failures was seen: no need to shrink another. */
bool results_has_failure(const ResultsFile *, const char *signature);
/* Appends and syncs. False: the disk is full or the like; what was written before stays good. */
bool results_add(ResultsFile *, const ChunkResult *, double seconds, GError **err);
/* Totals of what the file holds, all runs together. */
typedef struct ResultsTotals {
    uint64_t cases, skipped, differences;
    unsigned rows_covered; /* with at least one case that was judged */
} ResultsTotals;
void results_totals(const ResultsFile *, ResultsTotals *);
void results_close(ResultsFile *);

#endif
