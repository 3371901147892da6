/* Walking the state tables: every byte of CpuState is a field or known not to be state. */
#include <check.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "vmstate/state.h"
#include "run_suite.h"

typedef struct Seen {
    char name[40], a[140], b[140];
    unsigned n;
} Seen;

static void see(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    Seen *s = opaque;
    g_strlcpy(s->name, f->name, sizeof(s->name));
    g_strlcpy(s->a, a, sizeof(s->a));
    g_strlcpy(s->b, b, sizeof(s->b));
    s->n++;
}

/* Bytes of CpuState that are no state: padding, and slots the software engine keeps for itself. */
static bool not_state(size_t i)
{
#define IN(member)                      \
    (i >= offsetof(CpuState, member) && \
     i < offsetof(CpuState, member) + sizeof(((CpuState *)0)->member))
#define GAP(from, to) \
    (i >= offsetof(CpuState, from) + sizeof(((CpuState *)0)->from) && i < offsetof(CpuState, to))
    if (IN(gpr[GPR_ZERO]) || IN(gpr[GPR_IP]) || IN(seg[SEG_NONE]))
        return true;
    for (unsigned s = 0; s < SEG_N; s++) {
        if (IN(seg[s]))
            return (i - offsetof(CpuState, seg[s])) >= offsetof(Segment, selector) + 2;
    }
    if (IN(gdt) || IN(idt))
        return (i - offsetof(CpuState, gdt)) % sizeof(DescTable) >= offsetof(DescTable, limit) + 2;
    for (unsigned r = 0; r < 8; r++) {
        if (IN(fpu.r[r]))
            return i - offsetof(CpuState, fpu.r[r]) >= 10;
    }
    /* Banks above those MCG_CAP announces. */
    for (unsigned b = 10; b < MC_BANKS_MAX; b++) {
        if (IN(msr.mc_ctl[b]) || IN(msr.mc_status[b]) || IN(msr.mc_addr[b]) || IN(msr.mc_misc[b]))
            return true;
    }
    return GAP(cpl, run_state) || GAP(sipi_vector, tsc_offset) || GAP(ev, msr) || GAP(msr, fpu) ||
           GAP(ev.exception.nr, ev.exception.error) ||
           GAP(ev.exception.error, ev.exception.payload) || GAP(fpu.ftw, fpu.fop) ||
           GAP(fpu.fop, fpu.fip) || GAP(fpu.pkru, fpu.xstate_bv) ||
           (i >= offsetof(CpuState, ev.soft_len) + 1 && i < offsetof(CpuState, msr)) ||
           i >= offsetof(CpuState, fpu.xstate_bv) + 8;
}

START_TEST(every_byte_is_claimed)
{
    static CpuState a, b;
    memset(&a, 0, sizeof(a));
    for (size_t i = 0; i < sizeof(a); i++) {
        Seen seen = {.n = 0};
        b = a;
        ((uint8_t *)&b)[i] ^= 1;
        unsigned n = vmstate_diff(&a, &b, GROUPS_ALL, see, &seen);
        ck_assert_uint_eq(n, seen.n);
        if (not_state(i))
            ck_assert_msg(n == 0, "byte %zu is not state, but '%s' differs", i, seen.name);
        else
            ck_assert_msg(n == 1, "byte %zu is in %u fields", i, n);
    }
}
END_TEST

static void check_name(const VmstateField *f, void *opaque)
{
    unsigned *n = opaque;
    ck_assert_ptr_eq(vmstate_field(f->name), f); /* the first of its name, so the only one */
    ck_assert(f->group && !(f->group & (f->group - 1)) && !(f->group & ~(unsigned)GROUPS_ALL));
    ++*n;
}

START_TEST(names_are_unique_and_groups_part)
{
    unsigned all = 0, sum = 0;
    vmstate_foreach(GROUPS_ALL, check_name, &all);
    for (unsigned g = 1; g <= GROUPS_ALL; g <<= 1) {
        unsigned before = sum;
        vmstate_foreach(g, check_name, &sum);
        ck_assert_msg(sum > before, "no field in group %#x", g);
    }
    ck_assert_uint_eq(all, sum);
    ck_assert_ptr_null(vmstate_field("no such field"));
    ck_assert_uint_eq(vmstate_field("LSTAR")->msr, 0xc0000082);
}
END_TEST

