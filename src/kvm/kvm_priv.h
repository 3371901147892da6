/* Private to the kvm room. */
#ifndef TANDEM_KVM_KVM_PRIV_H
#define TANDEM_KVM_KVM_PRIV_H

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "kvm/kvm.h"

/* Kernels newer than the headers built against. */
#ifndef KVM_CAP_EXIT_ON_EMULATION_FAILURE
#define KVM_CAP_EXIT_ON_EMULATION_FAILURE 204
#endif
#ifndef KVM_CAP_DISABLE_QUIRKS2
#define KVM_CAP_DISABLE_QUIRKS2 213
#endif
#ifndef KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS
#define KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS (1 << 6)
#endif
#ifndef KVM_CAP_X86_TRIPLE_FAULT_EVENT
#define KVM_CAP_X86_TRIPLE_FAULT_EVENT 218
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
struct kvm_pre_fault_memory {
    uint64_t gpa, size; /* in and out: what is left to do */
    uint64_t flags, padding[5];
};
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
#endif

/* Capabilities: name, required. */
#define KVM_CAPS(X)                      \
    X(USER_MEMORY, true)                 \
    X(DESTROY_MEMORY_REGION_WORKS, true) \
    X(READONLY_MEM, true)                \
    X(EXT_CPUID, true)                   \
    X(MP_STATE, true)                    \
    X(VCPU_EVENTS, true)                 \
    X(DEBUGREGS, true)                   \
    X(XSAVE, true)                       \
    X(XCRS, true)                        \
    X(USER_NMI, true)                    \
    X(SET_TSS_ADDR, true)                \
    X(SET_IDENTITY_MAP_ADDR, true)       \
    X(SET_GUEST_DEBUG, true)             \
    X(IMMEDIATE_EXIT, true)              \
    X(EXCEPTION_PAYLOAD, true)           \
    X(X86_USER_SPACE_MSR, true)          \
    X(X86_MSR_FILTER, true)              \
    X(MCE, false)                        \
    X(SREGS2, false)                     \
    X(XSAVE2, false)                     \
    X(X86_SMM, false)                    \
    X(X86_TRIPLE_FAULT_EVENT, false)     \
    X(EXIT_ON_EMULATION_FAILURE, false)  \
    X(VCPU_ATTRIBUTES, false)            \
    X(SYNC_REGS, false)                  \
    X(NR_MEMSLOTS, false)                \
    X(IRQCHIP, false)                    \
    X(PIT2, false)                       \
    X(PIT_STATE2, false)                 \
    X(REINJECT_CONTROL, false)           \
    X(IRQFD, false)                      \
    X(IRQFD_RESAMPLE, false)             \
    X(SPLIT_IRQCHIP, false)              \
    X(IRQ_ROUTING, false)                \
    X(SIGNAL_MSI, false)                 \
    X(ADJUST_CLOCK, false)               \
    X(DISABLE_QUIRKS2, false)            \
    X(X86_DISABLE_EXITS, false)          \
    X(PRE_FAULT_MEMORY, false)           \
    X(MAX_VCPUS, false)

enum KvmCap {
#define X(name, required) CAP_##name,
    KVM_CAPS(X)
#undef X
        CAP_N
};

/* How a guest's TSC can be offset from the host's, found out by effect. */
enum TscMode {
    TSC_ATTR, /* the vCPU attribute */
    TSC_MSR,  /* writing IA32_TSC: to within the time of the write */
    TSC_FIXED /* not at all: the guest sees the host's */
};

/* What the host's KVM can do; found once a process. */
typedef struct KvmHost {
    int dev; /* /dev/kvm */
    size_t run_size;
    int cap[CAP_N]; /* KVM_CHECK_EXTENSION's answers */
    enum TscMode tsc;
    /* What is set is what is read back. Not with TSC_MSR, nor where the host's own TSC is unstable:
     * KVM then moves the offset at each entry to follow its clock. */
    bool tsc_exact;
    bool tsc_deadline; /* a guest's write of IA32_TSC_DEADLINE exits */
    /* KVM's own page tables, made from the guest's, miss what others write to those. */
    bool shadow_tables;
    bool steps_natively; /* kvm_steps_natively() */
    unsigned mips;       /* kvm_speed() */
    uint32_t wrong;      /* a bit for each enum KvmWrong */
} KvmHost;

/* NULL and err when there is no usable KVM. Any thread. */
const KvmHost *kvm_host(GError **err);
/* The same before the guest probes; for kvm_host() itself. */
bool kvm_probe_guest(KvmHost *, GError **err);
/* Finds KvmHost.shadow_tables; false where it cannot be told. */
bool kvm_probe_shadow_tables(const KvmHost *);

/* VmCommon.kvm_quirk. */
bool kvm_quirk(enum KvmQuirk);

/* Finds KvmHost.mips and wrong, which stay 0 where it cannot be told. */
void kvm_probe_wrong(KvmHost *);

