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
 * An index that is known to be small (of a byte, say) makes an access one to a table: its run is
 * of JIT_TABLE_SPAN bytes at most, checked by its slot in one piece, whatever the index then is.
 *
 *     movzx eax, bl
 *     mov   ecx, [rdi+rax*4]        [root] to [root+1023], checked all together
 *
 * If the range is not in one page (a stack frame may lie anywhere), the code goes on in its twin: a
 * second translation of the same without runs, made when that has happened some times. Until then,
 * and where the page may not be accessed so, the first one runs by its exec function and the block
 * is left behind it.
 */
#include "jit/trans.h"
#include "tcg/vec.h"

extern const ExecSet exec_x87, exec_fnstsw;

enum { ALL_REGISTERS = 0x1ffff };

static bool is_call(const OpRow *r)
{
    return r->map == MAP_1B && (r->opcode == 0xe8 || (r->opcode == 0xff && (r->modrm & 7) == 2));
}

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
    case EMIT_CONV:
        return r->opcode == 0x98 ? 1u << RAX : 1u << RDX;
    case EMIT_MUL:
    case EMIT_DIV:
        return 1u << RAX | 1u << RDX;
    case EMIT_PUSH:
    case EMIT_PUSHF:
        return 1u << RSP;
    case EMIT_POP:
        return 1u << RSP | 1u << i->reg;
    case EMIT_LEAVE:
        return 1u << RSP | 1u << RBP;
    case EMIT_X87:
        return r->exec == &exec_fnstsw && !(i->flags & IF_MEM) ? 1u << RAX : 0;
    case EMIT_BRANCH: /* Jcc and JMP nothing */
        if (r->map == MAP_0F || (r->opcode & 0xf0) == 0x70 || (r->opcode & 0xfd) == 0xe9 ||
            (r->opcode == 0xff && !is_call(r)))
            return 0;
        return 1u << RSP | (is_call(r) ? 0 : 1u << RCX);
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
    case EMIT_X87:
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
        case OC_MMRM:
            *size = r->attr & (A_SSE | A_AVX | A_MMX) ? vec_operand_bytes(i, r->op[k])
                    : operand_info[r->op[k]].size     ? operand_info[r->op[k]].size
                                                      : i->opsize;
            *write = (k == 0 && r->emit != EMIT_TEST) || r->emit == EMIT_CMPXCHG;
            if (r->emit == EMIT_MUL || r->emit == EMIT_DIV)
                *write = false;
            if (r->emit == EMIT_X87)
                *write = r->exec != &exec_x87;
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

/* What the kernel has by GS, one for each processor, and programs by FS, one for each thread.
 * False: not in a form that takes part. */
static bool by_segment(const Trans *x, const struct Part *part, const Insn *i, struct Place *p)
{
    int64_t disp = i->disp;
    if (i->asize != 8 || i->index != GPR_ZERO || (i->base == GPR_IP && !x->fixed))
        return false;
    if (i->base == GPR_IP)
        disp += (int64_t)x->b->fixed_at + part->off;
    *p = i->base < GPR_N ? (struct Place){PLACE_SEGMENT, i->base, 0, (int32_t)disp}
                         : (struct Place){PLACE_SEGMENT, GPR_ZERO, 0, (int32_t)disp};
    return disp == (int32_t)disp;
}

