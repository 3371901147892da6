/*
 * Loops: a second body, whose accesses are not checked one by one.
 *
 * A block, or a trace of blocks, that ends with a jump to its own beginning has it if operands of
 * it are streams: their addresses move by the same number of bytes in each round (a constant, or
 * what a register holds that stays), or stay. How many rounds a stream stays in its page is known
 * in advance then. The second body is behind the block's code, and the jump back leads there
 * (jit_link()):
 *
 *     head:   is anything waiting? (Vcpu.go)
 *             each stream: is it in its slot's pages (JitSlot), or else in which?
 *                 host's minus guest's address to the frame; rounds left
 *             bound = - (what a register that counts will hold after the least of these)
 *     again:  the instructions, with operands at the host's addresses
 *             jcc (the other way) out of the loop
 *             lea   rcx, [bound + counter]; jrcxz to the block's jcc; jmp again
 *
 * At the bound the block's own jcc jumps, by its link, back to `head`. Where a page is not to be
 * accessed so, or ends within one round, `head` goes to the first body instead, which does one
 * round with checks and comes back.
 *
 * Rounds are few enough (ROUNDS_MAX) that a request does not wait long. Nothing in the second body
 * changes translation or privilege; C code that has done an instruction there, for an access that
 * is no stream's or a host fault, leaves the block (COLD_ACCESS and COLD_HELPER with `second`).
 *
 * Loops of few rounds are better off without: the ways out count at first (COLD_LOOP), until
 * jit_loop_judge() has seen enough.
 *
 * A loop of one block without streams has a second body where that gains enough by having the
 * loop's registers at hand (home.c), with the rounds that its first code has counted.
 */
#include "jit/loop.h"

/* Instructions that a second body without streams has to gain each time it is entered, by where it
 * has the registers: its head, and the exchange. */
#define HOMES_GAIN 96u

static bool known(const OpRow *r)
{
    switch (r->emit) {
    case EMIT_COPY:
    case EMIT_TEST:
    case EMIT_CL:
    case EMIT_IMM:
    case EMIT_LEA:
    case EMIT_MUL:
    case EMIT_DIV:
    case EMIT_CONV:
    case EMIT_CMPXCHG:
    case EMIT_NOP:
    case EMIT_X87:
        return true;
    default:
        return false;
    }
}

static bool is_jcc(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    return r->emit == EMIT_BRANCH && i->opsize == 8 &&
           (r->map == MAP_0F || (r->opcode & 0xf0) == 0x70);
}

/* Does the code end with Jcc to its first instruction? */
static bool jumps_back(const Trans *x)
{
    const Insn *i = x->insn[x->n - 1u];
    return is_jcc(i) && jit_off_of(x, x->n - 1u) + i->disp == jit_off_of(x, 0);
}

/* Is i, the last of a part that is not the last, a branch that does nothing else? */
static bool goes_on(const Trans *x, unsigned k)
{
    const OpRow *r = &op_rows[x->insn[k]->row];
    return is_jcc(x->insn[k]) ||
           (r->emit == EMIT_BRANCH && r->map == MAP_1B && (r->opcode & 0xfd) == 0xe9);
}

/* How far a root moves in each round; false: by no constant. */
static bool step_of(const Trans *x, const Loop *l, unsigned root, int64_t *step)
{
    *step = 0;
    if (root >= GPR_N || !(x->changes >> root & 1))
        return root >= GPR_N ? root == GPR_ZERO || root == GPR_IP : true;
    *step = l->at_end[root].delta;
    return l->at_end[root].root == root && l->at_end[root].by == GPR_ZERO;
}

/* The register that is added to a root in each round, and nothing else is; or GPR_ZERO. */
static unsigned step_register(const Trans *x, const Loop *l, unsigned root)
{
    if (root >= GPR_N || l->at_end[root].root != root || l->at_end[root].delta ||
        !jit_stays(x, l->at_end[root].by))
        return GPR_ZERO;
    return l->at_end[root].by;
}

