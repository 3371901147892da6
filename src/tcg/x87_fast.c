/*
 * The short way of the common x87 instructions: with every exception masked, all source registers
 * full and, for a push, ST(7) empty, an instruction depends on nothing but its operands and the
 * control word. So the registers it names are loaded on the host's empty stack, it runs there, and
 * popping is a matter of TOP and tags.
 *
 * Example: FADDP ST(2), ST(0) runs as FADD ST(1), ST(0) on the two, then TOP moves.
 */
#include "tcg/exec.h"
#include "tcg/x87.h"

enum { C0 = 0x100, C1 = 0x200, C2 = 0x400, C3 = 0x4000, FCW_MASKS = 0x3f };

typedef enum Kind {
    SLOW,
    ARITH,   /* two registers in, one or both out */
    COMPARE, /* sets C0-C3 */
    COMPARE_FLAGS,
    LOAD,     /* FLD ST(i) */
    EXCHANGE, /* FXCH */
    STORE,    /* FST ST(i) */
    SIGN,     /* FCHS, FABS */
    CONSTANT, /* FLD1, FLDZ */
    MEM_ARITH,
    MEM_COMPARE,
    MEM_PUSH,
    MEM_STORE,
    MEM_STORE_POP, /* has no form that does not pop */
} Kind;

/* kind, registers popped afterwards, and the form without popping that is run: opcode - D8, reg. */
typedef struct Form {
    uint8_t kind, pops, opcode, reg;
} Form;

#define ARITH_ROW(kind, pops, op)                                                    \
    [0] = {kind, pops, op, 0}, [1] = {kind, pops, op, 1}, [4] = {kind, pops, op, 4}, \
    [5] = {kind, pops, op, 5}, [6] = {kind, pops, op, 6}, [7] = {kind, pops, op, 7}
static const Form reg_form[8][8] = {
    [0] = {ARITH_ROW(ARITH, 0, 0), [2] = {COMPARE, 0, 0, 2}, [3] = {COMPARE, 1, 0, 2}},
    [1] = {[0] = {LOAD}, [1] = {EXCHANGE}, [4] = {SIGN}, [5] = {CONSTANT}},
    [2] = {[5] = {COMPARE, 2, 5, 4}}, /* FUCOMPP */
    [3] = {[5] = {COMPARE_FLAGS, 0, 3, 5}, [6] = {COMPARE_FLAGS, 0, 3, 6}},
    [4] = {ARITH_ROW(ARITH, 0, 4)},
    [5] = {[2] = {STORE, 0}, [3] = {STORE, 1}, [4] = {COMPARE, 0, 5, 4}, [5] = {COMPARE, 1, 5, 4}},
    [6] = {ARITH_ROW(ARITH, 1, 4), [3] = {COMPARE, 2, 0, 2}}, /* /3: FCOMPP */
    [7] = {[5] = {COMPARE_FLAGS, 1, 3, 5}, [6] = {COMPARE_FLAGS, 1, 3, 6}},
};
#define MEM_ARITH_ROW(op)                                                   \
    {                                                                       \
        ARITH_ROW(MEM_ARITH, 0, op), [2] = {MEM_COMPARE, 0, op, 2}, [3] = { \
            MEM_COMPARE,                                                    \
            1,                                                              \
            op,                                                             \
            2                                                               \
        }                                                                   \
    }
static const Form mem_form[8][8] = {
    [0] = MEM_ARITH_ROW(0),
    [1] = {[0] = {MEM_PUSH, 0, 1, 0}, [2] = {MEM_STORE, 0, 1, 2}, [3] = {MEM_STORE, 1, 1, 2}},
    [2] = MEM_ARITH_ROW(2),
    [3] = {[0] = {MEM_PUSH, 0, 3, 0},
           [1] = {MEM_STORE_POP, 1, 3, 1},
           [2] = {MEM_STORE, 0, 3, 2},
           [3] = {MEM_STORE, 1, 3, 2},
           [5] = {MEM_PUSH, 0, 3, 5},
           [7] = {MEM_STORE_POP, 1, 3, 7}},
    [4] = MEM_ARITH_ROW(4),
    [5] = {[0] = {MEM_PUSH, 0, 5, 0},
           [1] = {MEM_STORE_POP, 1, 5, 1},
           [2] = {MEM_STORE, 0, 5, 2},
           [3] = {MEM_STORE, 1, 5, 2}},
    [6] = MEM_ARITH_ROW(6),
    [7] = {[0] = {MEM_PUSH, 0, 7, 0},
           [1] = {MEM_STORE_POP, 1, 7, 1},
           [2] = {MEM_STORE, 0, 7, 2},
           [3] = {MEM_STORE, 1, 7, 2},
           [5] = {MEM_PUSH, 0, 7, 5},
           [7] = {MEM_STORE_POP, 1, 7, 7}},
};

static inline bool full(const FpuState *f, unsigned top, unsigned i)
{
    return f->ftw >> ((top + i) & 7) & 1;
}

