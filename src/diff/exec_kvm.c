/*
 * Cases in a virtual machine of one vCPU under KVM.
 *
 * The vCPU's state is imported, it is run until the instruction is over, and exported again. How
 * one sees that the instruction is over depends on what this KVM can do, which is tried for each
 * mode and privilege when the executor is opened:
 *
 *   - STOP_THROUGH runs into the INT3 bytes around the instruction; STOP_STEP is KVM's own single
 *     step. #BP and faults are delivered through the IDT, whose gates lead to handlers that stop
 *     (case_sys.c), and taken back: registers from the frame that was pushed, memory under the
 * frame from the case.
 *   - Where INT3 cannot be run, as by KVM's emulator, single steps lead to it; where KVM's single
 *     step does not work, as in backends that run privilege 3 natively and do the rest in software,
 *     RFLAGS.TF is set in the guest.
 *
 * A mode in which not even NOP can be run is refused, with what happened. An instruction that KVM
 * says it cannot emulate is skipped: a gap is not a wrong result. One that does not end is cut off
 * by a watchdog and broken.
 */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "diff/case_event.h"
#include "diff/engines.h"
#include "kvm/kvm.h"
#include "tcg/insn.h"

enum { TICK_MS = 100, TICKS_MAX = 30, TICKS_MAX_TCG = 15, STEPS_MAX = 1000, LOW_BYTES = 0x1000 };

struct DiffExec {
    VmCommon vm;
    Vcpu v, *vcpus[1];
    VcpuBus bus;
    MemMap mem;
    CpuidTable cpuid;
    uint8_t *ram, *low;
    uint8_t sys[CM_N][CASE_SYS_BYTES]; /* as case_sys_build() made it */
    enum CaseMode sys_mode;            /* what is in ram now; CM_N: nothing of use */
    uint8_t tpr;
    uint64_t apic_base;
    bool running;  /* vcpu_init() was done */
    bool on_tcg;   /* the processor below is QEMU's software one */
    bool left_ram; /* the case has touched what is no RAM */
    bool halted;   /* the last case has stepped a HLT */
    struct ExecWay {
        bool works;
        bool kvm_step; /* STOP_STEP by KVM's single step, else by RFLAGS.TF */
        bool int3;     /* STOP_THROUGH by INT3, else by single steps */
        char why[80];  /* it does not work */
    } way[CM_N][2];    /* [privilege 3] */
    /* Watchdog: run() counts `turn` up before and after KVM runs; odd: it is running. */
    pthread_t watchdog;
    _Atomic unsigned turn;
    _Atomic bool stop, late;
    char why[96]; /* what refuses() returned */
};

/* ---- what the vCPU sees besides RAM ---- */

/* An access that no RAM serves: KVM may do the instruction in pieces then, which steps cut. */
static uint64_t mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    ((DiffExec *)v->machine)->left_ram = true;
    return size_mask(size);
}
static void mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    ((DiffExec *)v->machine)->left_ram = true;
}
static uint32_t no_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    return (uint32_t)size_mask(size);
}
static void pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    if (port == CASE_PORT)
        vcpu_request(v, VREQ_WORK);
}
static int no_irq(Vcpu *v)
{
    return -1;
}
static bool apic_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    const DiffExec *x = v->machine;
    *value = x->apic_base;
    return msr == 0x1b;
}
static bool apic_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    return msr == 0x1b;
}
static uint8_t tpr_get(Vcpu *v)
{
    return ((const DiffExec *)v->machine)->tpr;
}
static void tpr_set(Vcpu *v, uint8_t cr8)
{
    ((DiffExec *)v->machine)->tpr = cr8;
}

/* ---- watchdog ---- */

/* One that has seen the same odd turn for long (a busy machine may hold a vCPU up) asks KVM to
 * stop, and goes on asking. */
static void *watch(void *opaque)
{
    DiffExec *x = opaque;
    unsigned seen = 0, ticks = 0;

    while (!atomic_load(&x->stop)) {
        g_usleep(TICK_MS * 1000);
        unsigned turn = atomic_load(&x->turn);
        ticks = turn == seen && turn & 1 ? ticks + 1 : 0;
        seen = turn;
        if (ticks >= (x->on_tcg ? TICKS_MAX_TCG : TICKS_MAX)) {
            atomic_store(&x->late, true);
            vcpu_request(&x->v, VREQ_WORK);
            engine_kvm.kick(&x->v);
        }
    }
    return NULL;
}

