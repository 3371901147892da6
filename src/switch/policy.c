/*
 * Policies at work. Before a run() the vCPU's policies say what it must stop at (policy_limit());
 * behind it they are asked whether the exit is theirs (policy_exit()); one that is fires: a switch
 * like any other, counted.
 *
 * A policy with an end of its own (region, when, or `for`) is then the vCPU's active one, until it
 * has moved the vCPU back home or somebody else has moved it.
 */
#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/log.h"
#include "kvm/kvm.h"
#include "switch/policy_priv.h"
#include "tcg/tcg.h"

/* A policy that takes more than this share of a vCPU's time is pointed out, once. */
#define COSTLY_WINDOW_NS 100000000ull
#define COSTLY_PERCENT   40
#define COSTLY_TIMES     20 /* less often than that it is the host that is slow */

static PolicyCpu *of(const Policy *p, const Vcpu *v)
{
    return &p->per[v->id];
}

static bool ends_itself(const Policy *p)
{
    return p->kind == POLICY_region || p->kind == POLICY_when || p->stay.ns || p->stay.insns;
}

static Policy *numbered(const Policies *all, unsigned number)
{
    for (guint i = 0; i < all->list->len; i++) {
        Policy *p = g_ptr_array_index(all->list, i);
        if (p->number == number)
            return p;
    }
    return NULL;
}

static PolicyLoop *policy_loop(VcpuLoop *l)
{
    if (!l->policy) {
        l->policy = g_new0(PolicyLoop, 1);
        l->policy->stay_fd = -1;
    }
    return l->policy;
}

/* ---- firing ---- */

/* Does firing leave the guest little time? Said once, with what was measured. */
static void watch_cost(const Policy *p, const Vcpu *v, uint64_t cost)
{
    PolicyCpu *c = of(p, v);
    uint64_t now = switch_now_ns();
    if (c->warned)
        return;
    if (!c->window_fired++)
        c->window_start = now - cost;
    c->window_ns += cost;
    uint64_t passed = now - c->window_start;
    if (passed < COSTLY_WINDOW_NS)
        return;
    if (c->window_fired >= COSTLY_TIMES && c->window_ns * 100 > passed * COSTLY_PERCENT) {
        c->warned = true;
        warn_user("policy %u (%s): fired %" G_GUINT64_FORMAT " times in the last %u ms on cpu %d, "
                  "%.1f us each: %u%% of the vCPU's time goes into it",
                  p->number, p->text, c->window_fired, (unsigned)(passed / 1000000), v->id,
                  (double)c->window_ns / 1000 / (double)c->window_fired,
                  (unsigned)(c->window_ns * 100 / passed));
    }
    c->window_fired = c->window_ns = 0;
}

static bool move(VcpuLoop *l, Policy *p, const Engine *to)
{
    Vcpu *v = l->v;
    PolicyLoop *pl = l->policy;
    PolicyCpu *c = of(p, v);
    GError *err = NULL;
    uint64_t start = switch_now_ns();
    pl->firing = p;
    bool ok = vcpu_switch(v, to, SWITCH_POLICY, &err);
    pl->firing = NULL;
    pl->dirty = true;
    if (ok) {
        watch_cost(p, v, switch_now_ns() - start);
        return true;
    }
    c->refused++;
    g_strlcpy(c->last_error, err->message, sizeof(c->last_error));
    if (!c->said_refused) {
        c->said_refused = true;
        warn_user("policy %u (%s): %s%s", p->number, p->text, err->message,
                  p->kind == POLICY_when ? "; it rests on this vCPU" : "");
    }
    c->suspended = p->kind == POLICY_when;
    g_error_free(err);
    return false;
}

static void stay_over(Vcpu *v, void *opaque);

