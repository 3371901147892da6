/* The host's KVM, what it can do, and a VM in it. */
#include "kvm/kvm_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct {
    const char *name;
    int number;
    bool required;
} caps[CAP_N] = {
#define X(name, required) [CAP_##name] = {"KVM_CAP_" #name, KVM_CAP_##name, required},
    KVM_CAPS(X)
#undef X
};

bool kvm_error(GError **err, const char *what)
{
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "%s: %s", what, g_strerror(errno));
    return false;
}

static bool open_device(KvmHost *h, GError **err)
{
    h->dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (h->dev >= 0)
        return true;
    switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "there is no /dev/kvm: load kvm_intel or kvm_amd, or turn virtualisation on in "
                    "the firmware (or, in a virtual machine or container, on its host)");
        break;
    case EACCES:
    case EPERM:
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "no permission to open /dev/kvm: join the group that owns it (adduser $USER "
                    "kvm, then log in again)");
        break;
    default:
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "/dev/kvm cannot be opened: %s",
                    g_strerror(errno));
    }
    return false;
}

static bool check_device(KvmHost *h, GError **err)
{
    int version = ioctl(h->dev, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                    "/dev/kvm speaks API version %d; Tandem needs %d", version, KVM_API_VERSION);
        return false;
    }
    for (unsigned i = 0; i < CAP_N; i++) {
        int r = ioctl(h->dev, KVM_CHECK_EXTENSION, caps[i].number);
        h->cap[i] = r > 0 ? r : 0;
        if (!h->cap[i] && caps[i].required) {
            g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED,
                        "this host's KVM lacks %s: a newer kernel is needed (5.10 or later)",
                        caps[i].name);
            return false;
        }
    }
    int size = ioctl(h->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return kvm_error(err, "KVM_GET_VCPU_MMAP_SIZE");
    h->run_size = (size_t)size;
    return true;
}

const KvmHost *kvm_host(GError **err)
{
    static GMutex lock;
    static KvmHost host;
    static bool known;
    KvmHost h = {.dev = -1};

    g_mutex_lock(&lock);
    if (!known) {
        if (open_device(&h, err) && check_device(&h, err) && kvm_probe_guest(&h, err)) {
            host = h;
            known = true;
        } else if (h.dev >= 0) {
            close(h.dev);
        }
    }
    g_mutex_unlock(&lock);
    return known ? &host : NULL;
}

bool kvm_available(GError **err)
{
    return kvm_host(err) != NULL;
}

bool kvm_supported_cpuid(CpuidTable *out, GError **err)
{
    if (!kvm_supported_cpuid_apic(out, err))
        return false;
    cpuid_drop(out, FEAT_KVM_PV_IPI);
    cpuid_drop(out, FEAT_KVM_PV_EOI);
    return true;
}

bool kvm_supported_cpuid_apic(CpuidTable *out, GError **err)
{
    const KvmHost *h = kvm_host(err);
    struct kvm_cpuid2 *c;
    unsigned room = 128;

    memset(out, 0, sizeof(*out));
    if (!h)
        return false;
    for (;; room *= 2) {
        c = g_malloc0(sizeof(*c) + room * sizeof(c->entries[0]));
        c->nent = room;
        if (ioctl(h->dev, KVM_GET_SUPPORTED_CPUID, c) == 0)
            break;
        g_free(c);
        if (errno != E2BIG || room > 4096)
            return kvm_error(err, "KVM_GET_SUPPORTED_CPUID");
    }
    for (unsigned i = 0; i < c->nent && out->n < CPUID_MAX; i++) {
        const struct kvm_cpuid_entry2 *k = &c->entries[i];
        out->e[out->n] = (CpuidEntry){
            .leaf = k->function,
            .subleaf = k->index,
            .has_subleaf = k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = k->eax,
            .ebx = k->ebx,
            .ecx = k->ecx,
            .edx = k->edx,
        };
        if (k->function == 1) /* TSC_DEADLINE, MONITOR */
            out->e[out->n].ecx =
                (k->ecx & ~(1u << 24 | 1u << 3)) | (uint32_t)h->tsc_deadline << 24 |
                (h->cap[CAP_X86_DISABLE_EXITS] & KVM_X86_DISABLE_EXITS_MWAIT ? 1u << 3 : 0);
        if (k->function == 0)
            out->max_basic = k->eax;
        if (k->function == 0x80000000)
            out->max_ext = k->eax;
        out->n++;
    }
    g_free(c);
    g_strlcpy(out->model, "kvm", sizeof(out->model));
    return true;
}

