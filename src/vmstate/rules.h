/*
 * The discrepancy rules: what brings a CpuState to its canonical form.
 *
 * Two engines that are both right still differ in how they write the same state down. Each
 * difference that was met has one row in rules.def and one pure, idempotent function in rules.c. A
 * state on its way from one engine to another passes all rules of that direction.
 */
#ifndef TANDEM_VMSTATE_RULES_H
#define TANDEM_VMSTATE_RULES_H

#include <glib.h>
#include "cpu/cpu_state.h"
#include "cpu/chips.h"
#include "cpu/cpuid.h"

enum RuleDirection { RULE_TO_KVM = 1, RULE_TO_SOFT = 2, RULE_BOTH = 3 };

/* One field that a rule changed. */
typedef struct RuleNote {
    const char *rule;
    char before[40], after[40]; /* "TR.attr 0x8089", "TR.attr 0x808b" */
} RuleNote;

/* Filled by rules_apply(): the first `max` changes; n counts them all. */
typedef struct RuleNotes {
    RuleNote *note;
    unsigned max, n;
} RuleNotes;

typedef struct RuleEnv {
    const CpuidTable *cpuid; /* what the guest is offered; NULL: features are not looked at */
    bool tsc_offset_fixed;   /* VmCommon.tsc_offset_fixed */
} RuleEnv;

/*
 * Applies all rules of the direction (RULE_BOTH: of either) that are on. notes may be NULL. False,
 * with err naming the rule and the feature, when the state holds what the guest is not offered:
 * the state is then half normalised, so work on a copy or keep one. No allocation on success.
 */
bool rules_apply(CpuState *, enum RuleDirection, const RuleEnv *, RuleNotes *, GError **);

/* One rule alone, on or off, for its test. False also when there is no such rule. */
bool rule_apply_one(const char *name, CpuState *, enum RuleDirection, const RuleEnv *, RuleNotes *,
                    GError **);

/* The rules of the interrupt controllers: either of the two may be NULL. They refuse nothing. */
void chip_rules_apply(LapicState *, ChipState *, enum RuleDirection, RuleNotes *);

typedef struct RuleInfo {
    const char *name, *reason;
    enum RuleDirection direction;
    bool enabled;
    bool chips; /* of the interrupt controllers, not of CpuState */
} RuleInfo;
/* Rule i in order of application; false past the last. */
bool rule_info(unsigned i, RuleInfo *);
/* Turns one rule off or on for the whole process. Any thread. False: no such rule. */
bool rule_set_enabled(const char *name, bool on);

#endif
