/*
 * Walking the state tables: what fields.def and msrs.def declare, as data.
 *
 * Everything that treats all of a vCPU's state alike goes through here: comparison, the monitor's
 * `info registers`, test states. Pure functions over CpuState; any thread that may read it.
 */
#ifndef TANDEM_VMSTATE_STATE_H
#define TANDEM_VMSTATE_STATE_H

#include <glib.h>
#include "cpu/cpu_state.h"

enum VmstateType {
    VMSTATE_U8,
    VMSTATE_U16,
    VMSTATE_U32,
    VMSTATE_U64,
    VMSTATE_BOOL,
    VMSTATE_SEGMENT, /* Segment */
    VMSTATE_TABLE,   /* DescTable */
    VMSTATE_VECREG,  /* VecReg, 64 bytes */
    VMSTATE_FPREG,   /* FpReg, of which 10 bytes count */
};

typedef struct VmstateField {
    const char *name; /* "RAX", "LSTAR": unique */
    enum VmstateType type;
    uint32_t group;  /* bit of enum StateGroup (cpu/vcpu.h) */
    uint32_t offset; /* in CpuState */
    uint32_t msr;    /* MSR index for the rows of msrs.def, else 0 */
} VmstateField;

typedef void VmstateFieldFn(const VmstateField *, void *opaque);
/* Calls fn for each field of the groups, in the tables' order. */
void vmstate_foreach(unsigned groups, VmstateFieldFn *fn, void *opaque);
/* The field of this name, or NULL. */
const VmstateField *vmstate_field(const char *name);
/* The field's value as people write it, NUL-terminated, cut to size (140 hold any). */
void vmstate_print(const CpuState *, const VmstateField *, char *buf, size_t size);

typedef void VmstateDiffFn(const VmstateField *, const char *a, const char *b, void *opaque);
/* Calls fn (which may be NULL) with both values for each field of the groups in which a and b
 * differ; returns how many do. Padding and slots that are not state do not count. */
unsigned vmstate_diff(const CpuState *a, const CpuState *b, unsigned groups, VmstateDiffFn *fn,
                      void *opaque);

/* `info registers`, in the layout people know from QEMU. Appends. */
void vmstate_dump(const CpuState *, GString *out);

/*
 * A random state that is valid and canonical: all rules leave it alone and all VM-entry checks
 * pass. Every mode is drawn: real, vm86, 16- and 32-bit protected with and without paging, PAE,
 * compatibility and 64-bit. The same seed gives the same state. For tests.
 */
void vmstate_randomise(CpuState *, uint64_t seed);

#endif
