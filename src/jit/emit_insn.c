/*
 * Emitters: one function an emit kind (enum OpEmit). Each either writes host code for the whole
 * instruction or returns false before it has written any that counts; the instruction's exec
 * function then does it.
 *
 * Until the memory operand has been found nothing of the guest's state may change: a miss runs the
 * instruction by its exec function, from the start.
 */
#include "jit/sys.h"
#include "tcg/vec.h"

extern const ExecSet exec_x87, exec_x87_store, exec_fnstsw, exec_fwait;

/* A guest general register as an operand. */
typedef struct GprOp {
    bool used, byte;
    uint8_t guest, host; /* host: where the instruction finds it */
    bool scratch;        /* host is a copy, to be put back if written */
    bool high;           /* AH to BH: the copy is rotated right by 8 */
} GprOp;

static bool is_vector_row(const OpRow *r)
{
    return r->attr & (A_SSE | A_AVX | A_MMX);
}

static unsigned operand_size_of(const Insn *i, unsigned op)
{
    const OpRow *r = &op_rows[i->row];
    if (is_vector_row(r))
        return vec_operand_bytes(i, op);
    return operand_info[op].size ? operand_info[op].size : i->opsize;
}

/* Number of the register in an Insn's field: byte registers are byte offsets. */
static void register_of(GprOp *g, unsigned field, bool byte)
{
    *g = (GprOp){.used = true,
                 .byte = byte,
                 .guest = (uint8_t)(byte ? field >> 3 : field),
                 .high = byte && (field & 7)};
}

/* Makes g available in a host register; `copy` for those that live in CpuState. */
static void bring(Trans *x, GprOp *g, unsigned copy)
{
    g->host = x->host[g->guest];
    if (g->host != H_NONE && !g->high)
        return;
    HostMem slot = jit_home(x, g->guest);
    g->scratch = true;
    if (copy == H_DX)
        x->dx_run = -1;
    if (g->high)
        emit_rorx(&x->c, copy, g->host, g->host == H_NONE ? &slot : NULL, 8);
    else
        emit_load(&x->c, copy, slot);
    g->host = (uint8_t)copy;
}

static void put_back(Trans *x, const GprOp *g)
{
    if (!g->used || !g->scratch)
        return;
    if (g->high)
        emit_rorx(&x->c, g->host, g->host, NULL, 56);
    jit_put(x, g->guest, g->host);
}

/* The registers that JitHot's flag at `away` speaks of must be the guest's. */
static void need_registers(Trans *x, size_t away)
{
    const uint8_t *retry = here(&x->c);
    emit_load(&x->c, H_CX, jit_hot(x->j, away));
    struct Cold *cold;
    if (x->j->near_jumps) {
        emit_lea(&x->c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = 1});
        cold = jit_unless_one(x, COLD_VEC);
    } else {
        cold = jit_unless_zero(x, COLD_VEC);
    }
    cold->retry = retry;
    cold->dx_run = x->dx_run;
}

void jit_need_vectors(Trans *x, const OpRow *r)
{
    unsigned n = r->attr & A_AVX512 ? 2 : r->attr & A_AVX ? 1 : 0;
    if (x->vec[n])
        return;
    need_registers(x, offsetof(JitHot, vec_away) + 8 * n);
    for (unsigned k = 0; k <= n; k++)
        x->vec[k] = true;
}

static void need_x87(Trans *x)
{
    if (!x->x87)
        need_registers(x, offsetof(JitHot, x87_away));
    x->x87 = true;
}

/* Prefixes, opcode and size of i, without operands. */
static Enc same_instruction(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    bool vector = is_vector_row(r), w = i->opsize == 8;
    if (vector) {
        /* VEX.W counts in every mode, but does not widen general registers outside 64-bit mode. */
        w = i->rexw && (r->map >= MAP_VEX0F || (i->flags & IF_CODE64));
        for (unsigned k = 0; k < 4 && !(i->flags & IF_CODE64); k++) {
            unsigned cls = operand_info[r->op[k]].cls;
            if (cls == OC_REG || cls == OC_RM || cls == OC_RMREG)
                w = false;
        }
    }
    return (Enc){
        .map = r->map,
        /* 82 is 80 outside 64-bit mode, and nothing in it. */
        .opcode = r->map == MAP_1B && r->opcode == 0x82 ? 0x80 : r->opcode,
        .pfx = r->pfx == PFX_ANY ? PFX_NP : r->pfx,
        .p66 = !vector && i->opsize == 2 && r->pfx != PFX_66,
        .w = w,
        .l = vector && i->vexl,
        .evex = i->evex & (EVEX_LL | EVEX_B | EVEX_AAA | (i->evex & EVEX_AAA ? EVEX_Z : 0)),
        .lock = i->flags & IF_LOCK,
        .reg = r->modrm & 7,
    };
}

