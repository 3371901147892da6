/*
 * -machine kernel-pit=on: the 8254 goes to and fro between KVM and the device, with each counter in
 * each mode, half read and half written; and its ticks are neither lost nor made twice.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/catch_up.h"
#include "devices/i8254.h"
#include "irqchip_machine.h"
#include "run_suite.h"

extern const uint8_t irqchip_image[], irqchip_image_end[];

enum { VECTOR = 0x91 };

static uint64_t tick_now(void)
{
    return ns_to_ticks(clock_ns(m->vm.clock), PIT_HZ);
}

static void start(unsigned cpus)
{
    machine_kernel_pit = true;
    irqchip_start("on", cpus);
    ck_assert(m->vm.kernel_pit);
    run_command(QUIET); /* any: it is up when it answers */
    go_to(soft);
    machine_lock(m);
    io_write(m->board.pio, 0x21, 1, 0xff);
    memcpy(m->ram.host + 0x90 * 4, m->ram.host + VECTOR * 4, 4); /* the 8259's IRQ 0, below */
    machine_unlock(m);
}

static PitState state(void)
{
    GError *err = NULL;
    ChipView v;
    vcpus_pause(&m->vm);
    if (!machine_chips(m, 0, false, &v, &err))
        ck_abort_msg("%s", err->message);
    vcpus_resume(&m->vm);
    return v.pit;
}

static KvmPit kvms(void)
{
    KvmPit k;
    GError *err = NULL;
    ck_assert_msg(kvm_pit_get(&m->vm, &k, &err), "%s", err ? err->message : "");
    return k;
}

static void out(uint16_t port, uint8_t value)
{
    machine_lock(m);
    io_write(m->board.pio, port, 1, value);
    machine_unlock(m);
}

static void print_difference(const char *group, const char *field, uint64_t a, uint64_t b,
                             void *opaque)
{
    g_string_append_printf(opaque, "%s %#llx %#llx\n", field, (unsigned long long)a,
                           (unsigned long long)b);
}

/* But for what time alone changes. */
static void check_same(const PitState *a, const PitState *b, const char *what)
{
    g_autoptr(GString) text = g_string_new(NULL);
    ChipView va, vb;
    memset(&va, 0, sizeof(va));
    memset(&vb, 0, sizeof(vb));
    va.pit = *a;
    vb.pit = *b;
    vb.pit.due = a->due;
    vb.pit.out0 = a->out0;
    chips_diff(&va, &vb, print_difference, text);
    ck_assert_msg(!text->len, "%s:\n%s", what, text->str);
}

/* The count that waited in a has come into use. */
static void settle(PitState *a, const PitState *b)
{
    for (unsigned i = 0; i < 3; i++) {
        PitCounter *c = &a->c[i];
        if (!c->next || b->c[i].next)
            continue;
        c->start = c->next_at - (c->next_low ? (c->next + 1) / 2 : 0);
        c->n = c->next;
        c->next = 0;
        c->next_at = 0;
        c->next_low = false;
    }
}

/* Each way with each of three times between. */
static void check_through_switches(const char *what)
{
    PitState before = state();
    for (unsigned i = 0; i < 6; i++) {
        go_to(i & 1 ? soft : kvm);
        serve_for(i % 3 * 700);
        PitState after = state();
        settle(&before, &after);
        check_same(&before, &after, what);
        uint32_t n = after.c[0].n;
        if ((after.c[0].mode == 2 || after.c[0].mode == 3) && n && !after.c[0].next &&
            after.due >= after.c[0].start)
            ck_assert_uint_eq((after.due - after.c[0].start) % n, 0);
    }
}

/* One case: what is written to a counter, and its port's reads. A value below 0 ends it. */
static void program(unsigned counter, unsigned mode, unsigned access, bool bcd, unsigned half)
{
    uint16_t port = (uint16_t)(0x40 + counter);
    out(0x43, (uint8_t)(counter << 6 | access << 4 | mode << 1 | bcd));
    if (half == 1) /* nothing yet */
        return;
    out(port, 0x12);
    if (access == 3 && half == 2) /* the first byte alone */
        return;
    if (access == 3)
        out(port, 0x34);
    if (half == 3) { /* latched, and read in part; what follows is written in part */
        out(0x43, (uint8_t)(0xc0 | 2 << counter));
        machine_lock(m);
        io_read(m->board.pio, port, 1);
        io_read(m->board.pio, port, 1);
        machine_unlock(m);
        out(0x43, (uint8_t)(0xd0 | 2 << counter));
    }
    if (half == 4) /* another count */
        out(port, 0x56);
    if (half == 4 && access == 3)
        out(port, 0x78);
}

