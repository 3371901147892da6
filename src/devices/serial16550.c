/*
 * The transmitter has no shift time: a byte written to THR is on the wire at once, so THRE and TEMT
 * are always set, and the THRE interrupt follows each write. The receiver has its FIFO, trigger
 * levels and character timeout as in the datasheet. On a PC, OUT2 gates the interrupt onto the bus.
 */
#include "devices/serial16550.h"

#include "base/log.h"
#include "devices/props.h"

#define FIFO_SIZE 16

enum {
    IER_RDA = 1 << 0,
    IER_THRE = 1 << 1,
    IER_RLS = 1 << 2,
    IER_MSR = 1 << 3,

    IIR_MSR = 0x0,
    IIR_NONE = 0x1,
    IIR_THRE = 0x2,
    IIR_RDA = 0x4,
    IIR_RLS = 0x6,
    IIR_TIMEOUT = 0xc,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 1 << 0,
    FCR_CLEAR_RX = 1 << 1,
    FCR_TRIGGER = 3 << 6,

    LCR_STOP2 = 1 << 2,
    LCR_PARITY = 1 << 3,
    LCR_BREAK = 1 << 6,
    LCR_DLAB = 1 << 7,

    MCR_DTR = 1 << 0,
    MCR_RTS = 1 << 1,
    MCR_OUT1 = 1 << 2,
    MCR_OUT2 = 1 << 3,
    MCR_LOOP = 1 << 4,

    LSR_DR = 1 << 0,
    LSR_OE = 1 << 1,
    LSR_PE = 1 << 2,
    LSR_FE = 1 << 3,
    LSR_BI = 1 << 4,
    LSR_THRE = 1 << 5,
    LSR_TEMT = 1 << 6,
    LSR_FIFO_ERROR = 1 << 7,
    LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI,

    MSR_DCTS = 1 << 0,
    MSR_DDSR = 1 << 1,
    MSR_TERI = 1 << 2,
    MSR_DDCD = 1 << 3,
    MSR_CTS = 1 << 4,
    MSR_DSR = 1 << 5,
    MSR_RI = 1 << 6,
    MSR_DCD = 1 << 7,
    MSR_DELTAS = 0x0f,
};

typedef struct Serial {
    Device dev;
    IoRegion *region;
    uint16_t iobase;
    uint8_t irq;
    void (*write)(void *opaque, const void *buf, size_t len);
    void (*accept_input)(void *opaque);
    void *opaque;

    uint8_t ier, fcr, lcr, mcr, msr, scr, errors; /* errors: LSR bits that reading LSR clears */
    uint16_t divisor;
    uint8_t fifo[FIFO_SIZE], fifo_error[FIFO_SIZE];
    uint8_t head, count;
    bool thre_pending, timeout_pending, level;
    Timer *timeout;
} Serial;

/* COM1 and COM3 share a line, as do COM2 and COM4: it is high while any of them drives it. */
static GSList *all_ports;

static Serial *serial(Device *dev)
{
    return CONTAINER_OF(dev, Serial, dev);
}

static unsigned trigger_level(const Serial *s)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

static uint8_t interrupt_id(const Serial *s)
{
    if (s->ier & IER_RLS && s->errors)
        return IIR_RLS;
    if (s->ier & IER_RDA && s->count >= trigger_level(s))
        return IIR_RDA;
    if (s->ier & IER_RDA && s->timeout_pending)
        return IIR_TIMEOUT;
    if (s->ier & IER_THRE && s->thre_pending)
        return IIR_THRE;
    if (s->ier & IER_MSR && s->msr & MSR_DELTAS)
        return IIR_MSR;
    return IIR_NONE;
}

