/*
 * -global DRIVER.PROPERTY=VALUE: properties of devices that are made by the board, or more than
 * once. Each is a string of MachineConfig.globals, in the form that options.c has checked.
 */
#include <string.h>

#include "base/log.h"
#include "machine/machine_priv.h"

/* Names that QEMU's users know a device by, and what it is called here. */
static const struct {
    const char *name, *device;
} other_name[] = {{"kvm-pit", "i8254"}, {"isa-pit", "i8254"}};

/* The device that `text` is about: up to the '.', in `buf`. */
static const char *driver(const char *text, char *buf, size_t size)
{
    const char *dot = strchr(text, '.');
    g_strlcpy(buf, text, MIN_OF(size, (size_t)(dot - text) + 1));
    for (unsigned i = 0; i < ARRAY_LEN(other_name); i++) {
        if (!strcmp(buf, other_name[i].name))
            return other_name[i].device;
    }
    return buf;
}

bool globals_init(Machine *m, GError **err)
{
    const char *const *g = m->cfg.globals;
    char buf[64];
    for (; g && *g; g++) {
        if (!device_class(driver(*g, buf, sizeof(buf)))) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-global %s: no such device", *g);
            return false;
        }
    }
    return true;
}

void globals_add(Machine *m, const DeviceClass *cls, GHashTable *props)
{
    const char *const *g = m->cfg.globals;
    unsigned n = 0;
    char buf[64];
    while (g && g[n])
        n++;
    for (unsigned i = n; i-- > 0;) { /* the last counts, but -device itself more */
        if (strcmp(driver(g[i], buf, sizeof(buf)), cls->name))
            continue;
        const char *key = strchr(g[i], '.') + 1, *value = strchr(key, '=');
        m->globals_used |= BIT(i & 63);
        g_autofree char *name = g_strndup(key, (gsize)(value - key));
        if (!g_hash_table_contains(props, name))
            g_hash_table_insert(props, g_steal_pointer(&name), g_strdup(value + 1));
    }
}

bool globals_all_used(const Machine *m, GError **err)
{
    const char *const *g = m->cfg.globals;
    for (unsigned i = 0; g && g[i]; i++) {
        if (m->globals_used >> (i & 63) & 1)
            continue;
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-global %s: this machine has no such device, or it has no properties", g[i]);
        return false;
    }
    return true;
}
