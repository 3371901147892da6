/*
 * 8254 programmable interval timer (Intel 231164) and system control port B (0x61) with the speaker
 * gate. Counter 0 drives IRQ 0. Input clock 1193182 Hz. Lock held.
 */
#ifndef TANDEM_DEVICES_I8254_H
#define TANDEM_DEVICES_I8254_H

#include "devices/bus.h"

#define PIT_HZ 1193182ull

extern const DeviceClass device_i8254;

/* OUT of counter 0. */
void i8254_connect(Device *, IrqLine out0);
/* HPET in legacy replacement mode takes IRQ 0 over: the line then stays silent. */
void i8254_set_irq_enabled(Device *, bool on);

#endif
