/* Small guests in KVM: exits, interrupts, kicks, half-done instructions, stale translations. */
#include <cpuid.h>

#include "kvm_fixture.h"
#include "run_suite.h"

/* ---- guests ---- */

static void load(uint64_t gpa, const void *bytes, size_t n)
{
    memcpy(fx.ram + gpa, bytes, n);
}
#define LOAD(gpa, ...)                               \
    do {                                             \
        static const uint8_t bytes_[] = __VA_ARGS__; \
        load(gpa, bytes_, sizeof(bytes_));           \
    } while (0)

static void real_mode(void)
{
    CpuState *s = &fx.v.st;
    cpu_state_reset(s, 0, true);
    s->seg[CS].selector = 0;
    s->seg[CS].base = 0;
    s->rip = CODE;
    s->gpr[RSP] = STACK;
    s->cr8 = fx.tpr;
}

enum { PML4 = 0x10000, PDPT = 0x11000, PD = 0x12000, PT = 0x13000, IDT = 0x14000, FAR = 0x400000 };

static void put64(uint64_t gpa, uint64_t value)
{
    memcpy(fx.ram + gpa, &value, 8);
}

/* 64-bit mode, CPL 0; the first 2 MiB mapped to themselves by one large page, FAR to a 4 KiB page
 * at `page`. */
static void long_mode(uint64_t page)
{
    CpuState *s = &fx.v.st;
    cpu_state_reset(s, 0, true);
    put64(PML4, PDPT | 3);
    put64(PDPT, PD | 3);
    put64(PD, 0x83);
    put64(PD + FAR / 0x200000 * 8, PT | 3);
    put64(PT, page | 0x103); /* global */
    s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    s->cr3 = PML4;
    s->cr4 = CR4_PAE | CR4_PGE;
    s->efer = EFER_LME | EFER_LMA;
    for (unsigned i = ES; i <= GS; i++)
        s->seg[i] = (Segment){.limit = UINT32_MAX,
                              .attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_G | SEG_DB,
                              .selector = 16};
    s->seg[CS].attr ^= SEG_CODE | SEG_L | SEG_DB;
    s->seg[CS].selector = 8;
    s->rip = CODE;
    s->gpr[RSP] = STACK;
}

static Exit run(void)
{
    static const RunLimit none;
    Exit e = engine_kvm.run(&fx.v, &none);
    if (e.msg[0])
        printf("  %s\n", e.msg);
    return e;
}

static void run_to(ExitKind kind)
{
    Exit e = run();
    ck_assert_msg(e.kind == kind, "exit %d, not %d (code %#llx): %s", e.kind, kind,
                  (long long)e.code, e.msg);
}

static void check_log(unsigned i, char kind, uint64_t addr, unsigned size, uint64_t value)
{
    ck_assert_uint_lt(i, fx.n_log);
    const Access *a = &fx.log[i];
    ck_assert_msg(a->kind == kind && a->addr == addr && a->size == size && a->value == value,
                  "access %u: %c %#llx/%u %#llx", i, a->kind, (long long)a->addr, a->size,
                  (long long)a->value);
}

/* ---- exits ---- */

START_TEST(ports)
{
    real_mode();
    fx.v.st.gpr[RSI] = 0x3000;
    load(0x3000, "abc", 3);
    fx.input = 0x11223344;
    LOAD(CODE, {
                   0xb0, 0x5a, 0xe6, 0x80,             /* mov al, 5a; out 80, al */
                   0xba, 0x34, 0x12, 0xed,             /* mov dx, 1234; in ax, dx */
                   0x66, 0xed,                         /* in eax, dx */
                   0x66, 0x89, 0xc3,                   /* mov ebx, eax */
                   0xb9, 0x03, 0x00, 0xfc, 0xf3, 0x6e, /* mov cx, 3; cld; rep outsb */
                   0xf4,
               });
    fx_import();
    run_to(EXIT_HLT);
    ck_assert_int_eq(fx.v.st.run_state, RUN_HALTED);
    fx_export();
    ck_assert_uint_eq(fx.n_log, 6);
    check_log(0, 'o', 0x80, 1, 0x5a);
    check_log(1, 'i', 0x1234, 2, 0x3344);
    check_log(2, 'i', 0x1234, 4, 0x11223344);
    check_log(3, 'o', 0x1234, 1, 'a');
    check_log(5, 'o', 0x1234, 1, 'c');
    ck_assert_uint_eq((uint32_t)fx.v.st.gpr[RBX], 0x11223344);
    ck_assert_uint_eq(fx.v.st.rip, CODE + 20);
    ck_assert_int_eq(fx.v.st.run_state, RUN_HALTED);
}
END_TEST

