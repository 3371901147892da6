/* Linux's boot protocol (Documentation/arch/x86/boot.rst), from 2.02; offsets are those of
 * setup_header. */
#include "machine/loader_priv.h"

#include <string.h>
#include <sys/random.h>

#include "base/log.h"

enum {
    H_SETUP_SECTS = 0x1f1,
    H_SYSSIZE = 0x1f4,
    H_BOOT_FLAG = 0x1fe,
    H_JUMP = 0x200, /* short jump: its target is the header's end */
    H_MAGIC = 0x202,
    H_VERSION = 0x206,
    H_LOADFLAGS = 0x211,
    H_CODE32_START = 0x214,
    H_INITRD_ADDR_MAX = 0x22c,
    H_XLOADFLAGS = 0x236,
    H_CMDLINE_SIZE = 0x238,
    H_SETUP_DATA = 0x250,
    H_PREF_ADDRESS = 0x258,
    H_INIT_SIZE = 0x260,
    H_END = 0x290, /* nothing after it is known to any protocol */

    LOADED_HIGH = 1 << 0,
    XLF_KERNEL_64 = 1 << 0,

    LOAD_ADDRESS = 0x100000,
    ENTRY_64 = 0x200, /* from the start of the protected-mode code */

    /* struct setup_data: next, type, length, data */
    SETUP_DATA_HEAD = 16,
    SETUP_RNG_SEED = 9,
    SEED_BYTES = 32,
};

bool is_bzimage(const Image *k)
{
    return k->size >= H_VERSION && le16(k->data + H_BOOT_FLAG) == 0xaa55 &&
           !memcmp(k->data + H_MAGIC, "HdrS", 4);
}

/*
 * A seed for the kernel's random numbers, which it wipes when it has read it. Without one, on a
 * processor without RDRAND, it has none worth the name until it has seen many interrupts, and makes
 * those that it gives out meanwhile at great cost.
 */
static void put_seed(const Loader *l, uint8_t *setup_data)
{
    uint8_t d[SETUP_DATA_HEAD + SEED_BYTES] = {0};
    if (getrandom(d + SETUP_DATA_HEAD, SEED_BYTES, 0) != SEED_BYTES)
        return;
    put_le(d + 8, SETUP_RNG_SEED, 4);
    put_le(d + 12, SEED_BYTES, 4);
    put_ram(l->map, BOOT_SEED, d, sizeof(d));
    put_le(setup_data, BOOT_SEED, 8);
}

bool load_bzimage(Loader *l, GError **err)
{
    const Image *k = &l->kernel;
    uint8_t h[H_END] = {0};

    if (k->size < H_VERSION + 2)
        return kernel_error(l, err, "truncated: it ends inside its setup header");
    unsigned end = MIN_OF(H_MAGIC + k->data[H_JUMP + 1], H_END);
    if (k->size < end)
        return kernel_error(l, err, "truncated: it ends inside its setup header");
    memcpy(h + H_SETUP_SECTS, k->data + H_SETUP_SECTS, end - H_SETUP_SECTS);

    unsigned version = le16(h + H_VERSION);
    if (version < 0x202)
        return kernel_error(l, err, "its boot protocol %u.%02u is older than 2.02", version >> 8,
                            version & 0xff);
    if (!(h[H_LOADFLAGS] & LOADED_HIGH))
        return kernel_error(l, err, "a zImage, which is loaded low; only bzImages are supported");

    uint64_t setup = ((h[H_SETUP_SECTS] ? h[H_SETUP_SECTS] : 4) + 1) * 512u;
    if (setup >= k->size)
        return kernel_error(l, err,
                            "its setup code of %" G_GUINT64_FORMAT
                            " bytes reaches past the end of the file (%" G_GUINT64_FORMAT " bytes)",
                            setup, k->size);
    uint64_t size = k->size - setup;
    /* syssize had 16 bits before 2.04; some builds leave the last paragraph short. */
    uint64_t stated = 16ull * (version >= 0x204 ? le32(h + H_SYSSIZE) : le16(h + H_SYSSIZE));
    if (size + 15 < stated)
        return kernel_error(l, err,
                            "truncated: %" G_GUINT64_FORMAT
                            " bytes of kernel code follow, the header "
                            "says %" G_GUINT64_FORMAT,
                            size, stated);

    gpa_t at = LOAD_ADDRESS;
    uint64_t need = size;
    if (version >= 0x20a) {
        at = le64(h + H_PREF_ADDRESS);
        need = MAX_OF(need, le32(h + H_INIT_SIZE));
    }
    if (at < LOAD_ADDRESS)
        return kernel_error(l, err,
                            "it wants to be loaded at %#" G_GINT64_MODIFIER "x, below 1 MiB", at);
    if (!check_place(l, "its code with room to unpack", at, need, err))
        return false;

    bool entry64 = version >= 0x20c && h[H_XLOADFLAGS] & XLF_KERNEL_64;
    if (entry64 && size <= ENTRY_64)
        return kernel_error(l, err, "truncated: it ends before its 64-bit entry point");
    gpa_t initrd;
    uint64_t initrd_max = version >= 0x203 ? le32(h + H_INITRD_ADDR_MAX) : 0x37ffffff;
    if (!check_cmdline(l, version >= 0x206 ? le32(h + H_CMDLINE_SIZE) : 255, err) ||
        !place_initrd(l, at + need, initrd_max, &initrd, err))
        return false;

    put_ram(l->map, at, k->data + setup, size);
    put_le(h + H_CODE32_START, at, 4);
    if (version >= 0x209)
        put_seed(l, h + H_SETUP_DATA);
    put_boot_params(l, h + H_SETUP_SECTS, end - H_SETUP_SECTS, initrd);
    if (entry64)
        enter_long(l, at + ENTRY_64);
    else
        enter_flat32(l, at);
    l->boot->gpr[RSI] = BOOT_PARAMS;
    return true;
}
