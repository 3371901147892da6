/*
 * The run loop and the block cache, by the interpreter and by the translator: faults at the precise
 * instruction, changed code, traps, interrupts, limits.
 */
#include <stdio.h>
#include <unistd.h>
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

#define HANDLERS (G_RAM + 0x10000) /* 16 bytes a vector: HLT */
#define ST       (&guest.v.st)

static void put(uint64_t at, const void *bytes, size_t n)
{
    memcpy(gp(at), bytes, n);
}
/* Code at G_CODE, fresh long mode, exceptions end in HLT at their handler. */
#define CODE(...) start((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void idt64(void)
{
    put64(G_GDT + 8, 0x00af9b000000ffffull);
    put64(G_GDT + 16, 0x00cf93000000ffffull);
    ST->gdt = (DescTable){G_GDT, 0x17};
    for (unsigned v = 0; v < 256; v++) {
        uint64_t h = HANDLERS + v * 16;
        put64(G_IDT + v * 16, (h & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (h >> 16 & 0xffff) << 48);
        put64(G_IDT + v * 16 + 8, h >> 32);
        put(h, "\xf4", 1);
    }
    ST->idt = (DescTable){G_IDT, 0xfff};
}

static void start(const uint8_t *code, size_t n)
{
    guest_long_mode();
    idt64();
    put(G_CODE, code, n);
    guest.v.insns = 0;
    engine_interp.enter(&guest.v);
}

static uint64_t stack64(unsigned n)
{
    uint64_t v;
    memcpy(&v, gp(ST->gpr[RSP] + 8 * n), 8);
    return v;
}

/* Runs to the handler's HLT and checks what it was given. error -1: none. */
static void expect(int vector, uint64_t rip, int64_t error)
{
    Exit x = guest_run(10000);
    ck_assert_int_eq(x.kind, EXIT_HLT);
    ck_assert_int_eq((ST->rip - 1 - HANDLERS) / 16, vector);
    unsigned at = 0;
    if (error >= 0)
        ck_assert_uint_eq(stack64(at++), (uint64_t)error);
    ck_assert_uint_eq(stack64(at), rip);
    ck_assert_int_eq((int64_t)ST->gpr[RSP] + 8 * (at + 5), G_STACK);
}

/* ---- counting ---- */
START_TEST(limit_is_exact)
{
    /* mov ecx,5; L: inc eax; test al,1; jz +2; inc ebx; nop; dec ecx; jnz L; hlt */
    static const uint8_t code[] = {0xb9, 5,    0,    0,    0,    0xff, 0xc0, 0xa8, 1,   0x74,
                                   2,    0xff, 0xc3, 0x90, 0xff, 0xc9, 0x75, 0xf3, 0xf4};
    uint64_t rip[60], rbx[60], n = 0;
    start(code, sizeof(code));
    for (;; n++) {
        rip[n] = ST->rip;
        rbx[n] = ST->gpr[RBX];
        if (guest_run(1).kind == EXIT_HLT)
            break;
        ck_assert_uint_eq(guest.v.insns, n + 1);
    }
    ck_assert_uint_eq(n + 1, guest.v.insns);
    ck_assert_uint_eq(ST->gpr[RBX], 3);
    for (uint64_t k = 1; k <= n; k++) {
        start(code, sizeof(code));
        ck_assert_int_eq(guest_run(k).kind, EXIT_LIMIT);
        ck_assert_uint_eq(guest.v.insns, k);
        ck_assert_uint_eq(ST->rip, rip[k]);
        ck_assert_uint_eq(ST->gpr[RBX], rbx[k]);
    }
}
END_TEST

/* ---- code that changes ---- */
START_TEST(changes_next_instruction)
{
    /* mov byte [rip + 1], 7; mov al, 1 (becomes mov al, 7); hlt - twice, through a jump */
    CODE(0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1, 0xf4);
    ck_assert_int_eq(guest_run(1000).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX] & 0xff, 7);
    ck_assert_uint_eq(guest.v.insns, 3);
}
END_TEST

START_TEST(changes_earlier_block)
{
    /* L: mov al, 1; add bl, al; inc byte [rip - 10] (the immediate); dec ecx; jnz L; hlt */
    CODE(0xb0, 1, 0x00, 0xc3, 0xfe, 0x05, 0xf7, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf2, 0xf4);
    ST->gpr[RCX] = 10;
    ST->gpr[RBX] = 0;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RBX] & 0xff, 55);
}
END_TEST

/* The page could be written without notice before it was known to hold code. */
START_TEST(written_before_run)
{
    /* mov byte [r8 + 1], 1; call r8; mov byte [r8 + 1], 2; call r8; hlt
     * r8: mov al, imm; add bl, al; ret */
    CODE(0x41, 0xc6, 0x40, 1, 1, 0x41, 0xff, 0xd0, 0x41, 0xc6, 0x40, 1, 2, 0x41, 0xff, 0xd0, 0xf4);
    put(G_CODE + 0x3000, "\xb0\x09\x00\xc3\xc3", 5);
    ST->gpr[R8] = G_CODE + 0x3000;
    ST->gpr[RBX] = 0;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RBX], 3);
}
END_TEST

