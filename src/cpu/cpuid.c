/*
 * The CPU a guest sees.
 *
 * Feature rows (cpuid_features.def) are intersected over model, host, software engine and KVM; the
 * other leaves are made here: the same in both engines, so that a switch changes nothing a guest
 * can read. Lookup rules are those of KVM's CPUID emulation, which follows the vendors: Intel
 * answers a leaf out of range with its highest basic leaf (SDM vol. 2, CPUID), AMD with zeros.
 */
#include "cpu/cpuid.h"

#include <cpuid.h>
#include <string.h>
#include "base/log.h"
#include "cpu/cpu_state.h"

enum Soft { NO, HOST, SOFT, AMD, PV, ASK, VMM };

typedef struct FeatureRow {
    const char *name;
    uint32_t leaf, subleaf;
    char reg;
    uint8_t bit;
    uint8_t soft;
} FeatureRow;

static const FeatureRow rows[] = {
#define FEATURE(id, name, leaf, sub, reg, bit, soft) {name, leaf, sub, #reg[0], bit, soft},
#include "cpu/cpuid_features.def"
#undef FEATURE
};

/* Features that mean nothing without another one. In order: each row's need is settled before. */
static const struct {
    uint16_t feature, needs;
} needs[] = {
    {FEAT_SSE, FEAT_FXSR},
    {FEAT_SSE2, FEAT_SSE},
    {FEAT_SSE3, FEAT_SSE2},
    {FEAT_SSSE3, FEAT_SSE3},
    {FEAT_SSE41, FEAT_SSSE3},
    {FEAT_SSE42, FEAT_SSE41},
    {FEAT_AES, FEAT_SSE2},
    {FEAT_PCLMULQDQ, FEAT_SSE2},
    {FEAT_SHA_NI, FEAT_SSE2},
    {FEAT_XSAVEOPT, FEAT_XSAVE},
    {FEAT_XSAVEC, FEAT_XSAVE},
    {FEAT_XGETBV1, FEAT_XSAVE},
    {FEAT_XSAVES, FEAT_XSAVEC},
    {FEAT_AVX, FEAT_XSAVE},
    {FEAT_AVX, FEAT_SSE42},
    {FEAT_AVX2, FEAT_AVX},
    {FEAT_FMA, FEAT_AVX},
    {FEAT_F16C, FEAT_AVX},
    {FEAT_VAES, FEAT_AVX},
    {FEAT_VPCLMULQDQ, FEAT_AVX},
    {FEAT_AVX512F, FEAT_AVX2},
    {FEAT_AVX512DQ, FEAT_AVX512F},
    {FEAT_AVX512BW, FEAT_AVX512F},
    {FEAT_AVX512VL, FEAT_AVX512F},
    {FEAT_AVX512CD, FEAT_AVX512F},
    {FEAT_AVX512IFMA, FEAT_AVX512F},
    {FEAT_AVX512VBMI, FEAT_AVX512BW},
    {FEAT_AVX512_VBMI2, FEAT_AVX512BW},
    {FEAT_AVX512VNNI, FEAT_AVX512F},
    {FEAT_AVX512BITALG, FEAT_AVX512BW},
    {FEAT_AVX512_VPOPCNTDQ, FEAT_AVX512F},
    {FEAT_AVX512_BF16, FEAT_AVX512BW},
    {FEAT_PKU, FEAT_XSAVE},
    {FEAT_APIC, FEAT_MSR},
    {FEAT_X2APIC, FEAT_APIC},
    {FEAT_TSC_DEADLINE, FEAT_APIC},
    {FEAT_ARAT, FEAT_APIC},
    {FEAT_TSC_ADJUST, FEAT_TSC},
    {FEAT_INVTSC, FEAT_TSC},
    {FEAT_MCA, FEAT_MCE},
    {FEAT_LM, FEAT_PAE},
    {FEAT_NX, FEAT_PAE},
    {FEAT_INVPCID, FEAT_PCID},
    {FEAT_KVMCLOCK_OLD, FEAT_KVMCLOCK},
    {FEAT_KVMCLOCK_STABLE, FEAT_KVMCLOCK},
    {FEAT_KVM_PV_TLB_FLUSH, FEAT_KVM_STEAL_TIME},
    {FEAT_KVM_PV_IPI, FEAT_KVM_PV_SCHED_YIELD}, /* hypercalls at all */
};

