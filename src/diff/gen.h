/* Making cases: what the files of the generator share. */
#ifndef TANDEM_DIFF_GEN_H
#define TANDEM_DIFF_GEN_H

#include "diff/engines.h"
#include "tcg/insn.h"

typedef struct Gen {
    uint64_t s; /* of the random numbers */
    uint64_t campaign;
    DiffCase *c;
    const OpRow *r;
    const struct RowGen *how;
    Insn i;           /* of c->insn */
    bool code64, odd; /* odd: encodings and prefixes that do not belong are allowed */
    unsigned pinned;  /* general registers whose values are settled: bit per enum Gpr */
    /* Memory operand: linear address, size; settled by the row or by gen_target(). */
    bool has_target;
    uint64_t target;
    unsigned size;
    /* Where in insn the displacement and the immediates are. */
    uint8_t disp_at, disp_size, imm_at;
} Gen;

/* What a row needs besides registers and memory at random. */
typedef struct RowGen {
    const char *names;     /* mnemonics, separated by blanks, or by | */
    uint8_t cls;           /* enum OpClass that an operand must have; 0: any */
    void (*before)(Gen *); /* registers are drawn, addresses not yet */
    void (*after)(Gen *);  /* addresses are settled: memory may be filled */
    uint16_t size;         /* bytes of the memory operand, when operands do not say */
    uint8_t align;         /* usually aligned to this */
    uint8_t flags;         /* GEN_* */
} RowGen;
enum {
    GEN_THROUGH = 1 << 0, /* STOP_THROUGH only */
    GEN_STACK = 1 << 1,   /* RSP is an address */
    GEN_FPU = 1 << 2,     /* x87, MMX, SSE state matters */
    GEN_STEP = 1 << 3,    /* STOP_STEP only */
};
extern const RowGen row_gen[]; /* gen_rows.c: the first that fits; the last has no names */

/* ---- random numbers ---- */
static inline uint64_t rnd(Gen *g)
{
    g->s += 0xa0761d6478bd642full;
    unsigned __int128 t = (unsigned __int128)g->s * (g->s ^ 0xe7037ed1a0b428dbull);
    return (uint64_t)(t >> 64) ^ (uint64_t)t;
}
static inline unsigned below(Gen *g, unsigned n)
{
    return (unsigned)(((rnd(g) >> 32) * n) >> 32);
}
static inline bool one_in(Gen *g, unsigned n)
{
    return below(g, n) == 0;
}

/* ---- gen_insn.c ---- */
unsigned operand_class(const OpRow *r, unsigned k);
unsigned operand_size(const OpRow *r, unsigned k);
bool row_has_class(const OpRow *r, unsigned cls);
/* Draws c->insn and decodes it. False: not an instruction of this row (nor meant to be bad). */
bool gen_insn(Gen *g);
/* Decodes again after bytes were changed. */
void gen_decode(Gen *g);
/* Overwrites the immediate (of n bytes, at offset `at` from the first one). */
void gen_put_imm(Gen *g, unsigned at, uint64_t v, unsigned n);

/* ---- gen_state.c ---- */
uint64_t gen_value(Gen *g); /* an integer with edges */
uint64_t gen_lane(Gen *g);  /* bits that mean something as floats, doubles or integers */
FpReg gen_st(Gen *g);
void gen_registers(Gen *g);
void gen_fpu(Gen *g);
/* Fills data and stack. */
void gen_memory(Gen *g);

/* ---- gen_mem.c ---- */
/* An address for an operand of n bytes, usually aligned to align, mostly where it can be read and
 * written. */
uint64_t gen_address(Gen *g, unsigned n, unsigned align);
/* The same within the writable pages. */
uint64_t gen_good_address(Gen *g, unsigned n, unsigned align);
/* An address for a stack that `below` bytes are pushed on and `above` popped from. */
uint64_t gen_stack_address(Gen *g, unsigned pushed, unsigned popped);
/* Where a branch may lead, as linear address. */
uint64_t gen_code_address(Gen *g);
/* May a case touch these bytes, as far as executors go? (They may be absent all the same.) */
bool gen_allowed(const Gen *g, uint64_t lin, uint64_t n);
/* Sets registers or the displacement so that i's memory operand is at g->target. */
bool gen_solve(Gen *g);
/* Base of the segment that the memory operand, or an implicit one, is in. */
uint64_t gen_seg_base(const Gen *g, unsigned seg);
/* Value of a general register that addresses: linear address to offset, cut to n bytes. */
void gen_point(Gen *g, unsigned reg, unsigned seg, uint64_t lin, unsigned asize);
/* Host pointer into data or stack for n bytes at lin; NULL elsewhere. */
uint8_t *gen_host(Gen *g, uint64_t lin, unsigned n);
void gen_poke(Gen *g, uint64_t lin, const void *what, unsigned n);

#endif
