/* The translator: making code of blocks, joining it, taking it away. See jit.h. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "base/log.h"
#include "jit/perf.h"
#include "jit/sys.h"
#include "tcg/vec.h"

extern const ExecSet exec_stac, exec_clac;

/* ---- memory ---- */

/* A mapping that translated code can reach from `near` by a 32-bit displacement: the first free
 * place above it, or below. */
static void *map_near(const void *near, size_t bytes)
{
    const intptr_t step = 32 << 20, most = 0x7f000000;
    for (intptr_t d = step; d < most - (intptr_t)bytes; d += step) {
        for (int sign = 1; sign >= -1; sign -= 2) {
            uintptr_t at = ((uintptr_t)near + (uintptr_t)(sign * d)) & PAGE_MASK;
            if (sign < 0 && at > (uintptr_t)near)
                continue;
            void *p =
                mmap((void *)at, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
            if (p == (void *)at)
                return p;
            if (p != MAP_FAILED)
                munmap(p, bytes); /* a kernel that does not know the flag */
        }
    }
    return NULL;
}

/*
 * Writable and executable views of one piece of memory. Anonymous memory, of which mremap() makes a
 * second view when the old size is 0: in a memfd perf would take the code for a file's, and not
 * look into its map.
 */
static bool code_map(Jit *j, GError **err)
{
    uint8_t *rw = mmap(NULL, j->code_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *rx = rw == MAP_FAILED ? MAP_FAILED : mremap(rw, 0, j->code_bytes, MREMAP_MAYMOVE);
    if (rx != MAP_FAILED && mprotect(rx, j->code_bytes, PROT_READ | PROT_EXEC) == 0) {
        j->code_rw = rw;
        j->run = rx - rw;
        return true;
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "%zu MiB of executable memory for the translator: %s", j->code_bytes >> 20,
                g_strerror(errno));
    if (rx != MAP_FAILED)
        munmap(rx, j->code_bytes);
    if (rw != MAP_FAILED)
        munmap(rw, j->code_bytes);
    return false;
}

bool jit_supported(GError **err)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("bmi2"))
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                "the translator needs a host CPU with BMI2; 'interp' does without");
    return false;
}

/* AMD's processors before family 19h, and Hygon's, make PEXT of some eight steps for each bit of
 * its mask; Software Optimization Guide for family 17h, instruction latencies. Intel has no such.
 */
static bool slow_pext(void)
{
    unsigned eax, ebx, ecx, edx;
    if (__builtin_cpu_is("intel") || !__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return false;
    unsigned family = eax >> 8 & 15;
    return family == 15 && family + (eax >> 20 & 0xff) < 0x19;
}

/* A kernel has much code that runs now and then, and copies of it take room in the processor's
 * caches from each other. */
#define KERNEL_WARM 8

Jit *jit_new(Tcg *t, GError **err)
{
    Jit *j = g_new0(Jit, 1);
    j->t = t;
    j->ymm = __builtin_cpu_supports("avx");
    j->near_jumps = __builtin_cpu_is("amd");
    j->slow_pext = slow_pext();
    j->zmm = t->features[FEAT_AVX512F];
    j->hot_after = JIT_HOT;
    j->loop_exits = JIT_LOOP_EXITS;
    j->twin_after = JIT_CROSSINGS;
    j->trace_paths = JIT_PATHS;
    j->kernel_paths = JIT_KERNEL_PATHS;
    j->trace_rounds = JIT_TRACE_ROUNDS;
    j->mirror_share = JIT_MIRROR;
    j->warm_after = JIT_WARM;
    j->kernel_warm = KERNEL_WARM;
    j->hot_bytes = sizeof(JitHot);
    j->code_bytes = t->v->vm->jit_code_bytes ? t->v->vm->jit_code_bytes : JIT_CODE_BYTES;
    j->hot = map_near(&t->v->st, j->hot_bytes);
    if (!j->hot) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "no address space for the translator near the vCPU's state");
        g_free(j);
        return NULL;
    }
    if (!code_map(j, err)) {
        munmap(j->hot, j->hot_bytes);
        g_free(j);
        return NULL;
    }
    j->hot_at = (int32_t)((intptr_t)j->hot - (intptr_t)&t->v->st);
    j->hot->t = t;
    j->hot->vec_away[0] = j->hot->vec_away[1] = j->hot->vec_away[2] = 1;
    j->hot->x87_away = j->hot->x87_was = 1;
    j->plans = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    jit_tlb_init(j);
    jit_slots_init(j);
    jit_jumps_init(j);
    jit_strings_init(j);
    j->hot->sign = 1ull << 63;
    j->hot->late_at = t->v->vm->clock ? timers_late_at(t->v->vm->clock) : NULL;
    j->row_helpers = g_new0(uint32_t, op_rows_n);

    Code c = {.p = j->code_rw, .end = j->code_rw + 16384, .run = j->run};
    jit_make_stubs(j, &c);
    jit_make_gates(j, &c);
    g_assert(!c.overflow);
    j->used = j->used_fixed = (size_t)(c.p - j->code_rw + 63) & ~(size_t)63;
    j->there = (j->used_fixed + ~PAGE_MASK) & PAGE_MASK;
    j->cold_used = j->cold_there = j->code_bytes / 2;
    if (perf_on)
        perf_code(j->code_rw + j->run, j->code_rw, j->used_fixed,
                  "tandem: in and out of translated code");
    jit_run_init(j);
    j->trans = g_new0(Trans, 1);
    return j;
}

