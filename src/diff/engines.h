/* What executors share. */
#ifndef TANDEM_DIFF_ENGINES_H
#define TANDEM_DIFF_ENGINES_H

#include "cpu/vcpu.h"
#include "diff/case.h"

/* The CPU that cases are made for: "max" of this host. Built once; any thread. */
const CpuidTable *case_cpuid(void);
/* The same as decode() wants it: FEAT_N bytes. */
const uint8_t *case_features(void);
/* enum DecodeMode bits of the case's mode. */
unsigned case_decode_mode(const DiffCase *);
/* The case's own instruction is INT3, not the one behind it. */
bool case_is_int3(const DiffCase *);
/* XSAVE images of this host have x87 pointers (FOP, FIP, FDP) only while an exception is pending.
 */
bool case_pointers_hidden(void);
/* MXCSR_MASK of this host, which its guests have too. */
uint32_t case_mxcsr_mask(void);
/* "host has no AVX2", for refuses(); NULL when the row's feature is there. */
const char *case_no_feature(uint16_t row);

#endif
