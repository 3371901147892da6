/*
 * The translator: hot blocks as host code. engine_jit.
 *
 * Guest and host are the same ISA, so most instructions go through as they are. What changes:
 *
 * - Registers: twelve guest registers live in host registers from the first block to the last
 *   (jit_host[]); R12 to R15 in the host's stack frame (jit_gpr()). RAX, RCX and RDX of the
 *   host are free for the translator, RSP is the host's stack, GS points at CpuState.
 * - Flags: the guest's arithmetic flags are the host's, all the time. Whatever the translator adds
 *   (address checks, polls, look-ups) is made of instructions that change no flags: LEA,
 *   MOVZX, RORX, SHRX, MULX, JRCXZ, LOOP. So flags need no saving, and are right at any fault
 *   (jit_flags.c has what is an exception).
 * - Vectors: XMM/YMM registers are the guest's while JitHot.vec_away is 0; MXCSR too. They
 *   are loaded when a block first needs them and stored before any C code runs.
 * - Memory: a first-level TLB of 65,536 pages, below; in user code each access has a slot (JitSlot)
 *   with the page it met last; loops of one block have a second body without checks (jit_loop.c).
 *   Hot code of programs, and all of the kernel's, reaches pages in a mirror, where a check is of
 *   the base register alone (jit_mirror.c, jit_mirror_kernel.c).
 * - RIP: code is keyed by physical address and made for the linear address that its page has then
 *   (Block.fixed_at). A page that turns up at another one as well has code that does not know where
 *   it runs from then on: the linear address of its page is in JitHot.ip_page.
 * - Jumps: from block to block directly where the target is known, inside a page and (until the
 *   target's page is mapped anew) between pages; otherwise through JitHot's jump cache, from linear
 *   address to code.
 *
 * Example. `mov rax, [rdi+8]` with RAX in r9 and RDI in rdi becomes, by the first-level TLB,
 *
 *     lea   rax, [rdi+8]
 *     rorx  rcx, rax, 12           ; page number
 *     movzx edx, cx                ; its low 16 bits: the index
 *     mov   rcx, gs:[rdx*8 + read] ; minus the page's address
 *     mov   rdx, gs:[rdx*8 + add]  ; host minus guest, plus 12
 *     lea   rcx, [rcx+rax+4103]    ; offset of the last byte, plus 4096: if it is that page
 *     shrx  rcx, rcx, rdx          ; the low six bits of rdx are 12
 *     loop  miss                   ; by an island in reach: jit_access(), then retry, or go on
 *     mov   r9, [rax+rdx-12]
 *
 * and by a slot, whose loads do not wait for the address,
 *
 *     mov   rdx, gs:[slot.neg]
 *     lea   rdx, [rdx+rdi+8]         ; offset from 4089 bytes before the page
 *     mulx  rcx, rcx, gs:[slot.span] ; over 4089, the places that a page has for 8 bytes
 *     mov   rdx, gs:[slot.add]
 *     loop  miss                   ; by an island: the fill stub, then retry
 *     mov   r9, [rdi+rdx-4]
 *
 * Where LOOP is slow (not AMD's processors) `lea rcx, [rcx-1]`, JRCXZ and a jump stand for it.
 *
 * Whatever has no emitter, and whatever is special (a miss, MMIO, a fault, a page crossing), runs
 * by the instruction's exec function (insn.h), with all registers put back into CpuState. So the
 * interpreter's handlers stay the only place where the hard things are done.
 *
 * W^X: the code area is mapped twice, once writable, once executable.
 */
#ifndef TANDEM_TCG_JIT_H
#define TANDEM_TCG_JIT_H

#include "tcg/block.h"
#include "tcg/emit.h"

#define JTLB_SIZE        65536u
#define JJUMP_SIZE       65536u
#define JJUMP_MODES      6u  /* that code is made in: jit_jump_slot() */
#define JIT_RUNS         48u /* in a trace */
#define JIT_RANGES       8u
#define JIT_WINDOWS      32u
#define JIT_STREAMS      7u /* in a loop */
#define JIT_CODE_BYTES   (64u << 20)
#define JIT_HOT          16u   /* Jit.hot_after, unless a test sets another */
#define JIT_LOOP_EXITS   1024u /* Jit.loop_exits, likewise */
#define JIT_CROSSINGS    32u   /* Jit.twin_after, likewise */
#define JIT_PATHS        3u    /* Jit.trace_paths, likewise; at most 32 */
#define JIT_KERNEL_PATHS 1u    /* Jit.kernel_paths, likewise */
#define JIT_TRACE_ROUNDS 10u   /* Jit.trace_rounds, likewise */
#define JIT_MIRROR       20u   /* Jit.mirror_share, likewise; 0: all of it */
#define JIT_PARTS        24
/* Of a trace, which may have a block several times. */
#define TRACE_MAX_INSNS 128u
#define JIT_HEATS       65536u
#define JIT_WARM        500u /* runs of a block's code before it is made a trace */
#define JIT_ROUNDS      16u  /* a loop of its own may run so many times more */

typedef struct JTlb {
    /* Minus the page's linear address. 0 is "none" together with add 0: see jtlb_clear(). */
    uint64_t read[JTLB_SIZE], write[JTLB_SIZE];
    uint64_t add[JTLB_SIZE]; /* host minus guest address, plus 12 */
} JTlb;

