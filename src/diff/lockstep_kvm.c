/*
 * How a KVM side steps, beside a software engine that has gone first.
 *
 * KVM_GUESTDBG_SINGLESTEP sets RFLAGS.TF in the guest, and that is not enough alone: an event on
 * the way (a fault, INT n, SYSCALL) clears TF and the guest runs away. But where the instruction
 * must end up is known, so a HLT is put there, in KVM's copy of memory, for the time of the step:
 * KVM leaves at it, RIP is moved back over it, and the byte is as it was. The same HLT stops an
 * interrupt at its handler's first instruction, and a REP behind itself. TF shows in what the
 * guest pushes meanwhile; that is a known difference and is mended.
 *
 * What this KVM cannot execute (EXIT_INTERNAL_ERROR) is not judged: it takes over the other's
 * state and stores, and is counted.
 */
#include "diff/lockstep.h"

#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "kvm/kvm.h"
#include "tcg/insn.h"
#include "tcg/tcg.h"
#include "vmstate/rules.h"
#include "vmstate/state.h"

static gva_t code_linear(const CpuState *s)
{
    return cpu_code64(s) ? s->rip : (uint32_t)(s->seg[CS].base + s->rip);
}

/* ---- the instruction ---- */

static unsigned decode_mode(const CpuState *s)
{
    unsigned m = 0;
    if (cpu_code64(s))
        m |= DM_CODE64;
    else if (s->seg[CS].attr & SEG_DB)
        m |= DM_CS32;
    if (s->seg[SS].attr & SEG_DB)
        m |= DM_SS32;
    if ((s->cr0 & CR0_PE) && !(s->rflags & FL_VM))
        m |= DM_PROT;
    if (s->cpl == 3)
        m |= DM_CPL3;
    return m;
}

static void classify(LsInsn *o, const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    o->row = i->row;
    o->undef = r->fl_undef;
    o->written = r->fl_written;
    o->rep = (r->attr & A_REP) && (i->flags & (IF_REP | IF_REPNE));
    if (r->map == MAP_1B) {
        bool software =
            r->opcode == 0xcc || r->opcode == 0xcd || r->opcode == 0xce || r->opcode == 0xf1;
        o->pushes = r->opcode == 0x9c || software;
        o->diverts = software;
    } else if (r->map == MAP_0F) { /* SYSCALL, SYSRET, SYSENTER, SYSEXIT */
        o->pushes = r->opcode == 0x05;
        o->diverts =
            r->opcode == 0x05 || r->opcode == 0x07 || r->opcode == 0x34 || r->opcode == 0x35;
    }
}

void ls_fetch(const LsSide *side, const CpuState *s, LsInsn *o)
{
    uint8_t features[FEAT_N];
    gva_t lin = code_linear(s);
    Insn insn = {.len = 0};
    unsigned n = 0;
    *o = (LsInsn){.len = 0};
    while (n < sizeof(o->bytes)) {
        gpa_t gpa;
        unsigned here = MIN_OF((unsigned)sizeof(o->bytes) - n, 4096 - (unsigned)((lin + n) & 4095));
        if (!mmu_debug_translate(s, side->vm, lin + n, &gpa) ||
            !memmap_read(side->vm->mem, gpa, o->bytes + n, here))
            break;
        n += here;
    }
    for (unsigned f = 0; f < FEAT_N; f++)
        features[f] = cpuid_has(side->vm->cpuid, (enum CpuFeature)f);
    o->known = n && decode(&insn, o->bytes, n, decode_mode(s), features) == DECODE_OK;
    o->len = (uint8_t)(o->known ? insn.len : n);
    if (o->known)
        classify(o, &insn);
}

/* ---- the HLT ---- */

typedef struct Plant {
    gpa_t gpa;
    uint8_t *at, old;
} Plant;

enum { HLT = 0xf4 };

static bool written(const LsSide *s, gpa_t gpa)
{
    for (const WriteEntry *w = write_log_at(&s->writes, s->mark); w;
         w = write_log_next(&s->writes, w))
        if (gpa >= w->gpa && gpa < w->gpa + w->len)
            return true;
    return false;
}

/* Where side `first` is, in the other's memory. At CPL 3 a HLT would be #GP, and one that the
 * instruction itself writes over would be none. */