/* Is the first operand written whole, whatever was in it? */
static bool overwrites(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    if (i->opsize < 4)
        return false;
    if (r->map == MAP_1B) /* MOV, MOVSXD, IMUL by an immediate */
        return r->opcode == 0x89 || r->opcode == 0x8b || r->opcode == 0x63 || r->opcode == 0x69 ||
               r->opcode == 0x6b;
    return r->map == MAP_0F && (r->opcode & 0xf6) == 0xb6 && !is_vector_row(r) &&
           r->pfx != PFX_F3; /* MOVZX, MOVSX */
}

/* g, which lives in CpuState, is or will be in a copy. */
static void in_copy(GprOp *g, unsigned copy)
{
    g->host = (uint8_t)copy;
    g->scratch = true;
}

/* XOR or SUB of a register with itself: what it held does not matter. */
static bool clears(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    return i->opsize >= 4 && r->map == MAP_1B &&
           ((r->opcode & 0xfd) == 0x31 || (r->opcode & 0xfd) == 0x29);
}

/* May e, of a register rm and a register reg, have the two the other way round? */
static bool turns_round(const Insn *i, Enc *e)
{
    const OpRow *r = &op_rows[i->row];
    if (r->map != MAP_1B || i->opsize < 4)
        return false;
    if (r->opcode == 0x85) /* TEST */
        return true;
    if (r->opcode != 0x89 && (r->opcode >= 0x40 || (r->opcode & 7) != 1))
        return false;
    e->opcode = r->opcode | 2;
    return true;
}

/*
 * The general registers of an instruction without memory operand, of which some live in CpuState:
 * reg and rm into copies, or rm into *slot (returns true); or reg, and then rm is in its place. ax:
 * the one whose value is in rax, and x->ax afterwards.
 */
static bool bring_both(Trans *x, const Insn *i, Enc *e, GprOp *reg, GprOp *rm, bool rm_written,
                       bool rm_copy, bool reg_written, unsigned ax, HostMem *slot)
{
    bool reg_away = reg->used && x->host[reg->guest] == H_NONE, taken = false, in_slot = false;
    bool rm_away = rm->used && x->host[rm->guest] == H_NONE;
    bool store = rm_away && rm_written && reg->used && i->opsize == 8 && e->opcode == 0x89 &&
                 e->map == MAP_1B;
    rm_copy = rm_away && (rm_copy || rm_written);
    x->ax = (uint8_t)ax;
    if (reg->used)
        reg->host = x->host[reg->guest];
    if (rm->used)
        rm->host = x->host[rm->guest];
    if (store) { /* MOV */
        if (reg_away && reg->guest != ax)
            bring(x, reg, H_AX);
        if (reg_away)
            in_copy(reg, H_AX);
        if (reg_away)
            x->ax = rm->guest;
        else if (ax == rm->guest)
            x->ax = H_NONE;
        *slot = jit_home(x, rm->guest);
        return true;
    }
    if (reg_away && rm->used && !rm_away && reg->guest != ax && turns_round(i, e)) {
        *slot = jit_home(x, reg->guest);
        *reg = *rm;
        return true;
    }
    if (reg_away && rm_copy) { /* rm has rax */
        if (rm->guest == reg->guest) {
            in_copy(reg, H_AX);
        } else if (reg->guest == ax) {
            emit_mov(&x->c, true, H_CX, H_AX);
            in_copy(reg, H_CX);
        } else {
            bring(x, reg, H_CX);
        }
    } else if (reg_away) {
        bool whole = reg_written && overwrites(i);
        taken = reg->guest != ax && !whole; /* rax has something else before the instruction */
        if (taken)
            bring(x, reg, H_AX);
        in_copy(reg, H_AX);
        x->ax = reg->guest;
    }
    if (rm_copy) {
        bool reads = !(rm_written && overwrites(i)) || reg->host == H_AX;
        if (reg->used && reg->guest == rm->guest && clears(i))
            reads = false;
        if (rm->guest != ax && reads)
            bring(x, rm, H_AX);
        in_copy(rm, H_AX);
        x->ax = rm->guest;
    } else if (rm_away && rm->guest == ax && !taken) {
        in_copy(rm, H_AX);
    } else if (rm_away) {
        *slot = jit_home(x, rm->guest);
        in_slot = true;
    }
    return in_slot;
}

