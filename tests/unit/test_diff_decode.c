/*
 * `tandem diff decode` itself: that its bytes meet every row of ops.def, that nothing in which two
 * decoders can differ is overlooked, and that verdicts say what they are for.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "diff/decode.h"
#include "tcg/tcg.h"
#include "run_suite.h"

START_TEST(every_row_is_met)
{
    uint8_t features[FEAT_N], bytes[DECODE_BYTES];
    static const unsigned dm[] = {DM_PROT, DM_PROT | DM_CS32, DM_PROT | DM_CODE64,
                                  DM_PROT | DM_CODE64 | DM_AMD};
    g_autofree unsigned *met = g_new0(unsigned, op_rows_n);
    memset(features, 1, sizeof(features));
    for (uint64_t k = 0; k < op_rows_n * 40ull; k++) {
        for (unsigned m = 0; m < DEC_MODES; m++) {
            Insn i;
            decode_bytes(5, k, (enum DecMode)m, bytes);
            if (decode(&i, bytes, DECODE_BYTES, dm[m], features) == DECODE_OK)
                met[i.row]++;
        }
    }
    for (unsigned r = 0; r < op_rows_n; r++)
        ck_assert_msg(met[r] > 0 || op_rows[r].name[0] == '(' /* a hole */, "row %u, %s: never met",
                      r, op_rows[r].name);
}
END_TEST

/* What the decoder says depends on the bytes it says it took, and on no other: blocks are compared
 * with memory by these. */
START_TEST(bytes_behind_do_not_matter)
{
    uint8_t features[FEAT_N], bytes[DECODE_BYTES], noise[DECODE_BYTES];
    static const unsigned dm[] = {0, DM_PROT, DM_PROT | DM_CS32, DM_PROT | DM_CODE64};
    unsigned undefined = 0;
    memset(features, 1, sizeof(features));
    for (uint64_t k = 0; k < 60000; k++) {
        unsigned m = k % ARRAY_LEN(dm);
        Insn a, b;
        decode_bytes(9, k, m == 3 ? DEC_64 : m == 2 ? DEC_32 : DEC_16, bytes);
        DecodeResult res = decode(&a, bytes, DECODE_BYTES, dm[m], features);
        if (res == DECODE_TOO_LONG)
            continue;
        undefined += res == DECODE_UD;
        for (unsigned t = 0; t < 8; t++) {
            decode_bytes(10 + t, k * 8 + 7, DEC_64, noise); /* random ones */
            memcpy(noise, bytes, a.len);
            DecodeResult again = decode(&b, noise, DECODE_BYTES, dm[m], features);
            ck_assert_msg(again == res && a.len == b.len && (res == DECODE_UD || a.row == b.row),
                          "%02x %02x %02x %02x in mode %u: %u bytes", bytes[0], bytes[1], bytes[2],
                          bytes[3], m, a.len);
        }
    }
    ck_assert_uint_gt(undefined, 1000);
}
END_TEST

START_TEST(same_bytes_each_time)
{
    uint8_t a[DECODE_BYTES], b[DECODE_BYTES], c[DECODE_BYTES];
    unsigned same = 0;
    for (uint64_t k = 0; k < 1000; k++) {
        decode_bytes(7, k, DEC_64, a);
        decode_bytes(7, k, DEC_64, b);
        decode_bytes(8, k, DEC_64, c);
        ck_assert(!memcmp(a, b, sizeof(a)));
        same += !memcmp(a, c, sizeof(a));
    }
    ck_assert_uint_lt(same, 5);
}
END_TEST

/* ---- each difference is seen ---- */

static Decoded tandem_of(enum DecMode mode, const char *hex)
{
    uint8_t bytes[DECODE_BYTES] = {0};
    Decoded d;
    for (unsigned k = 0; *hex && k < DECODE_BYTES; hex += *hex == ' ')
        bytes[k++] = (uint8_t)strtoul(hex, (char **)&hex, 16);
    dec_tandem(bytes, mode, &d);
    return d;
}

