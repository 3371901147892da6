/* Campaign files: what survives kills, full disks, repeated chunks and foreign files. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "diff/results.h"
#include "diff/results_data.h"
#include "run_suite.h"

static char *dir, *path;
static const CampaignId campaign = {
    .seed = UINT64_MAX - 6,
    .cases = 1000,
    .shard = 1,
    .shards = 2,
    .chunk = 100,
    .engines = "a,b",
    .rows = "add",
};

static void setup(void)
{
    g_autoptr(GError) err = NULL;
    dir = g_dir_make_tmp("tandem-results-XXXXXX", &err);
    ck_assert_msg(dir != NULL, "%s", err ? err->message : "");
    path = g_build_filename(dir, "c.jsonl", NULL);
}

static void teardown(void)
{
    unlink(path);
    rmdir(dir);
    g_free(path);
    g_free(dir);
}

static ResultsFile *reopen(const CampaignId *id)
{
    g_autoptr(GError) err = NULL;
    ResultsFile *f = results_open(path, id, &err);
    ck_assert_msg(f != NULL, "%s", err ? err->message : "");
    return f;
}

/* The error of an open that must fail; free it. */
static GError *refused(const CampaignId *id)
{
    GError *err = NULL;
    ck_assert_ptr_null(results_open(path, id, &err));
    ck_assert_ptr_nonnull(err);
    return err;
}

static ChunkResult *make_chunk(uint64_t number)
{
    ChunkResult *c = chunk_new(number);
    static const DiffCase dc = {.seed = UINT64_MAX - 6, .index = 17, .row = 1, .form = 2};
    chunk_count(c, 1, 2, &(CellCount){60, 0, 2});
    chunk_count(c, 1, 3, &(CellCount){30, 5, 0});
    chunk_count(c, 2, 2, &(CellCount){0, 4, 0});
    for (unsigned k = 0; k < 9; k++)
        chunk_skip(c, k & 1 ? "needs ring 0" : "host has no AVX512F");
    chunk_failure(c, &dc, "row1|RFLAGS.CF", "insn 01 c0\n\"quoted\" \\ \x01 \xff\n");
    chunk_failure(c, &dc, "row1|RFLAGS.CF", NULL);
    return c;
}

static bool add(ResultsFile *f, uint64_t number, GError **err)
{
    ChunkResult *c = make_chunk(number);
    bool ok = results_add(f, c, 0.5, err);
    chunk_free(c);
    return ok;
}

static void expect(const ResultsFile *f, uint64_t chunks)
{
    ResultsTotals t;
    results_totals(f, &t);
    ck_assert_uint_eq(t.cases, 90 * chunks);
    ck_assert_uint_eq(t.skipped, 9 * chunks);
    ck_assert_uint_eq(t.differences, 2 * chunks);
    ck_assert_uint_eq(t.rows_covered, chunks ? 1 : 0);
}

static char *contents(gsize *len)
{
    char *s = NULL;
    ck_assert(g_file_get_contents(path, &s, len, NULL));
    return s;
}

START_TEST(continues)
{
    ResultsFile *f = reopen(&campaign);
    expect(f, 0);
    ck_assert(add(f, 0, NULL) && add(f, 4, NULL));
    ck_assert(add(f, 4, NULL)); /* again: counts once */
    expect(f, 2);
    results_close(f);
    f = reopen(&campaign);
    expect(f, 2);
    ck_assert(results_has(f, 0) && results_has(f, 4) && !results_has(f, 2));
    ck_assert(results_has_failure(f, "row1|RFLAGS.CF") && !results_has_failure(f, "row1|RAX"));
    results_close(f);
    g_autofree char *s = contents(NULL);
    ck_assert_ptr_nonnull(strstr(s, "\"forms\":[\"form-2\",\"form-3\"],\"cases\":[[1,0,60,1,30]],"
                                    "\"skipped\":[[1,1,5],[2,0,4]],\"differ\":[[1,0,2]]"));
    ck_assert_ptr_nonnull(strstr(s, "\"host has no AVX512F\":5,\"needs ring 0\":4"));
    ck_assert_ptr_nonnull(strstr(s, "\"count\":2"));
}
END_TEST

START_TEST(in_memory)
{
    g_autoptr(GError) err = NULL;
    ResultsFile *f = results_open(NULL, &campaign, &err);
    ck_assert_ptr_nonnull(f);
    ck_assert(add(f, 2, NULL));
    expect(f, 1);
    results_close(f);
}
END_TEST

