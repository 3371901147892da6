/*
 * Bare silicon as executor: the parent of silicon_child.c.
 *
 * What the process of a case has that a guest need not have, and what is done about it:
 *
 *   IF is 1 and IOPL 0 for every process; the outcome shows the case's IF. Cases with another IOPL
 *   are refused, and PUSHF with IF = 0.
 *   RF is set by faults, TF by us: neither is in the outcome (the case's own TF is).
 *   SP of a 16-bit stack segment: IRET leaves bits 31:16 of the old ESP, which are zero here, and
 *   the upper half of registers is not looked at outside 64-bit mode.
 *   A null selector in FS or GS: AMD keeps the base, Intel clears it; the outcome has base 0. The
 *   kernel's IRET makes 0 of the null selectors 1 to 3: they are compared as 0.
 *   XCR0, CR0, CR4 are the host's: cases that depend on others are refused, and so is what the
 *   kernel answers in place of the processor (UMIP, system calls), or what is not the same twice.
 *   Page tables, descriptors: the selectors and page flags are those of case_sys.c.
 */
#include "diff/silicon.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "base/log.h"
#include "cpu/cpuid.h"
#include "cpu/xsave.h"
#include "diff/engines.h"
#include "diff/gen.h"
#include "tcg/tcg.h"

struct DiffExec {
    SiliconShared *shared;
    int fd;
    pid_t child; /* 0: none */
    uint32_t batch, xsave_bytes;
    bool fsgsbase, virtualised;
    uint64_t xcr0;
    CpuState user; /* control registers of a process */
    Segment segment[9];
    unsigned n_segments;
    char why[64];
    SiliconCpu cpu;
};

#define HANG_SECONDS 2 /* a batch takes milliseconds */

/* ---- the child ---- */
static void child_gone(DiffExec *x)
{
    if (x->child > 0) {
        kill(x->child, SIGKILL);
        waitpid(x->child, NULL, 0);
    }
    x->child = 0;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value, long ns)
{
    struct timespec ts = {.tv_nsec = ns};
    syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
}

typedef enum Wait { WAIT_DONE, WAIT_DIED, WAIT_HUNG } Wait;

/* Until the child has finished batch `number`. */
static Wait wait_for(DiffExec *x, uint32_t number, int *status)
{
    SiliconShared *s = x->shared;
    uint32_t at = atomic_load(&s->at);
    gint64 since = g_get_monotonic_time();
    for (;;) {
        uint32_t done = atomic_load(&s->done);
        if (done == number)
            return WAIT_DONE;
        futex_wait(&s->done, done, 50000000);
        if (atomic_load(&s->done) == number)
            return WAIT_DONE;
        if (waitpid(x->child, status, WNOHANG) == x->child) {
            x->child = 0;
            return WAIT_DIED;
        }
        gint64 now = g_get_monotonic_time();
        if (at != atomic_load(&s->at)) {
            at = atomic_load(&s->at);
            since = now;
        } else if (now - since > HANG_SECONDS * G_USEC_PER_SEC) {
            return WAIT_HUNG;
        }
    }
}

static bool child_start(DiffExec *x, GError **err)
{
    SiliconShared *s = x->shared;
    int status = 0;
    if (x->child)
        return true;
    memset(s->pages, 0, sizeof(s->pages));
    memset(s->code, 0xcc, sizeof(s->code));
    s->fsgsbase = x->fsgsbase;
    s->xsave_bytes = x->xsave_bytes;
    x->batch = 1;
    atomic_store(&s->go, 1);
    x->child = fork();
    if (x->child == 0)
        silicon_child(x->fd);
    if (x->child < 0) {
        x->child = 0;
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "cannot start a process to execute cases: %s",
                    g_strerror(errno));
        return false;
    }
    if (wait_for(x, 1, &status) == WAIT_DONE)
        return true;
    child_gone(x);
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "the process that executes cases did not start (wait status %#x): does this system "
                "forbid seccomp, or mapping at %#llx?",
                status, CASE_BASE);
    return false;
}

/* ---- a case into a slot ---- */
static void load_fpu(const FpuState *f, uint8_t *image)
{
    memset(image, 0, SIL_XSAVE);
    fpu_to_xsave(f, case_cpuid(), XCR0_KNOWN, image, SIL_XSAVE);
}

