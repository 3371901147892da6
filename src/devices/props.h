/* Reading the key=value properties of -device. */
#ifndef TANDEM_DEVICES_PROPS_H
#define TANDEM_DEVICES_PROPS_H

#include "devices/bus.h"

/*
 * Takes `key` out of props (which may be NULL) and parses it as a number, decimal or 0x-hex, from 0
 * to max. *value stays as it was when the key is absent. False and err: it is there and is no such
 * number.
 */
bool prop_take_number(const Device *, GHashTable *props, const char *key, uint64_t max,
                      uint64_t *value, GError **);

/* The same for one of two words: whether it is the second. */
bool prop_take_choice(const Device *, GHashTable *props, const char *key, const char *first,
                      const char *second, bool *is_second, GError **err);

#endif
