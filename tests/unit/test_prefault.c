/*
 * Pages that KVM maps ahead (kvm/prefault.c). The list of them is tested everywhere; what comes of
 * it, by the faults that KVM counts, where KVM can do it.
 */
#include "cpu/fresh.h"
#include "kvm_fixture.h"
#include "switch/switch.h"
#include "run_suite.h"

/* ---- the list ---- */

static FreshMap map;
static Fresh fresh, other;

static void list_setup(void)
{
    fresh = other = (Fresh){.map = &map};
    fresh_map_grow(&map, 4096 << 12);
}

static void list_teardown(void)
{
    fresh_map_free(&map);
}

static void expect(Fresh *f, unsigned most, unsigned n, const gpa_t *page)
{
    gpa_t got[FRESH_MAX];
    ck_assert_uint_eq(fresh_take(f, got, most), n);
    for (unsigned i = 0; i < n; i++)
        ck_assert_uint_eq(got[i], page[i]);
}

START_TEST(once_and_the_latest_first)
{
    fresh_used(NULL, 0x1000);
    fresh_used(&fresh, 0x1234);
    fresh_used(&fresh, 0x5000);
    fresh_used(&fresh, 0x1fff);
    fresh_used(&other, 0x5000); /* the first vCPU's */
    fresh_used(&other, 0x7000);
    fresh_used(&fresh, 0x6000);
    fresh_used(&fresh, 4096 << 12); /* there is no such page */
    fresh_used(&fresh, ~0ull);
    expect(&fresh, 2, 2, (const gpa_t[]){0x6000, 0x5000});
    fresh_used(&fresh, 0x5000);
    fresh_used(&fresh, 0x8000);
    expect(&fresh, 9, 2, (const gpa_t[]){0x8000, 0x1000});
    expect(&fresh, 9, 0, NULL);
    expect(&other, 9, 1, (const gpa_t[]){0x7000});
}
END_TEST

START_TEST(forgotten_ones_come_again)
{
    fresh_used(&fresh, 0x1000);
    fresh_used(&fresh, 0x2000);
    fresh_used(&fresh, 0x3000);
    expect(&fresh, 3, 3, (const gpa_t[]){0x3000, 0x2000, 0x1000});
    fresh_map_forget(&map, 0x2000, 0x1000);
    fresh_map_forget(&map, 4095 << 12, 1ull << 40);
    fresh_map_grow(&map, 8192ull << 12);
    fresh_map_grow(&map, 1 << 12);
    for (gpa_t at = 0x1000; at < 0x4000; at += 0x1000)
        fresh_used(&fresh, at);
    fresh_used(&fresh, 8191ull << 12);
    expect(&fresh, 3, 2, (const gpa_t[]){8191ull << 12, 0x2000});
}
END_TEST

/* The latest FRESH_MAX stay; who is pushed out can come again, who stays cannot. */
START_TEST(more_than_fit)
{
    gpa_t got[FRESH_MAX];
    for (uint64_t page = 0; page < FRESH_MAX + 10; page++)
        fresh_used(&fresh, page << 12);
    fresh_used(&fresh, 10 << 12);
    ck_assert_uint_eq(fresh.n, FRESH_MAX);
    fresh_used(&fresh, 3 << 12); /* pushes out the eleventh */
    fresh_used(&fresh, 10 << 12);
    ck_assert_uint_eq(fresh_take(&fresh, got, FRESH_MAX), FRESH_MAX);
    ck_assert_uint_eq(got[0], 10 << 12);
    ck_assert_uint_eq(got[1], 3 << 12);
    ck_assert_uint_eq(got[2], (FRESH_MAX + 9) << 12);
    ck_assert_uint_eq(got[FRESH_MAX - 1], 12 << 12);
}
END_TEST

/* ---- KVM ---- */

static void setup(void)
{
    GError *err = NULL;
    fx_setup();
    engine_interp.vm_init(&fx.vm, &err);
    fx_fail(err);
    engine_interp.vcpu_init(&fx.v, &err);
    fx_fail(err);
}

static void teardown(void)
{
    engine_interp.vcpu_free(&fx.v);
    engine_interp.vm_free(&fx.vm);
    fx_teardown();
}

static bool possible(void)
{
    return kvm_host(NULL)->cap[CAP_PRE_FAULT_MEMORY];
}

enum { FIRST = 0x10000, PAGES = (RAM_SIZE - FIRST) / 4096 };

/* Writes to each page from FIRST on, the last first, and reads the ROM's first two; in real mode.
 */
static void visit(const Engine *e)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0xf0, 0x8e, 0xd8,       /* mov ax, f000; mov ds, ax */
        0xa0, 0x00, 0x00, 0xa0, 0x00, 0x10, /* mov al, [0]; mov al, [1000] */
        0xbb, 0x00, 0x8f,                   /* mov bx, 8f00: the segment of the last page */
        0x8e, 0xdb, 0xfe, 0x06, 0x00, 0x00, /* next: mov ds, bx; inc byte [0] */
        0x81, 0xeb, 0x00, 0x01,             /* sub bx, 100 */
        0x81, 0xfb, 0x00, 0x10, 0x73, 0xf0, /* cmp bx, 1000; jae next */
        0xf4,
    };
    static const RunLimit none;
    GError *err = NULL;
    CpuState *s = &fx.v.st;
    uint64_t before = fx.ram[FIRST];
    memcpy(fx.ram + CODE, code, sizeof(code));
    cpu_state_reset(s, cpuid_signature(&fx.cpuid), true);
    s->seg[CS].base = s->seg[CS].selector = 0;
    s->rip = CODE;
    s->msr.apic_base = fx.apic_base;
    fx.v.where = ST_CANONICAL;
    if (fx.v.engine == &engine_kvm)
        fx.v.engine = &engine_interp; /* its state is not wanted any more */
    if (!vcpu_switch(&fx.v, e, SWITCH_TEST, &err))
        ck_abort_msg("%s", err->message);
    Exit x = e->run(&fx.v, &none);
    ck_assert_msg(x.kind == EXIT_HLT, "exit %d: %s", x.kind, x.msg);
    for (unsigned i = 0; i < PAGES; i++)
        ck_assert_uint_eq(fx.ram[FIRST + i * 4096], (uint8_t)(before + 1));
}

