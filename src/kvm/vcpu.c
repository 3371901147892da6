/*
 * Running a vCPU in KVM.
 *
 * Kicks. kick() sets immediate_exit and signals the thread if it is in run(). run() clears
 * immediate_exit and only then looks at Vcpu.request; who kicks sets the request first. So either
 * run() sees the request, or immediate_exit is set after the clearing and KVM_RUN returns at once,
 * or KVM_RUN is under way and the signal ends it. Nothing is lost between.
 *
 * Half-done instructions. KVM leaves for I/O, MMIO and MSRs in the middle of an instruction and
 * finishes it on the next KVM_RUN. kv->incomplete says so; kvm_drain() has it finished without
 * running any further.
 */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "cpu/disasm.h"

static void on_kick(int sig) {}

static void install_handler(void)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        /* SA_RESTART spares everybody else's system calls; KVM_RUN returns all the same. */
        struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
        sigemptyset(&sa.sa_mask);
        sigaction(KVM_KICK_SIGNAL, &sa, NULL);
        g_once_init_leave(&once, 1);
    }
}

static void set_immediate_exit(KvmVcpu *kv, uint8_t value)
{
    __atomic_store_n(&kv->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void kvm_ask_sync(KvmVcpu *kv)
{
    const uint64_t all = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if (((uint64_t)kv->vm->host->cap[CAP_SYNC_REGS] & all) == all)
        __atomic_store_n(&kv->run->kvm_valid_regs, all, __ATOMIC_RELAXED);
}

int kvm_enter(KvmVcpu *kv)
{
    /* These flags are never all 0: whether KVM has stored anything shows, however a request for it
     * and the exit came together. */
    kv->run->s.regs.events.flags = 0;
    kv->held = 0;
    kvm_tables_entering(kv);
    int r = ioctl(kv->fd, KVM_RUN, 0), e = errno;
    kv->synced = kv->run->s.regs.events.flags;
    kv->regs_wait = kv->run->kvm_dirty_regs & KVM_SYNC_X86_REGS;
    __atomic_store_n(&kv->run->kvm_valid_regs, 0, __ATOMIC_RELAXED);
    errno = e;
    return r;
}

void kvm_kick(Vcpu *v)
{
    KvmVcpu *kv = kvm_of(v);
    if (!kv)
        return;
    if (atomic_load(&v->request) & VREQ_WORK)
        kvm_ask_sync(kv);
    set_immediate_exit(kv, 1);
    if (atomic_load(&kv->in_run) && !pthread_equal(kv->thread, pthread_self()))
        pthread_kill(kv->thread, KVM_KICK_SIGNAL);
}

/* ---- exits that KVM completes on re-entry ---- */

static void pio_exit(Vcpu *v, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    const VcpuBus *bus = v->vm->bus;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_IN) {
            value = bus->pio_read(v, run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        } else {
            memcpy(&value, data, run->io.size);
            bus->pio_write(v, run->io.port, run->io.size, value);
        }
    }
}

static void mmio_exit(Vcpu *v, struct kvm_run *run)
{
    const VcpuBus *bus = v->vm->bus;
    unsigned len = MIN_OF(run->mmio.len, (uint32_t)sizeof(run->mmio.data)), done = 0;

    if (run->mmio.is_write && kvm_guard_store(v, run->mmio.phys_addr, run->mmio.data, len))
        return;
    /* An access that straddles a page comes in odd pieces; the bus takes powers of two. */
    while (done < len) {
        unsigned n = len - done >= 8 ? 8 : len - done >= 4 ? 4 : len - done >= 2 ? 2 : 1;
        uint64_t value = 0;
        gpa_t gpa = run->mmio.phys_addr + done;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data + done, n);
            bus->mmio_write(v, gpa, n, value);
        } else {
            value = bus->mmio_read(v, gpa, n);
            memcpy(run->mmio.data + done, &value, n);
        }
        done += n;
    }
}

