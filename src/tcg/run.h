/* Between the run loop (interp.c) and the translator's (jit_run.c). */
#ifndef TANDEM_TCG_RUN_H
#define TANDEM_TCG_RUN_H

#include "tcg/block.h"

/* A handler's outcome, for the loop. */
typedef enum Next {
    NEXT_BLOCK,
    NEXT_EXIT, /* the Exit is filled */
} Next;

/* RIP, instruction count and fault of a block left at instruction i with f. The caller has counted
 * the instructions before i. */
Next leave_block(CpuState *s, Tcg *t, const Insn *i, Fault f, Exit *x);
#define DR7_ENABLED 0xffull /* L0 to G3 */

/* Must the next instruction be run by itself? RF is about breakpoints: without any it just goes
 * when an instruction begins (rf_done()). */
static inline bool be_careful(const CpuState *s, const Tcg *t)
{
    return (s->rflags & FL_TF) || (s->dr7 & DR7_ENABLED) || t->inhibit || t->step || t->careful ||
           t->step_over;
}

/* The instruction at RIP is run now for certain. */
static inline void rf_done(CpuState *s)
{
    s->rflags &= ~(uint64_t)FL_RF;
}

/* The block at s->rip if it is known and nothing but near branches led here; else NULL. */
Block *next_block(const CpuState *s, const Tcg *t);
/* The first instructions of a block, as many as are left. */
Next run_some(CpuState *s, Tcg *t, const Block *b, Exit *x);
/* run_chain() of the translator: from b on, translated where hot. With a limit each block is run
 * alone. */
Next run_jit(CpuState *s, Tcg *t, Block *b, Exit *x);

#endif
