/*
 * REP MOVS and STOS upwards, in 64-bit code, as themselves on the host's addresses: of fewer than
 * 8192 elements.
 *
 * A string that lies in one page goes by the first-level TLB. For those that do not, in user code,
 * each operand has a slot (slot.c) with the pages that one of them met, where these follow each
 * other in the host's memory too or in a window; `last` is that of the string it was filled for.
 * All else is the exec function's: it goes page by page.
 *
 * Where the host's own are slow, and that is so where it does not say that it has "enhanced" ones,
 * string_thunk.S does what they would. AMD's of family 17h take 18 cycles to begin with, a cycle
 * for each byte up to 64, and where the destination is not aligned twice the time of a loop; where
 * it is a few bytes above the source, in pages, a cycle and more for each element.
 */
#include "jit/trans.h"

#include <cpuid.h>

extern const ExecSet exec_movs;

#define STRING_MAX_SHIFT 13 /* elements, as a power of 2 */
#define CPUID_7_EBX_ERMS (1u << 9)

extern const uint8_t string_fill1[], string_fill2[], string_fill4[], string_fill8[];
extern const uint8_t string_copy1[], string_copy2[], string_copy4[], string_copy8[];

void jit_strings_init(Jit *j)
{
    static const void *const thunks[2][4] = {
        {string_fill1, string_fill2, string_fill4, string_fill8},
        {string_copy1, string_copy2, string_copy4, string_copy8}};
    unsigned eax, ebx, ecx, edx;
    memcpy(j->hot->fn_string, thunks, sizeof(thunks));
    j->slow_rep = !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & CPUID_7_EBX_ERMS);
}

static HostMem state(size_t offset)
{
    return gs_mem((int32_t)offset);
}

static unsigned scale_of(const Insn *i)
{
    return (unsigned)__builtin_ctz(i->opsize);
}

/* To exec unless DF is 0 and there are not too many elements. far: an island behind all of the
 * instruction is too far. */
static void string_case(Trans *x, bool far)
{
    Code *c = &x->c;
    emit_load(c, H_CX, state(offsetof(CpuState, rflags)));
    emit_imm32(c, H_DX, 63);
    emit_rorx(c, H_CX, H_CX, NULL, bit_of(FL_DF) + 1);
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    emit_imm32(c, H_DX, STRING_MAX_SHIFT);
    emit_shift(c, PFX_F2, true, H_DX, jit_host[RCX], H_DX);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_DX, .scale = 0, .disp = !far});
    if (far)
        jit_unless_zero(x, COLD_HELPER);
    else
        jit_unless_one(x, COLD_HELPER);
}

/*
 * [reg] of a string, of jit_host[RCX] elements: rdx leads there if the first-level TLB has the page
 * and all of it lies in there. If not, cold code looks further. Nothing is accessed where there are
 * no elements; whatever the check says then is right.
 */
static void string_check(Trans *x, const Insn *i, unsigned reg, bool write)
{
    Code *c = &x->c;
    const uint8_t *retry = here(c);
    HostMem ea = {.base = (uint8_t)reg, .index = H_NONE};
    jit_tlb_entry(x, ea, write);
    emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = (uint8_t)reg, .scale = 0, .disp = 0});
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX,
                       .index = jit_host[RCX],
                       .scale = (uint8_t)scale_of(i),
                       .disp = (int32_t)PAGE_SIZE - 1});
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    struct Cold *cold;
    if (write) {
        cold = jit_unless_one(x, COLD_STRING);
    } else { /* an island behind all of it is too far */
        emit_lea(c, true, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
        cold = jit_unless_zero(x, COLD_STRING);
    }
    cold->slot = jit_slot_new(x, 1, write);
    cold->retry = retry;
    cold->next = here(c);
    cold->ea = ea;
    cold->write = write;
    cold->mode = (uint8_t)jit_mmu_mode(x->mode);
}

/* ---- over pages' ends: code that may change flags, which are in JitHot.cc meanwhile ---- */
enum { ADD = 0x03, SUB = 0x2b, CMP = 0x3b };
enum { BELOW = 2, NOT_BELOW, EQUAL, NOT_ABOVE = 6 };

static void alu(Code *c, unsigned opcode, unsigned to, unsigned from)
{
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = (uint8_t)opcode,
                     .w = true,
                     .modrm = true,
                     .reg = (uint8_t)to,
                     .rm = (uint8_t)from});
}

