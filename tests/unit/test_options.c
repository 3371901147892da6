/* The command line: every option is parsed, every refusal names what it refuses. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "options/options.h"
#include "cli/pidfile.h"
#include "run_suite.h"

#define ARGS_MAX 12

static bool parse(Options *o, const char *const args[], GError **err)
{
    char *argv[ARGS_MAX + 2] = {(char *)"tandem"};
    int argc = 1;
    for (; args[argc - 1]; argc++)
        argv[argc] = (char *)args[argc - 1];
    return options_parse(o, argc, argv, err);
}

/* ---- every row ---- */

static const struct {
    const char *name, *arg;
} samples[] = {
    {"machine", "pc"},
    {"M", "pc,accel=tcg"},
    {"accel", "kvm:tcg"},
    {"perfmap", NULL},
    {"jitdump", NULL},
    {"enable-kvm", NULL},
    {"cpu", "qemu64,-aes"},
    {"smp", "4"},
    {"m", "1G"},
    {"name", "guest=x"},
    {"device", "isa-debug-exit,iobase=0xf4"},
    {"global", "kvm-pit.lost_tick_policy=delay"},
    {"rtc", "base=utc,driftfix=slew"},
    {"nodefaults", NULL},
    {"kernel", "k"},
    {"initrd", "i"},
    {"append", "a"},
    {"bios", "b"},
    {"symbols", "System.map"},
    {"nographic", NULL},
    {"display", "none"},
    {"serial", "pty"},
    {"monitor", "unix:/x,server,nowait"},
    {"debugcon", "file:x"},
    {"S", NULL},
    {"no-reboot", NULL},
    {"no-shutdown", NULL},
    {"pidfile", "p"},
    {"d", "int,cpu"},
    {"D", "log"},
    {"demo", NULL},
    {"switch", "every=10ms"},
    {"overcommit", "cpu-pm=on"},
    {"trace-engines", "t.json"},
    {"record-rip", "r,region=a..b"},
    {"switches", "10"},
    {"net", "none"},
    {"nic", "none"},
    {"vga", "none"},
    {"parallel", "none"},
    {"no-user-config", NULL},
    {"help", NULL},
    {"h", NULL},
    {"version", NULL},
};

START_TEST(each_row_has_a_sample)
{
    for (unsigned i = 0; i < option_rows_n; i++) {
        unsigned j = 0;
        if (!option_rows[i].name)
            continue;
        while (j < ARRAY_LEN(samples) && strcmp(samples[j].name, option_rows[i].name) != 0)
            j++;
        ck_assert_msg(j < ARRAY_LEN(samples), "no sample for -%s", option_rows[i].name);
        ck_assert_msg((samples[j].arg != NULL) == (option_rows[i].arg == ARG_REQUIRED), "-%s",
                      option_rows[i].name);
    }
}
END_TEST

START_TEST(each_row_parses)
{
    for (unsigned dashes = 1; dashes <= 2; dashes++) {
        Options o;
        GError *err = NULL;
        g_autofree char *word = g_strdup_printf("%.*s%s", (int)dashes, "--", samples[_i].name);
        bool demo = !strcmp(samples[_i].name, "demo"),
             count = !strcmp(samples[_i].name, "switches");
        const char *with_kernel[] = {"-kernel", "k", word, samples[_i].arg, NULL};
        const char *alone[] = {word, samples[_i].arg, NULL};
        const char *for_demo[] = {"-demo", word, samples[_i].arg, NULL};
        bool ok = parse(&o, demo ? alone : count ? for_demo : with_kernel, &err);
        ck_assert_msg(ok, "%s: %s", word, err ? err->message : "");
        options_clear(&o);
    }
}
END_TEST

START_TEST(argument_missing)
{
    Options o;
    GError *err = NULL;
    g_autofree char *word = g_strdup_printf("-%s", samples[_i].name);
    const char *args[] = {word, NULL};
    if (samples[_i].arg) {
        ck_assert(!parse(&o, args, &err));
        ck_assert_msg(strstr(err->message, word) && strstr(err->message, "missing"), "%s",
                      err->message);
        g_error_free(err);
        options_clear(&o);
    }
}
END_TEST

