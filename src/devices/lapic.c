/*
 * Local APICs: registers and interrupt acceptance. The timer is in lapic_timer.c, what travels
 * between APICs in lapic_bus.c. Register numbers are the xAPIC offset / 16, which is the x2APIC MSR
 * - 0x800.
 */
#include "devices/lapic.h"

#include <string.h>

#include "base/log.h"
#include "devices/lapic_priv.h"

#define APIC_PAGE               0xfee00000ull
#define APIC_VERSION            0x14
#define MAX_LVT                 6 /* CMCI to error: entries 0-6 */
#define VERSION_EOI_SUPPRESSION (1u << 24)

static Lapic *current; /* whose CPU accesses the page; machine lock */

/* ---- bitmaps of 256 vectors ---- */

static bool test_vector(const uint32_t map[8], unsigned v)
{
    return map[v >> 5] >> (v & 31) & 1;
}

static void set_vector(uint32_t map[8], unsigned v, bool on)
{
    if (on)
        map[v >> 5] |= 1u << (v & 31);
    else
        map[v >> 5] &= ~(1u << (v & 31));
}

static int highest_vector(const uint32_t map[8])
{
    for (int i = 7; i >= 0; i--) {
        if (map[i])
            return i * 32 + 31 - __builtin_clz(map[i]);
    }
    return -1;
}

/* SDM vol. 3, 11.8.3.1 */
uint8_t lapic_ppr(const Lapic *l)
{
    int isr = highest_vector(l->isr);
    uint8_t service = isr < 0 ? 0 : (uint8_t)(isr & 0xf0);
    return (l->tpr & 0xf0) >= service ? l->tpr : service;
}

bool lapic_enabled(const Lapic *l)
{
    return l->base & APIC_BASE_ENABLE;
}

bool lapic_software_enabled(const Lapic *l)
{
    return lapic_enabled(l) && (l->svr & 0x100);
}

/* ExtINT from the 8259s is accepted through LINT0 in that mode, as a message of the IOAPIC, and
 * always while the APIC is disabled. */
static bool extint_waiting(const Lapic *l)
{
    if (!lapic_enabled(l))
        return l->lint0;
    uint32_t lvt = l->lvt[LVT_LINT0];
    return l->extint || (l->lint0 && !(lvt & LVT_MASKED) && (lvt >> 8 & 7) == DELIVER_EXTINT);
}

/* While the APIC is disabled by software it takes nothing new; what is in IRR stays deliverable
 * (SDM vol. 3, 11.4.7.2). */
int lapic_pending(const Lapic *l)
{
    if (extint_waiting(l))
        return LAPIC_EXTINT;
    if (!lapic_enabled(l))
        return -1;
    int irr = highest_vector(l->irr);
    return irr >= 0 && (irr & 0xf0) > (lapic_ppr(l) & 0xf0) ? irr : -1;
}

int lapic_ack(Lapic *l)
{
    int v = lapic_pending(l);
    if (v < 0)
        return v;
    if (v == LAPIC_EXTINT) {
        l->extint = false;
    } else {
        set_vector(l->irr, (unsigned)v, false);
        set_vector(l->isr, (unsigned)v, true);
        if (v == (int)(l->lvt[LVT_TIMER] & 0xff))
            lapic_timer_taken(l);
    }
    if (lapic_pending(l) < 0 && l->intr_level) {
        l->intr_level = false;
        l->cpu.intr(l->cpu.opaque, false);
    }
    return v;
}

/* Tells the CPU when what it should know has changed. */
void lapic_update(Lapic *l)
{
    if (l->parked)
        return;
    bool level = lapic_pending(l) >= 0;
    if (level != l->intr_level) {
        l->intr_level = level;
        l->cpu.intr(l->cpu.opaque, level);
    } else if (level) {
        l->cpu.intr(l->cpu.opaque,
                    true); /* another one, perhaps for a CPU that has gone to sleep since */
    }
}

bool lapic_set_irr(Lapic *l, uint8_t vector, bool level)
{
    if (vector < 16) {
        lapic_error(l, ESR_RECV_ILLEGAL);
        return false;
    }
    if (!lapic_software_enabled(l))
        return false;
    set_vector(l->irr, vector, true);
    set_vector(l->tmr, vector, level);
    lapic_update(l);
    return true;
}

