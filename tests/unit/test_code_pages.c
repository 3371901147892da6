/* Pages that hold code and are written: what a store drops, and what it leaves alone. */
#include "jit/jit.h"
#include "tcg_guest.h"
#include "run_suite.h"

static const Engine *const engines[] = {&engine_interp, &engine_jit};

static void setup(void)
{
    guest_setup();
    GError *err = NULL;
    ck_assert(engine_jit.vm_init(&guest.vm, &err) && engine_jit.vcpu_init(&guest.v, &err));
    jit_of(&guest.v)->warm_after = 5;
    jit_of(&guest.v)->trace_paths = jit_of(&guest.v)->kernel_paths = 2;
    jit_of(&guest.v)->kernel_warm = 1;
}
static void teardown(void)
{
    engine_jit.vcpu_free(&guest.v);
    guest_teardown();
}

static Tcg *tcg(void)
{
    return guest.v.engine_data[ENGINE_INTERP];
}

static void run_to_halt(unsigned engine)
{
    guest.v.st.rip = G_CODE;
    guest.v.st.run_state = RUN_RUNNING;
    ck_assert_int_eq(engines[engine]->run(&guest.v, NULL).kind, EXIT_HLT);
}

/* mov [rdi], rsi; call rbx, 200 times; each time rsi grows and rdi moves on by rdx. The function
 * at G_CODE + 0x100 adds 1 to rax. */
static const uint8_t stores[] = {
    0xb9, 200,  0,    0, 0, /* mov ecx, 200 */
    0x48, 0x89, 0x37,       /* 1: mov [rdi], rsi */
    0x48, 0x01, 0xd7,       /* add rdi, rdx */
    0x48, 0xff, 0xc6,       /* inc rsi */
    0xff, 0xd3,             /* call rbx */
    0xff, 0xc9,             /* dec ecx */
    0x75, 0xf1,             /* jnz 1b */
    0xf4,                   /* hlt */
};
static const uint8_t add_one[] = {0x48, 0x83, 0xc0, 0x01, 0xc3}; /* add rax, 1; ret */

static void prepare(uint64_t at, uint64_t step, uint64_t value)
{
    CpuState *s = &guest.v.st;
    memcpy(gp(G_CODE), stores, sizeof(stores));
    memcpy(gp(G_CODE + 0x1100), add_one, sizeof(add_one));
    s->gpr[RDI] = at;
    s->gpr[RDX] = step;
    s->gpr[RSI] = value;
    s->gpr[RBX] = G_CODE + 0x1100;
    s->gpr[RAX] = 0;
}

/* Data beside code costs a slow store, no block. */
START_TEST(data_beside_code)
{
    prepare(G_CODE + 0x1200, 8, 5);
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 200);
    ck_assert_uint_eq(tcg()->blocks->killed, 0);
    ck_assert_uint_eq(*(uint64_t *)gp(G_CODE + 0x1200 + 8 * 199), 204);
    /* In the same piece of the page as the code's last byte, but not on it. */
    prepare(G_CODE + 0x1105, 0, 0);
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 200);
    ck_assert_uint_eq(tcg()->blocks->killed, 0);
}
END_TEST

/* The function's bytes are written each time: the immediate is 0, 1, 2 ... of what is stored. */
START_TEST(code_each_time)
{
    uint64_t v;
    memcpy(&v, "\x48\x83\xc0\x00\xc3\x90\x90\x90", 8);
    prepare(G_CODE + 0x1100, 0, v);
    guest.v.st.gpr[RSI] = v;
    uint8_t code[sizeof(stores)];
    memcpy(code, stores, sizeof(code));
    /* add rsi, r8 instead of inc rsi: the immediate is byte 3 */
    code[11] = 0x4c, code[12] = 0x01, code[13] = 0xc6;
    memcpy(gp(G_CODE), code, sizeof(code));
    guest.v.st.gpr[R8] = 1 << 24;
    code[1] = 100; /* times: 0 + 1 + ... + 99, an immediate of 0 to 127 is positive */
    memcpy(gp(G_CODE), code, sizeof(code));
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(guest.v.st.gpr[RAX], 99 * 100 / 2);
}
END_TEST

/* An instruction over the end of a page that the same physical page follows: its tail is written.
 */