/* to = bytes of the string, plus `more`. */
static void bytes_of(Trans *x, const Insn *i, unsigned to, int32_t more)
{
    emit_lea(
        &x->c, true, to,
        (HostMem){
            .base = H_NONE, .index = jit_host[RCX], .scale = (uint8_t)scale_of(i), .disp = more});
}

/* What the exec function or jit_access() is told, with flags as they were. */
static void call_c(Trans *x, const JitCode *code, const uint8_t *stub, uint32_t k, HostMem ea)
{
    Code *c = &x->c;
    jit_flags_in(c, x->j);
    emit_lea(c, true, H_AX, ea);
    emit_imm64(c, H_DX, (uintptr_t)code);
    emit_imm32(c, H_CX, k);
    emit_call(c, stub);
}

/* With flags out: rdx = the slot's `add` if all of the string is in its pages, and back to where
 * the check ends. Else the slot is empty, and has the length. */
static void by_slot(Trans *x, const Insn *i, const struct Cold *cold)
{
    Code *c = &x->c;
    HostMem neg = jit_slot_mem(x->j, cold->slot, offsetof(JitSlot, neg));
    HostMem last = jit_slot_mem(x->j, cold->slot, offsetof(JitSlot, last));
    uint8_t *miss[3];
    emit_load(c, H_CX, neg);
    emit_imm64(c, H_AX, JIT_SLOT_NONE);
    alu(c, CMP, H_CX, H_AX);
    miss[0] = emit_jcc(c, EQUAL, here(c));
    /* rcx = from the first of the slot's bytes to the string; rdx = from there to their end */
    emit_load32(c, H_DX, jit_slot_mem(x->j, cold->slot, offsetof(JitSlot, places)));
    alu(c, ADD, H_CX, cold->ea.base);
    alu(c, SUB, H_CX, H_DX);
    encode(c, &(Enc){.map = MAP_0F, .opcode = 0xb7, .modrm = true, .reg = H_AX, .mem = &last});
    alu(c, ADD, H_DX, H_AX);
    alu(c, SUB, H_DX, H_CX);
    miss[1] = emit_jcc(c, BELOW, here(c));
    bytes_of(x, i, H_CX, 0);
    alu(c, CMP, H_DX, H_CX);
    miss[2] = emit_jcc(c, BELOW, here(c));
    jit_flags_in(c, x->j);
    emit_load(c, H_DX, jit_slot_mem(x->j, cold->slot, offsetof(JitSlot, add)));
    emit_jmp(c, cold->next);
    for (unsigned n = 0; n < ARRAY_LEN(miss); n++)
        patch_rel32(miss[n], c->run, here(c));
    emit_imm64(c, H_CX, JIT_SLOT_NONE);
    emit_store(c, H_CX, neg);
    bytes_of(x, i, H_CX, -1);
    encode(
        c,
        &(Enc){
            .map = MAP_1B, .opcode = 0x89, .p66 = true, .modrm = true, .reg = H_CX, .mem = &last});
    emit_imm32(c, H_CX, (uint32_t)cold->slot * sizeof(JitSlot));
    emit_store(c, H_CX, jit_hot(x->j, offsetof(JitHot, slot_at)));
}

