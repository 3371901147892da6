/*
 * Rescue: what KVM cannot do, the software engine does.
 *
 * An instruction that KVM cannot emulate is run by the software engine, by itself, and the vCPU
 * goes back to KVM. Where that happens too often, or KVM refuses the state, the vCPU stays in the
 * software engine for a while, which doubles as long as it does not help. A vCPU that is away from
 * its engine in this way comes home by itself; who switches it by hand ends that.
 */
#ifndef TANDEM_SWITCH_RESCUE_H
#define TANDEM_SWITCH_RESCUE_H

#include "cpu/vcpu.h"

typedef struct RescuePolicy {
    const Engine *engine; /* a software engine; NULL: no rescue, errors go to LoopHooks.error */
    /*
     * Where KVM keeps the interrupt controllers, vCPUs move all together or for one instruction
     * (VmCommon.irqchip): this moves all of them to `engine` for so long, from the main thread.
     * With held, v has paused itself, and is resumed behind it. Any vCPU's thread.
     */
    void (*all_away)(Vcpu *v, uint64_t ns, bool held);
    bool stores_only; /* of a mixed machine (EXIT_GUARDED); all else is an error */
    /* For a KVM that is known to do things wrong: a shutdown counts only if the software engine,
     * given the same instruction, comes to it as well. */
    bool confirm_shutdown;
    unsigned most; /* instructions in a window before the vCPU stays; 0: the default, of all */
    uint64_t window_ns, stay_ns, stay_max_ns;
} RescuePolicy;

/* Hottest instructions kept; with more of them the rarest gives way (its count stays as the next
 * one's error, so that a count is never too low). */
#define RESCUE_HOT 16

typedef struct RescueHot {
    uint64_t rip, count;
    uint8_t insn[15], len;
    uint8_t bits; /* 16, 32, 64: how it decodes */
} RescueHot;

typedef struct RescueStats {
    uint64_t insns;     /* run in KVM's place, one by one */
    uint64_t stores;    /* of those: stores to what another vCPU has decoded */
    uint64_t errors;    /* internal errors of another kind */
    uint64_t entries;   /* KVM_EXIT_FAIL_ENTRY, and states refused before it came to that */
    uint64_t shutdowns; /* that the software engine did not confirm */
    uint64_t stays, stay_ns, not_back; /* times and time away; returns that were refused */
    bool away;                         /* now */
    char why[200];                     /* of the last stay, or of a return that was refused */
    RescueHot hot[RESCUE_HOT];
} RescueStats;

/* On v's thread, or before it runs. v's loop must have been started. */
void vcpu_rescue_set(Vcpu *v, const RescuePolicy *);
/* On v's thread, outside run(): to the software engine for that long, and home again. False: there
 * is no policy, v is in a software engine already, or the switch was refused. */
bool vcpu_stay_away(Vcpu *v, uint64_t ns, const char *why);
/* Read through vcpu_run_on(), as vcpu_switch_stats(). */
const RescueStats *vcpu_rescue_stats(const Vcpu *v, RescuePolicy *);

#endif
