/*
 * Where KVM makes page tables of its own from the guest's (no EPT or NPT, or no hardware), it sees
 * what its vCPUs write to the guest's tables, and nothing of what a software engine does. A vCPU in
 * KVM that flushes its TLB, because another has told it to, would go on with what was there before:
 * CR3 and CR4 written, INVPCID, even INVLPG where it was a table further up that changed. When it
 * flushes nobody outside KVM is told, nor which pages such tables were made of.
 *
 * So on such a KVM vCPUs in it and vCPUs in a software engine do not run at the same time: they
 * take turns, and whenever a turn of the software engine's is over, all such tables go before the
 * first vCPU enters KVM. What a vCPU in KVM can see of another's stores it then sees in page tables
 * too. A vCPU that waits for its turn ends that of the others when it has lasted for TURN_NS; one
 * that halts has none, so a guest with something to wait for loses little.
 *
 * KVM makes no tables while nobody is in it. So they are dropped as the software engine's turn
 * begins, by the thread that an import has, too (forget.c). That waits for the host's RCU, on a
 * busy host for long; meanwhile the turn goes on, and KVM's next one makes up for it.
 *
 * A vCPU that leaves KVM for one instruction (rescue.c) waits for no turn: those in KVM would stand
 * still for each. If the instruction stores something, they do so from its first store on until KVM
 * has forgotten: who sees that store, and flushes, must not find the old tables.
 *
 * Code that a software engine has decoded may have been written to in KVM's turn: it holds it
 * against memory again in each of its own.
 *
 * Not needed, and not done, with EPT or NPT: there the processor walks the guest's own tables, each
 * vCPU's TLB is its own, and flushed by itself, as on any PC.
 */
#include "base/log.h"
#include "kvm/kvm.h"
#include "switch/loop_priv.h"

#define TURN_NS 2000000u  /* while others wait */
#define LOOK_NS 500000u   /* how soon one that waits looks again, whoever should have told it */
#define KVM_NS  50000000u /* KVM's lasts as long as it has waited for it; so long at the most */

enum Side { IN_KVM, IN_SOFTWARE };

typedef struct Turns {
    GMutex lock;
    unsigned in[2], waits[2]; /* vCPUs inside run(); asleep until it is their turn */
    enum Side last;           /* whose turn it is, or was */
    uint64_t until;           /* others may have theirs then, CLOCK_MONOTONIC; 0: none has asked */
    uint64_t least;           /* not before that, even then */
    uint64_t told;            /* when those whose turn it is were last told that it is over */
    uint64_t n;               /* times the turn went over */
    unsigned alone;           /* vCPUs that wait for all to be out of KVM */
    GCond out;                /* nobody is in KVM */
    GMutex dropping;
    bool stale; /* KVM's tables are from before a turn of the software engine's */
    bool said;
    unsigned loops;
} Turns;

void turns_begin(Vcpu *v)
{
    VmCommon *vm = v->vm;
    if (!vm->turns && vm->kvm && vm->n_vcpus > 1 && kvm_own_tables()) {
        Turns *t = g_new0(Turns, 1);
        g_mutex_init(&t->lock);
        g_mutex_init(&t->dropping);
        g_cond_init(&t->out);
        vm->turns = t;
    }
    if (vm->turns)
        ((Turns *)vm->turns)->loops++;
}

void turns_end(Vcpu *v)
{
    Turns *t = v->vm->turns;
    if (!t || --t->loops)
        return;
    g_mutex_clear(&t->lock);
    g_mutex_clear(&t->dropping);
    g_cond_clear(&t->out);
    g_free(t);
    v->vm->turns = NULL;
}

static void rouse_others(const Vcpu *v)
{
    for (unsigned i = 0; i < v->vm->n_vcpus; i++)
        if (v->vm->vcpu[i] != v)
            vcpu_kick(v->vm->vcpu[i], VREQ_WORK);
}

/* Is the time of those over whose turn it is? Not while the others would have to wait for KVM. */
static bool is_over(const Turns *t, const VmCommon *vm, uint64_t now)
{
    return t->until && now >= t->until && (t->last == IN_KVM || !kvm_drops_tables(vm));
}

/* ... and is somebody there to go on? */
static bool must_yield(Turns *t, const VmCommon *vm, enum Side side, uint64_t now)
{
    if (t->last != side || !is_over(t, vm, now))
        return false;
    if (t->waits[!side] || now < t->until + LOOK_NS)
        return true;
    t->until = 0; /* who has asked went to sleep */
    return false;
}

