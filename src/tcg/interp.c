/*
 * The interpreter: engine_interp.
 *
 * run() goes from block to block. Everything that is not running a block - requests, interrupts,
 * traps, breakpoints - happens between two blocks; when something of that kind must be exact to the
 * instruction (TF, RF, breakpoints, an interrupt shadow), blocks are run one instruction at a time.
 *
 * While it runs, arithmetic flags are in t->cc and RIP is known at block ends only; both are put
 * back into CpuState on the way out.
 */
#include <sys/mman.h>
#include "base/log.h"
#include "cpu/pv.h"
#include "tcg/blocklog.h"
#include "tcg/idle.h"
#include "tcg/sys.h"
#include "tcg/translator.h"

/* ---- a handler's outcome ---- */

static gva_t code_lin(const CpuState *s, const Tcg *t)
{
    return t->code64 ? s->rip : (uint32_t)(s->seg[CS].base + s->rip);
}

static void exit_error(CpuState *s, Tcg *t, Exit *x)
{
    *x = (Exit){.kind = EXIT_INTERNAL_ERROR};
    g_strlcpy(x->msg, t->unsupported, sizeof(x->msg));
    const Block *b = t->blk;
    uint64_t at = s->rip - t->blk_rip;
    if (b && at < b->size) {
        x->insn_len = (uint8_t)MIN_OF(15ull, b->size - at);
        memcpy(x->insn, b->bytes + at, x->insn_len);
    }
}

static Next shutdown(CpuState *s, Exit *x)
{
    s->ev.triple_fault = true;
    *x = (Exit){.kind = EXIT_SHUTDOWN};
    return NEXT_EXIT;
}

static __attribute__((noinline, cold)) Next exit_with_exc(CpuState *s, const PendingExc *e,
                                                          enum ExitKind kind, Exit *x)
{
    *x = (Exit){.kind = kind,
                .exc = {.vector = e->vector,
                        .has_error = e->has_error && !mode_real(s),
                        .soft = e->soft,
                        .error = e->error,
                        .cr2 = e->cr2,
                        .dr6 = e->dr6}};
    return NEXT_EXIT;
}

/* An event has been delivered: with RunLimit.caller_events it counts, and is the last thing. */
static Next event_done(Tcg *t, Exit *x)
{
    if (likely(!t->caller_events))
        return NEXT_BLOCK;
    t->insns_left -= t->insns_left > 0; /* a trap behind the last instruction has no room */
    *x = (Exit){.kind = EXIT_LIMIT};
    return NEXT_EXIT;
}

/* Of an exception the guest has raised just now. */
static Next deliver(CpuState *s, Tcg *t, Exit *x)
{
    if (unlikely(t->stop_exc))
        return exit_with_exc(s, &t->exc, EXIT_EXCEPTION, x);
    PendingExc exc = t->exc;
    if (!deliver_exception(s, t) || s->ev.triple_fault)
        return shutdown(s, x);
    Next next = event_done(t, x);
    if (unlikely(t->caller_events)) {
        exit_with_exc(s, &exc, EXIT_LIMIT, x);
        x->delivered = true;
    }
    return next;
}

/* A non-canonical stack operand is #SS, all others #GP: the slow path cannot tell them apart. */
static void noncanonical_vector(Tcg *t, const Insn *i)
{
    if (t->exc.noncanonical && (i->flags & IF_MEM) && i->dseg == SS)
        t->exc.vector = VEC_SS;
}

