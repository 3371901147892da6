/*
 * Traces: a hot block's code goes on with the blocks that its branches go to.
 *
 * The first code of a block counts its runs, and comes back when they are JIT_WARM (JX_WARM). The
 * next one has the block and, behind it, up to JIT_PARTS - 1 others of the same page: where a Jcc
 * mostly goes, the target of a JMP, the function that a CALL goes to, and what is behind that CALL
 * when the function returns. What a check has found stays known across them (jit_scan.c takes all
 * for one block), vector registers stay, and nothing jumps. The other way of each Jcc is a link
 * like any other.
 *
 * A loop of one block that has few rounds each time (they are counted at first) is in the trace as
 * many times in a row, and the trace goes on behind it: one check does for what all its rounds
 * access beside each other.
 *
 * A part's block that dies takes all code with it that goes on with it (Block.users). Where each
 * block is to be run alone (jit_chaining()) there are no traces.
 */
#include "tcg/jit.h"

extern const ExecSet exec_stac, exec_clac;

enum Ending { ENDS, JUMPS, CALLS, FORKS, RETURNS };

/* How b's last instruction goes on inside its page; *to: its target's place there. */
static enum Ending ending(const Block *b, int64_t *to)
{
    const Insn *i = &b->insn[b->n - 1u];
    const OpRow *r = &op_rows[i->row];
    if (b->n == 0 || r->emit != EMIT_BRANCH || i->opsize != (b->mode & DM_CODE64 ? 8 : 4))
        return ENDS;
    if (r->map == MAP_1B && (r->opcode & 0xfe) == 0xc2)
        return RETURNS;
    *to = (int64_t)(b->gpa & ~PAGE_MASK) + i->disp;
    if (*to < 0 || *to >= (int64_t)PAGE_SIZE)
        return ENDS;
    if ((r->map == MAP_0F && (r->opcode & 0xf0) == 0x80) ||
        (r->map == MAP_1B && (r->opcode & 0xf0) == 0x70))
        return FORKS;
    if (r->map != MAP_1B)
        return ENDS;
    return r->opcode == 0xe9 || r->opcode == 0xeb ? JUMPS : r->opcode == 0xe8 ? CALLS : ENDS;
}

static bool changes_mode(const Block *b)
{
    for (unsigned k = 0; k < b->n; k++) {
        const ExecSet *exec = op_rows[b->insn[k].row].exec;
        if (exec == &exec_stac || exec == &exec_clac)
            return true;
    }
    return false;
}

static bool fits(const Block *b)
{
    return b && !b->soft && !b->stop && !b->no_jit && b->gpa2 == NO_GPA && b->n != 0 && !b->no_runs;
}

static Block *part_at(const Trans *x, int64_t off)
{
    Block *b = off < (int64_t)PAGE_SIZE
                   ? block_at(x->t, (x->b->gpa & PAGE_MASK) + (uint64_t)off, x->b->mode)
                   : NULL;
    if (!fits(b))
        return NULL;
    for (unsigned p = 0; p < x->n_parts; p++)
        if (x->part[p].b == b)
            return NULL;
    return b;
}

/* How often b has run, as far as is known. */
static uint32_t heat(const Trans *x, const Block *b)
{
    const Jit *j = x->j;
    if (!b)
        return 0;
    if (b->hot)
        return UINT32_MAX;
    if (!b->jit)
        return b->runs;
    return b->jit->heat >= 0 ? b->jit->warm_after - j->hot->heat[b->jit->heat] + j->hot_after
                             : j->warm_after;
}

/* ---- loops of one block ---- */
#define ROUNDS_MOST   10u
#define ROUNDS_INSNS  96u
#define ROUNDS_SAMPLE 16u /* part of a trace's runs that says enough */

bool jit_trace_rounds(const Block *b)
{
    int64_t to;
    return fits(b) && ending(b, &to) == FORKS && to == (int64_t)(b->gpa & ~PAGE_MASK) &&
           !changes_mode(b);
}

/* How many rounds the loop b has on average, as its first code has counted; 0: not known. */
static unsigned rounds_counted(const Jit *j, const Block *b)
{
    const JitCode *code = b->jit;
    if (!code || code->heat < 0)
        return 0;
    uint32_t ways = j->hot->heat[code->heat + 1];
    uint32_t rounds = code->warm_after - j->hot->heat[code->heat];
    if (rounds == code->warm_after && !ways)
        return BLOCK_ROUNDS_MAX;
    if (!ways || ways < j->warm_after / ROUNDS_SAMPLE)
        return 0;
    return MIN_OF((rounds + ways / 2) / ways, BLOCK_ROUNDS_MAX);
}

