/* Symbols: both kinds of file, lookup both ways, and files that are not what they should be. */
#include <check.h>
#include <elf.h>
#include <string.h>
#include <unistd.h>

#include "base/symbols.h"
#include "run_suite.h"

static char *file_with(const void *data, size_t size)
{
    GError *err = NULL;
    char *path = NULL;
    int fd = g_file_open_tmp("symbols-XXXXXX", &path, &err);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
    close(fd);
    return path;
}

static void drop(char *path)
{
    unlink(path);
    g_free(path);
}

static const char map[] = "0000000000000000 D __per_cpu_start\n"
                          "0000000000000007 A a_number\n"
                          "ffffffff81000000 T _text\n"
                          "ffffffff81000000 T startup_64\n"
                          "ffffffff81000040 t local_one\n"
                          "ffffffff81000060 D table\n"
                          "ffffffff81000080 T do_idle\n"
                          "ffffffffc0001000 t probe\t[virtio]\n";

static const struct {
    uint64_t addr;
    const char *text;
} places[] = {
    {0xffffffff81000000, "_text"},
    {0xffffffff8100003f, "_text+0x3f"},
    {0xffffffff81000040, "local_one"},
    {0xffffffff81000060, ""}, /* data is no code, and ends what was before it */
    {0xffffffff81000081, "do_idle+0x1"},
    {0xffffffffc0001004, "probe+0x4"},
    {0xffffffffc0101004, ""}, /* too far behind the last name */
    {0x7c00, ""},
    {0, ""},
};

START_TEST(system_map)
{
    Symbols *s = symbols_new();
    char *path = file_with(map, strlen(map)), buf[SYMBOL_TEXT];
    GError *err = NULL;
    uint64_t addr, size;
    ck_assert_msg(symbols_add_file(s, path, &err), "%s", err ? err->message : "");
    ck_assert_uint_eq(symbols_count(s), 7);
    ck_assert_str_eq(symbols_text(s, places[_i].addr, buf), places[_i].text);
    ck_assert(symbols_find(s, "startup_64", &addr, &size));
    ck_assert_uint_eq(addr, 0xffffffff81000000);
    ck_assert_uint_eq(size, 0x40);
    ck_assert(symbols_find(s, "table", &addr, NULL)); /* data has names too */
    ck_assert(!symbols_find(s, "a_number", &addr, NULL));
    ck_assert_str_eq(symbols_nearest(s, "do_idel"), "do_idle");
    ck_assert_ptr_null(symbols_nearest(s, "schedule_timeout"));

    symbols_set_offset(s, 0x2000000);
    ck_assert(symbols_find(s, "do_idle", &addr, NULL));
    ck_assert_uint_eq(addr, 0xffffffff83000080);
    if (*places[_i].text)
        ck_assert_str_eq(symbols_text(s, places[_i].addr + 0x2000000, buf), places[_i].text);
    symbols_free(s);
    drop(path);
}
END_TEST

/* This program: a 64-bit ELF file with symbols, linked at some address or at 0. */
START_TEST(elf_file)
{
    Symbols *s = symbols_new();
    GError *err = NULL;
    uint64_t addr, size, one;
    char buf[SYMBOL_TEXT];
    ck_assert_msg(symbols_add_file(s, "/proc/self/exe", &err), "%s", err ? err->message : "");
    ck_assert(symbols_find(s, "symbols_add_file", &addr, &size));
    ck_assert(symbols_find(s, "symbols_find", &one, NULL));
    ck_assert_uint_gt(size, 5);
    ck_assert_uint_eq(one - addr,
                      (uint64_t)((uintptr_t)symbols_find - (uintptr_t)symbols_add_file));
    ck_assert_str_eq(symbols_text(s, addr + 5, buf), "symbols_add_file+0x5");
    ck_assert_str_eq(symbols_note(s, addr, buf), " (symbols_add_file)");
    symbols_free(s);
}
END_TEST

/* A 32-bit file made by hand: a function with a size, a label without. */
typedef struct Small {
    Elf32_Ehdr h;
    Elf32_Shdr sec[4];
    Elf32_Sym sym[5];
    char names[32];
} Small;

static Small small(void)
{
    Small f = {
        .h = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
              .e_shoff = offsetof(Small, sec),
              .e_shentsize = sizeof(Elf32_Shdr),
              .e_shnum = 4},
        .sec = {[1] = {.sh_type = SHT_PROGBITS, .sh_flags = SHF_EXECINSTR},
                [2] = {.sh_type = SHT_SYMTAB,
                       .sh_link = 3,
                       .sh_offset = offsetof(Small, sym),
                       .sh_size = sizeof(f.sym)},
                [3] = {.sh_type = SHT_STRTAB,
                       .sh_offset = offsetof(Small, names),
                       .sh_size = sizeof(f.names)}},
        .sym = {[1] = {.st_name = 1,
                       .st_value = 0x1000,
                       .st_size = 8,
                       .st_info = STT_FUNC,
                       .st_shndx = 1},
                [2] = {.st_name = 6, .st_value = 0x1010, .st_info = STT_NOTYPE, .st_shndx = 1},
                [3] = {.st_name = 12, .st_value = 0x2000, .st_info = STT_FILE, .st_shndx = 1},
                [4] = {.st_name = 999, .st_value = 0x1100, .st_info = STT_FUNC, .st_shndx = 1}},
        .names = "\0func\0label\0file.c",
    };
    return f;
}