/* The x86-64 baseline and what QEMU's qemu64 adds to it. */
static const uint16_t qemu64[] = {
    FEAT_FPU,     FEAT_DE,    FEAT_PSE,        FEAT_TSC,  FEAT_MSR,     FEAT_PAE,     FEAT_MCE,
    FEAT_CX8,     FEAT_APIC,  FEAT_SEP,        FEAT_MTRR, FEAT_PGE,     FEAT_MCA,     FEAT_CMOV,
    FEAT_PAT,     FEAT_PSE36, FEAT_MMX,        FEAT_FXSR, FEAT_SSE,     FEAT_SSE2,    FEAT_SSE3,
    FEAT_CX16,    FEAT_LM,    FEAT_NX,         FEAT_HT,   FEAT_CLFLUSH, FEAT_SYSCALL, FEAT_X2APIC,
    FEAT_LAHF_LM, FEAT_ARAT,  FEAT_HYPERVISOR,
};

static const struct {
    const char *name, *help;
} models[] = {
    {"max", "everything that the host, the software engine and KVM can do together"},
    {"host", "as max, with the host's family, model, stepping and brand string"},
    {"qemu64", "the x86-64 baseline with SSE3 and CMPXCHG16B"},
};

static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    r[0] = r[1] = r[2] = r[3] = 0;
    if (leaf <= (uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL))
        __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
}

static uint64_t host_xcr0(void)
{
    uint32_t r[4], lo, hi;

    host_cpuid(1, 0, r);
    if (!(r[2] & (1u << 27)))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

bool cpuid_host_has(enum CpuFeature f)
{
    const FeatureRow *row = &rows[f];
    uint32_t r[4];

    host_cpuid(row->leaf, row->subleaf, r);
    if (!(r[row->reg - 'A'] & (1u << row->bit)))
        return false;
    /* CPUID alone does not say that the operating system saves the registers. */
    if (f == FEAT_AVX)
        return (host_xcr0() & 6) == 6;
    if (f == FEAT_AVX512F) /* thunks move mask registers by KMOVQ, which is AVX512BW's */
        return (host_xcr0() & 0xe6) == 0xe6 && cpuid_host_has(FEAT_AVX512BW);
    return true;
}

static const CpuidEntry *find(const CpuidTable *t, uint32_t leaf, uint32_t sub)
{
    for (unsigned i = 0; i < t->n; i++) {
        const CpuidEntry *e = &t->e[i];
        if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == sub))
            return e;
    }
    return NULL;
}

static uint32_t entry_reg(const CpuidEntry *e, char reg)
{
    return reg == 'A' ? e->eax : reg == 'B' ? e->ebx : reg == 'C' ? e->ecx : e->edx;
}

bool cpuid_has(const CpuidTable *t, enum CpuFeature f)
{
    const CpuidEntry *e = find(t, rows[f].leaf, rows[f].subleaf);
    return e && entry_reg(e, rows[f].reg) & (1u << rows[f].bit);
}

const char *cpu_feature_name(enum CpuFeature f)
{
    return f < FEAT_N ? rows[f].name : "none";
}

static void host_vendor(char v[13])
{
    uint32_t r[4];
    host_cpuid(0, 0, r);
    memcpy(v, &r[1], 4);
    memcpy(v + 4, &r[3], 4);
    memcpy(v + 8, &r[2], 4);
    v[12] = 0;
}

static bool host_is_amd(void)
{
    char vendor[13];
    host_vendor(vendor);
    return !strcmp(vendor, "AuthenticAMD") || !strcmp(vendor, "HygonGenuine");
}