static void fill_slot(SiliconSlot *k, const DiffCase *c)
{
    static const uint8_t order[15] = {R15, R14, R13, R12, R11, R10, R9, R8,
                                      RDI, RSI, RBP, RBX, RDX, RCX, RAX};
    const CpuState *s = &c->in;
    for (unsigned n = 0; n < 15; n++)
        k->load.gpr[n] = s->gpr[order[n]];
    k->load.rip = s->rip;
    k->load.cs = s->seg[CS].selector;
    k->load.ss = s->seg[SS].selector;
    k->load.rsp = s->gpr[RSP];
    k->load.rflags = s->rflags | FL_IF | (c->stop == STOP_STEP ? FL_TF : 0);
    k->load.ds = s->seg[DS].selector;
    k->load.es = s->seg[ES].selector;
    k->load.fs = s->seg[FS].selector;
    k->load.gs = s->seg[GS].selector;
    k->load.fs_base = s->seg[FS].base;
    k->load.gs_base = s->seg[GS].base;
    load_fpu(&s->fpu, k->xsave);
    k->code_at = (uint16_t)(case_linear_rip(c) - CASE_CODE);
    k->len = c->len;
    memcpy(k->insn, c->insn, sizeof(k->insn));
    memcpy(k->data, c->data, sizeof(k->data));
    memcpy(k->stack, c->stack, sizeof(k->stack));
}

/* ---- and out of it ---- */
static void save_fpu(FpuState *f, const uint8_t *image)
{
    uint8_t own[SIL_XSAVE];
    uint64_t bv;
    memcpy(own, image, SIL_XSAVE);
    memcpy(&bv, own + XSAVE_HEADER, 8);
    bv &= cpuid_xcr0_mask(case_cpuid()); /* PKRU and its like are nobody's business */
    memset(own + XSAVE_HEADER, 0, XSAVE_HEADER_SIZE);
    memcpy(own + XSAVE_HEADER, &bv, 8);
    f->mxcsr_mask = case_mxcsr_mask();
    fpu_from_xsave(f, case_cpuid(), XCR0_KNOWN, own, SIL_XSAVE);
}

/* FS or GS, when the instruction has loaded it, and so its base, from a selector; else -1. */
static int loaded_segment(const DiffCase *c, uint64_t rip)
{
    const OpRow *r = &op_rows[c->row];
    if (rip == c->in.rip) /* not executed: a fetch behind it may fault all the same */
        return -1;
    if (r->map == MAP_1B && r->opcode == 0x8e) {
        Insn i;
        decode(&i, c->insn, c->len, case_decode_mode(c), case_features());
        return i.reg;
    }
    if (r->map != MAP_0F)
        return -1;
    return r->opcode == 0xa1 || r->opcode == 0xb4   ? FS
           : r->opcode == 0xa9 || r->opcode == 0xb5 ? GS
                                                    : -1;
}

/* A segment register as the descriptor behind the selector makes it. */
static void save_segment(const DiffExec *x, CpuState *s, unsigned seg, uint16_t selector,
                         uint64_t base, bool loaded)
{
    Segment *g = &s->seg[seg];
    if (selector < 4) {
        if (selector != g->selector || !(g->attr & SEG_UNUSABLE))
            *g = (Segment){.selector = selector, .attr = SEG_UNUSABLE};
        if (seg == FS || seg == GS)
            g->base = loaded ? 0 : base;
        return;
    }
    if (selector == g->selector && !loaded)
        return;
    for (unsigned k = 0; k < x->n_segments; k++) {
        if ((x->segment[k].selector ^ selector) < 4) {
            *g = x->segment[k];
            g->selector = selector;
            return;
        }
    }
    *g = (Segment){.selector = selector}; /* not one of ours: it will show */
}

