#include "monitor/lineedit.h"

#include <string.h>

#define HISTORY_MAX 64
#define CTRL(c)     ((c)-0x40)

struct LineEdit {
    LineEditOps ops;
    char *prompt;
    GString *line;
    size_t cursor;
    GPtrArray *history; /* oldest first */
    guint at;           /* history->len: the line being typed, which is in `kept` meanwhile */
    char *kept;
    enum { PLAIN, ESC, CSI } state;
    unsigned csi_arg;
    bool after_cr;
};

static void emit(LineEdit *e, const char *s)
{
    e->ops.write(e->ops.opaque, s, strlen(s));
}

LineEdit *lineedit_new(const LineEditOps *ops, const char *prompt)
{
    LineEdit *e = g_new0(LineEdit, 1);
    e->ops = *ops;
    e->prompt = g_strdup(prompt);
    e->line = g_string_new(NULL);
    e->history = g_ptr_array_new_with_free_func(g_free);
    return e;
}

void lineedit_free(LineEdit *e)
{
    if (!e)
        return;
    g_free(e->prompt);
    g_free(e->kept);
    g_string_free(e->line, TRUE);
    g_ptr_array_unref(e->history);
    g_free(e);
}

static void redraw(LineEdit *e)
{
    g_autoptr(GString) s = g_string_new("\r");
    g_string_append_printf(s, "%s%s\x1b[K", e->prompt, e->line->str);
    if (e->cursor < e->line->len)
        g_string_append_printf(s, "\x1b[%zuD", e->line->len - e->cursor);
    emit(e, s->str);
}

void lineedit_show(LineEdit *e)
{
    emit(e, e->prompt);
    if (e->line->len)
        redraw(e);
}

void lineedit_reset(LineEdit *e)
{
    g_string_truncate(e->line, 0);
    e->cursor = 0;
    e->state = PLAIN;
    e->at = e->history->len;
    g_clear_pointer(&e->kept, g_free);
}

static void insert(LineEdit *e, const char *s, size_t len)
{
    if (e->line->len + len > LINE_MAX_BYTES)
        return;
    bool at_end = e->cursor == e->line->len;
    g_string_insert_len(e->line, (gssize)e->cursor, s, (gssize)len);
    e->cursor += len;
    if (at_end)
        e->ops.write(e->ops.opaque, s, len);
    else
        redraw(e);
}

static void erase(LineEdit *e, size_t from, size_t to)
{
    if (from >= to)
        return;
    bool last_one = to == e->line->len && e->cursor == to && to - from == 1;
    g_string_erase(e->line, (gssize)from, (gssize)(to - from));
    e->cursor = from;
    if (last_one)
        emit(e, "\b \b");
    else
        redraw(e);
}

static void move_to(LineEdit *e, size_t cursor)
{
    e->cursor = cursor;
    redraw(e);
}

static size_t word_start(const LineEdit *e)
{
    size_t i = e->cursor;
    while (i && e->line->str[i - 1] == ' ')
        i--;
    while (i && e->line->str[i - 1] != ' ')
        i--;
    return i;
}

static void recall(LineEdit *e, int step)
{
    guint n = e->history->len;
    if ((step < 0 && !e->at) || (step > 0 && e->at >= n))
        return;
    if (e->at == n) {
        g_free(e->kept);
        e->kept = g_strdup(e->line->str);
    }
    e->at = (guint)((int)e->at + step);
    g_string_assign(e->line, e->at == n ? e->kept : g_ptr_array_index(e->history, e->at));
    move_to(e, e->line->len);
}

static void enter(LineEdit *e)
{
    g_autofree char *line = g_strdup(e->line->str);
    guint n = e->history->len;
    emit(e, "\n");
    if (*line && (!n || strcmp(line, g_ptr_array_index(e->history, n - 1)) != 0)) {
        g_ptr_array_add(e->history, g_strdup(line));
        if (n == HISTORY_MAX)
            g_ptr_array_remove_index(e->history, 0);
    }
    lineedit_reset(e);
    if (e->ops.execute(e->ops.opaque, line))
        lineedit_show(e);
}

