/*
 * Traces: a hot block's code goes on with the blocks that run after it.
 *
 * The first code of a block counts its runs, and comes back when they are JIT_WARM (JX_WARM). Not
 * those by a jump forward from code that counts as well (JitLink.counts): a trace that begins there
 * has it. From there on the interpreter runs what comes next, and the path is noted; that is done
 * JIT_PATHS times, some runs apart. The next code has the block and, behind it, some two dozen
 * others, in the order that most of the paths had: where a Jcc, JMP or CALL goes, where a RET goes
 * back to, and where indirect jumps mostly go (the target is compared with that one). What a check
 * has found stays known across them (scan.c takes all for one block), vector registers stay,
 * and nothing jumps. The other way of each Jcc is a link like any other.
 *
 * A block may be there several times: a function that calls itself, a handler of an interpreter.
 * Where the trace comes into another page than before there is a guard: a far JitLink that leads
 * straight on as long as that page is known to be where it was.
 *
 * A loop of one block that has few rounds each time (they are counted at first) is in the trace as
 * many times in a row, and the trace goes on behind it: one check does for what all its rounds
 * access beside each other. So does a loop of several blocks, if all paths have the same few
 * rounds of it: where the trace then jumps to its own beginning it may be twice as long.
 *
 * A part's block that dies takes all code with it that goes on with it (Block.users). Where each
 * block is to be run alone (jit_chaining()) there are no traces.
 */
#include "jit/trans.h"

extern const ExecSet exec_stac, exec_clac;

/* Of a trace; but of one with all rounds of an inner loop, which jumps to its own beginning then,
 * JIT_PARTS and TRACE_MAX_INSNS. */
#define TRACE_PARTS 24u
#define TRACE_INSNS 128u

enum Ending { ENDS, JUMPS, CALLS, FORKS, RETURNS, JUMPS_BY, CALLS_BY };