static Exit run_watched(DiffExec *x, const RunLimit *limit)
{
    atomic_store(&x->late, false);
    vcpu_request_clear(&x->v, VREQ_WORK);
    atomic_fetch_add(&x->turn, 1);
    Exit e = engine_kvm.run(&x->v, limit);
    atomic_fetch_add(&x->turn, 1);
    return e;
}

/* ---- one case ---- */

/* From n bytes of an area to what a 16-bit segment with its base there can reach. */
static void clear_behind(DiffExec *x, uint64_t area, unsigned n)
{
    memset(x->ram + (area - CASE_BASE) + n, 0, 0x10000 - n);
}

static void load_memory(DiffExec *x, const DiffCase *c)
{
    uint8_t *code = x->ram + (CASE_CODE - CASE_BASE);
    uint64_t at = case_linear_rip(c) - CASE_CODE;
    bool paged = c->mode <= CM_COMPAT16;
    /* Only what runs at privilege 0 can have written there, and events on their stack. */
    if (x->sys_mode != c->mode)
        memcpy(x->ram, x->sys[c->mode], CASE_SYS_BYTES);
    x->sys_mode = c->in.cpl ? c->mode : CM_N;
    memset(code, 0xcc, CASE_CODE_BYTES + 0x1000); /* without paging there is more behind */
    memcpy(code + at, c->insn, paged ? MIN_OF(c->len, CASE_CODE_BYTES - at) : c->len);
    memcpy(x->ram + (CASE_DATA - CASE_BASE), c->data, CASE_DATA_BYTES);
    memcpy(x->ram + (CASE_STACK - CASE_BASE), c->stack, CASE_STACK_BYTES);
    if (!paged) {
        clear_behind(x, CASE_CODE, CASE_CODE_BYTES + 0x1000);
        clear_behind(x, CASE_DATA, CASE_DATA_BYTES);
        clear_behind(x, CASE_STACK, CASE_STACK_BYTES);
    }
}

static void G_GNUC_PRINTF(3, 4) ends(DiffOutcome *o, enum OutcomeKind kind, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    o->kind = (uint8_t)kind;
    g_vsnprintf(o->why, sizeof(o->why), fmt, ap);
    va_end(ap);
}

/* A case's state has XSAVE and AVX, as a host with them. Where KVM does not offer them, the state
 * it gets does without, and what it cannot have changed is as it was. */
static void hide_features(const DiffExec *x, CpuState *s)
{
    s->xcr0 = (s->xcr0 & cpuid_xcr0_mask(&x->cpuid)) | 1;
    if (!cpuid_has(&x->cpuid, FEAT_XSAVE))
        s->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    if (!cpuid_has(&x->cpuid, FEAT_FSGSBASE))
        s->cr4 &= ~(uint64_t)CR4_FSGSBASE;
    /* QEMU aborts ("invalid tss type") when a stack is taken from a 32-bit TSS that is busy, as
     * the one in use always is on a processor. SVM takes it either way. */
    if (x->on_tcg && !(s->efer & EFER_LMA))
        s->seg[TR].attr &= ~(uint32_t)SEG_TSS_BUSY;
}

static bool processor_is_tcg(void)
{
    unsigned r[4] = {0};
    __cpuid(0x40000000, r[0], r[1], r[2], r[3]);
    return !memcmp(&r[1], "TCGTCGTCGTCG", 12);
}

static void show_features(const DiffExec *x, const DiffCase *c, CpuState *s)
{
    CpuState given = c->in;
    hide_features(x, &given);
    if (s->xcr0 == given.xcr0)
        s->xcr0 = c->in.xcr0;
    if (s->cr4 == given.cr4)
        s->cr4 = c->in.cr4;
    if (s->seg[TR].attr == given.seg[TR].attr)
        s->seg[TR].attr = c->in.seg[TR].attr;
    if (!(given.xcr0 & BIT(2)))
        for (unsigned i = 0; i < ARRAY_LEN(s->fpu.v); i++)
            memcpy(s->fpu.v[i].b + 16, c->in.fpu.v[i].b + 16, sizeof(VecReg) - 16);
}

/* Where the next instruction is fetched from. */
static bool in_ram(DiffExec *x)
{
    if (!engine_kvm.export_state(&x->v, GRP_REGS | GRP_SREGS, NULL))
        return true;
    uint64_t lin = case_linear(&x->v.st);
    return x->v.st.cr0 & CR0_PG || (lin >= CASE_BASE && lin < CASE_BASE + CASE_SIZE) ||
           (lin >= CASE_REAL_HANDLERS && lin < CASE_REAL_HANDLERS + LOW_BYTES);
}

