/*
 * -machine kernel-pit=on: the 8254 goes out to KVM and comes home with the interrupt controllers
 * (irqchip.c). While it is out the device here is parked and holds the state that KVM's stands for
 * (vmstate/pit_loan.h): which ticks are due, and when.
 *
 * KVM can begin a count only with a whole period from now. So the device goes on raising the ticks
 * of a periodic counter 0, late ones too, as it does without kernel-pit=on; and shortly before a
 * period ends the main thread stops the vCPUs, takes all home, waits for the end and gives the
 * period to KVM, which has its phase from then on. If the host is late for that, or ticks are owed,
 * it is tried again, at longer and longer intervals.
 */
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/log.h"
#include "devices/catch_up.h"
#include "devices/i8254.h"
#include "kvm/kvm.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

#define TICKS_OF_US(us) (PIT_HZ * (us) / 1000000)

enum { TRIES = 8 };
/* As long before the end of a period the vCPUs are stopped; shorter periods go out as they are. */
#define LEAD  TICKS_OF_US(700)
#define SHORT TICKS_OF_US(1500)
/* Nearer to an end than this nobody could say whether KVM has had its tick. */
#define GUARD TICKS_OF_US(100)
/* A guest that ends no tick for so long does not want any. */
#define PATIENCE_NS (10 * NS_PER_S)
/* A tick that is owed for so long KVM does not make up for. */
#define LOST_NS NS_PER_S
/* Longer a look should not take; but it is not tried again for ever. */
#define LOOK TICKS_OF_US(60)
enum { LOOKS = 6 };

static uint64_t now_tick(const Machine *m)
{
    return ns_to_ticks(clock_ns(m->vm.clock), PIT_HZ);
}

static bool periodic_mode(unsigned mode)
{
    return mode == 2 || mode == 3;
}

static bool periodic(const PitCounter *c)
{
    return periodic_mode(c->mode);
}

static void attend_at(Machine *m, uint64_t tick)
{
    uint64_t at = ticks_to_ns(tick, PIT_HZ), now = clock_ns(m->vm.clock),
             ns = clock_host_ns(m->vm.clock, at > now ? at - now : 1);
    struct itimerspec t = {
        .it_value = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)}};
    timerfd_settime(m->pit.fd, 0, &t, NULL);
}

static uint64_t next_end(const PitCounter *c, uint64_t now)
{
    return now < c->start ? c->start + c->n : now + c->n - (now - c->start) % c->n;
}

static uint64_t lead(const Machine *m, uint32_t n)
{
    return MIN_OF(LEAD << MIN_OF(m->pit.tries, 3u), n / 3);
}

/* ---- KVM's ---- */

typedef struct TakeWork {
    Machine *m;
    KvmPit k;
    PitLook look;
    bool looked;
    uint64_t now;
    GError *err;
} TakeWork;

static void sleep_ns(uint64_t ns)
{
    clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = (long)ns}, NULL);
}

/* The one that took the shortest is kept. */
static bool look_once(Vcpu *v, TakeWork *w)
{
    KvmPit k; /* with what the last look has latched */
    KvmPitLook l;
    /* What cannot be read the guest has to be asked for: its state is brought in again. */
    if (!vcpu_sync_state(v, &w->err) || !kvm_pit_look(v, &k, &l, &w->err))
        return false;
    PitLook look = {.count = l.count,
                    .out = l.out,
                    .at = ns_to_ticks(l.clock_ns, PIT_HZ),
                    .at_ns = l.host_ns,
                    .took = ns_to_ticks(l.took_ns, PIT_HZ)};
    if (!w->looked || look.took < w->look.took)
        w->look = look;
    w->looked = true;
    return true;
}

static bool look_well(Vcpu *v, TakeWork *w)
{
    for (unsigned round = 0; round < LOOKS && (!round || w->look.took > LOOK); round++) {
        if (!look_once(v, w))
            return false;
    }
    for (unsigned round = 0; round < 20; round++) {
        uint64_t last, next;
        pit_ends(&w->k, &w->look, &last, &next);
        uint64_t now = now_tick(w->m), n = w->k.c[0].count;
        if (next && next + GUARD < now && periodic_mode(w->k.c[0].mode))
            next += (now - next) / n * n;
        if (!next || now + GUARD < next || now > next + GUARD)
            break;
        sleep_ns(ticks_to_ns(next + GUARD + 1 - now, PIT_HZ));
    }
    /* KVM's timer is this processor's since the vCPU ran on it, and a processor's timers come in
     * their order: what was due has come. */
    sleep_ns(1);
    return true;
}

