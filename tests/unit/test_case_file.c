/* Cases as text: written and read back, and every kind of broken file refused by line and reason.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "diff/case.h"
#include "vmstate/state.h"
#include "run_suite.h"

static uint64_t seed = 0x9e3779b97f4a7c15;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

static void random_bytes(void *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)to)[i] = rnd() % 3 ? (uint8_t)(rnd() >> 32) : 0;
}

static void random_case(DiffCase *c)
{
    static CpuState any;
    enum CaseMode mode = rnd() % CM_N;
    case_baseline(c, mode, rnd() & 1 ? 3 : 0);
    c->stop = rnd() % STOP_N;
    c->len = (uint8_t)(1 + rnd() % 15);
    random_bytes(c->insn, c->len);
    c->seed = rnd() & 1 ? rnd() : 0;
    c->index = rnd() & 1 ? rnd() : 0;
    for (unsigned i = 0; i < GPR_N; i++)
        c->in.gpr[i] = rnd() & 1 ? rnd() : c->in.gpr[i];
    c->in.rip += rnd() % CASE_CODE_BYTES;
    c->in.rflags |= rnd() & (FL_ARITH | FL_DF | FL_AC);
    vmstate_randomise(&any, rnd());
    any.fpu.mxcsr_mask = c->in.fpu.mxcsr_mask; /* the host's, and derived: neither is in a file */
    any.fpu.xstate_bv = c->in.fpu.xstate_bv;
    c->in.fpu = any.fpu;
    c->in.msr.star = any.msr.star;
    c->in.msr.lstar = any.msr.lstar;
    c->in.cr2 = rnd();
    random_bytes(c->data + rnd() % 0x2000, 0x800);
    random_bytes(c->data + 0x4000, 0x1000);
    random_bytes(c->stack, CASE_STACK_BYTES);
}

START_TEST(round_trip)
{
    static DiffCase c, back;
    for (unsigned i = 0; i < 400; i++) {
        GString *text = g_string_new(NULL), *again = g_string_new(NULL);
        GError *err = NULL;
        random_case(&c);
        case_write(&c, text);
        ck_assert_msg(case_read(&back, text->str, "t", &err), "%s", err ? err->message : "");
        case_write(&back, again);
        ck_assert_str_eq(text->str, again->str);
        ck_assert_uint_eq(vmstate_diff(&c.in, &back.in, GROUPS_ALL, NULL, NULL), 0);
        ck_assert(!memcmp(c.data, back.data, sizeof(c.data)));
        ck_assert(!memcmp(c.stack, back.stack, sizeof(c.stack)));
        ck_assert_uint_eq(c.len, back.len);
        ck_assert(!memcmp(c.insn, back.insn, sizeof(c.insn)));
        ck_assert(c.mode == back.mode && c.stop == back.stop && c.seed == back.seed &&
                  c.index == back.index);
        g_string_free(text, TRUE);
        g_string_free(again, TRUE);
    }
}
END_TEST

START_TEST(baselines_are_valid)
{
    static DiffCase c;
    for (unsigned mode = 0; mode < CM_N; mode++) {
        for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
            GError *err = NULL;
            case_baseline(&c, mode, cpl);
            c.len = 1;
            c.insn[0] = 0x90;
            ck_assert_msg(case_valid(&c, &err), "%s cpl %u: %s", case_mode_name[mode], cpl,
                          err ? err->message : "");
            ck_assert_uint_eq(case_linear_rip(&c), CASE_CODE);
        }
    }
}
END_TEST

START_TEST(little_is_written)
{
    static DiffCase c;
    GString *text = g_string_new(NULL);
    static const uint8_t lzcnt[] = {0xf3, 0x0f, 0xbd, 0xc3};
    case_baseline(&c, CM_LONG, 3);
    memcpy(c.insn, lzcnt, c.len = sizeof(lzcnt));
    c.in.gpr[RBX] = 0x10;
    c.data[0x1003] = 0xab;
    case_write(&c, text);
    ck_assert_str_eq(text->str, "tandem case 1\n"
                                "insn f3 0f bd c3    # lzcnt eax, ebx\n"
                                "mode long\ncpl 3\nstop step\n"
                                "RBX 0x10\n"
                                "data+0x1003 ab\n");
    g_string_free(text, TRUE);
}
END_TEST

#define HEAD "tandem case 1\ninsn 90\nmode long\ncpl 3\n"