/* What of an exit is no end of the instruction but of the attempt. True: the case is over. */
static bool exit_is_final(DiffExec *x, const DiffCase *c, const Exit *e, DiffOutcome *o)
{
    switch (e->kind) {
    case EXIT_HLT:
    case EXIT_LIMIT:
        return false;
    case EXIT_KICK:
        if (!atomic_load(&x->late))
            return false; /* a handler's OUT */
        /* Under an emulated processor time says little: slow, or without an end. */
        ends(o, x->on_tcg ? OUT_SKIPPED : OUT_BROKEN,
             "KVM does not come to an end of the instruction");
        break;
    case EXIT_SHUTDOWN:
        ends(o, c->mode <= CM_COMPAT16 ? OUT_BROKEN : OUT_SKIPPED,
             "shutdown: a fault could not be delivered");
        break;
    case EXIT_INTERNAL_ERROR:
        /* "KVM cannot emulate popcnt eax, ebx [f3 0f ...] at RIP ...": the cause, without operands,
         * so that what is missing can be counted. */
        if (!in_ram(x))
            ends(o, OUT_SKIPPED, "the case leaves its memory");
        else if (e->insn_len)
            ends(o, OUT_SKIPPED, "this KVM cannot emulate it");
        else
            ends(o, OUT_BROKEN, "%.90s", e->msg);
        break;
    default:
        ends(o, OUT_BROKEN, "%.90s",
             *e->msg ? e->msg : "KVM left for no reason that was asked for");
        break;
    }
    return true;
}

static bool get_state(DiffExec *x, DiffOutcome *o)
{
    g_autoptr(GError) err = NULL;
    if (!engine_kvm.export_state(&x->v, GROUPS_ALL, &err)) {
        ends(o, OUT_BROKEN, "%.90s", err->message);
        return false;
    }
    return true;
}

/* Is the next instruction one of the INT3s around the case's own? */
static bool at_int3(const DiffExec *x, const DiffCase *c)
{
    uint64_t lin = case_linear(&x->v.st), end = CASE_CODE + CASE_CODE_BYTES;
    if (c->mode > CM_COMPAT16)
        end += 0x1000; /* see load_memory() */
    return lin >= CASE_CODE && lin < end && x->ram[lin - CASE_BASE] == 0xcc &&
           lin != case_linear_rip(c);
}

/* #BP at privilege 0 outside long mode is pushed on the case's own stack, where the instruction may
 * have written: steps are better. But they show in what PUSHF stores. */
static bool takes_steps(const struct ExecWay *way, const DiffCase *c)
{
    bool own_stack = c->mode > CM_COMPAT16 && c->in.cpl == 0;
    if (c->stop == STOP_STEP || !way->kvm_step)
        return way->kvm_step;
    return !way->int3 || (own_stack && c->insn[c->len - 1] != 0x9c);
}

static bool event_waits(const CpuState *s)
{
    return s->ev.exception.pending || s->ev.exception.injected;
}

/* One step, or as many as lead to an INT3 or into a handler. */
static bool run_stepping(DiffExec *x, const DiffCase *c, DiffOutcome *o)
{
    static const RunLimit one = {.max_insns = 1};
    for (unsigned n = 0; n < STEPS_MAX; n++) {
        Exit e = run_watched(x, &one);
        if (exit_is_final(x, c, &e, o) || !get_state(x, o))
            return false;
        if (e.kind != EXIT_LIMIT || c->stop == STOP_STEP || event_waits(&x->v.st) ||
            at_int3(x, c) || case_event_arrived(c, &x->v.st))
            return true;
    }
    ends(o, OUT_SKIPPED, "no end within %u instructions", STEPS_MAX);
    return false;
}

static bool run_to_handler(DiffExec *x, const DiffCase *c, DiffOutcome *o)
{
    Exit e = run_watched(x, NULL);
    return !exit_is_final(x, c, &e, o) && get_state(x, o);
}

/* What KVM's emulator does with a REP that is stepped: permitted to a debugger, and no TF. */
static bool several_iterations(const DiffCase *c, const CpuState *s)
{
    const OpRow *r = c->row < op_rows_n ? &op_rows[c->row] : NULL;
    return r && r->attr & A_REP && c->in.gpr[RCX] - s->gpr[RCX] > 1;
}

