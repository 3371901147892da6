/* I/O APIC (Intel 82093AA, 290566): 24 inputs, version 0x20 with the EOI register. Lock held. */
#ifndef TANDEM_DEVICES_IOAPIC_H
#define TANDEM_DEVICES_IOAPIC_H

#include "devices/lapic.h"

#define IOAPIC_PINS 24

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

#endif
