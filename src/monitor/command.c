/* The command table: parsing, dispatch, help and completion. */
#include <string.h>

#include "monitor/monitor_docs.h"
#include "monitor/monitor_priv.h"
#include "base/nearest.h"

#define MANY_INFOS "info"

const MonCommand mon_commands[] = {
#define COMMAND(name, args, help)    {#name, args, help, cmd_##name, NULL},
#define DASHED(fn, name, args, help) {name, args, help, cmd_##fn, NULL},
#define INFO(name, args, help)
#define ALIAS(a, name) {#a, NULL, NULL, NULL, #name},
#include "monitor/commands.def"
#undef COMMAND
#undef DASHED
#undef INFO
#undef ALIAS
};
const unsigned mon_commands_n = ARRAY_LEN(mon_commands);

const MonCommand mon_infos[] = {
#define COMMAND(name, args, help)
#define DASHED(fn, name, args, help)
#define INFO(name, args, help) {#name, args, help, info_##name, NULL},
#define ALIAS(a, name)
#include "monitor/commands.def"
#undef COMMAND
#undef DASHED
#undef INFO
#undef ALIAS
};
const unsigned mon_infos_n = ARRAY_LEN(mon_infos);

/* ---- rows ---- */

static const MonCommand *find(const MonCommand *rows, unsigned n, const char *name)
{
    for (unsigned i = 0; i < n; i++) {
        if (!strcmp(rows[i].name, name))
            return rows[i].alias_of ? find(rows, n, rows[i].alias_of) : &rows[i];
    }
    return NULL;
}

typedef struct ArgSpec {
    char name[40], type;
    bool optional;
} ArgSpec;

static unsigned specs(const MonCommand *c, ArgSpec s[MON_ARGS])
{
    unsigned n = 0;
    g_auto(GStrv) list = g_strsplit(c->args, ",", -1);
    for (char **a = list; *a && **a; a++) {
        const char *colon = strrchr(*a, ':');
        g_assert(colon && n < MON_ARGS && (size_t)(colon - *a) < sizeof(s[n].name));
        g_strlcpy(s[n].name, *a, (gsize)(colon - *a) + 1);
        s[n].type = colon[1];
        s[n].optional = colon[2] == '?';
        n++;
    }
    return n;
}

void monitor_usage(const MonCommand *c, bool info, GString *out)
{
    ArgSpec s[MON_ARGS];
    unsigned n = specs(c, s);
    g_string_append_printf(out, "%s%s", info ? "info " : "", c->name);
    for (unsigned i = 0; i < n; i++)
        g_string_append_printf(out, s[i].optional ? " [%s]" : " %s", s[i].name);
}

static void help_row(const MonCommand *c, bool info, GString *out)
{
    g_autoptr(GString) usage = g_string_new(NULL);
    monitor_usage(c, info, usage);
    for (unsigned i = 0; !info && i < mon_commands_n; i++) {
        if (mon_commands[i].alias_of && !strcmp(mon_commands[i].alias_of, c->name))
            g_string_append_printf(usage, "|%s", mon_commands[i].name);
    }
    g_string_append_printf(out, "%-32s %s\n", usage->str, c->help);
}

static void help_rows(const MonCommand *rows, unsigned n, bool info, GString *out)
{
    for (unsigned i = 0; i < n; i++) {
        if (!rows[i].alias_of)
            help_row(&rows[i], info, out);
    }
}

static void unknown(const char *what, const char *name, const MonCommand *rows, unsigned n,
                    const char *list, GString *out)
{
    Nearest near = {.typed = name};
    for (unsigned i = 0; i < n; i++)
        nearest_offer(&near, rows[i].name);
    g_string_append_printf(out, "unknown %s: '%s'", what, name);
    if (near.best)
        g_string_append_printf(out, "; did you mean '%s'?\n", near.best);
    else
        g_string_append_printf(out, "; '%s' lists them\n", list);
}

