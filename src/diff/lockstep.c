/* tandem diff lockstep: options, the machine, progress, and the end. */
#include "diff/lockstep.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/log.h"
#include "demo/demo.h"
#include "diff/modes.h"
#include "options/options.h"
#include "switch/vcpu_loop.h"

#define DEFAULT_SAVE "lockstep.state"
/* REPLAYS: a translator leaves code to the interpreter until it has seen it often. */
enum {
    DEMO_ROUNDS = 32,
    QUIET_SECONDS = 10,
    REPLAYS = 200,
    CHAINED_EVERY = 10000,
    SLOW_MAX = 1000
};

typedef struct Mode {
    /* What was asked for. */
    char *engines, *every, *max, *save, *load;
    gboolean explain, chained;
    char *seed, *switch_every;
    int turn, slow;
    const Engine *engine[SIDES];
    bool engines_given;
    LsOptions opt;
    /* The run. */
    Machine *m;
    LsLive *live;
    enum LsResult result;
    bool ended; /* by us, and not by the guest */
    gint64 started;
    unsigned seconds;
    int status;
} Mode;

static bool usage(GError **err, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static bool usage(GError **err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(err, TANDEM_ERROR, ERR_USAGE, text);
    return false;
}

/* ---- options ---- */

static bool read_engines(Mode *mode, GError **err)
{
    g_auto(GStrv) names = g_strsplit(mode->engines ? mode->engines : "interp,kvm", ",", -1);
    if (g_strv_length(names) != SIDES)
        return usage(err, "--engines %s: two names are needed, the leader's and the follower's",
                     mode->engines);
    char *plus = strchr(names[LEADER], '+');
    if (plus) {
        *plus = '\0';
        mode->opt.other = ls_engine(plus + 1, err);
        if (!mode->opt.other) {
            g_prefix_error(err, "--engines: ");
            return false;
        }
        if (!strcmp(names[LEADER], plus + 1))
            return usage(err, "--engines %s: a leader that is switched needs two engines",
                         mode->engines);
    }
    for (unsigned i = 0; i < SIDES; i++) {
        mode->engine[i] = ls_engine(names[i], err);
        if (!mode->engine[i]) {
            g_prefix_error(err, "--engines: ");
            return false;
        }
    }
    return true;
}

static bool read_count(const char *option, const char *text, uint64_t *out, GError **err)
{
    char *end;
    if (!text)
        return true;
    *out = g_ascii_isdigit(*text) ? g_ascii_strtoull(text, &end, 10) : 0;
    if (*out && *end == 'M' && !end[1]) {
        *out *= 1000000;
        return true;
    }
    return (*out && !*end && *out < 1ull << 62) ||
           usage(err, "%s %s: not a number of instructions, such as 1000 or 2M", option, text);
}

/* No KVM has a part in it. */
static bool all_soft(const Mode *mode)
{
    return mode->engine[LEADER]->is_software && mode->engine[FOLLOWER]->is_software &&
           (!mode->opt.other || mode->opt.other->is_software);
}

static bool read_switches(Mode *mode, GError **err)
{
    const char *given = mode->switch_every ? "--switch-every" : mode->seed ? "--seed" : NULL;
    if (given && !mode->opt.other)
        return usage(err,
                     "%s: nothing is switched; --engines jit+interp,interp switches the leader "
                     "between jit and interp",
                     given);
    mode->opt.switch_every = all_soft(mode) ? 1000 : 50;
    mode->opt.seed = 1;
    if (mode->seed &&
        !g_ascii_string_to_unsigned(mode->seed, 10, 0, UINT64_MAX, &mode->opt.seed, NULL))
        return usage(err, "--seed %s: not a number", mode->seed);
    return read_count("--switch-every", mode->switch_every, &mode->opt.switch_every, err);
}

static bool read_every(Mode *mode, GError **err)
{
    bool soft = all_soft(mode);
    if (!mode->every)
        mode->opt.every = soft ? 0 : 1;
    else if (!strcmp(mode->every, "insn"))
        mode->opt.every = 1;
    else if (!strcmp(mode->every, "block"))
        mode->opt.every = 0;
    else if (!read_count("--every", mode->every, &mode->opt.every, err))
        return false;
    if (!soft && mode->opt.every != 1)
        return usage(err, "--every %s: KVM steps by one instruction; leave it out, or say insn",
                     mode->every);
    if (mode->chained && mode->load)
        return usage(err, "--chained: what was saved is done again by blocks");
    if (mode->chained) {
        if (mode->engine[LEADER] != &engine_jit || mode->opt.other || !soft)
            return usage(err, "--chained: it is jit's code that is joined: --engines jit,interp");
        if (!mode->every)
            mode->opt.every = CHAINED_EVERY;
        else if (mode->opt.every <= 1)
            return usage(err,
                         "--every %s: with --chained a step is of many blocks; say how many "
                         "instructions, or leave it out",
                         mode->every);
        mode->opt.chained = true;
    }
    if (mode->opt.every > 1000000)
        return usage(err, "--every %s: at most 1000000 instructions", mode->every);
    return true;
}

static bool read_options(Mode *mode, int *argc, char ***argv, GError **err)
{
    const GOptionEntry entries[] = {
        {"engines", 0, 0, G_OPTION_ARG_STRING, &mode->engines,
         "Two of interp, jit and kvm (default: interp,kvm); a LEADER A+B is switched between two",
         "LEADER,FOLLOWER"},
        {"switch-every", 0, 0, G_OPTION_ARG_STRING, &mode->switch_every,
         "With A+B: instructions between two switches, on average (1000; with KVM 50)", "N"},
        {"seed", 0, 0, G_OPTION_ARG_STRING, &mode->seed, "Decides when they come (1)", "N"},
        {"every", 0, 0, G_OPTION_ARG_STRING, &mode->every,
         "Compare after each insn, block, or so many instructions (with KVM: insn)", "WHAT"},
        {"chained", 0, 0, G_OPTION_ARG_NONE, &mode->chained,
         "jit's code runs as it does by itself: blocks joined, traces, loops; a step is --every N "
         "(10000) instructions and on to where it looks for requests",
         NULL},
        {"slow", 0, 0, G_OPTION_ARG_INT, &mode->slow,
         "Software engines: guest time runs N times slower than the host's (1), so that a guest "
         "has "
         "time for its timer's interrupts",
         "N"},
        {"turn", 0, 0, G_OPTION_ARG_INT, &mode->turn,
         "With -smp: so many steps of a vCPU, then of the next (1)", "N"},
        {"max", 0, 0, G_OPTION_ARG_STRING, &mode->max,
         "End after so many instructions (2M: 2000000)", "N"},
        {"save", 0, 0, G_OPTION_ARG_FILENAME, &mode->save,
         "Where a divergence is saved (" DEFAULT_SAVE ")", "FILE"},
        {"load", 0, 0, G_OPTION_ARG_FILENAME, &mode->load,
         "Do again what was saved, without a machine", "FILE"},
        {"explain", 0, 0, G_OPTION_ARG_NONE, &mode->explain,
         "List the differences that are no divergence, with the reasons", NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) c = g_option_context_new("[-- MACHINE OPTIONS]");
    g_option_context_set_summary(
        c, "Runs a guest in two engines side by side and stops where they differ.\n"
           "The leader has the machine; the follower is given what the leader's devices, "
           "interrupts and clock gave.\n"
           "Machine options are tandem's own: -kernel, -bios, -m, -append ... or -demo.");
    g_option_context_add_main_entries(c, entries, NULL);
    if (!g_option_context_parse(c, argc, argv, err))
        return false;
    if (*argc > 1)
        return usage(err, "'%s': the guest's options come behind --", (*argv)[1]);
    mode->engines_given = mode->engines;
    if (mode->turn < 1)
        return usage(err, "--turn %d: 1 or more", mode->turn);
    if (mode->slow < 1 || mode->slow > SLOW_MAX)
        return usage(err, "--slow %d: 1 to %d", mode->slow, SLOW_MAX);
    mode->opt.turn = (unsigned)mode->turn;
    return read_engines(mode, err) && read_count("--max", mode->max, &mode->opt.max, err) &&
           read_every(mode, err) && read_switches(mode, err);
}

/* ---- while it runs ---- */

static gboolean progress(gpointer opaque)
{
    Mode *mode = opaque;
    uint64_t insns = ls_live_insns(mode->live);
    bool tty = isatty(STDERR_FILENO);
    mode->seconds++;
    ls_live_watch(mode->live);
    if (!tty && mode->seconds % QUIET_SECONDS)
        return G_SOURCE_CONTINUE;
    double s = (double)(g_get_monotonic_time() - mode->started) / 1e6;
    fprintf(stderr, "%slockstep: %" PRIu64 " instructions, %.0f/s%s", tty ? "\r" : "", insns,
            (double)insns / s, tty ? "  " : "\n");
    return G_SOURCE_CONTINUE;
}

/* On the vCPU's thread. */
static void on_done(void *opaque, enum LsResult r)
{
    Mode *mode = opaque;
    mode->result = r;
    mode->ended = true;
    machine_request_quit(mode->m, 0);
}

static bool prepare(Machine *m, void *opaque, GError **err)
{
    Mode *mode = opaque;
    mode->m = m;
    mode->live = ls_live_new(machine_vm(m), mode->engine[LEADER], mode->engine[FOLLOWER],
                             &mode->opt, on_done, mode, err);
    if (!mode->live)
        return false;
    machine_watch_dma(m, ls_live_dma, mode->live);
    if (mode->slow > 1)
        clock_slow(machine_vm(m)->clock, (unsigned)mode->slow);
    mode->started = g_get_monotonic_time();
    return true;
}

/* ---- the end ---- */

static void save(Mode *mode, Lockstep *ls, const char *report)
{
    const char *path = mode->save ? mode->save : DEFAULT_SAVE;
    GError *err = NULL;
    if (ls_save(ls, path, report, &err)) {
        printf("saved: tandem diff lockstep --load %s does it again%s\n", path,
               ls->opt.chained ? ", by blocks" : "");
        return;
    }
    warn_user("lockstep: the divergence could not be saved: %s", err->message);
    g_error_free(err);
    mode->status = 2;
}

static void diverged(Mode *mode, Lockstep *ls)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GString) narrow = g_string_new(NULL);
    mode->status = 1;
    ls_report(ls, text);
    if (mode->live && ls_live_vcpus(mode->live) > 1)
        printf("cpu %d:\n", ls->side[LEADER].v->id);
    fputs(text->str, stdout);
    if (mode->load)
        return;
    if (mode->live && ls_live_vcpus(mode->live) > 1) {
        puts("not saved: what the other vCPUs wrote would be missing when it is done again");
        return;
    }
    save(mode, ls, text->str);
    if (!ls->by_full && ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]))
        ls_narrow(ls, narrow);
    fputs(narrow->str, stdout);
}

