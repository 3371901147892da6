/* The translator's memory accesses: addresses, and their checks. See jit.h; tlb.c. */
#include "jit/trans.h"

const uint8_t jit_host[16] = {
    [RAX] = H_R9,   [RCX] = H_R10,  [RDX] = H_R11,  [RBX] = H_BX,   [RSP] = H_R15, [RBP] = H_BP,
    [RSI] = H_SI,   [RDI] = H_DI,   [R8] = H_R8,    [R9] = H_R12,   [R10] = H_R13, [R11] = H_R14,
    [R12] = H_NONE, [R13] = H_NONE, [R14] = H_NONE, [R15] = H_NONE,
};

unsigned jit_mmu_mode(unsigned decode_mode)
{
    return decode_mode & DM_CPL3 ? MMU_USER : decode_mode & DM_AC ? MMU_KERNEL_AC : MMU_KERNEL;
}

/* ---- code ---- */
void jit_get(Trans *x, unsigned to, unsigned r)
{
    if (x->host[r] == H_NONE)
        emit_load(&x->c, to, jit_home(x, r));
    else
        emit_mov(&x->c, true, to, x->host[r]);
}

void jit_put(Trans *x, unsigned r, unsigned from)
{
    if (x->host[r] == H_NONE)
        emit_store(&x->c, from, jit_home(x, r));
    else
        emit_mov(&x->c, true, x->host[r], from);
}

void jit_rip(Trans *x, unsigned to, int64_t off)
{
    if (x->fixed) {
        emit_imm64(&x->c, to, jit_fixed_rip(x, off));
        return;
    }
    emit_load(&x->c, to, jit_hot(x->j, offsetof(JitHot, ip_page)));
    if (off)
        emit_lea(&x->c, x->mode & DM_CODE64, to,
                 (HostMem){.base = (uint8_t)to, .index = H_NONE, .disp = (int32_t)off});
}

/* A guest register as part of an address: its own host register, or a copy in `copy`. */
static unsigned address_register(Trans *x, unsigned r, unsigned copy)
{
    if (r == PLACE_SEGMENT) {
        emit_load(&x->c, copy,
                  gs_mem((int32_t)(offsetof(CpuState, seg) + jit_segment(x) * sizeof(Segment) +
                                   offsetof(Segment, base))));
        return copy;
    }
    if (x->host[r] != H_NONE)
        return x->host[r];
    if (copy != H_AX || x->base != r + 1)
        emit_load(&x->c, copy, jit_home(x, r));
    return copy;
}

bool jit_ea_to(Trans *x, const Insn *i, unsigned to)
{
    bool code64 = x->mode & DM_CODE64;
    bool fs_gs = code64 && (i->seg == FS || i->seg == GS);
    if (i->asize == 2 || (!(i->flags & IF_FLAT) && !(code64 && (fs_gs || i->seg == SEG_NONE))) ||
        i->disp != (int32_t)i->disp)
        return false;
    bool wide = i->asize == 8;
    HostMem m = {.base = H_NONE, .index = H_NONE, .scale = i->scale, .disp = (int32_t)i->disp};
    unsigned at = fs_gs ? H_AX : to;
    if (i->base == GPR_IP) {
        /* disp counts from the block's first byte. */
        int64_t off = i->disp + x->off;
        if (off != (int32_t)off)
            return false;
        if (x->fixed) {
            uint64_t lin = x->b->fixed_at + (uint64_t)off;
            emit_imm64(&x->c, at, wide ? lin : (uint32_t)lin);
            m.base = (uint8_t)at;
            m.disp = 0;
        } else {
            emit_load(&x->c, H_AX, jit_hot(x->j, offsetof(JitHot, ip_page)));
            m.base = H_AX;
            m.disp = (int32_t)off;
        }
    } else {
        if (i->base != GPR_ZERO)
            m.base = (uint8_t)address_register(x, i->base, H_AX);
        if (i->index != GPR_ZERO)
            m.index = (uint8_t)address_register(x, i->index, H_CX);
    }
    if (m.index == H_NONE && m.disp == 0 && m.base != H_NONE) {
        if (m.base != at || !wide)
            emit_mov(&x->c, wide, at, m.base);
    } else {
        emit_lea(&x->c, wide, at, m);
    }
    if (fs_gs) {
        emit_load(&x->c, H_CX,
                  gs_mem((int32_t)(offsetof(CpuState, seg) + i->seg * sizeof(Segment) +
                                   offsetof(Segment, base))));
        emit_lea(&x->c, true, to, (HostMem){.base = H_AX, .index = H_CX, .scale = 0, .disp = 0});
    }
    return true;
}

