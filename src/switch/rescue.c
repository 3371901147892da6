/*
 * Rescue, on the vCPU's own thread and between two run() calls:
 *
 *     KVM: error -> rescue_take() notes it -> rescue_work(): switch to the software engine
 *       one instruction: run(max 1) -> rescue_ran() -> rescue_work(): switch back
 *       a stay: run() ... timer -> kick -> rescue_work(): switch back, or stay on if refused
 *
 * The switch is that of switch.c with all its steps: nothing is carried over here. It is not made
 * inside run_engine(), because who kicks a vCPU that is in an engine takes Vcpu.engine for it.
 */
#include "switch/rescue.h"

#include <string.h>

#include "base/log.h"
#include "switch/loop_priv.h"
#include "vmstate/checks.h"

/*
 * A rescue is two switches: between a tenth of a millisecond and a few tenths where ioctls are
 * slow. So a window with `most` of them is one that was spent on switching.
 */
enum { MOST = 64 };
#define WINDOW_NS   (50 * NS_PER_MS)
#define STAY_NS     (50 * NS_PER_MS)
#define STAY_MAX_NS (8 * NS_PER_S)

void vcpu_rescue_set(Vcpu *v, const RescuePolicy *p)
{
    VcpuLoop *l = v->loop;
    l->rescue.policy = *p;
    if (p->most)
        return;
    l->rescue.policy.most = MOST;
    l->rescue.policy.window_ns = WINDOW_NS;
    l->rescue.policy.stay_ns = STAY_NS;
    l->rescue.policy.stay_max_ns = STAY_MAX_NS;
}

const RescueStats *vcpu_rescue_stats(const Vcpu *v, RescuePolicy *policy)
{
    VcpuLoop *l = v->loop;
    if (!l)
        return NULL;
    *policy = l->rescue.policy;
    l->rescue.stats.away = l->rescue.home && l->rescue.until;
    return &l->rescue.stats;
}

/* ---- the list of hot instructions ---- */

static uint8_t code_bits(const CpuState *s)
{
    if (cpu_code64(s))
        return 64;
    return s->seg[CS].attr & SEG_DB ? 32 : 16;
}

static void note_hot(RescueStats *st, const CpuState *s, const Exit *e)
{
    RescueHot *least = &st->hot[0];
    for (unsigned i = 0; i < RESCUE_HOT; i++) {
        RescueHot *h = &st->hot[i];
        if (h->count && h->rip == s->rip && h->len == e->insn_len &&
            !memcmp(h->insn, e->insn, h->len)) {
            h->count++;
            return;
        }
        if (h->count < least->count)
            least = h;
    }
    least->rip = s->rip;
    least->len = e->insn_len;
    memcpy(least->insn, e->insn, sizeof(least->insn));
    least->bits = code_bits(s);
    least->count++;
}

/* ---- stays ---- */

static gboolean stay_over(gpointer opaque)
{
    vcpu_kick(opaque, VREQ_WORK);
    return G_SOURCE_REMOVE;
}

static void drop_timer(Rescue *r)
{
    if (!r->timer)
        return;
    g_source_destroy(r->timer);
    g_source_unref(r->timer);
    r->timer = NULL;
}

static void first_store(void *v)
{
    turns_store(v);
}

/* Before a software engine has the vCPU; unless somebody else does. */
static void note_stores(VcpuLoop *l)
{
    write_log_clear(&l->rescue.log);
    l->rescue.log.first = first_store;
    l->rescue.log.opaque = l->v;
    if (!l->v->writes)
        l->v->writes = &l->rescue.log;
}

static void note_no_stores(VcpuLoop *l)
{
    if (l->v->writes == &l->rescue.log)
        l->v->writes = NULL;
}

void rescue_end(VcpuLoop *l)
{
    drop_timer(&l->rescue);
    note_no_stores(l);
    write_log_free(&l->rescue.log);
}

static bool moves_alone(const VcpuLoop *l)
{
    return l->v->vm->irqchip == IRQCHIP_OFF;
}

