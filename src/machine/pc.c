/* The pc board: which devices there are, and what is wired to what. */
#include <string.h>

#include "base/log.h"
#include "devices/debugcon.h"
#include "devices/fw_cfg.h"
#include "devices/hpet.h"
#include "devices/i440fx.h"
#include "devices/i8042.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "devices/mc146818.h"
#include "devices/piix3.h"
#include "devices/piix4_pm.h"
#include "devices/ferr.h"
#include "devices/port92.h"
#include "devices/serial16550.h"
#include "machine/acpi.h"
#include "machine/loader.h"
#include "machine/machine_priv.h"
#include "switch/vcpu_loop.h"

/* ---- interrupt wiring ---- */

/* ISA interrupts go to both controllers; IRQ 0 is pin 2 of the IOAPIC (the MADT says so). */
static void isa_irq(void *opaque, int n, bool level)
{
    Machine *m = opaque;
    i8259_set_irq(m->pc.pic, n, level);
    ioapic_set_irq(m->pc.ioapic, n == 0 ? 2 : n, level);
    irqchip_line(m, n == 0 ? 2 : (unsigned)n, level);
}

static void gsi(void *opaque, int n, bool level)
{
    Machine *m = opaque;
    if (n < 16)
        i8259_set_irq(m->pc.pic, n == 2 ? 0 : n, level);
    ioapic_set_irq(m->pc.ioapic, n, level);
    irqchip_line(m, (unsigned)n, level);
}

static void pic_intr(void *opaque, int n, bool level)
{
    Machine *m = opaque;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_set_lint0(m->pc.lapic[i], level);
    irqchip_pic_intr(m);
}

static void hpet_legacy(void *opaque, bool on)
{
    Machine *m = opaque;
    i8254_set_irq_enabled(m->pc.pit, !on);
    pit_hpet_legacy(m);
    mc146818_set_irq_enabled(m->pc.rtc, !on);
}

void pc_irq_taken(Machine *m)
{
    i8254_irq_taken(m->pc.pit);
    hpet_irq_taken(m->pc.hpet);
}

static void cpu_intr(void *opaque, bool level)
{
    Vcpu *v = opaque;
    if (level)
        vcpu_kick(v, VREQ_INTR);
    else
        vcpu_request_clear(v, VREQ_INTR);
}

static void cpu_nmi(void *opaque)
{
    vcpu_kick(opaque, VREQ_NMI);
}

static void cpu_smi(void *opaque)
{
    vcpu_kick(opaque, VREQ_SMI);
}

static void cpu_init(void *opaque)
{
    vcpu_kick(opaque, VREQ_INIT);
}

static void cpu_sipi(void *opaque, uint8_t vector)
{
    Vcpu *v = opaque;
    atomic_store(&v->sipi_vector, vector);
    vcpu_kick(v, VREQ_SIPI);
}

static uint64_t cpu_tsc(void *opaque)
{
    return vcpu_clock_tsc(opaque);
}

static uint64_t cpu_ns_at_tsc(void *opaque, uint64_t tsc)
{
    Vcpu *v = opaque;
    return clock_ns_at_tsc(v->vm->clock, tsc - v->st.tsc_offset);
}

static bool make_lapics(Machine *m, GError **err)
{
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        m->pc.lapic_cpu[i] = (LapicCpu){
            .opaque = m->vcpus[i],
            .intr = cpu_intr,
            .nmi = cpu_nmi,
            .smi = cpu_smi,
            .init = cpu_init,
            .sipi = cpu_sipi,
            .tsc = cpu_tsc,
            .ns_at_tsc = cpu_ns_at_tsc,
        };
    if (!lapics_new(&m->board, m->vm.n_vcpus, m->pc.lapic_cpu, m->pc.lapic, err))
        return false;
    m->pc.lapics_made = true;
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        m->vcpus[i]->apic = m->pc.lapic[i];
    return true;
}

/* ---- serial ports ---- */

