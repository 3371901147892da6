/*
 * Disassembly, by capstone. Its library has megabytes of tables that need relocation, so it is
 * loaded when something is disassembled for the first time, and not with the program.
 *
 * Any thread.
 */
#ifndef TANDEM_CPU_DISASM_H
#define TANDEM_CPU_DISASM_H

#include <capstone/capstone.h>
#include <glib.h>
#include "base/types.h"

/* What is used of the library; a member is the function cs_NAME. */
#define CAPSTONE_FUNCTIONS(X) \
    X(version)                \
    X(open)                   \
    X(close)                  \
    X(option)                 \
    X(malloc)                 \
    X(free)                   \
    X(disasm_iter)            \
    X(reg_name)               \
    X(group_name)

typedef struct CapstoneLib {
#define X(name) __typeof__(cs_##name) *name;
    CAPSTONE_FUNCTIONS(X)
#undef X
} CapstoneLib;

/* NULL and err: the library cannot be loaded. */
const CapstoneLib *capstone_lib(GError **err);

#define DISASM_TEXT 192
/*
 * The instruction at the start of `bytes`, of code of 16, 32 or 64 bits, as text without address
 * and bytes. Returns its length. 0: capstone knows no such instruction, or cannot be loaded; the
 * text says which.
 */
unsigned disasm_insn(unsigned bits, const uint8_t *bytes, size_t len, uint64_t rip,
                     char text[DISASM_TEXT]);

#endif
