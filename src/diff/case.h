/*
 * A case: one instruction and everything it finds. An outcome: everything it left.
 *
 * Both are plain data, so that a case can be made from a seed, sent to another process, shrunk,
 * written as text and read back, and an outcome can come from any executor: the software engines,
 * KVM, or the bare processor.
 *
 * Linear addresses mean the same in every executor; guest-physical addresses are equal to them. On
 * bare silicon the pages are mapped at these addresses in a process of its own.
 *
 *   CASE_CODE   two pages, then nothing: code that crosses pages, fetches that fault
 *   CASE_DATA   page 0 and 1 writable, 2 read-only, 3 not there, 4 writable (all user)
 *   CASE_STACK  one writable page between pages that are not there
 *   CASE_SYS    tables and handlers of the executors that need any: a case may not reach here
 *
 * 16- and 32-bit modes see them too: code16 and data segments of 64 KiB have their bases there.
 */
#ifndef TANDEM_DIFF_CASE_H
#define TANDEM_DIFF_CASE_H

#include <glib.h>
#include "cpu/cpu_state.h"

#define CASE_BASE        0x60000000ull
#define CASE_SIZE        0x400000ull
#define CASE_SYS         CASE_BASE /* 1 MiB */
#define CASE_CODE        (CASE_BASE + 0x100000)
#define CASE_CODE_BYTES  0x2000u
#define CASE_DATA        (CASE_BASE + 0x200000)
#define CASE_DATA_BYTES  0x5000u
#define CASE_DATA_RO     0x2000u /* offsets of the pages that are not writable */
#define CASE_DATA_GONE   0x3000u
#define CASE_STACK       (CASE_BASE + 0x300000)
#define CASE_STACK_BYTES 0x1000u

/* Within CASE_SYS (case_sys.c). */
#define CASE_SYS_BYTES 0x40000u /* what is used of the MiB */
#define CASE_CR3       (CASE_SYS + 0x1000)
#define CASE_GDT       (CASE_SYS + 0x10000)
#define CASE_GDT_LIMIT 0xcfu
#define CASE_LDT       (CASE_SYS + 0x11000)
#define CASE_LDT_LIMIT 0x17u
#define CASE_TSS       (CASE_SYS + 0x12000)
#define CASE_IDT       (CASE_SYS + 0x14000)
#define CASE_HANDLERS  (CASE_SYS + 0x20000) /* 16 bytes a vector */
/* LSTAR, CSTAR, SYSENTER_EIP and a call gate lead here, 16 bytes each. */
#define CASE_SYSCALL        (CASE_SYS + 0x21000)
#define CASE_HANDLERS_BYTES 0x1100u
#define CASE_EVENT_STACK    (CASE_SYS + 0x30000) /* top of what events are pushed on */
/* Handlers of real mode, as high as it can jump: FFFF:0010. */
#define CASE_REAL_HANDLERS 0x100000ull
#define CASE_REAL_BASE     0xffff0ull /* of CS there */
#define CASE_PORT          0xf5       /* handlers write to it: the case is over */

/* How an executor knows that the instruction is over. */
enum CaseStop {
    STOP_STEP,    /* RFLAGS.TF or the engine's own single step: one iteration of a REP */
    STOP_THROUGH, /* the instruction is followed by INT3 (CC): REPs run to their end */
    STOP_N
};

enum CaseMode {
    CM_LONG,     /* 64-bit mode */
    CM_COMPAT32, /* compatibility mode, 32-bit code */
    CM_COMPAT16,
    CM_PROT32, /* protected mode without paging */
    CM_PROT16,
    CM_VM86,
    CM_REAL,
    CM_N
};
extern const char *const case_mode_name[CM_N]; /* "long", ... */

typedef struct DiffCase {
    uint64_t seed, index; /* campaign and number it was made from; 0, 0: from a file */
    uint16_t row;         /* ops.def */
    uint16_t form;        /* case_form_name() */
    uint8_t mode;         /* enum CaseMode */
    uint8_t stop;         /* enum CaseStop */
    uint8_t len;          /* of insn */
    uint8_t insn[15];
    CpuState in; /* RIP is the instruction's; CPL, segments and control registers fit the mode */
    uint8_t data[CASE_DATA_BYTES]; /* the page that is not there stays zero */
    uint8_t stack[CASE_STACK_BYTES];
} DiffCase;

