/*
 * Blocks run by the interpreter and by the translator, from the same registers and memory, and
 * compared afterwards: what test_jit, test_jit_loop and test_jit_slot share.
 */
#ifndef TANDEM_JIT_BLOCKS_H
#define TANDEM_JIT_BLOCKS_H

#include <stdio.h>
#include <stdlib.h>
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define DATA \
    (G_RAM + 0x180000) /* two pages; one that may be read; one that is not there; one more */
#define DATA_LEN 0x5000u
#define FRAMES   (G_RAM + 0x20800) /* stack of the handlers */
#define TSS      (G_RAM + 0x6000)
#define LOW_PD   (G_RAM + 0x8000)
#define LOW_PT   (G_RAM + 0x9000)
#define HANDLERS (G_RAM + 0x10000)
#define ST       (&guest.v.st)
#define ROUNDS   6000

static uint64_t seed;
static uint64_t rnd(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
static unsigned below(unsigned n)
{
    return (unsigned)(rnd() >> 33) % n;
}
static bool one_in(unsigned n)
{
    return below(n) == 0;
}

static bool has_avx512(void)
{
    return cpuid_has(&guest.cpuid, FEAT_AVX512VL);
}

static unsigned cut[64], n_cuts; /* where instructions end */

/* ---- running them ---- */
static uint8_t memory[DATA_LEN], after[DATA_LEN];
static uint8_t code[4096]; /* of the block; what it writes there must not stay */

static G_GNUC_UNUSED void tables(void)
{
    put64(G_GDT + 8, 0x00af9b000000ffffull);
    put64(G_GDT + 16, 0x00cf93000000ffffull);
    for (unsigned v = 0; v < 32; v++) {
        uint64_t h = HANDLERS + v * 16;
        put64(G_IDT + v * 16,
              (h & 0xffff) | 8 << 16 | 1ull << 32 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48);
        put64(G_IDT + v * 16 + 8, h >> 32);
        *(uint8_t *)gp(h) = 0xf4;
    }
    /* IST 1: RSP may point anywhere. */
    put64(TSS + 36, FRAMES);
    /* Of the first 2 MiB only what is needed is there, and what a block may write is put back
     * between the two engines' runs (DATA), or cannot be written. */
    for (unsigned k = 0; k < 0x200; k++) {
        bool reads = k == (G_IDT - G_RAM) >> 12 || k == (G_GDT - G_RAM) >> 12 ||
                     k == (TSS - G_RAM) >> 12 || k == (HANDLERS - G_RAM) >> 12;
        bool writes = k == (G_CODE - G_RAM) >> 12 || k == (FRAMES - G_RAM) >> 12 ||
                      (k >= 0x180 && k <= 0x184);
        if (!writes)
            put64(G_PT + 8 * k, reads ? (G_RAM + k * 0x1000) | 5 : 0);
    }
    put64(G_PD + 8 * ((G_RAM >> 21 & 511) + 1), 0);
    put64(G_PT + 8 * 0x182, (DATA + 0x2000) | 5);
    put64(G_PT + 8 * 0x183, 0);
    /* The first 64 KiB show the data pages again: small numbers are good addresses, so a register
     * that does not hold the address it should is not likely to fault. */
    put64(G_PDPT, LOW_PD | 7);
    put64(LOW_PD, LOW_PT | 7);
    for (unsigned k = 0; k < 16; k++)
        put64(LOW_PT + 8 * k, (DATA + 0x1000 * (k & 1)) | 7);
}

#define INDEX 14 /* vector registers that hold indices; what selects elements */
#define LANES 13

static G_GNUC_UNUSED void registers(CpuState *s)
{
    for (unsigned r = 0; r < GPR_N; r++)
        s->gpr[r] = rnd() >> below(64);
    static const uint8_t pointers[] = {RSI, RDI, RBP, RSP, R9, R12};
    for (unsigned k = 0; k < 6; k++) {
        uint64_t off = 0x200 + below(0x1c00);
        if (one_in(3)) /* near an end of a page */
            off = 0x1000 * (1 + below(4)) - 64 + below(128);
        s->gpr[pointers[k]] =
            (one_in(4) ? 0x1000 * below(14) : DATA) + (one_in(3) ? off : off & ~15ull);
    }
    s->gpr[RBX] = below(32);
    s->rflags = FL_FIXED | (rnd() & FL_ARITH);
    bool wide = has_avx512() && one_in(2);
    for (unsigned k = 0; k < 8; k++)
        s->fpu.k[k] = wide ? rnd() >> below(64) : 0;
    for (unsigned k = 0; k < (wide ? 32 : 16); k++)
        for (unsigned q = 0; q < (wide ? 8u : 4u); q++)
            s->fpu.v[k].q[q] = one_in(2) ? rnd() : 0x3ff0000000000000ull + (uint64_t)below(1000);
    for (unsigned k = 0; k < 8; k++) {
        s->fpu.v[INDEX].d[k] = below(128) - 64;
        s->fpu.v[INDEX + 1].q[k / 2] = (uint64_t)below(128) - 64;
        s->fpu.v[LANES].d[k] = one_in(4) ? 0 : (uint32_t)-1;
    }
    s->fpu.mxcsr = one_in(20) ? 0x1f00 : 0x1f80; /* now and then one that is not masked */
    s->fpu.fcw = one_in(10) ? 0x372 : one_in(3) ? 0x27f : 0x37f;
    s->xcr0 = 7 | (has_avx512() ? 0xe0 : 0);
    s->cr4 |= CR4_OSXSAVE;
    s->cr0 |= CR0_WP; /* or the page that may be read may be written too */
    s->seg[TR] = (Segment){.base = G_RAM + 0x6000, .limit = 0x67, .attr = 0x8b, .selector = 24};
    s->gdt = (DescTable){G_GDT, 0x1f};
    s->idt = (DescTable){G_IDT, 0x1ff};
}

/* The guest, whose code is translated when it is run for the first time. */
static G_GNUC_UNUSED Jit *begin_jit(void)
{
    GError *err = NULL;
    guest_setup();
    ck_assert_msg(engine_jit.vcpu_init(&guest.v, &err), "%s", err ? err->message : "");
    Jit *j = jit_of(&guest.v);
    j->hot_after = 0;
    return j;
}

static void run(const Engine *e, const CpuState *from, CpuState *to, uint8_t *data_after)
{
    RunLimit none = {0};
    guest.v.st = *from;
    memcpy(gp(DATA), memory, DATA_LEN);
#ifdef GUEST_REACHES /* so far around */
    memset(gp(DATA - GUEST_REACHES), 0, GUEST_REACHES);
    memset(gp(DATA + DATA_LEN), 0, GUEST_REACHES);
#endif
    memcpy(gp(G_CODE), code, sizeof(code));
    e->import_state(&guest.v, GROUPS_ALL, NULL);
    e->enter(&guest.v);
    Exit x = e->run(&guest.v, &none);
    ck_assert_msg(x.kind == EXIT_HLT, "ended with exit %d: %s", x.kind, x.msg);
    *to = guest.v.st;
    memcpy(data_after, gp(DATA), DATA_LEN);
}

static G_GNUC_UNUSED void random_memory(void)
{
    for (unsigned q = 0; q < DATA_LEN / 8; q++)
        memcpy(memory + 8 * q, &(uint64_t){rnd()}, 8);
}

/* What differs after the block, or an empty string. */
static GString *compare(const CpuState *in, const uint8_t *bytes, unsigned n)
{
    static CpuState a, b;
    static uint8_t after_jit[DATA_LEN];
    GString *what = g_string_new(NULL);
    memset(code, 0xf4, sizeof(code));
    memcpy(code, bytes, n);
    memset(gp(FRAMES - 128), 0, 128);
    run(&engine_interp, in, &a, after);
    memcpy(gp(FRAMES - 128), gp(FRAMES - 64), 64);
    memset(gp(FRAMES - 64), 0, 64);
    run(&engine_jit, in, &b, after_jit);
    for (unsigned r = 0; r < GPR_N; r++)
        if (a.gpr[r] != b.gpr[r])
            g_string_append_printf(what, "\n  gpr %u: %#lx, translated %#lx", r, a.gpr[r],
                                   b.gpr[r]);
    for (unsigned k = 0; k < 32; k++)
        if (memcmp(a.fpu.v[k].b, b.fpu.v[k].b, 64))
            g_string_append_printf(what, "\n  vector register %u", k);
    for (unsigned k = 0; k < 8; k++)
        if (a.fpu.k[k] != b.fpu.k[k])
            g_string_append_printf(what, "\n  mask register %u: %#lx, translated %#lx", k,
                                   a.fpu.k[k], b.fpu.k[k]);
    if (a.rip != b.rip || a.cr2 != b.cr2 || a.rflags != b.rflags || a.fpu.mxcsr != b.fpu.mxcsr)
        g_string_append_printf(
            what, "\n  rip %#lx cr2 %#lx rflags %#lx mxcsr %#x, translated %#lx %#lx %#lx %#x",
            a.rip, a.cr2, a.rflags, a.fpu.mxcsr, b.rip, b.cr2, b.rflags, b.fpu.mxcsr);
    for (unsigned k = 0; k < 8; k++)
        if (memcmp(a.fpu.r[k].b, b.fpu.r[k].b, 10))
            g_string_append_printf(what, "\n  x87 register %u", k);
    if (a.fpu.fsw != b.fpu.fsw || a.fpu.ftw != b.fpu.ftw || a.fpu.fcw != b.fpu.fcw ||
        a.fpu.fip != b.fpu.fip || a.fpu.fdp != b.fpu.fdp || a.fpu.fop != b.fpu.fop)
        g_string_append_printf(
            what, "\n  fsw %#x ftw %#x fip %#lx fdp %#lx fop %#x, translated %#x %#x %#lx %#lx %#x",
            a.fpu.fsw, a.fpu.ftw, a.fpu.fip, a.fpu.fdp, a.fpu.fop, b.fpu.fsw, b.fpu.ftw, b.fpu.fip,
            b.fpu.fdp, b.fpu.fop);
    for (unsigned k = 0; k < DATA_LEN; k++) {
        if (after[k] != after_jit[k]) {
            g_string_append_printf(what, "\n  memory at +%#x: %#x, translated %#x", k, after[k],
                                   after_jit[k]);
            break;
        }
    }
    if (memcmp(gp(FRAMES - 64), gp(FRAMES - 128), 64))
        g_string_append(what, "\n  the frame that the fault left");
    return what;
}

/* Fails with the shortest beginning of the block that still differs. */
static G_GNUC_UNUSED void must_agree(uint64_t which, const CpuState *in, const uint8_t *bytes,
                                     unsigned n)
{
    GString *what = compare(in, bytes, n);
    for (unsigned k = 1; k < n_cuts && what->len; k++) {
        GString *less = compare(in, bytes, cut[k]);
        if (less->len) {
            g_string_free(what, TRUE);
            what = less;
            n = cut[k];
            break;
        }
        g_string_free(less, TRUE);
    }
    if (what->len) {
        GString *hex = g_string_new(NULL);
        for (unsigned k = 0; k < n; k++)
            g_string_append_printf(hex, "%02x ", bytes[k]);
        ck_abort_msg("block %lu: %s%s", which, hex->str, what->str);
    }
    g_string_free(what, TRUE);
}

/* The same of what has been written to bytes, with any memory. */
static G_GNUC_UNUSED void code_must_agree(uint64_t which, const CpuState *in, const Code *c,
                                          const uint8_t *bytes)
{
    ck_assert(!c->overflow);
    n_cuts = 0;
    random_memory();
    must_agree(which, in, bytes, (unsigned)(c->p - bytes));
}

/* One less in a register: DEC, which keeps CF, or SUB, which sets all flags. */
static inline void count_down(Code *c, unsigned r, bool wide)
{
    bool dec = one_in(2);
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = dec ? 0xff : 0x83,
                     .w = wide,
                     .modrm = true,
                     .reg = dec ? 1 : 5,
                     .rm = (uint8_t)r,
                     .imm = 1,
                     .imm_size = !dec});
}

/* Runs them: what main() returns. */
static int jit_suite(const char *name, const TTest *const *tests, unsigned n)
{
    if (!jit_supported(NULL)) {
        fprintf(stderr, "skipped: the translator needs a host CPU with BMI2\n");
        return 77;
    }
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 900);
    for (unsigned k = 0; k < n; k++)
        tcase_add_test(tc, tests[k]);
    Suite *suite = suite_create(name);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}

#endif
