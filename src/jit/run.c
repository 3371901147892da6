/* The translator at work: entering and leaving translated code, what it calls, signals. See jit.h.
 */
#include <signal.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>
#include <asm/prctl.h>
#include "jit/trans.h"
#include "tcg/blocklog.h"
#include "tcg/vec.h"
#include "tcg/x87.h"

/* ---- called from translated code; see call_stub() for what the results mean ---- */
enum { GO_ON = 0, GO_BEHIND = 1, LEAVE = 2, RESUME = 3, GO_TO = 4 };

/* What the stub has stored of the x87 registers: into FpuState, once. */
static void x87_collect(Jit *j)
{
    j->x87_before = !j->hot->x87_was;
    if (j->x87_before)
        x87_take(&j->t->v->st.fpu, j->hot->fx);
    j->hot->x87_was = 1;
}

static void x87_load(Jit *j)
{
    static _Thread_local _Alignas(64) uint8_t area[576]; /* XSAVE, with its header */
    static const uint64_t x87_only = 1;
    x87_image(&j->t->v->st.fpu, area);
    memcpy(area + 512, &x87_only, 8);
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(1), "d"(0) : "memory");
    j->hot->x87_away = 0;
}

/* Where the stub has just stored the guest's MXCSR, the host's register holds the same. Where the
 * vector registers were away it holds what it did, whatever a handler has put into CpuState since.
 */
static void mxcsr_collect(Jit *j)
{
    if (j->t->fp_live && !j->hot->vec_was[0])
        j->t->vec->mxcsr_out = j->t->v->st.fpu.mxcsr;
}

static const Insn *enter_insn(Jit *j, const JitCode *code, unsigned k)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    Block *b = code->first;
    const Insn *i = &b->insn[k];
    t->blk_rip = jit_page(j, code) + code->first_off;
    if (code->n_parts > 1) {
        const JitPart *part = jit_part(code, k);
        b = part->b;
        i = &b->insn[k - part->first];
        t->blk_rip = jit_page(j, code) + (uint64_t)(int64_t)part->off;
    }
    t->blk = b;
    s->gpr[GPR_IP] = t->blk_rip;
    t->at = i;
    t->cc = j->hot->cc;
    x87_collect(j);
    mxcsr_collect(j);
    return i;
}

/* What may stop translated code at an instruction boundary. */
static uint32_t heeded(const CpuState *s)
{
    /* IF stays as it is until translated code is left; without it a waiting vector is no reason. */
    return s->rflags & FL_IF ? ~0u : ~(uint32_t)VREQ_INTR;
}

/* RF goes when the next instruction begins, which is now; unless code is left before it has:
 * rf_again(). */
static void drop_rf(Jit *j)
{
    CpuState *s = &j->t->v->st;
    j->rf_dropped = s->rflags & FL_RF;
    j->rf_count = j->hot->count;
    rf_done(s);
}

/* Translated code has been left by e. Only where instructions are counted is it known whether one
 * has begun: elsewhere nobody looks at RF so closely, as there are no breakpoints. */
static void rf_again(const Jit *j, enum JitExit e)
{
    const Tcg *t = j->t;
    if (unlikely(j->rf_dropped) && (e == JX_POLL || e == JX_WARM) &&
        (t->counted ? j->hot->count == j->rf_count : t->limited))
        t->v->st.rflags |= FL_RF;
}

/* s->rip is next, whatever led there: straight to its code if it has any and nothing is to be
 * looked at. */
static int go_on_at_rip(Jit *j)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    Vcpu *v = t->v;
    j->hidden = false;
    if (j->no_chain || t->one_block || t->stops || be_careful(s, t) || s->run_state != RUN_RUNNING)
        return RESUME;
    atomic_store(&v->go, 1);
    if (atomic_load(&v->request) & heeded(s))
        return RESUME;
    const uint8_t *code = jit_code_at(j, t->decode_mode, s->rip);
    if (!code && jit_jumps_revive(j, t->decode_mode, s->rip))
        code = jit_code_at(j, t->decode_mode, s->rip);
    if (!code) {
        const Block *b = next_block(s, t);
        if (!b || !b->jit || !jit_fits(b, s->rip))
            return RESUME;
        jit_jump_fill(j, t->decode_mode, s->rip, b);
        code = b->jit->entry_far;
    }
    drop_rf(j);
    j->hot->tmp = (uintptr_t)code;
    j->hot->miss_addr = s->rip;
    j->hot->cc = t->cc;
    return GO_TO;
}

