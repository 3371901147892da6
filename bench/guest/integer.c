/* Integer programs: loads, stores, ALU operations and branches that depend on data. */
#include "bench.h"

#include <string.h>

static void fill(void *to, size_t n, uint64_t seed)
{
    uint8_t *p = to;
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(rnd(&seed) >> 56);
}

uint64_t run_hash(unsigned scale)
{
    static uint64_t words[8192];
    fill(words, sizeof(words), 1);
    bench_begin();
    uint64_t h = 1;
    for (unsigned n = 0; n < scale; n++)
        for (size_t i = 0; i < 8192; i++) {
            uint64_t k = words[i] * 0x87c37b91114253d5;
            k = (k << 31) | (k >> 33);
            h ^= k * 0x4cf5ad432745937f;
            h = (h << 27) | (h >> 37);
            h = h * 5 + 0x52dce729 + n;
        }
    return h;
}

/* A table of 32,768 keys, filled to two thirds and emptied again, 4,096 operations a scale. */
uint64_t run_hashtable(unsigned scale)
{
    enum { SIZE = 32768 };
    static struct {
        uint64_t key, value;
    } slots[SIZE];
    memset(slots, 0, sizeof(slots));
    uint64_t seed = 2, sum = 0;
    unsigned used = 0;
    for (unsigned op = 0; op < scale * 4096; op++) {
        uint64_t key = rnd(&seed) % (SIZE * 2) + 1;
        size_t i = (key * 0x9e3779b97f4a7c15) >> 49;
        while (slots[i].key && slots[i].key != key)
            i = (i + 1) % SIZE;
        if (slots[i].key) {
            sum += ++slots[i].value;
        } else if (used < SIZE / 3 * 2) {
            slots[i].key = key;
            slots[i].value = op;
            used++;
        } else {
            memset(slots, 0, sizeof(slots));
            used = 0;
        }
    }
    return mix(sum, used);
}

static void quicksort(int32_t *a, long lo, long hi)
{
    while (lo < hi) {
        int32_t pivot = a[(lo + hi) / 2];
        long i = lo, j = hi;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                int32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j - lo < hi - i) {
            quicksort(a, lo, j);
            lo = i;
        } else {
            quicksort(a, i, hi);
            hi = j;
        }
    }
}

uint64_t run_quicksort(unsigned scale)
{
    enum { N = 1024 };
    static int32_t a[N];
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        fill(a, sizeof(a), n + 3);
        quicksort(a, 0, N - 1);
        for (int i = 0; i < N; i += 37)
            h = mix(h, (uint32_t)a[i]);
    }
    return h;
}

uint64_t run_mergesort(unsigned scale)
{
    enum { N = 1024 };
    static uint64_t a[N], b[N];
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        uint64_t seed = n + 4, *from = a, *to = b;
        for (int i = 0; i < N; i++)
            a[i] = rnd(&seed);
        for (size_t w = 1; w < N; w *= 2) {
            for (size_t lo = 0; lo < N; lo += 2 * w) {
                size_t i = lo, j = lo + w, k = lo;
                while (i < lo + w && j < lo + 2 * w)
                    to[k++] = from[i] <= from[j] ? from[i++] : from[j++];
                while (i < lo + w)
                    to[k++] = from[i++];
                while (j < lo + 2 * w)
                    to[k++] = from[j++];
            }
            uint64_t *t = from;
            from = to;
            to = t;
        }
        for (int i = 0; i < N; i += 37)
            h = mix(h, from[i]);
    }
    return h;
}

uint64_t run_matint(unsigned scale)
{
    enum { N = 64 };
    static int32_t a[N][N], b[N][N], c[N][N];
    fill(a, sizeof(a), 5);
    fill(b, sizeof(b), 6);
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                int32_t s = 0;
                for (int k = 0; k < N; k++)
                    s = (int32_t)((uint32_t)s + (uint32_t)a[i][k] * (uint32_t)b[k][j]);
                c[i][j] = s;
            }
        for (int i = 0; i < N; i++)
            h = mix(h, (uint32_t)c[i][(i + n) % N]);
        a[n % N][n / N % N] = c[3][5];
    }
    return h;
}

uint64_t run_crc32(unsigned scale)
{
    static uint32_t table[256];
    static uint8_t data[16384];
    fill(data, sizeof(data), 7);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[i] = c;
    }
    bench_begin();
    uint32_t crc = ~0u;
    for (unsigned n = 0; n < scale; n++)
        for (size_t i = 0; i < sizeof(data); i++)
            crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
    return crc;
}

uint64_t run_sieve(unsigned scale)
{
    enum { N = 32768 };
    static uint8_t gone[N];
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        unsigned count = 0;
        for (int i = 0; i < N; i++)
            gone[i] = 0;
        for (int i = 2; i < N; i++) {
            if (gone[i])
                continue;
            count++;
            for (int j = 2 * i; j < N; j += i)
                gone[j] = 1;
        }
        h = mix(h, count + gone[n % N]);
    }
    return h;
}

uint64_t run_bigint(unsigned scale)
{
    enum { LIMBS = 64 };
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        uint64_t a[LIMBS] = {1 + n};
        for (uint64_t f = 2; f < 300; f++) { /* a *= f * big prime */
            unsigned __int128 carry = 0;
            for (int i = 0; i < LIMBS; i++) {
                carry += (unsigned __int128)a[i] * (f * 0xfffffffb);
                a[i] = (uint64_t)carry;
                carry >>= 64;
            }
        }
        for (int k = 0; k < 20; k++) { /* a /= 10^9, low digits collected */
            uint64_t rest = 0;
            for (int i = LIMBS - 1; i >= 0; i--)
                __asm__("divq %4"
                        : "=a"(a[i]), "=d"(rest)
                        : "0"(a[i]), "1"(rest), "r"(1000000000ul));
            h = mix(h, rest);
        }
        unsigned char c = 0;
        for (int i = 0; i < LIMBS / 2; i++)
            c = __builtin_ia32_addcarryx_u64(c, a[i], a[i + LIMBS / 2],
                                             (unsigned long long *)&a[i]);
        h = mix(h, a[n % LIMBS] + c);
    }
    return h;
}

uint64_t run_queens(unsigned scale)
{
    uint64_t solutions = 0;
    for (unsigned n = 0; n < scale; n++) {
        /* Depth first with an explicit stack: columns and both diagonals as bits. */
        struct {
            unsigned cols, left, right, free;
        } s[9];
        int d = 0;
        s[0].cols = s[0].left = s[0].right = 0;
        s[0].free = 0xff;
        while (d >= 0) {
            if (!s[d].free) {
                d--;
                continue;
            }
            unsigned bit = s[d].free & -s[d].free;
            s[d].free ^= bit;
            if (d == 7) {
                solutions += bit;
                continue;
            }
            s[d + 1].cols = s[d].cols | bit;
            s[d + 1].left = (s[d].left | bit) << 1;
            s[d + 1].right = (s[d].right | bit) >> 1;
            d++;
            s[d].free = 0xff & ~(s[d].cols | s[d].left | s[d].right);
        }
    }
    return solutions;
}
