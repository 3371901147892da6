/* REP MOVS and STOS as translated code does them: by the host's own and by string_thunk.S. See
 * jit_blocks.h. */
#include <sys/mman.h>
#include "jit_blocks.h"

extern const uint8_t string_fill1[], string_fill2[], string_fill4[], string_fill8[];
extern const uint8_t string_copy1[], string_copy2[], string_copy4[], string_copy8[];

/* REP MOVS and STOS of all sizes: over page ends, onto themselves, onto another name of the same
 * page, of nothing, downwards. */
START_TEST(strings)
{
    Jit *j = begin_jit();
    unsigned shown = 0;
    for (unsigned k = 0; k < 2000; k++) {
        static CpuState in;
        static uint8_t bytes[64];
        unsigned size = below(4);
        seed = k + 1;
        j->kernel_slots = one_in(2);
        j->slot_asks = (uint8_t)below(2);
        j->slow_rep = one_in(2);
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.gpr[RDI] = 0x1000 * (1 + below(12)) + below(0x1000);
        in.gpr[RSI] = one_in(2) ? in.gpr[RDI] - 64 + below(128) : 0x1000 + below(0xd000);
        in.gpr[R8] = one_in(10) ? 0
                                : below((one_in(2)   ? 0x100
                                         : one_in(4) ? 0x3000
                                                     : 0x1000) >>
                                        size);
        if (one_in(4)) /* up to a page's end, nearly */
            in.gpr[R8] = (0x2000 - (in.gpr[RDI] & 0xfff) - below(32)) >> size;
        if (one_in(2)) /* and the page there is elsewhere in memory */
            put64(LOW_PT + 8 * ((in.gpr[RDI] >> 12) + 2), (DATA + 0x1000 * below(3)) | 7);
        in.gpr[R9] = in.gpr[RDI];
        in.gpr[R10] = in.gpr[RSI];
        in.gpr[RBX] = 3 + below(4);
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        code_bytes(&c, "\x44\x89\xc1", 3); /* mov ecx, r8d */
        if (one_in(2))
            code_bytes(&c, "\x4c\x89\xcf\x4c\x89\xd6", 6); /* mov rdi, r9; mov rsi, r10 */
        if (one_in(3))
            emit_lea(&c, true, R8,
                     (HostMem){.base = R8, .index = H_NONE, .disp = (int32_t)below(40)});
        code8(&c, one_in(8) ? 0xfd : 0xfc);
        if (size == 1)
            code8(&c, 0x66);
        code8(&c, one_in(8) ? 0xf2 : 0xf3);
        if (size == 3)
            code8(&c, 0x48);
        code8(&c, (one_in(2) ? 0xa4u : 0xaau) | (size > 0));
        code_bytes(&c, "\xff\xcb\x75", 3); /* dec ebx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code_bytes(&c, "\xfc\xf4", 2);
        n_cuts = 0;
        random_memory();
        must_agree(k, &in, bytes, (unsigned)(c.p - bytes));
        shown += jit_window_at(j, 0x3000);
    }
    ck_assert_uint_gt(shown, 0);
    guest_teardown();
}
END_TEST

/* What random bytes would not show: pieces that are the same, pages that are. */
static void alike(uint8_t *p, unsigned len)
{
    for (unsigned n = below(4); n > 0; n--) {
        unsigned period = 1 + below(40), at = below(len - 600), some = below(600);
        for (unsigned k = at + period; k < at + some; k++)
            p[k] = p[k - period];
    }
    if (one_in(3))
        memcpy(p + 0x1000, p, 0x1000);
    if (one_in(8))
        memset(p, 0, len);
}

static unsigned bytes_of_string(void)
{
    return one_in(8) ? below(0x2000) : one_in(2) ? below(80) : below(400);
}

/* Around sizes and distances that matter to a loop of 16 or 32 bytes, with everything in registers
 * that it might use: flags, vectors with their upper halves. Twice: the second time both pages are
 * known. */
START_TEST(small_strings)
{
    static const char *const live[] = {"\x0f\x58\xd3",      /* addps xmm2, xmm3 */
                                       "\xc5\xec\x57\xd3"}; /* vxorps ymm2, ymm2, ymm3 */
    Jit *j = begin_jit();
    unsigned shown = 0;
    for (unsigned k = 0; k < 8000; k++) {
        static CpuState in;
        static uint8_t bytes[64];
        seed = k * 0x5851f42d4c957f2dull + 31;
        unsigned shift = below(4), what = below(3);
        j->slow_rep = !one_in(6);
        j->kernel_slots = one_in(2);
        j->slot_asks = (uint8_t)below(2);
        guest_long_mode();
        tables();
        registers(&guest.v.st);
        in = guest.v.st;
        in.fpu.mxcsr = 0x1f80;
        unsigned len = MIN_OF(bytes_of_string(), 0xf00u);
        uint64_t to = DATA + 0x100 + below(0x1d00 - len), from = DATA + 0x100 + below(0x1d00 - len);
        if (one_in(3)) /* to the end of a page, from its beginning */
            to = one_in(2) ? DATA + 0x1000 - len : DATA + 0x1000;
        if (one_in(2)) /* onto itself */
            from = to - 80 + below(160);
        else if (one_in(2)) /* near the same place in another page */
            from = DATA + (~to & 0x1000) + ((to - 40 + below(80)) & 0xfff);
        in.gpr[RDI] = to;
        in.gpr[RSI] = from;
        /* By another name of the page. */
        if (one_in(3))
            in.gpr[RDI] = (to - DATA) + 0x2000 * (1 + below(5));
        if (one_in(3))
            in.gpr[RSI] = (from - DATA) + 0x2000 * (1 + below(5));
        in.gpr[R8] = len >> shift;
        in.gpr[R9] = in.gpr[RDI];
        in.gpr[R10] = in.gpr[RSI];
        in.gpr[RBX] = 2 + below(4);
        Code c = {.p = bytes, .end = bytes + sizeof(bytes)};
        if (what < 2 && __builtin_cpu_supports("avx"))
            code_bytes(&c, live[what], (unsigned)strlen(live[what]));
        code_bytes(&c, "\x44\x89\xc1\x4c\x89\xcf\x4c\x89\xd6", 9); /* RCX, RDI, RSI again */
        if (one_in(2))
            code_bytes(&c, "\x48\x01\xc2", 3); /* add rdx, rax: the flags that go through it */
        if (shift == 1)
            code8(&c, 0x66);
        code8(&c, 0xf3);
        if (shift == 3)
            code8(&c, 0x48);
        code8(&c, (one_in(3) ? 0xaau : 0xa4u) | (shift > 0));
        code_bytes(&c, "\x9c\x41\x5b\x4d\x01\xdd", 6); /* pushf; pop r11; add r13, r11 */
        code_bytes(&c, "\x48\x01\xcd\x48\x01\xfd\x48\x01\xf5", 9); /* add rbp, rcx, rdi, rsi */
        code_bytes(&c, "\xff\xcb\x75", 3);                         /* dec ebx; jnz */
        code8(&c, (uint8_t)(bytes - (c.p + 1)));
        code8(&c, 0xf4);
        in.gpr[RSP] = DATA + 0x4800;
        n_cuts = 0;
        random_memory();
        alike(memory, 0x2000);
        must_agree(k, &in, bytes, (unsigned)(c.p - bytes));
        shown += jit_window_at(j, 0x2000) || jit_window_at(j, 0x3000);
    }
    ck_assert_uint_gt(shown, 0);
    guest_teardown();
}
END_TEST

/* ---- string_thunk.S itself: on memory that has two addresses, with nothing around it ---- */
#define AREA 0x5000u

/* What the thunk works on, and what it is held against: each by two addresses, at the second of
 * which the pages come in another order. */
static uint8_t *area[2][2];
static struct Registers {
    uint64_t v[4][4];
} before, behind;

static void map_areas(void)
{
    static const uint8_t order[2][AREA >> 12] = {{0, 1, 2, 3, 4}, {0, 1, 3, 2, 4}};
    for (unsigned k = 0; k < 2; k++) {
        int fd = memfd_create("strings", 0);
        ck_assert(fd >= 0 && ftruncate(fd, AREA) == 0);
        for (unsigned v = 0; v < 2; v++) {
            uint8_t *room =
                mmap(NULL, AREA + 0x2000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            ck_assert(room != MAP_FAILED);
            area[k][v] = room + 0x1000;
            for (unsigned q = 0; q < AREA >> 12; q++)
                ck_assert(mmap(area[k][v] + (q << 12), 0x1000, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_FIXED, fd, order[v][q] << 12) != MAP_FAILED);
        }
        close(fd);
    }
}

static void unmap_areas(void)
{
    for (unsigned k = 0; k < 4; k++)
        munmap(area[k / 2][k % 2] - 0x1000, AREA + 0x2000);
}

typedef struct Call {
    uint64_t di, si, cx, ax, dx, flags;
} Call;

/* Vector registers 0, 1, 2 and 15 from `before` and to `behind`, all of YMM. */
static void call_thunk(const uint8_t *thunk, Call *r)
{
    __asm__ volatile("vmovdqu (%[before]), %%ymm0\n\t"
                     "vmovdqu 32(%[before]), %%ymm1\n\t"
                     "vmovdqu 64(%[before]), %%ymm2\n\t"
                     "vmovdqu 96(%[before]), %%ymm15\n\t"
                     "mov %%rsp, %%r12\n\t"
                     "sub $256, %%rsp\n\t"
                     "push 40(%[r])\n\t"
                     "mov (%[r]), %%rdi\n\t"
                     "mov 8(%[r]), %%rsi\n\t"
                     "mov 16(%[r]), %%rcx\n\t"
                     "mov 24(%[r]), %%rax\n\t"
                     "mov 32(%[r]), %%rdx\n\t"
                     "popfq\n\t"
                     "call *%[thunk]\n\t"
                     "pushfq\n\t"
                     "mov %%rdi, (%[r])\n\t"
                     "mov %%rsi, 8(%[r])\n\t"
                     "mov %%rcx, 16(%[r])\n\t"
                     "mov %%rax, 24(%[r])\n\t"
                     "mov %%rdx, 32(%[r])\n\t"
                     "pop 40(%[r])\n\t"
                     "mov %%r12, %%rsp\n\t"
                     "vmovdqu %%ymm0, (%[behind])\n\t"
                     "vmovdqu %%ymm1, 32(%[behind])\n\t"
                     "vmovdqu %%ymm2, 64(%[behind])\n\t"
                     "vmovdqu %%ymm15, 96(%[behind])\n\t"
                     "vzeroupper"
                     :
                     : [r] "r"(r), [thunk] "r"(thunk), [before] "r"(&before), [behind] "r"(&behind)
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r12", "xmm0", "xmm1", "xmm2", "xmm15",
                       "cc", "memory");
}

static void one_after_the_other(uint8_t *to, const uint8_t *from, const Call *r, bool copy,
                                unsigned size)
{
    for (unsigned k = 0; k < r->cx; k++) {
        uint8_t v[8];
        memcpy(v, copy ? from + k * size : (const uint8_t *)&r->ax, size);
        memcpy(to + k * size, v, size);
    }
}

/* A place whose string of so many bytes has the end of its pages, or of all, where it may matter.
 */
static unsigned place(unsigned len)
{
    unsigned at = below(AREA - len + 1);
    switch (below(8)) {
    case 0:
        return 0;
    case 1:
        return AREA - len;
    case 2:
        at = (at & ~0xfffu) + ((0x1000 - len + below(3)) & 0xfff);
        return MIN_OF(at, AREA - len);
    default:
        return at;
    }
}

START_TEST(thunks)
{
    static const uint8_t *const thunk[2][4] = {
        {string_fill1, string_fill2, string_fill4, string_fill8},
        {string_copy1, string_copy2, string_copy4, string_copy8}};
    static uint8_t had[AREA];
    const uint64_t arith = FL_ARITH;
    unsigned left = 0, near = 0;
    if (!__builtin_cpu_supports("avx"))
        return;
    map_areas();
    for (unsigned k = 0; k < 100000; k++) {
        seed = k * 0x5851f42d4c957f2dull + 41;
        bool copy = !one_in(4);
        unsigned shift = below(4), size = 1u << shift, n = bytes_of_string() >> shift;
        unsigned len = n << shift, to = place(len), from = place(len);
        if (one_in(2)) /* onto itself, or near the same place in another page */
            from = to - 80 + below(160);
        if (one_in(3))
            from = (from & ~0xfffu) | ((to - 40 + below(80)) & 0xfff);
        from = MIN_OF(from, AREA - len);
        for (unsigned q = 0; k % 16 == 0 && q < AREA / 8; q++)
            memcpy(had + 8 * q, &(uint64_t){rnd()}, 8);
        if (k % 16 == 0 || one_in(4))
            alike(had + (from & ~0xfffu) % (AREA - 0x2000), 0x2000);
        memcpy(area[0][0], had, AREA);
        memcpy(area[1][0], had, AREA);
        for (unsigned q = 0; q < 4; q++)
            for (unsigned w = 0; w < 4; w++)
                before.v[q][w] = rnd();
        unsigned di_view = below(2), si_view = below(2);
        uint8_t *di = area[0][di_view] + to, *si = area[0][si_view] + from;
        Call r = {.di = (uintptr_t)di,
                  .si = (uintptr_t)si,
                  .cx = n,
                  .ax = rnd(),
                  .dx = rnd(),
                  .flags = 0x202 | (rnd() & arith)};
        const Call was = r;
        one_after_the_other(area[1][di_view] + to, area[1][si_view] + from, &r, copy, size);
        call_thunk(thunk[copy][shift], &r);
        uint64_t done = len - (r.cx << shift);
        bool kept = r.ax == was.ax && r.dx == was.dx && !((r.flags ^ was.flags) & arith) &&
                    !memcmp(&before, &behind, sizeof(before));
        bool moved = r.cx <= n && r.di == was.di + done &&
                     ((copy && r.cx == 0) || r.si == was.si + (copy ? done : 0));
        if (!kept || !moved)
            ck_abort_msg("%u: %s of %u times %u bytes: a register", k, copy ? "copy" : "fill", n,
                         size);
        bool close = copy && ((to - from) & 0xfff) - 1 < 31;
        if (r.cx && !close)
            ck_abort_msg("%u: %lu of %u are left", k, r.cx, n);
        left += r.cx != 0;
        near += close && len > 128;
        one_after_the_other(di + done, si + done, &r, copy, size);
        for (unsigned q = 0; memcmp(area[0][0], area[1][0], AREA) && q < AREA; q++)
            if (area[0][0][q] != area[1][0][q])
                ck_abort_msg("%u: %s of %u times %u bytes, %u to %u: at %u", k,
                             copy ? "copy" : "fill", n, size, from, to, q);
    }
    ck_assert_uint_gt(left, 1000);
    ck_assert_uint_gt(near, 1000);
    unmap_areas();
}
END_TEST

/* Two strings that have nothing to do with each other are done to the end, if they are not short,
 * wherever in their pages they are and whatever is in them; or nearly. */
START_TEST(nothing_is_left)
{
    static const uint8_t *const thunk[] = {string_copy1, string_copy2, string_copy4, string_copy8};
    if (!__builtin_cpu_supports("avx"))
        return;
    map_areas();
    for (unsigned k = 0; k < 32 * 4 * 4; k++) {
        unsigned above = k % 32, shift = k / 32 % 4, same = k / 128;
        seed = k + 1;
        for (unsigned q = 0; q < AREA / 8; q++)
            memcpy(area[0][0] + 8 * q, &(uint64_t){same == 1 ? 0 : rnd()}, 8);
        if (same == 2) /* the pages are */
            memcpy(area[0][0] + 0x4000, area[0][0], 0x1000);
        if (same == 3)
            alike(area[0][0], 0x2000);
        Call r = {.di = (uintptr_t)area[0][k & 1] + 0x4008 + above,
                  .si = (uintptr_t)area[0][0] + 8,
                  .cx = 0xf80u >> shift,
                  .flags = 0x202};
        call_thunk(thunk[shift], &r);
        uint64_t left = r.cx << shift;
        ck_assert_msg(left < 64, "%u bytes above, %u each, same %u: %lu are left", above,
                      1u << shift, same, left);
        ck_assert_mem_eq(area[0][0] + 0x4008 + above, area[0][0] + 8, 0xf80 - left);
    }
    unmap_areas();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {strings, small_strings, thunks, nothing_is_left};
    return jit_suite("jit_string", tests, ARRAY_LEN(tests));
}
