/* Events of executors whose guests deliver them through the tables of case_sys.c. */
#ifndef TANDEM_DIFF_CASE_EVENT_H
#define TANDEM_DIFF_CASE_EVENT_H

#include "diff/case.h"

/* Is the guest in a handler, or where SYSCALL and the like lead? */
bool case_event_arrived(const DiffCase *, const CpuState *);

/*
 * o->st, data and stack are as the guest left them: stepped, or stopped in a handler. Sets kind
 * and, where an event was delivered, vector, error code and CR2, and takes the delivery back. #BP
 * at an INT3 that is not the case's own is OUT_DONE, and so is #DB if RFLAGS.TF was set for the
 * step (trap_flag). mem: host address of CASE_BASE, as the guest left it.
 */
void case_event_undo(const DiffCase *, const uint8_t *mem, bool trap_flag, DiffOutcome *o);

#endif
