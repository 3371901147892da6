/* Character devices: escapes of the mux, clients that come, go and do not read, paths. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "char/chardev.h"
#include "run_suite.h"

static char dir[64], path[80];

static void make_dir(void)
{
    strcpy(dir, "/tmp/tandem-test-XXXXXX");
    ck_assert(mkdtemp(dir));
    g_snprintf(path, sizeof(path), "%s/sock", dir);
}

static void remove_dir(void)
{
    /* Fails if a test left something behind. */
    ck_assert_msg(rmdir(dir) == 0, "%s: %s", dir, strerror(errno));
}

/* A front end that notes what it is told. */
typedef struct Front {
    unsigned room;
    bool unlimited;
    GString *got, *events;
} Front;

static unsigned can_read(void *opaque)
{
    const Front *f = opaque;
    return f->unlimited ? 4096 : f->room;
}

static void read_in(void *opaque, const uint8_t *buf, unsigned len)
{
    Front *f = opaque;
    ck_assert(f->unlimited || len <= f->room);
    f->room -= f->unlimited ? 0 : len;
    g_string_append_len(f->got, (const char *)buf, len);
}

static void event(void *opaque, enum CharEvent e)
{
    g_string_append_c(((Front *)opaque)->events, "ocbio"[e] - (e == CHAR_MUX_OUT ? 'o' - 'u' : 0));
}

static void attach(CharDev *cd, Front *f, bool unlimited)
{
    *f = (Front){.unlimited = unlimited, .got = g_string_new(NULL), .events = g_string_new(NULL)};
    CharHandlers h = {f, can_read, read_in, event};
    chardev_attach(cd, &h);
}

static void front_free(Front *f)
{
    g_string_free(f->got, TRUE);
    g_string_free(f->events, TRUE);
}