START_TEST(page_that_follows_itself)
{
    gpa_t page = G_CODE + 0x3000;
    put64(G_PT + 8 * ((page - G_RAM) / 0x1000 + 1), page | 7);
    engine_interp.enter(&guest.v);
    /* 0xfff: mov eax, imm32 with its immediate and a RET at the page's start */
    *(uint8_t *)gp(page + 0xfff) = 0xb8;
    memcpy(gp(page), "\x01\x00\x00\x00\xc3", 5);
    /* 1: mov [rdi], esi; call rbx; add rdx, rax; inc esi; dec ecx; jnz 1b; hlt */
    static const uint8_t loop[] = {0x89, 0x37, 0xff, 0xd3, 0x48, 0x01, 0xc2,
                                   0xff, 0xc6, 0xff, 0xc9, 0x75, 0xf3, 0xf4};
    memcpy(gp(G_CODE), loop, sizeof(loop));
    CpuState *s = &guest.v.st;
    s->gpr[RDI] = page;
    s->gpr[RSI] = 1;
    s->gpr[RBX] = page + 0xfff;
    s->gpr[RCX] = 100;
    s->gpr[RDX] = 0;
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(s->gpr[RDX], 100 * 101 / 2);
}
END_TEST

/* At a page's end, bytes that need a look at the next page and then none of it. */
START_TEST(no_byte_in_the_second_page)
{
    static const struct {
        uint8_t n, bytes[8];
    } end[] = {
        {1, {0xc5}},       {2, {0xc4, 0xe2}},       {3, {0xc4, 0xe2, 0x79}}, {1, {0x62}},
        {2, {0x0f, 0x38}}, {3, {0x66, 0x0f, 0x3a}}, {2, {0xf0, 0x0f}},       {2, {0x62, 0xf1}},
    };
    gpa_t page = G_CODE + 0x6000;
    for (unsigned k = 0; k < ARRAY_LEN(end); k++) {
        for (unsigned next = 0; next < 256; next += 5) {
            memset(gp(page), (int)next, 16);
            memcpy(gp(page - end[k].n), end[k].bytes, end[k].n);
            guest.v.st.rip = page - end[k].n;
            guest.v.st.run_state = RUN_RUNNING;
            guest.v.st.ev.triple_fault = false;
            RunLimit limit = {.max_insns = 1, .stop_at_exception = true};
            engines[_i]->run(&guest.v, &limit);
            engine_interp.enter(&guest.v);
        }
    }
    const BlockCache *c = tcg()->blocks;
    for (unsigned k = 0; k < PAGE_HASH_SIZE; k++)
        for (const CodePage *p = c->page[k]; p; p = p->next)
            ck_assert_uint_le(p->longest, PAGE_SIZE);
    for (unsigned k = 0; k < BLOCK_HASH_SIZE; k++)
        for (const Block *b = block_of(c, c->hash[k]); b; b = block_of(c, b->hash_next))
            ck_assert_uint_le(b->n, BLOCK_MAX_INSNS);
}
END_TEST

/* Other code, whole in its page, where an instruction was cut by the page's end: the page behind is
 * not asked for any more. */
START_TEST(next_page_of_old_code)
{
    gpa_t page = G_CODE + 0x6000;
    RunLimit limit = {.max_insns = 1, .stop_at_exception = true};
    for (unsigned turn = 0; turn < 2; turn++) {
        bool cut = !turn;
        memcpy(gp(page - 2), cut ? "\x81\xc0\x11\x22\x33\x44" : "\x01\xc0\x11\x22\x33\x44", 6);
        put64(G_PT + 8 * ((page - G_RAM) >> 12), cut ? page | 7 : 0);
        engine_interp.enter(&guest.v); /* memory was written from elsewhere */
        guest.v.st.rip = page - 2;
        guest.v.st.gpr[RAX] = 1;
        guest.v.st.run_state = RUN_RUNNING;
        ck_assert_int_eq(engines[_i]->run(&guest.v, &limit).kind, EXIT_LIMIT);
        ck_assert_uint_eq(guest.v.st.gpr[RAX], cut ? 0x44332212u : 2u);
    }
}
END_TEST

/* A jump within a page leads to an instruction that ends in the next one, which is another page
 * after a change of CR3, or of its entry alone. */
