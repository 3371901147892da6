/*
 * The demo guest: 64 KiB at the reset vector. It walks real, protected and long mode and does the same in
 * each: rounds of a checksum over a buffer, a report to the host, a look at the clock, a nap in HLT, with the
 * PIT interrupting at 100 Hz. demo.c computes the same checksums and holds them against the reports.
 *
 * Ports (32 bits wide; demo.h): REPORT_MODE, _SUM, _TSC_LO, _TSC_HI, _TICKS are written, COMMAND is read.
 *
 * The protected and long mode handlers return with POPF and RET, not IRET: this way the guest also runs on a
 * KVM whose instruction emulator has no protected-mode IRET.
 */
#include "demo/demo_ports.h"

#define BASE   0xf0000          /* where the image is seen below 1 MiB */
#define AT(l)  ((l) - demo_image + BASE)
#define OFF(l) ((l) - demo_image) /* offset in segment 0xf000 */
#define TICKS  0x510
#define SUM    0x514
#define PML4   0x10000
#define STACK  0x7000

    .section .rodata
    .balign 16
    .globl demo_image, demo_image_end
    .hidden demo_image, demo_image_end

/* One round over DEMO_WORDS words; also calls and returns, so that the stack is in use. Same text, three modes. */
.macro ROUNDS name
\name:
    movl $0, %ebp
\name\()_round:
    movl SUM, %eax
    movl $DEMO_BUFFER, %esi
    movl $DEMO_WORDS, %ecx
    xorl %ebx, %ebx
    xorl %edx, %edx
\name\()_word:
    xorl (%esi), %eax
    roll $7, %eax
    addl $0x9e3779b9, %eax
    movl %eax, (%esi)
    addl %eax, %ebx
    adcl $0, %edx
    addl $4, %esi
    decl %ecx
    jnz \name\()_word
    call \name\()_fold
    movl %eax, SUM
    movw $DEMO_PORT_SUM, %dx
    outl %eax, %dx
    rdtsc
    movl %edx, %ebx
    movw $DEMO_PORT_TSC_LO, %dx
    outl %eax, %dx
    movl %ebx, %eax
    movw $DEMO_PORT_TSC_HI, %dx
    outl %eax, %dx
    movw $DEMO_PORT_TICKS, %dx
    cli
    movl TICKS, %eax
    outl %eax, %dx
    sti
    incl %ebp
    testl $15, %ebp
    jnz \name\()_no_nap
    sti
    hlt
\name\()_no_nap:
    movw $DEMO_PORT_COMMAND, %dx
    inl %dx, %eax
    testl %eax, %eax
    jz \name\()_round
    jmp \name\()_end
\name\()_fold:
    addl %edx, %ebx
    xorl %ebx, %eax
    imull $0x85ebca6b, %eax, %eax
    ret
\name\()_end:
.endm

.macro ANNOUNCE mode
    movl $\mode, %eax
    movw $DEMO_PORT_MODE, %dx
    outl %eax, %dx
.endm

    .code16
demo_image:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    movl $0, TICKS
    movl $0x12345678, SUM
    movw $DEMO_BUFFER, %di
    movw $DEMO_WORDS * 4, %cx
    xorb %al, %al
    rep stosb
    /* Interrupt 0x20: the PIT. */
    movw $OFF(tick16), 0x20 * 4
    movw $0xf000, 0x20 * 4 + 2
    movb $0x11, %al
    outb %al, $0x20
    movb $0x20, %al
    outb %al, $0x21
    movb $0x04, %al
    outb %al, $0x21
    movb $0x01, %al
    outb %al, $0x21
    movb $0xfe, %al
    outb %al, $0x21
    movb $0xff, %al
    outb %al, $0xa1
    movb $0x34, %al
    outb %al, $0x43
    movb $DEMO_PIT_DIVISOR & 0xff, %al
    outb %al, $0x40
    movb $DEMO_PIT_DIVISOR >> 8, %al
    outb %al, $0x40
    sti
    ANNOUNCE 16
    ROUNDS real

    cli
    lgdtl %cs:OFF(gdt_pointer)
    lidtl %cs:OFF(idt32_pointer)
    /* Gate of vector 0x20 at physical 0, over the vector table that is no longer needed. */
    movw $AT(tick32) & 0xffff, 0x20 * 8
    movw $0x08, 0x20 * 8 + 2
    movw $0x8e00, 0x20 * 8 + 4
    movw $AT(tick32) >> 16, 0x20 * 8 + 6
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $AT(enter32)

tick16:
    pushw %ax
    pushw %ds
    xorw %ax, %ax
    movw %ax, %ds
    incl TICKS
    movb $0x20, %al
    outb %al, $0x20
    popw %ds
    popw %ax
    iretw

    .code32
enter32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    sti
    ANNOUNCE 32
    ROUNDS prot

    cli
    /* Identity map of the first GiB in 2 MiB pages. */
    movl $PML4, %edi
    movl $0xc00, %ecx
    xorl %eax, %eax
    rep stosl
    movl $PML4 + 0x1003, PML4
    movl $PML4 + 0x2003, PML4 + 0x1000
    movl $PML4 + 0x2000, %edi
    movl $0x83, %eax
    movl $512, %ecx
map_page:
    movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz map_page
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $AT(tick64) & 0xffff | 0x180000, 0x20 * 16
    movl $AT(tick64) & 0xffff0000 | 0x8e00, 0x20 * 16 + 4
    movl $0, 0x20 * 16 + 8
    movl $0, 0x20 * 16 + 12
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x18, $AT(enter64)

tick32:
    pushl %eax
    incl TICKS
    movb $0x20, %al
    outb %al, $0x20
    popl %eax
    pushl 8(%esp)
    popfl
    ret $8

    .code64
enter64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq $STACK, %rsp
    lidt AT(idt64_pointer)
    sti
    ANNOUNCE 64
    ROUNDS long

    cli
    ANNOUNCE 0
ended:
    hlt
    jmp ended

/* Frame: RIP, CS, RFLAGS, RSP, SS. What is needed of it moves below the old RSP, where POPF and RET find it;
 * those slots are the frame's own, already read. */
tick64:
    pushq %rax
    pushq %rcx
    incl TICKS
    movb $0x20, %al
    outb %al, $0x20
    movq 40(%rsp), %rcx
    movq 16(%rsp), %rax
    pushq 32(%rsp)
    movq %rax, -8(%rcx)
    popq %rax
    movq %rax, -16(%rcx)
    movq 8(%rsp), %rax
    movq %rax, -24(%rcx)
    movq (%rsp), %rax
    movq %rax, -32(%rcx)
    leaq -32(%rcx), %rsp
    popq %rcx
    popq %rax
    popfq
    ret

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08: code, 32 bits, flat */
    .quad 0x00cf93000000ffff /* 10: data, flat */
    .quad 0x00af9b000000ffff /* 18: code, 64 bits */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long AT(gdt)
idt32_pointer:
    .word 0x21 * 8 - 1
    .long 0
idt64_pointer:
    .word 0x21 * 16 - 1
    .quad 0

    .org demo_image + 0xfff0
    .code16
    ljmpw $0xf000, $OFF(demo_image)
    .org demo_image + 0x10000
demo_image_end:

    .section .note.GNU-stack, "", @progbits
