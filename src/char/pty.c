/*
 * A pseudo-terminal. It is open while somebody has the slave open, which the master side learns by
 * polling: there is no event for it. What the guest says meanwhile is lost, as on a line with
 * nothing plugged in.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "char/char_priv.h"

#define LOOK_MS 100

static gboolean look_for_reader(gpointer opaque)
{
    CharDev *cd = opaque;
    struct pollfd p = {.fd = cd->listen_fd, .events = POLLOUT};
    if (poll(&p, 1, 0) < 0 || p.revents & POLLHUP)
        return G_SOURCE_CONTINUE;
    int fd = fcntl(cd->listen_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (fd < 0)
        return G_SOURCE_CONTINUE;
    char_source_clear(&cd->listen_source);
    char_connected(cd, fd, fd);
    return G_SOURCE_REMOVE;
}

static void wait_for_reader(CharDev *cd)
{
    cd->listen_source = g_timeout_source_new(LOOK_MS);
    g_source_set_callback(cd->listen_source, look_for_reader, cd, NULL);
    g_source_attach(cd->listen_source, NULL);
}

bool pty_open(CharDev *cd, GError **err)
{
    char slave_name[64];
    int slave = -1;
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0 && grantpt(fd) == 0 && unlockpt(fd) == 0 &&
        ptsname_r(fd, slave_name, sizeof(slave_name)) == 0)
        slave = open(slave_name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "pty: %s", g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    struct termios t;
    if (tcgetattr(slave, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(slave, TCSANOW, &t);
    }
    /* Only after a first open and close does the master report that nobody is there. */
    close(slave);
    cd->name = g_strconcat("pty:", slave_name, NULL);
    cd->listen_fd = fd;
    cd->hangup = wait_for_reader;
    wait_for_reader(cd);
    return true;
}
