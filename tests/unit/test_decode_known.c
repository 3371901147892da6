/* decode_known() says the same as decode(), of whatever bytes. */
#include <check.h>
#include "tcg/decode.h"
#include "run_suite.h"

#define ROUNDS 1000000u

static uint64_t seed;

static uint32_t rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33);
}

/* Bytes that make an instruction more often than not: prefixes, an opcode, ModRM and what follows.
 */
static void make(uint8_t b[DECODE_ROOM])
{
    static const uint8_t prefix[] = {0x66, 0xf3, 0x64, 0x65, 0x66, 0xf3, 0xf2, 0xf0, 0x2e, 0x67};
    unsigned n = 0;
    for (unsigned k = 0; k < 15; k++)
        b[k] = (uint8_t)rnd();
    while (n < 4 && rnd() % 3 == 0)
        b[n++] = prefix[rnd() % ARRAY_LEN(prefix)];
    if (rnd() % 2)
        b[n++] = 0x40 | (rnd() & 15);
    if (rnd() % 8 == 0) /* which takes REX back */
        b[n++] = prefix[rnd() % ARRAY_LEN(prefix)];
    if (rnd() % 3 == 0)
        b[n++] = 0x0f;
}

/* Without what is between its fields. */
static void tidy(Insn *i)
{
    memset((uint8_t *)i + offsetof(Insn, evex) + 1, 0,
           offsetof(Insn, go) - offsetof(Insn, evex) - 1);
}

START_TEST(same_as_decode)
{
    static const unsigned modes[] = {DM_CODE64 | DM_PROT | DM_AMD, DM_CODE64 | DM_PROT,
                                     DM_CODE64 | DM_PROT | DM_CPL3 | DM_FLAT,
                                     DM_PROT | DM_CS32 | DM_FLAT};
    static uint8_t features[FEAT_N];
    memset(features, 1, sizeof(features));
    seed = (uint64_t)_i + 1;
    unsigned good = 0, mode = 0;
    DecodeKnown *d = decode_known_new();
    ck_assert_ptr_nonnull(d);
    for (unsigned n = 0; n < ROUNDS; n++) {
        uint8_t b[DECODE_ROOM] = {0};
        Insn want, got;
        memset(&want, 0, sizeof(want));
        memset(&got, 0, sizeof(got));
        make(b);
        memset(b + 15, (int)rnd(), sizeof(b) - 15); /* is not looked at */
        if (n % 125000 == 0)
            mode = modes[n / 125000 % ARRAY_LEN(modes)];
        DecodeResult res = decode(&want, b, 15, mode, features);
        ck_assert_int_eq(decode_known(d, &got, b, mode, features), res);
        if (res != DECODE_OK)
            continue;
        tidy(&want);
        tidy(&got);
        good++;
        if (memcmp(&want, &got, sizeof(want)) == 0)
            continue;
        g_autoptr(GString) text = g_string_new(NULL);
        for (unsigned k = 0; k < want.len; k++)
            g_string_append_printf(text, " %02x", b[k]);
        ck_abort_msg("%s:%s, mode %#x", op_rows[want.row].name, text->str, mode);
    }
    ck_assert_uint_gt(good, ROUNDS / 4);
    g_free(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("decode_known");
    TCase *t = tcase_create("decode_known");
    tcase_add_loop_test(t, same_as_decode, 0, 2);
    suite_add_tcase(s, t);
    return run_suite(s);
}
