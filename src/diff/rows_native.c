/* Code of `bench rows` on the bare processor: see rows.h. */
#include "diff/rows.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

uint64_t rows_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double rows_measure(double (*time_of)(void *opaque, uint64_t rounds), void *opaque)
{
    const double enough = 300000; /* ns: much more than what begins and ends a measurement */
    double best = -1;
    uint64_t rounds = 16;
    for (double ns = 0; ns < enough && rounds < 1u << 22; rounds *= 2) {
        ns = time_of(opaque, rounds);
        if (ns < 0)
            return -1;
        best = ns / (double)rounds;
    }
    for (unsigned k = 0; k < 4; k++) {
        double ns = time_of(opaque, rounds / 2) / (double)(rounds / 2);
        best = MIN(best, ns);
    }
    return best;
}

/* ---- the child ---- */
static sigjmp_buf back;
static uint64_t stop_at;

static void on_signal(int sig, siginfo_t *info G_GNUC_UNUSED, void *context)
{
    const ucontext_t *uc = context;
    bool end = sig == SIGSEGV && (uint64_t)uc->uc_mcontext.gregs[REG_RIP] == stop_at;
    if (!end)
        _exit(1); /* nothing of this process can be relied on */
    siglongjmp(back, 1);
}

typedef struct Native {
    const DiffCase *c;
    const RowsCode *code;
} Native;

static bool map_at(uint64_t at, size_t bytes)
{
    void *p = mmap((void *)(uintptr_t)at, bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)(uintptr_t)at;
}

static double native_time(void *opaque, uint64_t rounds)
{
    const Native *n = opaque;
    memcpy((void *)(uintptr_t)CASE_DATA, n->c->data, CASE_DATA_BYTES);
    memcpy((void *)(uintptr_t)CASE_STACK, n->c->stack, CASE_STACK_BYTES);
    memset((void *)(uintptr_t)CASE_CODE, 0xcc, CASE_CODE_BYTES);
    memcpy((void *)(uintptr_t)CASE_CODE, n->code->code, n->code->size);
    memcpy((void *)(uintptr_t)ROWS_COUNTER, &rounds, 8);
    stop_at = CASE_CODE + n->code->stop;
    volatile uint64_t begun = rows_now();
    if (!sigsetjmp(back, 1)) {
        /* Comes back by on_signal() alone. Takes no registers: the code loads them all. */
        __asm__ volatile("jmp *%0" : : "r"(CASE_CODE) : "memory");
        __builtin_unreachable();
    }
    uint64_t took = rows_now() - begun;
    __asm__ volatile("fninit; cld" : : : "memory");
    return (double)took;
}

static void G_GNUC_NORETURN child(const DiffCase *c, const RowsCode *all, const RowsCode *one,
                                  int to)
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
    static uint8_t stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    double ns[2];
    sigaltstack(&ss, NULL);
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++)
        sigaction(sigs[k], &sa, NULL);
    alarm(5);
    if (!map_at(CASE_CODE, CASE_CODE_BYTES) || !map_at(CASE_DATA, CASE_DATA_BYTES) ||
        !map_at(CASE_STACK, CASE_STACK_BYTES))
        _exit(1);
    ns[0] = rows_measure(native_time, &(Native){c, all});
    ns[1] = rows_measure(native_time, &(Native){c, one});
    _exit(write(to, ns, sizeof(ns)) == sizeof(ns) ? 0 : 1);
}

bool rows_native(const DiffCase *c, const RowsCode *all, const RowsCode *one, double *all_ns,
                 double *one_ns)
{
    int pipes[2], status;
    double ns[2];
    if (pipe(pipes) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        child(c, all, one, pipes[1]);
    close(pipes[1]);
    bool ok = pid > 0 && read(pipes[0], ns, sizeof(ns)) == sizeof(ns);
    close(pipes[0]);
    if (pid > 0)
        while (waitpid(pid, &status, 0) < 0) {
        }
    *all_ns = ok ? ns[0] : -1;
    *one_ns = ok ? ns[1] : -1;
    return ok && ns[0] >= 0 && ns[1] >= 0;
}
