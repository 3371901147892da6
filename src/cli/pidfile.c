#include "cli/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static bool holds_other_things(int fd)
{
    char buf[32];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    if (n < 0 || n == sizeof(buf))
        return true;
    for (ssize_t i = 0; i < n; i++) {
        if (!g_ascii_isdigit(buf[i]) && buf[i] != '\n')
            return true;
    }
    return false;
}

static bool fail(Pidfile *p, const char *path, const char *why, GError **err)
{
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-pidfile %s: %s", path, why);
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    return false;
}

bool pidfile_make(Pidfile *p, const char *path, GError **err)
{
    struct stat st;
    char text[32];
    p->path = NULL;
    p->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
    if (p->fd < 0)
        return fail(p, path, g_strerror(errno), err);
    if (fstat(p->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return fail(p, path, "not a regular file", err);
    if (flock(p->fd, LOCK_EX | LOCK_NB) < 0)
        return fail(p, path, "a process that runs has locked it", err);
    if (holds_other_things(p->fd))
        return fail(p, path, "the file holds something else than a process id", err);
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(p->fd, 0) < 0 || pwrite(p->fd, text, (size_t)len, 0) != len)
        return fail(p, path, g_strerror(errno), err);
    p->path = realpath(path, NULL);
    return true;
}

void pidfile_remove(Pidfile *p)
{
    if (!p->path)
        return;
    unlink(p->path);
    close(p->fd);
    free(p->path);
    p->path = NULL;
}
