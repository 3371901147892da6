/*
 * A machine with KVM's interrupt controllers, moved between KVM and the software engine while its
 * guest (irqchip_guest.S) sleeps, waits for its start, handles an interrupt or an NMI, or stands
 * behind STI: it goes on as if nothing had happened. Each test with the controllers here, with the
 * local APICs in KVM, and with all of them there.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "irqchip_machine.h"
#include "run_suite.h"

extern const uint8_t irqchip_image[], irqchip_image_end[];

/* What was said since, but that commands were done: in what order a KVM without hardware does that
 * and takes an interrupt of the command's is its own affair. */
static const char *events(unsigned since)
{
    static char text[64];
    unsigned n = 0;
    for (unsigned i = since; i < n_said && n + 1 < sizeof(text); i++) {
        if (said[i] != '.')
            text[n++] = said[i];
    }
    text[n] = 0;
    return text;
}

static void check_events(unsigned since, const char *want)
{
    const char *is = events(since);
    if (!in_rig())
        ck_assert_str_eq(is, want);
}

static void run_state_of(Vcpu *v, void *opaque)
{
    GError *err = NULL;
    vcpu_sync_state(v, &err);
    ck_assert_msg(!err, "%s", err ? err->message : "");
    *(enum RunState *)opaque = v->st.run_state;
}

static void wait_until(unsigned cpu, enum RunState want)
{
    enum RunState is;
    for (unsigned i = 0; i < 5000; i++) {
        vcpu_run_on(m->vcpus[cpu], run_state_of, &is);
        if (is == want)
            return;
        /* Each look stops the vCPU, which on a slow host must not be all that happens to it. */
        serve_for(i < 100 ? 200 : 10000);
    }
    ck_abort_msg("cpu %u is in state %d, not %d", cpu, is, want);
}

/* Without the shadow behind STI an interrupt comes before the HLT that it should end. */
static void wait_awake(unsigned n)
{
    for (unsigned i = 0; in_rig() && count('T') < n; i++) {
        ck_assert_uint_lt(i, 100000);
        serve_for(200);
    }
    serve_for(in_rig() ? 2000 : 0);
    if (count('.') < n && in_rig()) {
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x53);
        machine_unlock(m);
    }
    wait_for('.', n);
}

/* A one-shot timer or deadline that ends in KVM, in the software engine, or in the moment between:
 * one interrupt each, and not before its time. */
static void timers(enum Command what, uint32_t per_ms)
{
    for (unsigned i = 0; i < 60; i++) {
        uint64_t begin = clock_ns(m->vm.clock);
        argument = per_ms * (i % 3 ? 5 : 25);
        command = what;
        serve_for(i % 5 * 900);
        go_to(i & 1 ? kvm : soft);
        if (i % 7 == 3) {
            go_to(i & 1 ? soft : kvm);
            go_to(i & 1 ? kvm : soft);
        }
        wait_awake(i + 1);
        ck_assert_uint_ge(clock_ns(m->vm.clock) - begin, (i % 3 ? 5u : 25u) * 1000000);
    }
    serve_for(30000);
    go_to(kvm);
    serve_for(10000);
    check_count('T', 60);
}

START_TEST(one_shot)
{
    irqchip_start(irqchip_kinds[_i], 1);
    uint64_t hz = m->vm.irqchip != IRQCHIP_OFF ? KVM_APIC_BUS_HZ : lapic_bus_hz(m->vm.clock);
    timers(ONE_SHOT, (uint32_t)(hz / 1000));
    machine_end();
}
END_TEST

START_TEST(deadline)
{
    irqchip_start(irqchip_kinds[_i], 1);
    if (cpuid_has(&m->cpuid, FEAT_TSC_DEADLINE))
        timers(DEADLINE, (uint32_t)clock_tsc_khz(m->vm.clock));
    machine_end();
}
END_TEST

static void arm_periodic(unsigned ms)
{
    uint64_t hz = m->vm.irqchip != IRQCHIP_OFF ? KVM_APIC_BUS_HZ : lapic_bus_hz(m->vm.clock);
    argument = (uint32_t)(hz * ms / 1000);
    run_command(PERIODIC);
}