typedef struct JJump {
    uint64_t neg[JJUMP_SIZE]; /* minus RIP */
    const uint8_t *code[JJUMP_SIZE];
} JJump;

/*
 * The pages that one access of translated code met last, one or some that follow each other in the
 * host's memory too: a copy of what the first-level TLB says, at a place of its own. So the check
 * needs no look-up, and its loads do not wait for the address.
 */
typedef struct JitSlot {
    uint64_t neg;    /* places minus the first page; or JIT_SLOT_NONE: empty */
    uint64_t add;    /* as in JTlb */
    uint64_t span;   /* 2^64 / places, rounded up */
    uint32_t places; /* where the first byte of the access may be, from the first page's on */
    uint16_t last;   /* bytes of the access, minus 1 */
    uint8_t left;    /* this many pages are put here without asking jit_slot_fill() */
    uint8_t mode : 2, write : 1, listed : 1, asked : 4; /* enum MmuMode; see jit_slot.c */
} JitSlot;
#define JIT_RUN_SPAN   512  /* bytes that one check covers, at most */
#define JIT_TABLE_SPAN 8192 /* and of a run of accesses to a table */
#define JIT_SLOTS      32768u
/* Minus a page that no address is in: bit 63 alone is not canonical, so the host's access faults
 * where the guest's does. */
#define JIT_SLOT_NONE (1ull << 63)

/* What translated code addresses through GS; within 2 GiB of CpuState. */
typedef struct JitHot {
    uint64_t ip_page;           /* RIP of the first byte of the page of the running block, where
                                   that is Block.fixed_at's BLOCK_FLOATS */
    uint64_t vec_away[3];       /* 0: the vector registers are the guest's, and SSE, AVX, AVX-512
                                   may run */
    uint64_t vec_was[3];        /* the same before C was called */
    uint64_t zmm;               /* 0: as YMM, 1: as ZMM, 2: all 32 and the mask registers */
    uint64_t x87_away, x87_was; /* the same of the x87 registers */
    uint64_t miss_addr, tmp, tmp2;
    int64_t count; /* of instructions: minus what is left of the limit (jit_count.c) */
    uint64_t sign; /* its bit, for PEXT */
    /* jit_mirror.c; the upper bits of an address in an area, as a mask for PEXT and as a shift */
    uint64_t mirror_upper[MIRROR_AREAS], mirror_add[MIRROR_AREAS], mirror_low_end;
    uint32_t mirror_shift[MIRROR_AREAS];
    const _Atomic uint64_t *late_at; /* timers_late_at() of the machine's clock, or NULL */
    uint64_t run[JIT_RUNS]; /* what host addresses of runs of accesses are made from: jit_scan.c */
    uint16_t cc;            /* flags while C code runs */
    struct Tcg *t;
    void *fn_helper, *fn_access, *fn_stream, *fn_vec, *fn_invlpg;
    const void *fn_string[2][4];                                     /* fill, copy; by size */
    _Alignas(32) uint8_t lanes[32], lanes_index[32], lanes_mask[32]; /* jit_gather.c */
    _Alignas(64) uint8_t lanes_kept[4][64];
    _Alignas(64) uint8_t fx[512];          /* FXSAVE image of what was in them */
    uint64_t span[JIT_RUN_SPAN + 1];       /* by size: 2^64 / (offsets in a page that it fits at) */
    uint64_t slot_at;                      /* offset in slot[] of the one that missed */
    uint32_t slot_n, slot_list[JIT_SLOTS]; /* filled since the last flush, in any order */
    uint8_t slot_first[JIT_SLOTS];         /* of others: JitSlot.left when the stub lists it */
    uint32_t heat[JIT_HEATS];              /* runs left until the block is made a trace */
    JitSlot slot[JIT_SLOTS];
    JTlb tlb[MMU_MODES];
    JJump jump[JJUMP_MODES];
} JitHot;

/* Why translated code came back. */
enum JitExit {
    JX_HELPER, /* a handler returned Jit.fault at Jit.at */
    JX_LINK,   /* to CpuState.rip, by the JitLink in JitHot.tmp */
    JX_LOOKUP, /* to CpuState.rip, which the jump cache did not have */
    JX_POLL,   /* Vcpu.go is 0; CpuState.rip is next */
    JX_LOOP, /* to CpuState.rip; the second body of the JitCode in JitHot.tmp was left often enough
                to be judged */
    JX_WARM, /* as JX_LOOKUP; the JitCode in JitHot.tmp is to be made a trace */
    JX_RESUME, /* to CpuState.rip, by the loop: something may have changed; or Jit.exit is filled */
};

/*
 * A direct jump out of a block's code. To another page it leads only while that page is known to be
 * where it was: a far one is in the record of that page, and when that is out of use its rel32
 * leads to the cold code again. That looks into the jump cache, and comes to C every so often to be
 * linked.
 */
typedef struct JitLink {
    uint8_t *at;             /* its rel32, as written */
    const uint8_t *cold;     /* where it leads while not linked */
    struct Block *to;        /* linked, or was before the page was forgotten */
    struct JitLink *next_in; /* of the same target */
    uint64_t rip;            /* far, or to what ends in the next page: the target */
    uint32_t left;           /* far: jumps by the jump cache before it is to be linked */
    bool backward, far, listed, counts;
    bool guard;            /* at a trace's way into another page: a NOP while */
    struct Block *inlined; /* this block is what it leads to, and follows it */
} JitLink;

