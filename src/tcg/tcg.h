/*
 * Tcg: the software engine's context of one vCPU. Private to the tcg room.
 *
 * Handlers get (CpuState *s, Tcg *t, const Insn *i). They read operands, find every fault, then
 * commit; they never longjmp. Arithmetic flags live in t->cc while the engine runs, in the form
 * that LAHF and SETO leave in AX: AH = SF ZF 0 AF 0 PF 1 CF, AL = OF. s->rflags holds the others;
 * flags_get()/flags_set() join and part them.
 */
#ifndef TANDEM_TCG_TCG_H
#define TANDEM_TCG_TCG_H

#include <glib.h>
#include "cpu/vcpu.h"
#include "tcg/insn.h"

#define PAGE_BITS 12
#define PAGE_SIZE 4096ull
#define PAGE_MASK (~(PAGE_SIZE - 1))

/*
 * TLB: direct-mapped, by linear page (tlb_index()). A tag is the page's linear address when the
 * access is allowed without further work, TLB_NONE otherwise (not mapped, not allowed, MMIO, dirty
 * bit to be set, code on the page to be watched). Host address = linear + addend.
 */
#define TLB_BITS       10
#define TLB_SIZE       (1u << TLB_BITS)
#define MAY_WRITE_BITS 65536u
#define EXEC_PAGES     4096u /* bits of a filter */
#define TLB_NONE       1ull  /* equals no page address */
#define TLB_BANKS      8     /* PCIDs kept */

enum Access { ACC_READ, ACC_WRITE, ACC_EXEC };
/* Supervisor; user; supervisor with EFLAGS.AC set (SMAP off). */
enum MmuMode { MMU_KERNEL, MMU_USER, MMU_KERNEL_AC, MMU_MODES };

typedef struct TlbEntry {
    uint64_t tag[3]; /* enum Access */
    uintptr_t addend;
} TlbEntry;

/*
 * Where large pages have been met: INVLPG drops the whole page that its address is in. Pages of 2
 * and 4 MiB by hashed pieces of 4 MiB, larger ones by hashed gigabytes. So there are false alarms.
 */
#define LARGE_SHIFT 22
#define HUGE_SHIFT  30
typedef struct LargePages {
    uint64_t large[8], huge;
} LargePages;

static inline unsigned large_bit(gva_t lin)
{
    return (unsigned)(lin >> LARGE_SHIFT ^ lin >> 34) & 511;
}
static inline void large_note(LargePages *l, gva_t lin, bool huge)
{
    if (huge)
        l->huge |= BIT(lin >> HUGE_SHIFT & 63);
    else
        l->large[large_bit(lin) / 64] |= BIT(large_bit(lin) % 64);
}
/* What must be dropped with lin: as many low bits of its address do not count. 0: just its page. */
static inline unsigned large_shift(const LargePages *l, gva_t lin)
{
    if (l->huge >> (lin >> HUGE_SHIFT & 63) & 1)
        return HUGE_SHIFT;
    return l->large[large_bit(lin) / 64] >> (large_bit(lin) % 64) & 1 ? LARGE_SHIFT : 0;
}

/* What one PCID has in the TLB; without CR4.PCIDE all is PCID 0's. Entries for global pages are in
 * each bank that has used them. */
typedef struct TlbBank {
    TlbEntry entry[MMU_MODES][TLB_SIZE];
    /* Of the entries: filled since all were cleared; not global; from a large page (mmu.c). */
    uint64_t filled[MMU_MODES][TLB_SIZE / 64], local[MMU_MODES][TLB_SIZE / 64],
        big[MMU_MODES][TLB_SIZE / 64];
    LargePages big_at; /* that had entries in big since all were cleared */
    /* Linear pages code was fetched from since map_gen last moved, hashed; and gigabytes with a
     * large page among them. INVLPG of other pages leaves map_gen as it is. */
    uint64_t exec_pages[EXEC_PAGES / 64], exec_big;
    uint64_t map_gen;  /* Tcg.map_gen while this is the current bank; no two banks have the same */
    uint64_t last_use; /* Tcg.bank_uses */
    uint16_t pcid;
    bool valid;
    bool cleared; /* an entry that is not in `filled` matches nothing; not so in zeroed memory */
} TlbBank;