void jit_free(Jit *j)
{
    if (!j)
        return;
    jit_flush(j);
    munmap(j->code_rw, j->code_bytes);
    munmap(j->code_rw + j->run, j->code_bytes);
    jit_windows_free(j);
    jit_mirror_free(j);
    jit_kernel_free(j);
    munmap(j->hot, j->hot_bytes);
    g_free(j->map);
    jit_jumps_free(j);
    g_hash_table_destroy(j->plans);
    g_free(j->row_helpers);
    g_free(j->trans);
    g_free(j);
}

/* ---- direct jumps ---- */
static void unlink_out(Jit *j, JitLink *l);

/* Where l leads if it is a guard that lets through. */
static const uint8_t *straight_on(const Jit *j, const JitLink *l)
{
    return l->at + 4 + j->run;
}

void jit_link_patch(const Jit *j, JitLink *l, const uint8_t *to)
{
    if (l->guard && to == straight_on(j, l)) {
        memcpy(l->at - 1, "\x0f\x1f\x44\0\0", 5); /* NOP */
        return;
    }
    if (l->guard)
        l->at[-1] = 0xe9; /* JMP */
    patch_rel32(l->at, j->run, to);
}

void jit_link(Jit *j, JitLink *l, Block *b)
{
    if (l->far) {
        if (b->fixed_at == BLOCK_FLOATS) { /* it wants its RIP from the look-up */
            l->left = UINT32_MAX;
            return;
        }
        jit_far_add(j, l, b);
    } else if (b->gpa2 != NO_GPA) { /* what the page behind holds is another matter elsewhere */
        l->rip = b->fixed_at + (b->gpa & ~PAGE_MASK);
        if (b->fixed_at == BLOCK_FLOATS || !jit_jump_may(j, l->rip, b))
            return;
        jit_far_add(j, l, b);
        if (!l->listed)
            return;
    }
    if (l->to != b) {
        unlink_out(j, l);
        l->to = b;
        l->next_in = b->jit->in;
        b->jit->in = l;
    }
    j->links++;
    const JitCode *code = b->jit;
    bool again = code->head && l == &code->link[1]; /* round the loop */
    jit_link_patch(j, l,
                   l->inlined == b ? straight_on(j, l)
                   : again         ? code->head
                   : l->backward   ? code->entry_poll
                   : l->counts     ? code->entry
                                   : code->entry_on);
}

static void unlink_in(Jit *j, JitCode *code)
{
    for (JitLink *l = code->in; l; l = l->next_in) {
        l->to = NULL;
        jit_link_patch(j, l, l->cold);
    }
    code->in = NULL;
}

/* l leads nowhere any more: its block is gone. Its code may go on to the end. */
static void unlink_out(Jit *j, JitLink *l)
{
    if (!l->to)
        return;
    jit_link_patch(j, l, l->cold);
    for (JitLink **k = &l->to->jit->in; *k; k = &(*k)->next_in) {
        if (*k == l) {
            *k = l->next_in;
            break;
        }
    }
    l->to = NULL;
}

static void stop_using(JitPart *part)
{
    for (JitPart **k = &part->b->users; *k; k = &(*k)->next_user) {
        if (*k == part) {
            *k = part->next_user;
            return;
        }
    }
}

static void code_dead(Jit *j, JitCode *code)
{
    Block *b = code->block;
    if (b->jit == code)
        jit_jumps_to_dead(j, b);
    unlink_in(j, code);
    for (unsigned k = 0; k < code->n_links; k++) {
        unlink_out(j, &code->link[k]);
        code->link[k].inlined = NULL;
    }
    if (j->recording == code)
        j->recording = NULL;
    for (unsigned k = !code->is_twin; k < code->n_parts; k++)
        stop_using(&code->part[k]);
    /* The code may be running: it stays until the next flush. */
    code->block = NULL;
    if (b->jit == code)
        b->jit = NULL;
}

