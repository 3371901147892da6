/*
 * Insn: one decoded guest instruction, ready to execute. Engines take these, never bytes.
 *
 * Made by decode.c from the rows of ops.def; kept in blocks (block.h) and executed many times, so
 * all that can be worked out from the bytes and the mode alone is worked out here once.
 */
#ifndef TANDEM_TCG_INSN_H
#define TANDEM_TCG_INSN_H

#include "cpu/cpu_state.h"

typedef struct Tcg Tcg;
typedef struct Insn Insn;

/* What a handler returns. Nonzero leaves the block; the run loop knows what to do for each. */
typedef enum Fault {
    FAULT_NONE = 0,
    FAULT_JUMP,  /* not an error: s->rip is set, the block ends here */
    FAULT_EXC,   /* exception in t->exc; nothing was committed; RIP is the instruction's own */
    FAULT_STATE, /* done, RIP must be advanced, and the mode, requests or mapping may have changed
                  */
    FAULT_HLT,   /* as FAULT_STATE, and the vCPU waits now: run_state says how */
    FAULT_AGAIN, /* one iteration of a REP done (state committed), RIP stays */
    FAULT_UNSUPPORTED, /* the engine does not do this: EXIT_INTERNAL_ERROR */
    FAULT_STOP,        /* nothing was done: RunLimit.stops may want the instruction (stops.c) */
} Fault;

typedef Fault ExecFn(CpuState *s, Tcg *t, const Insn *i);

/*
 * The functions behind a row, by operand size and form: f[log2(opsize)][0] for register (or no) r/m
 * operand, [..][1] for memory. Most rows have one function for all: EXEC_ONE.
 */
typedef struct ExecSet {
    ExecFn *f[4][2];
} ExecSet;
#define EXEC_ONE(fn)                      \
    {                                     \
        {                                 \
            {fn, fn}, {fn, fn}, {fn, fn}, \
            {                             \
                fn, fn                    \
            }                             \
        }                                 \
    }
#define EXEC_RM(reg, mem)                       \
    {                                           \
        {                                       \
            {reg, mem}, {reg, mem}, {reg, mem}, \
            {                                   \
                reg, mem                        \
            }                                   \
        }                                       \
    }
/* Defines exec_NAME as one function for every size and form; a body follows. */
#define DEF_EXEC(name)                                                      \
    static Fault name##_fn(CpuState *s, Tcg *t, const Insn *i);             \
    const ExecSet exec_##name = EXEC_ONE(name##_fn);                        \
    static Fault name##_fn(CpuState *s G_GNUC_UNUSED, Tcg *t G_GNUC_UNUSED, \
                           const Insn *i G_GNUC_UNUSED)

enum InsnFlags {
    IF_MEM = 1 << 0,  /* r/m operand is memory (base/index/disp/seg valid) */
    IF_FLAT = 1 << 1, /* the segment is flat in this mode: linear = (base + index*2^scale + disp),
                         masked to 32 bits outside 64-bit mode; no segment check needed */
    IF_LOCK = 1 << 2,
    IF_REP = 1 << 3,    /* F3 */
    IF_REPNE = 1 << 4,  /* F2 */
    IF_REX = 1 << 5,    /* a REX prefix was there (byte registers) */
    IF_CODE64 = 1 << 6, /* decoded for 64-bit mode */
    IF_ENDS = 1 << 7,   /* last of its block */
};

