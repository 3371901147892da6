/*
 * `tandem bench rows`: what an execution of each row costs in the interpreter, in translated code,
 * and on this processor. See rows.h for what is run.
 *
 * Instructions come from the generator of `diff insn`. One is taken when it can be run again and
 * again behind itself: no fault, no branch away (near branches get a displacement of 0). Values are
 * tame: no denormals, all exceptions masked.
 */
#include "diff/rows.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/log.h"
#include "diff/diff.h"
#include "diff/progress.h"
#include "diff/software.h"
#include "jit/jit.h"

#define COPIES     16
#define COPIES_FPU 8 /* x87 pushes and pops have eight registers */
#define COPIES_TWO 4 /* those that pop two */
#define TRIES      160
#define FORMS      2 /* registers only; memory */

static const char *const emit_name[EMIT_N] = {
    [EMIT_HELPER] = "-",        [EMIT_COPY] = "COPY",   [EMIT_TEST] = "TEST",
    [EMIT_CL] = "CL",           [EMIT_IMM] = "IMM",     [EMIT_LEA] = "LEA",
    [EMIT_MUL] = "MUL",         [EMIT_DIV] = "DIV",     [EMIT_CONV] = "CONV",
    [EMIT_CMPXCHG] = "CMPXCHG", [EMIT_PUSH] = "PUSH",   [EMIT_POP] = "POP",
    [EMIT_LEAVE] = "LEAVE",     [EMIT_NOP] = "NOP",     [EMIT_CLI] = "CLI",
    [EMIT_STI] = "STI",         [EMIT_PUSHF] = "PUSHF", [EMIT_X87] = "X87",
    [EMIT_BRANCH] = "BRANCH",   [EMIT_SYS] = "SYS",     [EMIT_GATHER] = "GATHER",
    [EMIT_OFTEN] = "OFTEN",
};

/* A line of the table. Nanoseconds; below 0: not to be had. */
typedef struct Line {
    uint16_t row;
    bool memory, system;
    bool handler; /* the translator left it to its exec function */
    double interp, jit, native;
    char text[96];
} Line;

typedef struct Bench {
    DiffExec *interp, *jit, *silicon;
    DiffCase *c, *best;
    unsigned copies; /* of best */
    GArray *lines;
    unsigned not_there;  /* rows that the guest's CPU has not here */
    GPtrArray *left_out; /* names of rows that could not be timed */
} Bench;

/* ---- the code ---- */
static void put(RowsCode *r, const void *bytes, unsigned n)
{
    g_assert(r->size + n <= sizeof(r->code));
    memcpy(r->code + r->size, bytes, n);
    r->size += n;
}

static void put_address(RowsCode *r, uint64_t address)
{
    uint32_t a = (uint32_t)address;
    put(r, &a, 4);
}

static void put_fxrstor(RowsCode *r)
{
    put(r, "\x48\x0f\xae\x0c\x25", 5);
    put_address(r, ROWS_FX);
}

void rows_code(RowsCode *r, const DiffCase *c, unsigned copies, bool fx_each_round)
{
    r->size = 0;
    if (!fx_each_round)
        put_fxrstor(r);
    unsigned loop = r->size;
    if (fx_each_round)
        put_fxrstor(r);
    for (unsigned k = 0; k < 16; k++) {
        uint8_t mov[2] = {(uint8_t)(0x48 | (k >> 3)), (uint8_t)(0xb8 | (k & 7))};
        put(r, mov, 2);
        put(r, &c->in.gpr[k], 8);
    }
    for (unsigned k = 0; k < copies; k++)
        put(r, c->insn, c->len);
    put(r, "\x48\xff\x0c\x25", 4);
    put_address(r, ROWS_COUNTER);
    put(r, "\x0f\x85", 2);
    put_address(r, (uint64_t)loop - r->size - 4);
    r->stop = r->size;
    put(r, "\xf4", 1);
}

/* ---- in a software engine ---- */
typedef struct Soft {
    DiffExec *x;
    const Engine *engine;
    const DiffCase *c;
    const RowsCode *code;
    uint64_t most; /* instructions; 0: no limit */
} Soft;

static double soft_time(void *opaque, uint64_t rounds)
{
    const Soft *s = opaque;
    Vcpu *v = software_vcpu(s->x);
    software_prepare(s->x, s->c);
    memset(software_at(s->x, CASE_CODE), 0xcc, CASE_CODE_BYTES);
    memcpy(software_at(s->x, CASE_CODE), s->code->code, s->code->size);
    memcpy(software_at(s->x, ROWS_COUNTER), &rounds, 8);
    RunLimit limit = {.max_insns = s->most, .stop_at_exception = true};
    uint64_t begun = rows_now();
    Exit e = s->engine->run(v, &limit);
    uint64_t took = rows_now() - begun, left;
    memcpy(&left, software_at(s->x, ROWS_COUNTER), 8);
    uint64_t stop = CASE_CODE + s->code->stop;
    bool end = (e.kind == EXIT_HLT && v->st.rip == stop + 1) ||
               (e.kind == EXIT_EXCEPTION && e.exc.vector == VEC_GP && v->st.rip == stop);
    return end && left == 0 ? (double)took : -1;
}