/* One row of msrs.def. */
typedef struct MsrRow {
    uint32_t index;
    uint16_t offset; /* in CpuState */
    uint8_t policy;
    uint16_t feature;
    bool is_const, is_alias;
    uint64_t value; /* is_const */
    const char *name;
} MsrRow;

enum MsrPolicy {
    MSRP_PLAIN,
    MSRP_LOW32,
    MSRP_CANONICAL,
    MSRP_IGNORED,
    MSRP_READONLY,
    MSRP_HIDDEN,
    MSRP_ZERO,
    MSRP_PAT,
    MSRP_MTRR_DEF,
    MSRP_MTRR_FIXED,
    MSRP_MTRR_BASE,
    MSRP_MTRR_MASK,
    MSRP_MC_CTL,
    MSRP_MC_STATUS,
    MSRP_EFER,
    MSRP_SEG_BASE,
    MSRP_TSC_OFFSET,
    MSRP_TSC_ADJUST,
    MSRP_KVM_CLOCK,
    MSRP_KVM_WALL,
    MSRP_KVM_STEAL,
    MSRP_KVM_EOI,
    MSRP_KVM_POLL,
    MSRP_APIC,
};

extern const MsrRow kvm_msr_rows[];
extern const unsigned kvm_msr_rows_n;
#define MSR_ROWS_MAX 160 /* and one for IA32_TSC_DEADLINE */

/* What kvm_kick() interrupts KVM_RUN with. */
#define KVM_KICK_SIGNAL SIGUSR1

/* A row KVM keeps for the guest, if it knows it; the others are answered by kvm_msr_exit(). */
bool kvm_msr_in_kernel(const MsrRow *);

typedef struct KvmSlot {
    RamSlot ram; /* size 0: free */
    uint32_t flags;
    uint8_t *alias;    /* KVM's own mapping of it; NULL: ram.host */
    uint64_t *guarded; /* a bit for each page that is read-only there */
} KvmSlot;

typedef struct KvmWaiter {
    Vcpu *v;
    KvmReady *then;
    void *opaque;
} KvmWaiter;

/* forget.c's. `asking` is a leaf lock: it is held for no longer than a thread takes to start. */
typedef struct KvmForget {
    GMutex lock;             /* over the spare slot and its moves */
    unsigned spare;          /* the slot's place, and 0 while there is none */
    _Atomic bool tables;     /* KVM may have page tables of its own */
    _Atomic unsigned inside; /* vCPUs that are in KVM_RUN, or may go there unseen */
    pthread_mutex_t asking;  /* over the rest */
    pthread_cond_t ask, rest;
    pthread_t thread;
    bool started, asked, works, quit;
    GMutex ready_lock; /* over those that wait; `asking` may be taken with it held, never before */
    GSList *waiting;   /* of KvmWaiter */
} KvmForget;

typedef struct KvmVm {
    const KvmHost *host;
    int fd;
    KvmSlot slot[MEMMAP_MAX];
    bool dirty_log;
    int xsave_size;
    KvmForget forget;
    FreshMap fresh;            /* of its slots */
    GMutex lock;               /* over the list below, made by the first vCPU */
    bool kernel_apic;          /* the local APICs are KVM's, and what a vCPU waits for with them */
    bool pit;                  /* the 8254 is KVM's */
    uint8_t msr[MSR_ROWS_MAX]; /* rows KVM holds */
    unsigned n_msrs;
    bool msrs_known;
    bool guards; /* slots have a mapping of KVM's own: see guard.c */
    GMutex guard_lock;
    uint64_t in_kvm; /* vCPUs by number, that run here or did last */
    int eoi[2];      /* kvm_eoi_fd(): what KVM would be told by, and what it tells by; or -1 */
    bool sysenter32; /* KVM keeps 32 bits of SYSENTER_ESP and EIP, as for AMD's processors */
    uint8_t *smram;  /* smram.c; NULL: none */
    uint64_t smram_size;
} KvmVm;

typedef struct KvmState {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp_state;
} KvmState;

typedef struct KvmVcpu {
    int fd;
    struct kvm_run *run;
    KvmVm *vm;
    _Atomic bool in_run;
    pthread_t thread;  /* valid while in_run */
    bool incomplete;   /* an I/O, MMIO or MSR exit waits for KVM to finish its instruction */
    bool inside;       /* it counts in KvmForget.inside */
    bool guard_retry;  /* kvm_guard_fault(): nothing is guarded any more */
    bool stepping;     /* KVM_GUESTDBG_SINGLESTEP is on */
    unsigned n_breaks; /* KVM_GUESTDBG_USE_HW_BP is on with these, when not stepping */
    gva_t breaks[STOPS_MAX_KVM];
    RunStops *stops;     /* of this run(), or NULL */
    uint64_t tsc_offset; /* as last set or read */
    uint64_t tsc_adjust; /* IA32_TSC_ADJUST then, unless KvmHost.tsc_exact */
    KvmState ks;         /* scratch of export and import */
    /*
     * What KVM's vCPU holds, as read or written last: the groups of `held`, none once it has run.
     * What is the same is not written again.
     */
    unsigned held;
    KvmState kept;
    FpuState kept_fpu;
    uint64_t kept_msr[MSR_ROWS_MAX];
    bool synced; /* run->s.regs is REGS, SREGS and EVENTS of now: see kvm_ask_sync() */
    /* REGS is in run->s.regs still, for KVM_RUN to take: see kvm_regs_settle(). */
    bool regs_wait;
    Fresh fresh;
    KvmPrefault prefault;
    uint8_t *xsave;
    struct kvm_msrs *msrs;
} KvmVcpu;

