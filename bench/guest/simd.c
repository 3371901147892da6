/*
 * Packed integers and floats. Each function is compiled for the extension in its row, the rest of
 * the program is not; a CPU without it is told so by suite.py's table. Results are exact: no
 * approximate instructions, and the order of operations is fixed by the vectors themselves.
 */
#include "bench.h"

#include <immintrin.h>
#include <string.h>

static uint64_t fold(const void *p, size_t n)
{
    uint64_t h = 0, v;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&v, (const uint8_t *)p + i, 8);
        h = mix(h, v);
    }
    return h;
}

uint64_t run_sse2_int(unsigned scale)
{
    enum { N = 256 };
    static __m128i a[N], b[N];
    uint64_t seed = 20, *words = (uint64_t *)a;
    for (int i = 0; i < 2 * N; i++)
        words[i] = rnd(&seed);
    memcpy(b, a, sizeof(b));
    __m128i sad = _mm_setzero_si128(), acc = _mm_set1_epi16(3), most = _mm_setzero_si128();
    for (unsigned n = 0; n < scale * 16; n++)
        for (int i = 0; i < N; i++) {
            __m128i x = a[i], y = b[(i + (int)n) % N];
            sad = _mm_add_epi64(sad, _mm_sad_epu8(x, y));
            acc = _mm_add_epi16(acc, _mm_mullo_epi16(x, y));
            acc = _mm_xor_si128(acc, _mm_shuffle_epi32(_mm_slli_epi32(y, 3), 0x1b));
            most = _mm_max_epu8(most, _mm_and_si128(_mm_packs_epi16(x, y), acc));
            acc = _mm_sub_epi8(acc, _mm_cmpgt_epi8(x, y));
            acc = _mm_add_epi32(acc, _mm_unpacklo_epi8(x, most));
        }
    __m128i all[3] = {sad, acc, most};
    return fold(all, sizeof(all));
}

uint64_t run_sse_float(unsigned scale)
{
    enum { N = 256 };
    static __m128 x[N];
    for (int i = 0; i < N; i++)
        x[i] = _mm_set_ps((float)i / 256, (float)i / 300, (float)-i / 270, (float)i / 1000);
    __m128 sum = _mm_setzero_ps();
    uint64_t h = 0;
    for (unsigned n = 0; n < scale * 16; n++) {
        __m128 k = _mm_set1_ps((float)(n % 16) / 16);
        for (int i = 0; i < N; i++) {
            __m128 v = x[i], p = k;
            p = _mm_add_ps(_mm_mul_ps(p, v), _mm_set1_ps(0.5f));
            p = _mm_add_ps(_mm_mul_ps(p, v), _mm_set1_ps(-0.25f));
            p = _mm_sub_ps(_mm_mul_ps(p, v), k);
            p = _mm_div_ps(p, _mm_add_ps(_mm_mul_ps(v, v), _mm_set1_ps(1)));
            p = _mm_max_ps(p, _mm_shuffle_ps(v, p, 0x4e));
            sum = _mm_add_ps(_mm_mul_ps(sum, _mm_set1_ps(0.75f)), _mm_sqrt_ps(_mm_mul_ps(p, p)));
        }
        h = mix(h, fold(&sum, sizeof(sum)));
    }
    return h;
}

__attribute__((target("aes,pclmul,sse4.1"))) uint64_t run_aesni(unsigned scale)
{
    __m128i s[4], key[11], sum = _mm_setzero_si128();
    for (int i = 0; i < 11; i++)
        key[i] = _mm_set_epi32(i * 0x1234567, i + 1, i * i, ~i);
    for (int i = 0; i < 4; i++)
        s[i] = _mm_set1_epi32(i);
    for (unsigned n = 0; n < scale * 256; n++) {
        for (int i = 0; i < 4; i++) {
            s[i] = _mm_xor_si128(s[i], key[0]);
            for (int round = 1; round < 10; round++)
                s[i] = _mm_aesenc_si128(s[i], key[round]);
            s[i] = _mm_aesenclast_si128(s[i], key[10]);
            sum = _mm_xor_si128(_mm_clmulepi64_si128(sum, s[i], 0x10), s[i]);
        }
    }
    return fold(&sum, sizeof(sum));
}