/* COPY, TEST, CL. cl: rcx is taken by the count. ax: see bring_both(). */
static bool emit_same(Trans *x, const Insn *i, bool writes, bool cl, unsigned ax)
{
    const OpRow *r = &op_rows[i->row];
    if ((r->attr & A_MMX) && !x->j->x87)
        return false;
    Enc e = same_instruction(i);
    GprOp reg = {0}, rm = {0}, vvvv = {0};
    HostMem mem;
    bool is_mem = i->flags & IF_MEM, has_reg = false, has_rm = false, rm_first = false;
    bool rm_byte = false, bit_test = false;
    unsigned mem_size = 0;

    for (unsigned k = 0; k < 4; k++) {
        unsigned op = r->op[k], cls = operand_info[op].cls, size = operand_size_of(i, op);
        switch (cls) {
        case OC_REG:
            register_of(&reg, i->reg, operand_info[op].size == 1);
            has_reg = true;
            break;
        case OC_OPREG:
            register_of(&rm, i->reg, operand_info[op].size == 1);
            break;
        case OC_VREG:
        case OC_KREG:
        case OC_MMREG:
            has_reg = true;
            break;
        case OC_RM:
        case OC_RMREG:
        case OC_MEM:
            has_rm = true;
            rm_first = k == 0;
            mem_size = size;
            rm_byte = operand_info[op].size == 1;
            if (!is_mem)
                register_of(&rm, i->rm, rm_byte);
            break;
        case OC_VRM:
        case OC_VRMREG:
        case OC_KRM:
        case OC_KRMREG:
        case OC_MMRM:
        case OC_MMRMREG:
            has_rm = true;
            rm_first = k == 0;
            mem_size = size;
            break;
        case OC_VVVV:
        case OC_KVVVV:
            if (is_vector_row(r))
                e.vvvv = i->vvvv;
            else
                register_of(&vvvv, i->vvvv, false);
            break;
        case OC_IMM:
        case OC_SIMM:
            e.imm = i->imm;
            e.imm_size = 1;
            break;
        case OC_IMMZ:
            e.imm = i->imm;
            e.imm_size = i->opsize == 2 ? 2 : 4;
            break;
        case OC_IS4: /* eight registers outside 64-bit mode */
            e.imm = i->flags & IF_CODE64 ? i->imm : i->imm & 0x7f;
            e.imm_size = 1;
            break;
        case OC_FIXED:
            if (op == O_AL || op == O_rAX) {
                /* ADD AL, imm and its like: as 80 /n and 81 /n. */
                if (r->map != MAP_1B || (i->opsize == 1) != (op == O_AL))
                    return false;
                e.reg = r->opcode >= 0xa8 ? 0 : r->opcode >> 3 & 7;
                e.opcode =
                    (uint8_t)(r->opcode >= 0xa8 ? 0xf6 + (r->opcode & 1) : 0x80 + (r->opcode & 1));
                has_rm = true;
                register_of(&rm, op == O_AL ? 0 : RAX, op == O_AL);
            }
            break;
        case OC_NONE:
            break;
        default:
            return false;
        }
    }
    /* BT with a register counts from the operand on through memory. */
    bit_test = r->map == MAP_0F && (r->opcode & 0xe7) == 0xa3 && has_reg;
    if (is_mem && bit_test)
        return jit_emit_bit_string(x, i);
    if (is_mem && !mem_size)
        return false;
    if ((i->flags & IF_LOCK) && !is_mem)
        return false;

    if (r->attr & A_MMX)
        need_x87(x);
    else if (is_vector_row(r))
        jit_need_vectors(x, r);
    bool both = r->map == MAP_0F ? (r->opcode & 0xfe) == 0xc0
                                 : r->map == MAP_1B && (r->opcode & 0xfe) == 0x86;
    bool plain_write = writes && rm_first, rm_written = false;
    if (both && (reg.high || rm.high))
        return false; /* two halves of one register would be put back one over the other */
    if (is_mem) {
        if (cl && reg.used && x->host[reg.guest] == H_NONE)
            return false; /* rcx is the count */
        if (vvvv.used && x->host[vvvv.guest] == H_NONE)
            return false;
        if (!jit_operand(x, i, mem_size, plain_write || both, &mem))
            return false;
        e.mem = &mem;
    }
    if (cl)
        jit_get(x, H_CX, RCX);
    if (!is_mem)
        rm_written =
            rm.used &&
            ((writes && (rm_first || !has_rm || r->op[0] == O_AL || r->op[0] == O_rAX)) || both);
    bool simple =
        !is_mem && !cl && !both && !vvvv.used && !reg.high && !rm.high && !is_vector_row(r);
    if (simple) {
        if (bring_both(x, i, &e, &reg, &rm, rm_written, bit_test, writes && !rm_first && reg.used,
                       ax, &mem))
            e.mem = &mem;
        e.rm = rm.host;
    } else {
        if (reg.used && is_mem && !reg.high && writes && !rm_first && overwrites(i) &&
            x->host[reg.guest] == H_NONE) {
            in_copy(&reg, H_AX);
            x->ax = reg.guest;
        } else if (reg.used)
            bring(x, &reg, cl ? H_DX : H_CX);
        if (vvvv.used)
            bring(x, &vvvv, H_DX);
    }
    if (is_mem || simple) {
        /* e.mem, e.rm are set */
    } else if (rm.used) {
        /* EVEX.b means something else with memory, and KMOV takes registers only. */
        bool in_place = !bit_test && !rm.high && !(r->attr & A_AVX512);
        if (x->host[rm.guest] == H_NONE && !rm_written && in_place) {
            mem = jit_home(x, rm.guest);
            e.mem = &mem;
        } else {
            bring(x, &rm, H_AX);
            e.rm = rm.host;
        }
    } else if (has_rm) {
        e.rm = i->rm; /* a vector register */
    }
    if (reg.used)
        e.reg = reg.host;
    else if (has_reg)
        e.reg = i->reg; /* a vector register */
    if (vvvv.used)
        e.vvvv = vvvv.host;
    e.rex = reg.byte || (rm.used && rm.byte);
    e.modrm = has_rm || has_reg;
    if (rm.used && !has_rm) { /* the register in the opcode */
        /* BSWAP's and XCHG's have no ModRM byte. */
        if (r->map == MAP_0F && r->opcode == 0xc8) {
            if (i->opsize == 2)
                return false;
            if (e.w || rm.host >= 8)
                code8(&x->c, 0x40u | (unsigned)e.w << 3 | rm.host >> 3);
            code8(&x->c, 0x0f);
            code8(&x->c, 0xc8u | (rm.host & 7u));
            put_back(x, &rm);
            return true;
        }
        if (r->opcode == 0x90) {
            if (rm.guest == RAX)
                return true;
            if (x->host[RAX] == H_NONE)
                return false;
            e.opcode = 0x87;
            e.modrm = true;
            e.rm = rm.host;
            e.reg = x->host[RAX];
        } else { /* INC, DEC of 16- and 32-bit code */
            e.reg = r->opcode == 0x40 ? 0 : 1;
            e.opcode = 0xff;
            e.modrm = true;
            e.rm = rm.host;
        }
    }
    bool faults = is_mem && (r->attr & A_ALIGN16);
    if (faults && !x->mirrored)
        jit_may_fault(x);
    else
        jit_guard(x);
    encode(&x->c, &e);
    if (writes || both) { /* XADD with one register twice: the sum stays */
        if (!rm_first || both)
            put_back(x, &reg);
        if (operand_info[r->op[0]].cls == OC_VVVV)
            put_back(x, &vvvv);
        if (rm_written)
            put_back(x, &rm);
    }
    return true;
}