/* A host instruction that may fault (alignment, division), and what does it instead. */
typedef struct JitSite {
    uint32_t at, cold; /* offsets from JitCode.start */
} JitSite;

/*
 * A block whose instructions are in a piece of code. The first is the one that the code is for. A
 * hot block's code, a trace, goes on with those that its branches go to, in the same page: what has
 * been checked and loaded stays so, and the other ways out are links.
 */
typedef struct JitPart {
    struct Block *b;
    struct JitCode *code;
    struct JitPart *next_user; /* Block.users: not of the first */
    int32_t off;               /* of its first byte, from the code's page on */
    uint16_t first;            /* number of its first instruction in the code */
    bool jumps;                /* the next part is where its branch goes to */
    bool cross;                /* behind a guard */
} JitPart;

/* Blocks as they have run one behind the other. */
typedef struct JitStep {
    struct Block *b;
    uint64_t rip;
    unsigned again; /* a loop of its own: more rounds */
    bool row;       /* it is there once more: see cut_path() */
} JitStep;
typedef struct JitPath {
    unsigned n;
    JitStep step[JIT_PARTS];
} JitPath;

typedef struct JitCode {
    /* What C needs first, when translated code calls it, lies together: whatever led there is cold
     * in the processor's caches. */
    struct Block *first; /* part[0].b */
    struct Block *block; /* the same; NULL: dead, but it may still be running */
    uint64_t fixed_at;   /* Block.fixed_at */
    uint16_t n_parts;
    uint16_t first_off; /* of `first` in its page */
    /* entry_far: RIP is in rax. entry_poll: looks at Vcpu.go first; the target of jumps backwards.
     * entry: counts the run. entry_on: does not. */
    /* head: of the second body of a loop, with a poll; or NULL (jit_loop.c). */
    const uint8_t *start, *entry_far, *entry_poll, *entry, *entry_on, *cold, *head;
    uint32_t size, cold_size; /* from start on, and from cold on */
    uint16_t n_sites, n_links;
    JitLink *link; /* of the last part two; of each before it one, and then of each one's guard */
    JitLink *in;   /* links that lead here */
    JitSite *sites;
    JitPart *part;
    int32_t heat; /* counts its runs: number in JitHot.heat[], or -1; of a loop, the next one
                     counts the ways out */
    /* Where it begins a run of accesses: from there on its twin goes on, once there is one, when
     * the run does not lie in one page. */
    struct JitCross {
        uint8_t *at;       /* rel32, as written */
        uint16_t k, bytes; /* its first instruction; how long it is */
    } * cross;
    uint16_t n_cross;
    bool is_twin, has_twin;
    bool mirrored, kernel; /* has accesses by the mirror; it is the kernel's */
    uint16_t crossed;      /* times, before there was one */
    uint32_t warm_after;   /* where that began */
    JitPath *path;         /* what has run from here on, so many times: jit_trace.c */
    unsigned n_paths;
    /* Of a second body, until it has been judged: the places that leave it, where they lead then.
     */
    struct JitLoop {
        int64_t left;    /* what the counter had before it at the exits, all together, negative */
        uint64_t rounds; /* that there would have been */
        uint64_t exits;  /* to come before it is judged */
        int64_t step;    /* of the counter */
        unsigned n, few; /* ways out; rounds not worth it, on average, in sixteenths */
        struct {
            uint8_t *at; /* rel32, as written */
            const uint8_t *to;
        } way[32]; /* copies of the body times parts: see write_second() */
    } * loop;      /* NULL: it has none */
} JitCode;

enum JitGate { GATE_SYSCALL, GATE_SYSRET, GATE_IRET, GATES };

typedef struct Trans Trans;

