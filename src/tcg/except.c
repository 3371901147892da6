/*
 * Delivery of exceptions and interrupts: SDM vol. 3, chapter 6 (64-bit: 6.14; real mode and vm86:
 * chapter 21), and the operation section of INT in vol. 2.
 *
 * One event is delivered in one go: checks, pushes, then commit. A fault on the way leaves the
 * state as it was and comes back as FAULT_EXC; deliver_exception() then delivers that one, or what
 * both together make (6.15, "double fault").
 */
#include <stdarg.h>
#include "base/log.h"
#include "tcg/sys.h"

typedef struct Event {
    uint8_t vector;
    bool has_error, soft; /* soft: the gate's DPL counts */
    uint32_t error;
    uint64_t rip;   /* pushed */
    uint64_t flags; /* pushed */
} Event;

Fault raise_unsupported(Tcg *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_vsnprintf(t->unsupported, sizeof(t->unsupported), fmt, ap);
    va_end(ap);
    return FAULT_UNSUPPORTED;
}

/* ---- real mode ---- */

static Fault deliver_real(CpuState *s, Tcg *t, const Event *e)
{
    uint64_t entry;
    if (e->vector * 4u + 3 > s->idt.limit)
        return raise_err(t, VEC_GP, e->vector * 8u + 2 + t->ext);
    Stack k = stack_current(s, t);
    Fault f = mem_read_mode(s, t, (uint32_t)(s->idt.base + e->vector * 4u), 4, t->mmu_mode, &entry);
    if (!f)
        f = stk_push(s, t, &k, 2, e->flags);
    if (!f)
        f = stk_push(s, t, &k, 2, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, 2, e->rip);
    if (f)
        return f;
    stack_set(s, t, k.sp);
    load_segment_real(s, CS, (uint16_t)(entry >> 16));
    s->rip = entry & 0xffff;
    flags_set(s, t, flags_get(s, t) & ~(uint64_t)(FL_IF | FL_TF | FL_AC | FL_RF));
    tcg_update_mode(s, t);
    return FAULT_NONE;
}

/* SDM vol. 3, 21.3.3: the bitmap is the 32 bytes below the I/O permission map. */
Fault vm86_redirect(CpuState *s, Tcg *t, uint8_t vector, gva_t next_rip, bool *redirected)
{
    enum { TSS_IOMAP = 102 };
    const Segment *tr = &s->seg[TR];
    uint64_t map, byte, entry, flags = flags_get(s, t);
    *redirected = false;
    if (!(tr->attr & 8) || tr->limit < TSS_IOMAP + 1)
        return raise_gp0(t);
    Fault f = mem_read_mode(s, t, tr->base + TSS_IOMAP, 2, MMU_KERNEL, &map);
    if (f)
        return f;
    uint64_t at = map - 32 + vector / 8;
    if (map < 32 || at > tr->limit)
        return raise_gp0(t);
    f = mem_read_mode(s, t, tr->base + at, 1, MMU_KERNEL, &byte);
    if (f || (byte >> (vector & 7) & 1))
        return f;
    *redirected = true;
    bool virtual = iopl(s) < 3;
    uint64_t pushed = flags;
    if (virtual)
        pushed = (flags & ~(uint64_t)FL_IF) | FL_IOPL | (flags & FL_VIF ? FL_IF : 0);
    Stack k = stack_current(s, t);
    f = mem_read_mode(s, t, vector * 4u, 4, t->mmu_mode, &entry);
    if (!f)
        f = stk_push(s, t, &k, 2, pushed);
    if (!f)
        f = stk_push(s, t, &k, 2, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, 2, next_rip);
    if (f)
        return f;
    stack_set(s, t, k.sp);
    load_segment_real(s, CS, (uint16_t)(entry >> 16));
    s->rip = entry & 0xffff;
    flags_set(s, t, flags & ~(uint64_t)(FL_TF | FL_RF | FL_NT | (virtual ? FL_VIF : FL_IF)));
    return FAULT_JUMP;
}

/* ---- gates ---- */