/* SHL, SHR and SAR of a register whose flags nothing looks at. False: nothing is written. */
static bool shift_alone(Trans *x, const Insn *i)
{
    static const uint8_t prefix[8] = {[4] = PFX_66, [5] = PFX_F2, [7] = PFX_F3};
    const OpRow *r = &op_rows[i->row];
    unsigned group = r->modrm & 7;
    if (r->map != MAP_1B || r->opcode != 0xd3 || group < 4 || group == 6 || i->opsize < 4 ||
        i->flags & IF_MEM || !jit_flags_dead(x))
        return false;
    GprOp rm, count;
    register_of(&rm, i->rm, false);
    register_of(&count, RCX, false);
    bring(x, &rm, H_AX);
    bring(x, &count, H_CX);
    emit_shift(&x->c, prefix[group], i->opsize == 8, rm.host, rm.host, count.host);
    put_back(x, &rm);
    return true;
}

static bool emit_cl(Trans *x, const Insn *i)
{
    return shift_alone(x, i) || emit_same(x, i, true, true, H_NONE);
}

static bool emit_imm(Trans *x, const Insn *i)
{
    GprOp g;
    register_of(&g, i->reg, i->opsize == 1);
    if (i->opsize >= 4) {
        unsigned to = x->host[g.guest] == H_NONE ? H_AX : x->host[g.guest];
        emit_imm64(&x->c, to, i->opsize == 4 ? (uint32_t)i->imm : (uint64_t)i->imm);
        if (to == H_AX) {
            emit_store(&x->c, H_AX, jit_home(x, g.guest));
            x->ax = g.guest;
        }
        return true;
    }
    bring(x, &g, H_AX);
    encode(&x->c, &(Enc){.map = MAP_1B,
                         .opcode = i->opsize == 1 ? 0xc6 : 0xc7,
                         .p66 = i->opsize == 2,
                         .rex = i->opsize == 1,
                         .modrm = true,
                         .rm = g.host,
                         .imm = i->imm,
                         .imm_size = i->opsize});
    put_back(x, &g);
    return true;
}

