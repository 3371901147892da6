/*
 * The pair of 8259A interrupt controllers of a PC (Intel 8259A datasheet, 231468) with the
 * edge/level control registers of PIIX3 (0x4d0, 0x4d1). Ports 0x20-0x21 (master), 0xa0-0xa1 (slave
 * on IR2). Lock held.
 */
#ifndef TANDEM_DEVICES_I8259_H
#define TANDEM_DEVICES_I8259_H

#include "cpu/chips.h"
#include "devices/bus.h"

extern const DeviceClass device_i8259;

/* The master's INTR output goes to this line. */
void i8259_connect(Device *, IrqLine intr);
/* Input 0-15; 2 is the cascade and ignored. An IrqFn: opaque is the Device. */
void i8259_set_irq(void *dev, int irq, bool level);
/* The INTA cycle: the vector; a spurious one (IR7) when nothing is pending any more. */
int i8259_ack(Device *);
/* The input is requested, not masked and not yet acknowledged. */
bool i8259_irq_pending(const Device *, int irq);

/*
 * State out and in, master first. A parked pair drives nothing and remembers its inputs; what it is
 * loaded with says nothing of those that are level-triggered. When it is no longer parked, INTR
 * follows from what it holds.
 */
void i8259_save(const Device *, PicState out[2]);
void i8259_load(Device *, const PicState in[2]);
void i8259_park(Device *, bool parked);
/* INTR is up. */
bool i8259_intr(const Device *);

#endif
