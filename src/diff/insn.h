/* `tandem diff insn`: what its parts share. */
#ifndef TANDEM_DIFF_INSN_H
#define TANDEM_DIFF_INSN_H

#include "diff/case.h"
#include "diff/results.h"

enum { INSN_ENGINES_MAX = 4, INSN_CHUNK = 4096 };

/* What a campaign runs, the same in every process of it. */
typedef struct InsnPlan {
    uint64_t seed, cases;
    unsigned modes; /* CASE_USER_MODES and the like */
    const DiffEngine *engine[INSN_ENGINES_MAX];
    unsigned n_engines;
    uint16_t *rows; /* drawn from */
    unsigned n_rows;
} InsnPlan;

/* ---- insn_worker.c: processes that run chunks ---- */
typedef struct InsnWorker {
    pid_t pid;
    int to, from; /* pipes: chunk numbers, results */
    uint64_t chunk;
    bool busy;
    gint64 since;
} InsnWorker;
/* others: the pipes of the workers there are, which this one closes. */
bool insn_worker_start(InsnWorker *, const InsnPlan *, const InsnWorker *others, unsigned n,
                       GError **err);
bool insn_worker_send(InsnWorker *, uint64_t chunk, GError **err);
/* Reads the result of the worker's chunk; for each failure that has a text, calls `failure`. */
typedef void InsnFailureFn(const char *signature, const char *explanation, const char *case_text,
                           void *opaque);
ChunkResult *insn_worker_receive(InsnWorker *, InsnFailureFn *failure, void *opaque, GError **err);
/* Closes the pipes; the worker ends when it has done its chunk, or at once with kill. */
void insn_worker_stop(InsnWorker *, bool kill);

/* Why this engine cannot judge the case, or NULL. */
const char *insn_refused(const DiffEngine *e, DiffExec *x, const DiffCase *c);

#endif
