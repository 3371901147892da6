/* Segments, far transfers, gates, privilege changes, double faults, task switches, ports: called
 * directly, the outcome compared with what SDM vol. 2 and 3 say. */
#include "sys_guest.h"
#include "run_suite.h"

#define GDT      0x1000ull
#define LDT_BASE 0x2000ull
#define IDT      0x3000ull
#define TSS_BASE 0x4000ull
#define TSS2     0x5000ull
#define STACK0   0x8000ull /* privilege 0, from the TSS */
#define STACK    0x9000ull /* in use */

/* GDT */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18 | 3,
    DATA3 = 0x20 | 3,
    CONF0 = 0x28, /* conforming */
    CODE64 = 0x30,
    CODE64_3 = 0x38 | 3,
    ABSENT_DATA0 = 0x40,
    ABSENT_CODE0 = 0x48,
    XO_CODE0 = 0x50, /* execute-only */
    RO_DATA0 = 0x58,
    TSS_A = 0x60, /* 16 bytes in IA-32e mode */
    TSS_B = 0x70,
    LDT_SEL = 0x80,
    GATE3 = 0x90,  /* call gate, DPL 3, to CODE0 */
    GATE0 = 0xa0,  /* call gate, DPL 0 */
    TASK_G = 0xb0, /* task gate to TSS_B */
    SMALL0 = 0xb8, /* expand-up data, limit 0xff */
    DOWN0 = 0xc0,  /* expand-down data, limit 0xfff */
    GDT_END = 0x100
};

static uint64_t desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
           (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(uint16_t sel, uint32_t off, unsigned access, unsigned params)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)access << 40 |
           (uint64_t)(off >> 16) << 48;
}

static void set_idt(unsigned vector, uint64_t v)
{
    bool lma = S->efer & EFER_LMA;
    ram_put(IDT + vector * (lma ? 16 : 8), v, 8);
}

static void load_cs_ss(uint16_t cs, uint16_t ss, bool code64)
{
    Desc d;
    uint8_t ext = T->ext;
    T->cpl = 0;
    ck_assert_int_eq(desc_read(S, T, cs, VEC_GP, &d), FAULT_NONE);
    S->seg[CS] = desc_segment(&d, cs);
    ck_assert_int_eq(desc_read(S, T, ss, VEC_GP, &d), FAULT_NONE);
    S->seg[SS] = desc_segment(&d, ss);
    T->ext = ext;
    tcg_update_mode(S, T);
    ck_assert_int_eq(T->code64, code64);
}

static void tables(void)
{
    static const struct {
        uint16_t sel;
        uint32_t base, limit;
        uint8_t access, flags;
    } d[] = {
        {CODE0, 0, 0xfffff, 0x9b, 0xc},        {DATA0, 0, 0xfffff, 0x93, 0xc},
        {CODE3, 0, 0xfffff, 0xfb, 0xc},        {DATA3, 0, 0xfffff, 0xf3, 0xc},
        {CONF0, 0, 0xfffff, 0x9f, 0xc},        {CODE64, 0, 0xfffff, 0x9b, 0xa},
        {CODE64_3, 0, 0xfffff, 0xfb, 0xa},     {ABSENT_DATA0, 0, 0xfffff, 0x13, 0xc},
        {ABSENT_CODE0, 0, 0xfffff, 0x1b, 0xc}, {XO_CODE0, 0, 0xfffff, 0x98, 0xc},
        {RO_DATA0, 0, 0xfffff, 0x90, 0xc},     {TSS_A, TSS_BASE, 0x1ff, 0x8b, 0},
        {TSS_B, TSS2, 0x67, 0x89, 0},          {LDT_SEL, LDT_BASE, 0xff, 0x82, 0},
        {SMALL0, 0x100, 0xff, 0x92, 4},        {DOWN0, 0, 0xfff, 0x96, 4},
    };
    for (unsigned k = 0; k < ARRAY_LEN(d); k++)
        ram_put(GDT + (d[k].sel & ~7u), desc(d[k].base, d[k].limit, d[k].access, d[k].flags), 8);
    ram_put(GDT + TASK_G, gate(TSS_B, 0, 0xe5, 0), 8);
    S->gdt = (DescTable){GDT, GDT_END - 1};
    S->idt = (DescTable){IDT, 0x1ff};
    for (unsigned k = 0; k < SEG_N; k++)
        S->seg[k] = null_segment(0, 0);
    S->seg[TR] = (Segment){.base = TSS_BASE, .limit = 0x1ff, .attr = 0x8b, .selector = TSS_A};
    S->rip = 0x7000;
    S->gpr[RSP] = STACK;
}

/* Protected mode, no paging. */
static void prot(unsigned cpl)
{
    sys_reset();
    S->cr0 = CR0_PE | CR0_ET;
    tables();
    ram_put(GDT + GATE3, gate(CODE0, 0x1234, 0xec, 1), 8);
    ram_put(GDT + GATE0, gate(CODE0, 0x1234, 0x8c, 0), 8);
    ram_put(TSS_BASE + 4, STACK0, 4);
    ram_put(TSS_BASE + 8, DATA0, 2);
    load_cs_ss(cpl ? CODE3 : CODE0, cpl ? DATA3 : DATA0, false);
    ck_assert_uint_eq(T->cpl, cpl);
}

/* Long mode: 1 GiB mapped to itself by one large page. */
static void lmode(unsigned cpl)
{
    sys_reset();
    S->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_WP;
    S->cr4 = CR4_PAE;
    S->efer = EFER_LME | EFER_LMA | EFER_SCE;
    S->cr3 = 0x10000;
    ram_put(0x10000, 0x11007, 8);
    ram_put(0x11000, 0x87, 8);
    tables();
    ram_put(GDT + GATE3, gate(CODE64, 0x1234, 0xec, 0), 8);
    ram_put(GDT + GATE3 + 8, 0, 8);
    ram_put(TSS_BASE + 4, STACK0, 8);
    load_cs_ss(cpl ? CODE64_3 : CODE64, cpl ? DATA3 : DATA0, true);
    tlb_flush(T);
}

