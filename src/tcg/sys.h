/* Shared by the files of protection and privilege: segment.c, far.c, except.c, task.c, exec_sys*.c.
 */
#ifndef TANDEM_TCG_SYS_H
#define TANDEM_TCG_SYS_H

#include <string.h>
#include "tcg/tcg.h"

/* ---- mmu.c ---- */
Fault mem_read_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t *out);
Fault mem_write_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, uint64_t v);
Fault mem_rmw_mode(CpuState *s, Tcg *t, gva_t lin, unsigned size, unsigned mode, void **host);
/* Canonical for what CR4.LA57 says. */
static inline bool canonical(const CpuState *s, uint64_t lin)
{
    unsigned top = s->cr4 & CR4_LA57 ? 56 : 47;
    return (uint64_t)((int64_t)lin >> top) + 1 <= 1;
}

/* MAXPHYADDR of the guest. */
static inline unsigned phys_bits(Tcg *t)
{
    if (unlikely(!t->phys_bits))
        t->phys_bits = (uint8_t)MIN_OF(MAX_OF(cpuid_phys_bits(t->v->vm->cpuid), 32u), 52u);
    return t->phys_bits;
}

/* ---- modes ---- */
static inline bool mode_real(const CpuState *s)
{
    return !(s->cr0 & CR0_PE);
}
static inline bool mode_vm86(const CpuState *s)
{
    return (s->cr0 & CR0_PE) && (s->rflags & FL_VM);
}
static inline bool mode_prot(const CpuState *s) /* not vm86 */
{
    return (s->cr0 & CR0_PE) && !(s->rflags & FL_VM);
}
static inline unsigned iopl(const CpuState *s)
{
    return (unsigned)(s->rflags >> FL_IOPL_SHIFT & 3);
}
/* mmu_mode, align_check from cpl, RFLAGS, CR0 and CR4. */
void update_access_mode(CpuState *s, Tcg *t);
/* The PDPTE registers from the table cr3 points to; #GP(0) if one has reserved bits set. */
Fault load_pdptes(CpuState *s, Tcg *t, uint64_t cr3);

/* ---- descriptors (segment.c): SDM vol. 3, 3.4 and 5.2 ---- */
typedef struct Desc {
    gva_t at; /* linear address of its first byte */
    uint32_t lo, hi;
    uint32_t up;   /* third dword of a 16-byte one, else 0 */
    uint32_t attr; /* as Segment.attr */
} Desc;

enum { /* system types; the 16-bit ones do not exist in IA-32e mode */
       TYPE_TSS16 = 1,
       TYPE_LDT = 2,
       TYPE_CALL16 = 4,
       TYPE_TASK = 5,
       TYPE_INT16 = 6,
       TYPE_TRAP16 = 7,
       TYPE_TSS = 9,
       TYPE_TSS_BUSY = 11,
       TYPE_CALL = 12,
       TYPE_INT = 14,
       TYPE_TRAP = 15,
};

static inline unsigned attr_dpl(uint32_t attr)
{
    return attr >> SEG_DPL_SHIFT & 3;
}
static inline bool attr_is_code(uint32_t attr)
{
    return (attr & (SEG_S | SEG_CODE)) == (SEG_S | SEG_CODE);
}
static inline bool attr_is_writable(uint32_t attr)
{
    return (attr & (SEG_S | SEG_CODE | SEG_WRITABLE)) == (SEG_S | SEG_WRITABLE);
}
static inline bool sel_null(uint16_t sel)
{
    return !(sel & 0xfffc);
}
/* Exception with a selector as its error code. */
static inline Fault raise_sel(Tcg *t, uint8_t vector, uint16_t sel)
{
    return raise_err(t, vector, (sel & 0xfffcu) | t->ext);
}

/* The descriptor of a non-null selector; `vector` with the selector if it is beyond its table. In
 * IA-32e mode system descriptors have 16 bytes; sys_desc_read() reads those and checks them. */
