/* I/O spaces against a model that looks at each byte alone: whoever was mapped last answers it. */
#include <check.h>

#include "fake_fuzz.h"
#include "run_suite.h"

#define SIZE 256u

typedef struct Thing {
    IoRegion *region; /* NULL: not mapped */
    uint64_t base, len;
    unsigned order; /* of mapping */
    IoOps ops;
    uint8_t written[SIZE], want[SIZE];
} Thing;

static IoSpace *space;
static Thing thing[12];
static unsigned order;

static uint8_t pattern(const Thing *t, uint64_t offset)
{
    return (uint8_t)((t - thing) * 37 + offset * 11 + 5);
}

static void check_access(const Thing *t, uint64_t offset, unsigned size)
{
    ck_assert(size == 1 || size == 2 || size == 4 || size == 8);
    ck_assert_uint_le(size, t->ops.max ? t->ops.max : 4);
    ck_assert_uint_le(offset + size, t->len);
}

static uint64_t thing_read(void *opaque, uint64_t offset, unsigned size)
{
    const Thing *t = opaque;
    uint64_t v = ~size_mask(size); /* junk above what was asked for */
    check_access(t, offset, size);
    if (t->len % 8 == 0)
        ck_assert_uint_ge(size, t->ops.min ? t->ops.min : 1);
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)pattern(t, offset + i) << i * 8;
    return v;
}

static void thing_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    Thing *t = opaque;
    check_access(t, offset, size);
    ck_assert_uint_eq(value & ~size_mask(size), 0);
    for (unsigned i = 0; i < size; i++)
        t->written[offset + i] = (uint8_t)(value >> i * 8);
}

static Thing *top_at(uint64_t addr)
{
    Thing *top = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(thing); i++) {
        Thing *t = &thing[i];
        if (t->region && addr >= t->base && addr - t->base < t->len &&
            (!top || t->order > top->order))
            top = t;
    }
    return top;
}

static void change_map(void)
{
    static const uint8_t widths[][2] = {{0, 0}, {1, 1}, {1, 2}, {2, 4}, {4, 4},
                                        {4, 8}, {8, 8}, {1, 8}, {2, 2}};
    Thing *t = &thing[fuzz_random() % ARRAY_LEN(thing)];
    if (!t->region) {
        const uint8_t *w = widths[fuzz_random() % ARRAY_LEN(widths)];
        t->len = 1 + fuzz_random() % 64;
        if (fuzz_random() & 1)
            t->len = (t->len + 7) & ~7ull;
        t->base = fuzz_random() % SIZE;
        t->order = ++order;
        t->ops = (IoOps){thing_read, thing_write, w[0], w[1]};
        t->region = io_map(space, t->base, t->len, &t->ops, t, "thing");
    } else if (fuzz_random() & 1) {
        t->base = fuzz_random() % SIZE;
        io_move(space, t->region, t->base);
    } else {
        io_unmap(space, t->region);
        t->region = NULL;
    }
}

START_TEST(as_the_model)
{
    space = io_space_new("test", SIZE * 2);
    for (unsigned n = 0; n < 200000; n++) {
        if (n % 64 < 2)
            change_map();
        uint64_t addr = fuzz_random() % SIZE, value = fuzz_random();
        unsigned size = 1u << (fuzz_random() & 3);
        uint64_t got = io_read(space, addr, size), want = 0;
        io_write(space, addr, size, value);
        for (unsigned i = 0; i < size; i++) {
            Thing *t = top_at(addr + i);
            want |= (uint64_t)(t ? pattern(t, addr + i - t->base) : 0xff) << i * 8;
            if (t) {
                uint64_t offset = addr + i - t->base;
                t->want[offset] = (uint8_t)(value >> i * 8);
                ck_assert_uint_eq(t->written[offset], t->want[offset]);
            }
        }
        ck_assert_uint_eq(got, want);
        if (n % 64 == 63) {
            for (unsigned i = 0; i < ARRAY_LEN(thing); i++)
                ck_assert_mem_eq(thing[i].written, thing[i].want, SIZE); /* and nobody else's */
        }
    }
    io_space_free(space);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bus");
    TCase *tc = tcase_create("bus");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, as_the_model);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