static void expect(const Decoded *a, const Decoded *b, enum DisagreementKind kind, const char *what)
{
    Disagreement d = decode_compare(a, b);
    ck_assert_msg(d.kind == kind && !strcmp(d.what, what), "%s (%s), not %s (%s)",
                  disagreement_name[d.kind], d.what, disagreement_name[kind], what);
}

START_TEST(each_difference_is_seen)
{
    /* imul rdx, fs:[r9 + rsi*4 + 0x12345678], 0x55667788 */
    const Decoded t = tandem_of(DEC_64, "64 49 69 94 b1 78 56 34 12 88 77 66 55");
    ck_assert(t.ok && t.len == 13 && t.n == 3);
    Decoded o = t;
    expect(&t, &o, DIS_NONE, "");
#define CHANGED(change, kind, what) \
    do {                            \
        o = t;                      \
        change;                     \
        expect(&t, &o, kind, what); \
    } while (0)
    CHANGED(o.ok = false, DIS_OTHER_UD, "");
    CHANGED(o.len++, DIS_LENGTH, "");
    CHANGED(strcpy(o.name, "mul"), DIS_NAME, "");
    CHANGED(o.op[0].reg.num++, DIS_OPERAND, "operand 1: register");
    CHANGED(o.op[0].reg.size = 4, DIS_OPERAND, "operand 1: register size");
    CHANGED(o.op[0].reg.cls = DR_MMX, DIS_OPERAND, "operand 1: register class");
    CHANGED(o.op[1].base.num--, DIS_OPERAND, "operand 2: base");
    CHANGED(o.op[1].base.size = 4, DIS_OPERAND, "operand 2: base");
    CHANGED(o.op[1].base.cls = DR_NONE, DIS_OPERAND, "operand 2: base");
    CHANGED(o.op[1].idx.num++, DIS_OPERAND, "operand 2: index");
    CHANGED(o.op[1].scale = 8, DIS_OPERAND, "operand 2: scale");
    CHANGED(o.op[1].seg = GS, DIS_OPERAND, "operand 2: segment");
    CHANGED(o.op[1].value++, DIS_OPERAND, "operand 2: displacement");
    CHANGED(o.op[1].value ^= 1ll << 60, DIS_OPERAND, "operand 2: displacement");
    CHANGED(o.op[2].value ^= 1, DIS_OPERAND, "operand 3: immediate");
    CHANGED(o.op[2].kind = DK_REG, DIS_OPERAND, "operand 3: kind");
    CHANGED(o.n--, DIS_OPERAND, "operand 3: missing");
    CHANGED((o.op[3] = o.op[2], o.n++), DIS_OPERAND, "operand 4: one more");
    o = t;
    o.ok = false;
    expect(&o, &t, DIS_TANDEM_UD, "");
    expect(&o, &o, DIS_NONE, "");
}
END_TEST

/* What is no difference: custom in names, widths that do not count, operands the opcode implies. */
START_TEST(what_is_none)
{
    Decoded t = tandem_of(DEC_64, "f3 48 a5"), o = t;
    strcpy(o.name, "rep movsq");
    expect(&t, &o, DIS_NONE, "");
    strcpy(o.name, "rep stosq");
    expect(&t, &o, DIS_NAME, "");
    t = tandem_of(DEC_16, "eb fe"); /* a target of 16 bits */
    o = t;
    o.op[0].value = 0;
    ck_assert_int_eq(t.op[0].value, 0);
    o.op[0].value = 0x10000;
    expect(&t, &o, DIS_NONE, "");
    t = tandem_of(DEC_32, "d3 e3"); /* shl ebx, cl */
    o = t;
    o.op[o.n++] = (DecOperand){.kind = DK_REG, .reg = dec_reg_by_name("cl")};
    expect(&t, &o, DIS_NONE, "");
    o.op[o.n++] = (DecOperand){.kind = DK_REG, .reg = dec_reg_by_name("rbp")};
    expect(&t, &o, DIS_OPERAND, "operand 3: one more");
    t = tandem_of(DEC_64, "e4 60"); /* in al, 0x60: the other names AL first */
    o = t;
    o.op[1] = o.op[0];
    o.op[0] = (DecOperand){.kind = DK_REG, .reg = dec_reg_by_name("al")};
    o.n = 2;
    expect(&t, &o, DIS_NONE, "");
}
END_TEST