START_TEST(broken_files)
{
    static const struct {
        const char *text, *says;
    } broken[] = {
        {"", "f:1: empty"},
        {"# nothing\n\n", "f:3: empty"},
        {"insn 90\n", "f:1: not a case"},
        {"tandem case 2\ninsn 90\n", "f:1: a case of version '2'"},
        {"tandem case 1\n", "f:2: the file ends without insn"},
        {"tandem case 1\ninsn 90\n", "f:3: the file ends without mode"},
        {"tandem case 1\ninsn\n", "f:2: 'insn' has no bytes"},
        {"tandem case 1\ninsn 9\n", "f:2: '9' is not a byte"},
        {"tandem case 1\ninsn 0x90\n", "f:2: '0x90' is not a byte"},
        {"tandem case 1\ninsn gg\n", "f:2: 'gg' is not a byte"},
        {"tandem case 1\ninsn 90 90 90 90 90 90 90 90 90 90 90 90 90 90 90 90\n",
         "f:2: 'insn' has 16 bytes where 15 fit"},
        {"tandem case 1\ninsn 90\nmode huge\n", "f:3: there is no such mode"},
        {"tandem case 1\ninsn 90\nmode long long\n", "f:3: there is no such mode"},
        {"tandem case 1\ninsn 90\ncpl 3\n", "f:3: cpl comes after mode"},
        {"tandem case 1\ninsn 90\nmode long\ncpl 1\n", "f:4: cpl is 0 or 3"},
        {"tandem case 1\ninsn 90\nmode real\ncpl 3\n", "f:4: mode real has no cpl 3"},
        {"tandem case 1\ninsn 90\nmode long\nRAX 1\n", "f:4: 'RAX' before"},
        {HEAD "stop never\n", "f:5: stop is"},
        {HEAD "RAX\n", "f:5: RAX is not a number of 8 bytes"},
        {HEAD "RAX 1 2\n", "f:5: RAX is not"},
        {HEAD "RAX -1\n", "f:5: RAX is not"},
        {HEAD "RAX 0x\n", "f:5: RAX is not"},
        {HEAD "RAX 0x10000000000000000\n", "f:5: RAX is not"},
        {HEAD "RAX 99999999999999999999\n", "f:5: RAX is not"},
        {HEAD "FCW 0x10000\n", "f:5: FCW is not a number of 2 bytes"},
        {HEAD "RAX 1\n\nRAX 1\n", "f:7: 'RAX' comes twice"},
        {HEAD "mode real\n", "f:5: 'mode' comes twice"},
        {HEAD "EAX 1\n", "f:5: no field 'EAX'"},
        {HEAD "CPL 0\n", "f:5: no field 'CPL'"},
        {HEAD "run_state 1\n", "f:5: no field 'run_state'"},
        {HEAD "ZMM0 0x\n", "f:5: ZMM0 is not"},
        {HEAD "FPR0 0x000000000000000000000\n", "f:5: FPR0 is not 0x and up to 20"},
        {HEAD "FPR0 0xqq\n", "f:5: FPR0 is not"},
        {HEAD "DS 002b base 0 limit 0\n", "f:5: DS is not of the form"},
        {HEAD "DS 1002b base 0 limit 0 attr 0\n", "f:5: DS is not of the form"},
        {HEAD "DS 2b base 0 limit 0x100000000 attr 0\n", "f:5: DS is not of the form"},
        {HEAD "GDTR base 0 limit 0x10000\n", "f:5: GDTR is not of the form"},
        {HEAD "data+0x5000 00\n", "f:5: 'data+0x5000': the offset"},
        {HEAD "data+ 00\n", "f:5: 'data+': the offset"},
        {HEAD "data+-1 00\n", "f:5: 'data+-1': the offset"},
        {HEAD "data+0x4fff 00 00\n", "f:5: 'data+0x4fff' has 2 bytes where 1 fit"},
        {HEAD "data+0x3000 01\n", "f:5: 'data+0x3000' reaches into the page"},
        {HEAD "data+0x2fff 01 01\n", "f:5: 'data+0x2fff' reaches into the page"},
        {HEAD "stack+0x1000 00\n", "f:5: 'stack+0x1000': the offset"},
        {HEAD "stack+0x0\n", "f:5: 'stack+0x0' has no bytes"},
        {HEAD "RAX \001\n", "f:5: byte 0x1 is not text"},
        {HEAD "RIP 0x60102000\n", "RIP is not in the code pages"},
        {HEAD "RIP 0\n", "RIP is not in the code pages"},
        {HEAD "CR0 0x10\n", "CR0.PE does not fit the mode"},
        {HEAD "CR3 0x1000\n", "CR3 is not where"},
        {HEAD "EFER 0\n", "EFER.LMA does not fit"},
        {HEAD "RFLAGS 0x20002\n", "RFLAGS.VM does not fit"},
        {HEAD "RFLAGS 0\n", "check 'rflags-reserved' fails"},
        {HEAD "CS 0033 base 0 limit 0xffffffff attr 0xc0fb\n", "CS.L does not fit"},
        {HEAD "SS 002b base 0 limit 0xffffffff attr 0xc093\n", "CPL is not that of SS"},
        {HEAD "MXCSR 0x80000000\n", "check 'mxcsr-reserved' fails"},
        {HEAD "FCW 0x37e\nFSW 0x1\n", "FSW.ES and B do not follow"},
        {HEAD "FCW 0\n", "FCW has bits"},
        {HEAD "FOP 0x800\n", "FOP has more than 11 bits"},
        {HEAD "DR7 0xffffffff00000400\n", "check 'dr7-upper' fails"},
    };
    static DiffCase c;
    for (unsigned i = 0; i < ARRAY_LEN(broken); i++) {
        GError *err = NULL;
        ck_assert_msg(!case_read(&c, broken[i].text, "f", &err), "accepted: %s", broken[i].text);
        ck_assert_msg(strstr(err->message, broken[i].says) && g_str_has_prefix(err->message, "f:"),
                      "'%s' where '%s' was expected", err->message, broken[i].says);
        g_error_free(err);
    }
}
END_TEST

