/*
 * AVX-512 in the software engine: what may not be encoded, what control registers forbid, and the
 * elements that a mask keeps from being accessed. What the instructions compute is held against the
 * processor by `tandem diff insn`.
 */
#include "native.h"
#include "tcg/vec.h"
#include "run_suite.h"

#define PAGE_AT  (G_RAM + 0x150000) /* the page behind it is not there */
#define PAGE_END (PAGE_AT + 0x1000)

static DecodeResult decode_of(Insn *i, const uint8_t *bytes, unsigned n, uint8_t b[16])
{
    memset(b, 0, 16);
    memcpy(b, bytes, n);
    return decode(i, b, 15, tcg()->decode_mode, tcg()->features);
}

static int exec_bytes(const uint8_t *bytes, unsigned n)
{
    Insn i;
    Tcg *t = tcg();
    uint8_t b[16];
    ck_assert_int_eq(decode_of(&i, bytes, n, b), DECODE_OK);
    ck_assert(vec_prepare(t, &i, b));
    t->blk_rip = guest.v.st.rip;
    Fault f = i.exec(&guest.v.st, t, &i);
    vec_release(t);
    return f == FAULT_EXC ? t->exc.vector : f == FAULT_NONE ? -1 : -2;
}
#define EXEC(...) exec_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static DecodeResult decodes(const uint8_t *bytes, unsigned n)
{
    Insn i;
    uint8_t b[16];
    return decode_of(&i, bytes, n, b);
}
#define DECODES(...) decodes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static CpuState *ready(void)
{
    CpuState *s = &guest.v.st;
    put64(G_PT + 8 * ((PAGE_END - G_RAM) >> 12), 0);
    s->cr4 |= CR4_OSXSAVE;
    s->xcr0 = 0xe7;
    engine_ready();
    memset(gp(PAGE_AT), 0x55, 0x1000);
    for (unsigned k = 0; k < 32; k++)
        memset(s->fpu.v[k].b, (int)(0x80 + k), 64);
    return s;
}

START_TEST(control_registers_forbid)
{
    CpuState *s = ready();
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), -1); /* vaddps zmm0, zmm1, zmm2 */
    ck_assert_int_eq(EXEC(0xc5, 0xf8, 0x90, 0xca), -1);             /* kmovw k1, k2 */
    s->xcr0 = 0x67;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), VEC_UD);
    ck_assert_int_eq(EXEC(0xc5, 0xf8, 0x90, 0xca), VEC_UD);
    ck_assert_int_eq(EXEC(0xc5, 0xf4, 0x58, 0xc2), -1); /* vaddps ymm0, ymm1, ymm2 */
    s->xcr0 = 0xe7;
    s->cr0 |= CR0_TS;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), VEC_NM);
    ck_assert_int_eq(EXEC(0xc5, 0xf8, 0x90, 0xca), VEC_NM);
    s->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), VEC_UD);
}
END_TEST

START_TEST(encodings_forbid)
{
    ready();
    uint8_t *has = tcg()->features;
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), DECODE_OK);
    ck_assert_int_eq(DECODES(0x62, 0xf9, 0x74, 0x48, 0x58, 0xc2), DECODE_UD); /* P0[3] */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x70, 0x48, 0x58, 0xc2), DECODE_UD); /* P1[2] clear */
    ck_assert_int_eq(DECODES(0x62, 0xf0, 0x74, 0x48, 0x58, 0xc2), DECODE_UD); /* no map 0 */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0xf4, 0x48, 0x58, 0xc2), DECODE_UD); /* W */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x68, 0x58, 0xc2), DECODE_UD); /* L'L = 3 */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x78, 0x58, 0xc2), DECODE_OK); /* {rz-sae} */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0xc8, 0x58, 0xc2), DECODE_UD); /* z with k0 */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0xc9, 0x58, 0xc2), DECODE_OK);
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x7c, 0xc9, 0x11, 0x03), DECODE_UD); /* z with a store */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x7c, 0x49, 0x11, 0x03), DECODE_OK);
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x7c, 0x58, 0x10, 0x03), DECODE_UD); /* no broadcast */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x48, 0x10, 0x03), DECODE_UD); /* vvvv */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x7c, 0x40, 0x10, 0x03), DECODE_UD); /* V' */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x7d, 0x09, 0x6e, 0xc0), DECODE_UD); /* vmovd with k1 */
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x75, 0x48, 0x74, 0xca), DECODE_OK); /* vpcmpeqb k1 */
    ck_assert_int_eq(DECODES(0x62, 0x71, 0x75, 0x48, 0x74, 0xca), DECODE_UD); /* k9 */
    ck_assert_int_eq(DECODES(0x62, 0xf2, 0x7d, 0x48, 0x90, 0x0c, 0x13), DECODE_UD); /* no mask */
    ck_assert_int_eq(DECODES(0x66, 0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), DECODE_UD);
    has[FEAT_AVX512VL] = 0;
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x28, 0x58, 0xc2), DECODE_UD);
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), DECODE_OK);
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x76, 0x08, 0x58, 0xc2), DECODE_OK); /* vaddss */
    has[FEAT_AVX512VL] = 1;
    has[FEAT_AVX512F] = 0;
    ck_assert_int_eq(DECODES(0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2), DECODE_UD);
    has[FEAT_AVX512F] = 1;
}
END_TEST