bool jit_ea(Trans *x, const Insn *i)
{
    return jit_ea_to(x, i, H_AX);
}

void jit_may_fault(Trans *x)
{
    x->site[x->n_sites].at = (uint32_t)(x->c.p - (x->j->code_rw + x->j->used));
    x->site_k[x->n_sites++] = x->k | (x->second ? JIT_SITE_SECOND : 0);
}

void jit_guard(Trans *x)
{
    if (x->guarded || x->mirrored)
        jit_may_fault(x);
    if (x->mirrored)
        x->site_k[x->n_sites - 1u] |= JIT_SITE_MIRROR;
    x->guarded = x->mirrored = false;
}

/* ea, [register + disp] or [disp], with the host's address for the guest's, which rdx leads to. */
static HostMem by_rdx(HostMem ea)
{
    if (ea.base == H_NONE)
        return (HostMem){.base = H_DX, .index = H_NONE, .disp = ea.disp - 12};
    return (HostMem){.base = ea.base, .index = H_DX, .scale = 0, .disp = ea.disp - 12};
}

struct Cold *jit_unless_one(Trans *x, enum ColdKind kind)
{
    Code *c = &x->c;
    if (x->j->near_jumps && !x->no_near && x->n_near < NEAR_MAX) {
        code8(c, 0xe2); /* loop: jumps if rcx was not 1 */
        x->near[x->n_near++] = (struct Near){.rel8 = c->p, .cold = (uint16_t)x->n_cold};
        code8(c, 0);
        return jit_cold(x, NULL, kind);
    }
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    return jit_unless_zero(x, kind);
}

struct Cold *jit_unless_zero(Trans *x, enum ColdKind kind)
{
    Code *c = &x->c;
    code8(c, 0xe3); /* jrcxz, over the jump */
    code8(c, 5);
    return jit_cold(x, emit_jmp(c, here(c)), kind);
}

void jit_tlb_entry(Trans *x, HostMem ea, bool write)
{
    Code *c = &x->c;
    size_t tlb = offsetof(JitHot, tlb) + jit_mmu_mode(x->mode) * sizeof(JTlb);
    HostMem tag = jit_hot(x->j, tlb + (write ? offsetof(JTlb, write) : offsetof(JTlb, read)));
    HostMem add = jit_hot(x->j, tlb + offsetof(JTlb, add));
    if (ea.base == H_NONE) {
        int32_t entry = (int32_t)((ea.disp >> PAGE_BITS & (JTLB_SIZE - 1)) * 8);
        tag.disp += entry;
        add.disp += entry;
    } else {
        tag.index = add.index = H_DX;
        tag.scale = add.scale = 3;
        emit_rorx(c, H_CX, ea.base, NULL, PAGE_BITS);
        encode(c, &(Enc){.map = MAP_0F,
                         .opcode = 0xb7,
                         .modrm = true,
                         .reg = H_DX,
                         .rm = H_CX}); /* movzx edx, cx */
    }
    emit_load(c, H_CX, tag);
    emit_load(c, H_DX, add);
}

/* rcx is 1 if the first-level TLB lets `size` bytes from ea on be accessed; rdx leads there. ea is
 * a register or (its place in the table is known then) a number. */
static void tlb_check(Trans *x, HostMem ea, unsigned size, bool write)
{
    Code *c = &x->c;
    jit_tlb_entry(x, ea, write);
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX,
                       .index = ea.base,
                       .scale = 0,
                       .disp = ea.disp + (int32_t)(PAGE_SIZE + size) - 1});
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
}

/*
 * The same by a slot. The page is not chosen by the address here, so the first byte and the last
 * must be looked at. Offsets count from as far below the first page as there are places for the
 * bytes; so rcx becomes 1 by a division by that number, the high half of offset * span.
 */
