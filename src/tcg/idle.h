/* When a vCPU is idle, and what happens then: idle.c. */
#ifndef TANDEM_TCG_IDLE_H
#define TANDEM_TCG_IDLE_H

#include "tcg/tcg.h"

/* Around each run() that has no limit, on the vCPU's thread. */
void idle_run_begins(Tcg *);
void idle_run_ends(Tcg *);

/* Once every IDLE_PAUSES PAUSE instructions, of which i is the last. */
#define IDLE_PAUSES 64u
void idle_spins(Tcg *, const Insn *i);

#endif
