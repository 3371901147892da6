/* Read-modify-write of memory the careful way: locked, or not allowed by the TLB at once. */
#include "tcg/exec.h"

/* One attempt at *p = want if *p == have; have is updated. Operands may be misaligned (split locks)
 * so this is the instruction itself and not __atomic. */
#define CAS(bits, T, sfx, m, ...)                                                 \
    static bool cas##bits(void *p, T *have, T want)                               \
    {                                                                             \
        bool ok;                                                                  \
        __asm__ volatile("lock cmpxchg" sfx " %" m "[want], (%[p])\n\tsete %[ok]" \
                         : "+a"(*have), [ok] "=q"(ok)                             \
                         : [p] "r"(p), [want] "q"(want)                           \
                         : "memory", "cc");                                       \
        return ok;                                                                \
    }
FOR_SIZES(CAS, 0)

#define RMW_HOST(bits, T, sfx, m, ...)         \
    case sizeof(T): {                          \
        T have, want;                          \
        __builtin_memcpy(&have, p, sizeof(T)); \
        do {                                   \
            cc = t->cc;                        \
            want = (T)op(have, b, &cc);        \
        } while (!cas##bits(p, &have, want));  \
        before = have;                         \
        break;                                 \
    }

Fault rmw_slow(CpuState *s, Tcg *t, const Insn *i G_GNUC_UNUSED, gva_t lin, unsigned size,
               uint64_t b, RmwFn *op, uint64_t *old)
{
    void *p = tlb_hit(t, t->mmu_mode, lin, size, ACC_WRITE);
    uint16_t cc = t->cc;
    uint64_t before;
    if (!p) {
        Fault f = mem_rmw(s, t, lin, size, &p);
        if (f)
            return f;
    }
    if (p) {
        switch (size) {
            FOR_SIZES(RMW_HOST, 0)
        default:
            return raise_unsupported(t, "locked operand of %u bytes", size);
        }
    } else {
        Fault f = mem_read(s, t, lin, size, &before);
        if (!f)
            f = mem_write(s, t, lin, size, op(before, b, &cc));
        if (f)
            return f;
    }
    t->cc = cc;
    if (old)
        *old = before;
    return FAULT_NONE;
}

/* CMPXCHG8B and CMPXCHG16B. The 16-byte form needs a 16-byte aligned operand: #GP. */
static Fault cmpxchg8b_fn(EXEC_ARGS)
{
    gva_t lin;
    Fault f = ea_lin(s, t, i, 8, ACC_WRITE, &lin);
    if (f)
        return f;
    void *p;
    f = mem_rmw(s, t, lin, 8, &p);
    if (f)
        return f;
    uint64_t have = rd32(s, RAX) | (uint64_t)rd32(s, RDX) << 32;
    uint64_t want = rd32(s, RBX) | (uint64_t)rd32(s, RCX) << 32;
    bool ok;
    if (p) {
        ok = cas64(p, &have, want);
    } else {
        uint64_t mem;
        f = mem_read(s, t, lin, 8, &mem);
        if (!f)
            f = mem_write(s, t, lin, 8, mem == have ? want : mem);
        if (f)
            return f;
        ok = mem == have;
        have = mem;
    }
    if (!ok) {
        wr32(s, RAX, (uint32_t)have);
        wr32(s, RDX, (uint32_t)(have >> 32));
    }
    t->cc = (uint16_t)((t->cc & ~CC_ZF) | (ok ? CC_ZF : 0));
    return FAULT_NONE;
}

static Fault cmpxchg16b_fn(EXEC_ARGS)
{
    gva_t lin;
    Fault f = ea_lin(s, t, i, 16, ACC_WRITE, &lin);
    if (f)
        return f;
    if (lin & 15)
        return raise_gp0(t);
    void *p;
    f = mem_rmw(s, t, lin, 8, &p); /* aligned: both halves are on the one page */
    if (f)
        return f;
    if (!p)
        return raise_unsupported(t, "CMPXCHG16B on memory that is not RAM");
    uint64_t lo = s->gpr[RAX], hi = s->gpr[RDX];
    bool ok;
    __asm__ volatile("lock cmpxchg16b (%[p])\n\tsete %[ok]"
                     : "+a"(lo), "+d"(hi), [ok] "=q"(ok)
                     : [p] "r"(p), "b"(s->gpr[RBX]), "c"(s->gpr[RCX])
                     : "memory", "cc");
    if (!ok) {
        s->gpr[RAX] = lo;
        s->gpr[RDX] = hi;
    }
    t->cc = (uint16_t)((t->cc & ~CC_ZF) | (ok ? CC_ZF : 0));
    return FAULT_NONE;
}
const ExecSet exec_cmpxchg8b = {
    {{NULL, NULL}, {NULL, cmpxchg8b_fn}, {NULL, cmpxchg8b_fn}, {NULL, cmpxchg16b_fn}}};
