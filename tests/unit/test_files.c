/* Whole files by name: what has no end is not read to it, what is no file is not replaced. */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "run_suite.h"

static char *dir, *path;

static void setup(void)
{
    dir = g_dir_make_tmp("tandem-files-XXXXXX", NULL);
    ck_assert_ptr_nonnull(dir);
    path = g_build_filename(dir, "x", NULL);
}

static void teardown(void)
{
    unlink(path);
    rmdir(dir);
    g_free(path);
    g_free(dir);
}

static void refused(bool ok, GError **err, const char *what)
{
    ck_assert(!ok);
    ck_assert_msg(strstr((*err)->message, what), "%s", (*err)->message);
    g_clear_error(err);
}

START_TEST(there_and_back)
{
    g_autofree char *data = NULL;
    gsize len;
    GError *err = NULL;
    ck_assert(file_write(path, "a\0b", 3, &err));
    ck_assert(file_read(path, 3, &data, &len, &err));
    ck_assert_uint_eq(len, 3);
    ck_assert(!memcmp(data, "a\0b", 4));
    g_free(data);
    ck_assert(file_read_regular(path, 3, &data, &len, &err));
    ck_assert_uint_eq(len, 3);
    g_autofree char *other = NULL;
    refused(file_read(path, 2, &other, &len, &err), &err, path);
    refused(file_read_regular(dir, 9, &other, &len, &err), &err, "is a directory");
    refused(file_write(dir, "x", 1, &err), &err, dir);
    unlink(path);
    refused(file_read(path, 2, &other, &len, &err), &err, "No such file");
}
END_TEST

START_TEST(without_end)
{
    g_autofree char *data = NULL;
    gsize len;
    GError *err = NULL;
    refused(file_read("/dev/zero", 1 << 20, &data, &len, &err), &err, "more than 1024 KiB");
    refused(file_read_regular("/dev/zero", 1 << 20, &data, &len, &err), &err, "not a regular file");
}
END_TEST

/* A FIFO stands for all that must be written to and stay; a test does not put /dev at risk. */
START_TEST(not_replaced)
{
    g_autofree char *data = NULL;
    gsize len;
    GError *err = NULL;
    struct stat st;
    char buf[8];
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    refused(file_read_regular(path, 9, &data, &len, &err), &err, "not a regular file");
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert(file_write(path, "hello", 5, &err));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert(S_ISFIFO(st.st_mode));
    ck_assert_int_eq(read(fd, buf, sizeof(buf)), 5);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("files");
    TCase *tc = tcase_create("files");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, there_and_back);
    tcase_add_test(tc, without_end);
    tcase_add_test(tc, not_replaced);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
