/* Code that is data a moment before: one that patches itself, one that is made in a buffer, run and
 * made anew. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>

static uint8_t *code_memory(size_t size)
{
    void *p =
        mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("no memory that is writable and executable");
    return p;
}

/* The immediates of a small loop are changed before each of its runs. */
uint64_t run_smc(unsigned scale)
{
    static const uint8_t loop[] = {
        0xb9, 20,   0,    0, 0,    /* mov $20, %ecx */
        0x48, 0x05, 0,    0, 0, 0, /* 1: add $patched, %rax */
        0x48, 0x35, 0,    0, 0, 0, /* xor $patched, %rax */
        0x48, 0xd1, 0xc0,          /* rol %rax */
        0xff, 0xc9,                /* dec %ecx */
        0x75, 0xed,                /* jnz 1b */
        0xc3,                      /* ret */
    };
    uint8_t *p = code_memory(4096);
    memcpy(p, loop, sizeof(loop));
    uint64_t v = 1;
    for (unsigned n = 0; n < scale * 200; n++) {
        uint32_t add = n & 0x7fffffff, xor = n * 77 & 0x7fffffff;
        memcpy(p + 7, &add, 4);
        memcpy(p + 13, &xor, 4);
        __asm__ volatile("call *%1" : "+a"(v) : "r"(p) : "rcx", "memory", "cc");
    }
    munmap(p, 4096);
    return v;
}

static uint8_t *put(uint8_t *o, const char *bytes, size_t n)
{
    memcpy(o, bytes, n);
    return o + n;
}

static uint8_t *put_imm(uint8_t *o, uint32_t imm)
{
    memcpy(o, &imm, 4);
    return o + 4;
}

/* Translates 24 random operations on two registers into a loop of 50 rounds; returns the end. */
static uint8_t *translate(uint8_t *o, uint64_t *seed)
{
    o = put(o, "\xb9\x32\x00\x00\x00", 5); /* mov $50, %ecx */
    uint8_t *top = o;
    for (int i = 0; i < 24; i++) {
        uint64_t r = rnd(seed);
        uint32_t imm = (uint32_t)(r >> 33);
        switch (r & 7) {
        case 0: /* add $imm, %rax */
            o = put_imm(put(o, "\x48\x05", 2), imm);
            break;
        case 1: /* xor $imm, %rdx */
            o = put_imm(put(o, "\x48\x81\xf2", 3), imm);
            break;
        case 2: /* imul $imm, %rax, %rax */
            o = put_imm(put(o, "\x48\x69\xc0", 3), imm | 1);
            break;
        case 3: /* add %rax, %rdx */
            o = put(o, "\x48\x01\xc2", 3);
            break;
        case 4: /* sub %rdx, %rax */
            o = put(o, "\x48\x29\xd0", 3);
            break;
        case 5: /* rol $5, %rdx */
            o = put(o, "\x48\xc1\xc2\x05", 4);
            break;
        case 6: /* test %rax, %rax; js over it; inc %rdx */
            o = put(o, "\x48\x85\xc0\x78\x03\x48\xff\xc2", 8);
            break;
        default: /* lea 7(%rax, %rdx, 2), %rax */
            o = put(o, "\x48\x8d\x44\x50\x07", 5);
            break;
        }
    }
    o = put(o, "\xff\xc9\x0f\x85", 4); /* dec %ecx; jnz top */
    o = put_imm(o, (uint32_t)(top - (o + 4)));
    return put(o, "\xc3", 1); /* ret */
}

uint64_t run_jit(unsigned scale)
{
    enum { SIZE = 65536, LONGEST = 256 };
    uint8_t *buffer = code_memory(SIZE), *o = buffer;
    uint64_t seed = 31, a = 1, d = 2;
    for (unsigned n = 0; n < scale * 20; n++) {
        if (o + LONGEST > buffer + SIZE)
            o = buffer;
        uint8_t *begin = o;
        o = translate(o, &seed);
        for (int k = 0; k < 3; k++)
            __asm__ volatile("call *%2" : "+a"(a), "+d"(d) : "r"(begin) : "rcx", "memory", "cc");
    }
    munmap(buffer, SIZE);
    return mix(a, d);
}
