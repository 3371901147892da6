/* RunLimit.stops in the interpreter and the translator: exact to the instruction, wherever the code
 * is by then: not yet decoded, in a block, joined to others, translated. */
#include <stdlib.h>

#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

static const Engine *const engines[] = {&engine_interp, &engine_jit};

static RunStops stops;

static Exit go(uint64_t most)
{
    RunLimit limit = {.max_insns = most, .stops = &stops};
    return guest_engine->run(&guest.v, &limit);
}

static void setup(void)
{
    GError *err = NULL;
    guest_setup();
    guest.v.st.gpr[RDX] = 0; /* the signature, after a reset */
    stops = (RunStops){0};
    if (jit_supported(NULL) && !engine_jit.vcpu_init(&guest.v, &err))
        ck_abort_msg("%s", err->message);
}

static void teardown(void)
{
    if (guest.v.engine_data[ENGINE_JIT])
        engine_jit.vcpu_free(&guest.v);
    guest_teardown();
}

static bool take_engine(int i)
{
    guest_engine = engines[i];
    return i == 0 || guest.v.engine_data[ENGINE_JIT];
}

/*
 *  0: mov ecx, 200000     b8+1 imm32
 *  5: inc rax
 *  8: add rbx, rax
 * 11: inc rdx             <- a stop in the middle of the loop's block
 * 14: dec ecx
 * 16: jnz 5
 * 18: hlt
 */
static const uint8_t loop[] = {0xb9, 0x40, 0x0d, 0x03, 0,    0x48, 0xff, 0xc0, 0x48, 0x01,
                               0xc3, 0x48, 0xff, 0xc2, 0xff, 0xc9, 0x75, 0xf3, 0xf4};
enum { N = 200000, MIDDLE = 11 };

static void load(const void *code, size_t n, uint64_t at)
{
    memcpy(gp(at), code, n);
    guest_engine->enter(&guest.v);
}

#define stopped(e, at)                                     \
    do {                                                   \
        ck_assert_int_eq((e).kind, EXIT_STOP);             \
        ck_assert_int_eq((e).stop, STOP_ADDRESS);          \
        ck_assert_uint_eq(guest.v.st.rip, (uint64_t)(at)); \
    } while (0)

START_TEST(address_in_hot_code)
{
    if (!take_engine(_i))
        return;
    load(loop, sizeof(loop), G_CODE);
    ck_assert_int_eq(go(100000).kind, EXIT_LIMIT); /* hot by now */
    uint64_t before = guest.v.st.gpr[RDX];
    stops.addr[0] = G_CODE + MIDDLE;
    stops.n_addr = 1;
    for (unsigned i = 0; i < 300; i++) {
        Exit e = go(0);
        stopped(e, G_CODE + MIDDLE);
        ck_assert_uint_eq(e.code, 0);
        ck_assert_uint_eq(guest.v.st.gpr[RDX], before + i);
        ck_assert_uint_eq(guest.v.st.gpr[RAX], before + i + 1);
        if (i == 100) /* without passing it stays where it is */
            stopped(go(0), G_CODE + MIDDLE);
        stops.pass = true;
        stops.pass_at = G_CODE + MIDDLE;
    }
    uint64_t insns = guest.v.insns;
    stops.n_addr = 0; /* and is forgotten when it is taken away */
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
    ck_assert_uint_eq(guest.v.st.gpr[RDX], N);
    if (guest_engine == &engine_interp) /* the translator counts only against a limit */
        ck_assert_uint_eq(guest.v.insns - insns, (N - before - 299) * 5 - 2 + 1);
}
END_TEST

/* The same place in a page, but another page: not stopped at, and nothing else goes wrong. */
START_TEST(another_page)
{
    if (!take_engine(_i))
        return;
    load(loop, sizeof(loop), G_CODE);
    stops.addr[0] = G_CODE + 0x5000 + MIDDLE;
    stops.addr[1] = G_CODE + 0x6000; /* its first instruction */
    stops.addr[2] = G_CODE + 12;     /* inside an instruction */
    stops.n_addr = 3;
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
    ck_assert_uint_eq(guest.v.st.gpr[RDX], N);
    ck_assert_uint_eq(guest.v.st.gpr[RBX], (uint64_t)N * (N + 1) / 2);
}
END_TEST

/* An instruction that begins in one page and ends in the next. */
START_TEST(across_pages)
{
    if (!take_engine(_i))
        return;
    uint64_t at = G_CODE + 0x1000 - 2;
    static const uint8_t code[] = {0xb8, 0x11, 0x22, 0x33, 0x44, 0xf4}; /* mov eax; hlt */
    load(code, sizeof(code), at);
    guest.v.st.rip = at;
    stops.addr[0] = at;
    stops.n_addr = 1;
    stopped(go(0), at);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 0);
    stops.pass = true;
    stops.pass_at = at;
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
    ck_assert(!stops.pass);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 0x44332211);
}
END_TEST

/* The code under a stop changes: the new instruction runs. */
START_TEST(changed_beneath)
{
    if (!take_engine(_i))
        return;
    /* mov byte [rip+1], 0x7f (to the imm8 of); mov al, 1; hlt */
    static const uint8_t code[] = {0xc6, 0x05, 0x01, 0, 0, 0, 0x7f, 0xb0, 0x01, 0xf4};
    load(code, sizeof(code), G_CODE);
    stops.addr[0] = G_CODE + 7;
    stops.n_addr = 1;
    stopped(go(0), G_CODE + 7);
    stops.pass = true;
    stops.pass_at = G_CODE + 7;
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 0x7f);
}
END_TEST