static void save_registers(const DiffExec *x, const DiffCase *c, const SiliconSlot *k, CpuState *s)
{
    static const uint8_t greg[16] = {
        [RAX] = REG_RAX, [RCX] = REG_RCX, [RDX] = REG_RDX, [RBX] = REG_RBX,
        [RSP] = REG_RSP, [RBP] = REG_RBP, [RSI] = REG_RSI, [RDI] = REG_RDI,
        [R8] = REG_R8,   [R9] = REG_R9,   [R10] = REG_R10, [R11] = REG_R11,
        [R12] = REG_R12, [R13] = REG_R13, [R14] = REG_R14, [R15] = REG_R15};
    const uint64_t ours = FL_RF | FL_TF | FL_IF;
    uint64_t selectors = k->gregs[REG_CSGSFS];

    for (unsigned n = 0; n < 16; n++) {
        s->gpr[n] = k->gregs[greg[n]];
        if (c->mode != CM_LONG && n < R8)
            s->gpr[n] = (uint32_t)s->gpr[n];
    }
    s->rip = k->gregs[REG_RIP];
    s->rflags = (k->gregs[REG_EFL] & ~ours) | (c->in.rflags & FL_IF);
    if (c->stop == STOP_THROUGH)
        s->rflags |= k->gregs[REG_EFL] & FL_TF;
    int loaded = loaded_segment(c, k->gregs[REG_RIP]);
    save_segment(x, s, CS, (uint16_t)selectors, 0, false);
    save_segment(x, s, SS, (uint16_t)(selectors >> 48), 0, false);
    save_segment(x, s, DS, k->ds, 0, false);
    save_segment(x, s, ES, k->es, 0, false);
    save_segment(x, s, FS, k->fs, k->fs_base, loaded == FS);
    save_segment(x, s, GS, k->gs, k->gs_base, loaded == GS);
    save_fpu(&s->fpu, k->xsave);
}

static void read_slot(const DiffExec *x, const SiliconSlot *k, const DiffCase *c, DiffOutcome *o)
{
    uint64_t trap = k->gregs[REG_TRAPNO];
    o->kind = OUT_FAULT;
    o->vector = (uint8_t)trap;
    o->has_error = false;
    o->error = 0;
    o->cr2 = 0;
    o->why[0] = 0;
    o->st = c->in;
    memcpy(o->data, k->data, sizeof(o->data));
    memcpy(o->stack, k->stack, sizeof(o->stack));
    if (k->gregs[REG_RIP] == (uintptr_t)silicon_iret) {
        o->kind = OUT_BROKEN;
        g_snprintf(o->why, sizeof(o->why), "the state could not be loaded: signal %d, vector %u",
                   k->signal, (unsigned)trap);
        return;
    }
    save_registers(x, c, k, &o->st);
    switch (trap) {
    case VEC_DB:
        if (c->stop == STOP_STEP)
            o->kind = OUT_DONE;
        break;
    case VEC_BP:
        if (!case_is_int3(c)) {
            o->kind = OUT_DONE;
            o->st.rip--;
        }
        break;
    case VEC_DF:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP:
    case VEC_PF:
    case VEC_AC:
        o->has_error = true;
        o->error = (uint32_t)k->gregs[REG_ERR];
        if (trap == VEC_PF)
            o->cr2 = k->gregs[REG_CR2];
        /* The kernel reports its own half, and a page below it, as there but forbidden. */
        if (trap == VEC_PF &&
            (o->cr2 >= 0x7ffffffff000 || o->cr2 - CASE_SYS < CASE_CODE - CASE_SYS)) {
            o->kind = OUT_SKIPPED;
            g_strlcpy(o->why, "an address that is not the case's", sizeof(o->why));
        }
        break;
    default:
        break;
    }
    if (o->kind == OUT_DONE)
        o->vector = 0;
    /* Selectors in between lead to what only Linux has, or only case_sys.c. */
    unsigned selector = o->error & 0xfffc;
    if ((trap == VEC_NP || trap == VEC_SS || trap == VEC_GP) && !(selector & 4) &&
        selector >= 0x38 && selector <= CASE_GDT_LIMIT) {
        o->kind = OUT_SKIPPED;
        g_strlcpy(o->why, "a descriptor that is not the case's", sizeof(o->why));
    }
}

/* ---- the executor ---- */
static void broken(DiffOutcome *o, const DiffCase *c, const char *why, int value)
{
    memset(o, 0, offsetof(DiffOutcome, data));
    o->kind = OUT_BROKEN;
    o->st = c->in;
    g_snprintf(o->why, sizeof(o->why), why, value);
}

/* Runs slots first to n - 1. Returns how many were run; fewer when the child died on the next. */
static unsigned run_slots(DiffExec *x, unsigned first, unsigned n, Wait *w, int *status)
{
    SiliconShared *s = x->shared;
    s->first = first;
    s->n = n;
    atomic_store(&s->at, first);
    atomic_store(&s->go, ++x->batch);
    syscall(SYS_futex, &s->go, FUTEX_WAKE, 1, NULL, NULL, 0);
    *w = wait_for(x, x->batch, status);
    return *w == WAIT_DONE ? n : atomic_load(&s->at);
}