bool kvm_io_exit(Vcpu *v)
{
    KvmVcpu *kv = kvm_of(v);
    switch (kv->run->exit_reason) {
    case KVM_EXIT_IO:
        pio_exit(v, kv->run);
        break;
    case KVM_EXIT_MMIO:
        mmio_exit(v, kv->run);
        break;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        kvm_msr_exit(v);
        break;
    default:
        return false;
    }
    kv->incomplete = true;
    return true;
}

/* CR8 as the guest left it. KVM has it only while it runs; the local APIC is its home. */
static void sync_tpr(Vcpu *v, uint64_t entered_with)
{
    uint64_t now = kvm_of(v)->run->cr8;
    if (now != entered_with && !kvm_of(v)->vm->kernel_apic)
        v->vm->bus->tpr_set(v, (uint8_t)(now & 0xf));
}

static bool set_debug(KvmVcpu *, bool step, const RunStops *);

/*
 * A vCPU in system-management mode has one instruction to do there (smram.c), and leaves KVM behind
 * it: elsewhere nobody knows that mode, or its memory. Kicks that come meanwhile are about requests
 * that are looked at when this is done.
 */
static bool leave_smm(Vcpu *v, KvmVcpu *kv, GError **err)
{
    for (unsigned n = 0; kv->vm->smram && kv->run->flags & KVM_RUN_X86_SMM; n++) {
        if (n == 10000) {
            g_set_error(err, TANDEM_ERROR, ERR_STATE,
                        "the vCPU is in system-management mode, and KVM does not leave it");
            return false;
        }
        if (!set_debug(kv, true, NULL))
            return kvm_error(err, "KVM_SET_GUEST_DEBUG");
        set_immediate_exit(kv, 0);
        if (kvm_enter(kv) < 0) {
            if (errno != EINTR && errno != EAGAIN)
                return kvm_error(err, "KVM_RUN (leaving system-management mode)");
        } else {
            kvm_io_exit(v);
        }
    }
    return true;
}

static bool complete_io(Vcpu *v, GError **err)
{
    KvmVcpu *kv = kvm_of(v);

    /* An access in several pieces comes out again for each; a string instruction ends between two
     * iterations. Far more rounds than one instruction can need mean that KVM makes none. */
    for (unsigned n = 0; kv->incomplete; n++) {
        if (n == 100000) {
            g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                        "KVM does not complete the I/O instruction that is under way");
            return false;
        }
        uint64_t cr8 = kv->vm->kernel_apic ? 0 : v->vm->bus->tpr_get(v);
        kv->run->cr8 = cr8;
        kv->run->request_interrupt_window = 0;
        kv->incomplete = false;
        set_immediate_exit(kv, 1);
        kvm_ask_sync(kv);
        int r = kvm_enter(kv);
        sync_tpr(v, cr8);
        if (r < 0 && errno == EINTR)
            break;
        if (r < 0)
            return kvm_error(err, "KVM_RUN (completing an instruction)");
        if (kvm_io_exit(v) || kv->run->exit_reason == KVM_EXIT_DEBUG ||
            kv->run->exit_reason == KVM_EXIT_SET_TPR)
            continue;
        g_set_error(err, TANDEM_ERROR, ERR_FAILED,
                    "KVM left with exit reason %u while completing an instruction",
                    kv->run->exit_reason);
        return false;
    }
    return true;
}

bool kvm_drain(Vcpu *v, GError **err)
{
    return complete_io(v, err) && leave_smm(v, kvm_of(v), err) && complete_io(v, err);
}

/* ---- events on the way in ---- */