START_TEST(documents_have_each_row)
{
    g_autoptr(GString) help = g_string_new(NULL);
    g_autoptr(GString) man = g_string_new(NULL);
    g_autoptr(GString) bash = g_string_new(NULL);
    options_help(help);
    options_man(man);
    options_bash(bash);
    for (unsigned i = 0; i < option_rows_n; i++) {
        const OptionRow *r = &option_rows[i];
        if (!r->name)
            continue;
        g_autofree char *in_help = g_strdup_printf("\n-%s", r->name);
        g_auto(GStrv) parts = g_strsplit(r->name, "-", -1);
        g_autofree char *escaped = g_strjoinv("\\-", parts);
        g_autofree char *in_man = g_strdup_printf(".B \\-%s", escaped);
        ck_assert_msg(strstr(help->str, in_help), "help lacks -%s", r->name);
        ck_assert_msg(strstr(man->str, in_man), "man page lacks -%s", r->name);
        ck_assert_msg(strstr(bash->str, in_help + 1), "completion lacks -%s", r->name);
    }
    ck_assert(strstr(man->str, "kvm|tcg|jit|interp [cpu]"));
    ck_assert(strstr(bash->str, "-accel) words='kvm tcg jit interp kvm:tcg auto'"));
}
END_TEST

/* ---- values ---- */

START_TEST(sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes; /* 0: refused */
    } row[] = {
        {"512", 512ull << 20},
        {"512M", 512ull << 20},
        {"512m", 512ull << 20},
        {"1G", 1ull << 30},
        {"1.5G", 3ull << 29},
        {"4096K", 4ull << 20},
        {"1T", 1ull << 40},
        {"", 0},
        {"lots", 0},
        {"-1", 0},
        {"1X", 0},
        {"1GB", 0},
        {" 1", 0},
        {"1.G", 0},
        {"99999999999999999999", 0},
        {"18014398509481984", 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t bytes = 0;
        bool ok = parse_size(row[i].text, &bytes);
        ck_assert_msg(ok == (row[i].bytes != 0) && (!ok || bytes == row[i].bytes), "'%s' is %llu",
                      row[i].text, (unsigned long long)bytes);
    }
}
END_TEST