/* Ticks of 2 ms through switches: none is lost for good, none comes twice. */
START_TEST(periodic)
{
    irqchip_start(irqchip_kinds[_i], 1);
    arm_periodic(2);
    uint64_t begin = clock_ns(m->vm.clock);
    unsigned ticks = count('T');
    for (unsigned i = 0; i < 200; i++) {
        go_to(i & 1 ? kvm : soft);
        serve_for(1000 + i % 4 * 700);
    }
    ticks = count('T') - ticks;
    uint64_t due = (clock_ns(m->vm.clock) - begin) / 2000000;
    /* KVM loses a tick that finds the last one waiting: on a busy host that may be most of them,
     * but for about one between two switches. */
    ck_assert_uint_le(ticks, due + 20);
    ck_assert_uint_ge(ticks, MIN_OF(due / 8, 100));
    wait_for('T', count('T') + 1); /* and it goes on */
    machine_end();
}
END_TEST

START_TEST(asleep)
{
    irqchip_start(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 40; i++) {
        command = SLEEP;
        wait_for('z', i + 1);
        wait_until(0, RUN_HALTED);
        go_to(i & 1 ? kvm : soft);
        wait_until(0, RUN_HALTED); /* nothing has woken it */
        if (i % 3 == 0)
            go_to(i & 1 ? soft : kvm);
        check_count('w', i);
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x53);
        machine_unlock(m);
        wait_for('.', i + 1);
        check_count('w', i + 1);
        if (i % 3 == 0)
            go_to(i & 1 ? kvm : soft);
    }
    machine_end();
}
END_TEST

/* The second vCPU waits for its start through any number of switches, starts once, takes IPIs from
 * the first in either engine, and waits again after INIT. */
START_TEST(start_up)
{
    static const enum Command commands[] = {SIPI, IPI, IPI, INIT, SIPI, IPI};
    irqchip_start(irqchip_kinds[_i], 2);
    unsigned n = 0;
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
            bool waits = commands[i] == SIPI;
            if (waits && (round || i))
                wait_until(1, RUN_WAIT_SIPI);
            go_to((round + i) & 1 ? kvm : soft);
            if (waits)
                wait_until(1, RUN_WAIT_SIPI);
            unsigned ipis = count('i'), starts = count('P');
            command = commands[i];
            wait_for('.', ++n);
            if (waits)
                wait_for('P', starts + 1);
            else if (commands[i] == IPI)
                wait_for('i', ipis + 1);
            wait_until(1, commands[i] == INIT ? RUN_WAIT_SIPI : RUN_HALTED);
        }
        command = INIT; /* for the next round */
        wait_for('.', ++n);
    }
    check_count('P', 12);
    check_count('i', 18);
    machine_end();
}
END_TEST

/* Inside a handler: what is in service keeps lower vectors out, until its EOI. */
START_TEST(in_service)
{
    irqchip_start(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 20; i++) {
        const Engine *here = i & 1 ? soft : kvm, *there = i & 1 ? kvm : soft;
        unsigned at = n_said;
        held[0] = 0;
        go_to(here);
        command = SERVE;
        wait_for('a', i + 1);
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x41);
        machine_unlock(m);
        go_to(there);
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x91);
        machine_unlock(m);
        go_to(here);
        go_to(there);
        serve_for(300);
        held[0] = 1;
        wait_for('.', i + 1);
        wait_for('l', i + 1);
        /* IF is clear in the handler: both wait for its IRET, the higher one first. */
        check_events(at, "abhl");
    }
    machine_end();
}
END_TEST

/* Inside an NMI handler: another waits for its IRET, and is not lost. */
START_TEST(nmi_masked)
{
    irqchip_start(irqchip_kinds[_i], 1);
    command = PERIODIC; /* any: it is up when it answers */
    wait_for('.', 1);
    for (unsigned i = 0; i < 20; i++) {
        const Engine *here = i & 1 ? soft : kvm, *there = i & 1 ? kvm : soft;
        unsigned at = n_said;
        held[1] = 0;
        go_to(here);
        machine_lock(m);
        lapic_nmi(m->pc.lapic[0]);
        machine_unlock(m);
        wait_for('n', 2 * i + 1);
        machine_lock(m);
        lapic_nmi(m->pc.lapic[0]);
        machine_unlock(m);
        serve_for(500);
        go_to(there);
        serve_for(500);
        go_to(here);
        go_to(there);
        check_count('n', 2 * i + 1);
        held[1] = 1;
        wait_for('m', 2 * i + 2);
        check_events(at, "nmnm");
    }
    machine_end();
}
END_TEST

