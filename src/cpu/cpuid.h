/* CPUID: the table a guest sees, and how it is made. The same table serves every engine. */
#ifndef TANDEM_CPU_CPUID_H
#define TANDEM_CPU_CPUID_H

#include <glib.h>
#include "base/types.h"

typedef struct CpuidEntry {
    uint32_t leaf, subleaf;
    bool has_subleaf; /* the subleaf index matters */
    uint32_t eax, ebx, ecx, edx;
} CpuidEntry;

#define CPUID_MAX 100

#define MWAIT_LINE 64u /* bytes that MONITOR watches: leaf 5 */

typedef struct CpuidTable {
    CpuidEntry e[CPUID_MAX];
    unsigned n;
    uint32_t max_basic, max_ext;
    char model[32]; /* the -cpu name it was made from */
    bool rescued;   /* of KVM's: see cpuid_build() */
} CpuidTable;

/* Feature bits by name: one row a feature, with its place; the columns are explained in
 * cpuid_features.def. */
enum CpuFeature {
#define FEATURE(id, name, leaf, sub, reg, bit, soft) FEAT_##id,
#include "cpu/cpuid_features.def"
#undef FEATURE
    FEAT_N
};

bool cpuid_has(const CpuidTable *, enum CpuFeature);
/* This host's processor itself, and its system where it has to. */
bool cpuid_host_has(enum CpuFeature);
const char *cpu_feature_name(enum CpuFeature);

/*
 * Builds the table for a -cpu argument: model[,+feat][,-feat][,feat=on|off]. Models: "max", "host",
 * "qemu64". What is offered is the intersection of the model, the host's own CPUID, what the
 * software engine does (the soft column) and, when kvm is not NULL, KVM_GET_SUPPORTED_CPUID's
 * entries. A feature asked for with + that cannot be offered is an error that says which side lacks
 * it. With kvm->rescued, instructions that KVM says it cannot execute are executed for it: what is
 * no more than instructions is then offered when it is asked for. n_vcpus, tsc_khz: for the
 * topology and frequency leaves.
 */
bool cpuid_build(CpuidTable *out, const char *arg, const CpuidTable *kvm, unsigned n_vcpus,
                 uint64_t tsc_khz, GError **);
/* The local APIC's timer is not clocked by the crystal of leaf 0x15, as Linux takes it to be: the
 * leaf says nothing then. */
void cpuid_drop_crystal(CpuidTable *);
/* Takes a feature out of a table: what KVM supports, before cpuid_build(). */
void cpuid_drop(CpuidTable *, enum CpuFeature);
/* -cpu help */
void cpuid_help(GString *out);

/* What the CPUID instruction returns for a vCPU: the table plus the bits that follow live state
 * (APIC id, OSXSAVE, XSAVE area size). */
void cpuid_execute(const CpuidTable *, uint32_t apic_id, uint64_t cr4, uint64_t xcr0,
                   uint64_t apic_base, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
/* Leaf 1 EAX. */
uint32_t cpuid_signature(const CpuidTable *);
/* XCR0 bits the guest may set, and all of XSAVE's standard-format layout: offset and size of
 * component i. */
uint64_t cpuid_xcr0_mask(const CpuidTable *);
bool cpuid_xsave_layout(const CpuidTable *, unsigned component, uint32_t *offset, uint32_t *size);
/* MAXPHYADDR and linear address width. */
unsigned cpuid_phys_bits(const CpuidTable *);

#endif
