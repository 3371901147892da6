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
 */
#include "tcg/jit.h"

#define ROUNDS_MAX 512
/* Bytes a round: beyond, pages end too soon; or ranges of pages, where there are slots. */
#define STEP_MAX       256
#define STEP_MAX_SLOTS 8192
/* Bytes into a page, lines of the next page, bytes a round: see fetch_ahead(). */
#define FETCH_AT    256
#define FETCH_LINES 12
#define FETCH_STEP  64
enum { FRAME_ROUNDS = JIT_STREAMS, FRAME_BOUND, FRAME_AGAIN };

/* What a register holds: what `root` held at the top of the loop, plus delta. */
typedef struct Value {
    unsigned root;
    int64_t delta;
    unsigned by; /* register that has been added, or GPR_ZERO */
} Value;

typedef struct Loop {
    Value at_end[GPR_N];
    struct {
        const uint8_t *to, *by;
    } out[JIT_PARTS]; /* by_swaps() */
    unsigned n_outs;
    unsigned counter;    /* a register that moves by a constant, or GPR_ZERO */
    unsigned counter_by; /* or by this register, as a stream does; or GPR_ZERO */
    bool moves;          /* a stream does */
} Loop;

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

/* Is i, the last of a part that is not the last, a branch that does nothing else? JMPs backwards
 * look at Vcpu.go. */
static bool goes_on(const Trans *x, unsigned k)
{
    const OpRow *r = &op_rows[x->insn[k]->row];
    return is_jcc(x->insn[k]) ||
           (r->emit == EMIT_BRANCH && r->map == MAP_1B && (r->opcode & 0xfd) == 0xe9 &&
            x->insn[k]->disp >= x->insn[k]->end);
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
        if (s->base != base || s->index != index || s->scale != scale ||
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
        if (base.by != GPR_ZERO || index.by != GPR_ZERO)
            continue;
        unsigned scale = i->index == GPR_ZERO ? 0 : i->scale;
        int64_t base_disp = base.delta + (i->base == GPR_IP ? (int64_t)jit_off_of(x, k) : 0);
        int64_t index_disp = (int64_t)((uint64_t)index.delta << scale);
        int64_t disp = i->disp + (jit_stays(x, base.root) ? base_disp : 0) +
                       (jit_stays(x, index.root) ? index_disp : 0);
        if (disp != (int32_t)disp)
            continue;
        x->stream_of[k] = (int8_t)stream_for(x, l, base.root, index.root, scale,
                                             i->disp + base_disp + index_disp, size, write);
        x->stream_size[k] = (uint8_t)size;
        x->stream_disp[k] = (int32_t)disp;
    }
    return x->n_streams > 0;
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

/* ---- code that may change flags ---- */
enum { ADD, AND = 4, SUB, CMP = 7 };

static void alu(Code *c, unsigned op, bool w, unsigned to, unsigned from)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = (uint8_t)(op << 3 | 3),
                     .w = w,
                     .modrm = true,
                     .reg = (uint8_t)to,
                     .rm = (uint8_t)from});
}

static void alu_mem(Code *c, unsigned op, unsigned to, HostMem m)
{
    emit_rm(c, op << 3 | 3, true, to, m);
}

static void alu_imm(Code *c, unsigned op, bool w, unsigned to, int32_t imm)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0x81,
                     .w = w,
                     .modrm = true,
                     .reg = (uint8_t)op,
                     .rm = (uint8_t)to,
                     .imm_size = 4,
                     .imm = imm});
}

static void multiply(Code *c, unsigned r, int32_t by)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0x69,
                     .w = true,
                     .modrm = true,
                     .reg = (uint8_t)r,
                     .rm = (uint8_t)r,
                     .imm_size = 4,
                     .imm = by});
}

static void shift_down(Code *c, unsigned r, unsigned by)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0xc1,
                     .w = true,
                     .modrm = true,
                     .reg = 5,
                     .rm = (uint8_t)r,
                     .imm_size = 1,
                     .imm = by});
}

