/* Machine life: made, started, stopped, reset, switched, ended. */
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/log.h"
#include "cpu/mwait.h"
#include "kvm/kvm.h"
#include "machine/loader.h"
#include "machine/machine_priv.h"
#include "switch/policy.h"
#include "switch/record_rip.h"
#include "switch/trace.h"
#include "switch/vcpu_loop.h"

void machine_lock(Machine *m)
{
    pthread_mutex_lock(&m->lock);
}

void machine_unlock(Machine *m)
{
    pthread_mutex_unlock(&m->lock);
}

Symbols *machine_symbols(Machine *m)
{
    return m->symbols;
}

VmCommon *machine_vm(Machine *m)
{
    return &m->vm;
}

Board *machine_board(Machine *m)
{
    return &m->board;
}

const MachineConfig *machine_config(const Machine *m)
{
    return &m->cfg;
}

/* ---- timers: a timerfd armed for the earliest one, served on the main thread ---- */

static void arm_timer_fd(Machine *m, uint64_t expiry)
{
    struct itimerspec its = {0};
    if (expiry == NO_EXPIRY && !m->timer_armed)
        return;
    m->timer_armed = expiry != NO_EXPIRY;
    if (m->timer_armed) {
        uint64_t now = clock_ns(m->vm.clock);
        uint64_t left = expiry > now ? clock_host_ns(m->vm.clock, expiry - now) : 1;
        its.it_value.tv_sec = (time_t)(left / NS_PER_S);
        its.it_value.tv_nsec = (long)(left % NS_PER_S);
    }
    timerfd_settime(m->timer_fd, 0, &its, NULL);
}

void machine_timers_run(Machine *m)
{
    arm_timer_fd(m, timers_run(m->vm.clock));
}

static void timers_moved(void *opaque)
{
    Machine *m = opaque;
    arm_timer_fd(m, timers_next(m->vm.clock));
}

static gboolean timer_fd_ready(int fd, GIOCondition cond, gpointer opaque)
{
    Machine *m = opaque;
    uint64_t ticks;
    machine_lock(m);
    if (read(fd, &ticks, sizeof(ticks)) == sizeof(ticks)) /* or someone re-armed it meanwhile */
        m->timer_armed = false;
    machine_timers_run(m);
    machine_unlock(m);
    return G_SOURCE_CONTINUE;
}

/* ---- requests from vCPU threads and devices: carried out on the main thread ---- */

static void in_main_thread(GSourceFunc fn, gpointer opaque)
{
    g_idle_add_full(G_PRIORITY_HIGH, fn, opaque, NULL);
}

static void end_loop(Machine *m, int status)
{
    if (m->ended)
        return;
    m->ended = true;
    m->exit_status = status;
    if (m->loop)
        g_main_loop_quit(m->loop);
}

static void pause_machine(Machine *m, enum RunStatus why)
{
    if (m->status == ST_RUNNING) {
        g_autoptr(GError) err = NULL;
        vcpus_pause(&m->vm);
        if (!irqchip_home(m, &err))
            warn_user("the interrupt controllers stay in KVM, where time goes on: %s",
                      err->message);
        pvclock_stop(m);
        machine_lock(m);
        clock_stop(m->vm.clock);
        machine_unlock(m);
    }
    m->status = why;
}

void machine_stop(Machine *m)
{
    pause_machine(m, m->status == ST_RUNNING ? ST_PAUSED : m->status);
}

/* vCPUs paused. False: those in KVM cannot run. */
static bool send_chips_out(Machine *m, GError **err)
{
    if (irqchip_out(m, err))
        return true;
    if (err)
        g_prefix_error(err, "the interrupt controllers do not get into KVM: ");
    return false;
}

/* Nothing can run on: main thread, vCPUs paused by the caller too. */
static void fail_running(Machine *m)
{
    warn_user("the vCPUs are in KVM and the interrupt controllers do not get there; 'switch tcg' "
              "and 'cont' go on in the software engine");
    pause_machine(m, ST_INTERNAL_ERROR);
    if (!m->cfg.no_shutdown && !m->cfg.has_monitor)
        end_loop(m, 1);
}