/* ---- choosing ---- */

/* What FXRSTOR finds, and memory: normal numbers as float, double and, in x87 registers, 1.5. */
static void tame(DiffCase *c, bool full_stack)
{
    const uint64_t number = 0x3ff000003ff00000;
    for (unsigned k = 0; k < CASE_DATA_BYTES; k += 8)
        if (k < CASE_DATA_GONE || k >= CASE_DATA_GONE + 0x1000)
            memcpy(c->data + k, &number, 8);
    memset(c->stack, 0, sizeof(c->stack));
    uint8_t *fx = c->data + (ROWS_FX - CASE_DATA);
    memset(fx, 0, 512);
    fx[0] = 0x7f; /* FCW 037F */
    fx[1] = 0x03;
    fx[4] = full_stack ? 0xff : 0; /* abridged tags */
    fx[24] = 0x80;                 /* MXCSR 1F80 */
    fx[25] = 0x1f;
    for (unsigned k = 0; k < 8; k++)
        memcpy(fx + 32 + 16 * k, "\0\0\0\0\0\0\0\xc0\xff\x3f", 10);
    for (unsigned k = 0; k < 32; k++)
        memcpy(fx + 160 + 8 * k, &number, 8);
    CpuState *s = &c->in;
    s->rip = CASE_CODE;
    s->rflags = FL_FIXED;
    s->fpu.mxcsr = 0x1f80;
    s->fpu.fcw = 0x37f;
    s->dr7 = 0x400;
    c->stop = STOP_THROUGH;
}

static bool on_fpu(uint16_t row)
{
    return op_rows[row].attr & (A_FPU | A_MMX);
}

static void code_of(const DiffCase *c, unsigned copies, RowsCode *r)
{
    rows_code(r, c, copies, on_fpu(c->row));
}

/* Can it follow itself? Two rounds of all copies. */
static bool runs(Bench *b, DiffCase *c, unsigned copies)
{
    RowsCode code;
    code_of(c, copies, &code);
    Soft s = {b->interp, &engine_interp, c, &code, 20000};
    return soft_time(&s, 2) >= 0;
}

/* A near branch to the instruction behind it. */
static void shorten(DiffCase *c)
{
    unsigned to = op_rows[c->row].op[0], n = to == O_Jb ? 1 : to == O_Jz ? 4 : 0;
    if (n && n < c->len)
        memset(c->insn + c->len - n, 0, n);
}

/* How far it is from what compilers make: length, so prefixes too, operands of 16 bits, and those
 * that are not aligned. */
static unsigned oddness(const DiffCase *c, const Insn *i)
{
    bool relative = !(i->flags & IF_MEM) || i->base == GPR_IP;
    return c->len + 8u * (i->opsize == 2) + (!relative && (ea_offset(&c->in, i) & 15) ? 8 : 0);
}

/* An operand that may lie in two pages: what is slow in any engine, and rare. */
static bool at_page_end(const DiffCase *c, const Insn *i)
{
    return (i->flags & IF_MEM) && i->base != GPR_IP && (ea_offset(&c->in, i) & 0xfff) > 0x1000 - 64;
}

/* The best of the generator's. False: none that runs. */
static bool choose(Bench *b, uint16_t row, bool memory, bool system)
{
    /* x87 stacks: full, empty; then fewer copies. */
    const unsigned ways = on_fpu(row) ? 4 : 1;
    DiffCase *c = b->c;
    bool found = false;
    unsigned least = 0;
    for (unsigned k = 0; k < TRIES; k++) {
        Insn i;
        if (!case_generate(c, 1, k, &row, 1, system ? BIT(CM_LONG) << 8 : BIT(CM_LONG)))
            return false;
        shorten(c);
        if (decode(&i, c->insn, c->len, case_decode_mode(c), case_features()) != DECODE_OK ||
            i.row != row || !(i.flags & IF_MEM) == memory || at_page_end(c, &i) ||
            (found && oddness(c, &i) >= least))
            continue;
        for (unsigned way = 0; way < ways; way++) {
            unsigned copies = !on_fpu(row) ? COPIES : way < 2 ? COPIES_FPU : COPIES_TWO;
            tame(c, way % 2 == 0);
            if (runs(b, c, copies)) {
                *b->best = *c;
                b->copies = copies;
                least = oddness(c, &i);
                found = true;
                break;
            }
        }
    }
    return found;
}