typedef struct Jit {
    Tcg *t;
    JitHot *hot;
    size_t hot_bytes;
    int32_t hot_at; /* hot minus CpuState: what gs:[] adds */
    uint8_t *code_rw;
    int64_t run; /* executable minus writable */
    /* Code that runs comes from the start on, what is out of line from the middle on. */
    size_t code_bytes, used, used_fixed, cold_used;
    size_t there, cold_there; /* up to where the host has made both */
    /* stubs */
    int (*enter)(const uint8_t *code);
    const uint8_t *s_exit, *s_return, *s_helper, *s_access, *s_stream, *s_vec, *s_invlpg,
        *s_gate[GATES], *s_fill[MMU_MODES][2], *s_tlb[MMU_MODES][2],
        *s_gather[MMU_MODES][4]; /* 1: indices of 8 bytes; 2: elements */
    /* the last exit */
    Fault fault;
    bool ends_run; /* with `exit`, out of run() */
    Exit exit;
    const Insn *at;
    /* What code that is running may have got the address of is not there any more: it is to be
     * left. */
    bool hidden;
    bool rf_dropped; /* RF was set when code was entered last, and JitHot.count */
    int64_t rf_count;
    JitCode *recording; /* a path from there on is being noted */
    GHashTable *plans;  /* hot blocks: what their traces are to be, JitPath */
    JitLink *pending; /* to be linked when code for it is there: at this RIP, while map_gen stays */
    uint64_t pending_rip, pending_gen;
    /* fill lists: what to clear */
    uint64_t jump_big; /* gigabytes, hashed, with large pages of jumps */
    struct JTlbSet {
        uint64_t has[MMU_MODES][JTLB_SIZE / 64];    /* which entries, as bits */
        uint64_t some[MMU_MODES][JTLB_SIZE / 4096]; /* which words of `has` are not 0 */
    } tlb_set[2];                                   /* local pages, global ones */
    LargePages tlb_large;                           /* that are, or were, in the first-level TLB */
    uint32_t slots;                                 /* in use */
    uint64_t slot_since[JIT_SLOTS];                 /* TSC when it was last looked at */
    uint64_t window_ticks;
    uint8_t slot_asks, slot_refills, slot_first;
    struct JitRanges {
        unsigned n, next;
        struct JitRange {
            gva_t lo, hi; /* pages, one after the other here and in the host's memory */
        } at[JIT_RANGES];
    } range[MMU_MODES][2];      /* that slots have been given; 1: to write */
    struct JitWindows *windows; /* jit_window.c; NULL: none yet */
    struct JitMirror *mirror;   /* jit_mirror.c; likewise */
    struct JitKernel *kernel;   /* jit_mirror_kernel.c; likewise */
    gva_t mirror_lin;           /* where the access that just faulted in it was */
    /* for info jit */
    uint64_t mirror_shown, mirror_turns, mirror_faults, kernel_shown, kernel_turns, kernel_faults;
    struct JumpPages *pages; /* that the jump cache leads to, or has led to: jit_jump.c */
    const uint8_t *s_zmm[2]; /* store, load */
    bool ymm, zmm, wrgsbase; /* zmm: the guest has AVX-512 */
    bool x87;                /* x87 runs as itself: this host has XSAVE */
    bool x87_before;         /* the x87 registers were the guest's when C was called */
    JitCode **map;           /* by address of code, ascending */
    unsigned map_n, map_room;
    unsigned links;    /* direct jumps that are linked now, at most */
    bool slow_pext;    /* jit_area_bits() does without */
    bool slow_rep;     /* strings go by string_thunk.S */
    bool near_jumps;   /* LOOP is a fast way to jump if rcx is not 1: on AMD's processors */
    bool kernel_slots; /* the kernel's code has slots too: for tests */
    bool no_mirror;    /* no code is made for the mirror: likewise */
    bool no_chain;     /* each block comes back: jit_chaining() */
    bool counts;       /* code counts its instructions: jit_count.c */
    unsigned heats;    /* JitHot.heat[] in use */
    uint32_t warm_after, kernel_warm; /* runs before a trace is made; so many times more at CPL 0 */
    uint32_t hot_after;               /* runs in the interpreter before a block is translated */
    bool programs, calm;              /* CPL 3 has run since idle; it has been idle */
    uint32_t loop_exits;              /* before a second body is judged */
    uint32_t twin_after;              /* crossings before a twin is made */
    uint32_t trace_paths, kernel_paths; /* noted before a trace is made */
    uint32_t trace_rounds;              /* of a loop of several blocks in a trace, at most */
    uint32_t mirror_share;              /* of the time, that the mirror may take: jit_mirror.c */
    /* for info jit */
    uint64_t counted; /* instructions in translated code, where it counts them */
    uint64_t blocks, traces, twins, flushes, exits[JX_RESUME + 1], accesses, helpers,
        slots_given_up;
    uint32_t *row_helpers; /* by row */
    Trans *trans;
} Jit;

extern const uint8_t jit_host[16]; /* guest register to host register; H_NONE: in CpuState */

/* Can this host run translated code? */
bool jit_supported(GError **err);
/* NULL and err: no memory. */
Jit *jit_new(Tcg *, GError **err);
void jit_free(Jit *);
/* Makes code for b at CpuState.rip; false: it stays with the interpreter. */
bool jit_translate(Jit *, Block *b);
/* Makes a second code of the same, without runs, which goes on wherever a run of `code` is not in
 * one page. */
void jit_make_twin(Jit *, JitCode *code);
/* May b's code (it has some) run with b at this RIP? */
static inline bool jit_fits(const Block *b, uint64_t rip)
{
    return b->fixed_at == BLOCK_FLOATS || b->fixed_at == rip - (b->gpa & ~PAGE_MASK);
}
/* RIP of the first byte of the page of the code that runs. */
static inline uint64_t jit_page(const Jit *j, const JitCode *code)
{
    return code->fixed_at == BLOCK_FLOATS ? j->hot->ip_page : code->fixed_at;
}
/* The part of the code that instruction k is in. */
static inline const JitPart *jit_part(const JitCode *code, unsigned k)
{
    const JitPart *p = &code->part[code->n_parts - 1u];
    while (p->first > k)
        p--;
    return p;
}
/* Instruction k of the code, and the block that it is in. */
static inline const Insn *jit_insn(const JitCode *code, unsigned k, Block **b)
{
    const JitPart *p = jit_part(code, k);
    *b = p->b;
    return &(*b)->insn[k - p->first];
}
/* RIP of the first byte of the block that instruction k of the code is in. */
static inline uint64_t jit_block_rip(const Jit *j, const JitCode *code, unsigned k)
{
    return jit_page(j, code) + (uint64_t)(int64_t)jit_part(code, k)->off;
}
/* `info jit`, of this vCPU; on its thread, or while it is stopped. Appends. */
void jit_describe(const Vcpu *, GString *out);
void jit_run_init(Jit *);
/* Runs code from s->rip on, whose block is b (translated, in trust). */
enum JitExit jit_run(Jit *, Block *b);
/* b's bytes have changed: nothing may lead to its code any more. */
void jit_block_dead(Jit *, Block *b);
/* All code goes: the blocks themselves are dropped. */
void jit_flush(Jit *);
/* The same, and memory goes back to the host: of code, and of tables that were full once. */
void jit_give_back(Jit *);
/* Zeroes a table of the translator's: whole pages by giving them back. */
void jit_zero(void *p, size_t bytes);
/* No jump may go on unseen: blocks must prove themselves at their next lookup. */
void jit_unlink_all(Jit *);
/* Whether blocks may hand over to each other. Without, each run is of one block, and can be
 * counted. */