static inline KvmVcpu *kvm_of(const Vcpu *v)
{
    return v->engine_data[ENGINE_KVM];
}

/* One MSR: request is KVM_GET_MSRS or KVM_SET_MSRS on a vCPU. */
static inline bool kvm_one_msr(int fd, unsigned long request, uint32_t index, uint64_t *value)
{
    union {
        struct kvm_msrs m;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } u = {.m.nmsrs = 1};

    u.m.entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    if (ioctl(fd, request, &u.m) != 1)
        return false;
    *value = u.m.entries[0].data;
    return true;
}

/* errno of a failed ioctl as text: "KVM_SET_SREGS: Invalid argument". */
bool kvm_error(GError **err, const char *what);
const char *kvm_cap_name(enum KvmCap);
bool kvm_enable_cap(int vm_fd, enum KvmCap, uint64_t arg, GError **err);
/* Before any vCPU. */
bool kvm_irqchip_create(KvmVm *, enum Irqchip, bool pit, GError **err);
bool kvm_pit_create(KvmVm *, GError **err);
void kvm_eoi_close(KvmVm *);
/* Memory slots follow the map (engine_kvm.map_changed). */
bool kvm_slots_sync(VmCommon *, GError **err);

/* smram.c: a handler of SMIs that goes back at once, for each vCPU of a VM; and its end. */
bool kvm_smram_init(KvmVm *, unsigned n_vcpus, GError **err);
void kvm_smram_free(KvmVm *);

/* forget.c, for KvmHost.shadow_tables, on the vCPU's own thread: before each KVM_RUN; the vCPU is
 * not there and will say so again before it is; and the page tables that KVM has made for itself
 * are gone, as long as no vCPU enters. */
void kvm_tables_entering(KvmVcpu *);
void kvm_tables_left(KvmVcpu *);
bool kvm_tables_drop(KvmVcpu *, GError **err);
void kvm_tables_init(KvmVm *);
void kvm_tables_end(KvmVm *);

/* prefault.c: Vcpu.fresh by what KVM can do and the VM wants. */
void kvm_fresh_init(Vcpu *);

/* guard.c. A slot's own mapping; set and cleared with the slot. */
void kvm_alias_map(KvmVm *, KvmSlot *);
void kvm_alias_unmap(KvmSlot *);
void kvm_guard_init(VmCommon *);
/* The VM is another one than `was`, or that again; vCPUs are where they were. */
void kvm_guard_carry(VmCommon *, const KvmVm *was);
/* KVM_RUN failed with EFAULT: is it that? Then guard_retry says whether to enter again. */
bool kvm_guard_fault(Vcpu *);
/* A store that KVM took for a device's. False: it is one. */
bool kvm_guard_store(Vcpu *, gpa_t, const void *data, unsigned len);

bool kvm_vm_init(VmCommon *, GError **err);
void kvm_vm_free(VmCommon *);
bool kvm_vcpu_init(Vcpu *, GError **err);
void kvm_vcpu_free(Vcpu *);

bool kvm_export(Vcpu *, unsigned groups, GError **err);
bool kvm_import(Vcpu *, unsigned groups, GError **err);
/* The straight moves between the two forms, without an ioctl: for export, import and tests. */
void kvm_state_to_cpu(const KvmState *, CpuState *, unsigned groups);
void kvm_state_from_cpu(KvmState *, const CpuState *, unsigned groups);
bool kvm_find_msrs(Vcpu *, GError **err);

/*
 * Has KVM leave registers and events in kvm_run as it leaves the next KVM_RUN, which spares the
 * ioctls of an export. Costs something at each exit: so for exits that something is waiting for.
 * From any thread. kvm_enter() is KVM_RUN itself.
 */
void kvm_ask_sync(KvmVcpu *);
int kvm_enter(KvmVcpu *);
/* An import leaves REGS in kvm_run for the next KVM_RUN. Who asks KVM for anything that depends on
 * them before that has them put first. errno when false. */
bool kvm_regs_settle(KvmVcpu *);

/* Services KVM_EXIT_X86_RDMSR and WRMSR. */
void kvm_msr_exit(Vcpu *);
/* Services the exit in kv->run that is a completed-on-re-entry one; false: another kind. */
bool kvm_io_exit(Vcpu *);
bool kvm_drain(Vcpu *, GError **err);
void kvm_kick(Vcpu *);
Exit kvm_run_vcpu(Vcpu *, const RunLimit *);

#endif
