/*
 * Where a check may change the flags: they are set anew before anything looks at them, and can be
 * had again where C has to have them meanwhile. A comparison and a jump then do for what PEXT, LEA
 * and LOOP are for elsewhere, and need no island of jumps.
 *
 *     cmp  r12, rbp
 *     jb   out
 *     movzx eax, word ptr [rsi+8]    test rsi, gs:[upper]; jne miss
 *     sub  edi, 1                    sets all of them
 *
 * The cold code of the instructions from the check to the one that sets the flags, for a miss or a
 * fault, first does the CMP once more: what it compared is still in its registers. An ADD is undone
 * in a scratch register and done again, a shift by what its source was moved from.
 *
 * In the second body of a loop the same holds from one round to the next: its bound is looked at by
 * a CMP where an instruction at the top sets the flags, and cold code before that repeats what the
 * end of the round has done.
 *
 * Only rows count of which the processors here and the interpreter set every flag whatever it was.
 */
#include "jit/trans.h"

#define AHEAD  12u /* instructions, at most, to the one that sets the flags */
#define BEHIND 24u /* and back to the one that has set them */

enum Effect { FLAGS_STAY, FLAGS_SET, FLAGS_SOME, FLAGS_OTHER }; /* SOME: and none is read */

/* What an instruction that sets all flags from registers has done. */
enum { OP_ADD, OP_OR, OP_AND = 4, OP_SUB, OP_XOR, OP_CMP, OP_TEST, OP_NEG, OP_SHIFT };
typedef struct Setter {
    uint8_t op, group, size;
    uint8_t to, from; /* registers; from: or GPR_ZERO, and imm */
    int64_t imm;
} Setter;

static bool is_logic(unsigned op)
{
    return op == OP_OR || op == OP_AND || op == OP_XOR;
}

/* Of one byte opcodes. */
static enum Effect effect_of_plain(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    unsigned op = r->opcode, group = r->modrm & 7;
    if (op < 0x40)
        return (op & 7) < 6 && (op & 0x30) != 0x10 ? FLAGS_SET : FLAGS_OTHER;
    switch (op) {
    case 0x80:
    case 0x81:
    case 0x83:
        return group == 2 || group == 3 ? FLAGS_OTHER : FLAGS_SET;
    case 0x84: /* TEST */
    case 0x85:
    case 0xa8:
    case 0xa9:
        return FLAGS_SET;
    case 0xf6:
    case 0xf7:
        return group < 2 || group == 3 ? FLAGS_SET : group == 2 ? FLAGS_STAY : FLAGS_OTHER;
    case 0x69: /* IMUL */
    case 0x6b:
        return FLAGS_SOME;
    case 0xff: /* INC, DEC */
        return group < 2 ? FLAGS_SOME : FLAGS_OTHER;
    case 0xc0:
    case 0xc1:
        if (group < 2) /* ROL, ROR */
            return FLAGS_SOME;
        if (!(i->imm & (i->opsize == 8 ? 63 : 31)) || i->opsize < 4)
            return FLAGS_OTHER;
        /* fall through */
    case 0xd1:
        return i->opsize >= 4 && (group == 4 || group == 5 || group == 7) ? FLAGS_SET : FLAGS_OTHER;
    case 0x63:
    case 0x86:
    case 0x87:
    case 0x88:
    case 0x89:
    case 0x8a:
    case 0x8b:
    case 0xc6:
    case 0xc7:
        return FLAGS_STAY;
    default:
        return FLAGS_OTHER;
    }
}

