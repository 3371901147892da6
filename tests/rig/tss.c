/*
 * For the rig, in front of tandem (LD_PRELOAD): a busy 32-bit TSS goes into KVM as an available
 * one.
 *
 * QEMU's TCG keeps the TSS's type as LTR found it, available, and ends itself with "invalid tss
 * type" when an interrupt from a program needs the TSS and the type is another. A processor has it
 * busy from LTR on (SDM vol. 3, 7.2.2), KVM reports it busy, VMX demands it (26.3.1.2), and what
 * goes into KVM therefore is: so no 32-bit kernel survives a KVM_SET_SREGS in that QEMU, whose ever
 * it is. This changes the one bit on its way, and nothing else. KVM sets it again when it is asked.
 */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>

enum { TSS32_AVAILABLE = 9, TSS32_BUSY = 11 };

int ioctl(int fd, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, ...);
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (!next)
        next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (request != KVM_SET_SREGS && request != KVM_SET_SREGS2)
        return next(fd, request, arg);
    /* Both structures begin with the segments. */
    struct kvm_sregs *s = arg;
    unsigned char was = s->tr.type;
    if (was == TSS32_BUSY && !(s->efer & 1 << 10))
        s->tr.type = TSS32_AVAILABLE;
    int r = next(fd, request, arg);
    s->tr.type = was;
    return r;
}
