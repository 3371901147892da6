/*
 * The head of a loop's second body: it looks at the streams, counts the rounds that none of them
 * leaves its pages in, and leaves the host's addresses where the body wants them. See loop.c.
 */
#include "jit/loop.h"

#define ROUNDS_MAX 512
/* Bytes into a page, lines of the next page, bytes a round: see fetch_ahead(). */
#define FETCH_AT    256
#define FETCH_LINES 12
#define FETCH_STEP  64

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

/* The flags as they were at the head: cx, or ax changes. */
static void flags_again(Trans *x)
{
    if (x->round_setter >= 0)
        jit_flags_again(x, 0, true);
    else
        jit_flags_in(&x->c, x->j);
}

/* A guest register, or a copy of it in `copy`. */
unsigned jit_loop_bring(Trans *x, unsigned r, unsigned copy)
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
        m.base = (uint8_t)jit_loop_bring(x, s->base, H_AX);
    }
    if (s->index != GPR_ZERO)
        m.index = (uint8_t)jit_loop_bring(x, s->index, H_CX);
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
        m.index = (uint8_t)jit_loop_bring(x, s->base, H_AX);
    }
    emit_lea(c, true, H_AX, m);
    if (s->index != GPR_ZERO && jit_stays(x, s->index)) {
        m = (HostMem){.base = H_AX, .scale = s->scale};
        m.index = (uint8_t)jit_loop_bring(x, s->index, H_DX);
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
    unsigned by = jit_loop_bring(x, s->by, H_CX);
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

/* Has a stream before n the same step, in the same register? */
static bool step_seen(const Trans *x, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (x->stream[k].by == x->stream[n].by && x->stream[k].by_scale == x->stream[n].by_scale)
            return true;
    return false;
}

/* One by the mirror: that has no ends of pages, and room around it for all rounds. */
static void check_area(Trans *x, unsigned n, const uint8_t *fails)
{
    Code *c = &x->c;
    const struct Stream *s = &x->stream[n];
    unsigned k = 0;
    while (x->stream_of[k] != (int)n)
        k++;
    unsigned at = H_AX; /* how far from there its bytes are does not matter */
    if (s->index == GPR_ZERO && s->base < GPR_N && x->host[s->base] != H_NONE)
        at = x->host[s->base];
    else
        first_byte(x, s);
    if (s->area == MIRROR_HIGH) {
        jit_area_bits(x, at, s->area);
        alu_imm(c, CMP, true, H_CX, 1);
    } else {
        alu_mem(c, CMP, at, jit_hot(x->j, offsetof(JitHot, mirror_low_end)));
    }
    struct Cold *cold = /* jne, jae */
        jit_cold(x, emit_jcc(c, s->area == MIRROR_HIGH ? 5 : 3, here(c)), COLD_STREAM);
    cold->mirror = true;
    cold->k = (uint16_t)k;
    if (s->by != GPR_ZERO && !step_seen(x, n))
        step_by_register(x, s, fails);
    if (s->direct)
        return;
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
    if (x->round_setter < 0)
        emit_store(c, H_AX, tmp);
    flags_again(x);
    if (x->round_setter < 0)
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
    for (unsigned k = 0; x->mirror && !x->kernel && k + 1u < x->n; k++) {
        const struct Part *part = jit_part_of(x, k);
        unsigned at = k - part->first;
        if (x->stream_of[k] != (int)n)
            continue;
        if (part->b->no_mirror >> at & 1)
            return MIRROR_NONE;
        for (unsigned a = MIRROR_LOW; a <= MIRROR_HIGH; a++)
            seen |= (unsigned)(part->b->in_mirror[a - 1] >> at & 1) << a;
    }
    return seen == BIT(MIRROR_LOW)    ? MIRROR_LOW
           : seen == BIT(MIRROR_HIGH) ? MIRROR_HIGH
                                      : MIRROR_NONE;
}

void jit_loop_areas(Trans *x)
{
    for (unsigned n = 0; n < x->n_streams; n++) {
        struct Stream *s = &x->stream[n];
        s->area = s->table ? s->table : stream_area(x, n);
        s->direct = s->area == MIRROR_LOW && s->base != GPR_IP;
    }
}

void jit_loop_set_again(Code *c, bool to)
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
    jit_loop_set_again(&x->c, false);
    for (unsigned n = 0; n < x->n_streams; n++)
        if (x->stream[n].step && abs(x->stream[n].step) <= FETCH_STEP)
            fetch_ahead(x, &x->stream[n]);
    return emit_jmp(&x->c, here(&x->c));
}

/* FRAME_ROUNDS and FRAME_BOUND: minus what the counter will be, or (flags are free) that. */
static void set_bound(Trans *x, const Loop *l, unsigned copies, bool have_rounds,
                      const uint8_t *fails)
{
    Code *c = &x->c;
    HostMem rounds = jit_frame(FRAME_ROUNDS);
    int64_t all = l->counter_by == GPR_ZERO ? l->at_end[l->counter].delta * ROUNDS_MAX : INT64_MAX;
    if (!have_rounds && all == (int32_t)all) {
        encode(c, &(Enc){.map = MAP_1B, /* mov qword */
                         .opcode = 0xc7,
                         .w = true,
                         .modrm = true,
                         .mem = &rounds,
                         .imm = ROUNDS_MAX,
                         .imm_size = 4});
        unsigned counter = jit_loop_bring(x, l->counter, H_CX);
        emit_lea(c, true, H_AX,
                 (HostMem){.base = (uint8_t)counter, .index = H_NONE, .disp = (int32_t)all});
    } else {
        emit_imm32(c, H_CX, ROUNDS_MAX);
        if (have_rounds) { /* rax is the least number that there is yet one more of */
            emit_load(c, H_AX, rounds);
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
        emit_store(c, H_AX, rounds);
        if (l->counter_by == GPR_ZERO)
            multiply(c, H_AX, (int32_t)l->at_end[l->counter].delta);
        else
            encode(c, &(Enc){.map = MAP_0F, /* imul */
                             .opcode = 0xaf,
                             .w = true,
                             .modrm = true,
                             .reg = H_AX,
                             .rm = (uint8_t)jit_loop_bring(x, l->counter_by, H_CX)});
        alu(c, ADD, true, H_AX, jit_loop_bring(x, l->counter, H_CX));
    }
    if (x->round_setter < 0)
        code_bytes(c, "\x48\xf7\xd8", 3); /* neg rax */
    emit_store(c, H_AX, jit_frame(FRAME_BOUND));
}

/* From `head` to `again`, straight on; before it, what it leaves it for. */
void jit_loop_enter(Trans *x, JitCode *code, const Loop *l, unsigned copies)
{
    Code *c = &x->c;
    HostMem again = jit_frame(FRAME_AGAIN);
    bool have_rounds = false, fetches = false;
    const uint8_t *fails = here(c);
    flags_again(x);
    emit_jmp(c, code->entry);
    for (unsigned n = 0; n < x->n_streams; n++) {
        struct Stream *s = &x->stream[n];
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
    if (x->round_setter < 0)
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
    if (l->counter != GPR_ZERO)
        set_bound(x, l, copies, have_rounds, fails);
    if (x->round_setter < 0)
        jit_flags_in(c, x->j);
    jit_homes_swap(x, false);
    align(c);
}