void kvm_describe(GString *out)
{
    static const char *const tsc[] = {"offset by attribute", "offset by writing IA32_TSC",
                                      "cannot be offset"};
    g_autoptr(GError) err = NULL;
    const KvmHost *h = kvm_host(&err);
    if (!h) {
        g_string_append_printf(out, "%s\n", err->message);
        return;
    }
    for (unsigned i = 0; i < CAP_N; i++)
        g_string_append_printf(out, "%s: %d\n", caps[i].name, h->cap[i]);
    g_string_append_printf(out, "guest TSC: %s%s\n", tsc[h->tsc],
                           h->tsc != TSC_FIXED && !h->tsc_exact
                               ? ", not exactly (the host's TSC is unstable, or the kernel old)"
                               : "");
    g_string_append_printf(out, "page tables: %s\n",
                           h->shadow_tables
                               ? "KVM's own, made anew after each switch to it; vCPUs in it and "
                                 "outside take turns"
                               : "the guest's");
    g_string_append_printf(out, "IA32_TSC_DEADLINE: %s\n",
                           h->tsc_deadline ? "exits to userspace" : "is swallowed, not offered");
    KvmSpeed speed;
    kvm_speed(&speed);
    g_string_append_printf(out, "speed at privilege 0: %u million instructions a second\n",
                           speed.mips);
    for (unsigned i = 0; i < speed.n_wrong; i++)
        g_string_append_printf(out, "does wrong: %s\n", speed.wrong[i]);
}

/* ---- MSR filter ---- */

static bool allow(const KvmVm *kvm, const MsrRow *row)
{
    if (row->policy == MSRP_APIC && !row->is_const)
        return kvm->kernel_apic;
    if (row->policy == MSRP_KVM_WALL)
        return false;
    return row->is_alias || (kvm_msr_in_kernel(row) && row->policy != MSRP_HIDDEN);
}

/*
 * What the tables do not hold raises #GP, in KVM as in the software engine: so that a guest never
 * finds a register in one engine that is gone in the other.
 */
