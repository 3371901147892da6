/* Names of exit reasons. */
#include <linux/kvm.h>
#include <string.h>

#include "kvm/kvm.h"

static const struct {
    unsigned reason;
    const char *name;
} exits[] = {
#define EXIT_REASON(id, name) {KVM_EXIT_##id, name},
#include "kvm/exits.def"
#undef EXIT_REASON
};

const char *kvm_exit_row(unsigned i, unsigned *reason)
{
    if (i >= ARRAY_LEN(exits))
        return NULL;
    *reason = exits[i].reason;
    return exits[i].name;
}

bool kvm_exit_find(const char *name, unsigned *reason)
{
    const char *row;
    for (unsigned i = 0; (row = kvm_exit_row(i, reason)); i++) {
        if (!strcmp(row, name))
            return true;
    }
    return false;
}
