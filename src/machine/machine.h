/*
 * Machine: owns everything of one guest. The top floor talks to it from the main thread.
 *
 * Locks: `lock` (the machine lock) covers devices, timers, interrupt controllers and run state. It
 * is taken by the bus on each device access, by the timer source, and by chardev input. It is never
 * held across vcpu_run_on() or a pause.
 */
#ifndef TANDEM_MACHINE_MACHINE_H
#define TANDEM_MACHINE_MACHINE_H

#include <glib.h>
#include "base/symbols.h"
#include "char/chardev.h"
#include "cpu/vcpu.h"
#include "devices/bus.h"
#include "switch/switch.h"
#include "vmstate/chip_fields.h"

typedef struct Machine Machine;

#define MACHINE_SERIALS  4
#define MACHINE_MAX_CPUS 64

/* What the command line said; strings may be NULL. Checked by machine_new(). */
typedef struct MachineConfig {
    const char *machine; /* "pc" */
    const char *accel;   /* kvm | tcg | interp | kvm:tcg | auto */
    bool no_rescue;      /* what KVM cannot execute stops the machine */
    bool no_prefault;    /* KVM maps no page before it is used there */
    enum { ADAPTIVE_AUTO, ADAPTIVE_ON, ADAPTIVE_OFF } adaptive; /* AUTO: with accel auto */
    const char *kernel_irqchip; /* on | split | off; NULL: what suits the machine */
    bool kernel_pit;            /* KVM keeps the 8254 as well */
    const char *cpu;            /* -cpu argument; NULL: "max" */
    bool cpu_pm;                /* -overcommit cpu-pm=on */
    uint64_t ram_bytes;
    bool ram_file; /* RAM in a memfd, where SEEK_DATA tells what was touched */
    unsigned smp;
    unsigned tb_mib; /* -accel tb-size; 0: as the translator likes */
    const char *kernel, *initrd, *append, *bios;
    const void *bios_image; /* instead of bios: bytes, a multiple of 64 KiB */
    size_t bios_image_size;
    CharDev *serial[MACHINE_SERIALS];
    CharDev *debugcon;
    const char *const *devices;  /* -device arguments, NULL-terminated; may be NULL */
    const char *const *globals;  /* -global arguments (options.c), NULL-terminated; may be NULL */
    const char *const *policies; /* -switch arguments, NULL-terminated; may be NULL */
    const char *record_rip;      /* -record-rip: as for machine_record_rip(); or NULL */
    const char *trace_engines;   /* -trace-engines: a file; or NULL */
    const char *const *symbols;  /* -symbols arguments, NULL-terminated; may be NULL */
    bool no_reboot, no_shutdown, start_paused;
    bool has_monitor; /* somebody can act on a stopped machine: errors stop it, and do not end it */
    const char *name;
} MachineConfig;

enum RunStatus { ST_PAUSED, ST_RUNNING, ST_SHUTDOWN, ST_INTERNAL_ERROR, ST_PRELAUNCH };

Machine *machine_new(const MachineConfig *, GError **);
void machine_free(Machine *); /* stops and joins the vCPUs */
bool machine_start(Machine *, GError **);
/* Runs the GLib main loop until quit, power-off or an error ends it; returns the process's exit
 * status. */
int machine_main_loop(Machine *);

void machine_lock(Machine *);
void machine_unlock(Machine *);

/* Any thread. */
void machine_request_reset(Machine *);
void machine_request_poweroff(Machine *); /* the guest's soft-off: -no-shutdown pauses instead */
void machine_request_quit(Machine *, int status);
/* Main thread. */
void machine_stop(Machine *);
void machine_cont(Machine *);
void machine_powerdown(Machine *); /* presses the ACPI power button */
enum RunStatus machine_status(const Machine *);
const char *run_status_name(enum RunStatus);

/* fn hears of each write of a device to guest RAM, after it; on any thread, machine lock held. */
typedef void MachineDmaFn(void *opaque, gpa_t gpa, uint64_t len);
void machine_watch_dma(Machine *, MachineDmaFn *fn, void *opaque);

VmCommon *machine_vm(Machine *);
/* Of the ELF file that -kernel named, and of -symbols; perhaps empty. Any thread. */
Symbols *machine_symbols(Machine *);
Board *machine_board(Machine *);
const MachineConfig *machine_config(const Machine *);
/* "kvm" | "tcg" | "interp"; NULL and err if it does not exist or was not initialised for this
 * machine (why). */
const Engine *machine_engine(Machine *, const char *name, GError **);
/* cpu -1: all, in turn. Waits. */
bool machine_switch(Machine *, const Engine *, int cpu, GError **);
/* After log_mask was set: the vCPUs heed it from their next boundary on. Waits. Appends a line for
 * what will not be logged, and why. */
void machine_log_changed(Machine *, GString *out);
/* Policies (switch/policy.h); text as for -switch. number 0: all. Main thread. */
bool machine_policy_add(Machine *, const char *text, unsigned *number, GString *warning, GError **);
bool machine_policy_delete(Machine *, unsigned number, GError **);
/* Records which instructions run (switch/record_rip.h). NULL: ends it; *n is then how many there
 * were. Main thread. */
bool machine_record_rip(Machine *, const char *text, uint64_t *n, GError **);
/* Why this accelerator was chosen, what each offers: for info accel. */
void machine_describe_accel(Machine *, GString *out);
/* Periodic ticks of IRQ 0 that are due and have still to follow; UINT64_MAX: KVM has the PIT, and
 * nobody can tell. Lock held. */
uint64_t machine_ticks_owed(Machine *);
/* Main thread: the 8259s and the I/O APIC; the local APIC of a vCPU. */
void machine_describe_pic(Machine *, GString *out);
void machine_describe_lapic(Machine *, unsigned cpu, GString *out);
/* The same field by field. raw: as who holds them gives them, before any rule. All vCPUs paused. */
bool machine_chips(Machine *, unsigned cpu, bool raw, ChipView *out, GError **);
/* What a switch of this vCPU would do to them: for switch --dry-run. All vCPUs paused. */
void machine_chips_dry_run(Machine *, const Engine *to, unsigned cpu, bool alone, GString *out);

#endif
