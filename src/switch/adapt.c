#include "switch/adapt.h"

#include <sys/resource.h>

#include "switch/loop_priv.h"

/* One window says little: the guest may have been busy with a device. */
enum { POOR_WINDOWS = 2, GOOD_WINDOWS = 8 };
/* A window is over when the thread has run for so long, unless it mostly sleeps. Less would be a
 * handful of the ticks by which some kernels tell user from kernel time. */
#define BUSY_NS     (60 * NS_PER_MS)
#define WINDOW_NS   (2 * NS_PER_S)
#define AWAY_NS     NS_PER_S
#define AWAY_MAX_NS (32 * NS_PER_S)

static uint64_t percent(uint64_t part, uint64_t whole)
{
    return whole ? part * 100 / whole : 0;
}

bool adapt_judge(Adapt *a, const AdaptSample *now, bool in_kvm, uint64_t *away_ns)
{
    const AdaptSample was = a->last;
    bool fresh = !a->sampled || a->was_in_kvm != in_kvm;
    uint64_t wall = now->wall_ns - was.wall_ns, user = now->user_ns - was.user_ns,
             busy = user + now->kernel_ns - was.kernel_ns;

    a->sampled = true;
    a->was_in_kvm = in_kvm;
    if (!fresh && busy < BUSY_NS && wall < WINDOW_NS)
        return false;
    a->last = *now;
    /* A window with a switch in it is of neither engine; one spent asleep says nothing. */
    if (fresh || busy < BUSY_NS)
        return false;
    if (!in_kvm) {
        unsigned mips = (unsigned)((now->insns - was.insns) * 1000 / busy);
        a->soft_mips = MAX_OF(1u, (a->soft_mips * 3 + mips) / 4);
        return false;
    }
    a->share = (unsigned)percent(user, busy);
    a->rescues_s = (double)(now->rescues - was.rescues) * 1e9 / (double)wall;
    if (!a->kvm_mips)
        return false;
    unsigned kvm = a->kvm_mips * a->share / 100;
    if (kvm >= a->soft_mips) {
        a->poor = 0;
        if (++a->good >= GOOD_WINDOWS)
            a->away_ns = 0;
        return false;
    }
    a->good = 0;
    if (++a->poor < POOR_WINDOWS)
        return false;
    a->poor = 0;
    a->away_ns = a->away_ns ? MIN_OF(a->away_ns * 2, AWAY_MAX_NS) : AWAY_NS;
    *away_ns = a->away_ns;
    g_snprintf(a->why, sizeof(a->why),
               "%u %% of its time in KVM went into the guest, with %.0f rescues a second: about %u "
               "million instructions a second, where the software engine makes %u",
               a->share, a->rescues_s, kvm, a->soft_mips);
    return true;
}

static uint64_t ns_of(struct timeval t)
{
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_usec * 1000;
}

void adapt_vcpu(Adapt *a, Vcpu *v)
{
    struct rusage u;
    RescuePolicy p;
    uint64_t away;
    if (getrusage(RUSAGE_THREAD, &u) < 0)
        return;
    AdaptSample now = {.wall_ns = switch_now_ns(),
                       .user_ns = ns_of(u.ru_utime),
                       .kernel_ns = ns_of(u.ru_stime),
                       .insns = v->insns,
                       .rescues = vcpu_rescue_stats(v, &p)->insns};
    if (adapt_judge(a, &now, !v->engine->is_software, &away) && vcpu_stay_away(v, away, a->why))
        a->moves++;
}

void adapt_describe(const Adapt *a, GString *out)
{
    g_string_append_printf(out,
                           "%u %% of its time in KVM in the guest, %.0f rescues a second; software "
                           "engine %u million instructions a second; moved %" G_GUINT64_FORMAT
                           " times",
                           a->share, a->rescues_s, a->soft_mips, a->moves);
    if (a->moves)
        g_string_append_printf(out, ", last because %s", a->why);
}
