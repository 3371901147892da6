/* A guest of one vCPU in long mode for the probes: memory from 0 on, and no irqchip. */
#ifndef TANDEM_KVM_PROBE_GUEST_H
#define TANDEM_KVM_PROBE_GUEST_H

#include <string.h>

#include "kvm/kvm_priv.h"

enum { PROBE_USER = 7 /* page table entries: present, writable, user */ };

typedef struct ProbeGuest {
    int vm, vcpu;
    struct kvm_run *run;
    size_t run_size, mem_size;
    uint8_t *mem;
    bool lzcnt; /* KVM offers it to guests */
} ProbeGuest;

/* False: this KVM does not make such a guest. Either way probe_guest_close() follows. */
bool probe_guest_open(ProbeGuest *, const KvmHost *, size_t mem_size);
void probe_guest_close(ProbeGuest *);

static inline void probe_put64(ProbeGuest *p, unsigned at, uint64_t v)
{
    memcpy(p->mem + at, &v, sizeof(v));
}

/* Flat, 64-bit if it is code; the privilege is the selector's. */
struct kvm_segment probe_segment(unsigned selector, unsigned type, bool code);
/* KVM_RUN, until it is not interrupted: 0, with the exit in p->run, or below. */
int probe_guest_enter(ProbeGuest *);
/* Runs to the next OUT, completes it, and says which port and value. False: something else came. */
bool probe_guest_run(ProbeGuest *, unsigned *port, uint32_t *value);

#endif