static inline Fault raise_idt(Tcg *t, uint8_t vector, const Event *e)
{
    return raise_err(t, vector, e->vector * 8u + 2 + t->ext);
}

/* The code segment a gate leads to. From vm86 only privilege 0 will do. */
static Fault gate_code(CpuState *s, Tcg *t, uint16_t sel, Desc *d, unsigned *new_cpl)
{
    if (sel_null(sel))
        return raise_err(t, VEC_GP, t->ext);
    Fault f = desc_read(s, t, sel, VEC_GP, d);
    if (f)
        return f;
    unsigned dpl = attr_dpl(d->attr);
    bool conforming = d->attr & SEG_CONFORMING;
    if (!attr_is_code(d->attr) || dpl > t->cpl)
        return raise_sel(t, VEC_GP, sel);
    if ((s->efer & EFER_LMA) && (d->attr & (SEG_L | SEG_DB)) != SEG_L)
        return raise_sel(t, VEC_GP, sel);
    *new_cpl = conforming ? t->cpl : dpl;
    if (mode_vm86(s) && *new_cpl != 0)
        return raise_sel(t, VEC_GP, sel);
    if (!(d->attr & SEG_P))
        return raise_sel(t, VEC_NP, sel);
    return FAULT_NONE;
}

static Fault deliver_task(CpuState *s, Tcg *t, const Event *e, uint16_t sel, bool *committed)
{
    uint64_t flags = flags_get(s, t);
    flags_set(s, t, e->flags); /* RF goes into the old task's image */
    Fault f = task_switch_raw(s, t, sel, TASK_GATE, e->has_error, e->error, e->rip, committed);
    if (f == FAULT_EXC && !*committed)
        flags_set(s, t, flags);
    return f;
}

/* The event's entry in the IDT, as far as it can be judged alone: type, privilege, presence. */
static Fault gate_read(CpuState *s, Tcg *t, const Event *e, uint64_t *raw, uint64_t *up)
{
    bool lma = s->efer & EFER_LMA;
    unsigned entry_size = lma ? 16 : 8;
    *up = 0;
    if (e->vector * entry_size + entry_size - 1 > s->idt.limit)
        return raise_idt(t, VEC_GP, e);
    gva_t at = s->idt.base + e->vector * entry_size;
    Fault f = mem_read_mode(s, t, at, 8, MMU_KERNEL, raw);
    if (!f && lma)
        f = mem_read_mode(s, t, at + 8, 8, MMU_KERNEL, up);
    if (f)
        return f;
    uint32_t hi = (uint32_t)(*raw >> 32);
    unsigned type = hi >> 8 & 0x1f;
    bool legacy = type == TYPE_INT16 || type == TYPE_TRAP16 || type == TYPE_TASK;
    if (type != TYPE_INT && type != TYPE_TRAP && (lma || !legacy))
        return raise_idt(t, VEC_GP, e);
    if (e->soft && (hi >> 13 & 3) < t->cpl)
        return raise_idt(t, VEC_GP, e);
    return hi & BIT(15) ? FAULT_NONE : raise_idt(t, VEC_NP, e);
}