bool lapic_requested(const Lapic *l, uint8_t vector)
{
    return test_vector(l->irr, vector);
}

void lapic_set_extint(Lapic *l)
{
    l->extint = true;
    lapic_update(l);
}

void lapic_error(Lapic *l, uint32_t bit)
{
    l->esr_next |= bit;
    uint32_t lvt = l->lvt[LVT_ERROR];
    /* A bad vector in the error entry itself would come back here for ever. */
    if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
        lapic_set_irr(l, (uint8_t)lvt, false);
}

bool lapic_local(Lapic *l, unsigned entry)
{
    uint32_t lvt = l->lvt[entry];
    if (lvt & LVT_MASKED)
        return false;
    switch (lvt >> 8 & 7) {
    case DELIVER_FIXED:
        return lapic_set_irr(l, (uint8_t)lvt, false);
    case DELIVER_NMI:
        l->cpu.nmi(l->cpu.opaque);
        return true;
    case DELIVER_SMI:
        l->cpu.smi(l->cpu.opaque);
        return true;
    case DELIVER_INIT:
        l->cpu.init(l->cpu.opaque);
        return true;
    }
    return false;
}

/* LINT0 in fixed mode and level-triggered: remote IRR is set from acceptance to EOI. */
static void service_lint0(Lapic *l)
{
    uint32_t *lvt = &l->lvt[LVT_LINT0];
    if (!l->lint0 || !lapic_enabled(l) || (*lvt & (LVT_MASKED | LVT_REMOTE_IRR | 0x700)) ||
        !(*lvt & LVT_LEVEL))
        return;
    if (lapic_set_irr(l, (uint8_t)*lvt, true))
        *lvt |= LVT_REMOTE_IRR;
}

void lapic_set_lint0(Lapic *l, bool level)
{
    bool rising = level && !l->lint0;
    uint32_t lvt = l->lvt[LVT_LINT0], delivery = lvt >> 8 & 7;
    l->lint0 = level;
    if (l->parked)
        return;
    if (delivery == DELIVER_FIXED && lvt & LVT_LEVEL)
        service_lint0(l);
    else if (rising && lapic_enabled(l) && delivery != DELIVER_EXTINT)
        lapic_local(l, LVT_LINT0);
    lapic_update(l);
}

bool lapic_lint0_open(const Lapic *l)
{
    return !lapic_enabled(l) || !(l->lvt[LVT_LINT0] & LVT_MASKED);
}

/* The NMI line is edge-sensitive. Whatever LINT1 is set to happens; NMI is what firmware leaves. */
void lapic_nmi(Lapic *l)
{
    if (l->parked || !lapic_enabled(l))
        l->cpu.nmi(l->cpu.opaque);
    else
        lapic_local(l, LVT_LINT1);
}

static void end_of_interrupt(Lapic *l)
{
    int v = highest_vector(l->isr);
    if (v < 0)
        return;
    set_vector(l->isr, (unsigned)v, false);
    if (test_vector(l->tmr, (unsigned)v)) {
        if (!(l->svr & SVR_NO_EOI_BROADCAST))
            lapic_eoi_broadcast((uint8_t)v);
        if ((l->lvt[LVT_LINT0] & 0xff) == (unsigned)v) {
            l->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
            service_lint0(l);
        }
    }
    lapic_update(l);
}

/* ---- registers ---- */