static void run_batch(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    GError *err = NULL;
    for (unsigned k = 0; k < n; k++)
        fill_slot(&x->shared->slot[k], &c[k]);
    for (unsigned done = 0; done < n;) {
        Wait w;
        int status = 0;
        if (!child_start(x, &err)) {
            g_strlcpy(x->why, err->message, sizeof(x->why));
            g_clear_error(&err);
            for (; done < n; done++) {
                broken(&o[done], &c[done], "%.0d", 0);
                g_strlcpy(o[done].why, x->why, sizeof(o->why));
            }
            return;
        }
        unsigned until = run_slots(x, done, n, &w, &status);
        for (; done < until; done++)
            read_slot(x, &x->shared->slot[done], &c[done], &o[done]);
        if (w == WAIT_DONE)
            continue;
        if (w == WAIT_HUNG)
            broken(&o[done], &c[done], "no end within %d s", HANG_SECONDS);
        else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
            broken(&o[done], &c[done], "made a system call%.0d", 0);
        else if (WIFSIGNALED(status))
            broken(&o[done], &c[done], "the process died of signal %d", WTERMSIG(status));
        else
            broken(&o[done], &c[done], "the process ended with status %d", WEXITSTATUS(status));
        done++;
        child_gone(x);
    }
}

static void silicon_run(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    while (n) {
        unsigned k = MIN_OF(n, SIL_SLOTS);
        run_batch(x, c, o, k);
        c += k;
        o += k;
        n -= k;
    }
}

static void silicon_close(DiffExec *x)
{
    child_gone(x);
    if (x->shared)
        munmap(x->shared, sizeof(SiliconShared));
    if (x->fd >= 0)
        close(x->fd);
    g_free(x);
}

/* The user segments of the modes a process can be in. */
static void list_segments(DiffExec *x)
{
    static const uint8_t seg[] = {CS, DS, SS};
    DiffCase *c = g_new(DiffCase, 1);
    for (unsigned m = 0; m < 3; m++) {
        case_baseline(c, (enum CaseMode)m, 3);
        for (unsigned k = 0; k < 3; k++)
            x->segment[x->n_segments++] = c->in.seg[seg[k]];
        if (m == CM_LONG)
            x->user = c->in;
    }
    g_free(c);
}

static DiffExec *silicon_open(GError **err)
{
    DiffExec *x = g_new0(DiffExec, 1);
    x->fd = memfd_create("tandem-silicon", MFD_CLOEXEC);
    if (x->fd < 0 || ftruncate(x->fd, SIL_BYTES) != 0)
        goto fail;
    x->shared = mmap(NULL, sizeof(SiliconShared), PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, 0);
    if (x->shared == MAP_FAILED) {
        x->shared = NULL;
        goto fail;
    }
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "bare silicon needs a processor and kernel with XSAVE and AVX");
        silicon_close(x);
        return NULL;
    }
    x->virtualised = c >> 31;
    silicon_cpu(&x->cpu);
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    x->xcr0 = a | (uint64_t)d << 32;
    __cpuid_count(0xd, 0, a, b, c, d);
    x->xsave_bytes = MIN_OF(b, SIL_XSAVE); /* with all of XCR0 that the kernel has enabled */
    x->fsgsbase = getauxval(AT_HWCAP2) & 2;
    list_segments(x);
    if (child_start(x, err))
        return x;
    silicon_close(x);
    return NULL;

fail:
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "memory for the process that executes cases: %s",
                g_strerror(errno));
    silicon_close(x);
    return NULL;
}

/* ---- what a process cannot be asked ---- */

/* An XSAVE area that the processor takes and the guest's would not: in the compacted form, or with
 * components that only the host has. */
static bool host_only_area(const DiffExec *x, const DiffCase *c)
{
    uint64_t header[2];
    silicon_xsave_header(c, header);
    return header[1] >> 63 || (header[0] & x->xcr0 & ~c->in.xcr0);
}

