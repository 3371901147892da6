/*
 * Blocks: decoded instructions, kept and run again.
 *
 * A block is a straight run of instructions inside one physical page (a single instruction that
 * crosses into the next page is a block of its own), keyed by the physical address of its first
 * byte and the decode mode. Three ways lead to it, each filled from the next:
 *
 *   jump cache   linear address -> block, good while t->map_gen stays as it was and it lives (in a
 *                global page: t->global_gen)
 *   hash         physical address, mode -> block
 *   block_find() decodes
 *
 * Code can change under a block. A write by this vCPU to a page with code takes the slow path, and
 * blocks_invalidate() kills what it overlaps; the running block is poisoned, so that the next
 * instruction is looked up anew. Another vCPU's write posts VREQ_TLB_FLUSH to those with code
 * there. Writes nobody saw (KVM, devices) are found by comparing: blocks_distrust() makes every
 * block prove its bytes at its next lookup.
 */
#ifndef TANDEM_TCG_BLOCK_H
#define TANDEM_TCG_BLOCK_H

#include "tcg/tcg.h"

#define BLOCK_MAX_INSNS  64
#define BLOCK_ARENA      (96u << 20) /* bytes for blocks of one vCPU; all are dropped when full */
#define JUMP_CACHE_SIZE  8192u
#define BLOCK_HASH_SIZE  262144u
#define PAGE_HASH_SIZE   4096u
#define FETCH_TLB_SIZE   256u
#define CODE_FLAGS_PAGES (1u << 20) /* page flags wrap beyond 4 GiB: false alarms, no misses */

typedef struct Block Block;
/* Where a block is in the arena, in units of its alignment; 0: none. Half a pointer: first looks at
 * the hash are cache misses, one for each piece of code. */
typedef uint32_t BlockRef;
#define BLOCK_ALIGN 64u

/* Parts of the guest's linear addresses that the mirror shows: jit/mirror.c. From MIRROR_KERNEL on,
 * the kernel's: jit/mirror_kernel.c. */
enum MirrorArea { MIRROR_NONE, MIRROR_LOW, MIRROR_HIGH, MIRROR_KERNEL };
#define MIRROR_KERNELS 8u
#define MIRROR_AREAS   (MIRROR_KERNEL + MIRROR_KERNELS)

/* Where a block went last: good while still_good() and that block lives. Dead blocks stay where
 * they are until all are dropped, which changes both generations. */
typedef struct BlockLink {
    gva_t rip;
    Block *block;
    uint64_t gen; /* t->map_gen or global_gen */
} BlockLink;

struct Block {
    /* What a look-up needs, or a walk through its page's, in one cache line. */
    BlockRef hash_next;
    uint32_t gen;     /* BlockCache.gen at which its bytes were last known good; 0: dead */
    gpa_t gpa, gpa2;  /* gpa2: start of the second page when `size` reaches into it, else NO_GPA */
    uint16_t n, size; /* instructions, bytes */
    struct JitCode *jit; /* translated */
    Block *page_next[2]; /* in the page record of the first, and of the second page */
    uint8_t mode;
    uint8_t
        patience;   /* so many times as many as usual: what is translated here does not live long */
    bool stop;      /* its one instruction is exec_stop: see stops.c */
    bool plain;     /* ends in a near branch or just ends: no mode, flag or mapping changes */
    bool no_jit;    /* it stays with the interpreter */
    bool no_runs;   /* translated without runs: they miss too often */
    bool no_tables; /* and this without those that are tables */
    bool no_loop;   /* without a second body: it has too few rounds */

    /* What running it needs besides, in the next. */
    BlockLink to[2] __attribute__((aligned(64))); /* without, with a jump */
    /* By instruction: its immediate is soft (jit/soft.c). A block with such is run as translated
     * code only. */
    uint64_t soft;
    uint32_t runs;     /* by the interpreter, until it is translated */
    uint8_t imm_kills; /* times that it, or what was here before, died of a store to an immediate */
    bool noted;        /* its last run before it is translated has been: to_note() */
    bool hot;          /* its code is to be a trace */
    uint8_t
        rounds; /* of a loop of its own, once it is hot: on average; BLOCK_ROUNDS_MAX: or more */

    uint8_t *bytes;           /* as decoded: in `few`, or behind the instructions */
    uint64_t imm_written;     /* by instruction: its immediate was, which killed it */
    const uint8_t *soft_host; /* where the block's bytes are */
    uint64_t no_slot;         /* instructions, as bits, whose slots miss too often: jit/slot.c */
    /* Instructions, as bits: those whose access has been seen in an area of the mirror, by enum
     * MirrorArea - 1 (the kernel's: bits of its number, jit_kernel_seen()); and those that are not
     * to go by it any more. */
    uint64_t in_mirror[4], no_mirror;
    uint64_t fixed_at; /* RIP of its page, which its code was made for; or BLOCK_FLOATS: any page */
    struct JitPart *users; /* code of other blocks that goes on with this one: traces */
    uint64_t run_since, mirror_since;
    uint16_t run_misses, mirror_misses;       /* since the TSC was that */
    uint8_t few[20];                          /* most blocks have no more bytes */
    Insn insn[] __attribute__((aligned(64))); /* a cache line each */
};
#define NO_GPA           (~0ull)
#define BLOCK_FLOATS     1ull
#define BLOCK_ROUNDS_MAX 255u

