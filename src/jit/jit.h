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
 *   (flags.c has what is an exception).
 * - Vectors: XMM/YMM registers are the guest's while JitHot.vec_away is 0; MXCSR too. They
 *   are loaded when a block first needs them and stored before any C code runs.
 * - Memory: a first-level TLB of 65,536 pages, below; in user code each access has a slot (JitSlot)
 *   with the page it met last; loops of one block have a second body without checks (loop.c).
 *   Hot code of programs, and all of the kernel's, reaches pages in a mirror, where a check is of
 *   the base register alone (mirror.c, mirror_kernel.c).
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
#ifndef TANDEM_JIT_JIT_H
#define TANDEM_JIT_JIT_H

#include "jit/emit.h"
#include "tcg/run.h"

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
#define JIT_STEPS        24u   /* of a path */
/* Of a trace; most may have less. */
#define JIT_PARTS       56u
#define TRACE_MAX_INSNS 240u
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
    uint8_t mode : 2, write : 1, listed : 1, asked : 4; /* enum MmuMode; see slot.c */
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
    int64_t count; /* of instructions: minus what is left of the limit (count.c) */
    uint64_t sign; /* its bit, for PEXT */
    /* mirror.c; the upper bits of an address in an area, as a mask for PEXT and as a shift */
    uint64_t mirror_upper[MIRROR_AREAS], mirror_add[MIRROR_AREAS], mirror_low_end;
    uint32_t mirror_shift[MIRROR_AREAS];
    const _Atomic uint64_t *late_at; /* timers_late_at() of the machine's clock, or NULL */
    uint64_t run[JIT_RUNS]; /* what host addresses of runs of accesses are made from: scan.c */
    uint16_t cc;            /* flags while C code runs */
    struct Tcg *t;
    void *fn_helper, *fn_access, *fn_stream, *fn_vec, *fn_invlpg;
    const void *fn_string[2][4];                                     /* fill, copy; by size */
    _Alignas(32) uint8_t lanes[32], lanes_index[32], lanes_mask[32]; /* gather.c */
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
    JitStep step[JIT_STEPS];
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
    /* head: of the second body of a loop, with a poll; or NULL (loop.c). */
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
    JitPath *path;         /* what has run from here on, so many times: trace.c */
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
        } way[JIT_PARTS]; /* parts times copies: write_second() */
    } * loop;             /* NULL: it has none */
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
    GHashTable *plans;  /* hot blocks: their traces */
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
    struct JitWindows *windows; /* window.c; NULL: none yet */
    struct JitMirror *mirror;   /* mirror.c; likewise */
    struct JitKernel *kernel;   /* mirror_kernel.c; likewise */
    gva_t mirror_lin;           /* where the access that just faulted in it was */
    /* for info jit */
    uint64_t mirror_shown, mirror_turns, mirror_faults, kernel_shown, kernel_turns, kernel_faults;
    struct JumpPages *pages; /* that the jump cache leads to, or has led to: jump.c */
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
    bool counts;       /* code counts its instructions: count.c */
    unsigned heats;    /* JitHot.heat[] in use */
    uint32_t warm_after, kernel_warm; /* runs before a trace is made; so many times more at CPL 0 */
    uint32_t hot_after;               /* runs in the interpreter before a block is translated */
    bool programs, calm;              /* CPL 3 has run since idle; it has been idle */
    uint32_t loop_exits;              /* before a second body is judged */
    uint32_t twin_after;              /* crossings before a twin is made */
    uint32_t trace_paths, kernel_paths; /* noted before a trace is made */
    uint32_t trace_rounds;              /* of a loop of several blocks in a trace, at most */
    uint32_t mirror_share;              /* of the time, that the mirror may take: mirror.c */
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
/* out_asm: code just made of a block that runs at rip now. next[k] is instruction k's, tail what is
 * out of line. */
void jit_log_code(const Jit *, const JitCode *, const uint8_t *const next[], const uint8_t *tail,
                  uint64_t rip);
/* `info jit`, of this vCPU; on its thread, or while it is stopped. Appends. */
void jit_describe(const Vcpu *, GString *out);
void jit_run_init(Jit *);
/* Translator.run. */
Next jit_run_blocks(CpuState *, Tcg *, Block *, Exit *);
/* Runs code from s->rip on, whose block is b (translated, in trust). */
enum JitExit jit_run(Jit *, Block *b);
/* b's bytes have changed: nothing may lead to its code any more. */
void jit_block_dead(Jit *, Block *b);
/* All code goes: the blocks themselves are dropped. */
void jit_flush(Jit *);
/* The same, and memory goes back to the host: of code, and of tables that were full once. */
void jit_give_back(Jit *);
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

/* Code has run often enough, and is next at CpuState.rip: a path is to be noted, or its block is
 * hot. */
void jit_trace_warm(Jit *, JitCode *);
/* The trace is there: what it goes through is as hot as if it had not run yet. */
void jit_trace_made(Jit *, const JitCode *trace);
/* b is next, while Jit.recording: is it to be run by the interpreter? */
bool jit_trace_record(Jit *, Block *b);
/* A second body has been left loop_exits times: it stays, or its block is made again without. */
void jit_loop_judge(Jit *, JitCode *);
/* The translator of a vCPU whose engine_jit.vcpu_init() has been called. */
static inline Jit *jit_of(const Vcpu *v)
{
    const Tcg *t = v->engine_data[ENGINE_JIT];
    return t->jit;
}

#include "jit/pages.h"

#endif