/* Turns.lock held. False: not now. */
static bool take(Turns *t, const VmCommon *vm, enum Side side, uint64_t now)
{
    if (t->in[!side] || (side == IN_KVM && t->alone) || must_yield(t, vm, side, now))
        return false;
    if (t->last != side) {
        uint64_t waited = t->until && now > t->until ? now - t->until : 0;
        t->least = now + (side == IN_KVM ? MIN_OF(TURN_NS + waited, KVM_NS) : TURN_NS);
        t->last = side;
        t->until = t->waits[!side] ? t->least : 0;
        t->n++;
    }
    if (side == IN_SOFTWARE)
        t->stale = true;
    t->in[side]++;
    return true;
}

bool turns_take(VcpuLoop *l)
{
    Turns *t = l->v->vm->turns;
    if (likely(!t) || rescue_limit(l)->max_insns)
        return true;
    enum Side side = l->v->engine->is_software ? IN_SOFTWARE : IN_KVM;
    uint64_t now = switch_now_ns();
    g_mutex_lock(&t->lock);
    if (take(t, l->v->vm, side, now)) {
        l->turn = 1 + (int)side;
        l->turn_new = l->turn_n != t->n;
        l->turn_n = t->n;
        g_mutex_unlock(&t->lock);
        return true;
    }
    if (!t->until)
        t->until = MAX_OF(now + TURN_NS, t->least);
    bool said = t->said,
         end = t->in[!side] && is_over(t, l->v->vm, now) && now >= t->told + LOOK_NS;
    uint64_t until = now < t->until ? t->until : now + LOOK_NS;
    t->said = true;
    if (end)
        t->told = now;
    t->waits[side]++;
    g_mutex_unlock(&t->lock);
    if (!said || end) {
        pthread_mutex_unlock(&l->lock);
        if (!said)
            warn_user("this KVM makes page tables of its own: while some vCPUs are in kvm and "
                      "others are not, they take turns ('info switch -v')");
        if (end)
            rouse_others(l->v);
        pthread_mutex_lock(&l->lock);
    } else {
        loop_sleep(l, until);
    }
    g_mutex_lock(&t->lock);
    t->waits[side]--;
    g_mutex_unlock(&t->lock);
    return false;
}

bool turns_run(VcpuLoop *l, GError **err)
{
    Turns *t = l->v->vm->turns;
    bool ok = true;
    if (likely(!l->turn))
        return true;
    if (l->turn == 1 + IN_SOFTWARE) {
        if (l->turn_new) {
            kvm_drop_tables(l->v->vm);
            vcpu_request(l->v, VREQ_TLB_FLUSH);
        }
        return true;
    }
    /* Nobody is in a software engine, so it stays false until the turn is over. */
    g_mutex_lock(&t->dropping);
    if (t->stale)
        ok = kvm_forget_tables(l->v, err);
    t->stale &= !ok;
    g_mutex_unlock(&t->dropping);
    return ok;
}

/* Before the first store of an instruction behind which v is in KVM again: it has a turn of the
 * software engine's for it, which is nobody else's, and does not change whose is next. */
void turns_store(Vcpu *v)
{
    Turns *t = v->vm->turns;
    if (!t)
        return;
    g_mutex_lock(&t->lock);
    t->alone++;
    if (t->in[IN_KVM]) {
        g_mutex_unlock(&t->lock);
        rouse_others(v);
        g_mutex_lock(&t->lock);
    }
    while (t->in[IN_KVM])
        g_cond_wait(&t->out, &t->lock);
    t->alone--;
    t->in[IN_SOFTWARE]++;
    t->stale = true;
    g_mutex_unlock(&t->lock);
    ((VcpuLoop *)v->loop)->turn = 1 + IN_SOFTWARE;
}

/* Before the others go on, so that what they are about to make need not go again when v is back. */
static void forget_rescued(Vcpu *v, Turns *t)
{
    g_mutex_lock(&t->dropping);
    bool ok = kvm_forget_tables(v, NULL);
    g_mutex_lock(&t->lock);
    if (ok && t->in[IN_SOFTWARE] == 1)
        t->stale = false;
    g_mutex_unlock(&t->lock);
    g_mutex_unlock(&t->dropping);
    if (ok)
        v->wrote_unseen = false;
}

void turns_leave(VcpuLoop *l)
{
    Turns *t = l->v->vm->turns;
    if (likely(!l->turn))
        return;
    enum Side side = (enum Side)(l->turn - 1);
    if (side == IN_KVM)
        kvm_outside(l->v);
    else if (rescue_limit(l)->max_insns)
        forget_rescued(l->v, t);
    l->turn = 0;
    g_mutex_lock(&t->lock);
    bool last = --t->in[side] == 0, tell = last && t->waits[!side];
    if (last && side == IN_KVM)
        g_cond_broadcast(&t->out);
    g_mutex_unlock(&t->lock);
    if (tell)
        rouse_others(l->v);
}

bool turns_count(const VmCommon *vm, uint64_t *n)
{
    Turns *t = vm->turns;
    if (!t)
        return false;
    g_mutex_lock(&t->lock);
    *n = t->n;
    g_mutex_unlock(&t->lock);
    return true;
}
