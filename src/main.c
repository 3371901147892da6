#include <malloc.h>
#include "tandem.h"

int main(int argc, char *argv[])
{
    /* One heap, which grows by much at a time: those that glibc gives to threads grow page by page,
     * with a system call for each. */
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TOP_PAD, 1 << 20);
    return tandem_main(argc, argv);
}