/* Locked and string writes reach code too, and so do writes through another linear address. */
START_TEST(changes_by_other_means)
{
    /* lock inc byte [rip + 1]; mov al, 1; hlt */
    CODE(0xf0, 0xfe, 0x05, 1, 0, 0, 0, 0xb0, 1, 0xf4);
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX] & 0xff, 2);

    /* lea rdi, [rip + 6]; mov ecx, 3 ...: rep stosb over "mov al, imm; hlt" */
    CODE(0xf3, 0xaa, 0x90, 0x90, 0xb3, 1, 0xf4);
    ST->gpr[RDI] = G_CODE + 2;
    ST->gpr[RCX] = 3;
    ST->gpr[RAX] = 0xf4;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->rip, G_CODE + 3);

    /* mov byte [rdi], 9; mov al, 1; hlt, with rdi a second mapping of the page */
    CODE(0xc6, 0x07, 9, 0xb0, 1, 0xf4);
    put64(G_PT + 8 * 0x180, G_CODE | 7);
    ST->gpr[RDI] = G_RAM + 0x180000 + 4;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX] & 0xff, 9);
}
END_TEST

/* What was written behind the engine's back is seen after enter(). */
START_TEST(distrusts_after_enter)
{
    CODE(0xb0, 1, 0xf4);
    for (unsigned k = 1; k < 5; k++) {
        put(G_CODE + 1, &k, 1);
        ST->rip = G_CODE;
        ST->run_state = RUN_RUNNING;
        engine_interp.enter(&guest.v);
        ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
        ck_assert_uint_eq(ST->gpr[RAX] & 0xff, k);
    }
}
END_TEST

/* An instruction across a page: each half can change, and be mapped elsewhere. */
START_TEST(page_crossing)
{
    /* mov eax, imm32 with two immediate bytes on the second page; hlt */
    static const uint8_t code[] = {0xb8, 0x11, 0x22, 0x33, 0x44, 0xf4};
    CODE(0x90);
    put(G_CODE + 0x1000 - 3, code, sizeof(code));
    ST->rip = G_CODE + 0x1000 - 3;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX], 0x44332211);

    /* mov byte [rip + x], 0x55 then back to it: second page changes */
    CODE(0xc6, 0x05, 0xf9, 0x0f, 0, 0, 0x55, 0xe9, 0xf1, 0x0f, 0, 0);
    put(G_CODE + 0x1000 - 3, code, sizeof(code));
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX], 0x44552211);

    /* The second page is another one now. */
    CODE(0x90);
    put(G_CODE + 0x1000 - 3, code, sizeof(code));
    put(G_CODE + 0x2000, "\x77\x88\xf4", 3);
    ST->rip = G_CODE + 0x1000 - 3;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    put64(G_PT + 8 * 0x101, (G_CODE + 0x2000) | 7);
    ST->rip = G_CODE + 0x1000 - 3;
    ST->run_state = RUN_RUNNING;
    engine_interp.import_state(&guest.v, GROUPS_ALL, NULL);
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX], 0x88772211);
}
END_TEST

/* ---- fetch faults ---- */
START_TEST(fetch_faults_are_precise)
{
    /* Page after the code is not there: two instructions run, the third crosses. */
    CODE(0x90);
    put64(G_PT + 8 * 0x101, 0);
    put(G_CODE + 0x1000 - 4, "\xff\xc0\x90\xb8", 4); /* inc eax; nop; mov eax, ... */
    ST->rip = G_CODE + 0x1000 - 4;
    ST->gpr[RAX] = 0;
    expect(VEC_PF, G_CODE + 0x1000 - 1, 0x10);
    ck_assert_uint_eq(ST->cr2, G_CODE + 0x1000);
    ck_assert_uint_eq(ST->gpr[RAX], 1);

    /* A jump to it faults at the target. */
    CODE(0xe9, 0xfb, 0x0f, 0, 0);
    put64(G_PT + 8 * 0x101, 0);
    engine_interp.enter(&guest.v);
    expect(VEC_PF, G_CODE + 0x1000, 0x10);
    ck_assert_uint_eq(ST->cr2, G_CODE + 0x1000);

    /* Not executable. */
    CODE(0xe9, 0xfb, 0x0f, 0, 0);
    put64(G_PT + 8 * 0x101, (G_CODE + 0x1000) | 7 | BIT(63));
    engine_interp.enter(&guest.v);
    expect(VEC_PF, G_CODE + 0x1000, 0x11);

    /* Sixteen bytes of prefixes; LOCK where it may not be; a canonical hole. */
    CODE(0x90, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
         0x66, 0x90);
    expect(VEC_GP, G_CODE + 1, 0);
    CODE(0x90, 0xf0, 0x01, 0xc8);
    expect(VEC_UD, G_CODE + 1, -1);
    CODE(0x90, 0xff, 0xd0);
    ST->gpr[RAX] = 1ull << 47;
    expect(VEC_GP, G_CODE + 1, 0);
}
END_TEST

