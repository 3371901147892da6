/*
 * Prefaulting: KVM maps what the guest has used in the software engine before the vCPU goes there.
 *
 * With page tables of the processor's for guests (EPT, NPT), KVM keeps what it has mapped while a
 * vCPU is elsewhere. What it has not mapped yet, because the guest touched it in the software
 * engine first, costs an exit each: the guest has started there, or gone on, or a slot was made
 * anew. KVM_PRE_FAULT_MEMORY (Linux 6.11) does the same for less, without leaving the guest. It is
 * an ioctl of a vCPU, which would wait for KVM_RUN: so the vCPU's own thread makes it, on the way
 * in, for no more pages than its list has, the latest first. In the long run nothing is left to do:
 * a page is fresh once (cpu/fresh.h).
 *
 * KVM maps for reading, and for writing as well if the host has the page writable where KVM looks
 * for it: so that is seen to before.
 */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull

static const KvmSlot *slot_of(const KvmVm *kvm, gpa_t gpa)
{
    for (unsigned id = 0; id < MEMMAP_MAX; id++) {
        const KvmSlot *s = &kvm->slot[id];
        if (s->ram.size && gpa >= s->ram.gpa && gpa - s->ram.gpa < s->ram.size)
            return s;
    }
    return NULL;
}

/* How many of the pages, from the first on, are neighbours within the slot, up or down. */
static unsigned neighbours(const KvmSlot *s, const gpa_t *page, unsigned n)
{
    unsigned k = 1;
    if (n > 1 && (page[1] == page[0] + PAGE || page[0] == page[1] + PAGE))
        while (k < n && page[k] - page[k - 1] == page[1] - page[0] &&
               page[k] - s->ram.gpa < s->ram.size)
            k++;
    return k;
}

/* False: this KVM does not, or not now. */
static bool map(const KvmVcpu *kv, const KvmSlot *s, gpa_t gpa, uint64_t size)
{
    struct kvm_pre_fault_memory m = {.gpa = gpa, .size = size};
    if (!s->ram.readonly) /* a page that is guarded stays as it is */
        (void)madvise((s->alias ? s->alias : s->ram.host) + (gpa - s->ram.gpa), size,
                      MADV_POPULATE_WRITE);
    while (m.size)
        if (ioctl(kv->fd, KVM_PRE_FAULT_MEMORY, &m) < 0)
            return false;
    return true;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void kvm_prefault(Vcpu *v)
{
    gpa_t page[FRESH_MAX];
    if (!v->fresh || !v->fresh->n)
        return;
    KvmVcpu *kv = kvm_of(v);
    KvmPrefault *did = &kv->prefault;
    unsigned n = fresh_take(v->fresh, page, FRESH_MAX), done = 0, k;
    uint64_t begun = now();
    for (; done < n; done += k) {
        const KvmSlot *s = slot_of(kv->vm, page[done]);
        k = s ? neighbours(s, &page[done], n - done) : 1;
        if (s && !map(kv, s, MIN_OF(page[done], page[done + k - 1]), k * PAGE))
            break;
    }
    int e = errno;
    did->last_pages = done;
    did->last_ns = now() - begun;
    did->switches++;
    did->pages += done;
    did->ns += did->last_ns;
    if (done == n)
        return;
    if (e == EOPNOTSUPP || e == ENOTTY || e == EINVAL) /* not there; older kernels say the last */
        v->fresh = NULL;
    for (; done < n; done++)
        fresh_map_forget(&kv->vm->fresh, page[done], PAGE);
}

void kvm_fresh_init(Vcpu *v)
{
    KvmVcpu *kv = kvm_of(v);
    bool wanted = kv && kv->vm->host->cap[CAP_PRE_FAULT_MEMORY] && !v->vm->no_prefault;
    if (kv)
        kv->fresh.map = &kv->vm->fresh;
    v->fresh = wanted ? &kv->fresh : NULL;
}

/* ---- what KVM counts ---- */

/* A counter of those that the file has: a header, and descriptions with names (api.rst, 4.135). */
static bool counter(int fd, const char *name, uint64_t *value)
{
    struct kvm_stats_header h;
    if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size == 0 || h.name_size > 256)
        return false;
    gsize each = sizeof(struct kvm_stats_desc) + h.name_size;
    g_autofree char *all = g_malloc0(each * h.num_desc);
    if (pread(fd, all, each * h.num_desc, h.desc_offset) != (ssize_t)(each * h.num_desc))
        return false;
    for (unsigned i = 0; i < h.num_desc; i++) {
        const struct kvm_stats_desc *d = (const void *)(all + i * each);
        if (!strncmp(d->name, name, h.name_size))
            return pread(fd, value, sizeof(*value), h.data_offset + d->offset) == sizeof(*value);
    }
    return false;
}

bool kvm_prefault_stats(const Vcpu *v, KvmPrefault *did)
{
    const KvmVcpu *kv = kvm_of(v);
    if (!kv)
        return false;
    *did = kv->prefault;
    did->possible = v->fresh;
    int fd = ioctl(kv->fd, KVM_GET_STATS_FD, NULL);
    did->faults_known = fd >= 0 && counter(fd, "pf_taken", &did->faults);
    if (fd >= 0)
        close(fd);
    return true;
}
