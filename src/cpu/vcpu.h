/*
 * Vcpu, Engine and the bus between them and the machine.
 *
 * An engine runs guest instructions on a Vcpu's own thread. It reaches everything outside the CPU
 * (devices, interrupt controllers, time) through the VcpuBus, and never knows what is behind it.
 * The bus takes the machine lock itself.
 *
 * Threads: a Vcpu is touched by its own thread alone, except `request` (atomic, any thread) and
 * what is marked below. To change a Vcpu's state from elsewhere, queue work on it
 * (switch/vcpu_loop.h).
 */
#ifndef TANDEM_CPU_VCPU_H
#define TANDEM_CPU_VCPU_H

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>
#include "base/clock.h"
#include "base/memmap.h"
#include "base/symbols.h"
#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"
#include "cpu/fresh.h"
#include "cpu/writelog.h"

typedef struct Vcpu Vcpu;
typedef struct Engine Engine;

/* Bits of Vcpu.request: why the engine should look up at its next boundary. Set from any thread. */
enum VcpuRequest {
    VREQ_INTR = 1 << 0, /* level: the controller has (or may have) a vector; bus->irq_ack() tells */
    VREQ_NMI = 1 << 1,  /* edge, consumed by the loop or engine that delivers it */
    VREQ_SMI = 1 << 2,
    VREQ_INIT = 1 << 3,
    VREQ_SIPI = 1 << 4,      /* vector in Vcpu.sipi_vector */
    VREQ_WORK = 1 << 5,      /* queued work, a switch, stop: engine->run() returns EXIT_KICK */
    VREQ_TLB_FLUSH = 1 << 6, /* software engine: drop translations and re-check code */
    VREQ_EXIT_MASK = VREQ_INIT | VREQ_SIPI | VREQ_SMI | VREQ_WORK, /* run() returns for these */
};

typedef enum ExitKind {
    EXIT_KICK,           /* a bit of VREQ_EXIT_MASK is set; at an instruction boundary */
    EXIT_LIMIT,          /* RunLimit reached */
    EXIT_HLT,            /* HLT or MWAIT executed; run_state says which, RIP past it */
    EXIT_SHUTDOWN,       /* triple fault */
    EXIT_DEBUG,          /* single step or breakpoint asked for by the host */
    EXIT_INTERNAL_ERROR, /* the engine cannot execute the instruction at RIP: text in Exit.msg */
    EXIT_GUARDED,        /* KVM: the instruction at RIP stores to a page of VmCommon.guard */
    EXIT_FAIL_ENTRY,     /* KVM refused the state: Exit.code is the hardware reason */
    EXIT_EXCEPTION,      /* RunLimit.stop_at_exception: Exit.exc was raised and not delivered */
    EXIT_STOP,           /* RunLimit.stops: Exit.stop and Exit.code say which */
    EXIT_N
} ExitKind;

/* What EXIT_EXCEPTION stopped at. State is as the event found it: RIP is the instruction's own for
 * faults, the next one's for #DB traps; CR2 and DR6 are not yet set. INT n, INT3, INTO and INT1
 * stop here too, once their gate lets them through: RIP is still on them, and len is their length.
 */
typedef struct ExitException {
    uint8_t vector, len;
    bool has_error, soft;
    uint32_t error;
    uint64_t cr2; /* of a page fault */
    uint64_t dr6; /* of a debug exception: bits to be set */
} ExitException;

/* What an engine is to stop at besides all else. Filled by the vCPU's thread between two run()s. */
#define STOPS_MAX     16
#define STOPS_MAX_KVM 4 /* debug registers; the guest's own breakpoints rest meanwhile */
typedef struct RunStops {
    /* Linear addresses: stop before the instruction there (STOP_ADDRESS; code: which of them). */
    gva_t addr[STOPS_MAX];
    unsigned n_addr;
    /* The next time the instruction at pass_at runs is no reason to stop: it was the last one.
     * Cleared by the engine when it has run. */
    bool pass;
    gva_t pass_at;
    /* Software engines: stop when the next instruction is outside [lo, hi) (STOP_LEFT); hi 0: not
     * asked. Or at one of these privilege levels, a bit each (STOP_CPL). */
    gva_t lo, hi;
    uint8_t cpl;
    /* Software engines: told of each instruction in [step_lo, step_hi) before it runs (step_hi 0:
     * of all). */
    void (*step)(Vcpu *, gva_t lin);
    gva_t step_lo, step_hi;
    /* KVM: stop behind exits of these reasons, a bit each (STOP_EXIT; code: the reason). */
    uint64_t exits;
} RunStops;
enum StopKind { STOP_ADDRESS, STOP_LEFT, STOP_CPL, STOP_EXIT };

