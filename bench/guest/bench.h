/*
 * The benchmark guest: one static program that is natively a child of suite.py and in a guest the
 * first process. It reads "NAME SCALE" lines, runs that program and answers with its checksum.
 *
 * A program is one row in programs.def and one function run_NAME(scale) that returns a checksum
 * which depends on all of its work, and on nothing else: not on time, addresses or process ids.
 * Work grows in proportion to scale; scale 1 is some 100,000 instructions or fewer.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

/* Measuring begins here, not at the call of run_NAME(): what was done before was preparation. */
void bench_begin(void);

/* Ends the process with a message that suite.py reports: the environment lacks what the program
 * needs. */
_Noreturn void bench_die(const char *what);

/* Path of this very program, for those that start it again. */
const char *bench_self(void);

static inline uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15 + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccd;
}

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t rnd(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1d;
}

static inline uint64_t mix_double(uint64_t h, double d)
{
    union {
        double d;
        uint64_t u;
    } v = {.d = d};
    return mix(h, v.u);
}

#define PROGRAM(class, name, needs, full, what) uint64_t run_##name(unsigned scale);
#include "programs.def"
#undef PROGRAM

#endif
