/* The engine trace: whole JSON after every event, whatever comes next. And the dry run of a switch,
 * which leaves everything as it was. */
#include <json-glib/json-glib.h>
#include <unistd.h>

#include "base/log.h"
#include "switch/loop_priv.h"
#include "switch/trace.h"
#include "tcg_guest.h"
#include "run_suite.h"

static char *path;
static EngineTrace *trace;

static JsonArray *read_back(JsonParser *p)
{
    g_autoptr(GError) err = NULL;
    if (!json_parser_load_from_file(p, path, &err))
        ck_abort_msg("%s", err->message);
    return json_node_get_array(json_parser_get_root(p));
}

static const char *member(JsonArray *a, guint i, const char *name)
{
    JsonObject *o = json_array_get_object_element(a, i);
    return json_object_has_member(o, name) ? json_object_get_string_member(o, name) : "";
}

static void setup(void)
{
    GError *err = NULL;
    guest_setup();
    guest.v.engine = &engine_interp;
    close(g_file_open_tmp("trace-XXXXXX", &path, NULL));
    trace = engine_trace_open(path, "a \"quoted\\ name\n", NULL, &err);
    ck_assert_msg(trace != NULL, "%s", err ? err->message : "");
}

static void teardown(void)
{
    unlink(path);
    g_free(path);
    guest_teardown();
}

START_TEST(whole_after_each_event)
{
    static const uint64_t steps[STEP_N] = {1000, 2500};
    g_autoptr(JsonParser) p = json_parser_new();
    JsonArray *a = read_back(p);
    ck_assert_uint_eq(json_array_get_length(a), 1);
    JsonObject *args = json_object_get_object_member(json_array_get_object_element(a, 0), "args");
    ck_assert_str_eq(json_object_get_string_member(args, "name"), "tandem a \"quoted\\ name\n");

    engine_trace_begin(trace, &guest.v);
    a = read_back(p);
    ck_assert_uint_eq(json_array_get_length(a), 3);
    ck_assert_str_eq(member(a, 2, "ph"), "B");
    ck_assert_str_eq(member(a, 2, "name"), "interp");

    CheckNote note = {.why = "CR0 \"is\" odd"}; /* of the first check */
    const CheckNotes noted = {&note, 1, 1};
    TracedSwitch w = {.from = &engine_interp,
                      .to = &engine_kvm,
                      .start_ns = switch_now_ns(),
                      .end_ns = switch_now_ns() + 12345,
                      .step_ns = steps,
                      .fields = 7,
                      .noted = &noted,
                      .why = "at=x,to=kvm"};
    engine_trace_switch(trace, &guest.v, &w);
    a = read_back(p);
    ck_assert_uint_eq(json_array_get_length(a), 6);
    static const char *const phases[] = {"M", "M", "B", "E", "X", "B"};
    for (guint i = 0; i < ARRAY_LEN(phases); i++)
        ck_assert_str_eq(member(a, i, "ph"), phases[i]);
    ck_assert_str_eq(member(a, 5, "name"), "kvm");
    JsonObject *x = json_array_get_object_element(a, 4);
    args = json_object_get_object_member(x, "args");
    ck_assert_str_eq(json_object_get_string_member(args, "why"), "at=x,to=kvm");
    ck_assert(json_object_get_double_member(args, "export us") == 2.5);
    ck_assert_int_eq(json_object_get_int_member(args, "fields changed"), 7);
    args = json_object_get_object_member(args, "checks noted");
    ck_assert_str_eq(json_object_get_string_member(args, "cr0-reserved"), "CR0 \"is\" odd");

    w.error = "cpu 0 stays in \"kvm\"";
    engine_trace_switch(trace, &guest.v, &w);
    a = read_back(p);
    ck_assert_uint_eq(json_array_get_length(a), 7); /* it stays: nothing ends or begins */
    ck_assert_str_eq(member(a, 6, "ph"), "i");

    engine_trace_close(trace);
    a = read_back(p);
    ck_assert_str_eq(member(a, json_array_get_length(a) - 1, "ph"), "E");
}
END_TEST