void jit_block_dead(Jit *j, Block *b)
{
    while (b->users)
        code_dead(j, b->users->code);
    if (b->jit)
        code_dead(j, b->jit);
}

static void code_free(JitCode *code)
{
    g_free(code->sites);
    g_free(code->cross);
    g_free(code->loop);
    g_free(code->path);
    g_free(code);
}

void jit_unlink_all(Jit *j)
{
    if (!j->links)
        return;
    j->links = 0;
    for (unsigned k = 0; k < j->map_n; k++)
        unlink_in(j, j->map[k]);
}

void jit_chaining(Jit *j, bool on)
{
    if (j->no_chain == !on)
        return;
    j->no_chain = !on;
    j->pending = NULL;
    jit_unlink_all(j);
    jit_jumps_flush(j, true);
}

void jit_flush(Jit *j)
{
    jit_jumps_forget(j);
    for (unsigned k = 0; k < j->map_n; k++) {
        JitCode *code = j->map[k];
        if (code->block) {
            code->block->jit = NULL;
            code->block->runs = 0;
            for (unsigned p = !code->is_twin; p < code->n_parts; p++)
                code->part[p].b->users = NULL;
        }
        code_free(code);
    }
    j->map_n = 0;
    j->heats = 0;
    j->used = j->used_fixed;
    j->cold_used = j->code_bytes / 2;
    jit_slots_forget(j);
    j->pending = NULL;
    j->recording = NULL;
    g_hash_table_remove_all(j->plans);
    j->flushes++;
}

void jit_give_back(Jit *j)
{
    size_t kept = (j->used_fixed + ~PAGE_MASK) & PAGE_MASK;
    jit_flush(j);
    j->programs = false;
    j->calm = true;
    /* Where this kernel cannot, the pages stay: they are written over. */
    (void)madvise(j->code_rw + kept, j->code_bytes - kept, MADV_REMOVE);
    j->there = kept;
    j->cold_there = j->code_bytes / 2;
    g_free(j->map);
    j->map = NULL;
    j->map_room = 0;
    jit_tlb_give_back(j);
    jit_jumps_give_back(j);
}

/* ---- making code ---- */
struct Cold *jit_cold(Trans *x, uint8_t *from, enum ColdKind kind)
{
    if (x->n_cold == ARRAY_LEN(x->cold)) {
        x->c.overflow = true;
        x->n_cold--;
    }
    struct Cold *cold = &x->cold[x->n_cold++];
    *cold = (struct Cold){.from = from,
                          .kind = (uint8_t)kind,
                          .k = (uint16_t)x->k,
                          .decode_mode = (uint8_t)x->mode,
                          .second = x->second,
                          .dx_run = -1,
                          .ea = {.base = H_AX, .index = H_NONE},
                          .slot = -1};
    return cold;
}

/* rdx, ecx for a stub that calls C about instruction k. */
static void name_insn(Trans *x, unsigned k)
{
    emit_imm64(&x->c, H_DX, (uintptr_t)x->code);
    emit_imm32(&x->c, H_CX, k);
}

/* An instruction by its exec function. */
static void by_helper(Trans *x, const Insn *i)
{
    const ExecSet *exec = op_rows[i->row].exec;
    jit_flags_again(x, x->k, false);
    jit_pointers_again(x, x->k);
    name_insn(x, x->k);
    emit_call(&x->c, x->j->s_helper);
    x->vec[0] = x->vec[1] = x->vec[2] = x->x87 = false;
    x->helped = true;
    x->dx_run = -1;
    for (unsigned k = 0; k < x->n_runs; k++)
        x->run[k].ready = false;
    if (exec == &exec_stac && !(x->mode & DM_CPL3))
        x->mode |= DM_AC;
    if (exec == &exec_clac)
        x->mode &= ~(unsigned)DM_AC;
}

static void leave(Trans *x, enum JitExit why, int64_t rip_off)
{
    Code *c = &x->c;
    jit_rip(x, H_CX, rip_off);
    emit_store(c, H_CX, gs_mem((int32_t)offsetof(CpuState, rip)));
    emit_imm32(c, H_DX, why);
    emit_jmp(c, x->j->s_exit);
}

/* A run of accesses, from rax on, that is not in one page: to the twin, once there is one. */
static void run_crosses(Trans *x, JitCode *code, const struct Cold *cold)
{
    Code *c = &x->c;
    emit_imm32(c, H_DX, 64 - PAGE_BITS); /* rcx = rax's place in the page */
    emit_shift(c, PFX_66, true, H_CX, H_AX, H_DX);
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX);
    emit_lea(c, true, H_CX,
             (HostMem){.base = H_CX, .index = H_NONE, .disp = cold->run - (int32_t)PAGE_SIZE - 1});
    emit_imm32(c, H_DX, 63);
    emit_shift(c, PFX_F2, true, H_CX, H_CX, H_DX); /* 1 if all of it is in the page */
    RAW(c, "\xe3\x02\xeb\x05");                    /* jrcxz to the jump; jmp over it */
    code->cross = g_renew(struct JitCross, code->cross, code->n_cross + 1u);
    struct JitCross *cross = &code->cross[code->n_cross++];
    cross->k = cold->k;
    cross->bytes = cold->run;
    cross->at = emit_jmp(c, here(c));
    patch_rel32(cross->at, c->run, here(c));
}

