/*
 * A guest of 64 KiB at the reset vector that uses what a KVM without hardware behind it does not have: x87, SSE,
 * POPCNT, CMPXCHG16B, RDTSCP, INT n and IRET in protected and long mode, paging outside long mode. It names each
 * part at port 0xe9 when that has given the right result, and ends through isa-debug-exit at 0xf4: 0 is well.
 */
#define BASE   0xf0000
#define AT(l)  ((l) - image + BASE)
#define OFF(l) ((l) - image)
#define COUNT  0x500  /* interrupts handled */
#define CELL   0x520  /* 16 bytes to work on */
#define PD     0x8000
#define PML4   0x9000 /* and the two pages above */
#define IDT    0x1000
#define STACK  0x7000
#define VECTOR 0x30

/* Out of the image: through CS in real mode, whose segments are too short else. */
.macro SAY16 text
    movw $OFF(4f), %si
1:  movb %cs:(%si), %al
    incw %si
    outb %al, $0xe9
    cmpb $10, %al
    jne 1b
    jmp 5f
4:  .ascii "\text\n"
5:
.endm
.macro SAY text
    movl $AT(4f), %esi
1:  movb (%esi), %al
    incl %esi
    outb %al, $0xe9
    cmpb $10, %al
    jne 1b
    jmp 5f
4:  .ascii "\text\n"
5:
.endm

/* 1 + 2 * 2 in x87 comes out as 5. */
.macro X87
    fninit
    fld1
    fld %st
    fadd %st, %st
    fmul %st, %st
    faddp
    fistpl CELL
    cmpl $5, CELL
    jne failed
.endm

    .text
    .code16
image:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    movl $0, COUNT
    fninit
    fld1
    fld %st
    faddp
    fistps CELL
    cmpw $2, CELL
    jne failed16
    SAY16 "real-x87"
    /* Gates: zeros but for VECTOR. */
    movw $IDT, %di
    movw $0x1000, %cx
    xorb %al, %al
    rep stosb
    movw $AT(count32) & 0xffff, IDT + VECTOR * 8
    movw $0x08, IDT + VECTOR * 8 + 2
    movw $0x8e00, IDT + VECTOR * 8 + 4
    movw $AT(count32) >> 16, IDT + VECTOR * 8 + 6
    lgdtl %cs:OFF(gdt_pointer)
    lidtl %cs:OFF(idt_pointer)
    movl %cr0, %eax
    orb $0x23, %al /* PE, MP, NE */
    andb $0xfb, %al
    movl %eax, %cr0
    ljmpl $0x08, $AT(enter32)
failed16:
    movb $1, %al
    outb %al, $0xf4
    jmp failed16

    .code32
enter32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    movl %cr4, %eax
    orl $0x610, %eax /* OSXMMEXCPT, OSFXSR, PSE */
    movl %eax, %cr4
    X87
    SAY "protected-x87"
    movl $3, %eax
    cvtsi2sd %eax, %xmm0
    mulsd %xmm0, %xmm0
    cvttsd2si %xmm0, %eax
    cmpl $9, %eax
    jne failed
    SAY "protected-sse"
    int $VECTOR
    int $VECTOR
    cmpl $2, COUNT
    jne failed
    SAY "protected-int-iret"
    popcntl COUNT, %eax
    cmpl $1, %eax
    jne failed
    SAY "protected-popcnt"

    /* 4 MiB page by page onto itself, and again at 0x40000000. */
    movl $PD, %edi
    movl $1024, %ecx
    xorl %eax, %eax
    rep stosl
    movl $0x83, PD
    movl $0x83, PD + 0x400
    movl $PD, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    jmp 1f
1:  movl $0x12345678, 0x40000000 + CELL
    cmpl $0x12345678, CELL
    jne failed
    int $VECTOR
    cmpl $3, COUNT
    jne failed
    X87
    SAY "paging32"
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0

    movl $PML4, %edi
    movl $0xc00, %ecx
    xorl %eax, %eax
    rep stosl
    movl $PML4 + 0x1003, PML4
    movl $PML4 + 0x2003, PML4 + 0x1000
    movl $0x83, PML4 + 0x2000
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $AT(count64) & 0xffff | 0x180000, IDT + VECTOR * 16
    movl $AT(count64) & 0xffff0000 | 0x8e00, IDT + VECTOR * 16 + 4
    movl $0, IDT + VECTOR * 16 + 8
    movl $0, IDT + VECTOR * 16 + 12
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x18, $AT(enter64)

count32:
    incl COUNT
    iret

    .code64
count64:
    incl COUNT
    iretq

enter64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq $STACK, %rsp
    int $VECTOR
    cmpl $4, COUNT
    jne failed
    SAY "long-int-iret"
    X87
    SAY "long-x87"
    movq $7, CELL
    movq $9, CELL + 8
    movl $7, %eax
    movl $9, %edx
    movl $1, %ebx
    movl $2, %ecx
    lock cmpxchg16b CELL
    jne failed
    cmpq $1, CELL
    jne failed
    cmpq $2, CELL + 8
    jne failed
    SAY "long-cmpxchg16b"
    popcntq CELL, %rax
    cmpl $1, %eax
    jne failed
    SAY "long-popcnt"
    movl $0x80000001, %eax
    cpuid
    testl $1 << 27, %edx
    jz 1f
    xorl %ecx, %ecx
    rdtscp
    testl %ecx, %ecx /* IA32_TSC_AUX, which nobody wrote */
    jnz failed
1:  SAY "long-rdtscp"
    movdqu CELL, %xmm1
    paddq %xmm1, %xmm1
    movq %xmm1, %rax
    cmpq $2, %rax
    jne failed
    SAY "long-sse"
    /* Many of them: the rescue has to give up on going back for each. */
    movl $2000, %ebp
    fninit
    fldz
1:  fld1
    faddp
    decl %ebp
    jnz 1b
    fistpl CELL
    cmpl $2000, CELL
    jne failed
    SAY "long-x87-loop"
    xorl %eax, %eax
    outb %al, $0xf4
1:  hlt
    jmp 1b

    /* Of 32- and 64-bit code: the bytes are the same. */
failed:
    movb $1, %al
    outb %al, $0xf4
1:  hlt
    jmp 1b

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08: code, 32 bits, flat */
    .quad 0x00cf93000000ffff /* 10: data, flat */
    .quad 0x00af9b000000ffff /* 18: code, 64 bits */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long AT(gdt)
idt_pointer:
    .word (VECTOR + 1) * 16 - 1
    .long IDT

    .org image + 0xfff0
    .code16
    ljmpw $0xf000, $OFF(image)
    .org image + 0x10000
    .section .note.GNU-stack, "", @progbits
