/*
 * KVM's 8254 (VmCommon.kernel_pit). It begins all counts anew when it is given them, and does not
 * say when counter 0 began: only the guest's own read of that counter shows it. So a vCPU is made
 * to execute one.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "kvm/kvm_priv.h"

bool kvm_pit_possible(GError **err)
{
    static const enum KvmCap needs[] = {CAP_PIT2, CAP_PIT_STATE2, CAP_REINJECT_CONTROL};
    const KvmHost *h = kvm_host(err);
    for (unsigned i = 0; h && i < ARRAY_LEN(needs); i++) {
        if (h->cap[needs[i]])
            continue;
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "this host's KVM lacks %s",
                    kvm_cap_name(needs[i]));
        return false;
    }
    return h != NULL;
}

bool kvm_pit_create(KvmVm *kvm, GError **err)
{
    struct kvm_pit_config c = {.flags = KVM_PIT_SPEAKER_DUMMY};
    kvm->pit = ioctl(kvm->fd, KVM_CREATE_PIT2, &c) == 0;
    return kvm->pit || kvm_error(err, "KVM_CREATE_PIT2");
}

bool kvm_pit_reinject(VmCommon *vm, bool on, GError **err)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_reinject_control c = {.pit_reinject = on};
    return ioctl(kvm->fd, KVM_REINJECT_CONTROL, &c) == 0 || kvm_error(err, "KVM_REINJECT_CONTROL");
}

bool kvm_pit_get(VmCommon *vm, KvmPit *s, GError **err)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_pit_state2 k;
    if (ioctl(kvm->fd, KVM_GET_PIT2, &k) < 0)
        return kvm_error(err, "KVM_GET_PIT2");
    *s = (KvmPit){.hpet_legacy = k.flags & KVM_PIT_FLAGS_HPET_LEGACY,
                  .speaker = (k.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) != 0};
    for (unsigned i = 0; i < ARRAY_LEN(s->c); i++) {
#define KPIT(member, place) s->c[i].member = (__typeof__(s->c[i].member))k.channels[i].place;
#include "vmstate/chips.def"
    }
    return true;
}

bool kvm_pit_set(VmCommon *vm, const KvmPit *s, GError **err)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_pit_state2 k = {.flags = (s->hpet_legacy ? KVM_PIT_FLAGS_HPET_LEGACY : 0) |
                                        (s->speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0)};
    for (unsigned i = 0; i < ARRAY_LEN(s->c); i++) {
#define KPIT(member, place) k.channels[i].place = (__typeof__(k.channels[i].place))s->c[i].member;
#include "vmstate/chips.def"
    }
    return ioctl(kvm->fd, KVM_SET_PIT2, &k) == 0 || kvm_error(err, "KVM_SET_PIT2");
}

/* ---- a look at counter 0 ---- */

enum { CODE = 0x1000, DONE_PORT = 0xe0 };

typedef struct Code {
    uint8_t byte[32];
    unsigned n;
} Code;

static void out_byte(Code *c, uint8_t port, uint8_t value)
{
    const uint8_t insn[] = {0xb0, value, 0xe6, port}; /* mov al, value; out port, al */
    memcpy(c->byte + c->n, insn, sizeof(insn));
    c->n += sizeof(insn);
}

static void in_byte(Code *c, uint8_t port)
{
    c->byte[c->n++] = 0xe4;
    c->byte[c->n++] = port;
}

static Code reader(const KvmPitCounter *k)
{
    enum { CONTROL = 0x43, MODE_0 = 0x30, READ_BACK_0 = 0xc2 };
    Code c = {.n = 0};
    /* What the guest has latched is in the way. */
    for (unsigned n = k->status_latched + (k->latched == 3 ? 2u : k->latched != 0); n; n--)
        in_byte(&c, 0x40);
    /* A control word leaves KVM's count and timer alone; in mode 0 OUT tells whether it is over. */
    if (k->mode != 2 && k->mode != 3)
        out_byte(&c, CONTROL, MODE_0);
    out_byte(&c, CONTROL, READ_BACK_0);
    out_byte(&c, DONE_PORT, 0);
    return c;
}