START_TEST(data_faults)
{
    CODE(0x90, 0xf7, 0xf3); /* div ebx */
    ST->gpr[RBX] = 0;
    expect(VEC_DE, G_CODE + 1, -1);
    CODE(0x48, 0xf7, 0xfb); /* idiv rbx: -2^127 / -1 */
    ST->gpr[RBX] = ~0ull;
    ST->gpr[RDX] = 1ull << 63;
    ST->gpr[RAX] = 0;
    expect(VEC_DE, G_CODE, -1);
    CODE(0xf6, 0xfb); /* idiv bl: 0x4000 / 0x80 = -128 fits, 0x4000 / 0x7f does not */
    ST->gpr[RBX] = 0x80;
    ST->gpr[RAX] = 0x4000;
    ck_assert_int_eq(guest_run(1).kind, EXIT_LIMIT);
    ck_assert_uint_eq(ST->gpr[RAX] & 0xffff, 0x80);
    CODE(0xf6, 0xfb);
    ST->gpr[RBX] = 0x7f;
    ST->gpr[RAX] = 0x4000;
    expect(VEC_DE, G_CODE, -1);
    /* add [rdi], eax: nothing is committed when the page is not there */
    CODE(0x90, 0x01, 0x07);
    ST->gpr[RDI] = G_RAM + G_SIZE;
    ST->rflags |= FL_CF;
    expect(VEC_PF, G_CODE + 1, 2);
    ck_assert_uint_eq(ST->cr2, G_RAM + G_SIZE);
    /* Not canonical: #SS with RBP as base, #GP otherwise. */
    CODE(0x8b, 0x45, 0);
    ST->gpr[RBP] = 1ull << 60;
    expect(VEC_SS, G_CODE, 0);
    CODE(0x8b, 0x03);
    ST->gpr[RBX] = 1ull << 60;
    expect(VEC_GP, G_CODE, 0);
}
END_TEST

/* REP MOVS stops at the faulting element with its registers there. */
/* The last page and the first, those around 4 GiB: an access across both is in neither. */
START_TEST(pages_next_to_each_other)
{
    static const uint64_t second[] = {0, 1ull << 32, 1ull << 22, 1ull << 42};
    for (unsigned k = 0; k < ARRAY_LEN(second); k++) {
        /* mov [rbx], al; mov [rax], rcx: the TLB has the second page, the first is not there */
        CODE(0x88, 0x03, 0x48, 0x89, 0x08);
        uint64_t pdpt = G_RAM + 0x20000, pd = G_RAM + 0x21000, pt = G_RAM + 0x22000;
        bool own = second[k] >> 39 == 0;
        put64((own ? G_PDPT : pdpt) + 8 * (second[k] >> 30 & 511), pd | 7);
        if (!own)
            put64(G_PML4 + 8 * (second[k] >> 39), pdpt | 7);
        put64(pd + 8 * (second[k] >> 21 & 511), pt | 7);
        put64(pt + 8 * (second[k] >> 12 & 511), G_DATA | 7);
        guest_engine->enter(&guest.v);
        ST->gpr[RBX] = second[k];
        ST->gpr[RAX] = second[k] - 2;
        expect(VEC_PF, G_CODE + 2, 2);
        ck_assert_uint_eq(ST->cr2, second[k] - 2);
    }
}
END_TEST

START_TEST(rep_fault)
{
    CODE(0xf3, 0xa4);
    ST->gpr[RSI] = G_DATA;
    ST->gpr[RDI] = G_CODE + 0x1000 - 100;
    ST->gpr[RCX] = 1000;
    put64(G_PT + 8 * 0x101, 0);
    expect(VEC_PF, G_CODE, 2);
    ck_assert_uint_eq(ST->gpr[RCX], 900);
    ck_assert_uint_eq(ST->gpr[RDI], G_CODE + 0x1000);
    ck_assert_uint_eq(ST->gpr[RSI], G_DATA + 100);
}
END_TEST

