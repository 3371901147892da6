/* SHA-256 and AES-128 in plain C, as the standards describe them; their constants are computed. */
#include "bench.h"

static uint32_t ror(uint32_t v, int n)
{
    return v >> n | v << (32 - n);
}

/* First 32 bits of the fraction of a root (square or cube) of n, by bisection in integers. */
static uint32_t root_fraction(uint64_t n, int power)
{
    unsigned __int128 lo = 0, hi = (unsigned __int128)n << 32;
    while (hi - lo > 1) { /* greatest r with r^power <= n * 2^(32 * power) */
        unsigned __int128 mid = (lo + hi) / 2, v = mid * mid;
        int above;
        if (power == 3)
            above = v / ((unsigned __int128)1 << 32) * mid > (unsigned __int128)n << 64;
        else
            above = v > (unsigned __int128)n << 64;
        if (above)
            hi = mid;
        else
            lo = mid;
    }
    return (uint32_t)lo;
}

static void sha256_block(uint32_t h[8], const uint32_t k[64], const uint32_t in[16])
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = in[i];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) + w[i - 7] +
               (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
    }
    for (int i = 0; i < 8; i++)
        s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 =
            s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 =
            (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = e;
        s[4] = s[3] + t1;
        s[3] = s[2], s[2] = s[1], s[1] = a;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

uint64_t run_sha256(unsigned scale)
{
    uint32_t k[64], h[8], in[16];
    int count = 0;
    for (uint64_t n = 2; count < 64; n++) {
        int prime = 1;
        for (uint64_t d = 2; d * d <= n; d++)
            prime &= n % d != 0;
        if (!prime)
            continue;
        if (count < 8)
            h[count] = root_fraction(n, 2);
        k[count++] = root_fraction(n, 3);
    }
    bench_begin();
    for (unsigned n = 0; n < scale * 16; n++) {
        for (uint32_t i = 0; i < 16; i++)
            in[i] = n * 16 + i;
        sha256_block(h, k, in);
    }
    return (uint64_t)h[0] << 32 | h[7];
}

static uint8_t times2(uint8_t a)
{
    return (uint8_t)(a << 1 ^ (a & 0x80 ? 0x1b : 0));
}

static uint8_t sbox[256];
static uint32_t te[4][256];

static void aes_tables(void)
{
    uint8_t exp[256], log[256] = {0}, v = 1;
    for (int i = 0; i < 255; i++) { /* 3 generates the field */
        exp[i] = v;
        log[v] = (uint8_t)i;
        v ^= times2(v);
    }
    for (int i = 0; i < 256; i++) {
        uint8_t inverse = i ? exp[(255 - log[i]) % 255] : 0, s = 0x63;
        for (int k = 0; k < 5; k++)
            s ^= (uint8_t)(inverse << k | inverse >> (8 - k));
        sbox[i] = s;
        uint32_t t =
            times2(s) | (uint32_t)s << 8 | (uint32_t)s << 16 | (uint32_t)(times2(s) ^ s) << 24;
        for (int k = 0; k < 4; k++)
            te[k][i] = k ? t << 8 * k | t >> (32 - 8 * k) : t;
    }
}

uint64_t run_aes(unsigned scale)
{
    uint32_t key[44] = {0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c};
    aes_tables();
    uint8_t rcon = 1;
    for (int i = 4; i < 44; i++) {
        uint32_t t = key[i - 1];
        if (i % 4 == 0) {
            t = ror(t, 8);
            t = (uint32_t)sbox[t & 255] | (uint32_t)sbox[t >> 8 & 255] << 8 |
                (uint32_t)sbox[t >> 16 & 255] << 16 | (uint32_t)sbox[t >> 24] << 24;
            t ^= rcon;
            rcon = times2(rcon);
        }
        key[i] = key[i - 4] ^ t;
    }
    bench_begin();
    uint32_t s[4] = {1, 2, 3, 4}, t[4];
    for (unsigned n = 0; n < scale * 64; n++) {
        for (int i = 0; i < 4; i++)
            s[i] ^= key[i];
        for (int round = 1; round < 10; round++) {
            for (int i = 0; i < 4; i++)
                t[i] = te[0][s[i] & 255] ^ te[1][s[(i + 1) % 4] >> 8 & 255] ^
                       te[2][s[(i + 2) % 4] >> 16 & 255] ^ te[3][s[(i + 3) % 4] >> 24] ^
                       key[4 * round + i];
            for (int i = 0; i < 4; i++)
                s[i] = t[i];
        }
        for (int i = 0; i < 4; i++)
            t[i] = (sbox[s[i] & 255] | (uint32_t)sbox[s[(i + 1) % 4] >> 8 & 255] << 8 |
                    (uint32_t)sbox[s[(i + 2) % 4] >> 16 & 255] << 16 |
                    (uint32_t)sbox[s[(i + 3) % 4] >> 24] << 24) ^
                   key[40 + i];
        for (int i = 0; i < 4; i++)
            s[i] = t[i];
    }
    return ((uint64_t)s[0] << 32 | s[1]) ^ ((uint64_t)s[2] << 16) ^ s[3];
}
