/* Glue: options to machine, character devices, monitors; signals; the end. */
#include "tandem.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/log.h"
#include "options/options.h"
#include "cli/pidfile.h"
#include "demo/demo.h"
#include "diff/diff.h"
#include "monitor/monitor.h"
#include "switch/record_rip.h"
#include "jit/perf.h"

#define MONITORS_MAX 8

typedef struct Run {
    Options *o;
    Pidfile pidfile;
    Machine *m;
    CharDev *monitor_chr[MONITORS_MAX];
    Monitor *monitor[MONITORS_MAX];
    unsigned n_chr, n_monitors;
    int signal; /* the one that ended us, or 0 */
} Run;

static int complain(GError *err)
{
    warn_user("%s", err->message);
    g_error_free(err);
    return 1;
}

/* ---- signals ---- */

static gboolean told_to_end(Run *r, int sig)
{
    r->signal = sig;
    chardev_stop_waiting();
    if (r->m)
        machine_request_quit(r->m, 0);
    return G_SOURCE_CONTINUE;
}

static gboolean on_sigint(gpointer r)
{
    return told_to_end(r, SIGINT);
}

static gboolean on_sigterm(gpointer r)
{
    return told_to_end(r, SIGTERM);
}

static gboolean on_sighup(gpointer r)
{
    return told_to_end(r, SIGHUP);
}

static void on_mux_quit(void *opaque)
{
    Run *r = opaque;
    if (r->m)
        machine_request_quit(r->m, 0);
}

/* ---- character devices ---- */

static bool open_chardevs(Run *r, GError **err)
{
    Options *o = r->o;
    if (!options_open(o, err))
        return false;
    for (guint i = 0; i < o->monitor->len; i++) {
        const char *spec = g_ptr_array_index(o->monitor, i);
        if (r->n_chr == MONITORS_MAX - MACHINE_SERIALS) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-monitor %s: %u monitors are enough", spec,
                        r->n_chr);
            return false;
        }
        if (!options_open_chardev(&r->monitor_chr[r->n_chr], "monitor", i, spec, err))
            return false;
        if (r->monitor_chr[r->n_chr])
            r->n_chr++;
    }
    return true;
}

static void make_monitors(Run *r)
{
    for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
        CharDev *cd = r->o->cfg.serial[i];
        if (chardev_is_mux(cd)) /* the serial port is its first front end */
            r->monitor[r->n_monitors++] = monitor_new(r->m, cd, 1);
    }
    for (unsigned i = 0; i < r->n_chr; i++)
        r->monitor[r->n_monitors++] = monitor_new(r->m, r->monitor_chr[i], 0);
}

/* ---- the run ---- */

/* For -perfmap and -jitdump. */
static bool has_translator(Machine *m, GError **err)
{
    const Engine *jit = machine_engine(m, "jit", err);
    if (!jit)
        g_prefix_error(err, "-perfmap, -jitdump: ");
    else if (machine_vm(m)->vcpu[0]->engine != jit)
        warn_user("-perfmap, -jitdump: of the translator; nothing until 'switch jit'");
    return jit != NULL;
}

static bool start(Run *r, GError **err)
{
    Options *o = r->o;
    if (o->process_name) {
        /* 15 characters are all that Linux keeps. */
        g_autofree char *name = g_strndup(o->process_name, 15);
        pthread_setname_np(pthread_self(), name);
    }
    if (o->pidfile && !pidfile_make(&r->pidfile, o->pidfile, err))
        return false;
    if (!open_chardevs(r, err))
        return false;
    o->cfg.has_monitor = r->n_chr > 0;
    for (unsigned i = 0; i < MACHINE_SERIALS; i++)
        o->cfg.has_monitor |= o->cfg.serial[i] && chardev_is_mux(o->cfg.serial[i]);
    if ((o->perfmap && !perf_map_begin(err)) || (o->jitdump && !perf_dump_begin(err)))
        return false;
    r->m = machine_new(&o->cfg, err);
    if (!r->m)
        return false;
    if ((o->perfmap || o->jitdump) && !has_translator(r->m, err))
        return false;
    g_autoptr(GString) not_logged = g_string_new(NULL);
    machine_log_changed(r->m, not_logged);
    g_auto(GStrv) line = g_strsplit(not_logged->str, "\n", -1);
    for (char **l = line; *l && **l; l++)
        warn_user("%s", *l);
    if (!o->nographic && !o->display_given)
        warn_user("there is no display: running as with -display none; -nographic puts the serial "
                  "console on this terminal");
    make_monitors(r);
    return machine_start(r->m, err);
}