/* rax = rax / n; rax and n are below 2^32. rcx and rdx change. */
static void divide(Code *c, unsigned n)
{
    if (!(n & (n - 1))) {
        if (n > 1)
            shift_down(c, H_AX, (unsigned)__builtin_ctz(n));
        return;
    }
    emit_imm64(c, H_DX, ~0ull / n + 1);
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf6,
                     .pfx = PFX_F2,
                     .w = true,
                     .modrm = true,
                     .vvvv = H_CX,
                     .reg = H_AX,
                     .rm = H_AX}); /* mulx rax, rcx, rax */
}

/* A guest register, or a copy of it in `copy`. */
static unsigned bring(Trans *x, unsigned r, unsigned copy)
{
    if (x->host[r] != H_NONE)
        return x->host[r];
    emit_load(&x->c, copy, jit_home(x, r));
    return copy;
}

/* rax = where the first byte of s is now. */
static void first_byte(Trans *x, const struct Stream *s)
{
    HostMem m = {.base = H_NONE, .index = H_NONE, .scale = s->scale, .disp = s->lo};
    if (s->base == GPR_IP) {
        jit_rip(x, H_AX, 0);
        m.base = H_AX;
    } else if (s->base != GPR_ZERO) {
        m.base = (uint8_t)bring(x, s->base, H_AX);
    }
    if (s->index != GPR_ZERO)
        m.index = (uint8_t)bring(x, s->index, H_CX);
    emit_lea(&x->c, true, H_AX, m);
}

/* rdx (`add` of the first-level TLB or the slot) and those parts of s's address that stay, to the
 * frame. rax and rdx change. */
static void keep_host(Trans *x, const struct Stream *s, unsigned n)
{
    Code *c = &x->c;
    HostMem m = {.base = H_DX, .index = H_NONE, .disp = -12};
    if (s->base == GPR_IP) {
        jit_rip(x, H_AX, 0);
        m.index = H_AX;
    } else if (s->base != GPR_ZERO && jit_stays(x, s->base)) {
        m.index = (uint8_t)bring(x, s->base, H_AX);
    }
    emit_lea(c, true, H_AX, m);
    if (s->index != GPR_ZERO && jit_stays(x, s->index)) {
        m = (HostMem){.base = H_AX, .scale = s->scale};
        m.index = (uint8_t)bring(x, s->index, H_DX);
        emit_lea(c, true, H_AX, m);
    }
    emit_store(c, H_AX, jit_frame(n));
}

/* From rdx on, or from the end of the page there back. */
static void fetch_lines(Code *c, bool up)
{
    for (int32_t line = 0; line < FETCH_LINES; line++) {
        HostMem m = {.base = H_DX, .index = H_NONE, .disp = 64 * (up ? line : 63 - line)};
        encode(c, &(Enc){.map = MAP_0F, .opcode = 0x18, .modrm = true, .reg = 1, .mem = &m});
    }
}

/*
 * A stream that has just come into a page will be in the next one soon, which is elsewhere in the
 * host's memory: the processor does not see it coming, and waits for its first lines. rax and rdx
 * change.
 */
static void fetch_ahead(Trans *x, const struct Stream *s)
{
    Code *c = &x->c;
    bool up = s->step > 0;
    HostMem add = jit_hot(x->j, offsetof(JitHot, tlb) + jit_mmu_mode(x->mode) * sizeof(JTlb) +
                                    offsetof(JTlb, add));
    int32_t page = up ? (int32_t)PAGE_SIZE : -(int32_t)PAGE_SIZE;
    first_byte(x, s);
    if (s->area) { /* wherever in a page it is: a head does for as much */
        emit_load(c, H_DX, jit_hot(x->j, offsetof(JitHot, mirror_add) + 8u * s->area));
        emit_lea(c, true, H_DX,
                 (HostMem){.base = H_DX, .index = H_AX, .disp = page - (int32_t)PAGE_BITS});
        alu_imm(c, AND, true, H_DX, -(int32_t)PAGE_SIZE);
        fetch_lines(c, up);
        return;
    }
    emit_mov(c, false, H_DX, H_AX);
    alu_imm(c, AND, false, H_DX, (int32_t)PAGE_SIZE - 1);
    alu_imm(c, CMP, false, H_DX, up ? FETCH_AT : (int32_t)PAGE_SIZE - FETCH_AT);
    uint8_t *over = emit_jcc(c, up ? 3 : 6, here(c)); /* jae, jbe */
    emit_mov(c, true, H_DX, H_AX);
    shift_down(c, H_DX, PAGE_BITS);
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_DX, .rm = H_DX});
    add.index = H_DX;
    add.scale = 3;
    add.disp += up ? 8 : -8; /* whatever is in the table there: a prefetch does not fault */
    emit_load(c, H_DX, add);
    emit_lea(c, true, H_DX,
             (HostMem){.base = H_DX, .index = H_AX, .scale = 0, .disp = page - (int32_t)PAGE_BITS});
    alu_imm(c, AND, true, H_DX, -(int32_t)PAGE_SIZE);
    fetch_lines(c, up);
    patch_rel32(over, c->run, here(c));
}

