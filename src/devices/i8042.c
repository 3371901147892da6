/*
 * Commands are done at once, so the input buffer never shows full. What waits for the output buffer
 * stands in two queues: replies of the controller itself, which go first, and bytes from the
 * keyboard.
 */
#include "devices/i8042.h"

#include "base/log.h"

enum {
    ST_OBF = 1 << 0,
    ST_SYS = 1 << 2,
    ST_CMD = 1 << 3,
    ST_UNLOCKED = 1 << 4,
    ST_AUX_OBF = 1 << 5,
    ST_TIMEOUT = 1 << 6,

    MODE_KBD_INT = 1 << 0,
    MODE_AUX_INT = 1 << 1,
    MODE_SYS = 1 << 2,
    MODE_NO_KBD = 1 << 4,
    MODE_NO_AUX = 1 << 5,
    MODE_TRANSLATE = 1 << 6,

    OUT_RESET = 1 << 0, /* 0 holds the CPU in reset */
    OUT_A20 = 1 << 1,
    OUT_OBF = 1 << 4,
    OUT_AUX_OBF = 1 << 5,

    FROM_AUX = ST_AUX_OBF, /* flags of a queued byte: status bits to show with it */

    KBD_ACK = 0xfa,
    KBD_RESEND = 0xfe,
    KBD_BAT_OK = 0xaa,
};
#define QUEUE_SIZE 32

typedef struct Queue {
    uint16_t item[QUEUE_SIZE]; /* byte | flags << 8 */
    uint8_t head, count;
} Queue;

typedef struct I8042 {
    Device dev;
    IoRegion *data, *command;
    uint8_t status, mode, out_port, obuf;
    uint8_t pending; /* controller command that waits for its data byte, or 0 */
    uint8_t ram[32]; /* 0x21-0x3f; [0] is the mode byte's place and not used */
    Queue ctl, kbd;
    /* The keyboard. */
    uint8_t kbd_pending; /* its command that waits for its data byte, or 0 */
    uint8_t scan_set, last_sent;
    bool scanning, release_prefix;
} I8042;

static I8042 *i8042(Device *dev)
{
    return CONTAINER_OF(dev, I8042, dev);
}

static bool queue_put(Queue *q, uint8_t byte, unsigned flags)
{
    if (q->count == QUEUE_SIZE)
        return false;
    q->item[(q->head + q->count++) % QUEUE_SIZE] = (uint16_t)(byte | flags << 8);
    return true;
}

static uint16_t queue_get(Queue *q)
{
    uint16_t v = q->item[q->head];
    q->head = (q->head + 1) % QUEUE_SIZE;
    q->count--;
    return v;
}

static void update_irq(I8042 *s)
{
    bool aux = s->status & ST_AUX_OBF, full = s->status & ST_OBF;
    irq_set(&s->dev.board->isa_irq[1], full && !aux && s->mode & MODE_KBD_INT);
    irq_set(&s->dev.board->isa_irq[12], full && aux && s->mode & MODE_AUX_INT);
}

/* Scan code set 2 to set 1, as the controller's ROM does it for everything the keyboard sends. */
static uint8_t translate(I8042 *s, uint8_t code)
{
    static const uint8_t table[128] = {
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
        0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
        0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
        0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
        0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
        0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
        0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
        0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
        0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    };
    uint8_t out = code;
    if (code < 0x80)
        out = table[code];
    else if (code == 0x83) /* F7, and the second byte of the keyboard's identity */
        out = 0x41;
    else if (code == 0x84)
        out = 0x54;
    if (s->release_prefix) {
        s->release_prefix = false;
        out |= 0x80;
    }
    return out;
}

/* Fills the output buffer when it is empty and something waits. */
static void refill(I8042 *s)
{
    while (!(s->status & ST_OBF)) {
        uint16_t item;
        if (s->ctl.count) {
            item = queue_get(&s->ctl);
            s->obuf = (uint8_t)item;
        } else if (s->kbd.count && !(s->mode & MODE_NO_KBD)) {
            item = queue_get(&s->kbd);
            s->last_sent = (uint8_t)item;
            if (s->mode & MODE_TRANSLATE) {
                if ((uint8_t)item == 0xf0) { /* becomes bit 7 of the code that follows */
                    s->release_prefix = true;
                    continue;
                }
                s->obuf = translate(s, (uint8_t)item);
            } else {
                s->obuf = (uint8_t)item;
            }
            item = 0;
        } else {
            break;
        }
        s->status &= ~(ST_AUX_OBF | ST_TIMEOUT);
        s->status |= ST_OBF | ((item >> 8) & (ST_AUX_OBF | ST_TIMEOUT));
    }
    update_irq(s);
}

