/*
 * stamp SOCKET: waits at a unix socket for who connects first, and copies the lines that come from
 * there to standard output, each behind the host's monotonic clock in microseconds at the moment
 * its first byte arrived: for holding a guest's clock against the host's. What comes from standard
 * input goes the other way, as typed.
 */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int accept_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "stamp: %s is too long for a socket's path\n", path);
        return -1;
    }
    memcpy(addr.sun_path, path, strlen(path));
    if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0) {
        perror(path);
        return -1;
    }
    return accept(fd, NULL, NULL);
}

static void stamp(char c)
{
    static int inside;
    if (!inside) {
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        printf("%lld ", (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
    }
    if (c != '\r')
        putchar(c);
    inside = c != '\n';
    if (!inside)
        fflush(stdout);
}

int main(int argc, char **argv)
{
    /* Before vCPUs that want the same processor, else a line's time is that of the scheduler's next
     * turn. Not root: as good as it gets. */
    const struct sched_param first = {.sched_priority = 1};
    char c;
    if (argc != 2) {
        fprintf(stderr, "usage: stamp SOCKET\n");
        return 2;
    }
    int fd = accept_at(argv[1]);
    if (fd < 0)
        return 1;
    sched_setscheduler(0, SCHED_FIFO, &first);
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    while (poll(p, 2, -1) > 0) {
        if (p[0].revents) {
            if (read(fd, &c, 1) != 1)
                return 0;
            stamp(c);
        } else if (read(STDIN_FILENO, &c, 1) != 1) {
            p[1].fd = -1;
        } else if (write(fd, &c, 1) != 1) {
            return 0;
        }
    }
    return 1;
}