/* Who, of those asked, lacks a feature: NULL if nobody does. */
static const char *lacking(unsigned f, const CpuidTable *kvm)
{
    switch ((enum Soft)rows[f].soft) {
    case VMM:
        return NULL;
    case NO:
        return "the software engine";
    case HOST:
        if (!cpuid_host_has(f))
            return "the host's processor";
        break;
    case AMD:
        if (!host_is_amd())
            return "a processor of the host's vendor";
        break;
    case PV:
    case ASK:
    case SOFT:
        break;
    }
    return kvm && !cpuid_has(kvm, (enum CpuFeature)f) ? "KVM on this host" : NULL;
}

/* QEMU spells features with '.', '-' or '_'. */
static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        char x = *a == '.' || *a == '_' ? '-' : g_ascii_tolower(*a);
        char y = *b == '.' || *b == '_' ? '-' : g_ascii_tolower(*b);
        if (x != y)
            return false;
    }
    return *a == *b;
}

static int feature_by_name(const char *name)
{
    for (unsigned i = 0; i < FEAT_N; i++)
        if (same_name(rows[i].name, name))
            return (int)i;
    return -1;
}

/* One "+feat", "-feat" or "feat=on|off" of a -cpu argument. */
static bool parse_item(const char *item, bool on[FEAT_N], bool forced[FEAT_N], bool wanted[FEAT_N],
                       GError **err)
{
    g_autofree char *name = NULL;
    bool value;

    if (item[0] == '+' || item[0] == '-') {
        value = item[0] == '+';
        name = g_strdup(item + 1);
    } else {
        const char *eq = strchr(item, '=');
        value = !eq || !strcmp(eq + 1, "on");
        name = eq ? g_strndup(item, (gsize)(eq - item)) : g_strdup(item);
        if (eq && !value && strcmp(eq + 1, "off") &&
            (feature_by_name(name) >= 0 || same_name(name, "kvm"))) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-cpu: '%s': the value is on or off", item);
            return false;
        }
    }
    int f = feature_by_name(name);
    if (value && (same_name(name, "enforce") || same_name(name, "check")))
        return true; /* what is asked for by name and cannot be had is always an error */
    if (same_name(name, "kvm")) { /* all of that interface */
        for (unsigned i = 0; i < FEAT_N; i++) {
            if (rows[i].soft == PV)
                on[i] = wanted[i] = value;
        }
        return true;
    }
    if (f < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-cpu: unknown feature '%s' (see -cpu help)",
                    name);
        return false;
    }
    on[f] = forced[f] = wanted[f] = value;
    return true;
}

/* Instructions without a register or a control bit of their own (but IA32_TSC_AUX, which every KVM
 * has), that mean nothing else where they are not known: KVM stops at them if it lacks them. */
static bool only_instructions(unsigned f)
{
    static const uint8_t list[] = {FEAT_SSE3,  FEAT_PCLMULQDQ, FEAT_SSSE3, FEAT_CX16,
                                   FEAT_SSE41, FEAT_SSE42,     FEAT_AES,   FEAT_POPCNT,
                                   FEAT_ADX,   FEAT_SHA_NI,    FEAT_GFNI,  FEAT_RDTSCP};
    return memchr(list, (int)f, sizeof(list));
}