__attribute__((noinline, cold)) Next leave_block(CpuState *s, Tcg *t, const Insn *i, Fault f,
                                                 Exit *x)
{
    uint64_t count = 0;
    Next next = NEXT_BLOCK;
    switch (f) {
    case FAULT_NONE:
    case FAULT_JUMP:
        count++;
        break;
    case FAULT_STATE:
        s->rip = insn_next_rip(s, t, i);
        count++;
        break;
    case FAULT_HLT:
        s->rip = insn_next_rip(s, t, i);
        *x = (Exit){.kind = EXIT_HLT};
        count++;
        next = NEXT_EXIT;
        break;
    case FAULT_AGAIN:
        s->rip = insn_rip(t, i);
        break;
    case FAULT_EXC:
        s->rip = insn_rip(t, i);
        noncanonical_vector(t, i);
        next = deliver(s, t, x);
        if (next == NEXT_EXIT && x->kind == EXIT_EXCEPTION && (t->exc.soft || t->exc.icebp))
            x->exc.len = i->len;
        break;
    case FAULT_STOP:
        s->rip = insn_rip(t, i);
        if (stops_address_due(t, code_lin(s, t), x))
            next = NEXT_EXIT;
        t->step_over = true;
        break;
    case FAULT_UNSUPPORTED:
        s->rip = insn_rip(t, i);
        exit_error(s, t, x);
        next = NEXT_EXIT;
        break;
    }
    t->insns_left -= count;
    return next;
}

/* ---- between blocks ---- */

/* IRET and the like cannot be single-stepped into: events that clear TF on the way take no trap. */
static bool clears_tf_itself(const Insn *i)
{
    const OpRow *r = &op_rows[i->row];
    if (r->map == MAP_1B)
        return r->opcode == 0xcc || r->opcode == 0xcd || r->opcode == 0xce || r->opcode == 0xf1;
    return r->map == MAP_0F && (r->opcode == 0x05 || r->opcode == 0x34);
}

/* DR6 bits of the execute breakpoints at lin (SDM vol. 3, 17.2.5). */
static uint64_t execute_breakpoints(const CpuState *s, gva_t lin)
{
    uint64_t hit = 0;
    for (unsigned k = 0; k < 4; k++)
        if ((s->dr7 >> (2 * k) & 3) && !(s->dr7 >> (16 + 4 * k) & 3) && s->dr[k] == lin)
            hit |= BIT(k);
    return hit;
}

/* A #DB trap: RIP is of the next instruction. */
static Next debug_trap(CpuState *s, Tcg *t, uint64_t dr6, Exit *x)
{
    t->exc = (PendingExc){.vector = VEC_DB, .dr6 = dr6};
    return deliver(s, t, x);
}

/* Does the block reach past the CS limit, or (16-bit code) past where IP wraps? Blocks are keyed
 * by address, so this is asked each time. */
static inline bool past_limit(const CpuState *s, const Tcg *t, const Block *b)
{
    if (t->code64)
        return false;
    uint64_t limit = s->seg[CS].limit;
    if (!(t->decode_mode & DM_CS32) && limit > 0xffff)
        limit = 0xffff;
    return s->rip + b->size - 1 > limit;
}

Block *next_block(const CpuState *s, const Tcg *t)
{
    gva_t lin = code_lin(s, t);
    const JumpEntry *j = jump_entry(t, lin);
    if (j->tag != jump_tag(t, lin) || !still_good(t, j->gen) || !j->block->gen ||
        past_limit(s, t, j->block))
        return NULL;
    return j->block;
}

/* The block at RIP, or NULL when the fetch faulted (delivered) or cannot be done. beneath: not a
 * stop, but what it lies on. */
static Block *find(CpuState *s, Tcg *t, gva_t lin, bool beneath, Exit *x, Next *next)
{
    Fault f;
    const JumpEntry *j = jump_entry(t, lin);
    Block *b = j->tag == jump_tag(t, lin) && still_good(t, j->gen) && j->block->gen
                   ? j->block
                   : block_find(s, t, lin, &f);
    if (unlikely(b && b->soft && (beneath || !t->use_jit || t->limited))) {
        blocks_harden(t, b);
        b = block_find(s, t, lin, &f);
    }
    if (b && (past_limit(s, t, b) || (beneath && b->stop)))
        b = block_single(s, t, lin, &f);
    if (!b) {
        t->blk = NULL;
        if (f == FAULT_EXC) {
            *next = deliver(s, t, x);
        } else {
            exit_error(s, t, x);
            *next = NEXT_EXIT;
        }
    }
    return b;
}

