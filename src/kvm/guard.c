/*
 * Mixed machines: some vCPUs in KVM, others in the software engine.
 *
 * The software engine keeps decoded code and sees the stores of every software engine. A store that
 * a vCPU does in KVM it does not see, so the pages it has decoded code from are guarded while a
 * machine is mixed: KVM gets RAM by a mapping of its own (KvmSlot.alias), in which such a page is
 * read-only. KVM drops its translation as the mapping changes, and a store to the page then does
 * not happen. It comes out, by the way it was tried:
 *
 *   natively                KVM_RUN fails with EFAULT -> EXIT_GUARDED: the software engine runs the
 *                           instruction (rescue), and what it stores it sees
 *   emulated in the kernel  KVM takes what it cannot write for a device: KVM_EXIT_MMIO with the
 *                           address of RAM -> kvm_guard_store() stores, and tells who has decoded
 * it
 *
 * Not where KVM makes page tables of its own from the guest's: it sets accessed and dirty bits in
 * those by this mapping, and takes one that is read-only for a page fault of the guest's; nor would
 * its tables follow such a store. There vCPUs take turns (turns.c), and the software engine looks
 * at its code again in each.
 *
 * Page tables need nothing: both sides set accessed and dirty bits by locked operations, and
 * whoever changes an entry makes the other vCPUs flush it by an interrupt, as on any machine.
 *
 * VmCommon.guard says whether the machine is mixed. It is set, under the lock, by whoever makes it
 * so, before running: a vCPU that comes into the software engine trusts no code yet, and each page
 * is guarded as it is looked at; one that goes into KVM guards what others have decoded already. It
 * is cleared at the first guarded store that finds no vCPU in the software engine any more: a vCPU
 * that is away for one instruction must not cost two rounds of mprotect().
 */
#include <sys/mman.h>

#include "kvm/kvm_priv.h"

#define PAGE  4096ull
#define CHUNK (2ull << 20)

void kvm_alias_map(KvmVm *kvm, KvmSlot *s)
{
    if (!kvm->guards || s->ram.readonly || s->ram.fd < 0)
        return;
    void *p = mmap(NULL, s->ram.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->ram.fd,
                   (off_t)s->ram.fd_offset);
    if (p == MAP_FAILED)
        return;
    s->alias = p;
    s->guarded = g_malloc0(s->ram.size / PAGE / 8 + 8);
}

void kvm_alias_unmap(KvmSlot *s)
{
    if (s->alias)
        munmap(s->alias, s->ram.size);
    g_free(s->guarded);
    s->alias = NULL;
    s->guarded = NULL;
}

static KvmSlot *slot_at(KvmVm *kvm, gpa_t gpa)
{
    for (unsigned id = 0; id < MEMMAP_MAX; id++) {
        KvmSlot *s = &kvm->slot[id];
        if (s->ram.size && gpa >= s->ram.gpa && gpa - s->ram.gpa < s->ram.size)
            return s->alias ? s : NULL;
    }
    return NULL;
}

static bool is_guarded(const KvmSlot *s, uint64_t page)
{
    return s->guarded[page / 64] >> (page % 64) & 1;
}

/* Lock held. */
static void guard(KvmVm *kvm, KvmSlot *s, uint64_t offset)
{
    uint64_t from = offset & ~(PAGE - 1), to = from + PAGE;
    if (is_guarded(s, from / PAGE))
        return;
    if (mprotect(s->alias + from, to - from, PROT_READ) < 0) {
        /* Each page by itself is a mapping, of which a process may have so many and no more: then
         * pages around it are guarded with it, which makes one mapping of many. */
        from &= ~(CHUNK - 1);
        to = MIN_OF(from + CHUNK, s->ram.size);
        while (mprotect(s->alias + from, to - from, PROT_READ) < 0 &&
               (from > 0 || to < s->ram.size)) {
            from = 0;
            to = s->ram.size;
        }
    }
    for (uint64_t page = from / PAGE; page < to / PAGE; page++)
        s->guarded[page / 64] |= BIT(page % 64);
    fresh_map_forget(&kvm->fresh, s->ram.gpa + from, to - from);
}

static void guard_page(VmCommon *vm, gpa_t page)
{
    KvmVm *kvm = vm->kvm;
    g_mutex_lock(&kvm->guard_lock);
    KvmSlot *s = slot_at(kvm, page);
    if (s && vm->guard)
        guard(kvm, s, page - s->ram.gpa);
    g_mutex_unlock(&kvm->guard_lock);
}

