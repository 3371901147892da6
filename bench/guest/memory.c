/* Memory: the caches and TLBs of the host, and what an engine adds to each access. */
#include "bench.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { MIB = 1024 * 1024, LINE = 64, GAP = 5 * 4096 + 3 * LINE };

/* Tiny runs are for correctness and do with 1 MiB. */
static size_t area(unsigned scale)
{
    return scale < 8 ? MIB : 64 * MIB;
}

/*
 * New pages each time, so that no run inherits a layout from the one before. Arrays in one area are
 * GAP apart: at a power of two they would fight for one slot of any direct-mapped cache or TLB.
 */
static uint64_t *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("not enough memory");
    /* What size pages have is the kernel's choice otherwise, and the host's need not be the
     * guest's. One without large pages says EINVAL. */
    (void)madvise(p, size, MADV_HUGEPAGE);
    return p;
}

/* One cycle through all lines of the area in random order (Sattolo), as indices: addresses differ
 * from run to run. */
uint64_t run_chase(unsigned scale)
{
    size_t n = area(scale) / LINE;
    struct Node {
        uint32_t next;
        uint8_t pad[LINE - 4];
    } *nodes = (void *)map(n * sizeof(*nodes));
    uint64_t seed = 13;
    for (size_t i = 0; i < n; i++)
        nodes[i].next = (uint32_t)i;
    for (size_t i = n - 1; i; i--) {
        size_t j = rnd(&seed) % i;
        uint32_t t = nodes[i].next;
        nodes[i].next = nodes[j].next;
        nodes[j].next = t;
    }
    bench_begin();
    uint32_t at = 0;
    uint64_t sum = 0;
    for (size_t steps = scale * 20000ul; steps; steps--) {
        at = nodes[at].next;
        sum += at;
    }
    munmap(nodes, n * sizeof(*nodes));
    return sum;
}

uint64_t run_copy(unsigned scale)
{
    size_t n = scale < 8 ? 8192 : MIB;
    size_t size = 2 * (n * 8 + GAP);
    uint64_t *a = map(size), *b = a + n + GAP / 8, seed = 14;
    for (size_t i = 0; i < n; i++)
        a[i] = b[i] = rnd(&seed);
    bench_begin();
    for (size_t words = scale * 16384ul, at = 0; words; words -= 8192, at = (at + 8192) % n) {
        for (size_t i = at; i < at + 8192; i++)
            b[i] = a[i];
        a[at] += b[n - 1 - at];
    }
    uint64_t h = 0;
    for (size_t i = 0; i < n; i += n / 64)
        h = mix(h, b[i]);
    munmap(a, size);
    return h;
}

uint64_t run_random(unsigned scale)
{
    size_t n = area(scale) / 8;
    uint64_t *a = map(n * 8), h = 0, seed = 15;
    for (size_t i = 0; i < n; i++)
        a[i] = i;
    bench_begin();
    for (unsigned k = 0; k < scale * 8192; k++)
        a[rnd(&seed) & (n - 1)] += k;
    for (size_t i = 0; i < n; i += n / 64)
        h = mix(h, a[i]);
    munmap(a, n * 8);
    return h;
}

uint64_t run_stream(unsigned scale)
{
    enum { N = MIB / 2 };
    size_t n = scale < 8 ? 16384 : N;
    size_t size = 3 * (n * 8 + GAP);
    uint64_t *a = map(size), *b = a + n + GAP / 8, *c = b + n + GAP / 8;
    for (size_t i = 0; i < n; i++) {
        a[i] = 0;
        b[i] = i;
        c[i] = i * i;
    }
    bench_begin();
    uint64_t h = 0;
    for (size_t chunks = scale, at = 0; chunks; chunks--, at = (at + 16384) % n) {
        for (size_t i = at; i < at + 16384; i++)
            a[i] = b[i] + 3 * c[i];
        b[at] = a[at + 100];
        h = mix(h, a[at + 200]);
    }
    munmap(a, size);
    return h;
}

uint64_t run_list(unsigned scale)
{
    struct Cell {
        struct Cell *next;
        uint64_t value;
    };
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        struct Cell *head = NULL, *back = NULL;
        for (uint64_t i = 0; i < 1000; i++) {
            struct Cell *c = malloc(sizeof(*c));
            if (!c)
                bench_die("not enough memory");
            *c = (struct Cell){head, i * n};
            head = c;
        }
        for (int pass = 0; pass < 8; pass++) {
            for (back = NULL; head;) {
                struct Cell *next = head->next;
                head->next = back;
                back = head;
                head = next;
            }
            head = back;
            uint64_t sum = 0;
            for (struct Cell *c = head; c; c = c->next)
                sum = sum * 3 + c->value;
            h = mix(h, sum);
        }
        while (head) {
            struct Cell *next = head->next;
            free(head);
            head = next;
        }
    }
    return h;
}

uint64_t run_atomics(unsigned scale)
{
    static uint64_t word, bits, swap;
    word = bits = swap = 0;
    for (uint64_t i = 0; i < scale * 4000ul; i++) {
        uint64_t old = __atomic_fetch_add(&word, i, __ATOMIC_SEQ_CST);
        __atomic_compare_exchange_n(&swap, &old, i + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        swap += __atomic_exchange_n(&bits, i, __ATOMIC_SEQ_CST);
        __atomic_fetch_or(&bits, 1ul << (i & 63), __ATOMIC_SEQ_CST);
    }
    return mix(mix(word, bits), swap);
}
