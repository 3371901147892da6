#include "irqchip_machine.h"

#include <string.h>
#include <unistd.h>

extern const uint8_t irqchip_image[], irqchip_image_end[];

const char *const irqchip_kinds[3] = {"off", "split", "on"};

Machine *m;
bool machine_cpu_pm, machine_kernel_pit;
const char *const *machine_globals;
const Engine *kvm, *soft;
_Atomic uint32_t command, held[2], argument;
char said[4096];
_Atomic unsigned n_said, results;
uint64_t result, result_at_ns;

static _Atomic unsigned counts[256];

void (*_Atomic on_poll)(void);

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    void (*poll)(void) = on_poll;
    if (offset == 0 && poll)
        poll();
    return offset == 0   ? atomic_exchange(&command, NONE)
           : offset == 4 ? argument
                         : held[offset - 2];
}

static void note_result(uint32_t value)
{
    static uint32_t low;
    static bool high;
    if (high) {
        result = (uint64_t)value << 32 | low;
        result_at_ns = clock_ns(m->vm.clock);
        results++;
    }
    low = value;
    high = !high;
}

static void port_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    unsigned n = n_said;
    if (offset == 4)
        note_result((uint32_t)value);
    if (offset != 1)
        return;
    if (n + 1 < sizeof(said)) {
        said[n] = (char)value;
        n_said = n + 1;
    }
    counts[value & 0xff]++;
}

static const IoOps port_ops = {.read = port_read, .write = port_write, .min = 1, .max = 4};

void machine_begin(const char *accel, const char *cpu, const char *irqchip, unsigned cpus)
{
    GError *err = NULL;
    MachineConfig cfg = {.machine = "pc",
                         .accel = accel,
                         .cpu = cpu,
                         .kernel_irqchip = irqchip,
                         .cpu_pm = machine_cpu_pm,
                         .kernel_pit = machine_kernel_pit,
                         .globals = machine_globals,
                         .ram_bytes = 2 << 20,
                         .smp = cpus,
                         .bios_image = irqchip_image,
                         .bios_image_size = (size_t)(irqchip_image_end - irqchip_image),
                         .has_monitor = true};
    memset(said, 0, sizeof(said));
    for (unsigned i = 0; i < ARRAY_LEN(counts); i++)
        counts[i] = 0;
    n_said = results = 0;
    command = NONE;
    on_poll = NULL;
    held[0] = held[1] = argument = 0;
    m = machine_new(&cfg, &err);
    ck_assert_msg(m != NULL, "%s", err ? err->message : "");
    kvm = machine_engine(m, "kvm", NULL);
    soft = machine_engine(m, "interp", NULL);
    ck_assert(soft != NULL);
    io_map(m->board.pio, 0x500, 8, &port_ops, NULL, "test");
    ck_assert(machine_start(m, &err));
}

void machine_end(void)
{
    ck_assert_int_eq(machine_status(m), ST_RUNNING);
    machine_free(m);
}

void serve_for(unsigned us)
{
    uint64_t end = (uint64_t)g_get_monotonic_time() + us;
    do {
        g_main_context_iteration(NULL, FALSE);
        g_usleep(20);
    } while ((uint64_t)g_get_monotonic_time() < end);
}

unsigned count(char c)
{
    return counts[(uint8_t)c];
}

void wait_for(char c, unsigned n)
{
    for (unsigned i = 0; count(c) < n; i++) {
        ck_assert_msg(i < 200000, "no '%c' (%u) in \"%.60s\"", c, n,
                      said + (n_said > 60 ? n_said - 60 : 0));
        serve_for(20);
    }
}

void run_command(enum Command c)
{
    unsigned want = count('.') + 1;
    command = c;
    wait_for('.', want);
}

void interrupts_off(void)
{
    unsigned want = count('a') + 1;
    held[0] = 0;
    command = SERVE;
    wait_for('a', want);
}

void interrupts_on(void)
{
    unsigned want = count('b') + 1;
    held[0] = 1;
    wait_for('b', want);
}

void guest_out(uint16_t port, uint8_t value)
{
    argument = port | (uint32_t)value << 16;
    run_command(PORT_OUT);
}

uint8_t guest_in(uint16_t port)
{
    argument = port;
    run_command(PORT_IN);
    return (uint8_t)result;
}

void go_to(const Engine *e)
{
    GError *err = NULL;
    if (!machine_switch(m, e, -1, &err))
        ck_abort_msg("%s", err->message);
}

void irqchip_start(const char *kind, unsigned cpus)
{
    machine_begin("kvm", NULL, kind, cpus);
    ck_assert(kvm != NULL);
    ck_assert_int_eq(m->vm.irqchip, !strcmp(kind, "off")     ? IRQCHIP_OFF
                                    : !strcmp(kind, "split") ? IRQCHIP_SPLIT
                                                             : IRQCHIP_ON);
}

/*
 * QEMU's SVM, on which the rig runs, now and then delivers an event that VMRUN injects twice, with
 * or without a switch (its exception index is still set when something else interrupts it), and
 * VMRUN does not load the interrupt shadow. There nothing may be lost, and that is all.
 */
bool in_rig(void)
{
    return access("/rig-command", F_OK) == 0;
}

void check_count(char c, unsigned want)
{
    unsigned n = count(c);
    ck_assert_msg(in_rig() ? n >= want : n == want, "'%c' %u times, not %u: \"%.200s\"", c, n, want,
                  said);
}

void step_over_sti(Vcpu *v, void *opaque)
{
    GError *err = NULL;
    unsigned n = 0;
    ck_assert(vcpu_sync_state(v, &err));
    ck_assert(v->engine == soft);
    for (; !(v->st.ev.shadow_sti && v->st.rflags & FL_IF); n++) {
        static const RunLimit one = {.max_insns = 1, .careful = true};
        ck_assert_uint_lt(n, 1000);
        Exit e = soft->run(v, &one);
        ck_assert_msg(e.kind == EXIT_LIMIT || e.kind == EXIT_KICK, "exit %d: %s", e.kind, e.msg);
        if (e.kind == EXIT_KICK)
            vcpu_request_clear(v, VREQ_WORK);
    }
    soft->export_state(v, GROUPS_ALL, &err);
}

void away_for_one(Vcpu *v, void *opaque)
{
    GError *err = NULL;
    if (!vcpu_switch(v, soft, SWITCH_RESCUE, &err))
        ck_abort_msg("%s", err->message);
}