static void reply(I8042 *s, uint8_t byte, unsigned flags)
{
    queue_put(&s->ctl, byte, flags);
    refill(s);
}

static void keyboard_defaults(I8042 *s)
{
    s->scan_set = 2;
    s->kbd_pending = 0;
    s->scanning = true;
}

static void keyboard_argument(I8042 *s, uint8_t command, uint8_t value)
{
    queue_put(&s->kbd, KBD_ACK, 0);
    if (command == 0xf0) {
        if (value == 0)
            queue_put(&s->kbd, s->scan_set, 0);
        else if (value <= 3)
            s->scan_set = value;
    }
}

static void keyboard_command(I8042 *s, uint8_t value)
{
    if (s->kbd_pending && value < 0xed) { /* 0xed and up is a new command instead of the argument */
        uint8_t command = s->kbd_pending;
        s->kbd_pending = 0;
        keyboard_argument(s, command, value);
        return;
    }
    s->kbd_pending = 0;
    switch (value) {
    case 0xee: /* echo */
        queue_put(&s->kbd, 0xee, 0);
        return;
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
    case 0xfb: /* set 3: one key's type */
    case 0xfc:
    case 0xfd:
        s->kbd_pending = value;
        break;
    case 0xf2: /* identity: MF2 keyboard */
        queue_put(&s->kbd, KBD_ACK, 0);
        queue_put(&s->kbd, 0xab, 0);
        queue_put(&s->kbd, 0x83, 0);
        return;
    case 0xf4:
        s->kbd.count = 0;
        s->scanning = true;
        break;
    case 0xf5:
        s->kbd.count = 0;
        keyboard_defaults(s);
        s->scanning = false;
        break;
    case 0xf6:
        s->kbd.count = 0;
        keyboard_defaults(s);
        break;
    case 0xf7: /* set 3: all keys' type */
    case 0xf8:
    case 0xf9:
    case 0xfa:
        break;
    case 0xfe:
        queue_put(&s->kbd, s->last_sent, 0);
        return;
    case 0xff:
        s->kbd.count = 0;
        keyboard_defaults(s);
        queue_put(&s->kbd, KBD_ACK, 0);
        queue_put(&s->kbd, KBD_BAT_OK, 0);
        return;
    default:
        queue_put(&s->kbd, KBD_RESEND, 0);
        return;
    }
    queue_put(&s->kbd, KBD_ACK, 0);
}

static void set_a20(I8042 *s, bool on)
{
    s->out_port = (uint8_t)((s->out_port & ~OUT_A20) | (on ? OUT_A20 : 0));
    if (s->dev.board->set_a20)
        s->dev.board->set_a20(s->dev.board->opaque, on);
}

static void write_out_port(I8042 *s, uint8_t value)
{
    s->out_port = value & ~(OUT_OBF | OUT_AUX_OBF);
    set_a20(s, value & OUT_A20);
    if (!(value & OUT_RESET))
        s->dev.board->reset(s->dev.board->opaque);
}

static void write_mode(I8042 *s, uint8_t value)
{
    s->mode = value & 0x7f;
    s->status = (uint8_t)((s->status & ~ST_SYS) | (value & MODE_SYS ? ST_SYS : 0));
    refill(s);
}

static void write_command(void *opaque, uint64_t offset, unsigned size, uint64_t data)
{
    I8042 *s = opaque;
    uint8_t cmd = (uint8_t)data;

    s->status |= ST_CMD;
    s->pending = 0;
    if (cmd == 0x20) {
        reply(s, s->mode, 0);
    } else if (cmd > 0x20 && cmd < 0x40) {
        reply(s, s->ram[cmd & 0x1f], 0);
    } else if (cmd >= 0xf0) { /* pulses the output port bits that are 0 */
        if (!(cmd & OUT_RESET))
            s->dev.board->reset(s->dev.board->opaque);
    } else {
        switch (cmd) {
        case 0x60 ... 0x7f:
        case 0xd1 ... 0xd4:
            s->pending = cmd;
            break;
        case 0xa7:
            s->mode |= MODE_NO_AUX;
            break;
        case 0xa8:
            s->mode &= ~MODE_NO_AUX;
            break;
        case 0xa9: /* test of the mouse port's wires: good */
        case 0xab: /* and of the keyboard's */
            reply(s, 0x00, 0);
            break;
        case 0xaa:
            s->status |= ST_SYS;
            reply(s, 0x55, 0);
            break;
        case 0xad:
            s->mode |= MODE_NO_KBD;
            break;
        case 0xae:
            s->mode &= ~MODE_NO_KBD;
            refill(s);
            break;
        case 0xc0: /* input port: keyboard not locked */
            reply(s, 0x80, 0);
            break;
        case 0xd0: {
            uint8_t obf = 0;
            if (s->status & ST_OBF)
                obf = s->status & ST_AUX_OBF ? OUT_AUX_OBF : OUT_OBF;
            reply(s, s->out_port | obf, 0);
            break;
        }
        case 0xdd:
        case 0xdf:
            set_a20(s, cmd == 0xdf);
            break;
        default:
            if (log_on(LOG_GUEST_ERROR))
                log_line("i8042: unknown command %#x", cmd);
        }
    }
}