enum OutcomeKind {
    OUT_DONE,    /* over: st is the state after it */
    OUT_FAULT,   /* raised vector: st is the state at the fault, nothing delivered */
    OUT_SKIPPED, /* this executor cannot judge the case: why says it */
    OUT_BROKEN,  /* the executor failed (crash, internal error, no end): why says it */
};

typedef struct DiffOutcome {
    uint8_t kind; /* enum OutcomeKind */
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* of a page fault */
    char why[96];
    CpuState st; /* as far as the executor sees it: DiffEngine.groups */
    uint8_t data[CASE_DATA_BYTES];
    uint8_t stack[CASE_STACK_BYTES];
} DiffOutcome;

/* One way to execute cases. Rows of engines.def. An executor is used by one thread. */
typedef struct DiffExec DiffExec;
typedef struct DiffEngine {
    const char *name, *help;
    unsigned groups; /* enum StateGroup: what of CpuState it reports; REGS and FPU at least */
    bool shared;     /* others' work may disturb an outcome: a difference must show twice */
    /* NULL and err where it cannot be used at all: no /dev/kvm. */
    DiffExec *(*open)(GError **);
    void (*close)(DiffExec *);
    /* Why it cannot judge this case, or NULL: "needs ring 0", "host has no AVX512F". */
    const char *(*refuses)(DiffExec *, const DiffCase *);
    /* Runs n cases, each from its own inputs alone. Never fails as a whole: see OutcomeKind. */
    void (*run)(DiffExec *, const DiffCase *, DiffOutcome *, unsigned n);
    /* Why its outcome may differ from the other's and neither is wrong, or NULL. May be NULL. */
    const char *(*known)(DiffExec *, const DiffCase *, const DiffOutcome *own,
                         const DiffOutcome *other);
} DiffEngine;

#define ENGINE(id) extern const DiffEngine diff_engine_##id;
#include "diff/engines.def"
extern const DiffEngine *const diff_engines[]; /* NULL-terminated */
/* By name; NULL and err with the names there are. */
const DiffEngine *diff_engine_find(const char *name, GError **err);
/* Why a and b differ on this case and neither is wrong, as one of the two knows; or NULL. */
const char *case_known(const DiffCase *, const DiffEngine *a, DiffExec *xa, const DiffOutcome *oa,
                       const DiffEngine *b, DiffExec *xb, const DiffOutcome *ob);

/* ---- gen.c ---- */
/* Modes to draw from: BIT(mode) at privilege 3, BIT(mode) << 8 at privilege 0. */
#define CASE_USER_MODES   (BIT(CM_LONG) | BIT(CM_COMPAT32) | BIT(CM_COMPAT16))
#define CASE_SYSTEM_MODES (BIT(CM_VM86) | (BIT(CM_N) - 1 - BIT(CM_VM86)) << 8)
/* The case of this number: the same on every machine whose guest CPU has the same features.
 * rows: which to draw from (n of them), in turn. False: this number makes no case (counted, not
 * run): its row does not exist in these modes. */
bool case_generate(DiffCase *, uint64_t seed, uint64_t index, const uint16_t *rows, unsigned n,
                   unsigned modes);
/* Why no bytes at all decode to this row on the guest CPU: "host has no AVX512F", "F3 0F BC tzcnt
 * comes first". False: it can be reached. */
bool case_unreachable(uint16_t row, char why[64]);
/* Sets row and form from insn; false if it decodes to no row in its mode. What is undefined for its
 * prefixes alone is of the row it would be without them. */
bool case_classify(DiffCase *);
/* Coverage is counted per row and form: operand size, register or memory, prefix, mode. */
const char *case_form_name(uint16_t form, char buf[48]);
/* "0F B8 F3 popcnt Gv,Ev": names a row for people and for --rows; unique. */
const char *case_row_name(uint16_t row, char buf[64]);
/* Rows that a list of patterns selects: mnemonics, globs of row names, feature names, separated by
 * commas; NULL: all. Returns how many; 0 and err for a pattern that selects none. rows has
 * op_rows_n slots. */