static bool set_msr_filter(const KvmVm *kvm, GError **err)
{
    enum { RANGE = 0x1000 };
    static const uint32_t base[] = {0, 0xc0000000, 0xc0010000, 0x4b564000};
    uint8_t bitmap[ARRAY_LEN(base)][RANGE / 8] = {{0}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_DENY};

    for (unsigned i = 0; i < kvm_msr_rows_n; i++) {
        const MsrRow *row = &kvm_msr_rows[i];
        for (unsigned r = 0; r < ARRAY_LEN(base); r++) {
            uint32_t n = row->index - base[r];
            if (row->index >= base[r] && n < RANGE && allow(kvm, row))
                bitmap[r][n / 8] |= (uint8_t)(1u << n % 8);
        }
    }
    for (unsigned r = 0; r < ARRAY_LEN(base); r++)
        filter.ranges[r] = (struct kvm_msr_filter_range){
            .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
            .nmsrs = RANGE,
            .base = base[r],
            .bitmap = bitmap[r],
        };
    if (ioctl(kvm->fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
        return kvm_error(err, "KVM_X86_SET_MSR_FILTER");
    return true;
}

const char *kvm_cap_name(enum KvmCap cap)
{
    return caps[cap].name;
}

bool kvm_enable_cap(int vm_fd, enum KvmCap cap, uint64_t arg, GError **err)
{
    struct kvm_enable_cap c = {.cap = (uint32_t)caps[cap].number, .args = {arg}};
    if (ioctl(vm_fd, KVM_ENABLE_CAP, &c) == 0)
        return true;
    g_set_error(err, TANDEM_ERROR, ERR_FAILED, "KVM_ENABLE_CAP(%s): %s", caps[cap].name,
                g_strerror(errno));
    return false;
}

/* What -overcommit cpu-pm=on leaves to the guest. MWAIT that is not offered must not be there. */
static uint64_t power_exits(const VmCommon *vm, const KvmHost *h)
{
    uint64_t mwait = cpuid_has(vm->cpuid, FEAT_MONITOR) ? KVM_X86_DISABLE_EXITS_MWAIT : 0;
    return (uint64_t)h->cap[CAP_X86_DISABLE_EXITS] &
           (mwait | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE |
            KVM_X86_DISABLE_EXITS_CSTATE);
}

bool kvm_can_disable_exits(void)
{
    const KvmHost *h = kvm_host(NULL);
    return h && h->cap[CAP_X86_DISABLE_EXITS];
}

/* pm: KVM_X86_DISABLE_EXITS_*. */
static bool set_up(KvmVm *kvm, const VmCommon *vm, uint64_t pm, GError **err)
{
    /* Three pages and one that old Intel processors need for real mode: below the I/O APIC, where
     * a PC has neither RAM nor devices. */
    uint64_t identity = 0xfeffc000;
    const KvmHost *h = kvm->host;

    if (!kvm_irqchip_create(kvm, vm->irqchip, vm->kernel_pit, err))
        return false;
    if (ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
        return kvm_error(err, "KVM_SET_IDENTITY_MAP_ADDR");
    if (ioctl(kvm->fd, KVM_SET_TSS_ADDR, identity + 0x1000) < 0)
        return kvm_error(err, "KVM_SET_TSS_ADDR");
    if (!kvm_enable_cap(kvm->fd, CAP_EXCEPTION_PAYLOAD, 1, err) ||
        !kvm_enable_cap(kvm->fd, CAP_X86_USER_SPACE_MSR,
                        KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
                            KVM_MSR_EXIT_REASON_FILTER,
                        err) ||
        !set_msr_filter(kvm, err))
        return false;
    if (h->cap[CAP_X86_TRIPLE_FAULT_EVENT] &&
        !kvm_enable_cap(kvm->fd, CAP_X86_TRIPLE_FAULT_EVENT, 1, err))
        return false;
    /* An instruction KVM cannot emulate must come out as an exit at any privilege level, not go
     * into the guest as #UD. */
    if (h->cap[CAP_EXIT_ON_EMULATION_FAILURE] &&
        !kvm_enable_cap(kvm->fd, CAP_EXIT_ON_EMULATION_FAILURE, 1, err))
        return false;
    if (pm && !kvm_enable_cap(kvm->fd, CAP_X86_DISABLE_EXITS, pm, err))
        return false;
    /* MONITOR and MWAIT that are not offered: #UD, as in the software engine, not a NOP. */
    if (h->cap[CAP_DISABLE_QUIRKS2] & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS &&
        !kvm_enable_cap(kvm->fd, CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, err))
        return false;
    kvm->xsave_size = sizeof(struct kvm_xsave);
    if (h->cap[CAP_XSAVE2]) {
        int size = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
        kvm->xsave_size = MAX_OF(size, kvm->xsave_size);
    }
    return true;
}

bool kvm_vm_init(VmCommon *vm, GError **err)
{
    const KvmHost *h = kvm_host(err);
    if (!h)
        return false;
    if (h->cap[CAP_MAX_VCPUS] && vm->n_vcpus > (unsigned)h->cap[CAP_MAX_VCPUS]) {
        g_set_error(err, TANDEM_ERROR, ERR_UNSUPPORTED, "KVM takes at most %d vCPUs",
                    h->cap[CAP_MAX_VCPUS]);
        return false;
    }
    KvmVm *kvm = g_new0(KvmVm, 1);
    kvm->host = h;
    kvm->eoi[0] = kvm->eoi[1] = -1;
    g_mutex_init(&kvm->lock);
    g_mutex_init(&kvm->guard_lock);
    kvm_tables_init(kvm);
    do {
        kvm->fd = ioctl(h->dev, KVM_CREATE_VM, 0);
    } while (kvm->fd < 0 && errno == EINTR);
    vm->kvm = kvm;
    kvm_guard_init(vm);
    if (kvm->fd < 0)
        kvm_error(err, "KVM_CREATE_VM");
    else if (set_up(kvm, vm, vm->cpu_pm ? power_exits(vm, h) : 0, err) &&
             kvm_smram_init(kvm, vm->n_vcpus, err) && (!vm->mem || kvm_slots_sync(vm, err))) {
        vm->tsc_offset_fixed = h->tsc == TSC_FIXED;
        vm->kvm_quirk = kvm_quirk;
        return true;
    }
    kvm_vm_free(vm);
    return false;
}

static void free_vm(KvmVm *kvm)
{
    kvm_tables_end(kvm);
    kvm_eoi_close(kvm);
    if (kvm->fd >= 0)
        close(kvm->fd);
    for (unsigned id = 0; id < MEMMAP_MAX; id++)
        kvm_alias_unmap(&kvm->slot[id]);
    kvm_smram_free(kvm);
    g_mutex_clear(&kvm->lock);
    g_mutex_clear(&kvm->guard_lock);
    fresh_map_free(&kvm->fresh);
    g_free(kvm);
}

void kvm_vm_free(VmCommon *vm)
{
    if (!vm->kvm)
        return;
    free_vm(vm->kvm);
    vm->kvm = NULL;
    vm->guard_page = NULL;
    vm->release_page = NULL;
}

/* ---- vCPUs ---- */

static void fill_cpuid(const Vcpu *v, struct kvm_cpuid2 *c)
{
    const CpuidTable *t = v->vm->cpuid;
    c->nent = t->n;
    for (unsigned i = 0; i < t->n; i++) {
        const CpuidEntry *e = &t->e[i];
        struct kvm_cpuid_entry2 *k = &c->entries[i];
        *k = (struct kvm_cpuid_entry2){
            .function = e->leaf,
            .index = e->subleaf,
            .flags = e->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = e->eax,
            .ebx = e->ebx,
            .ecx = e->ecx,
            .edx = e->edx,
        };
        if (e->leaf == 1) /* the APIC id, as cpuid_execute() has it */
            k->ebx = (e->ebx & 0x00ffffff) | (uint32_t)v->id << 24;
        if (e->leaf == 0xb)
            k->edx = (uint32_t)v->id;
    }
}

static bool set_cpuid(Vcpu *v, KvmVcpu *kv, GError **err)
{
    g_autofree struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + CPUID_MAX * sizeof(c->entries[0]));
    fill_cpuid(v, c);
    if (ioctl(kv->fd, KVM_SET_CPUID2, c) < 0)
        return kvm_error(err, "KVM_SET_CPUID2");
    return true;
}

static bool set_up_vcpu(Vcpu *v, KvmVcpu *kv, GError **err)
{
    if (v->vm->cpuid && !set_cpuid(v, kv, err))
        return false;
    if (kv->vm->host->cap[CAP_MCE]) {
        uint64_t supported = 0, mcg_cap = 0;
        for (unsigned i = 0; i < kvm_msr_rows_n; i++)
            if (kvm_msr_rows[i].index == 0x179)
                mcg_cap = kvm_msr_rows[i].value;
        /* What this KVM does not take stays as it was: the guest reads our MCG_CAP anyway. */
        if (ioctl(kv->vm->host->dev, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported) == 0 &&
            (mcg_cap & 0xff) <= (uint64_t)kv->vm->host->cap[CAP_MCE] /* banks */ &&
            !(mcg_cap & ~0xffull & ~supported) && ioctl(kv->fd, KVM_X86_SETUP_MCE, &mcg_cap) < 0)
            return kvm_error(err, "KVM_X86_SETUP_MCE");
    }
    kv->xsave = g_malloc0((gsize)kv->vm->xsave_size);
    kv->msrs = g_malloc0(sizeof(*kv->msrs) + (MSR_ROWS_MAX + 1) * sizeof(kv->msrs->entries[0]));
    return kvm_find_msrs(v, err);
}

static void free_vcpu(KvmVcpu *kv)
{
    kvm_tables_left(kv);
    if (kv->run != MAP_FAILED)
        munmap(kv->run, kv->vm->host->run_size);
    if (kv->fd >= 0)
        close(kv->fd);
    g_free(kv->xsave);
    g_free(kv->msrs);
    g_free(kv);
}

bool kvm_vcpu_init(Vcpu *v, GError **err)
{
    KvmVm *kvm = v->vm->kvm;
    KvmVcpu *kv = g_new0(KvmVcpu, 1);

    kv->vm = kvm;
    kv->run = MAP_FAILED;
    v->engine_data[ENGINE_KVM] = kv;
    kv->fd = ioctl(kvm->fd, KVM_CREATE_VCPU, (unsigned long)v->id);
    if (kv->fd < 0) {
        kvm_error(err, "KVM_CREATE_VCPU");
    } else {
        kv->run = mmap(NULL, kvm->host->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kv->fd, 0);
        if (kv->run == MAP_FAILED)
            kvm_error(err, "mmap of kvm_run");
        else if (set_up_vcpu(v, kv, err)) {
            kvm_fresh_init(v);
            return true;
        }
    }
    kvm_vcpu_free(v);
    return false;
}

void kvm_vcpu_free(Vcpu *v)
{
    KvmVcpu *kv = kvm_of(v);
    v->engine_data[ENGINE_KVM] = NULL;
    v->fresh = NULL;
    if (kv)
        free_vcpu(kv);
}

/* ---- another VM ---- */

struct KvmAside {
    KvmVm *vm;
    KvmVcpu *vcpu[];
};

KvmAside *kvm_vm_set_aside(VmCommon *vm)
{
    KvmAside *a = g_malloc0(sizeof(*a) + vm->n_vcpus * sizeof(a->vcpu[0]));
    a->vm = vm->kvm;
    vm->kvm = NULL;
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        a->vcpu[i] = kvm_of(vm->vcpu[i]);
        vm->vcpu[i]->engine_data[ENGINE_KVM] = NULL;
        vm->vcpu[i]->fresh = NULL;
    }
    return a;
}

void kvm_vm_replaced(VmCommon *vm, KvmAside *a, bool ok)
{
    KvmVm *drop = a->vm;
    for (unsigned i = 0; i < vm->n_vcpus; i++) {
        KvmVcpu *kv = a->vcpu[i];
        if (!ok) {
            kv = kvm_of(vm->vcpu[i]);
            vm->vcpu[i]->engine_data[ENGINE_KVM] = a->vcpu[i];
            kvm_fresh_init(vm->vcpu[i]);
        }
        if (kv)
            free_vcpu(kv);
    }
    if (!ok) {
        drop = vm->kvm;
        vm->kvm = a->vm;
    }
    kvm_guard_carry(vm, a->vm);
    if (drop)
        free_vm(drop);
    g_free(a);
}
