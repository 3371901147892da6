/*
 * Cases as text. A file looks so; everything else is as case_baseline() makes it:
 *
 *   tandem case 1
 *   insn f3 0f bd c3            # lzcnt eax, ebx
 *   mode long
 *   cpl 3
 *   stop step
 *   RBX 0x10
 *   ES 002b base 0x0 limit 0xffffffff attr 0xc0f3
 *   data+0x1000 de ad be ef
 *
 * Fields have the names of vmstate/fields.def and msrs.def and the form vmstate_print() gives them.
 * Reading is strict: a line that is not understood, a value that does not fit, a field that comes
 * twice or a state no processor can be in are errors with the line's number.
 */
#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "cpu/disasm.h"
#include "cpu/vcpu.h"
#include "diff/case.h"
#include "vmstate/state.h"

static const char first_line[] = "tandem case 1";
static const char *const stop_name[STOP_N] = {[STOP_STEP] = "step", [STOP_THROUGH] = "through"};

enum { FILE_GROUPS = GRP_REGS | GRP_SREGS | GRP_FPU | GRP_XCRS | GRP_DEBUGREGS | GRP_MSRS };

/* Derived from others or the host's, so not in a file. */
static bool in_file(const VmstateField *f)
{
    return f->group & FILE_GROUPS && strcmp(f->name, "CPL") != 0 &&
           strcmp(f->name, "XSTATE_BV") != 0 && strcmp(f->name, "MXCSR_MASK") != 0;
}

/* ---- assembler ---- */

void case_asm(const DiffCase *c, GString *out)
{
    static const uint8_t bits[CM_N] = {
        [CM_LONG] = 64,   [CM_COMPAT32] = 32, [CM_COMPAT16] = 16, [CM_PROT32] = 32,
        [CM_PROT16] = 16, [CM_VM86] = 16,     [CM_REAL] = 16};
    unsigned len = MIN_OF(c->len, (uint8_t)sizeof(c->insn));
    char text[DISASM_TEXT];
    bool known =
        disasm_insn(bits[c->mode < CM_N ? c->mode : CM_LONG], c->insn, len, c->in.rip, text) == len;
    g_string_append(out, known ? text : "(unknown to the disassembler)");
}

/* ---- writing ---- */

typedef struct Writing {
    const DiffCase *c, *base;
    GString *out;
} Writing;

static void write_field(const VmstateField *f, void *opaque)
{
    Writing *w = opaque;
    char is[160], was[160];
    if (!in_file(f))
        return;
    vmstate_print(&w->c->in, f, is, sizeof(is));
    vmstate_print(&w->base->in, f, was, sizeof(was));
    if (strcmp(is, was) != 0)
        g_string_append_printf(w->out, "%s %s\n", f->name, is);
}

static void write_hex(const uint8_t *b, unsigned n, GString *out)
{
    for (unsigned i = 0; i < n; i++)
        g_string_append_printf(out, " %02x", b[i]);
}

/* Rows of 16 bytes, from the first to the last byte that is not zero. */
static void write_memory(const char *name, const uint8_t *mem, unsigned size, GString *out)
{
    for (unsigned row = 0; row < size; row += 16) {
        unsigned from = row, to = row + 16;
        while (from < to && !mem[from])
            from++;
        while (to > from && !mem[to - 1])
            to--;
        if (from == to)
            continue;
        g_string_append_printf(out, "%s+%#x", name, from);
        write_hex(mem + from, to - from, out);
        g_string_append_c(out, '\n');
    }
}

