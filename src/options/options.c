/* Parsing the command line, and what each option means. */
#include "options/options.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/nearest.h"
#include "switch/policy.h"

#define DEFAULT_RAM (128ull << 20)

/* clang-format off */
#define SECTION(title)
#define OPTION(name, arg, form, help, fn) static OptionFn opt_##fn;
#include "options/options.def"
#undef OPTION
#undef SECTION

const OptionRow option_rows[] = {
#define SECTION(title) {NULL, ARG_SECTION, NULL, title, NULL},
#define OPTION(name, arg, form, help, fn) {name, ARG_##arg, form, help, opt_##fn},
#include "options/options.def"
#undef OPTION
#undef SECTION
};
const unsigned option_rows_n = ARRAY_LEN(option_rows);

static const struct {
    const char *name, *advice;
} refused[] = {
#define REFUSED(name, advice) {name, advice},
#include "options/qemu_options.def"
#undef REFUSED
};
/* clang-format on */

static bool bad(GError **err, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static bool bad(GError **err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(err, TANDEM_ERROR, ERR_USAGE, text);
    return false;
}

static const char *keep(Options *o, char *owned)
{
    g_ptr_array_add(o->strings, owned);
    return owned;
}

static GString *print(Options *o)
{
    if (!o->print)
        o->print = g_string_new(NULL);
    return o->print;
}

/* ---- machine ---- */

/* Properties of QEMU's pc that say of this one what cannot be otherwise. */
static const struct {
    const char *key, *value, *otherwise;
} machine_facts[] = {
    {"acpi", "on", "the kernel's acpi=off leaves it unused"},
    {"hpet", "on", "the kernel's hpet=disable leaves it unused"},
    {"pit", "on", "it is part of the board"},
    {"usb", "off", "there is no USB"},
    {"graphics", "off", "there is no display"},
    {"vmport", "off", "there is no such port"},
    {"smm", "off", "there is no system-management mode"},
    {"nvdimm", "off", "there are no NVDIMMs"},
    {"mem-merge", "off", "memory is not merged with other guests'"},
    {"dump-guest-core", "on", "'ulimit -c 0' leaves core files out"},
};

static bool machine_fact(const char *arg, const Prop *p, const OptionRow *row, GError **err)
{
    for (unsigned i = 0; i < ARRAY_LEN(machine_facts); i++) {
        if (strcmp(p->key, machine_facts[i].key) != 0)
            continue;
        return !strcmp(p->value, machine_facts[i].value) ||
               bad(err, "-%s %s: %s can only be %s here: %s", row->name, arg, p->key,
                   machine_facts[i].value, machine_facts[i].otherwise);
    }
    return bad(err, "-%s %s: no property '%s'; there are accel, kernel-irqchip and kernel-pit",
               row->name, arg, p->key);
}

static bool take_irqchip(Options *o, const OptionRow *row, const char *arg, const Prop *p,
                         GError **err)
{
    const char *value = p->value ? p->value : "";
    o->cfg.kernel_irqchip = keep(o, g_strdup(value));
    return !strcmp(value, "on") || !strcmp(value, "off") || !strcmp(value, "split") ||
           bad(err, "-%s %s: there are %s=on, split and off", row->name, arg, p->key);
}

static bool is_irqchip(const Prop *p)
{
    return !strcmp(p->key, "kernel-irqchip") || !strcmp(p->key, "kernel_irqchip");
}

static bool opt_machine(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        g_string_append(print(o),
                        "pc  QEMU's pc (i440FX, PIIX3) without disks, network and display\n");
        return true;
    }
    Prop *props = props_split(arg);
    bool ok = true;
    for (Prop *p = props; ok && p->key; p++) {
        if (!p->value && p != props)
            ok = bad(err, "-%s %s: '%s' has no value", row->name, arg, p->key);
        else if (!p->value || !strcmp(p->key, "type"))
            o->cfg.machine = keep(o, g_strdup(p->value ? p->value : p->key));
        else if (!strcmp(p->key, "accel")) {
            g_free(o->machine_accel);
            o->machine_accel = g_strdup(p->value);
        } else if (is_irqchip(p)) {
            ok = take_irqchip(o, row, arg, p, err);
        } else if (!strcmp(p->key, "kernel-pit") || !strcmp(p->key, "kernel_pit")) {
            o->cfg.kernel_pit = !strcmp(p->value, "on");
            ok = o->cfg.kernel_pit || !strcmp(p->value, "off") ||
                 bad(err, "-%s %s: %s is on or off", row->name, arg, p->key);
        } else
            ok = machine_fact(arg, p, row, err);
    }
    props_free(props);
    if (ok && o->cfg.machine && strcmp(o->cfg.machine, "pc") != 0)
        ok = bad(err, "-%s %s: no machine '%s'; there is pc", row->name, arg, o->cfg.machine);
    return ok;
}

