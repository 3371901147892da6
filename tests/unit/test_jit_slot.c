/*
 * Slots that have several pages (slot.c), windows (window.c) and tables (scan.c),
 * translated and interpreted. See jit_blocks.h.
 */
#include "jit_blocks.h"

/* Pages that are shown are in their windows for the first-level TLB and for all slots. Returns how
 * many entries lead into one. */
static unsigned one_place_each(const Jit *j)
{
    unsigned n = 0;
    for (unsigned m = 0; m < MMU_MODES; m++) {
        const JTlb *l = &j->hot->tlb[m];
        for (gva_t page = 0x1000; page < 0x10000; page += PAGE_SIZE) {
            uint64_t add = l->add[page >> PAGE_BITS];
            if (l->read[page >> PAGE_BITS] != 0 - page && l->write[page >> PAGE_BITS] != 0 - page)
                continue;
            ck_assert_uint_eq(jit_window_add(j, page, add), add);
            n += jit_window_direct(j, page, add) != add;
        }
    }
    for (uint32_t k = 0; k < j->slots; k++) {
        const JitSlot *u = &j->hot->slot[k];
        gva_t first = u->places - u->neg;
        if (u->neg == JIT_SLOT_NONE)
            continue;
        ck_assert(u->listed);
        for (gva_t at = first; at < first + u->places + u->last; at += PAGE_SIZE)
            ck_assert_uint_eq(u->add,
                              j->hot->tlb[u->mode].add[(at >> PAGE_BITS) & (JTLB_SIZE - 1)]);
    }
    return n;
}

/* One access that walks over pages, of which one is mapped anew now and then: by ranges of
 * neighbours in memory, and by windows that show it pages side by side which are not. */
