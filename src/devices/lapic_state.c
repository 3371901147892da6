/* Local APICs: state out and in, and in words. */
#include <string.h>

#include "devices/lapic_priv.h"

void lapic_save(Lapic *l, LapicState *s)
{
    memset(s, 0, sizeof(*s));
    lapic_timer_save(l, s); /* first: it may set an IRR bit */
    s->base = l->base;
    s->tpr = l->tpr;
    s->ldr = l->x2apic ? lapic_x2_ldr(l) : (uint32_t)l->ldr << 24;
    s->dfr = (uint32_t)l->dfr << 28 | 0x0fffffff;
    s->svr = l->svr;
    s->esr = l->esr;
    s->icr_low = (uint32_t)l->icr;
    s->icr_high = (uint32_t)(l->icr >> 32);
    memcpy(s->irr, l->irr, sizeof(s->irr));
    memcpy(s->isr, l->isr, sizeof(s->isr));
    memcpy(s->tmr, l->tmr, sizeof(s->tmr));
    memcpy(s->lvt, l->lvt, sizeof(s->lvt));
}

void lapic_load(Lapic *l, const LapicState *s)
{
    lapic_timer_load(l, s); /* compares with the mode that it had */
    l->base = s->base;
    l->x2apic =
        (s->base & (APIC_BASE_X2APIC | APIC_BASE_ENABLE)) == (APIC_BASE_X2APIC | APIC_BASE_ENABLE);
    l->tpr = (uint8_t)s->tpr;
    if (!l->x2apic)
        l->ldr = (uint8_t)(s->ldr >> 24);
    l->dfr = (uint8_t)(s->dfr >> 28);
    l->svr = s->svr & (0x1ff | SVR_NO_EOI_BROADCAST);
    l->esr = s->esr;
    l->icr = s->icr_low | (uint64_t)s->icr_high << 32;
    memcpy(l->irr, s->irr, sizeof(l->irr));
    memcpy(l->isr, s->isr, sizeof(l->isr));
    memcpy(l->tmr, s->tmr, sizeof(l->tmr));
    memcpy(l->lvt, s->lvt, sizeof(l->lvt));
}

void lapic_park(Lapic *l, bool parked)
{
    if (parked == l->parked)
        return;
    l->parked = parked;
    if (parked) {
        timer_del(l->timer);
        if (l->intr_level)
            l->cpu.intr(l->cpu.opaque, false);
        l->intr_level = false;
    } else {
        lapic_timer_arm(l);
        lapic_update(l);
    }
}

void lapic_set_kind(Lapic *l, uint32_t version, uint64_t bus_hz)
{
    l->version = version;
    l->bus_hz = bus_hz;
}

/* ---- in words ---- */

static void vectors(GString *out, const char *name, const uint32_t map[8])
{
    g_string_append_printf(out, "%s\t", name);
    for (unsigned v = 0, any = 0; v < 256; v++) {
        if (map[v >> 5] >> (v & 31) & 1)
            g_string_append_printf(out, "%s%u", any++ ? " " : "", v);
        if (v == 255 && !any)
            g_string_append(out, "(none)");
    }
    g_string_append_c(out, '\n');
}

static void lvt(GString *out, const char *name, uint32_t v, bool timer)
{
    static const char *const delivery[] = {"fixed", "lowest", "SMI",  "reserved",
                                           "NMI",   "INIT",   "SIPI", "ExtINT"};
    static const char *const timer_mode[] = {"one-shot", "periodic", "tsc-deadline", "reserved"};
    g_string_append_printf(out, "%s\t0x%08x %s", name, v, delivery[v >> 8 & 7]);
    if (v & LVT_LEVEL)
        g_string_append(out, " level");
    if (v & LVT_MASKED)
        g_string_append(out, " masked");
    if (timer)
        g_string_append_printf(out, " %s", timer_mode[apic_timer_mode(v)]);
    g_string_append_printf(out, " (vec %u)\n", v & 0xff);
}

void lapic_describe(const Lapic *l, GString *out)
{
    static const char *const name[LVT_N] = {
        [LVT_TIMER] = "LVTT", [LVT_THERMAL] = "LVTTHMR", [LVT_PERF] = "LVTPC",
        [LVT_LINT0] = "LVT0", [LVT_LINT1] = "LVT1",      [LVT_ERROR] = "LVTERR",
    };
    g_string_append_printf(out, "local APIC state of cpu %u: %s\n", l->id,
                           !lapic_enabled(l) ? "off"
                           : l->x2apic       ? "x2APIC"
                                             : "xAPIC");
    for (unsigned i = 0; i < LVT_N; i++) {
        if (name[i])
            lvt(out, name[i], l->lvt[i], i == LVT_TIMER);
    }
    g_string_append_printf(out, "Timer\tDCR=0x%x (divide by %u) initial_count=%u", l->timer_divide,
                           (unsigned)apic_divider(l->timer_divide), l->timer_initial);
    g_string_append_printf(out, " current_count=%u tsc_deadline=%" G_GUINT64_FORMAT "\n",
                           lapic_timer_current(l), l->tsc_deadline);
    g_string_append_printf(out, "SPIV\t0x%08x APIC %s, spurious vector %u\n", l->svr,
                           l->svr & 0x100 ? "enabled" : "disabled", l->svr & 0xff);
    g_string_append_printf(out, "ICR\t0x%08x dest 0x%x\n", (uint32_t)l->icr,
                           (uint32_t)(l->icr >> 32));
    g_string_append_printf(out, "ESR\t0x%08x\n", l->esr);
    vectors(out, "ISR", l->isr);
    vectors(out, "IRR", l->irr);
    vectors(out, "TMR", l->tmr);
    g_string_append_printf(out, "TPR\t0x%02x PPR 0x%02x LDR 0x%08x DFR 0x%x\n", l->tpr,
                           lapic_ppr(l), l->x2apic ? lapic_x2_ldr(l) : (uint32_t)l->ldr << 24,
                           l->dfr);
}
