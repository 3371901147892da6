/*
 * Canonical state of the interrupt controllers, which devices in userspace or KVM may hold.
 *
 * Plain data between the two: the device models save to it and load from it, the kvm room moves it
 * by the rows of vmstate/chips.def, and the rules of chip_rules.def bring either side's form to
 * what is written here. Level-triggered inputs are not in it: the devices that drive them are.
 */
#ifndef TANDEM_CPU_CHIPS_H
#define TANDEM_CPU_CHIPS_H

#include "base/types.h"

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_CMCI, LVT_N };

enum { APIC_ONE_SHOT, APIC_PERIODIC, APIC_DEADLINE }; /* bits 18:17 of the timer's LVT entry */

/* The clock of KVM's APIC timer, and of ours where the two may take turns. */
#define KVM_APIC_BUS_HZ 1000000000ull

typedef struct LapicState {
    uint64_t base;                                       /* IA32_APIC_BASE */
    uint32_t tpr, ldr, dfr, svr, esr, icr_low, icr_high; /* as an xAPIC's registers read */
    uint32_t irr[8], isr[8], tmr[8];
    uint32_t lvt[LVT_N];
    /*
     * The timer. In one-shot and periodic mode the count that began with `initial` ends at
     * `due_ns` of the machine's clock, later than now, if `running`. `left` is KVM's form of it:
     * what the count register shows at `at_ns`; zero in canonical form. A deadline that has expired
     * is zero.
     */
    uint32_t initial, divide, left;
    bool running;
    uint64_t due_ns, at_ns;
    uint64_t tsc_deadline;
} LapicState;

/* Bus clocks a count takes, by the divide configuration register. */
static inline uint64_t apic_divider(uint32_t divide)
{
    unsigned code = (divide & 3) | (divide >> 1 & 4);
    return code == 7 ? 1 : 2ull << code;
}

static inline unsigned apic_timer_mode(uint32_t lvt)
{
    return lvt >> 17 & 3;
}

#define IOAPIC_PINS 24

typedef struct IoapicState {
    uint32_t id, select;
    uint32_t irr; /* level-triggered inputs that are up; edges are not held */
    uint64_t rte[IOAPIC_PINS];
} IoapicState;

typedef struct PicState { /* one 8259A */
    uint8_t irr, imr, isr, line;
    uint8_t highest; /* IR with the highest priority */
    uint8_t vector_base;
    uint8_t icw_next; /* 0: none, else 1 to 3 for ICW2 to ICW4 */
    uint8_t elcr;     /* level-triggered inputs: no bits that cannot be */
    bool read_isr, poll, special_mask, auto_eoi, rotate_auto_eoi, special_nested, need_icw4;
    /* KVM has no place for these, which no PC's firmware or kernel sets to anything else. */
    bool single, level_all;
    uint8_t cascade;
} PicState;

/* Those a machine has one of. */
typedef struct ChipState {
    PicState pic[2];
    IoapicState ioapic;
} ChipState;

#define PIT_HZ 1193182ull

/* The 8254. Times are ticks of its input clock since the machine's clock began. */
typedef struct PitCounter {
    uint32_t n, next; /* the count in use, and one that is to follow; 0: none */
    uint64_t start;   /* tick at which n was, or will be, loaded */
    uint64_t next_at; /* tick at which next is; all ones: with the next rise of the gate */
    uint64_t held;    /* while the gate holds it: tick at which it stopped */
    uint8_t mode, access;
    bool untouched; /* no control word since reset */
    bool bcd, gate, triggered, write_high, read_high, latched, status_latched, latch_high;
    bool next_low; /* mode 3: next begins with its low half */
    uint8_t low;   /* the byte written first */
    uint16_t latch;
    uint8_t status;
} PitCounter;

typedef struct PitState {
    PitCounter c[3];
    uint8_t port_b;   /* 0x61 as written: gate of counter 2, speaker */
    bool hpet_legacy; /* IRQ 0 is the HPET's */
    bool out0;        /* level of counter 0's output, as driven */
    uint64_t due;     /* tick of its next rising edge, the oldest that is owed; 0: none */
} PitState;

/* KVM's form of it, which goes to and fro by the rows KPIT of vmstate/chips.def. */
typedef struct KvmPitCounter {
    uint32_t count;
    uint64_t
        loaded_ns; /* on the host's CLOCK_MONOTONIC; of counter 0 nothing that means anything */
    uint8_t mode, access, bcd, gate, low;
    uint8_t write_state, read_state; /* 1: low byte, 2: high byte, 3 and 4: the two of a word */
    uint8_t latched;                 /* 0, or how much of the latch is to be read, as access */
    uint16_t latch;
    uint8_t status_latched, status;
} KvmPitCounter;

typedef struct KvmPit {
    KvmPitCounter c[3];
    bool hpet_legacy, speaker;
} KvmPit;

#endif
