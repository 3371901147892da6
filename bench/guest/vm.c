/* A stack machine that counts the steps of Collatz sequences: one program, two ways to dispatch. */
#include "bench.h"

enum { PUSH, ADD, MUL, SHR, ODD, JZ, JMP, DUP, STORE, LOAD, NE1, END, OPS };
enum { NUMBER, STEPS, VARS };

/* while (number != 1) { number = odd(number) ? 3 * number + 1 : number >> 1; steps++; } */
static const uint8_t *program(void)
{
    static uint8_t p[64];
    uint8_t *end, *even, *join, *o = p;
#define EMIT1(a)    *o++ = (a)
#define EMIT2(a, b) EMIT1(a), EMIT1(b)
#define HERE        ((uint8_t)(o - p))
    EMIT2(LOAD, NUMBER), EMIT1(NE1), EMIT1(JZ), end = o++;
    EMIT2(LOAD, NUMBER), EMIT1(DUP), EMIT1(ODD), EMIT1(JZ), even = o++;
    EMIT2(PUSH, 3), EMIT1(MUL), EMIT2(PUSH, 1), EMIT1(ADD), EMIT1(JMP), join = o++;
    *even = HERE;
    EMIT1(SHR);
    *join = HERE;
    EMIT2(STORE, NUMBER), EMIT2(LOAD, STEPS), EMIT2(PUSH, 1), EMIT1(ADD), EMIT2(STORE, STEPS);
    EMIT2(JMP, 0);
    *end = HERE;
    EMIT1(END);
    return p;
}

static uint64_t by_switch(const uint8_t *code, uint64_t number)
{
    uint64_t stack[8], *s = stack, var[VARS] = {number, 0};
    for (const uint8_t *p = code;;) {
        switch (*p++) {
        case PUSH:
            *s++ = *p++;
            break;
        case ADD:
            s--;
            s[-1] += *s;
            break;
        case MUL:
            s--;
            s[-1] *= *s;
            break;
        case SHR:
            s[-1] >>= 1;
            break;
        case ODD:
            s[-1] &= 1;
            break;
        case JZ:
            p = *--s ? p + 1 : code + *p;
            break;
        case JMP:
            p = code + *p;
            break;
        case DUP:
            *s = s[-1];
            s++;
            break;
        case STORE:
            var[*p++] = *--s;
            break;
        case LOAD:
            *s++ = var[*p++];
            break;
        case NE1:
            s[-1] = s[-1] != 1;
            break;
        case END:
            return var[STEPS];
        default:
            bench_die("a code that the stack machine does not have");
        }
    }
}

static uint64_t by_goto(const uint8_t *code, uint64_t number)
{
    static const void *const labels[OPS] = {
        [PUSH] = &&push,   [ADD] = &&add,   [MUL] = &&mul, [SHR] = &&shr,
        [ODD] = &&odd,     [JZ] = &&jz,     [JMP] = &&jmp, [DUP] = &&dup,
        [STORE] = &&store, [LOAD] = &&load, [NE1] = &&ne1, [END] = &&end,
    };
    uint64_t stack[8], *s = stack, var[VARS] = {number, 0};
    const uint8_t *p = code;
#define NEXT goto *labels[*p++]
    NEXT;
push:
    *s++ = *p++;
    NEXT;
add:
    s--;
    s[-1] += *s;
    NEXT;
mul:
    s--;
    s[-1] *= *s;
    NEXT;
shr:
    s[-1] >>= 1;
    NEXT;
odd:
    s[-1] &= 1;
    NEXT;
jz:
    p = *--s ? p + 1 : code + *p;
    NEXT;
jmp:
    p = code + *p;
    NEXT;
dup:
    *s = s[-1];
    s++;
    NEXT;
store:
    var[*p++] = *--s;
    NEXT;
load:
    *s++ = var[*p++];
    NEXT;
ne1:
    s[-1] = s[-1] != 1;
    NEXT;
end:
    return var[STEPS];
}

static uint64_t run(unsigned scale, uint64_t (*machine)(const uint8_t *, uint64_t))
{
    const uint8_t *code = program();
    uint64_t h = 0;
    for (uint64_t n = 0; n < scale * 64ul; n++)
        h = mix(h, machine(code, 1000 + n));
    return h;
}

uint64_t run_vm_switch(unsigned scale)
{
    return run(scale, by_switch);
}
uint64_t run_vm_goto(unsigned scale)
{
    return run(scale, by_goto);
}
