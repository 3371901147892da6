/*
 * What must be equal after a step.
 *
 * Both sides' memory was equal before; software engines note each store (WriteLog). So with two of
 * them it is enough to look at what either has written. KVM notes nothing: there the other's stores
 * are looked at after each step, and all of memory now and then.
 */
#include "diff/lockstep.h"

#include <string.h>

#include "tcg/tcg.h"
#include "vmstate/rules.h"
#include "vmstate/state.h"

enum { DIFFERENCES_SHOWN = 24 };

const LsRuleInfo ls_rules[LSR_N] = {
#define LS_RULE(id, name, where, reason) [LSR_##id] = {name, where, reason},
#include "diff/lockstep_rules.def"
#undef LS_RULE
};

void ls_diverge(Lockstep *ls, const char *fmt, ...)
{
    if (ls->diverged && ls->why[0])
        return;
    va_list ap;
    va_start(ap, fmt);
    g_vsnprintf(ls->why, sizeof(ls->why), fmt, ap);
    va_end(ap);
    ls->diverged = true;
}

void ls_differs(Lockstep *ls, const char *what, const char *a, const char *b)
{
    ls->diverged = true;
    if (++ls->n_differences <= DIFFERENCES_SHOWN)
        g_string_append_printf(ls->differences, "  %-14s %-36s %s\n", what, a, b);
}

uint8_t *ls_host(const LsSide *s, gpa_t gpa, uint64_t len)
{
    return memmap_host(s->vm->mem, gpa, len, false);
}

/* ---- registers ---- */

static void note(const VmstateField *f, const char *a, const char *b, void *opaque)
{
    Lockstep *ls = opaque;
    ls_differs(ls, f->name, a, b);
}

static void level_null_segments(Lockstep *ls, const CpuState *a, CpuState *b)
{
    for (unsigned i = 0; i < LDTR; i++) {
        const Segment *x = &a->seg[i];
        Segment *y = &b->seg[i], had = *y;
        if (i == CS || x->selector > 3 || y->selector != x->selector)
            continue;
        if (y->limit == x->limit && y->attr == x->attr && (i >= FS || y->base == x->base))
            continue;
        ls_rule(ls, LSR_NULL_SEGMENT);
        *y = *x;
        if (i >= FS)
            y->base = had.base;
    }
}

/* What there is one of, whoever asks; and what KVM does not hold. */
static void level(Lockstep *ls, const CpuState *a, CpuState *b, bool soft)
{
    if (a->msr.apic_base != b->msr.apic_base || a->msr.tsc_deadline != b->msr.tsc_deadline ||
        a->cr8 != b->cr8)
        ls_rule(ls, LSR_APIC);
    b->msr.apic_base = a->msr.apic_base;
    b->msr.tsc_deadline = a->msr.tsc_deadline;
    b->cr8 = a->cr8;
    if (soft)
        return;
    if (a->run_state != b->run_state)
        ls_rule(ls, LSR_RUN_STATE);
    b->run_state = a->run_state;
    b->sipi_vector = a->sipi_vector;
    if ((a->rflags ^ b->rflags) & FL_RF)
        ls_rule(ls, LSR_RF);
    b->rflags = (b->rflags & ~(uint64_t)FL_RF) | (a->rflags & FL_RF);
    if (cpu_code64(a) && cpu_code64(b))
        level_null_segments(ls, a, b);
    bool shadow_a = a->ev.shadow_sti || a->ev.shadow_mov_ss;
    bool shadow_b = b->ev.shadow_sti || b->ev.shadow_mov_ss;
    if (shadow_a == shadow_b) {
        b->ev.shadow_sti = a->ev.shadow_sti;
        b->ev.shadow_mov_ss = a->ev.shadow_mov_ss;
    }
}

static void compare_states(Lockstep *ls, unsigned groups)
{
    CpuState *sa = &ls->side[LEADER].v->st, *sb = &ls->side[FOLLOWER].v->st;
    bool soft = ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]);
    if (soft && !memcmp(sa, sb, sizeof(*sa)))
        return;
    CpuState a = *sa, b = *sb;
    level(ls, &a, &b, soft);
    /* A leader that was switched has its state in canonical form; the follower keeps its own, so
     * that a rule that loses something shows. */
    if (!soft || ls->opt.other) {
        RuleEnv env = {.tsc_offset_fixed = ls->side[LEADER].vm->tsc_offset_fixed};
        rules_apply(&a, RULE_BOTH, &env, NULL, NULL);
        rules_apply(&b, RULE_BOTH, &env, NULL, NULL);
    }
    vmstate_diff(&a, &b, groups, note, ls);
    if (a.tsc_offset != b.tsc_offset && groups & GRP_MSRS) {
        char va[24], vb[24];
        g_snprintf(va, sizeof(va), "%#" G_GINT64_MODIFIER "x", a.tsc_offset);
        g_snprintf(vb, sizeof(vb), "%#" G_GINT64_MODIFIER "x", b.tsc_offset);
        ls_differs(ls, "TSC offset", va, vb);
    }
    /* Equal but for padding, over which the next comparison need not stumble. */
    if (soft && !ls->opt.other && !ls->diverged)
        *sb = *sa;
}

