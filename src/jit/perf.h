/*
 * What perf(1) is told of translated code, so that it names the guest's: -perfmap and -jitdump.
 *
 *   /tmp/perf-PID.map   text: start, size (hexadecimal), name; perf reads it by itself. Code that
 *                       took another's place stands there twice.
 *   jit-PID.dump        in the working directory: code itself with times, for
 *                       `perf record -k mono`, then `perf inject --jit`
 *
 * Names are guest-0xADDRESS, or the guest's symbol and offset where it is known. All vCPUs share
 * the files. Started by the main thread before there are vCPUs; perf_code() on any thread.
 */
#ifndef TANDEM_JIT_PERF_H
#define TANDEM_JIT_PERF_H

#include <glib.h>
#include "base/types.h"

/* False: err says which file could not be made. */
bool perf_map_begin(GError **err);
bool perf_dump_begin(GError **err);
/* Closes the files; nothing is noted from now on. */
void perf_end(void);

extern bool perf_on; /* one of them has begun */
/* `size` bytes of code run at `start`, and can be read at `bytes`. */
void perf_code(const uint8_t *start, const uint8_t *bytes, size_t size, const char *name);

#endif