struct Insn {
    ExecFn *exec; /* runs this alone */
    int64_t imm;  /* immediate, sign-extended; or moffs; far pointer: offset | selector << 32 */
    void *aux;    /* per-row data: a vector row's native thunk */
    int64_t disp; /* sign-extended; for RIP-relative operands and branch targets also includes `end`
                     (base is GPR_IP, the block's RIP) */
    uint8_t base; /* enum Gpr incl. GPR_ZERO, GPR_IP */
    uint8_t index; /* GPR_ZERO when none */
    uint8_t scale; /* 0-3 */
    uint8_t seg;   /* enum Seg of the memory operand, after prefixes; SEG_NONE in 64-bit mode unless
                      FS/GS */
    uint8_t dseg;  /* as seg before the 64-bit rule, for #SS against #GP */
    uint8_t reg; /* ModRM.reg or opcode register 0-15 (31); byte registers: byte offset into gpr[],
                    see reg8 */
    uint8_t rm;  /* ModRM.rm when a register; same rule */
    uint8_t vvvv;
    uint8_t modrm;  /* raw */
    uint8_t opsize; /* bytes: 1, 2, 4, 8 */
    uint8_t asize;  /* bytes: 2, 4, 8 */
    uint8_t len;    /* of this instruction, 1-15 */
    uint16_t end;   /* offset of the next instruction from the block's first byte */
    uint16_t row;   /* index in ops.def */
    uint8_t flags;  /* InsnFlags */
    uint8_t imm2;   /* ENTER's second immediate */
    uint8_t op_at;  /* offset of the last opcode byte (ModRM, if any, is the byte after it) */
    uint8_t pfx;  /* enum OpPfx: mandatory prefix in force (VEX.pp, or the last of F2/F3, else 66),
                     PFX_NP when none */
    uint8_t rexw; /* REX.W or VEX.W */
    uint8_t vexl; /* VEX.L; EVEX: 0 to 2, the length in force */
    uint8_t evex; /* third byte of an EVEX prefix: z, L'L, b, V', aaa */
    ExecFn *go;   /* runs this and what follows in its block: quick.c */
};

enum { EVEX_Z = 0x80, EVEX_LL = 0x60, EVEX_LL_SHIFT = 5, EVEX_B = 0x10, EVEX_AAA = 7 };

/* Byte offset into gpr[] of byte register n: AH-BH are byte 1 of RAX-RBX when there is no REX. */
static inline uint8_t reg8_offset(unsigned n, bool rex)
{
    return n >= 4 && n < 8 && !rex ? (uint8_t)((n - 4) * 8 + 1) : (uint8_t)(n * 8);
}

/* ---- rows ---- */

/* What an operand is, for decode(): which bytes it takes and which field of Insn it sets. MEM
 * refuses register forms. */
enum OpClass {
    OC_NONE,
    OC_RM,     /* ModRM.rm: register or memory */
    OC_REG,    /* ModRM.reg */
    OC_OPREG,  /* low three opcode bits, in Insn.reg */
    OC_IMM,    /* zero-extended, of its own size; a second one goes to imm2 */
    OC_SIMM,   /* sign-extended, of its own size */
    OC_IMMZ,   /* 2 or 4 bytes, sign-extended */
    OC_IMMV,   /* 2, 4 or 8 bytes */
    OC_REL,    /* as SIMM */
    OC_RELZ,   /* as IMMZ */
    OC_FARPTR, /* offset of the operand size, then selector */
    OC_MEM,    /* ModRM.rm: memory only */
    OC_MOFFS,  /* absolute offset of the address size */
    OC_SREG,   /* ModRM.reg, plain */
    OC_CREG,   /* ModRM.reg; ModRM.mod is ignored: always the register form */
    OC_DREG,
    OC_FIXED,  /* nothing to decode */
    OC_STRING, /* nothing to decode */
    OC_MMREG,  /* ModRM.reg, 0-7 */
    OC_MMRM,   /* ModRM.rm: 0-7 or memory */
    OC_VREG,   /* ModRM.reg, 0-15 */
    OC_VRM,    /* ModRM.rm: 0-15 or memory */
    OC_RMREG,  /* ModRM.rm: general register only */
    OC_VRMREG, /* ModRM.rm: vector register only */
    OC_MMRMREG,
    OC_VVVV, /* VEX.vvvv */
    OC_IS4,  /* register in imm8[7:4] */
    OC_KREG, /* mask registers: ModRM.reg, VEX.vvvv, ModRM.rm (register only, or memory too) */
    OC_KVVVV,
    OC_KRMREG,
    OC_KRM,
};

/* Operands in the manual's letters (SDM vol. 2, A.2). Each letter pair is one row of operands.def:
 * OPERAND(Ev, class, size in bytes or 0 for operand size). */
enum Operand {
    O_ = 0,
#define OPERAND(name, cls, size) O_##name,
#include "tcg/operands.def"
#undef OPERAND
    O_N
};

