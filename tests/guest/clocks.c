/*
 * clocks NAME: a hundred times "guest: clock NAME NS", the monotonic clock in ns, each told at once
 * and gone before the next is read. Whoever stamps the lines takes the least delayed, and little
 * may lie between the reading and the line, or a busy host's slower turn at it counts as the
 * clock's. Without a C library: for amd64 and i386 from the same compiler.
 */
#ifdef __x86_64__
enum { SYS_WRITE = 1, SYS_IOCTL = 16, SYS_EXIT = 60, SYS_CLOCK_GETTIME = 228 };
#define SYSCALL "syscall"
#define FIRST   "D"
#define SECOND  "S"
#define THIRD   "d"
#define LOST    , "rcx", "r11"
#define ENTRY   "mov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run"
#else
enum { SYS_EXIT = 1, SYS_WRITE = 4, SYS_IOCTL = 54, SYS_CLOCK_GETTIME = 265 };
#define SYSCALL "int $0x80"
#define FIRST   "b"
#define SECOND  "c"
#define THIRD   "d"
#define LOST
#define ENTRY "mov %esp, %eax\n\tand $-16, %esp\n\tsub $12, %esp\n\tpush %eax\n\tcall run"
#endif
enum { MONOTONIC = 1, TCSBRK = 0x5409 };

static long sys(long n, long a, long b, long c)
{
    __asm__ volatile(SYSCALL : "+a"(n) : FIRST(a), SECOND(b), THIRD(c) : "memory" LOST);
    return n;
}

static char *put(char *to, unsigned long v, int digits)
{
    char text[24], *p = text + sizeof(text);
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v || text + sizeof(text) - p < digits);
    while (p < text + sizeof(text))
        *to++ = *p++;
    return to;
}

static char *puts_at(char *to, const char *s)
{
    while (*s)
        *to++ = *s++;
    return to;
}

__attribute__((used)) static void run(const long *stack)
{
    const char *name = stack[0] > 1 ? (const char *)stack[2] : "";
    char line[128], *from, *p;
    long now[2];
    unsigned i;
    for (i = 0; i < 40 && name[i]; i++)
        ;
    if (!i || name[i])
        sys(SYS_EXIT, 2, 0, 0);
    from = puts_at(puts_at(puts_at(line, "guest: clock "), name), " ");
    for (i = 0; i < 100; i++) {
        if (sys(SYS_CLOCK_GETTIME, MONOTONIC, (long)now, 0))
            sys(SYS_EXIT, 1, 0, 0);
        p = put(put(from, (unsigned long)now[0], 1), (unsigned long)now[1], 9);
        *p++ = '\n';
        if (sys(SYS_WRITE, 1, (long)line, p - line) != p - line)
            sys(SYS_EXIT, 1, 0, 0);
        sys(SYS_IOCTL, 1, TCSBRK, 1);
    }
    sys(SYS_EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\t" ENTRY "\n\tud2");
