/* The KVM executor on instructions and faults whose outcome is known. What this KVM cannot run is
 * skipped and said; what it runs has to be right: the instructions here are ones that software
 * backends have right too. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "diff/case.h"
#include "kvm/kvm.h"
#include "vmstate/state.h"
#include "run_suite.h"

static DiffExec *x;
static DiffCase c;
static DiffOutcome o;

#define CODE(...)                                                \
    do {                                                         \
        static const uint8_t bytes_[] = __VA_ARGS__;             \
        memcpy(c.insn, bytes_, c.len = (uint8_t)sizeof(bytes_)); \
        c.row = UINT16_MAX;                                      \
    } while (0)

/* False, and said, when this KVM skips it. */
static bool runs(void)
{
    GString *text = g_string_new(NULL);
    memset(&o, 0xee, sizeof(o));
    diff_engine_kvm.run(x, &c, &o, 1);
    case_asm(&c, text);
    if (o.kind == OUT_SKIPPED)
        printf("  %s in %s, CPL %u: skipped: %s\n", text->str, case_mode_name[c.mode], c.in.cpl,
               o.why);
    ck_assert_msg(o.kind != OUT_BROKEN, "%s in %s: %s", text->str, case_mode_name[c.mode], o.why);
    g_string_free(text, TRUE);
    return o.kind != OUT_SKIPPED;
}

static void say(const VmstateField *f, const char *a, const char *b, void *unused)
{
    printf("  %s: %s, expected %s\n", f->name, b, a);
}

/* The state is the case's, but for what the test has changed in c.in by now. */
static void check_state(void)
{
    unsigned n = vmstate_diff(&c.in, &o.st, diff_engine_kvm.groups, NULL, NULL);
    if (n)
        vmstate_diff(&c.in, &o.st, diff_engine_kvm.groups, say, NULL);
    ck_assert_msg(!n, "in %s, CPL %u", case_mode_name[c.mode], c.in.cpl);
}

static void check_memory(void)
{
    ck_assert(!memcmp(c.data, o.data, sizeof(c.data)));
    ck_assert(!memcmp(c.stack, o.stack, sizeof(c.stack)));
}

/* Each mode, privilege and stop. */
static bool next_way(unsigned *i)
{
    while (*i < CM_N * 2 * STOP_N) {
        unsigned mode = *i / (2 * STOP_N), cpl = *i & 1 ? 3 : 0, stop = *i / 2 % STOP_N;
        ++*i;
        case_baseline(&c, mode, cpl);
        c.stop = (uint8_t)stop;
        if (c.in.cpl == cpl)
            return true;
    }
    return false;
}

START_TEST(add)
{
    for (unsigned i = 0; next_way(&i);) {
        CODE({0x01, 0xd8}); /* add [e]ax, [e]bx */
        c.in.gpr[RAX] = 0x7fff;
        c.in.gpr[RBX] = 0x0001;
        if (!runs())
            continue;
        ck_assert_int_eq(o.kind, OUT_DONE);
        c.in.gpr[RAX] = 0x8000;
        c.in.rip += 2;
        c.in.rflags |= FL_AF | FL_PF;
        if (c.mode == CM_COMPAT16 || c.mode > CM_PROT32) /* 16 bits */
            c.in.rflags |= FL_OF | FL_SF;
        check_state();
        check_memory();
    }
}
END_TEST

START_TEST(memory)
{
    for (unsigned i = 0; next_way(&i);) {
        bool small = c.mode == CM_COMPAT16 || c.mode > CM_PROT32;
        CODE({0x87, 0x07}); /* xchg [rdi] or [bx], [e]ax */
        c.in.gpr[RDI] = CASE_DATA + 0x10;
        c.in.gpr[RBX] = small ? 0x10 : 0;
        c.in.gpr[RAX] = 0x1234;
        c.data[0x10] = 0x78;
        c.data[0x11] = 0x56;
        if (!runs())
            continue;
        ck_assert_int_eq(o.kind, OUT_DONE);
        ck_assert_uint_eq(o.st.gpr[RAX], 0x5678);
        c.data[0x10] = 0x34;
        c.data[0x11] = 0x12;
        check_memory();
    }
}
END_TEST

