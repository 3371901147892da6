/* A hostile guest for device tests: random accesses to a few ports or a page, while time passes.
 * Include after fake_board.h. */
#ifndef TANDEM_TESTS_FAKE_FUZZ_H
#define TANDEM_TESTS_FAKE_FUZZ_H

#include "fake_board.h"

static uint64_t fuzz_state = 0x9e3779b97f4a7c15ull;

static inline uint64_t fuzz_random(void)
{
    fuzz_state ^= fuzz_state << 13;
    fuzz_state ^= fuzz_state >> 7;
    fuzz_state ^= fuzz_state << 17;
    return fuzz_state;
}

/* Bytes in [base, base + len) of the space, sizes up to 8, values with many small and extreme ones;
 * time goes on by up to max_ns, at times with the timers late. */
static inline void fuzz_accesses(IoSpace *space, uint64_t base, uint64_t len, unsigned n,
                                 uint64_t max_ns)
{
    static const uint64_t extremes[] = {0, 1, 0xff, 0xffff, 0xffffffff, ~0ull, 1ull << 63, 0x80};
    for (unsigned i = 0; i < n; i++) {
        uint64_t r = fuzz_random(), addr = base + (r >> 8) % len;
        unsigned size = 1u << (r & 3);
        uint64_t value =
            r & 0x40 ? extremes[fuzz_random() % ARRAY_LEN(extremes)] : fuzz_random() >> (r >> 58);
        if (r & 0x80)
            io_read(space, addr, size);
        else
            io_write(space, addr, size, value);
        if (r & 0x10 && max_ns) {
            if (r & 0x20)
                fake_ns += fuzz_random() % max_ns;
            else
                fake_advance(fuzz_random() % max_ns);
        }
    }
}

#endif