/* Between STI and the next instruction an interrupt that waits is not taken yet. */
START_TEST(behind_sti)
{
    irqchip_start(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 10; i++) {
        unsigned at = n_said;
        held[0] = 0;
        go_to(soft);
        command = STI;
        wait_for('s', i + 1);
        vcpu_pause(m->vcpus[0]);
        held[0] = 1;
        vcpu_run_on(m->vcpus[0], step_over_sti, NULL);
        go_to(kvm);
        vcpu_resume(m->vcpus[0]);
        wait_for('I', i + 1);
        check_events(at, "sSI");
    }
    machine_end();
}
END_TEST

/* Nobody waits in MWAIT: it is not offered, whatever the host has, and both it and MONITOR are
 * undefined in either engine. */
START_TEST(no_mwait)
{
    uint32_t r[4];
    irqchip_start(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 6; i++) {
        go_to(i & 1 ? soft : kvm);
        run_command(NO_MWAIT);
        check_count('u', 2 * i + 2);
    }
    cpuid_execute(&m->cpuid, 0, 0, 1, 0, 1, 0, r);
    ck_assert(!(r[2] & 1 << 3)); /* MONITOR */
    machine_end();
}
END_TEST

/* Reset, stop and cont, and a look at the controllers, while KVM has them. */
START_TEST(stop_and_reset)
{
    irqchip_start(irqchip_kinds[_i], 2);
    command = SIPI;
    wait_for('P', 1);
    uint64_t hz = m->vm.irqchip != IRQCHIP_OFF ? KVM_APIC_BUS_HZ : lapic_bus_hz(m->vm.clock);
    argument = (uint32_t)(hz / 20); /* 50 ms */
    uint64_t begin = clock_ns(m->vm.clock);
    command = ONE_SHOT;
    serve_for(10000);
    machine_stop(m);
    serve_for(100000);
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x91); /* a device, meanwhile */
    machine_unlock(m);
    check_count('T', 0);
    machine_cont(m);
    wait_for('h', 1);
    wait_for('T', 1);
    ck_assert_uint_ge(clock_ns(m->vm.clock) - begin, 50000000); /* it stood still meanwhile */

    command = SLEEP;
    wait_for('z', 1);
    wait_until(0, RUN_HALTED);
    g_autoptr(GString) text = g_string_new(NULL);
    machine_lock(m);
    apic_bus_msi(0xfee01000, 0x53); /* for the other one */
    machine_unlock(m);
    wait_for('w', 1);
    machine_describe_lapic(m, 0, text);
    ck_assert_msg(strstr(text->str, "x2APIC") && strstr(text->str, "LVTT\t0x00000040"), "%s",
                  text->str);
    ck_assert_int_eq(strstr(text->str, "in KVM") != NULL, _i != 0);
    g_string_truncate(text, 0);
    machine_describe_pic(m, text);
    ck_assert_msg(strstr(text->str, "pic1: irr="), "%s", text->str);

    machine_request_reset(m);
    serve_for(20000);
    wait_until(1, RUN_WAIT_SIPI);
    unsigned done = count('.');
    command = SERVE;
    held[0] = 1;
    wait_for('.', done + 1);
    check_count('P', 1);
    command = SIPI;
    wait_for('P', 2);
    machine_end();
}
END_TEST

static void expect_description(const char *want)
{
    g_autoptr(GString) text = g_string_new(NULL);
    machine_describe_accel(m, text);
    ck_assert_msg(strstr(text->str, want) != NULL, "%s", text->str);
}

/*
 * One vCPU moves by itself. For that the machine leaves KVM's controllers: what was armed, asleep
 * and on its way there goes on, in both engines and between them.
 */
