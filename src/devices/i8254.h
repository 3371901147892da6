/*
 * 8254 programmable interval timer (Intel 231164), ports 0x40-0x43, and system control port B
 * (0x61) with the gate of counter 2. Counter 0 drives IRQ 0. Input clock 1193182 Hz. Lock held.
 */
#ifndef TANDEM_DEVICES_I8254_H
#define TANDEM_DEVICES_I8254_H

#include "cpu/chips.h"
#include "devices/bus.h"

#define PIT_HZ 1193182ull

extern const DeviceClass device_i8254;

/* OUT of counter 0. */
void i8254_connect(Device *, IrqLine out0);
/* HPET in legacy replacement mode takes IRQ 0 over: the line then stays silent. */
void i8254_set_irq_enabled(Device *, bool on);
/*
 * Optional: says whether the last rising edge of OUT 0 is still waiting for its CPU. The next
 * periodic one is then held back until it is not, so that none is lost when the host runs the vCPU
 * late; see catch_up.h. i8259_irq_pending(pic, 0) || ioapic_irq_pending(ioapic, 2).
 */
void i8254_set_busy(Device *, bool (*busy)(void *opaque), void *opaque);
/* The property lost_tick_policy: "delay" (default), or "discard" for ticks that are lost when they
 * come late. */
bool i8254_discards_ticks(const Device *);
/* Periodic ticks that are due and have not been raised yet. */
uint64_t i8254_owed(const Device *);
/* A CPU has acknowledged an interrupt: what busy() held back may follow at once. */
void i8254_irq_taken(Device *);

/* What it holds now, brought up to date. */
void i8254_save(Device *, PitState *);

#endif