static Fault deliver_gate(CpuState *s, Tcg *t, const Event *e, bool *committed)
{
    bool lma = s->efer & EFER_LMA;
    unsigned new_cpl;
    uint64_t raw, up;
    Desc d;
    Stack k;

    Fault f = gate_read(s, t, e, &raw, &up);
    if (f)
        return f;
    uint32_t hi = (uint32_t)(raw >> 32);
    unsigned type = hi >> 8 & 0x1f;
    bool is16 = type == TYPE_INT16 || type == TYPE_TRAP16;
    uint16_t sel = (uint16_t)(raw >> 16);
    if (type == TYPE_TASK)
        return deliver_task(s, t, e, sel, committed);

    f = gate_code(s, t, sel, &d, &new_cpl);
    if (f)
        return f;
    uint64_t rip = (raw & 0xffff) | (is16 ? 0 : hi & 0xffff0000) | (lma ? up << 32 : 0);
    unsigned size = lma ? 8 : is16 ? 2 : 4, ist = lma ? hi & 7 : 0;
    bool inner = new_cpl < t->cpl, vm = mode_vm86(s);
    uint64_t old_sp = s->gpr[RSP];
    if (inner || ist) {
        f = inner_stack(s, t, new_cpl, ist, &k);
        if (!inner)
            k.ss = s->seg[SS]; /* IST without a change of privilege keeps SS */
    } else {
        k = stack_current(s, t);
        k.mode = new_cpl == 3 ? MMU_USER : MMU_KERNEL;
        if (lma) {
            k.flat = true;
            k.mask = ~0ull;
            k.sp = s->gpr[RSP];
        }
    }
    if (!f)
        f = check_target(s, t, &d, rip);
    if (f)
        return f;
    if (lma)
        k.sp &= ~15ull;
    if (vm) {
        static const uint8_t order[4] = {GS, FS, DS, ES};
        for (unsigned n = 0; !f && n < 4; n++)
            f = stk_push(s, t, &k, size, s->seg[order[n]].selector);
    }
    if (!f && (inner || lma))
        f = stk_push(s, t, &k, size, s->seg[SS].selector);
    if (!f && (inner || lma))
        f = stk_push(s, t, &k, size, old_sp);
    if (!f)
        f = stk_push(s, t, &k, size, e->flags);
    if (!f)
        f = stk_push(s, t, &k, size, s->seg[CS].selector);
    if (!f)
        f = stk_push(s, t, &k, size, e->rip);
    if (!f && e->has_error)
        f = stk_push(s, t, &k, size, e->error);
    if (!f)
        f = desc_set_accessed(s, t, &d);
    if (f)
        return f;

    commit_code(s, &d, sel, new_cpl, rip);
    commit_stack(s, &k);
    if (vm)
        for (unsigned n = ES; n <= GS; n++)
            if (n != CS && n != SS)
                s->seg[n] = null_segment(0, 0);
    uint64_t clear = FL_TF | FL_NT | FL_RF | FL_VM;
    if (type == TYPE_INT || type == TYPE_INT16)
        clear |= FL_IF;
    flags_set(s, t, flags_get(s, t) & ~clear);
    tcg_update_mode(s, t);
    return FAULT_NONE;
}

static Fault deliver_event(CpuState *s, Tcg *t, const Event *e, bool *committed)
{
    *committed = false;
    return mode_real(s) ? deliver_real(s, t, e) : deliver_gate(s, t, e, committed);
}

/* ---- exceptions on the way to exceptions ---- */