/* Cut off at every byte: what is left is either a whole chunk or none. */
START_TEST(torn)
{
    gsize head, one, len;
    results_close(reopen(&campaign));
    g_free(contents(&head));
    ResultsFile *f = reopen(&campaign);
    ck_assert(add(f, 0, NULL));
    g_free(contents(&one));
    ck_assert(add(f, 2, NULL));
    results_close(f);
    g_autofree char *all = contents(&len);
    for (gsize cut = 0, near; cut <= len; cut += near ? 1 : 397) {
        near = cut < 20 || (cut > head - 20 && cut < head + 20) ||
               (cut > one - 9 && cut < one + 9) || cut > len - 9;
        if (!near && cut + 397 > head - 20 && cut < head - 20)
            cut = head - 20;
        else if (!near && cut + 397 > one - 9 && cut < one - 9)
            cut = one - 9;
        else if (!near && cut + 397 > len - 9)
            cut = len - 9;
        ck_assert(g_file_set_contents(path, all, (gssize)cut, NULL));
        f = reopen(&campaign);
        expect(f, cut == len ? 2 : cut >= one ? 1 : 0);
        gsize after;
        g_free(contents(&after));
        ck_assert_uint_eq(after, cut == len ? len : cut >= one ? one : head);
        ck_assert(add(f, 0, NULL) && add(f, 2, NULL));
        expect(f, 2);
        results_close(f);
        g_autofree char *s = contents(&after);
        ck_assert_uint_eq(after, len);
        ck_assert(!memcmp(s, all, len));
    }
}
END_TEST

/* A line in the middle that is no result is left alone; its chunk is run again. */
START_TEST(bad_lines)
{
    static const char *const bad[] = {
        "\n",
        "{\n",
        "[1]\n",
        "\xff\xfe\n",
        "{\"chunk\":1,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[]"
        "}\n", /* the
                  other
                  shard's
                */
        "{\"chunk\":10,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":["
        "]}\n", /* there
                   are
                   10
                 */
        "{\"chunk\":-2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":["
        "]}\n",
        "{\"chunk\":\"2\",\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],"
        "\"cases\":[]}\n",
        "{\"chunk\":2,\"seconds\":-1,\"host\":\"h\",\"forms\":[],\"cases\":[]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":5,\"forms\":[],\"cases\":[]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"cases\":[]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[1],\"cases\":[]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":{}"
        "}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"skipped\":"
        "[]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,0,60,1,41]"
        "]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,0,60]],"
        "\"skipped\":[[1,0,41]]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,0,1]],"
        "\"differ\":[[1,0,2]]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,0]]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1]]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":["
        "7]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,2,1]]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "60000,0,1]]}"
        "\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[["
        "1,0,1.5]]}"
        "\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[]"
        ",\"skips\":{"
        "\"a\":-1}}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[]"
        ","
        "\"failures\":[{}]}\n",
        "{\"chunk\":2,\"seconds\":1,\"host\":\"h\",\"forms\":[\"f\",\"g\"],\"cases\":[]"
        ","
        "\"failures\":7}\n",
    };
    ResultsFile *f = reopen(&campaign);
    ck_assert(add(f, 0, NULL));
    results_close(f);
    gsize len;
    g_autofree char *good = contents(&len);
    for (unsigned k = 0; k < ARRAY_LEN(bad); k++) {
        g_autofree char *s = g_strconcat(good, bad[k], NULL);
        ck_assert(g_file_set_contents(path, s, -1, NULL));
        f = reopen(&campaign);
        expect(f, 1);
        ck_assert_msg(!results_has(f, 2), "%s", bad[k]);
        ck_assert(add(f, 2, NULL));
        results_close(f);
        f = reopen(&campaign);
        expect(f, 2);
        results_close(f);
    }
}
END_TEST

START_TEST(foreign)
{
    static const struct {
        size_t at;
        const char *named;
    } change[] = {
        {offsetof(CampaignId, seed), "seed"},
        {offsetof(CampaignId, cases), "cases"},
        {offsetof(CampaignId, shards), "shards"},
        {offsetof(CampaignId, shard), "shard 1 against 0"},
        {offsetof(CampaignId, chunk), "chunk size"},
    };
    ResultsFile *f = reopen(&campaign);
    ck_assert(add(f, 0, NULL));
    results_close(f);
    gsize len;
    g_autofree char *before = contents(&len);
    for (unsigned k = 0; k < ARRAY_LEN(change); k++) {
        CampaignId id = campaign;
        ((uint8_t *)&id)[change[k].at] ^= 1;
        g_autoptr(GError) err = refused(&id);
        ck_assert_msg(strstr(err->message, change[k].named) && strstr(err->message, path), "%s",
                      err->message);
    }
    CampaignId id = campaign;
    id.engines = "a,c";
    g_autoptr(GError) err = refused(&id);
    ck_assert_msg(strstr(err->message, "engines 'a,b' against 'a,c'") != NULL, "%s", err->message);
    id = campaign;
    id.rows = "";
    g_autoptr(GError) rows = refused(&id);
    ck_assert_msg(strstr(rows->message, "rows 'add' against ''") != NULL, "%s", rows->message);

    /* Another guest CPU: other cases. */
    g_autofree char *cut = g_strdup(before), *fpu = strstr(cut, "fpu,");
    ck_assert_ptr_nonnull(fpu);
    memcpy(fpu, "xyz,", 4);
    fpu = NULL;
    ck_assert(g_file_set_contents(path, cut, -1, NULL));
    g_autoptr(GError) cpu = refused(&campaign);
    ck_assert_msg(strstr(cpu->message, "guest features +xyz -fpu") != NULL, "%s", cpu->message);

    /* Another instruction table: the same numbers are other cases. */
    g_autofree char *renamed = g_strdup(before);
    memcpy(strstr(renamed, "\"row-7\""), "\"old-7\"", 7);
    ck_assert(g_file_set_contents(path, renamed, -1, NULL));
    g_autoptr(GError) table = refused(&campaign);
    ck_assert_msg(strstr(table->message, "the instruction tables") != NULL, "%s", table->message);

    /* Somebody's own file stays as it is. */
    static const char *const other[] = {"my notes\n", "my notes", "{\"a\":1}\n",
                                        "{\"tandem-diff\":2}\n"};
    for (unsigned k = 0; k < ARRAY_LEN(other); k++) {
        ck_assert(g_file_set_contents(path, other[k], -1, NULL));
        g_autoptr(GError) e = refused(&campaign);
        ck_assert_msg(strstr(e->message, "not a campaign file") != NULL, "%s", e->message);
        g_autofree char *s = contents(NULL);
        ck_assert_str_eq(s, other[k]);
    }
}
END_TEST