START_TEST(next_page_is_another)
{
    const gpa_t page = G_CODE + 0x5000, behind[2] = {G_CODE + 0x6000, G_CODE + 0x7000};
    const gpa_t entry = G_PT + 8 * ((behind[0] - G_RAM) >> 12);
    /* mov [rsi], rdi; mov rax, cr3; mov cr3, rax (or invlpg [r8]; nop); xor edx, edx; jmp rbx */
    static const uint8_t by_cr3[] = "\x48\x89\x3e\x0f\x20\xd8\x0f\x22\xd8\x31\xd2\xff\xe3";
    static const uint8_t by_page[] = "\x48\x89\x3e\x41\x0f\x01\x38\x90\x90\x31\xd2\xff\xe3";
    /* 1: add rdx, rax; dec ecx; jz 3f; jmp 2f */
    static const uint8_t first[] = "\x48\x01\xc2\xff\xc9\x74\x20\xeb\x14";
    memcpy(gp(page + 0xfe0), first, sizeof(first) - 1);
    memcpy(gp(page + 0xffd), "\xb8\0\0", 3); /* 2: mov eax, 1 or 2 << 16; jmp 1b; 3: hlt */
    for (unsigned k = 0; k < 2; k++)
        memcpy(gp(behind[k]), k ? "\2\0\xe9\xd9\xff\xff\xff\xf4" : "\1\0\xe9\xd9\xff\xff\xff\xf4",
               8);
    engine_interp.enter(&guest.v);
    CpuState *s = &guest.v.st;
    for (unsigned turn = 0; turn < 12; turn++) {
        memcpy(gp(G_CODE), turn < 6 ? by_cr3 : by_page, sizeof(by_cr3));
        if (turn % 6 == 0)
            engine_interp.enter(&guest.v);
        s->gpr[RSI] = entry;
        s->gpr[RDI] = behind[turn % 2] | 7;
        s->gpr[RBX] = page + 0xffd;
        s->gpr[R8] = behind[0];
        s->gpr[RCX] = 100;
        run_to_halt((unsigned)_i);
        ck_assert_uint_eq(s->gpr[RDX], (100ull << 16) * (1 + turn % 2));
    }
}
END_TEST

/* A loop of two blocks, which becomes a trace; its second block is written by a store in the first,
 * and by other means. */
START_TEST(second_block_of_a_trace)
{
    static const uint8_t first[] = {0x88, 0x17, 0xfe, 0xc2,
                                    0xeb, 0x3a}; /* mov [rdi], dl; inc dl;
                                                    jmp 1f */
    static const uint8_t second[] = {0x48, 0x83, 0xc0, 3,   0xff,
                                     0xc9, 0x75, 0xb8, 0xf4}; /* 1: add rax, 3; dec ecx; jnz; hlt */
    static const struct {
        uint64_t to;
        unsigned times, sum;
    } runs[] = {{G_CODE + 0x3000, 60, 180},
                {G_CODE + 0x43, 20, 210},
                {G_CODE + 0x3000, 60, 1200},
                {G_CODE + 0x3000, 10, 70}};
    CpuState *s = &guest.v.st;
    jit_of(&guest.v)->hot_after = 0;
    memcpy(gp(G_CODE), first, sizeof(first));
    memcpy(gp(G_CODE + 0x40), second, sizeof(second));
    for (unsigned k = 0; k < ARRAY_LEN(runs); k++) {
        if (k == 3) {
            *(uint8_t *)gp(G_CODE + 0x43) = 7;
            engines[_i]->enter(&guest.v);
        }
        s->gpr[RAX] = 0;
        s->gpr[RDX] = 1;
        s->gpr[RDI] = runs[k].to;
        s->gpr[RCX] = runs[k].times;
        run_to_halt(_i);
        ck_assert_uint_eq(s->gpr[RAX], runs[k].sum);
        if (_i && k == 0)
            ck_assert_uint_gt(jit_of(&guest.v)->traces, 0);
    }
}
END_TEST

/* The second block of one trace is the first of another, whose second is written by other means:
 * that the first trace has been looked at, and its blocks, says nothing of that one. */
