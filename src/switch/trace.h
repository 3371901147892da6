/*
 * The engine trace: which vCPU was in which engine when, for Chrome's about:tracing and Perfetto.
 *
 * The file is JSON, an array of events, and a complete one after every event: each is written over
 * the closing bracket, in one write inside a page. So it can be read while the machine runs, and
 * after it was killed. (Between two pages there is a moment without the bracket, which the format
 * leaves optional for this reason.)
 */
#ifndef TANDEM_SWITCH_TRACE_H
#define TANDEM_SWITCH_TRACE_H

#include "base/symbols.h"
#include "switch/switch.h"

typedef struct EngineTrace EngineTrace;

/* name: of the machine, may be NULL. Truncates the file. */
EngineTrace *engine_trace_open(const char *path, const char *name, const Symbols *, GError **);
void engine_trace_close(EngineTrace *); /* NULL: nothing. After the vCPUs have ended */

/* A vCPU begins in its engine. Any thread. */
void engine_trace_begin(EngineTrace *, const Vcpu *);
typedef struct TracedSwitch {
    const Engine *from, *to;
    uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC */
    const uint64_t *step_ns;   /* [STEP_N] */
    unsigned fields;           /* changed by rules */
    const CheckNotes *noted;   /* by VM-entry checks; may be NULL */
    const char *why;           /* "asked for", or a policy's text */
    const char *error;         /* refused; NULL: done */
} TracedSwitch;
/* On the vCPU's thread. */
void engine_trace_switch(EngineTrace *, const Vcpu *, const TracedSwitch *);

#endif
