/* What lies in the MiB at CASE_SYS: page tables, descriptor tables, TSS, handlers. */
#include <string.h>

#include "diff/case.h"

static void put(uint8_t *sys, uint64_t at, const void *what, unsigned n)
{
    memcpy(sys + (at - CASE_SYS), what, n);
}

static void put64(uint8_t *sys, uint64_t at, uint64_t v)
{
    put(sys, at, &v, 8);
}

/* ---- pages ---- */

enum { /* accessed and dirty already, so that no walk writes */
       PG_P = 1 << 0,
       PG_W = 1 << 1,
       PG_U = 1 << 2,
       PG_AD = 3 << 5,
};
#define PG_NX BIT(63)

uint64_t case_page_flags(uint64_t lin)
{
    if (lin >= CASE_SYS && lin < CASE_CODE)
        return PG_P | PG_W | PG_AD;
    if (lin >= CASE_CODE && lin < CASE_CODE + CASE_CODE_BYTES)
        return PG_P | PG_U | PG_AD;
    if (lin >= CASE_STACK && lin < CASE_STACK + CASE_STACK_BYTES)
        return PG_P | PG_W | PG_U | PG_AD | PG_NX;
    if (lin < CASE_DATA || lin >= CASE_DATA + CASE_DATA_BYTES)
        return 0;
    switch ((lin - CASE_DATA) & ~0xfffull) {
    case CASE_DATA_RO:
        return PG_P | PG_U | PG_AD | PG_NX;
    case CASE_DATA_GONE:
        return 0;
    default:
        return PG_P | PG_W | PG_U | PG_AD | PG_NX;
    }
}

/* Four levels; the tables of the 4 MiB follow each other. */
static void page_tables(uint8_t *sys)
{
    enum { PDPT = 0x1000, PD = 0x2000, PT = 0x3000 }; /* after CR3 */
    enum { TABLE = PG_P | PG_W | PG_U | PG_AD };
    put64(sys, CASE_CR3, (CASE_CR3 + PDPT) | TABLE);
    put64(sys, CASE_CR3 + PDPT + 8 * (CASE_BASE >> 30), (CASE_CR3 + PD) | TABLE);
    for (unsigned i = 0; i < CASE_SIZE >> 21; i++)
        put64(sys, CASE_CR3 + PD + 8 * ((CASE_BASE >> 21 & 511) + i),
              (CASE_CR3 + PT + 0x1000 * i) | TABLE);
    for (uint64_t lin = CASE_BASE; lin < CASE_BASE + CASE_SIZE; lin += 0x1000) {
        uint64_t flags = case_page_flags(lin);
        put64(sys, CASE_CR3 + PT + 8 * ((lin - CASE_BASE) >> 12), flags ? lin | flags : 0);
    }
}

/* ---- descriptors ---- */