/* C, which wants registers where most code has them: it comes back to try again, or behind the
 * jump. */
static void call_and_retry(Trans *x, const struct Cold *cold, const uint8_t *stub, unsigned k)
{
    Code *c = &x->c;
    const uint8_t *retry = cold->retry;
    bool swaps = cold->second && x->n_swaps;
    if (swaps || cold->dx_run != -1) {
        uint8_t *over = emit_jmp(c, here(c));
        retry = here(c);
        if (swaps)
            jit_homes_swap(x, true);
        jit_dx_again(x, cold->dx_run, cold->second);
        emit_jmp(c, cold->retry);
        patch_rel32(over, c->run, here(c));
        if (swaps)
            jit_homes_swap(x, true);
    }
    name_insn(x, k);
    emit_call(c, stub);
    emit_jmp(c, retry);
}

/* Up to the jump behind the instruction, which C may have done. */
static void access_missed(Trans *x, JitCode *code, const struct Cold *seen)
{
    Code *c = &x->c;
    struct Cold missed = *seen, *cold = &missed;
    unsigned flags = cold->run ? JIT_RUN_FLAG : 0;
    if (cold->mirror)
        flags |= JIT_MIRROR_FLAG;
    if (cold->back)
        jit_elsewhere(x, cold);
    if (cold->framed_ax) {
        uint8_t *over = emit_jmp(c, here(c));
        const uint8_t *again = here(c);
        emit_load(c, H_AX, jit_frame(0));
        emit_jmp(c, cold->retry);
        patch_rel32(over, c->run, here(c));
        cold->retry = again;
    }
    if (cold->ea.base != H_AX || cold->ea.disp)
        emit_lea(c, true, H_AX, cold->ea);
    if (cold->run && cold->run <= JIT_RUN_SPAN && !cold->second && !cold->mirror)
        run_crosses(x, code, cold);
    if (cold->slot >= 0) {
        flags |= JIT_SLOT_FLAG;
        emit_imm32(c, H_DX, (uint32_t)cold->slot * sizeof(JitSlot));
        emit_call(c, x->j->s_fill[cold->mode][cold->write]);
        emit_jmp(c, cold->retry); /* it comes back behind this if it has not filled the slot */
    }
    call_and_retry(x, cold, x->j->s_access, cold->k | flags);
}

/* C has done the instruction. The second body of a loop, whose accesses are not checked one by one,
 * does not go on then. */
static void go_on_behind(Trans *x, const struct Cold *cold, const uint8_t *const next[])
{
    if (cold->second) { /* registers are where most code has them */
        jit_count_off(x, cold->k);
        leave(x, JX_RESUME, jit_off_of(x, cold->k) + x->insn[cold->k]->end);
    } else {
        jit_dx_again(x, x->dx_behind[cold->k], false);
        if (x->ax_behind[cold->k] != H_NONE)
            emit_load(&x->c, H_AX, jit_home(x, x->ax_behind[cold->k]));
        emit_jmp(&x->c, next[cold->k + 1]);
    }
}

/* Code that counts its own runs becomes a trace with what it leads to: only what is called, for
 * functions are where most traces begin, is counted as well. */
static bool counts_target(const Trans *x, unsigned k)
{
    const OpRow *r = k < x->n ? &op_rows[x->insn[k]->row] : NULL;
    return x->code->heat < 0 || (r && r->map == MAP_1B && r->opcode == 0xe8);
}