static enum Effect effect(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    if (!i->opsize)
        return FLAGS_OTHER;
    switch (r->emit) {
    case EMIT_IMM:
    case EMIT_LEA:
    case EMIT_CONV:
    case EMIT_PUSH:
    case EMIT_POP:
    case EMIT_LEAVE:
    case EMIT_NOP:
        return FLAGS_STAY;
    case EMIT_MUL:
        return FLAGS_SOME;
    case EMIT_COPY:
    case EMIT_TEST:
        break;
    default:
        return FLAGS_OTHER;
    }
    if (i->flags & IF_LOCK || r->attr & (A_MMX | A_FPU | A_AVX512))
        return FLAGS_OTHER;
    if (r->map == MAP_1B)
        return effect_of_plain(i);
    if (r->attr & (A_SSE | A_AVX)) /* but comparisons and tests */
        return r->fl_written | r->fl_read ? FLAGS_OTHER : FLAGS_STAY;
    if (r->map == MAP_0F && r->opcode == 0xaf) /* IMUL */
        return FLAGS_SOME;
    return r->map == MAP_0F && (r->opcode & 0xf6) == 0xb6 && r->pfx != PFX_F3 ? FLAGS_STAY
                                                                              : FLAGS_OTHER;
}

/* Is instruction k a branch in the middle of a trace, which leaves the flags alone; and (ahead)
 * does nothing but its cold code leave there? */
static bool passes(const Trans *x, unsigned k, bool ahead)
{
    const OpRow *r = &op_rows[x->insn[k]->row];
    if (r->emit != EMIT_BRANCH || k + 1u >= x->n)
        return false;
    if (!ahead)
        return true;
    if (r->map != MAP_1B || jit_part_of(x, k)[1].cross)
        return false;
    switch (r->opcode) {
    case 0xc2:
    case 0xc3:
    case 0xe8:
    case 0xe9:
    case 0xeb:
        return true;
    default:
        return r->opcode == 0xff && (r->modrm & 7) == 4; /* of CALL the other way is no cold code */
    }
}

static bool register_of(const Insn *i, unsigned field, uint8_t *r)
{
    bool byte = i->opsize == 1;
    *r = (uint8_t)(byte ? field >> 3 : field);
    return !byte || !(field & 7);
}

/* i sets the flags, and from registers that can be named. */
static bool setter_of(const Insn *i, Setter *s)
{
    const OpRow *r = &op_rows[i->row];
    unsigned op = r->opcode, group = r->modrm & 7;
    *s = (Setter){.group = (uint8_t)group, .size = i->opsize, .from = GPR_ZERO, .imm = i->imm};
    if (i->flags & IF_MEM || i->opsize == 2 || r->map != MAP_1B)
        return false;
    if (op < 0x40 && (op & 7) < 4) {
        s->op = (uint8_t)(op >> 3);
        return register_of(i, op & 2 ? i->reg : i->rm, &s->to) &&
               register_of(i, op & 2 ? i->rm : i->reg, &s->from);
    }
    if (op < 0x40 || (op & 0xfe) == 0xa8) {
        s->op = (uint8_t)(op < 0x40 ? op >> 3 : OP_TEST);
        s->to = RAX;
        return true;
    }
    switch (op) {
    case 0x80:
    case 0x81:
    case 0x83:
        s->op = (uint8_t)group;
        return register_of(i, i->rm, &s->to);
    case 0x84:
    case 0x85:
        s->op = OP_TEST;
        return register_of(i, i->rm, &s->to) && register_of(i, i->reg, &s->from);
    case 0xf6:
    case 0xf7:
        s->op = group == 3 ? OP_NEG : OP_TEST;
        return register_of(i, i->rm, &s->to);
    case 0xd1:
        s->imm = 1;
        /* fall through */
    case 0xc1:
        s->op = OP_SHIFT;
        return register_of(i, i->rm, &s->to);
    default:
        return false;
    }
}

/* The register that `to` was moved from before instruction w, and that has not changed since; or
 * GPR_ZERO. */
static unsigned copied_from(const Trans *x, unsigned w, unsigned to)
{
    uint32_t changed = 0;
    for (unsigned k = w; k-- > 0 && w - k <= 4;) {
        const Insn *i = x->insn[k];
        unsigned r = op_rows[i->row].opcode;
        uint32_t now = jit_written(i);
        if (!(now >> to & 1)) {
            changed |= now;
            continue;
        }
        if (op_rows[i->row].map != MAP_1B || (r != 0x89 && r != 0x8b) || i->flags & IF_MEM ||
            i->opsize < 4)
            return GPR_ZERO;
        unsigned from = r == 0x89 ? i->reg : i->rm;
        /* All of its low half is what the setter needs if it is of 32 bits. */
        return changed >> from & 1 || i->opsize < x->insn[w]->opsize ? GPR_ZERO : from;
    }
    return GPR_ZERO;
}

