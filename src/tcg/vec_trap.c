/*
 * SIMD floating-point exceptions as the processor raises them.
 *
 * Which flags an unmasked exception leaves cannot be told from a run with all masked: whether an
 * underflow was inexact too, or which of the steps of DPPS came first. So while the guest has
 * exceptions unmasked, its instruction runs with the guest's own MXCSR in its thunk (vec.h), and
 * the SIGFPE of one that is raised ends the thunk: it has nothing on the stack but its return
 * address, and stores results last.
 */
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include "tcg/vec.h"

typedef struct Armed {
    const uint8_t *code, *end; /* where thunks are; NULL: not armed */
    uint32_t mxcsr_host;
    uint32_t mxcsr; /* as the exception left it; 0: none */
    bool unblocked;
} Armed;
static __thread volatile Armed armed;
static struct sigaction before;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void on_sigfpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *reg = uc->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)(uintptr_t)reg[REG_RIP];
    if (armed.code && at >= armed.code && at < armed.end) {
        struct _libc_fpstate *f = uc->uc_mcontext.fpregs;
        armed.mxcsr = f->mxcsr;
        armed.code = NULL;
        f->mxcsr = armed.mxcsr_host;
        f->ftw = 0; /* as EMMS does, in the form of FXSAVE: no register in use */
        reg[REG_RIP] = *(greg_t *)(uintptr_t)reg[REG_RSP];
        reg[REG_RSP] += 8;
        return;
    }
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(sig, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(sig);
    } else {
        signal(SIGFPE, SIG_DFL); /* it comes again, and ends the process */
    }
}

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigfpe,
                           .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGFPE, &sa, &before);
}

uint32_t vec_trap_run(VecCtx *c, const VecThunk *th, const VecSlots *p)
{
    pthread_once(&once, install);
    if (!armed.unblocked) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGFPE);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        armed.unblocked = true;
    }
    armed.mxcsr = 0;
    armed.mxcsr_host = c->mxcsr_host;
    armed.end = c->code_rx + c->code_size;
    armed.code = c->code_rx;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    th->fn(p->reg, p->rm, p->vvvv, c, p->is4, p->xmm0);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    armed.code = NULL;
    return armed.mxcsr;
}
