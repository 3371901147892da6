/* `info jit`: what the translator has made, and what still goes through the interpreter's handlers.
 */
#include "jit/jit.h"

#include <inttypes.h>

#define ROWS_SHOWN 12

static void mirror_line(GString *out, const char *name, uint64_t shown, uint64_t faults,
                        uint64_t turns)
{
    if (shown)
        g_string_append_printf(out,
                               "  %s: shown %" PRIu64 " times, faults and failed checks %" PRIu64
                               ", in use again %" PRIu64 " times\n",
                               name, shown, faults, turns);
}

static int by_count(const void *a, const void *b, void *counts)
{
    const uint32_t *n = counts, x = n[*(const uint16_t *)a], y = n[*(const uint16_t *)b];
    return x < y ? 1 : x > y ? -1 : 0;
}

void jit_describe(const Vcpu *v, GString *out)
{
    static const char *const why[] = {
        [JX_HELPER] = "exec", [JX_LINK] = "link",    [JX_LOOKUP] = "look-up", [JX_POLL] = "poll",
        [JX_WARM] = "trace",  [JX_LOOP] = "judging", [JX_RESUME] = "loop"};
    if (!v->engine_data[ENGINE_JIT]) {
        g_string_append_printf(out, "cpu %d: no translator\n", v->id);
        return;
    }
    const Jit *j = jit_of(v);
    g_string_append_printf(
        out,
        "cpu %d: %" PRIu64 " blocks translated, %" PRIu64 " of them traces, %" PRIu64
        " twins, %u there now in %zu KiB of %zu, %" PRIu64 " flushes\n  left translated code for:",
        v->id, j->blocks, j->traces, j->twins, j->map_n,
        (j->used + j->cold_used - j->code_bytes / 2) >> 10, j->code_bytes >> 10, j->flushes);
    for (unsigned e = 0; e < ARRAY_LEN(why); e++)
        g_string_append_printf(out, " %s %" PRIu64, why[e], j->exits[e]);
    g_string_append_printf(out,
                           "\n  first-level TLB misses %" PRIu64 ", slots %" PRIu32
                           ", of which missed too often %" PRIu64
                           "\n  instructions by their handlers %" PRIu64,
                           j->accesses, j->slots, j->slots_given_up, j->helpers);
    g_autofree uint16_t *row = g_new(uint16_t, op_rows_n);
    for (unsigned r = 0; r < op_rows_n; r++)
        row[r] = (uint16_t)r;
    g_qsort_with_data(row, (gint)op_rows_n, sizeof(*row), (GCompareDataFunc)by_count,
                      j->row_helpers);
    for (unsigned k = 0; k < ROWS_SHOWN && k < op_rows_n && j->row_helpers[row[k]]; k++)
        g_string_append_printf(out, "%s%s %u", k ? ", " : ", most of all: ", op_rows[row[k]].name,
                               j->row_helpers[row[k]]);
    g_string_append_c(out, '\n');
    mirror_line(out, "the kernel's mirror", j->kernel_shown, j->kernel_faults, j->kernel_turns);
    mirror_line(out, "mirror", j->mirror_shown, j->mirror_faults, j->mirror_turns);
}
