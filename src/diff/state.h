/*
 * `tandem diff state`, from inside: states put into an engine and read back, and VM-entry checks
 * held against what KVM does.
 *
 * A StateHost is one vCPU with memory that holds nothing but HLT instructions and page tables in
 * which every linear address leads to them: whatever mode a state is in, whatever its RIP, a guest
 * that is entered goes nowhere. All of it belongs to the thread that made it.
 */
#ifndef TANDEM_DIFF_STATE_H
#define TANDEM_DIFF_STATE_H

#include "cpu/vcpu.h"
#include "vmstate/state.h"

/* ---- state_host.c ---- */

typedef struct StateHost StateHost;
/* kvm false: the software engine alone. NULL and err where there is no usable KVM. */
StateHost *state_host_new(bool kvm, GError **err);
void state_host_free(StateHost *);
const VmCommon *state_host_vm(const StateHost *);

/* Puts the state into the engine as it is, without rules or checks, and reads it back into *out.
 * False and err: the engine took it not. */
bool state_host_through(StateHost *, const Engine *, const CpuState *in, CpuState *out,
                        GError **err);
/* The same through the switch, with its rules and checks: from the software engine to KVM, back,
 * and so twice. */
bool state_host_switched(StateHost *, const CpuState *in, CpuState *out, GError **err);

/* Gives the state page tables, an RIP that leads to a HLT and an IDT without entries: whatever is
 * delivered ends in a triple fault. What makes its mode and what it breaks stays. */
void state_host_make_enterable(const StateHost *, CpuState *);
enum EntryKind {
    ENTRY_DONE,    /* the guest was entered: an exit that only a running guest has */
    ENTRY_IOCTL,   /* an ioctl refused the state: why names it */
    ENTRY_REFUSED, /* KVM_RUN did: KVM_EXIT_FAIL_ENTRY */
    ENTRY_BROKEN,  /* neither: an error that is no verdict */
};
typedef struct Entry {
    enum EntryKind kind;
    bool endless; /* ENTRY_DONE, and stopped by the watchdog after ENTRY_MS */
    char why[160];
} Entry;
#define ENTRY_MS 200
/* Puts a state into KVM and enters it once. */
Entry state_host_enter(StateHost *, const CpuState *);

/* ---- state_wild.c ---- */

/* A stream of random numbers from a seed; any seed is good. */
uint64_t state_random(uint64_t *stream);
/*
 * State number `index` of the campaign: even numbers are valid and canonical, odd ones such a state
 * with one field bent, whose name is returned (else NULL). The guest's features decide what may be
 * set at all in the valid ones.
 */
const char *state_generate(CpuState *, uint64_t seed, uint64_t index, const CpuidTable *);
/* Bends one field: flips a bit, takes a boundary value or any. */
void state_bend(CpuState *, const VmstateField *, uint64_t *stream);

/* ---- state_explain.c ---- */

/* What is known of who holds the states. */
typedef struct StateEnv {
    const VmCommon *vm;
    const char *platform; /* of KVM: state_platform(); NULL: there is none */
    bool to_soft;         /* what comes out was on its way into the software engine */
} StateEnv;

typedef struct StateWhy {
    const char *kind; /* "rule", "check", "kvm" */
    const char *name, *reason;
} StateWhy;
/* Why the field came back from the engine as it did. False: nothing known explains it. */
bool state_explain(const StateEnv *, const VmstateField *, const CpuState *in, const CpuState *out,
                   StateWhy *);
/* Why the engine did not take the state, whose message is given. */
bool state_explain_refusal(const StateEnv *, const CpuState *in, const char *message, StateWhy *);
/* Row i of state_known.def: its name, or NULL past the last. */
const char *state_known_name(unsigned i, const char **reason);

/* ---- state_report.c: what came back otherwise, grouped ---- */

typedef struct StateReport StateReport;
StateReport *state_report_new(void);
void state_report_free(StateReport *);
/* Adds one case: what went in (bent: the field that was, or NULL) and what came out; refusal is the
 * engine's message when it took the state not, and out is then not looked at. */
void state_report_add(StateReport *, const StateEnv *, uint64_t index, const char *bent,
                      const CpuState *in, const CpuState *out, const char *refusal);
/* Groups of field and cause. */
unsigned state_report_explained(const StateReport *);
unsigned state_report_findings(const StateReport *);
/* Fields that ever came back otherwise. */
unsigned state_report_fields(const StateReport *);
/* Findings first, each with an example. */
void state_report_text(const StateReport *, GString *out);
/* One JSON object a group and line. */
void state_report_json(const StateReport *, const char *engine, uint64_t seed, GString *out);

/* An engine to put states through. Rows of state.c; tests make their own. */
typedef struct StateEngine {
    const char *name, *help;
    bool kvm;     /* needs /dev/kvm */
    bool to_soft; /* see StateEnv */
    bool (*through)(StateHost *, const CpuState *in, CpuState *out, GError **err);
} StateEngine;
/* Cases 0 to n-1 of the seed. tick (may be NULL) is told how far it is; false ends it. Returns the
 * number done. */
uint64_t state_campaign(StateHost *, const char *platform, const StateEngine *, uint64_t seed,
                        uint64_t n, StateReport *, bool (*tick)(uint64_t done, void *opaque),
                        void *opaque);

/* ---- state_checks.c ---- */

typedef struct ChecksResult ChecksResult;
/* What kind of KVM it is, found by what it enters; see state_strict.def. */
const char *state_platform(StateHost *, GError **err);
/* n states: for each check in turn such that fail it alone, and between them near misses; only
 * (NULL: all): those of this check alone. NULL and err: no second vCPU could be had. */
ChecksResult *state_checks_run(StateHost *, const char *platform, const char *only, uint64_t seed,
                               uint64_t n, bool (*tick)(uint64_t done, void *opaque), void *opaque,
                               GError **err);
void state_checks_free(ChecksResult *);
typedef struct ChecksCounts {
    unsigned checks, agree, stricter, laxer, lost; /* laxer: and fields of near misses */
    unsigned findings;
} ChecksCounts;
ChecksCounts state_checks_counts(const ChecksResult *);
void state_checks_text(const ChecksResult *, GString *out);
void state_checks_json(const ChecksResult *, GString *out);

/* ---- breaking checks: state_break.c ---- */

/* A state in which check i of checks.def finds something, and no other. False: none was found. */
bool state_break(CpuState *, unsigned check, uint64_t *stream, const CpuidTable *);

#endif