/* For what needs each vCPU to move by itself: vCPUs paused. */
static bool leave_irqchip(Machine *m, const char *why, GError **err)
{
    if (irqchip_leave(m, why, err))
        return true;
    if (m->status == ST_RUNNING && !send_chips_out(m, NULL))
        fail_running(m);
    return false;
}

void machine_cont(Machine *m)
{
    if (m->status == ST_RUNNING)
        return;
    machine_lock(m);
    clock_start(m->vm.clock);
    arm_timer_fd(m, timers_run(m->vm.clock));
    machine_unlock(m);
    m->status = ST_RUNNING;
    pvclock_start(m);
    if (!send_chips_out(m, NULL))
        fail_running(m);
    vcpus_resume(&m->vm);
}

static void vcpu_reset_work(Vcpu *v, void *opaque)
{
    Machine *m = opaque;
    GError *err = NULL;
    if (!vcpu_sync_state(v, &err)) {
        warn_user("cpu %d: %s", v->id, err->message);
        g_clear_error(&err);
    }
    vcpu_request_clear(v, VREQ_INTR | VREQ_NMI | VREQ_SMI | VREQ_INIT | VREQ_SIPI);
    mwait_disarm(v);
    v->wrote_unseen = true; /* by the loaders */
    cpu_state_reset(&v->st, cpuid_signature(&m->cpuid), v->id == 0);
    v->st.msr.apic_base = 0xfee00000 | BIT(11) | (v->id == 0 ? BIT(8) : 0);
    v->st.msr.smbase +=
        CPU_SMBASE_SIZE * (unsigned)v->id; /* as firmware leaves them: a place each */
    if (m->direct_boot)
        boot_mtrrs(&v->st);
    if (v->id == 0 && m->direct_boot) {
        CpuState boot = m->boot_state;
        boot.tsc_offset = v->st.tsc_offset;
        boot.msr.apic_base = v->st.msr.apic_base;
        v->st = boot;
    }
    if (log_on(LOG_CPU_RESET))
        log_line("cpu %d reset, rip %#" G_GINT64_MODIFIER "x", v->id, v->st.rip);
}

/* vCPUs paused. */
static bool reset_all(Machine *m, GError **err)
{
    machine_lock(m);
    pc_reset(m);
    memory_map_build(m);
    machine_unlock(m);
    for (unsigned e = 0; e < ENGINE_N; e++) {
        if (m->engine[e] && m->engine[e]->map_changed && !m->engine[e]->map_changed(&m->vm, err))
            return false;
    }
    if (!pc_load(m, err))
        return false;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_run_on(m->vcpus[i], vcpu_reset_work, m);
    return true;
}

static gboolean do_reset(gpointer opaque)
{
    Machine *m = opaque;
    GError *err = NULL;
    atomic_store(&m->reset_pending, false);
    if (m->ended)
        return G_SOURCE_REMOVE;
    if (m->cfg.no_reboot) {
        end_loop(m, 0);
        return G_SOURCE_REMOVE;
    }
    bool running = m->status == ST_RUNNING;
    if (running)
        vcpus_pause(&m->vm);
    if (!irqchip_home(m, &err) || !reset_all(m, &err) || (running && !send_chips_out(m, &err))) {
        warn_user("reset: %s", err->message);
        g_error_free(err);
        end_loop(m, 1);
    }
    if (running)
        vcpus_resume(&m->vm);
    else if (m->status == ST_SHUTDOWN || m->status == ST_INTERNAL_ERROR)
        m->status = ST_PAUSED;
    return G_SOURCE_REMOVE;
}

void machine_request_reset(Machine *m)
{
    if (!atomic_exchange(&m->reset_pending, true))
        in_main_thread(do_reset, m);
}

static gboolean do_poweroff(gpointer opaque)
{
    Machine *m = opaque;
    atomic_store(&m->poweroff_pending, false);
    if (m->cfg.no_shutdown)
        pause_machine(m, ST_SHUTDOWN);
    else
        end_loop(m, 0);
    return G_SOURCE_REMOVE;
}

void machine_request_poweroff(Machine *m)
{
    if (!atomic_exchange(&m->poweroff_pending, true))
        in_main_thread(do_poweroff, m);
}

