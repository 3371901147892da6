/* x87 control: words, environment and state in memory (SDM vol. 1, 8.1.10, 8.1.11), FWAIT. */
#include "tcg/exec.h"
#include "tcg/x87.h"

enum { FCW_RESERVED1 = 0x40, FCW_WRITABLE = 0x1f3f, FCW_MASKS = 0x3f };

#define CHECK()                                            \
    do {                                                   \
        Fault chk = x87_check(s, t, op_rows[i->row].attr); \
        if (chk)                                           \
            return chk;                                    \
    } while (0)

static void set_fcw(FpuState *f, uint16_t fcw)
{
    f->fcw = (fcw & FCW_WRITABLE) | FCW_RESERVED1;
    x87_update_es(f);
}

DEF_EXEC(fwait)
{
    if ((s->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        return raise_exc(t, VEC_NM);
    return x87_pending(s, t);
}
/* FENI, FDISI and FSETPM of the 8087 and 80287: nothing to do since the 80387. */
DEF_EXEC(x87_nop)
{
    CHECK();
    return FAULT_NONE;
}
DEF_EXEC(fninit)
{
    CHECK();
    x87_init(&s->fpu);
    return FAULT_NONE;
}
DEF_EXEC(fnclex)
{
    CHECK();
    s->fpu.fsw &= 0x7f00;
    return FAULT_NONE;
}
DEF_EXEC(fldcw)
{
    gva_t lin;
    uint16_t v;
    CHECK();
    Fault f = ea_lin(s, t, i, 2, ACC_READ, &lin);
    if (!f)
        f = ld16(s, t, lin, &v);
    if (!f)
        set_fcw(&s->fpu, v);
    return f;
}
static Fault store_word(CpuState *s, Tcg *t, const Insn *i, uint16_t v)
{
    gva_t lin;
    CHECK();
    Fault f = ea_lin(s, t, i, 2, ACC_WRITE, &lin);
    return f ? f : st16(s, t, lin, v);
}
DEF_EXEC(fnstcw)
{
    return store_word(s, t, i, s->fpu.fcw);
}
static Fault fnstsw_m(EXEC_ARGS)
{
    return store_word(s, t, i, s->fpu.fsw);
}
static Fault fnstsw_ax(EXEC_ARGS)
{
    CHECK();
    wr16(s, RAX, s->fpu.fsw);
    return FAULT_NONE;
}
const ExecSet exec_fnstsw = EXEC_RM(fnstsw_ax, fnstsw_m);

/* ---- the environment: 28 or 14 bytes, each in a protected and a real-mode form ---- */

static unsigned env_size(const Insn *i)
{
    return i->opsize == 2 ? 14 : 28;
}
static bool real_form(const Tcg *t)
{
    return !t->code64 && !(t->decode_mode & DM_PROT);
}
/* Offset and selector of FIP or FDP; the real-mode form has one 32-bit address. */
static uint32_t real_address(uint64_t p)
{
    return (uint32_t)((p >> 32 & 0xffff) << 4) + (uint32_t)p;
}

static void put16(uint8_t *p, unsigned at, uint64_t v)
{
    uint16_t w = (uint16_t)v;
    memcpy(p + at, &w, 2);
}
static void put32(uint8_t *p, unsigned at, uint64_t v)
{
    uint32_t d = (uint32_t)v;
    memcpy(p + at, &d, 4);
}
static uint16_t get16(const uint8_t *p, unsigned at)
{
    uint16_t v;
    memcpy(&v, p + at, 2);
    return v;
}
static uint32_t get32(const uint8_t *p, unsigned at)
{
    uint32_t v;
    memcpy(&v, p + at, 4);
    return v;
}

static void env_out(const FpuState *f, const Tcg *t, const Insn *i, uint8_t *p)
{
    uint16_t tags = x87_full_tags(f);
    uint64_t fip_sel = t->code64 ? 0 : f->fip >> 32, fdp_sel = t->code64 ? 0 : f->fdp >> 32;
    uint32_t ip = real_address(f->fip), dp = real_address(f->fdp);

    if (i->opsize == 2) {
        put16(p, 0, f->fcw);
        put16(p, 2, f->fsw);
        put16(p, 4, tags);
        put16(p, 6, real_form(t) ? ip : f->fip);
        put16(p, 8, real_form(t) ? (ip >> 4 & 0xf000) | f->fop : fip_sel);
        put16(p, 10, real_form(t) ? dp : f->fdp);
        put16(p, 12, real_form(t) ? dp >> 4 & 0xf000 : fdp_sel);
        return;
    }
    /* Reserved halves are stored as ones, as the processor does. */
    put32(p, 0, f->fcw | 0xffff0000u);
    put32(p, 4, f->fsw | 0xffff0000u);
    put32(p, 8, tags | 0xffff0000u);
    if (real_form(t)) {
        put32(p, 12, (ip & 0xffff) | 0xffff0000u);
        put32(p, 16, (ip >> 4 & 0x0ffff000) | f->fop);
        put32(p, 20, (dp & 0xffff) | 0xffff0000u);
        put32(p, 24, dp >> 4 & 0x0ffff000);
    } else {
        put32(p, 12, f->fip);
        put32(p, 16, (fip_sel & 0xffff) | (uint32_t)f->fop << 16);
        put32(p, 20, f->fdp);
        put32(p, 24, (fdp_sel & 0xffff) | 0xffff0000u);
    }
}

static void env_in(FpuState *f, const Tcg *t, const Insn *i, const uint8_t *p)
{
    bool small = i->opsize == 2;
    uint16_t tags = get16(p, small ? 4 : 8);
    f->fsw = get16(p, small ? 2 : 4);
    set_fcw(f, get16(p, 0));
    f->ftw = 0;
    for (unsigned k = 0; k < 8; k++)
        f->ftw |= (uint8_t)(((tags >> (2 * k) & 3) != 3) << k);
    if (small && real_form(t)) {
        f->fip = get16(p, 6) | (uint32_t)(get16(p, 8) & 0xf000) << 4;
        f->fop = get16(p, 8) & 0x7ff;
        f->fdp = get16(p, 10) | (uint32_t)(get16(p, 12) & 0xf000) << 4;
    } else if (small) {
        f->fip = get16(p, 6) | (uint64_t)get16(p, 8) << 32;
        f->fdp = get16(p, 10) | (uint64_t)get16(p, 12) << 32;
        f->fop = 0;
    } else if (real_form(t)) {
        f->fip = get16(p, 12) | (get32(p, 16) & 0x0ffff000) << 4;
        f->fop = get16(p, 16) & 0x7ff;
        f->fdp = get16(p, 20) | (get32(p, 24) & 0x0ffff000) << 4;
    } else {
        f->fip = get32(p, 12) | (uint64_t)get16(p, 16) << 32;
        f->fop = get16(p, 18) & 0x7ff;
        f->fdp = get32(p, 20) | (uint64_t)get16(p, 24) << 32;
    }
    if (t->code64) { /* selectors are not kept in 64-bit mode */
        f->fip = (uint32_t)f->fip;
        f->fdp = (uint32_t)f->fdp;
    }
}

/*
 * Where an environment, or all of the state, is: size bytes. AMD accesses its first item, then the
 * last byte, then the rest, each with the checks of an access of its own.
 */
static Fault env_lin(CpuState *s, Tcg *t, const Insn *i, unsigned size, enum Access a, gva_t *lin)
{
    unsigned item = env_size(i) / 7;
    Fault f = FAULT_NONE;
    if (t->amd) {
        f = ea_lin(s, t, i, item, a, lin);
        if (!f)
            f = mem_probe_operand(s, t, *lin, item, item, a);
    }
    if (!f)
        f = ea_lin(s, t, i, size, a, lin);
    return f ? f : mem_probe_last(s, t, *lin, size, a);
}

DEF_EXEC(fnstenv)
{
    gva_t lin;
    uint8_t env[28];
    CHECK();
    Fault f = env_lin(s, t, i, env_size(i), ACC_WRITE, &lin);
    if (f)
        return f;
    env_out(&s->fpu, t, i, env);
    f = mem_write_operand(s, t, lin, env, env_size(i), env_size(i) / 7);
    if (!f)
        set_fcw(&s->fpu, s->fpu.fcw | FCW_MASKS);
    return f;
}
DEF_EXEC(fldenv)
{
    gva_t lin;
    uint8_t env[28];
    CHECK();
    Fault f = env_lin(s, t, i, env_size(i), ACC_READ, &lin);
    if (!f)
        f = mem_read_operand(s, t, lin, env, env_size(i), env_size(i) / 7);
    if (!f)
        env_in(&s->fpu, t, i, env);
    return f;
}
DEF_EXEC(fnsave)
{
    gva_t lin;
    uint8_t area[28 + 80];
    unsigned env = env_size(i), top = s->fpu.fsw >> FPU_TOP_SHIFT & 7;
    CHECK();
    Fault f = env_lin(s, t, i, env + 80, ACC_WRITE, &lin);
    if (f)
        return f;
    env_out(&s->fpu, t, i, area);
    for (unsigned k = 0; k < 8; k++)
        memcpy(area + env + 10 * k, s->fpu.r[(top + k) & 7].b, 10);
    f = mem_write_operand(s, t, lin, area, env + 80, env / 7);
    if (!f)
        x87_init(&s->fpu);
    return f;
}
DEF_EXEC(frstor)
{
    gva_t lin;
    uint8_t area[28 + 80];
    unsigned env = env_size(i);
    CHECK();
    Fault f = env_lin(s, t, i, env + 80, ACC_READ, &lin);
    if (!f)
        f = mem_read_operand(s, t, lin, area, env + 80, env / 7);
    if (f)
        return f;
    env_in(&s->fpu, t, i, area);
    unsigned top = s->fpu.fsw >> FPU_TOP_SHIFT & 7;
    for (unsigned k = 0; k < 8; k++)
        memcpy(s->fpu.r[(top + k) & 7].b, area + env + 10 * k, 10);
    return f;
}
