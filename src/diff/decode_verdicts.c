/*
 * Who is right when decoders disagree: the first row of decode_verdicts.def whose pattern fits.
 *
 * A pattern is conditions with spaces between, all of which must hold:
 *
 *   engine=capstone      the other decoder
 *   mode=16,32           one of these
 *   kind=length,operand  one of disagreement_name[], with '-' for a space
 *   ours=j*,call         mnemonics (globs) of Tandem's row; a '-' stands for a space
 *   theirs=nop           mnemonics (globs) the other gives
 *   ext=VTX,SVM          ISA extensions the other names
 *   what=*segment        what differs of an operand (glob), with '-' for a space
 *   op=0F:80-8f,1B:eb    opcode map and opcode
 *   reg=6,7              ModRM.reg
 *   with=66,MEM          the bytes have all of these: enum DecTrait
 *   any=F2,F3            at least one of these
 *   without=SIB          none of these
 */
#include <string.h>

#include "diff/decode.h"

typedef struct Row {
    Verdict v;
    const char *pattern;
} Row;

static const Row rows[] = {
#define VERDICT(name, pattern, right, reference, why) \
    {{name, RIGHT_##right, reference, why}, pattern},
#include "diff/decode_verdicts.def"
#undef VERDICT
};

static const struct {
    const char *name;
    unsigned bit;
} traits[] = {
    {"66", TRAIT_66},       {"67", TRAIT_67},
    {"F2", TRAIT_F2},       {"F3", TRAIT_F3},
    {"LOCK", TRAIT_LOCK},   {"SEG", TRAIT_SEG},
    {"REX", TRAIT_REX},     {"REXW", TRAIT_REXW},
    {"REXB", TRAIT_REXB},   {"LOST_REX", TRAIT_LOST_REX},
    {"VEX", TRAIT_VEX},     {"VEXL", TRAIT_VEXL},
    {"VEXW", TRAIT_VEXW},   {"VVVV", TRAIT_VVVV},
    {"EVEX", TRAIT_EVEX},   {"XOP", TRAIT_XOP},
    {"MEM", TRAIT_MEM},     {"REG", TRAIT_REG},
    {"SIB", TRAIT_SIB},     {"REPEAT", TRAIT_REPEAT},
    {"SEG64", TRAIT_SEG64}, {"SEVERAL", TRAIT_SEVERAL},
};

static const char *const map_name[MAP_N + 1] = {
    [MAP_1B] = "1B",
    [MAP_0F] = "0F",
    [MAP_0F38] = "0F38",
    [MAP_0F3A] = "0F3A",
    [MAP_VEX0F] = "VEX0F",
    [MAP_VEX0F38] = "VEX0F38",
    [MAP_VEX0F3A] = "VEX0F3A",
    [MAP_EVEX0F] = "EVEX0F",
    [MAP_EVEX0F38] = "EVEX0F38",
    [MAP_EVEX0F3A] = "EVEX0F3A",
    [MAP_N] = "none",
};

enum Condition {
    C_ENGINE,
    C_MODE,
    C_KIND,
    C_OURS,
    C_THEIRS,
    C_EXT,
    C_WHAT,
    C_OP,
    C_REG,
    C_WITH,
    C_ANY,
    C_WITHOUT,
    C_N
};
static const char *const condition_name[C_N] = {"engine", "mode", "kind", "ours",
                                                "theirs", "ext",  "what", "op",
                                                "reg",    "with", "any",  "without"};

typedef struct Test {
    enum Condition what;
    char **word;   /* globs, or opcodes */
    unsigned bits; /* of traits */
} Test;

static GArray *tests[ARRAY_LEN(rows)]; /* of Test */

static unsigned trait_bits(char **word, const char *name)
{
    unsigned bits = 0;
    for (; *word; word++) {
        unsigned k = 0;
        while (k < ARRAY_LEN(traits) && strcmp(traits[k].name, *word))
            k++;
        if (k == ARRAY_LEN(traits))
            g_error("decode_verdicts.def: %s: no trait '%s'", name, *word);
        bits |= traits[k].bit;
    }
    return bits;
}

static void parse(void)
{
    for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
        g_auto(GStrv) part = g_strsplit(rows[r].pattern, " ", -1);
        tests[r] = g_array_new(FALSE, FALSE, sizeof(Test));
        for (char **p = part; *p; p++) {
            char *eq = strchr(*p, '=');
            Test t = {C_N, NULL, 0};
            for (unsigned c = 0; eq && c < C_N; c++)
                if (strlen(condition_name[c]) == (size_t)(eq - *p) &&
                    !memcmp(*p, condition_name[c], (size_t)(eq - *p)))
                    t.what = (enum Condition)c;
            if (t.what == C_N)
                g_error("decode_verdicts.def: %s: '%s' is no condition", rows[r].v.name, *p);
            t.word = g_strsplit(eq + 1, ",", -1);
            if (t.what >= C_WITH)
                t.bits = trait_bits(t.word, rows[r].v.name);
            g_array_append_val(tests[r], t);
        }
    }
}

static bool fits_glob(char **word, const char *text)
{
    g_autofree char *dashed = g_strdelimit(g_strdup(text), " ", '-');
    for (; *word; word++)
        if (g_pattern_match_simple(*word, dashed))
            return true;
    return false;
}

/* "0F:80-8f" */
static bool fits_opcode(char **word, const DecContext *c)
{
    for (; *word; word++) {
        size_t n = strlen(map_name[c->map]);
        if (strncmp(*word, map_name[c->map], n) || ((*word)[n] && (*word)[n] != ':'))
            continue;
        if (!(*word)[n])
            return true;
        char *end;
        unsigned long from = strtoul(*word + n + 1, &end, 16);
        unsigned long to = *end == '-' ? strtoul(end + 1, NULL, 16) : from;
        if (c->opcode >= from && c->opcode <= to)
            return true;
    }
    return false;
}

static bool fits(const Test *t, const DecContext *c)
{
    char reg[2] = {(char)('0' + (c->modrm >> 3 & 7)), 0};
    switch (t->what) {
    case C_ENGINE:
        return fits_glob(t->word, c->engine->name);
    case C_MODE:
        return fits_glob(t->word, dec_mode_name[c->mode]);
    case C_KIND:
        return fits_glob(t->word, disagreement_name[c->d.kind]);
    case C_OURS:
        return fits_glob(t->word, c->tandem->name);
    case C_THEIRS:
        return fits_glob(t->word, c->other->name);
    case C_EXT:
        return fits_glob(t->word, c->other->extension);
    case C_WHAT:
        return fits_glob(t->word, c->d.what);
    case C_OP:
        return fits_opcode(t->word, c);
    case C_REG:
        return fits_glob(t->word, reg);
    case C_WITH:
        return (c->traits & t->bits) == t->bits;
    case C_ANY:
        return c->traits & t->bits;
    default:
        return !(c->traits & t->bits);
    }
}

const Verdict *decode_verdict(const DecContext *c)
{
    if (!tests[0])
        parse();
    for (unsigned r = 0; r < ARRAY_LEN(rows); r++) {
        bool ok = true;
        for (unsigned k = 0; ok && k < tests[r]->len; k++)
            ok = fits(&g_array_index(tests[r], Test, k), c);
        if (ok)
            return &rows[r].v;
    }
    return NULL;
}