START_TEST(block_of_two_traces)
{
    static const uint8_t a[] = {0x48, 0xff, 0xc2, 0xeb, 0x1b};      /* inc rdx; jmp b */
    static const uint8_t b[] = {0x48, 0x85, 0xf6, 0x74, 0x3b,       /* test rsi, rsi; jz c */
                                0x48, 0x83, 0xc0, 0x01, 0xff, 0xc9, /* add rax, 1; dec ecx */
                                0x75, 0xd3, 0xf4};                  /* jnz a; hlt */
    static const uint8_t c[] = {0x48, 0x83, 0xc0, 0x03, 0xff, 0xc9, /* add rax, 3; dec ecx */
                                0x75, 0xb8, 0xf4};                  /* jnz b; hlt */
    static const struct {
        unsigned rsi, at, times, sum;
    } runs[] = {{1, 0x20, 60, 60}, {0, 0x40, 60, 180}, {1, 0x20, 5, 5}, {0, 0x40, 10, 70}};
    CpuState *s = &guest.v.st;
    jit_of(&guest.v)->hot_after = 0;
    memcpy(gp(G_CODE), "\xff\xe3", 2); /* jmp rbx */
    memcpy(gp(G_CODE + 0x20), a, sizeof(a));
    memcpy(gp(G_CODE + 0x40), b, sizeof(b));
    memcpy(gp(G_CODE + 0x80), c, sizeof(c));
    for (unsigned k = 0; k < ARRAY_LEN(runs); k++) {
        if (k == 2) {
            if (_i)
                ck_assert_uint_gt(jit_of(&guest.v)->traces, 1);
            *(uint8_t *)gp(G_CODE + 0x83) = 7;
            engines[_i]->enter(&guest.v);
        }
        s->gpr[RAX] = 0;
        s->gpr[RSI] = runs[k].rsi;
        s->gpr[RBX] = G_CODE + runs[k].at;
        s->gpr[RCX] = runs[k].times;
        run_to_halt((unsigned)_i);
        ck_assert_uint_eq(s->gpr[RAX], runs[k].sum);
    }
}
END_TEST

/* The code that begins there now. */
static const JitCode *code_at(uint64_t gpa)
{
    const Jit *j = jit_of(&guest.v);
    for (unsigned k = 0; k < j->map_n; k++)
        if (j->map[k]->block && j->map[k]->block->gpa == gpa)
            return j->map[k];
    return NULL;
}

static uint32_t runs_counted(uint64_t gpa)
{
    const JitCode *code = code_at(gpa);
    ck_assert(code && code->heat >= 0);
    return code->warm_after - jit_of(&guest.v)->hot->heat[code->heat];
}

/* A loop of four blocks, all but its beginning reached by jumps forward: only that one counts its
 * runs. When it is a trace, with one of the two ways, the other way is counted. */
START_TEST(runs_are_counted_once)
{
    static const uint8_t code[] = {
        0xff, 0xc9,          /* A: dec ecx */
        0x74, 0x14,          /* jz end */
        0x48, 0xff, 0xc0,    /* B: inc rax */
        0xf6, 0xc1, 3,       /* test cl, 3 */
        0x74, 0x06,          /* jz D */
        0x48, 0x83, 0xc0, 2, /* C: add rax, 2 */
        0xeb, 0xee,          /* jmp A */
        0x48, 0x83, 0xc0, 4, /* D: add rax, 4 */
        0xeb, 0xe8,          /* jmp A */
        0xf4,                /* end: hlt */
    };
    Jit *j = jit_of(&guest.v);
    CpuState *s = &guest.v.st;
    j->hot_after = 0;
    j->warm_after = 200;
    memcpy(gp(G_CODE), code, sizeof(code));
    s->gpr[RAX] = 0;
    s->gpr[RCX] = 101;
    run_to_halt(1);
    ck_assert_uint_eq(s->gpr[RAX], 100 + 75 * 2 + 25 * 4);
    ck_assert_uint_ge(runs_counted(G_CODE), 100);
    for (unsigned k = 0; k < 3; k++) /* while they were not linked */
        ck_assert_uint_lt(runs_counted(G_CODE + (const uint8_t[]){4, 12, 18}[k]), 5);
    s->gpr[RAX] = 0;
    s->gpr[RCX] = 4001;
    run_to_halt(1);
    ck_assert_uint_eq(s->gpr[RAX], 4000 + 3000 * 2 + 1000 * 4);
    ck_assert_uint_gt(code_at(G_CODE)->n_parts, 2);
    ck_assert_uint_gt(code_at(G_CODE + 18)->n_parts, 1);
}
END_TEST

