/* LatencyHist: log-linear buckets, an octave each of 16; error of a percentile at most 1/16. */
#include "switch/switch.h"

#define SUB_BITS 4
#define OCTAVES  34

static unsigned bucket_of(uint64_t ns)
{
    if (!ns)
        ns = 1;
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    if (octave >= OCTAVES)
        return OCTAVES * 16 - 1;
    unsigned sub =
        (unsigned)(octave >= SUB_BITS ? ns >> (octave - SUB_BITS) : ns << (SUB_BITS - octave)) & 15;
    return octave * 16 + sub;
}

/* The largest duration that falls into bucket b. */
static uint64_t bucket_top(unsigned b)
{
    unsigned octave = b / 16;
    uint64_t next = 16 + b % 16 + 1;
    return octave >= SUB_BITS ? (next << (octave - SUB_BITS)) - 1 : next >> (SUB_BITS - octave);
}

void latency_add(LatencyHist *h, uint64_t ns)
{
    uint32_t *b = &h->bucket[bucket_of(ns)];
    if (*b != UINT32_MAX)
        ++*b;
    h->count++;
    h->sum_ns += ns;
    h->max_ns = MAX_OF(h->max_ns, ns);
}

uint64_t latency_percentile(const LatencyHist *h, double p)
{
    if (!h->count)
        return 0;
    /* Nearest rank: the smallest value with at least p percent of all at or below it. */
    double exact = p / 100 * (double)h->count;
    uint64_t rank = exact <= 1 ? 1 : (uint64_t)exact + ((double)(uint64_t)exact < exact);
    uint64_t seen = 0;
    for (unsigned b = 0; b < ARRAY_LEN(h->bucket); b++) {
        seen += h->bucket[b];
        if (seen >= rank)
            return MIN_OF(bucket_top(b), h->max_ns);
    }
    return h->max_ns;
}
