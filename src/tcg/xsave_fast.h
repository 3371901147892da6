/* XSAVE and XRSTOR as kernels use them: see xsave_fast.c. */
#ifndef TANDEM_TCG_XSAVE_FAST_H
#define TANDEM_TCG_XSAVE_FAST_H

#include "tcg/tcg.h"
#include "tcg/vec.h"

void xsave_map_init(XsaveMap *, const CpuidTable *);
/* The area at lin, aligned or not. False, with nothing changed: not a plain case, or it faults. The
 * caller has looked at all that does not depend on the area. */
bool xsave_fast(CpuState *, Tcg *, gva_t lin, uint64_t rfbm, bool optimised);
bool xrstor_fast(CpuState *, Tcg *, gva_t lin, uint64_t rfbm);

#endif