void cmd_help(MonCall *c)
{
    if (!c->has[0]) {
        help_rows(mon_commands, mon_commands_n, false, c->out);
        return;
    }
    const MonCommand *row = find(mon_commands, mon_commands_n, c->word[0]);
    if (!row) {
        unknown("command", c->word[0], mon_commands, mon_commands_n, "help", c->out);
        return;
    }
    if (row->fn != cmd_info) {
        help_row(row, false, c->out);
    } else if (!c->has[1]) {
        help_rows(mon_infos, mon_infos_n, true, c->out);
    } else {
        row = find(mon_infos, mon_infos_n, c->word[1]);
        if (row)
            help_row(row, true, c->out);
        else
            unknown("topic", c->word[1], mon_infos, mon_infos_n, "help info", c->out);
    }
}

static void docs_of(const MonCommand *rows, unsigned n, bool info,
                    void (*fn)(const char *, const char *, void *), void *opaque)
{
    for (unsigned i = 0; i < n; i++) {
        g_autoptr(GString) usage = g_string_new(NULL);
        if (rows[i].alias_of)
            continue;
        monitor_usage(&rows[i], info, usage);
        fn(usage->str, rows[i].help, opaque);
    }
}

void monitor_docs(void (*fn)(const char *usage, const char *help, void *opaque), void *opaque)
{
    docs_of(mon_commands, mon_commands_n, false, fn, opaque);
    docs_of(mon_infos, mon_infos_n, true, fn, opaque);
}

/* ---- arguments ---- */

static bool number(const char *text, int64_t *value)
{
    char *end;
    *value = g_ascii_strtoll(text, &end, 0);
    return end != text && !*end;
}

static bool take_one(MonCall *c, unsigned i, const ArgSpec *s, char **rest, GString *why)
{
    char *text = *rest;
    if (s->type == 'r' || s->type == 'e') {
        *rest = text + strlen(text);
        g_strchomp(text);
    } else {
        size_t len = strcspn(text, " \t");
        *rest = text[len] ? text + len + 1 : text + len;
        text[len] = 0;
    }
    c->word[i] = text;
    c->has[i] = true;
    switch (s->type) {
    case 'i':
        if (number(text, &c->number[i]))
            return true;
        g_string_append_printf(why, "'%s' is not a number", text);
        return false;
    case 'e': {
        uint64_t v;
        if (!monitor_expression(c->mon, text, &v, why))
            return false;
        c->number[i] = (int64_t)v;
        return true;
    }
    case 'o': {
        g_auto(GStrv) names = g_strsplit(s->name, "|", -1);
        if (g_strv_contains((const char *const *)names, text))
            return true;
        g_string_append_printf(why, "there is no option %s; there is %s", text, s->name);
        return false;
    }
    case 'f':
        return monitor_format(text, &c->format, why);
    default:
        return true;
    }
}

/* Cuts `rest` up; false: what is wrong is in why. */
static bool take_args(MonCall *c, const MonCommand *row, char *rest, GString *why)
{
    ArgSpec s[MON_ARGS];
    unsigned n = specs(row, s);
    for (unsigned i = 0; i < n; i++) {
        rest += strspn(rest, " \t");
        if (!*rest || (s[i].type == 'f' && *rest != '/') ||
            (s[i].type == 'o' && (*rest != '-' || g_ascii_isdigit(rest[1])))) {
            if (s[i].optional)
                continue;
            g_string_append_printf(why, "%s is missing", s[i].name);
            return false;
        }
        if (!take_one(c, i, &s[i], &rest, why))
            return false;
    }
    rest += strspn(rest, " \t");
    if (*rest)
        g_string_append_printf(why, "'%s' is too much", g_strchomp(rest));
    return !*rest;
}

