/*
 * KVM's own interrupt controllers: local APICs ("split"), or these with an I/O APIC and the 8259s
 * ("on"). They are made with the VM and cannot be taken away; who wants them empty loads them so.
 *
 * State moves by the rows of vmstate/chips.def, with all vCPUs out of KVM_RUN. KVM's timers run all
 * the same, which is what kvm_lapic_get() is careful about.
 */
#include "kvm/kvm_priv.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

bool kvm_has_hardware(void)
{
    enum { VMX = 1 << 5, SVM = 1 << 2 };
    unsigned a, b, c, d;
    return (__get_cpuid(1, &a, &b, &c, &d) && c & VMX) ||
           (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & SVM);
}

bool kvm_irqchip_possible(enum Irqchip kind, GError **err)
{
    const KvmHost *h = kvm_host(err);
    if (!h)
        return false;
    enum KvmCap lacks = kind == IRQCHIP_OFF                                   ? CAP_N
                        : !h->cap[CAP_IRQCHIP]                                ? CAP_IRQCHIP
                        : !h->cap[CAP_IRQ_ROUTING]                            ? CAP_IRQ_ROUTING
                        : !h->cap[CAP_SIGNAL_MSI]                             ? CAP_SIGNAL_MSI
                        : kind == IRQCHIP_SPLIT && !h->cap[CAP_SPLIT_IRQCHIP] ? CAP_SPLIT_IRQCHIP
                                                                              : CAP_N;
    if (lacks == CAP_N)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                "this host's KVM lacks %s: kernel-irqchip=off does without", kvm_cap_name(lacks));
    return false;
}

/* ---- routes ---- */

typedef union Routes {
    struct kvm_irq_routing r;
    uint8_t room[sizeof(struct kvm_irq_routing) + 64 * sizeof(struct kvm_irq_routing_entry)];
} Routes;

static bool set_routes(int fd, Routes *t, GError **err)
{
    return ioctl(fd, KVM_SET_GSI_ROUTING, &t->r) == 0 || kvm_error(err, "KVM_SET_GSI_ROUTING");
}

static void add_pin(Routes *t, uint32_t gsi, uint32_t chip, uint32_t pin)
{
    t->r.entries[t->r.nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

/* KVM's 8254 raises GSI 0, and listens for its end: with it that is ISA IRQ 0, and not 2. */
static uint32_t gsi_of(const KvmVm *kvm, unsigned gsi)
{
    return kvm->pit && gsi == 2 ? 0 : gsi;
}

/* A GSI is an input of the I/O APIC. Those of the ISA bus reach the 8259s too; ISA IRQ 0 is GSI 2,
 * as the MADT says. */
static bool route_pins(const KvmVm *kvm, GError **err)
{
    Routes t = {.r.nr = 0};
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++) {
        uint32_t irq = pin == 2 ? 0 : pin, gsi = gsi_of(kvm, pin);
        if (pin && irq < 16)
            add_pin(&t, gsi, irq < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, irq & 7);
        if (pin || !kvm->pit)
            add_pin(&t, gsi, KVM_IRQCHIP_IOAPIC, pin);
    }
    return set_routes(kvm->fd, &t, err);
}

bool kvm_route_levels(VmCommon *vm, const IoapicState *a, GError **err)
{
    KvmVm *kvm = vm->kvm;
    Routes t = {.r.nr = 0};
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t rte = a->rte[pin];
        bool wanted = rte & 1 << 15 || pin == 2; /* level-triggered, or IRQ 0 */
        if (!wanted || rte & 1 << 16)            /* masked */
            continue;
        t.r.entries[t.r.nr++] = (struct kvm_irq_routing_entry){
            .gsi = pin,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo =
                          0xfee00000u | (uint32_t)(rte >> 56) << 12 | (rte & 1 << 11 ? 4 : 0),
                      .data = 3u << 14 | (uint32_t)(rte & 0x7ff)}};
    }
    return set_routes(kvm->fd, &t, err);
}

bool kvm_irqchip_create(KvmVm *kvm, enum Irqchip kind, bool pit, GError **err)
{
    kvm->kernel_apic = kind != IRQCHIP_OFF;
    if (kind == IRQCHIP_ON)
        return (ioctl(kvm->fd, KVM_CREATE_IRQCHIP, 0) == 0 ||
                kvm_error(err, "KVM_CREATE_IRQCHIP")) &&
               (!pit || kvm_pit_create(kvm, err)) && route_pins(kvm, err);
    if (kind == IRQCHIP_SPLIT)
        return kvm_enable_cap(kvm->fd, CAP_SPLIT_IRQCHIP, IOAPIC_PINS, err);
    return true;
}

