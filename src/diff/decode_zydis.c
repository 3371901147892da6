/* Zydis, in the terms of decode.h. Here only where its headers and library were found. */
#ifdef TANDEM_ZYDIS
#include <Zydis/Zydis.h>
#include <string.h>

#include "diff/decode.h"

typedef struct ZydisEngine {
    ZydisDecoder decoder;
    enum DecMode mode;
    DecReg reg[ZYDIS_REGISTER_MAX_VALUE + 1];
} ZydisEngine;

static const char *zydis_version(void)
{
    static char text[24];
    uint64_t v = ZydisGetVersion();
    g_snprintf(text, sizeof(text), "%u.%u.%u", (unsigned)ZYDIS_VERSION_MAJOR(v),
               (unsigned)ZYDIS_VERSION_MINOR(v), (unsigned)ZYDIS_VERSION_PATCH(v));
    return text;
}

static void *zydis_open(enum DecMode mode)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } as[DEC_MODES] = {{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
                       {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
                       {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
                       {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64}};
    ZydisEngine *z = g_new0(ZydisEngine, 1);
    z->mode = mode;
    if (!ZYAN_SUCCESS(ZydisDecoderInit(&z->decoder, as[mode].machine, as[mode].stack)))
        g_error("Zydis could not be set up");
    ZydisDecoderEnableMode(&z->decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, mode == DEC_64_AMD);
    for (unsigned r = 1; r <= ZYDIS_REGISTER_MAX_VALUE; r++)
        z->reg[r] = dec_reg_by_name(ZydisRegisterGetString((ZydisRegister)r));
    return z;
}

static DecOperand zydis_operand(const ZydisEngine *z, const ZydisDecodedInstruction *insn,
                                const ZydisDecodedOperand *from)
{
    DecOperand o = {.encoded = true};
    switch (from->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        o.kind = DK_REG;
        o.reg = z->reg[from->reg.value];
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        o.kind = DK_MEM;
        o.base = z->reg[from->mem.base];
        o.idx = z->reg[from->mem.index];
        o.scale = o.idx.cls ? from->mem.scale : 1;
        o.seg = z->reg[from->mem.segment].num;
        if (dec_code64(z->mode) && o.seg < FS)
            o.seg = SEG_NONE;
        o.value = from->mem.disp.value + (o.base.cls == DR_IP ? insn->length : 0);
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        o.kind = DK_FAR;
        o.value = from->ptr.offset;
        o.selector = from->ptr.segment;
        break;
    default:
        o.kind = DK_IMM;
        o.value = from->imm.value.s + (from->imm.is_relative ? insn->length : 0);
        break;
    }
    return o;
}

static void zydis_decode(void *opaque, const uint8_t bytes[DECODE_BYTES], Decoded *out)
{
    ZydisEngine *z = opaque;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    memset(out, 0, sizeof(*out));
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z->decoder, bytes, DECODE_BYTES, &insn, operands)))
        return;
    out->ok = true;
    out->len = insn.length;
    g_strlcpy(out->name, ZydisMnemonicGetString(insn.mnemonic), sizeof(out->name));
    g_strlcpy(out->extension, ZydisISAExtGetString(insn.meta.isa_ext), sizeof(out->extension));
    for (unsigned k = 0; k < insn.operand_count && out->n < DECODE_OPERANDS; k++)
        if ((operands[k].encoding != ZYDIS_OPERAND_ENCODING_NONE &&
             operands[k].encoding != ZYDIS_OPERAND_ENCODING_MASK) ||
            operands[k].type == ZYDIS_OPERAND_TYPE_POINTER)
            out->op[out->n++] = zydis_operand(z, &insn, &operands[k]);
}

const DecEngine dec_zydis = {"zydis", zydis_version, zydis_open, g_free, zydis_decode};
#endif