/* The one access of i that takes part in runs. False: none. */
static bool access_of(const Trans *x, const struct Part *part, const Insn *i, struct Place *p,
                      unsigned *size, bool *write)
{
    const OpRow *r = &op_rows[i->row];
    unsigned word = x->mode & DM_CODE64 ? 8 : 4;
    switch (r->emit) {
    case EMIT_PUSH:
    case EMIT_PUSHF:
        if ((i->flags & IF_MEM && !x->kernel) || i->opsize != word)
            return false; /* of PUSH from memory, in the kernel: what it pushes */
        *p = (struct Place){RSP, GPR_ZERO, 0, -(int32_t)word};
        *size = word;
        *write = true;
        return true;
    case EMIT_POP:
    case EMIT_LEAVE:
        if (i->opsize != word)
            return false;
        *p = (struct Place){r->emit == EMIT_POP ? RSP : RBP, GPR_ZERO, 0, 0};
        *size = word;
        *write = false;
        return true;
    case EMIT_BRANCH:
        if (i->opsize != word || r->map != MAP_1B)
            return false;
        *size = word;
        *write = is_call(r);
        *p = (struct Place){RSP, GPR_ZERO, 0, *write ? -(int32_t)word : 0};
        return *write || r->opcode == 0xc2 || r->opcode == 0xc3;
    default:
        break;
    }
    if (word == 8 && i->seg == jit_segment(x))
        return by_segment(x, part, i, p) && jit_memory_operand(i, size, write);
    bool by_rip = i->base == GPR_IP && x->fixed && i->seg == SEG_NONE && word == 8;
    bool indexed = i->index != GPR_ZERO && word == 8 && i->seg == SEG_NONE &&
                   (i->base < GPR_N || i->base == GPR_ZERO);
    if (!(i->flags & IF_FLAT) || (i->index != GPR_ZERO && !indexed) ||
        (i->base >= GPR_N && !by_rip && !indexed) || i->asize != word ||
        i->disp != (int32_t)i->disp)
        return false;
    *p = (struct Place){i->base, i->index, i->scale, (int32_t)i->disp};
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
    case 0x05: /* ADD, SUB rAX, imm */
    case 0x2d:
        *to = *from = RAX;
        *n = r->opcode == 0x2d ? -i->imm : i->imm;
        return true;
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

/* i sets a register to a number. */
static bool sets_number(const Insn *i, unsigned *to, int64_t *n)
{
    const OpRow *r = &op_rows[i->row];
    if (i->opsize < 4 || !(i->flags & IF_CODE64))
        return false;
    if (r->emit == EMIT_IMM) {
        *to = i->reg;
        *n = i->opsize == 4 ? (int64_t)(uint32_t)i->imm : i->imm;
        return true;
    }
    *to = i->rm;
    *n = 0;
    if (r->emit != EMIT_COPY || r->map != MAP_1B || (i->flags & IF_MEM) || i->reg != i->rm)
        return false;
    return (r->opcode & 0xfd) == 0x31 || (r->opcode & 0xfd) == 0x29; /* XOR, SUB with itself */
}

enum {
    ROOT_PAGE,    /* addresses that are known now, from the page of the code */
    ROOT_NUMBER,  /* numbers */
    ROOT_SEGMENT, /* PLACE_SEGMENT; what it is is not known, as of all that follow */
    ROOT_FIRST,
    ROOTS_MAX = ROOT_FIRST + GPR_N + 3 * TRACE_MAX_INSNS,
    PAIRS_MAX = 32
};

typedef struct Scan {
    Value value[GPR_N];
    unsigned roots, n_pairs;
    struct {
        uint16_t base, index, root;
        uint8_t scale;
    } pair[PAIRS_MAX];
    int open[ROOTS_MAX];      /* by root: its run, or -1 */
    int mirror[ROOTS_MAX];    /* likewise, of those by the mirror */
    uint8_t areas[ROOTS_MAX]; /* where accesses off it have been seen: bits, by enum MirrorArea */
    uint8_t bits[GPR_N];      /* bits.c */
    int tables[ROOTS_MAX][2]; /* likewise, of wide ones; 1: to write */
    uint64_t most[GPR_N];     /* of registers' values */
} Scan;

/* A new value; false: enough of it. */
static bool new_value(Scan *s, Value *v)
{
    if (s->roots == ROOTS_MAX)
        return false;
    s->open[s->roots] = s->mirror[s->roots] = -1;
    s->tables[s->roots][0] = s->tables[s->roots][1] = -1;
    *v = (Value){(uint16_t)s->roots++, 0};
    return true;
}

/* The root of the sum of two values. */
static bool pair_root(Scan *s, unsigned base, unsigned index, unsigned scale, uint16_t *root)
{
    Value v;
    for (unsigned n = 0; n < s->n_pairs; n++) {
        if (s->pair[n].base == base && s->pair[n].index == index && s->pair[n].scale == scale) {
            *root = s->pair[n].root;
            return true;
        }
    }
    if (s->n_pairs == PAIRS_MAX || !new_value(s, &v))
        return false;
    s->pair[s->n_pairs].base = (uint16_t)base;
    s->pair[s->n_pairs].index = (uint16_t)index;
    s->pair[s->n_pairs].scale = (uint8_t)scale;
    s->pair[s->n_pairs++].root = *root = v.root;
    return true;
}

static Value value_of(const Scan *s, unsigned r)
{
    return r < GPR_N ? s->value[r] : (Value){r == PLACE_SEGMENT ? ROOT_SEGMENT : ROOT_NUMBER, 0};
}

/* What p is, as a root and what is added; a number that is in a register becomes part of the
 * displacement. False: nothing for a run. */
static bool resolve(Scan *s, int64_t from, struct Place *p, uint16_t *root, int64_t *off)
{
    const int64_t most = INT32_MAX - 2 * (int64_t)PAGE_SIZE; /* a check adds something */
    if (p->disp < -most || p->disp > most)
        return false;
    if (p->base == GPR_IP) {
        *root = ROOT_PAGE;
        *off = from + p->disp;
        return true;
    }
    if (p->index == GPR_ZERO) {
        *root = value_of(s, p->base).root;
        *off = (int64_t)value_of(s, p->base).delta + p->disp;
        return true;
    }
    Value base = value_of(s, p->base), index = value_of(s, p->index);
    int64_t more = (int64_t)((uint64_t)index.delta << p->scale), disp = p->disp;
    *off = base.delta + more + disp;
    if (index.root == ROOT_NUMBER && p->base != GPR_ZERO) {
        *root = base.root;
        disp += more;
        p->index = GPR_ZERO;
    } else if (base.root == ROOT_NUMBER && !p->scale) {
        *root = index.root;
        disp += base.delta;
        p->base = p->index;
        p->index = GPR_ZERO;
    } else if (!pair_root(s, base.root, index.root, p->scale, root)) {
        return false;
    }
    p->disp = (int32_t)disp;
    return disp >= -most && disp <= most;
}

/* An element of a table: root and displacement are of the first one. False: p is none, its index
 * may be anything. */
static bool in_table(const Trans *x, const Scan *s, const struct Place *p, uint16_t *root,
                     int64_t *off)
{
    if (p->index >= GPR_N || s->most[p->index] > (uint64_t)JIT_TABLE_SPAN >> p->scale ||
        x->b->no_tables || !jit_has_slots(x))
        return false;
    Value base = value_of(s, p->base);
    *root = base.root;
    *off = (int64_t)base.delta + p->disp;
    return llabs(p->disp) < INT32_MAX / 2;
}

/* One more access, of instruction k, to `size` bytes somewhere. */
static void add_access(Trans *x, int *open, unsigned k, int64_t off, unsigned size, bool write,
                       bool table)
{
    int run = *open;
    if (run >= 0) {
        struct Run *u = &x->run[run];
        int64_t lo = MIN_OF((int64_t)u->lo, off), hi = MAX_OF((int64_t)u->hi, off + size);
        if (hi - lo <= (table ? JIT_TABLE_SPAN : JIT_RUN_SPAN) && lo == (int32_t)lo &&
            hi == (int32_t)hi) {
            u->lo = (int32_t)lo;
            u->hi = (int32_t)hi;
            u->write |= write;
            u->n++;
        } else {
            run = -1;
        }
    }
    if (run < 0 && x->n_runs < ARRAY_LEN(x->run) && off == (int32_t)off &&
        off + size == (int32_t)(off + size)) {
        run = (int)x->n_runs++;
        x->run[run] = (struct Run){.lo = (int32_t)off,
                                   .hi = (int32_t)off + (int32_t)size,
                                   .write = write,
                                   .table = table,
                                   .n = 1};
        *open = run;
    }
    x->run_of[k] = (int16_t)run;
    x->run_at[k] = (int32_t)off;
}

/* ---- accesses by the mirror: mirror.c ---- */
/* An index of so many bits, with its scale, stays in the room around the mirror's areas. */
#define INDEX_BITS 39

/* The value that p is off, and how far. False: enough of it. */
static bool mirror_root(Trans *x, Scan *s, unsigned k, const struct Part *part, struct Place *p,
                        uint16_t *root, int64_t *off)
{
    bool bounded = p->index < GPR_N && s->bits[p->index] + p->scale <= INDEX_BITS;
    struct Place q = *p;
    if (bounded && p->base != GPR_ZERO && s->value[p->index].root == ROOT_NUMBER &&
        resolve(s, part->off, &q, root, off)) { /* it becomes part of the displacement */
        *p = q;
        x->run_bounded[k] = false;
        return true;
    }
    x->run_bounded[k] = bounded;
    if (!bounded)
        return resolve(s, part->off, p, root, off);
    Value base = value_of(s, p->base);
    *root = base.root;
    *off = (int64_t)base.delta + p->disp;
    if (base.root == ROOT_NUMBER && !x->kernel && llabs(*off) < INT32_MAX / 2) {
        p->base = GPR_ZERO; /* it is part of the displacement */
        p->disp = (int32_t)*off;
    }
    return llabs(p->disp) < INT32_MAX / 2;
}

/* Where an access off this root is, if that is known without looking. */
static enum MirrorArea area_known(const Trans *x, unsigned root, int64_t off)
{
    if (root == ROOT_NUMBER)
        return jit_mirror_area((gva_t)off);
    return root == ROOT_PAGE ? jit_mirror_area(x->b->fixed_at + (gva_t)off) : MIRROR_NONE;
}

/* The same of one that is not: all that have been seen were there. */
static enum MirrorArea area_seen(const Scan *s, unsigned root)
{
    return s->areas[root] == BIT(MIRROR_LOW)    ? MIRROR_LOW
           : s->areas[root] == BIT(MIRROR_HIGH) ? MIRROR_HIGH
                                                : MIRROR_NONE;
}

/* Instruction k's access; false: not by the mirror. */
static bool add_mirrored(Trans *x, Scan *s, unsigned k, unsigned root, int64_t off)
{
    const struct Part *part = jit_part_of(x, k);
    enum MirrorArea area = area_known(x, root, off);
    bool known = area != MIRROR_NONE;
    int *run = &s->mirror[root];
    if (root >= ROOT_SEGMENT)
        area = area_seen(s, root);
    if (area == MIRROR_NONE || (*run >= 0 && x->run[*run].area != area) ||
        (part->b->no_mirror >> (k - part->first) & 1))
        return false;
    if (*run < 0) {
        if (x->n_runs == ARRAY_LEN(x->run))
            return false;
        *run = (int)x->n_runs++;
        x->run[*run] = (struct Run){.slot = -1, .area = (uint8_t)area, .known = known, .n = 2};
    }
    x->run_of[k] = (int16_t)*run;
    return true;
}

/* What the stack pointer is behind i, if that is known: its value before, plus *by. */
static bool moves_stack(const Insn *i, unsigned word, unsigned *from, int32_t *by)
{
    const OpRow *r = &op_rows[i->row];
    *from = RSP;
    if (i->opsize != word)
        return false;
    switch (r->emit) {
    case EMIT_PUSH:
    case EMIT_PUSHF:
        *by = -(int32_t)word;
        return true;
    case EMIT_POP:
        *by = (int32_t)word;
        return i->reg != RSP;
    case EMIT_LEAVE:
        *from = RBP;
        *by = (int32_t)word;
        return true;
    case EMIT_BRANCH:
        *by = is_call(r) ? -(int32_t)word : (int32_t)word + (int32_t)i->imm;
        return is_call(r) || (r->map == MAP_1B && (r->opcode & 0xfe) == 0xc2);
    default:
        return false;
    }
}

/* The greatest number that a register holds behind i, where that is known. */
static bool bounds(const Scan *s, const Insn *i, unsigned *to, uint64_t *most)
{
    const OpRow *r = &op_rows[i->row];
    unsigned group = r->modrm & 7;
    uint64_t all = i->opsize == 8 ? ~0ull : UINT32_MAX;
    if (i->opsize < 4 || !(i->flags & IF_CODE64))
        return false;
    if (r->emit == EMIT_IMM) {
        *to = i->reg;
        *most = (uint64_t)i->imm & all;
        return true;
    }
    if (r->emit != EMIT_COPY || (r->attr & (A_SSE | A_AVX | A_MMX | A_FPU)))
        return false;
    if (r->map == MAP_0F && (r->opcode & 0xfe) == 0xb6 && r->pfx != PFX_F3) { /* MOVZX */
        *to = i->reg;
        *most = r->opcode == 0xb6 ? UINT8_MAX : UINT16_MAX;
        return true;
    }
    if (r->map != MAP_1B || (i->flags & IF_MEM))
        return false;
    *to = i->rm;
    switch (r->opcode) {
    case 0x25: /* AND rAX, imm */
        *to = RAX;
        *most = (uint64_t)i->imm & all;
        return true;
    case 0x81:
    case 0x83:
        *most = MIN_OF((uint64_t)i->imm & all, s->most[i->rm]);
        return group == 4;
    case 0xc1: /* SHR */
        *most = all >> ((uint64_t)i->imm & (i->opsize == 8 ? 63 : 31));
        return group == 5;
    case 0x89:
        *most = MIN_OF(all, s->most[i->reg]);
        return true;
    case 0x8b:
        *to = i->reg;
        *most = MIN_OF(all, s->most[i->rm]);
        return true;
    default:
        return false;
    }
}

/* LEA of an address that is known: how far it is from the page of the code. */
static bool sets_address(const Trans *x, const struct Part *part, const Insn *i, unsigned *to,
                         int64_t *off)
{
    *to = i->reg;
    *off = part->off + i->disp;
    return op_rows[i->row].emit == EMIT_LEA && i->base == GPR_IP && i->index == GPR_ZERO &&
           x->fixed && i->opsize == 8 && i->asize == 8 && (i->flags & IF_CODE64);
}

/* What registers hold behind i. False: enough of it. */
static bool follow(Scan *s, const Trans *x, const struct Part *part, const Insn *i, unsigned word)
{
    unsigned to, from, stack;
    int64_t n = 0;
    int32_t by;
    uint32_t w = jit_written(i);
    bool known = sets_number(i, &to, &n) && n == (int32_t)n, moves;
    Value v = {ROOT_NUMBER, (int32_t)n};
    if (!known && sets_address(x, part, i, &to, &n)) {
        v = (Value){ROOT_PAGE, (int32_t)n};
        known = n == (int32_t)n;
    } else if (!known && jit_adds_constant(i, &to, &from, &n)) {
        n += s->value[from].delta;
        v = (Value){s->value[from].root, (int32_t)n};
        known = n == (int32_t)n;
    }
    unsigned bounded;
    uint64_t most;
    bool bound = bounds(s, i, &bounded, &most);
    /* POP and PUSH of RSP itself, and what is not followed, fall to jit_written(). */
    moves = moves_stack(i, word, &stack, &by);
    Value rsp = s->value[stack];
    for (unsigned r = 0; r < GPR_N; r++) {
        if (!(w >> r & 1))
            continue;
        s->most[r] = UINT64_MAX;
        if (!new_value(s, &s->value[r]))
            return false;
    }
    if (known)
        s->value[to] = v;
    jit_bits_follow(s->bits, i);
    if (bound)
        s->most[bounded] = most;
    if (moves && (int64_t)rsp.delta + by == (int32_t)(rsp.delta + (int64_t)by))
        s->value[RSP] = (Value){rsp.root, rsp.delta + by};
    return true;
}

static void runs_end(Scan *s)
{
    for (unsigned r = 0; r < s->roots; r++)
        s->open[r] = s->mirror[r] = s->tables[r][0] = s->tables[r][1] = -1;
}

/* Where instruction k's access, of the kernel's, has been seen; and its run. unseen: behind STI,
 * where nothing is noted, as it ends a run of the block by the interpreter. */
static void see_area(Trans *x, unsigned k, const struct Part *part, const struct Place *p,
                     bool unseen)
{
    const Insn *i = x->insn[k];
    unsigned at = k - part->first, area = jit_kernel_seen(part->b, at);
    struct Run *u = x->run_of[k] >= 0 ? &x->run[x->run_of[k]] : NULL;
    bool out = part->b->no_mirror >> at & 1;
    bool loads = op_rows[i->row].emit == EMIT_PUSH && (i->flags & IF_MEM); /* its operand's */
    if (unseen && !loads)
        area = jit_kernel_guess(x->j, p->base == RSP || p->base == RBP);
    x->area_of[k] = (uint8_t)(out ? MIRROR_NONE : area);
    if (!u)
        return;
    u->no_area |= out;
    if (!loads && !u->kernel_area)
        u->kernel_area = (uint8_t)area;
    if (u->no_area)
        u->kernel_area = MIRROR_NONE;
}

/* The runs, each with all that are off the same root. look: only at where accesses have been. */
static void find_runs(Trans *x, Scan *s, bool look)
{
    const struct Part *part = x->part;
    unsigned word = x->mode & DM_CODE64 ? 8 : 4, size;
    bool write, unseen = false;
    for (unsigned k = 0; k < x->n; k++) {
        const Insn *i = x->insn[k];
        struct Place p;
        uint16_t root;
        int64_t off;
        if (k == part->first + part->b->n) {
            part++;
            unseen = false;
        }
        if (!i->opsize ||
            op_rows[i->row].emit == EMIT_HELPER) { /* whatever it does, runs end here */
            runs_end(s);
            for (unsigned r = 0; r < GPR_N; r++) {
                s->most[r] = UINT64_MAX;
                s->bits[r] = 64;
                if (!new_value(s, &s->value[r]))
                    return;
            }
            continue;
        }
        bool access = access_of(x, part, i, &p, &size, &write);
        if (access && x->mirror) { /* pairs get their numbers, the same ones each time */
            struct Place q = p;
            resolve(s, part->off, &q, &root, &off);
        }
        if (access && x->mirror) {
            struct Place q = p;
            unsigned at = k - part->first;
            if (mirror_root(x, s, k, part, &q, &root, &off)) {
                for (unsigned a = MIRROR_LOW; look && a <= MIRROR_HIGH; a++)
                    s->areas[root] |= (uint8_t)((part->b->in_mirror[a - 1] >> at & 1) << a);
                if (!look && add_mirrored(x, s, k, root, off)) {
                    x->run_place[k] = q;
                    access = false;
                }
            }
        }
        if (access && !look) {
            if (in_table(x, s, &p, &root, &off))
                add_access(x, &s->tables[root][write], k, off,
                           (unsigned)(s->most[p.index] << p.scale) + size, write, true);
            else if (resolve(s, part->off, &p, &root, &off))
                add_access(x, &s->open[root], k, off, size, write, false);
            x->run_place[k] = p;
        }
        if (x->kernel && access)
            see_area(x, k, part, &p, unseen);
        unseen |= op_rows[i->row].emit == EMIT_STI;
        if (!follow(s, x, part, i, word))
            return; /* the rest goes without */
    }
}

static void begin(Scan *s)
{
    s->roots = ROOT_FIRST;
    s->n_pairs = 0;
    runs_end(s);
    for (unsigned r = 0; r < GPR_N; r++) {
        s->most[r] = UINT64_MAX;
        s->bits[r] = 64;
        new_value(s, &s->value[r]);
    }
}

void jit_scan(Trans *x)
{
    static _Thread_local Scan s;
    x->n_runs = 0;
    x->mirror = x->kernel = false;
    for (unsigned k = 0; k < x->n; k++) {
        x->run_of[k] = -1;
        x->area_of[k] = MIRROR_NONE;
    }
    if (x->b->no_runs || x->twin_of)
        return;
    x->kernel =
        x->fixed && (x->b->mode & (DM_CODE64 | DM_CPL3)) == DM_CODE64 && jit_kernel_claim(x->j);
    x->mirror = x->fixed && x->b->hot && jit_has_slots(x) && jit_mirror_claim(x->j);
    if (x->mirror) {
        memset(s.areas, 0, sizeof(s.areas));
        begin(&s);
        find_runs(x, &s, true);
    }
    begin(&s);
    find_runs(x, &s, false);
    for (unsigned k = 0; k < x->n; k++)
        if (x->run_of[k] >= 0 && x->run[x->run_of[k]].n < 2)
            x->run_of[k] = -1;
}
