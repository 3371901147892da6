/* The CPU a guest sees: models, features by name, and the CPUID instruction's corners. */
#include <check.h>
#include <string.h>

#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"
#include "run_suite.h"

static CpuidTable t;

static void build(const char *arg, const CpuidTable *kvm, unsigned cpus)
{
    g_autoptr(GError) err = NULL;
    ck_assert_msg(cpuid_build(&t, arg, kvm, cpus, 2600000, &err), "%s: %s", arg,
                  err ? err->message : "");
}

static void query(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    cpuid_execute(&t, 3, CR4_OSXSAVE, 7, 0xfee00800, leaf, sub, r);
}

static bool intel(void)
{
    uint32_t r[4];
    query(0, 0, r);
    return !memcmp(&r[1], "Genu", 4);
}

/* A KVM that can do nothing but the features given. */
static CpuidTable kvm_with(const enum CpuFeature *f, unsigned n)
{
    static const struct {
        uint32_t leaf, sub;
    } leaf[] = {{1, 0}, {7, 0}, {0xd, 1}, {0x80000001, 0}, {0x80000007, 0}};
    CpuidTable k = {0};
    for (unsigned i = 0; i < ARRAY_LEN(leaf); i++)
        k.e[k.n++] = (CpuidEntry){leaf[i].leaf, leaf[i].sub, true, 0, 0, 0, 0};
    for (unsigned i = 0; i < n; i++) {
        /* Finds the bit by trying each: cpuid_has() knows where it is. */
        for (unsigned e = 0; e < k.n; e++) {
            uint32_t *reg[] = {&k.e[e].eax, &k.e[e].ebx, &k.e[e].ecx, &k.e[e].edx};
            for (unsigned b = 0; b < 128 && !cpuid_has(&k, f[i]); b++) {
                uint32_t was = *reg[b / 32];
                *reg[b / 32] |= 1u << b % 32;
                if (!cpuid_has(&k, f[i]))
                    *reg[b / 32] = was;
            }
        }
    }
    return k;
}

START_TEST(features_and_leaves)
{
    build("max", NULL, 1);
    ck_assert(cpuid_has(&t, FEAT_LM) && cpuid_has(&t, FEAT_SSE2) && cpuid_has(&t, FEAT_APIC));
    ck_assert(cpuid_has(&t, FEAT_HYPERVISOR));
    ck_assert(!cpuid_has(&t, FEAT_MONITOR) && !cpuid_has(&t, FEAT_VMX) &&
              !cpuid_has(&t, FEAT_RDRAND));
    ck_assert(!cpuid_has(&t, FEAT_HT)); /* one logical processor */
    build("max,-sse4.2,x2apic=off,-TSC_DEADLINE", NULL, 2);
    ck_assert(!cpuid_has(&t, FEAT_SSE42) && !cpuid_has(&t, FEAT_X2APIC));
    ck_assert(!cpuid_has(&t, FEAT_TSC_DEADLINE) && cpuid_has(&t, FEAT_HT));
    build("qemu64,+popcnt", NULL, 1);
    ck_assert(cpuid_has(&t, FEAT_POPCNT) && !cpuid_has(&t, FEAT_AES));
    ck_assert_str_eq(t.model, "qemu64");
    for (unsigned f = 0; f < FEAT_N; f++)
        for (unsigned g = 0; g < f; g++)
            ck_assert_str_ne(cpu_feature_name(f), cpu_feature_name(g));
}
END_TEST

