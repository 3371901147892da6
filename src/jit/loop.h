/* What loop.c and loop_head.c share. */
#ifndef TANDEM_JIT_LOOP_H
#define TANDEM_JIT_LOOP_H

#include "jit/trans.h"

/* Bytes a round: beyond, pages end too soon; or ranges of pages, where there are slots. */
#define STEP_MAX       256
#define STEP_MAX_SLOTS 8192
/* Places in the frame (jit_frame()) behind those of the streams. */
enum { FRAME_ROUNDS = JIT_STREAMS, FRAME_BOUND, FRAME_AGAIN };

/* What a register holds: what `root` held at the top of the loop, plus delta. */
typedef struct Value {
    unsigned root;
    int64_t delta;
    unsigned by; /* register that has been added, or GPR_ZERO */
} Value;

typedef struct Loop {
    Value at_end[GPR_N];
    struct {
        const uint8_t *to, *by;
    } out[JIT_PARTS]; /* by_swaps() */
    unsigned n_outs;
    unsigned counter;    /* a register that moves by a constant, or GPR_ZERO */
    unsigned counter_by; /* or by this register, as a stream does; or GPR_ZERO */
    bool moves;          /* a stream does */
} Loop;

/* A guest register's host register, or `copy`, which it is brought to. */
unsigned jit_loop_bring(Trans *, unsigned r, unsigned copy);
/* Which streams are in the mirror, and how. */
void jit_loop_areas(Trans *);
/* JitCode.head, and what goes before it. The streams and the counter are known. */
void jit_loop_enter(Trans *, JitCode *, const Loop *, unsigned copies);
/* Writes FRAME_AGAIN: the second body has been left at its bound. Flags stay. */
void jit_loop_set_again(Code *, bool to);

#endif
