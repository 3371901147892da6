/*
 * Near branches, and how a block hands over to the next. See jit.h.
 *
 * An indirect branch looks its target up before it changes anything: a target that is not in the
 * jump cache (never seen, not canonical, beyond the code segment) leaves the whole instruction to
 * its exec function.
 */
#include "jit/trans.h"

/* Where the jump cache has `member` of the entry with the index in rdx, or of a RIP's. */
static HostMem jump_member(const Trans *x, size_t member, const uint64_t *rip)
{
    int slot = jit_jump_slot(x->mode);
    size_t at = offsetof(JitHot, jump) + (size_t)slot * sizeof(JJump) + member;
    HostMem m = jit_hot(x->j, at + (rip ? 8 * (*rip & (JJUMP_SIZE - 1)) : 0));
    if (!rip) {
        m.index = H_DX;
        m.scale = 3;
    }
    return m;
}

/* edx = index in the jump cache of the RIP in rax */
static void index_of_ax(Trans *x)
{
    encode(&x->c, &(Enc){.map = MAP_0F,
                         .opcode = 0xb7,
                         .modrm = true,
                         .reg = H_DX,
                         .rm = H_AX}); /* movzx edx, ax */
    x->dx_run = -1;
}

/* Looks up rax in the jump cache, leaving the index in rdx; if it is not there, cold code of this
 * kind. */
static void lookup(Trans *x, enum ColdKind kind)
{
    Code *c = &x->c;
    index_of_ax(x);
    emit_load(c, H_CX, jump_member(x, offsetof(JJump, neg), NULL));
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_AX, .scale = 0, .disp = 0});
    jit_unless_zero(x, kind);
}

static void jump_to_code(Trans *x, HostMem m)
{
    encode(&x->c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 4, .mem = &m});
}

/* To the code that the look-up has found. */
static void jump_by_cache(Trans *x, const uint64_t *rip)
{
    jump_to_code(x, jump_member(x, offsetof(JJump, code), rip));
}

/* To another page, of code that floats: looked up. */
static void lookup_page(Trans *x, enum ColdKind kind, int64_t off)
{
    jit_rip(x, H_AX, off);
    lookup(x, kind);
}

/* Looks rip up: if the jump cache has it, on behind what leaves for C, which comes next and whose
 * place is returned. */
const uint8_t *jit_far_start(Trans *x, uint64_t rip)
{
    Code *c = &x->c;
    emit_imm64(c, H_AX, rip);
    emit_load(c, H_CX, jump_member(x, offsetof(JJump, neg), &rip));
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_AX, .scale = 0, .disp = 0});
    code8(c, 0xe3); /* jrcxz, over what leaves */
    code8(c, 0);
    return here(c);
}

/* The jump cache has it: on to there; or to C all the same, once in JitLink.left times. */
void jit_far_end(Trans *x, JitLink *l, const uint8_t *out)
{
    Code *c = &x->c;
    HostMem left = {.base = H_CX, .index = H_NONE};
    ptrdiff_t over = here(c) - out;
    if (c->overflow)
        return;
    (c->p - over)[-1] = (uint8_t)over;
    emit_imm64(c, H_CX, (uintptr_t)&l->left);
    emit_load32(c, H_DX, left);
    emit_lea(c, false, H_DX, (HostMem){.base = H_DX, .index = H_NONE, .disp = -1});
    emit_rm(c, 0x89, false, H_DX, left);
    emit_mov(c, false, H_CX, H_DX);
    code8(c, 0xe3); /* jrcxz, back */
    code8(c, (uint8_t)(out - (here(c) + 1)));
    emit_imm32(c, H_DX, (uint32_t)l->rip & (JJUMP_SIZE - 1));
    jump_by_cache(x, &l->rip);
}

/* May a link lead there? To other pages where it is known which those are. */
static bool linkable(const Trans *x, int64_t off)
{
    return jit_same_page(x->off, off) || x->fixed;
}

/* A rel32 just written: leads to a block there, once there is one. */
static void link_from(Trans *x, uint8_t *from, unsigned link, int64_t off)
{
    struct Cold *cold = jit_cold(x, from, COLD_LINK);
    cold->link = (int8_t)link;
    cold->backward = x->back || off < x->off + x->insn[x->k < x->n ? x->k : x->n - 1u]->end;
    cold->rip_off = off;
}

void jit_emit_goto(Trans *x, unsigned link, int64_t off)
{
    Code *c = &x->c;
    if (linkable(x, off)) {
        link_from(x, emit_jmp(c, here(c)), link, off);
        return;
    }
    lookup_page(x, COLD_LOOKUP, off);
    x->cold[x->n_cold - 1].rip_off = off;
    jump_by_cache(x, NULL);
}