typedef struct Quit {
    Machine *m;
    int status;
} Quit;

static gboolean do_quit(gpointer opaque)
{
    Quit *q = opaque;
    end_loop(q->m, q->status);
    g_free(q);
    return G_SOURCE_REMOVE;
}

void machine_request_quit(Machine *m, int status)
{
    Quit *q = g_new(Quit, 1);
    *q = (Quit){m, status};
    in_main_thread(do_quit, q);
}

static void board_reset(void *m)
{
    machine_request_reset(m);
}

static void board_poweroff(void *m)
{
    machine_request_poweroff(m);
}

static void board_debug_exit(void *m, int status)
{
    machine_request_quit(m, status);
}

static void board_set_a20(void *opaque, bool on)
{
    /* KVM has no A20 gate either; a guest that needs the wrap at 1 MiB is older than the i386
     * kernel. */
    if (!on && log_on(LOG_GUEST_ERROR))
        log_line("the guest closed the A20 gate: memory does not wrap at 1 MiB in any engine");
}

static void board_dma_wrote(void *opaque, gpa_t gpa, uint64_t len)
{
    Machine *m = opaque;
    for (unsigned i = 0; i < m->vcpus_started; i++)
        vcpu_request(m->vcpus[i], VREQ_TLB_FLUSH);
    if (m->dma_fn)
        m->dma_fn(m->dma_opaque, gpa, len);
}

void machine_watch_dma(Machine *m, MachineDmaFn *fn, void *opaque)
{
    machine_lock(m);
    m->dma_fn = fn;
    m->dma_opaque = opaque;
    machine_unlock(m);
}

/* ---- what the vCPU loops report ---- */

static void on_shutdown(Vcpu *v)
{
    Machine *m = v->machine;
    if (log_on(LOG_CPU_RESET))
        log_line("cpu %d: triple fault at rip %#" G_GINT64_MODIFIER "x", v->id, v->st.rip);
    machine_request_reset(m);
}

static gboolean do_internal_error(gpointer opaque)
{
    Machine *m = opaque;
    if (m->status == ST_RUNNING)
        pause_machine(m, ST_INTERNAL_ERROR);
    if (!m->cfg.no_shutdown && !m->cfg.has_monitor)
        end_loop(m, 1);
    return G_SOURCE_REMOVE;
}

static void on_error(Vcpu *v, const Exit *e)
{
    Machine *m = v->machine;
    bool stays = m->cfg.no_shutdown || m->cfg.has_monitor;
    char at[SYMBOL_TEXT] = "";
    if (symbols_count(m->symbols) &&
        (v->where == ST_CANONICAL || v->engine->export_state(v, GRP_REGS, NULL)))
        symbols_note(m->symbols, v->st.rip, at);
    warn_user("cpu %d: %s%s", v->id, e->msg, at);
    if (v->engine == &engine_kvm && m->engine[ENGINE_INTERP] && stays)
        warn_user("stopped; the monitor's 'switch tcg' and 'cont' go on in the software engine");
    else if (v->engine == &engine_kvm && m->engine[ENGINE_INTERP])
        warn_user("this KVM cannot execute it: -accel tcg runs the guest in the software engine");
    else if (stays)
        warn_user(
            "stopped; the monitor can look at it, and 'system_reset' and 'cont' start it again");
    in_main_thread(do_internal_error, m);
}

static bool on_init(Vcpu *v)
{
    Machine *m = v->machine;
    machine_lock(m);
    lapic_reset(v->apic, true);
    machine_unlock(m);
    return true;
}

static const LoopHooks hooks = {.shutdown = on_shutdown, .error = on_error, .init = on_init};

/* ---- making and ending ---- */

