/* The translator's memory accesses: addresses, the first-level TLB, and its upkeep. See jit.h. */
#include "tcg/jit.h"

const uint8_t jit_host[16] = {
    [RAX] = H_R9,  [RCX] = H_R10, [RDX] = H_R11, [RBX] = H_BX,   [RSP] = H_R15,  [RBP] = H_BP,
    [RSI] = H_SI,  [RDI] = H_DI,  [R8] = H_R8,   [R9] = H_NONE,  [R10] = H_NONE, [R11] = H_NONE,
    [R12] = H_R12, [R13] = H_R13, [R14] = H_R14, [R15] = H_NONE,
};

unsigned jit_mmu_mode(unsigned decode_mode)
{
    return decode_mode & DM_CPL3 ? MMU_USER : decode_mode & DM_AC ? MMU_KERNEL_AC : MMU_KERNEL;
}

/* ---- code ---- */
void jit_get(Trans *x, unsigned to, unsigned r)
{
    if (jit_host[r] == H_NONE)
        emit_load(&x->c, to, jit_gpr(r));
    else
        emit_mov(&x->c, true, to, jit_host[r]);
}

void jit_put(Trans *x, unsigned r, unsigned from)
{
    if (jit_host[r] == H_NONE)
        emit_store(&x->c, from, jit_gpr(r));
    else
        emit_mov(&x->c, true, jit_host[r], from);
}

void jit_rip(Trans *x, unsigned to, uint32_t off)
{
    emit_load(&x->c, to, jit_hot(x->j, offsetof(JitHot, ip_page)));
    if (off)
        emit_lea(&x->c, x->mode & DM_CODE64, to,
                 (HostMem){.base = (uint8_t)to, .index = H_NONE, .disp = (int32_t)off});
}

/* A guest register as part of an address: its own host register, or a copy in `copy`. */
static unsigned address_register(Trans *x, unsigned r, unsigned copy)
{
    if (jit_host[r] != H_NONE)
        return jit_host[r];
    emit_load(&x->c, copy, jit_gpr(r));
    return copy;
}

bool jit_ea(Trans *x, const Insn *i)
{
    bool code64 = x->mode & DM_CODE64;
    bool fs_gs = code64 && (i->seg == FS || i->seg == GS);
    if (i->asize == 2 || (!(i->flags & IF_FLAT) && !(code64 && (fs_gs || i->seg == SEG_NONE))) ||
        i->disp != (int32_t)i->disp)
        return false;
    bool wide = i->asize == 8;
    if (i->base == GPR_IP) {
        /* disp counts from the block's first byte. */
        int64_t off = i->disp + x->off;
        if (off != (int32_t)off)
            return false;
        emit_load(&x->c, H_AX, jit_hot(x->j, offsetof(JitHot, ip_page)));
        emit_lea(&x->c, wide, H_AX, (HostMem){.base = H_AX, .index = H_NONE, .disp = (int32_t)off});
    } else {
        HostMem m = {.base = H_NONE, .index = H_NONE, .scale = i->scale, .disp = (int32_t)i->disp};
        if (i->base != GPR_ZERO)
            m.base = (uint8_t)address_register(x, i->base, H_AX);
        if (i->index != GPR_ZERO)
            m.index = (uint8_t)address_register(x, i->index, H_CX);
        if (m.index == H_NONE && m.disp == 0 && m.base != H_NONE) {
            if (m.base != H_AX || !wide)
                emit_mov(&x->c, wide, H_AX, m.base);
        } else {
            emit_lea(&x->c, wide, H_AX, m);
        }
    }
    if (fs_gs) {
        emit_load(&x->c, H_CX,
                  gs_mem((int32_t)(offsetof(CpuState, seg) + i->seg * sizeof(Segment) +
                                   offsetof(Segment, base))));
        emit_lea(&x->c, true, H_AX, (HostMem){.base = H_AX, .index = H_CX, .scale = 0, .disp = 0});
    }
    return true;
}

#define HOST_MEM ((HostMem){.base = H_AX, .index = H_DX, .scale = 0, .disp = -12})

