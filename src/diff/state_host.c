/* One vCPU with nothing around it, for states to be put into. */
#include "diff/state.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "base/log.h"
#include "kvm/kvm.h"
#include "switch/switch.h"

/* RAM from 0: HLT everywhere but in the page tables at its end. */
enum {
    RAM_BYTES = 4 << 20,
    HLT_PAGE = 2 << 20, /* the page that paged modes see everywhere */
    TABLES = 3 << 20,
    PML5 = TABLES,
    PML4 = TABLES + 0x1000,
    PDPT = TABLES + 0x2000,
    PD = TABLES + 0x3000,
    PT = TABLES + 0x4000,
    PD32 = TABLES + 0x5000,
    PT32 = TABLES + 0x6000,
    PAE_PDPT = TABLES + 0x7000,
    INSN_HLT = 0xf4,
    PAGE_ALL = 0x67, /* present, writable, user, accessed, dirty */
};

struct StateHost {
    Vcpu v, *vcpus[1];
    VmCommon vm;
    MemMap mem;
    CpuidTable cpuid;
    uint8_t *ram;
    /* The local APIC's registers, as far as a state has them. */
    uint8_t tpr;
    uint64_t apic_base, tsc_deadline;
};

/* ---- the bus: nothing is there ---- */

static StateHost *host_of(Vcpu *v)
{
    return v->machine;
}

static uint64_t bus_mmio_read(Vcpu *v, gpa_t gpa, unsigned size)
{
    return size_mask(size);
}

static void bus_mmio_write(Vcpu *v, gpa_t gpa, unsigned size, uint64_t value) {}

static uint32_t bus_pio_read(Vcpu *v, uint16_t port, unsigned size)
{
    return (uint32_t)size_mask(size);
}

static void bus_pio_write(Vcpu *v, uint16_t port, unsigned size, uint32_t value) {}

static int bus_irq_ack(Vcpu *v)
{
    vcpu_request_clear(v, VREQ_INTR);
    return -1;
}

static uint64_t *apic_register(StateHost *h, uint32_t msr)
{
    return msr == 0x1b ? &h->apic_base : msr == 0x6e0 ? &h->tsc_deadline : NULL;
}

static bool bus_apic_read(Vcpu *v, uint32_t msr, uint64_t *value)
{
    const uint64_t *reg = apic_register(host_of(v), msr);
    if (reg)
        *value = *reg;
    return reg;
}

static bool bus_apic_write(Vcpu *v, uint32_t msr, uint64_t value)
{
    uint64_t *reg = apic_register(host_of(v), msr);
    if (reg)
        *reg = value;
    return reg;
}

static uint8_t bus_tpr_get(Vcpu *v)
{
    return host_of(v)->tpr;
}

static void bus_tpr_set(Vcpu *v, uint8_t cr8)
{
    host_of(v)->tpr = cr8 & 15;
}

static const VcpuBus bus = {
    .mmio_read = bus_mmio_read,
    .mmio_write = bus_mmio_write,
    .pio_read = bus_pio_read,
    .pio_write = bus_pio_write,
    .irq_ack = bus_irq_ack,
    .apic_msr_read = bus_apic_read,
    .apic_msr_write = bus_apic_write,
    .tpr_get = bus_tpr_get,
    .tpr_set = bus_tpr_set,
};

/* ---- memory ---- */

static void fill_table(uint8_t *ram, unsigned at, unsigned entry_bytes, uint64_t entry)
{
    for (unsigned i = 0; i < 0x1000; i += entry_bytes)
        memcpy(ram + at + i, &entry, entry_bytes);
}

/* Tables of all formats in which each entry of a level leads to the one table of the next, and each
 * of the last to the page of HLTs. */
static void fill_memory(uint8_t *ram)
{
    memset(ram, INSN_HLT, RAM_BYTES);
    fill_table(ram, PML5, 8, PML4 | PAGE_ALL);
    fill_table(ram, PML4, 8, PDPT | PAGE_ALL);
    fill_table(ram, PDPT, 8, PD | PAGE_ALL);
    fill_table(ram, PD, 8, PT | PAGE_ALL);
    fill_table(ram, PT, 8, HLT_PAGE | PAGE_ALL);
    fill_table(ram, PD32, 4, PT32 | PAGE_ALL);
    fill_table(ram, PT32, 4, HLT_PAGE | PAGE_ALL);
    fill_table(ram, PAE_PDPT, 8, PD | 1); /* the other bits are reserved in a PDPTE */
}

/* ---- life ---- */

static bool start_engine(StateHost *h, const Engine *e, GError **err)
{
    return e->vm_init(&h->vm, err) && e->vcpu_init(&h->v, err);
}

StateHost *state_host_new(bool kvm, GError **err)
{
    StateHost *h = g_new0(StateHost, 1);
    CpuidTable supported;

    h->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (h->ram == MAP_FAILED) {
        g_set_error(err, TANDEM_ERROR, ERR_FAILED, "no memory for the guest");
        g_free(h);
        return NULL;
    }
    fill_memory(h->ram);
    h->mem.n = 1;
    h->mem.slot[0] = (RamSlot){.size = RAM_BYTES, .host = h->ram, .fd = -1};
    h->vcpus[0] = &h->v;
    h->vm = (VmCommon){.mem = &h->mem,
                       .clock = clock_new(),
                       .bus = &bus,
                       .cpuid = &h->cpuid,
                       .vcpu = h->vcpus,
                       .n_vcpus = 1};
    h->v.vm = &h->vm;
    h->v.machine = h;
    h->v.thread = pthread_self();
    if ((!kvm || kvm_supported_cpuid(&supported, err)) &&
        cpuid_build(&h->cpuid, "max", kvm ? &supported : NULL, 1, clock_tsc_khz(h->vm.clock),
                    err) &&
        start_engine(h, &engine_interp, err) && (!kvm || start_engine(h, &engine_kvm, err)))
        return h;
    state_host_free(h);
    return NULL;
}