START_TEST(one_alone)
{
    GError *err = NULL;
    irqchip_start(irqchip_kinds[_i], 2);
    run_command(SIPI);
    wait_for('P', 1);
    arm_periodic(20);
    wait_until(1, RUN_HALTED);
    unsigned ticks = count('T');
    wait_for('T', ticks + 3);
    for (unsigned i = 0; i < 8; i++) {
        unsigned cpu = i / 2 & 1;
        if (!machine_switch(m, i & 1 ? kvm : soft, (int)cpu, &err))
            ck_abort_msg("%s", err->message);
        ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
        ck_assert(m->vcpus[cpu]->engine == (i & 1 ? kvm : soft));
        ck_assert(m->vcpus[!cpu]->engine == kvm);
        unsigned ipis = count('i');
        run_command(IPI);
        wait_for('i', ipis + 1);
        ticks = count('T');
        wait_for('T', ticks + 3);
    }
    expect_description(_i ? "left KVM for good: a switch of one vCPU" : "(asked for)");
    go_to(soft);
    go_to(kvm);
    run_command(INIT);
    wait_until(1, RUN_WAIT_SIPI);
    run_command(SIPI);
    wait_for('P', 2);
    check_count('i', 8);
    machine_end();
}
END_TEST

/* The same inside a handler, with an interrupt that waits for its end, and one that is asked of
 * the chips meanwhile. */
START_TEST(leaves_in_service)
{
    GError *err = NULL;
    unsigned number;
    g_autoptr(GString) warning = g_string_new(NULL);
    irqchip_start(irqchip_kinds[_i], 1);
    interrupts_off();
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x41);
    machine_unlock(m);
    if (!machine_policy_add(m, "every=1s", &number, warning, &err))
        ck_abort_msg("%s", err->message);
    ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x91);
    machine_unlock(m);
    serve_for(300);
    held[0] = 1;
    wait_for('.', 1);
    wait_for('l', 1);
    check_events(0, "abhl");
    machine_end();
}
END_TEST

static void switches_of(Vcpu *v, void *opaque)
{
    *(unsigned *)opaque = vcpu_switch_stats(v)->n_records;
}

enum { LEVEL_PIN = 9, HIGH_VECTOR = 0x91 };

/* Level-triggered, active high, to the first vCPU, and not by the 8259s. The chips are at home. */
static void route_level(void)
{
    static const uint32_t entry[] = {1 << 15 | HIGH_VECTOR, 0};
    machine_lock(m);
    for (unsigned i = 0; i < ARRAY_LEN(entry); i++) {
        io_write(m->board.mmio, 0xfec00000, 4, 0x10 + 2 * LEVEL_PIN + i);
        io_write(m->board.mmio, 0xfec00010, 4, entry[i]);
    }
    io_write(m->board.pio, 0x21, 1, 0xff);
    io_write(m->board.pio, 0xa1, 1, 0xff);
    machine_unlock(m);
}

static void drive(bool level)
{
    machine_lock(m);
    irq_set(&m->board.isa_irq[LEVEL_PIN], level);
    machine_unlock(m);
}

/* How often the guest has said it, now that nothing more comes: a KVM without hardware lets an
 * interrupt that waits come some instructions late. */
static unsigned settled(char c)
{
    unsigned n;
    do {
        n = count(c);
        run_command(QUIET);
        serve_for(2000);
    } while (n != count(c));
    return n;
}

/* A level-triggered line interrupts as long as a device holds it, wherever the controllers are and
 * go; and what it has sent comes once, also when it falls on the way. */
START_TEST(level_line)
{
    irqchip_start(irqchip_kinds[_i], 1);
    run_command(QUIET); /* any: it is up when it answers */
    go_to(soft);
    route_level();
    for (unsigned i = 0; i < 12; i++) {
        const Engine *here = i & 1 ? soft : kvm, *there = i & 1 ? kvm : soft;
        go_to(here);
        drive(true);
        wait_for('h', count('h') + 2);
        go_to(there);
        wait_for('h', count('h') + 2);
        drive(false);
        unsigned n = settled('h');
        go_to(here);
        serve_for(500);
        check_count('h', n);

        interrupts_off();
        drive(true);
        go_to(there);
        drive(false);
        if (i % 3 == 0)
            go_to(here);
        check_count('h', n);
        held[0] = 1;
        wait_for('h', n + 1);
        settled('h');
        check_count('h', n + 1);
    }
    machine_end();
}
END_TEST