unsigned case_select_rows(const char *patterns, uint16_t *rows, GError **err);

/* ---- compare.c ---- */
enum { DIFFERENCES_MAX = 16 };
typedef struct Difference {
    char what[24]; /* "RAX", "RFLAGS.CF", "XMM3", "data+0x1008", "vector", "error", "CR2" */
    char a[140], b[140];
} Difference;
typedef struct Differences {
    unsigned n; /* all of them; the first DIFFERENCES_MAX are in d */
    Difference d[DIFFERENCES_MAX];
} Differences;
/* Compares what both report (groups: of both executors), without the flags the row leaves
 * undefined. out may be NULL. Returns whether they agree; a skipped outcome agrees with any. */
bool case_compare(const DiffCase *, const DiffOutcome *a, const DiffOutcome *b, unsigned groups,
                  Differences *out);
/* From here on those flags are compared too. */
void case_compare_undefined(bool on);

/* ---- case_state.c ---- */
/*
 * An empty case of this mode and privilege: no instruction, memory zero, and in `in` what a case
 * starts from before anything is drawn. Flat segments and Linux's selectors, so that bare silicon
 * needs nothing special; 16-bit segments have their bases at CASE_CODE, CASE_DATA and CASE_STACK,
 * and RIP and RSP are offsets there. cpl is 0 or 3; real mode has 0, vm86 3, whatever is asked for.
 */
void case_baseline(DiffCase *, enum CaseMode, unsigned cpl);
/* Linear address of the instruction; of a state's next one. */
uint64_t case_linear_rip(const DiffCase *);
uint64_t case_linear(const CpuState *);
/* Does the state fit the mode, does the instruction begin in CASE_CODE, can a processor hold it?
 * Executors may rely on it; cases from files have passed it. err says what does not fit. */
bool case_valid(const DiffCase *, GError **err);

/* ---- case_sys.c ---- */
/*
 * Fills the CASE_SYS_BYTES at CASE_SYS for this mode: page tables as the map above says (code
 * pages not writable, others not executable), a GDT and LDT with the selectors of case_baseline()
 * and more to be loaded, a TSS, and an IDT whose gates lead to the handlers: in long mode on IST1,
 * else by ESP0. Executors with tables of their own give instructions that look at them the same to
 * see.
 *
 * Selectors besides the baseline's: 60 conforming code, 68 read-only data, 70 not present, 78
 * expand-down, 80 execute-only code, 88/90/98 16-bit code, data, stack (LDT 07/0f/17 at CPL 3), a0
 * call gate, b0 available TSS, c0 LDT.
 */
void case_sys_build(uint8_t *sys, enum CaseMode);
/* The handlers' code: OUT to CASE_PORT, HLT. */
void case_handlers(uint8_t *to, unsigned bytes);
/* Where the IDT leads for a vector: offset in the handlers' code segment. */
uint64_t case_handler(enum CaseMode, unsigned vector);
/* Bits 11:0 and 63 of the page table entry for a linear address of the map; 0: not there. */
uint64_t case_page_flags(uint64_t linear);

/* ---- case_file.c, case_explain.c ----
 * Text, one line a field, what equals the baseline left out; tests/regress holds such files. */
void case_write(const DiffCase *, GString *out);
/* name is for messages, which have the line number too. The text may come from anywhere. row and
 * form are left for case_classify(). */
bool case_read(DiffCase *, const char *text, const char *name, GError **err);
/* The instruction as assembler. */
void case_asm(const DiffCase *, GString *out);
/* Assembler, inputs, and both outcomes side by side: what differs is marked. */
void case_explain(const DiffCase *, const DiffEngine *a, const DiffOutcome *oa, const DiffEngine *b,
                  const DiffOutcome *ob, GString *out);

/* ---- shrink.c ---- */
/* Makes c the smallest case on which the two still differ (in the same way: same kind of
 * difference). Returns how many cases were tried. */
unsigned case_shrink(DiffCase *c, const DiffEngine *a, DiffExec *xa, const DiffEngine *b,
                     DiffExec *xb);

#endif