/* rax: linear address; after it HOST_MEM is the host's. rcx is free. */
static void check(Trans *x, unsigned size, bool write, bool run)
{
    Code *c = &x->c;
    Jit *j = x->j;
    size_t tlb = offsetof(JitHot, tlb) + jit_mmu_mode(x->mode) * sizeof(JTlb);
    HostMem tag = jit_hot(j, tlb + (write ? offsetof(JTlb, write) : offsetof(JTlb, read)));
    HostMem add = jit_hot(j, tlb + offsetof(JTlb, add));
    tag.index = add.index = H_DX;
    tag.scale = add.scale = 3;

    const uint8_t *retry = here(c);
    encode(c, &(Enc){.map = MAP_VEX0F3A,
                     .opcode = 0xf0,
                     .pfx = PFX_F2,
                     .w = true,
                     .modrm = true,
                     .reg = H_CX,
                     .rm = H_AX,
                     .imm_size = 1,
                     .imm = PAGE_BITS}); /* rorx rcx, rax, 12 */
    encode(c, &(Enc){.map = MAP_0F,
                     .opcode = 0xb7,
                     .modrm = true,
                     .reg = H_DX,
                     .rm = H_CX}); /* movzx edx, cx */
    emit_load(c, H_CX, tag);
    emit_load(c, H_DX, add);
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX, .index = H_AX, .scale = 0, .disp = (int32_t)size - 1});
    encode(c, &(Enc){.map = MAP_VEX0F38,
                     .opcode = 0xf7,
                     .pfx = PFX_F2,
                     .w = true,
                     .modrm = true,
                     .vvvv = H_DX,
                     .reg = H_CX,
                     .rm = H_CX}); /* shrx rcx, rcx, rdx */
    code8(c, 0xe3);                /* jrcxz, over the jump */
    code8(c, 5);
    uint8_t *from = emit_jmp(c, here(c));
    struct Cold *cold = jit_cold(x, from, COLD_ACCESS);
    cold->retry = retry;
    cold->run = run;
    x->dx_run = -1;
}

/* A member of a run. base + disp is its place, for the first one. */
static void run_operand(Trans *x, unsigned base, int32_t disp, HostMem *m)
{
    Code *c = &x->c;
    int run = x->run_of[x->k];
    struct Run *u = &x->run[run];
    int32_t at = x->run_at[x->k];
    HostMem slot = jit_hot(x->j, offsetof(JitHot, run) + 8 * (unsigned)run);
    if (!u->ready) {
        u->ready = true;
        unsigned from = address_register(x, base, H_AX);
        emit_lea(c, x->mode & DM_CODE64, H_AX,
                 (HostMem){.base = (uint8_t)from, .index = H_NONE, .disp = disp + u->lo - at});
        check(x, (unsigned)(u->hi - u->lo), u->write, true);
        emit_lea(c, true, H_DX, HOST_MEM);
        emit_store(c, H_DX, slot);
    } else if (x->dx_run != run) {
        emit_load(c, H_DX, slot);
    }
    x->dx_run = run;
    *m = (HostMem){.base = H_DX, .index = H_NONE, .disp = at - u->lo};
}

bool jit_operand(Trans *x, const Insn *i, unsigned size, bool write, HostMem *m)
{
    if (x->run_of[x->k] >= 0) {
        run_operand(x, i->base, (int32_t)i->disp, m);
        return true;
    }
    if (!jit_ea(x, i))
        return false;
    check(x, size, write, false);
    *m = HOST_MEM;
    return true;
}

void jit_operand_at(Trans *x, unsigned base, int32_t disp, unsigned size, bool write, HostMem *m)
{
    if (x->run_of[x->k] >= 0) {
        run_operand(x, base, disp, m);
        return;
    }
    unsigned from = address_register(x, base, H_AX);
    emit_lea(&x->c, x->mode & DM_CODE64, H_AX,
             (HostMem){.base = (uint8_t)from, .index = H_NONE, .disp = disp});
    check(x, size, write, false);
    *m = HOST_MEM;
}

/* ---- upkeep ---- */
/* What an entry holds that matches nothing. Zero is that, except where address 0 or the last page's
 * end would match: there, a page that has another index. */