START_TEST(registers_by_name)
{
    static const struct {
        const char *name;
        DecReg r;
    } reg[] = {
        {"al", {DR_GPR, 0, 1}},     {"bh", {DR_GPR, 19, 1}}, {"spl", {DR_GPR, 4, 1}},
        {"r15d", {DR_GPR, 15, 4}},  {"rsi", {DR_GPR, 6, 8}}, {"gs", {DR_SEG, 5, 0}},
        {"cr8", {DR_CR, 8, 0}},     {"mm7", {DR_MMX, 7, 0}}, {"ymm31", {DR_VEC, 31, 0}},
        {"st(3)", {DR_ST, 3, 0}},   {"rip", {DR_IP, 0, 0}},  {"riz", {DR_NONE, 0, 0}},
        {"bnd0", {DR_OTHER, 0, 0}}, {"", {DR_OTHER, 0, 0}},
    };
    for (unsigned k = 0; k < ARRAY_LEN(reg); k++) {
        DecReg r = dec_reg_by_name(reg[k].name);
        ck_assert_msg(!memcmp(&r, &reg[k].r, sizeof(r)), "%s", reg[k].name);
    }
}
END_TEST

/* The verdict on what capstone makes of some bytes, by name; "" without one, NULL if they agree. */
static const char *verdict_on(enum DecMode mode, const char *hex)
{
    uint8_t bytes[DECODE_BYTES] = {0};
    Decoded tandem, other;
    for (unsigned k = 0; *hex && k < DECODE_BYTES; hex += *hex == ' ')
        bytes[k++] = (uint8_t)strtoul(hex, (char **)&hex, 16);
    void *cs = dec_capstone.open(mode);
    dec_tandem(bytes, mode, &tandem);
    dec_capstone.decode(cs, bytes, &other);
    dec_capstone.close(cs);
    DecContext c = {.bytes = bytes,
                    .mode = mode,
                    .tandem = &tandem,
                    .other = &other,
                    .engine = &dec_capstone,
                    .d = decode_compare(&tandem, &other)};
    if (!c.d.kind)
        return NULL;
    decode_context(&c);
    const Verdict *v = decode_verdict(&c);
    return v ? v->name : "";
}

START_TEST(verdicts)
{
    ck_assert_ptr_null(verdict_on(DEC_64, "48 01 d8"));
    ck_assert_ptr_null(verdict_on(DEC_64_AMD, "66 e9 00 01"));
    ck_assert_str_eq(verdict_on(DEC_64, "66 e9 00 01 00 00"), "near-66");
    ck_assert_str_eq(verdict_on(DEC_64, "f3 c4 62 e2 f5 0e"), "cs-vex-prefix");
    ck_assert_str_eq(verdict_on(DEC_64, "0f 78 c0"), "not-offered");
    /* A disagreement that was made up has none. */
    uint8_t bytes[DECODE_BYTES] = {0x48, 0x01, 0xd8};
    Decoded t = tandem_of(DEC_64, "48 01 d8"), o = t;
    o.op[0].reg.num = 7;
    DecContext c = {.bytes = bytes,
                    .mode = DEC_64,
                    .tandem = &t,
                    .other = &o,
                    .engine = &dec_capstone,
                    .d = decode_compare(&t, &o)};
    decode_context(&c);
    ck_assert_ptr_null(decode_verdict(&c));
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("decode");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, every_row_is_met);
    tcase_add_test(tc, bytes_behind_do_not_matter);
    tcase_add_test(tc, same_bytes_each_time);
    tcase_add_test(tc, each_difference_is_seen);
    tcase_add_test(tc, what_is_none);
    tcase_add_test(tc, registers_by_name);
    tcase_add_test(tc, verdicts);
    Suite *suite = suite_create("diff-decode");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