/* Does i add one register to another, both of 64 bits? */
static bool adds_register(const Insn *i, unsigned *to, unsigned *by)
{
    const OpRow *r = &op_rows[i->row];
    if (i->opsize != 8)
        return false;
    *to = i->reg;
    if (r->emit == EMIT_LEA) {
        *by = i->base == i->reg ? i->index : i->base;
        return i->asize == 8 && !i->scale && !i->disp && i->base < GPR_N && i->index < GPR_N &&
               (i->base == i->reg || i->index == i->reg) && *by != *to;
    }
    *by = i->rm;
    if (r->emit != EMIT_COPY || r->map != MAP_1B || (i->flags & IF_MEM) || i->reg == i->rm)
        return false;
    if (r->opcode == 0x01) {
        *to = i->rm;
        *by = i->reg;
    }
    return r->opcode == 0x01 || r->opcode == 0x03;
}

/* The stream that `size` bytes at base + (index << scale) + off are of, perhaps a new one; -1. */
static int stream_for(Trans *x, Loop *l, unsigned base, unsigned index, unsigned scale, int64_t off,
                      unsigned size, bool write)
{
    int64_t base_step, index_step;
    const int64_t far = 1 << 20, most = jit_has_slots(x) ? STEP_MAX_SLOTS : STEP_MAX;
    unsigned by = step_register(x, l, base), by_scale = 0;
    if (by != GPR_ZERO) {
        base_step = 0;
    } else if (!step_of(x, l, base, &base_step)) {
        return -1;
    }
    if (by == GPR_ZERO && step_register(x, l, index) != GPR_ZERO) {
        by = step_register(x, l, index);
        by_scale = scale;
        index_step = 0;
    } else if (!step_of(x, l, index, &index_step)) {
        return -1;
    }
    if (by != GPR_ZERO && (base_step || index_step))
        return -1;
    if (llabs(base_step) > most || llabs(index_step) > most || llabs(off) > far)
        return -1;
    int64_t step = base_step + (index_step << scale);
    if (llabs(step) > most)
        return -1;
    int32_t lo = (int32_t)off, hi = lo + (int32_t)size;
    for (unsigned n = 0; n < x->n_streams; n++) {
        struct Stream *s = &x->stream[n];
        if (s->table || s->base != base || s->index != index || s->scale != scale ||
            MAX_OF(s->hi, hi) - MIN_OF(s->lo, lo) > JIT_RUN_SPAN)
            continue;
        s->lo = MIN_OF(s->lo, lo);
        s->hi = MAX_OF(s->hi, hi);
        s->write |= write;
        return (int)n;
    }
    if (x->n_streams == JIT_STREAMS)
        return -1;
    l->moves |= step || by != GPR_ZERO;
    x->stream[x->n_streams] = (struct Stream){.base = (uint8_t)base,
                                              .index = (uint8_t)index,
                                              .scale = (uint8_t)scale,
                                              .lo = lo,
                                              .hi = hi,
                                              .step = (int32_t)step,
                                              .by = (uint8_t)by,
                                              .by_scale = (uint8_t)by_scale,
                                              .write = write};
    return (int)x->n_streams++;
}

/* Instruction k's access is by the mirror, and its index, which may be anything, of few bits: a
 * stream that stays, if what is added to the index does. */
static void table_for(Trans *x, unsigned k, Value base, bool write)
{
    const struct Run *u = x->run_of[k] >= 0 ? &x->run[x->run_of[k]] : NULL;
    const struct Place *p = &x->run_place[k];
    int64_t disp = p->disp + (p->base == GPR_ZERO ? 0 : base.delta);
    unsigned root = p->base == GPR_ZERO ? GPR_ZERO : base.root, n;
    if (!u || !u->area || p->index == GPR_ZERO || !x->run_bounded[k] || p->base == GPR_IP ||
        disp != (int32_t)disp || base.by != GPR_ZERO || root >= GPR_SLOTS || !jit_stays(x, root))
        return;
    for (n = 0; n < x->n_streams; n++)
        if (x->stream[n].base == root && x->stream[n].table == u->area)
            break;
    if (n == JIT_STREAMS)
        return;
    if (n == x->n_streams)
        x->stream[x->n_streams++] = (struct Stream){.base = (uint8_t)root,
                                                    .index = GPR_ZERO,
                                                    .by = GPR_ZERO,
                                                    .lo = (int32_t)disp,
                                                    .hi = (int32_t)disp + 1,
                                                    .table = u->area};
    x->stream[n].write |= write;
    x->stream_of[k] = (int8_t)n;
    x->stream_disp[k] = (int32_t)disp;
}

/* Does instruction k's access, by the mirror, have an index that is a number there, which is part
 * of the displacement? */