static inline void enter_block(CpuState *s, Tcg *t, const Block *b)
{
    t->blk = b;
    t->blk_rip = s->rip;
    s->gpr[GPR_IP] = s->rip;
}

/* One instruction with all that can happen around it (SDM vol. 3, 6.9 and 17.3). */
static __attribute__((noinline)) Next careful_step(CpuState *s, Tcg *t, Exit *x)
{
    Next next = NEXT_BLOCK;
    bool tf = s->rflags & FL_TF, rf = s->rflags & FL_RF;
    gva_t lin = code_lin(s, t);
    t->step_over = false;
    if (unlikely(t->n_stop_at)) {
        if (stops_address_due(t, lin, x))
            return NEXT_EXIT;
        stops_passed(t, lin);
    }
    if ((s->dr7 & DR7_ENABLED) && !rf && !s->ev.shadow_mov_ss) {
        uint64_t hit = execute_breakpoints(s, lin);
        if (hit)
            return debug_trap(s, t, hit, x);
    }
    Block *b = find(s, t, lin, true, x, &next);
    if (!b)
        return next;
    t->inhibit = false;
    s->ev.shadow_sti = s->ev.shadow_mov_ss = false;
    rf_done(s);
    t->trap_dr6 = 0;
    t->one_iter = tf || (s->dr7 & DR7_ENABLED) || t->step;

    enter_block(s, t, b);
    if (unlikely(t->log_blocks))
        blocklog_enter(s, t, b);
    const Insn *i = b->insn;
    Fault f = i->exec(s, t, i);
    bool stepped = f == FAULT_NONE || f == FAULT_JUMP || f == FAULT_STATE || f == FAULT_HLT;
    bool again = f == FAULT_AGAIN, quiet = clears_tf_itself(i);
    if (f == FAULT_NONE)
        s->rip = insn_next_rip(s, t, i);
    if (again && rf && (s->dr7 & DR7_ENABLED))
        s->rflags |= FL_RF; /* the breakpoint it passed is still on it */
    next = leave_block(s, t, i, f, x);
    t->one_iter = false;
    t->blk = NULL;
    if (!stepped && !again)
        return next;
    uint64_t dr6 = t->trap_dr6;
    t->trap_dr6 = 0;
    if (tf && !quiet && !s->ev.shadow_mov_ss)
        dr6 |= DR6_BS;
    if (dr6) {
        s->run_state = RUN_RUNNING; /* a trap after HLT wakes it at once */
        next = debug_trap(s, t, dr6, x);
    }
    if (again && t->step && next == NEXT_BLOCK) {
        *x = (Exit){.kind = EXIT_LIMIT};
        return NEXT_EXIT;
    }
    return next;
}

static Next deliver_now(CpuState *s, Tcg *t, Exit *x)
{
    bool stop = t->stop_exc;
    t->stop_exc = false;
    Next next = deliver(s, t, x);
    t->stop_exc = stop;
    return next;
}

