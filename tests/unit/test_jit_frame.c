/* Registers that most translated code has on the stack, R12 to R15, beside others. See
 * jit_blocks.h. */
#include "jit_blocks.h"

static const uint8_t registers_used[] = {RAX, RBX, R12, R13, R14, RCX};

static uint8_t one_of(void)
{
    return registers_used[below(ARRAY_LEN(registers_used))];
}

/* An instruction of one or two registers; now and then with memory. */
static void of_registers(Code *c)
{
    HostMem m = {.base = RSI, .index = H_NONE, .disp = 8 * (int32_t)below(8)};
    Enc e = {.map = MAP_1B, .modrm = true, .w = !one_in(3), .reg = one_of(), .rm = one_of()};
    switch (below(9)) {
    case 0: /* MOV */
    case 1:
        e.opcode = one_in(4) ? 0x8b : 0x89;
        break;
    case 2: /* of a register with itself */
        e.opcode = (uint8_t[]){0x31, 0x29, 0x85, 0x39, 0x89, 0x33}[below(6)];
        e.rm = e.reg;
        break;
    case 3: /* by a number */
        e.opcode = 0x83;
        e.reg = (uint8_t)below(8);
        e.imm = (int)below(9) - 4;
        e.imm_size = 1;
        break;
    case 4: /* TEST, XCHG, MOVSXD, IMUL */
        e.opcode = (uint8_t[]){0x85, 0x87, 0x63, 0xaf}[below(4)];
        e.map = e.opcode == 0xaf ? MAP_0F : MAP_1B;
        break;
    case 5:
        e.opcode = one_in(2) ? 0x89 : 0x8b;
        e.mem = &m;
        break;
    case 6: /* by CL; D1 */
        e.opcode = one_in(4) ? 0xd1 : 0xd3;
        e.reg = (uint8_t[]){4, 5, 7, 7, 0, 1, 2, 3}[below(8)];
        break;
    default: /* ADD to CMP, ADC and SBB too */
        e.opcode = (uint8_t)(8 * below(8) + (one_in(2) ? 1 : 3));
    }
    encode(c, &e);
}

START_TEST(any_two)
{
    begin_jit();
    for (unsigned k = 0; k < 20000; k++) {
        static CpuState in;
        uint8_t bytes[96];
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        seed = k * 0x5851f42d4c957f2dull + 21;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = DATA + 0x100;
        for (unsigned n = 3 + below(7); n > 0; n--)
            of_registers(&c);
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
    }
    guest_teardown();
}
END_TEST

/* A loop whose second body has R12 to R15 in host registers, and others on the stack, until the
 * host itself faults there: a division by 0, in one of the rounds or in none. */
START_TEST(faults_in_second_bodies)
{
    /* 1: mov r14, [rsi]; mov rax, r12; xor edx, edx; div r14; add r13, rax; xor r12, r13;
     * add r15, r12; add rsi, 8; dec ecx; jnz 1b; hlt */
    static const uint8_t bytes[] = "\x4c\x8b\x36\x4c\x89\xe0\x31\xd2\x49\xf7\xf6\x49\x01\xc5"
                                   "\x4d\x31\xec\x4d\x01\xe7\x48\x83\xc6\x08\x83\xe9\x01\x75"
                                   "\xe3\xf4";
    Jit *j = begin_jit();
    unsigned faults = 0, seconds = 0;
    j->warm_after = 2;
    j->trace_paths = j->kernel_paths = 1;
    j->kernel_warm = 1;
    for (unsigned k = 0; k < 200; k++) {
        static CpuState in;
        seed = k * 0x5851f42d4c957f2dull + 31;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = DATA + 0x100 + 8 * below(8);
        in.gpr[RCX] = 40 + below(40);
        random_memory();
        unsigned zero = below(160);
        memset(memory + in.gpr[RSI] - DATA + 8 * zero, 0, 8);
        faults += zero < in.gpr[RCX];
        n_cuts = 0;
        must_agree(k, &in, bytes, sizeof(bytes) - 1);
        for (unsigned b = 0; b < j->map_n; b++)
            seconds += j->map[b]->head != NULL;
    }
    ck_assert_uint_gt(faults, 20);
    ck_assert_uint_gt(seconds, 0);
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {any_two, faults_in_second_bodies};
    return jit_suite("jit_frame", tests, ARRAY_LEN(tests));
}
