/*
 * State as text: a line a field, "NAME HEX", the bytes of its value in memory order. Fields that
 * are all zeros are left out. For files that must be read back exactly and by other versions.
 */
#ifndef TANDEM_VMSTATE_TEXT_H
#define TANDEM_VMSTATE_TEXT_H

#include <glib.h>
#include "cpu/cpu_state.h"

/* Each line begins with `prefix`. */
void vmstate_write_text(const CpuState *, const char *prefix, GString *out);
/* One line without its prefix. False: no such field, or no such value. */
bool vmstate_read_text(CpuState *, const char *line, GError **);

/* Hexadecimal, two digits a byte. */
void hex_write(const void *, size_t n, GString *out);
/* Exactly n bytes, and nothing behind. */
bool hex_read(const char *text, void *out, size_t n);

#endif