/* Downwards, over pages' ends, where the ends overlap too: as one element after the other. */
START_TEST(rep_movs_down)
{
    static uint8_t want[4 * PAGE_SIZE];
    uint8_t *at = gp(G_DATA);
    unsigned seed = 1;
    for (unsigned n = 0; n < 400; n++) {
        unsigned size = 1u << n % 4;
        unsigned from = (unsigned)rand_r(&seed) % (2 * PAGE_SIZE) + PAGE_SIZE;
        unsigned to = n & 4 ? from + (unsigned)rand_r(&seed) % 64 - 32
                            : (unsigned)rand_r(&seed) % (2 * PAGE_SIZE) + PAGE_SIZE;
        unsigned count = (unsigned)rand_r(&seed) % (MIN_OF(from, to) / size);
        for (unsigned k = 0; k < sizeof(want); k++)
            at[k] = want[k] = (uint8_t)(k ^ k >> 8 ^ n);
        for (unsigned k = 0; k < count; k++)
            memmove(want + to - k * size, want + from - k * size, size);
        switch (size) { /* std; rep movs; hlt */
        case 1:
            CODE(0xfd, 0xf3, 0xa4, 0xf4);
            break;
        case 2:
            CODE(0xfd, 0x66, 0xf3, 0xa5, 0xf4);
            break;
        case 4:
            CODE(0xfd, 0xf3, 0xa5, 0xf4);
            break;
        default:
            CODE(0xfd, 0xf3, 0x48, 0xa5, 0xf4);
        }
        ST->gpr[RSI] = G_DATA + from;
        ST->gpr[RDI] = G_DATA + to;
        ST->gpr[RCX] = count;
        ck_assert_int_eq(guest_run(100000).kind, EXIT_HLT);
        ck_assert_uint_eq(ST->gpr[RCX], 0);
        ck_assert_uint_eq(ST->gpr[RSI], G_DATA + from - count * size);
        ck_assert_uint_eq(ST->gpr[RDI], G_DATA + to - count * size);
        ck_assert_mem_eq(at, want, sizeof(want));
    }
}
END_TEST

/* ---- CS limit, IP wrap ---- */
START_TEST(code_limits)
{
    guest_flat32();
    ST->seg[CS].limit = G_CODE + 3;
    ST->seg[CS].attr &= ~(uint32_t)SEG_G;
    put(G_CODE, "\x90\x90\x90\xb8\x01\x02\x03\x04\xf4", 9);
    ST->gpr[RAX] = 0;
    engine_interp.enter(&guest.v);
    Exit x = guest_run(100); /* no IDT: #GP becomes a triple fault */
    ck_assert_int_eq(x.kind, EXIT_SHUTDOWN);
    ck_assert_uint_eq(ST->rip, G_CODE + 3);
    ck_assert_uint_eq(guest.v.insns, 3);
    /* With one byte less even "mov eax" cannot begin. */
    guest_flat32();
    ST->seg[CS].limit = G_CODE + 7;
    guest.v.insns = 0;
    engine_interp.enter(&guest.v);
    x = guest_run(4);
    ck_assert_int_eq(x.kind, EXIT_LIMIT);
    ck_assert_uint_eq(ST->gpr[RAX], 0x04030201);
    x = guest_run(1);
    ck_assert_int_eq(x.kind, EXIT_SHUTDOWN);
}
END_TEST

/* Real mode: near jumps wrap at 64 KiB, LOOP with CX, 16-bit CALL and RET. */
START_TEST(real_mode)
{
    guest_flat32();
    ST->cr0 = CR0_ET;
    for (unsigned k = 0; k < 6; k++) {
        ST->seg[k] = (Segment){.base = G_RAM + 0x100000, .limit = 0xffff, .attr = 0x93};
    }
    ST->seg[CS].attr = 0x9b;
    ST->gpr[RSP] = 0xffff8000;
    ST->gpr[RCX] = 0xabcd0003;
    ST->gpr[RAX] = 0;
    /* 0000: L: call 0x100; loop L; jmp 0xfff0 (backwards) */
    put(G_CODE, "\xe8\xfd\x00\xe2\xfb\xe9\xe8\xff", 8);
    put(G_CODE + 0x100, "\x40\xc3", 2);      /* inc ax; ret */
    put(G_CODE + 0xfff0, "\xe9\x0d\x00", 3); /* jmp 0x0000 + 0 ... = fff3 + 0d = 0 */
    ST->rip = 0;
    engine_interp.enter(&guest.v);
    ck_assert_int_eq(guest_run(4 * 3 + 1).kind, EXIT_LIMIT);
    ck_assert_uint_eq(ST->rip, 0xfff0);
    ck_assert_uint_eq(ST->gpr[RAX], 3);
    ck_assert_uint_eq(ST->gpr[RCX], 0xabcd0000);
    ck_assert_uint_eq(ST->gpr[RSP], 0xffff8000);
    ck_assert_int_eq(guest_run(1).kind, EXIT_LIMIT);
    ck_assert_uint_eq(ST->rip, 0);
}
END_TEST