static gboolean stay_timer(int fd, GIOCondition cond, gpointer opaque)
{
    Vcpu *v = opaque;
    uint64_t ticks;
    PolicyLoop *pl = ((VcpuLoop *)v->loop)->policy;
    if (read(fd, &ticks, sizeof(ticks)) == sizeof(ticks) && !vcpu_is_paused(v))
        vcpu_queue(v, stay_over, GUINT_TO_POINTER(pl->stay_serial));
    else if (vcpu_is_paused(v)) { /* when it goes on */
        const struct itimerspec again = {.it_value = {.tv_nsec = 1000000}};
        timerfd_settime(fd, 0, &again, NULL);
    }
    return G_SOURCE_CONTINUE;
}

static void begin_stay(VcpuLoop *l, const Policy *p)
{
    PolicyLoop *pl = l->policy;
    pl->back_at = p->stay.insns ? l->v->insns + p->stay.insns : 0;
    pl->stay_serial++;
    if (!p->stay.ns)
        return;
    if (pl->stay_fd < 0) {
        pl->stay_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        pl->stay_source = g_unix_fd_add(pl->stay_fd, G_IO_IN, stay_timer, l->v);
    }
    const struct itimerspec when = {.it_value = {.tv_sec = (time_t)(p->stay.ns / NS_PER_S),
                                                 .tv_nsec = (long)(p->stay.ns % NS_PER_S)}};
    timerfd_settime(pl->stay_fd, 0, &when, NULL);
}

/* False: nothing was to be done, or it was refused. */
static bool fire(VcpuLoop *l, Policy *p)
{
    Vcpu *v = l->v;
    PolicyLoop *pl = policy_loop(l);
    PolicyCpu *c = of(p, v);
    const Engine *to = policy_target(p, v), *from = v->engine;
    if (!to || to == from || !policy_applies(p, v))
        return false;
    const Engine *home = pl->active ? pl->home : from;
    if (!move(l, p, to))
        return false;
    c->fired++;
    pl->active = ends_itself(p) && home != to ? p : NULL;
    pl->home = home;
    pl->back_at = 0;
    c->resume = 0;
    if (pl->active)
        begin_stay(l, p);
    return true;
}

gva_t way_back(gva_t lo, gva_t hi, const Vcpu *v)
{
    const CpuState *s = &v->st;
    unsigned size = cpu_code64(s) ? 8 : s->seg[SS].attr & SEG_DB ? 4 : 2;
    for (unsigned i = 0; i < 2; i++) {
        gva_t at = (size == 8 ? 0 : s->seg[SS].base) + s->gpr[RSP] + i * size;
        gpa_t gpa;
        uint64_t rip = 0;
        if (!mmu_debug_translate(s, v->vm, at, &gpa) ||
            !memmap_read(v->vm->mem, gpa, (uint8_t *)&rip, size))
            break;
        rip += size == 8 ? 0 : s->seg[CS].base;
        if (rip >= lo && rip < hi)
            return rip;
    }
    return 0;
}

static void go_home(VcpuLoop *l)
{
    PolicyLoop *pl = l->policy;
    Policy *p = pl->active;
    Vcpu *v = l->v;
    if (p->kind == POLICY_region)
        of(p, v)->resume = way_back(p->addr, p->end, v);
    pl->active = NULL;
    pl->back_at = 0;
    pl->dirty = true;
    if (v->engine != pl->home)
        move(l, p, pl->home);
}

/*
 * A timer's moment is as good as the one right behind it. Where KVM would have the vCPU wait, which
 * may be long on a busy host, the vCPU runs on, and `again` is told when KVM is ready.
 */
static bool put_off(Vcpu *v, const Engine *to, KvmReady *again, void *opaque)
{
    return to && !to->is_software && v->engine->is_software && !kvm_ready(v, again, opaque);
}

static void stay_over_again(Vcpu *v, void *opaque)
{
    vcpu_queue(v, stay_over, opaque);
}

