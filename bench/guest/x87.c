/* The same planets, and series, on the x87 stack in long doubles. */
#include "bench.h"

#define REAL  long double
#define NBODY run_nbody87
#include "nbody.h"

uint64_t run_series87(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        long double e = 1, term = 1, x = 1 + (long double)(n % 100) / 100;
        for (int i = 1; i < 200; i++) {
            term = term * x / i;
            e += term;
        }
        long double pi = 0, sign = 1;
        for (int i = 1; i < 2000; i += 2) {
            pi += sign / i;
            sign = -sign;
        }
        long double ln = 0, y = (x - 1) / (x + 1), power = y;
        for (int i = 1; i < 200; i += 2) {
            ln += 2 * power / i;
            power *= y * y;
            if (power < 1e-30L)
                power = 1e-30L;
        }
        h = mix_double(h, (double)e);
        h = mix_double(h, (double)(pi * 4));
        h = mix_double(h, (double)ln);
        h = mix(h, (uint64_t)(int64_t)(e * 1e6L));
    }
    return h;
}