/* KVM's stands still from `now` on, and what it had to raise has been raised. */
static void take_work(Vcpu *v, void *opaque)
{
    TakeWork *w = opaque;
    const PitLoan *loan = &w->m->pit.loan;
    KvmPit still = {.hpet_legacy = false};
    struct timespec ts;
    if (!kvm_pit_get(&w->m->vm, &w->k, &w->err))
        return;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    w->look = (PitLook){.at = now_tick(w->m),
                        .at_ns = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec};
    bool quiet = loan->ticks == PIT_NONE && w->k.c[0].count == loan->given.c[0].count &&
                 w->k.c[0].mode == loan->given.c[0].mode;
    if (!quiet && !look_well(v, w))
        return;
    for (unsigned i = 0; i < ARRAY_LEN(still.c); i++)
        still.c[i].mode = 0xff;
    w->now = now_tick(w->m);
    kvm_pit_set(&w->m->vm, &still, &w->err);
}

/* The device here has what KVM's stands for; KVM's stands still. */
static bool take(Machine *m, GError **err)
{
    TakeWork w = {.m = m};
    PitState s;
    vcpu_run_on(m->vcpus[0], take_work, &w);
    if (w.err) {
        g_propagate_error(err, w.err);
        return false;
    }
    machine_lock(m);
    i8254_park(m->pc.pit, true);
    i8254_save(m->pc.pit, &s);
    uint64_t made;
    if (!pit_return(&s, &m->pit.loan, &w.k, &w.look, w.now, &made))
        m->pit.counted = false;
    i8254_load(m->pc.pit, &s);
    i8254_ticked(m->pc.pit, made);
    m->pit.made += made;
    machine_unlock(m);
    return true;
}

/* May KVM begin a period, and raise its ticks? */
static bool begins(const Machine *m, const PitState *s, uint64_t now)
{
    const PitCounter *c = &s->c[0];
    if (c->next || s->due <= now || m->pit.underway > 1)
        return false;
    return c->n < SHORT || m->pit.tries >= TRIES ||
           c->n - (next_end(c, now) - now) < PIT_PHASE_TICKS / 2;
}

static bool give_once(Machine *m, GError **err)
{
    PitOut *p = &m->pit;
    PitLoan *loan = &p->loan;
    KvmPit k;
    PitState s;
    machine_lock(m);
    i8254_save(m->pc.pit, &s);
    machine_unlock(m);
    uint64_t before = now_tick(m);
    bool ticks = periodic(&s.c[0]) && s.due && !s.hpet_legacy;
    p->here = ticks && !begins(m, &s, before);
    p->counted = p->counted && ticks;
    pit_lend(&s, before, !p->here, &k, loan);
    if (!kvm_pit_set(&m->vm, &k, err))
        return false;
    loan->slack = (now_tick(m) - before) / 2 + 1;
    loan->at = before + loan->slack;
    if (!kvm_pit_get(&m->vm, &loan->given, err))
        return false;
    uint32_t n = s.c[0].n, wait = (1u << MIN_OF(p->tries, 7u)) - 1;
    if (p->here)
        attend_at(m, next_end(&s.c[0], loan->at) + (uint64_t)n * wait - lead(m, n));
    else if (loan->ticks == PIT_NONE)
        attend_at(m, loan->at + PIT_NEVER / 2);
    return true;
}

/* Again if it took so long that nobody knows when KVM began, unless it may have ticked by now. */
static bool give(Machine *m, GError **err)
{
    const PitLoan *loan = &m->pit.loan;
    for (unsigned i = 0; i < LOOKS; i++) {
        if (!give_once(m, err))
            return false;
        if (loan->ticks == PIT_NONE || loan->slack <= LOOK ||
            now_tick(m) + GUARD > loan->at - loan->slack + loan->given.c[0].count)
            break;
    }
    return true;
}

/* ---- the end of a period ---- */

/* With everything at home: if a period is about to end, it does. */
static void await_tick(Machine *m)
{
    PitState s;
    machine_lock(m);
    i8254_save(m->pc.pit, &s);
    const PitCounter *c = &s.c[0];
    uint64_t now = now_tick(m);
    if (periodic(c) && s.due && !s.hpet_legacy) {
        uint64_t end = next_end(c, now);
        while (end - now <= 2 * lead(m, c->n) && now < end)
            now = now_tick(m);
        machine_timers_run(m);
    }
    machine_unlock(m);
}

static gboolean attend(int fd, GIOCondition cond, gpointer opaque)
{
    Machine *m = opaque;
    g_autoptr(GError) err = NULL;
    uint64_t times;
    if (read(fd, &times, sizeof(times)) != sizeof(times) || !m->pit.out || m->status != ST_RUNNING)
        return G_SOURCE_CONTINUE;
    machine_lock(m);
    bool behind = m->pit.here && i8254_owed(m->pc.pit);
    machine_unlock(m);
    if (behind) { /* to stop the vCPUs would not help */
        attend_at(m, now_tick(m) + PIT_HZ / 50);
        return G_SOURCE_CONTINUE;
    }
    unsigned tries = m->pit.loan.ticks == PIT_EACH ? 0 : m->pit.tries + 1;
    vcpus_pause(&m->vm);
    bool ok = irqchip_home(m, &err);
    if (ok) {
        m->pit.tries = tries;
        await_tick(m);
        ok = irqchip_out(m, &err);
    }
    if (!ok) {
        warn_user("the PIT does not get into KVM and back: %s", err->message);
        machine_stop(m);
    }
    vcpus_resume(&m->vm);
    return G_SOURCE_CONTINUE;
}