void jit_chaining(Jit *, bool on);
/* From here on code counts its instructions: what there is goes. */
void jit_counting(Jit *);
/* A direct jump now leads to b's code: b has been found where it goes to, in this map_gen. */
void jit_link(Jit *, JitLink *, Block *b);
/* l leads to `to`, as it runs. */
void jit_link_patch(const Jit *, JitLink *l, const uint8_t *to);

#include "tcg/jit_pages.h"

/* ---- between jit.c and the emitters ---- */
#define NEAR_MAX 8
/* base + (index << scale) + disp; registers, GPR_ZERO, PLACE_SEGMENT (jit_segment()'s base), or
 * GPR_IP: disp is what Insn's is. */
#define PLACE_SEGMENT 32
struct Place {
    uint8_t base, index, scale;
    int32_t disp;
};
struct Trans {
    Jit *j;
    Tcg *t;
    Block *b;                /* the first */
    JitCode *code, *twin_of; /* twin_of: code whose twin is being made, or NULL */
    Code c;
    /* The trace: its instructions, its parts, and how each goes on to the next. */
    unsigned n, n_parts;
    const Insn *insn[TRACE_MAX_INSNS];
    struct Part {
        Block *b;
        unsigned first;
        int64_t off; /* of its first byte, from the first part's page on */
        bool jumps;  /* by the branch it ends with; else that is not taken */
        bool cross;  /* in a page that none of the parts before is in */
    } part[JIT_PARTS];
    const struct Part *at; /* of this instruction */
    int64_t off;           /* of its block, from the first part's page on */
    bool fixed;            /* its page is at b->fixed_at */
    unsigned mode;         /* decode mode at this instruction */
    unsigned k;            /* its number */
    bool vec[3];           /* SSE, AVX, AVX-512 registers are live here for sure */
    bool x87;              /* so are the x87 registers */
    int dx_run;            /* the run whose host address, or slot's `add`, is in rdx; -1; or the
                              mirror's: jit_mem.c */
    uint8_t ax;    /* the guest register, of those in CpuState, whose value is in rax; or H_NONE */
    uint8_t base;  /* likewise, within one access: plus 1, or 0 */
    bool guarded;  /* the access about to be written may meet an empty slot */
    bool mirrored; /* it goes by the mirror, and may fault */
    /* Where each guest register is, at this place in the code: jit_home.c. */
    uint8_t host[16], away[16]; /* host register, or H_NONE: then so many places up the frame */
    struct Swap {
        uint8_t in, out; /* in a host register instead of on the frame: guest registers; `in` may
                            be GPR_N plus a stream, of whose place jit_frame() is */
    } swap[4 + JIT_STREAMS]; /* of the second body */
    unsigned n_swaps;
    uint8_t stream_host[JIT_STREAMS]; /* a host register that has what the frame has, or H_NONE */
    /* jit_scan(): runs, the run of each instruction (or -1) and its offset from the root. */
    struct Run {
        int32_t lo, hi, slot, first_slot; /* first_slot: in the first body */
        uint16_t n;
        bool write, ready; /* ready: the address is in JitHot.run[], or the slot has its page */
        bool by_add;       /* not the address, but the host's minus the guest's */
        bool table;   /* that members lie in anywhere; place and offset are without the index */
        uint8_t area; /* enum MirrorArea: by the mirror, with one check of what all are off */
        bool known;   /* and not even that */
        uint8_t kernel_area; /* where members have been seen */
        bool no_area;        /* one of them is not to go by the kernel's mirror */
    } run[JIT_RUNS];
    unsigned n_runs;
    int16_t run_of[TRACE_MAX_INSNS];
    int32_t run_at[TRACE_MAX_INSNS];
    struct Place run_place[TRACE_MAX_INSNS]; /* where its operand is: of members of runs */
    bool mirror, kernel; /* accesses go by the mirror where they can; by the kernel's */
    uint8_t area_of[TRACE_MAX_INSNS];  /* kernel: where they have been seen */
    bool run_bounded[TRACE_MAX_INSNS]; /* of a member by the mirror: its index is small */
    int dx_behind[TRACE_MAX_INSNS]; /* dx_run, and ax, behind each instruction of the first body */
    uint8_t ax_behind[TRACE_MAX_INSNS];
    /* jit_flags.c: instruction w has set the flags, which may be something else before this one; in
     * `copy` is what its destination was, or it is GPR_ZERO. w is -1: they are right. */
    struct Replay {
        int16_t w;
        uint8_t copy;
    } replay[TRACE_MAX_INSNS], round_replay;
    /* C that does instruction k is to find the FIP and FOP of this one, plus 1; 0: they are right.
     */
    uint8_t pointers[TRACE_MAX_INSNS];
    int round_setter; /* up to this one they are what round_replay says, in the second body; or -1
                       */
    /* jit_loop.c: the second body is being written; the streams, each instruction's (or -1), its
     * displacement there and its bytes. */
    bool second;
    struct Stream {
        uint8_t base, index, scale; /* registers (or GPR_ZERO, GPR_IP) whose values at the top it
                                       counts from: base + (index << scale) */
        int32_t lo, hi, step;       /* bytes from there; bytes it moves by in each round */
        uint8_t by, by_scale;       /* or by << by_scale, a register that stays; or GPR_ZERO */
        int slot;                   /* or -1: by the first-level TLB */
        bool write;
        bool direct;   /* by the mirror's lower area, as the guest has it */
        uint8_t area;  /* enum MirrorArea: by the mirror, without a slot */
        uint8_t table; /* likewise, if accesses have an index besides, of few bits; else 0 */
    } stream[JIT_STREAMS];
    unsigned n_streams;
    uint32_t changes; /* registers that the loop writes, as bits */
    int8_t stream_of[TRACE_MAX_INSNS];
    uint8_t stream_size[TRACE_MAX_INSNS];
    int32_t stream_disp[TRACE_MAX_INSNS];
    const uint8_t *jcc, *behind_jcc; /* the branch that ends the block */
    const uint8_t *side[JIT_PARTS];  /* those that end the parts before */
    bool back;                       /* the trace has gone to a lower address */
    struct Other {                   /* CALLs that do not go where the trace goes on */
        const uint8_t *at;           /* the code for those */
        unsigned k, mode;
        uint64_t ready; /* runs, as bits */
    } other[JIT_PARTS];
    unsigned n_other;
    bool helped;         /* an instruction is done by its exec function */
    const uint8_t *tail; /* after the last instruction: islands */
    bool ended;          /* the last emitter has left the block on all paths */
    /* cold code, written after the block */
    struct Near {
        uint8_t *rel8; /* as written */
        uint16_t cold;
    } near[NEAR_MAX]; /* short jumps to cold code that still need an island */
    unsigned n_near;
    bool no_near, out_of_reach;
    struct Cold {
        uint16_t run;   /* ACCESS: of the first of a run of so many bytes; or 0 */
        bool second;    /* of the second body: the block is left behind the instruction */
        bool write;     /* ACCESS */
        bool backward;  /* LINK */
        bool far;       /* STREAM: JIT_FAR_FLAG */
        bool mirror;    /* ACCESS, STREAM: of the mirror's, whose check has failed */
        int dx_run;     /* ACCESS, of the mirror's, and VEC: what rdx has at `retry`, or -1 */
        bool framed_ax; /* ACCESS: rax is to be what is in jit_frame(0) where it is tried again */
        const uint8_t *back; /* ACCESS, of the kernel's: here with rdx as it is to be */
        uint16_t size;       /* that many bytes then */
        uint8_t *from;       /* rel32 to patch */
        const uint8_t *retry, *next;
        HostMem ea;   /* ACCESS: the address, if not in rax */
        int32_t slot; /* ACCESS: or -1; LOOP: the counter */
        uint8_t by;   /* LOOP: the register that it moves by, or GPR_ZERO */
        uint8_t mode; /* ACCESS: enum MmuMode */
        uint8_t decode_mode;
        uint8_t kind; /* enum ColdKind */
        int8_t link;  /* LINK; OTHER: number in Trans.other[] */
        uint16_t k;
        int64_t rip_off;
    } cold[6 * TRACE_MAX_INSNS];
    unsigned n_cold;
    JitSite site[5 * TRACE_MAX_INSNS];
    unsigned site_k[5 * TRACE_MAX_INSNS], n_sites; /* JIT_SITE_SECOND beside it */
};
#define INDIRECT_BYTES  150 /* of code for an indirect CALL, at most */
#define JIT_SITE_SECOND 0x10000u
#define JIT_SITE_MIRROR 0x20000u
/* Beside an instruction's number: the first of a run; JitHot.slot_at is its slot. */
#define JIT_RUN_FLAG  0x10000u
#define JIT_SLOT_FLAG 0x20000u
/* The mirror's: a fault of its; with JIT_RUN_FLAG, a check of its. */
#define JIT_MIRROR_FLAG 0x40000u
#define JIT_FAR_FLAG    0x10000u /* to jit_stream(): its stride is not small */
enum ColdKind {
    COLD_LOOP,
    COLD_STREAM,
    COLD_ACCESS,
    COLD_STRING,
    COLD_MIRROR,
    COLD_VEC,
    COLD_HELPER,
    COLD_POLL,
    COLD_WARM,
    COLD_RETURN,
    COLD_ELSEWHERE,
    COLD_OTHER,
    COLD_LINK,
    COLD_LOOKUP
};

