/*
 * Tandem as a library: what programs outside this tree may include. Link the rooms' static
 * libraries, or build with add_subdirectory().
 */
#ifndef TANDEM_H
#define TANDEM_H

/*
 * Runs one machine from the first option to the end of the guest: exactly the command `tandem`,
 * with its options (tandem -help). argv[0] is a name for messages. Blocks; call it on a thread that
 * owns the default GLib main context. Returns the exit status: 0, 1 after an error (said on
 * stderr), or the guest's through isa-debug-exit. Everything it made (threads, sockets, pid file,
 * terminal modes) is gone when it returns. One at a time.
 */
int tandem_main(int argc, char *argv[]);

#endif