static void stay_over(Vcpu *v, void *opaque)
{
    VcpuLoop *l = v->loop;
    PolicyLoop *pl = l->policy;
    if (pl && pl->active && pl->active->stay.ns && pl->stay_serial == GPOINTER_TO_UINT(opaque) &&
        !put_off(v, pl->home, stay_over_again, opaque))
        go_home(l);
}

/* ---- before run() ---- */

static void arm(VcpuLoop *l, const Policies *all)
{
    PolicyLoop *pl = l->policy;
    RunStops *st = &pl->stops;
    *st = (RunStops){.pass = st->pass, .pass_at = st->pass_at};
    pl->armed_for = l->v->engine;
    pl->armed_version = all->version;
    pl->dirty = false;
    for (guint i = 0; i < all->list->len; i++) {
        Policy *p = g_ptr_array_index(all->list, i);
        if (policy_applies(p, l->v))
            policy_kinds[p->kind].arm(p, pl, l->v);
    }
    /* The stop that brought us here is to be passed only while it is one. */
    bool still = false;
    for (unsigned i = 0; i < st->n_addr; i++)
        still |= st->addr[i] == st->pass_at;
    st->pass &= still;
}

static void count_to(RunLimit *limit, uint64_t at, uint64_t now)
{
    uint64_t left = at > now ? at - now : 1;
    if (at && (!limit->max_insns || left < limit->max_insns))
        limit->max_insns = left;
}

const RunLimit *policy_limit(VcpuLoop *l)
{
    Vcpu *v = l->v;
    const Policies *all = v->vm->policies;
    if (likely(!all || (!all->list->len && !l->policy)))
        return NULL;
    PolicyLoop *pl = policy_loop(l);
    if (pl->dirty || pl->armed_for != v->engine || pl->armed_version != all->version)
        arm(l, all);
    const RunStops *st = &pl->stops;
    pl->limit = (RunLimit){.whole = true};
    if (st->n_addr || st->hi || st->cpl || st->exits)
        pl->limit.stops = &pl->stops;
    if (v->engine->is_software) {
        for (guint i = 0; i < all->list->len; i++) {
            const Policy *p = g_ptr_array_index(all->list, i);
            if (p->every.insns && policy_applies(p, v))
                count_to(&pl->limit, of(p, v)->due, v->insns);
        }
        count_to(&pl->limit, pl->back_at, v->insns);
    }
    return &pl->limit;
}

/* ---- behind run() ---- */

static Policy *first_of(const Policies *all, const Vcpu *v, enum PolicyKind kind,
                        bool (*fits)(const Policy *, uint64_t), uint64_t x)
{
    for (guint i = 0; i < all->list->len; i++) {
        Policy *p = g_ptr_array_index(all->list, i);
        if (p->kind == kind && policy_applies(p, v) && fits(p, x))
            return p;
    }
    return NULL;
}

static bool wants_exit(const Policy *p, uint64_t reason)
{
    return p->exits & BIT(reason);
}

static bool wants_errors(const Policy *p, uint64_t x)
{
    return p->errors;
}

static bool wants_cpl(const Policy *p, uint64_t cpl)
{
    return p->cpl & BIT(cpl);
}

static void counted(VcpuLoop *l, const Policies *all)
{
    Vcpu *v = l->v;
    PolicyLoop *pl = l->policy;
    if (pl->back_at && v->insns >= pl->back_at)
        go_home(l);
    for (guint i = 0; i < all->list->len; i++) {
        Policy *p = g_ptr_array_index(all->list, i);
        PolicyCpu *c = of(p, v);
        if (!p->every.insns || !policy_applies(p, v) || !c->due || v->insns < c->due)
            continue;
        uint64_t next = policy_next_span(p, &c->random);
        c->due = v->insns + next;
        fire(l, p);
        c->due = c->due > v->insns ? c->due : v->insns + next;
    }
}

