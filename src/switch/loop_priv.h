/* VcpuLoop: what Vcpu.loop points to. Shared by the files of this room only. */
#ifndef TANDEM_SWITCH_LOOP_PRIV_H
#define TANDEM_SWITCH_LOOP_PRIV_H

#include "switch/switch.h"
#include "switch/vcpu_loop.h"

typedef struct WorkItem {
    struct WorkItem *next;
    VcpuWork *fn;
    void *opaque;
    bool owned; /* by the queue: freed after it ran. Else on the stack of a waiter */
    bool done;
} WorkItem;

/*
 * `lock` guards everything down to `stats`. Order: the machine lock may be held when it is taken,
 * never the other way round; no engine function but kick() is called with it held.
 */
typedef struct VcpuLoop {
    Vcpu *v;
    LoopHooks hooks;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the vCPU's thread sleeps here, halted or paused */
    pthread_cond_t done; /* others wait here: for their work item, or for `parked` */
    WorkItem *head, **tail;
    unsigned pause_count;
    unsigned due;   /* queued items from before the pause, which run before the vCPU is parked */
    bool in_engine; /* between leaving the lock for run() and taking it again: kick() the engine */
    bool asleep;    /* in wait on `wake` */
    bool parked;    /* at a boundary, drained, and staying until pause_count is 0 */
    bool failed;    /* stopped by an error exit; a resume tries again */
    bool quit;

    /* The vCPU's own thread alone: */
    bool drained; /* nothing is half done since the last run() */
    SwitchStats stats;
} VcpuLoop;

/* Applies the rules and checks that v's canonical state may go into `to`. Shared by the switch and
 * by the loop's own imports (after reset, INIT or a debugger's write). */
bool switch_normalise(Vcpu *, enum RuleDirection, RuleNotes *, GError **);
bool switch_check(const Vcpu *, GError **);
/* Engine to v->st, keeping the run state that userspace holds. `where` is not touched. */
bool switch_export(Vcpu *, GError **);
/* v->st to engine `to`, which must hold its mode: refused if it turns out not to. */
bool switch_import(Vcpu *, const Engine *to, GError **);

#endif