/* Until then the vCPU stays in the software engine. */
static void stay_for(VcpuLoop *l, uint64_t ns, const char *why)
{
    Rescue *r = &l->rescue;

    note_no_stores(l);
    r->until = switch_now_ns() + ns;
    if (!moves_alone(l)) {
        /* The interrupts it would miss come with the others. */
        r->stats.stay_ns += ns;
        vcpu_pause(l->v);
        r->policy.all_away(l->v, ns, true);
        return;
    }
    r->stats.stay_ns += ns;
    drop_timer(r);
    r->timer = g_timeout_source_new((guint)(ns / NS_PER_MS + 1));
    g_source_set_priority(r->timer, G_PRIORITY_HIGH);
    g_source_set_callback(r->timer, stay_over, l->v, NULL);
    g_source_attach(r->timer, NULL);
    if (log_on(LOG_SWITCH))
        log_line("cpu %d stays in %s for %u ms: %s", l->v->id, r->policy.engine->name,
                 (unsigned)(ns / NS_PER_MS), why);
}

static void stay(VcpuLoop *l, const char *why)
{
    Rescue *r = &l->rescue;
    uint64_t now = switch_now_ns();

    /* A stay soon after the last one: that one did not help. */
    bool soon = r->stats.stays && now - r->stay_end < r->stay;
    r->stay = !soon ? r->policy.stay_ns : MIN_OF(r->stay * 2, r->policy.stay_max_ns);
    r->stay_end = now + r->stay;
    r->stats.stays++;
    g_strlcpy(r->stats.why, why, sizeof(r->stats.why));
    stay_for(l, r->stay, why);
    if (!r->said)
        warn_user("cpu %d: %s; the guest goes on in %s, and %s is tried again now and then "
                  "('info rescue')",
                  l->v->id, why, r->policy.engine->name, r->home->name);
    r->said = true;
}

bool vcpu_stay_away(Vcpu *v, uint64_t ns, const char *why)
{
    VcpuLoop *l = v->loop;
    const Engine *home = v->engine;
    if (!l->rescue.policy.engine || home->is_software || l->rescue.pending)
        return false;
    if (!moves_alone(l)) {
        l->rescue.stats.stay_ns += ns;
        l->rescue.policy.all_away(v, ns, false);
        return true;
    }
    if (!vcpu_switch(v, l->rescue.policy.engine, SWITCH_RESCUE, NULL))
        return false;
    l->rescue.home = home;
    stay_for(l, ns, why);
    return true;
}

static bool too_many(Rescue *r)
{
    uint64_t now = switch_now_ns();
    if (now - r->window_start > r->policy.window_ns) {
        r->window_start = now;
        r->in_window = 0;
    }
    return ++r->in_window >= r->policy.most;
}

void rescue_forget(VcpuLoop *l)
{
    l->rescue.home = NULL;
    l->rescue.until = 0;
    l->rescue.pending = l->rescue.single_done = false;
    drop_timer(&l->rescue);
    note_no_stores(l);
}

/* ---- there and back ---- */

bool rescue_take(VcpuLoop *l, const Exit *e)
{
    Rescue *r = &l->rescue;
    if (!r->policy.engine || l->v->engine->is_software)
        return false;
    if (e->kind == EXIT_SHUTDOWN && !r->policy.confirm_shutdown)
        return false;
    if (r->policy.stores_only && e->kind != EXIT_GUARDED)
        return false;
    r->exit = *e;
    r->pending = true;
    return true;
}

/* Which check the state fails that the hardware refused, if ours has it. In v->st, as exported. */
static void name_bad_field(Vcpu *v, char *why, size_t n)
{
    g_autoptr(GError) err = NULL;
    CheckNote first;
    CheckNotes noted = {&first, 1, 0};
    CheckInfo c;
    if (v->where == ST_IN_ENGINE && !switch_export(v, &err))
        return;
    if (!switch_check(v, &noted, &err)) {
        g_strlcat(why, ": ", n);
        g_strlcat(why, err->message, n);
    } else if (noted.n && vmentry_check_info(first.check, &c)) {
        g_strlcat(why, "; VM-entry check '", n);
        g_strlcat(why, c.name, n);
        g_strlcat(why, "' noted: ", n);
        g_strlcat(why, first.why, n);
    } else {
        g_strlcat(why, "; every VM-entry check of ours passes", n);
    }
}