static bool check_config(const MachineConfig *c, GError **err)
{
    if (c->machine && strcmp(c->machine, "pc")) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-machine %s: no such machine; there is pc",
                    c->machine);
        return false;
    }
    if (c->smp < 1 || c->smp > MACHINE_MAX_CPUS) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-smp %u: from 1 to %d vCPUs are possible",
                    c->smp, MACHINE_MAX_CPUS);
        return false;
    }
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (c->ram_bytes < (1ull << 20) || c->ram_bytes % 4096 || c->ram_bytes > host) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-m: %" G_GUINT64_FORMAT
                    " bytes is not possible: from 1 MiB to this host's memory "
                    "(%" G_GUINT64_FORMAT " MiB), in pages of 4 KiB",
                    c->ram_bytes, host >> 20);
        return false;
    }
    return true;
}

typedef struct InitWork {
    Machine *m;
    GError *err;
} InitWork;

static void vcpu_init_work(Vcpu *v, void *opaque)
{
    InitWork *w = opaque;
    Machine *m = w->m;
    for (unsigned e = 0; e < ENGINE_N && !w->err; e++) {
        if (m->engine[e] && m->engine[e]->vcpu_init)
            m->engine[e]->vcpu_init(v, &w->err);
    }
}

static void vcpu_free_work(Vcpu *v, void *opaque)
{
    Machine *m = opaque;
    for (unsigned e = 0; e < ENGINE_N; e++) {
        if (m->engine[e] && m->engine[e]->vcpu_free)
            m->engine[e]->vcpu_free(v);
    }
}

static bool start_vcpus(Machine *m, GError **err)
{
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        if (!vcpu_loop_start(m->vcpus[i], &hooks, err))
            return false;
        m->vcpus_started++;
        InitWork w = {m, NULL};
        vcpu_run_on(m->vcpus[i], vcpu_init_work, &w);
        if (w.err) {
            g_propagate_error(err, w.err);
            return false;
        }
        accel_vcpu_started(m, m->vcpus[i]);
    }
    return true;
}

static bool load_symbols(Machine *m, GError **err)
{
    m->vm.symbols = m->symbols = symbols_new();
    if (m->cfg.kernel)
        symbols_add_kernel(m->symbols, m->cfg.kernel);
    for (const char *const *s = m->cfg.symbols; s && *s; s++) {
        if (!symbols_add_option(m->symbols, *s, err))
            return false;
    }
    return true;
}

bool machine_record_rip(Machine *m, const char *text, uint64_t *n, GError **err)
{
    vcpus_pause(&m->vm);
    bool ok = !text || leave_irqchip(m, "record-rip", err);
    if (ok)
        ok = text ? rip_record_start(&m->vm, m->symbols, text, err)
                  : rip_record_stop(&m->vm, n, err);
    vcpus_resume(&m->vm);
    return ok;
}

static void end_record(Machine *m)
{
    g_autoptr(GError) err = NULL;
    uint64_t n;
    if (m->vm.rip_record && !rip_record_stop(&m->vm, &n, &err))
        warn_user("%s", err->message);
}

static bool open_trace(Machine *m, GError **err)
{
    if (!m->cfg.trace_engines)
        return true;
    m->vm.trace = engine_trace_open(m->cfg.trace_engines, m->cfg.name, m->symbols, err);
    return m->vm.trace != NULL;
}

static const Engine *policy_engine(void *m, const char *name, GError **err)
{
    return machine_engine(m, name, err);
}

static bool load_policies(Machine *m, GError **err)
{
    PolicyEnv env = {&m->vm, m->symbols, policy_engine, m};
    m->policies = policies_new(&env);
    for (const char *const *s = m->cfg.policies; s && *s; s++) {
        g_autoptr(GString) warning = g_string_new(NULL);
        unsigned number;
        if (!policies_add(m->policies, *s, &number, warning, err)) {
            g_prefix_error(err, "-switch: ");
            return false;
        }
        if (warning->len)
            warn_user("-switch %s: %s", *s, g_strchomp(warning->str));
    }
    return !m->cfg.policies || !*m->cfg.policies || leave_irqchip(m, "-switch", err);
}

static bool begin_record(Machine *m, GError **err)
{
    return !m->cfg.record_rip || (leave_irqchip(m, "-record-rip", err) &&
                                  rip_record_start(&m->vm, m->symbols, m->cfg.record_rip, err));
}