START_TEST(differences_are_named_with_both_values)
{
    static CpuState a, b;
    Seen s = {.n = 0};
    vmstate_randomise(&a, 1);
    b = a;
    ck_assert_uint_eq(vmstate_diff(&a, &b, GROUPS_ALL, see, &s), 0);

    a.gpr[RAX] = 0x1234;
    b.gpr[RAX] = 0xffffffffffffffffull;
    ck_assert_uint_eq(vmstate_diff(&a, &b, GROUPS_ALL, see, &s), 1);
    ck_assert_str_eq(s.name, "RAX");
    ck_assert_str_eq(s.a, "0x1234");
    ck_assert_str_eq(s.b, "0xffffffffffffffff");
    ck_assert_uint_eq(vmstate_diff(&a, &b, GRP_SREGS | GRP_MSRS, see, &s), 0);

    b = a;
    a.seg[TR] = (Segment){.selector = 0x40, .base = 0xfe000, .limit = 0x67, .attr = 0x8b};
    b.seg[TR] = a.seg[TR];
    b.seg[TR].attr = 0x89;
    ck_assert_uint_eq(vmstate_diff(&a, &b, GROUPS_ALL, see, &s), 1);
    ck_assert_str_eq(s.name, "TR");
    ck_assert_str_eq(s.a, "0040 base 0xfe000 limit 0x67 attr 0x8b");
    ck_assert_str_eq(s.b, "0040 base 0xfe000 limit 0x67 attr 0x89");

    b = a;
    memset(&a.fpu.v[5], 0, sizeof(VecReg));
    memset(&b.fpu.v[5], 0xab, sizeof(VecReg));
    a.fpu.v[5].b[0] = 0x7f;
    ck_assert_uint_eq(vmstate_diff(&a, &b, GROUPS_ALL, see, &s), 1);
    ck_assert_str_eq(s.a, "0x0000000000000000000000000000007f");
    ck_assert_uint_eq(strlen(s.b), 2 + 128);
}
END_TEST

START_TEST(printing_never_overruns)
{
    static CpuState s;
    memset(&s, 0xff, sizeof(s));
    char buf[16];
    for (size_t size = 1; size <= sizeof(buf); size++) {
        static const char *const names[] = {"RAX", "CS", "GDTR", "ZMM3", "FPR1", "CPL"};
        for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
            memset(buf, 0x5a, sizeof(buf));
            vmstate_print(&s, vmstate_field(names[i]), buf, size);
            ck_assert_msg(memchr(buf, 0, size) != NULL, "%s at %zu: not terminated", names[i],
                          size);
            for (size_t k = size; k < sizeof(buf); k++)
                ck_assert_int_eq(buf[k], 0x5a);
        }
    }
}
END_TEST

START_TEST(dump_has_the_known_lines)
{
    static const char *const lines[] = {
        "RAX=000000000000abcd RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000663\n",
        "R8 =0000000000000000 R9 =0000000000000000",
        "RIP=000000000000fff0 RFL=00000046 [---Z-P-] CPL=0 II=1 A20=1 SMM=0 HLT=1\n",
        "CS =f000 00000000ffff0000 0000ffff 00009b00 DPL=0 CS16 [-RA]\n",
        "DS =0000 0000000000000000 0000ffff 00009300 DPL=0 DS16 [-WA]\n",
        "FS =0003 0000000000000000 00000000 00000000\n",
        "LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT\n",
        "TR =0000 0000000000000000 0000ffff 00008b00 DPL=0 TSS32-busy\n",
        "GDT=     0000000000000000 0000ffff\n",
        "CR0=60000010 CR2=0000000000000000 CR3=0000000000000000 CR4=00000000\n",
        "DR6=00000000ffff0ff0 DR7=0000000000000400\n",
        "EFER=0000000000000000\n",
        "FCW=0040 FSW=1800 [ST=3] FTW=ff MXCSR=00001f80\n",
        "FPR2=8000000000000000 3fff FPR3=",
        "XMM00=0000000000000000000000000000002a XMM01=",
    };
    static CpuState s;
    cpu_state_reset(&s, 0x663, true);
    s.gpr[RAX] = 0xabcd;
    s.rflags |= FL_ZF | FL_PF;
    s.ev.shadow_sti = true;
    s.run_state = RUN_HALTED;
    s.seg[FS] = (Segment){.selector = 3, .attr = SEG_UNUSABLE};
    s.fpu.fsw = 3 << FPU_TOP_SHIFT;
    s.fpu.r[2].mant = BIT(63);
    s.fpu.r[2].se = 0x3fff;
    s.fpu.v[0].b[0] = 42;

    g_autoptr(GString) out = g_string_new(NULL);
    vmstate_dump(&s, out);
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++)
        ck_assert_msg(strstr(out->str, lines[i]) != NULL, "no '%s' in\n%s", lines[i], out->str);
    ck_assert_msg(!strstr(out->str, "XMM08"), "XMM8 outside 64-bit code");
}
END_TEST

START_TEST(random_states_differ_and_repeat)
{
    static CpuState a, b;
    bool seen[4] = {false};
    for (uint64_t seed = 0; seed < 200; seed++) {
        vmstate_randomise(&a, seed);
        vmstate_randomise(&b, seed);
        ck_assert(!memcmp(&a, &b, sizeof(a)));
        vmstate_randomise(&b, seed + 1);
        ck_assert_uint_gt(vmstate_diff(&a, &b, GROUPS_ALL, NULL, NULL), 20);
        seen[0] |= !(a.cr0 & CR0_PE);
        seen[1] |= a.rflags & FL_VM;
        seen[2] |= cpu_code64(&a);
        seen[3] |= a.cr0 & CR0_PG && !cpu_long_mode(&a);
    }
    ck_assert(seen[0] && seen[1] && seen[2] && seen[3]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vmstate");
    TCase *c = tcase_create("tables");
    tcase_add_test(c, every_byte_is_claimed);
    tcase_add_test(c, names_are_unique_and_groups_part);
    tcase_add_test(c, differences_are_named_with_both_values);
    tcase_add_test(c, printing_never_overruns);
    tcase_add_test(c, dump_has_the_known_lines);
    tcase_add_test(c, random_states_differ_and_repeat);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return run_suite(s);
}
