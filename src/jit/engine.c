/*
 * engine_jit: the software engine with a translator. All but run() and what is asked of a
 * translator (tcg/translator.h) is engine_interp's.
 */
#include "jit/trans.h"
#include "tcg/translator.h"

static void translator_free(Tcg *t)
{
    jit_free(t->jit);
    t->jit = NULL;
    t->translator = NULL;
    t->v->engine_data[ENGINE_JIT] = NULL;
}

static void begin(Tcg *t, bool joined, bool counted)
{
    jit_chaining(t->jit, joined);
    if (counted)
        jit_counting(t->jit);
}

static void block_dead(Tcg *t, Block *b)
{
    jit_block_dead(t->jit, b);
}

static void block_good(Tcg *t, const Block *b)
{
    for (unsigned k = 1; b->jit && k < b->jit->n_parts; k++)
        blocks_prove(t, b->jit->part[k].b);
}

static void flush(Tcg *t)
{
    jit_flush(t->jit);
}

static void give_back(Tcg *t)
{
    jit_give_back(t->jit);
}

static void distrust(Tcg *t)
{
    jit_unlink_all(t->jit);
    jit_jumps_distrust(t->jit);
}

static const void *entry(const Block *b)
{
    return b->jit ? b->jit->entry : (const void *)b;
}

static void pages_flush(Tcg *t, bool all)
{
    jit_tlb_flush(t->jit, all);
    jit_jumps_flush(t->jit, all);
}

static void page_flush(Tcg *t, gva_t lin)
{
    jit_tlb_flush_page(t->jit, lin);
    jit_jumps_flush_page(t->jit, lin);
}

static void page_watched(Tcg *t, const uint8_t *host, bool tagged)
{
    jit_kernel_drop_writes(t->jit, host); /* which has its own record of what can be written */
    if (tagged)
        jit_tlb_drop_writes(t->jit, host);
}

static uint64_t handlers(const Tcg *t)
{
    return t->jit->helpers + t->jit->accesses;
}

static const Translator translator = {
    .free = translator_free,
    .begin = begin,
    .run = jit_run_blocks,
    .block_dead = block_dead,
    .block_good = block_good,
    .soft_immediate = jit_soft_imm,
    .flush = flush,
    .give_back = give_back,
    .distrust = distrust,
    .entry = entry,
    .pages_flush = pages_flush,
    .page_flush = page_flush,
    .page_watched = page_watched,
    .handlers = handlers,
};

static bool jit_vm_init(VmCommon *vm, GError **err)
{
    return jit_supported(err) && software_vm_init(vm, err);
}

static bool jit_vcpu_init(Vcpu *v, GError **err)
{
    if (!software_vcpu_init(v, err))
        return false;
    Tcg *t = v->engine_data[ENGINE_INTERP];
    if (!t->jit)
        t->jit = jit_new(t, err);
    t->translator = t->jit ? &translator : NULL;
    v->engine_data[ENGINE_JIT] = t->jit ? t : NULL;
    return t->jit != NULL;
}

static void jit_vcpu_free(Vcpu *v)
{
    if (v->engine_data[ENGINE_JIT])
        translator_free(v->engine_data[ENGINE_JIT]);
}

static Exit jit_engine_run(Vcpu *v, const RunLimit *limit)
{
    return software_run(v, limit, true);
}

const Engine engine_jit = {
    .name = "jit",
    .id = ENGINE_JIT,
    .vm_init = jit_vm_init,
    .vcpu_init = jit_vcpu_init,
    .vcpu_free = jit_vcpu_free,
    .run = jit_engine_run,
    SOFTWARE_DUTIES,
};