static bool choose_features(const char *arg, const CpuidTable *kvm, char *model, size_t model_size,
                            bool on[FEAT_N], GError **err)
{
    g_auto(GStrv) item = g_strsplit(arg, ",", -1);
    bool forced[FEAT_N] = {false};
    bool wanted[FEAT_N] = {false}; /* not by the model alone */
    unsigned m;

    for (m = 0; m < ARRAY_LEN(models); m++)
        if (item[0] && !strcmp(item[0], models[m].name))
            break;
    if (m == ARRAY_LEN(models)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-cpu: unknown model '%s' (max, host and qemu64 exist)",
                    item[0] ? item[0] : "");
        return false;
    }
    g_strlcpy(model, models[m].name, model_size);
    if (!strcmp(model, "qemu64")) {
        for (unsigned i = 0; i < ARRAY_LEN(qemu64); i++)
            on[qemu64[i]] = true;
        for (unsigned i = 0; i < FEAT_N; i++)
            on[i] = on[i] || rows[i].soft == PV;
    } else {
        for (unsigned i = 0; i < FEAT_N; i++)
            on[i] = true;
    }
    for (unsigned i = 1; item[i]; i++)
        if (!parse_item(item[i], on, forced, wanted, err))
            return false;
    for (unsigned i = 0; i < FEAT_N; i++) {
        if (((rows[i].soft == PV && !kvm) || rows[i].soft == ASK) && !wanted[i])
            on[i] = false;
    }
    /* A guest that has been told of it can never again do without KVM's local APICs. */
    if (kvm && !forced[FEAT_KVM_PV_IPI])
        on[FEAT_KVM_PV_IPI] = false;
    for (unsigned i = 0; i < FEAT_N; i++) {
        bool rescued = kvm && kvm->rescued && forced[i] && only_instructions(i);
        const char *who = on[i] ? lacking(i, rescued ? NULL : kvm) : NULL;
        if (who && forced[i]) {
            g_set_error(
                err, TANDEM_ERROR, ERR_UNSUPPORTED,
                "-cpu: feature '%s' cannot be offered: %s does not have it%s", rows[i].name, who,
                rows[i].soft == ASK ? "; -accel tcg with -overcommit cpu-pm=on leaves KVM out of it"
                                    : "");
            return false;
        }
        on[i] = on[i] && !who;
    }
    for (unsigned i = 0; i < ARRAY_LEN(needs); i++) {
        unsigned f = needs[i].feature, n = needs[i].needs;
        if (!on[f] || on[n])
            continue;
        if (forced[f]) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-cpu: feature '%s' needs '%s'", rows[f].name,
                        rows[n].name);
            return false;
        }
        on[f] = false;
    }
    return true;
}

static CpuidEntry *add(CpuidTable *t, uint32_t leaf)
{
    CpuidEntry *e = &t->e[t->n++];
    *e = (CpuidEntry){.leaf = leaf};
    if (leaf < 0x40000000)
        t->max_basic = MAX_OF(t->max_basic, leaf);
    else if (leaf >= 0x80000000)
        t->max_ext = MAX_OF(t->max_ext, leaf);
    return e;
}

static CpuidEntry *add_sub(CpuidTable *t, uint32_t leaf, uint32_t sub)
{
    CpuidEntry *e = add(t, leaf);
    e->has_subleaf = true;
    e->subleaf = sub;
    return e;
}

/* Sets the feature bits of an entry made. */
static void put_features(CpuidEntry *e, const bool on[FEAT_N])
{
    for (unsigned i = 0; i < FEAT_N; i++) {
        if (!on[i] || rows[i].leaf != e->leaf || rows[i].subleaf != e->subleaf)
            continue;
        uint32_t bit = 1u << rows[i].bit;
        switch (rows[i].reg) {
        case 'A':
            e->eax |= bit;
            break;
        case 'B':
            e->ebx |= bit;
            break;
        case 'C':
            e->ecx |= bit;
            break;
        default:
            e->edx |= bit;
            break;
        }
    }
}

static unsigned log2_ceil(unsigned n)
{
    unsigned s = 0;
    while ((1u << s) < n)
        s++;
    return s;
}

/* Offset and size of an XSAVE component in the standard format: the host's, for KVM uses that;
 * else Intel's (SDM vol. 1, 13.4.3 and the values its processors have). */
static bool xsave_component(unsigned i, uint32_t *offset, uint32_t *size)
{
    static const struct {
        uint16_t offset, size;
    } intel[] = {
        [2] = {576, 256}, [5] = {1088, 64}, [6] = {1152, 512}, [7] = {1664, 1024}, [9] = {2688, 8}};
    uint32_t r[4];

    if (i < 2 || i > 62)
        return false;
    host_cpuid(0xd, i, r);
    if (!r[0] && i < ARRAY_LEN(intel)) {
        r[0] = intel[i].size;
        r[1] = intel[i].offset;
    }
    *size = r[0];
    *offset = r[1];
    return *size != 0;
}

