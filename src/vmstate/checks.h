/*
 * VM-entry checks in software: what the processor asks of a guest's state before it enters it.
 *
 * SDM vol. 3, 26.3.1 "Checks on the guest state area" (section numbers of the editions in which
 * VM entries are chapter 26), for an "unrestricted guest" as KVM uses it, plus the few conditions
 * that VMRUN (AMD APM vol. 2, 15.5.1) or KVM's own ioctls add. A state that passes is one that
 * hardware of either maker enters.
 *
 * What fails a check is refused by its name where the hardware refuses it, and where KVM would run
 * another state instead. Where every KVM takes it, having mended it or not, it is let in and noted.
 *
 * Canonical states only: apply the rules first. Pure, no allocation unless a check fails.
 */
#ifndef TANDEM_VMSTATE_CHECKS_H
#define TANDEM_VMSTATE_CHECKS_H

#include <glib.h>
#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"
#include "cpu/vcpu.h"

enum VmentryFinding {
    VMENTRY_FINE,
    VMENTRY_NOTED,   /* KVM takes it: CheckInfo.kvm says what it makes of it */
    VMENTRY_LOST,    /* KVM's interface has no place for it: what ran would be another state */
    VMENTRY_REFUSED, /* by the processor, or by KVM's ioctls */
};

/* What the checks know besides the state. */
typedef struct CheckEnv {
    const CpuidTable *cpuid;          /* NULL: 52 physical address bits, all features */
    bool (*kvm_quirk)(enum KvmQuirk); /* VmCommon's; NULL: all is as the manual says */
} CheckEnv;

/* A finding that is VMENTRY_NOTED: which check, and the value. */
typedef struct CheckNote {
    unsigned check;
    char why[120];
} CheckNote;

/* Filled by vmentry_check(): the first `max`; n counts them all. */
typedef struct CheckNotes {
    CheckNote *note;
    unsigned max, n;
} CheckNotes;

/* May it go in? env and notes may be NULL. err (ERR_STATE) names check, section, value. */
bool vmentry_check(const CpuState *, const CheckEnv *env, CheckNotes *notes, GError **err);

/* The name of the first check that refuses, or NULL; why (may be NULL) gets the offending value. */
const char *vmentry_failed_check(const CpuState *, const CheckEnv *env, char *why, size_t size);

/* All checks that find as much as `least`, or worse: bit i for check i. */
uint64_t vmentry_mask(const CpuState *, const CheckEnv *env, enum VmentryFinding least);

/* Check i alone, which must be one; why as above. */
enum VmentryFinding vmentry_ask(unsigned i, const CpuState *, const CheckEnv *env, char *why,
                                size_t size);

typedef struct CheckInfo {
    const char *name, *reference;
    const char *changes; /* what KVM may change in a state that is noted: fields, or globs */
    const char *kvm;     /* what it makes of it, or why it takes it; "": the check always refuses */
} CheckInfo;
/* Check i in order; false past the last. */
bool vmentry_check_info(unsigned i, CheckInfo *);

/* May KVM change the field in a state for which these checks (a bit each) are noted? */
bool vmentry_may_change(uint64_t noted, const char *field);

#endif