static uint64_t read_status(void *opaque, uint64_t offset, unsigned size)
{
    const I8042 *s = opaque;
    return s->status;
}

static void write_data(void *opaque, uint64_t offset, unsigned size, uint64_t data)
{
    I8042 *s = opaque;
    uint8_t value = (uint8_t)data, command = s->pending;

    s->status &= ~ST_CMD;
    s->pending = 0;
    switch (command) {
    case 0:
        s->mode &= ~MODE_NO_KBD; /* sending to the keyboard turns its clock on */
        keyboard_command(s, value);
        refill(s);
        break;
    case 0x60:
        write_mode(s, value);
        break;
    case 0xd1:
        write_out_port(s, value);
        break;
    case 0xd2:
        reply(s, value, 0);
        break;
    case 0xd3:
        reply(s, value, FROM_AUX);
        break;
    case 0xd4: /* nothing is plugged into the mouse port, so it does not answer in time */
        reply(s, KBD_RESEND, FROM_AUX | ST_TIMEOUT);
        break;
    default:
        s->ram[command & 0x1f] = value;
    }
}

static uint64_t read_data(void *opaque, uint64_t offset, unsigned size)
{
    I8042 *s = opaque;
    uint8_t value = s->obuf;
    s->status &= ~(ST_OBF | ST_AUX_OBF | ST_TIMEOUT);
    update_irq(s); /* lets the line fall before the next byte raises it */
    refill(s);
    return value;
}

static const IoOps data_ops = {.read = read_data, .write = write_data, .min = 1, .max = 1};
static const IoOps command_ops = {.read = read_status, .write = write_command, .min = 1, .max = 1};

unsigned i8042_key(Device *dev, const uint8_t *codes, unsigned n)
{
    I8042 *s = i8042(dev);
    unsigned taken = 0;
    if (!s->scanning)
        return 0;
    /* Room is left for the answers to commands. */
    while (taken < n && s->kbd.count < QUEUE_SIZE - 8)
        queue_put(&s->kbd, codes[taken++], 0);
    refill(s);
    return taken;
}

static void i8042_reset(Device *dev)
{
    I8042 *s = i8042(dev);
    s->status = ST_UNLOCKED;
    /* As firmware leaves it: a kernel may be started without. */
    s->mode = MODE_KBD_INT | MODE_AUX_INT | MODE_TRANSLATE;
    s->obuf = s->pending = s->last_sent = 0;
    s->ctl = s->kbd = (Queue){0};
    s->release_prefix = false;
    for (unsigned i = 0; i < sizeof(s->ram); i++)
        s->ram[i] = 0;
    keyboard_defaults(s);
    s->out_port = OUT_RESET;
    set_a20(s, true);
    update_irq(s);
}

static bool i8042_realize(Device *dev, GHashTable *props, GError **err)
{
    I8042 *s = i8042(dev);
    s->data = io_map(dev->board->pio, 0x60, 1, &data_ops, s, "i8042-data");
    s->command = io_map(dev->board->pio, 0x64, 1, &command_ops, s, "i8042-command");
    return true;
}

static void i8042_unrealize(Device *dev)
{
    I8042 *s = i8042(dev);
    io_unmap(dev->board->pio, s->data);
    io_unmap(dev->board->pio, s->command);
}

static void i8042_describe(Device *dev, GString *out)
{
    const I8042 *s = i8042(dev);
    g_string_append_printf(out, "status %02x mode %02x output port %02x, keyboard scanning %s\n",
                           s->status, s->mode, s->out_port, s->scanning ? "on" : "off");
}

const DeviceClass device_i8042 = {
    .name = "i8042",
    .help = "keyboard controller with a keyboard",
    .size = sizeof(I8042),
    .realize = i8042_realize,
    .reset = i8042_reset,
    .unrealize = i8042_unrealize,
    .describe = i8042_describe,
};
