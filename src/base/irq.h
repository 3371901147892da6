/* An interrupt line: what a device raises, and who hears it. Called with the machine lock held. */
#ifndef TANDEM_BASE_IRQ_H
#define TANDEM_BASE_IRQ_H

#include "base/types.h"

typedef void IrqFn(void *opaque, int n, bool level);
typedef struct IrqLine {
    IrqFn *fn; /* NULL: not connected */
    void *opaque;
    int n;
} IrqLine;

static inline void irq_set(const IrqLine *l, bool level)
{
    if (l->fn)
        l->fn(l->opaque, l->n, level);
}

#endif
