/* What a case is before anything is drawn, and what makes one valid. */
#include <string.h>

#include "base/log.h"
#include "diff/engines.h"
#include "vmstate/checks.h"

const char *const case_mode_name[CM_N] = {
    [CM_LONG] = "long",     [CM_COMPAT32] = "compat32", [CM_COMPAT16] = "compat16",
    [CM_PROT32] = "prot32", [CM_PROT16] = "prot16",     [CM_VM86] = "vm86",
    [CM_REAL] = "real",
};

enum { /* attributes of present, accessed code (readable) and data (writable) of privilege 0 */
       CODE = SEG_S | SEG_P | SEG_CODE | SEG_READABLE | SEG_ACCESSED,
       DATA = SEG_S | SEG_P | SEG_WRITABLE | SEG_ACCESSED,
};

static Segment segment(uint16_t selector, uint64_t base, uint32_t limit, uint32_t attr,
                       unsigned dpl)
{
    return (Segment){.selector = selector,
                     .base = base,
                     .limit = limit,
                     .attr = attr | dpl << SEG_DPL_SHIFT | (limit >> 20 ? SEG_G : 0)};
}

static void flat_segments(CpuState *s, unsigned cpl, uint16_t code, uint32_t size_bit)
{
    uint16_t data = cpl ? 0x2b : 0x18;
    s->seg[CS] = segment(code, 0, 0xffffffff, CODE | size_bit, cpl);
    s->seg[SS] = s->seg[DS] = s->seg[ES] = segment(data, 0, 0xffffffff, DATA | SEG_DB, cpl);
    s->seg[FS] = s->seg[GS] = (Segment){.attr = SEG_UNUSABLE};
    s->rip = CASE_CODE;
    s->gpr[RSP] = CASE_STACK + CASE_STACK_BYTES / 2;
}

/* sel: of code, data, stack. */
static void small_segments(CpuState *s, unsigned dpl, const uint16_t sel[3], bool real)
{
    s->seg[CS] = segment(sel[0], CASE_CODE, 0xffff, dpl && real ? DATA : CODE, dpl);
    s->seg[DS] = s->seg[ES] = segment(sel[1], CASE_DATA, 0xffff, DATA, dpl);
    s->seg[FS] = s->seg[GS] = real ? s->seg[DS] : (Segment){.attr = SEG_UNUSABLE};
    s->seg[SS] = segment(sel[2], CASE_STACK, 0xffff, DATA, dpl);
    s->rip = 0;
    s->gpr[RSP] = CASE_STACK_BYTES / 2;
}

void case_baseline(DiffCase *c, enum CaseMode mode, unsigned cpl)
{
    static const uint16_t ldt[] = {0x07, 0x0f, 0x17}, gdt[] = {0x88, 0x90, 0x98},
                          real[] = {0x1000, 0x2000, 0x3000};
    CpuState *s = &c->in;

    memset(c, 0, sizeof(*c));
    c->mode = (uint8_t)mode;
    cpu_state_reset(s, 0, true);
    memset(s->gpr, 0, sizeof(s->gpr));
    cpl = mode == CM_VM86 ? 3 : mode == CM_REAL ? 0 : cpl;
    s->cpl = (uint8_t)cpl;
    s->rflags = FL_FIXED | (mode == CM_VM86 ? FL_VM | FL_IOPL : 0);
    s->cr0 = CR0_ET | CR0_NE | CR0_MP | CR0_AM | (mode == CM_REAL ? 0 : CR0_PE);
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->xcr0 = 7 | (cpuid_xcr0_mask(case_cpuid()) & 0xe0); /* AVX-512 where the host has it */
    s->fpu.fcw = 0x37f;
    s->fpu.fsw = 0;
    s->fpu.ftw = 0;
    s->fpu.mxcsr = 0x1f80;
    if (mode <= CM_COMPAT16) {
        s->cr0 |= CR0_PG | CR0_WP;
        s->cr4 |= CR4_PAE;
        s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
        s->cr3 = CASE_CR3;
    }
    s->seg[TR] = (Segment){.selector = 0x40, .base = CASE_TSS, .limit = 0x67, .attr = SEG_P | 11};
    s->seg[LDTR] =
        (Segment){.selector = 0x50, .base = CASE_LDT, .limit = CASE_LDT_LIMIT, .attr = SEG_P | 2};
    s->gdt = (DescTable){CASE_GDT, CASE_GDT_LIMIT};
    s->idt = (DescTable){CASE_IDT, mode == CM_REAL ? 0x3ff : 0xfff};
    s->msr.star = 0x0023001000000000;
    s->msr.lstar = CASE_SYSCALL;
    s->msr.cstar = CASE_SYSCALL + 16;
    s->msr.sysenter_eip = CASE_SYSCALL + 32;
    s->msr.sysenter_esp = CASE_EVENT_STACK;
    s->msr.sysenter_cs = 0x10;
    s->msr.fmask = FL_TF | FL_IF | FL_DF | FL_AC | FL_NT | FL_IOPL;
    switch (mode) {
    case CM_LONG:
        flat_segments(s, cpl, cpl ? 0x33 : 0x10, SEG_L);
        break;
    case CM_COMPAT32:
    case CM_PROT32:
        flat_segments(s, cpl, cpl ? 0x23 : 0x08, SEG_DB);
        break;
    case CM_COMPAT16:
    case CM_PROT16:
        small_segments(s, cpl, cpl ? ldt : gdt, false);
        break;
    case CM_VM86:
    case CM_REAL:
    case CM_N:
        small_segments(s, cpl, real, true);
        break;
    }
}