/* Out of the code that has called, with i done, or to be done again. */
static int leave_at(Jit *j, const Insn *i, int64_t rest, bool done)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    s->rip = done ? insn_next_rip(s, t, i) : insn_rip(t, i);
    j->hot->count -= rest - done;
    return t->limited ? RESUME : go_on_at_rip(j);
}

/* A handler has said something other than FAULT_NONE. */
static int special(Jit *j, const Insn *i, Fault f)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    j->fault = f;
    if (t->limited)
        return LEAVE; /* where instructions are counted */
    if (leave_block(s, t, i, f, &j->exit) == NEXT_EXIT) {
        j->ends_run = true;
        j->hot->cc = t->cc;
        return RESUME;
    }
    return go_on_at_rip(j);
}

/* Instructions of i's block from i on: all of it is counted when it begins (count.c). */
static int64_t of_part(const Tcg *t, const Insn *i)
{
    return t->jit->counts ? t->blk->n - (i - t->blk->insn) : 0;
}

/* Runs i. done: what the stub is told when nothing special came of it. */
static int exec_insn(Jit *j, const JitCode *code, const Insn *i, int done)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    unsigned mode = t->decode_mode;
    int64_t rest = of_part(t, i);
    j->at = i;
    Fault f = i->exec(s, t, i);
    j->hot->cc = t->cc;
    if (unlikely(f)) {
        j->hot->count -= rest; /* i itself is leave_block()'s */
        int r = special(j, i, f);
        j->hot->cc = t->cc;
        return r;
    }
    bool other_mode = unlikely((t->decode_mode ^ mode) & ~(unsigned)DM_AC) ||
                      ((t->decode_mode ^ mode) && op_rows[i->row].map == MAP_1B);
    /* What ends a block and is no branch is for the loop to look at. */
    bool ends = (i->flags & IF_ENDS) && op_rows[i->row].emit != EMIT_BRANCH;
    bool look = t->look;
    t->look = false;
    if (unlikely(!code->block || t->inhibit || look || j->hidden || other_mode || ends))
        return leave_at(j, i, rest, true);
    return done;
}

static int jit_helper(const JitCode *code, unsigned k, Tcg *t)
{
    Jit *j = t->jit;
    const Insn *i = enter_insn(j, code, k);
    j->helpers++;
    j->row_helpers[i->row]++;
    return exec_insn(j, code, i, GO_ON);
}

/* INVLPG of the kernel's. Where the page is not on its side, what runs stays where it was, and
 * there is nothing for the loop to look at. */
static int jit_invlpg(const JitCode *code, unsigned k, Tcg *t)
{
    Jit *j = t->jit;
    gva_t lin = j->hot->miss_addr;
    if (lin >> 47 || !(code->fixed_at >> 63) || t->limited)
        return jit_helper(code, k, t);
    x87_collect(j);
    mxcsr_collect(j);
    tlb_flush_page(t, lin);
    j->hidden = false; /* what follows looks everything up anew: jit_emit_sys() */
    return GO_ON;
}

/* How the vector registers are loaded next: all of them, or what the guest may have in the first
 * sixteen. */
static void zmm_level(Jit *j, bool all)
{
    Tcg *t = j->t;
    if (all)
        t->zmm_clean = false;
    j->hot->zmm = all ? 2 : j->zmm && !t->zmm_clean;
    j->hot->vec_away[2] = !all;
}

/* The vector and x87 registers that were the guest's when the stub stored them: again. */
static void registers_again(Jit *j)
{
    Tcg *t = j->t;
    JitHot *h = j->hot;
    if (j->x87_before)
        x87_load(j);
    if (h->vec_was[0])
        return;
    zmm_level(j, !h->vec_was[2]);
    h->vec_away[0] = h->vec_was[0];
    h->vec_away[1] = h->vec_was[1];
    if (!t->fp_live || t->vec->mxcsr_out != t->v->st.fpu.mxcsr) {
        __builtin_ia32_ldmxcsr(t->v->st.fpu.mxcsr);
        t->fp_live = true;
    }
}

