/*
 * 16550A UART (National Semiconductor PC16550D datasheet). The back end is a pair of functions, so
 * that this room need not know what a character device is.
 */
#ifndef TANDEM_DEVICES_SERIAL16550_H
#define TANDEM_DEVICES_SERIAL16550_H

#include "devices/bus.h"

extern const DeviceClass device_serial16550;

/* COM1 to COM4 (index 0 to 3): ports 0x3f8, 0x2f8, 0x3e8, 0x2e8; IRQ 4, 3, 4, 3. */
Device *serial_new(Board *, unsigned index, GError **);

/*
 * What the guest sends goes to write(opaque, buf, len), machine lock held; it may not block.
 * accept_input(opaque) is called, lock held, when a full receiver has room again; it may be NULL.
 * Without a connection output is dropped.
 */
void serial_connect(Device *, void (*write)(void *opaque, const void *buf, size_t len),
                    void (*accept_input)(void *opaque), void *opaque);

/* From the back end, machine lock held. How many bytes the receiver takes now (0 to 16). */
unsigned serial_can_receive(Device *);
/* Bytes beyond what serial_can_receive() said overrun the receiver, as on the wire. */
void serial_receive(Device *, const uint8_t *buf, unsigned len);
/* A break condition arrives: a zero byte with LSR.BI. */
void serial_break(Device *);

#endif