/* No model has it: who asks for it gets leaf 5 too. */
START_TEST(monitor)
{
    uint32_t r[4];
    static const enum CpuFeature has[] = {FEAT_MONITOR};
    CpuidTable kvm = kvm_with(has, 1);
    build("max", NULL, 1);
    query(5, 0, r);
    ck_assert(!r[0] && !r[1] && !r[2] && !r[3]);
    build("host", &kvm, 1);
    ck_assert(!cpuid_has(&t, FEAT_MONITOR));
    build("qemu64,+monitor,-monitor", NULL, 1);
    ck_assert(!cpuid_has(&t, FEAT_MONITOR));
    build("qemu64,+monitor", &kvm, 1); /* the host's own leaf, if it has one */
    ck_assert(cpuid_has(&t, FEAT_MONITOR));
    query(5, 0, r);
    ck_assert(r[0] && r[0] <= 64 && r[1] >= 64 && !(r[2] & ~3u) && r[3] == 0x10);
    build("qemu64,+monitor", NULL, 1);
    query(5, 0, r);
    ck_assert(r[0] == 64 && r[1] == 64 && r[2] == 3);
    ck_assert(r[3] & 0xf0); /* Linux idles in MWAIT where there is a C1 */
}
END_TEST

/* Without a feature, what needs it goes too. */
START_TEST(dependencies)
{
    build("max,-sse", NULL, 1);
    ck_assert(!cpuid_has(&t, FEAT_SSE2) && !cpuid_has(&t, FEAT_SSE42) && !cpuid_has(&t, FEAT_AES));
    build("max,-avx512f", NULL, 1);
    ck_assert(!cpuid_has(&t, FEAT_AVX512VL) && !cpuid_has(&t, FEAT_AVX512_BF16) &&
              !(cpuid_xcr0_mask(&t) & 0xe0));
    build("max,-avx512bw", NULL, 1);
    ck_assert(!cpuid_has(&t, FEAT_AVX512VBMI) && !cpuid_has(&t, FEAT_AVX512BITALG));
    build("max,-xsave", NULL, 1);
    ck_assert(!cpuid_has(&t, FEAT_AVX512F));
    ck_assert(!cpuid_has(&t, FEAT_XSAVEOPT));
    ck_assert_uint_eq(cpuid_xcr0_mask(&t), 0);
}
END_TEST

START_TEST(intersection_with_kvm)
{
    static const enum CpuFeature some[] = {FEAT_LM, FEAT_PAE, FEAT_SYSCALL, FEAT_TSC, FEAT_MSR};
    CpuidTable kvm = kvm_with(some, ARRAY_LEN(some));
    ck_assert(cpuid_has(&kvm, FEAT_LM) && !cpuid_has(&kvm, FEAT_CX16));
    /* What KVM stops at is executed for it; but only if asked for. */
    kvm.rescued = true;
    build("max", &kvm, 1);
    ck_assert(!cpuid_has(&t, FEAT_CX16));
    build("max,+cx16", &kvm, 1);
    ck_assert(cpuid_has(&t, FEAT_CX16));
    ck_assert(!cpuid_build(&t, "max,+avx", &kvm, 1, 2600000, NULL));
    kvm.rescued = false;
    ck_assert(!cpuid_build(&t, "max,+cx16", &kvm, 1, 2600000, NULL));
    build("max", &kvm, 1);
    ck_assert(cpuid_has(&t, FEAT_LM) && !cpuid_has(&t, FEAT_CX16) && !cpuid_has(&t, FEAT_SSE2));
    ck_assert(cpuid_has(&t, FEAT_X2APIC)); /* the machine's, whatever KVM says */
}
END_TEST

START_TEST(enforce_is_the_rule)
{
    build("max,enforce,check=on", NULL, 1);
    CpuidTable with = t;
    build("max", NULL, 1);
    ck_assert_mem_eq(&with, &t, sizeof(t));
}
END_TEST

START_TEST(refusals_say_who_and_what)
{
    static const struct {
        const char *arg, *word[2];
    } bad[] = {
        {"pentium9", {"pentium9", "max"}},
        {"", {"model", "max"}},
        {"max,+sse5", {"sse5", "unknown"}},
        {"max,sse2=maybe", {"sse2=maybe", "on or off"}},
        {"max,kvm=maybe", {"kvm=maybe", "on or off"}},
        {"max,vendor=GenuineIntel", {"vendor", "unknown"}},
        {"max,enforce=off", {"enforce", "unknown"}},
        {"max,enforce,check,+cx16", {"cx16", "KVM"}},
        {"max,+monitor", {"monitor", "cpu-pm=on"}},
        {"max,+rdrand", {"rdrand", "software engine"}},
        {"max,+cx16", {"cx16", "KVM"}},
        {"max,-apic,+x2apic", {"x2apic", "apic"}},
    };
    CpuidTable none = kvm_with(NULL, 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) err = NULL;
        ck_assert_msg(!cpuid_build(&t, bad[i].arg, &none, 1, 0, &err), "%s", bad[i].arg);
        for (unsigned w = 0; w < 2; w++)
            ck_assert_msg(strstr(err->message, bad[i].word[w]) != NULL, "%s: %s", bad[i].arg,
                          err->message);
    }
}
END_TEST