static void plant(Lockstep *ls, Plant *p)
{
    const LsSide *a = &ls->side[ls->first], *k = &ls->side[!ls->first];
    const CpuState *s = &a->v->st;
    p->at = NULL;
    if (s->cpl == 3 || !mmu_debug_translate(s, a->vm, code_linear(s), &p->gpa) ||
        written(a, p->gpa))
        return;
    p->at = ls_host(k, p->gpa, 1);
    if (!p->at)
        return;
    p->old = *p->at;
    *p->at = HLT;
}

/* A REP may have read the HLT and written it elsewhere. */
static void unplant(Lockstep *ls, Plant *p, bool rep)
{
    const LsSide *a = &ls->side[ls->first], *k = &ls->side[!ls->first];
    if (!p->at)
        return;
    *p->at = p->old;
    if (!rep)
        return;
    for (const WriteEntry *w = write_log_at(&a->writes, a->mark); w;
         w = write_log_next(&a->writes, w)) {
        const uint8_t *want = ls_host(a, w->gpa, w->len);
        uint8_t *have = ls_host(k, w->gpa, w->len);
        for (unsigned i = 0; want && have && i < w->len; i++)
            if (have[i] == HLT && want[i] == p->old)
                have[i] = p->old;
    }
}

/* ---- state ---- */

static bool put(Lockstep *ls, unsigned groups, GError **err)
{
    LsSide *k = &ls->side[!ls->first];
    return k->engine->import_state(k->v, groups, err);
}

static bool get(Lockstep *ls, unsigned groups, GError **err)
{
    LsSide *k = &ls->side[!ls->first];
    return k->engine->drain(k->v, err) && k->engine->export_state(k->v, groups, err);
}

bool ls_kvm_adopt(Lockstep *ls, GError **err)
{
    LsSide *a = &ls->side[ls->first], *k = &ls->side[!ls->first];
    for (const WriteEntry *w = write_log_at(&a->writes, a->mark); w;
         w = write_log_next(&a->writes, w)) {
        const uint8_t *from = ls_host(a, w->gpa, w->len);
        uint8_t *to = ls_host(k, w->gpa, w->len);
        if (from && to)
            memcpy(to, from, w->len);
    }
    RuleEnv env = {.tsc_offset_fixed = k->vm->tsc_offset_fixed};
    k->at = ls->log->len;
    k->tpr_written = false;
    CpuState st = a->v->st;
    return rules_apply(&st, RULE_TO_KVM, &env, NULL, err) && ls_put_state(ls, !ls->first, &st, err);
}

/* ---- running it there ---- */

typedef enum Came { CAME, CAME_ELSEWHERE, CANNOT, STUCK, FAILED } Came;

enum { EMULATION = 1 }; /* KVM_INTERNAL_ERROR_EMULATION */

typedef struct Run {
    Exit e;
    Plant plant;
    uint64_t start, goal; /* RIP */
    unsigned most;        /* runs that may be needed */
    bool step;
} Run;

static bool pending(const CpuState *s)
{
    return s->ev.exception.pending || s->ev.exception.injected;
}

/* Runs until RIP is the goal, or cannot be any more. k->v->st has REGS and SREGS of the end. */
static Came run_there(Lockstep *ls, Run *r, GError **err)
{
    Vcpu *v = ls->side[!ls->first].v;
    RunLimit limit = {.max_insns = r->step ? 1 : 0, .caller_events = true};
    for (unsigned n = 0; n < r->most; n++) {
        r->e = ls_run(ls, !ls->first, &limit, NULL, true);
        if (r->e.kind == EXIT_INTERNAL_ERROR && r->e.code == EMULATION)
            return CANNOT;
        if (r->e.kind == EXIT_INTERNAL_ERROR || r->e.kind == EXIT_FAIL_ENTRY) {
            ls_diverge(ls, "kvm: %s", r->e.msg);
            return get(ls, GRP_REGS | GRP_SREGS, err) ? CAME_ELSEWHERE : FAILED;
        }
        if (r->e.kind == EXIT_KICK)
            return STUCK;
        if (!get(ls, GRP_REGS | GRP_SREGS, err))
            return FAILED;
        v->st.run_state = RUN_RUNNING;
        if (r->e.kind == EXIT_SHUTDOWN)
            return CAME;
        if (r->plant.at && v->st.rip == r->goal + 1 && v->st.rip != r->start) {
            v->st.rip = r->goal;
            return put(ls, GRP_REGS, err) ? CAME : FAILED;
        }
        if (v->st.rip == r->goal && (r->goal != r->start || !r->step))
            return CAME;
        if (v->st.rip != r->start)
            return CAME_ELSEWHERE;
        /* Still there: in the middle of a REP, or with an exception that is yet to be delivered. */
        if (!get(ls, GRP_EVENTS, err))
            return FAILED;
        if (r->most == 1 || (!pending(&v->st) && r->goal == r->start))
            return CAME;
    }
    return CAME_ELSEWHERE;
}