/* operands.def as a table, by enum Operand. */
typedef struct OperandInfo {
    uint8_t cls;  /* enum OpClass */
    uint8_t size; /* bytes; 0: the operand size */
} OperandInfo;

extern const OperandInfo operand_info[O_N];

enum OpMap {
    MAP_1B,
    MAP_0F,
    MAP_0F38,
    MAP_0F3A,
    MAP_VEX0F,
    MAP_VEX0F38,
    MAP_VEX0F3A,
    MAP_EVEX0F,
    MAP_EVEX0F38,
    MAP_EVEX0F3A,
    MAP_N
};
enum OpPfx { PFX_ANY, PFX_NP, PFX_66, PFX_F3, PFX_F2 };

/* ModRM filter of a row: any, /0../7, memory or register form only, and an exact third byte. */
enum {
    X_ = 0,
    X_REGMASK = 0xf, /* 8 | n: reg field must be n */
    X_MEM = 0x10,
    X_REG = 0x20,
    X_RM = 0x40, /* with bits 10:8: the rm field must be n too (register form) */
};
#define X_N(n)     (8 | (n))                            /* /n */
#define X_M(n)     (8 | (n) | X_MEM)                    /* /n, memory */
#define X_R(n)     (8 | (n) | X_REG)                    /* /n, register */
#define X_B(n, rm) (8 | (n) | X_REG | X_RM | (rm) << 8) /* /n with rm, as 0F 01 C1 is X_B(0, 1) */

enum OpAttr {
    A_ = 0,
    A_I64 = 1 << 0,  /* invalid in 64-bit mode: #UD */
    A_O64 = 1 << 1,  /* only in 64-bit mode */
    A_D64 = 1 << 2,  /* operand size defaults to 64 in 64-bit mode (push, pop, near branches) */
    A_F64 = 1 << 3,  /* forced to 64 in 64-bit mode; on AMD's processors 66 makes it 16 */
    A_LOCK = 1 << 4, /* LOCK allowed (memory form); otherwise #UD */
    A_BYTE = 1 << 5, /* operand size is a byte */
    A_END = 1 << 6,  /* ends a block: branches, mode changes, HLT, I/O */
    A_CPL0 = 1 << 7, /* #GP unless CPL 0 */
    A_REP = 1 << 8,  /* REP prefixes mean iteration */
    A_PROT = 1 << 9, /* #UD in real mode and vm86 */
    A_FPU = 1 << 10, /* CR0.EM / TS: #NM; pending x87 exception: #MF unless A_NOWAIT */
    A_NOWAIT = 1 << 11,
    A_MMX = 1 << 12,     /* CR0.EM: #UD; TS: #NM; pending #MF */
    A_SSE = 1 << 13,     /* CR0.EM or !CR4.OSFXSR: #UD; TS: #NM */
    A_AVX = 1 << 14,     /* CR4.OSXSAVE and XCR0[2:1]: #UD; TS: #NM */
    A_ALIGN16 = 1 << 15, /* memory operand must be 16-byte aligned: #GP */
    A_FP = 1 << 16,      /* raises SIMD floating-point exceptions through MXCSR */
    A_NO66 = 1 << 17,    /* 66 does not change the operand size */
    A_VEXL0 = 1 << 18,
    A_VEXL1 = 1 << 19,
    A_W0 = 1 << 20,
    A_W1 = 1 << 21,
    A_NOV = 1 << 22,    /* VEX.vvvv must be 1111 */
    A_NO16 = 1 << 23,   /* operand size 4, or 8 with W: neither 66 nor 16-bit code make it 2 */
    A_NOB = 1 << 24,    /* only without REX.B */
    A_AVX512 = 1 << 25, /* XCR0[7:5] too: #UD */
};

/* How the translator makes host code of it (jit/emit_insn.c); the interpreter only looks for
 * BRANCH. */