/* mov [rdi], esi; call rbx; add r13, rax; add r13, r9; add esi, 0x01234567; dec ecx; jnz; hlt */
static const uint8_t patch_loop[] = {0x89, 0x37, 0xff, 0xd3, 0x49, 0x01, 0xc5,
                                     0x4d, 0x01, 0xcd, 0x81, 0xc6, 0x67, 0x45,
                                     0x23, 0x01, 0xff, 0xc9, 0x75, 0xec, 0xf4};

/* One instruction, its immediate at `at`; what follows makes flags and result count. */
static const struct {
    uint8_t n, at, bytes[10];
} patched[] = {
    {6, 2, {0x48, 0x05}},              /* add rax, imm */
    {5, 1, {0x35}},                    /* xor eax, imm */
    {7, 3, {0x49, 0x81, 0xd1}},        /* adc r9, imm */
    {7, 3, {0x41, 0x81, 0xe9}},        /* sub r9d, imm */
    {7, 3, {0x48, 0x81, 0xf8}},        /* cmp rax, imm */
    {7, 3, {0x49, 0x81, 0xf9}},        /* cmp r9, imm */
    {7, 3, {0x41, 0x81, 0xc7}},        /* add r15d, imm */
    {5, 1, {0xb8}},                    /* mov eax, imm */
    {10, 2, {0x49, 0xb9}},             /* mov r9, imm64 */
    {10, 6, {0x48, 0xb8, 1, 2, 3, 4}}, /* mov rax, imm64, its upper half */
    {7, 3, {0x48, 0x69, 0xc0}},        /* imul rax, rax, imm */
    {7, 3, {0x45, 0x69, 0xcf}},        /* imul r9d, r15d, imm */
    {7, 3, {0x48, 0xc7, 0xc0}},        /* mov rax, simm */
    {5, 1, {0x3d}},                    /* cmp eax, imm */
};
/* nop; pushfq; pop rdx; add r13, rdx; add r13, r15; ret */
static const uint8_t tail[] = {0x90, 0x9c, 0x5a, 0x49, 0x01, 0xd5, 0x4d, 0x01, 0xfd, 0xc3};

static void prepare_patched(unsigned k)
{
    CpuState *s = &guest.v.st;
    gpa_t f = G_CODE + 0x1100;
    guest_long_mode();
    memcpy(gp(G_CODE), patch_loop, sizeof(patch_loop));
    memset(gp(f), 0x90, 32);
    memcpy(gp(f), patched[k].bytes, patched[k].n);
    memcpy(gp(f + patched[k].n), tail, sizeof(tail));
    memset(s->gpr, 0, 16 * sizeof(s->gpr[0]));
    s->gpr[RSP] = G_STACK;
    s->gpr[RDI] = f + patched[k].at;
    s->gpr[RSI] = 0x90909090;
    s->gpr[RBX] = f;
    s->gpr[RCX] = 200;
    s->gpr[RAX] = 0x123456789abcdef;
    s->gpr[R15] = 7;
    s->run_state = RUN_RUNNING;
    engine_interp.enter(&guest.v);
}

/* The next 50 rounds, in pieces of at most `most` instructions (0: no limit). */
static void leg(const Engine *engine, uint64_t most)
{
    RunLimit limit = {.max_insns = most};
    Exit x = {.kind = EXIT_LIMIT};
    guest.v.st.rip = G_CODE;
    guest.v.st.gpr[RCX] = 50;
    guest.v.st.run_state = RUN_RUNNING;
    while (x.kind == EXIT_LIMIT)
        x = engine->run(&guest.v, most ? &limit : NULL);
    ck_assert_int_eq(x.kind, EXIT_HLT);
}

/* Immediates that are written before each run: as with the interpreter, also where runs with a
 * limit, and the interpreter, take turns with the translator. */
