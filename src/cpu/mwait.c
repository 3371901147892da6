#include "cpu/mwait.h"

#include <string.h>

void mwait_arm(Vcpu *v, gpa_t gpa)
{
    v->monitor.line = gpa & ~(gpa_t)(MWAIT_LINE - 1);
    v->monitor.armed = memmap_read(v->vm->mem, v->monitor.line, v->monitor.was, MWAIT_LINE);
    /* What the guest reads from here on it reads behind the copy. */
    atomic_signal_fence(memory_order_seq_cst);
}

bool mwait_over(const Vcpu *v)
{
    uint8_t now[MWAIT_LINE];
    return !v->monitor.armed || !memmap_read(v->vm->mem, v->monitor.line, now, MWAIT_LINE) ||
           memcmp(now, v->monitor.was, MWAIT_LINE) != 0;
}
