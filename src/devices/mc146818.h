/*
 * MC146818A real-time clock and CMOS RAM (Motorola datasheet; ports 0x70, 0x71; IRQ 8). Runs on the
 * machine's clock, starting from the host's UTC; what the guest sets is kept as an offset. Lock
 * held.
 */
#ifndef TANDEM_DEVICES_MC146818_H
#define TANDEM_DEVICES_MC146818_H

#include "devices/bus.h"

extern const DeviceClass device_mc146818;

void mc146818_connect(Device *, IrqLine irq);
/* HPET in legacy replacement mode takes IRQ 8 over. */
void mc146818_set_irq_enabled(Device *, bool on);
/* A CMOS byte, 0x0e-0x7f: configuration left by the "firmware". */
void mc146818_set_cmos(Device *, unsigned index, uint8_t value);

#endif