enum OpEmit {
    EMIT_HELPER, /* it calls exec */
    EMIT_COPY,   /* the same instruction with other registers; the first operand is written */
    EMIT_TEST,   /* as COPY, but the first operand is only read */
    EMIT_CL,     /* as COPY, with CL as its last operand */
    EMIT_IMM,    /* register = immediate */
    EMIT_LEA,
    EMIT_MUL, /* rAX and rDX are operands too */
    EMIT_DIV,
    EMIT_CONV, /* CBW, CWD and their kin */
    EMIT_CMPXCHG,
    EMIT_PUSH,
    EMIT_POP,
    EMIT_LEAVE,
    EMIT_NOP,
    EMIT_CLI,
    EMIT_STI,
    EMIT_PUSHF,
    EMIT_X87,
    EMIT_GATHER, /* jit/gather.c */
    EMIT_SYS,    /* jit/sys.c */
    EMIT_OFTEN,  /* jit/often.c */
    EMIT_BRANCH, /* near branches: jit/branch.c */
    EMIT_N
};

/* EVEX.L'L of a row. LIG: a scalar, whose length does not count. 256: not 128. */
enum EvexLength { VL_LIG, VL_ANY, VL_128, VL_256, VL_512 };

/*
 * What the memory operand is to the vector (SDM vol. 2, 2.7.5): with the element's size it gives
 * the N that an 8-bit displacement is multiplied by. FV and HV have embedded broadcast.
 */
enum EvexTuple {
    TT_NONE,
    TT_FV,  /* the vector, or one element for all */
    TT_HV,  /* half of it, or one element for all */
    TT_FVM, /* all of it, or a half, a quarter, an eighth */
    TT_HVM,
    TT_QVM,
    TT_OVM,
    TT_DUP,  /* MOVDDUP: half of 128 bits, else all */
    TT_M128, /* 16 bytes */
    TT_T1S,  /* 1, 2, 4, 8 elements (size 0: of the operand's size) */
    TT_T2,
    TT_T4,
    TT_T8,
};

enum EvexFlag {
    EV_ER = 1 << 0,    /* EVEX.b with a register operand: rounding in L'L, no exceptions */
    EV_SAE = 1 << 1,   /* EVEX.b with a register operand: no exceptions */
    EV_B = 1 << 2,     /* EVEX.b with a register operand has no meaning, and is allowed */
    EV_NOK = 1 << 3,   /* no mask register */
    EV_FLAGS = 1 << 4, /* writes EFLAGS */
    EV_PACK = 1 << 5,  /* memory has the elements of the mask one after the other */
    EV_BCST = 1 << 6,  /* the memory operand serves all elements */
    EV_MXCSR = 1 << 8, /* MXCSR.DAZ counts, though nothing is raised */
    EV_VSIB = 1 << 7,  /* vector of addresses; a mask register must be given */
};

/* The manual's exception classes (SDM vol. 2, 2.8): EVEX_CLASS(name, attributes of the row, the
 * mask keeps elements from being accessed). */
#define EVEX_CLASSES(EVEX_CLASS)       \
    EVEX_CLASS(E1, A_ALIGN16, true)    \
    EVEX_CLASS(E1NF, A_ALIGN16, false) \
    EVEX_CLASS(E2, A_FP, true)         \
    EVEX_CLASS(E3, A_FP, true)         \
    EVEX_CLASS(E3NF, A_FP, false)      \
    EVEX_CLASS(E4, 0, true)            \
    EVEX_CLASS(E4NF, 0, false)         \
    EVEX_CLASS(E5, 0, true)            \
    EVEX_CLASS(E5NF, 0, false)         \
    EVEX_CLASS(E6, 0, true)            \
    EVEX_CLASS(E6NF, 0, false)         \
    EVEX_CLASS(E7NM, 0, false)         \
    EVEX_CLASS(E7NM128, 0, false)      \
    EVEX_CLASS(E9NF, 0, false)         \
    EVEX_CLASS(E10, 0, true)           \
    EVEX_CLASS(E11, A_FP, true)        \
    EVEX_CLASS(E12, 0, true)
enum EvexClass {
#define EVEX_CLASS(name, attr, suppress) EC_##name,
    EVEX_CLASSES(EVEX_CLASS)
#undef EVEX_CLASS
        EC_N
};