START_TEST(rows_of_pages)
{
    enum { PAGES = 6 };
    static const char *const forget[] = {
        "\x0f\x01\xbe\x00\x10\x00\x00", /* invlpg [rsi + 0x1000] */
        "\x0f\x20\xd8\x0f\x22\xd8"};    /* mov rax, cr3; mov cr3, rax */
    Jit *j = begin_jit();
    unsigned shown = 0;
    j->kernel_slots = true;
    j->warm_after = 0;
    for (unsigned k = 0; k < 48; k++) {
        static CpuState in;
        static uint8_t bytes[96];
        bool window = k & 1, forgets = k & 2, writes = k & 4, small = k & 8, loop = k >= 32;
        seed = k + 1;
        j->slot_asks = window ? 0 : 6;
        j->slot_refills = 1;
        j->window_ticks = window ? UINT64_MAX : 0;
        guest_long_mode();
        tables();
        put64(G_PT + ((LOW_PT - G_RAM) >> 12) * 8, LOW_PT | 7);
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RSI] = 0x2000 + below(0x1000 - 8);
        in.gpr[RDI] = LOW_PT + 8 * 3;      /* of the second page that is walked over */
        in.gpr[RBX] = (DATA + 0x1000) | 7; /* as it is at first, and at the end again */
        in.gpr[RBP] = DATA | 7;
        in.gpr[RCX] = 25;
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x41\xb8", 2); /* mov r8d, PAGES */
        code32(&c, loop ? PAGES * 32 : PAGES);
        const uint8_t *again = c.p;
        HostMem m = {.base = RSI, .index = H_NONE};
        encode(&c, &(Enc){.map = MAP_1B,
                          .opcode = writes ? 1 : 3,
                          .w = !small,
                          .modrm = true,
                          .reg = RDX,
                          .mem = &m});
        int32_t step = loop ? 0x80 : 0x1000;
        emit_lea(&c, true, RSI, (HostMem){.base = RSI, .index = H_NONE, .disp = step});
        code_bytes(&c, "\x41\xff\xc8\x75", 4); /* dec r8d; jnz */
        code8(&c, (uint8_t)(again - (c.p + 1)));
        emit_lea(&c, true, RSI, (HostMem){.base = RSI, .index = H_NONE, .disp = -0x1000 * PAGES});
        code_bytes(&c, "\x48\x87\xeb\x48\x89\x2f", 6); /* xchg rbx, rbp; mov [rdi], rbp */
        code_bytes(&c, forget[forgets], forgets ? 6 : 7);
        code_bytes(&c, "\xff\xc9\x75", 3); /* dec ecx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
        shown += one_place_each(j) > 0;
    }
    ck_assert_uint_gt(shown, 16);
    guest_teardown();
}
END_TEST

static const uint8_t table_base[] = {RSI, RDI, RBP, R9, R12, H_NONE};
static const uint8_t table_index[] = {RAX, RBX, R14};

/* Makes an index small, or something else. */
static void table_limit(Code *c)
{
    unsigned r = table_index[below(3)], from = table_index[below(3)];
    Enc e = {.map = MAP_1B, .modrm = true, .w = one_in(2), .rm = (uint8_t)r};
    switch (below(8)) {
    case 0:
    case 1: /* MOVZX */
        e.map = MAP_0F;
        e.opcode = (uint8_t)(0xb6 + one_in(6));
        e.reg = (uint8_t)r;
        e.rm = (uint8_t)from;
        e.rex = true;
        break;
    case 2:
    case 3: /* AND, ADD and others with a number */
        e.opcode = 0x81;
        e.reg = (uint8_t)(one_in(4) ? below(8) : 4);
        e.imm = (int64_t[]){0, 7, 0xff, 0x3f8, 0x7ff, 0x1fff, -16}[below(7)];
        e.imm_size = 4;
        break;
    case 4: /* SHR and others */
        e.opcode = 0xc1;
        e.reg = one_in(4) ? 4 : 5;
        e.imm = e.w ? 48 + below(16) : 16 + below(16);
        e.imm_size = 1;
        break;
    case 5: /* MOV both ways */
        e.opcode = one_in(2) ? 0x89 : 0x8b;
        e.reg = (uint8_t)from;
        break;
    case 6: /* with a number */
        e.opcode = 0xc7;
        e.reg = 0;
        e.imm = below(300);
        e.imm_size = 4;
        break;
    default: /* of 16 bits: what is above stays */
        e.opcode = 0xc1;
        e.p66 = true;
        e.w = false;
        e.reg = 5;
        e.imm = 8;
        e.imm_size = 1;
    }
    encode(c, &e);
}

/* Accesses to tables: an index of few bits makes one check do for all of them, wherever it points,
 * if all of the table is there. */
START_TEST(tables_by_small_indices)
{
    const char *rounds = getenv("TANDEM_TEST_ROUNDS"), *first = getenv("TANDEM_TEST_FIRST");
    uint64_t from = first ? strtoull(first, NULL, 0) : 0;
    uint64_t n_rounds = rounds ? strtoull(rounds, NULL, 0) : ROUNDS / 2;
    unsigned shown = 0;
    Jit *j = begin_jit();
    j->kernel_warm = 1;
    for (uint64_t k = from; k < from + n_rounds; k++) {
        static CpuState in;
        static uint8_t bytes[512];
        seed = k * 0x5851f42d4c957f2dull + 4;
        j->kernel_slots = !one_in(8);
        j->warm_after = below(4);
        j->twin_after = 1 + below(8);
        j->slot_asks = (uint8_t)below(3);
        j->slot_first = (uint8_t)below(3);
        j->slot_refills = (uint8_t)(1 + below(2));
        j->window_ticks = one_in(2) ? UINT64_MAX : 0;
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        for (unsigned r = 0; r < ARRAY_LEN(table_base) - 1; r++)
            in.gpr[table_base[r]] = one_in(3) ? DATA + below(0x1800) : below(0xe800);
        in.gpr[RCX] = 2 + below(30);
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        for (unsigned n = 2 + below(3); n; n--)
            table_limit(&c);
        for (unsigned n = 3 + below(10); n; n--) {
            HostMem m = {.base = table_base[below(one_in(2) ? 2 : ARRAY_LEN(table_base))],
                         .index = table_index[below(3)],
                         .scale = (uint8_t)below(4),
                         .disp = (int32_t)below(0x400) - 0x100};
            if (m.base == H_NONE)
                m.disp = (int32_t)below(0x8000);
            unsigned size = 1u << below(4);
            encode(&c, &(Enc){.map = MAP_1B, /* ADD both ways, MOV both ways */
                              .opcode = (uint8_t)((uint8_t[]){0x01, 0x03, 0x89, 0x8b}[below(4)] -
                                                  (size == 1)),
                              .w = size == 8,
                              .p66 = size == 2,
                              .rex = size == 1,
                              .modrm = true,
                              .reg = (uint8_t)(one_in(6) ? RBX : RDX),
                              .mem = &m});
            if (one_in(4))
                table_limit(&c);
        }
        code_bytes(&c, "\xff\xc9\x0f\x85", 4); /* dec ecx; jnz */
        code32(&c, (uint32_t)(bytes - (c.p + 4)));
        code8(&c, 0xf4);
        code_must_agree(k, &in, &c, bytes);
        shown += one_place_each(j) > 0;
    }
    ck_assert_uint_gt(shown, 0);
    guest_teardown();
}
END_TEST

/* A store's slot may be filled from what the first-level TLB lets be written, not from what has
 * only been read there: the last of these pages may not be written. */
START_TEST(stores_where_reads_go)
{
    /* L: mov rax, [rsi]; add rsi, 4096; dec r8d; jne L; M: mov [rdi], rdx; add rdi, 4096; dec ecx;
     * jne M; hlt */
    static const uint8_t bytes[] = "\x48\x8b\x06\x48\x81\xc6\x00\x10\x00\x00\x41\xff\xc8\x75\xf1"
                                   "\x48\x89\x17\x48\x81\xc7\x00\x10\x00\x00\xff\xc9\x75\xf2\xf4";
    Jit *j = begin_jit();
    j->kernel_slots = true;
    for (unsigned k = 0; k < 32; k++) {
        seed = k + 1;
        j->slot_asks = k & 1 ? 6 : 1;
        j->slot_refills = (uint8_t)(1 + (k >> 1 & 7));
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        CpuState in = guest.v.st;
        in.cr0 |= CR0_WP;
        in.gpr[RSI] = in.gpr[RDI] = DATA + 8 * k;
        in.gpr[R8] = in.gpr[RCX] = 3;
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, bytes, sizeof(bytes) - 1);
        ck_assert_uint_eq(guest.v.st.cr2, DATA + 0x2000 + 8 * k);
    }
    guest_teardown();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {rows_of_pages, tables_by_small_indices, stores_where_reads_go};
    return jit_suite("jit_slot", tests, ARRAY_LEN(tests));
}
