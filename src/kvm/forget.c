/*
 * Where KVM makes page tables of its own from the guest's (KvmHost.shadow_tables), those made
 * before a software engine wrote to the guest's have to go before a vCPU enters KVM again. Taking
 * any memory slot away makes KVM drop all of them. That waits for the host's RCU: longer than all
 * the rest of a switch into KVM, and for milliseconds on a busy host.
 *
 * KVM makes such tables in KVM_RUN and nowhere else. So none come up between the moment the last
 * vCPU has left and the next KVM_RUN of any, and they may be dropped any time in between: a thread
 * does it while the vCPUs run in the software engine, from kvm_away() on. An import that finds none
 * has nothing to do. One that comes while the thread is at it waits for the rest of it; one that
 * comes before it has begun, or while another vCPU may be in KVM, does it on the spot.
 *
 * `tables` is false only if there are none. Who says so, and why it is true:
 *
 *     the drop, under `lock`:  tables = false;  inside != 0 ? tables = true;  the ioctl
 *     a vCPU before KVM_RUN:   inside++ (unless it counts already);  tables = true
 *     a vCPU behind KVM_RUN:   inside--, sometime: in kvm_away(), or as it imports
 *
 * each of these in one order that all threads see (they are sequentially consistent). Suppose that
 * an import finds `tables` false, under `lock`, and yet a vCPU has made a table since the last drop
 * emptied KVM. It had raised `inside` before. If that was before the drop looked at it, the drop
 * saw it, and set `tables` for good; unless it had been lowered again by then, so that its KVM_RUN
 * was over before the ioctl began, which dropped what it had made. If it was after the drop looked,
 * then so was its `tables = true`, which nobody has undone. A vCPU that enters behind the import
 * makes its tables from what memory holds then, with every store that was made before.
 *
 * Who need not go into KVM just now (a policy's timer) may ask first, and is told when there is
 * nothing to wait for; who asks for a switch from another thread waits there, while the vCPU runs.
 *
 * A vCPU that goes away for one instruction (rescue) does not say so: to wake a thread costs more
 * than it would save, and one that stores nothing (Vcpu.writes) leaves no table to be dropped.
 */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

/* Two places beside the pages that set_up() in vm.c keeps for KVM: neither RAM nor device. */
#define SPARE_GPA 0xfeffa000ull

static bool put_spare(KvmVm *kvm, unsigned place, bool there, GError **err)
{
    static uint8_t page[4096] __attribute__((aligned(4096)));
    struct kvm_userspace_memory_region r = {
        .slot = MEMMAP_MAX,
        .flags = there ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = SPARE_GPA + place * sizeof(page),
        .memory_size = there ? sizeof(page) : 0,
        .userspace_addr = (uintptr_t)page,
    };
    return ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &r) == 0 ||
           kvm_error(err, "KVM_SET_USER_MEMORY_REGION (for KVM to drop its page tables)");
}

/* A slot that moves is taken away and put elsewhere in one go. Its place: spare - 1. */
static bool move_spare(KvmVm *kvm, GError **err)
{
    KvmForget *f = &kvm->forget;
    if (f->spare && put_spare(kvm, f->spare % 2, true, NULL)) {
        f->spare = 1 + f->spare % 2;
        return true;
    }
    f->spare = (f->spare || put_spare(kvm, 0, true, err)) && put_spare(kvm, 0, false, err) &&
               put_spare(kvm, 0, true, err);
    return f->spare;
}

/* Lock held. */
static bool drop(KvmVm *kvm, GError **err)
{
    KvmForget *f = &kvm->forget;
    if (!atomic_load(&f->tables))
        return true;
    atomic_store(&f->tables, false);
    if (atomic_load(&f->inside))
        atomic_store(&f->tables, true);
    bool ok = move_spare(kvm, err);
    if (!ok)
        atomic_store(&f->tables, true);
    return ok;
}

void kvm_tables_entering(KvmVcpu *kv)
{
    KvmForget *f = &kv->vm->forget;
    if (likely(kv->inside))
        return;
    kv->inside = true;
    atomic_fetch_add(&f->inside, 1);
    atomic_store(&f->tables, true);
}

void kvm_tables_left(KvmVcpu *kv)
{
    if (kv->inside)
        atomic_fetch_sub(&kv->vm->forget.inside, 1);
    kv->inside = false;
}

bool kvm_tables_drop(KvmVcpu *kv, GError **err)
{
    KvmForget *f = &kv->vm->forget;
    kvm_tables_left(kv);
    g_mutex_lock(&f->lock);
    bool ok = drop(kv->vm, err);
    g_mutex_unlock(&f->lock);
    return ok;
}

/* ---- the thread ---- */

/*
 * Whoever wakes the thread must not lose its processor to it: it would wait for just what it is to
 * be spared. So the thread waits in the class that preempts nobody. At work it is an ordinary one,
 * as an import may wait for it.
 */
static void wakes_politely(bool yes)
{
    pthread_setschedparam(pthread_self(), yes ? SCHED_BATCH : SCHED_OTHER,
                          &(struct sched_param){.sched_priority = 0});
}

/* An import that comes now has nothing to wait for. With the lock held, so that nobody is told who
 * has cancelled. */
static void tell_ready(KvmForget *f)
{
    g_mutex_lock(&f->ready_lock);
    for (GSList *at = f->waiting; at; at = at->next) {
        KvmWaiter *w = at->data;
        w->then(w->v, w->opaque);
    }
    g_slist_free_full(f->waiting, g_free);
    f->waiting = NULL;
    g_mutex_unlock(&f->ready_lock);
}