/* What the shutdown was made of is not repeated; the instruction that led to it is. */
static void undo_shutdown(Vcpu *v)
{
    memset(&v->st.ev.exception, 0, sizeof(v->st.ev.exception));
    v->st.ev.triple_fault = false;
    v->st.run_state = RUN_RUNNING;
}

static void leave(VcpuLoop *l)
{
    Rescue *r = &l->rescue;
    Vcpu *v = l->v;
    GError *err = NULL;
    Exit e = r->exit;
    char why[200];

    g_strlcpy(why, e.msg, sizeof(why));
    if (e.kind == EXIT_FAIL_ENTRY && !r->named)
        name_bad_field(v, why, sizeof(why));
    r->pending = r->named = false;
    if (e.kind == EXIT_SHUTDOWN && !vcpu_sync_state(v, &err)) {
        loop_report_gerror(l, "shutdown: ", err);
        return;
    }
    if (e.kind == EXIT_SHUTDOWN)
        undo_shutdown(v);
    const Engine *home = v->engine;
    note_stores(l);
    if (!vcpu_switch(v, r->policy.engine, SWITCH_RESCUE, &err)) {
        note_no_stores(l);
        g_strlcat(e.msg, "; ", sizeof(e.msg));
        g_strlcat(e.msg, err->message, sizeof(e.msg));
        g_error_free(err);
        loop_report(l, &e);
        return;
    }
    r->home = home;
    r->until = 0;
    r->single_done = false;
    r->checks_shutdown = e.kind == EXIT_SHUTDOWN;
    if (e.kind == EXIT_FAIL_ENTRY) {
        r->stats.entries++;
        stay(l, why);
    } else if (e.kind == EXIT_INTERNAL_ERROR && !e.insn_len) {
        r->stats.errors++;
        stay(l, why);
    } else if (e.kind == EXIT_INTERNAL_ERROR || e.kind == EXIT_GUARDED) {
        r->stats.insns++;
        if (e.kind == EXIT_GUARDED)
            r->stats.stores++;
        else
            note_hot(&r->stats, &v->st, &e);
        if (too_many(r)) {
            g_snprintf(why, sizeof(why), "%u instructions in %u ms that %s cannot execute",
                       r->in_window, (unsigned)(r->policy.window_ns / NS_PER_MS), home->name);
            r->in_window = 0;
            stay(l, why);
        }
    }
}

static void come_home(VcpuLoop *l)
{
    Rescue *r = &l->rescue;
    g_autoptr(GError) err = NULL;

    r->single_done = false;
    if (vcpu_switch(l->v, r->home, SWITCH_RESCUE, &err)) {
        rescue_forget(l);
        return;
    }
    const char *why = strstr(err->message, ": "); /* behind "cpu 0 stays in ...": we say that */
    r->stats.not_back++;
    stay(l, why ? why + 2 : err->message);
}

bool rescue_has_work(const VcpuLoop *l)
{
    const Rescue *r = &l->rescue;
    if (likely(!r->pending && !r->home))
        return false;
    return r->pending || r->single_done || (r->until && switch_now_ns() >= r->until);
}

void rescue_work(VcpuLoop *l)
{
    if (l->rescue.pending)
        leave(l);
    else
        come_home(l);
}

const RunLimit *rescue_limit(const VcpuLoop *l)
{
    static const RunLimit unlimited, single = {.max_insns = 1, .whole = true};
    return l->rescue.home && !l->rescue.until ? &single : &unlimited;
}

void rescue_ran(VcpuLoop *l, const Exit *e)
{
    Rescue *r = &l->rescue;
    if (likely(!r->home))
        return;
    r->log.first = first_store; /* in the next run(), which has a turn of its own */
    if (e->kind == EXIT_KICK)
        return;
    if (r->checks_shutdown && e->kind != EXIT_SHUTDOWN)
        r->stats.shutdowns++;
    r->checks_shutdown = false;
    r->single_done = !r->until;
}

bool rescue_refused(VcpuLoop *l, const GError *err)
{
    Exit e = {.kind = EXIT_FAIL_ENTRY};
    g_strlcpy(e.msg, err->message, sizeof(e.msg));
    l->rescue.named = true; /* the message names it */
    return rescue_take(l, &e);
}