/* What needs vCPUs that move by themselves works, whatever was asked for. */
START_TEST(policies)
{
    GError *err = NULL;
    unsigned number;
    g_autoptr(GString) text = g_string_new(NULL);
    irqchip_start(irqchip_kinds[_i], 1);
    arm_periodic(20);
    if (!machine_policy_add(m, "every=3ms", &number, text, &err))
        ck_abort_msg("%s", err->message);
    ck_assert_str_eq(text->str, "");
    unsigned ticks = count('T');
    wait_for('T', ticks + 10);
    for (unsigned i = 0, n = 0; n < 4; i++) {
        vcpu_run_on(m->vcpus[0], switches_of, &n);
        ck_assert_uint_lt(i, 100000);
        serve_for(200);
    }
    ck_assert(machine_policy_delete(m, 0, &err));
    go_to(kvm);
    ticks = count('T');
    wait_for('T', ticks + 5);
    machine_end();
}
END_TEST

START_TEST(recording)
{
    GError *err = NULL;
    uint64_t n;
    irqchip_start(irqchip_kinds[_i], 1);
    if (!machine_record_rip(m, "/dev/null,region=0xf0000..0xf0010", &n, &err))
        ck_abort_msg("%s", err->message);
    ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
    run_command(QUIET);
    ck_assert(machine_record_rip(m, NULL, &n, &err));
    machine_end();
}
END_TEST

/* There is no other VM to be had: nothing has changed, and the guest goes on. */
START_TEST(cannot_leave)
{
    GError *err = NULL;
    struct rlimit few, old;
    irqchip_start(irqchip_kinds[1 + _i], 2);
    arm_periodic(20);
    run_command(SIPI);
    wait_for('P', 1);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    int fd = dup(0);
    ck_assert_int_ge(fd, 0);
    close(fd);
    few = old;
    few.rlim_cur = (rlim_t)fd + (_i ? 1 : 0); /* no VM, or a VM and no vCPU */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    bool ok = machine_switch(m, soft, 1, &err);
    setrlimit(RLIMIT_NOFILE, &old);
    ck_assert(!ok);
    ck_assert_msg(strstr(err->message, _i ? "KVM_CREATE_VCPU" : "KVM_CREATE_VM") != NULL, "%s",
                  err->message);
    g_clear_error(&err);
    ck_assert_int_eq(m->vm.irqchip, IRQCHIP_SPLIT + _i);
    ck_assert(m->vcpus[1]->engine == kvm);
    run_command(IPI);
    wait_for('i', 1);
    unsigned ticks = count('T');
    wait_for('T', ticks + 3);
    go_to(soft);
    run_command(IPI);
    wait_for('i', 2);
    machine_end();
}
END_TEST

/* Without being asked: in KVM where there is hardware for it. */
START_TEST(default_kind)
{
    machine_begin("kvm", NULL, NULL, 1);
    ck_assert_int_eq(m->vm.irqchip, kvm_has_hardware() ? IRQCHIP_ON : IRQCHIP_OFF);
    expect_description(kvm_has_hardware() ? "nothing speaks against" : "neither VMX nor SVM");
    run_command(PERIODIC);
    machine_end();
    machine_begin("tcg", NULL, NULL, 1);
    ck_assert_int_eq(m->vm.irqchip, IRQCHIP_OFF);
    machine_end();
}
END_TEST

/* Instructions this KVM may lack: one is rescued, many make all vCPUs leave KVM, with the
 * controllers. Interrupts arrive all the same. */
START_TEST(rescued)
{
    irqchip_start(irqchip_kinds[_i], 2);
    command = SIPI;
    wait_for('P', 1);
    wait_for('.', 1);
    command = X87;
    wait_for('.', 2);
    serve_for(20000);
    ck_assert(_i == 0 || m->vcpus[0]->engine->is_software == m->vcpus[1]->engine->is_software);
    ck_assert(_i == 0 || m->chips_in_kvm == !m->vcpus[0]->engine->is_software);
    unsigned done = count('.');
    command = IPI;
    wait_for('i', 1);
    wait_for('.', done + 1);
    command = SLEEP;
    wait_for('z', 1);
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x53);
    machine_unlock(m);
    wait_for('w', 1);
    machine_end();
}
END_TEST

/* All leave KVM while one of them is away for an instruction: what its local APIC in KVM has got
 * meanwhile is not lost to the vCPU that KVM still holds, which is not the true one. */
START_TEST(all_leave_in_a_rescue)
{
    irqchip_start(irqchip_kinds[_i], 1);
    for (unsigned i = 0; i < 5; i++) {
        run_command(PERIODIC); /* any: it is up, and takes interrupts */
        vcpus_pause(&m->vm);
        vcpu_run_on(m->vcpus[0], away_for_one, NULL);
        machine_lock(m);
        apic_bus_msi(0xfee00000, 0x91);
        machine_unlock(m);
        go_to(soft);
        vcpus_resume(&m->vm);
        wait_for('h', i + 1);
        go_to(kvm);
    }
    check_count('h', 5);
    machine_end();
}
END_TEST

