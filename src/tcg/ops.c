/* The rows of ops.def as an array, and the declarations of the handlers they name. */
#include "cpu/cpuid.h"
#include "tcg/insn.h"

/* A handler serves several rows: declaring it more than once is allowed. */
#define INSN(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, emit, wr, rd, un, at, feat) \
    extern const ExecSet exec_##fn;
#include "tcg/ops.def"
#undef INSN

#define INSN(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, emit, wr, rd, un, at, feat)    \
    {MAP_##map,  opc,         PFX_##pfx, X_##modrm, name, {O_##o1, O_##o2, O_##o3, O_##o4}, \
     &exec_##fn, EMIT_##emit, wr,        rd,        un,   at,                               \
     FEAT_##feat},
const OpRow op_rows[] = {
#include "tcg/ops.def"
};
#undef INSN
const unsigned op_rows_n = ARRAY_LEN(op_rows);
