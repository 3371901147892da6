/*
 * The bare processor at work on a guest's instructions: all 16 registers, the flags, x87, SSE and
 * AVX state are the guest's. What is run goes to native_back in the end.
 */
#ifndef TANDEM_TESTS_NATIVE_RUN_H
#define TANDEM_TESTS_NATIVE_RUN_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#define WINDOW 0x3000u /* bytes of G_DATA that operands lie in */

typedef struct NativeRegs {
    uint64_t gpr[16], rflags, code, save_rsp;
    _Alignas(64) uint8_t area[4096]; /* XSAVE, standard form; x87, SSE and AVX where there is AVX */
} NativeRegs;
NativeRegs native_regs;
void native_run(void);
void native_back(void);
/* clang-format off */
__asm__(".text\n.globl native_run, native_back\n"
        ".set AREA, native_regs+192\n"
        "native_run:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, native_regs+144(%rip)\n"
        "mov $7, %eax\nxor %edx, %edx\nxrstor64 AREA(%rip)\n"
        "push native_regs+128(%rip)\npopfq\n"
        "mov native_regs+0(%rip), %rax\nmov native_regs+8(%rip), %rcx\n"
        "mov native_regs+16(%rip), %rdx\nmov native_regs+24(%rip), %rbx\n"
        "mov native_regs+32(%rip), %rsp\nmov native_regs+40(%rip), %rbp\n"
        "mov native_regs+48(%rip), %rsi\nmov native_regs+56(%rip), %rdi\n"
        "mov native_regs+64(%rip), %r8\nmov native_regs+72(%rip), %r9\n"
        "mov native_regs+80(%rip), %r10\nmov native_regs+88(%rip), %r11\n"
        "mov native_regs+96(%rip), %r12\nmov native_regs+104(%rip), %r13\n"
        "mov native_regs+112(%rip), %r14\nmov native_regs+120(%rip), %r15\n"
        "jmp *native_regs+136(%rip)\n"
        "native_back:\n"
        "mov %rax, native_regs+0(%rip)\nmov %rcx, native_regs+8(%rip)\n"
        "mov %rdx, native_regs+16(%rip)\nmov %rbx, native_regs+24(%rip)\n"
        "mov %rsp, native_regs+32(%rip)\nmov %rbp, native_regs+40(%rip)\n"
        "mov %rsi, native_regs+48(%rip)\nmov %rdi, native_regs+56(%rip)\n"
        "mov %r8, native_regs+64(%rip)\nmov %r9, native_regs+72(%rip)\n"
        "mov %r10, native_regs+80(%rip)\nmov %r11, native_regs+88(%rip)\n"
        "mov %r12, native_regs+96(%rip)\nmov %r13, native_regs+104(%rip)\n"
        "mov %r14, native_regs+112(%rip)\nmov %r15, native_regs+120(%rip)\n"
        "mov native_regs+144(%rip), %rsp\n"
        "pushfq\npop native_regs+128(%rip)\npushq $2\npopfq\n"
        "mov $7, %eax\nxor %edx, %edx\nxsave64 AREA(%rip)\n"
        "fninit\nmovl $0x1f80, -8(%rsp)\nldmxcsr -8(%rsp)\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
/* clang-format on */
_Static_assert(offsetof(NativeRegs, area) == 192, "AREA above");

static uint64_t seed = 0x9e3779b97f4a7c15;
static G_GNUC_UNUSED uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1d;
}

#endif
