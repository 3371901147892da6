/* tandem --demo: a guest of our own, no download, switched while it works, with an account of what
 * happened. */
#ifndef TANDEM_DEMO_DEMO_H
#define TANDEM_DEMO_DEMO_H

#include <glib.h>
#include "base/types.h"
#include "machine/machine.h"

typedef struct DemoOptions {
    const char *accel;          /* as -accel; NULL: kvm:tcg */
    const char *kernel_irqchip; /* as -machine kernel-irqchip */
    bool kernel_pit;            /* as -machine kernel-pit */
    uint64_t switches; /* 0: twice a second for six seconds; else this many, as fast as possible */
    uint64_t rounds;   /* not 0: nothing is switched, each mode ends after so many rounds */
    bool quiet;        /* only the last lines */
    /* NULL, or called before the machine starts; false ends the demo. */
    bool (*prepare)(Machine *, void *opaque, GError **);
    /* NULL, or called when it has stopped; false: it was cut short, nothing is to be judged. */
    bool (*finish)(Machine *, void *opaque);
    void *opaque;
} DemoOptions;

/* Returns the process's exit status: 0 only if every check held. Main thread; runs a GLib main
 * loop. */
int demo_run(const DemoOptions *);

#endif