typedef struct Exit {
    ExitKind kind;
    enum StopKind stop; /* EXIT_STOP: why, and in code which */
    uint64_t code;      /* KVM: hardware entry failure reason, or internal error suberror */
    uint8_t insn[15];   /* EXIT_INTERNAL_ERROR: bytes at RIP as far as known */
    uint8_t insn_len;
    ExitException exc;
    bool delivered; /* EXIT_LIMIT with RunLimit.caller_events: exc has just been delivered */
    char msg[160];  /* one line for people; empty unless an error */
} Exit;

typedef struct RunLimit {
    uint64_t max_insns; /* 0: none. The software engine stops exactly there; KVM only honours 1 (a
                           step). */
    bool stop_at_exception; /* software engines: see EXIT_EXCEPTION. Interrupts are delivered. */
    /*
     * For who compares two vCPUs step by step. NMIs and interrupts are the caller's, who puts them
     * into st.ev as injected: run() returns EXIT_KICK where one could be taken. Software engines
     * count an event that is delivered (injected, or an exception of the guest's) as an
     * instruction, and return EXIT_LIMIT behind it; of an exception, Exit.exc tells.
     */
    bool caller_events;
    bool careful;    /* software engines: each instruction by itself, without shortcuts */
    bool whole;      /* software engines: max_insns 1 is a whole REP, not one iteration of it */
    bool one_block;  /* software engines: may return EXIT_LIMIT at the first block's end */
    bool chained;    /* the translator: goes on as without a limit, blocks joined, and returns
                        EXIT_LIMIT where it next looks for requests behind max_insns of them; how
                        many they were Vcpu.insns tells */
    RunStops *stops; /* or NULL */
} RunLimit;

/* Which interrupt controllers KVM keeps: none, the local APICs, or the I/O APIC and 8259s too. */
enum Irqchip { IRQCHIP_OFF, IRQCHIP_SPLIT, IRQCHIP_ON };

/* What an engine may ask of the machine. Each call may take the machine lock; none may be made with
 * it held. */
typedef struct VcpuBus {
    /* Physical accesses that no RAM slot serves. size 1, 2, 4 or 8; a longer one is split by the
     * engine. */
    uint64_t (*mmio_read)(Vcpu *, gpa_t, unsigned size);
    void (*mmio_write)(Vcpu *, gpa_t, unsigned size, uint64_t value);
    uint32_t (*pio_read)(Vcpu *, uint16_t port, unsigned size);
    void (*pio_write)(Vcpu *, uint16_t port, unsigned size, uint32_t value);
    /* Acknowledges and returns the highest vector deliverable now (0-255), or -1. Clears VREQ_INTR
     * when nothing is left. The caller has checked IF and the interrupt shadow. */
    int (*irq_ack)(Vcpu *);
    /* MSRs the local APIC owns: IA32_APIC_BASE, x2APIC 0x800-0x8ff, IA32_TSC_DEADLINE. False: #GP.
     */
    bool (*apic_msr_read)(Vcpu *, uint32_t msr, uint64_t *value);
    bool (*apic_msr_write)(Vcpu *, uint32_t msr, uint64_t value);
    /* CR8: the task priority class, 0-15. The local APIC holds it; CpuState.cr8 is filled on
     * export. */
    uint8_t (*tpr_get)(Vcpu *);
    void (*tpr_set)(Vcpu *, uint8_t cr8);
    /*
     * FERR#: whether an x87 exception that nothing masks is pending while CR0.NE is clear. Returns
     * whether the board asserts IGNNE#, with which the processor goes on all the same. May be
     * NULL: the engine then refuses such an instruction by name.
     */
    bool (*x87_error)(Vcpu *, bool ferr);
    /* The guest's TSC before the vCPU's offset; NULL: clock_tsc() of the machine's clock. KVM's
     * guests read the processor's by themselves. */
    uint64_t (*clock_tsc)(Vcpu *);
    /* The guest is about to read its TSC in a software engine, and timers are late by that
     * (timers_late()): what is due happens first. NULL: it does not matter. */
    void (*tsc_is_late)(Vcpu *);
    /* IRQCHIP_SPLIT: a local APIC of KVM's ended an interrupt of a level-triggered vector. */
    void (*ioapic_eoi)(Vcpu *, uint8_t vector);
    /* KVM_HC_SEND_IPI: the vCPUs whose APIC id, counted from `first`, has its bit in the 128 of
     * map; icr as the register's lower half. Returns how many took it. NULL: there is no such call.
     */
    int (*pv_ipi)(Vcpu *, const uint64_t map[2], uint32_t first, uint32_t icr);
} VcpuBus;

/* Where processors and kernels differ in the states they enter, or take by ioctl; each goes beyond
 * the manual, or is another reading of it. */
