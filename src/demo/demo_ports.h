/* What the demo guest (guest.S) and its host side (demo.c) agree on. Also included by assembly. */
#ifndef TANDEM_DEMO_DEMO_PORTS_H
#define TANDEM_DEMO_DEMO_PORTS_H

#define DEMO_PORT_BASE    0xd00
#define DEMO_PORT_MODE    0xd00 /* out: 16, 32, 64; 0 at the end */
#define DEMO_PORT_SUM     0xd04 /* out: checksum after a round */
#define DEMO_PORT_TSC_LO  0xd08 /* out: RDTSC, low half first */
#define DEMO_PORT_TSC_HI  0xd0c
#define DEMO_PORT_TICKS   0xd10 /* out: PIT interrupts so far */
#define DEMO_PORT_COMMAND 0xd14 /* in: nonzero ends the mode */
#define DEMO_PORT_LEN     0x18

#define DEMO_BUFFER      0x8000
#define DEMO_WORDS       64
#define DEMO_PIT_DIVISOR 11932 /* 1193182 Hz / 11932 = 100 Hz */

#endif
