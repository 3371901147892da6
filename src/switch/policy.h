/*
 * Policies: when a vCPU is moved to another engine without anybody asking at that moment.
 *
 *     KIND=VALUE[,to=ENGINE][,cpu=N][,for=TIME|COUNTinsn]
 *
 * policy_kinds.def has the kinds. A policy is carried out on the vCPU's own thread. The list is
 * changed with all vCPUs paused and is otherwise only read, so no lock is needed; what is counted
 * of a vCPU is its thread's.
 */
#ifndef TANDEM_SWITCH_POLICY_H
#define TANDEM_SWITCH_POLICY_H

#include "base/symbols.h"
#include "cpu/vcpu.h"

typedef struct Policies Policies;

/* What a policy is checked against. */
typedef struct PolicyEnv {
    VmCommon *vm;
    const Symbols *symbols; /* or NULL */
    /* "kvm", "tcg", "jit", "interp"; NULL and err: not in this machine, and why. */
    const Engine *(*engine)(void *opaque, const char *name, GError **err);
    void *opaque;
} PolicyEnv;

Policies *policies_new(const PolicyEnv *);
void policies_free(Policies *); /* NULL: nothing. After the vCPUs have ended */

/* vCPUs paused, main thread. What is allowed but may surprise is added to warning, a line each. */
bool policies_add(Policies *, const char *text, unsigned *number, GString *warning, GError **);
/* number 0: all. False: there is no such policy. */
bool policies_delete(Policies *, unsigned number, GError **);

/* One line a policy. Main thread. */
void policies_list(const Policies *, GString *out);
/* What each has done on v: on v's thread. */
void policies_describe(const Policies *, const Vcpu *v, GString *out);
/* The kinds, and what may follow: for help. */
void policies_help(GString *out);

#endif