enum ExcClass { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum ExcClass exc_class(uint8_t vector)
{
    switch (vector) {
    case VEC_DE:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP:
    case VEC_CP:
        return CONTRIBUTORY;
    case VEC_PF:
        return PAGE_FAULT;
    case VEC_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

/* SDM vol. 3, table 6-5. */
static bool makes_double_fault(enum ExcClass first, enum ExcClass second)
{
    return (first == CONTRIBUTORY && second == CONTRIBUTORY) ||
           (first == PAGE_FAULT && second != BENIGN);
}

/* A fault, as against a trap or abort: RF is set in the image that is pushed (SDM vol.
 * 3, 18.3.1.1). */
static bool sets_rf(uint8_t vector)
{
    switch (vector) {
    case VEC_DB:
    case VEC_NMI:
    case VEC_BP:
    case VEC_OF:
    case VEC_DF:
    case VEC_MC:
        return false;
    default:
        return true;
    }
}

/* What an exception does to registers besides its delivery; also when it becomes a double fault. */
static void exception_registers(CpuState *s, Tcg *t, const PendingExc *x)
{
    if (x->vector == VEC_PF)
        s->cr2 = x->cr2;
    if (x->vector == VEC_DB && x->dr6) {
        s->dr6 = (s->dr6 & ~0xfull) | x->dr6;
        s->dr7 &= ~(uint64_t)DR7_GD;
    }
}

static void log_event(const CpuState *s, const Tcg *t, const char *kind, uint8_t vector,
                      uint32_t error)
{
    log_line("cpu %d: v=%02x e=%04x cpl=%u IP=%04x:%016" G_GINT64_MODIFIER "x pc=%016" //
             G_GINT64_MODIFIER "x SP=%04x:%016" G_GINT64_MODIFIER "x CR2=%016" G_GINT64_MODIFIER
             "x %s",
             t->v->id, vector, error, t->cpl, s->seg[CS].selector, s->rip,
             t->code64 ? s->rip : s->seg[CS].base + s->rip, s->seg[SS].selector, s->gpr[RSP],
             s->cr2, kind);
}

/* Delivers t->exc after an event of class `first` whose delivery it interrupted (BENIGN: none). */
static bool deliver_chain(CpuState *s, Tcg *t, enum ExcClass first)
{
    for (;;) {
        PendingExc x = t->exc;
        enum ExcClass second = exc_class(x.vector);
        exception_registers(s, t, &x);
        if (first == DOUBLE_FAULT && second != BENIGN) {
            if (log_on(LOG_INT))
                log_event(s, t, "triple fault, last exception", x.vector, x.error);
            t->ext = 0;
            return false;
        }
        if (makes_double_fault(first, second)) {
            x = (PendingExc){.vector = VEC_DF, .has_error = true};
            second = DOUBLE_FAULT;
        }
        if (log_on(LOG_INT))
            log_event(s, t, "exception", x.vector, x.error);
        Event e = {.vector = x.vector,
                   .has_error = x.has_error && !mode_real(s),
                   .soft = x.soft,
                   .error = x.error,
                   .rip = s->rip,
                   .flags = flags_get(s, t) | (sets_rf(x.vector) ? FL_RF : 0)};
        bool committed;
        t->ext = !x.soft;
        Fault f = deliver_event(s, t, &e, &committed);
        t->ext = 0;
        if (f != FAULT_EXC)
            return true;
        first = committed ? BENIGN : second;
    }
}

bool deliver_exception(CpuState *s, Tcg *t)
{
    return !s->ev.triple_fault && deliver_chain(s, t, BENIGN);
}

Fault deliver_in_new_task(CpuState *s, Tcg *t)
{
    if (deliver_exception(s, t))
        return FAULT_JUMP;
    s->ev.triple_fault = true;
    return FAULT_EXC;
}

bool deliver_interrupt(CpuState *s, Tcg *t, uint8_t vector, bool nmi)
{
    bool committed;
    Event e = {.vector = vector, .rip = s->rip, .flags = flags_get(s, t)};
    if (log_on(LOG_INT))
        log_event(s, t, nmi ? "nmi" : "interrupt", vector, 0);
    if (nmi)
        s->ev.nmi.masked = true;
    t->ext = 1;
    Fault f = deliver_event(s, t, &e, &committed);
    t->ext = 0;
    return f == FAULT_EXC ? deliver_chain(s, t, BENIGN) : true;
}

/* RunLimit.stop_at_exception: what the gate would refuse, or the event itself. */
static Fault stop_at_gate(CpuState *s, Tcg *t, const Event *e)
{
    uint64_t raw, up;
    Fault f = mode_real(s) ? FAULT_NONE : gate_read(s, t, e, &raw, &up);
    if (f)
        return f;
    t->exc = (PendingExc){.vector = e->vector, .soft = e->soft, .icebp = !e->soft};
    return FAULT_EXC;
}

Fault software_interrupt(CpuState *s, Tcg *t, uint8_t vector, gva_t next_rip, bool icebp)
{
    bool committed;
    Event e = {.vector = vector, .soft = !icebp, .rip = next_rip, .flags = flags_get(s, t)};
    if (log_on(LOG_INT))
        log_event(s, t, "software interrupt", vector, 0);
    t->ext = icebp;
    Fault f = t->stop_exc ? stop_at_gate(s, t, &e) : deliver_event(s, t, &e, &committed);
    t->ext = 0;
    if (t->stop_exc)
        return f;
    if (f == FAULT_EXC && committed)
        return deliver_in_new_task(s, t);
    return f ? f : FAULT_JUMP;
}