static void update_irq(Serial *s)
{
    /* In loopback the OUT2 pin is forced inactive. */
    bool level = interrupt_id(s) != IIR_NONE && (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    if (level == s->level)
        return;
    s->level = level;
    for (GSList *l = all_ports; l; l = l->next) {
        const Serial *o = l->data;
        if (o != s && o->dev.board == s->dev.board && o->irq == s->irq && o->level)
            return; /* another port holds the line high */
    }
    irq_set(&s->dev.board->isa_irq[s->irq], level);
}

static uint64_t character_ns(const Serial *s)
{
    unsigned half_bits = 2 * (1 + 5 + (s->lcr & 3) + !!(s->lcr & LCR_PARITY) + 1);
    if (s->lcr & LCR_STOP2)
        half_bits += s->lcr & 3 ? 2 : 1;
    return half_bits * (uint64_t)MAX_OF(s->divisor, 1) * NS_PER_S / (2 * 115200);
}

/* Four character times without a byte in or out of a FIFO that is not empty. */
static void restart_timeout(Serial *s)
{
    s->timeout_pending = false;
    if (s->fcr & FCR_ENABLE && s->count)
        timer_mod(s->timeout, clock_ns(s->dev.board->clock) + 4 * character_ns(s));
    else
        timer_del(s->timeout);
}

static void timeout_expired(void *opaque)
{
    Serial *s = opaque;
    s->timeout_pending = s->count > 0;
    update_irq(s);
}

/* An error bit shows in LSR when its character reaches the top of the FIFO. */
static void reveal_error(Serial *s)
{
    if (s->count) {
        s->errors |= s->fifo_error[s->head];
        s->fifo_error[s->head] = 0;
    }
}

static void clear_receiver(Serial *s)
{
    s->count = s->head = 0;
    for (unsigned i = 0; i < FIFO_SIZE; i++)
        s->fifo_error[i] = 0;
    restart_timeout(s);
}

static void push(Serial *s, uint8_t byte, uint8_t error)
{
    unsigned room = s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    if (s->count == room) {
        s->errors |= LSR_OE;
        if (s->fcr & FCR_ENABLE)
            return; /* the FIFO keeps what it has */
        s->count = 0;
    }
    unsigned at = (s->head + s->count) % FIFO_SIZE;
    s->fifo[at] = byte;
    s->fifo_error[at] = error;
    if (s->count++ == 0)
        reveal_error(s);
    restart_timeout(s);
}

static void accept_more(Serial *s)
{
    if (s->accept_input && !(s->mcr & MCR_LOOP))
        s->accept_input(s->opaque);
}

static uint8_t pop(Serial *s)
{
    if (!s->count)
        return s->fifo[s->head]; /* the last byte stays readable */
    uint8_t byte = s->fifo[s->head];
    if (s->count > 1)
        s->head = (s->head + 1) % FIFO_SIZE;
    s->count--;
    reveal_error(s);
    restart_timeout(s);
    return byte;
}

static void transmit(Serial *s, uint8_t byte)
{
    if (s->mcr & MCR_LOOP)
        push(s, byte, 0);
    else if (s->write)
        s->write(s->opaque, &byte, 1);
    s->thre_pending = true;
}

/* The modem that is always there and ready; in loopback the outputs come back as inputs. */
static void update_modem(Serial *s)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;
    if (s->mcr & MCR_LOOP)
        lines = (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_RTS ? MSR_CTS : 0) |
                (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
    uint8_t changed = (lines ^ s->msr) & 0xf0, deltas = s->msr & MSR_DELTAS;
    if (changed & MSR_CTS)
        deltas |= MSR_DCTS;
    if (changed & MSR_DSR)
        deltas |= MSR_DDSR;
    if (changed & MSR_RI && !(lines & MSR_RI))
        deltas |= MSR_TERI;
    if (changed & MSR_DCD)
        deltas |= MSR_DDCD;
    s->msr = lines | deltas;
}

static uint8_t line_status(const Serial *s)
{
    uint8_t lsr = LSR_THRE | LSR_TEMT | s->errors | (s->count ? LSR_DR : 0);
    if (s->fcr & FCR_ENABLE) {
        uint8_t any = s->errors & (LSR_PE | LSR_FE | LSR_BI);
        for (unsigned i = 0; i < s->count; i++)
            any |= s->fifo_error[(s->head + i) % FIFO_SIZE];
        lsr |= any ? LSR_FIFO_ERROR : 0;
    }
    return lsr;
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned size)
{
    Serial *s = opaque;
    uint8_t value = 0;
    switch (offset) {
    case 0:
        if (s->lcr & LCR_DLAB)
            return s->divisor & 0xff;
        value = pop(s);
        update_irq(s);
        accept_more(s);
        return value;
    case 1:
        return s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
    case 2:
        value = interrupt_id(s);
        if (value == IIR_THRE) {
            s->thre_pending = false;
            update_irq(s);
        }
        return value | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case 3:
        return s->lcr;
    case 4:
        return s->mcr;
    case 5:
        value = line_status(s);
        s->errors = 0;
        update_irq(s);
        return value;
    case 6:
        value = s->msr;
        s->msr &= ~MSR_DELTAS;
        update_irq(s);
        return value;
    default:
        return s->scr;
    }
}

static void write_fcr(Serial *s, uint8_t value)
{
    /* Turning the FIFOs on or off empties them; the other bits count only while bit 0 is set. */
    bool clear = (s->fcr ^ value) & FCR_ENABLE || (value & FCR_ENABLE && value & FCR_CLEAR_RX);
    s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
    if (clear)
        clear_receiver(s);
}

static void write_lcr(Serial *s, uint8_t value)
{
    if (value & ~s->lcr & LCR_BREAK && s->mcr & MCR_LOOP)
        push(s, 0, LSR_BI);
    s->lcr = value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned size, uint64_t data)
{
    Serial *s = opaque;
    uint8_t value = (uint8_t)data;
    switch (offset) {
    case 0:
        if (s->lcr & LCR_DLAB)
            s->divisor = (s->divisor & 0xff00) | value;
        else
            transmit(s, value);
        break;
    case 1:
        if (s->lcr & LCR_DLAB) {
            s->divisor = (uint16_t)((s->divisor & 0xff) | value << 8);
            break;
        }
        /* Enabling the THRE interrupt while THR is empty raises it: drivers start output so. */
        if (value & ~s->ier & IER_THRE)
            s->thre_pending = true;
        s->ier = value & 0x0f;
        break;
    case 2:
        write_fcr(s, value);
        break;
    case 3:
        write_lcr(s, value);
        break;
    case 4:
        s->mcr = value & 0x1f;
        update_modem(s);
        break;
    case 7:
        s->scr = value;
        break;
    default: /* LSR and MSR: factory test only */
        return;
    }
    update_irq(s);
    if (offset == 2 || offset == 4)
        accept_more(s);
}

static const IoOps serial_ops = {.read = serial_read, .write = serial_write, .min = 1, .max = 1};

void serial_connect(Device *dev, void (*write)(void *opaque, const void *buf, size_t len),
                    void (*accept_input)(void *opaque), void *opaque)
{
    Serial *s = serial(dev);
    s->write = write;
    s->accept_input = accept_input;
    s->opaque = opaque;
}

unsigned serial_can_receive(Device *dev)
{
    const Serial *s = serial(dev);
    if (s->mcr & MCR_LOOP)
        return 0; /* the input pin is cut off */
    return (s->fcr & FCR_ENABLE ? FIFO_SIZE : 1) - s->count;
}

void serial_receive(Device *dev, const uint8_t *buf, unsigned len)
{
    Serial *s = serial(dev);
    if (s->mcr & MCR_LOOP)
        return;
    for (unsigned i = 0; i < len; i++)
        push(s, buf[i], 0);
    update_irq(s);
}

void serial_break(Device *dev)
{
    Serial *s = serial(dev);
    if (s->mcr & MCR_LOOP)
        return;
    push(s, 0, LSR_BI);
    update_irq(s);
}

static void serial_reset(Device *dev)
{
    Serial *s = serial(dev);
    s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->errors = 0;
    s->divisor = 12; /* 9600 baud; the datasheet leaves it undefined */
    s->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    s->thre_pending = false;
    clear_receiver(s);
    update_irq(s);
    accept_more(s);
}

static bool serial_realize(Device *dev, GHashTable *props, GError **err)
{
    static const uint16_t port[] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
    static const uint8_t irq[] = {4, 3, 4, 3};
    Serial *s = serial(dev);
    uint64_t index = 0;
    if (!prop_take_number(dev, props, "index", ARRAY_LEN(port) - 1, &index, err))
        return false;
    s->iobase = port[index];
    s->irq = irq[index];
    s->timeout = timer_new(dev->board->clock, timeout_expired, s);
    s->region = io_map(dev->board->pio, s->iobase, 8, &serial_ops, s, "serial");
    all_ports = g_slist_prepend(all_ports, s);
    return true;
}

static void serial_unrealize(Device *dev)
{
    Serial *s = serial(dev);
    all_ports = g_slist_remove(all_ports, s);
    io_unmap(dev->board->pio, s->region);
    timer_free(s->timeout);
}

static void serial_describe(Device *dev, GString *out)
{
    const Serial *s = serial(dev);
    g_string_append_printf(out,
                           "port %#x irq %u ier %02x fcr %02x lcr %02x mcr %02x msr %02x divisor "
                           "%u, %u bytes received\n",
                           s->iobase, s->irq, s->ier, s->fcr, s->lcr, s->mcr, s->msr, s->divisor,
                           s->count);
}

const DeviceClass device_serial16550 = {
    .name = "isa-serial",
    .help = "16550A serial port (made by -serial)",
    .size = sizeof(Serial),
    .realize = serial_realize,
    .reset = serial_reset,
    .unrealize = serial_unrealize,
    .describe = serial_describe,
};

Device *serial_new(Board *board, unsigned index, GError **err)
{
    g_autoptr(GHashTable) props = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_hash_table_insert(props, g_strdup("index"), g_strdup_printf("%u", index));
    return device_new(&device_serial16550, board, props, err);
}