/* An 8-bit displacement counts in operands, or in elements that are broadcast. */
START_TEST(displacements_are_scaled)
{
    ready();
    static const uint8_t pp[] = {[PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    unsigned met = 0;
    for (unsigned r = 0; r < op_rows_n; r++) {
        const OpRow *row = &op_rows[r];
        if (!is_evex_map(row->map) || row->evex.tuple == TT_NONE)
            continue;
        for (unsigned l = 0; l < 3; l++) {
            bool vsib = row->evex.flags & EV_VSIB, w = row->attr & A_W1;
            uint8_t b[15] = {0x62,
                             (uint8_t)(0xf0 | (row->map - MAP_EVEX0F + 1u)),
                             (uint8_t)(w << 7 | 0x7c | pp[row->pfx]),
                             (uint8_t)(l << 5 | 8 | vsib),
                             row->opcode,
                             (uint8_t)(0x44 | (row->modrm & 7) << 3),
                             0x13,
                             1};
            Insn i;
            if (decode(&i, b, 15, tcg()->decode_mode, tcg()->features) != DECODE_OK)
                continue;
            ck_assert_ptr_eq(&op_rows[i.row], row);
            unsigned want = row->evex.element;
            for (unsigned k = 0; !(row->evex.flags & (EV_PACK | EV_VSIB)) && k < 4; k++) {
                static const uint8_t cls[] = {
#define OPERAND(name, c, size) [O_##name] = OC_##c,
#include "tcg/operands.def"
#undef OPERAND
                };
                unsigned c = cls[row->op[k]];
                if (c == OC_VRM || c == OC_RM || c == OC_MEM)
                    want = vec_operand_bytes(&i, row->op[k]);
            }
            ck_assert_msg(i.disp == (int64_t)want, "%s, length %u: %d, not %u", row->name, 16 << l,
                          (int)i.disp, want);
            met++;
            if (row->evex.tuple != TT_FV && row->evex.tuple != TT_HV)
                continue;
            b[3] |= 0x10;
            ck_assert_int_eq(decode(&i, b, 15, tcg()->decode_mode, tcg()->features), DECODE_OK);
            ck_assert_int_eq(i.disp, row->evex.element);
        }
    }
    ck_assert_uint_gt(met, 1000);
}
END_TEST

static uint8_t running[15];
static void undefined_here(int sig G_GNUC_UNUSED)
{
    fprintf(stderr, "the processor does not take");
    for (unsigned k = 0; k < 7; k++)
        fprintf(stderr, " %02x", running[k]);
    fprintf(stderr, "\n");
    _exit(1);
}

/* Whatever the last byte of the prefix: what the decoder takes, the processor takes too. */
START_TEST(what_decodes_runs)
{
    static const uint8_t pp[] = {[PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
    CpuState *s = ready();
    unsigned met = 0;
    void (*before)(int) = signal(SIGILL, undefined_here);
    for (unsigned r = 0; r < op_rows_n; r++) {
        const OpRow *row = &op_rows[r];
        for (unsigned n = 0; is_evex_map(row->map) && n < 1024; n++) {
            uint8_t p1 = (uint8_t)((row->attr & A_W1 || n & 512 ? 0xfc : 0x7c) | pp[row->pfx]);
            uint8_t rm = n & 256 ? 0xc3 : row->evex.flags & EV_VSIB ? 0x04 : 0x03;
            uint8_t b[15] = {
                0x62,        (uint8_t)(0xf0 | (row->map - MAP_EVEX0F + 1u)), p1,  (uint8_t)n,
                row->opcode, (uint8_t)(rm | (row->modrm & 7) << 3),          0x13};
            memcpy(running, b, 15);
            Insn i;
            if (decode(&i, b, 15, tcg()->decode_mode, tcg()->features) != DECODE_OK ||
                &op_rows[i.row] != row)
                continue;
            s->gpr[RBX] = s->gpr[RDX] = G_DATA;
            ck_assert_int_lt(exec_bytes(b, 15), 0);
            met++;
        }
    }
    signal(SIGILL, before);
    ck_assert_uint_gt(met, 20000);
}
END_TEST

START_TEST(masked_loads_and_stores)
{
    CpuState *s = ready();
    s->gpr[RBX] = PAGE_END - 32;
    s->fpu.k[1] = 0xff;
    /* vmovdqu32 zmm1 {k1} {z}, [rbx] */
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0xc9, 0x6f, 0x0b), -1);
    ck_assert(s->fpu.v[1].q[3] == 0x5555555555555555 && s->fpu.v[1].q[4] == 0);
    s->fpu.k[1] = 0x1ff;
    s->fpu.v[1].q[0] = 7;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0xc9, 0x6f, 0x0b), VEC_PF);
    ck_assert_uint_eq(tcg()->exc.cr2, PAGE_END);
    ck_assert_uint_eq(s->fpu.v[1].q[0], 7);
    s->fpu.k[1] = ~0x1ffull;
    s->gpr[RBX] = PAGE_END - 36; /* what is selected is behind the page */
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0x49, 0x6f, 0x0b), VEC_PF);
    /* vmovdqu32 [rbx] {k1}, zmm1 */
    s->gpr[RBX] = PAGE_END - 32;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x0b), VEC_PF);
    s->fpu.k[1] = 0x80ff;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x0b), VEC_PF);
    ck_assert_uint_eq(*(uint32_t *)gp(PAGE_END - 32), 0x55555555); /* not begun */
    s->fpu.k[1] = 0x81;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x0b), -1);
    ck_assert_uint_eq(*(uint32_t *)gp(PAGE_END - 32), 7);
    ck_assert_uint_eq(*(uint32_t *)gp(PAGE_END - 28), 0x55555555);
    /* Nothing selected, nothing accessed: not even that its address is no address. */
    s->fpu.k[1] = 0;
    s->gpr[RBX] = 1ull << 63;
    ck_assert_int_eq(EXEC(0x62, 0xf1, 0x7e, 0x49, 0x6f, 0x0b), -1);
}
END_TEST

