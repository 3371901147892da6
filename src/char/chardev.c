/*
 * Character devices: what all back ends have in common.
 *
 * Input is read only when a front end takes it, so a slow guest holds back a pipe. Output never
 * waits: what the host does not take at once is queued and written by the main loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>

#include "char/char_priv.h"

/* At the end, so long is waited for a reader to take what is left. */
#define LAST_FLUSH_MS 500

void char_source_clear(GSource **s)
{
    if (!*s)
        return;
    g_source_destroy(*s);
    g_source_unref(*s);
    *s = NULL;
}

/* ---- output ---- */

static ssize_t put(const CharDev *cd, const uint8_t *buf, size_t len)
{
    ssize_t n;
    do {
        n = cd->is_socket ? send(cd->fd_out, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT)
                          : write(cd->fd_out, buf, len);
    } while (n < 0 && errno == EINTR);
    return n;
}

/* Lock held. Writes what the host takes now; false when the host side is gone. */
static bool flush_locked(CharDev *cd)
{
    size_t done = 0;
    bool alive = true;
    while (done < cd->out->len) {
        ssize_t n = put(cd, cd->out->data + done, cd->out->len - done);
        if (n <= 0) {
            alive = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
            break;
        }
        done += (size_t)n;
    }
    if (!alive)
        done = cd->out->len;
    if (done)
        g_byte_array_remove_range(cd->out, 0, (guint)done);
    return alive;
}

static gboolean out_ready(int fd, GIOCondition cond, gpointer opaque)
{
    CharDev *cd = opaque;
    gboolean again = G_SOURCE_CONTINUE;
    pthread_mutex_lock(&cd->lock);
    flush_locked(cd);
    if (!cd->out->len && cd->out_source) {
        g_source_unref(cd->out_source);
        cd->out_source = NULL;
        again = G_SOURCE_REMOVE;
    }
    pthread_mutex_unlock(&cd->lock);
    return again;
}

static void write_locked(CharDev *cd, const uint8_t *buf, size_t len)
{
    if (!cd->connected || cd->fd_out < 0)
        return; /* nobody listens: as a line with nothing plugged in */
    if (!cd->out->len) {
        while (len) {
            ssize_t n = put(cd, buf, len);
            if (n <= 0) {
                if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                    break;
                cd->failed = n < 0 ? errno : 0;
                return;
            }
            buf += n;
            len -= (size_t)n;
        }
    }
    size_t take = MIN_OF(len, OUT_MAX - cd->out->len);
    g_byte_array_append(cd->out, buf, (guint)take);
    cd->dropped += len - take;
    if (cd->out->len && !cd->out_source) {
        cd->out_source = g_unix_fd_source_new(cd->fd_out, G_IO_OUT | G_IO_ERR | G_IO_HUP);
        g_source_set_callback(cd->out_source, G_SOURCE_FUNC(out_ready), cd, NULL);
        g_source_attach(cd->out_source, NULL);
    }
}

void chardev_write_from(CharDev *cd, unsigned frontend, const void *buf, size_t len)
{
    if (!cd || !len)
        return;
    pthread_mutex_lock(&cd->lock);
    g_autoptr(GString) stamped = cd->mux ? mux_stamp(cd->mux, buf, len) : NULL;
    if (stamped)
        write_locked(cd, (const uint8_t *)stamped->str, stamped->len);
    else
        write_locked(cd, buf, len);
    /* A peer that is gone may come back, a file that takes nothing is worth a word. */
    int say = cd->failed && cd->is_file && !cd->failed_said ? cd->failed : 0;
    cd->failed_said |= say != 0;
    pthread_mutex_unlock(&cd->lock);
    if (say)
        warn_user("%s: %s; output is lost", cd->name, g_strerror(say));
}

void chardev_write(CharDev *cd, const void *buf, size_t len)
{
    chardev_write_from(cd, 0, buf, len);
}

static void last_flush(CharDev *cd)
{
    gint64 end = g_get_monotonic_time() + LAST_FLUSH_MS * 1000;
    while (cd->connected && cd->fd_out >= 0 && flush_locked(cd) && cd->out->len) {
        gint64 left = end - g_get_monotonic_time();
        struct pollfd p = {.fd = cd->fd_out, .events = POLLOUT};
        if (left <= 0 || poll(&p, 1, (int)(left / 1000) + 1) <= 0)
            break;
    }
}

/* ---- input ---- */