static uint32_t read_register(Lapic *l, unsigned reg)
{
    switch (reg) {
    case 0x02:
        return l->x2apic ? l->id : l->id << 24;
    case 0x03:
        return l->version;
    case 0x08:
        return l->tpr;
    case 0x09: /* arbitration priority: as the SDM computes it for lowest-priority delivery */
    case 0x0a:
        return lapic_ppr(l);
    case 0x0b: /* write-only */
    case 0x0c: /* remote read, which only the Pentium's bus had */
        return 0;
    case 0x0d:
        return l->x2apic ? lapic_x2_ldr(l) : (uint32_t)l->ldr << 24;
    case 0x0e:
        return (uint32_t)l->dfr << 28 | 0x0fffffff;
    case 0x0f:
        return l->svr;
    case 0x10 ... 0x17:
        return l->isr[reg - 0x10];
    case 0x18 ... 0x1f:
        return l->tmr[reg - 0x18];
    case 0x20 ... 0x27:
        return l->irr[reg - 0x20];
    case 0x28:
        return l->esr;
    case 0x2f:
        return l->lvt[LVT_CMCI];
    case 0x30:
        return (uint32_t)l->icr;
    case 0x31:
        return (uint32_t)(l->icr >> 32);
    case 0x32 ... 0x37:
        return l->lvt[reg - 0x32];
    case 0x38:
        return l->timer_initial;
    case 0x39:
        return lapic_timer_current(l);
    case 0x3e:
        return l->timer_divide;
    }
    lapic_error(l, ESR_ILLEGAL_REGISTER);
    return 0;
}

/* Bits of each LVT entry that software may set (SDM vol. 3, figure 11-8). */
static const uint32_t lvt_writable[LVT_N] = {
    [LVT_TIMER] = LVT_MASKED | 3 << 17 | 0xff,
    [LVT_THERMAL] = LVT_MASKED | 0x7ff,
    [LVT_PERF] = LVT_MASKED | 0x7ff,
    [LVT_LINT0] = LVT_MASKED | 1 << 15 | 1 << 13 | 0x7ff,
    [LVT_LINT1] = LVT_MASKED | 1 << 15 | 1 << 13 | 0x7ff,
    [LVT_ERROR] = LVT_MASKED | 0xff,
    [LVT_CMCI] = LVT_MASKED | 0x7ff,
};

static void write_lvt(Lapic *l, unsigned entry, uint32_t v)
{
    if (!(l->svr & 0x100))
        v |= LVT_MASKED;
    uint32_t old = l->lvt[entry];
    l->lvt[entry] = v & lvt_writable[entry];
    if (entry == LVT_TIMER)
        lapic_timer_lvt_written(l, old);
    if (entry == LVT_LINT0) {
        /* Remote IRR outlives masking; a change to edge or another delivery mode ends it. */
        if (l->lvt[entry] & LVT_LEVEL && !(l->lvt[entry] & 0x700))
            l->lvt[entry] |= old & LVT_REMOTE_IRR;
        service_lint0(l);
        lapic_update(l);
    }
}

static void write_register(Lapic *l, unsigned reg, uint32_t v)
{
    switch (reg) {
    case 0x08:
        l->tpr = (uint8_t)v;
        lapic_update(l);
        break;
    case 0x0b:
        end_of_interrupt(l);
        break;
    case 0x0d:
        l->ldr = v >> 24;
        break;
    case 0x0e:
        l->dfr = v >> 28;
        break;
    case 0x0f:
        l->svr = v & (0x1ff | SVR_NO_EOI_BROADCAST);
        if (!(v & 0x100)) { /* software disable masks every entry */
            for (unsigned i = 0; i < LVT_N; i++)
                write_lvt(l, i, l->lvt[i] | LVT_MASKED);
        }
        lapic_update(l);
        break;
    case 0x28:
        l->esr = l->esr_next;
        l->esr_next = 0;
        break;
    case 0x2f:
        write_lvt(l, LVT_CMCI, v);
        break;
    case 0x30:
        l->icr = (l->icr & ~0xffffffffull) | (v & ~(1u << 12));
        lapic_send(l, (uint8_t)(l->icr >> 56));
        break;
    case 0x31:
        l->icr = (uint32_t)l->icr | (uint64_t)v << 32;
        break;
    case 0x32 ... 0x37:
        write_lvt(l, reg - 0x32, v);
        break;
    case 0x38:
        lapic_timer_write_initial(l, v);
        break;
    case 0x3e:
        lapic_timer_write_divide(l, v & 0xb);
        break;
    default: /* read-only or reserved */
        if (reg != 0x02 && reg != 0x03 && reg != 0x0a && reg != 0x39)
            lapic_error(l, ESR_ILLEGAL_REGISTER);
    }
}