void case_write(const DiffCase *c, GString *out)
{
    DiffCase *base = g_new(DiffCase, 1);
    Writing w = {c, base, out};

    case_baseline(base, c->mode, c->in.cpl);
    g_string_append_printf(out, "%s\ninsn", first_line);
    write_hex(c->insn, c->len, out);
    g_string_append(out, "    # ");
    case_asm(c, out);
    g_string_append_printf(out, "\nmode %s\ncpl %u\nstop %s\n", case_mode_name[c->mode], c->in.cpl,
                           stop_name[c->stop]);
    if (c->seed || c->index)
        g_string_append_printf(out, "seed %#" G_GINT64_MODIFIER "x\nindex %" G_GUINT64_FORMAT "\n",
                               c->seed, c->index);
    vmstate_foreach(FILE_GROUPS, write_field, &w);
    write_memory("data", c->data, sizeof(c->data), out);
    write_memory("stack", c->stack, sizeof(c->stack), out);
    g_free(base);
}

/* ---- reading ---- */

enum { WORDS_MAX = 40 };

typedef struct Reading {
    const char *name;
    DiffCase *c;
    GHashTable *seen; /* names of fields, so that none comes twice */
    unsigned line, n;
    char *word[WORDS_MAX];
    GError **err;
} Reading;

static bool G_GNUC_PRINTF(2, 3) bad(Reading *r, const char *fmt, ...)
{
    va_list ap;
    char why[256];
    va_start(ap, fmt);
    g_vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    g_set_error(r->err, TANDEM_ERROR, ERR_USAGE, "%s:%u: %s", r->name, r->line, why);
    return false;
}

/* All of text as a number: "0x" and hexadecimal digits, or decimal ones; at most max. */
static bool number(const char *text, unsigned base, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (base != 16 && text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        int digit = base == 16 ? g_ascii_xdigit_value(*text) : g_ascii_digit_value(*text);
        if (digit < 0 || v > (UINT64_MAX - (unsigned)digit) / base)
            return false;
        v = v * base + (unsigned)digit;
    }
    *out = v;
    return v <= max;
}

/* Words from..n as bytes of two digits each. */
static bool hex_bytes(Reading *r, unsigned from, uint8_t *out, unsigned max)
{
    if (r->n <= from)
        return bad(r, "'%s' has no bytes", r->word[0]);
    if (r->n - from > max)
        return bad(r, "'%s' has %u bytes where %u fit", r->word[0], r->n - from, max);
    for (unsigned i = from; i < r->n; i++) {
        uint64_t v;
        if (strlen(r->word[i]) != 2 || !number(r->word[i], 16, 0xff, &v))
            return bad(r, "'%.20s' is not a byte of two hexadecimal digits", r->word[i]);
        out[i - from] = (uint8_t)v;
    }
    return true;
}

static bool read_insn(Reading *r)
{
    r->c->len = (uint8_t)(r->n - 1);
    return hex_bytes(r, 1, r->c->insn, sizeof(r->c->insn));
}

static bool read_memory(Reading *r)
{
    bool data = g_str_has_prefix(r->word[0], "data+");
    uint8_t *mem = data ? r->c->data : r->c->stack;
    unsigned size = data ? CASE_DATA_BYTES : CASE_STACK_BYTES;
    uint64_t at;
    if (!number(strchr(r->word[0], '+') + 1, 10, size - 1, &at))
        return bad(r, "'%.40s': the offset is not a number below %#x", r->word[0], size);
    if (data && at + r->n - 1 > CASE_DATA_GONE && at < CASE_DATA_GONE + 0x1000)
        return bad(r, "'%s' reaches into the page that is not there", r->word[0]);
    return hex_bytes(r, 1, mem + at, size - (unsigned)at);
}

/* "base", "0x10" at word i. */
static bool part(const Reading *r, unsigned i, const char *what, uint64_t max, uint64_t *v)
{
    return i + 1 < r->n && !strcmp(r->word[i], what) && number(r->word[i + 1], 10, max, v);
}