/* Runs the main context until cond holds, or for two seconds. */
#define PUMP_UNTIL(cond)                                           \
    do {                                                           \
        gint64 end = g_get_monotonic_time() + 2 * G_USEC_PER_SEC;  \
        bool held;                                                 \
        while (!(held = (cond)) && g_get_monotonic_time() < end) { \
            if (!g_main_context_iteration(NULL, FALSE))            \
                g_usleep(500);                                     \
        }                                                          \
        ck_assert_msg(held, "%s", #cond);                          \
    } while (0)

static void pump(unsigned ms)
{
    gint64 end = g_get_monotonic_time() + ms * 1000;
    while (g_get_monotonic_time() < end) {
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(500);
    }
}

static CharDev *must_open(const char *spec)
{
    CharDev *cd;
    GError *err = NULL;
    ck_assert_msg(chardev_open(&cd, spec, &err), "%s: %s", spec, err ? err->message : "");
    return cd;
}

static CharDev *server(const char *prefix)
{
    g_autofree char *spec = g_strdup_printf("%sunix:%s,server,nowait", prefix, path);
    return must_open(spec);
}

static int client(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void put(int fd, const char *s)
{
    ck_assert_int_eq(write(fd, s, strlen(s)), (ssize_t)strlen(s));
}

static bool arrived(int fd, GString *s)
{
    char buf[4096];
    ssize_t n = read(fd, buf, sizeof(buf));
    if (n > 0)
        g_string_append_len(s, buf, n);
    return n > 0;
}

/* ---- sockets ---- */

START_TEST(reconnect)
{
    Front f;
    CharDev *cd = server("");
    attach(cd, &f, true);
    chardev_write(cd, "nobody hears this", 17);
    for (unsigned round = 1; round <= 3; round++) {
        g_autoptr(GString) s = g_string_new(NULL);
        int fd = client();
        put(fd, "abc");
        PUMP_UNTIL(f.got->len == 3 * round);
        chardev_write(cd, "xyz", 3);
        PUMP_UNTIL(arrived(fd, s));
        ck_assert_str_eq(s->str, "xyz");
        close(fd);
        PUMP_UNTIL(f.events->len == 2 * round);
    }
    ck_assert_str_eq(f.events->str, "ocococ");
    ck_assert_str_eq(f.got->str, "abcabcabc");
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(second_client_waits)
{
    Front f;
    CharDev *cd = server("");
    attach(cd, &f, true);
    int a = client(), b = client();
    put(a, "A");
    put(b, "B");
    PUMP_UNTIL(f.got->len == 1);
    pump(20);
    ck_assert_str_eq(f.got->str, "A");
    close(a);
    PUMP_UNTIL(f.got->len == 2);
    ck_assert_str_eq(f.got->str, "AB");
    close(b);
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(peer_that_never_reads)
{
    enum { CHUNK = 4096, TOTAL = 16 << 20 };
    static const char chunk[CHUNK];
    CharDev *cd = server("");
    Front f;
    attach(cd, &f, true);
    int fd = client();
    PUMP_UNTIL(f.events->len == 1);
    gint64 start = g_get_monotonic_time();
    for (unsigned i = 0; i < TOTAL / CHUNK; i++)
        chardev_write(cd, chunk, CHUNK);
    ck_assert_msg(g_get_monotonic_time() - start < G_USEC_PER_SEC, "the writer was held up");
    ck_assert(strstr(chardev_describe(cd), "bytes dropped"));
    /* What was kept arrives when the peer does read, in one piece, and then the line is free. */
    g_autoptr(GString) s = g_string_new(NULL);
    PUMP_UNTIL(!arrived(fd, s) && s->len > (1 << 20));
    pump(20);
    while (arrived(fd, s))
        pump(1);
    g_string_truncate(s, 0);
    chardev_write(cd, "again", 5);
    PUMP_UNTIL(arrived(fd, s));
    ck_assert_str_eq(s->str, "again");
    close(fd);
    gint64 end = g_get_monotonic_time();
    chardev_free(cd);
    ck_assert(g_get_monotonic_time() - end < G_USEC_PER_SEC);
    front_free(&f);
}
END_TEST

static void *accept_thread(void *cd)
{
    chardev_accept_input(cd);
    return NULL;
}

static _Atomic bool writers_end;

static void *write_thread(void *cd)
{
    static const char chunk[3000];
    while (!writers_end) {
        chardev_write(cd, chunk, sizeof(chunk));
        chardev_accept_input(cd);
    }
    return NULL;
}

START_TEST(writers_while_clients_come_and_go)
{
    pthread_t t[2];
    Front f;
    CharDev *cd = server("");
    attach(cd, &f, true);
    writers_end = false;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++)
        pthread_create(&t[i], NULL, write_thread, cd);
    for (unsigned round = 1; round <= 20; round++) {
        g_autoptr(GString) s = g_string_new(NULL);
        int fd = client();
        PUMP_UNTIL((arrived(fd, s), s->len > 100000));
        close(fd);
        PUMP_UNTIL(f.events->len == 2 * round);
    }
    writers_end = true;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++)
        pthread_join(t[i], NULL);
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(front_end_that_is_full)
{
    Front f;
    CharDev *cd = server("");
    attach(cd, &f, false);
    f.room = 2;
    int fd = client();
    put(fd, "abcdef");
    PUMP_UNTIL(f.got->len == 2);
    pump(20);
    ck_assert_str_eq(f.got->str, "ab");
    f.room = 3;
    pthread_t t; /* as a vCPU does it */
    pthread_create(&t, NULL, accept_thread, cd);
    pthread_join(t, NULL);
    PUMP_UNTIL(f.got->len == 5);
    f.room = 1;
    chardev_accept_input(cd);
    PUMP_UNTIL(f.got->len == 6);
    ck_assert_str_eq(f.got->str, "abcdef");
    close(fd);
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(path_that_exists)
{
    g_autofree char *spec = g_strdup_printf("unix:%s,server,nowait", path);
    GError *err = NULL;
    CharDev *cd, *other;
    ck_assert(g_file_set_contents(path, "x", 1, NULL));
    ck_assert(!chardev_open(&cd, spec, &err));
    ck_assert_msg(strstr(err->message, path) && strstr(err->message, "not a socket"), "%s",
                  err->message);
    g_clear_error(&err);
    ck_assert_int_eq(unlink(path), 0); /* still there */

    cd = server("");
    ck_assert(!chardev_open(&other, spec, &err));
    ck_assert_msg(strstr(err->message, "listens"), "%s", err->message);
    g_clear_error(&err);
    ck_assert_int_eq(access(path, F_OK), 0);
    chardev_free(cd);
    ck_assert_int_ne(access(path, F_OK), 0);

    /* Someone put another socket there: not ours to remove. */
    cd = server("");
    ck_assert_int_eq(unlink(path), 0);
    other = server("");
    chardev_free(cd);
    ck_assert_int_eq(access(path, F_OK), 0);
    chardev_free(other);
}
END_TEST

START_TEST(client_of_a_server)
{
    Front fs, fc;
    CharDev *s = server("");
    attach(s, &fs, true);
    g_autofree char *spec = g_strdup_printf("unix:%s", path);
    CharDev *c = must_open(spec);
    attach(c, &fc, true);
    chardev_write(c, "hello", 5);
    PUMP_UNTIL(fs.got->len == 5);
    chardev_free(s);
    PUMP_UNTIL(strchr(fc.events->str, 'c'));
    chardev_write(c, "gone", 4);
    chardev_free(c);
    front_free(&fs);
    front_free(&fc);
}
END_TEST

static gboolean connect_soon(gpointer fd)
{
    *(int *)fd = client();
    return G_SOURCE_REMOVE;
}

static gboolean stop_soon(gpointer unused)
{
    chardev_stop_waiting();
    return G_SOURCE_REMOVE;
}

START_TEST(server_that_waits)
{
    int fd = -1;
    CharDev *cd;
    GError *err = NULL;
    g_autofree char *spec = g_strdup_printf("unix:%s,server", path);
    g_timeout_add(20, connect_soon, &fd);
    cd = must_open(spec);
    ck_assert_int_ge(fd, 0);
    chardev_free(cd);
    close(fd);
    g_timeout_add(20, stop_soon, NULL);
    ck_assert(!chardev_open(&cd, spec, &err));
    g_clear_error(&err);
}
END_TEST

/* ---- mux ---- */

static void quit(void *opaque)
{
    ++*(unsigned *)opaque;
}

START_TEST(mux_escapes)
{
    Front serial, monitor;
    unsigned quits = 0;
    CharDev *cd = server("mon:");
    ck_assert(chardev_is_mux(cd));
    attach(cd, &serial, true);
    attach(cd, &monitor, true);
    ck_assert_str_eq(serial.events->str, "i");
    ck_assert_str_eq(monitor.events->str, "u");
    chardev_set_quit_hook(quit, &quits);
    int fd = client();
    g_autoptr(GString) s = g_string_new(NULL);

    put(fd, "ab\x01\x01"
            "c\x01"
            "b\x01"
            "cinfo\x01"
            "cd\x01"
            "zx");
    PUMP_UNTIL(serial.got->len == 6);
    ck_assert_str_eq(serial.got->str, "ab\x01"
                                      "cdx");
    ck_assert_str_eq(monitor.got->str, "info");
    ck_assert_str_eq(serial.events->str, "iobui");
    ck_assert_str_eq(monitor.events->str, "uoiu");

    /* An escape that is cut in two. */
    put(fd, "\x01");
    pump(20);
    put(fd, "h");
    PUMP_UNTIL((arrived(fd, s), strstr(s->str, "C-a C-a") != NULL));
    static const char *const lines[] = {"C-a h ", "C-a x ", "C-a c ", "C-a b ", "C-a t "};
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        ck_assert_msg(strstr(s->str, lines[i]), "%s", lines[i]);

    put(fd, "\x01s");
    PUMP_UNTIL((arrived(fd, s), strstr(s->str, "no disks") != NULL));
    ck_assert_uint_eq(quits, 0);
    put(fd, "\x01x");
    PUMP_UNTIL(quits == 1);
    PUMP_UNTIL((arrived(fd, s), strstr(s->str, "Terminated") != NULL));

    /* Both write, whoever has the keyboard. */
    g_string_truncate(s, 0);
    chardev_write(cd, "one ", 4);
    chardev_write_from(cd, 1, "two", 3);
    PUMP_UNTIL((arrived(fd, s), s->len == 7));
    ck_assert_str_eq(s->str, "one two");

    put(fd, "\x01t");
    pump(20);
    g_string_truncate(s, 0);
    chardev_write(cd, "\nline\n", 6);
    PUMP_UNTIL((arrived(fd, s), g_str_has_suffix(s->str, "line\n")));
    ck_assert_msg(g_regex_match_simple("^\n\\[00:00:0\\d\\.\\d{3}\\] line\n$", s->str, 0, 0), "%s",
                  s->str);
    close(fd);
    chardev_free(cd);
    chardev_set_quit_hook(NULL, NULL);
    front_free(&serial);
    front_free(&monitor);
}
END_TEST

/* A guest that takes nothing must not keep the user from leaving. */
START_TEST(mux_with_a_stuck_guest)
{
    Front serial, monitor;
    unsigned quits = 0;
    CharDev *cd = server("mon:");
    attach(cd, &serial, false);
    attach(cd, &monitor, true);
    chardev_set_quit_hook(quit, &quits);
    int fd = client();
    for (unsigned i = 0; i < 500; i++) {
        put(fd, "typed in vain ");
        g_main_context_iteration(NULL, FALSE);
    }
    put(fd, "\x01"
            "cquit\x01"
            "c\x01x");
    PUMP_UNTIL(quits == 1);
    ck_assert_str_eq(monitor.got->str, "quit");
    ck_assert_uint_eq(serial.got->len, 0);
    /* And nothing of it is lost. */
    serial.unlimited = true;
    chardev_accept_input(cd);
    PUMP_UNTIL(serial.got->len == 500 * 14);
    close(fd);
    chardev_free(cd);
    chardev_set_quit_hook(NULL, NULL);
    front_free(&serial);
    front_free(&monitor);
}
END_TEST

/* ---- the others ---- */

START_TEST(pty)
{
    Front f;
    CharDev *cd = must_open("pty");
    attach(cd, &f, true);
    const char *name = chardev_describe(cd);
    ck_assert(g_str_has_prefix(name, "pty:/dev/pts/"));
    chardev_write(cd, "lost", 4);
    for (unsigned round = 1; round <= 2; round++) {
        g_autoptr(GString) s = g_string_new(NULL);
        int fd = open(chardev_describe(cd) + 4, O_RDWR | O_NOCTTY | O_NONBLOCK);
        ck_assert_int_ge(fd, 0);
        PUMP_UNTIL(f.events->len == 2 * round - 1);
        put(fd, "in\r");
        PUMP_UNTIL(f.got->len == 3 * round);
        chardev_write(cd, "out\n", 4);
        PUMP_UNTIL(arrived(fd, s));
        ck_assert_str_eq(s->str, "out\n");
        close(fd);
        PUMP_UNTIL(f.events->len == 2 * round);
    }
    ck_assert_str_eq(f.got->str, "in\rin\r");
    ck_assert_str_eq(f.events->str, "ococ");
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(file)
{
    g_autofree char *spec = g_strdup_printf("file:%s", path);
    g_autofree char *text = NULL;
    CharDev *cd = must_open(spec);
    chardev_write(cd, "one\n", 4);
    chardev_write_from(cd, 3, "two\n", 4);
    chardev_free(cd);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, "one\ntwo\n");
    unlink(path);
}
END_TEST

/* stdin and stdout are pipes here; the end of input is an event and no more. */
START_TEST(stdio)
{
    int in[2], out[2];
    Front f;
    CharDev *cd, *other;
    GError *err = NULL;
    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    dup2(in[0], 0);
    int old_out = dup(1);
    dup2(out[1], 1);
    cd = must_open("stdio");
    ck_assert(!chardev_open(&other, "mon:stdio", &err));
    ck_assert(strstr(err->message, "stdio"));
    g_clear_error(&err);
    attach(cd, &f, true);
    put(in[1], "typed");
    close(in[1]);
    PUMP_UNTIL(f.events->len == 2);
    ck_assert_str_eq(f.got->str, "typed");
    ck_assert_str_eq(f.events->str, "oc");
    chardev_write(cd, "still here", 10);
    g_autoptr(GString) s = g_string_new(NULL);
    PUMP_UNTIL(arrived(out[0], s));
    ck_assert_str_eq(s->str, "still here");
    /* Nobody reads the pipe: as with sockets. */
    static const char chunk[4096];
    for (unsigned i = 0; i < 1000; i++)
        chardev_write(cd, chunk, sizeof(chunk));
    ck_assert_int_eq(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
    chardev_free(cd);
    dup2(old_out, 1);
    cd = must_open("stdio"); /* free again */
    chardev_free(cd);
    front_free(&f);
}
END_TEST

START_TEST(none_and_null)
{
    CharDev *cd = must_open("none");
    ck_assert_ptr_null(cd);
    chardev_write(cd, "x", 1);
    chardev_accept_input(cd);
    chardev_free(cd);
    cd = must_open("null");
    chardev_write(cd, "x", 1);
    ck_assert_str_eq(chardev_describe(cd), "null");
    chardev_free(cd);
}
END_TEST

START_TEST(bad_specs)
{
    static const struct {
        const char *spec, *want;
    } row[] = {
        {"carrier-pigeon", "carrier-pigeon"},
        {"", "character device"},
        {"vc", "'vc'"},
        {"tcp::4444", "tcp::4444"},
        {"file:", "no path"},
        {"unix:", "no path"},
        {"unix:,server", "no path"},
        {"file:/nonexistent/dir/x", "/nonexistent/dir/x"},
        {"unix:/nonexistent/dir/x,server,nowait", "/nonexistent/dir/x"},
        {"unix:/nonexistent/x", "server,nowait"},
        {"unix:/x,nowait", "for a server"},
        {"unix:/x,server,telnet", "telnet"},
        {"unix:/x,server=maybe", "maybe"},
        {"unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa,server,nowait",
         "longer"},
        {"mon:mon:stdio", "mon:stdio"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        CharDev *cd;
        GError *err = NULL;
        ck_assert_msg(!chardev_open(&cd, row[i].spec, &err), "'%s' was accepted", row[i].spec);
        ck_assert_ptr_null(cd);
        ck_assert_msg(strstr(err->message, row[i].want), "'%s' lacks '%s'", err->message,
                      row[i].want);
        g_error_free(err);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chardev");
    TCase *t = tcase_create("chardev");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_test(t, reconnect);
    tcase_add_test(t, second_client_waits);
    tcase_add_test(t, peer_that_never_reads);
    tcase_add_test(t, writers_while_clients_come_and_go);
    tcase_add_test(t, front_end_that_is_full);
    tcase_add_test(t, path_that_exists);
    tcase_add_test(t, client_of_a_server);
    tcase_add_test(t, server_that_waits);
    tcase_add_test(t, mux_escapes);
    tcase_add_test(t, mux_with_a_stuck_guest);
    tcase_add_test(t, pty);
    tcase_add_test(t, file);
    tcase_add_test(t, stdio);
    tcase_add_test(t, none_and_null);
    tcase_add_test(t, bad_specs);
    suite_add_tcase(s, t);
    return run_suite(s);
}