static const char *row_refused(const DiffExec *x, const DiffCase *c)
{
    static const struct {
        const char *name, *why;
    } row[] = {
        {"cpuid", "the answer is this processor's, not the guest's"},
        {"rdtsc", "time is not the same twice"},
        {"rdtscp", "time is not the same twice"},
        {"int", "INT n reaches the host's kernel"},
        {"syscall", "a system call"},
        {"sysenter", "a system call"},
        {"sgdt", "the kernel answers it (UMIP)"},
        {"sidt", "the kernel answers it (UMIP)"},
        {"sldt", "the kernel answers it (UMIP)"},
        {"str", "the kernel answers it (UMIP)"},
        {"smsw", "the kernel answers it (UMIP)"},
    };
    const OpRow *r = &op_rows[c->row];
    for (unsigned k = 0; k < ARRAY_LEN(row); k++)
        if (!strcmp(r->name, row[k].name))
            return row[k].why;
    if (!strcmp(r->name, "int1") && x->virtualised)
        return "this hypervisor reports INT1 with the RIP before it";
    if (!strcmp(r->name, "xgetbv") && (uint32_t)c->in.gpr[RCX] < 2)
        return "XCR0 is the host's";
    if (g_str_has_prefix(r->name, "xsave") || g_str_has_prefix(r->name, "xrstor")) {
        uint64_t asked = (uint32_t)c->in.gpr[RAX] | c->in.gpr[RDX] << 32;
        if (asked & x->xcr0 & ~c->in.xcr0)
            return "XCR0 is the host's";
        if (r->name[1] == 'r' && host_only_area(x, c))
            return "an XSAVE area that only the host takes";
    }
    if (!strcmp(r->name, "call far") && c->mode == CM_COMPAT16)
        return "the stack would be the host's, should it lead to 64-bit code";
    if (!strcmp(r->name, "pushf") && !(c->in.rflags & FL_IF))
        return "a process has interrupts on";
    if (!strcmp(r->name, "kmovq") && !cpu_code64(&c->in) && row_has_class(r, OC_RMREG))
        return "the upper halves of general registers are the process's";
    if (r->feature < FEAT_N && !cpuid_host_has(r->feature))
        return "this processor lacks it";
    return case_no_feature(c->row);
}

static bool same_segment(const Segment *a, const Segment *b)
{
    return a->selector == b->selector && a->attr == b->attr && a->base == b->base &&
           a->limit == b->limit;
}

static bool segments_known(const DiffExec *x, const CpuState *s)
{
    for (unsigned k = ES; k <= GS; k++) {
        const Segment *g = &s->seg[k];
        bool ok = false;
        if (g->selector < 4) {
            bool based = (k == FS || k == GS) && x->fsgsbase && cpu_code64(s);
            ok = k != CS && k != SS && (g->attr & SEG_UNUSABLE) && (g->base == 0 || based);
        }
        for (unsigned n = 0; !ok && n < x->n_segments; n++)
            ok = same_segment(g, &x->segment[n]);
        if (!ok)
            return false;
    }
    return true;
}

static const char *silicon_refuses(DiffExec *x, const DiffCase *c)
{
    const CpuState *s = &c->in;
    if (c->mode > CM_COMPAT16)
        return "a process of Linux is in long mode";
    if (s->cpl != 3)
        return "needs ring 0";
    if (c->mode == CM_COMPAT16 && x->shared->no_ldt)
        return "this kernel has no modify_ldt";
    if (s->cr0 != x->user.cr0 || s->cr4 != x->user.cr4 || s->efer != x->user.efer ||
        s->xcr0 != x->user.xcr0)
        return "needs control registers of its own";
    if (s->rflags & (FL_IOPL | FL_VIF | FL_VIP | FL_VM))
        return "needs IOPL or virtual interrupts";
    if ((s->dr7 & 0xff) || s->ev.shadow_sti || s->ev.shadow_mov_ss)
        return "needs debug registers or an interrupt shadow";
    if (!segments_known(x, s))
        return "needs descriptors of its own";
    if (!cpu_code64(s) && !(s->seg[SS].attr & SEG_DB) && s->gpr[RSP] >> 16)
        return "IRET cannot load ESP with a 16-bit stack";
    return row_refused(x, c);
}

static const char *silicon_known_here(DiffExec *x, const DiffCase *c, const DiffOutcome *own,
                                      const DiffOutcome *other)
{
    return silicon_known(&x->cpu, c, own, other);
}

const DiffEngine diff_engine_silicon = {
    .name = "silicon",
    .help = "this processor, in a process of its own",
    .groups = GRP_REGS | GRP_SREGS | GRP_FPU,
    .shared = true,
    .open = silicon_open,
    .close = silicon_close,
    .refuses = silicon_refuses,
    .run = silicon_run,
    .known = silicon_known_here,
};
