/*
 * 8259A pair. Each chip keeps IRR, IMR and ISR; the slave's INT is the master's IR2. The
 * datasheet's names.
 *
 * Edge-triggered: a rising edge latches the IRR bit until it is acknowledged, or until the line
 * drops before that (then INTA gives the spurious vector). Level-triggered: IRR follows the line.
 */
#include "devices/i8259.h"

#include "base/log.h"

typedef struct Chip {
    uint8_t irr, imr, isr, line, elcr, elcr_mask;
    uint8_t vector_base;
    uint8_t lowest; /* IR with the lowest priority; 7 after initialisation */
    uint8_t init;   /* ICW expected next: 0 none, else 2, 3, 4 */
    bool need_icw4, single, auto_eoi, rotate_auto_eoi, read_isr, poll, special_mask, special_nested;
    bool level_all; /* LTIM of ICW1 */
    uint8_t cascade;
    bool master;
    struct Pic *pic;
} Chip;

typedef struct Pic {
    Device dev;
    Chip chip[2];
    IrqLine intr;
    bool intr_level;
    bool parked;
    IoRegion *region[4];
} Pic;

static uint8_t level_mask(const Chip *c)
{
    return c->level_all ? 0xff : c->elcr;
}

/* Position of the highest-priority bit set in mask, in the rotated order; 8: none. */
static unsigned highest(const Chip *c, uint8_t mask)
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned ir = (c->lowest + 1 + i) & 7;
        if (mask & 1u << ir)
            return i;
    }
    return 8;
}

/* IR number the chip would give at INTA now, or -1. */
static int pending_ir(const Chip *c)
{
    unsigned want = highest(c, c->irr & ~c->imr);
    /* Between ICW1 and the last ICW nothing is accepted. */
    if (want == 8 || c->init)
        return -1;
    unsigned ir = (c->lowest + 1 + want) & 7;
    /* In special mask mode a masked in-service bit does not hold others up. In special fully nested
     * mode the master lets the slave interrupt again while IR2 is in service. */
    uint8_t service = c->isr;
    if (c->special_mask)
        service &= ~c->imr;
    if (c->special_nested && c->master && ir == 2)
        service &= ~(1u << 2);
    return want < highest(c, service) ? (int)ir : -1;
}

static void update(Pic *p)
{
    if (p->parked)
        return;
    Chip *m = &p->chip[0], *s = &p->chip[1];
    bool slave_int = pending_ir(s) >= 0;
    if (slave_int) {
        m->irr |= 1u << 2;
        m->line |= 1u << 2;
    } else {
        m->irr &= ~(1u << 2);
        m->line &= ~(1u << 2);
    }
    bool level = pending_ir(m) >= 0;
    if (level != p->intr_level) {
        p->intr_level = level;
        irq_set(&p->intr, level);
    }
}

void i8259_connect(Device *dev, IrqLine intr)
{
    ((Pic *)dev)->intr = intr;
}

void i8259_set_irq(void *dev, int irq, bool level)
{
    Pic *p = dev;
    Chip *c = &p->chip[irq >> 3 & 1];
    uint8_t bit = (uint8_t)(1u << (irq & 7));
    bool was = c->line & bit;
    if (irq == 2)
        return;
    if (p->parked) {
        c->line = level ? c->line | bit : c->line & ~bit;
        return;
    }
    if (level) {
        c->line |= bit;
        if (!was || (level_mask(c) & bit))
            c->irr |= bit;
    } else {
        c->line &= ~bit;
        c->irr &= ~bit;
    }
    if (was != level)
        update(p);
}

/* One chip's part of INTA: the IR number, 7 for a spurious one. */
static unsigned acknowledge(Chip *c)
{
    int ir = pending_ir(c);
    if (ir < 0)
        return 7;
    uint8_t bit = (uint8_t)(1u << ir);
    if (!(level_mask(c) & bit))
        c->irr &= ~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto_eoi)
        c->lowest = (uint8_t)ir;
    return (unsigned)ir;
}

