/* `tandem bench rows`: what its parts share. */
#ifndef TANDEM_DIFF_ROWS_H
#define TANDEM_DIFF_ROWS_H

#include "diff/case.h"

/*
 * The code that is timed, at CASE_CODE:
 *
 *     fxrstor64 [ROWS_FX]            once; again and again where the row changes x87 or MMX state
 *   loop:
 *     mov r, imm64                   all sixteen: each round finds the same addresses
 *     the instruction, `copies` times
 *     dec qword [ROWS_COUNTER]
 *     jnz loop
 *     hlt                            stop: HLT, or the #GP it raises at privilege 3
 *
 * A second version with one copy is timed as well, and taken off: so what the first of a kind costs
 * (x87 registers loaded after FXRSTOR) does not count.
 */
#define ROWS_FX      (CASE_DATA + CASE_DATA_RO + 0xd00) /* not writable */
#define ROWS_COUNTER (CASE_DATA + 0x4ff8)

typedef struct RowsCode {
    uint8_t code[0x400];
    unsigned size, stop; /* stop: offset of the HLT */
} RowsCode;

void rows_code(RowsCode *, const DiffCase *, unsigned copies, bool fx_each_round);

/*
 * Times both versions on this processor, in a process of its own: nanoseconds a round. False: they
 * cannot be run there, or raise something.
 */
bool rows_native(const DiffCase *, const RowsCode *all, const RowsCode *one, double *all_ns,
                 double *one_ns);

/* Nanoseconds of CPU time of this thread. */
uint64_t rows_now(void);
/* The least of a few measurements of time_of(rounds) by its rounds; < 0: it failed. */
double rows_measure(double (*time_of)(void *opaque, uint64_t rounds), void *opaque);

#endif
