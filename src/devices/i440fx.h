/*
 * Intel 440FX host bridge (82441FX, document 290549), function 00:00.0. Makes the PCI bus and
 * leaves it in Board.pci, so it is created before every other PCI device.
 */
#ifndef TANDEM_DEVICES_I440FX_H
#define TANDEM_DEVICES_I440FX_H

#include "devices/bus.h"

extern const DeviceClass device_i440fx;

/*
 * The PAM registers' word on the byte at gpa (0xc0000-0xfffff; 16 KiB blocks): whether reads and
 * writes go to RAM; otherwise they go to PCI, that is to the ROM. Outside that range both are true.
 * When the guest changes them, Board.remap is called.
 */
void i440fx_pam(Device *, gpa_t gpa, bool *read_ram, bool *write_ram);

/* Opens all of 0xc0000-0xfffff as RAM, as firmware leaves it; for a kernel started without
 * firmware. Does not call Board.remap. A reset undoes it. */
void i440fx_shadow_ram(Device *);

#endif
