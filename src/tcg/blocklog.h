/* What -d in_asm, out_asm, exec and cpu show of blocks, in QEMU's form. */
#ifndef TANDEM_TCG_BLOCKLOG_H
#define TANDEM_TCG_BLOCKLOG_H

#include "base/log.h"
#include "tcg/jit.h"

/* in_asm: the guest's code of a block just made, whose first instruction is at rip. */
void blocklog_in_asm(const Tcg *, const Block *, uint64_t rip);
/* out_asm: code just made of a block that runs at rip now. next[k] is instruction k's, tail what is
 * out of line. */
void blocklog_out_asm(const Jit *, const JitCode *, const uint8_t *const next[],
                      const uint8_t *tail, uint64_t rip);
/* exec and cpu: the vCPU enters this block. t->cc is right. */
void blocklog_enter(const CpuState *, const Tcg *, const Block *);

/* Is one of the categories on that blocklog_enter() serves? */
static inline bool blocklog_enters(void)
{
    return log_on(LOG_EXEC) || log_on(LOG_CPU);
}

#endif