/* A physical page this vCPU has blocks from. */
#define CODE_GRAIN  16u
#define CODE_STRIPE 256u
typedef struct CodePage {
    struct CodePage *next;
    gpa_t gpa;
    Block *first[PAGE_SIZE / CODE_STRIPE]; /* by where their bytes in this page begin */
    unsigned n, longest;                   /* blocks; most bytes that one of them has had here */
    unsigned cold_writes;                  /* since a block was last made here */
    unsigned died;                         /* translated ones, of stores */
    bool floats; /* has been met at two linear addresses: its translated code is for any */
    /* Pieces of CODE_GRAIN bytes that blocks have bytes in (or had): a write elsewhere is data's.
     */
    uint64_t used[PAGE_SIZE / CODE_GRAIN / 64];
    uint64_t begun[PAGE_SIZE / CODE_GRAIN / 64]; /* in which a block has begun, dead ones too */
} CodePage;

typedef struct JumpEntry {
    uint64_t tag; /* linear address with the mode in bits that a canonical address has no use for */
    Block *block;
    uint64_t gen; /* t->map_gen or global_gen */
} JumpEntry;

typedef struct FetchEntry {
    gva_t page;
    gpa_t gpa;
    const uint8_t *host;
    uint64_t gen;   /* t->map_gen or global_gen */
    CodePage *code; /* the page's; NULL: none, or not looked for */
    bool user;
} FetchEntry;

/* Shared by the vCPUs of a machine: VmCommon.tcg. Bit v of code[page]: vCPU v has decoded it. */
typedef struct TcgVm {
    _Atomic uint64_t code[CODE_FLAGS_PAGES];
} TcgVm;

typedef struct BlockCache {
    JumpEntry jump[JUMP_CACHE_SIZE];
    FetchEntry fetch[FETCH_TLB_SIZE];
    BlockRef hash[BLOCK_HASH_SIZE];
    CodePage *page[PAGE_HASH_SIZE];
    uint8_t *arena;
    size_t used, there; /* of it; there: that the host has made */
    uint32_t gen;       /* never 0 */
    uint64_t flushes, made, killed;
    struct DecodeKnown *known;
    Block *single; /* room for one instruction decoded under a segment limit */
} BlockCache;

bool blocks_init(Tcg *t, GError **err);
void blocks_free(Tcg *t);

/* Every block goes, and its memory back to the host. Between runs only. */
void blocks_drop_all(Tcg *t);

/* The block at s->rip (lin is its linear address), or NULL and *fault: FAULT_EXC (fetch fault) or
 * FAULT_UNSUPPORTED. */
Block *block_find(CpuState *s, Tcg *t, gva_t lin, Fault *fault);
/* One instruction at s->rip, outside 64-bit mode with no byte past the CS limit; the real one if a
 * stop lies on it. Valid until the next call. */
Block *block_single(CpuState *s, Tcg *t, gva_t lin, Fault *fault);

static inline Block *block_of(const BlockCache *c, BlockRef ref)
{
    return ref ? (Block *)(void *)(c->arena + (size_t)ref * BLOCK_ALIGN) : NULL;
}

/* The living, trusted block of this page and mode at gpa, or NULL. */
Block *block_at(const Tcg *t, gpa_t gpa, unsigned mode);

/* Are b's bytes, all in one page, still what they were? If not, it is dead then; if so, it is no
 * more trusted than it was: what its own code goes on with has not been looked at. */
bool blocks_prove(Tcg *t, Block *b);

/* b has soft immediates and cannot be run translated: it is made anew without. */
void blocks_harden(Tcg *t, Block *b);

/* Does the page of b have code for any linear address? */
bool blocks_float(const Tcg *t, const Block *b);
/* From here on it has: what is translated of it goes. */
void blocks_make_float(Tcg *t, const Block *b);

/* Kills the blocks with a byte at this offset of any page. */
void blocks_kill_at_offset(Tcg *t, unsigned offset);

/* stops.c: takes in what this run() is to stop at (NULL: nothing). */
void stops_begin(Tcg *t, RunStops *stops);
/* Stops by address: is this page offset one? */
static inline bool stops_at_offset(const Tcg *t, unsigned offset)
{
    for (unsigned k = 0; k < t->n_stop_at; k++)
        if (t->stop_at[k] == offset)
            return true;
    return false;
}
/* What the first instruction of such a block does. */
Fault exec_stop(CpuState *s, Tcg *t, const Insn *i);
/* True, and *x filled: the instruction at lin is to be stopped at. */
bool stops_address_due(const Tcg *t, gva_t lin, Exit *x);
/* True, and *x filled: the state before the next instruction is to be stopped at. */
bool stops_state_due(const CpuState *s, Tcg *t, gva_t lin, Exit *x);
/* The instruction at lin is run now. */
void stops_passed(Tcg *t, gva_t lin);

/* VmCommon.has_code and code_written. */
bool blocks_any(VmCommon *, gpa_t);
void blocks_written(Vcpu *by, gpa_t, unsigned len);

/* The physical page that code at lin is fetched from. False: a fault, which the fetch itself will
 * find again. */
bool blocks_page_at(CpuState *s, Tcg *t, gva_t lin, gpa_t *page);

/* Is the page of code at lin known, and a global one? */
bool blocks_page_is_global(const Tcg *t, gva_t lin);

/* quick.c: sets Insn.go of a block's instructions. */
void quick_block(Insn *insn, unsigned n);

/* Is what was found when map_gen or (in a global page) global_gen was `gen` still there? */
static inline bool still_good(const Tcg *t, uint64_t gen)
{
    return gen == t->map_gen || gen == t->global_gen;
}
static inline uint64_t jump_tag(const Tcg *t, gva_t lin)
{
    return lin ^ (uint64_t)t->decode_mode << 48;
}
static inline JumpEntry *jump_entry(const Tcg *t, gva_t lin)
{
    return &t->blocks->jump[(lin ^ lin >> 13) & (JUMP_CACHE_SIZE - 1)];
}

#endif
