/* What is said about a divergence: the path to it, and the differences. */
#include "diff/lockstep.h"

#include <inttypes.h>
#include <string.h>

#include "cpu/disasm.h"
#include "jit/jit.h"

enum { PIECE_MAX = 64 }; /* instructions shown of one piece of the path */

void ls_trace_add(Lockstep *ls, const CpuState *s, uint32_t count, unsigned event,
                  const LsInsn *insn)
{
    LsTrace *t = &ls->trace[ls->n_trace++ % LS_TRACE];
    t->rip = s->rip;
    t->lin = cpu_code64(s) ? s->rip : (uint32_t)(s->seg[CS].base + s->rip);
    t->count = count;
    t->bits = cpu_code64(s) ? 64 : s->seg[CS].attr & SEG_DB ? 32 : 16;
    t->event = (uint8_t)event;
    t->len = 0;
    if (insn) {
        t->len = insn->len;
        memcpy(t->bytes, insn->bytes, sizeof(t->bytes));
    }
}

static unsigned read_code(const Lockstep *ls, gva_t lin, uint8_t *out, unsigned n)
{
    const LsSide *s = &ls->side[ls->first];
    unsigned got = 0;
    while (got < n) {
        gpa_t gpa;
        unsigned here = MIN_OF(n - got, 4096 - (unsigned)((lin + got) & 4095));
        if (!mmu_debug_translate(&s->v->st, s->vm, lin + got, &gpa) ||
            !memmap_read(s->vm->mem, gpa, out + got, here))
            break;
        got += here;
    }
    return got;
}

static void print_insn(GPtrArray *lines, uint64_t rip, const uint8_t *insn, unsigned len,
                       const char *text)
{
    GString *bytes = g_string_new(NULL);
    for (unsigned k = 0; k < len; k++)
        g_string_append_printf(bytes, "%02x ", insn[k]);
    g_ptr_array_add(lines, g_strdup_printf("  %#18" PRIx64 "  %-24s %s", rip, bytes->str, text));
    g_string_free(bytes, TRUE);
}

/* A straight run of instructions from t on, as memory has them now. */
static void print_piece(const Lockstep *ls, const LsTrace *t, GPtrArray *lines)
{
    uint8_t code[PIECE_MAX * 15];
    unsigned len = t->len, want = MIN_OF(t->count, (uint32_t)PIECE_MAX), n = 0;
    memcpy(code, t->bytes, sizeof(t->bytes));
    if (!len && want)
        len = read_code(ls, t->lin, code, want * 15);
    for (unsigned at = 0, size; n < want && at < len; at += size, n++) {
        char text[DISASM_TEXT];
        size = disasm_insn(t->bits, code + at, len - at, t->rip + at, text);
        if (!size)
            break;
        print_insn(lines, t->rip + at, code + at, size, text);
    }
    if (n < want && (n || len))
        g_ptr_array_add(lines, g_strdup_printf("  %#18" PRIx64 "  and on: %u more, by branches",
                                               t->rip, t->count - n));
    else if (n < want)
        g_ptr_array_add(lines,
                        g_strdup_printf("  %#18" PRIx64 "  %u instructions, not readable now",
                                        t->rip, t->count));
    if (t->event)
        g_ptr_array_add(lines, g_strdup_printf("  %18s  exception %d is raised", "", t->event - 1));
    else if (!t->count)
        g_ptr_array_add(
            lines, g_strdup_printf("  %#18" PRIx64 "  an interrupt, or part of a REP", t->rip));
}

void ls_trace_print(const Lockstep *ls, GString *out)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
    uint64_t first = ls->n_trace > LS_TRACE ? ls->n_trace - LS_TRACE : 0;
    for (uint64_t k = first; k < ls->n_trace; k++)
        print_piece(ls, &ls->trace[k % LS_TRACE], lines);
    unsigned from = lines->len > LS_TRACE ? lines->len - LS_TRACE : 0;
    g_string_append_printf(out, "the last %u instructions:\n", lines->len - from);
    for (unsigned k = from; k < lines->len; k++)
        g_string_append_printf(out, "%s\n", (const char *)g_ptr_array_index(lines, k));
    g_ptr_array_free(lines, TRUE);
}

void ls_report(const Lockstep *ls, GString *out)
{
    g_string_append_printf(
        out, "divergence at instruction %" PRIu64 ", in the step at RIP %#" PRIx64 "\n", ls->insns,
        ls->before.rip);
    if (ls->by_full)
        g_string_append_printf(out,
                               "found by comparing all of memory; it came about within the "
                               "last %" PRIu64 " instructions\n",
                               ls->insns - ls->checkpoint_insns);
    if (ls->why[0])
        g_string_append_printf(out, "%s\n", ls->why);
    ls_switches_report(ls, out);
    if (ls->n_differences) {
        g_string_append_printf(out, "  %-14s %-36s %s\n", "differs", ls->side[LEADER].engine->name,
                               ls->side[FOLLOWER].engine->name);
        g_string_append(out, ls->differences->str);
    }
    ls_trace_print(ls, out);
}

/* What of it a chained leader's translated code has done. */
static void chained_summary(const Lockstep *ls, GString *out)
{
    const Jit *j = jit_of(ls->side[LEADER].v);
    unsigned second = 0;
    for (unsigned k = 0; k < j->map_n; k++)
        second += j->map[k]->block && j->map[k]->head;
    g_string_append_printf(out,
                           "in translated code: %.1f%%; made: %" PRIu64 " codes, %" PRIu64
                           " of them traces; loops with a second body at the end: %u\n",
                           100.0 * (double)j->counted / (double)MAX_OF(ls->insns, 1ull), j->blocks,
                           j->traces, second);
}

void ls_summary(const Lockstep *ls, double seconds, GString *out)
{
    g_string_append_printf(
        out,
        "%s x %s: %" PRIu64 " instructions in %" PRIu64 " steps, %" PRIu64
        " interrupts, %.1f s (%.0f/s); all of memory compared %" PRIu64 " times\n",
        ls->side[LEADER].engine->name, ls->side[FOLLOWER].engine->name, ls->insns, ls->steps,
        ls->events, seconds, seconds > 0 ? (double)ls->insns / seconds : 0, ls->fulls);
    if (ls->opt.chained)
        chained_summary(ls, out);
    ls_switches_summary(ls, out);
    for (unsigned i = 0; i < LSR_N; i++)
        if (ls->rule_uses[i])
            g_string_append_printf(out, "known difference %s: %" PRIu64 " times\n",
                                   ls_rules[i].name, ls->rule_uses[i]);
    if (ls->alone)
        g_string_append_printf(out,
                               "not judged, as KVM could not execute them: %" PRIu64
                               " instructions; the first: %s\n",
                               ls->alone, ls->alone_first);
}

void ls_explain_rules(GString *out)
{
    for (unsigned i = 0; i < LSR_N; i++)
        g_string_append_printf(out, "%-16s %s\n%-16s %s\n", ls_rules[i].name, ls_rules[i].where, "",
                               ls_rules[i].reason);
}