/* What KVM or another engine left half delivered. */
static __attribute__((noinline)) Next inject(CpuState *s, Tcg *t, Exit *x)
{
    Events *ev = &s->ev;
    if (ev->triple_fault)
        return shutdown(s, x);
    if (ev->exception.injected || ev->exception.pending) {
        t->exc = (PendingExc){.vector = ev->exception.nr,
                              .has_error = ev->exception.has_error,
                              .error = ev->exception.error,
                              .cr2 = s->cr2};
        if (ev->exception.has_payload && ev->exception.nr == VEC_PF)
            t->exc.cr2 = ev->exception.payload;
        if (ev->exception.has_payload && ev->exception.nr == VEC_DB)
            t->exc.dr6 = ev->exception.payload;
        /* INT3 and INTO come here as exceptions; their RIP is still on them. */
        if (ev->exception.injected && (ev->exception.nr == VEC_BP || ev->exception.nr == VEC_OF)) {
            t->exc.soft = true;
            s->rip += ev->soft_len;
        }
        ev->exception.injected = ev->exception.pending = ev->exception.has_payload = false;
        if (deliver_now(s, t, x) == NEXT_EXIT)
            return NEXT_EXIT;
    }
    if (ev->nmi.injected) {
        ev->nmi.injected = false;
        if (!deliver_interrupt(s, t, VEC_NMI, true))
            return shutdown(s, x);
        if (event_done(t, x) == NEXT_EXIT)
            return NEXT_EXIT;
    }
    if (ev->interrupt.injected) {
        uint8_t vector = ev->interrupt.nr;
        ev->interrupt.injected = false;
        if (ev->interrupt.soft) {
            Fault f = software_interrupt(s, t, vector, s->rip + ev->soft_len, false);
            if (f == FAULT_EXC && deliver_now(s, t, x) == NEXT_EXIT)
                return NEXT_EXIT;
        } else if (!deliver_interrupt(s, t, vector, false)) {
            return shutdown(s, x);
        }
        if (event_done(t, x) == NEXT_EXIT)
            return NEXT_EXIT;
    }
    if (ev->nmi.pending) {
        ev->nmi.pending = false;
        vcpu_request(t->v, VREQ_NMI);
    }
    return NEXT_BLOCK;
}

static void flush_request(Tcg *t)
{
    Vcpu *v = t->v;
    vcpu_request_clear(v, VREQ_TLB_FLUSH);
    tlb_flush(t);
    blocks_distrust(t);
    if (!atomic_exchange(&t->ack_code, false))
        return;
    /* What we wrote before this flush may have been code already: the others look again. */
    for (unsigned k = 0; k < v->vm->n_vcpus; k++)
        if (v->vm->vcpu[k] && v->vm->vcpu[k] != v)
            vcpu_request(v->vm->vcpu[k], VREQ_TLB_FLUSH);
}

/* Vcpu.request is not 0. */
static __attribute__((noinline)) Next requests(CpuState *s, Tcg *t, uint32_t req, Exit *x)
{
    Vcpu *v = t->v;
    if (req & VREQ_EXIT_MASK) {
        *x = (Exit){.kind = EXIT_KICK};
        return NEXT_EXIT;
    }
    if (req & VREQ_TLB_FLUSH)
        flush_request(t);
    bool nmi = (req & VREQ_NMI) && !s->ev.nmi.masked && !t->inhibit;
    bool intr = (req & VREQ_INTR) && (s->rflags & FL_IF) && !t->inhibit;
    if (unlikely(t->caller_events)) {
        *x = (Exit){.kind = EXIT_KICK};
        return nmi || intr ? NEXT_EXIT : NEXT_BLOCK;
    }
    if (nmi) {
        vcpu_request_clear(v, VREQ_NMI);
        s->run_state = RUN_RUNNING;
        return deliver_interrupt(s, t, VEC_NMI, true) ? NEXT_BLOCK : shutdown(s, x);
    }
    if (intr) {
        vec_release(t);
        int vector = v->vm->bus->irq_ack(v);
        if (vector >= 0) {
            s->run_state = RUN_RUNNING;
            if (!deliver_interrupt(s, t, (uint8_t)vector, false))
                return shutdown(s, x);
        }
    }
    return NEXT_BLOCK;
}

/* ---- the loop ---- */

/* The first instructions of a block, as many as are left. */
__attribute__((noinline)) Next run_some(CpuState *s, Tcg *t, const Block *b, Exit *x)
{
    rf_done(s);
    enter_block(s, t, b);
    const Insn *i = b->insn;
    for (; t->insns_left; i++, t->insns_left--) {
        Fault f = i->exec(s, t, i);
        if (f)
            return leave_block(s, t, i, f, x);
    }
    s->rip = insn_next_rip(s, t, i - 1);
    return NEXT_BLOCK;
}

