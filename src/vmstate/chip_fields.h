/*
 * The interrupt controllers and the timer of one vCPU's machine, field by field: what chips.def
 * declares, as data, the way vmstate/state.h has it for a vCPU. Pure functions.
 */
#ifndef TANDEM_VMSTATE_CHIP_FIELDS_H
#define TANDEM_VMSTATE_CHIP_FIELDS_H

#include <glib.h>
#include "cpu/chips.h"

/* What a vCPU's interrupts come through. */
typedef struct ChipView {
    LapicState lapic;
    ChipState chips;
    PitState pit;
} ChipView;

/* group: "lapic", "ioapic", "pic0", "pic1" or "pit"; field: "LAPIC.TPR", "IOAPIC.rte2". */
typedef void ChipDiffFn(const char *group, const char *field, uint64_t a, uint64_t b, void *opaque);
/* Calls fn for each field in which the two differ; returns how many do. */
unsigned chips_diff(const ChipView *a, const ChipView *b, ChipDiffFn *fn, void *opaque);

/* As vmstate/text.h has it: a line a field, "NAME HEX". Fields that are zero are left out. */
void chips_write_text(const ChipView *, GString *out);
/* One line. *known says whether it begins with the name of such a field; false: no such value. */
bool chips_read_text(ChipView *, const char *line, bool *known, GError **err);

#endif
