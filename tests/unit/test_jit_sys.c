/* System instructions in translated code: to the kernel and back many times, against the
 * interpreter. */
#include "base/clock.h"
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define G_USER   (G_CODE + 0x10000)
#define G_KERNEL (G_CODE + 0x20000)

static void setup(void)
{
    guest_setup();
    GError *err = NULL;
    guest.vm.clock = clock_new();
    ck_assert(engine_jit.vm_init(&guest.vm, &err) && engine_jit.vcpu_init(&guest.v, &err));
}
static void teardown(void)
{
    engine_jit.vcpu_free(&guest.v);
    clock_free(guest.vm.clock);
    guest_teardown();
}

/* 1: mov eax, ecx; syscall; add rdi, rcx; add rdi, r11; add rdi, rax; mov ecx, ebx;
 * dec ebx; jnz 1b; then a system call with RAX = -1, which halts. */
static const uint8_t user[] = {
    0x89, 0xc8, 0x0f, 0x05, 0x48, 0x01, 0xcf, 0x4c, 0x01, 0xdf, 0x48, 0x01, 0xc7, 0x89,
    0xd9, 0xff, 0xcb, 0x75, 0xed, 0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x05,
};
/* swapgs; stac; lfence; cmp rax, -1; je 1f; mov rdx, cr2; add rdx, gs:[0]; xor rax, rdx; clac;
 * mfence; swapgs; serialize; sysretq; 1: hlt */
static const uint8_t kernel[] = {
    0x0f, 0x01, 0xf8, 0x0f, 0x01, 0xcb, 0x0f, 0xae, 0xe8, 0x48, 0x83, 0xf8, 0xff, 0x74, 0x1e, 0x0f,
    0x20, 0xd2, 0x65, 0x48, 0x03, 0x14, 0x25, 0x00, 0x00, 0x00, 0x00, 0x48, 0x31, 0xd0, 0x0f, 0x01,
    0xca, 0x0f, 0xae, 0xf0, 0x0f, 0x01, 0xf8, 0x0f, 0x01, 0xe8, 0x48, 0x0f, 0x07, 0xf4,
};

static void begin(uint64_t rflags, uint64_t fmask)
{
    CpuState *s = &guest.v.st;
    guest_long_mode();
    memcpy(gp(G_USER), user, sizeof(user));
    memcpy(gp(G_KERNEL), kernel, sizeof(kernel));
    put64(G_DATA, 0x1234);
    put64(G_DATA + 0x1000, 0x777);
    s->cr2 = 0x5555aaaa;
    s->cr0 |= CR0_AM;
    s->msr.star = 0x1bull << 48 | 0x8ull << 32;
    s->msr.lstar = G_KERNEL;
    s->msr.fmask = fmask;
    guest_segment(CS, 0xa0fb, 0x2b);
    guest_segment(SS, 0xc0f3, 0x23);
    s->seg[GS].base = G_DATA + 0x1000;
    s->msr.kernel_gs_base = G_DATA;
    s->rip = G_USER;
    s->rflags = FL_FIXED | rflags;
    s->cpl = 3;
    memset(s->gpr, 0, 16 * sizeof(s->gpr[0]));
    s->gpr[RSP] = G_STACK;
    s->gpr[RBX] = 300;
    engine_interp.enter(&guest.v);
}

static const struct {
    uint64_t rflags, fmask;
} flags[] = {
    {FL_IF, 0x47700}, {FL_IF | FL_CF | FL_OF, FL_IF},      {FL_IF | FL_AC, FL_AC},
    {FL_AC, 0},       {FL_DF | FL_ID, 0x47700 | FL_ARITH},
};

START_TEST(to_and_fro)
{
    CpuState want;
    begin(flags[_i].rflags, flags[_i].fmask);
    ck_assert_int_eq(engine_interp.run(&guest.v, NULL).kind, EXIT_HLT);
    want = guest.v.st;
    ck_assert_uint_eq(want.gpr[RAX], ~0ull);
    ck_assert_uint_eq(want.gpr[RBX], 0);
    begin(flags[_i].rflags, flags[_i].fmask);
    ck_assert_int_eq(engine_jit.run(&guest.v, NULL).kind, EXIT_HLT);
    for (unsigned r = 0; r < 16; r++)
        ck_assert_msg(guest.v.st.gpr[r] == want.gpr[r], "register %u", r);
    ck_assert_uint_eq(guest.v.st.rip, want.rip);
    ck_assert_uint_eq(guest.v.st.rflags, want.rflags);
    ck_assert_uint_eq(guest.v.st.cpl, 0);
    ck_assert_mem_eq(guest.v.st.seg, want.seg, sizeof(want.seg));
    ck_assert_uint_eq(guest.v.st.msr.kernel_gs_base, want.msr.kernel_gs_base);
    /* The plain cases did not go by handlers. */
    const Tcg *t = guest.v.engine_data[ENGINE_INTERP];
    uint32_t helped = 0;
    for (unsigned k = 0; k < op_rows_n; k++)
        if (op_rows[k].map == MAP_0F && (op_rows[k].opcode == 0x05 || op_rows[k].opcode == 0x07 ||
                                         !strcmp(op_rows[k].name, "serialize")))
            helped += t->jit->row_helpers[k];
    ck_assert_uint_gt(t->jit->blocks, 0);
    ck_assert(t->jit->programs);
    if (!((flags[_i].rflags) & FL_AC))
        ck_assert_uint_lt(helped, 30);
}
END_TEST

