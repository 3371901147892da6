/* The kvm room's tables against KVM: what is put is got back, and no byte is forgotten. */
#include "kvm_fixture.h"
#include "run_suite.h"

/* ---- every byte of the kvm_* structures is spoken for ---- */

static void claim(uint8_t *map, size_t offset, size_t size, const char *what)
{
    for (size_t i = 0; i < size; i++)
        ck_assert_msg(!map[offset + i], "%s: claimed twice", what);
    memset(map + offset, 1, size);
}

static void claim_segment(uint8_t *map, size_t offset)
{
    claim(map, offset, offsetof(struct kvm_segment, padding), "segment");
}

static void check_claims(const uint8_t *map, size_t from, size_t size, const char *what)
{
    for (size_t i = 0; i < size; i++)
        ck_assert_msg(map[from + i], "%s: byte %zu is in no row and not ignored", what, i);
}

#define AT(place)   offsetof(KvmState, place)
#define LEN(place)  sizeof(((KvmState *)0)->place)
#define CHECK(part) check_claims(map, AT(part), LEN(part), #part)

START_TEST(every_byte_claimed)
{
    uint8_t map[sizeof(KvmState)] = {0};
    bool shadow = false;

#define FIELD(group, id, name, ctype, member, place) claim(map, AT(place), LEN(place), name);
#define FIELD_BIT(group, id, name, member, place, mask) \
    if (!shadow)                                        \
        claim(map, AT(place), LEN(place), name);        \
    shadow = true;
#define SEGMENT(group, id, name, index, place) claim_segment(map, AT(place));
#define TABLE(group, id, name, member, place)          \
    claim(map, AT(place.base), LEN(place.base), name); \
    claim(map, AT(place.limit), LEN(place.limit), name);
#include "vmstate/fields.def"
#define IGNORED(place, why) claim(map, AT(place), LEN(place), #place);
#include "kvm/ignored.def"
    CHECK(regs);
    CHECK(sregs);
    CHECK(xcrs);
    CHECK(debugregs);
    CHECK(events);
    CHECK(mp_state);
}
END_TEST

/* The other direction: rows are as wide as what they name. */
START_TEST(rows_fit)
{
    enum { U8 = 1, U16 = 2, U32 = 4, U64 = 8, BOOL = sizeof(bool) };
#define FIELD(group, id, name, ctype, member, place)                            \
    ck_assert_msg(sizeof(fx.v.st.member) == ctype, "%s: declared width", name); \
    ck_assert_msg(LEN(place) >= ctype || ctype == BOOL, "%s: KVM's is narrower", name);
#define FIELD_NK(group, id, name, ctype, member) \
    ck_assert_msg(sizeof(fx.v.st.member) == ctype, "%s: declared width", name);
#define FIELD_X FIELD_NK_X
#define FIELD_NK_X(group, id, name, ctype, member) \
    ck_assert_msg(sizeof(fx.v.st.member) == ctype, "%s: declared width", name);
#include "vmstate/fields.def"
    for (unsigned i = 0; i < kvm_msr_rows_n; i++)
        for (unsigned j = 0; j < i; j++)
            ck_assert_msg(kvm_msr_rows[i].index != kvm_msr_rows[j].index, "%s and %s: one index",
                          kvm_msr_rows[i].name, kvm_msr_rows[j].name);
}
END_TEST

/* ---- random put, get, compare ---- */

static uint64_t seed;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static uint64_t rnd_canonical(void)
{
    return (uint64_t)((int64_t)(rnd() << 16) >> 16);
}

static Segment rnd_segment(uint32_t type, bool big_limit)
{
    Segment s = {.base = (uint32_t)rnd(), .selector = (uint16_t)rnd() & 0xfff8, .attr = type};
    s.limit = big_limit ? (uint32_t)rnd() | 0xfff00fff : (uint32_t)rnd() & 0xffff;
    s.attr |= big_limit ? SEG_G : 0;
    return s;
}

static uint64_t rnd_mtrr_type(void)
{
    static const uint8_t type[] = {0, 1, 4, 5, 6};
    return type[rnd() % ARRAY_LEN(type)];
}

static uint64_t rnd_bytes(uint64_t (*byte)(void))
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | byte();
    return v;
}

static uint64_t rnd_pat(void)
{
    uint64_t t = rnd_mtrr_type();
    return t == 5 ? 7 : t;
}

