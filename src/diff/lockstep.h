/*
 * Lockstep: a whole guest in two engines, compared as it goes.
 *
 * The leader is the machine's own vCPU, the follower a second one (Twin) with a copy of the
 * guest's RAM and no devices. What reaches the guest from outside happens once and is written into
 * the log (LsLog): what devices answer, time, interrupts, DMA. The side that goes first in a step
 * makes the accesses and records them; the other must make the same ones, in order, and is given
 * the recorded answers. A step is a leader's block, N instructions, or one; or one event that both
 * are given.
 *
 *   lockstep.c          the mode: options, machine, progress
 *   lockstep_live.c     the engine that stands in for the leader's in its vCPU loop
 *   lockstep_replay.c   steps again from a state file, and in memory to find the instruction
 *   lockstep_step.c     one step of both sides
 *   lockstep_kvm.c      how a KVM side steps
 *   lockstep_switch.c   the leader moves between two engines, the follower stays
 *   lockstep_bus.c      the bus of both: recorder and feeder
 *   lockstep_twin.c     a vCPU with its own RAM
 *   lockstep_compare.c  states and memory; the known differences (lockstep_rules.def)
 *   lockstep_report.c   what is said about a divergence
 *   lockstep_file.c     the state file
 *
 * With several vCPUs there is a Lockstep for each, and one Twin with as many vCPUs for all. They
 * take turns, a few steps each (LsOptions.turn): while one steps, no other vCPU of either machine
 * runs, so that both see the same order of everything. What another has written meanwhile cannot be
 * done again from a file, so there is none.
 *
 * Threads: everything but on_dma() and the progress counters runs on the leader's thread.
 */
#ifndef TANDEM_DIFF_LOCKSTEP_H
#define TANDEM_DIFF_LOCKSTEP_H

#include <glib.h>
#include "cpu/vcpu.h"

enum { LEADER, FOLLOWER, SIDES };

/* ---- the log ---- */

enum LsEventKind {
    LSE_STEP, /* a step begins: what = enum LsStepKind, value = vector */
    LSE_PIO_READ,
    LSE_PIO_WRITE,
    LSE_MMIO_READ,
    LSE_MMIO_WRITE,
    LSE_MSR_READ, /* of the local APIC's; ok: it did not raise #GP */
    LSE_MSR_WRITE,
    LSE_TSC, /* value: before the vCPU's offset */
    LSE_DMA, /* data: value bytes at addr */
    LSE_KINDS
};
extern const char *const ls_event_name[LSE_KINDS];

enum LsStepKind { LSS_RUN, LSS_INTR, LSS_NMI, LSS_KINDS };

typedef struct LsEvent {
    uint8_t kind, size, what;
    bool ok;
    uint64_t addr, value;
    uint64_t rip, rcx, count; /* LSE_STEP: where the first side came to, instructions it did */
    uint8_t *data;            /* LSE_DMA: owned */
} LsEvent;

/* ---- a vCPU with its own RAM ---- */

enum { LS_VCPUS = 64 };

typedef struct Twin {
    VmCommon vm;
    Vcpu *v, *vcpus[LS_VCPUS]; /* v: the first */
    MemMap mem;
    CpuidTable cpuid;
    const Engine *engine; /* the only one it has */
    bool vm_ready, vcpu_ready[LS_VCPUS];
} Twin;

/* The same CPUs and map as `like`, RAM zero until twin_copy_ram(). The calling thread is the first
 * vCPU's. */
Twin *twin_new(const VmCommon *like, const Engine *, const VcpuBus *, void *tap, GError **);
void twin_free(Twin *);
/* The map becomes that of `like`; RAM of slots that are not as they were is copied. */
bool twin_follow_map(Twin *, const MemMap *like, GError **);
void twin_copy_ram(Twin *, const MemMap *like);
/* The other way: what differs. */
void twin_give_ram(const Twin *, const MemMap *to);
/* The next range of the slot, from *at on, that can hold anything but zeros: false at the end. */
bool slot_data(const RamSlot *, uint64_t *at, uint64_t *len);

