/* Registers that most translated code has on the stack, R12 to R15, beside others. See
 * jit_blocks.h. */
#include "jit_blocks.h"

static const uint8_t registers_used[] = {RAX, RBX, R12, R13, R14, R12};

static uint8_t one_of(void)
{
    return registers_used[below(ARRAY_LEN(registers_used))];
}

/* An instruction of one or two registers; now and then with memory. */
static void of_registers(Code *c)
{
    HostMem m = {.base = RSI, .index = H_NONE, .disp = 8 * (int32_t)below(8)};
    Enc e = {.map = MAP_1B, .modrm = true, .w = !one_in(3), .reg = one_of(), .rm = one_of()};
    switch (below(8)) {
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
        random_memory();
        n_cuts = 0;
        must_agree(k, &in, bytes, (unsigned)(c.p - bytes));
    }
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {any_two};
    return jit_suite("jit_frame", tests, ARRAY_LEN(tests));
}