static GSList *waiter_of(const KvmForget *f, const Vcpu *v)
{
    for (GSList *at = f->waiting; at; at = at->next)
        if (((KvmWaiter *)at->data)->v == v)
            return at;
    return NULL;
}

bool kvm_ready(Vcpu *v, KvmReady *then, void *opaque)
{
    KvmVcpu *kv = kvm_of(v);
    if (!kv || !kv->vm->host->shadow_tables)
        return true;
    KvmForget *f = &kv->vm->forget;
    g_mutex_lock(&f->ready_lock);
    pthread_mutex_lock(&f->asking);
    bool waits = f->asked || f->works;
    pthread_mutex_unlock(&f->asking);
    waits = waits && !waiter_of(f, v);
    if (waits) {
        KvmWaiter *w = g_new(KvmWaiter, 1);
        *w = (KvmWaiter){v, then, opaque};
        f->waiting = g_slist_prepend(f->waiting, w);
    }
    g_mutex_unlock(&f->ready_lock);
    return !waits;
}

void kvm_ready_cancel(Vcpu *v)
{
    KvmVm *kvm = v->vm->kvm;
    if (!kvm)
        return;
    g_mutex_lock(&kvm->forget.ready_lock);
    GSList *at = waiter_of(&kvm->forget, v);
    if (at) {
        g_free(at->data);
        kvm->forget.waiting = g_slist_delete_link(kvm->forget.waiting, at);
    }
    g_mutex_unlock(&kvm->forget.ready_lock);
}

void kvm_wait_ready(VmCommon *vm)
{
    KvmVm *kvm = vm->kvm;
    if (!kvm || !kvm->host->shadow_tables)
        return;
    KvmForget *f = &kvm->forget;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&f->asking);
    while ((f->asked || f->works) && pthread_cond_timedwait(&f->rest, &f->asking, &until) == 0)
        ;
    pthread_mutex_unlock(&f->asking);
}

/* What fails here stays to be done, and is reported, by an import. */
static void *worker(void *opaque)
{
    KvmVm *kvm = opaque;
    KvmForget *f = &kvm->forget;
    wakes_politely(true);
    pthread_mutex_lock(&f->asking);
    while (!f->quit) {
        if (!f->asked) {
            pthread_cond_wait(&f->ask, &f->asking);
            continue;
        }
        f->asked = false;
        f->works = true;
        pthread_mutex_unlock(&f->asking);
        wakes_politely(false);
        g_mutex_lock(&f->lock);
        /* Not while a vCPU is back: then it would be for nothing. */
        if (!atomic_load(&f->inside))
            drop(kvm, NULL);
        g_mutex_unlock(&f->lock);
        pthread_mutex_lock(&f->asking);
        f->works = false;
        pthread_cond_broadcast(&f->rest);
        pthread_mutex_unlock(&f->asking);
        tell_ready(f);
        wakes_politely(true);
        pthread_mutex_lock(&f->asking);
    }
    pthread_mutex_unlock(&f->asking);
    return NULL;
}

/* Signals are for the threads that wait for them. */
static bool start_worker(KvmVm *kvm)
{
    KvmForget *f = &kvm->forget;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    f->started = pthread_create(&f->thread, NULL, worker, kvm) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (f->started)
        pthread_setname_np(f->thread, "kvm tables");
    return f->started;
}

void kvm_drop_tables(VmCommon *vm)
{
    KvmVm *kvm = vm->kvm;
    KvmForget *f = &kvm->forget;
    if (atomic_load(&f->inside) || !atomic_load(&f->tables))
        return;
    pthread_mutex_lock(&f->asking);
    f->asked = f->started || start_worker(kvm);
    if (f->asked)
        pthread_cond_signal(&f->ask);
    pthread_mutex_unlock(&f->asking);
}

bool kvm_drops_tables(const VmCommon *vm)
{
    KvmForget *f = &((KvmVm *)vm->kvm)->forget;
    pthread_mutex_lock(&f->asking);
    bool yes = f->asked || f->works;
    pthread_mutex_unlock(&f->asking);
    return yes;
}

void kvm_away(Vcpu *v)
{
    KvmVcpu *kv = kvm_of(v);
    if (!kv || !kv->vm->host->shadow_tables)
        return;
    kvm_tables_left(kv);
    kvm_drop_tables(v->vm);
}

bool kvm_own_tables(void)
{
    const KvmHost *h = kvm_host(NULL);
    return h && h->shadow_tables;
}

bool kvm_forget_tables(Vcpu *v, GError **err)
{
    return kvm_tables_drop(kvm_of(v), err);
}

void kvm_outside(Vcpu *v)
{
    kvm_tables_left(kvm_of(v));
}

void kvm_tables_init(KvmVm *kvm)
{
    g_mutex_init(&kvm->forget.lock);
    g_mutex_init(&kvm->forget.ready_lock);
    pthread_mutex_init(&kvm->forget.asking, NULL);
    pthread_cond_init(&kvm->forget.ask, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&kvm->forget.rest, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void kvm_tables_end(KvmVm *kvm)
{
    KvmForget *f = &kvm->forget;
    pthread_mutex_lock(&f->asking);
    f->quit = true;
    pthread_cond_signal(&f->ask);
    pthread_mutex_unlock(&f->asking);
    if (f->started)
        pthread_join(f->thread, NULL);
    tell_ready(f); /* another VM has the vCPUs now */
    g_mutex_clear(&f->ready_lock);
    g_mutex_clear(&f->lock);
    pthread_mutex_destroy(&f->asking);
    pthread_cond_destroy(&f->ask);
    pthread_cond_destroy(&f->rest);
}
