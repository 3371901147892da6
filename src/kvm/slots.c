/* Memory slots: KVM's view of the MemMap, and its dirty log. Main thread, vCPUs stopped. */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>

static bool set_region(KvmVm *kvm, unsigned id, const RamSlot *ram, const uint8_t *alias,
                       uint32_t flags, GError **err)
{
    struct kvm_userspace_memory_region r = {
        .slot = id,
        .flags = flags,
        .guest_phys_addr = ram->gpa,
        .memory_size = ram->size,
        .userspace_addr = (uintptr_t)(alias ? alias : ram->host),
    };
    if (ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &r) == 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "KVM_SET_USER_MEMORY_REGION(slot %u, %#" G_GINT64_MODIFIER "x, %#" G_GINT64_MODIFIER
                "x bytes): %s",
                id, ram->gpa, ram->size, g_strerror(errno));
    return false;
}

static bool drop(KvmVm *kvm, unsigned id, GError **err)
{
    RamSlot none = {.gpa = kvm->slot[id].ram.gpa};
    if (!set_region(kvm, id, &none, NULL, 0, err))
        return false;
    fresh_map_forget(&kvm->fresh, none.gpa, kvm->slot[id].ram.size);
    kvm_alias_unmap(&kvm->slot[id]);
    kvm->slot[id] = (KvmSlot){.ram.size = 0};
    return true;
}

static uint32_t slot_flags(const KvmVm *kvm, const RamSlot *ram)
{
    return (ram->readonly ? KVM_MEM_READONLY : 0) |
           (kvm->dirty_log && !ram->readonly ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

static bool same(const RamSlot *a, const RamSlot *b)
{
    return a->gpa == b->gpa && a->size == b->size && a->host == b->host &&
           a->readonly == b->readonly;
}

static const RamSlot *in_map(const MemMap *map, const RamSlot *ram)
{
    for (unsigned i = 0; i < map->n; i++)
        if (same(&map->slot[i], ram))
            return &map->slot[i];
    return NULL;
}

static int slot_of(const KvmVm *kvm, const RamSlot *ram)
{
    for (unsigned id = 0; id < MEMMAP_MAX; id++)
        if (kvm->slot[id].ram.size && same(&kvm->slot[id].ram, ram))
            return (int)id;
    return -1;
}

/* What is gone goes first: KVM refuses overlaps, and a slot cannot turn read-only in place. */
bool kvm_slots_sync(VmCommon *vm, GError **err)
{
    KvmVm *kvm = vm->kvm;
    const MemMap *map = vm->mem;

    for (unsigned id = 0; id < MEMMAP_MAX; id++)
        if (kvm->slot[id].ram.size && !in_map(map, &kvm->slot[id].ram) && !drop(kvm, id, err))
            return false;
    for (unsigned i = 0; i < map->n; i++) {
        const RamSlot *ram = &map->slot[i];
        int id = slot_of(kvm, ram);
        uint32_t flags = slot_flags(kvm, ram);
        if (id >= 0 && kvm->slot[id].flags == flags)
            continue;
        for (unsigned n = 0; id < 0 && n < MEMMAP_MAX; n++)
            if (!kvm->slot[n].ram.size)
                id = (int)n;
        KvmSlot *s = &kvm->slot[id], new = {.ram = *ram};
        if (!s->ram.size)
            kvm_alias_map(kvm, &new);
        else
            new = *s;
        if (!set_region(kvm, (unsigned)id, ram, new.alias, flags, err)) {
            if (!s->ram.size)
                kvm_alias_unmap(&new);
            return false;
        }
        new.flags = flags;
        *s = new;
        if (kvm->host->cap[CAP_PRE_FAULT_MEMORY])
            fresh_map_grow(&kvm->fresh, ram->gpa + ram->size);
    }
    return true;
}

bool kvm_dirty_log(VmCommon *vm, bool on, GError **err)
{
    KvmVm *kvm = vm->kvm;
    kvm->dirty_log = on;
    return kvm_slots_sync(vm, err);
}

bool kvm_dirty_fetch(VmCommon *vm, gpa_t slot_gpa, uint64_t *bitmap, GError **err)
{
    KvmVm *kvm = vm->kvm;
    for (unsigned id = 0; id < MEMMAP_MAX; id++) {
        const KvmSlot *s = &kvm->slot[id];
        if (!s->ram.size || s->ram.gpa != slot_gpa || !(s->flags & KVM_MEM_LOG_DIRTY_PAGES))
            continue;
        struct kvm_dirty_log log = {.slot = id, .dirty_bitmap = bitmap};
        if (ioctl(kvm->fd, KVM_GET_DIRTY_LOG, &log) == 0)
            return true;
        return kvm_error(err, "KVM_GET_DIRTY_LOG");
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "no slot with a dirty log begins at %#" G_GINT64_MODIFIER "x", slot_gpa);
    return false;
}