/* ---- traps ---- */
START_TEST(single_step_trap)
{
    CODE(0x90, 0xff, 0xc0, 0x90);
    ST->rflags |= FL_TF;
    expect(VEC_DB, G_CODE + 1, -1);
    ck_assert_uint_eq(ST->dr6 & DR6_BS, DR6_BS);
    ck_assert_uint_eq(stack64(2) & FL_TF, FL_TF);

    /* MOV SS keeps the trap off until after the next instruction. */
    CODE(0x8e, 0xd0, 0xff, 0xc3, 0x90);
    ST->gpr[RAX] = 16;
    ST->gpr[RBX] = 0;
    ST->rflags |= FL_TF;
    expect(VEC_DB, G_CODE + 4, -1);
    ck_assert_uint_eq(ST->gpr[RBX], 1);

    /* A REP is stepped by iteration. */
    CODE(0xf3, 0xaa, 0x90);
    ST->gpr[RDI] = G_DATA;
    ST->gpr[RCX] = 3;
    ST->rflags |= FL_TF;
    expect(VEC_DB, G_CODE, -1);
    ck_assert_uint_eq(ST->gpr[RCX], 2);
}
END_TEST

START_TEST(breakpoints)
{
    CODE(0x90, 0x90, 0xff, 0xc0, 0xf4);
    ST->dr[1] = G_CODE + 2;
    ST->dr7 = DR7_FIXED1 | 1 << 2;
    ST->gpr[RAX] = 0;
    expect(VEC_DB, G_CODE + 2, -1);
    ck_assert_uint_eq(ST->dr6 & 0xf, 2);
    ck_assert_uint_eq(ST->gpr[RAX], 0);
    /* RF lets it pass, once. */
    ST->rip = G_CODE + 2;
    ST->run_state = RUN_RUNNING;
    ST->rflags |= FL_RF;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX], 1);
    ck_assert_uint_eq(ST->rflags & FL_RF, 0);
    ck_assert_uint_eq(ST->rip, G_CODE + 5);

    /* Data: after the write, RIP past it. */
    CODE(0xc7, 0x07, 1, 0, 0, 0, 0x90);
    ST->gpr[RDI] = G_DATA;
    ST->dr[0] = G_DATA + 3;
    ST->dr7 = DR7_FIXED1 | 1 | 1 << 16;
    expect(VEC_DB, G_CODE + 6, -1);
    ck_assert_uint_eq(ST->dr6 & 0xf, 1);
}
END_TEST

/* ---- interrupts ---- */
START_TEST(interrupts)
{
    CODE(0xeb, 0xfe);
    ST->rflags |= FL_IF;
    guest.irq = 0x40;
    vcpu_request(&guest.v, VREQ_INTR);
    expect(0x40, G_CODE, -1);
    ck_assert_uint_eq(ST->rflags & FL_IF, 0);

    /* Not while IF is clear; after STI one instruction more. */
    CODE(0x90, 0xfb, 0xff, 0xc0, 0xeb, 0xfe);
    ST->gpr[RAX] = 0;
    guest.irq = 0x41;
    vcpu_request(&guest.v, VREQ_INTR);
    expect(0x41, G_CODE + 4, -1);
    ck_assert_uint_eq(ST->gpr[RAX], 1);

    /* The shadow is part of the state between runs. */
    CODE(0x90, 0xfb, 0x90, 0xeb, 0xfe);
    ck_assert_int_eq(guest_run(2).kind, EXIT_LIMIT);
    ck_assert(ST->ev.shadow_sti);
    guest.irq = 0x42;
    vcpu_request(&guest.v, VREQ_INTR);
    expect(0x42, G_CODE + 3, -1);

    /* NMI, and none inside it. */
    CODE(0xeb, 0xfe);
    vcpu_request(&guest.v, VREQ_NMI);
    expect(VEC_NMI, G_CODE, -1);
    ck_assert(ST->ev.nmi.masked);

    /* What an exchange of engines brought along. */
    CODE(0xeb, 0xfe);
    ST->ev.interrupt.injected = true;
    ST->ev.interrupt.nr = 0x77;
    expect(0x77, G_CODE, -1);
    CODE(0xeb, 0xfe);
    ST->ev.exception.injected = ST->ev.exception.has_error = true;
    ST->ev.exception.nr = VEC_PF;
    ST->ev.exception.error = 6;
    expect(VEC_PF, G_CODE, 6);
    ck_assert(!ST->ev.exception.injected);
}
END_TEST

START_TEST(halt)
{
    CODE(0xfb, 0xf4, 0xff, 0xc0, 0xeb, 0xfe);
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_int_eq(ST->run_state, RUN_HALTED);
    ck_assert_uint_eq(ST->rip, G_CODE + 2);
    guest.irq = 0x50;
    vcpu_request(&guest.v, VREQ_INTR);
    expect(0x50, G_CODE + 2, -1);
}
END_TEST

