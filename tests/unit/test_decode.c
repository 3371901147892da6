/*
 * The decoder against capstone: lengths and mnemonics of instructions made from the rows of ops.def
 * at random, in 16, 32 and 64-bit mode; and what only the manual can say (LOCK, limits, fields).
 */
#include <capstone/capstone.h>
#include <check.h>
#include <stdio.h>
#include <string.h>
#include "tcg/tcg.h"

#define ROUNDS 300 /* a row and mode */

static uint8_t features[FEAT_N];

static uint64_t seed = 88172645463325252ull;
static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static const struct {
    const char *name;
    unsigned dm;
    cs_mode cs;
} modes[] = {
    {"16", DM_PROT, CS_MODE_16},
    {"32", DM_PROT | DM_CS32, CS_MODE_32},
    {"64", DM_PROT | DM_CODE64, CS_MODE_64},
};

/* Prefixes, opcode of the row, then random bytes. */
static void make(const OpRow *r, unsigned mode, uint8_t b[24])
{
    uint8_t *p = b;
    static const uint8_t pick[] = {0x66, 0x67, 0x64, 0x65, 0x2e, 0x36};
    bool vex = r->map >= MAP_VEX0F;
    uint8_t rex = mode == 2 && !(r->attr & A_F64) && (rnd() & 1) ? 0x40 | (rnd() & 15) : 0;
    if (r->attr & A_W1)
        rex |= 0x48;
    if (r->attr & A_W0)
        rex &= ~8;
    for (unsigned k = 0; k < 24; k++)
        b[k] = (uint8_t)rnd();
    if (!vex) {
        for (unsigned n = rnd() & 3; n > 1; n--) {
            uint8_t c = pick[rnd() % sizeof(pick)];
            /* Near branches in 64-bit mode: Intel ignores 66, AMD and capstone do not. */
            if (c != 0x66 || (r->pfx == PFX_ANY && !(r->attr & A_F64)))
                *p++ = c;
        }
        if ((r->attr & A_REP) && (rnd() & 1))
            *p++ = 0xf3;
        if (r->pfx == PFX_66)
            *p++ = 0x66;
        if (r->pfx == PFX_F3)
            *p++ = 0xf3;
        if (r->pfx == PFX_F2)
            *p++ = 0xf2;
        if (rex)
            *p++ = rex;
        if (r->map != MAP_1B)
            *p++ = 0x0f;
        if (r->map == MAP_0F38)
            *p++ = 0x38;
        if (r->map == MAP_0F3A)
            *p++ = 0x3a;
    } else {
        static const uint8_t pp[] = {[PFX_NP] = 0, [PFX_66] = 1, [PFX_F3] = 2, [PFX_F2] = 3};
        *p++ = 0xc4;
        *p++ = (uint8_t)((mode == 2 ? rnd() & 0xe0 : 0xe0) | (r->map - MAP_VEX0F + 1));
        *p++ = (uint8_t)((rex & 8) << 4 | (r->attr & A_NOV ? 0x78 : 0x40 | (rnd() & 0x38)) |
                         (r->attr & A_VEXL1 ? 4 : 0) | pp[r->pfx]);
    }
    *p++ = r->opcode;
    if (r->modrm & 8)
        *p = (uint8_t)((*p & ~0x38) | (r->modrm & 7) << 3);
    if (r->modrm & X_REG)
        *p |= 0xc0;
    if ((r->modrm & X_MEM) && *p >= 0xc0)
        *p &= 0x7f;
    if (r->modrm & X_RM)
        *p = (uint8_t)((*p & ~7) | r->modrm >> 8);
}

