/* Code that takes fields out of a register and leaves the flags alone (emit.c). */
#include <check.h>
#include <stdio.h>
#include <sys/mman.h>
#include "tcg/tcg.h"
#include "cpu/cpu_state.h"
#include "jit/emit.h"
#include "run_suite.h"

typedef struct Out {
    uint64_t rcx, flags;
} Out;
typedef Out (*Function)(uint64_t rcx, uint64_t flags);

/* A function that has `what` done to rcx, for fields of n bits from `lo` on. */
static Function function(void (*what)(Code *, unsigned lo, unsigned n), unsigned lo, unsigned n)
{
    uint8_t *at = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(at, MAP_FAILED);
    Code c = {.p = at, .end = at + PAGE_SIZE};
    RAW(&c, "\x48\x89\xf9\x56\x9d"); /* mov rcx, rdi; push rsi; popfq */
    what(&c, lo, n);
    RAW(&c, "\x9c\x5a\x48\x89\xc8\xc3"); /* pushfq; pop rdx; mov rax, rcx; ret */
    ck_assert(!c.overflow);
    ck_assert_int_eq(mprotect(at, PAGE_SIZE, PROT_READ | PROT_EXEC), 0);
    return (Function)(uintptr_t)at;
}

static void field(Code *c, unsigned lo, unsigned n)
{
    emit_field(c, lo, n);
}

static void clear(Code *c, unsigned lo, unsigned n)
{
    emit_clear_field(c, 1, lo, n); /* rcx */
}

static const uint64_t values[] = {
    0, ~0ull, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa, 0xff, 0x0123456789abcdef, 1ull << 63, 0x80};
#define ANY 0x202 /* flags that are set whatever was asked for */

START_TEST(fields)
{
    for (unsigned lo = 0; lo < 8; lo++)
        for (unsigned n = 1; lo + n <= 8; n++) {
            Function f = function(field, lo, n);
            for (unsigned k = 0; k < ARRAY_LEN(values); k++)
                for (unsigned flags = 0; flags <= FL_ARITH; flags += FL_ARITH) {
                    Out out = f(values[k], flags);
                    ck_assert_uint_eq(out.rcx, values[k] >> lo & ((1u << n) - 1));
                    ck_assert_uint_eq(out.flags & ~(uint64_t)ANY, flags);
                }
            munmap((void *)(uintptr_t)f, PAGE_SIZE);
        }
}
END_TEST

START_TEST(without_fields)
{
    for (unsigned lo = 0; lo < 64; lo++)
        for (unsigned n = 1; n <= 3 && lo + n <= 64; n++) {
            Function f = function(clear, lo, n);
            for (unsigned k = 0; k < ARRAY_LEN(values); k++)
                for (unsigned flags = 0; flags <= FL_ARITH; flags += FL_ARITH) {
                    Out out = f(values[k], flags);
                    ck_assert_uint_eq(out.rcx, values[k] & ~(((1ull << n) - 1) << lo));
                    ck_assert_uint_eq(out.flags & ~(uint64_t)ANY, flags);
                }
            munmap((void *)(uintptr_t)f, PAGE_SIZE);
        }
}
END_TEST

int main(void)
{
    if (!__builtin_cpu_supports("bmi2")) {
        fprintf(stderr, "skipped: RORX needs a host CPU with BMI2\n");
        return 77;
    }
    TCase *tc = tcase_create("emit");
    tcase_add_test(tc, fields);
    tcase_add_test(tc, without_fields);
    Suite *suite = suite_create("emit");
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