static bool inject(Vcpu *v, KvmVcpu *kv, uint32_t req)
{
    bool want_window = false;
    kv->synced = false; /* what follows may change events */
    kv->held &= ~(unsigned)GRP_EVENTS;

    if (req & VREQ_NMI) {
        vcpu_request_clear(v, VREQ_NMI);
        if (ioctl(kv->fd, KVM_NMI) < 0)
            return false;
    }
    if (req & VREQ_INTR && v->vm->irqchip != IRQCHIP_ON) {
        /* Not into a half-done instruction: it may yet end in an exception, which KVM delivers in
         * the interrupt's stead, and the acknowledged interrupt would be gone. */
        if (kv->run->ready_for_interrupt_injection && kv->run->if_flag && !kv->incomplete) {
            int vector = v->vm->bus->irq_ack(v);
            if (vector >= 0) {
                struct kvm_interrupt intr = {.irq = (uint32_t)vector};
                if (ioctl(kv->fd, KVM_INTERRUPT, &intr) < 0)
                    return false;
                /* One at a time: the flags above are of before. */
                want_window = atomic_load(&v->request) & VREQ_INTR;
            }
        } else {
            want_window = true;
        }
    }
    kv->run->request_interrupt_window = want_window;
    return true;
}

/* Single-step, or execute breakpoints at the addresses of st (NULL: none); never both. */
static bool set_debug(KvmVcpu *kv, bool step, const RunStops *st)
{
    unsigned n = step || !st ? 0 : MIN_OF(st->n_addr, (unsigned)STOPS_MAX_KVM);
    struct kvm_guest_debug dbg = {0};
    if (kv->stepping == step && kv->n_breaks == n &&
        (!n || !memcmp(kv->breaks, st->addr, n * sizeof(st->addr[0]))))
        return true;
    kv->stepping = step;
    kv->n_breaks = n;
    if (step)
        dbg.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    else if (n)
        dbg.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    for (unsigned i = 0; i < n; i++) {
        kv->breaks[i] = dbg.arch.debugreg[i] = st->addr[i];
        dbg.arch.debugreg[7] |= BIT(2 * i + 1); /* G0 to G3: execute, one byte */
    }
    return ioctl(kv->fd, KVM_SET_GUEST_DEBUG, &dbg) == 0;
}

/* Which of the breakpoints KVM_EXIT_DEBUG is about, or -1. */
static int which_break(const KvmVcpu *kv)
{
    const struct kvm_debug_exit_arch *d = &kv->run->debug.arch;
    for (unsigned i = 0; i < kv->n_breaks; i++) {
        if (d->dr6 & BIT(i) && d->pc == kv->breaks[i])
            return (int)i;
    }
    return -1;
}

/* ---- exits that end run() ---- */

static Exit system_error(const char *what)
{
    Exit e = {.kind = EXIT_INTERNAL_ERROR};
    g_snprintf(e.msg, sizeof(e.msg), "%s: %s", what, g_strerror(errno));
    return e;
}

/* Bytes at CS:RIP, as far as they are mapped. */
static unsigned fetch_bytes(Vcpu *v, uint64_t linear, uint8_t *out, unsigned n)
{
    unsigned got = 0;
    while (got < n) {
        struct kvm_translation t = {.linear_address = linear + got};
        unsigned here = MIN_OF(n - got, 4096 - (unsigned)((linear + got) & 4095));
        if (ioctl(kvm_of(v)->fd, KVM_TRANSLATE, &t) < 0 || !t.valid ||
            !memmap_read(v->vm->mem, t.physical_address, out + got, here))
            break;
        got += here;
    }
    return got;
}

/* "fld1 (d9 e8)", or the bytes alone. */
static void disassemble(const Exit *e, uint64_t rip, const struct kvm_sregs *s, char *out, size_t n)
{
    GString *text = g_string_new(NULL);
    char insn[DISASM_TEXT];
    unsigned bits = s->cs.l ? 64 : s->cs.db ? 32 : 16;
    unsigned len = disasm_insn(bits, e->insn, e->insn_len, rip, insn);
    if (len)
        g_string_append_printf(text, "%s ", insn);
    else
        len = e->insn_len;
    for (unsigned i = 0; i < len; i++)
        g_string_append_printf(text, "%s%02x", i ? " " : "[", e->insn[i]);
    g_string_append(text, len ? "]" : "bytes not readable");
    g_strlcpy(out, text->str, n);
    g_string_free(text, TRUE);
}

/*
 * Without KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM queues #UD for the instruction it gave up on as
 * well as telling us. The instruction has not been executed: the exception must not stay.
 */
