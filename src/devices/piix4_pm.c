#include "devices/piix4_pm.h"

#include "base/log.h"
#include "devices/pci.h"

#define PMBA       0x40 /* base address, bits 15:6; bit 0 reads 1: ports */
#define DEVACTB    0x58
#define PMREGMISC  0x80      /* bit 0: the base is decoded */
#define APMC_EN    0x02      /* in the top byte of DEVACTB: writes to the APM port raise SMI */
#define APM_PORT   0xb2      /* control, and status behind it */
#define TIMER_MASK 0xffffffu /* 24 bits */
#define TIMER_HALF 0x800000u /* TMR_STS follows each change of the top bit */

enum {
    STS_TMR = 1 << 0,
    STS_GBL = 1 << 5,
    STS_PWRBTN = 1 << 8,
    STS_RTC = 1 << 10,
    STS_WAK = 1 << 15,
    STS_ALL = STS_TMR | 1 << 4 | STS_GBL | STS_PWRBTN | STS_RTC | STS_WAK,
    EN_ALL = STS_TMR | STS_GBL | STS_PWRBTN | STS_RTC,
    CNT_SCI_EN = 1 << 0,
    CNT_RW = 1 << 1 | 7 << 10, /* bus master reload, SLP_TYP */
    CNT_SLP_EN = 1 << 13,
};

typedef struct Pm {
    Device dev;
    PciFunction pci;
    IoRegion *region, *apm;
    uint16_t base; /* where region is; valid when it is not NULL */
    uint16_t status, enable, control, gpe_status, gpe_enable;
    uint8_t apm_reg[2];
    uint64_t half; /* which half period of the timer was last seen */
    Timer *timer;
} Pm;

static Pm *pm_of(Device *dev)
{
    return CONTAINER_OF(dev, Pm, dev);
}

static uint64_t ticks(const Pm *s)
{
    uint64_t ns = clock_ns(s->dev.board->clock);
    /* Seconds apart, so that nothing overflows. */
    return ns / NS_PER_S * PM_TIMER_HZ + ns % NS_PER_S * PM_TIMER_HZ / NS_PER_S;
}

/* First ns at which ticks() is at least `tick`. */
static uint64_t ns_at(uint64_t tick)
{
    uint64_t rest = tick % PM_TIMER_HZ * NS_PER_S;
    return tick / PM_TIMER_HZ * NS_PER_S + (rest + PM_TIMER_HZ - 1) / PM_TIMER_HZ;
}

/* Brings the timer's status bit up to now, drives SCI, and arms the next overflow if it would
 * interrupt. */
static void update(Pm *s)
{
    uint64_t half = ticks(s) / TIMER_HALF;
    if (half != s->half) {
        s->half = half;
        s->status |= STS_TMR;
    }
    bool sci = (s->status & s->enable & EN_ALL) || (s->gpe_status & s->gpe_enable);
    irq_set(&s->dev.board->isa_irq[PM_SCI_IRQ], sci);
    if (s->enable & STS_TMR && !(s->status & STS_TMR))
        timer_mod(s->timer, ns_at((half + 1) * TIMER_HALF));
    else
        timer_del(s->timer);
}

static void timer_expired(void *opaque)
{
    update(opaque);
}

static uint8_t read_byte(const Pm *s, unsigned offset, uint32_t now)
{
    switch (offset) {
    case PM_OFF_STS ... PM_OFF_STS + 1:
        return (uint8_t)(s->status >> 8 * (offset & 1));
    case PM_OFF_STS + 2 ... PM_OFF_STS + 3:
        return (uint8_t)(s->enable >> 8 * (offset & 1));
    case PM_OFF_CNT ... PM_OFF_CNT + 1:
        return (uint8_t)(s->control >> 8 * (offset & 1));
    case PM_OFF_TMR ... PM_OFF_TMR + 3:
        return (uint8_t)(now >> 8 * (offset & 3));
    case PM_OFF_GPE0 ... PM_OFF_GPE0 + 1:
        return (uint8_t)(s->gpe_status >> 8 * (offset & 1));
    case PM_OFF_GPE0 + 2 ... PM_OFF_GPE0 + 3:
        return (uint8_t)(s->gpe_enable >> 8 * (offset & 1));
    default:
        return 0;
    }
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    Pm *s = opaque;
    update(s);
    uint32_t now = (uint32_t)ticks(s) & TIMER_MASK;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(s, (unsigned)offset + i, now) << 8 * i;
    return value;
}

static void sleep_request(Pm *s)
{
    unsigned type = (unsigned)bits(s->control, 12, 10);
    if (type == PM_SLP_TYP_S5)
        s->dev.board->poweroff(s->dev.board->opaque);
    else if (log_on(LOG_GUEST_ERROR))
        log_line("piix4-pm: sleep type %u is none that the DSDT offers", type);
}