void jit_trace_hot(Jit *j, Block *b)
{
    if (jit_trace_rounds(b))
        b->rounds = (uint8_t)rounds_counted(j, b);
    b->hot = true;
    jit_block_dead(j, b);
}

/* How often the loop `back` is to be in the trace, in a row; 0: it is not one of few rounds. */
static unsigned rounds_of(const Trans *x, const Block *back)
{
    if (!back || !jit_trace_rounds(back))
        return 0;
    unsigned n = back->hot ? back->rounds : rounds_counted(x->j, back);
    return n <= ROUNDS_MOST && n * back->n <= ROUNDS_INSNS ? n : 0;
}

/* The number of rounds of b that the trace ends with. */
static unsigned rounds_so_far(const Trans *x, const Block *b)
{
    unsigned n = 0;
    while (n < x->n_parts && x->part[x->n_parts - 1 - n].b == b)
        n++;
    return n;
}

/* Where the calls that the trace has gone through return to. */
typedef struct Returns {
    int64_t to[JIT_PARTS];
    unsigned n;
} Returns;

/* What follows the part `at`, or NULL. */
static Block *next_part(const Trans *x, struct Part *at, Returns *returns)
{
    const Block *b = at->b;
    int64_t to, behind = (int64_t)(b->gpa & ~PAGE_MASK) + b->size;
    enum Ending how = changes_mode(b) ? ENDS : ending(b, &to);
    if (how == RETURNS) {
        if (!returns->n || !x->fixed)
            return NULL;
        to = returns->to[--returns->n];
    }
    if (how == ENDS)
        return NULL;
    if (how == CALLS)
        returns->to[returns->n++] = behind;
    at->jumps = how != FORKS;
    if (how != FORKS)
        return part_at(x, to);
    Block *on = part_at(x, behind), *away = to >= behind ? part_at(x, to) : NULL;
    /* A loop's end: what is behind it is not what comes next. */
    if (to < behind) {
        Block *back = block_at(x->t, (b->gpa & PAGE_MASK) + (uint64_t)to, b->mode);
        unsigned rounds = back != x->b ? rounds_of(x, back) : 0, done = rounds_so_far(x, back);
        unsigned left = rounds - MIN_OF(done, rounds);
        if (left && x->n + left * back->n <= TRACE_MAX_INSNS && x->n_parts + left <= JIT_PARTS &&
            (done || heat(x, back) >= MIN_OF(heat(x, on), x->j->warm_after))) {
            at->jumps = true;
            return back;
        }
        /* Of blocks that are hot it is not known which is hotter: a trace's end goes back to its
         * beginning rather than on. */
        if (!rounds && (back == x->b ? heat(x, back) >= heat(x, on) : heat(x, back) > heat(x, on)))
            return NULL;
    }
    at->jumps = heat(x, away) > heat(x, on);
    return at->jumps ? away : on;
}

bool jit_trace_may(const Block *b)
{
    int64_t to, behind = (int64_t)(b->gpa & ~PAGE_MASK) + b->size;
    enum Ending how = ending(b, &to);
    if (b->soft || b->no_runs || b->gpa2 != NO_GPA || how == ENDS || how == RETURNS ||
        changes_mode(b))
        return false;
    return how != FORKS || to != behind - b->size; /* a loop of its own: jit_loop.c */
}

void jit_trace_plan(Trans *x)
{
    Block *b = x->b;
    Returns returns = {.n = 0};
    x->n = x->n_parts = 0;
    for (unsigned k = 0; x->twin_of && k < x->twin_of->n_parts; k++) {
        const JitPart *p = &x->twin_of->part[k];
        x->part[x->n_parts++] = (struct Part){.b = p->b, .first = p->first, .jumps = p->jumps};
        for (unsigned n = 0; n < p->b->n; n++)
            x->insn[x->n++] = &p->b->insn[n];
    }
    if (x->twin_of)
        return;
    for (bool more = true; b && more && x->n_parts < JIT_PARTS && x->n + b->n <= TRACE_MAX_INSNS;) {
        struct Part *p = &x->part[x->n_parts++];
        *p = (struct Part){.b = b, .first = x->n};
        for (unsigned k = 0; k < b->n; k++)
            x->insn[x->n++] = &b->insn[k];
        more = x->b->hot && !x->j->no_chain && jit_trace_may(x->b);
        b = more ? next_part(x, p, &returns) : NULL;
    }
}
