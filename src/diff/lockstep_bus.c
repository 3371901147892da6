/*
 * The bus of both sides. Whoever goes first reaches the machine, and what it did is recorded; the
 * other must do the same and is given the same answers. In a replay both are fed.
 *
 * Only what happens inside run() is an event. Engines also ask for CR8 and the APIC base while they
 * move state: those calls are answered and leave no trace.
 */
#include "diff/lockstep.h"

#include <pthread.h>
#include <string.h>

#include "base/log.h"

enum { MSR_APIC_BASE = 0x1b };

const char *const ls_event_name[LSE_KINDS] = {
    [LSE_STEP] = "step",
    [LSE_PIO_READ] = "in",
    [LSE_PIO_WRITE] = "out",
    [LSE_MMIO_READ] = "mmio-read",
    [LSE_MMIO_WRITE] = "mmio-write",
    [LSE_MSR_READ] = "rdmsr",
    [LSE_MSR_WRITE] = "wrmsr",
    [LSE_TSC] = "tsc",
    [LSE_DMA] = "dma",
};

void ls_event_print(const LsEvent *e, char *buf, size_t size)
{
    switch (e->kind) {
    case LSE_TSC:
        g_snprintf(buf, (gulong)size, "a reading of the TSC");
        break;
    case LSE_PIO_READ:
    case LSE_MMIO_READ:
    case LSE_MSR_READ:
        g_snprintf(buf, (gulong)size, "%s %#" G_GINT64_MODIFIER "x/%u", ls_event_name[e->kind],
                   e->addr, e->size);
        break;
    default:
        g_snprintf(buf, (gulong)size, "%s %#" G_GINT64_MODIFIER "x/%u <- %#" G_GINT64_MODIFIER "x",
                   ls_event_name[e->kind], e->addr, e->size, e->value);
        break;
    }
}

static LsEvent *event(const Lockstep *ls, unsigned i)
{
    return &g_array_index(ls->log, LsEvent, i);
}

void ls_log_truncate(Lockstep *ls, unsigned n)
{
    for (unsigned i = n; i < ls->log->len; i++)
        g_free(event(ls, i)->data);
    g_array_set_size(ls->log, n);
}

static bool is_write(unsigned kind)
{
    return kind == LSE_PIO_WRITE || kind == LSE_MMIO_WRITE || kind == LSE_MSR_WRITE;
}

/* ---- the first side: the machine itself ---- */

static void perform(Lockstep *ls, LsEvent *e)
{
    Vcpu *v = ls->side[LEADER].v;
    switch (e->kind) {
    case LSE_PIO_READ:
        e->value = ls->real->pio_read(v, (uint16_t)e->addr, e->size);
        break;
    case LSE_PIO_WRITE:
        ls->real->pio_write(v, (uint16_t)e->addr, e->size, (uint32_t)e->value);
        break;
    case LSE_MMIO_READ:
        e->value = ls->real->mmio_read(v, e->addr, e->size);
        break;
    case LSE_MMIO_WRITE:
        ls->real->mmio_write(v, e->addr, e->size, e->value);
        break;
    case LSE_MSR_READ:
        e->ok = ls->real->apic_msr_read(v, (uint32_t)e->addr, &e->value);
        break;
    case LSE_MSR_WRITE:
        e->ok = ls->real->apic_msr_write(v, (uint32_t)e->addr, e->value);
        break;
    case LSE_TSC:
        e->value = ls->real->clock_tsc ? ls->real->clock_tsc(v) : clock_tsc(v->vm->clock);
        break;
    default:
        g_assert_not_reached();
    }
}

/* The event stands in the log before it is performed, so that DMA it causes comes behind it. */
static void record(Lockstep *ls, LsEvent *e)
{
    unsigned at = ls->log->len;
    g_array_append_val(ls->log, *e);
    perform(ls, e);
    *event(ls, at) = *e;
    ls->side[ls->first].at = ls->log->len;
}

/* ---- the other side ---- */

static void apply_dma(Lockstep *ls, unsigned side, const LsEvent *e)
{
    LsSide *s = &ls->side[side];
    if (ls->recording && side == LEADER)
        return; /* the device wrote it there */
    memmap_write(s->vm->mem, e->addr, e->data, e->value);
    for (unsigned i = 0; i < s->vm->n_vcpus; i++)
        vcpu_request(s->vm->vcpu[i], VREQ_TLB_FLUSH);
}

