/*
 * Guest memory: RAM, mapped once, used by every engine; a memfd for the BIOS image.
 *
 * RAM is in huge pages; in a memfd the host is asked for them one by one where the software engine
 * uses much of them (huge.h).
 * A machine that starts in KVM, which does not go that way, has anonymous memory. Where somebody
 * maps it twice (kvm/guard.c) or looks for what was never touched (lockstep): a memfd without huge
 * pages.
 *
 * Map of a PC, low to high: RAM to 640 KiB, the VGA hole, 640 KiB-1 MiB of shadow blocks that the
 * host bridge's PAM registers point at RAM or ROM, RAM to 3 GiB, devices, the BIOS ending at 4 GiB,
 * RAM again.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "devices/i440fx.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

#define BIOS_MAX (16ull << 20)

static bool block_fd(RamBlock *b, const char *name, uint64_t size, GError **err)
{
    b->size = size;
    b->fd = memfd_create(name, MFD_CLOEXEC);
    if (b->fd >= 0 && ftruncate(b->fd, (off_t)size) == 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "cannot make %" G_GUINT64_FORMAT " MiB of %s: %s",
                size >> 20, name, g_strerror(errno));
    return false;
}

static bool block_new(RamBlock *b, const char *name, uint64_t size, GError **err)
{
    if (!block_fd(b, name, size, err))
        return false;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, b->fd, 0);
    if (p == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "cannot map %" G_GUINT64_FORMAT " MiB of %s: %s",
                    size >> 20, name, g_strerror(errno));
        return false;
    }
    b->host = p;
    return true;
}

/* Aligned, so that a huge page of the guest is one of the host. */
static bool ram_anonymous(RamBlock *b, uint64_t size, GError **err)
{
    uint64_t room = size + HUGE_PAGE;
    uint8_t *p = mmap(NULL, room, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "cannot map %" G_GUINT64_FORMAT " MiB of RAM: %s", size >> 20,
                    g_strerror(errno));
        return false;
    }
    b->size = size;
    b->host = (uint8_t *)(((uintptr_t)p + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (b->host > p)
        munmap(p, (size_t)(b->host - p));
    if (b->host + size < p + room)
        munmap(b->host + size, (size_t)(p + room - (b->host + size)));
    (void)madvise(b->host, size, MADV_HUGEPAGE); /* a host without has small pages */
    return true;
}

static void block_free(RamBlock *b)
{
    huge_pages_free(b->huge);
    if (b->host)
        munmap(b->host, b->size);
    if (b->fd >= 0)
        close(b->fd);
    *b = (RamBlock){.fd = -1};
}

/*
 * The same in a memfd, whose pages can be seen at several addresses: so the translator shows
 * pages that follow each other in a program side by side (jit/window.c). False: this host makes no
 * huge pages of a memfd's.
 */
static bool ram_shared(RamBlock *b, uint64_t size)
{
    if (size < HUGE_PAGE || !huge_pages_possible() || !ram_anonymous(b, size, NULL))
        return false;
    RamBlock file = *b;
    if (block_fd(&file, "tandem-ram", size, NULL) &&
        mmap(b->host, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file.fd,
             0) == b->host) {
        file.huge = huge_pages_new(file.host, size);
        *b = file;
        return true;
    }
    block_free(&file);
    *b = (RamBlock){.fd = -1};
    return false;
}

static bool load_bios(Machine *m, GError **err)
{
    g_autofree char *data = NULL;
    gsize len;
    struct stat st;
    if (m->cfg.bios_image) {
        if (!block_new(&m->bios, "tandem-bios", m->cfg.bios_image_size, err))
            return false;
        memcpy(m->bios.host, m->cfg.bios_image, m->cfg.bios_image_size);
        return true;
    }
    if (stat(m->cfg.bios, &st) < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-bios %s: %s", m->cfg.bios, g_strerror(errno));
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-bios %s: %s", m->cfg.bios,
                    S_ISDIR(st.st_mode) ? "is a directory" : "not a regular file");
        return false;
    }
    if (st.st_size == 0 || (uint64_t)st.st_size > BIOS_MAX || st.st_size % 65536 != 0) {
        g_set_error(
            err, TANDEM_ERROR, ERR_USAGE,
            "-bios %s: not a BIOS image: its size must be a multiple of 64 KiB, at most 16 MiB",
            m->cfg.bios);
        return false;
    }
    GError *read_err = NULL;
    if (!g_file_get_contents(m->cfg.bios, &data, &len, &read_err)) {
        g_propagate_prefixed_error(err, read_err, "-bios: ");
        return false;
    }
    if (!block_new(&m->bios, "tandem-bios", len, err))
        return false;
    memcpy(m->bios.host, data, len);
    return true;
}

