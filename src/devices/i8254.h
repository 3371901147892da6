/*
 * 8254 programmable interval timer (Intel 231164), ports 0x40-0x43, and system control port B
 * (0x61) with the gate of counter 2. Counter 0 drives IRQ 0. Input clock 1193182 Hz. Lock held.
 */
#ifndef TANDEM_DEVICES_I8254_H
#define TANDEM_DEVICES_I8254_H

#include "cpu/chips.h"
#include "devices/bus.h"

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

/*
 * State out, brought up to date, and in. A parked one raises nothing, and time that passes changes
 * nothing it holds: i8254_ticked() says how many ticks another has made of those it had due. When
 * it is no longer parked, what was due meanwhile follows. Loaded only while parked; whether the
 * HPET has IRQ 0 is told by i8254_set_irq_enabled() alone. Of periodic ticks so made some may have
 * to be made again: i8254_unticked().
 */
void i8254_save(Device *, PitState *);
void i8254_load(Device *, const PitState *);
void i8254_park(Device *, bool parked);
void i8254_ticked(Device *, uint64_t ticks);
void i8254_unticked(Device *, uint64_t ticks);

#endif
