/*
 * The server that suite.py talks to, line by line. It says
 *     bench: ready                      and waits for "NAME SCALE", or "end"
 *     bench: begin                      before the measured part, and waits for an empty line
 *     bench: done NAME CHECKSUM NS      the end of it; NS is the CPU time of this process and its
 * children bench: skip NAME WHY              the CPU lacks something While it waits a guest is
 * idle, so the host reads the emulator's CPU clock at its leisure.
 */
#include "bench.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum Needs { NOTHING, AES, AVX, AVX2, FMA };

static const struct Program {
    const char *name, *class;
    enum Needs needs;
    unsigned scale;
    uint64_t (*run)(unsigned scale);
    const char *what;
} programs[] = {
#define PROGRAM(class, name, needs, full, what) {#name, #class, needs, full, run_##name, what},
#include "programs.def"
#undef PROGRAM
};

static uint64_t begun;
static char self[4096];

const char *bench_self(void)
{
    return self;
}

void bench_die(const char *what)
{
    printf("bench: die %s\n", what);
    fflush(stdout);
    if (getpid() != 1)
        _exit(1);
    for (;;) /* the first process must not end: the host has read why and ends the machine */
        pause();
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    struct rusage r;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    getrusage(RUSAGE_CHILDREN, &r);
    return (uint64_t)(t.tv_sec + r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000000 +
           (uint64_t)t.tv_nsec + (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1000;
}

static void say(const char *line)
{
    printf("bench: %s\n", line);
    fflush(stdout);
}

static int hear(char *line, size_t size)
{
    if (!fgets(line, (int)size, stdin))
        return 0;
    line[strcspn(line, "\r\n")] = 0;
    return 1;
}

void bench_begin(void)
{
    char line[16];
    say("begin");
    hear(line, sizeof(line));
    begun = cpu_ns();
}

/* NULL, or what the CPU lacks. */
static const char *lacks(enum Needs needs)
{
    __builtin_cpu_init();
    switch (needs) {
    case NOTHING:
        return NULL;
    case AES:
        return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") ? NULL : "aes";
    case AVX:
        return __builtin_cpu_supports("avx") ? NULL : "avx";
    case AVX2:
        return __builtin_cpu_supports("avx2") ? NULL : "avx2";
    case FMA:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NULL : "fma";
    }
    return "unknown";
}

static void serve(const char *name, unsigned scale)
{
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        const struct Program *p = &programs[i];
        if (strcmp(p->name, name))
            continue;
        const char *missing = lacks(p->needs);
        if (missing) {
            printf("bench: skip %s %s\n", name, missing);
            return;
        }
        bench_begin();
        uint64_t sum = p->run(scale), took = cpu_ns() - begun;
        printf("bench: done %s %016" PRIx64 " %" PRIu64 "\n", name, sum, took);
        return;
    }
    printf("bench: skip %s unknown\n", name);
}

static void become_init(void)
{
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    if (console < 0)
        return;
    struct termios t;
    if (!tcgetattr(console, &t)) {
        t.c_lflag &= ~(tcflag_t)ECHO;
        t.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(console, TCSANOW, &t);
    }
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strncmp(argv[1], "exit", 4)) /* what the program exec starts */
        return argv[1][4] - '0';
    int first = getpid() == 1;
    if (first) {
        become_init();
        strcpy(self, "/init");
    } else if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) {
        bench_die("no /proc");
    }
    if (argc == 2 && !strcmp(argv[1], "list")) {
        for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
            printf("%s\t%s\t%u\t%s\n", programs[i].name, programs[i].class, programs[i].scale,
                   programs[i].what);
        return 0;
    }
    for (char line[128], name[64];;) {
        unsigned scale;
        say("ready");
        if (!hear(line, sizeof(line)) || !strcmp(line, "end"))
            break;
        if (sscanf(line, "%63s %u", name, &scale) == 2)
            serve(name, scale);
        fflush(stdout);
    }
    if (first)
        reboot(RB_POWER_OFF);
    return 0;
}