static bool count(const char *text, uint64_t *n)
{
    return g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, n, NULL);
}

static bool accel_prop(Options *o, const OptionRow *row, const char *arg, const char *name,
                       const Prop *p, GError **err)
{
    const uint64_t most = 2047; /* jumps inside the code reach 2 GiB */
    uint64_t mib;
    if (is_irqchip(p) && strstr(name, "kvm"))
        return take_irqchip(o, row, arg, p, err);
    if (!strcmp(p->key, "thread"))
        return (p->value && !strcmp(p->value, "multi")) ||
               bad(err, "-accel %s: each vCPU has a thread of its own: thread=multi", arg);
    if (!strcmp(p->key, "rescue") || !strcmp(p->key, "adaptive") || !strcmp(p->key, "prefault")) {
        bool on = p->value && !strcmp(p->value, "on");
        if (!strcmp(p->key, "adaptive"))
            o->cfg.adaptive = on ? ADAPTIVE_ON : ADAPTIVE_OFF;
        else if (!strcmp(p->key, "prefault"))
            o->cfg.no_prefault = !on;
        else
            o->cfg.no_rescue = !on;
        return on || (p->value && !strcmp(p->value, "off")) ||
               bad(err, "-accel %s: %s is on or off", arg, p->key);
    }
    if (strcmp(p->key, "tb-size") != 0)
        return bad(err,
                   "-accel %s: no property '%s'; there are rescue, adaptive, prefault, and tb-size "
                   "of tcg and jit",
                   arg, p->key);
    if (!strstr(name, "tcg") && !strstr(name, "jit"))
        return bad(err, "-accel %s: %s has no translated code; tb-size is for tcg and jit", arg,
                   name);
    if (!p->value || !count(p->value, &mib) || mib > most)
        return bad(err, "-accel %s: tb-size is a number of MiB, 1 to %u, or 0 for the default", arg,
                   (unsigned)most);
    o->cfg.tb_mib = (unsigned)mib;
    return true;
}

static bool opt_accel(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?")) {
        g_string_append(print(o), "kvm\ntcg\njit\ninterp\n");
        return true;
    }
    Prop *props = props_split(arg);
    const char *name = props->value ? props->value : props->key;
    bool ok = !props->value || !strcmp(props->key, "accel") ||
              bad(err, "-accel %s: the accelerator comes first", arg);
    for (Prop *p = props->key ? props + 1 : props; ok && p->key; p++)
        ok = accel_prop(o, row, arg, name, p, err);
    if (o->accel_list->len)
        g_string_append_c(o->accel_list, ':');
    g_string_append(o->accel_list, name ? name : "");
    props_free(props);
    return ok;
}

static bool opt_enable_kvm(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    return opt_accel(o, row, "kvm", err);
}

static bool opt_cpu(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.cpu = arg;
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        cpuid_help(print(o));
    return true;
}

static bool smp_prop(const Prop *p, bool first, uint64_t *cpus, uint64_t *sockets, uint64_t *cores,
                     uint64_t *threads, uint64_t *max, const char *arg, GError **err)
{
    const char *key = p->value ? p->key : "cpus", *value = p->value ? p->value : p->key;
    const struct {
        const char *key;
        uint64_t *n;
    } known[] = {{"cpus", cpus},
                 {"sockets", sockets},
                 {"cores", cores},
                 {"threads", threads},
                 {"maxcpus", max}};
    if (!p->value && !first)
        return bad(err, "-smp %s: '%s' has no value", arg, p->key);
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        if (!strcmp(key, known[i].key))
            return count(value, known[i].n) ||
                   bad(err, "-smp %s: '%s' is not a number", arg, value);
    }
    return bad(err, "-smp %s: no property '%s'; there are cpus, sockets, cores, threads", arg, key);
}

