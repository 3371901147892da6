/* The monitor's inside, shared by the files of this room and its test. */
#ifndef TANDEM_MONITOR_MONITOR_PRIV_H
#define TANDEM_MONITOR_MONITOR_PRIV_H

#include <glib.h>
#include "machine/machine.h"

#define MON_ARGS 3

typedef struct MonFormat { /* of x and xp */
    char format;           /* x d u o c i */
    unsigned size;         /* 1, 2, 4, 8 */
    unsigned count;
} MonFormat;

/* What stays from command to command. */
typedef struct MonState {
    Machine *m;
    unsigned cpu;
    MonFormat last; /* x without a format repeats it */
    bool quit;      /* the user has left */
} MonState;

typedef struct MonCall {
    MonState *mon;
    Machine *m; /* same as mon->m */
    GString *out;
    /* By place in the row's argument list; NULL and 0 where left out. */
    const char *word[MON_ARGS];
    int64_t number[MON_ARGS];
    bool has[MON_ARGS];
    MonFormat format;
} MonCall;

typedef struct MonCommand {
    const char *name, *args, *help;
    void (*fn)(MonCall *);
    const char *alias_of; /* then the rest is empty */
} MonCommand;

/* clang-format off */
#define ALIAS(a, name)
#define COMMAND(name, args, help) void cmd_##name(MonCall *);
#define DASHED(fn, name, args, help) void cmd_##fn(MonCall *);
#define INFO(name, args, help) void info_##name(MonCall *);
#include "monitor/commands.def"
#undef ALIAS
#undef COMMAND
#undef DASHED
#undef INFO
/* clang-format on */

extern const MonCommand mon_commands[], mon_infos[];
extern const unsigned mon_commands_n, mon_infos_n;

/* Runs one line; what it has to say, errors included, is appended. */
void monitor_execute(MonState *, const char *line, GString *out);
/* New strings: what the last word of text may become. */
void monitor_complete(const char *text, GPtrArray *words);
/* "switch kvm|tcg|interp [cpu]" */
void monitor_usage(const MonCommand *, bool info, GString *out);
/* A number, a $register of the selected vCPU, or sums and differences of them. */
bool monitor_expression(MonState *, const char *text, uint64_t *value, GString *why_not);
/* "/8xg"; fields not given keep what f holds. */
bool monitor_format(const char *text, MonFormat *f, GString *why_not);
/* The selected vCPU. */
Vcpu *monitor_vcpu(MonState *);
/* Runs fn on the vCPU's thread with its state in v->st; false, and the reason in out, if it cannot
 * be had. */
bool monitor_with_state(Vcpu *, void (*fn)(Vcpu *, void *), void *opaque, GString *out);

#endif