/* ---- mending known differences ---- */

/* RFLAGS as pushed: TF of the step, RF that is not there. */
static void mend_pushed(Lockstep *ls, bool event)
{
    LsSide *a = &ls->side[ls->first], *k = &ls->side[!ls->first];
    bool tf = a->v->st.rflags & FL_TF || ls->before.rflags & FL_TF;
    for (const WriteEntry *w = write_log_at(&a->writes, a->mark); w;
         w = write_log_next(&a->writes, w)) {
        const uint8_t *want = ls_host(a, w->gpa, w->len);
        uint8_t *have = ls_host(k, w->gpa, w->len);
        if (!want || !have || w->len > 8 || w->paging || !memcmp(want, have, w->len))
            continue;
        uint64_t x = 0, y = 0;
        memcpy(&x, want, w->len);
        memcpy(&y, have, w->len);
        uint64_t d = x ^ y, may = (tf ? 0 : FL_TF) | (event ? FL_RF : 0);
        if (d & ~may)
            continue;
        if (d & FL_TF)
            ls_rule(ls, LSR_TF_PUSHED);
        if (d & FL_RF)
            ls_rule(ls, LSR_RF_PUSHED);
        memcpy(have, want, w->len);
    }
}

/* In registers; true when KVM must be told. */
static bool mend_regs(Lockstep *ls, const LsInsn *insn)
{
    const CpuState *a = &ls->side[ls->first].v->st;
    LsSide *k = &ls->side[!ls->first];
    CpuState *b = &k->v->st;
    bool changed = false;
    if (k->tsc_seen) {
        ls_rule(ls, LSR_TSC);
        b->gpr[RAX] = a->gpr[RAX];
        b->gpr[RDX] = a->gpr[RDX];
        changed = true;
    }
    uint64_t undef = (a->rflags ^ b->rflags) & insn->undef;
    if (undef) {
        ls_rule(ls, LSR_UNDEF);
        b->rflags ^= undef;
        changed = true;
    }
    if (insn->pushes && insn->diverts && (a->gpr[R11] ^ b->gpr[R11]) == FL_TF) {
        ls_rule(ls, LSR_TF_PUSHED); /* SYSCALL */
        b->gpr[R11] = a->gpr[R11];
        changed = true;
    }
    return changed;
}

static void add_group(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    *(unsigned *)opaque |= f->group;
}

/* Groups in which the first side changed in this step: those KVM is asked for. */
static unsigned changed_groups(Lockstep *ls)
{
    unsigned groups = 0;
    vmstate_diff(&ls->before, &ls->side[ls->first].v->st, GROUPS_ALL, add_group, &groups);
    return groups & ~(unsigned)GRP_MP_STATE;
}

enum { ALL_GROUPS_EVERY = 256 };

static enum LsResult compare(Lockstep *ls, const LsInsn *insn, bool event, GError **err)
{
    LsSide *k = &ls->side[!ls->first];
    unsigned groups = changed_groups(ls), have = GRP_REGS | GRP_SREGS;
    if (ls->steps % ALL_GROUPS_EVERY == 0)
        groups = GROUPS_ALL & ~(unsigned)GRP_MP_STATE;
    if ((groups & ~have) && !get(ls, groups & ~have, err))
        return LS_ERROR;
    if (event || insn->pushes)
        mend_pushed(ls, event || insn->diverts);
    if (mend_regs(ls, insn) && !put(ls, GRP_REGS, err))
        return LS_ERROR;
    const CpuState *a = &ls->side[ls->first].v->st;
    if (groups & GRP_MSRS && k->v->st.tsc_offset != a->tsc_offset) {
        ls_rule(ls, LSR_TSC);
        k->v->st.tsc_offset = a->tsc_offset;
        k->v->st.msr.tsc_adjust = a->msr.tsc_adjust;
        if (!put(ls, GRP_MSRS, err))
            return LS_ERROR;
    }
    ls_compare(ls, groups | have);
    return ls->diverged ? LS_DIVERGED : LS_OK;
}