/* KVM has been left, for whatever reason: where is the guest now? */
static void look_at_cpl(VcpuLoop *l, const Policies *all)
{
    Vcpu *v = l->v;
    if (v->engine->is_software || l->policy->stops.exits != ~0ull)
        return;
    if (v->where == ST_IN_ENGINE && !v->engine->export_state(v, GRP_REGS | GRP_SREGS, NULL))
        return;
    Policy *p = first_of(all, v, POLICY_when, wants_cpl, v->st.cpl);
    if (p)
        fire(l, p);
}

static void stopped(VcpuLoop *l, const Policies *all, const Exit *e)
{
    Vcpu *v = l->v;
    PolicyLoop *pl = l->policy;
    Policy *p = NULL;
    switch (e->stop) {
    case STOP_ADDRESS:
        pl->stops.pass = true;
        pl->stops.pass_at = pl->stops.addr[e->code];
        fire(l, pl->owner_of[e->code]);
        return;
    case STOP_LEFT:
        if (pl->active)
            go_home(l);
        return;
    case STOP_CPL:
        if (pl->active && pl->active->kind == POLICY_when && !wants_cpl(pl->active, e->code))
            go_home(l);
        else
            p = first_of(all, v, POLICY_when, wants_cpl, e->code);
        break;
    case STOP_EXIT:
        p = first_of(all, v, POLICY_on, wants_exit, e->code);
        break;
    }
    if (p)
        fire(l, p);
}

bool policy_exit(VcpuLoop *l, const Exit *e)
{
    const Policies *all = l->v->vm->policies;
    if (likely(!l->policy))
        return false;
    switch (e->kind) {
    case EXIT_STOP:
        stopped(l, all, e);
        look_at_cpl(l, all);
        return true;
    case EXIT_LIMIT:
        counted(l, all);
        return true;
    case EXIT_KICK:
        look_at_cpl(l, all);
        return false;
    case EXIT_INTERNAL_ERROR:
    case EXIT_FAIL_ENTRY: {
        Policy *p = first_of(all, l->v, POLICY_on, wants_errors, 0);
        return p && fire(l, p);
    }
    default:
        return false;
    }
}

void policy_halted(VcpuLoop *l)
{
    enum { KVM_EXIT_HLT_BIT = 5 };
    if (likely(!l->policy) || l->v->engine->is_software)
        return;
    Policy *p = first_of(l->v->vm->policies, l->v, POLICY_on, wants_exit, KVM_EXIT_HLT_BIT);
    if (p)
        fire(l, p);
}

/* ---- what every switch tells ---- */

void policy_moved(VcpuLoop *l, const Engine *from, uint64_t ns, bool for_now)
{
    PolicyLoop *pl = l->policy;
    if (!pl)
        return;
    if (pl->owner)
        of(pl->owner, l->v)->ns[from->id] += ns;
    pl->dirty = true;
    if (for_now)
        return;
    pl->owner = pl->firing;
    if (!pl->firing) { /* somebody else's: nothing takes it back */
        pl->active = NULL;
        pl->back_at = 0;
    }
}

const char *policy_firing(const VcpuLoop *l)
{
    return l->policy && l->policy->firing ? l->policy->firing->text : NULL;
}

void policy_end(VcpuLoop *l)
{
    PolicyLoop *pl = l->policy;
    if (!pl)
        return;
    if (pl->stay_source)
        g_source_remove(pl->stay_source);
    if (pl->stay_fd >= 0)
        close(pl->stay_fd);
    g_free(pl);
    l->policy = NULL;
}

/* ---- the list ---- */

Policies *policies_new(const PolicyEnv *env)
{
    Policies *all = g_new0(Policies, 1);
    all->env = *env;
    all->list = g_ptr_array_new();
    all->kvm = env->engine(env->opaque, "kvm", NULL);
    all->tcg = env->engine(env->opaque, "tcg", NULL);
    all->interp = env->engine(env->opaque, "interp", NULL);
    all->jit = env->engine(env->opaque, "jit", NULL);
    env->vm->policies = all;
    return all;
}

