/*
 * The vCPU loop: one thread a vCPU, for life, that calls whichever engine the vCPU is in.
 *
 * Order of work at each boundary: queued work (pause, switch, register reads), INIT/SIPI/SMI, wait
 * while halted or paused, then engine->run().
 *
 * Who waits here (vcpu_run_on(), vcpu_pause()) must not be waited for by that vCPU's thread: no
 * machine lock, and between vCPU threads an order (the machine's remap lock is one).
 */
#ifndef TANDEM_SWITCH_VCPU_LOOP_H
#define TANDEM_SWITCH_VCPU_LOOP_H

#include "cpu/vcpu.h"

/* What the loop tells the machine. Called on the vCPU's thread without any lock. */
typedef struct LoopHooks {
    void (*shutdown)(Vcpu *); /* triple fault: the machine resets or stops */
    void (*error)(Vcpu *,
                  const Exit *); /* INTERNAL_ERROR, FAIL_ENTRY: vCPU is paused by the loop */
    void (*debug)(Vcpu *, const Exit *);
    bool (*init)(
        Vcpu *); /* INIT arrived: the local APIC's part; false: it is ignored. May be NULL */
} LoopHooks;

bool vcpu_loop_start(Vcpu *, const LoopHooks *, GError **); /* creates the thread; starts paused */
void vcpu_loop_join(Vcpu *);                                /* asks it to end and waits */

typedef void VcpuWork(Vcpu *, void *opaque);
/* Runs fn on the vCPU's thread at an instruction boundary (drained, not inside KVM_RUN) and waits
 * for it. From the vCPU's own thread: runs at once. Any thread; not with the machine lock held.
 * Work comes before the guest: who asks again and again without a pause leaves it no time to run.
 */
void vcpu_run_on(Vcpu *, VcpuWork *fn, void *opaque);
/* The same without waiting. On a paused vCPU it runs after the pause; dropped if the vCPU ends. */
void vcpu_queue(Vcpu *, VcpuWork *fn, void *opaque);

/* Pause: returns when the vCPU is at a boundary, what was queued before has run, and it stays there
 * until resumed, doing only what vcpu_run_on() asks. Nests. On its own thread it does not wait: the
 * vCPU stops at its next boundary. */
void vcpu_pause(Vcpu *);
void vcpu_resume(Vcpu *);
/* Pauses all vCPUs of a machine, kicking all before waiting for any. */
void vcpus_pause(VmCommon *);
void vcpus_resume(VmCommon *);
bool vcpu_is_paused(const Vcpu *);

/* Sets request bits and wakes the vCPU wherever it is: in an engine, or asleep halted. */
void vcpu_kick(Vcpu *, uint32_t request_bits);

/* Makes vcpu->st the truth (export if need be). On the vCPU's thread (inside vcpu_run_on). */
bool vcpu_sync_state(Vcpu *, GError **);
/* The other way: someone took or changed vcpu->st, so the engine takes it in again. */
bool vcpu_bring_in(Vcpu *, GError **err);
bool vcpu_on_own_thread(const Vcpu *);
/* Takes INIT and SIPI that wait. On the vCPU's thread (inside vcpu_run_on). */
void vcpu_take_events(Vcpu *);

/* How often it was the other side's turn, where vCPUs in KVM and outside take turns (turns.c);
 * false: they do not. */
bool turns_count(const VmCommon *, uint64_t *n);

#endif
