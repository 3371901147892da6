/* The interrupt controllers as a whole: what they hold, whoever holds it. */
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "machine/machine_priv.h"

void machine_describe_pic(Machine *m, GString *out)
{
    machine_lock(m);
    m->pc.pic->cls->describe(m->pc.pic, out);
    m->pc.ioapic->cls->describe(m->pc.ioapic, out);
    machine_unlock(m);
}

void machine_describe_lapic(Machine *m, unsigned cpu, GString *out)
{
    machine_lock(m);
    lapic_describe(m->pc.lapic[cpu], out);
    machine_unlock(m);
}