/* ---- kicks ---- */
static void *kicker(void *p G_GNUC_UNUSED)
{
    usleep(20000);
    vcpu_request(&guest.v, VREQ_WORK);
    return NULL;
}
START_TEST(kick)
{
    /* While it runs, and before it does. */
    CODE(0xeb, 0xfe);
    pthread_t th;
    pthread_create(&th, NULL, kicker, NULL);
    ck_assert_int_eq(guest_run(0).kind, EXIT_KICK);
    pthread_join(th, NULL);
    ck_assert_int_eq(guest_run(0).kind, EXIT_KICK);
    vcpu_request_clear(&guest.v, VREQ_WORK);

    /* A long REP. */
    CODE(0xf3, 0xaa, 0xf4);
    ST->gpr[RDI] = G_DATA;
    ST->gpr[RCX] = 0x1f0000;
    vcpu_request(&guest.v, VREQ_WORK);
    ck_assert_int_eq(guest_run(0).kind, EXIT_KICK);
    ck_assert_uint_eq(ST->rip, G_CODE);
    vcpu_request_clear(&guest.v, VREQ_WORK);
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RDI], G_DATA + 0x1f0000);
    ck_assert_uint_eq(ST->gpr[RCX], 0);
}
END_TEST

/* ---- x87 errors with CR0.NE clear ---- */
static struct {
    bool ferr, ignne;
    unsigned asked, stop_after; /* a request to stop comes with this many */
} board;

static bool board_ferr(Vcpu *v, bool ferr)
{
    if (ferr && !board.ferr) {
        guest.irq = 0x75;
        vcpu_request(v, VREQ_INTR);
    }
    board.ferr = ferr;
    board.ignne &= ferr;
    if (++board.asked == board.stop_after)
        vcpu_request(v, VREQ_WORK);
    return board.ignne;
}
static void board_out(Vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
    ck_assert_uint_eq(port, 0xf0);
    board.ignne = board.ferr;
}

/* fninit; fldcw [rsi]; fld1; fldz; fdivp; fwait; inc ebx; fninit; fwait; hlt */
static void divide_by_zero(const char *handler, size_t n, bool fl_if)
{
    CODE(0xdb, 0xe3, 0xd9, 0x2e, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b, 0xff, 0xc3, 0xdb, 0xe3,
         0x9b, 0xf4);
    put(HANDLERS + 0x75 * 16, handler, n);
    memset(&board, 0, sizeof(board));
    guest.bus.x87_error = board_ferr;
    guest.bus.pio_write = board_out;
    ST->cr0 &= ~(uint64_t)CR0_NE;
    ST->rflags |= fl_if ? FL_IF : 0;
    ST->gpr[RSI] = G_DATA;
    put64(G_DATA, 0x37b); /* division by zero is not masked */
}

START_TEST(x87_error_by_irq13)
{
    static const char clears[] = "\xe6\xf0\xdb\xe2\xff\xc1\x48\xcf"; /* out f0; fnclex; inc ecx */
    static const char ignores[] = "\xe6\xf0\xff\xc1\x48\xcf";
    for (unsigned again = 0; again < 3; again++) {
        divide_by_zero(again ? ignores : clears, again ? 6 : 8, true);
        ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
        ck_assert_uint_eq(ST->gpr[RBX], 1);
        ck_assert_uint_eq(ST->gpr[RCX], 1);
        uint64_t rip;
        memcpy(&rip, gp(G_STACK - 40), 8);
        ck_assert_uint_eq(rip, G_CODE + 10); /* FWAIT, not executed */
        ck_assert(!board.ferr && !board.ignne);
    }
}
END_TEST

START_TEST(x87_error_freezes)
{
    divide_by_zero("\xf4", 1, false);
    board.stop_after = 1000;
    ck_assert_int_eq(guest_run(0).kind, EXIT_KICK);
    ck_assert_uint_eq(ST->rip, G_CODE + 10);
    ck_assert(board.ferr && board.asked == 1000);
    vcpu_request_clear(&guest.v, VREQ_WORK);
    /* A board that is not wired for it. */
    guest.bus.x87_error = NULL;
    Exit x = guest_run(0);
    ck_assert_int_eq(x.kind, EXIT_INTERNAL_ERROR);
    ck_assert_ptr_nonnull(strstr(x.msg, "FERR#"));
    /* With CR0.NE it is an exception. */
    ST->cr0 |= CR0_NE;
    expect(VEC_MF, G_CODE + 10, -1);
}
END_TEST

/* ---- exceptions that the caller wants to see ---- */
static Exit run_to_exception(uint64_t max_insns)
{
    RunLimit limit = {.max_insns = max_insns, .stop_at_exception = true};
    return guest_engine->run(&guest.v, &limit);
}