/* How b's last instruction goes on; *to: its target, from b's first byte on. */
static enum Ending ending(const Block *b, int64_t *to)
{
    const Insn *i = &b->insn[b->n ? b->n - 1u : 0];
    const OpRow *r = &op_rows[i->row];
    *to = 0;
    if (b->n == 0 || r->emit != EMIT_BRANCH || i->opsize != (b->mode & DM_CODE64 ? 8 : 4))
        return ENDS;
    *to = i->disp;
    if ((r->map == MAP_0F && (r->opcode & 0xf0) == 0x80) ||
        (r->map == MAP_1B && (r->opcode & 0xf0) == 0x70))
        return FORKS;
    if (r->map != MAP_1B)
        return ENDS;
    switch (r->opcode) {
    case 0xc2:
    case 0xc3:
        return RETURNS;
    case 0xe8:
        return CALLS;
    case 0xe9:
    case 0xeb:
        return JUMPS;
    case 0xff:
        return (r->modrm & 7) == 2 ? CALLS_BY : JUMPS_BY;
    default:
        return ENDS;
    }
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

/* RIP `off` bytes behind that of b. */
static uint64_t rip_behind(const Block *b, uint64_t rip, int64_t off)
{
    rip += (uint64_t)off;
    return b->mode & DM_CODE64 ? rip : (uint32_t)rip;
}

bool jit_trace_may(const Block *b)
{
    int64_t to;
    return fits(b) && !changes_mode(b) && ending(b, &to) != ENDS && !jit_trace_rounds(b);
}

/* ---- loops of one block ---- */
#define ROUNDS_MOST   JIT_TRACE_ROUNDS
#define ROUNDS_INSNS  112u
#define ROUNDS_SAMPLE 16u /* part of a trace's runs that says enough */

bool jit_trace_rounds(const Block *b)
{
    int64_t to;
    return fits(b) && ending(b, &to) == FORKS && to == 0 && !changes_mode(b);
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

/* How often the loop of s is to be in a trace, in a row; 0: it is not one of few rounds. */
static unsigned rounds_of(const Jit *j, const JitStep *s)
{
    const Block *b = s->b;
    unsigned n = b->hot ? b->rounds : rounds_counted(j, b);
    if (!n)
        n = s->again + 1;
    return n <= ROUNDS_MOST && n * b->n <= ROUNDS_INSNS ? n : 0;
}

/* ---- noting paths ---- */
#define RUNS_BETWEEN 16u

/* May control pass from the end of `s` to this RIP? */
static bool leads(const JitStep *s, uint64_t rip)
{
    int64_t to;
    switch (changes_mode(s->b) ? ENDS : ending(s->b, &to)) {
    case ENDS:
        return false;
    case FORKS:
        if (rip == rip_behind(s->b, s->rip, s->b->size))
            return true;
        break;
    case RETURNS:
    case JUMPS_BY:
    case CALLS_BY:
        return true;
    default:
        break;
    }
    return rip == rip_behind(s->b, s->rip, to);
}

/* Does a jump from the end of the first n steps to this RIP make a loop, to the beginning or inside
 * them? Calls, returns and indirect jumps do not. */
static bool closes(const JitStep *s, unsigned n, uint64_t rip)
{
    for (unsigned k = n; k-- > 0;) {
        int64_t to;
        enum Ending how = ending(s[k].b, &to);
        if (how != FORKS && how != JUMPS)
            return k + 1 < n && rip == s[0].rip;
        if (s[k].rip == rip)
            return true;
    }
    return false;
}

/*
 * A path ends where it comes to a loop's beginning again. But a loop of several blocks that it came
 * into, that has gone the same way in each of a few rounds (`most`), and was left then, stays in it
 * with all of them; and behind it the path may come through what it has been through before if that
 * leads to its own beginning. Ends p there and returns true; where what comes next (more) may say
 * otherwise, not yet.
 */
static bool cut_path(JitPath *p, unsigned most, bool more)
{
    JitStep *s = p->step;
    bool few = false, cut = false;
    for (unsigned k = 1; k < p->n; k++) {
        unsigned first = k, rounds = 1, n = k;
        if (!closes(s, k, s[k].rip))
            continue;
        while (s[--first].rip != s[k].rip)
            ;
        for (; n < p->n && s[n].rip == s[n - (k - first)].rip; n++)
            rounds += (n - first) % (k - first) == 0;
        if (n == p->n && more && first && rounds <= most)
            return false;
        if (n < p->n && n >= 2 * k - first && first && rounds <= most) {
            few = true; /* the step at n is behind the loop */
            k = first + 1;
        } else {
            for (n = k; few && first && n < p->n && s[n].rip != s[0].rip; n++)
                ;
            if (n == p->n && more)
                return false;
            if (n == p->n)
                n = k;
            p->n = n;
            cut = true;
        }
        for (; k < n; k++)
            s[k].row = true;
        k--;
    }
    return cut;
}

/* How many are noted. Most of a kernel's hot code runs too seldom for the interpreter's part in
 * more than one to come back. */
static uint32_t paths_wanted(const Jit *j, const JitCode *code)
{
    return code->first->mode & DM_CPL3 ? j->trace_paths : j->kernel_paths;
}

static void path_ends(Jit *j, bool counts)
{
    JitCode *code = j->recording;
    code->n_paths += counts;
    j->hot->heat[code->heat] =
        code->n_paths < paths_wanted(j, code) ? MIN_OF(RUNS_BETWEEN, j->warm_after) : 1;
    j->recording = NULL;
}

bool jit_trace_record(Jit *j, Block *b)
{
    const JitCode *code = j->recording;
    JitPath *p = &code->path[code->n_paths];
    JitStep *last = p->n ? &p->step[p->n - 1] : NULL;
    uint64_t rip = j->t->v->st.rip;
    if (!last && b != code->block) { /* something came between */
        path_ends(j, false);
        return false;
    }
    if (last && last->b == b && last->rip == rip && jit_trace_rounds(b)) {
        if (++last->again <= ROUNDS_MOST)
            return true;
        cut_path(p, j->trace_rounds, false);
        path_ends(j, true);
        return false;
    }
    unsigned insns = b->n;
    for (unsigned k = 0; k < p->n; k++)
        insns += p->step[k].b->n;
    if (!fits(b) || b->mode != code->block->mode || p->n == JIT_STEPS || insns > TRACE_INSNS ||
        (last && !leads(last, rip))) {
        cut_path(p, j->trace_rounds, false);
        path_ends(j, true);
        return false;
    }
    p->step[p->n++] = (JitStep){.b = b, .rip = rip};
    if (!cut_path(p, j->trace_rounds, true))
        return true;
    path_ends(j, true);
    return false;
}

/* ---- what the trace is to be ---- */
typedef struct JitPlan {
    unsigned n;
    JitStep step[JIT_PARTS];
} JitPlan;

typedef struct Draft {
    const Jit *j;
    const JitCode *code;
    JitPlan *plan;
    unsigned insns, most_parts, most_insns;
    uint32_t with;          /* paths that have been the same so far, as bits */
    uint64_t to[JIT_STEPS]; /* where the calls it has gone through return to */
    unsigned calls;
} Draft;

/* What most of the paths have at place `at`: so many, of those that are not at their end. 0: most
 * are, where they go back to the beginning, for one. */
static unsigned vote(const Draft *d, unsigned at, JitStep *most, unsigned *of)
{
    unsigned best = 0, ended = 0;
    *of = 0;
    for (unsigned k = 0; k < d->code->n_paths; k++) {
        const JitPath *p = &d->code->path[k];
        unsigned same = 0;
        if (!(d->with >> k & 1))
            continue;
        if (p->n <= at) {
            ended++;
            continue;
        }
        ++*of;
        for (unsigned m = 0; m < d->code->n_paths; m++)
            same += (d->with >> m & 1) && d->code->path[m].n > at &&
                    d->code->path[m].step[at].rip == p->step[at].rip;
        if (same > best) {
            best = same;
            *most = p->step[at];
        }
    }
    return best > ended ? best : 0;
}

static void keep_those_with(Draft *d, unsigned at, uint64_t rip)
{
    for (unsigned k = 0; k < d->code->n_paths; k++)
        if (d->code->path[k].n <= at || d->code->path[k].step[at].rip != rip)
            d->with &= ~(1u << k);
}

/* Does the trace go on with `next` behind its last part? So many paths say so. */
static bool goes_on(Draft *d, const JitStep *next, unsigned paths, unsigned of)
{
    const JitPlan *plan = d->plan;
    const JitStep *last = &plan->step[plan->n - 1];
    int64_t to;
    enum Ending how = changes_mode(last->b) ? ENDS : ending(last->b, &to);
    bool mostly = 2 * paths >= of && (of > 1 || d->code->n_paths == 1);
    switch (how) {
    case ENDS:
        return false;
    case FORKS:
        /* A loop's end: what is behind it is not what comes next. One of few rounds that is entered
         * in its middle has a block of its own for all but the first. */
        if (to <= 0 && next->rip == rip_behind(last->b, last->rip, to) && !next->row &&
            !(jit_trace_rounds(next->b) && rounds_of(d->j, next)))
            return false;
        /* fall through */
    case JUMPS:
        return next->row || !closes(plan->step, plan->n, next->rip);
    case CALLS:
    case CALLS_BY:
        d->to[d->calls++] = rip_behind(last->b, last->rip, last->b->size);
        return how == CALLS || mostly;
    case RETURNS:
        return d->calls ? d->to[--d->calls] == next->rip : mostly;
    case JUMPS_BY:
        return mostly;
    }
    return false;
}

/* False: no room. */
static bool add_step(Draft *d, const JitStep *s, unsigned times)
{
    if (d->plan->n + times > d->most_parts || d->insns + times * s->b->n > d->most_insns)
        return false;
    d->insns += times * s->b->n;
    while (times--)
        d->plan->step[d->plan->n++] = *s;
    return true;
}

/* False: there was no room for all that the paths say. */
static bool draft(Draft *d)
{
    const JitCode *code = d->code;
    JitPlan *plan = d->plan;
    JitStep next = {.b = code->block, .rip = d->j->t->v->st.rip};
    d->with = (1u << code->n_paths) - 1;
    d->insns = d->calls = plan->n = 0;
    bool more = add_step(d, &next, 1), full = false;
    for (unsigned at = 1; more && at < JIT_STEPS; at++) {
        unsigned of, paths = vote(d, at, &next, &of);
        bool all = paths == (unsigned)__builtin_popcount(d->with);
        if (!paths || (next.row && !all) || !goes_on(d, &next, paths, of)) {
            more = !of;
            break;
        }
        keep_those_with(d, at, next.rip);
        bool loop = jit_trace_rounds(next.b);
        unsigned rounds = loop ? rounds_of(d->j, &next) : 0;
        full = !add_step(d, &next, MAX_OF(rounds, 1u));
        more = !full && (!loop || rounds);
    }
    /* A loop of few rounds, but not with all: there is room for one, which has those of a loop of
     * one block in a row; or they do not agree. */
    for (unsigned k = 1; full && k < plan->n; k++)
        if (plan->step[k].row && plan->step[k].rip != plan->step[k - 1].rip &&
            closes(plan->step, k, plan->step[k].rip))
            plan->n = k;
    while (!more && !full && plan->step[plan->n - 1].row)
        plan->n--;
    return !full;
}

/* Are all rounds of a loop in the trace, which then jumps to its own beginning? */
static bool is_round(const JitPlan *plan)
{
    const JitStep *last = &plan->step[plan->n - 1];
    bool rows = false;
    int64_t to;
    enum Ending how = ending(last->b, &to);
    for (unsigned k = 0; k < plan->n; k++)
        rows |= plan->step[k].row;
    return rows && (how == FORKS || how == JUMPS) &&
           rip_behind(last->b, last->rip, to) == plan->step[0].rip;
}

static JitPlan *make_plan(const Jit *j, const JitCode *code)
{
    JitPlan *plan = g_new0(JitPlan, 1);
    Draft d = {
        .j = j, .code = code, .plan = plan, .most_parts = JIT_PARTS, .most_insns = TRACE_MAX_INSNS};
    bool all = draft(&d);
    if ((plan->n > TRACE_PARTS || d.insns > TRACE_INSNS) && !(all && is_round(plan))) {
        d.most_parts = TRACE_PARTS;
        d.most_insns = TRACE_INSNS;
        draft(&d);
    }
    return g_realloc(plan, offsetof(JitPlan, step) + plan->n * sizeof(*plan->step));
}

static void forget_paths(JitCode *code)
{
    g_free(code->path);
    code->path = NULL;
    code->n_paths = 0;
}

void jit_trace_made(Jit *j, const JitCode *trace)
{
    for (unsigned k = 1; k < trace->n_parts; k++) {
        JitCode *code = trace->part[k].b->jit;
        if (!code || code->heat < 0 || jit_trace_rounds(code->block) || code == j->recording)
            continue;
        forget_paths(code);
        j->hot->heat[code->heat] = code->warm_after;
    }
}

void jit_trace_warm(Jit *j, JitCode *code)
{
    Block *b = code->block;
    j->recording = NULL;
    if (!b)
        return;
    if (jit_trace_rounds(b)) {
        b->rounds = (uint8_t)rounds_counted(j, b);
    } else if (code->n_paths < paths_wanted(j, code)) {
        code->path = g_renew(JitPath, code->path, code->n_paths + 1);
        code->path[code->n_paths].n = 0;
        j->recording = code;
        return;
    } else {
        g_hash_table_replace(j->plans, b, make_plan(j, code));
        forget_paths(code);
    }
    b->hot = true;
    jit_block_dead(j, b);
}

/* ---- what the code is made of ---- */
/* May s be a part behind those there are, `off` bytes from the first one's page on? *cross: it is
 * in a page that none of them is in. */
static bool can_follow(Trans *x, const JitStep *s, int64_t off, bool *cross)
{
    const int64_t far = 1 << 30;
    int64_t to;
    enum Ending how = ending(x->part[x->n_parts - 1].b, &to);
    *cross = true;
    if (!fits(s->b) || !blocks_prove(x->t, s->b) || off <= -far || off >= far)
        return false;
    for (unsigned p = 0; p < x->n_parts && *cross; p++) {
        if (jit_same_page(x->part[p].off, off)) {
            *cross = false;
            if ((x->part[p].b->gpa & PAGE_MASK) != (s->b->gpa & PAGE_MASK))
                return false;
        }
    }
    const struct Part *last = &x->part[x->n_parts - 1];
    if (!x->fixed && how == FORKS &&
        !(jit_same_page(last->off, last->off + to) &&
          jit_same_page(last->off, last->off + last->b->size)))
        return false; /* its other way is a link */
    bool by_rip = *cross || how == RETURNS || how == JUMPS_BY || how == CALLS_BY;
    return !by_rip || (x->fixed && !blocks_float(x->t, s->b));
}

static void add_part(Trans *x, Block *b, int64_t off, bool cross)
{
    struct Part *p = &x->part[x->n_parts++];
    *p = (struct Part){.b = b, .first = x->n, .off = off, .cross = cross};
    for (unsigned k = 0; k < b->n; k++)
        x->insn[x->n++] = &b->insn[k];
}

void jit_trace_plan(Trans *x)
{
    Block *b = x->b;
    int64_t first = (int64_t)(b->gpa & ~PAGE_MASK);
    x->n = x->n_parts = 0;
    for (unsigned k = 0; x->twin_of && k < x->twin_of->n_parts; k++) {
        const JitPart *p = &x->twin_of->part[k];
        add_part(x, p->b, p->off, p->cross);
        x->part[k].jumps = p->jumps;
    }
    if (x->twin_of)
        return;
    add_part(x, b, first, false);
    const JitPlan *plan = b->hot ? g_hash_table_lookup(x->j->plans, b) : NULL;
    if (b->hot && !plan && !jit_trace_rounds(b)) /* flushed: from the beginning */
        b->hot = false;
    if (!plan || x->j->no_chain || changes_mode(b))
        return;
    /* Where it has moved since, what depends on RIP is not known any more. */
    bool moved = x->fixed && jit_fixed_rip(x, first) != plan->step[0].rip;
    for (unsigned k = 1; k < plan->n; k++) {
        const JitStep *s = &plan->step[k];
        struct Part *last = &x->part[x->n_parts - 1];
        int64_t off = (int64_t)(s->rip - plan->step[0].rip) + first, to;
        bool cross;
        if (moved || !can_follow(x, s, off, &cross))
            break;
        last->jumps = ending(last->b, &to) != FORKS || last->off + to == off;
        add_part(x, s->b, off, cross);
    }
}