static void conclude(Mode *mode, Lockstep *ls)
{
    g_autoptr(GString) text = g_string_new(NULL);
    double s = (double)(g_get_monotonic_time() - mode->started) / 1e6;
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (!mode->ended && ls->steps) {
        ls_compare_all(ls);
        mode->result = ls->diverged ? LS_DIVERGED : LS_OK;
    }
    uint64_t insns = mode->live ? ls_live_insns(mode->live) : ls->insns;
    if (mode->live && ls_live_vcpus(mode->live) > 1)
        for (unsigned i = 0; i < ls_live_vcpus(mode->live); i++) {
            g_string_append_printf(text, "cpu %u:\n", i);
            ls_summary(ls_live_vcpu(mode->live, i), s, text);
        }
    else
        ls_summary(ls, s, text);
    fputs(text->str, stdout);
    if (mode->result == LS_DIVERGED) {
        diverged(mode, ls);
    } else if (mode->result == LS_ERROR) {
        warn_user("lockstep: after %" PRIu64 " instructions: %s", insns, ls->why);
        mode->status = 2;
    }
    printf("lockstep: %s after %" PRIu64 " instructions\n",
           mode->result == LS_DIVERGED ? "DIVERGENCE"
           : mode->result == LS_ERROR  ? "error"
                                       : "no divergence",
           insns);
    fflush(stdout);
}