#define ck_fault(f, vec, err)                                                         \
    do {                                                                              \
        ck_assert_int_eq(f, FAULT_EXC);                                               \
        ck_assert_msg(T->exc.vector == (vec) && T->exc.error == (uint32_t)(err),      \
                      "vector %u error %#x, not %u %#x", T->exc.vector, T->exc.error, \
                      (unsigned)(vec), (unsigned)(err));                              \
    } while (0)

static uint64_t pushed(unsigned n, unsigned size)
{
    return ram_get((S->seg[SS].base + S->gpr[RSP]) + n * size, size);
}

/* ---- segments ---- */

static const struct {
    const char *name;
    unsigned cpl, seg;
    uint16_t sel;
    uint8_t vector; /* 0: loads */
    uint16_t error;
} loads[] = {
    {"data", 0, DS, DATA0, 0, 0},
    {"null data", 0, DS, 0, 0, 0},
    {"null with RPL", 3, ES, 3, 0, 0},
    {"user data from kernel", 0, DS, DATA3, 0, 0},
    {"kernel data from user", 3, DS, DATA0, VEC_GP, DATA0},
    {"RPL above DPL", 0, DS, DATA0 | 3, VEC_GP, DATA0},
    {"readable code", 0, ES, CODE0, 0, 0},
    {"conforming code from user", 3, ES, CONF0, 0, 0},
    {"execute-only code", 0, DS, XO_CODE0, VEC_GP, XO_CODE0},
    {"system descriptor", 0, DS, LDT_SEL, VEC_GP, LDT_SEL},
    {"beyond the GDT", 0, DS, 0x100, VEC_GP, 0x100},
    {"no LDT", 0, DS, 0x0c, VEC_GP, 0x0c},
    {"absent data", 0, FS, ABSENT_DATA0, VEC_NP, ABSENT_DATA0},
    {"SS", 0, SS, DATA0, 0, 0},
    {"SS null", 0, SS, 0, VEC_GP, 0},
    {"SS of other DPL", 0, SS, DATA3, VEC_GP, DATA3 & ~3},
    {"SS read-only", 0, SS, RO_DATA0, VEC_GP, RO_DATA0},
    {"SS code", 0, SS, CODE0, VEC_GP, CODE0},
    {"SS absent", 0, SS, ABSENT_DATA0, VEC_SS, ABSENT_DATA0},
};

START_TEST(segment_loads)
{
    for (unsigned k = 0; k < ARRAY_LEN(loads); k++) {
        prot(loads[k].cpl);
        Segment before = S->seg[loads[k].seg];
        Fault f = load_segment(S, T, loads[k].seg, loads[k].sel);
        ck_assert_msg((f == FAULT_EXC) == (loads[k].vector != 0), "%s", loads[k].name);
        if (f) {
            ck_assert_msg(T->exc.vector == loads[k].vector && T->exc.error == loads[k].error,
                          "%s: %u %#x", loads[k].name, T->exc.vector, T->exc.error);
            ck_assert_mem_eq(&before, &S->seg[loads[k].seg], sizeof(before));
        } else {
            ck_assert_uint_eq(S->seg[loads[k].seg].selector, loads[k].sel);
            bool null = sel_null(loads[k].sel);
            ck_assert_int_eq(!!(S->seg[loads[k].seg].attr & SEG_UNUSABLE), null);
            ck_assert(!null || S->seg[loads[k].seg].base == 0); /* null-sel-clr-base */
        }
    }
}
END_TEST

START_TEST(accessed_bit)
{
    prot(0);
    ck_assert_int_eq(load_segment(S, T, DS, SMALL0), FAULT_NONE);
    ck_assert_uint_eq(ram_get(GDT + SMALL0 + 5, 1), 0x93);
    ck_assert_uint_eq(S->seg[DS].attr & SEG_TYPE, 3);
    ck_assert_uint_eq(S->seg[DS].limit, 0xff);
    ck_assert_uint_eq(S->seg[DS].base, 0x100);
}
END_TEST

START_TEST(limits)
{
    gva_t lin;
    prot(0);
    load_segment(S, T, DS, SMALL0);
    ck_assert_int_eq(seg_lin(S, T, DS, 0xfc, 4, ACC_READ, &lin), FAULT_NONE);
    ck_assert_uint_eq(lin, 0x1fc);
    ck_fault(seg_lin(S, T, DS, 0xfd, 4, ACC_READ, &lin), VEC_GP, 0);
    ck_fault(seg_lin(S, T, DS, 0xffffffff, 1, ACC_READ, &lin), VEC_GP, 0);
    load_segment(S, T, DS, DOWN0);
    ck_fault(seg_lin(S, T, DS, 0xfff, 1, ACC_READ, &lin), VEC_GP, 0);
    ck_assert_int_eq(seg_lin(S, T, DS, 0x1000, 4, ACC_WRITE, &lin), FAULT_NONE);
    ck_fault(seg_lin(S, T, DS, 0xfffffffe, 4, ACC_READ, &lin), VEC_GP, 0);
    load_segment(S, T, DS, RO_DATA0);
    ck_assert_int_eq(seg_lin(S, T, DS, 0, 4, ACC_READ, &lin), FAULT_NONE);
    ck_fault(seg_lin(S, T, DS, 0, 4, ACC_WRITE, &lin), VEC_GP, 0);
    load_segment(S, T, DS, 0);
    ck_fault(seg_lin(S, T, DS, 0, 1, ACC_READ, &lin), VEC_GP, 0);
    ck_fault(seg_lin(S, T, CS, 0, 1, ACC_WRITE, &lin), VEC_GP, 0);
    load_segment(S, T, SS, SMALL0);
    ck_fault(seg_lin(S, T, SS, 0x100, 1, ACC_READ, &lin), VEC_SS, 0);
}
END_TEST