/* How instruction w's flags are had again while `changed` registers are not what they were behind
 * it. False: not at all. */
static bool replay_of(const Trans *x, unsigned w, uint32_t changed, struct Replay *p)
{
    Setter s;
    const Insn *i = x->insn[w];
    *p = (struct Replay){.copy = GPR_ZERO};
    if (effect(i) != FLAGS_SET || !setter_of(i, &s))
        return false;
    if (s.from == s.to && s.op != OP_TEST && s.op != OP_CMP && s.op != OP_SUB && s.op != OP_XOR)
        return false;
    bool other = s.from != GPR_ZERO && s.from != s.to && changed >> s.from & 1;
    bool same = !(changed >> s.to & 1);
    if (!other && (s.op == OP_SUB || s.op == OP_XOR) && s.from == s.to)
        return true;
    if (is_logic(s.op) && same)
        return true;
    if (other)
        return false;
    if (s.op == OP_CMP || s.op == OP_TEST || s.op == OP_ADD || s.op == OP_SUB || s.op == OP_NEG) {
        if (same)
            return true;
        if (s.op == OP_CMP || s.op == OP_TEST)
            return false;
    }
    p->copy = (uint8_t)copied_from(x, w, s.to);
    return s.size >= 4 && p->copy != GPR_ZERO && !(changed >> p->copy & 1) && p->copy != s.to &&
           s.from != s.to;
}

bool jit_flags_free(Trans *x)
{
    uint32_t changed = 0;
    unsigned k, w;
    if (x->b->soft || x->twin_of || x->k >= x->n)
        return false;
    if (x->second && (int)x->k <= x->round_setter)
        return true;
    /* Who sets them next, and what changes until then. */
    for (k = x->k; k < x->n && k - x->k < AHEAD; k++) {
        enum Effect e = effect(x->insn[k]);
        if (e == FLAGS_SET)
            break;
        if (e >= FLAGS_SOME && !passes(x, k, true))
            return false;
        changed |= jit_written(x->insn[k]);
    }
    if (k == x->n || k - x->k == AHEAD)
        return false;
    for (w = x->k; w-- > 0 && x->k - w <= BEHIND;) {
        enum Effect e = effect(x->insn[w]);
        bool stays = e == FLAGS_STAY || passes(x, w, false);
        if (!stays)
            break;
        changed |= jit_written(x->insn[w]);
    }
    struct Replay p;
    if (w >= x->k || x->k - w > BEHIND || !replay_of(x, w, changed, &p))
        return false;
    p.w = (int16_t)w;
    for (unsigned n = x->k; n <= k; n++)
        x->replay[n] = p;
    return true;
}

bool jit_flags_dead(const Trans *x)
{
    unsigned end = x->at->first + x->at->b->n;
    for (unsigned k = x->k + 1u; k < end && !x->at->b->soft; k++) {
        const Insn *i = x->insn[k];
        const OpRow *r = &op_rows[i->row];
        bool plain = r->emit == EMIT_IMM || r->emit == EMIT_LEA || r->emit == EMIT_CONV ||
                     ((r->emit == EMIT_COPY || r->emit == EMIT_TEST) && !(i->flags & IF_MEM) &&
                      !(r->attr & (A_SSE | A_AVX | A_MMX | A_FPU)));
        enum Effect e = effect(i);
        if (!plain || e >= FLAGS_SOME)
            return false;
        if (e == FLAGS_SET)
            return true;
    }
    return false;
}