static void serial_out(void *opaque, const void *buf, size_t len)
{
    chardev_write(opaque, buf, len);
}

static gboolean accept_input(gpointer chr)
{
    chardev_accept_input(chr);
    return G_SOURCE_REMOVE;
}

/* From a vCPU's thread: the character device belongs to the main one. */
static void serial_has_room(void *opaque)
{
    g_idle_add_full(G_PRIORITY_HIGH, accept_input, opaque, NULL);
}

static unsigned serial_room(void *opaque)
{
    Device *d = opaque;
    Machine *m = d->board->opaque;
    machine_lock(m);
    unsigned n = serial_can_receive(d);
    machine_unlock(m);
    return n;
}

static void serial_in(void *opaque, const uint8_t *buf, unsigned len)
{
    Device *d = opaque;
    Machine *m = d->board->opaque;
    machine_lock(m);
    serial_receive(d, buf, len);
    machine_unlock(m);
}

static void serial_event(void *opaque, enum CharEvent event)
{
    Device *d = opaque;
    Machine *m = d->board->opaque;
    if (event != CHAR_BREAK)
        return;
    machine_lock(m);
    serial_break(d);
    machine_unlock(m);
}

static void connect_serial(Device *d, CharDev *chr)
{
    CharHandlers h = {
        .opaque = d, .can_read = serial_room, .read = serial_in, .event = serial_event};
    serial_connect(d, serial_out, serial_has_room, chr);
    chardev_attach(chr, &h);
}

/* ---- -device NAME,key=value ---- */

static bool add_user_device(Machine *m, const char *arg, GError **err)
{
    g_auto(GStrv) part = g_strsplit(arg, ",", -1);
    const DeviceClass *cls = device_class(part[0] ? part[0] : "");
    if (!cls || !cls->user_creatable) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "-device %s: %s; '-device help' lists what there is", part[0],
                    cls ? "part of the board, not to be added" : "no such device");
        return false;
    }
    g_autoptr(GHashTable) props = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    for (char **p = part + 1; *p; p++) {
        char *eq = strchr(*p, '=');
        if (!eq) {
            g_set_error(err, TANDEM_ERROR, ERR_USAGE, "-device %s: '%s' is not key=value", part[0],
                        *p);
            return false;
        }
        g_hash_table_replace(props, g_strndup(*p, (gsize)(eq - *p)), g_strdup(eq + 1));
    }
    globals_add(m, cls, props);
    Device *d = device_new(cls, &m->board, props, err);
    if (!d)
        return false;
    g_ptr_array_add(m->pc.user, d);
    if (cls == &device_debugcon && m->cfg.debugcon)
        debugcon_connect(d, serial_out, m->cfg.debugcon);
    return true;
}

/* ---- firmware's view ---- */

static AcpiConfig acpi_config(const Machine *m)
{
    return (AcpiConfig){
        .n_cpus = m->vm.n_vcpus, .ram_low = MIN_OF(m->ram.size, PC_LOW_RAM_MAX), .hpet = true};
}

/* What SeaBIOS looks for in CMOS: memory below 16 MiB, below 4 GiB, above; the number of
 * processors. */
static void fill_cmos(Machine *m)
{
    Device *rtc = m->pc.rtc;
    uint64_t low = MIN_OF(m->ram.size, PC_LOW_RAM_MAX), high = m->ram.size - low;
    uint64_t kib = MIN_OF((low >> 10) - 1024, 65535);
    uint64_t blocks = low > (16 << 20) ? (low - (16 << 20)) >> 16 : 0;
    mc146818_set_cmos(rtc, 0x15, 640 & 0xff);
    mc146818_set_cmos(rtc, 0x16, 640 >> 8);
    for (unsigned i = 0; i < 2; i++) {
        mc146818_set_cmos(rtc, 0x17 + i, (uint8_t)(kib >> i * 8));
        mc146818_set_cmos(rtc, 0x30 + i, (uint8_t)(kib >> i * 8));
        mc146818_set_cmos(rtc, 0x34 + i, (uint8_t)(blocks >> i * 8));
    }
    for (unsigned i = 0; i < 3; i++)
        mc146818_set_cmos(rtc, 0x5b + i, (uint8_t)(high >> (16 + i * 8)));
    mc146818_set_cmos(rtc, 0x5f, (uint8_t)(m->vm.n_vcpus - 1));
}

