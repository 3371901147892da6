/* The monitor: command lines, help, completion and the line editor; and commands on a machine in
 * the software engine. */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "monitor/lineedit.h"
#include "monitor/monitor_priv.h"
#include "base/nearest.h"
#include "run_suite.h"

static char *run(const char *line)
{
    MonState mon = {.last = {'x', 4, 1}};
    GString *out = g_string_new(NULL);
    monitor_execute(&mon, line, out);
    return g_string_free(out, FALSE);
}

/* ---- command lines ---- */

static const struct {
    const char *line, *want;
} answers[] = {
    {"foo", "unknown command: 'foo'; 'help' lists them\n"},
    {"swich kvm", "unknown command: 'swich'; did you mean 'switch'?\n"},
    {"system_rest", "did you mean 'system_reset'?"},
    {"foo/bar", "unknown command: 'foo/bar'"},
    {"/8x", "unknown command: '/8x'"},
    {"info foo", "unknown topic: 'foo'"},
    {"info registr", "did you mean 'registers'?"},
    {"help foo", "unknown command: 'foo'"},
    {"help info foo", "unknown topic: 'foo'"},
    {"switch",
     "switch: kvm|tcg|jit|interp is missing; usage: switch [--dry-run] kvm|tcg|jit|interp [cpu]\n"},
    {"switch kvm one", "'one' is not a number"},
    {"switch kvm 1 2", "'2' is too much"},
    {"stop now", "stop: 'now' is too much; usage: stop\n"},
    {"cpu", "cpu: index is missing; usage: cpu index\n"},
    {"cpu 1x", "'1x' is not a number"},
    {"info status x", "'x' is too much; usage: info status\n"},
    {"x", "addr is missing; usage: x [/fmt] addr\n"},
    {"x/8q 0", "'q' is neither a format"},
    {"x /0x 0", "from 1 to 65536"},
    {"xp /99999999999999999999x 0", "from 1 to 65536"},
    {"x zero", "'zero' is not an address"},
    {"x 1+", "is not an address"},
    {"x $nothing", "no register $nothing"},
    {"info version", TANDEM_VERSION "\n"},
    {"  info   version  ", TANDEM_VERSION "\n"},
    {"log nonsense", "nonsense"},
    {"log help", "cpu_reset"},
    {"help switch", "switch [--dry-run] kvm|tcg|jit|interp [cpu]"},
    {"help q", "quit|q"},
    {"? info version", "info version"},
};

START_TEST(answer)
{
    g_autofree char *out = run(answers[_i].line);
    ck_assert_msg(strstr(out, answers[_i].want), "'%s': '%s' lacks '%s'", answers[_i].line, out,
                  answers[_i].want);
    ck_assert(g_str_has_suffix(out, "\n"));
}
END_TEST

START_TEST(empty_lines)
{
    static const char *const line[] = {"", "   ", "\t"};
    for (unsigned i = 0; i < ARRAY_LEN(line); i++) {
        g_autofree char *out = run(line[i]);
        ck_assert_str_eq(out, "");
    }
}
END_TEST

START_TEST(help_covers_each_row)
{
    g_autofree char *help = run("help"), *infos = run("help info"), *bare = run("info");
    ck_assert_str_eq(infos, bare);
    for (unsigned i = 0; i < mon_commands_n; i++) {
        const MonCommand *c = &mon_commands[i];
        const char *text = c->alias_of ? c->name : c->help;
        ck_assert_msg(strstr(help, text) != NULL, "help lacks %s", c->name);
        g_autofree char *line = g_strdup_printf("help %s", c->name);
        g_autofree char *one = run(line);
        ck_assert_msg(!strstr(one, "unknown"), "%s", one);
    }
    for (unsigned i = 0; i < mon_infos_n; i++) {
        g_autoptr(GString) usage = g_string_new(NULL);
        monitor_usage(&mon_infos[i], true, usage);
        ck_assert_msg(strstr(infos, usage->str) && strstr(infos, mon_infos[i].help), "%s",
                      usage->str);
    }
}
END_TEST

