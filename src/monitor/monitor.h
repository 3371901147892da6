/*
 * The human monitor: commands over a character device. Main thread only.
 *
 * A monitor on a mux shows itself when it first gets the keyboard (Ctrl-A c), one on a socket when
 * a client connects. The end of its input ends nothing else.
 */
#ifndef TANDEM_MONITOR_MONITOR_H
#define TANDEM_MONITOR_MONITOR_H

#include "char/chardev.h"
#include "machine/machine.h"

typedef struct Monitor Monitor;

/* frontend: which front end of a mux this becomes (those attached before it); 0 for others. The
 * character device is not owned. */
Monitor *monitor_new(Machine *, CharDev *, unsigned frontend);
void monitor_free(Monitor *);

#endif
