/* A monitor on a character device: the line editor between its bytes and the command table. */
#include "monitor/monitor.h"

#include <string.h>

#include "monitor/lineedit.h"
#include "monitor/monitor_priv.h"

#define PROMPT "(tandem) "

struct Monitor {
    MonState state;
    CharDev *chr;
    unsigned frontend;
    bool has_keyboard; /* on a mux: it is ours now */
    bool greeted;      /* this connection, or ever on a mux */
    LineEdit *edit;
};

static void write_out(void *opaque, const char *buf, size_t len)
{
    Monitor *mon = opaque;
    if (!chardev_wants_crlf(mon->chr)) {
        chardev_write_from(mon->chr, mon->frontend, buf, len);
        return;
    }
    g_autoptr(GString) s = g_string_sized_new(len + 16);
    for (size_t i = 0; i < len; i++) {
        if (buf[i] == '\n')
            g_string_append_c(s, '\r');
        g_string_append_c(s, buf[i]);
    }
    chardev_write_from(mon->chr, mon->frontend, s->str, s->len);
}

static bool execute(void *opaque, const char *line)
{
    Monitor *mon = opaque;
    g_autoptr(GString) out = g_string_new(NULL);
    monitor_execute(&mon->state, line, out);
    write_out(mon, out->str, out->len);
    return !mon->state.quit;
}

static void complete(void *opaque, const char *text, GPtrArray *words)
{
    monitor_complete(text, words);
}

static void show(Monitor *mon)
{
    if (!mon->greeted) {
        static const char hello[] =
            "Tandem " TANDEM_VERSION " monitor - type 'help' for more information\n";
        write_out(mon, hello, strlen(hello));
        mon->greeted = true;
    } else {
        write_out(mon, "\n", 1);
    }
    lineedit_show(mon->edit);
}

static unsigned can_read(void *opaque)
{
    return 4096;
}

static void read_in(void *opaque, const uint8_t *buf, unsigned len)
{
    Monitor *mon = opaque;
    lineedit_input(mon->edit, buf, len);
}

static void event(void *opaque, enum CharEvent e)
{
    Monitor *mon = opaque;
    bool mux = chardev_is_mux(mon->chr);
    switch (e) {
    case CHAR_OPENED:
        lineedit_reset(mon->edit);
        mon->greeted = false;
        if (!mux || mon->has_keyboard)
            show(mon);
        break;
    case CHAR_CLOSED:
        lineedit_reset(mon->edit);
        break;
    case CHAR_MUX_IN:
        mon->has_keyboard = true;
        show(mon);
        break;
    case CHAR_MUX_OUT:
        mon->has_keyboard = false;
        /* The guest's output goes on on a line of its own. */
        if (mon->greeted)
            write_out(mon, "\n", 1);
        break;
    case CHAR_BREAK:
        break;
    }
}

Monitor *monitor_new(Machine *m, CharDev *chr, unsigned frontend)
{
    Monitor *mon = g_new0(Monitor, 1);
    mon->state = (MonState){.m = m, .last = {'x', 4, 1}};
    mon->chr = chr;
    mon->frontend = frontend;
    LineEditOps ops = {.opaque = mon, .write = write_out, .execute = execute, .complete = complete};
    mon->edit = lineedit_new(&ops, PROMPT);
    CharHandlers h = {.opaque = mon, .can_read = can_read, .read = read_in, .event = event};
    chardev_attach(chr, &h);
    return mon;
}

void monitor_free(Monitor *mon)
{
    if (!mon)
        return;
    lineedit_free(mon->edit);
    g_free(mon);
}
