/* Tandem's decoder and capstone, in the terms of decode.h. */
#include <string.h>

#include "cpu/disasm.h"
#include "diff/decode.h"
#include "tcg/tcg.h"
#include "tcg/vec.h"

extern const ExecSet exec_ud;

const char *const dec_mode_name[DEC_MODES] = {"16", "32", "64", "64-amd"};

/* ---- registers ---- */

static void name_reg(GHashTable *t, const char *name, uint8_t cls, unsigned num, uint8_t size)
{
    DecReg *r = g_new(DecReg, 1);
    *r = (DecReg){cls, (uint8_t)num, size};
    g_hash_table_insert(t, g_strdup(name), r);
}

static GHashTable *reg_names(void)
{
    static const char *const legacy[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
    static const char *const low[] = {"al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"};
    static const char *const high[] = {"ah", "ch", "dh", "bh"};
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    static const struct {
        const char *format;
        uint8_t cls, n;
    } numbered[] = {{"cr%u", DR_CR, 16},   {"dr%u", DR_DR, 16},   {"mm%u", DR_MMX, 8},
                    {"xmm%u", DR_VEC, 32}, {"ymm%u", DR_VEC, 32}, {"zmm%u", DR_VEC, 32},
                    {"k%u", DR_MASK, 8},   {"st%u", DR_ST, 8},    {"st(%u)", DR_ST, 8}};
    GHashTable *t = g_hash_table_new(g_str_hash, g_str_equal);
    char name[16];
    for (unsigned k = 0; k < 16; k++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            static const char *const suffix[] = {[1] = "b", [2] = "w", [4] = "d", [8] = ""};
            static const char *const prefix[] = {[2] = "", [4] = "e", [8] = "r"};
            if (k >= 8)
                snprintf(name, sizeof(name), "r%u%s", k, suffix[size]);
            else if (size == 1)
                snprintf(name, sizeof(name), "%s", low[k]);
            else
                snprintf(name, sizeof(name), "%s%s", prefix[size], legacy[k]);
            name_reg(t, name, DR_GPR, k, (uint8_t)size);
        }
    }
    for (unsigned k = 0; k < 4; k++)
        name_reg(t, high[k], DR_GPR, 16 + k, 1);
    for (unsigned k = 0; k < 6; k++)
        name_reg(t, seg[k], DR_SEG, k, 0);
    for (unsigned g = 0; g < ARRAY_LEN(numbered); g++) {
        for (unsigned k = 0; k < numbered[g].n; k++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(name, sizeof(name), numbered[g].format, k);
#pragma GCC diagnostic pop
            name_reg(t, name, numbered[g].cls, k, 0);
        }
    }
    name_reg(t, "st", DR_ST, 0, 0);
    name_reg(t, "ip", DR_IP, 0, 0);
    name_reg(t, "eip", DR_IP, 0, 0);
    name_reg(t, "rip", DR_IP, 0, 0);
    /* "no index": an address with a SIB byte that says so */
    name_reg(t, "eiz", DR_NONE, 0, 0);
    name_reg(t, "riz", DR_NONE, 0, 0);
    return t;
}

DecReg dec_reg_by_name(const char *name)
{
    static GHashTable *names;
    if (!names)
        names = reg_names();
    const DecReg *r = name ? g_hash_table_lookup(names, name) : NULL;
    return r ? *r : (DecReg){DR_OTHER, 0, 0};
}

/* ---- Tandem ---- */

