/* States that fail one VM-entry check and no other. */
#include "diff/state.h"

#include "vmstate/checks.h"

static uint64_t one_of(uint64_t mask, uint64_t *r)
{
    for (;;) {
        uint64_t bit = BIT(state_random(r) % 64);
        if (mask & bit)
            return bit;
    }
}

static void vm86_segments(CpuState *s)
{
    for (unsigned i = ES; i <= GS; i++) {
        Segment *g = &s->seg[i];
        g->base = (uint64_t)g->selector << 4;
        g->limit = 0xffff;
        g->attr = 0xf3;
    }
    s->cpl = 3;
    s->rip = (uint16_t)s->rip;
}

#define ANY state_random(r)
/* In the statements, as what it is or-ed into: each field takes its low bits. */
#define ONE_OF(mask) ((__typeof__(mask))one_of(mask, r))
#define PICK(first, ...)     \
    (((__typeof__(first)[]){ \
        first,               \
        __VA_ARGS__})[state_random(r) % ARRAY_LEN(((__typeof__(first)[]){first, __VA_ARGS__}))])

#define BREAK(id, ...)                               \
    static void break_##id(CpuState *s, uint64_t *r) \
    {                                                \
        __VA_ARGS__;                                 \
    }
#include "diff/state_breaks.def"

/* In the order of checks.def: a check without a row does not compile. */
static void (*const breaks[])(CpuState *, uint64_t *) = {
#define CHECK(id, name, reference) break_##id,
#include "vmstate/checks.def"
};

bool state_break(CpuState *s, unsigned check, uint64_t *r, const CpuidTable *t)
{
    const CheckEnv env = {.cpuid = t};
    /* Some checks are of one mode in eight, and of few of its states. */
    for (unsigned tries = 0; tries < 2000; tries++) {
        state_generate(s, state_random(r), 0, t);
        breaks[check](s, r);
        if (vmentry_mask(s, &env, VMENTRY_NOTED) == BIT(check))
            return true;
    }
    return false;
}