static void cold_code(Trans *x, JitCode *code, const struct Cold *cold, const uint8_t *const next[])
{
    Code *c = &x->c;
    if (cold->from)
        patch_rel32(cold->from, c->run, here(c));
    jit_homes(x, cold->second && cold->kind != COLD_STREAM);
    if (cold->kind != COLD_STREAM && cold->kind != COLD_POLL && cold->kind != COLD_WARM) {
        jit_flags_again(x, cold->k, cold->second);
        jit_pointers_again(x, cold->k);
    }
    switch ((enum ColdKind)cold->kind) {
    case COLD_ACCESS:
        access_missed(x, code, cold);
        go_on_behind(x, cold, next);
        break;
    case COLD_STRING:
        jit_string_cold(x, code, cold);
        go_on_behind(x, cold, next);
        break;
    case COLD_MIRROR:
        if (cold->second)
            jit_homes_swap(x, true);
        name_insn(x, cold->k | JIT_MIRROR_FLAG);
        emit_call(c, x->j->s_access);
        emit_jmp(c, x->j->s_exit); /* never: a fault is not tried again */
        go_on_behind(x, cold, next);
        break;
    case COLD_VEC:
        call_and_retry(x, cold, x->j->s_vec, cold->k);
        go_on_behind(x, cold, next);
        break;
    case COLD_RETURN:
        emit_call(c, x->j->s_return);
        name_insn(x, cold->k);
        emit_call(c, x->j->s_helper);
        go_on_behind(x, cold, next);
        break;
    case COLD_HELPER:
        if (cold->second)
            jit_homes_swap(x, true);
        name_insn(x, cold->k);
        emit_call(c, x->j->s_helper);
        go_on_behind(x, cold, next);
        break;
    case COLD_LOOP:
        jit_loop_count(x, code, cold);
        emit_jmp(c, cold->retry);
        jit_homes_swap(x, false);
        leave(x, JX_LOOP, cold->rip_off);
        break;
    case COLD_STREAM:
        jit_loop_stream(x, code, cold);
        break;
    case COLD_POLL:
        leave(x, JX_POLL, cold->rip_off);
        break;
    case COLD_WARM:
        emit_imm64(c, H_CX, (uintptr_t)code);
        emit_store(c, H_CX, jit_hot(x->j, offsetof(JitHot, tmp)));
        leave(x, JX_WARM, cold->rip_off);
        break;
    case COLD_ELSEWHERE:
        jit_go_elsewhere(x, cold->k);
        break;
    case COLD_OTHER:
        patch_rel32(cold->from, c->run, x->other[cold->link].at);
        break;
    case COLD_LOOKUP:
        leave(x, JX_LOOKUP, cold->rip_off);
        break;
    case COLD_LINK: {
        JitLink *l = &code->link[cold->link];
        l->at = cold->from;
        l->backward = cold->backward;
        l->cold = here(c);
        l->guard = cold->link > (int)x->n_parts;
        l->far = l->guard || !jit_same_page(jit_off_of(x, cold->k), cold->rip_off);
        l->left = 1;
        l->counts = counts_target(x, cold->k);
        if (l->guard)
            l->inlined = x->part[cold->link - (int)x->n_parts].b;
        const uint8_t *out = l->cold;
        if (l->far) {
            l->rip = jit_fixed_rip(x, cold->rip_off);
            out = jit_far_start(x, l->rip);
        }
        emit_imm64(c, H_CX, (uintptr_t)l);
        emit_store(c, H_CX, jit_hot(x->j, offsetof(JitHot, tmp)));
        leave(x, JX_LINK, cold->rip_off);
        if (l->far)
            jit_far_end(x, l, out);
        break;
    }
    }
}

#define BLOCK_CODE_MAX (64u << 10) /* bytes of a block's code, and of what is out of line */

/* Makes an island: jumps to cold code, for the short jumps made so far. `over`: code runs into it.
 */
static void island(Trans *x, bool over)
{
    Code *c = &x->c;
    if (!x->n_near)
        return;
    if (over) {
        code8(c, 0xeb); /* jmp short */
        code8(c, 5 * x->n_near);
    }
    for (unsigned n = 0; n < x->n_near; n++) {
        const struct Near *near = &x->near[n];
        ptrdiff_t rel = c->p - (near->rel8 + 1);
        if (c->overflow || rel > INT8_MAX) {
            x->out_of_reach = true;
            return;
        }
        *near->rel8 = (uint8_t)rel;
        x->cold[near->cold].from = emit_jmp(c, here(c));
    }
    x->n_near = 0;
}

/* Bytes that code for i takes, roughly. */
static ptrdiff_t size_of(const Trans *x, const Insn *i)
{
    bool access = (i->flags & IF_MEM) || x->run_of[x->k] >= 0;
    if (op_rows[i->row].emit == EMIT_BRANCH)
        return (op_rows[i->row].opcode & 0xf0) == 0x70 || (op_rows[i->row].opcode & 0xf0) == 0x80
                   ? 20
               : op_rows[i->row].opcode == 0xff ? INDIRECT_BYTES
                                                : 100;
    if (op_rows[i->row].emit == EMIT_OFTEN)
        return 150;
    if (op_rows[i->row].emit == EMIT_PUSH && (i->flags & IF_MEM))
        return 165;
    if (op_rows[i->row].map == MAP_0F && (op_rows[i->row].opcode & 0xe7) == 0xa3 && access)
        return 120; /* BT and its kin */
    return op_rows[i->row].attr & (A_SSE | A_AVX | A_FPU) && access ? 100 : access ? 85 : 30;
}