/* ---- the page ---- */

void lapic_set_current(Lapic *l)
{
    current = l;
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    if (!current || !lapic_enabled(current) || current->x2apic)
        return ~0ull;
    return offset & 0xf ? 0 : read_register(current, (unsigned)(offset >> 4));
}

static void page_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    if (!current)
        return;
    /* With the CPU's APIC off, and for what devices write, the page is the MSI address. */
    if (!lapic_enabled(current) || current->x2apic || size != 4)
        return;
    if (!(offset & 0xf))
        write_register(current, (unsigned)(offset >> 4), (uint32_t)value);
}

static const IoOps page_ops = {.read = page_read, .write = page_write, .min = 4, .max = 4};

/* Power-on values of everything but the id and IA32_APIC_BASE (11.4.7.1). */
static void clear_registers(Lapic *l)
{
    l->tpr = l->ldr = 0;
    l->dfr = 0xf;
    l->svr = 0xff;
    l->esr = l->esr_next = 0;
    l->icr = 0;
    l->extint = false;
    memset(l->irr, 0, sizeof(l->irr));
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->tmr, 0, sizeof(l->tmr));
    for (unsigned i = 0; i < LVT_N; i++)
        l->lvt[i] = LVT_MASKED;
    lapic_timer_reset(l);
}

/* ---- MSRs ---- */

bool lapic_msr_read(Lapic *l, uint32_t msr, uint64_t *value)
{
    if (msr == 0x1b) {
        *value = l->base;
        return true;
    }
    if (msr == 0x6e0) {
        *value = l->tsc_deadline;
        return true;
    }
    if (!l->x2apic || msr < 0x800 || msr > 0x8ff)
        return false;
    unsigned reg = msr - 0x800;
    bool readable = reg == 0x02 || reg == 0x03 || reg == 0x08 || reg == 0x0a || reg == 0x0d ||
                    reg == 0x0f || (reg >= 0x10 && reg <= 0x28) || reg == 0x2f || reg == 0x30 ||
                    (reg >= 0x32 && reg <= 0x39) || reg == 0x3e;
    if (!readable)
        return false;
    *value = reg == 0x30 ? l->icr : read_register(l, reg);
    return true;
}

/* IA32_APIC_BASE: the transitions of SDM vol. 3, figure 11-27; any other is #GP. */
static bool write_base(Lapic *l, uint64_t v)
{
    bool on = v & APIC_BASE_ENABLE, x2 = v & APIC_BASE_X2APIC;
    if (v & ~(uint64_t)(0xfffffff000ull | APIC_BASE_ENABLE | APIC_BASE_X2APIC | APIC_BASE_BSP) ||
        (x2 && !on))
        return false;
    if (lapic_enabled(l) ? l->x2apic && on && !x2 : x2)
        return false;
    if ((v & 0xfffffff000ull) != APIC_PAGE) {
        if (log_on(LOG_GUEST_ERROR))
            log_line("cpu %u: IA32_APIC_BASE %#" G_GINT64_MODIFIER
                     "x moves the page, which this machine refuses",
                     l->id, v);
        return false;
    }
    if (!on && lapic_enabled(l)) /* its state is lost */
        clear_registers(l);
    l->base = (v & ~(uint64_t)APIC_BASE_BSP) | (l->base & APIC_BASE_BSP);
    if (x2 && !l->x2apic)
        l->icr = (uint32_t)l->icr;
    l->x2apic = x2;
    lapic_update(l);
    return true;
}

/* Reserved bits, whose setting by WRMSR is #GP (11.12.1.3). The read-only ones of an LVT entry may
 * be written back as they were read. */
static uint32_t x2_reserved(unsigned reg)
{
    const uint32_t lvt_read_only = LVT_REMOTE_IRR | 1u << 12;
    switch (reg) {
    case 0x08:
        return ~0xffu;
    case 0x0f:
        return ~(uint32_t)(0x3ff | SVR_NO_EOI_BROADCAST);
    case 0x2f:
        return ~(lvt_writable[LVT_CMCI] | lvt_read_only);
    case 0x32 ... 0x37:
        return ~(lvt_writable[reg - 0x32] | lvt_read_only);
    case 0x3e:
        return ~0xbu;
    case 0x38:
        return 0;
    }
    return ~0u; /* EOI, ESR: only 0 */
}