static uint32_t xsave_size(const CpuidTable *t, uint64_t xcr0)
{
    uint32_t end = 576, off, size; /* legacy region and header */
    for (unsigned i = 2; i < 63; i++)
        if ((xcr0 & BIT(i)) && cpuid_xsave_layout(t, i, &off, &size))
            end = MAX_OF(end, off + size);
    return end;
}

static uint64_t xcr0_of(const bool on[FEAT_N])
{
    if (!on[FEAT_XSAVE])
        return 0;
    return 3 | (on[FEAT_AVX] ? 4 : 0) | (on[FEAT_AVX512F] ? 0xe0 : 0) | (on[FEAT_PKU] ? BIT(9) : 0);
}

static void add_brand(CpuidTable *t, bool host)
{
    char brand[48] = "Tandem virtual processor";
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t r[4];
        if (host)
            host_cpuid(0x80000002 + i, 0, r);
        else
            memcpy(r, brand + 16 * i, 16);
        CpuidEntry *e = add(t, 0x80000002 + i);
        e->eax = r[0];
        e->ebx = r[1];
        e->ecx = r[2];
        e->edx = r[3];
    }
}

/* Leaf 4: one row a cache. Size = ways * line * sets (all partitions are 1). */
static void add_caches(CpuidTable *t, unsigned core_bits)
{
    static const struct {
        uint8_t type, level;
        uint16_t ways, sets;
        bool shared;
    } cache[] = {{1, 1, 8, 64, false}, {2, 1, 8, 64, false}, {3, 2, 16, 1024, false}};
    for (unsigned i = 0; i <= ARRAY_LEN(cache); i++) {
        CpuidEntry *e = add_sub(t, 4, i);
        if (i == ARRAY_LEN(cache))
            break; /* type 0 ends the list */
        e->eax =
            cache[i].type | (uint32_t)cache[i].level << 5 | 1u << 8 | ((1u << core_bits) - 1) << 26;
        e->ebx = 63u | (uint32_t)(cache[i].ways - 1) << 22;
        e->ecx = cache[i].sets - 1u;
    }
}

/* Leaf 5: lines of 64 bytes, an interrupt ends MWAIT also while IF is clear, one kind of C1. In KVM
 * it is the host's processor that watches and waits. */
static void add_monitor(CpuidEntry *e, const bool on[FEAT_N], bool in_kvm)
{
    uint32_t r[4] = {MWAIT_LINE, MWAIT_LINE, 3, 0};
    if (!on[FEAT_MONITOR])
        return;
    if (in_kvm)
        host_cpuid(5, 0, r);
    e->eax = r[0] & 0xffff ? MIN_OF(r[0] & 0xffff, MWAIT_LINE) : MWAIT_LINE;
    e->ebx = MAX_OF(r[1] & 0xffff, MWAIT_LINE);
    e->ecx = r[2] & 3;
    e->edx = 0x10;
}

