/* Machine's inside, shared by the files of this room only. */
#ifndef TANDEM_MACHINE_MACHINE_PRIV_H
#define TANDEM_MACHINE_MACHINE_PRIV_H

#include "devices/lapic.h"
#include "machine/machine.h"
#include "switch/adapt.h"
#include "vmstate/pit_loan.h"

/* PC memory map: RAM below 4 GiB ends here, the rest continues at 4 GiB (as QEMU's pc). */
#define PC_LOW_RAM_MAX  0xc0000000ull
#define PC_HIGH_RAM     0x100000000ull
#define PC_ROM_SHADOW   0xc0000ull
#define PC_SHADOW_BLOCK 0x4000ull

typedef struct RamBlock {
    int fd;
    uint8_t *host;
    uint64_t size;
    HugePages *huge; /* RamSlot.huge, or NULL */
} RamBlock;

/* Devices that pc.c made, for wiring and for the requests that reach them from outside. */
typedef struct Pc {
    Device *pic, *pit, *rtc, *hpet, *ioapic, *i8042, *i440fx, *piix3, *pm, *port92, *ferr, *fw_cfg,
        *debugcon;
    Device *serial[MACHINE_SERIALS];
    GPtrArray *user; /* -device */
    Lapic *lapic[MACHINE_MAX_CPUS];
    LapicCpu lapic_cpu[MACHINE_MAX_CPUS];
    bool lapics_made;
} Pc;

/* irq0.c */
typedef struct Irq0 {
    bool waits, deaf;
    unsigned asked; /* since it waits */
    int fd;
    GSource *eoi;
} Irq0;

/* kernel_pit.c */
typedef struct PitOut {
    bool out;  /* KVM's acts for the parked one, */
    bool here; /* which is not parked: it still raises the ticks */
    PitLoan loan;
    unsigned tries; /* to have KVM begin a period when one begins */
    /* Since it went out: ticks that were made, and that the guest has taken, some of which may have
     * been under way when it did. */
    uint64_t made, taken, last_taken_ns, owed_since_ns;
    int underway;
    bool counted; /* that tells what KVM owes */
    int fd;
    GSource *source;
} PitOut;

struct Machine {
    MachineConfig cfg;
    pthread_mutex_t lock;
    VmCommon vm;
    MemMap mem;
    Board board;
    RamBlock ram, bios;
    CpuidTable cpuid;
    Vcpu *vcpus[MACHINE_MAX_CPUS];
    Pc pc;
    CpuState boot_state; /* of vCPU 0 when a kernel is loaded directly */
    bool direct_boot;
    gpa_t rsdp;
    Symbols *symbols;
    struct Policies *policies;

    const Engine *engine[ENGINE_N]; /* initialised for this machine, or NULL */
    GError *engine_error[ENGINE_N]; /* why not */
    const Engine *first;            /* the one the vCPUs start in */
    char accel_reason[256];
    unsigned vcpus_started;
    Adapt adapt[MACHINE_MAX_CPUS];
    GSource *adapt_timer; /* NULL: not adaptive */
    /* All vCPUs away from KVM for a while, together: what is asked for, by vCPUs that wait for it.
     */
    _Atomic uint64_t away_ns, away_held;
    GSource *away_timer; /* brings them home; NULL: they are not away, or somebody moved them */
    bool away_moving;

    bool chips_in_kvm; /* KVM acts for the parked interrupt controllers: irqchip.c */
    Irq0 irq0;
    PitOut pit;
    char irqchip_why[160]; /* VmCommon.irqchip is what it is */
    int64_t pv_ahead_ns;   /* the paravirtual clock less the machine's, at the last stop */
    enum RunStatus status;
    GMainLoop *loop;
    int exit_status;
    bool ended;
    int timer_fd;
    bool timer_armed; /* timer_fd: for a time to come, or one whose expiry has not been read */
    GSource *timer_source;
    _Atomic bool reset_pending, poweroff_pending;
    pthread_mutex_t remap_lock;
    uint64_t globals_used; /* bits by index of MachineConfig.globals */
    MachineDmaFn *dma_fn;
    void *dma_opaque;
};

/* machine.c. Lock held: runs what has expired, whoever's thread this is. */
void machine_timers_run(Machine *);

/* memory.c */
bool memory_init(Machine *, GError **);
void memory_free(Machine *);
/* Makes the map anew from RAM, BIOS and the host bridge's PAM registers; vCPUs at boundaries. */
void memory_map_build(Machine *);
/* Board.remap: does that before the calling vCPU's next instruction. */
void memory_remap(void *machine);

