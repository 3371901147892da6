/* isa-debug-exit: a write of v to iobase ends the process with status v << 1 | 1. */
#ifndef TANDEM_DEVICES_DEBUG_EXIT_H
#define TANDEM_DEVICES_DEBUG_EXIT_H

#include "devices/bus.h"

extern const DeviceClass device_debug_exit;

#endif