/*
 * rcx = bytes from the first one of the stream's pages to rax; rdx = where it could be there at
 * most. Leaves the loop's head where it is elsewhere. By a slot, whose pages may be many, or by the
 * first-level TLB: rdx then is `add`, and *most what it would be.
 */
static void find_page(Trans *x, unsigned n, const uint8_t *fails, int32_t *most)
{
    Code *c = &x->c;
    const struct Stream *s = &x->stream[n];
    if (s->slot >= 0) {
        const uint8_t *retry = here(c);
        emit_load(c, H_CX, jit_slot_mem(x->j, s->slot, offsetof(JitSlot, neg)));
        alu(c, ADD, true, H_CX, H_AX);
        emit_load32(c, H_DX, jit_slot_mem(x->j, s->slot, offsetof(JitSlot, places)));
        alu(c, SUB, true, H_CX, H_DX);
        alu(c, CMP, true, H_CX, H_DX);
        struct Cold *cold = jit_cold(x, emit_jcc(c, 3, here(c)), COLD_STREAM); /* jae */
        cold->retry = retry;
        cold->slot = s->slot;
        cold->far = abs(s->step) > FETCH_STEP || s->by != GPR_ZERO;
        cold->write = s->write;
        cold->mode = (uint8_t)jit_mmu_mode(x->mode);
        return;
    }
    size_t tlb = offsetof(JitHot, tlb) + jit_mmu_mode(x->mode) * sizeof(JTlb);
    HostMem tag = jit_hot(x->j, tlb + (s->write ? offsetof(JTlb, write) : offsetof(JTlb, read)));
    HostMem add = jit_hot(x->j, tlb + offsetof(JTlb, add));
    tag.index = add.index = H_DX;
    tag.scale = add.scale = 3;
    *most = (int32_t)PAGE_SIZE - (s->hi - s->lo);
    emit_mov(c, true, H_CX, H_AX);
    shift_down(c, H_CX, PAGE_BITS);
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_DX, .rm = H_CX});
    emit_load(c, H_CX, tag);
    emit_load(c, H_DX, add);
    alu(c, ADD, true, H_CX, H_AX);
    alu_imm(c, CMP, true, H_CX, *most);
    emit_jcc(c, 7, fails); /* ja */
}

/* rcx = the step of s, which is in a register: if that is one of a size that is worth it. rdx
 * changes. */