/* ---- known differences: lockstep_rules.def ---- */

enum LsRule {
#define LS_RULE(id, name, where, reason) LSR_##id,
#include "diff/lockstep_rules.def"
#undef LS_RULE
    LSR_N
};
typedef struct LsRuleInfo {
    const char *name, *where, *reason;
} LsRuleInfo;
extern const LsRuleInfo ls_rules[LSR_N];

/* ---- both ---- */

typedef struct LsOptions {
    uint64_t every;      /* 0: a block; else instructions */
    bool chained;        /* the leader's translated code runs on, `every` instructions or more */
    uint64_t max;        /* instructions; 0: until the guest ends */
    unsigned turn;       /* steps before another vCPU's turn */
    uint64_t full_every; /* steps between two comparisons of everything; 0: the default */
    /* The leader is switched between its engine and `other`, if there is one, at random moments:
     * so many instructions apart on average. */
    const Engine *other;
    uint64_t switch_every, seed;
} LsOptions;

/* The leader's switches: lockstep_switch.c. */
typedef struct LsSwitches {
    uint64_t random, next; /* next: Lockstep.insns */
    uint64_t n[ENGINE_N], refused;
    uint64_t last_insns, last_rip;
    const Engine *last_from, *last_to;
    char first_refused[160];
} LsSwitches;

typedef struct LsSide {
    Vcpu *v;
    VmCommon *vm;
    const Engine *engine;
    WriteLog writes;
    size_t mark;      /* of writes, at the step's beginning */
    unsigned at;      /* next event of the log */
    uint8_t tpr;      /* CR8, of the side that does not go first */
    bool tpr_written; /* in this step */
    bool tsc_seen;    /* passed an LSE_TSC without asking: KVM reads the time by itself */
} LsSide;

typedef struct LsTrace { /* a piece of the path */
    gva_t rip, lin;
    uint32_t count;
    uint8_t bits;  /* 16, 32, 64 */
    uint8_t event; /* vector + 1 of an event that was delivered */
    uint8_t len;   /* bytes, or 0: not fetched */
    uint8_t bytes[15];
} LsTrace;
enum { LS_TRACE = 64 };

enum LsResult {
    LS_OK,
    LS_KICK,     /* nothing done: the loop is to look at Vcpu.request */
    LS_HALTED,   /* both */
    LS_SHUTDOWN, /* both */
    LS_DIVERGED, /* ls->why, ls->differences */
    LS_ERROR,    /* ls->why */
};

/* VmCommon.tap of both machines: by Vcpu.id, who steps it. */
typedef struct LsTap {
    struct Lockstep *of[LS_VCPUS];
} LsTap;

typedef struct Lockstep {
    LsOptions opt;
    LsTap *tap, own_tap; /* tap: NULL before ls_init(): its own */
    LsSide side[SIDES];
    Twin *twin[SIDES];   /* [LEADER]: in a replay only */
    const VcpuBus *real; /* the machine's; NULL in a replay */
    VcpuBus bus;         /* what both sides have */
    unsigned first;      /* the side that goes first in a step */
    bool recording;      /* the first makes the accesses; else it is fed too */
    int running;         /* the side that is in run(), or -1 */
    GArray *log;         /* LsEvent */
    unsigned step_at;    /* in it: the LSE_STEP of this step */
    CpuState before;     /* canonical, at the step's beginning */
    bool kvm_native;     /* KVM steps by RFLAGS.TF on a processor, not by emulating */
    uint32_t map_gen;    /* of the leader's map as last followed */

    /* Since everything was last compared: what a state file of it needs. */
    CpuState checkpoint;
    unsigned checkpoint_at; /* in the log */
    uint64_t checkpoint_insns, steps_since_full;

    _Atomic bool give_up;                  /* KVM does not come back from an instruction */
    _Atomic uint64_t insns, steps, events; /* read by others for progress */
    uint64_t step_insns;                   /* insns at the step's beginning */
    uint64_t step_count;                   /* instructions in it, with two software engines */
    uint64_t fulls;
    uint64_t alone; /* instructions KVM could not do */
    uint64_t rule_uses[LSR_N];
    char alone_first[160];

    bool diverged, by_full; /* by_full: only comparing everything showed it */
    char why[256];
    GString *differences; /* a line each */
    unsigned n_differences;
    LsTrace trace[LS_TRACE];
    uint64_t n_trace;

    LsSwitches sw;

    GMutex dma_lock;
    GArray *dma; /* LsEvents of DMA that came between steps */
} Lockstep;

