/*
 * The child that executes cases on the bare processor.
 *
 * It has nothing mapped but its code, the memfd it shares with the parent and the pages of the
 * case, and may make no system call but futex and exit. A case starts by an IRETQ that loads all of
 * it, and ends in a signal: the trap of RFLAGS.TF, the INT3 behind the instruction, or a fault. The
 * signal's handler, on a stack of its own, copies out what the kernel has saved and starts the next
 * case from there: no handler ever returns.
 *
 * After start-up nothing here may call the C library, whose pages are gone, nor be instrumented.
 */
#include "diff/silicon.h"

#include <asm/ldt.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PLAIN \
    __attribute__((no_sanitize("address", "undefined", "thread"), no_stack_protector, noinline))
#define SHARED ((SiliconShared *)SIL_BASE)

PLAIN static long raw_syscall(long n, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

PLAIN static void copy(void *to, const void *from, size_t n)
{
    size_t words = n / 8, rest = n % 8;
    __asm__ volatile("rep movsq\n\tmov %3, %0\n\trep movsb"
                     : "+c"(words), "+D"(to), "+S"(from)
                     : "r"(rest)
                     : "memory");
}

PLAIN static void fill_int3(void *to, size_t n)
{
    __asm__ volatile("rep stosb" : "+c"(n), "+D"(to) : "a"(0xcc) : "memory");
}

/* ---- system calls the child still may make ---- */
PLAIN static bool forbid_system_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    return raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                       (long)&program, 0) == 0;
}

/* ---- cases ---- */
PLAIN static void next_batch(SiliconShared *s)
{
    uint32_t done = atomic_load(&s->done);
    while (atomic_load(&s->go) == done)
        raw_syscall(SYS_futex, (long)&s->go, FUTEX_WAIT, done, 0);
    atomic_store(&s->at, s->first);
}

PLAIN static void batch_done(SiliconShared *s)
{
    atomic_store(&s->done, atomic_load(&s->go));
    raw_syscall(SYS_futex, (long)&s->done, FUTEX_WAKE, 1, 0);
}

PLAIN _Noreturn static void run_slot(SiliconShared *s, SiliconSlot *k)
{
    copy(s->data, k->data, CASE_DATA_GONE);
    copy(s->data + CASE_DATA_GONE + 0x1000, k->data + CASE_DATA_GONE + 0x1000, 0x1000);
    copy(s->stack, k->stack, CASE_STACK_BYTES);
    size_t room = CASE_CODE_BYTES - k->code_at;
    copy(s->code + k->code_at, k->insn, k->len < room ? k->len : room);
    copy(&s->load, &k->load, sizeof(s->load));
    silicon_go(&s->load, k->xsave, s->fsgsbase);
}

PLAIN static void save_slot(SiliconShared *s, SiliconSlot *k, int sig, const ucontext_t *uc)
{
    copy(k->gregs, uc->uc_mcontext.gregs, sizeof(k->gregs));
    copy(k->xsave, uc->uc_mcontext.fpregs, s->xsave_bytes);
    __asm__("mov %%ds, %0" : "=r"(k->ds));
    __asm__("mov %%es, %0" : "=r"(k->es));
    __asm__("mov %%fs, %0" : "=r"(k->fs));
    __asm__("mov %%gs, %0" : "=r"(k->gs));
    if (s->fsgsbase) {
        __asm__("rdfsbase %0" : "=r"(k->fs_base));
        __asm__("rdgsbase %0" : "=r"(k->gs_base));
    }
    k->signal = sig;
    copy(k->data, s->data, CASE_DATA_RO);
    copy(k->data + CASE_DATA_GONE + 0x1000, s->data + CASE_DATA_GONE + 0x1000, 0x1000);
    copy(k->stack, s->stack, CASE_STACK_BYTES);
    fill_int3(s->code + k->code_at,
              CASE_CODE_BYTES - k->code_at < 15u ? CASE_CODE_BYTES - k->code_at : 15u);
}

void silicon_handler(int sig, siginfo_t *info, void *context);
PLAIN void silicon_handler(int sig, siginfo_t *info, void *context)
{
    SiliconShared *s = SHARED;
    (void)info;
    if (!s->started) {
        s->started = true;
        for (unsigned k = 0; k < s->n_unmap; k++)
            raw_syscall(SYS_munmap, (long)s->unmap[k].start, (long)s->unmap[k].size, 0, 0);
        if (!forbid_system_calls())
            raw_syscall(SYS_exit_group, 3, 0, 0, 0);
        batch_done(s);
        next_batch(s);
    } else {
        save_slot(s, &s->slot[atomic_load(&s->at)], sig, context);
        atomic_fetch_add(&s->at, 1);
    }
    while (atomic_load(&s->at) >= s->n) {
        batch_done(s);
        next_batch(s);
    }
    run_slot(s, &s->slot[atomic_load(&s->at)]);
}

/* ---- start-up: an ordinary process still ---- */