static void set_up(DiffExec *x, const DiffCase *c)
{
    load_memory(x, c);
    x->v.st = c->in;
    x->tpr = (uint8_t)(c->in.cr8 & 15);
    x->v.st.tsc_offset = 0;
    x->left_ram = false;
    hide_features(x, &x->v.st);
}

/* KVM reports a stepped HLT as a step, and may come out of the next KVM_RUN for its halt. */
static void spend_halt(DiffExec *x)
{
    if (!x->halted)
        return;
    DiffCase *nop = g_new(DiffCase, 1);
    case_baseline(nop, CM_LONG, 0);
    nop->insn[0] = 0x90;
    nop->len = 1;
    set_up(x, nop);
    if (engine_kvm.import_state(&x->v, GROUPS_ALL, NULL))
        run_watched(x, NULL);
    g_free(nop);
    x->halted = false;
}

static void run_one(DiffExec *x, const DiffCase *c, DiffOutcome *o)
{
    const struct ExecWay *way = &x->way[c->mode][c->in.cpl == 3];
    g_autoptr(GError) err = NULL;

    memset(o, 0, offsetof(DiffOutcome, st));
    spend_halt(x);
    set_up(x, c);
    bool tf = c->stop == STOP_STEP && !way->kvm_step;
    bool steps = takes_steps(way, c);
    x->halted = steps && c->insn[c->len - 1] == 0xf4;
    if (tf)
        x->v.st.rflags |= FL_TF;
    if (!engine_kvm.import_state(&x->v, GROUPS_ALL, &err)) {
        ends(o, OUT_SKIPPED, "KVM does not take the state: %.60s", err->message);
        return;
    }
    if (steps ? !run_stepping(x, c, o) : !run_to_handler(x, c, o)) {
        if (atomic_load(&x->late))
            x->sys_mode = CM_N;
        return;
    }
    if (x->left_ram) {
        ends(o, OUT_SKIPPED, "the case leaves its memory");
        return;
    }
    o->st = x->v.st;
    memcpy(o->data, x->ram + (CASE_DATA - CASE_BASE), CASE_DATA_BYTES);
    memcpy(o->stack, x->ram + (CASE_STACK - CASE_BASE), CASE_STACK_BYTES);
    show_features(x, c, &o->st);
    o->st.run_state = RUN_RUNNING;
    if (steps && c->stop == STOP_STEP && several_iterations(c, &o->st)) {
        ends(o, OUT_SKIPPED, "KVM steps over several iterations at once");
        return;
    }
    case_event_undo(c, x->ram, tf, o);
    if (steps)
        o->st.rflags &= ~(uint64_t)FL_TF; /* the debugger's, in what an event has pushed */
}

/* ---- what it does not judge ---- */

/* POPF, IRET and SYSRET with TF in what they load: KVM's single step hides the flag. */
static bool loads_tf(const DiffCase *c, const OpRow *r)
{
    unsigned size = c->mode == CM_LONG ? 8 : 4, from = 0;
    uint64_t sp = c->in.seg[SS].base + c->in.gpr[RSP];
    if (!strcmp(r->name, "sysret"))
        return c->in.gpr[R11] & FL_TF;
    if (!strcmp(r->name, "popf"))
        size = 2; /* TF is in the lowest word whatever the size */
    else if (!strcmp(r->name, "iret"))
        from = 2 * 2; /* the third slot of any size */
    else
        return false;
    for (unsigned at = from; at < (from ? 3 * size : size); at += 2) {
        uint64_t lin = sp + at + 1, i = lin - CASE_STACK, k = lin - CASE_DATA;
        uint8_t byte = i < CASE_STACK_BYTES ? c->stack[i] : k < CASE_DATA_BYTES ? c->data[k] : 0;
        if (byte & FL_TF >> 8)
            return true;
    }
    return false;
}

/* A case sees that its CR4 is not what it was given. */
static bool moves_cr4(const DiffCase *c, const OpRow *r)
{
    return r->map == MAP_0F && (r->opcode == 0x20 || r->opcode == 0x22) && c->len > 2 &&
           (c->insn[c->len - 1] >> 3 & 7) == 4;
}

/* The TSC, and what the processor counts beside it. */
static bool reads_time(const DiffCase *c)
{
    uint32_t msr = (uint32_t)c->in.gpr[RCX];
    return msr == 0x10 || msr == 0xe7 || msr == 0xe8;
}

