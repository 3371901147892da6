/*
 * `tandem diff state`: what an engine makes of a CPU state that is put into it and read back.
 *
 * An engine that is handed a state may normalise it, and one that loses some of it makes guests
 * fail far from the switch that did. So states of every mode, valid ones and such with one field
 * bent, go in as they are; each field that comes back otherwise has to be explained, by a rule of
 * vmstate or by a row of state_known.def. What nothing explains is a finding.
 */
#include "diff/state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "diff/modes.h"
#include "diff/progress.h"
#include "vmstate/checks.h"

/* ---- engines ---- */

static bool through_kvm(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    return state_host_through(h, &engine_kvm, in, out, err);
}

static bool through_interp(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    return state_host_through(h, &engine_interp, in, out, err);
}

static const StateEngine engines[] = {
    {"kvm", "KVM's ioctls", true, false, through_kvm},
    {"interp", "the software engine", false, true, through_interp},
    {"switch", "software engine to KVM and back, twice, by the switch", true, true,
     state_host_switched},
};

static const StateEngine *find_engine(const char *name, GError **err)
{
    g_autoptr(GString) all = g_string_new(NULL);
    for (unsigned i = 0; i < ARRAY_LEN(engines); i++) {
        if (!strcmp(engines[i].name, name))
            return &engines[i];
        g_string_append_printf(all, "%s%s", i ? ", " : "", engines[i].name);
    }
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--engines %s: there is %s", name, all->str);
    return NULL;
}

uint64_t state_campaign(StateHost *h, const char *platform, const StateEngine *e, uint64_t seed,
                        uint64_t n, StateReport *report, bool (*tick)(uint64_t done, void *opaque),
                        void *opaque)
{
    const StateEnv env = {state_host_vm(h), platform, e->to_soft};
    uint64_t i;
    for (i = 0; i < n && (!tick || tick(i, opaque)); i++) {
        CpuState in, out;
        g_autoptr(GError) err = NULL;
        const char *bent = state_generate(&in, seed, i, env.vm->cpuid);
        bool ok = e->through(h, &in, &out, &err);
        state_report_add(report, &env, i, bent, &in, &out, ok ? NULL : err->message);
    }
    return i;
}

/* ---- progress ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
}

static bool tick(uint64_t done, void *opaque)
{
    progress(opaque, done, NULL);
    return !interrupted;
}

/* ---- the command ---- */

typedef struct Options {
    gint64 cases;
    gint64 seed;
    char *engines, *out;
    gboolean checks;
    char *only;
} Options;

/* Results are wanted most when the run was long: the file is tried before it. */
static bool open_out(const char *path, int *fd, GError **err)
{
    *fd = -1;
    if (!path)
        return true;
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (*fd >= 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--out %s: %s", path, g_strerror(errno));
    return false;
}

static bool write_out(const char *path, int fd, const GString *text, GError **err)
{
    if (fd < 0 || write_all(fd, text->str, text->len))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "--out %s: %s; the report is above", path,
                g_strerror(errno));
    return false;
}

