/* -d out_asm: see tcg/blocklog.h. */
#include <inttypes.h>
#include "jit/jit.h"
#include "tcg/blocklog.h"

void jit_log_code(const Jit *j, const JitCode *code, const uint8_t *const next[],
                  const uint8_t *tail, uint64_t rip)
{
    g_autoptr(GString) out = g_string_new(NULL);
    const uint8_t *rw = code->start - j->run, *end = code->start + code->size;
    g_string_append_printf(out, "OUT: [size=%u]\n  -- entry\n", code->size + code->cold_size);
    blocklog_code(out, 64, (uintptr_t)code->start, rw, (size_t)(next[0] - code->start));
    const JitPart *last = &code->part[code->n_parts - 1];
    unsigned n = last->first + last->b->n;
    for (unsigned k = 0; k < n; k++) {
        Block *b;
        const Insn *i = jit_insn(code, k, &b);
        const uint8_t *to = k + 1u < n ? next[k + 1] : tail;
        g_string_append_printf(out, "  -- guest addr 0x%016" PRIx64 "\n",
                               rip + jit_block_rip(j, code, k) - jit_block_rip(j, code, 0) +
                                   i->end - i->len);
        blocklog_code(out, 64, (uintptr_t)next[k], rw + (next[k] - code->start),
                      (size_t)(to - next[k]));
    }
    g_string_append(out, "  -- out of line\n");
    blocklog_code(out, 64, (uintptr_t)tail, rw + (tail - code->start), (size_t)(end - tail));
    blocklog_code(out, 64, (uintptr_t)code->cold, code->cold - j->run, code->cold_size);
    log_text(out);
}