uint64_t case_linear(const CpuState *s)
{
    return cpu_code64(s) ? s->rip : (uint32_t)(s->seg[CS].base + s->rip);
}

uint64_t case_linear_rip(const DiffCase *c)
{
    return case_linear(&c->in);
}

static const char *unlike_mode(const DiffCase *c)
{
    const CpuState *s = &c->in;
    bool paged = c->mode <= CM_COMPAT16;
    const Segment *cs = &s->seg[CS];

    if (!(s->cr0 & CR0_PE) != (c->mode == CM_REAL))
        return "CR0.PE does not fit the mode";
    if (!(s->cr0 & CR0_PG) == paged)
        return "CR0.PG does not fit the mode";
    if (!(s->efer & EFER_LMA) == paged)
        return "EFER.LMA does not fit the mode";
    if (!(s->rflags & FL_VM) != (c->mode != CM_VM86))
        return "RFLAGS.VM does not fit the mode";
    if (paged && s->cr3 != CASE_CR3)
        return "CR3 is not where the page tables of a case are";
    if (paged && (!(cs->attr & SEG_L) != (c->mode != CM_LONG)))
        return "CS.L does not fit the mode";
    bool big = c->mode == CM_COMPAT32 || c->mode == CM_PROT32;
    if (!(cs->attr & SEG_DB) == big)
        return "CS.D does not fit the mode";
    if (s->cpl != 0 && s->cpl != 3)
        return "CPL is neither 0 nor 3";
    if (s->cpl != (c->mode == CM_REAL || c->mode == CM_VM86
                       ? c->mode == CM_VM86 ? 3 : 0
                       : (s->seg[SS].attr & SEG_DPL) >> SEG_DPL_SHIFT))
        return "CPL is not that of SS";
    return NULL;
}

/* As every load of x87 state leaves it: what follows from flags and masks does (SDM vol. 1, 8.1).
 */
static const char *unlike_x87(const FpuState *f)
{
    bool es = f->fsw & ~f->fcw & 0x3f;
    if ((f->fcw & ~0x1f3f) != 0x40)
        return "FCW has bits that are fixed otherwise";
    if ((f->fsw & 0x8080) != (es ? 0x8080 : 0))
        return "FSW.ES and B do not follow from its flags and the masks in FCW";
    return f->fop & ~0x7ff ? "FOP has more than 11 bits" : NULL;
}

bool case_valid(const DiffCase *c, GError **err)
{
    const char *why = NULL;
    char value[80] = "";

    if (c->mode >= CM_N)
        why = "there is no such mode";
    else if (c->stop >= STOP_N)
        why = "there is no such stop";
    else if (c->len < 1 || c->len > sizeof(c->insn))
        why = "an instruction has 1 to 15 bytes";
    else if (!(why = unlike_x87(&c->in.fpu)) && !(why = unlike_mode(c)) &&
             (case_linear_rip(c) < CASE_CODE || case_linear_rip(c) >= CASE_CODE + CASE_CODE_BYTES))
        why = "RIP is not in the code pages";
    if (!why) {
        CpuState s = c->in;
        /* In vm86 a base is not 16 times the selector, as it should be: it is meant so. */
        for (unsigned i = ES; c->mode == CM_VM86 && i <= GS; i++)
            s.seg[i].base = (uint64_t)s.seg[i].selector << 4;
        CheckInfo check;
        for (unsigned i = 0; vmentry_check_info(i, &check); i++) {
            if (vmentry_ask(i, &s, NULL, value, sizeof(value)) == VMENTRY_FINE)
                continue;
            g_set_error(err, TANDEM_ERROR, ERR_STATE,
                        "no processor can be in this state: check '%s' fails (%s)", check.name,
                        value);
            return false;
        }
    }
    if (why)
        g_set_error(err, TANDEM_ERROR, ERR_STATE, "%s", why);
    return !why;
}
