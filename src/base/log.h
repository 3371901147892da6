/*
 * The log: what -d selects, written to stderr or to the -D file.
 *
 * One row a category. Names are QEMU's where QEMU has the category. log_on() is one load and a
 * test, cheap enough for warm paths. Thread-safe: one write(2) a line.
 */
#ifndef TANDEM_BASE_LOG_H
#define TANDEM_BASE_LOG_H

#include <glib.h>
#include "base/types.h"

/*      enum    -d name          help */
#define LOG_CATEGORIES(X)                                                            \
    X(INT, "int", "interrupts and exceptions delivered by the software engine")      \
    X(CPU_RESET, "cpu_reset", "CPU state at each reset")                             \
    X(GUEST_ERROR, "guest_errors", "what the guest does that the hardware forbids")  \
    X(UNIMP, "unimp", "accesses to registers and ports nothing answers")             \
    X(EXEC, "exec", "each block the software engine enters")                         \
    X(IN_ASM, "in_asm", "guest assembly of each block when it is first decoded")     \
    X(OUT_ASM, "out_asm", "host assembly of each block that is translated")          \
    X(CPU, "cpu", "registers before each block the software engine enters")          \
    X(NOCHAIN, "nochain",                                                            \
      "translated blocks do not lead to each other: with it, exec and cpu see each") \
    X(MMU, "mmu", "page walks of the software engine")                               \
    X(KVM, "kvm", "exits and ioctls of the KVM engine")                              \
    X(SWITCH, "switch", "each step of an engine switch")                             \
    X(IRQ, "irq", "interrupt lines and controllers")                                 \
    X(TIMER, "timer", "timers armed and fired")                                      \
    X(PIO, "pio", "port accesses")                                                   \
    X(MMIO, "mmio", "memory-mapped device accesses")

enum LogCategory {
#define X(id, name, help) LOG_##id,
    LOG_CATEGORIES(X)
#undef X
        LOG_N
};

extern uint32_t log_mask; /* set by one thread, read by all */

static inline bool log_on(enum LogCategory c)
{
    return unlikely(__atomic_load_n(&log_mask, __ATOMIC_RELAXED) & (1u << c));
}

/* Sets the categories from a comma-separated list of names ("help" is not a name here). */
bool log_set(const char *names, GError **err);
void log_set_mask(uint32_t mask); /* 1 << LOG_X, of each */
/* Sends the log to a file (truncated); the default is stderr. */
bool log_to_file(const char *path, GError **err);
/* One name and help a line, for -d help. */
void log_help(GString *out);
const char *log_name(enum LogCategory);

/* Unconditional; adds a newline. Use `if (log_on(LOG_X)) log_line(...)`. */
void log_line(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* The same of lines that are to stay together, each with its newline. */
void log_text(const GString *);
/* Message for the person at the terminal: "tandem: ..." on stderr, and in the log file if there is
 * one. */
void warn_user(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* The error domain of all of Tandem's GErrors. Codes say what kind, the message says what. */
#define TANDEM_ERROR tandem_error_quark()
GQuark tandem_error_quark(void);
enum TandemError {
    ERR_FAILED,      /* an operation failed; the message says which and why */
    ERR_USAGE,       /* a bad option, argument or file given by the user */
    ERR_UNSUPPORTED, /* known, but this build, host or engine cannot do it */
    ERR_STATE,       /* a CPU state the target cannot take */
};

#endif