/* Emits instruction i; ax: Trans.ax before it. False: by its exec function. */
bool jit_emit_insn(Trans *, const Insn *i, unsigned ax);
bool jit_emit_branch(Trans *, const Insn *i);
/* jit_trace.c: what the code is to consist of. */
void jit_trace_plan(Trans *);
/* May a trace begin with b? */
bool jit_trace_may(const Block *b);
/* Is b a loop of its own, which may be in a trace several times in a row? */
bool jit_trace_rounds(const Block *b);
/* Code has run often enough, and is next at CpuState.rip: a path is to be noted, or its block is
 * hot. */
void jit_trace_warm(Jit *, JitCode *);
/* The trace is there: what it goes through is as hot as if it had not run yet. */
void jit_trace_made(Jit *, const JitCode *trace);
/* Code that counts ways out of a loop of one block, where x->code does. */
void jit_count_way_out(Trans *);
/* b is next, while Jit.recording: is it to be run by the interpreter? */
bool jit_trace_record(Jit *, Block *b);
/* Leaves the block for the place `off` bytes into its page (or past its end). */
void jit_emit_goto(Trans *, unsigned link, int64_t off);
/* The same, and Vcpu.go is looked at on the way. */
void jit_emit_goto_polled(Trans *, unsigned link, int64_t off);
/* Jump (rel32 just written at `from`) to cold code that is made later. */
struct Cold *jit_cold(Trans *, uint8_t *from, enum ColdKind kind);
/* To cold code unless rcx is 1, or 0; rcx changes. The first, where it can, by an island that must
 * be within 100 bytes or so: behind the block, or before the next instruction. */