/* Each counter in each mode, at home at first: it is what it was, wherever it has been. */
START_TEST(forms)
{
    start(1);
    for (unsigned mode = 0; mode < 6; mode++) {
        for (unsigned access = 1; access < 4; access++) {
            for (unsigned half = 0; half < 5; half++) {
                g_autofree char *what =
                    g_strdup_printf("counter %d, mode %u, access %u, %u", _i, mode, access, half);
                go_to(soft);
                out(0x61, (uint8_t)((access & 1) | (half == 4 ? 0 : 2)));
                program((unsigned)_i, mode, access, half == 0 && access == 3, half);
                if (half == 4)
                    out(0x61, 1);
                g_usleep(10); /* a count is loaded a tick later */
                check_through_switches(what);
            }
        }
    }
    machine_end();
}
END_TEST

/* What the guest writes to KVM's comes home with the moment at which it did. */
START_TEST(written_in_kvm)
{
    unsigned near = 0;
    start(1);
    for (unsigned mode = 0; mode < 6; mode++) {
        uint16_t port = (uint16_t)(0x40 + _i);
        go_to(kvm);
        guest_out(0x43, (uint8_t)(_i << 6 | 0x30 | mode << 1));
        guest_out(port, 0xcd);
        PitState half = state(); /* from where it goes out again */
        ck_assert(half.c[_i].write_high && half.c[_i].low == 0xcd);
        uint64_t from = tick_now();
        guest_out(port, 0xab);
        uint64_t to = tick_now();
        guest_out(0x43, (uint8_t)(0xc0 | 2 << _i)); /* what is latched stays so */
        serve_for(20000);
        go_to(soft);
        PitState s = state();
        const PitCounter *c = &s.c[_i];
        ck_assert_uint_eq(c->mode, mode);
        ck_assert_uint_eq(c->access, 3);
        ck_assert_uint_eq(c->n, 0xabcd);
        ck_assert(!c->write_high && !c->untouched);
        if (_i) { /* KVM says so */
            ck_assert(c->start + 3 >= from && c->start <= to + 3);
            near++;
        } else if (mode != 1 && mode != 5) { /* it is looked at, and that takes a while */
            ck_assert_msg(c->start + 3 >= from, "%" G_GUINT64_FORMAT " before", from - c->start);
            near += mode != 3 && c->start <= to + PIT_HZ / 100;
        }
        ck_assert(c->latched && c->status_latched);
        if (!_i && (mode == 2 || mode == 3))
            ck_assert(s.due > c->start && (s.due - c->start) % c->n == 0);
        check_through_switches("written in KVM");
    }
    ck_assert_uint_gt(near, 0);
    machine_end();
}
END_TEST

static void write_count(unsigned counter, unsigned count)
{
    guest_out((uint16_t)(0x40 + counter), (uint8_t)count);
    guest_out((uint16_t)(0x40 + counter), (uint8_t)(count >> 8));
}

static unsigned read_count(unsigned counter)
{
    unsigned low = guest_in((uint16_t)(0x40 + counter));
    return low | (unsigned)guest_in((uint16_t)(0x40 + counter)) << 8;
}

/* A count that has been latched is read in two halves, the engines in turns; one in use goes on
 * where it was. Nothing is said of how long that takes. */
START_TEST(counts)
{
    start(1);
    for (unsigned i = 0; i < 12; i++) {
        const Engine *here = i & 1 ? kvm : soft, *there = i & 1 ? soft : kvm;
        unsigned counter = i % 3;
        go_to(here);
        guest_out(0x43, (uint8_t)(counter << 6 | 0x30)); /* mode 0: it falls, and only once */
        write_count(counter, 0xffff);
        guest_out(0x43, (uint8_t)(counter << 6));
        unsigned low = guest_in((uint16_t)(0x40 + counter));
        PitState s = state();
        ck_assert(s.c[counter].latched && s.c[counter].latch_high);
        go_to(there);
        s = state();
        ck_assert(s.c[counter].latched && s.c[counter].latch_high);
        unsigned high = guest_in((uint16_t)(0x40 + counter));
        ck_assert_uint_eq(high << 8 | low, s.c[counter].latch);
        guest_out(0x43, (uint8_t)(0xe0 | 2 << counter)); /* its status */
        go_to(here);
        unsigned status = guest_in((uint16_t)(0x40 + counter));
        ck_assert_uint_eq(status & 0x3f, 0x30);
        guest_out(0x43, (uint8_t)(counter << 6));
        unsigned later = read_count(counter);
        /* The gate of the last one is low, which KVM minds only in part. */
        if (counter != 2 && tick_now() - s.c[counter].start < 0xffff)
            ck_assert_uint_le(later, high << 8 | low);
    }
    machine_end();
}
END_TEST