static void step_by_register(Trans *x, const struct Stream *s, const uint8_t *fails)
{
    Code *c = &x->c;
    unsigned by = bring(x, s->by, H_CX);
    if (by != H_CX)
        emit_mov(c, true, H_CX, by);
    if (s->by_scale)
        encode(c, &(Enc){.map = MAP_1B, /* shl */
                         .opcode = 0xc1,
                         .w = true,
                         .modrm = true,
                         .reg = 4,
                         .rm = H_CX,
                         .imm_size = 1,
                         .imm = s->by_scale});
    emit_lea(c, true, H_DX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    alu_imm(c, CMP, true, H_DX, jit_has_slots(x) ? STEP_MAX_SLOTS : STEP_MAX);
    emit_jcc(c, 3, fails); /* jae */
}

/* One by the mirror: that has no ends of pages, and room around it for all rounds. */
static void check_area(Trans *x, unsigned n, const uint8_t *fails)
{
    Code *c = &x->c;
    const struct Stream *s = &x->stream[n];
    HostMem upper = jit_hot(x->j, offsetof(JitHot, mirror_upper) + 8u * s->area);
    unsigned k = 0;
    while (x->stream_of[k] != (int)n)
        k++;
    first_byte(x, s);
    encode(c, &(Enc){.map = MAP_VEX0F38, /* pext rcx, rax, upper */
                     .opcode = 0xf5,
                     .pfx = PFX_F3,
                     .w = true,
                     .modrm = true,
                     .vvvv = H_AX,
                     .reg = H_CX,
                     .mem = &upper});
    alu_imm(c, CMP, true, H_CX, s->area == MIRROR_HIGH);
    struct Cold *cold = jit_cold(x, emit_jcc(c, 5, here(c)), COLD_STREAM); /* jne */
    cold->mirror = true;
    cold->k = (uint16_t)k;
    if (s->by != GPR_ZERO)
        step_by_register(x, s, fails);
    emit_load(c, H_DX, jit_hot(x->j, offsetof(JitHot, mirror_add) + 8u * s->area));
    keep_host(x, s, n);
}

/* Looks at one stream. */
static void check_stream(Trans *x, unsigned n, const uint8_t *fails, bool *have_rounds)
{
    Code *c = &x->c;
    const struct Stream *s = &x->stream[n];
    int32_t most = 0;
    if (s->area) {
        check_area(x, n, fails);
        return;
    }
    first_byte(x, s);
    find_page(x, n, fails, &most);
    if (s->slot < 0)
        keep_host(x, s, n);
    if (s->step > 0 || s->by != GPR_ZERO) {
        if (s->slot < 0)
            emit_imm32(c, H_AX, (uint32_t)most);
        else
            emit_lea(c, true, H_AX, (HostMem){.base = H_DX, .index = H_NONE, .disp = -1});
        alu(c, SUB, false, H_AX, H_CX);
    } else if (s->step < 0) {
        emit_mov(c, false, H_AX, H_CX);
    }
    if (s->by != GPR_ZERO) {
        step_by_register(x, s, fails);
        RAW(c, "\x31\xd2\xf7\xf1"); /* xor edx, edx; div ecx */
    } else if (s->step) {
        divide(c, (unsigned)abs(s->step));
    }
    if (s->step || s->by != GPR_ZERO) {
        if (*have_rounds) {
            HostMem m = jit_frame(FRAME_ROUNDS);
            alu_mem(c, CMP, H_AX, m);
            encode(c, &(Enc){.map = MAP_0F, /* cmova */
                             .opcode = 0x47,
                             .w = true,
                             .modrm = true,
                             .reg = H_AX,
                             .mem = &m});
        }
        emit_store(c, H_AX, jit_frame(FRAME_ROUNDS));
        *have_rounds = true;
    }
    if (s->slot >= 0) {
        emit_load(c, H_DX, jit_slot_mem(x->j, s->slot, offsetof(JitSlot, add)));
        keep_host(x, s, n);
    }
}

void jit_loop_stream(Trans *x, const JitCode *code, const struct Cold *cold)
{
    Code *c = &x->c;
    HostMem tmp = jit_hot(x->j, offsetof(JitHot, tmp));
    if (!cold->mirror) {
        emit_imm32(c, H_DX, (uint32_t)cold->slot * sizeof(JitSlot));
        emit_call(c, x->j->s_fill[cold->mode][cold->write]);
        emit_jmp(c, cold->retry); /* it comes back behind this if it has not filled the slot */
    }
    emit_store(c, H_AX, tmp);
    jit_flags_in(c, x->j);
    emit_load(c, H_AX, tmp);
    emit_imm64(c, H_DX, (uintptr_t)code);
    emit_imm32(c, H_CX,
               cold->k | (cold->far ? JIT_FAR_FLAG : 0) | (cold->mirror ? JIT_MIRROR_FLAG : 0));
    emit_call(c, x->j->s_stream);
    emit_jmp(c, code->head);
    emit_jmp(c, code->entry);
}

/* The next code begins a line of what the processor keeps decoded. */
static void align(Code *c)
{
    static const uint8_t nop[] = {0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}; /* 10 bytes */
    while (-(uintptr_t)c->p & 31) {
        unsigned n = MIN_OF((unsigned)(-(uintptr_t)c->p & 31), (unsigned)sizeof(nop));
        if (n == sizeof(nop)) {
            code_bytes(c, nop, n);
        } else {
            for (unsigned k = 1; k < n; k++)
                code8(c, 0x66);
            code8(c, 0x90);
        }
        if (c->overflow)
            return;
    }
}

/* Where all that has been seen of the stream was. */
static enum MirrorArea stream_area(const Trans *x, unsigned n)
{
    unsigned seen = 0;
    for (unsigned k = 0; x->mirror && k + 1u < x->n; k++) {
        const struct Part *part = jit_part_of(x, k);
        unsigned at = k - part->first;
        if (x->stream_of[k] != (int)n)
            continue;
        if (part->b->no_mirror >> at & 1)
            return MIRROR_NONE;
        for (unsigned a = MIRROR_LOW; a < MIRROR_AREAS; a++)
            seen |= (unsigned)(part->b->in_mirror[a - 1] >> at & 1) << a;
    }
    return seen == BIT(MIRROR_LOW)    ? MIRROR_LOW
           : seen == BIT(MIRROR_HIGH) ? MIRROR_HIGH
                                      : MIRROR_NONE;
}

/* FRAME_AGAIN: the second body has been left at its bound. */
static void set_again(Code *c, bool to)
{
    HostMem m = jit_frame(FRAME_AGAIN);
    encode(c, &(Enc){.map = MAP_1B, /* mov dword */
                     .opcode = 0xc7,
                     .modrm = true,
                     .mem = &m,
                     .imm = to,
                     .imm_size = 4});
}

/* Of all streams of small strides. Returns its jump back, which is not yet patched. */
static uint8_t *fetch_all_ahead(Trans *x)
{
    set_again(&x->c, false);
    for (unsigned n = 0; n < x->n_streams; n++)
        if (x->stream[n].step && abs(x->stream[n].step) <= FETCH_STEP)
            fetch_ahead(x, &x->stream[n]);
    return emit_jmp(&x->c, here(&x->c));
}

/* From `head` to `again`, straight on; before it, what it leaves it for. */
static void enter_second(Trans *x, JitCode *code, const Loop *l, unsigned copies)
{
    Code *c = &x->c;
    HostMem again = jit_frame(FRAME_AGAIN);
    bool have_rounds = false, fetches = false;
    const uint8_t *fails = here(c);
    jit_flags_in(c, x->j);
    emit_jmp(c, code->entry);
    for (unsigned n = 0; n < x->n_streams; n++) {
        struct Stream *s = &x->stream[n];
        s->area = stream_area(x, n);
        code->mirrored |= s->area != MIRROR_NONE;
        s->slot = s->area ? -1 : jit_slot_new(x, (unsigned)(s->hi - s->lo), s->write);
        fetches |= s->step && abs(s->step) <= FETCH_STEP;
    }
    const uint8_t *ahead = here(c);
    uint8_t *back = fetches ? fetch_all_ahead(x) : NULL;
    const uint8_t *poll = here(c);
    emit_jmp(c, code->start);
    code->head = here(c);
    jit_poll(x);
    code8(c, 0xe3); /* jrcxz */
    code8(c, (uint8_t)(poll - (here(c) + 1)));
    jit_flags_out(c, x->j);
    if (fetches) {
        encode(c, &(Enc){.map = MAP_1B, /* cmp dword [FRAME_AGAIN], 0 */
                         .opcode = 0x83,
                         .modrm = true,
                         .reg = CMP,
                         .mem = &again,
                         .imm_size = 1});
        emit_jcc(c, 5, ahead); /* jne */
        patch_rel32(back, c->run, here(c));
    }
    for (unsigned n = 0; n < x->n_streams; n++)
        check_stream(x, n, fails, &have_rounds);
    if (l->counter != GPR_ZERO) {
        emit_imm32(c, H_CX, ROUNDS_MAX);
        if (have_rounds) { /* rax is the least number that there is yet one more of */
            emit_load(c, H_AX, jit_frame(FRAME_ROUNDS));
            emit_lea(c, true, H_AX, (HostMem){.base = H_AX, .index = H_NONE, .disp = 1});
            alu(c, CMP, true, H_AX, H_CX);
            encode(c, &(Enc){.map = MAP_0F,
                             .opcode = 0x47,
                             .w = true,
                             .modrm = true,
                             .reg = H_AX,
                             .rm = H_CX}); /* cmova */
        } else {
            emit_mov(c, true, H_AX, H_CX);
        }
        if (copies > 1 && have_rounds) {
            alu_imm(c, AND, true, H_AX, -(int32_t)copies);
            emit_jcc(c, 4, fails); /* jz */
        }
        emit_store(c, H_AX, jit_frame(FRAME_ROUNDS));
        if (l->counter_by == GPR_ZERO)
            multiply(c, H_AX, (int32_t)l->at_end[l->counter].delta);
        else
            encode(c, &(Enc){.map = MAP_0F, /* imul */
                             .opcode = 0xaf,
                             .w = true,
                             .modrm = true,
                             .reg = H_AX,
                             .rm = (uint8_t)bring(x, l->counter_by, H_CX)});
        alu(c, ADD, true, H_AX, bring(x, l->counter, H_CX));
        code_bytes(c, "\x48\xf7\xd8", 3); /* neg rax */
        emit_store(c, H_AX, jit_frame(FRAME_BOUND));
    }
    jit_flags_in(c, x->j);
    jit_homes_swap(x, false);
    align(c);
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
    bool by_base = !jit_stays(x, s->base), by_index = !jit_stays(x, s->index);
    unsigned host = x->stream_host[n];
    if (host == H_NONE)
        host = H_DX;
    *m = (HostMem){.base = (uint8_t)host, .index = H_NONE, .disp = x->stream_disp[x->k]};
    if (by_base && by_index) {
        m->base = (uint8_t)bring(x, i->base, H_AX);
        m->index = (uint8_t)bring(x, i->index, H_CX);
        m->scale = i->scale;
        emit_lea(c, true, H_AX, *m);
        *m = (HostMem){.base = H_AX, .index = (uint8_t)host};
    } else if (by_index) {
        m->index = (uint8_t)bring(x, i->index, H_AX);
        m->scale = i->scale;
    } else if (by_base) {
        m->base = (uint8_t)bring(x, i->base, H_AX);
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

/* Rounds below which looking the pages up costs more than it saves: both in instructions. */
static unsigned few_rounds(const Trans *x)
{
    unsigned accesses = 0, head = 20;
    for (unsigned k = 0; k + 1u < x->n; k++)
        accesses += x->stream_of[k] >= 0;
    for (unsigned n = 0; n < x->n_streams; n++) {
        head += x->stream[n].area ? 7 : 18;
        if (x->stream[n].by != GPR_ZERO)
            head += x->stream[n].area ? 5 : 15;
    }
    return head / (5 * accesses + (x->vec[0] ? 3 : 0) + 1);
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
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX, .index = (uint8_t)bring(x, (unsigned)cold->slot, H_AX)});
    if (cold->by != GPR_ZERO) { /* in rounds */
        HostMem tmp = jit_hot(x->j, offsetof(JitHot, tmp));
        jit_flags_out(c, x->j);
        emit_mov(c, true, H_AX, H_CX);
        emit_mov(c, true, H_CX, bring(x, cold->by, H_CX));
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
    if (rounds < (uint64_t)l->few * j->loop_exits) {
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
    enter_second(x, code, l, copies);
    jit_homes(x, true);
    const uint8_t *again = here(c);
    x->dx_run = -1;
    x->ax = H_NONE;
    for (unsigned n = 0; n < copies; n++)
        if (!one_round(x, l))
            return false;
    jit_island_before(x, 60);
    if (l->counter != GPR_ZERO) {
        emit_load(c, H_CX, jit_frame(FRAME_BOUND));
        unsigned r = bring(x, l->counter, H_AX);
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = (uint8_t)r, .scale = 0});
    } else {
        jit_poll(x);
    }
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    emit_jmp(c, again);
    jit_homes_swap(x, false);
    set_again(c, true);
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

bool jit_loop_may(Trans *x)
{
    Loop loop = {0};
    return x->code->heat < 0 && !x->twin_of && is_loop(x, &loop);
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
    jit_homes_choose(x);
    bool done = try_second(x, code, &loop);
    if (!done && x->n_swaps) { /* an emitter wants its register where it always is */
        x->n_swaps = 0;
        done = try_second(x, code, &loop);
    }
    unsigned few = few_rounds(x);
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