START_TEST(long_mode_addresses)
{
    gva_t lin;
    lmode(0);
    load_segment(S, T, DS, 0); /* null counts for nothing here */
    S->seg[FS].base = 0xffff800000000000ull;
    ck_assert_int_eq(seg_lin(S, T, DS, 0x10, 4, ACC_WRITE, &lin), FAULT_NONE);
    ck_assert_int_eq(seg_lin(S, T, FS, 0x10, 4, ACC_WRITE, &lin), FAULT_NONE);
    ck_assert_uint_eq(lin, 0xffff800000000010ull);
    ck_fault(seg_lin(S, T, DS, 0x7ffffffffffeull, 4, ACC_READ, &lin), VEC_GP, 0);
    ck_fault(seg_lin(S, T, SS, 0x800000000000ull, 8, ACC_READ, &lin), VEC_SS, 0);
    ck_assert_int_eq(load_segment(S, T, SS, 0), FAULT_NONE);
    ck_assert_uint_eq(T->cpl, 0);
    lmode(3);
    ck_fault(load_segment(S, T, SS, 0), VEC_GP, 0);
}
END_TEST

/* ---- far transfers ---- */

static const struct {
    const char *name;
    unsigned cpl;
    uint16_t sel;
    uint8_t vector;
    uint16_t error;
} jumps[] = {
    {"same privilege", 0, CODE0, 0, 0},
    {"null", 0, 0, VEC_GP, 0},
    {"data", 0, DATA0, VEC_GP, DATA0},
    {"inner code from user", 3, CODE0 | 3, VEC_GP, CODE0},
    {"outer code", 0, CODE3, VEC_GP, CODE3 & ~3},
    {"conforming from user", 3, CONF0 | 3, 0, 0},
    {"absent", 0, ABSENT_CODE0, VEC_NP, ABSENT_CODE0},
    {"gate out of reach", 3, GATE0 | 3, VEC_GP, GATE0},
    {"gate to more privilege", 3, GATE3 | 3, VEC_GP, CODE0},
    {"gate at privilege 0", 0, GATE0, 0, 0},
    {"busy TSS", 0, TSS_A, VEC_GP, TSS_A},
    {"LDT", 0, LDT_SEL, VEC_GP, LDT_SEL},
};

START_TEST(far_jumps)
{
    for (unsigned k = 0; k < ARRAY_LEN(jumps); k++) {
        prot(jumps[k].cpl);
        Fault f = far_jump(S, T, jumps[k].sel, 0x1234, 4, 0x7005);
        ck_assert_msg((f == FAULT_EXC) == (jumps[k].vector != 0), "%s", jumps[k].name);
        if (f == FAULT_EXC) {
            ck_assert_msg(T->exc.vector == jumps[k].vector && T->exc.error == jumps[k].error,
                          "%s: %u %#x", jumps[k].name, T->exc.vector, T->exc.error);
            ck_assert_uint_eq(S->rip, 0x7000);
        } else {
            ck_assert_uint_eq(S->rip, 0x1234);
            ck_assert_uint_eq(T->cpl, jumps[k].cpl);
            ck_assert_uint_eq(S->seg[CS].selector & 3u, jumps[k].cpl);
        }
    }
}
END_TEST

START_TEST(call_gate_inner)
{
    prot(3);
    ram_put(STACK, 0xcafe, 4); /* the one parameter */
    ck_assert_int_eq(far_call(S, T, GATE3 | 3, 0, 4, 0x7005), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 0);
    ck_assert_uint_eq(S->rip, 0x1234);
    ck_assert_uint_eq(S->seg[SS].selector, DATA0);
    ck_assert_uint_eq(S->gpr[RSP], STACK0 - 20);
    ck_assert_uint_eq(pushed(0, 4), 0x7005);
    ck_assert_uint_eq(pushed(1, 4), CODE3);
    ck_assert_uint_eq(pushed(2, 4), 0xcafe);
    ck_assert_uint_eq(pushed(3, 4), STACK);
    ck_assert_uint_eq(pushed(4, 4), DATA3);
    /* And back: segments of the inner ring are taken away. */
    load_segment(S, T, DS, DATA0);
    load_segment(S, T, ES, DATA3);
    load_segment(S, T, FS, 3);
    S->seg[FS].base = 0x5678;
    ck_assert_int_eq(far_ret(S, T, 4, 4), FAULT_JUMP);
    ck_assert_uint_eq(S->seg[FS].selector, 0); /* null loses its RPL, and nothing else */
    ck_assert_uint_eq(S->seg[FS].base, 0x5678);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert_uint_eq(S->rip, 0x7005);
    ck_assert_uint_eq(S->gpr[RSP], STACK + 4);
    ck_assert(S->seg[DS].attr & SEG_UNUSABLE);
    ck_assert_uint_eq(S->seg[ES].selector, DATA3);
}
END_TEST