static bool index_is_number(const Trans *x, unsigned k)
{
    const Insn *i = x->insn[k];
    const struct Place *p = &x->run_place[k];
    return x->run_of[k] >= 0 && x->run[x->run_of[k]].area && i->index != GPR_ZERO &&
           p->index == GPR_ZERO && p->base == i->base;
}

/* Follows registers through the loop, and finds the streams. */
static bool find_streams(Trans *x, Loop *l)
{
    struct {
        Value base, index;
    } at[TRACE_MAX_INSNS];
    Value value[GPR_SLOTS];
    unsigned n = x->n - 1u, roots = GPR_SLOTS;
    for (unsigned r = 0; r < GPR_SLOTS; r++)
        value[r] = (Value){r, 0, GPR_ZERO};
    x->changes = 0;
    x->n_streams = 0;
    for (unsigned k = 0; k < n; k++) {
        const Insn *i = x->insn[k];
        unsigned to, from;
        int64_t add;
        if (!i->opsize || !(known(&op_rows[i->row]) || goes_on(x, k)))
            return false;
        at[k].base = value[i->base < GPR_SLOTS ? i->base : GPR_ZERO];
        at[k].index = value[i->index < GPR_SLOTS ? i->index : GPR_ZERO];
        uint32_t w = jit_written(i);
        bool follows = jit_adds_constant(i, &to, &from, &add) && add == (int32_t)add;
        Value new_value = follows ? value[from] : (Value){0, 0, GPR_ZERO};
        if (!follows && adds_register(i, &to, &from) && value[to].by == GPR_ZERO) {
            follows = true;
            add = 0;
            new_value = value[to];
            new_value.by = from;
        }
        for (unsigned r = 0; r < GPR_N; r++)
            if (w >> r & 1)
                value[r] = (Value){roots++, 0, GPR_ZERO};
        if (follows) {
            new_value.delta += add;
            value[to] = new_value;
        }
        x->changes |= w;
    }
    memcpy(l->at_end, value, sizeof(l->at_end));
    for (unsigned k = 0; k < n; k++) {
        const Insn *i = x->insn[k];
        unsigned size;
        bool write;
        x->stream_of[k] = -1;
        if (!jit_memory_operand(i, &size, &write) || i->seg != SEG_NONE || i->asize != 8 ||
            size > 64)
            continue;
        Value base = at[k].base, index = at[k].index;
        unsigned scale = i->index == GPR_ZERO ? 0 : i->scale;
        int64_t insn_disp = i->disp;
        if (index_is_number(x, k)) {
            index = (Value){GPR_ZERO, 0, GPR_ZERO};
            scale = 0;
            insn_disp = x->run_place[k].disp;
        }
        int64_t base_disp = base.delta + (i->base == GPR_IP ? (int64_t)jit_off_of(x, k) : 0);
        int64_t index_disp = (int64_t)((uint64_t)index.delta << scale);
        int64_t disp = insn_disp + (jit_stays(x, base.root) ? base_disp : 0) +
                       (jit_stays(x, index.root) ? index_disp : 0);
        x->stream_size[k] = (uint8_t)size;
        x->stream_disp[k] = (int32_t)disp;
        if (base.by == GPR_ZERO && index.by == GPR_ZERO && disp == (int32_t)disp)
            x->stream_of[k] = (int8_t)stream_for(x, l, base.root, index.root, scale,
                                                 insn_disp + base_disp + index_disp, size, write);
        if (x->stream_of[k] < 0)
            table_for(x, k, base, write);
    }
    return true;
}

/* One that lives in a host register, if there is any. */
static void find_counter(const Trans *x, Loop *l)
{
    l->counter = l->counter_by = GPR_ZERO;
    for (unsigned r = 0; r < GPR_N; r++) {
        int64_t step;
        if (step_of(x, l, r, &step) && step != 0 && step == (int32_t)step &&
            (l->counter == GPR_ZERO || x->host[l->counter] == H_NONE))
            l->counter = r;
    }
    for (unsigned n = 0; n < x->n_streams && l->counter == GPR_ZERO; n++) {
        const struct Stream *s = &x->stream[n];
        if (s->by == GPR_ZERO) /* what is added is known not to be 0 */
            continue;
        l->counter_by = s->by;
        l->counter = step_register(x, l, s->base) == s->by ? s->base : s->index;
    }
}

