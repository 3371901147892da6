/* RET in translated code, where nothing is known of what it goes back to. See jit_blocks.h. */
#include "jit_blocks.h"

/* RETs that the jump cache, or a trace, knows the way of but for the last, which goes somewhere
 * else: there, to no page, or to an address that is none. */
START_TEST(returns)
{
    /* 1: lea rax, [2f]; cmp ecx, 1; cmove rax, rbx; push rax; ret; 2: dec ecx; jnz 1b; hlt */
    static const uint8_t bytes[] = "\x48\x8d\x05\x09\0\0\0\x83\xf9\x01\x48\x0f\x44\xc3\x50\xc3"
                                   "\xff\xc9\x75\xec\xf4\xf4";
    static const uint64_t to[] = {G_CODE + 21,        0x7fffffffe000ull,  BIT(47),
                                  0xffff7fffffffffff, 0xffff800000000000, 0x123456789abcdef0};
    static const unsigned rounds[] = {1, 2, 3, 50};
    Jit *j = begin_jit();
    j->warm_after = 2;
    j->trace_paths = j->kernel_paths = 1;
    j->kernel_warm = 1;
    uint64_t helpers = j->helpers;
    for (unsigned k = 0; k < ARRAY_LEN(to) * ARRAY_LEN(rounds); k++) {
        static CpuState in;
        seed = k + 1;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSP] = DATA + 0x800;
        in.gpr[RBX] = to[k % ARRAY_LEN(to)];
        in.gpr[RCX] = rounds[k / ARRAY_LEN(to)];
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, bytes, sizeof(bytes) - 1);
    }
    ck_assert_uint_gt(j->helpers, helpers); /* by those to no address */
    ck_assert_uint_gt(j->exits[JX_LOOKUP], ARRAY_LEN(to));
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {returns};
    return jit_suite("jit_return", tests, ARRAY_LEN(tests));
}