/* By IRET: mov r8, rsp; mov rsp, r9; cmp rax, -1; je 2f; a frame of where it is, SS by way of
 * memory, and IRETQ to the next instruction; push 0x23; push r8; or r11, rbp; push r11; push 0x2b;
 * push rcx; add rax, 5; iretq; 2: hlt */
static const uint8_t kernel_iret[] = {
    0x49, 0x89, 0xe0, 0x4c, 0x89, 0xcc, 0x48, 0x83, 0xf8, 0xff, 0x74, 0x3a, /* je */
    0x8c, 0x54, 0x24, 0xf0, 0x0f, 0xb7, 0x54, 0x24, 0xf0, /* mov [rsp-16], ss; movzx edx, */
    0x52, 0x54, 0x48, 0x83, 0x04, 0x24, 0x08,             /* push rdx; push rsp; add [rsp], 8 */
    0x9c, 0x66, 0x8c, 0xca, 0x52,                         /* pushfq; mov dx, cs; push rdx */
    0x66, 0x41, 0x8c, 0xcd, 0x66, 0x8c, 0xce,             /* mov r13w, cs; mov si, cs */
    0x48, 0x8d, 0x15, 0x03, 0x00, 0x00, 0x00, 0x52, 0x48, 0xcf, /* lea rdx, [1f]; push; iretq; 1: */
    0x6a, 0x23, 0x41, 0x50, 0x49, 0x09, 0xeb, 0x41, 0x53, 0x6a, 0x2b, 0x51,
    0x48, 0x83, 0xc0, 0x05, 0x48, 0xcf, 0x90, 0x90, 0xf4,
};

static void begin_iret(int i, uint64_t or_flags, bool plain, bool null_ss)
{
    CpuState *s = &guest.v.st;
    begin(flags[i].rflags, flags[i].fmask);
    memcpy(gp(G_KERNEL), kernel_iret, sizeof(kernel_iret));
    if (null_ss) /* xor edx, edx, for MOVZX */
        memcpy((uint8_t *)gp(G_KERNEL) + 16, "\x31\xd2\x90\x90\x90", 5);
    put64(G_GDT + 0x08, 0x00af9b000000ffffull);
    put64(G_GDT + 0x10, 0x00cf93000000ffffull);
    put64(G_GDT + 0x20, plain ? 0x00cff3000000ffffull : 0x00dff3000000ffffull); /* AVL */
    put64(G_GDT + 0x28, 0x00affb000000ffffull);
    s->gdt.base = G_GDT;
    s->gdt.limit = 0x2f;
    s->gpr[R9] = G_STACK - 0x1000;
    s->gpr[RBP] = or_flags;
    s->gpr[R13] = s->gpr[RSI] = 0x123456789abcdefull;
    engine_interp.enter(&guest.v);
}

START_TEST(back_by_iret)
{
    static const uint64_t or_flags[] = {0, FL_RF, FL_AC, 3 << FL_IOPL_SHIFT | FL_DF | FL_ID};
    CpuState want;
    unsigned n = (unsigned)_i / 4;
    bool plain = _i & 1, null_ss = _i & 2;
    for (int f = 0; f < (int)ARRAY_LEN(flags); f++) {
        begin_iret(f, or_flags[n], plain, null_ss);
        ck_assert_int_eq(engine_interp.run(&guest.v, NULL).kind, EXIT_HLT);
        want = guest.v.st;
        ck_assert_uint_eq(want.gpr[RBX], 0);
        begin_iret(f, or_flags[n], plain, null_ss);
        ck_assert_int_eq(engine_jit.run(&guest.v, NULL).kind, EXIT_HLT);
        for (unsigned r = 0; r < 16; r++)
            ck_assert_msg(guest.v.st.gpr[r] == want.gpr[r], "register %u", r);
        ck_assert_uint_eq(guest.v.st.rip, want.rip);
        ck_assert_uint_eq(guest.v.st.rflags, want.rflags);
        ck_assert_uint_eq(guest.v.st.cpl, 0);
        ck_assert_mem_eq(guest.v.st.seg, want.seg, sizeof(want.seg));
    }
    const Tcg *t = guest.v.engine_data[ENGINE_INTERP];
    uint32_t helped = 0, stored = 0;
    for (unsigned k = 0; k < op_rows_n; k++) {
        if (!strcmp(op_rows[k].name, "iret"))
            helped += t->jit->row_helpers[k];
        if (op_rows[k].map == MAP_1B && op_rows[k].opcode == 0x8c)
            stored += t->jit->row_helpers[k];
    }
    ck_assert_uint_lt(stored, 30);
    if (plain && or_flags[n] != FL_AC)
        ck_assert_uint_lt(helped, 1700); /* of 3000, 1200 of which begin with AC */
    if (!plain)
        ck_assert_uint_gt(helped, 1400);
}
END_TEST