/* How many bytes the front end takes now. */
static unsigned room(CharDev *cd)
{
    if (cd->mux)
        return cd->mux->n ? mux_room(cd->mux) : 0;
    if (!cd->attached)
        return 0;
    return cd->fe.can_read ? cd->fe.can_read(cd->fe.opaque) : IN_CHUNK;
}

/* Like room(), and makes sure that accept_input() comes if it is 0: the flag is up before the front
 * end is asked, so its answer cannot be out of date without anybody noticing. */
static unsigned ask(CharDev *cd)
{
    atomic_store(&cd->blocked, true);
    unsigned n = room(cd);
    if (n)
        atomic_store(&cd->blocked, false);
    return n;
}

static gboolean in_ready(int fd, GIOCondition cond, gpointer opaque)
{
    CharDev *cd = opaque;
    uint8_t buf[IN_CHUNK];
    unsigned want = ask(cd);
    if (want) {
        ssize_t n = read(fd, buf, MIN_OF(want, sizeof(buf)));
        if (n > 0) {
            if (cd->mux)
                mux_input(cd, buf, (unsigned)n);
            else
                cd->fe.read(cd->fe.opaque, buf, (unsigned)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            cd->in_eof = true;
            if (cd->hangup)
                char_disconnect(cd);
            else
                char_send_event(cd, CHAR_CLOSED);
        }
    }
    char_update_input(cd);
    return G_SOURCE_CONTINUE; /* char_update_input() has destroyed it if it must not */
}

void char_update_input(CharDev *cd)
{
    bool want = cd->fd_in >= 0 && !cd->in_eof && ask(cd);
    if (want && !cd->in_source) {
        cd->in_source = g_unix_fd_source_new(cd->fd_in, G_IO_IN | G_IO_HUP | G_IO_ERR);
        g_source_set_callback(cd->in_source, G_SOURCE_FUNC(in_ready), cd, NULL);
        g_source_attach(cd->in_source, NULL);
    } else if (!want) {
        char_source_clear(&cd->in_source);
    }
}

static gboolean look_again(gpointer opaque)
{
    CharDev *cd = opaque;
    atomic_store(&cd->poked, false);
    if (cd->mux)
        mux_drain(cd);
    char_update_input(cd);
    return G_SOURCE_REMOVE;
}

void chardev_accept_input(CharDev *cd)
{
    /* A mux has its own queues: it may wait for one front end while another takes everything. */
    if (cd && (cd->mux || atomic_load(&cd->blocked)) && !atomic_exchange(&cd->poked, true))
        g_idle_add_full(G_PRIORITY_DEFAULT, look_again, cd, NULL);
}

/* ---- connections ---- */

static void send_to(const CharHandlers *fe, enum CharEvent e)
{
    if (fe->event)
        fe->event(fe->opaque, e);
}

void char_send_event(CharDev *cd, enum CharEvent e)
{
    if (cd->mux) {
        for (unsigned i = 0; i < cd->mux->n; i++)
            send_to(&cd->mux->front[i].fe, e);
    } else if (cd->attached) {
        send_to(&cd->fe, e);
    }
}

void char_connected(CharDev *cd, int fd_in, int fd_out)
{
    cd->fd_in = fd_in;
    cd->in_eof = false;
    pthread_mutex_lock(&cd->lock);
    cd->fd_out = fd_out;
    cd->connected = true;
    pthread_mutex_unlock(&cd->lock);
    char_send_event(cd, CHAR_OPENED);
    char_update_input(cd);
}

static void close_fds(CharDev *cd)
{
    char_source_clear(&cd->in_source);
    pthread_mutex_lock(&cd->lock);
    char_source_clear(&cd->out_source);
    g_byte_array_set_size(cd->out, 0);
    if (cd->fd_out >= 0 && cd->fd_out != cd->fd_in)
        close(cd->fd_out);
    cd->fd_out = -1;
    cd->connected = false;
    pthread_mutex_unlock(&cd->lock);
    if (cd->fd_in > STDERR_FILENO)
        close(cd->fd_in);
    cd->fd_in = -1;
}

void char_disconnect(CharDev *cd)
{
    close_fds(cd);
    char_send_event(cd, CHAR_CLOSED);
    if (cd->hangup)
        cd->hangup(cd);
}

void chardev_attach(CharDev *cd, const CharHandlers *h)
{
    if (!cd)
        return;
    const CharHandlers *fe = &cd->fe;
    unsigned i = 0;
    if (cd->mux) {
        i = cd->mux->n;
        g_assert(i < MUX_FRONTENDS);
        cd->mux->front[i] = (MuxFront){.fe = *h, .in = g_byte_array_new()};
        cd->mux->n++;
        fe = &cd->mux->front[i].fe;
    } else {
        cd->fe = *h;
        cd->attached = true;
    }
    pthread_mutex_lock(&cd->lock);
    bool open = cd->connected;
    pthread_mutex_unlock(&cd->lock);
    if (open)
        send_to(fe, CHAR_OPENED);
    if (cd->mux)
        send_to(fe, i == cd->mux->focus ? CHAR_MUX_IN : CHAR_MUX_OUT);
    char_update_input(cd);
}

/* ---- file and null ---- */

static bool file_open(CharDev *cd, const char *path, GError **err)
{
    /* Non-blocking for a FIFO that nobody reads: an error now instead of a wait for ever. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
    if (fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "file:%s: %s", path,
                    errno == ENXIO ? "nobody reads this FIFO" : g_strerror(errno));
        return false;
    }
    cd->name = g_strconcat("file:", path, NULL);
    cd->is_file = true;
    char_connected(cd, -1, fd);
    return true;
}

/* ---- making and ending ---- */

static bool open_backend(CharDev *cd, const char *spec, bool mux, GError **err)
{
    const char *arg;
    if (!strcmp(spec, "null")) {
        cd->name = g_strdup("null");
        return true;
    }
    if (!strcmp(spec, "stdio"))
        return stdio_open(cd, !mux, err);
    if (!strcmp(spec, "pty"))
        return pty_open(cd, err);
    if (g_str_has_prefix(spec, arg = "file:") || g_str_has_prefix(spec, arg = "unix:")) {
        const char *rest = spec + strlen(arg);
        if (!*rest || *rest == ',') {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "'%s' has no path", spec);
            return false;
        }
        return *arg == 'f' ? file_open(cd, rest, err) : unix_open(cd, rest, err);
    }
    g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                "no character device '%s'; there are null, stdio, mon:stdio, file:PATH, pty, "
                "unix:PATH,server,nowait and none",
                spec);
    return false;
}

