#include "cpu/vcpu.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/log.h"

Vcpu *vcpu_alloc(GError **err)
{
    void *p = mmap(NULL, sizeof(Vcpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED)
        return p;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "no memory for a vCPU: %s", g_strerror(errno));
    return NULL;
}

void vcpu_release(Vcpu *v)
{
    if (v)
        munmap(v, sizeof(*v));
}
