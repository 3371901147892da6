/*
 * Guest of test_irqchip.c, test_kernel_pit.c, test_pv.c and test_mwait.c: 64 KiB at the reset vector, real mode, local APICs in x2APIC mode. It asks for commands
 * at port 0x500 and says what happens at port 0x501, a letter at a time. 0x502 and 0x503 hold it where it is while
 * they read as zero; 0x504 gives 32-bit arguments, and takes results, the lower half first.
 */
#define OFF(l) ((l) - irqchip_image)

    .section .rodata
    .balign 16
    .globl irqchip_image, irqchip_image_end
    .hidden irqchip_image, irqchip_image_end
    .code16

.macro SAY letter
    movb $\letter, %al
    movw $0x501, %dx
    outb %al, %dx
.endm
.macro HOLD port
1:  movw $\port, %dx
    inb %dx, %al
    testb %al, %al
    jz 1b
.endm
.macro APIC reg, low
    movl $0x800 + \reg, %ecx
    movl \low, %eax
    xorl %edx, %edx
    wrmsr
.endm
    /* By the bit at 0x3300, if KVM has set it; 0x3304 counts these. */
.macro EOI
    btrw $0, 0x3300
    jc 1f
    APIC 0x0b, $0
    jmp 2f
1:  incw 0x3304
2:
.endm
.macro MONITOR line
    movl $\line, %eax
    xorl %ecx, %ecx
    xorl %edx, %edx
    .byte 0x0f, 0x01, 0xc8
.endm
.macro MWAIT
    xorl %eax, %eax
    .byte 0x0f, 0x01, 0xc9
.endm
.macro APIC_ON
    movl $0x1b, %ecx
    rdmsr
    orl $0xc00, %eax
    wrmsr
    APIC 0x0f, $0x1ff
.endm
.macro VECTOR n, handler
    movw $OFF(\handler), \n * 4
    movw $0xf000, \n * 4 + 2
.endm
.macro HANDLER name, letter
\name:
    pushal
    SAY \letter
    EOI
    popal
    iret
.endm

irqchip_image:                  /* the second vCPU starts at F000:0 */
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x6000, %sp
    APIC_ON
    SAY 'P'
    movl $1, %eax
    cpuid
    testl $8, %ecx              /* MONITOR */
    jnz answers
ap_sleeps:
    sti
    hlt
    jmp ap_sleeps
answers:
    sti
    MONITOR 0x3480
    movl 0x3480, %eax
    cmpl 0x34c0, %eax
    je 1f
    movl %eax, 0x34c0
    jmp answers
1:  xorl %ecx, %ecx
    MWAIT
    jmp answers

bsp:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7000, %sp
    VECTOR 0x02, nmi
    VECTOR 0x06, undefined
    VECTOR 0x40, timer
    VECTOR 0x41, low
    VECTOR 0x51, in_service
    VECTOR 0x52, ipi
    VECTOR 0x53, woken
    VECTOR 0x54, shadow
    VECTOR 0x55, silent
    VECTOR 0x91, high
    APIC_ON
    APIC 0x36, $0x400           /* LINT1: NMI */
    APIC 0x3e, $0xb             /* the timer's clock by 1 */
    sti
next:
    movw $0x500, %dx
    inb %dx, %al
    testb %al, %al
    jz next
    cmpb $23, %al
    ja next
    xorw %bx, %bx
    movb %al, %bl
    addw %bx, %bx
    cs
    callw *OFF(table)-2(%bx)
    SAY '.'
    sti
    jmp next
table:
    .word OFF(one_shot), OFF(deadline), OFF(periodic), OFF(serve), OFF(sipi), OFF(ipi_ap), OFF(sleep), OFF(sti), OFF(init)
    .word OFF(pv_new), OFF(pv_old), OFF(clock), OFF(call_ipi), OFF(call_unknown), OFF(move_tsc), OFF(x87), OFF(pv_eoi), OFF(quiet)
    .word OFF(no_mwait), OFF(mwait), OFF(lines), OFF(port_out), OFF(port_in)

argument:
    movw $0x504, %dx
    inl %dx, %eax
    ret

one_shot:
    cli
    APIC 0x32, $0x40
    call argument
    movl %eax, %ebx
    APIC 0x38, %ebx
    sti
    hlt
    ret

deadline:
    cli
    APIC 0x32, $0x40040
    call argument
    movl %eax, %ebx
    rdtsc
    addl %ebx, %eax
    adcl $0, %edx
    movl $0x6e0, %ecx
    wrmsr
    sti
    hlt
    ret

periodic:
    APIC 0x32, $0x20040
    call argument
    movl %eax, %ebx
    APIC 0x38, %ebx
    ret

