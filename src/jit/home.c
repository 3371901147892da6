/*
 * Where guest registers are.
 *
 * Twelve are in host registers, four on the frame (jit.h): the same in all code, so that blocks can
 * hand over to each other. The second body of a loop runs often for each time it is entered, so it
 * may have others on the frame: those that it uses least. In their place it has what it uses more,
 * of R12 to R15 and of its streams' addresses (jit_frame()). What leads into it exchanges them, and
 * what leads out of it, to C too, exchanges them back.
 */
#include "jit/trans.h"

/* What must be gained by a register for each that is exchanged; of a stream, which is only read. */
#define SWAP_GAIN   2
#define STREAM_GAIN 1

void jit_homes(Trans *x, bool second)
{
    for (unsigned r = 0; r < GPR_N; r++) {
        x->host[r] = jit_host[r];
        x->away[r] = (uint8_t)(r - R12);
    }
    memset(x->stream_host, H_NONE, sizeof(x->stream_host));
    for (unsigned n = 0; second && n < x->n_swaps; n++) {
        const struct Swap *s = &x->swap[n];
        if (s->in < GPR_N)
            x->host[s->in] = jit_host[s->out];
        else
            x->stream_host[s->in - GPR_N] = jit_host[s->out];
        x->host[s->out] = H_NONE;
        x->away[s->out] = (uint8_t)(s->in - R12);
    }
}

/* How much is gained where the second body has a guest register in a host register: in
 * instructions, roughly. */
static void weigh(const Trans *x, unsigned use[GPR_N])
{
    memset(use, 0, GPR_N * sizeof(*use));
    for (unsigned k = 0; k + 1u < x->n; k++) {
        const Insn *i = x->insn[k];
        const OpRow *r = &op_rows[i->row];
        uint32_t reads = 0, writes = jit_written(i);
        int n = x->stream_of[k];
        if (i->opsize && (i->flags & IF_MEM)) {
            bool direct = n < 0 || x->stream[n].direct;
            if (i->base < GPR_N && (direct || !jit_stays(x, x->stream[n].base)))
                reads |= 1u << i->base;
            if (i->index < GPR_N &&
                (direct || x->stream[n].table || !jit_stays(x, x->stream[n].index)))
                reads |= 1u << i->index;
        }
        for (unsigned op = 0; op < 4; op++) {
            const bool byte = operand_info[r->op[op]].size == 1;
            switch (operand_info[r->op[op]].cls) {
            case OC_REG:
            case OC_OPREG:
                reads |= 1u << (byte ? i->reg >> 3 : i->reg);
                break;
            case OC_RM:
            case OC_RMREG:
                if (!(i->flags & IF_MEM))
                    reads |= 1u << (byte ? i->rm >> 3 : i->rm);
                break;
            case OC_VVVV:
                if (!(r->attr & (A_SSE | A_AVX | A_MMX)))
                    reads |= 1u << i->vvvv;
                break;
            default:
                break;
            }
        }
        for (unsigned g = 0; g < GPR_N; g++)
            use[g] += (reads >> g & 1) + 2 * (writes >> g & 1);
    }
}

/* The accesses of each stream in a round. */
static void weigh_streams(const Trans *x, unsigned use[JIT_STREAMS])
{
    memset(use, 0, JIT_STREAMS * sizeof(*use));
    for (unsigned k = 0; k + 1u < x->n; k++)
        if (x->stream_of[k] >= 0 && !x->stream[x->stream_of[k]].direct)
            use[x->stream_of[k]]++;
}

static int gain(const unsigned use[], unsigned r)
{
    return (int)use[r] - (r < GPR_N ? SWAP_GAIN : STREAM_GAIN);
}

unsigned jit_homes_choose(Trans *x)
{
    enum { NONE = GPR_N + JIT_STREAMS };
    unsigned use[NONE]; /* of guest registers, and then of streams */
    uint32_t done = 0;
    weigh(x, use);
    weigh_streams(x, use + GPR_N);
    unsigned saved = 0;
    x->n_swaps = 0;
    while (x->n_swaps < ARRAY_LEN(x->swap)) {
        unsigned in = NONE, out = NONE;
        for (unsigned r = 0; r < NONE; r++) {
            if (done >> r & 1)
                continue;
            bool on_frame = r >= GPR_N || jit_host[r] == H_NONE;
            if (on_frame && (in == NONE || gain(use, r) > gain(use, in)))
                in = r;
            if (!on_frame && (out == NONE || use[r] < use[out]))
                out = r;
        }
        if (in == NONE || out == NONE || gain(use, in) < (int)use[out])
            break;
        saved += use[in] - use[out];
        done |= 1u << in | 1u << out;
        x->swap[x->n_swaps++] = (struct Swap){.in = (uint8_t)in, .out = (uint8_t)out};
    }
    return saved;
}

void jit_homes_swap(Trans *x, bool slowly)
{
    Code *c = &x->c;
    for (unsigned n = 0; n < x->n_swaps; n++) {
        HostMem away = jit_gpr(x->swap[n].in);
        unsigned host = jit_host[x->swap[n].out];
        if (slowly) {
            emit_rm(c, 0x87, true, host, away); /* xchg */
            continue;
        }
        emit_load(c, H_AX, away);
        emit_store(c, host, away);
        emit_mov(c, true, host, H_AX);
    }
}