static void add_basic(CpuidTable *t, const bool on[FEAT_N], bool amd, uint32_t signature,
                      unsigned n_vcpus, uint64_t tsc_khz, bool in_kvm)
{
    unsigned core_bits = log2_ceil(n_vcpus);
    CpuidEntry *e = add(t, 1);

    put_features(e, on);
    if (n_vcpus == 1)
        e->edx &= ~(1u << 28); /* HT: more than one logical processor in the package */
    e->eax = signature;
    e->ebx = 8u << 8 /* CLFLUSH line, in quadwords */ | MIN_OF(n_vcpus, 255u) << 16;
    if (!amd) {
        add(t, 2)->eax = 0x01;
        t->e[t->n - 1].ebx = 0xff; /* "caches: see leaf 4" */
        add_caches(t, MIN_OF(core_bits, 6u));
    }
    add_monitor(add(t, 5), on, in_kvm);
    put_features(add(t, 6), on);
    e = add_sub(t, 7, 0);
    put_features(e, on);
    CpuidEntry more = {.leaf = 7, .subleaf = 1};
    put_features(&more, on);
    if (more.eax) {
        e->eax = 1; /* the last subleaf */
        *add_sub(t, 7, 1) =
            (CpuidEntry){.leaf = 7, .subleaf = 1, .has_subleaf = true, .eax = more.eax};
    }
    add(t, 0xa); /* no performance counters */
    e = add_sub(t, 0xb, 0);
    e->ebx = 1;
    e->ecx = 1u << 8; /* SMT level */
    e = add_sub(t, 0xb, 1);
    e->eax = core_bits;
    e->ebx = n_vcpus;
    e->ecx = 2u << 8 | 1; /* core level */
    if (on[FEAT_XSAVE]) {
        uint64_t xcr0 = xcr0_of(on);
        e = add_sub(t, 0xd, 0);
        e->eax = (uint32_t)xcr0;
        e->edx = (uint32_t)(xcr0 >> 32);
        CpuidEntry *size = e;
        put_features(add_sub(t, 0xd, 1), on);
        for (unsigned i = 2; i < 63; i++) {
            uint32_t off, len;
            if (!(xcr0 & BIT(i)) || !xsave_component(i, &off, &len))
                continue;
            e = add_sub(t, 0xd, i);
            e->eax = len;
            e->ebx = off;
        }
        size->ecx = xsave_size(t, xcr0);
        size->ebx = xsave_size(t, 1);
    }
    /*
     * TSC frequency, so that kernels need not measure it. Linux takes the crystal for the APIC
     * timer's clock too, which only does no harm when the guest times by TSC deadline.
     */
    if (!amd && on[FEAT_TSC_DEADLINE] && tsc_khz) {
        uint64_t hz = tsc_khz * 1000;
        uint32_t ratio = 1;
        while (hz / ratio > UINT32_MAX)
            ratio++;
        e = add(t, 0x15);
        e->eax = 1;
        e->ebx = ratio;
        e->ecx = (uint32_t)(hz / ratio);
        e = add(t, 0x16);
        e->eax = e->ebx = (uint32_t)MIN_OF(tsc_khz / 1000, 0xffffu);
        e->ecx = 100;
    }
}

static void add_extended(CpuidTable *t, const bool on[FEAT_N], bool amd, bool host_brand,
                         uint32_t signature, unsigned n_vcpus, const CpuidTable *kvm)
{
    unsigned core_bits = log2_ceil(n_vcpus);
    CpuidEntry *e = add(t, 0x80000001);
    uint32_t r[4];

    put_features(e, on);
    if (amd) {
        e->eax = signature;
        /* AMD repeats leaf 1's EDX bits 9:0, 17:12, 24:23 here. */
        e->edx |= find(t, 1, 0)->edx & 0x0183f3ff;
        if (n_vcpus > 1)
            e->ecx |= 1u << 1; /* CmpLegacy: the logical processors are cores */
    }
    add_brand(t, host_brand);
    e = add(t, 0x80000005);
    if (amd) { /* 32 KiB, 8 ways, 64-byte lines, for data and code */
        e->ecx = e->edx = 32u << 24 | 8u << 16 | 1u << 8 | 64;
        e->eax = e->ebx = 0xff40ff40; /* TLBs: 64 entries, fully associative */
    }
    e = add(t, 0x80000006);
    /* L2: 1 MiB, 16 ways; lines per tag, which is AMD's alone and multiplies the size */
    e->ecx = 1024u << 16 | 8u << 12 | (amd ? 1u << 8 : 0) | 64;
    put_features(add(t, 0x80000007), on);
    e = add(t, 0x80000008);
    put_features(e, on);
    host_cpuid(0x80000008, 0, r);
    uint32_t phys = r[0] & 0xff;
    const CpuidEntry *k = kvm ? find(kvm, 0x80000008, 0) : NULL;
    if (k && (k->eax & 0xff))
        phys = MIN_OF(phys, k->eax & 0xff);
    if (phys < 36)
        phys = 36;
    e->eax = MIN_OF(phys, 52u) | 48u << 8;
    if (amd) {
        e->ecx = (n_vcpus - 1) | core_bits << 12;
        put_features(add(t, 0x80000021), on);
    }
}