static void policy_free(Policy *p)
{
    if (p->timer_source)
        g_source_remove(p->timer_source);
    if (p->timer_fd >= 0)
        close(p->timer_fd);
    policy_clear(p);
    g_free(p);
}

void policies_free(Policies *all)
{
    if (!all)
        return;
    for (guint i = 0; i < all->list->len; i++)
        policy_free(g_ptr_array_index(all->list, i));
    g_ptr_array_unref(all->list);
    all->env.vm->policies = NULL;
    g_free(all);
}

static void fire_by_timer(Vcpu *v, void *opaque);

static void fire_again(Vcpu *v, void *opaque)
{
    vcpu_queue(v, fire_by_timer, opaque);
}

static void fire_by_timer(Vcpu *v, void *opaque)
{
    Policies *all = v->vm->policies;
    Policy *p = all ? numbered(all, GPOINTER_TO_UINT(opaque)) : NULL;
    if (!p || (policy_applies(p, v) && put_off(v, policy_target(p, v), fire_again, opaque)))
        return;
    atomic_store(&of(p, v)->queued, false);
    fire(v->loop, p);
}

/* One period: the next may be of another length. */
static bool set_timer(Policy *p)
{
    uint64_t ns = policy_next_span(p, &p->random);
    const struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    const struct itimerspec its = {.it_value = t,
                                   .it_interval = p->longest.ns ? (struct timespec){0} : t};
    return timerfd_settime(p->timer_fd, 0, &its, NULL) == 0;
}

static gboolean every_timer(int fd, GIOCondition cond, gpointer opaque)
{
    Policy *p = opaque;
    VmCommon *vm = p->all->env.vm;
    uint64_t ticks;
    if (read(fd, &ticks, sizeof(ticks)) != sizeof(ticks))
        return G_SOURCE_CONTINUE;
    if (p->longest.ns)
        set_timer(p);
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        Vcpu *v = vm->vcpu[i];
        if ((p->cpu >= 0 && p->cpu != v->id) || vcpu_is_paused(v) ||
            atomic_exchange(&of(p, v)->queued, true))
            continue;
        vcpu_queue(v, fire_by_timer, GUINT_TO_POINTER(p->number));
    }
    return G_SOURCE_CONTINUE;
}

static bool start_timer(Policy *p, GError **err)
{
    if (!p->every.ns)
        return true;
    p->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (p->timer_fd < 0 || !set_timer(p))
        return policy_error(err, "no timer: %s", g_strerror(errno));
    p->timer_source = g_unix_fd_add(p->timer_fd, G_IO_IN, every_timer, p);
    return true;
}

static unsigned addresses(const Policy *p)
{
    return p->kind == POLICY_at ? 1 : p->kind == POLICY_region ? 2 : 0;
}

/* Breakpoints of the vCPU that needs most. */
static bool room(const Policies *all, const Policy *add, GError **err)
{
    for (unsigned cpu = 0; cpu < all->env.vm->n_vcpus; cpu++) {
        unsigned n = 0, in_kvm = 0;
        for (guint i = 0; i <= all->list->len; i++) {
            const Policy *p = i < all->list->len ? g_ptr_array_index(all->list, i) : add;
            if (p->cpu >= 0 && p->cpu != (int)cpu)
                continue;
            n += addresses(p);
            in_kvm += p->to != all->kvm ? addresses(p) : 0;
        }
        if (all->kvm && in_kvm > STOPS_MAX_KVM && addresses(add))
            return policy_error(err,
                                "KVM has %u breakpoints, and with this policy cpu %u needs %u "
                                "(at= takes 1, region= 2); cpu=N spreads them",
                                STOPS_MAX_KVM, cpu, in_kvm);
        if (n > STOPS_MAX)
            return policy_error(err, "more than %u addresses on cpu %u", STOPS_MAX, cpu);
    }
    return true;
}