static void slot_check(Trans *x, HostMem ea, int slot)
{
    Code *c = &x->c;
    HostMem span = jit_slot_mem(x->j, slot, offsetof(JitSlot, span));
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, neg)));
    emit_lea(c, true, H_DX, (HostMem){.base = H_DX, .index = ea.base, .scale = 0, .disp = ea.disp});
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf6,
                     .pfx = PFX_F2,
                     .w = true,
                     .modrm = true,
                     .vvvv = H_CX,
                     .reg = H_CX,
                     .mem = &span}); /* mulx rcx, rcx, span */
    emit_load(c, H_DX, jit_slot_mem(x->j, slot, offsetof(JitSlot, add)));
}

HostMem jit_mirror_adds(const Jit *j, enum MirrorArea area)
{
    return jit_hot(j, offsetof(JitHot, mirror_add) + 8 * (unsigned)area);
}

/* Trans.dx_run: the mirror's `add` of an area. */
static int dx_mirror(enum MirrorArea area)
{
    return -1 - (int)area;
}

void jit_area_bits(Trans *x, unsigned r, enum MirrorArea area)
{
    Code *c = &x->c;
    if (!x->j->slow_pext) {
        emit_pext(c, H_CX, r, jit_hot(x->j, offsetof(JitHot, mirror_upper) + 8 * (unsigned)area));
        return;
    }
    emit_load32(c, H_CX, jit_hot(x->j, offsetof(JitHot, mirror_shift) + 4 * (unsigned)area));
    emit_shift(c, PFX_F2, true, H_CX, r, H_CX);
}

/* On if r, a host register, holds an address in the area, and the mirror is in use; else to cold
 * code. rcx changes. */
static struct Cold *area_check(Trans *x, unsigned r, enum MirrorArea area)
{
    Code *c = &x->c;
    bool flags = area < MIRROR_KERNEL && jit_flags_free(x);
    if (flags && area == MIRROR_LOW) {
        emit_rm(c, 0x3b, true, r, jit_hot(x->j, offsetof(JitHot, mirror_low_end)));
        return jit_cold(x, emit_jcc(c, 3, here(c)), COLD_ACCESS); /* jae */
    }
    jit_area_bits(x, r, area);
    if (flags) {
        RAW(c, "\x48\x83\xf9\x01"); /* cmp rcx, 1 */
        return jit_cold(x, emit_jcc(c, 5, here(c)), COLD_ACCESS);
    }
    if (area == MIRROR_LOW) { /* 0 is an address there too: out of use, it is not to pass */
        if (x->dx_run != dx_mirror(area))
            emit_load(c, H_DX, jit_mirror_adds(x->j, area));
        x->dx_run = dx_mirror(area);
        emit_lea(c, true, H_CX,
                 (HostMem){.base = H_CX, .index = H_DX, .disp = 1 - (int32_t)PAGE_BITS});
    } else if (area >= MIRROR_KERNEL) {
        emit_lea(
            c, true, H_CX,
            (HostMem){.base = H_CX, .index = H_NONE, .disp = 1 - jit_kernel_upper(x->j, area)});
    }
    return jit_unless_one(x, COLD_ACCESS);
}

/*
 * check() by the kernel's mirror, where the base is in this area; else by the first-level TLB, out
 * of line. Either way rdx leads to the host's address.
 */
static HostMem area_or_tlb(Trans *x, HostMem ea, unsigned size, bool write, enum MirrorArea area,
                           bool run)
{
    Code *c = &x->c;
    const uint8_t *retry = here(c);
    struct Cold *cold = area_check(x, ea.base, area);
    emit_load(c, H_DX, jit_hot(x->j, offsetof(JitHot, mirror_add) + 8 * (unsigned)area));
    cold->retry = retry;
    cold->back = here(c);
    cold->run = (uint16_t)(run ? size : 0);
    cold->size = (uint16_t)size;
    cold->ea = ea;
    cold->write = write;
    cold->mode = (uint8_t)jit_mmu_mode(x->mode);
    x->mirrored = true;
    x->dx_run = -1;
    return by_rdx(ea);
}

/* rdx leads to what the kernel's mirror shows of this address. False: that is in none of its areas.
 * Where the mirror is not in use the access faults. */