/* KVM's counter 2 counts while its gate is low, and that it has is seen when the gate rises. */
START_TEST(gate)
{
    start(1);
    go_to(soft);
    guest_out(0x61, 1);
    guest_out(0x43, 0xb0);
    write_count(2, 0xffff);
    guest_out(0x61, 0);
    serve_for(5000);
    go_to(kvm);
    serve_for(1000);
    guest_out(0x61, 1);
    uint64_t from = tick_now();
    guest_out(0x43, 0x80);
    unsigned before = read_count(2);
    go_to(soft);
    guest_out(0x43, 0x80);
    unsigned after = read_count(2);
    ck_assert_uint_le((uint16_t)(before - after), tick_now() - from + 3);
    machine_end();
}
END_TEST

/* Port 0x61: what either writes the other reads; and bits that KVM has none of are kept. */
START_TEST(speaker)
{
    start(1);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t value = (uint8_t)(i & 3);
        go_to(i & 4 ? kvm : soft);
        guest_out(0x61, value);
        ck_assert_uint_eq(guest_in(0x61) & 3, value);
        go_to(i & 4 ? soft : kvm);
        ck_assert_uint_eq(guest_in(0x61) & 3, value);
        PitState s = state();
        ck_assert_uint_eq(s.port_b & 3, value);
        ck_assert_uint_eq(s.c[2].gate, value & 1);
        go_to(kvm);
        ck_assert_uint_eq(kvms().speaker, value >> 1);
    }
    go_to(soft);
    guest_out(0x61, 0xd);
    go_to(kvm);
    guest_out(0x61, 2);
    go_to(soft);
    ck_assert_uint_eq(guest_in(0x61) & 0xf, 0xe);
    machine_end();
}
END_TEST

static void legacy(bool on)
{
    machine_lock(m);
    io_write(m->board.mmio, 0xfed00010, 4, on ? 3 : 1);
    machine_unlock(m);
}

/* The PIT's tick by pin 2 of the I/O APIC or by the 8259s, mode 2. */
static void route(bool by_pic)
{
    static const uint8_t pic[] = {0x11, 0x90, 4, 3}; /* it ends them itself */
    machine_lock(m);
    io_write(m->board.mmio, 0xfec00000, 4, 0x14);
    io_write(m->board.mmio, 0xfec00010, 4, by_pic ? 1 << 16 : VECTOR);
    for (unsigned i = 0; i < ARRAY_LEN(pic); i++)
        io_write(m->board.pio, i ? 0x21 : 0x20, 1, pic[i]);
    io_write(m->board.pio, 0x21, 1, by_pic ? 0xfe : 0xff);
    machine_unlock(m);
}

/* While the HPET has IRQ 0, KVM's raises nothing; then it goes on in its phase. */
START_TEST(hpet_legacy)
{
    start(1);
    go_to(soft);
    route(false);
    guest_out(0x43, 0x34);
    write_count(0, PIT_HZ / 200);
    PitState first = state();
    for (unsigned i = 0; i < 12; i++) {
        go_to(i & 1 ? soft : kvm);
        legacy(true);
        for (unsigned n = 0; !(i & 1) && !kvms().hpet_legacy; n++) {
            ck_assert_uint_lt(n, 10000);
            serve_for(100);
        }
        run_command(QUIET); /* and what was under way is over */
        unsigned n = count('h');
        serve_for(15000);
        check_count('h', n);
        if (i % 3 == 2)
            go_to(i & 1 ? kvm : soft);
        PitState s = state();
        ck_assert(s.hpet_legacy);
        check_same(&(PitState){.c = {first.c[0], s.c[1], s.c[2]},
                               .port_b = s.port_b,
                               .hpet_legacy = true,
                               .due = s.due},
                   &s, "legacy");
        legacy(false);
        wait_for('h', n + 3);
        s = state();
        ck_assert(!s.hpet_legacy && !kvms().hpet_legacy);
        ck_assert_uint_eq((s.due - first.c[0].start) % s.c[0].n, 0);
    }
    machine_end();
}
END_TEST