/* Over many pages, and never one event in two of them. */
START_TEST(pages)
{
    static const uint64_t steps[STEP_N] = {1};
    g_autoptr(JsonParser) p = json_parser_new();
    g_autofree char *text = NULL;
    for (unsigned i = 0; i < 200; i++) {
        TracedSwitch w = {.from = &engine_interp,
                          .to = &engine_kvm,
                          .start_ns = switch_now_ns(),
                          .end_ns = switch_now_ns(),
                          .step_ns = steps,
                          .why = "every=1ms"};
        engine_trace_switch(trace, &guest.v, &w);
        ck_assert_uint_eq(json_array_get_length(read_back(p)), 1 + 3 * (i + 1));
    }
    engine_trace_close(trace);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_uint_gt(strlen(text), 20 * 4096);
    for (size_t at = 4096; at < strlen(text); at += 4096)
        ck_assert_msg(text[at] == ',' && text[at - 1] == ' ', "at %zu", at);
}
END_TEST

START_TEST(refused_files)
{
    GError *err = NULL;
    engine_trace_close(trace);
    ck_assert_ptr_null(engine_trace_open("/nowhere/trace.json", NULL, NULL, &err));
    ck_assert_msg(strstr(err->message, "-trace-engines /nowhere/trace.json: No such"), "%s",
                  err->message);
    g_clear_error(&err);
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    g_autofree char *fd = g_strdup_printf("/proc/self/fd/%d", fds[1]);
    ck_assert_ptr_null(engine_trace_open(fd, NULL, NULL, &err));
    ck_assert_msg(strstr(err->message, "not a file"), "%s", err->message);
    g_clear_error(&err);
}
END_TEST

/* A full disk: said once, and what is there can be read. */
START_TEST(no_room)
{
    GError *err = NULL;
    engine_trace_close(trace);
    trace = engine_trace_open("/dev/full", NULL, NULL, &err);
    if (trace) {
        engine_trace_begin(trace, &guest.v);
        engine_trace_close(trace);
    } else {
        g_clear_error(&err);
    }
}
END_TEST

START_TEST(dry_run_touches_nothing)
{
    g_autoptr(GString) out = g_string_new(NULL);
    GError *err = NULL;
    engine_trace_close(trace);
    guest.v.st.seg[TR].attr &= ~2u; /* not busy: a rule would mend it */
    g_autofree CpuState *before = g_memdup2(&guest.v.st, sizeof(guest.v.st));
    guest.v.where = ST_CANONICAL;
    ck_assert(vcpu_switch_dry_run(&guest.v, &engine_kvm, out, &err));
    ck_assert_msg(strstr(out->str, "tr-busy"), "%s", out->str);
    ck_assert_msg(strstr(out->str, "VM-entry checks would pass"), "%s", out->str);
    ck_assert(!memcmp(before, &guest.v.st, sizeof(*before)));
    ck_assert_ptr_eq(guest.v.engine, &engine_interp);
    ck_assert(guest.v.where == ST_CANONICAL);

    g_string_truncate(out, 0);
    guest.v.st.cr0 |= 1ull << 40; /* no rule mends it */
    ck_assert(vcpu_switch_dry_run(&guest.v, &engine_kvm, out, &err));
    ck_assert_msg(strstr(out->str, "VM-entry check 'cr0-"), "%s", out->str);
    ck_assert_msg(strstr(out->str, "would fail"), "%s", out->str);

    g_string_truncate(out, 0);
    guest.v.st.cr0 ^= 1ull << 40 | 1 << 6; /* nor that, which every KVM takes */
    ck_assert(vcpu_switch_dry_run(&guest.v, &engine_kvm, out, &err));
    ck_assert_msg(strstr(out->str, "VM-entry check 'cr0-reserved'"), "%s", out->str);
    ck_assert_msg(strstr(out->str, "would note") && !strstr(out->str, "would fail"), "%s",
                  out->str);

    g_string_truncate(out, 0);
    ck_assert(vcpu_switch_dry_run(&guest.v, &engine_interp, out, &err));
    ck_assert_msg(strstr(out->str, "is in interp already"), "%s", out->str);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("trace");
    TCase *tc = tcase_create("trace");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, whole_after_each_event);
    tcase_add_test(tc, pages);
    tcase_add_test(tc, refused_files);
    tcase_add_test(tc, no_room);
    tcase_add_test(tc, dry_run_touches_nothing);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
