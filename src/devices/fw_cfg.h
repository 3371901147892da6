/*
 * fw_cfg: how firmware and guests read configuration from the host (QEMU's docs/specs/fw_cfg):
 * selector port 0x510, data port 0x511, DMA address port 0x514. Items are read-only to the guest.
 */
#ifndef TANDEM_DEVICES_FW_CFG_H
#define TANDEM_DEVICES_FW_CFG_H

#include "devices/bus.h"

extern const DeviceClass device_fw_cfg;

enum FwCfgKey {
    FW_CFG_SIGNATURE = 0x00, /* "QEMU", added by the device */
    FW_CFG_ID = 0x01,        /* traditional interface and DMA, added by the device */
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03, /* u64 */
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05, /* u16 */
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f, /* u16 */
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
};
#define FW_CFG_FILES_MAX 64

/* The data is copied; a key that exists already is replaced. Keys are those above, files apart. */
void fw_cfg_add_bytes(Device *, uint16_t key, const void *data, size_t len);
void fw_cfg_add_u16(Device *, uint16_t key, uint16_t v);
void fw_cfg_add_u32(Device *, uint16_t key, uint32_t v);
void fw_cfg_add_u64(Device *, uint16_t key, uint64_t v);
/* A named file, such as "etc/e820"; an existing one of that name is replaced. Fails when the name
 * has more than 55 bytes or the directory is full. */
bool fw_cfg_add_file(Device *, const char *name, const void *data, size_t len, GError **);

#endif