/* A whole block, by its quick forms, or what is left of the limit. */
static __attribute__((noinline)) Next run_one(CpuState *s, Tcg *t, const Block *b, Exit *x)
{
    if (t->insns_left < b->n)
        return run_some(s, t, b, x);
    rf_done(s);
    enter_block(s, t, b);
    t->at = b->insn;
    Fault f = b->insn->go(s, t, b->insn);
    if (f != FAULT_NONE && f != FAULT_JUMP) {
        t->insns_left -= (uint64_t)(t->at - b->insn);
        return leave_block(s, t, t->at, f, x);
    }
    t->insns_left -= b->n;
    if (f == FAULT_NONE)
        s->rip = insn_next_rip(s, t, t->at);
    return NEXT_BLOCK;
}

/*
 * Runs block after block while nothing but near branches joins them: those change none of what
 * run_loop() looks at between blocks, Vcpu.request excepted. Returns at a block boundary, or with
 * *x filled.
 */
static Next run_chain(CpuState *s, Tcg *t, Block *b, Exit *x)
{
    Vcpu *v = t->v;
    uint64_t left = t->insns_left;
    /* IF stays as it is inside a chain; without it a waiting vector is no reason to stop. */
    uint32_t heed = s->rflags & FL_IF ? ~0u : ~(uint32_t)VREQ_INTR;
    rf_done(s);
    for (;;) {
        if (unlikely(left < b->n)) {
            if (left) {
                t->insns_left = left;
                return run_some(s, t, b, x);
            }
            break;
        }
        enter_block(s, t, b);
        t->at = b->insn;
        Fault f = b->insn->go(s, t, b->insn);
        if (likely(f == FAULT_JUMP)) {
            left -= b->n;
        } else if (f == FAULT_NONE) {
            left -= b->n;
            s->rip = insn_next_rip(s, t, t->at);
        } else {
            t->insns_left = left - (uint64_t)(t->at - b->insn);
            return leave_block(s, t, t->at, f, x);
        }
        if (unlikely(atomic_load_explicit(&v->request, memory_order_relaxed) & heed))
            break;

        BlockLink *k = &b->to[f == FAULT_JUMP];
        if (likely(k->rip == s->rip && still_good(t, k->gen) && k->block->gen)) {
            b = k->block;
            continue;
        }
        if (!b->plain)
            break; /* has no links */
        gva_t lin = code_lin(s, t);
        const JumpEntry *j = jump_entry(t, lin);
        Block *next = j->block;
        if (unlikely(j->tag != jump_tag(t, lin) || !still_good(t, j->gen) || !next->gen ||
                     next->soft || past_limit(s, t, next)))
            break;
        /* With another CS base the same RIP would be another place. */
        if (t->decode_mode & (DM_CODE64 | DM_FLAT))
            *k = (BlockLink){.rip = s->rip, .block = next, .gen = j->gen};
        b = next;
    }
    t->insns_left = left;
    return NEXT_BLOCK;
}

static Exit run_loop(Vcpu *v, Tcg *t)
{
    CpuState *s = &v->st;
    Exit x = {.kind = EXIT_KICK};
    for (;;) {
        uint32_t req = atomic_load_explicit(&v->request, memory_order_relaxed);
        if (unlikely(req != 0) &&
            ((req & ~(uint32_t)VREQ_INTR) || (s->rflags & FL_IF) || s->run_state != RUN_RUNNING) &&
            requests(s, t, req, &x) == NEXT_EXIT)
            return x;
        if (unlikely(s->run_state != RUN_RUNNING))
            return (Exit){.kind = EXIT_HLT};
        if (unlikely(t->insns_left <= t->insns_until))
            return (Exit){.kind = EXIT_LIMIT};
        if (unlikely(t->stops != NULL) && stops_state_due(s, t, code_lin(s, t), &x))
            return x;
        Next next = NEXT_BLOCK;
        if (unlikely(be_careful(s, t))) {
            next = careful_step(s, t, &x);
        } else {
            Block *b = find(s, t, code_lin(s, t), false, &x, &next);
            if (unlikely(b && (t->one_block || t->each_block || t->log_blocks))) {
                if (t->log_blocks && !t->use_jit)
                    blocklog_enter(s, t, b);
                next = t->use_jit ? t->translator->run(s, t, b, &x) : run_one(s, t, b, &x);
                if (next != NEXT_EXIT && t->one_block)
                    return (Exit){.kind = s->run_state == RUN_RUNNING ? EXIT_LIMIT : EXIT_HLT};
            } else if (likely(b != NULL)) {
                next = t->use_jit ? t->translator->run(s, t, b, &x) : run_chain(s, t, b, &x);
            }
        }
        if (unlikely(next == NEXT_EXIT))
            return x;
    }
}

