/* An idle vCPU's caches go back to the host, and it runs on all the same. */
#include <stdlib.h>
#include "tcg/jit.h"
#include "tcg_guest.h"

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
    size_t pages = bytes / 4096, n = 0;
    g_autofree unsigned char *in = g_malloc(pages);
    ck_assert_int_eq(mincore((void *)(uintptr_t)at, bytes, in), 0);
    for (size_t k = 0; k < pages; k++)
        n += in[k] & 1;
    return n * 4096;
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

    /* One instruction in a window that is long over. */
    *(uint8_t *)gp(G_CODE + 0x1000) = 0xf4;
    tcg()->idle.window = 1;
    tcg()->idle.busy = 0;
    again(0x1000 / LINE);
    ck_assert_uint_lt(tcg()->blocks->used, 1u << 20);
    ck_assert_uint_lt(resident(tcg()->blocks->arena, BLOCK_ARENA), 1u << 20);
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

int main(void)
{
    Suite *s = suite_create("idle");
    TCase *t = tcase_create("idle");
    tcase_add_loop_test(t, memory_goes_back, 0, ARRAY_LEN(engines));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failures = srunner_ntests_failed(r);
    srunner_free(r);
    return failures ? 1 : 0;
}
