/*
 * Benchmark guest: a 64 KiB image at the reset vector, so that Tandem, QEMU (-bios) and Bochs (romimage) all run the
 * very same bytes with no firmware. Goes to long mode, then runs each workload between two marks on port 0xe9:
 * a letter when it begins, a '.' when it ends. The host times the marks. Ends through isa-debug-exit (0xf4) and Bochs' port 0x8900.
 */
#define BASE   0xf0000
#define AT(l)  ((l) - image + BASE)
#define OFF(l) ((l) - image)
#define PML4   0x10000

.macro MARK c
    movb $\c, %al
    outb %al, $0xe9
.endm

    .text
    .code16
image:
    cli
    xorw %ax, %ax
    movw %ax, %ss
    lgdtl %cs:OFF(gdt_pointer)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $AT(enter32)

    .code32
enter32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $PML4, %edi
    movl $0xc00, %ecx
    xorl %eax, %eax
    cld
    rep stosl
    movl $PML4 + 0x1003, PML4
    movl $PML4 + 0x2003, PML4 + 0x1000
    movl $PML4 + 0x2000, %edi
    movl $0x83, %eax
    movl $512, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl %cr4, %eax
    orl $0x220, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000002, %eax
    andl $~4, %eax
    movl %eax, %cr0
    ljmp $0x18, $AT(enter64)

    .code64
enter64:
    movq $0x7000, %rsp
    /* The code itself runs from RAM at 1 MiB, as guests' code does. */
    leaq workloads(%rip), %rsi
    movl $0x100000, %edi
    movl $workloads_end - workloads, %ecx
    rep movsb
    movl $0x100000, %eax
    jmp *%rax

    .balign 16
workloads:
    MARK 'a' /* ALU: 12 instructions an iteration */
    movl $30000000, %ecx
    movq $0x9e3779b97f4a7c15, %rdx
    xorl %eax, %eax
1:  addq %rdx, %rax
    movq %rax, %rbx
    shrq $13, %rbx
    xorq %rbx, %rax
    leaq 3(%rax,%rbx,4), %rsi
    andq $0x7fff, %rbx
    subq %rsi, %rdx
    rolq $5, %rdx
    orq $1, %rdx
    addq %rbx, %rax
    decl %ecx
    jnz 1b
    MARK '.'
    MARK 'b' /* branches on data: 9 or 10 an iteration */
    movl $35000000, %ecx
    movl $12345, %eax
1:  imull $1103515245, %eax, %eax
    addl $12345, %eax
    testl $0x10000, %eax
    jz 2f
    addl $7, %ebx
    jmp 3f
2:  subl $3, %ebx
    nop
3:  cmpl $100, %ebx
    cmovgl %ecx, %ebx
    decl %ecx
    jnz 1b
    MARK '.'
    MARK 'm' /* memory: loads and stores over 64 KiB, 8 an iteration */
    movl $40000000, %ecx
    movl $0x200000, %esi
    xorl %edi, %edi
1:  movq (%rsi,%rdi), %rax
    addq 8(%rsi,%rdi), %rax
    movq %rax, 16(%rsi,%rdi)
    addl %eax, 24(%rsi,%rdi)
    addl $40, %edi
    andl $0xfff8, %edi
    decl %ecx
    jnz 1b
    MARK '.'
    MARK 'c' /* calls, pushes and pops: 11 an iteration */
    movl $25000000, %ecx
1:  call 2f
    decl %ecx
    jnz 1b
    jmp 3f
2:  pushq %rbx
    pushq %rax
    movl %ecx, %eax
    leal 1(%rax), %ebx
    addl %ebx, %eax
    popq %rax
    popq %rbx
    ret
3:  MARK '.'
    MARK 'd' /* multiply and divide: 8 an iteration */
    movl $15000000, %ecx
    movl $7, %esi
1:  movl %ecx, %eax
    imulq %rcx, %rax
    xorl %edx, %edx
    divl %esi
    addl %edx, %esi
    orl $1, %esi
    decl %ecx
    jnz 1b
    MARK '.'
    MARK 's' /* strings: rep movsq and stosb over 4 KiB */
    movl $100000, %ebx
1:  movl $0x200000, %esi
    movl $0x210000, %edi
    movl $512, %ecx
    rep movsq
    movl $0x210000, %edi
    movl $4096, %ecx
    rep stosb
    decl %ebx
    jnz 1b
    MARK '.'
    MARK 'f' /* SSE2 doubles: 7 an iteration */
    movl $15000000, %ecx
    movl $3, %eax
    cvtsi2sd %eax, %xmm1
    movl $1, %eax
    cvtsi2sd %eax, %xmm0
1:  movapd %xmm0, %xmm2
    addsd %xmm1, %xmm0
    mulsd %xmm2, %xmm2
    divsd %xmm1, %xmm2
    addsd %xmm2, %xmm1
    decl %ecx
    jnz 1b
    MARK '.'
    MARK 'z'
    movb $0, %al
    outb %al, $0xf4
    movw $0x8900, %dx
    leaq shutdown(%rip), %rsi
    movl $8, %ecx
    rep outsb
1:  hlt
    jmp 1b
shutdown:
    .ascii "Shutdown"
workloads_end:

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long AT(gdt)

    .org image + 0xfff0
    .code16
    ljmpw $0xf000, $OFF(image)
    .org image + 0x10000