void jit_emit_goto_polled(Trans *x, unsigned link, int64_t off)
{
    bool link_it = linkable(x, off);
    jit_emit_goto(x, link, off);
    if (link_it) /* what is looked up is polled anyway */
        x->cold[x->n_cold - 1].backward = true;
}

static int64_t target_off(const Trans *x, const Insn *i)
{
    return x->off + i->disp;
}
/* To i's target, a direct one. */
static void go_direct(Trans *x, const Insn *i)
{
    int64_t off = target_off(x, i);
    if (linkable(x, off)) {
        jit_emit_goto(x, 1, off);
        return;
    }
    lookup_page(x, COLD_HELPER, off);
    jump_by_cache(x, NULL);
}

static bool emit_jcc_insn(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    int64_t off = target_off(x, i);
    unsigned condition = op_rows[i->row].opcode & 15;
    x->jcc = here(c);
    if (linkable(x, off)) {
        link_from(x, emit_jcc(c, condition, here(c)), 1, off);
    } else {
        uint8_t *skip = emit_jcc(c, condition ^ 1, here(c));
        go_direct(x, i);
        patch_rel32(skip, c->run, here(c));
    }
    x->behind_jcc = here(c);
    jit_count_way_out(x);
    jit_emit_goto(x, 0, x->off + i->end);
    return true;
}

/* LOOP, JrCXZ within the page: the host's own, with its count in rcx. */
static bool emit_loop(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    int64_t off = target_off(x, i);
    bool loop = op_rows[i->row].opcode == 0xe2;
    if (!jit_same_page(x->off, off) || i->asize == 2)
        return false;
    if (loop)
        emit_lea(c, i->asize == 8, x->host[RCX],
                 (HostMem){.base = x->host[RCX], .index = H_NONE, .disp = -1});
    emit_mov(c, i->asize == 8, H_CX, x->host[RCX]);
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    if (loop) {
        jit_emit_goto(x, 1, off);
        jit_emit_goto(x, 0, x->off + i->end);
    } else {
        /* Not zero: on; the 5 bytes of a jump within the page, or more. */
        uint8_t *next = emit_jmp(c, here(c));
        jit_emit_goto(x, 1, off);
        patch_rel32(next, c->run, here(c));
        jit_emit_goto(x, 0, x->off + i->end);
    }
    return true;
}

void jit_move_rsp(Trans *x, int32_t n)
{
    emit_lea(&x->c, x->mode & DM_CODE64, x->host[RSP],
             (HostMem){.base = x->host[RSP], .index = H_NONE, .disp = n});
}

/* Pushes the return address: RSP is changed last. */
static void push_return(Trans *x, const Insn *i)
{
    HostMem m;
    uint64_t rip = jit_fixed_rip(x, x->off + i->end);
    bool w = i->opsize == 8;
    jit_operand_at(x, RSP, -(int32_t)i->opsize, i->opsize, true, &m);
    if (x->fixed && (!w || (int64_t)rip == (int32_t)rip)) {
        jit_guard(x);
        encode(&x->c, &(Enc){.map = MAP_1B,
                             .opcode = 0xc7,
                             .w = w,
                             .modrm = true,
                             .mem = &m,
                             .imm = (int64_t)rip,
                             .imm_size = 4});
    } else {
        jit_rip(x, H_CX, x->off + i->end);
        jit_guard(x);
        emit_rm(&x->c, 0x89, w, H_CX, m);
    }
    jit_move_rsp(x, -(int32_t)i->opsize);
}

/* Does push_return() leave rax alone? */
static bool push_keeps_ax(const Trans *x)
{
    int run = x->run_of[x->k];
    return (x->mode & DM_CODE64) && run >= 0 && x->run[run].ready;
}

static bool emit_jmp_direct(Trans *x, const Insn *i)
{
    go_direct(x, i);
    return true;
}

static bool emit_call_direct(Trans *x, const Insn *i)
{
    int64_t off = target_off(x, i);
    if (linkable(x, off)) {
        push_return(x, i);
        jit_emit_goto(x, 1, off);
        return true;
    }
    lookup_page(x, COLD_HELPER, off);
    push_return(x, i);
    jit_rip(x, H_AX, off);
    index_of_ax(x);
    jump_by_cache(x, NULL);
    return true;
}

/* The target of CALL or JMP with an operand, in rax. */
static bool indirect_target(Trans *x, const Insn *i)
{
    bool w = i->opsize == 8;
    if (!(i->flags & IF_MEM)) {
        jit_get(x, H_AX, i->rm);
        if (!w)
            emit_mov(&x->c, false, H_AX, H_AX);
        return true;
    }
    HostMem m;
    int16_t run = x->run_of[x->k]; /* of what CALL pushes */
    x->run_of[x->k] = -1;
    bool found = jit_operand(x, i, i->opsize, false, &m);
    x->run_of[x->k] = run;
    if (!found)
        return false;
    jit_guard(x);
    emit_rm(&x->c, 0x8b, w, H_AX, m);
    return true;
}

