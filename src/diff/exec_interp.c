/*
 * The software engines as executors: a guest of one vCPU whose RAM is the map of case.h.
 *
 * STOP_THROUGH goes through blocks, their chains and the quick forms up to the INT3; STOP_STEP sets
 * TF and so takes the careful path. Nothing is delivered: see RunLimit.stop_at_exception.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "diff/software.h"
#include "jit/jit.h"

struct DiffExec {
    const Engine *engine;
    VmCommon vm;
    Clock *clock; /* WRMSR of the TSC asks it */
    Vcpu v, *vcpus[1];
    MemMap mem;
    VcpuBus bus;
    uint8_t *ram;   /* CASE_BASE to CASE_BASE + CASE_SIZE */
    unsigned built; /* enum CaseMode CASE_SYS was filled for; CM_N: to be filled */
    CpuState last;  /* control registers of the last case */
};

/* Instructions a case may take: the one, what it jumps to, INT3. */
#define INSNS_MAX 1000
/* The code pages, and one that is there without paging only. */
#define CODE_BYTES (CASE_CODE_BYTES + 0x1000)

/* ---- the bus: nothing is there ---- */
static uint64_t mmio_read(Vcpu *v G_GNUC_UNUSED, gpa_t at G_GNUC_UNUSED, unsigned size)
{
    return size_mask(size);
}
static void mmio_write(Vcpu *v G_GNUC_UNUSED, gpa_t at G_GNUC_UNUSED, unsigned size G_GNUC_UNUSED,
                       uint64_t value G_GNUC_UNUSED)
{
}
static uint32_t pio_read(Vcpu *v G_GNUC_UNUSED, uint16_t port G_GNUC_UNUSED, unsigned size)
{
    return (uint32_t)size_mask(size);
}
static void pio_write(Vcpu *v G_GNUC_UNUSED, uint16_t port G_GNUC_UNUSED,
                      unsigned size G_GNUC_UNUSED, uint32_t value G_GNUC_UNUSED)
{
}
static int irq_ack(Vcpu *v)
{
    vcpu_request_clear(v, VREQ_INTR);
    return -1;
}
static bool apic_msr_read(Vcpu *v G_GNUC_UNUSED, uint32_t msr, uint64_t *value)
{
    *value = 0xfee00900;
    return msr == 0x1b;
}
static bool apic_msr_write(Vcpu *v G_GNUC_UNUSED, uint32_t msr G_GNUC_UNUSED,
                           uint64_t value G_GNUC_UNUSED)
{
    return false;
}
static uint8_t tpr_get(Vcpu *v)
{
    return (uint8_t)v->st.cr8;
}
static void tpr_set(Vcpu *v, uint8_t cr8)
{
    v->st.cr8 = cr8;
}

/* ---- */
void software_close(DiffExec *x)
{
    engine_interp.vcpu_free(&x->v); /* the translator's part too */
    x->engine->vm_free(&x->vm);
    clock_free(x->clock);
    if (x->ram)
        munmap(x->ram, CASE_SIZE);
    munmap(x, sizeof(*x));
}

DiffExec *software_open(const Engine *engine, GError **err)
{
    /* By itself, as vcpu_alloc() does: the translator wants room near. */
    DiffExec *x =
        mmap(NULL, sizeof(*x), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (x == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "memory for cases: %s", g_strerror(errno));
        return NULL;
    }
    x->engine = engine;
    x->ram = mmap(NULL, CASE_SIZE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (x->ram == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "memory for cases: %s", g_strerror(errno));
        munmap(x, sizeof(*x));
        return NULL;
    }
    x->mem.slot[0] = (RamSlot){.gpa = CASE_BASE, .size = CASE_SIZE, .host = x->ram, .fd = -1};
    x->mem.n = 1;
    x->bus = (VcpuBus){.mmio_read = mmio_read,
                       .mmio_write = mmio_write,
                       .pio_read = pio_read,
                       .pio_write = pio_write,
                       .irq_ack = irq_ack,
                       .apic_msr_read = apic_msr_read,
                       .apic_msr_write = apic_msr_write,
                       .tpr_get = tpr_get,
                       .tpr_set = tpr_set};
    x->clock = clock_new();
    x->vcpus[0] = &x->v;
    x->v.vm = &x->vm;
    x->vm = (VmCommon){.mem = &x->mem,
                       .bus = &x->bus,
                       .clock = x->clock,
                       .cpuid = case_cpuid(),
                       .vcpu = x->vcpus,
                       .n_vcpus = 1};
    x->built = CM_N;
    if (!engine->vm_init(&x->vm, err) || !engine->vcpu_init(&x->v, err)) {
        software_close(x);
        return NULL;
    }
    memset(x->ram + (CASE_CODE - CASE_BASE), 0xcc, CODE_BYTES);
    return x;
}