static uint64_t owed(void)
{
    machine_lock(m);
    uint64_t n = machine_ticks_owed(m);
    machine_unlock(m);
    return n;
}

/* What there were and what is owed is what was due; three are between two looks. */
static void check_ticks(unsigned from, uint64_t begin, unsigned hz)
{
    machine_lock(m);
    uint64_t left = machine_ticks_owed(m), n = count('h') - from,
             want = (clock_ns(m->vm.clock) - begin) * hz / NS_PER_S;
    machine_unlock(m);
    ck_assert_msg(n + left + 3 >= want && (in_rig() || n + left <= want + 3),
                  "%u ticks and %u owed, of %u", (unsigned)n, (unsigned)left, (unsigned)want);
}

static void start_ticks(bool by_pic, unsigned hz)
{
    go_to(soft);
    route(by_pic);
    guest_out(0x43, 0x34);
    write_count(0, (unsigned)(PIT_HZ / hz));
}

/*
 * Hundreds of switches, some faster than ticks come: none is lost, none comes twice, and the last
 * is in the phase of the first.
 */
START_TEST(ticks)
{
    static const unsigned per_second[] = {100, 1000};
    unsigned hz = in_rig() ? 20 : per_second[_i & 1];
    start(1);
    start_ticks(_i & 2, hz);
    uint64_t begin = clock_ns(m->vm.clock);
    unsigned from = count('h');
    PitState first = state(), last;
    for (unsigned i = 0; i < 400; i++) {
        go_to(i & 1 ? soft : kvm);
        serve_for(i % 7 == 0 ? 25000 : i % 5 * 600);
    }
    go_to(soft);
    check_ticks(from, begin, hz);
    last = state();
    check_same(&first, &last, "after 400 switches");
    ck_assert_uint_eq((last.due - first.c[0].start) % first.c[0].n, 0);
    machine_end();
}
END_TEST

/* However long the guest has interrupts off, or the main thread is not there. */
START_TEST(late_ticks)
{
    unsigned hz = in_rig() ? 20 : 500;
    start(1);
    start_ticks(_i, hz);
    uint64_t begin = clock_ns(m->vm.clock);
    unsigned from = count('h');
    go_to(kvm);
    wait_for('h', from + 20);
    for (unsigned i = 0; i < 12; i++) {
        interrupts_off();
        serve_for(i & 1 ? 20000 : 60000);
        if (i & 2)
            g_usleep(30000);
        if (i & 4)
            go_to(i & 1 ? kvm : soft);
        if (i == 6)
            state();
        interrupts_on();
        serve_for(i & 4 ? 10000 : 100000);
        go_to(kvm);
    }
    go_to(soft);
    check_ticks(from, begin, hz);
    machine_end();
}
END_TEST

/* lost_tick_policy=discard is KVM's as well: what finds the last one waiting is gone. */
START_TEST(discarded)
{
    static const char *const discard[] = {"kvm-pit.lost_tick_policy=discard", NULL};
    /* A host that has no time for so many never gets to give KVM all of them. */
    unsigned n[2], hz = in_rig() ? 20 : 100, missed = 40;
    for (unsigned i = 0; i < 2; i++) {
        machine_globals = i ? discard : NULL;
        start(1);
        start_ticks(false, hz);
        go_to(kvm);
        for (unsigned h = count('h'); !m->pit.out || m->pit.loan.ticks != PIT_EACH;)
            wait_for('h', ++h);
        interrupts_off();
        serve_for(missed * 1000000 / hz); /* and more, on a busy host */
        unsigned from = count('h');
        uint64_t begin = clock_ns(m->vm.clock);
        interrupts_on();
        serve_for(100000);
        uint64_t due = (clock_ns(m->vm.clock) - begin) * hz / NS_PER_S;
        n[i] = count('h') - from;
        if (i)
            ck_assert_uint_le(n[1], due + 5); /* those that it missed are not among them */
        else
            wait_for('h', from + missed);
        machine_end();
        machine_globals = NULL;
    }
}
END_TEST

