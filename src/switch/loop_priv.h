/* VcpuLoop: what Vcpu.loop points to. Shared by the files of this room only. */
#ifndef TANDEM_SWITCH_LOOP_PRIV_H
#define TANDEM_SWITCH_LOOP_PRIV_H

#include "cpu/writelog.h"
#include "switch/rescue.h"
#include "switch/switch.h"
#include "switch/vcpu_loop.h"

typedef struct WorkItem {
    struct WorkItem *next;
    VcpuWork *fn;
    void *opaque;
    bool owned; /* by the queue: freed after it ran. Else on the stack of a waiter */
    bool done;
} WorkItem;

/* rescue.c's, of the vCPU's own thread alone. */
typedef struct Rescue {
    RescuePolicy policy;
    RescueStats stats;
    const Engine *home; /* the vCPU is away from it, in policy.engine; NULL: it is not away */
    uint64_t until;     /* when it goes home; 0: after one instruction */
    bool pending;       /* `exit` is to be seen to, before the next run() */
    bool named;         /* its message says already what is wrong */
    bool single_done, checks_shutdown, said;
    Exit exit;
    unsigned in_window;
    uint64_t window_start, stay, stay_end;
    GSource *timer; /* ends a stay by a kick */
    /* The stores of the instruction: where it makes none KVM has nothing to forget. */
    WriteLog log;
} Rescue;

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
    bool drained;             /* nothing is half done since the last run() */
    const Engine *counted_as; /* what kvm_guard_engine() was told last */
    bool away_told;           /* kvm_away(), since the last switch */
    int turn;                 /* turns.c's; 0: none */
    uint64_t turn_n;          /* its number, of the last one */
    bool turn_new;            /* the vCPU's first run() in it */
    SwitchStats stats;
    Rescue rescue;
    uint64_t since_ns;         /* in its engine, CLOCK_MONOTONIC */
    uint64_t mwait_since;      /* asleep in MWAIT, the same; 0: not */
    struct PolicyLoop *policy; /* policy.c's; NULL while there was no policy */
} VcpuLoop;

/* Applies the rules and checks that v's canonical state may go into `to`. Shared by the switch and
 * by the loop's own imports (after reset, INIT or a debugger's write). */
bool switch_normalise(Vcpu *, enum RuleDirection, RuleNotes *, GError **);
CheckEnv switch_check_env(const VmCommon *);
bool switch_check(const Vcpu *, CheckNotes *, GError **);
/* Engine to v->st, keeping the run state that userspace holds. `where` is not touched. */
bool switch_export(Vcpu *, GError **);
uint64_t switch_now_ns(void);
/* v->st to engine `to`, which must hold its mode: refused if it turns out not to. */
bool switch_import(Vcpu *, const Engine *to, GError **);

/* The loop's lock held: until something is published, or that time of switch_now_ns(). 0: never. */
void loop_sleep(VcpuLoop *, uint64_t until_ns);

/*
 * turns.c: vCPUs in KVM and outside, where they may not run at once. Before run(), with the loop's
 * lock held (false: it has waited, and the loop is to look at everything again); then without;
 * and behind run(), without. Before the first store of a rescued instruction. Main thread, for each
 * loop: its beginning and its end.
 */
bool turns_take(VcpuLoop *);
bool turns_run(VcpuLoop *, GError **);
void turns_leave(VcpuLoop *);
void turns_store(Vcpu *);
void turns_begin(Vcpu *);
void turns_end(Vcpu *);

/* Stops the vCPU and tells the machine. */
void loop_report(VcpuLoop *, const Exit *);
void loop_report_gerror(VcpuLoop *, const char *what, GError *);

/* rescue.c, for the loop: an exit, or a state that did not go in (true: it will be seen to) ... */
bool rescue_take(VcpuLoop *, const Exit *);
bool rescue_refused(VcpuLoop *, const GError *);
/* ... before run(), outside any engine ... */
bool rescue_has_work(const VcpuLoop *);
void rescue_work(VcpuLoop *);
/* ... what the next run() may do, and that it did ... */
const RunLimit *rescue_limit(const VcpuLoop *);
void rescue_ran(VcpuLoop *, const Exit *);
/* ... somebody else has moved the vCPU; and the end. */
void rescue_forget(VcpuLoop *);
void rescue_end(VcpuLoop *);

/* From now on the vCPU is in its first engine. */
void switch_started(VcpuLoop *);
/* ns since the vCPU came to its engine. */
uint64_t switch_since(const VcpuLoop *);

/* policy.c, for the loop. What the next run() must stop at; NULL: nothing. */
const RunLimit *policy_limit(VcpuLoop *);
/* Behind run(): true when the exit was a policy's, and has been seen to. */
bool policy_exit(VcpuLoop *, const Exit *);
void policy_halted(VcpuLoop *);
/* A switch is done; the vCPU was in `from` for ns. for_now: it will come back by itself. */
void policy_moved(VcpuLoop *, const Engine *from, uint64_t ns, bool for_now);
/* The policy whose switch is under way, as its text; or NULL. */
const char *policy_firing(const VcpuLoop *);
void policy_end(VcpuLoop *);

/* record_rip.c, the same way; policies rest on a vCPU that is recorded. */
const RunLimit *rip_record_limit(VcpuLoop *);
bool rip_record_exit(VcpuLoop *, const Exit *);

#endif
