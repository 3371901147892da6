/*
 * MC146818A real-time clock and CMOS RAM (Motorola datasheet; ports 0x70, 0x71; IRQ 8). Runs on the
 * machine's clock, starting from the host's UTC; a stopped machine's clock stands. Lock held.
 */
#ifndef TANDEM_DEVICES_MC146818_H
#define TANDEM_DEVICES_MC146818_H

#include "devices/bus.h"

extern const DeviceClass device_mc146818;

/* Default: Board.isa_irq[8]. */
void mc146818_connect(Device *, IrqLine irq);
/* HPET in legacy replacement mode takes IRQ 8 over. */
void mc146818_set_irq_enabled(Device *, bool on);
/* A CMOS byte, 0x0e-0x7f but not the century at 0x32: configuration left by the "firmware". */
void mc146818_set_cmos(Device *, unsigned index, uint8_t value);
/* Bit 7 of port 0x70: the board holds NMI back. */
bool mc146818_nmi_masked(const Device *);

#endif