/* The only tick is to come when it is due, wherever in its time KVM gets it; where that is in a
 * period of several, KVM raises none. */
START_TEST(first_tick)
{
    static const uint8_t control[] = {0x34, 0x36, 0x30, 0x38};
    start(1);
    start_ticks(false, 100);
    const PitLoan *loan = &m->pit.loan;
    for (unsigned i = 0, in_time = 0; in_time < 12; i++) {
        PitState s;
        ck_assert_uint_lt(i, 1000);
        go_to(soft);
        guest_out(0x43, control[_i]);
        write_count(0, PIT_HZ / 100);
        serve_for(i % 10 * 1100);
        go_to(kvm);
        machine_lock(m);
        i8254_save(m->pc.pit, &s);
        machine_unlock(m);
        uint64_t end = loan->at + loan->given.c[0].count;
        if (s.due <= loan->at) /* late by itself, or over */
            continue;
        ck_assert_uint_eq(loan->given.c[0].mode, control[_i] >> 1 & 7);
        if (_i < 2 && loan->ticks == PIT_EACH) { /* KVM has it from the beginning of a period */
            ck_assert_uint_le((loan->at - s.c[0].start) % s.c[0].n, PIT_PHASE_TICKS);
            continue;
        }
        in_time++;
        ck_assert_uint_eq(loan->ticks, _i < 2 ? PIT_NONE : PIT_ONCE);
        ck_assert_uint_eq(m->pit.here, _i < 2);
        if (_i < 2) {
            ck_assert_uint_ge(loan->given.c[0].count, PIT_NEVER);
            continue;
        }
        ck_assert(end + loan->slack >= s.due && end <= s.due + loan->slack);
    }
    machine_end();
}
END_TEST

/* KVM has the period in the end: in its phase, but where the host is late each time. */
START_TEST(handed_over)
{
    unsigned in_phase = 0;
    start(1);
    start_ticks(false, 100);
    for (unsigned i = 0; i < 5; i++) {
        go_to(soft);
        serve_for(i * 1100);
        go_to(kvm);
        for (unsigned n = count('h'); m->pit.loan.ticks != PIT_EACH; n++)
            wait_for('h', n + 1);
        PitState s;
        machine_lock(m);
        i8254_save(m->pc.pit, &s);
        machine_unlock(m);
        in_phase += i && (m->pit.loan.at - s.c[0].start) % s.c[0].n <= PIT_PHASE_TICKS;
        KvmPit k = kvms();
        ck_assert_uint_eq(k.c[0].mode, 2);
        ck_assert_uint_eq(k.c[0].count, PIT_HZ / 100);
        unsigned n = count('h');
        wait_for('h', n + 10);
        while (owed()) { /* one may be under way */
            ck_assert_uint_lt(count('h'), n + 1000);
            wait_for('h', count('h') + 1);
            serve_for(2000);
        }
    }
    ck_assert(in_rig() || in_phase);
    machine_end();
}
END_TEST

/* Ticks that are still raised here end when the guest writes to KVM's counter. */
START_TEST(rewritten)
{
    start(1);
    for (unsigned i = 0; i < 4; i++) {
        start_ticks(false, 100);
        serve_for(3000);
        m->pit.tries = 7; /* as on a host that is late each time: the next try is far away */
        go_to(kvm);
        ck_assert(m->pit.here);
        unsigned n = count('h');
        wait_for('h', n + 2);
        ck_assert(m->pit.here);
        guest_out(0x43, 0x30);
        run_command(QUIET);
        n = count('h');
        serve_for(50000);
        check_count('h', n);
        ck_assert(!m->pit.here);
    }
    machine_end();
}
END_TEST

/* A one-shot count runs out once, wherever that is. */
START_TEST(one_shot)
{
    start(1);
    go_to(soft);
    route(_i);
    for (unsigned i = 0; i < 40; i++) {
        unsigned n = count('h');
        guest_out(0x43, i & 4 ? 0x38 : 0x30);
        uint64_t begin = clock_ns(m->vm.clock);
        write_count(0, (unsigned)PIT_HZ / 100);
        serve_for(i % 5 * 2300);
        go_to(i & 1 ? soft : kvm);
        if (i % 3 == 0) {
            go_to(i & 1 ? kvm : soft);
            go_to(i & 1 ? soft : kvm);
        }
        wait_for('h', n + 1);
        ck_assert_uint_ge(clock_ns(m->vm.clock) - begin, 10 * NS_PER_MS - 10000);
        serve_for(i % 4 * 3000);
        go_to(i & 2 ? soft : kvm);
        serve_for(i % 12 == 0 ? 120000 : 1000); /* in KVM, whose count goes on */
        check_count('h', n + 1);
    }
    machine_end();
}
END_TEST