static bool fill_fw_cfg(Machine *m, GError **err)
{
    Device *fw = m->pc.fw_cfg;
    uint64_t low = MIN_OF(m->ram.size, PC_LOW_RAM_MAX);
    E820Entry map[E820_MAX];
    unsigned n = e820_build(low, m->ram.size - low, m->direct_boot, map);
    AcpiConfig acpi = acpi_config(m);
    fw_cfg_add_u64(fw, FW_CFG_RAM_SIZE, m->ram.size);
    fw_cfg_add_u16(fw, FW_CFG_NOGRAPHIC, 1);
    fw_cfg_add_u16(fw, FW_CFG_NB_CPUS, (uint16_t)m->vm.n_vcpus);
    fw_cfg_add_u16(fw, FW_CFG_MAX_CPUS, (uint16_t)m->vm.n_vcpus);
    fw_cfg_add_u16(fw, FW_CFG_IRQ0_OVERRIDE, 1);
    if (!fw_cfg_add_file(fw, "etc/e820", map, n * sizeof(map[0]), err))
        return false;
    /* A kernel that is booted directly finds its tables in memory: there is no firmware to ask. */
    return m->direct_boot || acpi_add_to_fw_cfg(&acpi, fw, err);
}

/* ---- the board ---- */

static bool make(Device **out, const DeviceClass *cls, Machine *m, GError **err)
{
    g_autoptr(GHashTable) props = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    globals_add(m, cls, props);
    bool given = g_hash_table_size(props) != 0;
    *out = device_new(cls, &m->board, props, err);
    if (!*out && given)
        g_prefix_error(err, "-global: ");
    return *out != NULL;
}

bool pc_init(Machine *m, GError **err)
{
    Pc *pc = &m->pc;
    pc->user = g_ptr_array_new();
    if (!m->cfg.kernel && !m->cfg.bios && !m->cfg.bios_image) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE,
                    "nothing to boot: give -kernel FILE or -bios FILE");
        return false;
    }
    if (m->cfg.kernel && m->cfg.bios) {
        g_set_error(
            err, TANDEM_ERROR, ERR_USAGE,
            "-bios with -kernel: the kernel is started without firmware; give one of the two");
        return false;
    }
    if ((m->cfg.initrd || m->cfg.append) && !m->cfg.kernel) {
        g_set_error(err, TANDEM_ERROR, ERR_USAGE, "%s needs -kernel",
                    m->cfg.initrd ? "-initrd" : "-append");
        return false;
    }
    if (!globals_init(m, err))
        return false;
    for (int i = 0; i < 16; i++)
        m->board.isa_irq[i] = (IrqLine){isa_irq, m, i};
    for (int i = 0; i < 24; i++)
        m->board.gsi[i] = (IrqLine){gsi, m, i};
    if (!make(&pc->pic, &device_i8259, m, err) || !make(&pc->ioapic, &device_ioapic, m, err) ||
        !make_lapics(m, err) || !make(&pc->pit, &device_i8254, m, err) ||
        !make(&pc->rtc, &device_mc146818, m, err) || !make(&pc->hpet, &device_hpet, m, err) ||
        !make(&pc->i8042, &device_i8042, m, err) || !make(&pc->i440fx, &device_i440fx, m, err) ||
        !make(&pc->piix3, &device_piix3, m, err) || !make(&pc->pm, &device_piix4_pm, m, err) ||
        !make(&pc->port92, &device_port92, m, err) || !make(&pc->ferr, &device_ferr, m, err) ||
        !make(&pc->fw_cfg, &device_fw_cfg, m, err))
        return false;
    i8259_connect(pc->pic, (IrqLine){pic_intr, m, 0});
    ioapic_connect(pc->ioapic, pc->lapic, m->vm.n_vcpus);
    lapic_set_eoi_hook(ioapic_eoi, pc->ioapic);
    i8254_connect(pc->pit, m->board.isa_irq[0]);
    i8254_set_busy(pc->pit, irq0_busy, m);
    mc146818_connect(pc->rtc, m->board.isa_irq[8]);
    ferr_connect(pc->ferr, m->board.isa_irq[13]);
    hpet_connect(pc->hpet, hpet_legacy, m);
    hpet_set_busy(pc->hpet, irq0_busy, m);
    for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
        if (!m->cfg.serial[i])
            continue;
        pc->serial[i] = serial_new(&m->board, i, err);
        if (!pc->serial[i])
            return false;
        connect_serial(pc->serial[i], m->cfg.serial[i]);
    }
    if (m->cfg.debugcon) {
        if (!make(&pc->debugcon, &device_debugcon, m, err))
            return false;
        debugcon_connect(pc->debugcon, serial_out, m->cfg.debugcon);
    }
    for (const char *const *d = m->cfg.devices; d && *d; d++) {
        if (!add_user_device(m, *d, err))
            return false;
    }
    if (!globals_all_used(m, err))
        return false;
    fill_cmos(m);
    m->direct_boot = m->cfg.kernel != NULL;
    return fill_fw_cfg(m, err);
}

