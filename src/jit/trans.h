/*
 * Code that is being made: what translate.c, the scans before and the emitters have of it. Those
 * who run code need jit.h alone.
 */
#ifndef TANDEM_JIT_TRANS_H
#define TANDEM_JIT_TRANS_H

#include "jit/jit.h"

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
                              mirror's: mem.c */
    uint8_t ax;    /* the guest register, of those in CpuState, whose value is in rax; or H_NONE */
    uint8_t base;  /* likewise, within one access: plus 1, or 0 */
    bool guarded;  /* the access about to be written may meet an empty slot */
    bool mirrored; /* it goes by the mirror, and may fault */
    /* Where each guest register is, at this place in the code: home.c. */
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
    /* flags.c: instruction w has set the flags, which may be something else before this one; in
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
    /* loop.c: the second body is being written; the streams, each instruction's (or -1), its
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
/* trace.c: what the code is to consist of. */
void jit_trace_plan(Trans *);
/* May a trace begin with b? */
bool jit_trace_may(const Block *b);
/* Is b a loop of its own, which may be in a trace several times in a row? */
bool jit_trace_rounds(const Block *b);
/* Code that counts ways out of a loop of one block, where x->code does. */
void jit_count_way_out(Trans *);
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

/* branch.c: cold code of a far JitLink: before what leaves for C, and behind it. */
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
/* often.c: EMIT_OFTEN; and the registers it writes, as bits */
bool jit_emit_often(Trans *, const Insn *);
uint32_t jit_often_written(const Insn *);
/* string.c: REP MOVS (copy) or STOS; COLD_STRING, up to the jump behind the instruction */
bool jit_emit_string(Trans *, const Insn *, bool copy);
void jit_string_cold(Trans *, const JitCode *, const struct Cold *);
void jit_strings_init(Jit *);
/* BT, BTS, BTR, BTC of memory with a register */
bool jit_emit_bit_string(Trans *, const Insn *);
/* soft.c: where in its block i has an immediate that can be soft, and its bytes */
bool jit_soft_imm(const Insn *i, unsigned *at, unsigned *size);
bool jit_emit_soft(Trans *, const Insn *);
/* At this offset in the Vcpu that CpuState is in. */
static inline HostMem jit_vcpu(size_t offset)
{
    return gs_mem((int32_t)offset - (int32_t)offsetof(Vcpu, st));
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
/* home.c: registers are where most code has them; or where the second body has them. */
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

/* gather.c */
bool jit_emit_gather(Trans *, const Insn *);
void jit_make_gather_stubs(Jit *, Code *);
/* scan.c */
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
/* count.c, where code counts: rcx changes. So many instructions more; those of the part that
 * instruction x->k begins, if it begins one; none of its part behind instruction k. */
void jit_count(Trans *, int32_t insns);
void jit_count_part(Trans *);
void jit_count_off(Trans *, unsigned k);
/* rcx = 0 if translated code is to be left here, else 1. */
void jit_poll(Trans *);
/* loop.c: is the code to have a second body? Trans.stream_of is known then. */
/* After the block's code. Nothing where it is no loop for it. */
void jit_loop(Trans *, JitCode *);
/* Cold code: adds up the rounds, and goes on behind the loop. */
void jit_loop_count(Trans *, JitCode *, const struct Cold *);
/* Cold code: a stream's slot has other pages. */
void jit_loop_stream(Trans *, const JitCode *, const struct Cold *);
/* The operand of instruction k in the second body. False: it is to be checked. */
bool jit_loop_operand(Trans *, unsigned size, bool write, HostMem *m);
/* translate.c: instruction k natively; false: not by an emitter, and nothing is written. */
bool jit_emit_one(Trans *, const Insn *i);
/* An island for the short jumps made so far, if `bytes` more would put it out of reach. */
void jit_island_before(Trans *, ptrdiff_t bytes);
/* mem.c: i's memory operand of `size` bytes, checked, at *m: uses rax, rcx and rdx, of which
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
