/*
 * `tandem diff decode`: what decoders make of the same bytes, in terms they can be compared in.
 *
 *   decode.c           the mode: options, the loop, groups of disagreements
 *   decode_bytes.c     bytes to decode, from a seed
 *   decode_engines.c   Tandem's decoder and capstone; decode_zydis.c is there when Zydis is
 *   decode_compare.c   what disagrees
 *   decode_verdicts.c  who is right: the rows of decode_verdicts.def
 */
#ifndef TANDEM_DIFF_DECODE_H
#define TANDEM_DIFF_DECODE_H

#include <glib.h>
#include "tcg/insn.h"

enum { DECODE_BYTES = 15, DECODE_OPERANDS = 6 };

enum DecMode { DEC_16, DEC_32, DEC_64, DEC_64_AMD, DEC_MODES };
extern const char *const dec_mode_name[DEC_MODES];
static inline bool dec_code64(enum DecMode m)
{
    return m >= DEC_64;
}

enum DecRegClass {
    DR_NONE,
    DR_GPR,
    DR_SEG,
    DR_CR,
    DR_DR,
    DR_MMX,
    DR_VEC,
    DR_ST,
    DR_MASK,
    DR_IP,
    DR_OTHER
};
typedef struct DecReg {
    uint8_t cls;  /* enum DecRegClass */
    uint8_t num;  /* AH-BH: 16-19 */
    uint8_t size; /* bytes of a general register; 0: not said */
} DecReg;

enum DecKind { DK_REG, DK_MEM, DK_IMM, DK_FAR };
typedef struct DecOperand {
    uint8_t kind;     /* enum DecKind */
    uint8_t size;     /* bytes of an immediate or an address that count */
    bool encoded;     /* bytes of the instruction say it; false: perhaps only the opcode does */
    DecReg reg;       /* DK_REG */
    DecReg base, idx; /* DK_MEM; DR_NONE: none */
    uint8_t scale;    /* 1, 2, 4, 8 */
    uint8_t seg;      /* enum Seg, SEG_NONE: no base in 64-bit mode */
    int64_t value;    /* displacement, immediate, branch target (from the instruction's first byte),
                         or a far pointer's offset */
    uint16_t selector;
} DecOperand;

typedef struct Decoded {
    bool ok; /* an instruction */
    uint8_t len;
    uint8_t n;
    char name[32];
    char extension[24]; /* ISA extension the engine counts it to, "" when it does not say */
    DecOperand op[DECODE_OPERANDS];
} Decoded;

/* A decoder to hold against Tandem's. One thread. */
typedef struct DecEngine {
    const char *name;
    const char *(*version)(void);
    void *(*open)(enum DecMode);
    void (*close)(void *);
    void (*decode)(void *, const uint8_t bytes[DECODE_BYTES], Decoded *);
} DecEngine;
extern const DecEngine dec_capstone;
#ifdef TANDEM_ZYDIS
extern const DecEngine dec_zydis;
#endif

/* Tandem's own, with every feature there. */
void dec_tandem(const uint8_t bytes[DECODE_BYTES], enum DecMode, Decoded *out);
/* Mnemonic and operands, in letters of our own: what is compared, and no more. */
void decoded_text(const Decoded *, GString *out);
/* A register by the name disassemblers give it. */
DecReg dec_reg_by_name(const char *name);

/* The bytes of case `index`: from a row of ops.def with prefixes, ModRM, SIB and VEX in all forms,
 * or plain random ones. Returns the row, or -1. */
int decode_bytes(uint64_t seed, uint64_t index, enum DecMode, uint8_t out[DECODE_BYTES]);

enum DisagreementKind {
    DIS_NONE,
    DIS_TANDEM_UD, /* Tandem: #UD; the other: an instruction */
    DIS_OTHER_UD,
    DIS_LENGTH,
    DIS_NAME,
    DIS_OPERAND,
    DIS_N
};
extern const char *const disagreement_name[DIS_N];

typedef struct Disagreement {
    enum DisagreementKind kind;
    char what[32]; /* of an operand: "operand 2: index" */
} Disagreement;

/* The first thing in which the two differ. */
Disagreement decode_compare(const Decoded *tandem, const Decoded *other);

/* ---- verdicts ---- */

/* What bytes come with. */
enum DecTrait {
    TRAIT_66 = 1 << 0,
    TRAIT_67 = 1 << 1,
    TRAIT_F2 = 1 << 2,
    TRAIT_F3 = 1 << 3,
    TRAIT_LOCK = 1 << 4,
    TRAIT_SEG = 1 << 5, /* a segment override */
    TRAIT_REX = 1 << 6,
    TRAIT_REXW = 1 << 7,
    TRAIT_LOST_REX = 1 << 8, /* a REX that is not right before the opcode */
    TRAIT_VEX = 1 << 9,      /* C4 or C5 as VEX */
    TRAIT_MEM = 1 << 10,     /* ModRM.mod is not 3 (where there is a ModRM) */
    TRAIT_REG = 1 << 11,
    TRAIT_EVEX = 1 << 12,   /* 62 as EVEX */
    TRAIT_REPEAT = 1 << 13, /* prefixes of one group more than once */
    TRAIT_VEXL = 1 << 14,
    TRAIT_VVVV = 1 << 15, /* VEX.vvvv is not 1111 */
    TRAIT_VEXW = 1 << 16,
    TRAIT_SIB = 1 << 17,
    TRAIT_REXB = 1 << 18,
    TRAIT_XOP = 1 << 19,
    TRAIT_SEVERAL = 1 << 21, /* two legacy prefixes or more */
    TRAIT_SEG64 = 1 << 20,   /* CS, DS, ES, SS override in 64-bit mode */
};

typedef struct DecContext {
    const uint8_t *bytes;
    enum DecMode mode;
    unsigned traits; /* enum DecTrait */
    uint8_t map;     /* enum OpMap; MAP_N: none that Tandem has */
    uint8_t opcode;
    uint8_t modrm; /* as if one followed the opcode */
    const Decoded *tandem, *other;
    const DecEngine *engine;
    Disagreement d;
} DecContext;

/* What the bytes are, without any decoder's table. */
void decode_context(DecContext *);

enum DecRight { RIGHT_TANDEM, RIGHT_OTHER, RIGHT_BOTH };
typedef struct Verdict {
    const char *name;
    enum DecRight right;
    const char *reference, *why;
} Verdict;
/* The manual's verdict, or NULL. */
const Verdict *decode_verdict(const DecContext *);

#endif
