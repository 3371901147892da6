/* Compression: a dictionary coder and a Huffman coder, each with its decoder as the check. */
#include "bench.h"

#include <string.h>

enum { SIZE = 16384 };

/* Text of words whose syllables come from a short list: repetitions, as real text has them. */
static void text(uint8_t *to, size_t n, uint64_t seed)
{
    static const char syllables[16][4] = {"ta", "no", "ri", "sel", "ma",  "ko", "the", "ing",
                                          "er", "an", "du", "vo",  "pla", "is", "qu",  "e"};
    size_t i = 0;
    while (i < n) {
        for (unsigned count = 1 + (unsigned)(rnd(&seed) >> 62); count && i < n; count--)
            for (const char *s = syllables[rnd(&seed) >> 60]; *s && i < n; s++)
                to[i++] = (uint8_t)*s;
        if (i < n)
            to[i++] = ' ';
    }
}

uint64_t run_strsearch(unsigned scale)
{
    static uint8_t hay[SIZE];
    static const char *const needles[] = {"manoselta", "kotheing", "isisis", "duvopla", "riri ta"};
    text(hay, SIZE, 8);
    bench_begin();
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        const char *needle = needles[n % 5];
        size_t m = strlen(needle), skip[256], hits = 0, where = 0;
        for (int i = 0; i < 256; i++)
            skip[i] = m;
        for (size_t i = 0; i + 1 < m; i++)
            skip[(uint8_t)needle[i]] = m - 1 - i;
        for (size_t at = 0; at + m <= SIZE; at += skip[hay[at + m - 1]]) {
            size_t k = m;
            while (k && hay[at + k - 1] == (uint8_t)needle[k - 1])
                k--;
            if (!k) {
                hits++;
                where += at;
            }
        }
        h = mix(h, hits * 1000000 + where);
    }
    return h;
}

/* Tokens: 0..127 that many plus one literals follow; 128.. a match of 4 + (t - 128), two bytes of
 * distance. */
static size_t lz_pack(uint8_t *to, const uint8_t *in, size_t n)
{
    static uint16_t head[4096], before[SIZE]; /* position + 1; 0: none */
    memset(head, 0, sizeof(head));
    size_t o = 0, literals = 0;
    for (size_t i = 0; i < n;) {
        size_t best = 0, from = 0;
        if (i + 4 <= n) {
            uint32_t word;
            memcpy(&word, in + i, 4);
            uint32_t slot = word * 2654435761u >> 20;
            size_t at = head[slot];
            for (int tries = 8; at && tries; tries--, at = before[at - 1]) {
                size_t len = 0;
                while (len < 131 && i + len < n && in[at - 1 + len] == in[i + len])
                    len++;
                if (len > best) {
                    best = len;
                    from = at - 1;
                }
            }
            before[i] = head[slot];
            head[slot] = (uint16_t)(i + 1);
        }
        if (best >= 4) {
            to[o++] = (uint8_t)(128 + best - 4);
            to[o++] = (uint8_t)(i - from);
            to[o++] = (uint8_t)((i - from) >> 8);
            i += best;
            literals = 0;
        } else {
            if (!literals || literals == 128) {
                to[o++] = 0;
                literals = 0;
            } else {
                to[o - literals - 1]++;
            }
            to[o++] = in[i++];
            literals++;
        }
    }
    return o;
}

static size_t lz_unpack(uint8_t *to, const uint8_t *in, size_t n)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        unsigned t = in[i++];
        if (t < 128) {
            for (unsigned k = 0; k <= t; k++)
                to[o++] = in[i++];
        } else {
            size_t distance = in[i] | (size_t)in[i + 1] << 8;
            i += 2;
            for (unsigned k = 0; k < t - 124; k++, o++)
                to[o] = to[o - distance];
        }
    }
    return o;
}

uint64_t run_lz(unsigned scale)
{
    static uint8_t in[SIZE], packed[2 * SIZE], out[SIZE];
    uint64_t h = 0;
    text(in, SIZE, 9);
    bench_begin();
    for (unsigned n = 0; n < scale; n++) {
        in[n * 97 % SIZE] = (uint8_t)n;
        size_t len = lz_pack(packed, in, SIZE);
        size_t back = lz_unpack(out, packed, len);
        if (back != SIZE || memcmp(in, out, SIZE))
            return 0xbad;
        h = mix(h, len);
        h = mix(h, packed[len / 2]);
    }
    return h;
}

/* Lengths and codes of a Huffman tree over the bytes that occur; nodes 0-255 are leaves. */
static int huffman_tree(const uint32_t count[256], int child[512][2])
{
    uint32_t weight[512];
    int alive[512], n = 0, next = 256;
    for (int i = 0; i < 256; i++)
        if (count[i]) {
            weight[i] = count[i];
            alive[n++] = i;
        }
    while (n > 1) {
        int least[2];
        for (int k = 0; k < 2; k++) {
            int at = 0;
            for (int i = 1; i < n; i++)
                if (weight[alive[i]] < weight[alive[at]])
                    at = i;
            least[k] = alive[at];
            alive[at] = alive[--n];
        }
        child[next][0] = least[0];
        child[next][1] = least[1];
        weight[next] = weight[least[0]] + weight[least[1]];
        alive[n++] = next++;
    }
    return alive[0];
}

static void huffman_codes(int child[512][2], int node, uint32_t code, int len, uint32_t codes[256],
                          uint8_t lens[256])
{
    if (node < 256) {
        codes[node] = code;
        lens[node] = (uint8_t)len;
        return;
    }
    huffman_codes(child, child[node][0], code << 1, len + 1, codes, lens);
    huffman_codes(child, child[node][1], code << 1 | 1, len + 1, codes, lens);
}

uint64_t run_huffman(unsigned scale)
{
    static uint8_t in[SIZE], packed[2 * SIZE];
    static int child[512][2];
    uint64_t h = 0;
    text(in, SIZE, 10);
    bench_begin();
    for (unsigned n = 0; n < scale; n++) {
        uint32_t count[256] = {0}, codes[256];
        uint8_t lens[256];
        in[n * 89 % SIZE] = (uint8_t)n;
        for (size_t i = 0; i < SIZE; i++)
            count[in[i]]++;
        int root = huffman_tree(count, child);
        huffman_codes(child, root, 0, 0, codes, lens);
        uint64_t bits = 0;
        int have = 0;
        size_t o = 0;
        for (size_t i = 0; i < SIZE; i++) {
            bits = bits << lens[in[i]] | codes[in[i]];
            have += lens[in[i]];
            while (have >= 8) {
                have -= 8;
                packed[o++] = (uint8_t)(bits >> have);
            }
        }
        packed[o] = (uint8_t)(bits << (8 - have));
        size_t at = 0;
        for (size_t i = 0; i < SIZE; i++) {
            int node = root;
            while (node >= 256) {
                node = child[node][packed[at / 8] >> (7 - at % 8) & 1];
                at++;
            }
            if (node != in[i])
                return 0xbad;
        }
        h = mix(h, at);
        h = mix(h, packed[o / 3]);
    }
    return h;
}