static void set_top(FpuState *f, unsigned top)
{
    f->fsw = (uint16_t)((f->fsw & ~FSW_TOP) | (top & 7) << FPU_TOP_SHIFT);
}

static void pop(FpuState *f, unsigned n)
{
    for (; n; n--) {
        unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
        f->ftw &= (uint8_t) ~(1u << top);
        set_top(f, top + 1);
    }
}

/* ST(7) becomes ST(0). */
static FpReg *push(FpuState *f, unsigned top)
{
    top = (top - 1) & 7;
    set_top(f, top);
    f->ftw |= (uint8_t)(1u << top);
    return &f->r[top];
}

/* Exception flags are sticky; of the condition codes those in `codes` are the instruction's. */
static void merge_fsw(FpuState *f, uint32_t fsw, unsigned codes)
{
    f->fsw = (uint16_t)((f->fsw & ~codes) | (fsw & (codes | FCW_MASKS)));
}

static bool run_reg(CpuState *s, Tcg *t, const Insn *i, const Form *form)
{
    FpuState *f = &s->fpu;
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7, n = i->modrm & 7;
    FpReg *st0 = &f->r[top], *sti = &f->r[(top + n) & 7];
    const uint8_t(*code)[4] = &x87_reg_code[form->opcode][form->reg << 3];
    uint32_t out;

    switch (form->kind) {
    case ARITH:
    case COMPARE:
    case COMPARE_FLAGS:
        if (!full(f, top, 0) || !full(f, top, n))
            return false;
        out = n ? x87_two(st0, sti, code[1], &f->fcw) : x87_one(st0, NULL, code[0], &f->fcw);
        /* FCOMI leaves C1 alone on the processors at hand, whatever the manual says. */
        merge_fsw(f, out,
                  form->kind == COMPARE         ? C0 | C1 | C2 | C3
                  : form->kind == COMPARE_FLAGS ? 0
                                                : C1);
        if (form->kind == COMPARE_FLAGS)
            t->cc = (uint16_t)(out >> 16);
        break;
    case LOAD:
        if (!full(f, top, n) || full(f, top, 7))
            return false;
        *push(f, top) = *sti;
        f->fsw &= (uint16_t)~C1;
        break;
    case EXCHANGE:
        if (!full(f, top, 0) || !full(f, top, n))
            return false;
        FpReg was = *st0;
        *st0 = *sti;
        *sti = was;
        f->fsw &= (uint16_t)~C1;
        break;
    case STORE:
        if (!full(f, top, 0))
            return false;
        *sti = *st0;
        f->ftw |= (uint8_t)(1u << ((top + n) & 7));
        f->fsw &= (uint16_t)~C1;
        break;
    case SIGN:
        if (n > 1 || !full(f, top, 0)) /* FTST, FXAM: the long way */
            return false;
        st0->se = n ? st0->se & 0x7fff : st0->se ^ 0x8000;
        f->fsw &= (uint16_t)~C1;
        break;
    case CONSTANT:
        if ((n != 0 && n != 6) || full(f, top, 7)) /* the others are rounded */
            return false;
        *push(f, top) = n ? (FpReg){0} : (FpReg){.mant = 1ull << 63, .se = 0x3fff};
        f->fsw &= (uint16_t)~C1;
        break;
    default:
        return false;
    }
    pop(f, form->pops);
    return true;
}

static bool run_mem(CpuState *s, const Form *form, void *mem)
{
    FpuState *f = &s->fpu;
    unsigned top = f->fsw >> FPU_TOP_SHIFT & 7;
    FpReg *st0 = &f->r[top], result = {0};
    const uint8_t *code = x87_mem_code[form->opcode][form->reg];
    uint32_t out;

    if (form->kind == MEM_PUSH) {
        if (full(f, top, 7))
            return false;
        out = x87_pushing(&result, mem, code, &f->fcw);
        *push(f, top) = result;
        merge_fsw(f, out, C1);
        return true;
    }
    if (!full(f, top, 0))
        return false;
    if (form->kind == MEM_STORE_POP)
        out = x87_popping(st0, mem, code, &f->fcw);
    else
        out = x87_one(st0, mem, code, &f->fcw);
    merge_fsw(f, out, form->kind == MEM_COMPARE ? C0 | C1 | C2 | C3 : C1);
    pop(f, form->pops);
    return true;
}

bool x87_fast(CpuState *s, Tcg *t, const Insn *i, void *mem)
{
    unsigned opcode = op_rows[i->row].opcode & 7, reg = i->modrm >> 3 & 7;
    const Form *form = i->flags & IF_MEM ? &mem_form[opcode][reg] : &reg_form[opcode][reg];
    if (form->kind == SLOW || (s->fpu.fcw & FCW_MASKS) != FCW_MASKS)
        return false;
    if (!(i->flags & IF_MEM ? run_mem(s, form, mem) : run_reg(s, t, i, form)))
        return false;
    x87_pointers(s, t, i);
    return true;
}
