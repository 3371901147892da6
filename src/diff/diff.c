/* Which mode of `tandem diff` is asked for. */
#include "diff/diff.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "diff/modes.h"

typedef struct Mode {
    const char *name, *arguments, *help;
    int (*run)(int argc, char *argv[]);
} Mode;

static const Mode modes[] = {
#define MODE(id, arguments, help) {#id, arguments, help, diff_##id},
#include "diff/modes.def"
#undef MODE
    {NULL, NULL, NULL, NULL},
};

static void usage(FILE *f)
{
    fputs("usage: tandem diff MODE ...; 'tandem diff MODE --help' says more\n\n", f);
    for (const Mode *m = modes; m->name; m++)
        fprintf(f, "  %-9s %s\n", m->name, m->help);
}

int diff_main(int argc, char *argv[])
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        usage(stdout);
        return 0;
    }
    for (const Mode *m = modes; m->name; m++) {
        if (strcmp(argv[1], m->name) != 0)
            continue;
        g_autofree char *name = g_strconcat("tandem diff ", m->name, NULL); /* for --help */
        g_set_prgname(name);
        return m->run(argc - 1, argv + 1);
    }
    warn_user("diff: no mode '%s'", argv[1]);
    usage(stderr);
    return 2;
}