bool policies_add(Policies *all, const char *text, unsigned *number, GString *warning, GError **err)
{
    Policy *p = g_new0(Policy, 1);
    p->all = all;
    p->n_cpus = all->env.vm->n_vcpus;
    p->per = g_new0(PolicyCpu, p->n_cpus);
    /* Moments differ from run to run; counts of instructions are the same ones each time. */
    p->random = (uint64_t)g_random_int() << 32 | 1;
    for (unsigned i = 0; i < p->n_cpus; i++)
        p->per[i].random = 0x9e3779b97f4a7c15 * (i + 1) + all->next;
    p->text = g_strdup(text);
    if (!policy_parse(p, text, warning, err) || !room(all, p, err) || !start_timer(p, err)) {
        policy_free(p);
        g_prefix_error(err, "policy '%s': ", text);
        return false;
    }
    *number = p->number = ++all->next;
    g_ptr_array_add(all->list, p);
    all->version++;
    return true;
}

static void forget(const Policies *all, const Policy *p)
{
    for (unsigned i = 0; i < all->env.vm->n_vcpus; i++) {
        VcpuLoop *l = all->env.vm->vcpu[i]->loop;
        PolicyLoop *pl = l ? l->policy : NULL;
        if (!pl)
            continue;
        pl->owner = pl->owner == p ? NULL : pl->owner;
        pl->active = pl->active == p ? NULL : pl->active;
        pl->back_at = pl->active ? pl->back_at : 0;
        pl->dirty = true;
    }
}

bool policies_delete(Policies *all, unsigned number, GError **err)
{
    bool any = false;
    for (guint i = all->list->len; i-- > 0;) {
        Policy *p = g_ptr_array_index(all->list, i);
        if (number && p->number != number)
            continue;
        forget(all, p);
        g_ptr_array_remove_index(all->list, i);
        policy_free(p);
        any = true;
    }
    all->version++;
    if (any || !number)
        return true;
    return policy_error(err, "there is no policy %u; 'switch-policy list' shows them", number);
}

void policies_list(const Policies *all, GString *out)
{
    for (guint i = 0; i < all->list->len; i++) {
        const Policy *p = g_ptr_array_index(all->list, i);
        char at[SYMBOL_TEXT];
        g_string_append_printf(out, "%u: %s", p->number, p->text);
        if (addresses(p))
            g_string_append_printf(out, "  [%#" G_GINT64_MODIFIER "x%s", p->addr,
                                   symbols_note(all->env.symbols, p->addr, at));
        if (p->kind == POLICY_region)
            g_string_append_printf(out, " to %#" G_GINT64_MODIFIER "x", p->end);
        g_string_append(out, addresses(p) ? "]\n" : "\n");
    }
}

void policies_describe(const Policies *all, const Vcpu *v, GString *out)
{
    static const char *const names[ENGINE_N] = {
        [ENGINE_KVM] = "kvm", [ENGINE_INTERP] = "interp", [ENGINE_JIT] = "jit"};
    const VcpuLoop *l = v->loop;
    for (guint i = 0; all && i < all->list->len; i++) {
        const Policy *p = g_ptr_array_index(all->list, i);
        const PolicyCpu *c = of(p, v);
        const PolicyLoop *pl = l ? l->policy : NULL;
        if (p->cpu >= 0 && p->cpu != v->id)
            continue;
        g_string_append_printf(out, "  policy %u (%s): fired %" G_GUINT64_FORMAT, p->number,
                               p->text, c->fired);
        for (unsigned e = 0; e < ENGINE_N; e++) {
            uint64_t ns = c->ns[e];
            if (pl && pl->owner == p && v->engine->id == e)
                ns += switch_since(l);
            if (ns)
                g_string_append_printf(out, ", %.3f ms in %s", (double)ns / 1e6, names[e]);
        }
        if (c->refused)
            g_string_append_printf(out, ", refused %" G_GUINT64_FORMAT " (last: %s)", c->refused,
                                   c->last_error);
        g_string_append(out, c->suspended ? "; rests\n" : "\n");
    }
}
