/*
 * The terminal tandem was started from. Raw while it is ours; put back at exit, on fatal signals
 * and while tandem is stopped.
 *
 * stdin and stdout share their open file descriptions with the shell and the other programs of a
 * pipeline, so O_NONBLOCK is not set on them: output goes through a description of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "char/char_priv.h"

static bool in_use;
/* Touched by signal handlers, which run on any thread: written before `is_raw` is. */
static struct termios cooked, raw;
static volatile sig_atomic_t is_raw;
/* O_NONBLOCK had to be set on the shared description: put back too. */
static int shared_flags = -1;

/* In the background tcsetattr() would only stop us. A terminal that is not our controlling one
 * (tcgetpgrp() fails) has no such rule. */
static bool in_foreground(void)
{
    pid_t group = tcgetpgrp(STDIN_FILENO);
    return group < 0 || group == getpgrp();
}

static void put_back(void)
{
    if (is_raw && in_foreground())
        tcsetattr(STDIN_FILENO, TCSANOW, &cooked);
    if (shared_flags >= 0)
        fcntl(STDOUT_FILENO, F_SETFL, shared_flags);
}

void chardev_restore_tty(void)
{
    put_back();
    is_raw = 0;
    shared_flags = -1;
}

static void on_fatal(int sig)
{
    put_back();
    raise(sig); /* SA_RESETHAND: the default action now, when the handler returns */
}

static void on_stop(int sig)
{
    int saved = errno;
    put_back();
    raise(SIGSTOP);
    errno = saved;
}

static void on_continue(int sig)
{
    int saved = errno;
    if (is_raw && in_foreground())
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    errno = saved;
}

static void handle(int sig, void (*fn)(int), int flags)
{
    struct sigaction old, sa = {.sa_handler = fn, .sa_flags = flags};
    sigemptyset(&sa.sa_mask);
    /* A handler that is there already (a sanitizer's) has its reason. */
    if (sigaction(sig, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        sigaction(sig, &sa, NULL);
}

static void catch_signals(void)
{
    static bool done;
    static const int fatal[] = {SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,    SIGABRT, SIGQUIT, SIGUSR1,
                                SIGUSR2, SIGTRAP, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGSYS};
    if (done)
        return;
    done = true;
    atexit(chardev_restore_tty);
    for (unsigned i = 0; i < ARRAY_LEN(fatal); i++)
        handle(fatal[i], on_fatal, (int)SA_RESETHAND);
    handle(SIGTSTP, on_stop, SA_RESTART);
    handle(SIGCONT, on_continue, SA_RESTART);
}

static void make_raw(bool signals)
{
    if (tcgetattr(STDIN_FILENO, &cooked) < 0)
        return; /* not a terminal */
    raw = cooked;
    /* CR stays CR, nothing is stripped, no flow control: the guest's line discipline does all that.
     * Output processing stays: the monitor writes plain newlines. */
    raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw.c_oflag |= OPOST;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals)
        raw.c_lflag &= ~(tcflag_t)ISIG;
    raw.c_cflag = (raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    catch_signals();
    is_raw = 1;
    if (in_foreground())
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

/* stdout in a description of its own where that can be made, so that writes need not block. */
static int own_stdout(bool *is_socket)
{
    struct stat st;
    if (fstat(STDOUT_FILENO, &st) < 0)
        return -1;
    *is_socket = S_ISSOCK(st.st_mode);
    if (S_ISFIFO(st.st_mode) || isatty(STDOUT_FILENO)) {
        int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        /* Another user's terminal, say after su. */
        catch_signals();
        shared_flags = fcntl(STDOUT_FILENO, F_GETFL);
        fcntl(STDOUT_FILENO, F_SETFL, shared_flags | O_NONBLOCK);
    }
    return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

static void stdio_release(CharDev *cd)
{
    chardev_restore_tty();
    in_use = false;
}

bool stdio_open(CharDev *cd, bool signals, GError **err)
{
    if (in_use) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "stdio is used already; mon:stdio shares it between serial port and monitor");
        return false;
    }
    in_use = true;
    cd->release = stdio_release;
    cd->name = g_strdup("stdio");
    make_raw(signals);
    int out = own_stdout(&cd->is_socket);
    bool in = fcntl(STDIN_FILENO, F_GETFD) >= 0;
    char_connected(cd, in ? STDIN_FILENO : -1, out);
    return true;
}