void jit_island_before(Trans *x, ptrdiff_t bytes)
{
    if (x->n_near && x->c.p - x->near[0].rel8 + bytes + 5 * (ptrdiff_t)(x->n_near + 2) > INT8_MAX)
        island(x, true);
}

bool jit_emit_one(Trans *x, const Insn *i)
{
    jit_island_before(x, size_of(x, i));
    Code before = x->c;
    unsigned cold = x->n_cold, sites = x->n_sites, near = x->n_near;
    uint8_t ax = x->ax;
    bool sse = x->vec[0], avx = x->vec[1], avx512 = x->vec[2], fpu = x->x87;
    x->ended = x->guarded = x->mirrored = false;
    x->ax = H_NONE;
    bool soft = x->at->b->soft >> (x->k - x->at->first) & 1;
    if (soft ? jit_emit_soft(x, i) : jit_emit_insn(x, i, ax))
        return true;
    x->c = before;
    x->n_cold = cold;
    x->n_sites = sites;
    x->n_near = near;
    x->vec[0] = sse;
    x->vec[1] = avx;
    x->vec[2] = avx512;
    x->x87 = fpu;
    x->ended = false;
    x->ax = H_NONE;
    return false;
}

/* Code that is out of line is written from here on. */
static uint8_t *cold_at(const Jit *j)
{
    return j->code_rw + j->cold_used;
}

/* What is behind the last instruction of a block, and elsewhere: what seldom runs is not to take
 * room in the processor's caches from what does. */
static void out_of_line(Trans *x, JitCode *code, const uint8_t *next[])
{
    Code *c = &x->c;
    code->size = (uint32_t)(here(c) - code->start);
    c->p = cold_at(x->j);
    c->end = c->p + BLOCK_CODE_MAX;
    code->cold = here(c);
    for (unsigned k = 0; k < x->n_sites; k++) {
        uint32_t at = (uint32_t)(here(c) - code->start);
        x->site[k].cold = at;
        cold_code(x, code,
                  &(struct Cold){.kind = x->site_k[k] & JIT_SITE_MIRROR ? COLD_MIRROR : COLD_HELPER,
                                 .second = x->site_k[k] & JIT_SITE_SECOND,
                                 .k = (uint16_t)x->site_k[k]},
                  next);
    }
    for (unsigned k = 0; k < x->n_cold; k++) {
        x->mode = x->cold[k].decode_mode;
        cold_code(x, code, &x->cold[k], next);
    }
    jit_homes(x, false);
    code->cold_size = (uint32_t)(here(c) - code->cold);
}

void jit_count_way_out(Trans *x)
{
    Code *c = &x->c;
    HostMem ways = jit_hot(x->j, offsetof(JitHot, heat) + 4 * (unsigned)(x->code->heat + 1));
    if (x->code->heat < 0 || !jit_trace_rounds(x->b))
        return;
    emit_load32(c, H_CX, ways);
    emit_lea(c, false, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = 1});
    emit_rm(c, 0x89, false, H_CX, ways);
}

/* One run less until the block is made a trace. */
static void count_run(Trans *x, const JitCode *code, const uint8_t *warm)
{
    Code *c = &x->c;
    HostMem left = jit_hot(x->j, offsetof(JitHot, heat) + 4 * (unsigned)code->heat);
    emit_load32(c, H_CX, left);
    emit_lea(c, false, H_CX, (HostMem){.base = H_CX, .index = H_NONE, .disp = -1});
    emit_rm(c, 0x89, false, H_CX, left);
    code8(c, 0xe3); /* jrcxz */
    code8(c, (uint8_t)(warm - (here(c) + 1)));
}

/* Does what the twin is made for go on in the twin at this instruction? */
static bool is_entered(const Trans *x)
{
    for (unsigned n = 0; n < x->twin_of->n_cross; n++)
        if (x->twin_of->cross[n].k == x->k)
            return true;
    return false;
}

static void nothing_known(Trans *x)
{
    x->vec[0] = x->vec[1] = x->vec[2] = x->x87 = false;
    x->dx_run = -1;
    x->ax = H_NONE;
}

/* All of b; false when there is no room, or (out_of_reach is set then) an island is out of reach.
 */