START_TEST(stops_at_exceptions)
{
    CODE(0x90, 0x8b, 0x03, 0xf4); /* nop; mov eax, [rbx] */
    ST->gpr[RBX] = 0x1234;
    for (unsigned step = 0; step < 2; step++) { /* in a block, and alone */
        ST->rip = G_CODE + step;
        Exit x = run_to_exception(step);
        ck_assert_int_eq(x.kind, EXIT_EXCEPTION);
        ck_assert_uint_eq(x.exc.vector, VEC_PF);
        ck_assert(x.exc.has_error && !x.exc.soft);
        ck_assert_uint_eq(x.exc.error, 0);
        ck_assert_uint_eq(x.exc.cr2, 0x1234);
        ck_assert_uint_eq(ST->rip, G_CODE + 1);
        ck_assert_uint_eq(ST->cr2, 0);
    }
    /* A fetch that faults. */
    ST->rip = 0x5678;
    Exit x = run_to_exception(0);
    ck_assert_int_eq(x.kind, EXIT_EXCEPTION);
    ck_assert_uint_eq(x.exc.cr2, 0x5678);
    ck_assert_uint_eq(x.exc.error, 0x10);
    /* The single-step trap is behind the instruction. */
    CODE(0xff, 0xc0, 0xf4);
    ST->rflags |= FL_TF;
    x = run_to_exception(0);
    ck_assert_int_eq(x.kind, EXIT_EXCEPTION);
    ck_assert_uint_eq(x.exc.vector, VEC_DB);
    ck_assert_uint_eq(x.exc.dr6, DR6_BS);
    ck_assert_uint_eq(ST->rip, G_CODE + 2);
    /* INT n asks its gate: outside the IDT. */
    CODE(0xcd, 0x40);
    ST->idt.limit = 0;
    x = run_to_exception(0);
    ck_assert_int_eq(x.kind, EXIT_EXCEPTION);
    ck_assert_uint_eq(x.exc.vector, VEC_GP);
    ck_assert_uint_eq(x.exc.error, 0x40 * 8 + 2);
    /* With one it is the event itself, RIP on the instruction. */
    put64(G_IDT + 0x40 * 16, 0xee0000080000ull);
    put64(G_IDT + 0x40 * 16 + 8, 0);
    ST->idt = (DescTable){.base = G_IDT, .limit = 0xfff};
    x = run_to_exception(0);
    ck_assert_int_eq(x.kind, EXIT_EXCEPTION);
    ck_assert_uint_eq(x.exc.vector, 0x40);
    ck_assert_uint_eq(x.exc.len, 2);
    ck_assert(x.exc.soft && !x.exc.has_error);
    ck_assert_uint_eq(ST->rip, G_CODE);
}
END_TEST

/* ---- two vCPUs ---- */
static Vcpu second;
static Vcpu *both[2];

static void *second_main(void *p G_GNUC_UNUSED)
{
    RunLimit none = {0};
    while (guest_engine->run(&second, &none).kind == EXIT_KICK &&
           !(atomic_load(&second.request) & VREQ_WORK)) {
    }
    return NULL;
}

#define ROUNDS      20000u
#define WORTH_MS    5000u
#define ROUNDS_WORD (G_DATA + 128)

static atomic_bool is_over;

/* Has the guest end with the round it is in, when it has taken so long. */
static void *patience(void *p G_GNUC_UNUSED)
{
    for (unsigned ms = 0; ms < WORTH_MS && !atomic_load(&is_over); ms += 5)
        g_usleep(5000);
    __atomic_store_n((uint32_t *)gp(ROUNDS_WORD), 0, __ATOMIC_RELEASE);
    return NULL;
}

/*
 * One vCPU rewrites a function, says so in memory and waits for the answer, as patching kernels do;
 * the other, told, executes a serializing instruction, then calls the function. Both spin: where
 * they share a processor with others, each round takes as long as these have their turns, and there
 * are fewer rounds.
 */
START_TEST(cross_modifying)
{
    /* first: L: inc ecx; mov [r8], cl (the immediate); mov [r9], ecx (the word);
     *        W: pause; cmp [r10], ecx (the answer); jne W; cmp ecx, [r11]; jb L; hlt */
    static const uint8_t writer[] = {0xff, 0xc1, 0x41, 0x88, 0x08, 0x41, 0x89,
                                     0x09, 0xf3, 0x90, 0x41, 0x39, 0x0a, 0x75,
                                     0xf9, 0x41, 0x3b, 0x0b, 0x72, 0xec, 0xf4};
    /* second: W: pause; cmp [r9], ebx; je W; mov ebx, [r9]; cpuid's stand-in: mov rax, cr3;
     *         mov cr3, rax; call f; cmp al, bl; jne bad; mov [r10], ebx; jmp W; bad: hlt */
    static const uint8_t reader[] = {0xf3, 0x90, 0x41, 0x39, 0x19, 0x74, 0xf9, 0x41, 0x8b, 0x19,
                                     0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x41, 0xff, 0xd0, 0x38,
                                     0xd8, 0x75, 0x05, 0x41, 0x89, 0x1a, 0xeb, 0xe4, 0xf4};
    GError *err = NULL;
    start(writer, sizeof(writer));
    put(G_CODE + 0x1000, reader, sizeof(reader));
    put(G_CODE + 0x2000, "\xb0\x00\xc3", 3); /* f: mov al, imm; ret */
    memset(&second, 0, sizeof(second));
    second = (Vcpu){.id = 1, .vm = &guest.vm};
    second.st = guest.v.st;
    both[0] = &guest.v;
    both[1] = &second;
    guest.vm.vcpu = both;
    guest.vm.n_vcpus = 2;
    ck_assert(guest_engine->vcpu_init(&second, &err));
    if (guest_engine == &engine_jit)
        jit_of(&second)->hot_after = 0;
    for (unsigned k = 0; k < 2; k++) {
        CpuState *s = &both[k]->st;
        s->gpr[R8] = G_CODE + 0x2001; /* the immediate */
        s->gpr[R9] = G_DATA;
        s->gpr[R10] = G_DATA + 64;
        s->gpr[R11] = ROUNDS_WORD;
        s->gpr[RCX] = s->gpr[RBX] = 0;
    }
    second.st.gpr[R8] = G_CODE + 0x2000;
    second.st.gpr[RSP] = G_STACK - 0x1000;
    second.st.rip = G_CODE + 0x1000;
    put64(G_DATA, 0);
    put64(G_DATA + 64, 0);
    put64(ROUNDS_WORD, ROUNDS);
    atomic_store(&is_over, false);
    pthread_t th, waits;
    pthread_create(&th, NULL, second_main, NULL);
    pthread_create(&waits, NULL, patience, NULL);
    Exit x = guest_run(0);
    bool all = *(uint32_t *)gp(ROUNDS_WORD);
    atomic_store(&is_over, true);
    vcpu_request(&second, VREQ_WORK);
    pthread_join(th, NULL);
    pthread_join(waits, NULL);
    engine_interp.vcpu_free(&second);
    guest.vm.n_vcpus = 1;
    ck_assert_int_eq(x.kind, EXIT_HLT);
    ck_assert_uint_ge(ST->gpr[RCX], all ? ROUNDS : 1);
    ck_assert_int_eq(second.st.run_state, RUN_RUNNING);
}
END_TEST

