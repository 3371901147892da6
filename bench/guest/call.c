/* Calls and returns: recursion, function pointers, objects. */
#include "bench.h"

/* Kept from being inlined or turned into loops: the calls are the point. */
#define CALLED __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))

static CALLED uint64_t fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

uint64_t run_fib(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++)
        h = mix(h, fib(16 + n % 3));
    return h;
}

static CALLED unsigned ackermann(unsigned m, unsigned n)
{
    if (!m)
        return n + 1;
    return ackermann(m - 1, n ? ackermann(m, n - 1) : 1);
}

uint64_t run_ackermann(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++)
        h = mix(h, ackermann(2, 60 + n % 8));
    return h;
}

#define OP(n, expression)                                \
    static CALLED uint64_t op##n(uint64_t a, uint64_t b) \
    {                                                    \
        return expression;                               \
    }
OP(0, a + b)
OP(1, a - b)
OP(2, a ^ b)
OP(3, a *(b | 1))
OP(4, a << (b & 7) | 1)
OP(5, (a >> 3) + b)
OP(6, a & ~b)
OP(7, (a | b) + 1)
OP(8, a + 3 * b)
OP(9, ~a + b)
OP(10, a ^ b >> 7)
OP(11, a - (b << 2))
OP(12, a < b ? b : a)
OP(13, a * 5 + b)
OP(14, (a >> 32) + (b << 32))
OP(15, a ^ (a >> 17) ^ b)

uint64_t run_indirect(unsigned scale)
{
    static uint64_t (*const volatile table[16])(uint64_t, uint64_t) = {
        op0, op1, op2, op3, op4, op5, op6, op7, op8, op9, op10, op11, op12, op13, op14, op15};
    uint64_t h = 1, seed = 11;
    for (unsigned n = 0; n < scale * 500; n++) {
        uint64_t which = rnd(&seed);
        for (int i = 0; i < 64; i += 4)
            h = table[which >> i & 15](h, which + n);
    }
    return h;
}

struct Shape;
struct Methods {
    int64_t (*area)(const struct Shape *);
    void (*grow)(struct Shape *, int64_t);
};
struct Shape {
    const struct Methods *methods;
    int64_t a, b;
};

static CALLED int64_t square_area(const struct Shape *s)
{
    return s->a * s->a;
}
static CALLED int64_t box_area(const struct Shape *s)
{
    return s->a * s->b;
}
static CALLED int64_t triangle_area(const struct Shape *s)
{
    return s->a * s->b / 2;
}
static CALLED int64_t circle_area(const struct Shape *s)
{
    return s->a * s->a * 355 / 113;
}
static CALLED int64_t frame_area(const struct Shape *s)
{
    return 2 * (s->a + s->b);
}
static CALLED void grow_a(struct Shape *s, int64_t by)
{
    s->a = (s->a + by) & 0xfff;
}
static CALLED void grow_both(struct Shape *s, int64_t by)
{
    s->a = (s->a + by) & 0xfff;
    s->b = (s->b + 2 * by) & 0xfff;
}

uint64_t run_virtual(unsigned scale)
{
    static const struct Methods kinds[5] = {{square_area, grow_a},
                                            {box_area, grow_both},
                                            {triangle_area, grow_both},
                                            {circle_area, grow_a},
                                            {frame_area, grow_both}};
    static struct Shape shapes[256];
    uint64_t seed = 12, h = 0;
    for (int i = 0; i < 256; i++)
        shapes[i] = (struct Shape){&kinds[rnd(&seed) % 5], i + 1, 2 * i + 1};
    for (unsigned n = 0; n < scale * 16; n++) {
        int64_t sum = 0;
        for (int i = 0; i < 256; i++) {
            struct Shape *s = &shapes[i];
            sum += s->methods->area(s);
            s->methods->grow(s, n & 15);
        }
        h = mix(h, (uint64_t)sum);
    }
    return h;
}

uint64_t chain_down(uint64_t times, uint64_t value); /* asm.S */

uint64_t run_chain(unsigned scale)
{
    return chain_down(scale * 4000ul, 3);
}
