/*
 * PIIX4 power management (82371AB, document 290562, function 3), at 00:01.3: ACPI fixed hardware at
 * ports 0x600-0x63f, interrupt on IRQ 9 (SCI). Needs Board.pci.
 *
 * The base address register is guest-writable; power-on already has it at 0x600 and enabled,
 * because a kernel started without firmware finds it there through the FADT. ACPI mode is always
 * on: no SMM handshake exists, and the FADT says so.
 */
#ifndef TANDEM_DEVICES_PIIX4_PM_H
#define TANDEM_DEVICES_PIIX4_PM_H

#include "devices/bus.h"

extern const DeviceClass device_piix4_pm;

#define PIIX4_PM_BASE 0x600
#define PIIX4_PM_LEN  0x40
#define PM_SCI_IRQ    9
#define PM_TIMER_HZ   3579545
#define PM_OFF_STS    0x00 /* PM1 event block: status, enable */
#define PM_OFF_CNT    0x04
#define PM_OFF_TMR    0x08
#define PM_OFF_GPE0   0x0c /* 2 bytes status, 2 bytes enable */
#define PM_SLP_TYP_S5 0    /* value of SLP_TYP for soft-off, as the DSDT's \_S5 says */

/* Somebody presses the power button: the guest's ACPI driver is asked to shut down. Lock held. */
void piix4_pm_power_button(Device *);

#endif