static void conclude_work(Vcpu *v, void *opaque)
{
    Mode *mode = opaque;
    conclude(mode, ls_live_state(mode->live));
}

/* The machine has stopped. False: because we ended it. */
static bool finish(Machine *m, void *opaque)
{
    Mode *mode = opaque;
    machine_watch_dma(m, NULL, NULL);
    vcpu_run_on(ls_live_state(mode->live)->side[LEADER].v, conclude_work, mode);
    ls_live_free(mode->live);
    mode->live = NULL;
    return !mode->ended;
}

/* ---- a machine ---- */

static gboolean on_signal(gpointer opaque)
{
    Mode *mode = opaque;
    if (mode->m)
        machine_request_quit(mode->m, 0);
    return G_SOURCE_CONTINUE;
}

static gboolean progress_when_live(gpointer opaque)
{
    Mode *mode = opaque;
    return mode->live ? progress(mode) : G_SOURCE_CONTINUE;
}

static const char *accel(const Mode *mode)
{
    if (mode->engine[LEADER] == &engine_kvm || mode->opt.other == &engine_kvm)
        return "kvm";
    return mode->engine[FOLLOWER] == &engine_kvm ? "tcg" : "interp";
}

static bool check_machine(const Mode *mode, const Options *o, GError **err)
{
    bool soft = all_soft(mode);
    if (o->cfg.smp > 1 && !soft)
        return usage(err,
                     "-smp %u: with KVM lockstep compares one vCPU; interp and jit can take "
                     "turns",
                     o->cfg.smp);
    if (mode->slow > 1 && !soft)
        return usage(err, "--slow: KVM's guest reads the processor's clock by itself");
    if (o->cfg.accel)
        return usage(err, "-accel %s: --engines says which engines there are", o->cfg.accel);
    if (o->cfg.kernel_irqchip && strcmp(o->cfg.kernel_irqchip, "off") != 0)
        return usage(err,
                     "-machine kernel-irqchip=%s: interrupts are handed to both engines, at the "
                     "same instruction; none come from KVM",
                     o->cfg.kernel_irqchip);
    if (o->cfg.kernel_pit)
        return usage(err, "-machine kernel-pit=on: the PIT has to stay out of KVM, which would "
                          "raise its ticks by itself");
    if (o->monitor_given)
        return usage(err, "-monitor: a monitor could change the guest behind the follower's back");
    if (o->switches_given)
        return usage(err, "-switches: nothing is switched here");
    return true;
}

