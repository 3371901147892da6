/* struct Lapic, for the files that make it up. */
#ifndef TANDEM_DEVICES_LAPIC_PRIV_H
#define TANDEM_DEVICES_LAPIC_PRIV_H

#include "devices/lapic.h"

#define LAPICS_MAX 255

#define LVT_MASKED (1u << 16)

enum Delivery {
    DELIVER_FIXED = 0,
    DELIVER_LOWEST = 1,
    DELIVER_SMI = 2,
    DELIVER_NMI = 4,
    DELIVER_INIT = 5,
    DELIVER_SIPI = 6,
    DELIVER_EXTINT = 7,
};

#define LVT_REMOTE_IRR (1u << 14)
#define LVT_LEVEL      (1u << 15)

enum {
    ESR_SEND_ILLEGAL = 1 << 5,
    ESR_RECV_ILLEGAL = 1 << 6,
    ESR_ILLEGAL_REGISTER = 1 << 7,
    SVR_NO_EOI_BROADCAST = 1 << 12,
    APIC_BASE_BSP = 1 << 8,
    APIC_BASE_X2APIC = 1 << 10,
    APIC_BASE_ENABLE = 1 << 11,
};

struct Lapic {
    Board *board;
    LapicCpu cpu;
    uint32_t version;
    uint32_t id; /* of both modes; fixed, as in processors since Nehalem */
    uint8_t ldr, dfr, tpr;
    bool x2apic, lint0, intr_level;
    bool parked;   /* lapic_park() */
    bool extint;   /* an ExtINT message came: the next INTA goes to the 8259s */
    uint64_t base; /* IA32_APIC_BASE */
    uint32_t svr, esr, esr_next;
    uint64_t icr;
    uint32_t irr[8], isr[8], tmr[8];
    uint32_t lvt[LVT_N];
    /* Timer: in ticks of the bus clock (lapic_timer.c). The count started at `start`; `due` is the
     * next expiry that was not delivered yet. */
    Timer *timer;
    uint64_t bus_hz;
    uint32_t timer_initial, timer_divide;
    uint64_t timer_start, timer_due, tsc_deadline;
    bool timer_running;   /* one-shot or periodic, not yet expired for good */
    unsigned timer_burst; /* periodic expiries delivered since the timer ran */
    IoRegion *page;
};

bool lapic_enabled(const Lapic *);          /* IA32_APIC_BASE */
bool lapic_software_enabled(const Lapic *); /* that and the spurious vector register */
uint8_t lapic_ppr(const Lapic *);
void lapic_update(Lapic *);
/* False: the APIC cannot take it now. */
bool lapic_set_irr(Lapic *, uint8_t vector, bool level);
bool lapic_requested(const Lapic *, uint8_t vector);
void lapic_set_extint(Lapic *);
void lapic_error(Lapic *, uint32_t esr_bit);
bool lapic_local(Lapic *, unsigned lvt_entry); /* the source of an LVT entry fires */

uint32_t lapic_timer_current(const Lapic *);
void lapic_timer_write_initial(Lapic *, uint32_t);
void lapic_timer_write_divide(Lapic *, uint32_t);
void lapic_timer_write_deadline(Lapic *, uint64_t tsc);
void lapic_timer_lvt_written(Lapic *, uint32_t old);
void lapic_timer_reset(Lapic *);
void lapic_timer_disarm(Lapic *);
void lapic_timer_expired(void *lapic);
void lapic_timer_taken(Lapic *); /* its vector has gone to the CPU */
void lapic_timer_save(Lapic *, LapicState *);
void lapic_timer_load(Lapic *, const LapicState *); /* not armed */
void lapic_timer_arm(Lapic *);

void lapic_bus_init(Lapic *const lapics[], unsigned n);
void lapic_send(Lapic *, uint32_t dest); /* what l->icr says */
uint32_t lapic_x2_ldr(const Lapic *);
void lapic_eoi_broadcast(uint8_t vector);

#endif
