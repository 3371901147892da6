/* Between the run loop (interp.c) and a translator's. */
#ifndef TANDEM_TCG_RUN_H
#define TANDEM_TCG_RUN_H

#include "tcg/block.h"

/* A handler's outcome, for the loop. */
typedef enum Next {
    NEXT_BLOCK,
    NEXT_EXIT, /* the Exit is filled */
} Next;

/* RIP, instruction count and fault of a block left at instruction i with f. The caller has counted
 * the instructions before i. */
Next leave_block(CpuState *s, Tcg *t, const Insn *i, Fault f, Exit *x);
#define DR7_ENABLED 0xffull /* L0 to G3 */

/* Must the next instruction be run by itself? RF is about breakpoints: without any it just goes
 * when an instruction begins (rf_done()). */
static inline bool be_careful(const CpuState *s, const Tcg *t)
{
    return (s->rflags & FL_TF) || (s->dr7 & DR7_ENABLED) || t->inhibit || t->step || t->careful ||
           t->step_over;
}

/* The instruction at RIP is run now for certain. */
static inline void rf_done(CpuState *s)
{
    s->rflags &= ~(uint64_t)FL_RF;
}

/* The block at s->rip if it is known and nothing but near branches led here; else NULL. */
Block *next_block(const CpuState *s, const Tcg *t);
/* The first instructions of a block, as many as are left. */
Next run_some(CpuState *s, Tcg *t, const Block *b, Exit *x);
/* ---- an engine's duties, the same with and without a translator ---- */
bool software_vm_init(VmCommon *, GError **err);
void software_vm_free(VmCommon *);
/* engine_data[ENGINE_INTERP], if there is none yet. */
bool software_vcpu_init(Vcpu *, GError **err);
/* translate: by Tcg.translator. */
Exit software_run(Vcpu *, const RunLimit *, bool translate);
void software_kick(Vcpu *);
bool software_drain(Vcpu *, GError **err);
bool software_export(Vcpu *, unsigned groups, GError **err);
bool software_import(Vcpu *, unsigned groups, GError **err);
bool software_map_changed(VmCommon *, GError **err);
void software_enter(Vcpu *);
void software_leave(Vcpu *);
#define SOFTWARE_DUTIES                                                                        \
    .is_software = true, .vm_free = software_vm_free, .kick = software_kick,                   \
    .drain = software_drain, .export_state = software_export, .import_state = software_import, \
    .map_changed = software_map_changed, .enter = software_enter, .leave = software_leave

#endif
