/*
 * The log's view of blocks. Everything of one block is one write, so that vCPUs do not mix their
 * lines.
 */
#include "tcg/blocklog.h"

#include <inttypes.h>
#include "cpu/disasm.h"
#include "tcg/translator.h"

static unsigned code_bits(unsigned mode)
{
    return mode & DM_CODE64 ? 64 : mode & DM_CS32 ? 32 : 16;
}

static void append_insn(GString *out, uint64_t at, const uint8_t *bytes, unsigned len,
                        const char *text)
{
    g_string_append_printf(out, "0x%08" PRIx64 ": ", at);
    for (unsigned k = 0; k < len; k++)
        g_string_append_printf(out, " %02x", bytes[k]);
    g_string_append_printf(out, "%*s%s\n", len < 10 ? (int)(10 - len) * 3 + 1 : 1, "", text);
}

void blocklog_code(GString *out, unsigned bits, uint64_t at, const uint8_t *bytes, size_t len)
{
    char text[DISASM_TEXT];
    while (len) {
        unsigned n = disasm_insn(bits, bytes, len, at, text), shown = n ? n : 1;
        append_insn(out, at, bytes, shown, text);
        at += shown;
        bytes += shown;
        len -= shown;
    }
}

void blocklog_in_asm(const Tcg *t, const Block *b, uint64_t rip)
{
    char name[SYMBOL_TEXT];
    g_autoptr(GString) out = g_string_new("----------------\n");
    g_string_append_printf(out, "IN: %s\n", symbols_text(t->v->vm->symbols, rip, name));
    for (unsigned k = 0; k < b->n; k++) {
        const Insn *i = &b->insn[k];
        unsigned at = i->end - i->len;
        char text[DISASM_TEXT];
        disasm_insn(code_bits(b->mode), b->bytes + at, i->len, rip + at, text);
        append_insn(out, rip + at, b->bytes + at, i->len, text);
    }
    log_text(out);
}

/* The registers a program sees, and what says which mode it is in. */
static void append_registers(GString *out, const CpuState *s, const Tcg *t)
{
    static const char *const gpr[16] = {"RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP",
                                        "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"};
    static const uint8_t number[8] = {RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP};
    static const char *const seg[6] = {
        [ES] = "ES", [CS] = "CS", [SS] = "SS", [DS] = "DS", [FS] = "FS", [GS] = "GS"};
    for (unsigned k = 0; k < 16; k++)
        g_string_append_printf(out, "%s=%016" PRIx64 "%c", gpr[k], s->gpr[k < 8 ? number[k] : k],
                               k % 4 == 3 ? '\n' : ' ');
    uint64_t fl = flags_get(s, t);
    g_string_append_printf(out, "RIP=%016" PRIx64 " RFL=%08" PRIx64 " [%c%c%c%c%c%c%c] CPL=%u\n",
                           s->rip, fl, fl & FL_DF ? 'D' : '-', fl & FL_OF ? 'O' : '-',
                           fl & FL_SF ? 'S' : '-', fl & FL_ZF ? 'Z' : '-', fl & FL_AF ? 'A' : '-',
                           fl & FL_PF ? 'P' : '-', fl & FL_CF ? 'C' : '-', t->cpl);
    for (unsigned k = 0; k < 6; k++)
        g_string_append_printf(out, "%s =%04x %016" PRIx64 " %08x %08x\n", seg[k],
                               s->seg[k].selector, s->seg[k].base, s->seg[k].limit, s->seg[k].attr);
    g_string_append_printf(out,
                           "CR0=%08" PRIx64 " CR2=%016" PRIx64 " CR3=%016" PRIx64 " CR4=%08" PRIx64
                           " EFER=%016" PRIx64 "\n",
                           s->cr0, s->cr2, s->cr3, s->cr4, s->efer);
}

void blocklog_enter(const CpuState *s, const Tcg *t, const Block *b)
{
    g_autoptr(GString) out = g_string_new(NULL);
    char name[SYMBOL_TEXT];
    if (log_on(LOG_EXEC))
        g_string_append_printf(out, "Trace %d: %p [%08" PRIx64 "/%016" PRIx64 "/%02x/%u] %s\n",
                               t->v->id, t->use_jit ? t->translator->entry(b) : b,
                               t->code64 ? 0 : s->seg[CS].base, s->rip, b->mode, b->n,
                               symbols_text(t->v->vm->symbols, s->rip, name));
    if (log_on(LOG_CPU))
        append_registers(out, s, t);
    log_text(out);
}