static bool overcommit_prop(Options *o, const Prop *p, const char *arg, GError **err)
{
    bool on = p->value && !strcmp(p->value, "on");
    bool pm = !strcmp(p->key, "cpu-pm");
    if (!pm && strcmp(p->key, "mem-lock") != 0)
        return bad(err, "-overcommit %s: no property '%s'; there is cpu-pm", arg, p->key);
    if (!on && (!p->value || strcmp(p->value, "off") != 0))
        return bad(err, "-overcommit %s: %s is on or off", arg, p->key);
    if (on && !pm)
        return bad(err, "-overcommit %s: memory is not locked; leave mem-lock out", arg);
    if (pm)
        o->cfg.cpu_pm = on;
    return true;
}

static bool opt_overcommit(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    Prop *props = props_split(arg);
    bool ok = true;
    for (Prop *p = props; ok && p->key; p++)
        ok = overcommit_prop(o, p, arg, err);
    props_free(props);
    return ok;
}

static bool opt_smp(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    const uint64_t unset = UINT64_MAX;
    uint64_t cpus = unset, sockets = 1, cores = unset, threads = 1, max = unset;
    Prop *props = props_split(arg);
    bool ok = true;
    for (Prop *p = props; ok && p->key; p++)
        ok = smp_prop(p, p == props, &cpus, &sockets, &cores, &threads, &max, arg, err);
    props_free(props);
    if (!ok)
        return false;
    if (cpus == unset)
        cpus = cores == unset ? 1 : cores;
    if (cpus < 1 || cpus > MACHINE_MAX_CPUS)
        return bad(err, "-smp %s: from 1 to %d vCPUs are possible", arg, MACHINE_MAX_CPUS);
    if (max != unset && max != cpus)
        return bad(err, "-smp %s: vCPUs cannot be added later, so maxcpus can only be cpus", arg);
    if (sockets != 1 || threads != 1 || (cores != unset && cores != cpus))
        return bad(err,
                   "-smp %s: the guest sees one socket of N cores with one thread each: "
                   "sockets=1,cores=%u,threads=1",
                   arg, (unsigned)cpus);
    o->cfg.smp = (unsigned)cpus;
    return true;
}

static bool opt_m(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    const char *text = g_str_has_prefix(arg, "size=") ? arg + strlen("size=") : arg;
    const char *comma = strchr(text, ',');
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), host_pages = (uint64_t)sysconf(_SC_PHYS_PAGES);
    if (comma)
        return bad(err, "-m %s: no property '%s'; memory cannot be added later", arg, comma + 1);
    if (!parse_size(text, &o->cfg.ram_bytes))
        return bad(err, "-m %s: not a size; sizes are like 512, 512M, 2G", arg);
    if (o->cfg.ram_bytes < 1 << 20)
        return bad(err, "-m %s: a machine needs at least 1 MiB", arg);
    if (o->cfg.ram_bytes % page)
        return bad(err, "-m %s: not a multiple of 4 KiB", arg);
    if (o->cfg.ram_bytes / page > host_pages)
        return bad(err, "-m %s: more than this host has: %" G_GUINT64_FORMAT " MiB", arg,
                   host_pages * page >> 20);
    return true;
}

static bool opt_name(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    Prop *props = props_split(arg);
    bool ok = true;
    for (Prop *p = props; ok && p->key; p++) {
        if ((!p->value && p == props) || !strcmp(p->key, "guest"))
            o->cfg.name = keep(o, g_strdup(p->value ? p->value : p->key));
        else if (!strcmp(p->key, "process") && p->value)
            o->process_name = keep(o, g_strdup(p->value));
        else if (!strcmp(p->key, "debug-threads"))
            ok = (p->value && !strcmp(p->value, "on")) ||
                 bad(err, "-name %s: threads always have names: debug-threads=on", arg);
        else
            ok = bad(err, "-name %s: no property '%s'; there are guest and process", arg, p->key);
    }
    props_free(props);
    return ok;
}

static bool opt_device(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        device_classes_help(print(o));
    else
        g_ptr_array_add(o->devices, (char *)arg);
    return true;
}

static bool opt_global(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    const char *dot = strchr(arg, '.'), *eq = strchr(arg, '=');
    if (!dot || !eq || dot == arg || eq < dot + 2)
        return bad(err, "-global %s: the form is DEVICE.PROPERTY=VALUE", arg);
    g_ptr_array_add(o->globals, (char *)arg);
    return true;
}

