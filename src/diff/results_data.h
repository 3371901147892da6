/*
 * Campaign files as they are read: one file, or several together.
 *
 * Format: JSON lines, UTF-8. The first line says which campaign it is:
 *
 *   {"tandem-diff":1,"version":"0.1.0","seed":"0x7","cases":1000000,"chunk":4096,"shard":1,
 *    "shards":4,"engines":"interp,silicon","rows":"","row-count":1890,"features":"fpu,...",
 *    "host":"Intel(R) Xeon(R) ...","table":["00 add Eb,Gb",...],"unjudged":{WHY:[row,...],...}}
 *
 * A merged file has shard 0. Each other line is one chunk:
 *
 *   {"chunk":0,"seconds":1.25,"host":"...","forms":["long 8",...],
 *    "cases":[[row,form,n,form,n,...],...],"skipped":[...],"differ":[...],"skips":{WHY:n,...},
 *    "failures":[{"signature":"...","row":NAME,"form":NAME,"seed":"0x7","index":17,"count":3,
 *    "case":"..."}]}
 *
 * Rows are places in the header's table, forms in the chunk's list: a file says itself what its
 * numbers mean and stays readable when ops.def grows. (It is not continued then: the same numbers
 * would make other cases.)
 */
#ifndef TANDEM_DIFF_RESULTS_DATA_H
#define TANDEM_DIFF_RESULTS_DATA_H

#include "diff/results.h"

typedef struct ResultsHeader {
    char *version;
    uint64_t seed, cases;
    uint32_t chunk;
    unsigned shard, shards;
    char *engines, *rows;
    unsigned row_count; /* rows the campaign draws from */
    char *features;     /* of the guest CPU the cases are made for */
    char *host;         /* processor it was started on */
    char **table;       /* names of rows, NULL-terminated */
    unsigned table_n;
    GHashTable *unjudged; /* name of a row that the campaign cannot judge -> why */
} ResultsHeader;

typedef struct ResultsRow {
    char *name;
    CellCount sum;
    GHashTable *forms; /* name -> CellCount */
} ResultsRow;

typedef struct ResultsFailure {
    char *signature, *row, *form, *text; /* the first case seen; its text may be "" */
    uint64_t seed, index;
    uint64_t count; /* cases that failed so */
} ResultsFailure;

/* Of one chunk that is there. */
typedef struct ResultsChunk {
    uint64_t number;
    CellCount sum;
    double seconds;
} ResultsChunk;

typedef struct ResultsData {
    bool have_header;
    ResultsHeader h;
    GHashTable *chunks;   /* number -> ResultsChunk */
    GHashTable *rows;     /* name -> ResultsRow */
    GHashTable *skips;    /* why -> uint64_t */
    GHashTable *failures; /* signature -> ResultsFailure */
    GHashTable *hosts;    /* names seen */
    CellCount sum;
    double seconds;      /* of all chunks, one after the other */
    uint64_t repeated;   /* chunks that stood there again and were not counted */
    uint64_t unlike;     /* ... and had other counts than the first time */
    uint64_t unlike_one; /* one of these */
} ResultsData;

void results_data_init(ResultsData *);
void results_data_clear(ResultsData *);

/* Which campaign and shard a header line belongs to; false and err: not one. */
bool results_header_parse(ResultsHeader *, const char *line, gssize len, GError **err);
void results_header_clear(ResultsHeader *);
/* As a line, with its newline. */
void results_header_write(const ResultsHeader *, GString *out);
/* The names of the fields in which two are of different campaigns, with both values; NULL if none.
 * with_shard: shards of one campaign differ too. Free with g_free(). */
char *results_header_differs(const ResultsHeader *a, const ResultsHeader *b, bool with_shard);
/* What chunk numbers there are: cases / chunk, rounded up; chunk k is of shard k % shards + 1. */
uint64_t results_chunk_total(const ResultsHeader *);

enum LineKind {
    LINE_NEW,      /* a chunk, counted */
    LINE_REPEATED, /* a chunk that was there before */
    LINE_BAD,      /* not a chunk of this campaign: err says why; nothing was counted */
};
enum LineKind results_data_line(ResultsData *, const char *line, gssize len, GError **err);

/* Called with each line that is counted (without newline). False stops with err. */
typedef bool ResultsLineFn(const char *line, size_t len, void *opaque, GError **err);
/*
 * Reads a file into d, from its start. The first file gives the header; another must be of the same
 * campaign. A torn last line and lines that are no chunks are not counted and said in notes, a line
 * each. end: where the next line is to be written. An empty file has no header and is no error.
 * on_new may be NULL.
 */
bool results_data_read(ResultsData *d, const char *path, int fd, GString *notes, uint64_t *end,
                       ResultsLineFn *on_new, void *opaque, GError **err);

/* "..." with what JSON wants escaped; bytes that are no UTF-8 are replaced. */
void json_quote(GString *out, const char *s);

#endif
