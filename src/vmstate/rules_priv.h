/* What rules.c and chip_rules.c share. */
#ifndef TANDEM_VMSTATE_RULES_PRIV_H
#define TANDEM_VMSTATE_RULES_PRIV_H

#include "vmstate/rules.h"

typedef struct Ctx {
    CpuState *s;
    LapicState *lapic; /* of the interrupt controllers' rules; may be NULL */
    ChipState *chips;
    const RuleEnv *env;
    enum RuleDirection dir;
    RuleNotes *notes;
    const char *rule; /* being applied */
    GError **err;
} Ctx;

void rule_note(Ctx *, const char *field, uint64_t before, uint64_t after);

/* Sets an integer lvalue to its canonical value and reports it when that is a change. */
#define CANON(c, field, lvalue, value)                                 \
    do {                                                               \
        __typeof__(lvalue) canon_ = (value);                           \
        if (unlikely((lvalue) != canon_)) {                            \
            rule_note(c, field, (uint64_t)(lvalue), (uint64_t)canon_); \
            (lvalue) = canon_;                                         \
        }                                                              \
    } while (0)

/* chip_rules.c */
bool rule_lapic_timer(Ctx *);
bool rule_pic_elcr(Ctx *);
bool rule_ioapic_irr(Ctx *);

#endif