static uint64_t none_tag(unsigned index)
{
    return index == 0 || index == JTLB_SIZE - 1
               ? 0 - ((uint64_t)(index ^ JTLB_SIZE / 2) << PAGE_BITS)
               : 0;
}

static void jtlb_clear(JTlb *l, unsigned index)
{
    l->read[index] = l->write[index] = none_tag(index);
    l->add[index] = none_tag(index) ? 12 : 0;
}

static unsigned jtlb_index(gva_t lin)
{
    return (unsigned)(lin >> PAGE_BITS) & (JTLB_SIZE - 1);
}

void jit_tlb_init(Jit *j)
{
    for (unsigned m = 0; m < MMU_MODES; m++) {
        jtlb_clear(&j->hot->tlb[m], 0);
        jtlb_clear(&j->hot->tlb[m], JTLB_SIZE - 1);
    }
}

void jit_tlb_flush(Jit *j, bool all)
{
    uint32_t kept = 0;
    if (j->tlb_n > JTLB_LIST) {
        jit_zero(j->hot->tlb, sizeof(j->hot->tlb));
        jit_tlb_init(j);
        all = true;
    } else {
        for (uint32_t k = 0; k < j->tlb_n; k++) {
            uint32_t e = j->tlb_list[k];
            if (!all && (e & JLIST_GLOBAL))
                j->tlb_list[kept++] = e;
            else
                jtlb_clear(&j->hot->tlb[e >> 16 & 3], e & 0xffff);
        }
    }
    j->tlb_n = kept;
    if (all)
        j->tlb_big = 0;
}

void jit_tlb_flush_page(Jit *j, gva_t lin)
{
    if (j->tlb_big >> (lin >> 30 & 63) & 1) {
        jit_tlb_flush(j, true);
        return;
    }
    for (unsigned m = 0; m < MMU_MODES; m++)
        jtlb_clear(&j->hot->tlb[m], jtlb_index(lin));
}

/* Tags that would let this host page be written. */
void jit_tlb_drop_writes(Jit *j, const uint8_t *host_page)
{
    if (j->tlb_n > JTLB_LIST) {
        jit_tlb_flush(j, true);
        return;
    }
    for (uint32_t k = 0; k < j->tlb_n; k++) {
        JTlb *l = &j->hot->tlb[j->tlb_list[k] >> 16 & 3];
        unsigned x = j->tlb_list[k] & 0xffff;
        if (l->write[x] != none_tag(x) && l->add[x] - 12 - l->write[x] == (uintptr_t)host_page)
            jtlb_clear(l, x);
    }
}

void jit_tlb_fill(Jit *j, unsigned mode, gva_t lin)
{
    gva_t page = lin & PAGE_MASK;
    const TlbEntry *e = tlb_entry(j->t, mode, lin);
    bool r = e->tag[ACC_READ] == page, w = e->tag[ACC_WRITE] == page;
    if (!r && !w)
        return;
    unsigned x = jtlb_index(lin);
    JTlb *l = &j->hot->tlb[mode];
    /* A page that may only be read, or only written, leaves the other tag matching nothing: the
     * page with another index. */
    uint64_t none = 0 - ((uint64_t)(x ^ JTLB_SIZE / 2) << PAGE_BITS);
    const TlbBank *bank = j->t->bank;
    unsigned idx = tlb_index(lin);
    bool global = !(bank->local[mode][idx / 64] >> (idx % 64) & 1);
    if (bank->big[mode][idx / 64] >> (idx % 64) & 1)
        j->tlb_big |= BIT(lin >> 30 & 63);
    /* An entry that is there already may be in the list as another's, global or not. */
    bool listed = l->read[x] == 0 - page || l->write[x] == 0 - page;
    l->read[x] = r ? 0 - page : none;
    l->write[x] = w ? 0 - page : none;
    l->add[x] = e->addend + 12;
    if (listed)
        return;
    if (j->tlb_n < JTLB_LIST)
        j->tlb_list[j->tlb_n] = (global ? JLIST_GLOBAL : 0) | mode << 16 | x;
    if (j->tlb_n <= JTLB_LIST)
        j->tlb_n++;
}