static bool read_segment(Reading *r, Segment *g)
{
    uint64_t sel, base, limit, attr;
    if (r->n != 8 || !number(r->word[1], 16, 0xffff, &sel) ||
        !part(r, 2, "base", UINT64_MAX, &base) || !part(r, 4, "limit", UINT32_MAX, &limit) ||
        !part(r, 6, "attr", 0x1ffff, &attr))
        return bad(r, "%s is not of the form '0033 base 0x0 limit 0xffffffff attr 0xa0fb'",
                   r->word[0]);
    *g = (Segment){
        .selector = (uint16_t)sel, .base = base, .limit = (uint32_t)limit, .attr = (uint32_t)attr};
    return true;
}

static bool read_table(Reading *r, DescTable *t)
{
    uint64_t base, limit;
    if (r->n != 5 || !part(r, 1, "base", UINT64_MAX, &base) || !part(r, 3, "limit", 0xffff, &limit))
        return bad(r, "%s is not of the form 'base 0x60010000 limit 0x7f'", r->word[0]);
    *t = (DescTable){base, (uint16_t)limit};
    return true;
}

/* A hexadecimal number of up to `bytes` bytes, little-endian in memory. */
static bool read_wide(Reading *r, uint8_t *to, unsigned bytes)
{
    const char *hex = r->word[1];
    size_t digits = r->n == 2 && g_str_has_prefix(hex, "0x") ? strlen(hex) - 2 : 0;
    if (!digits || digits > 2 * bytes)
        return bad(r, "%s is not 0x and up to %u hexadecimal digits", r->word[0], 2 * bytes);
    memset(to, 0, bytes);
    for (size_t i = 0; i < digits; i++) {
        int v = g_ascii_xdigit_value(hex[2 + digits - 1 - i]);
        if (v < 0)
            return bad(r, "%s is not 0x and up to %u hexadecimal digits", r->word[0], 2 * bytes);
        to[i / 2] |= (uint8_t)(v << (i & 1) * 4);
    }
    return true;
}

static bool read_field(Reading *r, const VmstateField *f)
{
    void *to = (char *)&r->c->in + f->offset;
    uint64_t v;

    switch (f->type) {
    case VMSTATE_SEGMENT:
        return read_segment(r, to);
    case VMSTATE_TABLE:
        return read_table(r, to);
    case VMSTATE_VECREG:
        return read_wide(r, to, sizeof(VecReg));
    case VMSTATE_FPREG:
        return read_wide(r, to, 10);
    default:
        break;
    }
    unsigned bytes = f->type == VMSTATE_U64   ? 8
                     : f->type == VMSTATE_U32 ? 4
                     : f->type == VMSTATE_U16 ? 2
                                              : 1;
    if (r->n != 2 || !number(r->word[1], 10, f->type == VMSTATE_BOOL ? 1 : size_mask(bytes), &v))
        return bad(r, "%s is not a number of %u bytes", f->name, bytes);
    memcpy(to, &v, bytes);
    return true;
}

static bool read_stop(Reading *r)
{
    for (unsigned i = 0; i < STOP_N; i++) {
        if (r->n == 2 && !strcmp(r->word[1], stop_name[i])) {
            r->c->stop = (uint8_t)i;
            return true;
        }
    }
    return bad(r, "stop is 'step' or 'through'");
}

/* mode and cpl come before all fields: they say what the others are by default. */
static bool read_mode(Reading *r)
{
    for (unsigned i = 0; i < CM_N; i++) {
        if (r->n == 2 && !strcmp(r->word[1], case_mode_name[i])) {
            r->c->mode = (uint8_t)i;
            return true;
        }
    }
    return bad(r, "there is no such mode; the modes are long, compat32, compat16, prot32, prot16, "
                  "vm86 and real");
}

static bool read_cpl(Reading *r)
{
    DiffCase head;
    uint64_t cpl;
    if (!g_hash_table_contains(r->seen, "mode"))
        return bad(r, "cpl comes after mode");
    if (r->n != 2 || !number(r->word[1], 10, 3, &cpl) || (cpl != 0 && cpl != 3))
        return bad(r, "cpl is 0 or 3");
    head = *r->c;
    case_baseline(r->c, head.mode, (unsigned)cpl);
    if (r->c->in.cpl != cpl)
        return bad(r, "mode %s has no cpl %u", case_mode_name[head.mode], (unsigned)cpl);
    memcpy(r->c->insn, head.insn, sizeof(head.insn));
    r->c->len = head.len;
    return true;
}

