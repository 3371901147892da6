/*
 * The KVM engine: what other rooms may ask of it besides engine_kvm itself (cpu/vcpu.h).
 *
 * Timers but the local APICs' are the machine's, in userspace, and so are the interrupt controllers
 * unless VmCommon.irqchip gives them to KVM, and kernel_pit the 8254. MSRs that the guest may see
 * are those of vmstate/msrs.def; all others exit and raise #GP, as they do in the software engine.
 */
#ifndef TANDEM_KVM_KVM_H
#define TANDEM_KVM_KVM_H

#include "cpu/chips.h"
#include "cpu/vcpu.h"

/* Can /dev/kvm be opened, and does it have what Tandem needs? The message says what to do. */
bool kvm_available(GError **err);

/*
 * KVM_GET_SUPPORTED_CPUID as a table for cpuid_build(). TSC_DEADLINE is in it when a write of
 * IA32_TSC_DEADLINE, tried in a guest, really comes out to userspace.
 */
bool kvm_supported_cpuid(CpuidTable *out, GError **err);
/* The same with the paravirtual features that need the local APICs in KVM: IPIs by hypercall, EOI
 * in memory. */
bool kvm_supported_cpuid_apic(CpuidTable *out, GError **err);

/*
 * How KVM_GUESTDBG_SINGLESTEP is done. Natively: by RFLAGS.TF in the guest's own flags, which its
 * PUSHF shows and its events clear. Otherwise KVM emulates the instruction. Found out by effect.
 */
bool kvm_steps_natively(bool *native, GError **err);

/* What a kernel cannot do without and this KVM was seen to do wrong, without a word of its own. */
enum KvmWrong {
    KVM_WRONG_SYSCALL,
    KVM_WRONG_INTN,
    KVM_WRONG_LZCNT,
    KVM_WRONG_PAGING32,
    KVM_WRONG_N
};

typedef struct KvmSpeed {
    unsigned mips; /* a loop at privilege 0 in long mode, instructions a microsecond; 0: unknown */
    unsigned n_wrong;
    const char *wrong[KVM_WRONG_N];
} KvmSpeed;

/* False: there is no usable KVM. */
bool kvm_speed(KvmSpeed *out);

/* Whether it leaves anything of HLT, MWAIT and PAUSE to guests. MONITOR is in kvm_supported_cpuid()
 * if that is so of MWAIT. */
bool kvm_can_disable_exits(void);

/* What was found: one line a capability, and what the TSC can do. For info accel. */
void kvm_describe(GString *out);

/* Exit reasons by name: row i of exits.def (NULL: no more), and the one with this name. */
const char *kvm_exit_row(unsigned i, unsigned *reason);
bool kvm_exit_find(const char *name, unsigned *reason);

/*
 * Dirty logging of all RAM slots: off at first. Main thread, vCPUs stopped. kvm_dirty_fetch() sets
 * a bit for each 4 KiB page of the slot at gpa that was written since the last fetch: bitmap has
 * (size / 4096 + 63) / 64 words.
 */
bool kvm_dirty_log(VmCommon *, bool on, GError **err);
bool kvm_dirty_fetch(VmCommon *, gpa_t slot_gpa, uint64_t *bitmap, GError **err);

/*
 * A VM keeps the interrupt controllers it was made with. A machine that is to have others gets
 * another VM: this one and its vCPUs are put aside, the engine's vm_init() and vcpu_init() make new
 * ones by VmCommon.irqchip as it is then. Lastly what was put aside is freed; or, if that failed,
 * what was made, and all is as before. Main thread, all vCPUs paused and their state in Vcpu.st.
 */
typedef struct KvmAside KvmAside;
KvmAside *kvm_vm_set_aside(VmCommon *);
void kvm_vm_replaced(VmCommon *, KvmAside *, bool ok);

/* v is about to run in KVM, or in another engine. On v's thread, outside run(). */
void kvm_guard_engine(Vcpu *v, bool in_kvm);

/* v is about to go into KVM, for more than an instruction: KVM maps what it has used elsewhere, as
 * far as KVM can. On v's thread, after the import. */
void kvm_prefault(Vcpu *v);
/* What came of it. On v's thread; false: no KVM. */
typedef struct KvmPrefault {
    uint64_t switches, pages,
        ns; /* in so many switches, so many pages mapped ahead, and the time */
    uint64_t last_pages, last_ns; /* of the last of them */
    uint64_t faults;              /* exits of KVM's for a page that was not mapped, if known */
    bool faults_known, possible;
} KvmPrefault;
bool kvm_prefault_stats(const Vcpu *, KvmPrefault *);

/* v has left KVM for a while, so that KVM may be made ready for its return meanwhile. On v's
 * thread, outside run(); never waits for long. */