static void write_byte(Pm *s, unsigned offset, uint8_t value)
{
    unsigned shift = 8 * (offset & 1);
    uint16_t v = (uint16_t)(value << shift), byte = (uint16_t)(0xff << shift);
    switch (offset) {
    case PM_OFF_STS ... PM_OFF_STS + 1:
        s->status &= ~(v & STS_ALL);
        break;
    case PM_OFF_STS + 2 ... PM_OFF_STS + 3:
        s->enable = (uint16_t)((s->enable & ~byte) | (v & EN_ALL));
        break;
    case PM_OFF_CNT ... PM_OFF_CNT + 1:
        s->control = (uint16_t)((s->control & ~(byte & CNT_RW)) | (v & CNT_RW));
        if (v & CNT_SLP_EN)
            sleep_request(s);
        break;
    case PM_OFF_GPE0 ... PM_OFF_GPE0 + 1:
        s->gpe_status &= ~v;
        break;
    case PM_OFF_GPE0 + 2 ... PM_OFF_GPE0 + 3:
        s->gpe_enable = (uint16_t)((s->gpe_enable & ~byte) | v);
        break;
    default:
        if (log_on(LOG_GUEST_ERROR))
            log_line("piix4-pm: write of %#x to register %#x", value, offset);
    }
}

static void pm_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pm *s = opaque;
    update(s); /* a status bit due before the write is cleared by it, not after */
    for (unsigned i = 0; i < size; i++)
        write_byte(s, (unsigned)offset + i, (uint8_t)(value >> 8 * i));
    update(s);
}

/* The APM ports just hold what is written: there is no SMM handler to tell. */
static uint64_t apm_read(void *opaque, uint64_t offset, unsigned size)
{
    const Pm *s = opaque;
    return s->apm_reg[offset & 1];
}

static void apm_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Pm *s = opaque;
    s->apm_reg[offset & 1] = (uint8_t)value;
}

static const IoOps pm_ops = {.read = pm_read, .write = pm_write, .min = 1, .max = 4};
static const IoOps apm_ops = {.read = apm_read, .write = apm_write, .min = 1, .max = 1};

static void place(Pm *s)
{
    Board *b = s->dev.board;
    uint16_t base = pci_get16(&s->pci, PMBA) & 0xffc0;
    bool on = s->pci.config[PMREGMISC] & 1 && base;
    if (s->region && (!on || base != s->base)) {
        io_unmap(b->pio, s->region);
        s->region = NULL;
    }
    if (on && !s->region) {
        s->region = io_map(b->pio, base, PIIX4_PM_LEN, &pm_ops, s, "piix4-pm");
        s->base = base;
    }
}

static void config_written(PciFunction *f, unsigned offset, unsigned size)
{
    place(CONTAINER_OF(f, Pm, pci));
}

void piix4_pm_power_button(Device *dev)
{
    Pm *s = pm_of(dev);
    s->status |= STS_PWRBTN;
    update(s);
}

static void pm_reset(Device *dev)
{
    Pm *s = pm_of(dev);
    pci_function_reset(&s->pci);
    pci_set16(&s->pci, PCI_STATUS, 0x0280);
    pci_set16(&s->pci, PMBA, PIIX4_PM_BASE | 1);
    s->pci.config[PMREGMISC] = 1;
    s->pci.config[PCI_INT_LINE] = PM_SCI_IRQ;
    /* Firmware takes this for "SMM is set up already" and does not try to enter it. */
    s->pci.config[DEVACTB + 3] = APMC_EN;
    s->status = s->enable = s->gpe_status = s->gpe_enable = 0;
    s->control = CNT_SCI_EN;
    s->apm_reg[0] = s->apm_reg[1] = 0;
    s->half = ticks(s) / TIMER_HALF;
    place(s);
    update(s);
}

static bool pm_realize(Device *dev, GHashTable *props, GError **err)
{
    Pm *s = pm_of(dev);
    Board *b = dev->board;
    if (!b->pci) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s needs a PCI bus", dev->cls->name);
        return false;
    }
    /* Revision 3 is the one whose PM timer needs no workaround. */
    pci_function_init(&s->pci, "PIIX4 PM", 0x8086, 0x7113, 0x068000, 3, 1);
    s->pci.wmask[PMBA] = 0xc0;
    s->pci.wmask[PMBA + 1] = 0xff;
    s->pci.wmask[PMREGMISC] = 1;
    s->pci.wmask[DEVACTB + 3] = APMC_EN;
    s->pci.config_written = config_written;
    if (!pci_add(b->pci, &s->pci, PCI_DEVFN(1, 3), err))
        return false;
    s->timer = timer_new(b->clock, timer_expired, s);
    s->apm = io_map(b->pio, APM_PORT, 2, &apm_ops, s, "apm");
    return true;
}

static void pm_unrealize(Device *dev)
{
    Pm *s = pm_of(dev);
    pci_remove(&s->pci);
    if (s->region)
        io_unmap(dev->board->pio, s->region);
    if (s->apm)
        io_unmap(dev->board->pio, s->apm);
    timer_free(s->timer);
}

static void pm_describe(Device *dev, GString *out)
{
    const Pm *s = pm_of(dev);
    g_string_append_printf(
        out, "PM1 status %04x enable %04x control %04x, GPE0 %04x/%04x, timer %06x\n", s->status,
        s->enable, s->control, s->gpe_status, s->gpe_enable, (unsigned)(ticks(s) & TIMER_MASK));
}

const DeviceClass device_piix4_pm = {
    .name = "PIIX4_PM",
    .help = "ACPI power management",
    .size = sizeof(Pm),
    .realize = pm_realize,
    .reset = pm_reset,
    .unrealize = pm_unrealize,
    .describe = pm_describe,
};
