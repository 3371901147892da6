/*
 * The wiring of the x87 error: FERR# to IRQ 13, port F0h to IGNNE#.
 *
 * With CR0.NE clear a PC reports x87 exceptions as its first coprocessors did. The processor
 * asserts FERR#, the board latches it and raises IRQ 13; the handler writes port F0h, which takes
 * the interrupt back and asserts IGNNE# for as long as FERR# is (82371SB, "Coprocessor Error
 * Register"; SDM vol. 1, appendix D).
 */
#ifndef TANDEM_DEVICES_FERR_H
#define TANDEM_DEVICES_FERR_H

#include "devices/bus.h"

extern const DeviceClass device_ferr;

void ferr_connect(Device *, IrqLine irq13);
/* The processor's pin. Returns IGNNE#. */
bool ferr_set(Device *, bool ferr);

#endif