/* A value that a register of this policy takes. */
static uint64_t rnd_msr(const MsrRow *row)
{
    uint64_t page = rnd() & (BIT(cpuid_phys_bits(&fx.cpuid)) - 1) & ~0xfffull;
    switch ((enum MsrPolicy)row->policy) {
    case MSRP_LOW32:
    case MSRP_HIDDEN: /* SMBASE */
        return (uint32_t)rnd();
    case MSRP_CANONICAL:
        return rnd_canonical();
    case MSRP_PAT:
        return rnd_bytes(rnd_pat);
    case MSRP_MTRR_DEF:
        return rnd_mtrr_type() | (rnd() & 0xc00);
    case MSRP_MTRR_FIXED:
        return rnd_bytes(rnd_mtrr_type);
    case MSRP_MTRR_BASE:
        return page | rnd_mtrr_type();
    case MSRP_MTRR_MASK:
        return page | (rnd() & 0x800);
    case MSRP_MC_CTL:
        return rnd() & 1 ? UINT64_MAX : 0;
    case MSRP_TSC_ADJUST:
        return rnd();
    case MSRP_PLAIN:
        /* STAR and the selector and machine-check rows take all bits; the others few. */
        if (row->index == 0xc0000081 || row->index == 0x174 ||
            (row->index >= 0x400 && row->index < 0x480))
            return rnd();
        return row->index == 0x3a || row->index == 0x1a0 ? 1 : 0;
    default:
        return 0;
    }
}

static void rnd_events(Events *e)
{
    memset(e, 0, sizeof(*e));
    switch (rnd() % 4) {
    case 0:
        e->exception.pending = true;
        e->exception.nr = VEC_PF;
        e->exception.has_error = e->exception.has_payload = true;
        e->exception.error = (uint32_t)rnd() & 7;
        e->exception.payload = rnd_canonical();
        break;
    case 1:
        e->exception.injected = true;
        e->exception.nr = VEC_GP;
        e->exception.has_error = true;
        e->exception.error = (uint32_t)rnd() & 0xffff;
        break;
    case 2:
        e->interrupt.injected = true;
        e->interrupt.nr = (uint8_t)(32 + rnd() % 224);
        break;
    default:
        e->nmi.injected = rnd() & 1;
    }
    e->nmi.masked = e->nmi.injected || rnd() & 1;
    e->nmi.pending = rnd() & 1;
    switch (rnd() % 3) {
    case 0:
        e->shadow_sti = true;
        break;
    case 1:
        e->shadow_mov_ss = true;
        break;
    }
}

static void rnd_fpu(FpuState *f)
{
    for (unsigned i = 0; i < 16; i++)
        f->v[i].q[0] = rnd(), f->v[i].q[1] = rnd();
    for (unsigned i = 0; i < 8; i++) {
        f->r[i].mant = rnd() | BIT(63);
        f->r[i].se = (uint16_t)rnd() & 0x7fff;
    }
    f->fcw = 0x37f;
    f->fsw = (uint16_t)rnd() & 0x7f00; /* condition codes and TOP */
    f->ftw = (uint8_t)rnd();
    f->fop = (uint16_t)rnd() & 0x7ff;
    f->fip = rnd() & 0x7fffffffffff;
    f->fdp = rnd() & 0x7fffffffffff;
    f->mxcsr = 0x1f80 | ((uint32_t)rnd() & 0x3f);
    f->xstate_bv = 3;
}

