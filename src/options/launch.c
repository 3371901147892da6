/* From the command line to what a machine is made of. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "options/options.h"

bool options_open_chardev(CharDev **out, const char *option, unsigned n, const char *spec,
                          GError **err)
{
    if (!chardev_open(out, spec, err)) {
        g_prefix_error(err, "-%s %s: ", option, spec);
        return false;
    }
    const char *name = chardev_describe(*out);
    const char *pty = strstr(name, "pty:");
    if (pty) { /* the words scripts look for */
        printf("char device redirected to %s (label %s%u)\n", pty + strlen("pty:"), option, n);
        fflush(stdout);
    }
    return true;
}

bool options_open(Options *o, GError **err)
{
    o->cfg.devices = (const char *const *)o->devices->pdata;
    o->cfg.globals = (const char *const *)o->globals->pdata;
    o->cfg.policies = (const char *const *)o->policies->pdata;
    o->cfg.symbols = (const char *const *)o->symbols->pdata;
    for (guint i = 0; i < o->serial->len; i++) {
        if (!options_open_chardev(&o->cfg.serial[i], "serial", i, g_ptr_array_index(o->serial, i),
                                  err))
            return false;
    }
    return !o->debugcon || options_open_chardev(&o->cfg.debugcon, "debugcon", 0, o->debugcon, err);
}

void options_close(Options *o)
{
    chardev_free(o->cfg.debugcon);
    o->cfg.debugcon = NULL;
    for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
        chardev_free(o->cfg.serial[i]);
        o->cfg.serial[i] = NULL;
    }
}
