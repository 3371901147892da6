/*
 * Builds with ThreadSanitizer: it knows nothing of GLib's locks, which are futexes of GLib's own.
 * Here it is told of them. Empty otherwise.
 */
#if defined(__SANITIZE_THREAD__)

#include <dlfcn.h>
#include <glib.h>
#include <sanitizer/tsan_interface.h>

#define REAL(type, name)                      \
    static type real;                         \
    if (!real)                                \
        real = (type)dlsym(RTLD_NEXT, #name); \
    (void)0

typedef void MutexFn(GMutex *);
typedef gboolean TryFn(GMutex *);
typedef void WaitFn(GCond *, GMutex *);
typedef gboolean UntilFn(GCond *, GMutex *, gint64);

void g_mutex_lock(GMutex *m)
{
    REAL(MutexFn *, g_mutex_lock);
    __tsan_mutex_pre_lock(m, 0);
    real(m);
    __tsan_mutex_post_lock(m, 0, 0);
}

gboolean g_mutex_trylock(GMutex *m)
{
    REAL(TryFn *, g_mutex_trylock);
    __tsan_mutex_pre_lock(m, __tsan_mutex_try_lock);
    gboolean ok = real(m);
    __tsan_mutex_post_lock(m, ok ? __tsan_mutex_try_lock : __tsan_mutex_try_lock_failed, 0);
    return ok;
}

void g_mutex_unlock(GMutex *m)
{
    REAL(MutexFn *, g_mutex_unlock);
    __tsan_mutex_pre_unlock(m, 0);
    real(m);
    __tsan_mutex_post_unlock(m, 0);
}

static void let_go(GMutex *m)
{
    __tsan_mutex_pre_unlock(m, 0);
    __tsan_mutex_post_unlock(m, 0);
}

static void have_again(GMutex *m)
{
    __tsan_mutex_pre_lock(m, 0);
    __tsan_mutex_post_lock(m, 0, 0);
}

void g_cond_wait(GCond *c, GMutex *m)
{
    REAL(WaitFn *, g_cond_wait);
    let_go(m);
    real(c, m);
    have_again(m);
}

gboolean g_cond_wait_until(GCond *c, GMutex *m, gint64 end)
{
    REAL(UntilFn *, g_cond_wait_until);
    let_go(m);
    gboolean ok = real(c, m, end);
    have_again(m);
    return ok;
}

#else

extern int tsan_is_off; /* a file has to declare something */

#endif
