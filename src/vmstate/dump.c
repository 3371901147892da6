/* `info registers`: the layout that QEMU's users, their scripts and their eyes are used to. */
#include "vmstate/state.h"

#define X64 "%016" G_GINT64_MODIFIER "x"

static void dump_gprs(const CpuState *s, GString *out)
{
    static const struct {
        const char *name;
        enum Gpr r;
    } row[] = {
        {"RAX", RAX}, {"RBX", RBX}, {"RCX", RCX}, {"RDX", RDX}, {"RSI", RSI}, {"RDI", RDI},
        {"RBP", RBP}, {"RSP", RSP}, {"R8 ", R8},  {"R9 ", R9},  {"R10", R10}, {"R11", R11},
        {"R12", R12}, {"R13", R13}, {"R14", R14}, {"R15", R15},
    };
    for (unsigned i = 0; i < ARRAY_LEN(row); i++)
        g_string_append_printf(out, "%s=" X64 "%c", row[i].name, s->gpr[row[i].r],
                               i % 4 == 3 ? '\n' : ' ');
}

static void dump_flags(const CpuState *s, GString *out)
{
    static const struct {
        char c;
        uint64_t mask;
    } f[] = {{'D', FL_DF}, {'O', FL_OF}, {'S', FL_SF}, {'Z', FL_ZF},
             {'A', FL_AF}, {'P', FL_PF}, {'C', FL_CF}};
    g_string_append_printf(out, "RIP=" X64 " RFL=%08x [", s->rip, (unsigned)s->rflags);
    for (unsigned i = 0; i < ARRAY_LEN(f); i++)
        g_string_append_c(out, s->rflags & f[i].mask ? f[i].c : '-');
    /* A20 is always open: no engine has a gate. */
    g_string_append_printf(out, "] CPL=%u II=%u A20=1 SMM=%u HLT=%u\n", s->cpl,
                           (unsigned)s->ev.shadow_sti | (unsigned)s->ev.shadow_mov_ss << 1,
                           s->ev.smi.active,
                           s->run_state == RUN_HALTED || s->run_state == RUN_MWAIT);
}

static const char *system_type(unsigned type, bool lma)
{
    static const char *const legacy[16] = {"Reserved",   "TSS16-avl", "LDT",       "TSS16-busy",
                                           "CallGate16", "TaskGate",  "IntGate16", "TrapGate16",
                                           "Reserved",   "TSS32-avl", "Reserved",  "TSS32-busy",
                                           "CallGate32", "Reserved",  "IntGate32", "TrapGate32"};
    static const char *const long_mode[16] = {"Reserved",   "Reserved",  "LDT",       "Reserved",
                                              "Reserved",   "Reserved",  "Reserved",  "Reserved",
                                              "Reserved",   "TSS64-avl", "Reserved",  "TSS64-busy",
                                              "CallGate64", "Reserved",  "IntGate64", "TrapGate64"};
    return (lma ? long_mode : legacy)[type & 15];
}

static void dump_segment(const CpuState *s, const char *name, enum Seg i, GString *out)
{
    const Segment *g = &s->seg[i];
    uint32_t a = g->attr;
    /* The flags as they stand in a descriptor's second word. */
    g_string_append_printf(out, "%s=%04x " X64 " %08x %08x", name, g->selector, g->base, g->limit,
                           (a & 0xf0ff) << 8);
    if (a & SEG_UNUSABLE || !(a & SEG_P)) {
        g_string_append_c(out, '\n');
        return;
    }
    g_string_append_printf(out, " DPL=%u ", (a & SEG_DPL) >> SEG_DPL_SHIFT);
    if (!(a & SEG_S)) {
        g_string_append(out, system_type(a & SEG_TYPE, cpu_long_mode(s)));
    } else if (a & SEG_CODE) {
        g_string_append_printf(out, "%s [%c%c%c",
                               cpu_long_mode(s) && a & SEG_L ? "CS64"
                               : a & SEG_DB                  ? "CS32"
                                                             : "CS16",
                               a & SEG_CONFORMING ? 'C' : '-', a & SEG_READABLE ? 'R' : '-',
                               a & SEG_ACCESSED ? 'A' : '-');
        g_string_append_c(out, ']');
    } else {
        g_string_append_printf(out, "%s [%c%c%c]",
                               cpu_long_mode(s) ? "DS  "
                               : a & SEG_DB     ? "DS32"
                                                : "DS16",
                               a & SEG_EXPAND_DOWN ? 'E' : '-', a & SEG_WRITABLE ? 'W' : '-',
                               a & SEG_ACCESSED ? 'A' : '-');
    }
    g_string_append_c(out, '\n');
}

static void dump_system(const CpuState *s, GString *out)
{
    static const char *const name[SEG_N] = {"ES ", "CS ", "SS ", "DS ", "FS ", "GS ", "LDT", "TR "};
    for (unsigned i = ES; i < SEG_N; i++)
        dump_segment(s, name[i], i, out);
    g_string_append_printf(out, "GDT=     " X64 " %08x\n", s->gdt.base, s->gdt.limit);
    g_string_append_printf(out, "IDT=     " X64 " %08x\n", s->idt.base, s->idt.limit);
    g_string_append_printf(out, "CR0=%08x CR2=" X64 " CR3=" X64 " CR4=%08x\n", (unsigned)s->cr0,
                           s->cr2, s->cr3, (unsigned)s->cr4);
    g_string_append_printf(out, "DR0=" X64 " DR1=" X64 " DR2=" X64 " DR3=" X64 "\n", s->dr[0],
                           s->dr[1], s->dr[2], s->dr[3]);
    g_string_append_printf(out, "DR6=" X64 " DR7=" X64 "\nEFER=" X64 "\n", s->dr6, s->dr7, s->efer);
}

static void dump_fpu(const CpuState *s, GString *out)
{
    const FpuState *f = &s->fpu;
    g_string_append_printf(out, "FCW=%04x FSW=%04x [ST=%u] FTW=%02x MXCSR=%08x\n", f->fcw, f->fsw,
                           f->fsw >> FPU_TOP_SHIFT & 7, f->ftw, f->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        g_string_append_printf(out, "FPR%u=" X64 " %04x%c", i, f->r[i].mant, f->r[i].se,
                               i % 2 ? '\n' : ' ');
    bool wide = s->xcr0 & 4, zmm = (s->xcr0 & 0xc0) == 0xc0;
    unsigned n = !cpu_code64(s) ? 8 : zmm ? 32 : 16;
    for (unsigned i = 0; (s->xcr0 & 0x20) && i < 8; i++)
        g_string_append_printf(out, "Opmask%02u=" X64 "%c", i, f->k[i], i % 4 == 3 ? '\n' : ' ');
    for (unsigned i = 0; i < n; i++) {
        const VecReg *v = &f->v[i];
        if (zmm)
            g_string_append_printf(out, "ZMM%02u=" X64 X64 X64 X64 X64 X64 X64 X64 "\n", i, v->q[7],
                                   v->q[6], v->q[5], v->q[4], v->q[3], v->q[2], v->q[1], v->q[0]);
        else if (wide)
            g_string_append_printf(out, "YMM%02u=" X64 X64 X64 X64 "\n", i, v->q[3], v->q[2],
                                   v->q[1], v->q[0]);
        else
            g_string_append_printf(out, "XMM%02u=" X64 X64 "%c", i, v->q[1], v->q[0],
                                   i % 2 ? '\n' : ' ');
    }
}

void vmstate_dump(const CpuState *s, GString *out)
{
    dump_gprs(s, out);
    dump_flags(s, out);
    dump_system(s, out);
    dump_fpu(s, out);
}