/* ---- timing ---- */
static double each(double all, double one, unsigned copies)
{
    return all < 0 || one < 0 ? -1 : MAX(0, (all - one) / (copies - 1));
}

static double soft_each(const Bench *b, DiffExec *x, const Engine *e, const RowsCode *all,
                        const RowsCode *one, unsigned copies)
{
    double ns[2];
    const RowsCode *code[2] = {all, one};
    for (unsigned k = 0; k < 2; k++)
        ns[k] = rows_measure(soft_time, &(Soft){x, e, b->best, code[k], 0});
    return each(ns[0], ns[1], copies);
}

static void time_line(Bench *b, uint16_t row, bool memory, bool system)
{
    Line l = {.row = row, .memory = memory, .system = system, .jit = -1, .native = -1};
    RowsCode all, one;
    unsigned copies = b->copies;
    code_of(b->best, copies, &all);
    code_of(b->best, 1, &one);
    l.interp = soft_each(b, b->interp, &engine_interp, &all, &one, copies);
    if (b->jit) {
        const Jit *j = jit_of(software_vcpu(b->jit));
        uint32_t before = j->row_helpers[row];
        l.jit = soft_each(b, b->jit, &engine_jit, &all, &one, copies);
        l.handler = j->row_helpers[row] - before > copies;
    }
    double on, off;
    if (b->silicon && !diff_engine_silicon.refuses(b->silicon, b->best) &&
        rows_native(b->best, &all, &one, &on, &off))
        l.native = each(on, off, copies);
    g_autoptr(GString) text = g_string_new(NULL);
    case_asm(b->best, text);
    g_strlcpy(l.text, text->str, sizeof(l.text));
    g_array_append_val(b->lines, l);
}

static void time_row(Bench *b, uint16_t row)
{
    bool any = false;
    for (unsigned memory = 0; memory < FORMS; memory++) {
        for (unsigned system = 0; system < 2; system++) {
            if (!choose(b, row, memory, system))
                continue;
            time_line(b, row, memory, system);
            any = true;
            break;
        }
    }
    char name[64];
    if (!any)
        g_ptr_array_add(b->left_out, g_strdup(case_row_name(row, name)));
}

/* ---- the table ---- */

/* What is lost against the processor, or against nothing where that cannot be judged. */
static double lost(const Line *l)
{
    double ours = l->jit >= 0 ? l->jit : l->interp;
    return ours - MAX(0, l->native);
}

static int by_loss(const void *a, const void *b)
{
    double x = lost(a), y = lost(b);
    return x < y ? 1 : x > y ? -1 : 0;
}

static void number(GString *out, double ns, int width)
{
    if (ns < 0)
        g_string_append_printf(out, "%*s", width, "-");
    else
        g_string_append_printf(out, "%*.2f", width, ns);
}

static void print_table(const Bench *b, guint most)
{
    printf(
        "nanoseconds an execution        interp       jit    native  jit/native  emit     by       "
        "instruction\n");
    for (guint k = 0; k < b->lines->len && k < most; k++) {
        const Line *l = &g_array_index(b->lines, Line, k);
        g_autoptr(GString) out = g_string_new(NULL);
        char name[64];
        g_string_append_printf(out, "%-28.28s", case_row_name(l->row, name));
        number(out, l->interp, 10);
        number(out, l->jit, 10);
        number(out, l->native, 10);
        number(out, l->native > 0.05 && l->jit >= 0 ? l->jit / l->native : -1, 12);
        printf("%s  %-7s  %-7s  %s%s\n", out->str, emit_name[op_rows[l->row].emit],
               l->jit < 0   ? "-"
               : l->handler ? "handler"
                            : "itself",
               l->text, l->system ? " (privilege 0)" : "");
    }
    if (b->lines->len > most)
        printf("... and %u lines more; --csv FILE has all\n", b->lines->len - most);
    if (b->not_there)
        printf("%u rows more are none of this host's guests\n", b->not_there);
    if (!b->left_out->len)
        return;
    g_ptr_array_add(b->left_out, NULL);
    g_autofree char *names = g_strjoinv(", ", (char **)b->left_out->pdata);
    printf("not timed, as none that was tried can follow itself: %s\n", names);
}

static bool write_csv(const Bench *b, const char *path, GError **err)
{
    g_autoptr(GString) out =
        g_string_new("row,instruction,privilege,emit,by,interp_ns,jit_ns,native_ns\n");
    for (guint k = 0; k < b->lines->len; k++) {
        const Line *l = &g_array_index(b->lines, Line, k);
        const double ns[] = {l->interp, l->jit, l->native};
        char name[64];
        g_string_append_printf(out, "\"%s\",\"%s\",%u,%s,%s", case_row_name(l->row, name), l->text,
                               l->system ? 0 : 3, emit_name[op_rows[l->row].emit],
                               l->jit < 0   ? ""
                               : l->handler ? "handler"
                                            : "itself");
        for (unsigned n = 0; n < ARRAY_LEN(ns); n++)
            if (ns[n] < 0)
                g_string_append_c(out, ',');
            else
                g_string_append_printf(out, ",%.3f", ns[n]);
        g_string_append_c(out, '\n');
    }
    return file_write(path, out->str, out->len, err);
}