/* The next event the side has to match, or NULL; what needs no matching is done on the way. */
static const LsEvent *next_event(Lockstep *ls, unsigned side)
{
    LsSide *s = &ls->side[side];
    for (; s->at < ls->log->len; s->at++) {
        const LsEvent *e = event(ls, s->at);
        if (e->kind == LSE_DMA) {
            apply_dma(ls, side, e);
        } else if (e->kind == LSE_TSC && !ls_soft(s)) {
            s->tsc_seen = true;
        } else {
            return e->kind == LSE_STEP ? NULL : e;
        }
    }
    return NULL;
}

static void feed(Lockstep *ls, unsigned side, LsEvent *e)
{
    char mine[80], other[80];
    const LsEvent *have = next_event(ls, side);
    const char *name = ls->side[side].engine->name;
    ls_event_print(e, mine, sizeof(mine));
    if (!have) {
        ls_diverge(ls, "%s did %s where the other did not", name, mine);
    } else if (have->kind != e->kind || have->addr != e->addr || have->size != e->size ||
               (is_write(e->kind) && have->value != e->value)) {
        ls_event_print(have, other, sizeof(other));
        ls_diverge(ls, "%s did %s where the other did %s", name, mine, other);
    } else {
        e->value = have->value;
        e->ok = have->ok;
        ls->side[side].at++;
        next_event(ls, side); /* DMA that it caused is there before the next instruction */
        return;
    }
    e->value = size_mask(e->size ? e->size : 8);
    e->ok = true;
}

void ls_bus_begin(Lockstep *ls)
{
    uint8_t tpr = ls->recording ? ls->real->tpr_get(ls->side[LEADER].v) : 0;
    for (unsigned i = 0; i < SIDES; i++) {
        if (ls->recording)
            ls->side[i].tpr = tpr;
        ls->side[i].tpr_written = ls->side[i].tsc_seen = false;
        ls->side[i].at = ls->step_at + 1;
        next_event(ls, i); /* DMA from between the steps */
    }
}

void ls_bus_end(Lockstep *ls, unsigned side)
{
    const LsEvent *e = next_event(ls, side);
    char what[80];
    if (!e)
        return;
    ls_event_print(e, what, sizeof(what));
    ls_diverge(ls, "%s did not do %s, which the other did", ls->side[side].engine->name, what);
}

/* ---- what engines call ---- */

static unsigned side_of(const Lockstep *ls, const Vcpu *v)
{
    return v == ls->side[LEADER].v ? LEADER : FOLLOWER;
}

static uint64_t bus_access(Vcpu *v, LsEvent e, bool *ok)
{
    Lockstep *ls = ls_of(v);
    unsigned side = side_of(ls, v);
    if (ls->running < 0) {
        if (!ls->real)
            return 0;
        perform(ls, &e);
    } else if (ls->recording && side == ls->first) {
        record(ls, &e);
    } else {
        feed(ls, side, &e);
    }
    if (ok)
        *ok = e.ok;
    return e.value;
}

static uint64_t bus_mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    return bus_access(v, (LsEvent){.kind = LSE_MMIO_READ, .addr = gpa, .size = (uint8_t)size},
                      NULL);
}

static void bus_mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
    bus_access(
        v, (LsEvent){.kind = LSE_MMIO_WRITE, .addr = gpa, .size = (uint8_t)size, .value = value},
        NULL);
}

static uint32_t bus_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    return (uint32_t)bus_access(
        v, (LsEvent){.kind = LSE_PIO_READ, .addr = port, .size = (uint8_t)size}, NULL);
}

static void bus_pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    bus_access(
        v, (LsEvent){.kind = LSE_PIO_WRITE, .addr = port, .size = (uint8_t)size, .value = value},
        NULL);
}

/* Interrupts are the stepper's (RunLimit.caller_events). */
static int bus_irq_ack(Vcpu *v)
{
    return -1;
}

/* Reading the APIC base has no effect, and engines do so for CPUID and while they move state. */
static bool bus_msr_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    Lockstep *ls = ls_of(v);
    bool ok = false;
    if (ls->real && (msr == MSR_APIC_BASE || ls->running < 0))
        return ls->real->apic_msr_read(ls->side[LEADER].v, msr, value);
    if (msr == MSR_APIC_BASE || ls->running < 0) {
        *value = msr == MSR_APIC_BASE ? v->st.msr.apic_base : v->st.msr.tsc_deadline;
        return true;
    }
    *value = bus_access(v, (LsEvent){.kind = LSE_MSR_READ, .addr = msr, .size = 8}, &ok);
    return ok;
}