struct Cold *jit_unless_one(Trans *, enum ColdKind);
struct Cold *jit_unless_zero(Trans *, enum ColdKind);

/* jit_branch.c: cold code of a far JitLink: before what leaves for C, and behind it. */
const uint8_t *jit_far_start(Trans *, uint64_t rip);
void jit_far_end(Trans *, JitLink *, const uint8_t *out);
/* The same of a RET or JMP (instruction k) inside a trace that does not go where it was expected
 * to: to rax. */
void jit_go_elsewhere(Trans *, unsigned k);
/* CALLs likewise: Trans.other[]. */
void jit_other_ways(Trans *);
/* Behind the last instruction of a part: the guard, if the next one is in another page. */
void jit_guard_page(Trans *);

void jit_make_stubs(Jit *, Code *);
/* Flags to and from JitHot.cc, by rax. */
void jit_flags_out(Code *, const Jit *);
void jit_flags_in(Code *, const Jit *);
/* Cold code of instruction k, before C: FIP and FOP. rcx may change. */
void jit_pointers_again(Trans *, unsigned k);
/* jit_often.c: EMIT_OFTEN; and the registers it writes, as bits */
bool jit_emit_often(Trans *, const Insn *);
uint32_t jit_often_written(const Insn *);
/* jit_string.c: REP MOVS (copy) or STOS; COLD_STRING, up to the jump behind the instruction */
bool jit_emit_string(Trans *, const Insn *, bool copy);
void jit_string_cold(Trans *, const JitCode *, const struct Cold *);
void jit_strings_init(Jit *);
/* BT, BTS, BTR, BTC of memory with a register */
bool jit_emit_bit_string(Trans *, const Insn *);
/* jit_soft.c: where in its block i has an immediate that can be soft, and its bytes */
bool jit_soft_imm(const Insn *i, unsigned *at, unsigned *size);
bool jit_emit_soft(Trans *, const Insn *);
/* At this offset in the Vcpu that CpuState is in. */
static inline HostMem jit_vcpu(size_t offset)
{
    return gs_mem((int32_t)offset - (int32_t)offsetof(Vcpu, st));
}

/* The translator of a vCPU whose engine_jit.vcpu_init() has been called. */
static inline Jit *jit_of(const Vcpu *v)
{
    const Tcg *t = v->engine_data[ENGINE_JIT];
    return t->jit;
}

/* Where a guest register is that has no host register: on the stack, where processors forward what
 * was stored sooner than from anywhere else. In most code; and at this place. */
static inline HostMem jit_gpr(unsigned r)
{
    return (HostMem){.base = H_SP, .index = H_NONE, .disp = 8 * ((int32_t)r - R12)};
}
static inline HostMem jit_home(const Trans *x, unsigned r)
{
    return (HostMem){.base = H_SP, .index = H_NONE, .disp = 8 * x->away[r]};
}
/* jit_home.c: registers are where most code has them; or where the second body has them. */
void jit_homes(Trans *, bool second);
/* What the second body is to have where, once its streams are known; instructions saved a round. */
unsigned jit_homes_choose(Trans *);
/* Code that goes from one to the other: uses rax and rcx; or nothing, where time does not matter.
 */
void jit_homes_swap(Trans *, bool slowly);
#define JIT_FRAME 120 /* bytes of the stack: R12 to R15, what a loop needs; aligned */
/* A loop's: one for each stream, and three more. */
static inline HostMem jit_frame(unsigned n)
{
    return (HostMem){.base = H_SP, .index = H_NONE, .disp = 32 + 8 * (int32_t)n};
}
static inline HostMem jit_hot(const Jit *j, size_t offset)
{
    return gs_mem(j->hot_at + (int32_t)offset);
}

/* A member of a slot. */
static inline HostMem jit_slot_mem(const Jit *j, int slot, size_t member)
{
    return jit_hot(j, offsetof(JitHot, slot) + (unsigned)slot * sizeof(JitSlot) + member);
}