START_TEST(values_arrive)
{
    Options o;
    GError *err = NULL;
    const char *args[] = {"-kernel", "K",         "-m", "size=1G",
                          "-smp",    "2,cores=2", "-M", "pc,accel=kvm,kernel_irqchip=split",
                          "-S",      NULL};
    ck_assert_msg(parse(&o, args, &err), "%s", err ? err->message : "");
    ck_assert_str_eq(o.cfg.kernel, "K");
    ck_assert_uint_eq(o.cfg.ram_bytes, 1ull << 30);
    ck_assert_uint_eq(o.cfg.smp, 2);
    ck_assert_str_eq(o.cfg.machine, "pc");
    ck_assert_str_eq(o.cfg.kernel_irqchip, "split");
    ck_assert_str_eq(o.cfg.accel, "kvm");
    ck_assert(o.cfg.start_paused && !o.cfg.no_reboot);
    options_clear(&o);
    const char *lists[] = {"-bios", "B", "-accel", "kvm", "-accel", "tcg", "-device", "a", NULL};
    ck_assert(parse(&o, lists, &err));
    ck_assert_str_eq(o.cfg.accel, "kvm:tcg");
    ck_assert_uint_eq(o.cfg.ram_bytes, 128ull << 20);
    ck_assert_uint_eq(o.cfg.tb_mib, 0);
    ck_assert_str_eq(o.devices->pdata[0], "a");
    ck_assert_ptr_null(o.devices->pdata[1]);
    ck_assert(!o.cfg.no_rescue);
    options_clear(&o);

    const char *rescue[] = {"-bios", "B", "-accel", "kvm,rescue=off,adaptive=on", NULL};
    ck_assert(parse(&o, rescue, &err));
    ck_assert_str_eq(o.cfg.accel, "kvm");
    ck_assert(o.cfg.no_rescue);
    ck_assert_int_eq(o.cfg.adaptive, ADAPTIVE_ON);
    options_clear(&o);
    ck_assert(!o.cfg.no_prefault);
    const char *prefault[] = {"-bios", "B", "-accel", "kvm,prefault=off", NULL};
    ck_assert(parse(&o, prefault, &err));
    ck_assert(o.cfg.no_prefault);
    ck_assert(!o.cfg.no_rescue);
    options_clear(&o);
    const char *rtc[] = {"-bios", "B", "-global", "a.b=c", "-rtc", "driftfix=none", NULL};
    ck_assert(parse(&o, rtc, &err));
    ck_assert_str_eq(o.globals->pdata[0], "a.b=c");
    ck_assert_str_eq(o.globals->pdata[1], "mc146818rtc.lost_tick_policy=discard");
    ck_assert_ptr_null(o.globals->pdata[2]);
    options_clear(&o);
    const char *named[] = {"-bios",  "B",
                           "-name",  "guest=g,process=p,debug-threads=on",
                           "-accel", "kvm,kernel-irqchip=split",
                           NULL};
    ck_assert(parse(&o, named, &err));
    ck_assert_str_eq(o.cfg.name, "g");
    ck_assert_str_eq(o.process_name, "p");
    ck_assert_str_eq(o.cfg.kernel_irqchip, "split");
    options_clear(&o);
    const char *facts[] = {"-bios",   "B",
                           "-M",      "pc,usb=off,hpet=on,vmport=off,graphics=off",
                           "-accel",  "tcg,thread=multi",
                           "-append", "",
                           "-kernel", "k",
                           NULL};
    ck_assert_msg(parse(&o, facts, &err), "%s", err->message);
    ck_assert_str_eq(o.cfg.append, "");
    options_clear(&o);
    const char *dates[] = {"-bios", "B",
                           "-rtc",  "base=2030-01-31T08:15:00,clock=host",
                           "-rtc",  "base=2030-01-31",
                           "-rtc",  "base=localtime",
                           NULL};
    ck_assert_msg(parse(&o, dates, &err), "%s", err->message);
    static const char offset[] = "mc146818rtc.offset=";
    int64_t ahead[3];
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(g_str_has_prefix(o.globals->pdata[i], offset));
        ahead[i] =
            (int64_t)g_ascii_strtoull((char *)o.globals->pdata[i] + strlen(offset), NULL, 10);
    }
    ck_assert_int_le(llabs(ahead[0] + time(NULL) - 1896077700), 60);
    ck_assert_int_le(llabs(ahead[0] - ahead[1] - (8 * 3600 + 15 * 60)), 60);
    ck_assert_int_le(llabs(ahead[2]), 14 * 3600);
    options_clear(&o);
    const char *cache[] = {"-bios", "B", "-accel", "tcg,tb-size=7", NULL};
    ck_assert(parse(&o, cache, &err));
    ck_assert_str_eq(o.cfg.accel, "tcg");
    ck_assert_uint_eq(o.cfg.tb_mib, 7);
    options_clear(&o);
}
END_TEST

static char *join(const GPtrArray *a)
{
    GString *s = g_string_new(NULL);
    for (guint i = 0; i < a->len; i++)
        g_string_append_printf(s, "%s%s", i ? " " : "", (char *)a->pdata[i]);
    return g_string_free(s, FALSE);
}