START_TEST(elf32)
{
    Small f = small();
    Symbols *s = symbols_new();
    char *path = file_with(&f, sizeof(f)), buf[SYMBOL_TEXT];
    GError *err = NULL;
    ck_assert_msg(symbols_add_file(s, path, &err), "%s", err ? err->message : "");
    ck_assert_uint_eq(symbols_count(s), 2);
    ck_assert_str_eq(symbols_text(s, 0x1007, buf), "func+0x7");
    ck_assert_str_eq(symbols_text(s, 0x1008, buf), ""); /* behind its end */
    ck_assert_str_eq(symbols_text(s, 0x1012, buf), "label+0x2");
    symbols_free(s);
    drop(path);
}
END_TEST

static void refused(const void *data, size_t size, const char *says)
{
    Symbols *s = symbols_new();
    GError *err = NULL;
    char *path = file_with(data, size);
    ck_assert(!symbols_add_file(s, path, &err));
    ck_assert_msg(strstr(err->message, says) && strstr(err->message, path), "%s", err->message);
    ck_assert_uint_eq(symbols_count(s), 0);
    g_error_free(err);
    symbols_free(s);
    drop(path);
}

START_TEST(bad_files)
{
    static const char stub[] =
        "ffffffffffffffff B The real System.map is in the linux-image-dbg package\n";
    static const char zero[] = "0000000000000000 T _text\n0000000000000000 T _stext\n";
    static const char second[] = "ffffffff81000000 T _text\nwhat is this\n";
    refused("", 0, "no symbols");
    refused(stub, strlen(stub), "placeholder");
    refused(zero, strlen(zero), "only to root");
    refused(second, strlen(second), "line 2");
    refused("\1\2\3\4", 4, "line 1");
    g_autofree char *line = g_strnfill(1 << 17, 'x');
    memcpy(line, second, strlen("ffffffff81000000 T "));
    refused(line, 1 << 17, "line 1"); /* whoever tells a line's end has read it all */

    Small f = small();
    refused(&f, sizeof(Elf32_Ehdr), "truncated");
    f.sec[2].sh_type = SHT_PROGBITS;
    refused(&f, sizeof(f), "no symbol table");
    f = small();
    f.sec[2].sh_link = 77;
    refused(&f, sizeof(f), "no names");
    f = small();
    f.h.e_shoff = 0xffffff00;
    refused(&f, sizeof(f), "truncated");
    f = small();
    f.h.e_ident[EI_DATA] = ELFDATA2MSB;
    refused(&f, sizeof(f), "x86");
    refused(&f, 6, "line 1"); /* shorter than what says that it is one */

    /* Names and tables that reach out of the file, at every byte. */
    for (size_t at = 0; at < sizeof(f); at++) {
        Symbols *s = symbols_new();
        f = small();
        ((uint8_t *)&f)[at] ^= 0xff;
        char *path = file_with(&f, sizeof(f));
        symbols_add_file(s, path, NULL);
        symbols_free(s);
        drop(path);
    }
}
END_TEST

START_TEST(options)
{
    Symbols *s = symbols_new();
    GError *err = NULL;
    char *path = file_with(map, strlen(map));
    g_autofree char *moved = g_strconcat(path, ",offset=-0x1000", NULL);
    g_autofree char *word = g_strconcat(path, ",offset=far", NULL);
    g_autofree char *other = g_strconcat(path, ",base=0x1000", NULL);
    uint64_t addr;
    ck_assert(!symbols_add_option(s, word, &err));
    ck_assert(strstr(err->message, "'far' is not a number"));
    g_clear_error(&err);
    ck_assert(!symbols_add_option(s, other, &err));
    ck_assert(strstr(err->message, "no property 'base=0x1000'"));
    g_clear_error(&err);
    ck_assert(!symbols_add_option(s, "/nowhere/System.map", &err));
    ck_assert(strstr(err->message, "no such file"));
    g_clear_error(&err);
    ck_assert(!symbols_add_option(s, "/tmp", &err));
    ck_assert(strstr(err->message, "is a folder"));
    g_clear_error(&err);
    ck_assert(symbols_add_option(s, moved, &err));
    ck_assert(symbols_find(s, "_text", &addr, NULL));
    ck_assert_uint_eq(addr, 0xffffffff80fff000);
    symbols_free(s);
    drop(path);
}
END_TEST

static void count(const char *name, uint64_t addr, uint64_t size, void *opaque)
{
    uint64_t *last = opaque;
    ck_assert_uint_ge(addr, *last);
    *last = addr;
}

START_TEST(each_in_order_and_nothing)
{
    Symbols *s = symbols_new();
    char *path = file_with(map, strlen(map)), buf[SYMBOL_TEXT];
    uint64_t last = 0, addr;
    symbols_add_kernel(s, path); /* no ELF: adds nothing, says nothing */
    ck_assert_uint_eq(symbols_count(s), 0);
    ck_assert(symbols_add_file(s, path, NULL));
    symbols_each(s, count, &last);
    ck_assert_uint_eq(last, 0xffffffffc0001000);
    symbols_free(s);
    drop(path);

    ck_assert_str_eq(symbols_note(NULL, 0x1000, buf), "");
    ck_assert(!symbols_find(NULL, "x", &addr, NULL));
    ck_assert_uint_eq(symbols_count(NULL), 0);
    symbols_each(NULL, count, NULL);
    symbols_free(NULL);
}
END_TEST

int main(void)
{
    Suite *su = suite_create("symbols");
    TCase *tc = tcase_create("symbols");
    tcase_add_loop_test(tc, system_map, 0, ARRAY_LEN(places));
    tcase_add_test(tc, elf_file);
    tcase_add_test(tc, elf32);
    tcase_add_test(tc, bad_files);
    tcase_add_test(tc, options);
    tcase_add_test(tc, each_in_order_and_nothing);
    suite_add_tcase(su, tc);
    return run_suite(su);
}
