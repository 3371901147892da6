/* switch-policy: triggers, added, listed and taken away while the guest runs. */
#include <string.h>

#include "base/nearest.h"
#include "monitor/monitor_priv.h"
#include "switch/policy.h"
#include "switch/record_rip.h"

static void error(MonCall *c, GError *err)
{
    g_string_append_printf(c->out, "Error: %s\n", err->message);
    g_error_free(err);
}

static void add(MonCall *c)
{
    GError *err = NULL;
    unsigned number;
    if (!c->has[1])
        g_string_append(c->out, "Error: which policy? 'switch-policy help' lists what there is\n");
    else if (!machine_policy_add(c->m, c->word[1], &number, c->out, &err))
        error(c, err);
    else
        g_string_append_printf(c->out, "policy %u\n", number);
}

static void list(MonCall *c)
{
    size_t before = c->out->len;
    policies_list(machine_vm(c->m)->policies, c->out);
    if (c->out->len == before)
        g_string_append(c->out, "there are no policies\n");
}

static void delete (MonCall *c)
{
    GError *err = NULL;
    guint64 number = 0;
    if (!c->has[1])
        g_string_append(c->out, "Error: which policy? A number that 'switch-policy list' shows, or "
                                "all\n");
    else if (strcmp(c->word[1], "all") != 0 &&
             !g_ascii_string_to_unsigned(c->word[1], 10, 1, UINT32_MAX, &number, NULL))
        g_string_append_printf(c->out, "Error: '%s' is neither a policy's number nor all\n",
                               c->word[1]);
    else if (!machine_policy_delete(c->m, (unsigned)number, &err))
        error(c, err);
}

static void help(MonCall *c)
{
    policies_help(c->out);
}

void cmd_switch_policy(MonCall *c)
{
    static const struct {
        const char *name;
        void (*fn)(MonCall *);
    } verbs[] = {{"add", add}, {"list", list}, {"delete", delete}, {"help", help}};
    Nearest near = {.typed = c->word[0]};
    for (unsigned i = 0; i < ARRAY_LEN(verbs); i++) {
        if (!strcmp(verbs[i].name, c->word[0])) {
            verbs[i].fn(c);
            return;
        }
        nearest_offer(&near, verbs[i].name);
    }
    g_string_append_printf(c->out, "Error: there are add, list, delete and help, not '%s'",
                           c->word[0]);
    if (near.best)
        g_string_append_printf(c->out, "; did you mean '%s'?", near.best);
    g_string_append_c(c->out, '\n');
}

void cmd_record_rip(MonCall *c)
{
    GError *err = NULL;
    uint64_t n = 0;
    bool stop = c->has[0] && !strcmp(c->word[0], "stop");
    if (!c->has[0])
        rip_record_describe(machine_vm(c->m), c->out);
    else if (!machine_record_rip(c->m, stop ? NULL : c->word[0], &n, &err))
        error(c, err);
    else if (stop)
        g_string_append_printf(c->out, "%" G_GUINT64_FORMAT " instructions\n", n);
}