START_TEST(immediates)
{
    static const uint16_t limits[][4] = {{0}, {0, 1, 0, 7}, {0, 0, 450, 0}, {0, 33, 1, 0}};
    CpuState want;
    prepare_patched((unsigned)_i);
    for (unsigned k = 0; k < 4; k++)
        leg(&engine_interp, 0);
    want = guest.v.st;
    for (unsigned turn = 0; turn < 2 * ARRAY_LEN(limits); turn++) {
        prepare_patched((unsigned)_i);
        uint64_t killed = tcg()->blocks->killed;
        for (unsigned k = 0; k < 4; k++) {
            leg(turn % 2 && k % 2 ? &engine_interp : &engine_jit, limits[turn / 2][k]);
            if (turn == 5)
                vcpu_request(&guest.v, VREQ_TLB_FLUSH);
        }
        for (unsigned r = 0; r < 16; r++)
            ck_assert_msg(guest.v.st.gpr[r] == want.gpr[r], "turn %u, register %u", turn, r);
        ck_assert_uint_eq(guest.v.st.rflags, want.rflags);
        if (!turn && _i != 12) /* soft after some: no more blocks die */
            ck_assert_uint_lt(tcg()->blocks->killed - killed, 30);
    }
}
END_TEST

/* A page full of functions, all called by their addresses, and another that takes its place and is
 * found again: what led into it goes and comes back all together. */
START_TEST(page_of_entries)
{
    enum { FNS = 600, EACH = 6 };
    static const uint8_t code[] = {
        0x4c, 0x89, 0xd6,          /* 1: mov rsi, r10 */
        0xb9, 0,    0,    0,    0, /* mov ecx, FNS */
        0xff, 0x16,                /* 2: call [rsi] */
        0x48, 0x01, 0xc2,          /* add rdx, rax */
        0x48, 0x83, 0xc6, 8,       /* add rsi, 8 */
        0xff, 0xc9,                /* dec ecx */
        0x75, 0xf3,                /* jnz 2b */
        0x48, 0x87, 0xeb,          /* xchg rbx, rbp */
        0x48, 0x89, 0x2f,          /* mov [rdi], rbp: another page is there */
        0x41, 0x0f, 0x01, 0x38,    /* invlpg [r8] */
        0x41, 0xff, 0xc9,          /* dec r9d */
        0x75, 0xdc,                /* jnz 1b */
        0xf4,                      /* hlt */
    };
    gpa_t page[2] = {G_CODE + 0x10000, G_CODE + 0x20000};
    uint64_t sum[2] = {0, 0};
    CpuState *s = &guest.v.st;
    memcpy(gp(G_CODE), code, sizeof(code));
    memcpy(gp(G_CODE + 4), &(uint32_t){FNS}, 4);
    for (unsigned p = 0; p < 2; p++) {
        for (unsigned k = 0; k < FNS; k++) {
            uint32_t value = (p + 1) * 100000 + k;
            uint8_t *fn = (uint8_t *)gp(page[p]) + EACH * k;
            fn[0] = 0xb8; /* mov eax, value; ret */
            memcpy(fn + 1, &value, 4);
            fn[5] = 0xc3;
            sum[p] += value;
            put64(G_DATA + 8 * k, page[0] + EACH * k);
        }
    }
    s->gpr[RDI] = G_PT + 8 * ((page[0] - G_RAM) >> 12);
    s->gpr[RBX] = page[1] | 7;
    s->gpr[RBP] = page[0] | 7;
    s->gpr[R8] = page[0];
    s->gpr[R9] = 60;
    s->gpr[R10] = G_DATA;
    s->gpr[RDX] = 0;
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(s->gpr[RDX], 30 * (sum[0] + sum[1]));
}
END_TEST

