/*
 * Names of guest code addresses: from an ELF file's symbol table, a System.map, or a copy of the
 * guest's /proc/kallsyms (the same format).
 *
 * A table is filled on one thread; from then on any thread reads it without a lock. Only the offset
 * (a kernel that was loaded elsewhere than it was linked: KASLR) may change later; it is atomic.
 */
#ifndef TANDEM_BASE_SYMBOLS_H
#define TANDEM_BASE_SYMBOLS_H

#include <glib.h>
#include "base/types.h"

typedef struct Symbols Symbols;

Symbols *symbols_new(void);
void symbols_free(Symbols *); /* NULL: nothing */

/* Adds what the file names. False: err names the file and what is wrong with it; what was added
 * from it until then stays out. */
bool symbols_add_file(Symbols *, const char *path, GError **err);
/* The same for a kernel that may well have no symbols: no ELF, no symbol table or one that cannot
 * be read adds nothing. */
void symbols_add_kernel(Symbols *, const char *path);
/* "FILE" or "FILE,offset=N" (signed, added to every address of this table). */
bool symbols_add_option(Symbols *, const char *arg, GError **err);

unsigned symbols_count(const Symbols *); /* NULL: 0 */
int64_t symbols_offset(const Symbols *);
void symbols_set_offset(Symbols *, int64_t);

/* The address of a name. size (may be NULL): bytes up to its end, or to the next name where the
 * file has no sizes; 0 unknown. */
bool symbols_find(const Symbols *, const char *name, uint64_t *addr, uint64_t *size);
/* The name that is nearest to one that is not there, or NULL. */
const char *symbols_nearest(const Symbols *, const char *name);

/* The code symbol an address lies in; *offset from its start. NULL: none does, or no table. */
const char *symbols_at(const Symbols *, uint64_t addr, uint64_t *offset);
/* Calls fn for every code symbol, in the order of addresses. size as in symbols_find(). */
void symbols_each(const Symbols *,
                  void (*fn)(const char *name, uint64_t addr, uint64_t size, void *opaque),
                  void *opaque);

#define SYMBOL_TEXT 160
/* "name+0x12" or "name", or "" when no symbol has the address. Returns buf. */
const char *symbols_text(const Symbols *, uint64_t addr, char buf[SYMBOL_TEXT]);
/* The same in parentheses behind a space, for messages: " (name+0x12)", or "". */
const char *symbols_note(const Symbols *, uint64_t addr, char buf[SYMBOL_TEXT]);

#endif
