/*
 * Contract programs: each must end the same in every engine, and when the engine is changed after every
 * instruction. Loaded at 0x1000 (flat), stack at 0x7000, data at 0x8000; they end with OUT to port 0xf4.
 * Only instructions that the weakest KVM we know executes; more stands in the tests of single instructions.
 * Results lie in registers and memory: the test compares all of both.
 */
#define DATA 0x8000

.macro PROGRAM name, bits
    .section .rodata
    .code\bits
    .balign 16
    .globl program_\name, program_\name\()_end
    .hidden program_\name, program_\name\()_end
program_\name:
.endm
.macro END name
    movb $1, %al
    outb %al, $0xf4
1:  jmp 1b
program_\name\()_end:
.endm

/* Arithmetic, shifts, stack, strings, branches: the same text in three modes. */
.macro WORK
    movl $0x12345678, %eax
    movl $0x9abcdef0, %ebx
    addl %ebx, %eax
    adcl $0x7f, %ebx
    sbbw %ax, %bx
    pushf
    negl %ebx
    notl %eax
    imull $17, %eax, %ecx
    mull %ecx
    movl $7, %ebx
    xorl %edx, %edx
    divl %ebx
    roll $3, %eax
    rcrl $5, %edx
    shldl $4, %eax, %edx
    shrdl %cl, %eax, %edx
    sarw $2, %ax
    bsfl %eax, %esi
    bsrl %eax, %edi
    btsl $9, %eax
    btrl $3, %eax
    btcl $31, %eax
    movl %eax, DATA
    movb %ah, DATA+4
    xchgl %ebx, DATA+8
    xaddl %ebx, DATA
    cmpxchgl %ecx, DATA
    incw DATA+16
    decb DATA+18
    cmpl %eax, %ebx
    setae %cl
    setl %ch
    cmovgl %edx, %eax
    movzbl %ah, %edx
    movsbl %al, %ebp
    movswl %ax, %ebp
    bswapl %ebx
    cwtl
    cltd
    call 2f
    movl $DATA, %esi
    movl $DATA + 0x100, %edi
    movl $24, %ecx
    cld
    rep movsb
    movl $DATA + 0x200, %edi
    movl $9, %ecx
    rep stosl
    movl $DATA, %esi
    movl $DATA + 0x100, %edi
    movl $24, %ecx
    repe cmpsb
    std
    lodsw
    cld
    movb $0x5a, %al
    movl $5, %ecx
1:  outb %al, $0xe9
    addb %cl, %al
    loop 1b
    inb $0xe8, %al
    movl $0x11223344, DATA + 0x30
    popf
    jmp 3f
2:  lahf
    xorb $0x41, %ah
    sahf
    stc
    cmc
    ret
3:
.endm

PROGRAM real, 16
    WORK
    /* Software interrupt and IRET through the vector table. */
    movw $(handler - program_real + 0x1000), 0x21 * 4
    movw $0, 0x21 * 4 + 2
    int $0x21
    pushw %ds
    movw $0x100, %cx
    movw %cx, %ds
    movb 0x7000, %bl
    popw %ds
    lcallw $0, $(far - program_real + 0x1000)
    jmp 4f
handler:
    movl %esp, DATA + 0x300
    iretw
far:
    movl $0xfa5, DATA + 0x304
    lretw
4:
END real

PROGRAM prot, 32
    WORK
    pushal
    popal
    pushl $8
    popl %ebx
    enter $16, $0
    leave
    lcall $8, $(1f - program_prot + 0x1000)
    jmp 2f
1:  movl %esp, DATA + 0x300
    lret
2:  movl %cr0, %ecx
    sgdtl DATA + 0x310
    smsw %ax
END prot

PROGRAM long, 64
    WORK
    movabsq $0x123456789abcdef0, %r8
    leaq 5(%r8,%r8,2), %r9
    imulq %r9, %r8
    movq %r8, %rax
    mulq %r9
    movq %rdx, %r10
    xorl %edx, %edx
    movl $0xffffffff, %r11d
    divq %r11
    pushq %r8
    popq %r12
    movslq %r8d, %r13
    xchgq %r13, DATA + 0x40
    lock xaddq %r12, DATA + 0x40
    lock btsq $5, DATA + 0x48
    movq %cr3, %r14
    movq %cr4, %r15
    leaq 1f(%rip), %rcx
    jmp *%rcx
    ud2
1:  movl $0xc0000080, %ecx
    rdmsr
    sgdt DATA + 0x310
END long

    .section .note.GNU-stack, "", @progbits