static size_t common_prefix(const GPtrArray *words)
{
    const char *first = g_ptr_array_index(words, 0);
    size_t len = strlen(first);
    for (guint i = 1; i < words->len; i++) {
        const char *w = g_ptr_array_index(words, i);
        size_t j = 0;
        while (j < len && w[j] == first[j])
            j++;
        len = j;
    }
    return len;
}

static void complete(LineEdit *e)
{
    if (!e->ops.complete)
        return;
    g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *text = g_strndup(e->line->str, e->cursor);
    const char *space = strrchr(text, ' ');
    size_t typed = strlen(space ? space + 1 : text);
    e->ops.complete(e->ops.opaque, text, words);
    if (!words->len)
        return;
    const char *first = g_ptr_array_index(words, 0);
    size_t common = common_prefix(words);
    if (common > typed)
        insert(e, first + typed, common - typed);
    if (words->len == 1) {
        insert(e, " ", 1);
    } else if (common <= typed) {
        emit(e, "\n");
        for (guint i = 0; i < words->len; i++) {
            emit(e, g_ptr_array_index(words, i));
            emit(e, i + 1 < words->len ? "  " : "\n");
        }
        redraw(e);
    }
}

static void csi(LineEdit *e, uint8_t c)
{
    size_t len = e->line->len;
    if (c >= '0' && c <= '9') {
        e->csi_arg = MIN_OF(e->csi_arg * 10 + (c - '0'), 999u);
        return;
    }
    if (c == ';')
        return;
    e->state = PLAIN;
    if (c == '~')
        c = e->csi_arg == 1 || e->csi_arg == 7   ? 'H'
            : e->csi_arg == 4 || e->csi_arg == 8 ? 'F'
            : e->csi_arg == 3                    ? 'd'
                                                 : 0;
    switch (c) {
    case 'A':
        recall(e, -1);
        break;
    case 'B':
        recall(e, 1);
        break;
    case 'C':
        if (e->cursor < len)
            move_to(e, e->cursor + 1);
        break;
    case 'D':
        if (e->cursor)
            move_to(e, e->cursor - 1);
        break;
    case 'H':
        move_to(e, 0);
        break;
    case 'F':
        move_to(e, len);
        break;
    case 'd':
        if (e->cursor < len)
            erase(e, e->cursor, e->cursor + 1);
        break;
    default:
        break;
    }
}

static void control(LineEdit *e, uint8_t c)
{
    size_t len = e->line->len;
    switch (c) {
    case '\r':
    case '\n':
        enter(e);
        break;
    case '\t':
        complete(e);
        break;
    case 0x1b:
        e->state = ESC;
        break;
    case '\b':
    case 0x7f:
        if (e->cursor)
            erase(e, e->cursor - 1, e->cursor);
        break;
    case CTRL('A'):
        move_to(e, 0);
        break;
    case CTRL('B'):
        csi(e, 'D');
        break;
    case CTRL('C'):
        emit(e, "^C\n");
        lineedit_reset(e);
        lineedit_show(e);
        break;
    case CTRL('D'):
        csi(e, 'd');
        break;
    case CTRL('E'):
        move_to(e, len);
        break;
    case CTRL('F'):
        csi(e, 'C');
        break;
    case CTRL('K'):
        if (e->cursor < len)
            erase(e, e->cursor, len);
        break;
    case CTRL('L'):
        emit(e, "\x1b[2J\x1b[1;1H");
        redraw(e);
        break;
    case CTRL('N'):
        recall(e, 1);
        break;
    case CTRL('P'):
        recall(e, -1);
        break;
    case CTRL('U'):
        erase(e, 0, e->cursor);
        break;
    case CTRL('W'):
        erase(e, word_start(e), e->cursor);
        break;
    default:
        break;
    }
}

static void byte(LineEdit *e, uint8_t c)
{
    bool lf_of_crlf = e->after_cr && c == '\n';
    e->after_cr = c == '\r';
    if (lf_of_crlf)
        return;
    if (e->state == ESC) {
        e->state = c == '[' || c == 'O' ? CSI : PLAIN;
        e->csi_arg = 0;
    } else if (e->state == CSI) {
        csi(e, c);
    } else if (c < ' ' || c == 0x7f) {
        control(e, c);
    } else {
        char ch = (char)c;
        insert(e, &ch, 1);
    }
}

void lineedit_input(LineEdit *e, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        byte(e, buf[i]);
}