static void drop_queued_ud(KvmVcpu *kv)
{
    struct kvm_vcpu_events ev;
    if (kv->vm->host->cap[CAP_EXIT_ON_EMULATION_FAILURE] ||
        ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &ev) < 0 || ev.exception.nr != VEC_UD)
        return;
    ev.exception.pending = ev.exception.injected = 0;
    kv->synced = false;
    ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &ev);
}

static Exit internal_error(Vcpu *v, KvmVcpu *kv)
{
    const struct kvm_run *run = kv->run;
    Exit e = {.kind = EXIT_INTERNAL_ERROR, .code = run->internal.suberror};
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};
    char text[100];

    ioctl(kv->fd, KVM_GET_REGS, &regs);
    ioctl(kv->fd, KVM_GET_SREGS, &sregs);
    if (e.code != KVM_INTERNAL_ERROR_EMULATION) {
        g_snprintf(e.msg, sizeof(e.msg),
                   "KVM internal error, suberror %u, at RIP %#" G_GINT64_MODIFIER
                   "x (data %#llx %#llx)",
                   run->internal.suberror, (uint64_t)regs.rip,
                   run->internal.ndata > 0 ? run->internal.data[0] : 0,
                   run->internal.ndata > 1 ? run->internal.data[1] : 0);
        return e;
    }
    drop_queued_ud(kv);
    if (run->emulation_failure.ndata >= 3 &&
        run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
        e.insn_len = MIN_OF(run->emulation_failure.insn_size, (uint8_t)sizeof(e.insn));
        memcpy(e.insn, run->emulation_failure.insn_bytes, e.insn_len);
    }
    if (!e.insn_len) {
        uint64_t linear = sregs.cs.l ? regs.rip : (uint32_t)(sregs.cs.base + regs.rip);
        e.insn_len = (uint8_t)fetch_bytes(v, linear, e.insn, sizeof(e.insn));
    }
    disassemble(&e, regs.rip, &sregs, text, sizeof(text));
    g_snprintf(e.msg, sizeof(e.msg), "KVM cannot emulate %s at RIP %#" G_GINT64_MODIFIER "x", text,
               (uint64_t)regs.rip);
    return e;
}

/*
 * A VM entry that fails leaves the event it was to inject valid in the VMCS (SDM vol. 3, 26.8), KVM
 * writes that field only for the next event, and KVM_SET_VCPU_EVENTS does not reach it: a state
 * without any event would have the old one delivered. KVM clears it when it gives up an entry it
 * has prepared, which it does for a signal. So: a KVM_RUN with a signal that is pending already,
 * and unblocked in there alone.
 */
static void cancel_injection(KvmVcpu *kv)
{
    uint64_t set = 0; /* the kernel's sigset_t: 64 signals */
    union {
        struct kvm_signal_mask m;
        uint8_t room[sizeof(struct kvm_signal_mask) + sizeof(set)];
    } inside = {.m.len = sizeof(set)};
    sigset_t kick, outside;
    const struct timespec now = {0};

    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &kick, &outside);
    for (int sig = 1; sig <= 64; sig++)
        if (sigismember(&outside, sig) == 1 && sig != KVM_KICK_SIGNAL)
            set |= BIT(sig - 1);
    memcpy(inside.m.sigset, &set, sizeof(set));
    if (ioctl(kv->fd, KVM_SET_SIGNAL_MASK, &inside) == 0) {
        set_immediate_exit(kv, 0);
        pthread_kill(pthread_self(), KVM_KICK_SIGNAL);
        kvm_enter(kv); /* and nothing that was known holds */
        ioctl(kv->fd, KVM_SET_SIGNAL_MASK, NULL);
        sigtimedwait(&kick, NULL, &now);
    }
    pthread_sigmask(SIG_SETMASK, &outside, NULL);
}