bool machine_policy_add(Machine *m, const char *text, unsigned *number, GString *warning,
                        GError **err)
{
    vcpus_pause(&m->vm);
    bool ok = policies_add(m->policies, text, number, warning, err);
    if (ok && !leave_irqchip(m, "a policy", err)) {
        policies_delete(m->policies, *number, NULL);
        ok = false;
    }
    vcpus_resume(&m->vm);
    return ok;
}

bool machine_policy_delete(Machine *m, unsigned number, GError **err)
{
    vcpus_pause(&m->vm);
    bool ok = policies_delete(m->policies, number, err);
    vcpus_resume(&m->vm);
    return ok;
}

Machine *machine_new(const MachineConfig *cfg, GError **err)
{
    if (!check_config(cfg, err))
        return NULL;
    Machine *m = g_new0(Machine, 1);
    m->cfg = *cfg;
    m->timer_fd = m->ram.fd = m->bios.fd = -1;
    m->status = ST_PRELAUNCH;
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->remap_lock, NULL);
    m->vm.clock = clock_new();
    m->vm.mem = &m->mem;
    m->vm.bus = &machine_bus;
    m->vm.vcpu = m->vcpus;
    m->vm.n_vcpus = cfg->smp;
    m->vm.jit_code_bytes = (size_t)cfg->tb_mib << 20;
    m->board = (Board){
        .clock = m->vm.clock,
        .pio = io_space_new("pio", 0x10000),
        .mmio = io_space_new("mmio", BIT(52)),
        .mem = &m->mem,
        .opaque = m,
        .reset = board_reset,
        .poweroff = board_poweroff,
        .debug_exit = board_debug_exit,
        .set_a20 = board_set_a20,
        .dma_wrote = board_dma_wrote,
        .remap = memory_remap,
    };
    m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    g_assert(m->timer_fd >= 0);
    timers_set_notify(m->vm.clock, timers_moved, m);
    for (unsigned i = 0; i < cfg->smp; i++) {
        Vcpu *v = vcpu_alloc(err);
        if (!v)
            goto fail;
        v->id = (int)i;
        v->vm = &m->vm;
        v->machine = m;
        v->where = ST_CANONICAL;
        m->vcpus[i] = v;
    }
    if (!load_symbols(m, err) || !memory_init(m, err))
        goto fail;
    memory_map_build(m);
    if (!accel_init(m, err))
        goto fail;
    for (unsigned i = 0; i < cfg->smp; i++)
        m->vcpus[i]->engine = m->first;
    if (!pc_init(m, err))
        goto fail;
    memory_map_build(m);
    if (!open_trace(m, err) || !start_vcpus(m, err) || !irqchip_init(m, err) ||
        !reset_all(m, err) || !load_policies(m, err) || !begin_record(m, err))
        goto fail;
    m->timer_source = g_unix_fd_source_new(m->timer_fd, G_IO_IN);
    g_source_set_priority(m->timer_source, G_PRIORITY_HIGH);
    g_source_set_callback(m->timer_source, G_SOURCE_FUNC(timer_fd_ready), m, NULL);
    /* It never runs the loop itself. GLib need not take it out of the loop meanwhile, which wakes
     * that twice. */
    g_source_set_can_recurse(m->timer_source, TRUE);
    g_source_attach(m->timer_source, NULL);
    return m;
fail:
    machine_free(m);
    return NULL;
}

bool machine_start(Machine *m, GError **err)
{
    if (m->cfg.start_paused)
        m->status = ST_PRELAUNCH;
    else
        machine_cont(m);
    return true;
}

int machine_main_loop(Machine *m)
{
    if (!m->ended) {
        m->loop = g_main_loop_new(NULL, FALSE);
        g_main_loop_run(m->loop);
        g_main_loop_unref(m->loop);
        m->loop = NULL;
    }
    return m->exit_status;
}

