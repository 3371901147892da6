/*
 * Counting instructions in translated code that runs as it does without a limit: blocks joined,
 * traces, second bodies of loops (RunLimit.chained). Only for who holds another engine against it,
 * as lockstep does; other code has none of this.
 *
 * Each block or part of a trace adds its instructions to JitHot.count when it begins. So the count
 * is right where a part ends, and C, which is called for one instruction, takes off what is left of
 * the part if it does not go on there (run.c). The count comes up from minus what is left of
 * the limit: when it is negative no more, translated code is left where it looks at Vcpu.go.
 */
#include "jit/trans.h"

void jit_counting(Jit *j)
{
    if (j->counts)
        return;
    j->counts = true;
    jit_flush(j);
}

void jit_count(Trans *x, int32_t insns)
{
    Code *c = &x->c;
    HostMem count = jit_hot(x->j, offsetof(JitHot, count));
    if (!x->j->counts || !insns)
        return;
    jit_island_before(x, 30);
    emit_load(c, H_CX, count);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = insns});
    emit_store(c, H_CX, count);
}

void jit_count_part(Trans *x)
{
    if (x->k == x->at->first)
        jit_count(x, x->at->b->n);
}

void jit_count_off(Trans *x, unsigned k)
{
    unsigned p = x->n_parts - 1u;
    while (x->part[p].first > k)
        p--;
    jit_count(x, (int32_t)(k + 1) - (int32_t)(x->part[p].first + x->part[p].b->n));
}

/* PEXT: the bits of ecx, or of rcx, that m has; flags stay. */
static void extract(Code *c, bool w, HostMem m)
{
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf5,
                     .pfx = PFX_F3,
                     .w = w,
                     .modrm = true,
                     .vvvv = H_CX,
                     .reg = H_CX,
                     .mem = &m});
}

void jit_poll(Trans *x)
{
    HostMem go = jit_vcpu(offsetof(Vcpu, go));
    if (!x->j->counts) {
        emit_load32(&x->c, H_CX, go);
        return;
    }
    emit_load(&x->c, H_CX, jit_hot(x->j, offsetof(JitHot, count)));
    extract(&x->c, true, jit_hot(x->j, offsetof(JitHot, sign)));
    extract(&x->c, false, go);
}