static bool in_kernel_mirror(Trans *x, int32_t lin)
{
    enum MirrorArea area = jit_kernel_area(x->j, (gva_t)(int64_t)lin);
    if (area == MIRROR_NONE)
        return false;
    emit_load(&x->c, H_DX, jit_hot(x->j, offsetof(JitHot, mirror_add) + 8 * (unsigned)area));
    x->mirrored = true;
    x->dx_run = -1;
    return true;
}

void jit_elsewhere(Trans *x, struct Cold *cold)
{
    Code *c = &x->c;
    HostMem ea = cold->ea;
    cold->retry = here(c);
    emit_lea(c, true, H_CX, ea);
    emit_imm32(c, H_DX, cold->size);
    emit_call(c, x->j->s_tlb[cold->mode][cold->write]);
    emit_jmp(c, cold->back);
    if (ea.base != H_AX || !cold->ea.disp)
        return;
    /* rax is to be the address, and the base again when C comes back. */
    uint8_t *over = emit_jmp(c, here(c));
    const uint8_t *again = here(c);
    emit_lea(c, true, H_AX, (HostMem){.base = H_AX, .index = H_NONE, .disp = -cold->ea.disp});
    emit_jmp(c, cold->retry);
    patch_rel32(over, c->run, here(c));
    cold->retry = again;
}

/* Checks the linear addresses from ea on: [register + disp], in which rax is a scratch register, or
 * [disp], which is sign-extended.
 * Uses rcx and rdx, of which rcx is free afterwards. slot: by that, or (-1) by the first-level TLB.
 * Returns where the host has it. */
static HostMem check(Trans *x, HostMem ea, unsigned size, bool write, int slot,
                     enum MirrorArea area, bool run)
{
    Code *c = &x->c;
    if (area != MIRROR_NONE && slot < 0 && ea.base != H_NONE)
        return area_or_tlb(x, ea, size, write, area, run);
    if (area != MIRROR_NONE && slot < 0 && in_kernel_mirror(x, ea.disp))
        return by_rdx(ea);
    if (ea.disp && (ea.base == H_AX || (slot < 0 && ea.base != H_NONE))) { /* as C leaves rax */
        emit_lea(c, true, H_AX, ea);
        ea = (HostMem){.base = H_AX, .index = H_NONE};
    }
    const uint8_t *retry = here(c);
    if (slot >= 0)
        slot_check(x, ea, slot);
    else
        tlb_check(x, ea, size, write);
    struct Cold *cold = jit_unless_one(x, COLD_ACCESS);
    cold->retry = retry;
    cold->run = (uint16_t)(run ? size : 0);
    cold->ea = ea;
    cold->slot = slot;
    cold->write = write;
    cold->mode = (uint8_t)jit_mmu_mode(x->mode);
    x->guarded = slot >= 0;
    x->dx_run = -1;
    return by_rdx(ea);
}

/* Is there room beside disp for what a check adds to it? */
static bool small(int64_t disp)
{
    const int32_t most = INT32_MAX - 2 * (int32_t)PAGE_SIZE;
    return disp >= -most && disp <= most;
}

/* May [base + disp] be checked and accessed as it stands? */
static bool in_place(const Trans *x, unsigned base, int64_t disp, unsigned asize)
{
    return base < GPR_N && x->host[base] != H_NONE && asize == 8 && (x->mode & DM_CODE64) &&
           small(disp);
}

/* Is i's operand at an address that is known now, and fits an instruction? */
static bool at_known_place(const Trans *x, const Insn *i, int64_t *lin)
{
    if (i->base != GPR_IP || !x->fixed || i->seg != SEG_NONE || i->index != GPR_ZERO ||
        i->asize != 8 || !(x->mode & DM_CODE64))
        return false;
    *lin = (int64_t)(x->b->fixed_at + (uint64_t)x->off + (uint64_t)i->disp);
    return small(*lin);
}