static bool bus_msr_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    Lockstep *ls = ls_of(v);
    bool ok = false;
    bus_access(v, (LsEvent){.kind = LSE_MSR_WRITE, .addr = msr, .size = 8, .value = value}, &ok);
    if (ok && msr == MSR_APIC_BASE && !ls->real)
        v->st.msr.apic_base = value;
    return ok;
}

static uint8_t bus_tpr_get(Vcpu *v)
{
    Lockstep *ls = ls_of(v);
    unsigned side = side_of(ls, v);
    if (ls->real && (ls->running < 0 || (ls->recording && side == ls->first)))
        return ls->real->tpr_get(ls->side[LEADER].v);
    return ls->side[side].tpr;
}

static void bus_tpr_set(Vcpu *v, uint8_t cr8)
{
    Lockstep *ls = ls_of(v);
    LsSide *s = &ls->side[side_of(ls, v)];
    if (ls->running < 0 && s != &ls->side[LEADER])
        return; /* the follower's state comes in: the machine has it already */
    s->tpr = cr8;
    s->tpr_written = true;
    if (ls->real && (ls->running < 0 || (ls->recording && s == &ls->side[ls->first])))
        ls->real->tpr_set(ls->side[LEADER].v, cr8);
}

static uint64_t bus_clock_tsc(Vcpu *v)
{
    return bus_access(v, (LsEvent){.kind = LSE_TSC, .size = 8}, NULL);
}

const VcpuBus ls_bus = {
    .mmio_read = bus_mmio_read,
    .mmio_write = bus_mmio_write,
    .pio_read = bus_pio_read,
    .pio_write = bus_pio_write,
    .irq_ack = bus_irq_ack,
    .apic_msr_read = bus_msr_read,
    .apic_msr_write = bus_msr_write,
    .tpr_get = bus_tpr_get,
    .tpr_set = bus_tpr_set,
    .clock_tsc = bus_clock_tsc,
};

/* ---- DMA ---- */

/* The bytes are in the leader's RAM; the other's still holds what was there. */
static bool dma_event(Lockstep *ls, LsEvent *e, gpa_t gpa, uint64_t len)
{
    *e = (LsEvent){.kind = LSE_DMA, .addr = gpa, .value = len, .data = g_malloc(len)};
    if (memmap_read(ls->side[LEADER].vm->mem, gpa, e->data, len))
        return true;
    g_free(e->data);
    return false;
}

static void note_old(Lockstep *ls, const LsEvent *e)
{
    for (uint64_t at = 0; at < e->value;) { /* a piece lies in one page */
        gpa_t gpa = e->addr + at;
        unsigned n = (unsigned)MIN_OF(e->value - at, 4096 - (gpa & 4095));
        const uint8_t *old = ls_host(&ls->side[FOLLOWER], gpa, n);
        for (unsigned i = 0; old && i < SIDES; i++)
            if (ls_notes(&ls->side[i]))
                write_log_add(&ls->side[i].writes, gpa, old, n);
        at += n;
    }
}

static void add_dma(Lockstep *ls, const LsEvent *e)
{
    note_old(ls, e);
    g_array_append_val(ls->log, *e);
}

void ls_on_dma(Lockstep *ls, gpa_t gpa, uint64_t len)
{
    LsEvent e;
    if (!dma_event(ls, &e, gpa, len))
        return;
    if (ls->running >= 0 && pthread_equal(pthread_self(), ls->side[LEADER].v->thread)) {
        add_dma(ls, &e);
        if (ls->first == FOLLOWER)
            apply_dma(ls, FOLLOWER, &e);
        ls->side[ls->first].at = ls->log->len;
        return;
    }
    /* Another thread's: the follower gets it at the next step. */
    g_mutex_lock(&ls->dma_lock);
    g_array_append_val(ls->dma, e);
    g_mutex_unlock(&ls->dma_lock);
}

void ls_apply_pending_dma(Lockstep *ls)
{
    g_mutex_lock(&ls->dma_lock);
    for (unsigned i = 0; i < ls->dma->len; i++)
        add_dma(ls, &g_array_index(ls->dma, LsEvent, i));
    g_array_set_size(ls->dma, 0);
    g_mutex_unlock(&ls->dma_lock);
}