/* 16-bit segments of case_baseline(): code, data, stack in LDT slots 0 to 2. */
static bool make_ldt(void)
{
    static const uint32_t base[3] = {CASE_CODE, CASE_DATA, CASE_STACK};
    for (unsigned k = 0; k < 3; k++) {
        struct user_desc d = {.entry_number = k,
                              .base_addr = base[k],
                              .limit = 0xffff,
                              .contents = k == 0 ? MODIFY_LDT_CONTENTS_CODE : 0,
                              .useable = 0};
        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) != 0)
            return false;
    }
    return true;
}

/* The kernel writes into this area of glibc's when it preempts the thread. */
static void unregister_rseq(void)
{
#ifdef SYS_rseq
    extern const ptrdiff_t __rseq_offset __attribute__((weak));
    extern const unsigned __rseq_size __attribute__((weak));
    if (!&__rseq_offset || !__rseq_size)
        return;
    char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
    if (syscall(SYS_rseq, area, 32, 1, 0x53053053) != 0)
        syscall(SYS_rseq, area, __rseq_size, 1, 0x53053053);
#endif
}

/* All that is mapped but our own code and what the cases need. */
static bool list_mappings(SiliconShared *s)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512], own[256] = "";
    if (!f)
        return false;
    for (unsigned pass = 0; pass < 2; pass++) {
        rewind(f);
        while (fgets(line, sizeof(line), f)) {
            unsigned long start, end;
            char perm[8], path[256] = "";
            if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %255s", &start, &end, perm, path) < 3)
                continue;
            uintptr_t here = (uintptr_t)silicon_entry;
            if (pass == 0) {
                if (start <= here && here < end)
                    strcpy(own, path);
                continue;
            }
            bool code = path[0] && !strcmp(path, own) && perm[1] != 'w';
            bool ours = (start >= CASE_BASE && end <= CASE_BASE + CASE_SIZE) ||
                        (start >= SIL_BASE && end <= SIL_BASE + SIL_BYTES) ||
                        (start >= SIL_SIGNAL && end <= SIL_SIGNAL + SIL_STACK);
            if (code || ours || !strcmp(path, "[vsyscall]"))
                continue;
            if (s->n_unmap == sizeof(s->unmap) / sizeof(s->unmap[0]))
                break;
            s->unmap[s->n_unmap++] = (SiliconRange){start, end - start};
        }
    }
    fclose(f);
    return true;
}

static bool map_piece(int fd, size_t offset, uint64_t at, size_t size, int prot)
{
    return mmap((void *)at, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd,
                (off_t)offset) == (void *)at;
}

static bool map_case(int fd)
{
    size_t data = offsetof(SiliconShared, data), after = CASE_DATA_GONE + 0x1000;
    const int rw = PROT_READ | PROT_WRITE;
    return map_piece(fd, 0, SIL_BASE, SIL_BYTES, rw) &&
           map_piece(fd, offsetof(SiliconShared, signal_stack), SIL_SIGNAL, SIL_STACK, rw) &&
           map_piece(fd, offsetof(SiliconShared, code), CASE_CODE, CASE_CODE_BYTES,
                     PROT_READ | PROT_EXEC) &&
           map_piece(fd, data, CASE_DATA, CASE_DATA_RO, rw) &&
           map_piece(fd, data + CASE_DATA_RO, CASE_DATA + CASE_DATA_RO, 0x1000, PROT_READ) &&
           map_piece(fd, data + after, CASE_DATA + after, 0x1000, rw) &&
           map_piece(fd, offsetof(SiliconShared, stack), CASE_STACK, CASE_STACK_BYTES, rw);
}

/* Exit status: what went wrong before the first case. */
enum { CHILD_MAP = 10, CHILD_SIGNALS, CHILD_PRIVS };

void silicon_child(int fd)
{
    static const int signals[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP};
    sigset_t none;
    struct rlimit no_core = {0, 0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &no_core);
    signal(SIGINT, SIG_IGN); /* the parent's business */
    if (!map_case(fd))
        _exit(CHILD_MAP);
    SiliconShared *s = SHARED;
    s->no_ldt = !make_ldt();
    stack_t ss = {.ss_sp = (void *)SIL_SIGNAL, .ss_size = SIL_STACK};
    struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sa.sa_sigaction = (void (*)(int, siginfo_t *, void *))(uintptr_t)silicon_entry;
    if (sigaltstack(&ss, NULL) != 0)
        _exit(CHILD_SIGNALS);
    for (unsigned k = 0; k < sizeof(signals) / sizeof(signals[0]); k++)
        if (sigaction(signals[k], &sa, NULL) != 0)
            _exit(CHILD_SIGNALS);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        _exit(CHILD_PRIVS);
    unregister_rseq();
    if (!list_mappings(s))
        _exit(CHILD_MAP);
    __asm__ volatile("ud2"); /* silicon_handler() goes on */
    _exit(CHILD_SIGNALS);
}
