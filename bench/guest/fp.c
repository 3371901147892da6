/* Scalar floating point in SSE registers: doubles, and conversions between the formats. */
#include "bench.h"

#include <math.h>

#define REAL  double
#define NBODY run_nbody
#include "nbody.h"

uint64_t run_mandelbrot(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) { /* one line of 64 points */
        double y = (double)(n % 128) / 64 - 1;
        unsigned sum = 0;
        for (int x = 0; x < 64; x++) {
            double cr = (double)x / 32 - 1.5, zr = 0, zi = 0;
            unsigned i = 0;
            while (i < 100 && zr * zr + zi * zi < 4) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + y;
                zr = t;
                i++;
            }
            sum = sum * 7 + i;
        }
        h = mix(h, sum);
    }
    return h;
}

/* Radix 2, in place. Twiddle factors by repeated half-angle formulas, so that no library takes
 * part. */
uint64_t run_fft(unsigned scale)
{
    enum { BITS = 10, N = 1 << BITS };
    static double re[N], im[N], wr[N / 2], wi[N / 2];
    wr[0] = 1;
    wi[0] = 0;
    double c = -1, s = 0; /* angle pi, halved for each bit */
    for (int step = N / 4; step; step /= 2) {
        double half_c = sqrt((1 + c) / 2), half_s = sqrt((1 - c) / 2);
        c = half_c;
        s = half_s;
        for (int i = 0; i < N / 2; i += 2 * step) {
            wr[i + step] = wr[i] * c - wi[i] * s;
            wi[i + step] = wr[i] * s + wi[i] * c;
        }
    }
    uint64_t seed = 16;
    for (int i = 0; i < N; i++) {
        re[i] = (double)(int64_t)(rnd(&seed) >> 40) / (1 << 24);
        im[i] = 0;
    }
    bench_begin();
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        for (unsigned i = 0; i < N; i++) {
            unsigned j = 0;
            for (int b = 0; b < BITS; b++)
                j |= (i >> b & 1) << (BITS - 1 - b);
            if (i < j) {
                double t = re[i];
                re[i] = re[j], re[j] = t;
                t = im[i];
                im[i] = im[j], im[j] = t;
            }
        }
        for (int len = 2; len <= N; len *= 2)
            for (int base = 0; base < N; base += len)
                for (int k = 0; k < len / 2; k++) {
                    int a = base + k, b = a + len / 2, w = k * (N / len);
                    double tr = re[b] * wr[w] - im[b] * wi[w], ti = re[b] * wi[w] + im[b] * wr[w];
                    re[b] = re[a] - tr;
                    im[b] = im[a] - ti;
                    re[a] += tr;
                    im[a] += ti;
                }
        for (int i = 0; i < N; i++) {
            re[i] *= 1.0 / 32;
            im[i] *= 1.0 / 32;
        }
        h = mix_double(h, re[n % N]);
        h = mix_double(h, im[n * 3 % N]);
    }
    return h;
}

uint64_t run_matdouble(unsigned scale)
{
    enum { N = 64 };
    static double a[N][N], b[N][N], c[N][N];
    uint64_t h = 0, seed = 17;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(rnd(&seed) >> 44) / 65536;
            b[i][j] = (double)(rnd(&seed) >> 44) / 65536;
        }
    bench_begin();
    for (unsigned n = 0; n < scale; n++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = 0;
                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
        h = mix_double(h, c[n % N][n / N % N]);
        a[n % N][5] = c[3][7] / 65536;
    }
    return h;
}

uint64_t run_convert(unsigned scale)
{
    uint64_t h = 0, seed = 18;
    for (unsigned n = 0; n < scale * 2000; n++) {
        uint64_t r = rnd(&seed);
        int32_t i = (int32_t)r;
        float f = (float)i * 0.001f;
        double d = (double)f + (double)(int64_t)(r >> 20);
        f = (float)d;
        if (d > 4e12)
            d -= f;
        else if (f < 1e9f)
            d = -d;
        h += (uint64_t)(int64_t)d ^ (uint64_t)(uint32_t)(int32_t)(f * 1e-5f);
    }
    return h;
}