/* The instruction before was an STI with nothing to do. */
static void level_sti(Lockstep *ls, const CpuState *a, CpuState *b)
{
    LsInsn insn;
    if (!b->ev.shadow_sti || a->ev.shadow_sti || !(ls->before.rflags & FL_IF))
        return;
    ls_fetch(&ls->side[FOLLOWER], &ls->before, &insn);
    if (!insn.known || insn.bytes[insn.len - 1] != 0xfb || insn.len > 2)
        return;
    ls_rule(ls, LSR_STI);
    b->ev.shadow_sti = false;
}

void ls_compare_switched(Lockstep *ls, const CpuState *a, CpuState *b)
{
    CpuState want = *a;
    RuleEnv env = {.tsc_offset_fixed = ls->side[LEADER].vm->tsc_offset_fixed};
    rules_apply(&want, RULE_BOTH, &env, NULL, NULL);
    level_sti(ls, &want, b);
    level(ls, &want, b, false);
    if (b->tsc_offset != want.tsc_offset)
        ls_rule(ls, LSR_TSC);
    b->tsc_offset = want.tsc_offset;
    b->msr.tsc_adjust = want.msr.tsc_adjust;
    vmstate_diff(b, &want, GROUPS_ALL, note, ls);
}

static void compare_tpr(Lockstep *ls)
{
    LsSide *second = &ls->side[!ls->first];
    uint8_t have = ls->side[ls->first].tpr;
    char va[24], vb[24];
    if (!second->tpr_written)
        return;
    if (ls->recording)
        have = ls->real->tpr_get(ls->side[LEADER].v);
    if (have == second->tpr)
        return;
    g_snprintf(va, sizeof(va), "%#x", ls->first == LEADER ? have : second->tpr);
    g_snprintf(vb, sizeof(vb), "%#x", ls->first == LEADER ? second->tpr : have);
    ls_differs(ls, "CR8", va, vb);
}

/* ---- memory ---- */

static void bytes_text(const uint8_t *p, unsigned n, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < n && at + 4 < size; i++)
        at += (size_t)g_snprintf(out + at, (gulong)(size - at), i ? " %02x" : "%02x", p[i]);
}

/* The bits that either has. */
static void give_both(Lockstep *ls, gpa_t gpa, uint8_t *a, uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < SIDES; i++)
        if (ls_notes(&ls->side[i]))
            write_log_add(&ls->side[i].writes, gpa, i == LEADER ? a : b, n)->paging = true;
    for (unsigned i = 0; i < n; i++)
        a[i] = b[i] = a[i] | b[i];
}

/*
 * Rule accessed: words that are paging entries by their look and differ in accessed and dirty bits
 * alone. Both sides get the bits that one has.
 */
static bool only_accessed(Lockstep *ls, gpa_t gpa, uint8_t *a, uint8_t *b)
{
    uint64_t va, vb, bits = 0x60;
    if (ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER]))
        return false;
    memcpy(&va, a, 8);
    memcpy(&vb, b, 8);
    if (!(va & vb & 1) || (va ^ vb) & ~bits)
        return false;
    ls_rule(ls, LSR_ACCESSED);
    give_both(ls, gpa, a, b, 8);
    return true;
}

/* Of the byte that holds the type. Tables are looked for where their beginning is mapped. */
static bool in_table(const Lockstep *ls, gpa_t gpa, gva_t base, uint32_t limit)
{
    const LsSide *s = &ls->side[ls->first];
    gpa_t at;
    return mmu_debug_translate(&s->v->st, s->vm, base, &at) && gpa >= at && gpa <= at + limit &&
           (gpa - at) % 8 == 5;
}

static bool only_descriptor(Lockstep *ls, gpa_t gpa, uint8_t *a, uint8_t *b)
{
    const CpuState *s = &ls->side[ls->first].v->st;
    if ((ls_soft(&ls->side[LEADER]) && ls_soft(&ls->side[FOLLOWER])) || (*a ^ *b) != SEG_ACCESSED ||
        !(*a & SEG_S))
        return false;
    if (!in_table(ls, gpa, s->gdt.base, s->gdt.limit) &&
        !in_table(ls, gpa, s->seg[LDTR].base, s->seg[LDTR].limit))
        return false;
    ls_rule(ls, LSR_DESCRIPTOR);
    give_both(ls, gpa, a, b, 1);
    return true;
}

/* From the first byte that differs, eight at a time. */
static void differ_at(Lockstep *ls, gpa_t gpa, uint8_t *a, uint8_t *b, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (a[i] == b[i])
            continue;
        if (only_descriptor(ls, gpa + i, a + i, b + i))
            continue;
        uint64_t word = (gpa + i) & 7;
        if (word <= i && i - word + 8 <= len &&
            only_accessed(ls, gpa + i - word, a + i - word, b + i - word))
            continue;
        unsigned n = (unsigned)MIN_OF(len - i, 8ull);
        char what[32], va[32], vb[32];
        g_snprintf(what, sizeof(what), "[%#" G_GINT64_MODIFIER "x]", gpa + i);
        if (strstr(ls->differences->str, what))
            continue; /* both have written there */
        bytes_text(a + i, n, va, sizeof(va));
        bytes_text(b + i, n, vb, sizeof(vb));
        ls_differs(ls, what, va, vb);
        i += n - 1;
    }
}

