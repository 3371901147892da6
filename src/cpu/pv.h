/*
 * KVM's paravirtual interface, as far as it is memory that the hypervisor writes and a hypercall:
 * what a guest was offered while it may run in KVM, software engines serve too.
 *
 * All functions: on the vCPU's thread, its state in Vcpu.st.
 */
#ifndef TANDEM_CPU_PV_H
#define TANDEM_CPU_PV_H

#include "cpu/vcpu.h"

/* Is the guest told that KVM is below it? */
bool pv_offered(const CpuidTable *);

/* Writes what MSR_KVM_SYSTEM_TIME names: the pvclock structure, from VmCommon.pv. Nothing unless it
 * is enabled. */
void pv_clock_write(Vcpu *);
/* The wall-clock structure at MSR_KVM_WALL_CLOCK: real time at the paravirtual clock's zero. */
void pv_wall_clock_write(Vcpu *);
/* ns of the paravirtual clock when the TSC before any offset (clock_tsc()) is `tsc`. */
uint64_t pv_clock_at(const VmCommon *, uint64_t tsc);

/*
 * Steal time: what the vCPU's thread waited for a processor. KVM counts it from where it left off,
 * so what was added here is taken out before it goes on there.
 */
void pv_steal_update(Vcpu *); /* cheap when called often */
void pv_enter_software(Vcpu *);
void pv_leave_software(Vcpu *);

/* KVM's hypercall interface: VMCALL and VMMCALL at CPL 0 with RAX as nr. */
int64_t pv_hypercall(Vcpu *, uint64_t nr, const uint64_t arg[4]);

#endif
