/*
 * A guest of 64 KiB at the reset vector, in 32-bit mode without paging, that sends its own vCPU SMIs by the local APIC: nothing is to come of
 * them, as on a PC whose firmware's handler finds nothing to do. It says so at port 0xe9, and ends through isa-debug-exit at 0xf4: 0 is
 * well.
 */
#ifndef SMIS
#define SMIS 100
#endif
#define BASE 0xf0000
#define AT(l) ((l) - image + BASE)
#define OFF(l) ((l) - image)
#define APIC 0xfee00000
#define SMRAM 0x38000 /* where the handler would be in RAM: here with what ends the test, should it be run */

    .text
    .code16
image:
    cli
    lgdtl %cs:OFF(gdt_pointer)
    movl %cr0, %eax
    orb $0x01, %al
    movl %eax, %cr0
    ljmpl $0x08, $AT(enter32)

    .code32
enter32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x7000, %esp
    movl $0xf4e601b0, SMRAM /* mov al, 1; out 0xf4, al */
    movl $0x1ff, APIC + 0xf0
    xorl %ebx, %ebx
1:  movl $0, APIC + 0x310
    movl $0x4200, APIC + 0x300 /* SMI, to APIC 0 */
    incl %ebx
    nop
    cmpl $SMIS, %ebx
    jne 1b
    cmpl $0xf4e601b0, SMRAM
    jne failed
    cmpl $0x7000, %esp
    jne failed
    movl $AT(text), %esi
2:  movb (%esi), %al
    incl %esi
    outb %al, $0xe9
    cmpb $10, %al
    jne 2b
    xorl %eax, %eax
    outb %al, $0xf4
failed:
    movb $2, %al
    outb %al, $0xf4
3:  hlt
    jmp 3b
text:
    .ascii "smi\n"

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08: code, 32 bits, flat */
    .quad 0x00cf93000000ffff /* 10: data, flat */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long AT(gdt)

    .org image + 0xfff0
    .code16
    ljmpw $0xf000, $OFF(image)
    .org image + 0x10000
    .section .note.GNU-stack, "", @progbits