/* ---- lockstep_step.c ---- */
/* The follower, a Twin, is made here; the leader's side is filled in by the caller first. */
bool ls_init(Lockstep *, const LsOptions *, GError **);
void ls_clear(Lockstep *);
static inline struct Lockstep *ls_of(const Vcpu *v)
{
    return ((const LsTap *)v->vm->tap)->of[v->id];
}
static inline bool ls_soft(const LsSide *s)
{
    return s->engine->is_software;
}
/* Does it note what it writes? A chained leader does not: stores that are noted are C's. */
static inline bool ls_notes(const LsSide *s)
{
    return s->v->writes != NULL;
}
/* Between steps, the state that both sides are in. */
static inline CpuState *ls_state(Lockstep *ls)
{
    return &ls->side[ls->first].v->st;
}
/* Makes the follower what the leader is (v->st, canonical) and everything begin here. */
bool ls_sync(Lockstep *, GError **);
/* One step, whose LSE_STEP is at ls->step_at. */
enum LsResult ls_step(Lockstep *, enum LsStepKind, uint8_t vector);
/* Appends the LSE_STEP and makes it the current one. */
void ls_begin_step(Lockstep *, enum LsStepKind, uint8_t vector);
/* insns: instructions done; may be NULL. must: a request for the loop is no reason to stop before
 * the first one. */
Exit ls_run(Lockstep *, unsigned side, const RunLimit *, uint64_t *insns, bool must);
/* Gives `to` the state: import, and translations dropped. */
bool ls_put_state(Lockstep *, unsigned side, const CpuState *, GError **);

/* ---- lockstep_kvm.c: one side is KVM's; the other has gone first, and is at ls->side[first] ----
 */
typedef struct LsInsn {
    uint8_t bytes[15], len;
    uint16_t row;
    bool known;              /* decoded */
    bool rep;                /* a string instruction with a REP prefix */
    bool pushes;             /* puts RFLAGS into memory or a register */
    bool diverts;            /* goes where a single step may not be seen: INT n, SYSCALL ... */
    uint32_t undef, written; /* flags it leaves undefined; those it writes, these included */
} LsInsn;
/* The instruction at s's CS:RIP, in vm's memory. */
void ls_fetch(const LsSide *, const CpuState *s, LsInsn *);
/* Exit of the first side, iterations of a REP it did. */
enum LsResult ls_kvm_follow(Lockstep *, enum LsStepKind, uint8_t vector, const LsInsn *,
                            const Exit *first, uint64_t iterations);
/* The KVM side takes the first side's state and writes: it could not do the instruction. */
bool ls_kvm_adopt(Lockstep *, GError **);

/* ---- lockstep_switch.c ---- */
void ls_switches_init(Lockstep *);
/* Is it time? */
static inline bool ls_switch_is_due(const Lockstep *ls)
{
    return ls->opt.other && ls->insns >= ls->sw.next;
}
/* Switches the leader, which is in `home` or LsOptions.other and whose Vcpu.engine that is, and
 * compares: LS_OK also when the other engine does not take the state. */
enum LsResult ls_switch(Lockstep *, const Engine *home);
void ls_switches_report(const Lockstep *, GString *out);
void ls_switches_summary(const Lockstep *, GString *out);

