/* The program: from the command line to the exit status. */
#ifndef TANDEM_CLI_CLI_H
#define TANDEM_CLI_CLI_H

/* Runs tandem; returns its exit status. Everything it made is gone when it returns. */
int cli_main(int argc, char *argv[]);

#endif