typedef struct EvexRow {
    uint8_t vl, tuple; /* enum EvexLength, EvexTuple */
    uint8_t element;   /* bytes of an element of the memory operand, as the mask counts them */
    uint8_t cls;       /* enum EvexClass */
    uint16_t flags;    /* EvexFlag */
    bool suppress;     /* from the class */
} EvexRow;

typedef struct OpRow {
    uint8_t map, opcode, pfx;
    uint16_t modrm; /* X_ filter */
    const char *name;
    uint8_t op[4]; /* enum Operand */
    const ExecSet *exec;
    uint8_t emit;
    uint32_t fl_written, fl_read, fl_undef; /* FL_ bits; undefined ones are also in written */
    uint32_t attr;
    uint16_t feature; /* enum CpuFeature, or FEAT_N: always there */
    EvexRow evex;
} OpRow;

static inline bool is_evex_map(unsigned map)
{
    return map >= MAP_EVEX0F;
}

/*
 * ops.def rows:
 *
 *   INSN(map, opcode, pfx, modrm, "mnemonic", op1, op2, op3, op4, exec, emit, written, read, undef,
 *        attr, feature)
 *
 * Prefixes of the enumerators are pasted on: map 0F is MAP_0F, pfx F3 is PFX_F3, modrm N(4) is
 * X_N(4), operand Ev is O_Ev, exec add_EG is `const ExecSet exec_add_EG`, emit HELPER is
 * EMIT_HELPER, feature POPCNT is FEAT_POPCNT. Left empty: modrm (any), operands (none). N as the
 * feature means always. Flags and attributes are written in full; none is 0.
 *
 *   EVEX(map, opcode, pfx, modrm, "mnemonic", op1, op2, op3, op4, exec, w, length, tuple, element,
 *        class, flags, feature)
 *
 * is the same for instructions with an EVEX prefix: w is W0, W1 or WIG, length one of EvexLength,
 * tuple one of EvexTuple, class one of EVEX_CLASSES, without what is pasted on. That vvvv must not
 * be used follows from the operands, and whether EVEX.z is allowed. Lengths below 512 bits need
 * AVX512VL too.
 *
 * Of several rows of one opcode the first that fits prefix, ModRM, mode and features wins. A row
 * with a Z operand covers opcode..opcode+7. The operands alone decide what bytes follow the opcode
 * and how reg and rm are numbered.
 *
 * Settled by decode(): I64, O64, PROT, feature, LOCK's legality, the operand size, VEX.L, W and
 * vvvv, and CPL0 (by a wrapper: the handler runs at CPL 0 only). Left to handlers, which see the
 * row's attr: FPU, NOWAIT, MMX, SSE, AVX, ALIGN16, FP, as they depend on control registers.
 */
extern const OpRow op_rows[];
extern const unsigned op_rows_n;

/* Bytes to Insn. */
typedef enum DecodeResult { DECODE_OK, DECODE_UD, DECODE_TOO_LONG, DECODE_MORE } DecodeResult;

/* The mode bits decoding depends on; blocks are keyed by them. */
enum DecodeMode {
    DM_CS32 = 1 << 0, /* CS.D: default sizes 32 */
    DM_CODE64 = 1 << 1,
    DM_SS32 = 1 << 2, /* SS.B: stack pointer size */
    DM_PROT = 1 << 3, /* protected mode, not vm86 */
    DM_FLAT = 1 << 4, /* DS, ES, SS, CS base 0 limit 4G, usable, writable (CS readable) */
    DM_CPL3 = 1 << 5,
    DM_AMD = 1 << 6, /* the guest's processor is AMD's: 66 counts before near branches */
    DM_AC = 1 << 7,  /* CPL below 3 and EFLAGS.AC: decodes alike, but SMAP does not apply */
};

/*
 * Decodes one instruction from `bytes` (n of them, up to 15 looked at). DECODE_MORE: more bytes are
 * needed than n. DECODE_UD also fills len: the bytes that make it undefined, whatever follows.
 * `features` tells which rows exist.
 */
DecodeResult decode(Insn *out, const uint8_t *bytes, unsigned n, unsigned mode,
                    const uint8_t features[]);

#endif
