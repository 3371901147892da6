/* CharDev's inside, shared by the files of this room only. */
#ifndef TANDEM_CHAR_CHAR_PRIV_H
#define TANDEM_CHAR_CHAR_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"
#include "char/chardev.h"

/* Output waiting for a slow host side; what does not fit is dropped and counted. */
#define OUT_MAX (1u << 20)
/* Most bytes taken from the host at once, and those that wait for a front end of a mux. */
#define IN_CHUNK      4096
#define MUX_IN_MAX    (64u << 10)
#define MUX_FRONTENDS 4

typedef struct MuxFront {
    CharHandlers fe;
    GByteArray *in; /* typed while it had the keyboard, not taken yet */
} MuxFront;

typedef struct Mux {
    MuxFront front[MUX_FRONTENDS];
    unsigned n, focus;
    bool escaped;                   /* Ctrl-A was the last byte */
    bool timestamps, at_line_start; /* CharDev.lock */
    uint64_t stamp_base_us;
} Mux;

/*
 * `lock` guards the output side: fd_out, out, out_source, dropped, connected, failed. It is a leaf:
 * nothing is called with it held. The rest is the main thread's.
 */
struct CharDev {
    char *name; /* for chardev_describe() */
    char *described;
    Mux *mux;
    CharHandlers fe; /* of a plain chardev */
    bool attached;

    int fd_in;
    GSource *in_source;
    bool in_eof;          /* the host side will not say any more */
    _Atomic bool blocked; /* the front end took nothing: chardev_accept_input() goes on */
    _Atomic bool poked;   /* an idle source that looks again is on its way */

    pthread_mutex_t lock;
    int fd_out;
    bool is_socket, is_file, connected;
    int failed; /* errno of the last write that failed */
    bool failed_said;
    GByteArray *out;
    GSource *out_source;
    uint64_t dropped;

    /* Backend: */
    void (*hangup)(CharDev *); /* the peer is gone, fds are closed; NULL: stays closed */
    void (*release)(CharDev *);
    GSource *listen_source; /* or pty's look for a reader */
    int listen_fd;          /* or pty's master */
    char *path;             /* made here, removed at free, if it is still the same file: */
    dev_t path_dev;
    ino_t path_ino;
};

/* The host side is there: input flows from fd_in, output to fd_out (the same for sockets). */
void char_connected(CharDev *, int fd_in, int fd_out);
/* Ends a connection: closes what char_connected() was given, drops output, tells the front ends. */
void char_disconnect(CharDev *);
/* Asks the front end and starts or stops reading. */
void char_update_input(CharDev *);
void char_source_clear(GSource **);
void char_send_event(CharDev *, enum CharEvent);

/* Backends; each fills a fresh CharDev. */
bool stdio_open(CharDev *, bool signals, GError **);
bool pty_open(CharDev *, GError **);
bool unix_open(CharDev *, const char *arg, GError **);

/* mux.c */
Mux *mux_new(void);
void mux_free(Mux *);
unsigned mux_room(const Mux *);
void mux_input(CharDev *, const uint8_t *, unsigned len);
/* Hands waiting input to front ends that take it. */
void mux_drain(CharDev *);
/* Lock held: adds timestamps if they are on. NULL: as it is. */
GString *mux_stamp(Mux *, const uint8_t *, size_t len);

#endif
