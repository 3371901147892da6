/*
 * CpuState: the one home of a vCPU's architectural state.
 *
 * Canonical form, which every engine exports to and imports from. What "canonical" means for a
 * field is written beside it; the rules that bring an engine's view to it are in
 * src/vmstate/rules.def. Plain data: copied with assignment, compared and saved by the tables of
 * src/vmstate.
 */
#ifndef TANDEM_CPU_CPU_STATE_H
#define TANDEM_CPU_CPU_STATE_H

#include "base/types.h"

enum Gpr {
    RAX,
    RCX,
    RDX,
    RBX,
    RSP,
    RBP,
    RSI,
    RDI,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15, /* clang-format off */
    GPR_N,
    /* Two slots the software engine's address formula reads: never architectural, never saved. */
    GPR_ZERO = 16, /* always 0: "no base", "no index" */
    GPR_IP = 17,   /* base of RIP-relative operands */
    GPR_SLOTS = 18,
}; /* clang-format on */

/* The manual's encoding order, then the two system segments. */
enum Seg { ES, CS, SS, DS, FS, GS, LDTR, TR, SEG_N, SEG_NONE = 8 /* "no segment": base 0 */ };

/*
 * attr is in the layout of the VMCS access-rights field (SDM vol. 3, 25.4.1), which is bits 23:8 of
 * a descriptor with the limit taken out, plus the unusable bit.
 */
typedef struct Segment {
    uint64_t base;
    uint32_t limit; /* bytes: the last valid offset, granularity applied */
    uint32_t attr;
    uint16_t selector;
} Segment;

enum {
    SEG_TYPE = 0xf,
    SEG_ACCESSED = 1 << 0,
    SEG_WRITABLE = 1 << 1, /* data */
    SEG_READABLE = 1 << 1, /* code */
    SEG_TSS_BUSY = 1 << 1,
    SEG_EXPAND_DOWN = 1 << 2, /* data */
    SEG_CONFORMING = 1 << 2,  /* code */
    SEG_CODE = 1 << 3,
    SEG_S = 1 << 4, /* code or data, not system */
    SEG_DPL_SHIFT = 5,
    SEG_DPL = 3 << 5,
    SEG_P = 1 << 7,
    SEG_AVL = 1 << 12,
    SEG_L = 1 << 13,
    SEG_DB = 1 << 14,
    SEG_G = 1 << 15,
    SEG_UNUSABLE = 1 << 16,
};

typedef struct DescTable {
    uint64_t base;
    uint16_t limit;
} DescTable;

enum Rflags { /* SDM vol. 1, 3.4.3 */
              FL_CF = 1 << 0,
              FL_FIXED = 1 << 1,
              FL_PF = 1 << 2,
              FL_AF = 1 << 4,
              FL_ZF = 1 << 6,
              FL_SF = 1 << 7,
              FL_TF = 1 << 8,
              FL_IF = 1 << 9,
              FL_DF = 1 << 10,
              FL_OF = 1 << 11,
              FL_IOPL = 3 << 12,
              FL_NT = 1 << 14,
              FL_RF = 1 << 16,
              FL_VM = 1 << 17,
              FL_AC = 1 << 18,
              FL_VIF = 1 << 19,
              FL_VIP = 1 << 20,
              FL_ID = 1 << 21,
              FL_ARITH = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF,
};
#define FL_IOPL_SHIFT 12

enum Cr0 {
    CR0_PE = 1 << 0,
    CR0_MP = 1 << 1,
    CR0_EM = 1 << 2,
    CR0_TS = 1 << 3,
    CR0_ET = 1 << 4,
    CR0_NE = 1 << 5,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR0_NW = 1 << 29,
    CR0_CD = 1 << 30,
};
#define CR0_PG BIT(31)

enum Cr4 {
    CR4_VME = 1 << 0,
    CR4_PVI = 1 << 1,
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_MCE = 1 << 6,
    CR4_PGE = 1 << 7,
    CR4_PCE = 1 << 8,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_LA57 = 1 << 12,
    CR4_VMXE = 1 << 13,
    CR4_SMXE = 1 << 14,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
    CR4_PKE = 1 << 22,
};

enum Efer {
    EFER_SCE = 1 << 0,
    EFER_LME = 1 << 8,
    EFER_LMA = 1 << 10,
    EFER_NXE = 1 << 11,
    EFER_AIBRSE = 1 << 21, /* AMD's automatic IBRS */
};

#define DR6_FIXED1 0xffff0ff0ull
enum Dr {
    DR6_BS = 1 << 14,
    DR6_BD = 1 << 13,
    DR6_BT = 1 << 15,
    DR7_FIXED1 = 1 << 10,
    DR7_GD = 1 << 13
};

enum Vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
    VEC_CP = 21,
};

/* x87, MMX, SSE and AVX registers, unpacked. The XSAVE image is made from this in
 * src/vmstate/xsave.c. */
typedef struct VecReg { /* ZMM; XMM is bytes 0-15, YMM 0-31 */
    union {
        uint8_t b[64];
        uint16_t w[32];
        uint32_t d[16];
        uint64_t q[8];
    };
} __attribute__((aligned(64))) VecReg;