#define COUNTED_FROM (1ull << 62) /* more than any RunLimit that is counted */

Exit software_run(Vcpu *v, const RunLimit *limit, bool translate)
{
    Tcg *t = v->engine_data[ENGINE_INTERP];
    CpuState *s = &v->st;
    Exit x;
    t->left = false;
    s->gpr[GPR_ZERO] = 0;
    t->cc = flags_to_cc(s->rflags);
    t->inhibit = s->ev.shadow_sti || s->ev.shadow_mov_ss;
    t->step = limit && limit->max_insns == 1 && !limit->whole;
    t->stop_exc = limit && limit->stop_at_exception;
    t->caller_events = limit && limit->caller_events;
    t->careful = limit && limit->careful;
    t->one_block = limit && limit->one_block;
    uint64_t most = limit && limit->max_insns ? limit->max_insns : ~0ull;
    t->counted = translate && limit && limit->chained;
    t->insns_until = t->counted && most < COUNTED_FROM ? COUNTED_FROM - most : 0;
    if (t->counted)
        most = COUNTED_FROM;
    t->insns_left = most;
    t->blk = NULL;
    t->use_jit = translate;
    stops_begin(t, limit ? limit->stops : NULL);
    t->limited = (most != ~0ull && !t->counted) || t->one_block || t->each_block;
    t->log_blocks = blocklog_enters();
    if (translate)
        t->translator->begin(t, !t->limited && !log_on(LOG_NOCHAIN), t->counted);
    if (!t->limited && !t->counted)
        idle_run_begins(t);
    tcg_update_mode(s, t);
    if (atomic_load(&v->request) & VREQ_EXIT_MASK) {
        x = (Exit){.kind = EXIT_KICK};
    } else {
        bool unseen = v->wrote_unseen;
        size_t noted = v->writes ? v->writes->used : 0;
        t->flushed = false;
        atomic_store_explicit(&v->wrote_unseen, true, memory_order_relaxed);
        if (inject(s, t, &x) == NEXT_BLOCK)
            x = run_loop(v, t);
        /* No store, as far as they are noted, and nothing that is to flush a TLB. */
        if (v->writes && v->writes->used == noted && !t->flushed)
            atomic_store_explicit(&v->wrote_unseen, unseen, memory_order_relaxed);
    }
    vec_release(t);
    if (t->inhibit && !s->ev.shadow_mov_ss)
        s->ev.shadow_sti = true;
    if (!t->limited && !t->counted)
        idle_run_ends(t);
    v->insns += most - t->insns_left;
    s->rflags = flags_get(s, t) | FL_FIXED;
    s->gpr[GPR_IP] = 0;
    return x;
}

static Exit interp_run(Vcpu *v, const RunLimit *limit)
{
    return software_run(v, limit, false);
}

/* ---- the engine's other duties ---- */

bool software_vm_init(VmCommon *vm, GError **err)
{
    if (vm->tcg)
        return true;
    TcgVm *shared = g_try_new0(TcgVm, 1);
    if (!shared) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "no memory for the software engine's page flags");
        return false;
    }
    vm->tcg = shared;
    vm->has_code = blocks_any;
    vm->code_written = blocks_written;
    return true;
}

void software_vm_free(VmCommon *vm)
{
    g_free(vm->tcg);
    vm->tcg = NULL;
    vm->has_code = NULL;
    vm->code_written = NULL;
}