/* ---- the step ---- */

static enum LsResult failed(Lockstep *ls, GError *err)
{
    g_snprintf(ls->why, sizeof(ls->why), "kvm: %s", err ? err->message : "unknown reason");
    g_clear_error(&err);
    return LS_ERROR;
}

static bool inject(Lockstep *ls, enum LsStepKind kind, uint8_t vector, GError **err)
{
    Vcpu *v = ls->side[!ls->first].v;
    if (!get(ls, GRP_EVENTS, err))
        return false;
    if (kind == LSS_NMI) {
        v->st.ev.nmi.injected = true;
    } else {
        v->st.ev.interrupt.injected = true;
        v->st.ev.interrupt.soft = false;
        v->st.ev.interrupt.nr = vector;
    }
    return put(ls, GRP_EVENTS, err);
}

enum LsResult ls_kvm_follow(Lockstep *ls, enum LsStepKind kind, uint8_t vector, const LsInsn *insn,
                            const Exit *first, uint64_t iterations)
{
    const LsSide *a = &ls->side[ls->first];
    bool event = kind != LSS_RUN || first->delivered;
    bool long_rep = iterations > 1 && !event && a->v->st.cpl != 3;
    Run r = {.start = ls->before.rip,
             .goal = a->v->st.rip,
             .step = kind == LSS_RUN && !(long_rep && ls->kvm_native),
             .most = event       ? 3
                     : insn->rep ? (unsigned)MIN_OF(iterations + 3, 1u << 30)
                                 : 1};
    GError *err = NULL;
    if (kind != LSS_RUN && !inject(ls, kind, vector, &err))
        return failed(ls, err);
    if (event || insn->diverts || !r.step)
        plant(ls, &r.plant);
    if (!r.plant.at)
        r.step = kind == LSS_RUN;
    Came came = kind != LSS_RUN && !r.plant.at ? CANNOT : run_there(ls, &r, &err);
    unplant(ls, &r.plant, insn->rep);
    switch (came) {
    case FAILED:
        return failed(ls, err);
    case STUCK:
        atomic_store(&ls->give_up, false);
        vcpu_request_clear(ls->side[FOLLOWER].v, VREQ_WORK);
        ls_diverge(ls, "kvm did not come back from the instruction");
        if (!get(ls, GRP_REGS | GRP_SREGS, &err))
            return failed(ls, err);
        break;
    case CANNOT:
        if (!ls->alone++)
            g_strlcpy(ls->alone_first, *r.e.msg ? r.e.msg : "an event at CPL 3",
                      sizeof(ls->alone_first));
        if (!ls_kvm_adopt(ls, &err))
            return failed(ls, err);
        return first->kind == EXIT_HLT        ? LS_HALTED
               : first->kind == EXIT_SHUTDOWN ? LS_SHUTDOWN
                                              : LS_OK;
    case CAME:
    case CAME_ELSEWHERE:
        break;
    }
    if ((r.e.kind == EXIT_SHUTDOWN) != (first->kind == EXIT_SHUTDOWN))
        ls_diverge(ls, "%s shut down and the other did not",
                   r.e.kind == EXIT_SHUTDOWN ? "kvm" : a->engine->name);
    ls_bus_end(ls, !ls->first);
    if (first->kind == EXIT_SHUTDOWN && !ls->diverged)
        return LS_SHUTDOWN; /* what a triple fault leaves is nobody's state */
    enum LsResult result = compare(ls, insn, event, &err);
    if (result == LS_ERROR)
        return failed(ls, err);
    if (result != LS_OK)
        return result;
    ls->side[!ls->first].v->st.run_state = a->v->st.run_state;
    return first->kind == EXIT_HLT ? LS_HALTED : first->kind == EXIT_SHUTDOWN ? LS_SHUTDOWN : LS_OK;
}