/* [base + disp], in place or in rax. */
static HostMem place(Trans *x, unsigned base, int32_t disp)
{
    bool code64 = x->mode & DM_CODE64;
    if (base == GPR_IP) {
        int64_t lin = (int64_t)(x->b->fixed_at + (uint64_t)x->off + (uint64_t)disp);
        if (small(lin))
            return (HostMem){.base = H_NONE, .index = H_NONE, .disp = (int32_t)lin};
        emit_imm64(&x->c, H_AX, (uint64_t)lin);
        return (HostMem){.base = H_AX, .index = H_NONE};
    }
    if (base == PLACE_SEGMENT)
        return (HostMem){
            .base = (uint8_t)address_register(x, base, H_AX), .index = H_NONE, .disp = disp};
    if (in_place(x, base, disp, code64 ? 8 : 4))
        return (HostMem){.base = x->host[base], .index = H_NONE, .disp = disp};
    unsigned from = address_register(x, base, H_AX);
    if (from != H_AX || disp || !code64)
        emit_lea(&x->c, code64, H_AX,
                 (HostMem){.base = (uint8_t)from, .index = H_NONE, .disp = disp});
    return (HostMem){.base = H_AX, .index = H_NONE};
}

/* A member's place, plus `more`; in place or in rax. rcx may change. */
static HostMem run_place(Trans *x, const struct Place *p, int32_t more)
{
    if (p->index == GPR_ZERO)
        return place(x, p->base, p->disp + more);
    HostMem m = {.base = H_NONE, .scale = p->scale, .disp = p->disp + more};
    if (p->base != GPR_ZERO)
        m.base = (uint8_t)address_register(x, p->base, H_AX);
    m.index = (uint8_t)address_register(x, p->index, H_CX);
    emit_lea(&x->c, true, H_AX, m);
    return (HostMem){.base = H_AX, .index = H_NONE};
}

/* [base + index + disp] by rdx, an index in a host register: what is often known late is added by
 * the access itself. */
static HostMem by_index(Trans *x, const struct Place *p)
{
    HostMem m = {.base = (uint8_t)address_register(x, p->base, H_AX), .index = H_DX, .scale = 0};
    emit_lea(&x->c, true, H_AX, m);
    return (HostMem){.base = H_AX,
                     .index = x->host[p->index],
                     .scale = p->scale,
                     .disp = p->disp - (int32_t)PAGE_BITS};
}

/* The same, for an access that has been checked: a displacement is the access's. */
static HostMem checked_place(Trans *x, unsigned base, int32_t disp)
{
    if (base >= GPR_N || !(x->mode & DM_CODE64) || !small(disp))
        return place(x, base, disp);
    return (HostMem){
        .base = (uint8_t)address_register(x, base, H_AX), .index = H_NONE, .disp = disp};
}

HostMem jit_as_it_stands(Trans *x, const struct Place *p)
{
    HostMem m = {.base = H_NONE, .index = H_NONE, .scale = p->scale, .disp = p->disp};
    if (p->index == GPR_ZERO)
        return p->base == GPR_ZERO ? m : checked_place(x, p->base, p->disp);
    bool in_ax = p->base == PLACE_SEGMENT || (p->base != GPR_ZERO && x->host[p->base] == H_NONE);
    if (in_ax && x->host[p->index] == H_NONE)
        return run_place(x, p, 0);
    if (p->base != GPR_ZERO)
        m.base = (uint8_t)address_register(x, p->base, H_AX);
    m.index = (uint8_t)address_register(x, p->index, H_AX);
    return m;
}

/* A member of a run that is a table. False: there is no slot, and no run. */
static bool table_operand(Trans *x, HostMem *m)
{
    Code *c = &x->c;
    int run = x->run_of[x->k];
    struct Run *u = &x->run[run];
    struct Place p = x->run_place[x->k], first = p;
    unsigned size = (unsigned)(u->hi - u->lo);
    if (!u->ready && (u->slot = jit_slot_new(x, size, u->write)) < 0) {
        for (unsigned k = 0; k < x->n; k++)
            if (x->run_of[k] == run)
                x->run_of[k] = -1;
        return false;
    }
    if (!u->ready) {
        u->ready = true;
        first.index = GPR_ZERO;
        HostMem ea = {.base = H_NONE, .index = H_NONE, .disp = p.disp + u->lo - x->run_at[x->k]};
        if (p.base != GPR_ZERO)
            ea = run_place(x, &first, u->lo - x->run_at[x->k]);
        check(x, ea, size, u->write, u->slot, MIRROR_NONE, true);
    } else if (x->dx_run != run) {
        emit_load(c, H_DX, jit_slot_mem(x->j, u->slot, offsetof(JitSlot, add)));
    }
    x->dx_run = run;
    x->guarded = true;
    if (p.base != GPR_ZERO) {
        *m = x->host[p.index] != H_NONE ? by_index(x, &p) : by_rdx(run_place(x, &p, 0));
        return true;
    }
    *m = (HostMem){.base = H_DX, .scale = p.scale, .disp = p.disp - (int32_t)PAGE_BITS};
    m->index = (uint8_t)address_register(x, p.index, H_CX);
    return true;
}