/* How far the clock chip is ahead of UTC goes to the device as a property. */
static bool rtc_base(Options *o, const char *arg, const char *value, GError **err)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autofree char *midnight = strchr(value, 'T') ? NULL : g_strconcat(value, "T00:00:00", NULL);
    g_autoptr(GDateTime) then = g_date_time_new_from_iso8601(midnight ? midnight : value, utc);
    int64_t ahead = 0;
    if (!strcmp(value, "localtime"))
        ahead = g_date_time_get_utc_offset(now) / G_TIME_SPAN_SECOND;
    else if (then)
        ahead = g_date_time_to_unix(then) - g_date_time_to_unix(now);
    else if (strcmp(value, "utc") != 0)
        return bad(err,
                   "-rtc %s: there are base=utc, base=localtime and a date, such as "
                   "base=2030-01-31T08:15:00",
                   arg);
    char *offset = g_strdup_printf("mc146818rtc.offset=%" G_GUINT64_FORMAT, (uint64_t)ahead);
    g_ptr_array_add(o->globals, (char *)keep(o, offset));
    return true;
}

static bool rtc_prop(Options *o, const Prop *p, const char *arg, GError **err)
{
    const char *value = p->value ? p->value : "";
    if (!strcmp(p->key, "driftfix")) {
        bool slew = !strcmp(value, "slew");
        g_ptr_array_add(o->globals, (char *)(slew ? "mc146818rtc.lost_tick_policy=slew"
                                                  : "mc146818rtc.lost_tick_policy=discard"));
        return slew || !strcmp(value, "none") ||
               bad(err, "-rtc %s: there are driftfix=slew and driftfix=none", arg);
    }
    if (!strcmp(p->key, "base"))
        return rtc_base(o, arg, value, err);
    if (!strcmp(p->key, "clock"))
        return !strcmp(value, "host") ||
               bad(err, "-rtc %s: the clock chip goes with the host's time: clock=host", arg);
    return bad(err, "-rtc %s: no property '%s'; there are driftfix, base and clock", arg, p->key);
}

static bool opt_rtc(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    Prop *props = props_split(arg);
    bool ok = true;
    for (Prop *p = props; ok && p->key; p++)
        ok = rtc_prop(o, p, arg, err);
    props_free(props);
    return ok;
}

static bool opt_nodefaults(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->nodefaults = true;
    return true;
}

/* ---- boot ---- */

static bool opt_kernel(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.kernel = arg;
    return true;
}

static bool opt_initrd(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.initrd = arg;
    return true;
}

static bool opt_append(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.append = arg;
    return true;
}

static bool opt_bios(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.bios = arg;
    return true;
}

static bool opt_symbols(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    g_ptr_array_add(o->symbols, (char *)arg);
    return true;
}

/* ---- console ---- */

static bool opt_nographic(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->nographic = true;
    return true;
}

static bool opt_display(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->display_given = true;
    return !strcmp(arg, "none") ||
           bad(err, "-display %s: there is no display; -display none or -nographic work", arg);
}

static bool opt_serial(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (o->serial->len == MACHINE_SERIALS)
        return bad(err, "-serial %s: there are only %d serial ports", arg, MACHINE_SERIALS);
    g_ptr_array_add(o->serial, (char *)arg);
    o->serial_given = true;
    return true;
}

static bool opt_monitor(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (g_str_has_prefix(arg, "mon:"))
        return bad(err, "-monitor %s: mon: is for -serial, which then carries the monitor too",
                   arg);
    if (g_str_has_prefix(arg, "file:"))
        return bad(err, "-monitor %s: nobody could type there; unix:PATH,server,nowait works", arg);
    g_ptr_array_add(o->monitor, (char *)arg);
    o->monitor_given = true;
    return true;
}

static bool opt_debugcon(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (g_str_has_prefix(arg, "mon:"))
        return bad(err, "-debugcon %s: mon: is for -serial", arg);
    o->debugcon = arg;
    return true;
}

/* ---- running ---- */

static bool opt_paused(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.start_paused = true;
    return true;
}

static bool opt_no_reboot(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.no_reboot = true;
    return true;
}

static bool opt_no_shutdown(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.no_shutdown = true;
    return true;
}

