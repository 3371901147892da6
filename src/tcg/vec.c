/* The cache of native thunks (vec.h), and the checks before vector and x87 instructions. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#include "tcg/xsave_fast.h"
#include "tcg/x87.h"

/*
 * Room for every form there is: some 1100 rows with a register and a memory form, of which about
 * 130 take an immediate; twice that for VEX.L. EVEX: 570 rows, of which 100 take one, with 3
 * lengths, or 4 roundings, with and without mask, zeroing, broadcast. Pages are only backed once
 * used.
 */
enum { CODE_SIZE = 32 << 20, CODE_SIZE_WIDE = 256 << 20 };

bool vec_init(Tcg *t, GError **err)
{
    VecCtx *c = aligned_alloc(64, sizeof(VecCtx));
    memset(c, 0, sizeof(*c));
    c->mxcsr_host = __builtin_ia32_stmxcsr();
    c->code_size = t->features[FEAT_AVX512F] ? CODE_SIZE_WIDE : CODE_SIZE;

    /* Never writable and executable at once: two views of one memfd. */
    int fd = memfd_create("tandem-thunks", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)c->code_size) < 0)
        goto fail;
    c->code_rw = mmap(NULL, c->code_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (c->code_rw == MAP_FAILED)
        goto fail;
    c->code_rx = mmap(NULL, c->code_size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (c->code_rx == MAP_FAILED) {
        int e = errno;
        munmap(c->code_rw, c->code_size);
        errno = e;
        goto fail;
    }
    close(fd);
    c->thunks = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    x87_probe(c);
    xsave_map_init(&c->xsave, t->v->vm->cpuid);
    t->vec = c;
    return true;

fail:
    g_set_error(err, G_FILE_ERROR, (gint)g_file_error_from_errno(errno),
                "executable memory for vector instructions: %s", g_strerror(errno));
    if (fd >= 0)
        close(fd);
    free(c);
    return false;
}

void vec_free(Tcg *t)
{
    VecCtx *c = t->vec;
    if (!c)
        return;
    g_hash_table_destroy(c->thunks);
    munmap(c->code_rw, c->code_size);
    munmap((void *)c->code_rx, c->code_size);
    free(c);
    t->vec = NULL;
}

/* Everything that makes one thunk differ from another. */
static uint64_t thunk_key(const Insn *i)
{
    uint64_t imm = (uint64_t)i->imm & 0xff;
    for (unsigned k = 0; k < 4; k++)
        if (op_rows[i->row].op[k] == O_Lx)
            imm &= 15;
    return i->row | imm << 16 | (uint64_t) !!(i->flags & IF_MEM) << 24 |
           (uint64_t) !!i->rexw << 25 | (uint64_t)i->vexl << 26 |
           (uint64_t) !!(i->flags & IF_CODE64) << 28 |
           (uint64_t)(i->evex & (EVEX_Z | EVEX_LL | EVEX_B)) << 32 |
           (uint64_t) !!(i->evex & EVEX_AAA) << 32;
}

static VecFn *emit(VecCtx *c, const Insn *i, const VecThunk *th, bool fast)
{
    VecFn *fn = (VecFn *)(uintptr_t)(c->code_rx + c->code_used);
    c->code_used += (vec_emit(c->code_rw + c->code_used, i, th, fast) + 15) & ~15u;
    return fn;
}

bool vec_prepare(Tcg *t, Insn *i, const uint8_t *bytes)
{
    const OpRow *row = &op_rows[i->row];
    if (row->exec == &exec_vgather)
        vgather_prepare(i, bytes);
    if (row->exec == &exec_egather || row->exec == &exec_escatter)
        egather_prepare(i, bytes);
    if (row->exec != &exec_vec && row->exec != &exec_vec_str && row->exec != &exec_evex)
        return true; /* a handler in C */
    VecCtx *c = t->vec;
    uint64_t key = thunk_key(i);
    VecThunk *th = g_hash_table_lookup(c->thunks, &key);
    if (!th) {
        if (c->code_used + 2 * VEC_THUNK_MAX > c->code_size)
            return false;
        th = g_new0(VecThunk, 1);
        th->key = key;
        th->wide = t->features[FEAT_AVX512F];
        vec_describe(i, th);
        if (t->amd && row->feature == FEAT_SHA_NI)
            th->attr &= ~(uint32_t)A_ALIGN16; /* AMD's take any address */
        th->fn = emit(c, i, th, false);
        th->fast = th->attr & A_FP ? emit(c, i, th, true) : th->fn;
        g_hash_table_insert(c->thunks, &th->key, th);
    }
    i->aux = th;
    ExecFn *quick = vec_handler(i, th);
    if (quick)
        i->exec = quick;
    return true;
}

void vec_release_slow(Tcg *t)
{
    __builtin_ia32_ldmxcsr(t->vec->mxcsr_host);
    t->fp_live = false;
}

Fault x87_pending(CpuState *s, Tcg *t)
{
    const VcpuBus *bus = t->v->vm->bus;
    bool pending = s->fpu.fsw & FSW_ES;
    if (likely(!pending && !t->ferr))
        return FAULT_NONE;
    if (pending && s->cr0 & CR0_NE)
        return raise_exc(t, VEC_MF);
    if (!bus->x87_error)
        return raise_unsupported(t, "x87 exception with CR0.NE = 0 (FERR# to IRQ 13), FSW %#x",
                                 s->fpu.fsw);
    /* Nobody but a waiting instruction can tell when FERR# is let go, so it is done here. */
    t->ferr = pending;
    if (bus->x87_error(t->v, pending) || !pending)
        return FAULT_NONE;
    /* The processor freezes before the instruction until it is interrupted (SDM vol. 1, 8.7.2):
     * it is tried again and again, with a look at the requests between. */
    return FAULT_AGAIN;
}

Fault vec_check_slow(CpuState *s, Tcg *t, uint32_t attr)
{
    if (attr & A_AVX) {
        uint64_t need = attr & A_AVX512 ? 0xe6 : 6;
        if (!(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & need) != need)
            return raise_ud(t);
    } else if ((s->cr0 & CR0_EM) || ((attr & A_SSE) && !(s->cr4 & CR4_OSFXSR))) {
        return raise_ud(t);
    }
    if (s->cr0 & CR0_TS)
        return raise_exc(t, VEC_NM);
    return attr & A_MMX ? x87_pending(s, t) : FAULT_NONE;
}