static bool read_number(Reading *r, uint64_t *to)
{
    return (r->n == 2 && number(r->word[1], 10, UINT64_MAX, to)) ||
           bad(r, "%s is not a number", r->word[0]);
}

static bool read_line(Reading *r)
{
    static const struct {
        const char *name;
        bool (*read)(Reading *);
    } head[] = {{"insn", read_insn}, {"mode", read_mode}, {"cpl", read_cpl}};
    const char *what = r->word[0];
    const VmstateField *f = vmstate_field(what);

    if (!g_hash_table_add(r->seen, g_strdup(what)))
        return bad(r, "'%.40s' comes twice", what);
    for (unsigned i = 0; i < ARRAY_LEN(head); i++)
        if (!strcmp(what, head[i].name))
            return head[i].read(r);
    if (!g_hash_table_contains(r->seen, "cpl"))
        return bad(r, "'%.40s' before insn, mode and cpl", what);
    if (!strcmp(what, "stop"))
        return read_stop(r);
    if (!strcmp(what, "seed"))
        return read_number(r, &r->c->seed);
    if (!strcmp(what, "index"))
        return read_number(r, &r->c->index);
    if (g_str_has_prefix(what, "data+") || g_str_has_prefix(what, "stack+"))
        return read_memory(r);
    if (f && in_file(f))
        return read_field(r, f);
    return bad(r, "no field '%.40s'", what);
}

/* Cuts the line into words; what follows # is a comment. */
static bool split(Reading *r, char *line)
{
    r->n = 0;
    line[strcspn(line, "#")] = 0;
    for (char *p = line; *p; p++)
        if (!g_ascii_isprint(*p) && *p != '\t' && *p != '\r')
            return bad(r, "byte %#x is not text", (unsigned char)*p);
    for (char *save = NULL, *w = strtok_r(line, " \t\r", &save); w;
         w = strtok_r(NULL, " \t\r", &save)) {
        if (r->n == WORDS_MAX)
            return bad(r, "more than %u words", WORDS_MAX);
        r->word[r->n++] = w;
    }
    return true;
}

static bool read_lines(Reading *r, char *text)
{
    bool begun = false;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        r->line++;
        if (!split(r, line))
            return false;
        if (!r->n)
            continue;
        if (!begun) {
            if (r->n != 3 || strcmp(r->word[0], "tandem") != 0 || strcmp(r->word[1], "case") != 0)
                return bad(r, "not a case: the first line is '%s'", first_line);
            if (strcmp(r->word[2], "1") != 0)
                return bad(r, "a case of version '%.20s'; this program reads version 1",
                           r->word[2]);
            begun = true;
        } else if (!read_line(r)) {
            return false;
        }
    }
    if (!begun)
        return bad(r, "empty; the first line of a case is '%s'", first_line);
    if (!g_hash_table_contains(r->seen, "insn") || !g_hash_table_contains(r->seen, "cpl"))
        return bad(r, "the file ends without %s",
                   g_hash_table_contains(r->seen, "insn") ? "mode and cpl" : "insn");
    g_autoptr(GError) why = NULL;
    return case_valid(r->c, &why) || bad(r, "%s", why->message);
}

bool case_read(DiffCase *c, const char *text, const char *name, GError **err)
{
    Reading r = {.name = name, .c = c, .err = err};
    char *copy = g_strdup(text);

    memset(c, 0, sizeof(*c));
    r.seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    bool ok = read_lines(&r, copy);
    g_hash_table_destroy(r.seen);
    g_free(copy);
    return ok;
}