static bool emit_lea_insn(Trans *x, const Insn *i)
{
    Insn flat = *i; /* the segment plays no part */
    flat.flags |= IF_FLAT;
    flat.seg = SEG_NONE;
    bool whole = i->opsize != 2 && x->host[i->reg] != H_NONE;
    if (i->opsize == 4 && i->asize == 8)
        flat.asize = 4; /* the low half is all that counts */
    if (!jit_ea_to(x, &flat, whole ? x->host[i->reg] : H_AX))
        return false;
    if (i->opsize == 2) {
        GprOp g;
        register_of(&g, i->reg, false);
        bring(x, &g, H_CX);
        encode(&x->c, &(Enc){.map = MAP_1B,
                             .opcode = 0x8b,
                             .p66 = true,
                             .modrm = true,
                             .reg = g.host,
                             .rm = H_AX});
        put_back(x, &g);
    } else if (!whole) {
        emit_store(&x->c, H_AX, jit_home(x, i->reg));
        x->ax = i->reg;
    }
    return true;
}

/* MUL, IMUL, DIV and IDIV of rDX:rAX with one operand. */
static bool emit_muldiv(Trans *x, const Insn *i, bool divides)
{
    Enc e = same_instruction(i);
    GprOp rm = {0};
    HostMem slot;
    e.modrm = true;
    e.rex = i->opsize == 1;
    if (i->flags & IF_MEM) {
        HostMem m;
        if (!jit_operand(x, i, i->opsize, false, &m))
            return false;
        jit_guard(x);
        encode(&x->c, &(Enc){.map = MAP_1B,
                             .opcode = i->opsize == 1 ? 0x8a : 0x8b,
                             .p66 = i->opsize == 2,
                             .w = i->opsize == 8,
                             .modrm = true,
                             .reg = H_CX,
                             .mem = &m});
        e.rm = H_CX;
    } else {
        register_of(&rm, i->rm, i->opsize == 1);
        if (rm.high) {
            bring(x, &rm, H_CX);
            e.rm = rm.host;
        } else if (x->host[rm.guest] == H_NONE) {
            slot = jit_home(x, rm.guest);
            e.mem = &slot;
        } else {
            e.rm = x->host[rm.guest];
        }
    }
    jit_get(x, H_AX, RAX);
    if (divides || i->opsize < 4)
        jit_get(x, H_DX, RDX);
    x->dx_run = -1;
    if (divides)
        jit_may_fault(x);
    encode(&x->c, &e);
    jit_put(x, RAX, H_AX);
    if (i->opsize > 1)
        jit_put(x, RDX, H_DX);
    return true;
}
static bool emit_mul(Trans *x, const Insn *i)
{
    return emit_muldiv(x, i, false);
}
static bool emit_div(Trans *x, const Insn *i)
{
    return emit_muldiv(x, i, true);
}

static bool emit_conv(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    bool to_dx = op_rows[i->row].opcode == 0x99, w = i->opsize == 8;
    unsigned ax = x->host[RAX], dx = x->host[RDX];
    if (i->opsize > 2 && ax != H_NONE && !to_dx) { /* movsxd, movsx: in place */
        encode(c, &(Enc){.map = w ? MAP_1B : MAP_0F,
                         .opcode = w ? 0x63 : 0xbf,
                         .w = w,
                         .modrm = true,
                         .reg = (uint8_t)ax,
                         .rm = (uint8_t)ax});
        return true;
    }
    if (i->opsize > 2 && ax != H_NONE && dx != H_NONE) { /* sarx: likewise */
        emit_imm32(c, H_CX, w ? 63 : 31);
        emit_shift(c, PFX_F3, w, dx, ax, H_CX);
        return true;
    }
    jit_get(x, H_AX, RAX);
    if (to_dx) {
        jit_get(x, H_DX, RDX);
        x->dx_run = -1;
    }
    Enc e = same_instruction(i);
    encode(&x->c, &e);
    jit_put(x, to_dx ? RDX : RAX, to_dx ? H_DX : H_AX);
    return true;
}

static bool emit_cmpxchg(Trans *x, const Insn *i)
{
    GprOp reg, rm = {0};
    bool byte = i->opsize == 1;
    Enc e = same_instruction(i);
    register_of(&reg, i->reg, byte);
    if (!(i->flags & IF_MEM))
        register_of(&rm, i->rm, byte);
    if (reg.high || rm.high)
        return false; /* both may be parts of RAX */
    HostMem m = {.base = H_DX, .index = H_NONE, .scale = 0, .disp = 0};
    e.modrm = true;
    e.rex = byte;
    if (i->flags & IF_MEM) {
        HostMem at;
        if (!jit_operand(x, i, i->opsize, true, &at))
            return false;
        emit_lea(&x->c, true, H_DX, at);
        x->dx_run = -1;
        e.mem = &m;
    } else {
        if (i->flags & IF_LOCK)
            return false;
        bring(x, &rm, H_DX);
        e.rm = rm.host;
    }
    bring(x, &reg, H_CX);
    e.reg = reg.host;
    /* The register operand may be rAX itself; comparing goes by the host's. */
    jit_get(x, H_AX, RAX);
    if (rm.used && rm.guest == RAX)
        return false;
    jit_guard(x);
    encode(&x->c, &e);
    put_back(x, &rm);
    jit_put(x, RAX, H_AX);
    return true;
}

