/* The string instructions on 4 KiB: what a kernel's page copies and clears are made of. */
#include "bench.h"

enum { SIZE = 4096, SKEW = 64 };

static uint8_t from[SIZE + SKEW] __attribute__((aligned(4096)));
static uint8_t to[SIZE + SKEW] __attribute__((aligned(4096)));

uint64_t run_rep_movs(unsigned scale)
{
    uint64_t seed = 30, h = 0;
    for (int i = 0; i < SIZE + SKEW; i++)
        from[i] = (uint8_t)rnd(&seed);
    bench_begin();
    for (unsigned n = 0; n < scale * 16; n++) {
        void *s = from, *d = to;
        uint64_t count = SIZE / 8;
        __asm__ volatile("rep movsq" : "+S"(s), "+D"(d), "+c"(count) : : "memory");
        s = from + n % SKEW;
        d = to + n / SKEW % SKEW;
        count = SIZE;
        __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(count) : : "memory");
        h += to[n % SIZE];
        from[n % SIZE] ^= to[n * 7 % SIZE];
    }
    for (int i = 0; i < SIZE; i += 61)
        h = mix(h, to[i]);
    return h;
}

uint64_t run_rep_stos(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale * 16; n++) {
        void *d = to;
        uint64_t count = SIZE / 8;
        __asm__ volatile("rep stosq"
                         : "+D"(d), "+c"(count)
                         : "a"(n * 0x0123456789abcdeful)
                         : "memory");
        h += to[n % SIZE];
        d = to + n % SKEW;
        count = SIZE - SKEW;
        __asm__ volatile("rep stosb" : "+D"(d), "+c"(count) : "a"(n) : "memory");
        h = mix(h, to[n * 3 % SIZE]);
    }
    return h;
}
