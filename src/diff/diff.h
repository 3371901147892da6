/* `tandem diff MODE`: accelerators held against each other and against silicon. */
#ifndef TANDEM_DIFF_DIFF_H
#define TANDEM_DIFF_DIFF_H

/* argv[0] is "diff". Returns the exit status: 0 only when no difference was found, 1 when there
 * was one, 2 when something could not be done (said on stderr). */
int diff_main(int argc, char *argv[]);
/* `tandem bench rows` (rows.c): argv[0] is "bench". Status 0, or 2 when something could not be
 * done. */
int bench_main(int argc, char *argv[]);

#endif