static Exit fail_entry(const struct kvm_run *run)
{
    Exit e = {.kind = EXIT_FAIL_ENTRY, .code = run->fail_entry.hardware_entry_failure_reason};
    g_snprintf(e.msg, sizeof(e.msg),
               "KVM refused to enter the guest: hardware reason %#" G_GINT64_MODIFIER "x%s", e.code,
               e.code == 0x80000021 ? " (invalid guest state)" : "");
    return e;
}

/* An instruction that came out for I/O is not always reported as a step when KVM completes it. */
static void finish_step(Vcpu *v, Exit *e)
{
    g_autoptr(GError) err = NULL;
    e->kind = EXIT_LIMIT;
    if (!kvm_drain(v, &err)) {
        e->kind = EXIT_INTERNAL_ERROR;
        g_strlcpy(e->msg, err->message, sizeof(e->msg));
    }
}

/* Handles the exit in kv->run. True: *e is what run() returns. */
static bool handle_exit(Vcpu *v, KvmVcpu *kv, bool step, Exit *e)
{
    if (kvm_io_exit(v)) {
        if (step)
            finish_step(v, e);
        return step;
    }
    switch (kv->run->exit_reason) {
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR: /* sync_tpr() has done it */
        return false;
    case KVM_EXIT_IOAPIC_EOI:
        v->vm->bus->ioapic_eoi(v, kv->run->eoi.vector);
        return false;
    case KVM_EXIT_HLT:
        v->st.run_state = RUN_HALTED;
        e->kind = EXIT_HLT;
        return true;
    case KVM_EXIT_SHUTDOWN:
        e->kind = EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_DEBUG:
        if (!step && which_break(kv) >= 0) {
            *e = (Exit){.kind = EXIT_STOP, .stop = STOP_ADDRESS, .code = (uint64_t)which_break(kv)};
            return true;
        }
        e->kind = step && kv->run->debug.arch.dr6 & DR6_BS ? EXIT_LIMIT : EXIT_DEBUG;
        e->code = kv->run->debug.arch.dr6;
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        *e = fail_entry(kv->run);
        cancel_injection(kv);
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        *e = internal_error(v, kv);
        return true;
    default:
        e->kind = EXIT_INTERNAL_ERROR;
        e->code = kv->run->exit_reason;
        g_snprintf(e->msg, sizeof(e->msg), "KVM left with exit reason %u, which was not asked for",
                   kv->run->exit_reason);
        return true;
    }
}

/* A KVM without hardware is late with the interrupt window, or never has one for a guest that
 * leaves it every few instructions: there what is half done is completed first, and the window
 * looked for behind it. */
static bool window_is_late(const Vcpu *v, const KvmVcpu *kv, uint32_t req)
{
    return kv->incomplete && req & VREQ_INTR && v->vm->irqchip != IRQCHIP_ON && !kv->stops &&
           !kvm_has_hardware();
}

static Exit run_loop(Vcpu *v, KvmVcpu *kv, bool step, bool caller_events)
{
    for (;;) {
        Exit e = {0};
        set_immediate_exit(kv, 0);
        uint32_t req = atomic_load(&v->request);
        if (req & VREQ_EXIT_MASK)
            return (Exit){.kind = EXIT_KICK};
        if (!step && !caller_events && window_is_late(v, kv, req)) {
            g_autoptr(GError) err = NULL;
            if (kvm_drain(v, &err))
                continue;
            e.kind = EXIT_INTERNAL_ERROR;
            g_strlcpy(e.msg, err->message, sizeof(e.msg));
            return e;
        }
        if (caller_events)
            kv->run->request_interrupt_window = 0;
        else if (!inject(v, kv, req))
            return system_error("KVM_NMI or KVM_INTERRUPT");
        uint64_t cr8 = kv->vm->kernel_apic ? 0 : v->vm->bus->tpr_get(v);
        kv->run->cr8 = cr8;
        kv->incomplete = false;
        int r = kvm_enter(kv);
        v->exits++;
        sync_tpr(v, cr8);
        if (r < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            if (errno == EFAULT && kvm_guard_fault(v)) {
                if (kv->guard_retry)
                    continue;
                return (Exit){.kind = EXIT_GUARDED, .msg = "a store to guarded code"};
            }
            return system_error(errno == EIO
                                    ? "KVM_RUN (KVM has given this VM up, with the state of its "
                                      "vCPUs: 'dmesg' of the host may say why)"
                                    : "KVM_RUN");
        }
        if (log_on(LOG_KVM))
            log_line("cpu %d kvm exit %u", v->id, kv->run->exit_reason);
        if (handle_exit(v, kv, step, &e))
            return e;
        if (unlikely(kv->stops != NULL) && kv->run->exit_reason < 64 &&
            kv->stops->exits & BIT(kv->run->exit_reason))
            return (Exit){.kind = EXIT_STOP, .stop = STOP_EXIT, .code = kv->run->exit_reason};
    }
}