/* ---- lockstep_bus.c ---- */
extern const VcpuBus ls_bus;
/* Events the side has passed by: DMA is applied; an access it did not make is a difference. */
void ls_bus_end(Lockstep *, unsigned side);
void ls_bus_begin(Lockstep *);
/* A device of the machine has written. */
void ls_on_dma(Lockstep *, gpa_t gpa, uint64_t len);
void ls_apply_pending_dma(Lockstep *);
void ls_log_truncate(Lockstep *, unsigned n);
void ls_event_print(const LsEvent *, char *buf, size_t size);

/* ---- lockstep_compare.c ---- */
/* ls->diverged when states (of the groups) or memory written in this step differ. */
void ls_compare(Lockstep *, unsigned groups);
/* b is a state out of KVM or on its way there, a the other's: b is made equal where they differ in
 * what is a known difference, and then compared. */
void ls_compare_switched(Lockstep *, const CpuState *a, CpuState *b);
/* All of memory as well. */
void ls_compare_all(Lockstep *);
void ls_differs(Lockstep *, const char *what, const char *a, const char *b);
/* A reason that is not a state: an access, an exit. The first counts. */
void ls_diverge(Lockstep *, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static inline void ls_rule(Lockstep *ls, enum LsRule r)
{
    ls->rule_uses[r]++;
}
uint8_t *ls_host(const LsSide *, gpa_t, uint64_t len);
/* Memory of the side as it was when its log stood at `mark`. */
void ls_undo(LsSide *, size_t mark);

/* ---- lockstep_report.c ---- */
void ls_trace_add(Lockstep *, const CpuState *, uint32_t count, unsigned event, const LsInsn *);
void ls_trace_print(const Lockstep *, GString *out);
/* Everything known about the divergence. */
void ls_report(const Lockstep *, GString *out);
void ls_summary(const Lockstep *, double seconds, GString *out);
void ls_explain_rules(GString *out);

/* ---- lockstep_replay.c ---- */
/* After a divergence in a step of several instructions: finds the first one that differs, as far
 * as it still shows. Both sides are software. */
void ls_narrow(Lockstep *, GString *out);
/* Takes two software engines back to where ls_load() put them. */
bool ls_rewind(Lockstep *, GError **);
/* Does the steps in the log from `at` on; result of the first that is not LS_OK. */
enum LsResult ls_replay(Lockstep *, unsigned at, bool full);

/* ---- lockstep_file.c ---- */
/* From the step that diverged, or if only a full comparison showed it, from the one before. */
bool ls_save(Lockstep *, const char *path, const char *report, GError **);
/* A Lockstep with two Twins, at the beginning of what was saved. leader, follower: instead of the
 * file's engines, or NULL. report: what was said when it was saved; may be NULL. */
Lockstep *ls_load(const char *path, const Engine *leader, const Engine *follower, GString *report,
                  GError **);
void ls_free_loaded(Lockstep *);

/* ---- lockstep_live.c ---- */
typedef struct LsLive LsLive;
/* Puts itself between the loops of a machine's vCPUs and their engine. They are paused; done() is
 * called on the thread of the one that a divergence, an error or opt.max stops. */
LsLive *ls_live_new(VmCommon *vm, const Engine *leader, const Engine *follower, const LsOptions *,
                    void (*done)(void *opaque, enum LsResult), void *opaque, GError **);
/* The vCPUs are paused. Gives them their engine and bus back. */
void ls_live_free(LsLive *);
/* Of the vCPU that ended the run, or of the first. */
Lockstep *ls_live_state(LsLive *);
/* MachineDmaFn; opaque: the LsLive. */
void ls_live_dma(void *live, gpa_t gpa, uint64_t len);
unsigned ls_live_vcpus(const LsLive *);
Lockstep *ls_live_vcpu(LsLive *, unsigned i);
/* Of all vCPUs together. */
uint64_t ls_live_insns(LsLive *);
/* Main thread, now and then: ends an instruction from which KVM does not come back. */
void ls_live_watch(LsLive *);

/* ---- engines by name ---- */
const Engine *ls_engine(const char *name, GError **);

#endif