enum KvmQuirk {
    KVM_ENTERS_WILD_RIP, /* RIP beyond the canonical addresses in 64-bit code */
    KVM_TAKES_WIDE_MSR, /* addresses canonical in 57 bits in IA32_LSTAR and the like, CR4.LA57 clear
                         */
    KVM_CS_BY_RPL,      /* CS.DPL is held against CS's RPL, not against SS.DPL */
    KVM_QUIRKS
};

/* Shared by all vCPUs of a machine; what engines need of it. Owned by the Machine. */
typedef struct VmCommon {
    const MemMap *mem;
    Clock *clock;
    const VcpuBus *bus;
    const CpuidTable *cpuid; /* the CPU the guest sees, the same in every engine */
    Vcpu **vcpu;
    unsigned n_vcpus;
    /* True where KVM's TSC cannot be offset: every engine then runs with tsc_offset 0. */
    bool tsc_offset_fixed;
    /* Is it so of this KVM? Tried in a guest when first asked; NULL without one. Any thread. */
    bool (*kvm_quirk)(enum KvmQuirk);
    bool no_prefault;       /* KVM maps what a guest uses in it, and no page before */
    bool cpu_pm;            /* KVM lets the guest's HLT, MWAIT and PAUSE through to the processor */
    size_t jit_code_bytes;  /* of translated code, a vCPU; 0: as the translator likes */
    const Symbols *symbols; /* of guest code, for logs; may be NULL */
    /* Set before the engines' vm_init(). Not IRQCHIP_OFF: all vCPUs are in KVM or none is, but
     * while `moving`, in which they are all paused and the machine sees to the controllers. */
    enum Irqchip irqchip;
    bool moving;
    bool kernel_pit; /* with IRQCHIP_ON: KVM has an 8254 as well */
    /* The paravirtual clock: `ns` when the TSC before any offset was `tsc`. Exact: the same line on
     * every vCPU and in every engine. Written with all vCPUs paused. */
    struct PvLine {
        uint64_t tsc, ns;
        bool exact;
    } pv;
    void *kvm;        /* struct KvmVm of the kvm room; NULL without KVM */
    void *tcg;        /* struct TcgVm of the tcg room: shared page flags */
    void *trace;      /* struct EngineTrace of the switch room, or NULL */
    void *rip_record; /* struct RipRecord of the switch room, or NULL */
    void *policies;   /* struct Policies of the switch room, or NULL */
    void *turns;      /* struct Turns of the switch room, or NULL */
    /*
     * Set while some vCPUs are in KVM and others in a software engine: then guard_page() has KVM's
     * stores to a page come out, and release_page() ends that unless has_code() says otherwise.
     * Software engines call these, for pages they decode code from; KVM calls the other two.
     * code_written(): by is not in a software engine. All NULL in machines without the other side.
     */
    _Atomic bool guard;
    void (*guard_page)(struct VmCommon *, gpa_t page);
    void (*release_page)(struct VmCommon *, gpa_t gpa);
    bool (*has_code)(struct VmCommon *, gpa_t gpa);
    void (*code_written)(Vcpu *by, gpa_t gpa, unsigned len);
    void *tap; /* of who has put a bus of his own before the machine's; else NULL */
} VmCommon;

enum EngineId { ENGINE_KVM, ENGINE_INTERP, ENGINE_JIT, ENGINE_N };

struct Vcpu {
    int id; /* index, also the initial APIC id */
    VmCommon *vm;
    void *machine; /* Machine *, for the bus implementation and the loop's owner */
    pthread_t thread;
    const Engine *engine;
    /* Which is the truth: st, or the engine's own copy (KVM's). The interpreter works in st, but
     * keeps flags apart while it runs; between run() calls st is canonical for it. */
    enum { ST_CANONICAL, ST_IN_ENGINE } where;
    _Atomic uint32_t request;
    /* 0 after each new request, set to 1 by the vCPU's own thread before it reads `request`: what
     * translated code polls. */
    _Atomic uint32_t go;
    _Atomic uint8_t sipi_vector;
    void *engine_data[ENGINE_N];
    void *loop; /* struct VcpuLoop of the switch room */
    /* Its thread, in run(), sleeps for so long, or until there is a request; or NULL. */
    void (*nap)(Vcpu *, uint64_t ns);
    void *apic; /* the machine's: struct Lapic */
    /* Software engine's instruction count, and KVM's exits: monotonic, for info and limits. */
    uint64_t insns, exits;
    /* RAM may have been written by who has no TLB and no page tables of KVM's to keep: a software
     * engine has run, or the machine was reset. Until this vCPU goes into KVM. Set by its own
     * thread, read by all. */
    _Atomic bool wrote_unseen;
    /* KVM's: where software engines list the pages they use; or NULL. Changed while paused, and by
     * its own thread. */
    Fresh *fresh;
    /* NULL, or where software engines note their stores. Set before engine->enter(). */
    WriteLog *writes;
    struct {
        uint64_t run_delay, at_ns, added; /* as of at_ns; added since software has the vCPU */
    } steal;                              /* cpu/pv.c */
    struct {
        gpa_t line;
        uint8_t was[MWAIT_LINE];
        bool armed, any_interrupt; /* MWAIT: an interrupt ends it also while IF is clear */
    } monitor;                     /* cpu/mwait.h */
    CpuState st;
};