/* Without a limit, blocks hand over to each other: by direct jumps and through the jump cache. */
START_TEST(translated)
{
    /* mov ecx, 100000; L: call f; dec ecx; jne L; hlt; f: inc rax; ret */
    CODE(0xb9, 0xa0, 0x86, 0x01, 0, 0xe8, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xf4, 0x48, 0xff,
         0xc0, 0xc3);
    ST->gpr[RAX] = 0;
    ck_assert_int_eq(guest_run(0).kind, EXIT_HLT);
    ck_assert_uint_eq(ST->gpr[RAX], 100000);
    const Jit *j = jit_of(&guest.v);
    ck_assert_uint_ge(j->blocks, 3);
    ck_assert_uint_lt(j->exits[JX_LINK] + j->exits[JX_LOOKUP] + j->exits[JX_HELPER], 100);
}
END_TEST

static void jit_setup(void)
{
    GError *err = NULL;
    guest_setup();
    ck_assert_msg(engine_jit.vcpu_init(&guest.v, &err), "%s", err ? err->message : "");
    guest_engine = &engine_jit;
    jit_of(&guest.v)->hot_after = 0; /* translated before it ever runs */
    jit_of(&guest.v)->warm_after = 2;
    jit_of(&guest.v)->trace_paths = jit_of(&guest.v)->kernel_paths = 1;
    jit_of(&guest.v)->kernel_warm = 1;
}

static void jit_teardown(void)
{
    guest_engine = &engine_interp;
    guest_teardown();
}

static TCase *add(Suite *suite, const char *name, SFun setup, SFun teardown)
{
    TCase *tc = tcase_create(name);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, limit_is_exact);
    tcase_add_test(tc, changes_next_instruction);
    tcase_add_test(tc, changes_earlier_block);
    tcase_add_test(tc, changes_by_other_means);
    tcase_add_test(tc, written_before_run);
    tcase_add_test(tc, distrusts_after_enter);
    tcase_add_test(tc, page_crossing);
    tcase_add_test(tc, fetch_faults_are_precise);
    tcase_add_test(tc, data_faults);
    tcase_add_test(tc, pages_next_to_each_other);
    tcase_add_test(tc, rep_fault);
    tcase_add_test(tc, rep_movs_down);
    tcase_add_test(tc, code_limits);
    tcase_add_test(tc, real_mode);
    tcase_add_test(tc, single_step_trap);
    tcase_add_test(tc, x87_error_by_irq13);
    tcase_add_test(tc, x87_error_freezes);
    tcase_add_test(tc, breakpoints);
    tcase_add_test(tc, interrupts);
    tcase_add_test(tc, halt);
    tcase_add_test(tc, kick);
    tcase_add_test(tc, stops_at_exceptions);
    tcase_add_test(tc, cross_modifying);
    suite_add_tcase(suite, tc);
    return tc;
}

int main(void)
{
    Suite *suite = suite_create("interp");
    add(suite, "interp", guest_setup, guest_teardown);
    if (jit_supported(NULL))
        tcase_add_test(add(suite, "jit", jit_setup, jit_teardown), translated);
    else
        fprintf(stderr, "skipped: the translator needs a host CPU with BMI2\n");
    return run_suite(suite);
}
