/* -help, the man page and bash completion, made from the rows of options.def and commands.def. */
#include <string.h>

#include "options/options.h"
#include "monitor/monitor_docs.h"

#define HELP_COLUMN 26
#define HELP_WIDTH  100

static void spelling(const OptionRow *r, GString *out)
{
    g_string_append_printf(out, "-%s", r->name);
    if (r->arg == ARG_REQUIRED)
        g_string_append_printf(out, " %s", r->form);
    else if (r->arg == ARG_EQUALS)
        g_string_append_printf(out, "[=%s]", r->form);
}

/* Words of text from column HELP_COLUMN on; the line so far has `at` columns. */
static void wrap(GString *out, size_t at, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    if (at >= HELP_COLUMN) {
        g_string_append_c(out, '\n');
        at = 0;
    }
    g_string_append_printf(out, "%*s", (int)(HELP_COLUMN - at), "");
    at = HELP_COLUMN;
    for (char **w = words; *w; w++) {
        bool first = w == words;
        if (!first && at + 1 + strlen(*w) > HELP_WIDTH) {
            g_string_append_printf(out, "\n%*s", HELP_COLUMN, "");
            at = HELP_COLUMN;
            first = true;
        }
        g_string_append_printf(out, "%s%s", first ? "" : " ", *w);
        at += strlen(*w) + !first;
    }
    g_string_append_c(out, '\n');
}

/* The row whose other spelling r is. */
static const OptionRow *same_as(const OptionRow *r)
{
    for (unsigned i = 0; i < option_rows_n; i++) {
        if (option_rows[i].fn == r->fn && *option_rows[i].help)
            return &option_rows[i];
    }
    return r;
}

void options_help(GString *out)
{
    g_string_append(out, "usage: tandem [options]\n"
                         "       tandem -demo [-switches N]\n"
                         "       tandem diff MODE ...        engines held against each other\n"
                         "       tandem bench rows ...       what each instruction takes\n"
                         "       tandem rip FILE [SYMBOLS]   what -record-rip wrote, as text\n"
                         "Options may be written with one dash or two.\n");
    for (unsigned i = 0; i < option_rows_n; i++) {
        const OptionRow *r = &option_rows[i];
        if (r->arg == ARG_SECTION) {
            g_string_append_printf(out, "\n%s:\n", r->help);
            continue;
        }
        g_autoptr(GString) s = g_string_new(NULL);
        spelling(r, s);
        g_string_append(out, s->str);
        if (*r->help) {
            wrap(out, s->len, r->help);
        } else {
            g_autofree char *same = g_strdup_printf("the same as -%s", same_as(r)->name);
            wrap(out, s->len, same);
        }
    }
    g_string_append(out,
                    "\nOn the terminal of -nographic: Ctrl-A x ends, Ctrl-A c goes to the monitor "
                    "and back, Ctrl-A h helps.\n");
}

/* ---- man page ---- */

static void roff(GString *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '-' || *p == '\\')
            g_string_append_c(out, '\\');
        if ((*p == '.' || *p == '\'') && p == text)
            g_string_append(out, "\\&");
        g_string_append_c(out, *p);
    }
}

static void man_item(GString *out, const char *head, const char *text)
{
    g_string_append(out, ".TP\n.B ");
    roff(out, head);
    g_string_append_c(out, '\n');
    roff(out, text);
    g_string_append_c(out, '\n');
}

static void man_command(const char *usage, const char *help, void *opaque)
{
    man_item(opaque, usage, help);
}

void options_man(GString *out)
{
    g_string_append(
        out, ".TH TANDEM 1 \"\" \"Tandem " TANDEM_VERSION "\" \"\"\n"
             ".SH NAME\n"
             "tandem \\- x86 hypervisor whose vCPUs move between KVM and a software engine\n"
             ".SH SYNOPSIS\n"
             ".B tandem\n"
             "[options]\n"
             ".br\n"
             ".B tandem \\-demo\n"
             "[\\-switches N]\n"
             ".br\n"
             ".B tandem diff\n"
             "MODE ...\n"
             ".br\n"
             ".B tandem bench rows\n"
             "...\n"
             ".br\n"
             ".B tandem rip\n"
             "FILE [SYMBOLS]\n"
             ".SH DESCRIPTION\n"
             "Tandem runs an x86 guest. Each of its vCPUs executes natively through /dev/kvm or\n"
             "in a software engine, and a monitor command hands it from one to the other between\n"
             "two instructions, without copying memory and without the guest noticing.\n"
             "Options are QEMU's, and may be written with one dash or two.\n"
             ".SH OPTIONS\n");
    for (unsigned i = 0; i < option_rows_n; i++) {
        const OptionRow *r = &option_rows[i];
        if (r->arg == ARG_SECTION) {
            g_string_append_printf(out, ".SS %s\n", r->help);
            continue;
        }
        g_autoptr(GString) head = g_string_new(NULL);
        g_autofree char *same = g_strdup_printf("The same as -%s.", same_as(r)->name);
        spelling(r, head);
        man_item(out, head->str, *r->help ? r->help : same);
    }
    g_string_append(
        out, ".SH MONITOR\n"
             "On the terminal of\n.B \\-nographic\n"
             "Ctrl-A c goes from the guest's console to the monitor and back, Ctrl-A x ends,\n"
             "Ctrl-A h helps.\n");
    monitor_docs(man_command, out);
    g_string_append(
        out, ".SH EXIT STATUS\n"
             "0 when the guest powered off or tandem was told to end; 1 on errors, with one line\n"
             "on standard error; what isa\\-debug\\-exit makes of it when the guest uses that.\n"
             ".SH SEE ALSO\n"
             ".BR qemu\\-system\\-x86_64 (1)\n");
}

/* ---- bash completion ---- */

/* Lower-case words of a|b|c; what contains capitals stands for something else. */
static void choices(const char *form, GString *words)
{
    g_auto(GStrv) list = g_strsplit_set(form, "|[]", -1);
    for (char **w = list; *w; w++) {
        bool literal = **w != 0;
        for (const char *p = *w; *p; p++)
            literal = literal && (g_ascii_islower(*p) || g_ascii_isdigit(*p) || strchr(":-_", *p));
        if (literal)
            g_string_append_printf(words, "%s%s", words->len ? " " : "", *w);
    }
}

void options_bash(GString *out)
{
    g_string_append(
        out, "# bash completion for tandem(1)\n"
             "_tandem()\n"
             "{\n"
             "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
             "    COMPREPLY=()\n"
             "    case ${prev/#--/-} in\n");
    for (unsigned i = 0; i < option_rows_n; i++) {
        const OptionRow *r = &option_rows[i];
        if (r->arg != ARG_REQUIRED)
            continue;
        g_autoptr(GString) words = g_string_new(NULL);
        choices(r->form, words);
        if (!strcmp(r->form, "FILE"))
            g_string_append_printf(
                out, "        -%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", r->name);
        else
            g_string_append_printf(out, "        -%s) words='%s' ;;\n", r->name, words->str);
    }
    g_string_append(out, "        *) words='");
    bool first = true;
    for (unsigned i = 0; i < option_rows_n; i++) {
        if (option_rows[i].name) {
            g_string_append_printf(out, "%s-%s", first ? "" : " ", option_rows[i].name);
            first = false;
        }
    }
    g_string_append(out, "' ;;\n"
                         "    esac\n"
                         "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                         "}\n"
                         "complete -o filenames -F _tandem tandem\n");
}
