/* Debug console: bytes written to ports 0xe9 and 0x402 go to a back end; reads give 0xe9. */
#ifndef TANDEM_DEVICES_DEBUGCON_H
#define TANDEM_DEVICES_DEBUGCON_H

#include "devices/bus.h"

extern const DeviceClass device_debugcon;

/* Called with the machine lock held; may not block. Without a connection output is dropped. */
void debugcon_connect(Device *, void (*write)(void *opaque, const void *buf, size_t len),
                      void *opaque);

#endif
