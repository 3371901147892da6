/*
 * Adaptive: whether a vCPU gets on better in KVM or in the software engine, by what its thread's
 * time goes into.
 *
 * Guest instructions in KVM cannot be counted everywhere; the thread's time can. Time in the guest
 * is user time, time in KVM (exits, emulation, faults) kernel time. The share of the former, at the
 * speed the probe guest ran at, is what KVM makes of the vCPU's time; the software engine counts
 * its instructions.
 */
#ifndef TANDEM_SWITCH_ADAPT_H
#define TANDEM_SWITCH_ADAPT_H

#include "cpu/vcpu.h"

/* Counters that only grow; ns. */
typedef struct AdaptSample {
    uint64_t wall_ns, user_ns, kernel_ns; /* of the vCPU's thread */
    uint64_t insns;                       /* of the software engine */
    uint64_t rescues;                     /* instructions run in KVM's place */
} AdaptSample;

/* Of one vCPU; its thread's. All zero but the two speeds to begin with. */
typedef struct Adapt {
    unsigned kvm_mips;  /* of the probe guest; 0: nothing is judged */
    unsigned soft_mips; /* as measured last, or what it makes at least */
    AdaptSample last;
    bool sampled, was_in_kvm;
    unsigned poor, good; /* windows in a row */
    uint64_t away_ns;    /* of the last move; the next one's is twice that */
    /* For people: */
    unsigned share; /* percent of the thread's time in the guest, in KVM's last busy window */
    double rescues_s;
    uint64_t moves;
    char why[160]; /* of the last move */
} Adapt;

/* Between two samples so much should pass. */
#define ADAPT_PERIOD_MS 250

/* Judges the window since the last sample. True: the vCPU should leave KVM for *away_ns. */
bool adapt_judge(Adapt *, const AdaptSample *now, bool in_kvm, uint64_t *away_ns);
/* Takes a sample of the calling thread, which is v's, and carries out what adapt_judge() says. */
void adapt_vcpu(Adapt *, Vcpu *v);
void adapt_describe(const Adapt *, GString *out);

#endif
