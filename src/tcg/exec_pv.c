/* VMCALL and VMMCALL, which KVM takes for each other, in a guest that was told of KVM. */
#include "cpu/pv.h"
#include "tcg/exec.h"
#include "tcg/sys.h"

enum { KVM_EPERM = 1 };

DEF_EXEC(hypercall)
{
    static const uint8_t from[] = {RBX, RCX, RDX, RSI};
    bool wide = t->code64;
    uint64_t arg[4], nr = wide ? s->gpr[RAX] : (uint32_t)s->gpr[RAX];
    for (unsigned n = 0; n < ARRAY_LEN(arg); n++)
        arg[n] = wide ? s->gpr[from[n]] : (uint32_t)s->gpr[from[n]];
    vec_release(t);
    int64_t result = t->cpl ? -KVM_EPERM : pv_hypercall(t->v, nr, arg);
    s->gpr[RAX] = wide ? (uint64_t)result : (uint32_t)result;
    return FAULT_NONE;
}
