/*
 * High Precision Event Timers (IA-PC HPET specification 1.0a) at 0xfed00000: three comparators, a
 * 64-bit counter of 100 MHz, legacy replacement routes. Lock held.
 */
#ifndef TANDEM_DEVICES_HPET_H
#define TANDEM_DEVICES_HPET_H

#include "devices/bus.h"

#define HPET_BASE      0xfed00000ull
#define HPET_PERIOD_FS 10000000u /* 10 ns */

extern const DeviceClass device_hpet;

/* Comparators drive Board.gsi. In legacy replacement mode: `legacy(opaque, true)` is called so that
 * the PIT and the RTC fall silent, and comparators 0 and 1 drive GSI 2 (8259 IRQ 0) and 8. */
void hpet_connect(Device *, void (*legacy)(void *opaque, bool on), void *opaque);

#endif
