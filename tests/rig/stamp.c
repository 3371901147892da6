/*
 * stamp: copies lines from standard input to standard output, each behind the host's monotonic
 * clock in microseconds at the moment its first byte arrived. For holding a guest's clock against
 * the host's.
 */
#include <sched.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    /* Before vCPUs that want the same processor, else a line's time is that of the scheduler's next
     * turn. Not root: as good as it gets. */
    const struct sched_param first = {.sched_priority = 1};
    char c;
    int at_start = 1;
    sched_setscheduler(0, SCHED_FIFO, &first);
    while (read(STDIN_FILENO, &c, 1) == 1) {
        if (at_start) {
            struct timespec ts;
            clock_gettime(CLOCK_MONOTONIC, &ts);
            printf("%lld ", (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
        }
        if (c != '\r')
            putchar(c);
        at_start = c == '\n';
        if (at_start)
            fflush(stdout);
    }
    return 0;
}