/* ---- stack: operands of the stack's own size ---- */
static bool stack_size_ok(const Trans *x, const Insn *i)
{
    return i->opsize == (x->mode & DM_CODE64 ? 8 : 4) && (x->mode & (DM_CODE64 | DM_SS32));
}

/* The operand of PUSH from memory. Where the run is of what it writes, it begins before: whoever
 * goes on behind this instruction, whose operand C has read, finds it begun. */
static bool pushed_operand(Trans *x, const Insn *i, HostMem *m)
{
    int16_t run = x->run_of[x->k];
    if (run >= 0 && !x->run[run].ready)
        jit_operand_at(x, RSP, -(int32_t)i->opsize, i->opsize, true, m);
    x->guarded = x->mirrored = false;
    x->run_of[x->k] = -1;
    bool found = jit_operand(x, i, i->opsize, false, m);
    x->run_of[x->k] = run;
    x->area_of[x->k] = MIRROR_NONE; /* it was the operand's */
    return found;
}

static bool emit_push(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    unsigned n = i->opsize, from = H_NONE;
    bool w = n == 8, imm = false;
    HostMem m, tmp = jit_hot(x->j, offsetof(JitHot, tmp));
    if (!stack_size_ok(x, i))
        return false;
    switch (operand_info[r->op[0]].cls) {
    case OC_OPREG:
        from = i->reg;
        break;
    case OC_RM:
        if (i->flags & IF_MEM) {
            if (!pushed_operand(x, i, &m))
                return false;
            jit_guard(x);
            emit_rm(c, 0x8b, w, H_CX, m);
            emit_store(c, H_CX, tmp);
        } else {
            from = i->rm;
        }
        break;
    default:
        imm = true;
    }
    jit_operand_at(x, RSP, -(int32_t)n, n, true, &m);
    if (imm) {
        jit_guard(x);
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0xc7,
                         .w = w,
                         .modrm = true,
                         .mem = &m,
                         .imm = i->imm,
                         .imm_size = 4});
    } else if (from != H_NONE && x->host[from] != H_NONE) {
        jit_guard(x);
        emit_rm(c, 0x89, w, x->host[from], m);
    } else {
        emit_load(c, H_CX, from == H_NONE ? tmp : jit_home(x, from));
        jit_guard(x);
        emit_rm(c, 0x89, w, H_CX, m);
    }
    jit_move_rsp(x, -(int32_t)n);
    return true;
}

static bool emit_pop(Trans *x, const Insn *i)
{
    HostMem m;
    if (!stack_size_ok(x, i))
        return false;
    bool w = i->opsize == 8;
    unsigned to = x->host[i->reg] == H_NONE || i->reg == RSP ? H_CX : x->host[i->reg];
    jit_operand_at(x, RSP, 0, i->opsize, false, &m);
    jit_guard(x);
    emit_rm(&x->c, 0x8b, w, to, m);
    jit_move_rsp(x, i->opsize);
    if (to == H_CX)
        jit_put(x, i->reg, H_CX);
    return true;
}

static bool emit_leave(Trans *x, const Insn *i)
{
    HostMem m;
    if (!stack_size_ok(x, i))
        return false;
    bool w = i->opsize == 8;
    jit_operand_at(x, RBP, 0, i->opsize, false, &m);
    jit_guard(x);
    emit_rm(&x->c, 0x8b, w, H_CX, m);
    emit_lea(&x->c, w, x->host[RSP],
             (HostMem){.base = x->host[RBP], .index = H_NONE, .disp = i->opsize});
    emit_mov(&x->c, w, x->host[RBP], H_CX);
    return true;
}

/* Goes on only if this 32-bit place (or byte) is zero; otherwise the instruction is exec's. */
static void unless_zero(Trans *x, HostMem m, bool byte)
{
    Code *c = &x->c;
    encode(c, &(Enc){.map = byte ? MAP_0F : MAP_1B,
                     .opcode = byte ? 0xb6 : 0x8b,
                     .modrm = true,
                     .reg = H_CX,
                     .mem = &m});
    jit_unless_zero(x, COLD_HELPER);
    x->dx_run = -1;
}