bool jit_loop_operand(Trans *x, unsigned size, bool write, HostMem *m)
{
    Code *c = &x->c;
    const Insn *i = x->insn[x->k];
    int n = x->stream_of[x->k];
    if (n < 0 || size != x->stream_size[x->k] || (write && !x->stream[n].write))
        return false;
    const struct Stream *s = &x->stream[n];
    x->mirrored = s->area != MIRROR_NONE;
    if (s->direct) {
        *m = jit_as_it_stands(x, &(struct Place){i->base, i->index, i->scale, (int32_t)i->disp});
        return true;
    }
    bool by_base = !jit_stays(x, s->base), by_index = !jit_stays(x, s->index);
    unsigned host = x->stream_host[n];
    if (host == H_NONE)
        host = H_DX;
    *m = (HostMem){.base = (uint8_t)host, .index = H_NONE, .disp = x->stream_disp[x->k]};
    if (s->table) {
        m->index = (uint8_t)jit_loop_bring(x, i->index, H_AX);
        m->scale = i->scale;
    } else if (by_base && by_index) {
        m->base = (uint8_t)jit_loop_bring(x, i->base, H_AX);
        m->index = (uint8_t)jit_loop_bring(x, i->index, H_CX);
        m->scale = i->scale;
        emit_lea(c, true, H_AX, *m);
        *m = (HostMem){.base = H_AX, .index = (uint8_t)host};
    } else if (by_index) {
        m->index = (uint8_t)jit_loop_bring(x, i->index, H_AX);
        m->scale = i->scale;
    } else if (by_base) {
        m->base = (uint8_t)jit_loop_bring(x, i->base, H_AX);
        m->index = (uint8_t)host;
    }
    if (host != H_DX)
        return true;
    if (x->dx_run != (int)JIT_RUNS + n)
        emit_load(c, H_DX, jit_frame((unsigned)n));
    x->dx_run = (int)JIT_RUNS + n;
    return true;
}

/* Code that puts registers back to where the first body has them, and jumps there. */
static const uint8_t *by_swaps(const Loop *l, const uint8_t *to)
{
    for (unsigned n = 0; n < l->n_outs; n++)
        if (l->out[n].to == to)
            return l->out[n].by;
    return to;
}

static void write_swaps(Trans *x, Loop *l)
{
    for (unsigned p = 0; p < x->n_parts; p++) {
        bool last = p + 1 == x->n_parts;
        const uint8_t *to = last ? x->behind_jcc : x->side[p];
        if (!last && !is_jcc(x->insn[x->part[p + 1].first - 1u]))
            continue;
        l->out[l->n_outs].by = here(&x->c);
        l->out[l->n_outs++].to = to;
        jit_homes_swap(x, false);
        emit_jmp(&x->c, to);
    }
}

/* Out of the second body where the condition holds: to the jcc of the first body that goes the same
 * way, or behind it. off: where that is. */
static void way_out(Trans *x, const Loop *l, unsigned condition, const uint8_t *to, int64_t off)
{
    jit_island_before(x, 8);
    to = by_swaps(l, to);
    uint8_t *out = emit_jcc(&x->c, condition, to);
    if (l->counter == GPR_ZERO)
        return;
    struct Cold *cold = jit_cold(x, out, COLD_LOOP);
    cold->slot = (int32_t)l->counter;
    cold->by = (uint8_t)l->counter_by;
    cold->retry = to;
    cold->rip_off = off;
}

/* One round; false: an instruction has no emitter. */
static bool one_round(Trans *x, const Loop *l)
{
    for (unsigned k = 0; k < x->n_runs; k++)
        x->run[k].ready = false;
    x->at = x->part;
    for (x->k = 0; x->k < x->n; x->k++) {
        const Insn *i = x->insn[x->k];
        unsigned condition = op_rows[i->row].opcode & 15;
        if (x->k == x->at->first + x->at->b->n)
            x->at++;
        x->off = jit_off_of(x, x->k);
        jit_count_part(x);
        if (x->k + 1u == x->n) {
            x->ax = H_NONE;
            way_out(x, l, condition ^ 1, x->behind_jcc, x->off + i->end);
        } else if (is_jcc(i)) {
            bool jumps = x->at->jumps;
            x->ax = H_NONE;
            way_out(x, l, condition ^ jumps, x->side[x->at - x->part],
                    x->off + (jumps ? i->end : i->disp));
        } else if (op_rows[i->row].emit != EMIT_BRANCH && !jit_emit_one(x, i)) {
            return false;
        }
    }
    x->k = x->n - 1u;
    return true;
}

