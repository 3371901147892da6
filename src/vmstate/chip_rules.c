/* The discrepancy rules of the interrupt controllers (rules.def, CHIP_RULE). */
#include "vmstate/rules_priv.h"

/*
 * KVM counts down from a moment of its own: out comes what is left, in goes what is left, and the
 * end of the count is what lasts. With nothing left it takes a one-shot timer for one that is about
 * to fire, also if that was long ago.
 */
static void timer_to_soft(Ctx *c, LapicState *l)
{
    unsigned mode = apic_timer_mode(l->lvt[LVT_TIMER]);
    if (!l->at_ns) /* is what we make of it */
        return;
    if (mode == APIC_DEADLINE) {
        l->running = false;
        l->due_ns = 0;
    } else {
        /* Periodic with nothing left: the next begins. */
        uint64_t counts = l->left ? l->left : mode == APIC_PERIODIC ? l->initial : 0;
        l->running = l->initial && counts;
        l->due_ns = l->running ? l->at_ns + counts * apic_divider(l->divide) : 0;
        CANON(c, "tsc_deadline", l->tsc_deadline, 0);
    }
    l->left = 0;
    l->at_ns = 0;
}

static void timer_to_kvm(Ctx *c, LapicState *l)
{
    if (apic_timer_mode(l->lvt[LVT_TIMER]) == APIC_DEADLINE) {
        l->left = 0;
        return;
    }
    if (!l->running) {
        CANON(c, "TMICT", l->initial, 0);
        l->left = 0;
        return;
    }
    uint64_t divider = apic_divider(l->divide),
             ns = l->due_ns > l->at_ns ? l->due_ns - l->at_ns : 0;
    uint64_t counts = (ns + divider - 1) / divider;
    l->left = (uint32_t)MIN_OF(MAX_OF(counts, 1), l->initial);
}

bool rule_lapic_timer(Ctx *c)
{
    LapicState *l = c->lapic;
    if (l && c->dir == RULE_TO_KVM)
        timer_to_kvm(c, l);
    else if (l)
        timer_to_soft(c, l);
    return true;
}

bool rule_pic_elcr(Ctx *c)
{
    /* IRQ 0, 1, 2, 8 and 13 cannot be level-triggered (82371SB, 4.3). */
    static const uint8_t can_be[] = {0xf8, 0xde};
    for (unsigned i = 0; c->chips && i < ARRAY_LEN(can_be); i++) {
        PicState *p = &c->chips->pic[i];
        CANON(c, "ELCR", p->elcr, p->elcr & can_be[i]);
        CANON(c, "PIC.irr", p->irr, (p->irr & ~p->elcr) | (p->line & p->elcr));
        CANON(c, "PIC.highest", p->highest, p->highest & 7);
    }
    return true;
}

enum { RTE_DELIVERY_STATUS = 1 << 12, RTE_REMOTE_IRR = 1 << 14, RTE_LEVEL = 1 << 15 };
#define RTE_FIELDS 0xff0000000001ffffull

bool rule_ioapic_irr(Ctx *c)
{
    IoapicState *a = c->chips ? &c->chips->ioapic : NULL;
    uint32_t level = 0;
    for (unsigned i = 0; a && i < IOAPIC_PINS; i++) {
        uint64_t rte = a->rte[i] & RTE_FIELDS & ~(uint64_t)RTE_DELIVERY_STATUS;
        if (rte & RTE_LEVEL)
            level |= 1u << i;
        else
            rte &= ~(uint64_t)RTE_REMOTE_IRR;
        CANON(c, "IOAPIC.rte", a->rte[i], rte);
    }
    if (a)
        CANON(c, "IOAPIC.irr", a->irr, a->irr & level);
    return true;
}