START_TEST(topology)
{
    static const struct {
        unsigned cpus, bits;
    } n[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {64, 6}};
    for (unsigned i = 0; i < ARRAY_LEN(n); i++) {
        uint32_t r[4];
        build("max", NULL, n[i].cpus);
        query(1, 0, r);
        ck_assert_uint_eq(r[1] >> 24, 3);
        ck_assert_uint_eq(r[1] >> 16 & 0xff, n[i].cpus);
        query(0xb, 0, r);
        ck_assert(r[0] == 0 && r[1] == 1 && r[2] == 0x100 && r[3] == 3);
        query(0xb, 1, r);
        ck_assert(r[0] == n[i].bits && r[1] == n[i].cpus && r[2] == 0x201 && r[3] == 3);
        query(0xb, 2, r);
        ck_assert(r[0] == 0 && r[1] == 0 && r[2] == 2 && r[3] == 3);
        query(4, 0, r);
        if (intel())
            ck_assert_uint_eq(r[0] >> 26, (1u << n[i].bits) - 1);
    }
}
END_TEST

/* The level 2 cache has 1 MiB, by the leaves either vendor's kernels look at. */
START_TEST(caches)
{
    uint32_t r[4], lines_per_tag;
    build("max", NULL, 1);
    query(0x80000006, 0, r);
    ck_assert_uint_eq(r[2] >> 16, 1024);
    lines_per_tag = r[2] >> 8 & 15; /* AMD: sets are the size by line, ways and this */
    ck_assert_uint_eq(lines_per_tag, intel() ? 0 : 1);
    query(4, 2, r);
    if (intel())
        ck_assert_uint_eq(((r[1] >> 22) + 1) * ((r[1] & 0xfff) + 1) * (r[2] + 1), 1u << 20);
}
END_TEST

START_TEST(live_bits)
{
    uint32_t r[4];
    build("max", NULL, 1);
    bool xsave = cpuid_has(&t, FEAT_XSAVE);
    cpuid_execute(&t, 0, CR4_OSXSAVE, 1, 0xfee00800, 1, 0, r);
    ck_assert_int_eq(r[2] >> 27 & 1, xsave);
    ck_assert_int_eq(r[3] >> 9 & 1, 1);
    cpuid_execute(&t, 0, 0, 1, 0xfee00000, 1, 0, r);
    ck_assert_int_eq(r[2] >> 27 & 1, 0);
    ck_assert_int_eq(r[3] >> 9 & 1, 0); /* APIC disabled in its base register */
    if (!xsave)
        return;
    cpuid_execute(&t, 0, 0, 1, 0, 0xd, 0, r);
    ck_assert_uint_eq(r[1], 576);
    ck_assert_uint_eq(r[0] | (uint64_t)r[3] << 32, cpuid_xcr0_mask(&t));
    ck_assert_uint_ge(r[2], 576);
    for (unsigned c = 0; c < 63; c++) {
        uint32_t off, size;
        if (!cpuid_xsave_layout(&t, c, &off, &size))
            continue;
        ck_assert(cpuid_xcr0_mask(&t) & BIT(c));
        ck_assert_uint_le(off + size, r[2]);
        if (c < 2)
            continue;
        cpuid_execute(&t, 0, 0, 3 | BIT(c), 0, 0xd, 0, r);
        ck_assert_uint_eq(r[1], off + size);
    }
}
END_TEST