bool lapic_msr_write(Lapic *l, uint32_t msr, uint64_t value)
{
    if (msr == 0x1b)
        return write_base(l, value);
    if (msr == 0x6e0) {
        lapic_timer_write_deadline(l, value);
        return true;
    }
    if (!l->x2apic || msr < 0x800 || msr > 0x8ff)
        return false;
    unsigned reg = msr - 0x800;
    if (reg == 0x30) {
        if (value & 0xfff32000ull) /* reserved bits */
            return false;
        l->icr = value & ~(1ull << 12);
        lapic_send(l, (uint32_t)(value >> 32));
        return true;
    }
    if (reg == 0x3f) { /* SELF IPI */
        if (value >> 8)
            return false;
        lapic_set_irr(l, (uint8_t)value, false);
        return true;
    }
    bool writable = reg == 0x08 || reg == 0x0b || reg == 0x0f || reg == 0x28 || reg == 0x2f ||
                    (reg >= 0x32 && reg <= 0x38) || reg == 0x3e;
    if (!writable || value >> 32 || ((uint32_t)value & x2_reserved(reg)))
        return false;
    write_register(l, reg, (uint32_t)value);
    return true;
}

uint8_t lapic_get_cr8(const Lapic *l)
{
    return l->tpr >> 4;
}

void lapic_set_cr8(Lapic *l, uint8_t cr8)
{
    l->tpr = (uint8_t)(cr8 << 4);
    lapic_update(l);
}

uint32_t lapic_id(const Lapic *l)
{
    return l->id;
}

/* ---- life ---- */

void lapic_reset(Lapic *l, bool init_only)
{
    clear_registers(l);
    if (!init_only) {
        l->x2apic = false;
        l->base = APIC_PAGE | APIC_BASE_ENABLE | (l->id == 0 ? APIC_BASE_BSP : 0);
    }
    /* Virtual wire mode, as firmware leaves the boot processor: the 8259s reach it through LINT0. A
     * guest without firmware counts on it. */
    if (l->base & APIC_BASE_BSP)
        l->lvt[LVT_LINT0] = DELIVER_EXTINT << 8;
    lapic_update(l);
}

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    return true;
}

const DeviceClass device_lapic = {
    .name = "apic",
    .help = "local APIC; the board makes one per vCPU",
    .size = sizeof(Device),
    .realize = realize,
};

bool lapics_new(Board *board, unsigned n, const LapicCpu cpus[], Lapic *out[], GError **err)
{
    if (n == 0 || n > LAPICS_MAX) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%u local APICs; from 1 to %d are possible", n,
                    LAPICS_MAX);
        return false;
    }
    lapic_bus_init(out, n);
    for (unsigned i = 0; i < n; i++) {
        Lapic *l = g_new0(Lapic, 1);
        l->board = board;
        l->cpu = cpus[i];
        l->id = i;
        l->version = APIC_VERSION | MAX_LVT << 16 | VERSION_EOI_SUPPRESSION;
        l->bus_hz = lapic_bus_hz(board->clock);
        l->timer = timer_new(board->clock, lapic_timer_expired, l);
        out[i] = l;
    }
    for (unsigned i = 0; i < n; i++)
        lapic_reset(out[i], false);
    out[0]->page = io_map(board->mmio, APIC_PAGE, 0x1000, &page_ops, NULL, "local APIC");
    current = out[0];
    return true;
}

void lapics_free(Lapic *lapics[], unsigned n)
{
    current = NULL;
    lapic_bus_init(NULL, 0);
    for (unsigned i = 0; i < n; i++) {
        if (!lapics[i])
            continue;
        if (lapics[i]->page)
            io_unmap(lapics[i]->board->mmio, lapics[i]->page);
        timer_free(lapics[i]->timer);
        g_free(lapics[i]);
        lapics[i] = NULL;
    }
}