/* Rounds below which looking the pages up, and exchanging registers, costs more than it saves
 * (saved: by where registers are), in sixteenths. */
static unsigned few_rounds(const Trans *x, unsigned saved)
{
    unsigned gain = 1 + saved + (x->vec[0] ? 3 : 0), head = 20 + 6 * x->n_swaps;
    for (unsigned k = 0; k + 1u < x->n; k++)
        if (x->stream_of[k] >= 0)
            gain += x->stream[x->stream_of[k]].area ? 2 : 5;
    for (unsigned n = 0; n < x->n_streams; n++) {
        head += x->stream[n].direct ? 3 : x->stream[n].area ? 9 : 18;
        if (x->stream[n].by != GPR_ZERO)
            head += x->stream[n].area ? 5 : 15;
    }
    return 16 * head / gain;
}

void jit_loop_count(Trans *x, JitCode *code, const struct Cold *cold)
{
    Code *c = &x->c;
    const struct {
        size_t to;
        HostMem from;
    } sums[] = {{offsetof(struct JitLoop, left), jit_frame(FRAME_BOUND)},
                {offsetof(struct JitLoop, rounds), jit_frame(FRAME_ROUNDS)}};
    HostMem m = {.base = H_AX, .index = H_NONE};
    code->loop->way[code->loop->n].at = cold->from;
    code->loop->way[code->loop->n++].to = cold->retry;
    emit_load(c, H_CX, sums[0].from);
    if (x->round_setter >= 0)
        code_bytes(c, "\x48\xf7\xd1", 3); /* not rcx */
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX,
                       .index = (uint8_t)jit_loop_bring(x, (unsigned)cold->slot, H_AX),
                       .disp = x->round_setter >= 0});
    if (cold->by != GPR_ZERO) { /* in rounds */
        HostMem tmp = jit_hot(x->j, offsetof(JitHot, tmp));
        jit_flags_out(c, x->j);
        emit_mov(c, true, H_AX, H_CX);
        emit_mov(c, true, H_CX, jit_loop_bring(x, cold->by, H_CX));
        RAW(c, "\x48\x99\x48\xf7\xf9"); /* cqo; idiv rcx */
        emit_store(c, H_AX, tmp);
        jit_flags_in(c, x->j);
        emit_load(c, H_CX, tmp);
    }
    emit_imm64(c, H_AX, (uintptr_t)code->loop);
    for (unsigned n = 0; n < ARRAY_LEN(sums); n++) {
        if (n)
            emit_load(c, H_CX, sums[n].from);
        m.disp = (int32_t)sums[n].to;
        emit_load(c, H_DX, m);
        emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = H_CX});
        emit_store(c, H_DX, m);
    }
    m.disp = (int32_t)offsetof(struct JitLoop, exits);
    emit_load(c, H_CX, m);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    emit_store(c, H_CX, m);
    emit_imm64(c, H_AX, (uintptr_t)code);
    emit_store(c, H_AX, jit_hot(x->j, offsetof(JitHot, tmp)));
    code8(c, 0xe3); /* jrcxz, over the jump that follows */
    code8(c, 5);
}

void jit_loop_judge(Jit *j, JitCode *code)
{
    struct JitLoop *l = code->loop;
    /* `left` is minus the rounds left, in steps of the counter. */
    uint64_t rounds = l->rounds + (uint64_t)(l->left / l->step);
    if (!code->block)
        return;
    if (16 * rounds < (uint64_t)l->few * j->loop_exits) {
        code->block->no_loop = true;
        jit_block_dead(j, code->block);
        return;
    }
    for (unsigned n = 0; n < l->n; n++)
        patch_rel32(l->way[n].at, j->run, l->way[n].to);
}

/* Is the code such a loop? Its streams are known then. */
static bool is_loop(Trans *x, Loop *l)
{
    for (unsigned p = 0; p < x->n_parts; p++)
        if (x->part[p].cross) /* the second body would have to look at the page, too */
            return false;
    return x->n >= 2 && !x->b->soft && !x->b->no_loop && (x->b->mode & DM_CODE64) &&
           jumps_back(x) && find_streams(x, l);
}

