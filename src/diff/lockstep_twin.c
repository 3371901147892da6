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
    return !t->vcpu_ready || !t->engine->map_changed || t->engine->map_changed(&t->vm, err);
}

Twin *twin_new(const VmCommon *like, const Engine *e, const VcpuBus *bus, void *tap, GError **err)
{
    Twin *t = g_new0(Twin, 1);
    t->engine = e;
    t->cpuid = *like->cpuid;
    t->v = vcpu_alloc(err);
    if (!t->v) {
        g_free(t);
        return NULL;
    }
    t->vcpus[0] = t->v;
    t->vm = (VmCommon){.mem = &t->mem,
                       .clock = like->clock,
                       .bus = bus,
                       .cpuid = &t->cpuid,
                       .vcpu = t->vcpus,
                       .n_vcpus = 1,
                       .tsc_offset_fixed = like->tsc_offset_fixed,
                       .tap = tap};
    t->v->vm = &t->vm;
    t->v->thread = pthread_self();
    t->v->engine = e;
    if (!twin_follow_map(t, like->mem, err)) {
        twin_free(t);
        return NULL;
    }
    t->vm_ready = !e->vm_init || e->vm_init(&t->vm, err);
    t->vcpu_ready = t->vm_ready && (!e->vcpu_init || e->vcpu_init(t->v, err));
    if (t->vcpu_ready && (!e->map_changed || e->map_changed(&t->vm, err)))
        return t;
    twin_free(t);
    return NULL;
}

void twin_free(Twin *t)
{
    if (!t)
        return;
    if (t->vcpu_ready && t->engine->vcpu_free)
        t->engine->vcpu_free(t->v);
    if (t->engine->is_software) /* a translator shares the interpreter's data, which frees it */
        engine_interp.vcpu_free(t->v);
    if (t->vm_ready && t->engine->vm_free)
        t->engine->vm_free(&t->vm);
    for (unsigned i = 0; i < t->mem.n; i++)
        slot_free(&t->mem.slot[i]);
    vcpu_release(t->v);
    g_free(t);
}
