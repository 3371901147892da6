#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/files.h"

uint32_t log_mask;
static int log_fd = STDERR_FILENO;

static const struct {
    const char *name, *help;
} categories[LOG_N] = {
#define X(id, n, h) [LOG_##id] = {n, h},
    LOG_CATEGORIES(X)
#undef X
};

GQuark tandem_error_quark(void)
{
    return g_quark_from_static_string("tandem");
}

void log_set_mask(uint32_t mask)
{
    __atomic_store_n(&log_mask, mask, __ATOMIC_RELAXED);
}

bool log_set(const char *names, GError **err)
{
    g_auto(GStrv) list = g_strsplit(names, ",", -1);
    uint32_t mask = 0;
    for (char **n = list; *n; n++) {
        unsigned c = 0;
        if (!strcmp(*n, "all")) {
            mask |= BIT(LOG_N) - 1;
            continue;
        }
        while (c < LOG_N && strcmp(categories[c].name, *n))
            c++;
        if (c == LOG_N) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                        "-d: no log category '%s'; '-d help' lists them", *n);
            return false;
        }
        mask |= 1u << c;
    }
    log_set_mask(mask);
    return true;
}

bool log_to_file(const char *path, GError **err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-D %s: %s", path, g_strerror(errno));
        return false;
    }
    if (log_fd != STDERR_FILENO)
        close(log_fd);
    log_fd = fd;
    return true;
}

const char *log_name(enum LogCategory c)
{
    return categories[c].name;
}

void log_help(GString *out)
{
    for (unsigned c = 0; c < LOG_N; c++)
        g_string_append_printf(out, "%-14s %s\n", categories[c].name, categories[c].help);
    g_string_append_printf(out, "%-14s %s\n", "all", "all of these");
}

/* What stderr does not take has nowhere to be reported to; what a file does not is said once. */
static void put(int fd, const GString *s)
{
    static _Atomic bool said;
    if (!write_all(fd, s->str, s->len) && fd != STDERR_FILENO && !atomic_exchange(&said, true))
        fprintf(stderr, "tandem: -D: %s; lines of the log are lost\n", g_strerror(errno));
}

static void write_line(int fd, GString *s)
{
    g_string_append_c(s, '\n');
    put(fd, s);
}

void log_line(const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new(NULL);
    va_list ap;
    va_start(ap, fmt);
    g_string_vprintf(s, fmt, ap);
    va_end(ap);
    write_line(log_fd, s);
}

void log_text(const GString *s)
{
    put(log_fd, s);
}

void warn_user(const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new("tandem: ");
    va_list ap;
    va_start(ap, fmt);
    g_string_append_vprintf(s, fmt, ap);
    va_end(ap);
    write_line(STDERR_FILENO, s);
    if (log_fd != STDERR_FILENO)
        put(log_fd, s);
}
