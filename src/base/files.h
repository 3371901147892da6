/* Whole files, as users name them: nothing that has no end is read to it, no device is replaced. */
#ifndef TANDEM_BASE_FILES_H
#define TANDEM_BASE_FILES_H

#include <glib.h>

#include "base/types.h"

/* All of a file, with a zero byte behind it. More than `most` bytes are an error, which begins with
 * the path, as all do. May wait for who writes to a pipe or a terminal. */
bool file_read(const char *path, size_t most, char **data, gsize *len, GError **);

/* The same, where nothing may wait: an error for what is not a regular file. */
bool file_read_regular(const char *path, size_t most, char **data, gsize *len, GError **);

/* All of it, whatever is interrupted. False: errno says why. */
bool write_all(int fd, const void *data, size_t len);

/*
 * A regular file is replaced as a whole, so that it is never half of one thing and half of another.
 * What is something else (a device, a pipe, /dev/stdout) is written to.
 */
bool file_write(const char *path, const char *data, size_t len, GError **);

#endif
