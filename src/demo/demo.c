/*
 * Host side of the demo: switches the vCPU while the guest works, and checks everything the guest
 * says.
 *
 * Checks: each checksum equals the one computed here; the guest's TSC never goes back and is the
 * machine's to within 1 ms; PIT ticks keep up with the machine's clock. Reports arrive on
 * the vCPU's thread with the machine lock held; the account is printed from the main thread.
 */
#include "demo/demo.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "demo/demo_ports.h"
#include "kvm/kvm.h"
#include "machine/machine.h"
#include "switch/vcpu_loop.h"

extern const uint8_t demo_image[], demo_image_end[];

#define SECONDS_PER_MODE 2
#define STORM_PAUSE_US   100
#define TSC_TOLERANCE_NS 1000000
#define TICK_NS          10000000ull
/* Ticks short of what is due that are just late, and how long more of them may stay short: so long,
 * in time and in work of a guest that the host hardly lets run. */
#define TICKS_SHORT_MAX 25
#define CATCH_UP_NS     (3 * NS_PER_S)
#define CATCH_UP_ROUNDS 2000

typedef struct Demo {
    const DemoOptions *opt;
    Machine *m;
    Vcpu *v;
    /* Model of the guest's computation. */
    uint32_t sum, buffer[DEMO_WORDS];
    /* What the guest reported; under the machine lock, but for what the main thread looks at. */
    _Atomic int mode;
    uint64_t rounds, mode_switches[3];
    _Atomic uint64_t mode_rounds[3];
    uint64_t tsc, tsc_lo, tsc_floor, tsc_ceiling;
    uint64_t ticks, late_ticks, ticks_start_ns, short_since_ns, short_since_round;
    _Atomic bool mode_over, ended;
    uint64_t worst_tsc_ns, wrong_sums, backward, far_off, lost_ticks;
    char first_wrong[160];
    /* Main thread. */
    const Engine *a, *b;
    uint64_t switches, per_mode, started_ns;
    guint source;
    int status;
} Demo;

static const char *mode_name(int mode)
{
    return mode == 16 ? "real" : mode == 32 ? "protected" : mode == 64 ? "long" : "start-up";
}

static int mode_index(int mode)
{
    return mode == 64 ? 2 : mode == 32 ? 1 : 0;
}