START_TEST(what_is_connected)
{
    static const struct {
        const char *args[5];
        const char *serial, *monitor;
    } row[] = {
        {{NULL}, "null", ""},
        {{"-display", "none"}, "null", ""},
        {{"-nographic"}, "mon:stdio", ""},
        {{"-nographic", "-monitor", "none"}, "stdio", "none"},
        {{"-nographic", "-serial", "stdio"}, "stdio", ""},
        {{"-nographic", "-serial", "null"}, "null", "stdio"},
        {{"-nographic", "-serial", "mon:stdio"}, "mon:stdio", ""},
        {{"-nographic", "-monitor", "stdio"}, "null", "stdio"},
        {{"-nographic", "-nodefaults"}, "", ""},
        {{"-serial", "stdio", "-serial", "null"}, "stdio null", ""},
        {{"-nodefaults", "-monitor", "stdio"}, "", "stdio"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        Options o;
        GError *err = NULL;
        const char *args[ARGS_MAX] = {"-kernel", "k"};
        memcpy(args + 2, row[i].args, sizeof(row[i].args));
        ck_assert(parse(&o, args, &err));
        g_autofree char *serial = join(o.serial), *monitor = join(o.monitor);
        ck_assert_msg(!strcmp(serial, row[i].serial) && !strcmp(monitor, row[i].monitor),
                      "row %u: serial '%s' monitor '%s'", i, serial, monitor);
        options_clear(&o);
    }
}
END_TEST

/* ---- refusals ---- */

static const struct {
    const char *args[7];
    const char *want[2]; /* both in the message */
} refusals[] = {
    {{NULL}, {"-kernel", "nothing to boot"}},
    {{"-frobnicate"}, {"-frobnicate", "unknown option"}},
    {{"-kernal", "x"}, {"-kernal", "did you mean -kernel?"}},
    {{"--no-rebot"}, {"--no-rebot", "-no-reboot"}},
    {{"disk.img"}, {"disk.img", "not an option"}},
    {{"-"}, {"'-'", "not an option"}},
    {{"-hda", "x"}, {"-hda", "of QEMU"}},
    {{"-drive", "file=x"}, {"-drive", "-initrd"}},
    {{"-netdev", "user"}, {"-netdev", "-nic none"}},
    {{"-enable-hax"}, {"-enable-hax", "-accel kvm"}},
    {{"-qmp", "stdio"}, {"-qmp", "-monitor"}},
    {{"-append", "x"}, {"-append", "-kernel"}},
    {{"-bios", "b", "-initrd", "x"}, {"-initrd", "-kernel"}},
    {{"-kernel", ""}, {"-kernel", "empty"}},
    {{"-device", ""}, {"-device", "empty"}},
    {{"-accel", ""}, {"-accel", "empty"}},
    {{"-smp", ""}, {"-smp", "empty"}},
    {{"-demo", "-smp", "2"}, {"-smp", "-demo"}},
    {{"-demo", "-serial", "stdio"}, {"-serial", "-demo"}},
    {{"-demo", "-m", "64", "-S"}, {"-m", "-demo"}},
    {{"-demo", "-switch", "every=1ms"}, {"-switch", "-demo"}},
    {{"-machine", "pc,acpi=off"}, {"acpi can only be on", "acpi=off leaves"}},
    {{"-machine", "pc,hpet=off"}, {"hpet can only be on", "hpet=disable"}},
    {{"-accel", "kvm,kernel-irqchip=maybe"}, {"kernel-irqchip=on", "split and off"}},
    {{"-accel", "tcg,kernel-irqchip=on"}, {"no property", "kernel-irqchip"}},
    {{"-name", "x,debug-threads=off"}, {"debug-threads", "always"}},
    {{"-rtc", "base=2030-13-01"}, {"2030-13-01", "localtime"}},
    {{"-rtc", "base"}, {"-rtc base", "localtime"}},
    {{"-machine", "q35"}, {"q35", "pc"}},
    {{"-machine", "pc,usb=on"}, {"usb can only be off", "no USB"}},
    {{"-machine", "pc,sata=on"}, {"sata", "accel"}},
    {{"-machine", "accel=kvm", "-accel", "tcg", "-kernel", "k"},
     {"-accel tcg", "-machine accel=kvm"}},
    {{"-accel", "kvm,rescue=maybe"}, {"rescue", "on or off"}},
    {{"-accel", "rescue=off"}, {"rescue=off", "comes first"}},
    {{"-accel", "tcg,thread=single"}, {"thread=single", "thread=multi"}},
    {{"-accel", "tcg,threads=multi"}, {"'threads'", "tb-size"}},
    {{"-accel", "kvm,tb-size=4"}, {"kvm has no translated code", "tcg"}},
    {{"-accel", "interp,tb-size=4"}, {"interp has no translated code", "tcg"}},
    {{"-accel", "tcg,tb-size=big"}, {"tb-size", "MiB"}},
    {{"-accel", "jit,tb-size=2048"}, {"tb-size", "2047"}},
    {{"-accel", "tcg,tb-size"}, {"tb-size", "MiB"}},
    {{"-smp", "0"}, {"-smp 0", "1 to 64"}},
    {{"-smp", "9999"}, {"-smp 9999", "1 to 64"}},
    {{"-smp", "99999999999999999999"}, {"-smp", "not a number"}},
    {{"-smp", "-1"}, {"-smp -1", "not a number"}},
    {{"-smp", "two"}, {"two", "not a number"}},
    {{"-smp", "4,sockets=2"}, {"sockets=2", "sockets=1,cores=4,threads=1"}},
    {{"-smp", "4,cores=2,threads=2"}, {"-smp", "one socket"}},
    {{"-smp", "2,maxcpus=4"}, {"maxcpus=4", "later"}},
    {{"-machine", "pc,kernel-irqchip=maybe"}, {"kernel-irqchip=on", "split and off"}},
    {{"-machine", "pc,kernel_irqchips=on"}, {"no property", "kernel_irqchips"}},
    {{"-machine", "pc,kernel-pit=maybe"}, {"kernel-pit is on or off", "maybe"}},
    {{"-machine", "pc,kernel-pit"}, {"kernel-pit", "no value"}},
    {{"-smp", "2,dies=1"}, {"dies", "no property"}},
    {{"-m", "0"}, {"-m 0", "1 MiB"}},
    {{"-m", "lots"}, {"-m lots", "not a size"}},
    {{"-m", ""}, {"-m", "empty"}},
    {{"-m", "1G,slots=2"}, {"slots=2", "later"}},
    {{"-m", "99999999999999999T"}, {"-m 999", "not a size"}},
    {{"-name", "x,proc=y"}, {"'proc'", "process"}},
    {{"-display", "gtk"}, {"-display gtk", "-nographic"}},
    {{"-vga", "std"}, {"-vga std", "none"}},
    {{"-net", "user"}, {"-net user", "no network"}},
    {{"-monitor", "mon:stdio"}, {"mon:stdio", "-serial"}},
    {{"-monitor", "file:x"}, {"file:x", "type"}},
    {{"-debugcon", "mon:stdio"}, {"mon:stdio", "-serial"}},
    {{"-switches", "0", "-demo"}, {"-switches 0", "number"}},
    {{"-switches", "5", "-kernel", "k"}, {"-switches", "-demo"}},
    {{"-demo", "-kernel", "k"}, {"-demo", "-kernel"}},
    {{"-global", "kvm-pit"}, {"-global kvm-pit", "DEVICE.PROPERTY=VALUE"}},
    {{"-global", ".x=y"}, {"-global .x=y", "DEVICE.PROPERTY=VALUE"}},
    {{"-global", "a.=y"}, {"-global a.=y", "DEVICE.PROPERTY=VALUE"}},
    {{"-overcommit", "pm=on"}, {"'pm'", "cpu-pm"}},
    {{"-overcommit", "cpu-pm"}, {"cpu-pm", "on or off"}},
    {{"-overcommit", "cpu-pm=on,mem-lock=on"}, {"mem-lock", "leave mem-lock out"}},
    {{"-rtc", "driftfix=fast"}, {"driftfix=fast", "driftfix=slew"}},
    {{"-rtc", "clock=vm"}, {"clock=vm", "clock=host"}},
    {{"-rtc", "clocks=vm"}, {"'clocks'", "driftfix"}},
    {{"-help=html"}, {"-help=html", "-help=man"}},
    {{"-S=on"}, {"-S=on", "unknown option"}},
};

START_TEST(refusal)
{
    Options o;
    GError *err = NULL;
    ck_assert_msg(!parse(&o, refusals[_i].args, &err), "row %d was accepted", _i);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_msg(strstr(err->message, refusals[_i].want[i]), "'%s' lacks '%s'", err->message,
                      refusals[_i].want[i]);
    ck_assert_msg(!strchr(err->message, '\n'), "one line: %s", err->message);
    g_error_free(err);
    options_clear(&o);
}
END_TEST

START_TEST(five_serial_ports)
{
    Options o;
    GError *err = NULL;
    const char *args[] = {"-serial", "null", "-serial", "null",  "-serial", "null",
                          "-serial", "null", "-serial", "fifth", NULL};
    ck_assert(!parse(&o, args, &err));
    ck_assert(strstr(err->message, "fifth"));
    g_error_free(err);
    options_clear(&o);
}
END_TEST

/* Every option of QEMU that we have not is refused by its name, and is not one that we have. */
START_TEST(qemu_options)
{
    static const char *const name[] = {
#define REFUSED(n, advice) n,
#include "options/qemu_options.def"
#undef REFUSED
    };
    for (unsigned i = 0; i < ARRAY_LEN(name); i++) {
        Options o;
        GError *err = NULL;
        g_autofree char *word = g_strdup_printf("-%s", name[i]);
        const char *args[] = {word, "x", NULL};
        ck_assert_msg(!parse(&o, args, &err), "%s was accepted", word);
        ck_assert_msg(g_str_has_prefix(err->message, word) && strstr(err->message, "of QEMU"), "%s",
                      err->message);
        g_error_free(err);
        options_clear(&o);
    }
}
END_TEST

/* ---- pidfile ---- */

START_TEST(pidfiles)
{
    char dir[] = "/tmp/tandem-test-XXXXXX";
    ck_assert(mkdtemp(dir));
    g_autofree char *path = g_build_filename(dir, "pid", NULL);
    g_autofree char *text = NULL;
    Pidfile p, second;
    GError *err = NULL;

    ck_assert(pidfile_make(&p, path, &err));
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_int_eq(atoi(text), getpid());
    ck_assert(!pidfile_make(&second, path, &err));
    ck_assert(strstr(err->message, path) && strstr(err->message, "locked"));
    g_clear_error(&err);
    pidfile_remove(&p);
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS));

    ck_assert(g_file_set_contents(path, "dear diary", -1, NULL));
    ck_assert(!pidfile_make(&p, path, &err));
    ck_assert(strstr(err->message, "something else"));
    g_clear_error(&err);
    pidfile_remove(&p);
    ck_assert(g_file_test(path, G_FILE_TEST_EXISTS));
    /* What a killed process left is taken over. */
    ck_assert(g_file_set_contents(path, "123\n", -1, NULL));
    ck_assert(pidfile_make(&p, path, &err));
    pidfile_remove(&p);
    ck_assert(!pidfile_make(&p, "/nonexistent/dir/pid", &err));
    ck_assert(strstr(err->message, "/nonexistent/dir/pid"));
    g_clear_error(&err);
    ck_assert(!pidfile_make(&p, dir, &err));
    g_clear_error(&err);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("options");
    tcase_add_test(t, each_row_has_a_sample);
    tcase_add_loop_test(t, each_row_parses, 0, ARRAY_LEN(samples));
    tcase_add_loop_test(t, argument_missing, 0, ARRAY_LEN(samples));
    tcase_add_test(t, documents_have_each_row);
    tcase_add_test(t, sizes);
    tcase_add_test(t, values_arrive);
    tcase_add_test(t, what_is_connected);
    tcase_add_loop_test(t, refusal, 0, ARRAY_LEN(refusals));
    tcase_add_test(t, five_serial_ports);
    tcase_add_test(t, qemu_options);
    tcase_add_test(t, pidfiles);
    suite_add_tcase(s, t);
    return run_suite(s);
}