/* The first-level TLB has the page, for reads. */
static bool l1_reads(const Jit *j, gva_t lin)
{
    const JTlb *l = &j->hot->tlb[j->t->mmu_mode];
    return l->read[lin >> PAGE_BITS & (JTLB_SIZE - 1)] == 0 - (lin & PAGE_MASK);
}

static bool l1_filled(Jit *j, gva_t lin)
{
    Tcg *t = j->t;
    JTlb *l = &j->hot->tlb[t->mmu_mode];
    unsigned x = (unsigned)(lin >> PAGE_BITS) & (JTLB_SIZE - 1);
    uint64_t r = l->read[x], w = l->write[x], a = l->add[x];
    jit_tlb_fill(j, t->mmu_mode, lin);
    return l->read[x] != r || l->write[x] != w || l->add[x] != a;
}

/* A miss of a run costs some hundreds of cycles, and a run saves a few in each round: a block is
 * translated without when so many misses come less than so many TSC ticks from each other on
 * average. */
#define RUN_MISSES    200
#define RUN_TICKS_MIN 3000

/* A run has missed. */
static bool runs_miss_often(Block *b)
{
    uint64_t now = __rdtsc();
    if (!b->run_misses++)
        b->run_since = now;
    if (b->run_misses < RUN_MISSES)
        return false;
    bool often = now - b->run_since < (uint64_t)RUN_MISSES * RUN_TICKS_MIN;
    b->run_misses = 0;
    return often;
}

/* The first access of a run, at lin, has come to C because the run is not in one page. */
static bool run_crosses(const JitCode *code, unsigned k, gva_t lin)
{
    for (unsigned n = 0; n < code->n_cross; n++)
        if (code->cross[n].k == k)
            return (lin & ~PAGE_MASK) + code->cross[n].bytes > PAGE_SIZE;
    return false;
}

/* Faults and failed checks of the mirror's that an instruction may have, at a cost of some 10,000
 * cycles each, before it is translated without, if they come less than so many TSC ticks from each
 * other on average. */
#define MIRROR_MISSES 24u
#define MIRROR_TICKS  500000u

static void mirror_missed(Jit *j, const JitCode *code, Block *part, unsigned k)
{
    uint64_t now = __rdtsc();
    if (!part->mirror_misses++)
        part->mirror_since = now;
    if (part->mirror_misses < MIRROR_MISSES)
        return;
    part->mirror_misses = 0;
    if (now - part->mirror_since > (uint64_t)MIRROR_MISSES * MIRROR_TICKS)
        return;
    part->no_mirror |= BIT(k);
    if (code->block)
        jit_block_dead(j, code->first);
}

/* An access by the mirror has faulted; or (run) what it and others are off is not in its area, or
 * the mirror is not in use. */
static int jit_mirror(JitCode *code, unsigned k, bool run, Tcg *t)
{
    Jit *j = t->jit;
    gva_t lin = j->mirror_lin;
    const Insn *i = enter_insn(j, code, k);
    Block *part = code->first;
    int64_t rest = of_part(t, i);
    if (code->n_parts > 1)
        jit_insn(code, k, &part);
    unsigned n = (unsigned)(i - part->insn);
    bool kernel = code->kernel;
    bool again = kernel ? jit_kernel_on(j) : jit_mirror_out(j) && jit_mirror_on(j);
    if (run && again) {
        if (unlikely(j->hidden))
            return leave_at(j, i, rest, false);
        registers_again(j);
        return GO_ON;
    }
    *(kernel ? &j->kernel_faults : &j->mirror_faults) += 1;
    int r = exec_insn(j, code, i, GO_BEHIND);
    if (!run && kernel)
        jit_kernel_show(j, lin);
    else if (!run)
        jit_mirror_show(j, lin);
    mirror_missed(j, code, part, n);
    if (r != GO_BEHIND)
        return r;
    if (run || j->hidden)
        return leave_at(j, i, rest, true);
    registers_again(j);
    return GO_BEHIND;
}