static uint64_t faults(void)
{
    KvmPrefault p;
    ck_assert(kvm_prefault_stats(&fx.v, &p));
    ck_assert(p.faults_known);
    return p.faults;
}

static KvmPrefault did(void)
{
    KvmPrefault p;
    ck_assert(kvm_prefault_stats(&fx.v, &p));
    return p;
}

/* What has been used in the software engine takes no fault in KVM, neither to be read nor to be
 * written; the second time there is nothing to do. */
START_TEST(no_faults_where_mapped_ahead)
{
    visit(&engine_interp);
    ck_assert_uint_ge(fx.v.fresh->n, PAGES + 3);
    visit(&engine_kvm);
    ck_assert_uint_le(faults(), 8); /* KVM's own pages for real mode */
    ck_assert_uint_eq(did().switches, 1);
    ck_assert_uint_ge(did().pages, PAGES + 3);
    ck_assert_uint_eq(fx.v.fresh->n, 0);
    uint64_t once = faults();
    fx.v.engine = &engine_interp;
    visit(&engine_interp);
    visit(&engine_kvm);
    ck_assert_uint_eq(faults(), once);
    ck_assert_uint_eq(did().switches, 1);
}
END_TEST

START_TEST(faults_where_not)
{
    fx.vm.no_prefault = true;
    kvm_fresh_init(&fx.v);
    ck_assert_ptr_null(fx.v.fresh);
    visit(&engine_interp);
    visit(&engine_kvm);
    ck_assert_uint_ge(faults(), PAGES);
    ck_assert_uint_eq(did().pages, 0);
}
END_TEST

/* A slot that is made anew has lost what was mapped. */
START_TEST(slot_made_anew)
{
    GError *err = NULL;
    visit(&engine_interp);
    visit(&engine_kvm);
    RamSlot ram = fx.mem.slot[0];
    fx.mem.slot[0] = fx.mem.slot[1];
    fx.mem.n = 1;
    ck_assert(kvm_slots_sync(&fx.vm, &err));
    fx.mem.slot[1] = fx.mem.slot[0];
    fx.mem.slot[0] = ram;
    fx.mem.n = 2;
    ck_assert(kvm_slots_sync(&fx.vm, &err));
    uint64_t before = faults();
    fx.v.engine = &engine_interp;
    engine_interp.enter(&fx.v);
    visit(&engine_interp);
    ck_assert_uint_ge(fx.v.fresh->n, PAGES);
    visit(&engine_kvm);
    ck_assert_uint_le(faults(), before + 8);
    ck_assert_uint_eq(did().switches, 2);
}
END_TEST

/* A page that is no slot's is passed over, and one that is known is not listed. */
START_TEST(strays)
{
    for (unsigned i = 0; i < 300; i++)
        fresh_used(fx.v.fresh, i << 12);
    unsigned n = fx.v.fresh->n;
    ck_assert_uint_eq(n, (ROM_GPA + ROM_SIZE) >> 12);
    for (unsigned i = 0; i < 300; i++)
        fresh_list(fx.v.fresh, 0); /* known: nothing */
    ck_assert_uint_eq(fx.v.fresh->n, n);
    kvm_prefault(&fx.v);
    ck_assert_ptr_nonnull(fx.v.fresh);
    ck_assert_uint_eq(fx.v.fresh->n, 0);
    ck_assert_uint_eq(did().pages, n);
    visit(&engine_kvm);
    ck_assert_uint_le(faults(), 8);
}
END_TEST

/* Another KVM says so once, and is not asked again. */
START_TEST(not_there)
{
    kvm_fresh_init(&fx.v);
    ck_assert_ptr_null(fx.v.fresh);
    visit(&engine_interp);
    kvm_prefault(&fx.v);
    ck_assert_uint_eq(did().pages, 0);
    ck_assert(!did().possible);
    fx.v.fresh = &((KvmVcpu *)fx.v.engine_data[ENGINE_KVM])->fresh;
    fresh_map_grow(fx.v.fresh->map, RAM_SIZE);
    fresh_used(fx.v.fresh, 0x1000);
    kvm_prefault(&fx.v);
    ck_assert_ptr_null(fx.v.fresh);
    ck_assert_uint_eq(did().pages, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("prefault");
    TCase *c = tcase_create("list");
    tcase_add_checked_fixture(c, list_setup, list_teardown);
    tcase_add_test(c, once_and_the_latest_first);
    tcase_add_test(c, forgotten_ones_come_again);
    tcase_add_test(c, more_than_fit);
    suite_add_tcase(s, c);
    c = tcase_create("kvm");
    tcase_add_checked_fixture(c, setup, teardown);
    if (fx_have_kvm() && possible()) {
        tcase_add_test(c, no_faults_where_mapped_ahead);
        tcase_add_test(c, faults_where_not);
        tcase_add_test(c, slot_made_anew);
        tcase_add_test(c, strays);
    } else if (kvm_host(NULL)) {
        printf("without KVM_CAP_PRE_FAULT_MEMORY: the list alone\n");
        tcase_add_test(c, not_there);
    }
    suite_add_tcase(s, c);
    return run_suite(s);
}