START_TEST(call_gate_bad_stack)
{
    prot(3);
    ram_put(TSS_BASE + 8, DATA3, 2);
    ck_fault(far_call(S, T, GATE3 | 3, 0, 4, 0x7005), VEC_TS, DATA3 & ~3);
    ram_put(TSS_BASE + 8, ABSENT_DATA0, 2);
    ck_fault(far_call(S, T, GATE3 | 3, 0, 4, 0x7005), VEC_SS, ABSENT_DATA0);
    ram_put(TSS_BASE + 8, 0, 2);
    ck_fault(far_call(S, T, GATE3 | 3, 0, 4, 0x7005), VEC_TS, 0);
    S->seg[TR].limit = 8;
    ck_fault(far_call(S, T, GATE3 | 3, 0, 4, 0x7005), VEC_TS, TSS_A);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert_uint_eq(S->gpr[RSP], STACK);
}
END_TEST

START_TEST(long_call_gate)
{
    lmode(3);
    S->gpr[RSP] = STACK;
    ck_assert_int_eq(far_call(S, T, GATE3 | 3, 0, 8, 0x7005), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 0);
    ck_assert_uint_eq(S->gpr[RSP], STACK0 - 32);
    ck_assert_uint_eq(pushed(1, 8), CODE64_3);
    ck_assert_uint_eq(pushed(3, 8), DATA3);
    ck_assert(S->seg[SS].attr & SEG_UNUSABLE);
    ck_assert_int_eq(far_ret(S, T, 8, 0), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert_uint_eq(S->gpr[RSP], STACK);
    ck_fault(far_call(S, T, GATE3 + 0x10, 0, 8, 0), VEC_GP, GATE3 + 0x10);
}
END_TEST

START_TEST(real_mode_transfers)
{
    sys_reset();
    S->gpr[RSP] = 0x12340100;
    S->seg[CS].base = 0xf0000;
    ck_assert_int_eq(far_call(S, T, 0x2000, 0x10, 2, 0x33), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x10);
    ck_assert_uint_eq(S->seg[CS].base, 0x20000);
    ck_assert_uint_eq(S->gpr[RSP], 0x123400fc);
    ck_assert_uint_eq(ram_get(0xfc, 4), 0xf0000033);
    ck_fault(far_jump(S, T, 0x2000, 0x10000, 4, 0), VEC_GP, 0);
    ck_assert_int_eq(far_ret(S, T, 2, 6), FAULT_JUMP);
    ck_assert_uint_eq(S->gpr[RSP], 0x12340106);
    ck_assert_uint_eq(S->rip, 0x33);
    ck_assert_uint_eq(S->seg[CS].base, 0xf0000);
}
END_TEST

/* ---- exceptions ---- */

static bool raise_and_deliver(uint8_t vector, bool has_error, uint32_t error)
{
    T->exc = (PendingExc){.vector = vector, .has_error = has_error, .error = error};
    return deliver_exception(S, T);
}

START_TEST(protected_gates)
{
    prot(0);
    set_idt(VEC_GP, gate(CODE0, 0x4444, 0x8e, 0));
    flags_set(S, T, FL_FIXED | FL_IF | FL_TF | FL_NT | FL_CF);
    ck_assert(raise_and_deliver(VEC_GP, true, 0x1234));
    ck_assert_uint_eq(S->rip, 0x4444);
    ck_assert_uint_eq(S->gpr[RSP], STACK - 16);
    ck_assert_uint_eq(pushed(0, 4), 0x1234);
    ck_assert_uint_eq(pushed(1, 4), 0x7000);
    ck_assert_uint_eq(pushed(2, 4), CODE0);
    ck_assert_uint_eq(pushed(3, 4), FL_FIXED | FL_IF | FL_TF | FL_NT | FL_CF | FL_RF);
    ck_assert_uint_eq(flags_get(S, T), FL_FIXED | FL_CF);
    /* A trap gate leaves IF; a trap does not set RF; from user, the stack changes. */
    prot(3);
    set_idt(VEC_BP, gate(CODE0, 0x4444, 0xef, 0));
    flags_set(S, T, FL_FIXED | FL_IF);
    ck_assert_int_eq(software_interrupt(S, T, VEC_BP, 0x7001, false), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 0);
    ck_assert_uint_eq(S->gpr[RSP], STACK0 - 20);
    ck_assert_uint_eq(pushed(0, 4), 0x7001);
    ck_assert_uint_eq(pushed(2, 4), FL_FIXED | FL_IF);
    ck_assert_uint_eq(pushed(3, 4), STACK);
    ck_assert_uint_eq(pushed(4, 4), DATA3);
    ck_assert_uint_eq(flags_get(S, T), FL_FIXED | FL_IF);
    ck_assert_int_eq(iret(S, T, 4, 0), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert_uint_eq(S->rip, 0x7001);
    ck_assert_uint_eq(S->gpr[RSP], STACK);
}
END_TEST

START_TEST(gate_faults)
{
    prot(3);
    ck_fault(software_interrupt(S, T, 0x80, 0, false), VEC_GP, 0x80 * 8 + 2); /* beyond the IDT */
    set_idt(0x20, gate(CODE0, 0, 0x8e, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, 0x102); /* DPL */
    set_idt(0x20, gate(CODE0, 0, 0x6e, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_NP, 0x102);
    set_idt(0x20, gate(CODE0, 0, 0xe9, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, 0x102); /* type */
    set_idt(0x20, gate(0, 0, 0xee, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, 0);
    set_idt(0x20, gate(DATA0, 0, 0xee, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, DATA0);
    set_idt(0x20, gate(ABSENT_CODE0, 0, 0xee, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_NP, ABSENT_CODE0);
    ck_assert_uint_eq(S->gpr[RSP], STACK);
    /* A hardware event does not mind DPL, and its errors carry EXT. */
    set_idt(0x20, gate(ABSENT_CODE0, 0, 0x8e, 0));
    set_idt(VEC_NP, gate(CODE0, 0x5555, 0x8e, 0));
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(S->rip, 0x5555);
    ck_assert_uint_eq(pushed(0, 4), ABSENT_CODE0 | 1);
}
END_TEST

START_TEST(double_and_triple_faults)
{
    prot(0);
    /* #GP whose gate is not there: #DF, error code 0. */
    set_idt(VEC_DF, gate(CODE0, 0x6666, 0x8e, 0));
    ck_assert(raise_and_deliver(VEC_GP, true, 0));
    ck_assert_uint_eq(S->rip, 0x6666);
    ck_assert_uint_eq(pushed(0, 4), 0);
    /* #UD is benign: the #NP from its delivery is delivered itself. */
    prot(0);
    set_idt(VEC_UD, gate(CODE0, 0, 0x0e, 0));
    set_idt(VEC_NP, gate(CODE0, 0x5555, 0x8e, 0));
    ck_assert(raise_and_deliver(VEC_UD, false, 0));
    ck_assert_uint_eq(S->rip, 0x5555);
    ck_assert_uint_eq(pushed(0, 4), VEC_UD * 8 + 2 + 1);
    /* #PF then #NP: double. */
    prot(0);
    set_idt(VEC_PF, gate(CODE0, 0, 0x0e, 0));
    set_idt(VEC_DF, gate(CODE0, 0x6666, 0x8e, 0));
    ck_assert(raise_and_deliver(VEC_PF, true, 2));
    ck_assert_uint_eq(S->rip, 0x6666);
    /* No gate for that either. */
    prot(0);
    ck_assert(!raise_and_deliver(VEC_GP, true, 0));
    prot(0);
    S->idt.limit = 0;
    ck_assert(!deliver_interrupt(S, T, 0x20, false));
}
END_TEST

START_TEST(page_fault_sets_cr2)
{
    lmode(0);
    set_idt(VEC_PF, gate(CODE64, 0x4444, 0x8e, 0));
    T->exc = (PendingExc){.vector = VEC_PF, .has_error = true, .error = 6, .cr2 = 0xdead000};
    ck_assert(deliver_exception(S, T));
    ck_assert_uint_eq(S->cr2, 0xdead000);
    ck_assert_uint_eq(pushed(0, 8), 6);
}
END_TEST

START_TEST(long_mode_gates)
{
    lmode(3);
    S->gpr[RSP] = STACK + 5; /* any alignment */
    set_idt(0x20, gate(CODE64, 0x4444, 0x8e, 0));
    ram_put(IDT + 0x20 * 16 + 8, 0, 8);
    flags_set(S, T, FL_FIXED | FL_IF);
    S->idt.limit = 0xfff;
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(T->cpl, 0);
    ck_assert(T->code64);
    ck_assert_uint_eq(S->gpr[RSP], STACK0 - 40);
    ck_assert_uint_eq(pushed(0, 8), 0x7000);
    ck_assert_uint_eq(pushed(1, 8), CODE64_3);
    ck_assert_uint_eq(pushed(2, 8), FL_FIXED | FL_IF);
    ck_assert_uint_eq(pushed(3, 8), STACK + 5);
    ck_assert_uint_eq(pushed(4, 8), DATA3);
    ck_assert_uint_eq(S->seg[SS].selector, 0);
    ck_assert_int_eq(iret(S, T, 8, 0), FAULT_JUMP);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert_uint_eq(S->gpr[RSP], STACK + 5);
    ck_assert_uint_eq(S->seg[SS].selector, DATA3);
    /* Same privilege: aligned, SS stays. IST: its stack, SS stays. */
    lmode(0);
    S->gpr[RSP] = STACK + 5;
    S->idt.limit = 0xfff;
    set_idt(0x20, gate(CODE64, 0x4444, 0x8e, 0));
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(S->gpr[RSP], STACK - 40);
    ck_assert_uint_eq(S->seg[SS].selector, DATA0);
    ck_assert_int_eq(iret(S, T, 8, 0), FAULT_JUMP);
    ck_assert_uint_eq(S->gpr[RSP], STACK + 5);
    set_idt(0x20, gate(CODE64, 0x4444, 0x8e, 3));
    ram_put(TSS_BASE + 28 + 24, 0xa008, 8);
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(S->gpr[RSP], 0xa000 - 40);
    ck_assert_uint_eq(S->seg[SS].selector, DATA0);
    /* 32-bit code behind a gate is refused; a stack that is not canonical is #SS. */
    lmode(3);
    S->idt.limit = 0xfff;
    set_idt(0x20, gate(CODE0, 0x4444, 0xee, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, CODE0);
    set_idt(0x20, gate(CODE64, 0x4444, 0xee, 0));
    ram_put(TSS_BASE + 4, 0x800000000000ull, 8);
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_SS, 0);
    set_idt(0x20, gate(CODE64, 0x4444, 0xe6, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, 0x102);
}
END_TEST

START_TEST(real_mode_interrupts)
{
    sys_reset();
    S->gpr[RSP] = 0x100;
    S->rip = 0x55;
    ram_put(0x21 * 4, 0x20000010, 4);
    flags_set(S, T, FL_FIXED | FL_IF | FL_TF);
    ck_assert_int_eq(software_interrupt(S, T, 0x21, 0x57, false), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x10);
    ck_assert_uint_eq(S->seg[CS].selector, 0x2000);
    ck_assert_uint_eq(ram_get(0xfa, 2), 0x57);
    ck_assert_uint_eq(ram_get(0xfc, 2), 0xf000);
    ck_assert_uint_eq(ram_get(0xfe, 2), FL_FIXED | FL_IF | FL_TF);
    ck_assert_uint_eq(flags_get(S, T), FL_FIXED);
    ck_assert_int_eq(iret(S, T, 2, 0), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x57);
    ck_assert_uint_eq(flags_get(S, T), FL_FIXED | FL_IF | FL_TF);
    /* Beyond the table: #GP, and no error code is pushed. */
    S->idt.limit = 0x7f;
    ram_put(VEC_GP * 4, 0x30000020, 4);
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(S->rip, 0x20);
    ck_assert_uint_eq(S->gpr[RSP], 0x100 - 6);
    S->gpr[RSP] = 1; /* a push would wrap in the middle of a word */
    ck_fault(software_interrupt(S, T, 0x10, 0, false), VEC_SS, 0);
}
END_TEST

/* ---- vm86 ---- */

static void enter_vm86(unsigned level)
{
    prot(0);
    uint64_t flags = FL_FIXED | FL_VM | FL_IF | (uint64_t)level << FL_IOPL_SHIFT;
    const uint32_t frame[9] = {0x100, 0x2000, (uint32_t)flags, 0xfff0, 0x3000, 1, 2, 3, 4};
    for (unsigned k = 0; k < 9; k++)
        ram_put(STACK + 4 * k, frame[k], 4);
    ck_assert_int_eq(iret(S, T, 4, 0), FAULT_JUMP);
}

START_TEST(vm86)
{
    enter_vm86(3);
    ck_assert_uint_eq(T->cpl, 3);
    ck_assert(!(T->decode_mode & (DM_PROT | DM_CS32 | DM_SS32)));
    ck_assert_uint_eq(S->seg[CS].base, 0x20000);
    ck_assert_uint_eq(S->seg[SS].attr, 0xf3);
    ck_assert_uint_eq(S->seg[GS].selector, 4);
    /* An interrupt to privilege 0: data segments are saved and null. */
    set_idt(0x20, gate(CODE0, 0x4444, 0xee, 0));
    ck_assert(deliver_interrupt(S, T, 0x20, false));
    ck_assert_uint_eq(T->cpl, 0);
    ck_assert(!(S->rflags & FL_VM));
    ck_assert_uint_eq(S->gpr[RSP], STACK0 - 36);
    ck_assert_uint_eq(pushed(1, 4), 0x2000);
    ck_assert(pushed(2, 4) & FL_VM);
    ck_assert_uint_eq(pushed(3, 4), 0xfff0);
    ck_assert_uint_eq(pushed(5, 4), 1);
    ck_assert_uint_eq(pushed(8, 4), 4);
    ck_assert(S->seg[DS].attr & SEG_UNUSABLE);
    ck_assert_int_eq(iret(S, T, 4, 0), FAULT_JUMP);
    ck_assert(S->rflags & FL_VM);
    ck_assert_uint_eq(S->seg[ES].selector, 1);
    /* Only privilege 0 may be behind the gate. */
    set_idt(0x20, gate(CODE3, 0x4444, 0xee, 0));
    ck_fault(software_interrupt(S, T, 0x20, 0, false), VEC_GP, CODE3 & ~3);
    enter_vm86(0);
    ck_fault(iret(S, T, 2, 0), VEC_GP, 0);
}
END_TEST

START_TEST(vm86_redirection)
{
    bool redirected;
    enter_vm86(0);
    S->cr4 |= CR4_VME;
    S->rflags |= FL_VIF;
    ram_put(TSS_BASE + 102, 0x88, 2); /* bitmap at 0x68 */
    ram_put(0x10 * 4, 0x40000050, 4);
    ck_assert_int_eq(vm86_redirect(S, T, 0x10, 0x102, &redirected), FAULT_JUMP);
    ck_assert(redirected);
    ck_assert_uint_eq(S->rip, 0x50);
    ck_assert_uint_eq(S->seg[CS].base, 0x40000);
    ck_assert(!(S->rflags & FL_VIF));
    ck_assert(S->rflags & FL_IF);
    ck_assert_uint_eq(ram_get(0x30000 + 0xffee, 2), FL_FIXED | FL_IF | FL_IOPL);
    ck_assert_int_eq(iret(S, T, 2, 0), FAULT_JUMP); /* VME: IF goes to VIF */
    ck_assert(S->rflags & FL_VIF);
    ram_put(TSS_BASE + 0x68 + 2, 1, 1);
    ck_assert_int_eq(vm86_redirect(S, T, 0x10, 0x102, &redirected), FAULT_NONE);
    ck_assert(!redirected);
}
END_TEST

/* ---- tasks ---- */

static void make_task(uint32_t cr3)
{
    ram_put(TSS2 + 28, cr3, 4);
    ram_put(TSS2 + 32, 0x7777, 4);
    ram_put(TSS2 + 36, FL_FIXED | FL_CF, 4);
    for (unsigned k = 0; k < 8; k++)
        ram_put(TSS2 + 40 + 4 * k, 0xa0 + k, 4);
    ram_put(TSS2 + 56, 0xb000, 4); /* ESP */
    static const uint16_t sel[6] = {DATA3, CODE0, DATA0, DATA0, 0, 0};
    for (unsigned k = 0; k < 6; k++)
        ram_put(TSS2 + 72 + 4 * k, sel[k], 2);
    ram_put(TSS2 + 96, LDT_SEL, 2);
}

static unsigned tss_type(unsigned sel)
{
    return (unsigned)ram_get(GDT + sel + 5, 1) & 15;
}

START_TEST(task_call_and_return)
{
    prot(0);
    make_task(0);
    S->gpr[RBX] = 0x1111;
    ck_assert_int_eq(far_call(S, T, TASK_G, 0, 4, 0x7007), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x7777);
    ck_assert_uint_eq(S->gpr[RBX], 0xa3);
    ck_assert_uint_eq(S->gpr[RSP], 0xb000);
    ck_assert_uint_eq(S->seg[TR].selector, TSS_B);
    ck_assert_uint_eq(S->seg[TR].attr & 15, 11);
    ck_assert_uint_eq(S->seg[LDTR].base, LDT_BASE);
    ck_assert_uint_eq(S->seg[ES].selector, DATA3);
    ck_assert_uint_eq(flags_get(S, T), FL_FIXED | FL_CF | FL_NT);
    ck_assert(S->cr0 & CR0_TS);
    ck_assert_uint_eq(ram_get(TSS2, 2), TSS_A); /* back link */
    ck_assert_uint_eq(ram_get(TSS_BASE + 32, 4), 0x7007);
    ck_assert_uint_eq(ram_get(TSS_BASE + 52, 4), 0x1111);
    ck_assert_uint_eq(tss_type(TSS_A), 11);
    ck_assert_uint_eq(tss_type(TSS_B), 11);
    ck_assert_int_eq(iret(S, T, 4, 0x7778), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x7007);
    ck_assert_uint_eq(S->gpr[RBX], 0x1111);
    ck_assert_uint_eq(tss_type(TSS_A), 11);
    ck_assert_uint_eq(tss_type(TSS_B), 9);
    ck_assert_uint_eq(ram_get(TSS2 + 32, 4), 0x7778);
    ck_assert(!(ram_get(TSS2 + 36, 4) & FL_NT));
}
END_TEST

START_TEST(task_jump)
{
    prot(0);
    make_task(0);
    ck_assert_int_eq(far_jump(S, T, TSS_B, 0, 4, 0x7007), FAULT_JUMP);
    ck_assert_uint_eq(S->rip, 0x7777);
    ck_assert(!(flags_get(S, T) & FL_NT));
    ck_assert_uint_eq(tss_type(TSS_A), 9);
    ck_assert_uint_eq(tss_type(TSS_B), 11);
    ck_assert_uint_eq(ram_get(TSS_BASE + 32, 4), 0x7007);
}
END_TEST

START_TEST(task_faults)
{
    prot(0);
    make_task(0);
    ram_put(GDT + TSS_B, desc(TSS2, 0x66, 0x89, 0), 8);
    ck_fault(far_jump(S, T, TSS_B, 0, 4, 0x7007), VEC_TS, TSS_B);
    ram_put(GDT + TSS_B, desc(TSS2, 0x67, 0x09, 0), 8);
    ck_fault(far_jump(S, T, TSS_B, 0, 4, 0x7007), VEC_NP, TSS_B);
    ck_assert_uint_eq(S->rip, 0x7000);
    ck_assert_uint_eq(tss_type(TSS_A), 11);
    /* A bad CS is the new task's fault: delivered there. */
    ram_put(GDT + TSS_B, desc(TSS2, 0x67, 0x89, 0), 8);
    ram_put(TSS2 + 76, DATA0, 2);
    set_idt(VEC_TS, gate(CODE0, 0x8888, 0x8e, 0));
    S->seg[SS].limit = 0xffffffff;
    ck_assert_int_eq(far_jump(S, T, TSS_B, 0, 4, 0x7007), FAULT_EXC);
    ck_assert(S->ev.triple_fault); /* its SS was not loaded yet: nowhere to push to */
    ck_assert(!deliver_exception(S, T));
}
END_TEST

START_TEST(exception_through_task_gate)
{
    prot(0);
    make_task(0);
    set_idt(VEC_DF, gate(TSS_B, 0, 0x85, 0));
    ck_assert(raise_and_deliver(VEC_GP, true, 0));
    ck_assert_uint_eq(S->rip, 0x7777);
    ck_assert_uint_eq(S->gpr[RSP], 0xb000 - 4);
    ck_assert_uint_eq(pushed(0, 4), 0);
    ck_assert_uint_eq(ram_get(TSS_BASE + 32, 4), 0x7000);
    ck_assert(flags_get(S, T) & FL_NT);
}
END_TEST

/* ---- ports, control registers, MSRs ---- */

START_TEST(port_rights)
{
    prot(3);
    ram_put(TSS_BASE + 102, 0x70, 2);
    ck_assert_int_eq(io_allowed(S, T, 0x80, 4), FAULT_NONE);
    ram_put(TSS_BASE + 0x70 + 0x10, 8, 1);
    ck_assert_int_eq(io_allowed(S, T, 0x80, 2), FAULT_NONE);
    ck_fault(io_allowed(S, T, 0x80, 4), VEC_GP, 0);
    ck_fault(io_allowed(S, T, 0x82, 2), VEC_GP, 0);
    ck_fault(io_allowed(S, T, (0x1ff - 0x70) * 8, 1), VEC_GP, 0); /* second byte past the limit */
    S->rflags |= FL_IOPL;
    ck_assert_int_eq(io_allowed(S, T, 0x80, 4), FAULT_NONE);
    enter_vm86(3);
    ram_put(TSS_BASE + 102, 0x1ff, 2);
    ck_fault(io_allowed(S, T, 0x80, 1), VEC_GP, 0); /* IOPL does not count in vm86 */
}
END_TEST

START_TEST(control_registers)
{
    prot(0);
    ck_fault(write_cr0(S, T, CR0_PG), VEC_GP, 0);
    ck_fault(write_cr0(S, T, CR0_PE | (uint64_t)CR0_NW), VEC_GP, 0);
    ck_fault(write_cr0(S, T, BIT(32) | CR0_PE), VEC_GP, 0);
    ck_fault(write_cr4(S, T, BIT(15)), VEC_GP, 0);
    ck_fault(write_cr4(S, T, CR4_PCIDE), VEC_GP, 0);
    ck_assert(msr_write(S, T, 0xc0000080, EFER_LME | EFER_NXE));
    ck_fault(write_cr0(S, T, CR0_PE | CR0_PG), VEC_GP, 0); /* LME without PAE */
    ck_assert_int_eq(write_cr4(S, T, CR4_PAE), FAULT_NONE);
    ck_assert_int_eq(write_cr0(S, T, CR0_PE | CR0_PG), FAULT_NONE);
    ck_assert(S->efer & EFER_LMA);
    ck_fault(write_cr4(S, T, 0), VEC_GP, 0);
    ck_fault(write_cr3(S, T, BIT(40)), VEC_GP, 0);
    ck_assert(!msr_write(S, T, 0xc0000080, EFER_NXE)); /* LME while paging */
    T->features[FEAT_AUTOIBRS] = false;
    ck_assert(!msr_write(S, T, 0xc0000080, EFER_LME | EFER_NXE | EFER_AIBRSE));
    T->features[FEAT_AUTOIBRS] = true;
    ck_assert(msr_write(S, T, 0xc0000080, EFER_LME | EFER_NXE | EFER_AIBRSE));
    ck_assert_int_eq(write_cr0(S, T, CR0_PE), FAULT_NONE);
    ck_assert(!(S->efer & EFER_LMA));
    lmode(0);
    ck_fault(write_cr0(S, T, CR0_PE), VEC_GP, 0); /* paging off in 64-bit code */
    ck_assert_int_eq(write_cr4(S, T, CR4_PAE | CR4_PCIDE), FAULT_NONE);
    ck_assert_int_eq(write_cr3(S, T, BIT(63) | 0x10005), FAULT_NONE);
    ck_assert_uint_eq(S->cr3, 0x10005);
    S->cr4 &= ~(uint64_t)CR4_PCIDE;
    ck_fault(write_cr4(S, T, CR4_PAE | CR4_PCIDE), VEC_GP, 0); /* CR3[11:0] */
}
END_TEST

START_TEST(msrs)
{
    uint64_t v;
    lmode(0);
    ck_assert(!msr_read(S, T, 0x12345, &v));
    ck_assert(!msr_write(S, T, 0xc0000082, 0x800000000000ull));
    ck_assert(msr_write(S, T, 0xc0000082, 0xffffffff81000000ull));
    ck_assert_uint_eq(S->msr.lstar, 0xffffffff81000000ull);
    ck_assert(msr_write(S, T, 0xc0000101, 0x1234));
    ck_assert_uint_eq(S->seg[GS].base, 0x1234);
    ck_assert(!msr_write(S, T, 0x277, 2));
    ck_assert(msr_write(S, T, 0x277, 0x0007010600070406ull));
    ck_assert(!msr_write(S, T, 0x2ff, 0x1c00 | 2));
    ck_assert(!msr_write(S, T, 0x200, BIT(40) | 6));
    ck_assert(!msr_write(S, T, 0xc0000084, BIT(32)));
    ck_assert(!msr_write(S, T, 0xfe, 0));
    ck_assert(msr_read(S, T, 0x1b, &v));
    ck_assert_uint_eq(v, 0xfee00900);
    /* TSC and TSC_ADJUST move together. */
    ck_assert(msr_write(S, T, 0x10, 0x100000000000ull));
    ck_assert(msr_read(S, T, 0x10, &v));
    ck_assert(v >= 0x100000000000ull && v < 0x100100000000ull);
    uint64_t adjust = S->msr.tsc_adjust;
    ck_assert_uint_eq(S->tsc_offset, adjust);
    ck_assert(msr_write(S, T, 0x3b, adjust + 1000));
    ck_assert_uint_eq(S->tsc_offset, adjust + 1000);
}
END_TEST

START_TEST(flat_modes)
{
    prot(0);
    load_segment(S, T, DS, DATA0);
    ck_assert(!(T->decode_mode & DM_FLAT)); /* ES is null */
    load_segment(S, T, ES, DATA0);
    ck_assert(T->decode_mode & DM_FLAT);
    ck_assert(T->decode_mode & DM_CS32);
    load_segment(S, T, ES, RO_DATA0);
    ck_assert(!(T->decode_mode & DM_FLAT));
    lmode(3);
    ck_assert_uint_eq(T->decode_mode & ~(unsigned)DM_AMD, DM_PROT | DM_CODE64 | DM_CPL3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("except");
    TCase *c = tcase_create("except");
    tcase_add_checked_fixture(c, sys_setup, sys_teardown);
    tcase_add_test(c, segment_loads);
    tcase_add_test(c, accessed_bit);
    tcase_add_test(c, limits);
    tcase_add_test(c, long_mode_addresses);
    tcase_add_test(c, far_jumps);
    tcase_add_test(c, call_gate_inner);
    tcase_add_test(c, call_gate_bad_stack);
    tcase_add_test(c, long_call_gate);
    tcase_add_test(c, real_mode_transfers);
    tcase_add_test(c, protected_gates);
    tcase_add_test(c, gate_faults);
    tcase_add_test(c, double_and_triple_faults);
    tcase_add_test(c, page_fault_sets_cr2);
    tcase_add_test(c, long_mode_gates);
    tcase_add_test(c, real_mode_interrupts);
    tcase_add_test(c, vm86);
    tcase_add_test(c, vm86_redirection);
    tcase_add_test(c, task_call_and_return);
    tcase_add_test(c, task_jump);
    tcase_add_test(c, task_faults);
    tcase_add_test(c, exception_through_task_gate);
    tcase_add_test(c, port_rights);
    tcase_add_test(c, control_registers);
    tcase_add_test(c, msrs);
    tcase_add_test(c, flat_modes);
    suite_add_tcase(s, c);
    return run_suite(s);
}