/* The first-level TLB did not have the page. */
static int jit_access(JitCode *code, unsigned k_and_run, Tcg *t)
{
    if (k_and_run & JIT_MIRROR_FLAG)
        return jit_mirror(code, k_and_run & (JIT_RUN_FLAG - 1), k_and_run & JIT_RUN_FLAG, t);

    Jit *j = t->jit;
    gva_t lin = j->hot->miss_addr;
    bool run = k_and_run & JIT_RUN_FLAG, slot = k_and_run & JIT_SLOT_FLAG;
    const Insn *i = enter_insn(j, code, k_and_run & (JIT_RUN_FLAG - 1));
    Block *b = code->first, *part = b;
    int64_t rest = of_part(t, i);
    if (code->n_parts > 1)
        jit_insn(code, k_and_run & (JIT_RUN_FLAG - 1), &part);
    unsigned k = (unsigned)(i - part->insn);
    j->accesses++;
    if (unlikely(code->kernel && jit_kernel_out(j)))
        jit_kernel_on(j); /* what was flushed is met again */
    const JitSlot *u = slot ? (JitSlot *)((uint8_t *)j->hot->slot + j->hot->slot_at) : NULL;
    bool table = u && u->last >= JIT_RUN_SPAN;
    bool crosses = run && !table && run_crosses(code, k_and_run & (JIT_RUN_FLAG - 1), lin);
    bool filled = u && jit_slot_fill(j, part, k, t->mmu_mode, lin);
    /* What can be read there is known already, and what cannot be written. */
    bool to_code = !filled && l1_reads(j, lin) && mmu_code_written(t, lin, t->mmu_mode);
    if (!filled && !to_code && u && (lin & ~PAGE_MASK) + u->last >= PAGE_SIZE) {
        for (gva_t page = lin & PAGE_MASK; page <= lin + u->last; page += PAGE_SIZE)
            l1_filled(j, page);
        filled = jit_slot_fill(j, part, k, t->mmu_mode, lin);
    } else if (!filled && !to_code) {
        filled = l1_filled(j, lin);
        if (filled && u)
            jit_slot_fill(j, part, k, t->mmu_mode, lin);
    }
    if (filled && likely(!j->hidden)) {
        registers_again(j);
        return GO_ON;
    }
    if (filled)
        return leave_at(j, i, rest, false);
    int r = exec_insn(j, code, i, GO_BEHIND);
    if (crosses && code->block && !code->has_twin && ++code->crossed >= j->twin_after)
        jit_make_twin(j, code);
    if (r != GO_BEHIND)
        return r;
    if (!to_code)
        l1_filled(j, lin);
    if (!run && likely(!j->hidden)) {
        registers_again(j);
        return GO_BEHIND;
    }
    /* The others of the run have no address: without this block. */
    if (run && code->block && (!crosses || code->has_twin) && runs_miss_often(b)) {
        *(table ? &b->no_tables : &b->no_runs) = true;
        jit_block_dead(j, b);
    }
    return leave_at(j, i, rest, true);
}

/* At the head of a loop: a stream that instruction k is of is not in its area, or the mirror is not
 * in use. */
static int jit_mirror_stream(const JitCode *code, unsigned k, Tcg *t)
{
    Jit *j = t->jit;
    const Insn *i = enter_insn(j, code, k);
    Block *part = code->first;
    if (code->n_parts > 1)
        jit_insn(code, k, &part);
    bool again = jit_mirror_out(j) && jit_mirror_on(j);
    if (!again)
        mirror_missed(j, code, part, (unsigned)(i - part->insn));
    registers_again(j);
    return again && !j->hidden ? GO_ON : GO_BEHIND;
}

/* At the head of a loop whose last instruction is k: a stream is elsewhere than in its slot's
 * pages. Where they are not to be had, the first body goes on. */
static int jit_stream(const JitCode *code, unsigned k_and_far, Tcg *t)
{
    Jit *j = t->jit;
    gva_t lin = j->hot->miss_addr;
    j->hidden = false; /* but what is hidden now may be where a stream before this one is */
    if (k_and_far & JIT_MIRROR_FLAG)
        return jit_mirror_stream(code, k_and_far & (JIT_FAR_FLAG - 1), t);
    enter_insn(j, code, k_and_far & (JIT_FAR_FLAG - 1));
    j->accesses++;
    bool filled = jit_slot_fill(j, NULL, k_and_far >= JIT_FAR_FLAG, t->mmu_mode, lin);
    if (!filled) /* a new entry may empty another stream's slot: not again before a round is done */
        l1_filled(j, lin);
    registers_again(j);
    return filled && !j->hidden ? GO_ON : GO_BEHIND;
}