static bool translate(Trans *x, JitCode *code, const uint8_t *next[])
{
    Code *c = &x->c;
    Block *b = x->b;
    x->k = 0; /* what is before the first instruction is of that one */
    code->start = here(c);
    const uint8_t *warm = here(c);
    if (code->heat >= 0)
        jit_cold(x, emit_jmp(c, here(c)), COLD_WARM)->rip_off = x->off;
    const uint8_t *poll = here(c);
    jit_cold(x, emit_jmp(c, here(c)), COLD_POLL)->rip_off = x->off;
    code->entry_far = here(c);
    if (!x->fixed) {
        emit_lea(c, b->mode & DM_CODE64, H_CX,
                 (HostMem){.base = H_AX, .index = H_NONE, .disp = -(int32_t)x->off});
        emit_store(c, H_CX, jit_hot(x->j, offsetof(JitHot, ip_page)));
    }
    code->entry_poll = here(c);
    jit_poll(x);
    code8(c, 0xe3); /* jrcxz */
    code8(c, (uint8_t)(poll - (here(c) + 1)));
    code->entry = here(c);
    if (code->heat >= 0)
        count_run(x, code, warm);
    code->entry_on = jit_trace_rounds(b) ? code->entry : here(c);
    x->at = x->part;
    for (x->k = 0; x->k < x->n; x->k++) {
        const Insn *i = x->insn[x->k];
        if (x->k == x->at->first + x->at->b->n) {
            x->at++;
            b = x->at->b;
            x->off = x->at->off;
        }
        jit_count_part(x); /* not again where the twin is entered */
        next[x->k] = here(c);
        if (x->twin_of && is_entered(x))
            nothing_known(x);
        if (!jit_emit_one(x, i))
            by_helper(x, i);
        x->dx_behind[x->k] = x->dx_run;
        x->ax_behind[x->k] = x->ax;
    }
    next[x->n] = here(c);
    if (!x->ended || b->n == 0)
        jit_emit_goto(x, 0, x->off + b->size);
    else
        next[x->n] = x->j->s_exit; /* nothing comes back behind a branch */
    jit_other_ways(x);
    x->tail = here(c);
    island(x, false);
    for (unsigned k = 0; k < x->n_runs; k++)
        x->run[k].first_slot = x->run[k].slot;
    if (!x->twin_of)
        jit_loop(x, code);
    island(x, false);
    if (x->out_of_reach)
        return false;
    out_of_line(x, code, next);
    return !c->overflow;
}

static void name_for_perf(const Jit *j, const JitCode *code)
{
    const Vcpu *v = j->t->v;
    char name[SYMBOL_TEXT + 8];
    if (!*symbols_text(v->vm->symbols, v->st.rip, name))
        g_snprintf(name, SYMBOL_TEXT, "guest-%#" G_GINT64_MODIFIER "x", v->st.rip);
    perf_code(code->start, code->start - j->run, code->size, name);
    g_strlcat(name, ".cold", sizeof(name)); /* as gcc calls it */
    perf_code(code->cold, code->cold - j->run, code->cold_size, name);
}

/* What the code is to be of, and whether it counts its runs. */
static JitCode *plan(Trans *x)
{
    Jit *j = x->j;
    Block *b = x->b;
    jit_trace_plan(x);
    /* One piece of memory: programs that make code have many blocks that do not live long. */
    JitCode *code = g_malloc0(sizeof(JitCode) + x->n_parts * sizeof(JitPart) +
                              2 * x->n_parts * sizeof(JitLink));
    code->fixed_at = b->fixed_at;
    code->first = x->part[0].b;
    code->first_off = (uint16_t)(b->gpa & ~PAGE_MASK);
    code->part = (JitPart *)(void *)(code + 1);
    code->link = (JitLink *)(void *)(code->part + x->n_parts);
    code->n_parts = (uint16_t)x->n_parts;
    code->n_links = (uint16_t)(2 * x->n_parts);
    for (unsigned k = 0; k < x->n_parts; k++)
        code->part[k] = (JitPart){.b = x->part[k].b,
                                  .code = code,
                                  .first = (uint16_t)x->part[k].first,
                                  .off = (int32_t)x->part[k].off,
                                  .jumps = x->part[k].jumps,
                                  .cross = x->part[k].cross};
    code->heat = -1;
    bool rounds = jit_trace_rounds(b);
    code->is_twin = x->twin_of;
    if (b->hot || x->twin_of || j->no_chain || j->heats + 2 > JIT_HEATS || !j->warm_after ||
        (!rounds && !jit_trace_may(b)))
        return code;
    code->heat = (int32_t)j->heats;
    code->warm_after = j->warm_after * (b->mode & DM_CPL3 ? 1 : j->kernel_warm);
    if (rounds)
        code->warm_after *= JIT_ROUNDS;
    j->hot->heat[j->heats++] = code->warm_after;
    if (rounds)
        j->hot->heat[j->heats++] = 0;
    return code;
}

#define HEAD_BYTES 5 /* before entry_poll, in most blocks */