/* ---- the command ---- */
typedef struct Options {
    char *rows, *csv;
    int top;
} Options;

static bool parse(Options *o, int argc, char *argv[], GError **err)
{
    const GOptionEntry entries[] = {
        {"rows", 'r', 0, G_OPTION_ARG_STRING, &o->rows,
         "mnemonics, CPUID features or patterns of row names (all)", "PATTERNS"},
        {"csv", 'o', 0, G_OPTION_ARG_FILENAME, &o->csv, "write all lines there too", "FILE"},
        {"top", 'n', 0, G_OPTION_ARG_INT, &o->top, "show the first N lines (60; 0: all)", "N"},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    GOptionContext *c = g_option_context_new("");
    g_option_context_set_summary(
        c,
        "Times single instructions of each row of the instruction table: in the interpreter, in\n"
        "translated code, and on this processor where a process can run them. What costs most\n"
        "more than the processor's own comes first: rows that go by their handlers there, and\n"
        "that guests use (the monitor's 'info jit' counts), deserve an emitter.");
    g_option_context_add_main_entries(c, entries, NULL);
    bool ok = g_option_context_parse(c, &argc, &argv, err);
    g_option_context_free(c);
    if (ok && argc > 1) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "'%s' is not understood; see --help", argv[1]);
        ok = false;
    }
    if (ok && o->top < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--top %d: 0 or more", o->top);
        ok = false;
    }
    return ok;
}

static bool begin(Bench *b, GError **err)
{
    GError *why = NULL;
    b->interp = software_open(&engine_interp, err);
    if (!b->interp)
        return false;
    if (jit_supported(&why))
        b->jit = software_open(&engine_jit, &why);
    if (b->jit)
        jit_of(software_vcpu(b->jit))->hot_after = 0;
    else
        warn_user("bench rows: without translated code: %s", why->message);
    g_clear_error(&why);
    b->silicon = diff_engine_silicon.open(&why);
    if (!b->silicon)
        warn_user("bench rows: not on this processor: %s", why->message);
    g_clear_error(&why);
    b->c = g_new0(DiffCase, 1);
    b->best = g_new0(DiffCase, 1);
    b->lines = g_array_new(FALSE, FALSE, sizeof(Line));
    b->left_out = g_ptr_array_new_with_free_func(g_free);
    return true;
}

static void end(Bench *b)
{
    if (b->silicon)
        diff_engine_silicon.close(b->silicon);
    if (b->jit)
        software_close(b->jit);
    if (b->interp)
        software_close(b->interp);
    if (b->lines)
        g_array_unref(b->lines);
    if (b->left_out)
        g_ptr_array_unref(b->left_out);
    g_free(b->c);
    g_free(b->best);
}

static bool bench_rows(const Options *o, GError **err)
{
    Bench b = {0};
    Progress p;
    g_autofree uint16_t *rows = g_new(uint16_t, op_rows_n);
    unsigned n = case_select_rows(o->rows, rows, err);
    bool ok = n && begin(&b, err);
    if (ok) {
        progress_start(&p, "rows", n, 0);
        for (unsigned k = 0; k < n; k++) {
            char why[64];
            if (case_unreachable(rows[k], why))
                b.not_there++;
            else
                time_row(&b, rows[k]);
            progress(&p, k + 1, NULL);
        }
        progress_end(&p);
        g_array_sort(b.lines, by_loss);
        print_table(&b, o->top ? (guint)o->top : G_MAXUINT);
        ok = !o->csv || write_csv(&b, o->csv, err);
    }
    end(&b);
    return ok;
}

int bench_main(int argc, char *argv[])
{
    Options o = {.top = 60};
    GError *err = NULL;
    bool named = argc >= 2 && !strcmp(argv[1], "rows");
    if (!named) {
        bool help = argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"));
        if (argc >= 2 && !help)
            warn_user("bench: no mode '%s'", argv[1]);
        fputs("usage: tandem bench rows ...; 'tandem bench rows --help' says more\n",
              help ? stdout : stderr);
        return help ? 0 : 2;
    }
    g_set_prgname("tandem bench rows");
    bool ok = parse(&o, argc - 1, argv + 1, &err) && bench_rows(&o, &err);
    if (!ok) {
        warn_user("bench rows: %s", err->message);
        g_error_free(err);
    }
    g_free(o.rows);
    g_free(o.csv);
    return ok ? 0 : 2;
}
