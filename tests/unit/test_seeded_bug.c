/*
 * Is the instrument able to find a bug? One flag of one instruction is flipped, in an executor that
 * lives here alone, and cases drawn from all rows must find it and shrink to that instruction.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "diff/engines.h"
#include "tcg/insn.h"
#include "run_suite.h"

/* A planted bug: flag of the row is flipped if a bit of a register is set. */
typedef struct Bug {
    const char *row;
    uint64_t flag;
    unsigned reg, bit;
} Bug;

static const Bug *bug;

static const char *refuses(DiffExec *x, const DiffCase *c)
{
    return diff_engine_interp.refuses(x, c);
}

static void run(DiffExec *x, const DiffCase *c, DiffOutcome *o, unsigned n)
{
    char name[64];
    diff_engine_interp.run(x, c, o, n);
    for (unsigned i = 0; i < n; i++)
        if (o[i].kind == OUT_DONE && !strcmp(case_row_name(c[i].row, name), bug->row) &&
            c[i].in.gpr[bug->reg] >> bug->bit & 1)
            o[i].st.rflags ^= bug->flag;
}

static const DiffEngine broken = {
    .name = "broken", .groups = GRP_REGS | GRP_SREGS | GRP_FPU, .refuses = refuses, .run = run};

/* Cases it took, or 0. */
static uint64_t find(DiffExec *a, DiffExec *b, uint64_t seed, DiffCase *c)
{
    enum { CASES = 400000 };
    static DiffOutcome oa, ob;
    uint16_t *rows = g_new(uint16_t, op_rows_n);
    unsigned n = case_select_rows(NULL, rows, NULL);
    uint64_t i, found = 0;

    for (i = 0; i < CASES && !found; i++) {
        if (!case_generate(c, seed, i, rows, n, CASE_USER_MODES) ||
            diff_engine_interp.refuses(a, c))
            continue;
        diff_engine_interp.run(a, c, &oa, 1);
        broken.run(b, c, &ob, 1);
        if (!case_compare(c, &oa, &ob, broken.groups, NULL))
            found = i + 1;
    }
    g_free(rows);
    return found;
}

static const Bug bugs[] = {
    {"19 sbb Ev,Gv", FL_AF, RBX, 3},
    {"D1 /2 rcl Ev,I1", FL_OF, RCX, 0},
    {"0F BD F3 lzcnt Gv,Ev", FL_ZF, RSI, 5},
    {"0F C7 /1m cmpxchg8b M", FL_ZF, RDX, 1},
    {"F5 cmc", FL_CF, RBP, 2},
};

START_TEST(found_and_shrunk)
{
    static DiffCase c;
    GError *err = NULL;
    DiffExec *a = diff_engine_interp.open(&err), *b = diff_engine_interp.open(&err);
    char name[64];

    ck_assert_msg(a && b, "%s", err ? err->message : "");
    bug = &bugs[_i];
    uint64_t cases = find(a, b, 42 + (uint64_t)_i, &c);
    ck_assert_msg(cases, "%s was not found", bug->row);
    ck_assert_str_eq(case_row_name(c.row, name), bug->row);
    unsigned tries = case_shrink(&c, &diff_engine_interp, a, &broken, b);
    ck_assert_str_eq(case_row_name(c.row, name), bug->row);

    /* What is left: the instruction, the one bit, and at most an address. */
    GString *text = g_string_new(NULL);
    case_write(&c, text);
    unsigned lines = 0;
    for (const char *p = text->str; *p; p++)
        lines += *p == '\n';
    printf("%s: found by case %lu, shrunk in %u tries to\n%s\n", bug->row, (unsigned long)cases,
           tries, text->str);
    ck_assert_uint_le(lines, 11); /* 7 of them are always there */
    ck_assert_uint_le(c.len, 9);  /* REX, opcode of two, ModRM, SIB, an address of four */
    ck_assert(c.in.gpr[bug->reg] >> bug->bit & 1);
    g_string_free(text, TRUE);
    diff_engine_interp.close(a);
    diff_engine_interp.close(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("seeded_bug");
    TCase *t = tcase_create("bugs");
    tcase_add_loop_test(t, found_and_shrunk, 0, (int)ARRAY_LEN(bugs));
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    return run_suite(s);
}