/* ---- with the interrupt controllers ---- */

bool pit_out(Machine *m, GError **err)
{
    if (!m->vm.kernel_pit || m->vm.irqchip != IRQCHIP_ON)
        return true;
    /* Or it would hide KVM's own edges. */
    kvm_irq_line(&m->vm, 2, false);
    m->pit.out = give(m, err);
    machine_lock(m);
    i8254_park(m->pc.pit, !m->pit.here);
    machine_unlock(m);
    return m->pit.out;
}

bool pit_home(Machine *m, GError **err)
{
    if (!m->pit.out)
        return true;
    m->pit.tries = 0;
    m->pit.here = false;
    m->pit.out = !take(m, err);
    return !m->pit.out;
}

/*
 * Ticks that find the last one waiting KVM counts, and forgets when it is given another state. But
 * it tells of each that a guest has ended (irq0.c). Those that were made, and neither ended nor
 * under way, are still owed; unless the guest did not want any for a while, and KVM forgot them
 * itself.
 */
void pit_count(Machine *m, int underway)
{
    PitOut *p = &m->pit;
    if (!m->vm.kernel_pit)
        return;
    irq0_look(m);
    p->made = p->taken = 0;
    p->last_taken_ns = p->owed_since_ns = clock_ns(m->vm.clock);
    p->underway = underway;
    p->counted = m->irq0.eoi && underway >= 0 && !i8254_discards_ticks(m->pc.pit);
}

static uint64_t owed(const Machine *m)
{
    const PitOut *p = &m->pit;
    uint64_t raised = i8254_owed(m->pc.pit) + p->made + (uint64_t)p->underway;
    return raised > p->taken ? raised - p->taken : 0;
}

/* KVM makes up for ticks that it has held back as fast as the guest ends them. What is owed for
 * long was raised while one from here still waited, and both were one. */
static void look_for_lost(Machine *m, uint64_t now)
{
    PitOut *p = &m->pit;
    if (p->loan.ticks != PIT_EACH || !p->counted || !owed(m)) {
        p->owed_since_ns = now;
    } else if (now - p->owed_since_ns > LOST_NS) {
        p->owed_since_ns = now;
        attend_at(m, 0);
    }
}

void pit_ended(Machine *m, uint64_t ticks)
{
    PitOut *p = &m->pit;
    uint64_t now = clock_ns(m->vm.clock);
    p->counted = p->counted && now - p->last_taken_ns < PATIENCE_NS;
    p->taken += ticks;
    p->last_taken_ns = now;
    if (!p->out)
        return;
    look_for_lost(m, now);
}

void pit_account(Machine *m, int underway)
{
    PitOut *p = &m->pit;
    if (!m->vm.kernel_pit)
        return;
    irq0_look(m);
    uint64_t raised = p->made + (uint64_t)p->underway, seen = p->taken + (uint64_t)underway;
    if (p->counted && underway >= 0 && raised > seen &&
        clock_ns(m->vm.clock) - p->last_taken_ns < PATIENCE_NS)
        i8254_unticked(m->pc.pit, raised - seen);
}

uint64_t machine_ticks_owed(Machine *m)
{
    if (!m->pit.out || m->pit.here)
        return i8254_owed(m->pc.pit);
    irq0_look(m);
    return m->pit.counted ? owed(m) : UINT64_MAX;
}

bool pit_may_tick(Machine *m)
{
    const KvmPitCounter *given = &m->pit.loan.given.c[0];
    KvmPit k;
    if (!m->pit.here || !kvm_pit_get(&m->vm, &k, NULL) ||
        (k.c[0].count == given->count && k.c[0].mode == given->mode))
        return true;
    m->pit.here = false;
    attend_at(m, 0);
    return false;
}

void pit_hpet_legacy(Machine *m)
{
    m->pit.counted = m->pit.here = false;
    if (m->pit.out)
        attend_at(m, 0);
}

bool pit_init(Machine *m, GError **err)
{
    if (!m->vm.kernel_pit)
        return true;
    if (!kvm_pit_reinject(&m->vm, !i8254_discards_ticks(m->pc.pit), err))
        return false;
    m->pit.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (m->pit.fd < 0) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "timerfd_create: %s", g_strerror(errno));
        return false;
    }
    m->pit.source = g_unix_fd_source_new(m->pit.fd, G_IO_IN);
    g_source_set_priority(m->pit.source, G_PRIORITY_HIGH);
    g_source_set_callback(m->pit.source, G_SOURCE_FUNC(attend), m, NULL);
    g_source_attach(m->pit.source, NULL);
    return true;
}

void pit_free(Machine *m)
{
    if (!m->pit.source)
        return;
    g_source_destroy(m->pit.source);
    g_source_unref(m->pit.source);
    m->pit.source = NULL;
    close(m->pit.fd);
}
