/*
 * Character backends: what -serial, -monitor and -debugcon connect to.
 *
 * Everything runs on the main thread's GMainContext except chardev_write(), which any thread may
 * call with the machine lock held; output that the host cannot take at once is buffered (bounded,
 * then the writer's bytes are dropped and counted, never blocking a vCPU for long).
 */
#ifndef TANDEM_CHAR_CHARDEV_H
#define TANDEM_CHAR_CHARDEV_H

#include <glib.h>
#include "base/types.h"

typedef struct CharDev CharDev;

/* MUX_IN and MUX_OUT: this front end of a mux got, or lost, the keyboard. */
enum CharEvent { CHAR_OPENED, CHAR_CLOSED, CHAR_BREAK, CHAR_MUX_IN, CHAR_MUX_OUT };

typedef struct CharHandlers {
    void *opaque;
    unsigned (*can_read)(void *opaque); /* how many bytes the front end takes now */
    void (*read)(void *opaque, const uint8_t *buf, unsigned len);
    void (*event)(void *opaque, enum CharEvent);
} CharHandlers;

/*
 * spec: null | stdio | mon:stdio | file:PATH | pty |
 * unix:PATH[,server[=on|off]][,nowait|wait=on|off] | none. "none" gives NULL without an error.
 * mon:X is X as a mux of serial and monitor. A path that exists as something else, or cannot be
 * made, is an error. Socket files that were made here are removed at free.
 */
bool chardev_open(CharDev **out, const char *spec, GError **err);
void chardev_free(CharDev *);
void chardev_write(CharDev *, const void *buf, size_t len);
/* Front end of a plain chardev, or the next front end of a mux (the first gets the focus). */
void chardev_attach(CharDev *, const CharHandlers *);
/* Ends the wait of a chardev_open() for a unix:...,server,wait=on client: it fails. Main thread. */
void chardev_stop_waiting(void);
/* The front end can take more again. Any thread, the machine lock may be held. */
void chardev_accept_input(CharDev *);
bool chardev_is_mux(const CharDev *);
/* Output of a given front end of a mux (index in attach order); a plain chardev ignores it.
 * chardev_write() is that of the first. Any thread. */
void chardev_write_from(CharDev *, unsigned frontend, const void *buf, size_t len);
/* Mux escapes, Ctrl-A then: h help, x exit, c switch focus, b break, t timestamps, s ignored with a
 * line, Ctrl-A itself. */
void chardev_set_quit_hook(void (*fn)(void *opaque), void *opaque);
/* One line: "stdio", "pty:/dev/pts/3", ... */
const char *chardev_describe(const CharDev *);
/* Does the far side want CR LF for a new line? A terminal's driver adds the CR itself. */
bool chardev_wants_crlf(const CharDev *);
/* Puts the terminal back; also at exit and on fatal signals. */
void chardev_restore_tty(void);

#endif
