/*
 * One instruction on the bare processor and the same one in the software engine's handler, from the
 * same registers and memory; then everything is compared. Guest RAM has the same addresses on both
 * sides (tcg_guest.h), so that instruction and data pointers agree too.
 *
 * On the processor a fault arrives as a signal, whose handler lets the run end where it stands:
 * registers are then those at the fault.
 */
#ifndef TANDEM_TESTS_NATIVE_H
#define TANDEM_TESTS_NATIVE_H

#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include "cpu/xsave.h"
#include "native_run.h"
#include "tcg_guest.h"
#include "tcg/tcg.h"

static volatile sig_atomic_t native_signal;

static void native_fault(int sig, siginfo_t *info G_GNUC_UNUSED, void *ctx)
{
    /* RFLAGS.AC is as the instruction had it. */
    __asm__ volatile("pushfq\n\tandl $~0x40000, (%%rsp)\n\tpopfq" ::: "memory", "cc");
    ucontext_t *uc = ctx;
    native_signal = sig;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)native_back;
}

static void native_setup(void)
{
    static uint8_t alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = native_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&ss, NULL);
    static const int sigs[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++)
        sigaction(sigs[k], &sa, NULL);
}

static G_GNUC_UNUSED bool one_in(unsigned n)
{
    return (rnd() >> 20) % n == 0;
}

/* Random cases a row: TANDEM_TEST_ROUNDS, for long runs, or the few that every test run has time
 * for. */
static G_GNUC_UNUSED unsigned rounds_a_row(unsigned usual)
{
    const char *given = getenv("TANDEM_TEST_ROUNDS");
    return given ? (unsigned)strtoul(given, NULL, 0) : usual;
}

/* Bit patterns that mean something as floats, doubles or integers. */
static G_GNUC_UNUSED uint64_t rnd_lane(void)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     ~0ull,
                                     0x8000000080000000,
                                     0x3f8000003f800000,
                                     0x3ff0000000000000,
                                     0x7ff0000000000000,
                                     0xfff0000000000000,
                                     0x7ff8000000000000,
                                     0x7ff0000000000001,
                                     0x000fffffffffffff,
                                     0x0010000000000000,
                                     0x7fefffffffffffff,
                                     0x7f8000007f800000,
                                     0x7fc000007f800001,
                                     0x0080000000800000,
                                     0x007fffff00000001,
                                     0x7f7fffff7f7fffff,
                                     0x8000000000000000,
                                     0x00000000ffffffff,
                                     0x7fffffffffffffff,
                                     0x41dfffffffc00000,
                                     0x43e0000000000000,
                                     0x4f0000004b800000,
                                     0x3c003c003c003c00,
                                     0x7c007bff00010400};
    switch (rnd() % 5) {
    case 0:
        return edges[rnd() % ARRAY_LEN(edges)];
    case 1: { /* doubles near 1 */
        double d = (double)(int64_t)(rnd() % 4001) - 2000.0;
        d /= one_in(2) ? 1.0 : 7.0;
        uint64_t v;
        memcpy(&v, &d, 8);
        return v;
    }
    case 2: { /* floats near 1, and tiny */
        float f[2] = {(float)(int)(rnd() % 401) - 200.0f, 1e-38f / (float)(1 + rnd() % 50)};
        uint64_t v;
        memcpy(&v, f, 8);
        return v;
    }
    case 3: { /* tiny doubles */
        return (rnd() & 0x800fffffffffffff) | rnd() % 3 << 52;
    }
    default:
        return rnd();
    }
}

static Tcg *tcg(void)
{
    return guest.v.engine_data[ENGINE_INTERP];
}

static void native_area_fill(const FpuState *f)
{
    uint8_t *a = native_regs.area;
    uint64_t bv = 7;
    memset(a, 0, 1024);
    fpu_to_fxsave(f, a, true);
    memcpy(a + 512, &bv, 8);
    for (unsigned k = 0; k < 16; k++)
        memcpy(a + 576 + 16 * k, f->v[k].b + 16, 16);
}

/* What the two sides' outcome was: 0, or an exception vector. */
typedef struct Outcome {
    int native, engine; /* signal; vector or -1 */
} Outcome;

static uint8_t window_before[WINDOW], window_engine[WINDOW];

static bool vectors_agree(const Outcome *o)
{
    switch (o->native) {
    case 0:
        return o->engine == -1;
    case SIGFPE:
        return o->engine == VEC_XM || o->engine == VEC_MF;
    case SIGILL:
        return o->engine == VEC_UD;
    case SIGBUS:
        return o->engine == VEC_AC;
    default:
        return o->engine == VEC_GP || o->engine == VEC_PF;
    }
}

/*
 * Runs `bytes` both ways from guest.v.st (whose rflags have the arithmetic flags too). Afterwards
 * guest.v.st is the engine's result and native_regs the processor's.
 */
