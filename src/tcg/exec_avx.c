/* AVX instructions whose elements reach memory one by one, and those that clear registers. */
#include "tcg/exec.h"
#include "tcg/vec.h"

static unsigned registers(const Tcg *t)
{
    return t->code64 ? 16 : 8;
}
static void clear_above(VecReg *v, unsigned bytes)
{
    memset(v->b + bytes, 0, sizeof(v->b) - bytes);
}

DEF_EXEC(vzeroupper)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    for (unsigned k = 0; !f && k < registers(t); k++)
        clear_above(&s->fpu.v[k], 16);
    return f;
}
DEF_EXEC(vzeroall)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    for (unsigned k = 0; !f && k < registers(t); k++)
        clear_above(&s->fpu.v[k], 0);
    return f;
}

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q: elements whose mask is clear are not accessed, and EFLAGS.AC
 * does not count (SDM vol. 2) ---- */

/* Element size: PD by its opcode, the integer forms by W. */
static unsigned mask_element(const Insn *i)
{
    unsigned op = op_rows[i->row].opcode;
    return op == 0x2d || op == 0x2f || ((op == 0x8c || op == 0x8e) && i->rexw) ? 8 : 4;
}
static bool selected(const VecReg *mask, unsigned k, unsigned size)
{
    return mask->b[k * size + size - 1] & 0x80;
}
DEF_EXEC(vmaskmov_load)
{
    unsigned size = mask_element(i), bytes = 16u << i->vexl;
    uint64_t at = ea_offset(s, i), v;
    VecReg out = {0};
    gva_t lin;
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    for (unsigned k = 0; !f && k < bytes / size; k++) {
        if (!selected(&s->fpu.v[i->vvvv], k, size))
            continue;
        f = vec_element_lin(s, t, i, at + (uint64_t)k * size, size, ACC_READ, &lin);
        v = 0;
        if (!f)
            f = mem_read_bytes(s, t, lin, &v, size);
        if (!f)
            memcpy(out.b + k * size, &v, size);
    }
    if (!f)
        s->fpu.v[i->reg] = out;
    return f;
}
DEF_EXEC(vmaskmov_store)
{
    unsigned size = mask_element(i), bytes = 16u << i->vexl;
    uint64_t at = ea_offset(s, i);
    gva_t lin[8];
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    for (unsigned k = 0; !f && k < bytes / size; k++) {
        if (!selected(&s->fpu.v[i->vvvv], k, size))
            continue;
        f = vec_element_lin(s, t, i, at + (uint64_t)k * size, size, ACC_WRITE, &lin[k]);
        if (!f)
            f = mem_probe_write(s, t, lin[k], size);
    }
    for (unsigned k = 0; !f && k < bytes / size; k++) {
        if (!selected(&s->fpu.v[i->vvvv], k, size))
            continue;
        uint64_t v = 0;
        memcpy(&v, s->fpu.v[i->reg].b + k * size, size);
        f = mem_write_bytes(s, t, lin[k], &v, size);
    }
    return f;
}

/* ---- gathers ---- */

static Fault gather_ud(CpuState *s, Tcg *t, const Insn *i)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    return f ? f : raise_ud(t);
}

/* The three registers must differ, and there must be a SIB byte, which 16-bit addresses have not
 * (SDM vol. 2, 2.3.12). */
void vgather_prepare(Insn *i, const uint8_t *bytes)
{
    if ((i->modrm & 7) != 4 || i->asize == 2) {
        i->exec = gather_ud;
        return;
    }
    if (i->index == GPR_ZERO)
        i->index = 4; /* what means "no index" in a SIB byte is register 4 here */
    i->scale = bytes[i->op_at + 2] >> 6;
    if (i->reg == i->index || i->reg == i->vvvv || i->index == i->vvvv)
        i->exec = gather_ud;
}

/*
 * VPGATHERxx, VGATHERxPx. Each element done clears its mask, so that a fault in the middle leaves
 * work that can go on (SDM vol. 2, VGATHERDPS).
 */
DEF_EXEC(vgather)
{
    Fault f = vec_check(s, t, op_rows[i->row].attr);
    if (f)
        return f;
    unsigned index_size = op_rows[i->row].opcode & 1 ? 8 : 4, size = i->rexw ? 8 : 4;
    unsigned n = (16u << i->vexl) / MAX_OF(index_size, size);
    VecReg *dest = &s->fpu.v[i->reg], *mask = &s->fpu.v[i->vvvv];
    const VecReg *index = &s->fpu.v[i->index];
    uint64_t base = s->gpr[i->base] + (uint64_t)i->disp;

    /* Where linear addresses are just that, and the TLB knows the page, an element is a load. */
    bool flat = (i->flags & IF_CODE64) && i->asize == 8 && i->seg == SEG_NONE && !t->align_check;
    bool begun = false;
    for (unsigned k = 0; k < n; k++) {
        if (selected(mask, k, size)) {
            int64_t x = index_size == 8 ? (int64_t)index->q[k] : (int32_t)index->d[k];
            uint64_t v;
            gva_t lin = base + ((uint64_t)x << i->scale);
            const void *host = flat ? tlb_hit(t, t->mmu_mode, lin, size, ACC_READ) : NULL;
            if (host) {
                memcpy(dest->b + k * size, host, size);
                memset(mask->b + k * size, 0, size);
                begun = true;
                continue;
            }
            f = vec_element_lin(s, t, i, base + ((uint64_t)x << i->scale), size, ACC_READ, &lin);
            v = 0;
            if (!f)
                f = mem_read_bytes(s, t, lin, &v, size);
            /* What came before is a boundary: a trap that waits there goes first. */
            if (f)
                return begun && t->one_iter ? FAULT_AGAIN : f;
            memcpy(dest->b + k * size, &v, size);
            begun = true;
        }
        memset(mask->b + k * size, 0, size);
    }
    clear_above(dest, n * size);
    clear_above(mask, n * size);
    return FAULT_NONE;
}