static bool is_full(const Jit *j)
{
    return j->used + BLOCK_CODE_MAX > j->code_bytes / 2 ||
           j->cold_used + BLOCK_CODE_MAX > j->code_bytes ||
           j->slots + 4 * TRACE_MAX_INSNS > JIT_SLOTS;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define AHEAD_STEP 0x10000u
#define AHEAD_NEAR 0x1000u

/* From where on the host is yet to make memory for code: `there`, or a step more if `used` comes
 * near it. One call instead of a fault for each page, and few for the executable view: a fault of a
 * read maps what there is around it, too. */
static size_t code_ahead(const Jit *j, size_t there, size_t used, size_t end)
{
    if (likely(used + AHEAD_NEAR <= there) || there + AHEAD_STEP > end)
        return there;
    (void)madvise(j->code_rw + there, AHEAD_STEP, MADV_POPULATE_WRITE); /* or as it is touched */
    return there + AHEAD_STEP;
}

/* twin_of: code of b whose twin it is to be. */
static bool make_code(Jit *j, Block *b, JitCode *twin_of)
{
    Trans *x = j->trans;
    const uint8_t *next[TRACE_MAX_INSNS + 1];
    vec_release(j->t);
    j->there = code_ahead(j, j->there, j->used, j->code_bytes / 2);
    j->cold_there = code_ahead(j, j->cold_there, j->cold_used, j->code_bytes);
    x->j = j;
    x->t = j->t;
    x->b = b;
    x->twin_of = twin_of;
    x->fixed = b->fixed_at != BLOCK_FLOATS;
    JitCode *code = x->code = plan(x);
    uint32_t slots = j->slots;
    bool done = false;
    for (unsigned again = 0; again < 2 && !done; again++) {
        x->no_near = again;
        x->out_of_reach = false;
        j->slots = slots;
        x->mode = b->mode;
        x->off = x->part[0].off;
        x->back = false;
        x->n_other = 0;
        x->n_cold = x->n_sites = x->n_near = 0;
        nothing_known(x);
        x->second = x->helped = false;
        x->round_setter = -1;
        x->n_swaps = 0;
        for (unsigned k = 0; k < x->n; k++) {
            x->replay[k].w = -1;
            x->pointers[k] = 0;
        }
        jit_homes(x, false);
        code->n_cross = 0;
        jit_scan(x);
        x->c = (Code){
            .p = j->code_rw + j->used, .end = j->code_rw + j->used + BLOCK_CODE_MAX, .run = j->run};
        done = translate(x, code, next);
    }
    if (!done) {
        code_free(code);
        return false;
    }
    for (unsigned n = 0; n < x->n_runs; n++)
        code->mirrored |= x->run[n].area != MIRROR_NONE;
    code->kernel = x->kernel;
    code->n_sites = (uint16_t)x->n_sites;
    if (x->n_sites) {
        code->sites = g_new(JitSite, x->n_sites);
        memcpy(code->sites, x->site, x->n_sites * sizeof(*x->site));
    }
    code->block = b;
    for (unsigned k = !twin_of; k < code->n_parts; k++) {
        code->part[k].next_user = code->part[k].b->users;
        code->part[k].b->users = &code->part[k];
    }
    j->traces += code->n_parts > 1;
    jit_trace_made(j, code);
    /* So that the next one's entry_poll, which loops come back to, begins a cache line. */
    j->used = ((j->used + code->size + HEAD_BYTES + 63) & ~(size_t)63) - HEAD_BYTES;
    j->cold_used += code->cold_size;
    if (j->map_n == j->map_room) {
        j->map_room = MAX_OF(1024u, 2 * j->map_room);
        j->map = g_renew(JitCode *, j->map, j->map_room);
    }
    j->map[j->map_n++] = code;
    j->blocks++;
    if (!twin_of)
        b->jit = code;
    for (unsigned n = 0; twin_of && n < twin_of->n_cross; n++)
        patch_rel32(twin_of->cross[n].at, j->run, next[twin_of->cross[n].k]);
    if (log_on(LOG_OUT_ASM))
        jit_log_code(j, code, next, x->tail, j->t->v->st.rip);
    if (unlikely(perf_on))
        name_for_perf(j, code);
    return true;
}

bool jit_translate(Jit *j, Block *b)
{
    if (jit_jump_slot(b->mode) < 0)
        return false;
    if (is_full(j))
        jit_flush(j);
    b->fixed_at = blocks_float(j->t, b) ? BLOCK_FLOATS : j->t->v->st.rip - (b->gpa & ~PAGE_MASK);
    return make_code(j, b, NULL);
}

void jit_make_twin(Jit *j, JitCode *code)
{
    if (is_full(j)) /* all goes soon */
        return;
    code->has_twin = true;
    j->twins++;
    make_code(j, code->block, code);
}