int i8259_ack(Device *dev)
{
    Pic *p = (Pic *)dev;
    Chip *m = &p->chip[0], *s = &p->chip[1];
    bool any = pending_ir(m) >= 0;
    unsigned ir = acknowledge(m);
    int vector = m->vector_base + (int)ir;
    if (any && ir == 2)
        vector = s->vector_base + (int)acknowledge(s);
    /* INT falls at INTA, and rises again if there is more: an IOAPIC may be waiting for the edge.
     */
    p->intr_level = false;
    irq_set(&p->intr, false);
    update(p);
    return vector;
}

bool i8259_irq_pending(const Device *dev, int irq)
{
    const Chip *c = &((const Pic *)dev)->chip[irq >> 3 & 1];
    return c->irr & ~c->imr & 1u << (irq & 7);
}

static void eoi(Chip *c, unsigned ocw2)
{
    unsigned command = ocw2 >> 5, ir = ocw2 & 7;
    unsigned service;
    switch (command) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4:
        c->rotate_auto_eoi = command == 4;
        break;
    case 1: /* non-specific EOI, and with rotation */
    case 5:
        service = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
        if (service < 8) {
            ir = (c->lowest + 1 + service) & 7;
            c->isr &= ~(1u << ir);
            if (command == 5)
                c->lowest = (uint8_t)ir;
        }
        break;
    case 3: /* specific EOI, and with rotation */
    case 7:
        c->isr &= ~(1u << ir);
        if (command == 7)
            c->lowest = (uint8_t)ir;
        break;
    case 6: /* set priority */
        c->lowest = (uint8_t)ir;
        break;
    }
}

static void icw1(Chip *c, uint8_t v)
{
    c->imr = c->isr = 0;
    c->lowest = 7;
    c->special_mask = c->read_isr = c->auto_eoi = c->rotate_auto_eoi = c->special_nested = false;
    c->poll = false;
    /* Without ICW4 the chip would answer as in an 8085 system; a PC's never does. */
    if (!(v & 1) && log_on(LOG_GUEST_ERROR))
        log_line("i8259: ICW1 %#x without ICW4: taken for 8086 mode all the same", v);
    c->need_icw4 = v & 1;
    c->single = v & 2;
    c->level_all = v & 8;
    c->irr = level_mask(c) & c->line; /* the edge sense circuit is reset */
    c->init = 2;
}

static void write_command(Chip *c, uint8_t v)
{
    if (v & 0x10) {
        icw1(c, v);
    } else if (v & 0x08) { /* OCW3 */
        if (v & 4)
            c->poll = true;
        if (v & 2)
            c->read_isr = v & 1;
        if (v & 0x40)
            c->special_mask = v & 0x20;
    } else {
        eoi(c, v);
    }
}

static void write_data(Chip *c, uint8_t v)
{
    switch (c->init) {
    case 2:
        c->vector_base = v & 0xf8;
        c->init = c->single ? (c->need_icw4 ? 4 : 0) : 3;
        break;
    case 3:
        c->cascade = v;
        c->init = c->need_icw4 ? 4 : 0;
        break;
    case 4:
        c->auto_eoi = v & 2;
        c->special_nested = v & 0x10;
        c->init = 0;
        break;
    default:
        c->imr = v;
    }
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Chip *c = opaque;
    if (offset == 0)
        write_command(c, (uint8_t)value);
    else
        write_data(c, (uint8_t)value);
    update(c->pic);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Chip *c = opaque;
    if (c->poll) {
        c->poll = false;
        bool any = pending_ir(c) >= 0;
        unsigned ir = acknowledge(c);
        update(c->pic);
        return any ? 0x80 | ir : 0;
    }
    if (offset == 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .max = 1};

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
    return ((Pic *)opaque)->chip[offset & 1].elcr;
}

static void elcr_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pic *p = opaque;
    Chip *c = &p->chip[offset & 1];
    c->elcr = (uint8_t)value & c->elcr_mask;
    c->irr = (c->irr & ~c->elcr) | (c->line & c->elcr);
    update(p);
}

static const IoOps elcr_ops = {.read = elcr_read, .write = elcr_write, .max = 1};

