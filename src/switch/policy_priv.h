/* Policies' inside, shared by policy.c, policy_kinds.c and the tests. */
#ifndef TANDEM_SWITCH_POLICY_PRIV_H
#define TANDEM_SWITCH_POLICY_PRIV_H

#include "switch/loop_priv.h"
#include "switch/policy.h"

enum PolicyKind {
#define KIND(name, form, help) POLICY_##name,
#include "switch/policy_kinds.def"
#undef KIND
    POLICY_KINDS
};

/* A length in ns or in instructions: one of them is 0. */
typedef struct Span {
    uint64_t ns, insns;
} Span;

/* Of a policy on one vCPU; its thread's. */
typedef struct PolicyCpu {
    uint64_t fired, refused;
    uint64_t ns[ENGINE_N]; /* spent there from a switch of this policy to the next switch */
    uint64_t due;          /* every=Ninsn: Vcpu.insns of the next one */
    uint64_t random;       /* stream for every=A..B */
    gva_t resume;          /* region: where what it was left by will return to; 0: not known */
    bool suspended;        /* refused where it would be tried again without end */
    _Atomic bool queued;   /* a timer's work is on its way */
    uint64_t window_start, window_fired, window_ns; /* for the warning */
    bool warned, said_refused;
    char last_error[160];
} PolicyCpu;

typedef struct Policy {
    unsigned number; /* as shown; never used again */
    char *text;
    Policies *all;
    enum PolicyKind kind;
    const Engine *to;    /* NULL: the other one */
    int cpu;             /* -1: every */
    gva_t addr, end;     /* at; region: [addr, end) */
    Span every, longest; /* longest: every=A..B; else 0 */
    Span stay;
    uint8_t cpl;     /* when: a bit */
    uint64_t exits;  /* on=exit: bits of KVM's reasons */
    bool errors;     /* on=internal-error */
    int timer_fd;    /* every=TIME; -1: none */
    uint64_t random; /* the timer's stream for every=A..B */
    guint timer_source;
    unsigned n_cpus;
    PolicyCpu *per;
} Policy;

struct Policies {
    PolicyEnv env;
    GPtrArray *list; /* of Policy */
    unsigned next, version;
    const Engine *kvm, *tcg, *interp, *jit; /* NULL: not in this machine */
};

/* A vCPU's: VcpuLoop.policy. */
typedef struct PolicyLoop {
    RunStops stops;
    RunLimit limit;
    Policy *owner_of[STOPS_MAX]; /* stops.addr */
    Policy *firing;              /* a switch it asked for is under way */
    Policy *owner;               /* the last switch was its; NULL: somebody else's */
    Policy *active;              /* has moved the vCPU and will move it back */
    const Engine *home;          /* there */
    uint64_t back_at;            /* Vcpu.insns at which; 0: not by instructions */
    int stay_fd;                 /* a timer for active's `for`; -1: none yet */
    guint stay_source;
    _Atomic unsigned stay_serial; /* of the stay the timer is for */
    const Engine *armed_for;
    unsigned armed_version;
    bool dirty;
} PolicyLoop;

typedef struct PolicyKindRow {
    const char *name, *form, *help;
    bool (*parse)(Policy *, const char *value, GError **);
    void (*arm)(Policy *, PolicyLoop *, const Vcpu *);
} PolicyKindRow;
extern const PolicyKindRow policy_kinds[POLICY_KINDS];

static inline bool policy_applies(const Policy *p, const Vcpu *v)
{
    return (p->cpu < 0 || p->cpu == v->id) && !p->per[v->id].suspended;
}
/* The engine it would move v to now; NULL: none. */
const Engine *policy_target(const Policy *, const Vcpu *);
/* How long until every= is next due on v (ns or instructions): drawn anew each time for A..B. */
uint64_t policy_next_span(const Policy *, uint64_t *random);
/* Parses all of text into p (zeroed); p->all is set. */
bool policy_parse(Policy *p, const char *text, GString *warning, GError **err);
/* "FROM..TO" or "SYMBOL". */
bool policy_parse_region(const Symbols *, const char *value, gva_t *lo, gva_t *hi, GError **err);
/* [lo, hi) was left by a call or an interrupt: the address that leads back into it, which is on the
 * stack, at the top or above an error code; 0: none is. */
gva_t way_back(gva_t lo, gva_t hi, const Vcpu *v);
void policy_clear(Policy *);
bool policy_error(GError **err, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

#endif
