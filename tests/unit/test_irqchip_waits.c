/*
 * What waits while a machine with KVM's interrupt controllers is at something else: an NMI while a
 * vCPU is away for one instruction, an interrupt that comes inside an I/O instruction, ticks that
 * are late.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/i8254.h"
#include "irqchip_machine.h"
#include "run_suite.h"

static void run_one(Vcpu *v, void *opaque)
{
    static const RunLimit one = {.max_insns = 1, .whole = true};
    Exit e = soft->run(v, &one);
    ck_assert_msg(e.kind == EXIT_LIMIT, "exit %d: %s", e.kind, e.msg);
}

static void back_from_one(Vcpu *v, void *opaque)
{
    GError *err = NULL;
    if (!vcpu_switch(v, kvm, SWITCH_RESCUE, &err))
        ck_abort_msg("%s", err->message);
}

static void send_nmi(void)
{
    machine_lock(m);
    apic_bus_msi(0xfee00000, 0x400);
    machine_unlock(m);
}

/*
 * An NMI that comes while the vCPU is away for one instruction: behind it, before, and when all
 * leave KVM meanwhile. By message, as from another CPU: to KVM's local APIC where that is. It
 * stands in the way of its own loss that events are not written when none is under way; the
 * instruction is the one behind STI, whose shadow is an event.
 */
START_TEST(nmi_in_a_rescue)
{
    irqchip_start(irqchip_kinds[_i], 1);
    held[1] = 1;
    for (unsigned i = 0; i < 9; i++) {
        held[0] = 0;
        go_to(soft);
        command = STI;
        wait_for('s', i + 1);
        vcpus_pause(&m->vm);
        held[0] = 1;
        vcpu_run_on(m->vcpus[0], step_over_sti, NULL);
        go_to(kvm);
        if (i % 3 == 1)
            send_nmi();
        vcpu_run_on(m->vcpus[0], away_for_one, NULL);
        if (i % 3 != 1)
            send_nmi();
        vcpu_run_on(m->vcpus[0], run_one, NULL);
        if (i % 3 == 2)
            go_to(soft);
        else
            vcpu_run_on(m->vcpus[0], back_from_one, NULL);
        vcpus_resume(&m->vm);
        wait_for('m', i + 1);
        wait_for('I', i + 1);
        wait_for('.', i + 1);
    }
    serve_for(5000);
    check_count('m', 9);
    machine_end();
}
END_TEST

enum { VECTOR = 0x91 };

static _Atomic unsigned due, late;

/* Once the last one has been taken, another is raised; polls until then are counted. */
static void raise_and_count(void)
{
    if (count('h') < due) {
        late++;
    } else {
        due++;
        apic_bus_msi(0xfee00000, VECTOR);
    }
}

/* An interrupt that comes inside an I/O instruction is taken behind that, however short a time the
 * guest runs between two of them: a KVM without hardware has no interrupt window for such a one. */
START_TEST(between_two_polls)
{
    irqchip_start(irqchip_kinds[_i], 1);
    run_command(QUIET); /* any: it is up when it answers */
    due = late = 0;
    on_poll = raise_and_count;
    wait_for('h', 300);
    on_poll = NULL;
    ck_assert_msg(late == 0, "%u polls with an interrupt that waits, in %u interrupts", late, due);
    machine_end();
}
END_TEST

/* The PIT's tick by pin 2 of the I/O APIC or by the 8259s, mode 2. The chips are at home. */
static void start_pit(bool by_pic, unsigned hz)
{
    unsigned n = PIT_HZ / hz;
    const struct {
        uint16_t port;
        uint8_t value;
    } pic[] = {{0x20, 0x11},
               {0x21, 0x90},
               {0x21, 4},
               {0x21, 1},
               {0x21, by_pic ? 0xfe : 0xff},
               {0x43, 0x34},
               {0x40, (uint8_t)n},
               {0x40, (uint8_t)(n >> 8)}};
    machine_lock(m);
    io_write(m->board.mmio, 0xfec00000, 4, 0x14);
    io_write(m->board.mmio, 0xfec00010, 4, by_pic ? 1 << 16 : VECTOR);
    for (unsigned i = 0; i < ARRAY_LEN(pic); i++)
        io_write(m->board.pio, pic[i].port, 1, pic[i].value);
    machine_unlock(m);
}

/* However long the guest has interrupts off, and the main thread is not there: no tick is lost. The
 * rig is slow, and delivers some twice. */
START_TEST(ticks)
{
    unsigned hz = in_rig() ? 50 : 500;
    irqchip_start(irqchip_kinds[_i], 1);
    run_command(QUIET);
    go_to(soft);
    start_pit(false, hz);
    uint64_t begin = clock_ns(m->vm.clock);
    go_to(kvm);
    wait_for('h', 20);
    for (unsigned i = 0; i < 8; i++) {
        interrupts_off();
        serve_for(i & 1 ? 20000 : 60000);
        if (i & 2)
            g_usleep(30000);
        if (i == 5)
            go_to(soft);
        interrupts_on();
        serve_for(i & 4 ? 10000 : 100000);
        go_to(kvm);
    }
    serve_for(20000);
    machine_lock(m);
    uint64_t owed = machine_ticks_owed(m), n = count('h'),
             want = (clock_ns(m->vm.clock) - begin) * hz / NS_PER_S;
    machine_unlock(m);
    ck_assert_msg(n + owed >= want - 3 && (in_rig() || n + owed <= want + 3),
                  "%u ticks and %u owed, of %u", (unsigned)n, (unsigned)owed, (unsigned)want);
    machine_end();
}
END_TEST

int main(void)
{
    g_autoptr(GError) err = NULL;
    if (!kvm_available(&err)) {
        printf("skipped: %s\n", err->message);
        return 77;
    }
    Suite *s = suite_create("irqchip_waits");
    const SuiteTest tests[] = {{"nmi_in_a_rescue", nmi_in_a_rescue, 3},
                               {"between_two_polls", between_two_polls, 3},
                               {"ticks", ticks, 3}};
    suite_add_tests(s, tests, ARRAY_LEN(tests), in_rig() ? 300 : 60);
    return run_suite(s);
}
