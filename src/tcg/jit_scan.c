/*
 * Looking over a block before it is translated: which memory accesses are near each other.
 *
 * A register's value is followed as "root + delta": PUSH, POP, ADD, SUB, LEA and MOV of whole
 * registers keep the root. Accesses that are off the same root, within JIT_RUN_SPAN bytes, and with
 * no helper between them, are a run: the first one checks the whole range and leaves the host's
 * address in JitHot.run[]; the others use it.
 *
 *     push rbp          [root-8]    checks root-40 to root-1
 *     mov  rbp, rsp
 *     push rbx          [root-16]   has its address
 *     sub  rsp, 24
 *     mov  [rsp], rdi   [root-40]   and this one too
 *
 * If the first one does not find all of the range in one page that may be accessed so, it runs by
 * its exec function and the block is left behind it.
 */
#include "tcg/jit.h"
#include "tcg/vec.h"

static const struct {
    uint8_t cls, size;
} operand_info[O_N] = {
#define OPERAND(name, c, bytes) [O_##name] = {OC_##c, bytes},
#include "tcg/operands.def"
#undef OPERAND
};

enum { ALL_REGISTERS = 0x1ffff };

uint32_t jit_written(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    uint32_t w = 0;
    bool is_byte = operand_info[r->op[0]].size == 1 || i->opsize == 1;
    switch (r->emit) {
    case EMIT_TEST:
    case EMIT_NOP:
    case EMIT_GATHER:
    case EMIT_CLI:
    case EMIT_STI:
        return 0;
    case EMIT_COPY:
    case EMIT_CL:
    case EMIT_CMPXCHG:
        break;
    case EMIT_IMM:
    case EMIT_LEA:
        return 1u << (i->opsize == 1 ? i->reg >> 3 : i->reg);
    case EMIT_MUL:
    case EMIT_DIV:
    case EMIT_CONV:
        return 1u << RAX | 1u << RDX;
    case EMIT_PUSH:
    case EMIT_PUSHF:
        return 1u << RSP;
    case EMIT_POP:
        return 1u << RSP | 1u << i->reg;
    case EMIT_LEAVE:
        return 1u << RSP | 1u << RBP;
    case EMIT_X87: /* FNSTSW AX */
        return 1u << RAX;
    case EMIT_BRANCH: /* Jcc and JMP nothing */
        if (r->map == MAP_0F || (r->opcode & 0xf0) == 0x70 || (r->opcode & 0xfd) == 0xe9)
            return 0;
        return 1u << RSP | (r->opcode == 0xe8 ? 0 : 1u << RCX);
    case EMIT_OFTEN:
        return jit_often_written(i);
    default:
        return ALL_REGISTERS;
    }
    if (r->emit == EMIT_CMPXCHG)
        w |= 1u << RAX;
    /* All general registers among the operands but pure sources: the first, and the second of
     * exchanges. */
    bool both = r->map == MAP_0F
                    ? (r->opcode & 0xfe) == 0xc0
                    : r->map == MAP_1B && ((r->opcode & 0xfe) == 0x86 || r->opcode == 0x90);
    for (unsigned k = 0; k < (both ? 2u : 1u); k++) {
        switch (operand_info[r->op[k]].cls) {
        case OC_REG:
        case OC_OPREG:
            w |= 1u << (is_byte ? i->reg >> 3 : i->reg);
            break;
        case OC_RM:
        case OC_RMREG:
            if (!(i->flags & IF_MEM))
                w |= 1u << (is_byte ? i->rm >> 3 : i->rm);
            break;
        case OC_VVVV:
            if (!(r->attr & (A_SSE | A_AVX)))
                w |= 1u << i->vvvv;
            break;
        case OC_FIXED:
            w |= 1u << RAX;
            break;
        }
    }
    if (both)
        w |= 1u << RAX;
    return w;
}

/* What a register holds: root (number of a value) plus delta. */
typedef struct Value {
    uint16_t root;
    int32_t delta;
} Value;

