#include "base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static bool failed(const char *path, int e, GError **err)
{
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s: %s", path, g_strerror(e));
    return false;
}

static bool read_all(int fd, const char *path, size_t most, char **data, gsize *len, GError **err)
{
    g_autoptr(GByteArray) all = g_byte_array_new();
    uint8_t part[16384];
    ssize_t n;
    do {
        n = read(fd, part, sizeof(part));
        if (n > 0)
            g_byte_array_append(all, part, (guint)n);
    } while ((n > 0 && all->len <= most) || (n < 0 && errno == EINTR));
    if (n < 0)
        return failed(path, errno, err);
    if (all->len > most) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "%s: more than %" G_GSIZE_FORMAT " KiB, which is far too much", path,
                    most >> 10);
        return false;
    }
    *len = all->len;
    g_byte_array_append(all, (const uint8_t *)"", 1);
    *data = (char *)g_byte_array_free(g_steal_pointer(&all), FALSE);
    return true;
}

bool file_read(const char *path, size_t most, char **data, gsize *len, GError **err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return failed(path, errno, err);
    bool ok = read_all(fd, path, most, data, len, err);
    close(fd);
    return ok;
}

bool file_read_regular(const char *path, size_t most, char **data, gsize *len, GError **err)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO is not even waited for to be found out. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return failed(path, errno, err);
    bool ok = fstat(fd, &st) == 0 || failed(path, errno, err);
    if (ok && !S_ISREG(st.st_mode)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s: %s", path,
                    S_ISDIR(st.st_mode) ? "is a directory" : "not a regular file");
        ok = false;
    }
    ok = ok && read_all(fd, path, most, data, len, err);
    close(fd);
    return ok;
}

bool write_all(int fd, const void *data, size_t len)
{
    for (const char *p = data; len;) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool write_to(const char *path, const char *data, size_t len, GError **err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return failed(path, errno, err);
    if (!write_all(fd, data, len)) {
        int e = errno;
        close(fd);
        return failed(path, e, err);
    }
    return close(fd) == 0 || failed(path, errno, err);
}

bool file_write(const char *path, const char *data, size_t len, GError **err)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return write_to(path, data, len, err);
    return g_file_set_contents(path, data, (gssize)len, err);
}
