/* Rows by name, and sets of rows by pattern. */
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "diff/gen.h"

static char (*names)[64];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char *const operand_name[O_N] = {
#define OPERAND(name, cls, size) [O_##name] = #name,
#include "tcg/operands.def"
#undef OPERAND
};

static void make_name(const OpRow *r, GString *s)
{
    static const char *const map[MAP_N] = {"",           "0F ",       "0F38 ",     "0F3A ",
                                           "VEX.0F ",    "VEX.0F38 ", "VEX.0F3A ", "EVEX.0F ",
                                           "EVEX.0F38 ", "EVEX.0F3A "};
    static const char *const pfx[] = {"", " NP", " 66", " F3", " F2"};
    g_string_printf(s, "%s%02X%s", map[r->map], r->opcode, pfx[r->pfx]);
    if (r->modrm & 8)
        g_string_append_printf(s, " /%u", r->modrm & 7);
    if (r->modrm & X_RM)
        g_string_append_printf(s, ":%u", r->modrm >> 8);
    else if (r->modrm & X_MEM)
        g_string_append(s, "m");
    else if (r->modrm & X_REG)
        g_string_append(s, "r");
    if (r->map >= MAP_VEX0F) {
        const char *l = r->attr & A_VEXL0 ? " L0" : r->attr & A_VEXL1 ? " L1" : "";
        const char *w = r->attr & A_W0 ? " W0" : r->attr & A_W1 ? " W1" : "";
        g_string_append_printf(s, "%s%s", l, w);
    }
    g_string_append_printf(s, " %s", r->name);
    for (unsigned k = 0; k < 4 && r->op[k]; k++)
        g_string_append_printf(s, "%c%s", k ? ',' : ' ', operand_name[r->op[k]]);
}

static void make_names(void)
{
    GHashTable *seen = g_hash_table_new(g_str_hash, g_str_equal);
    GString *s = g_string_new(NULL);
    names = g_malloc0_n(op_rows_n, sizeof(*names));
    for (unsigned k = 0; k < op_rows_n; k++) {
        make_name(&op_rows[k], s);
        size_t plain = s->len;
        for (unsigned n = 2; g_hash_table_contains(seen, s->str); n++) {
            g_string_truncate(s, plain);
            g_string_append_printf(s, " #%u", n);
        }
        g_strlcpy(names[k], s->str, sizeof(*names));
        g_hash_table_add(seen, names[k]);
    }
    g_string_free(s, TRUE);
    g_hash_table_destroy(seen);
}

const char *case_row_name(uint16_t row, char buf[64])
{
    pthread_once(&once, make_names);
    g_strlcpy(buf, row < op_rows_n ? names[row] : "?", 64);
    return buf;
}

/* ---- patterns ---- */
static bool matches(unsigned row, const char *pattern)
{
    const OpRow *r = &op_rows[row];
    if (!g_ascii_strcasecmp(r->name, pattern) || !g_ascii_strcasecmp(names[row], pattern))
        return true;
    if (r->feature < FEAT_N &&
        !g_ascii_strcasecmp(cpu_feature_name((enum CpuFeature)r->feature), pattern))
        return true;
    return strpbrk(pattern, "*?") && (g_pattern_match_simple(pattern, names[row]) ||
                                      g_pattern_match_simple(pattern, r->name));
}

static unsigned mark(const char *pattern, uint8_t *on)
{
    unsigned n = 0;
    for (unsigned k = 0; k < op_rows_n; k++) {
        if (matches(k, pattern)) {
            on[k] = 1;
            n++;
        }
    }
    return n;
}

unsigned case_select_rows(const char *patterns, uint16_t *rows, GError **err)
{
    pthread_once(&once, make_names);
    uint8_t *on = g_malloc0(op_rows_n);
    unsigned n = 0;
    if (!patterns || !*patterns)
        memset(on, 1, op_rows_n);
    char **piece = g_strsplit(patterns ? patterns : "", ",", 0);
    for (unsigned k = 0; patterns && *patterns && piece[k];) {
        /* Names of rows have commas in them: the longest that is one counts. */
        GString *joined = g_string_new(g_strstrip(piece[k]));
        unsigned taken = mark(joined->str, on) ? 1 : 0;
        for (unsigned more = 1; piece[k + more - 1] && piece[k + more] && more < 4; more++) {
            g_string_append_printf(joined, ",%s", piece[k + more]);
            if (mark(joined->str, on))
                taken = more + 1;
        }
        g_string_free(joined, TRUE);
        if (!taken) {
            g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                        "no row '%s': name a mnemonic (popcnt), a CPUID feature (avx2), or a "
                        "pattern of row names ('*popcnt*')",
                        piece[k]);
            goto out;
        }
        k += taken;
    }
    for (unsigned k = 0; k < op_rows_n; k++)
        if (on[k])
            rows[n++] = (uint16_t)k;
out:
    g_strfreev(piece);
    g_free(on);
    return n;
}

/* ---- rows behind others ---- */

/* Does every encoding of b belong to a, which stands before it? */
static bool covers(const OpRow *a, const OpRow *b)
{
    const uint32_t modes = A_I64 | A_O64 | A_PROT, vex = A_VEXL0 | A_VEXL1 | A_W0 | A_W1 | A_NOV;
    if (is_evex_map(a->map))
        return false;
    if (a->map != b->map || a->opcode != b->opcode || (a->pfx != PFX_ANY && a->pfx != b->pfx) ||
        (a->attr & modes) || (a->attr & vex) != 0)
        return false;
    if (a->modrm && a->modrm != b->modrm)
        return false;
    for (unsigned k = 0; k < 4; k++) {
        unsigned cls = operand_class(a, k);
        if (cls == OC_MEM || cls == OC_RMREG || cls == OC_VRMREG || cls == OC_MMRMREG ||
            cls == OC_KRMREG)
            return false;
    }
    return true;
}

bool case_unreachable(uint16_t row, char why[64])
{
    const char *missing = case_no_feature(row);
    if (missing) {
        g_strlcpy(why, missing, 64);
        return true;
    }
    pthread_once(&once, make_names);
    for (uint16_t k = 0; k < row; k++) {
        if (!case_no_feature(k) && covers(&op_rows[k], &op_rows[row])) {
            g_snprintf(why, 64, "%.40s comes first", names[k]);
            return true;
        }
    }
    return false;
}