Fault desc_read(CpuState *s, Tcg *t, uint16_t sel, uint8_t vector, Desc *d);
Fault sys_desc_read(CpuState *s, Tcg *t, uint16_t sel, uint8_t vector, Desc *d);
/* Sets bits of the descriptor's type in memory, as one locked access. */
Fault desc_set_type(CpuState *s, Tcg *t, Desc *d, uint8_t set, uint8_t clear);
static inline Fault desc_set_accessed(CpuState *s, Tcg *t, Desc *d)
{
    return d->attr & SEG_ACCESSED ? FAULT_NONE : desc_set_type(s, t, d, SEG_ACCESSED, 0);
}
/* As a loaded segment register. */
Segment desc_segment(const Desc *d, uint16_t sel);
static inline Segment null_segment(uint16_t sel, unsigned dpl)
{
    return (Segment){.selector = sel, .attr = SEG_UNUSABLE | dpl << SEG_DPL_SHIFT};
}
/* Segment register load of real mode and vm86: base from the selector, the rest stays. */
void load_segment_real(CpuState *s, unsigned seg, uint16_t sel);
/* SS for a stack at privilege `cpl`. vector, and #SS when not present. */
Fault check_ss(CpuState *s, Tcg *t, uint16_t sel, unsigned cpl, uint8_t vector, Desc *d);
/* ES, DS, FS or GS in protected mode: vector is #GP, or #TS in a task switch. */
Fault load_data(CpuState *s, Tcg *t, unsigned seg, uint16_t sel, uint8_t vector);
/* ES, DS, FS, GS that the (outer) privilege may not hold become null. */
static inline void drop_inner_segments(CpuState *s, unsigned cpl)
{
    static const uint8_t which[4] = {ES, DS, FS, GS};
    for (unsigned k = 0; k < 4; k++) {
        Segment *g = &s->seg[which[k]];
        bool conforming = (g->attr & (SEG_CODE | SEG_CONFORMING)) == (SEG_CODE | SEG_CONFORMING);
        if (sel_null(g->selector))
            g->selector = 0; /* loses its RPL; the base stays */
        else if (!conforming && attr_dpl(g->attr) < cpl)
            *g = null_segment(0, 0);
    }
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT ---- */
enum { FLAT_CODE = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G };
enum { FLAT_DATA = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_G | SEG_DB };

/* CS and SS as SYSCALL and its like load them: no descriptor is read. */
static inline void flat_segments(CpuState *s, uint64_t cs, uint64_t ss, unsigned cpl, bool code64)
{
    uint32_t dpl = cpl << SEG_DPL_SHIFT;
    s->seg[CS] = (Segment){.limit = 0xffffffff,
                           .attr = FLAT_CODE | dpl | (code64 ? SEG_L : SEG_DB),
                           .selector = (uint16_t)((cs & 0xfffc) | cpl)};
    s->seg[SS] = (Segment){
        .limit = 0xffffffff, .attr = FLAT_DATA | dpl, .selector = (uint16_t)((ss & 0xfffc) | cpl)};
}
#define SYSRET_FLAGS 0x3c7fd7 /* of R11 */

/* ---- a stack other than, or not yet, the current one ---- */
typedef struct Stack {
    Segment ss;
    uint64_t sp, mask;
    bool flat; /* 64-bit: no base, no limit */
    uint8_t mode;
    uint16_t err; /* of #SS */
} Stack;
Stack stack_current(const CpuState *s, const Tcg *t);
Fault stk_push(CpuState *s, Tcg *t, Stack *k, unsigned size, uint64_t v);
Fault stk_pop(CpuState *s, Tcg *t, Stack *k, unsigned size, uint64_t *v);

/* ---- inner stacks and gates (far.c) ---- */
/* The stack of privilege dpl from the TSS, checked; `flat` in IA-32e mode. ist: 1-7, or 0. */
Fault inner_stack(CpuState *s, Tcg *t, unsigned dpl, unsigned ist, Stack *k);
/* Puts the stack in: SS, RSP. After CS, before tcg_update_mode(). */
void commit_stack(CpuState *s, const Stack *k);
/* Code segment and offset of a transfer that has been checked. */
void commit_code(CpuState *s, const Desc *d, uint16_t sel, unsigned cpl, uint64_t rip);
/* rip against the target's limit or canonical form: #GP(ext). */
Fault check_target(CpuState *s, Tcg *t, const Desc *d, uint64_t rip);
/* RFLAGS bits that POPF and IRET may change at this privilege. */
uint64_t popf_mask(const CpuState *s, const Tcg *t, unsigned opsize);

/* ---- except.c ---- */
/* Delivers t->exc, a fault of a task just switched to, from inside the instruction that switched:
 * s->rip is the new task's already. FAULT_JUMP; or FAULT_EXC with s->ev.triple_fault set, which
 * deliver_exception() turns into the shutdown it is. */
Fault deliver_in_new_task(CpuState *s, Tcg *t);
/* INT n in vm86 with CR4.VME: delivers through the 8086 vector table when the TSS's redirection
 * bitmap says so (*redirected, FAULT_JUMP). */
Fault vm86_redirect(CpuState *s, Tcg *t, uint8_t vector, gva_t next_rip, bool *redirected);

/* ---- task.c ---- */
/* As task_switch(), but *committed tells whether a FAULT_EXC belongs to the new task already. */
Fault task_switch_raw(CpuState *s, Tcg *t, uint16_t sel, enum TaskReason why, bool has_err,
                      uint32_t err, uint64_t next_rip, bool *committed);

/* ---- exec_io.c ---- */
/* May this privilege use the ports? #GP(0) if not. */
Fault io_allowed(CpuState *s, Tcg *t, uint16_t port, unsigned size);

/* ---- operands ---- */
/* A word from register or memory. */
static inline Fault read_ew(CpuState *s, Tcg *t, const Insn *i, uint16_t *v)
{
    gva_t lin;
    if (!(i->flags & IF_MEM)) {
        *v = (uint16_t)s->gpr[i->rm];
        return FAULT_NONE;
    }
    Fault f = ea_lin(s, t, i, 2, ACC_READ, &lin);
    return f ? f : ld16(s, t, lin, v);
}
/* SGDT, SIDT, SLDT, STR, SMSW outside CPL 0. */
static inline Fault umip_check(CpuState *s, Tcg *t)
{
    return (s->cr4 & CR4_UMIP) && t->cpl ? raise_gp0(t) : FAULT_NONE;
}

/* ---- msr.c ---- */
bool msr_read(CpuState *s, Tcg *t, uint32_t index, uint64_t *v);
bool msr_write(CpuState *s, Tcg *t, uint32_t index, uint64_t v); /* false: #GP(0) */

#endif