static void print_difference(const char *group, const char *field, uint64_t a, uint64_t b,
                             void *opaque)
{
    g_string_append_printf(opaque, "%s %s %#llx %#llx\n", group, field, (unsigned long long)a,
                           (unsigned long long)b);
}

static void view(unsigned cpu, bool raw, ChipView *out)
{
    GError *err = NULL;
    vcpus_pause(&m->vm);
    if (!machine_chips(m, cpu, raw, out, &err))
        ck_abort_msg("%s", err->message);
    vcpus_resume(&m->vm);
}

/* Field by field the state is the same on either side of a switch, and in a file. */
START_TEST(fields)
{
    ChipView in_kvm, here, read;
    g_autoptr(GString) text = g_string_new(NULL);
    GError *err = NULL;
    bool known;
    memset(&read, 0, sizeof(read));
    irqchip_start(irqchip_kinds[_i], 1);
    uint64_t hz = m->vm.irqchip != IRQCHIP_OFF ? KVM_APIC_BUS_HZ : lapic_bus_hz(m->vm.clock);
    argument = (uint32_t)(hz / 1000 * 3000); /* more than the test takes */
    run_command(PERIODIC);
    interrupts_off();
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x91);
    machine_unlock(m);
    view(0, false, &in_kvm);
    go_to(soft);
    view(0, false, &here);
    /* The count in KVM began some microseconds later. */
    uint64_t off = in_kvm.lapic.due_ns - here.lapic.due_ns;
    ck_assert_int_lt(llabs((int64_t)off), 50000000);
    ck_assert(here.lapic.running);
    in_kvm.lapic.due_ns = here.lapic.due_ns;
    chips_diff(&in_kvm, &here, print_difference, text);
    ck_assert_str_eq(text->str, "");
    /* A KVM without hardware behind it keeps no account of what is in service. */
    if (!_i || kvm_has_hardware())
        ck_assert_uint_eq(here.lapic.isr[2], 1 << 17); /* 0x51 */
    ck_assert_uint_eq(here.lapic.irr[4], 1 << 17);     /* 0x91 */
    chips_write_text(&here, text);
    g_auto(GStrv) lines = g_strsplit(g_strchomp(text->str), "\n", -1);
    for (unsigned i = 0; lines[i]; i++)
        ck_assert(chips_read_text(&read, lines[i], &known, &err) && known);
    GString *none = g_string_new(NULL);
    ck_assert_uint_eq(chips_diff(&here, &read, print_difference, none), 0);
    ck_assert(chips_read_text(&read, "RAX 00", &known, &err) && !known);
    ck_assert(!chips_read_text(&read, "LAPIC.TPR 00", &known, &err));
    ck_assert_msg(strstr(err->message, "LAPIC.TPR cannot be '00'") != NULL, "%s", err->message);
    g_clear_error(&err);
    machine_chips_dry_run(m, kvm, 0, false, none);
    ck_assert_int_eq(strstr(none->str, "lapic-timer") || strstr(none->str, "rules would change"),
                     _i != 0);
    g_string_free(none, TRUE);
    held[0] = 1;
    wait_for('h', 1);
    machine_end();
}
END_TEST

static void pit_difference(const char *group, const char *field, uint64_t a, uint64_t b,
                           void *opaque)
{
    if (!strcmp(group, "pit"))
        print_difference(group, field, a, b, opaque);
}

