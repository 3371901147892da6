/* System calls, page faults, processes, threads, signals: the kernel's paths. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

uint64_t run_getpid(unsigned scale)
{
    uint64_t same = 0;
    long pid = getpid();
    for (unsigned n = 0; n < scale * 100; n++)
        same += syscall(SYS_getpid) == pid;
    return same;
}

uint64_t run_readwrite(unsigned scale)
{
    static char buffer[512];
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC),
        null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (zero < 0 || null < 0)
        bench_die("no /dev/zero or /dev/null");
    uint64_t sum = 0;
    for (unsigned n = 0; n < scale * 50; n++) {
        buffer[n % 512] = 1;
        sum += (uint64_t)read(zero, buffer, sizeof(buffer)) + (uint64_t)buffer[n % 512];
        sum += (uint64_t)write(null, buffer, sizeof(buffer));
    }
    close(zero);
    close(null);
    return sum;
}

static uint8_t *pages(size_t n)
{
    void *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        bench_die("mmap failed");
    return p;
}

uint64_t run_fault(unsigned scale)
{
    enum { N = 64 };
    uint64_t sum = 0;
    for (unsigned n = 0; n < scale; n++) {
        uint8_t *p = pages(N);
        for (size_t i = 0; i < N; i++)
            p[i * PAGE + n % PAGE] = (uint8_t)(i + n);
        for (size_t i = 0; i < N; i++)
            sum += p[i * PAGE + n % PAGE] + p[i * PAGE + (n + 1) % PAGE];
        munmap(p, N * PAGE);
    }
    return sum;
}

static uint64_t reap(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        bench_die("fork or wait failed");
    return WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 1000;
}

uint64_t run_fork(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        pid_t child = fork();
        if (!child)
            _exit((int)(n & 63));
        h = mix(h, reap(child));
    }
    return h;
}

uint64_t run_exec(unsigned scale)
{
    uint64_t h = 0;
    for (unsigned n = 0; n < scale; n++) {
        pid_t child = fork();
        if (!child) {
            char status[] = {'e', 'x', 'i', 't', (char)('0' + n % 10), 0};
            execl(bench_self(), bench_self(), status, (char *)NULL);
            _exit(99);
        }
        h = mix(h, reap(child));
    }
    return h;
}

uint64_t run_pipe(unsigned scale)
{
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        bench_die("pipe failed");
    pid_t child = fork();
    uint8_t c = 0;
    if (!child) {
        close(there[1]);
        close(back[0]);
        while (read(there[0], &c, 1) == 1) {
            c = (uint8_t)(c * 5 + 1);
            if (write(back[1], &c, 1) != 1)
                break;
        }
        _exit(7);
    }
    close(there[0]);
    close(back[1]);
    uint64_t h = 0;
    for (unsigned n = 0; n < scale * 10; n++) {
        if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
            bench_die("the other end of the pipe is gone");
        h = mix(h, c);
    }
    close(there[1]);
    close(back[0]);
    return h + reap(child);
}

static volatile unsigned caught;

static void on_signal(int number)
{
    caught += (unsigned)number;
}

uint64_t run_signal(unsigned scale)
{
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigaction(SIGUSR1, &action, &before);
    caught = 0;
    for (unsigned n = 0; n < scale * 20; n++)
        raise(SIGUSR1);
    sigaction(SIGUSR1, &before, NULL);
    return caught;
}

static struct {
    uint32_t turn; /* whose: 0 or 1; also what the other waits for */
    uint64_t rounds, value;
} game;

static void play(uint32_t me, uint64_t factor)
{
    for (uint64_t n = 0; n < game.rounds; n++) {
        while (__atomic_load_n(&game.turn, __ATOMIC_ACQUIRE) != me)
            syscall(SYS_futex, &game.turn, FUTEX_WAIT_PRIVATE, !me, NULL, NULL, 0);
        game.value = game.value * factor + 1;
        __atomic_store_n(&game.turn, !me, __ATOMIC_RELEASE);
        syscall(SYS_futex, &game.turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void *other_player(void *unused)
{
    play(1, 3);
    return unused;
}

uint64_t run_futex(unsigned scale)
{
    pthread_t thread;
    game.turn = 0;
    game.rounds = scale * 10;
    game.value = 1;
    if (pthread_create(&thread, NULL, other_player, NULL))
        bench_die("no second thread");
    play(0, 5);
    pthread_join(thread, NULL);
    return game.value;
}

static uint8_t *guarded;
static volatile unsigned hits;

static void on_fault(int number)
{
    (void)number;
    hits++;
    if (mprotect(guarded, PAGE, PROT_READ | PROT_WRITE))
        _exit(98);
}

uint64_t run_mprotect(unsigned scale)
{
    struct sigaction action = {.sa_handler = on_fault}, before;
    sigaction(SIGSEGV, &action, &before);
    uint8_t *p = pages(16);
    guarded = p + 3 * PAGE;
    uint64_t sum = hits = 0;
    for (unsigned n = 0; n < scale * 10; n++) {
        p[(n % 16) * PAGE] = (uint8_t)n;
        if (mprotect(p, 16 * PAGE, PROT_READ))
            bench_die("mprotect failed");
        sum += p[(n * 5 % 16) * PAGE];
        *(volatile uint8_t *)guarded = (uint8_t)(n + 1); /* faults; the handler allows it */
        if (mprotect(p, 16 * PAGE, PROT_READ | PROT_WRITE))
            bench_die("mprotect failed");
        sum += guarded[0];
    }
    munmap(p, 16 * PAGE);
    sigaction(SIGSEGV, &before, NULL);
    return mix(sum, hits);
}
