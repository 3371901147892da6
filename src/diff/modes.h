/* One function a mode. */
#ifndef TANDEM_DIFF_MODES_H
#define TANDEM_DIFF_MODES_H

#define MODE(id, arguments, help) int diff_##id(int argc, char *argv[]);
#include "diff/modes.def"
#undef MODE

#endif