bool memory_init(Machine *m, GError **err)
{
    m->ram.fd = m->bios.fd = -1;
    bool kvm = accel_wants_kvm(m) && kvm_available(NULL);
    bool file = m->cfg.ram_file || (m->vm.n_vcpus > 1 && kvm);
    return (file ? block_new(&m->ram, "tandem-ram", m->cfg.ram_bytes, err)
                 : ((!kvm || accel_starts_in_software(m)) &&
                    ram_shared(&m->ram, m->cfg.ram_bytes)) ||
                       ram_anonymous(&m->ram, m->cfg.ram_bytes, err)) &&
           (!(m->cfg.bios || m->cfg.bios_image) || load_bios(m, err));
}

void memory_free(Machine *m)
{
    block_free(&m->ram);
    block_free(&m->bios);
}

static void add_slot(MemMap *map, gpa_t gpa, const RamBlock *b, uint64_t offset, uint64_t size,
                     bool ro)
{
    if (!size)
        return;
    RamSlot *last = map->n ? &map->slot[map->n - 1] : NULL;
    if (last && last->gpa + last->size == gpa && last->fd == b->fd && last->readonly == ro &&
        last->fd_offset + last->size == offset) {
        last->size += size;
        return;
    }
    g_assert(map->n < MEMMAP_MAX);
    map->slot[map->n++] = (RamSlot){.gpa = gpa,
                                    .size = size,
                                    .host = b->host + offset,
                                    .fd = b->fd,
                                    .fd_offset = offset,
                                    .huge = b->huge,
                                    .readonly = ro};
}

/*
 * 0xc0000-0xfffff in blocks of 16 KiB. A block that reads from ROM shows the BIOS's last 256 KiB;
 * one that reads from RAM but may not be written is RAM in a read-only slot. "Write RAM, read ROM",
 * which BIOSes use for a moment while they copy themselves, has no slot of its own: such a block is
 * RAM holding the ROM's bytes.
 */
static void add_shadow(Machine *m, MemMap *map)
{
    for (gpa_t a = PC_ROM_SHADOW; a < 0x100000; a += PC_SHADOW_BLOCK) {
        bool read_ram = true, write_ram = true;
        if (m->pc.i440fx)
            i440fx_pam(m->pc.i440fx, a, &read_ram, &write_ram);
        uint64_t from_end = 0x100000 - a;
        bool in_bios = m->bios.host && from_end <= MIN_OF(m->bios.size, 0x40000);
        if (read_ram) {
            add_slot(map, a, &m->ram, a, PC_SHADOW_BLOCK, !write_ram);
        } else if (in_bios && write_ram) {
            memcpy(m->ram.host + a, m->bios.host + m->bios.size - from_end, PC_SHADOW_BLOCK);
            add_slot(map, a, &m->ram, a, PC_SHADOW_BLOCK, false);
        } else if (in_bios) {
            add_slot(map, a, &m->bios, m->bios.size - from_end, PC_SHADOW_BLOCK, true);
        }
    }
}

void memory_map_build(Machine *m)
{
    MemMap map = {.gen = m->mem.gen + 1};
    uint64_t low = MIN_OF(m->ram.size, PC_LOW_RAM_MAX);

    add_slot(&map, 0, &m->ram, 0, MIN_OF(low, 0xa0000), false);
    if (low >= 0x100000) {
        add_shadow(m, &map);
        add_slot(&map, 0x100000, &m->ram, 0x100000, low - 0x100000, false);
    }
    if (m->bios.host)
        add_slot(&map, PC_HIGH_RAM - m->bios.size, &m->bios, 0, m->bios.size, true);
    if (m->ram.size > low)
        add_slot(&map, PC_HIGH_RAM, &m->ram, low, m->ram.size - low, false);
    m->mem = map;
}

/* On the vCPU that wrote the PAM register, at the boundary after it. */
static void remap_work(Vcpu *self, void *opaque)
{
    Machine *m = opaque;
    /* Two vCPUs remapping at once: the second lets itself be paused by the first and comes back. */
    if (pthread_mutex_trylock(&m->remap_lock)) {
        vcpu_queue(self, remap_work, m);
        return;
    }
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        if (m->vcpus[i] != self)
            vcpu_pause(m->vcpus[i]);
    }
    machine_lock(m);
    memory_map_build(m);
    machine_unlock(m);
    for (unsigned e = 0; e < ENGINE_N; e++) {
        GError *err = NULL;
        if (m->engine[e] && m->engine[e]->map_changed && !m->engine[e]->map_changed(&m->vm, &err)) {
            warn_user("the memory map could not be changed: %s", err->message);
            g_error_free(err);
        }
    }
    for (unsigned i = 0; i < m->vm.n_vcpus; i++) {
        if (m->vcpus[i] != self)
            vcpu_resume(m->vcpus[i]);
    }
    pthread_mutex_unlock(&m->remap_lock);
}

void memory_remap(void *machine)
{
    Machine *m = machine;
    for (unsigned i = 0; i < m->vcpus_started; i++) {
        if (vcpu_on_own_thread(m->vcpus[i])) {
            vcpu_queue(m->vcpus[i], remap_work, m);
            return;
        }
    }
    /* From a reset, with everything paused: whoever resets builds the map afterwards. */
}