static bool emit_jmp_indirect(Trans *x, const Insn *i)
{
    if (!indirect_target(x, i))
        return false;
    lookup(x, COLD_HELPER);
    jump_by_cache(x, NULL);
    return true;
}

/* Does only cold code, from this one on, change rax for what is pushed? That has it again from the
 * frame then: who waits for the target of a CALL shall not wait for a load besides. */
static bool only_cold_takes_ax(Trans *x, unsigned from)
{
    if (x->n_cold != from + 1)
        return false;
    struct Cold *cold = &x->cold[from];
    if (cold->kind != COLD_ACCESS || cold->ea.base != x->host[RSP])
        return false;
    cold->framed_ax = true;
    return true;
}

/* CALL to the RIP in rax, by the jump cache. */
static void call_by_ax(Trans *x, const Insn *i)
{
    HostMem target = jit_frame(0); /* no loop's second body has a CALL */
    lookup(x, COLD_HELPER);
    bool keeps = push_keeps_ax(x);
    unsigned cold = x->n_cold;
    if (!keeps)
        emit_store(&x->c, H_AX, target);
    push_return(x, i);
    if (!keeps && !only_cold_takes_ax(x, cold))
        emit_load(&x->c, H_AX, target);
    index_of_ax(x);
    jump_by_cache(x, NULL);
}

static bool emit_call_indirect(Trans *x, const Insn *i)
{
    if (!indirect_target(x, i))
        return false;
    call_by_ax(x, i);
    return true;
}

static bool emit_ret(Trans *x, const Insn *i)
{
    HostMem m;
    jit_operand_at(x, RSP, 0, i->opsize, false, &m);
    jit_guard(x);
    emit_rm(&x->c, 0x8b, i->opsize == 8, H_AX, m);
    lookup(x, i->opsize == 8 && !i->imm ? COLD_RETURN : COLD_HELPER);
    jit_move_rsp(x, (int32_t)(i->opsize + i->imm));
    jump_by_cache(x, NULL);
    return true;
}

/* Is a target, if i has one there, surely canonical? */
static bool reachable(const Trans *x, int64_t off)
{
    uint64_t rip = jit_fixed_rip(x, off);
    return (uint64_t)((int64_t)(rip << 16) >> 16) == rip;
}

/* On, if the RIP in rax is where the trace goes on; else to cold code of this kind. */
static struct Cold *expect_next(Trans *x, enum ColdKind kind)
{
    Code *c = &x->c;
    HostMem less = {.base = H_AX, .index = H_NONE};
    bool one = x->j->near_jumps;
    uint64_t next = jit_fixed_rip(x, x->at[1].off), minus = (uint64_t)one - next;
    if (kind == COLD_ELSEWHERE && next == (uint64_t)(int32_t)next && jit_flags_free(x)) {
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0x81, /* cmp rax, next */
                         .w = true,
                         .modrm = true,
                         .reg = 7,
                         .rm = H_AX,
                         .imm = (int64_t)next,
                         .imm_size = 4});
        return jit_cold(x, emit_jcc(c, 5, here(c)), kind);
    }
    if ((int64_t)minus == (int32_t)minus) {
        less.disp = (int32_t)minus;
    } else {
        emit_imm64(c, H_CX, minus);
        less.index = H_CX;
    }
    emit_lea(c, true, H_CX, less);
    return one ? jit_unless_one(x, kind) : jit_unless_zero(x, kind);
}

/* RET that goes back to where the trace goes on; elsewhere by the jump cache. */
static void follow_return(Trans *x, const Insn *i)
{
    HostMem m;
    jit_operand_at(x, RSP, 0, i->opsize, false, &m);
    jit_guard(x);
    emit_rm(&x->c, 0x8b, i->opsize == 8, H_AX, m);
    expect_next(x, COLD_ELSEWHERE);
    jit_move_rsp(x, (int32_t)(i->opsize + i->imm));
}

/* JMP and CALL of an operand, likewise. */
static bool follow_indirect(Trans *x, const Insn *i)
{
    if (!indirect_target(x, i))
        return false;
    if ((op_rows[i->row].modrm & 7) != 2) {
        expect_next(x, COLD_ELSEWHERE);
        return true;
    }
    struct Other *o = &x->other[x->n_other];
    *o = (struct Other){.k = x->k, .mode = x->mode};
    for (unsigned r = 0; r < x->n_runs; r++)
        o->ready |= (uint64_t)x->run[r].ready << r;
    expect_next(x, COLD_OTHER)->link = (int8_t)x->n_other++;
    push_return(x, i);
    return true;
}

