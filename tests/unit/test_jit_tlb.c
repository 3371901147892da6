/* Large pages in the first-level TLB, whose pages come eight at a time; and pages that share a
 * place in the interpreter's. */
#include "tcg/block.h"
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define AROUND 8u
#define LOW_PD (G_RAM + 0x8000)
#define FN     (G_DATA + 0x5000) /* a function, in the same eight pages as NEAR */
#define NEAR   (G_DATA + 0x3008)

static Jit *jit;

static void setup(void)
{
    guest_setup();
    GError *err = NULL;
    ck_assert(engine_jit.vm_init(&guest.vm, &err) && engine_jit.vcpu_init(&guest.v, &err));
    jit = jit_of(&guest.v);
    jit->hot_after = 0;
}
static void teardown(void)
{
    engine_jit.vcpu_free(&guest.v);
    guest_teardown();
}

static void run(const uint8_t *code, unsigned len)
{
    memcpy(gp(G_CODE), code, len);
    guest.v.st.rip = G_CODE;
    guest.v.st.run_state = RUN_RUNNING;
    engine_interp.enter(&guest.v);
    ck_assert_int_eq(engine_jit.run(&guest.v, NULL).kind, EXIT_HLT);
}

static bool has(gva_t page, bool write)
{
    const JTlb *l = &jit->hot->tlb[MMU_KERNEL];
    unsigned x = page >> PAGE_BITS & (JTLB_SIZE - 1);
    return (write ? l->write : l->read)[x] == 0 - page;
}

/* The pages around the one that was touched are there, with the same rights; those of code cannot
 * be written. */
START_TEST(eight_at_a_time)
{
    static const uint8_t code[] = {
        0xff, 0xd3,       /* call rbx */
        0x48, 0x89, 0x06, /* mov [rsi], rax */
        0xf4,
    };
    CpuState *s = &guest.v.st;
    memcpy(gp(FN), "\xc3", 1);
    s->gpr[RBX] = FN;
    s->gpr[RSI] = NEAR;
    run(code, sizeof(code));
    for (unsigned k = 0; k < AROUND; k++) {
        ck_assert(has(G_DATA + k * PAGE_SIZE, false));
        ck_assert(has(G_DATA + k * PAGE_SIZE, true) == (G_DATA + k * PAGE_SIZE != FN));
    }
    ck_assert(!has(G_DATA + AROUND * PAGE_SIZE, false));
    ck_assert(!has(G_DATA - PAGE_SIZE, false));
}
END_TEST

/* The end of RAM within a large page: nothing behind it. */
START_TEST(end_of_ram)
{
    static const uint8_t code[] = {0x48, 0x89, 0x06, 0xf4}; /* mov [rsi], rax; hlt */
    guest.mem.slot[0].size = 0x204000;
    guest.v.st.gpr[RSI] = NEAR;
    guest.v.st.gpr[RSP] = G_DATA + 0x1000;
    run(code, sizeof(code));
    ck_assert(has(G_DATA + 3 * PAGE_SIZE, true) && has(G_DATA, true));
    ck_assert(!has(G_DATA + 4 * PAGE_SIZE, false) && !has(G_DATA + 4 * PAGE_SIZE, true));
}
END_TEST

/* A page that could be written because one beside it was, and has code then. */
START_TEST(code_beside_data)
{
    static const uint8_t code[] = {
        0x48, 0x89, 0x06, /* 1: mov [rsi], rax */
        0xff, 0xd3,       /* call rbx */
        0x48, 0x01, 0xc2, /* add rdx, rax */
        0x89, 0x0f,       /* mov [rdi], ecx: the immediate of the function */
        0xff, 0xc9,       /* dec ecx */
        0x75, 0xf2,       /* jnz 1b */
        0xf4,
    };
    CpuState *s = &guest.v.st;
    memcpy(gp(FN), "\xb8\x00\x00\x00\x00\xc3", 6); /* mov eax, 0; ret */
    s->gpr[RBX] = FN;
    s->gpr[RDI] = FN + 1;
    s->gpr[RSI] = NEAR;
    s->gpr[RCX] = 40;
    s->gpr[RDX] = 0;
    run(code, sizeof(code));
    ck_assert_uint_eq(s->gpr[RDX], 41 * 40 / 2 - 1);
}
END_TEST

/* A large page that is mapped anew is forgotten by any address in it. */
START_TEST(large_page_mapped_anew)
{
    static const uint8_t code[] = {
        0x48, 0x8b, 0x06,                /* mov rax, [rsi] */
        0x48, 0x89, 0x1f,                /* mov [rdi], rbx */
        0x41, 0x0f, 0x01, 0x39,          /* invlpg [r9] */
        0x48, 0x8b, 0x8e, 0,    0x10, 0, /* mov rcx, [rsi + 0x1000] */
        0,    0xf4,
    };
    CpuState *s = &guest.v.st;
    put64(NEAR, 1);
    put64(NEAR + 0x1000, 2);
    put64(NEAR - 0x200000, 3);
    put64(NEAR + 0x1000 - 0x200000, 4);
    put64(G_RAM + 0x4008, 4); /* in the tables' page of nothing */
    s->gpr[RSI] = NEAR;
    s->gpr[RDI] = G_PD + 8 * ((G_RAM >> 21 & 511) + 1);
    s->gpr[RBX] = G_RAM | 0x87;
    s->gpr[R9] = G_DATA + 0x150000;
    run(code, sizeof(code));
    ck_assert_uint_eq(s->gpr[RAX], 1);
    ck_assert_uint_eq(s->gpr[RCX], 4);
}
END_TEST