static bool opt_pidfile(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->pidfile = arg;
    return true;
}

static bool opt_log(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->log = arg;
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        log_help(print(o));
    return true;
}

static bool opt_log_file(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->log_file = arg;
    return true;
}

static bool opt_perfmap(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->perfmap = true;
    return true;
}

static bool opt_jitdump(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->jitdump = true;
    return true;
}

static bool opt_demo(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->demo = true;
    return true;
}

static bool opt_switch(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (!strcmp(arg, "help") || !strcmp(arg, "?"))
        policies_help(print(o));
    else
        g_ptr_array_add(o->policies, (char *)arg);
    return true;
}

static bool opt_record_rip(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.record_rip = arg;
    return true;
}

static bool opt_trace_engines(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->cfg.trace_engines = arg;
    return true;
}

static bool opt_switches(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    o->switches_given = true;
    return (count(arg, &o->switches) && o->switches) ||
           bad(err, "-switches %s: not a number of switches", arg);
}

/* ---- the rest ---- */

static bool opt_only_none(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    return !strcmp(arg, "none") ||
           bad(err, "-%s %s: %s here; -%s none works", row->name, arg, row->help, row->name);
}

static bool opt_nothing(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    return true;
}

static bool opt_help(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    if (!arg)
        options_help(print(o));
    else if (!strcmp(arg, "man"))
        options_man(print(o));
    else if (!strcmp(arg, "bash"))
        options_bash(print(o));
    else
        return bad(err, "-help=%s: there are -help, -help=man and -help=bash", arg);
    return true;
}

static bool opt_version(Options *o, const OptionRow *row, const char *arg, GError **err)
{
    g_string_append(print(o), "Tandem version " TANDEM_VERSION "\n");
    return true;
}

/* ---- parsing ---- */

static const OptionRow *find(const char *name, size_t len)
{
    for (unsigned i = 0; i < option_rows_n; i++) {
        const char *n = option_rows[i].name;
        if (n && strlen(n) == len && !strncmp(n, name, len))
            return &option_rows[i];
    }
    return NULL;
}

static bool unknown(const char *word, const char *name, GError **err)
{
    for (unsigned i = 0; i < ARRAY_LEN(refused); i++) {
        if (!strcmp(refused[i].name, name))
            return bad(err, "%s is an option of QEMU that Tandem has not: %s", word,
                       refused[i].advice);
    }
    Nearest near = {.typed = name};
    for (unsigned i = 0; i < option_rows_n; i++) {
        if (option_rows[i].name)
            nearest_offer(&near, option_rows[i].name);
    }
    if (near.best)
        return bad(err, "unknown option %s; did you mean -%s?", word, near.best);
    return bad(err, "unknown option %s; -help lists them", word);
}

static bool parse_one(Options *o, int argc, char *const argv[], int *at, GError **err)
{
    const char *word = argv[(*at)++];
    if (word[0] != '-' || !word[1])
        return bad(err,
                   "'%s' is not an option; disk images cannot be used, a kernel goes with "
                   "-kernel",
                   word);
    const char *name = word + (word[1] == '-' ? 2 : 1);
    const char *eq = strchr(name, '='), *arg = NULL;
    const OptionRow *row = find(name, eq ? (size_t)(eq - name) : strlen(name));
    if (!row || (eq && row->arg != ARG_EQUALS))
        return unknown(word, name, err);
    if (eq)
        arg = eq + 1;
    if (row->arg == ARG_REQUIRED) {
        if (*at == argc)
            return bad(err, "%s: its argument is missing: %s", word, row->form);
        arg = argv[(*at)++];
        if (!*arg && row->fn != opt_append)
            return bad(err, "%s: its argument is empty: %s", word, row->form);
    }
    o->given |= BIT(row - option_rows);
    return row->fn(o, row, arg, err);
}

static bool has_mux(const GPtrArray *specs)
{
    for (guint i = 0; i < specs->len; i++) {
        if (g_str_has_prefix(g_ptr_array_index(specs, i), "mon:"))
            return true;
    }
    return false;
}

static bool has_stdio(const Options *o)
{
    if (o->debugcon && !strcmp(o->debugcon, "stdio"))
        return true;
    for (guint i = 0; i < o->serial->len; i++) {
        if (!strcmp(g_ptr_array_index(o->serial, i), "stdio"))
            return true;
    }
    for (guint i = 0; i < o->monitor->len; i++) {
        if (!strcmp(g_ptr_array_index(o->monitor, i), "stdio"))
            return true;
    }
    return false;
}