/* Straight on out of a range, a jump out of it, and a range that nothing leaves. */
START_TEST(leaving_a_range)
{
    if (!take_engine(_i))
        return;
    load(loop, sizeof(loop), G_CODE);
    stops.lo = G_CODE;
    stops.hi = G_CODE + 8;
    Exit e = go(0);
    ck_assert_int_eq(e.kind, EXIT_STOP);
    ck_assert_int_eq(e.stop, STOP_LEFT);
    ck_assert_uint_eq(guest.v.st.rip, G_CODE + 8);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 1);
    ck_assert_uint_eq(guest.v.st.gpr[RBX], 0);

    stops.lo = G_CODE + 8; /* from the middle of the loop: left backwards */
    stops.hi = G_CODE + 18;
    e = go(0);
    ck_assert_int_eq(e.stop, STOP_LEFT);
    ck_assert_uint_eq(guest.v.st.rip, G_CODE + 5);
    ck_assert_uint_eq(guest.v.st.gpr[RDX], 1);

    stops.lo = G_CODE;
    ck_assert_int_eq(go(100000).kind, EXIT_LIMIT); /* translated */
    e = go(0);
    ck_assert_int_eq(e.stop, STOP_LEFT);
    ck_assert_uint_eq(guest.v.st.rip, G_CODE + 18);
    ck_assert_uint_eq(guest.v.st.gpr[RDX], N);

    stops.hi = G_CODE + 19;
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
}
END_TEST

/* An interrupt leads out: stopped at its handler's first instruction. */
START_TEST(interrupt_leaves_a_range)
{
    if (!take_engine(_i))
        return;
    const uint64_t handler = G_CODE + 0x800;
    put64(G_GDT + 8, 0x00af9b000000ffffull);
    put64(G_GDT + 16, 0x00cf93000000ffffull);
    guest.v.st.gdt = (DescTable){G_GDT, 23};
    put64(G_IDT + 0x21 * 16,
          (handler & 0xffff) | 8u << 16 | 0x8eull << 40 | (handler >> 16 & 0xffff) << 48);
    put64(G_IDT + 0x21 * 16 + 8, handler >> 32);
    guest.v.st.idt = (DescTable){G_IDT, 0xfff};
    load(loop, sizeof(loop), G_CODE);
    memset(gp(handler), 0x90, 16);
    stops.lo = G_CODE;
    stops.hi = G_CODE + sizeof(loop);
    ck_assert_int_eq(go(50000).kind, EXIT_LIMIT);
    guest.v.st.rflags |= FL_IF;
    guest.irq = 0x21;
    vcpu_request(&guest.v, VREQ_INTR);
    Exit e = go(0);
    ck_assert_int_eq(e.kind, EXIT_STOP);
    ck_assert_int_eq(e.stop, STOP_LEFT);
    ck_assert_uint_eq(guest.v.st.rip, handler);
}
END_TEST

/* SYSRET to privilege 3 and #GP back: stopped at the first instruction of each. */
START_TEST(privilege)
{
    if (!take_engine(_i))
        return;
    CpuState *s = &guest.v.st;
    /* 0: sysretq. 0x100, at CPL 3: nop; nop; syscall. 0x200, LSTAR: nop; hlt */
    static const uint8_t enter[] = {0x48, 0x0f, 0x07}, user[] = {0x90, 0x90, 0x0f, 0x05},
                         kernel[] = {0x90, 0xf4};
    load(enter, sizeof(enter), G_CODE);
    load(user, sizeof(user), G_CODE + 0x100);
    load(kernel, sizeof(kernel), G_CODE + 0x200);
    s->msr.star = 8ull << 32 | 16ull << 48;
    s->msr.lstar = G_CODE + 0x200;
    s->gpr[RCX] = G_CODE + 0x100;
    s->gpr[R11] = FL_FIXED;
    stops.cpl = BIT(3);
    Exit e = go(0);
    ck_assert_int_eq(e.kind, EXIT_STOP);
    ck_assert_int_eq(e.stop, STOP_CPL);
    ck_assert_uint_eq(s->rip, G_CODE + 0x100);
    ck_assert_uint_eq(s->cpl, 3);
    stops.cpl = BIT(0);
    e = go(0);
    ck_assert_int_eq(e.stop, STOP_CPL);
    ck_assert_uint_eq(s->rip, G_CODE + 0x200);
    ck_assert_uint_eq(s->gpr[RCX], G_CODE + 0x104);
    stops.cpl = 0;
    ck_assert_int_eq(go(0).kind, EXIT_HLT);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stops");
    TCase *tc = tcase_create("software");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, address_in_hot_code, 0, 2);
    tcase_add_loop_test(tc, another_page, 0, 2);
    tcase_add_loop_test(tc, across_pages, 0, 2);
    tcase_add_loop_test(tc, changed_beneath, 0, 2);
    tcase_add_loop_test(tc, leaving_a_range, 0, 2);
    tcase_add_loop_test(tc, interrupt_leaves_a_range, 0, 2);
    tcase_add_loop_test(tc, privilege, 0, 2);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
