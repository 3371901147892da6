/* The command line as data. Nothing here opens or makes anything but strings. */
#ifndef TANDEM_OPTIONS_OPTIONS_H
#define TANDEM_OPTIONS_OPTIONS_H

#include "machine/machine.h"

enum OptionArg { ARG_SECTION, ARG_NONE, ARG_REQUIRED, ARG_EQUALS };

typedef struct Options Options;
typedef struct OptionRow OptionRow;
typedef bool OptionFn(Options *, const OptionRow *, const char *arg, GError **);

/* A row of options.def; of a SECTION only the help, its title, is set. */
struct OptionRow {
    const char *name;
    enum OptionArg arg;
    const char *form, *help;
    OptionFn *fn;
};
extern const OptionRow option_rows[];
extern const unsigned option_rows_n;

struct Options {
    /* machine, accel, cpu, ram_bytes, smp, kernel, initrd, append, bios, name and the switches;
     * the character devices and `devices` are filled in when the machine is made. */
    MachineConfig cfg;
    GPtrArray *serial;   /* what -serial said, or the defaults: specs for chardev_open() */
    GPtrArray *monitor;  /* monitors of their own, besides those on a "mon:" serial port */
    GPtrArray *devices;  /* NULL-terminated */
    GPtrArray *globals;  /* the same */
    GPtrArray *symbols;  /* NULL-terminated */
    GPtrArray *policies; /* NULL-terminated */
    const char *debugcon, *pidfile, *log_file, *log, *process_name;
    uint64_t given; /* a bit for each row of option_rows that was there */
    bool nographic, display_given, nodefaults, serial_given, monitor_given;
    bool demo, switches_given, perfmap, jitdump;
    uint64_t switches;
    GString *print;      /* print this and end: -help, -version, -cpu help, ... */
    GString *accel_list; /* -accel, joined with ':' */
    char *machine_accel; /* -machine accel= */
    GPtrArray *strings;  /* owned */
};

/*
 * Parses all of argv and checks what one option says against the others. False: err is one line for
 * the user. When o->print is set, parsing stopped there and nothing was checked.
 */
bool options_parse(Options *o, int argc, char *const argv[], GError **);
void options_clear(Options *o);

/* launch.c: opens what -serial, -debugcon and -device name, into o->cfg. Main thread. False: what
 * was opened stays so until options_close(), which the machine must not survive. */
bool options_open(Options *o, GError **);
void options_close(Options *o);
/* One character device; err names the option. n: its number, for the line that names a pty. */
bool options_open_chardev(CharDev **out, const char *option, unsigned n, const char *spec,
                          GError **);

/* Sizes as in -m: "512", "512M", "1.5G", "4096K"; MiB without a suffix. Overflow is an error. */
bool parse_size(const char *text, uint64_t *bytes);
/* "a,b=c" to words; a word without '=' has a NULL value. Terminated by a NULL key. */
typedef struct Prop {
    char *key, *value;
} Prop;
Prop *props_split(const char *text);
void props_free(Prop *);

/* docs.c: all made from the rows. */
void options_help(GString *out);
void options_man(GString *out);
void options_bash(GString *out);

#endif
