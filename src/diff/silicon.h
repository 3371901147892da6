/*
 * Bare silicon: what the parent (exec_silicon.c) and the child that executes the cases
 * (silicon_child.c) share. One memfd, mapped by both.
 */
#ifndef TANDEM_DIFF_SILICON_H
#define TANDEM_DIFF_SILICON_H

#include <stdatomic.h>
#include "diff/case.h"

/* Where the child has the memfd: far above all a case can address. Bits 31:16 of the first 64 KiB
 * are zero, because IRET to a 16-bit stack segment leaves those of the old stack pointer in place;
 * SiliconShared.load is there. What it leaves above must not be that of the signal stack either:
 * the kernel would take such a case to be on it. */
#define SIL_BASE   0x7e0000000000ull
#define SIL_SIGNAL 0x7d0000000000ull /* where signals have their stack */
#define SIL_STACK  0x10000u          /* bytes of the signal stack */
#define SIL_SLOTS  24u
#define SIL_XSAVE  2752u /* most bytes of an XSAVE image that are moved */
#define SIL_BYTES  ((sizeof(SiliconShared) + 0xfff) & ~0xfffull) /* of the memfd */

/* Taken off from its start: pops of fifteen registers, then IRETQ. */
typedef struct SiliconLoad {
    uint64_t gpr[15]; /* R15 down to RAX without RSP: silicon_go() pops them */
    uint64_t rip, cs, rflags, rsp, ss;
    uint64_t fs_base, gs_base;
    uint16_t ds, es, fs, gs;
} SiliconLoad;

typedef struct SiliconSlot {
    _Alignas(64) uint8_t xsave[SIL_XSAVE]; /* in, then out */
    SiliconLoad load;
    uint16_t code_at; /* offset of the instruction in the code pages */
    uint8_t len, insn[15];
    /* out */
    uint64_t gregs[23]; /* as in mcontext_t */
    uint64_t fs_base, gs_base;
    uint16_t ds, es, fs, gs;
    int32_t signal;
    uint8_t data[CASE_DATA_BYTES], stack[CASE_STACK_BYTES]; /* in, then out */
} SiliconSlot;

typedef struct SiliconRange {
    uint64_t start, size;
} SiliconRange;

/* Pages of the memfd, in this order. */
typedef struct SiliconShared {
    union {
        struct {
            SiliconLoad load;
            _Atomic uint32_t go,
                done;            /* futexes: number of the batch to run, of the last one run */
            _Atomic uint32_t at; /* slot being run */
            uint32_t first, n;   /* slots of the batch: first to n - 1 */
            bool fsgsbase, started, no_ldt;
            uint32_t xsave_bytes; /* of the kernel's images that are ours to know */
            unsigned n_unmap;
            SiliconRange unmap[512];
        };
        uint8_t pages[0x10000];
    };
    uint8_t signal_stack[SIL_STACK];
    uint8_t code[CASE_CODE_BYTES];
    uint8_t data[CASE_DATA_BYTES], stack[CASE_STACK_BYTES];
    SiliconSlot slot[SIL_SLOTS];
} SiliconShared;
_Static_assert(offsetof(SiliconShared, unmap) + sizeof(SiliconRange[512]) <= 0x10000, "pages");

/* silicon_child.S */
void silicon_entry(void); /* signal handler */
/* Loads the state of SiliconCtl.load and of the XSAVE image; does not return. */
_Noreturn void silicon_go(SiliconLoad *, const uint8_t *xsave, bool fsgsbase);
extern const uint8_t silicon_iret[]; /* the IRETQ in it */

/* What the child is after fork(): does not return. fd: the memfd. */
_Noreturn void silicon_child(int fd);

/* ---- silicon_known.c ---- */
typedef struct SiliconCpu {
    unsigned family; /* of AMD's processors; 0: another's */
    bool halves;     /* its vector units have 128 bits */
} SiliconCpu;
void silicon_cpu(SiliconCpu *); /* this one */
/* XSTATE_BV and XCOMP_BV that the XSAVE instruction of the case finds; zero where it finds none. */
void silicon_xsave_header(const DiffCase *, uint64_t header[2]);
/* Why the outcome on such a processor differs from another's where both are right, or it is the
 * processor's fault; or NULL. */
const char *silicon_known(const SiliconCpu *, const DiffCase *, const DiffOutcome *own,
                          const DiffOutcome *other);

#endif