static const struct {
    uint8_t cls, size;
    bool by_rexw; /* y: 4 bytes, 8 with W in 64-bit mode */
} operand[O_N] = {
#define OPERAND(name, cls, size) \
    [O_##name] = {OC_##cls, size, sizeof(#name) == 3 && #name[1] == 'y'},
#include "tcg/operands.def"
#undef OPERAND
};

static DecReg gpr(unsigned num, uint8_t size)
{
    return (DecReg){DR_GPR, (uint8_t)num, size};
}

/* A byte register goes by its offset. */
static DecReg gpr_of(unsigned field, uint8_t size)
{
    if (size == 1)
        return gpr(field % 8 ? 16 + field / 8 : field / 8, 1);
    return gpr(field, size);
}

static DecReg address_reg(unsigned num, uint8_t size)
{
    if (num == GPR_ZERO)
        return (DecReg){0};
    return num == GPR_IP ? (DecReg){DR_IP, 0, 0} : gpr(num, size);
}

static DecOperand memory(const Insn *i, bool moffs)
{
    DecOperand o = {.kind = DK_MEM, .encoded = true, .size = i->asize, .scale = 1};
    o.base = moffs ? (DecReg){0} : address_reg(i->base, i->asize);
    o.idx = moffs ? (DecReg){0} : address_reg(i->index, i->asize);
    if (o.idx.cls)
        o.scale = (uint8_t)(1 << i->scale);
    o.seg = i->seg;
    o.value = moffs ? i->imm : i->disp;
    if (op_rows[i->row].exec == &exec_vgather)
        o.idx = (DecReg){DR_VEC, i->index, 0};
    if (op_rows[i->row].evex.flags & EV_VSIB) {
        o.idx = (DecReg){DR_VEC, i->vvvv, 0};
        o.scale = (uint8_t)(1 << i->scale);
    }
    return o;
}

static DecOperand tandem_operand(const Insn *i, enum Operand letter, unsigned *n_imm, bool wide)
{
    DecOperand o = {.kind = DK_REG, .encoded = true};
    uint8_t size = operand[letter].size ? operand[letter].size : i->opsize;
    if (operand[letter].by_rexw)
        size = (i->flags & IF_CODE64) && i->rexw ? 8 : 4;
    if (wide) /* moves to and from CRs and DRs: of the mode's size, which the handler knows */
        size = i->flags & IF_CODE64 ? 8 : 4;
    bool mem = i->flags & IF_MEM;
    switch (operand[letter].cls) {
    case OC_RM:
    case OC_MEM:
    case OC_RMREG:
        if (mem)
            return memory(i, false);
        o.reg = gpr_of(i->rm, size);
        break;
    case OC_REG:
    case OC_OPREG:
        o.reg = gpr_of(i->reg, size);
        break;
    case OC_SREG:
        o.reg = (DecReg){DR_SEG, i->reg, 0};
        break;
    case OC_CREG:
        o.reg = (DecReg){DR_CR, i->reg, 0};
        break;
    case OC_DREG:
        o.reg = (DecReg){DR_DR, i->reg, 0};
        break;
    case OC_MMREG:
        o.reg = (DecReg){DR_MMX, i->reg, 0};
        break;
    case OC_MMRM:
    case OC_MMRMREG:
        if (mem)
            return memory(i, false);
        o.reg = (DecReg){DR_MMX, i->rm, 0};
        break;
    case OC_VREG:
        o.reg = (DecReg){DR_VEC, i->reg, 0};
        break;
    case OC_VRM:
    case OC_VRMREG:
        if (mem)
            return memory(i, false);
        o.reg = (DecReg){DR_VEC, i->rm, 0};
        break;
    case OC_KREG:
        o.reg = (DecReg){DR_MASK, i->reg, 0};
        break;
    case OC_KRM:
    case OC_KRMREG:
        if (mem)
            return memory(i, false);
        o.reg = (DecReg){DR_MASK, i->rm, 0};
        break;
    case OC_KVVVV:
        o.reg = (DecReg){DR_MASK, i->vvvv, 0};
        break;
    case OC_VVVV:
        o.reg = letter == O_Bv ? gpr(i->vvvv, size) : (DecReg){DR_VEC, i->vvvv, 0};
        break;
    case OC_IS4:
        o.reg = (DecReg){DR_VEC, (i->imm >> 4 & (i->flags & IF_CODE64 ? 15 : 7)), 0};
        break;
    case OC_IMM:
    case OC_SIMM:
    case OC_IMMZ:
    case OC_IMMV:
        o.kind = DK_IMM;
        o.size = operand[letter].cls == OC_IMM ? operand[letter].size : i->opsize;
        o.value = (*n_imm)++ ? i->imm2 : i->imm;
        break;
    case OC_REL:
    case OC_RELZ:
        o.kind = DK_IMM;
        o.size = i->opsize;
        o.value = i->disp;
        break;
    case OC_FARPTR:
        o.kind = DK_FAR;
        o.size = 4;
        o.value = i->imm & 0xffffffff;
        o.selector = (uint16_t)(i->imm >> 32);
        break;
    case OC_MOFFS:
        return memory(i, true);
    default: /* fixed ones and strings: the opcode says them all */
        o.encoded = false;
        break;
    }
    return o;
}

/* The decoder alone, then what a block does with an instruction before it runs it. */
void dec_tandem(const uint8_t bytes[DECODE_BYTES], enum DecMode mode, Decoded *out)
{
    Insn insn, *i = &insn;
    static const unsigned dm[DEC_MODES] = {DM_PROT, DM_PROT | DM_CS32, DM_PROT | DM_CODE64,
                                           DM_PROT | DM_CODE64 | DM_AMD};
    static uint8_t features[FEAT_N];
    memset(features, 1, sizeof(features));
    memset(out, 0, sizeof(*out));
    DecodeResult res = decode(i, bytes, DECODE_BYTES, dm[mode], features);
    out->len = i->len;
    if (res != DECODE_OK)
        return;
    const OpRow *r = &op_rows[i->row];
    if (r->exec == &exec_vgather) {
        ExecFn *was = i->exec;
        vgather_prepare(i, bytes);
        if (i->exec != was)
            return;
    }
    if (r->evex.flags & EV_VSIB) {
        ExecFn *was = i->exec;
        egather_prepare(i, bytes);
        if (i->exec != was)
            return;
    }
    out->ok = r->exec != &exec_ud || r->name[0] != '('; /* holes among rows */
    g_strlcpy(out->name, r->name, sizeof(out->name));
    bool wide = false;
    unsigned n_imm = 0;
    for (unsigned k = 0; k < 4; k++)
        wide |= operand[r->op[k]].cls == OC_CREG || operand[r->op[k]].cls == OC_DREG;
    for (unsigned k = 0; k < 4 && r->op[k]; k++) {
        DecOperand o = tandem_operand(i, r->op[k], &n_imm, wide);
        if (o.encoded && !(r->opcode == 0x90 && i->reg == RAX && r->map == MAP_1B)) /* NOP */
            out->op[out->n++] = o;
    }
    /* x87 rows do not name stack registers. */
    if (r->map == MAP_1B && (r->opcode & 0xf8) == 0xd8 && (r->modrm & X_REG) && !(r->modrm & X_RM))
        out->op[out->n++] = (DecOperand){.encoded = true, .reg = {DR_ST, i->rm & 7, 0}};
}

/* ---- capstone ---- */

typedef struct Capstone {
    const CapstoneLib *lib;
    csh cs;
    cs_insn *insn;
    enum DecMode mode;
    DecReg reg[X86_REG_ENDING];
} Capstone;

static const char *capstone_version(void)
{
    static char text[16];
    const CapstoneLib *lib = capstone_lib(NULL);
    int major = 0, minor = 0;
    if (lib)
        lib->version(&major, &minor);
    snprintf(text, sizeof(text), "%d.%d", major, minor);
    return text;
}

static void *capstone_open(enum DecMode mode)
{
    static const cs_mode cs[DEC_MODES] = {CS_MODE_16, CS_MODE_32, CS_MODE_64, CS_MODE_64};
    Capstone *c = g_new0(Capstone, 1);
    GError *err = NULL;
    c->mode = mode;
    c->lib = capstone_lib(&err);
    if (!c->lib)
        g_error("%s", err->message);
    if (c->lib->open(CS_ARCH_X86, cs[mode], &c->cs) != CS_ERR_OK)
        g_error("capstone has no x86 decoder");
    c->lib->option(c->cs, CS_OPT_DETAIL, CS_OPT_ON);
    c->insn = c->lib->malloc(c->cs);
    for (unsigned r = 1; r < X86_REG_ENDING; r++)
        c->reg[r] = dec_reg_by_name(c->lib->reg_name(c->cs, r));
    return c;
}

static void capstone_close(void *opaque)
{
    Capstone *c = opaque;
    c->lib->free(c->insn, 1);
    c->lib->close(&c->cs);
    g_free(c);
}

static bool default_stack(const DecReg *base)
{
    return base->cls == DR_GPR && (base->num == RSP || base->num == RBP);
}

static DecOperand capstone_memory(const Capstone *c, const x86_op_mem *m, unsigned asize)
{
    DecOperand o = {.kind = DK_MEM, .size = (uint8_t)asize, .scale = 1, .value = m->disp};
    o.base = c->reg[m->base];
    o.idx = c->reg[m->index];
    if (o.idx.cls)
        o.scale = (uint8_t)m->scale;
    o.seg = default_stack(&o.base) ? SS : DS;
    if (m->segment != X86_REG_INVALID)
        o.seg = c->reg[m->segment].num;
    if (dec_code64(c->mode) && o.seg < FS)
        o.seg = SEG_NONE;
    if (o.base.cls == DR_IP)
        o.value += c->insn->size;
    return o;
}

static void capstone_decode(void *opaque, const uint8_t bytes[DECODE_BYTES], Decoded *out)
{
    Capstone *c = opaque;
    const uint8_t *p = bytes;
    size_t left = DECODE_BYTES;
    uint64_t address = 0;
    memset(out, 0, sizeof(*out));
    if (!c->lib->disasm_iter(c->cs, &p, &left, &address, c->insn))
        return;
    out->ok = true;
    out->len = (uint8_t)c->insn->size;
    g_strlcpy(out->name, c->insn->mnemonic, sizeof(out->name));
    const cs_detail *d = c->insn->detail;
    for (unsigned g = 0; g < d->groups_count; g++) {
        const char *name = c->lib->group_name(c->cs, d->groups[g]);
        if (d->groups[g] >= X86_GRP_VM && name && !strstr(name, "mode"))
            g_strlcpy(out->extension, name, sizeof(out->extension));
    }
    const cs_x86_op *far = d->x86.operands;
    if (d->x86.op_count == 2 && far[0].type == X86_OP_IMM && far[1].type == X86_OP_IMM &&
        (!strcmp(out->name, "ljmp") || !strcmp(out->name, "lcall"))) {
        out->op[out->n++] =
            (DecOperand){.kind = DK_FAR, .value = far[1].imm, .selector = (uint16_t)far[0].imm};
        return;
    }
    for (unsigned k = 0; k < d->x86.op_count && k < DECODE_OPERANDS; k++) {
        const cs_x86_op *from = &d->x86.operands[k];
        DecOperand *o = &out->op[out->n++];
        switch (from->type) {
        case X86_OP_REG:
            *o = (DecOperand){.kind = DK_REG, .reg = c->reg[from->reg]};
            break;
        case X86_OP_IMM:
            *o = (DecOperand){.kind = DK_IMM, .value = from->imm};
            break;
        default:
            *o = capstone_memory(c, &from->mem, d->x86.addr_size);
            break;
        }
    }
}

const DecEngine dec_capstone = {"capstone", capstone_version, capstone_open, capstone_close,
                                capstone_decode};
