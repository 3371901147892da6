/*
 * VM-entry checks in software: what the processor asks of a guest's state before it enters it.
 *
 * SDM vol. 3, 26.3.1 "Checks on the guest state area" (section numbers of the editions in which
 * VM entries are chapter 26), for an "unrestricted guest" as KVM uses it, plus the few conditions
 * that VMRUN (AMD APM vol. 2, 15.5.1) or KVM's own ioctls add. A state that passes is one that
 * hardware of either maker enters; one that does not is refused here by name, on any machine.
 *
 * Canonical states only: apply the rules first. Pure, no allocation unless a check fails.
 */
#ifndef TANDEM_VMSTATE_CHECKS_H
#define TANDEM_VMSTATE_CHECKS_H

#include <glib.h>
#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"

/* cpuid may be NULL: 52 physical address bits then. err (ERR_STATE) names check, section, value. */
bool vmentry_check(const CpuState *, const CpuidTable *cpuid, GError **err);

/* The name of the first check that fails, or NULL; why (may be NULL) gets the offending value. */
const char *vmentry_failed_check(const CpuState *, const CpuidTable *cpuid, char *why, size_t size);

/* All checks that fail: bit i for check i. */
uint64_t vmentry_failed_mask(const CpuState *, const CpuidTable *cpuid);

/* Check i in order: its name, or NULL past the last; its section in *reference if not NULL. */
const char *vmentry_check_name(unsigned i, const char **reference);

#endif
