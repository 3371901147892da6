/* Random valid states: what KVM and software must both be able to hold. For tests. */
#include "vmstate/state.h"

#include <string.h>
#include "cpu/xsave.h"

/* splitmix64: any seed is good, and there is no state to share between threads. */
static uint64_t next(uint64_t *r)
{
    uint64_t z = *r += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static bool coin(uint64_t *r)
{
    return next(r) >> 63;
}

static uint64_t address(uint64_t *r)
{
    return (uint64_t)((int64_t)(next(r) << 16) >> 16);
}

enum Mode { REAL, VM86, PROT16, PROT32, PAGED32, PAE32, COMPAT, LONG64, MODES };

static Segment random_segment(uint64_t *r, uint32_t type, unsigned dpl, bool big)
{
    bool g = coin(r);
    uint32_t limit = (uint32_t)next(r) & 0xfffff;
    g &= limit > 0xff; /* in bytes above 1 MiB: rule seg-attr */
    return (Segment){.base = (uint32_t)next(r),
                     .limit = g ? limit << 12 | 0xfff : limit,
                     .attr = type | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | (g ? SEG_G : 0) |
                             (big ? SEG_DB : 0) | (coin(r) ? SEG_AVL : 0),
                     .selector = (uint16_t)(next(r) & ~3ull) | (uint16_t)dpl};
}

static Segment unusable(uint64_t *r, uint32_t dpl)
{
    return (Segment){.attr = SEG_UNUSABLE | dpl << SEG_DPL_SHIFT,
                     .selector = (uint16_t)(next(r) & 3)};
}

static void random_segments(CpuState *s, enum Mode m, uint64_t *r)
{
    static const uint32_t data_type[] = {1, 3, 5, 7, 11, 15};
    bool protected = m != REAL && m != VM86;
    unsigned cpl = m == VM86 ? 3 : protected ? next(r) & 3 : 0;

    for (unsigned i = ES; i <= GS; i++) {
        Segment *g = &s->seg[i];
        if (m == REAL || m == VM86) {
            g->selector = (uint16_t)next(r);
            g->base = (uint64_t)g->selector << 4;
            g->limit = 0xffff;
            g->attr = m == VM86 ? 0xf3 : 0x93;
        } else if (i == CS) {
            bool conforming = cpl && coin(r);
            *g = random_segment(r, conforming ? 15 : 11, conforming ? cpl - 1 : cpl,
                                m == PROT16 ? 0 : m != LONG64);
            g->attr |= m == LONG64 ? SEG_L : 0;
            g->base = m == LONG64 ? 0 : g->base;
        } else if (i == SS) {
            bool null = m == LONG64 && cpl < 3 && coin(r);
            *g = null ? unusable(r, cpl) : random_segment(r, coin(r) ? 3 : 7, cpl, m != PROT16);
        } else {
            *g = next(r) % 4
                     ? random_segment(r, data_type[next(r) % ARRAY_LEN(data_type)], cpl, coin(r))
                     : unusable(r, 0);
            if (m == LONG64 && i >= FS)
                g->base = address(r);
        }
    }
    bool lma = m >= COMPAT;
    s->cpl = (uint8_t)cpl;
    s->seg[TR] = (Segment){.base = lma ? address(r) : (uint32_t)next(r),
                           .limit = 0x67 + ((uint32_t)next(r) & 0xfff),
                           .attr = SEG_P | (lma || coin(r) ? 11 : 3),
                           .selector = (uint16_t)(next(r) & 0xfff8)};
    s->seg[LDTR] = coin(r) ? unusable(r, 0)
                           : (Segment){.base = lma ? address(r) : (uint32_t)next(r),
                                       .limit = (uint32_t)next(r) & 0xffff,
                                       .attr = SEG_P | 2,
                                       .selector = (uint16_t)(next(r) & 0xfff8)};
}

static void random_control(CpuState *s, enum Mode m, uint64_t *r)
{
    uint64_t cr4 = next(r) & (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_MCE | CR4_PGE |
                              CR4_OSFXSR | CR4_OSXMMEXCPT);
    s->cr0 = CR0_ET | (next(r) & (CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM)) |
             (m != REAL ? CR0_PE : 0) | (m >= PAGED32 ? CR0_PG : 0);
    s->cr4 = cr4 | (m >= PAE32 ? CR4_PAE : 0);
    s->cr2 = m >= COMPAT ? next(r) : (uint32_t)next(r);
    s->cr3 = next(r) & 0x0ffff000;
    s->cr8 = next(r) & 15;
    s->efer = (coin(r) ? EFER_SCE : 0) | (coin(r) ? EFER_NXE : 0) |
              (m >= COMPAT ? EFER_LME | EFER_LMA : 0);
    s->xcr0 = coin(r) ? 3 : 1;
    if (m == PAE32) {
        for (unsigned i = 0; i < 4; i++)
            s->pdpte[i] = (next(r) & 0x0ffff000) | (coin(r) ? 1 : 0);
    }
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = m >= COMPAT ? address(r) : (uint32_t)next(r);
    s->dr6 = DR6_FIXED1 | (next(r) & 0xe00f);
    s->dr7 =
        DR7_FIXED1 | (next(r) & 0xff); /* conditions "execute": any length field but 0 is invalid */
    s->gdt = (DescTable){m >= COMPAT ? address(r) : (uint32_t)next(r), (uint16_t)next(r)};
    s->idt = (DescTable){m >= COMPAT ? address(r) : (uint32_t)next(r), (uint16_t)next(r)};
}

static void random_msrs(Msrs *m, uint64_t *r)
{
    m->sysenter_cs = next(r) & 0xffff;
    m->sysenter_esp = address(r);
    m->sysenter_eip = address(r);
    m->star = next(r);
    m->lstar = address(r);
    m->cstar = address(r);
    m->fmask = (uint32_t)next(r);
    m->kernel_gs_base = address(r);
    m->tsc_aux = (uint32_t)next(r);
    for (unsigned i = 0; i < 8; i++) {
        static const uint8_t types[] = {0, 1, 4, 5, 6, 7};
        m->pat |= (uint64_t)types[next(r) % sizeof(types)] << (8 * i);
    }
    m->apic_base = 0xfee00900;
    m->misc_enable = 1;
    m->kvm_poll_control = 1;
    m->smbase = 0x30000;
    m->mtrr_def_type = coin(r) ? 0xc06 : 0;
    for (unsigned i = 0; i < MTRR_FIXED_N; i++)
        m->mtrr_fixed[i] = coin(r) ? 0x0606060606060606ull : 0x0000010405060100ull;
    for (unsigned i = 0; i < MTRR_VAR_N; i++) {
        m->mtrr_base[i] = (next(r) & 0x0ffff000) | 6;
        m->mtrr_mask[i] = (next(r) & 0x0ffff000) | (coin(r) ? 0x800 : 0);
    }
}

static void random_fpu(FpuState *f, uint64_t *r)
{
    f->fcw = (uint16_t)((next(r) & 0xf3f) | 0x40);
    f->fsw = (uint16_t)(next(r) & 0x7f7f);
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = (uint8_t)next(r);
    f->fop = next(r) & 0x7ff;
    f->fip = address(r);
    f->fdp = address(r);
    for (unsigned i = 0; i < 8; i++) {
        f->r[i].mant = next(r);
        f->r[i].se = (uint16_t)next(r);
    }
    for (unsigned i = 0; i < 16; i++)
        f->v[i].q[0] = next(r), f->v[i].q[1] = next(r);
    f->mxcsr = next(r) & 0xffbf;
    f->mxcsr_mask = 0xffff;
    f->xstate_bv = fpu_xinuse(f);
}

static void random_events(CpuState *s, enum Mode m, uint64_t *r)
{
    Events *e = &s->ev;
    switch (next(r) % 8) {
    case 0:
        e->interrupt.injected = true;
        e->interrupt.nr = (uint8_t)(16 + next(r) % 240);
        s->rflags |= FL_IF;
        break;
    case 1:
        e->exception.pending = true;
        e->exception.nr = VEC_GP;
        e->exception.has_error = m != REAL;
        e->exception.error = m != REAL ? (uint16_t)next(r) : 0;
        break;
    case 2:
        e->exception.pending = true;
        e->exception.nr = VEC_UD;
        break;
    case 3:
        e->nmi.pending = true;
        e->nmi.masked = coin(r);
        break;
    case 4:
        e->shadow_sti = s->rflags & FL_IF;
        break;
    case 5:
        e->shadow_mov_ss = true;
        break;
    default:
        if (!s->cpl && coin(r))
            s->run_state = RUN_HALTED;
        break;
    }
}

void vmstate_randomise(CpuState *s, uint64_t seed)
{
    uint64_t r = seed;
    enum Mode m = next(&r) % MODES;

    memset(s, 0, sizeof(*s));
    bool wide = m >= COMPAT;
    for (unsigned i = 0; i < GPR_N; i++)
        s->gpr[i] = wide ? next(&r) : (uint32_t)next(&r);
    s->rip = m == LONG64 ? address(&r) : (uint32_t)next(&r);
    s->rflags = FL_FIXED |
                (next(&r) & (FL_ARITH | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_ID | FL_RF)) |
                (m == VM86 ? FL_VM : 0);
    random_control(s, m, &r);
    random_segments(s, m, &r);
    random_msrs(&s->msr, &r);
    random_fpu(&s->fpu, &r);
    random_events(s, m, &r);
    s->tsc_offset = next(&r) >> 20;
}