START_TEST(out_of_range)
{
    uint32_t r[4], last[4];
    build("max", NULL, 1);
    query(t.max_basic, 0, last);
    static const uint32_t beyond[] = {0x20, 0x3fffffff, 0x40000001, 0x80000100, 0xc0000000};
    for (unsigned i = 0; i < ARRAY_LEN(beyond); i++) {
        query(beyond[i], 0, r);
        for (unsigned k = 0; k < 4; k++)
            ck_assert_uint_eq(r[k], intel() ? last[k] : 0);
    }
    query(8, 0, r); /* in range, not there: zeros */
    ck_assert(!r[0] && !r[1] && !r[2] && !r[3]);
}
END_TEST

START_TEST(frequency)
{
    uint32_t r[4];
    build("max", NULL, 1);
    if (!intel())
        return;
    query(0x15, 0, r);
    ck_assert_uint_eq((uint64_t)r[2] * r[1] / r[0], 2600000000ull);
    /* Linux computes crystal kHz * numerator in 32 bits. */
    ck_assert_uint_le((uint64_t)(r[2] / 1000) * r[1], UINT32_MAX);
    g_autoptr(GError) err = NULL;
    ck_assert(cpuid_build(&t, "max", NULL, 1, 5200000, &err));
    query(0x15, 0, r);
    ck_assert_uint_eq((uint64_t)r[2] * r[1] / r[0], 5200000000ull);
}
END_TEST

/* What AMD's processors say they are immune to, and nobody else's leaves mention. */
START_TEST(immunities)
{
    static const enum CpuFeature f[] = {FEAT_BTC_NO,    FEAT_AUTOIBRS,  FEAT_SRSO_NO,
                                        FEAT_TSA_SQ_NO, FEAT_TSA_L1_NO, FEAT_NULL_SEL_CLR_BASE};
    uint32_t r[4];
    build("max", NULL, 1);
    for (unsigned k = 0; k < ARRAY_LEN(f); k++)
        ck_assert(cpuid_has(&t, f[k]) == !intel());
    query(0x80000000, 0, r);
    ck_assert_uint_eq(r[0], intel() ? 0x80000008 : 0x80000021);
    /* KVM's guests run returns and indirect jumps of their own: only what it says. */
    CpuidTable none = kvm_with(NULL, 0);
    build("max", &none, 1);
    for (unsigned k = 0; k < ARRAY_LEN(f); k++)
        ck_assert(!cpuid_has(&t, f[k]));
    g_autoptr(GError) err = NULL;
    ck_assert(cpuid_build(&t, "max,+auto-ibrs", NULL, 1, 0, &err) == !intel());
    ck_assert(!intel() || strstr(err->message, "vendor"));
}
END_TEST

START_TEST(names)
{
    GString *s = g_string_new(NULL);
    uint32_t r[4];
    cpuid_help(s);
    ck_assert(strstr(s->str, "max") && strstr(s->str, "sse4.2"));
    ck_assert(strstr(s->str, "monitor") && !strstr(s->str, "rdrand"));
    g_string_free(s, TRUE);
    build("max", NULL, 1);
    query(0x40000000, 0, r);
    ck_assert(!memcmp(&r[1], "TandemTandem", 12));
    ck_assert_uint_eq(cpuid_signature(&t), intel() ? 0x506e3 : 0x830f10);
    ck_assert_uint_ge(cpuid_phys_bits(&t), 36);
    ck_assert_uint_le(cpuid_phys_bits(&t), 52);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cpuid");
    TCase *c = tcase_create("cpuid");

    tcase_add_test(c, features_and_leaves);
    tcase_add_test(c, monitor);
    tcase_add_test(c, dependencies);
    tcase_add_test(c, intersection_with_kvm);
    tcase_add_test(c, enforce_is_the_rule);
    tcase_add_test(c, refusals_say_who_and_what);
    tcase_add_test(c, topology);
    tcase_add_test(c, caches);
    tcase_add_test(c, live_bits);
    tcase_add_test(c, out_of_range);
    tcase_add_test(c, frequency);
    tcase_add_test(c, immunities);
    tcase_add_test(c, names);
    suite_add_tcase(s, c);
    return run_suite(s);
}