quiet:                          /* interrupts between which nothing leaves KVM but they themselves */
    movw $100, %si
1:  APIC 0x3f, $0x55
    decw %si
    jnz 1b
    ret

serve:
    APIC 0x3f, $0x51
    ret

sleep:
    cli
    SAY 'z'
    sti
    hlt
    ret

sti:
    cli
    APIC 0x3f, $0x54
    SAY 's'
    HOLD 0x502
    movb $'S', %al
    movw $0x501, %dx
    sti
    outb %al, %dx
    nop
    ret

    /* The interrupt command register, x2APIC: the destination is its upper half. */
sipi:
    movl $0x46f0, %eax
    jmp command
init:
    movl $0x4500, %eax
    jmp command
ipi_ap:
    movl $0x4052, %eax
command:
    movl $1, %edx
    movl $0x830, %ecx
    wrmsr
    ret

    /* KVM's paravirtual interface: clock at 0x3000, wall clock at 0x3100, steal time at 0x3200. */
.macro MSR n, value
    movl $\n, %ecx
    movl $\value, %eax
    xorl %edx, %edx
    wrmsr
.endm
pv_new:
    MSR 0x4b564d01, 0x3001
    MSR 0x4b564d00, 0x3100
    MSR 0x4b564d03, 0x3201
    ret
pv_old:
    MSR 0x12, 0x3001
    MSR 0x11, 0x3100
    ret
pv_eoi:
    MSR 0x4b564d04, 0x3301
    ret
clock:
    rdtsc
    movl %edx, %ebx
    jmp result
move_tsc:                       /* forward by some seconds */
    rdtsc
    addl $4, %edx
    movl $0x10, %ecx
    wrmsr
    ret
call_ipi:                       /* to the first vCPU, by its vendor's instruction */
    xorl %eax, %eax
    cpuid
    movl %ebx, %edi
    movl $10, %eax
    movl $1, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0x52, %esi
    cmpl $0x68747541, %edi      /* "Auth" */
    je 1f
    vmcall
    jmp result
1:  vmmcall
    jmp result
call_unknown:
    movl $77, %eax
    vmmcall
result:                         /* EBX:EAX */
    movw $0x504, %dx
    outl %eax, %dx
    movl %ebx, %eax
    outl %eax, %dx
    ret

x87:                            /* what a KVM without hardware cannot emulate */
    movw $3000, %cx
1:  fld1
    fninit
    loop 1b
    ret

no_mwait:
    MONITOR 0x3400
    MWAIT
    ret

mwait:                          /* with interrupts off, until one waits */
    cli
    SAY '('
1:  MONITOR 0x3400
    movl $0x824, %ecx           /* IRR of vectors 0x80 to 0x9f: is 0x91 there? */
    rdmsr
    testl $0x20000, %eax
    jnz 2f
    movl $1, %ecx
    MWAIT
    jmp 1b
2:  SAY ')'
    sti
    nop
    ret

    /* The first vCPU writes a number to 0x3480, the second sees it and answers at 0x34c0. */
lines:
    call argument
    movl %eax, %edi
    addl 0x34c0, %edi
1:  incl 0x3480
2:  MONITOR 0x34c0
    movl 0x34c0, %eax
    cmpl 0x3480, %eax
    je 3f
    xorl %ecx, %ecx
    MWAIT
    jmp 2b
3:  cmpl %edi, 0x34c0
    jne 1b
    SAY 'L'
    ret

port_out:                       /* value * 65536 + port */
    call argument
    movw %ax, %dx
    shrl $16, %eax
    outb %al, %dx
    ret
port_in:
    call argument
    movw %ax, %dx
    xorl %eax, %eax
    inb %dx, %al
    xorl %ebx, %ebx
    jmp result

undefined:                      /* of an instruction of three bytes */
    pushw %bp
    movw %sp, %bp
    addw $3, 2(%bp)
    popw %bp
    pushal
    SAY 'u'
    popal
    iret

HANDLER timer, 'T'
HANDLER low, 'l'
HANDLER high, 'h'
HANDLER ipi, 'i'
HANDLER woken, 'w'
HANDLER shadow, 'I'

silent:
    pushal
    EOI
    popal
    iret

in_service:
    pushal
    SAY 'a'
    HOLD 0x502
    SAY 'b'
    EOI
    popal
    iret

nmi:
    pushal
    SAY 'n'
    HOLD 0x503
    SAY 'm'
    popal
    iret

    .org irqchip_image + 0xfff0
    ljmp $0xf000, $OFF(bsp)
    .org irqchip_image + 0x10000
irqchip_image_end:
    .code64
    .section .note.GNU-stack, "", @progbits