typedef struct PendingExc {
    uint8_t vector;
    bool has_error, soft /* INT n, INT3, INTO */, icebp;
    /* #GP(0) for a non-canonical address, from the slow path, which does not know the segment: the
     * run loop makes it #SS(0) when the instruction's memory operand has IF_MEM and dseg SS. */
    bool noncanonical;
    uint32_t error;
    uint64_t cr2; /* #PF */
    uint64_t dr6; /* #DB: bits to set */
} PendingExc;

struct Block;
struct BlockCache;
struct VecCtx;

/* How busy the vCPU is, in ticks of the host's TSC: idle.c. */
typedef struct IdleWatch {
    uint64_t window, begun, busy;
    /* The PAUSE that a guest's kernel spins on: since when, as of when, and how often C had been
     * called for anything else. */
    struct {
        const struct Insn *at;
        uint64_t since, last, others;
    } spin;
} IdleWatch;

struct Tcg {
    uint16_t cc;      /* arithmetic flags, LAHF/SETO form */
    uint8_t mmu_mode; /* enum MmuMode of explicit accesses: from CPL, AC, CR4.SMAP */
    uint8_t cpl;      /* copy of s->cpl while running */
    bool code64;
    unsigned decode_mode;
    TlbBank *bank; /* of the current PCID */
    uint64_t bank_uses, last_gen;
    bool exec_global;  /* the page mmu_translate() last found for ACC_EXEC is global */
    bool align_check;  /* CR0.AM and EFLAGS.AC: MMU_USER entries have no read and write tags */
    uint8_t phys_bits; /* MAXPHYADDR; 0: not looked up yet */
    uint8_t ext;       /* EXT bit of selector error codes: an event is being delivered */
    Vcpu *v;
    PendingExc exc;
    const Insn *at;          /* the instruction being executed, or last executed, of a block */
    const struct Block *blk; /* being executed */
    gva_t blk_rip;           /* RIP (not linear) of its first byte */
    uint64_t insns_left;     /* until RunLimit; counts down from ~0 when there is none */
    uint64_t insns_until;    /* run() ends there: 0, but with RunLimit.chained */
    bool step;               /* of one instruction, or one iteration of a REP */
    bool stop_exc;           /* RunLimit.stop_at_exception */
    bool caller_events, careful, one_block; /* RunLimit's */
    /* Interrupts are off for the next instruction. STI sets this and s->ev.shadow_sti; MOV SS and
     * POP SS set this and s->ev.shadow_mov_ss (#DB traps wait too). The run loop clears all. */
    bool inhibit;
    bool look;      /* at Vcpu.request, before the next instruction; for translated code */
    bool flushed;   /* a tlb_flush*() or tlb_switch() since run() began */
    bool left;      /* Engine.leave() has dropped all, and nothing has been used since */
    bool ferr;      /* FERR# is asserted: an x87 exception was pending with CR0.NE clear */
    bool zmm_clean; /* bits 511:256 of ZMM0-15 are known to be zero */
    bool fp_live;   /* the guest's MXCSR is in the host's register: vec_release() */
    bool one_iter;  /* REP instructions do a single iteration and return FAULT_AGAIN (TF, steps) */
    /* Changed by every tlb_flush*(), by a switch to another PCID and by block.c: where linear
     * addresses led to, and what was decoded there, is not known any more, or not in this PCID.
     * Never 0. */
    uint64_t map_gen;
    /* What has been found in global pages is good while this stays: a change of CR3 leaves it. */
    uint64_t global_gen;
    uint64_t global_pages[EXEC_PAGES / 64], global_big; /* as TlbBank.exec_pages and exec_big */
    /* DR6 bits of data breakpoints this instruction has hit: the run loop raises #DB after it.
     * While DR7 enables any breakpoint the run loop goes instruction by instruction. */
    uint64_t trap_dr6;
    uint64_t pauses;       /* PAUSE instructions run */
    _Atomic bool ack_code; /* another vCPU has code on a page we may have been writing */
    struct BlockCache *blocks;
    struct VecCtx *vec;
    const struct Translator *translator; /* translator.h; or NULL */
    struct Jit *jit;                     /* its own; NULL: none */
    bool use_jit;                        /* this run() may run translated code */
    bool limited;                        /* this run() counts instructions */
    bool counted;                        /* so does it, in code that is joined: RunLimit.chained */
    bool log_blocks;                     /* this run() logs the blocks it enters */
    RunStops *stops;                     /* of this run(), or NULL */
    bool each_block; /* stops are looked for before each block: none is joined to another */
    bool step_over;  /* one instruction by itself: it may lie below a stop */
    uint16_t stop_at[STOPS_MAX + 2]; /* offsets in a page at which blocks are cut, and stop */
    unsigned n_stop_at;
    IdleWatch idle;
    uint8_t features[FEAT_N]; /* of the guest's CPUID, for decode() */
    bool amd;                 /* its vendor */
    char unsupported[128];    /* FAULT_UNSUPPORTED: what */
    /* Host pages, hashed, that have been given write tags in any bank, or a place in a program's
     * mirror that can be written, since the last tlb_flush(); and which lines of these are not 0.
     */
    uint64_t may_write[MAY_WRITE_BITS / 64], may_write_lines[MAY_WRITE_BITS / 512 / 64];
    /* What fill() saw last, of a large page: the page asked for; where around it host addresses go
     * on alike. `page` TLB_NONE: nothing. */
    struct {
        gva_t page, first, last;
        gpa_t gpa; /* of `page` */
    } around;
    /* Pages with code that have been written: such writes never find a tag in the TLB. By the last
     * bits of the page's number; `page` TLB_NONE: none. */
    struct CodeAt {
        gva_t page;
        gpa_t gpa;
        uint8_t *host;
        unsigned mode;
    } code_at[4];
    TlbBank banks[TLB_BANKS];
};