static void end(Run *r)
{
    for (unsigned i = 0; i < r->n_monitors; i++)
        monitor_free(r->monitor[i]);
    machine_free(r->m);
    perf_end();
    for (unsigned i = 0; i < r->n_chr; i++)
        chardev_free(r->monitor_chr[i]);
    options_close(r->o);
    pidfile_remove(&r->pidfile);
}

static int run(Options *o)
{
    Run r = {.o = o, .pidfile = {.fd = -1}};
    GError *err = NULL;
    int status = 1;
    guint sources[] = {g_unix_signal_add(SIGINT, on_sigint, &r),
                       g_unix_signal_add(SIGTERM, on_sigterm, &r),
                       g_unix_signal_add(SIGHUP, on_sighup, &r)};
    chardev_set_quit_hook(on_mux_quit, &r);
    if (start(&r, &err))
        status = r.signal ? 0 : machine_main_loop(r.m);
    end(&r);
    chardev_set_quit_hook(NULL, NULL);
    for (unsigned i = 0; i < ARRAY_LEN(sources); i++)
        g_source_remove(sources[i]);
    /* Only now: the terminal is itself again, and if nobody reads it a second signal still ends us.
     */
    if (!r.signal)
        return err ? complain(err) : status;
    g_clear_error(&err); /* a wait that the signal ended */
    warn_user("ended by signal %d (%s)", r.signal, strsignal(r.signal));
    return 0;
}

static bool start_log(const Options *o, GError **err)
{
    return (!o->log || log_set(o->log, err)) && (!o->log_file || log_to_file(o->log_file, err));
}

/* A closed stdin, stdout or stderr would be the next file that is opened, and be read or written as
 * if it were the terminal. */
static void open_standard_fds(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            abort(); /* no descriptor to be had before anything was done */
    }
}

static int print_out(const char *text)
{
    bool ok = fputs(text, stdout) != EOF;
    return fflush(stdout) == 0 && ok ? 0 : 1;
}

/* tandem rip FILE [SYMBOLS]: what -record-rip wrote, as text. */
static int rip_main(int argc, char *argv[])
{
    GError *err = NULL;
    static const char usage[] =
        "usage: tandem rip FILE [SYMBOLS[,offset=N]]: prints what -record-rip wrote, a line an "
        "instruction: vCPU, address, symbol\n";
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
        return print_out(usage);
    if (argc < 2 || argc > 3 || argv[1][0] == '-') {
        warn_user("%.*s", (int)sizeof(usage) - 2, usage);
        return 1;
    }
    Symbols *symbols = symbols_new();
    bool ok = (argc < 3 || symbols_add_option(symbols, argv[2], &err)) &&
              rip_record_dump(argv[1], symbols, stdout, &err);
    symbols_free(symbols);
    return ok && fflush(stdout) == 0 && !ferror(stdout) ? 0 : err ? complain(err) : 1;
}

int tandem_main(int argc, char *argv[])
{
    Options o;
    GError *err = NULL;
    int status = 0;
    open_standard_fds();
    if (argc > 1 && !strcmp(argv[1], "help"))
        argv[1] = (char *)"-help";
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* the write says EFBIG */
    if (argc > 1 && !strcmp(argv[1], "diff"))
        return diff_main(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "bench"))
        return bench_main(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "rip"))
        return rip_main(argc - 1, argv + 1);
    if (!options_parse(&o, argc, argv, &err) || (!o.print && !start_log(&o, &err))) {
        status = complain(err);
    } else if (o.print) {
        status = print_out(o.print->str);
    } else if (o.demo) {
        DemoOptions demo = {.accel = o.cfg.accel,
                            .kernel_irqchip = o.cfg.kernel_irqchip,
                            .kernel_pit = o.cfg.kernel_pit,
                            .switches = o.switches};
        status = demo_run(&demo);
    } else {
        status = run(&o);
    }
    options_clear(&o);
    return status;
}