/* A vector instruction, and the registers are not the guest's. */
static int jit_vec(const JitCode *code, unsigned k, Tcg *t)
{
    Jit *j = t->jit;
    CpuState *s = &t->v->st;
    const Insn *i = enter_insn(j, code, k);
    const uint32_t masks = 0x1f80;
    bool x87 = op_rows[i->row].attr & (A_FPU | A_MMX);
    if (x87 && !(s->cr0 & (CR0_EM | CR0_TS)) && (s->fpu.fcw & 0x3f) == 0x3f &&
        !(s->fpu.fsw & FSW_ES) && !t->ferr) {
        registers_again(j);
        x87_load(j);
        return GO_ON;
    }
    bool sse =
        !(s->cr0 & (CR0_EM | CR0_TS)) && (s->cr4 & CR4_OSFXSR) && (s->fpu.mxcsr & masks) == masks;
    bool avx = sse && j->ymm && (s->cr4 & CR4_OSXSAVE) && (s->xcr0 & 6) == 6;
    bool wide = avx && j->zmm && (s->xcr0 & 0xe6) == 0xe6;
    uint32_t attr = op_rows[i->row].attr;
    if (!x87 && (attr & A_AVX512 ? wide : attr & A_AVX ? avx : sse)) {
        if (j->x87_before)
            x87_load(j);
        zmm_level(j, attr & A_AVX512);
        j->hot->vec_away[0] = 0;
        j->hot->vec_away[1] = !avx;
        __builtin_ia32_ldmxcsr(s->fpu.mxcsr);
        t->fp_live = true;
        return GO_ON;
    }
    /* Faults, or an exception that the guest does not mask: one at a time. */
    int64_t rest = of_part(t, i);
    int r = exec_insn(j, code, i, GO_BEHIND);
    if (r != GO_BEHIND)
        return r;
    s->rip = insn_next_rip(s, t, i);
    j->hot->count -= rest - 1;
    return RESUME;
}

/* ---- host faults in translated code ---- */
static _Thread_local Jit *current;
static struct sigaction previous[NSIG];

static const JitSite *site_at(const Jit *j, const uint8_t *pc, const JitCode **code)
{
    unsigned lo = 0, hi = j->map_n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (j->map[mid]->start + j->map[mid]->size <= pc)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == j->map_n || pc < j->map[lo]->start)
        return NULL;
    *code = j->map[lo];
    for (unsigned k = 0; k < (*code)->n_sites; k++)
        if ((*code)->start + (*code)->sites[k].at == pc)
            return &(*code)->sites[k];
    return NULL;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    const JitCode *code;
    const JitSite *site = current ? site_at(current, pc, &code) : NULL;
    if (site) { /* the instruction's exec function finds the same, and raises it in the guest */
        current->mirror_lin = jit_kernel_lin(current, info->si_addr);
        if (!current->mirror_lin)
            current->mirror_lin = jit_mirror_lin(info->si_addr);
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(code->start + site->cold);
        return;
    }
    sigaction(sig, &previous[sig], NULL); /* it comes again, and is not ours then */
    if (info->si_code <= 0)               /* somebody has sent it */
        raise(sig);
}

static void install(void)
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++)
        sigaction(sigs[k], &sa, &previous[sigs[k]]);
}

void jit_run_init(Jit *j)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        install();
        g_once_init_leave(&once, 1);
    }
    j->hot->fn_helper = (void *)(uintptr_t)jit_helper;
    j->hot->fn_access = (void *)(uintptr_t)jit_access;
    j->hot->fn_stream = (void *)(uintptr_t)jit_stream;
    j->hot->fn_vec = (void *)(uintptr_t)jit_vec;
    j->hot->fn_invlpg = (void *)(uintptr_t)jit_invlpg;
    j->x87 = j->ymm;                        /* AVX comes with XSAVE */
    j->wrgsbase = getauxval(AT_HWCAP2) & 2; /* HWCAP2_FSGSBASE */
}