static bool run_options(Mode *mode, Options *o, GError **err)
{
    o->cfg.accel = accel(mode);
    o->cfg.ram_file = true;
    o->cfg.kernel_irqchip = "off";
    if (!options_open(o, err))
        return false;
    mode->m = machine_new(&o->cfg, err);
    if (!mode->m)
        return false;
    bool ok = prepare(mode->m, mode, err) && machine_start(mode->m, err);
    if (ok) {
        machine_main_loop(mode->m);
        machine_stop(mode->m);
    }
    if (mode->live)
        finish(mode->m, mode);
    machine_free(mode->m);
    mode->m = NULL;
    return ok;
}

static int run_machine(Mode *mode, int argc, char *argv[], GError **err)
{
    Options o;
    guint sources[] = {g_unix_signal_add(SIGINT, on_signal, mode),
                       g_unix_signal_add(SIGTERM, on_signal, mode),
                       g_timeout_add(1000, progress_when_live, mode)};
    bool ok = options_parse(&o, argc, argv, err) && (!o.log || log_set(o.log, err)) &&
              (!o.log_file || log_to_file(o.log_file, err));
    if (ok && o.print) {
        fputs(o.print->str, stdout);
    } else if (ok && check_machine(mode, &o, err)) {
        if (o.demo) {
            DemoOptions demo = {.accel = accel(mode),
                                .kernel_irqchip = "off",
                                .rounds = DEMO_ROUNDS,
                                .prepare = prepare,
                                .finish = finish,
                                .opaque = mode};
            int status = demo_run(&demo);
            if (status && !mode->status)
                mode->status = 2;
        } else {
            run_options(mode, &o, err);
        }
        options_close(&o);
    }
    options_clear(&o);
    for (unsigned i = 0; i < ARRAY_LEN(sources); i++)
        g_source_remove(sources[i]);
    return mode->status;
}

/* ---- a file ---- */

static int run_file(Mode *mode, GError **err)
{
    g_autoptr(GString) report = g_string_new(NULL);
    Lockstep *ls = ls_load(mode->load, mode->engines_given ? mode->engine[LEADER] : NULL,
                           mode->engines_given ? mode->engine[FOLLOWER] : NULL, report, err);
    if (!ls)
        return 2;
    bool full = ls->by_full;
    ls->by_full = false;
    mode->started = g_get_monotonic_time();
    printf("saved was:\n%s\n", report->str);
    bool soft = ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]);
    mode->result = ls_replay(ls, 0, full);
    for (unsigned n = 1; n < REPLAYS && soft && !full && mode->result == LS_OK; n++)
        mode->result = ls_rewind(ls, err) ? ls_replay(ls, 0, full) : LS_ERROR;
    mode->ended = true;
    conclude(mode, ls);
    ls_free_loaded(ls);
    return mode->status;
}

int diff_lockstep(int argc, char *argv[])
{
    Mode mode = {.result = LS_OK, .turn = 1, .slow = 1};
    GError *err = NULL;
    int split = 1;
    while (split < argc && strcmp(argv[split], "--") != 0)
        split++;
    int rest = argc - split;
    char **guest = argv + split; /* "--" stands where the program's name would */
    char **own = g_memdup2(argv, sizeof(*argv) * ((gsize)split + 1));
    own[split] = NULL;
    argc = split;
    char **left = own;
    if (read_options(&mode, &argc, &left, &err)) {
        if (mode.explain) {
            g_autoptr(GString) text = g_string_new(NULL);
            ls_explain_rules(text);
            fputs(text->str, stdout);
        } else if (mode.load && rest > 1) {
            usage(&err, "--load: what is in the file needs no machine options");
        } else if (mode.load) {
            mode.status = run_file(&mode, &err);
        } else if (rest < 2) {
            usage(&err,
                  "no guest: its options come behind --, as in: tandem diff lockstep -- -demo");
        } else {
            mode.status = run_machine(&mode, rest, guest, &err);
        }
    }
    if (err) {
        warn_user("diff lockstep: %s", err->message);
        g_error_free(err);
        mode.status = 2;
    }
    g_free(mode.engines);
    g_free(mode.seed);
    g_free(mode.switch_every);
    g_free(mode.every);
    g_free(mode.max);
    g_free(mode.save);
    g_free(mode.load);
    g_free(own);
    return mode.status;
}