static void compare_written(Lockstep *ls, const LsSide *writer)
{
    const MemMap *ma = ls->side[LEADER].vm->mem, *mb = ls->side[FOLLOWER].vm->mem;
    const RamSlot *slot = NULL;
    unsigned k = 0;
    const WriteLog *l = &writer->writes;
    for (size_t at = writer->mark, next; at < l->used; at = next) {
        const WriteEntry *w = write_log_at(l, at); /* the log may grow and move below */
        next = at + w->room;
        if (!slot || w->gpa < slot->gpa || w->gpa + w->len > slot->gpa + slot->size) {
            slot = memmap_find(ma, w->gpa);
            if (!slot)
                continue;
            k = (unsigned)(slot - ma->slot);
        }
        uint8_t *a = slot->host + (w->gpa - slot->gpa);
        uint8_t *b = mb->slot[k].host + (w->gpa - slot->gpa);
        if (unlikely(memcmp(a, b, w->len) != 0))
            differ_at(ls, w->gpa, a, b, w->len);
    }
}

void ls_compare(Lockstep *ls, unsigned groups)
{
    compare_states(ls, groups);
    compare_tpr(ls);
    for (unsigned i = 0; i < SIDES; i++)
        if (ls_soft(&ls->side[i]))
            compare_written(ls, &ls->side[i]);
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
    return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* a has data in [at, at + len); b may have a hole there, which reads as zeros and stays one. */
static void compare_range(Lockstep *ls, const RamSlot *a, const RamSlot *b, uint64_t at,
                          uint64_t len, bool swapped)
{
    for (uint64_t end = at + len; at < end; at += 4096) {
        uint64_t n = MIN_OF(end - at, 4096ull), data = at, data_len;
        uint8_t *pa = a->host + at, *pb = b->host + at;
        bool hole = !slot_data(b, &data, &data_len) || data >= at + n;
        if ((swapped && !hole) || (hole ? is_zero(pa, n) : !memcmp(pa, pb, n)))
            continue;
        differ_at(ls, a->gpa + at, swapped ? pb : pa, swapped ? pa : pb, n);
    }
}

/* Ranges with data on either side; where both have some, once by large pieces. */
static void compare_slot(Lockstep *ls, const RamSlot *a, const RamSlot *b)
{
    for (uint64_t at = 0, len; slot_data(a, &at, &len); at += len) {
        uint64_t other = at, other_len;
        if (slot_data(b, &other, &other_len) && other == at && other_len >= len &&
            !memcmp(a->host + at, b->host + at, len))
            continue;
        compare_range(ls, a, b, at, len, false);
    }
    for (uint64_t at = 0, len; slot_data(b, &at, &len); at += len) {
        uint64_t other = at, other_len;
        if (slot_data(a, &other, &other_len) && other == at && other_len >= len)
            continue; /* seen above */
        compare_range(ls, b, a, at, len, true);
    }
}

void ls_compare_all(Lockstep *ls)
{
    const MemMap *a = ls->side[LEADER].vm->mem, *b = ls->side[FOLLOWER].vm->mem;
    ls->fulls++;
    for (unsigned i = 0; i < a->n; i++)
        if (!a->slot[i].readonly)
            compare_slot(ls, &a->slot[i], &b->slot[i]);
    if (ls->diverged) {
        ls->by_full = true;
        ls_diverge(ls, "memory that no comparison of single steps looked at");
        return;
    }
    ls->steps_since_full = 0;
    if (!ls->recording)
        return;
    /* From here on a state file begins here. */
    ls->checkpoint = *ls_state(ls);
    ls->checkpoint_insns = ls->insns;
    ls_log_truncate(ls, 0);
    for (unsigned i = 0; i < SIDES; i++) {
        write_log_clear(&ls->side[i].writes);
        ls->side[i].mark = 0;
    }
}

void ls_undo(LsSide *s, size_t mark)
{
    g_autoptr(GArray) at = g_array_new(FALSE, FALSE, sizeof(size_t));
    for (const WriteEntry *w = write_log_at(&s->writes, mark); w;
         w = write_log_next(&s->writes, w)) {
        size_t off = (size_t)((const uint8_t *)w - s->writes.data);
        g_array_append_val(at, off);
    }
    for (unsigned i = at->len; i-- > 0;) {
        const WriteEntry *w = write_log_at(&s->writes, g_array_index(at, size_t, i));
        uint8_t *p = ls_host(s, w->gpa, w->len);
        if (p)
            memcpy(p, w->old, w->len);
    }
    s->writes.used = mark;
}
