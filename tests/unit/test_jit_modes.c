/* In which modes there is translated code, one after the other on one vCPU, as a vCPU comes through
 * them that is started by firmware. See jit_blocks.h. */
#include "jit_blocks.h"

#define INSNS 3000u

static const struct {
    const char *name;
    uint32_t cs, ss; /* attributes */
    bool prot, code64, ac, code;
} modes[] = {
    {"real mode", 0x9b, 0x93, .prot = false},
    {"16 bits", 0x9b, 0x93, .prot = true},
    {"32 bits, a stack of 16", 0xc09b, 0x8093, .prot = true},
    {"32 bits", 0xc09b, 0xc093, .prot = true, .code = true},
    {"32 bits, AC", 0xc09b, 0xc093, .prot = true, .ac = true, .code = true},
    {"32 bits, CPL 3", 0xc0fb, 0xc0f3, .prot = true, .code = true},
    {"64 bits", 0xa09b, 0xc093, .code64 = true, .code = true},
    {"64 bits, AC", 0xa09b, 0xc093, .code64 = true, .ac = true, .code = true},
    {"64 bits, CPL 3", 0xa0fb, 0xc0f3, .code64 = true, .code = true},
};

static void begin(unsigned k)
{
    CpuState *s = ST;
    if (modes[k].code64)
        guest_long_mode();
    else
        guest_flat32();
    guest_segment(CS, modes[k].cs, 8);
    guest_segment(SS, modes[k].ss, 16);
    if (!modes[k].prot && !modes[k].code64)
        s->cr0 &= ~(uint64_t)CR0_PE;
    if (!(modes[k].cs & SEG_DB) && !modes[k].code64) {
        s->seg[CS].base = G_CODE;
        s->seg[CS].limit = 0xffff;
        s->rip = 0;
    }
    s->rflags |= modes[k].ac ? FL_AC : 0;
    engine_jit.import_state(&guest.v, GROUPS_ALL, NULL);
    engine_jit.enter(&guest.v);
}

/* Wherever it has been before, a vCPU runs as translated code what code is made of. */
START_TEST(one_after_the_other)
{
    /* 1: dec ecx; jnz 2f; 2: dec ecx; jmp 1b */
    static const uint8_t bytes[] = "\xff\xc9\x75\0\xff\xc9\xeb\xf8";
    const RunLimit limit = {.max_insns = INSNS, .chained = true, .caller_events = true};
    Jit *j = begin_jit();
    j->hot_after = 2;
    for (unsigned n = 0; n < 2 * ARRAY_LEN(modes); n++) {
        unsigned k = n % ARRAY_LEN(modes);
        uint64_t before = j->counted;
        begin(k);
        memcpy(gp(G_CODE), bytes, sizeof(bytes));
        Exit x = engine_jit.run(&guest.v, &limit);
        ck_assert_msg(x.kind == EXIT_LIMIT, "%s: ended with exit %d: %s", modes[k].name, x.kind,
                      x.msg);
        uint64_t counted = j->counted - before;
        ck_assert_msg(modes[k].code ? counted > INSNS * 9 / 10 : !counted,
                      "%s: %lu of %u instructions in translated code", modes[k].name, counted,
                      INSNS);
    }
    guest_teardown();
}
END_TEST

/* What code of one mode may do, that of another may not: SMAP, for one. None finds another's. */
START_TEST(each_its_own)
{
    const unsigned flat32 = DM_FLAT | DM_CS32 | DM_SS32 | DM_PROT;
    const unsigned sizes[] = {DM_CODE64 | DM_PROT, flat32}, rights[] = {0, DM_AC, DM_CPL3};
    unsigned seen = 0;
    for (unsigned k = 0; k < ARRAY_LEN(sizes) * ARRAY_LEN(rights); k++) {
        int slot = jit_jump_slot(sizes[k / 3] | rights[k % 3]);
        ck_assert_int_ge(slot, 0);
        ck_assert_int_lt(slot, (int)JJUMP_MODES);
        ck_assert_uint_eq(seen >> slot & 1, 0);
        seen |= 1u << slot;
    }
    ck_assert_int_eq(jit_jump_slot(DM_CS32 | DM_PROT), -1);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {one_after_the_other, each_its_own};
    return jit_suite("jit_modes", tests, ARRAY_LEN(tests));
}