/* At CPL 0, where IOPL plays no part; vm86 is not translated. */
static bool emit_if(Trans *x, bool set)
{
    Code *c = &x->c;
    HostMem rflags = gs_mem((int32_t)offsetof(CpuState, rflags));
    if ((x->mode & DM_CPL3) || !(x->mode & DM_PROT))
        return false;
    unless_zero(x, gs_mem((int32_t)offsetof(CpuState, cpl)), true);
    if (set) /* nothing may be waiting: else exec makes the shadow and the loop delivers after it */
        unless_zero(x, jit_vcpu(offsetof(Vcpu, request)), false);
    emit_load(c, H_CX, rflags);
    emit_clear_field(c, H_CX, bit_of(FL_IF), 1);
    if (set)
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = FL_IF});
    emit_store(c, H_CX, rflags);
    return true;
}

static bool emit_cli(Trans *x, const Insn *i G_GNUC_UNUSED)
{
    return emit_if(x, false);
}

/* The instruction after STI must follow with no look at requests between: it is in the same block.
 */
static bool emit_sti(Trans *x, const Insn *i G_GNUC_UNUSED)
{
    return x->k + 1 < x->at->first + x->at->b->n && emit_if(x, true);
}

static bool emit_pushf(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    HostMem m, tmp = jit_hot(x->j, offsetof(JitHot, tmp));
    if (!stack_size_ok(x, i) || !(x->mode & DM_PROT))
        return false;
    /* All but the arithmetic flags are in bits 8 to 23; CpuState.rflags may hold old ones of those,
     * of which OF is among them. */
    HostMem upper = gs_mem((int32_t)offsetof(CpuState, rflags) + 1);
    RAW(c, "\x0f\x90\xc0\x9f"); /* seto al; lahf */
    emit_zero_ext(c, 16, H_CX, &upper);
    emit_clear_field(c, H_CX, bit_of(FL_OF) - 8, 1);
    emit_clear_field(c, H_CX, bit_of(FL_RF) - 8, 2); /* and VM */
    RAW(c, "\x0f\xb6\xd4\x0f\xb6\xc0");              /* movzx edx, ah; movzx eax, al */
    x->dx_run = -1;
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_AX, .scale = 3, .disp = 0});
    emit_rorx(c, H_CX, H_CX, NULL, 64 - 8);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_DX, .scale = 0, .disp = 0});
    emit_store(c, H_CX, tmp);
    jit_operand_at(x, RSP, -(int32_t)i->opsize, i->opsize, true, &m);
    emit_load(c, H_CX, tmp);
    jit_guard(x);
    emit_rm(c, 0x89, i->opsize == 8, H_CX, m);
    jit_move_rsp(x, -(int32_t)i->opsize);
    return true;
}

/* Does i keep FIP and FOP? */
static bool keeps_pointers(const Insn *i)
{
    const ExecSet *exec = op_rows[i->row].exec;
    return exec == &exec_x87 || exec == &exec_x87_store;
}

/* Does i neither look at FIP and FOP nor leave the code, but for C that does it (which is given
 * them again)? */
static bool passes_pointers(const Insn *i)
{
    switch (op_rows[i->row].emit) {
    case EMIT_COPY:
    case EMIT_TEST:
        return !(op_rows[i->row].attr & A_MMX);
    case EMIT_IMM:
    case EMIT_LEA:
    case EMIT_CONV:
    case EMIT_MUL:
        return true;
    default:
        return false;
    }
}

/* Is another x87 instruction done behind this one, in its block, before anything looks at FIP and
 * FOP? Then what C is called for until then gives them: Trans.pointers. */
static bool pointers_soon_written(Trans *x)
{
    unsigned end = x->at->first + x->at->b->n, k = x->k + 1u;
    while (k < end && x->insn[k]->opsize && passes_pointers(x->insn[k]))
        k++;
    if (x->at->b->soft || k >= end || !x->insn[k]->opsize ||
        op_rows[x->insn[k]->row].emit != EMIT_X87 || !keeps_pointers(x->insn[k]))
        return false;
    for (; k > x->k; k--)
        x->pointers[k] = (uint8_t)(x->k + 1u);
    return true;
}

/* rax = the linear address of i's operand, which has just been accessed at m. */
static bool ea_again(Trans *x, const Insn *i, HostMem m)
{
    if (x->second || m.base != H_AX || m.index != H_DX || m.scale)
        return jit_ea(x, i);
    m.index = H_NONE; /* rdx is `add`, with the page's bits */
    m.disp += (int32_t)PAGE_BITS;
    if (m.disp)
        emit_lea(&x->c, true, H_AX, m);
    return true;
}