/* The guest's vector registers for an instruction of this row. */
void jit_need_vectors(Trans *, const OpRow *);

/* jit_gather.c */
bool jit_emit_gather(Trans *, const Insn *);
void jit_make_gather_stubs(Jit *, Code *);
/* jit_scan.c */
void jit_scan(Trans *);
/* Guest registers that i writes, as bits. */
uint32_t jit_written(const Insn *i);
/* i's memory operand, of an instruction that has one and no stack operand. */
bool jit_memory_operand(const Insn *i, unsigned *size, bool *write);
/* Constant that i adds to a register of the stack's or pointers' size; false: something else. */
bool jit_adds_constant(const Insn *i, unsigned *to, unsigned *from, int64_t *n);
/* The part that instruction k is of. */
static inline const struct Part *jit_part_of(const Trans *x, unsigned k)
{
    unsigned p = x->n_parts - 1u;
    while (x->part[p].first > k)
        p--;
    return &x->part[p];
}
/* The place of the block that instruction k is of, from the first part's page on. */
static inline int64_t jit_off_of(const Trans *x, unsigned k)
{
    return jit_part_of(x, k)->off;
}
/* The segment that has what there is one of for each processor, or thread. */
static inline unsigned jit_segment(const Trans *x)
{
    return x->mode & DM_CPL3 ? FS : GS;
}

/* Does a register keep what it held at the top of the loop? Of other roots nothing is written. */
static inline bool jit_stays(const Trans *x, unsigned root)
{
    return root >= GPR_N || !(x->changes >> root & 1);
}
/* Are two such places in one page? */
static inline bool jit_same_page(int64_t a, int64_t b)
{
    return ((a ^ b) & (int64_t)PAGE_MASK) == 0;
}
/* jit_count.c, where code counts: rcx changes. So many instructions more; those of the part that
 * instruction x->k begins, if it begins one; none of its part behind instruction k. */
void jit_count(Trans *, int32_t insns);
void jit_count_part(Trans *);
void jit_count_off(Trans *, unsigned k);
/* rcx = 0 if translated code is to be left here, else 1. */
void jit_poll(Trans *);
/* jit_loop.c: is the code to have a second body? Trans.stream_of is known then. */
/* After the block's code. Nothing where it is no loop for it. */
void jit_loop(Trans *, JitCode *);
/* Cold code: adds up the rounds, and goes on behind the loop. */
void jit_loop_count(Trans *, JitCode *, const struct Cold *);
/* Cold code: a stream's slot has other pages. */
void jit_loop_stream(Trans *, const JitCode *, const struct Cold *);
/* A second body has been left loop_exits times: it stays, or its block is made again without. */
void jit_loop_judge(Jit *, JitCode *);
/* The operand of instruction k in the second body. False: it is to be checked. */
bool jit_loop_operand(Trans *, unsigned size, bool write, HostMem *m);
/* jit.c: instruction k natively; false: not by an emitter, and nothing is written. */
bool jit_emit_one(Trans *, const Insn *i);
/* An island for the short jumps made so far, if `bytes` more would put it out of reach. */
void jit_island_before(Trans *, ptrdiff_t bytes);
/* jit_mem.c: i's memory operand of `size` bytes, checked, at *m: uses rax, rcx and rdx, of which
 * rcx is free afterwards. jit_guard() comes right before the instruction that accesses it. False:
 * not by an emitter. */
bool jit_operand(Trans *, const Insn *i, unsigned size, bool write, HostMem *m);
/* The same for [base + disp], a guest register of the mode's size; flat. */
void jit_operand_at(Trans *, unsigned base, int32_t disp, unsigned size, bool write, HostMem *m);
/* Of the first-level TLB's entry for ea, whose base is a host register or none: rcx = minus the
 * page that may be accessed so, rdx = `add`. */
void jit_tlb_entry(Trans *, HostMem ea, bool write);
/* jit_operand() of the linear address in rax. */
void jit_operand_ax(Trans *, unsigned size, bool write, HostMem *m);
/* rdx is loaded again with what Trans.dx_run, as it was then in that body, says of it. */
void jit_dx_again(Trans *, int dx_run, bool second);
void jit_guard(Trans *);
/* The host instruction that is about to be written may fault: exec does it instead then. */
void jit_may_fault(Trans *);
/* Guest linear address of i's operand in rax. False: not by an emitter. */
bool jit_ea(Trans *, const Insn *i);
/* The same in another host register, which nothing is changed in before the last instruction. */
bool jit_ea_to(Trans *, const Insn *i, unsigned to);
unsigned jit_mmu_mode(unsigned decode_mode);
/* Guest register r into host register `to`. */
void jit_get(Trans *, unsigned to, unsigned r);
void jit_put(Trans *, unsigned r, unsigned from);
/* RSP += n, as the stack is in this mode. */
void jit_move_rsp(Trans *, int32_t n);
/* RIP at `off` bytes into the page of a block that is `fixed`. */
static inline uint64_t jit_fixed_rip(const Trans *x, int64_t off)
{
    uint64_t rip = x->b->fixed_at + (uint64_t)off;
    return x->mode & DM_CODE64 ? rip : (uint32_t)rip;
}
/* A register = RIP at `off` bytes into the page. */
void jit_rip(Trans *, unsigned to, int64_t off);

#endif