/* ---- flags ---- */
static inline uint64_t cc_to_flags(uint16_t cc)
{
    return (cc >> 8 & (FL_SF | FL_ZF | FL_AF | FL_PF | FL_CF)) | (uint64_t)(cc & 1) << 11;
}
static inline uint16_t flags_to_cc(uint64_t fl)
{
    return (uint16_t)((fl & (FL_SF | FL_ZF | FL_AF | FL_PF | FL_CF)) << 8 | (fl >> 11 & 1) | 0x200);
}
/* The architectural RFLAGS. */
static inline uint64_t flags_get(const CpuState *s, const Tcg *t)
{
    return (s->rflags & ~(uint64_t)FL_ARITH) | cc_to_flags(t->cc);
}
/* Sets all of RFLAGS (the caller has masked what it may change) and what hangs on it (mmu_mode). */
void flags_set(CpuState *s, Tcg *t, uint64_t rflags);

/* ---- exceptions (except.c) ---- */
static inline Fault raise_exc(Tcg *t, uint8_t vector)
{
    t->exc = (PendingExc){.vector = vector};
    return FAULT_EXC;
}
static inline Fault raise_err(Tcg *t, uint8_t vector, uint32_t error)
{
    t->exc = (PendingExc){.vector = vector, .has_error = true, .error = error};
    return FAULT_EXC;
}
#define raise_gp0(t) raise_err(t, VEC_GP, 0)
#define raise_ud(t)  raise_exc(t, VEC_UD)
Fault raise_unsupported(Tcg *t, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/*
 * Delivers t->exc as the processor would (SDM vol. 3, 6): through the IVT, a protected-mode gate, a
 * task gate or a 64-bit gate; contributory faults become #DF, then shutdown (EXIT_SHUTDOWN: returns
 * false). s->rip is that of the faulting (or, for traps and software events, the next) instruction.
 */
bool deliver_exception(CpuState *s, Tcg *t);
/* An external interrupt or NMI. May itself fault, which is then delivered. False: shutdown. */
bool deliver_interrupt(CpuState *s, Tcg *t, uint8_t vector, bool nmi);
/* INT n, INT3, INTO, INT1 from their handlers: checks and delivers with the gate's DPL rules; on a
 * fault of its own returns it with nothing committed. next_rip: of the instruction after. */
Fault software_interrupt(CpuState *s, Tcg *t, uint8_t vector, gva_t next_rip, bool icebp);

/* Zeroes a table: whole pages by giving them back to the host. */
void zero_pages(void *p, size_t bytes);

/* ---- modes ---- */
/* Recomputes cpl, code64, decode_mode, mmu_mode after CR0, EFER, CS, SS, RFLAGS or segment changes.
 */
void tcg_update_mode(CpuState *s, Tcg *t);
void tlb_flush(Tcg *t);                 /* everything */
void tlb_give_back(Tcg *t);             /* the same, and memory to the host: of other PCIDs */
void tlb_flush_non_global(Tcg *t);      /* of the current PCID: MOV to CR3 */
void tlb_flush_page(Tcg *t, gva_t lin); /* of every PCID */
/* To another PCID's bank; without keep, what is not global in it is dropped. */
void tlb_switch(Tcg *t, uint16_t pcid, bool keep);
/* All but the global entries of a PCID, which may be the current one; and of every PCID. */
void tlb_flush_pcid(Tcg *t, uint16_t pcid);
void tlb_flush_pcids(Tcg *t);
/* Blocks have gone or changed: whatever PCID, they must be looked up anew. */
void tlb_forget_code(Tcg *t);
/* Control registers with all their checks and consequences. */
Fault write_cr0(CpuState *s, Tcg *t, uint64_t v);
Fault write_cr3(CpuState *s, Tcg *t, uint64_t v);
Fault write_cr4(CpuState *s, Tcg *t, uint64_t v);

/* ---- memory (mmu.c) ---- */
/* Slow paths: page walk, fill, MMIO, page-crossing, watched code. `mode`: enum MmuMode. */
Fault mem_read_slow(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t *out);
Fault mem_write_slow(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t v);
/* As tlb_hit(), of bytes in one page, for the current privilege; walks for it. NULL: by mem_read()
 * or mem_write(), which find out again what is special. */
void *mem_host(CpuState *s, Tcg *t, gva_t lin, unsigned len, enum Access a);

/* Is a write there one to a page with code that has been written before? It finds no tag. */
bool mmu_code_written(Tcg *t, gva_t lin, unsigned mode);

/* Kernels lay things out in multiples of 4 MiB: the bits above take part. Not in bit 0: a page and
 * the one after it must never share an entry, or tlb_hit() would take an access across both for one
 * in the second. */
static inline unsigned tlb_index(gva_t lin)
{
    return (lin >> PAGE_BITS ^ (lin >> (PAGE_BITS + TLB_BITS) & ~1ull)) & (TLB_SIZE - 1);
}
static inline TlbEntry *tlb_entry(Tcg *t, unsigned mode, gva_t lin)
{
    return &t->bank->entry[mode][tlb_index(lin)];
}
static inline uint64_t *may_write_word(Tcg *t, uintptr_t host, uint64_t *bit)
{
    *bit = BIT(host >> PAGE_BITS & 63);
    return &t->may_write[host >> (PAGE_BITS + 6) & (MAY_WRITE_BITS / 64 - 1)];
}
static inline void may_write(Tcg *t, uintptr_t host)
{
    uint64_t bit, *word = may_write_word(t, host, &bit);
    unsigned line = (unsigned)(word - t->may_write) / 8;
    *word |= bit;
    t->may_write_lines[line / 64] |= BIT(line % 64);
}
/* Host pointer for `size` bytes at lin if the TLB allows it, else NULL. */
static inline void *tlb_hit(Tcg *t, unsigned mode, gva_t lin, unsigned size, enum Access a)
{
    const TlbEntry *e = tlb_entry(t, mode, lin);
    if (likely(((lin + size - 1) & PAGE_MASK) == e->tag[a]))
        return (void *)(lin + e->addend);
    return NULL;
}

#define DEF_MEM(bits, T)                                                                    \
    static inline Fault ld##bits##_m(CpuState *s, Tcg *t, gva_t lin, unsigned mode, T *out) \
    {                                                                                       \
        const void *p = tlb_hit(t, mode, lin, sizeof(T), ACC_READ);                         \
        if (likely(p != NULL)) {                                                            \
            __builtin_memcpy(out, p, sizeof(T));                                            \
            return FAULT_NONE;                                                              \
        }                                                                                   \
        uint64_t v;                                                                         \
        Fault f = mem_read_slow(s, t, lin, sizeof(T), mode, &v);                            \
        *out = (T)v;                                                                        \
        return f;                                                                           \
    }                                                                                       \
    static inline Fault st##bits##_m(CpuState *s, Tcg *t, gva_t lin, unsigned mode, T v)    \
    {                                                                                       \
        void *p = tlb_hit(t, mode, lin, sizeof(T), ACC_WRITE);                              \
        if (likely(p != NULL)) {                                                            \
            __builtin_memcpy(p, &v, sizeof(T));                                             \
            return FAULT_NONE;                                                              \
        }                                                                                   \
        return mem_write_slow(s, t, lin, sizeof(T), mode, v);                               \
    }                                                                                       \
    /* Explicit accesses at the current privilege. */                                       \
    static inline Fault ld##bits(CpuState *s, Tcg *t, gva_t lin, T *out)                    \
    {                                                                                       \
        return ld##bits##_m(s, t, lin, t->mmu_mode, out);                                   \
    }                                                                                       \
    static inline Fault st##bits(CpuState *s, Tcg *t, gva_t lin, T v)                       \
    {                                                                                       \
        return st##bits##_m(s, t, lin, t->mmu_mode, v);                                     \
    }
DEF_MEM(8, uint8_t)
DEF_MEM(16, uint16_t)
DEF_MEM(32, uint32_t)
DEF_MEM(64, uint64_t)

/* By size; value zero-extended. */
Fault mem_read(CpuState *s, Tcg *t, gva_t lin, unsigned size, uint64_t *out);
Fault mem_write(CpuState *s, Tcg *t, gva_t lin, unsigned size, uint64_t v);
/* Any length (XSAVE, descriptors): all pages are checked before a byte moves. No alignment check.
 */
Fault mem_read_bytes(CpuState *s, Tcg *t, gva_t lin, void *buf, unsigned len);
Fault mem_write_bytes(CpuState *s, Tcg *t, gva_t lin, const void *buf, unsigned len);
/* The same for operands whose alignment is checked when alignment checks are on: align is a power
 * of two. */
Fault mem_read_operand(CpuState *s, Tcg *t, gva_t lin, void *buf, unsigned len, unsigned align);
Fault mem_write_operand(CpuState *s, Tcg *t, gva_t lin, const void *buf, unsigned len,
                        unsigned align);
static inline bool mem_misaligned(const Tcg *t, gva_t lin, unsigned align, unsigned mode)
{
    return unlikely(t->align_check) && mode == MMU_USER && (lin & (align - 1));
}
/* What is asked of an operand of so many bytes, a vector's or a number's: 8 for the ten bytes of an
 * x87 register (SDM vol. 3, table 6-7), and on AMD's processors no more than 16 for YMM. */
static inline unsigned operand_align(const Tcg *t, unsigned len)
{
    return len == 10 ? 8 : len > 16 && t->amd ? 16 : len;
}
/* Faults that a write of len bytes at lin would raise; afterwards the write cannot fault. */
Fault mem_probe_write(CpuState *s, Tcg *t, gva_t lin, unsigned len);
Fault mem_probe_operand(CpuState *s, Tcg *t, gva_t lin, unsigned len, unsigned align,
                        enum Access a);
/* AMD's state images: the last byte is looked at first, and #PF has its address. */
static inline Fault mem_probe_last(CpuState *s, Tcg *t, gva_t lin, unsigned len, enum Access a)
{
    return t->amd ? mem_probe_operand(s, t, lin + len - 1, 1, 1, a) : FAULT_NONE;
}
/* Host address of a size-byte operand for a read-modify-write with a locked instruction, all faults
 * done; *host NULL when it is MMIO or crosses a page: the caller then uses mem_read and mem_write.
 */
Fault mem_rmw(CpuState *s, Tcg *t, gva_t lin, unsigned size, void **host);
/* Translation alone: physical address for an access, or the fault it would raise. */
Fault mmu_translate(CpuState *s, Tcg *t, gva_t lin, enum Access a, unsigned mode, gpa_t *gpa);
/* A page as user code may access it now, with no bit to be set in the tables first. */
typedef struct UserPage {
    const RamSlot *ram;
    gpa_t gpa;
    bool write; /* without anybody's notice: there is no code on it */
    bool big;   /* of a large page */
} UserPage;
/* lin's; false: it is not such a page, or not in RAM that can be written. */
bool mmu_user_page(Tcg *t, gva_t lin, UserPage *p);
/* The same of one that is global and not user code's. */
typedef struct KernelPage {
    UserPage at;
    bool writable; /* as the tables have it, whatever is on it */
    bool huge;     /* of one of 1 GiB */
} KernelPage;
bool mmu_kernel_page(Tcg *t, gva_t lin, KernelPage *p);
/* Debugger's view: no fault, no accessed bits; false if not mapped. */
bool mmu_debug_translate(const CpuState *s, const VmCommon *vm, gva_t lin, gpa_t *gpa);

/* ---- effective addresses (segment.c for the slow way) ---- */
/* Linear address of i's memory operand for an access of size bytes, after segment checks. */
Fault ea_slow(CpuState *s, Tcg *t, const Insn *i, unsigned size, enum Access a, gva_t *lin);
/* Offset only (LEA, and what needs it). Masked to the address size. */
static inline uint64_t ea_offset(const CpuState *s, const Insn *i)
{
    uint64_t ea = s->gpr[i->base] + (s->gpr[i->index] << i->scale) + (uint64_t)i->disp;
    return i->asize == 8 ? ea : i->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}
static inline Fault ea_lin(CpuState *s, Tcg *t, const Insn *i, unsigned size, enum Access a,
                           gva_t *lin)
{
    if (likely(i->flags & IF_FLAT)) {
        uint64_t ea = s->gpr[i->base] + (s->gpr[i->index] << i->scale) + (uint64_t)i->disp;
        *lin = i->flags & IF_CODE64 ? ea : (uint32_t)ea;
        return FAULT_NONE; /* a non-canonical address misses the TLB; the slow path raises #GP or
                              #SS */
    }
    return ea_slow(s, t, i, size, a, lin);
}
/* seg:offset to linear for implicit operands (stack, strings, XLAT): checks limit, type, canonical
 * form. */
Fault seg_lin(CpuState *s, Tcg *t, unsigned seg, uint64_t offset, unsigned size, enum Access a,
              gva_t *lin);

/* ---- stack: size 2, 4 or 8; commit RSP last ---- */
Fault stack_push(CpuState *s, Tcg *t, unsigned size, uint64_t v);
Fault stack_pop(CpuState *s, Tcg *t, unsigned size, uint64_t *v);
static inline uint64_t stack_mask(const Tcg *t)
{
    return t->code64 ? ~0ull : t->decode_mode & DM_SS32 ? 0xffffffffull : 0xffffull;
}
static inline void stack_set(CpuState *s, const Tcg *t, uint64_t rsp)
{
    uint64_t m = stack_mask(t);
    s->gpr[RSP] = m == 0xffff ? (s->gpr[RSP] & ~m) | (rsp & m) : rsp & m;
}

/* ---- segments (segment.c) ---- */
/* MOV/POP to a segment register, LDS..., not CS: all checks, accessed bit set, caches updated. */
Fault load_segment(CpuState *s, Tcg *t, unsigned seg, uint16_t selector);
/* Far transfers. next_rip is pushed, or saved in the old task. opsize 2, 4, 8. Set s->rip. */
Fault far_jump(CpuState *s, Tcg *t, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip);
Fault far_call(CpuState *s, Tcg *t, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip);
Fault far_ret(CpuState *s, Tcg *t, unsigned opsize, unsigned pop_bytes);
Fault iret(CpuState *s, Tcg *t, unsigned opsize, uint64_t next_rip);
enum TaskReason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
Fault task_switch(CpuState *s, Tcg *t, uint16_t tss_sel, enum TaskReason, bool has_err,
                  uint32_t err, uint64_t next_rip);

/* ---- RIP ---- */
static inline gva_t insn_rip(const Tcg *t, const Insn *i)
{
    return t->blk_rip + i->end - i->len;
}
static inline gva_t insn_next_rip(const CpuState *s, const Tcg *t, const Insn *i)
{
    gva_t next = t->blk_rip + i->end;
    return t->code64 ? next : t->decode_mode & DM_CS32 ? (uint32_t)next : (uint16_t)next;
}
/* Near branch: canonical or CS-limit check (#GP), then s->rip. */
static inline Fault jump_to(CpuState *s, Tcg *t, uint64_t target)
{
    if (likely(t->code64)) {
        if (unlikely((uint64_t)((int64_t)target >> 47) + 1 > 1))
            return raise_gp0(t);
    } else if (unlikely(target > s->seg[CS].limit)) {
        return raise_gp0(t);
    }
    s->rip = target;
    return FAULT_JUMP;
}

/* ---- blocks (block.c) ---- */
/*
 * Code pages. A page that any vCPU has decoded code from must not get a write tag in any TLB: mmu.c
 * asks blocks_page_has_code() when it fills one (gpa: anywhere in the page), and the slow path
 * calls blocks_invalidate() AFTER each write of [gpa, gpa + len) (not crossing a page) to such a
 * page. Handlers that write through mem_rmw()'s pointer: mem_rmw() itself calls it (before the
 * write is early enough only there, because the block is looked up again after the instruction).
 */
bool blocks_page_has_code(const Tcg *t, gpa_t gpa);
void blocks_invalidate(Tcg *t, gpa_t gpa, unsigned len);
/* The vCPU ran elsewhere: blocks must be checked against memory before they run again. */
void blocks_distrust(Tcg *t);

/* ---- vector and x87 (vec.c, x87.c) ---- */
bool vec_init(Tcg *t, GError **err);
void vec_free(Tcg *t);
/* Before code of the host runs that may use floating point (devices): its MXCSR again. */
void vec_release_slow(Tcg *t);
static inline void vec_release(Tcg *t)
{
    if (unlikely(t->fp_live))
        vec_release_slow(t);
}
/* Called by the block builder after decode() of a row with A_SSE, A_AVX or A_MMX: makes i->aux, the
 * native form of the row. bytes: the i->len bytes of the instruction, prefixes first; i->op_at,
 * i->pfx, i->rexw, i->vexl and i->modrm tell where things are. False: cannot be done. */
bool vec_prepare(Tcg *t, Insn *i, const uint8_t *bytes);

#endif
