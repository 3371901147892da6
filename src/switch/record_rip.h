/*
 * Recording which instructions are run: the linear address of every one in a range, by single
 * steps under KVM, one by one in the software engine; the same file from all of them.
 *
 * The file: a line of text, FILE_FIRST_LINE; then unsigned LEB128 numbers. An even one is an
 * instruction: half of it is the distance from the last address of this vCPU, zigzag-coded (0 -1 1
 * -2 ...). An odd one says that what follows is of vCPU number half of it. So code that runs
 * straight on takes a byte an instruction. An instruction that comes again without another between
 * (REP, a jump to itself, one that faults and is tried again) is noted once, because engines part
 * there.
 */
#ifndef TANDEM_SWITCH_RECORD_RIP_H
#define TANDEM_SWITCH_RECORD_RIP_H

#include <stdio.h>
#include "base/symbols.h"
#include "cpu/vcpu.h"

typedef struct RipRecord RipRecord;

/*
 * Opens and starts: text is "FILE[,region=FROM..TO][,cpu=N]", with symbols or addresses; without a
 * region everything, which only software engines record. vm->rip_record is set. vCPUs paused, main
 * thread.
 */
bool rip_record_start(VmCommon *, const Symbols *, const char *text, GError **);
/* Ends, closes; vCPUs paused or ended. *n: instructions noted. False: not all could be written. */
bool rip_record_stop(VmCommon *, uint64_t *n, GError **);
/* One line. Main thread, or any while it runs. */
void rip_record_describe(const VmCommon *, GString *out);

/* Prints a file as text, "CPU ADDRESS SYMBOL" a line. symbols may be NULL. */
bool rip_record_dump(const char *path, const Symbols *, FILE *out, GError **);

#endif
