/*
 * A machine whose guest (irqchip_guest.S) obeys commands, for the tests of what KVM and the machine
 * take turns in. The test's own thread is the machine's main thread.
 */
#ifndef TANDEM_TESTS_IRQCHIP_MACHINE_H
#define TANDEM_TESTS_IRQCHIP_MACHINE_H

#include <check.h>

#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

enum Command {
    NONE,
    ONE_SHOT,
    DEADLINE,
    PERIODIC,
    SERVE,
    SIPI,
    IPI,
    SLEEP,
    STI,
    INIT,
    PV_NEW,
    PV_OLD,
    CLOCK,
    CALL_IPI,
    CALL_UNKNOWN,
    MOVE_TSC,
    X87,
    PV_EOI,
    QUIET,
    NO_MWAIT,
    MWAIT,
    LINES,
    PORT_OUT,
    PORT_IN
};

extern Machine *m;
extern const Engine *kvm, *soft; /* kvm NULL: the machine is without */
extern _Atomic uint32_t command, held[2], argument;
/* What the guest has said, as far as there is room; results it has given, and the last one. */
extern char said[4096];
extern _Atomic unsigned n_said, results;
extern uint64_t result, result_at_ns;
/* Called on the vCPU's thread, inside its IN that asks for a command; the machine is locked. */
extern void (*_Atomic on_poll)(void);

/* Of the next machine_begin(): -overcommit cpu-pm=on. */
extern bool machine_cpu_pm;
/* -machine kernel-pit=on, and -global arguments. */
extern bool machine_kernel_pit;
extern const char *const *machine_globals;
/* Makes and starts it: what is NULL in `with` is as a user gets it. */
void machine_begin(const char *accel, const char *cpu, const char *irqchip, unsigned cpus);
/* With KVM, and its controllers of this kind. */
extern const char *const irqchip_kinds[3]; /* "off", "split", "on" */
void irqchip_start(const char *kind, unsigned cpus);
/* It has to run still. */
void machine_end(void);
/* Waits meanwhile as long as that: the machine's timers and requests are this thread's. */
void serve_for(unsigned us);
/* How often the guest has said c; and until it has said it so many times. */
unsigned count(char c);
void wait_for(char c, unsigned n);
/* It has said c so often, no more; in the rig perhaps more. */
void check_count(char c, unsigned want);
bool in_rig(void);
/* Gives the command and waits until it is done. */
void run_command(enum Command);
/* The guest has interrupts off, and is told to have them on again: waits until it says so. */
void interrupts_off(void);
void interrupts_on(void);
/* The guest's own OUT and IN of a byte, in whichever engine it is. */
void guest_out(uint16_t port, uint8_t value);
uint8_t guest_in(uint16_t port);
/* All vCPUs. */
void go_to(const Engine *);
/* Work of a vCPU in `soft`: it runs until it is behind an STI. Of one in KVM: away for a rescue. */
void step_over_sti(Vcpu *, void *);
void away_for_one(Vcpu *, void *);

#endif