bool jit_memory_operand(const Insn *i, unsigned *size, bool *write)
{
    const OpRow *r = &op_rows[i->row];
    switch (r->emit) {
    case EMIT_COPY:
    case EMIT_TEST:
    case EMIT_CL:
    case EMIT_MUL:
    case EMIT_DIV:
    case EMIT_CMPXCHG:
        break;
    default:
        return false;
    }
    if (!(i->flags & IF_MEM))
        return false;
    for (unsigned k = 0; k < 4; k++) {
        switch (operand_info[r->op[k]].cls) {
        case OC_RM:
        case OC_MEM:
        case OC_VRM:
        case OC_KRM:
            *size = r->attr & (A_SSE | A_AVX)     ? vec_operand_bytes(i, r->op[k])
                    : operand_info[r->op[k]].size ? operand_info[r->op[k]].size
                                                  : i->opsize;
            *write = (k == 0 && r->emit != EMIT_TEST) || r->emit == EMIT_CMPXCHG;
            if (r->emit == EMIT_MUL || r->emit == EMIT_DIV)
                *write = false;
            /* XCHG and XADD write whichever comes second; BT with a register goes elsewhere. */
            if (r->map == MAP_0F && (r->opcode & 0xe7) == 0xa3)
                return false;
            if ((r->map == MAP_1B && (r->opcode & 0xfe) == 0x86) ||
                (r->map == MAP_0F && (r->opcode & 0xfe) == 0xc0))
                *write = true;
            return *size != 0;
        }
    }
    return false;
}

/* The one access of i that takes part in runs: register and displacement. False: none. */
static bool access_of(const Trans *x, const Insn *i, unsigned *base, int64_t *disp, unsigned *size,
                      bool *write)
{
    const OpRow *r = &op_rows[i->row];
    unsigned word = x->mode & DM_CODE64 ? 8 : 4;
    switch (r->emit) {
    case EMIT_PUSH:
    case EMIT_PUSHF:
        if (i->flags & IF_MEM || i->opsize != word)
            return false;
        *base = RSP;
        *disp = -(int64_t)word;
        *size = word;
        *write = true;
        return true;
    case EMIT_POP:
    case EMIT_LEAVE:
        if (i->opsize != word)
            return false;
        *base = r->emit == EMIT_POP ? RSP : RBP;
        *disp = 0;
        *size = word;
        *write = false;
        return true;
    case EMIT_BRANCH:
        if (i->opsize != word || r->map != MAP_1B)
            return false;
        *base = RSP;
        *size = word;
        *write = r->opcode == 0xe8;
        *disp = *write ? -(int64_t)word : 0;
        return *write || r->opcode == 0xc2 || r->opcode == 0xc3;
    default:
        break;
    }
    bool by_rip = i->base == GPR_IP && x->fixed && i->seg == SEG_NONE && word == 8;
    if (!(i->flags & IF_FLAT) || i->index != GPR_ZERO || (i->base >= GPR_N && !by_rip) ||
        i->asize != word || i->disp != (int32_t)i->disp)
        return false;
    *base = i->base;
    *disp = i->disp;
    return jit_memory_operand(i, size, write);
}

bool jit_adds_constant(const Insn *i, unsigned *to, unsigned *from, int64_t *n)
{
    const OpRow *r = &op_rows[i->row];
    if (i->opsize != (i->flags & IF_CODE64 ? 8 : 4))
        return false;
    if (r->emit == EMIT_LEA) {
        *to = i->reg;
        *from = i->base;
        *n = i->disp;
        return i->index == GPR_ZERO && i->base < GPR_N && i->asize == i->opsize;
    }
    if (i->flags & IF_MEM || r->map != MAP_1B || r->emit != EMIT_COPY)
        return false;
    *n = 0;
    switch (r->opcode) {
    case 0x89:
        *to = i->rm;
        *from = i->reg;
        return true;
    case 0x8b:
        *to = i->reg;
        *from = i->rm;
        return true;
    case 0x81:
    case 0x83: {
        unsigned group = r->modrm & 7;
        *to = *from = i->rm;
        *n = group == 5 ? -i->imm : i->imm;
        return group == 0 || group == 5;
    }
    case 0xff: {
        unsigned group = r->modrm & 7;
        *to = *from = i->rm;
        *n = group == 0 ? 1 : -1;
        return group < 2;
    }
    default:
        return false;
    }
}

