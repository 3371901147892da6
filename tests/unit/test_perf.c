/* -perfmap and -jitdump: what perf is told of translated code. */
#include <stdio.h>
#include <stdlib.h>
#include "jit/jit.h"
#include "jit/perf.h"
#include "tcg_guest.h"
#include "run_suite.h"

/* again: add eax, 3; dec ecx; jnz again; hlt */
static const uint8_t program[] = {0x83, 0xc0, 0x03, 0xff, 0xc9, 0x75, 0xf9, 0xf4};

static char *map_path, *dump_path, *folder;

static void paths(void)
{
    folder = g_dir_make_tmp("test_perf.XXXXXX", NULL);
    ck_assert(folder && chdir(folder) == 0);
    map_path = g_strdup_printf("/tmp/perf-%d.map", (int)getpid());
    dump_path = g_strdup_printf("%s/jit-%d.dump", folder, (int)getpid());
}

static void gone(void)
{
    unlink(map_path);
    unlink(dump_path);
    ck_assert(chdir("/") == 0 && rmdir(folder) == 0);
    g_free(folder);
    g_free(map_path);
    g_free(dump_path);
}

/* Runs the program until its block is translated; a copy of that code. */
static GBytes *run(uint64_t *start)
{
    GError *err = NULL;
    guest_setup();
    guest_engine = &engine_jit;
    ck_assert(engine_jit.vcpu_init(&guest.v, &err));
    memcpy(gp(G_CODE), program, sizeof(program));
    guest.v.st.gpr[RCX] = 100;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    const Jit *j = jit_of(&guest.v);
    ck_assert_uint_eq(j->map_n, 1);
    *start = (uintptr_t)j->map[0]->start;
    GBytes *code = g_bytes_new(j->map[0]->start, j->map[0]->size);
    guest_teardown();
    return code;
}

START_TEST(map)
{
    GError *err = NULL;
    uint64_t start;
    char *text;
    paths();
    ck_assert(perf_map_begin(&err));
    g_autoptr(GBytes) code = run(&start);
    perf_end();
    ck_assert(!perf_on && g_file_get_contents(map_path, &text, NULL, NULL));
    g_autofree char *line = g_strdup_printf("\n%" G_GINT64_MODIFIER "x %zx guest-0x60100000\n",
                                            (guint64)start, g_bytes_get_size(code));
    ck_assert_msg(strstr(text, line) != NULL, "no %s in %s", line, text);
    ck_assert(strstr(text, " tandem: in and out of translated code\n") != NULL);
    g_free(text);
    gone();
}
END_TEST

static uint64_t field(const char *p, unsigned at, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p + at, size);
    return v;
}

/* Offsets are those of the kernel's jitdump-specification.txt. */
START_TEST(dump)
{
    GError *err = NULL;
    uint64_t start, last = 0, loads = 0;
    gsize size, at = 40, found = 0;
    char *p;
    paths();
    ck_assert(perf_dump_begin(&err));
    g_autoptr(GBytes) code = run(&start);
    g_autofree char *maps = NULL;
    ck_assert(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    const char *marker = strstr(maps, dump_path); /* perf finds the file by this */
    ck_assert_ptr_nonnull(marker);
    while (marker > maps && marker[-1] != '\n')
        marker--;
    ck_assert_ptr_nonnull(g_strstr_len(marker, 80, " r-xp 00000000 "));
    perf_end();
    ck_assert(g_file_get_contents(dump_path, &p, &size, NULL));
    ck_assert_uint_eq(field(p, 0, 4), 0x4a695444);
    ck_assert_uint_eq(field(p, 4, 4), 1);
    ck_assert_uint_eq(field(p, 8, 4), 40);
    ck_assert_uint_eq(field(p, 12, 4), 62); /* EM_X86_64 */
    ck_assert_uint_eq(field(p, 20, 4), (uint64_t)getpid());
    for (; at + 16 < size; at += field(p, (unsigned)at + 4, 4)) {
        const char *r = p + at;
        ck_assert_uint_eq(field(r, 0, 4), 0); /* JIT_CODE_LOAD */
        ck_assert_uint_ge(field(r, 8, 8), last);
        last = field(r, 8, 8);
        ck_assert_uint_eq(field(r, 16, 4), (uint64_t)getpid());
        ck_assert_uint_eq(field(r, 24, 8), field(r, 32, 8));
        ck_assert_uint_eq(field(r, 48, 8), loads++);
        const char *name = r + 56, *bytes = name + strlen(name) + 1;
        ck_assert_uint_eq(field(r, 4, 4), (uint64_t)(bytes - r) + field(r, 40, 8));
        if (strcmp(name, "guest-0x60100000") != 0)
            continue;
        found++;
        ck_assert_uint_eq(field(r, 32, 8), start);
        ck_assert_uint_eq(field(r, 40, 8), g_bytes_get_size(code));
    }
    ck_assert_uint_eq(found, 1);
    ck_assert_uint_eq(at + 16, size);
    ck_assert_uint_eq(field(p, (unsigned)at, 4), 3); /* JIT_CODE_CLOSE */
    ck_assert_uint_eq(field(p, (unsigned)at + 4, 4), 16);
    g_free(p);
    gone();
}
END_TEST

/* A link that somebody put there is not followed. */
START_TEST(link_in_tmp)
{
    GError *err = NULL;
    paths();
    g_autofree char *target = g_strdup_printf("%s/target", folder);
    ck_assert(symlink(target, map_path) == 0);
    ck_assert(!perf_map_begin(&err));
    ck_assert_msg(strstr(err->message, map_path) != NULL, "%s", err->message);
    g_error_free(err);
    ck_assert(access(target, F_OK) != 0);
    gone();
}
END_TEST

int main(void)
{
    GError *err = NULL;
    if (!jit_supported(&err)) {
        fprintf(stderr, "skipped: %s\n", err->message);
        return 77;
    }
    Suite *s = suite_create("perf");
    TCase *t = tcase_create("perf");
    tcase_add_test(t, map);
    tcase_add_test(t, dump);
    tcase_add_test(t, link_in_tmp);
    suite_add_tcase(s, t);
    return run_suite(s);
}
