/* symbols, info symbol: names of guest code, and where the kernel was really loaded. */
#include <string.h>

#include "monitor/monitor_priv.h"

#define X64 "%016" G_GINT64_MODIFIER "x"

void info_symbol(MonCall *c)
{
    uint64_t addr = (uint64_t)c->number[0];
    char at[SYMBOL_TEXT];
    bool named = *symbols_text(machine_symbols(c->m), addr, at) != 0;
    g_string_append_printf(c->out, "0x" X64 " %s\n", addr, named ? at : "has no symbol");
}

/*
 * A kernel's entry points that a register shows once it has set them up, with the symbol each has
 * in Linux.
 */
static const struct {
    const char *symbol, *reg;
    size_t offset;
} anchors[] = {
    {"entry_SYSCALL_64", "IA32_LSTAR", offsetof(CpuState, msr.lstar)},
    {"entry_SYSENTER_32", "IA32_SYSENTER_EIP", offsetof(CpuState, msr.sysenter_eip)},
    {"entry_SYSENTER_compat", "IA32_SYSENTER_EIP", offsetof(CpuState, msr.sysenter_eip)},
};

static void copy_state(Vcpu *v, void *opaque)
{
    memcpy(opaque, &v->st, sizeof(v->st));
}

static void find_offset(MonCall *c, Symbols *s)
{
    g_autofree CpuState *st = g_new(CpuState, 1);
    if (!monitor_with_state(monitor_vcpu(c->mon), copy_state, st, c->out))
        return;
    for (unsigned i = 0; i < ARRAY_LEN(anchors); i++) {
        uint64_t linked, is;
        memcpy(&is, (const char *)st + anchors[i].offset, sizeof(is));
        if (!is || !symbols_find(s, anchors[i].symbol, &linked, NULL))
            continue;
        symbols_set_offset(s, symbols_offset(s) + (int64_t)(is - linked));
        g_string_append_printf(c->out,
                               "%s is %s: the symbols' offset is %#" G_GINT64_MODIFIER "x\n",
                               anchors[i].reg, anchors[i].symbol, (uint64_t)symbols_offset(s));
        return;
    }
    g_string_append(c->out, "Error: no anchor: the guest has not set IA32_LSTAR or "
                            "IA32_SYSENTER_EIP yet, or the table has not Linux's name for it\n");
}

void cmd_symbols(MonCall *c)
{
    Symbols *s = machine_symbols(c->m);
    if (!symbols_count(s)) {
        g_string_append(c->out,
                        "there are no symbols; -symbols FILE or an ELF -kernel bring them\n");
    } else if (!c->has[0]) {
        g_string_append_printf(c->out, "%u symbols, offset %#" G_GINT64_MODIFIER "x\n",
                               symbols_count(s), (uint64_t)symbols_offset(s));
    } else if (!strcmp(c->word[0], "auto")) {
        find_offset(c, s);
    } else {
        const char *text = c->word[0];
        bool minus = *text == '-';
        char *end;
        uint64_t n = g_ascii_strtoull(text + minus, &end, 0);
        if (end == text + minus || *end)
            g_string_append_printf(c->out, "Error: '%s' is neither auto nor a number\n", text);
        else
            symbols_set_offset(s, (int64_t)(minus ? -n : n));
    }
}
