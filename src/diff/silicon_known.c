/* Differences that are this processor's own: rows of silicon_known.def. */
#include <cpuid.h>
#include <string.h>

#include "cpu/xsave.h"
#include "diff/engines.h"
#include "diff/silicon.h"
#include "tcg/tcg.h"

typedef struct Seen {
    const SiliconCpu *cpu;
    const DiffCase *c;
    const char *name; /* of the row */
    Insn i;           /* as far as the bytes decode */
    const DiffOutcome *own, *other;
} Seen;

static bool faults(const DiffOutcome *o, unsigned vector)
{
    return o->kind == OUT_FAULT && o->vector == vector;
}

static bool both_fault(const Seen *x)
{
    return x->own->kind == OUT_FAULT && x->other->kind == OUT_FAULT;
}

/* Its first instruction still: nothing was executed. */
static bool at_start(const Seen *x, const DiffOutcome *o)
{
    return o->kind == OUT_FAULT && o->st.rip == x->c->in.rip;
}

static bool reads_256(const Seen *x)
{
    return x->i.vexl == 1 && (x->i.flags & IF_MEM);
}

static bool known_halves(const Seen *x)
{
    return x->cpu->halves && reads_256(x) && both_fault(x) &&
           (faults(x->other, VEC_GP) || faults(x->other, VEC_SS)) &&
           (faults(x->own, VEC_PF) || faults(x->own, VEC_AC));
}

static bool known_cmps_first(const Seen *x)
{
    return x->cpu->family == 0x17 && op_rows[x->c->row].opcode == 0xa6 &&
           !strcmp(x->name, "cmps") && (x->i.flags & IF_REP) && both_fault(x);
}

static bool known_gather_fault(const Seen *x)
{
    return x->cpu->family == 0x17 && x->c->stop == STOP_STEP && strstr(x->name, "gather") &&
           x->other->kind == OUT_DONE && at_start(x, x->own) && x->other->st.rip == x->c->in.rip;
}

static bool known_movddup(const Seen *x)
{
    return x->cpu->halves && !strcmp(x->name, "vmovddup") && reads_256(x) && at_start(x, x->other);
}

void silicon_xsave_header(const DiffCase *c, uint64_t header[2])
{
    CpuState s = c->in;
    Insn i;
    header[0] = header[1] = 0;
    decode(&i, c->insn, c->len, case_decode_mode(c), case_features());
    s.gpr[GPR_ZERO] = 0;
    s.gpr[GPR_IP] = s.rip;
    uint64_t base = cpu_code64(&s) && i.seg != FS && i.seg != GS ? 0 : s.seg[i.seg].base;
    uint64_t at = ea_offset(&s, &i) + base + XSAVE_HEADER;
    if (at >= CASE_DATA && at + 16 <= CASE_DATA + CASE_DATA_BYTES)
        memcpy(header, c->data + (at - CASE_DATA), 16);
    else if (at >= CASE_STACK && at + 16 <= CASE_STACK + CASE_STACK_BYTES)
        memcpy(header, c->stack + (at - CASE_STACK), 16);
}

static bool xrstor(const Seen *x)
{
    return x->cpu->family == 0x17 && !strcmp(x->name, "xrstor");
}

/* What it does see is MXCSR. What faults then may be the next instruction. */
static bool known_xrstor_initial(const Seen *x)
{
    return xrstor(x) && faults(x->other, VEC_PF) && at_start(x, x->other) &&
           (!at_start(x, x->own) || faults(x->own, VEC_GP));
}

static bool known_xrstor_bit63(const Seen *x)
{
    uint64_t header[2];
    if (!xrstor(x) || !faults(x->other, VEC_GP) || faults(x->own, VEC_GP))
        return false;
    silicon_xsave_header(x->c, header);
    return header[0] >> 63 && !(header[0] << 1 >> 1 & ~x->c->in.xcr0);
}

static bool known_xrstor_last(const Seen *x)
{
    uint64_t header[2];
    if (!xrstor(x) || !faults(x->other, VEC_GP) || !faults(x->own, VEC_PF))
        return false;
    silicon_xsave_header(x->c, header);
    return header[0] & ~x->c->in.xcr0;
}

static bool known_fx_null(const Seen *x)
{
    const CpuState *s = &x->c->in;
    return x->cpu->family == 0x17 && (!strcmp(x->name, "fxsave") || !strcmp(x->name, "fxrstor")) &&
           !cpu_code64(s) && s->seg[x->i.seg].attr & SEG_UNUSABLE && faults(x->other, VEC_GP) &&
           faults(x->own, VEC_AC);
}

/* Of the legacy prefixes. */
static unsigned prefixes(const DiffCase *c)
{
    static const uint8_t prefix[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
                                     0x66, 0x67, 0xf0, 0xf2, 0xf3};
    unsigned k = 0;
    while (k < c->len && memchr(prefix, c->insn[k], sizeof(prefix)))
        k++;
    return k;
}

static bool known_too_long(const Seen *x)
{
    unsigned k = prefixes(x->c);
    return x->cpu->family == 0x17 && x->c->len == 15 && k < 15 && (x->c->insn[k] | 1) == 0xc5 &&
           faults(x->other, VEC_UD) && faults(x->own, VEC_GP);
}

/* REX.W or VEX.W, whether or not the bytes are an instruction. */
static bool wide(const DiffCase *c)
{
    unsigned k = prefixes(c);
    if (k + 2 < c->len && c->insn[k] == 0xc4)
        return c->insn[k + 2] & 0x80;
    return k < c->len && (c->insn[k] & 0xf8) == 0x48;
}

static bool known_pcmpestr_prefix(const Seen *x)
{
    return x->cpu->family == 0x17 && strstr(x->name, "pcmpestr") && wide(x->c) &&
           faults(x->other, VEC_UD) && x->own->kind == OUT_DONE;
}

void silicon_cpu(SiliconCpu *cpu)
{
    unsigned a, b, c, d;
    *cpu = (SiliconCpu){0};
    if (!__get_cpuid(0, &a, &b, &c, &d) || c != 0x444d4163) /* "cAMD" */
        return;
    __get_cpuid(1, &a, &b, &c, &d);
    cpu->family = (a >> 8 & 0xf) + (a >> 20 & 0xff);
    cpu->halves = __get_cpuid(0x8000001a, &a, &b, &c, &d) && !(a & 4); /* FP256 */
}

const char *silicon_known(const SiliconCpu *cpu, const DiffCase *c, const DiffOutcome *own,
                          const DiffOutcome *other)
{
    static const struct {
        bool (*known)(const Seen *);
        const char *why;
    } row[] = {
#define KNOWN(id, why) {known_##id, why},
#include "diff/silicon_known.def"
    };
    Seen x = {.cpu = cpu, .c = c, .name = op_rows[c->row].name, .own = own, .other = other};
    if (!cpu->family)
        return NULL;
    decode(&x.i, c->insn, c->len, case_decode_mode(c), case_features());
    for (unsigned k = 0; k < ARRAY_LEN(row); k++)
        if (row[k].known(&x))
            return row[k].why;
    return NULL;
}