/* FIP and FOP are those of instruction k. rcx may change. */
static void store_pointers(Trans *x, unsigned k)
{
    Code *c = &x->c;
    const Insn *i = x->insn[k];
    const VecCtx *v = x->t->vec;
    HostMem fop = gs_mem((int32_t)offsetof(CpuState, fpu.fop));
    HostMem fip = gs_mem((int32_t)offsetof(CpuState, fpu.fip));
    int64_t off = jit_off_of(x, k) + i->end - i->len;
    int64_t rip = x->fixed ? (int64_t)jit_fixed_rip(x, off) : 0;
    if (v->keeps_fip && x->fixed && rip == (int32_t)rip) {
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0xc7,
                         .w = true,
                         .modrm = true,
                         .mem = &fip,
                         .imm = rip,
                         .imm_size = 4});
    } else if (v->keeps_fip) {
        jit_rip(x, H_CX, off);
        emit_store(c, H_CX, fip);
    }
    if (v->keeps_fop)
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = 0xc7,
                         .p66 = true,
                         .modrm = true,
                         .mem = &fop,
                         .imm = (op_rows[i->row].opcode & 7) << 8 | i->modrm,
                         .imm_size = 2});
}

void jit_pointers_again(Trans *x, unsigned k)
{
    if (k < x->n && x->pointers[k])
        store_pointers(x, x->pointers[k] - 1u);
}

/* What x87_pointers() does, in 64-bit mode. m: where the operand is. */
static void emit_x87_pointers(Trans *x, const Insn *i, HostMem m)
{
    if (x->t->vec->keeps_fdp && (i->flags & IF_MEM) && ea_again(x, i, m))
        emit_store(&x->c, H_AX, gs_mem((int32_t)offsetof(CpuState, fpu.fdp)));
    if (!pointers_soon_written(x))
        store_pointers(x, x->k);
}

/* x87 as itself, on the guest's registers. Exceptions are masked, and none waits, while they are
 * there. */
static bool emit_x87(Trans *x, const Insn *i)
{
    Code *c = &x->c;
    const OpRow *r = &op_rows[i->row];
    HostMem m = {.base = H_NONE};
    bool pointers = keeps_pointers(i);
    if (!x->j->x87 ||
        (pointers && (!(x->mode & DM_CODE64) || ((i->flags & IF_MEM) && i->seg != SEG_NONE))))
        return false;
    need_x87(x);
    if (r->exec == &exec_fwait)
        return true;
    if (i->flags & IF_MEM) {
        bool writes = r->exec != &exec_x87;
        if (!jit_operand(x, i, operand_size_of(i, r->op[0]), writes, &m))
            return false;
        jit_guard(x);
        encode(c, &(Enc){.map = MAP_1B,
                         .opcode = r->opcode,
                         .modrm = true,
                         .reg = i->modrm >> 3 & 7,
                         .mem = &m});
    } else {
        if (r->exec == &exec_fnstsw)
            jit_get(x, H_AX, RAX);
        code8(c, r->opcode);
        code8(c, i->modrm);
        if (r->exec == &exec_fnstsw)
            jit_put(x, RAX, H_AX);
    }
    if (pointers)
        emit_x87_pointers(x, i, m);
    return true;
}

static bool emit_nop(Trans *x G_GNUC_UNUSED, const Insn *i G_GNUC_UNUSED)
{
    return true;
}

bool jit_emit_insn(Trans *x, const Insn *i, unsigned ax)
{
    static bool (*const emitters[EMIT_N])(Trans *, const Insn *) = {
        [EMIT_CL] = emit_cl,
        [EMIT_IMM] = emit_imm,
        [EMIT_LEA] = emit_lea_insn,
        [EMIT_MUL] = emit_mul,
        [EMIT_DIV] = emit_div,
        [EMIT_CONV] = emit_conv,
        [EMIT_CMPXCHG] = emit_cmpxchg,
        [EMIT_PUSH] = emit_push,
        [EMIT_POP] = emit_pop,
        [EMIT_LEAVE] = emit_leave,
        [EMIT_NOP] = emit_nop,
        [EMIT_X87] = emit_x87,
        [EMIT_CLI] = emit_cli,
        [EMIT_STI] = emit_sti,
        [EMIT_SYS] = jit_emit_sys,
        [EMIT_PUSHF] = emit_pushf,
        [EMIT_BRANCH] = jit_emit_branch,
        [EMIT_GATHER] = jit_emit_gather,
        [EMIT_OFTEN] = jit_emit_often,
    };
    uint8_t kind = op_rows[i->row].emit;
    if (!i->opsize)
        return false;
    if (kind == EMIT_COPY || kind == EMIT_TEST)
        return emit_same(x, i, kind == EMIT_COPY, false, ax);
    return emitters[kind] && emitters[kind](x, i);
}
