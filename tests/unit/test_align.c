/*
 * Alignment checks: operands of all sizes and kinds at all offsets, at privilege 3 with CR0.AM and
 * RFLAGS.AC set, on the bare processor and in the software engine. #AC, #GP and their absence must
 * agree. What the manual leaves to the processor is as an AMD's here; on another the rows that may
 * differ are left out.
 */
#include "native.h"
#include "tcg/vec.h"
#include "run_suite.h"

typedef struct Row {
    const char *name;
    uint8_t insn[10]; /* memory operand at RSI */
    uint8_t len;
    enum CpuFeature feature;
    bool amds; /* Intel's processors may do otherwise */
} Row;

/* clang-format off */
static const Row rows[] = {
    {"mov ax, [rsi]", {0x66, 0x8b, 0x06}, 3, FEAT_N, false},
    {"mov rax, [rsi]", {0x48, 0x8b, 0x06}, 3, FEAT_N, false},
    {"movups load", {0x0f, 0x10, 0x06}, 3, FEAT_SSE, false},
    {"movups store", {0x0f, 0x11, 0x06}, 3, FEAT_SSE, false},
    {"movdqu load", {0xf3, 0x0f, 0x6f, 0x06}, 4, FEAT_SSE2, false},
    {"movdqu store", {0xf3, 0x0f, 0x7f, 0x06}, 4, FEAT_SSE2, false},
    {"lddqu", {0xf2, 0x0f, 0xf0, 0x06}, 4, FEAT_SSE3, false},
    {"movaps load", {0x0f, 0x28, 0x06}, 3, FEAT_SSE, false},
    {"movaps store", {0x0f, 0x29, 0x06}, 3, FEAT_SSE, false},
    {"paddb xmm", {0x66, 0x0f, 0xfc, 0x06}, 4, FEAT_SSE2, false},
    {"pcmpistri", {0x66, 0x0f, 0x3a, 0x63, 0x06, 0x00}, 6, FEAT_SSE42, true},
    {"movhps load", {0x0f, 0x16, 0x06}, 3, FEAT_SSE, false},
    {"movhps store", {0x0f, 0x17, 0x06}, 3, FEAT_SSE, false},
    {"movss load", {0xf3, 0x0f, 0x10, 0x06}, 4, FEAT_SSE, false},
    {"addss", {0xf3, 0x0f, 0x58, 0x06}, 4, FEAT_SSE, false},
    {"addsd", {0xf2, 0x0f, 0x58, 0x06}, 4, FEAT_SSE2, false},
    {"pmovzxbw", {0x66, 0x0f, 0x38, 0x30, 0x06}, 5, FEAT_SSE41, false},
    {"pmovzxbd", {0x66, 0x0f, 0x38, 0x31, 0x06}, 5, FEAT_SSE41, false},
    {"pmovzxbq", {0x66, 0x0f, 0x38, 0x32, 0x06}, 5, FEAT_SSE41, false},
    {"pinsrw", {0x66, 0x0f, 0xc4, 0x06, 0x00}, 5, FEAT_SSE2, false},
    {"movntdqa", {0x66, 0x0f, 0x38, 0x2a, 0x06}, 5, FEAT_SSE41, false},
    {"movntps", {0x0f, 0x2b, 0x06}, 3, FEAT_SSE, false},
    {"ldmxcsr", {0x0f, 0xae, 0x16}, 3, FEAT_SSE, false},
    {"stmxcsr", {0x0f, 0xae, 0x1e}, 3, FEAT_SSE, false},
    {"paddb mmx", {0x0f, 0xfc, 0x06}, 3, FEAT_MMX, false},
    {"movq mmx", {0x0f, 0x6f, 0x06}, 3, FEAT_MMX, false},
    {"vmovups xmm", {0xc5, 0xf8, 0x10, 0x06}, 4, FEAT_AVX, false},
    {"vmovups ymm load", {0xc5, 0xfc, 0x10, 0x06}, 4, FEAT_AVX, true},
    {"vmovups ymm store", {0xc5, 0xfc, 0x11, 0x06}, 4, FEAT_AVX, true},
    {"vmovaps ymm", {0xc5, 0xfc, 0x28, 0x06}, 4, FEAT_AVX, false},
    {"vpaddb xmm", {0xc5, 0xf9, 0xfc, 0x06}, 4, FEAT_AVX, false},
    {"vpaddb ymm", {0xc5, 0xfd, 0xfc, 0x06}, 4, FEAT_AVX2, true},
    {"vaddps ymm", {0xc5, 0xfc, 0x58, 0x06}, 4, FEAT_AVX, true},
    {"vbroadcastf128", {0xc4, 0xe2, 0x7d, 0x1a, 0x06}, 5, FEAT_AVX, false},
    {"vbroadcastsd", {0xc4, 0xe2, 0x7d, 0x19, 0x06}, 5, FEAT_AVX, false},
    {"vmovntps ymm", {0xc5, 0xfc, 0x2b, 0x06}, 4, FEAT_AVX, false},
    {"cmpxchg8b", {0x0f, 0xc7, 0x0e}, 3, FEAT_N, false},
    {"cmpxchg16b", {0x48, 0x0f, 0xc7, 0x0e}, 4, FEAT_CX16, false},
    {"lock xadd", {0xf0, 0x48, 0x0f, 0xc1, 0x06}, 5, FEAT_N, false},
    {"fld m32", {0xd9, 0x06}, 2, FEAT_N, false},
    {"fld m64", {0xdd, 0x06}, 2, FEAT_N, false},
    {"fld m80", {0xdb, 0x2e}, 2, FEAT_N, true},
    {"fst m32", {0xd9, 0x16}, 2, FEAT_N, false},
    {"fstp m80", {0xdb, 0x3e}, 2, FEAT_N, true},
    {"fbstp", {0xdf, 0x36}, 2, FEAT_N, true},
    {"fild m16", {0xdf, 0x06}, 2, FEAT_N, false},
    {"fistp m64", {0xdf, 0x3e}, 2, FEAT_N, false},
    {"fnstcw", {0xd9, 0x3e}, 2, FEAT_N, false},
    {"fnstenv", {0xd9, 0x36}, 2, FEAT_N, true},
    {"fnsave", {0xdd, 0x36}, 2, FEAT_N, true},
    {"fxsave", {0x0f, 0xae, 0x06}, 3, FEAT_FXSR, true},
    {"xsave", {0x0f, 0xae, 0x26}, 3, FEAT_XSAVE, false},
    {"bt [rsi], 1", {0x0f, 0xba, 0x26, 0x01}, 4, FEAT_N, false},
};
/* clang-format on */