static uint64_t descriptor(uint64_t base, uint32_t limit, uint32_t attr)
{
    if (attr & SEG_G)
        limit >>= 12;
    return (limit & 0xffff) | (base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(attr >> 12 & 0xf) << 52 |
           (base >> 24 & 0xff) << 56;
}

static void gdt(uint8_t *sys, bool lma)
{
    static const struct {
        uint16_t selector, attr;
        uint32_t base, limit;
    } row[] = {
        {0x08, 0xc09b, 0, 0xffffffff},      /* code, 32 bits */
        {0x10, 0xa09b, 0, 0xffffffff},      /* code, 64 bits */
        {0x18, 0xc093, 0, 0xffffffff},      /* data */
        {0x20, 0xc0fb, 0, 0xffffffff},      /* the same for privilege 3: 32 bits, */
        {0x28, 0xc0f3, 0, 0xffffffff},      /* data */
        {0x30, 0xa0fb, 0, 0xffffffff},      /* and 64 bits */
        {0x60, 0xc09f, 0, 0xffffffff},      /* conforming code */
        {0x68, 0xc0f1, 0, 0xffffffff},      /* read-only data */
        {0x70, 0x4073, 0, 0xfffff},         /* not present */
        {0x78, 0x40f7, CASE_DATA, 0xff},    /* expand-down data */
        {0x80, 0xc0f9, 0, 0xffffffff},      /* execute-only code */
        {0x88, 0x009b, CASE_CODE, 0xffff},  /* 16 bits: code */
        {0x90, 0x0093, CASE_DATA, 0xffff},  /* data */
        {0x98, 0x0093, CASE_STACK, 0xffff}, /* stack */
        /* System segments have 16 bytes in long mode, of which the upper 8 stay zero here. */
        {0x40, 0x008b, CASE_TSS, 0x67},           /* the TSS in use */
        {0x50, 0x0082, CASE_LDT, CASE_LDT_LIMIT}, /* the LDT in use */
        {0xb0, 0x0089, CASE_TSS + 0x1000, 0x67},  /* a TSS to be loaded */
        {0xc0, 0x0082, CASE_LDT, CASE_LDT_LIMIT}, /* an LDT to be loaded */
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++)
        put64(sys, CASE_GDT + row[i].selector, descriptor(row[i].base, row[i].limit, row[i].attr));
    /* A call gate for privilege 3. */
    uint64_t to = CASE_SYSCALL + 48;
    put64(sys, CASE_GDT + 0xa0,
          (to & 0xffff) | (lma ? 0x10ull : 0x08ull) << 16 | 0xecull << 40 |
              (to >> 16 & 0xffff) << 48);
}

static void ldt(uint8_t *sys)
{
    put64(sys, CASE_LDT, descriptor(CASE_CODE, 0xffff, 0xfb));
    put64(sys, CASE_LDT + 8, descriptor(CASE_DATA, 0xffff, 0xf3));
    put64(sys, CASE_LDT + 16, descriptor(CASE_STACK, 0xffff, 0xf3));
}

/* ---- events ---- */

static void tss(uint8_t *sys, bool lma)
{
    uint64_t stack = CASE_EVENT_STACK;
    if (lma) {
        put64(sys, CASE_TSS + 4, stack);    /* RSP0 */
        put64(sys, CASE_TSS + 0x24, stack); /* IST1 */
    } else {
        uint32_t ss0[2] = {(uint32_t)stack, 0x18};
        put(sys, CASE_TSS + 4, ss0, sizeof(ss0));
    }
    /* No I/O permission map: its base is behind the limit. */
    uint16_t iomap = 0x68;
    put(sys, CASE_TSS + 0x66, &iomap, 2);
}

/* Interrupt gates; only INT3 and INTO may be called from privilege 3, as under Linux. */
static void idt(uint8_t *sys, bool lma)
{
    for (unsigned v = 0; v < 256; v++) {
        uint64_t to = case_handler(CM_LONG, v), dpl = v == VEC_BP || v == VEC_OF ? 3 : 0;
        uint64_t low = (to & 0xffff) | (lma ? 0x10ull : 0x08ull) << 16 | (lma ? 1ull : 0) << 32 |
                       (0x8e | dpl << 5) << 40 | (to >> 16 & 0xffff) << 48;
        put64(sys, CASE_IDT + v * (lma ? 16 : 8), low);
        if (lma)
            put64(sys, CASE_IDT + v * 16 + 8, to >> 32);
    }
}

uint64_t case_handler(enum CaseMode mode, unsigned vector)
{
    return (mode == CM_REAL ? CASE_REAL_HANDLERS - CASE_REAL_BASE : CASE_HANDLERS) + vector * 16;
}

static void real_idt(uint8_t *sys)
{
    for (unsigned v = 0; v < 256; v++) {
        uint32_t to = (uint32_t)(CASE_REAL_BASE << 12 | case_handler(CM_REAL, v));
        put(sys, CASE_IDT + 4 * v, &to, 4);
    }
}

void case_handlers(uint8_t *to, unsigned bytes)
{
    static const uint8_t out_hlt[] = {0xe6, CASE_PORT, 0xf4};
    memset(to, 0xf4, bytes);
    for (unsigned at = 0; at < bytes; at += 16)
        memcpy(to + at, out_hlt, sizeof(out_hlt));
}

void case_sys_build(uint8_t *sys, enum CaseMode mode)
{
    bool lma = mode <= CM_COMPAT16;

    memset(sys, 0, CASE_SYS_BYTES);
    if (lma)
        page_tables(sys);
    gdt(sys, lma);
    ldt(sys);
    tss(sys, lma);
    if (mode == CM_REAL)
        real_idt(sys);
    else
        idt(sys, lma);
    case_handlers(sys + (CASE_HANDLERS - CASE_SYS), CASE_HANDLERS_BYTES);
}
