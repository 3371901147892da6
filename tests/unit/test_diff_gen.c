/* The generator of cases: what a number makes is always the same, and every row is made. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "diff/engines.h"
#include "tcg/insn.h"
#include "run_suite.h"

static uint16_t *all_rows(unsigned *n)
{
    uint16_t *rows = g_new(uint16_t, op_rows_n);
    GError *err = NULL;
    *n = case_select_rows(NULL, rows, &err);
    ck_assert_msg(*n > 1000, "%s", err ? err->message : "few rows");
    return rows;
}

static DiffCase *make(uint64_t seed, uint64_t index, const uint16_t *rows, unsigned n)
{
    DiffCase *c = g_new(DiffCase, 1);
    memset(c, 0xa5, sizeof(*c));
    if (case_generate(c, seed, index, rows, n, CASE_USER_MODES | CASE_SYSTEM_MODES))
        return c;
    g_free(c);
    return NULL;
}

static bool same(const DiffCase *a, const DiffCase *b)
{
    return a->row == b->row && a->form == b->form && a->mode == b->mode && a->stop == b->stop &&
           a->len == b->len && !memcmp(a->insn, b->insn, sizeof(a->insn)) &&
           !memcmp(&a->in, &b->in, sizeof(a->in)) && !memcmp(a->data, b->data, sizeof(a->data)) &&
           !memcmp(a->stack, b->stack, sizeof(a->stack));
}

START_TEST(same_number_same_case)
{
    unsigned n, made = 0, differ = 0;
    g_autofree uint16_t *rows = all_rows(&n);
    for (uint64_t k = 0; k < 3000; k++) {
        DiffCase *a = make(7, k * 11, rows, n);
        DiffCase *other = make(8, k * 11, rows, n); /* its memory comes from another pool */
        DiffCase *b = make(7, k * 11, rows, n);
        ck_assert(!a == !b);
        if (a)
            ck_assert_msg(same(a, b), "case %u is not the same twice", (unsigned)k * 11);
        made += a && other; /* the host may lack what the others need */
        differ += a && other && !same(a, other);
        g_free(a);
        g_free(b);
        g_free(other);
    }
    ck_assert_uint_gt(made, 1500);
    ck_assert_uint_gt(differ, made - made / 30);
}
END_TEST

START_TEST(cases_are_valid)
{
    unsigned n;
    g_autofree uint16_t *rows = all_rows(&n);
    for (uint64_t k = 0; k < 4ull * n; k++) {
        GError *err = NULL;
        char name[64];
        g_autofree DiffCase *c = make(3, k, rows, n);
        if (!c)
            continue;
        uint16_t row = c->row, form = c->form;
        ck_assert_msg(case_valid(c, &err), "case %u (%s): %s", (unsigned)k,
                      case_row_name(c->row, name), err ? err->message : "");
        ck_assert_uint_eq(row, rows[k % n]);
        if (case_classify(c) && c->row == row)
            ck_assert_uint_eq(form, c->form);
    }
}
END_TEST

/* Rows that this host's guest CPU has are made within a few numbers each. */
START_TEST(every_row_is_made)
{
    unsigned n, missing = 0;
    g_autofree uint16_t *rows = all_rows(&n);
    g_autofree uint8_t *seen = g_malloc0(op_rows_n);
    for (uint64_t k = 0; k < 20ull * n; k++) {
        g_autofree DiffCase *c = make(5, k, rows, n);
        if (c)
            seen[c->row] = 1;
    }
    for (unsigned k = 0; k < op_rows_n; k++) {
        char name[64], why[64];
        if (seen[k] || case_unreachable((uint16_t)k, why))
            continue;
        printf("no case of row %s\n", case_row_name((uint16_t)k, name));
        missing++;
    }
    ck_assert_uint_eq(missing, 0);
}
END_TEST

START_TEST(row_names_are_unique)
{
    unsigned n;
    g_autofree uint16_t *rows = all_rows(&n);
    g_autofree uint16_t *one = g_new(uint16_t, op_rows_n);
    GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (unsigned k = 0; k < n; k++) {
        char name[64], form[48];
        case_row_name(rows[k], name);
        ck_assert_msg(g_hash_table_add(seen, g_strdup(name)), "two rows are called %s", name);
        GError *err = NULL;
        unsigned found = case_select_rows(name, one, &err);
        ck_assert_msg(found >= 1, "%s", err ? err->message : name);
        ck_assert_uint_lt(strlen(case_form_name((uint16_t)(k * 37), form)), 48);
    }
    g_hash_table_destroy(seen);
}
END_TEST

START_TEST(patterns)
{
    g_autofree uint16_t *rows = g_new(uint16_t, op_rows_n);
    GError *err = NULL;
    char name[64];
    ck_assert_uint_eq(case_select_rows("popcnt", rows, &err), 1);
    ck_assert_str_eq(case_row_name(rows[0], name), "0F B8 F3 popcnt Gv,Ev");
    ck_assert_uint_eq(case_select_rows(name, rows, &err), 1);
    ck_assert_uint_eq(case_select_rows("daa, aas", rows, &err), 2);
    ck_assert_uint_gt(case_select_rows("avx2", rows, &err), 100);
    ck_assert_uint_gt(case_select_rows("*cvt*", rows, &err), 20);
    ck_assert_uint_eq(case_select_rows("popcnt,nosuch", rows, &err), 0);
    ck_assert_msg(strstr(err->message, "nosuch") != NULL, "%s", err->message);
    g_clear_error(&err);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("gen");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, same_number_same_case);
    tcase_add_test(tc, cases_are_valid);
    tcase_add_test(tc, every_row_is_made);
    tcase_add_test(tc, row_names_are_unique);
    tcase_add_test(tc, patterns);
    Suite *suite = suite_create("diff gen");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
