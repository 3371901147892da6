/* A vCPU with its own copy of the guest's RAM, and nothing else of a machine. */
#include "diff/lockstep.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

bool slot_data(const RamSlot *s, uint64_t *at, uint64_t *len)
{
    if (*at >= s->size)
        return false;
    if (s->fd < 0) {
        *len = s->size - *at;
        return true;
    }
    off_t data = lseek(s->fd, (off_t)(s->fd_offset + *at), SEEK_DATA);
    if (data < 0 || (uint64_t)data >= s->fd_offset + s->size)
        return false; /* only holes behind */
    off_t hole = lseek(s->fd, data, SEEK_HOLE);
    *at = (uint64_t)data - s->fd_offset;
    *len = MIN_OF((uint64_t)hole - s->fd_offset, s->size) - *at;
    return true;
}

static bool slot_new(RamSlot *s, const RamSlot *like, GError **err)
{
    *s = (RamSlot){.gpa = like->gpa, .size = like->size, .readonly = like->readonly};
    s->fd = memfd_create("tandem-twin", MFD_CLOEXEC);
    if (s->fd >= 0 && ftruncate(s->fd, (off_t)s->size) == 0) {
        void *p = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->fd, 0);
        if (p != MAP_FAILED) {
            s->host = p;
            return true;
        }
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "no memory for a second copy of the guest's RAM (%" G_GUINT64_FORMAT " KiB): %s",
                s->size >> 10, g_strerror(errno));
    if (s->fd >= 0)
        close(s->fd);
    return false;
}

static void slot_free(RamSlot *s)
{
    munmap(s->host, s->size);
    close(s->fd);
}

static void slot_copy(RamSlot *to, const RamSlot *from)
{
    if (!from->host)
        return; /* a map without memory: all zeros */
    /* What is a hole in `from` must become one here. */
    if (fallocate(to->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)to->size) < 0)
        memset(to->host, 0, to->size);
    for (uint64_t at = 0, len; slot_data(from, &at, &len); at += len)
        memcpy(to->host + at, from->host + at, len);
}

void twin_copy_ram(Twin *t, const MemMap *like)
{
    for (unsigned i = 0; i < t->mem.n; i++)
        slot_copy(&t->mem.slot[i], &like->slot[i]);
}

/* What is a hole in `from` is zeros in `to`. */
static void slot_give(const RamSlot *from, RamSlot *to)
{
    for (uint64_t at = 0, len; slot_data(from, &at, &len); at += len)
        for (uint64_t k = at; k < at + len; k += 4096)
            if (memcmp(to->host + k, from->host + k, 4096) != 0)
                memcpy(to->host + k, from->host + k, 4096);
    for (uint64_t at = 0, len; slot_data(to, &at, &len); at += 4096) {
        uint64_t data = at, data_len;
        if (!slot_data(from, &data, &data_len) || data > at)
            memset(to->host + at, 0, 4096);
    }
}

void twin_give_ram(const Twin *t, const MemMap *to)
{
    for (unsigned i = 0; i < t->mem.n; i++) {
        RamSlot slot = to->slot[i];
        if (!slot.readonly)
            slot_give(&t->mem.slot[i], &slot);
    }
}

bool twin_follow_map(Twin *t, const MemMap *like, GError **err)
{
    MemMap map = {.gen = t->mem.gen + 1};
    bool kept[MEMMAP_MAX] = {false};
    for (unsigned i = 0; i < like->n; i++) {
        const RamSlot *l = &like->slot[i];
        RamSlot *s = &map.slot[map.n];
        unsigned k = 0;
        while (k < t->mem.n &&
               (kept[k] || t->mem.slot[k].gpa != l->gpa || t->mem.slot[k].size != l->size ||
                t->mem.slot[k].readonly != l->readonly))
            k++;
        if (k < t->mem.n) {
            kept[k] = true;
            *s = t->mem.slot[k];
        } else {
            if (!slot_new(s, l, err))
                return false;
            slot_copy(s, l);
        }
        map.n++;
    }
    for (unsigned k = 0; k < t->mem.n; k++)
        if (!kept[k])
            slot_free(&t->mem.slot[k]);
    t->mem = map;
    return !t->vcpu_ready[0] || !t->engine->map_changed || t->engine->map_changed(&t->vm, err);
}

Twin *twin_new(const VmCommon *like, const Engine *e, const VcpuBus *bus, void *tap, GError **err)
{
    Twin *t = g_new0(Twin, 1);
    t->engine = e;
    t->cpuid = *like->cpuid;
    for (unsigned i = 0; i < like->n_vcpus; i++) {
        t->vcpus[i] = vcpu_alloc(err);
        if (!t->vcpus[i]) {
            twin_free(t);
            return NULL;
        }
        t->vcpus[i]->id = (int)i;
    }
    t->v = t->vcpus[0];
    t->vm = (VmCommon){.mem = &t->mem,
                       .clock = like->clock,
                       .bus = bus,
                       .cpuid = &t->cpuid,
                       .vcpu = t->vcpus,
                       .n_vcpus = like->n_vcpus,
                       .tsc_offset_fixed = like->tsc_offset_fixed,
                       .tap = tap};
    for (unsigned i = 0; i < like->n_vcpus; i++) {
        t->vcpus[i]->vm = &t->vm;
        t->vcpus[i]->thread = pthread_self();
        t->vcpus[i]->engine = e;
    }
    if (!twin_follow_map(t, like->mem, err)) {
        twin_free(t);
        return NULL;
    }
    t->vm_ready = !e->vm_init || e->vm_init(&t->vm, err);
    bool ok = t->vm_ready;
    for (unsigned i = 0; ok && i < like->n_vcpus; i++)
        ok = t->vcpu_ready[i] = !e->vcpu_init || e->vcpu_init(t->vcpus[i], err);
    if (ok && (!e->map_changed || e->map_changed(&t->vm, err)))
        return t;
    twin_free(t);
    return NULL;
}

void twin_free(Twin *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < LS_VCPUS && t->vcpus[i]; i++) {
        if (t->vcpu_ready[i] && t->engine->vcpu_free)
            t->engine->vcpu_free(t->vcpus[i]);
        if (t->vm_ready && t->engine->is_software)
            engine_interp.vcpu_free(t->vcpus[i]); /* of which a translator shares the data */
    }
    if (t->vm_ready && t->engine->vm_free)
        t->engine->vm_free(&t->vm);
    for (unsigned i = 0; i < t->mem.n; i++)
        slot_free(&t->mem.slot[i]);
    for (unsigned i = 0; i < LS_VCPUS; i++)
        vcpu_release(t->vcpus[i]);
    g_free(t);
}