/* The PIT is where it was through any switch, with its counts, its phase and its flags. */
START_TEST(pit)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x43, 0x34}, {0x40, 0},    {0x40, 0},    /* 0: rate generator, 65536 */
        {0x43, 0x7a}, {0x41, 0x12},               /* 1: strobe, half of a count */
        {0x43, 0xe4},                             /* and its status latched */
        {0x43, 0xb2}, {0x42, 0x34}, {0x42, 0x12}, /* 2: one-shot by its gate */
        {0x61, 3},    {0x42, 0x21}, {0x42, 0x43}, /* begun, the next count waiting */
        {0x43, 0x80},                             /* and latched */
    };
    irqchip_start(irqchip_kinds[_i], 1);
    go_to(soft);
    machine_lock(m);
    io_write(m->board.pio, 0x21, 1, 0xff); /* the guest has no handler for its ticks */
    for (unsigned i = 0; i < ARRAY_LEN(writes); i++) {
        io_write(m->board.pio, writes[i].port, 1, writes[i].value);
        g_usleep(10); /* a count is loaded a tick later */
    }
    io_read(m->board.pio, 0x42, 1); /* of the latched count one byte */
    machine_unlock(m);
    for (unsigned legacy = 0; legacy < 2; legacy++) {
        ChipView before, after;
        machine_lock(m);
        io_write(m->board.mmio, 0xfed00010, 4, legacy ? 3 : 1);
        machine_unlock(m);
        view(0, false, &before);
        const PitState *a = &before.pit, *b = &after.pit;
        ck_assert_uint_eq(a->hpet_legacy, legacy);
        ck_assert_uint_eq(a->port_b, 3);
        ck_assert(a->c[0].n == 0x10000 && a->c[0].mode == 2 && a->c[0].start);
        ck_assert(a->c[1].write_high && a->c[1].low == 0x12 && a->c[1].status_latched);
        ck_assert(a->c[2].triggered && a->c[2].n == 0x1234 && a->c[2].next == 0x4321);
        ck_assert(a->c[2].latched && a->c[2].latch_high);
        for (unsigned i = 0; i < 12; i++) {
            g_autoptr(GString) text = g_string_new(NULL);
            go_to(i & 1 ? kvm : soft);
            serve_for(1000 * i);
            view(0, i & 2, &after);
            ck_assert(legacy || b->due);
            ck_assert(legacy || (b->due - b->c[0].start) % b->c[0].n == 0);
            after.pit.due = a->due;
            after.pit.out0 = a->out0;
            chips_diff(&before, &after, pit_difference, text);
            ck_assert_str_eq(text->str, "");
        }
    }
    machine_lock(m); /* and goes on by it */
    io_write(m->board.pio, 0x41, 1, 0x56);
    ck_assert_uint_eq(io_read(m->board.pio, 0x41, 1) & 0x3f, 0x3a); /* the status as latched */
    machine_unlock(m);
    machine_end();
}
END_TEST

START_TEST(bad_arguments)
{
    static const struct {
        const char *accel, *kind, *says;
    } rows[] = {{"kvm", "maybe", "on, split and off"}, {"interp", "on", "about KVM"}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        g_autoptr(GError) err = NULL;
        MachineConfig cfg = {.accel = rows[i].accel,
                             .kernel_irqchip = rows[i].kind,
                             .ram_bytes = 2 << 20,
                             .smp = 1,
                             .bios_image = irqchip_image,
                             .bios_image_size = (size_t)(irqchip_image_end - irqchip_image)};
        ck_assert(!machine_new(&cfg, &err));
        ck_assert_msg(strstr(err->message, rows[i].says) != NULL, "%s", err->message);
    }
}
END_TEST

int main(void)
{
    g_autoptr(GError) err = NULL;
    if (!kvm_available(&err)) {
        printf("skipped: %s\n", err->message);
        return 77;
    }
    Suite *s = suite_create("irqchip");
    const SuiteTest tests[] = {
        {"one_shot", one_shot, 3},
        {"deadline", deadline, 3},
        {"periodic", periodic, 3},
        {"asleep", asleep, 3},
        {"start_up", start_up, 3},
        {"in_service", in_service, 3},
        {"nmi_masked", nmi_masked, 3},
        {"behind_sti", behind_sti, 3},
        {"stop_and_reset", stop_and_reset, 3},
        {"one_alone", one_alone, 3},
        {"level_line", level_line, 3},
        {"leaves_in_service", leaves_in_service, 3},
        {"policies", policies, 3},
        {"recording", recording, 3},
        {"cannot_leave", cannot_leave, 2},
        {"default_kind", default_kind, 1},
        {"rescued", rescued, 3},
        {"all_leave_in_a_rescue", all_leave_in_a_rescue, 3},
        {"fields", fields, 3},
        {"pit", pit, 3},
        {"no_mwait", no_mwait, 3},
        {"bad_arguments", bad_arguments, 1},
    };
    suite_add_tests(s, tests, ARRAY_LEN(tests), 300);
    return run_suite(s);
}
