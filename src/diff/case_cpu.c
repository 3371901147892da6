/* The CPU that cases are made for, and how it decodes them. */
#include "diff/engines.h"

#include <pthread.h>
#include <string.h>
#include "tcg/insn.h"

static CpuidTable table;
static uint8_t features[FEAT_N];
static char *missing[FEAT_N]; /* texts of case_no_feature() */
static bool amd;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool pointers_hidden;
static uint32_t mxcsr_mask;
static void build(void);

/* Does an FXSAVE image have the x87 pointers when no exception is pending? Those of AMD without
 * XSaveErPtr have zeros. */
static bool probe_pointers(void)
{
    static _Alignas(64) uint8_t own[512], image[512];
    __asm__ volatile("fxsave64 %0" : "=m"(own));
    memcpy(&mxcsr_mask, own + 28, 4);
    memcpy(image, own, sizeof(image));
    memset(image + 8, 1, 6);
    image[2] = image[3] = 0;
    __asm__ volatile("fxrstor64 %0\n\tfxsave64 %0" : "+m"(image));
    __asm__ volatile("fxrstor64 %0" : : "m"(own));
    return image[8] != 1;
}

uint32_t case_mxcsr_mask(void)
{
    pthread_once(&once, build);
    return mxcsr_mask;
}

bool case_pointers_hidden(void)
{
    pthread_once(&once, build);
    return pointers_hidden;
}

static void build(void)
{
    pointers_hidden = probe_pointers();
    GError *err = NULL;
    if (!cpuid_build(&table, "max", NULL, 1, 2000000, &err))
        g_error("CPUID of model 'max': %s", err->message);
    uint32_t vendor[4];
    cpuid_execute(&table, 0, 0, 1, 0, 0, 0, vendor);
    amd = vendor[2] == 0x444d4163; /* "cAMD" */
    for (unsigned k = 0; k < FEAT_N; k++) {
        features[k] = cpuid_has(&table, (enum CpuFeature)k);
        if (!features[k])
            missing[k] = g_strdup_printf("host has no %s", cpu_feature_name((enum CpuFeature)k));
    }
}

const CpuidTable *case_cpuid(void)
{
    pthread_once(&once, build);
    return &table;
}

const uint8_t *case_features(void)
{
    pthread_once(&once, build);
    return features;
}

const char *case_no_feature(uint16_t row)
{
    unsigned f = op_rows[row].feature;
    pthread_once(&once, build);
    if (is_evex_map(op_rows[row].map) && missing[FEAT_AVX512F])
        return missing[FEAT_AVX512F];
    return f < FEAT_N ? missing[f] : NULL;
}

/* ---- decoding ---- */
unsigned case_decode_mode(const DiffCase *c)
{
    const CpuState *s = &c->in;
    pthread_once(&once, build);
    unsigned m = (s->cpl == 3 ? DM_CPL3 : 0) | (amd ? DM_AMD : 0);
    if (c->mode != CM_REAL && c->mode != CM_VM86)
        m |= DM_PROT;
    if (cpu_code64(s))
        return m | DM_CODE64;
    return m | (s->seg[CS].attr & SEG_DB ? DM_CS32 : 0) | (s->seg[SS].attr & SEG_DB ? DM_SS32 : 0);
}

bool case_is_int3(const DiffCase *c)
{
    const OpRow *r = &op_rows[c->row];
    return r->map == MAP_1B && r->opcode == 0xcc && c->insn[c->len - 1] == 0xcc;
}