__attribute__((target("avx"))) uint64_t run_avx_matmul(unsigned scale)
{
    enum { N = 64 };
    static float a[N][N] __attribute__((aligned(32))), b[N][N] __attribute__((aligned(32)));
    static float c[N][N] __attribute__((aligned(32)));
    uint64_t seed = 21, h = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (float)(rnd(&seed) >> 48) / 65536;
            b[i][j] = (float)(rnd(&seed) >> 48) / 65536;
        }
    for (unsigned n = 0; n < scale; n++) {
        for (int i = 0; i < N; i++) {
            __m256 r[N / 8];
            for (int j = 0; j < N / 8; j++)
                r[j] = _mm256_setzero_ps();
            for (int k = 0; k < N; k++) {
                __m256 v = _mm256_broadcast_ss(&a[i][k]);
                for (int j = 0; j < N / 8; j++)
                    r[j] = _mm256_add_ps(r[j], _mm256_mul_ps(v, _mm256_load_ps(&b[k][8 * j])));
            }
            for (int j = 0; j < N / 8; j++)
                _mm256_store_ps(&c[i][8 * j], r[j]);
        }
        a[n % N][3] = c[n % N][n % 7] / 64;
        h = mix(h, fold(c[n % N], 64));
    }
    return h;
}

__attribute__((target("avx2"))) uint64_t run_avx2_int(unsigned scale)
{
    enum { N = 128 };
    static __m256i a[N];
    uint64_t seed = 22, *words = (uint64_t *)a;
    for (int i = 0; i < 4 * N; i++)
        words[i] = rnd(&seed);
    __m256i acc = _mm256_set1_epi32(5), sum = _mm256_setzero_si256();
    const __m256i order = _mm256_set_epi32(3, 7, 1, 0, 6, 2, 4, 5);
    const __m256i table = _mm256_set1_epi64x(0x0f0a05020307060b);
    for (unsigned n = 0; n < scale * 16; n++)
        for (int i = 0; i < N; i++) {
            __m256i x = a[i], y = a[(i * 7 + (int)n) % N];
            acc = _mm256_add_epi32(acc, _mm256_mullo_epi32(x, y));
            acc = _mm256_xor_si256(acc, _mm256_permutevar8x32_epi32(x, order));
            acc = _mm256_add_epi8(acc, _mm256_shuffle_epi8(y, table));
            sum = _mm256_add_epi64(
                sum, _mm256_sllv_epi64(y, _mm256_and_si256(x, _mm256_set1_epi64x(31))));
            sum = _mm256_blendv_epi8(sum, acc, _mm256_cmpgt_epi32(x, y));
            if (i % 16 == 0) {
                __m256i at = _mm256_and_si256(acc, _mm256_set1_epi32(8 * N - 1));
                sum = _mm256_add_epi32(sum, _mm256_i32gather_epi32((const int *)a, at, 4));
            }
        }
    __m256i all[2] = {acc, sum};
    return fold(all, sizeof(all));
}

__attribute__((target("avx2,fma"))) uint64_t run_fma_poly(unsigned scale)
{
    enum { N = 128 };
    static __m256d x[N];
    for (int i = 0; i < N; i++)
        x[i] = _mm256_set_pd((double)i / 128, (double)i / 150, (double)-i / 140, (double)i / 500);
    __m256d sum = _mm256_setzero_pd();
    uint64_t h = 0;
    for (unsigned n = 0; n < scale * 16; n++) {
        __m256d k = _mm256_set1_pd((double)(n % 32) / 32);
        for (int i = 0; i < N; i++) {
            __m256d p = k;
            for (int c = 0; c < 8; c++)
                p = _mm256_fmadd_pd(p, x[i], _mm256_set1_pd(1.0 / (c + 2)));
            sum = _mm256_fnmadd_pd(sum, _mm256_set1_pd(0.5), p);
        }
        h = mix(h, fold(&sum, sizeof(sum)));
    }
    return h;
}