/* A page with code is written, and written again where another such page has taken its place. */
START_TEST(written_and_mapped_anew)
{
    static const uint8_t code[] = {
        0x41, 0xff, 0xd2,       /* call r10 */
        0x41, 0xff, 0xd3,       /* call r11 */
        0x89, 0x2f,             /* mov [rdi], ebp */
        0x89, 0x2f,             /* mov [rdi], ebp */
        0x48, 0x89, 0x1e,       /* mov [rsi], rbx */
        0x41, 0x0f, 0x01, 0x38, /* invlpg [r8] */
        0x89, 0x0f,             /* mov [rdi], ecx */
        0x41, 0xff, 0xd2,       /* call r10 */
        0xf4,                   /* hlt */
    };
    gpa_t page[2] = {G_CODE + 0x10000, G_CODE + 0x20000};
    CpuState *s = &guest.v.st;
    memcpy(gp(G_CODE), code, sizeof(code));
    for (unsigned p = 0; p < 2; p++)
        memcpy(gp(page[p]), "\xb8\x00\x00\x00\x00\xc3", 6); /* mov eax, 0; ret */
    s->gpr[R10] = s->gpr[R8] = page[0];
    s->gpr[R11] = page[1];
    s->gpr[RDI] = page[0] + 1;
    s->gpr[RSI] = G_PT + 8 * ((page[0] - G_RAM) >> 12);
    s->gpr[RBX] = page[1] | 7;
    s->gpr[RBP] = 0x111;
    s->gpr[RCX] = 0x222;
    run_to_halt((unsigned)_i);
    ck_assert_mem_eq(gp(page[0] + 1), "\x11\x01\x00\x00", 4);
    ck_assert_mem_eq(gp(page[1] + 1), "\x22\x02\x00\x00", 4);
    ck_assert_uint_eq(s->gpr[RAX], 0x222);
}
END_TEST

/* Functions that live for some calls and are written anew: after a while they are not translated
 * any more, unless they live long. */
START_TEST(short_lives)
{
    static const uint8_t code[] = {
        0x89, 0x37,       /* 1: mov [rdi], esi: another function */
        0x89, 0xe9,       /* mov ecx, ebp */
        0xff, 0xd3,       /* 2: call rbx */
        0xff, 0xc9,       /* dec ecx */
        0x75, 0xfa,       /* jnz 2b */
        0x31, 0xd6,       /* xor esi, edx: inc eax or inc r8d, of other bytes */
        0x41, 0xff, 0xc9, /* dec r9d */
        0x75, 0xef,       /* jnz 1b */
        0xf4,             /* hlt */
    };
    CpuState *s = &guest.v.st;
    uint32_t one, two;
    memcpy(gp(G_CODE), code, sizeof(code));
    memcpy(&one, "\xff\xc0\xc3\x90", 4); /* inc eax; ret */
    memcpy(&two, "\x01\xd8\x01\xd8", 4); /* add eax, ebx twice; and a RET that stays */
    *(uint8_t *)gp(G_CODE + 0x1104) = 0xc3;
    s->gpr[RDI] = s->gpr[RBX] = G_CODE + 0x1100;
    s->gpr[RSI] = one;
    s->gpr[RDX] = one ^ two;
    s->gpr[RBP] = 40;
    s->gpr[R9] = 2000;
    s->gpr[RAX] = 0;
    run_to_halt((unsigned)_i);
    ck_assert_uint_eq(s->gpr[RAX], (uint32_t)(1000 * 40 * (1 + 2 * (uint32_t)(G_CODE + 0x1100))));
    uint64_t made = jit_of(&guest.v)->blocks;
    ck_assert_uint_lt(made, 1000);
    s->gpr[RBP] = 2000;
    s->gpr[R9] = 2;
    run_to_halt((unsigned)_i);
    ck_assert(!_i || jit_of(&guest.v)->blocks > made);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("code_pages");
    TCase *c = tcase_create("code_pages");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, data_beside_code, 0, 2);
    tcase_add_loop_test(c, code_each_time, 0, 2);
    tcase_add_loop_test(c, page_that_follows_itself, 0, 2);
    tcase_add_loop_test(c, no_byte_in_the_second_page, 0, 2);
    tcase_add_loop_test(c, next_page_of_old_code, 0, 2);
    tcase_add_loop_test(c, next_page_is_another, 0, 2);
    tcase_add_loop_test(c, second_block_of_a_trace, 0, 2);
    tcase_add_loop_test(c, block_of_two_traces, 0, 2);
    tcase_add_test(c, runs_are_counted_once);
    tcase_add_loop_test(c, short_lives, 0, 2);
    tcase_add_loop_test(c, page_of_entries, 0, 2);
    tcase_add_loop_test(c, written_and_mapped_anew, 0, 2);
    tcase_add_loop_test(c, immediates, 0, (int)ARRAY_LEN(patched));
    suite_add_tcase(s, c);
    return run_suite(s);
}