/* A fault leaves everything as it was, wherever its frame went. */
START_TEST(divide_error)
{
    for (unsigned i = 0; next_way(&i);) {
        CODE({0xf7, 0xf1}); /* div [e]cx */
        c.in.gpr[RAX] = 5;
        memset(c.stack, 0x5a, sizeof(c.stack));
        if (!runs())
            continue;
        ck_assert_int_eq(o.kind, OUT_FAULT);
        ck_assert_uint_eq(o.vector, VEC_DE);
        ck_assert(!o.has_error);
        check_state();
        check_memory();
    }
}
END_TEST

START_TEST(page_faults)
{
    static const struct {
        uint64_t at;
        uint8_t write;
        int error; /* at privilege 0, without the user bit; -1: none */
    } row[] = {
        {CASE_DATA + CASE_DATA_GONE, 0, 0},    {CASE_DATA + CASE_DATA_GONE - 1, 0, 0},
        {CASE_DATA + CASE_DATA_RO, 0, -1},     {CASE_DATA + CASE_DATA_RO, 1, 3},
        {CASE_STACK + CASE_STACK_BYTES, 1, 2}, {CASE_CODE + 0x100, 1, 3},
        {CASE_BASE + CASE_SIZE, 0, 0},
    };
    for (unsigned i = 0; next_way(&i);) {
        if (c.mode != CM_LONG && c.mode != CM_COMPAT32)
            continue;
        for (unsigned k = 0; k < ARRAY_LEN(row); k++) {
            unsigned mode = c.mode, cpl = c.in.cpl, stop = c.stop;
            case_baseline(&c, mode, cpl);
            c.stop = (uint8_t)stop;
            CODE({0x8b, 0x06}); /* mov eax, [rsi] */
            c.insn[0] = row[k].write ? 0x89 : 0x8b;
            c.in.gpr[RSI] = row[k].at;
            if (!runs())
                continue;
            if (row[k].error < 0) {
                ck_assert_int_eq(o.kind, OUT_DONE);
                continue;
            }
            ck_assert_msg(o.kind == OUT_FAULT, "row %u in %s, CPL %u", k, case_mode_name[mode],
                          cpl);
            ck_assert_uint_eq(o.vector, VEC_PF);
            ck_assert(o.has_error);
            ck_assert_uint_eq(o.error, (unsigned)row[k].error | (cpl ? 4 : 0));
            ck_assert_uint_eq(o.cr2,
                              MAX_OF(row[k].at, row[k].error ? 0 : (row[k].at + 3) & ~4095ull));
            check_state();
            check_memory();
        }
    }
}
END_TEST

START_TEST(supervisor_memory)
{
    case_baseline(&c, CM_LONG, 3);
    CODE({0x8b, 0x06});
    c.in.gpr[RSI] = CASE_GDT;
    if (!runs())
        return;
    ck_assert_uint_eq(o.vector, VEC_PF);
    ck_assert_uint_eq(o.error, 5);
}
END_TEST

START_TEST(privileged)
{
    for (unsigned i = 0; next_way(&i);) {
        CODE({0xf4}); /* hlt */
        if (!runs())
            continue;
        if (c.in.cpl) {
            ck_assert_int_eq(o.kind, OUT_FAULT);
            ck_assert_uint_eq(o.vector, VEC_GP);
            ck_assert(o.has_error && !o.error);
        } else {
            ck_assert_int_eq(o.kind, OUT_DONE);
            c.in.rip++;
        }
        check_state();
        check_memory();
    }
}
END_TEST

