/* I/O APIC (Intel 82093AA, 290566): 24 inputs, version 0x20 with the EOI register. Lock held. */
#ifndef TANDEM_DEVICES_IOAPIC_H
#define TANDEM_DEVICES_IOAPIC_H

#include "devices/lapic.h"

extern const DeviceClass device_ioapic;

/* Where its messages go: the APIC bus. */
void ioapic_connect(Device *, Lapic *const lapics[], unsigned n);
/* Input 0-23. An IrqFn: opaque is the Device. On a PC input 0 is the 8259s' INTR (ExtINT mode), the
 * PIT is on 2. */
void ioapic_set_irq(void *dev, int pin, bool level);
/* A local APIC ended an interrupt of a level-triggered vector. For lapic_set_eoi_hook(). */
void ioapic_eoi(void *dev, uint8_t vector);
/* What the input sent last still waits in a local APIC. */
bool ioapic_irq_pending(const Device *, int pin);
uint8_t ioapic_vector(const Device *, unsigned pin); /* that it sends */
bool ioapic_masked(const Device *, unsigned pin);

/* State out and in, and parked, as i8259.h has it: level-triggered inputs that are up are sent
 * again when it is no longer parked, unless remote IRR says that they were. */
void ioapic_save(const Device *, IoapicState *);
void ioapic_load(Device *, const IoapicState *);
void ioapic_park(Device *, bool parked);
/* fn hears of each change of a redirection entry, and of loads; lock held. NULL: nobody. */
void ioapic_watch(Device *, void (*fn)(void *opaque), void *opaque);

#endif
