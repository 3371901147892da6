/* System instructions in translated code: sys.c, gate.c. See jit.h. */
#ifndef TANDEM_JIT_SYS_H
#define TANDEM_JIT_SYS_H

#include "jit/trans.h"

/* After jit_make_stubs(). */
void jit_make_gates(Jit *, Code *);
/* As jit_emit_one(). */
bool jit_emit_sys(Trans *, const Insn *);
/* The code that runs next, or NULL. JitHot.miss_addr: RIP behind SYSCALL. Operands of 64 bits. */
const uint8_t *jit_gate_syscall(Tcg *);
const uint8_t *jit_gate_sysret(Tcg *);
const uint8_t *jit_gate_iret(Tcg *);

#endif