void jit_string_cold(Trans *x, const JitCode *code, const struct Cold *cold)
{
    Code *c = &x->c;
    const Insn *i = x->insn[cold->k];
    const unsigned di = jit_host[RDI], si = jit_host[RSI];
    uint8_t *slow[2], *plain = NULL, *done[2];
    unsigned n = 0;
    jit_flags_out(c, x->j);
    encode(c, &(Enc){.map = MAP_1B, /* test count, count: there is no length then */
                     .opcode = 0x85,
                     .w = true,
                     .modrm = true,
                     .reg = jit_host[RCX],
                     .rm = jit_host[RCX]});
    slow[n++] = emit_jcc(c, EQUAL, here(c));
    if (op_rows[i->row].exec == &exec_movs) {
        /* What it copies it may copy again. The host is to see that, by the addresses: but its page
         * may have got into a window since the other operand was looked at. */
        emit_mov(c, true, H_CX, di);
        alu(c, SUB, H_CX, si);
        bytes_of(x, i, H_DX, 0);
        alu(c, CMP, H_CX, H_DX);
        uint8_t *apart = emit_jcc(c, NOT_BELOW, here(c));
        /* In one page it is a plain miss. */
        emit_mov(c, true, H_CX, cold->ea.base);
        encode(c, &(Enc){.map = MAP_1B, /* and ecx, 4095 */
                         .opcode = 0x81,
                         .modrm = true,
                         .reg = 4,
                         .rm = H_CX,
                         .imm = (int64_t)~PAGE_MASK,
                         .imm_size = 4});
        alu(c, ADD, H_CX, H_DX);
        encode(c, &(Enc){.map = MAP_1B, /* cmp ecx, 4096 */
                         .opcode = 0x81,
                         .modrm = true,
                         .reg = 7,
                         .rm = H_CX,
                         .imm = (int64_t)PAGE_SIZE,
                         .imm_size = 4});
        plain = emit_jcc(c, NOT_ABOVE, here(c));
        slow[n++] = emit_jmp(c, here(c));
        patch_rel32(apart, c->run, here(c));
    }
    if (cold->slot >= 0) {
        by_slot(x, i, cold);
        call_c(x, code, x->j->s_access, cold->k | JIT_SLOT_FLAG, cold->ea);
        emit_jmp(c, cold->retry);
        done[0] = emit_jmp(c, here(c));
    }
    if (plain)
        patch_rel32(plain, c->run, here(c));
    call_c(x, code, x->j->s_access, cold->k, cold->ea);
    emit_jmp(c, cold->retry);
    done[1] = emit_jmp(c, here(c));
    while (n)
        patch_rel32(slow[--n], c->run, here(c));
    call_c(x, code, x->j->s_helper, cold->k, cold->ea);
    for (unsigned k = cold->slot < 0; k < 2; k++)
        patch_rel32(done[k], c->run, here(c));
}

/* ---- the instruction ---- */

/* RDI and RSI are what they were plus what rdx had added. */
bool jit_emit_string(Trans *x, const Insn *i, bool copy)
{
    Code *c = &x->c;
    const unsigned di = jit_host[RDI], si = jit_host[RSI], count = jit_host[RCX];
    if (x->second || !(x->mode & DM_CODE64) || i->asize != 8 || i->seg != SEG_NONE ||
        !(i->flags & (IF_REP | IF_REPNE)))
        return false;
    HostMem from = jit_hot(x->j, offsetof(JitHot, tmp));
    x->dx_run = -1;
    string_case(x, copy);
    if (copy) {
        string_check(x, i, si, false);
        emit_lea(c, true, H_CX,
                 (HostMem){.base = (uint8_t)si, .index = H_DX, .scale = 0, .disp = -PAGE_BITS});
        emit_store(c, H_CX, from);
    }
    string_check(x, i, di, true);
    emit_lea(c, true, di,
             (HostMem){.base = (uint8_t)di, .index = H_DX, .scale = 0, .disp = -PAGE_BITS});
    emit_mov(c, true, H_AX, copy ? si : jit_host[RAX]);
    if (copy)
        emit_load(c, si, from);
    emit_mov(c, true, H_CX, count);
    if (x->j->slow_rep) {
        HostMem thunk = jit_hot(x->j, offsetof(JitHot, fn_string[copy][scale_of(i)]));
        encode(c, &(Enc){.map = MAP_1B, .opcode = 0xff, .modrm = true, .reg = 2, .mem = &thunk});
        RAW(c, "\xe3"); /* jrcxz, over what follows */
        code8(c, i->opsize == 2 || i->opsize == 8 ? 3 : 2);
    }
    code8(c, 0xf3);
    if (i->opsize == 2)
        code8(c, 0x66);
    if (i->opsize == 8)
        code8(c, 0x48);
    code8(c, (copy ? 0xa4u : 0xaau) | (i->opsize > 1));
    if (copy)
        emit_lea(
            c, true, si,
            (HostMem){
                .base = H_AX, .index = (uint8_t)count, .scale = (uint8_t)scale_of(i), .disp = 0});
    encode(c, &(Enc){.map = MAP_1B,
                     .opcode = 0xf7,
                     .w = true,
                     .modrm = true,
                     .reg = 2,
                     .rm = H_DX}); /* not rdx: minus it, minus 1 */
    emit_lea(c, true, di,
             (HostMem){.base = (uint8_t)di, .index = H_DX, .scale = 0, .disp = PAGE_BITS + 1});
    emit_mov(c, true, count, H_CX);
    return true;
}