/* Each byte of a good file changed: read or refused, but never anything else. */
START_TEST(damaged_files)
{
    static DiffCase c, back;
    unsigned refused = 0;
    GString *text = g_string_new(NULL);
    random_case(&c);
    memset(c.data, 0, sizeof(c.data));
    memset(c.stack, 0, sizeof(c.stack));
    c.data[0x1fff] = 1;
    case_write(&c, text);
    for (size_t i = 0; i < text->len; i++) {
        GError *err = NULL;
        char *copy = g_strdup(text->str);
        copy[i] = (char)rnd();
        if (!case_read(&back, copy, "f", &err)) {
            refused++;
            ck_assert(g_str_has_prefix(err->message, "f:"));
            g_error_free(err);
        }
        g_free(copy);
    }
    ck_assert_uint_gt(refused, text->len / 2);
    g_string_free(text, TRUE);
}
END_TEST

START_TEST(assembler)
{
    static DiffCase c;
    static const uint8_t mov[] = {0xb8, 1, 2, 3, 4};
    GString *s = g_string_new(NULL);
    case_baseline(&c, CM_LONG, 3);
    memcpy(c.insn, mov, c.len = 5);
    case_asm(&c, s);
    ck_assert_str_eq(s->str, "mov eax, 0x4030201");
    g_string_truncate(s, 0);
    c.mode = CM_REAL;
    c.len = 3;
    case_asm(&c, s);
    ck_assert_str_eq(s->str, "mov ax, 0x201");
    g_string_truncate(s, 0);
    c.insn[0] = 0xff;
    c.insn[1] = 0xff;
    case_asm(&c, s);
    ck_assert_str_eq(s->str, "(unknown to the disassembler)");
    g_string_free(s, TRUE);
}
END_TEST

static const DiffEngine left = {.name = "left", .groups = GRP_REGS | GRP_SREGS | GRP_FPU},
                        right = {.name = "right", .groups = GRP_REGS | GRP_SREGS | GRP_FPU};

static bool has_line(const char *text, const char *line)
{
    char **l = g_strsplit(text, "\n", -1);
    bool found = g_strv_contains((const char *const *)l, line);
    g_strfreev(l);
    return found;
}

/* What changed is listed, what differs is marked, what neither touched is not there. */
START_TEST(explained)
{
    static DiffCase c;
    static DiffOutcome a, b;
    static const uint8_t lzcnt[] = {0xf3, 0x0f, 0xbd, 0xc3};
    GString *text = g_string_new(NULL);

    case_baseline(&c, CM_LONG, 3);
    memcpy(c.insn, lzcnt, c.len = sizeof(lzcnt));
    ck_assert(case_classify(&c));
    c.in.gpr[RBX] = 8;
    a.st = c.in;
    a.st.rip += 4;
    b = a;
    a.st.gpr[RAX] = 0x1c;
    b.st.gpr[RAX] = 3;
    b.data[0x1001] = 0x7f;
    case_explain(&c, &left, &a, &right, &b, text);
    ck_assert(g_str_has_prefix(text->str, "lzcnt eax, ebx    [f3 0f bd c3]\nrow "));
    ck_assert(strstr(text->str, "; mode long, CPL 3, stepped over\n"));
    ck_assert(has_line(text->str, "  RBX 0x8"));
    ck_assert(has_line(text->str, "* RAX          0x1c                               0x3"));
    ck_assert(has_line(text->str, "  RIP          0x60100004                         0x60100004"));
    ck_assert(strstr(text->str, "\n* data+0x1001"));
    ck_assert(!strstr(text->str, "RCX"));

    g_string_truncate(text, 0);
    b = a;
    b.kind = OUT_FAULT;
    b.vector = VEC_PF;
    b.has_error = true;
    b.error = 7;
    b.cr2 = 0x1234;
    case_explain(&c, &left, &a, &right, &b, text);
    ck_assert(has_line(text->str, "* ended        done                               vector 14"));
    ck_assert(strstr(text->str, "error code") && strstr(text->str, "0x1234"));

    g_string_truncate(text, 0);
    b.kind = OUT_SKIPPED;
    strcpy(b.why, "not today");
    case_explain(&c, &left, &a, &right, &b, text);
    ck_assert(strstr(text->str, "\n  ended") && strstr(text->str, "skipped: not today"));
    g_string_free(text, TRUE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("case_file");
    TCase *t = tcase_create("text");
    tcase_add_test(t, baselines_are_valid);
    tcase_add_test(t, round_trip);
    tcase_add_test(t, little_is_written);
    tcase_add_test(t, broken_files);
    tcase_add_test(t, damaged_files);
    tcase_add_test(t, assembler);
    tcase_add_test(t, explained);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return run_suite(s);
}