/* RDTSC at both privileges is the clock's. */
START_TEST(time_goes_on)
{
    /* 1: rdtsc; shl rdx, 32; or rax, rdx; cmp rax, rsi; jb 2f; mov rsi, rax; dec ecx; jnz 1b; hlt
     * 2: ud2 */
    static const uint8_t loop[] = {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09,
                                   0xd0, 0x48, 0x39, 0xf0, 0x72, 0x08, 0x48, 0x89,
                                   0xc6, 0xff, 0xc9, 0x75, 0xeb, 0xf4, 0x0f, 0x0b};
    CpuState *s = &guest.v.st;
    memcpy(gp(G_CODE), loop, sizeof(loop));
    s->tsc_offset = 1ull << 40;
    s->gpr[RCX] = 1000;
    s->gpr[RSI] = vcpu_tsc(&guest.v);
    ck_assert_int_eq(engine_jit.run(&guest.v, NULL).kind, EXIT_HLT);
    ck_assert_uint_le(s->gpr[RSI], vcpu_tsc(&guest.v));
}
END_TEST

static unsigned late, rang;

static void ring(void *opaque)
{
    rang++;
}

static void tsc_is_late(Vcpu *v)
{
    late++;
    timers_run(v->vm->clock);
    vcpu_request(v, VREQ_WORK);
}

/* A timer that is due has run before the guest reads a TSC by which it is late, and what it asked
 * for happens before the next instruction; one that is not due, or not yet late, does not matter.
 */
START_TEST(timers_come_before_the_tsc)
{
    /* 1: rdtsc; add ebx, 1; dec ecx; jnz 1b; hlt */
    static const uint8_t loop[] = {0x0f, 0x31, 0x83, 0xc3, 0x01, 0xff, 0xc9, 0x75, 0xf7, 0xf4};
    const Engine *engine = _i ? &engine_jit : &engine_interp;
    CpuState *s = &guest.v.st;
    VcpuBus bus = *guest.v.vm->bus;
    Clock *clock = guest.v.vm->clock;
    Timer *t = timer_new(clock, ring, NULL);
    bus.tsc_is_late = tsc_is_late;
    guest.v.vm->bus = &bus;
    memcpy(gp(G_CODE), loop, sizeof(loop));
    clock_start(clock);
    timer_mod(t, clock_ns(clock) + 3600 * NS_PER_S);
    late = rang = 0;
    for (unsigned i = 0; i < 5; i++) {
        s->rip = G_CODE;
        s->gpr[RCX] = 100000; /* translated by now */
        ck_assert_int_eq(engine->run(&guest.v, NULL).kind, EXIT_HLT);
        ck_assert_uint_eq(late, i);
        s->run_state = RUN_RUNNING;
        timer_mod(t, clock_ns(clock));
        while (!timers_late(clock))
            ck_assert_uint_eq(rang, i);
        s->rip = G_CODE;
        s->gpr[RBX] = 0;
        s->gpr[RCX] = 100000;
        ck_assert_int_eq(engine->run(&guest.v, NULL).kind, EXIT_KICK);
        vcpu_request_clear(&guest.v, VREQ_WORK);
        ck_assert_uint_eq(rang, i + 1);
        ck_assert_uint_eq(s->gpr[RBX], _i ? 0 : 1);
        ck_assert_uint_eq(s->rip, _i ? G_CODE + 2 : G_CODE);
        timer_mod(t, clock_ns(clock) + 3600 * NS_PER_S);
    }
    timer_free(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("jit_sys");
    TCase *c = tcase_create("jit_sys");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, to_and_fro, 0, (int)ARRAY_LEN(flags));
    tcase_add_loop_test(c, back_by_iret, 0, 16);
    tcase_add_test(c, time_goes_on);
    tcase_add_loop_test(c, timers_come_before_the_tsc, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