/* ---- lines and messages ---- */

bool kvm_irq_line(VmCommon *vm, unsigned gsi, bool level)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_irq_level line = {.irq = gsi_of(kvm, gsi), .level = level};
    return ioctl(kvm->fd, KVM_IRQ_LINE, &line) == 0;
}

bool kvm_send_msi(VmCommon *vm, uint64_t address, uint32_t data)
{
    KvmVm *kvm = vm->kvm;
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    return ioctl(kvm->fd, KVM_SIGNAL_MSI, &msi) > 0;
}

int kvm_eoi_fd(VmCommon *vm, unsigned gsi)
{
    KvmVm *kvm = vm->kvm;
    if (kvm->eoi[1] >= 0)
        return kvm->eoi[1];
    if (!kvm->host->cap[CAP_IRQFD] || !kvm->host->cap[CAP_IRQFD_RESAMPLE])
        return -1;
    /* KVM tells who would write to the one by the other. */
    for (unsigned i = 0; i < ARRAY_LEN(kvm->eoi); i++)
        kvm->eoi[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct kvm_irqfd fd = {.fd = (uint32_t)kvm->eoi[0],
                           .gsi = gsi_of(kvm, gsi),
                           .flags = KVM_IRQFD_FLAG_RESAMPLE,
                           .resamplefd = (uint32_t)kvm->eoi[1]};
    if (kvm->eoi[0] >= 0 && kvm->eoi[1] >= 0 && ioctl(kvm->fd, KVM_IRQFD, &fd) == 0)
        return kvm->eoi[1];
    kvm_eoi_close(kvm);
    return -1;
}

void kvm_eoi_close(KvmVm *kvm)
{
    for (unsigned i = 0; i < ARRAY_LEN(kvm->eoi); i++) {
        if (kvm->eoi[i] >= 0)
            close(kvm->eoi[i]);
        kvm->eoi[i] = -1;
    }
}

/* ---- 8259s and I/O APIC ---- */

static void pic_to_state(const struct kvm_pic_state *k, PicState *s)
{
#define PIC(id, name, member, place) s->member = (__typeof__(s->member))k->place;
#include "vmstate/chips.def"
}

static void pic_from_state(struct kvm_pic_state *k, const PicState *s)
{
#define PIC(id, name, member, place) k->place = s->member;
#include "vmstate/chips.def"
}

static void ioapic_to_state(const struct kvm_ioapic_state *k, IoapicState *s)
{
#define IOAPIC(id, name, member, place) s->member = k->place;
#include "vmstate/chips.def"
}

static void ioapic_from_state(struct kvm_ioapic_state *k, const IoapicState *s)
{
#define IOAPIC(id, name, member, place) k->place = s->member;
#include "vmstate/chips.def"
}

static bool chip_ioctl(KvmVm *kvm, bool set, struct kvm_irqchip *chip, uint32_t id, GError **err)
{
    chip->chip_id = id;
    return ioctl(kvm->fd, set ? KVM_SET_IRQCHIP : KVM_GET_IRQCHIP, chip) == 0 ||
           kvm_error(err, set ? "KVM_SET_IRQCHIP" : "KVM_GET_IRQCHIP");
}

bool kvm_chips_get(VmCommon *vm, ChipState *s, GError **err)
{
    static const uint32_t id[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
    KvmVm *kvm = vm->kvm;
    struct kvm_irqchip chip = {.chip_id = 0};
    for (unsigned i = 0; i < ARRAY_LEN(id); i++) {
        if (!chip_ioctl(kvm, false, &chip, id[i], err))
            return false;
        pic_to_state(&chip.chip.pic, &s->pic[i]);
    }
    if (!chip_ioctl(kvm, false, &chip, KVM_IRQCHIP_IOAPIC, err))
        return false;
    ioapic_to_state(&chip.chip.ioapic, &s->ioapic);
    return true;
}

bool kvm_chips_set(VmCommon *vm, const ChipState *s, GError **err)
{
    static const uint32_t id[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
    static const uint8_t can_be_level[] = {0xf8, 0xde}; /* 82371SB, 4.3 */
    KvmVm *kvm = vm->kvm;
    struct kvm_irqchip chip = {.chip_id = 0};
    for (unsigned i = 0; i < ARRAY_LEN(id); i++) {
        memset(&chip, 0, sizeof(chip));
        pic_from_state(&chip.chip.pic, &s->pic[i]);
        chip.chip.pic.elcr_mask = can_be_level[i];
        if (!chip_ioctl(kvm, true, &chip, id[i], err))
            return false;
    }
    memset(&chip, 0, sizeof(chip));
    ioapic_from_state(&chip.chip.ioapic, &s->ioapic);
    chip.chip.ioapic.base_address = 0xfec00000;
    return chip_ioctl(kvm, true, &chip, KVM_IRQCHIP_IOAPIC, err);
}

/* ---- local APICs ---- */

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0 };

static uint32_t *lapic_reg(struct kvm_lapic_state *k, unsigned reg)
{
    return (uint32_t *)(void *)(k->regs + reg * 16);
}

/*
 * A timer that has run out is a count of KVM's until the vCPU is on its way into the guest; only
 * then it is in the IRR, which is all that can be read. So the vCPU is sent that way with a signal
 * pending that ends KVM_RUN before any instruction: KVM_RUN lets through what the thread blocks.
 */
static bool enter_and_leave(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    __atomic_store_n(&kv->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    kv->run->request_interrupt_window = 0;
    kv->held = 0;
    kv->synced = false;
    if (!kvm_regs_settle(kv))
        return kvm_error(err, "KVM_SET_REGS");
    kvm_tables_entering(kv);
    for (unsigned n = 0; n < 300; n++) { /* more than vectors whose EOI may wait to be told */
        if (ioctl(kv->fd, KVM_RUN, 0) < 0)
            return errno == EINTR || errno == EAGAIN ||
                   kvm_error(err, "KVM_RUN (timers that have run out)");
        if (kv->run->exit_reason == KVM_EXIT_IOAPIC_EOI)
            v->vm->bus->ioapic_eoi(v, kv->run->eoi.vector);
        else if (kv->run->exit_reason != KVM_EXIT_SET_TPR &&
                 kv->run->exit_reason != KVM_EXIT_IRQ_WINDOW_OPEN)
            break;
    }
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "KVM left with exit reason %u, not to be expected",
                kv->run->exit_reason);
    return false;
}

static bool settle(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    union {
        struct kvm_signal_mask m;
        uint8_t room[sizeof(struct kvm_signal_mask) + 8];
    } mask = {.m.len = 8}; /* the kernel's set, empty: nothing is blocked */
    sigset_t kick, old;
    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    if (ioctl(kv->fd, KVM_SET_SIGNAL_MASK, &mask) < 0)
        return kvm_error(err, "KVM_SET_SIGNAL_MASK");
    pthread_sigmask(SIG_BLOCK, &kick, &old);
    pthread_kill(pthread_self(), KVM_KICK_SIGNAL);
    bool ok = enter_and_leave(v, err);
    ioctl(kv->fd, KVM_SET_SIGNAL_MASK, NULL);
    /* It was looked at, and is still pending. */
    sigtimedwait(&kick, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ok;
}

/* Might the timer have run out since `since`? Then what was read may lack its interrupt. */
static bool maybe_missed(const LapicState *l, uint64_t since)
{
    unsigned mode = apic_timer_mode(l->lvt[LVT_TIMER]);
    uint64_t divider = apic_divider(l->divide);
    if (!l->initial || mode == APIC_DEADLINE) /* a deadline stays until it is delivered */
        return false;
    if (mode == APIC_ONE_SHOT)
        return !l->left;
    uint64_t passed = (uint64_t)(l->initial - MIN_OF(l->left, l->initial)) * divider;
    return !l->left || passed <= l->at_ns - since + divider;
}

static bool read_lapic(Vcpu *v, LapicState *s, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    struct kvm_lapic_state k;
    uint64_t before = 0;
    /* The deadline first: it becomes zero when its interrupt goes to the IRR. */
    if (!kvm_one_msr(kv->fd, KVM_GET_MSRS, MSR_APIC_BASE, &s->base) ||
        !kvm_one_msr(kv->fd, KVM_GET_MSRS, MSR_TSC_DEADLINE, &before))
        return kvm_error(err, "KVM_GET_MSRS (local APIC)");
    if (ioctl(kv->fd, KVM_GET_LAPIC, &k) < 0)
        return kvm_error(err, "KVM_GET_LAPIC");
    s->at_ns = MAX_OF(clock_ns(v->vm->clock), 1);
    if (!kvm_one_msr(kv->fd, KVM_GET_MSRS, MSR_TSC_DEADLINE, &s->tsc_deadline))
        return kvm_error(err, "KVM_GET_MSRS (IA32_TSC_DEADLINE)");
    if (before && !s->tsc_deadline) /* meanwhile; twice is better than never */
        s->tsc_deadline = before;
#define LAPIC(id, name, member, register) s->member = *lapic_reg(&k, register);
#include "vmstate/chips.def"
    return true;
}

/*
 * A vCPU that is away for a rescue has left an old state in KVM's. That one must not acknowledge an
 * interrupt on its way in: nobody would ever see it again. The next import sets the flags anew.
 */
static bool keep_interrupts_out(Vcpu *v, GError **err)
{
    struct kvm_regs r;
    if (!kvm_regs_settle(kvm_of(v)) || ioctl(kvm_of(v)->fd, KVM_GET_REGS, &r) < 0)
        return kvm_error(err, "KVM_GET_REGS");
    r.rflags &= ~(uint64_t)FL_IF;
    return ioctl(kvm_of(v)->fd, KVM_SET_REGS, &r) == 0 || kvm_error(err, "KVM_SET_REGS");
}

bool kvm_lapic_get(Vcpu *v, LapicState *s, GError **err)
{
    memset(s, 0, sizeof(*s));
    if (v->engine->is_software && !keep_interrupts_out(v, err))
        return false;
    /* A period is some hundred times longer than a round. With a one-shot timer that has run out
     * the second round is about a moment that is past, and settles it: behind a sleep, for by KVM's
     * clock it has run out before the host's timer, which may be late, tells anybody. A processor's
     * timers come in their order, so with this thread's KVM's is through. */
    for (unsigned round = 0; round < 20; round++) {
        if (round)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 1}, NULL);
        uint64_t since = clock_ns(v->vm->clock);
        if (!settle(v, err) || !read_lapic(v, s, err))
            return false;
        if (!maybe_missed(s, since) || (round && apic_timer_mode(s->lvt[LVT_TIMER]) == 0))
            break;
    }
    return true;
}

bool kvm_lapic_set(Vcpu *v, const LapicState *s, GError **err)
{
    KvmVcpu *kv = kvm_of(v);
    struct kvm_lapic_state k;
    uint64_t base = s->base, deadline = s->tsc_deadline;

    /* The mode decides what the registers mean, and the timer's mode whether there is a deadline.
     */
    if (!kvm_one_msr(kv->fd, KVM_SET_MSRS, MSR_APIC_BASE, &base))
        return kvm_error(err, "KVM_SET_MSRS (IA32_APIC_BASE)");
    if (ioctl(kv->fd, KVM_GET_LAPIC, &k) < 0) /* the version is KVM's */
        return kvm_error(err, "KVM_GET_LAPIC");
    /* In either mode, as KVM's interface has it. On the way from x2APIC back to xAPIC, which a
     * reset takes at one step, older kernels leave it in the other's form. */
    *lapic_reg(&k, 2) = (uint32_t)v->id << 24;
#define LAPIC(id, name, member, register) *lapic_reg(&k, register) = s->member;
#include "vmstate/chips.def"
    if (ioctl(kv->fd, KVM_SET_LAPIC, &k) < 0)
        return kvm_error(err, "KVM_SET_LAPIC");
    if (apic_timer_mode(s->lvt[LVT_TIMER]) == APIC_DEADLINE &&
        !kvm_one_msr(kv->fd, KVM_SET_MSRS, MSR_TSC_DEADLINE, &deadline))
        return kvm_error(err, "KVM_SET_MSRS (IA32_TSC_DEADLINE)");
    return true;
}

bool kvm_lapic_version(Vcpu *v, uint32_t *version, GError **err)
{
    struct kvm_lapic_state k;
    if (ioctl(kvm_of(v)->fd, KVM_GET_LAPIC, &k) < 0)
        return kvm_error(err, "KVM_GET_LAPIC");
    *version = *lapic_reg(&k, 3);
    return true;
}