static void wrong(Demo *d, uint64_t *counter, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
static void wrong(Demo *d, uint64_t *counter, const char *fmt, ...)
{
    (*counter)++;
    if (d->first_wrong[0])
        return;
    va_list ap;
    va_start(ap, fmt);
    g_vsnprintf(d->first_wrong, sizeof(d->first_wrong), fmt, ap);
    va_end(ap);
}

/* The same round as ROUNDS in guest.S. */
static uint32_t model_round(Demo *d)
{
    uint32_t a = d->sum;
    uint64_t carry_sum = 0;
    for (unsigned i = 0; i < DEMO_WORDS; i++) {
        a ^= d->buffer[i];
        a = (a << 7 | a >> 25) + 0x9e3779b9u;
        d->buffer[i] = a;
        carry_sum += a;
    }
    a ^= (uint32_t)carry_sum + (uint32_t)(carry_sum >> 32);
    return d->sum = a * 0x85ebca6bu;
}

/* The guest read its TSC between two port accesses of which we know the time: it must lie between
 * them. */
static void report_tsc(Demo *d, uint64_t tsc)
{
    if (tsc < d->tsc)
        wrong(d, &d->backward, "the TSC went back from %" PRIu64 " to %" PRIu64, d->tsc, tsc);
    d->tsc = tsc;
    uint64_t off = tsc < d->tsc_floor     ? d->tsc_floor - tsc
                   : tsc > d->tsc_ceiling ? tsc - d->tsc_ceiling
                                          : 0;
    uint64_t ns = off * 1000000 / clock_tsc_khz(machine_vm(d->m)->clock);
    d->worst_tsc_ns = MAX_OF(d->worst_tsc_ns, ns);
    if (ns > TSC_TOLERANCE_NS)
        wrong(d, &d->far_off, "the guest's TSC is %" PRIu64 " us from the machine's", ns / 1000);
}

/* Ticks that a busy host delayed follow later, faster than their time: what is neither there nor
 * still owed is lost, and a shortage must be gone soon. */
static void report_ticks(Demo *d, uint32_t ticks)
{
    uint64_t now = clock_ns(machine_vm(d->m)->clock);
    uint64_t owed = machine_ticks_owed(d->m);
    if (owed == UINT64_MAX) { /* nobody can tell: what is there is what counts from here on */
        d->ticks = ticks;
        d->ticks_start_ns = 0;
        return;
    }
    if (!d->ticks_start_ns)
        d->ticks_start_ns = now - (ticks + owed) * TICK_NS;
    uint64_t due = (now - d->ticks_start_ns) / TICK_NS;
    d->ticks = ticks;
    d->late_ticks = MAX_OF(d->late_ticks, owed);
    /* One may have been raised and not be taken yet, one be between the clocks' roundings. */
    if (!d->opt->rounds && ticks + owed + 3 < due) {
        wrong(d, &d->lost_ticks, "of %" PRIu64 " timer ticks %u arrived and %" PRIu64 " are owed",
              due, ticks, owed);
        d->ticks_start_ns += (due - ticks - owed) * TICK_NS; /* count each once */
    }
    /* The same two may have been missing at the first look, and a rounding comes to it. */
    if (ticks > due + 3)
        wrong(d, &d->lost_ticks, "%u timer ticks arrived where only %" PRIu64 " were due", ticks,
              due);
    /* Who is stepped may be slower than the ticks come. */
    if (d->opt->rounds || ticks + TICKS_SHORT_MAX >= due) {
        d->short_since_ns = 0;
    } else if (!d->short_since_ns) {
        d->short_since_ns = now;
        d->short_since_round = d->rounds;
    } else if (now - d->short_since_ns > CATCH_UP_NS &&
               d->rounds - d->short_since_round > CATCH_UP_ROUNDS) {
        wrong(d, &d->lost_ticks, "%u timer ticks arrived where %" PRIu64 " were due", ticks, due);
        d->short_since_ns = now; /* count a loss that lasts once per period */
    }
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Demo *d = opaque;
    switch (offset + DEMO_PORT_BASE) {
    case DEMO_PORT_MODE:
        d->mode = (int)value;
        d->mode_over = false;
        d->ended = value == 0;
        break;
    case DEMO_PORT_SUM: {
        uint32_t want = model_round(d);
        d->tsc_floor = vcpu_clock_tsc(d->v);
        d->rounds++;
        if (++d->mode_rounds[mode_index(d->mode)] == d->opt->rounds)
            d->mode_over = true;
        if (value != want)
            wrong(d, &d->wrong_sums, "checksum %08x instead of %08x in round %" PRIu64 " (%s mode)",
                  (uint32_t)value, want, d->rounds, mode_name(d->mode));
        break;
    }
    case DEMO_PORT_TSC_LO:
        d->tsc_lo = (uint32_t)value;
        d->tsc_ceiling = vcpu_clock_tsc(d->v);
        break;
    case DEMO_PORT_TSC_HI:
        report_tsc(d, value << 32 | d->tsc_lo);
        break;
    case DEMO_PORT_TICKS:
        report_ticks(d, (uint32_t)value);
        break;
    }
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    Demo *d = opaque;
    return offset + DEMO_PORT_BASE == DEMO_PORT_COMMAND && d->mode_over;
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .min = 4, .max = 4};

static void account(Demo *d)
{
    if (d->opt->quiet)
        return;
    machine_lock(d->m);
    printf("%6.2f s  %-9s mode in %-6s  %8" PRIu64 " rounds  %6" PRIu64
           " ticks  tsc within %4" PRIu64 " us  %" PRIu64 " switches%s\n",
           (double)(clock_ns(machine_vm(d->m)->clock) - d->started_ns) / 1e9, mode_name(d->mode),
           d->v->engine->name, d->rounds, d->ticks, d->worst_tsc_ns / 1000, d->switches,
           d->first_wrong[0] ? "  WRONG" : "");
    machine_unlock(d->m);
    fflush(stdout);
}

typedef struct ForcedSwitch {
    GError *err;
    const Engine *to;
} ForcedSwitch;

static void switch_here(Vcpu *v, void *opaque)
{
    ForcedSwitch *w = opaque;
    if (w->to == v->engine)
        vcpu_switch_forced(v, w->to, SWITCH_TEST, &w->err);
    else
        vcpu_switch(v, w->to, SWITCH_TEST, &w->err);
}

static bool one_switch(Demo *d)
{
    ForcedSwitch w = {.to = d->v->engine == d->a ? d->b : d->a};
    if (!w.to->is_software)
        kvm_wait_ready(machine_vm(d->m));
    if (machine_vm(d->m)->irqchip != IRQCHIP_OFF)
        machine_switch(d->m, w.to, -1, &w.err); /* the interrupt controllers go along */
    else
        vcpu_run_on(d->v, switch_here, &w);
    if (w.err) {
        fprintf(stderr, "tandem: demo: the switch failed: %s\n", w.err->message);
        g_error_free(w.err);
        d->status = 1;
        machine_request_quit(d->m, 1);
        return false;
    }
    machine_lock(d->m);
    d->switches++;
    d->mode_switches[mode_index(d->mode)]++;
    machine_unlock(d->m);
    return true;
}

/* As fast as it can, in slices, so that the main loop goes on serving timers. */
static gboolean storm(gpointer opaque)
{
    Demo *d = opaque;
    static uint64_t last_account;
    if (d->ended) {
        machine_request_quit(d->m, d->status);
        return G_SOURCE_REMOVE;
    }
    if (!d->mode || d->mode_over)
        return G_SOURCE_CONTINUE;
    /* Between two switches the guest runs: without this the vCPU would do nothing but switch. */
    g_usleep(STORM_PAUSE_US);
    if (!one_switch(d))
        return G_SOURCE_REMOVE;
    int i = mode_index(d->mode);
    uint64_t now = clock_ns(machine_vm(d->m)->clock);
    if (now - last_account > NS_PER_S) {
        last_account = now;
        account(d);
    }
    /* A mode ends when it had its switches and enough rounds to have been at work in both engines.
     */
    if (d->mode_switches[i] >= d->per_mode && d->mode_rounds[i] >= 8) {
        machine_lock(d->m);
        d->mode_over = true;
        machine_unlock(d->m);
    }
    return G_SOURCE_CONTINUE;
}

static gboolean twice_a_second(gpointer opaque)
{
    Demo *d = opaque;
    if (d->ended) {
        machine_request_quit(d->m, d->status);
        return G_SOURCE_REMOVE;
    }
    account(d);
    if (d->mode && !one_switch(d))
        return G_SOURCE_REMOVE;
    if (d->mode_switches[mode_index(d->mode)] >= SECONDS_PER_MODE * 2) {
        machine_lock(d->m);
        d->mode_over = true;
        machine_unlock(d->m);
    }
    return G_SOURCE_CONTINUE;
}

/* DemoOptions.rounds: the guest goes through its modes by itself. */
static gboolean wait_for_end(gpointer opaque)
{
    Demo *d = opaque;
    if (!d->ended)
        return G_SOURCE_CONTINUE;
    machine_request_quit(d->m, d->status);
    return G_SOURCE_REMOVE;
}

static void add_source(Demo *d)
{
    if (d->opt->rounds)
        d->source = g_timeout_add(50, wait_for_end, d);
    else if (d->opt->switches)
        d->source = g_idle_add(storm, d);
    else
        d->source = g_timeout_add(500, twice_a_second, d);
}

static void print_line(const char *name, const LatencyHist *h)
{
    printf("  %-28s  %10.2f %10.2f %10.2f\n", name, (double)latency_percentile(h, 50) / 1e3,
           (double)latency_percentile(h, 99) / 1e3, (double)h->max_ns / 1e3);
}

static void print_latency(Demo *d)
{
    const SwitchStats *s = vcpu_switch_stats(d->v);
    printf("switch latency, microseconds:   %10s %10s %10s\n", "p50", "p99", "max");
    for (int i = 0; i < STEP_N; i++)
        print_line(switch_step_name[i], &s->step[i]);
    print_line("whole switch", &s->total);
    if (s->into_kvm.count) {
        print_line("out of KVM", &s->out_of_kvm);
        print_line("into KVM", &s->into_kvm);
    }
}

static int verdict(Demo *d)
{
    bool all_modes = d->mode_rounds[0] && d->mode_rounds[1] && d->mode_rounds[2];
    uint64_t failures = d->wrong_sums + d->backward + d->far_off + d->lost_ticks;
    printf("demo: %" PRIu64 " switches (real %" PRIu64 ", protected %" PRIu64 ", long %" PRIu64
           "), %" PRIu64 " rounds, %" PRIu64 " ticks, at most %" PRIu64 " of them late: ",
           d->switches, d->mode_switches[0], d->mode_switches[1], d->mode_switches[2], d->rounds,
           d->ticks, d->late_ticks);
    if (failures || !d->ended || !all_modes || d->status) {
        printf("FAILED\n");
        printf("demo: %" PRIu64 " wrong checksums, TSC back %" PRIu64 " times, off %" PRIu64
               " times, ticks lost %" PRIu64 " times%s\n",
               d->wrong_sums, d->backward, d->far_off, d->lost_ticks,
               d->ended ? "" : "; the guest did not reach its end");
        if (d->first_wrong[0])
            printf("demo: first: %s\n", d->first_wrong);
        return 1;
    }
    printf("every check held\n");
    return 0;
}

static bool choose_engines(Demo *d)
{
    GError *err = NULL;
    d->b = machine_engine(d->m, "tcg", &err);
    if (!d->b) {
        fprintf(stderr, "tandem: demo: %s\n", err->message);
        g_error_free(err);
        return false;
    }
    d->a = machine_engine(d->m, "kvm", &err);
    if (!d->a) {
        printf("demo: no KVM here (%s):\ndemo: switching between the interpreter and itself\n",
               err->message);
        g_clear_error(&err);
        d->a = d->b;
    }
    return true;
}

int demo_run(const DemoOptions *opt)
{
    Demo d = {.opt = opt, .sum = 0x12345678, .per_mode = (opt->switches + 2) / 3};
    MachineConfig cfg = {
        .machine = "pc",
        .accel = opt->accel ? opt->accel : "kvm:tcg",
        .kernel_irqchip = opt->kernel_irqchip,
        .kernel_pit = opt->kernel_pit,
        .ram_bytes = 16 << 20,
        .smp = 1,
        .bios_image = demo_image,
        .bios_image_size = (size_t)(demo_image_end - demo_image),
        .no_reboot = true,
    };
    GError *err = NULL;
    d.m = machine_new(&cfg, &err);
    if (!d.m) {
        fprintf(stderr, "tandem: demo: %s\n", err->message);
        g_error_free(err);
        return 1;
    }
    d.v = machine_vm(d.m)->vcpu[0];
    machine_lock(d.m);
    io_map(machine_board(d.m)->pio, DEMO_PORT_BASE, DEMO_PORT_LEN, &port_ops, &d, "demo");
    machine_unlock(d.m);
    int status = 1;
    if ((opt->rounds || choose_engines(&d)) &&
        (!opt->prepare || opt->prepare(d.m, opt->opaque, &err)) && machine_start(d.m, &err)) {
        d.started_ns = clock_ns(machine_vm(d.m)->clock);
        add_source(&d);
        status = machine_main_loop(d.m);
        machine_stop(d.m);
        if (!opt->finish || opt->finish(d.m, opt->opaque)) {
            account(&d);
            if (opt->switches)
                print_latency(&d);
            status = verdict(&d) || status;
        }
    }
    if (err) {
        fprintf(stderr, "tandem: demo: %s\n", err->message);
        g_error_free(err);
    }
    machine_free(d.m);
    return status;
}
