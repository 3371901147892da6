/*
 * A line editor for a byte stream: echo, cursor keys, history, completion. Knows neither machine
 * nor character device. For a client that sends plain lines it is an echo.
 */
#ifndef TANDEM_MONITOR_LINEEDIT_H
#define TANDEM_MONITOR_LINEEDIT_H

#include <glib.h>
#include "base/types.h"

typedef struct LineEdit LineEdit;

typedef struct LineEditOps {
    void *opaque;
    void (*write)(void *opaque, const char *buf, size_t len);
    /* False: the user has left, no new prompt. */
    bool (*execute)(void *opaque, const char *line);
    /* Adds what the last word of text (up to the cursor) may become: new strings. NULL: no
     * completion. */
    void (*complete)(void *opaque, const char *text, GPtrArray *words);
} LineEditOps;

#define LINE_MAX_BYTES 1024

LineEdit *lineedit_new(const LineEditOps *, const char *prompt);
void lineedit_free(LineEdit *);
/* Prints the prompt and the line typed so far. */
void lineedit_show(LineEdit *);
/* Forgets a half-typed line; history stays. */
void lineedit_reset(LineEdit *);
void lineedit_input(LineEdit *, const uint8_t *buf, size_t len);

#endif