/* Real mode, flat, interrupts off, nothing under way. */
static bool to_reader(KvmVcpu *kv, GError **err)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rflags = 2};
    struct kvm_vcpu_events e = {.nmi.masked = 1};
    struct kvm_debugregs d = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
    struct kvm_guest_debug none = {0};
    struct kvm_mp_state mp = {KVM_MP_STATE_RUNNABLE};
    if (ioctl(kv->fd, KVM_GET_SREGS, &s) < 0)
        return kvm_error(err, "KVM_GET_SREGS");
    struct kvm_segment data = {.limit = 0xffff, .type = 3, .present = 1, .s = 1}, code = data;
    code.type = 11;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = 0x60000010;
    s.cr4 = s.efer = 0;
    memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
    kv->stepping = false;
    kv->n_breaks = 0;
    return (ioctl(kv->fd, KVM_SET_GUEST_DEBUG, &none) == 0 &&
            ioctl(kv->fd, KVM_SET_DEBUGREGS, &d) == 0 &&
            ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &e) == 0 && ioctl(kv->fd, KVM_SET_SREGS, &s) == 0 &&
            ioctl(kv->fd, KVM_SET_REGS, &r) == 0 && ioctl(kv->fd, KVM_SET_MP_STATE, &mp) == 0) ||
           kvm_error(err, "a vCPU cannot be made to read KVM's 8254");
}

static bool run_reader(Vcpu *v, KvmPitLook *look, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    struct kvm_run *run = kv->run;
    struct timespec ts;
    run->request_interrupt_window = 0;
    run->kvm_valid_regs = run->kvm_dirty_regs = 0;
    kvm_tables_entering(kv);
    for (unsigned n = 0; n < 1000; n++) {
        __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        uint64_t before = clock_ns(v->vm->clock);
        if (ioctl(kv->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return kvm_error(err, "KVM_RUN (reading KVM's 8254)");
        }
        look->clock_ns = clock_ns(v->vm->clock);
        clock_gettime(CLOCK_MONOTONIC, &ts);
        look->host_ns = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
        look->took_ns = look->clock_ns - before;
        if (run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN || run->exit_reason == KVM_EXIT_SET_TPR)
            continue;
        if (run->exit_reason != KVM_EXIT_IO || run->io.port != DONE_PORT)
            break;
        __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        ioctl(kv->fd, KVM_RUN, 0); /* completes the instruction */
        __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        return true;
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                "reading KVM's 8254 ended with exit reason %u, not to be expected",
                run->exit_reason);
    return false;
}

bool kvm_pit_look(Vcpu *v, KvmPit *s, KvmPitLook *look, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    KvmVm *kvm = kv->vm;
    KvmPit after;
    uint8_t *at = NULL, kept[sizeof(((Code *)NULL)->byte)];
    for (unsigned i = 0; i < ARRAY_LEN(kvm->slot); i++) {
        const RamSlot *ram = &kvm->slot[i].ram;
        if (ram->size > CODE + sizeof(kept) && !ram->gpa)
            at = ram->host + CODE;
    }
    if (!at) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "there is no memory at 0x%x", CODE);
        return false;
    }
    if (!kvm_pit_get(v->vm, s, err))
        return false;
    Code code = reader(&s->c[0]);
    kv->held = 0;
    kv->synced = kv->regs_wait = false;
    memcpy(kept, at, sizeof(kept));
    memcpy(at, code.byte, code.n);
    bool ok = to_reader(kv, err) && run_reader(v, look, err);
    memcpy(at, kept, sizeof(kept));
    if (!ok || !kvm_pit_get(v->vm, &after, err))
        return false;
    look->count = after.c[0].latch;
    look->out = after.c[0].status >> 7;
    return true;
}
