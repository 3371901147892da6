/* System control port A (0x92): bit 0 resets the machine, bit 1 is the fast A20 gate. */
#ifndef TANDEM_DEVICES_PORT92_H
#define TANDEM_DEVICES_PORT92_H

#include "devices/bus.h"

extern const DeviceClass device_port92;

#endif