/* Two processes at one file: the second is refused, also while children of the first live on. */
START_TEST(locked)
{
    int up[2], down[2];
    char c;
    ck_assert(!pipe(up) && !pipe(down));
    pid_t child = fork();
    if (!child) {
        ResultsFile *f = results_open(path, &campaign, NULL);
        pid_t grandchild = fork();
        if (!grandchild) { /* as an executor's process that outlives a kill */
            close(down[1]);
            _exit(read(down[0], &c, 1) < 0);
        }
        if (!f || write(up[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    ck_assert_int_eq(read(up[0], &c, 1), 1);
    g_autoptr(GError) err = refused(&campaign);
    g_autofree char *who = g_strdup_printf("process %d", (int)child);
    ck_assert_msg(strstr(err->message, who) != NULL, "%s", err->message);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    results_close(reopen(&campaign));
    close(down[1]);
}
END_TEST

/* The file cannot grow: said, nothing torn stays, and it continues when there is room. */
START_TEST(full)
{
    gsize head, one, len;
    results_close(reopen(&campaign));
    g_free(contents(&head));
    ResultsFile *f = reopen(&campaign);
    ck_assert(add(f, 0, NULL));
    g_free(contents(&one));
    struct rlimit was, limit;
    ck_assert(!getrlimit(RLIMIT_FSIZE, &was));
    for (gsize room = 0; room < one - head; room += 1 + (one - head) / 7) {
        g_autoptr(GError) err = NULL;
        limit = (struct rlimit){one + room, was.rlim_max};
        /* No ck_assert() under the limit: check(1) writes its own file. */
        int set = setrlimit(RLIMIT_FSIZE, &limit);
        bool added = add(f, 2, &err);
        int reset = setrlimit(RLIMIT_FSIZE, &was);
        ck_assert(!set && !added && !reset);
        ck_assert_msg(strstr(err->message, "the 1 chunks in it stay good") &&
                          strstr(err->message, g_strerror(EFBIG)),
                      "%s", err->message);
        expect(f, 1);
        g_free(contents(&len));
        ck_assert_uint_eq(len, one);
    }
    ck_assert(add(f, 2, NULL));
    expect(f, 2);
    results_close(f);
    f = reopen(&campaign);
    expect(f, 2);
    results_close(f);
}
END_TEST

START_TEST(no_file)
{
    g_autofree char *good = path;
    static const struct {
        const char *path, *says;
    } bad[] = {
        {"/dev/full", "not a regular file"},
        {"/nowhere/at/all", "No such file or directory"},
        {"/", "Is a directory"},
    };
    for (unsigned k = 0; k < ARRAY_LEN(bad); k++) {
        path = (char *)bad[k].path;
        g_autoptr(GError) err = refused(&campaign);
        ck_assert_msg(strstr(err->message, bad[k].says) != NULL, "%s", err->message);
    }
    path = g_steal_pointer(&good);
}
END_TEST

/* ---- what gen.c says in the program ---- */

const char *case_row_name(uint16_t row, char buf[64])
{
    snprintf(buf, 64, "row-%u", row);
    return buf;
}

const char *case_form_name(uint16_t form, char buf[48])
{
    snprintf(buf, 48, "form-%u", form);
    return buf;
}

unsigned case_select_rows(const char *patterns, uint16_t *rows, GError **err)
{
    rows[0] = 1;
    return 1;
}

int main(void)
{
    TCase *tc = tcase_create("results");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, continues);
    tcase_add_test(tc, in_memory);
    tcase_add_test(tc, torn);
    tcase_add_test(tc, bad_lines);
    tcase_add_test(tc, foreign);
    tcase_add_test(tc, locked);
    tcase_add_test(tc, full);
    tcase_add_test(tc, no_file);
    Suite *suite = suite_create("diff-results");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
