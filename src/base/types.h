/* Plain helpers every room uses; nothing here knows about x86. */
#ifndef TANDEM_BASE_TYPES_H
#define TANDEM_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* guest physical address */
typedef uint64_t gva_t; /* guest linear address */

#define ARRAY_LEN(a)            (sizeof(a) / sizeof((a)[0]))
#define BIT(n)                  (1ull << (n))
#define MIN_OF(a, b)            ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b)            ((a) > (b) ? (a) : (b))
#define CONTAINER_OF(p, T, mem) ((T *)(void *)((char *)(p)-offsetof(T, mem)))
#define likely(x)               __builtin_expect(!!(x), 1)
#define unlikely(x)             __builtin_expect(!!(x), 0)

/* Bits hi..lo of v, shifted down to bit 0. */
static inline uint64_t bits(uint64_t v, unsigned hi, unsigned lo)
{
    return (v >> lo) & (hi - lo == 63 ? ~0ull : BIT(hi - lo + 1) - 1);
}

/* All ones in the low `size` bytes; size 1, 2, 4 or 8. */
static inline uint64_t size_mask(unsigned size)
{
    return size >= 8 ? ~0ull : BIT(size * 8) - 1;
}

#endif