void machine_free(Machine *m)
{
    if (!m)
        return;
    m->ended = true;
    machine_stop(m);
    accel_stop(m);
    for (unsigned i = 0; i < m->vcpus_started; i++) {
        vcpu_run_on(m->vcpus[i], vcpu_free_work, m);
        vcpu_loop_join(m->vcpus[i]);
    }
    while (g_idle_remove_by_data(m))
        ;
    irq0_free(m);
    pit_free(m);
    if (m->timer_source) {
        g_source_destroy(m->timer_source);
        g_source_unref(m->timer_source);
    }
    end_record(m);
    policies_free(m->policies);
    engine_trace_close(m->vm.trace);
    pc_free(m);
    accel_free(m);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        vcpu_release(m->vcpus[i]);
    io_space_free(m->board.pio);
    io_space_free(m->board.mmio);
    memory_free(m);
    clock_free(m->vm.clock);
    symbols_free(m->symbols);
    close(m->timer_fd);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->remap_lock);
    g_free(m);
}

enum RunStatus machine_status(const Machine *m)
{
    return m->status;
}

const char *run_status_name(enum RunStatus s)
{
    static const char *const name[] = {
        [ST_PAUSED] = "paused",
        [ST_RUNNING] = "running",
        [ST_SHUTDOWN] = "paused (shutdown)",
        [ST_INTERNAL_ERROR] = "paused (internal-error)",
        [ST_PRELAUNCH] = "paused (prelaunch)",
    };
    return name[s];
}

/* ---- switching ---- */

typedef struct SwitchWork {
    const Engine *to;
    GError *err;
} SwitchWork;

static void switch_work(Vcpu *v, void *opaque)
{
    SwitchWork *w = opaque;
    vcpu_switch(v, w->to, SWITCH_USER, &w->err);
}

static void events_work(Vcpu *v, void *opaque)
{
    vcpu_take_events(v);
}

/* All of first to last or none. */
static bool move_vcpus(Machine *m, const Engine *to, unsigned first, unsigned last, GError **err)
{
    const Engine *from = m->vcpus[first]->engine;
    for (unsigned i = first; i <= last; i++) {
        SwitchWork w = {to, NULL};
        /* Where KVM has the local APICs, an INIT that came to one of ours is not its business. */
        if (m->vm.irqchip != IRQCHIP_OFF)
            vcpu_run_on(m->vcpus[i], events_work, NULL);
        vcpu_run_on(m->vcpus[i], switch_work, &w);
        if (!w.err)
            continue;
        g_propagate_error(err, w.err);
        for (unsigned back = first; back < i; back++) {
            SwitchWork b = {from, NULL};
            vcpu_run_on(m->vcpus[back], switch_work, &b);
            g_clear_error(&b.err);
        }
        return false;
    }
    return true;
}

bool machine_switch(Machine *m, const Engine *to, int cpu, GError **err)
{
    if (cpu >= (int)m->vm.n_vcpus) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "no cpu %d; there are 0 to %u", cpu,
                    m->vm.n_vcpus - 1);
        return false;
    }
    accel_moved(m);
    if (!to->is_software)
        kvm_wait_ready(&m->vm); /* the vCPUs run on meanwhile */
    /* All or none, at one moment: the others wait at a boundary until every one has moved. One by
     * itself moves while the others run (kvm/guard.c). */
    unsigned first = cpu < 0 ? 0 : (unsigned)cpu,
             last = cpu < 0 ? m->vm.n_vcpus - 1 : (unsigned)cpu;
    const Engine *from = m->vcpus[first]->engine;
    bool all = first == 0 && last == m->vm.n_vcpus - 1;
    if (!all) {
        bool crosses = from->is_software != to->is_software, ok = true;
        if (crosses && m->vm.irqchip != IRQCHIP_OFF) {
            vcpus_pause(&m->vm);
            ok = leave_irqchip(m, "a switch of one vCPU", err);
            vcpus_resume(&m->vm);
        }
        return ok && move_vcpus(m, to, first, last, err);
    }
    vcpus_pause(&m->vm);
    bool ok = irqchip_home(m, err);
    pvclock_read(m);
    m->vm.moving = true;
    ok = ok && move_vcpus(m, to, first, last, err);
    if (m->status == ST_RUNNING && !send_chips_out(m, ok ? err : NULL)) {
        if (ok && !move_vcpus(m, from, first, last, NULL))
            fail_running(m);
        ok = false;
    }
    m->vm.moving = false;
    vcpus_resume(&m->vm);
    return ok;
}
