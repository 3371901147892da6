/* When a vCPU is idle, and what happens then: idle.c. */
#ifndef TANDEM_TCG_IDLE_H
#define TANDEM_TCG_IDLE_H

#include "tcg/tcg.h"

/* Around each run() that has no limit, on the vCPU's thread. */
void idle_run_begins(Tcg *);
void idle_run_ends(Tcg *);

#endif