void jit_scan(Trans *x)
{
    const Block *b = x->b;
    Value value[GPR_N];
    int open[1 + GPR_N + 2 * BLOCK_MAX_INSNS]; /* by root: its run, or -1 */
    unsigned roots = 0;
    int32_t at[BLOCK_MAX_INSNS];

    x->n_runs = 0;
    for (unsigned k = 0; k < x->n; k++)
        x->run_of[k] = -1;
    if (b->no_runs)
        return;
    for (unsigned k = 0; k < ARRAY_LEN(open); k++)
        open[k] = -1;
    const unsigned page = roots++; /* addresses that are known now, from the page of the code */
    const struct Part *part = x->part;
    for (unsigned r = 0; r < GPR_N; r++)
        value[r] = (Value){(uint16_t)roots++, 0};
    for (unsigned k = 0; k < x->n; k++) {
        const Insn *i = x->insn[k];
        unsigned base, size, to, from;
        int64_t disp, n;
        bool write;
        if (k == part->first + part->b->n)
            part++;
        if (!i->opsize ||
            op_rows[i->row].emit == EMIT_HELPER) { /* whatever it does, runs end here */
            for (unsigned r = 0; r < roots; r++)
                open[r] = -1;
            for (unsigned r = 0; r < GPR_N && roots < ARRAY_LEN(open); r++)
                value[r] = (Value){(uint16_t)roots++, 0};
            if (roots + GPR_N > ARRAY_LEN(open))
                goto done;
            continue;
        }
        if (access_of(x, i, &base, &disp, &size, &write)) {
            Value from_page = {(uint16_t)page, (int32_t)(part->b->gpa & ~PAGE_MASK)};
            Value v = base == GPR_IP ? from_page : value[base];
            int64_t off = v.delta + disp;
            int run = open[v.root];
            if (run >= 0) {
                struct Run *u = &x->run[run];
                int64_t lo = MIN_OF((int64_t)u->lo, off), hi = MAX_OF((int64_t)u->hi, off + size);
                if (hi - lo <= JIT_RUN_SPAN) {
                    u->lo = (int32_t)lo;
                    u->hi = (int32_t)hi;
                    u->write |= write;
                    u->n++;
                } else {
                    run = -1;
                }
            }
            if (run < 0 && x->n_runs < ARRAY_LEN(x->run) && off == (int32_t)off) {
                run = (int)x->n_runs++;
                x->run[run] = (struct Run){
                    .lo = (int32_t)off, .hi = (int32_t)off + (int32_t)size, .write = write, .n = 1};
                open[v.root] = run;
            }
            x->run_of[k] = (int16_t)run;
            at[k] = (int32_t)off;
        }
        /* POP and PUSH of RSP itself, and what is not followed, fall to jit_written(). */
        unsigned word = x->mode & DM_CODE64 ? 8 : 4;
        uint32_t w = jit_written(i);
        Value rsp = value[RSP], rbp = value[RBP], new_value = {0, 0};
        bool follows = jit_adds_constant(i, &to, &from, &n) && n == (int32_t)n;
        if (follows)
            new_value = (Value){value[from].root, value[from].delta + (int32_t)n};
        for (unsigned r = 0; r < GPR_N; r++) {
            if ((w >> r & 1) && roots < ARRAY_LEN(open))
                value[r] = (Value){(uint16_t)roots++, 0};
            else if (w >> r & 1)
                goto done; /* enough of it: the rest goes without */
        }
        if (follows)
            value[to] = new_value;
        uint8_t emit = op_rows[i->row].emit;
        if ((emit == EMIT_PUSH || emit == EMIT_PUSHF) && i->opsize == word)
            value[RSP] = (Value){rsp.root, rsp.delta - (int32_t)word};
        else if (emit == EMIT_BRANCH && i->opsize == word && op_rows[i->row].map == MAP_1B &&
                 op_rows[i->row].opcode == 0xe8)
            value[RSP] = (Value){rsp.root, rsp.delta - (int32_t)word};
        else if (emit == EMIT_BRANCH && i->opsize == word && op_rows[i->row].map == MAP_1B &&
                 (op_rows[i->row].opcode & 0xfe) == 0xc2)
            value[RSP] = (Value){rsp.root, rsp.delta + (int32_t)word + (int32_t)i->imm};
        else if (emit == EMIT_POP && i->opsize == word && i->reg != RSP)
            value[RSP] = (Value){rsp.root, rsp.delta + (int32_t)word};
        else if (emit == EMIT_LEAVE && i->opsize == word)
            value[RSP] = (Value){rbp.root, rbp.delta + (int32_t)word};
    }
done:
    for (unsigned k = 0; k < x->n; k++) {
        if (x->run_of[k] < 0)
            continue;
        if (x->run[x->run_of[k]].n < 2)
            x->run_of[k] = -1;
        else
            x->run_at[k] = at[k];
    }
}