static int run_states(const Options *o, int fd, GError **err)
{
    g_autoptr(GString) text = g_string_new(NULL), json = g_string_new(NULL);
    const StateEngine *e = find_engine(o->engines ? o->engines : "kvm", err);
    StateHost *h = e ? state_host_new(e->kvm, err) : NULL;
    Progress p;

    const char *platform = h && e->kvm ? state_platform(h, err) : NULL;
    if (!h || (e->kvm && !platform)) {
        state_host_free(h);
        return 2;
    }
    StateReport *r = state_report_new();
    progress_start(&p, "states", (uint64_t)o->cases, 0);
    uint64_t done = state_campaign(h, platform, e, (uint64_t)o->seed, p.total, r, tick, &p);
    progress_end(&p);
    unsigned findings = state_report_findings(r);
    state_report_text(r, text);
    state_report_json(r, e->name, (uint64_t)o->seed, json);
    fputs(text->str, stdout);
    bool written = write_out(o->out, fd, json, err);
    if (interrupted)
        printf("interrupted after %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT "\n", done, p.total);
    printf("states=%" G_GUINT64_FORMAT " fields=%u explained=%u findings=%u\n", done,
           state_report_fields(r), state_report_explained(r), findings);
    state_report_free(r);
    state_host_free(h);
    return !written ? 2 : findings != 0;
}

static int run_checks(const Options *o, int fd, GError **err)
{
    g_autoptr(GString) text = g_string_new(NULL), json = g_string_new(NULL);
    StateHost *h = state_host_new(true, err);
    const char *platform = h ? state_platform(h, err) : NULL;
    Progress p;

    if (!platform) {
        state_host_free(h);
        return 2;
    }
    progress_start(&p, "states", (uint64_t)o->cases, 0);
    ChecksResult *r =
        state_checks_run(h, platform, o->only, (uint64_t)o->seed, p.total, tick, &p, err);
    progress_end(&p);
    if (!r) {
        state_host_free(h);
        return 2;
    }
    state_checks_text(r, text);
    state_checks_json(r, json);
    fputs(text->str, stdout);
    bool written = write_out(o->out, fd, json, err);
    const ChecksCounts n = state_checks_counts(r);
    if (interrupted)
        puts("interrupted: the counts are of what was done");
    printf("checks=%u agree=%u stricter=%u laxer=%u lost=%u findings=%u\n", n.checks, n.agree,
           n.stricter, n.laxer, n.lost, n.findings);
    state_checks_free(r);
    state_host_free(h);
    return !written ? 2 : n.findings != 0;
}

static bool parse(Options *o, int argc, char *argv[], GError **err)
{
    const GOptionEntry entries[] = {
        {"cases", 'n', 0, G_OPTION_ARG_INT64, &o->cases, "how many states (10000)", "N"},
        {"seed", 's', 0, G_OPTION_ARG_INT64, &o->seed, "the states' seed (1)", "S"},
        {"engines", 0, 0, G_OPTION_ARG_STRING, &o->engines,
         "what the states are put into: kvm, interp or switch (kvm)", "ENGINE"},
        {"checks", 0, 0, G_OPTION_ARG_NONE, &o->checks,
         "enter states in KVM and judge the VM-entry checks by what it refuses", NULL},
        {"only", 0, 0, G_OPTION_ARG_STRING, &o->only,
         "with --checks: the states of this check alone, and no near misses", "CHECK"},
        {"out", 0, 0, G_OPTION_ARG_FILENAME, &o->out, "write the report as JSON lines too", "FILE"},
        {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
    };
    GOptionContext *c = g_option_context_new("");
    bool ok;

    g_option_context_set_summary(
        c, "Puts random CPU states into an engine, reads them back and lists what came back\n"
           "otherwise, by field, with the rule that explains it or as a finding (exit status 1).");
    g_option_context_add_main_entries(c, entries, NULL);
    ok = g_option_context_parse(c, &argc, &argv, err);
    g_option_context_free(c);
    if (ok && argc > 1) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "'%s' is not understood; see --help", argv[1]);
        ok = false;
    }
    CheckInfo info;
    unsigned i = 0;
    while (o->only && vmentry_check_info(i, &info) && strcmp(info.name, o->only) != 0)
        i++;
    if (ok && o->only && (!o->checks || !vmentry_check_info(i, &info))) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "--only %s: with --checks, and a check of checks.def", o->only);
        ok = false;
    }
    if (ok && o->cases < 1) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "--cases must be 1 or more");
        ok = false;
    }
    return ok;
}

int diff_state(int argc, char *argv[])
{
    g_autoptr(GError) err = NULL;
    Options o = {.cases = 10000, .seed = 1};
    int status = 2, fd = -1;

    signal(SIGINT, on_interrupt);
    interrupted = 0;
    if (parse(&o, argc, argv, &err) && open_out(o.out, &fd, &err))
        status = (o.checks ? run_checks : run_states)(&o, fd, &err);
    if (err)
        warn_user("diff state: %s", err->message);
    if (fd >= 0)
        close(fd);
    g_free(o.engines);
    g_free(o.only);
    g_free(o.out);
    return status;
}
