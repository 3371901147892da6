/* -pidfile: the process id, in a file that is locked while tandem runs. */
#ifndef TANDEM_CLI_PIDFILE_H
#define TANDEM_CLI_PIDFILE_H

#include <glib.h>
#include "base/types.h"

typedef struct Pidfile {
    char *path;
    int fd;
} Pidfile;

/* Refuses a file that another process has locked, or that holds anything but a process id: it would
 * be overwritten now and removed at the end. */
bool pidfile_make(Pidfile *, const char *path, GError **);
/* Removes it; nothing happens if it was not made. */
void pidfile_remove(Pidfile *);

#endif