static void run(MonCall *c, const MonCommand *row, bool info, char *rest)
{
    g_autoptr(GString) why = g_string_new(NULL);
    c->format = c->mon->last;
    if (take_args(c, row, rest, why)) {
        row->fn(c);
        return;
    }
    g_string_append_printf(c->out, "%s: %s; usage: ", row->name, why->str);
    monitor_usage(row, info, c->out);
    g_string_append_c(c->out, '\n');
}

void cmd_info(MonCall *c)
{
    if (!c->has[0]) {
        help_rows(mon_infos, mon_infos_n, true, c->out);
        return;
    }
    const MonCommand *row = find(mon_infos, mon_infos_n, c->word[0]);
    if (!row) {
        unknown("topic", c->word[0], mon_infos, mon_infos_n, "info", c->out);
        return;
    }
    MonCall sub = {.mon = c->mon, .m = c->m, .out = c->out};
    g_autofree char *rest = g_strdup(c->has[1] ? c->word[1] : "");
    run(&sub, row, true, rest);
}

void monitor_execute(MonState *mon, const char *line, GString *out)
{
    g_autofree char *copy = g_strdup(line);
    char *name = copy + strspn(copy, " \t");
    size_t len = strcspn(name, " \t/");
    g_autofree char *rest = g_strdup(name + len); /* "x/8xg" and "x /8xg" are the same */
    name[len] = 0;
    if (!*name && !*rest)
        return;
    const MonCommand *row = find(mon_commands, mon_commands_n, name);
    if (!row) {
        g_autofree char *word =
            g_strndup(line + (name - copy), strcspn(line + (name - copy), " \t"));
        unknown("command", word, mon_commands, mon_commands_n, "help", out);
        return;
    }
    MonCall c = {.mon = mon, .m = mon->m, .out = out};
    run(&c, row, false, rest);
}

/* ---- completion ---- */

static void offer(GPtrArray *words, const char *prefix, const char *word)
{
    if (g_str_has_prefix(word, prefix) && strlen(word) > 1)
        g_ptr_array_add(words, g_strdup(word));
}

static void offer_rows(GPtrArray *words, const char *prefix, const MonCommand *rows, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        offer(words, prefix, rows[i].name);
}

void monitor_complete(const char *text, GPtrArray *words)
{
    g_auto(GStrv) typed = g_strsplit_set(text, " ", -1);
    unsigned n = g_strv_length(typed);
    const char *last = n ? typed[n - 1] : "";
    if (n <= 1) {
        offer_rows(words, last, mon_commands, mon_commands_n);
        return;
    }
    const MonCommand *row = find(mon_commands, mon_commands_n, typed[0]);
    unsigned arg = n - 2;
    if (!row)
        return;
    if (row->fn == cmd_help && arg == 0) {
        offer_rows(words, last, mon_commands, mon_commands_n);
        return;
    }
    if (row->fn == cmd_info || (row->fn == cmd_help && !strcmp(typed[1], MANY_INFOS))) {
        unsigned at = row->fn == cmd_info ? 0 : 1;
        if (arg == at) {
            offer_rows(words, last, mon_infos, mon_infos_n);
            return;
        }
        row = row->fn == cmd_info ? find(mon_infos, mon_infos_n, typed[1]) : NULL;
        arg--;
    }
    ArgSpec s[MON_ARGS];
    unsigned n_specs = row ? specs(row, s) : 0;
    /* An option may be left out: the words behind it then come one place earlier. */
    bool skips = n_specs && s[0].type == 'o';
    for (unsigned i = 1; i < n; i++)
        skips &= typed[i][0] != '-';
    arg += skips;
    if (arg >= n_specs)
        return;
    g_auto(GStrv) choices = g_strsplit(s[arg].name, "|", -1);
    bool listed = choices[0] && (choices[1] || s[arg].type == 'o');
    for (char **c = choices; listed && *c; c++) {
        if (g_ascii_islower(**c) || **c == '-')
            offer(words, last, *c);
    }
}