/* Somebody has decoded code again, or not: told under the lock, see guard_page(). */
static void release_page(VmCommon *vm, gpa_t gpa)
{
    KvmVm *kvm = vm->kvm;
    g_mutex_lock(&kvm->guard_lock);
    KvmSlot *s = slot_at(kvm, gpa);
    uint64_t page = s ? (gpa - s->ram.gpa) / PAGE : 0;
    if (s && is_guarded(s, page) && !vm->has_code(vm, gpa) &&
        mprotect(s->alias + page * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0)
        s->guarded[page / 64] &= ~BIT(page % 64);
    g_mutex_unlock(&kvm->guard_lock);
}

/* Lock held. */
static void release_all(VmCommon *vm, KvmVm *kvm)
{
    for (unsigned id = 0; id < MEMMAP_MAX; id++) {
        KvmSlot *s = &kvm->slot[id];
        if (!s->alias)
            continue;
        mprotect(s->alias, s->ram.size, PROT_READ | PROT_WRITE);
        memset(s->guarded, 0, s->ram.size / PAGE / 8 + 8);
    }
    vm->guard = false;
}

/* Lock held: what software engines have decoded while nobody was in KVM. */
static void guard_all(VmCommon *vm, KvmVm *kvm)
{
    for (unsigned id = 0; id < MEMMAP_MAX && vm->has_code; id++) {
        KvmSlot *s = &kvm->slot[id];
        for (uint64_t at = 0; s->alias && at < s->ram.size; at += PAGE)
            if (vm->has_code(vm, s->ram.gpa + at))
                guard(kvm, s, at);
    }
}

void kvm_guard_init(VmCommon *vm)
{
    KvmVm *kvm = vm->kvm;
    kvm->guards = vm->n_vcpus > 1 && !kvm->host->shadow_tables;
    vm->guard_page = guard_page;
    vm->release_page = release_page;
}

void kvm_guard_carry(VmCommon *vm, const KvmVm *was)
{
    KvmVm *kvm = vm->kvm;
    vm->guard_page = guard_page;
    vm->release_page = release_page;
    if (kvm == was)
        return;
    kvm->in_kvm = was->in_kvm;
    if (vm->guard)
        guard_all(vm, kvm);
}

void kvm_guard_engine(Vcpu *v, bool in_kvm)
{
    VmCommon *vm = v->vm;
    KvmVm *kvm = vm->kvm;
    if (!kvm || !kvm->guards)
        return;
    g_mutex_lock(&kvm->guard_lock);
    if (in_kvm)
        kvm->in_kvm |= BIT(v->id & 63);
    else
        kvm->in_kvm &= ~BIT(v->id & 63);
    unsigned n = (unsigned)__builtin_popcountll(kvm->in_kvm);
    if (!vm->guard && n && n < vm->n_vcpus) {
        vm->guard = true;
        if (in_kvm)
            guard_all(vm, kvm);
    }
    g_mutex_unlock(&kvm->guard_lock);
}

bool kvm_guard_fault(Vcpu *v)
{
    VmCommon *vm = v->vm;
    KvmVm *kvm = vm->kvm;
    g_mutex_lock(&kvm->guard_lock);
    bool mixed = vm->guard,
         alone = mixed && (unsigned)__builtin_popcountll(kvm->in_kvm) >= vm->n_vcpus;
    if (alone)
        release_all(vm, kvm);
    g_mutex_unlock(&kvm->guard_lock);
    kvm_of(v)->guard_retry = alone;
    return mixed;
}

bool kvm_guard_store(Vcpu *v, gpa_t gpa, const void *data, unsigned len)
{
    const RamSlot *ram = memmap_find(v->vm->mem, gpa);
    if (!kvm_of(v)->vm->guards || !ram || ram->readonly || gpa - ram->gpa + len > ram->size)
        return false;
    uint8_t *to = ram->host + (gpa - ram->gpa);
    switch (len) { /* one store each: other vCPUs must not see half of one */
    case 1:
        *to = *(const uint8_t *)data;
        break;
    case 2:
        memcpy(to, data, 2);
        break;
    case 4:
        memcpy(to, data, 4);
        break;
    case 8:
        memcpy(to, data, 8);
        break;
    default:
        memcpy(to, data, len);
    }
    if (v->vm->code_written)
        v->vm->code_written(v, gpa, len);
    return true;
}