Vcpu *software_vcpu(DiffExec *x)
{
    return &x->v;
}

static DiffExec *interp_open(GError **err)
{
    return software_open(&engine_interp, err);
}

static DiffExec *jit_open(GError **err)
{
    DiffExec *x = software_open(&engine_jit, err);
    if (x)
        jit_of(&x->v)->hot_after = 0; /* each case is translated before it runs */
    return x;
}

static const char *interp_refuses(DiffExec *x G_GNUC_UNUSED, const DiffCase *c)
{
    const OpRow *r = &op_rows[c->row];
    bool msr = !strcmp(r->name, "rdmsr") || !strcmp(r->name, "wrmsr");
    if (!strncmp(r->name, "rdtsc", 5) || (msr && (uint32_t)c->in.gpr[RCX] == 0x10))
        return "time is not the same twice";
    return NULL;
}

/* ---- one case ---- */
uint8_t *software_at(const DiffExec *x, uint64_t lin)
{
    return x->ram + (lin - CASE_BASE);
}

static void put_code(const DiffExec *x, const DiffCase *c, bool remove)
{
    uint64_t lin = case_linear_rip(c);
    bool paged = c->mode <= CM_COMPAT16;
    uint64_t room = CASE_CODE + CASE_CODE_BYTES - lin;
    unsigned n = paged ? (unsigned)MIN_OF((uint64_t)c->len, room) : c->len;
    if (remove)
        memset(software_at(x, lin), 0xcc, n);
    else
        memcpy(software_at(x, lin), c->insn, n);
}

/* Without paging all of it is RAM: what a 16-bit segment reaches behind its pages is cleared. */
static void clear_around(DiffExec *x)
{
    memset(software_at(x, CASE_CODE + CODE_BYTES), 0, 0x10000 - CODE_BYTES);
    memset(software_at(x, CASE_DATA + CASE_DATA_BYTES), 0, 0x10000 - CASE_DATA_BYTES);
    memset(software_at(x, CASE_STACK + CASE_STACK_BYTES), 0, 0x10000 - CASE_STACK_BYTES);
    memset(software_at(x, CASE_CODE), 0xcc, CODE_BYTES);
}

/* A processor makes these of whatever is loaded: FCW's fixed bits; FSW.ES and B. */
static void settle_x87(FpuState *f)
{
    f->fcw = (uint16_t)((f->fcw & 0x1f3f) | 0x40);
    f->fsw &= 0x7f7f;
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
}

/* The TLB may stay while nothing that it depends on differs. */
void software_prepare(DiffExec *x, const DiffCase *c)
{
    const CpuState *s = &c->in;
    bool same = x->last.cr0 == s->cr0 && x->last.cr3 == s->cr3 && x->last.cr4 == s->cr4 &&
                x->last.efer == s->efer && s->cpl == 3;
    unsigned tables = c->mode <= CM_COMPAT16 ? CM_LONG : c->mode; /* all of long mode share them */
    if (x->built != tables || s->cpl == 0) {
        /* A guest at privilege 0 may write there. */
        case_sys_build(x->ram, (enum CaseMode)c->mode);
        x->built = s->cpl ? tables : CM_N;
        same = false;
    }
    x->last.cr0 = s->cr0;
    x->last.cr3 = s->cr3;
    x->last.cr4 = s->cr4;
    x->last.efer = s->efer;
    if (c->mode > CM_COMPAT16)
        clear_around(x);
    memcpy(software_at(x, CASE_DATA), c->data, sizeof(c->data));
    memcpy(software_at(x, CASE_STACK), c->stack, sizeof(c->stack));
    put_code(x, c, false);
    x->v.st = *s;
    ((Tcg *)x->v.engine_data[ENGINE_INTERP])->zmm_clean = false;
    settle_x87(&x->v.st.fpu);
    x->v.st.fpu.mxcsr_mask = case_mxcsr_mask();
    if (c->stop == STOP_STEP)
        x->v.st.rflags |= FL_TF;
    if (same)
        blocks_distrust(x->v.engine_data[ENGINE_INTERP]);
    else
        x->engine->enter(&x->v);
}