static void each_device(Machine *m, void (*fn)(Device *))
{
    Pc *pc = &m->pc;
    /* Those that others were made on come last. */
    Device *const board[] = {pc->fw_cfg, pc->ferr, pc->port92, pc->pm,  pc->piix3,  pc->i440fx,
                             pc->i8042,  pc->hpet, pc->rtc,    pc->pit, pc->ioapic, pc->pic};
    for (unsigned i = 0; pc->user && i < pc->user->len; i++)
        fn(g_ptr_array_index(pc->user, i));
    for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
        if (pc->serial[i])
            fn(pc->serial[i]);
    }
    if (pc->debugcon)
        fn(pc->debugcon);
    for (unsigned i = 0; i < ARRAY_LEN(board); i++) {
        if (board[i])
            fn(board[i]);
    }
}

void pc_free(Machine *m)
{
    each_device(m, device_free);
    if (m->pc.user)
        g_ptr_array_free(m->pc.user, TRUE);
    if (m->pc.lapics_made)
        lapics_free(m->pc.lapic, m->vm.n_vcpus);
    memset(&m->pc, 0, sizeof(m->pc));
}

static void reset_one(Device *d)
{
    if (d->cls->reset)
        d->cls->reset(d);
}

void pc_reset(Machine *m)
{
    each_device(m, reset_one);
    for (unsigned i = 0; i < m->vm.n_vcpus; i++)
        lapic_reset(m->pc.lapic[i], false);
    if (m->direct_boot) {
        /* What firmware would have done before it started a kernel. */
        i440fx_shadow_ram(m->pc.i440fx);
        piix3_route_default(m->pc.piix3);
    }
}

bool pc_load(Machine *m, GError **err)
{
    if (!m->direct_boot)
        return true;
    AcpiConfig acpi = acpi_config(m);
    if (!acpi_build(&acpi, &m->mem, &m->rsdp, err))
        return false;
    BootInfo info = {
        .kernel = m->cfg.kernel,
        .initrd = m->cfg.initrd,
        .append = m->cfg.append,
        .rsdp = m->rsdp,
        .ram_low = acpi.ram_low,
        .ram_high = m->ram.size - acpi.ram_low,
        .cpuid_signature = cpuid_signature(&m->cpuid),
    };
    return boot_load(&info, &m->mem, &m->boot_state, err);
}

void machine_powerdown(Machine *m)
{
    machine_lock(m);
    piix4_pm_power_button(m->pc.pm);
    machine_unlock(m);
}