bool cpuid_build(CpuidTable *t, const char *arg, const CpuidTable *kvm, unsigned n_vcpus,
                 uint64_t tsc_khz, GError **err)
{
    bool on[FEAT_N] = {false};
    char vendor[13];
    uint32_t signature, r[4];

    memset(t, 0, sizeof(*t));
    if (!choose_features(arg ? arg : "max", kvm, t->model, sizeof(t->model), on, err))
        return false;
    bool amd = host_is_amd();
    memcpy(vendor, amd ? "AuthenticAMD" : "GenuineIntel", 13);
    /*
     * Fixed, so that a guest sees the same processor on every host of a vendor: family 6 model 94
     * stepping 3, or family 17h model 31h stepping 0, whose code paths in kernels touch only
     * registers that both engines have.
     */
    signature = amd ? 0x00830f10 : 0x000506e3;
    bool host = !strcmp(t->model, "host");
    if (host) {
        host_cpuid(1, 0, r);
        signature = r[0];
    }

    CpuidEntry *zero = add(t, 0);
    memcpy(&zero->ebx, vendor, 4);
    memcpy(&zero->edx, vendor + 4, 4);
    memcpy(&zero->ecx, vendor + 8, 4);
    add_basic(t, on, amd, signature, n_vcpus, tsc_khz, kvm);
    zero->eax = t->max_basic;

    bool pv = false;
    for (unsigned i = 0; i < FEAT_N; i++)
        pv = pv || (on[i] && rows[i].soft == PV);
    if (on[FEAT_HYPERVISOR]) {
        /* KVM's, or one that nobody has paravirtual code for */
        const char *id = pv ? "KVMKVMKVM\0\0\0" : "TandemTandem";
        CpuidEntry *hv = add(t, 0x40000000);
        hv->eax = pv ? 0x40000001 : 0x40000000;
        memcpy(&hv->ebx, id, 4);
        memcpy(&hv->ecx, id + 4, 4);
        memcpy(&hv->edx, id + 8, 4);
        if (pv)
            put_features(add(t, 0x40000001), on);
    }

    CpuidEntry *ext = add(t, 0x80000000);
    memcpy(&ext->ebx, vendor, 4);
    memcpy(&ext->edx, vendor + 4, 4);
    memcpy(&ext->ecx, vendor + 8, 4);
    add_extended(t, on, amd, host, signature, n_vcpus, kvm);
    ext->eax = t->max_ext;
    if (!amd)
        ext->ebx = ext->ecx = ext->edx = 0;
    return true;
}

void cpuid_help(GString *out)
{
    g_string_append(out, "Available CPUs:\n");
    for (unsigned i = 0; i < ARRAY_LEN(models); i++)
        g_string_append_printf(out, "  %-8s %s\n", models[i].name, models[i].help);
    g_string_append(out, "\nFeatures that can be turned on and off (+name, -name, name=on|off):\n");
    size_t col = 0;
    for (unsigned i = 0; i < FEAT_N; i++) {
        if (rows[i].soft == NO)
            continue;
        size_t len = strlen(rows[i].name);
        if (col + len + 1 > 76) {
            g_string_append_c(out, '\n');
            col = 0;
        }
        g_string_append_printf(out, "%s%s", col ? " " : "  ", rows[i].name);
        col += len + (col ? 1 : 2);
    }
    g_string_append(
        out, "\nkvm=off hides KVM's paravirtual interface (kvmclock and what begins with "
             "kvm-), which a guest\nis offered when it may meet KVM; kvm=on offers it "
             "in a machine without KVM too. monitor comes with -overcommit cpu-pm=on alone.\n");
}