static bool realize(Device *dev, GHashTable *props, GError **err)
{
    Pic *p = (Pic *)dev;
    IoSpace *pio = dev->board->pio;
    for (unsigned i = 0; i < 2; i++) {
        p->chip[i].pic = p;
        p->chip[i].master = i == 0;
        /* IRQ 0, 1, 2, 8 and 13 cannot be level-triggered (82371SB, 4.3). */
        p->chip[i].elcr_mask = i ? 0xde : 0xf8;
    }
    p->region[0] = io_map(pio, 0x20, 2, &port_ops, &p->chip[0], "i8259 master");
    p->region[1] = io_map(pio, 0xa0, 2, &port_ops, &p->chip[1], "i8259 slave");
    p->region[2] = io_map(pio, 0x4d0, 2, &elcr_ops, p, "elcr");
    return true;
}

static void unrealize(Device *dev)
{
    Pic *p = (Pic *)dev;
    for (unsigned i = 0; i < 3; i++)
        io_unmap(dev->board->pio, p->region[i]);
}

static void reset(Device *dev)
{
    Pic *p = (Pic *)dev;
    for (unsigned i = 0; i < 2; i++) {
        Chip *c = &p->chip[i];
        uint8_t line = c->line;
        *c = (Chip){
            .master = c->master, .elcr_mask = c->elcr_mask, .pic = p, .line = line, .lowest = 7};
    }
    update(p);
}

/* ---- state out and in ---- */

void i8259_save(const Device *dev, PicState out[2])
{
    const Pic *p = (const Pic *)dev;
    for (unsigned i = 0; i < 2; i++) {
        const Chip *c = &p->chip[i];
        out[i] = (PicState){
            .irr = c->irr,
            .imr = c->imr,
            .isr = c->isr,
            .line = c->line,
            .highest = (c->lowest + 1) & 7,
            .vector_base = c->vector_base,
            .icw_next = c->init ? c->init - 1 : 0,
            .elcr = c->elcr,
            .read_isr = c->read_isr,
            .poll = c->poll,
            .special_mask = c->special_mask,
            .auto_eoi = c->auto_eoi,
            .rotate_auto_eoi = c->rotate_auto_eoi,
            .special_nested = c->special_nested,
            .need_icw4 = c->need_icw4,
            .single = c->single,
            .level_all = c->level_all,
            .cascade = c->cascade,
        };
    }
}

void i8259_load(Device *dev, const PicState in[2])
{
    Pic *p = (Pic *)dev;
    for (unsigned i = 0; i < 2; i++) {
        const PicState *s = &in[i];
        Chip *c = &p->chip[i];
        c->imr = s->imr;
        c->isr = s->isr;
        c->lowest = (s->highest + 7) & 7;
        c->vector_base = s->vector_base;
        c->init = s->icw_next ? (uint8_t)(MIN_OF(s->icw_next, 3) + 1) : 0;
        c->elcr = s->elcr & c->elcr_mask;
        c->read_isr = s->read_isr;
        c->poll = s->poll;
        c->special_mask = s->special_mask;
        c->auto_eoi = s->auto_eoi;
        c->rotate_auto_eoi = s->rotate_auto_eoi;
        c->special_nested = s->special_nested;
        c->need_icw4 = s->need_icw4;
        c->single = s->single;
        c->level_all = s->level_all;
        c->cascade = s->cascade;
        c->irr = (s->irr & ~level_mask(c)) | (c->line & level_mask(c));
    }
}

void i8259_park(Device *dev, bool parked)
{
    Pic *p = (Pic *)dev;
    if (parked == p->parked)
        return;
    if (parked && p->intr_level) {
        p->intr_level = false;
        irq_set(&p->intr, false);
    }
    p->parked = parked;
    update(p);
}

bool i8259_intr(const Device *dev)
{
    return ((const Pic *)dev)->intr_level;
}

static void describe(Device *dev, GString *out)
{
    Pic *p = (Pic *)dev;
    for (unsigned i = 0; i < 2; i++) {
        const Chip *c = &p->chip[i];
        g_string_append_printf(out, "pic%u: irr=%02x imr=%02x isr=%02x elcr=%02x base=%02x\n", i,
                               c->irr, c->imr, c->isr, c->elcr, c->vector_base);
    }
}

const DeviceClass device_i8259 = {
    .name = "i8259",
    .help = "interrupt controllers",
    .size = sizeof(Pic),
    .realize = realize,
    .unrealize = unrealize,
    .reset = reset,
    .describe = describe,
};
