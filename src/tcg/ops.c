/* The rows of ops.def and operands.def as arrays, and the declarations of the handlers they name.
 */
#include "cpu/cpuid.h"
#include "tcg/insn.h"

/* A handler serves several rows: declaring it more than once is allowed. */
#define INSN(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, emit, wr, rd, un, at, feat) \
    extern const ExecSet exec_##fn;
#define EVEX(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, w, vl, tuple, el, cls, ev, feat) \
    extern const ExecSet exec_##fn;
#include "tcg/ops.def"
#undef INSN
#undef EVEX

/* What a class says of its rows, as constants. */
enum {
#define EVEX_CLASS(name, attr, suppress) EC_ATTR_##name = (attr), EC_SUPPRESS_##name = (suppress),
    EVEX_CLASSES(EVEX_CLASS)
#undef EVEX_CLASS
        A_WIG = 0,
    EMIT_OF_evex = EMIT_COPY,
    EMIT_OF_egather = EMIT_GATHER,
    EMIT_OF_escatter = EMIT_GATHER,
};

#define INSN(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, emit, wr, rd, un, at, feat)     \
    {MAP_##map,   opc,         PFX_##pfx, X_##modrm, name, {O_##o1, O_##o2, O_##o3, O_##o4}, \
     &exec_##fn,  EMIT_##emit, wr,        rd,        un,   at,                               \
     FEAT_##feat, {0}},
#define EVEX(map, opc, pfx, modrm, name, o1, o2, o3, o4, fn, w, vl, tuple, el, cls, ev, feat) \
    {MAP_EVEX##map,                                                                           \
     opc,                                                                                     \
     PFX_##pfx,                                                                               \
     X_##modrm,                                                                               \
     name,                                                                                    \
     {O_##o1, O_##o2, O_##o3, O_##o4},                                                        \
     &exec_##fn,                                                                              \
     EMIT_OF_##fn,                                                                            \
     (ev)&EV_FLAGS ? FL_ARITH : 0,                                                            \
     0,                                                                                       \
     0,                                                                                       \
     A_AVX | A_AVX512 | A_##w | EC_ATTR_##cls | ((ev)&EV_MXCSR ? A_FP : 0),                   \
     FEAT_##feat,                                                                             \
     {VL_##vl, TT_##tuple, el, EC_##cls, ev, EC_SUPPRESS_##cls}},
const OpRow op_rows[] = {
#include "tcg/ops.def"
};
#undef INSN
#undef EVEX
const unsigned op_rows_n = ARRAY_LEN(op_rows);

const OperandInfo operand_info[O_N] = {
#define OPERAND(name, cls, size) [O_##name] = {OC_##cls, size},
#include "tcg/operands.def"
#undef OPERAND
};
