#include "devices/i440fx.h"

#include <string.h>

#include "devices/pci.h"

#define PAM0       0x59 /* high nibble: 0xf0000-0xfffff; PAM1-6 hold two 16 KiB blocks each */
#define N_PAM      7
#define SMRAM      0x72
#define PAM_RE     1
#define PAM_WE     2
#define SMRAM_LOCK 0x10

typedef struct I440fx {
    Device dev;
    PciFunction pci;
    uint8_t pam[N_PAM]; /* as the memory map has them */
} I440fx;

static I440fx *i440fx(Device *dev)
{
    return CONTAINER_OF(dev, I440fx, dev);
}

void i440fx_pam(Device *dev, gpa_t gpa, bool *read_ram, bool *write_ram)
{
    const I440fx *s = i440fx(dev);
    unsigned pam;
    *read_ram = *write_ram = true;
    if (gpa < 0xc0000 || gpa > 0xfffff)
        return;
    if (gpa >= 0xf0000) {
        pam = s->pci.config[PAM0] >> 4;
    } else {
        unsigned block = (unsigned)(gpa - 0xc0000) >> 14;
        pam = s->pci.config[PAM0 + 1 + block / 2] >> (block & 1 ? 4 : 0);
    }
    *read_ram = pam & PAM_RE;
    *write_ram = pam & PAM_WE;
}

void i440fx_shadow_ram(Device *dev)
{
    I440fx *s = i440fx(dev);
    s->pci.config[PAM0] = (PAM_RE | PAM_WE) << 4;
    memset(&s->pci.config[PAM0 + 1], 0x33, N_PAM - 1);
    memcpy(s->pam, &s->pci.config[PAM0], N_PAM);
}

static void config_written(PciFunction *f, unsigned offset, unsigned size)
{
    I440fx *s = CONTAINER_OF(f, I440fx, pci);
    if (memcmp(s->pam, &f->config[PAM0], N_PAM)) {
        memcpy(s->pam, &f->config[PAM0], N_PAM);
        if (s->dev.board->remap)
            s->dev.board->remap(s->dev.board->opaque);
    }
    /* D_LCK stays set until reset and closes the register. */
    if (f->config[SMRAM] & SMRAM_LOCK)
        f->wmask[SMRAM] = 0;
}

static void i440fx_reset(Device *dev)
{
    I440fx *s = i440fx(dev);
    pci_function_reset(&s->pci);
    /* Memory access and bus mastering cannot be turned off; medium DEVSEL timing. */
    pci_set16(&s->pci, PCI_COMMAND, PCI_CMD_MEMORY | PCI_CMD_MASTER);
    pci_set16(&s->pci, PCI_STATUS, 0x0280);
    memset(&s->pci.config[PAM0], 0, N_PAM);
    memset(s->pam, 0, N_PAM);
    s->pci.config[SMRAM] = 0x02;
    s->pci.wmask[SMRAM] = 0x78;
}

static bool i440fx_realize(Device *dev, GHashTable *props, GError **err)
{
    I440fx *s = i440fx(dev);
    pci_function_init(&s->pci, "i440fx", 0x8086, 0x1237, 0x060000, 2, 0);
    s->pci.wmask[PCI_COMMAND] = 0;
    s->pci.wmask[PAM0] = 0x33;
    memset(&s->pci.wmask[PAM0 + 1], 0x33, N_PAM - 1);
    s->pci.config_written = config_written;
    dev->board->pci = pci_bus_new(dev->board);
    return pci_add(dev->board->pci, &s->pci, PCI_DEVFN(0, 0), err);
}

static void i440fx_unrealize(Device *dev)
{
    if (dev->board->pci)
        pci_bus_free(dev->board->pci);
    dev->board->pci = NULL;
}

static void i440fx_describe(Device *dev, GString *out)
{
    const I440fx *s = i440fx(dev);
    g_string_append(out, "PAM");
    for (unsigned i = 0; i < N_PAM; i++)
        g_string_append_printf(out, " %02x", s->pci.config[PAM0 + i]);
    g_string_append_printf(out, " SMRAM %02x\n", s->pci.config[SMRAM]);
}

const DeviceClass device_i440fx = {
    .name = "i440FX",
    .help = "host bridge",
    .size = sizeof(I440fx),
    .realize = i440fx_realize,
    .reset = i440fx_reset,
    .unrealize = i440fx_unrealize,
    .describe = i440fx_describe,
};
