/* Local APIC (SDM vol. 3, chapter 11): xAPIC and x2APIC, one per vCPU, and the APIC bus between
 * them. */
#ifndef TANDEM_DEVICES_LAPIC_H
#define TANDEM_DEVICES_LAPIC_H

#include "cpu/chips.h"
#include "devices/bus.h"

typedef struct Lapic Lapic;

/* Towards the CPU; called with the machine lock held. */
typedef struct LapicCpu {
    void *opaque;
    void (*intr)(void *opaque, bool level); /* a deliverable vector is (or no longer is) waiting */
    void (*nmi)(void *opaque);
    void (*smi)(void *opaque);
    void (*init)(void *opaque);
    void (*sipi)(void *opaque, uint8_t vector);
    uint64_t (*tsc)(void *opaque);                     /* guest TSC now */
    uint64_t (*ns_at_tsc)(void *opaque, uint64_t tsc); /* clock ns when the guest TSC gets there */
} LapicCpu;

/* n of them on one bus; cpus[i] is for APIC id i. Also maps the 0xfee00000 page: the accessing CPU
 * is set with lapic_set_current() by the machine's bus before each MMIO access. */
bool lapics_new(Board *, unsigned n, const LapicCpu cpus[], Lapic *out[], GError **);
void lapics_free(Lapic *lapics[], unsigned n);
void lapic_reset(Lapic *, bool init_only); /* INIT keeps the id and IA32_APIC_BASE */
void lapic_set_current(Lapic *);
/* Clock of the one-shot and periodic timer, before its divider: the core crystal clock of CPUID
 * leaf 0x15, which is the TSC's clock over the smallest number that makes its Hz fit in 32 bits. */
uint64_t lapic_bus_hz(const Clock *);

/* PIC's INTR output wired to LINT0 of every APIC, and NMI to LINT1 (virtual wire and ExtINT mode).
 */
void lapic_set_lint0(Lapic *, bool level);
void lapic_nmi(Lapic *);
/* What comes in at LINT0 reaches the CPU: it is not masked, or the APIC is off. */
bool lapic_lint0_open(const Lapic *);

/* Deliverable vector? -1: none; 256: take it from the PIC (ExtINT, or APIC disabled). */
#define LAPIC_EXTINT 256
int lapic_pending(const Lapic *);
/* The same and moves it from IRR to ISR. */
int lapic_ack(Lapic *);

/* 0x1b, 0x800-0x8ff, 0x6e0; false: #GP. IA32_APIC_BASE keeps the page at 0xfee00000: moving it is
 * refused and logged. */
bool lapic_msr_read(Lapic *, uint32_t msr, uint64_t *value);
bool lapic_msr_write(Lapic *, uint32_t msr, uint64_t value);
uint8_t lapic_get_cr8(const Lapic *);
void lapic_set_cr8(Lapic *, uint8_t cr8);
uint32_t lapic_id(const Lapic *);
/* The bus: delivery from IOAPIC or MSI. Fields as in an MSI address and data (SDM vol. 3, 11.11).
 * False: no local APIC accepted it. */
bool apic_bus_deliver(Lapic *const lapics[], unsigned n, uint8_t dest, bool logical, uint8_t mode,
                      uint8_t vector, bool level);
/* A vector sent there is still waiting in the IRR of an addressee. */
bool apic_bus_waiting(uint8_t dest, bool logical, uint8_t vector);
void apic_bus_msi(uint64_t address, uint32_t data);
/*
 * The local APICs are elsewhere: messages of the IOAPIC and MSIs go to fn, which says whether one
 * was accepted. NULL: they are here.
 */
typedef bool ApicMessageFn(void *opaque, uint64_t address, uint32_t data);
void apic_bus_divert(ApicMessageFn *fn, void *opaque);

/*
 * State out and in. Saving first does what is due by the clock. A parked APIC is a plain copy: no
 * timer runs, nothing goes to its CPU, and no message may be sent to it; it remembers LINT0. Only a
 * parked one is loaded. When it is no longer parked, timers and outputs follow from what it holds.
 */
void lapic_save(Lapic *, LapicState *);
void lapic_load(Lapic *, const LapicState *);
void lapic_park(Lapic *, bool parked);
/* Takes the version register and the timer's clock (otherwise lapic_bus_hz()) of those it takes
 * turns with. Before any use. */
void lapic_set_kind(Lapic *, uint32_t version, uint64_t bus_hz);
void lapic_describe(const Lapic *, GString *out);

/* EOI of a level-triggered vector goes to the IOAPIC through this. */
void lapic_set_eoi_hook(void (*fn)(void *opaque, uint8_t vector), void *opaque);

#endif
