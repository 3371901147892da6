/* Unix sockets: a server that serves one client after the other, or a client. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib-unix.h>

#include "char/char_priv.h"

static bool stop_waiting;

void chardev_stop_waiting(void)
{
    stop_waiting = true;
    g_main_context_wakeup(NULL);
}

static gboolean client_waits(int fd, GIOCondition cond, gpointer opaque)
{
    CharDev *cd = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return G_SOURCE_CONTINUE; /* it went away again */
    /* Others wait in the backlog until this one is gone. */
    char_source_clear(&cd->listen_source);
    char_connected(cd, client, client);
    return G_SOURCE_REMOVE;
}

static void listen_again(CharDev *cd)
{
    cd->listen_source = g_unix_fd_source_new(cd->listen_fd, G_IO_IN);
    g_source_set_callback(cd->listen_source, G_SOURCE_FUNC(client_waits), cd, NULL);
    g_source_attach(cd->listen_source, NULL);
}

typedef struct UnixArg {
    char *path;
    bool server, wait;
} UnixArg;

static bool on_off(const char *word, const char *value, bool *out, GError **err)
{
    if (!value || !strcmp(value, "on") || !strcmp(value, "yes"))
        *out = true;
    else if (!strcmp(value, "off") || !strcmp(value, "no"))
        *out = false;
    else {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "unix: %s=%s is neither on nor off", word, value);
        return false;
    }
    return true;
}

static bool parse(UnixArg *a, const char *arg, GError **err)
{
    g_auto(GStrv) words = g_strsplit(arg, ",", -1);
    bool wait_given = false;
    a->wait = true;
    for (char **w = words + 1; *w; w++) {
        char *value = strchr(*w, '=');
        bool no;
        if (value)
            *value++ = 0;
        if (!strcmp(*w, "server")) {
            if (!on_off(*w, value, &a->server, err))
                return false;
        } else if (!strcmp(*w, "wait") || !strcmp(*w, "nowait")) {
            if (!on_off(*w, value, &no, err))
                return false;
            a->wait = **w == 'w' ? no : !no;
            wait_given = true;
        } else {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                        "unix:%s: no property '%s'; there are server[=on|off] and wait[=on|off]",
                        words[0], *w);
            return false;
        }
    }
    if (wait_given && !a->server) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "unix:%s: wait and nowait are for a server",
                    words[0]);
        return false;
    }
    a->path = g_strdup(words[0]);
    return true;
}

static bool is_listening(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    int r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr));
    bool refused = r < 0 && errno == ECONNREFUSED;
    close(fd);
    return !refused;
}

static const char *why_not(const struct sockaddr_un *addr, int e)
{
    struct stat st;
    if (e != EADDRINUSE)
        return g_strerror(e);
    if (lstat(addr->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return "the path exists and is not a socket";
    return is_listening(addr) ? "the path exists and another program listens on it"
                              : "the path exists; nobody listens on it, so it can be removed";
}

static bool serve(CharDev *cd, const UnixArg *a, const struct sockaddr_un *addr, GError **err)
{
    if (bind(cd->listen_fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "unix:%s: %s", a->path, why_not(addr, errno));
        return false;
    }
    struct stat st;
    if (lstat(a->path, &st) == 0) {
        cd->path = g_strdup(a->path);
        cd->path_dev = st.st_dev;
        cd->path_ino = st.st_ino;
    }
    if (listen(cd->listen_fd, 8) < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "unix:%s: %s", a->path, g_strerror(errno));
        return false;
    }
    cd->hangup = listen_again;
    listen_again(cd);
    if (a->wait)
        warn_user("waiting for connection on unix:%s", a->path);
    while (a->wait && cd->fd_in < 0 && !stop_waiting)
        g_main_context_iteration(NULL, TRUE);
    if (a->wait && cd->fd_in < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "unix:%s: nobody connected", a->path);
        return false;
    }
    return true;
}

bool unix_open(CharDev *cd, const char *arg, GError **err)
{
    UnixArg a = {0};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (!parse(&a, arg, err))
        return false;
    g_autofree char *path = a.path;
    if (strlen(path) >= sizeof(addr.sun_path)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "unix:%s: the path is longer than the %u bytes a socket's may have", path,
                    (unsigned)sizeof(addr.sun_path) - 1);
        return false;
    }
    strcpy(addr.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "unix:%s: %s", path, g_strerror(errno));
        return false;
    }
    cd->is_socket = true;
    cd->name = g_strdup_printf("unix:%s%s", path, a.server ? ",server" : "");
    if (a.server) {
        cd->listen_fd = fd;
        return serve(cd, &a, &addr, err);
    }
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "unix:%s: %s%s", path, g_strerror(errno),
                    errno == ENOENT ? " (add ,server,nowait to make it)" : "");
        close(fd);
        return false;
    }
    char_connected(cd, fd, fd);
    return true;
}