/* A flush clears lines of eight: also the first and the last entry, in which a page is "none". */
START_TEST(flushed_by_the_line)
{
    static const uint8_t code[] = {
        0x48, 0x8b, 0x06, /* mov rax, [rsi] */
        0x48, 0x8b, 0x0f, /* mov rcx, [rdi] */
        0x48, 0x8b, 0x13, /* mov rdx, [rbx] */
        0xf4,
    };
    const gva_t first = 0x10000000, last = first - PAGE_SIZE, other = first + 0x20000;
    put64(G_PDPT, LOW_PD | 7);
    put64(LOW_PD, G_RAM | 0x87);
    put64(LOW_PD + 8 * (first >> 21), (G_RAM + 0x200000) | 0xe7);
    put64(LOW_PD + 8 * (last >> 21), (G_RAM + 0x200000) | 0xe7);
    guest.v.st.gpr[RSI] = first;
    guest.v.st.gpr[RDI] = last;
    guest.v.st.gpr[RBX] = other;
    run(code, sizeof(code));
    for (unsigned k = 0; k < AROUND; k++)
        ck_assert(has(first + k * PAGE_SIZE, true) && has(last - k * PAGE_SIZE, true) &&
                  has(other + k * PAGE_SIZE, true));
    tlb_flush(jit->t);
    for (unsigned write = 0; write < 2; write++) {
        for (unsigned k = 0; k < AROUND; k++)
            ck_assert(!has(first + k * PAGE_SIZE, write) && !has(last - k * PAGE_SIZE, write) &&
                      !has(other + k * PAGE_SIZE, write));
        ck_assert(!has(0, write) && !has(0 - PAGE_SIZE, write));
    }
}
END_TEST

/* Who leaves drops what it knows; who comes, without having left since it ran, does. */
START_TEST(memory_changes_while_away)
{
    uint8_t code[] = {0x48, 0x8b, 0x06, 0xb9, 0, 0, 0, 0, 0xf4}; /* mov rax, [rsi]; mov ecx, 0 */
    const gpa_t pde = G_PD + 8 * ((G_RAM >> 21 & 511) + 1);
    CpuState *s = &guest.v.st;
    put64(NEAR, 100);
    put64(NEAR - 0x200000, 101);
    s->gpr[RSI] = NEAR;
    for (unsigned k = 0; k < 40; k++) {
        run(code, sizeof(code));
        ck_assert_uint_eq(s->gpr[RAX], 100 + k % 2);
        ck_assert_uint_eq(s->gpr[RCX], code[4]);
        ck_assert(!jit->t->left && has(NEAR & PAGE_MASK, false));
        if (k % 3) {
            engine_jit.leave(&guest.v);
            ck_assert(jit->t->left && !has(NEAR & PAGE_MASK, false));
        }
        put64(pde, (G_RAM + (k % 2 ? 0x200000 : 0)) | 0x87);
        code[4]++;
    }
}
END_TEST

/* REP MOVS between pages that have the same place in the interpreter's TLB. */
START_TEST(copy_between_rivals)
{
    static const uint8_t code[] = {0xfc, 0xf3, 0x48, 0xa5, 0xf4}; /* cld; rep movsq; hlt */
    const unsigned n = 0x2800 / 8;
    CpuState *s = &guest.v.st;
    gva_t from = G_DATA + 0x40000, to = 0;
    put64(G_PDPT, LOW_PD | 7);
    put64(LOW_PD + 8, (G_RAM + 0x200000) | 0x87);
    for (gva_t p = 0x200000; p < 0x400000; p += 0x4000)
        if (tlb_index(p) == tlb_index(from) && tlb_index(p + 0x2000) == tlb_index(from + 0x2000))
            to = p;
    ck_assert(to);
    gpa_t to_gpa = to + G_RAM;
    for (unsigned k = 0; k < n; k++)
        put64(from + 0x100 + 8 * k, k * 77 + 1);
    memset(gp(to_gpa), 0, 0x4000);
    s->gpr[RSI] = from + 0x100;
    s->gpr[RDI] = to + 0x80;
    s->gpr[RCX] = n;
    run(code, sizeof(code));
    ck_assert_uint_eq(s->gpr[RCX], 0);
    ck_assert_uint_eq(s->gpr[RSI], from + 0x100 + 8 * n);
    ck_assert_uint_eq(s->gpr[RDI], to + 0x80 + 8 * n);
    ck_assert_mem_eq(gp(to_gpa + 0x80), gp(from + 0x100), 8 * n);
    ck_assert_uint_eq(*(uint64_t *)gp(to_gpa + 0x78), 0);
    ck_assert_uint_eq(*(uint64_t *)gp(to_gpa + 0x80 + 8 * n), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("jit_tlb");
    TCase *c = tcase_create("jit_tlb");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, eight_at_a_time);
    tcase_add_test(c, end_of_ram);
    tcase_add_test(c, code_beside_data);
    tcase_add_test(c, large_page_mapped_anew);
    tcase_add_test(c, flushed_by_the_line);
    tcase_add_test(c, memory_changes_while_away);
    tcase_add_test(c, copy_between_rivals);
    suite_add_tcase(s, c);
    return run_suite(s);
}