/* KVM hands each iteration of REP INS and OUTS out, and takes all of them for one step. */
static bool repeats_io(const DiffCase *c, const OpRow *r)
{
    return (!strcmp(r->name, "ins") || !strcmp(r->name, "outs")) &&
           (memchr(c->insn, 0xf3, c->len - 1u) || memchr(c->insn, 0xf2, c->len - 1u));
}

/* After these the fetch of the INT3 or its delivery may fault. */
static bool changes_tables(const OpRow *r)
{
    return !strcmp(r->name, "lidt") || !strcmp(r->name, "lmsw") || !strcmp(r->name, "ltr") ||
           (r->map == MAP_0F && r->opcode == 0x22);
}

static const char *exec_kvm_refuses(DiffExec *x, const DiffCase *c)
{
    const struct ExecWay *way = &x->way[c->mode][c->in.cpl == 3];
    const OpRow *r = c->row < op_rows_n ? &op_rows[c->row] : NULL;

    if (!way->works)
        return way->why;
    if (!r)
        return NULL;
    if (r->feature < FEAT_N && !cpuid_has(&x->cpuid, r->feature)) {
        g_snprintf(x->why, sizeof(x->why), "KVM has no %s", cpu_feature_name(r->feature));
        return x->why;
    }
    if (r->attr & A_AVX && !cpuid_has(&x->cpuid, FEAT_AVX)) /* AES and its like, VEX form */
        return "KVM has no avx";
    if (!strncmp(r->name, "rdtsc", 5) || (!strcmp(r->name, "rdmsr") && reads_time(c)))
        return "time is not the same twice";
    if (repeats_io(c, r) && (takes_steps(way, c) || c->in.gpr[RCX] > 4096))
        return "KVM steps over several iterations at once";
    if (takes_steps(way, c) && loads_tf(c, r))
        return "KVM's single step hides RFLAGS.TF";
    if (x->on_tcg && !strcmp(r->name, "ltr"))
        return "QEMU takes a null TR, and aborts at the next event";
    if (c->stop == STOP_THROUGH && takes_steps(way, c) && changes_tables(r))
        return "steps do not show what INT3 meets after it";
    CpuState given = c->in;
    hide_features(x, &given);
    if (given.cr4 != c->in.cr4 && moves_cr4(c, r))
        return "KVM lacks features that show in CR4";
    return NULL;
}

static void exec_kvm_run(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const char *why = exec_kvm_refuses(x, &c[i]);
        if (why)
            ends(&o[i], OUT_SKIPPED, "%.90s", why);
        else
            run_one(x, &c[i], &o[i]);
    }
}

/* ---- what this KVM can do ---- */

static bool try_nop(DiffExec *x, DiffCase *c, DiffOutcome *o, struct ExecWay *way)
{
    run_one(x, c, o);
    const char *why = o->kind > OUT_FAULT                                  ? o->why
                      : o->kind == OUT_FAULT || o->st.rip != c->in.rip + 1 ? "NOP ends elsewhere"
                      : o->st.rflags != c->in.rflags && c->mode == CM_VM86 ? "RFLAGS.VM is dropped"
                      : o->st.rflags != c->in.rflags                       ? "NOP changes RFLAGS"
                                                                           : NULL;
    if (why)
        g_snprintf(way->why, sizeof(way->why), "this KVM does not run %s at CPL %u: %.40s",
                   case_mode_name[c->mode], c->in.cpl, why);
    return !why;
}

static void probe(DiffExec *x)
{
    DiffCase *c = g_new(DiffCase, 1);
    DiffOutcome *o = g_new(DiffOutcome, 1);
    for (unsigned mode = 0; mode < CM_N; mode++) {
        for (unsigned user = 0; user < 2; user++) {
            struct ExecWay *way = &x->way[mode][user];
            case_baseline(c, mode, user ? 3 : 0);
            if ((c->in.cpl == 3) != user)
                continue; /* the mode does not have this privilege */
            c->insn[0] = 0x90;
            c->len = 1;
            way->kvm_step = true;
            way->works = try_nop(x, c, o, way);
            if (!way->works) {
                way->kvm_step = false;
                way->works = try_nop(x, c, o, way);
            }
            c->stop = STOP_THROUGH;
            way->int3 = true;
            if (!try_nop(x, c, o, way)) {
                way->int3 = false;
                way->works = way->works && way->kvm_step && try_nop(x, c, o, way);
            }
        }
    }
    g_free(c);
    g_free(o);
}

/* ---- opening ---- */

