/* An idle vCPU's caches go back to the host, and it runs on all the same; one that spins sleeps. */
#include <stdlib.h>
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define LINE 16u     /* bytes: inc eax, and NOPs */
#define RUN  0xc0000 /* bytes of them, all decoded once */

static const Engine *const engines[] = {&engine_interp, &engine_jit};

static Tcg *tcg(void)
{
    return guest.v.engine_data[ENGINE_INTERP];
}

static void again(uint32_t want)
{
    guest.v.st.rip = G_CODE;
    guest.v.st.run_state = RUN_RUNNING;
    guest.v.st.gpr[RAX] = 0;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], want);
}

static size_t resident(const void *at, size_t bytes)
{
    size_t pages = bytes / PAGE_SIZE, n = 0;
    g_autofree unsigned char *in = g_malloc(pages);
    ck_assert_int_eq(mincore((void *)(uintptr_t)at, pages * PAGE_SIZE, in), 0);
    for (size_t k = 0; k < pages; k++)
        n += in[k] & 1;
    return n * PAGE_SIZE;
}

START_TEST(memory_goes_back)
{
    GError *err = NULL;
    bool jit = engines[_i] == &engine_jit;
    if (jit && !jit_supported(&err)) {
        g_error_free(err);
        return;
    }
    guest_setup();
    guest_engine = engines[_i];
    ck_assert(!jit || engine_jit.vcpu_init(&guest.v, &err));
    memset(gp(G_CODE), 0x90, RUN);
    for (uint64_t at = 0; at < RUN; at += LINE)
        memcpy(gp(G_CODE + at), "\xff\xc0", 2);
    *(uint8_t *)gp(G_CODE + RUN) = 0xf4;
    if (jit)
        jit_of(&guest.v)->hot_after = 0;
    again(RUN / LINE);
    size_t used = tcg()->blocks->used, code = jit ? jit_of(&guest.v)->used : 0;
    ck_assert_uint_gt(used, 32u << 20);
    ck_assert_uint_gt(resident(tcg()->blocks->arena, BLOCK_ARENA), 32u << 20);

    /* Busy: everything stays. */
    tcg()->idle.window = 1;
    tcg()->idle.busy = ~0ull;
    again(RUN / LINE);
    ck_assert_uint_eq(tcg()->blocks->used, used);

    /* So it does while the vCPU was in another engine. */
    tcg()->idle.window = 1;
    tcg()->idle.busy = 0;
    engines[_i]->enter(&guest.v);
    again(RUN / LINE);
    ck_assert_uint_ge(tcg()->blocks->used, used);

    /* One instruction in a window that is long over; another PCID has been in use. */
    tlb_switch(tcg(), 1, true);
    tlb_switch(tcg(), 0, true);
    const TlbBank *other = &tcg()->banks[tcg()->bank == &tcg()->banks[0]];
    const void *in_other = (const void *)(((uintptr_t)other + ~PAGE_MASK) & PAGE_MASK);
    ck_assert_uint_gt(resident(in_other, sizeof(*other) - PAGE_SIZE), 0);
    *(uint8_t *)gp(G_CODE + 0x1000) = 0xf4;
    tcg()->idle.window = 1;
    tcg()->idle.busy = 0;
    again(0x1000 / LINE);
    ck_assert_uint_lt(tcg()->blocks->used, 1u << 20);
    ck_assert_uint_lt(resident(tcg()->blocks->arena, BLOCK_ARENA), 1u << 20);
    ck_assert_uint_eq(resident(in_other, sizeof(*other) - PAGE_SIZE), 0);
    if (jit) {
        ck_assert_uint_lt(jit_of(&guest.v)->used, code / 10);
        ck_assert_uint_lt(resident(jit_of(&guest.v)->code_rw, jit_of(&guest.v)->code_bytes),
                          1u << 20);
    }
    *(uint8_t *)gp(G_CODE + 0x1000) = 0xff;
    engines[_i]->enter(&guest.v); /* it was written from outside */
    again(RUN / LINE);
    guest_teardown();
}
END_TEST

/* ---- a kernel that spins on PAUSE ---- */
static unsigned naps;

static void nap(Vcpu *v G_GNUC_UNUSED, uint64_t ns)
{
    ck_assert_uint_gt(ns, 0);
    naps++;
    *(uint8_t *)gp(G_DATA) = 1;
}

static uint32_t port(Vcpu *v G_GNUC_UNUSED, uint16_t at G_GNUC_UNUSED, unsigned size G_GNUC_UNUSED)
{
    return 0;
}

static bool spin_begins(void)
{
    GError *err = NULL;
    if (!jit_supported(&err)) {
        g_error_free(err);
        return false;
    }
    guest_setup();
    guest_engine = &engine_jit;
    ck_assert(engine_jit.vcpu_init(&guest.v, &err));
    guest.v.nap = nap;
    guest.bus.pio_read = port;
    guest.v.st.gpr[RBX] = G_DATA;
    guest.v.st.gpr[RCX] = 500000;
    naps = 0;
    return true;
}

/* It sleeps: this one ends no other way. */
START_TEST(spin_sleeps)
{
    /* L: pause; cmp byte [rbx], 0; je L; hlt */
    static const uint8_t code[] = {0xf3, 0x90, 0x80, 0x3b, 0, 0x74, 0xf9, 0xf4};
    if (!spin_begins())
        return;
    memcpy(gp(G_CODE), code, sizeof(code));
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(naps, 1);
    guest_teardown();
}
END_TEST

/* These do not: a device is asked each time; other vCPUs may change what is looked at; a program
 * spins; the processor is the guest's own; instructions are counted. */
START_TEST(spin_goes_on)
{
    /* L: pause; in al, 0x61 or 2 NOPs; dec ecx; jne L; hlt */
    static const uint8_t code[] = {0xf3, 0x90, 0xe4, 0x61, 0xff, 0xc9, 0x75, 0xf8, 0xf4};
    if (!spin_begins())
        return;
    memcpy(gp(G_CODE), code, sizeof(code));
    if (_i > 0)
        memcpy(gp(G_CODE + 2), "\x90\x90", 2);
    if (_i == 1)
        guest.vm.n_vcpus = 2;
    if (_i == 2)
        guest_segment(SS, 0xc0f3, 0x23);
    if (_i == 3)
        guest.vm.cpu_pm = true;
    Exit x = guest_run(_i == 4 ? 1900000 : 0); /* without an IDT a program's HLT ends all */
    ck_assert_int_eq(x.kind, _i == 2 ? EXIT_SHUTDOWN : _i == 4 ? EXIT_LIMIT : EXIT_HLT);
    ck_assert_uint_eq(naps, 0);
    guest.vm.n_vcpus = 1;
    guest_teardown();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("idle");
    TCase *t = tcase_create("idle");
    tcase_add_loop_test(t, memory_goes_back, 0, ARRAY_LEN(engines));
    tcase_add_test(t, spin_sleeps);
    tcase_add_loop_test(t, spin_goes_on, 0, 5);
    suite_add_tcase(s, t);
    return run_suite(s);
}