static void set_gs(const Jit *j)
{
    uint64_t base = (uintptr_t)&j->t->v->st;
    if (j->wrgsbase)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

enum JitExit jit_run(Jit *j, Block *b)
{
    Tcg *t = j->t;
    CpuState *s = &t->v->st;
    JitHot *h = j->hot;
    drop_rf(j);
    h->ip_page = s->rip - (b->gpa & ~PAGE_MASK);
    h->cc = t->cc;
    set_gs(j);
    j->hidden = false;
    current = j;
    enum JitExit e = (enum JitExit)j->enter(b->jit->entry);
    current = NULL;
    t->cc = h->cc;
    x87_collect(j);
    if (e != JX_HELPER && e != JX_RESUME) /* those are C's */
        mxcsr_collect(j);
    rf_again(j, e);
    j->exits[e]++;
    return e;
}

/* ---- the loop ---- */

/* One block by the interpreter. */
static Fault interpret(CpuState *s, Tcg *t, const Block *b)
{
    rf_done(s);
    t->blk = b;
    t->blk_rip = s->gpr[GPR_IP] = s->rip;
    t->at = b->insn;
    Fault f = b->insn->go(s, t, b->insn);
    if (f == FAULT_NONE)
        s->rip = insn_next_rip(s, t, t->at);
    return f;
}

/* The same of the kernel's, whose code is made next: where its accesses are. */
static Fault interpret_noting(CpuState *s, Tcg *t, Block *b)
{
    rf_done(s);
    t->blk = b;
    t->blk_rip = s->gpr[GPR_IP] = s->rip;
    for (unsigned k = 0; k < b->n; k++) {
        const Insn *i = t->at = &b->insn[k];
        unsigned emit = op_rows[i->row].emit;
        bool stack = (emit == EMIT_PUSH && !(i->flags & IF_MEM)) || emit == EMIT_PUSHF ||
                     emit == EMIT_POP || emit == EMIT_LEAVE || emit == EMIT_BRANCH;
        if (stack)
            jit_kernel_note(t->jit, b, k, s->gpr[RSP]);
        else if ((i->flags & IF_MEM) && emit != EMIT_LEA && emit != EMIT_NOP)
            jit_kernel_note(t->jit, b, k, ea_offset(s, i) + (i->seg == GS ? s->seg[GS].base : 0));
        Fault f = i->exec(s, t, i);
        if (f)
            return f;
    }
    s->rip = insn_next_rip(s, t, t->at);
    return FAULT_NONE;
}

#define JIT_SOON 3u  /* at most, of the kernel's code once there are programs */
#define JIT_CALM 16u /* so many times more, of an idle kernel's until there are some again */

/* Runs of b in the interpreter before it is translated. What a kernel does before it has programs
 * it does once, mostly; and what it does while it idles takes next to no time either way, and code
 * takes memory. */
static uint32_t runs_wanted(const Jit *j, const Block *b)
{
    uint32_t wanted = j->hot_after;
    if (!(b->mode & DM_CPL3))
        wanted = j->programs ? MIN_OF(wanted, JIT_SOON) : j->calm ? wanted * JIT_CALM : wanted;
    return wanted * b->patience;
}

/* Is b to be translated before this run? Not before one run was to_note(). */
static bool is_due(Jit *j, Block *b)
{
    uint32_t wanted = runs_wanted(j, b);
    j->programs |= b->mode & DM_CPL3;
    return (++b->runs > wanted && (b->noted || !wanted)) || b->soft;
}

/* Is b the kernel's, and its code, or that of a trace it is in, made soon? */
static bool to_note(Jit *j, Block *b, bool record)
{
    uint32_t wanted = runs_wanted(j, b);
    bool due = !b->jit && !b->no_jit && (b->runs == wanted || (b->runs > wanted && !b->noted));
    b->noted |= due;
    return (due || record) && (b->mode & (DM_CODE64 | DM_CPL3)) == DM_CODE64 && jit_kernel_claim(j);
}

/* Instructions of b done when it was left by e, run alone; those a handler left at are
 * leave_block()'s. */
static uint64_t count_of(const Tcg *t, const Block *b, enum JitExit e)
{
    switch (e) {
    case JX_HELPER:
        return (uint64_t)(t->jit->at - b->insn);
    case JX_RESUME:
        return (uint64_t)(t->jit->at - b->insn) + 1;
    case JX_POLL:
    case JX_WARM:
        return 0;
    default:
        return b->n;
    }
}

Next jit_run_blocks(CpuState *s, Tcg *t, Block *b, Exit *x)
{
    Jit *j = t->jit;
    Vcpu *v = t->v;
    for (;;) {
        uint32_t heed = heeded(s);
        if (unlikely(b->soft && t->limited))
            return NEXT_BLOCK; /* find() makes another */
        if (unlikely(t->limited && t->insns_left < b->n))
            return t->insns_left ? run_some(s, t, b, x) : NEXT_BLOCK;
        if (unlikely(b->jit && !jit_fits(b, s->rip)))
            blocks_make_float(t, b);
        if (unlikely(b->jit && b->jit->n_parts > 1 && j->no_chain))
            jit_block_dead(j, b);
        if (!b->jit && !b->no_jit && is_due(j, b))
            b->no_jit = !jit_translate(j, b);
        if (unlikely(b->soft && !b->jit)) {
            blocks_harden(t, b);
            return NEXT_BLOCK; /* find() makes another */
        }
        if (unlikely(t->log_blocks))
            blocklog_enter(s, t, b);
        BlockLink *to = NULL; /* of b, which the interpreter has run */
        bool record =
            unlikely(j->recording != NULL) && (t->counted || !t->limited) && jit_trace_record(j, b);
        Fault f;
        if (b->jit && !record) {
            jit_jump_fill(j, t->decode_mode, s->rip, b);
            if (j->pending && j->pending_rip == s->rip && j->pending_gen == t->map_gen &&
                !j->no_chain)
                jit_link(j, j->pending, b);
            j->pending = NULL;
            atomic_store(&v->go, 1);
            if (atomic_load(&v->request) & heed)
                return NEXT_BLOCK;
            int64_t count = t->counted ? (int64_t)(t->insns_until - t->insns_left) : INT64_MIN;
            j->hot->count = count;
            enum JitExit e = jit_run(j, b);
            if (t->counted) {
                t->insns_left -= (uint64_t)(j->hot->count - count);
                j->counted += (uint64_t)(j->hot->count - count);
            }
            if (t->limited)
                t->insns_left -= count_of(t, b, e);
            if (e == JX_RESUME && j->ends_run) {
                j->ends_run = false;
                *x = j->exit;
                return NEXT_EXIT;
            }
            if (e == JX_POLL || e == JX_RESUME)
                return NEXT_BLOCK;
            f = FAULT_JUMP;
            if (e == JX_HELPER) {
                f = j->fault;
                if (f != FAULT_JUMP || op_rows[j->at->row].emit != EMIT_BRANCH)
                    return leave_block(s, t, j->at, f, x);
                t->insns_left -= t->limited;
            } else if (e == JX_LOOP) {
                jit_loop_judge(j, (JitCode *)(uintptr_t)j->hot->tmp);
            } else if (e == JX_WARM) {
                jit_trace_warm(j, (JitCode *)(uintptr_t)j->hot->tmp);
            } else if (e == JX_LINK) {
                j->pending = (JitLink *)(uintptr_t)j->hot->tmp;
                j->pending_rip = s->rip;
                j->pending_gen = t->map_gen;
            }
        } else {
            j->pending = NULL;
            f = unlikely(to_note(j, b, record)) ? interpret_noting(s, t, b) : interpret(s, t, b);
            if (f != FAULT_JUMP && f != FAULT_NONE) {
                t->insns_left -= (uint64_t)(t->at - b->insn);
                return leave_block(s, t, t->at, f, x);
            }
            t->insns_left -= b->n;
            if (!b->plain)
                return NEXT_BLOCK;
            to = &b->to[f == FAULT_JUMP];
        }
        if (unlikely(t->one_block || t->each_block || t->insns_left <= t->insns_until ||
                     (atomic_load_explicit(&v->request, memory_order_relaxed) & heed))) {
            j->pending = NULL;
            return NEXT_BLOCK;
        }
        if (to && to->rip == s->rip && still_good(t, to->gen) && to->block->gen) {
            b = to->block;
            continue;
        }
        b = next_block(s, t);
        if (!b && !t->stops)
            b = jit_block_revived(j, t->decode_mode, s->rip);
        if (!b)
            return NEXT_BLOCK; /* the loop finds it, and may come back here with `pending` */
        /* With another CS base the same RIP would be another place. */
        if (to && (t->decode_mode & (DM_CODE64 | DM_FLAT)))
            *to = (BlockLink){.rip = s->rip, .block = b, .gen = t->map_gen};
    }
}