void jit_other_ways(Trans *x)
{
    unsigned mode = x->mode;
    for (unsigned n = 0; n < x->n_other; n++) {
        struct Other *o = &x->other[n];
        x->k = o->k;
        x->mode = o->mode;
        x->off = jit_off_of(x, o->k);
        for (x->at = x->part; x->at->first + x->at->b->n <= o->k;)
            x->at++;
        x->dx_run = -1;
        x->ax = H_NONE;
        for (unsigned r = 0; r < x->n_runs; r++)
            x->run[r].ready = o->ready >> r & 1;
        jit_island_before(x, INDIRECT_BYTES);
        o->at = here(&x->c);
        call_by_ax(x, x->insn[o->k]);
    }
    x->k = x->n;
    x->mode = mode;
    x->at = &x->part[x->n_parts - 1];
    x->off = x->at->off;
}

void jit_go_elsewhere(Trans *x, unsigned k)
{
    Code *c = &x->c;
    const Insn *i = x->insn[k];
    index_of_ax(x);
    emit_load(c, H_CX, jump_member(x, offsetof(JJump, neg), NULL));
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_AX, .scale = 0, .disp = 0});
    code8(c, 0xe3); /* jrcxz, over what leaves it to the exec function */
    uint8_t *rel8 = c->p;
    code8(c, 0);
    if (op_rows[i->row].opcode == 0xc3 && i->opsize == 8)
        emit_call(c, x->j->s_return);
    emit_imm64(c, H_DX, (uintptr_t)x->code);
    emit_imm32(c, H_CX, k);
    emit_call(c, x->j->s_helper);
    emit_jmp(c, x->j->s_exit); /* nothing comes back here */
    if (!c->overflow)
        *rel8 = (uint8_t)(c->p - rel8 - 1);
    if ((op_rows[i->row].opcode & 0xfe) == 0xc2)
        jit_move_rsp(x, (int32_t)(i->opsize + i->imm));
    jump_by_cache(x, NULL);
}

void jit_guard_page(Trans *x)
{
    const struct Part *next = &x->at[1];
    if (!next->cross)
        return;
    link_from(x, emit_jmp(&x->c, here(&x->c)), x->n_parts + 1 + (unsigned)(x->at - x->part),
              next->off);
    x->cold[x->n_cold - 1].backward = true;
}

/* The branch at the end of a part that is not the last: the code of the next part follows. Whatever
 * leaves a trace that has gone back looks at Vcpu.go, so what is in it need not. */
static bool follow(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    int64_t off = target_off(x, i), behind = x->off + i->end;
    unsigned condition = r->opcode & 15, link = 2 + (unsigned)(x->at - x->part);
    if (r->map == MAP_0F || (r->opcode & 0xf0) == 0x70) {
        bool jumps = x->at->jumps;
        x->side[x->at - x->part] = here(c);
        link_from(x, emit_jcc(c, condition ^ jumps, here(c)), link, jumps ? behind : off);
    } else if ((r->opcode & 0xfe) == 0xc2) {
        follow_return(x, i);
    } else if (r->opcode == 0xff) {
        if (!follow_indirect(x, i))
            return false;
    } else if (r->opcode == 0xe8) {
        push_return(x, i);
    }
    x->back |= x->at[1].off < behind;
    jit_guard_page(x);
    return true;
}

bool jit_emit_branch(Trans *x, const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    bool code64 = x->mode & DM_CODE64, done = false;
    int64_t off = target_off(x, i);
    if (i->opsize != (code64 ? 8 : 4) || (x->fixed ? !reachable(x, off) : off != (int32_t)off))
        return false;
    if (x->at < &x->part[x->n_parts - 1] && x->k + 1 == x->at[1].first) {
        return follow(x, i);
    }
    if (r->map == MAP_0F || (r->opcode & 0xf0) == 0x70) {
        done = emit_jcc_insn(x, i);
    } else {
        switch (r->opcode) {
        case 0xe2:
        case 0xe3:
            done = emit_loop(x, i);
            break;
        case 0xe8:
            done = emit_call_direct(x, i);
            break;
        case 0xe9:
        case 0xeb:
            done = emit_jmp_direct(x, i);
            break;
        case 0xff:
            done = (r->modrm & 7) == 2 ? emit_call_indirect(x, i) : emit_jmp_indirect(x, i);
            break;
        case 0xc2:
        case 0xc3:
            done = emit_ret(x, i);
            break;
        }
    }
    x->ended = done;
    return done;
}