/* State groups for partial export and import; GROUPS_ALL for a switch. */
enum StateGroup {
    GRP_REGS = 1 << 0,
    GRP_SREGS = 1 << 1,
    GRP_FPU = 1 << 2,
    GRP_XCRS = 1 << 3,
    GRP_DEBUGREGS = 1 << 4,
    GRP_MSRS = 1 << 5,
    GRP_EVENTS = 1 << 6,
    GRP_MP_STATE = 1 << 7,
    GROUPS_ALL = (1 << 8) - 1,
    /* An engine need not be asked for, or given, what it is known to hold: of a switch, whose
     * vCPU may not have run since it came. */
    GRP_KNOWN = 1 << 8,
};

/*
 * One way to run guest code. All functions but kick() run on the vCPU's thread; vm_init() before
 * any vCPU, on the main thread. Each may be called again after failing.
 */
struct Engine {
    const char *name; /* "kvm", "interp" */
    enum EngineId id;
    bool is_software;
    bool (*vm_init)(VmCommon *, GError **);
    void (*vm_free)(VmCommon *);
    bool (*vcpu_init)(Vcpu *, GError **);
    void (*vcpu_free)(Vcpu *);
    /* Runs until an Exit. Calls the bus for I/O, never a device. Delivers interrupts itself. */
    Exit (*run)(Vcpu *, const RunLimit *);
    /* Makes run() look at Vcpu.request soon. From any thread or signal; never lost: a kick before
     * run() makes that run() look at once. */
    void (*kick)(Vcpu *);
    /* Brings the vCPU to an instruction boundary: completes half-done I/O. */
    bool (*drain)(Vcpu *, GError **);
    /* Engine to vcpu->st, and back. The loop keeps `where` in step. */
    bool (*export_state)(Vcpu *, unsigned groups, GError **);
    bool (*import_state)(Vcpu *, unsigned groups, GError **);
    /* The memory map changed, or someone outside the engine wrote guest RAM (gpa, len; len 0:
     * anything). May be called with the vCPUs stopped only, from the main thread, for map changes.
     */
    bool (*map_changed)(VmCommon *, GError **);
    /* The vCPU is about to run here after having run elsewhere: drop stale translations. */
    void (*enter)(Vcpu *);
    /* NULL, or: it goes elsewhere, to an engine of another kind. What enter() would have to drop is
     * in the processor's caches now. */
    void (*leave)(Vcpu *);
};

extern const Engine engine_kvm;    /* src/kvm */
extern const Engine engine_interp; /* src/tcg */
extern const Engine engine_jit;    /* src/jit: shares engine_interp's data of a vCPU */

/* A Vcpu, all zero. Not from the heap: the translator wants address space to be had near it. */
Vcpu *vcpu_alloc(GError **err);
void vcpu_release(Vcpu *); /* NULL: nothing */

static inline void vcpu_request(Vcpu *v, uint32_t bits)
{
    atomic_fetch_or_explicit(&v->request, bits, memory_order_seq_cst);
    atomic_store_explicit(&v->go, 0, memory_order_seq_cst);
}

static inline void vcpu_request_clear(Vcpu *v, uint32_t bits)
{
    atomic_fetch_and_explicit(&v->request, ~bits, memory_order_seq_cst);
}

/* What the vCPU waits for (HLT, SIPI) is the engine's to know, which sleeps there. */
static inline bool vcpu_waits_in_engine(const Vcpu *v)
{
    return v->vm->irqchip != IRQCHIP_OFF && !v->engine->is_software;
}

/* The guest's TSC, for devices and the host. */
static inline uint64_t vcpu_clock_tsc(const Vcpu *v)
{
    return clock_tsc(v->vm->clock) + v->st.tsc_offset;
}

/* The guest's TSC as the guest reads it, for engines. */
static inline uint64_t vcpu_tsc(Vcpu *v)
{
    const VcpuBus *bus = v->vm->bus;
    if (unlikely(bus && bus->clock_tsc))
        return bus->clock_tsc(v) + v->st.tsc_offset;
    return vcpu_clock_tsc(v);
}

#endif