bool chardev_open(CharDev **out, const char *spec, GError **err)
{
    *out = NULL;
    if (!strcmp(spec, "none"))
        return true;
    bool mux = g_str_has_prefix(spec, "mon:");
    CharDev *cd = g_new0(CharDev, 1);
    cd->fd_in = cd->fd_out = cd->listen_fd = -1;
    cd->out = g_byte_array_new();
    pthread_mutex_init(&cd->lock, NULL);
    if (mux)
        cd->mux = mux_new();
    if (!open_backend(cd, mux ? spec + 4 : spec, mux, err)) {
        chardev_free(cd);
        return false;
    }
    *out = cd;
    return true;
}

static void remove_path(const CharDev *cd)
{
    struct stat st;
    if (cd->path && lstat(cd->path, &st) == 0 && st.st_dev == cd->path_dev &&
        st.st_ino == cd->path_ino)
        unlink(cd->path);
}

void chardev_free(CharDev *cd)
{
    if (!cd)
        return;
    while (g_idle_remove_by_data(cd))
        ;
    last_flush(cd);
    close_fds(cd);
    if (cd->release)
        cd->release(cd);
    char_source_clear(&cd->listen_source);
    if (cd->listen_fd >= 0)
        close(cd->listen_fd);
    remove_path(cd);
    mux_free(cd->mux);
    g_byte_array_unref(cd->out);
    pthread_mutex_destroy(&cd->lock);
    g_free(cd->path);
    g_free(cd->name);
    g_free(cd->described);
    g_free(cd);
}

bool chardev_is_mux(const CharDev *cd)
{
    return cd && cd->mux;
}

bool chardev_wants_crlf(const CharDev *cd)
{
    return cd && strcmp(cd->name, "stdio") != 0;
}

const char *chardev_describe(const CharDev *cd)
{
    if (!cd)
        return "none";
    /* The text is kept in the device so that the caller need not free it. */
    CharDev *w = (CharDev *)cd;
    pthread_mutex_lock(&w->lock);
    uint64_t dropped = w->dropped;
    pthread_mutex_unlock(&w->lock);
    g_free(w->described);
    w->described = dropped ? g_strdup_printf("%s%s (%" G_GUINT64_FORMAT " bytes dropped)",
                                             cd->mux ? "mon:" : "", cd->name, dropped)
                           : g_strconcat(cd->mux ? "mon:" : "", cd->name, NULL);
    return w->described;
}