static void exception(const DiffCase *c, const Exit *e, DiffOutcome *o)
{
    o->kind = OUT_FAULT;
    o->vector = e->exc.vector;
    o->has_error = e->exc.has_error;
    o->error = e->exc.error;
    if (e->exc.vector == VEC_PF)
        o->cr2 = e->exc.cr2;
    if (e->exc.vector == VEC_DB && c->stop == STOP_STEP && (e->exc.dr6 & DR6_BS))
        o->kind = OUT_DONE;
    else if (e->exc.vector == VEC_BP && e->exc.soft && !case_is_int3(c))
        o->kind = OUT_DONE;
    else
        o->st.rip += e->exc.len;
    if (o->kind == OUT_DONE)
        o->vector = 0;
}

static void run_case(DiffExec *x, const DiffCase *c, DiffOutcome *o)
{
    static const RunLimit limit = {.max_insns = INSNS_MAX, .stop_at_exception = true};
    software_prepare(x, c);
    x->v.st.gpr[GPR_ZERO] = x->v.st.gpr[GPR_IP] = 0;
    Exit e = x->engine->run(&x->v, &limit);
    memset(o, 0, offsetof(DiffOutcome, st));
    o->st = x->v.st;
    o->st.rflags &= ~(uint64_t)(FL_RF | (c->stop == STOP_STEP ? FL_TF : 0));
    memcpy(o->data, software_at(x, CASE_DATA), sizeof(o->data));
    memcpy(o->stack, software_at(x, CASE_STACK), sizeof(o->stack));
    put_code(x, c, true);
    switch (e.kind) {
    case EXIT_EXCEPTION:
        exception(c, &e, o);
        break;
    case EXIT_HLT:
        o->kind = OUT_DONE;
        if (o->st.rip >= CASE_SYSCALL && o->st.rip < CASE_SYSCALL + 0x100)
            o->st.rip &= ~15ull; /* where SYSCALL and the like lead, before its OUT and HLT */
        break;
    case EXIT_LIMIT:
        o->kind = OUT_SKIPPED;
        g_strlcpy(o->why, "no end", sizeof(o->why));
        break;
    case EXIT_INTERNAL_ERROR: /* a fetch from where nothing is is for no executor */
        o->kind = strstr(e.msg, "which is no memory") ? OUT_SKIPPED : OUT_BROKEN;
        g_strlcpy(o->why, e.msg, sizeof(o->why));
        if (o->kind == OUT_SKIPPED)
            g_strlcpy(o->why, "the case leaves its memory", sizeof(o->why));
        break;
    default:
        o->kind = OUT_BROKEN;
        g_snprintf(o->why, sizeof(o->why), "exit %d", e.kind);
        break;
    }
}

static void interp_run(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        run_case(x, &c[k], &o[k]);
}

const DiffEngine diff_engine_jit = {
    .name = "jit",
    .help = "the translator; step by step it is the interpreter",
    .groups = GROUPS_ALL,
    .open = jit_open,
    .close = software_close,
    .refuses = interp_refuses,
    .run = interp_run,
};

const DiffEngine diff_engine_interp = {
    .name = "interp",
    .help = "the interpreter: blocks and quick forms, or step by step",
    .groups = GROUPS_ALL,
    .open = interp_open,
    .close = software_close,
    .refuses = interp_refuses,
    .run = interp_run,
};