typedef struct FpReg { /* 80-bit register; the low 8 bytes are the MMX register */
    union {
        struct {
            uint64_t mant;
            uint16_t se; /* sign and exponent */
        };
        uint8_t b[16];
    };
} FpReg;

typedef struct FpuState {
    VecReg v[32];
    uint64_t k[8];
    FpReg r[8]; /* physical registers R0-R7: ST(i) is r[(top + i) & 7] */
    uint16_t fcw;
    uint16_t fsw; /* TOP in bits 13:11 */
    uint8_t ftw;  /* abridged: bit i set when physical register i is not empty */
    uint16_t fop;
    uint64_t fip, fdp; /* 64-bit, or selector << 32 | offset as a 32-bit FXSAVE stores them */
    uint32_t mxcsr;
    uint32_t mxcsr_mask; /* what FXSAVE stores as MXCSR_MASK; host's */
    uint32_t pkru;
    uint64_t xstate_bv; /* components not in their initial state, as XSAVE reports it */
} FpuState;

enum { FPU_TOP_SHIFT = 11 };

/* Events on their way into the guest: explicit valid bits, never a magic vector. */
typedef struct Events {
    struct {
        bool pending;  /* raised, not yet delivered (before the VM-exit check for it) */
        bool injected; /* delivery has begun and must be done on entry */
        bool has_error, has_payload;
        uint8_t nr;
        uint32_t error;
        uint64_t payload; /* CR2 or DR6 bits, not yet in the register */
    } exception;
    struct {
        bool injected; /* acknowledged at the controller: must be delivered */
        bool soft;     /* from INT n */
        uint8_t nr;
    } interrupt;
    struct {
        bool injected, pending, masked;
    } nmi;
    struct {
        bool pending, active /* in SMM */, inside_nmi, latched_init;
    } smi;
    bool shadow_sti;    /* the instruction after STI */
    bool shadow_mov_ss; /* the instruction after MOV SS or POP SS */
    bool triple_fault;
    uint8_t soft_len; /* length of the instruction that raised a software event */
} Events;

/* RUN_MWAIT: in a software engine alone (cpu/mwait.h). */
enum RunState { RUN_RUNNING, RUN_HALTED, RUN_WAIT_SIPI, RUN_INIT_RECEIVED, RUN_STOPPED, RUN_MWAIT };

#define MTRR_FIXED_N 11
#define MTRR_VAR_N   8
#define MC_BANKS_MAX 32

/* MSRs that have no other home. Rows in src/vmstate/msrs.def give the index of each. */
typedef struct Msrs {
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t tsc_aux, tsc_adjust, tsc_deadline;
    uint64_t pat, apic_base, misc_enable, feature_control, bios_sign_id, platform_info;
    uint64_t mtrr_def_type, mtrr_fixed[MTRR_FIXED_N], mtrr_base[MTRR_VAR_N], mtrr_mask[MTRR_VAR_N];
    uint64_t mcg_status, mcg_ctl, mc_ctl[MC_BANKS_MAX], mc_status[MC_BANKS_MAX],
        mc_addr[MC_BANKS_MAX], mc_misc[MC_BANKS_MAX];
    uint64_t amd_syscfg, amd_hwcr, amd_nb_cfg, amd_de_cfg;
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_pv_eoi, kvm_poll_control;
    uint64_t spec_ctrl, xss, debugctl, smbase, arch_capabilities, virt_ssbd;
} Msrs;

typedef struct CpuState {
    uint64_t gpr[GPR_SLOTS];
    uint64_t rip;           /* of the next instruction */
    uint64_t rflags;        /* bit 1 set, bits 3, 5, 15 and 63:22 clear */
    Segment seg[SEG_N + 1]; /* [SEG_NONE] stays zero */
    DescTable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
    uint64_t pdpte[4]; /* PAE page-directory pointers as loaded by the last MOV to CR3 */
    uint64_t dr[4], dr6, dr7;
    uint8_t cpl; /* derived: SS.DPL, 0 in real mode, 3 in vm86 */
    enum RunState run_state;
    uint8_t sipi_vector;
    uint64_t tsc_offset; /* guest TSC minus clock_tsc() */
    Events ev;
    Msrs msr;
    FpuState fpu;
} CpuState;

/* State after RESET (SDM vol. 3, table 10-1). is_bsp: the others wait for SIPI. */
#define CPU_SMBASE      0x30000ull /* of system-management mode, at reset */
#define CPU_SMBASE_SIZE 0x10000ull
void cpu_state_reset(CpuState *, uint32_t cpuid_signature, bool is_bsp);
/* State after INIT: as RESET, but x87/SSE, MTRRs and most MSRs keep their values. */
void cpu_state_init(CpuState *, uint32_t cpuid_signature, bool is_bsp);
/* Start-up at vector << 12 (SDM vol. 3, 9.4.4). */
void cpu_state_sipi(CpuState *, uint8_t vector);

static inline bool cpu_long_mode(const CpuState *s)
{
    return s->efer & EFER_LMA;
}

static inline bool cpu_code64(const CpuState *s)
{
    return (s->efer & EFER_LMA) && (s->seg[CS].attr & SEG_L);
}

#endif