START_TEST(device_memory)
{
    real_mode();
    fx.input = 0x55667788;
    LOAD(CODE, {
                   0xb8, 0x00, 0xa0, 0x8e, 0xd8, /* mov ax, a000; mov ds, ax */
                   0xa3, 0x10, 0x00,             /* mov [10], ax */
                   0x66, 0xa1, 0x20, 0x00,       /* mov eax, [20] */
                   0x66, 0x89, 0xc3,             /* mov ebx, eax */
                   0xb8, 0x00, 0xf0, 0x8e, 0xd8, /* mov ax, f000: ROM */
                   0xa2, 0x00, 0x00, 0xf4,       /* mov [0], al; hlt */
               });
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    ck_assert_uint_eq(fx.n_log, 3);
    check_log(0, 'w', 0xa0010, 2, 0xa000);
    check_log(1, 'r', 0xa0020, 4, 0x55667788);
    check_log(2, 'w', 0xf0000, 1, 0);
    ck_assert_uint_eq((uint32_t)fx.v.st.gpr[RBX], 0x55667788);
}
END_TEST

START_TEST(long_mode_guest)
{
    long_mode(0x20000);
    put64(0x20008, 0x1122334455667788);
    LOAD(CODE, {
                   0x48, 0xa1, 0x08, 0x00, 0x40, 0, 0, 0, 0, 0, /* mov rax, [400008] */
                   0x48, 0x89, 0xc3,                            /* mov rbx, rax */
                   0xe6, 0x80, 0xf4,                            /* out 80, al; hlt */
               });
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    check_log(0, 'o', 0x80, 1, 0x88);
    ck_assert_uint_eq(fx.v.st.gpr[RBX], 0x1122334455667788);
    ck_assert(cpu_code64(&fx.v.st));
}
END_TEST

START_TEST(triple_fault)
{
    long_mode(0x20000);
    LOAD(CODE, {0x0f, 0x0b}); /* ud2, and no IDT */
    fx.v.st.idt.limit = 0;
    fx_import();
    run_to(EXIT_SHUTDOWN);
}
END_TEST

/* ---- MSRs ---- */

START_TEST(registers_of_the_machine)
{
    real_mode();
    /* #GP is counted in [500] and the faulting two-byte instruction stepped over. */
    LOAD(0x2000, {0xfe, 0x06, 0x00, 0x05, 0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x02, 0x5d, 0xcf});
    LOAD(13 * 4, {0x00, 0x20, 0x00, 0x00});
    LOAD(CODE,
         {
             0x66, 0xb9, 0xe0, 0x06, 0,    0,    /* mov ecx, 6e0 */
             0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, /* mov eax, 12345678 */
             0x66, 0x31, 0xd2, 0x0f, 0x30,       /* xor edx, edx; wrmsr */
             0x66, 0xb9, 0x79, 0x01, 0,    0,    /* mov ecx, 179: MCG_CAP */
             0x0f, 0x32, 0x66, 0x89, 0xc3,       /* rdmsr; mov ebx, eax */
             0x0f, 0x30,                         /* wrmsr: #GP */
             0x66, 0xb9, 0x02, 0x4d, 0x56, 0x4b, /* mov ecx, 4b564d02: KVM's */
             0x0f, 0x32,                         /* rdmsr: #GP */
             0x66, 0xb9, 0x3a, 0,    0,    0,    /* mov ecx, 3a: kept in CpuState */
             0x66, 0xb8, 0x01, 0,    0,    0,    0x0f, 0x30, 0x0f, 0x30, /* lock it; again: #GP */
             0x0f, 0x32, 0x66, 0x89, 0xc6,                               /* rdmsr; mov esi, eax */
             0x66, 0xb9, 0x1b, 0,    0,    0,                            /* mov ecx, 1b */
             0x0f, 0x32, 0x80, 0xe4, 0xf7, 0x0f, 0x30, /* rdmsr; and ah, ~8: off; wrmsr */
             0x66, 0xb8, 0x01, 0,    0,    0,    0x0f, 0xa2, 0xf4, /* mov eax, 1; cpuid; hlt */
         });
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    ck_assert_uint_eq(fx.ram[0x500], 3);
    ck_assert_uint_eq(fx.v.st.gpr[RSI], 1);
    ck_assert_uint_eq(fx.v.st.msr.feature_control, 1);
    ck_assert_uint_eq(fx.apic_base, 0xfee00100);
    ck_assert_uint_eq(fx.v.st.gpr[RDX] >> 9 & 1, 0); /* CPUID's APIC bit follows */
    if (cpuid_has(&fx.cpuid, FEAT_TSC_DEADLINE))
        ck_assert_uint_eq(fx.tsc_deadline, 0x12345678);
}
END_TEST

static uint32_t kvm_leaf1_ecx(void)
{
    CpuidTable kvm;
    ck_assert(kvm_supported_cpuid(&kvm, NULL));
    for (unsigned i = 0; i < kvm.n; i++)
        if (kvm.e[i].leaf == 1)
            return kvm.e[i].ecx;
    return 0;
}

/* A back end without control over CPUID shows the host's features: not ours to compare. */
static bool shows_the_host(uint32_t leaf, uint32_t ecx)
{
    static const uint32_t always = 1u << 27; /* OSXSAVE */
    return (leaf == 1 && ecx & ~(kvm_leaf1_ecx() | always | 1u << 31)) ||
           ((leaf == 7 || leaf == 0xd) && !(kvm_leaf1_ecx() & 1u << 26));
}