/* Has an instruction that leaves its loop's second body nowhere any cold code there? */
static bool has_cold_code(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    return r->emit == EMIT_BRANCH || (i->flags & IF_MEM && r->emit != EMIT_LEA) ||
           r->attr & (A_SSE | A_AVX | A_MMX | A_FPU);
}

bool jit_flags_free_round(Trans *x)
{
    uint32_t changed = 0;
    unsigned k, w, last = x->n; /* last: the first to change any */
    x->round_setter = -1;
    for (k = 0; k + 1u < x->n && k < AHEAD; k++) {
        enum Effect e = effect(x->insn[k]);
        if (last < x->n && has_cold_code(x->insn[k]))
            return false;
        if (e >= FLAGS_SET)
            last = MIN_OF(last, k);
        if (e == FLAGS_SET)
            break;
        if (e == FLAGS_OTHER && !passes(x, k, true))
            return false;
        changed |= last == x->n ? jit_written(x->insn[k]) : 0;
    }
    if (k + 1u >= x->n || k == AHEAD)
        return false;
    for (w = x->n - 1u; w-- > k && effect(x->insn[w]) != FLAGS_SET;) {
        if (effect(x->insn[w]) >= FLAGS_SOME && !passes(x, w, false))
            return false;
        changed |= jit_written(x->insn[w]);
    }
    if (!replay_of(x, w, changed, &x->round_replay))
        return false;
    x->round_replay.w = (int16_t)w;
    x->round_setter = (int)last;
    return true;
}

/* One of the arithmetic instructions on register `to` of the host's. */
static void operate(Trans *x, const Setter *s, unsigned op, unsigned to)
{
    Enc e = {
        .map = MAP_1B, .w = s->size == 8, .rex = s->size == 1, .modrm = true, .rm = (uint8_t)to};
    HostMem home;
    unsigned wide = s->size > 1;
    if (op == OP_NEG || (op == OP_TEST && s->from == GPR_ZERO)) {
        e.opcode = (uint8_t)(0xf6 + wide);
        e.reg = op == OP_NEG ? 3 : 0;
        e.imm = s->imm;
        e.imm_size = op == OP_NEG ? 0 : wide ? 4 : 1;
    } else if (op == OP_SHIFT) {
        e.opcode = 0xc1;
        e.reg = s->group;
        e.imm = s->imm;
        e.imm_size = 1;
    } else if (s->from == GPR_ZERO) {
        e.opcode = (uint8_t)(0x80 + wide);
        e.reg = (uint8_t)op;
        e.imm = s->imm;
        e.imm_size = wide ? 4 : 1;
    } else if (s->from == s->to || x->host[s->from] != H_NONE) {
        e.opcode = (uint8_t)((op == OP_TEST ? 0x84 : 8 * op) + wide);
        e.reg = s->from == s->to ? (uint8_t)to : x->host[s->from];
    } else {
        home = jit_home(x, s->from);
        e.opcode = (uint8_t)((op == OP_TEST ? 0x84 : 8 * op + 2) + wide);
        e.reg = (uint8_t)to;
        e.mem = &home;
    }
    encode(&x->c, &e);
}

static void replay(Trans *x, const struct Replay *p)
{
    Setter s;
    setter_of(x->insn[p->w], &s);
    if (p->copy != GPR_ZERO) {
        jit_get(x, H_CX, p->copy);
    } else {
        jit_get(x, H_CX, s.to);
        if (is_logic(s.op) && s.from != s.to) {
            s.from = s.to;
            s.op = OP_TEST;
        } else if ((s.op == OP_ADD || s.op == OP_SUB) && s.from != s.to) {
            operate(x, &s, OP_ADD + OP_SUB - s.op, H_CX);
        } else if (s.op == OP_NEG) {
            operate(x, &s, OP_NEG, H_CX);
        }
    }
    operate(x, &s, s.op, H_CX);
}

void jit_flags_again(Trans *x, unsigned k, bool second)
{
    if (second && (int)k <= x->round_setter)
        replay(x, &x->round_replay);
    else if (k < x->n && x->replay[k].w >= 0)
        replay(x, &x->replay[k]);
}
