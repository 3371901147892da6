/* State as text: every field there and back; nothing that is not one gets in. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "vmstate/state.h"
#include "vmstate/text.h"
#include "run_suite.h"

static CpuState *new_state(void)
{
    CpuState *s = aligned_alloc(64, sizeof(CpuState));
    memset(s, 0, sizeof(*s));
    return s;
}

START_TEST(there_and_back)
{
    CpuState *a = new_state(), *b = new_state();
    g_autoptr(GString) text = g_string_new(NULL);
    vmstate_randomise(a, (uint64_t)_i);
    a->run_state = RUN_HALTED;
    vmstate_write_text(a, "", text);
    g_auto(GStrv) lines = g_strsplit(text->str, "\n", -1);
    for (char **l = lines; *l; l++) {
        GError *err = NULL;
        if (**l && !vmstate_read_text(b, *l, &err))
            ck_abort_msg("%s", err->message);
    }
    ck_assert_uint_eq(vmstate_diff(a, b, GROUPS_ALL, NULL, NULL), 0);
    free(a);
    free(b);
}
END_TEST

START_TEST(refuses)
{
    static const char *const bad[] = {
        "",
        "RAX",
        "RAX ",
        "RAX 11",
        "RAX 11223344556677",
        "RAX 112233445566778",
        "RAX 112233445566778899",
        "RAX 11223344556677zz",
        "RAY 1122334455667788",
        "exception.pending 02",
        "run_state 06000000",
        "CPL 04",
        "CS 11",
    };
    CpuState *s = new_state(), *before = new_state();
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        GError *err = NULL;
        ck_assert_msg(!vmstate_read_text(s, bad[i], &err), "%s", bad[i]);
        ck_assert(err != NULL);
        g_error_free(err);
    }
    ck_assert_int_eq(memcmp(s, before, sizeof(*s)), 0);
    free(s);
    free(before);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vmstate text");
    TCase *tc = tcase_create("text");
    tcase_add_loop_test(tc, there_and_back, 0, 40);
    tcase_add_test(tc, refuses);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