void cpuid_drop(CpuidTable *t, enum CpuFeature f)
{
    for (unsigned i = 0; i < t->n; i++) {
        CpuidEntry *e = &t->e[i];
        if (e->leaf != rows[f].leaf || (e->has_subleaf && e->subleaf != rows[f].subleaf))
            continue;
        uint32_t *reg = rows[f].reg == 'A'   ? &e->eax
                        : rows[f].reg == 'B' ? &e->ebx
                        : rows[f].reg == 'C' ? &e->ecx
                                             : &e->edx;
        *reg &= ~(1u << rows[f].bit);
    }
}

void cpuid_drop_crystal(CpuidTable *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        if (t->e[i].leaf == 0x15)
            t->e[i] = (CpuidEntry){.leaf = 0x15};
    }
}

static const CpuidEntry *find_out_of_range(const CpuidTable *t, uint32_t *leaf, uint32_t sub)
{
    const CpuidEntry *zero = find(t, 0, 0), *cls;

    if (!zero || memcmp(&zero->ebx, "Auth", 4) == 0)
        return NULL;
    if (*leaf >= 0x40000000 && *leaf <= 0x4fffffff)
        cls = find(t, *leaf & 0xffffff00, 0);
    else if (*leaf >= 0xc0000000)
        cls = find(t, 0xc0000000, 0);
    else
        cls = find(t, *leaf & 0x80000000, 0);
    if (cls && *leaf <= cls->eax)
        return NULL;
    *leaf = zero->eax;
    return find(t, *leaf, sub);
}

void cpuid_execute(const CpuidTable *t, uint32_t apic_id, uint64_t cr4, uint64_t xcr0,
                   uint64_t apic_base, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const CpuidEntry *e = find(t, leaf, subleaf);

    memset(out, 0, 4 * sizeof(out[0]));
    if (!e)
        e = find_out_of_range(t, &leaf, subleaf);
    if (!e) {
        if (leaf == 0xb && find(t, 0xb, 1)) { /* also for undefined levels (SDM vol. 2, CPUID) */
            out[2] = subleaf & 0xff;
            out[3] = apic_id;
        }
        return;
    }
    out[0] = e->eax;
    out[1] = e->ebx;
    out[2] = e->ecx;
    out[3] = e->edx;
    switch (leaf) {
    case 1:
        out[1] = (out[1] & 0x00ffffff) | apic_id << 24;
        if ((out[2] & (1u << 26)) && (cr4 & CR4_OSXSAVE))
            out[2] |= 1u << 27;
        if (!(apic_base & BIT(11)))
            out[3] &= ~(1u << 9);
        break;
    case 7:
        if (subleaf == 0 && (out[2] & (1u << 3)) && (cr4 & CR4_PKE))
            out[2] |= 1u << 4;
        break;
    case 0xb:
        out[3] = apic_id;
        break;
    case 0xd:
        if (subleaf == 0)
            out[1] = xsave_size(t, xcr0);
        break;
    default:
        break;
    }
}

uint32_t cpuid_signature(const CpuidTable *t)
{
    const CpuidEntry *e = find(t, 1, 0);
    return e ? e->eax : 0;
}

uint64_t cpuid_xcr0_mask(const CpuidTable *t)
{
    const CpuidEntry *e = find(t, 0xd, 0);
    return e ? e->eax | (uint64_t)e->edx << 32 : 0;
}

bool cpuid_xsave_layout(const CpuidTable *t, unsigned component, uint32_t *offset, uint32_t *size)
{
    if (component < 2) { /* inside the legacy region (SDM vol. 1, 13.4.1) */
        *offset = component ? 160 : 0;
        *size = component ? 256 : 160;
        return true;
    }
    const CpuidEntry *e = find(t, 0xd, component);
    if (!e || !e->has_subleaf || e->subleaf != component || !e->eax)
        return false;
    *offset = e->ebx;
    *size = e->eax;
    return true;
}

unsigned cpuid_phys_bits(const CpuidTable *t)
{
    const CpuidEntry *e = find(t, 0x80000008, 0);
    return e ? e->eax & 0xff : 36;
}
