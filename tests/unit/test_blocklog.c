/* -d in_asm, out_asm, exec, cpu and nochain in both software engines. */
#include <stdio.h>
#include <stdlib.h>
#include "jit/jit.h"
#include "tcg/blocklog.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define PASSES 60

/* mov ecx, PASSES; again: add eax, 3; nop; dec ecx; jnz again; hlt */
static const uint8_t program[] = {0xb9, PASSES, 0,    0,    0,    0x83, 0xc0,
                                  0x03, 0x90,   0xff, 0xc9, 0x75, 0xf8, 0xf4};
#define AGAIN (G_CODE + 5)

static const Engine *const engines[] = {&engine_interp, &engine_jit};

static Symbols *names(void)
{
    g_autofree char *path = g_strdup_printf("/tmp/test_blocklog.%d.map", (int)getpid());
    ck_assert(g_file_set_contents(path, "0000000060100005 t again\n", -1, NULL));
    Symbols *s = symbols_new();
    ck_assert(symbols_add_file(s, path, NULL));
    unlink(path);
    return s;
}

/* What is logged while the program runs. */
static char *logged(const Engine *e, const char *categories)
{
    g_autofree char *path = g_strdup_printf("/tmp/test_blocklog.%d", (int)getpid());
    GError *err = NULL;
    char *text;
    guest_setup();
    Symbols *symbols = names();
    guest.vm.symbols = symbols;
    guest_engine = e;
    if (e->id == ENGINE_JIT)
        ck_assert(engine_jit.vcpu_init(&guest.v, &err));
    memcpy(gp(G_CODE), program, sizeof(program));
    ck_assert(log_to_file(path, &err) && log_set(categories, &err));
    Exit x = guest_run(0);
    log_set_mask(0);
    ck_assert_int_eq(x.kind, EXIT_HLT);
    ck_assert_uint_eq(guest.v.st.gpr[RAX] & 0xffffffff, 3 * PASSES);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    unlink(path);
    guest_teardown();
    symbols_free(symbols);
    return text;
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;
    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static bool no_translator(void)
{
    GError *err = NULL;
    if (jit_supported(&err))
        return false;
    fprintf(stderr, "skipped: %s\n", err->message);
    g_error_free(err);
    return true;
}

START_TEST(guest_code)
{
    if (engines[_i] == &engine_jit && no_translator())
        return;
    g_autofree char *text = logged(engines[_i], "in_asm");
    ck_assert_msg(strstr(text, "----------------\nIN: \n"
                               "0x60100000:  b9 3c 00 00 00                mov ecx, 0x3c\n"
                               "0x60100005:  83 c0 03                      add eax, 3\n"
                               "0x60100008:  90                            nop\n") != NULL,
                  "%s", text);
    ck_assert_msg(strstr(text, "0x6010000b:  75 f8                         jne 0x60100005\n") !=
                      NULL,
                  "%s", text);
    ck_assert_uint_eq(count(text, "IN: again\n0x60100005: "), 1);
    ck_assert_uint_eq(count(text, "IN: "), 3); /* from the start, from `again`, HLT */
}
END_TEST

START_TEST(host_code)
{
    if (no_translator())
        return;
    g_autofree char *text = logged(&engine_jit, "out_asm");
    const char *out = strstr(text, "OUT: [size=");
    ck_assert_msg(out != NULL, "%s", text);
    ck_assert_uint_eq(count(text, "OUT: "), 1); /* HLT and the first lines run once */
    const char *add = strstr(out, "  -- guest addr 0x0000000060100005\n");
    const char *nop = strstr(out, "  -- guest addr 0x0000000060100008\n");
    const char *dec = strstr(out, "  -- guest addr 0x0000000060100009\n");
    const char *jnz = strstr(out, "  -- guest addr 0x000000006010000b\n");
    ck_assert_msg(add && add < nop && nop < dec && dec < jnz, "%s", text);
    ck_assert_msg(g_strstr_len(add, nop - add, "add r9d, 3\n") != NULL, "%s", text);
    ck_assert_msg(g_strstr_len(dec, jnz - dec, "dec r10d\n") != NULL, "%s", text);
    const char *far = strstr(jnz, "  -- out of line\n");
    ck_assert_msg(far && g_strstr_len(jnz, far - jnz, "jne 0x") != NULL, "%s", text);
    g_autofree char *interp = logged(&engine_interp, "out_asm");
    ck_assert_str_eq(interp, "");
}
END_TEST

START_TEST(each_block)
{
    bool jit = engines[_i] == &engine_jit;
    if (jit && no_translator())
        return;
    g_autofree char *trace = logged(engines[_i], "exec,nochain");
    g_autofree char *rip = g_strdup_printf("[00000000/%016" G_GINT64_MODIFIER "x/", (guint64)AGAIN);
    ck_assert_msg(g_str_has_prefix(trace, "Trace 0: 0x"), "%s", trace);
    ck_assert_uint_eq(count(trace, "] again\n"), PASSES - 1);
    /* The first pass belongs to the block before. */
    ck_assert_uint_eq(count(trace, rip), PASSES - 1);
    ck_assert_uint_eq(count(trace, "Trace 0: "), PASSES + 1);
    if (!jit)
        return;
    g_autofree char *chained = logged(engines[_i], "exec");
    ck_assert_uint_lt(count(chained, "Trace 0: "), PASSES / 2);
}
END_TEST

START_TEST(registers)
{
    if (engines[_i] == &engine_jit && no_translator())
        return;
    g_autofree char *text = logged(engines[_i], "cpu,nochain");
    ck_assert_uint_eq(count(text, "RAX="), PASSES + 1);
    for (unsigned pass = 1; pass < PASSES; pass++) {
        g_autofree char *line = g_strdup_printf("\nRAX=%016x RBX=", 3 * pass);
        ck_assert_msg(strstr(text, line) != NULL, "no %s in %s", line, text);
    }
    ck_assert_ptr_nonnull(strstr(text, "RIP=0000000060100005 RFL=00000002 [-------] CPL=0\n"));
    ck_assert_ptr_nonnull(strstr(text, "CS =0008 0000000000000000 ffffffff 0000a09b\n"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("blocklog");
    TCase *t = tcase_create("blocklog");
    tcase_add_loop_test(t, guest_code, 0, ARRAY_LEN(engines));
    tcase_add_test(t, host_code);
    tcase_add_loop_test(t, each_block, 0, ARRAY_LEN(engines));
    tcase_add_loop_test(t, registers, 0, ARRAY_LEN(engines));
    suite_add_tcase(s, t);
    return run_suite(s);
}
