/*
 * x87 instructions of the software engine where a process cannot try them: environments and images
 * outside 64-bit mode; and the holes in the opcode map. What they compute is held against the
 * processor by `tandem diff insn`.
 */
#include "native.h"
#include "run_suite.h"

static unsigned failures;

/* Every ModRM byte that no row takes is #UD on the processor as well. */
START_TEST(holes_are_undefined)
{
    engine_ready();
    for (unsigned op = 0xd8; op <= 0xdf; op++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            if (modrm < 0xc0 && (modrm & 0xc7) != 3)
                continue;
            uint8_t b[16] = {(uint8_t)op, (uint8_t)modrm};
            Insn i;
            if (decode(&i, b, 15, tcg()->decode_mode, tcg()->features) == DECODE_OK)
                continue;
            guest.v.st.fpu = (FpuState){.fcw = 0x37f, .mxcsr = 0x1f80};
            memcpy(gp(G_CODE), b, 2);
            static const uint8_t jmp[] = {0xff, 0x25, 0, 0, 0, 0};
            uint64_t back = (uint64_t)(uintptr_t)native_back;
            memcpy((uint8_t *)gp(G_CODE) + 2, jmp, 6);
            memcpy((uint8_t *)gp(G_CODE) + 8, &back, 8);
            memcpy(native_regs.gpr, guest.v.st.gpr, sizeof(native_regs.gpr));
            native_regs.rflags = 0x202;
            native_regs.code = G_CODE;
            native_area_fill(&guest.v.st.fpu);
            native_signal = 0;
            native_run();
            if (native_signal != SIGILL) {
                printf("%02x %02x: no row, but signal %d natively\n", op, modrm, native_signal);
                failures++;
            }
        }
    }
    ck_assert_uint_eq(failures, 0);
}
END_TEST

/* Environments outside 64-bit mode, which the processor cannot be asked about from here: SDM vol.
 * 1, figures 8-9 to 8-12, byte by byte; and back again with FLDENV. */
START_TEST(environments)
{
    static const struct {
        bool prot, small;
        uint8_t bytes[28];
    } form[] = {
        {true, false, {0x7f, 3,    0xff, 0xff, 0x00, 0x28, 0xff, 0xff, 0xff, 0xf3,
                       0xff, 0xff, 0x78, 0x56, 0x03, 0x00, 0x34, 0x12, 0x45, 0x05,
                       0x21, 0x43, 0x05, 0x00, 0x30, 0x00, 0xff, 0xff}},
        {true,
         true,
         {0x7f, 3, 0x00, 0x28, 0xff, 0xf3, 0x78, 0x56, 0x34, 0x12, 0x21, 0x43, 0x30, 0}},
        /* 0x1234:0x35678 is linear 0x479b8; 0x30:0x54321 is 0x54621. */
        {false, false, {0x7f, 3,    0xff, 0xff, 0x00, 0x28, 0xff, 0xff, 0xff, 0xf3,
                        0xff, 0xff, 0xb8, 0x79, 0xff, 0xff, 0x45, 0x45, 0x00, 0x00,
                        0x21, 0x46, 0xff, 0xff, 0x00, 0x50, 0x00, 0x00}},
        {false,
         true,
         {0x7f, 3, 0x00, 0x28, 0xff, 0xf3, 0xb8, 0x79, 0x45, 0x45, 0x21, 0x46, 0, 0x50}},
    };
    guest_flat32();
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    for (unsigned k = 0; k < ARRAY_LEN(form); k++) {
        s->cr0 = (s->cr0 & ~(uint64_t)CR0_PE) | (form[k].prot ? CR0_PE : 0);
        engine_ready();
        t->decode_mode |= DM_CS32; /* a 32-bit operand size in real mode without a prefix */
        for (unsigned back = 0; back < 2; back++) {
            uint8_t b[16] = {0};
            unsigned n = 0, size = form[k].small ? 14 : 28;
            if (form[k].small)
                b[n++] = 0x66;
            b[n++] = 0xd9;
            b[n++] = (uint8_t)((back ? 4 : 6) << 3 | RBX);
            Insn i;
            ck_assert_int_eq(decode(&i, b, 15, t->decode_mode, t->features), DECODE_OK);
            FpuState *f = &s->fpu;
            s->gpr[RBX] = G_DATA;
            memset(f, 0, sizeof(*f));
            f->fcw = 0x37f;
            if (back) {
                i.exec(s, t, &i);
                ck_assert_uint_eq(f->fsw, 0x2800);
                ck_assert_uint_eq(f->ftw, 0x20);
                ck_assert_uint_eq(f->fop, form[k].prot && form[k].small ? 0 : 0x545);
                ck_assert_uint_eq(f->fip, !form[k].prot   ? 0x479b8
                                          : form[k].small ? 0x123400005678
                                                          : 0x123400035678);
                ck_assert_uint_eq(f->fdp, !form[k].prot   ? 0x54621
                                          : form[k].small ? 0x3000004321
                                                          : 0x3000054321);
                continue;
            }
            f->fsw = 0x2800;
            f->ftw = 0x20; /* R5 holds 1.0 */
            f->r[5] = (FpReg){.mant = 1ull << 63, .se = 0x3fff};
            f->fop = 0x545;
            f->fip = 0x123400035678;
            f->fdp = 0x3000054321;
            memset(gp(G_DATA), 0x55, 32);
            ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
            ck_assert_mem_eq(gp(G_DATA), form[k].bytes, size);
            ck_assert_uint_eq(((uint8_t *)gp(G_DATA))[size], 0x55);
        }
    }
}
END_TEST

/* FXSAVE outside 64-bit mode: eight XMM registers, pointers with selectors; FXRSTOR leaves the
 * other eight alone. */
START_TEST(fxsave_32)
{
    guest_flat32();
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    s->cr4 |= CR4_OSFXSR;
    engine_ready();
    const uint8_t save[16] = {0x0f, 0xae, 0x03}, restore[16] = {0x0f, 0xae, 0x0b};
    Insn i;
    uint8_t *w = gp(G_DATA);
    memset(w, 0x55, 512);
    s->gpr[RBX] = G_DATA;
    s->fpu.fcw = 0x37e; /* a pending exception: without one AMD's store no pointers */
    s->fpu.fsw = 0x8081;
    s->fpu.mxcsr = 0x1f80;
    s->fpu.fip = 0x123400035678;
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[k].q[0] = s->fpu.v[k].q[1] = k + 1;
    ck_assert_int_eq(decode(&i, save, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    static const uint8_t pointer[8] = {0x78, 0x56, 3, 0, 0x34, 0x12, 0, 0};
    ck_assert_mem_eq(w + 8, pointer, 8);
    ck_assert_uint_eq(w[160 + 16 * 7], 8);
    ck_assert_uint_eq(w[160 + 16 * 8], 0x55);
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[k].q[0] = 100;
    ck_assert_int_eq(decode(&i, restore, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    ck_assert_uint_eq(s->fpu.v[7].q[0], 8);
    ck_assert_uint_eq(s->fpu.v[8].q[0], 100);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("x87");
    TCase *tc = tcase_create("x87");
    native_setup();
    tcase_set_timeout(tc, 250);
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, holes_are_undefined);
    tcase_add_test(tc, environments);
    tcase_add_test(tc, fxsave_32);
    suite_add_tcase(suite, tc);
    return run_suite_unforked(suite);
}