/* A member of a run by the mirror. x->base is left behind. */
static void by_mirror(Trans *x, HostMem *m)
{
    struct Run *u = &x->run[x->run_of[x->k]];
    const struct Place *p = &x->run_place[x->k];
    const enum MirrorArea area = u->area;
    bool whole = p->index != GPR_ZERO && !x->run_bounded[x->k], done = false;
    if (!u->ready && !u->known) {
        struct Place base = *p;
        HostMem ea;
        if (!whole) {
            base.index = GPR_ZERO;
            base.disp = 0;
        }
        const uint8_t *retry = here(&x->c);
        int dx_run = x->dx_run;
        ea = run_place(x, &base, 0);
        done = whole;
        if (ea.base == H_AX && base.index == GPR_ZERO && base.base < GPR_N && !base.disp)
            x->base = (uint8_t)(base.base + 1);
        struct Cold *cold = area_check(x, ea.base, area);
        cold->retry = retry;
        cold->run = 1;
        cold->ea = ea;
        cold->mirror = true;
        if (x->dx_run == dx_run && (area == MIRROR_LOW || dx_run == dx_mirror(area)))
            cold->dx_run = dx_run;
    }
    u->ready = true;
    if (area == MIRROR_LOW && !u->known) {
        x->mirrored = true;
        *m = done ? (HostMem){.base = H_AX, .index = H_NONE} : jit_as_it_stands(x, p);
        return;
    }
    if (x->dx_run != dx_mirror(area))
        emit_load(&x->c, H_DX, jit_mirror_adds(x->j, area));
    x->dx_run = dx_mirror(area);
    x->mirrored = true;
    if (done) {
        *m = by_rdx((HostMem){.base = H_AX, .index = H_NONE});
    } else if (p->base == GPR_ZERO && p->index != GPR_ZERO) {
        *m = (HostMem){.base = H_DX, .scale = p->scale, .disp = p->disp - (int32_t)PAGE_BITS};
        m->index = (uint8_t)address_register(x, p->index, H_CX);
    } else if (p->index != GPR_ZERO && x->host[p->index] != H_NONE) {
        *m = by_index(x, p);
    } else if (p->index == GPR_ZERO) {
        *m = by_rdx(checked_place(x, p->base, p->disp));
    } else {
        *m = by_rdx(run_place(x, p, 0));
    }
}

static void mirror_operand(Trans *x, HostMem *m)
{
    by_mirror(x, m);
    x->base = 0;
}

unsigned jit_mirror_base(Trans *x, const Insn *i, enum MirrorArea area)
{
    const uint8_t *retry = here(&x->c);
    int dx_run = x->dx_run;
    if (!jit_ea(x, i))
        return H_NONE;
    struct Cold *cold = area_check(x, H_AX, area);
    cold->retry = retry;
    cold->run = 1;
    cold->mirror = true;
    if (x->dx_run == dx_run && (area == MIRROR_LOW || dx_run == dx_mirror(area)))
        cold->dx_run = dx_run;
    x->mirrored = true;
    if (area == MIRROR_LOW)
        return H_AX;
    if (x->dx_run != dx_mirror(area))
        emit_load(&x->c, H_DX, jit_mirror_adds(x->j, area));
    x->dx_run = dx_mirror(area);
    emit_lea(&x->c, true, H_CX, by_rdx((HostMem){.base = H_AX, .index = H_NONE}));
    return H_CX;
}

