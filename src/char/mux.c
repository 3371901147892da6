/*
 * The mux: one terminal, several front ends (the guest's serial port and the monitor). All may
 * write; one has the keyboard. Ctrl-A is the escape, with the letters people know from QEMU.
 */
#include <string.h>

#include "char/char_priv.h"

#define ESCAPE 1 /* Ctrl-A */

static void (*quit_fn)(void *opaque);
static void *quit_opaque;

void chardev_set_quit_hook(void (*fn)(void *opaque), void *opaque)
{
    quit_fn = fn;
    quit_opaque = opaque;
}

Mux *mux_new(void)
{
    return g_new0(Mux, 1);
}

void mux_free(Mux *m)
{
    for (unsigned i = 0; m && i < m->n; i++)
        g_byte_array_unref(m->front[i].in);
    g_free(m);
}

unsigned mux_room(const Mux *m)
{
    return MUX_IN_MAX - m->front[m->focus].in->len;
}

void mux_drain(CharDev *cd)
{
    Mux *m = cd->mux;
    for (unsigned i = 0; i < m->n; i++) {
        MuxFront *f = &m->front[i];
        while (f->in->len) {
            uint8_t buf[256];
            unsigned take = f->fe.can_read ? f->fe.can_read(f->fe.opaque) : sizeof(buf);
            take = MIN_OF(take, MIN_OF(f->in->len, sizeof(buf)));
            if (!take)
                break;
            memcpy(buf, f->in->data, take);
            g_byte_array_remove_range(f->in, 0, take);
            f->fe.read(f->fe.opaque, buf, take);
        }
    }
}

static void say(CharDev *cd, const char *text)
{
    chardev_write(cd, text, strlen(text));
}

static void event(const MuxFront *f, enum CharEvent e)
{
    if (f->fe.event)
        f->fe.event(f->fe.opaque, e);
}

static void next_front(Mux *m)
{
    if (m->n < 2)
        return;
    unsigned old = m->focus;
    m->focus = (old + 1) % m->n;
    event(&m->front[old], CHAR_MUX_OUT);
    event(&m->front[m->focus], CHAR_MUX_IN);
}

static void command(CharDev *cd, uint8_t c)
{
    Mux *m = cd->mux;
    switch (c) {
    case '?':
    case 'h':
        say(cd, "\r\n"
                "C-a h    print this help\r\n"
                "C-a x    exit\r\n"
                "C-a b    send break (magic sysrq)\r\n"
                "C-a c    switch between console and monitor\r\n"
                "C-a t    toggle console timestamps\r\n"
                "C-a s    save disk data (there are no disks)\r\n"
                "C-a C-a  send C-a\r\n");
        break;
    case 'x':
        say(cd, "tandem: Terminated\r\n");
        if (quit_fn)
            quit_fn(quit_opaque);
        break;
    case 'b':
        event(&m->front[m->focus], CHAR_BREAK);
        break;
    case 'c':
        next_front(m);
        break;
    case 't':
        pthread_mutex_lock(&cd->lock);
        m->timestamps = !m->timestamps;
        m->at_line_start = false;
        m->stamp_base_us = (uint64_t)g_get_monotonic_time();
        pthread_mutex_unlock(&cd->lock);
        break;
    case 's':
        say(cd, "tandem: there are no disks to save\r\n");
        break;
    default:
        break;
    }
}

static void type(Mux *m, uint8_t c)
{
    GByteArray *in = m->front[m->focus].in;
    /* Room was asked for before reading, but a change of focus in between may land on a queue that
     * is fuller. */
    if (in->len < MUX_IN_MAX)
        g_byte_array_append(in, &c, 1);
}

void mux_input(CharDev *cd, const uint8_t *buf, unsigned len)
{
    Mux *m = cd->mux;
    for (unsigned i = 0; i < len; i++) {
        if (!m->escaped && buf[i] == ESCAPE) {
            m->escaped = true;
            continue;
        }
        if (m->escaped && buf[i] != ESCAPE) {
            /* What was typed before must arrive before what the escape does. */
            mux_drain(cd);
            command(cd, buf[i]);
        } else {
            type(m, buf[i]);
        }
        m->escaped = false;
    }
    mux_drain(cd);
}

GString *mux_stamp(Mux *m, const uint8_t *buf, size_t len)
{
    if (!m->timestamps)
        return NULL;
    GString *s = g_string_sized_new(len + 32);
    uint64_t ms = ((uint64_t)g_get_monotonic_time() - m->stamp_base_us) / 1000;
    for (size_t i = 0; i < len; i++) {
        if (m->at_line_start) {
            g_string_append_printf(s, "[%02u:%02u:%02u.%03u] ", (unsigned)(ms / 3600000),
                                   (unsigned)(ms / 60000 % 60), (unsigned)(ms / 1000 % 60),
                                   (unsigned)(ms % 1000));
            m->at_line_start = false;
        }
        g_string_append_c(s, (char)buf[i]);
        if (buf[i] == '\n')
            m->at_line_start = true;
    }
    return s;
}
