/*
 * Keyboard controller (Intel 8042 as in the PC/AT and PS/2), with a keyboard and no mouse: ports
 * 0x60 and 0x64, IRQ 1 and 12. `device_i8042` is the whole interface but for typed keys.
 */
#ifndef TANDEM_DEVICES_I8042_H
#define TANDEM_DEVICES_I8042_H

#include "devices/bus.h"

extern const DeviceClass device_i8042;

/* Scan codes (set 2) from the keyboard to the controller; machine lock held. Returns how many were
 * taken: none while the guest has scanning disabled, fewer when the keyboard's buffer is full. */
unsigned i8042_key(Device *, const uint8_t *codes, unsigned n);

#endif