static void interp_vcpu_free(Vcpu *v)
{
    Tcg *t = v->engine_data[ENGINE_INTERP];
    if (!t)
        return;
    if (t->translator)
        t->translator->free(t);
    blocks_free(t);
    if (t->vec)
        vec_free(t);
    v->engine_data[ENGINE_INTERP] = v->engine_data[ENGINE_JIT] = NULL;
    munmap(t, sizeof(Tcg));
}

bool software_vcpu_init(Vcpu *v, GError **err)
{
    if (v->engine_data[ENGINE_INTERP])
        return true;
    if (v->id >= 64) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "the software engine serves 64 vCPUs, not vCPU %d", v->id);
        return false;
    }
    /* Zero and untouched: most of it, the TLBs of other PCIDs, is never used. */
    Tcg *t = mmap(NULL, sizeof(Tcg), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (t == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "no memory for the software engine");
        return false;
    }
    t->v = v;
    t->bank = &t->banks[0];
    t->bank->valid = true;
    for (unsigned k = 0; k < FEAT_N; k++)
        t->features[k] = cpuid_has(v->vm->cpuid, (enum CpuFeature)k);
    uint32_t vendor[4];
    cpuid_execute(v->vm->cpuid, 0, 0, 1, 0, 0, 0, vendor);
    t->amd = vendor[2] == 0x444d4163; /* "cAMD" */
    v->engine_data[ENGINE_INTERP] = t;
    if (!blocks_init(t, err) || !vec_init(t, err)) {
        interp_vcpu_free(v);
        return false;
    }
    tlb_flush(t);
    return true;
}

/* The request bits are the kick: run() reads them at every block. */
void software_kick(Vcpu *v G_GNUC_UNUSED) {}

bool software_drain(Vcpu *v G_GNUC_UNUSED, GError **err G_GNUC_UNUSED)
{
    return true;
}

/* st is the engine's own storage; what lives elsewhere is the task priority. */
bool software_export(Vcpu *v, unsigned groups, GError **err G_GNUC_UNUSED)
{
    if ((groups & GRP_SREGS) && v->vm->bus && v->vm->bus->tpr_get)
        v->st.cr8 = v->vm->bus->tpr_get(v);
    if ((groups & GRP_MSRS) && v->vm->bus && v->vm->bus->apic_msr_read)
        v->vm->bus->apic_msr_read(v, 0x1b, &v->st.msr.apic_base);
    return true;
}

bool software_import(Vcpu *v, unsigned groups, GError **err G_GNUC_UNUSED)
{
    if ((groups & GRP_SREGS) && v->vm->bus && v->vm->bus->tpr_set)
        v->vm->bus->tpr_set(v, (uint8_t)v->st.cr8);
    v->st.gpr[GPR_ZERO] = v->st.gpr[GPR_IP] = 0;
    /* Paging may be any other now; the code itself is checked by enter(). */
    Tcg *t = v->engine_data[ENGINE_INTERP];
    t->zmm_clean = false;
    tlb_flush(t);
    return true;
}

bool software_map_changed(VmCommon *vm, GError **err G_GNUC_UNUSED)
{
    for (unsigned k = 0; k < vm->n_vcpus; k++)
        if (vm->vcpu[k])
            vcpu_request(vm->vcpu[k], VREQ_TLB_FLUSH);
    return true;
}

void software_enter(Vcpu *v)
{
    Tcg *t = v->engine_data[ENGINE_INTERP];
    t->idle = (IdleWatch){0}; /* it was elsewhere, not idle */
    t->zmm_clean = false;
    if (!t->left) {
        tlb_flush(t);
        blocks_distrust(t);
    }
    pv_enter_software(v);
}

void software_leave(Vcpu *v)
{
    Tcg *t = v->engine_data[ENGINE_INTERP];
    tlb_flush(t);
    blocks_distrust(t);
    t->left = true;
}

const Engine engine_interp = {
    .name = "interp",
    .id = ENGINE_INTERP,
    .vm_init = software_vm_init,
    .vcpu_init = software_vcpu_init,
    .vcpu_free = interp_vcpu_free,
    .run = interp_run,
    SOFTWARE_DUTIES,
};