void state_host_free(StateHost *h)
{
    if (!h)
        return;
    engine_kvm.vcpu_free(&h->v);
    engine_kvm.vm_free(&h->vm);
    if (h->v.engine_data[ENGINE_INTERP])
        engine_interp.vcpu_free(&h->v);
    engine_interp.vm_free(&h->vm);
    clock_free(h->vm.clock);
    munmap(h->ram, RAM_BYTES);
    g_free(h);
}

const VmCommon *state_host_vm(const StateHost *h)
{
    return &h->vm;
}

/* ---- through an engine ---- */

static void load(StateHost *h, const CpuState *in)
{
    h->v.st = *in;
    h->v.where = ST_CANONICAL;
    h->tpr = (uint8_t)(in->cr8 & 15);
    h->apic_base = in->msr.apic_base;
    h->tsc_deadline = in->msr.tsc_deadline;
}

bool state_host_through(StateHost *h, const Engine *e, const CpuState *in, CpuState *out,
                        GError **err)
{
    load(h, in);
    h->v.engine = e;
    if (!e->import_state(&h->v, GROUPS_ALL, err))
        return false;
    if (!e->export_state(&h->v, GROUPS_ALL, err))
        return false;
    *out = h->v.st;
    return true;
}

bool state_host_switched(StateHost *h, const CpuState *in, CpuState *out, GError **err)
{
    load(h, in);
    h->v.engine = &engine_interp;
    for (unsigned i = 0; i < 2; i++) {
        if (!vcpu_switch(&h->v, &engine_kvm, SWITCH_TEST, err) ||
            !vcpu_switch(&h->v, &engine_interp, SWITCH_TEST, err))
            return false;
    }
    *out = h->v.st;
    return true;
}

/* ---- entering ---- */

void state_host_make_enterable(const StateHost *h, CpuState *s)
{
    bool paged = s->cr0 & CR0_PG, lma = s->efer & EFER_LMA;
    const uint64_t keep = ~0xffffffffffull; /* what a reserved bit may be in */

    s->idt.limit = 0;
    /* There is no memory for system-management mode: KVM (6.12) declares a VM dead whose vCPU could
     * not save its state there. */
    s->ev.smi.pending = false;
    if (paged) {
        unsigned root = lma ? s->cr4 & CR4_LA57 ? PML5 : PML4 : s->cr4 & CR4_PAE ? PAE_PDPT : PD32;
        s->cr3 = (s->cr3 & keep) | root;
        for (unsigned i = 0; i < 4; i++)
            if (s->pdpte[i] & 1)
                s->pdpte[i] = (s->pdpte[i] & (keep | 0x1e7)) | PD;
        return;
    }
    /* QEMU's SVM (7.2) does not find back to its host from a guest with EFER.LME, and neither
     * paging nor PAE. Without paging PAE means nothing. */
    if (s->efer & EFER_LME)
        s->cr4 |= CR4_PAE;
    uint64_t base = s->seg[CS].base, upper = s->rip & 0xffffffff00000000ull;
    if (!(s->cr0 & CR0_PE) || s->rflags & FL_VM)
        s->rip = upper | (s->rip & 0x7fff);
    else
        s->rip = upper | (uint32_t)(HLT_PAGE + (s->rip & 0xffff) - base);
}

static Vcpu *watched; /* the vCPU that is in KVM_RUN */

static void on_alarm(int sig)
{
    Vcpu *v = __atomic_load_n(&watched, __ATOMIC_SEQ_CST);
    if (v) {
        vcpu_request(v, VREQ_WORK);
        engine_kvm.kick(v);
    }
}

/* Comes again until it is called off: a first one might fall before KVM_RUN. */
static void watchdog(Vcpu *v, long ms)
{
    const struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    const struct itimerval timer = {.it_value = t, .it_interval = t};

    __atomic_store_n(&watched, v, __ATOMIC_SEQ_CST);
    if (v) {
        struct sigaction sa = {.sa_handler = on_alarm};
        sigemptyset(&sa.sa_mask);
        sigaction(SIGALRM, &sa, NULL);
    }
    setitimer(ITIMER_REAL, &timer, NULL);
}

Entry state_host_enter(StateHost *h, const CpuState *in)
{
    g_autoptr(GError) err = NULL;
    Entry e = {.kind = ENTRY_DONE};

    load(h, in);
    h->v.engine = &engine_kvm;
    if (!engine_kvm.import_state(&h->v, GROUPS_ALL, &err)) {
        e.kind = ENTRY_IOCTL;
        g_strlcpy(e.why, err->message, sizeof(e.why));
        return e;
    }
    watchdog(&h->v, ENTRY_MS);
    Exit x = engine_kvm.run(&h->v, NULL);
    watchdog(NULL, 0);
    vcpu_request_clear(&h->v, ~0u);
    switch (x.kind) {
    case EXIT_FAIL_ENTRY:
        e.kind = ENTRY_REFUSED;
        break;
    case EXIT_KICK:
        e.endless = true;
        break;
    case EXIT_INTERNAL_ERROR:
        /* A fetch or delivery that KVM gives up on is of a guest that was entered; without a code
         * it is an ioctl that failed, and KVM_RUN looks at some registers before it enters. */
        e.kind = x.code                                ? ENTRY_DONE
                 : g_str_has_prefix(x.msg, "KVM_RUN:") ? ENTRY_REFUSED
                                                       : ENTRY_BROKEN;
        break;
    default:
        break;
    }
    g_strlcpy(e.why, x.msg, sizeof(e.why));
    return e;
}
