/* The switch: moving a vCPU from one engine to another at an instruction boundary. */
#ifndef TANDEM_SWITCH_SWITCH_H
#define TANDEM_SWITCH_SWITCH_H

#include "cpu/vcpu.h"
#include "vmstate/checks.h"
#include "vmstate/rules.h"

enum SwitchStep {
    STEP_DRAIN,
    STEP_EXPORT,
    STEP_NORMALISE,
    STEP_CHECK,
    STEP_IMPORT,
    STEP_COMMIT,
    STEP_N
};
extern const char *const switch_step_name[STEP_N];

/* RESCUE: to the software engine for a while, and home again (rescue.h). */
typedef enum SwitchReason { SWITCH_USER, SWITCH_TEST, SWITCH_POLICY, SWITCH_RESCUE } SwitchReason;

/* RuleNotes kept of the last switch: one for each field a rule changed. */
#define SWITCH_NOTES_MAX 24
/* And of what its VM-entry checks noted: each check at most once. */
#define SWITCH_NOTED_MAX 8

/* Nearest-rank histogram of durations: 1/16-octave buckets over 1 ns to 17 s. */
typedef struct LatencyHist {
    uint64_t count, max_ns, sum_ns;
    uint32_t bucket[34 * 16];
} LatencyHist;
void latency_add(LatencyHist *, uint64_t ns);
uint64_t latency_percentile(const LatencyHist *, double p); /* p in 0-100; 0 when empty */

/* One switch that was done, for `info switch -v`. */
typedef struct SwitchRecord {
    const Engine *from, *to;
    char why[48];
    uint64_t at_ns, total_ns, rip; /* at_ns: CLOCK_MONOTONIC */
    unsigned fields;               /* that rules changed */
    unsigned noted;                /* VM-entry checks that KVM passes over */
} SwitchRecord;
#define SWITCH_RECORDS 16

typedef struct SwitchStats {
    uint64_t to[ENGINE_N], failed;
    uint64_t resident_ns[ENGINE_N]; /* until the last switch */
    uint64_t last_rip;              /* where it happened */
    uint64_t last_ns[STEP_N], last_total_ns;
    LatencyHist step[STEP_N], total;
    LatencyHist out_of_kvm, into_kvm; /* total, of switches between KVM and the others */
    SwitchRecord
        record[SWITCH_RECORDS]; /* a ring: the next one goes to n_records % SWITCH_RECORDS */
    unsigned n_records;
    RuleNote note[SWITCH_NOTES_MAX];
    unsigned n_notes;
    CheckNote noted[SWITCH_NOTED_MAX];
    unsigned n_noted;
    char last_error[200];
} SwitchStats;

/*
 * Moves v to `to`. On v's own thread, at a boundary (vcpu_run_on() from elsewhere). On failure v
 * stays in its engine, runs on, and err names the check, field or engine that refused. A switch to
 * the engine v is in already succeeds and does nothing.
 */
bool vcpu_switch(Vcpu *, const Engine *to, SwitchReason, GError **);
/* The same, also when v is in `to` already: every step is taken and timed. Without a second engine
 * this is how the path is exercised; the state is held against the VM-entry checks as well. */
bool vcpu_switch_forced(Vcpu *, const Engine *to, SwitchReason, GError **);
/* What a switch would change, and whether the checks would pass: as text. On v's thread; v is left
 * as it was. False: its state could not be had. */
bool vcpu_switch_dry_run(Vcpu *v, const Engine *to, GString *out, GError **);
/* Statistics of v; written on v's thread, read through vcpu_run_on(). NULL before
 * vcpu_loop_start(). */
const SwitchStats *vcpu_switch_stats(const Vcpu *);
/* The same for v's thread: ns it has spent in each engine until now. */
void vcpu_residency(const Vcpu *, uint64_t ns[ENGINE_N]);
/* Debug builds and tests: after import, export again and compare. Off by default in release. */
extern bool switch_verify;

#endif