void kvm_away(Vcpu *v);
/*
 * Does KVM make page tables of its own, which know nothing of stores made outside of it? Those of
 * all vCPUs go: on v's thread, outside run(); and v is outside KVM, so that it need not be done
 * again because of it.
 */
bool kvm_own_tables(void);
bool kvm_forget_tables(Vcpu *v, GError **err);
void kvm_outside(Vcpu *v);
/* They go soon, and no vCPU enters KVM meanwhile; are they about to? Any thread; with such a KVM.
 */
void kvm_drop_tables(VmCommon *);
bool kvm_drops_tables(const VmCommon *);
/*
 * Is it, or would v's return wait? False: `then` is called, from another thread, as soon as it
 * would not; v may run on meanwhile. True also where v waits already. On v's thread, outside run().
 * `then` may queue work on v, and has no other locks to take. Cancelled before v's loop ends.
 */
typedef void KvmReady(Vcpu *v, void *opaque);
bool kvm_ready(Vcpu *v, KvmReady *then, void *opaque);
void kvm_ready_cancel(Vcpu *v);
/* The same for who waits himself, a second at the most. No vCPU's thread. */
void kvm_wait_ready(VmCommon *);

/* ---- with VmCommon.irqchip not IRQCHIP_OFF ---- */

/* Does the processor have VMX or SVM? Without, whatever is behind KVM runs guests in software. */
bool kvm_has_hardware(void);
/* Can KVM be given these controllers? The message says what it lacks. */
bool kvm_irqchip_possible(enum Irqchip, GError **err);
/*
 * An input of KVM's I/O APIC, and of its 8259s for the first 16 (2 is ISA IRQ 0): IRQCHIP_ON. An
 * MSI: true if a local APIC took it. Any thread.
 */
bool kvm_irq_line(VmCommon *, unsigned gsi, bool level);
bool kvm_send_msi(VmCommon *, uint64_t address, uint32_t data);
/* IRQCHIP_ON: an eventfd that is written when an interrupt of this input has been ended, the VM's
 * own; -1: this KVM does not tell. */
int kvm_eoi_fd(VmCommon *, unsigned gsi);
/* IRQCHIP_SPLIT: KVM is to report the EOI of the level-triggered vectors, and of IRQ 0's. */
bool kvm_route_levels(VmCommon *, const IoapicState *, GError **err);
/*
 * State out and in, as KVM has it: chip_rules_apply() goes between. All vCPUs paused; of a local
 * APIC on its vCPU's thread, and `at_ns` is now on the machine's clock (on the way in: shortly
 * before). The chips only with IRQCHIP_ON; members that KVM has no place for are left alone.
 */
bool kvm_chips_get(VmCommon *, ChipState *, GError **err);
bool kvm_chips_set(VmCommon *, const ChipState *, GError **err);
bool kvm_lapic_get(Vcpu *, LapicState *, GError **err);
/* NMIs that wait at KVM's local APIC become the vCPU's request. Before kvm_lapic_get(), by which
 * KVM would take one. */
bool kvm_take_nmi(Vcpu *, GError **err);
bool kvm_lapic_set(Vcpu *, const LapicState *, GError **err);
/* The version register that a guest reads. */
bool kvm_lapic_version(Vcpu *, uint32_t *, GError **err);

/* ---- with VmCommon.kernel_pit ---- */

bool kvm_pit_possible(GError **err);
/* Do ticks that find the last one waiting follow later? */
bool kvm_pit_reinject(VmCommon *, bool on, GError **err);
/* State out and in: vmstate/pit_loan.h goes between. All vCPUs paused. */
bool kvm_pit_get(VmCommon *, KvmPit *, GError **err);
bool kvm_pit_set(VmCommon *, const KvmPit *, GError **err);
/*
 * The same with a look at counter 0: its count and OUT at a moment, on the machine's clock and the
 * host's CLOCK_MONOTONIC, which is no earlier than the counter was read, and by took_ns at the most
 * later. Behind it KVM's 8254 has to be given a state anew; and so has v, on whose thread it is.
 */
typedef struct KvmPitLook {
    uint16_t count;
    bool out;
    uint64_t clock_ns, host_ns, took_ns;
} KvmPitLook;
bool kvm_pit_look(Vcpu *v, KvmPit *, KvmPitLook *, GError **err);

/*
 * KVM's paravirtual clock in ns, and the host's TSC then. Exact: KVM says so itself, and all vCPUs
 * follow that line. Setting is to within the time it takes.
 */
bool kvm_clock_get(VmCommon *, struct PvLine *, GError **err);
bool kvm_clock_set(VmCommon *, uint64_t ns, GError **err);

#endif