/* VPCOMPRESSD, VPEXPANDD: memory has only the elements that are selected. */
START_TEST(packed_elements)
{
    CpuState *s = ready();
    s->gpr[RBX] = PAGE_END - 16;
    s->fpu.k[1] = 0x8421;
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[1].d[k] = k;
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x0b), -1);
    const uint32_t *m = gp(PAGE_END - 16);
    ck_assert(m[0] == 0 && m[1] == 5 && m[2] == 10 && m[3] == 15);
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0xc9, 0x89, 0x13), -1); /* zmm2 {k1} {z} */
    ck_assert(s->fpu.v[2].d[10] == 10 && s->fpu.v[2].d[9] == 0);
    s->fpu.k[1] = 0x8423;
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x0b), VEC_PF);
    ck_assert_uint_eq(m[1], 5);
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0xc9, 0x89, 0x13), VEC_PF);
}
END_TEST

/* A gather that faults has done what came before, and its mask says so. */
START_TEST(gathers_go_on)
{
    CpuState *s = ready();
    s->gpr[RBX] = PAGE_AT;
    s->fpu.k[1] = 0x17;
    for (unsigned k = 0; k < 16; k++)
        s->fpu.v[20].d[k] = 4 * k;
    s->fpu.v[20].d[2] = 0x1000;
    *(uint32_t *)gp(PAGE_AT + 4) = 77;
    /* vpgatherdd zmm1 {k1}, [rbx + zmm20] */
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0x41, 0x90, 0x0c, 0x23), VEC_PF);
    ck_assert_uint_eq(s->fpu.k[1], 0x14);
    ck_assert(s->fpu.v[1].d[1] == 77 && s->fpu.v[1].d[2] == 0x81818181);
    s->fpu.v[20].d[2] = 0;
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0x41, 0x90, 0x0c, 0x23), -1);
    ck_assert_uint_eq(s->fpu.k[1], 0);
    ck_assert(s->fpu.v[1].d[2] == 0x55555555 && s->fpu.v[1].d[3] == 0x81818181);
    /* Scatters: vpscatterdd [rbx + zmm20] {k2}, zmm3; the last of two at one place stays. */
    s->fpu.k[2] = 3;
    s->fpu.v[20].d[0] = s->fpu.v[20].d[1] = 8;
    s->fpu.v[3].d[1] = 99;
    ck_assert_int_eq(EXEC(0x62, 0xf2, 0x7d, 0x42, 0xa0, 0x1c, 0x23), -1);
    ck_assert_uint_eq(*(uint32_t *)gp(PAGE_AT + 8), 99);
    ck_assert_uint_eq(s->fpu.k[2], 0);
}
END_TEST