/* Stepped, a REP does one iteration; run through, all. */
START_TEST(repeated)
{
    for (unsigned i = 0; next_way(&i);) {
        bool small = c.mode == CM_COMPAT16 || c.mode > CM_PROT32;
        CODE({0xf3, 0xaa}); /* rep stosb */
        c.in.gpr[RCX] = 5;
        c.in.gpr[RDI] = small ? 0x20 : CASE_DATA + 0x20;
        c.in.gpr[RAX] = 0xab;
        if (!runs())
            continue;
        ck_assert_int_eq(o.kind, OUT_DONE);
        /* An emulator may do several at a time even when stepped. */
        uint64_t done = 5 - o.st.gpr[RCX];
        ck_assert_uint_eq(o.st.gpr[RDI], c.in.gpr[RDI] + done);
        ck_assert(c.stop == STOP_STEP ? done >= 1 && done <= 5 : done == 5);
        memset(c.data + 0x20, 0xab, done);
        check_memory();
    }
}
END_TEST

START_TEST(breakpoints)
{
    for (unsigned i = 0; next_way(&i);) {
        CODE({0xcc});
        if (!runs() || c.mode != CM_LONG || c.in.cpl != 3)
            continue;
        ck_assert_int_eq(o.kind, OUT_FAULT);
        ck_assert_uint_eq(o.vector, VEC_BP);
        c.in.rip++;
        check_state();
    }
}
END_TEST

/* Behind the code pages is nothing, where there is paging: the INT3 there cannot be fetched. */
START_TEST(end_of_code)
{
    for (unsigned i = 0; next_way(&i);) {
        CODE({0x90});
        if (c.mode > CM_COMPAT16 || c.stop == STOP_STEP)
            continue;
        c.in.rip += CASE_CODE_BYTES - 1;
        if (!runs())
            continue;
        ck_assert_msg(o.kind == OUT_FAULT, "in %s, CPL %u", case_mode_name[c.mode], c.in.cpl);
        ck_assert_uint_eq(o.vector, VEC_PF);
        ck_assert_uint_eq(o.cr2, CASE_CODE + CASE_CODE_BYTES);
        ck_assert_uint_eq(o.error, c.in.cpl ? 0x14 : 0x10);
        c.in.rip++;
        check_state();
    }
}
END_TEST

/* An instruction without an end: cut off, and the next one runs as if nothing had been. */
START_TEST(no_end)
{
    case_baseline(&c, CM_LONG, 3);
    CODE({0xeb, 0xfe}); /* jmp to itself */
    c.stop = STOP_THROUGH;
    memset(&o, 0, sizeof(o));
    diff_engine_kvm.run(x, &c, &o, 1);
    ck_assert_msg(o.kind == OUT_BROKEN || o.kind == OUT_SKIPPED, "kind %u", o.kind);
    ck_assert(*o.why);
    case_baseline(&c, CM_LONG, 3);
    CODE({0x90});
    if (!runs())
        return;
    c.in.rip++;
    check_state();
}
END_TEST

/* Cases do not see each other: the same one gives the same outcome whatever ran before it. */
START_TEST(independent)
{
    static DiffOutcome first;
    case_baseline(&c, CM_LONG, 0);
    CODE({0x0f, 0x00, 0xd8}); /* ltr ax: marks the TSS busy */
    c.in.gpr[RAX] = 0xb0;
    if (!runs())
        return;
    first = o;
    for (unsigned i = 0; i < 3; i++) {
        if (!runs())
            return;
        ck_assert_uint_eq(o.kind, first.kind);
        ck_assert_uint_eq(vmstate_diff(&o.st, &first.st, diff_engine_kvm.groups, NULL, NULL), 0);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        add,      memory,      divide_error, page_faults, supervisor_memory, privileged,
        repeated, breakpoints, no_end,       end_of_code, independent};
    g_autoptr(GError) err = NULL;
    Suite *s = suite_create("exec_kvm");
    TCase *t = tcase_create("cases");

    if (!kvm_available(&err)) {
        printf("skipped: %s\n", err->message);
        return 77;
    }
    /* One executor for all, so no forks: KVM's file descriptors belong to the process. */
    x = diff_engine_kvm.open(&err);
    if (!x) {
        printf("%s\n", err->message);
        return 1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(tests); i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    int status = run_suite_unforked(s);
    diff_engine_kvm.close(x);
    return status;
}