static void rnd_state(CpuState *s, bool long_mode)
{
    const uint32_t data = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
    const uint32_t code = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED;

    cpu_state_reset(s, 0, true);
    for (unsigned i = 0; i < GPR_N; i++)
        s->gpr[i] = rnd();
    s->rip = rnd_canonical();
    s->rflags = FL_FIXED | (rnd() & (FL_ARITH | FL_IF | FL_DF | FL_AC | FL_ID | FL_NT | FL_IOPL));
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = rnd_segment(data, long_mode);
    s->seg[CS] = rnd_segment(code | (long_mode ? SEG_L : 0), long_mode);
    s->seg[LDTR] = rnd_segment(SEG_P | 2, false);
    s->seg[TR] = rnd_segment(SEG_P | 11, false);
    s->gdt = (DescTable){rnd_canonical(), (uint16_t)rnd()};
    s->idt = (DescTable){rnd_canonical(), (uint16_t)rnd()};
    s->cr2 = rnd();
    s->cr0 = CR0_ET | CR0_NE | (rnd() & (CR0_MP | CR0_TS | CR0_WP | CR0_AM));
    s->cr4 = rnd() & (CR4_VME | CR4_DE | CR4_PSE | CR4_MCE | CR4_PGE | CR4_OSFXSR);
    if (long_mode) {
        s->cr0 |= CR0_PE | CR0_PG;
        s->cr4 |= CR4_PAE;
        s->efer = EFER_LME | EFER_LMA | EFER_SCE | (rnd() & EFER_NXE);
        s->cr3 = rnd() & 0xfffff000;
        s->seg[FS].base = rnd_canonical();
        s->seg[GS].base = rnd_canonical();
        s->cpl = (uint8_t)(rnd() % 2 * 3);
        s->seg[CS].attr |= (uint32_t)s->cpl << SEG_DPL_SHIFT;
        s->seg[SS].attr |= (uint32_t)s->cpl << SEG_DPL_SHIFT;
        s->seg[ES] = (Segment){.attr = SEG_UNUSABLE};
    }
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = rnd_canonical();
    s->dr6 = DR6_FIXED1 | (rnd() & 0xf);
    s->dr7 = DR7_FIXED1 | (rnd() & 0xff);
    s->xcr0 = cpuid_xcr0_mask(&fx.cpuid) ? 1 | (rnd() & 2) : 1;
    s->tsc_offset = rnd() >> 8;
    s->cr8 = fx.tpr = rnd() & 0xf;
    rnd_events(&s->ev);
    rnd_fpu(&s->fpu);
    const KvmVm *kvm = fx.vm.kvm;
    for (unsigned i = 0; i < kvm->n_msrs; i++) {
        const MsrRow *row = &kvm_msr_rows[kvm->msr[i]];
        *(uint64_t *)(void *)((char *)s + row->offset) = rnd_msr(row);
    }
    s->msr.apic_base = fx.apic_base;
    fx.tsc_deadline = s->msr.tsc_deadline = rnd();
}