/* Runs the instruction at a breakpoint that is to be passed. True: done, go on; else *e ends the
 * run. No interrupt comes between, behind whose handler the breakpoint would be met again. */
static bool pass_break(Vcpu *v, KvmVcpu *kv, Exit *e)
{
    RunStops *st = kv->stops;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (ioctl(kv->fd, KVM_GET_REGS, &regs) < 0 || ioctl(kv->fd, KVM_GET_SREGS, &sregs) < 0) {
        *e = system_error("KVM_GET_REGS");
        return false;
    }
    uint64_t lin = sregs.cs.l ? regs.rip : (uint32_t)(sregs.cs.base + regs.rip);
    if (lin != st->pass_at)
        return true; /* an event has led elsewhere: the breakpoint is passed when that returns */
    if (!set_debug(kv, true, NULL)) {
        *e = system_error("KVM_SET_GUEST_DEBUG");
        return false;
    }
    *e = run_loop(v, kv, true, true);
    if (e->kind == EXIT_LIMIT || e->kind == EXIT_HLT)
        st->pass = false;
    return e->kind == EXIT_LIMIT;
}

Exit kvm_run_vcpu(Vcpu *v, const RunLimit *limit)
{
    KvmVcpu *kv = kvm_of(v);
    bool step = limit && limit->max_insns == 1;

    Exit e = {0};
    install_handler();
    kv->stops = limit ? limit->stops : NULL;
    /* Where a step begins KVM notes as it is asked for one. */
    if ((step || kv->stops) && !kvm_regs_settle(kv))
        return system_error("KVM_SET_REGS");
    /* Not written while it is the same: a kick that saw the last run's in_run reads it. */
    if (!pthread_equal(kv->thread, pthread_self()))
        kv->thread = pthread_self();
    atomic_store(&kv->in_run, true);
    do {
        if (!step && kv->stops && kv->stops->pass && !pass_break(v, kv, &e))
            break;
        if (set_debug(kv, step, kv->stops))
            e = run_loop(v, kv, step, limit && limit->caller_events);
        else
            e = system_error("KVM_SET_GUEST_DEBUG");
    } while (e.kind == EXIT_STOP && e.stop == STOP_ADDRESS && kv->stops->pass &&
             kv->stops->addr[e.code] == kv->stops->pass_at);
    atomic_store(&kv->in_run, false);
    /* Host stepping must not be seen in the state that is exported, nor breakpoints in the next
     * run() that has none. */
    if (kv->stepping && !set_debug(kv, false, NULL))
        return system_error("KVM_SET_GUEST_DEBUG");
    return e;
}

const Engine engine_kvm = {
    .name = "kvm",
    .id = ENGINE_KVM,
    .is_software = false,
    .vm_init = kvm_vm_init,
    .vm_free = kvm_vm_free,
    .vcpu_init = kvm_vcpu_init,
    .vcpu_free = kvm_vcpu_free,
    .run = kvm_run_vcpu,
    .kick = kvm_kick,
    .drain = kvm_drain,
    .export_state = kvm_export,
    .import_state = kvm_import,
    .map_changed = kvm_slots_sync,
    /* Nothing to drop beyond what the import has dropped: see put_sregs() in state.c. */
    .enter = NULL,
};
