/* info pic, info lapic. */
#include "monitor/monitor_priv.h"

void info_pic(MonCall *c)
{
    machine_describe_pic(c->m, c->out);
}

void info_lapic(MonCall *c)
{
    unsigned n = machine_vm(c->m)->n_vcpus;
    gint64 cpu = c->has[0] ? c->number[0] : c->mon->cpu;
    if (cpu < 0 || cpu >= n)
        g_string_append_printf(c->out, "Error: no cpu %" G_GINT64_FORMAT "; there are 0 to %u\n",
                               cpu, n - 1);
    else
        machine_describe_lapic(c->m, (unsigned)cpu, c->out);
}