/* Serial ports and monitors that were not asked for: with -nographic they share the terminal, else
 * nothing is connected. */
static void defaults(Options *o)
{
    bool terminal = o->nographic && !has_stdio(o);
    bool serial = !o->serial_given && !o->nodefaults;
    bool monitor = !o->monitor_given && !o->nodefaults && !has_mux(o->serial);
    if (serial)
        g_ptr_array_add(o->serial, terminal && monitor ? "mon:stdio" : terminal ? "stdio" : "null");
    else if (monitor && terminal && !has_mux(o->serial))
        g_ptr_array_add(o->monitor, "stdio");
}

/* -demo brings a machine of its own; what it does not look at is refused. */
static bool check_demo(const Options *o, GError **err)
{
    static OptionFn *const taken[] = {opt_demo,      opt_switches, opt_accel,     opt_enable_kvm,
                                      opt_machine,   opt_log,      opt_log_file,  opt_display,
                                      opt_nographic, opt_nothing,  opt_only_none, opt_nodefaults};
    for (unsigned i = 0; i < option_rows_n; i++) {
        bool used = !(o->given & BIT(i));
        for (unsigned j = 0; j < ARRAY_LEN(taken) && !used; j++)
            used = option_rows[i].fn == taken[j];
        if (!used)
            return bad(err, "-%s is not for -demo, which brings a machine of its own",
                       option_rows[i].name);
    }
    return true;
}

static bool check(Options *o, GError **err)
{
    G_STATIC_ASSERT(ARRAY_LEN(option_rows) <= 64); /* bits of `given` */
    const MachineConfig *c = &o->cfg;
    if (o->machine_accel && o->accel_list->len)
        return bad(err, "-accel %s and -machine accel=%s: one of them is enough",
                   o->accel_list->str, o->machine_accel);
    if (o->machine_accel)
        o->cfg.accel = o->machine_accel;
    else if (o->accel_list->len)
        o->cfg.accel = o->accel_list->str;
    if (o->demo && (c->kernel || c->bios))
        return bad(err, "-demo brings a guest of its own; -%s is for another one",
                   c->kernel ? "kernel" : "bios");
    if (o->switches_given && !o->demo)
        return bad(err, "-switches is for -demo; the monitor's switch command moves other guests");
    if (o->demo)
        return check_demo(o, err);
    if (!c->kernel && (c->append || c->initrd))
        return bad(err, "-%s is for a kernel given with -kernel", c->append ? "append" : "initrd");
    if (!c->kernel && !c->bios)
        return bad(err,
                   "nothing to boot: -kernel FILE or -bios FILE says what (-demo needs neither, "
                   "-help lists all options)");
    defaults(o);
    return true;
}

bool options_parse(Options *o, int argc, char *const argv[], GError **err)
{
    *o = (Options){.cfg = {.ram_bytes = DEFAULT_RAM, .smp = 1}};
    o->serial = g_ptr_array_new();
    o->monitor = g_ptr_array_new();
    o->devices = g_ptr_array_new();
    o->globals = g_ptr_array_new();
    o->symbols = g_ptr_array_new();
    o->policies = g_ptr_array_new();
    o->strings = g_ptr_array_new_with_free_func(g_free);
    o->accel_list = g_string_new(NULL);
    for (int at = 1; at < argc;) {
        if (!parse_one(o, argc, argv, &at, err))
            return false;
        if (o->print)
            return true;
    }
    g_ptr_array_add(o->devices, NULL);
    g_ptr_array_add(o->globals, NULL);
    g_ptr_array_add(o->symbols, NULL);
    g_ptr_array_add(o->policies, NULL);
    return check(o, err);
}

void options_clear(Options *o)
{
    g_ptr_array_unref(o->serial);
    g_ptr_array_unref(o->monitor);
    g_ptr_array_unref(o->devices);
    g_ptr_array_unref(o->globals);
    g_ptr_array_unref(o->symbols);
    g_ptr_array_unref(o->policies);
    g_ptr_array_unref(o->strings);
    g_string_free(o->accel_list, TRUE);
    if (o->print)
        g_string_free(o->print, TRUE);
    g_free(o->machine_accel);
}
