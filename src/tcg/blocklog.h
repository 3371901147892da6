/* What -d in_asm, out_asm, exec and cpu show of blocks, in QEMU's form. */
#ifndef TANDEM_TCG_BLOCKLOG_H
#define TANDEM_TCG_BLOCKLOG_H

#include "base/log.h"
#include "tcg/block.h"

/* in_asm: the guest's code of a block just made, whose first instruction is at rip. */
void blocklog_in_asm(const Tcg *, const Block *, uint64_t rip);
/* len bytes of code, to be run at `at`, as they come; what is no instruction a byte a line. */
void blocklog_code(GString *out, unsigned bits, uint64_t at, const uint8_t *bytes, size_t len);
/* exec and cpu: the vCPU enters this block. t->cc is right. */
void blocklog_enter(const CpuState *, const Tcg *, const Block *);

/* Is one of the categories on that blocklog_enter() serves? */
static inline bool blocklog_enters(void)
{
    return log_on(LOG_EXEC) || log_on(LOG_CPU);
}

#endif