static void compare(const CpuState *a, const CpuState *b)
{
#define SAME(name, x, y) \
    ck_assert_msg((x) == (y), "%s: put %#llx, got %#llx", name, (long long)(x), (long long)(y));
#define FIELD(group, id, name, ctype, member, place)    SAME(name, a->member, b->member)
#define FIELD_NK(group, id, name, ctype, member)        SAME(name, a->member, b->member)
#define FIELD_BIT(group, id, name, member, place, mask) SAME(name, a->member, b->member)
#define TABLE(group, id, name, member, place)          \
    SAME(name " base", a->member.base, b->member.base) \
    SAME(name " limit", a->member.limit, b->member.limit)
#define SEGMENT(group, id, name, index, place)                             \
    SAME(name " selector", a->seg[index].selector, b->seg[index].selector) \
    SAME(name " base", a->seg[index].base, b->seg[index].base)             \
    SAME(name " limit", a->seg[index].limit, b->seg[index].limit)          \
    SAME(name " attr", a->seg[index].attr, b->seg[index].attr)
#include "vmstate/fields.def"
#define MSR(index, id, member, name, policy, feature)                                     \
    if (MSRP_##policy != MSRP_TSC_OFFSET || ((KvmVm *)fx.vm.kvm)->host->tsc != TSC_FIXED) \
    SAME(name, a->member, b->member)
#include "vmstate/msrs.def"
}

static void compare_fpu(const FpuState *a, const FpuState *b)
{
    for (unsigned i = 0; i < 16; i++)
        ck_assert_msg(!memcmp(a->v[i].b, b->v[i].b, 16), "XMM%u", i);
    for (unsigned i = 0; i < 8; i++)
        ck_assert_msg(!memcmp(a->r[i].b, b->r[i].b, 10), "R%u", i);
    SAME("FCW", a->fcw, b->fcw)
    SAME("FSW", a->fsw, b->fsw)
    SAME("FTW", a->ftw, b->ftw)
    SAME("FOP", a->fop, b->fop)
    SAME("FIP", a->fip, b->fip)
    SAME("FDP", a->fdp, b->fdp)
    SAME("MXCSR", a->mxcsr, b->mxcsr)
}

START_TEST(put_get_compare)
{
    for (seed = 1 + (uint64_t)_i * 1000003; seed < 60 + (uint64_t)_i * 1000003;) {
        uint64_t start = seed;
        CpuState put;
        rnd_state(&put, _i);
        memset(&fx.v.st, 0, sizeof(fx.v.st));
        fx.v.st = put;
        fx_import();
        memset(&fx.v.st, 0x5a, sizeof(fx.v.st));
        /* What KVM does not keep must be left alone by the export. */
        fx.v.st.run_state = put.run_state;
        fx.v.st.sipi_vector = put.sipi_vector;
        fx.v.st.fpu.mxcsr_mask = put.fpu.mxcsr_mask;
        Msrs all = put.msr;
        const KvmVm *kvm = fx.vm.kvm;
        fx.v.st.msr = all;
        for (unsigned i = 0; i < kvm->n_msrs; i++) {
            const MsrRow *row = &kvm_msr_rows[kvm->msr[i]];
            if (!kvm->sysenter32 || (row->index != 0x175 && row->index != 0x176))
                *(uint64_t *)(void *)((char *)&fx.v.st + row->offset) ^= ~0ull;
        }
        fx_export();
        if (fx.v.st.ev.shadow_mov_ss && put.ev.shadow_sti) /* SVM's shadow has no kind */
            put.ev.shadow_mov_ss = true, put.ev.shadow_sti = false;
        compare(&put, &fx.v.st);
        compare_fpu(&put.fpu, &fx.v.st.fpu);
        seed = start + 1;
    }
}
END_TEST

START_TEST(partial_import_keeps_events)
{
    seed = 7;
    rnd_state(&fx.v.st, true);
    memset(&fx.v.st.ev, 0, sizeof(fx.v.st.ev));
    fx.v.st.ev.exception.pending = true;
    fx.v.st.ev.exception.nr = VEC_DE;
    fx_import();
    GError *err = NULL;
    fx.v.st.gpr[RAX] = 0x1234;
    memset(&fx.v.st.ev, 0, sizeof(fx.v.st.ev));
    engine_kvm.import_state(&fx.v, GRP_REGS, &err);
    fx_fail(err);
    fx_export();
    ck_assert(fx.v.st.ev.exception.pending);
    ck_assert_uint_eq(fx.v.st.ev.exception.nr, VEC_DE);
    ck_assert_uint_eq(fx.v.st.gpr[RAX], 0x1234);
}
END_TEST

START_TEST(bad_state_is_refused_by_name)
{
    GError *err = NULL;
    cpu_state_reset(&fx.v.st, 0, true);
    fx.v.st.msr.lstar = 0x8000000000000000ull; /* not canonical */
    if (engine_kvm.import_state(&fx.v, GROUPS_ALL, &err))
        return; /* a back end that checks nothing */
    ck_assert_msg(strstr(err->message, "LSTAR") != NULL, "%s", err->message);
    g_clear_error(&err);
    fx.v.st.msr.lstar = 0;
    fx_import();
}
END_TEST

START_TEST(memory_slots_follow_the_map)
{
    GError *err = NULL;
    uint64_t dirty[(RAM_SIZE / 4096 + 63) / 64];

    /* A hole in the middle, and the rest of RAM as ROM: PAM does such things. */
    MemMap whole = fx.mem;
    fx.mem.slot[2] = fx.mem.slot[1];
    fx.mem.slot[0].size = 0x10000;
    fx.mem.slot[1] = (RamSlot){
        .gpa = 0x20000, .size = 0x10000, .host = fx.ram + 0x20000, .fd = -1, .readonly = true};
    fx.mem.n = 3;
    ck_assert(engine_kvm.map_changed(&fx.vm, &err));
    const KvmVm *kvm = fx.vm.kvm;
    unsigned n = 0;
    for (unsigned i = 0; i < MEMMAP_MAX; i++)
        n += kvm->slot[i].ram.size != 0;
    ck_assert_uint_eq(n, 3);
    fx.mem = whole;
    ck_assert(engine_kvm.map_changed(&fx.vm, &err));
    ck_assert(!kvm_dirty_fetch(&fx.vm, 0, dirty, &err));
    g_clear_error(&err);
    ck_assert(kvm_dirty_log(&fx.vm, true, &err));
    ck_assert(kvm_dirty_fetch(&fx.vm, 0, dirty, &err));
    ck_assert(kvm_dirty_log(&fx.vm, false, &err));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kvm");
    TCase *tables = tcase_create("tables"), *state = tcase_create("state");

    if (!fx_have_kvm())
        return 77;
    tcase_add_test(tables, every_byte_claimed);
    tcase_add_test(tables, rows_fit);
    suite_add_tcase(s, tables);
    tcase_add_checked_fixture(state, fx_setup, fx_teardown);
    tcase_add_loop_test(state, put_get_compare, 0, 2);
    tcase_add_test(state, partial_import_keeps_events);
    tcase_add_test(state, bad_state_is_refused_by_name);
    tcase_add_test(state, memory_slots_follow_the_map);
    tcase_set_timeout(state, 60);
    suite_add_tcase(s, state);
    return run_suite(s);
}
