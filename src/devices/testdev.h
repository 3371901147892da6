/* pc-testdev: what kernel test suites use to raise interrupt lines and to try port and memory
 * accesses. */
#ifndef TANDEM_DEVICES_TESTDEV_H
#define TANDEM_DEVICES_TESTDEV_H

#include "devices/bus.h"

extern const DeviceClass device_testdev;

#endif