START_TEST(expressions)
{
    static const struct {
        const char *text;
        uint64_t value;
        bool ok;
    } row[] = {
        {"0x100", 0x100, true},
        {"16", 16, true},
        {"0x100 + 0x10 - 1", 0x10f, true},
        {"0-1", ~0ull, true},
        {"", 0, false},
        {"+", 0, false},
        {"0x", 0, false},
        {"12 34", 0, false},
        {"0xffffffff81000000", 0xffffffff81000000, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        MonState mon = {0};
        uint64_t value = 0;
        g_autoptr(GString) why = g_string_new(NULL);
        bool ok = monitor_expression(&mon, row[i].text, &value, why);
        ck_assert_msg(ok == row[i].ok && (!ok || value == row[i].value), "'%s': %d %llx %s",
                      row[i].text, ok, (unsigned long long)value, why->str);
        ck_assert(ok || why->len);
    }
}
END_TEST

START_TEST(formats)
{
    static const struct {
        const char *text;
        MonFormat f;
    } row[] = {
        {"/8xg", {'x', 8, 8}}, {"/i", {'i', 4, 1}},   {"/4xb", {'x', 1, 4}},
        {"/c", {'c', 1, 1}},   {"/2dh", {'d', 2, 2}}, {"/w", {'x', 4, 1}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        MonFormat f = {'x', 4, 7};
        g_autoptr(GString) why = g_string_new(NULL);
        ck_assert_msg(monitor_format(row[i].text, &f, why), "%s", why->str);
        ck_assert_msg(f.format == row[i].f.format && f.size == row[i].f.size &&
                          f.count == row[i].f.count,
                      "%s: %c %u %u", row[i].text, f.format, f.size, f.count);
    }
}
END_TEST

/* ---- completion ---- */

START_TEST(completion)
{
    static const struct {
        const char *text, *words;
    } row[] = {
        {"sw", "switch switch-policy"},
        {"switch-", "switch-policy"},
        {"system_", "system_powerdown system_reset"},
        {"switch ", "kvm tcg jit interp"},
        {"switch t", "tcg"},
        {"switch --", "--dry-run"},
        {"switch --dry-run k", "kvm"},
        {"switch kvm ", ""},
        {"info st", "status"},
        {"info s", "status switch symbol"},
        {"help sto", "stop"},
        {"help info v", "version"},
        {"log n", "none"},
        {"log ", "none help"},
        {"zzz", ""},
        {"zzz a", ""},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
        g_autoptr(GString) s = g_string_new(NULL);
        monitor_complete(row[i].text, words);
        for (guint j = 0; j < words->len; j++)
            g_string_append_printf(s, "%s%s", j ? " " : "", (char *)words->pdata[j]);
        ck_assert_msg(!strcmp(s->str, row[i].words), "'%s': '%s'", row[i].text, s->str);
    }
}
END_TEST

START_TEST(nearest)
{
    ck_assert_uint_eq(edit_distance("kernel", "kernal"), 1);
    ck_assert_uint_eq(edit_distance("kernel", "kernle"), 1);
    ck_assert_uint_eq(edit_distance("", "abc"), 3);
    ck_assert_uint_eq(edit_distance("same", "same"), 0);
    ck_assert_uint_eq(edit_distance("abc", "cab"), 2);
    Nearest n = {.typed = "zzzz"};
    nearest_offer(&n, "quit");
    ck_assert_ptr_null(n.best);
}
END_TEST

/* ---- with a machine: a BIOS of one instruction that jumps to itself ---- */

static const struct {
    const char *line, *want; /* "" nothing at all, "!x": not x */
} on_machine[] = {
    {"info status", "VM status: paused (prelaunch)\n"},
    {"info registers", "RIP=000000000000fff0"},
    {"x /1i $pc", "0x00000000fffffff0:  eb fe"},
    {"x /i $pc", "jmp"},
    {"xp /4xb 0xffff0", "00000000000ffff0: 0xeb 0xfe 0x00 0x00\n"},
    {"xp/2xw 0xffff0", "0x0000feeb 0x00000000\n"},
    {"xp 0xffff0", "00000000000ffff0: 0x0000feeb\n"}, /* the format stays, the count does not */
    {"xp /1dh 0xffff0", "-277\n"},
    {"xp /1c 0xffff2", "'\\x00'\n"},
    {"xp /1xw 0xfee00000", "no memory at physical address 0x00000000fee00000\n"},
    {"xp /2xb 0x7fffff",
     "00000000007fffff: 0x00\nno memory at physical address 0x0000000000800000\n"},
    {"x /1xb $nothing", "no register $nothing"},
    {"x /1xg $cs", "00000000ffff0000"},
    {"print $cs+0x10", "0xffff0010\n"},
    {"p /d 0-5", "-5\n"},
    {"p /u 0-1", "18446744073709551615\n"},
    {"p /o 8", "00000000000000000000010\n"},
    {"p /c 0x41", "'A'\n"},
    {"x /1xb $cs+0xfff2", "0x00\n"},
    {"p $nothing", "no register $nothing"},
    {"p", "value is missing"},
    {"gva2gpa $pc", "gpa: 0xfffffff0\n"},
    {"memsave $nothing 5 /nowhere/x", "Error: there is no register $nothing"},
    {"memsave 0 0 /nowhere/x", "Error: 0 is no size\n"},
    {"memsave 0 -4 /nowhere/x", "Error: -4 is no size\n"},
    {"memsave 0 4 /nowhere/x", "Error: /nowhere/x: No such file"},
    {"memsave 0 4", "file is missing"},
    {"pmemsave 0 4 /dev/full", "Error: /dev/full: No space left"},
    {"cont", ""},
    {"info status", "VM status: running\n"},
    {"info cpus", "* CPU #0: pc=0x000000000000fff0 engine=interp"},
    {"info cpus", "CPU #1: pc=0x000000000000fff0 (waits for SIPI) engine=interp"},
    {"cpu 2", "no cpu 2; there are 0 to 1"},
    {"cpu 1", ""},
    {"info cpus", "* CPU #1"},
    {"info registers", "CPU#1\n"},
    {"info registers -a", "CPU#0\n"},
    {"info registers -b", "'-b' is not -a"},
    {"switch interp", "cpu 0: is in interp already\ncpu 1: is in interp already\n"},
    {"switch interp 1", "cpu 1: is in interp already\n"},
    {"switch interp 7", "no cpu 7; there are 0 to 1"},
    {"switch interp -1", "no cpu -1"},
    {"switch warp", "no engine 'warp'"},
    {"switch kvm", "Error: kvm cannot run this machine"},
    {"info status", "VM status: running\n"},
    {"info switch", "cpu 1: in interp; switches to kvm 0, to jit 0, to interp 0\n"},
    {"info switch -v", "cpu 1: in interp; switches to kvm 0, to jit 0, to interp 0\n"},
    {"info switch -q", "there is no option -q; there is -v"},
    {"switch --dry-run interp", "cpu 1: is in interp already; nothing would be done\n"},
    {"switch --dry", "there is no option --dry; there is --dry-run"},
    {"switch --dry-run", "kvm|tcg|jit|interp is missing"},
    {"statediff cpu0 cpu0", "no field differs\n"},
    {"statediff cpu0 engine0", "no field differs\n"},
    {"statediff cpu0 cpu1", "mp_state"},
    {"statediff cpu0 cpu1", "lapic     LAPIC.APIC_BASE      0xfee00900  |  0xfee00800\n"},
    {"statediff --json cpu0 cpu1", "\"field\" : \"LAPIC.APIC_BASE\""},
    {"statediff cpu0 cpu1", "fields differ: cpu0  |  cpu1\n"},
    {"statediff --json cpu0 cpu1", "\"field\" : \"run_state\""},
    {"statediff --xml cpu0 cpu1", "there is no option --xml; there is --json"},
    {"statediff cpu0 cpu9", "no cpu 9; there are 0 to 1"},
    {"statediff cpu0 /nowhere", "'/nowhere' is neither cpuN nor engineN, nor a file"},
    {"statediff cpu0 /proc/version", "is not a state that savestate has written"},
    {"statediff cpu0", "B is missing"},
    {"savestate /nowhere/file", "Error: "},
    {"info accel", "interp"},
    {"info jit", "cpu 0: 0 blocks translated"},
    {"info kvm", "not in this machine"},
    {"log int,mmu", ""},
    {"log out_asm", "log category out_asm: of the translator; nothing until 'switch jit'\n"},
    {"log int,nonsense", "no log category 'nonsense'"},
    {"log none", ""},
    {"info name", "box\n"},
    {"info mtree", " rom @"},
    {"info chardev", "serial3: none\n"},
    {"info rules", "tr-busy"},
    {"symbols", "there are no symbols; -symbols FILE"},
    {"info symbol 0x1234", "0x0000000000001234 has no symbol\n"},
    {"x start_kernel", "'start_kernel' is not an address; usage"},
    {"nmi", ""},
    {"system_reset", ""},
    {"system_powerdown", ""},
    {"stop", ""},
    {"info status", "VM status: paused\n"},
};

/* The last byte of RAM and what is behind it; the BIOS by its linear address. */
static void memory_goes_to_files(MonState *mon)
{
    g_autofree char *dir = g_dir_make_tmp("tandem-mem-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "f", NULL);
    static const struct {
        const char *line, *says, *data;
        gsize len;
    } row[] = {
        {"memsave $pc 3 %s", "", "\xeb\xfe\0", 3},
        {"pmemsave 0xefff0 0x10002 %s", "16 bytes are no memory", "\0", 0x10002},
        {"pmemsave 0xffffffff 2 %s",
         "no memory at physical address 0x0000000100000000\nError: ", "\0", 1},
        {"pmemsave 0x7fffff 3 %s", "2 bytes are no memory", "\0\0", 3},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
        g_autofree char *line = g_strdup_printf(row[i].line, path);
        g_autofree char *data = NULL;
        g_autoptr(GString) out = g_string_new(NULL);
        gsize len;
        monitor_execute(mon, line, out);
        ck_assert_msg(g_str_has_prefix(out->str, row[i].says) && (!*row[i].says) == !out->len,
                      "%s: %s", line, out->str);
        ck_assert(g_file_get_contents(path, &data, &len, NULL));
        ck_assert_uint_eq(len, row[i].len);
        ck_assert_mem_eq(data, row[i].data, len == 3 ? 3 : 1);
        if (len > 3)
            ck_assert_mem_eq(data + 0x10000, "\xeb\xfe", 2);
        unlink(path);
    }
    rmdir(dir);
}

START_TEST(commands_on_a_machine)
{
    static uint8_t bios[65536];
    GError *err = NULL;
    memcpy(bios + 0xfff0, "\xeb\xfe", 2);
    MachineConfig cfg = {.machine = "pc",
                         .accel = "interp",
                         .ram_bytes = 8 << 20,
                         .smp = 2,
                         .bios_image = bios,
                         .bios_image_size = sizeof(bios),
                         .start_paused = true,
                         .name = "box"};
    Machine *m = machine_new(&cfg, &err);
    ck_assert_msg(m != NULL, "%s", err ? err->message : "");
    ck_assert(machine_start(m, &err));
    MonState mon = {.m = m, .last = {'x', 4, 1}};
    for (unsigned i = 0; i < ARRAY_LEN(on_machine); i++) {
        g_autoptr(GString) out = g_string_new(NULL);
        monitor_execute(&mon, on_machine[i].line, out);
        bool silent = !*on_machine[i].want;
        ck_assert_msg(silent ? !out->len : strstr(out->str, on_machine[i].want) != NULL,
                      "'%s': '%s' lacks '%s'", on_machine[i].line, out->str, on_machine[i].want);
    }
    memory_goes_to_files(&mon);
    g_autoptr(GString) out = g_string_new(NULL);
    monitor_execute(&mon, "quit", out);
    ck_assert_int_eq(machine_main_loop(m), 0);
    machine_free(m);
}
END_TEST

/* ---- line editor ---- */

typedef struct Typed {
    GString *out, *lines;
} Typed;

static void ed_write(void *opaque, const char *buf, size_t len)
{
    g_string_append_len(((Typed *)opaque)->out, buf, (gssize)len);
}

static bool ed_execute(void *opaque, const char *line)
{
    g_string_append_printf(((Typed *)opaque)->lines, "<%s>", line);
    return strcmp(line, "quit") != 0;
}

static void ed_complete(void *opaque, const char *text, GPtrArray *words)
{
    monitor_complete(text, words);
}

static void type(const char *keys, Typed *t)
{
    *t = (Typed){g_string_new(NULL), g_string_new(NULL)};
    LineEditOps ops = {t, ed_write, ed_execute, ed_complete};
    LineEdit *e = lineedit_new(&ops, "> ");
    lineedit_show(e);
    lineedit_input(e, (const uint8_t *)keys, strlen(keys));
    lineedit_free(e);
}

static void typed_free(Typed *t)
{
    g_string_free(t->out, TRUE);
    g_string_free(t->lines, TRUE);
}

static const struct {
    const char *keys, *lines;
} edits[] = {
    {"info\r", "<info>"},
    {"a\nb\r\nc\r", "<a><b><c>"},
    {"\r\r", "<><>"},
    {"abc\x7f\x7f"
     "d\r",
     "<ad>"},
    {"abc\b\r", "<ab>"},
    {"\x7f\x7fx\r", "<x>"},
    {"one two\x15three\r", "<three>"},
    {"one two\x17three\r", "<one three>"},
    {"abc\x1b[D\x1b[DX\r", "<aXbc>"},
    {"abc\x02\x02\x06X\r", "<abXc>"},
    {"abc\x01X\x05Y\r", "<XabcY>"},
    {"abc\x1b[HX\x1b[FY\r", "<XabcY>"},
    {"abc\x1b[1~X\x1b[4~Y\r", "<XabcY>"},
    {"abc\x01\x1b[3~\x04\r", "<c>"},
    {"abc\x01\x06\x0b\r", "<a>"},
    {"one\rtwo\r\x1b[A\x1b[A\r", "<one><two><one>"},
    {"one\rha\x1b[A\x1b[B\x1bOA\x10\x0elf\r", "<one><half>"},
    {"one\r\x10!\r\x10\x10\r", "<one><one!><one>"},
    {"abc\x03"
     "d\r",
     "<d>"},
    {"\x1b[99;99;99zq\r", "<q>"},
    {"\x1bxq\r", "<q>"},
    {"nm\t\r", "<nmi >"},
    {"sw\t k\t\r", "<switch kvm >"},
    {"system_\tr\t\r", "<system_reset >"},
    {"zz\t\r", "<zz>"},
    {"caf\xc3\xa9\r", "<caf\xc3\xa9>"},
};

START_TEST(edit)
{
    Typed t;
    type(edits[_i].keys, &t);
    ck_assert_msg(!strcmp(t.lines->str, edits[_i].lines), "row %d: %s, not %s", _i, t.lines->str,
                  edits[_i].lines);
    typed_free(&t);
}
END_TEST

START_TEST(plain_lines_are_only_echoed)
{
    Typed t;
    type("info status\nquit\n", &t);
    ck_assert_str_eq(t.out->str, "> info status\n> quit\n");
    typed_free(&t);
}
END_TEST

START_TEST(choices_are_shown)
{
    Typed t;
    type("info s\t", &t);
    ck_assert_msg(strstr(t.out->str, "\nstatus  switch  symbol\n"), "%s", t.out->str);
    typed_free(&t);
}
END_TEST

START_TEST(long_line)
{
    Typed t;
    g_autofree char *keys = g_strnfill(100000, 'a');
    g_autofree char *all = g_strconcat(keys, "\r", NULL);
    type(all, &t);
    ck_assert_uint_eq(t.lines->len, LINE_MAX_BYTES + 2);
    typed_free(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("monitor");
    TCase *t = tcase_create("monitor");
    tcase_add_loop_test(t, answer, 0, ARRAY_LEN(answers));
    tcase_add_test(t, empty_lines);
    tcase_add_test(t, help_covers_each_row);
    tcase_add_test(t, expressions);
    tcase_add_test(t, formats);
    tcase_add_test(t, completion);
    tcase_add_test(t, nearest);
    tcase_add_test(t, commands_on_a_machine);
    tcase_add_loop_test(t, edit, 0, ARRAY_LEN(edits));
    tcase_add_test(t, plain_lines_are_only_echoed);
    tcase_add_test(t, choices_are_shown);
    tcase_add_test(t, long_line);
    suite_add_tcase(s, t);
    return run_suite(s);
}