void jit_dx_again(Trans *x, int dx_run, bool second)
{
    HostMem from;
    if (dx_run < -1) {
        from = jit_hot(x->j, offsetof(JitHot, mirror_add) + 8 * (unsigned)(-1 - dx_run));
    } else if (dx_run >= 0 && dx_run < (int)JIT_RUNS) {
        int32_t slot = second ? x->run[dx_run].slot : x->run[dx_run].first_slot;
        from = slot >= 0 ? jit_slot_mem(x->j, slot, offsetof(JitSlot, add))
                         : jit_hot(x->j, offsetof(JitHot, run) + 8 * (unsigned)dx_run);
    } else if (dx_run >= (int)JIT_RUNS) {
        from = jit_frame((unsigned)dx_run - JIT_RUNS);
    } else {
        return;
    }
    emit_load(&x->c, H_DX, from);
}

/* A member of a run. False: it is none. */
static bool run_operand(Trans *x, HostMem *m)
{
    if (x->run_of[x->k] < 0)
        return false;
    if (x->run[x->run_of[x->k]].area) {
        mirror_operand(x, m);
        return true;
    }
    if (x->run[x->run_of[x->k]].table)
        return table_operand(x, m);

    Code *c = &x->c;
    int run = x->run_of[x->k];
    struct Run *u = &x->run[run];
    const struct Place *p = &x->run_place[x->k];
    int32_t at = x->run_at[x->k];
    HostMem slot = jit_hot(x->j, offsetof(JitHot, run) + 8 * (unsigned)run);
    if (!u->ready) {
        unsigned size = (unsigned)(u->hi - u->lo);
        u->ready = true;
        u->slot = jit_slot_new(x, size, u->write);
        HostMem ea = run_place(x, p, u->lo - at);
        ea = check(x, ea, size, u->write, u->slot, u->kernel_area, true);
        x->dx_run = run;
        u->by_add = u->slot >= 0 || (p->index == GPR_ZERO &&
                                     in_place(x, p->base, p->disp, x->mode & DM_CODE64 ? 8 : 4));
        if (u->by_add) {
            if (u->slot < 0)
                emit_store(c, H_DX, slot);
            *m = ea;
            m->disp += at - u->lo;
            return true;
        }
        emit_lea(c, true, H_DX, ea);
        emit_store(c, H_DX, slot);
    } else if (u->by_add) {
        if (u->slot >= 0)
            slot = jit_slot_mem(x->j, u->slot, offsetof(JitSlot, add));
        if (x->dx_run != run)
            emit_load(c, H_DX, slot);
        x->dx_run = run;
        x->guarded = u->slot >= 0;
        x->mirrored = u->kernel_area;
        *m = by_rdx(run_place(x, p, 0));
        return true;
    } else if (x->dx_run != run) {
        emit_load(c, H_DX, slot);
    }
    x->dx_run = run;
    x->mirrored = u->kernel_area;
    *m = (HostMem){.base = H_DX, .index = H_NONE, .disp = at - u->lo};
    return true;
}

bool jit_operand(Trans *x, const Insn *i, unsigned size, bool write, HostMem *m)
{
    if (x->second && jit_loop_operand(x, size, write, m))
        return true;
    if (run_operand(x, m))
        return true;
    HostMem ea = {.base = H_AX, .index = H_NONE};
    int64_t lin;
    if (at_known_place(x, i, &lin))
        ea = (HostMem){.base = H_NONE, .index = H_NONE, .disp = (int32_t)lin};
    else if (i->seg == SEG_NONE && i->index == GPR_ZERO && in_place(x, i->base, i->disp, i->asize))
        ea = place(x, i->base, (int32_t)i->disp);
    else if (!jit_ea(x, i))
        return false;
    bool stack = op_rows[i->row].emit == EMIT_BRANCH; /* what it pushes has been seen */
    *m = check(x, ea, size, write, jit_slot_new(x, size, write),
               stack ? MIRROR_NONE : x->area_of[x->k], false);
    return true;
}

void jit_operand_ax(Trans *x, unsigned size, bool write, HostMem *m)
{
    HostMem ea = {.base = H_AX, .index = H_NONE};
    *m = check(x, ea, size, write, jit_slot_new(x, size, write), MIRROR_NONE, false);
}

void jit_operand_at(Trans *x, unsigned base, int32_t disp, unsigned size, bool write, HostMem *m)
{
    if (!run_operand(x, m))
        *m = check(x, place(x, base, disp), size, write, jit_slot_new(x, size, write),
                   x->area_of[x->k], false);
}
