/*
 * Where guest registers are.
 *
 * Twelve are in host registers, four on the frame (jit.h): the same in all code, so that blocks can
 * hand over to each other. The second body of a loop runs often for each time it is entered, so it
 * may have others on the frame: those that it uses least. What leads into it exchanges them, and
 * what leads out of it, to C too, exchanges them back.
 */
#include "tcg/jit.h"

/* What must be gained by a register for each that is exchanged. */
#define SWAP_GAIN 2u

void jit_homes(Trans *x, bool second)
{
    for (unsigned r = 0; r < GPR_N; r++) {
        x->host[r] = jit_host[r];
        x->away[r] = (uint8_t)(r - R12);
    }
    for (unsigned n = 0; second && n < x->n_swaps; n++) {
        const struct Swap *s = &x->swap[n];
        x->host[s->in] = jit_host[s->out];
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
            if (i->base < GPR_N && (n < 0 || !jit_stays(x, x->stream[n].base)))
                reads |= 1u << i->base;
            if (i->index < GPR_N && (n < 0 || !jit_stays(x, x->stream[n].index)))
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

void jit_homes_choose(Trans *x)
{
    unsigned use[GPR_N];
    uint32_t done = 0;
    weigh(x, use);
    x->n_swaps = 0;
    while (x->n_swaps < ARRAY_LEN(x->swap)) {
        unsigned in = GPR_N, out = GPR_N;
        for (unsigned r = 0; r < GPR_N; r++) {
            if (done >> r & 1)
                continue;
            if (jit_host[r] == H_NONE && (in == GPR_N || use[r] > use[in]))
                in = r;
            if (jit_host[r] != H_NONE && (out == GPR_N || use[r] < use[out]))
                out = r;
        }
        if (in == GPR_N || out == GPR_N || use[in] < use[out] + SWAP_GAIN)
            return;
        done |= 1u << in | 1u << out;
        x->swap[x->n_swaps++] = (struct Swap){.in = (uint8_t)in, .out = (uint8_t)out};
    }
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