/* Names that differ by custom: ours on the left, what capstone may say instead. */
static bool same_name(const OpRow *r, const char *cs)
{
    static const char *const alias[][2] = {
        {"cbw", "cbw cwde cdqe"},
        {"cwd", "cwd cdq cqo"},
        {"pusha", "pushal pushaw"},
        {"popa", "popal popaw"},
        {"jcxz", "jcxz jecxz jrcxz"},
        {"movabs", "mov movabs"},
        {"shl", "shl sal"},
        {"pause", "pause nop xchg"},
        /* Capstone 4 in some modes: */
        {"tzcnt", "bsf"},
        {"lzcnt", "bsr"},
        {"crc32", "movbe"},
        {"clflushopt", "clflush"},
        {"clflush", "clflushopt"},
        {"clwb", "xsaveopt xsaveopt64"},
        {"sfence", "pcommit"},
        {"sfence", "pcommit"},
        {"mov", "movabs"},
        {"pushf", "pushf pushfd pushfq"},
        {"popf", "popf popfd popfq"},
        {"iret", "iret iretd iretq"},
        {"call far", "lcall"},
        {"jmp far", "ljmp"},
        {"int1", "int1 icebp"},
        {"xchg", "nop"},
        {"movs", "movsb movsw movsd movsq"},
        {"xlatb", "xlatb"},
        {"sysret", "sysretq sysret"},
        {"nop", "prefetch prefetchw prefetchnta prefetcht0 prefetcht1 prefetcht2 endbr32 endbr64 "
                "rdsspd rdsspq bndmov bndldx bndstx bndcl bndcu bndcn bndmk cldemote prefetchwt1"},
    };
    if (strncmp(cs, "rep ", 4) == 0 || strncmp(cs, "repne ", 6) == 0 ||
        strncmp(cs, "repz ", 5) == 0 || strncmp(cs, "repe ", 5) == 0)
        cs = strchr(cs, ' ') + 1;
    size_t n = strlen(r->name);
    if (strcmp(r->name, cs) == 0)
        return true;
    /* Size letters: movs -> movsb, retf -> retfq. */
    if (strncmp(r->name, cs, n) == 0 && cs[n] && strchr("bwdql", cs[n]) && !cs[n + 1])
        return true;
    if (strncmp(r->name, cs, n) == 0 && strcmp(cs + n, "64") == 0)
        return true;
    for (unsigned k = 0; k < ARRAY_LEN(alias); k++) {
        if (strcmp(alias[k][0], r->name) != 0)
            continue;
        for (const char *p = alias[k][1]; p; p = strchr(p, ' ')) {
            p += *p == ' ';
            size_t len = strcspn(p, " ");
            if (strlen(cs) == len && strncmp(p, cs, len) == 0)
                return true;
        }
    }
    /* Segment pushes and pops carry the register in our name. */
    return strncmp(r->name, cs, strlen(cs)) == 0 && r->name[strlen(cs)] == ' ';
}

/* The mnemonics of these classes are another test's business. */
static bool is_vector(const OpRow *r)
{
    return r->attr & (A_FPU | A_MMX | A_SSE | A_AVX);
}

START_TEST(capstone_agrees)
{
    unsigned compared = 0, lengths = 0, names = 0;
    for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
        csh cs;
        ck_assert_int_eq(cs_open(CS_ARCH_X86, modes[m].cs, &cs), CS_ERR_OK);
        for (unsigned n = 0; n < op_rows_n; n++) {
            const OpRow *r = &op_rows[n];
            if ((m == 2 && (r->attr & A_I64)) || (m != 2 && (r->attr & A_O64)))
                continue;
            unsigned shown = 0;
            for (unsigned k = 0; k < ROUNDS; k++) {
                uint8_t b[24];
                Insn i;
                cs_insn *c;
                make(r, m, b);
                if (decode(&i, b, 15, modes[m].dm, features) != DECODE_OK)
                    continue;
                if (cs_disasm(cs, b, 15, 0, 1, &c) != 1)
                    continue;
                const OpRow *got = &op_rows[i.row];
                /* Defined to be undefined: capstone knows no ModRM byte there. */
                if (got->name[0] == '(' || strncmp(got->name, "ud", 2) == 0) {
                    cs_free(c, 1);
                    continue;
                }
                compared++;
                bool len_ok = i.len == c->size;
                bool name_ok = is_vector(got) || same_name(got, c->mnemonic);
                lengths += !len_ok;
                names += !name_ok;
                if (!(len_ok && name_ok) && shown++ < 2) {
                    fprintf(stderr, "%s:", modes[m].name);
                    for (unsigned q = 0; q < MAX_OF(i.len, c->size); q++)
                        fprintf(stderr, " %02x", b[q]);
                    fprintf(stderr, "  ours %s (%u), capstone %s %s (%u)\n", got->name, i.len,
                            c->mnemonic, c->op_str, c->size);
                }
                cs_free(c, 1);
            }
        }
        cs_close(&cs);
    }
    printf("%u instructions compared\n", compared);
    ck_assert_uint_gt(compared, 100000);
    ck_assert_uint_eq(lengths, 0);
    ck_assert_uint_eq(names, 0);
}
END_TEST

int main(void)
{
    memset(features, 1, sizeof(features));
    TCase *tc = tcase_create("decode");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, capstone_agrees);
    Suite *suite = suite_create("decode");
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_NORMAL);
    int failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures ? 1 : 0;
}