/* CPUID gives in KVM what cpuid_execute() says. */
START_TEST(cpuid_as_the_table_says)
{
    static const uint32_t leaf[][2] = {
        {0, 0},          {1, 0},          {4, 0},          {4, 2},          {4, 7},
        {5, 0},          {7, 0},          {7, 1},          {0xa, 0},        {0xb, 0},
        {0xb, 1},        {0xb, 2},        {0xd, 0},        {0xd, 1},        {0xd, 2},
        {0x15, 0},       {0x16, 0},       {0x17, 0},       {0x1f, 0},       {0x40000000, 0},
        {0x40000001, 0}, {0x40000100, 0}, {0x80000000, 0}, {0x80000001, 0}, {0x80000002, 0},
        {0x80000006, 0}, {0x80000008, 0}, {0x80000020, 0}, {0xc0000000, 0}, {0x12345678, 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(leaf); i++) {
        CpuState *s = &fx.v.st;
        uint32_t want[4];
        real_mode();
        s->gpr[RAX] = leaf[i][0];
        s->gpr[RCX] = leaf[i][1];
        LOAD(CODE, {0x0f, 0xa2, 0xf4});
        fx_import();
        run_to(EXIT_HLT);
        fx_export();
        cpuid_execute(&fx.cpuid, 0, s->cr4, s->xcr0, fx.apic_base, leaf[i][0], leaf[i][1], want);
        if (shows_the_host(leaf[i][0], (uint32_t)s->gpr[RCX])) {
            printf("  leaf %#x shows the host's features: not compared\n", leaf[i][0]);
            continue;
        }
        ck_assert_msg((uint32_t)s->gpr[RAX] == want[0] && (uint32_t)s->gpr[RBX] == want[1] &&
                          (uint32_t)s->gpr[RCX] == want[2] && (uint32_t)s->gpr[RDX] == want[3],
                      "leaf %#x.%u: KVM %x %x %x %x, table %x %x %x %x", leaf[i][0], leaf[i][1],
                      (uint32_t)s->gpr[RAX], (uint32_t)s->gpr[RBX], (uint32_t)s->gpr[RCX],
                      (uint32_t)s->gpr[RDX], want[0], want[1], want[2], want[3]);
    }
}
END_TEST

/* QEMU's TCG as the processor below does not intercept XSETBV: KVM never hears of it. */
static bool on_tcg(void)
{
    unsigned r[4];
    __cpuid(0x40000000, r[0], r[1], r[2], r[3]);
    return !memcmp(&r[1], "TCGTCGTCGTCG", 12);
}

/* Leaf 0xd follows XCR0 as the guest sets it and as an import does. */
START_TEST(xsave_area_follows_xcr0)
{
    uint64_t mask = cpuid_xcr0_mask(&fx.cpuid);
    uint32_t want[4];
    if (!(mask & 4) || on_tcg()) {
        printf("  XSETBV: not tried, %s\n", mask & 4 ? "TCG is below" : "no XSAVE or AVX here");
        return;
    }
    real_mode();
    fx.v.st.cr4 = CR4_OSXSAVE | CR4_OSFXSR;
    LOAD(CODE,
         {
             0x66, 0xb8, 7,    0,    0,    0,    0x66, 0x31, 0xd2, /* mov eax, 7; xor edx, edx */
             0x66, 0x31, 0xc9, 0x0f, 0x01, 0xd1,                   /* xor ecx, ecx; xsetbv */
             0x66, 0xb8, 0x0d, 0,    0,    0,    0x0f, 0xa2,       /* mov eax, d; cpuid */
             0xf4,
         });
    cpuid_execute(&fx.cpuid, 0, CR4_OSXSAVE, 7, fx.apic_base, 0xd, 0, want);
    for (unsigned i = 0; i < 2; i++) {
        fx_import();
        run_to(EXIT_HLT);
        fx_export();
        ck_assert_uint_eq(fx.v.st.xcr0, 7);
        ck_assert_uint_eq((uint32_t)fx.v.st.gpr[RBX], want[1]);
        /* Once more without XSETBV. */
        fx.v.st.rip = CODE + 12;
        fx.v.st.gpr[RCX] = 0;
        fx.v.st.run_state = RUN_RUNNING;
        memcpy(fx.ram + CODE + 12, "\x90\x90\x90", 3);
    }
}
END_TEST

/* ---- interrupts ---- */

static void want_irq(int vector)
{
    fx.irq[fx.n_irqs++] = vector;
    vcpu_request(&fx.v, VREQ_INTR);
}

START_TEST(interrupts_wait_for_if)
{
    real_mode();
    LOAD(0x21 * 4, {0x00, 0x20, 0x00, 0x00});
    LOAD(0x22 * 4, {0x10, 0x20, 0x00, 0x00});
    LOAD(0x2000, {0xb0, 0x21, 0xe6, 0x80, 0xfe, 0x06, 0x00, 0x05, 0xcf}); /* out; inc; iret */
    LOAD(0x2010, {0xb0, 0x22, 0xe6, 0x80, 0xfe, 0x06, 0x00, 0x05, 0xcf});
    LOAD(CODE, {
                   0xb0, 0x01, 0xe6, 0x80, 0xfb,             /* out 80, 1; sti */
                   0x80, 0x3e, 0x00, 0x05, 0x02, 0x75, 0xf9, /* until [500] is 2 */
                   0xfa, 0xb0, 0x02, 0xe6, 0x80, 0xf4,       /* cli; out 80, 2; hlt */
               });
    want_irq(0x22);
    want_irq(0x21); /* given first */
    fx_import();
    run_to(EXIT_HLT);
    ck_assert_uint_eq(fx.n_log, 4);
    check_log(0, 'o', 0x80, 1, 1);
    check_log(1, 'o', 0x80, 1, 0x21);
    check_log(2, 'o', 0x80, 1, 0x22);
    check_log(3, 'o', 0x80, 1, 2);
    ck_assert_uint_eq(fx.acks, 2);
}
END_TEST

/* An interrupt that was acknowledged and not yet delivered is state, and arrives once. */
START_TEST(interrupt_carried_over)
{
    real_mode();
    LOAD(0x21 * 4, {0x00, 0x20, 0x00, 0x00});
    LOAD(0x2000, {0xfe, 0x06, 0x00, 0x05, 0xcf}); /* inc byte [500]; iret */
    LOAD(CODE, {0x90, 0x90, 0xf4});
    fx.v.st.rflags |= FL_IF;
    fx.v.st.ev.interrupt.injected = true;
    fx.v.st.ev.interrupt.nr = 0x21;
    for (unsigned i = 0; i < 3; i++) {
        fx_import();
        memset(&fx.v.st, 0, sizeof(fx.v.st));
        fx_export();
        ck_assert(fx.v.st.ev.interrupt.injected);
    }
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    ck_assert_uint_eq(fx.ram[0x500], 1);
    ck_assert(!fx.v.st.ev.interrupt.injected);
}
END_TEST

/* One that comes while an instruction is half done waits for how it ends: here with #GP. */
START_TEST(interrupt_behind_exception)
{
    real_mode();
    LOAD(13 * 4, {0x00, 0x20, 0x00, 0x00});
    LOAD(0x21 * 4, {0x20, 0x20, 0x00, 0x00});
    /* #GP: steps over the two bytes, which leaves interrupts on. */
    LOAD(0x2000, {0xfe, 0x06, 0x00, 0x05, 0x55, 0x89, 0xe5, 0x83, 0x46, 0x02, 0x02, 0x5d, 0xcf});
    LOAD(0x2020, {0xfe, 0x06, 0x01, 0x05, 0xcf}); /* inc byte [501]; iret */
    LOAD(CODE, {
                   0x66, 0xb9, 0x03, 0x08, 0,    0,    0xfb, 0x90, 0x0f, 0x32, /* sti; rdmsr 803 */
                   0x80, 0x3e, 0x01, 0x05, 0x01, 0xe0, 0xf9, /* loopne, some time */
                   0xfa, 0xf4,                               /* cli; hlt */
               });
    fx.irq_on_msr = 0x21;
    fx_import();
    run_to(EXIT_HLT);
    ck_assert_uint_eq(fx.ram[0x500], 1);
    ck_assert_uint_eq(fx.ram[0x501], 1);
    ck_assert_uint_eq(fx.acks, 1);
}
END_TEST

START_TEST(nmi)
{
    real_mode();
    LOAD(2 * 4, {0x00, 0x20, 0x00, 0x00});
    LOAD(0x2000, {0xfe, 0x06, 0x00, 0x05, 0xcf});
    LOAD(CODE, {0x90, 0x90, 0xf4});
    vcpu_request(&fx.v, VREQ_NMI);
    fx_import();
    run_to(EXIT_HLT);
    ck_assert_uint_eq(fx.ram[0x500], 1);
    ck_assert_uint_eq(atomic_load(&fx.v.request), 0);
}
END_TEST

START_TEST(task_priority)
{
    long_mode(0x20000);
    LOAD(CODE, {
                   0x44, 0x0f, 0x20, 0xc3,       /* mov rbx, cr8 */
                   0xb8, 0x02, 0, 0, 0,          /* mov eax, 2 */
                   0x44, 0x0f, 0x22, 0xc0, 0xf4, /* mov cr8, rax; hlt */
               });
    fx.tpr = 9;
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    ck_assert_uint_eq(fx.v.st.gpr[RBX], 9);
    ck_assert_uint_eq(fx.tpr, 2);
    ck_assert_uint_eq(fx.v.st.cr8, 2);
}
END_TEST

/* ---- kicks ---- */

static _Atomic unsigned rounds;
enum { KICKS = 100 };

static void *runner(void *unused)
{
    fx.v.thread = pthread_self();
    for (unsigned i = 0; i < KICKS; i++) {
        run_to(EXIT_KICK);
        vcpu_request_clear(&fx.v, VREQ_WORK);
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

START_TEST(kicks_are_never_lost)
{
    pthread_t t;
    atomic_store(&rounds, 0);
    real_mode();
    LOAD(CODE, {0xeb, 0xfe});
    fx_import();
    pthread_create(&t, NULL, runner, NULL);
    for (unsigned i = 0; i < KICKS; i++) {
        /* At all distances from the entry: before run(), between its checks, inside KVM_RUN. */
        for (volatile unsigned n = 0; n < i * i * 10; n++)
            ;
        vcpu_request(&fx.v, VREQ_WORK);
        engine_kvm.kick(&fx.v);
        for (unsigned ms = 0; atomic_load(&rounds) == i; ms++) {
            ck_assert_msg(ms < 50000, "kick %u was lost", i);
            g_usleep(100);
        }
    }
    pthread_join(t, NULL);
}
END_TEST

/* ---- half-done instructions ---- */

START_TEST(half_done_input)
{
    real_mode();
    fx.input = 0x77;
    fx.stop_on_input = true;
    LOAD(CODE, {0xe4, 0x81, 0xe6, 0x80, 0xf4}); /* in al, 81; out 80, al; hlt */
    fx_import();
    run_to(EXIT_KICK);
    GError *err = NULL;
    ck_assert(engine_kvm.drain(&fx.v, &err));
    fx_export();
    ck_assert_uint_eq(fx.v.st.rip, CODE + 2);
    ck_assert_uint_eq(fx.v.st.gpr[RAX] & 0xff, 0x77);
    ck_assert_uint_eq(fx.n_log, 1);
    /* And on from there, as a switch away and back would. */
    vcpu_request_clear(&fx.v, VREQ_WORK);
    fx_import();
    run_to(EXIT_HLT);
    check_log(1, 'o', 0x80, 1, 0x77);
}
END_TEST

START_TEST(half_done_device_read)
{
    real_mode();
    fx.input = 0x1122334455667788;
    fx.stop_on_input = true;
    LOAD(CODE, {0xb8, 0x00, 0xa0, 0x8e, 0xd8, 0x66, 0xa1, 0x20, 0x00, 0xf4});
    fx_import();
    run_to(EXIT_KICK);
    fx_export(); /* drains by itself */
    ck_assert_uint_eq(fx.v.st.rip, CODE + 9);
    ck_assert_uint_eq((uint32_t)fx.v.st.gpr[RAX], 0x55667788);
}
END_TEST

START_TEST(half_done_string_input)
{
    real_mode();
    fx.input = 0x41;
    fx.stop_on_input = true;
    fx.v.st.gpr[RDI] = 0x3000;
    fx.v.st.gpr[RCX] = 5;
    fx.v.st.gpr[RDX] = 0x81;
    LOAD(CODE, {0xfc, 0xf3, 0x6c, 0xf4}); /* cld; rep insb; hlt */
    fx_import();
    run_to(EXIT_KICK);
    fx_export();
    uint64_t left = fx.v.st.gpr[RCX], done = 5 - left;
    ck_assert_uint_le(left, 5);
    ck_assert_uint_eq(fx.v.st.gpr[RDI], 0x3000 + done);
    /* Between two iterations; after the last one, RIP may still stand on the instruction. */
    ck_assert(fx.v.st.rip == CODE + 1 || (!left && fx.v.st.rip == CODE + 3));
    fx.stop_on_input = false;
    vcpu_request_clear(&fx.v, VREQ_WORK);
    fx_import();
    run_to(EXIT_HLT);
    ck_assert(!memcmp(fx.ram + 0x3000, "AAAAA", 6));
    ck_assert_uint_eq(fx.n_log, 5);
}
END_TEST

/* ---- what KVM must not remember ---- */

/* An import of any kind, and one of a switch behind a software engine's run. */
static void import_what_changed(bool known)
{
    GError *err = NULL;
    if (!known) {
        fx_import();
        return;
    }
    fx.v.wrote_unseen = true;
    engine_kvm.import_state(&fx.v, GROUPS_ALL | GRP_KNOWN, &err);
    fx_fail(err);
    ck_assert(!fx.v.wrote_unseen);
}

START_TEST(import_drops_stale_translations)
{
    long_mode(0x20000);
    put64(0x20000, 0xaaaa);
    put64(0x21000, 0xbbbb);
    LOAD(CODE, {
                   0x48, 0xa1, 0x00, 0x00, 0x40, 0, 0, 0, 0, 0, /* mov rax, [400000] */
                   0xe6, 0x80, 0xf4,                            /* out 80, al; hlt */
               });
    for (unsigned i = 0; i < 4; i++) {
        import_what_changed(i & 2);
        run_to(EXIT_HLT);
        fx_export();
        ck_assert_uint_eq(fx.v.st.gpr[RAX], i & 1 ? 0xbbbb : 0xaaaa);
        /* As the software engine would: a new, global, translation; CR3 the same. */
        put64(PT, (i & 1 ? 0x20000 : 0x21000) | 0x103);
        fx.v.st.rip = CODE;
        fx.v.st.run_state = RUN_RUNNING;
    }
}
END_TEST

/* The same for a program at privilege 3, which a KVM without hardware runs through page tables of
 * its own: those follow what the guest writes, and not what somebody else wrote. */
static void read_at_privilege_3(void)
{
    CpuState *s = &fx.v.st;
    long_mode(0x20000);
    for (uint64_t table = PML4; table <= PDPT; table += 0x1000)
        put64(table, (table + 0x1000) | 7);
    put64(PD, 0x87);
    put64(PD + FAR / 0x200000 * 8, PT | 7);
    put64(PT, 0x20000 | 7);
    put64(0x20000, 0xaaaa);
    put64(0x21000, 0xbbbb);
    for (unsigned i = ES; i <= GS; i++) {
        s->seg[i].attr |= SEG_DPL;
        s->seg[i].selector = i == CS ? 0x33 : 0x2b;
    }
    s->cpl = 3;
    s->rflags |= FL_IOPL;
    fx.stop_on_input = true;
    LOAD(CODE, {
                   0x48, 0xa1, 0x00, 0x00, 0x40, 0, 0, 0, 0, 0, /* mov rax, [400000] */
                   0x48, 0x89, 0xc3, 0xe4, 0x81,                /* mov rbx, rax; in al, 81 */
               });
}

/* What it reads, and to what the entry it reads through is then changed. */
static void enter_and_read(unsigned i)
{
    run_to(EXIT_KICK);
    fx_export();
    vcpu_request_clear(&fx.v, VREQ_WORK);
    ck_assert_uint_eq(fx.v.st.gpr[RBX], i & 1 ? 0xbbbb : 0xaaaa);
    put64(PT, (i & 1 ? 0x20000 : 0x21000) | 7);
    fx.v.st.rip = CODE;
}

START_TEST(import_drops_shadow_page_tables)
{
    read_at_privilege_3();
    for (unsigned i = 0; i < 6; i++) {
        import_what_changed(i & 2);
        enter_and_read(i);
    }
}
END_TEST

static void wait_for_thread(void)
{
    KvmForget *f = &((KvmVm *)fx.vm.kvm)->forget;
    for (unsigned n = 0; n < 20000 && atomic_load(&f->tables); n++)
        g_usleep(1000);
    ck_assert(!atomic_load(&f->tables));
    g_mutex_lock(&f->lock); /* for the end of what it does */
    g_mutex_unlock(&f->lock);
}

/* The drop is made meanwhile, if the vCPU says that it is away, by a thread that may have done it,
 * be at it or not have begun when the vCPU comes back; and is made again when a vCPU has entered
 * since, whichever. */
START_TEST(shadow_page_tables_drop_meanwhile)
{
    KvmVm *kvm = fx.vm.kvm;
    KvmForget *f = &kvm->forget;
    unsigned spare;
    read_at_privilege_3();
    fx_import();
    ck_assert(!f->started);
    for (unsigned i = 0; i < 400; i++) {
        enter_and_read(i);
        if (!kvm->host->shadow_tables) {
            kvm_away(&fx.v);
            ck_assert(!f->started);
            fx_import();
            continue;
        }
        ck_assert(atomic_load(&f->tables));
        if (i % 8 != 5)
            kvm_away(&fx.v);
        if (i % 4 == 0) {
            wait_for_thread();
            /* A store since then is of no account, as long as nobody enters. */
            spare = f->spare;
            put64(PT, 0);
            put64(PT, (i & 1 ? 0x20000 : 0x21000) | 7);
            import_what_changed(i & 8);
            ck_assert_uint_eq(f->spare, spare);
        } else {
            if (i % 4 == 3)
                g_usleep(i);
            import_what_changed(i & 8);
        }
        ck_assert(!atomic_load(&f->tables));
        /* Nobody has entered since the last. */
        spare = f->spare;
        fx_import();
        ck_assert_uint_eq(f->spare, spare);
    }
    kvm_away(&fx.v); /* and the thread ends with the VM, wherever it is */
}
END_TEST

static void count(Vcpu *v, void *opaque)
{
    ck_assert_ptr_eq(v, &fx.v);
    atomic_fetch_add((_Atomic unsigned *)opaque, 1);
}

static void *wait_ready(void *told)
{
    kvm_wait_ready(&fx.vm);
    atomic_fetch_add((_Atomic unsigned *)told, 1);
    return NULL;
}

/* Who asks while the thread is at it is told when it is not any more, once, unless that was taken
 * back; and has then nothing to wait for. */
START_TEST(told_when_ready)
{
    KvmVm *kvm = fx.vm.kvm;
    KvmForget *f = &kvm->forget;
    _Atomic unsigned told = 0, waited = 0;
    read_at_privilege_3();
    fx_import();
    ck_assert(kvm_ready(&fx.v, count, &told));
    for (unsigned i = 0; i < 20; i++) {
        enter_and_read(i);
        if (!kvm->host->shadow_tables) {
            kvm_away(&fx.v);
            ck_assert(kvm_ready(&fx.v, count, &told));
            fx_import();
            continue;
        }
        unsigned before = told;
        g_mutex_lock(&f->lock); /* the thread gets no further */
        kvm_away(&fx.v);
        ck_assert(!kvm_ready(&fx.v, count, &told));
        ck_assert(kvm_ready(&fx.v, count, &told)); /* once is enough */
        GThread *other = g_thread_new(NULL, wait_ready, &waited);
        if (i % 4 == 3)
            kvm_ready_cancel(&fx.v);
        kvm_ready_cancel(&(Vcpu){.vm = &fx.vm}); /* another's */
        ck_assert_uint_eq(told, before);
        g_mutex_unlock(&f->lock);
        wait_for_thread();
        g_thread_join(other);
        ck_assert_uint_eq(waited, i + 1);
        for (unsigned n = 0; n < 20000 && i % 4 != 3 && told == before; n++)
            g_usleep(1000);
        ck_assert_uint_eq(told, before + (i % 4 != 3));
        kvm_wait_ready(&fx.vm);
        unsigned spare = f->spare;
        import_what_changed(false);
        ck_assert_uint_eq(f->spare, spare);
    }
    ck_assert_uint_eq(told, kvm->host->shadow_tables ? 15 : 0);
}
END_TEST

/* With another vCPU in KVM, or where it may go there unseen, no drop is good for long. */
START_TEST(shadow_page_tables_of_several)
{
    KvmVm *kvm = fx.vm.kvm;
    KvmForget *f = &kvm->forget;
    KvmVcpu other = {.vm = kvm};
    unsigned spare = 0;
    read_at_privilege_3();
    fx_import();
    for (unsigned i = 0; i < 40 && kvm->host->shadow_tables; i++) {
        enter_and_read(i);
        if (i % 4 == 0)
            kvm_tables_entering(&other);
        if (i % 4 < 3) {
            kvm_away(&fx.v);
            g_usleep(2000);
            ck_assert(atomic_load(&f->tables));
            spare = f->spare;
            fx_import();
            ck_assert_uint_ne(f->spare, spare);
            ck_assert(atomic_load(&f->tables));
        } else {
            kvm_tables_left(&other);
            kvm_away(&fx.v);
            wait_for_thread();
            kvm_tables_entering(&other); /* it was here, behind the drop */
            kvm_tables_left(&other);
            ck_assert(atomic_load(&f->tables));
            spare = f->spare;
            fx_import();
            ck_assert_uint_ne(f->spare, spare);
            ck_assert(!atomic_load(&f->tables));
        }
    }
    kvm_tables_left(&other);
}
END_TEST

/* What the thread could not do the import does, or says why not. */
START_TEST(shadow_page_tables_that_stay)
{
    KvmVm *kvm = fx.vm.kvm;
    KvmForget *f = &kvm->forget;
    GError *err = NULL;
    int fd = kvm->fd;
    read_at_privilege_3();
    fx_import();
    if (!kvm->host->shadow_tables)
        return;
    enter_and_read(0);
    kvm->fd = -1;
    kvm_away(&fx.v);
    g_usleep(5000);
    ck_assert(!engine_kvm.import_state(&fx.v, GROUPS_ALL, &err));
    ck_assert_msg(strstr(err->message, "KVM_SET_USER_MEMORY_REGION"), "%s", err->message);
    g_clear_error(&err);
    ck_assert(atomic_load(&f->tables));
    kvm->fd = fd;
    fx_import();
    enter_and_read(1);
}
END_TEST

/* ---- steps and failures ---- */

START_TEST(single_steps)
{
    static const RunLimit one = {.max_insns = 1};
    static const unsigned at[] = {1, 4, 6, 7};
    real_mode();
    LOAD(CODE, {0x90, 0xb8, 0x34, 0x12, 0xe6, 0x80, 0x90, 0xf4});
    fx_import();
    for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
        Exit e = engine_kvm.run(&fx.v, &one);
        ck_assert_msg(e.kind == EXIT_LIMIT, "step %u: exit %d %s", i, e.kind, e.msg);
        fx_export();
        ck_assert_uint_eq(fx.v.st.rip, CODE + at[i]);
        ck_assert(!(fx.v.st.rflags & FL_TF));
    }
    run_to(EXIT_HLT);
}
END_TEST

/* x87 arithmetic: hardware executes it, emulating back ends may not. Either it is done, or the exit
 * says which instruction it was, and nothing has happened. */
START_TEST(what_kvm_cannot_emulate_is_named)
{
    real_mode();
    LOAD(CODE, {0xd9, 0xe8, 0xd9, 0xfa, 0xf4}); /* fld1; fsqrt; hlt */
    fx_import();
    Exit e = run();
    fx_export();
    if (e.kind == EXIT_HLT)
        return;
    ck_assert_int_eq(e.kind, EXIT_INTERNAL_ERROR);
    ck_assert_uint_ge(e.insn_len, 2);
    ck_assert_uint_eq(fx.v.st.rip, CODE + (e.insn[1] == 0xe8 ? 0 : 2));
    ck_assert_msg(strstr(e.msg, e.insn[1] == 0xe8 ? "fld1" : "fsqrt") && strstr(e.msg, "0x100"),
                  "%s", e.msg);
    ck_assert(!fx.v.st.ev.exception.pending && !fx.v.st.ev.exception.injected);
}
END_TEST

START_TEST(dirty_log)
{
    GError *err = NULL;
    uint64_t dirty[(RAM_SIZE / 4096 + 63) / 64] = {0};
    real_mode();
    LOAD(CODE, {0xa3, 0x00, 0x60, 0xf4}); /* mov [6000], ax; hlt */
    ck_assert(kvm_dirty_log(&fx.vm, true, &err));
    fx_import();
    run_to(EXIT_HLT);
    ck_assert(kvm_dirty_fetch(&fx.vm, 0, dirty, &err));
    ck_assert(dirty[0] & BIT(6));
    ck_assert(!(dirty[0] & BIT(7)));
}
END_TEST

/* MXCSR goes in and comes out by itself, with all vector registers zero. */
START_TEST(mxcsr_alone)
{
    static const uint32_t values[] = {0x1f92, 0x1f80, 0x5fc0, 0x1fa0, 0x1f80};
    real_mode();
    for (unsigned i = 0; i < ARRAY_LEN(values); i++) {
        fx.v.st.fpu.mxcsr = values[i];
        LOAD(CODE, {0xf4});
        fx.v.st.rip = CODE;
        fx.v.st.run_state = RUN_RUNNING;
        fx_import();
        run_to(EXIT_HLT);
        fx_export();
        ck_assert_uint_eq(fx.v.st.fpu.mxcsr, values[i]);
    }
}
END_TEST

/* The guest's TSC is the host's plus tsc_offset, where KVM can do it. */
START_TEST(time_stamp_counter)
{
    const KvmVm *kvm = fx.vm.kvm;
    uint64_t offset = kvm->host->tsc == TSC_FIXED ? 0 : 1ull << 45;
    ck_assert_int_eq(fx.vm.tsc_offset_fixed, kvm->host->tsc == TSC_FIXED);
    real_mode();
    fx.v.st.tsc_offset = offset;
    LOAD(CODE, {0x0f, 0x31, 0xf4}); /* rdtsc; hlt */
    fx_import();
    uint64_t before = clock_tsc(fx.clock) + offset;
    run_to(EXIT_HLT);
    uint64_t after = clock_tsc(fx.clock) + offset;
    fx_export();
    uint64_t guest = (uint32_t)fx.v.st.gpr[RAX] | fx.v.st.gpr[RDX] << 32;
    ck_assert_msg(guest >= before && guest <= after, "%#llx is not in %#llx-%#llx",
                  (long long)guest, (long long)before, (long long)after);
    ck_assert_uint_eq(fx.v.st.tsc_offset, offset);

    /* What the guest does to it is seen as exactly. */
    if (fx.vm.tsc_offset_fixed || !cpuid_has(&fx.cpuid, FEAT_TSC_ADJUST))
        return;
    real_mode();
    fx.v.st.tsc_offset = offset;
    LOAD(CODE, {0x66, 0xb9, 0x3b, 0, 0, 0, 0x66, 0xb8, 0, 0, 0x10, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
                0xf4}); /* TSC_ADJUST = 100000 */
    fx_import();
    run_to(EXIT_HLT);
    fx_export();
    ck_assert_uint_eq(fx.v.st.msr.tsc_adjust, 0x100000);
    ck_assert_uint_eq(fx.v.st.tsc_offset, offset + 0x100000);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        ports,
        device_memory,
        long_mode_guest,
        triple_fault,
        registers_of_the_machine,
        cpuid_as_the_table_says,
        xsave_area_follows_xcr0,
        interrupts_wait_for_if,
        interrupt_carried_over,
        interrupt_behind_exception,
        nmi,
        task_priority,
        kicks_are_never_lost,
        half_done_input,
        half_done_device_read,
        half_done_string_input,
        import_drops_stale_translations,
        import_drops_shadow_page_tables,
        shadow_page_tables_drop_meanwhile,
        told_when_ready,
        shadow_page_tables_of_several,
        shadow_page_tables_that_stay,
        single_steps,
        what_kvm_cannot_emulate_is_named,
        dirty_log,
        mxcsr_alone,
        time_stamp_counter,
    };
    Suite *s = suite_create("kvm_run");
    TCase *guests = tcase_create("guests");

    if (!fx_have_kvm())
        return 77;
    tcase_add_checked_fixture(guests, fx_setup, fx_teardown);
    for (unsigned i = 0; i < ARRAY_LEN(tests); i++)
        tcase_add_test(guests, tests[i]);
    tcase_set_timeout(guests, 60);
    suite_add_tcase(s, guests);
    return run_suite(s);
}