static bool write_second(Trans *x, JitCode *code, Loop *l)
{
    Code *c = &x->c;
    unsigned copies = x->n <= 7 ? 4 : x->n <= 16 ? 2 : 1;
    l->n_outs = 0;
    if (x->n_swaps)
        write_swaps(x, l);
    jit_loop_enter(x, code, l, copies);
    jit_homes(x, true);
    const uint8_t *again = here(c);
    x->dx_run = -1;
    x->ax = H_NONE;
    for (unsigned n = 0; n < copies; n++)
        if (!one_round(x, l))
            return false;
    jit_island_before(x, 60);
    if (x->round_setter >= 0 && l->counter != GPR_ZERO) {
        unsigned r = jit_loop_bring(x, l->counter, H_AX);
        emit_rm(c, 0x39, true, r, jit_frame(FRAME_BOUND)); /* cmp [bound], r */
        emit_jcc(c, 5, again);                             /* jne */
        jit_homes_swap(x, false);
        jit_loop_set_again(c, true);
        jit_homes(x, false);
        jit_flags_again(x, 0, true);
        emit_jmp(c, x->jcc);
        return true;
    }
    if (l->counter != GPR_ZERO) {
        emit_load(c, H_CX, jit_frame(FRAME_BOUND));
        unsigned r = jit_loop_bring(x, l->counter, H_AX);
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = (uint8_t)r, .scale = 0});
    } else {
        jit_poll(x);
    }
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    emit_jmp(c, again);
    jit_homes_swap(x, false);
    jit_loop_set_again(c, true);
    emit_jmp(c, x->jcc);
    return true;
}

/* False: nothing is written. */
static bool try_second(Trans *x, JitCode *code, Loop *l)
{
    Code before = x->c;
    unsigned cold = x->n_cold, sites = x->n_sites;
    uint32_t slots = x->j->slots;
    const bool vec[3] = {x->vec[0], x->vec[1], x->vec[2]}, x87 = x->x87;
    x->second = true;
    x->at = &x->part[x->n_parts - 1];
    x->k = x->n - 1u;
    bool done = write_second(x, code, l) && !x->c.overflow;
    x->second = false;
    jit_homes(x, false);
    x->at = &x->part[x->n_parts - 1];
    x->off = jit_off_of(x, x->n - 1u);
    if (done)
        return true;
    x->c = before;
    x->n_cold = cold;
    x->n_sites = sites;
    x->j->slots = slots;
    x->n_near = 0;
    memcpy(x->vec, vec, sizeof(vec));
    x->x87 = x87;
    code->head = NULL;
    return false;
}

void jit_loop(Trans *x, JitCode *code)
{
    Loop loop = {0};
    code->head = NULL;
    if (code->heat >= 0) /* it counts its rounds yet */
        return;
    if (x->helped || x->out_of_reach || !is_loop(x, &loop))
        return;
    find_counter(x, &loop);
    if (loop.moves && loop.counter == GPR_ZERO)
        return;
    int16_t run_of[TRACE_MAX_INSNS];
    memcpy(run_of, x->run_of, sizeof(run_of));
    for (unsigned k = 0; k + 1u < x->n; k++)
        if (x->stream_of[k] >= 0)
            x->run_of[k] = -1;
    jit_loop_areas(x);
    unsigned gain = jit_homes_choose(x);
    if (!x->n_streams && (x->n_parts > 1 || gain * x->b->rounds < HOMES_GAIN)) {
        memcpy(x->run_of, run_of, sizeof(run_of));
        x->n_swaps = 0;
        return;
    }
    jit_flags_free_round(x);
    bool done = try_second(x, code, &loop);
    if (!done && x->n_swaps &&
        x->n_streams) { /* an emitter wants its register where it always is */
        x->n_swaps = 0;
        done = try_second(x, code, &loop);
    }
    unsigned few = few_rounds(x, x->n_swaps ? gain : 0);
    memcpy(x->run_of, run_of, sizeof(run_of));
    if (done) {
        if (!code->loop)
            code->loop = g_new(struct JitLoop, 1);
        *code->loop =
            (struct JitLoop){.exits = x->j->loop_exits,
                             .step = loop.counter == GPR_ZERO || loop.counter_by != GPR_ZERO
                                         ? 1
                                         : loop.at_end[loop.counter].delta,
                             .few = few};
    }
}
