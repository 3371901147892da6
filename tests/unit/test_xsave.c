/* FXSAVE and XSAVE: images made from CpuState against the processor's own, and the instructions
 * against the processor's. */
#include "native.h"
#include "tcg/vec.h"
#include "run_suite.h"

static uint32_t host_xcr0(void)
{
    uint32_t a, d;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

/* What FXSAVE of this processor says: AMD's keep the x87 pointers only while an exception is
 * pending, and have a bit more in MXCSR. */
typedef struct Host {
    bool hides_pointers;
    uint32_t mxcsr_mask;
} Host;

static const Host *host(void)
{
    static Host h;
    static _Alignas(64) uint8_t image[512];
    if (h.mxcsr_mask)
        return &h;
    FpuState f = {.fcw = 0x37f, .mxcsr = 0x1f80, .fip = 0x1234};
    fpu_to_fxsave(&f, image, true);
    __asm__ volatile("fxrstor64 %0\n\tfxsave64 %0\n\tfninit"
                     : "+m"(image)
                     :
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    h.hides_pointers = image[8] == 0;
    memcpy(&h.mxcsr_mask, image + 28, 4);
    if (!h.mxcsr_mask)
        h.mxcsr_mask = 0xffbf;
    return &h;
}

static void random_fpu(FpuState *f)
{
    memset(f, 0, sizeof(*f));
    for (unsigned k = 0; k < 16; k++)
        for (unsigned q = 0; q < 4; q++)
            f->v[k].q[q] = rnd();
    for (unsigned k = 0; k < 8; k++) {
        f->r[k].mant = rnd();
        f->r[k].se = (uint16_t)rnd();
    }
    f->fcw = (uint16_t)(0x40 | (rnd() & 0x1f3f));
    f->fsw = (uint16_t)(rnd() & 0x7f7f);
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = (uint8_t)rnd();
    f->fop = rnd() & 0x7ff;
    f->fip = rnd() >> 17;
    f->fdp = rnd() >> 17;
    f->mxcsr = rnd() & 0xffff;
    const Host *h = host();
    f->mxcsr_mask = h->mxcsr_mask;
    if (h->hides_pointers && !(f->fsw & 0x80)) {
        f->fop = 0;
        f->fip = f->fdp = 0;
    }
}

/* The bytes of an FXSAVE image that mean something. */
static void check_legacy(const uint8_t *ours, const uint8_t *theirs)
{
    ck_assert_mem_eq(ours, theirs, 28);
    for (unsigned k = 0; k < 8; k++)
        ck_assert_mem_eq(ours + 32 + 16 * k, theirs + 32 + 16 * k, 10);
    ck_assert_mem_eq(ours + 160, theirs + 160, 256);
}

START_TEST(fxsave_image)
{
    static _Alignas(64) uint8_t ours[512], theirs[512];
    for (unsigned k = 0; k < 200; k++) {
        FpuState f, back;
        random_fpu(&f);
        fpu_to_fxsave(&f, ours, true);
        memset(theirs, 0, sizeof(theirs));
        __asm__ volatile("fxrstor64 %1\n\tfxsave64 %0\n\tfninit\n\tldmxcsr %2"
                         : "=m"(theirs)
                         : "m"(ours), "m"((uint32_t){0x1f80})
                         : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
        check_legacy(ours, theirs);
        back = f;
        memset(back.r, 0, sizeof(back.r));
        for (unsigned r = 0; r < 16; r++)
            memset(back.v[r].b, 0, 16);
        back.fcw = back.fsw = back.ftw = 0;
        fpu_from_fxsave(&back, theirs, true);
        ck_assert_mem_eq(&back, &f, sizeof(f));
    }
}
END_TEST

START_TEST(xsave_image)
{
    static _Alignas(64) uint8_t ours[XSAVE_SIZE_MAX], theirs[4096];
    CpuidTable cpuid = guest.cpuid;
    uint64_t mask = cpuid_xcr0_mask(&cpuid) & host_xcr0() & 7;
    ck_assert_uint_eq(mask & 3, 3);
    for (unsigned k = 0; k < 200; k++) {
        FpuState f, back;
        random_fpu(&f);
        if (k % 4 == 1)
            fpu_init_components(&f, BIT(XC_X87));
        if (k % 4 == 2)
            fpu_init_components(&f, BIT(XC_SSE));
        if (k % 4 == 3)
            fpu_init_components(&f, BIT(XC_AVX));
        if (!(mask & BIT(XC_AVX)))
            fpu_init_components(&f, BIT(XC_AVX));
        size_t used = fpu_to_xsave(&f, &cpuid, mask, ours, sizeof(ours));
        ck_assert_uint_ge(used, XSAVE_EXTENDED);
        ck_assert_uint_eq(fpu_to_xsave(&f, &cpuid, mask, ours, used - 1), 0);
        memset(theirs, 0, sizeof(theirs));
        __asm__ volatile("xrstor64 %1\n\txsave64 %0\n\tfninit\n\tldmxcsr %2\n\tvzeroupper"
                         : "=m"(theirs)
                         : "m"(ours), "m"((uint32_t){0x1f80}), "a"((uint32_t)mask), "d"(0)
                         : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
        check_legacy(ours, theirs);
        if (mask & 4)
            ck_assert_mem_eq(ours + 576, theirs + 576, 256);
        uint64_t bv_ours, bv_theirs;
        memcpy(&bv_ours, ours + 512, 8);
        memcpy(&bv_theirs, theirs + 512, 8);
        /* The processor may say "in use" of what is initial, never the other way round. */
        ck_assert_uint_eq(bv_ours & ~bv_theirs, 0);
        random_fpu(&back);
        if (!(mask & BIT(XC_AVX)))
            fpu_init_components(&back, BIT(XC_AVX));
        ck_assert(fpu_from_xsave(&back, &cpuid, mask, theirs, used));
        f.xstate_bv = fpu_xinuse(&f);
        ck_assert_mem_eq(&back, &f, sizeof(f));
    }
    FpuState f = {.mxcsr_mask = 0xffff}, kept = f;
    ours[512 + 8] = 1; /* XCOMP_BV */
    ck_assert(!fpu_from_xsave(&f, &cpuid, mask, ours, sizeof(ours)));
    ours[512 + 8] = 0;
    ours[519] = 0x40; /* a component that is not there */
    ck_assert(!fpu_from_xsave(&f, &cpuid, mask, ours, sizeof(ours)));
    ours[519] = 0;
    ours[27] = 1; /* MXCSR */
    ck_assert(!fpu_from_xsave(&f, &cpuid, mask, ours, sizeof(ours)));
    ck_assert_mem_eq(&f, &kept, sizeof(f));
}
END_TEST

/* The instructions themselves. The processor's REX.W-less forms keep no selectors, so the 64-bit
 * forms are compared. Opcode 0F AE /n [rbx]. */
static void run_insn(unsigned n, uint32_t eax, uint64_t rbx)
{
    const uint8_t b[16] = {0x48, 0x0f, 0xae, (uint8_t)(n << 3 | 3)};
    Insn i;
    CpuState *s = &guest.v.st;
    ck_assert_int_eq(decode(&i, b, 15, tcg()->decode_mode, tcg()->features), DECODE_OK);
    s->gpr[RAX] = eax;
    s->gpr[RDX] = 0;
    s->gpr[RBX] = rbx;
    s->rflags = FL_FIXED;
    Outcome o = run_both(b, 4, &i);
    bool xinuse_may_differ = n == 4 || n == 6;
    if (xinuse_may_differ && o.native == 0 && o.engine == -1) {
        uint64_t at = rbx - G_DATA + 512, ours, theirs;
        memcpy(&ours, window_engine + at, 8);
        memcpy(&theirs, (uint8_t *)gp(G_DATA) + at, 8);
        ck_assert_uint_eq(ours & ~theirs, 0);
        memcpy(window_engine + at, &theirs, 8);
    }
    const char *diff = compare(&o);
    ck_assert_msg(!diff, "0F AE /%u, eax %#x, rbx %#lx: %s", n, eax, rbx, diff);
}

START_TEST(instructions)
{
    CpuState *s = &guest.v.st;
    s->cr4 |= CR4_OSXSAVE;
    s->xcr0 = cpuid_xcr0_mask(&guest.cpuid) & host_xcr0() & 7;
    engine_ready();
    static const uint8_t ops[] = {0, 1, 4, 5, 6};
    for (unsigned round = 0; round < 400; round++) {
        uint8_t *w = gp(G_DATA);
        for (unsigned k = 0; k < WINDOW; k++)
            w[k] = (uint8_t)rnd();
        random_fpu(&s->fpu);
        if (!(s->xcr0 & 4))
            fpu_init_components(&s->fpu, BIT(XC_AVX));
        unsigned n = ops[round % ARRAY_LEN(ops)];
        if (n == 6 && !tcg()->features[FEAT_XSAVEOPT])
            continue;
        uint64_t at = G_DATA + rnd() % (WINDOW - 0x400) / 64 * 64;
        uint32_t rfbm = rnd() & 7;
        uint8_t *image = gp(at);
        if (!one_in(8)) /* a reasonable MXCSR */
            image[26] = image[27] = 0;
        if (!one_in(8)) { /* and header */
            memset(image + 512, 0, 24);
            image[512] = rnd() & s->xcr0;
        }
        if (one_in(8))
            at += rnd() & 63;
        if (n == 6 || n == 4)
            rfbm |= ~host_xcr0() & ~7u; /* bits beyond XCR0 do not count */
        /* The harness compares what the processor has in AVX; without it in XCR0 neither side may
         * touch it. */
        if (!(s->xcr0 & 4))
            rfbm &= ~4u;
        run_insn(n, rfbm, at);
    }
}
END_TEST

/* One instruction of the engine, by the quick way or the long one. */
static void run_at(unsigned n, uint64_t lin, bool quick)
{
    const uint8_t code[16] = {0x48, 0x0f, 0xae, (uint8_t)(0x03 | n << 3)};
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    Insn i;
    uint64_t v;
    t->vec->xsave.known = quick;
    t->zmm_clean = false;
    s->gpr[RBX] = lin;
    t->blk_rip = s->rip;
    ck_assert_int_eq(decode(&i, code, 15, t->decode_mode, t->features), DECODE_OK);
    for (unsigned k = 0; k < 2; k++) { /* both pages are in the TLB */
        ck_assert_int_eq(mem_read(s, t, lin + k * PAGE_SIZE, 1, &v), FAULT_NONE);
        ck_assert_int_eq(mem_write(s, t, lin + k * PAGE_SIZE, 1, v), FAULT_NONE);
    }
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    ck_assert(!t->zmm_clean || !(fpu_xinuse(&s->fpu) & BIT(XC_ZMM_HI256)));
}

/* A state with some components as they are at first. */
static void mixed_fpu(FpuState *f)
{
    random_fpu(f);
    for (unsigned k = 0; k < 32; k++)
        for (unsigned q = k < 16 ? 4 : 0; q < 8; q++)
            f->v[k].q[q] = rnd();
    for (unsigned k = 0; k < 8; k++)
        f->k[k] = rnd();
    fpu_init_components(f, ~cpuid_xcr0_mask(&guest.cpuid) | rnd());
    if (one_in(4)) /* of a register that the guest has */
        f->v[rnd() % 16].b[rnd() % (cpuid_xcr0_mask(&guest.cpuid) & BIT(XC_ZMM_HI256) ? 64 : 32)] =
            1;
}

START_TEST(quick_way)
{
    enum { AREA = 4096 };
    static const uint8_t ops[] = {4, 5, 6};
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    uint64_t offered = cpuid_xcr0_mask(&guest.cpuid) & XCR0_KNOWN;
    s->cr4 |= CR4_OSXSAVE;
    s->xcr0 = offered;
    engine_ready();
    ck_assert(t->vec->xsave.known);
    for (unsigned round = 0; round < 3000; round++) {
        static uint8_t before[AREA], slow[AREA];
        uint64_t lin = G_DATA + (rnd() % (WINDOW - AREA) & ~63ull), bv = rnd() & offered;
        unsigned n = ops[round % ARRAY_LEN(ops)];
        uint8_t *area = gp(lin);
        FpuState state, by_slow;
        if (n == 6 && !t->features[FEAT_XSAVEOPT])
            continue;
        for (unsigned k = 0; k < AREA; k++)
            area[k] = (uint8_t)rnd();
        if (n == 5) {
            memset(area + XSAVE_HEADER, 0, XSAVE_HEADER_SIZE);
            memcpy(area + XSAVE_HEADER, &bv, 8);
            area[26] = area[27] = 0;
        }
        memcpy(before, area, AREA);
        s->gpr[RAX] = one_in(4) ? rnd() : ~0u;
        s->gpr[RDX] = 0;
        mixed_fpu(&state);
        s->fpu = state;
        run_at(n, lin, false);
        memcpy(slow, area, AREA);
        by_slow = s->fpu;
        memcpy(area, before, AREA);
        s->fpu = state;
        run_at(n, lin, true);
        ck_assert_msg(memcmp(slow, area, AREA) == 0 &&
                          memcmp(&by_slow, &s->fpu, sizeof(by_slow)) == 0,
                      "round %u, /%u at %#lx, rfbm %#lx, bv %#lx", round, n, lin, s->gpr[RAX], bv);
    }
}
END_TEST

/* FIP and FDP behind XRSTOR64, on processors that keep 64 bits of them, 48 or 57. */
START_TEST(pointers)
{
    static const struct {
        uint8_t pad;
        uint64_t fip, fdp;
    } kind[] = {{0, 0x2aab800000001000, 0x0100000000002000},
                {16, 0xffff800000001000, 0x2000},
                {7, 0x00ab800000001000, 0xff00000000002000}};
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    s->cr4 |= CR4_OSXSAVE | CR4_OSFXSR;
    s->xcr0 = cpuid_xcr0_mask(&guest.cpuid) & XCR0_KNOWN;
    s->gpr[RAX] = BIT(XC_X87);
    s->gpr[RDX] = 0;
    engine_ready();
    for (unsigned k = 0; k < 3 * ARRAY_LEN(kind); k++) {
        uint8_t *image = gp(G_DATA);
        memset(image, 0, XSAVE_EXTENDED);
        image[XSAVE_HEADER] = BIT(XC_X87);
        memcpy(image + 8, &kind[0].fip, 8);
        memcpy(image + 16, &kind[0].fdp, 8);
        t->vec->pointer_pad = kind[k / 3].pad;
        run_at(k % 3 ? 5 : 1, G_DATA, k % 3 == 2);
        ck_assert_uint_eq(s->fpu.fip, kind[k / 3].fip);
        ck_assert_uint_eq(s->fpu.fdp, kind[k / 3].fdp);
    }
}
END_TEST

START_TEST(checks)
{
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    const uint8_t xsave[16] = {0x0f, 0xae, 0x23}, fxsave[16] = {0x0f, 0xae, 0x03};
    Insn i;
    engine_ready();
    s->gpr[RBX] = G_DATA;
    s->xcr0 = 3;
    t->blk_rip = s->rip;
    ck_assert_int_eq(decode(&i, xsave, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_EXC);
    ck_assert_int_eq(t->exc.vector, VEC_UD);
    s->cr4 |= CR4_OSXSAVE;
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_NONE);
    s->cr0 |= CR0_TS;
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_EXC);
    ck_assert_int_eq(t->exc.vector, VEC_NM);
    ck_assert_int_eq(decode(&i, fxsave, 15, t->decode_mode, t->features), DECODE_OK);
    ck_assert_int_eq(i.exec(s, t, &i), FAULT_EXC);
    ck_assert_int_eq(t->exc.vector, VEC_NM);
}
END_TEST

int main(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) {
        printf("skipped: the host does not have XSAVE\n");
        return 77;
    }
    Suite *suite = suite_create("xsave");
    TCase *tc = tcase_create("xsave");
    native_setup();
    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, fxsave_image);
    tcase_add_test(tc, xsave_image);
    tcase_add_test(tc, instructions);
    tcase_add_test(tc, quick_way);
    tcase_add_test(tc, pointers);
    tcase_add_test(tc, checks);
    suite_add_tcase(suite, tc);
    return run_suite_unforked(suite);
}