/* VEX clears up to bit 511; VZEROUPPER has nothing to do with ZMM16 to 31. */
START_TEST(vex_clears_the_rest)
{
    CpuState *s = ready();
    ck_assert_int_eq(EXEC(0xc5, 0xf0, 0x57, 0xc2), -1); /* vxorps xmm0, xmm1, xmm2 */
    ck_assert(s->fpu.v[0].b[15] == 3 && !s->fpu.v[0].b[16] && !s->fpu.v[0].b[63]);
    ck_assert_int_eq(EXEC(0x0f, 0x57, 0xca), -1); /* xorps xmm1, xmm2 */
    ck_assert(s->fpu.v[1].b[16] == 0x81 && s->fpu.v[1].b[63] == 0x81);
    ck_assert_int_eq(EXEC(0xc5, 0xf8, 0x77), -1);
    ck_assert(!s->fpu.v[15].b[63] && !s->fpu.v[15].b[16] && s->fpu.v[16].b[63] == 0x90);
}
END_TEST

/* Prefixes that may not be are #UD, but sixteen bytes are too long first; 67 makes this one shorter
 * in 32-bit code. */
START_TEST(too_long_comes_first)
{
    const unsigned mode32 = DM_PROT | DM_FLAT | DM_CS32 | DM_SS32;
    static const struct {
        uint8_t bytes[15];
        DecodeResult in_32, in_64;
    } rows[] = {
        /* vprold ymm7, [edi + disp32], imm8 */
        {{0x2e, 0x66, 0xf0, 0xf2, 0x62, 0xf1, 0x45, 0x28, 0x72, 0x8c, 0x27, 1, 1, 1, 1},
         .in_32 = DECODE_TOO_LONG,
         .in_64 = DECODE_TOO_LONG},
        {{0x66, 0xf0, 0xf2, 0x62, 0xf1, 0x45, 0x28, 0x72, 0x8c, 0x27, 1, 1, 1, 1, 1},
         .in_32 = DECODE_UD,
         .in_64 = DECODE_UD},
        {{0x67, 0x66, 0xf0, 0xf2, 0xf2, 0x62, 0xf1, 0x45, 0x28, 0x72, 0x8c, 1, 1, 1, 1},
         .in_32 = DECODE_UD,
         .in_64 = DECODE_TOO_LONG},
    };
    Insn i;
    ready();
    for (unsigned k = 0; k < ARRAY_LEN(rows); k++) {
        ck_assert_int_eq(decode(&i, rows[k].bytes, 15, mode32, tcg()->features), rows[k].in_32);
        ck_assert_int_eq(decode(&i, rows[k].bytes, 15, tcg()->decode_mode, tcg()->features),
                         rows[k].in_64);
    }
}
END_TEST

int main(void)
{
    CpuidTable host;
    if (!cpuid_build(&host, "max", NULL, 1, 0, NULL) || !cpuid_has(&host, FEAT_AVX512VL)) {
        printf("skipped: this host has no AVX-512\n");
        return 77;
    }
    Suite *suite = suite_create("avx512");
    TCase *tc = tcase_create("avx512");
    native_setup();
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, control_registers_forbid);
    tcase_add_test(tc, encodings_forbid);
    tcase_add_test(tc, too_long_comes_first);
    tcase_add_test(tc, displacements_are_scaled);
    tcase_add_test(tc, what_decodes_runs);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, masked_loads_and_stores);
    tcase_add_test(tc, packed_elements);
    tcase_add_test(tc, gathers_go_on);
    tcase_add_test(tc, vex_clears_the_rest);
    suite_add_tcase(suite, tc);
    return run_suite_unforked(suite);
}