static bool host_is_amd(void)
{
    unsigned a, b = 0, c, d;
    __get_cpuid(0, &a, &b, &c, &d);
    return b == 0x68747541;
}

static uint32_t host_mxcsr_mask(void)
{
    _Alignas(16) uint8_t image[FXSAVE_SIZE];
    uint32_t mask;
    __asm__ volatile("fxsave64 %0" : "=m"(image));
    memcpy(&mask, image + 28, 4);
    return mask;
}

static void ready(uint64_t lin, uint64_t flags)
{
    CpuState *s = &guest.v.st;
    memset(gp(G_DATA), 0, WINDOW);
    memset(s->gpr, 0, sizeof(s->gpr));
    memset(&s->fpu, 0, sizeof(s->fpu));
    s->fpu.fcw = 0x37f;
    s->fpu.mxcsr = 0x1f80;
    s->fpu.mxcsr_mask = host_mxcsr_mask();
    /* Two numbers on the x87 stack: something to store. */
    s->fpu.fsw = 6 << FPU_TOP_SHIFT;
    s->fpu.ftw = 0xc0;
    s->fpu.r[6] = s->fpu.r[7] = (FpReg){.mant = 1ull << 63, .se = 0x3fff};
    s->gpr[RAX] = 3;
    s->gpr[RSI] = lin;
    s->gpr[RSP] = G_STACK;
    s->rflags = FL_FIXED | flags;
    engine_ready();
}

START_TEST(as_the_processor)
{
    const Row *r = &rows[_i];
    CpuState *s = &guest.v.st;
    /* Within a page, and at its end, where operands of all sizes cross. */
    static const unsigned at[] = {0x000, 0xff0, 0x1000 - 64};
    if ((r->feature != FEAT_N && !tcg()->features[r->feature]) || (r->amds && !host_is_amd()))
        return;
    for (unsigned page = 0; page < ARRAY_LEN(at); page++) {
        for (unsigned off = 0; off < 64; off++) {
            for (unsigned on = 0; on < 2; on++) {
                Insn i;
                uint8_t b[15] = {0};
                uint64_t lin = G_DATA + at[page] + off;
                memcpy(b, r->insn, r->len);
                ready(lin, on ? FL_AC : 0);
                /* LDMXCSR takes what is good. */
                memcpy(gp(lin), &s->fpu.mxcsr, r->insn[1] == 0xae ? 4 : 0);
                ck_assert_int_eq(decode(&i, b, 15, tcg()->decode_mode, tcg()->features), DECODE_OK);
                ck_assert_uint_eq(i.len, r->len);
                ck_assert(vec_prepare(tcg(), &i, b));
                Outcome o = run_both(b, r->len, &i);
                const char *bad = compare(&o);
                ck_assert_msg(!bad, "%s at %#x, AC %u: %s", r->name, at[page] + off, on, bad);
            }
        }
    }
}
END_TEST

static void setup(void)
{
    CpuState *s = &guest.v.st;
    guest_setup();
    guest_long_mode();
    native_setup();
    s->cr0 |= CR0_AM;
    s->cr4 |= CR4_OSXSAVE;
    s->xcr0 = cpuid_xcr0_mask(&guest.cpuid) & 7;
    s->cpl = 3;
    guest_segment(CS, 0xa0fb, 0x33);
    guest_segment(SS, 0xc0f3, 0x2b);
    engine_ready();
}

int main(void)
{
    Suite *s = suite_create("align");
    TCase *c = tcase_create("align");
    tcase_add_checked_fixture(c, setup, guest_teardown);
    tcase_add_loop_test(c, as_the_processor, 0, ARRAY_LEN(rows));
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return run_suite(s);
}
