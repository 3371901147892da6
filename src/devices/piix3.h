/*
 * PIIX3 PCI-to-ISA bridge (82371SB, document 290550), function 00:01.0: routes PCI interrupts A-D
 * to ISA interrupts, and the reset control register at port 0xcf9. Needs Board.pci.
 */
#ifndef TANDEM_DEVICES_PIIX3_H
#define TANDEM_DEVICES_PIIX3_H

#include "devices/bus.h"

extern const DeviceClass device_piix3;

/* PIRQ A, B to IRQ 10 and C, D to IRQ 11, as firmware leaves them; for a kernel started without
 * firmware. A reset undoes it. */
void piix3_route_default(Device *);

#endif