/* vcpu_bus.c */
extern const VcpuBus machine_bus;
/* Lock held: VREQ_INTR as the interrupt controllers say for this vCPU. */
void machine_update_intr(Vcpu *);

/* globals.c: -global. Names that are no device's are refused first, what found no device last. */
bool globals_init(Machine *, GError **);
void globals_add(Machine *, const DeviceClass *, GHashTable *props);
bool globals_all_used(const Machine *, GError **);

/* pc.c */
bool pc_init(Machine *, GError **);
void pc_free(Machine *);
void pc_reset(Machine *); /* lock held */
/* A CPU has acknowledged an interrupt: the timers may raise what they held back. Lock held. */
void pc_irq_taken(Machine *);
/* Loads -kernel (again after a reset: the guest may have overwritten it) and the tables it needs.
 */
bool pc_load(Machine *, GError **);

/* irqchip.c: the interrupt controllers that VmCommon.irqchip names */
bool irqchip_choose(Machine *, bool kvm, GError **); /* sets VmCommon.irqchip */
bool irqchip_init(Machine *, GError **);             /* devices and vCPUs are there */
/*
 * Main thread, all vCPUs paused. Home: from KVM to the devices here. Out: to KVM, if the vCPUs are
 * in it. Neither does anything where it is so already; after an error nothing has moved.
 */
bool irqchip_home(Machine *, GError **);
bool irqchip_out(Machine *, GError **);
/*
 * To IRQCHIP_OFF for good, for what needs each vCPU to move by itself; `why` names it. Nothing
 * where it is so already. Main thread, all vCPUs paused. After an error the machine can go on.
 */
bool irqchip_leave(Machine *, const char *why, GError **err);
/* Lock held. An input of the I/O APIC changed. */
void irqchip_line(Machine *, unsigned gsi, bool level);
/* Lock held: INTR of the 8259s changed. */
void irqchip_pic_intr(Machine *);

/*
 * kernel_pit.c: the 8254, if VmCommon.kernel_pit. Out and home as the controllers, which do that
 * last and first, and have the device parked meanwhile. The HPET has taken IRQ 0, or given it back:
 * lock held.
 */
bool pit_init(Machine *, GError **err);
void pit_free(Machine *);
bool pit_out(Machine *, GError **err);
bool pit_home(Machine *, GError **err);
void pit_hpet_legacy(Machine *);
/* Lock held: a tick of the device's is not to be raised when KVM's has been written to since. */
bool pit_may_tick(Machine *);
/* irq0_unended() as it goes out, and of what came home with it. The guest has ended ticks: lock
 * held. */
void pit_count(Machine *, int underway);
void pit_account(Machine *, int underway);
void pit_ended(Machine *, uint64_t ticks);

/*
 * irq0.c. Lock held. Is the last tick of IRQ 0 still to be taken? A tick has been raised; KVM says
 * that the vector was ended (IRQCHIP_SPLIT); the controllers are about to be KVM's.
 */
bool irq0_busy(void *machine);
void irq0_raised(Machine *);
void irq0_ended(Machine *, uint8_t vector);
void irq0_out(Machine *);
/* What KVM has told and nobody has read yet. */
void irq0_look(Machine *);
/* Of a state: how many ticks of IRQ 0 are on their way or being handled; -1: it is masked. */
int irq0_unended(const LapicState *, unsigned n, const ChipState *);
/* Listens to the VM that VmCommon.irqchip is about, and no longer to the last one. Main thread. */
void irq0_watch(Machine *);
void irq0_free(Machine *); /* no longer to any */

/* pvclock.c: main thread, vCPUs paused, the machine's clock running. Read: before vCPUs leave KVM.
 */
void pvclock_start(Machine *);
void pvclock_stop(Machine *);
void pvclock_read(Machine *);

/* accel.c */
/* Not with -accel interp and jit. */
bool accel_wants_kvm(const Machine *);
bool accel_init(Machine *, GError **);
/* Will accel_init() choose a software engine to start in? May be asked before it. */
bool accel_starts_in_software(const Machine *);
void accel_free(Machine *);
/* What becomes of v when KVM cannot go on, or not well. Before it runs. */
void accel_vcpu_started(Machine *, Vcpu *v);
/* No more samples are asked for. Main thread, before the vCPUs end. */
void accel_stop(Machine *);
/* Somebody moves vCPUs by hand: nobody brings them home. Main thread. */
void accel_moved(Machine *);

#endif
