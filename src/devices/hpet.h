/*
 * High Precision Event Timers (IA-PC HPET specification 1.0a) at 0xfed00000: three comparators, all
 * periodic, a 64-bit counter of 100 MHz, legacy replacement routes; no FSB delivery. Lock held.
 */
#ifndef TANDEM_DEVICES_HPET_H
#define TANDEM_DEVICES_HPET_H

#include "devices/bus.h"

#define HPET_BASE      0xfed00000ull
#define HPET_PERIOD_FS 10000000u /* 10 ns */

extern const DeviceClass device_hpet;

/* Comparators drive Board.gsi 20-23. In legacy replacement mode: `legacy(opaque, true)` is called
 * so that the PIT and the RTC fall silent, and comparators 0 and 1 drive Board.isa_irq 0 and 8. */
void hpet_connect(Device *, void (*legacy)(void *opaque, bool on), void *opaque);
/* As i8254_set_busy() and i8254_irq_taken(), for IRQ 0 in legacy replacement mode. */
void hpet_set_busy(Device *, bool (*busy)(void *opaque), void *opaque);
void hpet_irq_taken(Device *);

#endif