static uint8_t *ram_map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void exec_kvm_close(DiffExec *x)
{
    if (x->running) {
        atomic_store(&x->stop, true);
        pthread_join(x->watchdog, NULL);
        engine_kvm.vcpu_free(&x->v);
    }
    if (x->vm.kvm)
        engine_kvm.vm_free(&x->vm);
    if (x->vm.clock)
        clock_free(x->vm.clock);
    if (x->ram)
        munmap(x->ram, CASE_SIZE);
    if (x->low)
        munmap(x->low, LOW_BYTES);
    g_free(x);
}

/*
 * Instructions of the host's that need no state of their own are judged even where KVM does not
 * offer them: it takes a CPUID that has them, and a KVM that runs guests natively cannot keep them
 * from the guest anyhow, so its emulator had better do the same.
 */
static void add_stateless_features(CpuidTable *kvm)
{
    static const struct {
        uint32_t leaf, ebx, ecx;
    } row[] = {
        {1, 0, 1u << 0 | 1u << 1 | 1u << 9 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 25},
        {7, 1u << 3 | 1u << 8 | 1u << 19 | 1u << 29, 1u << 8},
        {0x80000001, 0, 1u << 5},
    };
    for (unsigned i = 0; i < kvm->n; i++) {
        CpuidEntry *e = &kvm->e[i];
        uint32_t host[4];
        for (unsigned k = 0; k < ARRAY_LEN(row); k++) {
            if (e->leaf != row[k].leaf || (e->has_subleaf && e->subleaf))
                continue;
            cpuid_execute(case_cpuid(), 0, 0, 1, 0, e->leaf, 0, host);
            e->ebx |= host[1] & row[k].ebx;
            e->ecx |= host[2] & row[k].ecx;
        }
    }
}

static DiffExec *exec_kvm_open(GError **err)
{
    CpuidTable kvm;
    if (!kvm_available(err) || !kvm_supported_cpuid(&kvm, err))
        return NULL;
    add_stateless_features(&kvm);

    DiffExec *x = g_new0(DiffExec, 1);
    x->ram = ram_map(CASE_SIZE);
    x->low = ram_map(LOW_BYTES);
    x->vm.clock = clock_new();
    if (!x->ram || !x->low || !cpuid_build(&x->cpuid, "max", &kvm, 1, 2000000, err))
        goto failed;
    case_handlers(x->low, LOW_BYTES);
    for (unsigned mode = 0; mode < CM_N; mode++)
        case_sys_build(x->sys[mode], mode);
    x->sys_mode = CM_N;
    x->apic_base = 0xfee00900;
    x->on_tcg = processor_is_tcg();
    x->mem.n = 2;
    x->mem.slot[0] =
        (RamSlot){.gpa = CASE_REAL_HANDLERS, .size = LOW_BYTES, .host = x->low, .fd = -1};
    x->mem.slot[1] = (RamSlot){.gpa = CASE_BASE, .size = CASE_SIZE, .host = x->ram, .fd = -1};
    x->bus = (VcpuBus){.mmio_read = mmio_read,
                       .mmio_write = mmio_write,
                       .pio_read = no_pio_read,
                       .pio_write = pio_write,
                       .irq_ack = no_irq,
                       .apic_msr_read = apic_read,
                       .apic_msr_write = apic_write,
                       .tpr_get = tpr_get,
                       .tpr_set = tpr_set};
    x->vcpus[0] = &x->v;
    x->vm.mem = &x->mem;
    x->vm.bus = &x->bus;
    x->vm.cpuid = &x->cpuid;
    x->vm.vcpu = x->vcpus;
    x->vm.n_vcpus = 1;
    x->v.vm = &x->vm;
    x->v.machine = x;
    x->v.engine = &engine_kvm;
    if (!engine_kvm.vm_init(&x->vm, err) || !engine_kvm.vcpu_init(&x->v, err))
        goto failed;
    if (pthread_create(&x->watchdog, NULL, watch, x) != 0) {
        engine_kvm.vcpu_free(&x->v);
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "no thread for the watchdog");
        goto failed;
    }
    x->running = true;
    probe(x);
    return x;
failed:
    if (err && !*err)
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "no memory for the KVM executor's guest");
    exec_kvm_close(x);
    return NULL;
}

const DiffEngine diff_engine_kvm = {
    .name = "kvm",
    .help = "this host's KVM: all modes it can run",
    .groups = GRP_REGS | GRP_SREGS | GRP_FPU,
    .open = exec_kvm_open,
    .close = exec_kvm_close,
    .refuses = exec_kvm_refuses,
    .run = exec_kvm_run,
};