static G_GNUC_UNUSED Outcome run_both(const uint8_t *bytes, unsigned len, const Insn *insn)
{
    CpuState *s = &guest.v.st;
    Tcg *t = tcg();
    Outcome o = {0, -1};

    memcpy(gp(G_CODE), bytes, len);
    uint8_t *after = (uint8_t *)gp(G_CODE) + len;
    /* jmp [rip + n], to an address that is aligned: alignment checks may be on. */
    const uint8_t jmp[] = {0xff, 0x25, (uint8_t)(-(len + 6) & 7), 0, 0, 0};
    uint64_t back = (uint64_t)(uintptr_t)native_back;
    memcpy(after, jmp, 6);
    memcpy(after + 6 + jmp[2], &back, 8);

    memcpy(window_before, gp(G_DATA), WINDOW);
    memcpy(native_regs.gpr, s->gpr, sizeof(native_regs.gpr));
    native_regs.rflags = s->rflags | 0x202;
    native_regs.code = G_CODE;
    native_area_fill(&s->fpu);

    Insn i = *insn;
    t->blk_rip = s->rip = s->gpr[GPR_IP] = G_CODE;
    t->cc = flags_to_cc(s->rflags);
    Fault f = i.exec(s, t, &i);
    vec_release(t); /* as the run loop does: the host is next to use floating point */
    if (f == FAULT_EXC)
        o.engine = t->exc.vector;
    else if (f != FAULT_NONE)
        o.engine = 1000 + (int)f;
    s->rflags = flags_get(s, t);

    memcpy(window_engine, gp(G_DATA), WINDOW);
    memcpy(gp(G_DATA), window_before, WINDOW);
    native_signal = 0;
    native_run();
    o.native = native_signal;
    return o;
}

/* Names what differs, or returns NULL. */
static G_GNUC_UNUSED const char *compare(const Outcome *o)
{
    static char text[200];
    const CpuState *s = &guest.v.st;
    static FpuState n;
    if (!vectors_agree(o)) {
        snprintf(text, sizeof(text), "signal %d natively, exception %d here", o->native, o->engine);
        return text;
    }
    n = s->fpu;
    const uint8_t *a = native_regs.area;
    fpu_from_fxsave(&n, a, true);
    for (unsigned k = 0; k < 16; k++) {
        memcpy(n.v[k].b + 16, a + 576 + 16 * k, 16);
        if (s->gpr[k] != native_regs.gpr[k]) {
            snprintf(text, sizeof(text), "gpr %u: %#lx, native %#lx", k, s->gpr[k],
                     native_regs.gpr[k]);
            return text;
        }
        for (unsigned q = 0; q < 4; q++) {
            if (s->fpu.v[k].q[q] != n.v[k].q[q]) {
                snprintf(text, sizeof(text), "v%u qword %u: %#lx, native %#lx", k, q,
                         s->fpu.v[k].q[q], n.v[k].q[q]);
                return text;
            }
        }
    }
    for (unsigned k = 0; k < 8; k++) {
        if (s->fpu.r[k].mant != n.r[k].mant || s->fpu.r[k].se != n.r[k].se) {
            snprintf(text, sizeof(text), "r%u: %04x %016lx, native %04x %016lx", k, s->fpu.r[k].se,
                     s->fpu.r[k].mant, n.r[k].se, n.r[k].mant);
            return text;
        }
    }
    if (s->fpu.fcw != n.fcw || s->fpu.fsw != n.fsw || s->fpu.ftw != n.ftw) {
        snprintf(text, sizeof(text), "fcw fsw ftw %04x %04x %02x, native %04x %04x %02x",
                 s->fpu.fcw, s->fpu.fsw, s->fpu.ftw, n.fcw, n.fsw, n.ftw);
        return text;
    }
    /* AMD's images have the pointers only while an exception is pending. */
    bool hidden = !(n.fsw & 0x80) && !n.fip && !n.fdp && !n.fop;
    if (!hidden && (s->fpu.fip != n.fip || s->fpu.fdp != n.fdp || s->fpu.fop != n.fop)) {
        snprintf(text, sizeof(text), "fip fdp fop %#lx %#lx %03x, native %#lx %#lx %03x",
                 s->fpu.fip, s->fpu.fdp, s->fpu.fop, n.fip, n.fdp, n.fop);
        return text;
    }
    if (s->fpu.mxcsr != n.mxcsr) {
        snprintf(text, sizeof(text), "mxcsr %#x, native %#x", s->fpu.mxcsr, n.mxcsr);
        return text;
    }
    if ((s->rflags ^ native_regs.rflags) & FL_ARITH) {
        snprintf(text, sizeof(text), "flags %#lx, native %#lx", s->rflags & FL_ARITH,
                 native_regs.rflags & FL_ARITH);
        return text;
    }
    const uint8_t *w = gp(G_DATA);
    for (unsigned k = 0; k < WINDOW; k++) {
        if (w[k] != window_engine[k]) {
            snprintf(text, sizeof(text), "memory at +%#x: %02x, native %02x", k, window_engine[k],
                     w[k]);
            return text;
        }
    }
    return NULL;
}

/* Mode and privilege of the engine as guest_long_mode() left them, ready for a handler. */
static void engine_ready(void)
{
    tcg_update_mode(&guest.v.st, tcg());
    tlb_flush(tcg());
}

static G_GNUC_UNUSED char *hex(const uint8_t *bytes, unsigned len)
{
    static char text[64];
    for (unsigned k = 0; k < len; k++)
        snprintf(text + 3 * k, 4, "%02x ", bytes[k]);
    return text;
}

#endif