/* After a reset nobody has written to it, and it is silent. Stopped it stands still. */
START_TEST(stop_and_reset)
{
    start(1);
    start_ticks(false, 100);
    go_to(kvm);
    wait_for('h', 5);
    machine_stop(m);
    PitState stopped = state();
    unsigned n = count('h');
    serve_for(50000);
    PitState still = state();
    ck_assert_uint_eq(stopped.due, still.due);
    check_count('h', n);
    machine_cont(m);
    wait_for('h', n + 5);
    check_same(&stopped, &still, "stopped");
    machine_request_reset(m);
    serve_for(20000);
    run_command(QUIET);
    n = count('h');
    PitState s = state();
    for (unsigned i = 0; i < 3; i++)
        ck_assert(s.c[i].untouched && !s.c[i].n);
    ck_assert(m->pit.out);
    ck_assert_uint_eq(kvms().c[0].mode, 0xff);
    check_through_switches("reset");
    check_count('h', n);
    machine_end();
}
END_TEST

/* What needs one vCPU to move by itself takes it out of KVM for good. */
START_TEST(leaves)
{
    GError *err = NULL;
    start(2);
    start_ticks(false, 100);
    uint64_t begin = clock_ns(m->vm.clock);
    unsigned from = count('h');
    go_to(kvm);
    wait_for('h', from + 5);
    if (!machine_switch(m, soft, 1, &err))
        ck_abort_msg("%s", err->message);
    ck_assert(m->vm.irqchip == IRQCHIP_OFF && !m->vm.kernel_pit && !m->pit.out);
    wait_for('h', count('h') + 10);
    check_ticks(from, begin, 100);
    machine_end();
}
END_TEST

START_TEST(refused)
{
    static const struct {
        const char *accel, *kind, *says;
    } rows[] = {{"kvm", "split", "needs kernel-irqchip=on, and this machine's is split"},
                {"kvm", "off", "needs kernel-irqchip=on, and this machine's is off"},
                {"interp", NULL, "needs kernel-irqchip=on"},
                {"tcg", NULL, "the vCPUs do not start in KVM"}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        g_autoptr(GError) err = NULL;
        MachineConfig cfg = {.accel = rows[i].accel,
                             .kernel_irqchip = rows[i].kind,
                             .kernel_pit = true,
                             .ram_bytes = 2 << 20,
                             .smp = 1,
                             .bios_image = irqchip_image,
                             .bios_image_size = (size_t)(irqchip_image_end - irqchip_image)};
        ck_assert(!machine_new(&cfg, &err));
        ck_assert_msg(strstr(err->message, "kernel-pit") && strstr(err->message, rows[i].says),
                      "%s", err->message);
    }
}
END_TEST

int main(void)
{
    g_autoptr(GError) err = NULL;
    if (!kvm_available(&err) || !kvm_irqchip_possible(IRQCHIP_ON, &err) ||
        !kvm_pit_possible(&err)) {
        printf("skipped: %s\n", err->message);
        return 77;
    }
    Suite *s = suite_create("kernel_pit");
    const SuiteTest tests[] = {
        {"forms", forms, 3},
        {"written_in_kvm", written_in_kvm, 3},
        {"counts", counts, 1},
        {"gate", gate, 1},
        {"speaker", speaker, 1},
        {"hpet_legacy", hpet_legacy, 1},
        {"ticks", ticks, 4},
        {"late_ticks", late_ticks, 2},
        {"discarded", discarded, 1},
        {"first_tick", first_tick, 4},
        {"handed_over", handed_over, 1},
        {"rewritten", rewritten, 1},
        {"one_shot", one_shot, 2},
        {"stop_and_reset", stop_and_reset, 1},
        {"leaves", leaves, 1},
        {"refused", refused, 1},
    };
    suite_add_tests(s, tests, ARRAY_LEN(tests), 300);
    return run_suite(s);
}
